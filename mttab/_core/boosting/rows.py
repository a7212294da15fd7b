"""Rows as the boosting loop sees them: sorted by task to train on, apart to validate on, and their scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mttab._core.sorting import order_within_groups

from .forest import PARTITION
from .sampling import draw_rows, leave_tasks_out, uniform_of_keys

# Values of y, those of all processes together, up to which the processes tell them each other: 16 MB.
MAX_SHARED_VALUES = 2**20


class Peers:
    """Everybody who holds rows of one fit. In this plain form that is nobody else: all rows are here.

    Where rows are spread over processes, each of them runs the same steps on its own rows; what a step needs of all
    rows goes through `sum`, which gives every process the same bytes back, so that all of them decide alike.
    """

    rank = 0
    n_ranks = 1

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums of ``values``, float64 of one shape everywhere, over all processes."""
        return values

    def gather(self, values: np.ndarray) -> np.ndarray:
        """The values float64 (n,) of every process, (n_ranks, n)."""
        slots = np.zeros((self.n_ranks, len(values)))
        slots[self.rank] = values
        return self.sum(slots)


ALONE = Peers()


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

    def within(self, is_member: np.ndarray) -> RowSample:
        """The same with all rows of the tasks left out where ``is_member`` (n_tasks,) does not hold."""
        if is_member.all():
            return self
        n = len(self.rows) + len(self.out_rows)
        rows, out_rows = np.empty((2, n), dtype=np.uint32)
        row_start, out_start = np.empty((2, len(self.row_start)), dtype=np.int64)
        before = self.rows, self.row_start, self.out_rows, self.out_start
        n_in = leave_tasks_out(*before, is_member, rows, row_start, out_rows, out_start)
        return RowSample(rows[:n_in], row_start, out_rows[: n - n_in], out_start)


@dataclass
class TrainingRows:
    """Training rows, sorted by task so that a task is one contiguous range.

    words : uint32 (n_blocks, n_rows), bins of ``n_features`` features as `binning.pack_words` lays them
    task : int32 (n_rows,); task_start : int64 (n_tasks + 1,)
    y, weight : float64 (n_rows,); position : whole numbers (n_rows,), place of the row in the caller's data
    task_mass : float64 (n_tasks,), rows of each task by the user's weights alone; None where ``weight`` is just these
    peers : who holds the rows that are not here; a task's rows are all in one place if there are trees per task
    """

    words: np.ndarray
    n_features: int
    task: np.ndarray
    task_start: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    position: np.ndarray
    task_mass: np.ndarray | None = None
    peers: Peers = ALONE
    _content_key: np.ndarray | None = field(default=None, init=False, repr=False)

    @property
    def n_rows(self) -> int:
        return len(self.y)

    @property
    def n_tasks(self) -> int:
        return len(self.task_start) - 1

    @cached_property
    def is_unweighted(self) -> bool:
        """Every row counts once."""
        return bool(np.all(self.weight == 1.0))

    @cached_property
    def all_count(self) -> bool:
        """No row has weight 0."""
        return bool(np.all(self.weight > 0.0))

    def codes(self, feature: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Bins uint32 (n,) of some rows in one feature."""
        return (self.words[feature // 4, rows] >> np.uint32(8 * (feature % 4))) & np.uint32(255)

    def sum_by_task(self, values: np.ndarray) -> np.ndarray:
        """Sums (n_tasks,) of a per-row array, wherever the rows are."""
        return self.peers.sum(np.bincount(self.task, weights=values, minlength=self.n_tasks))

    def totals(self, *sums: float) -> list[float]:
        """Sums over the rows that are here → sums over all rows."""
        return [float(total) for total in self.peers.sum(np.array(sums, dtype=np.float64))]

    def all_rows(self) -> RowSample:
        rows = np.arange(self.n_rows, dtype=np.uint32)
        return RowSample(rows, self.task_start, np.empty(0, dtype=np.uint32), np.zeros_like(self.task_start))

    def sample(self, is_in: np.ndarray) -> RowSample:
        """Sample of the rows where ``is_in`` (n_rows,) holds; the others are left out."""
        counted = np.concatenate([[0], np.cumsum(is_in)])
        row_start = counted[self.task_start].astype(np.int64)
        rows, out_rows = np.flatnonzero(is_in), np.flatnonzero(~is_in)
        return RowSample(rows.astype(np.uint32), row_start, out_rows.astype(np.uint32), self.task_start - row_start)

    @property
    def content_key(self) -> np.ndarray:
        """Random bits uint64 (n_rows,) from what is in a row: the same for any order, seed and task names.

        What counts is a row's bins and the rank of its y among the values of its task, so that the unit of y does not
        matter. Equal rows have equal keys, so that a weight of 2 and a row that is there twice agree. All processes
        have to ask together.
        """
        if self._content_key is None:  # a cached_property keeps all threads of a process waiting, until Python 3.12
            self._content_key = self._hash_rows()
        return self._content_key

    def _hash_rows(self) -> np.ndarray:
        mixed = self._rank_of_y().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for f in range(self.n_features):
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + self.codes(f)
        return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)

    def _rank_of_y(self) -> np.ndarray:
        """Rank int64 (n_rows,) of y among the different values of its task, in all processes unless those are many."""
        order, which = _different(self.y, self.task)
        y, task = self.y[order], self.task[order]
        peers, longest = self.peers, len(y)
        if peers.n_ranks > 1:
            longest = int(peers.gather(np.array([float(len(y))])).max())
        if peers.n_ranks == 1 or peers.n_ranks * longest > MAX_SHARED_VALUES:
            return _place_in_run(task)[which]
        slot = np.full((2, longest), -1.0)  # no task has this number
        slot[:, : len(y)] = y, task
        y_of_all, task_of_all = np.moveaxis(peers.gather(slot.ravel()).reshape(-1, 2, longest), 1, 0)
        y, task = y_of_all.ravel(), task_of_all.ravel().astype(np.int64)
        order, place = _different(y, task)
        return _place_in_run(task[order])[place[peers.rank * longest :][which]]

    def n_different(self) -> int:
        """Number of different rows: the same whatever the weights, and however often a row is there."""
        return len(np.unique(self.content_key))

    def content_halves(self) -> np.ndarray:
        """Two halves of the rows by what is in them, bool (n_rows,)."""
        return (self.content_key >> np.uint64(63)).astype(bool)

    def content_share(self, share: float, seed: int) -> np.ndarray:
        """About that share of the rows, bool (n_rows,), drawn by what is in them."""
        return self._uniform(seed) < share

    def content_sample(self, share: float, seed: int) -> RowSample:
        """Sample of `content_share`."""
        n = self.n_rows
        rows, out_rows = np.empty((2, n + 1), dtype=np.uint32)
        row_start, out_start = np.empty((2, len(self.task_start)), dtype=np.int64)
        starts = self.task_start, rows, row_start, out_rows, out_start
        n_in = draw_rows(self.content_key, np.uint64(seed), share, *starts)
        return RowSample(rows[:n_in], row_start, out_rows[: n - n_in], out_start)

    def content_folds(self, n_folds: int, seed: int) -> np.ndarray:
        """Fold int (n_rows,) of every row, by what is in it; folds are of about equal size."""
        return (self._uniform(seed) * n_folds).astype(np.int64)

    def _uniform(self, seed: int) -> np.ndarray:
        """Numbers (n_rows,) in [0, 1), the same for equal rows."""
        return uniform_of_keys(self.content_key, np.uint64(seed))

    def take(self, is_in: np.ndarray) -> TrainingRows:
        """The rows where ``is_in`` (n_rows,) holds, all tasks kept."""
        start = np.concatenate([[0], np.cumsum(is_in)])[self.task_start].astype(np.int64)
        words = np.ascontiguousarray(self.words[:, is_in])
        rest = self.task[is_in], start, self.y[is_in], self.weight[is_in], self.position[is_in]
        return TrainingRows(words, self.n_features, *rest, self.task_mass, self.peers)

    def judged(self, X: Any, is_held: np.ndarray) -> ValidationRows:
        """The rows where ``is_held`` (n_rows,) holds, to validate on.

        X : float64 (n_features, n_rows), raw values of all rows, or what gives them for ``X[:, is_held]``
        """
        values = np.ascontiguousarray(X[:, is_held])
        return ValidationRows(values, self.task[is_held], self.y[is_held], self.weight[is_held])


def _different(values: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the different values of each task stand, in order, and which of them each value (n,) is."""
    order = order_within_groups(values, task)
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (np.diff(values[order]) != 0) | (np.diff(task[order]) != 0)
    which = np.empty(len(order), dtype=np.int64)
    which[order] = np.cumsum(is_new) - 1
    return order[is_new], which


def _place_in_run(numbers: np.ndarray) -> np.ndarray:
    """How many equal ones stand before each of these sorted numbers."""
    return np.arange(len(numbers)) - np.searchsorted(numbers, numbers)


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

    fixed : float64 (n_rows, n_outputs); groups : float64 (n_groups, n_rows, n_outputs); task : int32 (n_rows,)
    """

    fixed: np.ndarray
    groups: np.ndarray
    task: np.ndarray
    has_groups: bool = False
    _last_shares: tuple[np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)

    @classmethod
    def zeros(cls, base: np.ndarray, task: np.ndarray, n_groups: int = 2) -> Scores:
        shape = (len(task), len(base))
        return cls(np.broadcast_to(base, shape).copy(), np.zeros((n_groups, *shape)), task)

    def part(self, block: int, group: int | np.ndarray) -> np.ndarray:
        """The array that trees of ``block`` (and ``group``) add to."""
        if block != PARTITION:
            return self.fixed
        if not self.has_groups:
            self.has_groups, self.groups = True, np.zeros_like(self.groups)  # copies share the empty array
        return self.groups[group]

    def total(self, mixing: np.ndarray) -> np.ndarray:
        """Score (n_rows, n_outputs); the fixed part itself, not a copy, while no group has a tree."""
        if not self.has_groups:
            return self.fixed
        out = self.fixed
        for share, group in zip(self.shares(mixing), self.groups, strict=True):
            out = out + share[:, None] * group
        return out

    def shares(self, mixing: np.ndarray) -> np.ndarray:
        """Weight (n_groups, n_rows) of every group in the score of each row; taken anew where that is another array."""
        if self._last_shares is None or self._last_shares[0] is not mixing:
            self._last_shares = mixing, np.take(mixing.T, self.task, axis=1)
        return self._last_shares[1]

    def copy(self) -> Scores:
        groups = self.groups.copy() if self.has_groups else self.groups
        return Scores(self.fixed.copy(), groups, self.task, self.has_groups)
