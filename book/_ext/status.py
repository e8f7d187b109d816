"""What a build says of itself: the status page, and the table of the paper's figures."""

import dataclasses
import datetime
import importlib.metadata
import platform
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from book._ext.colophon import machine, parameters_of
from book._ext.execution import provenance
from book._ext.myst import filled, list_table, plain
from book._ext.pages import Page, PaperFigure
from book._ext.scores import run_of
from nbformat import NotebookNode

from memlib.chapters import paper
from memlib.chapters.notebook import read_records
from memlib.experiment import Experiment

PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "torch", "torchvision", "xarray", "pandas", "pyarrow", "matplotlib"),
    *("jupyter-book", "Sphinx", "myst-nb", "papermill", "nbformat", "ipywidgets"),
)
_COUNTS = ("tests", "failures", "errors", "skipped")
_TESTED = ("memlib/**/*.py", "tests/*.py", "book/*.ipynb", "book/_ext/*.py", "book/params/*.yaml")


def status_page(
    pages: Sequence[Page],
    notebooks: Mapping[str, NotebookNode],
    executed: Mapping[str, Path],
    root: Path,
    size: str,
    listed: Sequence[str],
) -> str:
    """The status page as MyST; `listed` are the files of the table of contents, `executed` those of pages."""
    made = provenance(root)
    device = ", ".join(name for name in (made["gpu"], made["processor"]) if name)
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    build = [
        ("Built", f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, at the size {size}"),
        ("On", plain(f"{device}; {platform.system()}, {platform.machine()}")),
        ("memlib", plain(f"{made['memlib']}, commit: {made['commit']}")),
        ("Python", made["python"]),
        ("Packages", packages),
    ]
    by_name = {page.name: page for page in pages}
    ordered = [by_name[name] for name in listed if name in by_name]
    rows = [("Page", "Size", "Executed on", "Date", "Seconds")]
    for page in ordered:
        facts = notebooks[page.name].metadata["memlib"]
        where = plain(machine(facts)), facts["date"][:10], f"{facts['seconds']:,.0f}"
        rows.append((f"{{doc}}`{page.name}`", "published" if page.parameters is None else size, *where))
    others = [f"{{doc}}`{name}`" for name in listed if (root / "book" / f"{name}.md").exists()]
    return filled(
        "status",
        build=list_table(build),
        tests=last_tests(root),
        reductions=_reductions(ordered, notebooks, executed),
        pages=list_table(rows, "42 11 21 15 11"),
        others=", ".join(others),
    )


def last_tests(root: Path) -> str:
    """What the report of the last tests says, and whether the sources have changed since."""
    file = root / "_build" / "tests.xml"
    if not file.exists():
        return "not run in this checkout."
    try:
        suite = next(ElementTree.parse(file).getroot().iter("testsuite"))
        every, failed, errors, skipped = (int(suite.get(name, 0)) for name in _COUNTS)
        started = datetime.datetime.fromisoformat(suite.attrib["timestamp"]).astimezone(datetime.UTC)
    except (ElementTree.ParseError, KeyError, StopIteration, ValueError):
        return "its report `_build/tests.xml` cannot be read."
    files = (file for pattern in _TESTED for file in root.glob(pattern) if file.is_file())
    changed = any(file.stat().st_mtime > started.timestamp() for file in files)
    return (
        f"{every - failed - errors - skipped:,} passed, {failed + errors:,} failed, {skipped:,} skipped, "
        f"started on {started:%Y-%m-%d %H:%M} UTC, of {'earlier' if changed else 'the present'} sources."
    )


def _reductions(
    pages: Sequence[Page], notebooks: Mapping[str, NotebookNode], executed: Mapping[str, Path]
) -> str:
    """The table of the runs that have a counterpart in the paper, one row per run."""
    runs: dict[tuple[str, Experiment], list[Page]] = {}
    for page in pages:
        declared = parameters_of(notebooks[page.name])
        names = [declared[name][0] for name in ("in_place_of", "experiment") if name in declared]
        name = next(filter(None, names), "")
        if name in paper.REPORTED and (experiment := run_of(notebooks[page.name])):
            runs.setdefault((name, experiment), []).append(page)
    if not runs:
        return "No page of this book has a run that is in the paper.\n"
    rows = [("Run", "Images", "Repeats x folds", "Epochs", "Samples", "Other differences", "Pages")]
    for (name, experiment), shown in runs.items():
        here, asked = dataclasses.asdict(experiment), paper.settings(name)
        images = experiment.num_images or read_records(executed[shown[0].name])["n"]
        models = list(dict.fromkeys(f"{s['repeats']} x {s['folds']}" for s in (here, asked)))
        told = {"num_images", "repeats", "folds", "epochs", "num_samples", "seed"}
        differing = [field for field in here if field not in told and here[field] != asked[field]]
        others = plain("; ".join(f"{field} {here[field]} instead of {asked[field]}" for field in differing))
        rows.append(
            (
                f"`{name}`",
                _of(images, paper.REPORTED[name].num_images),
                " of ".join(models),
                _of(experiment.epochs, asked["epochs"]),
                _of(experiment.num_samples, asked["num_samples"]),
                others or "none",
                ", ".join(f"[{page.notebook.split('-')[0]}]({page.name}.ipynb)" for page in shown),
            )
        )
    return (
        '"5 of 10" is 5 here and 10 in the paper; one number is both. Samples are importance samples per '
        "image and model. Runs without a counterpart in the paper are left out.\n\n"
        + list_table(rows, "12 12 12 9 9 34 12")
    )


def _of(here: Any, there: int) -> str:
    return f"{there:,}" if here == there else f"{here:,.0f} of {there:,}"


def figure_table(figures: Sequence[PaperFigure], pages: Sequence[Page], executed: Mapping[str, Path]) -> str:
    """The table of the paper's figures as MyST, from what the pages recorded with `paper.table_row`.

    Raises:
        ValueError: a page that has not recorded its row.
    """
    rows = [("Figure", "Shows", "Run", "The paper", "Here", "Verdict")]
    suffixes = {page.name: page.suffix for page in pages}
    for figure in figures:
        records, keys = read_records(executed[figure.page]), ("run", "paper", "here", "verdict")
        if missing := [f"table_{key}" for key in keys if f"table_{key}" not in records]:
            raise ValueError(f"page {figure.page} has not recorded {', '.join(missing)}")
        names = [(part or "figure", f"{name}{suffixes[figure.page]}") for name, part in figure.parts.items()]
        links = ", ".join(f"{{ref}}`{text} <{name}>`" for text, name in names)
        first = f"[{figure.number}]({figure.page}.ipynb): {links}"
        rows.append((first, figure.subject, *(records[f"table_{key}"] for key in keys)))
    caption = (
        "The figures of the paper: where each is in this book, what it was made from, and how it compares."
    )
    return list_table(rows, "8 15 23 15 22 17", caption=caption, name="tab-figures")
