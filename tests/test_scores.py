"""Score files with their run records, in published/scores/ and in the site."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from nbformat import NotebookNode
from tinybook import PARAMETERS, executed

import memlib
from book._ext.pages import Page
from book._ext.scores import site_scores, write_run

SMALL = {"epochs": 2, "score_every": 1, "folds": 2, "repeats": 1, "num_samples": 2, "num_images": 31}
SPEC, OTHER = memlib.variant("digits-lr3", **SMALL), memlib.variant("digits-lr3", **SMALL, seed=1)


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """A results folder with two runs that differ in their seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMLIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        for experiment in (SPEC, OTHER):
            memlib.run(experiment, progress=False)
        yield


def test_published_scores_and_record_are_of_the_last_epoch(tmp_path):
    for _ in range(2):  # the second time replaces
        write_run("tiny", SPEC, memlib.stored(SPEC), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny.json", "tiny.parquet"]
    table = pq.read_table(tmp_path / "out" / "tiny.parquet").to_pandas()
    M = memlib.memorization(memlib.stored(SPEC)).M[-1]
    np.testing.assert_allclose(table["M"], M, rtol=0, atol=1e-9)  # differences of numbers around 1000
    assert (table["epoch"] == 2).all() and len(table) == 31
    record = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert memlib.Experiment(**record["experiment"]) == SPEC and record["repeats"] == 1
    assert {"device", "torch", "finished", "seconds"} <= set(record["runs"][0])
    sha256 = hashlib.sha256((tmp_path / "out" / "tiny.parquet").read_bytes()).hexdigest()
    assert record["scores_sha256"] == sha256


def page(experiment: memlib.Experiment = SPEC, folder: str = "", source: str = PARAMETERS) -> NotebookNode:
    """A page's notebook, which recorded the run of an experiment."""
    stored = {SPEC: memlib.stored(SPEC), OTHER: memlib.stored(OTHER)}
    folder = folder or Path(stored.get(experiment, stored[SPEC]).folder).name
    return executed(source, {"experiment": dataclasses.asdict(experiment), "folder": folder})


@pytest.fixture
def site(tmp_path):
    """Calls `site_scores` with pages by name, and says which files they get."""

    def call(notebooks: dict[str, NotebookNode], published: tuple[str, ...] = ()) -> dict[str, str]:
        pages = [Page(name, name, None, None if name in published else {}) for name in notebooks]
        found = site_scores(pages, notebooks, tmp_path / "published", tmp_path / "site")
        written = {path.name for path in (tmp_path / "site").iterdir()}
        assert written >= {f"{name}.{end}" for name in found.values() for end in ("parquet", "json")}
        return found

    return call


def test_pages_offer_the_scores_of_runs_that_are_stored(tmp_path, site):
    pages = {
        "a": page(),
        "b": page(),
        "c": page(OTHER),
        "d": page(dataclasses.replace(SPEC, epochs=3)),  # not stored
        "f": executed(),
        "g": page(source="epochs: int = 3  # no experiment"),
    }
    assert site(pages) == {"a": "a", "b": "a", "c": "c"}
    record = json.loads((tmp_path / "site" / "c.json").read_text())
    assert record["experiment"]["seed"] == 1
    assert site({"a": page(folder="another")}) == {}  # of other images, which were replaced since


def test_published_pages_get_copies_of_what_was_published_elsewhere(tmp_path, site):
    published = tmp_path / "published"
    write_run("digits-lr3", SPEC, memlib.stored(SPEC), published)
    record = json.loads((published / "digits-lr3.json").read_text())
    record["runs"][0]["device"] = "another"
    (published / "digits-lr3.json").write_text(json.dumps(record))
    pages = {name: page() for name in "abcd"} | {"e": page(OTHER)}
    # A published page without published scores has none, also where this machine has the results.
    assert site(pages, published=("b", "d", "e")) == {
        **dict.fromkeys("bd", "digits-lr3"),
        **dict.fromkeys("ac", "a"),  # those of the run of this machine
    }
    for name in ("digits-lr3.json", "digits-lr3.parquet"):
        assert (tmp_path / "site" / name).read_bytes() == (published / name).read_bytes()
    assert json.loads((tmp_path / "site" / "a.json").read_text())["runs"][0]["device"] != "another"


def test_a_published_score_file_must_be_that_of_its_record(tmp_path, site):
    write_run("digits-lr3", SPEC, memlib.stored(SPEC), tmp_path / "published")
    file = tmp_path / "published" / "digits-lr3.parquet"
    for spoil in (lambda: file.write_bytes(file.read_bytes() + b"x"), file.unlink):
        spoil()
        with pytest.raises(ValueError, match=r"digits-lr3.parquet is not the file that digits-lr3.json desc"):
            site({"a": page()}, published=("a",))
