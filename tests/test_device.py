"""Devices, processors and precisions; what is refused is in bad_inputs.py."""

import platform

import pytest
import torch

from memlib.device import check_precision, choose_device, processor


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("MEMLIB_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1") and choose_device() == torch.device("cuda")
    with pytest.raises(ValueError, match="device is 'cuda:2'; allowed here: cpu, cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_a_precision_that_only_gpus_have_is_named_as_what_it_is_for():
    check_precision("tf32", torch.device("cuda", 1))
    with pytest.raises(ValueError, match="scoring_precision is 'tf32', which only GPUs have; allowed on cpu"):
        check_precision("tf32", torch.device("cpu"), "scoring_precision")


@pytest.mark.parametrize(
    ("text", "system", "expected"),
    [
        ("processor\t: 0\nmodel name\t: A fast one @ 3 GHz\nmodel name\t: A\n", "x", "A fast one @ 3 GHz"),
        ("model name\t: unknown\n", "", "unknown (arm64)"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", "arm64", "unknown (arm64)"),
        (None, "Intel64 Family 6", "Intel64 Family 6"),
    ],
)
def test_a_processor_has_its_name_or_is_unknown(tmp_path, monkeypatch, text, system, expected):
    monkeypatch.setattr(platform, "processor", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert processor(tmp_path / "cpuinfo") == expected
