"""Look through the images of a run: ranked by M, filtered, each with its scores and what resembles it.

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
from collections.abc import Mapping
from pathlib import Path

import ipywidgets
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from memlib.chapters.kin import Kin, duplicates_of, nearest_of
from memlib.checks import Bools, Floats, Ints
from memlib.data import ImageSet
from memlib.inference import memorized
from memlib.memorization import least_observations, memorization
from memlib.psis import khat_thresholds
from memlib.runs.score_file import check_images

__all__ = ["Kin", "duplicates_of", "explore", "nearest_of"]

Options = dict[str, Bools]  # option -> which images it shows, (n,)
Filters = list[tuple[str, Options]]  # label and options, besides the one that shows all

_CSS = Path(__file__).with_suffix(".css")
_LEVEL = 0.95  # above this quantile of M images are called highly memorized
_RATE = 0.1  # of false discoveries among the images that are listed
_LONGEST = 192  # pixels of the longer side of a picture; it is shown with at most 96
_SHEET = 16383  # pixels of a side of a WebP file


def explore(
    result: xr.Dataset, images: ImageSet, kin: Mapping[str, Kin] | None = None, count: int = 240
) -> ipywidgets.VBox:
    """Widgets to look through the images of a run at its last epoch.

    Images are ranked by M, the highest first, and can be filtered by class, by M, by U (the log-probability
    under models that trained on the image), by the standard error of M, by whether `memlib.memorized` lists
    them at a false discovery rate of 10 %, by Pareto k-hat, and by whether they have kin. Of the chosen image
    all of that is shown, M at every evaluated epoch, and its kin.

    Args:
        result: what `memlib.run` or `memlib.cross_fit` returns.
        images: the images behind it.
        kin: by title, not empty, for example "nearest sample", what to show beside an image.
        count: images that the widgets hold at once, at least 3: of more that match, a third are the highest,
            a sixth the lowest, the others spread evenly over the ranks between.

    Raises:
        ValueError: `count` below 3 or too high for one picture of all, images other than the result's, an
            empty title, or kin of another number or shape.
    """
    n, kin = result.sizes["observation"], dict(kin or {})
    if count < 3:
        raise ValueError(f"count is {count}; allowed: 3 or more")
    check_images(result, images)
    shape = images.images.shape[1:]
    for name, k in kin.items():
        if not name:
            raise ValueError(f"a title of kin is {name!r}; allowed: text that is not empty")
        if len(k.index) != n:
            raise ValueError(f"{name} must be of the result's {n} observations, got {len(k.index)}")
        if k.pool.shape[1:] != shape:
            raise ValueError(f"the pool of {name} must have images of {shape}, got {k.pool.shape[1:]}")
    held, most = min(n, count), (_SHEET // max(_shown_size(shape))) ** 2
    pictures = held + sum(min(held * k.index.shape[1], len(k.pool)) for k in kin.values())
    if pictures > most:
        raise ValueError(f"count is {count}, with kin up to {pictures} pictures; allowed: {most} pictures")
    view = _View(result, images, kin, count)
    menus = [
        ipywidgets.Dropdown(options=["all", *options], description=label, style={"description_width": "7rem"})
        for label, options in view.filters
    ]
    gallery = ipywidgets.HTML(view.page(np.ones(n, dtype=bool)))

    def refresh(_: object) -> None:
        matching = np.ones(n, dtype=bool)
        for menu, (_, options) in zip(menus, view.filters, strict=True):
            if menu.index:  # else all
                matching &= list(options.values())[menu.index - 1]
        gallery.value = view.page(matching)

    for i, menu in enumerate(menus):
        menu.add_class(f"filter-{i}")
        menu.observe(refresh, "index")
    bar = ipywidgets.HBox(menus)
    bar.add_class("explorer-filters")
    box = ipywidgets.VBox([bar, gallery])
    box.add_class("explorer")
    return box


class _View:
    """The page inside the widgets, for any choice of images."""

    _made = itertools.count()  # two explorers of the same images each choose one

    def __init__(self, result: xr.Dataset, images: ImageSet, kin: Mapping[str, Kin], count: int):
        scores = memorization(result)
        matched = memorization(result, "matched").isel(epoch=-1)
        last = result.isel(epoch=-1)
        self.images, self.kin, self.count = images, kin, count
        self.epochs, self.curves = result.epoch.values, scores.M.values  # (T,), (T, n)
        self.M, self.U, self.matched = self.curves[-1], scores.U.values[-1], matched.M.values
        self.errors = scores.M_se.values  # NaN with a single repeat
        self.khat, self.trusted = _health(last)
        self.listed = memorized(result.isel(epoch=[-1]), rate=_RATE).values[0]
        self.filters, self.group = self._filters(), f"explorer-{next(self._made)}"

    def _filters(self) -> Filters:
        M, classes = self.M, self.images.classes
        filters: Filters = []
        if len(classes) > 1:
            present = [k for k in range(len(classes)) if (self.images.labels == k).any()]
            filters.append(("Class", {classes[k]: self.images.labels == k for k in present}))
        known = M[np.isfinite(M)]
        if len(known) >= least_observations(_LEVEL):
            low, half, high = np.quantile(known, [1 - _LEVEL, 0.5, _LEVEL])
            bands = {"highest 5 %": M > high, "upper half": M > half}
            filters.append(("Score M", {**bands, "lower half": M <= half, "lowest 5 %": M < low}))
        if np.isfinite(self.U).all():
            low, high = np.quantile(self.U, [0.2, 0.8])
            between = (self.U > low) & (self.U < high)
            fifths = {"lowest fifth": self.U <= low, "between": between, "highest fifth": self.U >= high}
            filters.append(("log p(x): U", fifths))
        error = self.errors[-1]
        if np.isfinite(error).all():
            half = np.median(error)
            filters.append(("Standard error", {"smaller half": error <= half, "larger half": error > half}))
        if self.listed.any():
            listed = {f"listed at FDR {_RATE:.0%}": self.listed, "not listed": ~self.listed}
            filters.append(("Training matters", listed))
        if np.isfinite(self.khat).any():
            filters.append(("Pareto k-hat", {"trusted": self.trusted, "too high": ~self.trusted}))
        for name, kin in self.kin.items():
            has = (kin.index >= 0).any(axis=1)
            if not has.all():
                filters.append((name[:1].upper() + name[1:], {"with": has, "without": ~has}))
        return filters

    def page(self, matching: Bools) -> str:
        """The HTML of the images that match, or of `count` among them."""
        chosen = self._chosen(matching)
        sprite = _Sprite(self._pictures(chosen), self.images.images.shape[1:])
        name = f"images-{sprite.digest}"
        tiles = "".join(self._tile(int(i), name, sprite, first=i == chosen[0]) for i in chosen)
        total, held = int(matching.sum()), len(chosen)
        which = "images, highest M first"
        if held < total:
            which += f". Here are {held} of {total}: the highest, the lowest, and ranks evenly spaced between"
        style = f"{_CSS.read_text('utf-8')}{self._rules()}.{name}{{{sprite.style}}}"
        return (
            f'<style>{style}</style><div class="view">'
            f'<ul class="tiles" tabindex="0" aria-label="Images, highest M first">{tiles}</ul>'
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
        """At most `count` of the images that match, highest M first."""
        ranked = np.flatnonzero(matching)
        ranked = ranked[np.argsort(-self.M[ranked], kind="stable")]
        if len(ranked) <= self.count:
            return ranked
        top, bottom = self.count // 3, self.count // 6
        between = np.linspace(top, len(ranked) - bottom - 1, self.count - top - bottom).round().astype(int)
        return np.concatenate([ranked[:top], ranked[between], ranked[len(ranked) - bottom :]])

    def _pictures(self, chosen: Ints) -> dict[tuple[str, int], NDArray[np.uint8]]:
        """All images that the page shows, by where they are from, each once."""
        pictures = {("", int(i)): self.images.images[i] for i in chosen}
        for name, kin in self.kin.items():
            pictures |= {(name, int(j)): kin.pool[j] for j in np.unique(kin.index[chosen]) if j >= 0}
        return pictures

    def _tile(self, i: int, name: str, sprite: "_Sprite", first: bool) -> str:
        classes = [
            f"f{f}-{j}"
            for f, (_, options) in enumerate(self.filters)
            for j, shown in enumerate(options.values(), start=1)
            if shown[i]
        ]
        spoken = f"{self._called(i)}, M {_number(self.M[i])} nats"
        return (
            f'<li class="tile {" ".join(classes)}"><label>'
            f'<input type="radio" name="{self.group}" value="{i}"{" checked" if first else ""}>'
            f"{sprite.picture(name, ('', i))}"
            f'<span class="said">{spoken}</span></label>'
            f'<div class="detail">{self._detail(i, name, sprite)}</div></li>'
        )

    def _called(self, i: int) -> str:
        classes = self.images.classes
        kind = f", {html.escape(classes[self.images.labels[i]])}" if len(classes) > 1 else ""
        return f"Image {self.images.index[i]}{kind}"

    def _detail(self, i: int, name: str, sprite: "_Sprite") -> str:
        error = self.errors[-1, i]
        facts = [f"M {_number(self.M[i])}" + (f" ± {_number(error)}" if np.isfinite(error) else "") + " nats"]
        facts += [f"matched {_number(self.matched[i])}", f"U {_number(self.U[i])}"]
        if not np.isnan(self.khat[i]):
            khat = "\N{INFINITY}" if np.isinf(self.khat[i]) else f"{self.khat[i]:.2f}"
            facts.append(f"k-hat {khat}" + ("" if self.trusted[i] else ", too high"))
        kin = "".join(self._beside(i, title, name, sprite) for title in self.kin)
        return (
            f"{sprite.picture(name, ('', i), 'large')}<p><b>{self._called(i)}</b><br>{'<br>'.join(facts)}</p>"
            f'{_curve(self.epochs, self.curves[:, i], self.errors[:, i])}<div class="kin">{kin}</div>'
        )

    def _beside(self, i: int, title: str, name: str, sprite: "_Sprite") -> str:
        kin, shown = self.kin[title], []
        for j, value in zip(kin.index[i], kin.values[i], strict=True):
            if j >= 0:
                text = f"{html.escape(title)}, {html.escape(kin.quantity)} {value:.2f}"
                picture = sprite.picture(name, (title, int(j)))
                shown.append(f"<figure>{picture}<figcaption>{text}</figcaption></figure>")
        return "".join(shown)


def _health(last: xr.Dataset) -> tuple[Floats, Bools]:
    """The worst Pareto k-hat of every image, and whether all are low enough.

    NaN without such weights, and where all are infinite, as with too few samples.
    """
    if "khat" not in last:
        return np.full(last.sizes["observation"], np.nan), np.ones(last.sizes["observation"], dtype=bool)
    fine = last.khat <= khat_thresholds(last.num_samples.values)
    khat = last.khat.max("repeat").values
    return khat if np.isfinite(khat).any() else np.full_like(khat, np.nan), fine.all("repeat").values


def _shown_size(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the picture of an image (C, H, W), in pixels."""
    scale = min(1.0, _LONGEST / max(shape[1:]))
    return max(1, round(scale * shape[1])), max(1, round(scale * shape[2]))


class _Sprite:
    """Many images as one picture, of which each shows its part: PNG if gray, else WebP of quality 90."""

    def __init__(self, pictures: Mapping[tuple[str, int], NDArray[np.uint8]], shape: tuple[int, int, int]):
        channels, (height, width) = shape[0], _shown_size(shape)
        self._place = {key: k for k, key in enumerate(pictures)}
        self._columns = max(2, math.ceil(math.sqrt(len(pictures))))
        self._rows = max(2, -(-len(pictures) // self._columns))
        sheet = np.zeros((self._rows, height, self._columns, width, channels), dtype=np.uint8)
        for key, image in pictures.items():
            row, column = divmod(self._place[key], self._columns)
            picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
            if (height, width) != shape[1:]:
                picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            sheet[row, :, column] = np.asarray(picture).reshape(height, width, channels)
        sheet = sheet.reshape(self._rows * height, self._columns * width, channels)
        file, kind = io.BytesIO(), "png" if channels == 1 else "webp"
        options = {"optimize": True} if channels == 1 else {"quality": 90, "method": 6}
        Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet).save(file, kind, **options)
        self.digest = hashlib.sha256(file.getvalue()).hexdigest()[:12]
        data = base64.b64encode(file.getvalue()).decode()
        self.style = (
            f"background-image:url(data:image/{kind};base64,{data});"
            f"background-size:{self._columns}00% {self._rows}00%;--ratio:{shape[2]}/{shape[1]}"
        )

    def picture(self, name: str, key: tuple[str, int], more: str = "") -> str:
        """One image; said in words by the text beside it."""
        row, column = divmod(self._place[key], self._columns)
        x, y = 100 * column / (self._columns - 1), 100 * row / (self._rows - 1)
        return f'<span class="image {name} {more}" style="background-position:{x:.5g}% {y:.5g}%"></span>'


def _number(value: float) -> str:
    if np.isnan(value):
        return "not defined"
    text = "\N{INFINITY}" if np.isinf(value) else f"{abs(value):.1f}"
    return f"\N{MINUS SIGN}{text}" if value < 0 and text != "0.0" else text


def _curve(epochs: Ints, M: Floats, error: Floats) -> str:
    """M over epochs with bars of one standard error, as SVG in the color of the text; where it is finite."""
    known = np.isfinite(M)
    if not known.any():
        return ""
    epochs, M, reach = epochs[known], M[known], np.nan_to_num(error[known], posinf=0.0)
    low, high = min(0.0, (M - reach).min()), max(0.0, (M + reach).max())
    left, right, top, bottom = 46, 290, 8, 92

    def x(epoch: float) -> float:
        return left + (right - left) * (epoch - epochs[0]) / max(epochs[-1] - epochs[0], 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / ((high - low) or 1)

    said = "; ".join(f"epoch {e}: {_number(m)}" for e, m in zip(epochs, M, strict=True))
    bars = "".join(
        f"M{x(e):.1f} {y(m - r):.1f}V{y(m + r):.1f}" for e, m, r in zip(epochs, M, reach, strict=True)
    )
    dots = "".join(
        f'<circle cx="{x(e):.1f}" cy="{y(m):.1f}" r="2.5" fill="currentColor"/>'
        for e, m in zip(epochs, M, strict=True)
    )
    line = " ".join(f"{x(e):.1f},{y(m):.1f}" for e, m in zip(epochs, M, strict=True))
    return (
        f'<svg viewBox="0 0 300 124" role="img" aria-label="M by epoch, in nats. {said}">'
        f'<path d="M{left} {y(0):.1f}H{right}" stroke="currentColor" opacity="0.4" stroke-dasharray="3 3"/>'
        f'<path d="{bars}" stroke="currentColor" opacity="0.5"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/>{dots}'
        f'<text x="{left - 8}" y="{top + 4}" text-anchor="end">{_number(high)}</text>'
        f'<text x="{left - 8}" y="{bottom}" text-anchor="end">{_number(low)}</text>'
        f'<text x="{left}" y="{bottom + 16}">{epochs[0]}</text>'
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{epochs[-1]}</text>'
        f'<text x="{(left + right) / 2}" y="{bottom + 16}" text-anchor="middle">M over epochs</text></svg>'
    )
