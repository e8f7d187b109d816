"""The runs that results pages show, and how they are set beside the paper."""

import json

import numpy as np
import pytest
import xarray as xr

import memlib
from memlib.chapters import notebook, results
from memlib.chapters.results import Shown, claims
from memlib.experiment import variant

SAID = {"paper": "p", "here": "h", "verdict": "v"}


def shown(name: str, n: int, L: int, **changes) -> Shown:
    """As much of a run as comparisons read."""
    spec = variant(name, **changes)
    log_px = ("observation", "repeat", "fold"), np.zeros((n, L, spec.folds))
    scored = xr.Dataset(
        {"log_px": log_px}, coords={"epoch": [50, 100] if spec.learning_rate > 1e-4 else [100]}
    )
    return Shown(name, spec, scored, scored)


@pytest.mark.parametrize(
    ("run", "words", "verdict"),
    [
        (shown("mnist-lr3", 60_000, 10), "mnist, 60,000 images, 10 x 10 models, 100 epochs, S = 256", "v"),
        (
            shown("mnist-lr3", 6000, 2, folds=5, epochs=25, num_samples=64),
            "mnist, 6,000 images, 2 x 5 models, 25 epochs (6,000 of 60,000 images, 10 of 100 models, "
            "25 of 100 epochs, 64 of 256 importance samples)",
            "smaller run: v",
        ),
        (shown("digits-lr3", 100, 2), "digits, 100 images, 2 x 5 models, 100 epochs, S = 128", "v"),
        (
            shown("cifar10-as-celeba", 50_000, 10),
            "cifar10-partial, 50,000 images, 10 x 10 models, 50 epochs, S = 128",
            results.NOT_COMPARED,
        ),
    ],
)
def test_claims_name_what_a_run_lacks(monkeypatch, run, words, verdict):
    recorded = {}
    monkeypatch.setattr(notebook, "record", lambda **values: recorded.update(values))
    table = claims({7: (run, SAID)})
    assert recorded == {
        "figure_7_run": words,
        "figure_7_paper": "p",
        "figure_7_here": "h",
        "figure_7_verdict": verdict,
    }
    assert table.loc["figure 7"].to_dict() == SAID | {"verdict": verdict}


def test_a_released_run_is_of_the_images_it_was_computed_of(monkeypatch):
    images = memlib.load_images("digits")
    request = {"images": "digits", "train_sha256": images.sha256, "folds": 3, "learning_rate": 1e-3}
    scored = xr.Dataset(
        {"log_px": (("epoch", "repeat", "fold", "observation"), np.zeros((1, 2, 3, 4)))},
        coords={"index": ("observation", images.index[[3, 5, 8, 9]])},
        attrs={"request": json.dumps(request)},
    )
    monkeypatch.setattr(results, "read_run", lambda folder, way: scored)
    run = results.released_run("digits-lr3", "somewhere")
    assert run.spec == variant("digits-lr3", folds=3, repeats=2, learning_rate=1e-3)
    assert (run.scored.images == images.images[[3, 5, 8, 9]]).all()
    scored.attrs["request"] = json.dumps(request | {"train_sha256": "another"})
    with pytest.raises(ValueError, match="the released run digits-lr3 is of other images than digits here"):
        results.released_run("digits-lr3", "somewhere")


def test_released_runs_need_as_many_repeats_as_a_page_asks_for(monkeypatch):
    given = {"experiment": "digits-lr3", "other": "digits-lr4", "released": "somewhere"}
    monkeypatch.setattr(results, "parameters", lambda **minimum: (given, {}))
    monkeypatch.setattr(results, "released_run", lambda name, folder: shown(name, 20, 1))
    fast, slow = results.shown_runs(rates=True, folds=3)
    assert (fast.name, slow.name) == ("digits-lr3", "digits-lr4")
    assert fast.paper.epoch == slow.paper.epoch == [100]  # those that both have
    with pytest.raises(ValueError, match="repeats of the released run digits-lr3 is 1; allowed: 2 or more"):
        results.shown_runs(repeats=2)


def test_the_table_of_runs_has_what_was_run_beside_the_papers(monkeypatch):
    run = shown("mnist-lr3", 5, 2, folds=3, num_images=5)
    facts = {"images": "mnist", "seconds": 90.0, "finished": "2026-01-02T03:04:05"}  # as released runs have
    request = {**vars(run.spec), "noise": "paper", "proposal": "encoder"}
    run.paper.attrs |= {"runs": json.dumps([facts, facts]), "request": json.dumps(request)}
    monkeypatch.setattr(Shown, "images", range(5))
    monkeypatch.setattr(Shown, "scored", range(4))
    table = results.run_table([run])
    here, paper = table["mnist-lr3, here"], table["mnist-lr3, paper"]
    assert here["models (repeats x folds)"].startswith("2 x 3 = 6") and here["training images"] == 5
    assert here["computed"] == "2026-01-02, in 3.0 minutes of one device"
    assert here["device"] == "one CPU core" and here["images with fitted proposals"] == 4
    assert paper["training images"] == 60_000 and paper["device"] == ""
