"""Bad models of one's own, what they return, and bad calls about them, each with a piece of its error."""

import contextlib
import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from refusals import NAMES, Case, TrainingReached
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, LogNormal, Normal

import memlib
from memlib.data import ImageSet


class _Returns:
    """A model that says what it is told."""

    def __init__(self, values: object):
        self.values = values

    def log_prob(self, images: ImageSet) -> object:
        return self.values


def returns(values: object) -> Callable[[ImageSet, int], _Returns]:
    """A function that "trains" models which return these values."""
    return lambda images, seed: _Returns(values)


def train(images: ImageSet, seed: int) -> None:
    raise TrainingReached(f"training on {images!r}")


def encode(x: Tensor) -> Distribution:
    return Normal(x.flatten(1)[:, :2], 1.0)  # (B, 1, 32, 32) -> (B, 2)


def decode(z: Tensor) -> Distribution:
    return Bernoulli(logits=torch.zeros(len(z), 1, 32, 32))


_NAMES = {
    "returns": returns,
    "train": train,
    "FOLDER": "FOLDER",
    "encode": encode,
    "decode": decode,
    "partial": functools.partial,
    "Normal": Normal,
    "LogNormal": LogNormal,
    "torch": torch,
}


def model(text: str, message: str) -> Case:
    """An expression of these functions and of `NAMES`."""

    def give(folder: Path) -> object:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            return eval(text, NAMES | _NAMES)

    return Case(f"`{text}`", give, message)


def again(given: str, message: str, **options: object) -> Case:
    """A folder with results, where the options were not given."""

    def give(folder: Path) -> object:
        few = {
            "images": NAMES["digits"],
            "folds": 2,
            "repeats": 1,
            "folder": folder / "FOLDER",
            "progress": False,
            "settings": {"rate": 0.1},
        }
        memlib.cross_fit(returns(np.zeros(297)), **few)
        return memlib.cross_fit(train, **(few | options))

    return Case(given, give, message)


_CROSS_FIT = "`memlib.cross_fit(train, digits, folder=FOLDER)`"
MODELS = [
    model(
        "memlib.cross_fit(train, digits.images)", "images is a ndarray; allowed: an ImageSet, as load_images"
    ),
    model(
        "memlib.cross_fit(train, digits, folds=298)", "folds is 298; allowed: at most the number of images"
    ),
    model('memlib.cross_fit(train, digits, settings={"sizes": {32}})', "allowed: JSON values by name"),
    model('memlib.cross_fit(train, digits, settings={1: "a"})', "has the key 1; allowed: strings as keys"),
    model(
        "memlib.cross_fit(train, digits, folder=FOLDER)",
        "settings is None; allowed with a folder: JSON values by name that tell this way of training from",
    ),
    model(
        "memlib.cross_fit(lambda images, seed: None, digits)", "repeat 0, fold 0 is a NoneType; allowed: an"
    ),
    model(
        "memlib.cross_fit(returns(np.zeros((297, 1))), digits)", "returned float64 (297, 1); allowed: numbers"
    ),
    model("memlib.cross_fit(returns(np.zeros(297, bool)), digits)", "returned bool (297,); allowed: numbers"),
    model(
        "memlib.cross_fit(returns(np.zeros(297, np.float16)), digits)",
        "returned float16; allowed: floating point of 32 bits or more",
    ),
    model(
        "memlib.cross_fit(returns(torch.zeros(297, dtype=torch.bfloat16)), digits)",
        "returned torch.bfloat16; allowed: floating point of 32 bits or more",
    ),
    model("memlib.cross_fit(returns(digits.labels * np.nan), digits)", "NaN or +inf for 297 of 297 images ("),
    again(f"{_CROSS_FIT} with another seed", "seed is 0 there and 1 in the request", seed=1),
    again(
        f"{_CROSS_FIT} with other settings",
        "settings.rate is '0.1' there and '0.5' in the request",
        settings={"rate": 0.5},
    ),
    model("memlib.score_models(train, fold_of, digits)", "fold_of is of 40 images; allowed: the 297 given"),
    model("memlib.score_models(train, fold_of / 2, digits)", "fold_of is float64 (3, 40); allowed: integers"),
    model(
        "memlib.score_models(train, fold_of - 1, digits.subset(range(40)))",
        "fold_of of repeat 0 has not all folds 0..2, or others; allowed: these",
    ),
    model(
        "memlib.score_models(train, np.stack([fold_of[0], fold_of[1] % 2]), digits.subset(range(40)))",
        "fold_of of repeat 1 has not all folds 0..3, or others; allowed: these",
    ),
    model(
        "memlib.score_models([[train] * 3] * 3, fold_of, digits.subset(range(40)))",
        "models are [3, 3, 3] by repeat; allowed: [4, 4, 4], as fold_of has folds",
    ),
    model(
        "memlib.score_models([None] * 3, fold_of, digits.subset(range(40)))",
        "models are ['NoneType', 'NoneType', 'NoneType'] by repeat; allowed: [4, 4, 4], as fold_of has folds",
    ),
    model(
        "memlib.LatentModel(encode, decode, num_samples=0)", "num_samples is 0; allowed: a whole number, 1 or"
    ),
    model(
        "memlib.LatentModel(torch.relu, decode).log_prob(digits)",
        "the encoder returned a Tensor; allowed: a ",
    ),
    model(
        "memlib.LatentModel(encode, encode).log_prob(digits)",
        "the decoder's distribution is over the shape (2,), and prepare gives images of the shape (1, 32",
    ),
    model(
        "memlib.LatentModel(encode, decode, prior=Normal(0, 1)).log_prob(digits)",
        "prior is over the shape (), and the encoder's latents have the shape (2,); allowed: the same",
    ),
    model(
        "memlib.LatentModel(lambda x: LogNormal(torch.zeros(len(x), 2), 1), decode).log_prob(digits)",
        "proposal is 'fitted', and the encoder's latents have the support GreaterThan(lower_bound=0.0); allo",
    ),
    model(
        "memlib.LatentModel(lambda x: Normal(torch.zeros(2), 1), decode).log_prob(digits)",
        "the encoder returned a Normal with batch shape (2,) and event shape () for 297 inputs; allowed: a b",
    ),
    model(
        "memlib.LatentModel(lambda x: Normal(encode(x).mean.half(), 1), decode).log_prob(digits)",
        "log_prob of the encoder returned torch.float16; allowed: floating point of 32 bits or more",
    ),
    model(
        "memlib.LatentModel(decode, decode, prior=Normal(torch.zeros(1, 32, 32), 1)).log_prob(digits)",
        "proposal is 'fitted', and the encoder's latents have the support Boolean(); allowed: proposal=",
    ),
    model(
        'memlib.models.build_vae("mlp", "bernoulli", channels=1, latent_dim=2).encoder(torch.ones(9, 2304))',
        "images have 2304 values; allowed: 1024, as the models are of 1 x 32 x 32",
    ),
    model("memlib.cross_fit(None, digits)", "train is a NoneType; allowed: a function of images and a seed"),
    model("memlib.score_models(3, fold_of, digits.subset(range(40)))", "models is a int; allowed: 3 lists"),
    model("memlib.LatentModel(encode, None)", "decoder is a NoneType; allowed: a module or a function"),
    model("memlib.LatentModel(encode, decode, prior=0)", "prior is a int; allowed: None, or a torch.distri"),
    model("memlib.LatentModel(encode, decode, prepare=len).log_prob(digits)", "prepare returned a int of"),
    model(
        'memlib.LatentModel(torch.nn.Linear(2, 2, device="meta"), decode).log_prob(digits)',
        "the model's parameters are on 'meta'; allowed: a CPU or CUDA device",
    ),
]
