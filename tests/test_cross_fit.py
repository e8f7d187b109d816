"""Any model is scored: closed forms, identities, folds of a run, interruptions, refusals, planted truth."""

import collections
import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import linecache
import sys
import textwrap
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.neighbors import KernelDensity
from torch.distributions import Bernoulli, Normal

import memlib
from memlib import metrics, planted, store
from memlib.data import ImageSet
from memlib.densities import fit_gaussian, gaussian_fold_scores, kfold_log_px
from memlib.latent_model import LatentModel
from memlib.pareto import khat_threshold
from memlib.store import StoreError
from memlib.train_source import settings_fields, source_sha256

cross_fit, score_models = memlib.cross_fit, memlib.score_models
RNG = np.random.default_rng(0)
IMAGES = ImageSet.of(RNG.integers(0, 256, (12, 1, 32, 32), np.uint8), RNG.integers(0, 3, 12))
SIZES = {"folds": 3, "repeats": 2, "progress": False}


def features(images):
    """Three numbers of every image, (n, 3)."""
    return images.images[:, 0, 0, :3] / 255.0


class Gaussian:
    """The mean of its training images, and a known variance."""

    def __init__(self, images, seed=0):
        self.log_density = fit_gaussian(features(images), 0.1)

    def log_prob(self, images):
        return self.log_density(features(images))


def mean_of(images, seed):
    return Gaussian(images)


class Given:
    """A model that says what it is told."""

    def __init__(self, values):
        self.values = values

    def log_prob(self, images):
        return self.values


def constant(images, seed):
    """A model that has seen nothing of its training set."""
    return Given(-(np.arange(12.0) ** 2))


def test_the_log_probabilities_are_those_of_the_models_without_each_fold():
    result = cross_fit(mean_of, IMAGES, **SIZES)
    fit = functools.partial(fit_gaussian, variance=0.1)
    expected = kfold_log_px(fit, features(IMAGES), result.fold_of.values)
    np.testing.assert_array_equal(result.log_px.values, expected[None])
    assert result.log_px.dims == ("epoch", "repeat", "fold", "observation")
    assert result.fold_of.dims == ("repeat", "observation") and result.log_px.attrs["units"] == "nats"
    np.testing.assert_array_equal(result["index"], IMAGES.index)
    np.testing.assert_array_equal(result.label, IMAGES.labels)


def test_scores_approach_their_closed_form_with_many_repeats():
    result = cross_fit(mean_of, IMAGES, folds=3, repeats=400, progress=False)
    scores = memlib.memorization(result, "matched").isel(epoch=0)
    x, covariance = features(IMAGES), 0.1 * np.eye(3)
    truths = gaussian_fold_scores(x, 3, covariance, 0.0)
    for name, truth in zip("UVM", truths, strict=True):
        # the closed form takes means of 8 of 12 as normal; errors of that are far below the spread
        np.testing.assert_allclose(scores[name], truth, atol=0.05 * truths[0].std(), err_msg=name)
    assert scores.M.values.std() > 0.1 * truths[0].std()


def test_a_model_that_ignores_its_training_images_has_a_matched_score_of_exactly_zero():
    result = cross_fit(constant, IMAGES, **SIZES)
    scores = memlib.memorization(result, "matched")
    assert (scores.M == 0).all() and (scores.gap == 0).all() and (scores.M_se == 0).all()
    np.testing.assert_array_equal(scores.U[0], -(np.arange(12.0) ** 2))
    assert (memlib.p_values(result) == 1).all()


def test_folds_are_those_of_a_run_with_the_same_seed(tmp_path):
    sizes = {"folds": 3, "repeats": 2, "seed": 7}
    spec = memlib.variant("digits-lr3", num_images=31, epochs=1, num_samples=2, rescoring=1, **sizes)
    run = memlib.run(spec, tmp_path, progress=False)
    images = spec.load_images()
    result = cross_fit(mean_of, images, **sizes, progress=False)
    np.testing.assert_array_equal(result.fold_of, run.fold_of)
    np.testing.assert_array_equal(result["index"], run["index"])
    for name in ("log_px", "fold_of"):
        assert result[name].dims == run[name].dims and result[name].shape == run[name].shape
    assert {*result.coords} == {*run.coords} - {"train_epoch"}


def test_every_model_gets_its_own_images_labels_and_seed():
    calls = []

    def train(images, seed):
        calls.append((images, seed))
        return Given(np.zeros(12))

    result = cross_fit(train, IMAGES, **SIZES, seed=3)
    for (images, _), (repeat, fold) in zip(calls, np.ndindex(2, 3), strict=True):
        kept = np.flatnonzero(result.fold_of[repeat] != fold)
        np.testing.assert_array_equal(images.index, kept)
        np.testing.assert_array_equal(images.images, IMAGES.images[kept])
        np.testing.assert_array_equal(images.labels, IMAGES.labels[kept])
    seeds = [seed for _, seed in calls]
    assert len(set(seeds)) == 6 and all(type(s) is int and 0 <= s < 2**31 for s in seeds)
    first, calls = seeds, []
    cross_fit(train, IMAGES, **SIZES, seed=3)
    assert [seed for _, seed in calls] == first
    calls = []
    cross_fit(train, IMAGES, **SIZES, seed=4)
    assert not {seed for _, seed in calls} & {*first}


class Train:
    """Trains Gaussians, counts, and fails at the call that it is told to."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def __call__(self, images, seed):
        if len(self.calls) == self.fail_at:
            raise RuntimeError("out of memory")
        self.calls.append(seed)
        return Gaussian(images)


def test_an_interrupted_cross_fit_goes_on_where_it_stopped(tmp_path):
    whole = Train()
    expected = cross_fit(whole, IMAGES, **SIZES, folder=tmp_path / "whole")
    failing, rest = Train(fail_at=4), Train()
    with pytest.raises(RuntimeError, match="out of memory") as error:
        cross_fit(failing, IMAGES, **SIZES, folder=tmp_path / "part")
    assert error.value.__notes__ == [
        f"raised by train(images, seed={whole.calls[4]}) for the model of repeat 1, fold 1"
    ]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "part").glob("*.npz")}
    assert len(kept) == 4
    result = cross_fit(rest, IMAGES, **SIZES, folder=tmp_path / "part")  # while `error` holds its frames
    assert rest.calls == whole.calls[4:]
    assert result.log_px.values.tobytes() == expected.log_px.values.tobytes()
    xr.testing.assert_identical(result.drop_attrs(), expected.drop_attrs())
    assert result.request == expected.request and result.folder == str(tmp_path / "part")
    for name, content in kept.items():
        assert (tmp_path / "part" / name).read_bytes() == content
    again = Train()
    xr.testing.assert_identical(cross_fit(again, IMAGES, **SIZES, folder=tmp_path / "part"), result)
    assert not again.calls
    in_memory = cross_fit(Train(), IMAGES, **SIZES)
    xr.testing.assert_identical(in_memory.drop_attrs(), expected.drop_attrs())


def test_more_repeats_add_to_those_that_are_there(tmp_path):
    first, more, fewer = Train(), Train(), Train()
    two = cross_fit(first, IMAGES, **SIZES, folder=tmp_path)
    four = cross_fit(more, IMAGES, **(SIZES | {"repeats": 4}), folder=tmp_path)
    assert len(first.calls) == len(more.calls) == 6 and not {*first.calls} & {*more.calls}
    xr.testing.assert_identical(four.isel(repeat=[0, 1]).drop_attrs(), two.drop_attrs())
    one = cross_fit(fewer, IMAGES, **(SIZES | {"repeats": 1}), folder=tmp_path)
    assert not fewer.calls and one.sizes["repeat"] == 1
    assert len(json.loads(one.runs)) == 3 and len(json.loads(four.runs)) == 12


def _other(**changes):
    fields = ("images", "labels", "classes", "name", "split", "index")
    return ImageSet(**({name: getattr(IMAGES, name) for name in fields} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 4}, "folds is 3 there and 4 in the request"),
        ({"seed": 1}, "seed is 0 there and 1 in the request"),
        ({"settings": {"bandwidth": 0.5}}, "settings.bandwidth is '0.3' there and '0.5' in the request"),
        ({"settings": {}}, "settings.bandwidth is '0.3' there and None in the request"),
        ({"settings": {"bandwidth": None}}, "settings.bandwidth is '0.3' there and 'null' in the request"),
        ({"images": _other(images=255 - IMAGES.images)}, "train_sha256 is '.*' there and '.*' in the"),
        ({"images": _other(labels=IMAGES.labels[::-1])}, "labels_and_index_sha256 is '.*' there and '"),
        ({"images": _other(index=IMAGES.index[::-1])}, "labels_and_index_sha256 is '.*' there and '"),
    ],
)
def test_results_for_other_settings_are_refused_before_anything_is_trained(tmp_path, changes, message):
    request = {"images": IMAGES, "settings": {"bandwidth": 0.3}, "folder": tmp_path} | SIZES
    cross_fit(Train(), **request)
    train, before = Train(), sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match=message):
        cross_fit(train, **(request | changes | {"repeats": 5}))
    assert not train.calls and sorted(tmp_path.iterdir()) == before
    assert cross_fit(train, **request).sizes["repeat"] == 2 and not train.calls


def _module(path, source):
    """A fresh module of that source."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    importlib.invalidate_caches()
    return module


SOURCE = "import numpy as np\n\nclass M:\n    log_prob = lambda self, x: np.zeros(len(x))\n\n"


def test_results_of_a_function_that_changed_are_refused(tmp_path):
    plain = "def train(images, seed):\n    return M()\n"
    first = _module(tmp_path / "one.py", SOURCE + plain)
    same = _module(tmp_path / "two.py", SOURCE + "# elsewhere\n\n" + plain)
    changed = _module(tmp_path / "three.py", SOURCE + plain.replace("M()", "M() or None"))
    options = {"folder": tmp_path / "results", **SIZES}
    cross_fit(first.train, IMAGES, **options)
    cross_fit(same.train, IMAGES, **options)
    cross_fit(functools.partial(first.train), IMAGES, **options)
    with pytest.raises(
        StoreError, match="the source of train, or what it captures, has changed; it is left as"
    ):
        cross_fit(changed.train, IMAGES, **(options | {"repeats": 3}))
    method = "\n    def __init__(self, images, seed):\n        self.seed = seed\n"
    first = _module(tmp_path / "four.py", SOURCE + method)
    changed = _module(tmp_path / "five.py", SOURCE + method.replace("= seed", "= -seed"))
    cross_fit(first.M, IMAGES, **SIZES, folder=tmp_path / "class")
    with pytest.raises(StoreError, match="the source of train, or what it captures, has changed"):
        cross_fit(changed.M, IMAGES, **SIZES, folder=tmp_path / "class")


def test_settings_that_python_takes_for_equal_are_different(tmp_path):
    for name, one, other in (("x", 1, True), ("y", None, "absent"), ("z", [1], [1.0])):
        few = {"folder": tmp_path / name} | SIZES
        cross_fit(constant, IMAGES, settings={name: one}, **few)
        with pytest.raises(StoreError, match=rf"settings\.{name} is .* there and"):
            cross_fit(constant, IMAGES, settings={} if other == "absent" else {name: other}, **few)


def _partial(images, seed=0, shift=0.0, scale=1.0):
    return Given(shift - scale * np.arange(12.0))


def _positional(shift, images, seed):
    return Given(shift - np.arange(12.0))


def nested(*bound):
    """A function with arguments bound one after the other, in partials that Python does not make one."""
    made = _partial
    for keywords in bound:
        made = functools.update_wrapper(functools.partial(made, **keywords), _partial)
    return functools.partial(made, scale=2.0)


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        (
            functools.partial(_partial, shift=1.0),
            functools.partial(_partial, shift=2.0),
            r"train\.shift is '1.0' there and '2.0' in",
        ),
        (functools.partial(_partial, shift=1.0), _partial, r"train\.shift is '1.0' there and None"),
        (functools.partial(_positional, 3), functools.partial(_positional, 4), r"train\[0\] is '3' there"),
        (nested({"shift": 1.0}), nested({"shift": 2.0}), r"train\.shift is '1.0' there and '2.0' in"),
        (
            nested({"shift": 1.0}, {"shift": 2.0}),
            nested({"shift": 1.0}),
            r"train\.shift is '2.0' there and '1.",
        ),
    ],
)
def test_arguments_bound_by_partial_are_part_of_the_request(tmp_path, first, other, message):
    cross_fit(first, IMAGES, **SIZES, folder=tmp_path)
    cross_fit(first, IMAGES, **SIZES, folder=tmp_path)
    with pytest.raises(StoreError, match=message):
        cross_fit(other, IMAGES, **SIZES, folder=tmp_path)


def test_arguments_of_nested_partials_come_in_the_order_of_the_call():
    inner = functools.partial(print, 1, 2, sep="a", end="b")
    inner.about = "an attribute"
    outer = functools.partial(inner, 3, sep="c")
    assert outer.func is inner
    assert settings_fields(outer, {"sep": "d"}) == {
        "settings.sep": '"d"',
        **{"train[0]": "1", "train[1]": "2", "train[2]": "3", "train.sep": '"c"', "train.end": '"b"'},
    }


def capturing(value, wrapped=False):
    """A function that captures a value, or one that wraps it."""

    def train(images, seed):
        return Given(np.zeros(12)) if value else None

    @functools.wraps(train)
    def wrapper(images, seed):
        return train(images, seed)

    return wrapper if wrapped else train


def capturing_class(value):
    class Trained:
        def __init__(self, images, seed):
            self.value = value

        @staticmethod
        def log_prob(images):
            return np.zeros(12)

    return Trained


@pytest.mark.parametrize("made", [capturing, capturing_class, lambda v: capturing(v, wrapped=True)])
def test_json_values_that_train_captures_are_part_of_it(tmp_path, made):
    few = {"folder": tmp_path} | SIZES
    cross_fit(made({"sizes": [32, 64]}), IMAGES, **few)
    cross_fit(made({"sizes": [32, 64]}), IMAGES, **few)
    with pytest.raises(StoreError, match="the source of train, or what it captures, has changed"):
        cross_fit(made({"sizes": [32, 65]}), IMAGES, **few)
    different = [None, True, 1, 1.0, "1", [1], {"a": 1}, {"a": 2}]
    assert len({source_sha256(made(value)) for value in different}) == len(different)
    assert len({source_sha256(made(value)) for value in (object(), len, {"a": {1}})}) == 1


def test_a_function_that_captures_no_json_values_is_its_source_alone():
    text = textwrap.dedent(inspect.getsource(capturing(len))).strip()
    assert source_sha256(capturing(len)) == hashlib.sha256(text.encode()).hexdigest()
    text = inspect.getsource(mean_of).strip()
    assert source_sha256(mean_of) == hashlib.sha256(text.encode()).hexdigest()

    def late(images, seed):
        return defined_later

    assert source_sha256(late)
    defined_later = 1


def test_an_attribute_func_makes_no_partial(tmp_path):
    class Named(Train):
        func = staticmethod(_partial)

    cross_fit(Named(), IMAGES, **SIZES, folder=tmp_path)
    with pytest.raises(StoreError, match="the source of train, or what it captures, has changed"):
        cross_fit(_partial, IMAGES, **SIZES, folder=tmp_path)


def test_a_function_without_source_needs_settings_to_be_kept(tmp_path):
    namespace = {}
    exec(SOURCE + "def train(images, seed):\n    return M()\n", namespace)
    options = {"folder": tmp_path / "new", **SIZES}
    with pytest.raises(ValueError, match=r"settings is None, and train has no source .*; allowed: settings"):
        cross_fit(namespace["train"], IMAGES, **options)
    assert not (tmp_path / "new").exists()
    cross_fit(namespace["train"], IMAGES, **SIZES)
    cross_fit(namespace["train"], IMAGES, settings={"version": 1}, **options)
    with pytest.raises(StoreError, match=r"settings\.version is '1' there and '2' in"):
        cross_fit(namespace["train"], IMAGES, settings={"version": 2}, **options)


def cell(name, source):
    """The names that a cell of a notebook defines."""
    file = f"<{name}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    namespace = {"__name__": "no_module"}
    exec(compile(source, file, "exec"), namespace)
    return namespace


def test_a_class_is_its_whole_source_in_a_module_and_in_a_notebook(tmp_path, monkeypatch):
    body = "class M:\n    bandwidth = {}\n    def __init__(self, images, seed):\n        pass\n"
    modules = [_module(tmp_path / f"own_{n}.py", body.format(n)) for n in (1, 2)]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)  # as an import does
    one, other = (module.M for module in modules)
    assert source_sha256(one) and source_sha256(one) != source_sha256(other)
    made = "    made = eval('lambda self: 1')\n"  # a method without source
    cells = {
        "same": body.format(1) + made,
        "again": "x = 3\n\n" + body.format(1) + made + "\nclass N(M):\n    def f(self): pass\n",
        "method": body.format(1).replace("pass", "1 + 1") + made,
        "value": body.format(2) + made,
        "decorator": "@(lambda c: c)\n" + body.format(1) + made,
    }
    pages = {name: source_sha256(cell(name, source)["M"]) for name, source in cells.items()}
    assert pages["same"] == pages["again"] and len(set(pages.values())) == 4 and None not in pages.values()
    assert source_sha256(cell("plain", body.format(1))["M"]) == source_sha256(one)


def test_a_class_within_one_of_its_name_is_itself():
    inner = "class M:\n    rate = {}\n    class M:\n        def f(self): pass\n    def g(self): pass\n"
    one, other = (cell(f"nested {n}", inner.format(n))["M"] for n in (1, 2))
    assert source_sha256(one) != source_sha256(other) and source_sha256(one.M) == source_sha256(other.M)


def test_a_class_that_cannot_be_found_in_a_notebook_needs_settings(tmp_path):
    no_methods = cell("no methods", "class M:\n    rate = 1\n")["M"]
    assert source_sha256(no_methods) is None
    borrowed = type("Made", (), {"__call__": constant})
    assert source_sha256(borrowed) is None
    with pytest.raises(ValueError, match="settings is None, and train has no source"):
        cross_fit(borrowed(), IMAGES, **SIZES, folder=tmp_path / "new")


def test_a_lambda_is_its_own_text_and_not_the_statement(tmp_path):
    sources = {
        "a": "x = [lambda i, s: M(), lambda i, s: None]",
        "b": "if True:\n    y = 3, (lambda i, s: M()), dict(z=lambda i, s: 0)",
        "c": "x = lambda i, s: M(1), lambda i, s: None",
        "d": "x = lambda f: (lambda i, s: M())",
    }
    found = {name: _module(tmp_path / f"{name}.py", SOURCE + text) for name, text in sources.items()}
    a, b, c = found["a"].x[0], found["b"].y[1], found["c"].x[0]
    assert source_sha256(a) == source_sha256(b) == source_sha256(found["d"].x(0))
    others = [source_sha256(f) for f in (a, c, found["a"].x[1], found["d"].x, found["b"].M.log_prob)]
    assert None not in others and len(set(others)) == 5


def test_damaged_and_misplaced_files_are_refused_before_anything_is_trained(tmp_path):
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)
    path, train = tmp_path / "repeat-000-fold-01.npz", Train()
    content = bytearray(path.read_bytes())
    position = content.index(np.load(path)["log_px"].tobytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"repeat-000-fold-01\.npz is damaged"):
        cross_fit(train, IMAGES, **(SIZES | {"repeats": 3}), folder=tmp_path)
    path.unlink()
    (tmp_path / "repeat-001-fold-01.npz").rename(path)
    with pytest.raises(StoreError, match=r"was written as repeat-001-fold-01\.npz"):
        cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
    assert not train.calls
    path.unlink()
    cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
    assert len(train.calls) == 2


def test_models_of_other_folds_are_refused(tmp_path):
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)
    path = tmp_path / "repeat-001-fold-01.npz"
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    store.write(path, arrays | {"held_out": arrays["held_out"][::-1]}, record)
    train = Train()
    for repeats in (3, 1):  # before anything is trained, also where the repeat is not asked for
        options = SIZES | {"repeats": repeats}
        with pytest.raises(StoreError, match="has other folds than this version of NumPy draws"):
            cross_fit(train, IMAGES, **options, folder=tmp_path)
    assert not train.calls


def test_processes_that_ask_for_the_same_share_the_work(tmp_path, caplog):
    """Two threads with a lock each, as processes have; the second finds one model claimed and waits."""
    begun, go = threading.Event(), threading.Event()
    calls = collections.deque()  # a list would be JSON, and with each entry another function

    def train(images, seed):
        calls.append(seed)
        begun.set()
        go.wait(20)
        return Gaussian(images)

    options = {"folder": tmp_path, **SIZES}
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(cross_fit(train, IMAGES, **options))) for _ in range(2)
    ]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    deadline = time.monotonic() + 20
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join()
    assert len(calls) == len(set(calls)) == 6
    xr.testing.assert_identical(*results)


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: x.astype(np.float32),
        lambda x: x.tolist(),
        lambda x: torch.tensor(x),
        lambda x: torch.tensor(x, dtype=torch.float32, requires_grad=True),
        lambda x: torch.tensor(x).long(),
    ],
    ids=["float32", "list", "tensor", "with gradients", "whole numbers"],
)
def test_arrays_and_tensors_of_any_type_are_taken(returned):
    values = -np.arange(12.0)
    result = cross_fit(lambda images, seed: Given(returned(values)), IMAGES, **SIZES)
    assert result.log_px.dtype == np.float64 and (result.log_px == values).all()


@given(
    st.lists(st.floats(allow_infinity=True, allow_nan=True), min_size=12, max_size=12).map(np.array),
)
def test_what_is_no_log_probability_is_refused_and_minus_infinity_is_not(values):
    if np.isnan(values).any() or np.isposinf(values).any():
        bad = int((np.isnan(values) | np.isposinf(values)).sum())
        with pytest.raises(ValueError, match=rf"of repeat 0, fold 0 returned NaN or \+inf for {bad} of 12"):
            cross_fit(lambda images, seed: Given(values), IMAGES, **SIZES)
    else:
        result = cross_fit(lambda images, seed: Given(values), IMAGES, **SIZES)
        assert (result.log_px == values).all()


def test_the_model_and_the_images_that_are_refused_are_named(tmp_path):
    count = iter(range(9))

    def train(images, seed):
        values = np.zeros(12)
        values[[2, 5]] = [np.nan, np.inf] if next(count) == 4 else 0
        return Given(values)

    message = r"repeat 1, fold 1 returned .* 2 of 12 images \(nan for image 2, inf for image 5\); allowed"
    with pytest.raises(ValueError, match=message):
        cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
    assert len([*tmp_path.glob("*.npz")]) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, r"the model of repeat 0, fold 0 is a NoneType; allowed: an object with a method log_prob"),
        (Given(np.zeros((12, 1))), r"fold 0 returned float64 \(12, 1\); allowed: numbers \(12,\), one per"),
        (Given(np.zeros(11)), r"returned float64 \(11,\); allowed: numbers \(12,\)"),
        (Given(torch.zeros(())), r"returned float64 \(\)"),
        (Given(np.zeros(12, bool)), r"returned bool \(12,\); allowed: numbers"),
        (Given(np.zeros(12, complex)), r"returned complex128 \(12,\)"),
        (Given(["a"] * 12), r"returned <U1 \(12,\)"),
        (Given(None), r"returned object \(\)"),
        (Given(np.zeros(12, np.float16)), r"returned float16; allowed: floating point of 32 bits or more"),
        (Given(torch.zeros(12, dtype=torch.bfloat16)), r"returned torch.bfloat16; allowed: floating point"),
    ],
)
def test_models_that_cannot_be_scored_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        cross_fit(lambda images, seed: model, IMAGES, **SIZES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 3}, "train is a int; allowed: a function of images and a seed"),
        ({"images": IMAGES.images}, "images is a ndarray; allowed: an ImageSet, as load_images or ImageSet"),
        ({"folds": 1}, "folds is 1; allowed: 2 or more"),
        ({"folds": 13}, "folds is 13; allowed: at most the number of images, 12"),
        ({"folds": 2.0}, "folds is 2.0 .*allowed: int"),
        ({"repeats": 0}, "repeats is 0; allowed: 1 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"settings": {"f": len}}, r"settings is .*not JSON serializable\); allowed: JSON values by name"),
        ({"settings": {"x": np.nan}}, "settings is .*nan.*; allowed: JSON values by name"),
        ({"settings": 3}, "settings is 3 .*allowed: JSON values by name"),
        ({"settings": {1: "a"}}, "settings has the key 1; allowed: strings as keys"),
        ({"settings": {None: 1}}, "settings has the key None; allowed: strings"),
        (
            {"train": functools.partial(_partial, shift=np.zeros(2))},
            r"settings, as arguments of functools.partial, is .*not JSON serializable\); allowed: JSON",
        ),
        ({"folder": __file__}, "the results folder is .*which is a file"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(changes, message):
    train = Train()
    with pytest.raises(ValueError, match=message):
        cross_fit(**({"train": train, "images": IMAGES, **SIZES} | changes))
    assert not train.calls


def test_models_trained_elsewhere_give_the_same(tmp_path):
    result = cross_fit(mean_of, IMAGES, **SIZES, seed=2)
    fold_of = result.fold_of.values
    models = [[mean_of(IMAGES.subset(np.flatnonzero(row != k)), 0) for k in range(3)] for row in fold_of]
    loaded = []

    def load(repeat, fold):
        loaded.append((repeat, fold))
        return models[repeat][fold]

    digest = hashlib.sha256(fold_of.astype(np.int64).tobytes()).hexdigest()
    for given_models, folds in (
        (models, fold_of),
        (load, fold_of.astype(np.uint8)),
        (np.array(models), fold_of),
    ):
        again = score_models(given_models, folds, IMAGES, seed=2, progress=False)
        xr.testing.assert_identical(again.drop_attrs(), result.drop_attrs())
        assert again.fold_of.dtype == np.int64
        request = json.loads(again.request)
        assert request["fold_of_sha256"] == digest and "seed" not in request
    assert loaded == [*np.ndindex(2, 3)]
    memlib.write_scores(tmp_path / "scores.parquet", again, IMAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold_of": np.zeros(12, int)}, r"fold_of is int64 \(12,\); allowed: integers \(L, n\)"),
        ({"fold_of": np.zeros((2, 12))}, r"fold_of is float64 \(2, 12\); allowed: integers"),
        ({"fold_of": np.arange(22).reshape(2, 11) % 3}, "fold_of is of 11 images; allowed: the 12 given"),
        ({"fold_of": np.zeros((2, 12), int)}, "folds is 1; allowed: 2 or more"),
        ({"fold_of": np.arange(24).reshape(2, 12) % 3 - 1}, r"repeat 0 has not all folds 0..1, or others"),
        (
            {"fold_of": np.stack([np.arange(12) % 3, np.arange(12) % 2])},
            r"fold_of of repeat 1 has not all folds 0..2",
        ),
        ({"models": [[Given(0)] * 3]}, r"models are \[3\] by repeat; allowed: \[3, 3\]"),
        ({"models": [[Given(0)] * 2] * 2}, r"models are \[2, 2\] by repeat; allowed: \[3, 3\]"),
        ({"models": [None, [Given(0)] * 3]}, r"models are \['NoneType', 3\] by repeat; allowed: \[3, 3\]"),
        ({"models": [[Given(0)] * 3, [Given(0)]]}, r"models are \[3, 1\] by repeat; allowed: \[3, 3\]"),
        ({"models": None}, "models is a NoneType; allowed: 2 lists of 3 models, or a function"),
        ({"fold_of": [[0, 1, 2], [0]]}, r"fold_of is no array .*allowed: integers \(L, n\)"),
        ({"images": IMAGES.images}, "images is a ndarray"),
    ],
)
def test_models_and_folds_that_do_not_fit_are_refused(changes, message):
    given_all = {"models": [[Given(np.zeros(12))] * 3] * 2, "fold_of": np.arange(24).reshape(2, 12) % 3}
    with pytest.raises(ValueError, match=message):
        score_models(**(given_all | {"images": IMAGES, "progress": False} | changes))


class Failing:
    def log_prob(self, images):
        raise ZeroDivisionError("no scale")


def test_what_fails_in_a_model_is_said_to_be_of_its_repeat_and_fold():
    models = [[Given(np.zeros(12))] * 3, [Given(np.zeros(12)), Failing(), Failing()]]
    fold_of = np.arange(24).reshape(2, 12) % 3
    with pytest.raises(ZeroDivisionError) as error:
        score_models(models, fold_of, IMAGES, progress=False)
    assert error.value.__notes__ == ["raised by log_prob(images) of the model of repeat 1, fold 1"]
    with pytest.raises(ZeroDivisionError) as error:
        score_models(lambda repeat, fold: 1 // repeat, fold_of, IMAGES, progress=False)
    assert error.value.__notes__ == ["raised by models(0, 0)"]


def latent(images, seed, num_samples=64, batch_size=512):
    """A linear-Gaussian model with noise of scale 1 around the mean, and a proposal that is too wide."""
    mean = torch.tensor(features(images).mean(0))

    def q(x):
        return Normal((x - mean) / 2, 1.0)  # the posterior has variance 1/2

    def p(z):
        return Normal(z + mean, 1.0)

    cut = lambda levels: levels[:, 0, 0, :3].double() / 255  # noqa: E731
    return LatentModel(q, p, num_samples, batch_size=batch_size, prepare=cut)


@pytest.mark.parametrize(
    ("odd", "field", "value", "message"),
    [
        (
            4,
            "batch_size",
            5,
            "batch_size of the .*repeat 1, fold 1 is 5, and of .*1, fold 0 it is 512; allowed",
        ),
        (
            4,
            "num_samples",
            9,
            "num_samples of the .* 1, fold 1 is 9, and of .*0, fold 0 it is 64; allowed: .*",
        ),
        (
            3,
            "num_samples",
            9,
            "num_samples of the model of repeat 1, fold 0 is 9, .* the same for all models",
        ),
    ],
)
def test_models_whose_noise_cannot_be_the_same_are_refused(tmp_path, odd, field, value, message):
    made = []

    def train(images, seed):
        made.append(latent(images, seed, **({field: value} if len(made) == odd else {})))
        return made[-1]

    for options in ({"folder": tmp_path}, {}):
        made.clear()
        with pytest.raises(ValueError, match=message):
            cross_fit(train, IMAGES, **SIZES, **options)
        assert len(made) == odd + 1
    assert len([*tmp_path.glob("*.npz")]) == odd
    fold_of = cross_fit(mean_of, IMAGES, **SIZES).fold_of
    with pytest.raises(ValueError, match=message):
        score_models([[*made, *[made[0]] * (5 - odd)][i : i + 3] for i in (0, 3)], fold_of, IMAGES)
    cross_fit(latent, IMAGES, **SIZES, folder=tmp_path / "other")
    runs = json.loads(cross_fit(latent, IMAGES, **SIZES, folder=tmp_path / "other").runs)
    assert all((r["device"], r["batch_size"], r["num_samples"]) == ("cpu", 512, 64) for r in runs)


def test_batches_may_differ_between_repeats_and_devices_not_within_one(tmp_path):
    made = collections.deque()

    def train(images, seed):
        made.append(latent(images, seed, batch_size=5 if len(made) < 3 else 512))
        return made[-1]

    result = cross_fit(train, IMAGES, **SIZES, folder=tmp_path)
    assert [run["batch_size"] for run in json.loads(result.runs)] == [5] * 3 + [512] * 3
    path = tmp_path / "repeat-000-fold-00.npz"
    record = store.read_record(path)
    arrays, _ = store.read(path, record["request"])
    store.write(path, arrays, record | {"run": record["run"] | {"device": "cuda"}})
    with pytest.raises(ValueError, match=r"device of .* 0, fold 1 is 'cpu', and of .* 0 it is 'cuda'"):
        cross_fit(train, IMAGES, **SIZES, folder=tmp_path)


def test_color_images_of_another_size_are_scored_to_the_end(tmp_path):
    """Images of 48 x 40 pixels with three channels and two classes, a quarter of them planted outliers."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(40, 200, 48)[:, None] + np.linspace(0, 40, 40)  # (48, 40)
    pixels = (ramp + rng.normal(0, 3, (70, 3, 48, 40))).astype(np.uint8)
    everything = ImageSet.of(pixels, np.arange(70) % 2)
    planting = planted.plant(everything, 40, copies={}, near=0, noise=0, outliers={1: 12})
    images, odd = planting.images, planting.kind == "outlier"
    assert images.images.shape == (52, 3, 48, 40)
    result = cross_fit(lambda images, seed: Kernel(images), images, **SIZES, folder=tmp_path / "results")
    M = memlib.memorization(result, "matched").M[0].values
    assert metrics.auc(M, odd)[1] > 0.8  # far from chance, 1/2
    path = tmp_path / "scores.parquet"
    memlib.write_scores(path, result, images)
    table = pq.read_table(path).to_pandas()
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images.images]
    assert table["image_sha256"].tolist() == hashes and len(set(hashes)) == 52
    np.testing.assert_array_equal(table["M_matched"], M)
    np.testing.assert_array_equal(table["label"], images.labels)
    cut = ImageSet.of(images.images[..., :32, :32], images.labels, images.name)
    with pytest.raises(StoreError, match=r"train_sha256 is '.*' there and '.*' in the request"):
        cross_fit(lambda images, seed: Kernel(images), cut, **SIZES, folder=tmp_path / "results")
    with pytest.raises(ValueError, match=r"the images are ImageSet\(.*others than the result's 52"):
        memlib.score_table(result, cut)


def test_latent_models_of_color_images_of_another_size_are_scored():
    """Every channel and pixel counts: their probabilities are those of independent coins."""
    images = ImageSet.of(np.random.default_rng(6).integers(0, 256, (9, 3, 48, 40), np.uint8))

    def train(images, seed):
        logits = torch.tensor(images.images).float().mean(0) / 255  # (3, 48, 40)
        return LatentModel(
            lambda x: Normal(torch.zeros(len(x), 2), 1.0),
            lambda z: Bernoulli(logits=logits.expand(len(z), 3, 48, 40)),
            num_samples=30,
            prepare=lambda levels: (levels > 127).float(),
        )

    result = cross_fit(train, images, **SIZES)
    x = (images.images > 127).reshape(9, -1)
    for repeat, fold in np.ndindex(2, 3):
        kept = images.images[result.fold_of.values[repeat] != fold]
        p = 1 / (1 + np.exp(-kept.mean(0, dtype=np.float64).ravel() / 255))
        expected = stats.bernoulli.logpmf(x, p).sum(1)
        np.testing.assert_allclose(result.log_px[0, repeat, fold], expected, rtol=1e-5)


def test_latent_models_carry_their_health_into_the_result_and_the_score_file(tmp_path):
    result = cross_fit(latent, IMAGES, **SIZES, folder=tmp_path / "results")
    x, means = features(IMAGES), []
    for row in result.fold_of.values:
        means.append([x[row != k].mean(0) for k in range(3)])
    exact = stats.norm.logpdf(x, np.array(means)[:, :, None], np.sqrt(2)).sum(-1)  # (L, K, n)
    error = np.sqrt(1 / result.ess - 1 / 64)
    assert (np.abs(result.log_px - exact) < 6 * error).all() and (np.abs(result.log_px - exact) > 0).all()
    assert result.ess.dims == result.log_px.dims and result.failing.dims == ("epoch", "repeat", "fold")
    assert (result.num_samples == 64).all() and result.num_samples.dims == result.khat.dims
    assert result.khat.dims == ("epoch", "repeat", "observation")
    paths = sorted((tmp_path / "results").glob("*.npz"))
    stored = [store.read(path, json.loads(result.request))[0] for path in paths]
    khat, ess = (np.stack([a[name] for a in stored]).reshape(2, 3, 12) for name in ("khat", "ess"))
    np.testing.assert_array_equal(result.khat[0], khat.max(axis=1))
    np.testing.assert_array_equal(result.ess[0], ess)
    np.testing.assert_array_equal(result.failing[0], (khat > khat_threshold(64)).mean(axis=2))
    assert np.ptp(khat, axis=1).min() > 0
    model = latent(IMAGES.subset(np.flatnonzero(result.fold_of[1] != 2)), 0)
    scored = [model.estimate(IMAGES, seed) for seed in range(40)]
    assert abs(khat.mean() - np.mean([s.khat.mean() for s in scored])) < 0.2  # that of 6 models and 40
    assert (memlib.memorization(result).M_se_sampling > 0).all()
    memlib.write_scores(tmp_path / "scores.parquet", result, IMAGES)
    table = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    np.testing.assert_allclose(table.khat, result.khat.max("repeat")[0], rtol=1e-6)
    np.testing.assert_allclose(table.ess, result.ess.min(("repeat", "fold"))[0], rtol=1e-6)
    assert (table.num_samples == 64).all() and (table.epoch == 0).all()
    again = cross_fit(latent, IMAGES, **SIZES, folder=tmp_path / "results")
    xr.testing.assert_identical(again, result)


def test_a_latent_model_with_a_log_prob_of_its_own_is_scored_by_that():
    values = -np.arange(12.0)

    class Own(LatentModel):
        def log_prob(self, images):
            return values

    class Inherits(LatentModel):
        pass

    def with_attribute(images, seed):
        model = latent(images, seed)
        model.log_prob = lambda images: values
        return model

    def as_type(kind):
        def train(images, seed):
            model = latent(images, seed)
            return kind(model.encoder, model.decoder, 64, prepare=model.prepare)

        return train

    for train in (as_type(Own), with_attribute):
        result = cross_fit(train, IMAGES, **SIZES)
        assert (result.log_px == values).all() and "ess" not in result
    inherited, expected = (cross_fit(train, IMAGES, **SIZES) for train in (as_type(Inherits), latent))
    xr.testing.assert_identical(inherited.drop_attrs(), expected.drop_attrs())


def test_the_models_of_a_repeat_share_their_noise_and_repeats_do_not():
    """Models that ignore their training images differ by noise alone: within a repeat not at all."""

    def train(images, seed):
        return latent(IMAGES, 0)

    log_px = cross_fit(train, IMAGES, **SIZES).log_px.values[0]
    assert (log_px == log_px[:, :1]).all() and (log_px[0] != log_px[1]).all()
    assert (cross_fit(train, IMAGES, **SIZES, seed=1).log_px.values[0] != log_px).all()
    models = [[latent(IMAGES, 0)] * 3] * 2
    fold_of = cross_fit(train, IMAGES, **SIZES).fold_of
    scored = score_models(models, fold_of, IMAGES, progress=False)
    np.testing.assert_array_equal(scored.log_px[0], log_px)
    assert json.loads(scored.request)["seed"] == 0


def test_exact_models_have_score_files_with_nulls_for_the_health(tmp_path):
    result = cross_fit(mean_of, IMAGES, **SIZES)
    assert {*result.data_vars} == {"log_px", "fold_of"}
    memlib.write_scores(tmp_path / "scores.parquet", result, IMAGES)
    table = pq.read_table(tmp_path / "scores.parquet")
    missing = {name for name in table.column_names if table[name].null_count}
    assert missing == {"khat", "ess", "num_samples", "M_se_sampling"}
    np.testing.assert_array_equal(table["M"], memlib.memorization(result).M[0])
    with pytest.raises(ValueError, match=r"allowed: .* or those given to cross_fit"):
        memlib.score_table(result, IMAGES.subset(np.arange(11)))


def test_the_bar_counts_the_models_that_are_trained(tmp_path, bars, monkeypatch):
    module = importlib.import_module("memlib.cross_fit")
    monkeypatch.setattr(module, "progress_bar", importlib.import_module("memlib.runs").progress_bar)
    with pytest.raises(RuntimeError):
        cross_fit(Train(fail_at=4), IMAGES, **SIZES, folder=tmp_path)
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)
    cross_fit(Train(), IMAGES, **SIZES, folder=tmp_path)  # nothing to do, no bar
    cross_fit(Train(), IMAGES, **SIZES)
    assert [(bar.total, bar.done) for bar in bars] == [(6, 4), (2, 2), (6, 6)]


def test_the_bar_moves_after_every_model(tmp_path, monkeypatch):
    module, events = importlib.import_module("memlib.cross_fit"), []

    class Bar(contextlib.nullcontext):
        def update(self, count):
            events.append(count)

    monkeypatch.setattr(module, "progress_bar", lambda *_, **__: Bar(Bar()))

    def train(images, seed):
        events.append("trained")
        return Given(np.zeros(12))

    for options in ({"folder": tmp_path}, {}):
        events.clear()
        cross_fit(train, IMAGES, **SIZES, **options)
        assert events == ["trained", 1] * 6


class Kernel:
    """Scikit-learn's kernel density."""

    def __init__(self, images):
        self.density = KernelDensity(bandwidth=0.3).fit(self.pixels(images))

    @staticmethod
    def pixels(images):
        return images.images[:, :, ::2, ::2].reshape(len(images), -1) / 255.0

    def log_prob(self, images):
        return self.density.score_samples(self.pixels(images))


@pytest.fixture(scope="module")
def planting():
    digits = memlib.load_images("digits")
    return planted.plant(digits, 60, copies={2: 15}, near=0, outliers={1: 10}, noise=0)


def test_a_kernel_density_finds_planted_outliers_and_copies(planting):
    result = cross_fit(lambda images, seed: Kernel(images), planting.images, progress=False)
    M = memlib.memorization(result, "matched").M[0].values
    for kind, sign in (("outlier", 1), ("copy", -1)):
        among = np.isin(planting.kind, ["ordinary", kind])
        area, low, _ = metrics.auc(sign * M[among], planting.kind[among] == kind)
        # narrow kernels: M is how much an image's own kernel adds, most where no other is near, log 2 for a
        # copy; the interval of 10 or 30 images against 60 must be far from chance, 1/2
        assert low > 0.8, (kind, area, low)
    median = {kind: np.median(M[planting.kind == kind]) for kind in set(planting.kind)}
    assert median["outlier"] > 5 * median["ordinary"] > 25 * median["copy"]
    assert memlib.memorized(result)[0].values[planting.kind == "outlier"].all()
