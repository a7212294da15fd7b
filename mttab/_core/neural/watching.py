"""What validation rows tell a training: which weights to keep, when to end, what is left to learn of every task."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# A smaller share of a loss cannot be told from none in single precision.
LEAST_SHARE = 1e-6
# So many times as long, at most, patience lasts where little is left unexplained.
MOST_PATIENCE = 4.0

Weights = dict[str, Tensor]


class Watch:
    """The figures of a training, epoch by epoch, and the weights that had the best.

    Parameters
    ----------
    n_tasks : int
    patience : int or None
        Epochs without progress after which training is over; None: never. On roots they are divided by what is left,
        down to a quarter: the last bits of an almost exact function come slowly, and with small steps only.
    on_roots : bool
        What progress is. Otherwise, a larger mean over tasks of what they explain (see `losses.explained`). With it, a
        smaller mean of the roots of what they leave unexplained, which are errors where those are squared errors: to
        halve the error of a task that is almost solved counts then, and one noisy task does not decide alone.

    Attributes
    ----------
    best_weights : dict or None
        None as long as no epoch had a figure.
    """

    def __init__(self, n_tasks: int, patience: int | None, *, on_roots: bool) -> None:
        self.patience, self.on_roots = patience, on_roots
        self.best_weights: Weights | None = None
        self._best, self._n_bad = -math.inf, 0
        self._best_mean, self._best_by_task = -math.inf, torch.full((n_tasks,), -math.inf)

    def note(self, by_task: Tensor, weights: Callable[[], Weights]) -> float:
        """Take in what every task explains (n_tasks,); gives the mean, NaN where no task has a figure."""
        by_task = by_task.detach().cpu()
        mean = float(by_task.nanmean())
        if math.isnan(mean):  # labels that do not vary tell nothing, also not that there is no progress
            return mean
        watched = -float((1.0 - by_task).clamp_min(LEAST_SHARE).sqrt().nanmean()) if self.on_roots else mean
        if watched > self._best:
            self._best, self._n_bad, self.best_weights = watched, 0, weights()
        else:
            self._n_bad += 1
        self._best_mean = max(self._best_mean, mean)
        self._best_by_task = torch.fmax(self._best_by_task.to(by_task.dtype), by_task)
        return mean

    def is_over(self) -> bool:
        """Whether patience is at its end."""
        if self.patience is None:
            return False
        longer = max(1.0, min(MOST_PATIENCE, -1.0 / self._best)) if self.on_roots else 1.0
        return self._n_bad >= self.patience * longer

    @property
    def unexplained(self) -> float:
        """1 less the best mean so far, between 0 and 1."""
        return min(1.0, max(0.0, 1.0 - self._best_mean))

    def unexplained_by_task(self) -> Tensor:
        """The same of every task (n_tasks,), at least `LEAST_SHARE`; the mean for tasks without a figure."""
        share = (1.0 - self._best_by_task).clamp(LEAST_SHARE, 1.0)
        has_figure = self._best_by_task.isfinite()
        return torch.where(has_figure, share, share[has_figure].mean()) if has_figure.any() else torch.ones_like(share)
