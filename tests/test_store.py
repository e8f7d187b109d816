"""What is written comes back, and what does not fit is refused."""

import errno
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from memlib import store

REQUEST = {"images": "digits", "epochs": 3, "learning_rate": 1e-3}


DTYPES = st.sampled_from(["f4", "f8", "i8", "u1", "?", "<U9", ">i2"])
STORED = st.dictionaries(
    st.from_regex(r"[a-z_]+(\.[a-z0-9_.]+)?", fullmatch=True).filter(lambda name: name != store.RECORD),
    arrays(DTYPES, array_shapes(min_dims=0, max_dims=4)),
    max_size=4,
)


@given(STORED, st.integers(0, 99), st.text())
def test_what_is_written_comes_back(tmp_path_factory, written, epochs, remark):
    path = tmp_path_factory.mktemp("store") / "full.npz"
    request = REQUEST | {"epochs": epochs}
    store.write(path, written, {"request": request, "run": {"remark": remark}})
    loaded, record = store.read(path, request)
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
    ("change", "message"),
    [
        ({"epochs": 4}, "epochs is 3 there and 4 in the request"),
        ({"learning_rate": 1e-4}, "learning_rate is 0.001 there and 0.0001 in the request"),
        ({"seed": 1}, "seed is None there and 1 in the request"),
    ],
)
def test_answer_to_another_request_is_refused_and_kept(path, change, message):
    with pytest.raises(store.StoreError, match=message):
        store.read(path, REQUEST | change)
    assert store.read(path, REQUEST)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
@pytest.mark.parametrize("start", range(7))
def test_an_altered_file_is_refused_unless_it_gives_the_very_same_arrays(path, start, mask):
    written = {"log_px": np.arange(40.0), "n": np.array(3), "ess": np.ones((3, 4), np.float32)}
    store.write(path, written, {"request": REQUEST, "run": {}})
    content, refused = path.read_bytes(), 0
    for place in range(start, len(content), 7):
        altered = bytearray(content)
        altered[place] ^= mask
        path.write_bytes(altered)
        try:
            arrays, _ = store.read(path, REQUEST)
        except store.StoreError as error:
            refused += 1
            assert "damaged" in str(error)
        else:
            assert arrays.keys() == written.keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, written[name], strict=True)
    assert refused > len(content) / 7 / 2


def rewrite(path, change):
    """Write the members of a file again, each as `change` has it: a whole file with valid checksums."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(*change(name, content))


def test_arrays_under_other_names_are_refused(path):
    rewrite(path, lambda name, content: (name.replace("log_px", "log_pz"), content))
    with pytest.raises(store.StoreError, match=r"damaged \(its arrays are log_pz instead of log_px\)"):
        store.read(path, REQUEST)


def test_other_numbers_in_a_file_that_is_whole_are_refused(path):
    other = io.BytesIO()
    np.save(other, np.arange(1000.0) + 1e-9)
    rewrite(path, lambda name, content: (name, other.getvalue() if name == "log_px.npy" else content))
    with pytest.raises(store.DamagedError, match="array log_px is not the one that was written"):
        store.read(path, REQUEST)


def test_files_from_before_checksums_are_read_and_older_ones_refused(path):
    record = {"request": REQUEST, "run": {}, "arrays": ["log_px"]}
    np.savez(path, record=np.array(json.dumps(record)), log_px=np.arange(3.0))
    arrays, _ = store.read(path, REQUEST)
    assert arrays["log_px"].tolist() == [0, 1, 2]
    np.savez(path, record=np.array(json.dumps({"request": REQUEST, "run": {}})), log_px=np.arange(3.0))
    with pytest.raises(store.StoreError, match="was written by an earlier version of memlib"):
        store.read(path, REQUEST)


def test_a_file_under_the_name_of_another_repeat_is_refused(path):
    path.rename(path.with_name("repeat-001.npz"))
    with pytest.raises(store.StoreError, match=r"repeat-001.npz was written as repeat-000.npz; give it"):
        store.read(path.with_name("repeat-001.npz"), REQUEST)


def test_what_the_file_system_refuses_is_not_called_damage(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store.zipfile, "ZipFile", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        store.read(path, REQUEST)
    monkeypatch.undo()
    with pytest.raises(IsADirectoryError):
        store.read(path.parent, REQUEST)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files_are_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(store.StoreError, match=r"repeat-000.npz is damaged .* delete it"):
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


def test_checkpoints_are_found_by_member_newest_first(path):
    folder = path.parent
    for member, epoch in ((None, 5), (0, 10), (0, 5), (10, 15), (1, 100)):
        store.write(store.checkpoint_path(folder, member, epoch), {}, {"request": REQUEST})
    assert store.checkpoint_epochs(folder, 0) == [10, 5]
    assert [store.checkpoint_epochs(folder, member) for member in (None, 1, 2, 10)] == [[5], [100], [], [15]]
    assert store.checkpoint_epochs(folder / "nowhere", 0) == []


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
    package = tmp_path / "checkout" / "memlib"
    package.mkdir(parents=True)
    monkeypatch.setattr(store, "__file__", str(package / "store.py"))
    assert store.results_root() == tmp_path / "cache" / "memlib" / "results"
    (package.parent / "_toc.yml").touch()
    assert store.results_root() == package.parent / "results"


def test_a_results_root_that_is_a_file_is_named(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(store.StoreError, match=r"the results folder is '.*file', which is a file; "):
        store.results_root(file)
    monkeypatch.setenv("MEMLIB_RESULTS", str(file))
    with pytest.raises(store.StoreError, match=r"MEMLIB_RESULTS is '.*file', which is a file; "):
        store.results_root()
