"""k-hat against the reference, and against tails whose shape is known."""

import math
import warnings
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from memlib.psis import khat_threshold, khat_thresholds, pareto_k, tail_length

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # arviz announces its next version when imported
    from arviz import psislw

SIZES = [21, 22, 25, 64, 100, 225, 256, 512, 777, 1000]


def without(values, left, rng):
    """All but so many entries, at random places, have weight zero."""
    values[rng.permutation(len(values))[left:]] = -np.inf
    return values


KINDS = {
    "heavy": lambda rng, S: rng.standard_t(rng.uniform(1, 10), S) * rng.uniform(0.1, 20),
    "normal": lambda rng, S: rng.normal(rng.uniform(-1e4, 1e4), rng.uniform(0.01, 10), S),
    "bounded": lambda rng, S: -rng.gamma(rng.uniform(0.3, 3), rng.uniform(0.1, 10), S),
    "all equal": lambda rng, S: np.full(S, rng.normal()),
    "integers": lambda rng, S: np.round(rng.normal(0, rng.uniform(0.3, 20), S)),
    "rounded": lambda rng, S: np.round(rng.normal(0, rng.uniform(0.1, 3), S), 1),
    "half are zero": lambda rng, S: without(rng.normal(size=S), S - S // 2, rng),
    "few are not zero": lambda rng, S: without(rng.normal(size=S), int(rng.integers(1, 6)), rng),
    "enormous": lambda rng, S: rng.normal(size=S) * 10 ** rng.uniform(2, 6),
    "tiny": lambda rng, S: rng.normal(size=S) * 10 ** rng.uniform(-11, -3),
}


def reference(log_w):
    with np.errstate(all="ignore"):
        return float(psislw(log_w.copy())[1])


def rounding(log_w):
    """How far rounding may move a k-hat, on whatever processor.

    Weights relative to the largest are known to half an epsilon, and the fit divides by how far the tail's
    first quartile lies above its threshold.
    """
    w = np.exp(np.sort(log_w)[::-1][: tail_length(len(log_w)) + 1] - log_w.max())
    excess = w[w > w[-1]] - w[-1]  # descending
    return 1e-11 + 2 * np.finfo(float).eps / excess[-((len(excess) + 2) // 4)]


def test_a_thousand_weight_vectors_have_the_k_hat_of_arviz():
    rng, finite = np.random.default_rng(0), Counter()
    for i in range(1000):
        kind, S = list(KINDS)[i % len(KINDS)], int(rng.choice(SIZES))
        log_w = KINDS[kind](rng, S)
        expected, ours = reference(log_w), float(pareto_k(torch.tensor(log_w)))
        if np.isfinite(expected):
            assert ours == pytest.approx(expected, abs=rounding(log_w)), (kind, S, i)
            finite[kind] += 1
        else:
            assert ours == math.inf, (kind, S, i)
    assert finite.keys() == KINDS.keys() - {"all equal"}
    assert all(finite[kind] < 100 for kind in ("integers", "few are not zero", "enormous"))


@pytest.mark.parametrize("k", [-0.5, 0.1, 0.5, 0.7, 1.0, 1.5])
def test_k_hat_is_the_shape_of_a_generalized_pareto_tail(k):
    """Ten observations of the prior count for k = 0.5."""
    rng, S, rows = np.random.default_rng(0), 20_000, 40
    w = scipy.stats.genpareto.rvs(k, size=(rows, S), random_state=rng)
    khat, M = pareto_k(torch.tensor(np.log(w))).numpy(), tail_length(S)
    expected = (M * k + 5) / (M + 10)
    assert khat.mean() == pytest.approx(expected, abs=4 * khat.std() / math.sqrt(rows) + 0.02)
    assert khat.std() < 2 * (1 + abs(k)) / math.sqrt(M)


@given(st.integers(0, 1000), st.floats(-1e3, 1e3), st.sampled_from(SIZES))
def test_neither_a_constant_nor_the_order_matters(seed, shift, S):
    rng = np.random.default_rng(seed)
    log_w = rng.normal(0, rng.uniform(0.1, 5), S)
    base = pareto_k(torch.tensor(log_w)).item()
    assert math.isfinite(base)
    assert pareto_k(torch.tensor(log_w + shift)).item() == pytest.approx(base, abs=1e-6)
    assert pareto_k(torch.tensor(rng.permutation(log_w))).item() == base


@pytest.mark.parametrize("block", [None, 1])
def test_many_rows_at_once_are_each_by_itself(monkeypatch, block):
    rng = np.random.default_rng(0)
    rows = np.stack([draw(rng, 64) for draw in KINDS.values()] + [np.full(64, -np.inf)] * 2)
    log_w = torch.tensor(rows).reshape(3, 4, 64)
    alone = torch.stack([pareto_k(row) for row in log_w.reshape(12, 64)])
    if block:
        monkeypatch.setattr("memlib.psis._BLOCK", block)
    together = pareto_k(log_w)
    assert together.shape == (3, 4) and together.dtype == torch.float64
    torch.testing.assert_close(together.flatten(), alone, rtol=1e-12, atol=0)
    assert alone.isfinite().any() and alone[-2:].tolist() == [math.inf] * 2


def test_too_few_samples_and_differences_at_the_limit_of_the_precision_have_none():
    log_w = torch.randn(2, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for S in (1, 2, 19, 20):
        assert pareto_k(log_w[:, :S]).tolist() == [math.inf] * 2
    assert pareto_k(log_w).isfinite().all()
    assert pareto_k(log_w * 1e-17).tolist() == [math.inf] * 2


def test_single_precision_is_the_same_number_in_double():
    log_w = torch.randn(7, 200, generator=torch.Generator().manual_seed(0))
    assert log_w.dtype == torch.float32
    khat = pareto_k(log_w)
    assert khat.dtype == torch.float64 and torch.equal(khat, pareto_k(log_w.double()))


@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_no_samples_are_named(shape):
    with pytest.raises(ValueError, match=r"log_w has shape .*\); allowed: \(..., S\), at least one"):
        pareto_k(torch.zeros(shape))


@pytest.mark.parametrize(
    ("S", "threshold"),
    [(1, 0), (2, 0), (10, 0), (11, 0.0397473), (100, 0.5), (1000, 2 / 3), (2154, 0.699992), (2155, 0.7)],
)
def test_the_threshold_rises_with_the_samples_up_to_seven_tenths(S, threshold):
    assert khat_threshold(S) == pytest.approx(threshold, abs=1e-6)
    assert (khat_threshold(S) == 0.7) == (S >= 2155)


@pytest.mark.parametrize("shape", [(), (2, 3), (0,)])
def test_thresholds_of_an_array_are_those_of_its_numbers(shape):
    counts = np.random.default_rng(0).choice([5, 64, 256, 4096], shape)
    limits = khat_thresholds(counts)
    assert limits.shape == shape
    assert limits.ravel().tolist() == [khat_threshold(int(S)) for S in np.ravel(counts)]


@pytest.mark.parametrize(
    ("S", "length"), [(1, 1), (20, 4), (21, 5), (25, 5), (26, 6), (225, 45), (226, 46), (10_000, 300)]
)
def test_the_tail_is_a_fifth_or_three_roots_of_the_samples(S, length):
    assert tail_length(S) == length
