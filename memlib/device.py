"""Where and how PyTorch computes: on which device, on how many cores, at which precision.

What holds for all of PyTorch is changed within a `with` block, and is as before after it.
"""

import contextlib
import functools
import logging
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch

from memlib.checks import check_one_of
from memlib.experiment import Precision

LOG = logging.getLogger("memlib")
UNKNOWN = "unknown"


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


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name where the system tells it, else "unknown" with the architecture.

    Args:
        cpuinfo: the file in which Linux tells it.
    """
    architecture = platform.machine()
    text = cpuinfo.read_text("utf-8", "replace") if cpuinfo.exists() else ""
    told = [*re.findall(r"^model name\s*: *(.*\S)", text, re.MULTILINE), platform.processor()]
    none = ("", UNKNOWN, architecture, "arm", "i386")  # macOS gives a family for a name
    names = [name for name in told if name not in none]
    return names[0] if names else f"{UNKNOWN} ({architecture})" if architecture else UNKNOWN


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """PyTorch as memlib needs it: float32 and the CPU by default, gradients where asked for, no autocast.

    What callers have set for themselves changes no number, breaks nothing, and is as before afterwards.
    Serves as a decorator, too, but of no generator.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":  # costs time in every call of PyTorch
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on one core within this block, and takes numbers below 1e-38, slow ones, for 0.

    Afterwards the number of threads is as before, and small numbers count, as is PyTorch's default.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def check_precision(precision: str, device: torch.device, name: str = "precision") -> None:
    """ValueError for a precision, of this `name`, that does not exist, or not on the device."""
    check_one_of(get_args(Precision), **{name: precision})
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"{name} is 'tf32', which only GPUs have; allowed on {device}: float32, bfloat16")


@contextlib.contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute products and convolutions, those of the backward pass included, at a precision.

    float32 means float32: without this block PyTorch lets convolutions on a GPU use TF32.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        # the cache would keep casts of parameters that a step has changed since
        with torch.autocast(
            device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        ):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


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


@contextlib.contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Modules are in evaluation mode within this block, and then each part of them in its own again."""
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes.items():  # one by one: some are frozen within others
            part.training = training
