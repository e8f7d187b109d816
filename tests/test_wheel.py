"""The wheel: it has all of memlib, and works where there is no checkout."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from book._ext.pages import ROOT

pytestmark = pytest.mark.slow

SMALL = "--epochs 1 --folds 2 --repeats 1 --num-images 24 --num-samples 2 --quiet"
# What reads files of the package, and where it was imported from.
USED = """
import matplotlib.pyplot as plt
import memlib
import memlib.figures
from memlib.chapters.explorer import explore

result = memlib.run(memlib.variant("patches", num_images=24, epochs=1, folds=2, repeats=2, num_samples=2))
images = memlib.variant("patches", num_images=24).load_images()
assert ".explorer" in explore(result, images).children[1].value
memlib.figures.extremes(images.images, memlib.memorization(result).gap[-1].values, count=4)
print(memlib.__file__)
"""


def done(*command: str | Path, **options) -> str:
    """What a command prints; if it fails, that is the failure."""
    result = subprocess.run(command, text=True, capture_output=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy since building leaves files behind."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "memlib", copy / "memlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    # Without isolation by this environment's setuptools, as nothing may be downloaded here.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", copy / "dist", copy)
    [path] = (copy / "dist").glob("memlib-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and this one's packages but for memlib."""
    place = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", place)
    options = ["--quiet", "--no-deps", "--no-index"]
    programs = place / "bin"
    done(sys.executable, "-m", "pip", "--python", programs / "python", "install", *options, wheel)
    own = sysconfig.get_path("purelib", vars={"base": str(place)})
    # Only a folder is named, as files like this one in it, which may lead to a checkout, are not read.
    Path(own, "packages.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def test_the_wheel_has_every_file_of_memlib(wheel):
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "memlib").rglob("*") if p.is_file()}
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in files if not name.endswith(".pyc")} == {
        n for n in packed if ".dist-info" not in n
    }
    assert {"py", "pyi", "css", "mplstyle"} == {
        name.rpartition(".")[2] for name in packed if ".dist-info" not in name
    }


def test_the_command_and_the_module_work_without_a_checkout(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("MEMLIB_RESULTS", str(tmp_path / "results"))
    ran = done(installed / "memlib", "run", "digits-lr3", *SMALL.split(), cwd=tmp_path)
    assert "M of 24 images at epoch 1: median" in ran
    assert "digits-lr3 with" in done(installed / "memlib", "list", cwd=tmp_path)
    place = done(installed / "python", "-W", "error", "-c", USED, cwd=tmp_path)
    assert installed.parent in Path(place.splitlines()[-1]).parents
