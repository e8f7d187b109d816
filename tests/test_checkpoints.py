"""What goes on from a checkpoint equals what was never interrupted, bit for bit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from memlib import store
from memlib.checkpoints import KEPT, Checkpoints, Progress
from memlib.cost import cost
from memlib.experiment import variant
from memlib.parallel import one_thread
from memlib.runs import remaining, run
from memlib.tasks import Task
from memlib.worker import Job, compute, requested

SMALL = {"num_images": 30, "epochs": 6, "score_every": 2, "folds": 2, "repeats": 2, "num_samples": 3}
DIGITS = variant("digits-lr3", **SMALL, batch_size=8)
PATCHES = variant("patches", **SMALL, batch_size=8, width=4, flip=True)
BFLOAT16 = dataclasses.replace(DIGITS, precision="bfloat16")
# samples that suffice for a k-hat, and noise of its own for every model
PAPER = dataclasses.replace(DIGITS, num_samples=24, rescoring=2, noise="paper")


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
    [DIGITS, PATCHES, BFLOAT16, PAPER],
    ids=["digits", "patches", "bfloat16", "paper's noise"],
)
def test_going_on_gives_the_same_arrays_bit_for_bit(experiment, tmp_path, monkeypatch):
    whole = run(experiment, tmp_path / "whole", progress=False)
    for count in (1, 2, 3):
        with monkeypatch.context() as patch, pytest.raises(StopError):
            interrupt(patch, count)
            run(experiment, tmp_path / "parts", progress=False)
    parts = run(experiment, tmp_path / "parts", progress=False)
    same(parts, whole)
    resumed = [facts["resumed"] for facts in json.loads(parts.runs)]
    assert sum(map(len, resumed)) >= 3 and all(set(epochs) <= {2, 4} for epochs in resumed)
    assert [facts["resumed"] for facts in json.loads(whole.runs)] == [[], [], []]
    assert not list(Path(parts.folder).rglob("*epoch*"))


def test_checkpoints_come_with_every_evaluation_and_when_time_has_passed(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        Checkpoints, "write", lambda self, member, progress, i: written.append(progress.epoch)
    )
    run(dataclasses.replace(DIGITS, repeats=1), tmp_path / "evaluated", progress=False)
    assert written == [2, 4, 2, 4]  # of the model of all images, of the repeat; its last epoch is its file
    written.clear()
    monkeypatch.setattr("memlib.tasks.CHECKPOINT_SECONDS", 0)
    run(dataclasses.replace(DIGITS, repeats=1), tmp_path / "often", progress=False)
    assert written == [1, 2, 3, 4, 5] * 2


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run that was stopped after epoch 4 of its first repeat, with both checkpoints of that."""
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 4)
        run(DIGITS, tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    assert store.checkpoint_epochs(folder, 0) == [4, 2] and KEPT == 2
    return folder


def resumed_epochs(folder):
    result = run(DIGITS, folder.parent, progress=False)
    return json.loads(result.runs)[1]["resumed"], result


def test_a_damaged_checkpoint_is_reported_and_passed_over(begun, tmp_path, caplog):
    newest, before = (store.checkpoint_path(begun, 0, epoch) for epoch in (4, 2))
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert resumed_epochs(begun)[0] == [2]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "memlib"]
    assert str(newest) in line and "is damaged" in line and "going on from an earlier checkpoint" in line


def test_where_all_are_damaged_it_begins_anew(begun, tmp_path, caplog):
    for epoch in (4, 2):
        path = store.checkpoint_path(begun, 0, epoch)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    epochs, result = resumed_epochs(begun)
    assert epochs == [] and caplog.text.count("is damaged") == 2
    same(result, run(DIGITS, tmp_path / "whole", progress=False))


def test_a_checkpoint_that_another_process_gives_up_meanwhile_is_no_error(begun, monkeypatch):
    path = store.checkpoint_path(begun, 0, 4)
    request = store.read_record(path)["request"]
    monkeypatch.setattr(store, "checkpoint_epochs", lambda folder, member: [4, 2])
    path.unlink()
    Checkpoints(begun, request, "cpu").check(0)


def test_what_begins_anew_beside_damaged_files_goes_on_from_its_own(begun, monkeypatch):
    for epoch in (4, 2):
        store.checkpoint_path(begun, 0, epoch).write_bytes(b"")
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 1)
        run(DIGITS, begun.parent, progress=False)
    assert store.checkpoint_epochs(begun, 0) == [2]
    assert resumed_epochs(begun)[0] == [2]


def test_a_checkpoint_from_another_device_is_refused_and_kept(begun, monkeypatch):
    path = store.checkpoint_path(begun, 0, 4)
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    record["run"]["device"] = "cuda"
    store.write(path, arrays, record)
    message = r"was computed on device 'cuda' and .* or delete repeat-000-epoch-\* beside it to begin anew"
    store.member_path(begun, None).unlink()  # which would be computed first
    monkeypatch.setattr("memlib.tasks.fit", None)  # and training would fail
    with pytest.raises(store.StoreError, match=message):
        run(DIGITS, begun.parent, progress=False)
    assert path.exists()


def test_a_checkpoint_of_another_request_is_refused(begun):
    path = store.checkpoint_path(begun, 0, 4)
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    store.write(path, arrays, record | {"request": record["request"] | {"seed": 7}})
    with pytest.raises(store.StoreError, match="seed is 7 there and 0 in the request"):
        run(DIGITS, begun.parent, progress=False)


def test_what_a_process_killed_before_tidying_left_is_removed(begun):
    path = store.checkpoint_path(begun, 0, 2)
    content = path.read_bytes()
    run(DIGITS, begun.parent, progress=False)
    assert not list(path.parent.iterdir())
    path.write_bytes(content)
    (path.parent / "repeat-000-epoch-000004.npz.machine-1.part").touch()
    run(DIGITS, begun.parent, progress=False)
    assert not list(path.parent.iterdir())


def test_another_version_of_pytorch_on_the_way_is_recorded(begun, monkeypatch, caplog):
    monkeypatch.setattr(Progress.__init__, "__defaults__", (*Progress.__init__.__defaults__[:-1], "99.0"))
    result = run(DIGITS, begun.parent, progress=False)
    versions = [facts["torch"] for facts in json.loads(result.runs)]
    assert versions == [torch.__version__, f"{torch.__version__}, then 99.0", "99.0"]
    assert f"going on with torch 99.0 after torch {torch.__version__}" in caplog.text


def test_what_a_checkpoint_holds_counts_as_done(begun, bars):
    left = remaining(DIGITS, begun.parent, device="cpu").cost
    assert left == cost(DIGITS, 30, 1, 297, {0: 4, 1: 0})
    assert left.scored_pairs == (1 + 3) * 2 * 30 and left.training_passes == (2 + 6) * 2 * 15
    run(DIGITS, begun.parent)
    [bar] = bars
    assert bar.done == bar.total


@pytest.fixture
def one_core():
    with one_thread():
        yield


def test_repeats_that_were_stacked_go_on_alone_and_those_alone_stacked(tmp_path, monkeypatch, one_core):
    """The models of a repeat are its own, whoever trains beside them; stacked products round differently."""

    def sitting(folder, repeats):
        checkpoints = Checkpoints(folder, {}, "cpu")
        task = Task(DIGITS, DIGITS.load_images(), torch.device("cpu"), lambda flop: None, checkpoints)
        saved = [checkpoints.newest(repeat) for repeat in repeats]
        return task.train_repeats(repeats, [one for one in saved if one])

    alone = [sitting(tmp_path / "whole", [repeat])[0] for repeat in (0, 1)]
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 4)
        sitting(tmp_path / "stacked", [0, 1])
    for repeat in (0, 1):
        with monkeypatch.context() as patch, pytest.raises(StopError):
            interrupt(patch, 1)
            sitting(tmp_path / "single", [repeat])
    outcomes = [
        *sitting(tmp_path / "stacked", [0]),
        *sitting(tmp_path / "stacked", [1]),
        *sitting(tmp_path / "single", [0, 1]),
    ]
    assert [outcome.resumed for outcome in outcomes] == [[4], [4], [2], [2]]
    for outcome, expected in zip(outcomes, alone * 2, strict=True):
        for name, array in expected.arrays.items():
            np.testing.assert_allclose(outcome.arrays[name], array, rtol=1e-3, atol=1e-3, err_msg=name)


def test_each_of_a_stacked_group_goes_on_from_its_own_newest(tmp_path, monkeypatch):
    """The group was killed between the writes of its repeats; one of them has nothing that is whole."""
    many = dataclasses.replace(DIGITS, repeats=4)
    images, validation = many.load_images(), many.load_validation()
    job = Job(many, requested(many, images, validation), tmp_path / "digits-0", "cpu")
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 6)
        compute(job, [0, 1, 2, 3])
    newest = [store.checkpoint_epochs(job.folder, repeat)[0] for repeat in range(4)]
    assert newest == [4, 4, 2, 2]
    store.checkpoint_path(job.folder, 3, 2).write_bytes(b"")
    report = compute(job, [0, 1, 2, 3])
    assert len(report.paths) == 4 and not report.elsewhere
    facts = [store.read_record(Path(path))["run"] for path in report.paths]
    assert [run["resumed"] for run in facts] == [[4], [4], [2], []]
    assert [run["stacked"] for run in facts] == [2, 2, 1, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("experiment", [DIGITS, PATCHES], ids=["digits", "patches"])
def test_going_on_on_a_gpu_gives_the_same_arrays(experiment, tmp_path, monkeypatch):
    whole = run(experiment, tmp_path / "whole", device="cuda", progress=False)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        interrupt(patch, 3)
        run(experiment, tmp_path / "parts", device="cuda", progress=False)
    same(run(experiment, tmp_path / "parts", device="cuda", progress=False), whole)
