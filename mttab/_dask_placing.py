"""Which worker answers for which task: where its rows are, or most of them, so that little is moved."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Of the workers that hold nearly as many rows of a task as the one with the most, the least busy one gets it.
NEARLY = 0.8


class Placing(NamedTuple):
    """Workers that take part, and what each of them is for.

    workers : int (n_ranks,), positions among those that hold partitions, by rank
    owner : int (n_tasks,), the rank that answers for a task
    rank_of_worker : int (n_workers,), the rank that gets a worker's rows where tasks are not moved; 0 where it has none
    has_moves : whether rows go to the owner of their task
    """

    workers: np.ndarray
    owner: np.ndarray
    rank_of_worker: np.ndarray
    has_moves: bool


def place_tasks(mass: np.ndarray, has_rows: np.ndarray, has_task_trees: bool) -> Placing:
    """Deal the tasks out, the largest first.

    mass : float64 (n_workers, n_tasks), rows of each task by weight; has_rows : bool (n_workers,)
    has_task_trees : whether trees see the rows of one task; if not, rows stay where they are, and it does not matter
        which worker answers for a task
    """
    n_workers, n_tasks = mass.shape
    owner, load = np.empty(n_tasks, dtype=np.int64), np.zeros(n_workers)
    for t in np.argsort(-mass.sum(axis=0), kind="stable"):
        near = np.flatnonzero(mass[:, t] >= NEARLY * mass[:, t].max())
        owner[t] = near[np.argmin(load[near])]
        load[owner[t]] += mass[:, t].sum()
    used = np.unique(owner) if has_task_trees else np.flatnonzero(has_rows)
    rank = np.zeros(n_workers, dtype=np.int64)
    rank[used] = np.arange(len(used))
    return Placing(used, rank[owner], rank, has_task_trees)


def has_task_trees(model: Any, n_tasks: int) -> bool:
    """Whether a fit looks at the rows of one task alone: its trees, or what the start of θ is taken from."""
    has_branches = model.max_iter_partition != 0 and model.sharing not in ("pooled", "category")
    return n_tasks > 1 and (model.max_iter_task != 0 or has_branches)
