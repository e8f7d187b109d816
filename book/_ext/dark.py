"""The book's figures in its dark theme: the same files, recolored where the page is dark.

Matplotlib writes every color of an SVG as an inline style. `themed` adds a style sheet that repaints these
where the figure's address ends in `#dark`; `visit_image` shows each figure of a page twice, for the light and
for the dark theme, of which the theme hides one. Photographs keep their pixels.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes

SHEET = Path(__file__).with_suffix(".css").read_text("utf-8")
# Color on paper -> in the dark.
DARK = {f"#{c}": dark for c, dark in re.findall(r"--c(\w+):(#\w+)", SHEET.partition("#dark:target")[2])}
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_STYLE = re.compile(r'\sstyle="([^"]*)"')
_PAINT = re.compile(r"(?<![\w-])(?:fill|stroke): ((?!none\b|url\()[^;]+)")
_WIDTH = re.compile(r'<svg\b[^>]*\swidth="([\d.]+)pt"')
WIDE = 400.0  # points; what is wider has text that a phone would shrink beyond reading
_HATCHED = re.compile(r'\sfill="(#\w+)"')  # the ground of hatches is no style


def unknown_colors(svg: str) -> list[str]:
    """The colors of a Matplotlib SVG that `DARK` does not have."""
    svg = _COMMENT.sub("", svg)
    styled = {color for style in _STYLE.findall(svg) for color in _PAINT.findall(style)}
    return sorted(styled.union(_HATCHED.findall(svg)) - DARK.keys())


def themed(svg: str) -> str:
    """Add dark colors to a Matplotlib SVG: as `file.svg` it looks as before, as `file.svg#dark` dark."""
    return re.sub(
        r"(<svg\b[^>]*)>", lambda root: f'{root[1]} id="dark">\n<style>\n{SHEET}</style>', svg, count=1
    )


def is_figure(file: Path) -> bool:
    """Whether an image is an SVG that Matplotlib drew in colors of `DARK`; others keep a light ground."""
    return bool(_figure(file))


def _figure(file: Path) -> str:
    """The text of such an image, empty for others."""
    if file.suffix != ".svg" or not file.exists():
        return ""
    svg = file.read_text("utf-8")
    return svg if '<g id="figure_1">' in svg and not unknown_colors(svg) else ""


def visit_image(translator: Any, node: nodes.image) -> None:
    """Write a figure twice in HTML, for the light and for the dark theme, and any other image once."""
    write, classes = type(translator).visit_image, node["classes"]
    if not (svg := _figure(Path(translator.builder.srcdir) / node["uri"])):
        write(translator, node)
        return
    # The theme hides every caption that is a sibling of a hidden image: the span keeps them apart. A phone
    # scrolls what is wide in it, which a keyboard must reach.
    width = _WIDTH.search(svg)
    wide = width and float(width[1]) > WIDE
    translator.body.append('<span class="wide-figure" tabindex="0">' if wide else "<span>")
    for theme, end in (("light", ""), ("dark", "#dark")):
        node["classes"] = [*classes, f"only-{theme}"]
        write(translator, node)
        translator.body[-1] = translator.body[-1].replace('.svg"', f'.svg{end}"')
    translator.body.append("</span>")
