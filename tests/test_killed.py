"""Runs that are killed at random moments, resumed each time, and compared with one that never was."""

import contextlib
import multiprocessing
import os
import random
import signal
import zipfile
from pathlib import Path

import pytest

from memlib.experiment import variant
from memlib.runs import store

SETTINGS = {"num_images": 40, "epochs": 6, "score_every": 2, "folds": 2, "repeats": 2, "batch_size": 8}
# convolutions, whose files are small
SPEC = variant("digits-lr3", **SETTINGS, num_samples=4, architecture="conv", width=2)


class _Moments:
    """Counts what a run does, and kills its process at one moment: as soon as `alarm` of them have passed.

    Moments are: a step of training or scoring has been done; and in every write, which are the only ones to
    count where `in_writes`: before each array and half way through it, before the file is synced, before and
    after it gets its name, before a checkpoint is given up.
    """

    def __init__(self, alarm, in_writes, passed):
        self.alarm, self.in_writes, self.passed = alarm, in_writes, passed

    def __call__(self, in_write=True):
        self.passed[0] += in_write
        self.passed[1] += 1
        if self.passed[0 if self.in_writes else 1] == self.alarm and (in_write or not self.in_writes):
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
    """A process that runs until it is killed."""
    import memlib
    import memlib.runs.run

    moments = _Moments(alarm, in_writes, passed)

    class Bar(contextlib.nullcontext):
        def __init__(self, *args, **kwargs):
            super().__init__(self)

        def update(self, images):
            moments(in_write=False)

    memlib.runs.run.progress_bar = Bar
    moments.half_way()
    moments.before(os, "fsync")
    moments.before(Path, "replace", after=True)
    moments.before(Path, "unlink")
    memlib.runs.run.run(SPEC, root=root, device="cpu")


@pytest.fixture(scope="module")
def context():
    """Processes that come with memlib imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memlib.runs.run", "sklearn.datasets", "torch._dynamo"])
    return context


def sit(context, root, alarm, in_writes):
    """The exit status of a sitting, and the moments that passed: in writes, and all."""
    passed = context.Array("q", 2)
    process = context.Process(target=_sitting, args=(root, alarm, in_writes, passed))
    process.start()
    process.join(120)
    return process.exitcode, passed[:]


def members_of(root):
    """The bytes of all arrays, by file and name; the record, which holds times, left out."""
    found = {}
    for path in root.rglob("*.npz"):
        name = "/".join(path.relative_to(root).parts[1:])
        with zipfile.ZipFile(path) as file:
            found |= {(name, n): file.read(n) for n in file.namelist() if n != f"{store.RECORD}.npy"}
    return found


@pytest.fixture(scope="module")
def whole(context, tmp_path_factory):
    """What a run writes that is not killed, and its moments: in writes, and all."""
    root = tmp_path_factory.mktemp("whole")
    status, (writes, moments) = sit(context, root, 0, False)
    assert status == 0 and 100 < writes < moments
    found = members_of(root)
    files = {file.partition("/")[0] for file, _ in found}
    assert files == {
        "full.npz",
        "repeat-000.npz",
        "repeat-001.npz",
        "models",
        *(f for f in files if "scores" in f),
    }
    return found, writes, moments


@pytest.mark.parametrize(
    ("kills", "in_writes", "seed"), [(3, 2, 5), pytest.param(20, 8, 20, marks=pytest.mark.slow)]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    context, whole, tmp_path, kills, in_writes, seed
):
    """So many kills, and more until a checkpoint and a result were cut while they were written."""
    expected, writes, moments = whole
    rng, root, killed, finished, cut = random.Random(seed), tmp_path / "killed-0", 0, 0, set()
    while killed < kills or len(cut) < 2:
        inside = killed < in_writes
        # short enough that most sittings end before the run does
        alarm = rng.randint(1, (writes if inside else moments) // 2)
        status, _ = sit(context, root, alarm, inside)
        if status == 0:
            assert members_of(root) == expected
            finished += 1
            root = tmp_path / f"killed-{finished}"
        else:
            assert status == -signal.SIGKILL
            killed += 1
            cut |= {part.parent.name == "checkpoints" for part in root.rglob("*.part")}
    assert sit(context, root, 0, False)[0] == 0
    assert members_of(root) == expected
    assert not list(root.rglob("*.part")) and not list(root.glob("*/checkpoints/*")), (
        "nothing is left lying about"
    )
