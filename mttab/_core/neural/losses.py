"""From the scores of all tasks to losses, predictions and the figure that early stopping watches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class TaskOutputs(nn.Module):
    """What the scores of every task mean.

    Scores come as one tensor (n, n_tasks, n_outputs), as wide as the task with most classes needs; the rest of a row is
    padding. Regression reads score 0, binary tasks take it as log-odds of their second class, multiclass tasks have one
    score per class.

    Parameters
    ----------
    kinds : sequence of {"regression", "binary", "multiclass"}
    n_classes : sequence of int
        Classes of the multiclass tasks; not read for others.
    """

    padding: Tensor

    def __init__(self, kinds: Sequence[str], n_classes: Sequence[int]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.n_outputs = max(n if kind == "multiclass" else 1 for kind, n in zip(kinds, n_classes, strict=True))
        self.places = {
            kind: [t for t, k in enumerate(kinds) if k == kind] for kind in ("regression", "binary", "multiclass")
        }
        order = [t for places in self.places.values() for t in places]
        self.back = sorted(range(len(order)), key=order.__getitem__)
        # −∞ for the classes that a task does not have: they get probability 0 and no gradient.
        padding = torch.zeros(len(self.places["multiclass"]), self.n_outputs)
        for i, t in enumerate(self.places["multiclass"]):
            padding[i, n_classes[t] :] = -math.inf
        self.register_buffer("padding", padding)

    def cell_losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """Loss of each row and task: squared error, or log loss.

        Parameters
        ----------
        scores : Tensor of shape (n, n_tasks, n_outputs)
        y : Tensor of shape (n, n_tasks)
            Numbers, or indices of classes; any number of the right range where not observed.

        Returns
        -------
        Tensor of shape (n, n_tasks)
        """
        parts = []
        if places := self.places["regression"]:
            parts.append((scores[:, places, 0] - y[:, places]) ** 2)
        if places := self.places["binary"]:
            parts.append(
                functional.binary_cross_entropy_with_logits(scores[:, places, 0], y[:, places], reduction="none")
            )
        if places := self.places["multiclass"]:
            padded = (scores[:, places] + self.padding).transpose(1, 2)
            parts.append(functional.cross_entropy(padded, y[:, places].long(), reduction="none"))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)[:, self.back]

    def predictions(self, scores: Tensor) -> Tensor:
        """(n, n_tasks, n_outputs): the number of a regression, the probability of a binary task's second class, the
        probabilities of several classes.
        """  # noqa: D205
        out = scores.clone()
        if places := self.places["binary"]:
            out[:, places] = scores[:, places].sigmoid()
        if places := self.places["multiclass"]:
            out[:, places] = (scores[:, places] + self.padding).softmax(dim=2)
        return out

    def scores_of(self, predictions: Tensor) -> Tensor:
        """Scores that give these predictions, both (n, n_tasks, n_outputs); the reverse of `predictions`."""
        scores, tiny = predictions.clone(), torch.finfo(predictions.dtype).tiny
        if places := self.places["binary"]:
            p = predictions[:, places]
            scores[:, places] = p.clamp_min(tiny).log() - (1.0 - p).clamp_min(tiny).log()
        if places := self.places["multiclass"]:
            scores[:, places] = predictions[:, places].clamp_min(tiny).log()
        return scores


class TaskLosses:
    """Loss of every task on a batch, whose mean over the batches of an epoch is the weighted mean loss of the task.

    Parameters
    ----------
    outputs : TaskOutputs
    weight : Tensor of shape (n, n_columns)
        Of all training rows.
    share : Tensor of shape (n_row_tasks + 1,) or None
        With row tasks, the share of the weight that each of them has; None where tasks are columns.
    """

    def __init__(self, outputs: TaskOutputs, weight: Tensor, share: Tensor | None) -> None:
        self.outputs, self.share = outputs, share
        self.mean_weight = weight.mean(dim=0).clamp_min(1e-12)

    def __call__(self, scores: Tensor, y: Tensor, weight: Tensor, row_task: Tensor, n_batch: int) -> Tensor:
        """Losses of the tasks.

        Parameters
        ----------
        scores : Tensor of shape (n, n_columns, n_outputs)
        y, weight : Tensor of shape (n, n_columns)
        row_task : Tensor of shape (n,), or empty
        n_batch : int
            Rows of the batch, of which these may be some.

        Returns
        -------
        Tensor of shape (n_columns,) or (n_row_tasks + 1,)
        """
        cells = self.outputs.cell_losses(scores, y) * weight / (n_batch * self.mean_weight)
        if self.share is None:
            return cells.sum(dim=0)
        return cells.new_zeros(len(self.share)).index_add(0, row_task, cells[:, 0]) / self.share

    def mean(self, losses: Tensor) -> Tensor:
        """Mean loss: of the columns, or of all rows."""
        return losses.mean() if self.share is None else (self.share * losses).sum()


def null_losses(outputs: TaskOutputs, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean loss (n_tasks,) of the best constant prediction, at least a small positive number."""
    mass = weight.sum(dim=0).clamp_min(1e-12)
    losses = torch.zeros(y.shape[1], dtype=y.dtype, device=y.device)
    for t, kind in enumerate(outputs.kinds):
        if kind == "regression":
            mean = (weight[:, t] * y[:, t]).sum() / mass[t]
            losses[t] = (weight[:, t] * (y[:, t] - mean) ** 2).sum() / mass[t]
        else:
            share = torch.zeros(max(outputs.n_outputs, 2), dtype=y.dtype, device=y.device)
            share.index_add_(0, y[:, t].long(), weight[:, t] / mass[t])
            losses[t] = -torch.xlogy(share, share).sum()
    return losses.clamp_min(1e-6)


def explained(outputs: TaskOutputs, scores: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Share of the loss of the best constant that the scores take away, (n_tasks,); NaN for a task without a label.

    R² for regression, and its counterpart in log loss for classes: 1 is perfect, 0 no better than a constant. Tasks
    with one class only among these labels are NaN as well.
    """
    mass = weight.sum(dim=0)
    null = null_losses(outputs, y, weight)
    loss = (outputs.cell_losses(scores, y) * weight).sum(dim=0) / mass.clamp_min(1e-12)
    return torch.where((mass > 0) & (null > 1e-6), 1.0 - loss / null, math.nan)
