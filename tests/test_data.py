import hashlib
import io
import pickle
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torchvision import datasets

from memlib import data, data_files
from memlib.data import DATASETS, SPLITS, ImageSet, availability, load_images


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def make_set(n: int = 4, **changes) -> ImageSet:
    rng = np.random.default_rng(1)
    fields = {
        "images": rng.integers(0, 256, (n, 1, 32, 32), np.uint8),
        "labels": np.arange(n) % 2,
        "classes": ("even", "odd"),
        "name": "made",
        "split": "train",
        "index": np.arange(10, 10 + n),
    }
    return ImageSet(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((4, 1, 32, 32))}, r"images must be uint8 .*got float64 \(4, 1, 32, 32\)"),
        ({"images": [[0]]}, "images must be uint8 .*got a list"),
        ({"images": np.zeros((4, 32, 32), np.uint8)}, r"got uint8 \(4, 32, 32\)"),
        ({"images": np.zeros((4, 1, 0, 32), np.uint8)}, r"n, H, W >= 1 .*got uint8 \(4, 1, 0, 32\)"),
        ({"images": np.zeros((4, 3, 32, 0), np.uint8)}, r"got uint8 \(4, 3, 32, 0\)"),
        ({"images": np.zeros((4, 1, 8, 8, 1), np.uint8)}, r"got uint8 \(4, 1, 8, 8, 1\)"),
        ({"images": np.zeros((4, 2, 32, 32), np.uint8)}, r"C 1 or 3, got uint8 \(4, 2, 32, 32\)"),
        ({"images": np.zeros((4, 32, 32, 3), np.uint8)}, r"got uint8 \(4, 32, 32, 3\)"),
        ({"images": np.zeros((0, 1, 32, 32), np.uint8)}, r"n, H, W >= 1.*got uint8 \(0, 1, 32, 32\)"),
        ({"labels": np.zeros(4, np.int32)}, r"labels must be int64 \(4,\), got int32 \(4,\)"),
        ({"labels": np.zeros(3, np.int64)}, r"labels must be int64 \(4,\), got int64 \(3,\)"),
        ({"labels": np.array([0, 1, 2, 0])}, r"labels must be in 0\.\.1, got 0\.\.2"),
        ({"labels": np.array([0, -1, 1, 0])}, r"labels must be in 0\.\.1, got -1\.\.1"),
        ({"index": np.arange(5)}, r"index must be int64 \(4,\), got int64 \(5,\)"),
        ({"index": [0, 1, 2, 3]}, "index must be int64 .*got a list"),
        ({"index": np.array([-2, 0, 1, 2])}, "index must be in 0.*got -2"),
        ({"classes": ()}, r"classes must be .*got \(\)"),
        ({"classes": ["even", "odd"]}, r"classes must be a tuple .*got \['even', 'odd'\]"),
    ],
)
def test_image_set_rejects(changes, message):
    with pytest.raises(ValueError, match=message):
        make_set(**changes)


def test_image_set_is_read_only_and_leaves_the_callers_array_writable():
    pixels = np.zeros((4, 3, 32, 32), np.uint8)
    images = make_set(images=pixels)
    for array in (images.images, images.labels, images.index):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        images.name = "other"
    assert pixels.flags.writeable
    assert (len(images), images.channels) == (4, 3)
    assert repr(images) == "ImageSet('made', 'train', n=4, channels=3, classes=2)"


def test_arrays_of_ones_own_become_a_set():
    pixels = make_set(5).images
    images = ImageSet.of(pixels, ["dog", "cat", "dog", "ant", "cat"], "pets")
    assert images.classes == ("ant", "cat", "dog") and images.labels.tolist() == [2, 1, 2, 0, 1]
    assert (images.name, images.index.tolist()) == ("pets", [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(images.images, pixels)
    assert ImageSet.of(pixels, np.array([7, 3, 3, 7, 9])).classes == ("3", "7", "9")
    plain = ImageSet.of(pixels)
    assert plain.classes == ("own",) and not plain.labels.any()
    with pytest.raises(ValueError, match="images must be uint8"):
        ImageSet.of(pixels / 255)
    with pytest.raises(ValueError, match=r"labels must be int64 \(5,\), got int64 \(4,\)"):
        ImageSet.of(pixels, [0, 1, 2, 3])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 48, 40), (1, 32, 33), (3, 1, 200)])
def test_images_have_any_height_and_width(shape):
    pixels = np.random.default_rng(2).integers(0, 256, (3, *shape), np.uint8)
    images = ImageSet.of(pixels, [4, 2, 4])
    C, H, W = shape
    assert repr(images) == f"ImageSet('own', 'train', n=3, channels={C}, size={H}x{W}, classes=2)"
    assert images.channels == C
    assert images.sha256 == hashlib.sha256(f"(3, {C}, {H}, {W})".encode() + pixels.tobytes()).hexdigest()
    np.testing.assert_array_equal(images.subset([2, 0]).images, pixels[[2, 0]])
    if H != W:
        assert ImageSet.of(pixels.reshape(3, C, W, H)).sha256 != images.sha256


def test_subset_keeps_pixels_labels_and_index():
    images = make_set(5)
    chosen = images.subset([4, 1, 1])
    np.testing.assert_array_equal(chosen.images, images.images[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.labels, [0, 1, 1])
    np.testing.assert_array_equal(chosen.index, [14, 11, 11])
    np.testing.assert_array_equal(chosen.subset(np.array([1])).index, [11])
    assert (chosen.name, chosen.split, chosen.classes) == ("made", "train", ("even", "odd"))


@pytest.mark.parametrize("indices", [[], [5], [-1], [[0]], [0.0], [True, False, True, True, False], 3])
def test_subset_rejects(indices):
    with pytest.raises(ValueError, match="indices must be"):
        make_set(5).subset(indices)


def test_sha256_depends_on_shape_and_pixels_only():
    images = make_set()
    digest = hashlib.sha256(b"(4, 1, 32, 32)" + images.images.tobytes()).hexdigest()
    assert images.sha256 == digest
    assert make_set(labels=np.ones(4, np.int64), name="other").sha256 == digest
    changed = images.images.copy()
    changed[3, 0, 31, 31] ^= 1
    assert make_set(images=changed).sha256 != digest
    assert images.subset([1, 0, 2, 3]).sha256 != digest
    zeros = np.zeros((12, 1, 32, 32), np.uint8)
    assert make_set(12, images=zeros).sha256 != make_set(images=zeros.reshape(4, 3, 32, 32)).sha256


NEAREST = {"MNIST": "mnist", "minst": "mnist", "cifar-10": "cifar10", "folder": "folder:PATH", "zzz": None}


@pytest.mark.parametrize(("name", "hint"), NEAREST.items())
def test_unknown_name(name, hint):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'") as caught:
        load_images(name)
    message = str(caught.value)
    assert all(allowed in message for allowed in (*DATASETS, "folder:PATH"))
    assert f" (did you mean {hint}?); allowed: " in message if hint else "did you mean" not in message


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_split(name):
    with pytest.raises(ValueError, match=f"unknown split of {name} 'tests' .did you mean test.") as caught:
        load_images(name, "tests")
    assert ", ".join(SPLITS[name]) in str(caught.value)


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_of_one_size_refuse_others(name, tmp_path):
    message = f"size is 64; allowed: 32 for {name}, others for folder:PATH alone"
    with pytest.raises(ValueError, match=message):
        load_images(name, size=64, root=tmp_path)


@pytest.mark.parametrize("size", [0, -32, 48.0, "64", True, None, (48, 40)])
@pytest.mark.parametrize("name", ["digits", "folder:nowhere"])
def test_sizes_that_are_none_are_refused(name, size):
    with pytest.raises(ValueError, match=r"size is .*; allowed: a whole number, 1 or more"):
        load_images(name, size=size)


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
    for file in data_files.FILES["mnist"]:
        assert availability(tmp_path)["mnist"].startswith("not found in")
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert availability(tmp_path)["mnist"] == f"found in {tmp_path}/MNIST/raw"
    assert tuple(availability(tmp_path)) == DATASETS


def test_importing_the_module_does_not_import_torch():
    # The package itself may: an empty one with the same modules stands in for it.
    code = (
        "import sys, types; sys.modules['memlib'] = package = types.ModuleType('memlib'); package.__path__ = "
        f"[{str(Path(data.__file__).parent)!r}]; import memlib.data; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_are_the_digits_of_scikit_learn():
    source = load_digits()
    for split, n in (("train", 1500), ("test", 297)):
        digits = load_images("digits", split)
        assert digits.images.shape == (n, 1, 32, 32)
        np.testing.assert_array_equal(digits.labels, source.target[digits.index])
        # The center of each block of 3x3 is the source pixel itself: 16 -> 255, 8 -> 127.5, rounded up.
        expected = np.floor(source.images[digits.index] * 255 / 16 + 0.5)
        np.testing.assert_array_equal(digits.images[:, 0, 5:28:3, 5:28:3], expected)
        padding = digits.images.copy()
        padding[:, :, 4:28, 4:28] = 0
        assert not padding.any()


def test_digits_are_enlarged_as_pillow_does():
    source = load_digits().images
    digits = load_images("digits", "test")
    for image, row in zip(digits.images[:40, 0, 4:28, 4:28], digits.index, strict=False):
        float_image = Image.fromarray(source[row].astype(np.float32) * 255 / 16)
        reference = np.asarray(float_image.resize((24, 24), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(image, reference, atol=0.501)


def test_digits_split_is_fixed_disjoint_complete_and_balanced():
    train, test = load_images("digits"), load_images("digits", "test")
    np.testing.assert_array_equal(np.sort(np.concatenate([train.index, test.index])), np.arange(1797))
    assert np.bincount(test.labels, minlength=10).min() >= 20
    # Stored results name these pixels: another split or enlargement would orphan them.
    assert train.sha256 == "ddf355b45bf1ddbd4bcf6171733dce46f6257aa24ca7c1e67a7ac578034fe8e6"
    assert test.sha256 == "685e6d9f4bfaade2cb89f5df7a125c4196c213d7ebc2ee99a3935cd89afd9ea6"


@pytest.mark.parametrize(("split", "n", "columns"), [("train", 390, (0, 480)), ("test", 130, (480, 640))])
def test_patches_are_slices_of_the_photographs(split, n, columns):
    patches = load_images("patches", split)
    assert patches.images.shape == (n, 3, 32, 32)
    covered = np.zeros((2, 427, 640), int)
    for image, label, index in zip(patches.images, patches.labels, patches.index, strict=True):
        name = patches.classes[label]
        row, column = 32 * (index % 260 // 20), 32 * (index % 20)
        photo = load_sample_image(f"{name}.jpg")[row : row + 32, column : column + 32]
        np.testing.assert_array_equal(image.transpose(1, 2, 0), photo)
        covered[label, row : row + 32, column : column + 32] += 1
    expected = np.zeros_like(covered)
    expected[:, :416, columns[0] : columns[1]] = 1
    np.testing.assert_array_equal(covered, expected)


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


def test_mnist_is_downloaded_where_it_is_missing(mnist_root, tmp_path, monkeypatch):
    def fetch(url, download_root, filename, md5):
        file = filename.removesuffix(".gz")
        (Path(download_root) / file).symlink_to(mnist_root / "MNIST" / "raw" / file)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    images = load_images("mnist", "test", tmp_path / "new")
    assert images.sha256 == load_images("mnist", "test", mnist_root).sha256


@pytest.mark.parametrize(("name", "count"), [("mnist", 4), ("cifar10", 7), ("celeba", 2)])
def test_missing_files_are_listed_with_the_way_to_get_them(name, count, tmp_path):
    found = tmp_path / next(iter(data_files.FILES[name]))
    found.parent.mkdir(parents=True)
    found.touch()
    with pytest.raises(FileNotFoundError) as caught:
        load_images(name, root=tmp_path)
    message = str(caught.value)
    assert f"{found} (found)" in message
    assert sum(f"{tmp_path / file} (missing)" in message for file in data_files.FILES[name]) == count - 1
    assert "MEMLIB_DATA" in message
    assert f"{data_files.TORCHVISION[name]}('DATA', download=True)" in message
    assert isinstance(caught.value.__cause__, (RuntimeError, OSError))


def test_root_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"incomplete in .*file/new; download failed with") as caught:
        load_images("cifar10", root=tmp_path / "file" / "new")
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.setenv("MEMLIB_DATA", str(tmp_path / "file"))
    for call in (lambda: load_images("cifar10"), availability):
        with pytest.raises(ValueError, match=r"the data folder is '.*file', which is a file; allowed: a fol"):
            call()
    assert len(load_images("digits", "test")) == 297  # comes with a library


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_damaged_files_are_named(name, tmp_path):
    for file in data_files.FILES[name]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"not what it should be")
    with pytest.raises(ValueError, match=f"'{name}' is damaged: delete") as caught:
        load_images(name, root=tmp_path)
    assert all(str(tmp_path / file) in str(caught.value) for file in data_files.FILES[name])


def test_cifar10_checksums_are_torchvisions():
    source = datasets.CIFAR10
    published = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    assert data_files.FILES["cifar10"] == {f"{source.base_folder}/{file}": md5 for file, md5 in published}


def test_cifar10_pixels_are_channel_first(tmp_path, monkeypatch):
    # The published files are pickled dictionaries; a row holds a red, a green and a blue plane.
    rows = np.random.default_rng(2).integers(0, 256, (4, 3072), np.uint8)
    contents = {
        "data_batch_1": {"data": rows[:1], "labels": [6]},
        "data_batch_2": {"data": rows[1:3], "labels": [9, 0]},
        "test_batch": {"data": rows[3:], "labels": [3]},
        "batches.meta": {"label_names": [f"class {k}" for k in range(10)]},
    }
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    md5 = {}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
        md5[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    source = datasets.CIFAR10
    monkeypatch.setattr(source, "train_list", [[file, md5[file]] for file in list(contents)[:2]])
    monkeypatch.setattr(source, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setitem(source.meta, "md5", md5["batches.meta"])
    monkeypatch.setitem(data_files.FILES, "cifar10", {f"{folder.name}/{file}": md5[file] for file in md5})

    train, test = load_images("cifar10", root=tmp_path), load_images("cifar10", "test", tmp_path)
    np.testing.assert_array_equal(train.images, rows[:3].reshape(3, 3, 32, 32))
    np.testing.assert_array_equal(test.images, rows[3:].reshape(1, 3, 32, 32))
    np.testing.assert_array_equal(train.labels, [6, 9, 0])
    assert train.classes[6] == "class 6"


@pytest.fixture
def jpeg_root(tmp_path, monkeypatch) -> Path:
    """Archives of two classes, of one flat color each; the file names are out of order."""
    for split, levels in (
        ("train", {"cat/0001": 90, "airplane/0000": 200, "cat/0000": 30}),
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
        monkeypatch.setitem(data_files.FILES["cifar10-jpeg"], path.name, md5)
    return tmp_path


def test_jpeg_archives_are_read_by_class_and_name(jpeg_root):
    train, test = (load_images("cifar10-jpeg", split, jpeg_root) for split in ("train", "test"))
    assert (train.classes, train.labels.tolist()) == (("airplane", "cat"), [0, 1, 1])
    np.testing.assert_array_equal(
        train.images, np.full((3, 3, 32, 32), 1) * np.reshape([200, 30, 90], (3, 1, 1, 1))
    )
    assert test.images.shape == (1, 3, 32, 32) and (test.images == 7).all()


def test_jpeg_archives_cannot_be_downloaded(jpeg_root):
    (jpeg_root / "cifar10-jpeg-test.zip").unlink()
    with pytest.raises(FileNotFoundError, match="has no public source") as caught:
        load_images("cifar10-jpeg", root=jpeg_root)
    assert f"missing: {jpeg_root}/cifar10-jpeg-test.zip; set MEMLIB_DATA" in str(caught.value)
    assert availability(jpeg_root)["cifar10-jpeg"].endswith("memlib cannot download it")


def test_a_damaged_jpeg_archive_is_named(jpeg_root):
    (jpeg_root / "cifar10-jpeg-train.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"'cifar10-jpeg' is damaged: delete .*train\.zip"):
        load_images("cifar10-jpeg", root=jpeg_root)


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


@pytest.mark.parametrize(("split", "number"), [("train", 0), ("valid", 1), ("test", 2)])
def test_celeba_crop_box_and_splits(celeba, split, number):
    faces = load_images("celeba", split, celeba)
    assert (faces.images.shape, faces.classes) == ((1, 3, 32, 32), ("face",))
    red, green, blue = faces.images[0].astype(float)
    assert (blue == number).all()  # one pixel too wide a box would show
    # A symmetric filter keeps a ramp: a pixel has the level at its center. Border pixels lack a neighbor.
    center = (np.arange(32) + 0.5) * 148 / 32 - 0.5
    inner = np.broadcast_to(center, (32, 32))[:, 1:-1]
    np.testing.assert_allclose(red[:, 1:-1], 15 + inner, atol=0.51)
    np.testing.assert_allclose(green.T[:, 1:-1], 40 + inner, atol=0.51)


def test_celeba_names_what_is_wrong(celeba):
    folder = celeba / "celeba"
    face = folder / "img_align_celeba" / "000001.jpg"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(face)
    with pytest.raises(ValueError, match=r"1 of 1 images unreadable:\s.*000001.jpg: expected .*178x218"):
        load_images("celeba", "train", celeba)
    face.unlink()
    with pytest.raises(ValueError, match=r"000001.jpg: .*No such file"):
        load_images("celeba", "train", celeba)
    (folder / "list_eval_partition.txt").write_text("000002.jpg 1\nimage_id,partition\n")
    with pytest.raises(ValueError, match="line 2: expected FILE and 0, 1 or 2, got 'image_id,partition'"):
        load_images("celeba", "valid", celeba)
    (folder / "list_eval_partition.txt").write_text("000002.jpg 1\n")
    with pytest.raises(ValueError, match=r"lists no image of split 'test' \(number 2\)"):
        load_images("celeba", "test", celeba)
