"""Progress bars that behave in a terminal, in a notebook and in a log file."""

import sys
from typing import TextIO

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


def progress_bar(total: int, title: str, unit: str, enabled: bool = True) -> tqdm:
    """A tqdm bar on standard error: live in a terminal or a notebook, at most a line every 30 s in a log
    file.

    Args:
        total: number of steps.
        title: what is done.
        unit: name of a step.
        enabled: False shows nothing.
    """
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(
            total=total, desc=title, unit=unit, disable=not enabled, file=sys.stderr, dynamic_ncols=True
        )
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        disable=not enabled,
        file=_Lines(sys.stderr),
        mininterval=30,
        ncols=100,
    )
