"""Values and tables as MyST Markdown."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def filled(template: str, **values: object) -> str:
    """A text that stands beside this file, with values in its fields."""
    return Path(__file__).with_name(f"{template}.md").read_text("utf-8").format(**values)


def plain(text: str) -> str:
    """Text in which MyST reads no markup."""
    text = re.sub(r"([\\`*_{}\[\]<>$|~#@&])", r"\\\1", text)
    # lists, comments, fences, targets
    return re.sub(r"^\s*(?=[-+%:(])|^\s*\d+(?=[.)](\s|$))", r"\g<0>\\", text)


def code(value: Any) -> str:
    """A Python value, a string in double quotes, as inline code."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def list_table(rows: Sequence[Sequence[str]], widths: str = "", caption: str = "", name: str = "") -> str:
    """A list-table; more than two columns have a head, the first row, and are set in small type.

    `widths` are those of the columns ("70 30"), else as their content asks; a caption gives it a number.
    """
    options = {"name": name, "widths": widths, "align": "left"}
    options |= {"header-rows": "1", "class": "figures"} if len(rows[0]) > 2 else {}
    lines = [f":::{{list-table}} {caption}".rstrip()]
    lines += [f":{option}: {value}" for option, value in options.items() if value]
    for first, *others in rows:
        lines += ["", f"* - {first}", *(f"  - {cell}" for cell in others)]
    return "\n".join([*lines, ":::", ""])
