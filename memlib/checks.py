"""Checks of what callers give, and names of array types."""

import difflib
import math
import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike, NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the most similar known word, or nothing.

    >>> nearest("MINST", ["digits", "mnist"])
    ' (did you mean mnist?)'
    """
    near = difflib.get_close_matches(word.lower(), list(known), 1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""


def check_known(kind: str, name: object, known: Iterable[str], where: str = "") -> None:
    """ValueError that says where, for a name that is not known; it names the nearest and all that are."""
    known = list(dict.fromkeys(known))
    if name not in known:
        hint = nearest(str(name), known)
        raise ValueError(f"{where}unknown {kind} {name!r}{hint}; allowed: {', '.join(known)}")


def check_range(least: float, most: float = math.inf, /, **values: float) -> None:
    """ValueError for a number outside of `least`..`most`, NaN included; it names the number.

    >>> check_range(1, draws=20, batch_size=1)
    """
    for name, value in values.items():
        if not least <= value <= most:
            allowed = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise ValueError(f"{name} is {value}; allowed: {allowed}")


def check_whole(least: int, /, **values: object) -> None:
    """ValueError for what is no whole number from `least` on; it names the value."""
    for name, value in values.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} is {value!r}; allowed: a whole number, {least} or more")


def check_share(**values: float) -> None:
    """ValueError for a number that is not between 0 and 1; it names the number."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; allowed: between 0 and 1")


def check_one_of(allowed: Iterable[object], /, **values: object) -> None:
    """ValueError for a value that is not among those allowed; it names both."""
    known = list(allowed)
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(str, known))}")


def check_unmasked(**values: object) -> None:
    """ValueError for a masked array, also one without masked values, or for a list of such; it names it."""
    for name, value in values.items():
        if isinstance(value, list | tuple):
            for part in value:
                check_unmasked(**{name: part})
        elif isinstance(value, np.ma.MaskedArray):
            raise ValueError(
                f"{name} is a masked array, {value.dtype} {value.shape}, whose masked values would be used; "
                "allowed: a plain array of those that count, such as x[~x.mask.any(axis=1)].data of rows"
            )


def as_array(name: str, values: object, dtype: DTypeLike = None) -> NDArray:
    """What callers give as an array, of tensors on any device the values; ValueError for a masked one.

    >>> as_array("scores", [1, 2], float)
    array([1., 2.])
    """
    check_unmasked(**{name: values})
    torch = sys.modules.get("torch")  # who has no tensors need not wait for its import
    if torch and isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double() if values.dtype == torch.bfloat16 else values  # NumPy has none
    return np.asarray(values, dtype)
