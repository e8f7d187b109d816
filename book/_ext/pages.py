"""The pages of the book: what `book/params/` says of them, and what is wrong in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml

from memlib.chapters.notebook import check_values, declared_parameters
from memlib.checks import check_known

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("quick", "laptop", "paper", "published")
HEADING = re.compile(r"^# +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A page of the book: a notebook, by its name without .ipynb, with its parameters."""

    name: str
    parameters: Mapping[str, Any] | None = None  # None: the page comes executed from published/


def load_pages(size: str = "laptop", book_dir: str | Path = ROOT / "book") -> list[Page]:
    """The pages at a size, in the order in which to execute them.

    Args:
        size: quick, laptop or paper for the whole book; published for the pages of published.yaml alone.
        book_dir: the folder of the notebooks and of params/.

    Raises:
        ValueError: an unknown size, a file of params/ that is not what it should be, or an unknown page or
            parameter in it, named with the file.
        FileNotFoundError: a file of params/, or a notebook that pages.yaml names, is missing.
    """
    check_known("size", size, SIZES)
    book_dir = Path(book_dir)
    params = book_dir / "params"
    listed = read_yaml(params / "pages.yaml", pages=list)["pages"]
    settings = _settings(params / f"{size}.yaml", listed)
    published = params / "published.yaml"
    elsewhere = _settings(published, listed) if published.exists() else {}
    pages = []
    for name in listed:
        declared = declared_by(read_notebook(book_dir / f"{name}.ipynb"))
        check_values(declared, settings.get(name, {}), f"{size}.yaml, page {name}")
        if name in settings:
            pages.append(Page(name, settings[name]))
        elif size != "published":
            pages.append(Page(name, None if name in elsewhere else {}))
    return pages


def _settings(file: Path, listed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Page -> parameters of a size's file."""
    given = read_yaml(file)
    for name in given:
        check_known("page", name, listed, f"{file.name}: ")
    return {name: _checked(file, name, parameters, dict) for name, parameters in given.items()}


def declared_by(notebook: NotebookNode) -> dict[str, str]:
    """Name -> annotation of the parameters that a notebook declares."""
    tagged = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    return next((declared_parameters(c.source) for c in tagged if c.cell_type == "code"), {})


def figures_of(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """Name -> `mystnb` metadata of the code cells that show a figure."""
    shown = [cell.metadata.get("mystnb", {}) for cell in notebook.cells]
    return {m["figure"]["name"]: m for m in shown if "name" in m.get("figure", {})}


def read_notebook(path: Path) -> NotebookNode:
    """A notebook; FileNotFoundError where there is no file, ValueError where it is none."""
    try:
        return nbformat.read(path, 4)
    except FileNotFoundError:
        raise FileNotFoundError(f"no notebook {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a notebook: {error}") from error


def read_yaml(file: Path, **sections: type) -> dict[str, Any]:
    """The sections of a file of params/, each of its type and empty where the file has nothing for it.

    Where no sections are given, all that is there. ValueError, with the file's name, for what is no valid
    YAML, another section, or one of another type.
    """
    try:
        content = yaml.load(file.read_text("utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {file}") from None
    except yaml.MarkedYAMLError as error:
        at = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        raise ValueError(f"{file.name}, {at}: not valid YAML, {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name}: not valid YAML, {error}") from error
    content = _checked(file, "the file", content, dict)
    if not sections:
        return content
    for name in content:
        check_known("section", name, sections, f"{file.name}: ")
    return {name: _checked(file, name, content.get(name), kind) for name, kind in sections.items()}


class _UniqueKeys(yaml.SafeLoader):
    """Where YAML lets the last of two equal keys win, one of them is a mistake."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, names = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if str(key.value) in names:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} comes twice", problem_mark=key.start_mark)
            names.add(str(key.value))
        return node


def _checked(file: Path, name: Any, value: Any, kind: type) -> Any:
    """A value of the type, empty for nothing; ValueError for another."""
    if value is not None and not isinstance(value, kind):
        allowed = {dict: "names with values, as in `name: value`", list: "a list, as in `[one, two]`"}[kind]
        raise ValueError(f"{file.name}: {name} is {value!r} ({type(value).__name__}); allowed: {allowed}")
    return kind() if value is None else value


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper and where it is in the book."""

    number: int
    subject: str
    page: str
    parts: Mapping[str, str]  # name of a figure of the page -> the part of the paper's figure, or ""


def load_figures(book_dir: str | Path, pages: Sequence[Page]) -> list[PaperFigure]:
    """The figures of params/figures.yaml by number, none where there is no such file.

    ValueError for an entry that is not as it should be, of a page that is not in the book, or of a figure
    that its notebook does not have, or has without caption or alt text.
    """
    file = Path(book_dir) / "params" / "figures.yaml"
    names, found = [page.name for page in pages], {}
    for entry in read_yaml(file, figures=list)["figures"] if file.exists() else []:
        fields = {"number": int, "subject": str, "page": str, "parts": dict}
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != fields:
            raise ValueError(
                f"{file.name}: a figure is {entry!r}; allowed: {', '.join(fields)}, of those types"
            )
        figure = PaperFigure(**entry)
        check_known("page", figure.page, names, f"{file.name}: ")
        drawn = figures_of(read_notebook(Path(book_dir) / f"{figure.page}.ipynb"))
        for name, part in figure.parts.items():
            if not isinstance(part, str):
                raise ValueError(f"{file.name}: part {part!r} of {name}; allowed: a text, empty for none")
            check_known("figure", name, drawn, f"{file.name}, page {figure.page}: ")
            if not (drawn[name]["figure"].get("caption") and drawn[name].get("image", {}).get("alt")):
                raise ValueError(f"{file.name}, page {figure.page}: {name} has no caption or no alt text")
        if figure.number in found:
            raise ValueError(f"{file.name}: figure {figure.number} comes twice")
        found[figure.number] = figure
    return [found[number] for number in sorted(found)]


def toc_pages(root: Path = ROOT) -> list[str]:
    """The files that _toc.yml lists, in its order."""
    return list(parse_toc_yaml(root / "_toc.yml"))
