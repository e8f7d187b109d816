"""The feature likelihood divergence against closed forms, direct loops and cases of copies."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from memlib.metrics.fld import fld


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


TRAINING, HELD_OUT, FRESH = normal(300, 8), normal(200, 8, seed=1), normal(150, 8, seed=2)


@pytest.mark.parametrize(("a", "c"), [(1, 1), (1, 1.5), (3, 2)])
def test_one_gaussian_that_is_fitted_to_images_at_one_distance_has_a_closed_form(a, c, monkeypatch):
    r"""Training images a e_i, held-out ones +-c e_i, a generated one at 0.

    The best variance is the squared distance over d: a^2 / d around 0, and 2 a^2 / d around any e_i. Then
    held-out images have log(2 pi a^2 / d) / 2 + c^2 / 2 a^2 and log(4 pi a^2 / d) / 2 + (c^2 + a^2) / 4 a^2.
    """
    monkeypatch.setattr("memlib.metrics.fld.RATE", 0.05)  # for the maximum itself, which 50 passes come near
    monkeypatch.setattr("memlib.metrics.fld.EPOCHS", 1000)
    found = fld(a * np.eye(4), np.vstack([c * np.eye(4), -c * np.eye(4)]), np.zeros((1, 4)))
    ratio = (c / a) ** 2
    assert found.fld == pytest.approx(100 * (ratio / 4 - 1 / 4 - np.log(2) / 2), abs=0.01)
    assert found.gap == pytest.approx(50 * (1 - ratio), abs=0.01)
    std = c * np.sqrt(2 / 7)  # of the held-out images' features, eight of each
    baseline = np.log(4 * np.pi * (a / std) ** 2 / 4) / 2 + (ratio + 1) / 4
    assert found.baseline == pytest.approx(baseline, abs=1e-4)


def by_loops(centers, x):
    """Log variances after 50 steps of Adam, with gradients by responsibilities."""
    (n, d), m = x.shape, len(centers)
    squares = np.hstack([cdist(x, centers) ** 2, 0.81 * ((x - x.mean(axis=0)) ** 2).sum(axis=1)[:, None]])
    s = np.append(np.log((squares[:, :-1].min(axis=0) + 1e-3) / d), 0)
    first = second = np.zeros(m + 1)
    for t in range(1, 51):
        log_terms = -squares / 2 / np.exp(s) - d / 2 * s - np.append(np.full(m, np.log(m)), 0)
        share = np.exp(log_terms - logsumexp(log_terms, axis=1, keepdims=True))
        gradient = (share * (1 - squares / np.exp(s) / d) / 2).sum(axis=0) / n
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        s = s - 0.5 * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        s[:-1] = s[:-1].clip(-40, 20)
    return s[:-1]


def loss(x, centers, s):
    d = x.shape[1]
    log_px = logsumexp(-(cdist(x, centers) ** 2) / 2 / np.exp(s) - d / 2 * (s + np.log(2 * np.pi)), axis=1)
    return -(log_px - np.log(len(s))).mean() / d


@pytest.mark.parametrize("m", [1, 20, 200])
@pytest.mark.parametrize("kind", ["fresh", "shifted", "near copies", "copies"])
def test_numbers_are_those_of_the_published_procedure(kind, m):
    x = {
        "fresh": normal(m, 8, seed=3),
        "shifted": 1 + 2 * normal(m, 8, seed=3),
        "near copies": TRAINING[:m] + 0.01 * normal(m, 8, seed=3),
        "copies": TRAINING[:m],
    }[kind]
    mean, std = HELD_OUT.mean(axis=0), HELD_OUT.std(axis=0, ddof=1)
    training, held_out, generated = ((z - mean) / std for z in (TRAINING, HELD_OUT, x))
    training = np.random.default_rng(5).permutation(training)
    half = min(m, 150)
    seen, unseen = (loss(z, generated, by_loops(generated, training)) for z in (training, held_out))
    baseline = loss(held_out, training[:half], by_loops(training[:half], training[half:]))
    right = 100 * (unseen - baseline), 100 * (seen - unseen), baseline
    assert fld(TRAINING, HELD_OUT, x, seed=5) == pytest.approx(right, rel=1e-6, abs=1e-6)


def test_copies_show_in_the_gap_and_fresh_images_do_not():
    fresh = fld(TRAINING, HELD_OUT, normal(300, 8, seed=3))
    assert abs(fresh.fld) < 5 and abs(fresh.gap) < 5
    for noise, least in ((0, 1000), (0.01, 1000), (0.1, 30)):
        copies = fld(TRAINING, HELD_OUT, TRAINING + noise * normal(300, 8, seed=3))
        assert copies.gap < -least and copies.fld > least


def test_poor_images_are_worse_than_fresh_ones_without_a_gap():
    fresh = fld(TRAINING, HELD_OUT, FRESH)
    for poor in (FRESH + 1, 2 * FRESH, np.tile(FRESH[:5], (30, 1))):
        found = fld(TRAINING, HELD_OUT, poor)
        assert found.fld > fresh.fld + 3 and abs(found.gap) < 5
        assert found.baseline == fresh.baseline, "the same for as many images"
    assert fld(TRAINING, HELD_OUT, 0.6 * FRESH).fld < fresh.fld - 5, "Gaussians make up for lack of spread"


def test_the_more_copies_the_worse_and_the_gap_shows_few():
    for noise in (0, 0.01, 0.1):
        near = TRAINING[:150] + noise * normal(150, 8, seed=3)
        mixed = [fld(TRAINING, HELD_OUT, np.vstack([near[:n], FRESH[n:]])) for n in (0, 30, 75, 150)]
        values, gaps = zip(*(found[:2] for found in mixed), strict=True)
        assert [*values] == sorted(values) and [*gaps] == sorted(gaps, reverse=True)
        assert values[1] < 5 and gaps[1] < -15


def test_held_out_images_that_are_the_training_images_have_no_gap():
    for x in (FRESH, TRAINING[:150]):
        assert fld(TRAINING, TRAINING[::-1], x).gap == pytest.approx(
            0, abs=1e-9 * fld(TRAINING, TRAINING, x).fld
        )


@pytest.mark.parametrize("unit", [-1.0, 2.0**490, 2.0**-490, 2.0 ** np.arange(-8, 8, 2)])
def test_units_are_no_matter(unit):
    """Also those whose squares are beyond the range of floating point, and another one for each feature."""
    assert fld(TRAINING * unit, HELD_OUT * unit, FRESH * unit) == fld(TRAINING, HELD_OUT, FRESH)


def test_shifts_and_the_order_of_features_and_images_are_no_matter():
    right = fld(TRAINING, HELD_OUT, FRESH)
    assert fld(TRAINING + 99, HELD_OUT + 99, FRESH + 99) == pytest.approx(right, rel=1e-6)
    assert fld(TRAINING[:, ::-1], HELD_OUT[:, ::-1], FRESH[:, ::-1]) == pytest.approx(right, rel=1e-6)
    assert fld(TRAINING, HELD_OUT[::-1], FRESH[::-1]) == pytest.approx(right, rel=1e-6)
    # that of the training images decides how they are split, as the seed does
    for other in (fld(TRAINING[::-1], HELD_OUT, FRESH), fld(TRAINING, HELD_OUT, FRESH, seed=1)):
        assert other.gap == pytest.approx(right.gap, rel=1e-6)
        assert other.baseline != right.baseline and other.fld == pytest.approx(right.fld, abs=5)
    assert fld(TRAINING, HELD_OUT, FRESH) == right


def test_what_comes_in_parts_is_whole(monkeypatch):
    right = fld(TRAINING, HELD_OUT, FRESH)
    monkeypatch.setattr("memlib.metrics.neighbors.BLOCK", 1000)
    assert fld(TRAINING, HELD_OUT, FRESH) == pytest.approx(right, rel=1e-6)


def test_many_images_are_drawn_from_and_taken_in_steps(monkeypatch):
    fresh = normal(300, 8, seed=3)
    monkeypatch.setattr("memlib.metrics.fld.MOST", 150)
    drawn = [fld(TRAINING, HELD_OUT, fresh, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and abs(drawn[0].fld) < 5
    monkeypatch.setattr("memlib.metrics.fld.BATCH", 70)
    assert fld(TRAINING, HELD_OUT, fresh) == pytest.approx(drawn[0], abs=3)


def test_settings_and_types_of_callers_are_no_matter():
    sets = [torch.tensor(x, dtype=torch.float32) for x in (TRAINING, HELD_OUT, FRESH)]
    right = fld(*(x.double() for x in sets))
    with torch.inference_mode(), torch.device("meta"):
        assert fld(*sets) == right
    assert all(type(value) is float for value in right)
