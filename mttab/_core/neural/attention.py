"""Attention between the tokens of a row, under a multitask mask, and between the rows of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

# What a mask forbids: none nothing; task_to_task a task token to see another task's; feature_to_task a feature token to
# see any task token; both forbids both.
MASKS = ("none", "task_to_task", "feature_to_task", "both")


class FeatureAttention(nn.Module):
    """Multi-head attention over the tokens of one row: d features first, then t tasks.

    No mask over (d + t)² pairs is ever made. Each kind of query meets only the keys it may see; only where a task must
    not see the others, but itself, a mask of shape (t, d + t) says so.

    Parameters
    ----------
    width : int
        Width of a token, a multiple of `n_heads`.
    n_heads : int
    n_tasks : int
    mask : {"none", "task_to_task", "feature_to_task", "both"}
    """

    def __init__(self, width: int, n_heads: int, n_tasks: int, mask: str) -> None:
        super().__init__()
        self.n_heads, self.n_tasks = n_heads, n_tasks
        self.features_see_tasks = mask in ("none", "task_to_task")
        self.tasks_see_tasks = mask in ("none", "feature_to_task") or n_tasks == 1
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, *, only_tasks: bool) -> Tensor:
        """Update of every token, (n, d + t, width); of the task tokens alone, (n, t, width), if no one reads others."""
        d = tokens.shape[1] - self.n_tasks
        key, value = self._keys_and_values(tokens)
        task_query = self._split_heads(self.query(tokens[:, d:]))
        read = [scaled_dot_product_attention(task_query, key, value, attn_mask=self.task_mask(d, tokens.device))]
        if not only_tasks:
            seen = slice(None) if self.features_see_tasks else slice(d)
            query = self._split_heads(self.query(tokens[:, :d]))
            read.insert(0, scaled_dot_product_attention(query, key[:, :, seen], value[:, :, seen]))
        joined = read[0] if only_tasks else torch.cat(read, dim=2)
        return self.out(joined.transpose(1, 2).flatten(2))

    def task_mask(self, n_features: int, device: torch.device) -> Tensor | None:
        """What task queries may see, (t, d + t) bool; None for everything."""
        if self.tasks_see_tasks:
            return None
        itself = torch.eye(self.n_tasks, dtype=torch.bool, device=device)
        return torch.cat([itself.new_ones(self.n_tasks, n_features), itself], dim=1)

    def task_weights(self, tokens: Tensor) -> Tensor:
        """Weight of every key in every task's query, mean over heads: (n, t, d + t)."""
        d = tokens.shape[1] - self.n_tasks
        key, _ = self._keys_and_values(tokens)
        query = self._split_heads(self.query(tokens[:, d:]))
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        mask = self.task_mask(d, tokens.device)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=3).mean(dim=1)

    def _keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(tokens).chunk(2, dim=2)
        return self._split_heads(key), self._split_heads(value)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(n, length, width) → (n, heads, length, width / heads)."""
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class RowMemory(NamedTuple):
    """What rows can attend to: keys and values (heads, m, width of a head), log weights (m,) of the rows or None."""

    key: Tensor
    value: Tensor
    log_weight: Tensor | None


class RowAttention(nn.Module):
    """Multi-head attention over rows: the tokens of a row, side by side, are one token.

    In training the rows of a batch see each other. In prediction a row sees a fixed memory of training rows and itself,
    never the other rows that happen to be predicted with it.

    Parameters
    ----------
    row_width : int
        Width of a row, (d + t) times the width of a token.
    width : int
        Width of queries, keys and values, a multiple of `n_heads`.
    n_heads : int
    group_size : int
        Rows of a batch that see each other; a larger batch is cut into groups of about equal size. As large as the
        memory, so that training and prediction look at as many rows.
    """

    def __init__(self, row_width: int, width: int, n_heads: int, group_size: int) -> None:
        super().__init__()
        self.n_heads, self.group_size = n_heads, group_size
        self.norm = nn.LayerNorm(row_width)
        self.query_key_value = nn.Linear(row_width, 3 * width)
        self.out = nn.Linear(width, row_width)

    def forward(
        self, rows: Tensor, memory: RowMemory | None, log_weight: Tensor | None = None
    ) -> tuple[Tensor, RowMemory | None]:
        """Update of every row.

        Parameters
        ----------
        rows : Tensor of shape (n, row_width)
        memory : RowMemory or None
            What to see, besides the row itself; None: the rows of this batch.
        log_weight : Tensor of shape (n,), default=None
            Of the rows, without a memory: a row of weight 2 is seen as two rows.

        Returns
        -------
        update : Tensor of shape (n, row_width)
        made : RowMemory or None
            These rows as a memory for others; None where `memory` was given.
        """
        parts = self.query_key_value(self.norm(rows)).unflatten(1, (3, self.n_heads, -1))
        query, key, value = parts.permute(1, 2, 0, 3)  # each (heads, n, width of a head)
        if memory is None:
            read, made = self._read_each_other(query, key, value, log_weight), RowMemory(key, value, log_weight)
        else:
            read, made = self._read(query, key, value, memory), None
        return self.out(read.transpose(0, 1).flatten(1)), made

    def _read_each_other(self, query: Tensor, key: Tensor, value: Tensor, log_weight: Tensor | None) -> Tensor:
        """Attention of each row to its group, (heads, n, width of a head)."""
        n, n_groups = query.shape[1], -(-query.shape[1] // self.group_size)
        sizes = [n // n_groups + (i < n % n_groups) for i in range(n_groups)]
        masks = (
            [None] * n_groups
            if log_weight is None
            else log_weight.to(query.dtype)[None, None, None].split(sizes, dim=3)
        )
        parts = zip(*(x[None].split(sizes, dim=2) for x in (query, key, value)), masks, strict=True)
        read = [scaled_dot_product_attention(q, k, v, attn_mask=mask)[0] for q, k, v, mask in parts]
        return torch.cat(read, dim=1)

    @staticmethod
    def _read(query: Tensor, key: Tensor, value: Tensor, memory: RowMemory) -> Tensor:
        """Attention of each row to the memory and to itself, (heads, n, width of a head)."""
        scale = query.shape[-1] ** -0.5
        to_memory = query @ memory.key.transpose(1, 2) * scale
        if memory.log_weight is not None:
            to_memory = to_memory + memory.log_weight.to(query.dtype)
        to_itself = (query * key).sum(dim=2, keepdim=True) * scale
        weight = functional.softmax(torch.cat([to_memory, to_itself], dim=2), dim=2)
        return weight[..., :-1] @ memory.value + weight[..., -1:] * value
