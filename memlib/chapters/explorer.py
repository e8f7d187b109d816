"""Chapter 23: look through the images of a run, ranked by the gap, filtered, each beside what resembles it.

The filters are dropdowns of ipywidgets; a style sheet shows the images that agree with them, and the details
of the image that is chosen. So a saved page needs no kernel and no script of its own. With a kernel the
filters reach all images of the run, without one those that the page holds.
"""

import base64
import hashlib
import html
import io
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from memlib.checks import Bools, Floats, Ints, check_range
from memlib.data import ImageSet
from memlib.inference import interval, memorized
from memlib.memorization import least_observations, memorization
from memlib.metrics.duplicates import Pairs
from memlib.metrics.neighbors import half_resolution, nearest
from memlib.psis import khat_thresholds
from memlib.runs.score_file import check_images

Options = dict[str, Bools]  # option -> which images it shows, (n,)
Shape = tuple[int, int, int]  # C, H, W

_CSS = Path(__file__).with_suffix(".css")
_LEVEL = 0.95  # above this quantile of the gap images are called highly memorized
_SURE = 0.9  # share of the intervals of the gap that are to hold the truth
_RATE = 0.1  # of false discoveries among the images that are listed
_LONGEST = 192  # pixels of the longer side of a picture; it is shown with at most 96
_OWN_KEYS = "data-lm-suppress-shortcuts"  # an attribute without which JupyterLab takes an element's keys
_SHEET = 16383  # pixels of a side of a WebP file


@dataclass(frozen=True)
class Kin:
    """For each of n images k others that resemble it, shown beside it, nearest first.

    Args:
        pool: uint8 (m, C, H, W), of the images' shape, where they are taken from.
        index: int (n, k), rows of the pool; -1 where an image has none.
        values: (n, k), how near they are.
        quantity: what `values` are, for example "distance".

    Raises:
        ValueError: an argument that is not as above.
    """

    pool: NDArray[np.uint8]
    index: Ints
    values: Floats
    quantity: str = "distance"

    def __post_init__(self) -> None:
        pool, index, values = ImageSet.of(self.pool), self.index, self.values
        if index.ndim != 2 or not np.issubdtype(index.dtype, np.integer) or values.shape != index.shape:
            got = f"index is {index.dtype} {index.shape}, values are {values.shape}"
            raise ValueError(f"{got}; allowed: integers (n, k), and as many values")
        for row in (index.min(initial=0), index.max(initial=0)):
            check_range(-1, len(pool) - 1, **{"row of the pool": row})


def nearest_of(images: NDArray[np.uint8], pool: NDArray[np.uint8] | None = None) -> Kin:
    """The image of a pool nearest to every image at half resolution; without a pool, of the other images."""
    queries = half_resolution(images)
    references = queries if pool is None else half_resolution(pool)
    distance, index = nearest(queries, references, exclude_self=pool is None)
    return Kin(images if pool is None else pool, index[:, None], distance[:, None])


def duplicates_of(images: ImageSet, pairs: Pairs, most: int = 6) -> Kin:
    """The near-duplicates of every image, at most `most` each, from what `near_duplicates` returns."""
    one_way = pd.DataFrame(pairs._asdict())
    both = pd.concat([one_way, one_way.rename(columns={"first": "second", "second": "first"})])
    both = both.sort_values(["first", "correlation", "second"], ascending=[True, False, True])
    both["place"] = both.groupby("first").cumcount()
    kept, every = both[both.place < most].set_index(["first", "place"]), range(len(images))
    index, values = (kept[column].unstack().reindex(every) for column in ("second", "correlation"))  # (n, k)
    return Kin(images.images, index.fillna(-1).to_numpy(np.int64), values.to_numpy(), "correlation")


def explore(
    result: xr.Dataset, images: ImageSet, kin: Mapping[str, Kin] | None = None, count: int = 240
) -> ipywidgets.VBox:
    """Widgets to look through the images of a run at its last epoch.

    Images are ranked by the gap, the largest first, and can be filtered by class, by the gap, by U (the
    log-probability under models that trained on the image), by the standard error of the gap, by whether
    `memlib.memorized` lists them at a false discovery rate of 10 %, by Pareto k-hat, and by whether they have
    kin. Of the chosen image all of that is shown, the gap with its 90 % interval by Student's t at every
    evaluated epoch, the paper's M with the number of repeats that it rests on, and its kin. In JupyterLab the
    menus need a pointer, as all of ipywidgets do there (its issue 3912): it takes the keys for itself.

    Args:
        result, images: what `memlib.run` or `memlib.cross_fit` returns, and the images behind it.
        kin: by title, for example "nearest sample", what to show beside an image; n of it, from a
            pool of the images' shape.
        count: images that the widgets hold at once, at least 3: of more that match, a third are the highest,
            a sixth the lowest, the others spread evenly over the ranks between.

    Raises:
        ValueError: an argument not as above, or `count` too high for one picture of all.
    """
    n, kin, shape = len(images), kin or {}, images.images.shape[1:]
    check_range(3, count=count)
    check_images(result, images)
    for name, k in kin.items():
        if (got := (len(k.index), *k.pool.shape[1:])) != (n, *shape):
            raise ValueError(f"kin {name!r} is of {got}; allowed: {(n, *shape)}, as the images are")
    held, most = min(n, count), (_SHEET // max(_shown_size(shape))) ** 2
    pictures = held + sum(min(held * k.index.shape[1], len(k.pool)) for k in kin.values())
    if pictures > most:
        raise ValueError(f"count is {count}, with kin up to {pictures} pictures; allowed: {most} pictures")
    view, everything = _View(result, images, kin, count), np.ones(n, dtype=bool)
    gallery = ipywidgets.HTML(view.page(everything))
    menus = [
        ipywidgets.Dropdown(options=["all", *options], description=label, style={"description_width": "7rem"})
        for label, options in view.filters
    ]

    def refresh(_: object) -> None:
        chosen = zip(menus, view.filters, strict=True)
        shown = [[everything, *options.values()][menu.index] for menu, (_, options) in chosen]
        gallery.value = view.page(np.all([everything, *shown], axis=0))

    for i, menu in enumerate(menus):
        menu.add_class(f"filter-{i}").observe(refresh, "index")
    bar = ipywidgets.HBox(menus).add_class("explorer-filters")
    return ipywidgets.VBox([bar, gallery]).add_class("explorer")


class _View:
    """The page inside the widgets, for any choice of images."""

    _made = itertools.count()  # two explorers of the same images each choose one

    def __init__(self, result: xr.Dataset, images: ImageSet, kin: Mapping[str, Kin], count: int):
        scores, last = memorization(result), result.isel(epoch=[-1])
        self.images, self.kin, self.count = images, kin, count
        self.epochs, self.curves = result.epoch.values, scores.gap.values  # (T,), (T, n)
        self.low, self.high = (end.values for end in interval(scores, _SURE))  # NaN with a single repeat
        self.gap, self.error = self.curves[-1], scores.gap_se.values[-1]
        self.M, self.U = scores.M.values[-1], scores.U.values[-1]
        self.repeats, self.behind = result.sizes["repeat"], scores.effective_repeats.values[-1]
        self.khat, self.trusted = np.full(len(self.gap), np.nan), np.zeros(len(self.gap), dtype=bool)
        if "khat" in last and np.isfinite(khat := last.khat[0].max("repeat").values).any():
            fine = last.khat[0] <= khat_thresholds(last.num_samples.values[0])
            self.khat, self.trusted = khat, fine.all("repeat").values  # of all models of an image
        self.filters = list(self._filters(memorized(last, rate=_RATE).values[0]))
        self.group = f"explorer-{next(self._made)}"

    def _filters(self, listed: Bools) -> Iterator[tuple[str, Options]]:
        """Labels and options, besides the one that shows all; only of what the run has."""
        gap, U, error = self.gap, self.U, self.error
        labels, classes = self.images.labels, self.images.classes
        if len(classes) > 1:
            yield "Class", {classes[k]: labels == k for k in np.unique(labels)}
        known = gap[np.isfinite(gap)]
        if len(known) >= least_observations(_LEVEL):
            low, half, high = np.quantile(known, [1 - _LEVEL, 0.5, _LEVEL])
            bands = {"highest 5 %": gap > high, "upper half": gap > half}
            yield "Gap", {**bands, "lower half": gap <= half, "lowest 5 %": gap < low}
        if np.isfinite(U).all():
            low, high = np.quantile(U, [0.2, 0.8])
            fifths = {"lowest fifth": U <= low, "between": (U > low) & (U < high), "highest fifth": U >= high}
            yield "log p(x): U", fifths
        if np.isfinite(error).all():
            half = np.median(error)
            yield "Standard error", {"smaller half": error <= half, "larger half": error > half}
        if listed.any():
            yield "Training matters", {f"listed at FDR {_RATE:.0%}": listed, "not listed": ~listed}
        if np.isfinite(self.khat).any():
            yield "Pareto k-hat", {"trusted": self.trusted, "too high": ~self.trusted}
        for name, kin in self.kin.items():
            has = (kin.index >= 0).any(axis=1)
            if not has.all():
                yield name[:1].upper() + name[1:], {"with": has, "without": ~has}

    def page(self, matching: Bools) -> str:
        """The HTML of the images that match, or of `count` among them."""
        chosen, total = self._chosen(matching), int(matching.sum())
        pictures = {(None, int(i)): self.images.images[i] for i in chosen}  # each once, by where it is from
        for name, kin in self.kin.items():
            pictures |= {(name, int(j)): kin.pool[j] for j in np.unique(kin.index[chosen]) if j >= 0}
        sprite = _Sprite(pictures, self.images.images.shape[1:])
        tiles = "".join(self._tile(int(i), sprite, first=i == chosen[0]) for i in chosen)
        which = "images, largest gap first"
        if (held := len(chosen)) < total:
            which += f". Here are {held} of {total}: the highest, the lowest, and ranks evenly spaced between"
        return (
            f'<style>{_CSS.read_text("utf-8")}{self._rules()}{sprite.style}</style><div class="view">'
            f'<ul class="tiles" tabindex="0" aria-label="Images, largest gap first">{tiles}</ul>'
            '<p class="hint">Choose an image to see its scores and what resembles it.</p>'
            f'<p class="count">{which}.</p></div>'
        )

    def _rules(self) -> str:
        """The filters as a style sheet: an option hides images, and where the chosen one is hidden, asks."""
        hidden, asked = [], []
        for i, (_, options) in enumerate(self.filters):
            for j in range(1, len(options) + 1):
                when = f".explorer:has(.filter-{i} option:nth-child({j + 1}):checked)"
                hidden.append(f"{when} .tile:not(.f{i}-{j})")
                asked.append(f"{when}:has(.tile:not(.f{i}-{j}) input:checked) .hint")
        return f"{','.join(hidden)}{{display:none}}{','.join(asked)}{{visibility:visible}}"

    def _chosen(self, matching: Bools) -> Ints:
        """At most `count` of the images that match, largest gap first."""
        ranked = np.flatnonzero(matching)
        ranked = ranked[np.argsort(-self.gap[ranked], kind="stable")]
        if len(ranked) <= self.count:
            return ranked
        top, bottom = self.count // 3, self.count // 6
        between = np.linspace(top, len(ranked) - bottom - 1, self.count - top - bottom).round().astype(int)
        return np.concatenate([ranked[:top], ranked[between], ranked[len(ranked) - bottom :]])

    def _tile(self, i: int, sprite: "_Sprite", first: bool) -> str:
        """An image to be chosen, its scores, and what resembles it."""
        options = [
            (f, j, shown) for f, (_, o) in enumerate(self.filters) for j, shown in enumerate(o.values())
        ]
        shown_by = [f"f{f}-{j + 1}" for f, j, shown in options if shown[i]]
        classes, low, high = self.images.classes, self.low[-1, i], self.high[-1, i]
        kind = f", {html.escape(classes[self.images.labels[i]])}" if len(classes) > 1 else ""
        called, gap = f"Image {self.images.index[i]}{kind}", _number(self.gap[i])
        sure = f" ({_SURE:.0%}: {_number(low)} to {_number(high)})" if np.isfinite(high - low) else ""
        behind = f", from {self.behind[i]:.1f} of {self.repeats} repeats" if np.isfinite(self.M[i]) else ""
        facts = [f"<b>{called}</b>", f"gap {gap} nats{sure}", f"M {_number(self.M[i])}{behind}"]
        facts.append(f"U {_number(self.U[i])}")
        if not np.isnan(self.khat[i]):
            khat = "\N{INFINITY}" if np.isinf(self.khat[i]) else f"{self.khat[i]:.2f}"
            facts.append(f"k-hat {khat}" + ("" if self.trusted[i] else ", too high"))
        beside = "".join(
            f"<figure>{sprite.picture((title, int(j)))}<figcaption>{html.escape(title)}, "
            f"{html.escape(kin.quantity)} {value:.2f}</figcaption></figure>"
            for title, kin in self.kin.items()
            for j, value in zip(kin.index[i], kin.values[i], strict=True)
            if j >= 0
        )
        return (
            f'<li class="tile {" ".join(shown_by)}"><label>'
            f'<input type="radio" name="{self.group}" value="{i}"{" checked" if first else ""} {_OWN_KEYS}>'
            f'{sprite.picture((None, i))}<span class="said">{called}, gap {gap} nats</span></label>'
            f'<div class="detail">{sprite.picture((None, i), "large")}<p>{"<br>".join(facts)}</p>'
            f"{_curve(self.epochs, self.curves[:, i], self.low[:, i], self.high[:, i])}"
            f'<div class="kin">{beside}</div></div></li>'
        )


def _shown_size(shape: Shape) -> tuple[int, int]:
    """Height and width of the picture of an image, in pixels."""
    scale = min(1.0, _LONGEST / max(shape[1:]))
    return max(1, round(scale * shape[1])), max(1, round(scale * shape[2]))


class _Sprite:
    """Many images as one picture, of which each shows its part: PNG if gray, else WebP of quality 90."""

    def __init__(self, pictures: Mapping[tuple[str | None, int], NDArray[np.uint8]], shape: Shape):
        gray, (height, width) = shape[0] == 1, _shown_size(shape)
        self._place = {key: k for k, key in enumerate(pictures)}
        self._columns = max(2, math.ceil(math.sqrt(len(pictures))))
        self._rows = max(2, -(-len(pictures) // self._columns))
        sheet = Image.new("L" if gray else "RGB", (self._columns * width, self._rows * height))
        for k, image in enumerate(pictures.values()):
            picture = Image.fromarray(image[0] if gray else image.transpose(1, 2, 0))
            row, column = divmod(k, self._columns)
            sheet.paste(
                picture.resize((width, height), Image.Resampling.LANCZOS), (column * width, row * height)
            )
        file, kind = io.BytesIO(), "png" if gray else "webp"
        sheet.save(file, kind, **({"optimize": True} if gray else {"quality": 90, "method": 6}))
        self.name = f"images-{hashlib.sha256(file.getvalue()).hexdigest()[:12]}"
        self.style = (
            f".{self.name}{{background-image:url(data:image/{kind};base64,"
            f"{base64.b64encode(file.getvalue()).decode()});"
            f"background-size:{self._columns}00% {self._rows}00%;--ratio:{shape[2]}/{shape[1]}}}"
        )

    def picture(self, key: tuple[str | None, int], more: str = "") -> str:
        """One image; said in words by the text beside it."""
        row, column = divmod(self._place[key], self._columns)
        x, y = 100 * column / (self._columns - 1), 100 * row / (self._rows - 1)
        return f'<span class="image {self.name} {more}" style="background-position:{x:.5g}% {y:.5g}%"></span>'


def _number(value: float) -> str:
    if np.isnan(value):
        return "not defined"
    text = "\N{INFINITY}" if np.isinf(value) else f"{abs(value):.1f}"
    return f"\N{MINUS SIGN}{text}" if value < 0 and text != "0.0" else text


def _curve(epochs: Ints, gap: Floats, lower: Floats, upper: Floats) -> str:
    """The gap over epochs with the bars of its interval, as SVG in the color of the text; where finite."""
    known = np.isfinite(gap)
    if not known.any():
        return ""
    epochs, gap = epochs[known], gap[known]
    ends = (np.where(np.isfinite(end[known]), end[known], gap) for end in (lower, upper))
    curves = np.stack([np.zeros_like(gap), gap, *ends])
    low, high = curves.min(), curves.max()
    x = 46 + 244 * (epochs - epochs[0]) / max(epochs[-1] - epochs[0], 1)  # of 300 wide, 124 high
    zero, y, foot, head = 92 - 84 * (curves - low) / ((high - low) or 1)
    said = "; ".join(f"epoch {e}: {_number(value)}" for e, value in zip(epochs, gap, strict=True))
    bars = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(x, foot, head, strict=True))
    points = list(zip(x, y, strict=True))
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="currentColor"/>' for a, b in points)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return (
        f'<svg viewBox="0 0 300 124" role="img" aria-label="Gap by epoch, in nats. {said}">'
        f'<path d="M46 {zero[0]:.1f}H290" stroke="currentColor" opacity="0.4" stroke-dasharray="3 3"/>'
        f'<path d="{bars}" stroke="currentColor" opacity="0.5"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/>{dots}'
        f'<text x="38" y="12" text-anchor="end">{_number(high)}</text>'
        f'<text x="38" y="92" text-anchor="end">{_number(low)}</text><text x="46" y="108">{epochs[0]}</text>'
        f'<text x="290" y="108" text-anchor="end">{epochs[-1]}</text>'
        '<text x="168.0" y="108" text-anchor="middle">gap over epochs</text></svg>'
    )
