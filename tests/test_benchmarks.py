"""The reference of the benchmarks against memlib, their measuring, and tiny runs of the scripts."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import memlib.scoring
from memlib.device import one_thread
from memlib.ensemble import Ensemble, perturbed
from memlib.experiment import Stream
from memlib.scoring import forked, score_images
from memlib.training import negative_elbo

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import measure
import mifid
import on_gpu
import reference
import scaling
import score
import train
import workload


@pytest.fixture(autouse=True)
def embedded_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path))


def setting(count, epochs=1):
    images = workload.observed(count)
    return images, workload.setting(images, epochs)


def test_loss_gradient_and_log_p_of_the_reference_are_those_of_memlib_at_equal_noise():
    images, experiment = setting(6)
    vaes = [vae.double() for vae in workload.models(experiment, 0)]
    networks = [reference.Network.like(vae).double() for vae in vaes]
    ensemble, x, E, S = Ensemble.stack(vaes), torch.tensor(images.images), len(vaes), 20
    noise, again = (experiment.torch_stream(Stream.SCORING_NOISE, 0) for _ in range(2))
    y = perturbed(vaes[0].likelihood, x.flatten(1).expand(E, -1, -1), noise, torch.float64)
    shape = len(x), S, experiment.latent_dim
    each = [torch.randn(shape, generator=forked(noise), dtype=torch.float64) for _ in range(E)]
    eps = torch.stack(each).transpose(1, 2)  # (E, S, B, Z)

    scored = score_images(ensemble, x, S, [again], proposal="encoder").log_px[:, 0]
    plain = torch.stack([reference.log_px(*each) for each in zip(networks, y, eps, strict=True)])
    torch.testing.assert_close(scored, plain, rtol=1e-9, atol=0)

    ours = negative_elbo(ensemble, y, eps[:, 0]).sum(1)
    ours.sum().backward()
    for e, network in enumerate(networks):
        theirs = reference.loss(network, y[e], eps[e, 0])
        theirs.backward()
        torch.testing.assert_close(ours[e], theirs, rtol=1e-9, atol=0)
        for name, p in network.named_parameters():
            own = ensemble.params[name].grad[e]
            torch.testing.assert_close(own if own.shape == p.shape else own.mT, p.grad, rtol=1e-6, atol=1e-9)


def test_scores_with_own_noise_agree_within_the_noise():
    """The whole way, with padded pictures, transforms and loaders."""
    images, experiment = setting(60)
    vae = workload.models(experiment, 0)[0]
    torch.manual_seed(0)
    batches = reference.loader(images.images, 16, shuffle=False)
    plain = reference.score(reference.Network.like(vae), batches, 64)
    noise = experiment.torch_stream(Stream.SCORING_NOISE, 0)
    scored = score_images(
        Ensemble.stack([vae]), torch.tensor(images.images), 64, [noise], proposal="encoder"
    ).log_px[0, 0]
    # without training all pixels have about equal probabilities, and binarization moves log p by a few nats
    assert abs((scored - plain).mean()) < 1 and (scored - plain).abs().max() < 5


def test_the_reference_learns_as_fast_as_memlib():
    """Two epochs of 480 images from equal weights; order and noise differ."""
    images, experiment = setting(600, epochs=2)
    torch.manual_seed(0)
    network = reference.Network.like(workload.models(experiment, 0)[0])
    members = workload.training_sets(experiment, len(images), 0)[0]
    batches = reference.loader(images.images[members], experiment.batch_size, shuffle=True)
    optimizer = reference.adam(network, experiment.learning_rate)
    plain = [reference.train_epoch(network, optimizer, batches) for _ in range(2)]
    sets = workload.training_sets(experiment, len(images), 0)
    _, epochs = workload.training(experiment, images, torch.device("cpu"), sets)
    ours = [loss[0] for _, loss in epochs]
    assert np.mean(ours) == pytest.approx(np.mean(plain), rel=0.01)
    assert plain[1] < 0.7 * plain[0]


def test_pythae_agrees_within_the_noise_of_sampling():
    pytest.importorskip("pythae")
    import pythae_nll

    images, experiment = setting(8)
    vae = workload.models(experiment, 0)[0]
    network = reference.Network.like(vae)
    torch.manual_seed(0)
    y = torch.bernoulli(torch.tensor(images.images).flatten(1) / 255)
    theirs = pythae_nll.log_px(pythae_nll.model(network), y, 512, 128)
    ours = memlib.scoring.log_px(Ensemble.stack([vae]), y[None], 512, torch.Generator().manual_seed(0))
    assert theirs == pytest.approx(ours.log_px.mean().item(), abs=0.1)


def test_rounds_are_interleaved_so_that_a_slower_machine_leaves_ratios_alone():
    now, order = 0.0, ""

    def takes(name, seconds):
        nonlocal now, order
        now += seconds * 2 ** (len(order) // 2)  # every round at half the speed of the one before
        order += name

    functions = {"a": lambda: takes("a", 1), "b": lambda: takes("b", 3)}
    calls = measure.interleaved(functions, 3, clock=lambda: now)
    assert order == "ababab" and [call.seconds for call in calls["a"]] == [1, 2, 4]
    ratios = (b.seconds / a.seconds for a, b in zip(calls["a"], calls["b"], strict=True))
    assert measure.spread(ratios) == (3, 3, 3)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_functions_side_by_side_live_in_processes_of_their_own(count):
    def make():
        seen = []
        return lambda: seen.append(os.getpid()) or seen

    call = measure.side_by_side([make] * count)
    call()
    found = call()
    assert all(len(seen) == 2 and len(set(seen)) == 1 for seen in found), "set up once"
    processes = {seen[0] for seen in found}
    assert len(processes) == count and (os.getpid() in processes) == (count == 1)


def test_peak_memory_sees_what_is_freed_before_the_end():
    def call():
        ones = torch.ones(2**24)
        time.sleep(0.5)  # several readings, however busy the machine
        return ones.sum().item()

    result, peak = measure.peak_memory(call, torch.device("cpu"))
    assert result == 2**24 and 60 * 2**20 < peak < 200 * 2**20


@pytest.fixture
def tiny(monkeypatch):
    """Few samples and steps; nothing is compiled or watched, which takes longer than all the rest."""
    small = {"SAMPLES": 8, "TRAINING_STEPS": 1, "TRAINING_IMAGES": 100}
    axes = {"MODELS": (1, 2), "SAMPLES": (4, 8), "EPOCHS": (1, 2), "WARM_UP": 1}
    axes["BASE"] = scaling.Size(models=2, images=0, samples=8, epochs=1)
    for script, values in ((score, small), (scaling, axes)):
        for name, value in values.items():
            monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(memlib.scoring, "compiled_log_prob", lambda likelihood: likelihood.log_prob)
    for script in (measure, mifid):
        monkeypatch.setattr(script, "peak_memory", lambda function, device: (function(), 2**20))
    with one_thread():  # on which no processes are started
        yield


@pytest.mark.parametrize(
    ("script", "rows"),
    [
        (train, ["reference, 1 model", "memlib, 1 repeat of 5 models"]),
        (score, ["reference, batches of", "memlib, eager", "memlib, compiled", "the decoder's products"]),
        (scaling, [f"{name:<7}" for name in ("models", "images", "samples", "epochs")]),
    ],
)
def test_a_tiny_run_prints_its_table(script, rows, tiny):
    arguments = ["--device", "cpu", "--images", "20", "--rounds", "1"]
    printed = CliRunner().invoke(script.main, arguments, catch_exceptions=False)
    assert printed.exit_code == 0
    lines = printed.output.splitlines()
    assert "torch" in lines[0] and "float32" in lines[0] and "embedded digits" in printed.output
    for row in rows:
        assert any(line.startswith(row) for line in lines), row
    assert "nan" not in printed.output


def test_the_small_experiment_of_both_devices_has_its_headline(tmp_path):
    tiny = memlib.variant("digits-lr3", num_images=30, epochs=1, folds=3, repeats=1, num_samples=2)
    found = on_gpu.headline(memlib.run(tiny, root=tmp_path, progress=False))
    assert len(found) == 5 and all(np.isfinite(list(found.values())))


def test_the_ways_to_compute_mifid_agree_in_a_tiny_run(tmp_path, tiny):
    path = tmp_path / "mifid.json"
    arguments = ["--images", "40", "--features", "5", "--rounds", "1", "--out", str(path)]
    CliRunner().invoke(mifid.main, arguments, catch_exceptions=False)
    fid, near = json.loads(path.read_text())["tables"]
    assert all(float(row[-1]) < 1e-6 for row in [*fid["rows"], *near["rows"]])
