"""Checks of what callers give, and names of array types."""

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

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
