"""What a chapter calls: parameters and records."""

import dataclasses
import json

import numpy as np
import papermill
import pytest
import xarray as xr
from tinybook import CHECK, PARAMETERS, notebook

from memlib import chapter
from memlib.experiment import variant


def history(injected: dict[str, object]) -> list[str]:
    """The input history of a kernel in which Papermill's own injected cell was run."""
    loaded = notebook(CHECK)
    loaded.metadata["papermill"] = {}
    prepared = papermill.parameterize.parameterize_notebook(loaded, injected)
    return ["", *(cell.source for cell in prepared.cells if cell.cell_type == "code")]


@pytest.mark.parametrize(
    "injected",
    [{}, {"epochs": 2}, {"rate": 1, "experiment": "two"}, {"rate": -2.5e-7}, {"rate": float("inf")}],
)
def test_declared_parameters_pass(monkeypatch, injected):
    monkeypatch.setattr(chapter, "_history", lambda: history(injected))
    chapter.check_parameters(epochs=2)


def test_parameters_below_their_minimum_are_named(monkeypatch):
    monkeypatch.setattr(chapter, "_history", lambda: history({"epochs": 1, "rate": float("nan")}))
    with pytest.raises(ValueError, match="this notebook: epochs is 1; allowed: 2 or more"):
        chapter.check_parameters(epochs=2)
    with pytest.raises(ValueError, match="this notebook: rate is nan; allowed: 0 or more"):
        chapter.check_parameters(rate=0)


@pytest.mark.parametrize("count", [-1, 0, 20])
def test_as_many_images_as_have_a_top_five_percent(count):
    chapter.check_values({"num_images": "int"}, {"num_images": count}, "here")
    for few in (1, 19):
        with pytest.raises(
            ValueError, match=f"here: num_images is {few}; allowed: 0 for all, or at least 20"
        ):
            chapter.check_values({"num_images": "int"}, {"num_images": few}, "here")


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        (
            {"epoch": 2},
            r"unknown parameter 'epoch' \(did you mean epochs\?\); allowed: experiment, epochs, rate",
        ),
        ({"epochs": "two"}, r"epochs is 'two' \(str\); allowed: int"),
        ({"epochs": 2.5}, r"epochs is 2.5 \(float\); allowed: int"),
        ({"epochs": True}, r"epochs is True \(bool\); allowed: int"),
        ({"epochs": None}, r"epochs is None \(NoneType\); allowed: int"),
        ({"rate": "1e-3"}, r"rate is '1e-3' \(str\); allowed: float"),
        ({"experiment": 3}, r"experiment is 3 \(int\); allowed: str"),
    ],
)
def test_other_parameters_are_refused(monkeypatch, injected, message):
    monkeypatch.setattr(chapter, "_history", lambda: history(injected))
    with pytest.raises(ValueError, match=message):
        chapter.check_parameters()


@pytest.mark.parametrize(
    "cells",
    [
        [],
        ["", "%matplotlib inline", CHECK],
        ["", PARAMETERS, CHECK, CHECK],
        # a page opened by hand: the injected cell was run, then the notebook's own again
        ["", PARAMETERS, "# Parameters\nepoch = 3\n", PARAMETERS, CHECK],
    ],
)
def test_check_is_silent_without_an_injected_cell(monkeypatch, cells):
    monkeypatch.setattr(chapter, "_history", lambda: cells)
    chapter.check_parameters()


def test_check_is_silent_outside_ipython():
    chapter.check_parameters()


def test_record_outside_ipython_takes_numbers_and_strings():
    assert chapter.record(median=4.4, name="digits") == {"median": 4.4, "name": "digits"}
    with pytest.raises(ValueError, match="values is a list; allowed: a number or a string"):
        chapter.record(values=[1])


def described(name, num_samples=4, ess=2.0, failing=0.0, khat=0.3, **fields):
    """The table of a run of two repeats, three folds and five images; given are numbers of its last epoch."""
    by_image, shape = ("epoch", "repeat", "fold", "observation"), (2, 2, 3, 5)
    sampled, by_repeat = np.ones((2, 2, 5), int), ("epoch", "repeat", "observation")
    health, weights = np.ones(shape[:3]), np.ones(shape)
    sampled[-1], health[-1], weights[-1] = num_samples, failing, ess
    variables = {"ess": (by_image, weights), "failing": (by_image[:3], health)}
    worst = np.full((2, 2, 5), np.inf)
    worst[-1] = khat
    variables |= {"num_samples": (by_repeat, sampled), "khat": (by_repeat, worst)}
    made = {
        "device": "cpu",
        "seconds": 2.5,
        "finished": "2026-01-02T03:04:05",
        "memlib": "1.2",
        "torch": "2.0+cpu",
    }
    request = json.dumps(dataclasses.asdict(variant(name, **fields)))
    runs = json.dumps([made, made | {"resumed": [3, 4], "finished": "2026-01-03T00:00:00"}])
    return chapter.describe(xr.Dataset(variables, attrs={"request": request, "runs": runs}))


def test_describe_says_how_images_were_scored():
    table = described("digits-lr3", num_samples=8, rescoring=1, noise="paper", score_every=3)
    assert list(table) == ["this page"]
    rows = table["this page"]
    assert rows["models (repeats x folds)"] == "2 x 3 = 6, and one of all images"
    assert rows["log p(x)"] == "every 3 epochs, 128 importance samples"
    assert rows["noise when scoring"] == "redrawn for each model"
    assert rows["effective sample size"] == "2.0 of 8 (median, last epoch)"
    assert rows["computed"] == "2026-01-03, in 5 s, resumed 2 times from a checkpoint"
    assert rows["versions"] == "memlib 1.2, torch 2.0"


def test_describe_says_what_was_rescored_and_with_which_noise():
    rows = described("digits-lr3", rescoring=4, num_samples=4, noise="paired")["this page"]
    assert rows["log p(x)"].endswith("importance samples, 512 where k-hat fails")
    assert rows["noise when scoring"] == "one for all models of a repeat"


def test_describe_gives_the_range_of_samples_and_the_share_of_bad_estimates():
    sampled = np.array([[4, 16, 4, 4, 4], [16, 4, 4, 4, 16]])
    ess = np.arange(30).reshape(2, 3, 5) / 10
    failing = np.array([[0.2, 0.4, 0.0], [0.6, 0.2, 0.4]])
    rows = described("digits-lr3", num_samples=sampled, ess=ess, failing=failing)["this page"]
    assert rows["effective sample size"] == "1.4 of 4 to 16 (median, last epoch)"
    assert rows["Pareto k-hat too high"] == "30% of all estimates (last epoch)"
    assert described("digits-lr3")["this page"]["Pareto k-hat too high"][:3] == "0% "
    unknown = described("digits-lr3", khat=np.inf, failing=1.0)["this page"]
    assert unknown["Pareto k-hat too high"] == "not known, too few samples"


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan")])
def test_shares_outside_of_0_to_1_are_refused(value):
    chapter.check_shares(level=0.9, rate=0.001)
    with pytest.raises(ValueError, match=f"this notebook: rate is {value}; allowed: between 0 and 1"):
        chapter.check_shares(level=0.9, rate=value)


def test_describe_sets_the_papers_way_of_scoring_beside_ours():
    table = described("mnist-lr3", rescoring=2, noise="paired", num_images=300)
    here, paper = table["this page"], table["paper"]
    assert here["noise when scoring"] == "one for all models of a repeat"
    assert paper["noise when scoring"] == "redrawn for each model"
    assert here["log p(x)"] == "every 5 epochs, 256 importance samples, 512 where k-hat fails"
    assert paper["log p(x)"] == "every 5 epochs, 256 importance samples"
    assert paper["training images"] == 60_000 and here["training images"] == 5
    assert paper["models (repeats x folds)"].startswith("10 x 10 = 100")
    assert paper["effective sample size"] == paper["Pareto k-hat too high"] == ""
