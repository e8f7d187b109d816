"""The status page: what a build was made with, what it has passed, in what its runs are not the paper's."""

import dataclasses
import datetime
import importlib.metadata
import platform
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from book._ext.colophon import NOT_RECORDED, experiment_of, machine, page_size, parameters_with_help
from book._ext.myst import list_table, plain
from book._ext.pages import Page
from book._ext.provenance import provenance
from nbformat import NotebookNode

from memlib.chapters import paper
from memlib.chapters.notebook import read_records
from memlib.experiment import Experiment

PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "torch", "torchvision", "xarray", "pandas", "pyarrow", "matplotlib"),
    *("jupyter-book", "Sphinx", "myst-nb", "papermill", "nbformat", "ipywidgets"),
)
# Checks that only a finished build has passed: `confirm` puts their results in.
LATER = {
    "builder": "Jupyter Book compiled every page of the table of contents; each warning, also one about a "
    "missing reference, is an error",
    "figures": "Every figure of the paper is on one page, with caption and alt text, and is linked from the "
    "first page",
    "downloads": "Every file that a page offers for download is in the site",
}
_PENDING = "not passed: this build did not come to its end"
# What the tests are about: a report from before their last change says nothing about them.
_SOURCES = (
    *(
        "memlib/**/*.py",
        "memlib/*.pyi",
        "memlib/**/*.mplstyle",
        "memlib/*.css",
        "tests/*.py",
        "benchmarks/*.py",
    ),
    *("book/*.ipynb", "book/*.md", "book/params/*.yaml", "book/_static/**/*.*", "published/**/*.*"),
    *("pyproject.toml", "requirements.txt", "_config.yml", "_toc.yml", "Makefile"),
)


def status_page(
    pages: Sequence[Page], executed: Mapping[str, Path], root: Path, size: str, listed: Sequence[str]
) -> str:
    """The status page as MyST; `confirm` completes its checks in the built site.

    Args:
        pages: of the book; the published ones among them have been compared with their sources.
        executed: page -> its executed notebook.
        root: the repository.
        size: of the book.
        listed: names of the files in the table of contents, in its order.

    Raises:
        ValueError: an unknown size.
    """
    notebooks = {name: nbformat.read(path, 4) for name, path in executed.items()}
    order = {name: i for i, name in enumerate(listed)}
    ordered = sorted(pages, key=lambda page: order.get(page.name, len(order)))
    others = [name for name in listed if (root / "book" / f"{name}.md").exists()]
    rows = [_page_row(page, notebooks[page.name], size, page.name in order) for page in ordered]
    parts = [
        "(status)=\n# Status\n",
        "What this site was built with, what it has passed, and in what its runs are smaller than the "
        "paper's. The page is made by the build.\n",
        "## This build\n",
        list_table([("Built", f"{_now()}, at the size {size}"), *_environment(root)], header=False),
        "## Checks\n",
        list_table([("Check", "Result"), *_checks(pages, notebooks)], "70 30"),
        "## Tests\n",
        f"`make test`: {last_tests(root)}\n",
        "## What is smaller than in the paper\n",
        _reductions(ordered, notebooks, executed, order),
        "## Pages\n",
        "Seconds are those of the page; models that were trained before are only read. Each page says at its "
        "end with what it was executed, and how to do so again.\n",
        list_table([("Page", "Size", "Executed on", "Date", "Seconds"), *rows], "42 11 21 15 11"),
    ]
    if others:
        parts.append(f"Without computations: {', '.join(_doc(name) for name in others)}.\n")
    return "\n".join(parts)


def confirm(html: Path, results: Mapping[str, str]) -> None:
    """Put the results of checks that the build has passed into its status page, and into the page's source.

    Args:
        html: the built site.
        results: check of `LATER` -> its result.
    """
    for file in (html / "book" / "status.html", html / "_sources" / "book" / "status.md"):
        if file.exists():
            text = file.read_text("utf-8")
            for name, result in results.items():
                text = re.sub(rf'(<span id="check-{name}">)[^<]*', rf"\g<1>passed: {result}", text)
            file.write_text(text, "utf-8")


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "page"), counted(1200, "page")
    ('1 page', '1,200 pages')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def last_tests(root: Path) -> str:
    """What the report of the last tests says, and whether the sources have changed since."""
    file = root / "_build" / "tests.xml"
    if not file.exists():
        return "not run in this checkout."
    try:
        suites = list(ElementTree.parse(file).getroot().iter("testsuite"))
        counts = {
            name: sum(int(suite.get(name, 0)) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        }
        started = min(datetime.datetime.fromisoformat(suite.attrib["timestamp"]) for suite in suites)
    except (ElementTree.ParseError, KeyError, ValueError):
        return "its report `_build/tests.xml` cannot be read."
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    text = (
        f"{passed:,} passed, {failed:,} failed, {counts['skipped']:,} skipped, started on "
        f"{started.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    )
    sources = (path for pattern in _SOURCES for path in root.glob(pattern))
    since = sorted(
        path.relative_to(root).as_posix()
        for path in sources
        if path.is_file() and path.stat().st_mtime > started.astimezone().timestamp()
    )
    if since:
        more = f" and {counted(len(since) - 1, 'other file')} have" if len(since) > 1 else " has"
        return f"{text}. This is older than the sources: `{since[0]}`{more} changed since."
    return f"{text}, of the present sources."


def _environment(root: Path) -> list[tuple[str, str]]:
    made = provenance(root)
    device = ", ".join(name for name in (made["gpu"], made["processor"]) if name)
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return [
        ("On", plain(f"{device}; {platform.system()}, {platform.machine()}")),
        ("memlib", plain(f"{made['memlib']}, commit: {made['commit']}")),
        ("Python", made["python"]),
        ("Packages", packages),
    ]


def _checks(pages: Sequence[Page], notebooks: Mapping[str, NotebookNode]) -> list[tuple[str, str]]:
    broken = [name for name, notebook in notebooks.items() if not _came_to_its_end(notebook)]
    executed = f"passed: {counted(len(notebooks), 'page')}"
    if broken:
        executed = f"**not passed**: {', '.join(broken)}"
    published = sum(page.parameters is None for page in pages)
    return [
        ("Every page was executed to its end, without an error in any cell", executed),
        (
            "Published pages come from the notebooks and the parameters that the repository has now; memlib "
            "itself may have changed since",
            f"passed: {counted(published, 'page')}"
            if published
            else "none: no page of this book is published",
        ),
        *((text, f'<span id="check-{name}">{_PENDING}</span>') for name, text in LATER.items()),
    ]


def _came_to_its_end(notebook: NotebookNode) -> bool:
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    return all(
        cell.execution_count is not None and not any(o.output_type == "error" for o in cell.outputs)
        for cell in code
    )


def _page_row(page: Page, notebook: NotebookNode, size: str, listed: bool) -> tuple[str, ...]:
    facts = notebook.metadata.get("memlib", {})
    return (
        _doc(page.name) if listed else f"`{page.name}`",
        page_size(page, size),
        plain(machine(facts)),
        facts["date"][:10] if "date" in facts else NOT_RECORDED,
        f"{facts['seconds']:,.0f}" if "seconds" in facts else NOT_RECORDED,
    )


def _reductions(
    pages: Iterable[Page],
    notebooks: Mapping[str, NotebookNode],
    executed: Mapping[str, Path],
    listed: Mapping[str, int],
) -> str:
    """The table of the runs that have a counterpart in the paper, one row per run."""
    runs: dict[tuple[str, Experiment], list[Page]] = {}
    for page in pages:
        experiment = experiment_of(notebooks[page.name])
        values = {p.name: p.value for p in parameters_with_help(notebooks[page.name])}
        name = values.get("in_place_of") or values.get("experiment")
        if experiment is not None and name in paper.REPORTED:
            runs.setdefault((name, experiment), []).append(page)
    if not runs:
        return "No page of this book has a run that is in the paper.\n"
    rows = [("Run", "Images", "Repeats x folds", "Epochs", "Samples", "Other differences", "Pages")]
    for (name, experiment), shown in runs.items():
        here, asked = dataclasses.asdict(experiment), paper.settings(name)
        images = experiment.num_images
        recorded = read_records(executed[shown[0].name]).get("n") if not images else images
        models = [f"{L} x {K}" for L, K in ((s["repeats"], s["folds"]) for s in (here, asked))]
        links = ", ".join(
            f"[{page.notebook.split('-')[0]}]({page.name}.ipynb)" if page.name in listed else page.name
            for page in shown
        )
        rows.append(
            (
                f"`{name}`",
                _of(recorded, paper.REPORTED[name].num_images),
                models[0] if models[0] == models[1] else f"{models[0]} of {models[1]}",
                _of(experiment.epochs, asked["epochs"]),
                _of(experiment.num_samples, asked["num_samples"]),
                _other_differences(here, asked),
                links,
            )
        )
    return (
        '"5 of 10" is 5 here and 10 in the paper; one number is both. Samples are importance samples per '
        "image and model. Runs without a counterpart in the paper are left out.\n\n"
        + list_table(rows, "12 12 12 9 9 34 12")
    )


def _of(here: Any, there: int) -> str:
    if here is None:
        return f"{NOT_RECORDED}, {there:,} in the paper"
    return f"{there:,}" if here == there else f"{here:,.0f} of {there:,}"


def _other_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Fields that differ and have no column of their own."""
    told = {"num_images", "repeats", "folds", "epochs", "num_samples", "seed"}
    differing = (name for name in here if name not in told and here[name] != there[name])
    found = [f"{name} {here[name]} instead of {there[name]}" for name in differing]
    return plain("; ".join(found)) or "none"


def _doc(name: str) -> str:
    return f"{{doc}}`{name}`"


def _now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
