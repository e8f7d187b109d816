import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import gaussian_kde, multivariate_normal

from memlib.densities import (
    LinearGaussian,
    fit_gaussian,
    fit_kernel,
    gaussian_fold_scores,
    gaussian_scores,
    kernel_scores,
    kfold_log_px,
)

FITS = {"gaussian": (fit_gaussian, gaussian_scores), "kernel": (fit_kernel, kernel_scores)}


def observations(n, d, seed=0):
    return np.random.default_rng(seed).normal(1, 2, (n, d))


def linear_gaussian(dim=5, latent_dim=3, sigma2=0.3, inflation=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(dim, latent_dim, generator=generator), torch.randn(dim, generator=generator)
    return LinearGaussian(weight, bias, sigma2, inflation)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("parameter", [0.2, 1.7])
@pytest.mark.parametrize("shape", [(2, 1), (25, 1), (25, 4)])
def test_scores_equal_leave_one_out_by_a_direct_loop(name, parameter, shape):
    fit, scores = FITS[name]
    x = observations(*shape)
    expected = [
        fit(x, parameter)(x[[i]])[0] - fit(np.delete(x, i, axis=0), parameter)(x[[i]])[0]
        for i in range(len(x))
    ]
    np.testing.assert_allclose(scores(x, parameter), expected, rtol=1e-9)


def test_gaussian_log_density_equals_scipy():
    x, points = observations(10, 3), observations(7, 3, seed=1)
    expected = multivariate_normal(x.mean(0), 0.5 * np.eye(3)).logpdf(points)
    np.testing.assert_allclose(fit_gaussian(x, 0.5)(points), expected, rtol=1e-12)


def test_kernel_log_density_equals_scipy():
    x, points = observations(10, 1), observations(7, 1, seed=1)
    kde = gaussian_kde(x.T, bw_method=0.4 / x.std(ddof=1))
    np.testing.assert_allclose(fit_kernel(x, 0.4)(points), kde.logpdf(points.T), rtol=1e-10)


def test_kernel_log_density_equals_a_mixture_in_two_dimensions():
    x, points = observations(10, 2), observations(7, 2, seed=1)
    expected = np.log([np.mean([multivariate_normal.pdf(p, c, 0.49) for c in x]) for p in points])
    np.testing.assert_allclose(fit_kernel(x, 0.7)(points), expected, rtol=1e-12)


@pytest.mark.parametrize("fit", [fit_gaussian, fit_kernel])
def test_densities_integrate_to_one(fit):
    grid = np.linspace(-25, 25, 20001)
    assert np.trapezoid(np.exp(fit(observations(12, 1), 0.6)(grid)), grid) == pytest.approx(1, abs=1e-9)


def test_equal_observations_are_not_memorized():
    x = np.full((6, 2), 3.0)
    assert (gaussian_scores(x, 1.0) == 0).all()
    np.testing.assert_allclose(kernel_scores(x, 1.0), 0, atol=1e-15)


def test_kernel_scores_stay_finite_far_out_and_are_infinite_beyond():
    M = kernel_scores([0.0, 0.1, 1e6], 1.0)
    assert M[2] == pytest.approx((1e6 - 0.1) ** 2 / 2 + np.log(2 / 3), rel=1e-12)
    assert kernel_scores([0.0, 0.0, 1e200], 1.0)[2] == np.inf
    assert np.isfinite(kernel_scores([0.0, 1e153], 1.0)).all()


def test_kernel_blocks_do_not_matter():
    x = observations(1030, 2)
    log_kernel = -((x[:, None] - x) ** 2).sum(-1) / (2 * 0.3**2)
    s = np.exp(log_kernel).sum(1) - 1
    direct = np.log((1 + s) / 1030) - np.log(s / 1029)
    near = s > 1e-6  # the direct form loses the others' digits
    np.testing.assert_allclose(kernel_scores(x, 0.3)[near], direct[near], rtol=1e-8)
    np.testing.assert_allclose(fit_kernel(x, 0.3)(x)[-3:], fit_kernel(x, 0.3)(x[-3:]), rtol=1e-13)


@settings(deadline=None, max_examples=50)
@given(
    arrays(float, st.tuples(st.integers(2, 8), st.integers(1, 3)), elements=st.floats(-20, 20, width=32)),
    st.floats(0.1, 10),
)
def test_scores_ignore_order_position_and_unit(x, scale):
    for scores, unit in ((gaussian_scores, scale**2), (kernel_scores, scale)):
        M = scores(x, 1.0)
        assert (M >= -1e-9).all()
        np.testing.assert_allclose(scores(x[::-1], 1.0)[::-1], M, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(scores(x + 7, 1.0), M, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(scores(scale * x, unit), M, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("call", [gaussian_scores, kernel_scores, fit_gaussian, fit_kernel])
def test_densities_refuse_bad_observations_and_parameters(call):
    for parameter in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="must be finite and above 0"):
            call(np.zeros((3, 1)), parameter)
    for x in (np.zeros((0, 1)), np.zeros((3, 1, 1)), [np.nan, 0.0]):
        with pytest.raises(ValueError, match="observations must be finite, of shape"):
            call(x, 1.0)


def test_one_observation_has_no_score_and_points_need_the_same_columns():
    for scores in (gaussian_scores, kernel_scores):
        with pytest.raises(ValueError, match="n at least 2"):
            scores([0.0], 1.0)
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        fit_gaussian(np.zeros((3, 2)), 1.0)(np.zeros((3, 1)))


@pytest.mark.parametrize("name", FITS)
def test_kfold_with_n_folds_is_leave_one_out(name):
    fit, scores = FITS[name]
    x = observations(9, 2)
    fold_of = np.stack([np.random.default_rng(s).permutation(9) for s in range(2)])
    log_px = kfold_log_px(lambda part: fit(part, 0.8), x, fold_of)
    assert log_px.shape == (2, 9, 9) and log_px.dtype == np.float64
    held_out = np.take_along_axis(log_px, fold_of[:, None, :], axis=1)[:, 0]
    np.testing.assert_allclose(fit(x, 0.8)(x) - held_out, np.stack([scores(x, 0.8)] * 2), rtol=1e-9)


def test_kfold_fits_each_model_without_its_own_fold():
    x = observations(10, 1)
    fold_of = np.array([[0, 1] * 5, [0] * 7 + [1] * 3])
    log_px = kfold_log_px(lambda part: fit_kernel(part, 0.5), x, fold_of)
    for repeat in range(2):
        for fold in range(2):
            expected = fit_kernel(x[[j for j in range(10) if fold_of[repeat, j] != fold]], 0.5)(x)
            np.testing.assert_array_equal(log_px[repeat, fold], expected)


def log_normal(difference, covariance):
    return multivariate_normal.logpdf(difference, np.zeros(len(covariance)), covariance)


@pytest.mark.parametrize(("folds", "scale"), [(2, 0.6), (4, 0.4)])
def test_gaussian_fold_scores_are_what_random_folds_and_seeds_approach(folds, scale):
    rng, n, d, repeats = np.random.default_rng(0), 60, 2, 8000
    x = rng.uniform(-1.7, 1.7, (n, d))
    covariance, seed_variance = scale * np.array([[0.9, 0.3], [0.3, 0.7]]), 0.1 * scale
    U, V, M = gaussian_fold_scores(x, folds, covariance, seed_variance)
    fold_of = rng.permuted(np.tile(np.arange(n) % folds, (repeats, 1)), axis=1)
    held_out = fold_of[:, None] == np.arange(folds)[:, None]  # (repeats, folds, n)
    mean = ~held_out @ x / (n - n // folds) + np.sqrt(seed_variance) * rng.normal(size=(repeats, folds, d))
    p = np.exp(log_normal(x - mean[:, :, None], covariance))
    for log_p, counted, per_repeat in ((U, ~held_out, folds - 1), (V, held_out, 1)):
        mean_p = (p * counted).sum(axis=1) / per_repeat  # (repeats, n)
        error = mean_p.std(axis=0) / mean_p.mean(axis=0) / np.sqrt(repeats)
        z = (np.log(mean_p.mean(axis=0)) - log_p) / error
        assert abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 2
        assert error.max() < 0.06
    np.testing.assert_array_equal(M, U - V)
    assert (M > 0).mean() > 0.8 and M.max() > 0.1


def test_gaussian_fold_scores_with_n_folds_leave_one_out():
    x, covariance = observations(7, 3), np.diag([1.0, 2.0, 0.5]) + 0.2
    left_out = [x[i] - np.delete(x, i, axis=0).mean(axis=0) for i in range(7)]
    for seed_variance in (0.0, 0.4):
        _, V, _ = gaussian_fold_scores(x, 7, covariance, seed_variance)
        np.testing.assert_allclose(
            V, log_normal(left_out, covariance + seed_variance * np.eye(3)), rtol=1e-12
        )
    # one of the n - 1 others is missing where the observation itself is there: all cases in turn
    U, _, _ = gaussian_fold_scores(x, 7, covariance, 0.0)
    for i in range(7):
        means = np.array([np.delete(x, j, axis=0).mean(axis=0) for j in range(7) if j != i])
        spread = np.cov(means, rowvar=False, ddof=0)
        assert U[i] == pytest.approx(log_normal(x[i] - means.mean(axis=0), covariance + spread), rel=1e-12)


def test_gaussian_fold_scores_count_every_choice_of_a_fold():
    """Mean and covariance of a sample without replacement, by listing all samples."""
    x, covariance = observations(6, 2), np.array([[1.0, 0.3], [0.3, 2.0]])
    U, V, _ = gaussian_fold_scores(x, 3, covariance, 0.0)
    for i in range(6):
        for log_p, seen in ((U, True), (V, False)):
            training_sets = [t for t in itertools.combinations(range(6), 4) if (i in t) == seen]
            means = np.array([x[list(t)].mean(axis=0) for t in training_sets])
            spread = np.cov(means, rowvar=False, ddof=0)
            expected = log_normal(x[i] - means.mean(axis=0), covariance + spread)
            assert log_p[i] == pytest.approx(expected, rel=1e-12)


def test_gaussian_fold_scores_of_equal_observations_are_zero():
    U, V, M = gaussian_fold_scores(np.full((6, 2), 3.0), 3, np.eye(2), 1.0)
    np.testing.assert_allclose(U, -np.log(4 * np.pi))
    np.testing.assert_array_equal(U, V)
    assert (M == 0).all()


@pytest.mark.parametrize("folds", [2, 4, 12])
def test_gaussian_fold_scores_ignore_rotation_position_and_order(folds):
    x, covariance = observations(12, 3), np.diag([1.0, 2.0, 0.5]) + 0.2
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    base = gaussian_fold_scores(x, folds, covariance, 0.3)
    turned = gaussian_fold_scores(x @ rotation.T, folds, rotation @ covariance @ rotation.T, 0.3)
    moved = gaussian_fold_scores(x[::-1] + 5, folds, covariance, 0.3)
    for column, same, backward in zip(base, turned, moved, strict=True):
        np.testing.assert_allclose(same, column, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(backward[::-1], column, rtol=1e-9, atol=1e-12)


def test_gaussian_fold_scores_in_one_dimension_have_two_spellings():
    x = observations(8, 1)
    flat, column = gaussian_fold_scores(x[:, 0], 4, [[0.5]], 0.1), gaussian_fold_scores(x, 4, [[0.5]], 0.1)
    np.testing.assert_array_equal(flat, column)
    alone = np.column_stack([x, np.zeros(8)])  # a second coordinate that never differs
    wide = gaussian_fold_scores(alone, 4, np.diag([0.5, 0.5]), 0.1)
    np.testing.assert_allclose(wide[2], column[2], rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 1)), 2, [[1]], 0.0), "n at least 3"),
        ((np.full((4, 1), np.nan), 2, [[1]], 0.0), "observations must be finite"),
        ((np.zeros((4, 1)), 1, [[1]], 0.0), "folds is 1; allowed: 2 or more, a divisor of the 4"),
        ((np.zeros((4, 1)), 3, [[1]], 0.0), "folds is 3; allowed: 2 or more, a divisor of the 4"),
        ((np.zeros((4, 1)), 8, [[1]], 0.0), "folds is 8; allowed: 2 or more, a divisor of the 4"),
        ((np.zeros((4, 2)), 2, [[1]], 0.0), r"covariance has shape \(1, 1\) .* allowed: \(2, 2\)"),
        ((np.zeros((4, 1)), 2, 1.0, 0.0), r"covariance has shape \(\)"),
        ((np.zeros((4, 1)), 2, [[1]], -0.1), "seed_variance is -0.1; allowed: .* 0 or more"),
        ((np.zeros((4, 1)), 2, [[1]], np.nan), "seed_variance is nan"),
        ((np.zeros((4, 2)), 2, [[1, 2], [2, 1]], 0.0), "positive"),
    ],
)
def test_gaussian_fold_scores_refuse_what_they_have_no_formula_for(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_fold_scores(*arguments)


@pytest.mark.parametrize(
    "fold_of",
    [[0, 1, 0], [[0, 0, 0]], [[0, 2, 2]], [[-1, 0, 1]], [[0, 1]], [[0.0, 1.0, 0.0]], [[0, 1, 2], [0, 1, 1]]],
)
def test_kfold_refuses_folds_that_are_none(fold_of):
    with pytest.raises(ValueError, match="fold_of must"):
        kfold_log_px(lambda part: fit_gaussian(part, 1.0), np.zeros(3), fold_of)


@pytest.mark.parametrize(("dim", "latent_dim"), [(5, 3), (3, 3), (2, 4)])
def test_linear_gaussian_log_px_equals_scipy(dim, latent_dim):
    model = linear_gaussian(dim, latent_dim)
    W, y = model.weight.numpy(), torch.randn(1, 6, dim, generator=torch.Generator().manual_seed(1))
    marginal = multivariate_normal(model.bias.numpy(), W @ W.T + 0.3 * np.eye(dim))
    assert model.log_px(y).shape == (1, 6) and model.log_px(y).dtype == torch.float64
    np.testing.assert_allclose(model.log_px(y)[0], marginal.logpdf(y[0]), rtol=1e-12)


def test_log_px_keeps_its_digits_with_little_noise():
    model = LinearGaussian(torch.tensor([[3.0], [4.0]]), torch.zeros(2), sigma2=1e-12)
    y = 7e5 * torch.tensor([[0.6, 0.8]], dtype=torch.float64)  # along W, where the variance is 25 + 1e-12
    expected = -0.5 * (2 * np.log(2 * np.pi) + np.log(25) + np.log(1e-12) + 7e5**2 / 25)
    assert model.log_px(y).item() == pytest.approx(expected, rel=1e-6)


def test_posterior_follows_from_the_joint_gaussian():
    model = linear_gaussian()
    W, y = model.weight, model.sample(4, torch.Generator().manual_seed(1))
    gain = W.T @ torch.linalg.inv(W @ W.T + 0.3 * torch.eye(5, dtype=torch.float64))
    mean, covariance = model.posterior(y)
    torch.testing.assert_close(mean, (y - model.bias) @ gain.T)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64) - gain @ W)


def test_bayes_rule_holds_at_any_latent_point():
    model = linear_gaussian()
    generator = torch.Generator().manual_seed(1)
    y, z = model.sample(1, generator), torch.randn(6, 3, dtype=torch.float64, generator=generator)
    mean, covariance = model.posterior(y)
    decoded, log_var = model.decode(z[None])
    assert decoded.shape == (1, 6, 5)
    log_px_given_z = torch.distributions.Normal(decoded[0], log_var[0].mul(0.5).exp()).log_prob(y).sum(-1)
    log_joint = log_px_given_z + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_posterior = multivariate_normal(mean[0].numpy(), covariance.numpy()).logpdf(z)
    np.testing.assert_allclose(log_joint.numpy() - log_posterior, model.log_px(y).expand(6), rtol=1e-10)


@pytest.mark.parametrize("inflation", [1.0, 1.5])
def test_encode_proposes_around_the_posterior(inflation):
    model = linear_gaussian(inflation=inflation)
    y = model.sample(4, torch.Generator().manual_seed(1))[None]  # (n, D) -> (E, B, D)
    mu, log_var = model.encode(y)
    mean, covariance = model.posterior(y)
    torch.testing.assert_close(mu, mean)
    assert mu.shape == log_var.shape == (1, 4, 3)
    torch.testing.assert_close(log_var.exp(), inflation * covariance.diagonal().expand(1, 4, 3))


def test_a_posterior_with_independent_axes_needs_one_sample():
    weight = torch.diag(torch.tensor([1.0, 2.0, 0.5]))
    model = LinearGaussian(weight, torch.zeros(3), sigma2=0.2)
    y = model.sample(5, torch.Generator().manual_seed(0))[None]
    mu, log_var = model.encode(y)
    mean, noise = model.decode(mu)
    normal = torch.distributions.Normal
    weights = (normal(mean, noise.mul(0.5).exp()).log_prob(y) + normal(0.0, 1.0).log_prob(mu)).sum(
        -1
    ) - normal(mu, log_var.mul(0.5).exp()).log_prob(mu).sum(-1)
    torch.testing.assert_close(weights, model.log_px(y))


def test_samples_have_the_moments_and_repeat_with_the_generator():
    model = linear_gaussian()
    x = model.sample(20000, torch.Generator().manual_seed(3))
    W, n = model.weight, len(x)
    expected = W @ W.T + 0.3 * torch.eye(5, dtype=torch.float64)
    error = (expected.diagonal().outer(expected.diagonal()) + expected**2).sqrt() / n**0.5
    assert ((x.mean(0) - model.bias).abs() < 5 * (expected.diagonal() / n).sqrt()).all()
    assert ((torch.cov(x.T) - expected).abs() < 5 * error).all()
    assert torch.equal(x, model.sample(20000, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma2": 0.0}, "sigma2 must be finite and above 0, got 0"),
        ({"inflation": 0.5}, "inflation must be finite and at least 1, got 0.5"),
        ({"bias": torch.zeros(3)}, r"weight must be \(D, Z\)"),
    ],
)
def test_linear_gaussian_refuses_what_is_no_model(options, message):
    with pytest.raises(ValueError, match=message):
        LinearGaussian(**{"weight": torch.ones(2, 1), "bias": torch.zeros(2), "sigma2": 1.0} | options)
