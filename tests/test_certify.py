"""A run's estimates of log p(x) against bounds."""

import pytest
import torch

from memlib.experiment import variant
from memlib.runs import certify as module
from memlib.runs.certify import certify
from memlib.runs.run import run
from memlib.runs.store import StoreError

SMALL = variant(
    "digits-lr3",
    **{"num_images": 60, "epochs": 20, "score_every": 20, "batch_size": 8, "folds": 3, "repeats": 1},
    **{"num_samples": 64, "proposal": "encoder"},
)
IMAGES = SMALL.load_images()
QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SMALL, root=tmp_path_factory.mktemp("certified"), **QUIET)


def test_bounds_meet_and_the_fitted_proposal_is_between(result):
    options = {"count": 4, "chains": 6, "temperatures": 20} | QUIET
    bounds = certify(result, IMAGES, **options)
    assert dict(bounds.log_px.sizes) == {"estimator": 2, "kind": 3, "fold": 3, "image": 4}
    simulated = bounds.sel(kind="simulated")
    assert abs((simulated.upper - simulated.lower).mean()) < 0.5
    assert bounds.upper.sel(kind=["held out", "seen"]).isnull().all()
    assert (abs(bounds.error.sel(estimator="fitted").mean(("fold", "image"))) < 0.5).all()
    few = {"count": 2, "chains": 2, "temperatures": 2} | QUIET
    assert certify(result, IMAGES, **few).identical(certify(result, IMAGES, **few))


def test_models_see_the_images_that_the_kinds_name(result, monkeypatch):
    """Both rows of training images are the same, of the right folds, and shown to different models."""
    shown = []

    def stand_in(model, y, *_):
        shown.append(y.sum(-1))
        pixels = y.sum(-1)
        return {"lower": pixels, "upper": pixels, "log_px": pixels.expand(2, 1, -1), "accepted": pixels}

    monkeypatch.setattr(module, "_bounded", stand_in)
    bounds = certify(result, IMAGES, count=7, **QUIET)
    held, seen = (bounds.sel(kind=kind) for kind in ("held out", "seen"))
    assert (held.lower == seen.lower).all() and (held["index"] == seen["index"]).all()
    places = {index: place for place, index in enumerate(IMAGES.index)}
    for k in range(3):
        assert {int(result.fold_of[0, places[i]]) for i in held["index"].values[k]} == {k}
    _, there, again = (torch.cat(shown[k : k + 3]) for k in (0, 3, 6))  # of three models each
    assert (there == again.roll(-1, 0)).all() and (there != again).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 21}, "count is 21; allowed: 1 to 20"),
        ({"chains": 0}, "chains is 0; allowed: a whole number, 1 or more"),
        ({"temperatures": 2.5}, "temperatures is 2.5; allowed: a whole number, 1 or more"),
        ({"repeat": 1}, "repeat is 1; allowed: 0 to 0"),
        ({"images": IMAGES.subset(range(5))}, "others than the result's 60"),
    ],
)
def test_bad_settings_are_refused(result, change, message):
    with pytest.raises(ValueError, match=message):
        certify(result, **{"images": IMAGES} | QUIET | change)


def test_deleted_models_are_named(result, tmp_path):
    with pytest.raises(StoreError, match="is not there any more; allowed: a result of which the models are"):
        certify(result.assign_attrs(folder=str(tmp_path)), IMAGES, **QUIET)
