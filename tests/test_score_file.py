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


def test_labels_that_were_corrected_after_the_run_are_those_that_are_written(tmp_path, result, path):
    """The first image is another digit, and each class has a longer name; no score is another one."""
    labels = np.concatenate([[9 - IMAGES.labels[0]], IMAGES.labels[1:]])
    classes = tuple(f"digit {name}" for name in IMAGES.classes)
    corrected = dataclasses.replace(IMAGES, labels=labels, classes=classes, index=IMAGES.index + 1)
    write_scores(tmp_path / "corrected.parquet", result, corrected)
    table, before = (pd.read_parquet(file) for file in (tmp_path / "corrected.parquet", path))
    assert table.label.tolist() == labels.tolist() * 2
    assert table["index"].tolist() == (IMAGES.index + 1).tolist() * 2
    about = pq.read_schema(tmp_path / "corrected.parquet").metadata
    assert json.loads(about[b"memlib.classes"]) == list(classes)
    other = ["label", "index"]
    pd.testing.assert_frame_equal(table.drop(columns=other), before.drop(columns=other))


def test_a_run_whose_labels_were_corrected_trains_nothing_again(tmp_path, monkeypatch):
    few, held_out = memlib.load_images("digits").subset(range(24)), memlib.load_images("digits", "test")
    small = dataclasses.replace(TINY, num_images=0, epochs=1)
    first = memlib.run(small, few, held_out, root=tmp_path, progress=False)
    monkeypatch.setattr("memlib.runs.task.fit", None)  # training now would fail
    corrected = dataclasses.replace(few, labels=9 - few.labels)
    again = memlib.run(small, corrected, held_out, root=tmp_path, progress=False)
    np.testing.assert_array_equal(again.log_px, first.log_px)
    np.testing.assert_array_equal(again.label, 9 - few.labels)


@pytest.mark.parametrize("pixels", [255 - IMAGES.images, IMAGES.images[::-1]], ids=["others", "order"])
def test_other_images_are_refused_and_nothing_is_written(tmp_path, result, pixels):
    message = (
        r"the images are ImageSet\('digits'.*\), others than the result's 31, or in another order; allow"
    )
    with pytest.raises(ValueError, match=message):
        write_scores(tmp_path / "other.parquet", result, dataclasses.replace(IMAGES, images=pixels))
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
