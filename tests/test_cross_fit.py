"""Any model is scored: closed form, folds of a run, interruptions, other requests, shared work and noise."""

import dataclasses
import functools
import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch.distributions import Normal

import memlib
from memlib.data import ImageSet
from memlib.psis import khat_threshold
from memlib.runs import store
from memlib.runs.latent_model import LatentModel
from memlib.runs.store import StoreError

cross_fit, score_models = memlib.cross_fit, memlib.score_models
RNG = np.random.default_rng(0)
MORE = ImageSet.of(RNG.integers(0, 256, (15, 1, 32, 32), np.uint8), RNG.integers(0, 3, 15))
IMAGES = MORE.subset(range(3, 15))
SIZES = {"folds": 3, "repeats": 2, "progress": False, "settings": {"model": "Gaussian"}}


def features(images):
    """Three numbers of every image, (n, 3)."""
    return images.images[:, 0, 0, :3] / 255.0


class Gaussian:
    """The mean of its training images, and a known variance."""

    def __init__(self, images, seed=0):
        self.normal = stats.multivariate_normal(features(images).mean(0), 0.1)

    def log_prob(self, images):
        return self.normal.logpdf(features(images))


def says(values):
    """A model that says what it is told."""
    return SimpleNamespace(log_prob=lambda images: values)


class Train:
    """Trains Gaussians, counts, and fails at the call that it is told to."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def __call__(self, images, seed):
        if len(self.calls) == self.fail_at:
            raise RuntimeError("out of memory")
        self.calls.append(seed)
        return Gaussian(images)


def test_the_log_probabilities_are_those_of_the_models_without_each_fold():
    result = cross_fit(Gaussian, IMAGES, **SIZES)
    parts = [[np.flatnonzero(row != k) for k in range(3)] for row in result.fold_of.values]
    expected = [[Gaussian(IMAGES.subset(part)).log_prob(IMAGES) for part in row] for row in parts]
    np.testing.assert_array_equal(result.log_px.values, [expected])
    np.testing.assert_array_equal(result["index"], IMAGES.index)
    np.testing.assert_array_equal(result.label, IMAGES.labels)


def test_folds_and_layout_are_those_of_a_run_with_the_same_seed(tmp_path):
    sizes = {"folds": 3, "repeats": 2, "seed": 7}
    spec = memlib.variant("digits-lr3", num_images=31, epochs=1, num_samples=2, **sizes)
    run = memlib.run(spec, root=tmp_path, progress=False)
    result = cross_fit(Gaussian, spec.load_images(), **sizes, progress=False)
    np.testing.assert_array_equal(result.fold_of, run.fold_of)
    for name in ("log_px", "fold_of"):
        assert result[name].dims == run[name].dims and result[name].shape == run[name].shape
    assert {*result.coords} == {*run.coords} - {"train_epoch"}


def test_every_model_gets_its_own_images_labels_and_seed():
    calls = []

    def train(images, seed):
        calls.append((images, seed))
        return says(np.zeros(12))

    result = cross_fit(train, IMAGES, **SIZES, seed=3)
    for (images, _), (repeat, fold) in zip(calls, np.ndindex(2, 3), strict=True):
        kept = np.flatnonzero(result.fold_of[repeat] != fold)
        np.testing.assert_array_equal(images.index, IMAGES.index[kept])
        np.testing.assert_array_equal(images.images, IMAGES.images[kept])
        np.testing.assert_array_equal(images.labels, IMAGES.labels[kept])
    cross_fit(train, IMAGES, **SIZES, seed=4)
    seeds = [seed for _, seed in calls]
    assert len(set(seeds)) == 12 and all(type(s) is int and 0 <= s < 2**31 for s in seeds)


def test_an_interrupted_cross_fit_goes_on_where_it_stopped(tmp_path):
    whole = Train()
    expected = cross_fit(whole, IMAGES, **SIZES, folder=tmp_path / "whole")
    failing, rest, again = Train(fail_at=4), Train(), Train()
    with pytest.raises(RuntimeError, match="out of memory") as error:
        cross_fit(failing, IMAGES, **SIZES, folder=tmp_path / "part")
    assert error.value.__notes__ == [
        f"raised by train(images, seed={whole.calls[4]}) for the model of repeat 1, fold 1"
    ]
    kept = {path: path.read_bytes() for path in (tmp_path / "part").glob("*.npz")}
    assert len(kept) == 4
    result = cross_fit(rest, IMAGES, **SIZES, folder=tmp_path / "part")  # while `error` holds its frames
    assert rest.calls == whole.calls[4:]
    assert kept == {path: path.read_bytes() for path in kept}
    assert result.request == expected.request and result.folder == str(tmp_path / "part")
    xr.testing.assert_identical(cross_fit(again, IMAGES, **SIZES, folder=tmp_path / "part"), result)
    assert not again.calls
    for other in (expected, cross_fit(Train(), IMAGES, **SIZES)):
        xr.testing.assert_identical(result.drop_attrs(), other.drop_attrs())


def test_more_repeats_add_to_those_that_are_there(tmp_path):
    first, more, fewer = Train(), Train(), Train()
    two = cross_fit(first, IMAGES, **SIZES, folder=tmp_path)
    four = cross_fit(more, IMAGES, **(SIZES | {"repeats": 4}), folder=tmp_path)
    one = cross_fit(fewer, IMAGES, **(SIZES | {"repeats": 1}), folder=tmp_path)
    assert len(first.calls) == len(more.calls) == 6 and not fewer.calls
    assert not {*first.calls} & {*more.calls}
    xr.testing.assert_identical(four.isel(repeat=[0, 1]).drop_attrs(), two.drop_attrs())
    xr.testing.assert_identical(four.isel(repeat=[0]).drop_attrs(), one.drop_attrs())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 255 - IMAGES.images}, "train_sha256 is"),
        (
            {"labels": IMAGES.labels[::-1]},
            "is of the same images with other labels or another index, which tr",
        ),
        ({"index": IMAGES.index[::-1]}, "is of the same images with other labels or another index, which tr"),
        ({}, "folds is 3 there and 4 in the request"),
    ],
)
def test_results_for_other_images_or_folds_are_refused_before_anything_is_trained(tmp_path, changes, message):
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)
    train, before = Train(), sorted(tmp_path.iterdir())
    images, sizes = dataclasses.replace(IMAGES, **changes), {"folds": 3 if changes else 4, "repeats": 5}
    with pytest.raises(StoreError, match=message):
        cross_fit(train, images, **(SIZES | sizes), folder=tmp_path)
    assert not train.calls and sorted(tmp_path.iterdir()) == before


def test_settings_tell_ways_of_training_apart(tmp_path):
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)
    train = Train()
    with pytest.raises(StoreError, match=r"settings.model is .*Gaussian.* there and .*another.* in the req"):
        cross_fit(train, IMAGES, **(SIZES | {"settings": {"model": "another"}}), folder=tmp_path)
    assert not train.calls


def test_models_of_other_folds_are_refused(tmp_path):
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)
    path = tmp_path / "repeat-001-fold-01.npz"
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    store.write(path, arrays | {"held_out": arrays["held_out"][::-1]}, record)
    train = Train()
    for repeats in (3, 1):  # before anything is trained, also where the repeat is not asked for
        with pytest.raises(StoreError, match="has other folds than this version of NumPy draws"):
            cross_fit(train, IMAGES, **(SIZES | {"repeats": repeats}), folder=tmp_path)
    assert not train.calls


def test_processes_that_ask_for_the_same_share_the_work(tmp_path, monkeypatch):
    """Two threads with a lock each, as processes have; the second finds one model claimed and waits."""
    monkeypatch.setattr("memlib.runs.worker.WAIT_SECONDS", 0.01)
    begun, go = threading.Event(), threading.Event()
    calls = []

    def train(images, seed):
        calls.append(seed)
        begun.set()
        go.wait(20)
        return Gaussian(images)

    with ThreadPoolExecutor(2) as pool:
        ask = functools.partial(pool.submit, cross_fit, train, IMAGES, **SIZES, folder=tmp_path)
        first = ask()
        assert begun.wait(20)
        second = ask()
        deadline = time.monotonic() + 20
        while len(calls) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        go.set()
    assert len(calls) == len(set(calls)) == 6
    xr.testing.assert_identical(first.result(), second.result())


def test_the_bar_counts_the_models_that_are_trained(tmp_path, capsys):
    options = SIZES | {"progress": True, "folder": tmp_path}
    with pytest.raises(RuntimeError):
        cross_fit(Train(fail_at=4), IMAGES, **options)
    assert "6 of 6 models:  67%" in capsys.readouterr().err
    cross_fit(Train(), IMAGES, **options)
    assert "2 of 6 models: 100%" in capsys.readouterr().err
    cross_fit(Train(), IMAGES, **(options | {"folder": None}))
    assert "6 models: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    "returned",
    [lambda x: x.tolist(), lambda x: torch.tensor(x, dtype=torch.float32, requires_grad=True)],
    ids=["a list", "a tensor with gradients"],
)
def test_lists_and_tensors_are_taken_and_may_say_impossible(returned):
    values = np.array([-np.inf, *range(11)])
    result = cross_fit(lambda images, seed: says(returned(values)), IMAGES, **SIZES)
    assert result.log_px.dtype == np.float64 and (result.log_px == values).all()


def test_the_model_and_the_images_that_are_refused_are_named_and_the_models_before_are_kept(tmp_path):
    count = iter(range(9))

    def train(images, seed):
        values = np.zeros(12)
        values[[2, 5]] = [np.nan, np.inf] if next(count) == 4 else 0
        return says(values)

    message = r"repeat 1, fold 1 returned .* 2 of 12 images \(nan for image 2, inf for image 5\); allowed"
    with pytest.raises(ValueError, match=message):
        cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
    assert len([*tmp_path.glob("*.npz")]) == 4


def test_models_trained_elsewhere_give_the_same():
    result = cross_fit(Gaussian, IMAGES, **SIZES, seed=2)
    fold_of = result.fold_of.values
    models = [[Gaussian(IMAGES.subset(np.flatnonzero(row != k))) for k in range(3)] for row in fold_of]
    digest = hashlib.sha256(fold_of.astype(np.int64).tobytes()).hexdigest()
    load = lambda repeat, fold: models[repeat][fold]  # noqa: E731
    for given, folds in ((models, fold_of), (load, fold_of.astype(np.uint8))):
        again = score_models(given, folds, IMAGES, seed=2, progress=False)
        xr.testing.assert_identical(again.drop_attrs(), result.drop_attrs())
        request = json.loads(again.request)
        assert request["fold_of_sha256"] == digest and "seed" not in request


def test_what_fails_in_a_model_is_said_to_be_of_its_repeat_and_fold():
    failing = SimpleNamespace(log_prob=lambda images: 1 // 0)
    models = [[says(np.zeros(12))] * 3, [says(np.zeros(12)), failing, failing]]
    fold_of = np.arange(24).reshape(2, 12) % 3
    with pytest.raises(ZeroDivisionError) as error:
        score_models(models, fold_of, IMAGES, progress=False)
    assert error.value.__notes__ == ["raised by log_prob(images) of the model of repeat 1, fold 1"]
    with pytest.raises(ZeroDivisionError) as error:
        score_models(lambda repeat, fold: 1 // repeat, fold_of, IMAGES, progress=False)
    assert error.value.__notes__ == ["raised by models(0, 0)"]


def latent(images, seed=0, num_samples=64, batch_size=512, kind=LatentModel, proposal="encoder"):
    """A linear-Gaussian model with noise of scale 1 around the mean, and a proposal of another scale."""
    mean = torch.tensor(features(images).mean(0))
    scale = 0.5 if IMAGES.index[0] in images.index else 1.0

    def q(x):
        return Normal((x - mean) / 2, scale)  # the posterior has variance 1/2

    def p(z):
        return Normal(z + mean, 1.0)

    cut = lambda levels: levels[:, 0, 0, :3].double() / 255  # noqa: E731
    return kind(q, p, num_samples, batch_size=batch_size, prepare=cut, proposal=proposal)


def test_latent_models_carry_their_health_into_the_result(tmp_path):
    result = cross_fit(latent, IMAGES, **SIZES, folder=tmp_path)
    x = features(IMAGES)
    means = np.array([[x[row != k].mean(0) for k in range(3)] for row in result.fold_of.values])
    exact = stats.norm.logpdf(x, means[:, :, None], np.sqrt(2)).sum(-1)  # (L, K, n)
    error = np.sqrt(1 / result.ess - 1 / 64)
    assert (np.abs(result.log_px - exact) < 6 * error).all() and (np.abs(result.log_px - exact) > 0).all()
    stored = [store.read(path, json.loads(result.request))[0] for path in sorted(tmp_path.glob("*.npz"))]
    khat, ess = (np.stack([a[name] for a in stored]).reshape(2, 3, 12) for name in ("khat", "ess"))
    failing = (khat > khat_threshold(64)).mean(axis=2)
    expected = {
        "ess": (("epoch", "repeat", "fold", "observation"), ess[None]),
        "failing": (("epoch", "repeat", "fold"), failing[None]),
        "khat": (("epoch", "repeat", "observation"), khat.max(axis=1)[None]),
        "num_samples": (("epoch", "repeat", "observation"), np.full((1, 2, 12), 64)),
    }
    xr.testing.assert_equal(result[[*expected]], xr.Dataset(expected, result.coords))
    assert np.ptp(khat, axis=1).mean() > 0.1 and np.ptp(failing) > 0.1


def test_the_models_of_a_repeat_share_their_noise_and_repeats_do_not():
    """Models that ignore their training images differ by noise alone: within a repeat not at all."""

    def train(images, seed):
        return latent(IMAGES)

    result = cross_fit(train, IMAGES, **SIZES)
    log_px = result.log_px.values[0]
    assert (log_px == log_px[:, :1]).all() and (log_px[0] != log_px[1]).all()
    assert (cross_fit(train, IMAGES, **SIZES, seed=1).log_px.values[0] != log_px).all()
    scored = score_models([[latent(IMAGES)] * 3] * 2, result.fold_of, IMAGES, progress=False)
    np.testing.assert_array_equal(scored.log_px[0], log_px)
    assert json.loads(scored.request)["seed"] == 0


def test_a_latent_model_with_a_log_prob_of_its_own_is_scored_by_that():
    own, heir = (type("Of", (LatentModel,), names) for names in ({"log_prob": lambda *_: np.zeros(12)}, {}))
    attribute = latent(IMAGES)
    attribute.log_prob = lambda images: np.zeros(12)
    for model in (latent(IMAGES, kind=own), attribute):
        result = cross_fit(lambda images, seed, model=model: model, IMAGES, **SIZES)
        assert (result.log_px == 0).all() and "ess" not in result
    inherited = cross_fit(lambda images, seed: latent(images, kind=heir), IMAGES, **SIZES)
    xr.testing.assert_identical(inherited.drop_attrs(), cross_fit(latent, IMAGES, **SIZES).drop_attrs())


@pytest.mark.parametrize(
    ("odd", "changes", "message"),
    [
        (4, {"batch_size": 5}, "batch_size of the .*repeat 1, fold 1 is 5, and of .*1, fold 0 it is 512; al"),
        (3, {"num_samples": 9}, "num_samples of the .*repeat 1, fold 0 is 9, .* the same for all models"),
        (3, {"proposal": "fitted"}, "proposal of the .*repeat 1, fold 0 is 'fitted', .* for all models"),
    ],
)
def test_models_whose_noise_cannot_be_the_same_are_refused(tmp_path, odd, changes, message):
    for options in ({"folder": tmp_path}, {}):
        count = iter(range(odd + 1))

        def train(images, seed, count=count):
            return latent(images, **(changes if next(count) == odd else {}))

        with pytest.raises(ValueError, match=message):
            cross_fit(train, IMAGES, **SIZES, **options)
    assert len([*tmp_path.glob("*.npz")]) == odd


def test_batches_may_differ_between_repeats_and_devices_not_within_one(tmp_path):
    made = []

    def train(images, seed):
        made.append(latent(images, batch_size=5 if len(made) < 3 else 512))
        return made[-1]

    result = cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
    assert [run["batch_size"] for run in json.loads(result.runs)] == [5] * 3 + [512] * 3
    path = tmp_path / "repeat-000-fold-00.npz"
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    store.write(path, arrays, record | {"run": record["run"] | {"device": "cuda"}})
    with pytest.raises(ValueError, match=r"device of .* 0, fold 0 is 'cuda', and of .* 1 it is 'cpu'"):
        cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
