"""Score files with their run records, as the built book offers them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr
from book._ext.pages import Page, declared_by
from nbformat import NotebookNode

import memlib
from memlib.datasets import fingerprint
from memlib.experiment import Experiment


def run_of(notebook: NotebookNode) -> Experiment | None:
    """The experiment whose result an executed page recorded, if it did."""
    run = notebook.metadata.get("memlib", {}).get("run")
    return Experiment(**run["experiment"]) if run else None


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


def site_scores(pages: Sequence[Page], notebooks: Mapping[str, NotebookNode], folder: Path) -> dict[str, str]:
    """Put into a folder the scores and the record of every run that pages executed here recorded.

    They are written from the stored results, once for all pages that show a run, with the first page's name.

    Returns:
        Page -> name of its score file and record, without their ends, of pages that have them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, str] = {}
    here: dict[Experiment, str] = {}
    for page in pages:
        notebook = notebooks[page.name]
        if page.parameters is None or "experiment" not in declared_by(notebook):
            continue
        if not (run := run_of(notebook)):
            continue
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
