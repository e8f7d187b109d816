"""Tabs of code cells: neighbors whose metadata have a `tab`, its label, are shown one at a time."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_design.shared import create_component


def gather_tabs(app: Sphinx, document: nodes.document) -> None:
    """Put cells that follow each other with a `tab` each into a set of tabs, as sphinx-design has them.

    A label that comes again begins another set.
    """
    for parent in {cell.parent for cell in document.findall(_label)}:
        children: list[nodes.Node] = []
        waiting: list[nodes.container] = []
        for node in [*parent.children, None]:
            label = _label(node)
            if waiting and (not label or label in map(_label, waiting)):
                children.append(_tabs(waiting))
                waiting = []
            if label:
                waiting.append(node)
            elif node is not None:
                children.append(node)
        parent.children = []
        parent += children


def _label(node: nodes.Node | None) -> str:
    """The label of a cell's tab; empty for what is no cell with one."""
    return node.get("cell_metadata", {}).get("tab", "") if isinstance(node, nodes.container) else ""


def _tabs(cells: list[nodes.container]) -> nodes.container:
    items = []
    for cell in cells:
        label = nodes.rubric("", _label(cell), classes=["sd-tab-label"])
        label["sync_group"], label["sync_id"] = "tab", _label(cell)  # all sets of a page show the same run
        content = create_component("tab-content", classes=["sd-tab-content"], children=[cell])
        children = [label, content]
        items.append(create_component("tab-item", classes=["sd-tab-item"], selected=False, children=children))
    return create_component("tab-set", classes=["sd-tab-set"], children=items)
