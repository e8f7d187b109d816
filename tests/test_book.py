"""Staging and compilation of the book, and the sources of its chapters."""

import ast
import copy
import html as html_module
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell
from tinybook import CHECK, FACTS, drawing, executed, notebook, write_book, write_params, write_site

from book._ext import build as book
from book._ext import execution
from book._ext.pages import SIZES, load_pages, toc_pages
from memlib.chapters.notebook import read_records

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


TOC = """
format: jb-book
root: book/index
chapters: [{file: book/one}, {file: book/two}, {file: book/status}]
"""


def write_small_book(root: Path, **parameters: object) -> None:
    """An index and two pages, of which figures.yaml knows a figure."""
    one = notebook(CHECK, title="The first")
    one.cells += [
        drawing("fig-a", "A line.", "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2], color='#004488')"),
        new_markdown_cell("{numref}`fig-a`"),
        new_code_cell("import numpy as np\nrecord(median=np.float64(4.25), name=experiment, count=3)"),
        new_code_cell(
            "record(figure_7_run='a run', figure_7_paper='4', figure_7_here='5', figure_7_verdict='holds')"
        ),
    ]
    two = notebook(CHECK, "import matplotlib.pyplot as plt", title="The second")
    two.cells.append(drawing("fig-extremes", "Another.", "_ = plt.plot([2, 1])"))
    index = notebook("1", title="Book")
    seen = "It is {glue:text}`one.ipynb::median:.1f`, see {numref}`fig-a`."
    index.cells += [new_markdown_cell(seen), new_markdown_cell("```{include} paper-figures.md\n```")]
    write_book(root, index=index, one=one, two=two)
    listed = [{"number": 7, "subject": "A line", "page": "one", "parts": {"fig-a": "b"}}]
    write_params(root, **parameters)
    (root / "book" / "params" / "figures.yaml").write_text(yaml.safe_dump({"figures": listed}))
    write_site(root, TOC)


def test_a_small_book_is_built(tmp_path):
    write_small_book(tmp_path, one={"epochs": 9})
    write_params(tmp_path, "published", two={"experiment": "some"})
    assert book.build_book("published", tmp_path) is None
    assert [p.name for p in (tmp_path / "published" / "book").iterdir()] == ["two.ipynb"]
    assert "<svg" in (tmp_path / "published" / "extremes-some.svg").read_text()

    first = book.build_book("quick", tmp_path)
    assert first == tmp_path / "_build" / "html" / "index.html" and "book/index.html" in first.read_text()
    one = tmp_path / "_build" / "executed" / "book" / "one.ipynb"
    assert read_records(one).items() >= {"median": 4.25, "name": "one", "count": 3}.items()
    html = (first.parent / "book" / "index.html").read_text()
    assert re.search(r'pasted-text">4\.2<', html) and "one.html#fig-a" in html
    page = (first.parent / "book" / "one.html").read_text()
    assert "The first" in page and 'alt="A line."' in page
    assert "A line. Figure 7b of the paper." in page
    shown = re.findall(
        r'<img[^>]* class="[^"]*only-(\w+)"[^>]* alt="A line\." src="([^"]+\.svg(?:#dark)?)"', page
    ) or re.findall(r'<img[^>]*alt="A line\."[^>]*only-(\w+)"[^>]*src="([^"]+\.svg(?:#dark)?)"', page)
    assert [theme for theme, _ in shown] == ["light", "dark"] and shown[1][1] == f"{shown[0][1]}#dark"
    assert 'id="dark"' in (first.parent / "book" / shown[0][1]).read_text()
    plain = html_module.unescape(re.sub("<[^>]*>", "", page))
    made = plain[plain.rindex("How this page was made: at the size quick") :]
    line = "papermill book/one.ipynb out.ipynb -y '{epochs: 9}'"
    assert line in re.sub(r"\s*\\\s+", " ", made)
    assert "passes over the data" in made and "not a git checkout" in made
    assert '%pip install "memlib[book] @ git+https://github.com/memlib/memlib"' in made
    assert "# Parameters" not in plain
    assert "A line</p>" in html and "holds" in html
    assert "/main/book/one.ipynb" in page
    check_head(first.parent, page)
    # what the button at the head of a page gives is what was executed
    for name, folder in (("one", "_build/executed"), ("two", "_build/stage")):
        page = (first.parent / "book" / f"{name}.html").read_text()
        [link] = re.findall(
            r'href="([^"]*\.ipynb)" target="_blank"\s*class="[^"]*btn-download-source-button', page
        )
        given = (first.parent / "book" / link).read_bytes()
        assert given == (tmp_path / folder / "book" / f"{name}.ipynb").read_bytes()


@pytest.mark.slow
def test_a_book_with_warnings_leaves_no_site(tmp_path, capsys):
    """Slow, as every build of the book would have to let a warning pass before this mattered."""
    write_small_book(tmp_path)
    index = nbformat.read(tmp_path / "book" / "index.ipynb", 4)
    index.cells.append(new_markdown_cell("{numref}`fig-nowhere`"))
    write_book(tmp_path, index=index)
    (tmp_path / "_toc.yml").write_text(TOC.replace("book/two", "book/absent"))
    with pytest.raises(book.BuildError, match="2 warnings"):
        book.build_book("quick", tmp_path)
    err = capsys.readouterr().err
    assert "fig-nowhere" in err.splitlines()[0] + err.splitlines()[1] and "absent" in err
    assert not (tmp_path / "_build" / "html").exists()


def check_head(html: Path, page: str) -> None:
    """What a page tells browsers and sites that link to it: an icon, a picture, and addresses of one site."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"]
    site = config["html_baseurl"]
    assert site == config["ogp_site_url"] and site.startswith("https://") and site.endswith("/")
    tags = dict(
        re.findall(r'<(?:meta (?:property|name)|link rel)="([\w:]+)" (?:content|href)="([^"]*)"', page)
    )
    assert tags["og:title"] == "The first"
    assert tags["og:url"] == tags["canonical"] == f"{site}book/one.html"
    assert tags["og:image"] == f"{site}_static/card.png" and "MNIST digits" in tags["og:image:alt"]
    assert tags["twitter:card"] == "summary_large_image"
    assert (html / "book" / tags["icon"]).read_bytes() == (ROOT / "book/_static/favicon.svg").read_bytes()
    header = (html / "_static" / "card.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(header[i : i + 4], "big") for i in (16, 20)] == [1200, 630]


@pytest.fixture
def published(tmp_path):
    """The pages of a book with the published page two, as execution and publication leave it."""
    source = executed()
    write_book(tmp_path, index=source, one=source, two=source)
    write_params(tmp_path)
    write_params(tmp_path, "published", two={"epochs": 9})
    folder, target = tmp_path / "_build" / "executed" / "book", tmp_path / "_build" / "published"
    for path in (folder, target):
        path.mkdir(parents=True)
    for name in ("index", "one"):
        nbformat.write(source, folder / f"{name}.ipynb")
    (tmp_path / "_toc.yml").write_text(TOC)
    (page,) = load_pages("published", tmp_path / "book")
    ran = copy.deepcopy(source)
    ran.metadata.papermill["parameters"] = dict(page.parameters)
    nbformat.write(ran, target / "part.ipynb")
    execution.finish(target / "part.ipynb", target / "two.ipynb", FACTS)
    book.publish([page], tmp_path, target)
    return load_pages("quick", tmp_path / "book")


def test_where_a_published_page_fails_the_others_are_stored(tmp_path):
    write_book(tmp_path, index=notebook("1"), one=notebook("1"), two=notebook("assert not epochs"))
    write_params(tmp_path, "published", one={"epochs": 0}, two={"epochs": 1})
    with pytest.raises(book.BuildError, match="1 of 2 pages failed: two"):
        book.build_book("published", tmp_path)
    assert [p.name for p in (tmp_path / "published" / "book").iterdir()] == ["one.ipynb"]


def test_an_outdated_published_page_is_refused_with_the_reason(tmp_path, published):
    def refused(reason):
        for call in (lambda: book.stage(published, tmp_path), lambda: book.build_book("quick", tmp_path)):
            with pytest.raises(book.BuildError, match=rf"^two: {reason}.* \(`make published`"):
                call()
        assert not (tmp_path / "_build" / "stage").exists()

    write_params(tmp_path, "published", two={"epochs": 8, "rate": 0.5})
    refused("epochs is 9 there and 8, rate is None there and 0.5 in params/published.yaml")
    write_params(tmp_path, "published", two={"epochs": 9})
    write_book(tmp_path, two=notebook("2"))
    refused(r"the code of book/two.ipynb has changed since it was published")
    (tmp_path / "published" / "book" / "two.ipynb").unlink()
    refused("not part of this size and not in published/book/")


def test_a_published_page_has_the_text_and_captions_that_its_notebook_has_now(tmp_path, published):
    source = nbformat.read(tmp_path / "book" / "two.ipynb", 4)
    code = next(cell for cell in source.cells if cell.cell_type == "code")
    code.source += "  # a remark"
    code.metadata["tags"] = [*code.metadata.get("tags", []), "hide-input"]
    source.cells.insert(0, nbformat.v4.new_markdown_cell("# Another title"))
    write_book(tmp_path, two=source)
    before = nbformat.read(tmp_path / "published" / "book" / "two.ipynb", 4)
    now = nbformat.read(book.stage(published, tmp_path) / "book" / "two.ipynb", 4)
    assert now.cells[0].source == "# Another title" and now.metadata == before.metadata
    of = {page: execution.code_cells(notebook) for page, notebook in (("before", before), ("now", now))}
    assert [c.outputs for c in of["now"]] == [c.outputs for c in of["before"]] != []
    assert of["now"][0].source.endswith("# a remark") and "hide-input" in of["now"][0].metadata.tags


def test_only_what_the_book_needs_is_staged(tmp_path, published):
    left = "ruff.toml", ".ruff_cache/x", ".ipynb_checkpoints/x", "_ext/x.py"
    for name in (*left, "references.bib", "_static/x.css"):
        (tmp_path / "book" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "book" / name).touch()
    staged = book.stage(published, tmp_path) / "book"
    assert sorted(p.relative_to(staged).as_posix() for p in staged.rglob("*")) == [
        *("_static", "_static/x.css", "index.ipynb", "one.ipynb", "references.bib"),
        *("status.md", "two.ipynb"),
    ]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_clean_removes_only_what_the_build_made(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = [
        "_build",
        "book/_ext/__pycache__",
        "memlib/figures/__pycache__",
        "tests/__pycache__",
        "book/.ruff_cache",
        ".hypothesis",
    ]
    kept = ["book/.ipynb_checkpoints", "mine/__pycache__", "results", "published", "benchmarks"]
    for name in made + kept:
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert not [name for name in made if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in kept)


def test_table_of_contents_has_every_page_once():
    every = load_pages("laptop")
    texts = [path.stem for path in (ROOT / "book").glob("*.md")] + ["status"]
    listed = toc_pages(ROOT)
    assert listed[0] == "book/index"
    assert sorted(listed) == sorted(f"book/{name}" for name in [*(page.name for page in every), *texts])


def test_every_notebook_is_a_page_and_every_size_loads():
    assert {path.stem for path in CHAPTERS} == {page.name for page in load_pages("laptop")}
    for size in SIZES:
        assert load_pages(size)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_source(path):
    source = nbformat.read(path, 4)
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "outputs: run nbstripout"
    # but the parameters, which take a line each
    shown = [cell for cell in code[1:] if "hide-cell" not in cell.metadata.get("tags", [])]
    lines = [
        re.sub(r"^(from|import) (.*\(\n(.*\n)*?\)|.*)\n", "", cell.source, flags=re.M).splitlines()
        for cell in shown
    ]
    assert max(map(len, lines)) <= 12
    assert any("record(" in cell.source for cell in code), "headline numbers are recorded"
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [0], "the first code cell, and no other, is tagged parameters"
    for line in code[0].source.splitlines():
        declaration = re.fullmatch(r"[a-z_]+: (int|float|str|bool) = (.+?)  # \S.*", line)
        assert declaration, f"not `name: type = literal  # help`: {line}"
        assert type(ast.literal_eval(declaration[2])).__name__ == declaration[1]
    assert re.search(r"check_parameters\(|chosen_experiment\(|shown_runs\(", code[1].source)
    inspected = papermill.inspect_notebook(str(path))
    assert inspected and all(parameter["help"] for parameter in inspected.values())


def test_the_book_is_short_and_hides_little():
    """At most 34 pages; decisions are visible; a page has few numbers in its prose."""
    assert len(toc_pages(ROOT)) <= 34
    hidden, lines, glued = 0, 0, 0
    for path in CHAPTERS:
        for cell in nbformat.read(path, 4).cells:
            own = len([line for line in cell.source.splitlines() if line.strip()])
            if cell.cell_type == "markdown":
                glued += cell.source.count("{glue:")
                continue
            lines += own
            hidden += own * any(tag.startswith(("hide", "remove")) for tag in cell.metadata.get("tags", []))
    texts = [path.read_text("utf-8") for path in (ROOT / "book").glob("*.md")]
    assert hidden < lines / 10 and glued + sum(text.count("{glue:") for text in texts) <= 200


def test_what_is_published_stays_small():
    sizes = {path: path.stat().st_size for path in (ROOT / "published").rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 60e6  # grows with the released runs, to 100e6 at most
