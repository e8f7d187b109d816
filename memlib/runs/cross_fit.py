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
from memlib.data import ImageSet
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.runs.executors import progress_bar
from memlib.runs.latent_model import LatentModel
from memlib.runs.store import Record, StoreError
from memlib.runs.task import run_facts, stored_scores
from memlib.runs.worker import Report, claimed, work_through

VERSION = 2  # to be raised whenever the same request gives other numbers
_NOISE = ("device", "batch_size", "num_samples")  # with the seed they determine the noise of a `LatentModel`

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
            labels: pixels, uint8 (n, C, H, W), are in `.images`. A `memlib.LatentModel` is scored with noise
            that follows from `seed` and the repeat, the same for all models of a repeat, which therefore
            need the same type of device and batch size; `num_samples` is the same for all models.
        images: all images, of any height and width, at least as many as folds.
        folds: K, models per repeat, 2 or more.
        repeats: L, 1 or more.
        seed: of the folds, the seeds of the models and the noise of `LatentModel`, 0 or more.
        folder: a new one, or one with results of the same request; None keeps nothing.
        settings: with a folder, what `train` is: JSON values by name, at least one, which tell this way of
            training from any other, such as `{"model": "mixture of 8", "version": 2}`. They are part of the
            request. `train` itself is not looked at: who changes it changes the settings.
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
    """
    if not callable(train):
        raise ValueError(f"train is a {type(train).__name__}; allowed: a function of images and a seed")
    plan = _plan(images, folds, repeats, seed)
    if folder is not None and not settings:
        raise ValueError(
            f"settings is {settings!r}; allowed with a folder: JSON values by name that tell this way of "
            'training from any other, such as {"model": "mixture of 8"}, or folder=None'
        )
    request = _request(images, plan) | _settings(settings)
    n = len(images)
    fold_of = np.stack([fold_assignment(n, folds, plan.stream(Stream.FOLDS, r)) for r in range(repeats)])
    seeds = [plan.stream(Stream.PARAMETERS, r).integers(2**31, size=folds).tolist() for r in range(repeats)]

    def fitted(place: Place) -> Model:
        repeat, fold = place
        own = seeds[repeat][fold]
        try:
            return train(images.subset(np.flatnonzero(fold_of[repeat] != fold)), own)
        except Exception as error:
            error.add_note(f"raised by train(images, seed={own}) for {_named(place)}")
            raise

    scoring = _Scoring(fitted, images, plan)
    if folder is None:
        return _assembled(scoring.in_turn(fold_of, progress), fold_of, images, request)
    folder = store.results_root(folder).resolve()

    def path_of(place: Place) -> Path:
        return folder / f"repeat-{place[0]:03d}-fold-{place[1]:02d}.npz"

    def stored(place: Place) -> tuple[Arrays, Record]:
        """A file, of this request and these folds."""
        path, (repeat, fold) = path_of(place), place
        arrays, record = store.read(path, request)
        row = fold_assignment(n, folds, plan.stream(Stream.FOLDS, repeat))
        if not np.array_equal(arrays["held_out"], np.flatnonzero(row == fold)):
            raise StoreError(f"{path} has other folds than this version of NumPy draws; use another folder")
        return arrays, record["run"]

    def read_new() -> None:
        """Let `scoring` know of the models that other processes have finished."""
        for path in sorted(folder.glob("*.npz")):
            match = re.fullmatch(r"repeat-(\d+)-fold-(\d+)\.npz", path.name)
            if match and (place := (int(match[1]), int(match[2]))) not in scoring.done:
                scoring.done[place] = stored(place)

    def compute(place: Place) -> Report:
        with claimed({place: path_of(place)}, lambda place: path_of(place).exists()) as mine:
            if mine:
                arrays, run = scoring(place, read_new)
                arrays = arrays | {"held_out": np.flatnonzero(fold_of[place[0]] == place[1])}
                store.write(path_of(place), arrays, {"request": request, "run": run})
        there = path_of(place).exists()
        bar.update(there)
        return Report({}, [] if there else [place])

    read_new()
    places = list(np.ndindex(repeats, folds))
    missing = [[place] for place in places if place not in scoring.done]
    title = f"{images.name}, {len(missing)} of {len(places)} models"
    with progress_bar(len(missing), title, "models", enabled=progress and bool(missing)) as bar:
        work_through(missing, lambda left: [compute(place) for [place] in left], path_of)
    read_new()
    for place in places:
        scoring.check_alike(place)
    return _assembled({p: scoring.done[p] for p in places}, fold_of, images, request, folder)


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

    scored = _Scoring(loaded, images, plan).in_turn(fold_of, progress)
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
    """What determines the log-probabilities of a model, but for how it is trained."""
    places = hashlib.sha256(images.labels.tobytes() + images.index.tobytes()).hexdigest()
    return {
        "images": images.name.partition(":")[0],
        "train_sha256": images.sha256,
        "labels_and_index_sha256": places,
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


@dataclass
class _Scoring:
    """Scores images under models, and remembers those that are done.

    Attributes:
        model_of: trains or loads a model.
        images: all images.
        plan: has the seeds of the noise.
        done: what models say, (n,) each, with their health if they have any, and how that came about.
    """

    model_of: Callable[[Place], Model]
    images: ImageSet
    plan: Experiment
    done: dict[Place, tuple[Arrays, Record]] = dataclasses.field(default_factory=dict)

    def in_turn(self, fold_of: NDArray[np.integer], progress: bool) -> dict[Place, tuple[Arrays, Record]]:
        """All models, one after the other."""
        places = list(np.ndindex(len(fold_of), self.plan.folds))
        title = f"{self.images.name}, {len(places)} models"
        with progress_bar(len(places), title, "models", enabled=progress) as bar:
            for place in places:
                self(place)
                bar.update(1)
        return self.done

    def __call__(
        self, place: Place, before_comparing: Callable[[], None] = lambda: None
    ) -> tuple[Arrays, Record]:
        started = time.perf_counter()
        model, noise_of = self.model_of(place), {}
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
                values = model.device.type, model.batch_size, model.num_samples
                noise_of = dict(zip(_NOISE, values, strict=True))
            else:
                arrays = {"log_px": model.log_prob(self.images)}
        except Exception as error:
            error.add_note(f"raised by log_prob(images) of {_named(place)}")
            raise
        arrays["log_px"] = _checked_log_px(arrays["log_px"], len(self.images), place)
        facts = run_facts(self.images, time.perf_counter() - started) | noise_of
        before_comparing()
        self.done[place] = arrays, facts
        try:
            self.check_alike(place)
        except ValueError:
            del self.done[place]
            raise
        return arrays, facts

    def check_alike(self, place: Place) -> None:
        """Refuse a model whose noise cannot be that of its repeat, or with another number of samples."""
        run = self.done[place][1]
        for other, (_, before) in self.done.items():
            for field in _NOISE if other[0] == place[0] else ("num_samples",):
                if field in run and field in before and run[field] != before[field]:
                    scope = "all models" if field == "num_samples" else "all models of a repeat"
                    raise ValueError(
                        f"{field} of {_named(place)} is {run[field]!r}, and of {_named(other)} it is "
                        f"{before[field]!r}; allowed: the same for {scope}"
                    )


def _checked_log_px(values: ArrayLike, n: int, place: Place) -> NDArray[np.float64]:
    """What a model returned as float64 (n,)."""
    given = values if isinstance(values, torch.Tensor) else np.asarray(values)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    values = np.asarray(values)
    what = f"log_prob of {_named(place)} returned"
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


def _assembled(
    scored: Mapping[Place, tuple[Arrays, Record]],
    fold_of: NDArray[np.integer],
    images: ImageSet,
    request: Record,
    folder: Path | None = None,
) -> xr.Dataset:
    """The data set of all models, laid out as that of a run."""
    L, K = len(fold_of), len(scored) // len(fold_of)
    every = [arrays for arrays, _ in scored.values()]
    names = ("log_px", "ess", "khat", "num_samples") if all("ess" in a for a in every) else ("log_px",)
    repeats = [
        stored_scores({name: np.stack([a[name] for a in every[l * K : (l + 1) * K]]) for name in names})
        for l in range(L)
    ]
    result = store.assemble({0: repeats}, fold_of, images.index, images.labels)
    runs = json.dumps([run for _, run in scored.values()])
    place = {"folder": str(folder)} if folder else {}
    return result.assign_attrs({"request": json.dumps(request), "runs": runs} | place)
