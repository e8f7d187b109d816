"""The precision of matrix products and convolutions, a setting of every run.

Parameters, optimizer, losses, log-weights and sums are float32 whatever the setting.
"""

import contextlib
from collections.abc import Iterator
from typing import get_args

import torch

from memlib.experiment import Precision


def check_precision(precision: str, device: torch.device) -> None:
    """ValueError for a precision that does not exist, or not on the device."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(get_args(Precision))}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision is 'tf32', which only GPUs have; allowed on {device}: float32, bfloat16")


@contextlib.contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute products and convolutions, those of the backward pass included, at a precision.

    float32 means float32: without this block PyTorch lets convolutions on a GPU use TF32.
    """
    if device.type == "cuda":
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        # the cache would keep casts of parameters that a step has changed since
        with torch.autocast(
            device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        ):
            yield
    finally:
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
