"""What is written comes back, and what does not fit is refused."""

import errno
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from memlib.runs import store

REQUEST = {"images": "digits", "epochs": 3, "learning_rate": 1e-3}
DTYPES = st.sampled_from(["f4", "f8", "i8", "u1", "?", "<U9", ">i2"])
STORED = st.dictionaries(
    st.from_regex(r"[a-z_]+(\.[a-z0-9_.]+)?", fullmatch=True).filter(lambda name: name != store.RECORD),
    arrays(DTYPES, array_shapes(min_dims=0, max_dims=4)),
    max_size=4,
)


@settings(max_examples=30)
@given(STORED, st.text())
def test_what_is_written_comes_back(tmp_path_factory, written, remark):
    path = tmp_path_factory.mktemp("store") / "full.npz"
    store.write(path, written, {"request": REQUEST, "run": {"remark": remark}})
    loaded, record = store.read(path, REQUEST)
    assert loaded.keys() == written.keys() and record["run"] == {"remark": remark}
    for name, array in written.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "digits-0" / "repeat-000.npz"
    path.parent.mkdir()
    store.write(path, {"log_px": np.arange(1000.0)}, {"request": REQUEST, "run": {}})
    return path


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (REQUEST | {"seed": 1}, "seed is None there and 1 in the request"),
        ({"images": "digits", "epochs": 3}, "learning_rate is 0.001 there and None in the request"),
    ],
)
def test_a_request_with_a_field_more_or_less_is_another_one(path, other, message):
    with pytest.raises(store.StoreError, match=message):
        store.read(path, other)


def test_an_altered_file_is_refused_unless_it_gives_the_very_same_arrays(path):
    """Every byte is altered, in one bit or in all."""
    written = {"log_px": np.arange(4.0), "n": np.array(3)}
    store.write(path, written, {"request": REQUEST, "run": {}})
    content, refused = path.read_bytes(), 0
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= (0x01, 0xFF)[place % 2]
        path.write_bytes(altered)
        try:
            arrays, _ = store.read(path, REQUEST)
        except store.DamagedError:
            refused += 1
        else:
            assert arrays.keys() == written.keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, written[name], strict=True)
    assert refused > len(content) / 2


def test_files_of_another_version_are_refused(tmp_path):
    for request in ({"version": 3}, {"training_version": 0}, {"scoring_version": 99}):
        store.write(tmp_path / "repeat-000.npz", {}, {"request": request})
        with pytest.raises(store.StoreError, match="was written by another version of memlib; read it with"):
            store.read_record(tmp_path / "repeat-000.npz")


def test_what_the_file_system_refuses_is_not_called_damage(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store.zipfile, "ZipFile", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        store.read(path, REQUEST)


def test_arrays_of_objects_are_neither_written_nor_read(path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        store.write(path, {"log_px": np.array([{}], dtype=object)}, {"request": REQUEST})
    assert store.read(path, REQUEST)
    np.savez(path, record=np.array([{}], dtype=object))
    with pytest.raises(store.DamagedError, match="allow_pickle"):
        store.read(path, REQUEST)


def test_failed_write_leaves_neither_a_part_nor_an_older_file_changed(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(store.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.write(path, {"log_px": np.zeros(3)}, {"request": REQUEST})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_a_killed_process_left_goes_with_the_next_write_of_the_same_file(path):
    left = path.with_name(f"{path.name}.another-machine-17.part")
    other = path.with_name("repeat-001.npz.another-machine-17.part")
    for part in (left, other):
        part.write_bytes(b"half a file")
    store.write(path, {"log_px": np.zeros(3)}, {"request": REQUEST})
    assert sorted(path.parent.iterdir()) == sorted([path, other])


def test_a_request_that_a_killed_process_left_half_written_is_written_again(tmp_path):
    for left in (None, '{"images":'):
        if left:
            (tmp_path / store.REQUEST).write_text(left)
        store.write_request(tmp_path, REQUEST)
        assert [path.name for path in tmp_path.iterdir()] == [store.REQUEST]
        assert json.loads((tmp_path / store.REQUEST).read_text()) == REQUEST


def test_checkpoints_are_found_by_member_newest_first(path):
    folder = path.parent
    for member, epoch in ((None, 5), (0, 10), (0, 5), (10, 15), (1, 100)):
        store.write(store.epoch_path(folder / "checkpoints", member, epoch), {}, {"request": REQUEST})
    assert store.epochs_of(folder / "checkpoints", 0) == [10, 5]
    assert [store.epochs_of(folder / "checkpoints", member) for member in (None, 1, 2, 10)] == [
        [5],
        [100],
        [],
        [15],
    ]
    assert store.epochs_of(folder / "nowhere", 0) == []


def test_claim_is_exclusive_and_ends(tmp_path):
    path = tmp_path / "new" / "full.npz"
    with store.claim(path) as first, store.claim(path) as second:
        assert first and not second
    with store.claim(path) as again:
        assert again


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store.FileLock, "acquire", refuse)
    with (
        pytest.raises(
            store.StoreError, match=r"has no locks .*No locks available.*; allowed: a results folder"
        ),
        store.claim(tmp_path / "full.npz"),
    ):
        pass


def test_results_root_takes_argument_then_environment_then_checkout_then_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLIB_RESULTS", str(tmp_path / "environment"))
    assert store.results_root(tmp_path) == tmp_path
    assert store.results_root() == tmp_path / "environment"
    monkeypatch.delenv("MEMLIB_RESULTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = tmp_path / "checkout" / "memlib" / "runs"
    package.mkdir(parents=True)
    monkeypatch.setattr(store, "__file__", str(package / "store.py"))
    assert store.results_root() == tmp_path / "cache" / "memlib" / "results"
    (package.parents[1] / "_toc.yml").touch()
    assert store.results_root() == package.parents[1] / "results"
