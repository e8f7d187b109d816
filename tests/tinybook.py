"""Books of tiny notebooks for the tests of the pipeline."""

import shutil
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = (
    'experiment: str = "one"  # name\nepochs: int = 4  # passes over the data\nrate: float = 0.1  # step size'
)
CHECK = "from memlib.chapters.notebook import check_parameters, record\n\ncheck_parameters()"
FACTS = {
    **{"date": "2026-11-22T23:52:15-05:00", "seconds": 1210.58, "processor": "A fast* one", "gpu": ""},
    **{"cores": 2, "python": "3.11.7", "torch": "2.15.0", "memlib": "0.1.0", "commit": "0123456789ab-dirty"},
}


def notebook(*cells: str, title: str = "A title") -> nbformat.NotebookNode:
    """A notebook of a title, a parameters cell and further code cells."""
    made = [new_markdown_cell(f"# {title}"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    made += map(new_code_cell, cells)
    for cell in made:
        cell.metadata.setdefault("tags", [])  # as Papermill does when it reads a file
    return new_notebook(cells=made, metadata=KERNEL)


def executed(source: str = PARAMETERS, run: dict | None = None, **given: object) -> nbformat.NotebookNode:
    """A notebook with these declarations, executed with the parameters given; it recorded a run."""
    made = notebook("1")
    made.cells[1].source = source
    made.metadata |= {"papermill": {"parameters": given}, "memlib": {**FACTS, "run": run}}
    return made


def recorded(made: nbformat.NotebookNode, path: Path, **values: object) -> Path:
    """The file of a notebook that recorded these values."""
    for name, value in values.items():
        data = {"application/papermill.record/text/plain": repr(value)}
        output = new_output("display_data", data, metadata={"scrapbook": {"name": name}})
        made.cells.append(new_code_cell("1", outputs=[output]))
    nbformat.write(made, path)
    return path


def drawing(name: str, caption: str, source: str = "1") -> nbformat.NotebookNode:
    """A code cell that shows a figure."""
    figure = {"image": {"alt": "A line."}, "figure": {"name": name, "caption": caption}}
    return new_code_cell(source, metadata={"mystnb": figure})


def write_book(root: Path, **notebooks: nbformat.NotebookNode) -> Path:
    """A repository's book/ folder with the notebooks given."""
    (root / "book" / "params").mkdir(parents=True, exist_ok=True)
    for name, content in notebooks.items():
        nbformat.write(content, root / "book" / f"{name}.ipynb")
    return root


def write_params(root: Path, size: str = "quick", **content: object) -> None:
    """book/params: an index and two other pages; and the parameters of one size."""
    (root / "book" / "params" / "pages.yaml").write_text(yaml.safe_dump({"pages": ["one", "two", "index"]}))
    (root / "book" / "params" / f"{size}.yaml").write_text(yaml.safe_dump(content))


def write_site(root: Path, toc: str) -> None:
    """What Jupyter Book needs beside the pages."""
    for name in ("_static", "_entrance"):
        shutil.copytree(ROOT / "book" / name, root / "book" / name)
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(toc)
