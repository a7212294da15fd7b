"""What a fitted R-MTGB estimator tells about itself: as a LightGBM model, SHAP values, importances, similar tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from mttab._boosting_export import LightGBMExport, booster_of_codes, export_task
from mttab._core.boosting.forest import BLOCKS
from mttab._core.boosting.importance import block_importances, task_importances
from mttab._core.boosting.threads import resolve_n_threads
from mttab._core.tasks import did_you_mean, some_of


class ShapValues(NamedTuple):
    """What ``shap_values`` returns; ``values`` summed over the features plus ``base_values`` is the score.

    Attributes
    ----------
    values : ndarray of shape (n, n_features_in)
        What each column of ``X`` adds to the score of each row.
    base_values : ndarray of shape (n,)
        Mean score of the row's task.
    """

    values: np.ndarray
    base_values: np.ndarray


class Explaining:
    """Mixin of the methods that explain a fitted model or hand it on; none changes it."""

    if TYPE_CHECKING:  # fitted attributes and other methods of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def to_lightgbm(self, task: Any = None) -> LightGBMExport:
        """The model as it acts for one task, as a LightGBM model that predicts the same.

        Shared trees, the task's mixture of the partition trees and its own trees become one ``lightgbm.Booster``: to
        serve a task without this package, for LightGBM's plots, and for converters such as treelite's and ONNX's.

        Parameters
        ----------
        task : label, default=None
            One of ``tasks_``; None for what a task that fit did not see gets, or for a model without tasks. Where
            columns of ``y`` are the tasks, one of them must be named.

        Returns
        -------
        LightGBMExport
            The ``booster``; ``feature_names``, because spaces, brackets and other characters that LightGBM refuses are
            replaced by underscores; ``categories``; and ``encode``, which makes an array of a table.

        Raises
        ------
        ValueError
            If fit did not see the task, or for what the format cannot express: levels of categorical features that
            are not text, numbers or bools (or, of an array, not whole numbers from 0), and splits nearer to 0
            than 1e-35.

        Notes
        -----
        Missing values, and levels that fit did not see, go where they go here. Row counts in the trees are rounded
        sums of weights, over all tasks in shared trees. LightGBM reads numbers below 1e-35 as 0, cuts fractions off
        numbers that are categories, and caps thresholds at 1e300 when it saves a model.

        Examples
        --------
        >>> from mttab import RMTGBRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(n_samples=50, random_state=0)
        >>> model = RMTGBRegressor(task_column="task", sharing="category", max_iter_shared=10).fit(X, y)
        >>> booster = model.to_lightgbm(task=3).booster
        >>> of_task = X[X["task"] == 3]
        >>> ours, theirs = model.predict(of_task), booster.predict(of_task.drop(columns="task"))
        >>> bool(abs(ours - theirs).max() < 1e-9)
        True
        """
        check_is_fitted(self)
        index, positions = self._task_index(task), self._feature_positions()
        has_names = hasattr(self, "feature_names_in_")
        columns = self.feature_names_in_[positions] if has_names else positions
        return export_task(self._fitted, index, columns.tolist(), has_names)

    def shap_values(self, X: Any, task: Any = None) -> ShapValues:
        """What each feature adds to the score of each row: LightGBM's TreeSHAP values [1]_ of `to_lightgbm`'s models.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Rows to explain, as in predict.
        task : array-like of shape (n,), default=None
            Task of each row, for a model fitted with ``task=``.

        Returns
        -------
        ShapValues, a named tuple of ``values`` and ``base_values``
            ``values`` (n, n_features_in_): one column per column of ``X``, 0 for the task column. ``base_values``
            (n,): the mean score of the row's task, so that what the task itself changes is in there. A row of the one
            and the other sum to the score before the link. Several classes add a last axis to both; several columns of
            ``y`` add one for the tasks after the first.

        Notes
        -----
        Means are over the training rows in the leaves, of all tasks in shared trees. Every task in ``X`` is a model of
        its own, made anew in every call.

        References
        ----------
        .. [1] S. Lundberg et al. "From local explanations to global understanding with explainable AI for trees". 2020.

        Examples
        --------
        >>> from mttab import RMTGBRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(n_samples=50, random_state=0)
        >>> model = RMTGBRegressor(task_column="task", sharing="category", max_iter_shared=10).fit(X, y)
        >>> shap = model.shap_values(X)
        >>> bool(abs(shap.values.sum(axis=1) + shap.base_values - model.predict(X)).max() < 1e-9)
        True
        """
        values, encoded = self._read_rows(X, task)
        n_rows, n_outputs = len(encoded), self._fitted.model.forest.n_outputs
        n_threads = resolve_n_threads(self.n_jobs)
        out = np.zeros((n_rows, n_outputs, self.n_features_in_ + 1))
        places = np.append(self._feature_positions(), self.n_features_in_)
        for index in np.unique(encoded):
            rows = np.flatnonzero(encoded == index)
            parts = booster_of_codes(self._fitted, int(index)).predict(
                values[:, rows].T, pred_contrib=True, num_threads=n_threads
            )
            out[np.ix_(rows, np.arange(n_outputs), places)] = parts.reshape(len(rows), n_outputs, -1)
        contributions, base = out[:, :, :-1].swapaxes(1, 2), out[:, :, -1]
        if n_outputs == 1:
            contributions, base = contributions[:, :, 0], base[:, 0]
        return ShapValues(self._layout(contributions, task), self._layout(base, task))

    def feature_importance(
        self, importance_type: str = "gain", by: str = "block", *, block: str | None = None, task: Any = None
    ) -> pd.DataFrame:
        """How much the trees use each feature, per block or per task.

        For permutation importance use `sklearn.inspection.permutation_importance`, which works with ``task_column``;
        of one task pass its rows alone.

        Parameters
        ----------
        importance_type : {"gain", "split"}, default="gain"
            "gain": how much the splits on a feature lower the training loss; "split": how many there are, of which a
            straight line to start from (`linear_start_`) has one per bin of each feature.
        by : {"block", "task"}, default="block"
            What the columns of the table are.
        block : {"shared", "partition", "task"} or None, default=None
            With ``by="task"``: the trees of this block only.
        task : label, default=None
            With ``by="block"``: one of ``tasks_``, as whose trees act for it.

        Returns
        -------
        DataFrame
            One row per column of ``X``; the last row is the task id where that is no column of ``X`` and shared trees
            may split on it.

        Notes
        -----
        A task has its share of the gain of shared trees by its rows, and of partition trees by its rows and weights, so
        that tasks sum to all. Its number of splits is that of the trees that act for it: each split of a shared tree,
        those of partition trees times its weights.

        Examples
        --------
        >>> from mttab import RMTGBRegressor
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(n_samples=50, random_state=0)
        >>> model = RMTGBRegressor(task_column="task", sharing="category", max_iter_shared=10).fit(X, y)
        >>> model.feature_importance().shape, model.feature_importance("split", by="task").shape
        ((6, 3), (6, 10))
        """
        check_is_fitted(self)
        _check_choice("importance_type", importance_type, ("gain", "split"))
        _check_choice("by", by, ("block", "task"))
        if block is not None:
            _check_choice("block", block, BLOCKS)
        if (block if by == "block" else task) is not None:
            name, other = ("block", "task") if by == "block" else ("task", "block")
            raise ValueError(f"{name}= was passed with by={by!r}, whose table has a column for each; use by={other!r}.")
        forest, n_features = self._fitted.model.forest, len(self._fitted.encoder.names)
        if by == "block" and task is None:
            parts, columns = block_importances(forest, n_features, importance_type), list(BLOCKS)
        else:
            parts = task_importances(forest, n_features, self._fitted.task_weight, importance_type)
            if by == "block":
                parts, columns = parts[:, self._known_task(task)], list(BLOCKS)
            else:
                parts = parts.sum(axis=0) if block is None else parts[BLOCKS.index(block)]
                columns = self.tasks_.tolist()
        return pd.DataFrame(
            self._by_column_of_X(parts).T,
            index=self._rows_of_importance(),
            columns=pd.Index(columns, name=by, tupleize_cols=False),
        )

    @property
    def task_similarity_(self) -> np.ndarray:
        """Which tasks help which, (n_tasks, n_tasks): how well a model of the task of a column serves the one of a row.

        The correlation, −1 to 1, of a small model of one task with the labels of the other, 1 on the diagonal. There
        where the fit has compared the tasks; NaN for tasks that were added later.
        """
        check_is_fitted(self)
        agreement = self._fitted.sharing.agreement
        if agreement is None:
            raise AttributeError(
                "task_similarity_ is there only where fit compares the tasks, which it has not done with "
                f"sharing={self.sharing!r} and {self.n_tasks_} task(s); use sharing='groups', or 'auto' with early "
                "stopping, and 2 to 300 tasks."
            )
        out = np.full((self.n_tasks_, self.n_tasks_), np.nan)
        out[: len(agreement), : len(agreement)] = agreement
        np.fill_diagonal(out, 1.0)
        return out

    # --- steps -----------------------------------------------------------------------------------------------------

    def _task_index(self, task: Any) -> int:
        """Index of the task to export; None is the only one there is, or one that fit did not see."""
        if task is not None:
            return self._known_task(task)
        if self._task_source is None:
            return 0
        if self._task_source == "targets":
            raise ValueError(
                "This model predicts several columns of y, and a LightGBM model one; pass task=, one of "
                f"{some_of(self.tasks_.tolist())}."
            )
        if self.unseen_task == "error":
            raise ValueError(
                "task=None stands for a task that fit did not see, which unseen_task='error' refuses; pass one of "
                f"{some_of(self.tasks_.tolist())}."
            )
        return int(self.n_tasks_)

    def _known_task(self, task: Any) -> int:
        if self._task_source is None:
            raise ValueError(f"task={task!r} was passed, but this model was fitted without tasks; leave it out.")
        label = tuple(task) if isinstance(task, list) else task
        index = int(self._fitted.labels.encode([label])[0])
        if index < 0:
            known = self.tasks_.tolist()
            hint = did_you_mean(task, known)
            can_learn = self._task_source != "targets"
            remedy = "; pass one of them" + ", or let the model learn the new one with add_task." * can_learn
            remedy = hint if hint != "." else remedy if can_learn else remedy + "."
            raise ValueError(f"task={task!r} is not one of the tasks of fit, {some_of(known)}{remedy}")
        return index

    def _feature_positions(self) -> np.ndarray:
        """Where the features stand in X."""
        return np.delete(np.arange(self.n_features_in_), list(self._fitted.task_positions))

    def _by_column_of_X(self, parts: np.ndarray) -> np.ndarray:
        """From (…, n_features + 1), the task id last, to the rows of the table."""
        out = np.zeros((len(parts), self.n_features_in_))
        out[:, self._feature_positions()] = parts[:, :-1]
        if self._fitted.task_positions:
            out[:, self._fitted.task_positions[0]] = parts[:, -1]
        elif self.n_tasks_ > 1:
            out = np.column_stack([out, parts[:, -1]])
        return out

    def _rows_of_importance(self) -> pd.Index:
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(self.n_features_in_)])
        has_own_row = self.n_tasks_ > 1 and not self._fitted.task_positions
        return pd.Index([*names, *(["(task)"] if has_own_row else [])], name="feature")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {some_of(choices)}{did_you_mean(value, choices)}")
