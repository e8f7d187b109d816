"""Checkpoints: the state of a training as files, from which it goes on bit for bit."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memlib.runs.store as store
from memlib.runs.store import Member, StoreError
from memlib.training import Snapshot, TrainState

LOG = logging.getLogger("memlib")
KEPT = 2  # checkpoints of a member: the newest, and one before in case that is damaged


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint files of a run, of every member the newest `KEPT`.

    Attributes:
        folder: where they are.
        request: what determines its training.
        device: "cpu" or "cuda", where the members compute.
    """

    folder: Path
    request: Mapping[str, Any]
    device: str

    def write(self, member: Member, state: TrainState, i: int) -> None:
        """Keep member i of those that train, and give up what is older than `KEPT` checkpoints."""
        epoch, arrays, facts = state.snapshot(i)
        record = {"request": dict(self.request), "run": {"device": self.device, **facts}}
        store.write(store.epoch_path(self.folder, member, epoch), arrays, record)
        store.remove(self.folder, member, after=epoch)  # of no use, or this one would not come again
        for older in store.epochs_of(self.folder, member)[KEPT:]:
            store.epoch_path(self.folder, member, older).unlink(missing_ok=True)

    def newest(self, member: Member) -> Snapshot | None:
        """The newest checkpoint that is whole; damaged ones are reported and passed over.

        Raises:
            StoreError: it is of another request, or from another kind of device, on which alone its random
                streams go on.
        """
        for epoch in store.epochs_of(self.folder, member):
            path = store.epoch_path(self.folder, member, epoch)
            try:
                arrays, record = store.read(path, self.request)
            except store.DamagedError as error:
                LOG.warning("%s; going on from an earlier checkpoint, or anew where there is none", error)
                continue
            self._check_device(path, record)
            return Snapshot(epoch, arrays, record["run"])
        return None

    def check(self, member: Member) -> None:
        """Raise what `newest` would, but for damage, without reading the arrays or claiming the member."""
        for epoch in store.epochs_of(self.folder, member)[:1]:
            with contextlib.suppress(store.DamagedError, FileNotFoundError):  # or given up meanwhile
                path = store.epoch_path(self.folder, member, epoch)
                self._check_device(path, store.check(path, self.request))

    def _check_device(self, path: Path, record: store.Record) -> None:
        device = record["run"]["device"]
        if device != self.device:
            every = path.with_name(f"{path.name.partition('-epoch-')[0]}-epoch-*")
            raise StoreError(
                f"{path} was computed on device {device!r} and goes on only there, not on {self.device!r}; "
                f"choose that device, or delete {every.name} beside it to begin anew"
            )
