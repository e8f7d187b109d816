"""Train loss per image of one model with the paper's MNIST settings, epoch by epoch.

    MEMLIB_DATA=/path/to/data python benchmarks/mnist_loss.py --epochs 10 [--device cuda]

Prints one row per epoch: the negative evidence lower bound on training images (mean over the epoch) and
on the test images, and the training rate.
"""

import time

import click
import numpy as np
import torch

import memlib
from memlib.device import choose_device
from memlib.ensemble import Ensemble
from memlib.experiment import Stream
from memlib.training import adam, fit, mean_loss


@click.command()
@click.option("--epochs", default=10, show_default=True)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--device", default=None, help="cpu or cuda; by default a GPU where there is one")
def main(epochs: int, learning_rate: float, device: str | None) -> None:
    experiment = memlib.variant("mnist-lr3", epochs=epochs, learning_rate=learning_rate)
    where = choose_device(device)
    images = experiment.load_images()
    train, test = (torch.tensor(s.images, device=where) for s in (images, experiment.load_validation()))
    model = experiment.build(images.channels, experiment.torch_stream(Stream.PARAMETERS))
    ensemble = Ensemble.stack([model], where)
    noise, held_noise = (
        experiment.torch_stream(purpose, None, where)
        for purpose in (Stream.TRAINING_NOISE, Stream.SCORING_NOISE)
    )
    threads = f", {torch.get_num_threads()} threads" if where.type == "cpu" else ""
    settings = f"batch {experiment.batch_size}, learning rate {learning_rate:g}"
    print(f"{len(train)} images, {settings}, {where}{threads}")
    print(f"{'epoch':>5} {'train loss (nats)':>18} {'test loss (nats)':>17} {'images/s':>9}")
    started = time.perf_counter()
    for epoch, loss in fit(
        ensemble,
        adam(ensemble, learning_rate),
        train,
        [np.arange(len(train))],
        epochs=range(1, epochs + 1),
        batch_size=experiment.batch_size,
        flip=experiment.flip,
        order=[experiment.stream(Stream.ORDER)],
        noise=[noise],
    ):
        rate = len(train) / (time.perf_counter() - started)
        print(
            f"{epoch:5} {loss[0]:18.2f} {mean_loss(ensemble, test, held_noise)[0]:17.2f} {rate:9.0f}",
            flush=True,
        )
        started = time.perf_counter()


if __name__ == "__main__":
    main()
