"""Markdown that shows the very values it is given."""

import ast
import html
import re

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from markdown_it import MarkdownIt
from myst_parser.parsers.docutils_ import Parser

from book._ext.myst import code, list_table, plain


def parsed(text):
    """What MyST reads, with the extensions of the book that matter."""
    settings = {"myst_enable_extensions": ["colon_fence", "dollarmath"], "halt_level": 2}
    return publish_doctree(text, parser=Parser(), settings_overrides=settings)


@pytest.mark.parametrize(
    "text",
    [
        *("*a* _b_ [c](d) <e> {f}`g`", "$h$ | ~i~ # j \\ @k", "&lt; & &amp; &#42;"),
        *("- a", "+ x", "12) a", "3.", "-1.5 + 2 - 3.", "1.5 a"),
        *("% a", ":::{note}", "(x)="),
    ],
)
def test_plain_text_is_no_markup(text):
    [paragraph] = parsed(plain(text)).children
    assert [type(part) for part in paragraph.children] == [nodes.Text] and paragraph.astext() == text


@pytest.mark.parametrize("value", ["a`b", "``", 'say "x"', "é", -1.5])
def test_values_are_shown_as_code(value):
    rendered = MarkdownIt("commonmark").render(code(value))
    shown = html.unescape(re.fullmatch(r"<p><code>(.*)</code></p>\n", rendered)[1])
    assert ast.literal_eval(shown) == value


def test_a_table_holds_its_cells():
    def table(*args, **options):
        [found] = parsed(list_table(*args, **options)).findall(nodes.table)
        return found

    rows = [("a", "b", "c"), ("1", "two *words*", ""), ("3", "`4`", "5")]
    found = table(rows, "20 30 50", caption="What it shows.", name="tab-it")
    texts = [[entry.astext() for entry in row] for row in found.findall(nodes.row)]
    assert texts == [["a", "b", "c"], ["1", "two words", ""], ["3", "4", "5"]]
    assert [head.astext().split() for head in found.findall(nodes.thead)] == [["a", "b", "c"]]
    assert next(found.findall(nodes.title)).astext() == "What it shows." and found["names"] == ["tab-it"]
    assert [column["colwidth"] for column in found.findall(nodes.colspec)] == [20, 30, 50]
    assert "figures" in found["classes"]
    small = table([("a", "1"), ("b", "2")])
    assert not list(small.findall(nodes.thead)) and len(list(small.findall(nodes.row))) == 2
    assert "figures" not in small["classes"]
