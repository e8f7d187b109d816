"""Pages as readers see them."""

from nbformat.v4 import new_markdown_cell
from tinybook import drawing, notebook

from book._ext.extension import add_notice, fold_preparation, labels_of, localize, number_captions
from book._ext.pages import ROOT, Page, PaperFigure, load_figures, load_pages

PAGE = Page("score-one", "score", "Score: the first", {})
PAGES = [
    PAGE,
    Page("other-one", "other"),
    Page("other-two", "other"),
    Page("more-two", "more"),
    Page("index", "index"),
]


def test_localize_renames_own_labels_and_their_references():
    text = (
        "(sec-a@)=\n## Part\n\n$$ a = b $$ (eq-a@)\n\n```{figure} x.png\n:name: fig-x@\n```\n"
        "{numref}`fig-a@` {numref}`Fig. %s <fig-x@>` {eq}`eq-a@` {ref}`text <sec-a@>` [link](#sec-a@)\n"
        "{numref}`fig-sibling@` {numref}`fig-elsewhere` {eq}`eq-a-b` {cite:p}`my-fig-a`"
    )
    source = notebook(title="Score")
    source.cells += [
        new_markdown_cell(text.replace("@", "")),
        drawing("fig-a", "As {eq}`eq-a`, {eq}`eq-other`.", "'fig-a'"),
    ]
    assert labels_of(source) == {"sec-a", "eq-a", "fig-x", "fig-a"}
    localize(source, PAGE, PAGES, labels_of(source) | {"fig-sibling"})
    assert source.cells[0].source == "# Score: the first"
    assert source.cells[2].source == text.replace("@", "-one")
    renamed = {"name": "fig-a-one", "caption": "As {eq}`eq-a-one`, {eq}`eq-other`."}
    assert source.cells[3].metadata.mystnb.figure == renamed
    assert source.cells[3].source == "'fig-a'"


def test_links_to_a_template_go_to_the_own_experiment_or_to_a_page_that_is_there():
    links = "[own](other-two) [gone](other-gone) [template](other.ipynb) [none](more-two) [chapter](index)"
    there = links.replace("other-gone", "other-one").replace("other.", "other-one.")
    for page, expected in ((PAGE, there.replace("other-two", "other-one")), (PAGES[-1], there)):
        source = notebook()
        source.cells.append(new_markdown_cell(links))
        localize(source, page, PAGES, ["fig-a"])
        assert source.cells[-1].source == expected


def test_captions_say_whose_place_a_figure_takes():
    figures, caption = [PaperFigure(7, "lines", "score-one", {"fig-a": "b"})], "A line."
    for page, parameters, added in (
        (PAGES[1], {}, ""),
        (PAGE, {}, " Figure 7b of the paper."),
        (PAGE, {"in_place_of": "celeba"}, " In place of figure 7b of the paper, which is of celeba."),
    ):
        made = notebook()
        made.cells.append(drawing("fig-a", caption))
        number_captions(made, page, figures, parameters)
        assert made.cells[-1].metadata.mystnb.figure.caption == caption + added


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
