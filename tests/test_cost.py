"""Counted costs against independent counts; what is measured, only for being there."""

import dataclasses
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import memlib.cost
from memlib.cost import Probe, cost, estimate, flops_per_image, machine_limits, makespan, probe
from memlib.ensemble import Ensemble
from memlib.experiment import EXPERIMENTS, variant
from memlib.runs import run
from memlib.training import train_step

PAPER = {  # training images, channels, validation images
    "mnist-lr3": (60000, 1, 10000),
    "mnist-lr4": (60000, 1, 10000),
    "cifar10": (50000, 3, 10000),
    "celeba": (162770, 3, 19867),
}
TINY = variant(
    "digits-lr3", num_images=31, epochs=3, score_every=2, folds=3, repeats=2, num_samples=4, batch_size=8
)
MEASURED = Probe(training=2e-4, full=1e-4, scoring=3e-3, machine="CPU, 2 cores, float32")


def test_the_perceptron_of_table_1_by_hand():
    encode = 2 * (1024 * 512 + 512 * 256 + 2 * 256 * 16)
    decode = 2 * (16 * 256 + 256 * 512 + 512 * 1024)
    flops = flops_per_image(EXPERIMENTS["mnist-lr3"], 1)
    assert (flops.encode, flops.decode) == (encode, decode)
    assert flops.train == 3 * (encode + decode) - 2 * 1024 * 512


@pytest.mark.parametrize(("name", "channels"), [("digits-lr3", 1), ("patches", 3), ("celeba", 3)])
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
    c = cost(EXPERIMENTS["mnist-lr3"], 60000, 1, 10000)
    assert (c.models, c.steps, c.parameters) == (101, 100 * 844, 1325600)
    assert c.optimizer_steps == 100 * 84400 + 93800
    assert c.training_passes == 100 * (100 * 54000 + 60000)
    assert c.scored_pairs == 10 * 20 * 10 * 60000
    assert c.result_bytes == 10 * 20 * 10 * 60000 * 8
    assert c.adam_bytes == c.optimizer_steps * 1325600 * 28
    assert c.training_flop == pytest.approx(3.76e15, rel=0.01)
    assert c.scoring_flop == pytest.approx(40.7e15, rel=0.01)


def test_training_is_linear_in_epochs_and_scoring_in_samples():
    once = cost(TINY, 31, 1, 20)
    twice = cost(dataclasses.replace(TINY, epochs=6), 31, 1, 20)
    assert twice.training_flop == 2 * once.training_flop
    assert twice.optimizer_steps == 2 * once.optimizer_steps
    more = cost(dataclasses.replace(TINY, num_samples=8), 31, 1, 20)
    assert more.scoring_flop - once.scoring_flop == once.scored_pairs * 4 * flops_per_image(TINY, 1).decode
    assert more.training_flop == once.training_flop


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
    everything = cost(TINY, 31, 1, 20)
    parts = cost(TINY, 31, 1, 20, {0: 0, 1: 0}), cost(TINY, 31, 1, 20, {None: 0})
    flop = "training_flop", "scoring_flop", "rescoring_flop"
    for field in ("models", "optimizer_steps", "training_passes", *flop):
        assert getattr(everything, field) == sum(getattr(part, field) for part in parts), field
    assert [part.steps for part in parts] == [3 * 3, 3 * 4]
    assert parts[1].scored_pairs == parts[1].result_bytes == 0


def test_a_run_does_what_was_counted(tmp_path, monkeypatch, bars):
    steps = []

    def counted_step(model, optimizer, y, eps):
        steps.append(y.shape[:2])
        return train_step(model, optimizer, y, eps)

    monkeypatch.setattr("memlib.training.train_step", counted_step)
    result = run(TINY, tmp_path, device="cpu")
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
        ([], 2, 0),
        ([3], 2, 3),
        ([1, 2, 3], 1, 6),
        ([1, 4, 4], 2, 5),  # in order: 1 + 4 beside 4
        ([1, 10, 10, 10, 10], 2, 21),
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
    assert e.seconds == pytest.approx(max(repeat, full + repeat))
    longest = repeat + MEASURED.scoring * c.scored_pairs / 2 * c.rescoring_flop / c.scoring_flop
    assert c.rescoring_flop and e.most_seconds == pytest.approx(max(longest, full + longest))
    rest = estimate(TINY, 31, 1, 20, device="cpu", missing={1: 0}, measured=MEASURED)
    assert rest.seconds == pytest.approx(repeat) and rest.cost.models == 3


def test_an_estimate_reads_well():
    e = estimate(EXPERIMENTS["mnist-lr3"], *PAPER["mnist-lr3"], device="cpu", at_once=2, measured=MEASURED)
    assert str(e).splitlines() == [
        "101 models, 84400 steps each",
        "3.8 PFLOP of training, 41 PFLOP of scoring",
        "1.9 GB of memory, 960 MB of results",
        "about 2.7 days here (CPU, 2 cores, float32; timed now on a few steps)",
        "at least 11 min on an H200 (data sheet)",
    ]
    assert e.most_seconds == e.seconds
    again = dataclasses.replace(EXPERIMENTS["mnist-lr3"], rescoring=3)
    e = estimate(again, *PAPER["mnist-lr3"], device="cpu", at_once=2, measured=MEASURED)
    assert str(e).splitlines()[3:] == [
        "about 2.7 days here (CPU, 2 cores, float32; timed now on a few steps)",
        "up to 6.9 days if every image needs more samples",
        "at least 11 min on an H200 (data sheet)",
    ]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_experiments_have_finite_estimates(name):
    for missing in (None, dict.fromkeys(range(3), 0), {None: 0}):
        e = estimate(EXPERIMENTS[name], *PAPER[name], device="cpu", measured=MEASURED, missing=missing)
        for value in (e.seconds, e.memory, e.h200_seconds):
            assert math.isfinite(value) and value > 0
        assert len(str(e).splitlines()) == 5


def test_nothing_is_measured_when_nothing_is_missing(monkeypatch):
    monkeypatch.setattr("memlib.cost.probe", None)
    e = estimate(TINY, 31, 1, 20, device="cpu", missing={})
    assert (str(e), e.seconds, e.h200_seconds) == ("nothing is missing", 0, 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"),
        (99.9, "100 s"),
        (125, "2.1 min"),
        (7100, "120 min"),
        (111111, "31 h"),
        (1e8, "1200 days"),
    ],
)
def test_durations_have_two_digits(seconds, text):
    assert memlib.cost._duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (84, "84 B"), (999.9, "1 kB"), (123456, "120 kB"), (2.84e15, "2.8 PB")]
)
def test_quantities_have_two_digits(value, text):
    assert memlib.cost._quantity(value, "B") == text


@pytest.mark.parametrize(
    "experiment",
    [TINY, dataclasses.replace(TINY, architecture="conv", likelihood="gaussian", width=2, flip=True)],
    ids=["mlp", "conv"],
)
def test_a_probe_measures_every_part(experiment):
    found = probe(experiment, 31, 1, device="cpu", at_once=2)
    assert min(found.training, found.full, found.scoring) > 0
    assert found.machine == "CPU, 2 cores, float32"


@pytest.mark.gpu
def test_a_probe_on_a_gpu_stacks_repeats():
    found = probe(dataclasses.replace(TINY, precision="tf32"), 31, 1, device="cuda", at_once=2)
    assert min(found.training, found.full, found.scoring) > 0 and found.machine.endswith("tf32")


def test_limits_of_this_machine_are_positive():
    before = torch.get_num_threads()
    for precision in ("float32", "bfloat16"):
        assert min(dataclasses.astuple(machine_limits("cpu", precision, threads=1))) > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2}, "n is 2; allowed: 3 or more"),
        ({"channels": 2}, "channels is 2; allowed: 1, 3"),
        ({"validation_images": -1}, "validation_images is -1; allowed: 0 or more"),
        ({"missing": {0: 0, 1: 0, 2: 0}}, "number of repeats is 3; allowed: 0 to 2"),
        ({"missing": {0: 4}}, "epochs that are done is 4; allowed: 0 to 3"),
        ({"at_once": 0}, "at_once is 0; allowed: 1 or more"),
    ],
)
def test_costs_of_what_cannot_be_are_refused(options, message):
    settings = {"n": 31, "channels": 1, "validation_images": 20} | options
    with pytest.raises(ValueError, match=message):
        cost(TINY, **settings)


def test_devices_and_settings_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="device is 'gpu'; allowed: cpu, cuda"):
        estimate(TINY, 31, 1, 20, device="gpu")
    with pytest.raises(ValueError, match="device is 'gpu'; allowed: cpu, cuda"):
        machine_limits("gpu")
    with pytest.raises(ValueError, match="precision is 'tf32', which only GPUs have"):
        machine_limits("cpu", "tf32")
    with pytest.raises(ValueError, match="threads is -1; allowed: 0 or more"):
        machine_limits("cpu", threads=-1)
    with pytest.raises(ValueError, match="n is 2; allowed: 3 or more"):
        probe(TINY, 2, 1, device="cpu")
