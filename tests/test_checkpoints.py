"""What goes on from a checkpoint equals what was never interrupted, bit for bit."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from memlib.experiment import variant
from memlib.runs import store
from memlib.runs.checkpoints import Checkpoints
from memlib.runs.cost import cost
from memlib.runs.job import Job, requested
from memlib.runs.run import remaining, run
from memlib.runs.worker import compute

SMALL = {"num_images": 16, "epochs": 4, "score_every": 1, "folds": 2, "num_samples": 3, "batch_size": 4}
DIGITS = variant("digits-lr3", **SMALL, repeats=2)
# samples that suffice for a k-hat, and noise of its own for every model
PAPER = dataclasses.replace(DIGITS, repeats=1, num_samples=24, proposal="encoder", noise="paper")
BFLOAT16 = dataclasses.replace(DIGITS, repeats=1, precision="bfloat16")
PATCHES = variant("patches", **SMALL, repeats=1, width=2, flip=True)


class StopError(Exception):
    """The end of a sitting."""


def interrupt(monkeypatch, count):
    """End the sitting right after so many checkpoints."""
    original, written = Checkpoints.write, []

    def write(self, member, state, i):
        original(self, member, state, i)
        written.append(member)
        if len(written) == count:
            raise StopError

    monkeypatch.setattr(Checkpoints, "write", write)


def arrays_of(result):
    """All stored arrays of a run by file and name."""
    found, folder = {}, Path(result.folder)
    for path in folder.rglob("*.npz"):
        arrays, _ = store.read(path, store.read_record(path)["request"])
        found |= {(str(path.relative_to(folder)), name): array for name, array in arrays.items()}
    return found


def resumed(result):
    """After which epochs training went on, of the model of all images and of every repeat."""
    return [facts["resumed"] for facts in json.loads(result.runs) if facts["stage"] == "training"]


def same(result, other):
    a, b = arrays_of(result), arrays_of(other)
    assert a.keys() == b.keys() and len(a) > 20
    assert {"log_px", "ess", "khat", "num_samples", "failing"} <= {name for _, name in a}
    for key, array in a.items():
        np.testing.assert_array_equal(array, b[key], err_msg=str(key), strict=True)


@pytest.mark.parametrize(
    "experiment",
    [PAPER, PATCHES, pytest.param(BFLOAT16, marks=pytest.mark.slow)],
    ids=["digits", "patches", "bfloat16"],
)
def test_going_on_gives_the_same_arrays_bit_for_bit(experiment, tmp_path, monkeypatch):
    whole = run(experiment, root=tmp_path / "whole", progress=False)
    for count in (1, 3, 1):
        with monkeypatch.context() as patch, pytest.raises(StopError):
            interrupt(patch, count)
            run(experiment, root=tmp_path / "parts", progress=False)
    parts = run(experiment, root=tmp_path / "parts", progress=False)
    same(parts, whole)
    assert resumed(parts) == [[1], [1, 2]] and resumed(whole) == [[], []]
    assert not list(Path(parts.folder, "checkpoints").iterdir())


def test_checkpoints_come_with_every_evaluation_and_when_time_has_passed(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoints, "write", lambda self, member, state, i: written.append(state.epoch))
    seldom = dataclasses.replace(PATCHES, epochs=5, score_every=2)
    run(seldom, root=tmp_path / "evaluated", progress=False)
    assert written == [2, 4, 2, 4]  # of the model of all images, of the repeat; its last epoch is its file
    written.clear()
    monkeypatch.setattr("memlib.runs.task.CHECKPOINT_SECONDS", 0)
    run(seldom, root=tmp_path / "often", progress=False)
    assert written == [1, 2, 3, 4] * 2


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after epoch 3 of its first repeat, with the last two checkpoints of that."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 6)
        run(DIGITS, root=root, progress=False)
    (folder,) = root.iterdir()
    assert store.epochs_of(folder / "checkpoints", 0) == [3, 2]
    return folder


@pytest.fixture
def begun(stopped, tmp_path):
    """A copy of that."""
    return Path(shutil.copytree(stopped, tmp_path / stopped.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(DIGITS, root=tmp_path_factory.mktemp("whole"), progress=False)


def test_a_damaged_checkpoint_is_reported_and_passed_over(begun, caplog):
    newest = store.epoch_path(begun / "checkpoints", 0, 3)
    newest.write_bytes(newest.read_bytes()[:-1000])
    result = run(dataclasses.replace(DIGITS, repeats=1), root=begun.parent, progress=False)
    assert resumed(result)[1] == [2]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "memlib"]
    assert str(newest) in line and "is damaged" in line and "going on from an earlier checkpoint" in line


def test_where_all_are_damaged_it_begins_anew_and_goes_on_from_its_own(begun, whole, monkeypatch, caplog):
    for epoch in (3, 2):
        path = store.epoch_path(begun / "checkpoints", 0, epoch)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 1)
        run(DIGITS, root=begun.parent, progress=False)
    assert caplog.text.count("is damaged") == 2
    assert store.epochs_of(begun / "checkpoints", 0) == [1], "the damaged ones of later epochs are gone"
    result = run(DIGITS, root=begun.parent, progress=False)
    assert resumed(result)[1] == [1]
    same(result, whole)


def test_a_checkpoint_that_another_process_gives_up_meanwhile_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "epochs_of", lambda folder, member: [4, 2])
    Checkpoints(tmp_path, {}, "cpu").check(0)


def test_another_version_of_pytorch_on_the_way_is_recorded(begun, caplog):
    path = store.epoch_path(begun / "checkpoints", 0, 3)
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    record["run"]["torch_version"] = "1.0"
    store.write(path, arrays, record)
    result = run(dataclasses.replace(DIGITS, repeats=1), root=begun.parent, progress=False)
    now = torch.__version__
    assert [facts["torch"] for facts in json.loads(result.runs)][:2] == [now, f"1.0, then {now}"]
    assert f"going on with torch {now} after torch 1.0" in caplog.text


def test_what_a_checkpoint_holds_counts_as_done(begun, bars, monkeypatch):
    monkeypatch.setattr("memlib.runs.cost._probe", lambda *settings: (1.0, 1.0, 1.0))
    left = remaining(DIGITS, root=begun.parent, device="cpu").cost
    assert left == cost(DIGITS, 16, 1, 297, {0: 3, 1: 0})
    run(DIGITS, root=begun.parent)
    [bar] = bars
    assert bar.done == bar.total


def test_each_of_a_stacked_group_goes_on_from_its_own_newest(whole, tmp_path, monkeypatch):
    """The group was killed between the writes of its repeats; one of them has nothing that is whole.

    The models of a repeat are its own, whoever trains beside them; stacked products round differently.
    """
    many = dataclasses.replace(DIGITS, repeats=4)
    sets = many.load_images(), many.load_validation()
    job = Job(many, *requested(many, *sets), tmp_path / "stacked", "cpu", sets)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 6)
        compute(job, [0, 1, 2, 3])
    newest = [store.epochs_of(job.folder / "checkpoints", repeat)[0] for repeat in range(4)]
    assert newest == [2, 2, 1, 1]
    store.epoch_path(job.folder / "checkpoints", 3, 1).write_bytes(b"")
    report = compute(job, [0, 1, 2, 3])
    assert not report.diverged and not report.elsewhere
    written = [store.read(store.member_path(job.folder, repeat), job.training) for repeat in range(4)]
    assert [record["run"]["resumed"] for _, record in written] == [[2], [2], [1], []]
    assert [record["run"]["stacked"] for _, record in written] == [2, 2, 1, 1]
    for repeat in (0, 1):
        scores, _ = store.read(store.epoch_path(job.scores, repeat, 4), job.scoring)
        for name, array in (written[repeat][0] | {"log_px": scores["log_px"]}).items():
            expected = whole.log_px[-1, repeat] if name == "log_px" else whole[name][repeat]
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("experiment", [DIGITS, PATCHES], ids=["digits", "patches"])
def test_going_on_on_a_gpu_gives_the_same_arrays(experiment, tmp_path, monkeypatch):
    whole = run(experiment, root=tmp_path / "whole", device="cuda", progress=False)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 3)
        run(experiment, root=tmp_path / "parts", device="cuda", progress=False)
    same(run(experiment, root=tmp_path / "parts", device="cuda", progress=False), whole)
