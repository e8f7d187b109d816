"""The command line; what it refuses is in bad_inputs.py."""

import dataclasses
import datetime
import errno
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from memlib.experiment import EXPERIMENTS
from memlib.runs import cli, inventory
from memlib.runs.executors import ExecutorError
from memlib.runs.inventory import Stored
from memlib.runs.store import StoreError

SMALL = "--epochs 1 --folds 2 --repeats 1 --num-images 24 --num-samples 2"


def call(*words: str):
    """Run a command; anything but a message on bad input is a defect and raised."""
    return CliRunner(catch_exceptions=False).invoke(cli.main, " ".join(words).split())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A results folder, and the first run in it."""
    root = tmp_path_factory.mktemp("results")
    return root, call("run digits-lr3", SMALL, f"--quiet --root {root}")


@pytest.fixture
def spoilt(first, tmp_path):
    """A copy of the results folder in which a file is cut, and that file."""
    root = shutil.copytree(first[0], tmp_path / "spoilt")
    [path] = root.glob("*/full.npz")
    path.write_bytes(path.read_bytes()[:-100])
    return root, path


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli.memlib, "variant", lambda name, **changes: int("two"))
    with pytest.raises(ValueError, match="invalid literal"):
        call("run digits-lr3")


@pytest.mark.parametrize(
    "error",
    [
        StoreError("as another process told"),
        ExecutorError("as another process told"),
        OSError(errno.ENOSPC, "as another process told"),
    ],
)
def test_what_other_processes_and_the_file_system_refuse_is_one_message(monkeypatch, error):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(cli.memlib, "run", refuse)
    done = call("run digits-lr3", SMALL)
    assert done.exit_code == 2 and done.stderr.endswith("as another process told\n")


def test_what_else_the_file_system_says_is_a_defect(monkeypatch):
    monkeypatch.setattr(cli.memlib, "run", lambda *args, **options: open("/dev/null/nothing"))
    with pytest.raises(NotADirectoryError):
        call("run digits-lr3", SMALL)


def test_run_trains_what_is_missing_and_list_shows_it(first):
    root, done = first
    assert done.exit_code == 0
    assert done.output.startswith("digits-lr3: images=digits, num_images=24,")
    assert f"stored in {root}" in done.output
    assert "M of 24 images at epoch 1: median " in done.output and "0.95 quantile " in done.output
    estimate = [line for line in done.output.splitlines() if "here (CPU, 1 core" in line]
    assert "3 models, 1 steps each\n" in done.output and len(estimate) == 1
    again = call("run digits-lr3", SMALL, f"--quiet --root {root}").output
    assert "nothing is missing" in again
    assert again.splitlines()[-2:] == done.output.splitlines()[-2:]

    *registered, variant = call(f"list --root {root}").output.splitlines()
    assert [line.split() for line in registered] == [[name, "-"] for name in EXPERIMENTS]
    expected = "digits-lr3 with num_images=24, epochs=1, num_samples=2, folds=2: 1 repeat, "
    assert variant.startswith(expected) and str(datetime.date.today())[:7] in variant


def test_a_quantile_of_too_few_images_is_not_told(tmp_path):
    few = call("run digits-lr3", SMALL.replace("24", "19"), f"--quiet --root {tmp_path}").output
    assert "M of 19 images at epoch 1: median " in few and "0.95 quantile" not in few


def test_scores_writes_what_was_run_and_trains_nothing(first, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training now would fail
    monkeypatch.setenv("HOME", str(tmp_path))
    done = call(f"scores digits-lr3 {SMALL} --root {first[0]}", "--out=~/scores.parquet")
    out = tmp_path / "scores.parquet"
    assert done.exit_code == 0
    size = f"{out.stat().st_size / 1000:.1f}kB"
    assert done.output == f"{out}: 24 rows, 24 images, epochs evaluated: 1, {size}\n"
    assert pq.read_metadata(out).num_rows == 24


def test_scores_of_what_was_not_run_are_refused_and_nothing_trains(first, spoilt, tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training would fail
    words, out = f"scores digits-lr3 --root {first[0]} {SMALL}", f"--out {tmp_path}/scores.parquet"
    more = call(words, "--repeats 3", out)
    assert more.exit_code == 2 and "Error: 2 of 4 tasks are missing in " in more.stderr
    assert "run the experiment" in more.stderr
    other = call(words, "--seed 1", out)
    assert other.exit_code == 2 and "Error: 2 of 2 tasks are missing in " in other.stderr
    damaged = call(words.replace(str(first[0]), str(spoilt[0])), out)
    assert damaged.exit_code == 2 and "full.npz is damaged" in damaged.stderr
    assert not (tmp_path / "scores.parquet").exists() and len(list(first[0].iterdir())) == 1


def test_list_names_damaged_files(spoilt):
    root, path = spoilt
    listed = call(f"list --root {root}")
    assert listed.exit_code == 0 and f"{path} is damaged" in listed.output.splitlines()[-1]


def test_list_shows_the_progress_of_a_registered_experiment(monkeypatch):
    experiment = EXPERIMENTS["mnist-lr4"]
    stored = Stored(
        folder=Path("mnist-0"),
        request=dataclasses.asdict(experiment),
        images="mnist",
        trained=[None, 0, 1, 2],
        scored=[(dataclasses.asdict(experiment), [0, 1])],
        begun={3: 20, 4: 35},
        running=[4],
        bytes=12_300_000,
        model_bytes=10_000_000,
        modified=1e9,
        problems=["repeat-003-epoch-000025.npz is damaged"],
    )
    monkeypatch.setattr(inventory, "list_results", lambda root: [stored])
    lines = call("list").output.splitlines()
    line = next(line for line in lines if line.startswith("mnist-lr4"))
    state = "2/10 repeats, 3 trained, 2 begun (epoch 20 to 35 of 100), 1 running, 12.3MB (10.0MB of models), "
    assert state in line and line.endswith("2001-09-09")
    assert lines[-1] == "repeat-003-epoch-000025.npz is damaged"


def test_verify_counts_the_files_and_fails_where_one_is_damaged(first, spoilt):
    assert call(f"verify --root {first[0]}").output == "4 files, all whole\n"
    root, path = spoilt
    damaged = call(f"verify --root {root}")
    assert damaged.exit_code == 1
    found, last = damaged.output.splitlines()
    assert found.startswith(f"{path} is damaged") and last == "4 files, 1 of them unusable"


def test_prune_frees_the_models_of_what_was_run(first, tmp_path):
    root = shutil.copytree(first[0], tmp_path / "results")
    [models] = root.glob("*/models")
    size = sum(path.stat().st_size for path in models.iterdir())
    assert call(f"prune digits-lr3 {SMALL} --root {root}").output == f"{size / 1e6:.1f}MB freed\n"
    assert not [*models.iterdir()]
    assert call(f"scores digits-lr3 {SMALL} --root {root}", f"--out {tmp_path}/a.parquet").exit_code == 0
    anew = call(f"run digits-lr3 {SMALL} --num-samples 3 --quiet --root {root}")
    assert anew.exit_code == 2 and "any more, so that the models cannot be scored anew" in anew.stderr


def test_data_lists_every_set_and_where_it_is(tmp_path):
    lines = call(f"data --root {tmp_path}").output.splitlines()
    assert lines[0].split() == ["digits", "bundled", "with", "scikit-learn"]
    assert len(lines) == 6 and str(tmp_path) in lines[2]
