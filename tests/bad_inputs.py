"""Bad inputs by where they come in, each with a piece of its error."""

import os
import shutil
from pathlib import Path

import numpy as np
from bad_arrays import ARRAYS, FIGURES, TOO_FEW, YARDSTICKS
from bad_models import MODELS
from PIL import Image
from refusals import (
    Case,
    call,
    chapter,
    checkpoint,
    command,
    data_files,
    field,
    image_folder,
    page,
    page_file,
    paper_figure,
    pictures,
    replaced,
    result_file,
    variable,
)

NUMBERS = [
    field("epochs=0", "epochs is 0; allowed: 1 or more"),
    field("epochs=2.5", "epochs is 2.5 (float); allowed: int"),
    field("epochs=True", "epochs is True (bool); allowed: int"),
    field("learning_rate=0.0", "learning_rate is 0.0; allowed: between 0 and 1"),
    field("learning_rate=float('nan')", "learning_rate is nan; allowed: between 0 and 1"),
    field("learning_rate='1e-3'", "learning_rate is '1e-3' (str); allowed: float"),
    field("batch_size=-64", "batch_size is -64; allowed: 1 or more"),
    field("num_samples=0", "num_samples is 0; allowed: 1 or more"),
    field("versions=0", "versions is 0; allowed: 1 or more"),
    field("proposal='best'", "proposal is 'best'; allowed: fitted, encoder"),
    field("latent_dim=0", "latent_dim is 0; allowed: 1 or more"),
    field("folds=1", "folds is 1; allowed: 2 or more"),
    field("folds=5, num_images=3", "num_images is 3; allowed: 0, or at least folds = 5"),
    field("num_images=-1", "num_images is -1; allowed: 0 or more"),
    field("repeats=0", "repeats is 0; allowed: 1 or more"),
    field("seed=-1", "seed is -1; allowed: 0 or more"),
]

WORDS = [
    call('memlib.variant("mnist-lr2")', "unknown experiment 'mnist-lr2' (did you mean mnist-lr"),
    call('memlib.variant("digits-lr3", epoch=3)', "unknown field 'epoch' (did you mean epochs?)"),
    call("replace(experiment, lr=0.1)", "unknown field 'lr'"),
    field("architecture='unet'", "architecture is 'unet'; allowed: mlp, conv"),
    field("likelihood='poisson'", "likelihood is 'poisson'; allowed: bernoulli, gaussian"),
    field("precision='float16'", "precision is 'float16'; allowed: float32, tf32, bfloat16"),
    field("noise='shared'", "noise is 'shared'; allowed: paired, paper"),
    call('memlib.memorization(result, "match")', "estimator is 'match'; allowed: paper, matched"),
    call('memlib.interval(scores, name="X")', "name is 'X'; allowed: gap, U, V, M"),
    call('memlib.load_images("minst")', "unknown data set 'minst' (did you mean mnist?)"),
    call('memlib.load_images("digits", "tests")', "unknown split of digits 'tests' (did you mean test?)"),
    call(
        'memlib.run(replace(experiment, images="digit"))', "unknown data set 'digit' (did you mean digits?)"
    ),
    call('pages.load_pages("quik")', "unknown size 'quik' (did you mean quick?); allowed: quick"),
    call('memlib.variant("digits-lr3", epoch=None)', "unknown field 'epoch' (did you mean epochs?)"),
]


def _quick(text: str, message: str) -> Case:
    return page_file("quick.yaml", text, message)


PARAMETER_FILES = [
    _quick("indx: {}", "unknown page 'indx' (did you mean index?)"),
    _quick("index: {epoch: 9}", "page index: unknown parameter 'epoch' (did you mean epochs?)"),
    _quick("index: {epochs: nine}", "page index: epochs is 'nine' (str); allowed: int"),
    _quick("index: {epochs: }", "page index: epochs is None (NoneType); allowed: int"),
    _quick("index: {rate: no}", "rate is False (bool); allowed: float"),
    _quick("index: {rate: 1, rate: 2}", "line 1, column 18: not valid YAML, 'rate' comes twice"),
    _quick("index: {epochs: 9", "quick.yaml, line 1, column 18: not valid YAML"),
    _quick("index: epochs: 9", "quick.yaml, line 1, column 14: not valid YAML"),
    _quick("[index, 04-mnist]", "quick.yaml: the file is ['index', '04-mnist'] (list); allowed: names"),
    _quick("index: 9", "quick.yaml: index is 9 (int); allowed: names with values"),
    page_file("pages.yaml", "pages: index", "pages.yaml: pages is 'index' (str); allowed: a list"),
    page_file("pages.yaml", "page: [index]", "unknown section 'page' (did you mean pages?)"),
    page_file("pages.yaml", "pages: [outdex]", "unknown page 'index'"),
    paper_figure(
        "{number: 1, subject: a, page: indx, parts: {}}", "unknown page 'indx' (did you mean index?)"
    ),
    paper_figure(
        "{number: 1, subject: a}", "figures.yaml: a figure is {'number': 1, 'subject': 'a'}; allowed"
    ),
    page("mnist", "unknown page 'mnist' (did you mean 04-mnist?); allowed: index, 04-mnist"),
    _quick("\0", "quick.yaml: not valid YAML, unacceptable character #x0000"),
    page_file("../index.ipynb", "{", "book/index.ipynb is not a notebook: "),
    call('pages.load_pages("quick", "NOWHERE")', "no file NOWHERE/params/pages.yaml"),
]

PARAMETERS = [
    chapter("05-training", "unknown parameter 'epoch' (did you mean epochs?); allowed: experiment", epoch=2),
    chapter("06-outliers", "this notebook: epochs is 'two' (str); allowed: int", epochs="two"),
    chapter("06-outliers", "this notebook: epochs is 2.5 (float); allowed: int", epochs=2.5),
    chapter("02-data-and-models", "epochs is -2; allowed: 1 or more", epochs=-2),
    chapter("04-mnist", "folds is 1; allowed: 3 or more", folds=1),
    chapter("04-mnist", "num_images is 19; allowed: 0 for all, or at least 20, of wh", num_images=19),
    chapter("07-neighbors", "num_images is 5000 and folds is 3; digits has 1500 trai", num_images=5000),
    chapter(
        "02-data-and-models", "unknown experiment 'mnist-lr5' (did you mean mnist-lr", experiment="mnist-lr5"
    ),
    chapter("01-the-score", "points is -1; allowed: 10 or more", points=-1),
    chapter("03-importance-sampling", "replicates is 0; allowed: 2 or more", replicates=0),
    chapter("08-cost", "folds is 1; allowed: 2 or more", folds=1),
    chapter("10-interruptions", "workers is 1; allowed: 2 or more", workers=1),
    chapter("13-uncertainty", "rate is 1.0; allowed: between 0 and 1", rate=1.0),
    chapter("14-which-score", "repeats is 3; allowed: 4 or more", repeats=3),
    chapter("15-planted", "originals are asked for; allowed: at most the 1500 images give", ordinary=5000),
    chapter("16-duplicates", "lowest is 0.99; allowed: up to threshold, 0.97", lowest=0.99),
    chapter("18-cheaper-scores", "repeats is 2; allowed: 3 or more", repeats=2),
    chapter("18-cheaper-scores", "ridge is 0.0; allowed: between 0 and 1", ridge=0.0),
    chapter("05-training", "unknown experiment 'digit' (did you mean digits-lr", other="digit"),
    chapter("05-training", "other is patches; allowed: digits-lr3 at a smaller le", other="patches"),
    chapter("05-training", "other is digits-lr3; allowed: digits-lr3 at a small", other="digits-lr3"),
    chapter("09-cifar10", "epochs is given with released; allowed: neither", released="a", epochs=2),
    chapter("17-other-models", "unknown experiment of binary pixels 'patches'", experiment="patches"),
    chapter("17-other-models", "repeats is given with released; allowed: neither", released="a", repeats=9),
    chapter("17-other-models", "components is 0; allowed: 1 or more", components=0),
    chapter("19-competition", "false_alarms is 1.0; allowed: between 0 and 1", false_alarms=1.0),
    chapter("20-gaming", "few_images is 120; allowed: fewer than the 120 of the other m", few_images=120),
    chapter("21-two-views", "models is 5, shrink 2; allowed: what leaves the last 20 images", models=5),
    chapter("22-your-model", "num_samples is 20; allowed: 21 or more", num_samples=20),
    chapter("23-explore", "threshold is 1.5; allowed: between 0 and 1", threshold=1.5),
    chapter("13-uncertainty", "rate is nan; allowed: between 0 and 1", rate=float("nan")),
]


def _cats(folder: Path, count: int = 4) -> None:
    pictures(*(folder / "cat" / f"{k}.png" for k in range(count)))


def _cats_and(folder: Path, name: str, content: bytes | None = None) -> None:
    """A file beside the cats, in a folder of its own."""
    _cats(folder, 9)
    (folder / name).parent.mkdir()
    (folder / name).write_bytes(content or b"")


def _not_a_number(folder: Path) -> None:
    _cats(folder / "train", 9)
    _cats(folder / "test")
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(folder / "train" / "cat" / "9.tif")


def _splits(folder: Path) -> None:
    _cats(folder / "train", 9)
    pictures(folder / "test" / "dog" / "0.png")


_MNIST = [f"MNIST/raw/{part}-ubyte" for part in ("train-images-idx3", "train-labels-idx1")]
_MNIST += [f"MNIST/raw/{part}-ubyte" for part in ("t10k-images-idx3", "t10k-labels-idx1")]
_CELEBA = {"celeba/img_align_celeba": "", "celeba/list_eval_partition.txt": "000001.jpg 0\n000002.jpg 3"}

IMAGES = [
    image_folder("a folder that is not there", lambda folder: None, "IMAGES is not a folder"),
    image_folder("an empty folder", Path.mkdir, "no image in IMAGES: expected any of .jpg"),
    image_folder(
        "a class folder without images",
        lambda f: _cats_and(f, "dog/notes.txt"),
        "no image in IMAGES/dog: expec",
    ),
    image_folder("one image", lambda f: _cats(f, 1), "IMAGES holds one image: at least two are needed"),
    image_folder("fewer images than folds", _cats, "folds is 5; folder:IMAGES has 3 training images"),
    image_folder(
        "a file that is no image", lambda f: _cats_and(f, "dog/0.png", b"GIF"), "IMAGES/dog/0.png: can"
    ),
    image_folder(
        "pixels that are not numbers", _not_a_number, "IMAGES/train/cat/9.tif: floating-point pixels"
    ),
    image_folder(
        "other classes in `test` than in `train`", _splits, "classes differ: ('cat',) in IMAGES/train"
    ),
    image_folder("a split that the folder has not", _cats, "unknown split of IMAGES 'holdout'", "holdout"),
    data_files(
        "MNIST files that are not the published ones", "mnist", dict.fromkeys(_MNIST, ""), "is damaged"
    ),
    data_files(
        "an annotation of CelebA that is none", "celeba", _CELEBA, "line 2: expected FILE and 0, 1 or 2"
    ),
    call("replace(digits, images=digits.images[:0])", "n, H, W >= 1 and C 1 or 3, got uint8 (0, 1, 32, 32)"),
    call("replace(digits, images=digits.images * np.nan)", "images must be uint8"),
    call("replace(digits, images=digits.images[..., :0])", "C 1 or 3, got uint8 (297, 1, 32, 0)"),
    call("replace(digits, images=digits.images.repeat(2, axis=1))", "C 1 or 3, got uint8 (297, 2, 32, 32)"),
    call("replace(digits, images=digits.images.transpose(0, 2, 3, 1))", "got uint8 (297, 32, 32, 1)"),
    call("replace(digits, labels=digits.labels + 1)", "labels must be in 0..9, got 1..10"),
    call("replace(digits, labels=digits.labels[1:])", "labels must be int64 (297,), got int64 (296,)"),
    call("digits.subset([])", "indices must be integers (m,), m >= 1, got float64 (0,)"),
    call("digits.subset([297])", "indices must be in 0..296, got 297..297"),
    call("digits.subset([0.5])", "indices must be integers (m,), m >= 1, got float64 (1,)"),
    call(
        'memlib.load_images("digits", size=64)', "size is 64; allowed: 32 for digits, others for folder:PATH"
    ),
    call('memlib.load_images("folder:IMAGES", size=0)', "size is 0; allowed: a whole number, 1 or more"),
    call(
        "planted.plant(memlib.ImageSet.of(digits.images[..., 2:30, 2:30]), 40)",
        "images are 28 x 28 pixels; allowed: no outliers, or sides that are multiples of 8, 32 or more",
    ),
    call(
        "features.train_classifier(memlib.ImageSet.of(digits.images[..., :3]))",
        "images are 32 x 3 pixels; allowed: 4 x 4 or more",
    ),
    call("replace(digits, index=digits.index - 2000)", "index must be in 0.."),
    call("digits.subset([-1])", "indices must be in 0..296, got -1..-1"),
    call("digits.subset(digits.labels == 7)", "indices must be integers (m,), m >= 1, got bool (297,)"),
    data_files(
        "an annotation of CelebA without training images",
        "celeba",
        {**_CELEBA, "celeba/list_eval_partition.txt": "000001.jpg 1"},
        "lists no image of split 'train' (number 0)",
    ),
    call("replace(digits, classes=())", "classes must be a tuple of at least one class name, got ()"),
    *(
        call(f"memlib.ImageSet.of(digits.images[:2], {labels})", message)
        for labels, message in {
            "['cat', None]": "1 labels are missing, the first of image 1; allowed: a label for each image",
            "[0.0, np.nan]": "1 labels are missing, the first of image 1",
            "['cat', np.nan]": "1 labels are missing, the first of image 1",
            "np.array(['NaT', '2026-01-01'], 'M8[D]')": "1 labels are missing, the first of image 0",
            "[1, '1']": "labels 1 and '1' differ but read the same; allowed: labels of one type",
            "[True, 'True']": "labels True and 'True' differ but read the same",
            "[b'cat', 'cat']": "labels b'cat' and 'cat' differ but read the same",
            r"['caf\xe9', 'cafe\u0301']": "several classes read 'caf\xe9'; allowed: names that differ",
            r"['cat', 'caf\udce9']": r"'caf\udce9' is not valid Unicode; allowed: names in UTF-8, rename it",
        }.items()
    ),
    call("replace(digits, classes=('0',) * 10)", "several classes read '0'; allowed: names that differ"),
    image_folder(
        "a class folder whose name is not UTF-8",
        lambda f: _cats_and(f, os.fsdecode(b"caf\xe9/0.ppm"), b"P6 1 1 255\n\x00\x00\x00"),
        r"is not valid Unicode; allowed: names in UTF-8, rename it",
    ),
    call("replace(digits, paths=['0.png'] * 297)", "paths must be None or a tuple of strings, got a list"),
    call("replace(digits, paths=('0.png',))", "paths must be one for each of the 297 images, got 1"),
    call("replace(digits, index=digits.index[1:])", "index must be int64 (297,), got int64 (296,)"),
]

RESULTS = [
    result_file(
        "a truncated file", lambda p: p.write_bytes(p.read_bytes()[:-100]), "repeat-000.npz is damaged"
    ),
    result_file(
        "an empty file", lambda p: p.write_bytes(b""), "repeat-000.npz is damaged (File is not a zip"
    ),
    result_file(
        "an altered array",
        lambda p: replaced(p, "log_px.npy", lambda content: content[:-1] + b"?"),
        "is damaged (array log_px is not the one that was written); delete it",
    ),
    result_file(
        "an array under another name",
        lambda p: replaced(p, "log_pz.npy", lambda content: content),
        "is damaged (its arrays are log_pz instead of log_px); delete it",
    ),
    result_file(
        "one repeat's file under the name of another",
        lambda p: shutil.copy(p, p.with_name("repeat-001.npz")),
        "repeat-001.npz was written as repeat-000.npz; give it that name again, or delete it",
    ),
    result_file(
        "a file of another run", lambda p: None, "learning_rate is 0.1 there and 0.001", learning_rate=0.1
    ),
    result_file(
        "a file of another version of memlib",
        lambda p: None,
        "repeat-000.npz was written by another version of memlib; read it with",
        version=1,
    ),
    result_file(
        "a file without a record of its name",
        lambda p: np.savez(p, record=np.array("{}")),
        "repeat-000.npz was written by another version of memlib; read it with",
    ),
    checkpoint(
        "a checkpoint of another run", "epoch-000001.npz was computed for other settings: seed", seed=7
    ),
    checkpoint("a checkpoint of a GPU on a CPU", "computed on device 'cuda' and goes on only there", "cuda"),
]

SURROUNDINGS = [
    variable("MEMLIB_DEVICE", "tpu", "memlib.run(experiment)", "device is 'tpu'; allowed: cpu, cuda, cuda:N"),
    variable("MEMLIB_DEVICE", "cuda", "memlib.run(experiment)", "device is 'cuda', but PyTorch sees no GPU"),
    variable("MEMLIB_RESULTS", "FILE", "memlib.run(experiment)", "MEMLIB_RESULTS is 'FILE', which is a file"),
    variable(
        "MEMLIB_DATA", "FILE", 'memlib.load_images("mnist")', "the data folder is 'FILE', which is a file"
    ),
    call("memlib.run(experiment, digits)", "held_out is a NoneType; allowed: an ImageSet for both images"),
    call("memlib.run(experiment, digits, digits)", "num_images is 24; allowed with images at hand: 0, all"),
    call(
        "memlib.run(replace(experiment, num_images=0, folds=298), digits, digits)",
        "folds is 298; allowed: at most the number of images, 297",
    ),
    call(
        "memlib.run(replace(experiment, num_images=0), digits, memlib.ImageSet.of(digits.images[..., 8:]))",
        "held_out are (1, 32, 24); allowed: (1, 32, 32), as the models take them",
    ),
    call("memlib.run(experiment, device=0)", "device is 0; allowed: cpu, cuda, cuda:N"),
    call('memlib.run(replace(experiment, precision="tf32"))', "precision is 'tf32', which only GPUs have"),
    call('memlib.run("digits-lr3")', "experiment is 'digits-lr3'; allowed: an Experiment, as EXPERIMENTS"),
    call(
        "memlib.run(experiment, executor=object())",
        "executor is of type object; allowed: a concurrent.futures.Exec",
    ),
    call('memlib.run(experiment, device="cuda0")', "device is 'cuda0'; allowed: cpu, cuda, cuda:N"),
    call("memlib.runs.cost.cost(experiment, 1, 1, 20)", "n is 1; allowed: 2 or more"),
    call(
        "memlib.runs.cost.cost(experiment, 24, 1, 20, {0: 3})", "epochs that are done is 3; allowed: 0 to 2"
    ),
    call("memlib.runs.cost.cost(experiment, 24, 1, -1)", "validation_images is -1; allowed: 0 or more"),
    call("memlib.runs.cost.cost(experiment, 24, 1, 20, at_once=0)", "at_once is 0; allowed: 1 or more"),
    call("memlib.runs.cost.cost(experiment, 24, 2, 20)", "channels is 2; allowed: 1, 3"),
    call('memlib.runs.cost.machine_limits(precision="half")', "precision is 'half'; allowed: float32, tf32"),
    call("memlib.chapters.notebook.record(median=[4])", "median is a list; allowed: a number or a string"),
]

COMMANDS = [
    command("run digits-lr2", "unknown experiment 'digits-lr2' (did you mean digits-lr"),
    command("run digits-lr3 --folds 1", "folds is 1; allowed: 2 or more"),
    command("run digits-lr3 --epochs two", "Invalid value for '--epochs': 'two' is not a valid integer"),
    command("run digits-lr3 --epoch 2", "Did you mean '--epochs'?"),
    command("run digits-lr3 --device tpu", "device is 'tpu'; allowed: cpu, cuda, cuda:N"),
    command("run digits-lr3 --root FILE", "the results folder is 'FILE', which is a file; allowed: a folder"),
    command(
        "run digits-lr3 --scheduler 10.0.0.1", "scheduler is '10.0.0.1'; allowed: an address such as tcp://"
    ),
    command("run digits-lr3 --scheduler tcp://127.0.0.1:1", "no scheduler answers at tcp://127.0.0.1:1"),
    command("list --root FILE", "the results folder is 'FILE', which is a file; allowed: a folder"),
    command(
        "run digits-lr3 --root FILE/results", "is 'FILE/results', but 'FILE' is a file; allowed: a folder"
    ),
    command("verify --root FILE", "the results folder is 'FILE', which is a file; allowed: a folder"),
    command("data --root FILE", "the data folder is 'FILE', which is a file; allowed: a folder"),
    command("scores digits-lr3 --out FILE", "score file is 'FILE'; allowed: a name that ends in .parquet"),
    command("scores digits-lr3 --out NOWHERE/a.parquet", "but there is no folder 'NOWHERE'"),
    command("scores digits-lr3 --out FILE.parquet", "'FILE.parquet' is there already; choose another name"),
    command(
        "scores digits-lr3 --out NOWHERE.parquet", "5 of 5 tasks are missing in RESULTS/digits-HASH; run"
    ),
    call('pages.load_pages("huge")', "unknown size 'huge'; allowed: quick, laptop, paper, published"),
]

CASES = [
    *(NUMBERS + WORDS + PARAMETER_FILES + PARAMETERS + IMAGES + ARRAYS + TOO_FEW + YARDSTICKS + FIGURES),
    *(MODELS + RESULTS + SURROUNDINGS + COMMANDS),
]
