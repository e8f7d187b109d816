"""What is mended in the built HTML."""

from memlib.pages import Page
from memlib.site import finish

EQUATION = '<div class="math notranslate nohighlight" id="equation-a">\\[x\\]</div>'
CITATIONS = (
    '<div role="list" class="citation-list"><div class="citation" role="doc-biblioentry">A</div></div>'
)
SOURCE = '<a href="https://colab.research.google.com/github/a/b/blob/main/book/score-one.ipynb">Colab</a>'


def site_of(folder, text):
    for name in ("book", "_images"):
        (folder / name).mkdir(parents=True)
    (folder / "book" / "score-one.html").write_text(text, "utf-8")
    return folder


def test_a_keyboard_reaches_what_scrolls_and_lists_hold_items_only(tmp_path):
    html = site_of(tmp_path / "site", f"<p>ρ</p>{EQUATION}{CITATIONS}")
    finish([], html)
    text = (html / "book" / "score-one.html").read_text("utf-8")
    assert '<div class="math notranslate nohighlight" tabindex="0" id="equation-a">' in text
    assert '<div class="citation-list"><div class="citation"' in text and 'role="list"' not in text
    finish([], html)
    assert (html / "book" / "score-one.html").read_text("utf-8").count("tabindex") == 1


def test_launch_buttons_of_a_templates_page_open_its_notebook(tmp_path):
    html = site_of(tmp_path / "site", SOURCE)
    finish([Page("score-one", "score", title="A")], html)
    assert "/blob/main/book/score.ipynb" in (html / "book" / "score-one.html").read_text("utf-8")
    other = site_of(tmp_path / "other", SOURCE)
    finish([Page("score-one", "score-one")], other)
    assert "/blob/main/book/score-one.ipynb" in (other / "book" / "score-one.html").read_text("utf-8")


def test_the_root_leads_to_the_first_page(tmp_path):
    html = site_of(tmp_path / "site", "")
    finish([], html)
    entrance = (html / "index.html").read_text("utf-8")
    assert 'url=book/index.html"' in entrance and 'rel="icon" href="data:,"' in entrance
