"""The modules behind functions, wherever they are kept."""

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.distributions import Distribution

# which know no modules of users: what their functions name and their classes have is not looked at
_LIBRARIES = {"torch", "torchvision", "numpy", "scipy", "sklearn", "xarray", "pandas", "PIL", "memlib"}
_LIBRARIES |= set(sys.stdlib_module_names) - {"__main__"}
_HOLDERS = {"memlib", "types", "argparse", "collections", "functools"}  # whose objects hold what users put in
_LEAVES = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, Distribution)


def modules_of(*functions: Callable[..., Any]) -> list[nn.Module]:
    """The modules that functions can reach, each once, those nearest to the first function first.

    They are found in the functions themselves and the objects whose methods they are, in what
    `functools.partial` binds and decorators wrap, in closures, defaults, and globals that a function names;
    there in attributes, lists, tuples, sets and dicts, and again in functions, at any depth, but for what
    belongs to libraries such as PyTorch. What a function makes or loads while it runs is not found.
    """
    found, seen, left = [], set(), deque(functions)
    while left:
        value = left.popleft()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        left += _parts(value)
    return found


def _parts(value: Any) -> list[Any]:
    """What a value holds, or names."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [*value]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, staticmethod | classmethod | functools.cached_property):
        return [
            getattr(value, "__func__", None),
            getattr(value, "func", None),
        ]  # some libraries' have neither
    if isinstance(value, type):
        return [] if _of_library(value) else [*vars(value).values()]
    if isinstance(value, types.ModuleType):
        return []
    classes = [kind for kind in type(value).__mro__ if not _of_library(kind)]
    if not (classes or isinstance(value, nn.Module) or _root(type(value).__module__) in _HOLDERS):
        return []
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    own = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    return [*own, getattr(value, "__wrapped__", None), *classes]  # the function of functools.cache


def _of_function(function: types.FunctionType) -> list[Any]:
    """Cells, defaults, attributes, such as what it wraps, and globals that it or functions within name."""
    cells = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled as yet
            cells.append(cell.cell_contents)
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    own = [*cells, *defaults, *vars(function).values()]
    if _root(function.__globals__.get("__name__")) in _LIBRARIES:
        return own
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    reached = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
    # of a file of the user's, what is named of it
    files = [v for v in reached if isinstance(v, types.ModuleType) and not _of_library(v)]
    reached += [vars(file)[name] for file in files for name in sorted(names) if name in vars(file)]
    return [*own, *reached]


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [*slots]


def _of_library(value: type | types.ModuleType) -> bool:
    return _root(value.__name__ if isinstance(value, types.ModuleType) else value.__module__) in _LIBRARIES


def _root(name: str | None) -> str:
    return (name or "").partition(".")[0]
