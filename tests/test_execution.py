"""The execution of pages: what has changed, what fails, where it was done."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from tinybook import CHECK, notebook, write_book, write_params

from book._ext import execution
from book._ext.execution import commit, execute_pages, needed_files, page_key, provenance, same_code
from book._ext.pages import ROOT, Page


def test_failing_page_is_named_and_the_others_finish(tmp_path, capsys):
    write_book(
        tmp_path,
        bad=notebook(CHECK, "print('never')"),
        good=notebook("import os\nprint(os.getcwd(), os.environ['OMP_NUM_THREADS'])"),
    )
    executed = tmp_path / "_build" / "executed" / "book"
    executed.mkdir(parents=True)
    nbformat.write(notebook(), executed / "bad.ipynb")
    failed = execute_pages([Page("bad", {"epoch": 2}), Page("good", {"epochs": 2})], tmp_path)
    assert failed == ["bad"]
    out, err = capsys.readouterr()
    assert re.search(r"bad +[\d.]+ s  FAILED", out) and re.search(r"good +[\d.]+ s\n", out)
    assert (
        "bad failed in cell In [3]" in err
        and "unknown parameter 'epoch' (did you mean epochs?)" in err
        and "\x1b" not in err
    )
    assert sorted(p.name for p in executed.glob("*.ipynb")) == ["bad.failed.ipynb", "good.ipynb"]

    good = nbformat.read(executed / "good.ipynb", 4)
    folder, threads = good.cells[-1].outputs[0].text.split()
    assert folder == str(tmp_path) and 1 <= int(threads) <= (os.cpu_count() or 1)
    assert good.metadata.papermill.parameters == {"epochs": 2}
    facts = good.metadata.memlib
    where = {"processor", "gpu", "cores", "python", "torch", "memlib", "commit"}
    assert facts.keys() == {"key", "seconds", "date"} | where
    assert facts.cores == int(threads) and facts.commit == "not a git checkout"
    assert str(tmp_path) not in json.dumps(good.metadata)


LAUNCHER = """\
import pathlib, sys
starts = pathlib.Path("starts")
starts.write_text(starts.read_text() + "." if starts.exists() else ".")
if len(starts.read_text()) <= {deaths}:
    sys.exit("the port is taken")
from ipykernel import kernelapp
kernelapp.launch_new_instance()
"""


@pytest.mark.parametrize(("deaths", "failed"), [(1, []), (2, ["index"])])
def test_a_kernel_that_does_not_start_is_started_once_more(tmp_path, capsys, deaths, failed):
    """The book's folder, in which kernels start, has a launcher that first dies."""
    write_book(tmp_path, index=notebook("1"))
    (tmp_path / "ipykernel_launcher.py").write_text(LAUNCHER.format(deaths=deaths))
    assert execute_pages([Page("index", {})], tmp_path) == failed
    out, err = capsys.readouterr()
    message = "index: Kernel died before replying to kernel_info; it is started once more"
    assert out.splitlines().count(message) == 1
    assert ("Kernel died before replying" in err) == bool(failed)
    assert (tmp_path / "starts").read_text() == ".."


def test_page_is_executed_again_only_when_something_changed(tmp_path, monkeypatch, capsys):
    write_book(tmp_path, index=notebook("import memlib\nmemlib.load_images"))
    monkeypatch.setattr(execution, "PACKAGE", shutil.copytree(ROOT / "memlib", tmp_path / "memlib"))
    page = Page("index", {"epochs": 2})
    part = tmp_path / "_build" / "executed" / "book" / "index.part.ipynb"
    part.parent.mkdir(parents=True)
    part.write_text('{"cells": [')  # of a build that was killed
    for expected in ("1 of 1", "0 of 1"):
        assert execute_pages([page], tmp_path) == []
        assert capsys.readouterr().out.startswith(f"{expected} pages to execute")

    keys = [page_key(page, tmp_path / "book")]
    assert keys[0] == nbformat.read(tmp_path / "_build/executed/book/index.ipynb", 4).metadata.memlib.key
    keys.append(page_key(Page("index", {"epochs": 3}), tmp_path / "book"))
    for name in ("datasets.py", "__init__.pyi", "checks.py"):
        with open(tmp_path / "memlib" / name, "a") as file:
            file.write("\n")
        keys.append(page_key(page, tmp_path / "book"))
    for name in ("metrics/fid.py", "training.py", "figures/house.mplstyle"):
        with open(tmp_path / "memlib" / name, "a") as file:
            file.write("\n")
        assert page_key(page, tmp_path / "book") == keys[-1], f"{name} is not needed"
    write_book(tmp_path, index=notebook("2"))
    keys.append(page_key(page, tmp_path / "book"))
    assert len(set(keys)) == 6
    assert execute_pages([page], tmp_path) == []
    assert capsys.readouterr().out.startswith("1 of 1")


@pytest.mark.parametrize(
    ("code", "needed", "other"),
    [
        ("import memlib\nmemlib.run(x)", "runs/run.py training.py checks.py __init__.pyi", "metrics/fid.py"),
        ("def f():\n    from memlib.metrics import mifid", "metrics/mifid.py metrics/fid.py", "training.py"),
        ("import memlib\nmemlib.figures.extremes", "figures/images.py figures/house.mplstyle", "training.py"),
        ("from memlib.chapters.explorer import explore", "chapters/explorer.css", "chapters/planted.py"),
        ("from memlib import variant", "experiment.py models.py", "runs/run.py"),
        ('program = ["-m", "memlib"]', "__main__.py runs/cli.py runs/run.py", "metrics/fid.py"),
    ],
)
def test_a_notebook_needs_what_it_imports(code, needed, other):
    files = {file.relative_to(ROOT / "memlib").as_posix() for file in needed_files(notebook(code))}
    assert files >= {*needed.split()} and other not in files
    assert not any("_ext" in file for file in files)


def test_code_is_the_same_wherever_its_names_are_imported_from():
    first = notebook("from a import f\nimport b\n\nx = f(1, key='a')  # why")
    assert same_code(notebook('from c.d import f\nx = f(\n    1, key="a"\n)', title="Another"), first)
    others = "x = f(1, key='b')", "x = f(2, key='a')", "x = f(1, a='key')", "x = None", "x = ''"
    assert not any(same_code(notebook(code), first) for code in others)
    assert not same_code(notebook("x = f(1, key='a')", "1"), first)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_kernels(tmp_path, sent, status):
    code = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(99)"
    write_book(tmp_path, index=notebook(code), one=notebook(), two=notebook())
    write_params(tmp_path)
    # a shell that starts this in the background has interrupts ignored
    call = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from book._ext.build import main\nmain(['--size', 'quick', '--root', '.', '--page', 'index'])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", call], cwd=tmp_path, env=environment)
    _wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    kernel = int((tmp_path / "pid").read_text())
    process.send_signal(sent)
    assert process.wait(timeout=20) == status
    _wait_until(lambda: not _alive(kernel))
    assert not list((tmp_path / "_build" / "executed" / "book").glob("*.ipynb"))


def _wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_gpu_is_named_where_memlib_computes_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, number {device.index}")
    for device, name in (("cuda:1", "a GPU, number 1"), ("cpu", "")):
        monkeypatch.setattr(execution, "choose_device", lambda device=device: torch.device(device))
        assert provenance(tmp_path)["gpu"] == name


def git(folder, *arguments: str) -> str:
    """Run git as somebody, whatever the user's own configuration is."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_commit_is_named_and_marked_where_files_differ_from_it(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) == "unknown"  # none yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    name = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit(tmp_path) == name
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == f"{name}-dirty"
    (tmp_path / "inside").mkdir()
    assert commit(tmp_path / "inside") == "not a git checkout"
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) == "unknown"
