"""From one loss per task to one gradient: equal weights, learned weights, or a combination of per-task gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mttab._core.neural.ranks import add_gradients

# name of an option → aggregator of TorchJD
AGGREGATORS = {
    "aligned_mtl": "AlignedMTL",
    "imtlg": "IMTLG",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "upgrad": "UPGrad",
}
WEIGHTINGS = ("equal", "uncertainty", *AGGREGATORS)


class TaskWeighting(nn.Module):
    """Sum of the losses, each times its fixed weight."""

    task_weight: Tensor

    def __init__(self, task_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("task_weight", task_weight / task_weight.sum())

    def total(self, losses: Tensor) -> Tensor:
        """One number from the losses (n_tasks,)."""
        return (self.task_weight * losses).sum()

    def backward(self, losses: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Set the gradients of all parameters, over all processes that train together."""
        self.total(losses).backward()
        own = {id(parameter) for parameter in self.parameters()}  # these see the losses of all already
        add_gradients([p.grad for p in parameters if p.grad is not None and id(p) not in own])


class UncertaintyWeighting(TaskWeighting):
    """A learned variance per task divides its loss [1]_.

    References
    ----------
    .. [1] A. Kendall, Y. Gal, R. Cipolla. "Multi-Task Learning Using Uncertainty to Weigh Losses". CVPR 2018,
       arXiv:1705.07115.
    """

    def __init__(self, task_weight: Tensor) -> None:
        super().__init__(task_weight)
        self.log_variance = nn.Parameter(torch.zeros_like(task_weight))

    def total(self, losses: Tensor) -> Tensor:
        """Losses divided by their variances, with the price of a large variance."""
        return (self.task_weight * (losses * torch.exp(-self.log_variance) + self.log_variance)).sum()


class GradientAggregation(TaskWeighting):
    """Per-task gradients combined by an aggregator of TorchJD [1]_.

    References
    ----------
    .. [1] P. Quinton, V. Rey. "Jacobian Descent for Multi-Objective Optimization". 2024, arXiv:2406.16232.
    """

    def __init__(self, task_weight: Tensor, name: str) -> None:
        super().__init__(task_weight)
        self.aggregator = load_aggregator(name)

    def backward(self, losses: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Set the gradients of all parameters to the combination of those of every task."""
        from torchjd.autojac import backward, jac_to_grad

        used = [parameter for parameter in parameters if parameter.requires_grad]
        backward(self.task_weight * losses, inputs=used, parallel_chunk_size=1)
        add_gradients([p.jac for p in used if getattr(p, "jac", None) is not None])  # type: ignore[attr-defined]
        jac_to_grad(used, self.aggregator)


def load_aggregator(name: str) -> Any:
    """The aggregator of TorchJD that an option names; says which extra to install where it is absent."""
    try:
        import torchjd.aggregation
    except ImportError as err:
        raise ImportError(
            f"task_weighting={name!r} combines gradients with TorchJD, which is not installed; "
            "run pip install 'mttab[torchjd]'."
        ) from err
    return getattr(torchjd.aggregation, AGGREGATORS[name])()


def make_weighting(name: str, factors: np.ndarray) -> TaskWeighting:
    """The weighting that an option names, see `WEIGHTINGS`, with a fixed factor per task."""
    task_weight = torch.as_tensor(factors, dtype=torch.get_default_dtype())
    if name == "equal":
        return TaskWeighting(task_weight)
    if name == "uncertainty":
        return UncertaintyWeighting(task_weight)
    return GradientAggregation(task_weight, name)
