"""Score files with their run records, as published/scores/ and the built book offer them."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from book._ext.colophon import experiment_of, parameters_with_help
from book._ext.pages import Page
from nbformat import NotebookNode

from memlib.datasets import fingerprint
from memlib.experiment import Experiment
from memlib.runs import store
from memlib.runs.run import stored
from memlib.runs.score_file import write_scores
from memlib.runs.worker import requested


def publish_scores(
    name: str, experiment: Experiment, folder: str | Path, root: str | Path | None = None
) -> None:
    """Write `<name>.parquet`, the scores of a run at its last epoch, and `<name>.json`, its record.

    The record holds the experiment, what was requested (with the images' hashes), and of every repeat device,
    time, date and versions; and the score file's SHA-256. Files of an earlier run are replaced.

    Args:
        name: of both files.
        experiment: which has been run.
        folder: where they go; made if need be.
        root: the results folder, as in `memlib.run`.

    Raises:
        ValueError: what `memlib.stored` or `score_table` refuses.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    result = stored(experiment, root=root)
    part = folder / f"{name}.part.parquet"
    part.unlink(missing_ok=True)
    write_scores(part, result.isel(epoch=[-1]), experiment.load_images())
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
) -> dict[str, Path]:
    """Put into a folder the scores and the record of every experiment that pages show.

    The runs of published pages are copied; those of pages executed here are written from their stored
    results. Pages with the same experiment share its files, but published ones not with those executed here.
    Files have the name of the experiment, or, where others have that name, the page's.

    Args:
        pages: of the book.
        notebooks: page -> its executed notebook.
        published: the folder of published scores.
        folder: made anew.

    Returns:
        Page -> its score file, of pages that have one.

    Raises:
        ValueError: a published score file that is not what its record says.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    records = {
        Experiment(**json.loads(file.read_text("utf-8"))["experiment"]): file
        for file in sorted(published.glob("*.json"))
    }
    taken = {file.stem for file in records.values()}
    written: dict[tuple[Experiment, bool], Path] = {}  # by whether the page was executed here
    found = {}
    for page in pages:
        experiment = experiment_of(notebooks[page.name])
        if experiment is None:
            continue
        here = page.parameters is not None
        run = experiment, here
        if run not in written and not here and experiment in records:
            written[run] = _copy(records[experiment], folder)
        elif run not in written and here and _is_stored(experiment):
            values = {p.name: p.value for p in parameters_with_help(notebooks[page.name])}
            name = page.name if values["experiment"] in taken else values["experiment"]
            publish_scores(name, experiment, folder)
            taken.add(name)
            written[run] = folder / f"{name}.parquet"
        if run in written:
            found[page.name] = written[run]
    return found


def _copy(record: Path, folder: Path) -> Path:
    """Copy a published score file and its record, if the two belong together."""
    scores = record.with_suffix(".parquet")
    expected = json.loads(record.read_text("utf-8"))["scores_sha256"]
    if not scores.exists() or fingerprint(scores, "sha256") != expected:
        raise ValueError(
            f"{scores} is not the file that {record.name} describes; `make published` writes both"
        )
    shutil.copy(record, folder)
    return Path(shutil.copy(scores, folder))


def _is_stored(experiment: Experiment) -> bool:
    """Whether every task of an experiment is in the results folder."""
    images, validation = experiment.load_images(), experiment.load_validation()
    target = store.result_folder(None, requested(experiment, images, validation))
    return all(store.member_path(target, member).exists() for member in [None, *range(experiment.repeats)])
