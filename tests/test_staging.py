"""Pages as readers see them."""

import json
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell
from tinybook import notebook, write_book, write_params

from memlib import book, staging
from memlib.pages import Page, load_pages
from memlib.site import BuildError, check_figures
from memlib.staging import PaperFigure, localize

ROOT = Path(__file__).resolve().parents[1]


def test_localize_renames_own_labels_and_their_references():
    source = notebook(title="Score")
    source.cells.append(
        new_markdown_cell(
            "(sec-a)=\n## Part\n\n$$ a = b $$ (eq-a)\n\n```{figure} x.png\n:name: fig-x\n```\n"
            "{numref}`fig-a` {numref}`Fig. %s <fig-x>` {eq}`eq-a` {ref}`text <sec-a>` "
            "[link](#sec-a) [file](other.ipynb)\n"
            "{numref}`fig-sibling` {numref}`fig-elsewhere` {eq}`eq-a-b` {cite:p}`fig-a` `fig-a` fig-a"
        )
    )
    figure = {"name": "fig-a", "caption": "As {eq}`eq-a`, {eq}`eq-other`."}
    source.cells.append(new_code_cell("x = 'fig-a'", metadata={"mystnb": {"figure": figure}}))
    before = json.dumps(source)
    page = Page("score-one", "score", "Score: the first", {})
    local = localize(source, page, ["fig-sibling"], ["other"])
    assert local.cells[0].source == "# Score: the first"
    assert local.cells[2].source == (
        "(sec-a-one)=\n## Part\n\n$$ a = b $$ (eq-a-one)\n\n```{figure} x.png\n:name: fig-x-one\n```\n"
        "{numref}`fig-a-one` {numref}`Fig. %s <fig-x-one>` {eq}`eq-a-one` {ref}`text <sec-a-one>` "
        "[link](#sec-a-one) [file](other-one.ipynb)\n"
        "{numref}`fig-sibling-one` {numref}`fig-elsewhere` {eq}`eq-a-b` {cite:p}`fig-a` `fig-a` fig-a"
    )
    renamed = local.cells[3].metadata.mystnb.figure
    assert renamed == {"name": "fig-a-one", "caption": "As {eq}`eq-a-one`, {eq}`eq-other`."}
    assert local.cells[3].source == "x = 'fig-a'"
    assert json.dumps(source) == before
    source.cells[-1] = new_markdown_cell("[own](other-two) [none](more-two) [chapter](index)")
    linked = localize(source, page, [], ["other", "more"], ["other-one", "other-two", "more-two"])
    assert linked.cells[-1].source == "[own](other-one) [none](more-two) [chapter](index)"
    assert localize(source, Page("score", "score", None, {})) == source


def drawn(name: str = "fig-a", caption: str = "A line.") -> nbformat.NotebookNode:
    """A notebook with one figure."""
    made = notebook()
    figure = {"figure": {"name": name, "caption": caption}, "image": {"alt": "A line."}}
    made.cells.append(new_code_cell("1", metadata={"mystnb": figure}))
    return made


PAGE = Page("score-one", "score", "Score: the first", {})
FIGURES = [PaperFigure(7, "lines", "score-one", {"fig-a": "b"})]


def test_captions_get_the_papers_numbers():
    made = drawn()
    staging.number_captions(made, PAGE, FIGURES, {"experiment": "one"})
    assert made.cells[-1].metadata.mystnb.figure.caption == "A line. Figure 7b of the paper."
    made = drawn()
    staging.number_captions(made, PAGE, FIGURES, {"experiment": "one", "in_place_of": "celeba"})
    expected = "A line. In place of figure 7b of the paper, which is of celeba."
    assert made.cells[-1].metadata.mystnb.figure.caption == expected
    made = drawn()
    staging.number_captions(made, Page("other", "other"), FIGURES, {})
    assert made.cells[-1].metadata.mystnb.figure.caption == "A line."
    with pytest.raises(ValueError, match=r"page score-one: unknown figure 'fig-a'.*allowed: fig-b"):
        staging.number_captions(drawn("fig-b"), PAGE, FIGURES, {})


def test_a_stand_in_is_named_below_the_title():
    made = notebook("1")
    staging.add_notice(made, {"experiment": "patches", "in_place_of": ""})
    assert "warning" not in made.cells[1].source
    staging.add_notice(made, {"experiment": "patches", "in_place_of": "celeba"})
    assert made.cells[0].source == "# A title (patches in its place)"
    notice = made.cells[1].source
    assert notice.startswith(":::{warning}") and "`celeba` is not here: its licence" in notice
    assert "made from `patches`" in notice
    other = notebook("1")
    staging.add_notice(other, {"experiment": "digits-lr3", "in_place_of": "mnist-lr3"})
    assert "`mnist` is not here. This page" in other.cells[1].source
    for wrong in ({"experiment": "", "in_place_of": "celeba"}, {"experiment": "patches", "in_place_of": "x"}):
        with pytest.raises(ValueError, match="unknown experiment"):
            staging.add_notice(notebook("1"), wrong)


def test_the_cell_of_papermill_stays_in_the_notebook_but_not_on_the_page():
    made = notebook("1")
    made.cells.insert(
        2, new_code_cell("# Parameters\nepochs = 9", metadata={"tags": ["injected-parameters"]})
    )
    staging.hide_injected(made)
    assert [cell.metadata.get("tags") for cell in made.cells[1:]] == [
        ["parameters"],
        ["injected-parameters", "remove-cell"],
        [],
    ]


def recorded(path: Path, **values: str) -> Path:
    """An executed notebook that recorded strings."""
    made = notebook()
    for name, value in values.items():
        data = {"application/papermill.record/text/plain": repr(value)}
        output = nbformat.v4.new_output("display_data", data, metadata={"scrapbook": {"name": name}})
        made.cells.append(new_code_cell("1", outputs=[output]))
    nbformat.write(made, path)
    return path


ROW = {"table_run": "a run", "table_paper": "4", "table_here": "5", "table_verdict": "holds"}


def test_the_table_is_made_from_what_pages_recorded(tmp_path):
    figures = [PaperFigure(12, "dots", "index", {"fig-c": "a", "fig-d": "b"}), *FIGURES]
    pages = [PAGE, Page("index", "index")]
    executed = {"score-one": recorded(tmp_path / "a.ipynb", **ROW)}
    executed["index"] = recorded(tmp_path / "b.ipynb", **ROW | {"table_verdict": "differs"})
    table = staging.figure_table(figures, pages, executed)
    rows = [row.split("\n  - ") for row in table.split("\n* - ")[2:]]
    assert rows[0][0] == "[7](score-one.ipynb): {ref}`b <fig-a-one>`"
    assert rows[0][1:] == ["lines", "a run", "4", "5", "holds"]
    assert rows[1][0] == "[12](index.ipynb): {ref}`a <fig-c>`, {ref}`b <fig-d>`"
    assert rows[1][-1].startswith("differs")
    executed["index"] = recorded(tmp_path / "b.ipynb", table_run="a run")
    with pytest.raises(
        ValueError, match="page index has not recorded table_paper, table_here, table_verdict"
    ):
        staging.figure_table(figures, pages, executed)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"number": 1}, "a figure is {'number': 1}; allowed: number, subject, page, parts"),
        ({"number": "1", "subject": "a", "page": "index", "parts": {}}, "a figure is"),
        ({"number": 1, "subject": "a", "page": "score", "parts": {}}, "unknown page 'score'"),
        ({"number": 1, "subject": "a", "page": "index", "parts": {"fig-a": None}}, "parts are"),
    ],
)
def test_bad_entries(tmp_path, entry, message):
    write_book(tmp_path, index=notebook(), score=notebook())
    write_params(tmp_path, experiments={"one": {}})
    (tmp_path / "book" / "params" / "figures.yaml").write_text(yaml.safe_dump({"figures": [entry]}))
    with pytest.raises(ValueError, match=f"figures.yaml: {message}"):
        staging.load_figures(tmp_path / "book", load_pages("quick", tmp_path / "book"))


def test_a_number_comes_once(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook())
    write_params(tmp_path, experiments={"one": {}})
    entry = {"number": 1, "subject": "a", "page": "index", "parts": {}}
    (tmp_path / "book" / "params" / "figures.yaml").write_text(yaml.safe_dump({"figures": [entry, entry]}))
    with pytest.raises(ValueError, match="figure 1 comes twice"):
        staging.load_figures(tmp_path / "book", load_pages("quick", tmp_path / "book"))


def test_no_file_no_figures(tmp_path):
    assert staging.load_figures(tmp_path, []) == []


GOOD = (
    '<figure class="align-default" id="fig-a-one"><img src="x.svg" alt="A line." />'
    "<figcaption><p>A line. Figure 7b of the paper.</p></figcaption></figure>"
)
LINK = '<a href="score-one.html#fig-a-one">'


@pytest.mark.parametrize(
    ("page", "index", "complete"),
    [
        (GOOD, LINK, True),
        (GOOD, "", False),
        (GOOD + GOOD, LINK, False),
        (GOOD.replace("A line. Figure", "A line in figure of"), LINK, False),
        (GOOD.replace('alt="A line."', 'alt=""'), LINK, False),
        (GOOD.replace("fig-a-one", "fig-a"), LINK, False),
    ],
)
def test_built_figures_are_checked(tmp_path, page, index, complete):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "score-one.html").write_text(page)
    (tmp_path / "book" / "index.html").write_text(index)
    arguments = FIGURES, [PAGE, Page("index", "index")], tmp_path
    if complete:
        check_figures(*arguments)
    else:
        with pytest.raises(BuildError, match=r"7b \(score-one, fig-a\)"):
            check_figures(*arguments)


def test_every_figure_of_the_paper_has_its_place():
    figures = staging.load_figures(ROOT / "book", book.load_pages("laptop"))
    assert [figure.number for figure in figures] == list(range(1, 14))
    parts = {figure.number: "".join(figure.parts.values()) for figure in figures}
    assert parts == {n: {4: "abc", **dict.fromkeys((3, 5, 10, 11, 12, 13), "ab")}.get(n, "") for n in parts}
