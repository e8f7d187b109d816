"""Score files with their run records, in published/scores/ and in the site."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from nbformat import NotebookNode
from tinybook import notebook

import memlib
from memlib.pages import Page
from memlib.publication import publish_scores, site_scores

SMALL = {"epochs": 2, "score_every": 1, "folds": 3, "repeats": 2, "num_samples": 2, "num_images": 31}


def test_published_scores_and_record_are_of_the_last_epoch(tmp_path):
    spec = memlib.variant("digits-lr3", **SMALL)
    with pytest.raises(ValueError, match="3 of 3 tasks are missing"):
        publish_scores("tiny", spec, tmp_path / "out", root=tmp_path)
    result = memlib.run(spec, root=tmp_path, progress=False)
    for _ in range(2):  # the second time replaces
        publish_scores("tiny", spec, tmp_path / "out", root=tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny.json", "tiny.parquet"]
    table = pq.read_table(tmp_path / "out" / "tiny.parquet").to_pandas()
    np.testing.assert_allclose(table["M"], memlib.memorization(result).M[-1])
    assert (table["epoch"] == 2).all() and len(table) == 31
    record = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert memlib.Experiment(**record["experiment"]) == spec and record["repeats"] == 2
    assert {"device", "torch", "finished", "seconds"} <= set(record["runs"][0])
    sha256 = hashlib.sha256((tmp_path / "out" / "tiny.parquet").read_bytes()).hexdigest()
    assert record["scores_sha256"] == sha256


def executed(experiment: str, **given: object) -> NotebookNode:
    """A page's notebook, executed with those parameters, of which `more` is none of an experiment."""
    declared = {"experiment": experiment, **SMALL, "seed": 0, "more": 1}
    made = notebook("1")
    made.cells[1].source = "\n".join(f"{k}: {type(v).__name__} = {v!r}  # help" for k, v in declared.items())
    made.metadata["papermill"] = {"parameters": given}
    return made


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Calls `site_scores` with pages by name, and says which files they get."""
    monkeypatch.setenv("MEMLIB_RESULTS", str(tmp_path / "results"))

    def call(notebooks: dict[str, NotebookNode], published: tuple[str, ...] = ()) -> dict[str, str]:
        pages = [Page(name, name, None, None if name in published else {}) for name in notebooks]
        found = site_scores(pages, notebooks, tmp_path / "published", tmp_path / "site")
        assert all(path.exists() and path.with_suffix(".json").exists() for path in found.values())
        assert {path.stem for path in (tmp_path / "site").iterdir()} == {p.stem for p in found.values()}
        return {name: path.name for name, path in found.items()}

    return call


def test_pages_offer_the_scores_of_runs_that_are_stored(tmp_path, site):
    pages = {
        "a": executed("digits-lr3"),
        "b": executed("digits-lr3", more=2),  # the same run
        "c": executed("digits-lr3", seed=1),  # another under the name
        "d": executed("digits-lr3", epochs=3),  # not stored
        "e": executed("no-such"),
        "f": notebook("1"),
    }
    assert site(pages) == {}
    memlib.run(memlib.variant("digits-lr3", **SMALL), progress=False)
    memlib.run(memlib.variant("digits-lr3", **SMALL, seed=1), progress=False)
    assert site(pages) == {"a": "digits-lr3.parquet", "b": "digits-lr3.parquet", "c": "c.parquet"}
    record = json.loads((tmp_path / "site" / "c.json").read_text())
    assert record["experiment"]["seed"] == 1
    del pages["a"], pages["b"]
    assert site(pages) == {"c": "digits-lr3.parquet"}  # nothing of an earlier build is left


def test_published_scores_are_copied_and_keep_their_name(tmp_path, site):
    spec = memlib.variant("digits-lr3", **SMALL)
    memlib.run(spec, progress=False)
    publish_scores("digits-lr3", spec, tmp_path / "published")
    memlib.run(memlib.variant("digits-lr3", **SMALL, seed=1), progress=False)
    pages = {"a": executed("digits-lr3", seed=1), "b": executed("digits-lr3"), "c": executed("digits-lr3")}
    assert site(pages, published=("b", "c")) == {
        "a": "a.parquet",
        "b": "digits-lr3.parquet",
        "c": "digits-lr3.parquet",
    }
    for name in ("digits-lr3.json", "digits-lr3.parquet"):
        assert (tmp_path / "site" / name).read_bytes() == (tmp_path / "published" / name).read_bytes()
    # A published page without published scores has none, also where this machine has the results.
    assert site({"a": executed("digits-lr3", seed=1)}, published=("a",)) == {}


def test_a_page_executed_here_offers_its_own_scores_of_a_published_run(tmp_path, site):
    spec = memlib.variant("digits-lr3", **SMALL)
    memlib.run(spec, progress=False)
    publish_scores("digits-lr3", spec, tmp_path / "published")
    record = tmp_path / "published" / "digits-lr3.json"
    elsewhere = json.loads(record.read_text())
    elsewhere["runs"][0]["device"] = "cuda"
    record.write_text(json.dumps(elsewhere))
    pages = {name: executed("digits-lr3") for name in "abcd"}
    for published in ("b", "d"), ("a", "b"):
        names = {name: "digits-lr3" if name in published else min({*"abcd"} - {*published}) for name in pages}
        assert site(pages, published) == {name: f"{stem}.parquet" for name, stem in names.items()}
        for name, stem in names.items():
            device = json.loads((tmp_path / "site" / f"{stem}.json").read_text())["runs"][0]["device"]
            assert (device == "cuda") == (name in published)
    (tmp_path / "results").rename(tmp_path / "gone")
    assert site(pages, ("a",)) == {"a": "digits-lr3.parquet"}


def test_a_published_score_file_must_be_that_of_its_record(tmp_path, site):
    spec = memlib.variant("digits-lr3", **SMALL)
    memlib.run(spec, progress=False)
    publish_scores("digits-lr3", spec, tmp_path / "published")
    file = tmp_path / "published" / "digits-lr3.parquet"
    for spoil in (lambda: file.write_bytes(file.read_bytes() + b"x"), file.unlink):
        spoil()
        with pytest.raises(ValueError, match=r"digits-lr3.parquet is not the file that digits-lr3.json desc"):
            site({"a": executed("digits-lr3")}, published=("a",))
