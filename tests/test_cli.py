"""The command line; what it refuses is in bad_inputs.py."""

import dataclasses
import errno
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from memlib import __main__ as cli
from memlib import book, inventory
from memlib.cluster import ClusterError
from memlib.experiment import EXPERIMENTS, Experiment
from memlib.inventory import Stored
from memlib.store import StoreError

SMALL = "--epochs 1 --folds 2 --repeats 1 --num-images 24 --num-samples 2 --quiet"


def call(*words: str):
    """Run a command; anything but a message on bad input is a defect and raised."""
    return CliRunner(catch_exceptions=False).invoke(cli.main, " ".join(words).split())


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli.memlib, "variant", lambda name, **changes: int("two"))
    with pytest.raises(ValueError, match="invalid literal"):
        call("run digits-lr3")


@pytest.mark.parametrize("error", [StoreError, ClusterError])
def test_what_other_processes_refuse_is_one_message(monkeypatch, error):
    def refuse(*args, **options):
        raise error("as another process told")

    monkeypatch.setattr(cli.memlib, "run", refuse)
    done = call("run digits-lr3", SMALL)
    assert done.exit_code == 2 and done.stderr.endswith("Error: as another process told\n")


def test_what_the_file_system_refuses_is_one_message(monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "results/repeat-000.npz")

    monkeypatch.setattr(cli.memlib, "run", full)
    done = call("run digits-lr3", SMALL)
    assert done.exit_code == 2 and "No space left on device: 'results/repeat-000.npz'" in done.stderr
    monkeypatch.setattr(cli.memlib, "run", lambda *args, **options: open("/dev/null/nothing"))
    with pytest.raises(NotADirectoryError):
        call("run digits-lr3", SMALL)


def test_a_quantile_of_too_few_images_is_not_told(tmp_path):
    few = call("run digits-lr3", SMALL.replace("24", "19"), f"--root {tmp_path}").output
    assert "M of 19 images at epoch 1: median " in few and "0.95 quantile" not in few


def test_every_field_has_an_option_with_help():
    text = " ".join(call("run --help").output.split())
    for field in dataclasses.fields(Experiment):
        assert f"--{field.name.replace('_', '-')} " in text
        assert " ".join(field.metadata["help"].split()[:3]) in text


def test_run_then_list(tmp_path):
    root = f"--root {tmp_path}"
    assert [line.split() for line in call("list", root).output.splitlines()] == [
        [name, "-"] for name in EXPERIMENTS
    ]
    first = call("run digits-lr3", SMALL, root)
    assert first.exit_code == 0
    assert first.output.startswith("digits-lr3: images=digits, num_images=24,")
    assert f"stored in {tmp_path}" in first.output
    assert "M of 24 images at epoch 1: median " in first.output and "0.95 quantile " in first.output
    estimate = [line for line in first.output.splitlines() if "here (CPU, 1 core" in line]
    assert "3 models, 1 steps each\n" in first.output and len(estimate) == 1
    again = call("run digits-lr3", SMALL, root).output
    assert "nothing is missing" in again
    assert again.splitlines()[-2:] == first.output.splitlines()[-2:]

    variant = call("list", root).output.splitlines()[-1]
    expected = "digits-lr3 with num_images=24, epochs=1, num_samples=2, folds=2: 1 repeat, "
    assert variant.startswith(expected) and variant.endswith(" new")


def test_scores_writes_what_was_run_and_trains_nothing(tmp_path, monkeypatch):
    root, fields = f"--root {tmp_path}/results", SMALL.replace("--quiet", "--score-every 1")
    assert call("run digits-lr3", fields, root, "--quiet").exit_code == 0
    monkeypatch.setattr("memlib.tasks.fit", None)  # training now would fail
    out = tmp_path / "scores.parquet"
    done = call("scores digits-lr3", fields, root, f"--out {out}")
    assert done.exit_code == 0
    size = cli._size(out.stat().st_size)
    assert done.output == f"{out}: 24 rows, 24 images, epochs evaluated: 1, {size}\n"
    assert pq.read_metadata(out).num_rows == 24
    again = call("scores digits-lr3", fields, root, f"--out {out}")
    assert again.exit_code == 2 and "is there already" in again.stderr
    monkeypatch.setenv("HOME", str(tmp_path))
    home = call("scores digits-lr3", fields, root, "--out=~/mine.parquet")
    assert home.exit_code == 0 and home.output.endswith(f"24 images, epochs evaluated: 1, {size}\n")
    assert pq.read_table(tmp_path / "mine.parquet").equals(pq.read_table(out))


def test_scores_of_what_was_not_run_are_refused_and_nothing_trains(tmp_path, monkeypatch):
    root, fields = f"--root {tmp_path}", SMALL.replace("--quiet", "")
    out = f"--out {tmp_path}/scores.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("memlib.tasks.fit", None)  # training would fail
        nothing = call("scores digits-lr3", fields, root, out)
    assert nothing.exit_code == 2 and not list(tmp_path.iterdir())
    assert "Error: 2 of 2 tasks are missing in " in nothing.stderr and "run the experiment" in nothing.stderr
    assert call("run digits-lr3", fields, root, "--quiet").exit_code == 0
    monkeypatch.setattr("memlib.tasks.fit", None)
    more = call("scores digits-lr3", fields.replace("--repeats 1", "--repeats 3"), root, out)
    assert more.exit_code == 2 and "Error: 2 of 4 tasks are missing in " in more.stderr
    other = call("scores digits-lr3", fields, "--seed 1", root, out)
    assert other.exit_code == 2 and "Error: 2 of 2 tasks are missing in " in other.stderr
    [path] = tmp_path.glob("*/full.npz")
    path.write_bytes(path.read_bytes()[:-100])
    damaged = call("scores digits-lr3", fields, root, out)
    assert damaged.exit_code == 2 and "full.npz is damaged" in damaged.stderr
    assert not (tmp_path / "scores.parquet").exists() and len(list(tmp_path.iterdir())) == 1


def test_list_names_damaged_files(tmp_path):
    (tmp_path / "digits-0").mkdir()
    (tmp_path / "digits-0" / "full.npz").write_bytes(b"nothing")
    listed = call(f"list --root {tmp_path}")
    assert listed.exit_code == 0 and len(listed.output.splitlines()) == len(EXPERIMENTS) + 1
    assert f"{tmp_path}/digits-0/full.npz is damaged" in listed.output


def test_list_shows_the_progress_of_a_registered_experiment(monkeypatch):
    experiment = EXPERIMENTS["mnist-lr4"]
    stored = Stored(
        folder=Path("mnist-0"),
        request=dataclasses.asdict(experiment),
        images="mnist",
        finished=[None, 0, 1, 2],
        begun={3: 20, 4: 35},
        running=[4],
        bytes=12_300_000,
        modified=0.0,
        problems=["repeat-003-epoch-000025.npz is damaged"],
    )
    monkeypatch.setattr(inventory, "list_results", lambda root: [stored])
    lines = call("list").output.splitlines()
    line = next(line for line in lines if line.startswith("mnist-lr4"))
    state = "3/10 repeats, 2 begun (epoch 20 to 35 of 100), 1 running, 12 MB, "
    assert state in line and line.endswith(" days old")
    assert lines[-1] == "repeat-003-epoch-000025.npz is damaged"


def test_verify_counts_the_files_and_fails_where_one_is_damaged(tmp_path):
    root = f"--root {tmp_path}"
    assert call("verify", root).output == "0 files, all whole\n"
    assert call("run digits-lr3", SMALL, root).exit_code == 0
    assert call("verify", root).output == "2 files, all whole\n"
    [path] = tmp_path.glob("*/full.npz")
    path.write_bytes(path.read_bytes()[:-100])
    damaged = call("verify", root)
    assert damaged.exit_code == 1 and "Traceback" not in damaged.output
    first, last = damaged.output.splitlines()
    assert first.startswith(f"{path} is damaged") and last == "2 files, 1 of them unusable"


def test_data_lists_every_set(tmp_path):
    lines = call(f"data --root {tmp_path}").output.splitlines()
    assert [line.split()[0] for line in lines] == [
        "digits",
        "patches",
        "mnist",
        "cifar10",
        "cifar10-jpeg",
        "celeba",
    ]
    assert str(tmp_path) in lines[2]


def test_book_passes_its_options_on_and_fails_with_status_1(monkeypatch, tmp_path):
    calls = []

    def build(size, **options):
        calls.append((size, options))
        if size == "quick":
            raise book.BuildError("1 of 9 pages failed: index")
        return tmp_path / "index.html"

    monkeypatch.setattr(book, "build_book", build)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    done = call("book --jobs 3 --page a --page b")
    assert done.exit_code == 0 and done.output.splitlines()[-1] == f"The book: {tmp_path / 'index.html'}"
    failed = call("book --size quick")
    assert failed.exit_code == 1 and failed.stderr == "Error: 1 of 9 pages failed: index\n"
    assert calls == [("laptop", {"jobs": 3, "only": ("a", "b")}), ("quick", {"jobs": None, "only": ()})]
