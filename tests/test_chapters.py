"""Real chapters with other parameters than their own, and on data that the quick book does not have."""

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
    """Few images, and a single repeat, which leaves gaps without intervals."""
    records = execute("04-mnist", epochs=2, num_images=20, repeats=1)
    assert records["n"] == 20 and records["models"] == 3 and records["gap_interval"] == "nan to nan"
    assert records["figure_7_run"].startswith("digits, 20 images, 1 x 3 models, 2 epochs")


@pytest.mark.parametrize("chapter", ["04-mnist", "05-training", "06-outliers", "07-neighbors"])
def test_a_page_of_real_mnist_executes(monkeypatch, mnist_root, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(mnist_root))
    records = execute(chapter, experiment="mnist-lr3", other="mnist-lr4", num_images=60, repeats=2)
    assert any(str(text).startswith("smaller run: ") for text in records.values())


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


@pytest.mark.parametrize("chapter", ["09-cifar10", "11-cifar10-outliers"])
def test_a_copy_of_celeba_gets_the_papers_pages(monkeypatch, faces, chapter):
    monkeypatch.setenv("MEMLIB_DATA", str(faces))
    records = execute(chapter, experiment="patches", other="celeba", **SMALL)
    number = 9 if chapter == "09-cifar10" else 5
    assert records[f"figure_{number}_run"].startswith("celeba, 30 images")
    assert "30 of 162,770" in records[f"figure_{number}_run"]
    assert records[f"figure_{number}_verdict"].startswith("smaller run: ")
