"""The data sets of the book, where their files lie, and `load_images`, which reads them and folders."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import memlib.cifar10 as cifar10
from memlib.checks import check_known, check_whole
from memlib.data import SIZE, ImageSet, draw_split
from memlib.folders import load_folder
from memlib.pixels import read_images

TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "celeba": "CelebA"}
# Files under the data folder, published md5; of MNIST torchvision has those of the archives alone. CelebA
# goes without: a user's own copy may hold a part only.
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
    "cifar10-partial": {f"{cifar10.FOLDER}/index.npz": None},  # or those of cifar10
    "celeba": {"celeba/list_eval_partition.txt": None, "celeba/img_align_celeba": None},
}
DATASETS = ("digits", "patches", *FILES)
SPLITS = dict.fromkeys(DATASETS, ("train", "test")) | {"celeba": ("train", "valid", "test")}


def load_images(
    name: str, split: str = "train", root: str | os.PathLike[str] | None = None, size: int = SIZE
) -> ImageSet:
    """Load one split of a data set as square images, of 32 x 32 pixels but for folders of your own.

    - `digits`: scikit-learn's 1797 digits, levels 0..16 to 0..255, 8x8 to 24x24 (bilinear), padded by 4.
      1500 train, 297 test.
    - `patches`: crops on the 32-pixel grid of scikit-learn's two photographs; the label says which one.
      390 train from columns 0..479, 130 test from columns 480..639.
    - `mnist`: 28x28 padded by 2. 60000 train, 10000 test.
    - `cifar10`: as it is. 50000 train, 10000 test.
    - `cifar10-partial`: the same but for 97 images, 92 of them ships, that sheets of lossless copies lack;
      from them (`memlib.cifar10`), or from the files of `cifar10` with the same arrays. 49923 train, 9980
      test, `index` in the order of `cifar10`.
    - `celeba`: box (left 15, upper 40, right 163, lower 188) of the aligned 178x218 faces, to 32x32
      (bilinear, antialias); one class. 162770 train, 19867 valid, 19962 test. Copies on disk go unchecked.
    - `folder:PATH`: your images, shorter side to `size` (bilinear, antialias), then center crop, so that the
      aspect ratio is kept. Subfolders `train` or `training` with `test`, `testing`, `val`, `valid` or
      `validation`, in any case, are the splits (valid is test where there is none), otherwise 80 % train,
      20 % test; what looks like splits but is not taken as such is refused. Inside, each subfolder is a
      class, as in torchvision's `ImageFolder`. Images without any class folder are one class named after
      PATH. Every real folder and file counts once: links are followed, those of test images first, but not
      to what is there already. Left out are loose files beside class folders, names that are hidden or that
      only machines write, and files of other types; one line of the log says how many. `paths` are the
      files. C = 1 if no image of any split has color, that is pixels whose channels differ, else 3; the log
      says through which file a set with gray images gets three. EXIF orientation is applied, and what is
      transparent lies on white. Gray of up to 16 bits is scaled to 0..255 by the white level of its file, in
      TIFF as its tags say; of color of 16 bits the upper eight count. Signed and floating-point pixels, and
      integers of 32 bits, are refused. Of several frames the first counts.

    Splits made here put the first 297 (digits) or the first fifth, rounded (folder), of
    `numpy.random.default_rng(SPLIT_SEED).permutation(n)` in test, the others in train, in ascending order.
    For these sets and for `patches` (260 photograph + 20 row + column) `index` counts over the whole set, for
    the others within the split. Of a folder, `index` counts the files that are not left out, in
    `ImageFolder`'s order, which counts hidden ones, too; `paths` tell which they are.

    Args:
        name: one of `DATASETS`, or `folder:PATH` (`~` is expanded).
        split: one of `SPLITS[name]`; for a folder `train` or `test`, or `valid` if it has one.
        root: folder of `mnist`, `cifar10` and `celeba` in torchvision's layout. Default: the environment
            variable MEMLIB_DATA, else `memlib/data` in the user's cache folder. torchvision downloads to it
            what is missing (`celeba` needs the package gdown).
        size: height and width in pixels, for a folder 1 or more, for the others 32. Experiments use 32.

    Raises:
        ValueError: Unknown name or split; a size that is not allowed; a data folder that is a file; damaged
            files; files that cannot be read as images, by name.
        FileNotFoundError: Files missing that cannot be downloaded; a folder missing or without images.

    Source: van den Burg & Williams (2021), supplement B (mnist, cifar10, celeba).
    """
    check_whole(1, size=size)
    if isinstance(name, str) and name.startswith("folder:") and name != "folder:":
        return load_folder(Path(name.removeprefix("folder:")).expanduser().resolve(), split, size)
    check_known("data set", name, (*DATASETS, "folder:PATH"))
    check_known(f"split of {name}", split, SPLITS[name])
    if size != SIZE:
        raise ValueError(f"size is {size}; allowed: {SIZE} for {name}, others for folder:PATH alone")
    folder = data_root(root)
    if name in FILES:
        ensure_files(_source(name, folder), folder)
    match name:
        case "digits":
            return _load_digits(split)
        case "patches":
            return _load_patches(split)
        case "celeba":
            return _load_celeba(split, folder)
        case "cifar10-partial":
            return cifar10.load_partial(folder, split, lambda: _load_torchvision("cifar10", split, folder))
    return _load_torchvision(name, split, folder)


def availability(root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Where each of `DATASETS` is, one line of text per name; reads no image and uses no network.

    Args:
        root: data folder, as in `load_images`; ValueError where it is a file.

    >>> availability()["digits"]
    'bundled with scikit-learn'
    """
    lines, folder = dict.fromkeys(DATASETS, "bundled with scikit-learn"), data_root(root)
    for name in FILES:
        source = _source(name, folder)
        paths = [folder / file for file in FILES[source]]
        place = f"found in {paths[0].parent}"
        way = "memlib downloads it on first use" if source in TORCHVISION else "memlib cannot download it"
        lines[name] = place if all(path.exists() for path in paths) else f"not {place}: {way}"
    return lines


def _source(name: str, root: Path) -> str:
    """The data set whose files are read: for the partial CIFAR-10 `cifar10`, where no sheets are."""
    return "cifar10" if name == "cifar10-partial" and not cifar10.has_sheets(root) else name


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of downloaded data sets: the argument, else $MEMLIB_DATA, else in the user's cache.

    Raises:
        ValueError: it is a file.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "memlib" / "data"
    chosen = root if root is not None else os.environ.get("MEMLIB_DATA") or cache
    folder = Path(chosen).expanduser().absolute()
    if folder.is_file():
        raise ValueError(f"the data folder is '{folder}', which is a file; allowed: a folder, or a new name")
    return folder


def ensure_files(name: str, root: Path) -> None:
    """Download what is missing; FileNotFoundError where that fails, ValueError for damaged files."""
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
            raise FileNotFoundError(
                f"{name!r} is incomplete in {root}; download failed with {type(error).__name__}: {error}\n"
                f"Missing: {', '.join(str(path) for path in files if not path.exists())}\n"
                "Set MEMLIB_DATA, or the argument root, to the folder that has them, or download them where "
                "there is a network, to a folder DATA that can be written:\n"
                f"  python -c \"from torchvision.datasets import {source}; {source}('DATA', download=True)\""
            ) from error
    damaged = [str(path) for path, md5 in files.items() if md5 and fingerprint(path, "md5") != md5]
    if damaged:
        raise ValueError(f"{name!r} is damaged: delete these files and load it again: {', '.join(damaged)}")


def fingerprint(path: Path, algorithm: str) -> str:
    """Hexadecimal digits of a file's hash: "md5" or "sha256"."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _load_digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits

    source = load_digits()
    digits = source.images.astype(np.int64)  # (1797, 8, 8), levels 0..16
    # Enlarged three times, every pixel lies at a whole number of thirds of a source pixel: bilinear
    # interpolation is exact in integers, and the fingerprint the same on every machine.
    thirds = np.clip(np.arange(24) - 1, 0, 21)
    left, part = thirds // 3, thirds % 3
    right = np.minimum(left + 1, 7)
    rows = (3 - part)[:, None] * digits[:, left] + part[:, None] * digits[:, right]  # (n, 8, 8) -> (n, 24, 8)
    levels = (3 - part) * rows[:, :, left] + part * rows[:, :, right]  # (n, 24, 8) -> (n, 24, 24), 0..144
    images = np.zeros((len(digits), 1, SIZE, SIZE), np.uint8)
    images[:, 0, 4:28, 4:28] = (255 * levels + 72) // 144
    index = draw_split(len(digits), 297, split)
    labels = source.target.astype(np.int64)
    return ImageSet(images[index], labels[index], tuple("0123456789"), "digits", split, index)


def _load_patches(split: str) -> ImageSet:
    from sklearn.datasets import load_sample_image

    photos = np.stack([load_sample_image("china.jpg"), load_sample_image("flower.jpg")])  # (2, 427, 640, 3)
    grid = photos[:, : 13 * SIZE].reshape(2, 13, SIZE, 20, SIZE, 3)
    grid = grid.transpose(0, 1, 3, 5, 2, 4)  # (2, 13, 32, 20, 32, 3) -> (2, 13, 20, 3, 32, 32)
    columns = slice(0, 15) if split == "train" else slice(15, 20)
    images = grid[:, :, columns].reshape(-1, 3, SIZE, SIZE)  # (2, 13, 15 or 5, 3, 32, 32) -> (n, 3, 32, 32)
    index = np.arange(520).reshape(2, 13, 20)[:, :, columns].ravel()
    return ImageSet(images, index // 260, ("china", "flower"), "patches", split, index)


def _load_torchvision(name: str, split: str, root: Path) -> ImageSet:
    from torchvision import datasets

    source = getattr(datasets, TORCHVISION[name])(root, train=split == "train")
    if name == "mnist":
        images = np.pad(source.data.numpy()[:, None], ((0, 0), (0, 0), (2, 2), (2, 2)))  # -> (n, 1, 32, 32)
        classes = tuple("0123456789")
    else:
        images = source.data.transpose(0, 3, 1, 2)  # (n, 32, 32, 3) -> (n, 3, 32, 32)
        classes = tuple(source.classes)
    labels = np.asarray(source.targets, np.int64)
    return ImageSet(images, labels, classes, name, split, np.arange(len(labels)))


def _load_celeba(split: str, root: Path) -> ImageSet:
    # torchvision accepts an extracted copy only together with five annotation files that are not needed here.
    partition, folder = (root / file for file in FILES["celeba"])
    wanted = str(SPLITS["celeba"].index(split))
    paths = []
    for number, line in enumerate(partition.read_text(errors="replace").splitlines(), start=1):
        match line.split():
            case [file, ("0" | "1" | "2") as part]:
                paths += [str(folder / file)] if part == wanted else []
            case _:
                raise ValueError(f"{partition}, line {number}: expected FILE and 0, 1 or 2, got {line!r:.80}")
    if not paths:
        raise ValueError(f"{partition} lists no image of split {split!r} (number {wanted})")
    images = read_images(paths, (3, SIZE, SIZE), _crop_face)
    return replace(ImageSet.of(images, ["face"] * len(paths), "celeba"), split=split)


def _crop_face(image: Image.Image) -> Image.Image:
    if image.size != (178, 218):
        raise ValueError(f"expected the aligned 178x218 image, got {image.width}x{image.height}")
    return image.convert("RGB").crop((15, 40, 163, 188)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
