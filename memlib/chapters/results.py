"""The runs that results pages lay side by side: released, or trained and scored here (04 to 11, 17)."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from scipy.stats import rankdata

import memlib
from memlib.chapters import notebook, paper
from memlib.chapters.notebook import parameters, settings_rows
from memlib.checks import Floats, check_range
from memlib.data import ImageSet
from memlib.experiment import Experiment, variant
from memlib.runs.released import read_run

NOT_COMPARED = "not compared: CelebA's images may not be passed on, its model is shown on CIFAR-10"


@dataclasses.dataclass(frozen=True)
class Shown:
    """A run with log p(x) estimated in two ways.

    Attributes:
        name: in `memlib.EXPERIMENTS`, of the experiment that it is a run of, perhaps a smaller one.
        spec: what was run.
        paper: scored as the paper does: samples from the encoder, and another version of an image for every
            model, at all evaluated epochs.
        fitted: scored with fitted proposals and one version of an image for all models, at the last epoch, of
            `scored` images.
    """

    name: str
    spec: Experiment
    paper: xr.Dataset
    fitted: xr.Dataset

    @functools.cached_property
    def images(self) -> ImageSet:
        return self.spec.load_images()

    @functools.cached_property
    def scored(self) -> ImageSet:
        """The images of `fitted`, which may be fewer."""
        return self.images.subset(np.flatnonzero(np.isin(self.images.index, self.fitted.index.values)))

    @property
    def rate(self) -> str:
        """Its learning rate, as labels have it."""
        return f"rate {self.spec.learning_rate:g}"

    @property
    def replaces_celeba(self) -> bool:
        """Whether other images stand in the place of CelebA's, so that numbers are not compared."""
        reported = paper.REPORTED.get(self.name)
        return bool(reported) and reported.images == "celeba" != self.spec.images

    @property
    def lacks(self) -> str:
        """In what the run is smaller than the paper's; empty for nothing, or where the paper has none."""
        if self.name not in paper.REPORTED:
            return ""
        asked, sizes = paper.settings(self.name), self.paper.sizes
        L, K = asked["repeats"], asked["folds"]
        pairs = {"images": (sizes["observation"], paper.REPORTED[self.name].num_images)}
        if self.replaces_celeba:
            pairs = {}
        pairs |= {
            "models": (sizes["repeat"] * sizes["fold"], L * K),
            "epochs": (self.spec.epochs, asked["epochs"]),
            "importance samples": (self.spec.num_samples, asked["num_samples"]),
        }
        return ", ".join(f"{a:,} of {b:,} {what}" for what, (a, b) in pairs.items() if a < b)

    @property
    def words(self) -> str:
        """What was run, in a line."""
        sizes, lacks = self.paper.sizes, self.lacks
        n, L, K = (sizes[dim] for dim in ("observation", "repeat", "fold"))
        said = f"{self.spec.images}, {n:,} images, {L} x {K} models, {self.spec.epochs} epochs"
        return f"{said} ({lacks})" if lacks else f"{said}, S = {self.spec.num_samples}"


def shown_runs(rates: bool = False, **minimum: int) -> list[Shown]:
    """The runs that a notebook's parameters `experiment` and, where it has it, `other` name.

    With `released`, a folder, those that lie in it under these names, of the sizes that they have. Without,
    they are trained and scored at the sizes that the parameters give.

    Args:
        rates: whether the second has to be the first at a smaller learning rate.
        minimum: as for `check_parameters`; `repeats` holds for released runs, too.

    Raises:
        ValueError: what `check_parameters` refuses, sizes that are given with `released`, too few repeats, or
            another experiment than `rates` asks for.
        FileNotFoundError: no such released run.
    """
    declared, given = parameters(**minimum)
    values = declared | given
    names = [values[name] for name in ("experiment", "other") if name in values]
    if folder := values["released"]:
        if sized := sorted(given.keys() & {f.name for f in dataclasses.fields(Experiment)}):
            raise ValueError(
                f"{sized[0]} is given with released; allowed: neither, released runs have their own"
            )
        runs = [released_run(name, folder) for name in names]
        for run in runs:
            least = minimum.get("repeats", 1)
            check_range(least, **{f"repeats of the released run {run.name}": run.paper.sizes["repeat"]})
        specs = [run.spec for run in runs]
    else:
        sizes = {f.name: values[f.name] for f in dataclasses.fields(Experiment) if f.name in values}
        specs = [variant(name, **sizes) for name in names]
    if rates:
        one, two = (dataclasses.replace(spec, repeats=1) for spec in specs)
        smaller = two.learning_rate < one.learning_rate
        if not smaller or two != dataclasses.replace(one, learning_rate=two.learning_rate):
            raise ValueError(f"other is {names[1]}; allowed: {names[0]} at a smaller learning rate")
    if not folder:
        runs = [_trained(spec, name) for spec, name in zip(specs, names, strict=True)]
    if not rates:
        return runs
    # Of a run that was scored before, models of earlier epochs may be gone.
    common = np.intersect1d(*(run.paper.epoch for run in runs))
    return [dataclasses.replace(run, paper=run.paper.sel(epoch=common)) for run in runs]


def released_run(name: str, folder: str | Path) -> Shown:
    """The released run of an experiment's name in a folder; FileNotFoundError where there is none."""
    scored, fitted = (read_run(Path(folder) / name, way) for way in ("encoder", "fitted"))
    request = json.loads(scored.request)
    own = {f.name: request[f.name] for f in dataclasses.fields(Experiment) if f.name in request}
    run = Shown(name, Experiment(**own | {"repeats": scored.sizes["repeat"]}), scored, fitted)
    if run.images.sha256 != request["train_sha256"]:
        raise ValueError(f"the released run {name} is of other images than {run.images.name} here")
    return run


def _trained(spec: Experiment, name: str) -> Shown:
    # first at all epochs, whose models go when they are scored
    scored = memlib.run(dataclasses.replace(spec, proposal="encoder", noise="paper"))
    fitted = memlib.run(spec)
    return Shown(name, spec, scored, fitted.isel(epoch=[-1]))


def log_p(run: xr.Dataset) -> Floats:
    """Log p(x) of every image at the last epoch, averaged over all models, (n,), nats."""
    return run.log_px[-1].mean(("repeat", "fold")).values


def found(score: ArrayLike, gap: ArrayLike) -> float:
    """Share of the top 5 % by gap that is in the top 5 % by another score, both (n,); by chance 0.05."""
    return float((rankdata(score) > 0.95 * len(score))[memlib.highly_memorized(gap)].mean())


def run_table(runs: Sequence[Shown]) -> pd.DataFrame:
    """What was run, where, at which size, and the paper's settings of the same: a column each."""
    columns = {}
    for run in runs:
        facts = json.loads(run.paper.runs)
        label = f"{run.name}, here"
        columns[label] = settings_rows(
            json.loads(run.paper.request), len(run.images), run.paper.sizes["repeat"]
        )
        columns[label] |= {
            "products in": f"{run.spec.precision}, in scoring {run.spec.scoring_precision}",
            "images with fitted proposals": len(run.scored),
            "device": ", ".join(sorted({fact.get("device", "one CPU core") for fact in facts})),
            "computed": f"{max(fact['finished'] for fact in facts)[:10]}, in "
            f"{sum(fact['seconds'] for fact in facts) / 60:,.1f} minutes of one device",
        }
        if run.name in paper.REPORTED:
            asked = paper.settings(run.name)
            its = settings_rows(asked, paper.REPORTED[run.name].num_images, asked["repeats"])
            columns[f"{run.name}, paper"] = its
    return pd.DataFrame(columns).fillna("")


def claims(rows: Mapping[int, tuple[Shown, paper.Row]]) -> pd.DataFrame:
    """Set what the paper reports beside what came out, and record it for the table of all figures.

    Args:
        rows: by number of the paper's figure, the run that shows it, and `paper`, `here` and `verdict`, as
            `memlib.chapters.paper` gives them.
    """
    table, records = {}, {}
    for number, (run, said) in rows.items():
        row = dict(said)
        if run.replaces_celeba:
            row["verdict"] = NOT_COMPARED
        elif run.lacks:
            row["verdict"] = f"smaller run: {row['verdict']}"
        table[f"figure {number}"] = row
        records |= {f"figure_{number}_{key}": text for key, text in {"run": run.words, **row}.items()}
    notebook.record(**records)
    return pd.DataFrame(table).T
