"""The colophon of a page: its parameters, where and when it was executed, how to make it again, downloads."""

import ast
import dataclasses
import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
import yaml
from book._ext.myst import code, filled, list_table, plain
from book._ext.pages import Page
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from memlib.experiment import Experiment

_SIZES = {
    "quick": "the smallest: the notebook's own defaults, or near them",
    "laptop": "minutes on two cores",
    "paper": "the paper's settings",
    "published": "too large for a laptop: executed beforehand, and kept in the repository",
}


def parameters_of(notebook: NotebookNode) -> dict[str, tuple[Any, str]]:
    """Name -> (value, meaning) of the declared parameters: the value of the execution, else the default."""
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    return {
        name: (given.get(name, ast.literal_eval(declared["default"])), declared["help"])
        for name, declared in papermill.inspect_notebook(notebook).items()
    }


def machine(facts: Mapping[str, Any]) -> str:
    """The device that a page was executed on, from what its execution recorded."""
    cores = f"{facts['cores']} core{'s' * (facts['cores'] > 1)}"
    return ", ".join(filter(None, [facts["gpu"], facts["processor"], cores]))


def add_colophon(
    notebook: NotebookNode, page: Page, size: str, repository: str, scores: Path | None = None
) -> None:
    """Close a page with its downloads and a fold that says how it was made.

    Args:
        notebook: executed; a cell is appended, which lists the parameters with their values in the execution,
            so that their own cells are hidden.
        page: what the notebook is.
        size: of the book.
        repository: URL from which memlib is installed on Colab.
        scores: the page's score file in scores/, where its record lies beside it.
    """
    for cell in notebook.cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            cell.metadata["tags"].append("remove-cell")
    size = "published" if page.parameters is None else size
    links = ["this page as an executed notebook by the button at its head"]
    if scores:
        links += [
            f"[scores of the run (Parquet, {scores.stat().st_size / 1e6:.1f} MB)](../scores/{scores.name})",
            f"[record of the run (JSON)](../scores/{scores.stem}.json)",
        ]
    facts, parameters = notebook.metadata["memlib"], parameters_of(notebook)
    if released := parameters.get("released", ("", ""))[0]:
        links.append(f"[the released log p(x) (Parquet)]({repository}/tree/main/{released})")
        sizes = {f.name for f in dataclasses.fields(Experiment)} - {"seed"}  # the runs have their own
        parameters = {name: told for name, told in parameters.items() if name not in sizes}
    date = datetime.datetime.fromisoformat(facts["date"]).astimezone(datetime.UTC)
    versions = ", ".join(f"{name} {facts[name.lower()]}" for name in ("Python", "torch", "memlib"))
    rows = [
        ("Executed", f"{date:%Y-%m-%d %H:%M} UTC, in {facts['seconds']:.1f} s"),
        ("On", plain(machine(facts))),
        ("With", plain(f"{versions}; commit: {facts['commit']}")),
        ("Size", f"{size}: {_SIZES[size]}"),
    ]
    values = [(f"`{name}`", code(value), plain(meaning)) for name, (value, meaning) in parameters.items()]
    models = (
        "Trained models are stored and used again, so they may be older than the page and of another machine"
    )
    models += "; the record of the run says when and where." if scores else "."
    text = filled(
        "colophon",
        links=" · ".join(links),
        size=size,
        date=date,
        facts=list_table(rows),
        models=models if "experiment" in parameters and not released else "",
        parameters=list_table([("Parameter", "Value", "Meaning"), *values]) if values else "",
        command=command(page, notebook),
        repository=repository,
    )
    notebook.cells.append(new_markdown_cell(text))


def command(page: Page, notebook: NotebookNode) -> str:
    """The command that executes a page's notebook with the parameters that it was executed with."""
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    ordered = {name: given[name] for name in parameters_of(notebook) if name in given}
    line = f".venv/bin/papermill book/{page.name}.ipynb out.ipynb"
    values = yaml.safe_dump(ordered, default_flow_style=True, sort_keys=False, allow_unicode=True, width=56)
    return f"{line} \\\n  -y {shlex.quote(values.strip())}" if ordered else line
