"""What a repeat has of its models: the health of their scores, and where they diverge."""

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import memlib
from memlib.experiment import variant
from memlib.psis import khat_threshold
from memlib.runs import store
from memlib.runs.job import Job, requested
from memlib.runs.run import run
from memlib.runs.task import Task

TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=16
)


def test_the_health_of_the_scores_is_kept_by_repeat(tmp_path, monkeypatch):
    """The worst k-hat of its models and two versions, how many samples all have, and how often each fails.

    A k-hat is too high by the samples behind it: the same one fails with 32 and not with 128.
    """
    original, scored = memlib.runs.task.score_images, []
    low, high = khat_threshold(32), khat_threshold(128)
    samples = np.where(np.arange(31) % 2, 128, 32)

    def spread(*args, **options):
        own = original(*args, **options)
        khat = torch.rand(own.khat.shape, generator=torch.Generator().manual_seed(len(scored)))
        own.num_samples[:, :] = torch.from_numpy(samples)
        scored.append(own._replace(khat=low + (high - low) * (3 * khat - 1)))
        return scored[-1]

    monkeypatch.setattr("memlib.runs.task.score_images", spread)
    result = run(dataclasses.replace(TINY, versions=2), root=tmp_path, progress=False)
    for i, own in enumerate(scored):
        at = {"repeat": i // 2, "epoch": i % 2}
        np.testing.assert_allclose(result.log_px[at], own.log_px.mean(1), rtol=1e-6)
        np.testing.assert_array_equal(result.log_px_version[at], own.log_px)
        np.testing.assert_array_equal(result.ess[at], own.ess.amin(1))
        np.testing.assert_array_equal(result.khat[at], own.khat.amax((0, 1)))
        np.testing.assert_array_equal(result.num_samples[at], samples)
        share = (own.khat.numpy() > np.where(samples == 32, low, high)).mean((1, 2))
        np.testing.assert_allclose(result.failing[at], share, rtol=1e-6)
    assert len(scored) == 4 and 0 < result.failing.min() and result.failing.max() < 1


def break_repeat(monkeypatch, broken):
    """Let one model of a repeat start with a parameter from which nothing finite follows."""
    original = Task.start

    def start(task, count, members):
        state = original(task, count, members)
        if broken in members:
            with torch.no_grad():
                state.model.params["decoder.trunk.4.bias"][members.index(broken) * count] = float("inf")
        return state

    monkeypatch.setattr(Task, "start", start)


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor(1)], ids=["here", "executor"])
def test_a_repeat_that_diverges_stops_alone(tmp_path, monkeypatch, executor):
    break_repeat(monkeypatch, 0)
    expected = (
        "digits: training diverged: repeat 1, epoch 1 at learning_rate 0.001: the loss of 1 of 3 models is "
        f"not finite. A smaller learning_rate may help; everything else is stored in {tmp_path}"
    )
    with pytest.raises(FloatingPointError, match=re.escape(expected)):
        run(TINY, root=tmp_path, executor=executor, progress=False)
    assert sorted(p.name for p in tmp_path.glob("*/*.npz")) == ["full.npz", "repeat-001.npz"]
    if executor is None:  # of images at hand those are named, not the experiment's
        sets = [dataclasses.replace(TINY.load_images(), name="mine"), TINY.load_validation()]
        with pytest.raises(FloatingPointError, match=r"^mine: training diverged"):
            everything = dataclasses.replace(TINY, num_images=0)
            run(everything, *sets, root=tmp_path / "at hand", progress=False)
    monkeypatch.undo()
    undisturbed = run(TINY, root=tmp_path / "undisturbed", progress=False)
    np.testing.assert_array_equal(run(TINY, root=tmp_path, progress=False).log_px, undisturbed.log_px)


def test_a_repeat_that_diverges_leaves_those_stacked_with_it_alone(tmp_path, monkeypatch):
    sets = TINY.load_images(), TINY.load_validation()

    def trained(folder):
        job = Job(TINY, *requested(TINY, *sets), folder, "cpu", sets)
        diverged = Task(job, torch.device("cpu")).train_repeats([0, 1])
        return diverged, {p.relative_to(folder): p for p in folder.rglob("repeat-000*.npz")}

    (none, sound), _ = trained(tmp_path / "sound"), break_repeat(monkeypatch, 1)
    diverged, beside = trained(tmp_path / "beside")
    assert none == {} and [*diverged] == [1] and "epoch 1 at learning_rate 0.001" in diverged[1]
    assert len(sound) == 4 and sound.keys() == beside.keys()
    for name, path in sound.items():
        request = store.read_record(path)["request"]
        expected, arrays = (store.read(p, request)[0] for p in (path, beside[name]))
        for key, array in expected.items():
            np.testing.assert_array_equal(arrays[key], array, err_msg=f"{name}, {key}")


def test_a_score_that_is_not_a_number_stops_its_repeat_before_anything_is_stored(tmp_path, monkeypatch):
    """Minus infinity is a score: of an image that a model gives no probability."""
    original, spoilt = memlib.runs.task.score_images, iter([-np.inf, np.nan, np.inf, 0, -np.inf, 0])

    def spoiled(*args, **options):
        scored = original(*args, **options)
        scored.log_px[1, 0, 5] += next(spoilt)
        return scored

    monkeypatch.setattr("memlib.runs.task.score_images", spoiled)
    told = "repeat 1, epoch 3 at .*: log_px is not a number; repeat 2, epoch 2 at .*: log_px is not a number"
    with pytest.raises(FloatingPointError, match=told):
        run(dataclasses.replace(TINY, repeats=3), root=tmp_path, progress=False)
    scored = sorted(p.stem[7:] for p in tmp_path.glob("*/scores-*/*.npz"))
    assert scored == ["000-epoch-000002", "002-epoch-000002", "002-epoch-000003"]
