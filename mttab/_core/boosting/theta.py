"""θ of the partition block: how it starts, how it moves, and which branch is called the inlier branch.

s_t = sigmoid(θ_t) is task t's share of the outlier branch, 1 − s_t its share of the inlier branch (methods: Emami et
al. 2025, arXiv 2507.11411).
"""

from __future__ import annotations

import numpy as np

from .in_place import larger
from .jit import lean_jit
from .sums import sum_of

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
    out = np.empty((len(theta) + 1, 2 if theta.ndim == 1 else theta.shape[1]))
    write_mixing(as_columns(theta), np.ascontiguousarray(row_weight, dtype=np.float64), out)
    return out


def as_columns(theta: np.ndarray) -> np.ndarray:
    """θ float64 (n_tasks, n_columns) as kernels take it: one column for two branches, else one for each."""
    columns = np.ascontiguousarray(theta, dtype=np.float64)
    return columns[:, None] if theta.ndim == 1 else columns


@lean_jit
def write_mixing(theta, row_weight, out_mixing):  # type: ignore[no-untyped-def]
    """`mixing_weights` of θ in columns."""
    n_tasks, n_groups = len(theta), out_mixing.shape[1]
    for t in range(n_tasks):
        own = out_mixing[t]
        if theta.shape[1] == 1:
            small = np.exp(-abs(theta[t, 0]))
            large = 1.0 / (1.0 + small)
            own[1] = large if theta[t, 0] >= 0.0 else small * large
            own[0] = 1.0 - own[1]
            continue
        highest, total = theta[t, 0], 0.0
        for g in range(1, n_groups):
            highest = larger(highest, theta[t, g])
        for g in range(n_groups):
            own[g] = np.exp(theta[t, g] - highest)
            total += own[g]
        for g in range(n_groups):
            own[g] /= total
    weight = sum_of(row_weight)
    for g in range(n_groups):
        mean = 0.0
        for t in range(n_tasks):
            mean += row_weight[t] * out_mixing[t, g]
        out_mixing[n_tasks, g] = mean / weight if n_tasks > 0 else np.float64(g == 0)


@lean_jit
def write_shares(mixing, task, out_shares):  # type: ignore[no-untyped-def]
    """Weight of every branch in the score of each row, (n_groups, n_rows); task : int32 (n_rows,)."""
    for g in range(len(out_shares)):
        own = out_shares[g]
        for i in range(len(task)):
            own[i] = mixing[task[i], g]


@lean_jit
def sum_slopes(gradient, groups, task, out_sums):  # type: ignore[no-untyped-def]
    """Slope of the loss in the weight of each branch, (n_groups, n_tasks): gradient × branch, over a task's rows.

    gradient : float64 (K, n_rows); groups : float64 (n_groups, n_rows, K)
    """
    out_sums[:, :] = 0.0
    for g in range(len(groups)):
        sums, branch = out_sums[g], groups[g]
        for i in range(len(task)):
            slope = 0.0
            for k in range(len(gradient)):
                slope += gradient[k, i] * branch[i, k]
            sums[task[i]] += slope


@lean_jit
def write_theta_gradient(theta, mixing, sums, unit, penalty, center, out_gradient):  # type: ignore[no-untyped-def]
    """∂L/∂θ, in columns, by the ``sums`` of `sum_slopes`, in units float64 (n_tasks,), with a penalty.

    center : float64 (n_tasks, n_columns), what the penalty draws θ to
    """
    for t in range(len(theta)):
        own, mean = mixing[t], 0.0
        for g in range(mixing.shape[1]):
            mean += own[g] * sums[g, t]
        for c in range(theta.shape[1]):
            if theta.shape[1] == 1:
                slope = (sums[1, t] - sums[0, t]) * own[0] * own[1]
            else:
                slope = own[c] * (sums[c, t] - mean)
            out_gradient[t, c] = slope / unit[t]
            if penalty > 0.0:
                out_gradient[t, c] += penalty * (theta[t, c] - center[t, c])


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
        Mean loss per row under the shared block, on rows that it has not seen; NaN for a task without rows.
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
    is_judged = np.isfinite(task_loss) & np.isfinite(saved) & np.isfinite(standard_error)
    if not is_judged.all():  # there is nothing to say of a task without rows, and its numbers are none
        theta = np.full(len(task_loss), center)
        if is_judged.any():
            judged = task_loss[is_judged], saved[is_judged], standard_error[is_judged]
            theta[is_judged] = start_from_disagreement(*judged, center)
        return theta
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
