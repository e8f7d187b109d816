"""How large the built book is, and how fast its pages load in a browser from a local server.

    python benchmarks/browsing.py [--site _build/html] [--rounds 7]

Needs a Chromium of the system. Every load starts with an empty cache; pages take turns.
"""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from measure import interleaved, machine, spread, table
from playwright.sync_api import Browser, sync_playwright

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a browser does on its own account would wait for a network that may not be there.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


def installed() -> str | None:
    """The path of the system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium without a window.

    Raises:
        FileNotFoundError: there is none.
    """
    path = installed()
    if path is None:
        raise FileNotFoundError(f"no browser: none of {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a local server of a folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load(browser: Browser, url: str) -> dict[str, float]:
    """Seconds from the request until the text can be read, everything is loaded, mathematics is set."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(url, wait_until="load")
    page.wait_for_function("() => [...document.querySelectorAll('.math')].every(m => m.querySelector('svg'))")
    set_ = page.evaluate("performance.now()")
    entry = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    context.close()
    return {
        "readable": entry["domContentLoadedEventEnd"] / 1e3,
        "loaded": entry["loadEventEnd"] / 1e3,
        "mathematics set": set_ / 1e3,
    }


@click.command()
@click.option("--site", type=click.Path(path_type=Path, exists=True, file_okay=False), default=SITE)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="loads of each page")
def main(site: Path, rounds: int) -> None:
    """Sizes of the built book, and how long its first and its largest page take to load."""
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    pages = {path: size for path, size in sizes.items() if path.suffix == ".html"}
    largest = max(pages, key=pages.__getitem__)
    print(machine(torch.device("cpu"), ()), "", sep="\n")
    print(f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB")
    print(f"largest page: {largest.relative_to(site)}, {pages[largest] / 1e6:.2f} MB\n")
    chosen = [site / "book" / "index.html", largest]
    with served(site) as base, chromium() as browser:
        visits = {
            path.name: functools.partial(load, browser, f"{base}/{path.relative_to(site).as_posix()}")
            for path in chosen
        }
        calls = interleaved(visits, rounds)
    rows = []
    for name, own in calls.items():
        for moment in own[0].result:
            seconds = spread(call.result[moment] for call in own)
            rows.append([name, moment, str(seconds)])
    print(table(["page", "until", "seconds"], rows))


if __name__ == "__main__":
    main()
