"""A real Dask cluster of one worker process on this machine."""

import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import dask
import psutil
import pytest
from click.testing import CliRunner
from distributed import KilledWorker, LocalCluster
from test_checkpoints import same

import memlib
from memlib import __main__ as cli
from memlib import cluster, store
from memlib.experiment import variant

SETTINGS = {"num_images": 20, "epochs": 30, "score_every": 3, "folds": 2, "repeats": 1, "batch_size": 5}
# convolutions, whose files are small
SPEC = variant("digits-lr3", **SETTINGS, num_samples=4, architecture="conv", width=2)


@pytest.fixture(scope="module")
def scheduler():
    """The address of one with a worker, a process with one thread, which is started again when it ends."""
    options = {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    # workers that die in tests are not news
    with dask.config.set({"logging.distributed": "critical"}), LocalCluster(**options) as running:
        yield running.scheduler_address


@pytest.mark.slow
def test_the_command_line_computes_on_a_scheduler(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.tasks.fit", None)  # training here would fail
    words = "run digits-lr3 --num-images=20 --epochs=1 --folds=2 --repeats=1 --num-samples=2 --device cpu"
    words = [*words.split(), "--root", str(tmp_path), "--scheduler", scheduler, "--quiet"]
    done = CliRunner(catch_exceptions=False).invoke(cli.main, words)
    assert done.exit_code == 0 and f"stored in {tmp_path}" in done.output


def test_a_lost_worker_loses_no_result(scheduler, tmp_path):
    """The worker is killed after the first checkpoint of the repeat."""
    serial = memlib.run(SPEC, tmp_path / "serial", device="cpu", progress=False)
    root, results, failures = tmp_path / "cluster", [], []
    folder = root / Path(serial.folder).name
    full, path = (store.member_path(folder, member) for member in (None, 0))

    def compute(executor):
        try:
            results.append(memlib.run(SPEC, root, executor, device="cpu", progress=False))
        except Exception as error:
            failures.append(error)

    with cluster.connect(scheduler) as executor:
        run = threading.Thread(target=compute, args=[executor])
        run.start()
        deadline = time.monotonic() + 120
        while not store.checkpoint_epochs(folder, 0):
            assert time.monotonic() < deadline and not failures, failures
            time.sleep(0.01)
        finished = full.stat().st_mtime_ns
        assert not path.exists(), "the repeat was finished before its worker could be killed"
        lock = str(store.lock_path(path))
        children = psutil.Process().children(recursive=True)
        [lost] = [child for child in children if lock in [file.path for file in child.open_files()]]
        lost.kill()
        run.join(120)
        assert not run.is_alive() and not failures, failures
    assert full.stat().st_mtime_ns == finished
    [result] = results
    same(result, serial)
    assert store.read_record(path)["run"]["resumed"], "it went on from its checkpoint on another worker"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KilledWorker("finish", None, 3), "4 workers ended while they computed the same task"),
        (CancelledError(), "the scheduler at tcp://.* was lost; what is finished is kept"),
    ],
)
def test_what_dask_raises_says_what_was_lost(scheduler, error, message):
    with pytest.raises(cluster.ClusterError, match=message), cluster.connect(scheduler):
        raise error


def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(cluster.ClusterError, match=r"pip install 'memlib\[cluster\]'"),
        cluster.connect("tcp://127.0.0.1:8786"),
    ):
        pass
