"""One more task for a fitted R-MTGB estimator, without a new fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mttab._boosting_fit import Fitted
from mttab._boosting_rows import training_rows
from mttab._core.boosting.adapt import Place, choose_rounds, follow, grow_own_trees, place_task, shrunk_leaves
from mttab._core.boosting.forest import PARTITION, TASK, Forest, ForestBuilder
from mttab._core.boosting.growing import Grower
from mttab._core.boosting.importance import normalised
from mttab._core.boosting.rows import TrainingRows
from mttab._core.boosting.sharing import Sharing
from mttab._core.boosting.theta import mixing_weights
from mttab._core.boosting.threads import fit_region, resolve_n_threads
from mttab._core.long_table import Inputs
from mttab._core.other_tasks import features_without_task, new_task_label
from mttab._core.tasks import TaskLabels
from mttab._core.validation import check_same_length, check_weight, task_positions


class TaskAdaptation:
    """Mixin with `add_task`; sets attributes only at its very end."""

    if TYPE_CHECKING:  # parameters, fitted attributes and steps of fit
        task_feature_importances_: np.ndarray

        def __getattr__(self, name: str) -> Any: ...

    def _encode_new_target(self, y: Any) -> np.ndarray:
        """Labels of a new task as fit would have them, float64 (n,)."""
        raise NotImplementedError

    def add_task(self, X: Any, y: Any, task: Any, sample_weight: Any = None) -> Any:
        """Learn a new task from its rows; for all other tasks predictions stay the same to the last bit.

        The new task gets its mixture of the partition block (``theta_``, ``task_group_``, ``outlier_score_``) and, if
        cross-validation on its rows shows that they pay, trees of its own; all else is frozen. The mixture is the mean
        over the known tasks, each counted by how well its score explains the new rows: without rows it would be that of
        an unseen task, with many it is that of the tasks most alike. So a handful of rows is enough to begin with, and
        for thousands a new ``fit`` on all rows will be better.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows of the new task, as in fit or without the task column; if it is there it must hold ``task`` alone.
        y : array-like of shape (n,)
            Their targets; for a classifier labels that fit has seen.
        task : object
            Label of the new task, a tuple for composite ids.
        sample_weight : array-like of shape (n,), default=None
            Weight of each row.

        Returns
        -------
        object
            The estimator, whose ``tasks_`` ends with the new label.

        Raises
        ------
        ValueError
            If the task is known already, the model was fitted without row tasks, or an argument breaks its rule. The
            model then stays as it was.

        Notes
        -----
        With "category", as ``sharing_`` or ``other_sharing_``, and "groups" trees split on the task id as well. There
        the new task goes where unseen tasks go, or where the known task goes that explains its rows best, if this is
        clearly better. With "separate" it has trees of its own only. Trees of its own follow ``learning_rate``, of
        which "auto" is 0.1 here, the options of task trees and ``max_iter_task``.

        Examples
        --------
        >>> from mttab import RMTGBRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(n_samples=100, group_sizes=(8, 2), random_state=0)
        >>> is_new = X["task"] == 9
        >>> model = RMTGBRegressor(task_column="task", random_state=0).fit(X[~is_new], y[~is_new])
        >>> model.add_task(X[is_new], y[is_new], task=9).tasks_
        array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        """
        check_is_fitted(self)
        inputs, weight, label = self._read_new_task(X, y, task, sample_weight)
        n_cells = len(inputs.y) * inputs.n_columns
        with fit_region(resolve_n_threads(self.n_jobs, n_cells), n_cells) as n_threads:
            fitted = self._fit_new_task(inputs, weight, label, n_threads)
        self._take_over_new_task(fitted)
        return self

    def _read_new_task(self, X: Any, y: Any, task: Any, sample_weight: Any) -> tuple[Inputs, np.ndarray, Any]:
        """Checked rows of one task, their weights, and the label of the task."""
        if self._task_source not in ("column", "argument"):
            has = "the columns of a 2-D y as its tasks" if self._task_source == "targets" else "no tasks"
            raise ValueError(
                f"add_task is for models whose rows have tasks, but this one was fitted with {has}; refit it with the "
                "new task's data, or with task_column or task."
            )
        names = getattr(self, "feature_names_in_", None)
        column = self._fitted_task_column
        features, ids = features_without_task(X, column, self.n_features_in_, names)
        label = new_task_label(task, self._fitted.labels, ids, column)
        values = self._encode_new_target(y)
        check_same_length(X=features, y=values)
        positions = task_positions(column, self.n_features_in_, names)
        is_categorical = np.zeros(self.n_features_in_, dtype=bool)
        inputs = Inputs(
            features=features,
            names=None if names is None else list(names),
            n_columns=self.n_features_in_,
            task_positions=positions,
            is_categorical=is_categorical,
            task_ids=None,
            y=values,
            target_labels=None,
            classes=getattr(self, "classes_", None),
            task_source=self._task_source,
        )
        is_categorical[inputs.feature_positions] = self._fitted.encoder.is_categorical
        return inputs, check_weight(sample_weight, len(values)), label

    def _fit_new_task(self, inputs: Inputs, weight: np.ndarray, label: Any, n_threads: int) -> Fitted:
        before = self._fitted
        forest, loss = before.model.forest, before.loss
        alone = TaskLabels([label])
        long = inputs.melt(weight)
        long = long.weighted(alone, self._class_factors(long, inputs.classes), None)
        scaling = before.scaling.with_task(long.y, long.weight)
        values = before.encoder.transform(inputs.features)
        rows, ordered = training_rows(before.mapper, values, long, alone, scaling.of_last_task(), n_threads)
        X = np.ascontiguousarray(ordered[:, :])
        place = place_task(forest, X, rows, loss, _mean_loss(before), before.task_weight)
        forest = follow(forest, len(X), place.like)
        theta, weights = _mixture(before, place)
        n_tasks = before.labels.n_tasks
        forest = replace(forest, mixing=np.vstack([forest.mixing[:-1], weights, forest.mixing[-1:]]))
        score = forest.score(X, np.full(rows.n_rows, n_tasks, dtype=np.int32), n_threads)
        grower = self._make_grower(rows, before.mapper, inputs, n_threads, loss, False)
        forest = self._with_own_trees(before, forest, rows, score, grower)
        model = replace(before.model, forest=forest, theta=theta)
        sharing = _with_task(before.sharing, int(weights.argmax()))
        labels = TaskLabels([*before.labels.labels.tolist(), label])
        task_weight = np.append(before.task_weight, rows.weight.sum())
        return replace(before, model=model, scaling=scaling, labels=labels, sharing=sharing, task_weight=task_weight)

    def _with_own_trees(
        self, before: Fitted, forest: Forest, rows: TrainingRows, score: np.ndarray, grower: Grower
    ) -> Forest:
        """The forest with trees of the last task, where they pay."""
        loss, n_tasks = before.loss, before.labels.n_tasks
        vector, rate = self._has_vector_leaves(loss), self._learning_rate(1)
        grower = shrunk_leaves(grower, rows, score, loss)
        limit = self._max_iter("task", True)
        n_rounds = choose_rounds(rows, score, loss, grower, rate, vector, limit, self.n_iter_no_change)
        builder = ForestBuilder(before.mapper, n_tasks + 1)
        builder.append_forest(forest)
        grow_own_trees(rows, score, loss, grower, builder, n_tasks, rate, vector, n_rounds)
        done = forest.n_rounds
        n_leaf_outputs = forest.nodes.value.shape[1]
        return builder.build(forest.base, forest.mixing, (done[0], done[1], max(done[TASK], n_rounds)), n_leaf_outputs)

    def _take_over_new_task(self, fitted: Fitted) -> None:
        """Set what a task more changes in the fitted attributes; figures of the other tasks stay as they are."""
        self._fitted = fitted
        self._set_task_attributes()
        gain = self._gain_by_column()
        self.feature_importances_ = normalised(gain.sum(axis=0))
        self.task_feature_importances_ = np.vstack([self.task_feature_importances_, normalised(gain[-1:])])


def _mean_loss(fitted: Fitted) -> float:
    """Mean loss of the model: on validation rows where fit had some, else on its training rows."""
    for losses in (fitted.model.validation_loss, fitted.model.train_loss):
        path = [loss for history in losses for loss in history]
        if path:
            return path[-1]
    return 0.0


def _mixture(fitted: Fitted, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """θ of all tasks, the new one last, and the weights (n_groups,) that its θ means."""
    theta = fitted.model.theta
    if fitted.model.forest.n_rounds[PARTITION] == 0 and (theta == theta[0]).all():
        new = theta[:1]  # nothing was estimated
    elif theta.ndim == 2:
        new = np.log(np.maximum(place.weights, 1e-300))[None]
    else:
        new = np.log(place.weights[1:] / place.weights[:1])
    return np.concatenate([theta, new]), mixing_weights(new, np.ones(1))[0]


def _with_task(sharing: Sharing, group: int) -> Sharing:
    return sharing if sharing.group is None else replace(sharing, group=np.append(sharing.group, group))
