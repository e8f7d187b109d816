"""The models that a run has left in its folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import xarray as xr
from numpy.typing import NDArray

import memlib.runs.store as store
from memlib.checks import check_range, check_whole
from memlib.device import choose_device, own_settings
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment
from memlib.runs.store import StoreError
from memlib.runs.task import PARAMETER


@own_settings()
def full_model(result: xr.Dataset, device: str | None = None) -> Ensemble:
    """The model trained on all images behind a result of `run`, an ensemble of one in evaluation mode."""
    request = store.training_part(json.loads(result.request))
    arrays, _ = store.read(store.member_path(Path(result.folder), None), request)
    state = {name.removeprefix(PARAMETER): a for name, a in arrays.items() if name.startswith(PARAMETER)}
    return _ensemble(result, state, device)


@own_settings()
def fold_models(result: xr.Dataset, repeat: int, device: str | None = None) -> Ensemble:
    """The K models of a repeat of a result of `run` after the last epoch, in the order of their folds.

    Raises:
        ValueError: another result, or no such repeat.
        StoreError: the models were deleted, or their file is damaged.
    """
    request = json.loads(result.attrs["request"])
    if "folder" not in result.attrs or "cross_fit_version" in request:
        raise ValueError("the result has no models of memlib's own; allowed: one that memlib.run returned")
    check_whole(0, repeat=repeat)
    check_range(0, result.sizes["repeat"] - 1, repeat=repeat)
    path = store.epoch_path(Path(result.folder) / "models", repeat, request["epochs"])
    if not path.exists():
        raise StoreError(f"{path} is not there any more; allowed: a result of which the models are kept")
    arrays, _ = store.read(path, store.training_part(request))
    return _ensemble(result, arrays, device)


def _ensemble(result: xr.Dataset, state: Mapping[str, NDArray], device: str | None) -> Ensemble:
    names = {f.name for f in dataclasses.fields(Experiment)} - {"images"}
    experiment = Experiment(**{n: value for n, value in json.loads(result.request).items() if n in names})
    template = experiment.build(result.sizes["channel"])
    return Ensemble.from_state(template, dict(state), choose_device(device)).train(False)
