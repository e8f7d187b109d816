"""The Sphinx extension: executed notebooks become pages while they are read, and stay what they are on disk.

Jupyter Book loads this module (`local_extensions` in _config.yml) to compile the stage that `book._ext.build`
made.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from book._ext.colophon import add_colophon
from book._ext.dark import is_figure, themed, visit_image
from book._ext.pages import Page, PaperFigure, figures_of, load_figures, load_pages
from book._ext.tabs import gather_tabs
from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx

# A keyboard must reach what scrolls; a list holds items only, and references are followed by links.
_MENDED = {
    '<div class="math notranslate nohighlight"': '<div tabindex="0" class="math notranslate nohighlight"',
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}
_PERCENT = re.compile(r"(?<=\d) %(?=[\s.,;:)<])")  # which must not begin a line
# Between a formula and what follows it without a space, Firefox would begin a line.
_FORMULA = re.compile(r'<span class="math notranslate nohighlight">[^<]*</span>[-,.;:)]+')
# A number from a computation, as text.
_GLUED = re.compile(r'<span class="pasted-text">[^<]*-[^<]*</span>')


def _true_minus(glued: re.Match[str]) -> str:
    return re.sub(r"(?<=[>\s(])-(?=[\d.])", "\N{MINUS SIGN}", glued[0])


def setup(app: Sphinx) -> None:
    """Connect a build of `_build/stage` with the pages of its book."""
    folder = Path(app.srcdir).parents[1] / "book"
    told = json.loads((Path(app.srcdir) / "book.json").read_text("utf-8"))
    pages = load_pages(told["size"], folder)
    figures = load_figures(folder, pages)
    by_doc = {f"book/{page.name}": page for page in pages}

    def read(app: Sphinx, docname: str, source: list[str]) -> None:
        if page := by_doc.get(docname):
            notebook = nbformat.reads(source[0], 4)
            number_captions(notebook, page, figures)
            fold_preparation(notebook)
            repository = app.config.html_theme_options.get("repository_url", "")
            name = told["scores"].get(page.name)
            scores = Path(app.srcdir) / "scores" / f"{name}.parquet" if name else None
            add_colophon(notebook, page, told["size"], repository, scores)
            source[0] = nbformat.writes(notebook)

    def mend(app: Sphinx, docname: str, template: str, context: dict[str, Any], *_: object) -> None:
        for before, after in _MENDED.items():
            context["body"] = context.get("body", "").replace(before, after)
        body = _GLUED.sub(_true_minus, context.get("body", ""))
        body = _PERCENT.sub("\N{NO-BREAK SPACE}%", body)
        context["body"] = _FORMULA.sub(r'<span class="unbroken">\g<0></span>', body)

    app.connect("source-read", read)
    app.connect("doctree-read", gather_tabs)
    app.connect("html-page-context", mend, priority=900)  # after the theme
    app.connect("build-finished", _finish)
    app.add_node(nodes.image, override=True, html=(visit_image, None))


def _finish(app: Sphinx, exception: Exception | None) -> None:
    """Give the figures their dark colors; leave out maps of scripts, for who works on the theme."""
    for file in Path(app.outdir).rglob("*.map"):
        file.unlink()
    for file in filter(is_figure, Path(app.outdir).glob("_images/*.svg")):
        file.write_text(themed(file.read_text("utf-8")), "utf-8")


def fold_preparation(notebook: NotebookNode) -> None:
    """Fold what comes before figures: cells that import, choose an experiment, run it and describe the run.

    In tabs and before them the code is folded too.
    """
    tabs = [i for i, cell in enumerate(notebook.cells) if "tab" in cell.metadata]
    for i, cell in enumerate(notebook.cells):
        tags = cell.metadata.setdefault("tags", [])
        if i in tabs:
            tags.append("hide-input")
        elif cell.cell_type == "markdown" or "mystnb" in cell.metadata:
            continue
        elif cell.source.startswith(("import ", "from ")):
            last = cell.source.rstrip().splitlines()[-1]
            chooses = re.search(r"^check_parameters\(|= shown_runs\(", cell.source, re.MULTILINE)
            if chooses or re.match(r"import |from |spec = |check_|describe\(", last):
                tags.append("hide-cell")
        elif tabs and i < tabs[0]:
            tags.append("hide-input")


def number_captions(notebook: NotebookNode, page: Page, figures: Sequence[PaperFigure]) -> None:
    """Add to the captions of a page which figure of the paper theirs is."""
    drawn = figures_of(notebook)
    for figure in (figure for figure in figures if figure.page == page.name):
        for name, part in figure.parts.items():
            note = f"Figure {figure.number}{part} of the paper."
            drawn[name]["figure"]["caption"] = f"{drawn[name]['figure']['caption'].strip()} {note}"
