"""A real Dask cluster of two worker processes on this machine."""

import os
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import dask
import psutil
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster
from test_checkpoints import same

import memlib
from memlib import __main__ as cli
from memlib import cluster, store
from memlib.experiment import variant

SETTINGS = {"num_images": 60, "epochs": 40, "score_every": 4, "folds": 2, "repeats": 3, "num_samples": 4}
SPEC = variant("digits-lr3", **SETTINGS, batch_size=16)


@pytest.fixture(scope="module")
def dask_cluster():
    """Two processes with one thread each, which are started again when they end."""
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    # workers that die in tests are not news
    with dask.config.set({"logging.distributed": "critical"}), LocalCluster(**options) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return memlib.run(SPEC, tmp_path_factory.mktemp("serial"), device="cpu", progress=False)


def holder(client, folder, repeat):
    """The process id of the worker that computes a repeat now."""
    lock = str(store.lock_path(store.member_path(folder, repeat)))
    for pid in client.run(os.getpid).values():
        if lock in [file.path for file in psutil.Process(pid).open_files()]:
            return pid
    return None


def test_a_lost_worker_loses_no_result(dask_cluster, serial, tmp_path):
    """The worker of the second repeat is killed after the repeat's first checkpoint."""
    folder, results, failures = tmp_path / Path(serial.folder).name, [], []

    def compute(executor):
        try:
            results.append(memlib.run(SPEC, tmp_path, executor, device="cpu", progress=False))
        except Exception as error:
            failures.append(error)

    with Client(dask_cluster) as client:
        run = threading.Thread(target=compute, args=[client.get_executor(pure=False)])
        run.start()
        deadline = time.monotonic() + 120
        while not store.checkpoint_epochs(folder, 1):
            assert time.monotonic() < deadline and not failures, failures
            time.sleep(0.01)
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
        lost = holder(client, folder, 1)
        assert lost is not None, "the repeat was finished before its worker could be killed"
        psutil.Process(lost).kill()
        run.join(120)
        assert not run.is_alive() and not failures, failures
        assert lost not in client.run(os.getpid).values()
    assert finished and all(path.stat().st_mtime_ns == before for path, before in finished.items())
    [result] = results
    same(result, serial)
    record = store.read_record(store.member_path(folder, 1))
    assert record["run"]["resumed"], "the second repeat went on from its checkpoint on another worker"


def test_the_command_line_computes_on_a_scheduler(dask_cluster, serial, tmp_path, monkeypatch):
    fields = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    where = f"--root {tmp_path} --device cpu --scheduler {dask_cluster.scheduler_address} --quiet"
    words = ["run", "digits-lr3", "--batch-size=16", *fields, *where.split()]
    done = CliRunner(catch_exceptions=False).invoke(cli.main, words)
    assert done.exit_code == 0 and f"stored in {tmp_path}" in done.output
    monkeypatch.setattr("memlib.tasks.fit", None)  # training here would fail
    same(memlib.run(SPEC, tmp_path, device="cpu", progress=False), serial)


def test_a_task_that_ends_every_worker_is_given_up_with_a_clear_message(dask_cluster):
    with (
        pytest.raises(cluster.ClusterError, match="4 workers ended while they computed the same task"),
        cluster.connect(dask_cluster.scheduler_address) as executor,
    ):
        executor.submit(os._exit, 1).result()


def test_a_scheduler_that_is_lost_is_named(dask_cluster):
    address = dask_cluster.scheduler_address
    with (
        pytest.raises(cluster.ClusterError, match=f"the scheduler at {address} was lost; what is finished"),
        cluster.connect(address),
    ):
        raise CancelledError  # what Dask's futures then raise


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(cluster.ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"),
        cluster.connect("tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize("scheduler", ["127.0.0.1:8786", "tcp://127.0.0.1", ""])
def test_what_is_no_address_is_named(scheduler):
    with pytest.raises(ValueError, match="allowed: an address such as tcp://"), cluster.connect(scheduler):
        pass


def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(cluster.ClusterError, match=r"pip install 'memlib\[cluster\]'"),
        cluster.connect("tcp://127.0.0.1:8786"),
    ):
        pass
