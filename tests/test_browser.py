"""The built book in a browser: over http and from disk, wide and on a phone, by pointer and keyboard.

The book is the quick one that `make test-book` builds. Needs a Chromium of the system; without one the tests
are skipped, under CI they fail.
"""

import os
import re
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from book._ext.pages import ROOT, toc_pages

sys.path.insert(0, str(ROOT / "benchmarks"))

import browsing
import firefox

PAGES = [*toc_pages(ROOT), "search", "genindex"]
WITH_WIDGETS = [name for name in PAGES if "explore" in name]
# Pages that differ in their parts: cards, tables of numbers and of text, widgets, search.
KINDS = [
    *("book/index", "book/04-mnist", "book/25-files", "book/19-competition", "book/figures"),
    *("book/23-explore", "book/status", "book/glossary", "book/bibliography", "search"),
]
KINDS_FIRST = [pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow]) for name in PAGES]
RESULTS = PAGES[1 : PAGES.index("book/23-explore")]  # their part of the table of contents is the first
# What follows a formula without a space and begins a line.
TORN = """[...document.querySelectorAll("p .math")].filter(math => {
  const next = math.nextSibling, range = document.createRange();
  if (!next || next.nodeType !== 3 || !/^[-,.;:)]/.test(next.data)) return false;
  range.setStart(next, 0); range.setEnd(next, 1);
  return range.getBoundingClientRect().left < math.getBoundingClientRect().left;
}).map(math => math.textContent + math.nextSibling.data.slice(0, 20))"""
LARGEST_PAGE, WHOLE_SITE = 5e6, 60e6  # bytes


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built book."""
    html = ROOT / "_build" / "test" / "_build" / "html"
    if not (html / "index.html").exists():
        pytest.fail(f"no book in {html}: `make test-book` builds it, `make test` does so by itself")
    return html


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """The address of a local server of the site."""

    with browsing.served(site) as address:
        yield address


@pytest.fixture(params=["http", "file"])
def base(request: pytest.FixtureRequest, site: Path) -> str:
    """The address of the site, over http and from disk."""
    return request.getfixturevalue("server") if request.param == "http" else site.as_uri()


@pytest.fixture(scope="session")
def tab(browser: Browser) -> Page:
    """For tests that leave no trace in it: to open another takes longer than most pages."""
    return browser.new_context().new_page()


class Visit:
    """What goes wrong on a page of the browser, and what the page asks for.

    In a tab of its own, or in one that stays.
    """

    def __init__(self, browser: Browser, base: str, dark: bool = False, tab: Page | None = None):
        self.context = None if tab else browser.new_context()
        self.base, self.page = base, tab or self.context.new_page()
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.listeners = {
            "console": lambda m: self.problems.append(m.text) if m.type == "error" else None,
            "pageerror": lambda error: self.problems.append(str(error)),
            "requestfailed": lambda request: self.problems.append(f"failed: {request.url}"),
            "request": lambda request: self._asked(request.url),
        }
        for event, listener in self.listeners.items():
            self.page.on(event, listener)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.outside.append(url)

    def open(self, name: str) -> Page:
        self.page.goto(f"{self.base}/{name}.html", wait_until="load")
        if self.page.locator(".math").count():
            self.page.wait_for_selector(".math mjx-container", state="attached")
        if self.page.locator('script[type$="widget-view+json"]').count():
            self.page.wait_for_selector(".jupyter-widgets", state="attached")
        return self.page

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        if self.context:
            self.context.close()
        else:
            self.page.goto("about:blank")  # what the page still asks for is its own
            for event, listener in self.listeners.items():
                self.page.remove_listener(event, listener)


def serious(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical for the accessibility of a page."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{v['id']}: {v['help']} ({len(v['nodes'])}) {v['nodes'][0]['html'][:200]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_alone_and_fits_a_phone(browser, tab, server, name):
    with Visit(browser, server, tab=tab) as visit:
        page = visit.open(name)
        images = page.eval_on_selector_all(
            "img",
            "all => all.map(i => [i.src, i.hasAttribute('alt'), i.naturalWidth > 0 || !i.offsetParent])",
        )
        raw = page.eval_on_selector_all(".math", "all => all.filter(m => !m.querySelector('svg')).length")
        assert page.locator("h1").count() >= 1 and raw == 0
        assert [src for src, alt, drawn in images if not (alt and drawn)] == []
        assert (visit.problems, visit.outside) == ([], [])
        page.set_viewport_size({"width": 360, "height": 800})
        culprits = page.eval_on_selector_all(
            "body *", "all => all.filter(e => e.getBoundingClientRect().right > 361).map(e => e.outerHTML)"
        )
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, [html[:150] for html in culprits[:5]]


@pytest.mark.parametrize("name", KINDS_FIRST)
def test_a_page_needs_no_server(browser, tab, site, name):
    with Visit(browser, site.as_uri(), tab=tab) as visit:
        page = visit.open(name)
        assert (
            page.eval_on_selector_all(".math", "all => all.filter(m => !m.querySelector('svg')).length") == 0
        )
        assert (visit.problems, visit.outside) == ([], [])


@pytest.mark.parametrize("name", KINDS_FIRST)
def test_a_page_is_accessible(browser, tab, server, name):
    with Visit(browser, server, tab=tab) as visit:
        assert serious(visit.open(name)) == []


@pytest.mark.parametrize("name", KINDS)
def test_a_page_is_accessible_in_the_dark(browser, tab, server, name):
    with Visit(browser, server, dark=True, tab=tab) as visit:
        page = visit.open(name)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert serious(page) == []


def test_the_root_leads_to_the_first_page(browser, base):
    with Visit(browser, base) as visit:
        visit.page.goto(f"{base}/index.html", wait_until="commit")
        visit.page.wait_for_url("**/book/index.html")
        assert visit.outside == []


def test_every_link_leads_somewhere(site):
    pages = {path: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in site.rglob("*.html")}
    anchors = {p: {e.get("id") or e.get("name") for e in s.select("[id], a[name]")} for p, s in pages.items()}
    dead = []
    for path, soup in pages.items():
        if path.parent.name == "_static":
            continue  # the theme's templates
        for element, key in [
            *((e, "href") for e in soup.select("[href]")),
            *((e, "src") for e in soup.select("[src]")),
        ]:
            url = urllib.parse.urlsplit(element[key])
            if url.scheme or url.netloc:
                assert url.scheme in ("https", "data", "mailto") or element.name != "a", element
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            fragment = urllib.parse.unquote(url.fragment)
            known = target.suffix != ".html" or not fragment or fragment in anchors.get(target, ())
            if not target.exists() or not known:
                dead.append(f"{path.relative_to(site)}: {element[key]}")
    assert not dead, "\n".join(dead)


def test_downloads_are_what_they_say(browser, server):
    name = "book/02-data-and-models"
    with Visit(browser, server) as visit:
        page = visit.open(name)
        offered = "a[download], a.btn-download-source-button"
        links = page.eval_on_selector_all(offered, "all => all.map(a => a.href)")
        kinds = {re.search(r"\.(\w+)$", link)[1] for link in links}
        assert kinds == {"ipynb", "parquet", "json"}
        begins = {"ipynb": b"{", "json": b"{", "parquet": b"PAR1"}
        for link in links:
            content = page.request.get(link).body()
            assert content.startswith(begins[link.rpartition(".")[2]]), link


def test_the_book_is_small(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    pages = {path.name: size for path, size in sizes.items() if path.suffix == ".html"}
    assert max(pages.values()) < LARGEST_PAGE, max(pages, key=pages.get)
    assert sum(sizes.values()) < WHOLE_SITE


@pytest.mark.parametrize("name", RESULTS)
def test_the_first_figure_of_results_is_on_the_first_screen(browser, server, tab, name):
    with Visit(browser, server, tab=tab) as visit:
        figure = visit.open(name).locator("figure img:visible").first
        assert figure.bounding_box()["y"] < 800


def test_search_finds_pages(browser, base):
    with Visit(browser, base) as visit:
        visit.page.goto(f"{base}/search.html?q=importance+sampling")
        visit.page.wait_for_selector("ul.search li a")
        titles = re.compile("log p\\(x\\)|importance", re.IGNORECASE)
        visit.page.locator("ul.search li a", has_text=titles).first.wait_for()  # results come one by one
        assert (visit.problems, visit.outside) == ([], [])


def visible(page: Page, selector: str) -> int:
    return page.eval_on_selector_all(selector, "all => all.filter(e => e.offsetParent).length")


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_the_explorer_answers_to_the_keyboard(browser, server, name):
    with Visit(browser, server) as visit:
        page = visit.open(name)
        everything = visible(page, ".explorer .tile")
        assert everything == page.locator(".explorer .tile").count() > 3
        menus = page.locator(".explorer select")
        for k in range(menus.count()):
            menus.nth(k).focus()
            page.keyboard.press("ArrowDown")
            assert visible(page, ".explorer .tile") < everything, f"menu {k}"
            page.keyboard.press("ArrowUp")
            assert visible(page, ".explorer .tile") == everything, f"menu {k}"
        page.locator(".explorer .tile input").first.focus()
        before = page.locator(".explorer .detail:visible").inner_text()
        page.keyboard.press("ArrowRight")
        after = page.locator(".explorer .detail:visible").inner_text()
        assert before != after and "nats" in after
        assert (visit.problems, visit.outside) == ([], [])


def test_an_image_that_a_filter_hides_is_chosen_no_more(browser, server):
    with Visit(browser, server) as visit:
        page = visit.open(WITH_WIDGETS[0])
        assert page.locator(".explorer .hint").is_hidden()
        page.select_option(".filter-1 select", "lower half")  # the first image has the highest M
        assert page.locator(".explorer .hint").is_visible()
        assert visible(page, ".explorer .detail") == 0
        page.locator(".explorer .tile:visible label").first.click()
        assert visible(page, ".explorer .detail") == 1


def test_figures_follow_the_theme(browser, base):
    with Visit(browser, base, dark=True) as visit:
        page = visit.open("book/06-outliers")
        shown = page.eval_on_selector_all(
            "figure img", "all => all.filter(i => i.offsetParent).map(i => i.src)"
        )
        assert shown and all(src.endswith(".svg#dark") for src in shown)
    with Visit(browser, base) as visit:
        page = visit.open("book/06-outliers")
        shown = page.eval_on_selector_all(
            "figure img", "all => all.filter(i => i.offsetParent).map(i => i.src)"
        )
        assert shown and all(src.endswith(".svg") for src in shown)


@pytest.fixture(scope="module")
def firefox_tab() -> Iterator[firefox.Tab]:
    """Of the system's Firefox; without one the test is skipped, but under CI it fails."""
    if firefox.installed() is None:
        missing = f"no Firefox: none of {', '.join(firefox.NAMES)}"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with firefox.tab() as tab:
        yield tab


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS[:6], "book/24-log-p"])
def test_a_page_is_the_same_in_firefox(firefox_tab, server, name):
    firefox_tab.open(f"{server}/{name}.html")
    firefox_tab.wait_for("[...document.querySelectorAll('.math')].every(m => m.querySelector('svg'))")
    missing = "[...document.images].filter(i => i.offsetParent && !i.naturalWidth).map(i => i.src)"
    assert firefox_tab.evaluate(missing) == []
    for width in (1280, 924, 736, 360):
        firefox_tab.resize(width, 800)
        assert firefox_tab.evaluate("document.documentElement.scrollWidth") <= width
        assert firefox_tab.evaluate(TORN) == [], width
    outside = [url for url in firefox_tab.asked if not url.startswith((server, "data:", "blob:"))]
    assert (firefox_tab.errors, outside) == ([], [])


@pytest.mark.slow
def test_the_explorer_answers_in_firefox(firefox_tab, server):
    firefox_tab.open(f"{server}/{WITH_WIDGETS[0]}.html")
    shown = "[...document.querySelectorAll('.explorer .tile')].filter(t => t.offsetParent).length"
    everything = firefox_tab.wait_for(shown)
    firefox_tab.evaluate("document.querySelector('.filter-1 select').selectedIndex = 1")
    assert 0 < firefox_tab.evaluate(shown) < everything
    firefox_tab.evaluate("document.querySelector('.filter-1 select').selectedIndex = 0")
    firefox_tab.evaluate("document.querySelectorAll('.explorer .tile input')[2].click()")
    detail = "[...document.querySelectorAll('.explorer .detail')].findIndex(d => d.offsetParent)"
    assert (firefox_tab.evaluate(shown), firefox_tab.evaluate(detail)) == (everything, 2)
