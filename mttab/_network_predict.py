"""What every fitted network estimator does: read rows, predict, and score its predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from mttab._core.neural.members import Place, average_predictions
from mttab._core.other_tasks import features_without_task, is_every_task, refuse_every_task
from mttab._core.validation import check_cell_weight, check_same_length, check_table, require_task, split_task_column


class ScoredColumn:
    """The labels of one column that have a weight, beside what was predicted.

    Parameters
    ----------
    is_number : bool
    truth, predicted, weight : ndarray of shape (n,)
        Numbers, or indices of classes; entries of weight 0 are left out, whatever they are.
    """

    def __init__(self, is_number: bool, truth: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> None:
        self.is_number, self._all = is_number, (truth, predicted, weight)
        self.truth, self.predicted, self.weight = (part[weight > 0] for part in self._all)

    def take(self, keep: np.ndarray) -> ScoredColumn:
        """Some of the rows, (n,) bool."""
        return ScoredColumn(self.is_number, *(part[keep] for part in self._all))

    @property
    def metric(self) -> str:
        """Name of the figure."""
        return "r2" if self.is_number else "accuracy"

    def score(self) -> float:
        """R² or accuracy of one label or more."""
        measure: Callable[..., float] = r2_score if self.is_number else accuracy_score
        return measure(self.truth, self.predicted, sample_weight=self.weight)

    def score_if_defined(self) -> float:
        """NaN where there is no label, or R² would divide by zero."""
        return self.score() if len(np.unique(self.truth)) > self.is_number else np.nan


class NetworkPredictions:
    """Mixin over the fitted attributes `_encoding` and `_networks`."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def _read_rows(self, X: Any, task: Any) -> tuple[Any, np.ndarray | None, Any]:
        """Features of the rows, their row tasks, and the index of X."""
        check_is_fitted(self, "_networks")
        table = check_table(X)
        encoding = self._encoding
        source = encoding.layout.task_source
        names = getattr(self, "feature_names_in_", None)
        features, ids, _ = split_task_column(table, self._fitted_task_column, feature_names=names)
        validate_data(self, table, reset=False, skip_check_array=True)
        row_task = None
        if source != "argument" and task is not None:
            how = f"task_column={self._fitted_task_column!r}" if source else "the columns of y"
            raise ValueError(f"task was passed, but the tasks of this model are {how}; drop task.")
        if source == "argument":
            ids = require_task(task, table)
        if source is not None:
            name = "task" if source == "argument" else f"task_column={self._fitted_task_column!r}"
            row_task = encoding.encode_tasks(ids, unseen=self.unseen_task, name=name)
        return features, row_task, getattr(table, "index", None)

    def _predictions(self, X: Any, task: Any) -> tuple[np.ndarray, np.ndarray | None, Any]:
        """Mean prediction of the members (n, n_tasks, n_outputs), row tasks, and the index of X."""
        features, row_task, index = self._read_rows(X, task)
        place = Place.of(self._networks[0], self.precision)
        columns = self._encoding.encode_features(features)
        weights = self._network_weights()
        return average_predictions(self._networks, place, columns, row_task, weights), row_task, index

    def _predictions_of_every_task(self, X: Any) -> np.ndarray:
        """Mean prediction of the members for every row as one of every row task, (n_row_tasks, n, 1, n_outputs)."""
        names = getattr(self, "feature_names_in_", None)
        features, _ = features_without_task(X, self._fitted_task_column, self.n_features_in_, names)
        place = Place.of(self._networks[0], self.precision)
        columns = self._encoding.encode_features(features)
        n, weights = len(columns.numeric), self._network_weights()
        return np.stack(
            [
                average_predictions(self._networks, place, columns, np.full(n, task, dtype=np.int64), weights)
                for task in range(self.n_tasks_)
            ]
        )

    def _is_every_row_task(self, task: Any) -> bool:
        """Whether predictions for every row task are asked for."""
        check_is_fitted(self, "_networks")
        return is_every_task(task) and self._encoding.row_tasks is not None

    def _predict_values(self, X: Any, task: Any) -> tuple[np.ndarray, np.ndarray | None, Any]:
        """Numbers, or indices of the likeliest classes, (n, n_tasks); row tasks, and the index of X."""
        out, row_task, index = self._predictions(X, task)
        return self._values(out, row_task), row_task, index

    def _values(self, out: np.ndarray, row_task: np.ndarray | None) -> np.ndarray:
        """Numbers, or indices of the likeliest classes, (n, n_tasks) of predictions (n, n_tasks, n_outputs)."""
        unscaled = self._encoding.unscale(out[:, :, 0], row_task)
        values = np.empty(out.shape[:2])
        for t, target in enumerate(self._encoding.targets.columns):
            if target.kind == "regression":
                values[:, t] = unscaled[:, t]
            elif target.kind == "binary":
                values[:, t] = out[:, t, 0] > 0.5
            else:
                values[:, t] = out[:, t, : target.n_outputs].argmax(axis=1)
        return values

    def _probabilities(self, X: Any, task: Any) -> list[np.ndarray | None]:
        """Probabilities (n, n_classes) of each task; None for regression."""
        return self._probabilities_from(self._predictions(X, task)[0])

    def _probabilities_of_every_task(self, X: Any) -> list[np.ndarray | None]:
        """The same with an entry per row task."""
        return [self._probabilities_from(out)[0] for out in self._predictions_of_every_task(X)]

    def _probabilities_from(self, out: np.ndarray) -> list[np.ndarray | None]:
        """The same from the mean predictions of the members."""
        found: list[np.ndarray | None] = []
        for t, target in enumerate(self._encoding.targets.columns):
            if target.kind == "regression":
                found.append(None)
            elif target.kind == "binary":
                found.append(np.column_stack([1.0 - out[:, t, 0], out[:, t, 0]]))
            else:
                p = out[:, t, : target.n_outputs]
                found.append(p / p.sum(axis=1, keepdims=True))
        return found

    def predict(self, X: Any, task: Any = None) -> Any:
        """Predicted labels.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            As in fit.
        task : array-like of shape (n,) or "all", default=None
            Task of each row, for a model fitted with ``task=``. "all", for models with row tasks: every row as a row of
            every task; the task column of ``X`` then has no say and may be left out. (Rows of a task that is called
            "all" are asked for by one id per row.)

        Returns
        -------
        ndarray of shape (n,) or (n, n_tasks), or DataFrame
            In the shape and with the labels of the ``y`` of fit; a DataFrame where that was one. With ``task="all"`` an
            array with one column per task, in the order of ``tasks_``.
        """
        if self._is_every_row_task(task):
            target = self._encoding.targets.columns[0]
            found = self._predictions_of_every_task(X)
            values = np.column_stack(
                [self._values(out, np.full(len(out), i, dtype=np.int64))[:, 0] for i, out in enumerate(found)]
            )
            return values if target.classes is None else target.classes[values.astype(np.intp)]
        values, _, index = self._predict_values(X, task)
        return self._encoding.targets.decode(values, index)

    def task_scores(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> pd.DataFrame:
        """R² or accuracy of every task, on its observed labels.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,) or (n, n_tasks)
            True labels; NaN or None = not observed.
        sample_weight : array-like of shape (n,) or (n, n_tasks), default=None
        task : array-like of shape (n,), default=None
            See `predict`.

        Returns
        -------
        DataFrame
            A row per task with "n", its number of labels, "metric" and "score"; NaN where R² is not defined.
        """
        columns, row_task = self._scored_columns(X, y, sample_weight, task)
        labels = self.tasks_.tolist()
        if self._encoding.row_tasks is not None:
            columns = [columns[0].take(row_task == i) for i in range(len(labels))]
        rows = [
            {"task": label, "n": len(group.truth), "metric": group.metric, "score": group.score_if_defined()}
            for label, group in zip(labels, columns, strict=True)
        ]
        return pd.DataFrame(rows).set_index("task")

    def _scored_columns(self, X: Any, y: Any, sample_weight: Any, task: Any) -> tuple[list[ScoredColumn], Any]:
        """Every column of y beside its prediction, and the row tasks; labels that do not count have weight 0."""
        refuse_every_task(task, "score")
        predicted, row_task, _ = self._predict_values(X, task)
        targets = self._encoding.targets
        truth = targets.encode(y, sample_weight, known_only=False)
        check_same_length(X=predicted, y=truth)
        weight = np.where(np.isnan(truth), 0.0, check_cell_weight(sample_weight, truth.shape))
        parts = zip(targets.columns, truth.T, predicted.T, weight.T, strict=True)
        return [ScoredColumn(column.classes is None, *arrays) for column, *arrays in parts], row_task

    def score(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> float:
        """Mean over the columns of ``y`` of R² (regression) and accuracy (classes), each on its observed labels.

        Parameters
        ----------
        X, y, sample_weight, task
            See `task_scores`.

        Returns
        -------
        float
        """
        columns, _ = self._scored_columns(X, y, sample_weight, task)
        scores = [column.score() for column in columns if len(column.truth)]
        if not scores:
            raise ValueError("y has no label with a positive weight, so there is nothing to score; pass some labels.")
        defined = [score for score in scores if not np.isnan(score)]  # R² of a single label is not
        return float(np.mean(defined or scores))
