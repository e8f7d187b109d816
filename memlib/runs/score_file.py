"""Score files: every observation's scores and their health at every evaluated epoch, as Parquet."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from memlib.data import ImageSet
from memlib.inference import p_values
from memlib.memorization import memorization
from memlib.runs.disk import whole

SCHEMA_VERSION = 2  # to be raised whenever a column changes its name or meaning


class Column(NamedTuple):
    """A column of a score file: its Arrow type, unit, and what it holds."""

    type: pa.DataType
    unit: str
    text: str


_NATS = {
    "U": "log of the mean probability under the models that trained on the image (paper's estimator)",
    "V": "log of the mean probability under the models that did not",
    "M": "memorization score U - V (paper's estimator)",
    "U_se": "standard error of U, jackknife over repeats; like all errors missing with one repeat",
    "V_se": "standard error of V",
    "M_se": "standard error of M",
    "M_se_sampling": "part of M_se due to importance sampling, roughly; too small where khat is high",
    "U_matched": "U by the matched estimator, whose V is the same",
    "M_matched": "M by the matched estimator, 0 on average where nothing is memorized",
    "M_matched_se": "standard error of M_matched",
    "gap": "mean log-probability under models that trained on the image minus under those that did not",
    "gap_se": "standard error of gap over repeats; Student's t with repeats - 1 degrees of freedom",
}
SCHEMA: dict[str, Column] = {
    "epoch": Column(pa.int32(), "", "passes over the training images; 0 for models of another training"),
    "index": Column(pa.int64(), "", "position of the image in its data set's own order"),
    "image_sha256": Column(pa.string(), "", "SHA-256 of the image's bytes, (channel, row, column)"),
    "label": Column(pa.int64(), "", "class of the image"),
    **{name: Column(pa.float64(), "nats", text) for name, text in _NATS.items()},
    "effective_repeats": Column(pa.float64(), "", "Kish's number of repeats behind V, and so behind M"),
    "p_value": Column(pa.float64(), "", "of the hypothesis that training on the image makes no difference"),
    "khat": Column(pa.float32(), "", "largest Pareto k-hat among all models; null without such weights"),
    "ess": Column(pa.float32(), "", "smallest effective sample size among all models; null as khat"),
    "num_samples": Column(pa.int32(), "", "fewest importance samples of a model; null as khat"),
    "models_seen": Column(pa.int32(), "", "models behind U, repeats x (folds - 1)"),
    "models_left": Column(pa.int32(), "", "models behind V, as many as repeats"),
}
PATH = Column(pa.string(), "", "file of the image; only of images that have files of their own")


def _schema(images: ImageSet) -> dict[str, Column]:
    return SCHEMA if images.paths is None else SCHEMA | {"path": PATH}


def score_table(result: xr.Dataset, images: ImageSet) -> pd.DataFrame:
    """One row per epoch and observation with the columns of `SCHEMA`, and of images in a folder their `path`.

    Args:
        result: what `memlib.run`, `memlib.cross_fit` or `memlib.score_models` returns.
        images: the training images behind it, `experiment.load_images()`, or those that were given. Their
            labels and index are written, which may be others than the result's: only pixels have to be equal.

    Raises:
        ValueError: images that are not those of the result, or what `memlib.memorization` refuses.
    """
    check_images(result, images)
    result = result.assign_coords(index=("observation", images.index), label=("observation", images.labels))
    paper, matched = memorization(result), memorization(result, "matched")
    L, K = result.sizes["repeat"], result.sizes["fold"]
    columns = {  # with the coordinates epoch, index and label
        "image_sha256": ("observation", [hashlib.sha256(x.tobytes()).hexdigest() for x in images.images]),
        **{name: paper[name] for name in _NATS if name in paper},
        "U_matched": matched.U,
        "M_matched": matched.M,
        "M_matched_se": matched.M_se,
        "effective_repeats": paper.effective_repeats,
        "p_value": p_values(result),
        **dict.fromkeys(("khat", "ess", "num_samples"), np.nan),
        "models_seen": L * (K - 1),
        "models_left": L,
    }
    if "khat" in result:  # the worst of all models
        columns["khat"] = result.khat.max("repeat")
        columns["ess"] = result.ess.min(("repeat", "fold"))
        columns["num_samples"] = result.num_samples.min("repeat")
    if images.paths is not None:  # names of files may be any bytes, strings in Parquet are UTF-8
        columns["path"] = (
            "observation",
            [str(p.encode("utf-8", "backslashreplace"), "utf-8") for p in images.paths],
        )
    table = xr.Dataset(columns).to_dataframe(["epoch", "observation"]).reset_index()
    return table[list(_schema(images))]


def check_images(result: xr.Dataset, images: ImageSet) -> None:
    """Refuse images whose pixels are not those of a result, in its order; labels may have been corrected.

    Raises:
        ValueError: saying which are allowed.
    """
    if images.sha256 != json.loads(result.request)["train_sha256"]:
        raise ValueError(
            f"the images are {images!r}, others than the result's {result.sizes['observation']}, or in "
            "another order; allowed: experiment.load_images() of the experiment that was run, or those given "
            "to cross_fit, whatever their labels"
        )


def write_scores(path: str | Path, result: xr.Dataset, images: ImageSet) -> None:
    """Write `score_table` as a Parquet file that describes itself.

    Every column carries its unit and text as metadata; the file carries the version of the schema, the
    classes of the images, what was requested and how it was computed (JSON).

    Args:
        path: of a new file in a folder that exists, ending in .parquet.
        result, images: as for `score_table`.

    Raises:
        ValueError: another ending, no such folder, a file that is there, or what `score_table` refuses.
        WriteError: the disk or the quota is full, the file too large, or its file system can only be read.
    """
    path = check_new(path)
    columns = _schema(images)
    fields = [
        pa.field(name, column.type, metadata={"unit": column.unit, "text": column.text})
        for name, column in columns.items()
    ]
    floats = [name for name, column in columns.items() if pa.types.is_floating(column.type)]
    about = {
        "memlib.schema_version": str(SCHEMA_VERSION),
        "memlib.version": importlib.metadata.version("memlib"),
        "memlib.classes": json.dumps(images.classes),
        "memlib.request": result.request,
        "memlib.runs": result.runs,
    }
    schema = pa.schema(fields, metadata=about)
    table = pa.Table.from_pandas(score_table(result, images), schema=schema, preserve_index=False)
    table = table.replace_schema_metadata(about)  # without that of pandas
    # bytes of floats of equal place lie together, which compresses better
    compact = {
        "use_dictionary": [name for name in columns if name not in floats],
        "use_byte_stream_split": floats,
    }
    with whole(path) as part:
        pq.write_table(table, part, compression="zstd", **compact)


def check_new(path: str | Path) -> Path:
    """The path of a score file that can be written; raises as `write_scores`."""
    path = Path(path).expanduser()
    if path.suffix != ".parquet":
        raise ValueError(f"the score file is {str(path)!r}; allowed: a name that ends in .parquet")
    if not path.parent.is_dir():
        raise ValueError(f"the score file is {str(path)!r}, but there is no folder {str(path.parent)!r}")
    if path.exists():
        raise ValueError(f"{str(path)!r} is there already; choose another name, or delete it")
    return path
