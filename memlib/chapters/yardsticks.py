"""Chapters 20 and 21: all yardsticks side by side, of several generators and of a perfect one.

Every function raises ValueError, naming the argument, for what its docstring does not allow,
as one of the yardsticks does.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from memlib.checks import as_array, check_one_of, check_range
from memlib.metrics import samples as metrics
from memlib.metrics.fid import frechet_distance, moments, rounding_error
from memlib.metrics.fld import FLD, fld
from memlib.metrics.mifid import memorization_distance, penalized_fid
from memlib.metrics.neighbors import feature_matrices, nearest

# what speaks against a generator: +1 a large value, -1 a small one
SIDES = {"FID": 1, "d": -1, "MiFID": 1, "offenders": 1, "C_T": -1, "AuthPct": -1, "rho > 1": 1}
SIDES |= dict.fromkeys(("precision", "recall", "density", "coverage"), -1)
SIDES |= {"FLD": 1, "FLD gap": -1, "Vendi": -1}
FEW = 1000  # generated images that FLD is taken of
TAIL = 0.01  # share of held-out images that are as close to a training image as an offender
DETECTORS = ("d", "offenders", "C_T", "AuthPct", "rho > 1", "FLD gap")  # of copies; others also of quality
AGAINST_HELD_OUT = ("offenders", "C_T", "rho > 1")  # these compare with held-out images


def yardsticks(
    generators: Mapping[str, ArrayLike], training: ArrayLike, held_out: ArrayLike, eps: float, cells: int = 3
) -> pd.DataFrame:
    """Every yardstick of every generator, against the same training and held-out images.

    Args:
        generators: name -> features (m, d) of its images, m > d.
        training: features (n, d), n > d.
        held_out: features (m, d) of images that no generator saw, as many as generated ones.
        eps: of MiFID, see `memlib.metrics.mifid.mifid`.
        cells: of the data-copying test.

    Returns:
        A row for each generator, a column for each of `SIDES`: `offenders`, the share of generated images
        closer to a training image, in cosine distance, than the 0.01 quantile of held-out images is;
        `AuthPct` in percent; `MiFID`, NaN where FID is below its rounding error; `rho > 1` as
        `memlib.metrics.samples.closer_share`; `FLD` and `FLD gap` as `few_fld`; `Vendi`, of the images whose
        features are not all 0.
    """
    check_range(1, generators=len(generators))
    return _measure(training, eps, cells)(generators, held_out)


def _measure(
    training: ArrayLike, eps: float, cells: int
) -> Callable[[Mapping[str, ArrayLike], ArrayLike], pd.DataFrame]:
    """The yardsticks of generators against held-out images; what training images say is computed once."""
    penalized_fid(0, 0, eps)  # refuses what is not allowed before anything is computed
    spacing = nearest(training, training, exclude_self=True)[0]
    normal, partition = moments(training), metrics.partitioned(training, cells)
    reach = {k: metrics.radii(training, k) for k in (3, 5)}

    def measure(generators: Mapping[str, ArrayLike], held_out: ArrayLike) -> pd.DataFrame:
        limit = np.quantile(memorization_distance(held_out, training).distances, TAIL)
        rows = {}
        for name, generated in generators.items():
            own, near = moments(generated, "generated"), memorization_distance(generated, training)
            fid, rounding = frechet_distance(own, normal), rounding_error(own, normal)
            row = {
                "FID": fid,
                "d": near.d,
                "MiFID": float(penalized_fid(fid, near.d, eps, rounding)),
                "offenders": (near.distances < limit).mean(),
                "C_T": metrics.data_copying(training, held_out, generated, partition).statistic,
                "AuthPct": 100 * metrics.authenticity(training, generated, spacing).mean(),
                "rho > 1": metrics.closer_share(training, held_out, generated),
                "Vendi": metrics.vendi(np.asarray(generated)[near.rows]),
            }
            row["FLD"], row["FLD gap"], _ = few_fld(training, held_out, generated)
            row["precision"], row["recall"] = metrics.precision_recall(training, generated, 3, reach[3])
            row["density"], row["coverage"] = metrics.density_coverage(training, generated, 5, reach[5])
            rows[name] = row
        table = pd.DataFrame.from_dict(rows, "index", columns=list(SIDES))
        table.attrs["images"] = len(np.asarray(held_out))
        return table

    return measure


def few_fld(training: ArrayLike, held_out: ArrayLike, generated: ArrayLike, seed: int = 0) -> FLD:
    """FLD of at most `FEW` generated images, with seconds of computing, in features that vary.

    Args:
        training, held_out, generated: as for `memlib.metrics.fld.fld`, but features may be the same in all of
            held_out, as those of dead units are; these are left out.
        seed: of that function, and of the generated images that are drawn.
    """
    check_range(0, seed=seed)
    training, held_out, generated = feature_matrices(
        training=training, held_out=held_out, generated=generated
    )
    varying = np.ptp(held_out, axis=0) > 0
    drawn = np.random.default_rng(seed).permutation(len(generated))[:FEW]
    return fld(training[:, varying], held_out[:, varying], generated[drawn][:, varying], seed)


def perfect_generator(
    pool: ArrayLike, training: ArrayLike, eps: float, splits: int = 19, seed: int = 0, cells: int = 3
) -> pd.DataFrame:
    r"""Yardsticks of images from the very distribution: random halves of held-out images, against the others.

    The rows are to spread around their mean as other samples of m images would. Yardsticks that compare the
    two halves with each other do so by themselves. Of the others, which look at one half, a mean over m
    images of a pool of 2m varies around that of the pool by $\sigma^2 / 2m$, where one over m new images
    varies by $\sigma^2 / m$, and the pool's own by $\sigma^2 / 2m$: three times as much in all, so their rows
    are stretched about the mean by the root of 3. Near its least value FID is no mean but a square, and
    spreads less than that: then it notices somewhat too rarely. So does FLD with its gap, which looks at both
    halves, but at each for itself.

    Args:
        pool: features of held-out images, (2m, d), m > d, with m as many as the images of the generators
            to be compared; of an odd number one is left out of each split.
        training, eps, cells: as for `yardsticks`.
        splits: rows, at least 2.
        seed: 0 or more.

    Returns:
        As `yardsticks`, a row for each split; stretched ones may lie outside of the range of the yardstick.
    """
    check_range(2, splits=splits)
    check_range(0, seed=seed)
    pool, measure = as_array("pool", pool), _measure(training, eps, cells)
    rng, m = np.random.default_rng(seed), len(pool) // 2
    orders = [rng.permutation(len(pool)) for _ in range(splits)]
    rows = [measure({"": pool[order[:m]]}, pool[order[m : 2 * m]]) for order in orders]
    table = pd.concat(rows, ignore_index=True)
    stretched = table.mean() + np.sqrt(3) * (table - table.mean())
    table = stretched.assign(**table[list(AGAINST_HELD_OUT)])
    table.attrs["images"] = m
    return table


def own_or_unseen(
    samples: ArrayLike,
    own: ArrayLike,
    unseen: ArrayLike,
    draws: int = 19,
    seed: int = 0,
    measure: Callable[[ArrayLike, ArrayLike], float] = lambda x, images: memorization_distance(x, images).d,
) -> pd.DataFrame:
    """Are samples closer to the images their model was trained on than to others that it has not seen?

    Both sets are drawn to one size, as a distance to more images is smaller. Where the model has not
    memorized, both distances are equal but for chance, however good or poor the samples are.

    Args:
        samples: features (m, d).
        own: features (n, d) of the training images.
        unseen: features (l, d) of images like them, l at least 2.
        draws: of sets of min(n, l // 2) images, without replacement; at least 1.
        seed: 0 or more.
        measure: of samples and a set of images; by default the memorization distance.

    Returns:
        A row for each draw: `own` and `unseen`, the measure of the samples and of either set.
    """
    own, unseen = as_array("own", own), as_array("unseen", unseen)
    check_range(1, draws=draws)
    check_range(0, seed=seed)
    check_range(2, **{"unseen images": len(unseen)})
    size, rng = min(len(own), len(unseen) // 2), np.random.default_rng(seed)

    def measured(images: ArrayLike) -> float:
        return measure(samples, images[rng.permutation(len(images))[:size]])

    return pd.DataFrame([{"own": measured(own), "unseen": measured(unseen)} for _ in range(draws)])


def closer_by(draws: pd.DataFrame, own: int, unseen: int) -> float:
    """By how many standard errors samples are closer to a model's own images than to unseen ones.

    The draws of one set overlap, so they differ by less than sets of other images would. Taking the measure
    for a mean over the images of a set, which it is about at best, the standard error follows from the spread
    of the draws and the numbers of images that they are from.

    Args:
        draws: what `own_or_unseen` returns, of at least two draws.
        own: number of training images, n.
        unseen: number of images that the model has not seen, l.
    """
    size, variance = min(own, unseen // 2), draws.var()
    per_image = size * variance["unseen"] / (1 - size / unseen)
    error = math.sqrt(per_image * (1 / own + 1 / unseen) + variance.sum() / len(draws))
    return float((draws["unseen"] - draws["own"]).mean() / error)


def by_image(training: ArrayLike, samples: ArrayLike, held_out: ArrayLike) -> pd.DataFrame:
    """What samples say of each training image.

    Args:
        training: features (n, d).
        samples: features (m, d) of the model's samples.
        held_out: features (m, d) of images that no model saw, as many: a minimum over more is smaller.

    Returns:
        A row for each training image: `count`, the samples that it is nearest to; `closeness`, the negative
        distance to the nearest sample; `rho`, the distance to the nearest held-out image over that to the
        nearest sample, inf at a copy. Distances are those of `mifid.memorization_distance`; NaN
        where all features of an image are 0, and where it is a copy of both a sample and a held-out image.
    """
    both = {"training": training, "samples": samples, "held_out": held_out}
    training, samples, held_out = (as_array(name, x) for name, x in both.items())
    if len(samples) != len(held_out):
        raise ValueError(f"samples are {len(samples)}, held_out {len(held_out)}; allowed: as many")
    count = np.bincount(memorization_distance(samples, training).neighbors, minlength=len(training))
    to_sample, to_held_out = (memorization_distance(training, other) for other in (samples, held_out))
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = to_held_out.distances / to_sample.distances
    own = pd.DataFrame({"closeness": -to_sample.distances, "rho": rho}, index=to_sample.rows)
    return pd.DataFrame({"count": count}).join(own)


def against(table: pd.DataFrame, perfect: pd.DataFrame) -> pd.DataFrame:
    """How much each yardstick speaks against a generator, in the unit of what chance does.

    Args:
        table: as from `yardsticks`.
        perfect: as from `perfect_generator`, of as many images.

    Returns:
        The shape of `table`: 0 at the mean of a perfect generator, 1 at the worst of its rows; not finite
        where all of these are equal.
    """
    sides = _sides(table, perfect)
    mean, worst = (perfect * sides).mean(), (perfect * sides).max()
    return (table * sides - mean) / (worst - mean)


def noticed(table: pd.DataFrame, perfect: pd.DataFrame) -> pd.DataFrame:
    """Where a yardstick speaks against a generator more than against all rows of a perfect one, bool.

    With s such rows each yardstick notices a perfect generator with probability about 1 / (s + 1). Arguments
    are those of `against`.
    """
    sides = _sides(table, perfect)
    return table * sides > (perfect * sides).max()


def _sides(table: pd.DataFrame, perfect: pd.DataFrame) -> pd.Series:
    ours, theirs = (t.attrs.get("images") for t in (table, perfect))
    check_one_of([theirs], **{"the number of the generators' images, which FID depends on,": ours})
    return pd.Series(SIDES)
