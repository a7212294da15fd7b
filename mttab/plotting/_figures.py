"""What displays read of a fitted estimator: attributes, tasks, and the figure of every task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier

from mttab._core.tasks import label_array
from mttab.metrics import make_task_scorer


def innermost(estimator: Any) -> Any:
    """The model inside pipelines and searches."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            return estimator


def read_attribute(estimator: Any, name: str, display: str) -> Any:
    """A fitted attribute of the innermost model, or an error that says which is missing."""
    model = innermost(estimator)
    if not hasattr(model, name):
        raise ValueError(
            f"{display} draws {name}, which this {type(model).__name__} does not have; fit it first, or pass an "
            "estimator that has it."
        )
    return getattr(model, name)


def task_index(labels: Any) -> pd.Index:
    """An index of task labels, tuples included."""
    return pd.Index(label_array(list(labels)), name="task", tupleize_cols=False)


def score_estimator(estimator: Any, X: Any, y: Any, task: Any, metric: Any, task_column: Any) -> pd.DataFrame:
    """Table of `task_scores` of a fitted estimator; `metric` "auto" is the log loss or the root mean squared error.

    `task_column` is where the ids are unless they come as `task` or the tasks are the columns of `y`.
    """
    if isinstance(metric, str) and metric == "auto":
        metric = "log_loss" if is_classifier(estimator) else "root_mean_squared_error"
    scorer = make_task_scorer(metric, task_column=None if task is not None or np.ndim(y) == 2 else task_column)
    return scorer.score_tasks(estimator, X, y, task=task, standard_error=True)


def task_column_of(estimator: Any) -> Any:
    """Where an estimator finds its tasks in X, if it does."""
    return getattr(innermost(estimator), "task_column", None)
