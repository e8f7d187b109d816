"""The book, from executed pages to HTML.

Papermill executes the pages (`book._ext.pages`) into `_build/executed`; `stage` puts them into `_build/stage`
together with the other files of `book/`; Jupyter Book compiles that. Pages too large for a laptop come
executed from `published/book`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import nbformat
import yaml
from book._ext.colophon import add_colophon
from book._ext.pages import ANSI, ROOT, Page, execute_pages, load_pages, page_source, read_yaml
from book._ext.publish import publish_scores, site_scores
from book._ext.site import BuildError, check_downloads, check_figures, finish
from book._ext.staging import (
    add_notice,
    defined_labels,
    figure_table,
    hide_injected,
    load_figures,
    localize,
    number_captions,
    parameters_of,
)
from book._ext.status import confirm, counted, status_page
from nbformat import NotebookNode

from memlib.experiment import EXPERIMENTS, variant


def _source(page: Page, root: Path) -> Path:
    folder = "published/book" if page.parameters is None else "_build/executed/book"
    return root / folder / f"{page.name}.ipynb"


def check_published(pages: Sequence[Page], root: Path) -> None:
    """Refuse published pages that are absent, or not what `make published` would execute now.

    Raises:
        BuildError: naming each such page with the reason.
    """
    taken = [page for page in pages if page.parameters is None]
    wanted = {page.name: page for page in load_pages("published", root / "book")} if taken else {}
    refused = []
    for page in taken:
        reason = "not part of this size and not in published/book/"
        if _source(page, root).exists():
            stored = nbformat.read(_source(page, root), 4).metadata.get("memlib", {}).get("source", {})
            reason = _difference(stored, wanted.get(page.name), root)
        if reason:
            refused.append(f"{page.name}: {reason}")
    if refused:
        raise BuildError(f"{'; '.join(refused)} (`make published` executes such pages)")


def _difference(stored: Mapping[str, Any], page: Page | None, root: Path) -> str:
    if page is None:
        return "in published/book/, but not among the pages of params/published.yaml"
    if not stored:
        return "published without a record of its source"
    now = page_source(page, root / "book")
    if stored["notebook"] != now["notebook"]:
        return f"book/{page.notebook}.ipynb has changed since it was published"
    before, after = stored["parameters"], now["parameters"]
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    both = [f"{name} is {before.get(name)!r} there and {after.get(name)!r}" for name in changed]
    return f"{', '.join(both)} in params/published.yaml" if both else ""


def stage(pages: Sequence[Page], root: str | Path = ROOT, size: str = "laptop") -> Path:
    """Make anew the folder that Jupyter Book compiles: the pages and the other files of book/.

    The score files that pages offer go into `_build/scores`.

    Args:
        pages: of the book.
        root: the repository.
        size: of the book, to be named on its pages.

    Raises:
        BuildError: a page was not executed, or the published one is outdated.
        ValueError: an unknown size, or a published score file that is not what its record says.
    """
    root = Path(root)
    check_published(pages, root)
    missing = [str(path.relative_to(root)) for page in pages if not (path := _source(page, root)).exists()]
    if missing:
        raise BuildError(f"missing: {', '.join(missing)}")
    target = root / "_build" / "stage"
    shutil.rmtree(target, ignore_errors=True)
    others = shutil.ignore_patterns("params", "*.ipynb", "*.py", "__pycache__", "ruff.toml", ".*")
    shutil.copytree(root / "book", target / "book", ignore=others)
    notebooks = {page.name: nbformat.read(_source(page, root), 4) for page in pages}
    templates = {page.notebook for page in pages if page.experiment}
    figures = load_figures(root / "book", pages)
    if figures:
        table = figure_table(figures, pages, {page.name: _source(page, root) for page in pages})
        (target / "book" / "paper-figures.md").write_text(table, "utf-8")
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    repository = config.get("repository", {}).get("url", "")
    scores = site_scores(pages, notebooks, root / "published" / "scores", root / "_build" / "scores")
    for page in pages:
        number_captions(notebooks[page.name], page, figures, parameters_of(notebooks[page.name]))
    for page in pages:
        siblings = (p.name for p in pages if p.experiment == page.experiment)
        labels = set().union(*(defined_labels(notebooks[name]) for name in siblings))
        local = localize(notebooks[page.name], page, labels, templates, notebooks)
        add_notice(local, parameters_of(local))
        hide_injected(local)
        add_colophon(local, page, size, repository, scores.get(page.name))
        nbformat.write(local, target / "book" / f"{page.name}.ipynb")
    listed = [Path(name).name for name in toc_pages(root)]
    text = status_page(pages, {page.name: _source(page, root) for page in pages}, root, size, listed)
    (target / "book" / "status.md").write_text(text, "utf-8")
    return target


def build_html(root: str | Path = ROOT) -> Path:
    """Compile `_build/stage` with warnings as errors; every page of the table of contents must come out.

    Returns:
        The path of the book's first page, `_build/html/index.html`.

    Raises:
        BuildError: warnings, or pages missing. Jupyter Book's output is printed, warnings first.
    """
    root = Path(root).resolve()
    shutil.rmtree(root / "_build" / "html", ignore_errors=True)  # pages of an earlier table of contents
    options = ["--config", root / "_config.yml", "--toc", root / "_toc.yml", "--path-output", root]
    main = "from jupyter_book.cli.main import main; main(prog_name='jupyter-book')"
    log = root / "_build" / "jupyter-book.log"
    with open(log, "wb") as out:
        done = subprocess.run(
            # --all: glued numbers of other pages are missed by incremental builds.
            [
                sys.executable,
                "-c",
                main,
                "build",
                root / "_build" / "stage",
                *options,
                *"-W -n --keep-going --all".split(),
            ],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        lines = ANSI.sub("", log.read_text("utf-8", "replace")).splitlines()
        warnings = [line for line in lines if re.search(r"\b(WARNING|ERROR)\b", line)]
        print("\n".join([*warnings, "", *lines]), file=sys.stderr)
        raise BuildError(f"Jupyter Book failed: {len(warnings)} warnings, see above and {log}")
    html = root / "_build" / "html"
    shutil.copytree(root / "_build" / "scores", html / "scores", dirs_exist_ok=True)
    if missing := [name for name in toc_pages(root) if not (html / f"{name}.html").exists()]:
        raise BuildError(f"pages of _toc.yml without HTML: {', '.join(missing)}")
    return html / "index.html"


def toc_pages(root: str | Path = ROOT) -> list[str]:
    """The files that _toc.yml lists, in its order."""

    def files(entry: dict[str, Any]) -> list[str]:
        below = [item for key in ("parts", "chapters", "sections") for item in entry.get(key, [])]
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [name for item in below for name in files(item)]

    return files(yaml.safe_load((Path(root) / "_toc.yml").read_text("utf-8")))


def build_book(
    size: str = "laptop", root: str | Path = ROOT, jobs: int | None = None, only: Collection[str] = ()
) -> Path | None:
    """Execute, stage and compile the book; or execute and store the published pages.

    Args:
        size: quick, laptop, paper; or published, which fills published/book/ and compiles nothing.
        root: the repository.
        jobs: pages executed at a time; by default as many as there are cores.
        only: names of the pages to execute; then nothing is compiled.

    Returns:
        The first page's HTML, if compiled.

    Raises:
        BuildError: a page failed, is missing or outdated, or Jupyter Book complained.
        ValueError: an unknown size, page or parameter.
    """
    root = Path(root).resolve()
    pages = load_pages(size, root / "book")
    if unknown := set(only) - {page.name for page in pages}:
        known = ", ".join(page.name for page in pages)
        raise ValueError(f"unknown page: {', '.join(sorted(unknown))}; allowed: {known}")
    chosen = [page for page in pages if not only or page.name in only]
    check_published(chosen, root)
    # a mistake in figures.yaml is refused before anything is executed
    figures = [] if only or size == "published" else load_figures(root / "book", pages)
    folder = "_build/published" if size == "published" else "_build/executed/book"
    failed = execute_pages(chosen, root, folder, jobs)
    if size == "published":
        done = [page for page in chosen if page.name not in failed]
        _publish(done, root, folder)
        _publish_runs(done, root)
    if failed:
        raise BuildError(f"{len(failed)} of {len(chosen)} pages failed: {', '.join(failed)}")
    if only or size == "published":
        return None
    stage(pages, root, size)
    index = build_html(root)
    html = index.parent
    finish(pages, html)
    check_figures(figures, pages, html)
    results = {
        "builder": f"{counted(len(toc_pages(root)), 'page')}, no warning",
        "figures": counted(len(figures), "figure"),
        "downloads": counted(check_downloads(pages, html), "file"),
    }
    confirm(html, results)
    return index


def _publish(pages: Sequence[Page], root: Path, folder: str) -> None:
    target = root / "published" / "book"
    target.mkdir(parents=True, exist_ok=True)
    for page in pages:
        executed = root / folder / f"{page.name}.ipynb"
        part = target / f"{page.name}.part.ipynb"
        shutil.copyfile(executed, part)
        part.replace(target / f"{page.name}.ipynb")
        if image := _figure(nbformat.read(executed, 4), "fig-extremes"):
            (root / "published" / f"extremes-{page.experiment}.svg").write_text(image, "utf-8")


def _publish_runs(pages: Sequence[Page], root: Path) -> None:
    """Put scores and record of each experiment that pages show at its own settings into published/scores/."""
    settings = read_yaml(root / "book" / "params" / "published.yaml", experiments=dict, chapters=dict)
    for name, given in settings["experiments"].items():
        fields = {"experiment": name, **(given or {})}
        if fields["experiment"] in EXPERIMENTS and any(page.parameters == fields for page in pages):
            shown = fields.pop("experiment")
            fields.pop("in_place_of", None)
            publish_scores(name, variant(shown, **fields), root / "published" / "scores")


def _figure(notebook: NotebookNode, name: str) -> str | None:
    """The picture of the code cell whose figure has that name, as SVG."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            pictures = [o.data["image/svg+xml"] for o in cell.outputs if "image/svg+xml" in o.get("data", {})]
            return pictures[-1] if pictures else None
    return None


@click.command()
@click.option(
    "--size", default="laptop", show_default=True, help="of the computations: quick, laptop, paper, published"
)
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="the repository, or a copy of it")
@click.option("--jobs", type=click.IntRange(1), help="pages executed at a time [default: one per core]")
@click.option(
    "--page", "only", multiple=True, metavar="NAME", help="execute only this page, build no HTML; repeatable"
)
def main(size: str, root: Path, jobs: int | None, only: tuple[str, ...]) -> None:
    """Execute the chapters and build the book.

    Only pages whose notebook, parameters or memlib changed are executed. With --size published the pages too
    large for a laptop are executed into published/book/ and nothing is built.
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
