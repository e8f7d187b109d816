"""Tables of chapters."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from memlib.chapters.tables import number, table_html


def cells(frame):
    rows = BeautifulSoup(table_html(frame), "html.parser").select("tr")
    return [[cell.get_text() for cell in row.select("th, td")] for row in rows]


def test_numbers_of_a_column_are_alike_and_the_index_has_no_row_of_its_own():
    frame = pd.DataFrame(
        {
            "gap": np.round([1.2512, -3, np.nan], 2),
            "count": [1200, -2, 3],
            "whole": [129.0, 3.0, 4.0],
            "tiny": [4.4e-16, -0.0, 1.23456],
            "listed": [True, False, True],
        },
        pd.Index(["a < b", "c", "d"], name="model"),
    )
    assert cells(frame) == [
        ["model", "gap", "count", "whole", "tiny", "listed"],
        ["a < b", "1.25", "1,200", "129", "4 × 10⁻¹⁶", "yes"],
        ["c", "−3.00", "−2", "3", "0.000", "no"],
        ["d", "–", "3", "4", "1.235", "yes"],
    ]


def test_a_column_with_text_is_marked_whole_and_escaped():
    frame = pd.DataFrame({"this page": ["<b>a long text</b>", 3, 0.25, -np.inf, "x"]})
    assert [row[1] for row in cells(frame)[1:]] == ["<b>a long text</b>", "3", "0.250", "−∞", "x"]
    marked = BeautifulSoup(table_html(frame), "html.parser").select(".text")
    assert [e.parent.name for e in marked] == ["th", *["td"] * len(frame)]  # the column's name with it


def test_two_levels_stay_two():
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["noise", "fold"])
    assert cells(pd.DataFrame({"M": [0.5, 1]}, index))[1:] == [
        ["noise", "fold", ""],
        ["a", "1", "0.5"],
        ["2", "1.0"],
    ]


@pytest.mark.parametrize(("value", "text"), [(0.0004, "4 × 10⁻⁴"), (-0.0, "0.00"), (9.999, "10.00")])
def test_no_number_is_lost_to_rounding(value, text):
    assert number(value, 2) == text
