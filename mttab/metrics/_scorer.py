"""A scikit-learn scorer that averages over tasks."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.utils.metadata_routing import UNCHANGED, MetadataRequest, get_routing_for_object

from mttab._core.validation import split_task_column
from mttab.metrics._metric import RESPONSES, Metric, Recital, resolve_metric, response_needed
from mttab.metrics._scores import average, score_tasks
from mttab.metrics._task_rows import (
    TaskRows,
    check_weight,
    observed,
    pick,
    pick_labels,
    plain_array,
    split_rows,
    target_columns,
)

_AVERAGES = ("macro", "weighted", "worst")


def make_task_scorer(metric: Any, *, average: str = "macro", task_column: Any = None) -> TaskScorer:
    """Scorer that scores every task by itself and averages over the tasks.

    Parameters
    ----------
    metric : str or callable
        What `task_scores` accepts: a scikit-learn scorer name with or without its "neg_", a scorer, or a function
        ``metric(y_true, y_pred)`` of what `predict` returns.
    average : {"macro", "weighted", "worst"}, default="macro"
        Plain mean over tasks, mean weighted by rows (or by the sum of `sample_weight`), or the score of the worst task.
        Tasks where the metric is undefined (for the AUC: one class only) are left out; if it is undefined on all, the
        value is NaN.
    task_column : str, int or list of str or int, default=None
        The column (or columns) of X that holds the task ids; X goes to the estimator as it is. None: the ids come
        as ``task=``, or the tasks are the columns of a 2-D y.

    Returns
    -------
    TaskScorer
        Callable on ``(estimator, X, y, *, task=None, sample_weight=None)``; greater is better (a loss changes its
        sign). It goes wherever scikit-learn takes ``scoring=``, alone or in a dict of scorers.

    Raises
    ------
    ValueError
        If `metric` or `average` is unknown.

    Notes
    -----
    With ``task_column=`` nothing else is needed. Without it the ids travel by metadata routing: after
    ``sklearn.set_config(enable_metadata_routing=True)``, ``cross_validate(..., params={"task": ids})`` and
    ``GridSearchCV(...).fit(X, y, task=ids)`` hand the scorer the ids of its test rows, and it hands them on to
    ``predict(X, task=ids)`` (or `predict_proba`, `decision_function`) if that method takes a task; a pooled estimator,
    which takes none, is called without. A scorer without `task_column` requests `task` from the start, and
    `sample_weight` after ``set_score_request(sample_weight=True)``.

    A 2-D y of classes with NaN needs a splitter, ``cv=KFold(5)``: for ``cv=5`` scikit-learn inspects the classes of y
    and refuses the NaN.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.model_selection import cross_val_score
    >>> from mttab.metrics import make_task_scorer
    >>> X = pd.DataFrame({"school": ["a", "b"] * 6, "x": range(12)})
    >>> y = [1.0, 3.0] * 6
    >>> scorer = make_task_scorer("root_mean_squared_error", average="worst", task_column="school")
    >>> scorer
    make_task_scorer('root_mean_squared_error', average='worst', task_column='school')
    >>> cross_val_score(DummyRegressor(), X, y, scoring=scorer, cv=3)
    array([-1., -1., -1.])
    """
    return TaskScorer(metric, average=average, task_column=task_column)


class TaskScorer:
    """What `make_task_scorer` returns; see there for the parameters.

    Parameters
    ----------
    metric : str or callable
        Metric of one task.
    average : {"macro", "weighted", "worst"}, default="macro"
        How the tasks' scores become one.
    task_column : str, int or list of str or int, default=None
        Column of X with the task ids.

    Examples
    --------
    >>> from sklearn.base import clone
    >>> from mttab.metrics import TaskScorer
    >>> clone(TaskScorer("r2", task_column="school"))
    make_task_scorer('r2', task_column='school')
    """

    def __init__(self, metric: Any, *, average: str = "macro", task_column: Any = None) -> None:
        if average not in _AVERAGES:
            raise ValueError(f"average={average!r} is not one of {', '.join(map(repr, _AVERAGES))}.")
        resolve_metric(metric)  # a wrong name fails here and not in every fold
        self.metric = metric
        self.average = average
        self.task_column = task_column
        # With a task_column ids that are passed as well are a mistake: None makes scikit-learn say so.
        self._requests: dict[str, Any] = {"task": True if task_column is None else None, "sample_weight": None}

    def __call__(self, estimator: Any, X: Any, y: Any, *, task: Any = None, sample_weight: Any = None) -> float:
        """Average score of a fitted estimator on (X, y), greater is better.

        Parameters
        ----------
        estimator : object
            Fitted estimator.
        X : array-like of shape (n, n_features)
            Test rows.
        y : array-like of shape (n,) or (n, n_tasks)
            Their targets; NaN = not observed.
        task : array-like of shape (n,), default=None
            Task id of each row, handed on to the estimator.
        sample_weight : array-like of shape (n,), default=None
            Weights within the tasks.

        Returns
        -------
        float
            The average; NaN if no task has a score.
        """
        table = self.score_tasks(estimator, X, y, task=task, sample_weight=sample_weight)
        if table.empty:
            return math.nan
        greater_is_better = bool(table["greater_is_better"].iloc[0])
        figure = average(table["score"], table["weight"], self.average, greater_is_better)
        return figure if greater_is_better else -figure

    def score_tasks(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        task: Any = None,
        sample_weight: Any = None,
        standard_error: bool = False,
    ) -> pd.DataFrame:
        """Scores of the single tasks, the arguments being those of a call.

        Parameters
        ----------
        estimator : object
            Fitted estimator.
        X : array-like of shape (n, n_features)
            Test rows.
        y : array-like of shape (n,) or (n, n_tasks)
            Their targets.
        task : array-like of shape (n,), default=None
            Task id of each row.
        sample_weight : array-like of shape (n,), default=None
            Weights.
        standard_error : bool, default=False
            Whether to compute standard errors.

        Returns
        -------
        DataFrame
            As `task_scores` returns it, in the metric's own sign.

        Raises
        ------
        ValueError
            If the ids come both ways or not at all, or if no task can be scored because the metric raises.
        """
        metric = resolve_metric(self.metric)
        weight = check_weight(sample_weight, len(y))
        tasks = self._wide if np.ndim(y) == 2 else self._long
        pairs = [(t, metric) for t in tasks(metric, estimator, X, y, task, weight)]
        return score_tasks(pairs, with_standard_error=standard_error)

    def _long(
        self, metric: Metric, estimator: Any, X: Any, y: Any, task: Any, weight: np.ndarray | None
    ) -> Iterator[TaskRows]:
        if (task is None) == (self.task_column is None):
            way = "in neither way" if task is None else "in both ways"
            raise ValueError(
                f"the task ids reach the scorer {way}; give task_column= to make_task_scorer, or pass task= "
                "(cross_validate and GridSearchCV route it once sklearn.set_config(enable_metadata_routing=True))."
            )
        ids = task if self.task_column is None else split_task_column(X, self.task_column)[1]
        truth, rows = observed(y, weight)
        classes = estimator.classes_ if is_classifier(estimator) else None
        name, prediction = _respond(metric, estimator, X, task, classes, truth)
        recital = Recital({name: prediction}, classes, given=name)
        yield from split_rows(ids, recital, rows, truth, weight, len(y))

    def _wide(
        self, metric: Metric, estimator: Any, X: Any, y: Any, task: Any, weight: np.ndarray | None
    ) -> Iterator[TaskRows]:
        if task is not None or self.task_column is not None:
            way = "task" if self.task_column is None else "task_column"
            raise ValueError(f"{way} is given although y has one column per task; leave {way} out, or pass a 1-D y.")
        all_classes = getattr(estimator, "classes_", None)
        name, predictions = None, None
        for label, j, column in target_columns(y):
            truth, rows = observed(column, weight)
            classes = pick_labels(all_classes, label, j)
            classes = None if classes is None else np.asarray(classes)
            if name is None:
                name, predictions = _respond(metric, estimator, X, None, classes, truth)
            prediction = pick(predictions, label, j)
            problem = "" if prediction is not None else f"{name} returns nothing for task {label!r}"
            recital = Recital({name: plain_array(prediction)}, classes, given=name)
            yield TaskRows(label, recital, rows, truth, None if weight is None else weight[rows], problem)

    def set_score_request(self, *, task: Any = UNCHANGED, sample_weight: Any = UNCHANGED) -> TaskScorer:
        """Say which metadata scikit-learn shall route to this scorer.

        Parameters
        ----------
        task : bool, None or str, default=UNCHANGED
            True: passed on; False: not passed on; None: an error if given; str: passed on under this alias.
        sample_weight : bool, None or str, default=UNCHANGED
            Likewise.

        Returns
        -------
        TaskScorer
            This scorer.

        Raises
        ------
        RuntimeError
            If metadata routing is off.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request has no effect while metadata routing is off; "
                "call sklearn.set_config(enable_metadata_routing=True) first."
            )
        for name, request in {"task": task, "sample_weight": sample_weight}.items():
            if request is not UNCHANGED:
                self._requests[name] = request
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Metadata that this scorer asks for.

        Returns
        -------
        MetadataRequest
            Requests of its `score`.
        """
        routing = MetadataRequest(owner=self)
        for name, request in self._requests.items():
            routing.score.add_request(param=name, alias=request)
        return routing

    def _accept_sample_weight(self) -> bool:
        """Asked by scikit-learn's searches when weights are passed and routing is off; passed on to its own scorer."""
        metric = resolve_metric(self.metric)
        if metric.function is not None:
            return "sample_weight" in inspect.signature(metric.function).parameters
        return getattr(metric.scorer, "_accept_sample_weight", lambda: True)()

    def __sklearn_clone__(self) -> TaskScorer:
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        metric = repr(self.metric) if isinstance(self.metric, str) else resolve_metric(self.metric).name
        how = "" if self.average == "macro" else f", average={self.average!r}"
        column = "" if self.task_column is None else f", task_column={self.task_column!r}"
        return f"make_task_scorer({metric}{how}{column})"


def _respond(
    metric: Metric, estimator: Any, X: Any, task: Any, classes: np.ndarray | None, y: np.ndarray
) -> tuple[str, Any]:
    """The response method that the metric needs, and what it returns for all rows."""
    if metric.function is not None:
        name = "predict"
    else:
        name = response_needed(metric, [m for m in RESPONSES if hasattr(estimator, m)], classes, y)
    method = getattr(estimator, name)
    return name, method(X) if task is None or not _takes_task(estimator, name) else method(X, task=task)


def _takes_task(estimator: Any, method: str) -> bool:
    """Whether `method` of an estimator, or of the last step of a pipeline, takes the ids."""
    parameters = inspect.signature(getattr(estimator, method)).parameters
    if "task" in parameters:
        return True
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return False
    if not get_config()["enable_metadata_routing"]:
        return True  # a pipeline then passes everything on to its last step
    return "task" in get_routing_for_object(estimator).consumes(method, ["task"])
