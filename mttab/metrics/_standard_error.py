"""Standard error of one figure on one task, from the rows it was computed on.

For the usual metrics each row's influence on the figure is known in closed form (the infinitesimal jackknife; for a
mean loss that is the textbook s/√n, for the AUC it is DeLong's variance). For all others groups of rows are left out
in turn (delete-a-group jackknife).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from mttab.metrics._metric import Metric, Recital

# 50 replicates leave the standard error itself with a relative error of about 1/√(2·49) = 10 %.
_N_GROUPS = 50


def standard_error(
    metric: Metric, recital: Recital, y: np.ndarray, rows: np.ndarray, sample_weight: np.ndarray | None
) -> float:
    """Standard error over rows; NaN with fewer than two rows or where a replicate is undefined."""
    if len(rows) < 2:
        return math.nan
    influence = _INFLUENCE.get(metric.scorer_name) if metric.scorer is not None else None
    weight = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if influence is not None:
        values = influence(recital, y, rows, weight / weight.sum())
        if values is not None:
            share = weight / weight.sum()
            return float(np.sqrt(len(rows) / (len(rows) - 1) * np.sum((share * values) ** 2)))
    return _jackknife(metric, recital, y, rows, sample_weight)


def _jackknife(
    metric: Metric, recital: Recital, y: np.ndarray, rows: np.ndarray, sample_weight: np.ndarray | None
) -> float:
    n_groups = min(len(rows), _N_GROUPS)
    # A fixed seed: the same predictions always get the same standard error.
    group = np.random.default_rng(0).permutation(len(rows)) % n_groups
    figures = np.empty(n_groups)
    for g in range(n_groups):
        kept = group != g
        weight = None if sample_weight is None else sample_weight[kept]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figures[g] = metric(recital, y[kept], rows[kept], weight)
        except ValueError:  # without this group the metric is undefined
            return math.nan
    return float(np.sqrt((n_groups - 1) / n_groups * np.sum((figures - figures.mean()) ** 2)))


# ----------------------------------------------------------------------------------------------------------------------
# Influence of each row: n · (figure − figure without the row) for large n; `share` are weights that sum to 1
# ----------------------------------------------------------------------------------------------------------------------

_Influence = Callable[[Recital, np.ndarray, np.ndarray, np.ndarray], np.ndarray | None]


def _mean_of(row_loss: Callable[[Recital, np.ndarray, np.ndarray], np.ndarray | None]) -> _Influence:
    """Influence on a weighted mean of one loss per row: the loss less its mean."""

    def influence(recital: Recital, y: np.ndarray, rows: np.ndarray, share: np.ndarray) -> np.ndarray | None:
        loss = row_loss(recital, y, rows)
        return None if loss is None else loss - share @ loss

    return influence


def _squared(recital: Recital, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (np.asarray(y, dtype=np.float64) - recital.predict(rows)) ** 2


def _absolute(recital: Recital, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(y, dtype=np.float64) - recital.predict(rows))


def _is_right(recital: Recital, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(recital.predict(rows) == y, dtype=np.float64)


def _surprise(recital: Recital, y: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """Minus the log probability of the class that came."""
    if recital.classes is None:
        return None
    proba = recital.predict_proba(rows)
    column = {label: k for k, label in enumerate(np.asarray(recital.classes).tolist())}
    of_truth = proba[np.arange(len(rows)), [column[label] for label in y.tolist()]]
    return -np.log(np.clip(of_truth, np.finfo(proba.dtype).eps, 1.0))


def _root_mean_squared(recital: Recital, y: np.ndarray, rows: np.ndarray, share: np.ndarray) -> np.ndarray:
    loss = _squared(recital, y, rows)
    mean = share @ loss
    return (loss - mean) / (2.0 * np.sqrt(mean)) if mean > 0 else np.zeros_like(loss)


def _r2(recital: Recital, y: np.ndarray, rows: np.ndarray, share: np.ndarray) -> np.ndarray | None:
    """R² = 1 − residual / total, both of them means."""
    residual = _squared(recital, y, rows)
    truth = np.asarray(y, dtype=np.float64)
    total = (truth - share @ truth) ** 2
    mean_residual, mean_total = share @ residual, share @ total
    if mean_total == 0:
        return None
    return (mean_residual / mean_total * (total - mean_total) - (residual - mean_residual)) / mean_total


def _auc(recital: Recital, y: np.ndarray, rows: np.ndarray, share: np.ndarray) -> np.ndarray | None:
    """DeLong, DeLong & Clarke-Pearson (1988): how each row's score stands among the rows of the other class."""
    if recital.classes is None or len(recital.classes) != 2 or np.ptp(share) > 1e-12 * share.max():
        return None
    score = recital.decision_function(rows) if hasattr(recital, "decision_function") else recital.predict_proba(rows)
    score = score[:, 1] if score.ndim == 2 else score
    is_positive = y == recital.classes[1]
    n_positive, n_negative = is_positive.sum(), (~is_positive).sum()
    rank = rankdata(score)
    placement = np.empty(len(y))  # share of the other class that is on the right side of this row
    placement[is_positive] = (rank[is_positive] - rankdata(score[is_positive])) / n_negative
    placement[~is_positive] = 1.0 - (rank[~is_positive] - rankdata(score[~is_positive])) / n_positive
    figure = placement[is_positive].mean()
    return (placement - figure) * np.where(is_positive, len(y) / n_positive, len(y) / n_negative)


_INFLUENCE: dict[str, _Influence] = {
    "neg_mean_squared_error": _mean_of(_squared),
    "neg_mean_absolute_error": _mean_of(_absolute),
    "neg_root_mean_squared_error": _root_mean_squared,
    "accuracy": _mean_of(_is_right),
    "neg_log_loss": _mean_of(_surprise),
    "r2": _r2,
    "roc_auc": _auc,
}
