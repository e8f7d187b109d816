"""The tasks of a run: a group of repeats, and the model trained on all images."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memlib.cost import flops_per_image
from memlib.data import ImageSet
from memlib.device import compiler_works
from memlib.ensemble import Ensemble, sample
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.scoring import LogProb, score_images
from memlib.training import Tick, fit, mean_loss

PARAMETER = "parameter."  # prefix of a model's parameters among the arrays of its file
COMPILED_OUTPUTS = 2e10  # decoder outputs of a repeat from which on half a minute of compiling pays


@dataclass(frozen=True)
class Task:
    """What a process computes of an experiment.

    Attributes:
        experiment: the specification.
        images: the training images.
        device: where.
        tick: called with the FLOP done.
    """

    experiment: Experiment
    images: ImageSet
    device: torch.device
    tick: Tick

    @functools.cached_property
    def compiled(self) -> bool:
        """Whether scoring uses compiled kernels: where there is enough of it, and a compiler."""
        e = self.experiment
        pairs = len(e.evaluated_epochs) * e.folds * len(self.images)
        outputs = pairs * e.num_samples * math.prod(self.images.images.shape[1:])
        return outputs > COMPILED_OUTPUTS and compiler_works(self.device)

    def ensemble(self, count: int, repeats: Sequence[int | None]) -> Ensemble:
        """Fresh models, `count` per repeat."""
        e, models = self.experiment, []
        for repeat in repeats:
            parameters = e.torch_stream(Stream.PARAMETERS, repeat)
            models += [e.build(self.images.channels, parameters) for _ in range(count)]
        return Ensemble.stack(models, self.device, e.precision)

    def _noise(self, purpose: Stream, repeats: Sequence[int | None]) -> list[torch.Generator]:
        return [self.experiment.torch_stream(purpose, repeat, self.device) for repeat in repeats]

    def fit(
        self,
        model: Ensemble,
        x: torch.Tensor,
        training_sets: Sequence[NDArray[np.int64]],
        repeats: Sequence[int | None],
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Train the models of some repeats on their training sets among `x`; see `memlib.training.fit`."""
        e = self.experiment
        flop = flops_per_image(e, self.images.channels).train
        return fit(
            model,
            x,
            training_sets,
            epochs=e.epochs,
            learning_rate=e.learning_rate,
            batch_size=e.batch_size,
            flip=e.flip,
            order=[e.stream(Stream.ORDER, repeat) for repeat in repeats],
            noise=self._noise(Stream.TRAINING_NOISE, repeats),
            tick=lambda count: self.tick(count * flop),
        )

    def _score(self, model: Ensemble, x: torch.Tensor, noise: list[torch.Generator]) -> LogProb:
        e, flops = self.experiment, flops_per_image(self.experiment, self.images.channels)
        flop = flops.encode + e.num_samples * flops.decode
        return score_images(
            model, x, e.num_samples, noise, self.compiled, tick=lambda count: self.tick(count * flop)
        )

    def train_repeats(self, repeats: Sequence[int]) -> list[dict[str, NDArray]]:
        """Train the models of some repeats side by side; score all images under each at the evaluated epochs.

        Returns:
            For every repeat its arrays: log_px and ess (epoch, fold, observation), epoch, fold_of, fold_loss.

        Raises:
            FloatingPointError: training diverged, or a score is not a number.
        """
        e, n, K = self.experiment, len(self.images), self.experiment.folds
        folds = [fold_assignment(n, K, e.stream(Stream.FOLDS, repeat)) for repeat in repeats]
        x = torch.tensor(self.images.images, device=self.device)
        model = self.ensemble(K, repeats)
        noise = self._noise(Stream.SCORING_NOISE, repeats)
        losses, log_px, ess = [], [], []
        training_sets = [np.flatnonzero(fold_of != k) for fold_of in folds for k in range(K)]
        for epoch, loss in self.fit(model, x, training_sets, repeats):
            losses.append(loss)
            if epoch in e.evaluated_epochs:
                scored = self._score(model, x, noise)
                log_px.append(scored.log_px.float().cpu().numpy())
                ess.append(scored.ess.float().cpu().numpy())
                for i, repeat in enumerate(repeats):
                    if np.isnan([a[-1][i * K : (i + 1) * K] for a in (log_px, ess)]).any():
                        raise FloatingPointError(
                            f"{e.images}, repeat {repeat + 1} of {e.repeats}, epoch {epoch}: a score is not "
                            "a number; a smaller learning_rate may help"
                        )
        return [
            {
                "log_px": np.stack(log_px)[:, i * K : (i + 1) * K],
                "ess": np.stack(ess)[:, i * K : (i + 1) * K],
                "epoch": np.array(e.evaluated_epochs),
                "fold_of": fold_of,
                "fold_loss": np.stack(losses)[:, i * K : (i + 1) * K],
            }
            for i, fold_of in enumerate(folds)
        ]

    def train_on_all(self, validation: ImageSet) -> dict[str, NDArray]:
        """Train one model on all images.

        Returns:
            Its losses on `images` and `validation` by epoch, as many samples as validation images, index and
            label of the training images, its parameters.
        """
        x, held = (torch.tensor(s.images, device=self.device) for s in (self.images, validation))
        model = self.ensemble(1, [None])
        [noise] = self._noise(Stream.SCORING_NOISE, [None])
        flops = flops_per_image(self.experiment, self.images.channels)
        train_loss, test_loss = [], []
        for _, loss in self.fit(model, x, [np.arange(len(x))], [None]):
            train_loss.append(loss[0])
            test_loss.append(mean_loss(model, held, noise)[0])
            self.tick(len(held) * (flops.encode + flops.decode))
        [prior] = self._noise(Stream.SAMPLES, [None])
        return {
            "train_loss": np.array(train_loss),
            "test_loss": np.array(test_loss),
            "samples": sample(model, len(held), self.images.channels, prior)[0],
            "index": self.images.index,
            "label": self.images.labels,
            **{f"{PARAMETER}{name}": array for name, array in model.state().items()},
        }
