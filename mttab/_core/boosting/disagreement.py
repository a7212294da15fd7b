"""Which tasks would do better alone than with the shared block: what θ starts from.

All on rows that the models have not seen: a shared block is fitted again on each half of the rows, with fewer and
larger steps, and judged on the other half, and so are models of each task alone. The loss of rows that the shared block
was fitted on would hide the tasks that it has learned by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .derivatives import Derivatives
from .growing import Grower, GrownTrees
from .rows import Scores

# Learning rate of the models, and their least number of rounds, where the shared block is small or left out.
LEARNING_RATE, MIN_ROUNDS = 0.3, 10


def disagreement(
    derivatives: Derivatives, grower: Grower, base: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean loss (n_tasks,) under the shared block, what each task would save alone, and the error of that.

    They are NaN for a task without rows, or without weight.

    base : float64 (K,); reach : rounds of the shared block × its learning rate
    """
    rows, n_rounds = derivatives.rows, max(math.ceil(reach / LEARNING_RATE), MIN_ROUNDS)
    half, task_weight = rows.content_halves(), rows.sum_by_task(rows.weight)
    task_weight = np.where(task_weight > 0.0, task_weight, np.nan)

    def task_mean(values: np.ndarray) -> np.ndarray:
        return rows.sum_by_task(values * rows.weight) / task_weight

    together, alone = (
        _cross_fitted_losses(derivatives, grower, grow, base, half, n_rounds)
        for grow in (grower.grow_shared, grower.grow_alone)
    )
    saved = task_mean(together - alone)
    error = np.sqrt(task_mean((together - alone - saved[rows.task]) ** 2) / task_weight)
    return task_mean(together), saved, error


def _cross_fitted_losses(
    derivatives: Derivatives,
    grower: Grower,
    grow: Callable[..., GrownTrees],
    base: np.ndarray,
    half: np.ndarray,
    n_rounds: int,
) -> np.ndarray:
    """Loss (n_rows,) of every row under trees fitted on the other half."""
    rows = derivatives.rows
    out = np.empty(rows.n_rows)
    for is_in in (half, ~half):
        sample, score = rows.sample(is_in), Scores.zeros(base, rows.task).fixed
        for _ in range(n_rounds):
            derivatives.update(score)
            for k, outputs in derivatives.outputs:
                grown = grow(*derivatives.of(outputs), rows.weight, sample, 0)
                derivatives.renew(grown, rows.weight)
                grown.add_to(score, LEARNING_RATE, k, grower.n_threads)
        out[~is_in] = derivatives.losses(score)[~is_in]
    return out
