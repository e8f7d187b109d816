"""The two stages of a run: training, which leaves models, and scoring, which reads them.

A member is a repeat, or None, the model trained on all images.
"""

import datetime
import functools
import importlib.metadata
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.device import compiler_works
from memlib.ensemble import Ensemble, Tick, sample
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.psis import khat_thresholds
from memlib.runs.checkpoints import Checkpoints
from memlib.runs.job import Job
from memlib.runs.store import Member, Record
from memlib.scoring import score_images
from memlib.training import Snapshot, TrainState, adam, fit, mean_loss

PARAMETER = "parameter."  # prefix of a model's parameters among the arrays of its file
COMPILED_OUTPUTS = 2e10  # decoder outputs of a repeat from which on half a minute of compiling pays
CHECKPOINT_SECONDS = 300  # after which the next epoch ends with a checkpoint even where none is evaluated


@dataclass(frozen=True)
class Task:
    """What a process computes of a run.

    Attributes:
        job: of the run, with images.
        device: where.
        tick: called with the images that have been trained on, or scored, once for all models of a repeat.
    """

    job: Job
    device: torch.device
    tick: Tick = lambda images: None

    @property
    def experiment(self) -> Experiment:
        return self.job.experiment

    @functools.cached_property
    def x(self) -> torch.Tensor:
        """The training images, uint8 (n, C, H, W), on the device."""
        return torch.tensor(self.job.sets[0].images, device=self.device)

    @functools.cached_property
    def held_out(self) -> torch.Tensor:
        """The images on which the model of all images is evaluated, in the same way."""
        return torch.tensor(self.job.sets[1].images, device=self.device)

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.job.checkpoints, self.job.training, self.device.type)

    @functools.cached_property
    def compiled(self) -> bool:
        """Whether scoring uses compiled kernels: where there is enough of it, and a compiler."""
        e = self.experiment
        outputs = len(e.evaluated_epochs) * e.folds * e.num_samples * self.x.numel()
        return outputs > COMPILED_OUTPUTS and compiler_works(self.device)

    def work(self, member: Member) -> int:
        """Images that `tick` will be told of until a member is done."""
        e, (n, held) = self.experiment, map(len, self.job.sets)
        if self.job.is_trained(member):
            return len(self.job.to_score(member)) * n * e.versions
        if member is None:
            return e.epochs * (n + held)
        return e.epochs * (n - math.ceil(n / e.folds)) + len(e.evaluated_epochs) * n * e.versions

    def train_on_all(self, begun: Sequence[Snapshot] = ()) -> dict[Member, str]:
        """Train one model on all images, anew or from its checkpoint, and write its file.

        That holds the losses on training and held-out images by epoch, nats, as many samples as held-out
        images, and the parameters.

        Returns:
            None with when and why it diverged, if it did.
        """
        n, held = len(self.x), len(self.held_out)

        def evaluate(state: TrainState, diverged: dict[Member, str]) -> None:
            [noise] = state.noise[Stream.SCORING_NOISE.name]
            state.record(test_loss=mean_loss(state.model, self.held_out, noise))
            if not are_scores(state.recorded["test_loss"][-1]):
                diverged.setdefault(None, self._when(state.epoch, "test_loss is not a number"))
            self.tick(held)

        state, diverged = self._train([None], [np.arange(n)], begun, evaluate, n + held)
        if not diverged:
            results, prior = state.results(0), self.experiment.torch_stream(Stream.SAMPLES, None, self.device)
            arrays = {
                "train_loss": results["loss"][:, 0],
                "test_loss": results["test_loss"][:, 0],
                "samples": sample(state.model, held, self.x.shape[1], prior)[0],
                **{f"{PARAMETER}{name}": array for name, array in state.model.state().items()},
            }
            self._finish(None, arrays, state)
        return diverged

    def train_repeats(self, repeats: Sequence[int], begun: Sequence[Snapshot] = ()) -> dict[Member, str]:
        """Train the models of some repeats side by side, and score all images under each at the evaluated
        epochs; models, scores, and a file with folds and losses of every repeat are written.

        Args:
            begun: a checkpoint of each repeat, all after the same epoch; empty to start anew.

        Returns:
            Of repeats that diverged, when and why.
        """
        e, n, K = self.experiment, len(self.x), self.experiment.folds
        folds = [fold_assignment(n, K, e.stream(Stream.FOLDS, repeat)) for repeat in repeats]
        training_sets = [np.flatnonzero(fold_of != k) for fold_of in folds for k in range(K)]
        for folder, repeat in itertools.product(
            [self.job.models, *self.job.folder.glob("scores-*")], repeats
        ):
            # of a training that was lost: what comes may be other models, on another device or by rounding
            store.remove(folder, repeat, after=begun[0].epoch if begun else 0)

        def evaluate(state: TrainState, diverged: dict[Member, str]) -> None:
            if state.epoch not in e.evaluated_epochs:
                return
            last, sound = state.epoch == e.epochs, [repeat for repeat in repeats if repeat not in diverged]
            for i, repeat in enumerate(repeats):
                if repeat in sound and (last or self.job.keep_models):
                    path = store.epoch_path(self.job.models, repeat, state.epoch)
                    store.write(path, state.parameters(i), {"request": self.job.training, "run": {}})
                if repeat in sound and last:  # trained: its models are there
                    arrays = {"fold_of": folds[i], "fold_loss": state.results(i)["loss"]}
                    self._finish(repeat, arrays, state)
            if sound:
                diverged |= self._score(state.model, state.epoch, repeats, sound)

        size = min(map(len, training_sets))
        return self._train(repeats, training_sets, begun, evaluate, len(repeats) * size)[1]

    def _finish(self, member: Member, arrays: Mapping[str, NDArray], state: TrainState) -> None:
        """Write the file of a member that is trained; its checkpoints are of no use any more."""
        facts = {"stage": "training", "resumed": state.resumed, "torch": state.torch_version}
        facts = self._facts(state.seconds, len(state.order)) | facts
        store.write(self.job.path(member), arrays, {"request": self.job.training, "run": facts})
        store.remove(self.job.checkpoints, member)

    def _facts(self, seconds: float, stacked: int) -> Record:
        cpu = self.device.type == "cpu"
        name = "CPU, 1 thread" if cpu else torch.cuda.get_device_name(self.device)
        return run_facts(self.job.sets[0], seconds) | {"device": name, "stacked": stacked}

    def score(self, repeat: int) -> dict[Member, str]:
        """Score the models of a trained repeat that have no scores as yet.

        Returns:
            The repeat with when and why its scores are no numbers, if so.

        Raises:
            StoreError: its models are not there any more, or damaged.
        """
        template, diverged = self.experiment.build(self.x.shape[1]), {}
        for epoch, path in self.job.models_to_score(repeat).items():
            arrays, _ = store.read(path, self.job.training)
            model = Ensemble.from_state(template, arrays, self.device)
            diverged |= self._score(model, epoch, [repeat], [repeat])
        return diverged

    def _score(
        self, model: Ensemble, epoch: int, repeats: Sequence[int], wanted: Sequence[int]
    ) -> dict[Member, str]:
        """Score the models of some repeats at an epoch, and write the scores of those wanted.

        Returns:
            Of repeats with scores that are no numbers, when and which.
        """
        e, started, diverged = self.experiment, time.perf_counter(), {}
        versions = [e.torch_stream(Stream.VERSIONS, version) for version in range(e.versions)]
        scored = score_images(
            Ensemble(model.template, model.params, model.buffers, e.scoring_precision),
            self.x,
            e.num_samples,
            [e.torch_stream(Stream.SCORING_NOISE, repeat, self.device, epoch) for repeat in repeats],
            versions if e.noise == "paired" else e.versions,
            e.proposal,
            self.compiled,
            tick=lambda pairs: self.tick(pairs // e.folds),
        )
        columns = {name: getattr(scored, name).float().cpu().numpy() for name in ("log_px", "ess", "khat")}
        columns["num_samples"] = scored.num_samples.int().cpu().numpy()
        facts = self._facts(time.perf_counter() - started, len(repeats))
        facts |= {"stage": "scoring", "kernels": "compiled" if self.compiled else "eager"}
        for i, repeat in enumerate(repeats):
            own = {name: column[i * e.folds : (i + 1) * e.folds] for name, column in columns.items()}
            bad = [name for name in ("log_px", "ess") if not are_scores(own[name])]
            if bad and repeat in wanted:
                diverged[repeat] = self._when(epoch, f"{bad[0]} is not a number")
            elif repeat in wanted:
                path = store.epoch_path(self.job.scores, repeat, epoch)
                store.write(path, stored_scores(own), {"request": self.job.scoring, "run": facts})
        return diverged

    def _train(
        self,
        members: Sequence[Member],
        training_sets: Sequence[NDArray[np.int64]],
        begun: Sequence[Snapshot],
        evaluate: Callable[[TrainState, dict[Member, str]], None],
        epoch_images: int,
    ) -> tuple[TrainState, dict[Member, str]]:
        """Train the members' models with checkpoints; a member that diverges stops, and the others go on.

        Args:
            begun: what each member saved; empty if they are new.
            evaluate: does what the epoch that is finished asks for, and adds members that diverged.
            epoch_images: that `tick` is told of in an epoch, but for scoring.

        Returns:
            The state at the end, and of members that diverged when and why.
        """
        e, count, diverged = self.experiment, len(training_sets) // len(members), {}
        state = self.start(count, members)
        if begun:
            state.restore(begun)
            scored = 0 if None in members else sum(epoch <= state.epoch for epoch in e.evaluated_epochs)
            scored *= e.versions * len(members)
            self.tick(state.epoch * epoch_images + scored * len(self.x))
        epochs = fit(
            state.model,
            state.optimizer,
            self.x,
            training_sets,
            epochs=range(state.epoch + 1, e.epochs + 1),
            batch_size=e.batch_size,
            flip=e.flip,
            order=state.order,
            noise=state.noise[Stream.TRAINING_NOISE.name],
            tick=lambda pairs: self.tick(pairs // count),
        )
        started = saved = time.monotonic()
        for epoch, loss in epochs:
            state.epoch = epoch
            state.seconds += time.monotonic() - started
            state.record(loss=loss)
            for i, member in enumerate(members):
                if (bad := int((~np.isfinite(loss[state.models(i)])).sum())) and member not in diverged:
                    diverged[member] = self._when(epoch, f"the loss of {bad} of {count} models is not finite")
            evaluate(state, diverged)
            if len(diverged) == len(members):
                break
            due = epoch in e.evaluated_epochs or time.monotonic() - saved > CHECKPOINT_SECONDS
            if due and epoch < e.epochs:
                for i, member in enumerate(members):
                    if member not in diverged:
                        self.checkpoints.write(member, state, i)
                saved = time.monotonic()
            started = time.monotonic()
        return state, diverged

    def start(self, count: int, members: Sequence[Member]) -> TrainState:
        """The beginning of the training of some members, `count` models each."""
        e, models = self.experiment, []
        for member in members:
            parameters = e.torch_stream(Stream.PARAMETERS, member)
            models += [e.build(self.x.shape[1], parameters) for _ in range(count)]
        model = Ensemble.stack(models, self.device, e.precision)
        noise = {
            purpose.name: [e.torch_stream(purpose, member, self.device) for member in members]
            for purpose in (Stream.TRAINING_NOISE, Stream.SCORING_NOISE)
        }
        order = [e.stream(Stream.ORDER, member) for member in members]
        return TrainState(model, adam(model, e.learning_rate), order, noise)

    def _when(self, epoch: int, what: str) -> str:
        return f"epoch {epoch} at learning_rate {self.experiment.learning_rate}: {what}"


def run_facts(images: ImageSet, seconds: float) -> Record:
    """When and with what something was computed, as records keep it."""
    return {
        "images": images.name,
        "seconds": round(seconds, 2),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "memlib": importlib.metadata.version("memlib"),
        "torch": str(torch.__version__),
    }


def stored_scores(columns: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """What is kept of a repeat's scores and their health, as `store.assemble` reads it.

    Args:
        columns: `log_px`, and of importance weights `ess`, `khat` and `num_samples`, each (K, R, n).

    Returns:
        `log_px`, (K, n), the mean over versions, with `log_px_version`, (K, R, n), of several; `ess`,
        (K, n), the smallest of the versions; `failing`, (K,), the share of estimates with too high a k-hat;
        `khat` and `num_samples`, (n,), of the estimate whose k-hat is the worst for its number of samples.
    """
    log_px = columns["log_px"]
    arrays = {"log_px": log_px.mean(1, dtype=np.float64).astype(log_px.dtype)}
    if log_px.shape[1] > 1:
        arrays["log_px_version"] = log_px
    if "ess" in columns:
        khat, counts = columns["khat"], columns["num_samples"]
        limits, n = khat_thresholds(counts), khat.shape[-1]
        worst = (khat - limits).reshape(-1, n).argmax(0), np.arange(n)
        arrays |= {
            "ess": columns["ess"].min(1),
            "khat": khat.reshape(-1, n)[worst],
            "num_samples": counts.reshape(-1, n)[worst],
            "failing": (khat > limits).mean(axis=(1, 2)),
        }
    return arrays


def are_scores(values: NDArray[np.floating]) -> bool:
    """Numbers or minus infinity, the score of an image that a model gives no probability."""
    return not (np.isnan(values) | np.isposinf(values)).any()
