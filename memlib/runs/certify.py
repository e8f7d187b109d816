"""How far the estimates of log p(x) of a run are from the truth, between bounds that no proposal can fool."""

import json

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from memlib.certificate import annealed
from memlib.checks import check_range, check_whole
from memlib.data import ImageSet
from memlib.device import own_settings, products
from memlib.ensemble import perturbed
from memlib.proposals import POINTS, fit
from memlib.runs.executors import progress_bar
from memlib.runs.models import fold_models
from memlib.runs.score_file import check_images
from memlib.runs.store import Record
from memlib.scoring import LatentVariableModel, log_joint, log_px, members

KINDS = ("simulated", "held out", "seen")
ESTIMATORS = ("fitted", "encoder")
AT_ONCE = 2**20  # decoder outputs of all models, images and chains that gradients go through together


@own_settings()
def certify(
    result: xr.Dataset,
    images: ImageSet,
    *,
    count: int = 4,
    chains: int = 16,
    temperatures: int = 100,
    num_samples: int | None = None,
    repeat: int = 0,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Bound log p(x) of a sample of images under the models of a repeat, and tell the estimators' errors.

    Of images that a model has made itself, bidirectional Monte Carlo gives a lower and an upper bound: it
    certifies the estimator where both are close. Of training images there is the lower bound, by annealed
    importance sampling: each is shown to the model that did not see it, and the same version of it to one
    that did.

    Args:
        result: what `memlib.run` returned, its models still stored.
        images: the training images of the run.
        count: images of each kind per model, at most the images of a fold.
        chains: of every image, 1 or more.
        temperatures: steps of annealing, 1 or more; bounds come closer with more of them.
        num_samples: S of the estimates that are judged; by default the result's.
        repeat: whose K models are certified, after the last epoch.
        seed: of the images that are chosen and of all noise.
        device: as in `memlib.run`.
        progress: show a progress bar.

    Returns:
        Variables by `kind` ("simulated", "held out" and "seen"), `fold` and `image`. "held out" is under the
        model of the fold, "seen" are the same images under that of the next fold. Log-probabilities are
        nats, in pixel space as `result.log_px`:

        - `lower`, `upper`: bounds, in expectation; `upper` is NaN but for simulated images.
        - `log_px` (estimator, ...): estimates as a run makes them, with S samples and the result's precision,
          by the `estimator` "fitted" and by "encoder".
        - `error` (estimator, ...): estimates minus the middle of the bounds, or minus `lower`, the only one.
        - `accepted`: the share of moves forward that were accepted; near 0, chains hardly move.
        - `index`: of training images, their position in the data set; -1 for simulated ones.

    Raises:
        ValueError: an argument is not as above.
        StoreError: the models were deleted, or their file is damaged.
    """
    check_images(result, images)
    model, request = fold_models(result, repeat, device).part(slice(None)), json.loads(result.request)
    S = request["num_samples"] if num_samples is None else num_samples
    check_whole(1, count=count, chains=chains, temperatures=temperatures, num_samples=S)
    check_whole(0, seed=seed)
    fold_of, K = result.fold_of.values[repeat], len(model)
    check_range(1, int(np.bincount(fold_of).min()), count=count)
    rng, generator = np.random.default_rng(seed), torch.Generator(model.device).manual_seed(seed)
    chosen = np.stack([rng.choice(np.flatnonzero(fold_of == k), count, replace=False) for k in range(K)])
    with products("float32", model.device), torch.no_grad():
        z = torch.randn(K, count, model.latent_dim, generator=generator, device=model.device)
        made = model.likelihood.sample(generator, *model.decode(z))
        x = torch.tensor(images.images[chosen], device=model.device).flatten(2)  # (K, count, D)
        held_out = perturbed(model.likelihood, x, generator, model.dtype)
        rows = {name: [] for name in ("lower", "upper", "log_px", "accepted")}
        one_by_one, steps = members(model, S), {"chains": chains, "temperatures": temperatures}
        E = K // len(one_by_one)
        size = max(1, AT_ONCE // (E * max(chains, POINTS) * x.shape[-1]))
        with progress_bar(len(KINDS) * K * count, "certifying", "images", enabled=progress) as bar:
            # the models that did not see an image, and for "seen" the next ones, which did
            for y, exact in ((made, z), (held_out, None), (held_out.roll(1, 0), None)):
                each = []
                for k, member in enumerate(one_by_one):
                    own, parts = slice(k * E, (k + 1) * E), []
                    for start in range(0, count, size):
                        place = own, slice(start, start + size)
                        latents = None if exact is None else exact[place]
                        parts.append(_bounded(member, y[place], latents, request, S, generator, steps))
                        bar.update(parts[-1]["lower"].numel())
                    each.append({name: torch.cat([p[name] for p in parts], dim=-1) for name in rows})
                for name, row in rows.items():
                    row.append(torch.cat([e[name] for e in each], dim=-2))
    rows = {name: torch.stack(row, -3) for name, row in rows.items()}  # (..., kind, K, count)
    for row in rows.values():
        row[..., 2, :, :] = row[..., 2, :, :].roll(-1, -2)
    dims = ("kind", "fold", "image")
    columns = {
        name: ((*(["estimator"] if row.ndim > 3 else []), *dims), row.double().cpu().numpy())
        for name, row in rows.items()
    }
    own = np.broadcast_to(images.index[chosen], (2, K, count))
    columns["index"] = dims, np.concatenate([np.full((1, K, count), -1), own])
    coords = {"kind": list(KINDS), "estimator": list(ESTIMATORS), "fold": np.arange(K)}
    bounds = xr.Dataset(columns, coords)
    middle = (bounds.lower + bounds.upper) / 2
    bounds["error"] = bounds.log_px - middle.fillna(bounds.lower)
    return bounds


def _bounded(
    model: LatentVariableModel,
    y: Tensor,
    exact: Tensor | None,
    request: Record,
    num_samples: int,
    generator: torch.Generator,
    steps: dict[str, int],
) -> dict[str, Tensor]:
    """Bounds and estimates of observations (E, B, D), with the latents (E, B, Z) that made them, if known."""
    joint = log_joint(model, y)
    proposal = fit(joint, *model.encode(y), generator)
    around = proposal.mean, proposal.scale, generator
    forward = annealed(joint, *around, **steps)
    lower = forward.lower()
    upper = torch.full_like(lower, torch.nan)
    if exact is not None:
        upper = annealed(joint, *around, exact=exact, **steps).upper()
    precision = request["scoring_precision"]
    estimates = [log_px(model, y, num_samples, generator, kind, precision).log_px for kind in ESTIMATORS]
    pixels = model.likelihood.log_jacobian(y)
    return {
        "lower": lower + pixels,
        "upper": upper + pixels,
        "log_px": torch.stack(estimates) + pixels,
        "accepted": forward.accepted,
    }
