"""Real chapters with other parameters than their own, and on data that the quick book does not have."""

import math

import numpy as np
import pytest
from chapters import execute
from PIL import Image

SMALL = {"epochs": 1, "repeats": 2, "num_images": 30, "num_samples": 2}


@pytest.fixture(autouse=True, scope="module")
def results(tmp_path_factory):
    """One folder, so that pages of the same run train it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMLIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield


def test_a_chapter_runs_with_other_parameters():
    """Few images, and a single repeat, which leaves scores without standard errors."""
    records = execute("04-memorized", epochs=2, num_images=20, repeats=1)
    assert records["n"] == 20 and records["models"] == 3 and math.isnan(records["gap_se"])
    assert records["lowest"] <= records["median"] <= records["q95"] <= records["highest"]


@pytest.mark.parametrize(
    "chapter", ["04-memorized", "05-training", "06-outliers", "07-neighbors", "18-correction", "23-explore"]
)
@pytest.mark.parametrize("given, meant", [(0.0, 1e-3), (2e-4, 2e-4)])
def test_a_given_learning_rate_is_trained_with(monkeypatch, chapter, given, meant):
    def stop(spec):
        raise InterruptedError(spec.learning_rate)

    monkeypatch.setattr("memlib.run", stop)
    with pytest.raises(InterruptedError) as stopped:
        execute(chapter, learning_rate=given)
    assert stopped.value.args == (meant,)


@pytest.mark.parametrize(
    "chapter", ["04-memorized", "05-training", "06-outliers", "07-neighbors", "18-correction"]
)
def test_a_page_of_real_mnist_executes(monkeypatch, mnist_root, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(mnist_root))
    assert execute(chapter, experiment="mnist-lr3", num_images=60, repeats=2)


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
def test_a_copy_of_celeba_gets_the_papers_pages(monkeypatch, faces, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(faces))
    records = execute(chapter, experiment="celeba", **SMALL)
    assert records["table_run"].startswith("celeba, 30 images") and "30 of 162770" in records["table_run"]
    assert records["table_verdict"].startswith("reduced run: ")


def test_a_stand_in_is_named():
    records = execute("04-memorized", experiment="patches", in_place_of="celeba", **SMALL)
    assert records["table_run"].startswith("patches, 30 images")
    assert records["table_verdict"] == "not compared: another data set, celeba is not here"
    assert "median 60 nats" in records["table_paper"] and records["compared_with"] == "celeba"
