"""Runs that are computed model by model: what is done again, what is packed, and how it is read."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import memlib
from book._ext.runs import compute_unit, left, load_plan, main, pack
from memlib.device import one_thread
from memlib.memorization import fold_assignment
from memlib.runs.inventory import verify
from memlib.runs.released import Released, read_full, read_repeat, read_run, write_repeat

PLAN = """
runs:
  digits:
    {experiment: digits-lr3, num_images: 60, folds: 3, epochs: 2, score_every: 1, num_samples: 8,
     fitted_images: 20}
order: [{digits: 1}]
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "book" / "params").mkdir(parents=True)
    (tmp_path / "book" / "params" / "runs.yaml").write_text(PLAN, "utf-8")
    monkeypatch.setenv("MEMLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("memlib.runs.task.compiler_works", lambda device: False)
    return tmp_path


def test_units_are_done_once_wherever_they_are_kept_and_read_as_a_run(root):
    plan, order = load_plan(root / "book")
    planned = plan["digits"]
    assert order == [("digits", 1)]
    assert left(planned, 1, root) == [None, (0, 0), (0, 1), (0, 2)]
    for unit in (None, (0, 0)):
        assert "minutes" in compute_unit(planned, unit)
    assert "done" in compute_unit(planned, (0, 0))
    pack(planned, root)
    folder = root / "published" / "runs" / "digits"
    with pytest.raises(FileNotFoundError, match=r"no repeat in .* has all its models"):
        read_run(folder)
    (root / "results").rename(root / "lost")
    assert left(planned, 1, root) == [(0, 1), (0, 2)]  # packed is done
    for unit in ((0, 1), (0, 2)):
        compute_unit(planned, unit)
    pack(planned, root)

    run, fitted = read_run(folder), read_run(folder, "fitted")
    assert dict(run.log_px.sizes) == {"epoch": 2, "repeat": 1, "fold": 3, "observation": 60}
    assert dict(fitted.log_px.sizes) == {"epoch": 1, "repeat": 1, "fold": 3, "observation": 20}
    assert np.isin(fitted.index, run.index).all()
    images = planned.spec.load_images()
    assert (run.index == images.index).all()
    expected = fold_assignment(60, 3, planned.spec.stream(memlib.experiment.Stream.FOLDS, 0))
    assert (run.fold_of[0] == expected).all()
    assert (run.log_px[-1] > run.log_px[0]).mean() > 0.9  # trained
    assert len(np.unique(run.log_px[-1, 0, :, 0])) == 3  # other models say other things
    assert run.train_loss.shape == (2,) and run.samples.shape == (297, 1, 32, 32)
    assert np.isfinite(memlib.memorization(run).gap).all()


def test_no_more_samples_are_released_than_a_checkout_has_room_for(root, monkeypatch):
    monkeypatch.setattr("book._ext.runs.SAMPLES", 5 * 32 * 32 + 1)
    planned = load_plan(root / "book")[0]["digits"]
    compute_unit(planned, None)
    pack(planned, root)
    kept = read_full(planned.packed(None, root), planned.request)
    assert kept["samples"].shape == (5, 1, 32, 32) and kept["train_loss"].shape == (2,)


def test_a_model_is_the_same_whoever_computes_it(root):
    planned = load_plan(root / "book")[0]["digits"]
    both = []
    for results in ("a", "b"):
        with pytest.MonkeyPatch.context() as patch, one_thread():
            patch.setenv("MEMLIB_RESULTS", str(root / results))
            compute_unit(planned, (0, 1))
            with np.load(planned.path((0, 1)), allow_pickle=False) as file:
                both.append({name: file[name] for name in file.files if name != "record"})
    assert both[0].keys() == both[1].keys() == {"encoder_1_1", "encoder_2_1", "fitted_2_1"}
    assert all(np.array_equal(both[0][name], both[1][name], equal_nan=True) for name in both[0])


def test_what_is_released_is_rounded_far_below_its_noise_and_says_what_it_is(tmp_path):
    images = memlib.load_images("digits", "test").subset(np.arange(4))
    log_px = {"encoder_100_0": np.array([-100.123, -np.inf, -3, 0], np.float32)}
    log_px["fitted_100_0"] = np.array([-100.123, np.nan, np.nan, 5], np.float32)
    path = tmp_path / "run" / "repeat-00.parquet"
    write_repeat(path, images, Released(np.array([0, 1, 1, 0]), log_px, {0: {"torch": "2"}}), {"folds": 2})
    table = pq.read_table(path)
    assert table["encoder_100_0"].to_pylist() == [-6408 / 64, -np.inf, -3, 0]
    assert table["fitted_100_0"].to_pylist() == [-102526 / 1024, None, None, 5]
    assert table["fold"].to_pylist() == [0, 1, 1, 0] and table["index"].to_pylist() == images.index.tolist()
    field = table.schema.field("encoder_100_0")
    assert field.metadata[b"unit"] == b"nats" and b"without fold 0" in field.metadata[b"text"]
    back = read_repeat(path, {"folds": 2})
    assert np.isnan(back.log_px["fitted_100_0"][1:3]).all() and back.runs == {0: {"torch": "2"}}
    with pytest.raises(ValueError, match=r"folds is 2 there and 3 in the request"):
        read_repeat(path, {"folds": 3})


@pytest.mark.parametrize(
    "change, message",
    [
        (("order: [{digits: 1}]", "order: [{mnist: 1}]"), "unknown run 'mnist'"),
        (("digits-lr3", "digit-lr3"), "digits-lr3"),
        (("folds: 3", "folds: 1"), "folds is 1"),
    ],
)
def test_a_plan_with_a_mistake_is_refused(root, change, message):
    file = root / "book" / "params" / "runs.yaml"
    file.write_text(PLAN.replace(*change), "utf-8")
    with pytest.raises(ValueError, match=message):
        load_plan(root / "book")


def test_a_model_that_diverges_is_named(root, monkeypatch):
    planned = load_plan(root / "book")[0]["digits"]
    monkeypatch.setattr("book._ext.runs.fit", lambda *a, **k: iter([(1, np.array([np.nan]))]))
    with pytest.raises(FloatingPointError, match="digits, repeat 0, fold 2: epoch 1 diverged"):
        compute_unit(planned, (0, 2))
    assert left(planned, 1, root)[-1] == (0, 2)


def test_what_is_finished_is_packed_although_another_model_fails(root, monkeypatch):
    def failing(planned, unit):
        if unit == (0, 1):
            raise FloatingPointError("diverged")
        return compute_unit(planned, unit)

    monkeypatch.setattr("book._ext.runs.compute_unit", failing)
    monkeypatch.setattr("book._ext.runs.executors.processes", lambda jobs: ThreadPoolExecutor(jobs))
    result = CliRunner().invoke(main, ["--root", str(root)])
    assert isinstance(result.exception, FloatingPointError) and "4 models to go" in result.output
    planned = load_plan(root / "book")[0]["digits"]
    held = read_repeat(root / "published" / "runs" / "digits" / "repeat-00.parquet", planned.request)
    assert held.runs.keys() >= {0} and 1 not in held.runs
    with pytest.raises(ValueError, match=r"full.npz was computed for other settings: seed is 0 there and 1"):
        read_full(root / "published" / "runs" / "digits" / "full.npz", planned.request | {"seed": 1})
    assert not any(problem for _, problem in verify(root / "results"))
