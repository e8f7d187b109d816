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
from memlib.experiment import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("quick", "laptop", "paper", "published")
_SIZE = {"experiments": dict, "chapters": dict}  # sections of a size's file
HEADING = re.compile(r"^# +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A page of the book: a notebook with its parameters."""

    name: str
    notebook: str  # of its source, without .ipynb
    title: str | None = None  # None: as the notebook's heading
    parameters: Mapping[str, Any] | None = None  # None: the page comes executed from published/

    @property
    def suffix(self) -> str:
        """What its labels end in: `-<experiment>` on a template's page, nothing in a chapter."""
        return self.name.removeprefix(self.notebook)

    @property
    def experiment(self) -> str:
        """The experiment of a template's page; empty for a chapter."""
        return self.suffix[1:]


def load_pages(size: str = "laptop", book_dir: str | Path = ROOT / "book") -> list[Page]:
    """The pages at a size, in the order in which to execute them.

    Templates come first and by notebook, so that the first pages train different experiments and the later
    ones find their results. A template's page has the parameters of its experiment, over them those of the
    template, and over these its own: `chapters` of a size may name notebooks and single pages.

    Args:
        size: quick, laptop or paper for the whole book; published for the pages of published.yaml alone.
        book_dir: the folder of the notebooks and of params/.

    Raises:
        ValueError: an unknown size, a file of params/ that is not what it should be, or an unknown
            experiment, chapter or parameter in it, named with the file.
        FileNotFoundError: a file of params/, or a notebook that pages.yaml names, is missing.
    """
    check_known("size", size, SIZES)
    book_dir = Path(book_dir)
    listed = read_yaml(book_dir / "params" / "pages.yaml", chapters=list, templates=list, experiments=dict)
    templates = dict(_template(entry, listed["experiments"]) for entry in listed["templates"])
    of_templates = [f"{notebook}-{name}" for notebook, names in templates.items() for name in names]
    file = book_dir / "params" / f"{size}.yaml"
    settings = read_yaml(file, **_SIZE)
    experiments, chapters = settings["experiments"], settings["chapters"]
    for kind, given, known in (
        ("chapter", chapters, (*listed["chapters"], *templates, *of_templates)),
        ("experiment", experiments, (*listed["experiments"], *EXPERIMENTS)),
    ):
        for name, parameters in given.items():
            check_known(kind, name, known, f"{file.name}: ")
            given[name] = _checked(file, name, parameters, dict)
    published = book_dir / "params" / "published.yaml"
    elsewhere = read_yaml(published, **_SIZE)["chapters"] if published.exists() else {}

    pages = []
    for notebook in (*templates, *listed["chapters"]):
        source = read_notebook(book_dir / f"{notebook}.ipynb")
        declared, own = declared_by(source), chapters.get(notebook, {})
        heading = next((found[1] for cell in source.cells if (found := HEADING.search(cell.source))), "")
        if notebook in templates:
            candidates = [
                (
                    f"{notebook}-{name}",
                    f"{heading} ({title})" if heading.endswith("?") else f"{heading}: {title}",
                    {"experiment": name, **experiments[name], **own, **chapters.get(f"{notebook}-{name}", {})}
                    if name in experiments
                    else None,
                )
                for name, title in templates[notebook].items()
            ]
        else:
            here = notebook in chapters or (size != "published" and notebook not in elsewhere)
            candidates = [(notebook, None, own if here else None)]
        for name, title, parameters in candidates:
            check_values(declared, parameters or {}, f"{file.name}, page {name}")
            if parameters is not None or size != "published":
                pages.append(Page(name, notebook, title, parameters))
    return pages


def _template(entry: Any, experiments: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A template and the titles of the experiments that it has pages of: all, or those listed for it."""
    if isinstance(entry, str):
        return entry, experiments
    if not isinstance(entry, dict) or [type(only) for only in entry.values()] != [list]:
        raise ValueError(
            f"pages.yaml: a template is {entry!r}; allowed: a notebook, or `notebook: [experiment]`"
        )
    [(notebook, only)] = entry.items()
    for name in only:
        check_known("experiment", name, experiments, "pages.yaml: ")
    return notebook, {name: experiments[name] for name in only}


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

    ValueError, with the file's name, for what is no valid YAML, another section, or one of another type.
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
    by_name, found = {page.name: page for page in pages}, {}
    for entry in read_yaml(file, figures=list)["figures"] if file.exists() else []:
        fields = {"number": int, "subject": str, "page": str, "parts": dict}
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != fields:
            raise ValueError(
                f"{file.name}: a figure is {entry!r}; allowed: {', '.join(fields)}, of those types"
            )
        figure = PaperFigure(**entry)
        check_known("page", figure.page, by_name, f"{file.name}: ")
        drawn = figures_of(read_notebook(Path(book_dir) / f"{by_name[figure.page].notebook}.ipynb"))
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
