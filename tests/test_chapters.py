"""Real chapters under Papermill: parameters that work, and parameters that must fail before any training."""

import math
from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from memlib.chapter import read_records

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def execute(chapter, tmp_path, **parameters):
    target = tmp_path / "out.ipynb"
    source = ROOT / "book" / f"{chapter}.ipynb"
    options = {"cwd": str(ROOT), "progress_bar": False, "kernel_name": "python3"}
    papermill.execute_notebook(str(source), str(target), parameters, **options)
    return read_records(target)


@pytest.mark.parametrize(
    ("chapter", "parameters", "message"),
    [
        ("index", {"experiment": "mnist-lr5"}, "unknown experiment 'mnist-lr5' (did you mean mnist-lr"),
        ("01-the-score", {"points": -1}, "points is -1; allowed: 10 or more"),
        ("02-data-and-models", {"epochs": -2}, "epochs is -2; allowed: 1 or more"),
        ("03-importance-sampling", {"replicates": 0}, "replicates is 0; allowed: 2 or more"),
        ("04-memorized", {"folds": 1}, "folds is 1; allowed: 3 or more"),
        ("05-training", {"epoch": 2}, "unknown parameter 'epoch' (did you mean epochs?); allowed: experi"),
        ("06-outliers", {"epochs": "two"}, "epochs is 'two' (str); allowed: int"),
        ("07-neighbors", {"num_images": 5000}, "num_images is 5000 and folds is 3; digits has 1500 train"),
        ("08-cost", {"patience": -1}, "patience is -1; allowed: 0 or more"),
        ("13-uncertainty", {"rate": 1.0}, "rate is 1.0; allowed: between 0 and 1"),
        ("14-how-many", {"repeats": 3}, "repeats is 3; allowed: 4 or more"),
        ("15-planted", {"ordinary": 5000}, "originals are asked for; allowed: at most the 1500 images given"),
        ("09-precision", {"folds": 1}, "folds is 1; allowed: 2 or more"),
    ],
)
def test_bad_parameters_fail_at_once_and_are_named(tmp_path, results, chapter, parameters, message):
    with pytest.raises(PapermillExecutionError) as error:
        execute(chapter, tmp_path, **parameters)
    assert message in error.value.evalue
    assert not results.exists(), "nothing was trained"


def test_a_chapter_runs_with_other_parameters(tmp_path):
    """Few images, and a single repeat, which leaves scores without standard errors."""
    records = execute("04-memorized", tmp_path, epochs=2, num_images=20, repeats=1)
    assert records["n"] == 20 and records["models"] == 3 and math.isnan(records["gap_se"])
    assert records["lowest"] <= records["median"] <= records["q95"] <= records["highest"]


@pytest.mark.parametrize("chapter", ["04-memorized", "05-training", "06-outliers", "07-neighbors"])
def test_a_page_of_real_mnist_executes(tmp_path, mnist_root, monkeypatch, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(mnist_root))
    assert execute(chapter, tmp_path, experiment="mnist-lr3", num_images=60, repeats=2)
