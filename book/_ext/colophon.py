"""The colophon of a page: its parameters, where and when it was executed, how to make it again, downloads."""

import ast
import datetime
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from book._ext.myst import code, list_table, plain
from book._ext.pages import SIZES, Page
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from memlib.checks import check_known
from memlib.experiment import EXPERIMENTS, Experiment, variant

NOT_RECORDED = "not recorded"
SIZE_WORDS = {
    "quick": "the smallest: the notebook's own defaults, or near them",
    "laptop": "minutes on two cores",
    "paper": "the paper's settings",
    "published": "too large for a laptop: executed beforehand, and kept in the repository",
}
# Parameters that mean the field of an experiment in every chapter; `width`, for one, does not.
_FIELDS = (
    *("epochs", "score_every", "learning_rate"),
    *("folds", "repeats", "num_images", "num_samples", "seed"),
)
_COLUMNS = 72  # of the command, which then needs no scrolling


@dataclass(frozen=True)
class Parameter:
    """A parameter of a page: what the notebook declares, and the value that it was executed with."""

    name: str
    value: Any
    help: str


def parameters_with_help(notebook: NotebookNode) -> list[Parameter]:
    """All parameters that a notebook declares, with the values of its execution, else the defaults."""
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    tagged = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    source = next((cell.source for cell in tagged if cell.cell_type == "code"), "")
    lines, found = source.splitlines(), []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            end = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
            name, default = statement.target.id, ast.literal_eval(statement.value)
            found.append(Parameter(name, given.get(name, default), end.lstrip(" #").rstrip()))
    return found


def experiment_of(notebook: NotebookNode) -> Experiment | None:
    """The experiment that a page's parameters define, if they name one of `memlib.EXPERIMENTS`."""
    values = {parameter.name: parameter.value for parameter in parameters_with_help(notebook)}
    if values.get("experiment") not in EXPERIMENTS:
        return None
    fields = {name: values[name] for name in _FIELDS if name in values}
    if "learning_rate" in fields:
        fields["learning_rate"] = fields["learning_rate"] or None  # 0 means the experiment's own
    return variant(values["experiment"], **fields)


def page_size(page: Page, size: str) -> str:
    """The size that a page has in a book of that size.

    Raises:
        ValueError: an unknown size.
    """
    check_known("size", size, SIZES)
    return "published" if page.parameters is None else size


def machine(facts: Mapping[str, Any]) -> str:
    """The device that a page was executed on, from what its execution recorded."""
    if "processor" not in facts:
        return NOT_RECORDED
    cores = f"{facts['cores']} core{'s' * (facts['cores'] > 1)}"
    return ", ".join([*([facts["gpu"]] if facts["gpu"] else []), facts["processor"], cores])


def versions(facts: Mapping[str, Any]) -> str:
    """What a page was executed with, from what its execution recorded."""
    if "commit" not in facts:
        return NOT_RECORDED
    libraries = ", ".join(f"{name} {facts[name.lower()]}" for name in ("Python", "torch", "memlib"))
    return f"{libraries}; commit: {facts['commit']}"


def add_colophon(
    notebook: NotebookNode, page: Page, size: str, repository: str = "", scores: Path | None = None
) -> None:
    """Close a page with its downloads and a fold that says how it was made.

    Args:
        notebook: executed; a cell is appended.
        page: what the notebook is.
        size: of the book.
        repository: URL from which memlib is installed on Colab; empty for nowhere.
        scores: the page's score file, whose record lies beside it; both come into the folder scores/ of the
            site.

    Raises:
        ValueError: an unknown size.
    """
    size = page_size(page, size)
    facts = notebook.metadata.get("memlib", {})
    links = [_link(f"../_sources/book/{page.name}.ipynb", "this page as an executed notebook")]
    if scores:
        about = f"scores of the run (Parquet, {scores.stat().st_size / 1e6:.1f} MB)"
        links += [
            _link(f"../scores/{scores.name}", about),
            _link(f"../scores/{scores.stem}.json", "record of the run (JSON)"),
        ]
    title, executed = "How this page was made", NOT_RECORDED
    if "date" in facts:
        date = datetime.datetime.fromisoformat(facts["date"]).astimezone(datetime.UTC)
        title += f": at the size {size}, on {date:%Y-%m-%d}"
        executed = f"{date:%Y-%m-%d %H:%M} UTC, in {facts['seconds']:.1f} s"
    rows = [
        ("Executed", executed),
        ("On", plain(machine(facts))),
        ("With", plain(versions(facts))),
        ("Size", f"{size}: {SIZE_WORDS[size]}"),
    ]
    parameters = parameters_with_help(notebook)
    lines = [f"Download: {' · '.join(links)}.", "", f"::::{{dropdown}} {title}", ""]
    lines.append(list_table(rows, header=False))
    if any(parameter.name == "experiment" for parameter in parameters):
        lines += [
            "Trained models are stored and used again, so they may be older than the page and come from "
            f"another machine{'; the record of the run says when and where' if scores else ''}.",
            "",
        ]
    if parameters:
        head = ("Parameter", "Value", "Meaning")
        values = [(f"`{p.name}`", code(p.value), plain(p.help)) for p in parameters]
        lines.append(list_table([head, *values]))
    lines += [
        "To make it again, from the root of the repository after `make book`; other values make another run. "
        "Data sets that do not come with the book are looked for in `$MEMLIB_DATA`.",
        "",
        "```bash",
        command(page, notebook),
        "```",
        "",
    ]
    if repository:
        lines += [
            f"On Colab, run `%pip install git+{repository}` in a cell before the first one; Binder installs "
            "everything by itself.",
            "",
        ]
    notebook.cells.append(new_markdown_cell("\n".join([*lines, "::::"])))


def command(page: Page, notebook: NotebookNode) -> str:
    """The command that executes a page's notebook with the parameters that it was executed with."""
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    lines = [f".venv/bin/papermill book/{page.notebook}.ipynb out.ipynb"]
    for parameter in parameters_with_help(notebook):
        if parameter.name in given:
            option = f"{_flag(parameter.value)} {parameter.name} {shlex.quote(str(parameter.value))}"
            if len(lines[-1]) + 1 + len(option) <= _COLUMNS:
                lines[-1] += f" {option}"
            else:
                lines.append(f"    {option}")
    return " \\\n".join(lines)


def _flag(value: Any) -> str:
    """-r for a string that Papermill would take for a number or a constant, else -p."""
    if not isinstance(value, str):
        return "-p"
    try:
        float(value)
    except ValueError:
        return "-r" if value in ("True", "False", "None") else "-p"
    return "-r"


def _link(target: str, text: str) -> str:
    # MyST's own links have no `download`; a relative one works from a web server and from the disk.
    return f'<a href="{target}" download>{text}</a>'
