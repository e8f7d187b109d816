"""The explorer in a JupyterLab with a kernel: what is chosen in a browser is answered.

Needs what tests/requirements-jupyterlab.txt lists and a Chromium of the system; without them the tests are
skipped, under CI they fail.
"""

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

import nbformat
import psutil
import pytest
from playwright.sync_api import Browser, Page

from book._ext.pages import ROOT

pytestmark = pytest.mark.slow

# The gap of image i is i nats, and its class the i-th of three, so that all that is shown is known.
CELL = """
import numpy as np
import memlib
from memlib.chapters.explorer import explore

class Known:
    def __init__(self, images, seed):
        self.known = images.images[:, 0, 0, 0]
    def log_prob(self, images):
        value = images.images[:, 0, 0, 0]
        return value * np.isin(value, self.known) - 100.0

pixels = np.ones((30, 1, 8, 8), np.uint8) * np.arange(30, dtype=np.uint8)[:, None, None, None]
images = memlib.ImageSet.of(pixels, ["ant bee cat".split()[i % 3] for i in range(30)])
result = memlib.cross_fit(Known, images, folds=3, repeats=2, progress=False)
explore(result, images, count=6)
"""
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


class Lab(NamedTuple):
    """A JupyterLab: its address, which ends in a slash, its token, its process."""

    url: str
    token: str
    process: psutil.Process


def wait_for(value, seconds: float = 60):
    """The first value of a function that is true."""
    until = time.monotonic() + seconds
    while not (found := value()):
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab of this environment with one notebook, and settings and files of its own."""
    if importlib.util.find_spec("jupyterlab") is None:
        missing = "no JupyterLab: pip install -r tests/requirements-jupyterlab.txt"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    home, token = tmp_path_factory.mktemp("lab"), secrets.token_hex()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / "files").mkdir()
    nbformat.write(notebook, home / "files" / "explore.ipynb")
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps(NO_NEWS))
    places = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own = {"HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "JUPYTER_TOKEN": token}
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    with (home / "log").open("w") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={home / 'files'}"],
            env=os.environ | places | own | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            told = home / "runtime" / f"jpserver-{process.pid}.json"
            wait_for(lambda: told.exists() or process.poll() is not None)
            assert process.poll() is None, (home / "log").read_text()
            yield Lab(json.loads(told.read_text())["url"], token, process)
        finally:
            began = process.children(recursive=True)  # kernels
            process.terminate()
            process.wait(60)
    assert not psutil.wait_procs(began, timeout=20)[1]


@pytest.fixture(scope="module")
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    """The notebook, when its only cell has been run."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.outside = []
    page.on("request", lambda r: r.url.startswith((lab.url, "data:", "blob:")) or page.outside.append(r.url))
    page.goto(f"{lab.url}lab/tree/explore.ipynb?token={lab.token}")
    page.locator(".jp-Notebook .cm-content").first.click(timeout=60_000)
    page.keyboard.press("Shift+Enter")
    page.locator(".explorer .tile").first.wait_for(timeout=120_000)
    yield page
    context.close()


def said(page: Page) -> list[str]:
    """What is said of the images that are shown."""
    return page.eval_on_selector_all(
        ".explorer .tile",
        "all => all.filter(t => t.offsetParent).map(t => t.querySelector('.said').innerText)",
    )


def detail(page: Page) -> str:
    """The details of the chosen image."""
    return page.locator(".explorer .detail:visible").inner_text()


def test_the_server_answers_on_this_machine_and_to_the_token_alone(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab.url}api/contents", timeout=30)
    wanted = urllib.request.Request(f"{lab.url}api/contents", headers={"Authorization": f"token {lab.token}"})
    with urllib.request.urlopen(wanted, timeout=30) as answer:
        assert [file["name"] for file in json.load(answer)["content"]] == ["explore.ipynb"]
    listening = [c.laddr.ip for c in lab.process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}


def test_a_chosen_image_is_shown_by_pointer_and_keyboard(page):
    assert "Image 29, cat" in detail(page) and "gap 29.0 nats" in detail(page)  # the first is chosen
    page.locator(".explorer .tile label").nth(1).click()
    assert "Image 28, bee" in detail(page) and "gap 28.0 nats" in detail(page)
    page.keyboard.press("ArrowLeft")
    assert "Image 29, cat" in detail(page)


def test_a_menu_reaches_images_that_the_page_did_not_hold(page):
    assert page.locator(".explorer .tile").count() == 6
    page.select_option(".filter-0 select", "ant")
    page.locator(".explorer .tile", has_text="Image 27, ant").wait_for()
    gaps = [f"Image {i}, ant, gap {i}.0 nats" for i in (27, 24, 0)]
    assert set(gaps) <= set(said(page)) and len(said(page)) == 6
    assert all(", ant," in line for line in said(page))
    assert "Image 27, ant" in detail(page)
    page.select_option(".filter-0 select", "all")
    page.locator(".explorer .tile", has_text="Image 29, cat").wait_for()
    assert len(said(page)) == 6


def test_the_page_asks_nobody_else(page):
    assert page.outside == []
