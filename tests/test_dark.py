"""The book's figures in its dark theme: every color has a readable counterpart, and all else stays."""

import importlib.util
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from docutils import nodes
from gallery import FIGURES
from matplotlib.colors import to_rgb
from PIL import Image

from book._ext.dark import DARK, is_figure, themed, unknown_colors, visit_image
from book._ext.pages import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import browsing

GROUND = DARK["#ffffff"]
SVG = "{http://www.w3.org/2000/svg}"
FAINT = {"#e4e4e4", "#ffffff"}  # grid and ground: not to be read
CELLS = {"#ddaa33", "#eef1f5"}  # what text in #111111 stands on
PLAIN = '<svg viewBox="0 0 1 1"><g id="figure_1"><path style="fill: #004488; stroke: none"/></g></svg>'


@cache
def drawn(name: str) -> str:
    """A figure of the gallery as SVG."""
    file = io.StringIO()
    FIGURES[name]().savefig(file, format="svg")
    return file.getvalue()


def dark_colors(svg: str) -> dict[tuple[str, str], str]:
    """(property, color) -> the color a themed SVG has in the dark, by the rules of its style sheet."""
    rules = re.findall(
        r'^\[style\*="(\w+): (#\w+)"\],\[\1="\2"\]\{\1:var\(--c(\w+)\)!important\}$', svg, re.MULTILINE
    )
    default = re.search(r":root\{.*?;fill:var\(--c(\w+)\)\}", svg)[1]
    return {(name, color): DARK[f"#{used}"] for name, color, used in rules} | {
        ("fill", ""): DARK[f"#{default}"]
    }


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    values = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    darker, lighter = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return (lighter + 0.05) / (darker + 0.05)


def theme_colors(theme: str) -> dict[str, str]:
    """The colors of the pages in a theme, by the style sheets that come with it."""
    colors = {}
    for package, file in (
        ("pydata_sphinx_theme", "pydata-sphinx-theme.css"),
        ("sphinx_book_theme", "sphinx-book-theme.css"),
    ):
        [folder] = importlib.util.find_spec(package).submodule_search_locations
        text = (Path(folder) / "theme" / package / "static" / "styles" / file).read_text("utf-8")
        for block in re.findall(rf"html\[data-theme={theme}\]\{{([^}}]*)\}}", text):
            colors |= dict(re.findall(r"(--[\w-]+):([^;]+)", block))
    return colors


@pytest.mark.parametrize("name", FIGURES)
def test_every_color_of_the_gallery_can_be_read_in_the_dark(name):
    svg = themed(drawn(name))
    colors, root = dark_colors(svg), ET.fromstring(svg)
    parents = {child: parent for parent in root.iter() for child in parent}
    for element in root.iter():
        style = dict(part.split(": ") for part in element.get("style", "").split("; ") if ": " in part)
        for paint in {"fill", "stroke"} & style.keys():
            color = style[paint]
            if color == "none" or color in FAINT:
                continue
            text = parents[element].get("id", "").startswith("text_") and element.tag == f"{SVG}g"
            on_cells = name == "verdicts" and color == "#111111"
            for ground in [DARK[cell] for cell in CELLS] if on_cells else [GROUND]:
                shown = colors[paint, color]
                assert contrast(shown, ground) >= (4.5 if text else 3), f"{color} is {shown} on {ground}"
    assert colors["fill", ""] == DARK["#222222"], "what has no color is text"


def test_curves_stay_apart_and_faint_lines_faint_but_seen():
    curves = [DARK[c] for c in ("#004488", "#bb5566", "#ddaa33", "#228833", "#888888", "#222222")]
    assert len({*curves, GROUND}) == len(curves) + 1
    assert 1.2 < contrast(DARK["#e4e4e4"], GROUND) < 2


def test_published_figures_have_dark_colors():
    for path in sorted((ROOT / "published" / "book").glob("*.ipynb")):
        outputs = [o.get("data", {}) for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        for data in outputs:
            if {"image/svg+xml", "image/png"} & data.keys():
                assert not unknown_colors(data["image/svg+xml"]), path.name


def test_a_themed_figure_is_the_same_with_an_addition():
    svg = drawn("verdicts")
    both = themed(svg)
    assert re.sub(r' id="dark"|\n<style>.*?</style>', "", both, flags=re.DOTALL) == svg
    assert ET.fromstring(both).get("id") == "dark"


def test_only_figures_in_known_colors_are_themed(tmp_path):
    """Hatches count, and labels that read like a style do not."""
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.bar([0], [1], hatch="/", color="#004488", edgecolor="#222222")
    axes.set_xlabel('style="fill: red"')
    figure.savefig(tmp_path / "a.svg")
    plt.close(figure)
    svg = (tmp_path / "a.svg").read_text()
    assert "url(#" in svg and ' style="fill: red"' in svg and is_figure(tmp_path / "a.svg")
    for changed in (svg.replace("figure_1", "drawing"), svg.replace("#004488", "#1f77b4")):
        (tmp_path / "b.svg").write_text(changed)
        assert not is_figure(tmp_path / "b.svg")
    assert not is_figure(tmp_path / "a.png")


def test_a_figure_is_written_once_for_each_theme(tmp_path):
    class Translator:
        def __init__(self):
            self.body, self.builder = [], SimpleNamespace(srcdir=tmp_path)

        def visit_image(self, node):
            self.body.append(f'<img class="{" ".join(node["classes"])}" src="../_images/{node["uri"]}" />')

    (tmp_path / "a.svg").write_text(PLAIN)
    for name, expected in (
        ("b.svg", '<img class="wide" src="../_images/b.svg" />'),
        (
            "a.svg",
            '<span><img class="wide only-light" src="../_images/a.svg" />'
            '<img class="wide only-dark" src="../_images/a.svg#dark" /></span>',
        ),
    ):
        translator = Translator()
        visit_image(translator, nodes.image(uri=name, classes=["wide"]))
        assert "".join(translator.body) == expected
    (tmp_path / "a.svg").write_text(PLAIN.replace("<svg", '<svg width="401pt"', 1))
    translator = Translator()
    visit_image(translator, nodes.image(uri="a.svg"))
    assert translator.body[0] == '<span class="wide-figure" tabindex="0">'


def test_the_ground_and_the_colors_on_paper_are_those_of_the_theme():
    assert theme_colors("dark")["--pst-color-background"] == GROUND
    sheet = (ROOT / "book" / "_static" / "custom.css").read_text("utf-8")
    [block] = re.findall(r"html\[data-theme\] \{([^}]*--pst[^}]*)\}", sheet.partition("@media print")[2])
    printed = dict(re.findall(r"(--pst-[\w-]+): ([^;]+);", block))
    light = {name: value.replace(" ", "") for name, value in theme_colors("light").items()}
    assert {"--pst-color-background", "--pst-color-text-base", "--pst-color-primary"} < printed.keys()
    assert printed.pop("--pst-color-target") == "transparent"
    for name, value in printed.items():
        assert value.replace(" ", "").replace("0.", ".") == light[name], name


def test_a_browser_shows_one_file_light_as_before_and_dark(tmp_path):
    if browsing.installed() is None:
        pytest.skip("no browser")
    svg = drawn("error_bars")
    (tmp_path / "before.svg").write_text(svg, "utf-8")
    (tmp_path / "after.svg").write_text(themed(svg), "utf-8")
    width, height = (round(float(size)) for size in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    page = "#14181e"  # to be seen through the figure
    shown = "".join(
        f'<img src="{name}" style="display: block; width: {width}px; height: {height}px">'
        for name in ("before.svg", "after.svg", "after.svg#dark")
    )
    (tmp_path / "page.html").write_text(f'<body style="margin: 0; background: {page}">{shown}', "utf-8")
    command = [browsing.installed(), *browsing.OPTIONS, "--headless", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{3 * height + 200}"]
    command += [f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"), dtype=np.int64)
    before, after, dark = (pixels[k * height : (k + 1) * height] for k in range(3))

    def near(image: np.ndarray, color: str) -> int:
        return int((np.abs(image - np.array(to_rgb(color)) * 255).max(axis=-1) < 3).sum())

    assert np.abs(before - after).max() < 8  # a browser paints in tiles, whose edges may fall on a line
    assert near(before, "#ffffff") > 0.8 * width * height and near(dark, "#ffffff") == 0
    assert near(dark, page) > 0.8 * width * height
    for color in ("#004488", "#bb5566"):  # markers too, which are copies made by <use>
        assert near(before, color) > 50 and near(dark, color) == 0
        assert near(dark, DARK[color]) > 50 and near(before, DARK[color]) == 0
