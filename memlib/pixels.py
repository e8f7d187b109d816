"""Files of images to pixels."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps


def read_images(
    paths: Sequence[str],
    shape: tuple[int, int, int],
    fit: Callable[[Image.Image], Image.Image],
    open_file: Callable[[str], str | BinaryIO] = str,
) -> np.ndarray:
    """Images uint8 (n, *shape), shape (C, H, W); ValueError that names the files which cannot be read.

    `fit` gives each image its size W x H and its C channels. `open_file` finds the file of a path where that
    is not on disk, such as in an archive.
    """
    channels, height, width = shape
    images = np.empty((len(paths), *shape), np.uint8)

    def read(i: int) -> str | None:
        try:
            with Image.open(open_file(paths[i])) as image:
                pixels = np.asarray(fit(image))
        except Exception as error:  # decoders raise anything on damaged files; all are reported below
            return f"\n  {paths[i]}: {error}"
        images[i] = pixels.reshape(height, width, channels).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
        return None

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        failures = [failure for failure in pool.map(read, range(len(paths))) if failure]
    if failures:
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        raise ValueError(f"{len(failures)} of {len(paths)} images unreadable:{''.join(failures[:10])}{more}")
    return images


def fit_square(image: Image.Image, mode: str, size: int) -> Image.Image:
    """Upright, in Pillow's mode "L" or "RGB", shorter side to `size` (bilinear, antialias), center crop."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white level; save with 8 or 16 bits")
    if image.mode.startswith("I"):  # where Pillow's own conversion clips at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"expected gray levels in 0..65535, got {levels.min()}..{levels.max()}")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    width, height = (size * side // min(image.size) for side in image.size)
    image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def has_color(path: str) -> bool:
    """Whether a file holds a color image; False where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.mode not in ("1", "L", "LA", "La", "F") and not image.mode.startswith("I")
    except (OSError, ValueError, Image.DecompressionBombError):  # named when its split is read
        return False
