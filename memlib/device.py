"""Where PyTorch computes."""

import os
import re

import torch


def check_device(name: str) -> None:
    """ValueError for what names no device anywhere; whether a GPU is there depends on the machine."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device is {name!r}; allowed: cpu, cuda, cuda:N with N = 0, 1, ...")


def choose_device(device: str | None = None) -> torch.device:
    """The device asked for, by argument or $MEMLIB_DEVICE; otherwise a GPU where there is one, else the CPU.

    Raises:
        ValueError: an unknown device, or a GPU asked for that is not there.
    """
    name = device or os.environ.get("MEMLIB_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    kind, _, index = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but PyTorch sees no GPU; allowed here: cpu")
    if index and int(index) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device is {name!r}; allowed here: cpu, cuda:0 to cuda:{count - 1}")
    return torch.device(name)
