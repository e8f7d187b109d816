"""The comparison of published numbers with recomputed ones."""

import math

import pytest
from click.testing import CliRunner
from tinybook import notebook, recorded, write_book, write_params

import book._ext.check as check_module
from book._ext.check import (
    FOLDER,
    SENTENCES,
    TOLERANCE,
    Row,
    check,
    compare,
    compare_readme,
    main,
    trains_nothing,
)
from book._ext.pages import ROOT, Page, load_pages
from memlib.chapters.notebook import read_records


@pytest.mark.parametrize(
    ("published", "recomputed", "agrees"),
    [
        (6.375, 6.375, True),
        (6.375, 6.375 * (1 + TOLERANCE / 2), True),
        (6.375, 6.375 * (1 + TOLERANCE * 2), False),
        (-1e-9, 1e-9, False),
        (math.nan, math.nan, True),
        (math.nan, 0.0, False),
        (6000, 6000, True),
        (10**6, 10**6 + 1, False),  # a count has no tolerance
        (1, 1.0, False),
        ("0.32 (0.29 to 0.34)", "0.32 (0.29 to 0.34)", True),
        ("0.32 (0.29 to 0.34)", "0.32 (0.29 to 0.35)", False),
        (6.375, None, False),
        (None, 6.375, False),
        (None, None, False),
    ],
)
def test_what_agrees(published, recomputed, agrees):
    row = Row("04-mnist", "gap", published, recomputed)
    assert row.agrees == agrees and str(row).endswith("  ok" if agrees else "  DIFFERS")


def test_one_number_of_a_published_page_changed_by_hand_is_found(tmp_path):
    """In the page's file, as by an editor."""
    page = ROOT / "published" / "book" / "07-neighbors.ipynb"
    records = read_records(page)
    assert len(records) > 10 and all(row.agrees for row in compare("07-neighbors", records, records))
    text = page.read_text("utf-8")
    before, after = repr(records["corrected"]), repr(records["corrected"] + 0.01)
    assert before in text
    changed = tmp_path / page.name
    changed.write_text(text.replace(before, after), "utf-8")
    rows = compare("07-neighbors", read_records(changed), records)
    assert [row.name for row in rows if not row.agrees] == ["corrected"]


def test_numbers_on_one_side_alone_are_listed_as_missing():
    rows = compare("04-mnist", {"gap": 6.4, "old": 1}, {"gap": 6.4, "new": 2})
    assert [(row.name, row.agrees) for row in rows] == [("gap", True), ("old", False), ("new", False)]
    assert "missing" in str(rows[1]) and "missing" in str(rows[2])


def test_a_long_text_is_shortened_only_where_it_agrees():
    text = "corrected rank correlation of the gap with log p"
    assert text not in str(Row("a", "b", text, text)) and text in str(Row("a", "b", text, f"{text}s"))


def test_numbers_of_the_readme_are_those_of_the_published_pages():
    names = {page for page, _ in SENTENCES}
    published = {name: read_records(ROOT / "published" / "book" / f"{name}.ipynb") for name in names}
    rows = compare_readme((ROOT / "README.md").read_text("utf-8"), published)
    assert len(rows) == len(SENTENCES) and all(row.agrees for row in rows), "\n".join(map(str, rows))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("training on an image adds 6.4 nats to its\nlog-probability on average", "6.4"),
        ("training on an image adds 6.5 nats to its log-probability on average", "6.5"),
        ("training on images adds 6.4 nats", None),
    ],
)
def test_a_number_of_the_readme(text, found):
    [row] = compare_readme(text, {"04-mnist": {"gap": 6.375}})
    assert (row.published, row.recomputed, row.agrees) == (found, "6.4", found == "6.4")


def test_pages_that_train_are_not_checked():
    pages = {page.name: trains_nothing(page) for page in load_pages("published")}
    shown = {name for name in pages if name[:2] in {"04", "05", "06", "07", "09", "11", "19"}}
    assert len(shown) == 7 and all(pages[name] for name in shown)
    assert not any(pages[name] for name in ("13-uncertainty", "17-other-models", "24-log-p"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository whose page one, published, shows a table and whose page two trains."""
    one = notebook("from memlib.chapters.notebook import record\nrecord(gap=6.375, n=3)")
    one.cells[1].source = "level: float = 0.95  # confidence"
    write_book(tmp_path, one=one, two=notebook("1"), index=notebook("1"))
    write_params(tmp_path, "published", one={}, two={"epochs": 9})
    (tmp_path / "published" / "book").mkdir(parents=True)
    recorded(notebook(), tmp_path / "published" / "book" / "one.ipynb", gap=6.375, n=3)
    (tmp_path / "README.md").write_text("The gap is 6.4 nats.\n")
    monkeypatch.setattr(check_module, "SENTENCES", {("one", "gap"): "The gap is {:.1f} nats"})
    monkeypatch.setattr(check_module, "ROOT", tmp_path)
    monkeypatch.setattr(check_module, "load_pages", lambda size: load_pages(size, tmp_path / "book"))
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    """In place of an execution: the numbers of page one, or nothing where it is cleared."""
    numbers = {"gap": 6.375, "n": 3}

    def execute(pages, root, folder, jobs):
        (root / folder).mkdir(parents=True)
        if numbers:
            recorded(notebook(), root / folder / "one.ipynb", **numbers)
        return [] if numbers else ["one"]

    monkeypatch.setattr(check_module, "execute_pages", execute)
    return numbers


def test_a_check_executes_what_trains_nothing_and_lists_every_number(root, capsys):
    earlier = root / FOLDER / "one.ipynb"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    assert check(load_pages("published", root / "book"), root)
    out = capsys.readouterr().out
    assert "1 of 1 pages to execute" in out and "3 numbers of 1 pages and README.md, 0 differ" in out
    assert [line.split()[1] for line in out.splitlines() if line.endswith("  ok")] == ["gap", "n", "one.gap"]
    assert "two                 not checked: it trains its models" in out
    assert read_records(earlier) == {"gap": 6.375, "n": 3}


def test_the_command_fails_where_a_number_differs(root, executed):
    assert CliRunner().invoke(main, []).exit_code == 0
    recorded(notebook(), root / "published" / "book" / "one.ipynb", gap=6.475, n=3)
    result = CliRunner().invoke(main, ["--page", "one"])
    assert result.exit_code == 1 and result.output.count("DIFFERS") == 1 and "two" not in result.output


def test_a_page_that_trains_is_refused_by_its_name(root):
    result = CliRunner().invoke(main, ["--page", "two"])
    assert result.exit_code == 1 and "unknown page that trains nothing 'two'" in result.output


def test_a_page_that_is_not_published_is_no_agreement(root, executed, capsys):
    (root / "published" / "book" / "one.ipynb").unlink()
    assert not check([Page("one", {})], root)
    assert capsys.readouterr().out.count("DIFFERS") == 2


def test_a_page_that_fails_is_no_agreement(root, executed):
    executed.clear()
    assert not check([Page("one", {})], root)
    (root / "published" / "book" / "one.ipynb").unlink()  # then there is nothing to compare
    assert not check([Page("one", {})], root)
