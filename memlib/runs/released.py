"""Released runs: log p(x) of every image under every model, a Parquet file per repeat.

`repeat-NN.parquet` has a row per training image, in the data set's own order: `index`, `image_sha256`,
`label`, `fold` (that of the model which did not see it), and log p(x) in columns that `column` names. A model
that is not computed yet has no columns. `full.npz` has losses and samples of the model of all images.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

import memlib.runs.store as store
from memlib.checks import check_one_of
from memlib.data import ImageSet
from memlib.experiment import ProposalName
from memlib.runs.disk import whole
from memlib.runs.store import Record

SCHEMA_VERSION = 1  # to be raised whenever a column changes its name or meaning
# Fractions of a nat to which log p is rounded, far below its noise: files take less than half of the space.
STEPS = {"encoder": 64, "fitted": 1024}


class Released(NamedTuple):
    """What is known of one repeat.

    Attributes:
        fold_of: of every image, (n,).
        log_px: by name of a column, see `column`, (n,), nats; NaN where an image was not scored.
        runs: by fold, how its model was computed.
    """

    fold_of: NDArray[np.int64]
    log_px: dict[str, NDArray[np.float32]]
    runs: dict[int, Record]


def column(proposal: ProposalName, epoch: int, fold: int) -> str:
    """The name of log p(x), by a proposal, under the model of an epoch that trained without a fold.

    >>> column("encoder", 100, 3)
    'encoder_100_3'
    """
    return f"{proposal}_{epoch}_{fold}"


def write_repeat(path: Path, images: ImageSet, repeat: Released, request: Record) -> None:
    """Write a repeat's file; an earlier one is replaced.

    Args:
        images: the training images, whose order is that of the rows.
        request: what determines the models and their scores, JSON values.
    """
    hashes = [hashlib.sha256(x.tobytes()).digest()[:8].hex() for x in images.images]
    columns = {
        "index": (pa.array(images.index), "", "position of the image in its data set's own order"),
        "image_sha256": (pa.array(hashes), "", "SHA-256 of its bytes (C, row, column), 16 digits"),
        "label": (pa.array(images.labels), "", "class of the image"),
        "fold": (pa.array(repeat.fold_of.astype(np.int8)), "", "of the image: the model that did not see it"),
    }
    for name in sorted(repeat.log_px, key=lambda name: [(len(part), part) for part in name.split("_")]):
        proposal, epoch, fold = name.split("_")
        step = STEPS[proposal]
        values = ((repeat.log_px[name] * step).round() / step).astype(np.float32)
        text = f"log p(x), {proposal} proposal, epoch {epoch}, model without fold {fold}, to 1/{step} nat"
        columns[name] = pa.array(values, from_pandas=True), "nats", text
    fields = [pa.field(n, v.type, metadata={"unit": u, "text": t}) for n, (v, u, t) in columns.items()]
    about = {
        "memlib.schema_version": str(SCHEMA_VERSION),
        "memlib.request": json.dumps(request),
        "memlib.runs": json.dumps(repeat.runs),
    }
    table = pa.table([values for values, _, _ in columns.values()], pa.schema(fields, metadata=about))
    options = {"compression": "zstd", "compression_level": 19, "use_dictionary": False}
    with whole(path) as part:
        pq.write_table(table, part, **options, use_byte_stream_split=[*repeat.log_px])


def read_repeat(path: Path, request: Record) -> Released:
    """What a repeat's file holds.

    Raises:
        ValueError: it answers another request than the one given, or is of another version.
    """
    table = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    if (found := about.get("memlib.schema_version")) != str(SCHEMA_VERSION):
        raise ValueError(f"{path} has version {found} of its columns; allowed: {SCHEMA_VERSION}")
    _check_request(path, json.loads(about["memlib.request"]), request)
    names = [name for name in table.column_names if name.partition("_")[0] in STEPS]
    log_px = {name: table[name].to_numpy().astype(np.float32) for name in names}
    runs = {int(fold): run for fold, run in json.loads(about["memlib.runs"]).items()}
    return Released(table["fold"].to_numpy().astype(np.int64), log_px, runs)


def write_full(path: Path, arrays: Mapping[str, NDArray], request: Record) -> None:
    """Write losses and samples of the model of all images."""
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays, request=np.array(json.dumps(request)))


def read_full(path: Path, request: Record) -> dict[str, NDArray]:
    """What `write_full` wrote; ValueError where it answers another request."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    _check_request(path, json.loads(str(arrays.pop("request"))), request)
    return arrays


def _check_request(path: Path, stored: Record, request: Record) -> None:
    for name in sorted({*stored, *request}):
        if stored.get(name) != request.get(name):
            raise ValueError(
                f"{path} was computed for other settings: {name} is {stored.get(name)!r} there and "
                f"{request.get(name)!r} in the request; move it away to begin anew"
            )


def read_run(folder: str | Path, proposal: ProposalName = "encoder") -> xr.Dataset:
    """A released run in the layout of `memlib.run`, of the repeats whose models are all there.

    Args:
        folder: of the run, such as published/runs/mnist-lr3.
        proposal: "encoder", the paper's, at all evaluated epochs; or "fitted", at the last, of the images
            that were scored so.

    Returns:
        `log_px` (epoch, repeat, fold, observation), nats, `fold_of`, and `train_loss`, `test_loss`, `samples`
        of the model of all images; attributes `request`, `runs`, as JSON, and `folder`.

    Raises:
        FileNotFoundError: no complete repeat is there.
        ValueError: another proposal, or files of different settings.
    """
    check_one_of(STEPS, proposal=proposal)
    folder, repeats, paths = Path(folder), [], sorted(Path(folder).glob("repeat-*.parquet"))
    request = json.loads(pq.read_schema(paths[0]).metadata[b"memlib.request"]) if paths else {}
    for path in paths:
        own = read_repeat(path, request)
        if len(own.runs) == request["folds"]:
            repeats.append(own)
    if not repeats:
        raise FileNotFoundError(f"no repeat in {folder} has all its models; allowed: a released run's folder")
    names = [name.split("_") for name in repeats[0].log_px]
    epochs = sorted({int(epoch) for kind, epoch, _ in names if kind == proposal})
    log_px = {}
    for epoch in epochs:
        columns = [column(proposal, epoch, k) for k in range(request["folds"])]
        log_px[epoch] = [np.stack([own.log_px[name] for name in columns]) for own in repeats]
    scored = np.flatnonzero(~np.isnan(log_px[epochs[-1]][0][0]))
    index, label = (pq.read_table(paths[0], columns=[n])[n].to_numpy()[scored] for n in ("index", "label"))
    arrays = {epoch: [{"log_px": values[:, scored]} for values in each] for epoch, each in log_px.items()}
    result = store.assemble(arrays, np.stack([own.fold_of[scored] for own in repeats]), index, label)
    full = read_full(folder / "full.npz", request)
    for name in ("train_loss", "test_loss"):
        result[name] = "train_epoch", full[name], {"units": "nats"}
    result["samples"] = ("sample", "channel", "row", "column"), full["samples"]
    result.coords["train_epoch"] = np.arange(1, result.sizes["train_epoch"] + 1)
    runs = [run for own in repeats for run in own.runs.values()]
    return result.assign_attrs(request=json.dumps(request), runs=json.dumps(runs), folder=str(folder))
