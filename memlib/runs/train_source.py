"""What is known of a function that trains models: the arguments bound to it, and a hash of its source."""

import ast
import contextlib
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from memlib.runs.store import Record

_Span = tuple[tuple[int, int], tuple[int, int]]  # first and last place, as line and byte of the line


def settings_fields(train: Callable, settings: Mapping[str, Any] | None) -> Record:
    """Settings, and the arguments that `functools.partial` has bound, as fields of a request.

    Args:
        train: the function that trains.
        settings: JSON values by name, or None.

    Returns:
        JSON texts by name, as values that are equal in Python, such as 1 and True, are different settings.

    Raises:
        ValueError: values that are not JSON, or names that are not strings.
    """
    args, keywords = (), {}
    while isinstance(train, functools.partial):  # those with attributes are nested
        args, keywords, train = train.args + args, train.keywords | keywords, train.func
    what = "settings, as arguments of functools.partial,"
    return (
        _json_fields("settings", "settings.{}", settings)
        | _json_fields(what, "train[{}]", {str(i): value for i, value in enumerate(args)})
        | _json_fields(what, "train.{}", keywords)
    )


def _json_fields(what: str, name: str, values: Mapping[Any, Any] | None) -> Record:
    try:
        named = {} if values is None else dict(values)
        texts = {key: json.dumps(value, allow_nan=False, sort_keys=True) for key, value in named.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is {values!r:.100} ({error}); allowed: JSON values by name") from error
    if odd := [key for key in named if not isinstance(key, str)]:
        raise ValueError(f"{what} has the key {odd[0]!r:.100}; allowed: strings as keys")
    return {name.format(key): text for key, text in texts.items()}


def source_sha256(train: Callable) -> str | None:
    """Hash of the source of a function, or of the class of an object that is called, and of what it captures.

    Of the variables of enclosing functions those enter that are JSON values. Other captured objects, globals,
    base classes, functions that it calls and attributes of objects do not. Of a lambda only its own text
    does, not the statement that it is in.

    Args:
        train: the function that trains, a class, or an object that can be called.

    Returns:
        64 hexadecimal digits, or None where there is no source.
    """
    while isinstance(train, functools.partial):
        train = train.func
    if inspect.isroutine(train):
        source, parts = _source(train), [train]
    else:
        owner = train if inspect.isclass(train) else type(train)
        source = _source(owner) or _class_text(owner)
        parts = _methods(owner) if "<locals>" in owner.__qualname__ else []
    text = "\n".join([source, *(line for part in parts for line in _captured(part))])
    return hashlib.sha256(text.encode()).hexdigest() if source else None


def _methods(owner: type) -> list[FunctionType]:
    """The functions of a class."""
    parts = [getattr(part, "__func__", part) for part in vars(owner).values()]
    return [part for part in parts if inspect.isfunction(part)]


def _captured(part: Callable) -> list[str]:
    """The JSON values that a function, and those it wraps, have from enclosing functions, a line each."""
    part = getattr(part, "__func__", part)
    lines = []
    names = part.__code__.co_freevars if inspect.isfunction(part) else ()
    for name, cell in zip(names, getattr(part, "__closure__", None) or (), strict=True):
        with contextlib.suppress(TypeError, ValueError):  # another object, or nothing as yet
            lines.append(f"{name} = {json.dumps(cell.cell_contents, sort_keys=True)}")
    return lines + (_captured(part.__wrapped__) if hasattr(part, "__wrapped__") else [])


def _class_text(owner: type) -> str:
    """The text of a class, cut out of the source of its methods; empty where that is not possible.

    Before Python 3.13 `inspect` finds the methods of a class in a notebook, and not the class.
    """
    for method in map(inspect.unwrap, _methods(owner)):
        try:
            lines = inspect.findsource(method)[0]
            tree, at = ast.parse("".join(lines)), method.__code__.co_firstlineno
        except (OSError, TypeError, SyntaxError, AttributeError):  # the last of a method that wraps a class
            continue
        around = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__
            if node.lineno <= at <= (node.end_lineno or 0)
        ]
        if around:
            node = max(around, key=lambda node: node.lineno)  # of classes in classes the innermost
            first = min(part.lineno for part in (node, *node.decorator_list))
            return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).strip()
    return ""


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
