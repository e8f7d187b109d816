"""The pages of the book and their execution with Papermill."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from book._ext.provenance import provenance
from nbformat import NotebookNode

from memlib.chapters.notebook import check_values, declared_parameters
from memlib.checks import check_known
from memlib.datasets import fingerprint
from memlib.experiment import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "memlib"
SIZES = ("quick", "laptop", "paper", "published")


@dataclass(frozen=True)
class Page:
    """A page of the book: a notebook with its parameters."""

    name: str
    notebook: str  # of its source, without .ipynb
    title: str | None = None  # None: as the notebook's heading
    parameters: Mapping[str, Any] | None = None  # None: the page comes executed from published/

    @property
    def experiment(self) -> str:
        """The experiment of a template's page; empty for a chapter."""
        return self.suffix.removeprefix("-")

    @property
    def suffix(self) -> str:
        """What its labels end in: `-<experiment>` on a template's page, nothing in a chapter."""
        return self.name.removeprefix(self.notebook)


def load_pages(size: str = "laptop", book_dir: str | Path = ROOT / "book") -> list[Page]:
    """The pages at a size, in the order in which to execute them.

    Templates come first and by notebook, so that the first pages train different experiments and the later
    ones find their results.

    Args:
        size: quick, laptop or paper for the whole book; published for the pages of published.yaml alone.
        book_dir: the folder of the notebooks and of params/.

    Raises:
        ValueError: an unknown size, a file of params/ that is not what it should be, or an unknown
            experiment, chapter or parameter in it, named with the file.
        FileNotFoundError: a file of params/, or a notebook that pages.yaml names, is missing.
    """
    check_known("size", size, SIZES)
    book_dir = Path(book_dir)
    listed = read_yaml(book_dir / "params" / "pages.yaml", chapters=list, templates=list, experiments=dict)
    templates = dict(_template(entry, listed["experiments"]) for entry in listed["templates"])
    file = book_dir / "params" / f"{size}.yaml"
    settings = read_yaml(file, experiments=dict, chapters=dict)
    experiments, chapters = settings["experiments"], settings["chapters"]
    for kind, given, known in (
        ("chapter", chapters, (*listed["chapters"], *templates)),
        ("experiment", experiments, (*listed["experiments"], *EXPERIMENTS)),
    ):
        for name in given:
            check_known(kind, name, known, f"{file.name}: ")
        for name, parameters in given.items():
            given[name] = _checked(file, name, parameters, dict)

    pages, elsewhere = [], _published_chapters(book_dir)
    for notebook in (*templates, *listed["chapters"]):
        source = _read(book_dir / f"{notebook}.ipynb")
        declared = declared_by(source)
        of_chapter = chapters.get(notebook, {})
        if notebook in listed["chapters"]:
            candidates = {notebook: (None, of_chapter)}
            if notebook not in chapters and size == "published":
                candidates = {}
            elif notebook not in chapters and notebook in elsewhere:
                candidates = {notebook: (None, None)}
        else:
            candidates = {
                f"{notebook}-{name}": (
                    _titled(_heading(source), title),
                    {"experiment": name, **experiments[name], **of_chapter} if name in experiments else None,
                )
                for name, title in templates[notebook].items()
                if size != "published" or name in experiments
            }
        for name, (title, parameters) in candidates.items():
            check_values(declared, parameters or {}, f"{file.name}, page {name}")
            pages.append(Page(name, notebook, title, parameters))
    return pages


def _published_chapters(book_dir: Path) -> set[str]:
    """Chapters that come executed from published/ at sizes that have no parameters for them."""
    file = book_dir / "params" / "published.yaml"
    return set(read_yaml(file, experiments=dict, chapters=dict)["chapters"]) if file.exists() else set()


def _template(entry: Any, experiments: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A template and the titles of the experiments that it has pages of: all, or those listed for it."""
    if isinstance(entry, str):
        return entry, experiments
    if not isinstance(entry, dict) or [type(only) for only in entry.values()] != [list]:
        raise ValueError(
            f"pages.yaml: a template is {entry!r}; allowed: a notebook, or `notebook: [experiment]`"
        )
    [(notebook, only)] = entry.items()
    for name in only:
        check_known("experiment", name, experiments, "pages.yaml: ")
    return notebook, {name: experiments[name] for name in only}


def read_yaml(file: Path, **sections: type) -> dict[str, Any]:
    """The sections of a file of params/, each of its type and empty where the file has nothing for it.

    Raises:
        ValueError: no valid YAML, another section, or one of another type; named with the file.
        FileNotFoundError: no such file.
    """
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {file}") from None
    try:
        content = yaml.load(text, _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line, column = error.problem_mark.line + 1, error.problem_mark.column + 1
        where = f"{file.name}, line {line}, column {column}"
        raise ValueError(f"{where}: not valid YAML, {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name}: not valid YAML, {error}") from error
    content = _checked(file, "the file", content, dict)
    for name in content:
        check_known("section", name, sections, f"{file.name}: ")
    return {name: _checked(file, name, content.get(name), kind) for name, kind in sections.items()}


class _UniqueKeys(yaml.SafeLoader):
    """Where YAML lets the last of two equal keys win, one of them is a mistake."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, names = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} comes twice", problem_mark=key.start_mark)
            names.add(key.value)
        return node


def _checked(file: Path, name: Any, value: Any, kind: type) -> Any:
    """A value of the type, empty for nothing; ValueError for another."""
    if value is not None and not isinstance(value, kind):
        allowed = {dict: "names with values, as in `name: value`", list: "a list, as in `[one, two]`"}[kind]
        raise ValueError(f"{file.name}: {name} is {value!r} ({type(value).__name__}); allowed: {allowed}")
    return kind() if value is None else value


def _titled(heading: str, experiment: str) -> str:
    return f"{heading} ({experiment})" if heading.endswith("?") else f"{heading}: {experiment}"


def declared_by(notebook: NotebookNode) -> dict[str, str]:
    """Name -> annotation of the parameters that a notebook declares."""
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    tagged = (cell for cell in code if "parameters" in cell.metadata.get("tags", []))
    return next((declared_parameters(cell.source) for cell in tagged), {})


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, 4)
    except FileNotFoundError:
        raise FileNotFoundError(f"no notebook {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a notebook: {error}") from error


HEADING = re.compile(r"^# +(.+?) *$", re.MULTILINE)


def _heading(notebook: NotebookNode) -> str:
    found = (HEADING.search(c.source) for c in notebook.cells if c.cell_type == "markdown")
    return next((m[1] for m in found if m), "")


def page_key(page: Page, book_dir: Path) -> str:
    """A hash of all that determines an executed page: notebook, parameters, memlib, its main libraries."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "matplotlib")}
    key = hashlib.sha256(json.dumps([page.name, page.parameters, versions], sort_keys=True).encode())
    sources = sorted(file for kind in ("py", "pyi", "mplstyle", "css") for file in PACKAGE.rglob(f"*.{kind}"))
    files = {f"{page.notebook}.ipynb": book_dir / f"{page.notebook}.ipynb"}
    files |= {file.relative_to(PACKAGE).as_posix(): file for file in sources}
    for name, file in files.items():
        key.update(f"\0{name}\0".encode() + file.read_bytes())
    return key.hexdigest()


def page_source(page: Page, book_dir: Path) -> dict[str, Any]:
    """What a published page must agree with: a hash of its source notebook, and its parameters."""
    notebook = fingerprint(book_dir / f"{page.notebook}.ipynb", "sha256")
    return {"notebook": notebook, "parameters": dict(page.parameters or {})}


def execute_pages(
    pages: Sequence[Page],
    root: str | Path = ROOT,
    folder: str | Path = "_build/executed/book",
    jobs: int | None = None,
) -> list[str]:
    """Execute with Papermill what has changed, several pages at a time, each in its own process.

    A page that fails stays as `<page>.failed.ipynb` and the others still finish; then every failure is
    printed with its cell and the end of its traceback. A kernel that does not start, as when another process
    takes its ports first, is started once more, which is printed.

    Args:
        pages: started in this order; those without parameters are left out.
        root: the repository, in which the notebooks run.
        folder: where executed notebooks go, relative to `root`.
        jobs: pages at a time; by default as many as there are cores, which they share.

    Returns:
        The names of the pages that failed.
    """
    root = Path(root).resolve()
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    pages = [page for page in pages if page.parameters is not None]
    keys = {page.name: page_key(page, root / "book") for page in pages}
    sources = {page.name: page_source(page, root / "book") for page in pages}
    waiting = [page for page in pages if _stored_key(target / f"{page.name}.ipynb") != keys[page.name]]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = max(1, min(jobs or cores, len(waiting)))
    threads = max(1, cores // jobs)
    made = provenance(root) | {"cores": threads}
    # The book's own kernel, not one that the user installed under the same name.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "JUPYTER_PREFER_ENV_PATH": "1"}

    def say(page: Page, message: str) -> None:
        nonlocal ended
        ended += 1
        print(f"[{ended:2}/{len(pages)}] {page.name:<32} {message}", flush=True)

    ended = 0
    print(f"{len(waiting)} of {len(pages)} pages to execute, {jobs} at a time", flush=True)
    for page in pages:
        if page not in waiting:
            say(page, "up to date")
    failures: dict[str, str] = {}
    restarted: set[str] = set()
    running: dict[subprocess.Popen[bytes], tuple[Page, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                page = waiting.pop(0)
                running[_start(page, root, target, environment)] = page, time.monotonic()
            time.sleep(0.05)
            for process in [p for p in running if p.poll() is not None]:
                page, started = running.pop(process)
                seconds = time.monotonic() - started
                if process.returncode == 0:
                    facts = {"key": keys[page.name], "source": sources[page.name], **made}
                    _finish(page, target, facts, seconds)
                    say(page, f"{seconds:7.1f} s")
                elif page.name not in restarted and (reason := _kernel_not_started(page, target)):
                    print(f"{page.name}: {reason}; it is started once more", flush=True)
                    restarted.add(page.name)
                    running[_start(page, root, target, environment)] = page, time.monotonic()
                else:
                    failures[page.name] = _failure(page, target)
                    say(page, f"{seconds:7.1f} s  FAILED")
    finally:
        for process in running:
            process.terminate()
        for process, (page, _) in running.items():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            (target / f"{page.name}.part.ipynb").unlink(missing_ok=True)
    for name, report in failures.items():
        print(f"\n{name} failed{report}", file=sys.stderr, flush=True)
    return list(failures)


def _start(page: Page, root: Path, target: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start Papermill; an executed copy of an earlier source must not outlive a failure, so it goes first."""
    (target / f"{page.name}.ipynb").unlink(missing_ok=True)
    (target / f"{page.name}.failed.ipynb").unlink(missing_ok=True)
    # Relative paths, because Papermill writes them into the notebook.
    source, part = f"book/{page.notebook}.ipynb", target.relative_to(root) / f"{page.name}.part.ipynb"
    options = [
        "--no-progress-bar",
        "--kernel",
        "python3",
        "--parameters_yaml",
        yaml.safe_dump(dict(page.parameters)),
    ]
    with open(target / f"{page.name}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "papermill", source, str(part), *options],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # on Ctrl-C this process ends them, each with its kernel
        )


def _kernel_not_started(page: Page, target: Path) -> str:
    """The error of a kernel that came to no cell; empty where Papermill failed for another reason."""
    log = (target / f"{page.name}.log").read_text("utf-8", "replace")
    found = re.search(
        r"^RuntimeError: (Kernel (?:died before replying|didn't respond in).*)", log, re.MULTILINE
    )
    return found[1] if found else ""


def _stored_key(path: Path) -> str | None:
    try:
        return nbformat.read(path, 4).metadata.get("memlib", {}).get("key")
    except (FileNotFoundError, ValueError):
        return None


def _finish(page: Page, target: Path, facts: Mapping[str, Any], seconds: float) -> None:
    """Give an executed page its name, and put into its metadata how it was made."""
    part, final = target / f"{page.name}.part.ipynb", target / f"{page.name}.ipynb"
    notebook = nbformat.read(part, 4)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    notebook.metadata["memlib"] = {**facts, "seconds": round(seconds, 2), "date": date}
    notebook.metadata.papermill["output_path"] = final.name
    nbformat.write(notebook, part)
    part.replace(final)


ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def _failure(page: Page, target: Path) -> str:
    """Where and why a page failed: its cell and the traceback's end, or else the end of Papermill's log."""
    part, failed = target / f"{page.name}.part.ipynb", target / f"{page.name}.failed.ipynb"
    lines = (target / f"{page.name}.log").read_text("utf-8", "replace").splitlines()
    cells = []
    if part.exists():
        part.replace(failed)
        cells = [c for c in nbformat.read(failed, 4).cells if c.get("execution_count")]
    errors = [(c, o) for c in cells for o in c.outputs if o.output_type == "error"]
    if errors:
        lines = "\n".join(errors[0][1].traceback).splitlines()
    # Without an error among the outputs the kernel died, and the last cell that was started did it.
    cell = errors[0][0] if errors else cells[-1] if cells else None
    where = f" in cell In [{cell.execution_count}] (see {failed})" if cell else ""
    return f"{where}:\n" + "\n".join(f"  {ANSI.sub('', line)}" for line in lines[-12:])
