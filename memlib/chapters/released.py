"""Released runs: log p(x) of every image under every model, a Parquet file per repeat.

`repeat-NN.parquet` has a row per training image, in the data set's own order: `index`, `image_sha256`, `fold`
(that of the model which did not see it), and log p(x) in columns that `column` names. A model that is not
computed yet has no columns. `full.npz` has losses and samples of the model of all images.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from memlib.checks import check_one_of
from memlib.data import ImageSet

SCHEMA_VERSION = 1  # to be raised whenever a column changes its name or meaning
# Fractions of a nat to which log p is rounded, far below its noise: files take less than half of the space.
STEPS = {"encoder": 64, "fitted": 1024}

Proposal = Literal["encoder", "fitted"]
Row = dict[str, Any]


class Released(NamedTuple):
    """What is known of one repeat.

    Attributes:
        fold_of: of every image, (n,).
        log_px: by name of a column, see `column`, (n,), nats; NaN where an image was not scored.
        runs: by fold, how its model was computed.
    """

    fold_of: NDArray[np.int64]
    log_px: dict[str, NDArray[np.float32]]
    runs: dict[int, Row]


def column(proposal: Proposal, epoch: int, fold: int) -> str:
    """The name of log p(x), by a proposal, under the model of an epoch that trained without a fold.

    >>> column("encoder", 100, 3)
    'encoder_100_3'
    """
    return f"{proposal}_{epoch}_{fold}"


def write_repeat(path: Path, images: ImageSet, repeat: Released, request: Mapping[str, Any]) -> None:
    """Write a repeat's file so that it is there whole or not at all; an earlier one is replaced.

    Args:
        images: the training images, whose order is that of the rows.
        request: what determines the models and their scores, JSON values.
    """
    hashes = [hashlib.sha256(x.tobytes()).digest()[:8].hex() for x in images.images]
    columns = {
        "index": (pa.array(images.index), "", "position of the image in its data set's own order"),
        "image_sha256": (
            pa.array(hashes),
            "",
            "SHA-256 of its bytes (C, row, column), 16 digits",
        ),
        "fold": (pa.array(repeat.fold_of.astype(np.int8)), "", "of the image: the model that did not see it"),
    }
    for name in sorted(repeat.log_px, key=lambda name: [(len(part), part) for part in name.split("_")]):
        proposal, epoch, fold = name.split("_")
        step = STEPS[proposal]
        values = (repeat.log_px[name] * step).round() / step
        text = f"log p(x), {proposal} proposal, epoch {epoch}, model without fold {fold}, to 1/{step} nat"
        columns[name] = pa.array(values.astype(np.float32), from_pandas=True), "nats", text
    fields = [pa.field(n, v.type, metadata={"unit": u, "text": t}) for n, (v, u, t) in columns.items()]
    about = {
        "memlib.schema_version": str(SCHEMA_VERSION),
        "memlib.request": json.dumps(dict(request)),
        "memlib.runs": json.dumps(repeat.runs),
    }
    table = pa.table([values for values, _, _ in columns.values()], pa.schema(fields, metadata=about))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    options = {"compression": "zstd", "compression_level": 19, "use_dictionary": False}
    pq.write_table(table, part, **options, use_byte_stream_split=[*repeat.log_px])
    part.replace(path)


def read_repeat(path: Path, request: Mapping[str, Any] | None = None) -> Released:
    """What a repeat's file holds.

    Raises:
        ValueError: it answers another request than the one given, or is of another version.
    """
    table = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    if about.get("memlib.schema_version") != str(SCHEMA_VERSION):
        raise ValueError(
            f"{path} is of schema version {about.get('memlib.schema_version')}, not {SCHEMA_VERSION}"
        )
    stored = json.loads(about["memlib.request"])
    if request is not None and stored != (wanted := json.loads(json.dumps(dict(request)))):
        name = next(f for f in sorted({*stored, *wanted}) if stored.get(f) != wanted.get(f))
        raise ValueError(
            f"{path} was computed for other settings: {name} is {stored.get(name)!r} there and "
            f"{wanted.get(name)!r} in the request; move it away to begin anew"
        )
    names = [name for name in table.column_names if name.partition("_")[0] in STEPS]
    log_px = {name: table[name].to_numpy().astype(np.float32) for name in names}
    runs = {int(fold): run for fold, run in json.loads(about["memlib.runs"]).items()}
    return Released(table["fold"].to_numpy().astype(np.int64), log_px, runs)


def read_run(folder: str | Path, proposal: Proposal = "encoder") -> xr.Dataset:
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
        ValueError: another proposal, or files of other settings.
    """
    check_one_of(tuple(STEPS), proposal=proposal)
    folder = Path(folder)
    repeats, index, request = [], None, None
    for path in sorted(folder.glob("repeat-*.parquet")):
        request = request or json.loads(pq.read_schema(path).metadata[b"memlib.request"])
        own = read_repeat(path, request)
        index = pq.read_table(path, columns=["index"])["index"].to_numpy()
        if len(own.runs) == request["folds"]:
            repeats.append(own)
    if not repeats:
        raise FileNotFoundError(f"no repeat in {folder} has all its models; allowed: a released run's folder")
    epochs = sorted({int(name.split("_")[1]) for name in repeats[0].log_px if name.startswith(proposal)})
    log_px = np.stack(
        [
            [[own.log_px[column(proposal, epoch, k)] for k in range(request["folds"])] for own in repeats]
            for epoch in epochs
        ]
    )
    fold_of = np.stack([own.fold_of for own in repeats])
    scored = np.flatnonzero(~np.isnan(log_px).any((0, 1, 2)))
    result = xr.Dataset(
        {
            "log_px": (("epoch", "repeat", "fold", "observation"), log_px[..., scored].astype(np.float64)),
            "fold_of": (("repeat", "observation"), fold_of[:, scored]),
        },
        {"epoch": epochs, "index": ("observation", index[scored])},
    )
    result.log_px.attrs["units"] = "nats"
    with np.load(folder / "full.npz", allow_pickle=False) as full:
        for name in ("train_loss", "test_loss"):
            result[name] = "train_epoch", full[name], {"units": "nats"}
        result["samples"] = ("sample", "channel", "row", "column"), full["samples"]
    result.coords["train_epoch"] = np.arange(1, result.sizes["train_epoch"] + 1)
    runs = [run for own in repeats for run in own.runs.values()]
    return result.assign_attrs(request=json.dumps(request), runs=json.dumps(runs), folder=str(folder))
