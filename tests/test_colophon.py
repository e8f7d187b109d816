"""How a page says how it was made."""

import os
import re
import shlex
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell
from tinybook import FACTS, executed

from book._ext.colophon import add_colophon, command, parameters_of
from book._ext.pages import ROOT, Page, load_pages


def closed(made, published: bool = False, **options: object) -> str:
    add_colophon(made, Page("score", None if published else {}), "laptop", "https://a", **options)
    return made.cells[-1].source


def test_parameters_have_their_value_and_what_they_mean():
    made = executed('a: int = 4  # of a, all\nb: str = "ééééé"  # with 2 words\nc: float = -1.5', a=9)
    made.cells.insert(2, new_code_cell("a = 3", metadata={"tags": ["injected-parameters"]}))
    assert parameters_of(made) == {"a": (9, "of a, all"), "b": ("ééééé", "with 2 words"), "c": (-1.5, "")}
    closed(made)
    assert all("remove-cell" in made.cells[i].metadata.tags for i in (1, 2))
    del made.cells[1]
    assert parameters_of(made) == {}


def test_a_page_says_where_when_and_with_what_it_was_made(tmp_path):
    made = executed(rate=0.5)
    text = closed(made)
    assert "How this page was made: at the size laptop, on 2026-11-23\n" in text
    assert "* - Executed\n  - 2026-11-23 04:52 UTC, in 1210.6 s\n" in text
    assert "* - On\n  - A fast\\* one, 2 cores\n" in text
    assert "  - Python 3.11.7, torch 2.15.0, memlib 0.1.0; commit: 0123456789ab-dirty\n" in text
    assert "  - laptop: minutes on two cores\n" in text
    assert "* - `rate`\n  - `0.5`\n  - step size\n" in text
    assert '* - `experiment`\n  - `"one"`\n  - name\n' in text
    assert '%pip install "memlib[book] @ git+https://a"' in text and "parquet" not in text
    made.metadata["memlib"] = FACTS | {"gpu": "A GPU", "cores": 1}
    (tmp_path / "a.parquet").write_bytes(bytes(2_000_000))
    text = closed(made, published=True, scores=tmp_path / "a.parquet")
    assert "  - A GPU, A fast\\* one, 1 core\n" in text and "  - published: " in text
    assert "(Parquet, 2.0 MB)](../scores/a.parquet)" in text and "](../scores/a.json)" in text


def test_the_command_gives_papermill_the_very_values():
    given = {
        **{"experiment": "digits-lr3", "label": "0", "empty": "", "words": "two: words", "truth": "True"},
        **{"rate": 1e-05, "flip": True, "count": 60000, "big": "1e3"},
    }
    source = "\n".join(
        f"{name}: {type(v).__name__} = {v!r}  # help" for name, v in (given | {"unset": 5}).items()
    )
    printed = re.search(r"```bash\n(.*?)\n```", closed(executed(source, **given)), re.DOTALL)[1]
    assert all(len(line) <= 100 for line in printed.splitlines())
    program, source, target, option, values = shlex.split(printed.replace("\\\n", " "))
    assert (program, source, target, option) == (".venv/bin/papermill", "book/score.ipynb", "out.ipynb", "-y")
    found = yaml.safe_load(values)  # as Papermill does
    assert found == given
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in given.items()}
    assert closed(executed()).count("out.ipynb\n```") == 1


def test_a_page_of_released_runs_has_no_sizes_of_its_own():
    source = "\n".join(f'{name}: str = ""  # {name}' for name in ("experiment", "other", "released", "seed"))
    source += "\nepochs: int = 3  # passes\nhidden: int = 8  # of another model"
    made = executed(source, experiment="one", released="published/runs")
    text = closed(made, published=True)
    assert "](https://a/tree/main/published/runs)" in text and "`epochs`" not in text and "`hidden`" in text
    assert "Trained models are stored" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02-data-and-models", "04-mnist"])
def test_the_line_that_a_page_prints_makes_it_again(tmp_path, mnist_root, name):
    """Of a page that trains, and of one that shows released runs."""
    page = next(page for page in load_pages("quick") if page.name == name)
    folder = "published/book" if page.parameters is None else "_build/test/_build/executed/book"
    printed = command(page, nbformat.read(ROOT / folder / f"{name}.ipynb", 4))
    _, source, _, *given = shlex.split(printed.replace("\\\n", " "))
    line = [sys.executable, "-m", "papermill", "--no-progress-bar", source, tmp_path / "out.ipynb", *given]
    environment = {**os.environ, "MEMLIB_RESULTS": str(tmp_path), "MEMLIB_DATA": str(mnist_root)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not nbformat.read(tmp_path / "out.ipynb", 4).metadata.papermill.exception
