"""Rows whose task is not read from X: those asked for as rows of every task, and those of a task to add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from mttab._core.tasks import TaskLabels, normalise_task_ids, some_of
from mttab._core.validation import check_table, drop_columns, task_positions


def is_every_task(task: Any) -> bool:
    """Whether the argument ``task`` asks for every task. Ids are one per row, so that "all" alone is never an id."""
    return isinstance(task, str) and task == "all"


def refuse_every_task(task: Any, method: str) -> None:
    """Raise where `method` is asked for every task but needs the one of each row."""
    if is_every_task(task):
        raise ValueError(
            f"{method} compares each row with its own label, so task='all' says nothing to it; pass the "
            "task of each row, or rows with the task column."
        )


def features_without_task(
    X: Any, task_column: Any, n_columns: int, feature_names: Sequence[str] | None
) -> tuple[pd.DataFrame | np.ndarray, Any]:
    """Features of rows for which no task id is read: X as at fit, or without the task column.

    Parameters
    ----------
    X : array-like of shape (n, n_columns) or (n, n_features)
    task_column : None, str, int or list of these
        The column of fit; None where X never had one.
    n_columns : int
        Columns of X at fit.
    feature_names : sequence of str or None
        Their names.

    Returns
    -------
    features : DataFrame or ndarray of shape (n, n_features)
    ids : DataFrame, Series, ndarray or None
        The task column as it stands in X, unchecked; None where it is not there.
    """
    table = check_table(X)
    names = None if feature_names is None else list(feature_names)
    positions = task_positions(task_column, n_columns, names)
    is_there = len(positions) > 0 and table.shape[1] == n_columns
    if len(positions) and isinstance(table, pd.DataFrame) and names is not None:
        there = [names[p] in table.columns for p in positions]
        is_there = any(there)
        if is_there and not all(there):
            raise ValueError(
                f"X has some of the columns of task_column={task_column!r} but not all; pass all or none of them."
            )
    probe = BaseEstimator()
    kept = np.arange(n_columns) if is_there else np.delete(np.arange(n_columns), positions)
    probe.n_features_in_ = len(kept)
    if names is not None:
        probe.feature_names_in_ = np.array([names[j] for j in kept], dtype=object)
    validate_data(probe, table, reset=False, skip_check_array=True)
    if not is_there:
        return table, None
    if isinstance(table, pd.DataFrame):
        ids: Any = table.iloc[:, positions[0]] if len(positions) == 1 else table.iloc[:, positions]
    else:
        ids = table[:, positions[0]] if len(positions) == 1 else table[:, positions]
    return drop_columns(table, positions), ids


def new_task_label(task: Any, known: TaskLabels, ids: Any, task_column: Any) -> Any:
    """Label of a task to add: one label that is no task yet, and what the task column, if it is there, says.

    Parameters
    ----------
    task : object
        The argument of the user: a label, or for composite ids a tuple.
    known : TaskLabels
    ids : Series, DataFrame, ndarray or None
        The task column of the rows.
    task_column : None, str, int or list of these
        For the messages.
    """
    is_composite = all(isinstance(label, tuple) for label in known.labels.tolist())
    if is_composite and not (isinstance(task, (tuple, list)) and len(task) == len(known.labels[0])):
        raise ValueError(
            f"task={task!r}, but tasks of this model are like {known.labels[0]!r}; pass a tuple of as many parts."
        )
    if not is_composite and (
        isinstance(task, (list, np.ndarray, pd.Series, pd.Index)) or not pd.api.types.is_hashable(task)
    ):
        raise ValueError(
            f"task={task!r} is no single label; pass the label of the one new task, and call add_task once for each."
        )
    if not is_composite and pd.isna(task):
        raise ValueError(f"task={task!r} is no label; pass the one of the new task.")
    one: Any = pd.DataFrame([list(task)], dtype=object) if is_composite else pd.Series([task])
    label = normalise_task_ids(one).tolist()[0]
    if known.encode(one)[0] >= 0:
        raise ValueError(
            f"task={label!r} is a task of this model already, and add_task would not learn from its rows together with "
            "those of fit; refit on all rows, or pass the label of a new task."
        )
    if ids is not None:
        found = TaskLabels.fit(ids, name=f"task_column={task_column!r}")
        others = [other for other in found.labels.tolist() if other != label]
        if others:
            raise ValueError(
                f"task={label!r}, but task_column={task_column!r} holds {some_of(others)}; pass the rows of the new "
                "task only, or X without its task column."
            )
    return label
