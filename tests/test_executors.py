"""Processes of one PyTorch thread each; progress bars in a terminal, in a log file, and switched off."""

import io
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch
import tqdm

from memlib.device import one_thread
from memlib.runs.executors import processes, progress_bar, report


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
