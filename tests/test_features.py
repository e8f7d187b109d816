"""Features: of any module, of a classifier trained here, and of Inception with weights that a test makes."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from memlib import features
from memlib.data import load_images
from memlib.features import accuracy, extract, inception, pixels, spaces, train_classifier
from memlib.parallel import one_thread

DIGITS = load_images("digits")
PATCHES = load_images("patches")
LEVELS = np.array([0, 51, 102, 255], dtype=np.uint8).reshape(2, 1, 1, 2)
URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"


class Returns(nn.Module):
    """Gives whatever a function makes of the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture(scope="module", autouse=True)
def alone():
    """Threads that wait for each other on shared cores take many times as long for these small networks."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def network():
    return train_classifier(DIGITS, features=16, steps=300)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_module_sees_levels_from_0_to_1_and_its_output_is_flattened():
    got = extract(Returns(lambda x: torch.stack([x, 2 * x], dim=1)), LEVELS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[0, 0.2, 0, 0.4], [0.4, 1, 0.8, 2]], rtol=1e-6)


def test_pixels_are_the_levels_of_all_channels():
    np.testing.assert_allclose(pixels(LEVELS), [[0, 0.2], [0.4, 1]], rtol=1e-6)
    got = pixels(PATCHES.images[:3])
    assert got.shape == (3, 3 * 32 * 32) and got.dtype == np.float32
    np.testing.assert_allclose(got, PATCHES.images[:3].reshape(3, -1) / 255, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 9, 1000])
def test_the_batch_size_does_not_change_features(network, batch_size):
    sizes = []
    counted = nn.Sequential(Returns(lambda x: sizes.append(len(x)) or x), network)
    got = extract(counted, DIGITS.images[:9], batch_size)
    np.testing.assert_allclose(got, extract(network, DIGITS.images[:9]), rtol=1e-4, atol=1e-5)
    assert sum(sizes) == 9 and max(sizes) == min(batch_size, 9)


def test_modules_of_other_precision_give_float32():
    assert extract(Returns(lambda x: x.double()), LEVELS).dtype == np.float32


def test_features_are_those_of_evaluation_and_training_goes_on_as_before():
    """Every part has a mode of its own: some are frozen, and a slice of a network begins in training mode."""
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Dropout(0.5))
    module[1].eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    got = extract(module, DIGITS.images[:20])
    np.testing.assert_allclose(got, pixels(DIGITS.images[:20]), rtol=1e-4)
    assert [part.training for part in module] == [True, False, True] and module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    frozen = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).eval()
    extract(frozen[:2], LEVELS)
    assert not any(part.training for part in frozen)


def test_modes_are_as_before_after_a_refusal_too():
    module = nn.Sequential(nn.Dropout(0.5), Returns(lambda x: x.sum()))
    with pytest.raises(ValueError, match="the module returns"):
        extract(module, LEVELS)
    assert all(part.training for part in module.modules())


def test_the_images_are_left_alone():
    before = LEVELS.copy()
    extract(Returns(lambda x: x.zero_()), LEVELS)
    np.testing.assert_array_equal(LEVELS, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (LEVELS / 255, r"images are float64 \(2, 1, 1, 2\); allowed: uint8 \(n, C, H, W\), n at least 1"),
        (LEVELS[0], r"images are uint8 \(1, 1, 2\); allowed"),
        (LEVELS[:0], r"images are uint8 \(0, 1, 1, 2\); allowed"),
    ],
)
def test_other_images_are_refused(images, message):
    for call in (pixels, lambda x: extract(nn.Identity(), x)):
        with pytest.raises(ValueError, match=message):
            call(images)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing_are_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; allowed: 1 or more"):
        extract(nn.Identity(), LEVELS, batch_size)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: None, "NoneType"),
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x.sum((1, 2, 3)), r"\(2,\)"),
        (lambda x: x[:1], r"\(1, 1, 1, 2\)"),
    ],
)
def test_a_module_that_gives_no_features_is_refused(function, got):
    message = rf"the module returns {got} for 2 images; allowed: a tensor \(B, ...\)"
    with pytest.raises(ValueError, match=message):
        extract(Returns(function), LEVELS)


def test_the_classifier_tells_digits_apart_that_it_was_not_trained_on(network):
    test = load_images("digits", "test")
    assert accuracy(network, test) > 0.8
    logits = extract(network, test.images)
    assert logits.shape == (len(test), 10)
    assert accuracy(network, test) == np.mean(logits.argmax(axis=1) == test.labels)


def test_all_but_its_last_layer_gives_features(network):
    own = extract(network[:-1], DIGITS.images[:50])
    assert own.shape == (50, 16) and own.min() == 0 and own.max() > 0  # rectified
    logits = network[-1](torch.tensor(own)).detach().numpy()
    np.testing.assert_allclose(logits, extract(network, DIGITS.images[:50]), rtol=1e-4, atol=1e-4)
    assert not any(part.training for part in network.modules())


def test_color_images_have_a_classifier_too():
    network = train_classifier(PATCHES, features=3, steps=1)
    assert extract(network[:-1], PATCHES.images[:4]).shape == (4, 3)
    assert extract(network, PATCHES.images[:4]).shape == (4, len(PATCHES.classes))


def test_the_seed_decides_bit_for_bit():
    one, again, other = (weights(train_classifier(DIGITS, steps=3, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_every_step_changes_the_weights():
    one, two = (weights(train_classifier(DIGITS, features=4, steps=steps)) for steps in (1, 2))
    assert 0 < (one - two).abs().max() < 0.01  # of one step of Adam, from the same start


def test_streams_of_others_are_left_alone():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_classifier(DIGITS, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)
    torch.manual_seed(5)
    one = weights(train_classifier(DIGITS, steps=2))
    torch.manual_seed(6)
    assert torch.equal(weights(train_classifier(DIGITS, steps=2)), one)


@pytest.mark.parametrize(("name", "value", "least"), [("features", 0, 1), ("steps", 0, 1), ("seed", -1, 0)])
def test_numbers_that_cannot_be_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f"{name} is {value}; allowed: {least} or more"):
        train_classifier(DIGITS, **{name: value})


def test_images_of_one_label_are_refused():
    sevens = DIGITS.subset(np.flatnonzero(DIGITS.labels == 7))
    with pytest.raises(ValueError, match=r"ImageSet.* has one label; allowed: images of two or more"):
        train_classifier(sevens)


def test_accuracy_is_the_share_of_labels_with_the_largest_logit():
    always = Returns(lambda x: torch.eye(10)[3].expand(len(x), 10))
    assert accuracy(always, DIGITS) == np.mean(DIGITS.labels == 3)


def test_spaces_measure_images_that_the_classifier_has_not_seen():
    measured = DIGITS.subset(np.arange(0, 1500, 3))
    found = spaces(measured, DIGITS, width=16, steps=40, seed=3)
    assert found.apart and len(found.others) == 1000
    assert not np.isin(found.others.index, measured.index).any()
    alone = train_classifier(DIGITS.subset(np.flatnonzero(np.arange(1500) % 3)), 16, 40, seed=3)
    assert torch.equal(weights(found.network), weights(alone))
    x = DIGITS.images[:9]
    got = found.embed["classifier"](x)
    np.testing.assert_allclose(got, extract(alone[:-1], x), rtol=1e-5, atol=1e-6)
    assert got.shape == (9, 16) and (got >= 0).all() and got.any()


def test_the_pixel_space_is_the_principal_components_of_the_measured_images():
    measured = DIGITS.subset(np.arange(200))
    embed = spaces(measured, DIGITS, width=5, steps=1).embed["pixels"]
    flat = pixels(measured.images).astype(np.float64)
    _, _, axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    x = DIGITS.images[200:220]
    expected = (pixels(x) - flat.mean(axis=0)) @ axes[:5].T
    np.testing.assert_allclose(np.abs(embed(x)), np.abs(expected), atol=1e-3)


def test_a_measured_set_that_leaves_nothing_trains_the_classifier_itself():
    found = spaces(PATCHES, PATCHES, width=4, steps=1)
    assert not found.apart and found.others is PATCHES


@pytest.mark.parametrize("width", [0, 31])
def test_spaces_refuse_a_width_without_as_many_components(width):
    with pytest.raises(
        ValueError, match=f"width is {width}; allowed: 1 to 30, the measured images or their pixels"
    ):
        spaces(DIGITS.subset(np.arange(30)), DIGITS, width=width, steps=1)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The data folder and PyTorch's cache, both empty."""
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    folders = tmp_path / "data", tmp_path / "hub" / "checkpoints"
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


@pytest.fixture
def weights_file(places, monkeypatch):
    """Weights of Inception that nobody trained, in the data folder, under a name that fits their sha256."""
    from torchvision.models import inception_v3

    made = places[0] / "made.pth"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), made)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION", f"made-{digest[:8]}.pth")
    file = made.rename(places[0] / features.INCEPTION)
    yield file
    file.unlink(missing_ok=True)  # 100 MB


def test_missing_weights_are_asked_for_with_both_places_and_the_source(places):
    with pytest.raises(FileNotFoundError, match="no weights of Inception-v3") as caught:
        inception()
    for place in (*places, URL):
        assert str(place) in str(caught.value)


def test_missing_weights_of_a_given_folder_name_that_one(places, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        inception(tmp_path / "own")
    assert str(tmp_path / "own") in str(caught.value) and URL in str(caught.value)
    assert not any(str(place) in str(caught.value) for place in places)


@pytest.mark.parametrize("place", [0, 1])
def test_damaged_weights_are_refused_wherever_they_are(places, place):
    file = places[place] / features.INCEPTION
    file.write_bytes(b"half of it")
    digest = hashlib.sha256(b"half of it").hexdigest()[:8]
    with pytest.raises(ValueError, match="delete it and download it again") as caught:
        inception()
    assert f"{file} is damaged: its sha256 is {digest}..." in str(caught.value)


def test_inception_gives_2048_features_of_gray_and_of_color_images(weights_file, places):
    state = torch.get_rng_state()
    module = inception()
    torch.set_rng_state(state)
    assert not module.training
    color = PATCHES.images[:2]
    got = extract(module, color)
    assert got.shape == (2, 2048) and np.isfinite(got).all() and (got[0] != got[1]).any()
    gray = DIGITS.images[:1]
    own = extract(module, gray)
    assert own.shape == (1, 2048)
    np.testing.assert_allclose(own, extract(module, gray.repeat(3, axis=1)), rtol=1e-4, atol=1e-6)


def test_the_network_sees_299_pixels_from_minus_1_to_1():
    seen = []
    module = features._Pool3(Returns(lambda x: seen.append(x) or x[:, :, 0, 0]))
    extract(module, np.stack([np.zeros((1, 32, 32)), np.full((1, 32, 32), 255)]).astype(np.uint8))
    assert seen[0].shape == (2, 3, 299, 299)
    torch.testing.assert_close(seen[0][0], torch.full((3, 299, 299), -1.0))
    torch.testing.assert_close(seen[0][1], torch.ones(3, 299, 299))
