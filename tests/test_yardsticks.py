"""Yardsticks side by side: copies are noticed, a perfect generator is as often as chance has it."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from memlib.chapters.yardsticks import (
    AGAINST_HELD_OUT,
    DETECTORS,
    SIDES,
    against,
    by_image,
    closer_by,
    few_fld,
    noticed,
    own_or_unseen,
    perfect_generator,
    yardsticks,
)
from memlib.metrics import samples as metrics
from memlib.metrics.fld import fld
from memlib.metrics.mifid import memorization_distance, mifid

EPS = 0.005


@pytest.fixture(scope="module", autouse=True)
def alone():
    """Threads that wait for each other on shared cores take many times as long for these small arrays."""
    with threadpool_limits(1):
        yield


def normal(n, seed, d=4):
    return np.random.default_rng(seed).normal(1, 1, (n, d))


TRAINING, HELD_OUT, POOL = normal(300, 0), normal(120, 1), normal(241, 2)
GENERATORS = {
    "copies": TRAINING[:120],
    "near copies": TRAINING[:120] + 0.01 * normal(120, 3),
    "few copies": np.resize(TRAINING[:20], (120, 4)),
    "independent": normal(120, 4),
    "shifted": normal(120, 6) + np.array([2, 0, 0, -2]),
    "narrow": 1 + 0.2 * (normal(120, 7) - 1),
}


@pytest.fixture(scope="module")
def table():
    return yardsticks(GENERATORS, TRAINING, HELD_OUT, EPS)


@pytest.fixture(scope="module")
def seen(table):
    return noticed(table, perfect_generator(POOL, TRAINING, EPS))


@pytest.mark.parametrize("name", ["independent", "near copies"])
def test_every_yardstick_is_what_it_is_alone(table, name):
    x = GENERATORS[name]
    score = mifid(x, TRAINING, eps=EPS, replicates=0)
    limit = np.quantile(memorization_distance(HELD_OUT, TRAINING).distances, 0.01)
    expected = {
        "FID": score.fid,
        "d": score.d,
        "MiFID": score.mifid,
        "offenders": (score.nearest.distances < limit).mean(),
        "C_T": metrics.data_copying(TRAINING, HELD_OUT, x).statistic,
        "AuthPct": 100 * metrics.authenticity(TRAINING, x).mean(),
        "rho > 1": metrics.closer_share(TRAINING, HELD_OUT, x),
    }
    expected |= zip(("precision", "recall"), metrics.precision_recall(TRAINING, x), strict=True)
    expected |= zip(("density", "coverage"), metrics.density_coverage(TRAINING, x), strict=True)
    expected |= zip(("FLD", "FLD gap"), few_fld(TRAINING, HELD_OUT, x)[:2], strict=True)
    expected["Vendi"] = metrics.vendi(x)
    assert table.loc[name].to_dict() == pytest.approx(expected)


def test_copies_are_noticed_by_every_detector_and_not_by_quality(seen):
    assert seen.loc[["copies", "near copies"], list(DETECTORS)].all(axis=None)
    assert seen.loc["few copies", ["d", "MiFID", "offenders", "AuthPct"]].all()
    assert not seen.loc["copies", ["precision", "coverage"]].any()


def test_poor_samples_are_noticed_by_quality_and_not_as_copies(seen):
    assert seen.loc["shifted", ["FID", "precision", "recall", "density", "coverage"]].all()
    assert seen.loc["shifted", "FLD"] and seen.loc["narrow", ["FID", "recall", "coverage", "Vendi"]].all()
    assert not seen.loc["shifted", ["C_T", "AuthPct", "rho > 1", "FLD gap"]].any()


def test_fld_is_that_of_some_of_the_images_in_features_that_vary(monkeypatch):
    x, right = GENERATORS["independent"], fld(TRAINING, HELD_OUT, GENERATORS["independent"])
    dead = [np.hstack([y, np.zeros((len(y), 1))]) for y in (TRAINING, HELD_OUT, x)]
    assert few_fld(*dead) == pytest.approx(right, rel=1e-9)
    monkeypatch.setattr("memlib.chapters.yardsticks.FEW", 50)
    drawn = np.random.default_rng(3).permutation(120)[:50]
    assert few_fld(*dead, seed=3) == pytest.approx(fld(TRAINING, HELD_OUT, x[drawn], seed=3), rel=1e-9)


def test_images_without_features_have_no_part_in_vendi():
    x = np.vstack([GENERATORS["independent"], np.zeros((3, 4))])
    vendi = yardsticks({"": x}, TRAINING, normal(123, 1), EPS)["Vendi"]
    assert vendi.item() == pytest.approx(metrics.vendi(x[:-3]))


def test_rows_are_those_of_the_halves_stretched_where_one_half_alone_is_looked_at():
    rows, order = [], np.random.default_rng(5)
    for _ in range(3):
        half = order.permutation(241)  # of an odd number one is left out
        rows.append(yardsticks({"": POOL[half[:120]]}, TRAINING, POOL[half[120:240]], EPS).iloc[0])
    plain = pd.DataFrame(rows).reset_index(drop=True)
    stretched = perfect_generator(POOL, TRAINING, EPS, splits=3, seed=5)
    spread = pd.Series(np.sqrt(3), SIDES)
    spread[list(AGAINST_HELD_OUT)] = 1
    np.testing.assert_allclose(stretched, plain.mean() + (plain - plain.mean()) * spread, rtol=1e-9)


@pytest.mark.parametrize("repeats", [15, pytest.param(80, marks=pytest.mark.slow)])
def test_another_perfect_generator_is_noticed_as_often_as_chance_has_it(repeats):
    """By each yardstick about once in four times with three splits."""
    rows = []
    for seed in range(repeats):
        training, pool, generated = (normal(n, [seed, n], 3) for n in (150, 120, 60))
        chance = perfect_generator(pool, training, EPS, splits=3, seed=seed, cells=1)
        rows.append(noticed(yardsticks({"": generated}, training, pool[:60], EPS, 1), chance).iloc[0])
    rates, chance = pd.DataFrame(rows).mean(), np.sqrt(0.25 * 0.75 / repeats)
    assert (abs(rates - 0.25) < 4.5 * chance).all() and abs(rates.mean() - 0.25) < 2 * chance


@pytest.mark.slow
def test_stretched_rows_spread_as_other_generators_do():
    """Of d, which is a mean: the differences of new samples from the rows' mean, against the rows' own."""
    apart, rows = [], []
    for seed in range(60):
        training, pool, fresh = (normal(n, [seed, n], 3) for n in (150, 120, 60))
        chance = perfect_generator(pool, training, EPS, splits=8, seed=seed, cells=1)["d"]
        apart.append(memorization_distance(fresh, training).d - chance.mean())
        rows.append(chance.var())
    ratio = np.mean(np.square(apart)) / np.mean(rows)
    assert 0.6 < ratio < 1.9  # 3 without stretching; some more than 1, as the rows' mean varies, too


def test_against_is_0_at_the_mean_and_1_at_the_worst_and_noticed_beyond_that():
    perfect = pd.DataFrame({name: [1.0, 2.0, 6.0] for name in SIDES})
    for value, high, low in ((3.0, 0, 0), (6.0, 1, -1.5), (1.0, -2 / 3, 1), (9.0, 2, -3), (-1.0, -4 / 3, 2)):
        table = pd.DataFrame(value, index=["a"], columns=list(SIDES))
        expected = {name: high if side == 1 else low for name, side in SIDES.items()}
        assert against(table, perfect).loc["a"].to_dict() == pytest.approx(expected)
        beyond = {name: times > 1 for name, times in expected.items()}  # the worst itself is not
        assert noticed(table, perfect).loc["a"].to_dict() == beyond


def test_tables_of_other_numbers_of_images_are_refused(table):
    perfect = perfect_generator(POOL[:200], TRAINING, EPS, splits=2)
    for compare in (against, noticed):
        with pytest.raises(ValueError, match="which FID depends on, is 120; allowed: 100"):
            compare(table, perfect)


def test_what_samples_say_of_each_training_image():
    training = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    samples, held_out = [[2.0, 0.0], [3.0, 0.0], [1.0, 2.0]], [[0.0, 1.0], [1.0, 3.0], [1.0, 2.0]]
    view = by_image(training, samples, held_out)
    assert view["count"].tolist() == [0, 2, 0, 1]
    to_sample = [0, 1 - 2 / 5**0.5, 1 - 3 / 10**0.5]
    np.testing.assert_allclose(view["closeness"][1:], [-d for d in to_sample], atol=1e-12)
    np.testing.assert_allclose(view["rho"][1:], [np.inf, 0, 1])
    assert view.iloc[0, 1:].isna().all(), "an image without features has no distance"
    both = by_image([[1.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]])
    assert both["closeness"].item() == 0 and np.isnan(both["rho"].item()), "a copy on both sides"


def test_own_and_unseen_images_are_drawn_to_one_size():
    own, unseen = np.eye(4)[[0] * 30], np.eye(4)[[1, 2, 3, 1, 2]]
    pair = own_or_unseen(np.eye(4), own, unseen, draws=40)
    assert pair["own"].tolist() == [0.75] * 40, "two of the images, which are all alike"
    assert set(pair["unseen"]) == {0.5, 0.75}, "two of five, alike or not"


def test_own_and_unseen_images_may_be_measured_otherwise():
    pair = own_or_unseen(
        [[2.0]], np.ones((30, 1)), np.zeros((5, 1)), 3, measure=lambda x, y: x[0][0] + y.sum()
    )
    assert pair["own"].tolist() == [4.0] * 3 and pair["unseen"].tolist() == [2.0] * 3, "of two images each"


def test_copies_of_own_images_are_many_standard_errors_closer():
    own, unseen = normal(50, 1), normal(120, 2)
    pair = own_or_unseen(own, own, unseen)
    assert (pair["own"] == 0).all() and closer_by(pair, 50, 120) > 5


@pytest.mark.parametrize(("n", "l"), [(40, 400), (100, 200)])
def test_standard_errors_between_own_and_unseen_images_count_that_draws_overlap(n, l):
    """Where nothing is memorized they have a spread of about one; the draws alone would give up to 1.6."""
    found = []
    for seed in range(60):
        samples, own, unseen = (normal(size, [seed, i]) for i, size in enumerate((100, n, l)))
        found.append(closer_by(own_or_unseen(samples, own, unseen), n, l))
    assert 0.7 < np.std(found) < 1.2 and abs(np.mean(found)) < 0.5
