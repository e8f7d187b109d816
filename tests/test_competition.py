"""The competition: its release is read, and its scores come out of FID and d again."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from memlib.chapters import competition
from memlib.chapters.competition import FILE, HONEST, LABELS, SHA256, load, recompute

# two of the four are without a private score, the last two without a label
RELEASED = """\
submission_id,public_score,private_score,FID_public,FID_private,distance_public,distance_private,labels
7,20.0,30.0,20.0,30.0,0.5,0.6,non-mem
5,200.0,999999.0,20.0,25.0,0.1,0.2,mgan
6,400.0,40.0,20.0,10.0,0.05,0.25,
9,20.0,999999.0,20.0,30.0,0.4,0.5,
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The data folder, with another release of four submissions, taken for the authors'."""
    (tmp_path / FILE).write_text(RELEASED)
    monkeypatch.setattr(competition, "SHA256", hashlib.sha256(RELEASED.encode()).hexdigest())
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("competition_root")
def test_every_score_of_the_release_is_reproduced():
    checked = recompute(load())
    assert checked["scored"].to_dict() == checked["equal"].to_dict() == {"public": 1666, "private": 1171}
    assert (checked["largest_error"] < 1e-9).all()
    assert {half: {*caught} for half, caught in checked["penalized"].items()} == {
        "public": {11936008, 11912644, 11993561},
        "private": {12030863},
    }


@pytest.mark.usefixtures("competition_root")
def test_the_release_has_the_labels_of_its_authors():
    table = load()
    label = table["", "label"]
    counts = {"non-mem": 497, "mgan": 366, "sup": 70, "aug": 52, "ae": 10, "": 671}
    assert label.value_counts().to_dict() == counts and {*LABELS, ""} == {*counts}
    assert label[table["private", "released"].isna()].isin({*LABELS} - {HONEST}).all()


def test_what_is_missing_in_the_file_is_missing_in_the_table(folder):
    table = load()
    assert table.index.tolist() == [7, 5, 6, 9]
    assert table["", "label"].tolist() == ["non-mem", "mgan", "", ""]
    np.testing.assert_array_equal(table["public", "released"], [20, 200, 400, 20])
    np.testing.assert_array_equal(table["private", "released"], [30, np.nan, 40, np.nan])
    np.testing.assert_array_equal(table["private", "fid"], [30, 25, 10, 30])
    np.testing.assert_array_equal(table["public", "d"], [0.5, 0.1, 0.05, 0.4])


@pytest.mark.usefixtures("folder")
def test_scores_are_recomputed_where_there_is_one():
    checked = recompute(load())
    assert checked["scored"].to_dict() == {"public": 4, "private": 2}
    assert checked["equal"].tolist() == [3, 1]  # d = eps is no penalty, in both halves
    assert checked["penalized"].tolist() == [[6], []]
    assert checked["largest_error"].tolist() == pytest.approx([0.9, 0.75])


def test_equal_means_but_for_rounding():
    fid, d = np.array([10.0, 10.0, 30.0, 5.0]), [0.3, 0.05, 0.5, 0.7]
    released = [10.0, 200.0, 30.0, 5.0] * (1 + np.array([0, 9e-10, -9e-10, 1.1e-9]))
    own = {"fid": fid, "d": d, "released": released}
    table = pd.DataFrame({(half, name): own[name] for half in ("public", "private") for name in own})
    checked = recompute(table)
    assert checked["equal"].tolist() == [3, 3]
    assert checked["largest_error"].tolist() == pytest.approx([1.1e-9] * 2, rel=1e-3)


def test_a_missing_file_is_asked_for_and_another_one_refused(folder, monkeypatch):
    monkeypatch.setattr(competition, "SHA256", SHA256)
    with pytest.raises(ValueError, match=r"sha256 \w{8}\.\.\.; allowed: the authors' release, c8e26eaa"):
        load()
    (folder / FILE).unlink()
    with pytest.raises(FileNotFoundError, match="set MEMLIB_DATA to the folder") as caught:
        load()
    assert f"no {folder / FILE}; " in str(caught.value)
