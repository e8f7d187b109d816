"""Processes of one PyTorch thread each."""

import os
import time

import pytest
import torch

from memlib.parallel import one_thread, processes, report


def test_one_thread_gives_the_threads_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_processes_compute_on_one_thread_each_and_report_their_work():
    def task(count):
        time.sleep(0.3)
        report(count / 2)
        report(count / 2, last=True)
        return os.getpid(), torch.get_num_threads()

    told = []
    with processes(2, told.append) as pool:
        answers = [future.result(60) for future in [pool.submit(task, count) for count in (1, 2, 4, 8)]]
    assert {threads for _, threads in answers} == {1}
    assert len({pid for pid, _ in answers} | {os.getpid()}) == 3
    assert sum(told) == 15


def test_a_failure_ends_the_processes_at_once():
    def endless():
        time.sleep(600)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes(1) as pool:
        pid = pool.submit(os.getpid).result(60)
        pool.submit(endless)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
