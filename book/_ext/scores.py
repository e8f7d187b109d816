"""Score files with their run records, as published/scores/ and the built book offer them."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from book._ext.pages import Page, declared_by
from nbformat import NotebookNode

import memlib
from memlib.datasets import fingerprint
from memlib.experiment import Experiment


def run_of(notebook: NotebookNode) -> Experiment | None:
    """The experiment whose result an executed page recorded, if it did."""
    run = notebook.metadata.get("memlib", {}).get("run")
    return _recorded(run["experiment"]) if run else None


def _recorded(fields: dict[str, Any]) -> Experiment:
    """The experiment of a record; in earlier ones there is no proposal, which was the encoder's."""
    known = {f.name for f in dataclasses.fields(Experiment)} & fields.keys()
    return Experiment(**{"proposal": "encoder"} | {name: fields[name] for name in known})


def write_run(name: str, experiment: Experiment, result: xr.Dataset, folder: Path) -> None:
    """Write `<name>.parquet`, the scores of a run at its last epoch, and `<name>.json`, its record.

    The record holds the experiment, what was requested (with the images' hashes), and of every repeat device,
    time, date and versions; and the score file's SHA-256. Files of an earlier run are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part.parquet"
    part.unlink(missing_ok=True)
    memlib.write_scores(part, result.isel(epoch=[-1]), experiment.load_images())
    record = {
        "experiment": dataclasses.asdict(experiment),
        "request": json.loads(result.request),
        "repeats": result.sizes["repeat"],
        "runs": json.loads(result.runs),
        "scores_sha256": fingerprint(part, "sha256"),
    }
    part.replace(folder / f"{name}.parquet")
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def site_scores(
    pages: Sequence[Page], notebooks: Mapping[str, NotebookNode], published: Path, folder: Path
) -> dict[str, str]:
    """Put into a folder the scores and the record of every run that pages with an experiment recorded.

    The runs of published pages are copied; those of pages executed here are written from their stored
    results, once for all pages that show them, with the name of the first page.

    Returns:
        Page -> name of its score file and record, without their ends, of pages that have them.

    Raises:
        ValueError: a published score file that is not what its record says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    elsewhere = {
        _recorded(json.loads(file.read_text("utf-8"))["experiment"]): file
        for file in sorted(published.glob("*.json"))
    }
    found, here = {}, {}
    for page in pages:
        notebook = notebooks[page.name]
        run = run_of(notebook) if "experiment" in declared_by(notebook) else None
        if page.parameters is None and run in elsewhere:
            found[page.name] = _copy(elsewhere[run], folder)
        elif page.parameters is not None and run:
            if run not in here and (result := _stored(notebook)) is not None:
                write_run(page.name, run, result, folder)
                here[run] = page.name
            found |= {page.name: here[run]} if run in here else {}
    return found


def _stored(notebook: NotebookNode) -> xr.Dataset | None:
    """The result that a page showed, unless it was in another results folder, or is gone."""
    try:
        result = memlib.stored(run_of(notebook))
    except (FileNotFoundError, ValueError):
        return None
    return result if Path(result.folder).name == notebook.metadata["memlib"]["run"]["folder"] else None


def _copy(record: Path, folder: Path) -> str:
    """Copy a published score file and its record, if the two belong together."""
    scores = record.with_suffix(".parquet")
    expected = json.loads(record.read_text("utf-8"))["scores_sha256"]
    if not scores.exists() or fingerprint(scores, "sha256") != expected:
        raise ValueError(
            f"{scores} is not the file that {record.name} describes; `make published` writes both"
        )
    for file in (record, scores):
        shutil.copy(file, folder)
    return record.stem
