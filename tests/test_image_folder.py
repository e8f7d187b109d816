"""Folders of images, as `load_images` reads them; what is refused is in bad_inputs.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from memlib.datasets import load_images


def save(path: Path, color, size=(32, 32), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def test_class_folders_are_split_once_and_for_all(tmp_path):
    for k in range(10):
        save(tmp_path / "dog" / f"{k}.png", (k, 100, 0))
        save(tmp_path / "cat" / "young" / f"{k}.png", (k, 200, 0))
    save(tmp_path / "loose.png", 0)
    save(tmp_path / ".hidden" / "a.png", 0)
    save(tmp_path / "cat" / ".hidden" / "a.png", 0)
    train, test = load_images(f"folder:{tmp_path}"), load_images(f"folder:{tmp_path}", "test")
    assert (len(train), len(test)) == (16, 4)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.name == f"folder:{tmp_path}"
    np.testing.assert_array_equal(np.sort(np.concatenate([train.index, test.index])), np.arange(20))
    np.testing.assert_array_equal(test.index, np.sort(np.random.default_rng(0).permutation(20)[:4]))
    for images in (train, test):  # cat comes first, each class in the order of its file names
        np.testing.assert_array_equal(images.labels, images.index // 10)
        np.testing.assert_array_equal(images.images[:, 0, 0, 0], images.index % 10)
        np.testing.assert_array_equal(images.images[:, 1, 9, 9], 200 - 100 * images.labels)


def test_train_and_test_folders_are_the_splits(tmp_path):
    for part, n in (("train", 3), ("valid", 2)):
        for k in range(n):
            save(tmp_path / part / "cat" / f"{k}.png", (k, 0, n))
            save(tmp_path / part / "dog" / f"{k}.png", (k, 1, n))
    name = f"folder:{tmp_path}"
    train, valid, test = (load_images(name, split) for split in ("train", "valid", "test"))
    np.testing.assert_array_equal(train.images[:, :, 0, 0], [[k, j, 3] for j in range(2) for k in range(3)])
    np.testing.assert_array_equal(test.images[:, :, 0, 0], [[k, j, 2] for j in range(2) for k in range(2)])
    np.testing.assert_array_equal(test.index, np.arange(4))
    assert valid.sha256 == test.sha256  # no test folder: valid stands in for it
    for k, part in enumerate(("cat", "dog")):
        save(tmp_path / "test" / part / "0.png", (7 + k, 0, 0))
    np.testing.assert_array_equal(load_images(name, "test").images[:, 0, 0, 0], [7, 8])


def test_images_without_class_folders_are_one_class(tmp_path):
    for k in range(5):
        save(tmp_path / "flat" / f"{k}.png", k, mode="L")
        save(tmp_path / "parts" / "train" / f"{k}.png", k, mode="L")
    save(tmp_path / "parts" / "test" / "9.png", 9, mode="L")
    assert load_images(f"folder:{tmp_path / 'flat'}").classes == ("flat",)
    assert len(load_images(f"folder:{tmp_path / 'flat'}", "test")) == 1
    test = load_images(f"folder:{tmp_path / 'parts'}", "test")
    assert (test.classes, test.images.max()) == (("parts",), 9)


def test_relative_path_is_made_absolute(tmp_path, monkeypatch):
    for k in range(2):
        save(tmp_path / "mine" / f"{k}.png", k, mode="L")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_images("folder:mine").name == f"folder:{tmp_path / 'mine'}"
    assert load_images("folder:~/mine").name == f"folder:{tmp_path / 'mine'}"


def test_gray_in_every_mode_and_color_if_any_split_has_it(tmp_path):
    train = tmp_path / "train"
    save(train / "a1.png", 1, mode="1")
    save(train / "b8.png", 200, mode="L")
    save(train / "c8a.png", (200, 0), mode="LA")
    Image.fromarray(np.full((32, 32), round(19.7 * 257), np.uint16)).save(train / "d16.png")
    save(tmp_path / "test" / "gray.png", 7, mode="L")
    images = load_images(f"folder:{tmp_path}")
    assert images.channels == 1
    np.testing.assert_array_equal(images.images[:, 0, 5, 5], [255, 200, 200, 20])

    save(tmp_path / "test" / "red.png", (255, 0, 0))
    images = load_images(f"folder:{tmp_path}")
    np.testing.assert_array_equal(images.images[:, :, 5, 5], [[v] * 3 for v in (255, 200, 200, 20)])
    test = load_images(f"folder:{tmp_path}", "test")
    np.testing.assert_array_equal(test.images[:, :, 5, 5], [[7, 7, 7], [255, 0, 0]])


@pytest.mark.parametrize(
    ("size", "side"), [((64, 48), 32), ((41, 100), 32), ((7, 20), 32), ((35, 32), 32), ((41, 100), 65)]
)
def test_resizing_is_torchvisions_resize_and_center_crop(size, side, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        Image.fromarray(pixels).save(tmp_path / part / "0.png")
    fit = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    expected = np.asarray(fit(Image.fromarray(pixels))).transpose(2, 0, 1)
    options = {} if side == 32 else {"size": side}
    np.testing.assert_array_equal(load_images(f"folder:{tmp_path}", **options).images, expected[None])


def test_orientation_of_photographs_is_applied(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        Image.fromarray(pixels).save(tmp_path / part / "0.png", exif=exif)
    np.testing.assert_array_equal(load_images(f"folder:{tmp_path}").images[0, 0], pixels[::-1, :, 0])


def test_unreadable_files_are_named_and_counted(tmp_path):
    for k in range(12):
        save(tmp_path / "train" / f"bad{k:02d}.png", (k, 0, 0)).write_bytes(b"not an image")
    cut = save(tmp_path / "train" / "cut.jpg", (9, 9, 9), (200, 200))
    cut.write_bytes(cut.read_bytes()[:700])
    for part in ("train", "test"):
        save(tmp_path / part / "good.png", (1, 1, 1))
    with pytest.raises(ValueError, match="13 of 14 images unreadable") as caught:
        load_images(f"folder:{tmp_path}")
    message = str(caught.value)
    assert all(str(tmp_path / "train" / f"bad{k:02d}.png") in message for k in range(10))
    assert "bad10" not in message and "good.png" not in message
    assert message.endswith("and 3 more")
