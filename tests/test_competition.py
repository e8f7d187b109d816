"""The competition: its release is read, and its scores come out of FID and d again."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pandas as pd
import pytest

from memlib import competition
from memlib.competition import FILE, HONEST, LABELS, load, recompute

PAGE = "19-competition.ipynb"
# two of the four are without a private score, the last two without a label
COLUMNS = (
    *("submission_id", "public_score", "private_score", "FID_public", "FID_private"),
    *("distance_public", "distance_private", "labels"),
)
RELEASED = f"""{",".join(COLUMNS)}
7,20.0,30.0,20.0,30.0,0.5,0.6,non-mem
5,200.0,999999.0,20.0,25.0,0.1,0.2,mgan
6,400.0,40.0,20.0,10.0,0.05,0.25,
9,20.0,999999.0,20.0,30.0,0.4,0.5,
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with another release of four submissions, taken for the authors'."""
    (tmp_path / FILE).write_text(RELEASED)
    monkeypatch.setattr(competition, "SHA256", hashlib.sha256(RELEASED.encode()).hexdigest())
    return tmp_path


def made(fid, d, released):
    """A table with the same numbers for both halves."""
    own = {"fid": fid, "d": d, "released": released}
    columns = {(half, name): values for half in ("public", "private") for name, values in own.items()}
    return pd.DataFrame(columns, index=[10, 11, 12, 13])


def test_every_score_of_the_release_is_reproduced(competition_root):
    table = load(competition_root)
    checked = recompute(table)
    assert checked["scored"].to_dict() == checked["equal"].to_dict() == {"public": 1666, "private": 1171}
    assert (checked["largest_error"] < 1e-9).all()
    assert {half: {*caught} for half, caught in checked["penalized"].items()} == {
        "public": {11936008, 11912644, 11993561},
        "private": {12030863},
    }


def test_the_release_has_the_labels_of_its_authors(competition_root):
    table = load(competition_root)
    label = table["", "label"]
    counts = {"non-mem": 497, "mgan": 366, "sup": 70, "aug": 52, "ae": 10, "": 671}
    assert label.value_counts().to_dict() == counts
    assert {*LABELS, ""} == {*counts} and HONEST in LABELS
    without = label[table["private", "released"].isna()]
    assert len(without) == 1666 - 1171 and without.isin({*LABELS} - {HONEST}).all()
    assert table.index.is_unique
    assert table.drop(columns=[("private", "released"), ("", "label")]).notna().all(axis=None)


def test_the_table_is_found_through_the_environment(competition_root, monkeypatch):
    monkeypatch.setenv("MEMLIB_DATA", str(competition_root))
    assert len(load()) == 1666


def test_what_is_missing_in_the_file_is_missing_in_the_table(folder):
    table = load(folder)
    assert table.index.tolist() == [7, 5, 6, 9] and table.index.name == "submission_id"
    assert table["", "label"].tolist() == ["non-mem", "mgan", "", ""]
    np.testing.assert_array_equal(table["public", "released"], [20, 200, 400, 20])
    np.testing.assert_array_equal(table["private", "released"], [30, np.nan, 40, np.nan])
    np.testing.assert_array_equal(table["private", "fid"], [30, 25, 10, 30])
    np.testing.assert_array_equal(table["public", "d"], [0.5, 0.1, 0.05, 0.4])


def test_scores_are_recomputed_where_there_is_one(folder):
    checked = recompute(load(folder))
    assert checked.index.tolist() == ["public", "private"]
    assert checked["scored"].tolist() == [4, 2]
    assert checked["equal"].tolist() == [3, 1]  # d = eps is no penalty, in both halves
    assert checked["penalized"].tolist() == [[6], []]
    assert checked["largest_error"].tolist() == pytest.approx([0.9, 0.75])


def test_a_wrong_score_is_noticed():
    right = made([10.0, 10.0, 30.0, 5.0], [0.3, 0.05, 0.2, 0.7], [10.0, 200.0, 30.0, 5.0])
    checked = recompute(right)
    assert checked.loc["public"].tolist()[:2] == [4, 4]
    # eps is 0.25 in private features, so the third is penalized there
    assert checked["equal"].tolist() == [4, 3] and checked["penalized"].tolist() == [[11], [11, 12]]
    assert checked["largest_error"].tolist() == pytest.approx([0, 4])
    wrong = right.copy()
    wrong.loc[13, ("public", "released")] *= 1 + 1e-8
    checked = recompute(wrong)
    assert checked["equal"].tolist() == [3, 3]
    assert checked.loc["public", "largest_error"] == pytest.approx(1e-8, rel=1e-3)


def test_equal_means_but_for_rounding():
    scores = np.array([10.0, 200.0, 30.0, 5.0]) * (1 + np.array([0, 1e-10, -1e-10, 9e-10]))
    checked = recompute(made([10.0, 10.0, 30.0, 5.0], [0.3, 0.05, 0.5, 0.7], scores))
    assert checked["equal"].tolist() == [4, 4]


def test_a_missing_file_is_asked_for(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="set MEMLIB_DATA to the folder") as caught:
        load(tmp_path)
    assert f"no {tmp_path / FILE}; " in str(caught.value) and "Bai et al. 2021" in str(caught.value)
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load()


def test_another_file_is_refused(tmp_path):
    (tmp_path / FILE).write_text(RELEASED)
    digest = hashlib.sha256(RELEASED.encode()).hexdigest()[:8]
    with pytest.raises(
        ValueError, match=rf"has sha256 {digest}\.\.\.; allowed: the authors' release, c8e26eaa"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("there", "ci", "variable", "skipped"),
    [
        (True, False, True, 0),
        (True, True, True, 0),
        (False, False, True, 1),
        (False, False, False, 1),
        (False, True, False, 1),
        (False, True, True, 0),
    ],
)
def test_its_page_is_skipped_without_the_file(tmp_path, monkeypatch, there, ci, variable, skipped):
    """Not where a build is given a data folder that lacks it."""
    for name, value in {"CI": "true" * ci, "MEMLIB_DATA": str(tmp_path) * variable}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if there:
        (tmp_path / FILE).touch()
    marks = []
    items = [SimpleNamespace(path=Path(name), add_marker=marks.append) for name in (PAGE, "18-other.ipynb")]
    conftest.pytest_collection_modifyitems(items)
    assert len(marks) == skipped and all(FILE in mark.kwargs["reason"] for mark in marks)
