"""Derivatives of the loss on training rows: what the trees of a round are fitted to."""

from __future__ import annotations

import numpy as np

from .growing import GrownTrees
from .losses import Loss
from .rows import TrainingRows


class Derivatives:
    """Gradients and hessians of training rows under the score that `update` was given last.

    gradient : float64 (K, n_rows)
    hessian : float64 (K, n_rows), or ones (K, 1), which nobody reads, where the hessian is constant
    outputs : first output, and all outputs, of each tree of a round: one tree for all of them, or one each
    """

    def __init__(
        self, rows: TrainingRows, loss: Loss, n_threads: int, *, vector_leaves: bool = False, renews: bool = True
    ):
        self.rows, self.loss, self.n_threads = rows, loss, n_threads
        self.gradient = np.empty((loss.n_outputs, rows.n_rows))
        self.hessian = np.ones((loss.n_outputs, 1 if loss.constant_hessian else rows.n_rows))
        self.outputs = [(k, slice(k, k + 1)) for k in range(loss.n_outputs)]
        if vector_leaves:
            self.outputs = [(0, slice(None))]
        self._quantile = loss.renewal_quantile if renews else None
        self._residual = np.empty(0)

    @property
    def renews(self) -> bool:
        """Whether leaf values are quantiles."""
        return self._quantile is not None

    def update(self, score: np.ndarray) -> float:
        """Derivatives under ``score`` (n_rows, K); returns the weighted sum of the losses."""
        rows = self.rows
        if self._quantile is not None:
            self._residual = rows.y - score[:, 0]
        return self.loss.derivatives(rows.y, score, rows.weight, self.gradient, self.hessian, self.n_threads)

    def of(self, outputs: slice) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and hessian of some outputs."""
        return self.gradient[outputs], self.hessian[outputs]

    def renew(self, grown: GrownTrees, weight: np.ndarray) -> None:
        """Give leaves the quantile of their residuals, where the loss is one whose derivatives say too little."""
        if self._quantile is not None:
            grown.renew_values(self._residual, weight, self._quantile, self.n_threads)

    def losses(self, score: np.ndarray) -> np.ndarray:
        """Loss (n_rows,) of every row, good until the next `update`: it is written over the gradients."""
        return self.loss.values(self.rows.y, score, self.gradient[0], self.n_threads)
