"""Books of tiny notebooks for the tests of the pipeline."""

from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = (
    'experiment: str = "one"  # name\nepochs: int = 4  # passes over the data\nrate: float = 0.1  # step size'
)
CHECK = "from memlib.chapters.notebook import check_parameters, record\n\ncheck_parameters()"


def notebook(*cells: str, title: str = "A title") -> nbformat.NotebookNode:
    """A notebook of a title, a parameters cell and further code cells."""
    made = [new_markdown_cell(f"# {title}"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    made += map(new_code_cell, cells)
    for cell in made:
        cell.metadata.setdefault("tags", [])  # as Papermill does when it reads a file
    return new_notebook(cells=made, metadata=KERNEL)


def write_book(root: Path, **notebooks: nbformat.NotebookNode) -> Path:
    """A repository's book/ folder with the notebooks given."""
    (root / "book" / "params").mkdir(parents=True, exist_ok=True)
    for name, content in notebooks.items():
        nbformat.write(content, root / "book" / f"{name}.ipynb")
    return root


def write_params(root: Path, size: str = "quick", **content: object) -> None:
    """book/params: one chapter, one template, two experiments; and one size."""
    listed = {
        "chapters": ["index"],
        "templates": ["score"],
        "experiments": {"one": "the first", "two": "second"},
    }
    (root / "book" / "params" / "pages.yaml").write_text(yaml.safe_dump(listed))
    (root / "book" / "params" / f"{size}.yaml").write_text(yaml.safe_dump(content))
