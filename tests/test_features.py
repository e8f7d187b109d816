"""Features: of any module, of a classifier trained here, and of Inception, its input."""

import pickle
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
import torchvision.models
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from memlib.datasets import fingerprint, load_images
from memlib.device import one_thread
from memlib.metrics.features import accuracy, extract, inception, pixels, spaces, train_classifier

DIGITS = load_images("digits")
PATCHES = load_images("patches")
LEVELS = np.array([0, 51, 102, 255], dtype=np.uint8).reshape(2, 1, 1, 2)


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
    return train_classifier(DIGITS, features=16, steps=150)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_module_sees_levels_from_0_to_1_and_its_output_is_flattened():
    got = extract(Returns(lambda x: torch.stack([x, 2 * x], dim=1).double()), LEVELS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[0, 0.2, 0, 0.4], [0.4, 1, 0.8, 2]], rtol=1e-6)


def test_the_batch_size_does_not_change_features():
    sizes = []
    module = Returns(lambda x: sizes.append(len(x)) or x)
    np.testing.assert_array_equal(extract(module, DIGITS.images[:9], 7), pixels(DIGITS.images[:9]))
    assert sizes == [7, 2]


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


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: x.sum((1, 2, 3)), r"torch.float32 \(2,\)"),
        (lambda x: x[:1], r"torch.float32 \(1, 1, 1, 2\)"),
        (lambda x: 1j * x, r"torch.complex64 \(2, 1, 1, 2\)"),
    ],
)
def test_a_module_that_gives_no_features_is_refused_and_has_its_modes_again(function, got):
    module = nn.Sequential(nn.Dropout(0.5), Returns(function))
    with pytest.raises(ValueError, match=rf"returns {got} for 2 images; allowed: numbers \(B, ...\)"):
        extract(module, LEVELS)
    assert all(part.training for part in module.modules())


class Scaled(nn.Module):
    """Twice the levels by a parameter or a buffer of its own type."""

    def __init__(self, dtype, buffer):
        super().__init__()
        two = torch.full((1,), 2, dtype=dtype)
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))  # as batch norm has
        self.register_buffer("two", two) if buffer else self.register_parameter("two", nn.Parameter(two))

    def forward(self, x):
        assert x.dtype == self.two.dtype
        return x * self.two


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_module_sees_levels_of_its_own_type(dtype, buffer):
    got = extract(Scaled(dtype, buffer), LEVELS)
    np.testing.assert_allclose(got, [[0, 0.4], [0.8, 2]], rtol=max(1e-6, torch.finfo(dtype).eps))
    assert got.dtype == np.float32


def test_a_module_without_values_is_refused():
    with pytest.raises(ValueError, match="the module is on 'meta', without values; allowed: a device"):
        extract(nn.Linear(2, 1, device="meta"), LEVELS)


def test_the_images_are_left_alone():
    before = LEVELS.copy()
    extract(Returns(lambda x: x.zero_()), LEVELS)
    np.testing.assert_array_equal(LEVELS, before)


def test_the_classifier_tells_digits_apart_that_it_was_not_trained_on(network):
    assert accuracy(network, load_images("digits", "test")) > 0.6
    assert not any(part.training for part in network.modules())


def test_accuracy_is_the_share_of_labels_with_the_largest_logit():
    always = Returns(lambda x: torch.eye(10)[3].expand(len(x), 10))
    assert accuracy(always, DIGITS) == np.mean(DIGITS.labels == 3)


def test_all_but_the_last_layer_of_the_classifier_gives_features(network):
    x = DIGITS.images[:50]
    own = extract(network[:-1], x)
    assert own.shape == (50, 16) and own.min() == 0 and own.max() > 0  # rectified
    # two batches of products in float32
    logits = network[-1](torch.tensor(own)).detach().numpy()
    np.testing.assert_allclose(logits, extract(network, x), rtol=1e-4, atol=1e-4)


def test_the_seed_alone_decides_bit_for_bit_and_streams_of_others_are_left_alone():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = weights(train_classifier(DIGITS, steps=2, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)
    torch.manual_seed(5)
    again, other = (weights(train_classifier(DIGITS, steps=2, seed=seed)) for seed in (1, 2))
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.1  # another start: two steps of Adam are 0.002


def test_every_step_changes_the_weights():
    one, two = (weights(train_classifier(DIGITS, features=4, steps=steps)) for steps in (1, 2))
    assert 0 < (one - two).abs().max() < 0.01  # of one step of Adam, from the same start


def test_spaces_measure_images_that_the_classifier_has_not_seen():
    measured = DIGITS.subset(np.arange(0, 1500, 3))
    found = spaces(measured, DIGITS, width=16, steps=5, seed=3)
    assert found.apart and len(found.others) == 1000
    assert not np.isin(found.others.index, measured.index).any()
    alone = train_classifier(DIGITS.subset(np.flatnonzero(np.arange(1500) % 3)), 16, 5, seed=3)
    assert torch.equal(weights(found.network), weights(alone))
    x = DIGITS.images[:9]
    np.testing.assert_array_equal(found.embed["classifier"](x), extract(alone[:-1], x))


def test_the_pixel_space_is_the_principal_components_of_the_measured_images():
    measured, x = DIGITS.subset(np.arange(200)), DIGITS.images[200:220]
    embed = spaces(measured, DIGITS, width=5, steps=1).embed["pixels"]
    flat = pixels(measured.images).astype(np.float64)
    _, _, axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    expected = (pixels(x) - flat.mean(axis=0)) @ axes[:5].T
    # the variances along neighboring axes differ by a sixth and more: rounding turns them by about 1e-5
    np.testing.assert_allclose(np.abs(embed(x)), np.abs(expected), atol=1e-3)


def test_a_measured_set_that_leaves_nothing_trains_the_classifier_itself():
    found = spaces(PATCHES, PATCHES, width=4, steps=1)
    assert not found.apart and found.others is PATCHES
    assert found.embed["classifier"](PATCHES.images[:3]).shape == (3, 4)  # of color images


# Inception


class Stand(nn.Module):
    """A small network in the place of Inception-v3: the image's corners as features."""

    def __init__(self, **options):
        super().__init__()
        assert options == {"weights": "IMAGENET1K_V1", "transform_input": False}
        self.fc = nn.Linear(1, 1)

    def forward(self, x):
        assert x.shape[1:] == (3, 299, 299)
        return self.fc(torch.cat([x[:, :, 0, 0], x[:, :, -1, -1]], dim=1))


def test_inception_sees_299_pixels_from_minus_1_to_1_before_its_last_layer(monkeypatch):
    monkeypatch.setattr(torchvision.models, "inception_v3", Stand)
    module = inception()
    assert not module.training
    color, gray = np.zeros((1, 3, 32, 32), np.uint8), np.full((1, 1, 40, 40), 255, np.uint8)
    color[:, 1, -16:] = 255
    np.testing.assert_allclose(extract(module, color), [[-1, -1, -1, -1, 1, -1]], atol=1e-5)
    np.testing.assert_allclose(extract(module, gray), [[1] * 6], atol=1e-5)


def test_weights_that_are_not_the_published_ones_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "hub" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    torch.save(nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(ValueError, match=f"{path} is damaged or another file; delete it"):
        inception()


@pytest.mark.slow
def test_inception_gives_2048_features(monkeypatch):
    network = torchvision.models.inception_v3(weights=None, init_weights=False)
    monkeypatch.setattr(torchvision.models, "inception_v3", lambda **options: network)
    got = extract(inception(), PATCHES.images[:2])
    assert got.shape == (2, 2048) and np.isfinite(got).all() and (got[0] != got[1]).any()


# Inception by the weights of published FIDs, of which random ones take the place here


class Unfilled(fidelity.FeatureExtractorInceptionV3):
    """The published network with random weights."""

    def load_state_dict(self, state):
        pass


def published(monkeypatch, path, content):
    """A file in the place of the published one, whose hash the name at the source has."""
    torch.save(content, path)
    source = f"https://example.org/weights-{fingerprint(path, 'sha256')[:8]}.pth"
    monkeypatch.setattr(fidelity, "URL_INCEPTION_V3", source)
    return path


@pytest.fixture(scope="module")
def state():
    nothing = BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Unfilled("inception", ["2048"], nothing).state_dict()


def test_features_are_those_of_the_published_network_and_the_file_decides(monkeypatch, tmp_path, state):
    """Seen through its first layer: gray images as three equal channels, resized as TensorFlow 1 does."""
    images = PATCHES.images[:2, :1, :, 4:28]
    before, seen = torch.get_rng_state(), []
    module = inception(published(monkeypatch, tmp_path / "any.pth", state))
    assert torch.equal(torch.get_rng_state(), before)
    first = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    features = extract(module, images)
    assert features.shape == (2, 2048) and np.isfinite(features).all() and (features[0] != features[1]).any()
    assert not any(part.training for part in module.modules())
    # output pixel i is at 32 / 299 i or 24 / 299 i, between its neighbors, with the last one beyond the edge
    rows, columns = (np.arange(299) * size / 299 for size in (32, 24))
    levels = np.array([[np.interp(columns, np.arange(24), row) for row in x] for x in images[:, 0]])
    expected = np.array([[np.interp(rows, np.arange(32), column) for column in x.T] for x in levels])
    [inputs] = seen
    assert inputs.shape == (2, 3, 299, 299)
    for channel in range(3):
        right = expected.transpose(0, 2, 1) / 128 - 1
        np.testing.assert_allclose(inputs[:, channel], right, atol=1e-5)

    layer = "Mixed_7c.branch1x1.conv.weight"
    other = inception(published(monkeypatch, tmp_path / "other.pth", state | {layer: 2 * state[layer]}))
    different = extract(other, images) != features
    assert different[:, :320].any() and not different[:, 320:].any()  # the branch has the first ones


def test_published_weights_that_are_not_there_or_others_are_refused(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    source = "allowed: a copy of https://github.com/toshas/torch-fidelity/.*/weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(ValueError, match=f"weights is {path}, where there is no file; {source}"):
        inception(path)
    torch.save({}, path)
    with pytest.raises(ValueError, match=f"{path} is damaged or another file; {source}"):
        inception(str(path))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match=r"need torch-fidelity: pip install 'memlib\[fid\]'"):
        inception(path)


def test_code_in_a_file_of_weights_does_not_run(monkeypatch, tmp_path):
    """Even where its hash begins as it should."""
    path, ran = tmp_path / "weights.pth", tmp_path / "ran"
    with pytest.raises(pickle.UnpicklingError):
        inception(published(monkeypatch, path, Code(ran)))
    assert not ran.exists()


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
