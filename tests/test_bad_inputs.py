"""Every bad input gets its error before anything trains, and the book's page lists them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import CASES, PAGE, render
from refusals import TINY, Case, TrainingReached, refusal

import memlib

PACKAGE = Path(memlib.__file__).parent


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.given)
def test_bad_input_is_refused_with_one_message_before_training(case):
    refused = refusal(case)
    assert case.message in refused.message
    assert 1 <= len(refused.message.splitlines()) <= 3
    if refused.status is None:
        assert PACKAGE in refused.origin.parents, "memlib names the value itself, no library does"
    else:
        assert refused.status == 2
        assert refused.output.count("Error: ") == 1 and "Traceback" not in refused.output


def test_there_are_many_and_each_is_another():
    assert len(CASES) >= 60
    assert len({case.given for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "give", [lambda folder: memlib.run(TINY, progress=False), lambda folder: memlib.remaining(TINY)]
)
def test_what_reaches_training_does_not_count_as_refused(give):
    with pytest.raises(TrainingReached):
        refusal(Case("nothing wrong", give, ""))


def test_what_is_not_refused_does_not_count_as_refused():
    with pytest.raises(AssertionError, match="fine is not refused"):
        refusal(Case("fine", lambda folder: memlib.load_images("digits"), ""))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run digits-lr3 --images folder:FOLDER", "no image in FOLDER: expected any of .jpg"),
        (
            "verify --root FOLDER/FILE",
            "the results folder is 'FOLDER/FILE', which is a file; allowed: a folder",
        ),
    ],
)
def test_the_program_prints_no_traceback(tmp_path, words, message):
    (tmp_path / "FILE").touch()
    given = words.replace("FOLDER", str(tmp_path)).split()
    environment = os.environ | {"MEMLIB_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(
        [sys.executable, "-m", "memlib", *given], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"Error: {message}".replace("FOLDER", str(tmp_path)))
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()


def test_the_page_of_the_book_lists_the_errors_of_now():
    assert PAGE.read_text("utf-8") == render(), (
        f"write it anew: python tests/bad_inputs.py changes {PAGE.name}"
    )
