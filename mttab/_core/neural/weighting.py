"""From one loss per task to one gradient: equal weights, learned weights, or a combination of per-task gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mttab._core.neural.device import seeded
from mttab._core.neural.ranks import add_gradients

# Name of an option → aggregator of TorchJD. Not offered are those that need a setting, a primary task, a solver for
# convex programs, or the same tasks in every batch, those against attackers, and DualProj, which is equal weights
# unless these harm a task.
AGGREGATORS = {
    "aligned_mtl": "AlignedMTL",
    "config": "ConFIG",
    "graddrop": "GradDrop",
    "imtlg": "IMTLG",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "upgrad": "UPGrad",
}
WEIGHTINGS = ("equal", "uncertainty", *AGGREGATORS)

# Row tasks whose gradients are taken one by one. More of them are dealt into as many groups: a backward pass for each
# of hundreds of tasks would make a step hundreds of times as long.
MAX_ROW_TASK_PARTS = 16


def flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter], *, keep: bool = False) -> Tensor:
    """Gradient of one number as a vector (n_numbers,), 0 for parameters it does not depend on."""
    if not loss.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(loss, parameters, retain_graph=keep, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
    )


def set_gradients(gradient: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Give the parts of a vector (n_numbers,) to the parameters as their gradients."""
    for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


class TaskWeighting(nn.Module):
    """Sum of the losses, each times its fixed weight.

    Parameters
    ----------
    task_weight : Tensor of shape (n_losses,)
        Positive. Of every column of y; with row tasks, of every task, and last of all those that fit did not see.
    row_tasks : bool
        Whether the tasks are row tasks.

    Attributes
    ----------
    part_of_loss : Tensor of shape (n_losses,), int
        Which part of the loss, with a gradient of its own, each task belongs to; n_parts of them.
    generator : torch.Generator or None
        Of the training that goes on; aggregators that draw at random are seeded from it.
    factor : Tensor of shape (n_losses,) or None
        On each of the losses besides its weight, in the training that goes on, see `heed`.
    """

    factor: Tensor | None = None
    generator: torch.Generator | None = None
    task_weight: Tensor
    part_of_loss: Tensor

    def __init__(self, task_weight: Tensor, row_tasks: bool = False) -> None:
        super().__init__()
        self.row_tasks = row_tasks
        self.n_parts = min(len(task_weight) - 1, MAX_ROW_TASK_PARTS) if row_tasks else len(task_weight)
        self.register_buffer("task_weight", task_weight / task_weight.sum())
        self.register_buffer("part_of_loss", torch.arange(len(task_weight)) % self.n_parts)

    def weighted(self, losses: Tensor) -> Tensor:
        """What each of the losses (n_losses,) adds to the total."""
        return self.task_weight * (losses if self.factor is None else losses * self.factor)

    def heed(self, unexplained: Tensor) -> None:
        """Lower from now on the roots of the losses, given what is unexplained of every column of y, (n_columns,).

        Gradients are divided by these roots. Those of a task that is almost solved are small, and would drown in those
        of a noisy one, for a step of AdamW is about as long however small a gradient is. Row tasks share a column, and
        nothing changes.
        """
        if not self.row_tasks:
            factor = unexplained.rsqrt()
            self.factor = (factor / factor.mean()).to(self.task_weight)

    def parts(self, losses: Tensor) -> Tensor:
        """The same by part, (n_parts,)."""
        return losses.new_zeros(self.n_parts).index_add(0, self.part_of_loss, self.weighted(losses))

    def total(self, losses: Tensor) -> Tensor:
        """One number from the losses (n_losses,)."""
        return self.weighted(losses).sum()

    def backward(self, losses: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Set the gradients of all parameters, over all processes that train together."""
        self.total(losses).backward()
        own = {id(parameter) for parameter in self.parameters()}  # these see the losses of all already
        add_gradients([p.grad for p in parameters if p.grad is not None and id(p) not in own])

    def combine(self, gradients: Tensor) -> Tensor:
        """One gradient (n_numbers,) from those of the parts (n_parts, n_numbers)."""
        return gradients.sum(dim=0)


class UncertaintyWeighting(TaskWeighting):
    """A learned variance per task divides its loss [1]_.

    References
    ----------
    .. [1] A. Kendall, Y. Gal, R. Cipolla. "Multi-Task Learning Using Uncertainty to Weigh Losses". CVPR 2018,
       arXiv:1705.07115.
    """

    def __init__(self, task_weight: Tensor, row_tasks: bool = False) -> None:
        super().__init__(task_weight, row_tasks)
        self.log_variance = nn.Parameter(torch.zeros_like(task_weight))

    def weighted(self, losses: Tensor) -> Tensor:
        """Losses divided by their variances, with the price of a large variance."""
        return self.task_weight * (losses * torch.exp(-self.log_variance) + self.log_variance)

    def heed(self, unexplained: Tensor) -> None:
        """Nothing: variances follow the losses already."""


class GradientAggregation(TaskWeighting):
    """Gradients of the parts combined by an aggregator of TorchJD [1]_.

    References
    ----------
    .. [1] P. Quinton, V. Rey. "Jacobian Descent for Multi-Objective Optimization". 2024, arXiv:2406.16232.
    """

    def __init__(self, task_weight: Tensor, name: str, row_tasks: bool = False) -> None:
        super().__init__(task_weight, row_tasks)
        self.aggregator = load_aggregator(name)
        self.is_random = name in ("graddrop", "pcgrad")

    def backward(self, losses: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Set the gradients of all parameters to the combination of those of every part."""
        used = [parameter for parameter in parameters if parameter.requires_grad]
        parts = self.parts(losses)
        last = len(parts) - 1
        rows = [flat_gradient(part, used, keep=t < last) for t, part in enumerate(parts)]
        gradients = torch.stack(rows)
        add_gradients([gradients])
        set_gradients(self.combine(gradients), used)

    def heed(self, unexplained: Tensor) -> None:
        """Nothing: what the sizes of gradients mean is up to the aggregator."""

    def combine(self, gradients: Tensor) -> Tensor:
        """The combination; tasks without a label in the batch, which want no step at all, have no say in it."""
        gradients = gradients[gradients.abs().amax(dim=1) > 0]
        if len(gradients) < 2:
            return gradients.sum(dim=0)
        if not self.is_random:
            return self.aggregator(gradients)
        assert self.generator is not None
        seed = torch.randint(2**62, (), generator=self.generator, device=self.generator.device)
        with seeded(int(seed), gradients.device):  # TorchJD draws from torch's global generator
            return self.aggregator(gradients)


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


def make_weighting(name: str, task_weight: Any, row_tasks: bool = False) -> TaskWeighting:
    """The weighting that an option names, see `WEIGHTINGS`, with a fixed weight per task."""
    weight = torch.as_tensor(task_weight, dtype=torch.get_default_dtype())
    if name == "equal":
        return TaskWeighting(weight, row_tasks)
    if name == "uncertainty":
        return UncertaintyWeighting(weight, row_tasks)
    return GradientAggregation(weight, name, row_tasks)
