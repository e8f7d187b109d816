"""Models made of an encoder and a decoder, as PyTorch users have them, scored by importance sampling."""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint

from memlib.checks import check_one_of, check_whole
from memlib.data import ImageSet
from memlib.device import own_settings
from memlib.experiment import ProposalName
from memlib.proposals import POINTS, LogJoint
from memlib.scoring import LogProb, fitted_log_px, forked, summary


class LatentModel:
    r"""A latent variable model whose log p(x) is estimated by importance sampling.

    $$\log p(x) \approx \log \frac{1}{S} \sum_{s=1}^S \frac{p(x \mid z_s)\, p(z_s)}{q(z_s)}, \qquad
    z_s \sim q$$

    By default q is fitted to every image, from where the encoder says; it takes gradients of log p(x | z) +
    log p(z), and latents that are real numbers. `proposal="encoder"` takes q(z | x) as it is: that works for
    any latents, and makes log p(x) too low, more so for images that the encoder has not seen.

    The distributions may have all dimensions behind the first as event, as `Independent` makes them, or some
    or all of them as further batch dimensions, which are then taken as independent: `Normal(mu, sigma)` with
    mu (B, Z) is q, `Bernoulli(logits=...)` with logits (B, C, H, W) is p. Nothing is broadcast.

    The estimate is a density, or a probability, of what `prepare` makes of an image. A density of continuous
    data asks for dequantization, such as adding uniform noise to the levels, since levels alone have none;
    to state it per level, the logarithm of the Jacobian of any scaling after that must be added. U and V
    contain that Jacobian, and M does not: it is the same for all models, and cancels under any fixed
    invertible map of the data. `prepare` may draw from PyTorch's global generators, for dequantization or
    binarization: like the latent noise, what it draws follows from the seed, and is the same for all models.

    All of this, `encoder`, `decoder` and `prepare` included, runs with PyTorch's default type float32 and
    default device CPU, whatever the caller has set, so that the same model has the same score.

    A subclass with a `log_prob` of its own is scored by that, as any other model, without `estimate`.

    Args:
        encoder: from prepared images (B, ...) to q(z | x) as a `torch.distributions.Distribution`, of B
            latents with a shape of their own, mostly (Z,). It need not be reparameterized.
        decoder: from latents (B, ...) to p(x | z), over the shape of a prepared image.
        num_samples: S, importance samples per image, 1 or more; Pareto k-hat needs more than 20. Where it is
            too high, fitted proposals take up to 8 S; see `memlib.scoring.fitted_log_px`.
        prior: p(z), over the shape of a latent, on the device of the latents, discrete where q is; by default
            standard normal, for latents with real support only.
        batch_size: images encoded and latents decoded at a time, 1 or more. Another value gives other noise.
            S latents of the images of a batch, where proposals are fitted of a 32nd of it, are drawn at once.
        seed: of the noise, 0 or more. `memlib.cross_fit` and `memlib.score_models` use theirs instead, with
            noise of its own for every repeat, the same for all models of the repeat.
        prepare: from uint8 images (B, C, H, W), on the device of the parameters, to the model's input; by
            default levels / 255 as float32.
        proposal: "fitted" or "encoder".

    Modules are put into evaluation mode and left in it, and no gradients are kept: `encoder`, `decoder` and
    `prepare` themselves, the objects whose methods they are, attributes of such objects, and what
    `functools.partial` binds. A plain function has to see to its own modules.

    Raises:
        ValueError: an argument that is not as above.

    Source: van den Burg & Williams (2021), supplement, eq. (9).
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Distribution],
        decoder: Callable[[Tensor], Distribution],
        num_samples: int = 128,
        prior: Distribution | None = None,
        batch_size: int = 512,
        seed: int = 0,
        prepare: Callable[[Tensor], Tensor] | None = None,
        proposal: ProposalName = "fitted",
    ) -> None:
        prepare = prepare or (lambda levels: levels.float() / 255)
        for name, function in (("encoder", encoder), ("decoder", decoder), ("prepare", prepare)):
            if not callable(function):
                raise ValueError(f"{name} is a {type(function).__name__}; allowed: a module or a function")
        check_one_of(get_args(ProposalName), proposal=proposal)
        check_whole(1, num_samples=num_samples, batch_size=batch_size)
        check_whole(0, seed=seed)
        if not (prior is None or isinstance(prior, Distribution)):
            kind = type(prior).__name__
            raise ValueError(f"prior is a {kind}; allowed: None, or a torch.distributions.Distribution")
        self.encoder, self.decoder, self.prior, self.prepare = encoder, decoder, prior, prepare
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.proposal = proposal

    def log_prob(self, images: ImageSet) -> NDArray[np.float64]:
        """Estimates of log p(x), (n,), in nats; see `estimate`."""
        return self.estimate(images).log_px.numpy()

    @own_settings()
    @torch.no_grad()
    def estimate(self, images: ImageSet, seed: int | None = None) -> LogProb:
        """Estimates of log p(x) with their health.

        Args:
            images: n images.
            seed: of the noise, 0 or more; by default the model's own.

        Returns:
            `log_px` in nats, `ess`, `khat` and `num_samples`, each (n,), on the CPU.

        Raises:
            ValueError: parameters on another device than a CPU or CUDA, distributions that do not fit what
                they are of, or densities in 16-bit floating point.
        """
        for module in self._modules():
            module.eval()
        device = self.device
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"the model's parameters are on {str(device)!r}; allowed: a CPU or CUDA device")
        gpus = [device] if device.type == "cuda" else []
        # not torch.manual_seed, which seeds those of all devices
        generators = [torch.default_generator, *(torch.cuda.default_generators[gpu.index] for gpu in gpus)]
        streams, parts = np.random.default_rng(self.seed if seed is None else seed), []
        with torch.random.fork_rng(gpus):
            for start in range(0, len(images), self.batch_size):
                # any distribution can sample, but only from the global generators
                own, fits = (int(seed) for seed in streams.integers(2**63, size=2))
                for generator in generators:
                    generator.manual_seed(own)
                levels = torch.tensor(images.images[start : start + self.batch_size], device=device)
                generator = torch.Generator(device).manual_seed(fits)
                parts.append(LogProb(*(column.cpu() for column in self._scored(levels, generator))))
        return LogProb(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    @property
    def device(self) -> torch.device:
        """Where images are sent: the device of the first parameter or buffer found, else the CPU."""
        tensors = (t for m in self._modules() for t in itertools.chain(m.parameters(), m.buffers()))
        return next((t.device for t in tensors), torch.device("cpu"))

    def _modules(self) -> Iterator[nn.Module]:
        for function in (self.encoder, self.decoder, self.prepare):
            bound = []
            while isinstance(function, functools.partial):
                bound += [*function.args, *function.keywords.values()]
                function = function.func
            owner = function.__self__ if inspect.ismethod(function) else function
            parts = (owner, *bound, *getattr(owner, "__dict__", {}).values())
            yield from (part for part in parts if isinstance(part, nn.Module))

    def _scored(self, levels: Tensor, generator: torch.Generator) -> LogProb:
        """The estimates for images uint8 (B, C, H, W)."""
        B, x = len(levels), self.prepare(levels)
        if not isinstance(x, Tensor) or x.ndim < 1 or len(x) != B:
            what = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"prepare returned {what} of {B} images; allowed: a tensor ({B}, ...)")
        q = _one_each("encoder", self.encoder(x), B)
        if self.proposal == "encoder":
            z = q.sample((self.num_samples,)).transpose(0, 1)  # (S, B, ...) -> (B, S, ...)
            return summary(self._log_joint(x, q, z) - _nats("encoder", q, z.transpose(0, 1)).T)
        mean, variance = _moments(q)
        shape, parts = mean.shape[1:], []
        for rows in torch.arange(B, device=x.device).split(max(1, self.batch_size // POINTS)):

            def joint(images: slice | Tensor, rows: Tensor = rows) -> LogJoint:
                own = x[rows[images]]
                return lambda z: self._log_joint(own, q, z.reshape(*z.shape[:-1], *shape))

            start = (t[rows].reshape(len(rows), -1) for t in (mean, variance.log()))  # (B, ...) -> (B, Z)
            parts.append(fitted_log_px(joint, *start, self.num_samples, forked(generator)))
        return LogProb(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _log_joint(self, x: Tensor, q: Distribution, z: Tensor) -> Tensor:
        """log p(x | z) + log p(z), float64 (B, P), of prepared images (B, ...) and latents (B, P, ...) like
        those of q."""
        B = len(x)
        log_p = _nats("prior", self._prior_of(z, q), z)
        at_once, parts = max(1, self.batch_size // B), []
        for part in z.split(at_once, dim=1):
            p = _one_each("decoder", self.decoder(part.flatten(0, 1)), part.shape[:2].numel())
            if p.event_shape != x.shape[1:]:
                raise ValueError(
                    f"the decoder's distribution is over the shape {tuple(p.event_shape)}, and prepare gives "
                    f"images of the shape {tuple(x.shape[1:])}; allowed: the same"
                )
            copies = x.repeat_interleave(part.shape[1], dim=0)  # (B, ...) -> (B * P, ...)
            parts.append(_nats("decoder", p, copies).unflatten(0, (B, -1)))
        log_p = log_p + torch.cat(parts, dim=1)
        if z.requires_grad and not parts[0].requires_grad:
            raise ValueError(
                'the decoder has no gradient with respect to the latents; allowed: one, or proposal="encoder"'
            )
        return log_p

    def _prior_of(self, z: Tensor, q: Distribution) -> Distribution:
        """The prior of latents (S, B, ...) from q, with all but their first two dimensions as event."""
        shape, support = z.shape[2:], _support(q)
        if self.prior is None:
            if not isinstance(support, type(constraints.real)):
                raise ValueError(
                    f"prior is None, and the encoder's latents have the support {support}; allowed: a prior "
                    "for them, or latents with the support Real()"
                )
            return Independent(Normal(torch.zeros(shape, dtype=z.dtype, device=z.device), 1.0), len(shape))
        own, own_support = self.prior.batch_shape + self.prior.event_shape, _support(self.prior)
        if own != shape:
            raise ValueError(
                f"prior is over the shape {tuple(own)}, and the encoder's latents have the shape "
                f"{tuple(shape)}; allowed: the same"
            )
        # a density of discrete latents would be computed without a word
        if support and own_support and support.is_discrete != own_support.is_discrete:
            raise ValueError(
                f"prior has the support {own_support}, and the encoder's latents {support}; allowed: both "
                "discrete, or both continuous"
            )
        return Independent(self.prior, len(self.prior.batch_shape))


def _one_each(name: str, distribution: Distribution, count: int) -> Distribution:
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


def _moments(q: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and variance of latents, each (B, ...)."""
    support, other = _support(q), 'allowed: proposal="encoder", or latents'
    if not isinstance(support, type(constraints.real)):
        raise ValueError(
            f"proposal is 'fitted', and the encoder's latents have the support {support}; {other} with the "
            "support Real()"
        )
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError as error:
        raise ValueError(
            f"proposal is 'fitted', and the encoder's {q.base_dist} knows no mean or variance; {other} of a "
            "distribution that does"
        ) from error
    _nats("encoder", q, mean)  # refuses densities in 16-bit floating point
    return mean, variance


def _support(distribution: Distribution) -> Constraint | None:
    """Where its numbers are, one by one; None where it does not say."""
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    while hasattr(support, "base_constraint"):  # of vectors and of mixtures
        support = support.base_constraint
    return support


def _nats(name: str, distribution: Distribution, values: Tensor) -> Tensor:
    """Log-densities as float64."""
    log_p = distribution.log_prob(values)
    if log_p.dtype.itemsize < 4:
        raise ValueError(
            f"log_prob of the {name} returned {log_p.dtype}; allowed: floating point of 32 bits or more"
        )
    return log_p.double()
