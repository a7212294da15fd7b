"""Rows as the boosting loop sees them: sorted by task to train on, apart to validate on, and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .forest import PARTITION


@dataclass
class RowSample:
    """Rows that a round trains on and rows it leaves out, both in task order.

    rows, out_rows : uint32; row_start, out_start : int64 (n_tasks + 1,), task t has
    ``rows[row_start[t]:row_start[t+1]]``
    """

    rows: np.ndarray
    row_start: np.ndarray
    out_rows: np.ndarray
    out_start: np.ndarray


@dataclass
class TrainingRows:
    """Training rows, sorted by task so that a task is one contiguous range.

    codes : uint8 (n_features, n_rows); task : int32 (n_rows,); task_start : int64 (n_tasks + 1,)
    y, weight : float64 (n_rows,); position : int64 (n_rows,), place of the row in the caller's data
    task_mass : float64 (n_tasks,), rows of each task by the user's weights alone; None where ``weight`` is just these
    """

    codes: np.ndarray
    task: np.ndarray
    task_start: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    position: np.ndarray
    task_mass: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        return len(self.y)

    @property
    def n_tasks(self) -> int:
        return len(self.task_start) - 1

    @cached_property
    def rank(self) -> np.ndarray:
        """Place of each row among the training rows in the caller's order."""
        rank = np.empty(self.n_rows, dtype=np.int64)
        rank[np.argsort(self.position, kind="stable")] = np.arange(self.n_rows)
        return rank

    def sum_by_task(self, values: np.ndarray) -> np.ndarray:
        """Sums (n_tasks,) of a per-row array."""
        return np.bincount(self.task, weights=values, minlength=self.n_tasks)

    def all_rows(self) -> RowSample:
        rows = np.arange(self.n_rows, dtype=np.uint32)
        return RowSample(rows, self.task_start, np.empty(0, dtype=np.uint32), np.zeros_like(self.task_start))

    def sample(self, is_in: np.ndarray) -> RowSample:
        """Sample of the rows where ``is_in`` (n_rows,) holds; the others are left out."""
        counted = np.concatenate([[0], np.cumsum(is_in)])
        row_start = counted[self.task_start].astype(np.int64)
        rows, out_rows = np.flatnonzero(is_in), np.flatnonzero(~is_in)
        return RowSample(rows.astype(np.uint32), row_start, out_rows.astype(np.uint32), self.task_start - row_start)

    def content_halves(self) -> np.ndarray:
        """Two halves of the rows by what is in them, bool (n_rows,): the same for any order, seed and task names.

        What counts is a row's bins and the rank of its y among the values of its task, so that the unit of y does not
        matter. Equal rows fall into the same half, so that a weight of 2 and a row that is there twice agree.
        """
        order = np.lexsort((self.y, self.task))
        is_next = np.append(False, (np.diff(self.y[order]) != 0) & (np.diff(self.task[order]) == 0))
        steps = np.cumsum(is_next)
        rank = np.empty(self.n_rows, dtype=np.uint64)
        rank[order] = steps - steps[self.task_start[self.task[order]]]
        mixed = rank * np.uint64(0x9E3779B97F4A7C15)
        for column in self.codes:
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + column
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
        return (mixed >> np.uint64(63)).astype(bool)


@dataclass
class ValidationRows:
    """Rows that decide when a block ends: X float64 (n_features, n_rows), task int32 (n_tasks where unseen)."""

    X: np.ndarray
    task: np.ndarray
    y: np.ndarray
    weight: np.ndarray


@dataclass
class Scores:
    """Additive score of a set of rows: what is fixed, and each partition group apart, because θ re-weights those.

    fixed : float64 (n_rows, n_outputs); groups : float64 (2, n_rows, n_outputs); task : int32 (n_rows,)
    """

    fixed: np.ndarray
    groups: np.ndarray
    task: np.ndarray
    has_groups: bool = False

    @classmethod
    def zeros(cls, base: np.ndarray, task: np.ndarray) -> Scores:
        shape = (len(task), len(base))
        return cls(np.broadcast_to(base, shape).copy(), np.zeros((2, *shape)), task)

    def part(self, block: int, group: int | np.ndarray) -> np.ndarray:
        """The array that trees of ``block`` (and ``group``) add to."""
        if block != PARTITION:
            return self.fixed
        self.has_groups = True
        return self.groups[group]

    def total(self, mixing: np.ndarray) -> np.ndarray:
        """Score (n_rows, n_outputs); the fixed part itself, not a copy, while no group has a tree."""
        if not self.has_groups:
            return self.fixed
        share = mixing[self.task]
        return self.fixed + share[:, :1] * self.groups[0] + share[:, 1:2] * self.groups[1]

    def copy(self) -> Scores:
        return Scores(self.fixed.copy(), self.groups.copy(), self.task, self.has_groups)
