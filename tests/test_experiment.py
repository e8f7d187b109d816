"""Specifications, random streams, and the images that they name; what is refused is in bad_inputs.py."""

import dataclasses
from functools import lru_cache

import pytest
import torch
from vaes import write_pictures

from memlib.device import choose_device
from memlib.experiment import EXPERIMENTS, Experiment, Stream, variant

TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=8
)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mnist-lr3", ("mnist", "mlp", "bernoulli", 16, 1e-3, 100, 5, 256, False)),
        ("mnist-lr4", ("mnist", "mlp", "bernoulli", 16, 1e-4, 100, 5, 256, False)),
        ("cifar10", ("cifar10", "conv", "gaussian", 64, 1e-3, 100, 50, 128, True)),
        ("celeba", ("celeba", "conv", "gaussian-scalar", 32, 1e-3, 50, 25, 128, True)),
    ],
)
def test_registry_has_the_papers_settings(name, settings):
    e = EXPERIMENTS[name]
    assert (e.images, e.architecture, e.likelihood, e.latent_dim) == settings[:4]
    assert (e.learning_rate, e.epochs, e.score_every, e.num_samples, e.flip) == settings[4:]
    assert (e.batch_size, e.width, e.folds, e.repeats, e.num_images) == (64, 32, 10, 10, 0)
    assert (e.rescoring, e.noise, e.precision) == (1, "paired", "float32")  # noise is not the paper's


def test_small_experiments_score_again_with_shared_noise():
    for name in ("digits-lr3", "digits-lr4", "patches"):
        e = EXPERIMENTS[name]
        assert (e.noise, e.num_samples, e.rescoring, e.most_samples) == ("paired", 128, 2, 256)
    assert variant("digits-lr3", num_samples=7, rescoring=1).most_samples == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescoring": 0}, "rescoring is 0; allowed: 1 or more"),
        ({"rescoring": 1.5}, r"rescoring is 1.5 \(float\); allowed: int"),
        ({"noise": "shared"}, "noise is 'shared'; allowed: paper, paired"),
    ],
)
def test_other_ways_to_score_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        variant("digits-lr3", **changes)


def test_none_leaves_a_field_of_a_variant_as_it_is_and_is_no_value():
    assert variant("mnist-lr4", learning_rate=None, epochs=3) == variant("mnist-lr4", epochs=3)
    with pytest.raises(ValueError, match="unknown field 'epoch'"):
        variant("mnist-lr4", epoch=None)
    with pytest.raises(ValueError, match=r"noise is None \(NoneType\); allowed: str"):
        Experiment(noise=None)


@pytest.mark.parametrize("name", ["tpu", "cuda0", "gpu", "cuda:x", "cuda:", "cuda:-1", "cpu:1"])
def test_unknown_device_is_named(name):
    with pytest.raises(ValueError, match=f"device is '{name}'; allowed: cpu, cuda, cuda:N"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("MEMLIB_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1") and choose_device() == torch.device("cuda")
    with pytest.raises(ValueError, match="device is 'cuda:2'; allowed here: cpu, cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_evaluated_epochs_always_include_the_last():
    assert TINY.evaluated_epochs == [2, 3]
    assert variant("mnist-lr3").evaluated_epochs == list(range(5, 101, 5))
    assert variant("digits-lr3", epochs=2).evaluated_epochs == [2]


def test_streams_differ_by_purpose_and_repeat_and_not_by_other_settings():
    draws = {
        (purpose, repeat): tuple(TINY.stream(purpose, repeat).integers(2**62, size=2))
        for purpose in Stream
        for repeat in (None, 0, 1, 2)
    }
    assert len(set(draws.values())) == len(draws)
    other = dataclasses.replace(TINY, learning_rate=1e-4, repeats=7)
    assert tuple(other.stream(Stream.FOLDS, 1).integers(2**62, size=2)) == draws[Stream.FOLDS, 1]


def test_images_of_a_rewritten_folder_are_read_again_and_fixed_sets_are_not(tmp_path, monkeypatch):
    mine = variant("patches", images=f"folder:{tmp_path}")
    write_pictures(tmp_path, seed=0)
    before = mine.load_images()
    write_pictures(tmp_path, seed=1)
    assert mine.load_images().sha256 != before.sha256
    assert variant("digits-lr3").load_images() is variant("digits-lr3").load_images()


def test_images_of_another_data_folder_are_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("memlib.experiment._load_once", lru_cache(lambda name, split, root: root))
    for name in ("one", "two", "one"):
        monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / name))
        assert variant("mnist-lr3").load_validation() == tmp_path / name
