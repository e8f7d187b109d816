"""What is written comes back, and what does not fit is refused."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from memlib import store

REQUEST = {"images": "digits", "epochs": 3, "learning_rate": 1e-3}


@given(arrays(np.float32, array_shapes(max_dims=4)), st.integers(0, 99))
def test_round_trip(tmp_path_factory, array, epochs):
    path = tmp_path_factory.mktemp("store") / "full.npz"
    request = REQUEST | {"epochs": epochs}
    store.write(path, {"log_px": array, "n": np.array(3)}, {"request": request, "run": {"seconds": 1.5}})
    loaded, record = store.read(path, request)
    np.testing.assert_array_equal(loaded["log_px"], array)
    assert set(loaded) == {"log_px", "n"} and record["run"] == {"seconds": 1.5}


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


def test_arrays_under_other_names_are_refused(path):
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("log_px", "log_pz"), content)
    with pytest.raises(store.StoreError, match=r"damaged \(its arrays are log_pz instead of log_px\)"):
        store.read(path, REQUEST)


def test_files_from_before_the_names_were_recorded_are_read(path):
    np.savez(path, record=np.array(json.dumps({"request": REQUEST, "run": {}})), log_px=np.arange(3.0))
    arrays, record = store.read(path, REQUEST)
    assert arrays["log_px"].tolist() == [0, 1, 2] and "arrays" not in record


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


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "full.npz"
    np.savez(path, record=np.array(json.dumps({"request": REQUEST})), log_px=np.array([{}], dtype=object))
    with pytest.raises(store.StoreError, match="allow_pickle"):
        store.read(path, REQUEST)


def test_failed_write_leaves_neither_a_part_nor_an_older_file_changed(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(store.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.write(path, {"log_px": np.zeros(3)}, {"request": REQUEST})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_claim_is_exclusive_and_ends(tmp_path):
    path = tmp_path / "new" / "full.npz"
    with store.claim(path) as first, store.claim(path) as second:
        assert first and not second
    with store.claim(path) as again:
        assert again


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


def test_listing_names_what_is_there(path):
    store.write(path.with_name("full.npz"), {}, {"request": REQUEST, "run": {}})
    (entry,) = store.list_results(path.parent.parent)
    assert entry["repeats"] == 1 and entry["full"] and entry["request"] == REQUEST
    assert entry["bytes"] > 8000 and entry["folder"] == str(path.parent)
    assert entry["damaged"] == ""
    assert store.list_results(path.parent / "nothing") == []


def test_listing_survives_damaged_files(path):
    path.with_name("full.npz").write_bytes(b"nothing")
    (entry,) = store.list_results(path.parent.parent)
    assert entry["repeats"] == 1 and not entry["full"] and entry["request"] == REQUEST
    assert "full.npz is damaged" in entry["damaged"]
    path.write_bytes(b"")
    (entry,) = store.list_results(path.parent.parent)
    assert entry["request"] is None and "full.npz is damaged" in entry["damaged"]
    assert "repeat-000.npz is damaged" in entry["damaged"]
