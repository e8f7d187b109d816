"""What a model's distributions have to be so that log p(x) is right: their shapes, and where they are."""

import math

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    VonMises,
    constraints,
)
from torch.distributions.constraints import Constraint

_REAL = type(constraints.real)
PRIOR_SAMPLES = 64  # at least, of which an encoder's support must hold all
MOST = 2**20  # numbers of these held at once, where more than the least are drawn


def one_each(name: str, distribution: Distribution, count: int) -> Independent:
    """A distribution with the batch shape (count,) and everything behind it as event."""
    if not isinstance(distribution, Distribution):
        kind = type(distribution).__name__
        raise ValueError(f"the {name} returned a {kind}; allowed: a torch.distributions.Distribution")
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    if not batch or batch[0] != count:
        raise ValueError(
            f"the {name} returned a {type(distribution).__name__} with batch shape {batch} and event shape "
            f"{event} for {count} inputs; allowed: a batch shape that begins with {count}"
        )
    return Independent(distribution, len(batch) - 1)


def moments(q: Independent) -> tuple[Tensor, Tensor]:
    """Mean and variance of latents, each (B, ...)."""
    support, other = support_of(q), 'allowed: proposal="encoder", or latents'
    if not isinstance(support, _REAL):
        raise ValueError(
            f"proposal is 'fitted', and the encoder's latents have the support {told(support)}; {other} with "
            "the support Real()"
        )
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError as error:
        raise ValueError(
            f"proposal is 'fitted', and the encoder's {q.base_dist} knows no mean or variance; {other} of a "
            "distribution that does"
        ) from error
    nats("encoder", q, mean)  # refuses densities in 16-bit floating point
    return mean, variance


def nats(name: str, distribution: Independent, values: Tensor) -> Tensor:
    """Log-densities as float64, of the shape of `values` without that of an event."""
    return _summed(distribution, _terms(name, distribution, values))


def _terms(name: str, distribution: Independent, values: Tensor) -> Tensor:
    """Log-densities of all events of the distribution as it was given, which are independent."""
    own = distribution.base_dist
    log_p = own.log_prob(values)
    expected = values.shape[: values.ndim - len(own.event_shape)]
    if not isinstance(log_p, Tensor) or log_p.shape != expected:
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else f"a {type(log_p).__name__}"
        raise ValueError(
            f"log_prob of the {name}'s {kind_of(own)} returned {got} for values {tuple(values.shape)}; "
            f"allowed: {tuple(expected)}, as its batch shape is {tuple(own.batch_shape)} and its event shape "
            f"{tuple(own.event_shape)}. What sums over dimensions must have them as event: do not sum, or "
            "use Independent"
        )
    if not log_p.is_floating_point() or log_p.dtype.itemsize < 4:
        raise ValueError(
            f"log_prob of the {name} returned {log_p.dtype}; allowed: floating point of 32 bits or more"
        )
    return log_p


def _summed(distribution: Independent, terms: Tensor) -> Tensor:
    count = distribution.reinterpreted_batch_ndims
    return (terms.flatten(terms.ndim - count).sum(-1) if count else terms).double()


def support_of(distribution: Distribution) -> Constraint | None:
    """Where its numbers are, one by one; None where it does not say."""
    if isinstance(innermost(distribution), VonMises):  # PyTorch says real numbers, and draws angles
        return constraints.interval(-math.pi, math.pi)
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    if constraints.is_dependent(support):
        return None
    while hasattr(support, "base_constraint"):  # of vectors and of mixtures
        support = support.base_constraint
    return support


def innermost(distribution: Distribution) -> Distribution:
    """What `Independent` has been made of."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def kind_of(distribution: Distribution) -> str:
    return type(innermost(distribution)).__name__


def told(support: Constraint | None) -> str:
    """A support on one line: of ends that differ from place to place the least and the largest."""
    ends = {name: getattr(support, name, None) for name in ("lower_bound", "upper_bound")}
    if not any(isinstance(end, Tensor) for end in ends.values()):
        return str(support)
    least, most = (torch.as_tensor(math.nan if end is None else end) for end in ends.values())
    shown = {"lower_bound": f"{float(least.min()):g}", "upper_bound": f"{float(most.max()):g}"}
    listed = ", ".join(f"{name}={shown[name]}" for name, end in ends.items() if end is not None)
    return f"{type(support).__name__.strip('_')}({listed})"


def _transformed(distribution: Distribution) -> bool:
    """Whether its support is but what its last transform can reach, whatever comes before."""
    own = innermost(distribution)
    of_class = getattr(type(own), "support", None) is TransformedDistribution.support
    return isinstance(own, TransformedDistribution) and of_class and bool(own.transforms)


def holds(distribution: Distribution, values: Tensor) -> Tensor | None:
    """Which values are in the support, bool of their shape without that of an event; None where all are.

    Of a transformed distribution the values before the transforms have to be, too: PyTorch gives what a
    transform can reach for its support, all real numbers of an affine one.
    """
    support, own, inside = support_of(distribution), innermost(distribution), None
    if isinstance(own, VonMises):
        inside = support.check(values)
    elif isinstance(own, MixtureSameFamily):  # PyTorch asks for all components to have it
        parts = holds(own.component_distribution, own._pad(values))
        inside = None if parts is None else parts.any(-1)
    elif not isinstance(support, _REAL | None):
        inside = distribution.support.check(values)
    if _transformed(own):
        before = values
        for transform in reversed(own.transforms):
            before = transform.inv(before)
        base = holds(own.base_dist, before)
        if base is not None:
            inside = base if inside is None else _whole(base, inside.ndim) & inside
    return None if inside is None else _whole(inside, values.ndim - len(distribution.event_shape))


def _whole(inside: Tensor, ndim: int) -> Tensor:
    """Of events whose numbers are all inside, (..., ndim dimensions)."""
    return inside.flatten(ndim).all(-1) if inside.ndim > ndim else inside


def bounds(distribution: Distribution) -> tuple[Tensor | float, Tensor | float] | None:
    """The least and the largest number of its support, which has all between; None of another support."""
    support, own = support_of(distribution), innermost(distribution)
    if isinstance(support, _REAL):
        return -math.inf, math.inf
    if isinstance(support, type(constraints.boolean)):
        return 0, 1
    ends = tuple(getattr(support, end, None) for end in ("lower_bound", "upper_bound"))
    several = isinstance(own, MixtureSameFamily) and any(isinstance(end, Tensor) for end in ends)
    if support is None or support.event_dim or several or ends == (None, None):
        return None
    return -math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1]


def check_covers(q: Independent, prior: Independent, drawn: Tensor) -> None:
    """Refuse an encoder without the latents that the prior has, which its samples never meet.

    Args:
        q: of B latents.
        prior: of one.
        drawn: samples of the prior, (m, ...).
    """
    own, other = support_of(q), support_of(prior)
    if own is None or other is None:
        return
    # a density on a simplex is none of real numbers
    whole, covers = bool(own.event_dim or other.event_dim), type(own) is type(other)
    if not whole and (mine := bounds(q)) and (its := bounds(prior)):
        low, high = (torch.as_tensor(a) for a in mine)
        covers = bool((low <= torch.as_tensor(its[0])).all() and (high >= torch.as_tensor(its[1])).all())
    elif not whole:
        covers = True
    if covers and not whole:
        inside = holds(q, drawn[:, None].expand(-1, *q.batch_shape, *drawn.shape[1:]))
        covers = inside is None or bool(inside.all())
    if not covers:
        raise ValueError(
            f"the encoder's {kind_of(q)} has the support {told(own)}, which does not hold all latents of the "
            f"prior's {kind_of(prior)} with the support {told(other)}: p(x) would come out too low; allowed: "
            "an encoder whose support holds the prior's, or a prior for the encoder's latents"
        )


def drawn_from(prior: Independent, like: Tensor) -> Tensor:
    """Samples of a prior, (m, ...), on the device of latents (B, ...); generators stay as they are."""
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        count = max(PRIOR_SAMPLES, min(4096, MOST // max(1, like.numel())))
        return prior.sample((count,)).to(like.device)


def levels_to_prepare(p: Independent) -> str:
    """What `prepare` may do for images to be in the support of a decoder's distribution."""
    support = support_of(p)
    if isinstance(support, type(constraints.boolean)):
        return "prepare=lambda levels: (levels > 127).float(), or a draw with probability levels / 255"
    if support is not None and support.is_discrete:
        return "prepare=lambda levels: levels.float(), which leaves the levels 0..255"
    return "prepare=lambda levels: (levels + 0.5) / 256, which is never 0 or 1"


def check_counts(p: Independent) -> None:
    """Refuse levels / 255 for a distribution of whole numbers beyond 1, even where they are 0 and 1 alone."""
    support, ends = support_of(p), bounds(p)
    if support is None or not support.is_discrete or ends is None:
        return
    if float(torch.as_tensor(ends[1]).max()) > 1:
        raise ValueError(
            f"the decoder's {kind_of(p)} is of whole numbers, {told(support)}, and by default prepare gives "
            f"levels / 255; allowed: {levels_to_prepare(p)}"
        )


def pixels_nats(p: Independent, x: Tensor) -> Tensor:
    """Log-densities of images (count, ...), float64 (count,); refuses images that are not in the support.

    Where the support depends on the latent, as that of a uniform distribution may, what is outside has
    density 0, if the distribution does not refuse it.
    """
    inside, own = holds(p, x), p.base_dist
    if inside is not None and not inside.all():
        ends = [end for end in bounds(p) or () if isinstance(end, Tensor) and end.ndim and len(end) == len(x)]
        varies = any(bool((end != end[:1]).any()) for end in ends)
        if not varies or _validates(own):
            raise ValueError(
                f"prepare gives images from {float(x.min()):.4g} to {float(x.max()):.4g}, some of which "
                f"are not in the support of the decoder's {kind_of(p)}, {told(support_of(p))}; allowed: "
                f"a prepare whose values are, such as {levels_to_prepare(p)}"
                + ("; or validate_args=False, if these have probability 0" if varies else "")
            )
        return _summed(p, _terms("decoder", p, x)).masked_fill(~inside, -math.inf)
    terms, support = _terms("decoder", p, x), support_of(p)
    ends = None if support is None or support.is_discrete or own.event_shape else bounds(p)
    if ends and not isinstance(support, _REAL):
        at_end = (x == torch.as_tensor(ends[0])) | (x == torch.as_tensor(ends[1]))
        # a transform to an open interval has been clamped there
        bad = at_end if _transformed(own) else at_end & ~terms.isfinite()
        if bad.any():
            raise ValueError(
                f"prepare gives images with the value {float(x[bad][0]):g}, an end of the support of the "
                f"decoder's {kind_of(p)}, where its density is 0 or infinite; allowed: values between the "
                f"ends, such as {levels_to_prepare(p)}"
            )
    return _summed(p, terms)


def _validates(distribution: Distribution) -> bool:
    """Whether values outside of the support are an error of PyTorch's."""
    while distribution is not None and not distribution._validate_args:
        distribution = getattr(distribution, "base_dist", None)
    return distribution is not None
