"""From the entries of a table to the rows that `boost` trains on and is stopped by."""

from __future__ import annotations

from typing import Any

import numpy as np

from mttab._core.boosting.binning import BinMapper
from mttab._core.boosting.rows import TrainingRows, ValidationRows
from mttab._core.features import LargeTable
from mttab._core.long_table import LongTable, TargetScaling
from mttab._core.sorting import order_of_groups
from mttab._core.tasks import TaskLabels


def training_rows(
    mapper: BinMapper,
    values: np.ndarray | LargeTable,
    long: LongTable,
    labels: TaskLabels,
    scaling: TargetScaling,
    n_threads: int,
) -> tuple[TrainingRows, OrderedRows]:
    """Binned training rows in task order, and their raw values."""
    words = mapper.words(values, n_threads)
    task = long.encode_tasks(labels)
    mass = np.bincount(task, weights=long.user_weight, minlength=labels.n_tasks)
    if np.all(task[1:] >= task[:-1]):  # nothing to sort: of many rows nothing is copied either
        position, order = np.arange(len(task)), long.row_idx
        # To a kernel an array that is read-only, or strided, is another type.
        y, weight = (np.require(column, np.float64, ["C", "W"]) for column in (long.y, long.weight))
    else:
        position = order_of_groups(task)
        order, task, y, weight = long.row_idx[position], task[position], long.y[position], long.weight[position]
    if np.array_equal(order, position):
        position = order
    if not (len(order) == words.shape[1] and np.all(order[1:] > order[:-1])):
        words = np.ascontiguousarray(words[:, order])
    if scaling.center.any() or np.any(scaling.scale != 1.0):
        y = (y - scaling.center[task]) / scaling.scale[task]
    start = np.searchsorted(task, np.arange(labels.n_tasks + 1)).astype(np.int64)
    rows = TrainingRows(words, len(values), task, start, y, weight, position, mass)
    return rows, OrderedRows(values, order)


class OrderedRows:
    """Raw values (n_features, n_rows) of training rows, made for those that are asked for: ``X[:, rows]``."""

    def __init__(self, values: np.ndarray | LargeTable, order: np.ndarray):
        self._values, self._order = values, order

    def __getitem__(self, place: tuple[Any, Any]) -> np.ndarray:
        return self._values[:, self._order[place[1]]]


def validation_rows(
    values: np.ndarray, held_out: LongTable, labels: TaskLabels, scaling: TargetScaling
) -> ValidationRows:
    task = held_out.encode_tasks(labels)
    y = (held_out.y - scaling.center[task]) / scaling.scale[task]
    return ValidationRows(np.ascontiguousarray(values), task, y, held_out.weight)
