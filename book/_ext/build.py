"""The book, from executed pages to HTML.

Papermill executes the pages (`book._ext.execution`) into `_build/executed`; `stage` copies them into
`_build/stage` beside the other files of `book/`; Jupyter Book compiles that with `book._ext.extension`. Pages
too large for a laptop come executed from `published/book`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import click
import nbformat
from book._ext.execution import ANSI, execute_pages, renewed, same_code
from book._ext.pages import ROOT, Page, load_figures, load_pages, read_notebook, toc_pages
from book._ext.scores import site_scores
from book._ext.status import figure_table, status_page

from memlib.checks import check_known


class BuildError(RuntimeError):
    """The book could not be built; the message says why."""


def check_published(pages: Sequence[Page], root: Path) -> None:
    """BuildError, with the reasons, for published pages that `make published` would execute now."""
    taken = [page.name for page in pages if page.parameters is None]
    wanted = {page.name: page for page in load_pages("published", root / "book")} if taken else {}
    reasons = {name: _outdated(wanted[name], root) for name in taken}
    if refused := [f"{name}: {reason}" for name, reason in reasons.items() if reason]:
        raise BuildError(f"{'; '.join(refused)} (`make published` executes such pages)")


def _outdated(page: Page, root: Path) -> str:
    file = root / "published" / "book" / f"{page.name}.ipynb"
    if not file.exists():
        return "not part of this size and not in published/book/"
    executed = nbformat.read(file, 4)
    if not same_code(executed, read_notebook(root / "book" / f"{page.name}.ipynb")):
        return f"the code of book/{page.name}.ipynb has changed since it was published"
    before, after = executed.metadata.get("papermill", {}).get("parameters", {}), page.parameters
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    both = [f"{name} is {before.get(name)!r} there and {after.get(name)!r}" for name in changed]
    return f"{', '.join(both)} in params/published.yaml" if both else ""


def stage(pages: Sequence[Page], root: Path, size: str = "laptop") -> Path:
    """Make anew the folder that Jupyter Book compiles: executed pages, and other files of book/.

    Published pages get the text that their notebooks have now. Added are what the extension has to know, the
    table of figures, the status page and the score files.

    Raises:
        BuildError: a page was not executed, or the published one is outdated.
    """
    check_published(pages, root)
    folders = {True: root / "published" / "book", False: root / "_build" / "executed" / "book"}
    executed = {page.name: folders[page.parameters is None] / f"{page.name}.ipynb" for page in pages}
    if missing := [str(path.relative_to(root)) for path in executed.values() if not path.exists()]:
        raise BuildError(f"missing: {', '.join(missing)}")
    target = root / "_build" / "stage"
    shutil.rmtree(target, ignore_errors=True)
    others = shutil.ignore_patterns("params", "_ext", "*.ipynb", "ruff.toml", ".*")
    shutil.copytree(root / "book", target / "book", ignore=others)
    notebooks = {name: nbformat.read(path, 4) for name, path in executed.items()}
    for page in pages:
        staged = shutil.copy(executed[page.name], target / "book")
        if page.parameters is None:
            source = read_notebook(root / "book" / f"{page.name}.ipynb")
            notebooks[page.name] = renewed(notebooks[page.name], source)
            nbformat.write(notebooks[page.name], staged)
    scores = site_scores(pages, notebooks, target / "scores")
    (target / "book.json").write_text(json.dumps({"size": size, "scores": scores}))
    if figures := load_figures(root / "book", pages):
        table = figure_table(figures, executed)
        (target / "book" / "paper-figures.md").write_text(table, "utf-8")
    listed = [Path(name).name for name in toc_pages(root)]
    text = status_page(pages, notebooks, executed, root, size, listed)
    (target / "book" / "status.md").write_text(text, "utf-8")
    return target


def build_html(root: Path) -> Path:
    """Compile `_build/stage` into `_build/html` with warnings as errors; where there are any, no HTML stays.

    Raises:
        BuildError: warnings, or pages missing. Jupyter Book's output is printed, warnings first.
    """
    root = root.resolve()
    html, log = root / "_build" / "html", root / "_build" / "jupyter-book.log"
    shutil.rmtree(html, ignore_errors=True)  # pages of an earlier table of contents
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [root / "_build" / "stage", "--config", root / "_config.yml", "--toc", root / "_toc.yml"]
    # --all: glued numbers of other pages are missed by incremental builds.
    command += ["--path-output", root, *"-W -n --keep-going --all".split()]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    with open(log, "wb") as out:
        done = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    missing = [name for name in toc_pages(root) if not (html / f"{name}.html").exists()]
    if done.returncode or missing:
        shutil.rmtree(html, ignore_errors=True)
    if done.returncode:
        lines = ANSI.sub("", log.read_text("utf-8", "replace")).splitlines()
        warnings = [line for line in lines if re.search(r"\b(WARNING|ERROR)\b", line)]
        print("\n".join([*warnings, "", *lines]), file=sys.stderr)
        raise BuildError(f"Jupyter Book failed: {len(warnings)} warnings, see above and {log}")
    if missing:
        raise BuildError(f"pages of _toc.yml without HTML: {', '.join(missing)}")
    return html / "index.html"


def build_book(
    size: str = "laptop", root: str | Path = ROOT, jobs: int | None = None, only: Collection[str] = ()
) -> Path | None:
    """Execute, stage and compile the book; or execute and store the published pages.

    Args:
        size: quick, laptop, paper; or published, which fills published/book/ and compiles nothing.
        root: the repository.
        jobs: pages executed at a time; by default as many as there are cores.
        only: names of the pages to execute; then nothing is compiled, and None returned.

    Raises:
        BuildError: a page failed, is missing or outdated, or Jupyter Book complained.
        ValueError: an unknown size, page or parameter.
    """
    root = Path(root).resolve()
    pages = load_pages(size, root / "book")
    for name in only:
        check_known("page", name, [page.name for page in pages])
    chosen = [page for page in pages if not only or page.name in only]
    check_published(chosen, root)
    if not only and size != "published":
        load_figures(root / "book", pages)  # a mistake there is refused before anything is executed
    folder = "_build/published" if size == "published" else "_build/executed/book"
    failed = execute_pages(chosen, root, folder, jobs)
    if size == "published":
        publish([page for page in chosen if page.name not in failed], root, root / folder)
    if failed:
        raise BuildError(f"{len(failed)} of {len(chosen)} pages failed: {', '.join(failed)}")
    if only or size == "published":
        return None
    stage(pages, root, size)
    return build_html(root)


def publish(pages: Sequence[Page], root: Path, executed: Path) -> None:
    """Put executed pages, and the figure that README shows, into published/."""
    published = root / "published"
    (published / "book").mkdir(parents=True, exist_ok=True)
    for page in pages:
        part = published / "book" / f"{page.name}.part.ipynb"
        shutil.copyfile(executed / f"{page.name}.ipynb", part)
        notebook = nbformat.read(part.replace(published / "book" / f"{page.name}.ipynb"), 4)
        for cell in notebook.cells:
            if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == "fig-extremes":
                shown = (output.get("data", {}).get("image/svg+xml") for output in cell.outputs)
                name = (page.parameters or {})["experiment"]
                (published / f"extremes-{name}.svg").write_text(next(filter(None, shown)), "utf-8")


@click.command()
@click.option("--size", default="laptop", show_default=True, help="quick, laptop, paper or published")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="the repository, or a copy of it")
@click.option("--jobs", type=click.IntRange(1), help="pages executed at a time [default: one per core]")
@click.option(
    "--page", "only", multiple=True, metavar="NAME", help="execute this page, build no HTML; repeatable"
)
def main(size: str, root: Path, jobs: int | None, only: tuple[str, ...]) -> None:
    """Execute the chapters and build the book.

    Only pages whose notebook, parameters or imports of memlib changed are executed. With --size published the
    pages too large for a laptop are executed into published/book/ and nothing is built.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the pages' processes end
    try:
        index = build_book(size, root, jobs, only)
    except (BuildError, FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if index:
        click.echo(f"The book: {index}")


if __name__ == "__main__":
    main(prog_name="python -m book._ext.build")
