"""Where and with what something is computed."""

import shutil
import subprocess

import pytest
import torch

from book._ext import provenance as module
from book._ext.provenance import commit, provenance


def test_a_gpu_is_named_where_memlib_computes_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, number {device.index}")
    for device, name in (("cuda:1", "a GPU, number 1"), ("cpu", "")):
        monkeypatch.setattr(module, "choose_device", lambda device=device: torch.device(device))
        assert provenance(tmp_path)["gpu"] == name


def git(folder, *arguments: str) -> str:
    """Run git as somebody, whatever the user's own configuration is."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_commit_is_named_and_marked_where_files_differ_from_it(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) == "unknown"  # none yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    name = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit(tmp_path) == name
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == f"{name}-dirty"
    (tmp_path / "inside").mkdir()
    assert commit(tmp_path / "inside") == "not a git checkout"
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) == "unknown"
