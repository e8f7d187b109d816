"""Experiments: everything that determines a result, and the registry of the paper's and the embedded ones."""

import dataclasses
import functools
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from memlib.checks import check_known, check_one_of, check_range, check_share
from memlib.data import ImageSet
from memlib.datasets import DATASETS, data_root, load_images

if TYPE_CHECKING:  # PyTorch takes seconds to import, which who lists experiments need not wait for
    import torch

    from memlib.models import VAE

Architecture = Literal["mlp", "conv"]
LikelihoodName = Literal["bernoulli", "gaussian", "gaussian-scalar"]
Precision = Literal["float32", "tf32", "bfloat16"]
ProposalName = Literal["fitted", "encoder"]
Noise = Literal["paired", "paper"]


class Stream(IntEnum):
    """Purposes of random streams; each repeat has a generator of its own for each."""

    SUBSET = 0
    FOLDS = 1
    PARAMETERS = 2
    ORDER = 3
    TRAINING_NOISE = 4
    SCORING_NOISE = 5
    SAMPLES = 6
    VERSIONS = 7  # of an image, in the place of a repeat


def _option(default: Any, help: str, least: int = 1) -> Any:
    """A field with its help, and of a whole number the least that is allowed."""
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A specification: two runs of equal specifications give equal results.

    Every field is validated; `dataclasses.replace` and `variant` make variants. `repeats` is the one field
    that does not enter a repeat's result, so that more repeats can be added to those that are stored.

    Raises:
        ValueError: an unknown field, or one outside its allowed values, named with what is allowed.
    """

    images: str = _option("digits", f"data set: {', '.join(DATASETS)} or folder:PATH")
    num_images: int = _option(0, "training images used, a random subset; 0 means all", least=0)
    architecture: Architecture = _option("mlp", "mlp or conv (Table 1 of the paper)")
    likelihood: LikelihoodName = _option("bernoulli", "bernoulli, gaussian or gaussian-scalar")
    latent_dim: int = _option(16, "size of the latent space, Z")
    width: int = _option(32, "feature multiplier of conv, F")
    flip: bool = _option(False, "mirror training images at random")
    learning_rate: float = _option(1e-3, "Adam's learning rate")
    batch_size: int = _option(64, "images per step and model, B")
    epochs: int = _option(100, "passes over the training images")
    score_every: int = _option(20, "epochs between evaluations of log p(x); the last epoch always has one")
    precision: Precision = _option("float32", "of products in training: float32, bfloat16, on a GPU tf32")
    num_samples: int = _option(128, "importance samples per image and model, S; fitted starts with them")
    proposal: ProposalName = _option(
        "fitted", "of importance samples: fitted to every image and model, or encoder, the paper's"
    )
    versions: int = _option(1, "binarizations or dequantizations in which an image is scored, R")
    noise: Noise = _option(
        "paired", "of images in scoring: paired, the same versions for all models, or paper, each its own"
    )
    scoring_precision: Precision = _option("float32", "of products in scoring, allowed as precision is")
    folds: int = _option(5, "folds and models per repeat, K", least=2)
    repeats: int = _option(4, "repeats with new folds, L")
    seed: int = _option(0, "seed of all random streams", least=0)

    def __new__(cls, *args: Any, **given: Any) -> Self:
        # before __init__, which would refuse an unknown field without a hint at the nearest
        for name in given:
            check_known("field", name, [f.name for f in dataclasses.fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, value := float(value))
            if type(value) is not kind:
                raise ValueError(f"{f.name} is {value!r} ({type(value).__name__}); allowed: {kind.__name__}")
            if choices := get_args(f.type):
                check_one_of(choices, **{f.name: value})
            elif kind is int:
                check_range(f.metadata["least"], **{f.name: value})
        check_share(learning_rate=self.learning_rate)
        if 0 < self.num_images < self.folds:
            raise ValueError(f"num_images is {self.num_images}; allowed: 0, or at least folds = {self.folds}")

    @property
    def evaluated_epochs(self) -> list[int]:
        """Multiples of `score_every`, and the last epoch."""
        return sorted({*range(self.score_every, self.epochs + 1, self.score_every), self.epochs})

    def stream(
        self, purpose: Stream, repeat: int | None = None, epoch: int | None = None
    ) -> np.random.Generator:
        """The random stream of a purpose in a repeat (None: of the model of all images), or at an epoch."""
        key = (int(purpose), 0 if repeat is None else repeat + 1, *([] if epoch is None else [epoch]))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def torch_stream(
        self,
        purpose: Stream,
        repeat: int | None = None,
        device: "torch.device | str" = "cpu",
        epoch: int | None = None,
    ) -> "torch.Generator":
        """The same as a PyTorch generator on a device."""
        import torch

        seed = int(self.stream(purpose, repeat, epoch).integers(2**63))
        return torch.Generator(device).manual_seed(seed)

    def load_images(self) -> ImageSet:
        """The training images: all of the data set, or the subset that `num_images` and `seed` determine."""
        images = _load(self.images, "train")
        n = len(images)
        if max(self.num_images, self.folds) > n:
            raise ValueError(
                f"num_images is {self.num_images} and folds is {self.folds}; "
                f"{self.images} has {n} training images, the most allowed for both"
            )
        if self.num_images in (0, n):
            return images
        return images.subset(np.sort(self.stream(Stream.SUBSET).permutation(n)[: self.num_images]))

    def load_validation(self) -> ImageSet:
        """Images that no model trains on: CelebA's validation set, otherwise the test set."""
        return _load(self.images, "valid" if self.images == "celeba" else "test")

    def build(self, channels: int, generator: "torch.Generator | None" = None) -> "VAE":
        """One model; without a generator a template without values."""
        from memlib.models import build_vae

        sizes = {"channels": channels, "latent_dim": self.latent_dim, "width": self.width}
        return build_vae(self.architecture, self.likelihood, **sizes, generator=generator)


# image sets are read-only, so callers may share them
_load_once = functools.lru_cache(maxsize=4)(load_images)


def _load(name: str, split: str) -> ImageSet:
    # A folder's images may be rewritten while this process lives, those of the fixed names may not.
    return _load_once(name, split, data_root()) if name in DATASETS else load_images(name, split)


# The paper's, but for the proposal and paired noise: proposal="encoder", noise="paper" are its own.
_MNIST = Experiment(images="mnist", epochs=100, score_every=5, num_samples=256, folds=10, repeats=10)
_COLOR = dataclasses.replace(_MNIST, architecture="conv", num_samples=128, flip=True)
_CIFAR10 = dataclasses.replace(_COLOR, images="cifar10", likelihood="gaussian", latent_dim=64, score_every=50)
_CELEBA = dataclasses.replace(
    _COLOR, images="celeba", likelihood="gaussian-scalar", latent_dim=32, epochs=50, score_every=25
)

EXPERIMENTS: dict[str, Experiment] = {
    "mnist-lr3": _MNIST,
    "mnist-lr4": dataclasses.replace(_MNIST, learning_rate=1e-4),
    "cifar10": _CIFAR10,
    "cifar10-partial": dataclasses.replace(_CIFAR10, images="cifar10-partial"),
    "celeba": _CELEBA,
    "cifar10-as-celeba": dataclasses.replace(_CELEBA, images="cifar10-partial"),
    "digits-lr3": Experiment(),
    "digits-lr4": Experiment(learning_rate=1e-4),
    "patches": Experiment(
        images="patches", architecture="conv", likelihood="gaussian", latent_dim=32, width=16
    ),
}


def variant(name: str, **changes: Any) -> Experiment:
    """The experiment of that name in `EXPERIMENTS` with some fields changed; None leaves a field as it is.

    Raises:
        ValueError: an unknown name or field (the nearest valid one is named), or a value that is not allowed.
    """
    check_known("experiment", name, list(EXPERIMENTS))
    own = EXPERIMENTS[name]
    changes = {f: getattr(own, f, None) if value is None else value for f, value in changes.items()}
    return dataclasses.replace(own, **changes)
