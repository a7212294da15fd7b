"""Ordered classes cut from a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ._arguments import per_task_count
from ._hermite import polynomial

_N_GRID = 20_001  # quantiles of the standard normal that stand for its distribution


def classes_of(score: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class of each score: the number of cuts below it. One cut at 0 makes the class the sign."""
    return np.searchsorted(cuts, score, side="left").astype(np.int64)


def cuts_near_normal(score: NDArray[np.float64], n_classes: int, min_class_share: float) -> NDArray[np.float64]:
    """Cuts at the quantiles of N(0, 1), moved as little as needed for each class to have its share of `score`.

    Moving the cut, rather than jumping to the median, keeps tasks with almost equal functions almost equal.

    Parameters
    ----------
    score : ndarray of shape (n_samples,)
        Scores that stand for the distribution.
    n_classes : int
    min_class_share : float
        At most 1 / n_classes.

    Returns
    -------
    ndarray of shape (n_classes - 1,), increasing
    """
    cuts = ndtri(np.arange(1, n_classes) / n_classes)
    ordered = np.sort(score)
    wanted = np.searchsorted(ordered, cuts) / len(score)
    level = wanted.copy()
    for k in range(n_classes - 1):
        level[k] = max(level[k], (level[k - 1] if k else 0.0) + min_class_share)
    for k in reversed(range(n_classes - 1)):
        level[k] = min(level[k], (level[k + 1] if k < n_classes - 2 else 1.0) - min_class_share)
    return np.where(level == wanted, cuts, np.quantile(ordered, np.clip(level, 0.0, 1.0)))


def class_shares(kinds: tuple[str, ...], n_classes: Any, class_balance: Any) -> list[NDArray[np.float64]]:
    """Share of each class of each task; the single share 1 for regression."""
    n_tasks = len(kinds)
    counts = per_task_count(n_classes, "n_classes", n_tasks, low=2)
    class_counts = [{"regression": 1, "binary": 2}.get(kind, int(k)) for kind, k in zip(kinds, counts, strict=True)]
    is_for_all = not np.iterable(class_balance)
    if not is_for_all and (isinstance(class_balance, (str, Mapping)) or len(class_balance) != n_tasks):
        raise ValueError(
            f"class_balance={class_balance!r} must be a number or a sequence with one entry per task ({n_tasks})."
        )
    if is_for_all and class_balance is not None and not any(k == 2 for k in class_counts):
        raise ValueError(
            f"class_balance={class_balance!r} is the share of class 1 in binary tasks, but there are none; give one "
            f"entry per task ({n_tasks})."
        )
    shares = []
    for t, k in enumerate(class_counts):
        balance = class_balance if is_for_all else class_balance[t]
        if k == 1 or balance is None or (is_for_all and k > 2):
            shares.append(np.full(k, 1.0 / k))
            continue
        try:
            share = np.asarray(balance, dtype=np.float64)
        except (TypeError, ValueError):
            share = np.empty(0)
        share = np.array([1.0 - share, share]) if share.ndim == 0 else share
        if share.shape != (k,) or not np.all(share > 0.0) or not np.isclose(share.sum(), 1.0):
            rule = "a number between 0 and 1" if k == 2 else f"{k} positive shares that sum to 1"
            raise ValueError(f"class_balance={balance!r} of task {t} must be {rule}.")
        shares.append(share)
    return shares


def cuts_at_shares(degree: int, noise_sd: float, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cuts of z + … + z^degree + noise, z standard normal, that give the classes these shares of the population.

    Parameters
    ----------
    degree : int
    noise_sd : float
    shares : ndarray of shape (n_classes,), positive, sum 1

    Returns
    -------
    ndarray of shape (n_classes - 1,), increasing
    """
    z = ndtri((np.arange(_N_GRID) + 0.5) / _N_GRID)
    score = polynomial(z, degree)
    levels = np.cumsum(shares)[:-1]
    if noise_sd == 0.0:
        return np.quantile(score, levels)
    low, high = score.min() - 9.0 * noise_sd, score.max() + 9.0 * noise_sd

    def excess(cut: float, level: float) -> float:
        return float(ndtr((cut - score) / noise_sd).mean()) - level

    return np.array([brentq(excess, low, high, args=(level,)) for level in levels])
