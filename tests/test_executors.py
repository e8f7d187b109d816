"""Progress bars in a terminal, in a log file, and switched off."""

import io
import sys

import pytest
import tqdm

from memlib.runs.executors import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, **options):
    """What a bar of 200 steps writes to standard error."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress_bar(200, "digits, 21 models", "images", **options) as bar:
        for _ in range(200):
            bar.update()
    return stream.getvalue()


@pytest.fixture(autouse=True)
def every_step_is_due(monkeypatch):
    """A clock that moves on by a minute with each look at it, and no thread that looks at it too."""
    clock = iter(range(0, 10**9, 60))
    monkeypatch.setattr(tqdm.std, "time", lambda: next(clock))
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


def test_a_terminal_shows_one_line_that_is_written_over(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert text.count("\r") > 10 and text.count("\n") == 1 and text.endswith("\n")
    assert "digits, 21 models: 100%" in text


def test_a_log_file_gets_whole_lines(monkeypatch):
    text = shown(monkeypatch, io.StringIO())
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert len(lines) > 10 and all(line.startswith("digits, 21 models: ") for line in lines)
    assert "100%" in lines[-1] and "200 of 200 images" in lines[-1] and max(map(len, lines)) <= 110


def test_a_log_file_gets_a_line_in_thirty_seconds_at_most(monkeypatch):
    monkeypatch.setattr(tqdm.std, "time", lambda: 0.0)
    assert len(shown(monkeypatch, io.StringIO()).splitlines()) <= 2


def test_disabled_shows_nothing(monkeypatch):
    assert shown(monkeypatch, Terminal(), enabled=False) == ""
