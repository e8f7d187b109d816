"""README, the book's first page and `make help` say the same, and what they say to do works."""

import re
import shlex
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import yaml

import memlib
from book._ext.check import FOLDER, trains_nothing
from book._ext.pages import ROOT, load_pages, read_yaml
from book._ext.runs import load_plan
from memlib.memorization import fold_assignment
from memlib.runs.released import Released, column, write_repeat

README = (ROOT / "README.md").read_text("utf-8")
INDEX = "\n".join(cell.source for cell in nbformat.read(ROOT / "book" / "index.ipynb", 4).cells)


def commands(text):
    """The lines of a text that call papermill on a chapter, with continuation lines joined."""
    joined = re.sub(r"\s*\\+\n\s*", " ", text)
    return [m.strip() for m in re.findall(r"\.venv/bin/papermill book/\S+ out\.ipynb.*", joined)]


@pytest.fixture(scope="module")
def help_text():
    if not shutil.which("make"):
        pytest.skip("needs make")
    return subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_all_three_rerun_figure_10_by_the_same_line(help_text):
    lines = {name: commands(text) for name, text in {"R": README, "i": INDEX, "h": help_text}.items()}
    assert {name: len(found) for name, found in lines.items()} == {"R": 1, "i": 1, "h": 1}
    assert len({line for found in lines.values() for line in found}) == 1
    figures = read_yaml(ROOT / "book" / "params" / "figures.yaml", figures=list)["figures"]
    assert [f["page"] for f in figures if f["number"] == 10] == ["06-outliers"]


def test_all_three_name_the_two_commands(help_text):
    for command in ("book", "test"):
        assert f"make {command}" in README and f"`make {command}`" in INDEX
        assert re.search(rf"^make {command} ", help_text, re.MULTILINE)
    for target in re.findall(r"^    make ([a-z-]+)|`make ([a-z-]+)`", README + INDEX, re.MULTILINE):
        assert re.search(rf"^make {''.join(target)} ", help_text, re.MULTILINE), target


@pytest.mark.slow
def test_the_line_works(tmp_path, mnist_root, monkeypatch):
    monkeypatch.setenv("MEMLIB_RESULTS", str(tmp_path / "results"))
    [line] = commands(README)
    _, notebook, _, *options = shlex.split(line)
    smaller = {"num_images": "120", "epochs": "2", "score_every": "2", "num_samples": "4", "folds": "3"}
    for name, value in smaller.items():
        options[options.index(name) + 1] = value
    out = tmp_path / "out.ipynb"
    call = [
        sys.executable,
        "-m",
        "papermill",
        notebook,
        str(out),
        *options,
        "--no-progress-bar",
        "-k",
        "python3",
    ]
    subprocess.run(call, cwd=ROOT, check=True, capture_output=True)
    shown = [o for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", [])]
    tables = "".join(str(o.get("data", {}).get("text/html", "")) for o in shown)
    assert re.search(r"<th>training images</th>\s*<td>(<[^>]*>)?120<", tables)


@pytest.mark.parametrize("computed", [range(10), (3, 7)], ids=["whole", "incomplete"])
def test_the_three_lines_of_the_readme_read_a_released_file(tmp_path, monkeypatch, computed):
    """An image whose own model is not there yet has no gap."""
    rng, images = np.random.default_rng(0), memlib.load_images("digits", "test")
    fold_of = fold_assignment(len(images), 10, rng)
    log_px = rng.integers(-6400, 0, (10, len(images))) / 64  # which no rounding changes
    columns = {column("encoder", epoch, k): log_px[k] + 100 - epoch for epoch in (20, 100) for k in computed}
    columns |= {column("fitted", 100, k): log_px[k] + 1 for k in computed}
    file = tmp_path / "published" / "runs" / "mnist-lr3" / "repeat-00.parquet"
    write_repeat(file, images, Released(fold_of, columns, {k: {} for k in computed}), {"folds": 10})
    [code] = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if file.name in code]
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    for i, fold in enumerate(fold_of):
        seen = [log_px[k, i] for k in computed if k != fold]
        expected = np.mean(seen) - log_px[fold, i] if fold in computed else np.nan
        np.testing.assert_allclose(names["gap"].values[i], expected, rtol=1e-5, atol=1e-5)


def test_the_readme_says_how_many_pages_are_executed():
    at_hand = sum(page.parameters is not None for page in load_pages("laptop"))
    checked = sum(trains_nothing(page) for page in load_pages("published"))
    counts = [int(n) for n in re.findall(r"`(\d+) of \d+ pages to execute", README)]
    assert counts == [at_hand, checked]


def test_codecheck_lists_what_the_commands_make():
    config = yaml.safe_load((ROOT / "codecheck.yml").read_text("utf-8"))
    pages, (plan, order) = load_pages("published"), load_plan(ROOT / "book")
    made = {"_build/html/index.html": "book", "published/extremes-mnist-lr3.svg": "published"}
    made |= {f"{FOLDER}/{page.name}.ipynb": "check-published" for page in pages if trains_nothing(page)}
    made |= {f"published/book/{p.name}.ipynb": "published" for p in pages if not trains_nothing(p)}
    for name, repeats in order:
        files = [plan[name].packed(repeat, ROOT) for repeat in (None, *range(repeats))]
        made |= {file.relative_to(ROOT).as_posix(): "runs" for file in files}
    listed = {entry["file"]: entry["comment"] for entry in config["manifest"]}
    assert listed == {file: f"`make {target}`" for file, target in made.items()}
    assert len(listed) == len(config["manifest"])
    # what cannot be made anew in minutes is there
    for file in listed:
        assert (ROOT / file).exists() or file.startswith(("_build/", "published/runs/")), file


def test_codecheck_and_citation_are_of_one_work():
    config, cited = (
        yaml.safe_load((ROOT / name).read_text("utf-8")) for name in ("codecheck.yml", "CITATION.cff")
    )
    assert config["paper"]["title"] == cited["title"] and config["repository"] == cited["repository-code"]
    assert config["paper"]["authors"] == cited["authors"]
