"""The status page."""

import dataclasses
import datetime
import os
import re
from pathlib import Path

import pytest
from nbformat import NotebookNode
from tinybook import executed, notebook, recorded

from book._ext import status
from book._ext.pages import Page, PaperFigure
from memlib import variant
from memlib.chapters import paper


def written(root: Path, notebooks: dict, published: tuple[str, ...] = (), listed=(), **n: int) -> str:
    """The page, of notebooks of which some recorded `n`."""
    paths = {
        name: recorded(made, root / f"{name}.ipynb", n=n.get(name, 0)) for name, made in notebooks.items()
    }
    pages = [Page(name, name, None, None if name in published else {}) for name in paths]
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


def run(name: str, in_place_of: str = "", **fields: object) -> NotebookNode:
    """A page that recorded a run."""
    source = f'experiment: str = "{name}"  # a\nin_place_of: str = "{in_place_of}"  # b'
    return executed(source, {"experiment": dataclasses.asdict(variant(name, **fields))})


def test_a_run_is_set_beside_the_papers(tmp_path):
    small = {"num_images": 0, "epochs": 25, "folds": 5, "repeats": 2, "num_samples": 64, "score_every": 5}
    pages = {
        "04-a": run("mnist-lr3", **small),
        "05-a": run("mnist-lr3", **small),
        "04-b": run("mnist-lr3", **small | {"num_images": 2000}),
        "04-c": run("patches", in_place_of="celeba"),
        "04-d": run("digits-lr3"),
        "04-e": executed(),
        "04-f": run("mnist-lr4", **{k: v for k, v in paper.settings("mnist-lr4").items() if k in small}),
    }
    n = {"04-a": 60_000, "05-a": 60_000, "04-c": 390, "04-f": 60_000}
    rows = re.findall(r"^\* - `([a-z0-9-]+)`\n((?:  - .*\n)+)", written(tmp_path, pages, **n), re.MULTILINE)
    assert [name for name, _ in rows] == ["mnist-lr3", "mnist-lr3", "celeba", "mnist-lr4"]
    every, some, other, same = (cells.removeprefix("  - ").rstrip().split("\n  - ") for _, cells in rows)
    assert every == [
        *(
            "60,000",
            "2 x 5 of 10 x 10",
            "25 of 100",
            "64 of 256",
            "proposal fitted instead of encoder; noise paired instead of paper",
        ),
        "[04](04-a.ipynb), [05](05-a.ipynb)",
    ]
    assert some[0] == "2,000 of 60,000" and some[-1] == "[04](04-b.ipynb)"
    assert other[0] == f"390 of {paper.REPORTED['celeba'].num_images:,}"
    assert other[4].startswith("images patches instead of celeba; likelihood gaussian instead of gaussian-sc")
    assert same[:4] == ["60,000", "10 x 10", "100", "256"]
    only = {name: pages[name] for name in ("04-d", "04-e")}
    assert "No page of this book has a run that is in the paper." in written(tmp_path, only)


def test_the_table_of_figures_is_made_from_what_pages_recorded(tmp_path):
    pages = [Page("score-one", "score"), Page("index", "index")]
    figures = [
        PaperFigure(7, "lines", "score-one", {"fig-a": "b"}),
        PaperFigure(12, "dots", "index", {"fig-c": "", "fig-d": "b"}),
    ]
    values = {"table_run": "a run", "table_paper": "4", "table_here": "5", "table_verdict": "holds"}
    files = {"score-one": recorded(notebook(), tmp_path / "a.ipynb", **values)}
    files["index"] = recorded(notebook(), tmp_path / "b.ipynb", **values | {"table_verdict": "differs"})
    table = status.figure_table(figures, pages, files)
    assert row(table, "[7]") == [
        "[7](score-one.ipynb): {ref}`b <fig-a-one>`",
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
    files["index"] = recorded(notebook(), tmp_path / "b.ipynb", table_run="a run")
    with pytest.raises(ValueError, match="page index has not recorded table_paper, table_here, table_verd"):
        status.figure_table(figures, pages, files)


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
