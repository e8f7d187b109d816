"""Published numbers computed anew and compared: `make check-published`.

Pages that train no models, as they show released runs or tables, are executed again. All numbers that they
record are compared with those of the published pages, and of README.md. It takes the released files, the data
sets and minutes; the other pages take the hours of `make published`.
"""

import math
import re
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from book._ext.execution import execute_pages
from book._ext.pages import ROOT, Page, declared_by, load_pages, read_notebook

from memlib.chapters.notebook import read_records
from memlib.checks import check_known

FOLDER = "_build/check"
# Relative, for another processor's order of adding: float32 holds 6e-8 of a value. PyTorch and NumPy kept to
# the instructions of 2008 changed one of 88 numbers, by 2e-16 of it.
TOLERANCE = 1e-6
# Sentences of README.md with a number that a page records.
SENTENCES = {
    ("04-mnist", "gap"): "training on an image adds {:.1f} nats to its log-probability on average",
    ("07-neighbors", "corrected"): "has a rank correlation of {:.2f} with the gap, corrected for noise",
    ("19-competition", "submissions"): "on {} submissions to a competition",
}
_WIDTH = 24  # of a value that agrees


class Row(NamedTuple):
    """A number of a page, or of a sentence of README.md; None where it is missing."""

    place: str
    name: str
    published: float | int | str | None
    recomputed: float | int | str | None

    @property
    def agrees(self) -> bool:
        """Whether both are there and the same: floats within the tolerance, counts and texts exactly."""
        one, other = self.published, self.recomputed
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))
        return one is not None and type(one) is type(other) and one == other

    def __str__(self) -> str:
        values = [_shown(value, self.agrees) for value in (self.published, self.recomputed)]
        columns = " ".join(f"{value:>{_WIDTH}}" for value in values)
        return f"{self.place:<19} {self.name:<19} {columns}  {'ok' if self.agrees else 'DIFFERS'}"


def _shown(value: Any, short: bool) -> str:
    text = "missing" if value is None else f"{value:.9g}" if isinstance(value, float) else f"{value}"
    return f"{text[: _WIDTH - 1]}…" if short and len(text) > _WIDTH else text


def compare(page: str, published: Mapping[str, Any], recomputed: Mapping[str, Any]) -> list[Row]:
    """A row for every number that one of two executions of a page recorded, as `read_records` has them."""
    names = dict.fromkeys([*published, *recomputed])
    return [Row(page, name, published.get(name), recomputed.get(name)) for name in names]


def compare_readme(text: str, recomputed: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row for every number of README.md that one of these pages records.

    Args:
        recomputed: page -> what it recorded.
    """
    rows = []
    for (page, name), sentence in SENTENCES.items():
        if page in recomputed:
            before, form, after = re.fullmatch(r"(.*)(\{.*\})(.*)", sentence).groups()
            found = re.search(f"{re.escape(before)}(\\S+){re.escape(after)}", " ".join(text.split()))
            value = recomputed[page].get(name)
            written = None if value is None else form.format(value)
            rows.append(Row("README.md", f"{page.partition('-')[0]}.{name}", found and found[1], written))
    return rows


def trains_nothing(page: Page, book_dir: Path = ROOT / "book") -> bool:
    """Whether a published page shows a released run and no own models, or has no epochs to train for."""
    notebook = read_notebook(book_dir / f"{page.name}.ipynb")
    code = "".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    trains = "cross_fit(" in code or "memlib.run(" in code
    return bool((page.parameters or {}).get("released") and not trains) or "epochs" not in declared_by(
        notebook
    )


def check(
    pages: Sequence[Page], root: Path = ROOT, jobs: int | None = None, only: Collection[str] = ()
) -> bool:
    """Execute what trains nothing, print all comparisons; whether every number of every page agrees.

    Args:
        pages: the published ones.
        root: the repository; the pages executed anew stay in its `_build/check`.
        jobs: as for `execute_pages`.
        only: names of the pages to check; by default all that can be.

    Raises:
        ValueError: a name in `only` that is no page which can be checked.
    """
    can = [page for page in pages if trains_nothing(page, root / "book")]
    for name in only:
        check_known("page that trains nothing", name, [page.name for page in can])
    chosen = [page for page in can if not only or page.name in only]
    shutil.rmtree(root / FOLDER, ignore_errors=True)  # whose pages would count as up to date
    failed = execute_pages(chosen, root, FOLDER, jobs)
    rows, recomputed = [], {}
    for page in chosen:
        folders = root / "published" / "book", root / FOLDER
        files = [folder / f"{page.name}.ipynb" for folder in folders]
        published, recomputed[page.name] = (read_records(file) if file.exists() else {} for file in files)
        rows += compare(page.name, published, recomputed[page.name])
    rows += compare_readme((root / "README.md").read_text("utf-8"), recomputed)
    print(f"\n{'page':<19} {'number':<19} {'published':>{_WIDTH}} {'recomputed':>{_WIDTH}}")
    print(*rows, sep="\n")
    for page in pages:
        if page not in can and not only:
            print(f"{page.name:<19} not checked: it trains its models; `make published` does that again")
    differing = sum(not row.agrees for row in rows)
    print(f"\n{len(rows)} numbers of {len(chosen)} pages and README.md, {differing} differ or are missing")
    return not (failed or differing)


@click.command()
@click.option("--jobs", type=click.IntRange(1), help="pages executed at a time [default: one per core]")
@click.option("--page", "only", multiple=True, metavar="NAME", help="check this page alone; repeatable")
def main(jobs: int | None, only: tuple[str, ...]) -> None:
    """Compute the numbers of the published pages anew from released files, and compare them.

    Ends with status 1 where one differs or is missing.
    """
    try:
        agree = check(load_pages("published"), ROOT, jobs, only)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(not agree)


if __name__ == "__main__":
    main(prog_name="python -m book._ext.check")
