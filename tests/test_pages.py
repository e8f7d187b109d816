"""Pages of every size, and their execution."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import yaml
from tinybook import CHECK, notebook, write_book, write_params

from book._ext import build as book
from book._ext import pages
from book._ext.build import Page


def test_pages_of_a_size(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook(title="Score"))
    write_params(tmp_path, experiments={"one": {"epochs": 9}}, chapters={"index": {"rate": 0.5}})
    assert book.load_pages("quick", tmp_path / "book") == [
        Page("score-one", "score", "Score: the first", {"experiment": "one", "epochs": 9}),
        Page("score-two", "score", "Score: second", None),
        Page("index", "index", None, {"rate": 0.5}),
    ]
    write_book(tmp_path, score=notebook(title="Which score?"))
    assert book.load_pages("quick", tmp_path / "book")[0].title == "Which score? (the first)"
    write_book(tmp_path, score=notebook(title="Score"))
    write_params(tmp_path, "published", experiments={"two": None})
    published = book.load_pages("published", tmp_path / "book")
    assert published == [Page("score-two", "score", "Score: second", {"experiment": "two"})]


def test_a_chapter_of_published_yaml_comes_executed_from_there(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook())
    write_params(tmp_path, "published", chapters={"index": {"rate": 0.5}})
    write_params(tmp_path)
    pages = {page.name: page for page in book.load_pages("quick", tmp_path / "book")}
    assert pages["index"] == Page("index", "index", None, None)
    assert book.load_pages("published", tmp_path / "book") == [Page("index", "index", None, {"rate": 0.5})]
    write_params(tmp_path, "laptop", chapters={"index": {"rate": 0.25}})
    pages = {page.name: page for page in book.load_pages("laptop", tmp_path / "book")}
    assert pages["index"].parameters == {"rate": 0.25}


def write_templates(root, *templates):
    """Templates for the book of `write_params`, in pages.yaml."""
    file = root / "book" / "params" / "pages.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"templates": list(templates)}))


def test_a_template_has_pages_of_the_experiments_listed_for_it(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook(title="Score"), more=notebook(title="More"))
    write_params(tmp_path, experiments={"one": {"epochs": 9}, "two": {}}, chapters={"more": {"rate": 0.5}})
    write_templates(tmp_path, {"more": ["two"]}, "score")
    assert book.load_pages("quick", tmp_path / "book") == [
        Page("more-two", "more", "More: second", {"experiment": "two", "rate": 0.5}),
        Page("score-one", "score", "Score: the first", {"experiment": "one", "epochs": 9}),
        Page("score-two", "score", "Score: second", {"experiment": "two"}),
        Page("index", "index", None, {}),
    ]
    write_params(tmp_path, "published", experiments={"one": {}})
    write_templates(tmp_path, "score", {"more": ["two"]})
    assert [page.name for page in book.load_pages("published", tmp_path / "book")] == ["score-one"]
    write_templates(tmp_path, {"score": []}, {"more": ["two", "one"]})
    names = [page.name for page in book.load_pages("quick", tmp_path / "book")]
    assert names == ["more-two", "more-one", "index"]


def test_merged_values_may_be_changed_and_nothing_is_empty(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook())
    write_params(tmp_path)
    params = tmp_path / "book" / "params" / "quick.yaml"
    params.write_text("experiments:\n  one: &a {epochs: 9, rate: 1}\nchapters: {index: {<<: *a, epochs: 8}}")
    one, _, index = book.load_pages("quick", tmp_path / "book")
    assert one.parameters == {"experiment": "one", "epochs": 9, "rate": 1}
    assert index.parameters == {"epochs": 8, "rate": 1}
    for text in ("", "experiments:\nchapters:\n  index:\n"):
        params.write_text(text)
        assert [page.parameters for page in book.load_pages("quick", tmp_path / "book")] == [None, None, {}]


def test_failing_page_is_named_and_the_others_finish(tmp_path, capsys):
    write_book(
        tmp_path,
        bad=notebook(CHECK, "print('never')"),
        good=notebook("import os\nprint(os.getcwd(), os.environ['OMP_NUM_THREADS'])"),
    )
    executed = tmp_path / "_build" / "executed" / "book"
    executed.mkdir(parents=True)
    nbformat.write(notebook(), executed / "bad.ipynb")
    failed = book.execute_pages(
        [Page("bad", "bad", None, {"epoch": 2}), Page("good", "good", None, {"epochs": 2})], tmp_path
    )
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
    assert facts.keys() == {"key", "source", "seconds", "date"} | where
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
    assert book.execute_pages([Page("index", "index", None, {})], tmp_path) == failed
    out, err = capsys.readouterr()
    message = "index: Kernel died before replying to kernel_info; it is started once more"
    assert out.splitlines().count(message) == 1
    assert ("Kernel died before replying" in err) == bool(failed)
    assert (tmp_path / "starts").read_text() == ".."


def test_page_is_executed_again_only_when_something_changed(tmp_path, monkeypatch, capsys):
    write_book(tmp_path, index=notebook("1"))
    package = tmp_path / "package"
    (package / "figures").mkdir(parents=True)
    (package / "models.py").write_text("a = 1")
    monkeypatch.setattr(pages, "PACKAGE", package)
    page = Page("index", "index", None, {"epochs": 2})
    for expected in (" s\n", "up to date\n"):
        assert book.execute_pages([page], tmp_path) == []
        assert capsys.readouterr().out.endswith(expected)

    keys = [pages.page_key(page, tmp_path / "book")]
    assert keys[0] == nbformat.read(tmp_path / "_build/executed/book/index.ipynb", 4).metadata.memlib.key
    keys.append(pages.page_key(Page("index", "index", None, {"epochs": 3}), tmp_path / "book"))
    for name, text in (
        ("models.py", "a = 2"),
        ("__init__.pyi", ""),
        ("paper.mplstyle", ""),
        ("figures/data.py", ""),
    ):
        (package / name).write_text(text)
        keys.append(pages.page_key(page, tmp_path / "book"))
    write_book(tmp_path, index=notebook("2"))
    keys.append(pages.page_key(page, tmp_path / "book"))
    assert len(set(keys)) == 7
    assert book.execute_pages([page], tmp_path) == []
    assert capsys.readouterr().out.endswith(" s\n")


def test_interrupt_ends_the_kernels(tmp_path):
    write_book(
        tmp_path,
        long=notebook(
            "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(99)"
        ),
    )
    # a shell that starts this in the background has interrupts ignored
    call = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from book._ext.pages import Page, execute_pages\n"
        "execute_pages([Page('long', 'long', None, {})], '.')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", call],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(pages.ROOT)},
    )
    _wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    kernel = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1].decode()
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
