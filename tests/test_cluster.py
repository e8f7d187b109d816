"""Real Dask clusters on this machine, of worker processes with one thread."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster, get_task_stream
from test_checkpoints import same

import memlib
from memlib.experiment import variant
from memlib.runs import cli, executors, store
from memlib.runs.checkpoints import Checkpoints

SETTINGS = {"num_images": 20, "epochs": 6, "score_every": 2, "folds": 2, "repeats": 1, "batch_size": 5}
SETTINGS |= {"num_samples": 4, "architecture": "conv", "width": 2}  # convolutions, whose files are small
SPEC = variant("digits-lr3", **SETTINGS)


@contextlib.contextmanager
def workers(count):
    """The address of a scheduler with so many, which are started again when they end."""
    options = {"n_workers": count, "threads_per_worker": 1, "host": "127.0.0.1"}
    options["dashboard_address"] = "127.0.0.1:0"  # any port: another cluster may run here
    # workers that die in tests are not news
    with dask.config.set({"logging.distributed": "critical"}), LocalCluster(**options) as running:
        yield running.scheduler_address


@pytest.fixture(scope="module")
def scheduler():
    with workers(2) as address:
        yield address


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return memlib.run(SPEC, root=tmp_path_factory.mktemp("serial"), device="cpu", progress=False)


@pytest.mark.slow
def test_the_command_line_computes_on_a_scheduler(scheduler, serial, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training here would fail
    fields = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    words = ["run", "digits-lr3", *fields, "--root", str(tmp_path), "--device=cpu", "--quiet"]
    done = CliRunner(catch_exceptions=False).invoke(cli.main, [*words, "--scheduler", scheduler])
    assert done.exit_code == 0 and f"stored in {tmp_path}" in done.output
    same(memlib.run(SPEC, root=tmp_path, device="cpu", progress=False), serial)


@pytest.mark.slow
def test_two_workers_share_a_run(scheduler, tmp_path):
    many = dataclasses.replace(SPEC, repeats=4)
    with Client(scheduler) as client, get_task_stream(client) as stream:
        client.wait_for_workers(2)
        with executors.connect(scheduler) as executor:
            result = memlib.run(
                many, root=tmp_path / "cluster", executor=executor, device="cpu", progress=False
            )
    assert len(stream.data) == 5 and len({task["worker"] for task in stream.data}) == 2
    same(result, memlib.run(many, root=tmp_path / "serial", device="cpu", progress=False))


@pytest.mark.slow
def test_a_task_that_ends_every_worker_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.run.finish", lambda job, member: os._exit(1))
    message = "2 workers of the executor, a ClientExecutor, ended while they computed the same task"
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        workers(1) as address,
        pytest.raises(executors.ExecutorError, match=message),
        executors.connect(address) as executor,
    ):
        memlib.run(SPEC, root=tmp_path, executor=executor, progress=False)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("before", r"a ClientExecutor, takes no tasks \(Client is closed"),
        ("during", r"a task of the executor, a ClientExecutor, was lost \(CancelledError\)"),
    ],
)
def test_a_client_that_is_closed_is_named(scheduler, tmp_path, monkeypatch, when, message):
    monkeypatch.setattr("memlib.runs.run.finish", lambda job, member: time.sleep(60))
    client = Client(scheduler)
    executor = client.get_executor(pure=False)
    if when == "before":
        client.close()
    else:
        threading.Timer(2, client.close).start()
    with pytest.raises(executors.ExecutorError, match=f"{message}.*; what is finished is kept"):
        memlib.run(SPEC, root=tmp_path, executor=executor, progress=False)


def hold(marker):
    """Let the first worker that writes a checkpoint of a repeat go on no more, and tell which it is."""
    original = Checkpoints.write

    def write(self, member, progress, i):
        original(self, member, progress, i)
        if member is not None and not marker.exists():
            marker.write_text(str(os.getpid()))
            time.sleep(600)

    Checkpoints.write = write


def test_a_lost_worker_loses_no_result(scheduler, serial, tmp_path):
    """The worker is killed after the first checkpoint of the repeat, and the other one goes on."""
    results, failures, marker = [], [], tmp_path / "held"
    folder = tmp_path / Path(serial.folder).name
    full, path = (store.member_path(folder, member) for member in (None, 0))

    def compute(executor):
        try:
            results.append(memlib.run(SPEC, root=tmp_path, executor=executor, device="cpu", progress=False))
        except Exception as error:
            failures.append(error)

    with Client(scheduler) as client, executors.connect(scheduler) as executor:
        client.wait_for_workers(2)
        client.run(hold, marker)
        run = threading.Thread(target=compute, args=[executor])
        run.start()
        deadline = time.monotonic() + 120
        while not (marker.exists() and marker.read_text() and full.exists()):
            assert time.monotonic() < deadline and not failures, failures
            time.sleep(0.01)
        finished = full.stat().st_mtime_ns
        lost = int(marker.read_text())
        psutil.Process(lost).kill()
        run.join(120)
        assert not run.is_alive() and not failures, failures
        assert lost not in client.run(os.getpid).values()
    assert full.stat().st_mtime_ns == finished
    [result] = results
    same(result, serial)
    assert store.read_record(path)["run"]["resumed"] == [2], (
        "it went on from its checkpoint on another worker"
    )


def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(executors.ExecutorError, match=r"pip install 'memlib\[cluster\]'"),
        executors.connect("tcp://127.0.0.1:8786"),
    ):
        pass
