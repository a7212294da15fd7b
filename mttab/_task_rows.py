"""Rows with tasks on their way into and out of any scikit-learn estimator: fitted on some, asked about others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

# What a fitted model says of the rows of a table: an array with a row for each of them.
Ask = Callable[[Any, Any], np.ndarray]


@dataclass
class TaskRows:
    """One entry per label: what models of tasks are fitted on.

    features : X without the task columns, a row per row of X; row_idx : int (n,), which of them
    task : int32 (n,); y : float64 (n,), class indices for a classifier; weight : float64 (n,) or None, as passed
    task_labels : (n_tasks,); classes : of a classifier, else None
    task_name : what a column with the tasks is to be called, None where there are no tasks
    has_ids : whether rows have task ids, so that there may be new ones
    """

    features: pd.DataFrame | np.ndarray
    row_idx: np.ndarray
    task: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    task_labels: np.ndarray
    classes: np.ndarray | None
    task_name: str | None
    has_ids: bool

    @property
    def n_tasks(self) -> int:
        return len(self.task_labels)

    def take(self, keep: np.ndarray) -> TaskRows:
        """Some of the entries, by mask or position; the features are shared."""
        weight = None if self.weight is None else self.weight[keep]
        return replace(self, row_idx=self.row_idx[keep], task=self.task[keep], y=self.y[keep], weight=weight)

    @property
    def table(self) -> pd.DataFrame | np.ndarray:
        """Features of every entry."""
        return take_rows(self.features, self.row_idx)

    @property
    def labels(self) -> np.ndarray:
        """What the user calls the labels: numbers, or classes."""
        return self.y if self.classes is None else self.classes[self.y.astype(np.int64)]

    @property
    def mass(self) -> np.ndarray:
        """Weight (n,) of every entry, 1 where none was passed."""
        return np.ones(len(self.y)) if self.weight is None else self.weight


def take_rows(table: pd.DataFrame | np.ndarray, rows: np.ndarray) -> pd.DataFrame | np.ndarray:
    """Rows by position or mask; the table itself where that is all of them in their order."""
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    if len(rows) == len(table) and np.array_equal(rows, np.arange(len(rows))):
        return table
    return table.iloc[rows] if isinstance(table, pd.DataFrame) else table[rows]


def as_numbers(features: pd.DataFrame | np.ndarray) -> pd.DataFrame | np.ndarray:
    """An array that was one of text or objects because of the ids in it as numbers again, if it is made of these."""
    if isinstance(features, pd.DataFrame) or features.dtype.kind not in "OUS":
        return features
    try:
        return features.astype(np.float64)
    except (TypeError, ValueError):
        return features


def seeded_clone(estimator: Any, seed: int | None) -> Any:
    """An unfitted copy; with a seed, every ``random_state`` in it is that."""
    model = clone(estimator)
    if seed is not None:
        names = [n for n in model.get_params() if n == "random_state" or n.endswith("__random_state")]
        model.set_params(**dict.fromkeys(names, seed))
    return model


def weight_arguments(estimator: Any, weight: np.ndarray | None) -> dict[str, np.ndarray]:
    """The keyword of fit under which an estimator takes weights of rows.

    Raises
    ------
    ValueError
        If there are weights and it takes none.
    """
    if weight is None:
        return {}
    if isinstance(estimator, Pipeline) and not get_config()["enable_metadata_routing"]:
        name, last = estimator.steps[-1]
        return {f"{name}__{key}": value for key, value in weight_arguments(last, weight).items()}
    parameters = inspect.signature(estimator.fit).parameters.values()
    if has_fit_parameter(estimator, "sample_weight") or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {"sample_weight": weight}
    raise ValueError(
        f"sample_weight was passed, but {type(estimator).__name__} takes no weights; leave it out, or choose another "
        "estimator."
    )


def fit_model(estimator: Any, rows: TaskRows, table: Any = None) -> Any:
    """Fit ``estimator`` on rows, of which ``table`` may be another view than their features, and return it.

    A constant stands in for a classifier that sees one class only.
    """
    if rows.classes is not None and len(np.unique(rows.y)) == 1:
        estimator = DummyClassifier()
    weights = weight_arguments(estimator, rows.weight)
    return estimator.fit(rows.table if table is None else table, rows.labels, **weights)


def fit_model_of_group(estimator: Any, rows: TaskRows, name: str) -> Any:
    """The same, and an error of the estimator says whose model could not be fitted."""
    try:
        return fit_model(estimator, rows)
    except Exception as err:
        err.add_note(f"This happened in the fit of the model of {name}, on {len(rows.y)} rows.")
        raise


# --- the task as a feature --------------------------------------------------------------------------------------------


def with_task_column(features: Any, task: np.ndarray, handed_on: tuple[str, list[str], str] | None) -> Any:
    """The features and behind them the task (n,), −1 unseen, as columns by name, levels and encoding."""
    if handed_on is None:
        return features
    name, levels, encoding = handed_on
    if encoding == "category":
        # Levels like "school=3" are no numbers: an estimator that takes numbers only says so.
        columns = {name: pd.Categorical.from_codes(task, categories=levels)}
    elif encoding == "onehot":
        columns = {level: (task == t).astype(np.float64) for t, level in enumerate(levels)}
    else:
        columns = {name: task.astype(np.float64)}
    if not isinstance(features, pd.DataFrame):
        if encoding != "category":
            return np.column_stack([features, *columns.values()])
        names = [f"x{j}" for j in range(features.shape[1])]
        features = pd.DataFrame(features, columns=names).infer_objects()
    added = pd.DataFrame(columns, index=features.index)
    if all(isinstance(column, str) for column in features.columns):
        added.columns = pd.Index([_unused(column, features.columns) for column in added.columns])
    else:  # scikit-learn refuses tables in which some names are text
        added.columns = pd.RangeIndex(len(added.columns)) + _first_unused_number(features.columns)
    return pd.concat([features, added], axis=1)


def _unused(name: str, taken: pd.Index) -> str:
    while name in taken:
        name += "_"
    return name


def _first_unused_number(taken: pd.Index) -> int:
    return 1 + max((int(column) for column in taken if isinstance(column, Integral)), default=-1)


# --- asking models ---------------------------------------------------------------------------------------------------


def ask_value(model: Any, table: Any) -> np.ndarray:
    """Predictions (n,) of a regressor."""
    return np.asarray(model.predict(table), dtype=np.float64).reshape(len(table))


def ask_class(classes: np.ndarray) -> Ask:
    """For the votes (n, n_classes) of a classifier: 1 for the class that it predicts."""
    index = pd.Index(classes)

    def ask(model: Any, table: Any) -> np.ndarray:
        return np.eye(len(classes))[index.get_indexer(np.asarray(model.predict(table)).reshape(len(table)))]

    return ask


def ask_probability(classes: np.ndarray) -> Ask:
    """For the probabilities (n, n_classes) of a classifier; 0 for a class that it has not seen."""
    index = pd.Index(classes)

    def ask(model: Any, table: Any) -> np.ndarray:
        out = np.zeros((len(table), len(classes)))
        out[:, index.get_indexer(np.asarray(model.classes_))] = model.predict_proba(table)
        return out

    return ask


def ask_each(models: Sequence[Any], which: np.ndarray, table: pd.DataFrame | np.ndarray, ask: Ask) -> np.ndarray:
    """What model ``which[i]`` of ``models`` says of row i, for every row."""
    order = np.argsort(which, kind="stable")
    asked, start = np.unique(which[order], return_index=True)
    out = None
    for model, rows in zip(asked, np.split(order, start[1:]), strict=True):
        part = ask(models[model], take_rows(table, rows))
        if out is None:
            out = np.empty((len(which), *part.shape[1:]))
        out[rows] = part
    assert out is not None
    return out
