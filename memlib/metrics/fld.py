"""Feature likelihood divergence: how likely generated images make held-out ones, beside training images."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from memlib.checks import Floats, check_whole
from memlib.device import own_settings
from memlib.metrics.neighbors import batches, feature_matrices

MOST = 10_000  # generated images that are used; of more, so many are drawn
RATE, EPOCHS, BATCH = 0.5, 50, 10_000  # of Adam: learning rate, passes, training images of one step
START = 1e-3  # added to the squared distance that the first variance comes from
AWAY = 0.9  # of its distance from the mean, at which the fit finds a training image from its own Gaussian
LOWEST, HIGHEST = -40, 20  # log variance
IN_CACHE = 64  # so much smaller parts than those of other searches are fast, as they stay in the cache


class FLD(NamedTuple):
    """The divergence and its parts."""

    fld: float  # 0 where generated images are as good as training images, up to noise; higher is worse
    gap: float  # that of training images less `fld`; far below 0 where the generator copies
    baseline: float  # nats per feature, negative log-likelihood of held-out images by training images


@own_settings()
def fld(training: ArrayLike, held_out: ArrayLike, generated: ArrayLike, seed: int = 0) -> FLD:
    r"""Feature likelihood divergence of generated images, with its generalization gap.

    Each generated image is the center of a Gaussian with a variance of its own,

    $$p_\sigma(x) = \frac{1}{m} \sum_j N(x; g_j, \sigma_j^2 I), \quad
      \hat\sigma = \arg\max_\sigma \sum_{x \in training} \log p_\sigma(x)$$

    and held-out images are to be likely by it,

    $$\mathrm{FLD} = -\frac{100}{d} \overline{\log p_{\hat\sigma}(x)} - C$$

    where C is the same of Gaussians around min(m, l // 2) training images, fitted to the others. The gap is
    that of training images less that of held-out ones. A Gaussian around a copy shrinks onto the training
    image, and makes neither held-out images nor other training images likely any more.

    The fit is the published one, 50 passes of Adam, and stops short of variances of 0: of nothing but copies
    the numbers are huge, and their size says no more. Few copies among other images hardly change FLD, since
    the others stand in for them, but show in the gap. In the fit alone, one more Gaussian with a variance of
    its own, at 0.9 times its distance from the mean, accounts for each training image that is out of reach of
    the others. Features are standardized by the held-out images.

    Args:
        training: (l, d), what the model was trained on, l at least 2. Memory is 8 l m bytes.
        held_out: (n, d), drawn like them; no feature is the same in all.
        generated: (m, d); of more than 10000, so many are drawn.
        seed: of that draw, of C's halves and of the batches of more than 10000 training images; 0 or more.

    Returns:
        FLD and gap in hundredths of a nat per feature. FLD depends on m: compare equal numbers of images.
        Images that are less spread than real ones get less than 0, since their Gaussians add spread.

    Raises:
        ValueError: shapes, values or seed not as above.

    Source: Jiralerspong et al. (2023), the definition; their code for the fit and its constants.
    """
    check_whole(0, seed=seed)
    rng = np.random.default_rng(seed)
    training, held_out, generated = _standardized(training, held_out, generated)
    training, centers = rng.permutation(training), rng.permutation(generated)[:MOST]
    half = min(len(centers), len(training) // 2)
    of_images, of_training = _fitted(centers, training), _fitted(training[:half], training[half:])
    seen, unseen = (_loss(x, centers, of_images) for x in (training, held_out))
    baseline = _loss(held_out, training[:half], of_training)
    return FLD(100 * (unseen - baseline), 100 * (seen - unseen), baseline)


def _standardized(training: ArrayLike, held_out: ArrayLike, generated: ArrayLike) -> list[NDArray]:
    """All in float64, with the held-out images' means at 0 and their standard deviations 1."""
    sets = {"training": training, "held_out": held_out, "generated": generated}
    sets = dict(zip(sets, (x.astype(np.float64) for x in feature_matrices(**sets)), strict=True))
    if (l := len(sets["training"])) < 2:
        raise ValueError(f"training is {l} image; allowed: 2 or more, to be split")
    center, spread = sets["held_out"].mean(axis=0), np.ptp(sets["held_out"], axis=0)
    if same := (spread == 0).sum():
        given = f"{same} of {len(spread)} features are the same in all of held_out"
        raise ValueError(f"{given}; allowed: features that vary, such as x[:, np.ptp(held_out, axis=0) > 0]")
    # in two steps, or squares leave the range
    spread *= ((sets["held_out"] - center) / spread).std(axis=0, ddof=1)
    return feature_matrices(**{f"standardized {name}": (x - center) / spread for name, x in sets.items()})


def _fitted(centers: Floats, x: Floats) -> Tensor:
    """Log variances, (m,), of the Gaussians around the centers, (m, d), that make x, (n, d), likely."""
    (n, d), m = x.shape, len(centers)
    squares = np.empty((m + 1, n))  # last those of the images' own Gaussian
    cdist(centers, x, "sqeuclidean", out=squares[:m])
    squares[m] = ((AWAY * (x - x.mean(axis=0))) ** 2).sum(axis=1)
    start = np.append(np.log((squares[:m].min(axis=1) + START) / d), 0.0)
    log_variance = torch.from_numpy(start)  # (m + 1,)
    log_weight = torch.tensor([-math.log(m)] * m + [0.0], dtype=torch.float64)
    adam = torch.optim.Adam([log_variance], RATE)
    for step in [slice(i, i + BATCH) for i in range(0, n, BATCH)] * EPOCHS:
        batch = torch.from_numpy(squares[:, step])
        log_variance.grad = torch.zeros_like(log_variance)
        for part in batches(batch.shape[1], IN_CACHE * (m + 1)):
            # d log p / d log_variance = share * (half - d / 2), which takes half the time of backward()
            half = batch[:, part] / (2 * log_variance.exp()[:, None])  # (m + 1, B)
            share = (_scale(log_variance, log_weight, d) - half).softmax(dim=0)
            log_variance.grad -= (share * (half - d / 2)).sum(dim=1) / (batch.shape[1] * d)
        adam.step()
        log_variance[:m].clamp_(LOWEST, HIGHEST)
    return log_variance[:m]


def _loss(x: Floats, centers: Floats, log_variance: Tensor) -> float:
    """Negative log-likelihood of x, (n, d), in nats per image and feature."""
    (n, d), m = x.shape, len(centers)
    log_weight = torch.full((m,), -math.log(m), dtype=torch.float64)
    total = 0.0
    for part in batches(n, IN_CACHE * m):
        squares = torch.from_numpy(cdist(centers, x[part], "sqeuclidean"))
        total -= float(_log_px(squares, log_variance, log_weight, d).sum())
    return total / (n * d)


def _log_px(squares: Tensor, log_variance: Tensor, log_weight: Tensor, d: int) -> Tensor:
    """Log density, (B,), of images at these squared distances, (m, B), from the centers of Gaussians."""
    half = squares / (2 * log_variance.exp()[:, None])
    return (_scale(log_variance, log_weight, d) - half).logsumexp(dim=0)


def _scale(log_variance: Tensor, log_weight: Tensor, d: int) -> Tensor:
    """Log density of the weighted Gaussians at their centers, (m, 1)."""
    return (log_weight - d / 2 * (log_variance + math.log(2 * math.pi)))[:, None]
