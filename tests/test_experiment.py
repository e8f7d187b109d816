"""Specifications, random streams, and the images that they name; what is refused is in bad_inputs.py."""

import dataclasses

import pytest
from PIL import Image
from vaes import write_pictures

from memlib.experiment import EXPERIMENTS, Stream, variant

TINY = variant("digits-lr3", epochs=3, score_every=2, folds=3, repeats=2)


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
    assert (e.proposal, e.noise) == ("fitted", "paired")  # these two are not the paper's
    assert (e.precision, e.scoring_precision) == ("float32", "float32")


def test_none_leaves_a_field_of_a_variant_as_it_is():
    assert variant("mnist-lr4", learning_rate=None, epochs=3) == variant("mnist-lr4", epochs=3)


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


def test_images_of_a_rewritten_folder_are_read_again_and_fixed_sets_are_not(tmp_path):
    mine = variant("patches", images=f"folder:{tmp_path}")
    write_pictures(tmp_path, seed=0)
    before = mine.load_images()
    write_pictures(tmp_path, seed=1)
    assert mine.load_images().sha256 != before.sha256
    assert variant("digits-lr3").load_images() is variant("digits-lr3").load_images()


def test_images_of_another_data_folder_are_read_anew(tmp_path, monkeypatch):
    for level in (1, 2):
        folder = tmp_path / str(level) / "celeba"
        (folder / "img_align_celeba").mkdir(parents=True)
        for face in ("train", "valid", "test"):
            Image.new("RGB", (178, 218), (level,) * 3).save(folder / "img_align_celeba" / face, "PNG")
        (folder / "list_eval_partition.txt").write_text("train 0\nvalid 1\ntest 2\n")
    for level in (1, 2, 1):
        monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / str(level)))
        validation = variant("celeba").load_validation()
        assert (validation.images == level).all() and validation.split == "valid"
