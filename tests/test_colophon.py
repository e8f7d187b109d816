"""How a page says how it was made."""

import re
import shlex

from nbformat.v4 import new_code_cell
from papermill.cli import _resolve_type
from tinybook import notebook

from book._ext.colophon import Parameter, add_colophon, experiment_of, parameters_with_help
from book._ext.pages import Page
from memlib import variant

FACTS = {
    **{"date": "2026-11-22T23:52:15-05:00", "seconds": 10.58, "processor": "A fast* one", "gpu": ""},
    **{"cores": 2, "python": "3.11.7", "torch": "2.15.0", "memlib": "0.1.0", "commit": "0123456789ab-dirty"},
}


def executed(source: str | None = None, **given: object):
    """A notebook that Papermill executed with those parameters."""
    made = notebook("1")
    if source is not None:
        made.cells[1].source = source
    made.metadata["papermill"] = {"parameters": given}
    return made


def closed(made, published: bool = False, **options: object) -> str:
    add_colophon(made, Page("score-one", "score", "A", None if published else {}), "laptop", **options)
    return made.cells[-1].source


def test_parameters_have_their_value_and_what_they_mean():
    made = executed('a: int = 4  # K # of a\nb: str = "ééééé"  # with 2 words\nc: float = -1.5', a=9)
    expected = [
        Parameter("a", 9, "K # of a"),
        Parameter("b", "ééééé", "with 2 words"),
        Parameter("c", -1.5, ""),
    ]
    assert parameters_with_help(made) == expected
    made.cells.insert(2, new_code_cell("a = 3", metadata={"tags": ["injected-parameters"]}))
    assert parameters_with_help(made) == expected
    del made.cells[1]
    assert parameters_with_help(made) == []


SOURCE = 'experiment: str = "digits-lr3"  # a\nepochs: int = 3  # b\nseed: int = 7  # c\nwidth: int = 64  # d'


def test_the_experiment_of_a_page_is_that_of_its_parameters():
    assert experiment_of(executed(SOURCE, epochs=5)) == variant("digits-lr3", epochs=5, seed=7)
    assert experiment_of(executed(SOURCE, experiment="patches")) == variant("patches", epochs=3, seed=7)
    rate = f"{SOURCE}\nlearning_rate: float = 0.0  # e"
    assert experiment_of(executed(rate)) == variant("digits-lr3", epochs=3, seed=7)  # 0: its own
    changed = variant("digits-lr3", epochs=3, seed=7, learning_rate=0.01)
    assert experiment_of(executed(rate, learning_rate=0.01)) == changed
    assert experiment_of(executed(experiment="one")) is None  # not one of memlib's
    assert experiment_of(executed("epochs: int = 3  # a")) is None


def test_a_page_says_where_when_and_with_what_it_was_made():
    made = executed(rate=0.5)
    made.metadata["memlib"] = FACTS
    text = closed(made)
    assert "How this page was made: at the size laptop, on 2026-11-23\n" in text
    assert "* - Executed\n  - 2026-11-23 04:52 UTC, in 10.6 s\n" in text
    assert "* - On\n  - A fast\\* one, 2 cores\n" in text
    assert "  - Python 3.11.7, torch 2.15.0, memlib 0.1.0; commit: 0123456789ab-dirty\n" in text
    assert "  - laptop: minutes on two cores\n" in text
    assert "* - `rate`\n  - `0.5`\n  - step size\n" in text
    assert '* - `experiment`\n  - `"one"`\n  - name\n' in text
    made.metadata["memlib"] = FACTS | {"gpu": "A GPU", "cores": 1}
    assert "  - A GPU, A fast\\* one, 1 core\n" in closed(made)


def test_what_was_not_recorded_is_not_made_up():
    made = executed()
    assert closed(made).count("not recorded") == 3
    made.metadata["memlib"] = {"date": FACTS["date"], "seconds": 1.0}  # as earlier versions did
    text = closed(made, published=True)
    assert text.count("not recorded") == 2 and "  - published: " in text


def test_the_command_gives_papermill_the_very_values():
    given = {
        **{"experiment": "digits-lr3", "label": "0", "empty": "", "words": "it's two words", "truth": "True"},
        **{"rate": 1e-05, "flip": True, "count": 60000, "big": "1e3"},
    }
    declared = {**given, "unset": 5}
    source = "\n".join(f"{name}: {type(v).__name__} = {v!r}  # help" for name, v in declared.items())
    command = re.search(r"```bash\n(.*?)\n```", closed(executed(source, **given)), re.DOTALL)[1]
    assert all(len(line) <= 76 for line in command.splitlines()) and "\\\n" in command
    program, source, target, *options = shlex.split(command.replace("\\\n", " "))
    assert (program, source, target) == (".venv/bin/papermill", "book/score.ipynb", "out.ipynb")
    found = {
        name: {"-p": _resolve_type, "-r": str}[flag](value)
        for flag, name, value in zip(options[::3], options[1::3], options[2::3], strict=True)
    }
    assert found == given
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in given.items()}
