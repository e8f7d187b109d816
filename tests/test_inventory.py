"""What is stored is listed with its progress, and every file is checked."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from memlib import cross_fit
from memlib.datasets import load_images
from memlib.experiment import variant
from memlib.runs.inventory import list_results, verify
from memlib.runs.run import run, store

SMALL = variant(
    "digits-lr3", num_images=24, epochs=2, score_every=1, folds=2, repeats=2, num_samples=2, batch_size=8
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run."""
    return run(SMALL, root=tmp_path_factory.mktemp("finished"), progress=False)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a whole run, and a checkpoint of a further repeat."""
    copy, request = tmp_path / Path(finished.folder).name, json.loads(finished.request)
    shutil.copytree(finished.folder, copy)
    store.write(
        store.epoch_path(copy / "checkpoints", 2, 1),
        {"steps": np.array(3.0)},
        {"request": request, "run": {}},
    )
    return copy


def problems(folder):
    return [problem for _, problem in verify(folder.parent) if problem]


def test_listing_tells_what_is_finished_begun_and_running(finished, folder):
    """A checkpoint of a finished repeat, which a killed process left, does not count as a beginning."""
    record = {"request": json.loads(finished.request), "run": {}}
    store.write(store.epoch_path(folder / "checkpoints", 1, 1), {}, record)
    with store.claim(store.member_path(folder, 2)):
        (stored,) = list_results(folder.parent)
    assert (stored.folder, stored.trained) == (folder, [None, 0, 1])
    assert stored.scored == [(json.loads(finished.request), [0, 1])]
    assert stored.begun == {2: 1} and stored.running == [2] and stored.problems == []
    assert stored.request["num_images"] == 24 and stored.images == "digits"
    assert stored.bytes == sum(path.stat().st_size for path in folder.rglob("*.npz"))
    assert stored.model_bytes == sum(path.stat().st_size for path in folder.glob("models/*.npz")) > 0
    (stored,) = list_results(folder.parent)
    assert stored.running == []
    assert list_results(folder / "nothing") == []


def test_listing_survives_damaged_files(folder):
    store.member_path(folder, None).write_bytes(b"nothing")
    (stored,) = list_results(folder.parent)
    assert stored.trained == [0, 1] and "full.npz is damaged" in stored.problems[0]
    for path in folder.rglob("*.npz"):
        path.write_bytes(b"")
    (stored,) = list_results(folder.parent)
    assert stored.trained == [] and len(stored.problems) == 10
    (folder / store.REQUEST).unlink()
    (stored,) = list_results(folder.parent)
    assert stored.request is None


@pytest.mark.parametrize("content", ["[1]", "{}", '{"images": 5}', "half"])
def test_what_is_no_run_is_passed_over(folder, content):
    other = folder.with_name("other")
    other.mkdir()
    (other / store.REQUEST).write_text(content)
    (other / "repeat-000.lock").touch()
    (folder / "scores-notes").touch()
    (stored,) = list_results(folder.parent)
    assert stored.folder == folder and len(stored.scored) == 1
    assert problems(folder) == []


def test_what_a_run_gives_up_meanwhile_is_no_problem(folder, monkeypatch):
    original = store.read_record

    def read_record(path):
        if "epoch" in path.name:
            path.unlink(missing_ok=True)
        return original(path)

    monkeypatch.setattr(store, "read_record", read_record)
    (stored,) = list_results(folder.parent)
    assert stored.begun == {} and stored.problems == []
    store.epoch_path(folder / "checkpoints", 2, 1).touch()
    assert problems(folder) == []


def test_a_run_is_listed_before_it_has_any_file(tmp_path):
    folder = tmp_path / "digits-000000000000"
    store.write_request(folder, {"images": "digits", "epochs": 3})
    assert list_results(tmp_path) == []
    with store.claim(store.member_path(folder, 0)):
        (stored,) = list_results(tmp_path)
    assert stored.running == [0] and stored.trained == [] and stored.bytes == 0
    assert stored.request == {"images": "digits", "epochs": 3} and stored.images == "digits"


def test_every_file_is_read_whole(folder):
    names = ["full.npz", "repeat-000.npz", "repeat-001.npz", "repeat-002-epoch-000001.npz"]
    names += [f"repeat-00{r}-epoch-000002.npz" for r in (0, 1)]  # models
    names += [f"repeat-00{r}-epoch-00000{e}.npz" for r in (0, 1) for e in (1, 2)]  # scores
    assert [(path.name, problem) for path, problem in verify(folder.parent)] == [(n, "") for n in names]
    for path, _ in verify(folder.parent):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    assert all(f"{n} is damaged" in problem for n, problem in zip(names, problems(folder), strict=True))


def test_files_in_the_wrong_place_or_of_another_version_are_found(folder, monkeypatch):
    folder.rename(folder.with_name("digits-000000000000"))
    misplaced = "does not belong into digits-000000000000: it answers another request"
    assert [misplaced in problem for problem in problems(folder)] == [True] * 10
    monkeypatch.setattr(store, "TRAINING_VERSION", store.TRAINING_VERSION + 1)
    old = "was written by another version of memlib"
    assert [old in problem for problem in problems(folder)] == [True] * 10


def test_scores_beside_those_of_other_settings_are_found(folder):
    [scores] = folder.glob("scores-*")
    scores.rename(scores.with_name("scores-000000000000"))
    assert [p.partition("belong into ")[2][:19] for p in problems(folder)] == ["scores-000000000000"] * 4


def test_arrays_that_do_not_fit_the_request_are_found(folder):
    [path] = folder.glob("scores-*/repeat-000-epoch-000002.npz")
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    store.write(path, arrays | {"ess": arrays["ess"][:1]}, record)
    assert problems(folder) == [f"{path} is inconsistent: ess has shape (1, 24) instead of (2, 24)"]


def test_what_a_killed_process_left_is_named(folder):
    part = folder / "repeat-003.npz.machine-1.part"
    part.touch()
    with store.claim(store.member_path(folder, 3)):
        assert problems(folder) == [], "a process writes it now"
    assert problems(folder) == [
        f"{part} was left by a process that was killed; the next run of its repeat deletes it"
    ]


def test_the_files_of_a_cross_fit_are_checked_and_not_listed(tmp_path):
    images = load_images("digits").subset(range(8))
    own = {"folds": 2, "repeats": 1, "folder": tmp_path / "mine", "settings": {"model": "none"}}
    cross_fit(lambda *_: SimpleNamespace(log_prob=lambda images: np.zeros(8)), images, **own, progress=False)
    folder = tmp_path / "mine"
    assert [problem for _, problem in verify(tmp_path)] == ["", ""] and list_results(tmp_path) == []
    path = folder / "repeat-000-fold-01.npz"
    path.write_bytes(path.read_bytes()[:-9])
    assert "repeat-000-fold-01.npz is damaged" in problems(folder)[0]
