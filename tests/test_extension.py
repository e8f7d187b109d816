"""Pages as readers see them."""

from docutils import nodes
from docutils.utils import new_document
from tinybook import drawing, notebook

from book._ext.extension import fold_preparation, number_captions
from book._ext.pages import ROOT, Page, PaperFigure, load_figures, load_pages
from book._ext.tabs import gather_tabs


def test_captions_say_which_figure_of_the_paper_theirs_is():
    figures, caption = [PaperFigure(7, "lines", "one", {"fig-a": "b"})], "A line."
    for page, added in ((Page("two"), ""), (Page("one"), " Figure 7b of the paper.")):
        made = notebook()
        made.cells.append(drawing("fig-a", caption))
        number_captions(made, page, figures)
        assert made.cells[-1].metadata.mystnb.figure.caption == caption + added


def test_neighbors_with_a_tab_are_gathered():
    def cell(**metadata: str) -> nodes.container:
        return nodes.container(nb_element="cell_code", cell_metadata=metadata)

    text, section = nodes.paragraph(), nodes.section()
    section += [cell(tab="one"), cell(tab="two"), cell(tab="one"), text, cell(), cell(tab="one")]
    document = new_document("page")
    document += section
    gather_tabs(None, document)
    kinds = [node.get("design_component", "") for node in section]
    assert kinds == ["tab-set", "tab-set", "", "", "tab-set"] and section[2] is text
    assert [item.children[0].astext() for item in section[0]] == ["one", "two"]


def test_cells_that_prepare_are_folded():
    prepares, describes = "import a\n\nspec = chosen()", "from a import b\n\ndescribe(b)"
    made = notebook(prepares, describes, "import a\n\na.b()", "spec = chosen()")
    fold_preparation(made)
    assert [cell.metadata.tags for cell in made.cells[2:]] == [["hide-cell"], ["hide-cell"], [], []]


def test_every_figure_of_the_paper_has_its_place():
    """With caption and alt text, which `load_figures` asks for."""
    figures = load_figures(ROOT / "book", load_pages("laptop"))
    assert [figure.number for figure in figures] == list(range(1, 14))
    parts = {figure.number: "".join(figure.parts.values()) for figure in figures}
    assert parts == {n: {4: "abc", **dict.fromkeys((3, 5, 10, 11, 12, 13), "ab")}.get(n, "") for n in parts}
    page = (ROOT / "book" / "figures.md").read_text("utf-8")
    assert "{include} paper-figures.md" in page, "the table of figures, with a link to each"
