"""Settings shared by all tests."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import nbval.kernel
import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser

from memlib.chapters.competition import FILE
from memlib.datasets import availability, data_root

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import browsing

matplotlib.use("Agg")
# shared machines stall now and then: no example is judged by its time
settings.register_profile("memlib", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("memlib")


@pytest.fixture(autouse=True)
def torch_on_one_thread() -> None:
    """Several processes of tests share the cores, where the threads of one wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def mnist_root() -> Path:
    """The data folder that holds MNIST; without it the test is skipped, but under CI it fails."""
    root = os.environ.get("MEMLIB_DATA")
    if root and "found in" == availability(root)["mnist"][:8]:
        return Path(root)
    if root and os.environ.get("CI"):
        pytest.fail(f"MEMLIB_DATA is {root}, but MNIST is not in it")
    pytest.skip("MNIST is not in MEMLIB_DATA")


@pytest.fixture
def competition_root() -> Path:
    """The data folder that holds the competition's results, in the manner of `mnist_root`."""
    root = os.environ.get("MEMLIB_DATA")
    if root and (Path(root) / FILE).exists():
        return Path(root)
    if root and os.environ.get("CI"):
        pytest.fail(f"MEMLIB_DATA is {root}, but {FILE} is not in it")
    pytest.skip(f"{FILE} is not in MEMLIB_DATA")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; without one the test is skipped, but under CI it fails."""
    if browsing.installed() is None:
        if os.environ.get("CI"):
            pytest.fail(f"no browser for the tests of the book: none of {', '.join(browsing.NAMES)}")
        pytest.skip(f"no browser: none of {', '.join(browsing.NAMES)}")
    with browsing.chromium() as chromium:
        yield chromium


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The progress bars that runs make, each with its `total` and what was `done`."""
    bars: list[Any] = []

    class Bar(contextlib.nullcontext):
        def __init__(self, total: int, title: str, unit: str, enabled: bool = True):
            super().__init__(self)
            self.total, self.done = total, 0
            bars.append(self)

        def update(self, images: int) -> None:
            self.done += images

    monkeypatch.setattr("memlib.runs.run.progress_bar", Bar)
    return bars


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The page of the competition is skipped without its file, in the manner of `competition_root`."""
    if (data_root() / FILE).exists() or (os.environ.get("CI") and os.environ.get("MEMLIB_DATA")):
        return
    for item in items:
        if item.path.name == "19-competition.ipynb":
            item.add_marker(pytest.mark.skip(reason=f"{FILE} is not in {data_root()}"))


def pytest_configure() -> None:
    """As in the book, a kernel of nbval that does not start is started once more: its ports may be taken."""
    start = nbval.kernel.start_new_kernel

    def twice(*args: Any, **options: Any) -> Any:
        try:
            return start(*args, **options)
        except RuntimeError as error:
            print(f"{error}; it is started once more", file=sys.stderr)
            return start(*args, **options)

    nbval.kernel.start_new_kernel = twice


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu say that they were skipped where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
