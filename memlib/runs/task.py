"""The tasks of a run: a group of repeats, and the model trained on all images."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memlib.data import ImageSet
from memlib.device import compiler_works
from memlib.ensemble import Ensemble, Tick, sample
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.psis import khat_thresholds
from memlib.runs.checkpoints import Checkpoints, Progress, Saved
from memlib.runs.cost import Flops, flops_per_image
from memlib.runs.store import Member
from memlib.scoring import score_images
from memlib.training import adam, fit, mean_loss

PARAMETER = "parameter."  # prefix of a model's parameters among the arrays of its file
COMPILED_OUTPUTS = 2e10  # decoder outputs of a repeat from which on half a minute of compiling pays
CHECKPOINT_SECONDS = 300  # after which the next epoch ends with a checkpoint even where none is evaluated
NOISE = (Stream.TRAINING_NOISE, Stream.SCORING_NOISE)  # random streams that advance while models train


@dataclass(frozen=True)
class Outcome:
    """What a task has of one member.

    Attributes:
        arrays: its results; incomplete where it diverged.
        diverged: when and why it stopped before the end, empty if it did not.
        seconds: of all sittings.
        resumed: the epochs after which the later ones went on.
        torch_version: PyTorch's, or its versions.
    """

    arrays: dict[str, NDArray]
    diverged: str
    seconds: float
    resumed: list[int]
    torch_version: str


@dataclass(frozen=True)
class Task:
    """What a process computes of an experiment.

    Attributes:
        experiment: the specification.
        images: the training images.
        device: where.
        tick: called with the FLOP done.
        checkpoints: where it leaves them; without, it leaves none.
    """

    experiment: Experiment
    images: ImageSet
    device: torch.device
    tick: Tick
    checkpoints: Checkpoints | None = None

    @functools.cached_property
    def compiled(self) -> bool:
        """Whether scoring uses compiled kernels: where there is enough of it, and a compiler."""
        e = self.experiment
        pairs = len(e.evaluated_epochs) * e.folds * len(self.images)
        outputs = pairs * e.num_samples * math.prod(self.images.images.shape[1:])
        return outputs > COMPILED_OUTPUTS and compiler_works(self.device)

    @functools.cached_property
    def _flops(self) -> Flops:
        return flops_per_image(self.experiment, self.images.channels)

    @functools.cached_property
    def _score_flop(self) -> int:
        return self._flops.encode + self.experiment.most_samples * self._flops.decode

    def ensemble(self, count: int, members: Sequence[Member]) -> Ensemble:
        """Fresh models, `count` per member."""
        e, models = self.experiment, []
        for member in members:
            parameters = e.torch_stream(Stream.PARAMETERS, member)
            models += [e.build(self.images.channels, parameters) for _ in range(count)]
        return Ensemble.stack(models, self.device, e.precision)

    def _noise(self, purpose: Stream, members: Sequence[Member]) -> list[torch.Generator]:
        return [self.experiment.torch_stream(purpose, member, self.device) for member in members]

    def start(self, model: Ensemble, members: Sequence[Member]) -> Progress:
        """The beginning of the training of some members' models."""
        e = self.experiment
        noise = {purpose.name: self._noise(purpose, members) for purpose in NOISE}
        order = [e.stream(Stream.ORDER, member) for member in members]
        return Progress(model, adam(model, e.learning_rate), order, noise)

    def fit(
        self, progress: Progress, x: torch.Tensor, training_sets: Sequence[NDArray[np.int64]]
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Train on from `progress`, on the models' training sets among `x`; see `memlib.training.fit`."""
        e = self.experiment
        return fit(
            progress.model,
            progress.optimizer,
            x,
            training_sets,
            epochs=range(progress.epoch + 1, e.epochs + 1),
            batch_size=e.batch_size,
            flip=e.flip,
            order=progress.order,
            noise=progress.noise[Stream.TRAINING_NOISE.name],
            tick=lambda count: self.tick(count * self._flops.train),
        )

    def _train(
        self,
        members: Sequence[Member],
        training_sets: Sequence[NDArray[np.int64]],
        begun: Sequence[Saved],
        evaluate: Callable[[Progress, torch.Tensor], None],
        epoch_flop: int,
    ) -> tuple[Progress, list[str]]:
        """Train the members' models with checkpoints; a member that diverges stops, and the others go on.

        Args:
            begun: what each member saved; empty if they are new.
            evaluate: records what the epoch that is finished asks for.
            epoch_flop: of training, and of what `evaluate` does after every epoch.

        Returns:
            The state at the end, and for every member why it diverged, empty if it did not.
        """
        started, saved = time.perf_counter(), time.monotonic()
        x = torch.tensor(self.images.images, device=self.device)
        progress = self.start(self.ensemble(len(training_sets) // len(members), members), members)
        if begun:
            progress.restore(begun)
            self._tick_done(progress, epoch_flop)
        before, diverged = progress.seconds, [""] * len(members)
        for epoch, loss in self.fit(progress, x, training_sets):
            progress.epoch = epoch
            progress.record(loss=loss)
            evaluate(progress, x)
            diverged = [old or self._divergence(progress, i) for i, old in enumerate(diverged)]
            progress.seconds = before + time.perf_counter() - started
            if all(diverged):
                break
            due = epoch in self.experiment.evaluated_epochs or time.monotonic() - saved > CHECKPOINT_SECONDS
            if self.checkpoints and due and epoch < self.experiment.epochs:
                for i, member in enumerate(members):
                    if not diverged[i]:
                        self.checkpoints.write(member, progress, i)
                saved = time.monotonic()
        return progress, diverged

    def _tick_done(self, progress: Progress, epoch_flop: int) -> None:
        """Count what a checkpoint holds as done."""
        scored = sum(log_px.size for log_px in progress.recorded.get("log_px", []))
        self.tick(progress.epoch * epoch_flop + scored * self._score_flop)

    def _tick_pairs(self, count: int) -> None:
        self.tick(count * self._score_flop)

    def _divergence(self, progress: Progress, i: int) -> str:
        """What is not a number of what was recorded last of member i; empty if everything is."""
        entries = progress.latest(i)
        loss = entries.pop("loss")
        entries.pop("khat", None)  # infinite where it cannot be fitted
        if bad := int((~np.isfinite(loss)).sum()):
            what = f"the loss of {bad} of {len(loss)} models is not finite"
        elif names := [k for k, entry in entries.items() if (np.isnan(entry) | np.isposinf(entry)).any()]:
            what = f"{names[0]} is not a number"
        else:
            return ""
        return f"epoch {progress.epoch} at learning_rate {self.experiment.learning_rate}: {what}"

    def train_repeats(self, repeats: Sequence[int], begun: Sequence[Saved] = ()) -> list[Outcome]:
        """Train the models of some repeats side by side; score all images under each at the evaluated epochs.

        Args:
            begun: a checkpoint of each repeat, all after the same epoch; empty to start anew.

        Returns:
            Of every repeat the arrays log_px and ess (epoch, fold, observation), failing (epoch, fold),
            khat and num_samples (epoch, observation), epoch, fold_of, fold_loss.
        """
        e, n, K = self.experiment, len(self.images), self.experiment.folds
        folds = [fold_assignment(n, K, e.stream(Stream.FOLDS, repeat)) for repeat in repeats]
        training_sets = [np.flatnonzero(fold_of != k) for fold_of in folds for k in range(K)]

        def score(progress: Progress, x: torch.Tensor) -> None:
            if progress.epoch in e.evaluated_epochs:
                noise = progress.noise[Stream.SCORING_NOISE.name]
                scored = score_images(
                    progress.model,
                    x,
                    e.num_samples,
                    noise,
                    self.compiled,
                    tick=self._tick_pairs,
                    paired=e.noise == "paired",
                    rescoring=e.rescoring,
                )
                for name in ("log_px", "ess", "khat"):
                    progress.record(**{name: getattr(scored, name).float().cpu().numpy()})
                progress.record(num_samples=scored.num_samples.int().cpu().numpy())

        seen = len(repeats) * K * min(map(len, training_sets))
        progress, diverged = self._train(repeats, training_sets, begun, score, seen * self._flops.train)
        outcomes = []
        for i, fold_of in enumerate(folds):
            results = progress.results(i)
            fold_loss = {"fold_loss": results.pop("loss")}
            if "khat" in results:  # else it diverged before
                results |= _health(results.pop("khat"), results.pop("num_samples"))
            arrays = {**results, **fold_loss, "epoch": np.array(e.evaluated_epochs), "fold_of": fold_of}
            outcomes.append(_outcome(arrays, diverged[i], progress))
        return outcomes

    def train_on_all(self, validation: ImageSet, begun: Sequence[Saved] = ()) -> Outcome:
        """Train one model on all images, anew or from its checkpoint.

        Returns:
            Its losses on `images` and `validation` by epoch, as many samples as validation images, index and
            label of the training images, its parameters.
        """
        n, held = len(self.images), torch.tensor(validation.images, device=self.device)
        loss_flop = len(held) * (self._flops.encode + self._flops.decode)

        def evaluate(progress: Progress, x: torch.Tensor) -> None:
            [noise] = progress.noise[Stream.SCORING_NOISE.name]
            progress.record(test_loss=mean_loss(progress.model, held, noise))
            self.tick(loss_flop)

        epoch_flop = n * self._flops.train + loss_flop
        progress, [diverged] = self._train([None], [np.arange(n)], begun, evaluate, epoch_flop)
        results, [prior] = progress.results(0), self._noise(Stream.SAMPLES, [None])
        arrays = {
            "train_loss": results["loss"][:, 0],
            "test_loss": results["test_loss"][:, 0],
            "samples": sample(progress.model, len(held), self.images.channels, prior)[0],
            "index": self.images.index,
            "label": self.images.labels,
            **{f"{PARAMETER}{name}": array for name, array in progress.model.state().items()},
        }
        return _outcome(arrays, diverged, progress)


def _health(khat: NDArray[np.float32], num_samples: NDArray[np.int32]) -> dict[str, NDArray]:
    """What is kept of k-hat (epoch, fold, observation): its worst, and how often it is too high.

    All models of a repeat have equally many samples for an observation.
    """
    failing = (khat > khat_thresholds(num_samples)).mean(axis=-1)
    return {"khat": khat.max(axis=1), "num_samples": num_samples[:, 0], "failing": failing}


def _outcome(arrays: dict[str, NDArray], diverged: str, progress: Progress) -> Outcome:
    return Outcome(arrays, diverged, progress.seconds, progress.resumed, progress.torch_version)
