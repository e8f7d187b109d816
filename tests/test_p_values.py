"""p-values against enumeration with exact fractions: ties are ties, whatever rounding makes of them."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_inference import as_result

from memlib.inference import memorized, p_values


def statistic(chosen):
    """How many repeats give no probability, and the product of the others', which orders as their sum of logs
    does."""
    return -sum(p == 0 for p in chosen), math.prod(p for p in chosen if p)


def exact(probabilities):
    """Share of the choices of one model per repeat that are at or below that of the first models."""
    own = statistic([models[0] for models in probabilities])
    return Fraction(
        sum(statistic(choice) <= own for choice in itertools.product(*probabilities)),
        math.prod(map(len, probabilities)),
    )


def found(probabilities, **options):
    """The p-value of one observation, all of whose held-out models are the first."""
    with np.errstate(divide="ignore"):
        log_px = np.log(np.array(probabilities, dtype=float))  # (L, K)
    return p_values(as_result(log_px[..., None], np.zeros((len(log_px), 1), int)), **options).item()


def fractions(L, K, denominators, lowest=0):
    count = st.integers(lowest, 12)
    one = st.builds(Fraction, count, denominators)
    return st.lists(st.lists(one, min_size=K, max_size=K), min_size=L, max_size=L)


@settings(max_examples=300)
@given(st.data(), st.integers(1, 4), st.integers(2, 4))
def test_p_values_are_those_of_exact_fractions(data, L, K):
    probabilities = data.draw(fractions(L, K, st.sampled_from([50, 64, 10**30])))
    assert found(probabilities) == pytest.approx(float(exact(probabilities)), rel=1e-12)


@settings(max_examples=100)
@given(st.data(), st.integers(2, 4), st.integers(2, 3))
def test_the_order_of_the_repeats_does_not_count(data, L, K):
    probabilities = data.draw(fractions(L, K, st.just(49)))
    order = data.draw(st.permutations(probabilities))
    assert found(order) == found(probabilities)


@pytest.mark.parametrize(
    ("probabilities", "right"),
    [
        ([["0.02", "0.04"], ["0.08", "0.04"]], "3/4"),  # 1 * 4 = 2 * 2
        ([["0.1", "0.3"], ["0.3", "0.1"], ["0.7", "0.7"]], "3/4"),
        ([["0", "1"], ["1", "0"], ["1", "9"]], "1/2"),  # two of none; 0 and 1; 0 and 9
        ([["0", "0"], ["0", "0"]], "1"),
        ([["1e-300", "0"], ["1e-5", "1"]], "3/4"),
    ],
)
def test_p_values_by_hand(probabilities, right):
    probabilities = [[Fraction(p) for p in models] for models in probabilities]
    assert exact(probabilities) == Fraction(right)
    assert found(probabilities) == pytest.approx(float(Fraction(right)))


def test_a_small_difference_beside_a_large_number_is_no_tie():
    """Models that agree on an image all but give up in one repeat, and differ by 1e-6 nats in the other."""
    log_px = np.array([[-1e9, -1e9], [-2 - 1e-6, -2]])[..., None]
    assert p_values(as_result(log_px, np.zeros((2, 1), int))).item() == 0.5


def test_ties_count_among_random_choices_too():
    """Every choice is a tie, in another order of the same terms."""
    log_px = np.log([[0.1, 0.1], [0.2, 0.2], [0.7, 0.7]] * 4)[..., None]
    assert p_values(as_result(log_px, np.zeros((12, 1), int)), draws=99).item() == 1


def test_a_rate_that_is_reached_exactly_is_reached():
    """p is 1/10, 1, 1, and three times 1/10 is the rate."""
    log_px = np.zeros((1, 10, 3))
    log_px[0, 0, 0] = -1
    result = as_result(log_px, np.zeros((1, 3), int))
    np.testing.assert_array_equal(p_values(result)[0], [0.1, 1, 1])
    np.testing.assert_array_equal(memorized(result, 0.3)[0], [True, False, False])
