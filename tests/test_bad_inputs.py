"""Every bad input gets its error before anything trains, and the book's page tells them as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bad_inputs import CASES
from refusals import TINY, Case, TrainingReached, refusal

import memlib

PACKAGE = Path(memlib.__file__).parent
MACHINERY = PACKAGE.parent / "book" / "_ext"
PAGE = PACKAGE.parent / "book" / "25-files.ipynb"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.given)
def test_bad_input_is_refused_with_one_message_before_training(case):
    refused = refusal(case)
    assert case.message in refused.message
    assert 1 <= len(refused.message.splitlines()) <= 3
    if refused.status is None:
        assert refused.origin.suffix == ".ipynb" or {PACKAGE, MACHINERY} & {*refused.origin.parents}, (
            "no library names it"
        )
    else:
        assert refused.status == 2
        assert refused.output.count("Error: ") == 1 and "Traceback" not in refused.output


def test_what_reaches_training_does_not_count_as_refused():
    with pytest.raises(TrainingReached):
        refusal(Case("nothing wrong", lambda folder: memlib.run(TINY, progress=False), ""))
    with pytest.raises(AssertionError, match="fine is not refused"):
        refusal(Case("fine", lambda folder: memlib.load_images("digits"), ""))


def test_the_program_prints_no_traceback(tmp_path):
    (tmp_path / "FILE").touch()
    words = [sys.executable, "-m", "memlib", "verify", "--root", f"{tmp_path}/FILE"]
    environment = os.environ | {"MEMLIB_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"Error: the results folder is '{tmp_path}/FILE', which")
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()


def test_the_page_of_the_book_tells_the_errors_of_now():
    given = {case.given: case for case in CASES}
    cells = [cell.source for cell in nbformat.read(PAGE, 4).cells if cell.cell_type == "markdown"]
    text = "\n".join(cells).partition("(refused)=")[2]
    rows = re.findall(r"^\| (?!Input|---)(.+) \| `(.+)` \|$", text, re.MULTILINE)
    headings = 2 * text.count("\n| --- ")
    assert len(rows) == text.count("\n| ") - headings > 20
    told = dict(rows)
    assert told == {words: " ".join(refusal(given[words]).message.split()) for words in told}
