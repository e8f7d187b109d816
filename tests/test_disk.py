"""What a full disk, a quota, a limit or a read-only file system refuses is named, and no run is spoilt."""

import contextlib
import errno
import resource
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import memlib
from memlib.runs import cli, inventory, store
from memlib.runs.disk import WriteError

SMALL = {"num_images": 24, "epochs": 2, "score_every": 1, "folds": 2, "repeats": 1, "num_samples": 2}
SPEC = memlib.variant("digits-lr3", **SMALL)
REFUSED = {
    errno.ENOSPC: "once there is room",
    errno.EDQUOT: "once the quota has room",
    errno.EFBIG: r"once files may be as large \(ulimit -f\)",
    errno.EROFS: "once it can be written",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return memlib.run(SPEC, root=tmp_path_factory.mktemp("whole"), device="cpu", progress=False)


def refuse(patch, kind, code):
    """Let no file of a kind get its name."""
    replace = Path.replace

    def refused(path, target):
        if kind in str(target):
            raise OSError(code, "as the file system says", str(path))
        return replace(path, target)

    patch.setattr(Path, "replace", refused)


@contextlib.contextmanager
def largest(size):
    """Files of this process may have so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("kind", "code"),
    [*((kind, errno.ENOSPC) for kind in ("checkpoints", "models", "scores-", "full.npz", "repeat-000.npz"))]
    + [("full.npz", code) for code in REFUSED],
)
def test_a_run_that_cannot_write_says_where_and_goes_on_with_the_same_numbers(
    tmp_path, monkeypatch, whole, kind, code
):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words = ["run", "digits-lr3", *words, f"--root={tmp_path}", "--device=cpu", "--quiet"]
    with monkeypatch.context() as patch:
        refuse(patch, kind, code)
        done = CliRunner(catch_exceptions=False).invoke(cli.main, words)
    assert done.exit_code == 2 and "Traceback" not in done.output
    told = done.stderr.splitlines()[-1]
    assert told.startswith(f"Error: {tmp_path}/digits-") and kind in told
    assert REFUSED[code].replace("\\", "") in told and "the same command or call goes on" in told
    assert not [*tmp_path.rglob("*.part")] and not any(problem for _, problem in inventory.verify(tmp_path))
    again = memlib.run(SPEC, root=tmp_path, device="cpu", progress=False)
    np.testing.assert_array_equal(again.log_px, whole.log_px)


@pytest.mark.parametrize("size", [50, 2000])
def test_a_limit_on_the_size_of_files_is_named(tmp_path, whole, size):
    """Already the request is too large, or what training leaves."""
    with largest(size), pytest.raises(WriteError, match=rf"{tmp_path}.*\(File too large\).*ulimit -f"):
        memlib.run(SPEC, root=tmp_path, device="cpu", progress=False)
    assert not [*tmp_path.rglob("*.part"), *tmp_path.rglob("*.npz")]
    assert not inventory.list_results(tmp_path) or size > 50
    again = memlib.run(SPEC, root=tmp_path, device="cpu", progress=False)
    np.testing.assert_array_equal(again.log_px, whole.log_px)


def test_wherever_in_a_file_the_room_ends_nothing_of_it_is_left(tmp_path):
    arrays = {"a": np.arange(300.0), "b": np.arange(100)}
    store.write(tmp_path / "full.npz", arrays, {})
    size, path = (tmp_path / "full.npz").stat().st_size, tmp_path / "repeat-000.npz"
    for limit in range(0, size, size // 50):
        with largest(limit), pytest.raises(WriteError, match=str(path)) as raised:
            store.write(path, arrays, {})
        assert raised.value.errno == errno.EFBIG and len([*tmp_path.iterdir()]) == 1


def test_a_claim_and_a_request_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.EROFS, "as the file system says")

    for name, work in (
        ("full.lock", lambda: store.claim(tmp_path / "new" / "full.npz").__enter__()),
        ("request.json", lambda: store.write_request(tmp_path / "new", {})),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refused)
            with pytest.raises(WriteError, match=rf"new/{name} cannot be written \(Read-only"):
                work()


def test_checkpoints_of_others_on_a_read_only_file_system_do_no_harm(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.EROFS, "as the file system says")

    store.write(store.epoch_path(tmp_path, 0, 1), {}, {})
    monkeypatch.setattr(Path, "unlink", refused)
    store.remove(tmp_path, 0)


@pytest.mark.parametrize("code", REFUSED)
def test_a_score_file_that_cannot_be_written_is_named_and_nothing_of_it_is_left(
    tmp_path, monkeypatch, whole, code
):
    def refused(table, where, **options):
        where.write_bytes(b"half a file")
        raise OSError(code, "as Arrow says")

    path = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", refused)
        with pytest.raises(WriteError, match=f"{path} cannot be written.*{REFUSED[code]}"):
            memlib.write_scores(path, whole, SPEC.load_images())
    with largest(1000), pytest.raises(WriteError, match="File too large"):
        memlib.write_scores(path, whole, SPEC.load_images())
    assert not [*tmp_path.iterdir()]


def test_what_cross_fit_cannot_write_is_named_and_the_models_before_are_kept(tmp_path, monkeypatch):
    class Flat:
        calls = 0

        def log_prob(self, images):
            Flat.calls += 1
            return np.zeros(len(images))

    def fitted():
        images, options = memlib.load_images("digits", "test"), {"folds": 3, "repeats": 1, "progress": False}
        return memlib.cross_fit(lambda *_: Flat(), images, **options, folder=tmp_path, settings={"a": 1})

    with monkeypatch.context() as patch:
        refuse(patch, "fold-01", errno.EDQUOT)
        with pytest.raises(WriteError, match=f"{tmp_path}/repeat-000-fold-01.npz cannot be written"):
            fitted()
    fitted()
    assert Flat.calls == 2 + 2  # the second model anew, and the third
