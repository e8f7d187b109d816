"""Pages as readers see them: titles, labels, captions with the paper's figure numbers, notices.

An executed notebook of a template becomes the page of one experiment; the figures that have a counterpart in
the paper are listed in `book/params/figures.yaml`.
"""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from book._ext.myst import list_table
from book._ext.pages import HEADING, Page, declared_by, read_yaml
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from memlib.chapters.notebook import read_records
from memlib.checks import check_known
from memlib.experiment import EXPERIMENTS

# Where MyST defines a label: a target, a labeled equation, an option of a directive.
_DEFINITIONS = re.compile(
    r"^(?P<target>\()(?P<a>[^()\s]+)(?=\)=\s*$)"
    r"|(?P<equation>\$\$[ \t]*\()(?P<b>[^()\s]+)(?=\)[ \t]*$)"
    r"|^(?P<option>:(?:name|label):[ \t]+)(?P<c>\S+)",
    re.MULTILINE,
)
# Where it refers to one: {numref}`label`, {numref}`text <label>`, [text](#label).
_ROLES = re.compile(r"(\{(?:numref|ref|eq|math:numref)\}`(?:[^`<]*<)?)([^`<>]+)(?=>?`)")
_LINKS = re.compile(r"(\]\(#?)([^()\s]+)(?=\))")


def localize(
    notebook: NotebookNode,
    page: Page,
    labels: Collection[str] = (),
    notebooks: Collection[str] = (),
    pages: Collection[str] = (),
) -> NotebookNode:
    """A template's notebook as one experiment's page: a copy with its title and labels unique in the book.

    Labels that the notebook defines (targets, equations, figures in cell metadata) get the suffix
    `-<experiment>` wherever they stand. All others stay as they are.

    Args:
        notebook: the executed notebook.
        page: what it is to be; a chapter's page is copied unchanged.
        labels: further labels to rename, those of the experiment's other pages.
        notebooks: templates whose file names (`04-memorized.ipynb`) stand for the experiment's page.
        pages: of the book; a link to a template's page of another experiment goes to the own one among them.
    """
    notebook = copy.deepcopy(notebook)
    if not page.experiment:
        return notebook
    own = {*defined_labels(notebook), *labels}

    def suffix(match: re.Match[str]) -> str:
        before, label = (g for g in match.groups() if g is not None)
        return f"{before}{label}-{page.experiment}" if label in own else match[0]

    def rename(text: str) -> str:
        for pattern in (_DEFINITIONS, _ROLES, _LINKS):
            text = pattern.sub(suffix, text)
        for name in notebooks:
            own = f"{name}-{page.experiment}"
            text = text.replace(f"{name}.ipynb", f"{own}.ipynb")
            if own in pages:
                text = re.sub(rf"\]\({re.escape(name)}-[a-z0-9-]+\)", f"]({own})", text)
        return text

    titled = page.title is None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = rename(cell.source)
            if not titled and HEADING.search(cell.source):
                cell.source = HEADING.sub(lambda _: f"# {page.title}", cell.source, count=1)
                titled = True
        elif figure := cell.metadata.get("mystnb", {}).get("figure"):
            if figure.get("name") in own:
                figure["name"] += f"-{page.experiment}"
            figure["caption"] = rename(figure.get("caption", ""))
    return notebook


def defined_labels(notebook: NotebookNode) -> set[str]:
    """The labels that a notebook's prose and its figures define."""
    labels = set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            labels |= {m["a"] or m["b"] or m["c"] for m in _DEFINITIONS.finditer(cell.source)}
        elif name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            labels.add(name)
    return labels


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper and where it is in the book."""

    number: int
    subject: str
    page: str
    parts: Mapping[str, str]  # name of a figure of the page -> the part of the paper's figure, or ""


def load_figures(book_dir: str | Path, pages: Sequence[Page]) -> list[PaperFigure]:
    """The figures of params/figures.yaml, none where there is no such file.

    Raises:
        ValueError: an entry that is not as it should be, or one of a page that is not in the book.
    """
    file = Path(book_dir) / "params" / "figures.yaml"
    if not file.exists():
        return []
    found = []
    for entry in read_yaml(file, figures=list)["figures"]:
        fields = {"number": int, "subject": str, "page": str, "parts": dict}
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != fields:
            raise ValueError(
                f"{file.name}: a figure is {entry!r}; allowed: {', '.join(fields)}, of those types"
            )
        check_known("page", entry["page"], [page.name for page in pages], f"{file.name}: ")
        if not all(isinstance(text, str) for part in entry["parts"].items() for text in part):
            raise ValueError(
                f"{file.name}: parts are {entry['parts']!r}; allowed: names of figures with a text"
            )
        if entry["number"] in (figure.number for figure in found):
            raise ValueError(f"{file.name}: figure {entry['number']} comes twice")
        found.append(PaperFigure(**entry))
    return found


def number_captions(
    notebook: NotebookNode, page: Page, figures: Sequence[PaperFigure], parameters: Mapping[str, Any]
) -> None:
    """Add to the captions of a page which figure of the paper theirs is; before labels are renamed.

    Raises:
        ValueError: a figure that the notebook does not have.
    """
    captions = {
        figure["name"]: figure
        for cell in notebook.cells
        if (figure := cell.metadata.get("mystnb", {}).get("figure")) and "name" in figure
    }
    for figure in (figure for figure in figures if figure.page == page.name):
        for name, part in figure.parts.items():
            check_known("figure", name, captions, f"figures.yaml, page {page.name}: ")
            label = f"figure {figure.number}{part} of the paper"
            absent = parameters.get("in_place_of")
            note = f"In place of {label}, which is of {absent}." if absent else f"{label.capitalize()}."
            captions[name]["caption"] = f"{captions[name].get('caption', '').strip()} {note}".strip()


def parameters_of(notebook: NotebookNode) -> dict[str, Any]:
    """The parameters that Papermill executed a notebook with, in the order in which it declares them."""
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    return {name: given[name] for name in declared_by(notebook) if name in given}


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
    text = (
        f"The data set `{missing}` is not here{licence}. This page is made from `{used}` in its place, so "
        f"nothing on it says anything about `{missing}`. With a copy under `$MEMLIB_DATA`, the line at the "
        f'end of this page with `-p experiment {absent} -p in_place_of ""` makes the real one; for the book, '
        f"change the line `{absent}` of `book/params/`."
    )
    title = notebook.cells[0]
    title.source = HEADING.sub(rf"# \1 ({used} in its place)", title.source, count=1)
    notebook.cells.insert(1, new_markdown_cell(f":::{{warning}}\n{text}\n:::"))


def hide_injected(notebook: NotebookNode) -> None:
    """Leave the cell that Papermill adds to the notebook, which the colophon repeats, out of the page."""
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"].append("remove-cell")


def figure_table(figures: Sequence[PaperFigure], pages: Sequence[Page], executed: Mapping[str, Path]) -> str:
    """The table of the paper's figures as MyST, from what the pages recorded with `paper.table_row`.

    Args:
        figures: what `load_figures` found.
        pages: of the book.
        executed: page -> its executed notebook.

    Raises:
        ValueError: a page that has not recorded its row.
    """
    rows = [("Figure", "Shows", "Run", "The paper", "Here", "Verdict")]
    by_name = {page.name: page for page in pages}
    for figure in sorted(figures, key=lambda figure: figure.number):
        page, records = by_name[figure.page], read_records(executed[figure.page])
        keys = ["table_run", "table_paper", "table_here", "table_verdict"]
        if missing := [key for key in keys if key not in records]:
            raise ValueError(f"page {page.name} has not recorded {', '.join(missing)}")
        links = ", ".join(
            f"{{ref}}`{part or 'figure'} <{name}{page.suffix}>`" for name, part in figure.parts.items()
        )
        first = f"[{figure.number}]({figure.page}.ipynb): {links}"
        rows.append((first, figure.subject, *(records[key] for key in keys)))
    caption = (
        "The figures of the paper: where each is in this book, what it was made from, and how it compares."
    )
    return list_table(rows, "8 15 23 15 22 17", caption=caption, name="tab-figures")
