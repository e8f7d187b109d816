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
from memlib.runs.run import remaining, run
from memlib.runs.worker import Job, compute

SMALL = {"num_images": 16, "epochs": 4, "score_every": 1, "folds": 2, "num_samples": 3, "batch_size": 4}
DIGITS = variant("digits-lr3", **SMALL, repeats=2)
# samples that suffice for a k-hat, and noise of its own for every model
PAPER = dataclasses.replace(DIGITS, repeats=1, num_samples=24, rescoring=2, noise="paper")
BFLOAT16 = dataclasses.replace(DIGITS, repeats=1, precision="bfloat16")
PATCHES = variant("patches", **SMALL, repeats=1, width=2, flip=True)


class StopError(Exception):
    """The end of a sitting."""


def interrupt(monkeypatch, count):
    """End the sitting right after so many checkpoints."""
    original, written = Checkpoints.write, []

    def write(self, member, progress, i):
        original(self, member, progress, i)
        written.append(member)
        if len(written) == count:
            raise StopError

    monkeypatch.setattr(Checkpoints, "write", write)


def arrays_of(result):
    """All stored arrays of a run by file and name."""
    request, found = json.loads(result.request), {}
    for path in Path(result.folder).glob("*.npz"):
        found |= {(path.name, name): array for name, array in store.read(path, request)[0].items()}
    return found


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
    whole = run(experiment, tmp_path / "whole", progress=False)
    for count in (1, 3, 1):
        with monkeypatch.context() as patch, pytest.raises(StopError):
            interrupt(patch, count)
            run(experiment, tmp_path / "parts", progress=False)
    parts = run(experiment, tmp_path / "parts", progress=False)
    same(parts, whole)
    assert [facts["resumed"] for facts in json.loads(parts.runs)] == [[1], [1, 2]]
    assert [facts["resumed"] for facts in json.loads(whole.runs)] == [[], []]
    assert not list(Path(parts.folder).rglob("*epoch*"))


def test_checkpoints_come_with_every_evaluation_and_when_time_has_passed(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        Checkpoints, "write", lambda self, member, progress, i: written.append(progress.epoch)
    )
    seldom = dataclasses.replace(PATCHES, epochs=5, score_every=2)
    run(seldom, tmp_path / "evaluated", progress=False)
    assert written == [2, 4, 2, 4]  # of the model of all images, of the repeat; its last epoch is its file
    written.clear()
    monkeypatch.setattr("memlib.runs.task.CHECKPOINT_SECONDS", 0)
    run(seldom, tmp_path / "often", progress=False)
    assert written == [1, 2, 3, 4] * 2


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after epoch 3 of its first repeat, with the last two checkpoints of that."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 6)
        run(DIGITS, root, progress=False)
    (folder,) = root.iterdir()
    assert store.checkpoint_epochs(folder, 0) == [3, 2]
    return folder


@pytest.fixture
def begun(stopped, tmp_path):
    """A copy of that."""
    return Path(shutil.copytree(stopped, tmp_path / stopped.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(DIGITS, tmp_path_factory.mktemp("whole"), progress=False)


def test_a_damaged_checkpoint_is_reported_and_passed_over(begun, caplog):
    newest = store.checkpoint_path(begun, 0, 3)
    newest.write_bytes(newest.read_bytes()[:-1000])
    result = run(dataclasses.replace(DIGITS, repeats=1), begun.parent, progress=False)
    assert json.loads(result.runs)[1]["resumed"] == [2]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "memlib"]
    assert str(newest) in line and "is damaged" in line and "going on from an earlier checkpoint" in line


def test_where_all_are_damaged_it_begins_anew_and_goes_on_from_its_own(begun, whole, monkeypatch, caplog):
    for epoch in (3, 2):
        path = store.checkpoint_path(begun, 0, epoch)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 1)
        run(DIGITS, begun.parent, progress=False)
    assert caplog.text.count("is damaged") == 2
    assert store.checkpoint_epochs(begun, 0) == [1], "the damaged ones of later epochs are gone"
    result = run(DIGITS, begun.parent, progress=False)
    assert json.loads(result.runs)[1]["resumed"] == [1]
    same(result, whole)


def test_a_checkpoint_that_another_process_gives_up_meanwhile_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "checkpoint_epochs", lambda folder, member: [4, 2])
    Checkpoints(tmp_path, {}, "cpu").check(0)


def test_another_version_of_pytorch_on_the_way_is_recorded(begun, caplog):
    path = store.checkpoint_path(begun, 0, 3)
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    record["run"]["torch_version"] = "1.0"
    store.write(path, arrays, record)
    result = run(dataclasses.replace(DIGITS, repeats=1), begun.parent, progress=False)
    now = torch.__version__
    assert [facts["torch"] for facts in json.loads(result.runs)] == [now, f"1.0, then {now}"]
    assert f"going on with torch {now} after torch 1.0" in caplog.text


def test_what_a_checkpoint_holds_counts_as_done(begun, bars, monkeypatch):
    monkeypatch.setattr("memlib.runs.cost._probe", lambda *settings: (1.0, 1.0, 1.0))
    left = remaining(DIGITS, begun.parent, device="cpu").cost
    assert left == cost(DIGITS, 16, 1, 297, {0: 3, 1: 0})
    run(DIGITS, begun.parent)
    [bar] = bars
    assert bar.done == bar.total


def test_each_of_a_stacked_group_goes_on_from_its_own_newest(whole, tmp_path, monkeypatch):
    """The group was killed between the writes of its repeats; one of them has nothing that is whole.

    The models of a repeat are its own, whoever trains beside them; stacked products round differently.
    """
    many = dataclasses.replace(DIGITS, repeats=4)
    job = Job(many, json.loads(whole.request), tmp_path / "stacked", "cpu")
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 6)
        compute(job, [0, 1, 2, 3])
    newest = [store.checkpoint_epochs(job.folder, repeat)[0] for repeat in range(4)]
    assert newest == [2, 2, 1, 1]
    store.checkpoint_path(job.folder, 3, 1).write_bytes(b"")
    report = compute(job, [0, 1, 2, 3])
    assert len(report.paths) == 4 and not report.elsewhere
    written = [store.read(Path(path), job.request) for path in report.paths]
    assert [record["run"]["resumed"] for _, record in written] == [[2], [2], [1], []]
    assert [record["run"]["stacked"] for _, record in written] == [2, 2, 1, 1]
    for repeat in (0, 1):
        for name, array in written[repeat][0].items():
            expected = arrays_of(whole)[f"repeat-00{repeat}.npz", name]
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("experiment", [DIGITS, PATCHES], ids=["digits", "patches"])
def test_going_on_on_a_gpu_gives_the_same_arrays(experiment, tmp_path, monkeypatch):
    whole = run(experiment, tmp_path / "whole", device="cuda", progress=False)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 3)
        run(experiment, tmp_path / "parts", device="cuda", progress=False)
    same(run(experiment, tmp_path / "parts", device="cuda", progress=False), whole)
