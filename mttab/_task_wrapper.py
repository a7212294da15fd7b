"""What estimators around any scikit-learn estimator share: tasks read at fit and predict, and the answers laid out."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from mttab._core.long_table import Inputs, LongTable, present_classes, target_task_labels, training_tasks
from mttab._core.records import require
from mttab._core.targets import check_target_classification, check_target_regression
from mttab._core.tasks import TaskLabels
from mttab._core.validation import (
    HasMethods,
    StrOptions,
    check_same_length,
    check_table,
    check_weight,
    fit_context,
    require_task,
    resolve_task_ids,
    split_task_column,
    task_positions,
)
from mttab._task_rows import (
    Ask,
    TaskRows,
    as_numbers,
    ask_class,
    ask_probability,
    ask_value,
    seeded_clone,
    take_rows,
)
from mttab.boosting import RMTGBClassifier, RMTGBRegressor
from mttab.persistence import Saving


class BaseTaskWrapper(Saving, BaseEstimator):
    """Tasks around an estimator that knows none: everything but which rows a model is fitted on."""

    # `task` is routed by default wherever scikit-learn routes metadata; the weights ask for it as usual.
    __metadata_request__fit: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__predict: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"task": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [None, HasMethods(["fit", "predict"])],
        "task_column": [None, str, Integral, list, tuple],
        "unseen_task": [StrOptions({"shared", "error"})],
        "random_state": ["random_state"],
    }

    estimator: Any
    task_column: Any
    unseen_task: str
    random_state: Any
    _default_estimator: ClassVar[type]
    # What predict reads, set at the end of fit.
    _labels: TaskLabels
    _task_source: str | None
    _fitted_task_column: Any
    classes_: np.ndarray
    tasks_: np.ndarray
    n_tasks_: int
    n_features_in_: int
    feature_names_in_: np.ndarray

    # --- what a way to share fills in ------------------------------------------------------------------------------

    def _fit_models(self, rows: TaskRows, seed: int | None) -> dict[str, Any]:
        """Fit on the rows, and return the fitted attributes without setting them."""
        raise NotImplementedError

    def _answers(self, features: Any, task: np.ndarray, ask: Ask, ask_mean: Ask) -> np.ndarray:
        """What is said of every row; task −1 is one that fit did not see. Where models are averaged, ``ask_mean``."""
        raise NotImplementedError

    def _fitted_models(self) -> list[Any]:
        """All models that `_answers` may ask."""
        raise NotImplementedError

    def _n_added_columns(self) -> int:
        """Columns that models see behind the features."""
        return 0

    # --- what the kind of target fills in --------------------------------------------------------------------------

    def _read_target(self, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """y as float64 (NaN = not observed, 2-D only), and the classes of a classifier."""
        raise NotImplementedError

    def _encode_target(self, y: Any) -> np.ndarray:
        """1-D y of a fitted model as float64: numbers, or indices into its classes."""
        raise NotImplementedError

    # --- fit -------------------------------------------------------------------------------------------------------

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features, with the task column if ``task_column`` names one. Without it they are handed to the estimator as
            they are: a DataFrame stays one.
        y : array-like of shape (n,) or (n, n_tasks)
            Targets. With several columns every column is a task and NaN or None means not observed; classes are shared
            by all columns.
        sample_weight : array-like of shape (n,), default=None
            Weight of each row, handed to the estimator; rows of weight 0 are left out.
        task : array-like of shape (n,) or (n, n_id_columns), default=None
            Task ids, where they are not a column of ``X``.

        Returns
        -------
        object
            The fitted estimator.

        Raises
        ------
        ValueError
            If an argument breaks its rule; the message names it and the remedy. An earlier fit stays usable.
        """
        inputs, weight = self._read_inputs(X, y, sample_weight, task)
        long = inputs.melt(weight)
        labels = training_tasks(inputs, long)
        rows = self._make_rows(inputs, long, labels, sample_weight is not None)
        seed = None
        if self.random_state is not None:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._set_fitted_attributes(inputs, labels, self._fit_models(rows, seed))
        return self

    def _make_rows(self, inputs: Inputs, long: LongTable, labels: TaskLabels, is_weighted: bool) -> TaskRows:
        return TaskRows(
            features=as_numbers(inputs.features) if inputs.task_source == "column" else inputs.features,
            row_idx=long.row_idx,
            task=long.encode_tasks(labels),
            y=long.y,
            weight=long.user_weight if is_weighted else None,
            task_labels=labels.labels,
            classes=inputs.classes,
            task_name=_task_name(inputs),
            has_ids=inputs.task_source in ("column", "argument"),
        )

    def _read_inputs(self, X: Any, y: Any, sample_weight: Any, task: Any) -> tuple[Inputs, np.ndarray]:
        table = check_table(X)
        probe = BaseEstimator()  # collects the column names without touching what an earlier fit has left in self
        validate_data(probe, table, skip_check_array=True)
        features, task_ids, positions = split_task_column(table, self.task_column)
        values, classes = self._read_target(y)
        task_ids, source = resolve_task_ids(task, task_ids, self.task_column)
        check_same_length(X=table, y=values, task=task_ids if source == "argument" else None)
        target_labels = None
        if values.ndim == 2:
            target_labels, source = target_task_labels(y, values.shape[1], source), "targets"
        weight = check_weight(sample_weight, len(values))
        if classes is not None:
            values, classes = present_classes(values, classes, weight)
        inputs = Inputs(
            features=features,
            names=list(probe.feature_names_in_) if hasattr(probe, "feature_names_in_") else None,
            n_columns=probe.n_features_in_,
            task_positions=positions,
            is_categorical=np.zeros(probe.n_features_in_, dtype=bool),  # the estimator sees to its categories
            task_ids=task_ids,
            y=values,
            target_labels=target_labels,
            classes=classes,
            task_source=source,
        )
        return inputs, weight

    def _set_fitted_attributes(self, inputs: Inputs, labels: TaskLabels, fitted: dict[str, Any]) -> None:
        for name, value in fitted.items():
            setattr(self, name, value)
        self.n_features_in_ = inputs.n_columns
        if inputs.names is not None:
            self.feature_names_in_ = np.array(inputs.names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if inputs.classes is not None:
            self.classes_ = inputs.classes
        self._labels, self._task_source = labels, inputs.task_source
        self._fitted_task_column = self.task_column if inputs.task_source == "column" else None
        self.tasks_ = labels.labels
        self.n_tasks_ = labels.n_tasks

    def _new_model(self, seed: int | None) -> Any:
        """An unfitted copy of the estimator."""
        return seeded_clone(self._default_estimator() if self.estimator is None else self.estimator, seed)

    # --- predict ---------------------------------------------------------------------------------------------------

    def _read_features(self, X: Any, task: Any) -> tuple[pd.DataFrame | np.ndarray, np.ndarray | None]:
        """Features and task ids of rows that are passed to a fitted model; None where it knows no ids."""
        check_is_fitted(self)
        table = check_table(X)
        column = self._fitted_task_column
        features, ids, _ = split_task_column(table, column, feature_names=getattr(self, "feature_names_in_", None))
        validate_data(self, table, reset=False, skip_check_array=True)
        if self._task_source == "argument":
            return features, require_task(task, table)
        if task is not None:
            how = "was fitted without task ids" if column is None else f"reads its tasks from task_column={column!r}"
            raise ValueError(f"task was passed, but this model {how}; drop task.")
        return (features, None) if ids is None else (as_numbers(features), ids)

    def _read_rows(self, X: Any, task: Any) -> tuple[pd.DataFrame | np.ndarray, np.ndarray]:
        """Features and task indices, −1 for unseen tasks; with a 2-D y the rows are repeated for every task."""
        features, ids = self._read_features(X, task)
        n_rows = len(features)
        if self._task_source == "targets":
            tiled = take_rows(features, np.tile(np.arange(n_rows), self.n_tasks_))
            return tiled, np.repeat(np.arange(self.n_tasks_, dtype=np.int32), n_rows)
        if ids is None:
            return features, np.zeros(n_rows, dtype=np.int32)
        name = "task" if self._fitted_task_column is None else f"task_column={self._fitted_task_column!r}"
        return features, self._labels.encode(ids, unseen=self.unseen_task, name=name)

    def _layout(self, values: np.ndarray) -> np.ndarray:
        """Entries back to the caller's shape: one column per task where y had several."""
        if self._task_source != "targets":
            return values
        return values.reshape(self.n_tasks_, -1, *values.shape[1:]).swapaxes(0, 1)

    # --- load ------------------------------------------------------------------------------------------------------

    def _check_restored(self) -> None:
        source, column = self._task_source, self._fitted_task_column
        names = getattr(self, "feature_names_in_", None)
        require(source in (None, "column", "argument", "targets"), "tasks come from nowhere")
        require((source == "column") == (column is not None), "the task column is not there")
        n_ids = 1 if isinstance(column, (str, Integral)) else len(column or ())
        n_seen = self.n_features_in_ - n_ids + self._n_added_columns()
        for model in self._fitted_models():
            require(hasattr(model, "predict"), f"a {type(model).__name__} stands where a model belongs")
            require(getattr(model, "n_features_in_", None) == n_seen, "a model is of other features")
            classes = getattr(model, "classes_", None)
            if isinstance(self, ClassifierMixin) and isinstance(classes, np.ndarray):
                is_known = pd.Index(self.classes_).get_indexer(classes) >= 0
                require(is_known.all(), "a model has a class that is not among classes_")
        if names is not None:
            is_text = all(isinstance(name, str) for name in names.tolist())
            require(names.shape == (self.n_features_in_,) and is_text, "feature_names_in_ are not those of the model")
        require(len(task_positions(column, self.n_features_in_, names)) == n_ids, "the task column is not there")
        require(self.tasks_.shape == (self.n_tasks_,) and self.n_tasks_ > 0, "n_tasks_ is not that of the model")
        labels = [*self.tasks_.tolist(), *self._labels_after_fit()]
        require(self._labels.labels.tolist() == labels, "tasks_ are not those of the model")

    def _labels_after_fit(self) -> list[Any]:
        """Tasks that the model has come to know since."""
        return []

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        inner = get_tags(self._default_estimator() if self.estimator is None else self.estimator)
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        tags.input_tags.categorical = inner.input_tags.categorical
        tags.input_tags.string = inner.input_tags.string
        tags.input_tags.positive_only = inner.input_tags.positive_only
        tags.target_tags.positive_only = inner.target_tags.positive_only
        tags.target_tags.multi_output = True
        tags.non_deterministic = inner.non_deterministic
        if tags.regressor_tags is not None and inner.regressor_tags is not None:
            tags.regressor_tags.poor_score = inner.regressor_tags.poor_score
        if tags.classifier_tags is not None and inner.classifier_tags is not None:
            tags.classifier_tags.poor_score = inner.classifier_tags.poor_score
            tags.classifier_tags.multi_class = inner.classifier_tags.multi_class
        return tags


def _task_name(inputs: Inputs) -> str | None:
    """What a column with the tasks is to be called; None where there are no tasks."""
    if inputs.task_source != "column" or inputs.names is None:
        return None if inputs.task_source is None else "task"
    return "_".join(inputs.names[j] for j in inputs.task_positions)


class TaskWrapperRegressor(RegressorMixin, BaseTaskWrapper):
    """The parts for regression."""

    _default_estimator = RMTGBRegressor

    def _read_target(self, y: Any) -> tuple[np.ndarray, None]:
        return check_target_regression(y), None

    def _encode_target(self, y: Any) -> np.ndarray:
        return check_target_regression(y, multi_output=False)

    def predict(self, X: Any, task: Any = None) -> np.ndarray:
        """Predicted targets.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            As in fit.
        task : array-like of shape (n,), default=None
            Task of each row, for a model fitted with ``task=``.

        Returns
        -------
        ndarray of shape (n,) or (n, n_tasks)
            With one column per task where ``y`` had several columns.
        """
        features, encoded = self._read_rows(X, task)
        return self._layout(self._answers(features, encoded, ask_value, ask_value))

    def score(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> float:
        """R² of the predictions; of several columns the mean over the columns, each on its observed rows.

        Parameters
        ----------
        X, task : see `predict`
        y : array-like of shape (n,) or (n, n_tasks)
            True targets, NaN = not observed.
        sample_weight : array-like of shape (n,), default=None

        Returns
        -------
        float
        """
        truth, predicted = check_target_regression(y), self.predict(X, task=task)
        if truth.ndim == 1:
            return float(r2_score(truth, predicted, sample_weight=sample_weight))
        parts = _columns(truth, predicted, sample_weight)
        return float(np.mean([r2_score(true, said, sample_weight=weight) for true, said, weight in parts]))


def _columns(truth: np.ndarray, predicted: np.ndarray, weight: Any) -> list[tuple[np.ndarray, np.ndarray, Any]]:
    """Truth, prediction and weight of the observed rows of each column; NaN or None = not observed."""
    parts = []
    for t in range(truth.shape[1]):
        seen = ~pd.isna(truth[:, t])
        if seen.any():
            parts.append((truth[seen, t], predicted[seen, t], None if weight is None else np.asarray(weight)[seen]))
    return parts


def _has_probabilities(wrapper: Any) -> bool:
    inner = wrapper._default_estimator() if wrapper.estimator is None else wrapper.estimator
    if not hasattr(inner, "predict_proba"):
        raise AttributeError(f"{type(inner).__name__} has no predict_proba, so {type(wrapper).__name__} has none.")
    return True


class TaskWrapperClassifier(ClassifierMixin, BaseTaskWrapper):
    """The parts for classification."""

    __metadata_request__predict_proba: ClassVar[dict[str, Any]] = {"task": True}

    _default_estimator = RMTGBClassifier

    def _read_target(self, y: Any) -> tuple[np.ndarray, np.ndarray]:
        classes, codes = check_target_classification(y)
        return np.where(codes < 0, np.nan, codes.astype(np.float64)), classes

    def _encode_target(self, y: Any) -> np.ndarray:
        own, codes = check_target_classification(y, multi_output=False)
        index = pd.Index(self.classes_).get_indexer(own)
        if (index < 0).any():
            raise ValueError(
                f"y holds the class {own.tolist()[int(index.argmin())]!r}, which fit did not see; its classes are "
                f"{self.classes_.tolist()}."
            )
        return index[codes].astype(np.float64)

    def predict(self, X: Any, task: Any = None) -> np.ndarray:
        """Predicted classes.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            As in fit.
        task : array-like of shape (n,), default=None
            Task of each row, for a model fitted with ``task=``.

        Returns
        -------
        ndarray of shape (n,) or (n, n_tasks)
            With one column per task where ``y`` had several columns.
        """
        features, encoded = self._read_rows(X, task)
        votes = ask_class(self.classes_)
        ask_mean = ask_probability(self.classes_) if hasattr(self, "predict_proba") else votes
        return self._layout(self.classes_[self._answers(features, encoded, votes, ask_mean).argmax(axis=1)])

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any, task: Any = None) -> Any:
        """Class probabilities, where the estimator has them.

        Parameters
        ----------
        X, task : see `predict`

        Returns
        -------
        ndarray of shape (n, n_classes), or list of these, one per task, where ``y`` had several columns
            Columns in the order of ``classes_``; 0 for a class that no row of a model's tasks had.
        """
        features, encoded = self._read_rows(X, task)
        ask = ask_probability(self.classes_)
        proba = self._layout(self._answers(features, encoded, ask, ask))
        return proba if proba.ndim == 2 else list(proba.swapaxes(0, 1))

    def score(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> float:
        """Accuracy; of several columns the mean over the columns, each on its observed rows.

        Parameters
        ----------
        X, task : see `predict`
        y : array-like of shape (n,) or (n, n_tasks)
            True classes, None or NaN = not observed.
        sample_weight : array-like of shape (n,), default=None

        Returns
        -------
        float
        """
        predicted = self.predict(X, task=task)
        if predicted.ndim == 1:
            return float(accuracy_score(y, predicted, sample_weight=sample_weight))
        classes, codes = check_target_classification(y)
        truth = np.array([*classes.tolist(), None], dtype=object)[codes]
        parts = _columns(truth, predicted, sample_weight)
        return float(np.mean([np.average(true == said, weights=weight) for true, said, weight in parts]))
