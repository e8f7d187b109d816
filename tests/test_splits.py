"""Which subfolders are taken as splits, which as classes, and which are refused."""

import os
from pathlib import Path

import pytest
from PIL import Image

from memlib.datasets import load_images


def make(folder: Path, *places: str) -> str:
    """Two images in each place, of the level of its number; the name of the set."""
    for level, place in enumerate(places):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for k in range(2):
            Image.new("L", (2, 2), level).save(folder / place / f"{k}.png")
    return f"folder:{folder}"


@pytest.mark.parametrize(
    ("train", "others"),
    [
        ("train", {"valid": "val"}),
        ("Train", {"test": "Test"}),
        ("training", {"test": "testing"}),
        ("TRAINING", {"valid": "Validation", "test": "TEST"}),
        ("train", {"valid": "valid", "test": "testing"}),
    ],
)
def test_the_usual_names_of_splits_in_any_case(tmp_path, train, others):
    names = {"train": train, **others}
    name = make(tmp_path, *(f"{part}/{c}" for part in names.values() for c in ("ants", "bees")), "more")
    for level, split in enumerate(names):
        images = load_images(name, split, size=2)
        assert images.classes == ("ants", "bees") and images.labels.tolist() == [0, 0, 1, 1]
        assert images.images[:, 0, 0, 0].tolist() == [2 * level] * 2 + [2 * level + 1] * 2
    if "test" not in others:
        assert load_images(name, "test").sha256 == load_images(name, "valid").sha256


@pytest.mark.parametrize(
    "places",
    [
        ["bus", "train", "car"],  # a vehicle
        ["train", "bus/red"],
        ["bullet_train", "steam_train"],
        ["blood test", "scan"],
        ["dev", "ops"],
        ["trains", "tests"],
        ["cat/bus", "cat/train"],
        ["value", "devil", "evaluated"],
    ],
)
def test_classes_whose_names_are_words_of_splits(tmp_path, places):
    classes = {place.partition("/")[0] for place in places}
    assert load_images(make(tmp_path, *places)).classes == tuple(sorted(classes))


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (["train/ants", "train/bees"], "FOLDER has train, which look like splits, but would"),
        (["train"], "for one of them alone folder:FOLDER/train"),
        (["Test", "val"], "FOLDER has Test, val, which look like splits"),
        (
            ["set/train/ants", "set/val/ants"],
            "FOLDER/set has train, val, which .* for splits folder:FOLDER/set,",
        ),
        (["set/a/Training", "set/a/testing"], "for splits folder:FOLDER/set/a, for parts of a class other"),
        (["set/train"], "FOLDER/set has train, which .* for splits train beside test or valid in"),
        (["ants/train", "ants/test", "bees/train"], "FOLDER/ants has test, train, which look like splits,"),
        (["train/good", "extra/good"], "FOLDER has train, which look like splits"),
        (["mnist_train", "mnist_test"], "FOLDER has mnist_test, mnist_train, which look"),
        (["train_set", "test_set"], "FOLDER has test_set, train_set, which look"),
        (["trainA", "trainB"], "FOLDER has trainA, trainB, which look"),
        (["train2017", "val2017", "notes"], "FOLDER has train2017, val2017, which look"),
        (["train", "hold-out"], "FOLDER has hold-out, train, which look"),
        (["train", "dev", "cats"], "FOLDER has dev, train, which look"),
        (["train/train", "train/test", "test/a"], "FOLDER/train has test, train, which look"),
        (
            ["train", "val", "validation"],
            "has two folders of the split valid, val and validation; allowed: one",
        ),
    ],
)
def test_what_looks_like_splits_but_is_not_taken_as_such_is_refused(tmp_path, places, told):
    with pytest.raises(ValueError, match=told.replace("FOLDER", str(tmp_path))):
        load_images(make(tmp_path, *places))


def test_splits_behind_links_and_beside_hidden_folders(tmp_path):
    make(tmp_path / "pool", "a/cat", "b/cat")
    (tmp_path / "set").mkdir()
    for name, target in (("Train", "a"), ("val", "b"), ("@eaDir", "a"), (".test", "a")):
        os.symlink(tmp_path / "pool" / target, tmp_path / "set" / name)
    assert load_images(f"folder:{tmp_path / 'set'}", "test", size=2).images.max() == 1
    os.remove(tmp_path / "set" / "val")
    with pytest.raises(ValueError, match="has Train, which look like splits"):
        load_images(f"folder:{tmp_path / 'set'}")


def test_a_class_folder_whose_name_is_not_utf_8_is_refused_before_it_is_read(tmp_path):
    folder = make(tmp_path, os.fsdecode(b"caf\xe9"), "tea")
    (tmp_path / "tea" / "0.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"'caf\\udce9' is not valid Unicode; allowed: names in UTF-8, rename it"
    ):
        load_images(folder)
