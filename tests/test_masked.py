"""Masked arrays are refused wherever arrays are taken: NumPy drops masks without a word."""

import numpy as np
import pytest
import torch
from bad_models import returns
from refusals import NAMES

import memlib
from memlib import checks, inference
from memlib.data import ImageSet
from memlib.memorization import memorization_scores
from memlib.metrics import detection, duplicates, features, fld, mifid, neighbors, samples

X, Y, M, DIGITS = NAMES["x"], NAMES["y"], NAMES["M"], NAMES["digits"]
LOG_PX, FOLD_OF, RESULT = NAMES["log_px"], NAMES["fold_of"], NAMES["result"]
PIXELS = DIGITS.images[:40]

CALLS = [  # the name in the error, what is given, and to what
    ("images", PIXELS, ImageSet.of),
    ("labels", DIGITS.labels[:40], lambda m: ImageSet.of(PIXELS, m)),
    ("labels", DIGITS.labels, lambda m: ImageSet(DIGITS.images, m, DIGITS.classes, "", "", DIGITS.index)),
    ("index", DIGITS.index, lambda m: ImageSet(DIGITS.images, DIGITS.labels, DIGITS.classes, "", "", m)),
    ("indices", np.arange(9), DIGITS.subset),
    ("log_px", LOG_PX, lambda m: memorization_scores(m, FOLD_OF)),
    ("fold_of", FOLD_OF, lambda m: memorization_scores(LOG_PX, m)),
    ("variance", LOG_PX**2, lambda m: memorization_scores(LOG_PX, FOLD_OF, variance=m)),
    ("M", M, memlib.highly_memorized),
    ("a", M, lambda m: inference.rank_correlation(m, M)),
    ("b", M, lambda m: inference.rank_correlation(M, m)),
    ("scores", M, lambda m: inference.corrected_correlation(RESULT, m)),
    ("scores", M, lambda m: inference.reliability(RESULT, lambda run: m)),
    ("fold_of", FOLD_OF, lambda m: memlib.score_models(returns(M), m, DIGITS.subset(range(40)))),
    (
        "what log_prob of the model",
        DIGITS.labels,
        lambda m: memlib.cross_fit(returns(m), DIGITS, progress=False),
    ),
    ("generated", X, lambda m: mifid.frechet_distance(m, Y)),
    ("training", X, lambda m: mifid.frechet_distance(Y, m)),
    ("features", X, mifid.moments),
    ("generated", X, lambda m: mifid.mifid(m, Y, eps=0.1)),
    ("held_out", X, lambda m: mifid.mifid(Y, Y, eps=0.1, held_out=m)),
    ("training", X, lambda m: mifid.memorization_distance(Y, m)),
    ("fid", M, lambda m: mifid.penalized_fid(m, M, 0.1)),
    ("d", M, lambda m: mifid.penalized_fid(M, m, 0.1)),
    ("queries", X, lambda m: neighbors.nearest(m, Y)),
    ("references", X, lambda m: neighbors.distance_ratio(Y, m, X)),
    ("images", PIXELS, neighbors.half_resolution),
    ("others", PIXELS, lambda m: duplicates.near_duplicates(PIXELS, m)),
    ("images", PIXELS, features.pixels),
    ("images", X, lambda m: samples.radii(m, 3)),
    ("held_out", X, lambda m: samples.data_copying(X, m, X)),
    ("generated", X, lambda m: samples.precision_recall(X, m)),
    ("spacing", M, lambda m: samples.authenticity(X, Y, m)),
    ("reach", M, lambda m: samples.density_coverage(X, Y, 5, m)),
    ("generated", X, samples.vendi),
    ("the kernel", np.eye(40), lambda m: samples.vendi(X, lambda x: m)),
    ("held_out", X, lambda m: fld.fld(X, m, X)),
    ("score", M, lambda m: detection.auc(m, M > 9)),
    ("positive", M > 9, lambda m: detection.auc(M, m)),
    ("original", M, lambda m: detection.auc(M, M > 9, original=m)),
    ("M", M, lambda m: memlib.figures.extreme_indices(m, 2)),
    ("images", PIXELS, memlib.figures.image_grid),
]


@pytest.mark.parametrize("masked", ["some", "none", "in a list"])
@pytest.mark.parametrize(("name", "values", "give"), CALLS)
def test_masked_arrays_are_refused(name, values, give, masked):
    mask = np.arange(values.size).reshape(values.shape) < (3 if masked == "some" else 0)
    given = np.ma.masked_array(values, mask)
    with pytest.raises(ValueError, match=rf"^{name}.* is a masked array, .*; allowed: a plain array"):
        give([*given] if masked == "in a list" and values.ndim > 1 else given)


def test_a_masked_number_in_a_list_is_refused():
    with pytest.raises(ValueError, match=r"^M is a masked array"):
        memlib.highly_memorized([*M, np.ma.masked])


def test_tensors_are_arrays_whatever_they_hold():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        tensor = torch.tensor([1.5, -2.0], dtype=dtype, requires_grad=True)
        np.testing.assert_array_equal(checks.as_array("x", tensor), [1.5, -2.0])
