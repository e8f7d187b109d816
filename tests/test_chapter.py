"""What a chapter calls: parameters and records."""

import papermill
import pytest
from tinybook import CHECK, PARAMETERS, notebook

from memlib import chapter


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
