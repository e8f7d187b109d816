"""Chapters in the test's own process, cell by cell, with parameters as Papermill injects them."""

from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from memlib.chapters.notebook import record

ROOT = Path(__file__).resolve().parents[1]


def execute(chapter: str, **parameters: Any) -> dict[str, Any]:
    """What a chapter records; errors of its cells are raised as they are.

    Every chapter runs in a real kernel when the book is built. Here none is started, which would take longer
    than most of them.
    """
    source = load_notebook_node(str(ROOT / "book" / f"{chapter}.ipynb"))
    notebook = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
    records: dict[str, Any] = {}
    names: dict[str, Any] = {"In": [""]}

    def recorded(**headlines: Any) -> None:
        with mock.patch("IPython.get_ipython", return_value=None):  # no output to glue to
            records.update(record(**headlines))

    shell = mock.Mock(user_ns=names)
    try:
        with (
            mock.patch("IPython.get_ipython", return_value=shell),
            mock.patch("memlib.chapters.notebook.record", recorded),
        ):
            for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
                names["In"].append(cell.source)
                exec(compile(cell.source, f"{chapter}.ipynb", "exec"), names)
    finally:
        plt.close("all")
    return records
