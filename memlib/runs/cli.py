"""Command line: run experiments, list, check and export results, build the book, show the data sets."""

import contextlib
import dataclasses
import datetime
import errno
import sys
import traceback
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

import memlib
from memlib import datasets
from memlib.experiment import EXPERIMENTS, Experiment
from memlib.memorization import least_observations
from memlib.runs import inventory
from memlib.runs.disk import WriteError
from memlib.runs.executors import ExecutorError, connect
from memlib.runs.inventory import Stored
from memlib.runs.store import StoreError

# What a file system refuses, which is no defect: permission, space, quota, size, writing at all.
_OUTSIDE = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class _Commands(click.Group):
    """Bad input, and what a file system refuses, become one message and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, FloatingPointError, ExecutorError) as error:
            if not _is_told(error):
                raise
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from error


def _is_told(error: Exception) -> bool:
    """Whether its message is for users; what comes out of a library is a defect and shown as one."""
    if isinstance(error, StoreError | ExecutorError | WriteError):  # on whatever machine
        return True
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return error.errno in _OUTSIDE
    return "memlib" in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts[-3:-1]


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
def main() -> None:
    """How deep generative models memorize their training images."""


_ROOT = click.option(
    "--root", type=click.Path(path_type=Path), help="results folder [default: $MEMLIB_RESULTS]"
)


def _fields(command: Any) -> Any:
    """Add an option for every field of `Experiment`."""
    for field in reversed(dataclasses.fields(Experiment)):
        word, kind = field.name.replace("_", "-"), type(field.default)
        flag = f"--{word}/--no-{word}" if kind is bool else f"--{word}"
        command = click.option(flag, field.name, type=kind, default=None, help=field.metadata["help"])(
            command
        )
    return command


@main.command()
@click.argument("experiment")
@_fields
@_ROOT
@click.option("--device", help="cpu, cuda or cuda:N [default: $MEMLIB_DEVICE, else a GPU where there is one]")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="compute on the workers of a Dask scheduler, such as tcp://host:8786",
)
@click.option("--quiet", is_flag=True, help="no progress bars")
def run(
    experiment: str,
    root: Path | None,
    device: str | None,
    scheduler: str | None,
    quiet: bool,
    **fields: Any,
) -> None:
    """Train and score what is missing of EXPERIMENT.

    Prints first what that costs, then where the result is stored, and the median and the 0.95 quantile of M
    at the last epoch. A run that was stopped goes on where it was. An option changes a field of the
    experiment; `memlib list` shows the experiments. With --scheduler the results folder must be one that all
    machines share, and MEMLIB_DATA and MEMLIB_DEVICE are those of the workers.
    """
    chosen = memlib.variant(experiment, **fields)
    click.echo(f"{experiment}: {_shown(dataclasses.asdict(chosen))}")
    with connect(scheduler) if scheduler else contextlib.nullcontext() as executor:
        if not scheduler:
            click.echo(str(memlib.remaining(chosen, root=root, device=device)))
        result = memlib.run(chosen, root=root, executor=executor, device=device, progress=not quiet)
    M = memlib.memorization(result).M[-1]  # (observation,)
    click.echo(f"stored in {result.folder}")
    shown = f"median {float(M.median()):.2f}"
    if M.size >= least_observations(0.95):
        shown += f", 0.95 quantile {float(M.quantile(0.95)):.2f}"
    click.echo(f"M of {M.size} images at epoch {int(M.epoch)}: {shown} nats")


@main.command()
@click.argument("experiment")
@_fields
@_ROOT
@click.option("--out", required=True, type=click.Path(path_type=Path), help="new file, ending in .parquet")
def scores(experiment: str, root: Path | None, out: Path, **fields: Any) -> None:
    """Write the scores of EXPERIMENT, which has been run, as a Parquet file.

    One row per evaluated epoch and image: the gap, and U, V, M by the paper's and by the matched estimator,
    with standard errors, p-value, Pareto k-hat, counts. Every column carries its unit and meaning as
    metadata. Options are those that the experiment was run with; nothing is trained.
    """
    from memlib.runs import score_file

    chosen = memlib.variant(experiment, **fields)
    out = score_file.check_new(out)
    result = memlib.stored(chosen, root=root)
    score_file.write_scores(out, result, chosen.load_images())
    epochs, n = result.sizes["epoch"], result.sizes["observation"]
    size = _size(out.stat().st_size)
    click.echo(f"{out}: {epochs * n} rows, {n} images, epochs evaluated: {epochs}, {size}")


def _shown(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields.items())


@main.command(name="list")
@_ROOT
def list_(root: Path | None) -> None:
    """List the experiments and what is stored of each: trained, begun, and with which settings scored."""
    lines: dict[str, list[str]] = {name: [] for name in EXPERIMENTS}
    variants, problems = [], []
    for found in inventory.list_results(root):
        problems += found.problems
        choices = found.scored or [(found.request, [])] if found.request else []
        for request, scored in choices:
            name, changes = _recognize(request | {"images": found.images})
            if changes:
                variants.append(f"{name} with {_shown(changes)}: {_state(found, scored)}")
            else:
                lines[name].append(_state(found, scored, EXPERIMENTS[name].repeats))
    for name, states in lines.items():
        click.echo(f"{name:<12} {'; '.join(states) or '-'}")
    for line in variants + problems:
        click.echo(line)


def _state(found: Stored, scored: list[int], asked: int | None = None) -> str:
    """Progress, size and last day of a run with one choice of scoring."""
    trained = sum(member is not None for member in found.trained)
    parts = [f"{len(scored)}/{asked} repeats" if asked else f"{len(scored)} repeat{'s' * (len(scored) != 1)}"]
    if trained != len(scored):
        parts.append(f"{trained} trained")
    if epochs := sorted({*found.begun.values()}):
        span = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        parts.append(f"{len(found.begun)} begun (epoch {span} of {found.request['epochs']})")
    if found.running:
        parts.append(f"{len(found.running)} running")
    size = _size(found.bytes) + (f" ({_size(found.model_bytes)} of models)" if found.model_bytes else "")
    return ", ".join([*parts, size, f"{datetime.date.fromtimestamp(found.modified)}"])


@main.command()
@click.argument("experiment")
@_fields
@_ROOT
def prune(experiment: str, root: Path | None, **fields: Any) -> None:
    """Delete the models of EXPERIMENT, which has been run, to free their disk space.

    Scores and the model of all images stay. The models cannot be scored with other settings then.
    """
    freed = memlib.prune(memlib.variant(experiment, **fields), root=root)
    click.echo(f"{_size(freed)} freed")


@main.command()
@_ROOT
def verify(root: Path | None) -> None:
    """Read every stored file whole and name those that cannot be used; exit status 1 if there are any."""
    problems = [problem for _, problem in inventory.verify(root)]
    wrong = [problem for problem in problems if problem]
    for problem in wrong:
        click.echo(problem)
    click.echo(f"{len(problems)} files, {f'{len(wrong)} of them unusable' if wrong else 'all whole'}")
    if wrong:
        sys.exit(1)


def _recognize(request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The registry's name nearest to a stored request, and the fields in which it differs."""
    differences = {}
    for name, experiment in EXPERIMENTS.items():
        fields = dataclasses.asdict(experiment)
        differences[name] = {k: request[k] for k, v in fields.items() if k in request and request[k] != v}
    name = min(differences, key=lambda n: ("images" in differences[n], len(differences[n])))
    return name, differences[name]


def _size(count: int) -> str:
    return tqdm.format_sizeof(count, "B")


@main.command(name="data")
@click.option("--root", type=click.Path(path_type=Path), help="data folder [default: $MEMLIB_DATA]")
def data_(root: Path | None) -> None:
    """Show which data sets are there."""
    for name, line in datasets.availability(root).items():
        click.echo(f"{name:<12} {line}")
