"""Checkpoints: all that changes while models train, as files from which a task goes on bit for bit."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import memlib.store as store
from memlib.ensemble import Ensemble
from memlib.store import Member, StoreError

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
        resumed: the epochs at which computation went on from a checkpoint.
    """

    model: Ensemble
    optimizer: torch.optim.Optimizer
    order: list[np.random.Generator]
    noise: dict[str, list[torch.Generator]]
    epoch: int = 0
    recorded: dict[str, list[NDArray]] = field(default_factory=dict)
    seconds: float = 0.0
    resumed: list[int] = field(default_factory=list)

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
    def restore(self, epoch: int, parts: Sequence[Mapping[str, NDArray]]) -> None:
        """Go on from the `arrays` of each member after that epoch."""
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
        self.epoch = epoch
        self.resumed.append(epoch)


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
        run = {"device": self.device, "seconds": progress.seconds, "resumed": progress.resumed}
        path = store.checkpoint_path(self.folder, member, progress.epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write(path, progress.arrays(i), {"request": dict(self.request), "run": run})
        for epoch in store.checkpoint_epochs(self.folder, member)[KEPT:]:
            store.checkpoint_path(self.folder, member, epoch).unlink(missing_ok=True)

    def resume(self, members: Sequence[Member], progress: Progress) -> None:
        """Restore the newest epoch of which all members have a valid checkpoint; leave `progress` if none.

        Damaged files are reported and passed over.

        Raises:
            StoreError: a checkpoint of another request, or from another kind of device: its random streams
                go on only there.
        """
        common = set.intersection(*(set(store.checkpoint_epochs(self.folder, m)) for m in members))
        for epoch in sorted(common, reverse=True):
            try:
                read = [self._read(member, epoch) for member in members]
            except store.DamagedError as error:
                LOG.warning("%s; going on from an earlier checkpoint, or anew where there is none", error)
                continue
            facts = [record["run"] for _, record in read]
            progress.seconds = max(run["seconds"] for run in facts)
            progress.resumed = max((run["resumed"] for run in facts), key=len)
            progress.restore(epoch, [arrays for arrays, _ in read])
            return

    def _read(self, member: Member, epoch: int) -> tuple[dict[str, NDArray], store.Record]:
        path = store.checkpoint_path(self.folder, member, epoch)
        arrays, record = store.read(path, self.request)
        if record["run"]["device"] != self.device:
            raise StoreError(
                f"{path} was computed on device {record['run']['device']!r} and goes on only there, not on "
                f"{self.device!r}; choose that device, or delete the file to begin anew"
            )
        return arrays, record

    def clear(self, member: Member) -> None:
        """Give up all checkpoints of a member, which is finished, with what a killed process left of one."""
        checkpoints = store.checkpoint_path(self.folder, member, 0).parent
        for path in checkpoints.glob(f"{store.member_path(self.folder, member).stem}-epoch-*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # those of other members are there, or nothing ever was
            checkpoints.rmdir()
