"""Score files with their run records in the site."""

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


def test_scores_and_record_are_of_the_last_epoch(tmp_path):
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
        pages = [Page(name, None if name in published else {}) for name in notebooks]
        found = site_scores(pages, notebooks, tmp_path / "site")
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


def test_published_pages_have_none_also_where_this_machine_has_their_results(site):
    assert site({"a": page(), "b": page()}, published=("a",)) == {"b": "b"}
