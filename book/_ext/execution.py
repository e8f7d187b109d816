"""The execution of pages with Papermill: which ones have changed, where and with what they were made."""

import ast
import copy
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grimp
import loky
import nbformat
import papermill
import torch
from book._ext.pages import ROOT, Page, read_notebook
from nbformat import NotebookNode

from memlib.chapters.notebook import RUN, read_records
from memlib.device import UNKNOWN, choose_device, processor

PACKAGE = ROOT / "memlib"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NOT_STARTED = ("Kernel died before replying", "Kernel didn't respond in")


def provenance(root: Path) -> dict[str, Any]:
    """Machine (`gpu` is empty where memlib computes on the CPU), versions, the commit of the repository."""
    device = choose_device()
    return {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "memlib": importlib.metadata.version("memlib"),
        "commit": commit(root),
    }


def commit(root: Path) -> str:
    """The commit of a repository as `git describe` names it, `-dirty` where tracked files differ from it.

    "not a git checkout" for a folder that is none, also inside one; "unknown" where git has no answer.
    """
    if not (root / ".git").exists():
        return "not a git checkout"
    # Without the locks that a refreshed index would take: others may work in the same tree.
    git = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return UNKNOWN


def page_key(page: Page, book_dir: Path) -> str:
    """A hash of what determines an executed page: notebook, parameters, released runs, imports, libraries."""
    libraries = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "xarray", "matplotlib")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    key = hashlib.sha256(json.dumps([page.name, page.parameters, versions], sort_keys=True).encode())
    notebook = book_dir / f"{page.name}.ipynb"
    given, released = page.parameters or {}, []
    if given.get("released"):
        folder = book_dir.parent / given["released"]
        released = sorted(
            file for k in ("experiment", "other") if k in given for file in (folder / given[k]).glob("*")
        )
    for file in (notebook, *needed_files(read_notebook(notebook)), *released):
        key.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return key.hexdigest()


def needed_files(notebook: NotebookNode) -> list[Path]:
    """The files of memlib that a notebook's code imports or names, and all that these import in turn.

    Style sheets count for the modules in their folder. Code that has "memlib" as a text runs its program.
    """
    graph, public = _imports()
    named = {"memlib"}
    for node in ast.walk(ast.parse("\n".join(c.source for c in notebook.cells if c.cell_type == "code"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            named.add(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value == "memlib":  # whose names it imports when it runs
            named |= {"memlib.__main__", *public.values()}
    named |= {module for name, module in public.items() if f"memlib.{name}" in named}
    modules = named & graph.modules
    modules = modules.union(*map(graph.find_upstream_modules, modules))
    files = {PACKAGE / "__init__.pyi"}
    for module in modules | {module.rpartition(".")[0] for module in modules - {"memlib"}}:
        path = PACKAGE.parent / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        files |= {path, *path.parent.glob("*.mplstyle"), *path.parent.glob("*.css")}
    return sorted(files)


@functools.cache
def _imports() -> tuple[grimp.ImportGraph, dict[str, str]]:
    """Who imports whom in memlib, and the modules of its public names."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8"))
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    public = {alias.name: f"memlib.{line.module or alias.name}" for line in lines for alias in line.names}
    return grimp.build_graph("memlib", cache_dir=None), public


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells of a notebook that compute, without the one in which Papermill sets parameters."""
    own = (c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", []))
    return [cell for cell in own if cell.cell_type == "code"]


def same_code(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks compute the same: imports, comments and the layout of code do not count."""
    cells, others = ([_tree(ast.parse(c.source)) for c in code_cells(n)] for n in (one, other))
    return cells == others


def renewed(executed: NotebookNode, source: NotebookNode) -> NotebookNode:
    """An executed page with the text, the code's layout and the captions that its notebook has now.

    Args:
        executed: whose outputs and metadata are kept.
        source: of the `same_code`.
    """
    page = copy.deepcopy(source)
    page.metadata = executed.metadata
    for cell, done in zip(code_cells(page), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    injected = [c for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    first = next((i for i, c in enumerate(page.cells) if "parameters" in c.metadata.get("tags", [])), 0)
    page.cells[first + 1 : first + 1] = injected
    return page


def _tree(node: Any) -> Any:
    """Code without imports as lists and texts: the same in every Python, which `ast.dump` is not."""
    if isinstance(node, ast.AST):
        fields = [(name, _tree(value)) for name, value in ast.iter_fields(node)]
        return [type(node).__name__, *(field for field in fields if field[1] not in ([], "None"))]
    if isinstance(node, list):
        return [_tree(item) for item in node if not isinstance(item, ast.Import | ast.ImportFrom)]
    return repr(node)


def execute_pages(
    pages: Sequence[Page], root: Path = ROOT, folder: str = "_build/executed/book", jobs: int | None = None
) -> list[str]:
    """Execute with Papermill what has changed, in this order; returns the names of the pages that failed.

    A page that fails stays as `<page>.failed.ipynb` and the others still finish; then every failure is
    printed with its cell and the end of its traceback. A kernel that does not start, as when another process
    takes its ports first, is started once more, which is printed. Pages without parameters are left out.

    Args:
        pages: those of the book.
        root: the repository, in which the notebooks run.
        folder: where executed notebooks go, relative to `root`.
        jobs: pages at a time; by default as many as there are cores, which they share.
    """
    root = root.resolve()
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    pages = [page for page in pages if page.parameters is not None]
    keys = {page.name: page_key(page, root / "book") for page in pages}
    there = {page.name: path for page in pages if (path := target / f"{page.name}.ipynb").exists()}
    made_of = {
        name: nbformat.read(path, 4).metadata.get("memlib", {}).get("key") for name, path in there.items()
    }
    waiting = [page for page in pages if made_of.get(page.name) != keys[page.name]]
    cores = loky.cpu_count()
    jobs = max(1, min(jobs or cores, len(waiting)))
    threads = max(1, cores // jobs)
    made = {**provenance(root), "cores": threads}
    print(f"{len(waiting)} of {len(pages)} pages to execute, {jobs} at a time", flush=True)
    failures: dict[str, str] = {}
    # The book's own kernel, not one that the user installed under the same name.
    environment = {"OMP_NUM_THREADS": str(threads), "JUPYTER_PREFER_ENV_PATH": "1"}
    executor = loky.ProcessPoolExecutor(jobs, env=environment)
    try:
        running = {}
        for page in waiting:
            facts = {"key": keys[page.name], **made}
            running[executor.submit(_execute, page, root, target, facts)] = page.name
        for ended, future in enumerate(loky.as_completed(running), 1):
            name, (seconds, note, failure) = running[future], future.result()
            if note:
                print(f"{name}: {note}; it is started once more", flush=True)
            failures |= {name: failure} if failure else {}
            mark = "  FAILED" if failure else ""
            print(f"[{ended:2}/{len(waiting)}] {name:<32} {seconds:7.1f} s{mark}", flush=True)
    finally:
        executor.shutdown(kill_workers=True)  # on Ctrl-C with their kernels
        for part in target.glob("*.part.ipynb"):
            part.unlink()
    for name, report in failures.items():
        print(f"\n{name} failed{report}", file=sys.stderr, flush=True)
    return list(failures)


def _execute(page: Page, root: Path, target: Path, facts: Mapping[str, Any]) -> tuple[float, str, str]:
    """The seconds of a page, why its kernel was started twice, why it failed; empty texts for no.

    Runs in a process that does nothing else meanwhile.
    """
    ends = (".ipynb", ".failed.ipynb", ".part.ipynb", ".log")
    final, failed, part, log = (target / f"{page.name}{end}" for end in ends)
    final.unlink(missing_ok=True)  # of an earlier source, which must not outlive a failure
    failed.unlink(missing_ok=True)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    started, note, failure = time.monotonic(), "", ""
    # Papermill writes the paths into the notebook.
    paths = f"book/{page.name}.ipynb", str(part.relative_to(root))
    execute = functools.partial(papermill.execute_notebook, kernel_name="python3", progress_bar=False)
    try:
        try:
            execute(*paths, dict(page.parameters))
        except RuntimeError as error:
            if not str(error).startswith(_NOT_STARTED):
                raise
            note = str(error)
            execute(*paths, dict(page.parameters))
        finish(part, final, {**facts, "seconds": round(time.monotonic() - started, 2)})
    except Exception as error:
        failure = _failure(error, part, failed, log)
    return time.monotonic() - started, note, failure


def finish(part: Path, final: Path, facts: Mapping[str, Any]) -> None:
    """Give an executed page its name, and put into its metadata how it was made."""
    notebook = nbformat.read(part, 4)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    notebook.metadata["memlib"] = {**facts, "date": date}
    if run := read_records(part).get(RUN):
        notebook.metadata["memlib"]["run"] = json.loads(run)
    notebook.metadata.papermill["output_path"] = final.name
    nbformat.write(notebook, part)
    part.replace(final)


def _failure(error: Exception, part: Path, failed: Path, log: Path) -> str:
    """The cell in which a page failed, and the end of its traceback or of what its kernel printed."""
    where, lines = "", "\n".join(getattr(error, "traceback", [])).splitlines()
    if part.exists():
        part.replace(failed)
        counts = [c.execution_count for c in nbformat.read(failed, 4).cells if c.get("execution_count")]
        # Where there is no traceback the kernel died, of the last cell that was started.
        if count := getattr(error, "exec_count", counts[-1] if counts else None):
            where = f" in cell In [{count}] (see {failed})"
    lines = lines or [*log.read_text("utf-8", "replace").splitlines(), str(error)]
    return f"{where}:\n" + "\n".join(f"  {ANSI.sub('', line)}" for line in lines[-12:])
