"""New tasks in groups that are there: each goes where the model is least wrong about its first rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mttab._core.tasks import TaskLabels
from mttab._core.validation import check_same_length, check_table, check_weight
from mttab._cross_errors import Judge
from mttab._task_rows import TaskRows
from mttab._task_wrapper import BaseTaskWrapper


class PlacesTasks(BaseTaskWrapper):
    """An estimator with a model per group of tasks."""

    metric: Any
    estimators_: list[Any]
    tasks_: np.ndarray
    placed_tasks_: dict[Any, int]
    # Group of each placed task, in the order of `placed_tasks_`.
    _placed_group: np.ndarray

    # --- new tasks -------------------------------------------------------------------------------------------------

    def place_task(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> dict[Any, int]:
        """Place tasks that fit did not see in the group whose model is least wrong about their first rows.

        No model is fitted; from then on predict asks the model of that group. A task that was placed before is placed
        anew, on these rows alone.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows of one or several new tasks, with the task column where there is one.
        y : array-like of shape (n,)
            Their labels.
        sample_weight : array-like of shape (n,), default=None
            Weight of each row.
        task : array-like of shape (n,), default=None
            Task of each row, for a model fitted with ``task=``.

        Returns
        -------
        dict
            Task -> group; ``placed_tasks_`` has them, too.

        Raises
        ------
        ValueError
            If a task was in fit, whose group is settled, or the model knows no task ids.

        Examples
        --------
        >>> from sklearn.linear_model import Ridge
        >>> from mttab import TaskClusterRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(60, group_sizes=(6, 4), random_state=0)
        >>> known = X["task"] < 9
        >>> model = TaskClusterRegressor(Ridge(), task_column="task", random_state=0).fit(X[known], y[known])
        >>> model.place_task(X[~known][:10], y[~known][:10])
        {9: 1}
        """
        rows, labels = self._read_new_tasks(X, y, sample_weight, task)
        judge = Judge(self.metric, rows)
        if judge.needs_probabilities and not hasattr(self, "predict_proba"):  # the pilots have some, the estimator none
            judge = Judge("zero_one", rows)
        errors = np.stack([judge.errors(judge.ask(model, rows.table), rows) for model in self.estimators_], axis=1)
        placed = dict(zip(labels, errors.argmin(axis=1).tolist(), strict=True))
        self.placed_tasks_ = {**self.placed_tasks_, **placed}
        # Placed tasks are encoded as those after the ones of fit.
        self._labels = TaskLabels([*self.tasks_.tolist(), *self.placed_tasks_])
        self._placed_group = np.array([*self.placed_tasks_.values()], dtype=np.int64)
        return placed

    def _labels_after_fit(self) -> list[Any]:
        return list(self.placed_tasks_)

    def _read_new_tasks(self, X: Any, y: Any, sample_weight: Any, task: Any) -> tuple[TaskRows, list[Any]]:
        check_is_fitted(self)
        if self._task_source not in ("column", "argument"):
            raise ValueError(
                "place_task needs a model that was fitted with task ids, by task_column or task; this one has none."
            )
        table = check_table(X)
        features, ids = self._read_features(table, task)
        labels = TaskLabels.fit(ids)
        known = [label for label in labels.labels.tolist() if label in set(self.tasks_.tolist())]
        if known:
            raise ValueError(
                f"place_task was passed rows of the task {known[0]!r}, which fit has put in a group; leave them out."
            )
        values = self._encode_target(y)
        check_same_length(X=table, y=values)
        weight = check_weight(sample_weight, len(values))
        rows = TaskRows(
            features=features,
            row_idx=np.arange(len(values)),
            task=labels.encode(ids),
            y=values,
            weight=None if sample_weight is None else weight,
            task_labels=labels.labels,
            classes=getattr(self, "classes_", None),
            task_name=None,
            has_ids=True,
        )
        without = np.bincount(rows.task, rows.mass, rows.n_tasks) == 0
        if without.any():
            label = labels.labels.tolist()[int(without.argmax())]
            raise ValueError(f"sample_weight is 0 in all rows of the task {label!r}; leave them out.")
        return rows, labels.labels.tolist()
