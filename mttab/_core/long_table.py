"""What fit reads, whatever the layout: one entry per label, with its row, its task and its weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from mttab._core.records import require
from mttab._core.tasks import TaskLabels, did_you_mean, label_array, melt_targets


@dataclass
class Inputs:
    """X, y and task ids of fit, checked but not yet encoded.

    features : X without the task columns; names : all columns of X, or None
    task_positions : where the task columns stand in X; is_categorical : bool (n_columns of X,)
    task_ids : object (n_rows,) or None; y : float64 (n_rows,) or (n_rows, n_targets), NaN = not observed
    target_labels : names of the columns of a 2-D y, else None; classes : of a classifier, else None
    task_source : "column", "argument", "targets" or None
    """

    features: pd.DataFrame | np.ndarray
    names: list[str] | None
    n_columns: int
    task_positions: np.ndarray
    is_categorical: np.ndarray
    task_ids: np.ndarray | None
    y: np.ndarray
    target_labels: np.ndarray | None
    classes: np.ndarray | None
    task_source: str | None

    @property
    def feature_positions(self) -> np.ndarray:
        return np.delete(np.arange(self.n_columns), self.task_positions)

    @property
    def task_is_category(self) -> bool:
        return bool(self.is_categorical[self.task_positions].any())

    def melt(self, weight: np.ndarray) -> LongTable:
        """One entry per observed label, entries of weight 0 dropped."""
        if self.target_labels is None:
            long = LongTable(np.arange(len(self.y)), self.task_ids, self.y, weight)
        else:
            melted = melt_targets(pd.DataFrame(self.y, columns=self.target_labels.tolist()))
            ids = label_array(self.target_labels.tolist())[melted.task_idx]
            y = self.y[melted.row_idx, melted.task_idx]
            long = LongTable(melted.row_idx, ids, y, weight[melted.row_idx])
            mass = np.bincount(melted.task_idx, weights=long.weight, minlength=len(self.target_labels))
            if not mass.all():
                label = self.target_labels.tolist()[int(mass.argmin())]
                raise ValueError(f"y has no label with a positive weight in column {label!r}; leave this column out.")
        return long if np.all(long.weight > 0) else long.take(long.weight > 0)


@dataclass
class LongTable:
    """One entry per label: row of the features, task id (None where there are no tasks), label and user's weight."""

    row_idx: np.ndarray
    task_ids: np.ndarray | None
    y: np.ndarray
    user_weight: np.ndarray
    factor: np.ndarray | float = 1.0

    @property
    def weight(self) -> np.ndarray:
        """Weight (n,) of each entry in fit: the user's times the factors of its class and task."""
        return self.user_weight if isinstance(self.factor, float) else self.user_weight * self.factor

    def take(self, keep: np.ndarray) -> LongTable:
        task_ids = None if self.task_ids is None else self.task_ids[keep]
        return LongTable(self.row_idx[keep], task_ids, self.y[keep], self.user_weight[keep])

    def weighted(
        self, labels: TaskLabels, class_factors: np.ndarray | None, task_factors: np.ndarray | None
    ) -> LongTable:
        """The same entries with a factor for each class and each task."""
        factor: np.ndarray | float = 1.0
        if class_factors is not None:
            factor = class_factors[self.y.astype(np.int64)]
        if task_factors is not None:
            factor = factor * task_factors[self.encode_tasks(labels)]
        return replace(self, factor=factor)

    def encode_tasks(self, labels: TaskLabels) -> np.ndarray:
        """Task index int32 (n,); n_tasks for tasks that training has not seen."""
        if self.task_ids is None:
            return np.zeros(len(self.y), dtype=np.int32)
        task = labels.encode(self.task_ids)
        return np.where(task < 0, labels.n_tasks, task).astype(np.int32)


@dataclass
class TargetScaling:
    """Centre and scale of each task's target, float64 (n_tasks + 1,), the last entry for unseen tasks."""

    center: np.ndarray
    scale: np.ndarray

    def check_state(self) -> None:
        """Raise ValueError unless every task has a number of each."""
        for values in (self.center, self.scale):
            require(values.dtype == np.float64 and values.shape == (len(self.center),), "scales are misshapen")

    @classmethod
    def identity(cls, n_tasks: int) -> TargetScaling:
        return cls(np.zeros(n_tasks + 1), np.ones(n_tasks + 1))

    def with_task(self, y: np.ndarray, weight: np.ndarray) -> TargetScaling:
        """The same with one task more, its centre and scale drawn to those of unseen tasks as far as its rows are few.

        y, weight : (n_rows,), of the new task
        """
        center, scale = self.center[:-1], self.scale[:-1]
        n = weight.sum() ** 2 / np.sum(weight**2)
        mean = np.average(y, weights=weight)
        # How far centres differ between tasks, in units of what rows of one task differ by.
        between, within = np.mean((center - self.center[-1]) ** 2), np.mean(scale**2)
        trust = between / max(between + within / n, 1e-300)
        new_center = self.center[-1] + trust * (mean - self.center[-1])
        new_scale, variance = self.scale[-1], np.average((y - mean) ** 2, weights=weight)
        if n > 1.0 and variance > 1e-24 * max(mean**2, 1e-280):
            log_scale = 0.5 * np.log(variance * n / (n - 1.0))
            spread = np.mean((np.log(scale) - np.log(self.scale[-1])) ** 2)
            trust = spread / (spread + 0.5 / (n - 1.0))
            new_scale = np.exp(trust * log_scale + (1.0 - trust) * np.log(self.scale[-1]))
        return TargetScaling(
            np.concatenate([center, [new_center], self.center[-1:]]),
            np.concatenate([scale, [new_scale], self.scale[-1:]]),
        )

    def of_last_task(self) -> TargetScaling:
        """That of the last task alone."""
        return TargetScaling(self.center[-2:], self.scale[-2:])

    @classmethod
    def standard(
        cls,
        y: np.ndarray,
        task: np.ndarray,
        weight: np.ndarray,
        n_tasks: int,
        total: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> TargetScaling:
        """Weighted mean and standard deviation per task; constant targets keep their scale.

        ``total`` makes sums over all rows of sums over the rows that are here, where some are elsewhere.
        """
        mass = total(np.bincount(task, weights=weight, minlength=n_tasks))
        mean = total(np.bincount(task, weights=weight * y, minlength=n_tasks)) / mass
        variance = total(np.bincount(task, weights=weight * (y - mean[task]) ** 2, minlength=n_tasks)) / mass
        # A task of one row, or of equal targets up to rounding, has no scale of its own.
        is_constant = variance <= 1e-24 * np.maximum(mean**2, 1e-280)
        scale = np.where(is_constant, 1.0, np.sqrt(variance))
        return cls(
            np.append(mean, np.average(mean, weights=mass)),
            np.append(scale, np.sqrt(np.average(scale**2, weights=mass))),
        )


def target_task_labels(y: Any, n_targets: int, source: str | None) -> np.ndarray:
    """Labels of the tasks that the columns of a 2-D y are.

    Parameters
    ----------
    y : array-like of shape (n, n_targets)
        As the user passed it; only its column names are read.
    n_targets : int
    source : str or None
        Where task ids of the rows come from, which there must not be.
    """
    if source is not None:
        raise ValueError(
            f"y has {n_targets} columns, which are tasks themselves, so task_column and task cannot be used with it; "
            "melt y to one column, or leave them out."
        )
    columns = list(y.columns) if isinstance(y, pd.DataFrame) else list(range(n_targets))
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise ValueError(f"y has the column {twice[0]!r} twice, but columns are tasks; rename one.")
    return label_array(columns)


def present_classes(codes: np.ndarray, classes: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class indices, as floats with NaN = not observed, and classes without those that have no row with a weight.

    Raises
    ------
    ValueError
        If fewer than two classes are left.
    """
    seen = codes[weight > 0]
    used = np.unique(seen[~np.isnan(seen)]).astype(np.int64)
    if len(used) < 2:
        which = f"one class only, {classes.tolist()[used[0]]!r}" if len(used) else "no class"
        raise ValueError(f"y holds {which}, but a classifier needs at least two; check the labels.")
    place = np.full(len(classes) + 1, np.nan)
    place[used] = np.arange(len(used))
    return place[np.where(np.isnan(codes), len(classes), codes).astype(np.int64)], classes[used]


def training_tasks(inputs: Inputs, long: LongTable) -> TaskLabels:
    """Tasks that training rows have; columns of a 2-D y keep their order."""
    if inputs.target_labels is not None:
        return TaskLabels(inputs.target_labels.tolist())
    return TaskLabels([0]) if long.task_ids is None else TaskLabels.fit(long.task_ids)


def values_by_label(
    values: dict[Any, Any], name: str, kind: str, known: list[Any], default: float | None
) -> np.ndarray:
    """Numbers of a dict in the order of the known labels, which ``kind`` says what they are.

    Labels that the dict does not name get ``default``; None makes that an error.
    """
    for key, value in values.items():
        if key not in known:
            where = "y does" if kind == "class" else "the training rows do"
            raise ValueError(f"{name} names the {kind} {key!r}, which {where} not have{did_you_mean(key, known)}")
        if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
            raise ValueError(f"{name} holds {value!r} for the {kind} {key!r}, but must be a finite number.")
    missing = [label for label in known if label not in values]
    if missing and default is None:
        raise ValueError(f"{name} has no value for the {kind} {missing[0]!r}; give every {kind} one.")
    return np.array([values.get(label, default) for label in known], dtype=np.float64)
