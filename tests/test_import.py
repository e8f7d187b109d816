"""What importing memlib costs: nobody waits for a library before using what needs it."""

import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "torchvision", "matplotlib", "scipy", "sklearn", "IPython", "nbformat"),
    *("distributed", "dask", "loky", "papermill", "ipywidgets", "yaml"),
}


@pytest.mark.parametrize("arguments", [["-c", "import memlib"], ["-m", "memlib", "list"]])
def test_neither_importing_memlib_nor_listing_results_imports_what_is_slow(tmp_path, arguments):
    command = [sys.executable, "-X", "importtime", *arguments]
    if "list" in arguments:
        command += ["--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "memlib" in imported and not HEAVY & imported


MODULES_FIRST = """
import memlib, memlib.runs.cross_fit, memlib.memorization
assert callable(memlib.cross_fit) and callable(memlib.memorization)
assert all(getattr(memlib, name) is not None for name in memlib.__all__)
assert set(memlib.__all__) <= set(dir(memlib))
"""


def test_every_name_is_there_and_a_function_stays_one_when_its_module_is_imported_before():
    subprocess.run([sys.executable, "-c", MODULES_FIRST], check=True)
