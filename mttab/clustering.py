"""Tasks in groups, one model per group: which tasks belong together is found from how well models serve other tasks."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from mttab._core.records import require
from mttab._core.task_clusters import LINKAGES, cluster_by_distance, similarity_of_errors, task_distances
from mttab._core.validation import HasMethods, Interval, StrOptions
from mttab._cross_errors import CLASSIFICATION_METRICS, REGRESSION_METRICS, Judge, ask_across
from mttab._task_placing import PlacesTasks
from mttab._task_rows import Ask, TaskRows, ask_each, fit_model_of_group, take_rows
from mttab._task_wrapper import TaskWrapperClassifier, TaskWrapperRegressor

__all__ = ["TaskClusterClassifier", "TaskClusterRegressor"]

_PAPER_PARAMETERS: dict[str, Any] = {
    "n_folds": None,
    "distance": "cosine",
    "min_silhouette": -1,
    "max_pilot_rows": None,
}
# Metrics of `scipy.spatial.distance` between real vectors that need no further argument.
DISTANCES = ("braycurtis", "canberra", "chebyshev", "cityblock", "correlation", "cosine", "euclidean", "sqeuclidean")


class _TaskCluster(PlacesTasks):
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PlacesTasks._parameter_constraints,
        "n_clusters": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "pilot": [None, HasMethods(["fit", "predict"])],
        "n_folds": [None, Interval(Integral, 2, None, closed="left")],
        "distance": [StrOptions(set(DISTANCES))],
        "linkage": [StrOptions(set(LINKAGES))],
        "max_clusters": [Interval(Integral, 2, None, closed="left")],
        "min_silhouette": [Interval(Real, -1, 1, closed="both")],
        "max_pilot_rows": [None, Interval(Integral, 2, None, closed="left")],
        "n_jobs": [Integral, None],
    }

    _published_metric: ClassVar[str]

    task_labels_: np.ndarray
    n_clusters_: int
    cross_error_: np.ndarray
    task_similarity_: np.ndarray
    task_distance_: np.ndarray

    def __init__(
        self,
        estimator: Any = None,
        *,
        task_column: Any = None,
        n_clusters: int | str = "auto",
        pilot: Any = None,
        metric: Any = "auto",
        n_folds: int | None = 5,
        distance: str = "correlation",
        linkage: str = "average",
        max_clusters: int = 20,
        min_silhouette: float = 0.5,
        max_pilot_rows: int | None = 500,
        unseen_task: str = "shared",
        random_state: Any = None,
        n_jobs: int | None = None,
    ):
        self.estimator = estimator
        self.task_column = task_column
        self.n_clusters = n_clusters
        self.pilot = pilot
        self.metric = metric
        self.n_folds = n_folds
        self.distance = distance
        self.linkage = linkage
        self.max_clusters = max_clusters
        self.min_silhouette = min_silhouette
        self.max_pilot_rows = max_pilot_rows
        self.unseen_task = unseen_task
        self.random_state = random_state
        self.n_jobs = n_jobs

    @classmethod
    def paper_parameters(cls) -> dict[str, Any]:
        """Parameters that compare tasks, and make groups in any case, as published.

        Examples
        --------
        >>> from mttab import TaskClusterRegressor
        >>> TaskClusterRegressor(**TaskClusterRegressor.paper_parameters()).min_silhouette
        -1
        """
        return {**_PAPER_PARAMETERS, "metric": cls._published_metric}

    # --- fit -------------------------------------------------------------------------------------------------------

    def _fit_models(self, rows: TaskRows, seed: int | None) -> dict[str, Any]:
        n_clusters = None if self.n_clusters == "auto" else int(self.n_clusters)
        if rows.n_tasks > 1:
            # Folds have to be drawn from something also where no seed was passed.
            draw = int(check_random_state(None).randint(2**31 - 1)) if seed is None else seed
            judge = Judge(self.metric, rows)
            if judge.needs_probabilities and self.pilot is not None and not hasattr(self.pilot, "predict_proba"):
                raise ValueError(
                    f"metric={self.metric!r} judges probabilities, but pilot={self.pilot!r} has no predict_proba; use "
                    "metric='zero_one', or another pilot."
                )
            answers = ask_across(rows, self.pilot, judge, self.n_folds, self.max_pilot_rows, draw, self.n_jobs)
            error = answers.errors()
            # On the rows that a model was fitted on, its own task alone looks best.
            error_of_groups = None if self.n_folds is None else answers.errors_of_groups
        else:
            error, error_of_groups = np.full((1, 1), np.nan), None
        similarity = similarity_of_errors(error)
        distance = task_distances(similarity, self.distance) if rows.n_tasks > 1 else np.zeros((1, 1))
        found = cluster_by_distance(
            distance, self.linkage, n_clusters, self.max_clusters, self.min_silhouette, error_of_groups
        )
        models = Parallel(n_jobs=self.n_jobs)(
            delayed(fit_model_of_group)(
                self._new_model(seed), rows.take(found.label[rows.task] == g), f"group {g} of tasks"
            )
            for g in range(found.label.max() + 1)
        )
        return {
            "estimators_": models,
            "cross_error_": error,
            "task_similarity_": similarity,
            "task_distance_": distance,
            "linkage_": found.linkage,
            "silhouette_scores_": found.silhouette,
            "group_errors_": found.error,
            "task_labels_": found.label,
            "n_clusters_": len(models),
            "placed_tasks_": {},
            "_placed_group": np.empty(0, dtype=np.int64),
        }

    # --- predict ---------------------------------------------------------------------------------------------------

    def _answers(self, features: Any, task: np.ndarray, ask: Ask, ask_mean: Ask) -> np.ndarray:
        group = np.append(np.concatenate([self.task_labels_, self._placed_group]), -1)[task]
        is_new = group < 0
        if not is_new.any():
            return ask_each(self.estimators_, group, features, ask)
        # A new task is in a group with the chance that a task of fit is.
        share = np.bincount(self.task_labels_) / self.n_tasks_
        unseen = take_rows(features, is_new)
        mean = sum(part * ask_mean(model, unseen) for part, model in zip(share, self.estimators_, strict=True))
        out = np.empty((len(task), *np.shape(mean)[1:]))
        out[is_new] = mean
        if not is_new.all():
            out[~is_new] = ask_each(self.estimators_, group[~is_new], take_rows(features, ~is_new), ask)
        return out

    def _fitted_models(self) -> list[Any]:
        return self.estimators_

    def _check_restored(self) -> None:
        super()._check_restored()
        n_tasks, groups = self.n_tasks_, list(range(len(self.estimators_)))
        require(len(groups) == self.n_clusters_, "a group has no model")
        require(self.task_labels_.shape == (n_tasks,), "a task is in no group")
        require(np.unique(self.task_labels_).tolist() == groups, "task_labels_ are not the groups of the model")
        placed = list(self.placed_tasks_.values())
        require(set(placed) <= set(groups), "a placed task is in no group")
        require(self._placed_group.tolist() == placed, "placed_tasks_ are not those of the model")
        shapes = {part.shape for part in (self.cross_error_, self.task_similarity_, self.task_distance_)}
        require(shapes == {(n_tasks, n_tasks)}, "tasks were compared with others")


class TaskClusterRegressor(_TaskCluster, TaskWrapperRegressor):
    """A regressor per group of tasks, where groups are tasks whose models serve each other (RMB-CLE).

    A small model is fitted on the rows of each task and judged on those of all others [1]_. Tasks on which the same
    models do well are alike: hierarchical clustering makes groups of them, and every group gets one model of the rows
    of all its tasks.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any regressor of scikit-learn's kind, of which every group gets a copy; None is `RMTGBRegressor`, which is
        plain boosting here. It sees ``X`` without the task column, as a DataFrame where ``X`` is one, and gets the
        weights where it takes any.
    task_column : str, int, list of these or None, default=None
        Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite ids. None:
        tasks come from ``fit(..., task=)`` or from the columns of a 2-D ``y``, or there is one task only.
    n_clusters : int or "auto", default="auto"
        Number of groups, as far as there are as many tasks. "auto" takes the one, up to ``max_clusters``, with the
        largest mean silhouette, of those whose error on held-out rows is not clearly above the least: see Notes.
    pilot : estimator object, default=None
        What is fitted on the rows of each task to compare tasks; small and fast is good. None is boosting of 60 rounds.
    metric : {"auto", "root_mean_squared_error", "squared_error", "absolute_error"} or callable, default="auto"
        Error of a pilot on the rows of a task; "auto" is the root mean squared error, and "squared_error" as published.
        Or a function ``metric(y_true, y_pred)``, less is better, not below 0, which also takes ``sample_weight`` if
        weights are used.
    n_folds : int or None, default=5
        Folds of the rows: a pilot is judged on rows that it was not fitted on, those of its own task included. None
        judges it on the rows it was fitted on, as published, which makes every task most like itself.
    distance : {"correlation", "cosine", "euclidean", "sqeuclidean", "cityblock", "chebyshev", "braycurtis", \
"canberra"}, default="correlation"
        Distance between two tasks: between their rows of the similarity matrix. The second is the published one; the
        first is the same without what all models have in common on a task.
    linkage : {"average", "complete", "single", "weighted", "centroid", "median", "ward"}, default="average"
        How the distance of groups comes from that of tasks; the last three are meant for ``distance="euclidean"``.
    max_clusters : int, default=20
        Largest number of groups that "auto" tries.
    min_silhouette : float, default=0.5
        Mean silhouette below which "auto" puts all tasks into one group, unless that is clearly worse on held-out rows;
        -1 makes groups in any case, as published.
    max_pilot_rows : int or None, default=500
        Rows of each task, at most, on which tasks are compared.
    unseen_task : {"shared", "error"}, default="shared"
        What predict does with a task that fit did not see and `place_task` did not place: the mean of what the models
        of all groups say, weighted by their numbers of tasks, or an error.
    random_state : int, RandomState instance or None, default=None
        Seeds the folds and every ``random_state`` in estimator and pilot; with None the folds differ from fit to fit
        and the others are left as they are.
    n_jobs : int or None, default=None
        Models fitted side by side, as joblib has it: None is 1, -1 all processors.

    Attributes
    ----------
    task_labels_ : ndarray of shape (n_tasks,)
        Group of each task in ``tasks_``; 0 is the group of the most tasks.
    n_clusters_ : int
        Number of groups.
    estimators_ : list of estimator objects
        The fitted model of each group.
    cross_error_ : ndarray of shape (n_tasks, n_tasks)
        Error, on the rows of the task of a row, of the pilot of the task of a column; NaN with one task.
    task_similarity_ : ndarray of shape (n_tasks, n_tasks)
        One over the error.
    task_distance_ : ndarray of shape (n_tasks, n_tasks)
        Distance between tasks.
    linkage_ : ndarray of shape (n_tasks - 1, 4)
        The tree of groups, as `scipy.cluster.hierarchy.dendrogram` takes it.
    silhouette_scores_ : dict
        Number of groups -> mean silhouette.
    group_errors_ : dict
        Number of groups -> error on held-out rows of the mean of the pilots of a task's group, over that of all numbers
        tried, mean over tasks. Empty with a given number or ``n_folds=None``.
    placed_tasks_ : dict
        Task -> group, of those that `place_task` has placed.
    tasks_ : ndarray of shape (n_tasks,)
        Task labels, sorted; the columns of a 2-D ``y`` in their order.
    n_tasks_, n_features_in_ : int
        Tasks; columns of ``X``, the task column included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where ``X`` has string column names.

    Notes
    -----
    A silhouette has no scale, so that it overlooks groups that resemble each other where others are far away, and sees
    none where no two tasks are alike. "auto" therefore also asks what groups are worth: how wrong the mean of the
    pilots of a task's group is on rows of that task that none of them was fitted on. Numbers of groups by which tasks
    are worse off than by the best number, in a paired t test at 5 %, are not taken.

    ``TaskClusterRegressor(**TaskClusterRegressor.paper_parameters())`` compares tasks as published. There, own errors
    on training rows are so small that the similarity of a task with itself hides which others it is like, and small
    groups are overlooked more often.

    See Also
    --------
    RMTGBRegressor : Its ``sharing="groups"`` has groups of tasks within one model.
    PerTaskRegressor : One model per task.
    PooledRegressor : One model of all tasks.

    References
    ----------
    .. [1] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato, on clustering tasks (RMB-CLE). 2026, arXiv:2602.14231.

    Examples
    --------
    >>> from sklearn.ensemble import ExtraTreesRegressor
    >>> from mttab import TaskClusterRegressor
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(100, group_sizes=(3, 2), random_state=0)
    >>> model = TaskClusterRegressor(ExtraTreesRegressor(20), task_column="task", random_state=0).fit(X, y)
    >>> model.task_labels_
    array([0, 0, 0, 1, 1])
    >>> from scipy.cluster.hierarchy import dendrogram
    >>> dendrogram(model.linkage_, labels=model.tasks_.tolist(), no_plot=True)["ivl"]
    [3, 4, 2, 0, 1]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_TaskCluster._parameter_constraints,
        "metric": [StrOptions(set(REGRESSION_METRICS)), callable],
    }
    _published_metric = "squared_error"


class TaskClusterClassifier(_TaskCluster, TaskWrapperClassifier):
    """A classifier per group of tasks, where groups are tasks whose models serve each other (RMB-CLE).

    A small model is fitted on the rows of each task and judged on those of all others [1]_; every group of tasks that
    are alike gets one model.

    Parameters
    ----------
    estimator : estimator object, default=None
        Any classifier of scikit-learn's kind, which is handed the classes as they are; None is `RMTGBClassifier`.
    metric : {"auto", "brier", "log_loss", "zero_one"} or callable, default="auto"
        Error of a pilot on the rows of a task; "auto" is the Brier score, and "zero_one" as published: the share of
        wrong classes, for pilots that have no probabilities. Or a function ``metric(y_true, y_pred)`` of classes, less
        is better, not below 0, which also takes ``sample_weight`` if weights are used.
    task_column, n_clusters, pilot, n_folds, distance, linkage, max_clusters, min_silhouette, max_pilot_rows, \
unseen_task, random_state, n_jobs
        See `TaskClusterRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; columns of a 2-D ``y`` share them.
    task_labels_, n_clusters_, estimators_, cross_error_, task_similarity_, task_distance_, linkage_, \
silhouette_scores_, group_errors_, placed_tasks_, tasks_, n_tasks_, n_features_in_, feature_names_in_
        See `TaskClusterRegressor`.

    References
    ----------
    .. [1] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato, on clustering tasks (RMB-CLE). 2026, arXiv:2602.14231.

    Examples
    --------
    >>> from sklearn.ensemble import ExtraTreesClassifier
    >>> from mttab import TaskClusterClassifier
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(100, group_sizes=(3, 2), task_type="binary", random_state=0)
    >>> model = TaskClusterClassifier(ExtraTreesClassifier(20), task_column="task", random_state=0).fit(X, y)
    >>> model.task_labels_
    array([0, 0, 0, 1, 1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_TaskCluster._parameter_constraints,
        "metric": [StrOptions(set(CLASSIFICATION_METRICS)), callable],
    }
    _published_metric = "zero_one"
