"""The score of any model: trained once per repeat and fold by a function of yours, or trained elsewhere."""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

import memlib.runs.store as store
from memlib.checks import Ints, as_array, check_unmasked
from memlib.data import ImageSet
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.runs.executors import progress_bar
from memlib.runs.latent_model import LatentModel
from memlib.runs.store import Record, StoreError
from memlib.runs.task import run_facts, stored_scores
from memlib.runs.worker import Report, claimed, work_through

VERSION = 4  # to be raised whenever the same request gives other numbers
_PLACES = "labels_and_index_sha256"  # in a request
_ALIKE = ("num_samples", "proposal")  # of all `LatentModel`s; those of a repeat share their noise, too:
_NOISE = ("device", "batch_size", *_ALIKE)

Arrays = dict[str, NDArray]
Place = tuple[int, int]  # a model's repeat and fold


class Model(Protocol):
    """What can be scored.

    `log_prob` gets n images and returns log p(x) of each, (n,), in nats, as a NumPy array or PyTorch tensor
    on any device, of 32-bit floating point or more. It is called once, with all images, and has to divide
    them into batches if need be.
    """

    def log_prob(self, images: ImageSet) -> ArrayLike: ...


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
            labels: pixels, uint8 (n, C, H, W), are in `.images`. It runs with PyTorch's default type,
            default device and grad mode as they are, and so does a `log_prob` of yours. A
            `memlib.LatentModel` is scored with memlib's, and noise that follows from `seed` and the repeat,
            the same for all models of a repeat, which therefore need the same type of device and batch size;
            `num_samples` is the same for all models.
        images: all images, of any height and width, at least as many as folds.
        folds: K, models per repeat, 2 or more.
        repeats: L, 1 or more.
        seed: of the folds, the seeds of the models and the noise of `LatentModel`, 0 or more.
        folder: a new one, or one with results of the same request; None keeps nothing.
        settings: with a folder, what `train` is: JSON values by name, at least one, which tell this way of
            training from any other, such as `{"model": "mixture of 8", "version": 2}`. They are part of the
            request. `train` itself is not looked at: who changes it, or what it reads (a global or captured
            array, a default, a class, a file), changes the settings, or gets what is stored of the former.
        progress: show a progress bar, of models.

    Returns:
        As `memlib.run`: `log_px` (epoch, repeat, fold, observation), nats, and `fold_of` (repeat,
        observation), with one epoch, 0; where all models are `LatentModel`s also `ess`, `khat`, `num_samples`
        and `failing`, see `memlib.stored`.

    Raises:
        ValueError: an argument that is not as above; a model without `log_prob`; log-probabilities that are
            NaN, +inf, of 16 bits, or of another shape or type; `LatentModel`s whose noise cannot be the same,
            or with different `num_samples`. Minus infinity is allowed: probability zero.
        StoreError: files in the folder are damaged, or answer another request.
        WriteError: as `memlib.run`.
    """
    if not callable(train):
        raise ValueError(f"train is a {type(train).__name__}; allowed: a function of images and a seed")
    plan = _plan(images, folds, repeats, seed)
    if folder is not None and not settings:
        raise ValueError(
            f"settings is {settings!r}; allowed with a folder: JSON values by name that tell this way of "
            'training from any other, such as {"model": "mixture of 8"}, or folder=None'
        )
    fold_of = np.stack([_folds(images, plan, repeat) for repeat in range(repeats)])
    seeds = [plan.stream(Stream.PARAMETERS, r).integers(2**31, size=folds).tolist() for r in range(repeats)]

    def fitted(repeat: int, fold: int) -> Model:
        own = seeds[repeat][fold]
        try:
            return train(images.subset(np.flatnonzero(fold_of[repeat] != fold)), own)
        except Exception as error:
            error.add_note(f"raised by train(images, seed={own}) for {_named((repeat, fold))}")
            raise

    request = _request(images, plan) | _settings(settings)
    place = None if folder is None else store.results_root(folder).resolve()
    return _Models(fitted, images, plan, fold_of, request, place).scored(progress)


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
    check_unmasked(fold_of=fold_of)
    try:
        fold_of = as_array("fold_of", fold_of)
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

    def loaded(repeat: int, fold: int) -> Model:
        try:
            return load(repeat, fold)
        except Exception as error:
            error.add_note(f"raised by models({repeat}, {fold})")
            raise

    request = _request(images, plan) | {"fold_of_sha256": hashlib.sha256(fold_of.tobytes()).hexdigest()}
    own = _Models(loaded, images, plan, fold_of, request)
    result = own.scored(progress)
    if not any("device" in run for _, run in own.done.values()):
        del request["seed"]  # nothing was drawn
    return result.assign_attrs(request=json.dumps(request))


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
    """What determines the log-probabilities of a model, but for how it is trained."""
    places = hashlib.sha256(images.labels.tobytes() + images.index.tobytes()).hexdigest()
    return {
        "images": images.name.partition(":")[0],
        "train_sha256": images.sha256,
        _PLACES: places,
        "folds": plan.folds,
        "seed": plan.seed,
        "cross_fit_version": VERSION,
    }


def _settings(settings: Mapping[str, Any] | None) -> Record:
    """Settings as fields of a request: as JSON texts, since 1 and True are equal and other settings."""
    try:
        named = {} if settings is None else dict(settings)
        texts = {key: json.dumps(value, allow_nan=False, sort_keys=True) for key, value in named.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings is {settings!r:.100} ({error}); allowed: JSON values by name") from error
    if odd := [key for key in named if not isinstance(key, str)]:
        raise ValueError(f"settings has the key {odd[0]!r:.100}; allowed: strings as keys")
    return {f"settings.{key}": text for key, text in texts.items()}


def _named(place: Place) -> str:
    """A model by its place, for messages."""
    return f"the model of repeat {place[0]}, fold {place[1]}"


def _folds(images: ImageSet, plan: Experiment, repeat: int) -> Ints:
    """The fold of every image in a repeat, (n,)."""
    return fold_assignment(len(images), plan.folds, plan.stream(Stream.FOLDS, repeat))


@dataclass
class _Models:
    """Models by repeat and fold, and what those that are done say of the images.

    Attributes:
        model_of: trains or loads the model of a repeat and fold.
        images: all images.
        plan: has the seeds of the noise.
        fold_of: of every image in every repeat, (L, n).
        request: what determines the log-probabilities.
        folder: where they are kept, if anywhere.
        done: what models say, (n,) each, with their health if they have any, and how that came about.
    """

    model_of: Callable[[int, int], Model]
    images: ImageSet
    plan: Experiment
    fold_of: Ints
    request: Record
    folder: Path | None = None
    done: dict[Place, tuple[Arrays, Record]] = dataclasses.field(default_factory=dict)

    def scored(self, progress: bool) -> xr.Dataset:
        """Score the images under all models that are not done; the result is laid out as that of a run."""
        self.read_new()
        places = list(np.ndindex(len(self.fold_of), self.plan.folds))
        missing = [[place] for place in places if place not in self.done]
        title = f"{self.images.name}, {len(missing)} of {len(places)} models"
        with progress_bar(len(missing), title, "models", enabled=progress and bool(missing)) as bar:
            work_through(
                missing,
                lambda left: [self.compute(place, bar.update) for [place] in left],
                self.path,
                lambda place: self.path(place).exists(),
            )
        self.read_new()
        for place in places:
            self.check_alike(place)
        return self.assembled(places)

    def path(self, place: Place) -> Path:
        return self.folder / f"repeat-{place[0]:03d}-fold-{place[1]:02d}.npz"

    def read_new(self) -> None:
        """Read what other processes have finished; refuse what is of another request, or of other folds."""
        for path in sorted(self.folder.glob("*.npz")) if self.folder else ():
            match = re.fullmatch(r"repeat-(\d+)-fold-(\d+)\.npz", path.name)
            if not match or (place := (int(match[1]), int(match[2]))) in self.done:
                continue
            now, then = self.request, store.read_record(path)["request"]
            if then != now and then | {_PLACES: now[_PLACES]} == now:
                raise StoreError(
                    f"{path} is of the same images with other labels or another index, which train may read; "
                    "allowed: cross_fit with those of then, whose result write_scores and explore take with "
                    "corrected ones, or another folder"
                )
            arrays, record = store.read(path, now)
            held_out = np.flatnonzero(_folds(self.images, self.plan, place[0]) == place[1])
            if not np.array_equal(arrays["held_out"], held_out):
                raise StoreError(
                    f"{path} has other folds than this version of NumPy draws; use another folder"
                )
            self.done[place] = arrays, record["run"]

    def compute(self, place: Place, tick: Callable[[int], object]) -> Report:
        """Score a model, and keep what it says, unless another process does."""
        if not self.folder:
            self.score(place)
            tick(1)
            return Report({}, [])
        with claimed({place: self.path(place)}, lambda place: self.path(place).exists()) as mine:
            if mine:
                arrays, run = self.score(place)
                held_out = np.flatnonzero(self.fold_of[place[0]] == place[1])
                record = {"request": self.request, "run": run}
                store.write(self.path(place), arrays | {"held_out": held_out}, record)
        there = self.path(place).exists()
        tick(there)
        return Report({}, [] if there else [place])

    def score(self, place: Place) -> tuple[Arrays, Record]:
        """What a model says, once it is known to share what it must with the others."""
        started = time.perf_counter()
        model, noise_of = self.model_of(*place), {}
        if not callable(getattr(model, "log_prob", None)):
            kind = type(model).__name__
            raise ValueError(
                f"{_named(place)} is a {kind}; allowed: an object with a method log_prob(images)"
            )
        try:
            own = getattr(model.log_prob, "__func__", None)
            if isinstance(model, LatentModel) and own is LatentModel.log_prob:
                noise = int(self.plan.stream(Stream.SCORING_NOISE, place[0]).integers(2**63))
                scored = model.estimate(self.images, noise)
                arrays = {name: column.numpy() for name, column in scored._asdict().items()}
                values = model.device.type, model.batch_size, model.num_samples, model.proposal
                noise_of = dict(zip(_NOISE, values, strict=True))
            else:
                arrays = {"log_px": model.log_prob(self.images)}
        except Exception as error:
            error.add_note(f"raised by log_prob(images) of {_named(place)}")
            raise
        arrays["log_px"] = _checked_log_px(arrays["log_px"], len(self.images), place)
        facts = run_facts(self.images, time.perf_counter() - started) | noise_of
        self.read_new()
        self.done[place] = arrays, facts
        self.check_alike(place)
        return arrays, facts

    def check_alike(self, place: Place) -> None:
        """Refuse a model whose noise cannot be that of its repeat, or with another number of samples."""
        run = self.done[place][1]
        for other, (_, before) in self.done.items():
            for field in _NOISE if other[0] == place[0] else _ALIKE:
                if field in run and field in before and run[field] != before[field]:
                    scope = "all models" if field in _ALIKE else "all models of a repeat"
                    raise ValueError(
                        f"{field} of {_named(place)} is {run[field]!r}, and of {_named(other)} it is "
                        f"{before[field]!r}; allowed: the same for {scope}"
                    )

    def assembled(self, places: Sequence[Place]) -> xr.Dataset:
        """The data set of all models, those of a repeat side by side."""
        every, runs = zip(*(self.done[place] for place in places), strict=True)
        names = ("log_px", "ess", "khat", "num_samples") if all("ess" in a for a in every) else ("log_px",)
        each = [every[i : i + self.plan.folds] for i in range(0, len(every), self.plan.folds)]
        repeats = [
            stored_scores({name: np.stack([a[name] for a in own])[:, None] for name in names}) for own in each
        ]
        result = store.assemble({0: repeats}, self.fold_of, self.images.index, self.images.labels)
        place = {"folder": str(self.folder)} if self.folder else {}
        return result.assign_attrs({"request": json.dumps(self.request), "runs": json.dumps(runs)} | place)


def _checked_log_px(values: ArrayLike, n: int, place: Place) -> NDArray[np.float64]:
    """What a model returned as float64 (n,)."""
    what = f"log_prob of {_named(place)} returned"
    given = values if isinstance(values, torch.Tensor) else np.asarray(values)
    values = as_array(f"what {what}", values)
    if values.dtype.kind not in "iuf" or values.shape != (n,):
        raise ValueError(f"{what} {values.dtype} {values.shape}; allowed: numbers ({n},), one per image")
    if values.dtype.kind == "f" and given.dtype.itemsize < 4:
        raise ValueError(f"{what} {given.dtype}; allowed: floating point of 32 bits or more")
    values = values.astype(np.float64)
    if len(bad := np.flatnonzero(np.isnan(values) | np.isposinf(values))):
        first = ", ".join(f"{values[i]} for image {i}" for i in bad[:3])
        raise ValueError(
            f"{what} NaN or +inf for {len(bad)} of {n} images ({first}); allowed: finite numbers and -inf"
        )
    return values
