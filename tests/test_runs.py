"""Whole runs at small size: what is computed, shared, kept, and refused."""

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
from memlib import store
from memlib.data import load_images
from memlib.ensemble import reconstruct, sample
from memlib.experiment import Stream, variant
from memlib.pareto import khat_threshold
from memlib.runs import full_model, run
from memlib.tasks import Task
from memlib.worker import Job, Report

TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=8
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return root, run(TINY, root, progress=False)


def equal(a, b):
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_task_chooses_its_device_where_it_runs(tmp_path, monkeypatch):
    class Refusing(ThreadPoolExecutor):
        def submit(self, *args):
            monkeypatch.setenv("MEMLIB_DEVICE", "of the worker")
            return super().submit(*args)

    monkeypatch.setenv("MEMLIB_DEVICE", "of the client")
    with Refusing(1) as executor, pytest.raises(ValueError, match="device is 'of the worker'"):
        run(TINY, tmp_path, executor)
    with Refusing(1) as executor, pytest.raises(ValueError, match="device is 'tpu'"):
        run(TINY, tmp_path, executor, device="tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_silent_fall_back_from_a_gpu(monkeypatch):
    monkeypatch.setenv("MEMLIB_DEVICE", "cuda")
    with pytest.raises(ValueError, match="PyTorch sees no GPU"):
        run(TINY)


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
    assert result.khat.dims == result.num_samples.dims == ("epoch", "repeat", "observation")
    assert result.failing.dims == ("epoch", "repeat", "fold")
    # four samples are too few for a k-hat, so that all images get twice as many, which are too few too
    assert (result.num_samples == 8).all() and np.isposinf(result.khat).all() and (result.failing == 1).all()
    assert np.isfinite(result.log_px).all()
    assert (result.ess >= 1 - 1e-4).all() and (result.ess <= 16 + 1e-4).all() and (result.ess > 4).any()
    facts = json.loads(result.runs)
    assert len(facts) == 3 and all(f["seconds"] > 0 and f["torch"] and f["device"] for f in facts)


def test_the_health_of_the_scores_is_kept_by_repeat(tmp_path, monkeypatch):
    """The worst k-hat of its models, how many samples all of them have, and how often each model fails."""
    original, scored = memlib.tasks.score_images, []

    def recorded(*args, **options):
        assert options["paired"] and options["rescoring"] == 2
        scored.append(original(*args, **options))
        return scored[-1]

    monkeypatch.setattr("memlib.tasks.score_images", recorded)
    # no k-hat is above it: no image gets more samples
    monkeypatch.setattr("memlib.scoring.khat_threshold", lambda S: float("nan"))
    result = run(dataclasses.replace(TINY, num_samples=32, rescoring=2), tmp_path, progress=False)
    assert len(scored) == 4 and (result.num_samples == 32).all() and np.isfinite(result.khat).all()
    for repeat in range(2):
        for epoch in range(2):
            own, at = scored[2 * repeat + epoch], {"repeat": repeat, "epoch": epoch}
            np.testing.assert_array_equal(result.log_px[at], own.log_px)
            np.testing.assert_array_equal(result.ess[at], own.ess)
            np.testing.assert_array_equal(result.khat[at], own.khat.amax(0))
            share = (own.khat > khat_threshold(32)).double().mean(1)
            np.testing.assert_allclose(result.failing[at], share)
    assert 0 < result.failing.mean() < 1
    assert result.khat.dtype == np.float32 and result.num_samples.dtype == np.int32


def test_a_k_hat_is_too_high_by_the_samples_behind_it():
    """With S and with four times S samples: the same k-hat fails one threshold and not the other."""
    between = (khat_threshold(32) + khat_threshold(128)) / 2
    khat = np.full((1, 2, 4), between, np.float32)
    khat[0, 0] = [np.inf, -1, 0, 0.9]
    num_samples = np.array([[[32, 32, 128, 128]] * 2], np.int32)
    health = memlib.tasks._health(khat, num_samples)
    np.testing.assert_array_equal(health["failing"], [[0.5, 0.5]])
    np.testing.assert_array_equal(health["khat"], khat.max(1))
    np.testing.assert_array_equal(health["num_samples"], [[32, 32, 128, 128]])


def test_what_is_stored_is_what_the_run_returned(stored, monkeypatch):
    root, result = stored
    monkeypatch.setattr("memlib.tasks.fit", None)  # training now would fail
    equal(memlib.stored(TINY, root), result)
    assert memlib.stored(TINY, root).attrs == result.attrs
    assert memlib.stored(dataclasses.replace(TINY, repeats=1), root).sizes["repeat"] == 1


def test_what_is_not_stored_is_refused_and_nothing_trains_or_is_written(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.tasks.fit", None)  # training would fail
    with pytest.raises(
        store.StoreError, match=r"3 of 3 tasks are missing in .*; run the experiment with the"
    ):
        memlib.stored(TINY, tmp_path)
    assert not list(tmp_path.iterdir())
    folder = tmp_path / Path(stored[1].folder).name
    shutil.copytree(stored[1].folder, folder)
    more = dataclasses.replace(TINY, repeats=50)
    there = len(list(folder.glob("*.npz")))
    with pytest.raises(store.StoreError, match=rf"{51 - there} of 51 tasks are missing in {folder}"):
        memlib.stored(more, tmp_path)
    path = store.member_path(folder, 0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(store.DamagedError, match=r"repeat-000\.npz is damaged"):
        memlib.stored(TINY, tmp_path)
    path.unlink()
    with pytest.raises(store.StoreError, match="1 of 3 tasks are missing"):
        memlib.stored(TINY, tmp_path)
    with pytest.raises(ValueError, match="experiment is 'digits-lr3'; allowed: an Experiment"):
        memlib.stored("digits-lr3", tmp_path)


def test_second_run_loads_what_is_there(stored, monkeypatch):
    root, result = stored
    monkeypatch.setattr("memlib.tasks.fit", None)  # training now would fail
    equal(run(TINY, root, progress=False), result)


def test_runs_repeat_bit_for_bit_and_do_not_depend_on_the_executor(stored, tmp_path):
    _, result = stored
    equal(run(TINY, tmp_path / "again", progress=False), result)
    with ThreadPoolExecutor(1) as executor:
        equal(run(TINY, tmp_path / "executor", executor, progress=False), result)


def test_cores_share_the_work_and_the_numbers_stay_the_same(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.PROCESSES_FLOP", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("memlib.runs.compute", None)  # so that nothing is computed here
    equal(run(TINY, tmp_path, progress=False), stored[1])


def test_a_process_that_may_start_no_others_computes_all_by_itself(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.PROCESSES_FLOP", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    equal(run(TINY, tmp_path, progress=False), stored[1])


def test_more_repeats_are_added_to_those_that_are_there(stored):
    root, result = stored
    files = {p: p.stat().st_mtime_ns for p in Path(result.folder).glob("*.npz")}
    more = run(dataclasses.replace(TINY, repeats=3), root, progress=False)
    assert more.sizes["repeat"] == 3 and more.folder == result.folder
    np.testing.assert_array_equal(more.log_px[:, :2], result.log_px)
    assert (more.log_px[:, 2] != more.log_px[:, 0]).any()
    assert all(p.stat().st_mtime_ns == before for p, before in files.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"epochs": 2},
        {"learning_rate": 1e-4},
        {"num_samples": 5},
        {"rescoring": 3},
        {"noise": "paper"},
        {"num_images": 30},
        {"precision": "bfloat16"},
    ],
)
def test_any_other_setting_has_a_folder_of_its_own(stored, changes):
    root, result = stored
    other = run(dataclasses.replace(TINY, repeats=1, **changes), root, progress=False)
    assert other.folder != result.folder


def test_evaluations_do_not_change_the_training(stored, tmp_path):
    _, result = stored
    often = run(dataclasses.replace(TINY, score_every=1), tmp_path, progress=False)
    np.testing.assert_array_equal(often.fold_loss, result.fold_loss)
    np.testing.assert_array_equal(often.train_loss, result.train_loss)


def test_interrupted_run_keeps_its_finished_repeats(tmp_path, monkeypatch):
    original = Task.train_repeats

    def stop_at_second(task, repeats, begun):
        if repeats == [1]:
            raise KeyboardInterrupt
        return original(task, repeats, begun)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Task, "train_repeats", stop_at_second)
        run(TINY, tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npz")}
    assert set(kept) == {"full.npz", "repeat-000.npz"}
    run(TINY, tmp_path, progress=False)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_processes_share_the_work_and_do_each_part_once(tmp_path, stored):
    """Two processes run the same experiment into the same folder at the same time."""
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(_run_and_count, TINY, tmp_path) for _ in range(2)]
        counts = [f.result(timeout=120) for f in futures]
    assert sum(counts) == 3
    equal(run(TINY, tmp_path, progress=False), stored[1])


def _run_and_count(experiment, root):
    torch.set_num_threads(1)
    original, written = store.write, []
    store.write = lambda path, arrays, record: (written.append(path), original(path, arrays, record))
    run(experiment, root, progress=False)
    return sum(path.parent.name != "checkpoints" for path in written)


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

    monkeypatch.setattr("memlib.runs.finish", finish)
    many = dataclasses.replace(TINY, repeats=20)
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(OSError, match="disk full"):
            run(many, tmp_path, executor, progress=False)
        assert sorted(started, key=str) == sorted([0, *finished], key=str), "all that started have ended"
    assert None in finished and len(started) < 15, "the others were never started"


def job_in(folder):
    return Job(TINY, {}, folder, "cpu")


def test_waiting_for_another_process_is_logged_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("memlib.runs.time.sleep", lambda seconds: None)
    answers = iter([[], [1], [1], [1], []])  # members that others compute
    memlib.runs._work_through(
        [[None], [1]], job_in(tmp_path), lambda groups: [Report([], {}, next(answers)) for _ in groups]
    )
    (line,) = [record.getMessage() for record in caplog.records if record.name == "memlib"]
    path = tmp_path / "repeat-001"
    assert line == f"waiting for {path}.npz, which another process computes; it holds {path}.lock"


def test_what_another_process_finished_meanwhile_is_not_waited_for(tmp_path, monkeypatch, caplog):
    """All files are there by the time the groups that were claimed elsewhere are looked at again."""
    monkeypatch.setattr("memlib.runs.time.sleep", lambda seconds: None)
    store.write(store.member_path(tmp_path, 0), {}, {})
    answers = iter([[Report([], {}, [0])], [Report([], {}, [])]])
    memlib.runs._work_through([[0]], job_in(tmp_path), lambda groups: next(answers))
    assert not caplog.records


def break_repeat(monkeypatch, broken):
    """Let one model of a repeat start with a parameter from which nothing finite follows."""
    original = Task.ensemble

    def ensemble(task, count, members):
        model = original(task, count, members)
        if broken in members:
            with torch.no_grad():
                model.params["decoder.trunk.4.bias"][members.index(broken) * count] = float("inf")
        return model

    monkeypatch.setattr(Task, "ensemble", ensemble)


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor(1)], ids=["here", "executor"])
def test_a_repeat_that_diverges_stops_alone(stored, tmp_path, monkeypatch, executor):
    break_repeat(monkeypatch, 0)
    expected = (
        "digits: training diverged: repeat 1, epoch 1 at learning_rate 0.001: the loss of 1 of 3 models is "
        f"not finite. A smaller learning_rate may help; everything else is stored in {tmp_path}"
    )
    with pytest.raises(FloatingPointError, match=re.escape(expected)):
        run(TINY, tmp_path, executor, progress=False)
    assert sorted(p.name for p in tmp_path.glob("*/*.npz")) == ["full.npz", "repeat-001.npz"]
    monkeypatch.undo()
    equal(run(TINY, tmp_path, progress=False), stored[1])


def test_a_repeat_that_diverges_leaves_those_stacked_with_it_alone(monkeypatch):
    def trained():
        task = Task(TINY, TINY.load_images(), torch.device("cpu"), lambda flop: None)
        return task.train_repeats([0, 1])

    sound = trained()
    break_repeat(monkeypatch, 1)
    first, second = trained()
    assert not first.diverged and "epoch 1 at learning_rate 0.001" in second.diverged
    for name, array in sound[0].arrays.items():
        np.testing.assert_array_equal(first.arrays[name], array, err_msg=name)


def test_a_score_that_is_not_a_number_stops_its_repeat_before_anything_is_stored(tmp_path, monkeypatch):
    original, calls = memlib.tasks.score_images, []

    def spoiled(*args, **options):
        scored = original(*args, **options)
        calls.append(args)
        if len(calls) == 2:
            scored.log_px[1, 5] = float("nan")
        return scored

    monkeypatch.setattr("memlib.tasks.score_images", spoiled)
    message = "repeat 1, epoch 3 at learning_rate 0.001: log_px is not a number"
    with pytest.raises(FloatingPointError, match=message):
        run(TINY, tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.glob("*/*.npz")) == ["full.npz", "repeat-001.npz"]


def test_an_infinite_score_stops_its_repeat(monkeypatch, tmp_path):
    original = memlib.tasks.score_images

    def spoiled(*args, **options):
        scored = original(*args, **options)
        scored.log_px[0, 0] = float("inf")
        return scored

    monkeypatch.setattr("memlib.tasks.score_images", spoiled)
    with pytest.raises(
        FloatingPointError, match=r"repeat 1, epoch 2 .* log_px is not a number; repeat 2, epoch 2"
    ):
        run(TINY, tmp_path, progress=False)


def test_damage_is_found_before_anything_trains(stored, tmp_path, monkeypatch):
    folder = tmp_path / Path(stored[1].folder).name
    shutil.copytree(stored[1].folder, folder)
    store.member_path(folder, 0).unlink()
    path = store.member_path(folder, 1)
    content = bytearray(path.read_bytes())
    content[content.index(stored[1].log_px[:, 1].values.tobytes()) + 100] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("memlib.tasks.fit", None)  # training would fail
    with pytest.raises(store.DamagedError, match=r"repeat-001\.npz is damaged"):
        run(TINY, tmp_path, progress=False)


def test_other_images_in_the_worker_are_refused(tmp_path, monkeypatch):
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, *args):
            monkeypatch.setattr("memlib.experiment._load", lambda name, split: load_images("digits", "test"))
            return super().submit(*args)

    message = "digits differs between machines: train_sha256 is [0-9a-f]{64} on this one and "
    with Elsewhere(1) as executor, pytest.raises(ValueError, match=message):
        run(TINY, tmp_path, executor, progress=False)
    assert not list(tmp_path.glob("*/*.npz"))


def test_a_worker_without_the_folder_says_so_before_it_computes(tmp_path, monkeypatch):
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, job, member):
            return super().submit(function, dataclasses.replace(job, folder=tmp_path / "elsewhere"), member)

    with Elsewhere(1) as executor, pytest.raises(store.StoreError, match="is not on this machine; allowed"):
        run(TINY, tmp_path, executor, progress=False)


def test_a_file_that_is_not_seen_here_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.SHARED_SECONDS", 0)
    reported = Report([str(tmp_path / "elsewhere" / "full.npz")], {}, [])
    monkeypatch.setattr("memlib.runs.finish", lambda job, member: reported)
    with ThreadPoolExecutor(1) as executor, pytest.raises(store.StoreError, match="which is not seen here"):
        run(TINY, tmp_path, executor, progress=False)


@pytest.mark.parametrize("executor", [object(), 2])
def test_what_is_no_executor_is_named(tmp_path, executor):
    with pytest.raises(ValueError, match=r"executor is of type \w+; allowed: a concurrent.futures.Executor"):
        run(TINY, tmp_path, executor)


# as the paper scores: noise of its own for every model, and no more samples than asked for
PAPER = {"noise": "paper", "rescoring": 1}


@pytest.mark.parametrize(
    ("name", "scoring", "sums"),  # of log_px over the images, by epoch and fold
    [
        ("digits-lr3", PAPER, [[-15992.23, -15966.13], [-14341.63, -14189.48]]),
        ("patches", PAPER, [[-440343.6, -440391.8], [-440205.0, -440328.7]]),
        ("digits-lr3", {"rescoring": 1}, [[-16024.23, -15971.94], [-14327.69, -14313.52]]),
        ("digits-lr3", {}, [[-15983.63, -15901.54], [-14139.89, -14144.97]]),
        ("patches", {}, [[-440342.9, -440392.1], [-440203.4, -440326.5]]),
    ],
    ids=["digits as the paper", "patches as the paper", "digits, no more samples", "digits", "patches"],
)
def test_the_same_request_still_gives_the_same_numbers(tmp_path, name, scoring, sums):
    small = {"num_images": 24, "epochs": 2, "score_every": 1, "folds": 2, "repeats": 1, "num_samples": 4}
    tiny = variant(name, **small, **scoring, batch_size=8, width=4 if name == "patches" else 32)
    result = run(tiny, tmp_path, device="cpu", progress=False)
    message = "the same request gives other numbers: where that is meant, raise store.RESULT_VERSION"
    # other seeds, and on digits other noise, differ by a factor of 1e-3, other machines by 1e-5 at most
    np.testing.assert_allclose(result.log_px.sum("observation")[:, 0], sums, rtol=1e-4, err_msg=message)


def test_a_precision_that_only_gpus_have_fails_before_training(tmp_path):
    with pytest.raises(ValueError, match="precision is 'tf32', which only GPUs have; allowed on cpu"):
        run(dataclasses.replace(TINY, precision="tf32"), tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_too_many_images_or_folds_fail_before_training(tmp_path):
    with pytest.raises(
        ValueError, match="num_images is 1501 and folds is 3; digits has 1500 training images"
    ):
        run(dataclasses.replace(TINY, num_images=1501), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_model_of_all_images_comes_back(stored):
    _, result = stored
    model = full_model(result)
    assert len(model) == 1
    images = TINY.load_images().images[:5]
    assert reconstruct(model, images, torch.Generator().manual_seed(0)).shape == (1, 5, 1, 32, 32)
    prior = TINY.torch_stream(Stream.SAMPLES)
    np.testing.assert_array_equal(sample(model, result.sizes["sample"], 1, prior)[0], result.samples)


def test_memorization_appears_when_a_model_is_trained_for_long(tmp_path):
    """After 120 epochs on 60 digits, seen ones are the more probable; not after one epoch."""
    changes = {"num_images": 60, "score_every": 120, "num_samples": 16, "batch_size": 30, "repeats": 1}
    gaps = []
    for epochs in (1, 120):
        long = dataclasses.replace(TINY, **(changes | {"epochs": epochs}))
        gap = memlib.memorization(run(long, tmp_path, progress=False)).gap[-1].values  # (repeat, observation)
        gaps.append((gap.mean(), gap.std() / gap.size**0.5))
    (early, early_error), (late, late_error) = gaps
    assert abs(early) < 4 * early_error
    assert late > 4 * late_error


def test_photograph_patches_run_through_the_convolutional_model(tmp_path):
    small = {"num_images": 24, "epochs": 1, "folds": 2, "repeats": 1, "num_samples": 2, "width": 4}
    result = run(variant("patches", **small), tmp_path, progress=False)
    assert np.isfinite(result.log_px).all() and result.samples.shape[1:] == (3, 32, 32)


def test_images_of_a_folder_run_end_to_end_and_are_the_same_wherever_they_lie(tmp_path, monkeypatch):
    options = {"epochs": 1, "folds": 2, "repeats": 1, "num_samples": 2, "width": 4}

    def run_on(pictures):
        write_pictures(pictures, seed=0)
        return run(
            variant("patches", images=f"folder:{pictures}", **options), tmp_path / "results", progress=False
        )

    result = run_on(tmp_path / "here")
    assert result.sizes["observation"] == 16 and Path(result.folder).name.startswith("folder-")
    assert json.loads(result.runs)[0]["images"] == f"folder:{tmp_path / 'here'}"
    monkeypatch.setattr("memlib.tasks.fit", None)  # training now would fail
    equal(run_on(tmp_path / "there"), result)
    assert len(full_model(result)) == 1
