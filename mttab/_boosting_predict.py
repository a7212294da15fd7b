"""From rows to scores: every prediction of an R-MTGB estimator, and what its blocks contribute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted, validate_data

from mttab._boosting_fit import Fitted
from mttab._core.boosting.forest import BLOCKS, SHARED, TASK
from mttab._core.boosting.threads import parallel_region, resolve_n_threads
from mttab._core.other_tasks import features_without_task, is_every_task
from mttab._core.validation import check_table, require_task, split_task_column


class Predicting:
    """Mixin of the steps between rows and scores; none changes the estimator."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators
        n_jobs: int | None
        unseen_task: str
        n_features_in_: int
        n_tasks_: int
        _fitted: Fitted
        _task_source: str | None
        _fitted_task_column: Any

    def _read_rows(self, X: Any, task: Any) -> tuple[np.ndarray, np.ndarray]:
        """Feature values (n_features, n_rows) and task indices; for every task at once the rows are repeated."""
        is_for_every_task = self._is_every_row_task(task)
        names = getattr(self, "feature_names_in_", None)
        column = self._fitted_task_column
        if is_for_every_task:
            return self._for_every_task(self._features_for_every_task(X))
        table = check_table(X)
        features, ids, _ = split_task_column(table, column, feature_names=names)
        validate_data(self, table, reset=False, skip_check_array=True)
        values = self._fitted.encoder.transform(features)
        if self._task_source == "targets":
            if task is not None:
                raise ValueError(
                    "task was passed, but this model was fitted with a 2-D y and predicts all tasks at once; drop task."
                )
            return self._for_every_task(values)
        if self._task_source is None:
            if task is not None:
                raise ValueError(
                    "task was passed, but this model was fitted without tasks; fit it with task_column or task."
                )
            return values, np.zeros(values.shape[1], dtype=np.int32)
        if self._task_source == "column" and task is not None:
            raise ValueError(f"task was passed, but this model reads its tasks from task_column={column!r}; drop task.")
        if self._task_source == "argument":
            ids = require_task(task, table)
        name = "task" if self._task_source == "argument" else f"task_column={column!r}"
        encoded = self._fitted.labels.encode(ids, unseen=self.unseen_task, name=name)
        return values, np.where(encoded < 0, self.n_tasks_, encoded).astype(np.int32)

    def _is_every_row_task(self, task: Any) -> bool:
        """Whether predictions for every row task are asked for, of a model that is fitted."""
        if not hasattr(self, "_fitted"):  # scikit-learn's check takes a fifth of the time of a row
            check_is_fitted(self)
        return is_every_task(task) and self._task_source in ("column", "argument")

    def _features_for_every_task(self, X: Any) -> np.ndarray:
        names = getattr(self, "feature_names_in_", None)
        features, _ = features_without_task(X, self._fitted_task_column, self.n_features_in_, names)
        return self._fitted.encoder.transform(features)

    def _for_every_task(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_rows = values.shape[1]
        return np.tile(values, self.n_tasks_), np.repeat(np.arange(self.n_tasks_, dtype=np.int32), n_rows)

    def _n_predict_threads(self, values: np.ndarray) -> int:
        return resolve_n_threads(self.n_jobs, values.shape[1] * max(len(self._fitted.model.forest.trees.root), 1))

    def _score(self, X: Any, task: Any) -> tuple[np.ndarray, np.ndarray]:
        """Score (n, K) in the target's unit, before the link, and the task of each entry."""
        if self._is_every_row_task(task):  # task by task: the rows repeated for all of them might not fit into memory
            values = self._features_for_every_task(X)
            n_threads, each = self._n_predict_threads(values), np.arange(self.n_tasks_, dtype=np.int32)
            encoded = np.repeat(each, values.shape[1])
            with parallel_region(n_threads):
                parts = [
                    self._fitted.model.forest.score(values, np.full(values.shape[1], i, np.int32), n_threads)
                    for i in each
                ]
            return self._unscaled(np.concatenate(parts), encoded), encoded
        values, encoded = self._read_rows(X, task)
        n_threads = self._n_predict_threads(values)
        with parallel_region(n_threads):
            score = self._fitted.model.forest.score(values, encoded, n_threads)
        return self._unscaled(score, encoded), encoded

    def _unscaled(self, score: np.ndarray, task: np.ndarray) -> np.ndarray:
        return score * self._fitted.scaling.scale[task, None] + self._fitted.scaling.center[task, None]

    def _staged_scores(self, X: Any, task: Any) -> Iterator[np.ndarray]:
        values, encoded = self._read_rows(X, task)
        forest, n_threads = self._fitted.model.forest, self._n_predict_threads(values)
        stages = forest.staged_block_scores(values, encoded, n_threads)
        while True:
            with parallel_region(n_threads):
                blocks = next(stages, None)
            if blocks is None:
                return
            yield self._unscaled(forest.base + blocks.sum(axis=0), encoded)

    def _layout(self, values: np.ndarray, task: Any) -> np.ndarray:
        """Entries back to the caller's shape: one column per task where y had several, or every task is asked for."""
        if self._task_source != "targets" and not is_every_task(task):
            return values
        return values.reshape(self.n_tasks_, -1, *values.shape[1:]).swapaxes(0, 1)

    def decompose(self, X: Any, task: Any = None) -> Bunch:
        """Contribution of each block to the score of every row.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows to explain.
        task : array-like of shape (n,), default=None
            Task of each row, for a model fitted with ``task=``.

        Returns
        -------
        Bunch with keys "shared", "partition" and "task"
            Arrays that sum to the score before the link: (n,), (n, n_classes) for several classes, with one more axis
            for the tasks after the first where y had several columns or with ``task="all"``. The base score counts as
            shared, the centre of ``target_scaling="task"`` as task.

        Examples
        --------
        >>> from mttab import RMTGBRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(n_samples=50, random_state=0)
        >>> model = RMTGBRegressor(task_column="task", max_iter_shared=10).fit(X, y)
        >>> parts = model.decompose(X)
        >>> bool(abs(parts.shared + parts.partition + parts.task - model.predict(X)).max() < 1e-9)
        True
        """
        values, encoded = self._read_rows(X, task)
        n_threads = self._n_predict_threads(values)
        with parallel_region(n_threads):
            blocks = self._fitted.model.forest.block_scores(values, encoded, n_threads)
        blocks[SHARED] += self._fitted.model.forest.base
        blocks *= self._fitted.scaling.scale[encoded, None]
        blocks[TASK] += self._fitted.scaling.center[encoded, None]
        if blocks.shape[2] == 1:
            blocks = blocks[:, :, 0]
        return Bunch(**{name: self._layout(part, task) for name, part in zip(BLOCKS, blocks, strict=True)})
