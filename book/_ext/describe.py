"""Descriptions of published/ that machines read, made from the records in its files: `make metadata`.

`published/ro-crate-metadata.json` (RO-Crate) lists every file with its hash and, where the file says so, what
made it: when, in how many seconds, by which versions, at which settings. `published/runs/croissant.json`
(Croissant) describes the released log p as a data set, column by column. The same files give the same
descriptions on any day.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import mlcroissant as mlc
import nbformat
import pyarrow.parquet as pq
import yaml
from book._ext.pages import ROOT
from rocrate.rocrate import ROCrate

from memlib.checks import check_known
from memlib.datasets import fingerprint

CRATE, CROISSANT = "ro-crate-metadata.json", "runs/croissant.json"
LICENSE = "https://spdx.org/licenses/MIT"
FORMATS = {  # of the ends that files in published/ have; others are refused
    ".ipynb": "application/x-ipynb+json",
    ".json": "application/json",
    ".npz": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
    ".svg": "image/svg+xml",
}
_TYPES = {
    "int64": mlc.DataType.INT64,
    "int8": mlc.DataType.INT8,
    "string": mlc.DataType.TEXT,
    "float": mlc.DataType.FLOAT32,
}


class Made(NamedTuple):
    """How a file was computed.

    Attributes:
        what: in a few words.
        settings: JSON values by name.
        finished: the last moment, ISO 8601.
        seconds: of computation, summed.
        versions: "memlib 0.1.0" and the like.
    """

    what: str
    settings: dict[str, Any]
    finished: str
    seconds: float
    versions: list[str]


def made(file: Path) -> Made | None:
    """What a released repeat or an executed page says of how it was computed; None for other files."""
    if file.suffix == ".parquet":
        about = pq.read_schema(file).metadata
        runs = [*json.loads(about[b"memlib.runs"]).values()]
        settings = json.loads(about[b"memlib.request"])
        what = f"{len(runs)} of {settings['folds']} models of a repeat, trained and scored"
        return _made(what, settings, [run | {"date": run["finished"]} for run in runs])
    if file.suffix == ".ipynb":
        metadata = nbformat.read(file, 4).metadata
        return _made("a page, executed", metadata.papermill.parameters, [metadata.memlib])
    return None


def _made(what: str, settings: dict[str, Any], runs: list[dict[str, Any]]) -> Made:
    versions = {f"{name} {run[name].partition('+')[0]}" for run in runs for name in ("memlib", "torch")}
    seconds = round(sum(run["seconds"] for run in runs), 2)
    return Made(what, dict(settings), max(run["date"] for run in runs), seconds, sorted(versions))


def published_files(root: Path) -> list[Path]:
    """All that lies in published/, sorted, without the two descriptions and parts of files.

    ValueError for a file of another kind than FORMATS has.
    """
    folder = root / "published"
    own = {folder / CRATE, folder / CROISSANT}
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in own)
    files = [file for file in files if ".part" not in file.name]
    for file in files:
        check_known("kind of file", file.suffix, FORMATS, f"{file}: ")
    return files


def _citation(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))


def crate(root: Path = ROOT) -> dict[str, Any]:
    """The RO-Crate of published/ as JSON values."""
    cited, files = _citation(root), published_files(root)
    records = {file: made(file) for file in files}
    result = ROCrate()
    result.name = f"Published results of {cited['title']}"
    result.description = (
        "Log p(x) of training images under the models computed so far, executed pages, and tables of speed. "
        "Pictures of MNIST and CIFAR-10 in the pages belong to the authors of these data sets."
    )
    result.license = result.add_jsonld({"@id": LICENSE, "@type": "CreativeWork", "name": "MIT license"})
    authors = [{"@type": "Organization", **author} for author in cited["authors"]]
    result.creator = [result.add_jsonld({"@id": f"#author-{i}", **a}) for i, a in enumerate(authors, 1)]
    result.datePublished = _latest(records.values())
    code = {"@id": cited["repository-code"], "@type": "SoftwareSourceCode", "name": "memlib"}
    result.isBasedOn = result.add_jsonld(code)

    @functools.cache
    def software(name: str) -> Any:
        name, _, version = name.partition(" ")
        about = {"@type": "SoftwareApplication", "name": name, "softwareVersion": version}
        return result.add_jsonld({"@id": f"#{name}-{version}", **about})

    def value(id: str, name: str, value: str | float) -> Any:
        return result.add_jsonld({"@id": id, "@type": "PropertyValue", "name": name, "value": value})

    for file, record in records.items():
        name = file.relative_to(root / "published").as_posix()
        facts = {"encodingFormat": FORMATS[file.suffix], "sha256": fingerprint(file, "sha256")}
        facts["contentSize"] = str(file.stat().st_size)
        entity = result.add_file(file, name, properties=facts)
        if record:
            tools = [software(version) for version in record.versions]
            settings = value(f"#settings-of-{name}", "settings", json.dumps(record.settings, sort_keys=True))
            seconds = value(f"#seconds-of-{name}", "seconds", record.seconds)
            about = {"name": record.what, "endTime": record.finished, "additionalProperty": seconds}
            result.add_action(tools, f"#making-of-{name}", settings, entity, about)
    return result.metadata.generate()


def croissant(root: Path = ROOT) -> dict[str, Any]:
    """The Croissant description of published/runs as JSON values: a record set for every Parquet file."""
    cited, folder = _citation(root), root / "published" / "runs"
    ctx, files, record_sets = mlc.Context(conforms_to="http://mlcommons.org/croissant/1.1"), [], []
    released = [file for file in published_files(root) if folder in file.parents]
    for file in released:
        name = file.relative_to(folder).as_posix()
        formats = [mlc.EncodingFormat.PARQUET if file.suffix == ".parquet" else FORMATS[file.suffix]]
        facts = {"encoding_formats": formats, "sha256": fingerprint(file, "sha256")}
        size = f"{file.stat().st_size} B"
        files.append(
            mlc.FileObject(ctx=ctx, id=name, name=name, content_url=name, content_size=size, **facts)
        )
        if file.suffix == ".parquet":
            record_sets.append(_record_set(ctx, file, name))
    dataset = mlc.Metadata(
        ctx=ctx,
        name="memlib-released-log-p",
        description="Log p(x) of every training image under the models of cross-validated variational "
        "autoencoders that are computed so far, in nats: the released runs of memlib.",
        license=[LICENSE],
        url=cited["repository-code"],
        version=cited["version"],
        date_published=_latest(made(file) for file in released),
        cite_as=f"{cited['title']}, version {cited['version']}, {cited['repository-code']}",
        creators=[mlc.Organization(ctx=ctx, **author) for author in cited["authors"]],
        distribution=files,
        record_sets=record_sets,
    )
    return dataset.to_json()


def _record_set(ctx: mlc.Context, file: Path, name: str) -> mlc.RecordSet:
    """The rows of a Parquet file, with type, meaning and unit of every column."""
    fields, of = [], name.removesuffix(".parquet")
    for column in pq.read_schema(file):
        unit, text = (column.metadata[key].decode() for key in (b"unit", b"text"))
        facts = {"description": f"{text}; unit: {unit}" if unit else text}
        facts["data_types"] = _TYPES[str(column.type)]
        facts["source"] = mlc.Source(
            ctx=ctx, file_object=name, extract=mlc.Extract(ctx=ctx, column=column.name)
        )
        fields.append(mlc.Field(ctx=ctx, id=f"{of}/{column.name}", name=column.name, **facts))
    text = "A row for every training image, in the data set's order."
    return mlc.RecordSet(ctx=ctx, id=of, name=of, key=[f"{of}/index"], description=text, fields=fields)


def _latest(records: Iterable[Made | None]) -> str:
    """The date of the last of some records."""
    return max(record.finished for record in records if record)[:10]


def main() -> None:
    """Write both descriptions."""
    for name, describe in ((CRATE, crate), (CROISSANT, croissant)):
        target = ROOT / "published" / name
        target.write_text(json.dumps(describe(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"published/{name}")


if __name__ == "__main__":
    main()
