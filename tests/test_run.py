"""Whole runs at small size: what is computed, shared, kept, and refused."""

import contextlib
import dataclasses
import json
import multiprocessing
import re
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from vaes import write_pictures

import memlib
from memlib.ensemble import sample
from memlib.experiment import Stream, variant
from memlib.runs import executors, store
from memlib.runs.cost import cost
from memlib.runs.job import requested
from memlib.runs.models import full_model
from memlib.runs.run import run
from memlib.runs.worker import Report, compute

TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=8
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, run(TINY, root=root, progress=False)


@pytest.fixture
def copied(stored, tmp_path):
    """The folder of a whole run in a root of its own."""
    folder = tmp_path / Path(stored[1].folder).name
    return Path(shutil.copytree(stored[1].folder, folder))


def equal(a, b):
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Elsewhere(ThreadPoolExecutor):
    """A worker that gets some fields of its job otherwise than the run has them."""

    def __init__(self, **fields):
        super().__init__(1)
        self.fields = fields

    def submit(self, function, job, member):
        return super().submit(function, dataclasses.replace(job, **self.fields), member)


def test_result_has_the_named_dimensions_and_folds_of_equal_size(stored):
    _, result = stored
    assert result.log_px.dims == ("epoch", "repeat", "fold", "observation")
    assert result.log_px.shape == (2, 2, 3, 31) == result.ess.shape
    assert result.epoch.values.tolist() == [2, 3] and result.train_epoch.values.tolist() == [1, 2, 3]
    for fold_of in result.fold_of.values:
        assert sorted(np.bincount(fold_of)) == [10, 10, 11]
    assert (result.fold_of[0].values != result.fold_of[1].values).any()
    images, validation = TINY.load_images(), TINY.load_validation()
    np.testing.assert_array_equal(result.label, images.labels)
    np.testing.assert_array_equal(result["index"], images.index)
    assert result.samples.shape == validation.images.shape
    # four samples are too few for a k-hat
    assert (result.num_samples == 4).all() and np.isposinf(result.khat).all() and (result.failing == 1).all()
    assert np.isfinite(result.log_px).all() and (result.ess >= 1).all()
    facts = json.loads(result.runs)
    assert [f["stage"] for f in facts] == ["training"] * 3 + ["scoring"] * 4
    assert all(f["seconds"] > 0 and f["torch"] and f["device"] for f in facts)


def test_what_is_stored_is_returned_and_nothing_trains(stored, monkeypatch):
    root, result = stored
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training now would fail
    equal(memlib.stored(TINY, root=root), result)
    assert memlib.stored(TINY, root=root).attrs == result.attrs
    equal(run(TINY, root=root, progress=False), result)
    assert memlib.stored(dataclasses.replace(TINY, repeats=1), root=root).sizes["repeat"] == 1
    with pytest.raises(store.StoreError, match="48 of 51 tasks are missing"):
        memlib.stored(dataclasses.replace(TINY, repeats=50), root=root)


OTHERWISE = {"num_samples": 6, "proposal": "encoder", "versions": 2, "noise": "paper"} | {
    "scoring_precision": "bfloat16"
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_another_way_of_scoring_trains_nothing(stored, copied, monkeypatch, caplog, name):
    assert {*OTHERWISE} == {*store.SCORING}
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training now would fail
    other = dataclasses.replace(TINY, **{name: OTHERWISE[name]})
    again = run(other, root=copied.parent, progress=False)
    assert again.epoch.values.tolist() == [3] and "no scores of epochs 2 with these settings" in caplog.text
    assert (again.log_px[0] != stored[1].log_px[-1]).mean() > 0.2
    np.testing.assert_array_equal(again.fold_loss, stored[1].fold_loss)
    equal(memlib.stored(other, root=copied.parent), again)
    equal(run(TINY, root=copied.parent, progress=False), stored[1])


def test_kept_models_of_all_epochs_are_scored_as_they_were_while_they_trained(stored, tmp_path, monkeypatch):
    kept = run(TINY, root=tmp_path, keep_models=True, progress=False)
    equal(kept, stored[1])
    shutil.rmtree(next(tmp_path.glob("*/scores-*")))
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training now would fail
    equal(run(TINY, root=tmp_path, progress=False), stored[1])


@pytest.mark.parametrize(("keep_models", "epochs"), [(False, [3]), (True, [2, 3])])
def test_what_remains_is_what_is_scored_anew(tmp_path, monkeypatch, bars, keep_models, epochs):
    """The last epoch, and every other of which models are kept."""
    monkeypatch.setattr("memlib.runs.cost._probe", lambda *settings: (1.0, 1.0, 1.0))
    run(TINY, root=tmp_path, keep_models=keep_models)
    other = dataclasses.replace(TINY, num_samples=5)
    left, whole = memlib.remaining(other, root=tmp_path).cost, cost(other, 31, 1, 297)
    assert left.training_flop == 0 and left.scoring_flop == whole.scoring_flop * len(epochs) // 2
    assert run(other, root=tmp_path).epoch.values.tolist() == epochs
    assert bars[-1].done == bars[-1].total == 2 * 31 * len(epochs)
    assert memlib.remaining(other, root=tmp_path).cost.models == 0


def test_to_score_anew_a_little_starts_no_processes(copied, monkeypatch):
    """Where training would have started them."""
    everything = cost(TINY, 31, 1, 297)
    monkeypatch.setattr("memlib.runs.run.PROCESSES_FLOP", everything.training_flop)
    monkeypatch.setattr("memlib.runs.run.processes", None)  # starting them would fail
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run(dataclasses.replace(TINY, num_samples=5, proposal="encoder"), root=copied.parent, progress=False)


def test_images_at_hand_give_what_the_same_images_by_name_give(stored, tmp_path):
    sets = TINY.load_images(), TINY.load_validation()
    everything = dataclasses.replace(TINY, num_images=0)
    result = run(everything, *sets, root=tmp_path, progress=False)
    np.testing.assert_array_equal(result.log_px, stored[1].log_px)
    np.testing.assert_array_equal(result.samples, stored[1].samples)
    equal(memlib.stored(everything, *sets, root=tmp_path), result)
    assert memlib.remaining(everything, *sets, root=tmp_path).cost.models == 0
    relabeled = dataclasses.replace(sets[0], labels=sets[0].labels[::-1])
    again = memlib.stored(everything, relabeled, sets[1], root=tmp_path)
    np.testing.assert_array_equal(again.label, relabeled.labels)
    assert len(full_model(result)) == 1
    assert memlib.prune(everything, *sets, root=tmp_path) > 0
    named = [dataclasses.replace(images, name="../my images") for images in sets]
    assert Path(run(everything, *named, root=tmp_path, progress=False).folder).parent == tmp_path


def test_the_numbers_do_not_depend_on_the_executor(stored, tmp_path):
    with ThreadPoolExecutor(1) as executor:
        equal(run(TINY, root=tmp_path, executor=executor, progress=False), stored[1])


@pytest.mark.parametrize("processes", [None, pytest.param(executors.processes, marks=pytest.mark.slow)])
def test_cores_share_the_work_and_the_numbers_stay_the_same(stored, tmp_path, monkeypatch, bars, processes):
    """In most sittings a thread takes the place of the processes, which take seconds to start."""

    @contextlib.contextmanager
    def thread(workers, progress):
        monkeypatch.setattr(executors, "report", lambda flop, last=False: progress(flop))
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr("memlib.runs.run.processes", processes or thread)
    monkeypatch.setattr("memlib.runs.run.PROCESSES_FLOP", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("memlib.runs.run.compute", None)  # so that nothing is computed here
    equal(run(TINY, root=tmp_path), stored[1])
    assert bars[0].done == bars[0].total


def test_a_process_that_may_start_no_others_computes_all_by_itself(stored, copied, monkeypatch):
    monkeypatch.setattr("memlib.runs.run.PROCESSES_FLOP", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    store.member_path(copied, None).unlink()
    store.member_path(copied, 1).unlink()
    equal(run(TINY, root=copied.parent, progress=False), stored[1])


def test_more_repeats_are_added_to_those_that_are_there(stored, copied):
    files = {p: p.stat().st_mtime_ns for p in copied.glob("*.npz")}
    more = run(dataclasses.replace(TINY, repeats=3), root=copied.parent, progress=False)
    assert more.sizes["repeat"] == 3 and Path(more.folder) == copied
    np.testing.assert_array_equal(more.log_px[:, :2], stored[1].log_px)
    assert (more.log_px[:, 2] != more.log_px[:, 0]).any()
    assert len(files) == 3 and all(p.stat().st_mtime_ns == before for p, before in files.items())


def test_models_that_are_trained_anew_are_scored_anew(stored, copied):
    """Scores of the models that are lost are not mixed with those of others, of whatever settings."""
    run(dataclasses.replace(TINY, num_samples=5, proposal="encoder"), root=copied.parent, progress=False)
    store.member_path(copied, 0).unlink()
    old = [*copied.glob("scores-*/repeat-000*")]
    for path in old:
        record = store.read_record(path)
        arrays, _ = store.read(path, record["request"])
        store.write(path, {name: array + 1 for name, array in arrays.items()}, record)
    equal(run(TINY, root=copied.parent, progress=False), stored[1])
    assert len(old) == 3 and sum(path.exists() for path in old) == 2


@pytest.mark.parametrize(
    "damaged",
    ["scores-*/repeat-000-epoch-000002.npz", "scores-*/repeat-000-epoch-000003.npz", "models/repeat-000-*"],
    ids=["scores", "scores of the last epoch", "models"],
)
def test_who_deletes_what_a_damaged_file_names_gets_it_again(stored, copied, damaged):
    """Of scores whose models are not kept, that is their training."""
    [path] = copied.glob(damaged)
    path.write_bytes(path.read_bytes()[:100])
    other = dataclasses.replace(TINY, num_samples=5) if damaged.startswith("models") else TINY
    with pytest.raises(store.DamagedError) as refused:
        run(other, root=copied.parent, progress=False)
    named = re.findall(rf"{re.escape(str(copied))}\S+?\.npz", str(refused.value))
    assert named[0] == str(path) and len(named) == (1 if path.match("scores-*/*3.npz") else 2)
    for name in named:
        Path(name).unlink()
    run(other, root=copied.parent, progress=False)
    again, expected = run(TINY, root=copied.parent, progress=False), stored[1]
    if other != TINY:  # whoever trains anew scores the earlier epochs, with these settings alone
        again, expected = again.isel(epoch=[-1]), expected.isel(epoch=[-1])
    equal(again, expected)


def test_models_that_are_gone_are_missed_before_anything_trains(copied, monkeypatch):
    assert memlib.prune(TINY, root=copied.parent) > 0 and not list(copied.glob("models/*"))
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training would fail
    with pytest.raises(store.StoreError, match=r"repeat-000-epoch-000003\.npz is not there any more"):
        run(dataclasses.replace(TINY, num_samples=5, repeats=3), root=copied.parent, progress=False)


def test_what_a_process_killed_before_tidying_left_is_removed(copied):
    path = store.epoch_path(copied / "checkpoints", 0, 2)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    path.with_name(f"{path.name}.machine-1.part").touch()
    other = path.with_name("repeat-000-epoch-of-another.npz")
    other.touch()
    run(TINY, root=copied.parent, progress=False)
    assert list(path.parent.iterdir()) == [other]


def test_any_other_setting_has_a_folder_of_its_own(tmp_path):
    changes = {"num_images": 30, "architecture": "conv", "likelihood": "gaussian"}
    changes |= {"latent_dim": 2, "width": 4, "flip": True, "learning_rate": 1e-4, "batch_size": 9}
    changes |= {"epochs": 2, "score_every": 1, "precision": "bfloat16", "num_samples": 5, "versions": 2}
    changes |= {
        "noise": "paper",
        "proposal": "encoder",
        "scoring_precision": "bfloat16",
        "folds": 4,
        "seed": 1,
    }
    assert changes.keys() | {"images", "repeats"} == {f.name for f in dataclasses.fields(TINY)}
    sets = TINY.load_images(), TINY.load_validation()
    others = [dataclasses.replace(TINY, **{name: value}) for name, value in changes.items()]
    requests = [requested(TINY, *sets), *(requested(other, *sets) for other in others)]
    requests += [requested(TINY, sets[0], sets[0]), requested(TINY, sets[1], sets[1])]
    folders = [store.training_folder(tmp_path, training) for training, _ in requests]
    for name, folder in zip(changes, folders[1:], strict=False):
        assert (folder == folders[0]) == (name in store.SCORING), name
    both = zip(folders, requests, strict=True)
    assert len({store.scores_folder(folder, scoring) for folder, (_, scoring) in both}) == len(changes) + 3


def test_evaluations_do_not_change_the_training(stored, tmp_path):
    often = run(dataclasses.replace(TINY, score_every=1, repeats=1), root=tmp_path, progress=False)
    np.testing.assert_array_equal(often.fold_loss, stored[1].fold_loss[:1])
    np.testing.assert_array_equal(often.train_loss, stored[1].train_loss)


def test_processes_share_the_work_and_do_each_part_once(tmp_path, stored):
    """Two processes run the same experiment into the same folder at the same time."""
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(_run_and_count, TINY, tmp_path) for _ in range(2)]
        counts = [f.result(timeout=120) for f in futures]
    assert sum(counts) == 9, "three of training, models of two repeats, scores of each at two epochs"
    equal(run(TINY, root=tmp_path, progress=False), stored[1])


def _run_and_count(experiment, root):
    torch.set_num_threads(1)
    original, written = store.write, []
    store.write = lambda path, arrays, record: (written.append(path), original(path, arrays, record))
    run(experiment, root=root, progress=False)
    return sum(path.parent.name != "checkpoints" for path in written)


@pytest.mark.parametrize(
    ("executor", "looks", "lines"),
    [(None, 4, 1), (None, 1, 0), (ThreadPoolExecutor(1), 4, 1)],
    ids=["here", "finished meanwhile", "executor"],
)
def test_waiting_for_another_process_is_logged_once(
    stored, copied, monkeypatch, caplog, executor, looks, lines
):
    """The file of the other process appears right after so many looks at its lock."""
    path, reports = store.member_path(copied, 1), []
    path.unlink()

    def look(job, members, *others):
        reports.append(compute(job, members, *others))
        if len(reports) == looks:
            shutil.copy(store.member_path(Path(stored[1].folder), 1), path)
        return reports[-1]

    for module in ("run", "worker"):
        monkeypatch.setattr(f"memlib.runs.{module}.compute", look)
        monkeypatch.setattr(f"memlib.runs.{module}.WAIT_SECONDS", 0)
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training would fail
    with store.claim(path):
        equal(run(TINY, root=copied.parent, executor=executor, progress=False), stored[1])
    told = [record.getMessage() for record in caplog.records if record.name == "memlib"]
    lock = path.with_suffix(".lock")
    assert told == [f"waiting for {path}, which another process computes; it holds {lock}"] * lines
    assert [report.elsewhere for report in reports] == [[1]] * looks + [[]]


def test_a_failed_task_cancels_those_that_wait_and_lets_the_others_finish(tmp_path, monkeypatch):
    started, failed, finished = [], threading.Event(), []

    def finish(job, member):
        started.append(member)
        if member == 0:
            failed.set()
            raise OSError("disk full")
        failed.wait(10)
        time.sleep(0.3)
        finished.append(member)

    monkeypatch.setattr("memlib.runs.run.finish", finish)
    many = dataclasses.replace(TINY, repeats=20)
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(OSError, match="disk full"):
            run(many, root=tmp_path, executor=executor, progress=False)
        assert sorted(started, key=str) == sorted([0, *finished], key=str), "all that started have ended"
    assert None in finished and len(started) < 15, "the others were never started"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folder": Path("elsewhere")}, "is not on this machine; allowed: a folder that all machines share"),
        (
            {"training": requested(TINY, TINY.load_validation(), TINY.load_validation())[0]},
            "digits differs between machines: train_sha256 is [0-9a-f]{64} on this one and [0-9a-f]{64} w",
        ),
    ],
    ids=["folder", "images"],
)
def test_a_worker_that_differs_says_so_before_it_computes(tmp_path, monkeypatch, fields, message):
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training would fail
    with Elsewhere(**fields) as executor, pytest.raises(ValueError, match=message):
        run(TINY, root=tmp_path, executor=executor, progress=False)


def test_a_task_chooses_its_device_where_it_runs(tmp_path, monkeypatch):
    class There(Elsewhere):
        def submit(self, *args):
            monkeypatch.setenv("MEMLIB_DEVICE", "of the worker")
            return super().submit(*args)

    monkeypatch.setenv("MEMLIB_DEVICE", "of the client")
    with There() as executor, pytest.raises(ValueError, match="device is 'of the worker'"):
        run(TINY, root=tmp_path, executor=executor, progress=False)


def test_a_file_that_is_not_seen_here_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.run.SHARED_SECONDS", 0)
    monkeypatch.setattr("memlib.runs.run.finish", lambda job, member: Report({}, []))
    with ThreadPoolExecutor(1) as executor, pytest.raises(store.StoreError, match="which are not seen here"):
        run(TINY, root=tmp_path, executor=executor, progress=False)


@pytest.mark.parametrize(
    ("name", "scoring", "sums"),  # of log_px over the images, by epoch and fold
    [
        # as the paper scores: samples from the encoder, and noise of its own for every model
        (
            "patches",
            {"noise": "paper", "proposal": "encoder"},
            [[-440343.6, -440391.8], [-440205.0, -440328.7]],
        ),
        ("digits-lr3", {}, [[-15548.12, -15235.15], [-12653.77, -12175.06]]),
    ],
    ids=["patches as the paper", "digits"],
)
def test_the_same_request_still_gives_the_same_numbers(tmp_path, name, scoring, sums):
    small = {"num_images": 24, "epochs": 2, "score_every": 1, "folds": 2, "repeats": 1, "num_samples": 4}
    tiny = variant(name, **small, **scoring, batch_size=8, width=4 if name == "patches" else 32)
    result = run(tiny, root=tmp_path, device="cpu", progress=False)
    message = "the same request gives other numbers: where that is meant, raise a version in store.py"
    # other seeds, and on digits other noise, differ by a factor of 1e-3, other machines by 1e-5 at most
    np.testing.assert_allclose(result.log_px.sum("observation")[:, 0], sums, rtol=1e-4, err_msg=message)


def test_the_model_of_all_images_comes_back(stored):
    _, result = stored
    model = full_model(result)
    assert len(model) == 1
    prior = TINY.torch_stream(Stream.SAMPLES)
    np.testing.assert_array_equal(sample(model, result.sizes["sample"], 1, prior)[0], result.samples)


def test_memorization_appears_when_a_model_is_trained_for_long(tmp_path):
    """After 40 epochs on 40 digits, seen ones are the more probable; hardly after one epoch."""
    changes = {"num_images": 40, "folds": 2, "repeats": 1, "score_every": 40, "num_samples": 8}
    changes |= {"batch_size": 10, "learning_rate": 3e-3}
    early, late = (
        memlib.memorization(run(dataclasses.replace(TINY, **changes, epochs=epochs), root=tmp_path))
        .gap[-1]
        .values
        for epochs in (1, 40)
    )
    assert late.mean() > 2 * late.std() / 40**0.5
    assert late.mean() > 2 * abs(early.mean())


def test_images_of_a_folder_run_end_to_end_and_are_the_same_wherever_they_lie(tmp_path, monkeypatch):
    options = {"epochs": 1, "folds": 2, "repeats": 1, "num_samples": 2, "width": 4}

    def run_on(pictures):
        write_pictures(pictures, seed=0)
        return run(variant("patches", images=f"folder:{pictures}", **options), root=tmp_path / "results")

    result = run_on(tmp_path / "here")
    assert result.sizes["observation"] == 16 and Path(result.folder).name.startswith("folder-")
    assert json.loads(result.runs)[0]["images"] == f"folder:{tmp_path / 'here'}"
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training now would fail
    equal(run_on(tmp_path / "there"), result)
    assert len(full_model(result)) == 1
