"""How fast and in how much memory memlib computes FID and the memorization distance, beside the usual ways.

    python benchmarks/mifid.py [--images 10000] [--features 2048] [--whole]

Features are random, as the time does not depend on them. Methods take turns, call by call.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import interleaved, machine, peak_memory, save, spread, table
from numpy.typing import NDArray
from scipy import linalg

from memlib.metrics.fid import frechet_distance, moments
from memlib.metrics.mifid import memorization_distance

WHOLE = 50_000  # images on both sides, the size of CIFAR-10's training set and of a usual FID


def draw(count: int, features: int, seed: int) -> NDArray[np.float32]:
    """Features (n, d) above 0, as those of a rectified layer are."""
    return np.abs(np.random.default_rng(seed).normal(size=(count, features))).astype(np.float32)


def fid_by_root(generated: NDArray, training: NDArray) -> float:
    """FID as it was published: covariances, and scipy's root of their product."""
    return _fid(generated, training, lambda a, b: np.trace(linalg.sqrtm(a @ b).real))


def fid_by_eigenvalues(generated: NDArray, training: NDArray) -> float:
    """FID from the eigenvalues of the product of the covariances, as torchmetrics has it."""
    return _fid(generated, training, lambda a, b: np.sqrt(linalg.eigvals(a @ b).astype(complex)).real.sum())


def _fid(generated: NDArray, training: NDArray, root: Callable[[NDArray, NDArray], float]) -> float:
    means, covariances = zip(
        *((x.mean(axis=0, dtype=float), np.cov(x, rowvar=False)) for x in (generated, training)), strict=True
    )
    shift = means[0] - means[1]
    return shift @ shift + sum(map(np.trace, covariances)) - 2 * root(*covariances)


def distance_at_once(generated: NDArray, training: NDArray) -> float:
    """The memorization distance from the matrix of all cosines, as in the authors' code and torchmetrics."""
    g, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (generated, training))
    return float((1.0 - np.abs(g @ t.T)).min(axis=1).mean())


def compare(title: str, methods: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Time and memory of the methods, printed; the first is the reference of ratios and values."""
    memory = {name: peak_memory(method, torch.device("cpu"))[1] for name, method in methods.items()}
    calls = interleaved(methods, rounds)
    first = next(iter(methods))
    rows = []
    for name, own in calls.items():
        ratio = spread(a.seconds / b.seconds for a, b in zip(calls[first], own, strict=True))
        apart = abs(own[0].result / calls[first][0].result - 1)
        rows.append(
            [
                name,
                f"{spread(call.seconds for call in own).median:.2f}",
                "1" if name == first else str(ratio),
                f"{memory[name] / 2**20:,.0f} MiB",
                "0" if name == first else f"{apart:.1e}",
            ]
        )
    head = ["method", "seconds", "x reference", "peak memory", "relative difference"]
    print(f"\n{title}\n{table(head, rows)}")
    return {"title": title, "head": head, "rows": rows}


@click.command()
@click.option("--images", default=10_000, show_default=True, type=click.IntRange(2), help="on either side")
@click.option("--features", default=2048, show_default=True, type=click.IntRange(1), help="of each image")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="calls of each method")
@click.option("--whole", is_flag=True, help=f"also the distance of {WHOLE} x {WHOLE} images, once")
@click.option("--out", "path", type=click.Path(path_type=Path), help="write the tables as JSON")
def main(images: int, features: int, rounds: int, whole: bool, path: Path | None) -> None:
    """Compare memlib's FID and memorization distance with the usual ways."""
    if images <= features:
        raise click.UsageError(f"images is {images}, features {features}; allowed: more images")
    print(where := machine(torch.device("cpu"), ["float32"]))
    pair = draw(images, features, 0), draw(images, features, 1)
    known = pair[0], moments(pair[1])
    fid = {
        "root of the product": functools.partial(fid_by_root, *pair),
        "its eigenvalues": functools.partial(fid_by_eigenvalues, *pair),
        "memlib": functools.partial(frechet_distance, *pair),
        "memlib, training moments known": functools.partial(frechet_distance, *known),
    }
    near = {
        "all cosines at once": functools.partial(distance_at_once, *pair),
        "memlib": lambda: memorization_distance(*pair).d,
    }
    size = f"{images} x {images} images of {features} features, {rounds} rounds"
    tables = [compare(f"FID, {size}", fid, rounds), compare(f"memorization distance, {size}", near, rounds)]
    if whole:
        del pair, known, fid, near
        big = draw(WHOLE, features, 0), draw(WHOLE, features, 1)
        only = {"memlib": lambda: memorization_distance(*big).d}
        title = f"memorization distance, {WHOLE} x {WHOLE} images of {features} features, once"
        tables.append(compare(title, only, 1))
    notes = ["peak memory: what one call adds; ratios: median over rounds, and their range"]
    print("", *notes, sep="\n")
    save(path, machine=where, tables=tables, notes=notes)


if __name__ == "__main__":
    main()
