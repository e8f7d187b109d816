"""What a build says of itself: the status page, and the table of the paper's figures."""

import datetime
import importlib.metadata
import platform
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from book._ext.colophon import machine
from book._ext.execution import provenance
from book._ext.myst import filled, list_table, plain
from book._ext.pages import Page, PaperFigure
from nbformat import NotebookNode

from memlib.chapters.notebook import read_records

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


def figure_table(figures: Sequence[PaperFigure], executed: Mapping[str, Path]) -> str:
    """The table of the paper's figures as MyST, from what the pages recorded with `claims`.

    Raises:
        ValueError: a page that has not recorded its row.
    """
    rows = [("Figure", "Shows", "Run", "The paper", "Here", "Verdict")]
    for figure in figures:
        records, keys = read_records(executed[figure.page]), ("run", "paper", "here", "verdict")
        names = [f"figure_{figure.number}_{key}" for key in keys]
        if missing := [name for name in names if name not in records]:
            raise ValueError(f"page {figure.page} has not recorded {', '.join(missing)}")
        links = ", ".join(f"{{ref}}`{part or 'figure'} <{name}>`" for name, part in figure.parts.items())
        first = f"[{figure.number}]({figure.page}.ipynb): {links}"
        rows.append((first, figure.subject, *(records[name] for name in names)))
    caption = (
        "The figures of the paper: where each is in this book, what it was made from, and how it compares."
    )
    return list_table(rows, "8 15 23 15 22 17", caption=caption, name="tab-figures")
