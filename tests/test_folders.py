"""Which files of a folder count, as what; how they are read is in test_pixels.py."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from memlib.datasets import load_images


def save(path: Path, level: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), level).save(path)
    return path


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def levels(folder: Path, split: str = "train") -> list[int]:
    return load_images(f"folder:{folder}", split, size=2).images[:, 0, 0, 0].tolist()


NAMES = st.sampled_from(["a", "a-b", "a b", "B", "b.png", "10", "9"])
TREES = st.recursive(st.none(), lambda trees: st.dictionaries(NAMES, trees, max_size=4), max_leaves=12)


def plant(folder: Path, tree: dict, count: Iterator[int]) -> None:
    """A folder of the tree's folders, whose leaves are images."""
    folder.mkdir(parents=True)
    for name, below in tree.items():
        if below is None:
            save(folder / f"{name.removesuffix('.png')}.png", next(count))
        else:
            plant(folder / name, below, count)


@given(st.lists(TREES.filter(bool), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_classes_files_and_their_order_are_image_folders(trees):
    with TemporaryDirectory() as name:
        parts = [Path(name) / "train", Path(name) / "test"]
        for k, tree in enumerate(trees):
            plant(parts[k // 2] / "xy"[k % 2], {"first": None} | tree, iter(range(256)))
        for part in parts:
            reference = ImageFolder(part)
            images = load_images(f"folder:{name}", part.name, size=2)
            assert (images.labels.tolist(), images.classes) == (reference.targets, ("x", "y"))
            assert images.images[:, 0, 0, 0].tolist() == [np.asarray(x)[0, 0, 0] for x, _ in reference]


def real_images(folder: Path) -> set[str]:
    """Real paths of all images that can be reached, by the rule's own words."""
    waiting, seen, images = [folder], {os.path.realpath(folder.parent)}, set()
    while waiting:
        real = os.path.realpath(waiting.pop())
        if os.path.isdir(real) and real not in seen:
            waiting += [os.path.join(real, name) for name in os.listdir(real)]
        elif os.path.isfile(real):
            images.add(real)
        seen.add(real)
    return images


PLACES = [
    "train/x",
    "train/y",
    "test/x",
    "test/y",
    "train/x/in",
    "test/y/in",
    "pool",
    "pool/in",
    ".",
    "train",
]


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(PLACES), st.booleans()), max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_real_file_is_one_image_and_none_of_test_is_trained_on(links):
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for k, place in enumerate(PLACES[:-2]):
            save(folder / place / "0.png", k)
        for k, (place, target, of_file) in enumerate(links):
            if place not in (".", "train"):  # where a link would be a class
                there = folder / target / "0.png"
                to_file = of_file and there.exists()
                link(folder / place / f"link{k}{'.png' * to_file}", there if to_file else folder / target)
        real = {
            part: [os.path.realpath(path) for path in load_images(f"folder:{name}", part, size=2).paths]
            for part in ("train", "test")
        }
        everything = real["train"] + real["test"]
        assert len(everything) == len(set(everything))
        assert set(everything) == real_images(folder / "train") | real_images(folder / "test")
        tested = [folder / "test"]  # and what its own links lead to, outside of train
        for place, target, of_file in links:
            if (place[:4], target[:4]) == ("test", "pool"):
                tested.append(folder / target / ("0.png" if of_file else ""))
        assert not [path for path in real["train"] for place in tested if Path(path).is_relative_to(place)]


def test_a_link_to_its_own_folder_or_one_above_adds_nothing(tmp_path):
    for k, name in enumerate(("cat/0", "cat/1", "dog/2", "dog/3", "dog/4")):
        save(tmp_path / f"{name}.png", k)
    link(tmp_path / "cat" / "again", tmp_path / "cat")
    link(tmp_path / "cat" / "up", tmp_path)
    link(tmp_path / "dog" / "other" / "cats", tmp_path / "cat")
    link(tmp_path / "dog" / "9.png", tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "circle").symlink_to("circle")
    assert sorted(levels(tmp_path) + levels(tmp_path, "test")) == [0, 1, 2, 3, 4]


def test_folders_and_files_elsewhere_are_read_through_links(tmp_path):
    for k in range(3):
        save(tmp_path / "pool" / f"{k}.png", k)
        link(tmp_path / "set" / "train" / "cat" / f"{k}.png", tmp_path / "pool" / f"{k}.png")
        save(tmp_path / "more" / "deep" / f"{k}.png", 10 + k)
    link(tmp_path / "set" / "test" / "cat", tmp_path / "more")
    link(tmp_path / "set" / "valid", tmp_path / "set" / "test")
    with pytest.raises(FileNotFoundError, match=r"no image in .*valid/cat: .*left out 1 that links lead to"):
        load_images(f"folder:{tmp_path / 'set'}")
    (tmp_path / "set" / "valid").unlink()
    assert levels(tmp_path / "set") == [0, 1, 2] and levels(tmp_path / "set", "test") == [10, 11, 12]


MACHINES = [
    "@eaDir",
    "__MACOSX",
    ".ipynb_checkpoints",
    "$RECYCLE.BIN",
    "System Volume Information",
    "#recycle",
]


def test_what_is_left_out_is_counted_with_its_reason_in_one_line(tmp_path, caplog):
    for k in range(5):
        save(tmp_path / "cat" / f"{k}.png", k)
    for name in MACHINES:
        save(tmp_path / name / "0.png")
        save(tmp_path / "cat" / name.upper() / "0.png")
    for name in (
        "cat/Thumbs.db",
        "cat/.DS_Store",
        "cat/._0.png",
        "cat/0.gif",
        "cat/no extension",
        "notes.txt",
    ):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "cat" / "pipe.png")  # which would block whoever opens it
    link(tmp_path / "cat" / "gone", tmp_path / "nowhere")
    save(tmp_path / "loose.png")
    assert load_images(f"folder:{tmp_path}").classes == ("cat",)
    assert caplog.messages == [
        f"{tmp_path}: left out 15 hidden or written by machines alone (such as #recycle), "
        "1 beside the folders that are read (such as loose.png), 5 of other types (such as notes.txt)"
    ]


def test_paths_lead_back_to_the_files(tmp_path):
    for k in range(10):
        save(tmp_path / "cat" / f"{k}.png", k)
    for split in ("train", "test"):
        images = load_images(f"folder:{tmp_path}", split, size=2)
        assert [np.asarray(Image.open(path))[0, 0] for path in images.paths] == levels(tmp_path, split)
        few = images.subset([1, 0, 1])
        assert few.paths == (images.paths[1], images.paths[0], images.paths[1])
    assert load_images("digits", "test").subset([0]).paths is None
