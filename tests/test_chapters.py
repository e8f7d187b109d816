"""Real chapters: parameters that work under Papermill, and ones that must fail before any training."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from memlib.chapter import read_records

ROOT = Path(__file__).resolve().parents[1]
ANEW = """\
%reset -f
import os
import memlib
memlib.run = memlib.runs.run
os.environ.update({variables})
"""


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all chapters: to start it takes longer than most of them."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def execute(kernel, results):
    """Execute a chapter with parameters, as Papermill does but for the new kernel; what it records."""

    def records(chapter, data="", first="", **parameters):
        source = load_notebook_node(str(ROOT / "book" / f"{chapter}.ipynb"))
        notebook = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
        variables = {"MEMLIB_RESULTS": str(results), "MEMLIB_DATA": str(data)}
        notebook.cells.insert(0, nbformat.v4.new_code_cell(ANEW.format(variables=variables) + first))
        client = NotebookClient(notebook, km=kernel[0], timeout=300)
        client.kc = kernel[1]
        client.execute()
        path = results.parent / "out.ipynb"
        nbformat.write(notebook, path)
        return read_records(path)

    return records


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
        ("06-outliers", {"learning_rate": -1}, "learning_rate is -1.0; allowed: between 0 and 1"),
        ("07-neighbors", {"num_images": 5000}, "num_images is 5000 and folds is 3; digits has 1500 train"),
        ("08-cost", {"patience": -1}, "patience is -1; allowed: 0 or more"),
        ("13-uncertainty", {"rate": 1.0}, "rate is 1.0; allowed: between 0 and 1"),
        ("14-how-many", {"repeats": 3}, "repeats is 3; allowed: 4 or more"),
        ("15-planted", {"ordinary": 5000}, "originals are asked for; allowed: at most the 1500 images given"),
        ("17-learning-rates", {"other": "digit"}, "unknown experiment 'digit' (did you mean digits-lr"),
        (
            "17-learning-rates",
            {"other": "patches"},
            "other is patches; allowed: digits-lr3 at a smaller learning rate",
        ),
        ("17-learning-rates", {"other": "digits-lr3"}, "other is digits-lr3; allowed"),
        ("18-correction", {"in_place_of": "celebs"}, "in_place_of: unknown experiment 'celebs'"),
        ("09-precision", {"folds": 1}, "folds is 1; allowed: 2 or more"),
        ("19-competition", {"false_alarms": 1.0}, "false_alarms is 1.0; allowed: between 0 and 1"),
        (
            "20-gaming",
            {"few_images": 120},
            "few_images is 120; allowed: fewer than the 120 of the other model",
        ),
        ("21-two-views", {"models": 5}, "models is 5, shrink 2; allowed: what leaves the last 20 images or"),
    ],
)
def test_bad_parameters_fail_at_once_and_are_named(results, execute, chapter, parameters, message):
    with pytest.raises(CellExecutionError) as error:
        execute(chapter, **parameters)
    assert error.value.ename == "ValueError" and message in error.value.evalue
    assert not results.exists(), "nothing was trained"


def test_a_chapter_runs_with_other_parameters(execute):
    """Few images, and a single repeat, which leaves scores without standard errors."""
    records = execute("04-memorized", epochs=2, num_images=20, repeats=1)
    assert records["n"] == 20 and records["models"] == 3 and math.isnan(records["gap_se"])
    assert records["lowest"] <= records["median"] <= records["q95"] <= records["highest"]


@pytest.mark.parametrize(
    "chapter", ["04-memorized", "05-training", "06-outliers", "07-neighbors", "18-correction", "23-explore"]
)
@pytest.mark.parametrize("given, meant", [(0.0, 1e-3), (2e-4, 2e-4)])
def test_a_given_learning_rate_is_trained_with(execute, chapter, given, meant):
    stop = "def stop(spec):\n    raise InterruptedError(repr(spec.learning_rate))\nmemlib.run = stop"
    with pytest.raises(CellExecutionError) as error:
        execute(chapter, first=stop, learning_rate=given)
    assert (error.value.ename, error.value.evalue) == ("InterruptedError", repr(meant))


# test_front.py executes 06 on it.
@pytest.mark.parametrize("chapter", ["04-memorized", "05-training", "07-neighbors", "18-correction"])
def test_a_page_of_real_mnist_executes(execute, mnist_root, chapter):
    assert execute(chapter, data=mnist_root, experiment="mnist-lr3", num_images=60, repeats=2)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A data folder with a CelebA of flat faces, each of another color."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for number in range(40):
        color = tuple(int(level) for level in rng.integers(0, 256, 3))
        Image.new("RGB", (178, 218), color).save(folder / f"{number:06}.jpg")
        lines.append(f"{number:06}.jpg {int(number >= 30)}")
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("chapter", ["04-memorized", "06-outliers", "07-neighbors"])
def test_a_copy_of_celeba_gets_the_papers_pages(execute, faces, chapter):
    small = {"epochs": 1, "repeats": 2, "num_images": 30, "num_samples": 2}
    records = execute(chapter, data=faces, experiment="celeba", **small)
    assert records["table_run"].startswith("celeba, 30 images") and "30 of 162770" in records["table_run"]
    assert records["table_verdict"].startswith("reduced run: ")


def test_a_stand_in_is_named(execute):
    small = {"epochs": 1, "repeats": 2, "num_images": 30, "num_samples": 2}
    records = execute("04-memorized", experiment="patches", in_place_of="celeba", **small)
    assert records["table_run"].startswith("patches, 30 images")
    assert records["table_verdict"] == "not compared: another data set, celeba is not here"
    assert "median 60 nats" in records["table_paper"] and records["compared_with"] == "celeba"
