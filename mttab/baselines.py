"""What multi-task models are compared with: a model of all rows, that knows the task or not, or one per task."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.parallel import Parallel, delayed

from mttab._core.records import require
from mttab._core.validation import Interval, StrOptions
from mttab._task_rows import Ask, TaskRows, ask_each, fit_model, fit_model_of_group, with_task_column
from mttab._task_wrapper import BaseTaskWrapper, TaskWrapperClassifier, TaskWrapperRegressor

__all__ = [
    "PerTaskClassifier",
    "PerTaskRegressor",
    "PooledClassifier",
    "PooledRegressor",
    "TaskAsFeatureClassifier",
    "TaskAsFeatureRegressor",
]


# ----------------------------------------------------------------------------------------------------------------------
# One model that does not know the task
# ----------------------------------------------------------------------------------------------------------------------


class _Pooled(BaseTaskWrapper):
    def __init__(
        self, estimator: Any = None, *, task_column: Any = None, unseen_task: str = "shared", random_state: Any = None
    ):
        self.estimator = estimator
        self.task_column = task_column
        self.unseen_task = unseen_task
        self.random_state = random_state

    def _fit_models(self, rows: TaskRows, seed: int | None) -> dict[str, Any]:
        return {"estimator_": fit_model(self._new_model(seed), rows)}

    def _answers(self, features: Any, task: np.ndarray, ask: Ask, ask_mean: Ask) -> np.ndarray:
        return ask(self.estimator_, features)

    def _fitted_models(self) -> list[Any]:
        return [self.estimator_]


class PooledRegressor(_Pooled, TaskWrapperRegressor):
    """One regressor of the rows of all tasks, which does not know the task.

    It takes tasks as every estimator of this package does and leaves them out: what multi-task learning has to beat
    where tasks are alike.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any regressor of scikit-learn's kind; None is `RMTGBRegressor`, which is plain boosting here. It sees ``X``
        without the task column, as a DataFrame where ``X`` is one, and gets the weights where it takes any.
    task_column : str, int, list of these or None, default=None
        Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite ids. None:
        tasks come from ``fit(..., task=)`` or from the columns of a 2-D ``y``, or there is one task only.
    unseen_task : {"shared", "error"}, default="shared"
        What predict does with a task that fit did not see: as with any other, or an error.
    random_state : int, RandomState instance or None, default=None
        Seeds every ``random_state`` in the estimator; None leaves them as they are.

    Attributes
    ----------
    estimator_ : estimator object
        The fitted model.
    tasks_ : ndarray of shape (n_tasks,)
        Task labels, sorted; the columns of a 2-D ``y`` in their order.
    n_tasks_, n_features_in_ : int
        Tasks; columns of ``X``, the task column included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where ``X`` has string column names.

    See Also
    --------
    TaskAsFeatureRegressor : One model that knows the task.
    PerTaskRegressor : One model per task.
    TaskClusterRegressor : One model per group of tasks.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from mttab import PooledRegressor
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, random_state=0)
    >>> PooledRegressor(Ridge(), task_column="task").fit(X, y).predict(X).shape
    (500,)
    """


class PooledClassifier(_Pooled, TaskWrapperClassifier):
    """One classifier of the rows of all tasks, which does not know the task.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any classifier of scikit-learn's kind, which is handed the classes as they are; None is `RMTGBClassifier`.
    task_column, unseen_task, random_state
        See `PooledRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; columns of a 2-D ``y`` share them.
    estimator_, tasks_, n_tasks_, n_features_in_, feature_names_in_
        See `PooledRegressor`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from mttab import PooledClassifier
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, task_type="binary", random_state=0)
    >>> PooledClassifier(LogisticRegression(), task_column="task").fit(X, y).predict_proba(X).shape
    (500, 2)
    """


# ----------------------------------------------------------------------------------------------------------------------
# One model that knows the task
# ----------------------------------------------------------------------------------------------------------------------


class _TaskAsFeature(BaseTaskWrapper):
    # What `with_task_column` takes.
    _handed_on: tuple[str, list[str], str] | None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseTaskWrapper._parameter_constraints,
        "task_encoding": [StrOptions({"category", "onehot", "ordinal"})],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        task_column: Any = None,
        task_encoding: str = "category",
        unseen_task: str = "shared",
        random_state: Any = None,
    ):
        self.estimator = estimator
        self.task_column = task_column
        self.task_encoding = task_encoding
        self.unseen_task = unseen_task
        self.random_state = random_state

    def _fit_models(self, rows: TaskRows, seed: int | None) -> dict[str, Any]:
        levels = [f"{rows.task_name}={label}" for label in rows.task_labels.tolist()]
        if len(set(levels)) < len(levels):  # 1 and "1"
            levels = [f"{rows.task_name}={label!r}" for label in rows.task_labels.tolist()]
        handed_on = None if rows.task_name is None else (rows.task_name, levels, self.task_encoding)
        model = self._new_model(seed)
        try:
            model = fit_model(model, rows, with_task_column(rows.table, rows.task, handed_on))
        except (TypeError, ValueError) as err:
            if handed_on is not None and self.task_encoding == "category":
                err.add_note(
                    f"{type(self).__name__} handed the task to {type(model).__name__} as a pandas category; "
                    "task_encoding='onehot' or 'ordinal' makes numbers of it."
                )
            raise
        return {"estimator_": model, "_handed_on": handed_on}

    def _answers(self, features: Any, task: np.ndarray, ask: Ask, ask_mean: Ask) -> np.ndarray:
        return ask(self.estimator_, with_task_column(features, task, self._handed_on))

    def _fitted_models(self) -> list[Any]:
        return [self.estimator_]

    def _n_added_columns(self) -> int:
        if self._handed_on is None:
            return 0
        _, levels, encoding = self._handed_on
        return len(levels) if encoding == "onehot" else 1

    def _check_restored(self) -> None:
        super()._check_restored()
        require((self._handed_on is None) == (self._task_source is None), "the model is told of no task")
        if self._handed_on is not None:
            _, levels, encoding = self._handed_on
            require(len(set(levels)) == len(levels) == self.n_tasks_, "a task has no level")
            require(encoding in ("category", "onehot", "ordinal"), "tasks are encoded in no known way")


class TaskAsFeatureRegressor(_TaskAsFeature, TaskWrapperRegressor):
    """One regressor of the rows of all tasks, with the task as one more feature.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any regressor of scikit-learn's kind; None is `RMTGBRegressor`. It sees ``X`` without the task column, and
        behind it the task.
    task_column : str, int, list of these or None, default=None
        Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite ids. None:
        tasks come from ``fit(..., task=)`` or from the columns of a 2-D ``y``, or there is one task only, of which
        the estimator is not told.
    task_encoding : {"category", "onehot", "ordinal"}, default="category"
        How the estimator is told the task. An unseen task is missing, a row of zeros, or -1.

        - "category": a pandas category, for estimators that read these from a DataFrame (boosting, here, in
          scikit-learn, and in LightGBM; pipelines with an encoder); an array becomes a DataFrame for it;
        - "onehot": a column of 0 and 1 per task, which in a linear model gives every task a level of its own;
        - "ordinal": one column with the position of the task in ``tasks_``.
    unseen_task : {"shared", "error"}, default="shared"
        What predict does with a task that fit did not see: hands it on as said above, or an error.
    random_state : int, RandomState instance or None, default=None
        Seeds every ``random_state`` in the estimator; None leaves them as they are.

    Attributes
    ----------
    estimator_ : estimator object
        The fitted model.
    tasks_, n_tasks_, n_features_in_, feature_names_in_
        See `PooledRegressor`.

    See Also
    --------
    PooledRegressor : One model that does not know the task.
    PerTaskRegressor : One model per task.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from mttab import TaskAsFeatureRegressor
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, random_state=0)
    >>> model = TaskAsFeatureRegressor(Ridge(), task_column="task", task_encoding="onehot").fit(X, y)
    >>> model.estimator_.n_features_in_
    15
    """


class TaskAsFeatureClassifier(_TaskAsFeature, TaskWrapperClassifier):
    """One classifier of the rows of all tasks, with the task as one more feature.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any classifier of scikit-learn's kind, which is handed the classes as they are; None is `RMTGBClassifier`.
    task_column, task_encoding, unseen_task, random_state
        See `TaskAsFeatureRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; columns of a 2-D ``y`` share them.
    estimator_, tasks_, n_tasks_, n_features_in_, feature_names_in_
        See `TaskAsFeatureRegressor`.

    Examples
    --------
    >>> from sklearn.ensemble import HistGradientBoostingClassifier
    >>> from mttab import TaskAsFeatureClassifier
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, task_type="binary", random_state=0)
    >>> boosting = HistGradientBoostingClassifier(max_iter=10)
    >>> TaskAsFeatureClassifier(boosting, task_column="task").fit(X, y).estimator_.is_categorical_.tolist()
    [False, False, False, False, False, True]
    """


# ----------------------------------------------------------------------------------------------------------------------
# A model per task
# ----------------------------------------------------------------------------------------------------------------------


class _PerTask(BaseTaskWrapper):
    estimators_: list[Any]
    fallback_: Any

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseTaskWrapper._parameter_constraints,
        "min_task_rows": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        task_column: Any = None,
        min_task_rows: int = 2,
        unseen_task: str = "shared",
        random_state: Any = None,
        n_jobs: int | None = None,
    ):
        self.estimator = estimator
        self.task_column = task_column
        self.min_task_rows = min_task_rows
        self.unseen_task = unseen_task
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _fit_models(self, rows: TaskRows, seed: int | None) -> dict[str, Any]:
        has_own = np.bincount(rows.task, minlength=rows.n_tasks) >= self.min_task_rows
        if rows.n_tasks == 1:
            has_own[:] = True  # the pooled model would be the same
        is_needed = not has_own.all() or (rows.has_ids and self.unseen_task == "shared")
        # The pooled model is the last one.
        parts = [("task " + repr(rows.task_labels.tolist()[t]), rows.task == t) for t in np.flatnonzero(has_own)]
        if is_needed:
            parts.append(("all tasks", np.ones(len(rows.task), dtype=bool)))
        models = Parallel(n_jobs=self.n_jobs)(
            delayed(fit_model_of_group)(self._new_model(seed), rows.take(keep), name) for name, keep in parts
        )
        fallback = models.pop() if is_needed else None
        own = iter(models)
        return {"estimators_": [next(own) if has else fallback for has in has_own], "fallback_": fallback}

    def _answers(self, features: Any, task: np.ndarray, ask: Ask, ask_mean: Ask) -> np.ndarray:
        if self.fallback_ is None and (task < 0).any():
            raise ValueError(
                "unseen_task was 'error' in fit, so there is no model for tasks that fit did not see; fit again with "
                "unseen_task='shared'."
            )
        models = [*self.estimators_, self.fallback_]
        return ask_each(models, np.where(task < 0, self.n_tasks_, task), features, ask)

    def _fitted_models(self) -> list[Any]:
        return self.estimators_ if self.fallback_ is None else [*self.estimators_, self.fallback_]

    def _check_restored(self) -> None:
        super()._check_restored()
        require(len(self.estimators_) == self.n_tasks_, "a task has no model")


class PerTaskRegressor(_PerTask, TaskWrapperRegressor):
    """A regressor per task, fitted on the rows of that task alone.

    What multi-task learning has to beat where tasks have nothing in common or rows enough; its errors are the
    reference of the multitask gain.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any regressor of scikit-learn's kind, of which every task gets a copy; None is `RMTGBRegressor`, which is plain
        boosting here. It sees ``X`` without the task column, as a DataFrame where ``X`` is one, and gets the weights
        where it takes any.
    task_column : str, int, list of these or None, default=None
        Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite ids. None:
        tasks come from ``fit(..., task=)`` or from the columns of a 2-D ``y``, or there is one task only.
    min_task_rows : int, default=2
        A task with fewer rows of positive weight has no model of its own: one of all rows stands in.
    unseen_task : {"shared", "error"}, default="shared"
        What predict does with a task that fit did not see: it asks a model of all rows, which fit makes in addition
        where tasks have ids, or an error.
    random_state : int, RandomState instance or None, default=None
        Seeds every ``random_state`` in the estimators, all alike; None leaves them as they are.
    n_jobs : int or None, default=None
        Models fitted side by side, as joblib has it: None is 1, -1 all processors.

    Attributes
    ----------
    estimators_ : list of estimator objects
        The fitted model of every task, in the order of ``tasks_``.
    fallback_ : estimator object or None
        The model of all rows, where one is needed.
    tasks_, n_tasks_, n_features_in_, feature_names_in_
        See `PooledRegressor`.

    See Also
    --------
    PooledRegressor : One model of all tasks.
    TaskClusterRegressor : One model per group of tasks.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from mttab import PerTaskRegressor
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, random_state=0)
    >>> model = PerTaskRegressor(Ridge(), task_column="task").fit(X, y)
    >>> len(model.estimators_)
    10
    """


class PerTaskClassifier(_PerTask, TaskWrapperClassifier):
    """A classifier per task, fitted on the rows of that task alone.

    A task of which all rows are of one class is predicted as that class; classes that a task does not have get the
    probability 0 there.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any classifier of scikit-learn's kind, which is handed the classes as they are; None is `RMTGBClassifier`.
    task_column, min_task_rows, unseen_task, random_state, n_jobs
        See `PerTaskRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels of all tasks, sorted; columns of a 2-D ``y`` share them.
    estimators_, fallback_, tasks_, n_tasks_, n_features_in_, feature_names_in_
        See `PerTaskRegressor`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from mttab import PerTaskClassifier
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, task_type="binary", random_state=0)
    >>> PerTaskClassifier(LogisticRegression(), task_column="task").fit(X, y).predict_proba(X).shape
    (500, 2)
    """
