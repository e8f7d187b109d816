"""The status page."""

import datetime
import os
import re
from pathlib import Path

import pytest
from tinybook import executed, notebook, recorded

from book._ext import status
from book._ext.pages import Page, PaperFigure


def written(root: Path, notebooks: dict, published: tuple[str, ...] = (), listed=(), **n: int) -> str:
    """The page, of notebooks of which some recorded `n`."""
    paths = {
        name: recorded(made, root / f"{name}.ipynb", n=n.get(name, 0)) for name, made in notebooks.items()
    }
    pages = [Page(name, None if name in published else {}) for name in paths]
    return status.status_page(pages, notebooks, paths, root, "quick", [*(listed or notebooks)])


def row(text: str, start: str) -> list[str]:
    """The cells of the one row of a table that starts so."""
    (found,) = re.findall(rf"^\* - ({re.escape(start)}.*(?:\n  - .*)*)", text, re.MULTILINE)
    return found.split("\n  - ")


def test_every_page_has_a_row(tmp_path):
    new = executed()
    new.metadata["memlib"] |= {"gpu": "A GPU"}
    pages = {"old": executed(), "new": new}
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "glossary.md").touch()
    text = written(tmp_path, pages, published=("new",), listed=["new", "old", "glossary", "status"])
    made = ["published", r"A GPU, A fast\* one, 2 cores", "2026-11-22", "1,211"]
    assert row(text, "{doc}`new`")[1:] == made
    assert row(text, "{doc}`old`")[1:3] == ["quick", r"A fast\* one, 2 cores"]
    assert text.index("{doc}`new`") < text.index("{doc}`old`")
    assert "Without computations: {doc}`glossary`.\n" in text
    assert row(text, "Built")[1].endswith(" UTC, at the size quick")


def test_the_table_of_figures_is_made_from_what_pages_recorded(tmp_path):
    figures = [
        PaperFigure(7, "lines", "one", {"fig-a": "b"}),
        PaperFigure(12, "dots", "index", {"fig-c": "", "fig-d": "b"}),
    ]
    values = {"run": "a run", "paper": "4", "here": "5", "verdict": "holds"}
    own, other = ({f"figure_{number}_{key}": text for key, text in values.items()} for number in (7, 12))
    files = {"one": recorded(notebook(), tmp_path / "a.ipynb", **own)}
    files["index"] = recorded(notebook(), tmp_path / "b.ipynb", **other | {"figure_12_verdict": "differs"})
    table = status.figure_table(figures, files)
    assert row(table, "[7]") == [
        "[7](one.ipynb): {ref}`b <fig-a>`",
        "lines",
        "a run",
        "4",
        "5",
        "holds",
    ]
    second = row(table, "[12]")
    assert (
        second[0] == "[12](index.ipynb): {ref}`figure <fig-c>`, {ref}`b <fig-d>`" and second[-1] == "differs"
    )
    files["index"] = recorded(notebook(), tmp_path / "b.ipynb", figure_12_run="a run")
    with pytest.raises(ValueError, match="page index has not recorded figure_12_paper, figure_12_here, fig"):
        status.figure_table(figures, files)


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
    (tmp_path / "memlib" / ".#b.py").symlink_to("nowhere")  # the lock of an editor
    assert checkout(REPORT.format("2026-11-20T11:59:00+00:00")).endswith("11:59 UTC, of earlier sources.")


@pytest.mark.parametrize("text", ["<testsuites>", "<testsuites/>", REPORT.format("yesterday")])
def test_a_report_that_is_none_is_not_read(checkout, text):
    assert checkout(text) == "its report `_build/tests.xml` cannot be read."
