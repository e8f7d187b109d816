"""Cheaper scores against closed forms of linear models, and the loss of a VAE against automatic gradients."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from vaes import generator, pictures, stacked

from memlib.chapters import cheaper
from memlib.data import ImageSet
from memlib.experiment import Experiment, Stream
from memlib.models import Bernoulli
from memlib.scoring import score_images
from memlib.training import negative_elbo

N, D = 7, 4


def examples(seed=3):
    """Inputs (N, D) and targets (N,), and parameters of a linear model in two tensors of which D are used."""
    draw = {"generator": generator(seed), "dtype": torch.float64}
    parameters = {"a": torch.randn(1, 3, **draw), "b": torch.randn(1, 1, **draw)}
    return torch.randn(N, D, **draw), torch.randn(N, **draw), parameters


def output(parameters, x):
    return (torch.cat([p.flatten() for p in parameters.values()]) * x).sum()


def squared(parameters, x, target):
    return (output(parameters, x) - target).square() / 2


def test_the_version_is_the_one_that_a_run_scores(monkeypatch):
    images, shown = pictures(520), []  # more than one block
    perturb = Bernoulli.perturb
    monkeypatch.setattr(Bernoulli, "perturb", lambda *given: shown.append(perturb(*given)) or shown[-1])
    experiment = Experiment(seed=4)
    model = stacked("mlp", "bernoulli", 1, count=1, dtype=torch.float32)
    versions = [experiment.torch_stream(Stream.VERSIONS, 0)]
    score_images(model, images, 1, generator(0), versions, proposal="encoder")
    scored = torch.cat(shown)
    given = ImageSet.of(images.numpy(), np.zeros(520, int))
    assert torch.equal(cheaper.scored_version(experiment, given, model), scored)
    with pytest.raises(ValueError, match="noise is 'paper'; allowed: 'paired'"):
        cheaper.scored_version(Experiment(noise="paper"), given, model)


@pytest.mark.parametrize("kind", [("mlp", "bernoulli", 1), ("conv", "gaussian", 3)], ids=str)
def test_gradients_of_the_elbo_are_those_of_every_image_alone(kind):
    model = stacked(*kind, count=1).train(False)
    y = model.likelihood.perturb(pictures(3, kind[2]).flatten(1), torch.rand(3, 1024 * kind[2]).double())
    eps = torch.randn(3, 2, 4, generator=generator(1), dtype=torch.float64)
    loss, parameters = cheaper.elbo_loss(model)
    found = cheaper.gradients(loss, parameters, y, eps, at_once=2)
    for i in range(3):
        value = negative_elbo(model, y[i].expand(1, 2, -1), eps[i][None]).mean()
        slopes = torch.autograd.grad(value, [*model.params.values()])
        torch.testing.assert_close(found.features[i], torch.cat([g.flatten() for g in slopes]))
        torch.testing.assert_close(cheaper.elbos(model, y, eps)[0, i], -value)
    torch.testing.assert_close(found.norm, found.features.norm(dim=1))


def test_every_model_is_shown_the_same_noise():
    y = (torch.rand(3, 1024, generator=generator(0)) < 0.5).double()
    eps = torch.randn(3, 2, 4, generator=generator(1), dtype=torch.float64)
    models = stacked("mlp", "bernoulli", 1, count=3).train(False)
    each = [cheaper.elbos(models.part(slice(e, e + 1)), y, eps) for e in range(3)]
    torch.testing.assert_close(cheaper.elbos(models, y, eps), torch.cat(each))


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_self_influence_of_a_linear_model_is_its_leverage(at_once):
    x, _, parameters = examples()
    phi = cheaper.gradients(output, parameters, x, at_once=at_once).features
    torch.testing.assert_close(phi, x)  # no projection: the identity
    leverage = cheaper.self_influence(phi, ridge=0)
    torch.testing.assert_close(leverage, torch.linalg.qr(x)[0].square().sum(1))
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    shrunk = s.square() / (s.square() + 0.3 * s.square().mean())
    torch.testing.assert_close(cheaper.self_influence(phi, ridge=0.3), (u.square() * shrunk).sum(1))


def test_leaving_an_example_out_moves_its_prediction_as_its_leverage_says():
    """h / (1 - h) times the residual, by solving least squares again without it."""
    x, target, parameters = examples()
    h = cheaper.self_influence(cheaper.gradients(output, parameters, x).features, 0)
    fitted = x @ torch.linalg.lstsq(x, target[:, None]).solution[:, 0]
    for i in range(N):
        rest = torch.arange(N) != i
        without = x[i] @ torch.linalg.lstsq(x[rest], target[rest, None]).solution[:, 0]
        torch.testing.assert_close(fitted[i] - without, h[i] / (1 - h[i]) * (target[i] - fitted[i]))


def test_a_projection_keeps_inner_products_on_average():
    x, _, parameters = examples()
    draws = [
        cheaper.gradients(output, parameters, x, dimensions=3, generator=generator(seed)).features
        for seed in range(4000)
    ]
    grams = torch.stack([phi @ phi.T for phi in draws])
    z = (grams.mean(0) - x @ x.T) / grams.std(0) * len(grams) ** 0.5
    assert abs(z).max() < 4.5 and draws[0].shape == (N, 3)
    torch.testing.assert_close(cheaper.gradients(output, parameters, x, dimensions=3).norm, x.norm(dim=1))


@pytest.mark.parametrize("at_once", [2, 100])
def test_unlearning_a_linear_model_multiplies_its_residual(at_once):
    """Each step makes the residual 1 + rate |x|^2 times as large, and each example has its own model."""
    x, target, parameters = examples()
    rate, steps = 0.05, 4
    rise = cheaper.unlearning_rise(squared, parameters, x, target, steps=steps, rate=rate, at_once=at_once)
    before = torch.stack([squared(parameters, *pair) for pair in zip(x, target, strict=True)])
    factor = (1 + rate * x.square().sum(1)) ** (2 * torch.arange(1, steps + 1)[:, None])
    torch.testing.assert_close(rise, before * (factor - 1))


def test_a_small_step_raises_the_loss_by_the_squared_gradient():
    x, target, parameters = examples()
    norm = cheaper.gradients(squared, parameters, x, target).norm
    rise = cheaper.unlearning_rise(squared, parameters, x, target, steps=1, rate=1e-7)
    torch.testing.assert_close(rise[0], 1e-7 * norm.square(), rtol=1e-5, atol=0)


def test_bad_arguments_are_refused():
    x, target, parameters = examples()
    with pytest.raises(ValueError, match="2 models; allowed: 1"):
        cheaper.elbo_loss(stacked("mlp", "bernoulli", 1, count=2))
    with pytest.raises(ValueError, match="dimensions is -1"):
        cheaper.gradients(output, parameters, x, dimensions=-1)
    with pytest.raises(ValueError, match="at_once is 0"):
        cheaper.gradients(output, parameters, x, at_once=0)
    with pytest.raises(ValueError, match="rank 4 of 5; allowed: above 0"):
        cheaper.self_influence(torch.cat([x, x[:, :1]], dim=1), ridge=0)
    with pytest.raises(ValueError, match="ridge is -1"):
        cheaper.self_influence(x, ridge=-1)
    with pytest.raises(ValueError, match=r"features are \(7,\); allowed: \(n, d\), finite"):
        cheaper.self_influence(target, ridge=1)
    with pytest.raises(ValueError, match="rate is 0; allowed: above 0"):
        cheaper.unlearning_rise(squared, parameters, x, target, steps=1, rate=0)
    with pytest.raises(FloatingPointError, match="7 losses are not finite after 3 steps"):
        cheaper.unlearning_rise(squared, parameters, x, target, steps=3, rate=1e200)


def test_every_score_has_its_point_interval_and_label():
    table = {
        "split": (3.0, 0.8, 0.7, 0.85),
        "distance": (0.01, -0.1, -0.2, 0.0),
        "noisy": (1.0, np.nan, np.nan, np.nan),
    }
    figure = cheaper.agreement_by_cost(table, {"split"})
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    for (name, (cost, agreement, low, high)), container in zip(table.items(), axes.containers, strict=False):
        points, _, (bars,) = container
        np.testing.assert_allclose(points.get_xydata(), [(cost, agreement)])
        np.testing.assert_allclose(bars.get_segments(), [[(cost, low), (cost, high)]])
        [label] = [text for text in axes.texts if text.get_text() == name]
        assert label.xy == (cost, agreement)
    kinds = [container.get_label() for container in axes.containers]
    assert kinds == ["models retrained", "one model, or none"]
    assert "not finite, left out: 1" in [text.get_text() for text in axes.get_legend().get_texts()]
    plt.close("all")


def test_labels_keep_off_other_points():
    crowd = {"left": (1.0, 0.5, 0.4, 0.6), "middle": (2.0, 0.51, 0.41, 0.6), "right": (4.0, 0.5, 0.4, 0.6)}
    (axes,) = cheaper.agreement_by_cost(crowd | {"far": (4.0, 0.9, 0.8, 1.0)}, set()).axes
    assert [text.get_ha() for text in axes.texts] == ["right", "center", "left", "left"]
    assert axes.texts[1].xy == (2.0, 0.41)  # below its interval
    plt.close("all")


@pytest.mark.parametrize(
    ("row", "message"),
    [((0.0, 0.5, 0.4, 0.6), "cost must be above 0, got 0"), ((1.0, 0.5, 0.6, 0.7), "a must lie within")],
)
def test_points_that_cannot_be_drawn_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        cheaper.agreement_by_cost({"a": row}, set())
