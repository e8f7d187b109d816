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

from memlib.checks import Bools, Floats, as_array

BLUE, YELLOW, RED = "#004488", "#DDAA33", "#BB5566"
CURVES = (BLUE, RED, YELLOW)  # yellow last: the weakest on white
STYLE = Path(__file__).with_name("house.mplstyle")
WIDTH = 7.2  # inches, of every figure

Images = NDArray[np.uint8]
Curves = ArrayLike | Mapping[str, ArrayLike]  # one curve, or several by the label of their legend entry
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style, and close the figure, or a notebook would show it twice.

    Lines need a color of CURVES: Matplotlib looks up what "C0" is when it draws, after the style has gone.
    """

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
    images = as_array("images", images)
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3) and len(images) > 0
    allowed = "uint8 (n, C, H, W), C 1 or 3, n at least 1"
    require(fits, f"images must be {allowed}, got {images.dtype} {images.shape}")
    return images


def check_array(name: str, values: ArrayLike, *shape: int | None, finite: bool = True) -> Floats:
    """A float array of the shape, where None is any length but 0; ValueError by `name` otherwise."""
    array = as_array(name, values, np.float64)
    fits = array.size > 0 and len(shape) == array.ndim
    fits = fits and all(length in (None, own) for length, own in zip(shape, array.shape, strict=True))
    fits = fits and (not finite or bool(np.isfinite(array).all()))
    allowed = str(shape).replace("None", "n") + (", finite" if finite else "")
    require(fits, f"{name} must be numbers of shape {allowed}, got shape {array.shape}")
    return array


def check_curves(name: str, values: Curves, *shape: int | None, finite: bool = True) -> dict[str, Floats]:
    """Arrays as of `check_array` by label, one alone under the empty label."""
    curves = values if isinstance(values, Mapping) else {"": values}
    require(len(curves) > 0, f"{name} must have an entry")
    return {label: check_array(name, curve, *shape, finite=finite) for label, curve in curves.items()}


def check_bools(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Bools:
    """A bool array of the shape; ValueError by `name` otherwise."""
    array = as_array(name, values)
    fits = array.dtype == bool and array.shape == shape
    require(fits, f"{name} must be bool {shape}, got {array.dtype} {array.shape}")
    return array


def check_ascending(name: str, values: ArrayLike) -> Floats:
    """A float array (n,), each larger than the one before; ValueError by `name` otherwise."""
    array = check_array(name, values, None)
    require(bool((np.diff(array) > 0).all()), f"{name} must be ascending, got {array}")
    return array


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


def note_left_out(axes: Axes, shown: Bools) -> None:
    """Say in the legend how many values a figure cannot show."""
    if not shown.all():
        axes.plot([], [], " ", label=f"not finite, left out: {np.sum(~shown)}")
        axes.legend()
