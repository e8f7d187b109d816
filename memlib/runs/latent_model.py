"""Models made of an encoder and a decoder, as PyTorch users have them, scored by importance sampling."""

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints

from memlib.checks import check_one_of, check_whole
from memlib.data import ImageSet
from memlib.device import evaluating, own_settings
from memlib.experiment import ProposalName
from memlib.proposals import POINTS, LogJoint
from memlib.runs.distributions import (
    check_counts,
    check_covers,
    drawn_from,
    holds,
    moments,
    nats,
    one_each,
    pixels_nats,
    support_of,
    told,
)
from memlib.runs.modules import modules_of
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

    Supports count. The encoder's has to hold all latents of the prior, or p(x) would come out too low without
    a sign; latents that the prior has not have density 0. The decoder's has to hold the prepared images,
    whatever `validate_args` says.

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

    Modules are in evaluation mode while images are scored, and in their own mode afterwards, and no gradients
    are kept: those that `encoder`, `decoder` and `prepare` can reach, whether they are modules themselves, or
    keep them in objects, closures, globals, lists or dicts; see `memlib.runs.modules.modules_of`.

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
        self._scales = prepare is None
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
                they are of, by shape, by the shape of their log_prob, or by support, or densities in 16-bit
                floating point.
        """
        with evaluating(*modules_of(*self._functions)):
            return self._estimated(images, seed)

    def _estimated(self, images: ImageSet, seed: int | None) -> LogProb:
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
        modules = modules_of(*self._functions)
        tensors = (t for m in modules for t in itertools.chain(m.parameters(), m.buffers()))
        return next((t.device for t in tensors), torch.device("cpu"))

    @property
    def _functions(self) -> tuple[Callable[[Tensor], Any], ...]:
        return self.encoder, self.decoder, self.prepare

    def _scored(self, levels: Tensor, generator: torch.Generator) -> LogProb:
        """The estimates for images uint8 (B, C, H, W)."""
        B, x = len(levels), self.prepare(levels)
        if not isinstance(x, Tensor) or x.ndim < 1 or len(x) != B:
            what = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"prepare returned {what} of {B} images; allowed: a tensor ({B}, ...)")
        q = one_each("encoder", self.encoder(x), B)
        if self.proposal == "encoder":
            z = q.sample((self.num_samples,)).transpose(0, 1)  # (S, B, ...) -> (B, S, ...)
            if z.shape != (shape := (B, self.num_samples, *q.event_shape)):
                raise ValueError(f"the encoder's samples are {tuple(z.shape)}; allowed: {shape}")
            drawn = self._prior_samples(q, z[:, 0])
            return summary(self._log_joint(x, q, z, drawn) - nats("encoder", q, z.transpose(0, 1)).T)
        support = support_of(q)
        if self.prior and support and not support.is_discrete:  # the way out of `moments` is none for these
            self._prior_samples(q, x.new_empty(B, *q.event_shape))
        mean, variance = moments(q)
        drawn, shape, parts = self._prior_samples(q, mean), mean.shape[1:], []
        for rows in torch.arange(B, device=x.device).split(max(1, self.batch_size // POINTS)):

            def joint(images: slice | Tensor, rows: Tensor = rows) -> LogJoint:
                own = x[rows[images]]
                return lambda z: self._log_joint(own, q, z.reshape(*z.shape[:-1], *shape), drawn)

            start = (t[rows].reshape(len(rows), -1) for t in (mean, variance.log()))  # (B, ...) -> (B, Z)
            parts.append(fitted_log_px(joint, *start, self.num_samples, forked(generator)))
        return LogProb(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _prior_samples(self, q: Independent, z: Tensor) -> Tensor:
        """Samples of the prior, (m, ...), for latents (B, ...) of an encoder that is found to cover them."""
        prior = self._prior_of(z[:, None], q)
        try:
            drawn = drawn_from(prior, z)
        except NotImplementedError:  # of a distribution that cannot be drawn from
            drawn = z[:0]
        check_covers(q, prior, drawn)
        return drawn

    def _log_joint(self, x: Tensor, q: Independent, z: Tensor, drawn: Tensor) -> Tensor:
        """log p(x | z) + log p(z), float64 (B, P), of prepared images (B, ...) and latents (B, P, ...) like
        those of q. Where the prior has none of these, any `drawn` from it stands for them, at density 0."""
        B, prior = len(x), self._prior_of(z, q)
        support = support_of(prior)
        inside = None if support is None or support.event_dim else holds(prior, z)
        if inside is not None and (inside.all() or not len(drawn)):
            inside = None
        if inside is not None:
            z = torch.where(inside.reshape(*inside.shape, *[1] * (z.ndim - 2)), z, drawn[0].to(z.dtype))
        log_p = nats("prior", prior, z)
        at_once, parts = max(1, self.batch_size // B), []
        for part in z.split(at_once, dim=1):
            p = one_each("decoder", self.decoder(part.flatten(0, 1)), part.shape[:2].numel())
            if p.event_shape != x.shape[1:]:
                raise ValueError(
                    f"the decoder's distribution is over the shape {tuple(p.event_shape)}, and prepare gives "
                    f"images of the shape {tuple(x.shape[1:])}; allowed: the same"
                )
            copies = x.repeat_interleave(part.shape[1], dim=0)  # (B, ...) -> (B * P, ...)
            if self._scales:
                check_counts(p)
            parts.append(pixels_nats(p, copies).unflatten(0, (B, -1)))
        log_p = log_p + torch.cat(parts, dim=1)
        if z.requires_grad and not parts[0].requires_grad:
            raise ValueError(
                'the decoder has no gradient with respect to the latents; allowed: one, or proposal="encoder"'
            )
        return log_p if inside is None else log_p.masked_fill(~inside, -math.inf)

    def _prior_of(self, z: Tensor, q: Distribution) -> Independent:
        """The prior of latents (B, P, ...) like those of q; all but their first two dimensions are events."""
        shape, support = z.shape[2:], support_of(q)
        if self.prior is None:
            if not isinstance(support, type(constraints.real)):
                raise ValueError(
                    f"prior is None, and the encoder's latents have the support {told(support)}; allowed: "
                    "a prior for them, or latents with the support Real()"
                )
            return Independent(Normal(torch.zeros(shape, dtype=z.dtype, device=z.device), 1.0), len(shape))
        own, own_support = self.prior.batch_shape + self.prior.event_shape, support_of(self.prior)
        if own != shape:
            raise ValueError(
                f"prior is over the shape {tuple(own)}, and the encoder's latents have the shape "
                f"{tuple(shape)}; allowed: the same"
            )
        # a density of discrete latents would be computed without a word
        if support and own_support and support.is_discrete != own_support.is_discrete:
            raise ValueError(
                f"prior has the support {told(own_support)}, and the encoder's latents {told(support)}; "
                "allowed: both discrete, or both continuous"
            )
        return Independent(self.prior, len(self.prior.batch_shape))
