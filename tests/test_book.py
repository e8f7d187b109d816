"""Staging and compilation of the book, and the sources of its chapters."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pyarrow.parquet as pq
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell
from tinybook import CHECK, notebook, write_book, write_params

import memlib
from memlib import book, pages
from memlib.chapter import read_records

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


TOC = """
format: jb-book
root: book/index
chapters: [{file: book/score-one}, {file: book/score-two}]
"""


def test_book_is_built_and_warnings_are_errors(tmp_path, capsys):
    figure = {"image": {"alt": "A line."}, "figure": {"name": "fig-a", "caption": "A line."}}
    score = notebook(CHECK, "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])", title="Score")
    score.cells[-1].metadata["mystnb"] = figure
    score.cells.append(new_code_cell("_ = plt.plot([2, 1])"))
    extremes = {"image": {"alt": "Another."}, "figure": {"name": "fig-extremes", "caption": "Another."}}
    score.cells[-1].metadata["mystnb"] = extremes
    score.cells.append(new_markdown_cell("{numref}`fig-a`"))
    score.cells.append(
        new_code_cell("import numpy as np\nrecord(median=np.float64(4.25), name=experiment, count=3)")
    )
    rows = "table_run='a run', table_paper='4', table_here='5', table_verdict='holds'"
    score.cells.append(new_code_cell(f"record({rows})"))
    index = notebook("1", title="Book")
    index.cells.append(
        new_markdown_cell("It is {glue:text}`score-one.ipynb::median:.1f`, see {numref}`fig-a-one`.")
    )
    index.cells.append(new_markdown_cell("```{include} paper-figures.md\n```"))
    write_book(tmp_path, index=index, score=score)
    write_params(tmp_path, experiments={"one": {"epochs": 9}})
    listed = [{"number": 7, "subject": "A line", "page": "score-one", "parts": {"fig-a": "b"}}]
    figures = tmp_path / "book" / "params" / "figures.yaml"
    figures.write_text(yaml.safe_dump({"figures": listed}))
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text(TOC)
    write_params(tmp_path, "published", experiments={"two": {}})
    assert book.build_book("published", tmp_path) is None
    assert [p.name for p in (tmp_path / "published" / "book").iterdir()] == ["score-two.ipynb"]
    assert "<svg" in (tmp_path / "published" / "extremes-two.svg").read_text()

    first = book.build_book("quick", tmp_path)
    assert first == tmp_path / "_build" / "html" / "index.html"
    records = read_records(tmp_path / "_build" / "executed" / "book" / "score-one.ipynb")
    assert {k: records[k] for k in ("median", "name", "count")} == {"median": 4.25, "name": "one", "count": 3}
    html = (first.parent / "book" / "index.html").read_text()
    assert re.search(r'pasted-text">4\.2<', html) and "score-one.html#fig-a-one" in html
    page = (first.parent / "book" / "score-one.html").read_text()
    assert "Score: the first" in page and 'alt="A line."' in page
    assert "A line. Figure 7b of the paper." in page
    assert re.search(r'<img alt="A line\." src="[^"]+\.svg"', page)
    assert "papermill book/score.ipynb out.ipynb -p experiment one -p epochs 9" in re.sub("<[^>]*>", "", page)
    assert "A line</p>" in html and "holds" in html
    assert "/main/book/score.ipynb" in page and "/main/book/score-one.ipynb" not in page

    capsys.readouterr()
    index.cells.append(new_markdown_cell("{numref}`fig-nowhere`"))
    write_book(tmp_path, index=index)
    (tmp_path / "_toc.yml").write_text(TOC.replace("score-two", "absent"))
    with pytest.raises(book.BuildError, match="2 warnings"):
        book.build_book("quick", tmp_path)
    err = capsys.readouterr().err
    assert "fig-nowhere" in err.splitlines()[0] + err.splitlines()[1] and "absent" in err


def write_published(root, notebook, **parameters):
    """A book with the published page score-two, as execution and publication leave it."""
    write_book(root, index=notebook, score=notebook)
    write_params(root, experiments={"one": {}})
    write_params(root, "published", experiments={"two": parameters})
    executed, target = root / "_build" / "executed" / "book", root / "_build" / "published"
    for folder in (executed, target):
        folder.mkdir(parents=True)
    for name in ("index", "score-one"):
        nbformat.write(notebook, executed / f"{name}.ipynb")
    (page,) = book.load_pages("published", root / "book")
    nbformat.write(notebook, target / "score-two.part.ipynb")
    pages._finish(page, target, "key", pages.page_source(page, root / "book"), 1.0)
    book._publish([page], root, "_build/published")
    return book.load_pages("quick", root / "book")


@pytest.fixture
def published(tmp_path):
    source = notebook("1")
    source.metadata["papermill"] = {}
    return write_published(tmp_path, source, epochs=9)


def test_a_published_page_is_staged_while_its_source_is_the_same(tmp_path, published, monkeypatch):
    monkeypatch.setattr(pages, "PACKAGE", tmp_path)  # memlib's code may change
    book.stage(published, tmp_path)
    assert (tmp_path / "_build" / "stage" / "book" / "score-two.ipynb").exists()


def test_an_outdated_published_page_is_refused_with_the_reason(tmp_path, published):
    def refused(reason):
        for call in (lambda: book.stage(published, tmp_path), lambda: book.build_book("quick", tmp_path)):
            with pytest.raises(book.BuildError, match=rf"^score-two: {reason}.* \(`make published`"):
                call()
        assert not (tmp_path / "_build" / "stage").exists()

    write_params(tmp_path, "published", experiments={"two": {"epochs": 8, "rate": 0.5}})
    refused("epochs is 9 there and 8, rate is None there and 0.5 in params/published.yaml")
    write_params(tmp_path, "published", experiments={})
    refused(r"in published/book/, but not among the pages of params/published.yaml")
    write_params(tmp_path, "published", experiments={"two": {"epochs": 9}})
    write_book(tmp_path, score=notebook("2"))
    refused(r"book/score.ipynb has changed since it was published")
    path = tmp_path / "published" / "book" / "score-two.ipynb"
    old = nbformat.read(path, 4)
    del old.metadata["memlib"]
    nbformat.write(old, path)
    refused("published without a record of its source")
    path.unlink()
    refused("not part of this size and not in published/book/")


def test_only_what_the_book_needs_is_staged(tmp_path, published):
    for name in ("ruff.toml", "references.bib", ".ruff_cache/x", ".ipynb_checkpoints/x", "_static/x.css"):
        (tmp_path / "book" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "book" / name).touch()
    staged = book.stage(published, tmp_path) / "book"
    assert sorted(p.relative_to(staged).as_posix() for p in staged.rglob("*")) == [
        *("_static", "_static/x.css", "index.ipynb", "references.bib"),
        *("score-one.ipynb", "score-two.ipynb"),
    ]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_clean_removes_only_what_the_build_made(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = ["_build", "memlib/figures/__pycache__", "tests/__pycache__", "book/.ruff_cache", ".hypothesis"]
    kept = ["book/.ipynb_checkpoints", "mine/__pycache__", "results", "published", "benchmarks"]
    for name in made + kept:
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert not [name for name in made if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in kept)


PARTS = [("15", "18"), ("19", "22")]  # notebooks of "Across the data", and of "Other yardsticks"


def test_table_of_contents_has_every_page():
    every = book.load_pages("laptop")
    experiments = list(dict.fromkeys(page.experiment for page in every if page.experiment))
    templates = [page.name for e in experiments for page in every if page.experiment == e]
    chapters = [page.name for page in every if not page.experiment]
    before = [name for name in chapters if name == "index" or name < "04"]
    across, rivals = (sorted(n for n in (*chapters, *templates) if low <= n < high) for low, high in PARTS)
    templates = [name for name in templates if name not in rivals]
    behind = [name for name in chapters if name not in (*before, *across, *rivals)] + ["12-refused"]
    parts = *before, *templates, *across, *rivals, *behind
    assert book.toc_pages(ROOT) == [f"book/{name}" for name in parts]


def test_nbval_fails_on_a_broken_cell(tmp_path):
    nbformat.write(notebook("assert epochs == 5"), tmp_path / "broken.ipynb")
    options = ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--rootdir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "broken.ipynb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "AssertionError" in done.stdout and "1 failed, 1 passed" in done.stdout


def test_every_notebook_is_a_page_and_every_size_loads():
    assert {path.stem for path in CHAPTERS} == {page.notebook for page in book.load_pages("laptop")}
    for size in pages.SIZES:
        assert book.load_pages(size)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_source(path):
    source = nbformat.read(path, 4)
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "outputs: run nbstripout"
    _, *shown, headlines = code  # but the parameters, which take a line each
    assert max(len(cell.source.splitlines()) for cell in shown) <= 12
    assert "record(" in headlines.source, "the last code cell records the headline numbers"
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [0], "the first code cell, and no other, is tagged parameters"
    for line in code[0].source.splitlines():
        declaration = re.fullmatch(r"[a-z_]+: (int|float|str|bool) = (.+?)  # \S.*", line)
        assert declaration, f"not `name: type = literal  # help`: {line}"
        assert type(ast.literal_eval(declaration[2])).__name__ == declaration[1]
    assert "check_parameters(" in code[1].source
    inspected = papermill.inspect_notebook(str(path))
    assert inspected and all(parameter["help"] for parameter in inspected.values())


def test_what_is_published_stays_small():
    sizes = {path: path.stat().st_size for path in (ROOT / "published").rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 40e6


def test_published_scores_and_record_are_of_the_last_epoch(tmp_path):
    small = {"epochs": 2, "score_every": 1, "folds": 3, "repeats": 2, "num_samples": 2}
    spec = memlib.variant("digits-lr3", num_images=31, **small)
    with pytest.raises(ValueError, match="3 of 3 tasks are missing"):
        book.publish_scores("tiny", spec, tmp_path / "out", root=tmp_path)
    result = memlib.run(spec, root=tmp_path, progress=False)
    for _ in range(2):  # the second time replaces
        book.publish_scores("tiny", spec, tmp_path / "out", root=tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny.json", "tiny.parquet"]
    table = pq.read_table(tmp_path / "out" / "tiny.parquet").to_pandas()
    np.testing.assert_allclose(table["M"], memlib.memorization(result).M[-1])
    assert (table["epoch"] == 2).all() and len(table) == 31
    record = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert memlib.Experiment(**record["experiment"]) == spec and record["repeats"] == 2
    assert {"device", "torch", "finished", "seconds"} <= set(record["runs"][0])
    sha256 = hashlib.sha256((tmp_path / "out" / "tiny.parquet").read_bytes()).hexdigest()
    assert record["scores_sha256"] == sha256
