"""Score files hold what the functions return, describe themselves, and are whole or not there."""

import dataclasses
import hashlib
import importlib.metadata
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memlib.experiment import variant
from memlib.memorization import memorization
from memlib.runs import run
from memlib.score_file import SCHEMA, SCHEMA_VERSION, check_new, score_table, write_scores
from memlib.significance import p_values

TINY = variant(
    "digits-lr3",
    num_images=31,
    epochs=3,
    score_every=2,
    folds=3,
    repeats=2,
    num_samples=32,
    rescoring=2,
    batch_size=8,
)
ERRORS = ["U_se", "V_se", "M_se", "M_matched_se"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    result = run(TINY, tmp_path_factory.mktemp("results"), progress=False)
    result.num_samples[:, 1, ::3] = 32  # as if a third of the images needed no more there
    return result


@pytest.fixture(scope="module")
def images():
    return TINY.load_images()


@pytest.fixture(scope="module")
def path(result, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "digits.parquet"
    write_scores(path, result, images)
    return path


def test_the_columns_have_the_names_types_and_descriptions_of_the_schema(path):
    schema = pq.read_schema(path)
    assert schema.names == list(SCHEMA)
    for field in schema:
        column = SCHEMA[field.name]
        assert field.type == column.type, field.name
        texts = {key: value.decode() for key, value in field.metadata.items() if key in (b"unit", b"text")}
        assert texts == {b"unit": column.unit, b"text": column.text} and column.text, field.name
    nats = {name for name, column in SCHEMA.items() if column.unit == "nats"}
    assert nats == {*"UVM", "M_se_sampling", "U_matched", "M_matched", "gap", *ERRORS}
    assert {column.unit for column in SCHEMA.values()} == {"nats", ""}


def test_the_file_says_what_it_answers_and_where_it_comes_from(path, result, images):
    about = {key.decode(): value.decode() for key, value in pq.read_schema(path).metadata.items()}
    assert about.pop("memlib.schema_version") == str(SCHEMA_VERSION)
    assert about.pop("memlib.version") == importlib.metadata.version("memlib")
    assert json.loads(about.pop("memlib.classes")) == list(images.classes)
    request = json.loads(about.pop("memlib.request"))
    assert request == json.loads(result.request) and request["train_sha256"] == images.sha256
    assert (request["noise"], request["rescoring"], request["seed"]) == ("paired", 2, 0)
    assert json.loads(about.pop("memlib.runs")) == json.loads(result.runs)
    assert not about


def test_the_values_are_the_scores_of_both_estimators_and_their_health(path, result, images):
    table = pd.read_parquet(path)
    assert len(table) == 2 * 31
    paper, matched = memorization(result), memorization(result, "matched")
    expected = {name: paper[name] for name in ("U", "V", "M", "U_se", "V_se", "M_se", "M_se_sampling")}
    expected |= {"U_matched": matched.U, "M_matched": matched.M, "M_matched_se": matched.M_se}
    expected |= {"gap": paper.gap.mean("repeat"), "p_value": p_values(result)}
    expected |= {
        "khat": result.khat.max("repeat"),
        "ess": result.ess.min(["repeat", "fold"]),
        "num_samples": result.num_samples.min("repeat"),
    }
    for e, epoch in enumerate([2, 3]):
        rows = table[table.epoch == epoch]
        for name, values in expected.items():
            own = values.sel(epoch=epoch).transpose("observation").values
            np.testing.assert_array_equal(rows[name].to_numpy(), own, err_msg=name)
            np.testing.assert_array_equal(rows[name], table[name][31 * e : 31 * (e + 1)])
    assert (table.models_seen == 2 * 2).all() and (table.models_left == 2).all()
    np.testing.assert_allclose(table.M, table.U - table.V)
    np.testing.assert_allclose(table.M_matched, table.U_matched - table.V)
    others = set(SCHEMA) - set(expected)
    assert others == {"epoch", "index", "image_sha256", "label", "models_seen", "models_left"}
    assert not table.isna().any().any() and len(table.num_samples.unique()) == 2


def test_rows_are_epoch_by_epoch_in_the_order_of_the_images(path, images):
    table = pq.read_table(path).to_pydict()
    assert table["epoch"] == [2] * 31 + [3] * 31
    assert table["index"] == images.index.tolist() * 2
    assert table["label"] == images.labels.tolist() * 2
    hashes = [hashlib.sha256(bytes(image.ravel().tolist())).hexdigest() for image in images.images]
    assert table["image_sha256"] == hashes * 2 and len(set(hashes)) == 31


def test_pandas_reads_the_very_table_back(path, result, images):
    table, read = score_table(result, images), pd.read_parquet(path)
    assert list(table) == list(read) == list(SCHEMA)
    pd.testing.assert_frame_equal(read, table, check_dtype=False, check_exact=True)
    types = {name: column.type.to_pandas_dtype() for name, column in SCHEMA.items()}
    assert all(read[name].dtype == kind for name, kind in types.items() if kind is not np.object_)


def test_standard_errors_that_one_repeat_has_not_are_nulls(tmp_path, result, images):
    path = tmp_path / "one.parquet"
    write_scores(path, result.isel(repeat=[0]), images)
    table = pq.read_table(path)
    for name in SCHEMA:
        assert table[name].null_count == (62 if name in ERRORS else 0), name
    read = pd.read_parquet(path)
    assert read[ERRORS].isna().all().all() and (read.models_left == 1).all() and (read.models_seen == 2).all()


def test_a_k_hat_that_cannot_be_fitted_stays_infinite(tmp_path, result, images):
    path = tmp_path / "inf.parquet"
    write_scores(path, result.assign(khat=result.khat * 0 + np.inf), images)
    khat = pq.read_table(path)["khat"]
    assert khat.null_count == 0 and khat.type == pa.float32() and np.isposinf(khat.to_numpy()).all()


@pytest.mark.parametrize(
    "other",
    [
        lambda images: images.subset(range(30)),
        lambda images: images.subset(range(30, -1, -1)),
        lambda images: TINY.load_validation(),
        lambda images: dataclasses.replace(images, images=255 - images.images),
    ],
    ids=["fewer", "another order", "the test set", "other pixels"],
)
def test_other_images_are_refused_and_nothing_is_written(tmp_path, result, images, other):
    given = other(images)
    with pytest.raises(
        ValueError, match=r"the images are ImageSet\('digits'.*\), others than the result's 31"
    ):
        score_table(result, given)
    with pytest.raises(ValueError, match=r"allowed: experiment.load_images\(\) of the experiment"):
        write_scores(tmp_path / "other.parquet", result, given)
    assert not list(tmp_path.iterdir())


def test_images_with_other_labels_are_refused_and_nothing_is_written(tmp_path, result, images):
    labels = images.labels.copy()
    labels[[4, 7]] = (labels[[4, 7]] + 1) % 10
    given = dataclasses.replace(images, labels=labels)
    message = (
        rf"labels of 2 images are others than the result's, that of image {images.index[4]} is {labels[4]} "
        rf"and not {images.labels[4]}; allowed: images with the result's labels"
    )
    for call in (score_table, lambda *args: write_scores(tmp_path / "other.parquet", *args)):
        with pytest.raises(ValueError, match=message):
            call(result, given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scores.csv", "scores", "scores.parquet.gz", ".parquet"])
def test_another_ending_is_refused(tmp_path, result, images, name):
    with pytest.raises(
        ValueError, match=rf"the score file is '.*{name}'; allowed: a name that ends in .parq"
    ):
        write_scores(tmp_path / name, result, images)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused(tmp_path, result, images):
    with pytest.raises(ValueError, match=r"but there is no folder '.*nowhere'"):
        write_scores(tmp_path / "nowhere" / "scores.parquet", result, images)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_refused_and_kept(tmp_path, result, images):
    path = tmp_path / "scores.parquet"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"scores.parquet' is there already; choose another name, or delete"):
        write_scores(path, result, images)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stage", ["write", "rename"])
def test_a_write_that_fails_leaves_nothing(tmp_path, result, images, monkeypatch, stage):
    seen = []

    def fail(table, where, **options):
        where.write_bytes(b"half a file")
        seen.append(where.name)
        raise OSError("disk full")

    def fail_to_rename(self, target):
        assert pq.read_table(self).num_rows == 62
        seen.append(self.name)
        raise OSError("disk full")

    if stage == "write":
        monkeypatch.setattr(pq, "write_table", fail)
    else:
        monkeypatch.setattr("pathlib.Path.replace", fail_to_rename)
    with pytest.raises(OSError, match="disk full"):
        write_scores(tmp_path / "scores.parquet", result, images)
    assert len(seen) == 1 and seen[0].endswith(".part") and not list(tmp_path.iterdir())


def test_a_home_folder_may_be_abbreviated(tmp_path, result, images, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_scores("~/scores.parquet", result, images)
    assert pq.read_metadata(tmp_path / "scores.parquet").num_rows == 62
    assert check_new("~/other.parquet") == tmp_path / "other.parquet"
