"""Processes of one PyTorch thread each; progress bars in a terminal, in a log file, and switched off."""

import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import loky
import numpy as np
import psutil
import pytest
import torch
import tqdm
from click.testing import CliRunner

import memlib
import memlib.runs.run
from memlib.device import one_thread
from memlib.runs import cli
from memlib.runs.executors import ExecutorError, processes, progress_bar, report

SMALL = {"num_images": 24, "epochs": 2, "folds": 2, "repeats": 2, "num_samples": 2}
SPEC = memlib.variant("digits-lr3", **SMALL)
KEPT = "what is finished is kept, and the same command or call goes on from there"


def test_one_thread_gives_the_threads_and_small_numbers_back():
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 2
    assert (torch.full((8,), 1e-38) / 10 > 0).all()


def test_processes_compute_on_one_thread_each_and_report_their_work():
    def task(count):
        report(count / 2)
        report(count / 2, last=True)
        return os.getpid(), torch.get_num_threads()

    told = []
    with processes(1, told.append) as pool:
        answers = [future.result(60) for future in [pool.submit(task, count) for count in (1, 2, 4)]]
    assert {threads for _, threads in answers} == {1}
    assert len({pid for pid, _ in answers} | {os.getpid()}) == 2
    assert sum(told) == 7


def test_a_failure_ends_the_processes_at_once():
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes(1) as pool:
        pool.submit(time.sleep, 60)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 30


def killed_in(stage):
    """A task that is killed when it comes to a stage, as by a machine whose memory is too short."""

    def task(job, group):
        import memlib.runs.task
        import memlib.runs.worker

        def kill(*args, **options):
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(memlib.runs.worker if stage == "choose_device" else memlib.runs.task, stage, kill)
        return memlib.runs.worker.compute(job, group)

    return task


@pytest.mark.parametrize("stage", ["choose_device", "fit", "score_images"])
def test_a_killed_process_of_a_run_is_told_in_a_sentence_and_the_run_goes_on(tmp_path, monkeypatch, stage):
    monkeypatch.setattr("memlib.runs.run._workers", lambda *_: 2)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words = ["run", "digits-lr3", *words, f"--root={tmp_path}", "--device=cpu", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr("memlib.runs.run.compute_in_process", killed_in(stage))
        done = CliRunner(catch_exceptions=False).invoke(cli.main, words)
    assert done.exit_code == 2 and "Traceback" not in done.output
    *_, told = done.stderr.splitlines()
    killed = r"Error: a worker process of this run ended with SIGKILL\(-9\)(, SIGKILL\(-9\))? before its task"
    assert re.match(killed, told), told
    assert KEPT in told
    going_on = memlib.run(SPEC, root=tmp_path, device="cpu", progress=False)
    # a process that was ended beside it may have been writing
    assert not [*tmp_path.rglob("*.part")]
    whole = memlib.run(SPEC, root=tmp_path / "whole", device="cpu", progress=False)
    np.testing.assert_array_equal(going_on.log_px, whole.log_px)


def shut_down(executor):
    executor.shutdown()
    return executor


def broken():
    def fail():
        raise RuntimeError

    return ThreadPoolExecutor(1, initializer=fail)


class ShutDownSoon(ThreadPoolExecutor):
    """Its one thread computes, and what waits for that is canceled."""

    def submit(self, *task):
        threading.Timer(0.2, lambda: self.shutdown(wait=False, cancel_futures=True)).start()
        return super().submit(time.sleep, 1)


class Killed(ProcessPoolExecutor):
    def submit(self, *task):
        return super().submit(os._exit, 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shut_down(ThreadPoolExecutor(1)), "a ThreadPoolExecutor, takes no tasks (cannot schedule"),
        (
            lambda: shut_down(loky.ProcessPoolExecutor(1)),
            "a ProcessPoolExecutor, takes no tasks (cannot schedule new futures",
        ),
        (broken, "a worker of the executor, a ThreadPoolExecutor, ended before its task did"),
        (lambda: ShutDownSoon(1), "a task of the executor, a ShutDownSoon, was lost (CancelledError)"),
        (
            lambda: Killed(2, multiprocessing.get_context("spawn")),
            "a worker of the executor, a Killed, ended before its task did",
        ),
    ],
    ids=["shut down", "loky shut down", "initializer", "shut down meanwhile", "killed"],
)
def test_an_executor_that_cannot_go_on_is_named(tmp_path, make, message):
    with make() as executor, pytest.raises(ExecutorError) as raised:
        memlib.run(SPEC, root=tmp_path, executor=executor, progress=False)
    assert message in str(raised.value) and f"{KEPT}, with an executor that works" in str(raised.value)


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor(1)], ids=["here", "executor"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not")],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_told(tmp_path, monkeypatch, executor, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("memlib.runs.task.fit", fail)
    with pytest.raises(ExecutorError, match=rf"memory is too short for a task \(.+\); {KEPT}"):
        memlib.run(SPEC, root=tmp_path, executor=executor, device="cpu", progress=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ZeroDivisionError])
def test_a_defect_of_a_task_and_an_interrupt_stay_what_they_are(tmp_path, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("memlib.runs.task.fit", fail)
    with pytest.raises(error):
        memlib.run(SPEC, root=tmp_path, device="cpu", progress=False)


SCRIPT = """
import os, sys, time
from pathlib import Path
from memlib.runs.executors import processes
with processes(1) as pool:
    pool.submit(lambda: (Path(sys.argv[1]).write_text(str(os.getpid())), time.sleep(600))).result()
"""


def test_a_process_that_loses_the_one_that_started_it_ends_in_the_middle_of_its_work(tmp_path):
    """SIGKILL from outside to the process that a user sees."""
    started = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "pid")])
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    started.kill()
    started.wait()
    process.wait(30)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, **options):
    """What a bar of 200 steps writes to standard error."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress_bar(200, "digits, 21 models", "images", **options) as bar:
        for _ in range(200):
            bar.update()
    return stream.getvalue()


@pytest.fixture
def every_step_is_due(monkeypatch):
    """A clock that moves on by a minute with each look at it, and no thread that looks at it too."""
    clock = iter(range(0, 10**9, 60))
    monkeypatch.setattr(tqdm.std, "time", lambda: next(clock))
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


@pytest.mark.usefixtures("every_step_is_due")
def test_a_terminal_shows_one_line_that_is_written_over(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert text.count("\r") > 10 and text.count("\n") == 1 and text.endswith("\n")
    assert "digits, 21 models: 100%" in text


@pytest.mark.usefixtures("every_step_is_due")
def test_a_log_file_gets_whole_lines(monkeypatch):
    text = shown(monkeypatch, io.StringIO())
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert len(lines) > 10 and all(line.startswith("digits, 21 models: ") for line in lines)
    assert "100%" in lines[-1] and "200 of 200 images" in lines[-1] and max(map(len, lines)) <= 110


@pytest.mark.usefixtures("every_step_is_due")
def test_a_log_file_gets_a_line_in_thirty_seconds_at_most(monkeypatch):
    monkeypatch.setattr(tqdm.std, "time", lambda: 0.0)
    assert len(shown(monkeypatch, io.StringIO()).splitlines()) <= 2


@pytest.mark.usefixtures("every_step_is_due")
def test_disabled_shows_nothing(monkeypatch):
    assert shown(monkeypatch, Terminal(), enabled=False) == ""
