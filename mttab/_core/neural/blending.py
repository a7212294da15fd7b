"""How much each of two predictions counts in their mean, task by task, judged on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
    largest = max(float(rows.weight.max()) for rows in judged) or 1.0
    weights = [rows.weight.numpy() / largest for rows in judged]
    total, squares = sum(w.sum(axis=0) for w in weights), sum((w**2).sum(axis=0) for w in weights)
    n = total**2 / np.maximum(squares, 1e-300)  # rows that all count the same would tell as much
    parts = [w / np.maximum(total, 1e-300) for w in weights]
    # Twice over all rows: the losses with all shares side by side would be many times as large as the table.
    mean = np.array([_sum(_losses(outputs, judged, share), parts) for share in SHARES])
    best = np.argmin(mean, axis=0)
    least, excess = list(_losses(outputs, judged, SHARES[best])), mean - mean.min(axis=0)
    variance = np.empty_like(mean)
    for s, share in enumerate(SHARES):
        losses = _losses(outputs, judged, share)
        variance[s] = _sum(((a - b - excess[s]) ** 2 for a, b in zip(losses, least, strict=True)), parts)
    found = np.full(len(n), EQUAL)
    for t in np.flatnonzero(n > 1.0):
        error = np.sqrt(variance[:, t] / (n[t] - 1.0))
        good = SHARES[excess[:, t] <= stats.t.ppf(CONFIDENCE, n[t] - 1.0) * error]
        found[t] = good[np.argmin(np.abs(good - EQUAL))]
    return found


def _losses(outputs: TaskOutputs, judged: Sequence[JudgedRows], share: Any) -> Iterator[np.ndarray]:
    """Loss of every row and task, (n, n_tasks), with a share or with one for every task (n_tasks,)."""
    of_second = torch.as_tensor(np.broadcast_to(share, judged[0].y.shape[1]).copy())[:, None]
    for rows in judged:
        scores = outputs.scores_of(torch.lerp(rows.first, rows.second, of_second.to(rows.first.dtype)))
        yield outputs.cell_losses(scores, rows.y).numpy()


def _sum(of_rows: Iterable[np.ndarray], parts: list[np.ndarray]) -> Any:
    """Weighted sums (n_tasks,) over the rows of all parts."""
    return sum((values * part).sum(axis=0) for values, part in zip(of_rows, parts, strict=True))
