"""Runs that are killed at random moments, resumed each time, and compared with one that never was."""

import contextlib
import dataclasses
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from memlib import store
from memlib.experiment import variant
from memlib.runs import run

SPEC = variant(
    "digits-lr3", num_images=40, epochs=6, score_every=2, folds=2, repeats=2, num_samples=4, batch_size=8
)
LONGER = dataclasses.replace(SPEC, epochs=30, score_every=5)
KILLS, IN_WRITES = 20, 8  # of which so many inside a write


class _Moments:
    """Counts what a run does, and kills its process at one moment: as soon as `alarm` of them have passed.

    Moments are: a step of training or scoring has been done; and in every write, which are the only ones to
    count where `in_writes`: before each array and half way through it, before the file is synced, before and
    after it gets its name, before a checkpoint is given up.
    """

    def __init__(self, alarm, in_writes):
        self.alarm, self.in_writes, self.passed = alarm, in_writes, 0

    def __call__(self, in_write=True):
        if in_write or not self.in_writes:
            self.passed += 1
            if self.passed == self.alarm:
                os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner, name, after=False):
        """Make calls of a function moments."""
        original = getattr(owner, name)

        def call(*args, **kwargs):
            self()
            result = original(*args, **kwargs)
            if after:
                self()
            return result

        setattr(owner, name, call)

    def half_way(self):
        """Make the beginning and the middle of every array that goes into a file moments."""

        def writestr(archive, member, content):
            self()
            with archive.open(member, "w") as file:
                half = len(content) // 2
                file.write(content[:half])
                archive.fp.flush()
                self()
                file.write(content[half:])

        zipfile.ZipFile.writestr = writestr


def _sitting(root, alarm, in_writes, passed):
    """A process that runs until it is killed; tells how many moments a whole run has."""
    import memlib.runs
    import memlib.worker

    moments = _Moments(alarm, in_writes)

    class Bar(contextlib.nullcontext):
        def __init__(self, *args, **kwargs):
            super().__init__(self)

        def update(self, flop):
            moments(in_write=False)

    memlib.runs.progress_bar = Bar
    moments.half_way()
    moments.before(os, "fsync")
    moments.before(Path, "replace", after=True)
    moments.before(Path, "unlink")
    memlib.runs.run(SPEC, root, device="cpu")
    passed.value = moments.passed


@pytest.fixture(scope="module")
def context():
    """Processes that come with memlib imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memlib.runs", "sklearn.datasets", "torch._dynamo"])
    return context


def sit(context, root, alarm, in_writes):
    """The exit status of a sitting, and the moments that passed if it came to its end."""
    passed = context.Value("q", 0)
    process = context.Process(target=_sitting, args=(root, alarm, in_writes, passed))
    process.start()
    process.join(120)
    return process.exitcode, passed.value


def members_of(root):
    """The bytes of all arrays, by file and name; the record, which holds times, left out."""
    found = {}
    for path in root.glob("*/*.npz"):
        with zipfile.ZipFile(path) as file:
            found |= {(path.name, n): file.read(n) for n in file.namelist() if n != f"{store.RECORD}.npy"}
    return found


def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bytes(context, tmp_path):
    whole, rng = tmp_path / "whole", random.Random(20)
    status, steps = sit(context, whole, 0, False)
    assert status == 0
    expected = members_of(whole)
    assert {file for file, _ in expected} == {"full.npz", "repeat-000.npz", "repeat-001.npz"}
    status, writes = sit(context, tmp_path / "again", 0, True)
    assert status == 0 and members_of(tmp_path / "again") == expected and 100 < writes < steps

    killed, partial, finished, parts, root = 0, 0, 0, set(), tmp_path / "killed-0"
    while killed < KILLS:
        in_writes = killed < IN_WRITES
        # short enough that most sittings end before the run does
        alarm = rng.randint(1, (writes if in_writes else steps) // 2)
        status, _ = sit(context, root, alarm, in_writes)
        if status == 0:
            assert members_of(root) == expected
            finished += 1
            root = tmp_path / f"killed-{finished}"
        else:
            assert status == -signal.SIGKILL
            killed += 1
            parts, before = {*root.rglob("*.part")}, parts
            partial += bool(parts - before)
    assert sit(context, root, 0, False)[0] == 0
    assert members_of(root) == expected
    assert partial >= 3, "that many died inside a write"
    assert not list(root.rglob("*.part")) and not list(root.rglob("*epoch*")), "nothing is left lying about"


SCRIPT = """
import sys, torch
import memlib.runs
from test_killed import LONGER
memlib.runs.PROCESSES_FLOP = 0
torch.set_num_threads(2)
memlib.runs.run(LONGER, sys.argv[1], device="cpu", progress=False)
"""


def test_processes_that_lose_the_one_that_started_them_end_and_the_run_goes_on(tmp_path):
    """SIGKILL from outside, as soon as there is a checkpoint, to the process that a user sees."""
    run(LONGER, tmp_path / "whole", device="cpu", progress=False)
    root, environment = tmp_path / "killed", {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    command = [sys.executable, "-c", SCRIPT, str(root)]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while not list(root.rglob("*epoch*.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert members_of(root) == members_of(tmp_path / "whole")
