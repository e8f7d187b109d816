"""The book's figures in its dark theme: the same files, recolored where the page is dark.

Matplotlib writes every color of an SVG as an inline style. `themed` adds one style sheet to a figure that
repaints these colors where the figure's address ends in `#dark`; `paired` shows each figure of a page twice,
for the light and for the dark theme, of which the theme hides one. Photographs keep their pixels.
"""

import re
from collections.abc import Collection
from pathlib import Path

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

_ROOT = re.compile(r"<svg\b[^>]*>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_STYLE = re.compile(r'\sstyle="([^"]*)"')
_PAINT = re.compile(r"(?<![\w-])(fill|stroke): ((?!none\b|url\()[^;]+)")
_HATCHED = re.compile(r'\s(fill)="(#\w+)"')  # the ground of hatches is no style
# The white rectangles behind a figure and behind its axes; other white ones hide what is below them.
_FACES = ", ".join(
    f'{patch} > path[style*="fill: #ffffff"]'
    for patch in ("#patch_1", '[id^="axes_"] > [id^="patch_"]:first-child')
)
_IMAGE = re.compile(r'<img\b(?:\s+[\w:-]+(?:="[^"]*")?)*\s*/?>')
_SOURCE = re.compile(r'\ssrc="((?:[^"]*/)?_images/([^"/]+\.svg))"')
_CLASS = re.compile(r'\sclass="([^"]*)"')


def _paints(svg: str) -> list[tuple[str, str]]:
    """What a Matplotlib SVG is painted with: pairs of `fill` or `stroke` and the color as written there."""
    svg = _COMMENT.sub("", svg)
    styled = {paint for style in _STYLE.findall(svg) for paint in _PAINT.findall(style)}
    return sorted(styled.union(_HATCHED.findall(svg)))


def unknown_colors(svg: str) -> list[str]:
    """The colors of a Matplotlib SVG that `DARK` does not have."""
    return sorted({color for _, color in _paints(svg)} - DARK.keys())


def themed(svg: str) -> str:
    """Add the dark colors to a Matplotlib SVG; as `file.svg` it looks as before, as `file.svg#dark` dark.

    The colors go through custom properties, which the copies that `<use>` makes inherit: no rule needs to
    see `#dark`, which stands outside of those copies.

    Args:
        svg: text of the file; one that is themed already comes back unchanged.

    Raises:
        ValueError: no SVG, its root has another id, or a color that `DARK` does not have.
    """
    root = _ROOT.search(svg)
    if not root:
        raise ValueError("no <svg> element: only the text of an SVG can be themed")
    own = re.search(r'\sid="([^"]*)"', root[0])
    if own and own[1] == "dark":
        return svg
    if own:
        raise ValueError(f'the root of the SVG has the id "{own[1]}"; allowed: none, or "dark" if themed')
    if unknown := unknown_colors(svg):
        raise ValueError(f"no dark color for {', '.join(unknown)}; DARK has: {', '.join(DARK)}")
    used = _paints(svg)
    colors = sorted({"#000000", *(color for _, color in used)})
    light = ";".join(f"--c{color[1:]}:{color}" for color in colors)
    dark = ";".join(f"--c{color[1:]}:{DARK[color]}" for color in colors)
    rules = [f":root{{{light};fill:var(--c000000)}}", f"#dark:target{{{dark}}}"]
    rules += [
        f'[style*="{name}: {c}"],[{name}="{c}"]{{{name}:var(--c{c[1:]})!important}}' for name, c in used
    ]
    rules += [f":root{{--face:#ffffff}}#dark:target{{--face:none}}{_FACES}{{fill:var(--face)!important}}"]
    sheet = "\n".join(["<style>", *rules, "</style>"])
    return f'{svg[: root.end() - 1]} id="dark">\n{sheet}{svg[root.end() :]}'


def paired(page: str, figures: Collection[str]) -> str:
    """Show figures of a page for both themes; all else stays as it is.

    Args:
        page: HTML.
        figures: file names in `_images/` of the themed ones; every other image is left alone, as are pairs.
    """

    def pair(match: re.Match[str]) -> str:
        image = match[0]
        source, classes = _SOURCE.search(image), _CLASS.search(image)
        names = classes[1].split() if classes else []
        if not source or source[2] not in figures or {"only-light", "only-dark"} & {*names}:
            return image
        both = []
        for theme, address in (("light", source[1]), ("dark", f"{source[1]}#dark")):
            plain = _CLASS.sub("", image).replace(f'src="{source[1]}"', f'src="{address}"')
            both.append(f'<img class="{" ".join([*names, f"only-{theme}"])}"' + plain.removeprefix("<img"))
        # The theme hides every caption that is a sibling of a hidden image: the span keeps them apart.
        return f"<span>{''.join(both)}</span>"

    return _IMAGE.sub(pair, page)


def theme_book(html: str | Path) -> list[str]:
    """Give the figures of a built book their dark colors, and show them on its pages; in place, repeatable.

    Figures are the SVGs in `_images/` that Matplotlib drew in colors of `DARK`. Other images stay as they
    are, and the pages keep a light ground for them.

    Args:
        html: the folder, `_build/html`.

    Returns:
        File names of the figures.

    Raises:
        ValueError: what `themed` refuses.
    """
    html, texts = Path(html), {}
    for file in sorted((html / "_images").glob("*.svg")):
        svg = file.read_bytes().decode("utf-8")
        if '<g id="figure_1">' in svg and not unknown_colors(svg):
            texts[file] = themed(svg)
    names = [file.name for file in texts]
    for page in sorted(html.rglob("*.html")):
        texts[page] = paired(page.read_bytes().decode("utf-8"), names)
    for file, text in texts.items():
        file.write_bytes(text.encode("utf-8"))
    return names
