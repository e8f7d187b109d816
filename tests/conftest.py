"""Settings shared by all tests."""

import os
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

from memlib.data import availability

matplotlib.use("Agg")
torch.set_num_threads(min(2, os.cpu_count() or 1))
# shared machines stall now and then: no example is judged by its time
settings.register_profile("memlib", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("memlib")


@pytest.fixture
def mnist_root() -> Path:
    """The data folder that holds MNIST; without it the test is skipped, but under CI it fails."""
    root = os.environ.get("MEMLIB_DATA")
    if root and "found in" == availability(root)["mnist"][:8]:
        return Path(root)
    if root and os.environ.get("CI"):
        pytest.fail(f"MEMLIB_DATA is {root}, but MNIST is not in it")
    pytest.skip("MNIST is not in MEMLIB_DATA")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu say that they were skipped where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
