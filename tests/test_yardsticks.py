"""Yardsticks side by side: copies are noticed, a perfect generator is as often as chance has it."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from memlib.mifid import memorization_distance, penalized_fid
from memlib.yardsticks import (
    AGAINST_HELD_OUT,
    DETECTORS,
    SIDES,
    TAIL,
    against,
    by_image,
    closer_by,
    noticed,
    own_or_unseen,
    perfect_generator,
    yardsticks,
)

EPS = 0.005


@pytest.fixture(scope="module", autouse=True)
def alone():
    """Threads that wait for each other on shared cores take many times as long for these small arrays."""
    with threadpool_limits(1):
        yield


def normal(n, seed, d=4):
    return np.random.default_rng(seed).normal(1, 1, (n, d))


TRAINING, HELD_OUT, POOL = normal(300, 0), normal(120, 1), normal(240, 2)
GENERATORS = {
    "copies": TRAINING[:120],
    "near copies": TRAINING[:120] + 0.01 * normal(120, 3),
    "few copies": np.resize(TRAINING[:20], (120, 4)),
    "independent": normal(120, 4),
    "another": normal(120, 5),
    "shifted": normal(120, 6) + np.array([2, 0, 0, -2]),
    "narrow": 1 + 0.2 * (normal(120, 7) - 1),
}


@pytest.fixture(scope="module")
def table():
    return yardsticks(GENERATORS, TRAINING, HELD_OUT, EPS)


@pytest.fixture(scope="module")
def perfect():
    return perfect_generator(POOL, TRAINING, EPS)


def test_every_yardstick_of_every_generator_is_there(table):
    assert table.columns.tolist() == list(SIDES) and table.index.tolist() == list(GENERATORS)
    assert {*table.dtypes} == {np.dtype(float)} and np.isfinite(table.values).all()
    assert set(SIDES.values()) == {1, -1} and set(DETECTORS) < set(SIDES)
    shares = table[["offenders", "rho > 1", "precision", "recall", "coverage"]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    assert table["AuthPct"].between(0, 100).all() and table["AuthPct"].max() > 1


def test_copies_have_what_copies_must_have(table):
    for name in ("copies", "few copies"):
        row = table.loc[name]
        assert row[["d", "offenders", "AuthPct", "precision"]].tolist() == [0, 1, 0, 1]
        assert row["MiFID"] > 1e10
    np.testing.assert_allclose(table["MiFID"], penalized_fid(table["FID"], table["d"], EPS))
    assert table.loc["independent", "MiFID"] == pytest.approx(table.loc["independent", "FID"])


def test_copies_are_noticed_by_every_detector(table, perfect):
    seen = noticed(table, perfect)
    for name in ("copies", "near copies"):
        assert seen.loc[name, list(DETECTORS)].all()
    assert seen.loc["few copies", ["d", "offenders", "AuthPct"]].all()
    assert not seen.loc["copies", ["precision", "coverage"]].any()  # of quality they have plenty


def test_poor_samples_are_noticed_by_quality_and_not_as_copies(table, perfect):
    seen = noticed(table, perfect)
    assert seen.loc["shifted", ["FID", "precision", "recall", "density", "coverage"]].all()
    assert seen.loc["narrow", ["FID", "recall", "coverage"]].all()
    assert not seen.loc["shifted", ["C_T", "AuthPct", "rho > 1"]].any()


def test_independent_samples_are_mostly_not_noticed(table, perfect):
    seen = noticed(table, perfect).loc[["independent", "another"]]
    assert seen.mean(axis=None) < 0.25 and seen[list(DETECTORS)].mean(axis=None) < 0.25


def test_generators_do_not_see_each_other(table):
    alone = yardsticks({"narrow": GENERATORS["narrow"]}, TRAINING, HELD_OUT, EPS)
    pd.testing.assert_frame_equal(alone, table.loc[["narrow"]])


def test_offenders_are_closer_than_the_closest_of_the_held_out():
    """Directions in the plane: training around 0, held-out around 1; ten copies, and images beyond."""
    rng = np.random.default_rng(0)

    def plane(angle):
        return rng.uniform(0.5, 2, len(angle))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])

    training, held_out = plane(rng.uniform(-0.2, 0.2, 60)), plane(rng.uniform(0.9, 1.1, 40))
    generated = np.concatenate([3 * training[:10], plane(rng.uniform(1.2, 1.4, 30))])
    got = yardsticks({"a": generated, "b": held_out}, training, held_out, 0.1, cells=1)["offenders"]
    assert got.tolist() == [10 / 40, 1 / 40]  # the quantile is between the closest and the next


def test_offenders_are_few_among_images_like_the_held_out(perfect):
    assert TAIL == 0.01 and 0 < perfect["offenders"].mean() < 0.05

    def distances(x):
        unit = [y / np.linalg.norm(y, axis=1, keepdims=True) for y in (x, TRAINING)]
        return (1 - abs(unit[0] @ unit[1].T)).min(axis=1)

    limit = np.quantile(distances(HELD_OUT), 0.01)
    expected = (distances(GENERATORS["independent"]) < limit).mean()
    got = yardsticks({"a": GENERATORS["independent"]}, TRAINING, HELD_OUT, EPS)["offenders"]
    assert got.tolist() == [expected]


def test_a_perfect_generator_has_a_row_for_each_split(perfect):
    assert perfect.shape == (19, len(SIDES)) and perfect.columns.tolist() == list(SIDES)
    assert not perfect.duplicated().any()
    assert perfect["rho > 1"].mean() == pytest.approx(0.5, abs=0.05)
    assert perfect["C_T"].mean() == pytest.approx(0, abs=0.7)


def test_rows_are_those_of_the_halves_stretched_where_one_half_alone_is_looked_at():
    rows, order = [], np.random.default_rng(5)
    for _ in range(3):
        half = order.permutation(240)
        rows.append(yardsticks({"": POOL[half[:120]]}, TRAINING, POOL[half[120:]], EPS).iloc[0])
    plain = pd.DataFrame(rows).reset_index(drop=True)
    stretched = perfect_generator(POOL, TRAINING, EPS, splits=3, seed=5)
    np.testing.assert_allclose(stretched.mean(), plain.mean())
    spread = pd.Series(np.sqrt(3), SIDES)
    spread[list(AGAINST_HELD_OUT)] = 1
    np.testing.assert_allclose(stretched - plain.mean(), (plain - plain.mean()) * spread, atol=1e-9)


def test_splits_are_drawn_by_the_seed(perfect):
    again, other = (perfect_generator(POOL, TRAINING, EPS, seed=seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(again, perfect)
    assert not np.isclose(other["FID"], again["FID"]).any()


def test_of_an_odd_pool_one_is_left_out():
    odd = perfect_generator(POOL[:-1], TRAINING, EPS, splits=2)
    assert odd.shape == (2, len(SIDES)) and np.isfinite(odd.values).all()


def test_another_perfect_generator_is_noticed_as_often_as_chance_has_it():
    """By each yardstick about once in four times with three splits."""
    rows = []
    for seed in range(80):
        training, pool, generated = (normal(n, [seed, n], 3) for n in (150, 120, 60))
        chance = perfect_generator(pool, training, EPS, splits=3, seed=seed, cells=1)
        rows.append(noticed(yardsticks({"": generated}, training, pool[:60], EPS, 1), chance).iloc[0])
    rates = pd.DataFrame(rows).mean()
    assert rates.between(0.05, 0.47).all() and 0.15 < rates.mean() < 0.33


def random_tables(seed):
    rng = np.random.default_rng(seed)
    return (pd.DataFrame(rng.normal(size=(n, len(SIDES))), columns=list(SIDES)) for n in (40, 5))


@pytest.mark.parametrize("seed", range(5))
def test_against_is_0_at_the_mean_and_1_at_the_worst(seed):
    table, perfect = random_tables(seed)
    np.testing.assert_allclose(against(perfect.mean().to_frame().T, perfect), 0, atol=1e-12)
    np.testing.assert_allclose(against(perfect, perfect).max(), 1)
    worst = perfect.max().where(pd.Series(SIDES) == 1, perfect.min())
    np.testing.assert_allclose(against(worst.to_frame().T, perfect), 1)
    doubled = worst.to_frame().T * 2 - perfect.mean()
    np.testing.assert_allclose(against(doubled, perfect), 2)
    assert against(table, perfect).shape == table.shape


@pytest.mark.parametrize("seed", range(5))
def test_what_is_noticed_is_beyond_the_worst_that_chance_brought(seed):
    table, perfect = random_tables(seed)
    seen = noticed(table, perfect)
    assert {*seen.dtypes} == {np.dtype(bool)} and seen.any(axis=None) and not seen.all(axis=None)
    pd.testing.assert_frame_equal(seen, against(table, perfect) > 1)
    assert not noticed(perfect, perfect).any(axis=None)  # a tie is none


def test_both_sides_of_a_yardstick_are_told_apart():
    perfect = pd.DataFrame({name: [1.0, 2.0, 3.0] for name in SIDES})
    for value, side in ((0.0, -1), (4.0, 1)):
        seen = noticed(pd.DataFrame(value, index=["a"], columns=list(SIDES)), perfect)
        assert seen.loc["a"].to_dict() == {name: own == side for name, own in SIDES.items()}


COPIES, WIDE = {"a": TRAINING[:120]}, normal(120, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: yardsticks({"a": TRAINING[:4]}, TRAINING, HELD_OUT[:4], EPS), "more images than features"),
        (
            lambda: yardsticks({"a": WIDE}, WIDE[:7], WIDE, EPS),
            "7 images have 8 features each; allowed: more images than features",
        ),
        (lambda: yardsticks(COPIES, TRAINING, HELD_OUT[1:], EPS), "samples must be as many as validation"),
        (lambda: yardsticks(COPIES, TRAINING, HELD_OUT, 0), "eps is 0, delta .*; allowed: eps above 0"),
        (lambda: yardsticks(COPIES, TRAINING, HELD_OUT, EPS, 0), "cells is 0; allowed: 1 to 300"),
        (lambda: yardsticks(COPIES, TRAINING, HELD_OUT, EPS, 60), "no cell has held-out and more than 20"),
        (
            lambda: yardsticks({"a": np.zeros((120, 4))}, TRAINING, HELD_OUT, EPS),
            "generated features are zero",
        ),
        (lambda: yardsticks({"a": normal(120, 0, 3)}, TRAINING, HELD_OUT, EPS), "allowed: as many"),
        (lambda: yardsticks({"a": HELD_OUT * np.nan}, TRAINING, HELD_OUT, EPS), "finite"),
        (lambda: perfect_generator(POOL, TRAINING, EPS, splits=1), "splits is 1; allowed: 2 or more"),
        (lambda: perfect_generator(POOL, TRAINING, EPS, seed=-1), "seed is -1; allowed: 0 or more"),
        (lambda: perfect_generator(POOL[:8], TRAINING, EPS), "more images than features"),
        (lambda: perfect_generator(POOL, TRAINING, 2), "eps is 2"),
        (lambda: yardsticks({}, TRAINING, HELD_OUT, EPS), "generators are none; allowed: one or more"),
        (lambda: perfect_generator(POOL, TRAINING, EPS, cells=301), "cells is 301; allowed: 1 to 300"),
    ],
)
def test_what_one_of_them_refuses_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_samples_say_of_each_training_image():
    training = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    samples, held_out = [[2.0, 0.0], [3.0, 0.0], [1.0, 2.0]], [[0.0, 1.0], [1.0, 3.0], [1.0, 2.0]]
    view = by_image(training, samples, held_out)
    assert view["count"].tolist() == [2, 0, 1, 0]
    to_sample = [0, 1 - 2 / 5**0.5, 1 - 3 / 10**0.5]
    np.testing.assert_allclose(view["closeness"][:3], [-d for d in to_sample], atol=1e-12)
    np.testing.assert_allclose(view["rho"][:3], [np.inf, 0, 1])
    assert view.iloc[3, 1:].isna().all(), "an image without features has no distance"
    both = by_image([[1.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]])
    assert both["closeness"].item() == 0 and np.isnan(both["rho"].item()), "a copy on both sides"
    with pytest.raises(ValueError, match="samples are 2, held_out 3; allowed: as many"):
        by_image(training, samples[:2], held_out)


def test_where_samples_are_like_held_out_images_rho_is_as_often_above_1_as_below():
    view = by_image(*(normal(n, seed) for n, seed in ((400, 1), (200, 2), (200, 3))))
    assert view["count"].sum() == 200 and 0.35 < (view["rho"] > 1).mean() < 0.65


def test_copies_of_the_own_images_are_closer_to_these_than_to_unseen_ones():
    own, unseen = normal(50, 1), normal(120, 2)
    pair = own_or_unseen(own, own, unseen, draws=3)
    assert pair.shape == (3, 2) and pair["own"].tolist() == [0, 0, 0] and (pair["unseen"] > 0).all()
    assert pair["unseen"].nunique() == 3, "other unseen images in each draw"


def test_other_samples_are_as_far_from_the_own_images_as_from_unseen_ones():
    far = normal(60, 3) + np.array([3, -2, 0, 1])  # poor ones
    ratios = [
        own_or_unseen(far, *np.split(normal(300, [seed, 9]), [100]))
        .mean()
        .agg(lambda d: d["own"] / d["unseen"])
        for seed in range(20)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=4 * np.std(ratios) / 20**0.5)


@pytest.mark.parametrize(("n", "l"), [(40, 400), (100, 200), (300, 300)])
def test_standard_errors_between_own_and_unseen_images_count_that_draws_overlap(n, l):
    """Where nothing is memorized they have a spread of about one; the draws alone would give up to 1.6."""
    found = []
    for seed in range(60):
        samples, own, unseen = (normal(size, [seed, i]) for i, size in enumerate((100, n, l)))
        found.append(closer_by(own_or_unseen(samples, own, unseen), n, l))
    assert 0.7 < np.std(found) < 1.2 and abs(np.mean(found)) < 0.5


def test_copies_of_own_images_are_many_standard_errors_closer():
    own, unseen = normal(50, 1), normal(120, 2)
    assert closer_by(own_or_unseen(own, own, unseen), 50, 120) > 5


def test_both_sets_are_drawn_to_one_size():
    own, unseen = np.eye(4)[[0] * 30], np.eye(4)[[1, 2, 3, 1, 2]]
    pair = own_or_unseen(np.eye(4), own, unseen, draws=40)
    assert set(pair["own"]) == {0.75}, "two of the images, which are all alike"
    assert set(pair["unseen"]) == {0.5, 0.75}, "two of five, alike or not"
    for arguments, message in (
        ({"draws": 0}, "draws is 0; allowed: 1 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"unseen": np.eye(4)[:1]}, "unseen images is 1; allowed: 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            own_or_unseen(**({"samples": own, "own": own, "unseen": unseen} | arguments))


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


def test_tables_of_other_numbers_of_images_are_refused():
    perfect = perfect_generator(POOL[:200], TRAINING, EPS, splits=2)
    table = yardsticks({"a": HELD_OUT}, TRAINING, HELD_OUT, EPS)
    for compare in (against, noticed):
        with pytest.raises(
            ValueError, match="generators have 120 images, perfect ones 100; allowed: as many"
        ):
            compare(table, perfect)
