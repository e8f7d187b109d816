"""Gray levels, transparency and color of files, against values worked out from what the formats say."""

import io
import struct
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from memlib.datasets import load_images
from memlib.pixels import PLANAR, _gray_scale, to_square


def packed(rows, bits: int, order: str = "<") -> bytes:
    """Samples as TIFF and PNG store them: 16 bits in an order of bytes, others from the highest bit on."""
    if bits == 16:
        return np.asarray(rows, f"{order}u2").tobytes()
    return b"".join(
        np.packbits([v >> b & 1 for v in row for b in range(bits)[::-1]]).tobytes() for row in rows
    )


def tiff(
    rows, bits: int, photometric: int, order: str = "<", sample_format: int = 1, compression: int = 1
) -> bytes:
    """A gray TIFF file of one strip."""
    data = packed(rows, bits, order) if bits <= 16 else np.asarray(rows, f"{order}u4").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = {256: len(rows[0]), 257: len(rows), 258: bits, 259: compression, 262: photometric, 273: 8}
    tags |= {277: 1, 278: len(rows), 279: len(data), 339: sample_format}
    fields = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + fields + bytes(4)


def png(rows, bits: int, color: int, clear: bytes = b"", channels: int = 1) -> bytes:
    """A PNG file without filters; `clear` is its chunk tRNS."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), bits, color, 0, 0, 0)
    lines = b"".join(b"\0" + packed([row], bits, ">") for row in rows)
    middle = chunk(b"tRNS", clear) if clear else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def read(content: bytes | Image.Image, size: int = 4, form: str = "png") -> np.ndarray:
    with TemporaryDirectory() as name:
        path = Path(name) / f"0.{form}"
        path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
        return to_square(str(path), size)


@st.composite
def grays(draw):
    bits = draw(st.sampled_from([1, 2, 4, 8, 12, 16]))
    side = draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 2**bits - 1), min_size=side, max_size=side)
    return bits, draw(st.lists(row, min_size=side, max_size=side))


@given(grays(), st.sampled_from([0, 1]), st.sampled_from("<>"), st.sampled_from([1, 8]))
@settings(max_examples=150, deadline=None)
def test_gray_levels_are_what_the_tags_of_a_tiff_say(image, photometric, order, compression):
    bits, rows = image
    white = 2**bits - 1
    shares = np.array(rows) / white if photometric else 1 - np.array(rows) / white
    try:
        pixels = read(tiff(rows, bits, photometric, order, compression=compression), len(rows), "tif")
    except Image.UnidentifiedImageError:  # refused
        assert (bits, photometric, order) in [(12, 0, "<"), (12, 0, ">"), (12, 1, ">"), (16, 0, ">")]
    else:
        np.testing.assert_array_equal(pixels[0], np.floor(255 * shares + 0.5 + 1e-9))


@pytest.mark.parametrize(
    ("bits", "sample_format", "told"),
    [
        (8, 2, "signed"),
        (16, 2, "signed"),
        (32, 2, "signed"),
        (32, 1, "TIFF of more than 16 bits"),
        (32, 3, "float"),
    ],
)
def test_samples_without_a_white_level_are_refused(bits, sample_format, told):
    with pytest.raises(ValueError, match=f"{told}.* no agreed white level; save it as unsigned"):
        read(tiff([[0, 100], [7, 1]], bits, 1, sample_format=sample_format), 2, "tif")


def test_channels_of_sixteen_bits_one_after_the_other_are_refused():
    with Image.open(io.BytesIO(tiff([[0, 100], [7, 1]], 16, 1))) as image:  # as Pillow would misread them
        image.tag_v2[PLANAR] = 2
        with pytest.raises(ValueError, match="channels of 16 bits that are stored one after the other"):
            _gray_scale(image)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_level_of_a_gray_png_is_white(bits):
    white = 2**bits - 1
    rows = [[0, 1], [white, white - 1]]
    expected = np.floor(255 * np.array(rows) / white + 0.5)
    np.testing.assert_array_equal(read(png(rows, bits, 0), 2)[0], expected)
    expected[rows == np.array(1)] = 255
    np.testing.assert_array_equal(read(png(rows, bits, 0, struct.pack(">H", 1)), 2)[0], expected)


def test_a_graymap_of_twelve_bits_has_the_white_level_of_its_header():
    content = b"P5 2 2 4095\n" + np.array([0, 1000, 3000, 4095], ">u2").tobytes()
    np.testing.assert_array_equal(read(content, 2, "pgm"), [[[0, 62], [187, 255]]])


LEVELS = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
ALPHA = np.array([0, 255, 128, 51], np.uint8)[None].repeat(4, 0)
# a over white: a * level + (1 - a) * 255
ON_WHITE = np.floor((ALPHA * LEVELS.astype(float) + (255 - ALPHA) * 255.0) / 255 + 0.5)


def layered(mode: str, alpha: np.ndarray) -> Image.Image:
    gray = Image.fromarray(LEVELS)
    image = gray.convert(mode.rstrip("A"))
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(("mode", "form"), [("LA", "png"), ("RGBA", "png"), ("RGBA", "tif"), ("LA", "tif")])
def test_what_is_transparent_lies_on_white(mode, form):
    np.testing.assert_array_equal(read(layered(mode, ALPHA), form=form), ON_WHITE[None])
    np.testing.assert_array_equal(read(layered(mode, ALPHA * 0 + 255), form=form), LEVELS[None])
    np.testing.assert_array_equal(read(layered(mode, ALPHA * 0), form=form), np.full((1, 4, 4), 255))


def test_sixteen_bits_with_alpha_lie_on_white_and_gray_stays_gray():
    rows = np.dstack([LEVELS.astype(int) * 257, ALPHA.astype(int) * 257]).reshape(4, 8).tolist()
    np.testing.assert_array_equal(read(png(rows, 16, 4, channels=2)), ON_WHITE[None])
    rows = np.dstack([LEVELS.astype(int) * 257] * 3 + [ALPHA.astype(int) * 257]).reshape(4, 16).tolist()
    np.testing.assert_array_equal(read(png(rows, 16, 6, channels=4)), ON_WHITE[None])


@pytest.mark.parametrize("transparency", [0, bytes([0, 128])])
def test_transparent_entries_of_a_palette_lie_on_white(tmp_path, transparency):
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 2]))
    image.putpalette([9, 9, 9, 50, 60, 70, 1, 2, 3])
    image.save(tmp_path / "0.png", transparency=transparency)
    middle = [50, 60, 70] if transparency == 0 else [152, 157, 162]  # 255 - (255 - level) * 128 / 255
    expected = np.array([[[255] * 3, middle], [[1, 2, 3]] * 2]).transpose(2, 0, 1)
    np.testing.assert_array_equal(to_square(str(tmp_path / "0.png"), 2), expected)


def test_a_transparent_color_of_sixteen_bits_is_refused():
    with pytest.raises(ValueError, match=r"transparent color of 16 bits .* use an alpha channel"):
        read(png([[0, 0, 1]], 16, 2, bytes(6), channels=3), 1)
    np.testing.assert_array_equal(read(png([[9, 9, 9]], 8, 2, b"\0\x09" * 3, channels=3), 1), [[[255]]])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_color_is_channels_that_differ(tmp_path, mode, caplog):
    for k in range(5):
        Image.fromarray(LEVELS).save(tmp_path / f"{k}.tif")
    Image.fromarray(LEVELS).convert(mode).save(tmp_path / "5.tif")
    images = load_images(f"folder:{tmp_path}", size=4)
    assert images.channels == 1 and not caplog.messages
    if mode not in ("1", "CMYK"):
        assert (images.images == LEVELS).all()


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_file_that_makes_a_gray_set_one_of_color_is_told(tmp_path, part, caplog):
    for place in ("train", "test"):
        (tmp_path / place).mkdir()
        for k in range(3):
            Image.fromarray(LEVELS).convert("RGB").save(tmp_path / place / f"{k}.png")
    image = Image.fromarray(LEVELS).convert("RGB")
    image.putpixel((1, 1), (50, 50, 51))
    image.save(tmp_path / part / "1.png")
    for split in ("train", "test"):
        images = load_images(f"folder:{tmp_path}", split, size=4)
        np.testing.assert_array_equal(images.images[0], LEVELS[None].repeat(3, 0))
        told = f"{int(split == part)} of 3 {split} images have color"
        assert caplog.messages[-1] == (
            f"{tmp_path}: {told}; all get three channels through {tmp_path / part / '1.png'}"
        )
