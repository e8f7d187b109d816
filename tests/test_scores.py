"""Score files with their run records, in published/scores/ and in the site."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from nbformat import NotebookNode
from tinybook import notebook

import memlib
from book._ext.pages import Page
from book._ext.publish import publish_scores, site_scores

SMALL = {"epochs": 2, "score_every": 1, "folds": 2, "repeats": 1, "num_samples": 2, "num_images": 31}
SPEC, OTHER = memlib.variant("digits-lr3", **SMALL), memlib.variant("digits-lr3", **SMALL, seed=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A results folder with two runs that differ in their seed."""
    root = tmp_path_factory.mktemp("results")
    for experiment in (SPEC, OTHER):
        memlib.run(experiment, root=root, progress=False)
    return root


def test_published_scores_and_record_are_of_the_last_epoch(tmp_path, runs):
    for _ in range(2):  # the second time replaces
        publish_scores("tiny", SPEC, tmp_path / "out", root=runs)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny.json", "tiny.parquet"]
    table = pq.read_table(tmp_path / "out" / "tiny.parquet").to_pandas()
    M = memlib.memorization(memlib.stored(SPEC, root=runs)).M[-1]
    np.testing.assert_allclose(table["M"], M, rtol=0, atol=1e-9)  # differences of numbers around 1000
    assert (table["epoch"] == 2).all() and len(table) == 31
    record = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert memlib.Experiment(**record["experiment"]) == SPEC and record["repeats"] == 1
    assert {"device", "torch", "finished", "seconds"} <= set(record["runs"][0])
    sha256 = hashlib.sha256((tmp_path / "out" / "tiny.parquet").read_bytes()).hexdigest()
    assert record["scores_sha256"] == sha256


def executed(experiment: str = "digits-lr3", **given: object) -> NotebookNode:
    """A page's notebook, executed with those parameters, of which `more` is none of an experiment."""
    declared = {"experiment": experiment, **SMALL, "seed": 0, "more": 1}
    made = notebook("1")
    made.cells[1].source = "\n".join(f"{k}: {type(v).__name__} = {v!r}  # help" for k, v in declared.items())
    made.metadata["papermill"] = {"parameters": given}
    return made


@pytest.fixture
def site(tmp_path, monkeypatch, runs):
    """Calls `site_scores` with pages by name, and says which files they get."""
    monkeypatch.setenv("MEMLIB_RESULTS", str(runs))

    def call(notebooks: dict[str, NotebookNode], published: tuple[str, ...] = ()) -> dict[str, str]:
        pages = [Page(name, name, None, None if name in published else {}) for name in notebooks]
        found = site_scores(pages, notebooks, tmp_path / "published", tmp_path / "site")
        assert all(path.exists() and path.with_suffix(".json").exists() for path in found.values())
        assert {path.stem for path in (tmp_path / "site").iterdir()} == {p.stem for p in found.values()}
        return {name: path.name for name, path in found.items()}

    return call


def test_pages_offer_the_scores_of_runs_that_are_stored(tmp_path, site):
    pages = {
        "a": executed(),
        "b": executed(more=2),  # the same run
        "c": executed(seed=1),  # another under the name
        "d": executed(epochs=3),  # not stored
        "e": executed("no-such"),
        "f": notebook("1"),
    }
    assert site(pages) == {"a": "digits-lr3.parquet", "b": "digits-lr3.parquet", "c": "c.parquet"}
    record = json.loads((tmp_path / "site" / "c.json").read_text())
    assert record["experiment"]["seed"] == 1
    del pages["a"], pages["b"]
    assert site(pages) == {"c": "digits-lr3.parquet"}  # nothing of an earlier build is left


def test_published_pages_get_copies_of_what_was_published_elsewhere(tmp_path, site):
    published = tmp_path / "published"
    publish_scores("digits-lr3", SPEC, published)
    record = json.loads((published / "digits-lr3.json").read_text())
    record["runs"][0]["device"] = "another"
    (published / "digits-lr3.json").write_text(json.dumps(record))
    pages = {name: executed() for name in "abcd"} | {"e": executed(seed=1)}
    # A published page without published scores has none, also where this machine has the results.
    assert site(pages, published=("b", "d", "e")) == {
        **dict.fromkeys("bd", "digits-lr3.parquet"),
        **dict.fromkeys("ac", "a.parquet"),  # those of the run of this machine
    }
    for name in ("digits-lr3.json", "digits-lr3.parquet"):
        assert (tmp_path / "site" / name).read_bytes() == (published / name).read_bytes()
    assert json.loads((tmp_path / "site" / "a.json").read_text())["runs"][0]["device"] != "another"
    assert site(pages | {"e": executed(seed=1)}, published=("a", "b", "c", "d")) == {
        **dict.fromkeys("abcd", "digits-lr3.parquet"),
        "e": "e.parquet",
    }


def test_a_published_score_file_must_be_that_of_its_record(tmp_path, site):
    publish_scores("digits-lr3", SPEC, tmp_path / "published")
    file = tmp_path / "published" / "digits-lr3.parquet"
    for spoil in (lambda: file.write_bytes(file.read_bytes() + b"x"), file.unlink):
        spoil()
        with pytest.raises(ValueError, match=r"digits-lr3.parquet is not the file that digits-lr3.json desc"):
            site({"a": executed()}, published=("a",))
