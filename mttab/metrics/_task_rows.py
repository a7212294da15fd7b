"""Long and wide tables of predictions, taken apart into one `TaskRows` per task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mttab._core.tasks import TaskLabels, some_of
from mttab.metrics._metric import Recital


class TaskRows(NamedTuple):
    """One task: its predictions, its observed rows, the truth and weight of these rows.

    `problem` says why nothing can be scored, where that is known from the predictions alone.
    """

    label: Any
    recital: Recital
    rows: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    problem: str = ""


def split_tasks(y_true: Any, y_pred: Any, *, task: Any, labels: Any, sample_weight: Any) -> Iterator[TaskRows]:
    """Tasks of a long table (ids in `task`) or of a wide one (columns), see `task_scores` for the arguments."""
    n_dim = np.ndim(y_true)
    if n_dim not in (1, 2):
        raise ValueError(f"y_true has {n_dim} dimensions; pass one target per row, or one column per task.")
    n = len(y_true)
    if n == 0:
        raise ValueError("y_true has no rows; pass at least one.")
    weight = check_weight(sample_weight, n)
    if n_dim == 1:
        y, rows = observed(y_true, weight)
        ids = np.zeros(n, dtype=np.int64) if task is None else task
        yield from split_rows(ids, _recital(y_pred, y, labels, n), rows, y, weight, n)
        return
    if task is not None:
        raise ValueError("task is given although y_true has one column per task; leave it out, or pass a 1-D y_true.")
    for label, j, column in target_columns(y_true):
        y, rows = observed(column, weight)
        recital, problem = Recital({}), ""
        prediction = pick(y_pred, label, j)
        try:
            if prediction is None:
                raise ValueError(f"y_pred holds no prediction for task {label!r}; add it, or leave the task out.")
            recital = _recital(prediction, y, pick_labels(labels, label, j), n)
        except ValueError as err:
            problem = str(err)
        yield TaskRows(label, recital, rows, y, None if weight is None else weight[rows], problem)


def split_rows(
    ids: Any, recital: Recital, rows: np.ndarray, y: np.ndarray, weight: np.ndarray | None, n: int
) -> Iterator[TaskRows]:
    """Row tasks in sorted order; `rows` are the observed ones among n, `y` their truth, `weight` that of all rows."""
    if len(ids) != n:
        raise ValueError(f"task has {len(ids)} ids for {n} rows; pass one id per row.")
    tasks = TaskLabels.fit(ids)
    code = tasks.encode(ids)
    by_task = np.argsort(code[rows], kind="stable")
    ends = np.cumsum(np.bincount(code[rows], minlength=tasks.n_tasks))
    for label, of_task in zip(tasks.labels.tolist(), np.split(by_task, ends[:-1]), strict=True):
        yield TaskRows(label, recital, rows[of_task], y[of_task], None if weight is None else weight[rows[of_task]])


def target_columns(Y: Any) -> Iterator[tuple[Any, int, Any]]:
    """Label, position and values of each column of a 2-D table."""
    frame = Y if isinstance(Y, pd.DataFrame) else pd.DataFrame(np.asarray(Y))
    for j, label in enumerate(frame.columns):
        yield label, j, frame.iloc[:, j]


def pick(predictions: Any, label: Any, position: int) -> Any:
    """One task's part of wide predictions; None where a dict has none for it."""
    if isinstance(predictions, Mapping):
        return predictions.get(label)
    if isinstance(predictions, pd.DataFrame):
        if label in predictions.columns:
            return predictions[label]
        if not isinstance(label, (int, np.integer)):
            known = some_of(predictions.columns.tolist())
            raise ValueError(f"y_pred has no column {label!r}, which y_true has; its columns are {known}.")
        predictions = predictions.to_numpy()
    # Arrays in a list are one per task; nested lists of numbers are rows, as they are in y_true.
    is_per_task = isinstance(predictions, (list, tuple)) and any(_has_axes(part) for part in predictions)
    if not is_per_task:
        table = np.asarray(predictions)
        predictions = table[None] if table.ndim == 1 else np.swapaxes(table, 0, 1)
    if position >= len(predictions):
        raise ValueError(
            f"y_pred predicts {len(predictions)} tasks, y_true has more columns; pass one for each of them."
        )
    return predictions[position]


def _has_axes(part: Any) -> bool:
    return getattr(part, "ndim", 0) > 0 or np.ndim(part) > 1


def pick_labels(labels: Any, label: Any, position: int) -> Any:
    """One task's class labels out of one array for all, or a list or dict of arrays."""
    if isinstance(labels, Mapping):
        return labels.get(label)
    if isinstance(labels, (list, tuple)) and len(labels) and np.ndim(labels[0]) > 0:
        return labels[position]
    return labels


def observed(values: Any, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Observed values as a plain array, and their rows. Rows of weight 0 are left out."""
    values = values if isinstance(values, pd.Series) else pd.Series(values)
    is_there = ~pd.isna(values).to_numpy()
    if weight is not None:
        is_there &= weight > 0
    return plain_array(values[is_there]), np.flatnonzero(is_there)


def plain_array(values: Any) -> np.ndarray:
    """Numbers, bools or strings as an ndarray; a column that shared a table with text becomes numbers again."""
    array = np.asarray(values)
    return pd.Series(array.tolist()).to_numpy() if array.dtype == object and array.ndim == 1 else array


def check_weight(sample_weight: Any, n: int) -> np.ndarray | None:
    """Weights as float64, or None."""
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {weight.shape}, but there are {n} rows; pass one weight per row.")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("sample_weight holds negative or non-finite values; weights are 0 or more.")
    return weight


def _recital(y_pred: Any, y: np.ndarray, labels: Any, n: int) -> Recital:
    """Predictions of one task (or of all row tasks) under every response they can serve as."""
    prediction = plain_array(y_pred)
    if prediction.ndim == 0:
        raise ValueError(f"y_pred is a {type(y_pred).__name__}; pass one prediction per row, as y_true is one column.")
    if prediction.ndim == 2 and prediction.shape[1] == 1:
        prediction = prediction[:, 0]
    if len(prediction) != n and len(y):
        raise ValueError(f"y_pred has {len(prediction)} rows, y_true has {n}; pass one prediction per row.")
    if prediction.ndim > 2:
        raise ValueError(f"y_pred has shape {prediction.shape}; pass (n,) predictions or (n, n_classes) probabilities.")
    classes: Any = np.unique(y) if labels is None else np.asarray(labels)
    if prediction.ndim == 2:
        return _recital_of_probabilities(prediction, classes)
    if labels is None and len(classes) != 2:
        classes = None  # predicted labels or numbers: no metric of such predictions needs to know the classes
    responses: dict[str, np.ndarray] = {"predict": prediction}
    if classes is not None and prediction.dtype.kind in "buif":
        number = prediction.astype(np.float64) if prediction.dtype.kind != "f" else prediction
        responses["decision_function"] = number
        if len(classes) == 2 and ((number >= 0) & (number <= 1)).all():
            responses["predict_proba"] = np.column_stack([1 - number, number])
    return Recital(responses, classes)


def _recital_of_probabilities(proba: np.ndarray, classes: Any) -> Recital:
    if len(classes) != proba.shape[1]:
        raise ValueError(
            f"y_pred has {proba.shape[1]} probability columns, but y_true holds {len(classes)} labels or labels= "
            f"names as many ({some_of(classes.tolist())}); pass labels= in the order of the columns."
        )
    responses = {"predict": classes[np.argmax(proba, axis=1)], "predict_proba": proba}
    return Recital(responses, classes, given="predict_proba")
