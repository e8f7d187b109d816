"""Counted costs against independent counts, measured times on a clock of the tests."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlib.ensemble import Ensemble
from memlib.experiment import EXPERIMENTS, variant
from memlib.proposals import evaluations
from memlib.runs.cost import ADAM_BYTES, Limits, cost, estimate, flops_per_image, machine_limits, makespan
from memlib.runs.run import run
from memlib.scoring import score_images
from memlib.training import adam, train_step

MNIST = 60000, 1, 10000  # training images, channels, validation images
TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=8
)
TINY = dataclasses.replace(TINY, proposal="encoder")
PAPER = dataclasses.replace(EXPERIMENTS["mnist-lr3"], proposal="encoder")


def test_the_papers_mnist_by_hand():
    c, flops = cost(PAPER, *MNIST), flops_per_image(EXPERIMENTS["mnist-lr3"], 1)
    encode = 2 * (1024 * 512 + 512 * 256 + 2 * 256 * 16)
    decode = 2 * (16 * 256 + 256 * 512 + 512 * 1024)
    train = 3 * (encode + decode) - 2 * 1024 * 512  # the image needs no gradient
    assert (flops.train, flops.encode, flops.decode, flops.parameters) == (train, encode, decode, 1325600)
    assert flops.outputs == 2 * 1024 + 4 * (512 + 256) + 2 * 16
    assert (c.models, c.steps) == (101, 100 * 844)
    assert c.adam_bytes == (100 * 84400 + 93800) * 1325600 * 28
    assert c.training_flop == 100 * (100 * 54000 + 60000) * train + 100 * 10000 * (encode + decode)
    assert c.scoring_flop == 10 * 20 * 10 * 60000 * (encode + 256 * decode)
    assert (c.result_bytes, c.model_bytes) == (10 * 20 * 10 * 60000 * 8, 101 * 1325600 * 4)


def test_flops_of_convolutions_are_those_of_a_real_step_of_several_models():
    """On a CPU, where they run one model after the other."""
    experiment, E, B = dataclasses.replace(EXPERIMENTS["celeba"], width=4), 2, 3
    model = Ensemble.stack([experiment.build(3, torch.Generator())] * E)
    y, eps = torch.rand(E, B, 3 * 1024), torch.zeros(E, B, experiment.latent_dim)
    optimizer = adam(model, 1e-3)

    def counted(function, *args):
        with FlopCounterMode(display=False) as counter:
            function(*args)
        return counter.get_total_flops() / (E * B)

    flops = flops_per_image(experiment, 3)
    assert counted(train_step, model, optimizer, y, eps) == flops.train
    assert counted(model.encode, y) == flops.encode
    assert counted(model.decode, eps) == flops.decode
    assert flops.parameters == sum(p.numel() for p in model.params.values()) / E
    assert flops.model_bytes == sum(array.nbytes for array in model.state().values()) / E


def test_scoring_grows_with_versions_and_with_what_fits_proposals():
    flops, plain = flops_per_image(TINY, 1), cost(TINY, 31, 1, 20)
    pairs, fits = 2 * 2 * 3 * 31, evaluations(TINY.latent_dim, 4)
    assert plain.scoring_flop == pairs * (flops.encode + 4 * flops.decode)
    fitted = cost(dataclasses.replace(TINY, proposal="fitted", versions=3), 31, 1, 20)
    assert fitted.scoring_flop == 3 * pairs * (flops.encode + fits * flops.decode)
    assert (plain.result_bytes, fitted.result_bytes) == (8 * pairs, 20 * pairs)
    many = dataclasses.replace(TINY, num_samples=1_000_000)
    assert cost(many, 31, 1, 20).cpu_memory >= plain.cpu_memory + 3 * 1_000_000 * TINY.latent_dim * 4


def test_what_is_missing_adds_up():
    """What is done of one repeat ends in the middle of the evaluations: after epoch 2 of 2 and 3."""
    everything, flops = cost(TINY, 31, 1, 20), flops_per_image(TINY, 1)
    parts = cost(TINY, 31, 1, 20, {0: 0, 1: 0}), cost(TINY, 31, 1, 20, {None: 0})
    for field in ("models", "training_flop", "scoring_flop", "adam_bytes", "model_bytes"):
        assert getattr(everything, field) == sum(getattr(part, field) for part in parts), field
    assert [part.steps for part in parts] == [3 * 3, 3 * 4]
    assert parts[1].scoring_flop == parts[1].result_bytes == 0
    begun = cost(TINY, 31, 1, 20, {0: 2})
    assert begun.training_flop == 3 * 20 * flops.train
    assert begun.scoring_flop == 3 * 31 * (flops.encode + 4 * flops.decode)


def test_a_repeat_that_is_trained_is_scored_anew_at_the_last_epoch(rates):
    flops, left = flops_per_image(TINY, 1), ({None: 3, 0: 3}, {0: 1})
    c = cost(TINY, 31, 1, 20, *left)
    assert c.training_flop == c.adam_bytes == c.model_bytes == c.steps == 0
    assert c.scoring_flop == 3 * 31 * (flops.encode + 4 * flops.decode) and c.result_bytes == 8 * 3 * 31
    lines = str(estimate(TINY, 31, 1, 20, device="cpu", missing=left[0], to_score=left[1])).splitlines()
    assert lines[0] == "4 models, trained" and lines[2].endswith("740 B of results")


def test_a_run_does_what_was_counted(tmp_path, monkeypatch):
    steps = []

    def counted_step(model, optimizer, y, eps):
        steps.append(y.shape[:2])
        return train_step(model, optimizer, y, eps)

    monkeypatch.setattr("memlib.training.train_step", counted_step)
    result = run(TINY, root=tmp_path, device="cpu", progress=False)
    flops, held = flops_per_image(TINY, 1), result.sizes["sample"]
    c = cost(TINY, result.sizes["observation"], 1, held)
    assert sum(models for models, _ in steps) * flops.parameters * ADAM_BYTES == c.adam_bytes
    losses = TINY.epochs * held * (flops.encode + flops.decode)
    assert sum(models * batch for models, batch in steps) * flops.train + losses == c.training_flop
    assert result.log_px.size * (flops.encode + TINY.num_samples * flops.decode) == c.scoring_flop
    assert result.log_px.nbytes + result.ess.nbytes == c.result_bytes


def test_memory_grows_with_what_exists_at_once():
    settings = EXPERIMENTS["cifar10"], 50000, 3, 10000
    few, many = cost(*settings, at_once=1), cost(*settings, at_once=10)
    repeat = 10 * flops_per_image(EXPERIMENTS["cifar10"], 3).parameters * 16
    assert many.cpu_memory > few.cpu_memory + 9 * repeat
    assert many.gpu_memory > few.gpu_memory + 9 * repeat
    assert few.cpu_memory > 50000 * 3 * 1024 + repeat


def test_tasks_are_started_in_order_by_whoever_is_free():
    assert makespan([1, 2, 3], 1) == 6
    assert makespan([1, 4, 4], 2) == 5  # 1 + 4 beside 4
    assert makespan([1, 10, 10, 10], 8) == 10


@pytest.fixture
def rates(monkeypatch):
    """FLOP/s of training a repeat, of training the model of all images, and of scoring."""
    rates = 4e10, 8e10, 2e11
    monkeypatch.setattr("memlib.runs.cost._probe", lambda *settings: rates)
    return rates


def test_an_estimate_adds_the_tasks_of_two_workers(rates):
    alone, both = cost(TINY, 31, 1, 20, {None: 0}), cost(TINY, 31, 1, 20, {0: 0, 1: 0})
    e = estimate(TINY, 31, 1, 20, device="cpu", at_once=2)
    full, repeat = alone.training_flop / rates[1], both.training_flop / 2 / rates[0]
    score = both.scoring_flop / 2 / rates[2]
    assert e.training_seconds == pytest.approx(full + 2 * repeat)
    assert e.scoring_seconds == pytest.approx(2 * score)
    assert e.seconds == pytest.approx(full + repeat + score)
    rest = estimate(TINY, 31, 1, 20, device="cpu", missing={1: 0})
    assert rest.seconds == pytest.approx(repeat + score) and rest.cost.models == 3


def test_an_estimate_reads_well_with_two_digits(rates):
    e = estimate(PAPER, *MNIST, device="cpu", at_once=2)
    lines = [
        "101 models, 84400 steps each",
        "3.8 PFLOP of training, 41 PFLOP of scoring",
        "1.9 GB of memory, 960 MB of results, 540 MB of models (memlib prune frees them)",
        "about 41 h here (CPU, 2 cores, float32; timed now on a few steps)",
        "at least 11 min on an H200 (data sheet)",
    ]
    assert str(e).splitlines() == lines
    for seconds, memory, text in (
        (0.0123, 0, "0 B of memory 0.012 s"),
        (99.9, 999.9, "1 kB of memory 100 s"),
        (7100, 123456, "120 kB of memory 120 min"),
        (111111, 2.84e15, "2.8 PB of memory 31 h"),
    ):
        lines = str(dataclasses.replace(e, h200_seconds=seconds, memory=memory)).splitlines()
        shown = lines[2].partition(",")[0], lines[-1].removeprefix("at least ").partition(" on")[0]
        assert " ".join(shown) == text


def test_training_and_scoring_have_their_own_bound_on_an_h200(rates):
    mixed = dataclasses.replace(PAPER, precision="bfloat16", scoring_precision="tf32")
    e = estimate(mixed, *MNIST, device="cpu")
    training, traffic = e.cost.training_flop / 989e12, e.cost.adam_bytes / 4.8e12
    assert traffic > training
    assert e.h200_seconds == pytest.approx(traffic + e.cost.scoring_flop / 495e12)
    assert e.machine.endswith("bfloat16 and tf32")


def test_nothing_is_measured_when_nothing_is_missing(monkeypatch):
    monkeypatch.setattr("memlib.runs.cost._probe", None)
    e = estimate(TINY, 31, 1, 20, device="cpu", missing={})
    assert (str(e), e.seconds, e.h200_seconds) == ("nothing is missing", 0, 0)


def clock(monkeypatch, seconds):
    """Every look at the clock comes so many seconds after the one before."""
    looks = itertools.count(0.0, seconds)
    monkeypatch.setattr("memlib.runs.cost.time", SimpleNamespace(perf_counter=lambda: next(looks)))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_samples": 10_000},
        {"num_samples": 100, "architecture": "conv", "likelihood": "gaussian", "width": 2, "flip": True},
    ],
    ids=["mlp", "conv"],
)
def test_an_estimate_measures_every_part(monkeypatch, changes):
    """Where a step of 3 models and 8 images each, and scoring as much as is tried, take 1/64 second."""
    experiment, scored = dataclasses.replace(TINY, **changes), []

    def score(model, x, num_samples, noise, proposal):
        if not scored:
            score_images(model, x, num_samples, noise, proposal=proposal)
        scored.append((len(model) * len(x), num_samples))

    monkeypatch.setattr("memlib.runs.cost.score_images", score)
    clock(monkeypatch, 1 / 64)
    found, flops = estimate(experiment, 31, 1, 20, device="cpu"), flops_per_image(experiment, 1)
    assert found.training_seconds == pytest.approx(found.cost.training_flop / (64 * 3 * 8 * flops.train))
    pairs, S = scored[0]
    assert set(scored) == {(pairs, S)} and (pairs > 1 or S < experiment.num_samples)
    rate = 64 * pairs * (flops.encode + S * flops.decode)
    assert found.scoring_seconds == pytest.approx(found.cost.scoring_flop / rate)


@pytest.mark.gpu
def test_an_estimate_on_a_gpu_stacks_repeats():
    found = estimate(dataclasses.replace(TINY, precision="tf32"), 31, 1, 20, device="cuda")
    assert min(found.training_seconds, found.scoring_seconds) > 0
    assert found.seconds == pytest.approx(found.training_seconds + found.scoring_seconds)
    assert found.machine.endswith("tf32 and float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_limits_are_what_a_product_and_an_addition_do_in_their_time(monkeypatch, precision):
    """Addition reads two arrays of 2^24 float32 and writes one."""
    clock(monkeypatch, 0.25)
    limits = machine_limits("cpu", precision)
    assert limits == Limits(flops=4 * 2 * 2**11 * 512 * 1024, bandwidth=4 * 3 * 4 * 2**24)
