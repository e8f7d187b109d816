"""The descriptions of published/ that machines read."""

import json
import shutil

import mlcroissant as mlc
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rocrate.rocrate import ROCrate

import memlib
from book._ext.describe import CRATE, CROISSANT, crate, croissant, made, published_files
from book._ext.pages import ROOT
from memlib.runs.released import Released, write_full, write_repeat

# of what mlcroissant calls in rdflib and pandas
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index:DeprecationWarning"),
]
PUBLISHED = ROOT / "published"
RUN = {"memlib": "0.1.0", "torch": "2.15.0+cpu", "seconds": 1.25, "finished": "2026-11-27T10:00:00+00:00"}


def plain(value):
    """A value of a record as the file has it: texts are read as bytes."""
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize(("name", "describe"), [(CRATE, crate), (CROISSANT, croissant)])
def test_the_committed_descriptions_are_of_what_is_published(name, describe):
    committed = json.loads((PUBLISHED / name).read_text("utf-8"))
    assert committed == describe(), f"published/{name} is outdated: make metadata"


@pytest.fixture
def root(tmp_path):
    """A repository that has published one small run of three images and two models."""
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    images = memlib.load_images("digits", "test").subset(np.arange(3))
    log_px = {f"encoder_2_{k}": np.array([-1.5, -2.25, -3 - k], np.float32) for k in range(2)}
    log_px["fitted_2_0"] = np.array([-1, np.nan, -2], np.float32)
    runs = {0: RUN, 1: RUN | {"finished": "2026-11-28T10:00:00+00:00"}}
    folder = tmp_path / "published" / "runs" / "small" / "digits"
    request = {"folds": 2, "epochs": 2}
    write_repeat(folder / "repeat-00.parquet", images, Released(np.array([0, 1, 1]), log_px, runs), request)
    write_full(folder / "full.npz", {"train_loss": np.zeros(2)}, request)
    return tmp_path


def test_the_crate_has_every_file_with_its_hash_and_what_made_it(root):
    (root / "published" / CRATE).write_text(json.dumps(crate(root)), "utf-8")
    read = ROCrate(root / "published")
    files = {entity.id: entity for entity in read.get_by_type("File")}
    assert sorted(files) == ["runs/small/digits/full.npz", "runs/small/digits/repeat-00.parquet"]
    name = "runs/small/digits/repeat-00.parquet"
    assert len(files[name]["sha256"]) == 64
    assert files[name]["contentSize"] == str((root / "published" / name).stat().st_size)
    [action] = read.get_by_type("CreateAction")
    assert action["result"] == files[name] and action["endTime"] == "2026-11-28T10:00:00+00:00"
    assert action["name"].startswith("2 of 2 models") and action["additionalProperty"]["value"] == 2.5
    assert json.loads(action["object"]["value"]) == {"folds": 2, "epochs": 2}
    tools = {tool["name"]: tool["softwareVersion"] for tool in action["instrument"]}
    assert tools == {"memlib": "0.1.0", "torch": "2.15.0"}
    assert read.root_dataset["datePublished"][:10] == "2026-11-28" and read.license["name"] == "MIT license"


def test_a_changed_and_a_new_file_change_both_descriptions(root):
    before = crate(root), croissant(root)
    assert (crate(root), croissant(root)) == before
    folder = root / "published" / "runs" / "small" / "digits"
    write_full(folder / "full.npz", {"train_loss": np.ones(2)}, {"folds": 2})
    changed = crate(root), croissant(root)
    shutil.copy(folder / "repeat-00.parquet", folder / "repeat-01.parquet")
    (folder / "repeat-02.parquet.host-1.part").write_text("")  # which another process writes
    new = crate(root), croissant(root)
    for one, two in ((before, changed), (changed, new)):
        assert all(a != b for a, b in zip(one, two, strict=True))
    assert "part" not in json.dumps(new).replace("hasPart", "")


def test_a_file_of_another_kind_is_refused(root):
    (root / "published" / "notes.docx").write_text("")
    with pytest.raises(ValueError, match=r"notes.docx: unknown kind of file '.docx'"):
        crate(root)


def test_the_data_set_is_valid_and_reads_back_what_the_files_hold(root):
    target = root / "published" / CROISSANT
    target.write_text(json.dumps(croissant(root)), "utf-8")
    dataset = mlc.Dataset(target)  # raises for errors
    assert not dataset.metadata.issues.errors and not dataset.metadata.issues.warnings
    [described] = dataset.metadata.record_sets
    file = target.parent / "small" / "digits" / "repeat-00.parquet"
    columns = {field.name: field for field in described.fields}
    assert list(columns) == pq.read_schema(file).names
    assert (
        columns["encoder_2_1"].description.endswith("unit: nats")
        and "unit" not in columns["fold"].description
    )
    records = [*dataset.records("small/digits/repeat-00")]
    held = pd.read_parquet(file)
    for name in columns:
        read = [record[f"small/digits/repeat-00/{name}"] for record in records]
        assert [plain(value) for value in read] == held[name].replace(np.nan, None).tolist(), name
    assert plain(records[1]["small/digits/repeat-00/fitted_2_0"]) is None


def test_the_published_data_set_is_valid_and_its_first_record_is_that_of_the_file():
    dataset = mlc.Dataset(PUBLISHED / CROISSANT)
    assert not dataset.metadata.issues.errors and not dataset.metadata.issues.warnings
    file = next(file for file in published_files(ROOT) if file.suffix == ".parquet")
    name = file.relative_to(PUBLISHED / "runs").with_suffix("").as_posix()
    record = next(iter(dataset.records(name)))
    held = pd.read_parquet(file).iloc[0]
    assert len(record) == len(held)
    for column, value in held.items():
        assert plain(record[f"{name}/{column}"]) == (None if pd.isna(value) else value), column


def test_pages_and_repeats_say_how_they_were_made():
    page = made(PUBLISHED / "book" / "04-mnist.ipynb")
    assert page.settings["experiment"] == "mnist-lr3" and page.seconds > 0
    assert any(version.startswith("torch ") for version in page.versions)
    assert made(PUBLISHED / "extremes-mnist-lr3.svg") is None
