"""What the figures share: colors and the house style, checks of their arguments, and parts they draw."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from memlib.checks import Floats

BLUE, YELLOW, RED = "#004488", "#DDAA33", "#BB5566"
CURVES = (BLUE, RED, YELLOW)  # yellow last: the weakest on white
STYLE = Path(__file__).with_name("house.mplstyle")
WIDTH = 7.2  # inches, of every figure

Images = NDArray[np.uint8]
Curves = ArrayLike | Mapping[str, ArrayLike]  # one curve, or several by the label of their legend entry
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style, and close the figure, or a notebook would show it twice."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.style.context(STYLE):
            figure = draw(*args, **kwargs)
        # notebooks crop a figure to its ink; this invisible ink keeps the scale of all figures' text equal
        figure.add_artist(Rectangle((0, 0), 1, 1, fill=False, edgecolor="none"))
        plt.close(figure)
        return figure

    return in_style


def require(condition: bool, message: str) -> None:
    """ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_images(images: Images) -> Images:
    """An array of images, or ValueError."""
    images = np.asarray(images)
    require(
        images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3) and len(images) > 0,
        f"images must be uint8 (n, C, H, W), C 1 or 3, n at least 1, got {images.dtype} {images.shape}",
    )
    return images


def check_vector(name: str, values: ArrayLike, length: int | None = None) -> Floats:
    """A float array (n,), finite and of the given length; ValueError by `name` otherwise."""
    values = np.asarray(values, dtype=np.float64)
    require(
        values.ndim == 1
        and len(values) == (length or len(values))
        and len(values) > 0
        and np.isfinite(values).all(),
        f"{name} must be numbers of shape ({length or 'n'},), finite, got shape {values.shape}",
    )
    return values


def by_label(values: Curves) -> dict[str, Floats]:
    """Curves by label as float arrays, one alone under the empty label."""
    curves = values if isinstance(values, Mapping) else {"": values}
    return {label: np.asarray(curve, dtype=np.float64) for label, curve in curves.items()}


def check_curves(name: str, values: Curves, dimensions: int = 1) -> dict[str, Floats]:
    """Curves by label, one alone under the empty label; ValueError by `name` where one cannot be drawn."""
    curves = by_label(values)
    require(
        len(curves) > 0
        and all(c.ndim == dimensions and c.size > 0 and np.isfinite(c).all() for c in curves.values()),
        f"{name} must be finite with {dimensions} dimensions, got {[c.shape for c in curves.values()]}",
    )
    return curves


def number(value: float) -> str:
    """Three digits, or all before the point, with a true minus sign."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.001 else "0"
    return text.replace("-", "\N{MINUS SIGN}")


def tile(
    figure: Figure, image: NDArray[np.uint8], left: float, top: float, size: float, frame: str | None = None
) -> Axes:
    """Show one image (C, H, W) in a square; inches from the figure's top left corner, a thin gap around."""
    width, height = figure.get_size_inches()
    gap = 0.035 if frame is None else 0.1
    inner = size - gap
    axes = figure.add_axes(
        ((left + gap / 2) / width, 1 - (top + gap / 2 + inner) / height, inner / width, inner / height)
    )
    axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), vmin=0, vmax=255)
    if frame is None:
        axes.set_axis_off()
    else:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=frame, linewidth=2.6)
    return axes


def bin_count(*groups: Floats, at_most: int) -> int:
    """Choose how many bins the smallest group can fill without its histogram turning into noise."""
    return int(np.clip(4 * np.cbrt(min(map(len, groups))), 12, at_most))


def draw_density(axes: Axes, values: Floats, edges: Floats, color: str, label: str) -> None:
    """Draw a histogram whose area is the share of the values that lie within the edges."""
    height = np.histogram(values, edges)[0] / (max(len(values), 1) * np.diff(edges))
    axes.stairs(height, edges, fill=True, color=color, alpha=0.3, lw=0, label=label)
    axes.stairs(height, edges, color=color, lw=0.8)


def note_left_out(axes: Axes, shown: NDArray[np.bool_]) -> None:
    """Say in the legend how many values a figure cannot show."""
    if not shown.all():
        axes.plot([], [], " ", label=f"not finite, left out: {np.sum(~shown)}")
        axes.legend()
