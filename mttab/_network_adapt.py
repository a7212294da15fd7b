"""One more row task for a fitted network estimator, without a new fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mttab._core.neural.adapting import add_token
from mttab._core.neural.members import EncodedRows, Place
from mttab._core.neural.training import TrainedNetwork
from mttab._core.other_tasks import features_without_task, new_task_label
from mttab._core.tasks import TaskLabels
from mttab._network_fit import Encoding


class TaskAdaptation:
    """Mixin with `add_task` over the fitted attributes `_encoding` and `_networks`."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators
        _encoding: Encoding
        _networks: list[TrainedNetwork]

        def __getattr__(self, name: str) -> Any: ...

    def add_task(self, X: Any, y: Any, task: Any, sample_weight: Any = None) -> Any:
        """Learn a token for a new row task; for all other tasks predictions stay the same to the last bit.

        The token is that of unseen tasks, or a mean of known ones by how well they explain the new rows, or is trained
        from there, whichever cross-validation on the new rows shows to be worth it. All other weights are frozen, so a
        handful of rows is enough to begin with; for thousands a new ``fit`` on all rows will be better.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows of the new task, as in fit or without the task column; if it is there it must hold ``task`` alone.
        y : array-like of shape (n,)
            Their labels, classes among those of fit; rows without one are left out, with a warning.
        task : object
            Label of the new task, a tuple for composite ids.
        sample_weight : array-like of shape (n,), default=None
            Weight of each row.

        Returns
        -------
        object
            The estimator, whose ``tasks_`` ends with the new label. A fit that goes on from it (``warm_start``) begins
            with fresh moments of the optimiser.

        Raises
        ------
        ValueError
            If the task is known already, the tasks are columns of ``y``, or an argument breaks its rule. The model then
            stays as it was.

        Examples
        --------
        >>> from mttab import MultiTabNetRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(n_samples=50, group_sizes=(4,), random_state=0)
        >>> is_new = X["task"] == 3
        >>> net = MultiTabNetRegressor(task_column="task", n_members=1, max_epochs=3, random_state=0)
        >>> net.fit(X[~is_new], y[~is_new]).add_task(X[is_new], y[is_new], task=3).tasks_
        array([0, 1, 2, 3])
        """
        check_is_fitted(self, "_networks")
        encoding = self._encoding
        if encoding.row_tasks is None:
            raise ValueError(
                "add_task is for models whose rows have tasks, but the tasks of this network are the columns of y, for "
                "which all of it was trained; refit with the new column, or with task_column or task."
            )
        names = getattr(self, "feature_names_in_", None)
        features, ids = features_without_task(X, self._fitted_task_column, self.n_features_in_, names)
        label = new_task_label(task, encoding.row_tasks, ids, self._fitted_task_column)
        values = encoding.targets.encode(y, sample_weight)
        rows, _ = self._labelled_rows(features, features, y, values, sample_weight, None)
        scaling = encoding.scaling
        if encoding.targets.columns[0].classes is None:
            scaling = scaling.with_task(rows.values[:, 0], rows.weight[:, 0])
        else:
            scaling = scaling.with_task(np.zeros(1), np.ones(1))
        labels = TaskLabels([*encoding.row_tasks.labels.tolist(), label])
        encoding = replace(encoding, row_tasks=labels, scaling=scaling)
        new = labels.n_tasks - 1
        task_idx = np.full(len(rows.values), new, dtype=np.int64)
        y_scaled = np.nan_to_num(encoding.scale(rows.values, task_idx))
        encoded = EncodedRows(encoding.encode_features(rows.features), task_idx, y_scaled, rows.weight)
        examples = Place.of(self._networks[0], self.precision).examples(encoded.with_weight_of_1())
        self._networks = add_token(self._networks, examples, np.random.default_rng([self._seed, 2]))
        self._encoding = encoding
        self.tasks_, self.n_tasks_ = labels.labels, labels.n_tasks
        return self
