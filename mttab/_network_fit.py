"""The steps of fitting a network estimator: from what the user passes to encoded rows with labels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from mttab._core.features import FeatureEncoder, resolve_categorical_features
from mttab._core.holdout import splitter_holdout, stratified_holdout
from mttab._core.long_table import TargetScaling, values_by_label
from mttab._core.neural.columns import ColumnEncoder, Columns
from mttab._core.target_table import TargetTable
from mttab._core.tasks import TaskLabels, normalise_task_ids
from mttab._core.validation import (
    check_cell_weight,
    check_same_length,
    check_table,
    resolve_task_ids,
    split_task_column,
)

LARGEST_TARGET = 1e100  # of a number in y; its square, times weights, is far from the largest float64


@dataclass(frozen=True)
class Rows:
    """Rows with a label: their features, labels (NaN = not observed), weights of cells, and row tasks or None.

    `unlabelled` are the rows beside them that the pretext task learns from as well, where there is one.
    """

    features: pd.DataFrame | np.ndarray
    values: np.ndarray
    weight: np.ndarray
    task_ids: np.ndarray | None
    unlabelled: Rows | None = None

    def take(self, keep: np.ndarray) -> Rows:
        features = self.features[keep] if isinstance(self.features, np.ndarray) else self.features.loc[keep]
        ids = None if self.task_ids is None else self.task_ids[keep]
        return Rows(features, self.values[keep], self.weight[keep], ids)

    @property
    def seen(self) -> tuple[pd.DataFrame | np.ndarray, np.ndarray]:
        """Features and weights (n,) of all rows that fit learns from."""
        weight = self.weight.max(axis=1)
        if self.unlabelled is None:
            return self.features, weight
        others, weight_of_others = self.unlabelled.seen
        parts = [self.features, others]
        joined = np.concatenate(parts) if isinstance(others, np.ndarray) else pd.concat(parts, ignore_index=True)
        return joined, np.concatenate([weight, weight_of_others])


@dataclass(frozen=True)
class Layout:
    """What the columns of X are.

    names : names of all columns, or None; n_columns : how many; task_positions : where the task columns stand
    is_categorical : bool (n_columns,); task_source : "column", "argument" or None for tasks that are targets
    """

    names: list[str] | None
    n_columns: int
    task_positions: np.ndarray
    is_categorical: np.ndarray
    task_source: str | None

    @property
    def feature_positions(self) -> np.ndarray:
        return np.delete(np.arange(self.n_columns), self.task_positions)

    @property
    def feature_names(self) -> list[str]:
        return [f"x{j}" if self.names is None else self.names[j] for j in self.feature_positions]


@dataclass(frozen=True)
class Encoding:
    """Everything fitted that turns rows into numbers: features, tasks, targets and their scale."""

    layout: Layout
    features: FeatureEncoder
    columns: ColumnEncoder
    targets: TargetTable
    row_tasks: TaskLabels | None
    scaling: TargetScaling

    def encode_features(self, features: Any, *, name: str = "X") -> Columns:
        return self.columns.transform(self.features.transform(features, name=name))

    def encode_tasks(self, ids: np.ndarray | None, *, unseen: str = "shared", name: str = "task") -> np.ndarray:
        """Row task of each row; the number of tasks for one that fit did not see."""
        assert self.row_tasks is not None
        index = self.row_tasks.encode(ids, unseen=unseen, name=name)
        return np.where(index < 0, self.row_tasks.n_tasks, index).astype(np.int64)

    def scale(self, values: np.ndarray, row_task: np.ndarray | None) -> np.ndarray:
        """Labels with regression targets standardised."""
        center, spread = self._center_and_spread(row_task)
        return (values - center) / spread

    def unscale(self, values: np.ndarray, row_task: np.ndarray | None) -> np.ndarray:
        """The reverse."""
        center, spread = self._center_and_spread(row_task)
        return values * spread + center

    def _center_and_spread(self, row_task: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if row_task is None:
            n_tasks = len(self.targets.columns)
            return self.scaling.center[:n_tasks], self.scaling.scale[:n_tasks]
        return self.scaling.center[row_task, None], self.scaling.scale[row_task, None]


class NetworkFitSteps:
    """Mixin with one method per step, in the order in which `BaseNetwork.fit` calls them; none sets an attribute."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def _fit_targets(self, y: Any, sample_weight: Any, classes: Any) -> tuple[TargetTable, np.ndarray]:
        """What the estimator takes y for."""
        raise NotImplementedError

    def _read_layout(self, X: Any, task: Any) -> tuple[Any, Layout, Any, np.ndarray | None]:
        """Table, its layout, its features and its row tasks."""
        table = check_table(X)
        probe = BaseEstimator()  # collects the column names without touching what an earlier fit has left in self
        validate_data(probe, table, skip_check_array=True)
        features, ids, positions = split_task_column(table, self.task_column)
        ids, source = resolve_task_ids(task, ids, self.task_column)
        layout = Layout(
            names=list(probe.feature_names_in_) if hasattr(probe, "feature_names_in_") else None,
            n_columns=probe.n_features_in_,
            task_positions=positions,
            is_categorical=resolve_categorical_features(self.categorical_features, table, positions.tolist()),
            task_source=source,
        )
        if layout.is_categorical[positions].any():
            raise ValueError(
                f"categorical_features names the task column {self.task_column!r}, which has a token already; drop it."
            )
        return table, layout, features, ids

    def _labelled_rows(
        self,
        table: Any,
        features: Any,
        y: Any,
        values: np.ndarray,
        sample_weight: Any,
        ids: np.ndarray | None,
        keep_unlabelled: bool = False,
    ) -> tuple[Rows, np.ndarray]:
        """Rows with a label that has a weight, and which of all rows they are."""
        check_same_length(X=table, y=values, task=ids)
        weight = check_cell_weight(sample_weight, values.shape)
        is_empty = np.isnan(values).all(axis=1) & (weight > 0).any(axis=1)  # a row of weight 0 is meant to be left out
        unlabelled = None
        if is_empty.any() and keep_unlabelled:
            unlabelled = Rows(features, values, weight, ids).take(is_empty)
        elif is_empty.any():
            warnings.warn(
                f"y has no label in {int(is_empty.sum())} of {len(values)} rows (first: row {int(is_empty.argmax())}); "
                "they are left out"
                + (", with no pretext task to learn here." if self.pretext else "; pretext= has a use for them."),
                UserWarning,
                stacklevel=5,
            )
        weight = np.where(np.isnan(values), 0.0, weight)
        keep: np.ndarray = np.any(weight > 0, axis=1)
        if not keep.any():
            raise ValueError("y has no label with a positive weight, so there is nothing to learn; pass some labels.")
        rows = Rows(features, values, weight, ids)
        return replace(rows if keep.all() else rows.take(keep), unlabelled=unlabelled), keep

    def _fit_encoding(self, layout: Layout, targets: TargetTable, rows: Rows) -> Encoding:
        features, row_weight = rows.seen
        encoder = FeatureEncoder().fit(
            features,
            layout.is_categorical[layout.feature_positions],
            max_categories=None,
            sample_weight=row_weight,
            names=layout.feature_names,
            unknown="code",
        )
        values = encoder.transform(features)
        columns = ColumnEncoder().fit(
            values, encoder.n_categories, encoder.is_categorical, row_weight, self.numerical_scaling
        )
        row_tasks = None if rows.task_ids is None else TaskLabels.fit(rows.task_ids)
        return Encoding(layout, encoder, columns, targets, row_tasks, self._fit_scaling(targets, rows, row_tasks))

    def _fit_scaling(self, targets: TargetTable, rows: Rows, row_tasks: TaskLabels | None) -> TargetScaling:
        """Centre and scale per target, or per row task."""
        is_number = np.array([column.classes is None for column in targets.columns])
        n = row_tasks.n_tasks if row_tasks is not None else len(is_number)
        if not is_number.any():
            return TargetScaling.identity(n)
        for target, values, weight in zip(targets.columns, rows.values.T, rows.weight.T, strict=True):
            peak = np.abs(values[weight > 0]).max() if target.classes is None else 0.0
            if peak > LARGEST_TARGET:
                raise ValueError(
                    f"column {target.label!r} of y holds numbers as large as {peak:g}, whose squares overflow; divide "
                    f"it by a power of ten, so that none is beyond {LARGEST_TARGET:g}."
                )
        if row_tasks is None:
            row, column = np.nonzero(rows.weight)
            scaling = TargetScaling.standard(rows.values[row, column], column, rows.weight[row, column], n)
            center = np.where(is_number, scaling.center[:-1], 0.0)
            return TargetScaling(np.append(center, 0.0), np.append(np.where(is_number, scaling.scale[:-1], 1.0), 1.0))
        y, weight = rows.values[:, 0], rows.weight[:, 0]
        if self.target_scaling == "task":
            return TargetScaling.standard(y, row_tasks.encode(rows.task_ids), weight, n)
        scaling = TargetScaling.standard(y, np.zeros(len(y), dtype=np.int64), weight, 1)
        return TargetScaling(np.repeat(scaling.center[:1], n + 1), np.repeat(scaling.scale[:1], n + 1))

    def _task_factors(self, targets: TargetTable, row_tasks: TaskLabels | None) -> np.ndarray:
        """Factor on the loss of each task, from `task_weight`."""
        labels = [c.label for c in targets.columns] if row_tasks is None else row_tasks.labels.tolist()
        if self.task_weight is None:
            return np.ones(len(labels))
        factors = values_by_label(self.task_weight, "task_weight", "task", labels, 1.0)
        if (factors <= 0).any():
            label = labels[int(np.argmin(factors))]
            raise ValueError(f"task_weight holds {factors.min():g} for the task {label!r}, but must be positive.")
        return factors

    def _held_out(
        self, encoding: Encoding, rows: Rows, keep: np.ndarray, X: Any, y: Any, ids: Any, rng: np.random.Generator
    ) -> np.ndarray:
        """Which labelled rows validate, bool."""
        if self.validation is not None:
            is_held = splitter_holdout(self.validation, X, y, ids, len(keep))[keep]
        else:
            is_held = stratified_holdout(strata_of(encoding, rows), self.validation_fraction, rng)
            for weight in rows.weight.T:  # a task with a handful of labels must not lose all of them
                if not weight[~is_held].any():
                    is_held &= weight == 0
        if not is_held.any() or is_held.all():
            raise ValueError(
                f"early_stopping={self.early_stopping!r} leaves {int(is_held.sum())} of {len(is_held)} labelled rows "
                "for validation, so there is nothing to compare; pass more rows, a larger validation_fraction, or "
                "early_stopping=False."
            )
        return is_held

    def _explicit_rows(self, encoding: Encoding, explicit: dict[str, Any]) -> Rows | None:
        """Validation rows from X_val, y_val, task_val and sample_weight_val."""
        if explicit["X_val"] is None:
            return None
        table = check_table(explicit["X_val"], name="X_val")
        layout = encoding.layout
        if table.shape[1] != layout.n_columns:
            raise ValueError(
                f"X_val has {table.shape[1]} columns, but X has {layout.n_columns}; pass the same columns."
            )
        if layout.names is not None and isinstance(table, pd.DataFrame) and list(table.columns) != layout.names:
            raise ValueError("X_val has other columns than X, or in another order; pass the same columns.")
        features, ids, _ = split_task_column(table, self.task_column, feature_names=layout.names)
        if layout.task_source == "argument":
            if explicit["task_val"] is None:
                raise ValueError("task was passed without task_val; pass one task id per row of X_val.")
            ids = normalise_task_ids(explicit["task_val"], name="task_val")
        elif explicit["task_val"] is not None:
            raise ValueError("task_val was passed without task; pass the task ids of X_val as those of X.")
        values = encoding.targets.encode(explicit["y_val"], explicit["sample_weight_val"], name="y_val")
        check_same_length(X_val=table, y_val=values, task_val=ids)
        weight = check_cell_weight(explicit["sample_weight_val"], values.shape, name="sample_weight_val", table="X_val")
        return Rows(features, values, np.where(np.isnan(values), 0.0, weight), ids)


def strata_of(encoding: Encoding, rows: Rows) -> np.ndarray:
    """Stratum of each row: its row task and its classes, as long as strata keep ten rows on average."""
    n = len(rows.values)
    strata = np.zeros(n, dtype=np.int64)
    parts = [] if encoding.row_tasks is None else [encoding.encode_tasks(rows.task_ids)]
    for t, column in enumerate(encoding.targets.columns):
        missing = -1.0 if column.classes is None else float(len(column.classes))
        label = np.where(rows.weight[:, t] > 0, rows.values[:, t] if column.classes is not None else 0.0, missing)
        parts.append(label.astype(np.int64))
    for i, part in enumerate(parts):
        _, finer = np.unique(np.column_stack([strata, part]), axis=0, return_inverse=True)
        finer = finer.ravel()
        if i == 0 or finer.max() + 1 <= n // 10:
            strata = finer
    return strata
