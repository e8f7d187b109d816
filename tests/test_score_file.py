"""Score files hold what the functions return, describe themselves, and are whole or not there."""

import dataclasses
import hashlib
import importlib.metadata
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import memlib
from memlib.runs.score_file import SCHEMA, SCHEMA_VERSION, write_scores

N = 31
TINY = memlib.variant("digits-lr3", num_images=N, epochs=3, score_every=2, folds=3, repeats=2, num_samples=64)
IMAGES = TINY.load_images()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """With the epochs 2 and 3."""
    return memlib.run(TINY, root=tmp_path_factory.mktemp("results"), progress=False)


@pytest.fixture(scope="module")
def path(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "digits.parquet"
    write_scores(path, result, IMAGES)
    return path


def test_the_columns_have_the_names_types_and_descriptions_of_the_schema(path):
    schema = pq.read_schema(path)
    assert schema.names == list(SCHEMA)
    for field in schema:
        column = SCHEMA[field.name]
        assert field.type == column.type, field.name
        texts = {key: value.decode() for key, value in field.metadata.items() if key in (b"unit", b"text")}
        assert texts == {b"unit": column.unit, b"text": column.text} and column.text, field.name


def test_the_file_says_what_it_answers_and_where_it_comes_from(path, result):
    about = {key.decode(): value.decode() for key, value in pq.read_schema(path).metadata.items()}
    assert about == {
        "memlib.schema_version": str(SCHEMA_VERSION),
        "memlib.version": importlib.metadata.version("memlib"),
        "memlib.classes": json.dumps(IMAGES.classes),
        "memlib.request": result.request,
        "memlib.runs": result.runs,
    }


def test_the_values_are_the_scores_of_both_estimators_and_their_health_epoch_by_epoch(path, result):
    table = pd.read_parquet(path)
    paper, matched = memlib.memorization(result), memlib.memorization(result, "matched")
    same = ("U", "V", "M", "U_se", "V_se", "M_se", "M_se_sampling", "gap", "gap_se", "effective_repeats")
    expected = {name: paper[name] for name in same}
    expected |= {"U_matched": matched.U, "M_matched": matched.M, "M_matched_se": matched.M_se}
    expected |= {"p_value": memlib.p_values(result), "khat": result.khat.max("repeat")}
    expected |= {"ess": result.ess.min(["repeat", "fold"]), "num_samples": result.num_samples.min("repeat")}
    for name, values in expected.items():
        by_epoch = values.transpose("epoch", "observation").values.ravel()
        np.testing.assert_array_equal(table[name], by_epoch, err_msg=name)
    assert table.epoch.tolist() == [2] * N + [3] * N
    assert table["index"].tolist() == IMAGES.index.tolist() * 2
    assert table.label.tolist() == IMAGES.labels.tolist() * 2
    hashes = [hashlib.sha256(bytes(image.ravel().tolist())).hexdigest() for image in IMAGES.images]
    assert table.image_sha256.tolist() == hashes * 2
    assert (table.models_seen == 2 * 2).all() and (table.models_left == 2).all()


def test_images_of_a_folder_have_their_files_in_the_table_in_any_encoding(tmp_path, result):
    files = tuple(f"/images/{i}\udce9.png" for i in range(N))  # é in Latin-1, as the file system gives it
    images = dataclasses.replace(IMAGES, paths=files)
    write_scores(tmp_path / "scores.parquet", result, images)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.schema.names == [*SCHEMA, "path"]
    assert table["path"].to_pylist() == [rf"/images/{i}\udce9.png" for i in range(N)] * 2


@pytest.mark.parametrize(
    ("change", "nulls"),
    [
        (lambda result: result.isel(repeat=[0]), {"U_se", "V_se", "M_se", "M_matched_se", "gap_se"}),
        (
            lambda result: result.drop_vars(["khat", "ess", "num_samples"]),
            {"khat", "ess", "num_samples", "M_se_sampling"},
        ),
        (lambda result: result.assign(khat=result.khat * 0 + np.inf), set()),
    ],
    ids=["errors of one repeat", "the health of exact models", "not an infinite k-hat"],
)
def test_what_is_not_known_is_null(tmp_path, result, change, nulls):
    write_scores(tmp_path / "scores.parquet", change(result), IMAGES)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert {name: 2 * N for name in nulls} == {
        name: table[name].null_count for name in table.column_names if table[name].null_count
    }


LABELS = (IMAGES.labels + (np.arange(N) < 2)) % 10  # two others


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": 255 - IMAGES.images},
            r"the images are ImageSet\('digits'.*\), others than the result's 31",
        ),
        ({"index": IMAGES.index + 1}, "others than the result's 31; allowed: experiment.load_images"),
        (
            {"labels": LABELS},
            f"labels of 2 images are others than the result's, that of image {IMAGES.index[0]} is "
            f"{LABELS[0]} and not {IMAGES.labels[0]}; allowed: images with the result's labels",
        ),
    ],
)
def test_other_images_are_refused_and_nothing_is_written(tmp_path, result, changes, message):
    with pytest.raises(ValueError, match=message):
        write_scores(tmp_path / "other.parquet", result, dataclasses.replace(IMAGES, **changes))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_refused_and_kept(tmp_path, result):
    path = tmp_path / "scores.parquet"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"scores.parquet' is there already; choose another name, or delete"):
        write_scores(path, result, IMAGES)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing(tmp_path, result, monkeypatch):
    def fail(table, where, **options):
        where.write_bytes(b"half a file")
        assert where.suffix == ".part"
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scores(tmp_path / "scores.parquet", result, IMAGES)
    assert not list(tmp_path.iterdir())
