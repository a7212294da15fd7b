"""How much each of two predictions counts in their mean, task by task, judged on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from mttab._core.neural.losses import TaskOutputs

# Shares of the second prediction that are tried.
SHARES = np.arange(21) / 20
# Where nothing speaks against it, both count the same.
EQUAL = 0.5
# Confidence with which another share must be better than one that is nearer to `EQUAL`: one standard error.
CONFIDENCE = 0.84


class JudgedRows(NamedTuple):
    """Rows with their labels and two predictions, all in double precision on the CPU.

    Attributes
    ----------
    first, second : Tensor of shape (n, n_tasks, n_outputs)
        See `TaskOutputs.predictions`.
    y, weight : Tensor of shape (n, n_tasks)
        Weight 0 where not observed.
    """

    first: Tensor
    second: Tensor
    y: Tensor
    weight: Tensor


def find_shares(outputs: TaskOutputs, judged: Sequence[JudgedRows]) -> np.ndarray:
    """Share (n_tasks,) of the second prediction for every task.

    It is the one nearest to `EQUAL` whose loss is within one standard error of the least: few rows, or rows that
    disagree, do not move it far.
    """
    losses = np.concatenate([_losses(outputs, rows) for rows in judged], axis=1)
    weights = np.concatenate([rows.weight.numpy() for rows in judged])
    weights = weights / (weights.max() or 1.0)
    return np.array([_nearest_good_share(losses[:, :, t], weights[:, t]) for t in range(weights.shape[1])])


def _losses(outputs: TaskOutputs, rows: JudgedRows) -> np.ndarray:
    """Loss of every row and task with each of `SHARES`, (n_shares, n, n_tasks)."""
    found = []
    for share in SHARES.tolist():
        scores = outputs.scores_of(torch.lerp(rows.first, rows.second, share))
        found.append(outputs.cell_losses(scores, rows.y).numpy())
    return np.stack(found)


def _nearest_good_share(losses: np.ndarray, weight: np.ndarray) -> float:
    """The share of one task from its losses (n_shares, n) and the weights (n,) of its labels."""
    n = weight.sum() ** 2 / max(np.sum(weight**2), 1e-300)  # rows that all count the same would tell as much
    if n <= 1.0:
        return EQUAL
    part = weight / weight.sum()
    best = np.argmin(losses @ part)
    excess = losses - losses[best]
    mean = excess @ part
    error = np.sqrt((excess - mean[:, None]) ** 2 @ part / (n - 1.0))
    good = SHARES[mean <= stats.t.ppf(CONFIDENCE, n - 1.0) * error]
    return float(good[np.argmin(np.abs(good - EQUAL))])
