"""What is mended in the built HTML, and what is checked in it."""

import pytest

from book._ext.pages import Page
from book._ext.site import BuildError, check_figures, finish
from book._ext.staging import PaperFigure

PAGES = [Page("score-one", "score", "Score: the first", {}), Page("index", "index")]


def site_of(folder, **texts):
    (folder / "_images").mkdir()
    (folder / "book").mkdir()
    for page in PAGES:
        (folder / "book" / f"{page.name}.html").write_text(texts[page.notebook], "utf-8")
    return folder


def test_a_keyboard_reaches_what_scrolls_and_lists_hold_items_only(tmp_path):
    equation = '<p>ρ</p><div class="math notranslate nohighlight" id="equation-a">\\[x\\]</div>'
    references = '<div role="list" class="citation-list"><div class="citation">A</div></div>'
    html = site_of(tmp_path, score=equation + references, index="")
    for _ in range(2):  # the second time changes nothing
        finish(PAGES, html)
        assert (html / "book" / "score-one.html").read_text("utf-8") == (
            '<p>ρ</p><div class="math notranslate nohighlight" tabindex="0" id="equation-a">\\[x\\]</div>'
            '<div class="citation-list"><div class="citation">A</div></div>'
        )


FIGURE = (
    '<figure class="align-default" id="fig-a-one"><img src="x.svg" alt="A line." />'
    "<figcaption><p>A line. Figure 7b of the paper.</p></figcaption></figure>"
)
LINK = '<a href="score-one.html#fig-a-one">'


@pytest.mark.parametrize(
    ("score", "index"),
    [
        (FIGURE, ""),
        (FIGURE + FIGURE, LINK),
        (FIGURE, LINK + FIGURE),
        (FIGURE.replace("Figure 7b", "Figure 7a"), LINK),
        (FIGURE.replace('alt="A line."', 'alt=""'), LINK),
        (FIGURE.replace("fig-a-one", "fig-a"), LINK),
    ],
    ids=["no link", "twice", "on two pages", "no caption", "no alt text", "another name"],
)
def test_every_figure_of_the_paper_must_be_once_in_the_book_whole_and_linked(tmp_path, score, index):
    figures = [PaperFigure(7, "lines", "score-one", {"fig-a": "b"})]
    site_of(tmp_path, score=FIGURE, index=LINK)
    check_figures(figures, PAGES, tmp_path)
    for name, text in (("score-one", score), ("index", index)):
        (tmp_path / "book" / f"{name}.html").write_text(text, "utf-8")
    with pytest.raises(BuildError, match=r"7b \(score-one, fig-a\)"):
        check_figures(figures, PAGES, tmp_path)
