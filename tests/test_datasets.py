"""The data sets of the book and folders of images; what is refused is in bad_inputs.py."""

import hashlib
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torchvision import transforms
from torchvision.datasets import CIFAR10

from memlib import cifar10, datasets
from memlib.datasets import DATASETS, availability, data_root, load_images
from memlib.experiment import variant
from memlib.runs.job import requested
from memlib.runs.store import training_folder

SPLITS = ("train", "test")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_root_argument_before_variable_before_cache(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "MEMLIB_DATA"):
        monkeypatch.setenv(name, f"{tmp_path}/{name}")
    assert data_root(tmp_path) == tmp_path and data_root("~/mine") == tmp_path / "HOME" / "mine"
    assert data_root() == tmp_path / "MEMLIB_DATA"
    monkeypatch.setenv("MEMLIB_DATA", "")
    assert data_root() == tmp_path / "XDG_CACHE_HOME" / "memlib" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == tmp_path / "HOME" / ".cache" / "memlib" / "data"


def test_availability_needs_every_file(tmp_path):
    place = f"found in {tmp_path}/MNIST/raw"
    for file in datasets.FILES["mnist"]:
        assert availability(tmp_path)["mnist"] == f"not {place}: memlib downloads it on first use"
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert availability(tmp_path)["mnist"] == place
    assert tuple(availability(tmp_path)) == DATASETS


def test_digits_are_the_digits_of_scikit_learn_enlarged_as_pillow_does():
    source, digits = load_digits(), load_images("digits", "test")
    np.testing.assert_array_equal(digits.labels, source.target[digits.index])
    for image, row in zip(digits.images[:40, 0], digits.index, strict=False):
        float_image = Image.fromarray(source.images[row].astype(np.float32) * 255 / 16)
        reference = np.asarray(float_image.resize((24, 24), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(image, np.pad(reference, 4), atol=0.501)  # half a level, and rounding


def test_digits_split_is_fixed_disjoint_complete_and_balanced():
    train, test = load_images("digits"), load_images("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    np.testing.assert_array_equal(np.sort(np.concatenate([train.index, test.index])), np.arange(1797))
    assert np.bincount(test.labels, minlength=10).min() >= 20
    # Stored results name these pixels: another split or enlargement would orphan them.
    assert train.sha256 == "ddf355b45bf1ddbd4bcf6171733dce46f6257aa24ca7c1e67a7ac578034fe8e6"
    assert test.sha256 == "685e6d9f4bfaade2cb89f5df7a125c4196c213d7ebc2ee99a3935cd89afd9ea6"


@pytest.mark.parametrize(("split", "n", "columns"), [("train", 390, (0, 480)), ("test", 130, (480, 640))])
def test_patches_are_slices_of_the_photographs(split, n, columns):
    patches = load_images("patches", split)
    photos = {name: load_sample_image(f"{name}.jpg") for name in patches.classes}
    covered = np.zeros((2, 427, 640), int)
    for image, label, index in zip(patches.images, patches.labels, patches.index, strict=True):
        row, column = 32 * (index % 260 // 20), 32 * (index % 20)
        photo = photos[patches.classes[label]][row : row + 32, column : column + 32]
        np.testing.assert_array_equal(image.transpose(1, 2, 0), photo)
        covered[label, row : row + 32, column : column + 32] += 1
    expected = np.zeros_like(covered)
    expected[:, :416, columns[0] : columns[1]] = 1
    np.testing.assert_array_equal(covered, expected)
    assert len(patches) == n


def test_mnist_is_the_published_file_padded(mnist_root):
    train, test = load_images("mnist", root=mnist_root), load_images("mnist", "test", mnist_root)
    assert (train.images.shape, test.images.shape) == ((60000, 1, 32, 32), (10000, 1, 32, 32))
    assert np.count_nonzero(train.labels == 1) == 6742
    np.testing.assert_array_equal(train.labels[:5], [5, 0, 4, 1, 9])
    for images, file in ((train, "train-images-idx3-ubyte"), (test, "t10k-images-idx3-ubyte")):
        raw = (mnist_root / "MNIST" / "raw" / file).read_bytes()[16:]
        assert images.images[:, :, 2:30, 2:30].tobytes() == raw
        assert images.images[:, :, 2:30, 2:30].sum(dtype=int) == images.images.sum(dtype=int)
        np.testing.assert_array_equal(images.index, np.arange(len(images)))


def test_missing_files_are_listed_with_the_way_to_get_them(tmp_path):
    found, *missing = (tmp_path / file for file in datasets.FILES["cifar10"])
    found.parent.mkdir(parents=True)
    found.touch()
    with pytest.raises(FileNotFoundError) as caught:
        load_images("cifar10", root=tmp_path)
    message = str(caught.value)
    assert f"Missing: {', '.join(map(str, missing))}\n" in message and str(found) not in message
    assert "MEMLIB_DATA" in message and "CIFAR10('DATA', download=True)" in message


def test_cifar10_checksums_are_torchvisions():
    meta = CIFAR10.meta["filename"], CIFAR10.meta["md5"]
    published = [*CIFAR10.train_list, *CIFAR10.test_list, meta]
    assert datasets.FILES["cifar10"] == {f"{CIFAR10.base_folder}/{file}": md5 for file, md5 in published}


def write_official(root, rows, labels, monkeypatch):
    """Files of CIFAR-10 by split, pickled dictionaries; a row is an image, its three planes one by one."""
    contents = {
        "data_batch_1": {"data": rows["train"], "labels": labels["train"]},
        "test_batch": {"data": rows["test"], "labels": labels["test"]},
        "batches.meta": {"label_names": [f"class {k}" for k in range(10)]},
    }
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setitem(CIFAR10.meta, "md5", None)
    monkeypatch.setitem(datasets.FILES, "cifar10", dict.fromkeys(f"{folder.name}/{f}" for f in contents))


def test_cifar10_pixels_are_channel_first(tmp_path, monkeypatch):
    rows = np.random.default_rng(2).integers(0, 256, (4, 3072), np.uint8)
    rows, labels = {"train": rows[:3], "test": rows[3:]}, {"train": [6, 9, 0], "test": [3]}
    write_official(tmp_path, rows, labels, monkeypatch)

    train, test = load_images("cifar10", root=tmp_path), load_images("cifar10", "test", tmp_path)
    np.testing.assert_array_equal(train.images, rows["train"].reshape(3, 3, 32, 32))
    np.testing.assert_array_equal(test.images, rows["test"].reshape(1, 3, 32, 32))
    np.testing.assert_array_equal(train.labels, [6, 9, 0])
    assert train.classes[6] == "class 6"


@pytest.fixture
def cifar10_twice(tmp_path, monkeypatch):
    """Twelve images as official files and as two sheets of 2 x 3; the second and the last are absent."""
    rows = np.random.default_rng(3).integers(0, 256, (12, 3072), np.uint8)
    labels, present = np.arange(12) % 10, np.isin(np.arange(12), (1, 11), invert=True)
    both = {"rows": dict.fromkeys(SPLITS, rows), "labels": dict.fromkeys(SPLITS, labels.tolist())}
    write_official(tmp_path / "official", **both, monkeypatch=monkeypatch)
    place = tmp_path / "sheets" / cifar10.FOLDER
    place.mkdir(parents=True)
    planes = np.where(present[:, None, None, None], rows.reshape(12, 3, 32, 32), 0).astype(np.uint8)
    for split in SPLITS:
        for k in range(2):
            # by hand: the image in row r and column c is the (3 r + c)th of its sheet
            sheet = np.zeros((64, 96, 3), np.uint8)
            for r, c in np.ndindex(2, 3):
                tile = planes[6 * k + 3 * r + c].transpose(1, 2, 0)
                sheet[32 * r : 32 * r + 32, 32 * c : 32 * c + 32] = tile
            Image.fromarray(sheet).save(place / f"{split}-{k:02d}.png")
    np.savez(place / "index.npz", train_labels=labels.astype(np.uint8), test_labels=labels.astype(np.uint8))
    monkeypatch.setattr(cifar10, "SHEETS", dict.fromkeys(SPLITS, 2))
    monkeypatch.setattr(cifar10, "ROWS", 2)
    monkeypatch.setattr(cifar10, "COLUMNS", 3)
    monkeypatch.setattr(cifar10, "ABSENT", dict.fromkeys(SPLITS, "1 11"))
    monkeypatch.setattr(cifar10, "SHA256", dict.fromkeys(SPLITS, hashlib.sha256(planes).hexdigest()))
    return tmp_path, rows.reshape(12, 3, 32, 32)[present]


def test_partial_cifar10_is_the_same_from_sheets_and_from_official_files(cifar10_twice, monkeypatch):
    root, expected = cifar10_twice
    digests = set()
    for place in ("official", "sheets"):
        for split in SPLITS:
            images = load_images("cifar10-partial", split, root / place)
            np.testing.assert_array_equal(images.images, expected)
            assert images.index.tolist() == [0, *range(2, 11)]
            assert images.labels.tolist() == [0, *range(2, 10), 0]
            assert images.absent == (1, 11) and images.classes[8] == "ship"
        monkeypatch.setenv("MEMLIB_DATA", str(root / place))
        experiment = variant("cifar10-partial", folds=2)
        sets = load_images("cifar10-partial"), load_images("cifar10-partial", "test")
        digests.add(training_folder("x", requested(experiment, *sets)[0]))
        assert availability(root / place)["cifar10-partial"].startswith(f"found in {root / place}")
    assert len(digests) == 1


def test_partial_cifar10_with_another_image_is_refused(cifar10_twice):
    root, _ = cifar10_twice
    sheet = root / "sheets" / cifar10.FOLDER / "train-01.png"
    pixels = np.asarray(Image.open(sheet)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(sheet)
    with pytest.raises(ValueError, match=r"the train images of CIFAR-10 in .*sheets have SHA-256"):
        load_images("cifar10-partial", root=root / "sheets")
    sheet.write_bytes(b"PNG")
    with pytest.raises(ValueError, match=r"train-01.png is damaged"):
        load_images("cifar10-partial", root=root / "sheets")


@pytest.fixture
def celeba(tmp_path) -> Path:
    """One face per split: red is the column, green the row, blue the split or, outside the crop box, 255."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:218, :178].astype(np.uint8)
    for split in range(3):
        blue = np.full_like(rows, 255)
        blue[40:188, 15:163] = split
        # PNG keeps the pixels exact; Pillow goes by the content, not by the name.
        Image.fromarray(np.dstack([columns, rows, blue])).save(folder / f"00000{split + 1}.jpg", format="PNG")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    return tmp_path


def test_celeba_crop_box_and_splits(celeba):
    # A symmetric filter keeps a ramp: a pixel has the level at its center. Border pixels lack a neighbor.
    center = (np.arange(32) + 0.5) * 148 / 32 - 0.5
    inner = np.broadcast_to(center, (32, 32))[:, 1:-1]
    for number, split in enumerate(("train", "valid", "test")):
        faces = load_images("celeba", split, celeba)
        assert (faces.images.shape, faces.classes) == ((1, 3, 32, 32), ("face",))
        red, green, blue = faces.images[0].astype(float)
        assert (blue == number).all()  # one pixel too wide a box would show
        np.testing.assert_allclose(red[:, 1:-1], 15 + inner, atol=0.51)
        np.testing.assert_allclose(green.T[:, 1:-1], 40 + inner, atol=0.51)


def test_celeba_that_is_not_aligned_is_refused(celeba):
    Image.new("RGB", (32, 32)).save(celeba / "celeba" / "img_align_celeba" / "000001.jpg")
    with pytest.raises(ValueError, match=r"1 of 1 images unreadable:\s.*000001.jpg: expected .*178x218"):
        load_images("celeba", "train", celeba)


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
    save(train / "c8a.png", (200, 255), mode="LA")
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
    for name in "ab":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    fit = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    expected = np.asarray(fit(Image.fromarray(pixels))).transpose(2, 0, 1)
    options = {} if side == 32 else {"size": side}
    np.testing.assert_array_equal(load_images(f"folder:{tmp_path}", **options).images, expected[None])


def test_orientation_of_photographs_is_applied(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for name in "ab":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", exif=exif)
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
