"""θ of the partition block: how it starts, how it moves, and which branch is called the inlier branch.

s_t = sigmoid(θ_t) is task t's share of the outlier branch, 1 − s_t its share of the inlier branch (methods: Emami et
al. 2025, arXiv 2507.11411).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

# Bounds of a start that is derived from data: s between 0.05 and 0.95, where θ can still move.
START_LIMIT = 3.0
# Share of the typical task's loss that a task must save alone, beyond chance and beyond the others, to start at θ = 0.
OUTLIER_EXCESS = 0.2
# Weight of its own group with which a task starts, where groups have been found.
OWN_SHARE = 0.98


def mixing_weights(theta: np.ndarray, row_weight: np.ndarray) -> np.ndarray:
    """Weights (n_tasks + 1, n_groups) of the branches; the last row, for unseen tasks, has their means.

    theta : (n_tasks,) for an inlier and an outlier branch, or (n_tasks, n_groups), whose softmax the weights are
    row_weight : (n_tasks,), sum of the sample weights of each task's rows
    """
    if theta.ndim == 2:
        weights = softmax(theta, axis=1)
        return np.vstack([weights, row_weight @ weights / row_weight.sum()])
    s = expit(theta)
    s = np.append(s, row_weight @ s / row_weight.sum() if len(s) else 0.0)
    return np.column_stack([1.0 - s, s])


def start_from_groups(group: np.ndarray, n_groups: int) -> np.ndarray:
    """θ, in the shape that `mixing_weights` takes, that gives each task's own group the weight `OWN_SHARE`.

    group : int (n_tasks,)
    """
    # The others share what is left; for two groups the logit of the outlier branch is the difference of the two.
    logit = np.log(OWN_SHARE / ((1.0 - OWN_SHARE) / (n_groups - 1)))
    theta = np.where(group[:, None] == np.arange(n_groups), logit, 0.0)
    return theta if n_groups > 2 else theta[:, 1] - theta[:, 0]


def group_order(weights: np.ndarray, row_weight: np.ndarray) -> np.ndarray:
    """Groups (n_groups,) from the one that most tasks lean to down; ties are decided by rows.

    weights : (n_tasks, n_groups), of each branch
    """
    favourite = weights.argmax(axis=1)
    votes = np.bincount(favourite, minlength=weights.shape[1])
    rows = np.bincount(favourite, weights=row_weight, minlength=weights.shape[1])
    return np.lexsort((-rows, -votes))


def start_from_disagreement(
    task_loss: np.ndarray, saved: np.ndarray, standard_error: np.ndarray, center: float
) -> np.ndarray:
    """θ start from how much better each task would do without the others.

    Parameters
    ----------
    task_loss : (n_tasks,)
        Mean loss per row under the shared block, on rows that it has not seen.
    saved, standard_error : (n_tasks,)
        How much of that a model of the task alone saves, on rows that it has not seen; negative where the task is
        better off in company. And the standard error of that mean.
    center : float
        Negative; the start of a task that is better off in company.

    Notes
    -----
    An outlier saves more than the typical task does, by more than chance, and by a share of the typical task's loss
    that matters. Where a task's loss is more than twice the typical one, that is evidence already and chance is not
    subtracted. A noisy task has much loss but saves nothing; where no task agrees with the others all of them save, the
    median with them, and nobody stands out.
    """
    typical_loss = max(float(np.median(task_loss)), 1e-12 * float(np.max(task_loss, initial=0.0)), 1e-300)
    chance = np.where(task_loss > 2.0 * typical_loss, 0.0, standard_error)
    excess = (saved - chance - max(float(np.median(saved)), 0.0)) / typical_loss
    return np.clip(center * (1.0 - np.maximum(excess, 0.0) / OUTLIER_EXCESS), -START_LIMIT, START_LIMIT)


def inliers_first(theta: np.ndarray, row_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """θ with the branches renumbered so that the first is the one most tasks lean to, and the old number of each."""
    if theta.ndim == 2:
        order = group_order(mixing_weights(theta, row_weight)[:-1], row_weight)
        return theta[:, order], order
    if orientation(theta, row_weight) < 0:
        return -theta, np.array([1, 0])
    return theta, np.array([0, 1])


def orientation(theta: np.ndarray, row_weight: np.ndarray) -> float:
    """−1 if the branch that most tasks lean to is the second one, else 1; ties of votes are decided by rows."""
    lean_second, lean_first = theta > 0, theta < 0
    votes = float(lean_second.sum()) - float(lean_first.sum())
    if votes == 0:
        votes = float(row_weight[lean_second].sum()) - float(row_weight[lean_first].sum())
    return -1.0 if votes > 0 else 1.0
