"""Counted costs against independent counts, measured times on a clock of the tests."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlib.ensemble import Ensemble
from memlib.experiment import EXPERIMENTS, variant
from memlib.runs.cost import Limits, Probe, cost, estimate, flops_per_image, machine_limits, makespan, probe
from memlib.runs.run import run
from memlib.scoring import score_images
from memlib.training import train_step

MNIST = 60000, 1, 10000  # training images, channels, validation images
TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=8
)
MEASURED = Probe(training=2e-4, full=1e-4, scoring=3e-3, machine="CPU, 2 cores, float32")


@pytest.mark.parametrize(("name", "channels"), [("digits-lr3", 1), ("celeba", 3)])
def test_flops_are_those_pytorch_counts_in_a_real_step(name, channels):
    experiment, E, B = dataclasses.replace(EXPERIMENTS[name], width=4), 2, 3
    generator = torch.Generator().manual_seed(0)
    model = Ensemble.stack([experiment.build(channels, generator) for _ in range(E)])
    y, eps = torch.rand(E, B, channels * 1024), torch.zeros(E, B, experiment.latent_dim)
    optimizer = torch.optim.Adam(model.params.values())

    def counted(function, *args):
        with FlopCounterMode(display=False) as counter:
            function(*args)
        return counter.get_total_flops() / (E * B)

    flops = flops_per_image(experiment, channels)
    assert counted(train_step, model, optimizer, y, eps) == flops.train
    assert counted(model.encode, y) == flops.encode
    assert counted(model.decode, eps) == flops.decode
    assert flops.parameters == sum(p.numel() for p in model.params.values()) / E


def test_the_papers_mnist_by_hand():
    c = cost(EXPERIMENTS["mnist-lr3"], *MNIST)
    encode = 2 * (1024 * 512 + 512 * 256 + 2 * 256 * 16)
    decode = 2 * (16 * 256 + 256 * 512 + 512 * 1024)
    train = 3 * (encode + decode) - 2 * 1024 * 512
    assert (c.models, c.steps, c.parameters) == (101, 100 * 844, 1325600)
    assert c.optimizer_steps == 100 * 84400 + 93800
    assert c.training_passes == 100 * (100 * 54000 + 60000)
    assert c.scored_pairs == 10 * 20 * 10 * 60000
    assert c.result_bytes == c.scored_pairs * 8
    assert c.adam_bytes == c.optimizer_steps * 1325600 * 28
    assert c.training_flop == c.training_passes * train + 100 * 10000 * (encode + decode)
    assert c.scoring_flop == c.scored_pairs * (encode + 256 * decode)


def test_scoring_again_costs_at_most_what_decodes_the_other_samples():
    once, more = (cost(dataclasses.replace(TINY, rescoring=r), 31, 1, 20) for r in (1, 4))
    assert once.rescoring_flop == 0
    assert more.rescoring_flop == 2 * 2 * 3 * 31 * (4 * 4 - 4) * flops_per_image(TINY, 1).decode
    for field in ("training_flop", "scoring_flop", "scored_pairs", "result_bytes"):
        assert getattr(more, field) == getattr(once, field), field
    many = dataclasses.replace(TINY, num_samples=100_000)
    few, drawn = cost(many, 31, 1, 20), cost(dataclasses.replace(many, rescoring=9), 31, 1, 20)
    assert drawn.cpu_memory >= few.cpu_memory + 3 * 8 * 100_000 * TINY.latent_dim * 4


def test_what_is_missing_adds_up():
    """What is done of one repeat ends in the middle of the evaluations: after epoch 2 of 2 and 3."""
    everything = cost(TINY, 31, 1, 20)
    parts = cost(TINY, 31, 1, 20, {0: 0, 1: 0}), cost(TINY, 31, 1, 20, {None: 0})
    for field in ("models", "optimizer_steps", "training_passes", "training_flop", "scoring_flop"):
        assert getattr(everything, field) == sum(getattr(part, field) for part in parts), field
    assert [part.steps for part in parts] == [3 * 3, 3 * 4]
    assert parts[1].scored_pairs == parts[1].result_bytes == 0
    begun = cost(TINY, 31, 1, 20, {0: 2})
    assert (begun.training_passes, begun.scored_pairs) == (3 * 20, 3 * 31)


def test_a_run_does_what_was_counted(tmp_path, monkeypatch, bars):
    steps = []

    def counted_step(model, optimizer, y, eps):
        steps.append(y.shape[:2])
        return train_step(model, optimizer, y, eps)

    monkeypatch.setattr("memlib.training.train_step", counted_step)
    result = run(TINY, root=tmp_path, device="cpu")
    c = cost(TINY, result.sizes["observation"], 1, result.sizes["sample"])
    assert sum(models for models, _ in steps) == c.optimizer_steps
    assert sum(models * batch for models, batch in steps) == c.training_passes
    assert result.log_px.size == c.scored_pairs
    assert result.log_px.nbytes + result.ess.nbytes == c.result_bytes
    [bar] = bars
    assert bar.done == bar.total == c.training_flop + c.scoring_flop + c.rescoring_flop


def test_memory_grows_with_what_exists_at_once():
    settings = EXPERIMENTS["cifar10"], 50000, 3, 10000
    few, many = cost(*settings, at_once=1), cost(*settings, at_once=10)
    parameters = 9 * 10 * few.parameters * 16
    assert many.cpu_memory > few.cpu_memory + parameters
    assert many.gpu_memory > few.gpu_memory + parameters
    assert few.cpu_memory > 50000 * 3 * 1024 + 10 * few.parameters * 16


@pytest.mark.parametrize(
    ("seconds", "workers", "end"),
    [
        ([1, 2, 3], 1, 6),
        ([1, 4, 4], 2, 5),  # in order: 1 + 4 beside 4
        ([1, 10, 10, 10], 8, 10),
    ],
)
def test_tasks_are_started_in_order_by_whoever_is_free(seconds, workers, end):
    assert makespan(seconds, workers) == end


def test_an_estimate_adds_the_tasks_of_two_workers():
    c = cost(TINY, 31, 1, 20)
    e = estimate(TINY, 31, 1, 20, device="cpu", at_once=2, measured=MEASURED)
    flops = flops_per_image(TINY, 1)
    full = MEASURED.full * 3 * (31 + 20 * (flops.encode + flops.decode) / flops.train)
    repeat = MEASURED.training * 3 * 3 * 20 + MEASURED.scoring * c.scored_pairs / 2
    assert e.seconds == pytest.approx(full + repeat)
    longest = repeat + MEASURED.scoring * c.scored_pairs / 2 * c.rescoring_flop / c.scoring_flop
    assert e.most_seconds == pytest.approx(full + longest) and longest > repeat
    rest = estimate(TINY, 31, 1, 20, device="cpu", missing={1: 0}, measured=MEASURED)
    assert rest.seconds == pytest.approx(repeat) and rest.cost.models == 3


def test_an_estimate_reads_well_with_two_digits():
    e = estimate(EXPERIMENTS["mnist-lr3"], *MNIST, device="cpu", at_once=2, measured=MEASURED)
    assert e.most_seconds == e.seconds
    lines = [
        "101 models, 84400 steps each",
        "3.8 PFLOP of training, 41 PFLOP of scoring",
        "1.9 GB of memory, 960 MB of results",
        "about 2.7 days here (CPU, 2 cores, float32; timed now on a few steps)",
        "at least 11 min on an H200 (data sheet)",
    ]
    assert str(e).splitlines() == lines
    again = dataclasses.replace(EXPERIMENTS["mnist-lr3"], rescoring=3)
    e = estimate(again, *MNIST, device="cpu", at_once=2, measured=MEASURED)
    lines.insert(4, "up to 6.9 days if every image needs more samples")
    assert str(e).splitlines() == lines
    for seconds, memory, text in (
        (0.0123, 0, "0 B of memory 0.012 s"),
        (99.9, 84, "84 B of memory 100 s"),
        (125, 999.9, "1 kB of memory 2.1 min"),
        (7100, 123456, "120 kB of memory 120 min"),
        (111111, 2.84e15, "2.8 PB of memory 31 h"),
    ):
        lines = str(dataclasses.replace(e, h200_seconds=seconds, memory=memory)).splitlines()
        shown = lines[2].partition(",")[0], lines[-1].removeprefix("at least ").partition(" on")[0]
        assert " ".join(shown) == text


def test_nothing_is_measured_when_nothing_is_missing(monkeypatch):
    monkeypatch.setattr("memlib.runs.cost.probe", None)
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
def test_a_probe_measures_every_part(monkeypatch, changes):
    """Where a step of 3 models and 8 images each, and scoring as much as is tried, take 1/64 second."""
    experiment, scored = dataclasses.replace(TINY, **changes), []

    def score(model, x, num_samples, noise):
        if not scored:
            score_images(model, x, num_samples, noise)
        scored.append((len(model) * len(x), num_samples))

    monkeypatch.setattr("memlib.runs.cost.score_images", score)
    clock(monkeypatch, 1 / 64)
    found, flops = probe(experiment, 31, 1, device="cpu", at_once=2), flops_per_image(experiment, 1)
    assert found.training == found.full == 1 / 64 / (3 * 8)
    pairs, S = scored[0]
    assert set(scored) == {(pairs, S)} and (pairs > 1 or S < experiment.num_samples)
    scale = (flops.encode + experiment.num_samples * flops.decode) / (flops.encode + S * flops.decode)
    assert found.scoring == pytest.approx(1 / 64 / pairs * scale)
    assert found.machine == "CPU, 2 cores, float32"


@pytest.mark.gpu
def test_a_probe_on_a_gpu_stacks_repeats():
    found = probe(dataclasses.replace(TINY, precision="tf32"), 31, 1, device="cuda", at_once=2)
    assert min(found.training, found.full, found.scoring) > 0 and found.machine.endswith("tf32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_limits_are_what_a_product_and_an_addition_do_in_their_time(monkeypatch, precision):
    """Addition reads two arrays of 2^24 float32 and writes one."""
    clock(monkeypatch, 0.25)
    torch.set_num_threads(2)
    limits = machine_limits("cpu", precision, threads=1)
    assert limits == Limits(flops=4 * 2 * 2**11 * 512 * 1024, bandwidth=4 * 3 * 4 * 2**24)
    assert torch.get_num_threads() == 2
