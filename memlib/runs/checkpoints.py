"""Checkpoints: all that changes while models train, as files from which a task goes on bit for bit."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import memlib.runs.store as store
from memlib.ensemble import Ensemble
from memlib.runs.store import Member, StoreError

LOG = logging.getLogger("memlib")
KEPT = 2  # checkpoints of a member: the newest, and one before in case that is damaged
_RESULT = "result."  # prefix of what has been recorded
_STREAM = "stream."  # of a random stream
_MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, by the names PyTorch gives them


@dataclass
class Progress:
    """Everything that changes while the models of some members train side by side.

    Attributes:
        model: E models, as many of each member, sorted by member.
        optimizer: Adam over the model's parameters.
        order: of every member, draws the order of its training images.
        noise: by purpose, one generator per member.
        epoch: passes over the data that are done.
        recorded: by name, in the order of time, entries (E, ...).
        seconds: of computation so far, added up over all sittings.
        resumed: the epochs after which computation went on from a checkpoint.
        torch_version: PyTorch's, or its versions if that changed on the way.
    """

    model: Ensemble
    optimizer: torch.optim.Optimizer
    order: list[np.random.Generator]
    noise: dict[str, list[torch.Generator]]
    epoch: int = 0
    recorded: dict[str, list[NDArray]] = field(default_factory=dict)
    seconds: float = 0.0
    resumed: list[int] = field(default_factory=list)
    torch_version: str = str(torch.__version__)

    def record(self, **entries: NDArray) -> None:
        """Add an entry (E, ...) to each of these."""
        for name, entry in entries.items():
            self.recorded.setdefault(name, []).append(entry)

    def _models(self, i: int) -> slice:
        """The models of member i."""
        count = len(self.model) // len(self.order)
        return slice(i * count, (i + 1) * count)

    def results(self, i: int) -> dict[str, NDArray]:
        """What has been recorded of member i, (times, models of the member, ...)."""
        return {name: np.stack([e[self._models(i)] for e in each]) for name, each in self.recorded.items()}

    def latest(self, i: int) -> dict[str, NDArray]:
        """Of all that has been recorded the last entry of member i."""
        return {name: each[-1][self._models(i)] for name, each in self.recorded.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, batch-norm statistics and Adam's moments by name, each (E, ...)."""
        tensors = {f"model.{name}": t for name, t in (self.model.params | self.model.buffers).items()}
        for name, p in self.model.params.items():
            tensors |= {f"{moment}.{name}": self.optimizer.state[p][moment] for moment in _MOMENTS}
        return tensors

    def _generators(self, i: int) -> dict[str, torch.Generator]:
        return {f"{_STREAM}{purpose}": each[i] for purpose, each in self.noise.items()}

    def arrays(self, i: int) -> dict[str, NDArray]:
        """All that member i needs to go on, whoever trains beside it then."""
        steps = self.optimizer.state[next(iter(self.model.params.values()))]["step"]
        return {
            **{name: t.detach()[self._models(i)].cpu().numpy() for name, t in self._tensors().items()},
            **{name: generator.get_state().numpy() for name, generator in self._generators(i).items()},
            **{f"{_RESULT}{name}": array for name, array in self.results(i).items()},
            "order": np.array(json.dumps(self.order[i].bit_generator.state)),
            "steps": steps.cpu().numpy(),
        }

    @torch.no_grad()
    def restore(self, saved: Sequence["Saved"]) -> None:
        """Go on from what each member saved after the same epoch."""
        parts = [one.arrays for one in saved]
        for p in self.model.params.values():
            steps = torch.tensor(parts[0]["steps"], device=self.model.device)
            moments = {moment: torch.zeros_like(p) for moment in _MOMENTS}
            self.optimizer.state[p] = {"step": steps, **moments}
        for name, tensor in self._tensors().items():
            tensor.copy_(torch.from_numpy(np.concatenate([part[name] for part in parts])))
        for i, part in enumerate(parts):
            for name, generator in self._generators(i).items():
                generator.set_state(torch.from_numpy(part[name]))
            self.order[i].bit_generator.state = json.loads(str(part["order"]))
        names = [name for name in parts[0] if name.startswith(_RESULT)]
        together = {name: np.concatenate([part[name] for part in parts], axis=1) for name in names}
        self.recorded = {name.removeprefix(_RESULT): list(array) for name, array in together.items()}
        facts = [one.run for one in saved]
        self.epoch = saved[0].epoch
        self.seconds = max(run["seconds"] for run in facts)
        self.resumed = [*max((run["resumed"] for run in facts), key=len), self.epoch]
        self._note_version(max((run["torch_version"] for run in facts), key=len))

    def _note_version(self, before: str) -> None:
        now = self.torch_version
        if before.split(", then ")[-1] != now:
            LOG.warning(
                "going on with torch %s after torch %s: last digits may differ from either", now, before
            )
            before += f", then {now}"
        self.torch_version = before


class Saved(NamedTuple):
    """A checkpoint of one member: after which epoch, its arrays, and how they were computed."""

    epoch: int
    arrays: dict[str, NDArray]
    run: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint files of a run, of every member the newest `KEPT`.

    Attributes:
        folder: of the run's results.
        request: that the results answer.
        device: "cpu" or "cuda", where the members compute.
    """

    folder: Path
    request: Mapping[str, Any]
    device: str

    def write(self, member: Member, progress: Progress, i: int) -> None:
        """Keep member i of those that train, and give up what is older than `KEPT` checkpoints."""
        run = {name: getattr(progress, name) for name in ("seconds", "resumed", "torch_version")}
        path = store.checkpoint_path(self.folder, member, progress.epoch)
        record = {"request": dict(self.request), "run": {"device": self.device, **run}}
        store.write(path, progress.arrays(i), record)
        epochs = store.checkpoint_epochs(self.folder, member)
        later = [epoch for epoch in epochs if epoch > progress.epoch]  # no use, or this would not come again
        for epoch in [*later, *epochs[len(later) + KEPT :]]:
            store.checkpoint_path(self.folder, member, epoch).unlink(missing_ok=True)

    def newest(self, member: Member) -> Saved | None:
        """The newest checkpoint that is whole; damaged ones are reported and passed over.

        Raises:
            StoreError: it is of another request, or from another kind of device, on which alone its random
                streams go on.
        """
        for epoch in store.checkpoint_epochs(self.folder, member):
            path = store.checkpoint_path(self.folder, member, epoch)
            try:
                arrays, record = store.read(path, self.request)
            except store.DamagedError as error:
                LOG.warning("%s; going on from an earlier checkpoint, or anew where there is none", error)
                continue
            self._check_device(path, record)
            return Saved(epoch, arrays, record["run"])
        return None

    def check(self, member: Member) -> None:
        """Raise what `newest` would, but for damage, without reading the arrays or claiming the member."""
        for epoch in store.checkpoint_epochs(self.folder, member)[:1]:
            with contextlib.suppress(store.DamagedError, FileNotFoundError):  # or given up meanwhile
                path = store.checkpoint_path(self.folder, member, epoch)
                self._check_device(path, store.check(path, self.request))

    def _check_device(self, path: Path, record: store.Record) -> None:
        device = record["run"]["device"]
        if device != self.device:
            every = path.with_name(f"{path.name.partition('-epoch-')[0]}-epoch-*")
            raise StoreError(
                f"{path} was computed on device {device!r} and goes on only there, not on {self.device!r}; "
                f"choose that device, or delete {every.name} beside it to begin anew"
            )
