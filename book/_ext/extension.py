"""The Sphinx extension: executed notebooks become pages while they are read, and stay what they are on disk.

The executed notebook of a template becomes the page of one experiment. Jupyter Book loads this module
(`local_extensions` in _config.yml) to compile the stage that `book._ext.build` made.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
from book._ext.colophon import add_colophon, parameters_of
from book._ext.dark import is_figure, themed, visit_image
from book._ext.myst import filled
from book._ext.pages import HEADING, Page, PaperFigure, figures_of, load_figures, load_pages, read_notebook
from docutils import nodes
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from sphinx.application import Sphinx

from memlib.checks import check_known
from memlib.experiment import EXPERIMENTS

# Where MyST defines a label: a target, a labeled equation, an option of a directive.
_LABELS = re.compile(
    r"^\(([^()\s]+)\)=\s*$|\$\$[ \t]*\(([^()\s]+)\)[ \t]*$|^:(?:name|label):[ \t]+(\S+)", re.MULTILINE
)
# A keyboard must reach what scrolls; a list holds items only, and references are followed by links.
_MENDED = {
    '<div class="math notranslate nohighlight"': '<div tabindex="0" class="math notranslate nohighlight"',
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}


def setup(app: Sphinx) -> None:
    """Connect a build of `_build/stage` with the pages of its book."""
    folder = Path(app.srcdir).parents[1] / "book"
    told = json.loads((Path(app.srcdir) / "book.json").read_text("utf-8"))
    pages = load_pages(told["size"], folder)
    figures = load_figures(folder, pages)
    labels = {page.name: labels_of(read_notebook(folder / f"{page.notebook}.ipynb")) for page in pages}
    by_doc = {f"book/{page.name}": page for page in pages}

    def read(app: Sphinx, docname: str, source: list[str]) -> None:
        if page := by_doc.get(docname):
            notebook = nbformat.reads(source[0], 4)
            parameters = {name: value for name, (value, _) in parameters_of(notebook).items()}
            number_captions(notebook, page, figures, parameters)
            own = {label for p in pages if p.experiment == page.experiment for label in labels[p.name]}
            localize(notebook, page, pages, own)
            add_notice(notebook, parameters)
            fold_preparation(notebook)
            repository = app.config.html_theme_options.get("repository_url", "")
            name = told["scores"].get(page.name)
            scores = Path(app.srcdir) / "scores" / f"{name}.parquet" if name else None
            add_colophon(notebook, page, told["size"], repository, scores)
            source[0] = nbformat.writes(notebook)

    def mend(app: Sphinx, docname: str, template: str, context: dict[str, Any], *_: object) -> None:
        for before, after in _MENDED.items():
            context["body"] = context.get("body", "").replace(before, after)
        if page := by_doc.get(docname):  # of a template only the notebook is in the repository
            for button in chain(*(group.get("buttons", []) for group in context["header_buttons"])):
                if button.get("url", "").startswith("https:"):
                    button["url"] = button["url"].replace(f"{docname}.ipynb", f"book/{page.notebook}.ipynb")

    app.connect("source-read", read)
    app.connect("html-page-context", mend, priority=900)  # after the theme
    app.connect("build-finished", _finish)
    app.add_node(nodes.image, override=True, html=(visit_image, None))


def _finish(app: Sphinx, exception: Exception | None) -> None:
    """Give the figures their dark colors; leave out maps of scripts, for who works on the theme."""
    for file in Path(app.outdir).rglob("*.map"):
        file.unlink()
    for file in filter(is_figure, Path(app.outdir).glob("_images/*.svg")):
        file.write_text(themed(file.read_text("utf-8")), "utf-8")


def labels_of(notebook: NotebookNode) -> set[str]:
    """The labels that a notebook's prose and its figures define."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    found = (label for text in prose for match in _LABELS.findall(text) for label in match if label)
    return {*figures_of(notebook), *found}


def localize(notebook: NotebookNode, page: Page, pages: Sequence[Page], labels: Collection[str]) -> None:
    """Make a template's notebook the page of one experiment: its title, and labels unique in the book.

    A link to a template, or to its page of any experiment, leads to its page of this one if there is one, or
    else to one that is there. The labels given, which the pages of this experiment define, get the suffix
    `-<experiment>` in prose and captions. In a chapter only links to pages that are not there change.
    """
    there = {p.name for p in pages}
    first = {p.notebook: p.name for p in reversed(pages) if p.experiment}
    own = {p.notebook: p.name for p in pages if p.experiment and p.experiment == page.experiment}
    links = re.compile(rf"\]\((({'|'.join(map(re.escape, first)) or '(?!)'})(?:-[a-z0-9-]+)?)(\.ipynb)?\)")
    words = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, labels)) or '(?!)'})(?![\w-])")

    def target(linked: str, notebook: str) -> str:
        return own.get(notebook) or (linked if linked in there else first[notebook])

    def rename(text: str) -> str:
        text = links.sub(lambda match: f"]({target(match[1], match[2])}{match[3] or ''})", text)
        return words.sub(lambda match: f"{match[0]}{page.suffix}", text) if page.experiment else text

    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        cell.source = rename(cell.source)
    if not page.experiment:
        return
    for shown in figures_of(notebook).values():
        shown["figure"] = {name: rename(text) for name, text in shown["figure"].items()}
    titled = next(cell for cell in notebook.cells if HEADING.search(cell.source))
    titled.source = HEADING.sub(lambda _: f"# {page.title}", titled.source, count=1)


def fold_preparation(notebook: NotebookNode) -> None:
    """Fold the cells that import, choose an experiment, run it and describe the run: figures come first."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith(("import ", "from ")):
            last = cell.source.rstrip().splitlines()[-1]
            if re.match(r"import |from |spec = |check_|describe\(", last):
                cell.metadata.setdefault("tags", []).append("hide-cell")


def number_captions(
    notebook: NotebookNode, page: Page, figures: Sequence[PaperFigure], parameters: Mapping[str, Any]
) -> None:
    """Add to the captions of a page which figure of the paper theirs is; before labels are renamed."""
    drawn, absent = figures_of(notebook), parameters.get("in_place_of")
    for figure in (figure for figure in figures if figure.page == page.name):
        for name, part in figure.parts.items():
            label = f"figure {figure.number}{part} of the paper"
            note = f"In place of {label}, which is of {absent}." if absent else f"{label.capitalize()}."
            drawn[name]["figure"]["caption"] = f"{drawn[name]['figure']['caption'].strip()} {note}"


def add_notice(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Say in the title and below it where a page shows another experiment than it is about.

    Raises:
        ValueError: unknown experiments.
    """
    absent, shown = parameters.get("in_place_of"), parameters.get("experiment")
    if not absent:
        return
    for name in (absent, shown):
        check_known("experiment", name, EXPERIMENTS)
    missing, used = EXPERIMENTS[absent].images, EXPERIMENTS[shown].images
    licence = ": its licence forbids passing it on" if missing == "celeba" else ""
    text = filled("notice", missing=missing, used=used, absent=absent, licence=licence)
    title = notebook.cells[0]
    title.source = HEADING.sub(rf"# \1 ({used} in its place)", title.source, count=1)
    notebook.cells.insert(1, new_markdown_cell(text))
