"""What a chapter calls: the check of its parameters, table and record of its run, record of its numbers."""

import ast
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from memlib.chapters.paper import REPORTED, settings
from memlib.chapters.tables import table_html
from memlib.checks import check_known, check_range, check_share
from memlib.experiment import EXPERIMENTS, Experiment, variant
from memlib.memorization import least_observations

FEWEST_IMAGES = least_observations(0.95)  # chapters call the top 5 % of the images highly memorized
_TYPES = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}
_RECORD = "application/papermill.record/text/plain"
check_shares = check_share  # of parameters, before anything trains
RUN = "memlib_run"  # name of its record


def check_parameters(**minimum: int) -> None:
    """Refuse parameters that the notebook does not declare, of another type than declared, or too small.

    Papermill only warns about unknown ones. Called in the cell after the parameters.

    Args:
        minimum: the least allowed value of injected parameters, for example `folds=3`.

    Raises:
        ValueError: naming the parameter, what is allowed, and the nearest declared name.
    """
    parameters(**minimum)


def chosen_experiment(**minimum: int) -> Experiment:
    """The experiment that a notebook's parameters name, with the values that they give to its fields.

    Arguments and errors are those of `check_parameters`.
    """
    declared, given = parameters(**minimum)
    values = declared | given
    fields = {f.name: values[f.name] for f in dataclasses.fields(Experiment) if f.name in values}
    return variant(values["experiment"], **fields)


def parameters(**minimum: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that the notebook declares, and those that were given, by name; checked.

    Both are empty outside of a notebook. Arguments and errors are those of `check_parameters`.
    """
    shell = _shell()
    history = shell.user_ns.get("In", []) if shell is not None else []
    injected: dict[str, Any] = {}
    for source in reversed(history):
        if declared := declared_parameters(source):
            check_values(declared, injected, "this notebook")
            for name, least in minimum.items():
                check_range(least, **{name: injected.get(name, least)})
            return _defaults(source), injected
        # Papermill puts its cell directly behind the parameters; a later run by hand may come in between.
        injected = injected or _injected(source)
    # Where cells leave no history, as in nbval, their annotations tell what they declare.
    names = shell.user_ns if shell is not None else {}
    return {name: names[name] for name in names.get("__annotations__", {})}, {}


def describe(result: xr.Dataset) -> pd.DataFrame:
    """What was run, where, at which size, and the paper's settings where the paper has the data set.

    The run is recorded as well, as by `record_run`.

    Args:
        result: what `memlib.run` returned.

    Returns:
        A table with a column "this page" and, for the paper's data sets, a column "paper".
    """
    record_run(result)
    request, runs = json.loads(result.request), json.loads(result.runs)
    sizes = result.sizes

    here = settings_rows(request, sizes["observation"], sizes["repeat"])
    if sizes["epoch"] < len(range(0, request["epochs"], request["score_every"])):
        here["log p(x)"] += f"; here of epoch {', '.join(map(str, result.epoch.values))} alone"
    last = result.isel(epoch=-1)
    counts = np.unique(last.num_samples)
    used = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    here["effective sample size"] = f"{float(last.ess.median()):.1f} of {used} (median, last epoch)"
    fitted = bool(np.isfinite(last.khat).any())
    failing = f"{float(last.failing.mean()):.0%} of all estimates (last epoch)"
    here["Pareto k-hat too high"] = failing if fitted else "not known, too few samples"
    here["device"] = ", ".join(sorted({run["device"] for run in runs}))
    seconds = sum(run["seconds"] for run in runs)
    here["computed"] = f"{max(run['finished'] for run in runs)[:10]}, in {seconds:.0f} s"
    if resumed := sum(len(run.get("resumed", [])) for run in runs):
        here["computed"] += f", resumed {resumed} times from a checkpoint"
    versions = {f"memlib {run['memlib']}, torch {run['torch'].partition('+')[0]}" for run in runs}
    here["versions"] = "; ".join(sorted(versions))
    table = {"this page": here}
    for name, reported in REPORTED.items():
        asked = EXPERIMENTS[name]
        same = "images", "learning_rate", "likelihood", "latent_dim"
        if all(getattr(asked, field) == request[field] for field in same):
            paper = settings(name)
            table["paper"] = settings_rows(paper, reported.num_images, paper["repeats"])
            table["paper"]["device"] = "GTX 1660 SUPER; all experiments about 200 hours"
    return pd.DataFrame(table).fillna("")


def settings_rows(request: Mapping[str, Any], n: int, L: int) -> dict[str, Any]:
    """The rows of a table that say how n images were scored with L repeats.

    Args:
        request: the fields of the experiment by name.
    """
    K = request["folds"]
    proposals = {"fitted": "fitted to every image and model", "encoder": "the encoder's"}
    return {
        "data set": request["images"],
        "training images": n,
        "models (repeats x folds)": f"{L} x {K} = {L * K}, and one of all images",
        "model": f"{request['architecture']}, {request['likelihood']} likelihood, Z = {request['latent_dim']}"
        + (f", F = {request['width']}" if request["architecture"] == "conv" else ""),
        "epochs": request["epochs"],
        "learning rate, batch size": f"{request['learning_rate']:g}, {request['batch_size']}",
        "log p(x)": f"every {request['score_every']} epochs, {request['num_samples']} importance samples"
        + (", more where k-hat fails" if request["proposal"] == "fitted" else ""),
        "proposal": proposals[request["proposal"]],
        "versions of an image": f"{request['versions']}, "
        + ("the same for all models" if request["noise"] == "paired" else "redrawn for each model"),
    }


def record_run(result: xr.Dataset) -> None:
    """Store in an executed notebook what was run, where the book's builder finds it."""
    request = json.loads(result.request) | {"repeats": result.sizes["repeat"]}
    request["images"] = json.loads(result.runs)[0]["images"]  # with the path of a folder
    fields = {f.name: request[f.name] for f in dataclasses.fields(Experiment) if f.name in request}
    folder = Path(result.attrs.get("folder", "")).name  # its place is of one machine
    record(**{RUN: json.dumps({"experiment": fields, "folder": folder})})


def record(**headlines: float | int | str) -> dict[str, Any]:
    """Store a chapter's headline numbers in its executed notebook, where glue and `read_records` find them.

    Args:
        headlines: numbers or strings by name, for example `median=4.4`.

    Returns:
        The same as a dictionary of plain Python values, shown as a small table when it ends a cell.
    """
    values = {name: value.item() if hasattr(value, "item") else value for name, value in headlines.items()}
    for name, value in values.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{name} is a {type(value).__name__}; allowed: a number or a string")
    try:
        from myst_nb import glue
    except ImportError:
        return _Headlines(values)
    if _shell() is not None:
        for name, value in values.items():
            glue(name, value, display=False)
    return _Headlines(values)


class _Headlines(dict[str, Any]):
    def _repr_html_(self) -> str:
        shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in self.items()}
        rows = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in shown.items())
        return f'<table class="dataframe headlines">{rows}</table>'


def read_records(path: str | Path) -> dict[str, Any]:
    """What `record` stored in an executed notebook."""
    records = {}
    for cell in json.loads(Path(path).read_text("utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name and _RECORD in output["data"]:
                text = "".join(output["data"][_RECORD])
                records[name] = float(text) if text in ("nan", "inf", "-inf") else ast.literal_eval(text)
    return records


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _prepare_display() -> None:
    """Let a chapter keep its figures as SVG, sharp at any size, and show its tables in one style."""
    if (shell := _shell()) is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, table_html)


def declared_parameters(source: str) -> dict[str, str]:
    """Name -> annotation of a cell of nothing but annotated values (`epochs: int = 4`); empty for another."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # of a magic
        return {}
    if not all(isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name) and s.value for s in body):
        return {}
    return {s.target.id: ast.unparse(s.annotation) for s in body}


def _defaults(source: str) -> dict[str, Any]:
    """Name -> value of a cell of `declared_parameters`."""
    return {s.target.id: ast.literal_eval(s.value) for s in ast.parse(source).body}


def _injected(source: str) -> dict[str, Any]:
    """Name -> value of the cell that Papermill adds; empty for any other cell."""
    values: dict[str, Any] = {}
    if source.lstrip().startswith("# Parameters"):
        exec(source, {}, values)  # assignments of plain values
    return values


def check_values(declared: Mapping[str, str], given: Mapping[str, Any], where: str) -> None:
    """Refuse given values whose name is not declared, whose type is another, and too small `num_images`.

    Raises:
        ValueError: saying where, which one, and what is allowed.
    """
    for name, value in given.items():
        check_known("parameter", name, declared, f"{where}: ")
        types = _TYPES.get(declared[name])
        if types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            kind = type(value).__name__
            raise ValueError(f"{where}: {name} is {value!r} ({kind}); allowed: {declared[name]}")
    if 0 < given.get("num_images", 0) < FEWEST_IMAGES:
        raise ValueError(
            f"{where}: num_images is {given['num_images']}; allowed: 0 for all, or at least {FEWEST_IMAGES}, "
            "of which one is in the top 5 %"
        )


_prepare_display()
