"""Features of images, the space in which MiFID and others measure: of any module, or of one trained here."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from memlib.checks import as_array, check_range
from memlib.data import ImageSet
from memlib.datasets import fingerprint
from memlib.device import evaluating, one_thread, own_settings
from memlib.models import initialize_

WIDTH = 16  # channels of the classifier's first convolution


@own_settings()
@torch.no_grad()
def extract(module: nn.Module, images: NDArray[np.uint8], batch_size: int = 256) -> NDArray[np.float32]:
    """Features that a module gives images, with the module in evaluation mode on its own device.

    Args:
        module: takes (B, C, H, W), values in [0, 1], of the floating-point type of its first parameter or
            buffer that has one, else float32; returns numbers (B, ...), which are flattened.
        images: uint8 (n, C, H, W).
        batch_size: at least 1.

    Returns:
        float32 (n, d).

    Raises:
        ValueError: images or batch size not as above, or a module that returns something else.
    """
    images = as_array("images", images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        given = f"{images.dtype} {images.shape}"
        raise ValueError(f"images are {given}; allowed: uint8 (n, C, H, W), n at least 1")
    check_range(1, batch_size=batch_size)
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}; allowed: a torch.nn.Module")
    own = [*module.parameters(), *module.buffers()]
    device = next((t.device for t in own), torch.device("cpu"))
    if device.type == "meta":
        raise ValueError("the module is on 'meta', without values; allowed: a device that computes")
    dtype = next((t.dtype for t in own if t.is_floating_point()), torch.float32)
    blocks = []
    with evaluating(module):
        for batch in torch.tensor(images).split(batch_size):
            out = module(x := (batch.to(device).float() / 255).to(dtype))
            if not isinstance(out, Tensor) or out.ndim < 2 or len(out) != len(x) or out.is_complex():
                got = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(f"the module returns {got} for {len(x)} images; allowed: numbers (B, ...)")
            blocks.append(out.flatten(1).float().cpu().numpy())
    return np.concatenate(blocks)


def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gray or color levels in [0, 1], float32 (n, C * H * W).

    >>> pixels(np.full((1, 1, 1, 2), 255, dtype=np.uint8))
    array([[1., 1.]], dtype=float32)
    """
    return extract(nn.Identity(), images)


@own_settings()
def train_classifier(images: ImageSet, features: int = 32, steps: int = 1000, seed: int = 0) -> nn.Sequential:
    """Train a small convolutional network to tell the labels apart; all but its last layer gives features.

    Two convolutions with pooling, a layer of `features` rectified units, and a linear one; Adam, 64 images a
    step, on one core. Features of images it was trained on differ from those of other images, so train it on
    images that are not measured.

    Args:
        images: of at least two labels, 4 x 4 pixels or more.
        features: units of the layer before the last, at least 1.
        steps: of Adam, at least 1.
        seed: 0 or more.

    Returns:
        The network in evaluation mode; `[:-1]` of it gives features, all of it logits.

    Raises:
        ValueError: one label only, smaller images, or a number below what is allowed.

    >>> from memlib.datasets import load_images
    >>> network = train_classifier(load_images("digits"), steps=1)
    >>> extract(network[:-1], load_images("digits", "test").images).shape
    (297, 32)
    """
    check_range(1, features=features, steps=steps)
    check_range(0, seed=seed)
    height, width = images.images.shape[2:]
    if min(height, width) < 4:
        raise ValueError(f"images are {height} x {width} pixels; allowed: 4 x 4 or more, to pool them twice")
    if len(np.unique(images.labels)) < 2:
        raise ValueError(f"{images!r} has one label; allowed: images of two or more to tell apart")
    with torch.device("meta"):  # layers draw from the global generator when they are made with values
        network = nn.Sequential(
            *(nn.Conv2d(images.channels, WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(2 * WIDTH * (height // 4) * (width // 4), features), nn.ReLU()),
            nn.Linear(features, len(images.classes)),
        )
    streams = np.random.SeedSequence(seed).spawn(2)
    start = int(np.random.default_rng(streams[0]).integers(2**63))
    initialize_(network.to_empty(device="cpu"), torch.Generator().manual_seed(start))
    rng = np.random.default_rng(streams[1])
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    with one_thread():  # small products: more threads only wait for each other
        for _ in range(steps):
            batch = rng.integers(len(images), size=64)
            x = torch.tensor(images.images[batch]).float() / 255
            loss = F.cross_entropy(network(x), torch.tensor(images.labels[batch]))
            adam.zero_grad()
            loss.backward()
            adam.step()
    return network.eval()


def accuracy(network: nn.Module, images: ImageSet) -> float:
    """Share of the images whose label has the largest logit."""
    return float((extract(network, images.images).argmax(axis=1) == images.labels).mean())


class Spaces(NamedTuple):
    """What `spaces` gives; `embed` has functions from uint8 (n, C, H, W) to features (n, width)."""

    embed: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]  # "classifier" and "pixels"
    network: nn.Sequential  # the classifier, all of it, which gives logits
    others: ImageSet  # the images that the classifier was trained on
    apart: bool  # whether none of these are among the measured ones


def spaces(
    measured: ImageSet, everything: ImageSet, width: int = 32, steps: int = 1000, seed: int = 0
) -> Spaces:
    """Two spaces in which to measure distances to images: a classifier's features, and principal components.

    The classifier is trained on the images of the data set that are not measured, or on the measured ones
    where they are the whole set. The principal components are those of the measured images' pixels.

    Args:
        measured: the images to which distances are taken.
        everything: the data set that they are from, of the same shape, told apart by their `index`.
        width: features of either space, at least 1, at most the measured images and their pixels.
        steps, seed: as for `train_classifier`.

    Raises:
        ValueError: another width, images of different shapes, or what `train_classifier` refuses.

    >>> from memlib.datasets import load_images
    >>> digits = load_images("digits")
    >>> found = spaces(digits.subset(np.arange(100)), digits, width=8, steps=1)
    >>> [embed(digits.images[:5]).shape for embed in found.embed.values()], len(found.others)
    ([(5, 8), (5, 8)], 1400)
    """
    most = min(len(measured), measured.images[0].size)
    if not 1 <= width <= most:
        raise ValueError(f"width is {width}; allowed: 1 to {most}, the measured images or their pixels")
    shape, other = measured.images.shape[1:], everything.images.shape[1:]
    if shape != other:
        raise ValueError(f"measured images are {shape}, the others {other}; allowed: the same shape")
    left = np.flatnonzero(~np.isin(everything.index, measured.index))
    others = everything.subset(left) if len(left) else measured
    network = train_classifier(others, width, steps, seed)
    pca = PCA(width, random_state=seed).fit(pixels(measured.images))
    embed = {
        "classifier": lambda images: extract(network[:-1], images),
        "pixels": lambda images: pca.transform(pixels(images)),
    }
    return Spaces(embed, network, others, bool(len(left)))


@own_settings()
def inception(weights: str | Path | None = None) -> nn.Module:
    """Inception-v3's 2048 pool_3 features, by torchvision's weights or by those of published FIDs.

    `mifid.EPS` was chosen for features of this kind.

    Args:
        weights: None for torchvision's ImageNet weights, which it downloads once. They are not the weights,
            nor is it the resizing, of the code that published FIDs come from: compare what they give with
            itself only. Or the file of these weights, which is not downloaded: FIDs of its features compare
            with published ones. Images then are resized as torch-fidelity does, like TensorFlow 1.

    Returns:
        A module for `extract`, for images of any size; gray ones are given three equal channels.

    Raises:
        ValueError: the file of the weights is not there, damaged, or another one.
        ModuleNotFoundError: a file is given, and torch-fidelity is not installed.

    Source: Szegedy et al. (2016); Heusel et al. (2017) for the weights, torch-fidelity for their module.
    """
    from torchvision.transforms import v2

    if weights is not None:
        return nn.Sequential(v2.RGB(), _OfLevels(_published(Path(weights)))).eval()
    from torchvision import models

    path = Path(torch.hub.get_dir(), "checkpoints", Path(models.Inception_V3_Weights.IMAGENET1K_V1.url).name)
    if path.exists() and not _as_named(path, path.name):  # torchvision checks it when it downloads alone
        raise ValueError(f"{path} is damaged or another file; delete it, and it is downloaded again")
    network = models.inception_v3(weights="IMAGENET1K_V1", transform_input=False)
    network.fc = nn.Identity()
    center = v2.Normalize([0.5] * 3, [0.5] * 3)  # 0..1 to -1..1
    return nn.Sequential(v2.RGB(), v2.Resize((299, 299)), center, network).eval()


class _OfLevels(nn.Module):
    """A feature extractor of torch-fidelity, of levels 0 to 255, as a module of levels in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        [features] = self.network((255 * x).round().byte())
        return features


def _published(path: Path) -> nn.Module:
    """The network of published FIDs, with the weights of a file that is nothing but these."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ModuleNotFoundError as error:
        message = "the weights of published FIDs need torch-fidelity: pip install 'memlib[fid]'"
        raise ModuleNotFoundError(message) from error
    source = fidelity.URL_INCEPTION_V3
    if not path.is_file():
        raise ValueError(f"weights is {path}, where there is no file; allowed: a copy of {source}")
    if not _as_named(path, source):
        raise ValueError(f"{path} is damaged or another file; allowed: a copy of {source}")
    # torch-fidelity would run whatever code is pickled in the file, so it gets only the arrays of it
    copy = BytesIO()
    torch.save(torch.load(path, map_location="cpu", weights_only=True), copy)
    copy.seek(0)
    with torch.random.fork_rng(devices=[]):  # its layers draw values first
        return fidelity.FeatureExtractorInceptionV3("inception", ["2048"], copy)


def _as_named(path: Path, name: str) -> bool:
    """Whether the hash of a file begins with the digits that the name ends with, as PyTorch's hub has it."""
    return fingerprint(path, "sha256").startswith(Path(name).stem.rpartition("-")[2])
