"""A small call of every figure, its data, and what tests read from a figure."""

import numpy as np

from memlib import figures

N = 60
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (N, 1, 8, 8), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
M = RNG.normal(4, 3, N)
HIGH = np.quantile(M, 0.9) < M
LOG_PX = RNG.normal(-80, 10, N)
RHO = np.exp(RNG.normal(0, 0.2, N))
GRID = np.linspace(-3, 3, 61)
EDGES = [-90.0, -80.0, -75.0]
CURVE = ([1.0, 2.0, 4.0], [0.1, 0.2, 0.0])  # means and lengths of their bars
KHAT = np.append(RNG.normal(0.6, 0.3, N), np.inf)
SHARES = [0.0, 0.1, 1.0]
VALUES = np.array([[0.25, np.nan, -12.3], [1e13, 0, 417.2]])
ROC = ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 0.75, 1.0])

FIGURES = {
    "image_grid": lambda: figures.image_grid(GRAY[:11]),
    "extremes": lambda: figures.extremes(COLOR, M, count=6),
    "neighbors_panel": lambda: figures.neighbors_panel(*[COLOR[:11]] * 3, RHO[:11]),
    "losses": lambda: figures.losses(np.arange(9.0), np.arange(9.0)),
    "quantile_curves": lambda: figures.quantile_curves([5, 10], [M, M + 1]),
    "score_density": lambda: figures.score_density(M),
    "log_prob_histogram": lambda: figures.log_prob_histogram(LOG_PX, HIGH, GRAY, EDGES),
    "log_prob_proportions": lambda: figures.log_prob_proportions(LOG_PX, HIGH, EDGES),
    "ratio_by_score": lambda: figures.ratio_by_score(M, RHO, 1, -5, 10),
    "ratio_density": lambda: figures.ratio_density(RHO, HIGH),
    "known_scores": lambda: figures.known_scores([0, 1], 1, GRID, {"a": (-(GRID**2), -(GRID**2) - 1, 1)}),
    "agreement": lambda: figures.agreement(M, M + 1, "exact (nats)", "estimate (nats)"),
    "error_bars": lambda: figures.error_bars([1, 2, 4], {"a": CURVE, "b": CURVE}, "x", "y (nats)", 0, True),
    "intervals": lambda: figures.intervals(M, M - 1, M + 2, HIGH, ("listed", "others")),
    "weight_health": lambda: figures.weight_health({"a": KHAT, "b": KHAT + 0.1}, 0.58),
    "group_rows": lambda: figures.group_rows(COLOR, [range(14), [3, 5]], ["automobile,\n14 times", "b"]),
    "by_share": lambda: figures.by_share(SHARES, {"d": [0, 1, 9], "C_T": [-1, 0, 50]}, "share", "against"),
    "verdicts": lambda: figures.verdicts(VALUES, VALUES > 300, ["VAE", "copies"], ["d", "C_T", "FID"]),
    "roc_curves": lambda: figures.roc_curves({"outlier": {"a": ROC, "b": ROC}, "copy": {"a": ROC}}),
}


def shown(figure):
    """The images of a figure, in the order they were drawn, each as uint8 (C, H, W)."""
    arrays = [image.get_array() for axes in figure.axes for image in axes.get_images()]
    return [np.asarray(a)[None] if a.ndim == 2 else np.asarray(a).transpose(2, 0, 1) for a in arrays]


def which(figure, images):
    """The rows of `images` that a figure shows."""
    return [next(i for i, image in enumerate(images) if np.array_equal(image, a)) for a in shown(figure)]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]
