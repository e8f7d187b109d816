"""Files of the data sets that are not bundled: where they lie, their checksums, and their download."""

import hashlib
import os
from pathlib import Path

TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "celeba": "CelebA"}
# Files under the data folder, published md5. CelebA goes without: a user's own copy may hold a part only.
FILES: dict[str, dict[str, str | None]] = {
    "mnist": {
        "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "cifar10": {
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    "cifar10-jpeg": {
        "cifar10-jpeg-train.zip": "33d900e2281e2ff0b779aa3df0b6dd17",
        "cifar10-jpeg-test.zip": "0834798aa4a339511d5a221a82260d8d",
    },
    "celeba": {"celeba/list_eval_partition.txt": None, "celeba/img_align_celeba": None},
}


def ensure_files(name: str, root: Path) -> None:
    """Download what is missing; FileNotFoundError where that fails, ValueError for damaged files."""
    check_folder(root)
    files = {root / file: md5 for file, md5 in FILES[name].items()}
    missing = [str(path) for path in files if not path.exists()]
    if missing and name not in TORCHVISION:
        raise FileNotFoundError(
            f"{name!r} has no public source and is missing: {', '.join(missing)}; "
            "set MEMLIB_DATA, or the argument root, to the folder that has its files"
        )
    if missing:
        from torchvision import datasets

        source = TORCHVISION[name]
        try:
            getattr(datasets, source)(root, download=True)
        except Exception as error:  # network, disk, archive and gdown errors share no other base class
            listing = "\n".join(f"  {path} ({'found' if path.exists() else 'missing'})" for path in files)
            raise FileNotFoundError(
                f"{name!r} is incomplete in {root}; download failed with {type(error).__name__}: {error}\n"
                f"Expected:\n{listing}\n"
                "Set MEMLIB_DATA, or the argument root, to the folder that has them, or download them where "
                "there is a network, to a folder DATA that can be written:\n"
                f"  python -c \"from torchvision.datasets import {source}; {source}('DATA', download=True)\""
            ) from error
    damaged = [
        str(path) for path, md5 in files.items() if md5 and path.exists() and fingerprint(path, "md5") != md5
    ]
    if damaged:
        raise ValueError(f"{name!r} is damaged: delete these files and load it again: {', '.join(damaged)}")


def fingerprint(path: Path, algorithm: str) -> str:
    """Hexadecimal digits of a file's hash: "md5" or "sha256"."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of downloaded data sets: the argument, else $MEMLIB_DATA, else in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "memlib" / "data"
    chosen = root if root is not None else os.environ.get("MEMLIB_DATA") or cache
    return Path(chosen).expanduser().absolute()


def check_folder(root: Path) -> None:
    if root.is_file():
        raise ValueError(
            f"the data folder is {str(root)!r}, which is a file; allowed: a folder, or a new name"
        )
