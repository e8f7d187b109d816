"""The status page."""

import datetime
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output
from tinybook import notebook

from book._ext import status
from book._ext.pages import Page
from memlib.chapters import paper

FACTS = {
    **{"date": "2026-11-22T18:52:15+00:00", "seconds": 1210.4, "processor": "A processor", "gpu": "A GPU"},
    **{"cores": 2, "python": "3.11.7", "torch": "2.15.0", "memlib": "0.1.0", "commit": "0123456789ab"},
}


def executed(
    folder: Path, name: str, facts: dict | None = None, n: int | None = None, **given: object
) -> Path:
    """A page's notebook as Papermill leaves it, which recorded `n`."""
    made = notebook("1", "")
    declared = {"experiment": "one", "epochs": 4, "folds": 3, "repeats": 2, "num_images": 0, "num_samples": 8}
    declared |= {"score_every": 5, "in_place_of": ""}
    made.cells[1].source = "\n".join(f"{k}: {type(v).__name__} = {v!r}  # help" for k, v in declared.items())
    made.metadata |= {"papermill": {"parameters": given}, "memlib": facts or {}}
    if n is not None:
        data = {"application/papermill.record/text/plain": repr(n)}
        output = new_output("display_data", data, metadata={"scrapbook": {"name": "n"}})
        made.cells.append(new_code_cell("1", outputs=[output]))
    for count, cell in enumerate(cell for cell in made.cells if cell.cell_type == "code" and cell.source):
        cell.execution_count = count + 1
    path = folder / f"{name}.ipynb"
    nbformat.write(made, path)
    return path


def written(root: Path, paths: dict[str, Path], published: tuple[str, ...] = (), listed=None) -> str:
    pages = [Page(name, name, None, None if name in published else {}) for name in paths]
    return status.status_page(pages, paths, root, "quick", paths if listed is None else listed)


def row(text: str, start: str) -> list[str]:
    """The cells of the one row of a table that starts so."""
    (found,) = re.findall(rf"^\* - ({re.escape(start)}.*(?:\n  - .*)*)", text, re.MULTILINE)
    return found.split("\n  - ")


def test_every_page_has_a_row(tmp_path):
    paths = {"old": executed(tmp_path, "old"), "new": executed(tmp_path, "new", FACTS)}
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "glossary.md").touch()
    text = written(tmp_path, paths, published=("new",), listed=["new", "glossary", "status"])
    made = ["published", "A GPU, A processor, 2 cores", "2026-11-22", "1,210"]
    assert row(text, "{doc}`new`")[1:] == made
    assert row(text, "`old`")[1:] == ["quick", "not recorded", "not recorded", "not recorded"]
    assert text.index("{doc}`new`") < text.index("`old`")  # which is not in the table of contents
    assert "Without computations: {doc}`glossary`.\n" in text
    assert row(text, "Built")[1].endswith(" UTC, at the size quick")


def test_a_page_with_an_error_or_a_cell_that_did_not_run_has_not_passed(tmp_path):
    paths = {name: executed(tmp_path, name) for name in ("a", "b")}
    for spoilt in (
        {"outputs": [new_output("error", ename="E", evalue="", traceback=[])]},
        {"execution_count": None},
    ):
        broken = nbformat.read(executed(tmp_path, "b"), 4)
        broken.cells[2].update(spoilt)
        nbformat.write(broken, paths["b"])
        text = written(tmp_path, paths)
        assert row(text, "Every page was executed")[1] == "**not passed**: b"
    assert row(text, "Published pages")[1] == "none: no page of this book is published"


def test_a_run_is_set_beside_the_papers(tmp_path):
    small = {"epochs": 25, "folds": 5, "num_samples": 64}
    asked = paper.settings("mnist-lr4")
    full = {k: asked[k] for k in ("epochs", "folds", "repeats", "num_samples", "score_every")}
    paths = {
        "04-a": executed(tmp_path, "04-a", n=60_000, experiment="mnist-lr3", **small),
        "05-a": executed(tmp_path, "05-a", n=60_000, experiment="mnist-lr3", **small),
        "04-b": executed(tmp_path, "04-b", experiment="mnist-lr3", **small | {"num_images": 2000}),
        "04-c": executed(tmp_path, "04-c", n=390, experiment="patches", in_place_of="celeba"),
        "04-d": executed(tmp_path, "04-d", n=500, experiment="digits-lr3"),
        "04-e": executed(tmp_path, "04-e"),
        "04-f": executed(tmp_path, "04-f", n=60_000, experiment="mnist-lr4", **full),
    }
    rows = re.findall(r"^\* - `([a-z0-9-]+)`\n((?:  - .*\n)+)", written(tmp_path, paths), re.MULTILINE)
    assert [name for name, _ in rows] == ["mnist-lr3", "mnist-lr3", "celeba", "mnist-lr4"]
    every, some, other, same = (cells.removeprefix("  - ").rstrip().split("\n  - ") for _, cells in rows)
    assert every == [
        *("60,000", "2 x 5 of 10 x 10", "25 of 100", "64 of 256", "noise paired instead of paper"),
        "[04](04-a.ipynb), [05](05-a.ipynb)",
    ]
    assert some[0] == "2,000 of 60,000" and some[-1] == "[04](04-b.ipynb)"
    assert other[0] == f"390 of {paper.REPORTED['celeba'].num_images:,}"
    assert other[4].startswith("images patches instead of celeba; likelihood gaussian instead of gaussian-sc")
    assert same[:4] == ["60,000", "10 x 10", "100", "256"]
    only = {name: paths[name] for name in ("04-d", "04-e")}
    assert "No page of this book has a run that is in the paper." in written(tmp_path, only)


REPORT = (
    '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">'
    '<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="1200" time="9.5" timestamp="{}" />'
    "</testsuites>"
)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one source file, of 2026-11-20 12:00 UTC, and a function that reads a report in it."""
    (tmp_path / "memlib").mkdir()
    (tmp_path / "memlib" / "a.py").touch()
    at = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC).timestamp()
    os.utime(tmp_path / "memlib" / "a.py", (at, at))
    (tmp_path / "_build").mkdir()

    def read(text: str) -> str:
        (tmp_path / "_build" / "tests.xml").write_text(text)
        return status.last_tests(tmp_path)

    return read


def test_the_last_tests_are_of_the_present_sources_or_said_to_be_old(checkout, tmp_path):
    assert status.last_tests(tmp_path) == "not run in this checkout."
    assert checkout(REPORT.format("2026-11-20T15:00:00.5+02:00")) == (
        "1,194 passed, 3 failed, 3 skipped, started on 2026-11-20 13:00 UTC, of the present sources."
    )
    assert checkout(REPORT.format("2026-11-20T11:59:00+00:00")).endswith(
        "11:59 UTC. This is older than the sources: `memlib/a.py` has changed since."
    )
    (tmp_path / "pyproject.toml").touch()
    assert checkout(REPORT.format("2026-11-20T11:59:00+00:00")).endswith(
        ": `memlib/a.py` and 1 other file have changed since."
    )
    (tmp_path / "memlib" / ".#b.py").symlink_to("nowhere")  # the lock of an editor
    assert ": `pyproject.toml` has changed since." in checkout(REPORT.format("2026-11-20T13:00:00+00:00"))


@pytest.mark.parametrize("text", ["<testsuites>", "<testsuites/>", REPORT.format("yesterday")])
def test_a_report_that_is_none_is_not_read(checkout, text):
    assert checkout(text) == "its report `_build/tests.xml` cannot be read."
