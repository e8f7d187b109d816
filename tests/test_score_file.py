"""Score files hold what the functions return, describe themselves, and are whole or not there."""

import dataclasses
import hashlib
import importlib.metadata
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

import memlib
from memlib.memorization import fold_assignment
from memlib.runs.score_file import SCHEMA, SCHEMA_VERSION, write_scores

L, K, N = 2, 3, 31
IMAGES = memlib.load_images("digits").subset(range(40, 40 + N))


@pytest.fixture(scope="module")
def result():
    """What a run with two scored epochs returns, of random numbers."""
    rng = np.random.default_rng(0)
    per_model, per_repeat = ("epoch", "repeat", "fold", "observation"), ("epoch", "repeat", "observation")
    variables = {
        "log_px": (per_model, rng.normal(-100, 2, (2, L, K, N))),
        "fold_of": (
            per_repeat[1:],
            np.stack([fold_assignment(N, K, rng) for _ in range(L)]),
        ),
        "ess": (per_model, rng.uniform(5, 60, (2, L, K, N)).astype(np.float32)),
        "khat": (per_repeat, rng.uniform(-1, 2, (2, L, N)).astype(np.float32)),
        "num_samples": (per_repeat, rng.choice([64, 128], (2, L, N))),
    }
    coords = {
        "epoch": [2, 3],
        "index": ("observation", IMAGES.index),
        "label": ("observation", IMAGES.labels),
    }
    request = {"train_sha256": IMAGES.sha256, "noise": "paired"}
    return xr.Dataset(variables, coords, {"request": json.dumps(request), "runs": '[{"seconds": 1}]'})


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
    scores = {name: paper[name] for name in ("U", "V", "M", "U_se", "V_se", "M_se", "M_se_sampling")}
    scores |= {"U_matched": matched.U, "M_matched": matched.M, "M_matched_se": matched.M_se}
    scores |= {"gap": paper.gap.mean("repeat"), "p_value": memlib.p_values(result)}
    scores |= {
        "khat": result.khat.max("repeat"),
        "ess": result.ess.min(["repeat", "fold"]),
        "num_samples": result.num_samples.min("repeat"),
    }
    expected = {
        name: values.transpose("epoch", "observation").values.ravel() for name, values in scores.items()
    }
    expected |= {
        "epoch": [2] * N + [3] * N,
        "index": IMAGES.index.tolist() * 2,
        "label": IMAGES.labels.tolist() * 2,
        "image_sha256": [hashlib.sha256(bytes(image.ravel().tolist())).hexdigest() for image in IMAGES.images]
        * 2,
        "models_seen": [2 * 2] * 2 * N,
        "models_left": [2] * 2 * N,
    }
    assert {*table} == {*expected}
    for name, values in expected.items():
        np.testing.assert_array_equal(table[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("change", "nulls"),
    [
        (lambda result: result.isel(repeat=[0]), {"U_se", "V_se", "M_se", "M_matched_se"}),
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


LABELS = IMAGES.labels.copy()
LABELS[[4, 7]] = LABELS[[7, 4]]  # 0 and 7


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
            "labels of 2 images are others than the result's, that of image 49 is 7 and not 0; "
            "allowed: images with the result's labels",
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
