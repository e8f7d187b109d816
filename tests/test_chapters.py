"""Real chapters: parameters that work under Papermill, and ones that must fail before any training."""

import atexit
import contextlib
import io
import math
from pathlib import Path

import numpy as np
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image
from traitlets.config import Config

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


@pytest.fixture
def shell():
    """What executes cells here as a kernel does, without the start of one."""
    made = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    yield made
    made.atexit_operations()
    atexit.unregister(made.atexit_operations)
    InteractiveShell.clear_instance()


def run_cells(shell, chapter, **parameters):
    """Results of a chapter's code cells, up to the first that fails; with parameters as by Papermill."""
    source = load_notebook_node(str(ROOT / "book" / f"{chapter}.ipynb"))
    notebook = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()):  # the traceback
                done = shell.run_cell(cell.source, store_history=True)
            yield done
            if not done.success:
                return
    pytest.fail(f"{chapter} came to its end")


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
def test_bad_parameters_fail_at_once_and_are_named(results, shell, chapter, parameters, message):
    ended = [run.error_in_exec for run in run_cells(shell, chapter, **parameters)]
    assert isinstance(ended[-1], ValueError) and message in str(ended[-1])
    assert not results.exists(), "nothing was trained"


def test_a_chapter_runs_with_other_parameters(tmp_path):
    """Few images, and a single repeat, which leaves scores without standard errors."""
    records = execute("04-memorized", tmp_path, epochs=2, num_images=20, repeats=1)
    assert records["n"] == 20 and records["models"] == 3 and math.isnan(records["gap_se"])
    assert records["lowest"] <= records["median"] <= records["q95"] <= records["highest"]


@pytest.mark.parametrize(
    "chapter", ["04-memorized", "05-training", "06-outliers", "07-neighbors", "18-correction", "23-explore"]
)
@pytest.mark.parametrize("given, meant", [(0.0, 1e-3), (2e-4, 2e-4)])
def test_a_given_learning_rate_is_trained_with(results, shell, monkeypatch, chapter, given, meant):
    def stop(spec):
        raise InterruptedError(spec.learning_rate)

    monkeypatch.setattr("memlib.run", stop)
    *_, last = run_cells(shell, chapter, learning_rate=given)
    assert isinstance(last.error_in_exec, InterruptedError) and last.error_in_exec.args == (meant,)


# test_front.py executes 06 on it.
@pytest.mark.parametrize("chapter", ["04-memorized", "05-training", "07-neighbors", "18-correction"])
def test_a_page_of_real_mnist_executes(tmp_path, mnist_root, monkeypatch, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(mnist_root))
    assert execute(chapter, tmp_path, experiment="mnist-lr3", num_images=60, repeats=2)


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
def test_a_copy_of_celeba_gets_the_papers_pages(tmp_path, faces, monkeypatch, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(faces))
    records = execute(
        chapter, tmp_path, experiment="celeba", epochs=1, repeats=2, num_images=30, num_samples=2
    )
    assert records["table_run"].startswith("celeba, 30 images") and "30 of 162770" in records["table_run"]
    assert records["table_verdict"].startswith("reduced run: ")


def test_a_stand_in_is_named(tmp_path):
    small = {"epochs": 1, "repeats": 2, "num_images": 30, "num_samples": 2}
    records = execute("04-memorized", tmp_path, experiment="patches", in_place_of="celeba", **small)
    assert records["table_run"].startswith("patches, 30 images")
    assert records["table_verdict"] == "not compared: another data set, celeba is not here"
    assert "median 60 nats" in records["table_paper"] and records["compared_with"] == "celeba"
