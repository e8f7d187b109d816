"""The figures of the book: functions from arrays to a Matplotlib `Figure`, which the notebook shows.

Images are uint8 (n, C, H, W) with C = 1 (gray) or 3 (color), shown as they are. Highly memorized observations
are yellow, regular ones blue, as in the paper. Every function raises ValueError, naming the argument, for
arrays that do not fit together or values outside of what its docstring allows.
"""

from memlib.figures.duplicates import by_threshold, class_counts, group_rows
from memlib.figures.estimates import agreement, convergence, cost_by_samples, known_scores
from memlib.figures.images import extreme_indices, extremes, image_grid, neighbors_panel, reconstructions
from memlib.figures.probabilities import (
    LOG_P,
    auto_edges,
    log_prob_histogram,
    log_prob_proportions,
    ratio_by_score,
    ratio_density,
)
from memlib.figures.rivals import by_share, caught_by_threshold, histograms, scatter_by_label, verdicts
from memlib.figures.style import BLUE, CURVES, RED, STYLE, WIDTH, YELLOW, Curves, Images
from memlib.figures.training import JohnsonSU, fit_johnson_su, losses, quantile_curves, score_density
from memlib.figures.uncertainty import error_bars, intervals, roc_curves, weight_health

__all__ = [
    "BLUE",
    "CURVES",
    "LOG_P",
    "RED",
    "STYLE",
    "WIDTH",
    "YELLOW",
    "Curves",
    "Images",
    "JohnsonSU",
    "agreement",
    "auto_edges",
    "by_share",
    "by_threshold",
    "caught_by_threshold",
    "class_counts",
    "convergence",
    "cost_by_samples",
    "error_bars",
    "extreme_indices",
    "extremes",
    "fit_johnson_su",
    "group_rows",
    "histograms",
    "image_grid",
    "intervals",
    "known_scores",
    "log_prob_histogram",
    "log_prob_proportions",
    "losses",
    "neighbors_panel",
    "quantile_curves",
    "ratio_by_score",
    "ratio_density",
    "reconstructions",
    "roc_curves",
    "scatter_by_label",
    "score_density",
    "verdicts",
    "weight_health",
]
