"""Measuring methods side by side in one process: interleaved rounds, peak memory, machine limits, tables."""

import atexit
import contextlib
import ctypes
import datetime
import functools
import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import psutil
import torch

from memlib.device import check_precision, choose_device, one_thread, processor
from memlib.runs.cost import Limits, machine_limits
from memlib.runs.executors import processes

FEWEST = 20  # images
WATCHED = {
    "cpu": "in all processes started for it, shared pages in proportion; read 20 times a second",
    "cuda": "torch.cuda.max_memory_allocated",
}

Key = TypeVar("Key")


_open = contextlib.ExitStack()  # processes that live as long as this one
atexit.register(_open.close)


class Timed(NamedTuple):
    """One call: how long it took and what it returned."""

    seconds: float
    result: Any


def interleaved(
    functions: Mapping[Key, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[Timed]]:
    """Call every function once per round, A B C A B C: a machine that slows down slows all of them.

    Args:
        functions: by name; each returns when its work is finished, on a GPU too.
        rounds: calls of each.
        clock: gives the time in seconds.
    """
    calls: dict[Key, list[Timed]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = clock()
            result = function()
            calls[name].append(Timed(clock() - started, result))
    return calls


class Spread(NamedTuple):
    """A quantity over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


def spread(values: Iterable[float]) -> Spread:
    """Median and range."""
    numbers = list(values)
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def fastest(candidates: Sequence[int], function: Callable[[int], Any]) -> int:
    """The candidate whose call takes the least time, the better of two calls each."""
    calls = interleaved({c: functools.partial(function, c) for c in candidates}, 2)
    return min(candidates, key=lambda c: min(call.seconds for call in calls[c]))


def peak_memory(function: Callable[[], Any], device: torch.device) -> tuple[Any, int]:
    """What a call returns, and by how many bytes memory grew at most while it ran."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = function()
        return result, torch.cuda.max_memory_allocated(device) - before
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc: hand freed memory back to the system
    if trim:
        trim(0)
    process, stop = psutil.Process(), threading.Event()
    others = set(process.children(recursive=True))

    def size() -> int:
        mine = [process, *(p for p in process.children(recursive=True) if p not in others)]
        total = 0
        for p in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += p.memory_full_info().pss
        return total

    before = peak = size()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            peak = max(peak, size())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = function()
    finally:
        stop.set()
        watcher.join()
    return result, max(peak, size()) - before


_made: Callable[[], Any] | None = None  # in a process of `side_by_side`


def _make(make: Callable[[], Callable[[], Any]]) -> None:
    global _made
    _made = make()


def _call() -> Any:
    assert _made
    return _made()


def side_by_side(makers: Sequence[Callable[[], Callable[[], Any]]]) -> Callable[[], list[Any]]:
    """Set functions up in processes of their own, one core each as memlib's; calls all of them at once.

    A single one stays in this process, on one core too.
    """
    if len(makers) == 1:
        function = makers[0]()

        def alone() -> list[Any]:
            with one_thread():
                return [function()]

        return alone
    pools = [_open.enter_context(processes(1)) for _ in makers]
    for ready in [pool.submit(_make, make) for pool, make in zip(pools, makers, strict=True)]:
        ready.result()
    return lambda: [call.result() for call in [pool.submit(_call) for pool in pools]]


@dataclass(frozen=True)
class Method:
    """One way to do the work.

    Attributes:
        name: as shown.
        precision: of products and convolutions.
        threads: cores it uses; 1 on a GPU.
        make: sets it up and returns the function to be timed.
        units: what one call does, in the unit of the table.
        flop: per unit, of dense products.
        bytes: per unit, of the optimizer's memory traffic.
    """

    name: str
    precision: str
    threads: int
    make: Callable[[], Callable[[], Any]]
    units: int
    flop: float
    bytes: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A method's rounds, the limits of the machine within the same rounds, and its peak memory in bytes."""

    method: Method
    calls: list[Timed]
    limits: list[Limits]
    memory: int

    @property
    def rates(self) -> list[float]:
        """Units per second by round."""
        return [self.method.units / call.seconds for call in self.calls]

    @property
    def rounds(self) -> Iterator[tuple[float, Limits]]:
        """Rate and limits by round."""
        return zip(self.rates, self.limits, strict=True)


def measure(methods: Sequence[Method], rounds: int, device: torch.device) -> list[Measured]:
    """Warm every method up, set it up anew under watch of its memory, then time them round by round."""

    def first_call(method: Method) -> Callable[[], Any]:
        function = method.make()
        function()
        return function

    for method in methods:
        first_call(method)
    ready = [peak_memory(functools.partial(first_call, method), device) for method in methods]
    kinds = {(method.precision, method.threads) for method in methods}
    functions: dict[Any, Callable[[], Any]] = {i: function for i, (function, _) in enumerate(ready)}
    functions |= {kind: functools.partial(machine_limits, str(device), *kind) for kind in kinds}
    calls = interleaved(functions, rounds)
    limits = {kind: [call.result for call in calls[kind]] for kind in kinds}
    return [
        Measured(method, calls[i], limits[method.precision, method.threads], ready[i][1])
        for i, method in enumerate(methods)
    ]


def report(measured: Sequence[Measured], unit: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of methods; the first is the reference."""
    head = ["method", "precision", "cores", f"{unit}/s", "x reference", "of matrix-product limit"]
    moves_memory = any(m.method.bytes for m in measured)
    head += ["of bandwidth (Adam)"] * moves_memory + ["peak memory"]
    rows = []
    for m in measured:
        shares = [
            f"{statistics.median(r * m.method.flop / limit.flops for r, limit in m.rounds):.0%}",
            f"{statistics.median(r * m.method.bytes / limit.bandwidth for r, limit in m.rounds):.0%}",
        ]
        ratio = spread(a / b for a, b in zip(m.rates, measured[0].rates, strict=True))
        rows.append(
            [
                *(m.method.name, m.method.precision, str(m.method.threads)),
                f"{statistics.median(m.rates):,.0f}",
                "1" if m is measured[0] else str(ratio),
                *shares[: 1 + moves_memory],
                f"{m.memory / 2**20:,.0f} MiB",
            ]
        )
    return head, rows


def save(path: Path | None, **content: Any) -> None:
    """Write what was printed as JSON, with the day, where a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"date": datetime.date.today().isoformat(), **content}, indent=1) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def machine(device: torch.device, precisions: Sequence[str]) -> str:
    """The machine and the precisions in one line."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    threads = torch.get_num_threads()
    cores = f"{os.cpu_count()} cores, {threads} PyTorch thread{'s' * (threads > 1)}"
    return f"{gpu}{processor()}, {cores}, torch {torch.__version__}, {', '.join(precisions)}"


def limits_line(measured: Sequence[Measured]) -> str:
    """The machine's limits, medians over the rounds."""
    kinds = {(m.method.precision, m.method.threads): m.limits for m in measured}
    parts = [
        f"{precision}{f' on {threads} cores' * (threads > 1)} "
        f"{statistics.median(limit.flops for limit in limits) / 1e9:,.0f} GFLOP/s and "
        f"{statistics.median(limit.bandwidth for limit in limits) / 1e9:,.0f} GB/s"
        for (precision, threads), limits in kinds.items()
    ]
    return "limits measured in the same rounds: " + "; ".join(parts)


def notes(device: torch.device) -> list[str]:
    """What the columns of `report` show."""
    return [
        "ratios: median over rounds of the two rates within a round, and their range",
        f"peak memory: what setting up and one untimed call add, {WATCHED[device.type]}",
    ]


def options(images: int) -> Callable[[Any], Any]:
    """The command-line options of every benchmark."""
    declared = [
        click.option(
            "--device", type=click.Choice(["cpu", "cuda"]), help="by default a GPU where there is one"
        ),
        click.option(
            "--precision",
            "precisions",
            multiple=True,
            default=["float32"],
            show_default=True,
            help="float32, tf32 or bfloat16; may be repeated",
        ),
        click.option(
            "--rounds",
            default=3,
            show_default=True,
            type=click.IntRange(1),
            help="timed calls of each method",
        ),
        click.option("--images", "count", default=images, show_default=True, type=click.IntRange(FEWEST)),
        click.option("--json", "path", type=click.Path(path_type=Path), help="also write the table there"),
    ]

    def add(command: Any) -> Any:
        for option in reversed(declared):
            command = option(command)
        return command

    return add


def where(device: str | None, precisions: Sequence[str]) -> torch.device:
    """The device asked for, when it has the precisions."""
    try:
        chosen = choose_device(device)
        for precision in precisions:
            check_precision(precision, chosen)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return chosen
