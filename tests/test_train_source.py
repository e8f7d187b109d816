"""A function that trains otherwise than before gets none of the results of before, as far as one sees."""

import functools
import linecache

import numpy as np
import pytest

import memlib
from memlib.data import ImageSet
from memlib.runs.store import StoreError

IMAGES = ImageSet.of(np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), np.uint8))


def asked(train, folder, settings=None):
    """The log-probabilities of two models, of now or of before."""
    result = memlib.cross_fit(train, IMAGES, 2, 1, folder=folder, settings=settings, progress=False)
    return result.log_px.values


class Says:
    """A model, and as a class a function that trains it."""

    rate = 1.0

    def __init__(self, images, seed):
        pass

    def log_prob(self, images):
        return np.full(len(images), self.rate)


def cell(source):
    """What a cell of a notebook defines last."""
    file = f"<cell {hash(source)}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    namespace = {"__name__": "no_module", "Says": Says, "numpy": np}
    exec(compile(source, file, "exec"), namespace)
    return list(namespace.values())[-1]


class Before:
    class Model(Says):
        rate = 1.0


class After:
    class Model(Says):
        rate = 2.0


def function(images, seed, rate=1.0, shift=0.0):
    model = Says(images, seed)
    model.rate = rate + shift
    return model


def positional(rate, images, seed):
    return function(images, seed, rate)


class Named:
    """An object with an attribute `func`, as a partial has."""

    func = staticmethod(function)

    def __call__(self, images, seed):
        return function(images, seed, 2.0)


def partials(*bound):
    """Arguments bound one after the other, in partials with attributes, of which Python does not make one."""
    made = function
    for keywords in bound:
        made = functools.update_wrapper(functools.partial(made, **keywords), function)
    return made


def capturing(rate):
    def train(images, seed):
        return function(images, seed, rate["rate"])

    return train


def wrapping(rate):
    train = capturing(rate)

    @functools.wraps(train)
    def wrapper(images, seed):
        return train(images, seed)

    return wrapper


def capturing_class(rate):
    class Trained(Says):
        def log_prob(self, images):
            return np.full(len(images), rate["rate"])

    return Trained


FUNCTION = "def train(images, seed):\n    model = Says(images, seed)\n    model.rate = {}\n    return model\n"
CLASS = "class Model(Says):\n    rate = {}\n    def __init__(self, images, seed):\n        pass\n"
METHOD = "class Model(Says):\n    def log_prob(self, images):\n        return numpy.full(len(images), {})\n"
LAMBDAS = [lambda images, seed: function(images, seed), lambda images, seed: function(images, seed, 2.0)]
CHANGED = {
    "its text": (cell(FUNCTION.format(1.0)), cell(FUNCTION.format(2.0))),
    "an attribute of a class": (Before.Model, After.Model),
    "an attribute of a class in a notebook": (cell(CLASS.format(1.0)), cell(CLASS.format(2.0))),
    "a method of a class in a notebook": (cell(METHOD.format(1.0)), cell(METHOD.format(2.0))),
    "which lambda of a line": LAMBDAS,
    "a captured value": (capturing({"rate": 1.0}), capturing({"rate": 2.0})),
    "a value captured by a method": (capturing_class({"rate": 1.0}), capturing_class({"rate": 2.0})),
    "a value captured by what it wraps": (wrapping({"rate": 1.0}), wrapping({"rate": 2.0})),
    "a bound argument": (functools.partial(function, rate=1.0), functools.partial(function, rate=2.0)),
    "that an argument is bound": (function, functools.partial(function, rate=2.0)),
    "a bound argument without a name": (
        functools.partial(positional, 1.0),
        functools.partial(positional, 2.0),
    ),
    "an argument of a partial of a partial": (
        partials({"rate": 1.0}, {"shift": 1.0}),
        partials({"rate": 2.0}, {"shift": 1.0}),
    ),
    "an argument that is bound anew": (
        partials({"rate": 0.0}, {"rate": 1.0}),
        partials({"rate": 0.0}, {"rate": 2.0}),
    ),
    "an attribute func that makes no partial": (function, Named()),
}


@pytest.mark.parametrize(("before", "now"), CHANGED.values(), ids=CHANGED)
def test_results_of_a_function_that_changed_are_refused(tmp_path, before, now):
    kept = asked(before, tmp_path / "kept")
    np.testing.assert_array_equal(asked(before, tmp_path / "kept"), kept)
    assert (asked(now, tmp_path / "new") != kept).all()
    with pytest.raises(
        StoreError, match=r"the source of train, or what it captures, has changed|train.* there"
    ):
        asked(now, tmp_path / "kept")


@pytest.mark.parametrize(
    ("before", "now"),
    [({"x": 1}, {"x": True}), ({"x": [1]}, {"x": [1.0]}), ({"x": None}, {})],
    ids=["a truth", "a fraction", "nothing"],
)
def test_settings_that_python_takes_for_equal_are_different(tmp_path, before, now):
    asked(function, tmp_path, before)
    with pytest.raises(StoreError, match=r"settings\.x is .* there and"):
        asked(function, tmp_path, now)


SAME = {
    "moved": (cell(FUNCTION.format(1.0)), cell("x = 3\n\n# elsewhere\n" + FUNCTION.format(1.0))),
    "a class that moved": (cell(CLASS.format(1.0)), cell("x = 3\n\n# elsewhere\n" + CLASS.format(1.0))),
    "a lambda of another statement": (
        cell("train = lambda images, seed: Says(images, seed)"),
        cell("def other(f): pass\n\ntrain = (lambda images, seed: Says(images, seed))  # 3\n"),
    ),
    "a partial that binds nothing": (function, functools.partial(function)),
}


@pytest.mark.parametrize(("before", "now"), SAME.values(), ids=SAME)
def test_results_of_the_same_function_elsewhere_are_used(tmp_path, before, now):
    np.testing.assert_array_equal(asked(before, tmp_path), asked(now, tmp_path))


@pytest.mark.parametrize(
    "train",
    [cell("class Model(Says):\n    rate = 1.0\n"), type("Made", (), {"__call__": positional})()],
    ids=["no method", "a method from elsewhere"],
)
def test_a_class_whose_text_is_not_found_keeps_results_with_settings_only(tmp_path, train):
    with pytest.raises(ValueError, match="settings is None, and train has no source"):
        asked(train, tmp_path / "new")
    assert not (tmp_path / "new").exists()
