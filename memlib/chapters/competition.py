"""Chapter 19: what the authors of the competition behind MiFID released of each submission, recomputed."""

import numpy as np
import pandas as pd

from memlib.datasets import data_root, fingerprint
from memlib.metrics.mifid import EPS, penalized_fid

FILE = "mifid_competition_results.csv"
SHA256 = "c8e26eaa68bcf65070283f380d6fc212d21803860f4eaea0e15ad23b89287e70"
UNSCORED = 999999.0  # in place of a private score
FEATURES = {"public": "inception", "private": "nasnet"}
HONEST = "non-mem"
# the authors' labels, from reading the code of the best submissions
LABELS = {
    "non-mem": "not memorizing",
    "mgan": "memorization GAN",
    "sup": "supervised mapping",
    "aug": "augmented training images",
    "ae": "autoencoder",
}


def load() -> pd.DataFrame:
    """The released table, one row a submission, from the data folder.

    Returns:
        Indexed by submission; `label` (empty for none), and for public and private each: `fid`, `d` and
        `released`, the score, as columns of two levels, NaN where there is none.

    Raises:
        FileNotFoundError: no such file; says where it comes from.
        ValueError: another file than the authors released, or a data folder that is a file.
    """
    path = data_root() / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"no {path}; set MEMLIB_DATA to the folder that has the results of the competition, which its "
            "authors released with their code and data (Bai et al. 2021)"
        )
    digest = fingerprint(path, "sha256")
    if digest != SHA256:
        raise ValueError(f"{path} has sha256 {digest[:8]}...; allowed: the authors' release, {SHA256[:8]}...")
    raw = pd.read_csv(path, index_col="submission_id", keep_default_na=False, na_values=[""])
    columns = {("", "label"): raw["labels"].fillna("")}
    for half in FEATURES:
        columns[half, "fid"] = raw[f"FID_{half}"]
        columns[half, "d"] = raw[f"distance_{half}"]
        columns[half, "released"] = raw[f"{half}_score"].replace(UNSCORED, np.nan)
    return pd.DataFrame(columns)


def recompute(table: pd.DataFrame) -> pd.DataFrame:
    """MiFID of every submission that has a released score, from its FID and d, beside the released one.

    Returns:
        One row for each of public and private: `scored`, how many; `equal`, how many agree within 1e-9 of
        the value; `largest_error`, relative; `penalized`, submissions with d below eps.
    """
    rows = {}
    for half, kind in FEATURES.items():
        own = table[half].dropna()
        score = penalized_fid(own["fid"], own["d"], EPS[kind])
        error = np.abs(score / own["released"] - 1)
        caught = own.index[own["d"] < EPS[kind]].tolist()
        rows[half] = len(own), int((error <= 1e-9).sum()), error.max(), caught
    return pd.DataFrame.from_dict(rows, "index", columns=["scored", "equal", "largest_error", "penalized"])
