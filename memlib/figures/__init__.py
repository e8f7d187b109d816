"""The figures of the book: functions from arrays to a Matplotlib `Figure`, which the notebook shows.

Images are uint8 (n, C, H, W) with C = 1 (gray) or 3 (color), shown as they are. Highly memorized observations
are yellow, regular ones blue, as in the paper. Every function raises ValueError, naming the argument, for
arrays that do not fit together or values outside of what its docstring allows. Figures of one chapter alone
are drawn there, in the house style by `styled`.
"""
# ruff: noqa: F401

from memlib.figures.estimates import (
    agreement,
    by_share,
    error_bars,
    intervals,
    known_scores,
    roc_curves,
    verdicts,
    weight_health,
)
from memlib.figures.images import (
    extreme_indices,
    extremes,
    group_rows,
    image_grid,
    neighbors_panel,
)
from memlib.figures.scores import (
    auto_edges,
    fit_johnson_su,
    log_prob_histogram,
    log_prob_proportions,
    losses,
    quantile_curves,
    ratio_by_score,
    ratio_density,
    score_density,
)
from memlib.figures.style import BLUE, CURVES, RED, STYLE, WIDTH, YELLOW, styled
