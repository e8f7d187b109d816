"""What is known of a function that trains models: the arguments bound to it, and a hash of its source."""

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from memlib.store import Record

_Span = tuple[tuple[int, int], tuple[int, int]]  # first and last place, as line and byte of the line


def settings_fields(train: Callable, settings: Mapping[str, Any] | None) -> Record:
    """Settings, and the arguments that `functools.partial` has bound, as fields of a request.

    Args:
        train: the function that trains.
        settings: JSON values by name, or None.

    Returns:
        JSON texts by name, as values that are equal in Python, such as 1 and True, are different settings.

    Raises:
        ValueError: values that are not JSON.
    """
    fields = _json_fields("settings", "settings.{}", settings)
    if isinstance(train, functools.partial):
        what = "settings, as arguments of functools.partial,"
        fields |= _json_fields(what, "train[{}]", dict(enumerate(train.args)))
        fields |= _json_fields(what, "train.{}", train.keywords)
    return fields


def _json_fields(what: str, name: str, values: Mapping[Any, Any] | None) -> Record:
    try:
        named = {} if values is None else dict(values)
        texts = {key: json.dumps(value, allow_nan=False, sort_keys=True) for key, value in named.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is {values!r:.100} ({error}); allowed: JSON values by name") from error
    return {name.format(key): text for key, text in texts.items()}


def source_sha256(train: Callable) -> str | None:
    """Hash of the source of a function, or of the class of an object that is called.

    Base classes, functions that it calls, what it closes over and attributes of objects do not enter. Of a
    lambda only its own text does, not the statement that it is in.

    Args:
        train: the function that trains, a class, or an object that can be called.

    Returns:
        64 hexadecimal digits, or None where there is no source.
    """
    while isinstance(train, functools.partial):
        train = train.func
    if inspect.isroutine(train):
        source = _source(train)
    else:
        owner = train if inspect.isclass(train) else type(train)
        source = _source(owner) or "\n".join(filter(None, map(_source, _methods(owner))))
    return hashlib.sha256(source.encode()).hexdigest() if source else None


def _methods(owner: type) -> list[FunctionType]:
    """The functions of a class, of which Python knows the source where it does not find the class itself."""
    parts = [getattr(part, "__func__", part) for part in vars(owner).values()]
    return [part for part in parts if inspect.isfunction(part)]


def _source(part: Callable) -> str:
    """The text of a function or class without its indentation; empty where there is none."""
    try:
        if inspect.isfunction(part) and part.__name__ == "<lambda>" and (text := _lambda_text(part)):
            return text
        return textwrap.dedent(inspect.getsource(part)).strip()
    except (OSError, TypeError):
        return ""


def _lambda_text(function: FunctionType) -> str | None:
    """The text of a lambda, found by the places of its instructions; None where that is not possible."""
    source = "".join(inspect.findsource(function)[0])
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the file is another one now
        return None
    code = function.__code__
    places = [place for place in code.co_positions() if None not in place and place[2:] != (0, 0)]
    if not places:
        return None
    first, last = min((a, c) for a, _, c, _ in places), max((b, d) for _, b, _, d in places)
    around: list[tuple[_Span, ast.Lambda]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno:
            body = node.body
            span = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
            if span[0] <= first and last <= span[1]:
                around.append((span, node))
    if not around:
        return None
    # of lambdas in lambdas the innermost: it begins last
    _, node = max(around, key=lambda pair: pair[0][0])
    text = ast.get_source_segment(source, node) or ""
    return "\n".join(line.strip() for line in text.splitlines()) or None
