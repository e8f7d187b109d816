"""How chapters show tables: numbers of a column alike, a true minus sign, text to the left."""

import html

import numpy as np
import pandas as pd

MOST = 3  # decimals; what is smaller than they show is written as a power of ten
_NARROW = 12  # characters of the longest text in a column that reads like one of numbers
_TEXT = '<span class="text">'
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table_html(frame: pd.DataFrame) -> str:
    """A table as HTML; what names the index stands in the corner, not in a row of its own.

    Numbers of a column have the decimals that all of them need, as a chapter rounded them, but not more than
    three. Missing ones are a dash.
    """
    columns = [_column(frame.iloc[:, k]) for k in range(frame.shape[1])]
    shown = pd.DataFrame(dict(enumerate(columns)), frame.index, dtype=object).set_axis(frame.columns, axis=1)
    shown = shown.rename(index=_escaped, columns=_escaped)
    if frame.index.nlevels == frame.columns.nlevels == 1:
        marked = [any(cell.startswith(_TEXT) for cell in cells) for cells in columns]
        heads = [f"{_TEXT}{name}</span>" if m else name for m, name in zip(marked, shown, strict=True)]
        corner = frame.index.name or frame.columns.name
        shown = shown.set_axis(heads, axis=1).rename_axis(index=None, columns=corner)
    return shown.to_html(border=0, escape=False)


def _escaped(label: object) -> object:
    return html.escape(label) if isinstance(label, str) else label


def _column(column: pd.Series) -> list[str]:
    if pd.api.types.is_bool_dtype(column):
        return ["yes" if value else "no" for value in column]
    if pd.api.types.is_integer_dtype(column):
        return [number(value, 0) for value in column]
    if pd.api.types.is_float_dtype(column):
        finite = column[np.isfinite(column)].to_numpy(float)
        needed = [d for d in range(MOST) if np.allclose(finite, finite.round(d), rtol=0, atol=1e-9)]
        return [number(value, needed[0] if needed else MOST) for value in column]
    texts = [_text(value) for value in column]
    if max(map(len, texts), default=0) <= _NARROW:
        return texts
    return [f"{_TEXT}{text}</span>" for text in texts]


def _text(value: object) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        whole = np.isfinite(value) and float(value).is_integer()
        return number(value, 0 if whole else MOST)
    return html.escape(str(value))


def number(value: float, decimals: int) -> str:
    """A number with so many decimals.

    >>> number(-1234.5, 1), number(-0.0004, 2), number(2e-16, 3), number(float("nan"), 1)
    ('−1,234.5', '−4 × 10⁻⁴', '2 × 10⁻¹⁶', '–')
    """
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value or 0:,.{decimals}f}"  # minus zero is zero
    if value and not float(text.replace(",", "")):
        digits, power = f"{value:.0e}".split("e")
        text = f"{digits} × 10{str(int(power)).translate(_RAISED)}"
    return text.replace("-", "−")
