"""The built site: what is mended in the HTML that Jupyter Book wrote, and what is checked in it."""

import re
from collections.abc import Sequence
from pathlib import Path

from book._ext.dark import theme_book
from book._ext.pages import Page
from book._ext.staging import PaperFigure

_EQUATION = re.compile(r'<div class="math notranslate nohighlight"(?! tabindex)')
# A list may hold items only, and a reference is followed by links back to where it is cited.
_CITATIONS = '<div role="list" class="citation-list">'
_ENTRANCE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>To the first page</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url=book/index.html">
<a href="book/index.html">To the first page</a>
</html>
"""


class BuildError(RuntimeError):
    """The book could not be built; the message says why."""


def finish(pages: Sequence[Page], html: Path) -> None:
    """Mend the site in place: links to sources, figures for both themes, boxes that a keyboard can scroll."""
    _link_sources(pages, html)
    (html / "index.html").write_text(_ENTRANCE, "utf-8")  # of a redirect alone browsers ask for an icon
    theme_book(html)
    for file in html.rglob("*.map"):  # of the theme's scripts, for who works on them
        file.unlink()
    for file in html.rglob("*.html"):
        text = file.read_text("utf-8")
        mended = _EQUATION.sub(r'\g<0> tabindex="0"', text).replace(_CITATIONS, '<div class="citation-list">')
        if mended != text:
            file.write_text(mended, "utf-8")


def check_figures(figures: Sequence[PaperFigure], pages: Sequence[Page], html: Path) -> None:
    """Every figure of the paper is once in the book, with caption, alt text and a link from the first page.

    Raises:
        BuildError: naming the figures that are not.
    """
    index = (html / "book" / "index.html").read_text("utf-8")
    texts = {page.name: (html / "book" / f"{page.name}.html").read_text("utf-8") for page in pages}
    suffixes = {page.name: page.suffix for page in pages}
    wrong = []
    for figure in figures:
        for name, part in figure.parts.items():
            label, called = f"{name}{suffixes[figure.page]}", f"igure {figure.number}{part} of the paper"
            drawn = re.search(rf'<figure[^>]*id="{label}".*?</figure>', texts[figure.page], re.DOTALL)
            whole = drawn and called in drawn[0] and re.search(r'<img[^>]*alt="[^"]+"', drawn[0])
            times = sum(
                len(re.findall(rf"<figcaption(?:(?!</figcaption>).)*{called}", t, re.DOTALL))
                for t in texts.values()
            )
            if not whole or times != 1 or f"{figure.page}.html#{label}" not in index:
                wrong.append(f"{figure.number}{part} ({figure.page}, {name})")
    if wrong:
        raise BuildError(
            f"figures of the paper without caption, alt text or link, or not once: {', '.join(wrong)}"
        )


def check_downloads(pages: Sequence[Page], html: Path) -> int:
    """Every file that pages offer for download is in the site; returns how many there are.

    Raises:
        BuildError: naming the files that are not, with their pages.
    """
    found, wrong = set(), []
    for page in pages:
        file = html / "book" / f"{page.name}.html"
        for target in re.findall(r'<a href="([^"]+)" download>', file.read_text("utf-8")):
            path = (file.parent / target).resolve()
            found.add(path)
            if not path.is_file():
                wrong.append(f"{target} ({page.name})")
    if wrong:
        raise BuildError(f"downloads that are not in the site: {', '.join(wrong)}")
    return len(found)


def _link_sources(pages: Sequence[Page], html: Path) -> None:
    """Point the Binder, Colab and GitHub links of a template's page to its notebook, which is there."""
    for page in pages:
        if page.experiment:
            file = html / "book" / f"{page.name}.html"
            link = rf'(href="https://[^"]*/book/){re.escape(page.name)}(?=\.ipynb")'
            file.write_text(re.sub(link, rf"\g<1>{page.notebook}", file.read_text("utf-8")), "utf-8")
