"""Files of images to pixels: gray levels, transparency, color."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps

T = TypeVar("T")
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
GRAY = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16B")  # modes of Pillow
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
ADVICE = "save it as unsigned integers of 8 or 16 bits"


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

    def read(i: int) -> None:
        with Image.open(open_file(paths[i])) as image:
            pixels = np.asarray(fit(image))
        images[i] = pixels.reshape(height, width, channels).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)

    _read_each(paths, read)
    return images


def read_squares(paths: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, C, size, size) as `to_square` makes them, and bool (n,), which of them have color.

    C is 3 if any has, else 1. ValueError that names the files which cannot be read.
    """
    gray = np.empty((len(paths), 1, size, size), np.uint8)
    color = np.empty((len(paths), 3, size, size), np.uint8)  # takes no memory where nothing is written
    colored = np.zeros(len(paths), bool)

    def read(i: int) -> None:
        pixels = to_square(paths[i], size)
        colored[i] = len(pixels) == 3
        (color if colored[i] else gray)[i] = pixels

    _read_each(paths, read)
    if not colored.any():
        return gray, colored
    color[~colored] = gray[~colored]
    return color, colored


def first_color(paths: Sequence[str], size: int) -> str | None:
    """The first of the files that `to_square` gives color; those that cannot be read have none."""

    def has_color(path: str) -> bool:
        try:
            with Image.open(path) as source:
                if source.mode in GRAY:  # as its type says, without decoding it
                    return False
            return len(to_square(path, size)) == 3
        except Exception:  # told by the split that the file is of
            return False

    def first(part: Sequence[str]) -> str | None:
        return next(filter(has_color, part), None)

    with ThreadPoolExecutor() as pool:
        found = next(filter(None, pool.map(first, _parts(paths))), None)
        pool.shutdown(cancel_futures=True)
    return found


def _parts(items: Sequence[T]) -> list[Sequence[T]]:
    """What a thread takes at once, in order: handing out small files one by one takes longer than reading."""
    step = min(64, 1 + len(items) // 200)
    return [items[i : i + step] for i in range(0, len(items), step)]


def _read_each(paths: Sequence[str], read: Callable[[int], None]) -> None:
    def failure(i: int) -> str | None:
        try:
            return read(i)
        except Exception as error:  # decoders raise anything on damaged files; all are reported below
            return f"\n  {paths[i]}: {error}"

    def failures_of(part: Sequence[int]) -> list[str]:
        return [told for i in part if (told := failure(i))]

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        failures = [told for some in pool.map(failures_of, _parts(range(len(paths)))) for told in some]
    if failures:
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        raise ValueError(f"{len(failures)} of {len(paths)} images unreadable:{''.join(failures[:10])}{more}")


def to_square(path: str, size: int) -> np.ndarray:
    """Pixels uint8 (C, size, size), C = 1 where the channels of every pixel are equal, else 3.

    Upright, on white, shorter side to `size` (bilinear, antialias), center crop.

    Raises:
        ValueError: gray levels without an agreed white level. Pillow's other errors are raised as they are.
    """
    with Image.open(path) as source:
        image = _on_white(source)
    width, height = (size * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    if pixels.ndim == 2:
        return pixels[None]
    red, green, blue = pixels = pixels.transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
    return pixels if (red != green).any() or (red != blue).any() else pixels[:1]


def _on_white(source: Image.Image) -> Image.Image:
    """Upright and opaque, in Pillow's mode "L" or "RGB"."""
    white, inverted = _gray_scale(source)
    packing = str(source.tile[0][3]) if source.tile else ""  # of samples in the file, such as "L;2"
    image = ImageOps.exif_transpose(source)
    if white:  # where Pillow's own conversion clips at 255
        levels = np.asarray(image).astype(np.int64)
        upright = white - levels if inverted else levels
        gray = Image.fromarray(((2 * 255 * upright + white) // (2 * white)).astype(np.uint8))
        clear = image.info.get("transparency")
        return gray if clear is None else _blended(gray, Image.fromarray(np.uint8(255) * (levels != clear)))
    if image.mode not in ALPHA and "transparency" not in image.info:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    if image.mode == "L":  # Pillow scales the pixels to 255, but not the one level that is transparent
        top = 3 if packing == "L;2" else 15 if packing == "L;4" else 255
        if image.info["transparency"] <= top:
            image.info["transparency"] *= 255 // top
    if image.mode == "RGB" and "16" in packing:
        raise ValueError(
            "a transparent color of 16 bits cannot be told from its neighbors; use an alpha channel"
        )
    image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    return _blended(image.convert(image.mode[:-1]), image.getchannel("A"))


def _blended(image: Image.Image, alpha: Image.Image) -> Image.Image:
    flat = Image.new(image.mode, image.size, "white")
    flat.paste(image, mask=alpha)
    return flat


def _gray_scale(image: Image.Image) -> tuple[int, bool]:
    """White level, and whether black has it, of what Pillow leaves in more than 8 bits; 0 for all else.

    Raises:
        ValueError: samples without an agreed white level.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    deep = image.mode[0] in "IF"
    bits, kinds = max(tags.get(BITS, (1,))), {*tags.get(SAMPLE_FORMAT, (1,))}
    if image.mode == "F" or 3 in kinds:
        raise ValueError(f"floating-point pixels have no agreed white level; {ADVICE}")
    if kinds != {1}:
        raise ValueError(f"signed pixels have no agreed white level; {ADVICE}")
    if bits > 16 or (deep and image.format not in ("PNG", "PPM", "TIFF")):
        raise ValueError(f"{image.format} of more than 16 bits has no agreed white level; {ADVICE}")
    if bits > 8 and tags.get(PLANAR) == 2:
        raise ValueError(
            f"channels of {bits} bits that are stored one after the other are not supported; {ADVICE}"
        )
    if not deep:
        return 0, False
    return (2**bits - 1, tags.get(PHOTOMETRIC, 0) == 0) if tags else (65535, False)
