"""The book's figures in its dark theme: the same files, recolored where the page is dark.

Matplotlib writes every color of an SVG as an inline style. `themed` adds a style sheet that repaints these
where the figure's address ends in `#dark`; `visit_image` shows each figure of a page twice, for the light and
for the dark theme, of which the theme hides one. Photographs keep their pixels.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes

GROUND = "#121212"  # of the theme's dark pages
DARK = {
    "#000000": "#ced6dd",  # Matplotlib's default, which it leaves out
    "#222222": "#ced6dd",  # text
    "#444444": "#a4adb7",  # axes, ticks
    "#888888": "#858585",  # lines of reference, fifth curve
    "#e4e4e4": "#333333",  # grid
    "#ffffff": GROUND,  # gaps between bars, halos of text
    # Paul Tol's high-contrast colors; the first three become their light partners in his medium-contrast set.
    "#004488": "#6699cc",
    "#bb5566": "#ee99aa",
    "#ddaa33": "#eecc66",
    "#228833": "#44aa66",  # fourth curve
    # Cells of a table: their text is dark on both kinds, in both themes.
    "#111111": "#111111",
    "#eef1f5": "#8b949e",
}
# The white rectangles behind a figure and behind its axes; other white ones hide what is below them.
_FACES = ", ".join(
    f'{patch} > path[style*="fill: #ffffff"]'
    for patch in ("#patch_1", '[id^="axes_"] > [id^="patch_"]:first-child')
)
# Custom properties reach the copies that <use> makes: no rule needs to see #dark, which is outside of them.
_SHEET = "\n".join(
    [
        "<style>",
        f":root{{{';'.join(f'--c{c[1:]}:{c}' for c in DARK)};--face:#ffffff;fill:var(--c000000)}}",
        f"#dark:target{{{';'.join(f'--c{c[1:]}:{dark}' for c, dark in DARK.items())};--face:none}}",
        *(
            f'[style*="{paint}: {c}"],[{paint}="{c}"]{{{paint}:var(--c{c[1:]})!important}}'
            for paint in ("fill", "stroke")
            for c in DARK
        ),
        f"{_FACES}{{fill:var(--face)!important}}",
        "</style>",
    ]
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_STYLE = re.compile(r'\sstyle="([^"]*)"')
_PAINT = re.compile(r"(?<![\w-])(?:fill|stroke): ((?!none\b|url\()[^;]+)")
_HATCHED = re.compile(r'\sfill="(#\w+)"')  # the ground of hatches is no style


def unknown_colors(svg: str) -> list[str]:
    """The colors of a Matplotlib SVG that `DARK` does not have."""
    svg = _COMMENT.sub("", svg)
    styled = {color for style in _STYLE.findall(svg) for color in _PAINT.findall(style)}
    return sorted(styled.union(_HATCHED.findall(svg)) - DARK.keys())


def themed(svg: str) -> str:
    """Add dark colors to a Matplotlib SVG: as `file.svg` it looks as before, as `file.svg#dark` dark."""
    return re.sub(r"(<svg\b[^>]*)>", lambda root: f'{root[1]} id="dark">\n{_SHEET}', svg, count=1)


def is_figure(file: Path) -> bool:
    """Whether an image is an SVG that Matplotlib drew in colors of `DARK`; others keep a light ground."""
    if file.suffix != ".svg" or not file.exists():
        return False
    svg = file.read_text("utf-8")
    return '<g id="figure_1">' in svg and not unknown_colors(svg)


def visit_image(translator: Any, node: nodes.image) -> None:
    """Write a figure twice in HTML, for the light and for the dark theme, and any other image once."""
    write, classes = type(translator).visit_image, node["classes"]
    if not is_figure(Path(translator.builder.srcdir) / node["uri"]):
        write(translator, node)
        return
    # The theme hides every caption that is a sibling of a hidden image: the span keeps them apart.
    translator.body.append("<span>")
    for theme, end in (("light", ""), ("dark", "#dark")):
        node["classes"] = [*classes, f"only-{theme}"]
        write(translator, node)
        translator.body[-1] = translator.body[-1].replace('.svg"', f'.svg{end}"')
    translator.body.append("</span>")
