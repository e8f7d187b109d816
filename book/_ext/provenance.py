"""Where and with what something is computed: machine, versions, commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from memlib.device import UNKNOWN, choose_device, processor

NO_CHECKOUT = "not a git checkout"


def provenance(root: str | Path) -> dict[str, Any]:
    """What a page or a build records of where it was made.

    Args:
        root: the repository.

    Returns:
        `processor` and `gpu` (the names; `gpu` is empty where memlib computes on the CPU), `python`, `torch`,
        `memlib` (the versions) and `commit`, as `commit` gives it.

    Raises:
        ValueError: $MEMLIB_DEVICE names no device of this machine.
    """
    device = choose_device()
    return {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "memlib": importlib.metadata.version("memlib"),
        "commit": commit(root),
    }


def commit(root: str | Path) -> str:
    """The commit of a repository as `git describe` names it, `-dirty` where tracked files differ from it.

    Returns:
        "not a git checkout" where `root` is none, as an unpacked archive, also inside another one; "unknown"
        where git is not there, refuses to look, or has no commit yet.
    """
    if not (Path(root) / ".git").exists():
        return NO_CHECKOUT
    # Without the locks that a refreshed index would take: others may work in the same tree.
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        done = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return UNKNOWN
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else UNKNOWN
