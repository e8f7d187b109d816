"""How a test gives bad input, and what it gets for it.

A case runs in a folder of its own; a path in capitals is one of that folder. That it reaches training is no
error it may get.
"""

import contextlib
import dataclasses
import functools
import os
import re
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import xarray as xr
from chapters import execute
from click.testing import CliRunner
from PIL import Image
from sklearn import cluster
from tinybook import notebook, write_book

import memlib
from book._ext import build as book
from book._ext import extension, pages
from memlib import inference
from memlib.chapters import competition, exact, explorer, planted, repeats, yardsticks
from memlib.memorization import fold_assignment, memorization_scores
from memlib.metrics import detection, duplicates, features, fld, mifid, neighbors, samples
from memlib.runs import cli, store
from memlib.runs.executors import ExecutorError
from memlib.runs.job import requested

TINY = memlib.variant("digits-lr3", num_images=24, folds=2, repeats=1, epochs=2, num_samples=2)


class TrainingReached(BaseException):
    """Bad input was not refused in time."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A bad input in Markdown, what is done with it in a folder, and a piece of the error it should get."""

    given: str
    give: Callable[[Path], object]
    message: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The error of a case: its message, the file that raised it, and of a command its status and output."""

    message: str
    origin: Path | None = None
    status: int | None = None
    output: str = ""


@functools.cache
def refusal(case: Case) -> Refusal:
    """Give the bad input. Errors of other types than users should get are raised as they are.

    Raises:
        AssertionError: nothing refuses it.
        TrainingReached: nothing did before training.
    """

    def train(*args: object, **options: object) -> None:
        raise TrainingReached(case.given)

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as patches:
        folder = Path(name).resolve()
        places = {"MEMLIB_RESULTS": f"{folder}/RESULTS", "MEMLIB_DATA": f"{folder}/DATA"}
        patches.enter_context(mock.patch.dict(os.environ, places | {"MEMLIB_DEVICE": "cpu"}))
        patches.enter_context(mock.patch("torch.cuda.is_available", return_value=False))
        for module in ("runs.task", "runs.cost", "training"):  # which the others import
            patches.enter_context(mock.patch(f"memlib.{module}.fit", train))
        patches.enter_context(contextlib.chdir(folder))
        for file in ("FILE", "FILE.parquet"):
            (folder / file).touch()
        try:
            result = case.give(folder)
        except (ValueError, FileNotFoundError, ExecutorError) as error:
            origin = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            return Refusal(_portable(str(error), folder), origin)
        assert getattr(result, "exit_code", 0), f"{case.given} is not refused"
        message = result.stderr.partition("Error: ")[2].strip()
        return Refusal(_portable(message, folder), None, result.exit_code, result.output)


def _portable(message: str, folder: Path) -> str:
    """Without the folder, and without the hash in the name of a run's folder."""
    return re.sub(r"-[0-9a-f]{12}(?=[/;])", "-HASH", message.replace(f"{folder}/", ""))


_RNG = np.random.default_rng(0)
_FOLDS = np.stack([fold_assignment(40, 4, _RNG) for _ in range(3)])
_LOG_PX = _RNG.normal(-100, 3, (3, 4, 40))
_VARIABLES = {
    "log_px": (("epoch", "repeat", "fold", "observation"), _LOG_PX[None]),
    "fold_of": (("repeat", "observation"), _FOLDS),
}
NAMES = {
    "memlib": memlib,
    "np": np,
    "rng": _RNG,
    "figures": memlib.figures,
    "fold_assignment": fold_assignment,
    "memorization_scores": memorization_scores,
    "replace": dataclasses.replace,
    "experiment": TINY,
    "digits": memlib.load_images("digits", "test"),
    "log_px": _LOG_PX,
    "fold_of": _FOLDS,
    "result": xr.Dataset(_VARIABLES),
    "scores": memlib.memorization(xr.Dataset(_VARIABLES)),
    "M": np.arange(40.0),
    "x": _RNG.normal(size=(40, 4)),
    "y": _RNG.normal(size=(30, 4)),
    "cluster": cluster,
    "mifid": mifid,
    "detection": detection,
    "samples": samples,
    "extension": extension,
    "yardsticks": yardsticks,
    "features": features,
    "fld": fld,
    "competition": competition,
    "planted": planted,
    "pages": pages,
    "exact": exact,
    "duplicates": duplicates,
    "explorer": explorer,
    "neighbors": neighbors,
    "inference": inference,
    "repeats": repeats,
}


def call(text: str, message: str) -> Case:
    """An expression of `NAMES`."""
    return Case(f"`{text}`", lambda folder: eval(text, dict(NAMES)), message)


def field(text: str, message: str) -> Case:
    """A field of an experiment."""
    return Case(f"`{text}`", lambda folder: memlib.variant("digits-lr3", **eval(f"dict({text})")), message)


def command(words: str, message: str) -> Case:
    """A command line; FILE and what begins so is in the folder."""

    def run(folder: Path) -> object:
        given = re.sub(r"\b(FILE|NOWHERE)", rf"{folder}/\1", words).split()
        with (
            mock.patch("memlib.runs.executors.CONNECT_SECONDS", 1),
        ):
            return CliRunner(catch_exceptions=False).invoke(cli.main, given, prog_name="memlib")

    return Case(f"`memlib {words}`", run, message)


def variable(name: str, value: str, given: str, message: str) -> Case:
    """An environment variable under which an expression of `NAMES` is given."""

    def run(folder: Path) -> object:
        with mock.patch.dict(os.environ, {name: value.replace("FILE", f"{folder}/FILE")}):
            return eval(given, dict(NAMES))

    return Case(f"`{name}={value}`, then `{given}`", run, message)


def page_file(name: str, text: str, message: str) -> Case:
    """The text of a file of book/params/, for a book of one chapter and one template."""

    def load(folder: Path) -> object:
        _small_book(folder, **{name: text})
        return pages.load_pages("quick", folder / "book")

    return Case(f"`{text}`" if name == "quick.yaml" else f"`{text}` in `{name}`", load, message)


def page(name: str, message: str) -> Case:
    """A page of the same book that is to be executed."""

    def build(folder: Path) -> object:
        _small_book(folder)
        return book.build_book("quick", folder, only=[name])

    return Case(f'`build_book("quick", only=["{name}"])`', build, message)


def paper_figure(text: str, message: str) -> Case:
    """An entry of figures.yaml of the same book, which is to be built."""

    def build(folder: Path) -> object:
        _small_book(folder, **{"figures.yaml": f"figures: [{text}]"})
        with mock.patch("book._ext.build.execute_pages", side_effect=TrainingReached(text)):
            return book.build_book("quick", folder)

    return Case(f"`figures: [{text}]` in `figures.yaml`", build, message)


def _small_book(folder: Path, **texts: str) -> None:
    write_book(folder, index=notebook(), **{"04-mnist": notebook()})
    listed = "pages: [index, 04-mnist]"
    for file, text in ({"pages.yaml": listed, "quick.yaml": "index: {}"} | texts).items():
        (folder / "book" / "params" / file).write_text(text)


def chapter(name: str, message: str, **parameters: object) -> Case:
    """Parameters of a chapter, as Papermill gives them."""
    given = " ".join(f"-p {parameter} {value}" for parameter, value in parameters.items())
    return Case(f"`papermill {name}.ipynb {given}`", lambda folder: execute(name, **parameters), message)


def data_files(given: str, name: str, files: dict[str, str], message: str) -> Case:
    """The files of a data set, with their contents."""

    def load(folder: Path) -> object:
        for file, content in files.items():
            (folder / "DATA" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "DATA" / file).write_text(content)
        return memlib.load_images(name)

    return Case(given, load, message)


def pictures(*paths: Path) -> None:
    """A gray picture at each path."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 7).save(path)


def image_folder(given: str, make: Callable[[Path], object], message: str, split: str = "train") -> Case:
    """A folder IMAGES, made beside FILE, as the images of an experiment with five folds."""

    def load(folder: Path) -> object:
        make(folder / "IMAGES")
        name = f"folder:{folder}/IMAGES"
        if split != "train":
            return memlib.load_images(name, split)
        return memlib.run(memlib.variant("patches", images=name), progress=False)

    return Case(given, load, message)


@functools.cache
def request() -> dict[str, object]:
    """What the files of `TINY` answer."""
    return requested(TINY, TINY.load_images(), TINY.load_validation())[0]


@contextlib.contextmanager
def _left_as_it_is(home: Path) -> Iterator[None]:
    """A folder whose files a refusal must neither change nor add to."""
    before = {path: path.read_bytes() for path in home.rglob("*.npz")}
    try:
        yield
    finally:
        assert {path: path.read_bytes() for path in home.rglob("*.npz")} == before


def result_file(given: str, spoil: Callable[[Path], object], message: str, **other: object) -> Case:
    """The file of a finished repeat that was spoilt, or answers another request, and then is asked for."""

    def run(folder: Path) -> object:
        home = store.training_folder(folder / "RESULTS", request())
        full, path = store.member_path(home, None), store.member_path(home, 0)
        for file, changes in ((full, {}), (path, other)):
            store.write(file, {"log_px": np.zeros(3)}, {"request": request() | changes, "run": {}})
        spoil(path)
        # one repeat more is asked for, which would have to be trained
        repeats = len(list(home.glob("repeat-*.npz"))) + 1
        with _left_as_it_is(home):
            return memlib.run(dataclasses.replace(TINY, repeats=repeats), progress=False)

    return Case(given, run, message)


def replaced(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Put something else in the place of a stored array, with valid checksums of the archive."""
    with zipfile.ZipFile(path) as file:
        members = {member: file.read(member) for member in file.namelist()}
    members[name] = change(members.pop("log_px.npy"))
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(member, content)


def checkpoint(given: str, message: str, device: str = "cpu", **other: object) -> Case:
    """A checkpoint from which a run is to go on."""

    def run(folder: Path) -> object:
        # of the last one, before which the others would have to be trained
        path = store.epoch_path(store.training_folder(folder / "RESULTS", request()) / "checkpoints", 0, 1)
        store.write(path, {}, {"request": request() | other, "run": {"device": device}})
        with _left_as_it_is(path.parent):
            return memlib.run(TINY, progress=False)

    return Case(given, run, message)
