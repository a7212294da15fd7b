"""θ of the partition block: how it starts, how it moves, and which branch is called the inlier branch.

s_t = sigmoid(θ_t) is task t's share of the outlier branch, 1 − s_t its share of the inlier branch (methods: Emami et al.
2025, arXiv 2507.11411).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

# Bounds of a start that is derived from data: s between 0.05 and 0.95, where θ can still move.
START_LIMIT = 3.0


def mixing_weights(theta: np.ndarray, row_weight: np.ndarray) -> np.ndarray:
    """Weights (n_tasks + 1, 2) of the inlier and outlier branch; the last row, for unseen tasks, has the mean s.

    row_weight : (n_tasks,), sum of the sample weights of each task's rows
    """
    s = expit(theta)
    s = np.append(s, np.average(s, weights=row_weight) if len(s) else 0.0)
    return np.column_stack([1.0 - s, s])


def start_from_disagreement(
    reduction: np.ndarray, standard_error: np.ndarray, task_loss: np.ndarray, center: float
) -> np.ndarray:
    """θ start from how much loss a correction of its own would save each task, on rows the correction has not seen.

    Parameters
    ----------
    reduction, standard_error : (n_tasks,)
        Mean loss per row that the task's own correction of the shared block saves, and its standard error.
    task_loss : (n_tasks,)
        Mean loss per row under the shared block.
    center : float
        Negative; the start of a task that disagrees no more than the typical one.

    Notes
    -----
    A task is an outlier if what it could save, beyond what the median task could, is large against the loss that the
    typical task has at all. A noisy task has much loss and nothing to save; a task with few rows has a large error, which
    is subtracted; where no task agrees with the shared block, the median is large too and nobody stands out.
    """
    saved = np.maximum(reduction - standard_error, 0.0)
    typical_loss = max(float(np.median(task_loss)), 1e-12 * max(float(np.max(task_loss, initial=0.0)), 1e-300))
    excess = (saved - np.median(saved)) / typical_loss
    # The scale is crossed (θ = 0) at an excess of 1/2 and saturates at the limit.
    return np.clip(center + (-center) * excess / 0.5, -START_LIMIT, START_LIMIT)


def orientation(theta: np.ndarray, row_weight: np.ndarray) -> float:
    """−1 if the branch that most tasks lean to is the second one, else 1; ties of votes are decided by rows."""
    lean_second, lean_first = theta > 0, theta < 0
    votes = int(lean_second.sum()) - int(lean_first.sum())
    if votes == 0:
        votes = float(row_weight[lean_second].sum()) - float(row_weight[lean_first].sum())
    return -1.0 if votes > 0 else 1.0
