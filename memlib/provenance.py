"""Where and with what something is computed: machine, versions, commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from memlib.device import choose_device

UNKNOWN = "unknown"
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


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name where the system tells it, else "unknown" with the architecture.

    Args:
        cpuinfo: the file in which Linux tells it.
    """
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    named = next((name for name in names if name and name != UNKNOWN), platform.processor())
    architecture = platform.machine()
    if named in ("", UNKNOWN, architecture, "arm", "i386"):  # macOS gives a family for a name
        return f"{UNKNOWN} ({architecture})" if architecture else UNKNOWN
    return named


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
