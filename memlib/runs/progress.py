"""Progress bars that behave in a terminal, in a notebook and in a log file."""

import sys
from typing import Any, TextIO

from tqdm import tqdm


class _Lines:
    """A stream that turns tqdm's carriage returns into lines of their own, for log files."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


def _log_file() -> dict[str, Any]:
    return {"file": _Lines(sys.stderr), "mininterval": 30, "ncols": 100}


def progress_bar(total: float, title: str, enabled: bool = True) -> tqdm:
    """A tqdm bar on standard error: live in a terminal or a notebook, at most a line every 30 s in a log
    file.

    Args:
        total: the work, in any unit; the bar shows the share done, the time taken and the time left.
        title: what is done.
        enabled: False shows nothing.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        desc=title,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        disable=not enabled,
        **({"file": sys.stderr, "dynamic_ncols": True} if live else _log_file()),
    )
