"""The score of any model: trained once per repeat and fold by a function of yours, or trained elsewhere."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.psis import khat_thresholds
from memlib.runs.model_scores import Arrays, Model, Place, check_alike, computed, named
from memlib.runs.progress import progress_bar
from memlib.runs.store import Record, StoreError
from memlib.runs.train_source import settings_fields, source_sha256
from memlib.runs.worker import WAIT_SECONDS, say_waiting

VERSION = 1  # to be raised whenever the same request gives other numbers
HEALTH = ("ess", "khat", "num_samples")
_SOURCE = "train_source_sha256"


def cross_fit(
    train: Callable[[ImageSet, int], Model],
    images: ImageSet,
    folds: int = 5,
    repeats: int = 4,
    seed: int = 0,
    folder: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Train models of your own, each without one fold of the images, and score all images under each.

    Folds are assigned as by `memlib.run`: every repeat has new ones, the same for the same seed. With a
    folder, every model's log-probabilities are kept in a file of their own as soon as it is trained. Called
    again after an interruption, or with more repeats, only models that are missing are trained; processes
    that call it at the same time share the work. Models themselves are not kept.

    Args:
        train: called as `train(images, seed)` with the images to train on and a seed of this model, in
            0..2^31 - 1; returns the model, see `Model`. Both get an `ImageSet`, so that models may use
            labels: pixels, uint8 (n, C, H, W), are in `.images`. A `memlib.LatentModel` is scored with noise
            that follows from `seed` and the repeat, the same for all models of a repeat, which therefore
            need the same type of device and batch size; `num_samples` is the same for all models.
        images: all images, of any height and width, at least as many as folds.
        folds: K, models per repeat, 2 or more.
        repeats: L, 1 or more.
        seed: of the folds, the seeds of the models and the noise of `LatentModel`, 0 or more.
        folder: a new one, or one with results of the same request; None keeps nothing.
        settings: what else determines a model, JSON values by name, part of the request: values that `train`
            reads from elsewhere, versions of libraries. Results also depend on arguments bound by
            `functools.partial`, which have to be JSON values, and on a hash of the source of `train` and of
            the JSON values that it captures from enclosing functions, which it should not change. That hash
            does not see other captured objects, globals, base classes, functions that `train` calls, or
            attributes of objects: what matters of them belongs into the settings. With a folder, a function
            without source, as of a compiled module, needs settings.
        progress: show a progress bar, of models.

    Returns:
        As `memlib.run`: `log_px` (epoch, repeat, fold, observation), nats, and `fold_of` (repeat,
        observation), with one epoch, 0; where all models are `LatentModel`s also `ess`, `khat`, `num_samples`
        and `failing`, see `memlib.runs.store.assemble`.

    Raises:
        ValueError: an argument that is not as above; a model without `log_prob`; log-probabilities that are
            NaN, +inf, of 16 bits, or of another shape or type; `LatentModel`s whose noise cannot be the same,
            or with different `num_samples`. Minus infinity is allowed: probability zero.
        StoreError: files in the folder are damaged, answer another request, or were computed by a function
            `train` with another source.
    """
    if not callable(train):
        raise ValueError(f"train is a {type(train).__name__}; allowed: a function of images and a seed")
    plan = _plan(images, folds, repeats, seed)
    request = _request(images, plan) | settings_fields(train, settings)
    facts = {_SOURCE: source_sha256(train)}
    if folder is not None and not facts[_SOURCE] and not settings:
        raise ValueError(
            f"settings is {settings!r}, and train has no source that later calls could be compared with; "
            "allowed: settings that tell versions of train apart, or folder=None"
        )
    n = len(images)
    fold_of = np.stack([fold_assignment(n, folds, plan.stream(Stream.FOLDS, r)) for r in range(repeats)])
    seeds = [plan.stream(Stream.PARAMETERS, r).integers(2**31, size=folds).tolist() for r in range(repeats)]

    def fitted(place: Place) -> Model:
        repeat, fold = place
        own = seeds[repeat][fold]
        try:
            return train(images.subset(np.flatnonzero(fold_of[repeat] != fold)), own)
        except Exception as error:
            error.add_note(f"raised by train(images, seed={own}) for {named(place)}")
            raise

    places = [(repeat, fold) for repeat in range(repeats) for fold in range(folds)]
    if folder is None:
        scored = _scored_in_turn(places, fitted, images, plan, facts, progress)
        return _assembled(scored, fold_of, images, request)
    folder = store.results_root(folder).resolve()

    def stored(place: Place) -> tuple[Arrays, Record]:
        """A file, of this request, source and folds."""
        path, (repeat, fold) = _path(folder, place), place
        arrays, run = _read(path, request, facts)
        row = fold_assignment(n, folds, plan.stream(Stream.FOLDS, repeat))
        if not np.array_equal(arrays["held_out"], np.flatnonzero(row == fold)):
            raise StoreError(f"{path} has other folds than this version of NumPy draws; use another folder")
        return arrays, run

    runs = {place: stored(place)[1] for place in _stored_places(folder)}
    missing = [place for place in places if not _path(folder, place).exists()]

    def compute(place: Place) -> None:
        arrays, run = computed(place, fitted, images, plan, facts)
        for other in [(place[0], fold) for fold in range(folds)]:  # some may be of other processes
            if other not in runs and _path(folder, other).exists():
                runs[other] = stored(other)[1]
        check_alike(place, run, runs)
        arrays["held_out"] = np.flatnonzero(fold_of[place[0]] == place[1])
        store.write(_path(folder, place), arrays, {"request": request, "run": run})
        runs[place] = run

    if missing:
        title = f"{images.name}, {len(missing)} of {len(places)} models"
        with progress_bar(len(missing), title, enabled=progress) as bar:
            _work_through(missing, folder, compute, bar.update)
    scored = {}
    for place in places:
        scored[place] = stored(place)
        check_alike(place, scored[place][1], {other: run for other, (_, run) in scored.items()})
    return _assembled(scored, fold_of, images, request, folder)


def score_models(
    models: Sequence[Sequence[Model]] | Callable[[int, int], Model],
    fold_of: ArrayLike,
    images: ImageSet,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Score images under models that are trained already, each without one fold of the images.

    Args:
        models: K models for each of L repeats, `models[repeat][fold]` being the one trained without `fold`;
            or a function that loads it, called as `models(repeat, fold)`, so that one is in memory at a time.
            See `Model`.
        fold_of: the fold of every image in every repeat, integers 0..K-1, (L, n); no fold is empty.
        images: all n images.
        seed: of the noise of `memlib.LatentModel`, 0 or more.
        progress: show a progress bar, of models.

    Returns:
        As `cross_fit`.

    Raises:
        ValueError: as `cross_fit`, or models and folds that do not fit.
    """
    try:
        fold_of = np.asarray(fold_of)
    except ValueError as error:
        raise ValueError(
            f"fold_of is no array ({error}); allowed: integers (L, n), repeats and images"
        ) from error
    if fold_of.dtype.kind not in "iu" or fold_of.ndim != 2 or not fold_of.size:
        raise ValueError(
            f"fold_of is {fold_of.dtype} {fold_of.shape}; allowed: integers (L, n), repeats and images"
        )
    fold_of = fold_of.astype(np.int64)
    L, K = len(fold_of), int(fold_of.max()) + 1
    plan = _plan(images, K, L, seed)
    if fold_of.shape[1] != len(images):
        raise ValueError(f"fold_of is of {fold_of.shape[1]} images; allowed: the {len(images)} given")
    if odd := [l for l, row in enumerate(fold_of) if set(row.tolist()) != set(range(K))]:
        raise ValueError(
            f"fold_of of repeat {odd[0]} has not all folds 0..{K - 1}, or others; allowed: these"
        )
    load = models if callable(models) else _rows(models, K, L)

    def loaded(place: Place) -> Model:
        try:
            return load(*place)
        except Exception as error:
            error.add_note(f"raised by models({place[0]}, {place[1]})")
            raise

    scored = _scored_in_turn(list(np.ndindex(L, K)), loaded, images, plan, {}, progress)
    request = _request(images, plan) | {"fold_of_sha256": hashlib.sha256(fold_of.tobytes()).hexdigest()}
    if not any("device" in run for _, run in scored.values()):
        del request["seed"]  # nothing was drawn
    return _assembled(scored, fold_of, images, request)


def _rows(models: Sequence[Sequence[Model]], folds: int, repeats: int) -> Callable[[int, int], Model]:
    """Lists of models as a function of repeat and fold."""
    if not isinstance(models, Iterable) or not hasattr(models, "__getitem__"):
        kind = type(models).__name__
        raise ValueError(f"models is a {kind}; allowed: {repeats} lists of {folds} models, or a function")
    counts = [len(row) if isinstance(row, Sized) else type(row).__name__ for row in models]
    if counts != [folds] * repeats:
        allowed = [folds] * repeats
        raise ValueError(f"models are {counts} by repeat; allowed: {allowed}, as fold_of has folds")
    return lambda repeat, fold: models[repeat][fold]


def _plan(images: ImageSet, folds: int, repeats: int, seed: int) -> Experiment:
    """The three numbers as those of an experiment, which checks them and has their random streams."""
    if not isinstance(images, ImageSet):
        kind = type(images).__name__
        raise ValueError(f"images is a {kind}; allowed: an ImageSet, as load_images or ImageSet.of gives")
    plan = Experiment(folds=folds, repeats=repeats, seed=seed)
    if len(images) < folds:
        raise ValueError(f"folds is {folds}; allowed: at most the number of images, {len(images)}")
    return plan


def _request(images: ImageSet, plan: Experiment) -> Record:
    """What determines the log-probabilities of a model, but for the function that trains it."""
    places = hashlib.sha256(images.labels.tobytes() + images.index.tobytes()).hexdigest()
    return {
        "images": images.name.partition(":")[0],
        "train_sha256": images.sha256,
        "labels_and_index_sha256": places,
        "folds": plan.folds,
        "seed": plan.seed,
        "version": VERSION,
    }


def _path(folder: Path, place: Place) -> Path:
    return folder / f"repeat-{place[0]:03d}-fold-{place[1]:02d}.npz"


def _stored_places(folder: Path) -> list[Place]:
    found = (re.fullmatch(r"repeat-(\d+)-fold-(\d+)\.npz", path.name) for path in folder.glob("*.npz"))
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def _work_through(
    missing: list[Place], folder: Path, compute: Callable[[Place], None], tick: Callable[[int], object]
) -> None:
    """Compute the models that no other process computes, until all are there."""
    told = False
    while missing:
        left = []
        for place in missing:
            path = _path(folder, place)
            with store.claim(path) as free:
                if free and not path.exists():
                    compute(place)
            if path.exists():
                tick(1)
            else:
                left.append(place)
        if left == missing:  # other processes compute them all
            if not told:
                say_waiting(_path(folder, left[0]))
            told = True
            time.sleep(WAIT_SECONDS)
        missing = left


def _scored_in_turn(
    places: Sequence[Place],
    model_of: Callable[[Place], Model],
    images: ImageSet,
    plan: Experiment,
    facts: Record,
    progress: bool,
) -> dict[Place, tuple[Arrays, Record]]:
    """All models, one after the other, in memory."""
    scored: dict[Place, tuple[Arrays, Record]] = {}
    with progress_bar(len(places), f"{images.name}, {len(places)} models", enabled=progress) as bar:
        for place in places:
            arrays, run = computed(place, model_of, images, plan, facts)
            check_alike(place, run, {other: before for other, (_, before) in scored.items()})
            scored[place] = arrays, run
            bar.update(1)
    return scored


def _read(path: Path, request: Record, facts: Record) -> tuple[Arrays, Record]:
    """A stored file; refuses one of another request, or computed by a function with another source."""
    arrays, record = store.read(path, request)
    then, now = record["run"].get(_SOURCE), facts[_SOURCE]
    if then and now and then != now:
        raise StoreError(
            f"{path} was computed by another function: the source of train, or what it captures, has "
            "changed; it is left as it is. Use another folder, or the function as it was"
        )
    return arrays, record["run"]


def _assembled(
    scored: Mapping[Place, tuple[Arrays, Record]],
    fold_of: NDArray[np.integer],
    images: ImageSet,
    request: Record,
    folder: Path | None = None,
) -> xr.Dataset:
    """The data set of all models, laid out as that of a run."""
    L, K = len(fold_of), len(scored) // len(fold_of)
    columns = {"log_px"}.union(HEALTH if all("ess" in arrays for arrays, _ in scored.values()) else ())
    every = {
        name: np.stack([arrays[name] for arrays, _ in scored.values()]).reshape(1, L, K, -1)
        for name in columns
    }  # (1, L, K, n)
    per_model, per_repeat = ("epoch", "repeat", "fold", "observation"), ("epoch", "repeat", "observation")
    variables = {"log_px": (per_model, every["log_px"], {"units": "nats"})}
    variables["fold_of"] = (("repeat", "observation"), fold_of)
    if "ess" in columns:
        limit = khat_thresholds(every["num_samples"])
        variables |= {
            "ess": (per_model, every["ess"]),
            "failing": (per_model[:3], (every["khat"] > limit).mean(-1)),
            "khat": (per_repeat, every["khat"].max(2)),
            "num_samples": (per_repeat, every["num_samples"].min(2)),
        }
    coords = {
        "epoch": [0],
        "repeat": np.arange(L),
        "fold": np.arange(K),
        "index": ("observation", images.index),
        "label": ("observation", images.labels),
    }
    runs = json.dumps([run for _, run in scored.values()])
    attrs = {"request": json.dumps(request), "runs": runs}
    return xr.Dataset(variables, coords, attrs | ({"folder": str(folder)} if folder else {}))
