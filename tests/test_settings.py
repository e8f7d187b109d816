"""What a function of the user reads is told apart by its settings, in `cross_fit` with a folder."""

from types import SimpleNamespace

import numpy as np
import pytest

from memlib.data import ImageSet
from memlib.runs.cross_fit import cross_fit
from memlib.runs.store import StoreError

IMAGES = ImageSet.of(np.random.default_rng(0).integers(0, 256, (12, 1, 32, 32), np.uint8))
SIZES = {"folds": 3, "repeats": 2, "progress": False, "settings": {"model": "level"}}


def says(level):
    return SimpleNamespace(log_prob=lambda images: np.full(len(images), level))


LEVEL = np.zeros(1)


class Level:
    value = 0.0

    def log_prob(self, images):
        return np.full(len(images), self.value)


def levels(kind, folder):
    """A way of training whose models say 0, and what makes them say 1 although it is the same function."""
    own, file = np.zeros(1), folder / "level"
    file.write_text("0")

    def default(images, seed, level=[0.0]):  # noqa: B006
        return says(level[0])

    return {
        "global": (lambda *_: says(LEVEL[0]), lambda: LEVEL.fill(1)),
        "captured": (lambda *_: says(own[0]), lambda: own.fill(1)),
        "default": (default, lambda: default.__defaults__[0].__setitem__(0, 1.0)),
        "class": (lambda *_: Level(), lambda: setattr(Level, "value", 1.0)),
        "file": (lambda *_: says(float(file.read_text())), lambda: file.write_text("1")),
    }[kind]


@pytest.mark.parametrize("kind", ["global", "captured", "default", "class", "file"])
def test_what_train_reads_is_told_apart_by_settings_alone(tmp_path, kind):
    train, change = levels(kind, tmp_path)
    with pytest.raises(ValueError, match="settings is None; allowed with a folder"):
        cross_fit(train, IMAGES, **(SIZES | {"settings": None}), folder=tmp_path / "a")
    assert (cross_fit(train, IMAGES, **SIZES, folder=tmp_path / "a").log_px == 0).all()
    change()
    assert (cross_fit(train, IMAGES, **SIZES, folder=tmp_path / "a").log_px == 0).all()  # as documented
    other = SIZES | {"settings": {"model": "level", "level": 1}}
    with pytest.raises(StoreError, match=r"settings.level is None there and '1' in the request"):
        cross_fit(train, IMAGES, **other, folder=tmp_path / "a")
    assert (cross_fit(train, IMAGES, **other, folder=tmp_path / "b").log_px == 1).all()
