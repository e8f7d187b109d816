"""The data sets and their type; what is refused is in bad_inputs.py."""

import hashlib
import io
import pickle
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torchvision.datasets import CIFAR10

from memlib import datasets
from memlib.data import ImageSet
from memlib.datasets import DATASETS, availability, load_images


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_image_set_is_read_only_and_leaves_the_callers_array_writable():
    pixels = np.zeros((4, 3, 32, 32), np.uint8)
    images = ImageSet.of(pixels)
    for array in (images.images, images.labels, images.index):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        images.name = "other"
    assert pixels.flags.writeable


def test_arrays_of_ones_own_become_a_set():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 3, 48, 40), np.uint8)
    images = ImageSet.of(pixels, ["dog", "cat", "dog", "ant", "cat"], "pets")
    assert images.classes == ("ant", "cat", "dog") and images.labels.tolist() == [2, 1, 2, 0, 1]
    assert (images.name, images.index.tolist(), images.channels) == ("pets", [0, 1, 2, 3, 4], 3)
    np.testing.assert_array_equal(images.images, pixels)
    assert ImageSet.of(pixels, np.array([7, 3, 3, 7, 9])).classes == ("3", "7", "9")
    plain = ImageSet.of(pixels)
    assert plain.classes == ("own",) and not plain.labels.any()


def test_subset_keeps_pixels_labels_and_index():
    images = load_images("digits", "test")
    chosen = images.subset([4, 1, 1])
    np.testing.assert_array_equal(chosen.images, images.images[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.labels, images.labels[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.index, images.index[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.subset(np.array([0])).index, images.index[[4]])
    assert (chosen.name, chosen.split, chosen.classes) == (images.name, images.split, images.classes)


def test_sha256_depends_on_shape_and_pixels_only():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 1, 32, 32), np.uint8)
    digest = hashlib.sha256(b"(6, 1, 32, 32)" + pixels.tobytes()).hexdigest()
    assert ImageSet.of(pixels).sha256 == ImageSet.of(pixels, range(6), "other").sha256 == digest
    assert ImageSet.of(pixels.reshape(2, 3, 32, 32)).sha256 != digest


def test_root_argument_before_variable_before_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / "variable"))
    end = ": memlib downloads it on first use"
    assert availability(tmp_path / "argument")["celeba"] == f"not found in {tmp_path}/argument/celeba{end}"
    assert availability("~/mine")["mnist"] == f"not found in {tmp_path}/home/mine/MNIST/raw{end}"
    assert availability()["celeba"] == f"not found in {tmp_path}/variable/celeba{end}"
    monkeypatch.setenv("MEMLIB_DATA", "")
    assert availability()["celeba"] == f"not found in {tmp_path}/cache/memlib/data/celeba{end}"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert availability()["celeba"] == f"not found in {tmp_path}/home/.cache/memlib/data/celeba{end}"


def test_availability_needs_every_file(tmp_path):
    for file in datasets.FILES["mnist"]:
        assert availability(tmp_path)["mnist"].startswith("not found in")
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert availability(tmp_path)["mnist"] == f"found in {tmp_path}/MNIST/raw"
    assert availability(tmp_path)["cifar10-jpeg"].endswith("memlib cannot download it")
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
    assert f"{found} (found)" in message and all(f"{path} (missing)" in message for path in missing)
    assert "MEMLIB_DATA" in message and "CIFAR10('DATA', download=True)" in message


def test_cifar10_checksums_are_torchvisions():
    source = CIFAR10
    published = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    assert datasets.FILES["cifar10"] == {f"{source.base_folder}/{file}": md5 for file, md5 in published}


def test_cifar10_pixels_are_channel_first(tmp_path, monkeypatch):
    # The published files are pickled dictionaries; a row holds a red, a green and a blue plane.
    rows = np.random.default_rng(2).integers(0, 256, (4, 3072), np.uint8)
    contents = {
        "data_batch_1": {"data": rows[:3], "labels": [6, 9, 0]},
        "test_batch": {"data": rows[3:], "labels": [3]},
        "batches.meta": {"label_names": [f"class {k}" for k in range(10)]},
    }
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    md5 = {}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
        md5[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    source = CIFAR10
    monkeypatch.setattr(source, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(source, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setitem(source.meta, "md5", md5["batches.meta"])
    monkeypatch.setitem(datasets.FILES, "cifar10", {f"{folder.name}/{file}": md5[file] for file in md5})

    train, test = load_images("cifar10", root=tmp_path), load_images("cifar10", "test", tmp_path)
    np.testing.assert_array_equal(train.images, rows[:3].reshape(3, 3, 32, 32))
    np.testing.assert_array_equal(test.images, rows[3:].reshape(1, 3, 32, 32))
    np.testing.assert_array_equal(train.labels, [6, 9, 0])
    assert train.classes[6] == "class 6"


def test_jpeg_archives_are_read_by_class_and_name(tmp_path, monkeypatch):
    for split, levels in (
        ("train", {"cat/0001": 90, "airplane/0000": 200, "cat/0000": 30}),  # out of order
        ("test", {"cat/0000": 7}),
    ):
        path = tmp_path / f"cifar10-jpeg-{split}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, level in levels.items():
                file = io.BytesIO()
                Image.new("RGB", (32, 32), (level,) * 3).save(file, format="JPEG")
                archive.writestr(f"{split}/{name}.jpg", file.getvalue())
            archive.writestr(f"{split}/README", "no image")
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(datasets.FILES["cifar10-jpeg"], path.name, md5)

    train, test = (load_images("cifar10-jpeg", split, tmp_path) for split in ("train", "test"))
    assert (train.classes, train.labels.tolist()) == (("airplane", "cat"), [0, 1, 1])
    levels = np.reshape([200, 30, 90], (3, 1, 1, 1))
    np.testing.assert_array_equal(train.images, np.broadcast_to(levels, (3, 3, 32, 32)))
    assert test.images.shape == (1, 3, 32, 32) and (test.images == 7).all()


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
