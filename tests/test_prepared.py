"""Whether a decoder can give the prepared images, and with what density, by hand."""

import math

import numpy as np
import pytest
import torch
from test_supports import IMAGES, LEVELS, full
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Exponential,
    Gamma,
    Geometric,
    HalfNormal,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from memlib.data import ImageSet
from memlib.runs.latent_model import LatentModel

BLACK_AND_WHITE = ImageSet.of(np.array([[[[0, 255], [255, 0]]]], np.uint8).repeat(2, 0))


def over(kind, *shape, **parameters):
    """A decoder of images (1, 2, 2), the same whatever the latent."""

    def p(z):
        own = {name: torch.as_tensor(v).expand(len(z), 1, 2, 2, *shape) for name, v in parameters.items()}
        return kind(**own, validate_args=over.validate)

    return p


def estimated(p, images=BLACK_AND_WHITE, prepare=None):
    model = LatentModel(
        lambda x: Normal(torch.zeros(len(x), 1), 1.0), p, 3, None, prepare=prepare, proposal="encoder"
    )
    return model.log_prob(images)


GRAY = ImageSet.of(np.array([[[[0, 51], [102, 255]]]], np.uint8).repeat(2, 0))
COUNTS = {
    "categorical": over(Categorical, 256, logits=torch.zeros(256)),
    "binomial": over(Binomial, total_count=255.0, probs=0.5),
    "poisson": over(Poisson, rate=9.0),
    "geometric": over(Geometric, probs=0.5),
    "negative binomial": over(NegativeBinomial, total_count=9.0, probs=0.5),
}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("images", [GRAY, BLACK_AND_WHITE])
@pytest.mark.parametrize("name", COUNTS)
def test_counts_ask_for_levels_also_where_the_images_are_black_and_white(name, images, validate):
    over.validate = validate
    with pytest.raises(ValueError, match=r"is of whole numbers, .* by default prepare gives levels / 255"):
        estimated(COUNTS[name], images)
    if images is GRAY:
        with pytest.raises(ValueError, match=r"prepare gives images from 0 to 1, .*levels: levels.float\(\)"):
            estimated(COUNTS[name], images, lambda levels: levels.float() / 255)
    assert np.isfinite(estimated(COUNTS[name], images, lambda levels: levels.float())).all()


def test_levels_have_the_probability_of_their_category_and_count():
    over.validate = True
    levels = GRAY.images[0].ravel().tolist()
    logits = torch.linspace(-1, 1, 256)
    found = estimated(over(Categorical, 256, logits=logits), GRAY, lambda levels: levels.float())
    right = sum(float(logits[v]) for v in levels) - 4 * float(logits.double().logsumexp(0))
    np.testing.assert_allclose(found, right, rtol=1e-6)
    found = estimated(COUNTS["poisson"], GRAY, lambda levels: levels.float())
    np.testing.assert_allclose(
        found, sum(v * math.log(9) - 9 - math.lgamma(v + 1) for v in levels), rtol=1e-6
    )


OUTSIDE = {
    "bernoulli": (over(Bernoulli, probs=0.3), GRAY, "levels > 127"),
    "categories of 2": (over(Categorical, 2, logits=torch.zeros(2)), GRAY, "levels.float"),
    "log normal": (over(LogNormal, loc=0.0, scale=1.0), GRAY, r"\+ 0.5"),
    "gamma": (over(Gamma, concentration=2.0, rate=1.0), GRAY, r"\+ 0.5"),
    "uniform": (over(Uniform, low=0.0, high=0.9), GRAY, r"\+ 0.5"),
    "beta": (over(Beta, concentration1=2.0, concentration0=3.0), GRAY, r"an end of the support .*\+ 0.5"),
    "beta without bounds": (
        over(Beta, concentration1=0.5, concentration0=0.5),
        GRAY,
        "an end of the support",
    ),
    "logit normal": (
        lambda z: TransformedDistribution(
            Normal(torch.zeros(len(z), 1, 2, 2), 1.0), SigmoidTransform(), validate_args=over.validate
        ),
        GRAY,
        "an end of the support",
    ),
}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", OUTSIDE)
def test_images_outside_of_the_support_are_refused_whatever_is_validated(name, validate):
    over.validate = validate
    p, images, message = OUTSIDE[name]
    with pytest.raises(ValueError, match=f"prepare gives images .*{message}"):
        estimated(p, images)


@pytest.mark.parametrize("validate", [True, False])
def test_images_inside_of_the_support_have_their_density(validate):
    over.validate = validate
    v = GRAY.images[0].ravel() / 255
    for p, images, right in (
        (over(Bernoulli, probs=0.3), BLACK_AND_WHITE, 2 * math.log(0.3 * 0.7)),
        (over(Beta, concentration1=1.0, concentration0=1.0), GRAY, 0.0),
        (over(Exponential, rate=2.0), GRAY, 4 * math.log(2) - 2 * v.sum()),
        (over(HalfNormal, scale=1.0), GRAY, 2 * math.log(2 / math.pi) - (v**2).sum() / 2),
        # density C t^x (1 - t)^(1 - x) with C = 2 atanh(1 - 2 t) / (1 - 2 t)
        (
            over(ContinuousBernoulli, probs=0.2),
            GRAY,
            4 * math.log(2 * math.atanh(0.6) / 0.6) + v.sum() * math.log(0.2) + (4 - v.sum()) * math.log(0.8),
        ),
    ):
        np.testing.assert_allclose(estimated(p, images), right, rtol=1e-5, atol=1e-6)


def test_a_support_that_depends_on_the_latent_has_density_zero_outside():
    """x uniform within 1 of a normal z: p(x) = (F(x + 1) - F(x - 1)) / 2."""

    def p(z, validate=False):
        at = z.reshape(-1, 1, 1, 1)
        return Uniform(at - 1, at + 1, validate_args=validate)

    model = LatentModel(
        lambda x: Normal(*full(len(x), 0, 1)), p, 40_000, proposal="encoder", batch_size=40_000
    )
    x = torch.tensor(LEVELS.ravel() / 255)
    F = torch.special.ndtr
    np.testing.assert_allclose(model.log_prob(IMAGES), ((F(x + 1) - F(x - 1)) / 2).log(), atol=0.03)
    with pytest.raises(ValueError, match="or validate_args=False, if these have probability 0"):
        LatentModel(model.encoder, lambda z: p(z, True), 9, proposal="encoder").log_prob(IMAGES)
