"""What a trained model says about images: its log-probabilities, checked, and how they came about."""

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from memlib.data import ImageSet
from memlib.experiment import Experiment, Stream
from memlib.runs.latent_model import LatentModel
from memlib.runs.store import Record

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


def named(place: Place) -> str:
    """A model by its place, for messages."""
    return f"the model of repeat {place[0]}, fold {place[1]}"


def computed(
    place: Place,
    model_of: Callable[[Place], Model],
    images: ImageSet,
    plan: Experiment,
    facts: Record,
) -> tuple[Arrays, Record]:
    """A model's log-probabilities, (n,) each, with their health if it has any, and how they came about."""
    started = time.perf_counter()
    model = model_of(place)
    noise_of: Record = {}
    if not callable(getattr(model, "log_prob", None)):
        kind = type(model).__name__
        raise ValueError(f"{named(place)} is a {kind}; allowed: an object with a method log_prob(images)")
    try:
        own = getattr(model.log_prob, "__func__", None)
        if isinstance(model, LatentModel) and own is LatentModel.log_prob:
            noise = int(plan.stream(Stream.SCORING_NOISE, place[0]).integers(2**63))
            scored = model.estimate(images, noise)
            arrays = {name: column.numpy() for name, column in scored._asdict().items()}
            values = model.device.type, model.batch_size, model.num_samples
            noise_of = dict(zip(_NOISE, values, strict=True))
        else:
            arrays = {"log_px": model.log_prob(images)}
    except Exception as error:
        error.add_note(f"raised by log_prob(images) of {named(place)}")
        raise
    arrays["log_px"] = _checked_log_px(arrays["log_px"], len(images), place)
    run = {
        "images": images.name,
        "seconds": round(time.perf_counter() - started, 2),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "memlib": importlib.metadata.version("memlib"),
        "torch": str(torch.__version__),
    }
    return arrays, run | noise_of | facts


def _checked_log_px(values: ArrayLike, n: int, place: Place) -> NDArray[np.float64]:
    """What a model returned as float64 (n,)."""
    given = values if isinstance(values, torch.Tensor) else np.asarray(values)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    values = np.asarray(values)
    what = f"log_prob of {named(place)} returned"
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


def check_alike(place: Place, run: Record, others: Mapping[Place, Record]) -> None:
    """Refuse a model whose noise cannot be that of its repeat, or with another number of samples."""
    for other, before in others.items():
        for field in _NOISE if other[0] == place[0] else ("num_samples",):
            if field in run and field in before and run[field] != before[field]:
                scope = "all models" if field == "num_samples" else "all models of a repeat"
                raise ValueError(
                    f"{field} of {named(place)} is {run[field]!r}, and of {named(other)} it is "
                    f"{before[field]!r}; allowed: the same for {scope}"
                )
