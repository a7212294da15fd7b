"""Many small maps as one product: a map per task and expert, and which rows go through which.

Axes are (groups, maps, rows, channels) throughout. A group is what has weights of its own: a task. Where every row goes
to every task, a group holds all rows. Where a row has one task only, a group is a block of rows of one task, and a task
has as many blocks as it needs; its weights are looked up for each of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def affine(shape: tuple[int, ...], n_in: int, n_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (*shape, n_in, n_out) and bias (*shape, 1, n_out) with the start of nn.Linear."""
    bound = 1.0 / math.sqrt(n_in)
    weight = torch.empty(*shape, n_in, n_out).uniform_(-bound, bound)
    return nn.Parameter(weight), nn.Parameter(torch.empty(*shape, 1, n_out).uniform_(-bound, bound))


class EveryTask:
    """Every row goes to every task; groups are tasks."""

    def __init__(self, n_tasks: int, device: torch.device) -> None:
        self.task_of_group = torch.arange(n_tasks, device=device)

    def pick(self, parameter: Tensor) -> Tensor:
        """Values of each task (n_tasks, …) → of each group."""
        return parameter

    def spread(self, x: Tensor) -> Tensor:
        """Rows (maps, n, channels) → groups (1, maps, n, channels), the same for all."""
        return x[None]

    def spread_own(self, x: Tensor) -> Tensor:
        """Rows as each task sees them (n_tasks, n, channels) → groups (n_tasks, 1, n, channels)."""
        return x[:, None]

    def gather(self, x: Tensor) -> Tensor:
        """Groups (n_tasks, n, channels) → rows (n, n_tasks, channels)."""
        return x.transpose(0, 1)


class OwnTask:
    """Every row goes to its own task; groups are blocks of rows of one task, the last block of a task filled up.

    A block has about as many rows as a task has on average. So there are never more than twice as many slots as rows,
    nor much more than twice as many blocks as tasks, and their number depends on nothing but n and `n_tasks`.

    Parameters
    ----------
    task : Tensor of shape (n,), int64
    n_tasks : int
    """

    def __init__(self, task: Tensor, n_tasks: int) -> None:
        n = len(task)
        self.block_size = size = max(1, 2 ** round(math.log2(max(n, 1) / n_tasks)))
        self.n_blocks = n_blocks = (n + min(n_tasks, n) * (size - 1)) // size
        self.task = task
        count = torch.zeros(n_tasks, dtype=torch.int64, device=task.device).index_add_(0, task, torch.ones_like(task))
        n_blocks_of = (count + size - 1) // size
        order = task.argsort(stable=True)
        first_row, first_block = count.cumsum(0) - count, n_blocks_of.cumsum(0) - n_blocks_of
        rank = torch.empty_like(task)
        rank[order] = torch.arange(n, device=task.device) - first_row[task[order]]
        self.slot_of_row = first_block[task] * size + rank
        self.row_of_slot = task.new_zeros(n_blocks * size)  # what fills a block up is never read
        self.row_of_slot[self.slot_of_row] = torch.arange(n, device=task.device)
        self.task_of_group = task.new_zeros(n_blocks)
        self.task_of_group[self.slot_of_row // size] = task

    def pick(self, parameter: Tensor) -> Tensor:
        """Values of each task (n_tasks, …) → of each group."""
        return parameter[self.task_of_group]

    def spread(self, x: Tensor) -> Tensor:
        """Rows (maps, n, channels) → groups (n_blocks, maps, block_size, channels)."""
        return x[:, self.row_of_slot].unflatten(1, (self.n_blocks, self.block_size)).transpose(0, 1)

    def spread_own(self, x: Tensor) -> Tensor:
        """Rows as each task sees them (n_tasks, n, channels) → groups (n_blocks, 1, block_size, channels)."""
        return self.spread(x[self.task, torch.arange(len(self.task), device=x.device)][None])

    def gather(self, x: Tensor) -> Tensor:
        """Groups (n_blocks, block_size, channels) → rows (n, 1, channels)."""
        return x.flatten(0, 1)[self.slot_of_row][:, None]


class StackedLinear(nn.Module):
    """`n_groups` × `n_maps` affine maps.

    Parameters
    ----------
    n_groups, n_maps, n_in, n_out : int
    is_normed : bool
        Whether the numbers that a map gives for a row are brought to mean 0 and variance 1 before the bias is added.
    """

    def __init__(self, n_groups: int, n_maps: int, n_in: int, n_out: int, *, is_normed: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = affine((n_groups, n_maps), n_in, n_out)
        self.is_normed = is_normed

    def forward(self, x: Tensor, layout: EveryTask | OwnTask | None = None) -> Tensor:
        """(groups or 1, maps or 1, n, n_in) → (groups, maps, n, n_out); without a layout the maps have one group."""
        weight, bias = (self.weight, self.bias) if layout is None else map(layout.pick, (self.weight, self.bias))
        out = _product(x, weight)
        if self.is_normed:
            out = nn.functional.layer_norm(out, out.shape[-1:])
        return out + bias


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight; where all maps read the same x, they are one wide matrix."""
    if x.shape[0] == x.shape[1] == 1:
        return torch.einsum("ni,gmio->gmno", x[0, 0], weight)
    if x.shape[1] == 1 and x.shape[0] == weight.shape[0]:
        return torch.einsum("gni,gmio->gmno", x[:, 0], weight)
    return x @ weight
