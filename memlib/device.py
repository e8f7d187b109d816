"""Where PyTorch computes."""

import functools
import logging
import os
import re

import torch

LOG = logging.getLogger("memlib")


def check_device(name: str) -> None:
    """ValueError for what names no device anywhere; whether a GPU is there depends on the machine."""
    if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device is {name!r}; allowed: cpu, cuda, cuda:N with N = 0, 1, ...")


def choose_device(device: str | None = None) -> torch.device:
    """The device asked for, by argument or $MEMLIB_DEVICE; otherwise a GPU where there is one, else the CPU.

    Raises:
        ValueError: an unknown device, or a GPU asked for that is not there.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    name = os.environ.get("MEMLIB_DEVICE") or default if device is None else device
    check_device(name)
    kind, _, index = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but PyTorch sees no GPU; allowed here: cpu")
    if index and int(index) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device is {name!r}; allowed here: cpu, cuda:0 to cuda:{count - 1}")
    return torch.device(name)


@functools.cache
def compiler_works(device: torch.device) -> bool:
    """Whether `torch.compile` works here, which takes a C++ compiler for a CPU and Triton for a GPU.

    Where it does not, says so once; what would have been compiled then runs as it is.
    """
    try:
        torch.compile(lambda x: x.exp().sum(-1))(torch.ones(8, 16, device=device))
    except Exception as error:  # whatever the compiler's tool chain raises
        reason = str(error).strip().splitlines()[0][:200]
        LOG.warning("torch.compile does not work here (%s); scoring takes somewhat longer", reason)
        return False
    return True
