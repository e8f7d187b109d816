"""What a chapter calls: the check of its parameters, the table of what was run."""

import dataclasses
import json
from types import SimpleNamespace

import IPython
import numpy as np
import papermill
import pytest
import xarray as xr
from tinybook import CHECK, PARAMETERS, notebook

from memlib.chapters import notebook as chapter
from memlib.experiment import Experiment, variant


@pytest.fixture
def ran(monkeypatch):
    """Makes the test a kernel in which these cells were run."""

    def run(*cells: str) -> None:
        shell = SimpleNamespace(user_ns={"In": ["", *cells]})
        monkeypatch.setattr(IPython, "get_ipython", lambda: shell)

    return run


def injected(**given: object) -> list[str]:
    """The cells of a notebook that Papermill gives these parameters."""
    loaded = notebook(CHECK)
    loaded.metadata["papermill"] = {}
    prepared = papermill.parameterize.parameterize_notebook(loaded, given)
    return [cell.source for cell in prepared.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    "cells",
    [
        injected(epochs=2),
        injected(rate=1, experiment="two"),
        injected(rate=-2.5e-7),
        injected(rate=float("inf")),
        [PARAMETERS, CHECK],
        # a page opened by hand: the injected cell was run, then the notebook's own again
        [*injected(epoch=3), PARAMETERS, CHECK],
    ],
)
def test_declared_parameters_pass(ran, cells):
    ran("%matplotlib inline", *cells)
    chapter.check_parameters(epochs=2)


def test_without_a_history_annotations_tell_what_is_declared(monkeypatch):
    names = {"In": [""]}
    exec(PARAMETERS, names)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns=names))
    assert chapter.parameters() == ({"experiment": "one", "epochs": 4, "rate": 0.1}, {})


FIELDS = 'experiment: str = "mnist-lr3"  # name\nlearning_rate: float = 0.01  # a\nfolds: int = 3  # K'


def test_parameters_are_an_experiment(ran):
    ran(FIELDS, CHECK)
    assert chapter.chosen_experiment() == variant("mnist-lr3", folds=3, learning_rate=0.01)
    ran(FIELDS, "# Parameters\nexperiment = 'digits-lr4'\nlearning_rate = 0.5\n", CHECK)
    assert chapter.chosen_experiment() == variant("digits-lr4", folds=3, learning_rate=0.5)
    with pytest.raises(ValueError, match="folds is 1; allowed: 3 or more"):
        ran(FIELDS, "# Parameters\nfolds = 1\n", CHECK)
        chapter.chosen_experiment(folds=3)


def test_no_number_is_below_every_minimum(ran):
    ran(*injected(rate=float("nan")), "a cell in between")
    with pytest.raises(ValueError, match=r"^rate is nan; allowed: 0 or more"):
        chapter.check_parameters(epochs=2, rate=0)


def described(name, num_samples=4, ess=2.0, failing=0.0, khat=0.3, **fields):
    """The table of a run of two repeats, three folds and five images; given are numbers of its last epoch."""
    dims, sizes = ("epoch", "repeat", "fold", "observation"), (2, 2, 3, 5)
    by_repeat = ("epoch", "repeat", "observation")
    variables = {
        "ess": (dims, np.ones(sizes)),
        "failing": (dims[:3], np.ones(sizes[:3])),
        "num_samples": (by_repeat, np.ones((2, 2, 5), int)),
        "khat": (by_repeat, np.full((2, 2, 5), np.inf)),
    }
    last = {"ess": ess, "failing": failing, "num_samples": num_samples, "khat": khat}
    for variable, values in last.items():
        variables[variable][1][-1] = values
    made = {
        "device": "cpu",
        "seconds": 2.5,
        "images": "digits",
        "finished": "2026-01-02T03:04:05",
        "memlib": "1.2",
    }
    made |= {"torch": "2.0+cpu"}
    runs = [made, made | {"resumed": [3, 4], "finished": "2026-01-03T00:00:00"}]
    experiment = variant(name, **fields)
    if "epochs" not in fields:  # as many as are scored here
        experiment = dataclasses.replace(experiment, epochs=sizes[0] * experiment.score_every)
    request = dataclasses.asdict(experiment)
    attributes = {"request": json.dumps(request), "runs": json.dumps(runs), "folder": "/home/a/digits-a"}
    return chapter.describe(xr.Dataset(variables, attrs=attributes))


def test_describe_says_how_images_were_scored():
    table = described("digits-lr3", num_samples=8, noise="paper", score_every=3, folds=3)
    assert list(table) == ["this page"]
    rows = table["this page"]
    assert rows["training images"] == 5
    assert rows["models (repeats x folds)"] == "2 x 3 = 6, and one of all images"
    assert rows["log p(x)"] == "every 3 epochs, 128 importance samples, more where k-hat fails"
    assert rows["versions of an image"] == "1, redrawn for each model"
    assert rows["effective sample size"] == "2.0 of 8 (median, last epoch)"
    assert rows["computed"] == "2026-01-03, in 5 s, resumed 2 times from a checkpoint"
    assert rows["versions"] == "memlib 1.2, torch 2.0"


def test_describe_gives_the_range_of_samples_and_the_share_of_bad_estimates():
    sampled = np.array([[4, 16, 4, 4, 4], [16, 4, 4, 4, 16]])
    ess = np.arange(30).reshape(2, 3, 5) ** 2 / 100
    failing = np.array([[0.2, 0.4, 0.0], [0.6, 0.2, 0.4]])
    rows = described("digits-lr3", num_samples=sampled, ess=ess, failing=failing)["this page"]
    assert rows["effective sample size"] == "2.1 of 4 to 16 (median, last epoch)"
    assert rows["Pareto k-hat too high"] == "30% of all estimates (last epoch)"
    few = described("digits-lr3", epochs=100)["this page"]["log p(x)"]
    assert few.endswith("; here of epoch 0, 1 alone")
    unknown = described("digits-lr3", khat=np.inf, failing=1.0)["this page"]
    assert unknown["Pareto k-hat too high"] == "not known, too few samples"


def test_describe_sets_the_papers_way_of_scoring_beside_ours():
    table = described("mnist-lr3", noise="paired", num_images=300)
    here, paper = table["this page"], table["paper"]
    assert here["versions of an image"] == "1, the same for all models"
    assert paper["versions of an image"] == "1, redrawn for each model"
    assert here["log p(x)"] == "every 5 epochs, 256 importance samples, more where k-hat fails"
    assert paper["log p(x)"] == "every 5 epochs, 256 importance samples"
    assert paper["training images"] == 60_000 and here["training images"] == 5
    assert paper["models (repeats x folds)"].startswith("10 x 10 = 100")
    assert paper["effective sample size"] == paper["Pareto k-hat too high"] == ""


def test_describe_records_the_run(monkeypatch):
    stored = {}
    monkeypatch.setattr(chapter, "record", stored.update)
    described("digits-lr3", epochs=7)
    run = json.loads(stored[chapter.RUN])
    assert Experiment(**run["experiment"]) == variant("digits-lr3", epochs=7, repeats=2)
    assert run["folder"] == "digits-a"  # without its place, which is of one machine
