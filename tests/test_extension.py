"""Pages as readers see them."""

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell
from tinybook import notebook

from book._ext.pages import ROOT, Page, load_pages
from book._ext.staging import PaperFigure, add_notice, figure_table, load_figures, localize, number_captions

PAGE = Page("score-one", "score", "Score: the first", {})
FIGURES = [PaperFigure(7, "lines", "score-one", {"fig-a": "b"})]


def test_localize_renames_own_labels_and_their_references():
    text = (
        "(sec-a@)=\n## Part\n\n$$ a = b $$ (eq-a@)\n\n```{figure} x.png\n:name: fig-x@\n```\n"
        "{numref}`fig-a@` {numref}`Fig. %s <fig-x@>` {eq}`eq-a@` {ref}`text <sec-a@>` [link](#sec-a@)\n"
        "{numref}`fig-sibling@` [file](other@.ipynb)\n"
        "{numref}`fig-elsewhere` {eq}`eq-a-b` {cite:p}`fig-a` `fig-a` fig-a"
    )
    figure = {"name": "fig-a", "caption": "As {eq}`eq-a`, {eq}`eq-other`."}
    source = notebook(title="Score")
    source.cells.append(new_markdown_cell(text.replace("@", "")))
    source.cells.append(new_code_cell("x = 'fig-a'", metadata={"mystnb": {"figure": figure}}))
    before = json.dumps(source)
    local = localize(source, PAGE, ["fig-sibling"], ["other"])
    assert local.cells[0].source == "# Score: the first"
    assert local.cells[2].source == text.replace("@", "-one")
    renamed = {"name": "fig-a-one", "caption": "As {eq}`eq-a-one`, {eq}`eq-other`."}
    assert local.cells[3].metadata.mystnb.figure == renamed
    assert local.cells[3].source == "x = 'fig-a'"
    assert json.dumps(source) == before
    assert localize(source, Page("score", "score", None, {})) == source


def test_links_to_another_experiments_page_go_to_the_own_one_where_there_is_one():
    source = notebook()
    source.cells.append(new_markdown_cell("[own](other-two) [none](more-two) [chapter](index)"))
    pages = ["other-one", "other-two", "more-two"]
    linked = localize(source, PAGE, (), ["other", "more"], pages)
    assert linked.cells[-1].source == "[own](other-one) [none](more-two) [chapter](index)"


def test_captions_say_whose_place_a_figure_takes():
    made = notebook()
    figure = {"name": "fig-a", "caption": "A line."}
    made.cells.append(new_code_cell("1", metadata={"mystnb": {"figure": figure}}))
    number_captions(made, Page("other", "other"), FIGURES, {})
    assert made.cells[-1].metadata.mystnb.figure.caption == "A line."
    number_captions(made, PAGE, FIGURES, {"experiment": "one", "in_place_of": "celeba"})
    expected = "A line. In place of figure 7b of the paper, which is of celeba."
    assert made.cells[-1].metadata.mystnb.figure.caption == expected


def test_a_stand_in_is_named_below_the_title():
    made = notebook("1")
    add_notice(made, {"experiment": "patches", "in_place_of": ""})
    assert "warning" not in made.cells[1].source
    add_notice(made, {"experiment": "patches", "in_place_of": "celeba"})
    assert made.cells[0].source == "# A title (patches in its place)"
    notice = made.cells[1].source
    assert notice.startswith(":::{warning}") and "`celeba` is not here: its licence" in notice
    assert "made from `patches`" in notice
    other = notebook("1")
    add_notice(other, {"experiment": "digits-lr3", "in_place_of": "mnist-lr3"})
    assert "`mnist` is not here. This page" in other.cells[1].source


def recorded(path: Path, **values: str) -> Path:
    """An executed notebook that recorded strings."""
    made = notebook()
    for name, value in values.items():
        data = {"application/papermill.record/text/plain": repr(value)}
        output = nbformat.v4.new_output("display_data", data, metadata={"scrapbook": {"name": name}})
        made.cells.append(new_code_cell("1", outputs=[output]))
    nbformat.write(made, path)
    return path


def test_the_table_is_made_from_what_pages_recorded(tmp_path):
    figures = [PaperFigure(12, "dots", "index", {"fig-c": "", "fig-d": "b"}), *FIGURES]
    row = {"table_run": "a run", "table_paper": "4", "table_here": "5", "table_verdict": "holds"}
    executed = {"score-one": recorded(tmp_path / "a.ipynb", **row)}
    executed["index"] = recorded(tmp_path / "b.ipynb", **row | {"table_verdict": "differs"})
    table = figure_table(figures, [PAGE, Page("index", "index")], executed)
    first, second = (row.splitlines() for row in table.removesuffix("\n:::\n").split("\n* - ")[2:])
    assert first[0] == "[7](score-one.ipynb): {ref}`b <fig-a-one>`"
    assert first[1:] == [f"  - {cell}" for cell in ("lines", "a run", "4", "5", "holds")]
    assert second[0] == "[12](index.ipynb): {ref}`figure <fig-c>`, {ref}`b <fig-d>`"
    assert second[-1] == "  - differs"
    executed["index"] = recorded(tmp_path / "b.ipynb", table_run="a run")
    with pytest.raises(ValueError, match="page index has not recorded table_paper, table_here, table_verd"):
        figure_table(figures, [PAGE, Page("index", "index")], executed)


def test_every_figure_of_the_paper_has_its_place():
    figures = load_figures(ROOT / "book", load_pages("laptop"))
    assert [figure.number for figure in figures] == list(range(1, 14))
    parts = {figure.number: "".join(figure.parts.values()) for figure in figures}
    assert parts == {n: {4: "abc", **dict.fromkeys((3, 5, 10, 11, 12, 13), "ab")}.get(n, "") for n in parts}
