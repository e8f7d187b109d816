"""Measuring methods side by side in one run: interleaved rounds, peak memory, machine limits, tables."""

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import pandas as pd
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
        total = 0
        for p in {process, *process.children(recursive=True)} - others:
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
    """One way to do the work."""

    name: str  # as shown
    precision: str  # of products and convolutions
    threads: int  # cores it uses; 1 on a GPU
    make: Callable[[], Callable[[], Any]]  # sets it up and returns the function to be timed
    units: int  # what one call does, in the unit of the table
    flop: float  # per unit, of dense products
    bytes: float = 0.0  # per unit, of the optimizer's memory traffic


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


def measure(methods: Sequence[Method], rounds: int, device: torch.device) -> list[Measured]:
    """Warm every method up, set it up anew under watch of its memory, then time them round by round."""

    def first_call(method: Method) -> Callable[[], Any]:
        function = method.make()
        function()
        return function

    def limits(precision: str, threads: int) -> Limits:
        with one_thread() if threads == 1 else contextlib.nullcontext():
            return machine_limits(str(device), precision)

    for method in methods:
        first_call(method)
    ready = [peak_memory(functools.partial(first_call, method), device) for method in methods]
    kinds = [(method.precision, method.threads) for method in methods]
    functions: dict[Any, Callable[[], Any]] = {i: function for i, (function, _) in enumerate(ready)}
    functions |= {kind: functools.partial(limits, *kind) for kind in kinds}
    calls = interleaved(functions, rounds)
    return [
        Measured(method, calls[i], [call.result for call in calls[kinds[i]]], ready[i][1])
        for i, method in enumerate(methods)
    ]


def report(measured: Sequence[Measured], unit: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of methods; the first is the reference."""
    head = ["method", "precision", "cores", f"{unit}/s", "x reference", "of matrix-product limit"]
    moves_memory = any(m.method.bytes for m in measured)
    head += ["of bandwidth (Adam)"] * moves_memory + ["peak memory"]
    rows = []
    for m in measured:
        rounds = list(zip(m.rates, m.limits, strict=True))
        shares = [
            f"{statistics.median(rate * m.method.flop / limit.flops for rate, limit in rounds):.0%}",
            f"{statistics.median(rate * m.method.bytes / limit.bandwidth for rate, limit in rounds):.0%}",
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
    frame = pd.DataFrame(rows, columns=head).set_index(head[0])
    return frame.rename_axis(index=None, columns=head[0]).to_string()


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


@dataclass(frozen=True)
class Asked:
    """What the command line asks for: `count` images, and the file for the tables, if any."""

    device: torch.device
    precisions: Sequence[str]
    rounds: int
    count: int
    path: Path | None


def benchmark(images: int) -> Callable[[Callable[[Asked], None]], click.Command]:
    """A command with the options of every benchmark, which prints first on what machine it runs.

    Args:
        images: as many as are taken by default.
    """

    def command(function: Callable[[Asked], None]) -> click.Command:
        def start(device: str | None, precisions: Sequence[str], **others: Any) -> None:
            try:
                chosen = choose_device(device)
                for precision in precisions:
                    check_precision(precision, chosen)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            print(machine(chosen, precisions))
            function(Asked(chosen, precisions, **others))

        names = "float32, tf32 or bfloat16; may be repeated"
        options = [
            click.Option(
                ["--device"], type=click.Choice(["cpu", "cuda"]), help="by default a GPU if there is one"
            ),
            click.Option(["--precision", "precisions"], multiple=True, default=["float32"], help=names),
            click.Option(["--rounds"], default=3, type=click.IntRange(1), help="timed calls of each method"),
            click.Option(["--images", "count"], default=images, type=click.IntRange(FEWEST)),
            click.Option(
                ["--json", "path"], type=click.Path(path_type=Path), help="also write the table there"
            ),
        ]
        return click.Command(None, {"show_default": True}, start, options, help=function.__doc__)

    return command


def compare(
    asked: Asked,
    title: str,
    methods: Sequence[Method],
    unit: str,
    explain: Callable[[Sequence[Measured]], list[str]],
) -> None:
    """Measure methods, print their table with what explains it, and save both.

    Args:
        methods: the first is the reference.
        unit: of what they do.
        explain: more about what was measured, in lines.
    """
    print(title)
    measured = measure(methods, asked.rounds, asked.device)
    print(limits := limits_line(measured))
    head, rows = report(measured, unit)
    print(f"\n{table(head, rows)}\n")
    notes = [
        *explain(measured),
        "ratios: median over rounds of the two rates within a round, and their range",
        f"peak memory: what setting up and one untimed call add, {WATCHED[asked.device.type]}",
    ]
    print(*notes, sep="\n")
    content = {"limits": limits, "head": head, "rows": rows, "notes": notes}
    save(asked.path, title=title, machine=machine(asked.device, asked.precisions), **content)
