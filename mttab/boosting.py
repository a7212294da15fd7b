"""R-MTGB estimators: robust multi-task gradient boosting for regression and classification."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.metaestimators import available_if

from mttab._boosting_base import BaseRMTGB
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES, Loss
from mttab._core.long_table import LongTable, TargetScaling, values_by_label
from mttab._core.other_tasks import refuse_every_task
from mttab._core.targets import check_target_classification, check_target_regression
from mttab._core.tasks import TaskLabels
from mttab._core.validation import Interval, StrOptions, fit_context


class RMTGBRegressor(RegressorMixin, BaseRMTGB):
    """Robust multi-task gradient boosting for regression.

    Histogram gradient boosting in three blocks [1]_: trees shared by all tasks, then a tree for each of two or more
    groups of tasks, between which every task finds its own mixture (so that a few odd tasks do not spoil the rest, and
    are found), then trees per task. The score of a row x of task t is

        F_t(x) = b + F_shared(x) + w_t1 F_1(x) + ... + w_tK F_K(x) + F_task,t(x),    w_t1 + ... + w_tK = 1

    By default a fit finds out by itself what tasks share, and so which of the blocks have trees (see ``sharing``).

    Parameters
    ----------
    task_column : str, int, list of these or None, default=None
        Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite ids. It is
        taken out before the features are read but counts in ``n_features_in_``. None: tasks come from
        ``fit(..., task=)`` or from the columns of a 2-D ``y``, or there is one task only.
    sharing : {"auto", "blocks", "pooled", "category", "groups", "separate"}, default="auto"
        What tasks share. Every way but "separate" may end with trees per task.

        - "pooled": shared trees, which do not know the task;
        - "category": shared trees, which may split on the task as well;
        - "groups": trees for each group of tasks, which may split on the task as well; groups are tasks whose small
          models serve each other's rows [2]_;
        - "separate": trees per task alone;
        - "blocks": all three blocks one after the other, as in [1]_;
        - "auto": short fits of the first four on folds of the training rows decide, with "category" where none is
          clearly better. "groups" takes part where groups are found, "separate" where tasks do not agree, see Notes.
          Where they leave open whether "pooled" or "category", models that are averaged are of both kinds.
          The same as "blocks" where there are no validation rows, in paper mode, or where ``max_iter_...=0``,
          ``theta_init`` or the task column in ``categorical_features`` say already what is wanted.
    n_task_groups : int or "auto", default="auto"
        Number of groups of tasks, at least 2. "auto": as many as there seem to be for "groups" (two if there seem to be
        none), two for "blocks". More than two with "blocks", and "groups" with any number, are for at most 300 tasks.
        No effect with "pooled", "category" and "separate".
    loss : {"squared_error", "absolute_error", "huber", "quantile", "poisson"}, default="squared_error"
        What is minimised. "poisson" has a log link and needs ``y >= 0``.
    quantile : float, default=0.5
        Quantile, between 0 and 1, that ``loss="quantile"`` estimates.
    huber_delta : float, default=1.0
        Error beyond which ``loss="huber"`` is linear, in the unit of ``y``: choose it for your data (or in units of the
        task's standard deviation, with ``target_scaling="task"``). Far below the typical error, leaves move by at most
        ``huber_delta`` and learning is slow.
    learning_rate : float or "auto", default="auto"
        Factor on the values of every tree. "auto" is 0.15 where the fit is the mean of several models, see
        ``n_averaged``, which makes up for larger steps, else 0.1.
    max_iter_shared, max_iter_partition, max_iter_task : int or "auto", default="auto"
        Largest number of rounds of each block, 0 leaves it out. A round is one tree, a tree per group, and one tree per
        task. With one task, blocks 2 and 3 are skipped. "auto" is 1000 where validation rows end a block, else 200.
    linear_start : bool or "auto", default="auto"
        Whether the first shared round is a straight line instead of a tree: a ridge regression on the numeric features
        of at least three values, at most 256 of them, written as one tree per feature with a leaf per bin, so that
        `staged_predict`, SHAP values and exports hold as ever. Its penalty is chosen by generalised cross-validation
        [3]_. "auto" takes it where short fits on folds of the training rows say that it helps; without validation rows
        and in paper mode it does not. A warm start goes on from what the first fit has begun with.
    grow_policy : {"symmetric", "leafwise"}, default="symmetric"
        How shared and partition trees grow. "symmetric": level by level, every node of a level split at the same place
        of the same feature, as CatBoost does it; "leafwise": the leaf with the largest gain first, as LightGBM does it.
        Trees of tasks grow leaf by leaf.
    max_leaf_nodes : int, default=64
        Largest number of leaves of a shared or partition tree. A symmetric one has as many levels as that allows: six
        for 64 to 127.
    max_leaf_nodes_task : int or None, default=8
        The same for task trees; None takes ``max_leaf_nodes``.
    max_depth : int or None, default=None
        Largest number of edges from root to leaf.
    min_samples_leaf : float, default=5
        Smallest sum of sample weights in a leaf of a shared or partition tree, the rows' mixing weights included. A
        node of a symmetric tree that would get smaller children from its level's cut is not split by it.
    min_samples_leaf_task : float or None, default=5
        The same for task trees; None takes ``min_samples_leaf``.
    l2_regularization : float, default=3.0
        Added to the sum of second derivatives in a leaf.
    max_features : float, default=1.0
        Share of the features tried at each node, of a symmetric tree on each level, drawn at random.
    subsample : float or "auto", default="auto"
        Share of the rows that each round is fitted on. Which ones is decided by a random hash of what is in a row, so
        equal rows are in or out together, and neither the order of rows nor the names of tasks matter. "auto" is 0.8
        with validation rows and at least 100 different training rows, else 1.
    max_bins : int or "auto", default="auto"
        Bins per numeric feature, at most 255; missing values have one of their own. "auto" with validation rows is the
        square root of the number of training rows, at least 64, else 255; and trees of a task of at most 1023 rows (255
        with more than 1004 numeric features) see the bins in at most 64 groups, 16 up to 255 rows, with about as many
        of its rows each. With a number all trees see all bins, and with monotonic constraints, leaves of several
        outputs or weights that differ by more than a factor of 64.
    categorical_features : "from_dtype", None or array-like, default="from_dtype"
        Features split by sets of levels: pandas categories, strings and objects; or a mask, names or positions over the
        columns of ``X``. Naming the task column here lets shared and partition trees split on the task; its levels are
        never merged, those of other columns beyond the 253 most frequent share one bin.
    monotonic_cst : array-like of {-1, 0, 1}, dict or None, default=None
        Per column of ``X``, or by name: predictions must not rise (-1) or fall (1) with it.
    target_scaling : {"task"} or None, default=None
        "task" standardises the target of every task inside fit, so that tasks in different units can share (without it
        the task with the largest numbers drowns the others); predictions are in the unit of ``y``. Has no effect with
        ``loss="poisson"``.
    algorithm : {"newton", "paper"}, default="newton"
        "paper" is the published first-order algorithm, see Notes.
    theta_init : {"data", "normal"}, array-like or dict, default="data"
        Where the mixing parameters θ start with ``sharing="blocks"`` and two groups: from how far a task's own
        correction of the shared block improves it on rows that the correction has not seen, from N(0, 0.1²) draws, or
        from one value per task.
    theta_learning_rate : float, default=1.0
        Step size of θ.
    theta_penalty : float, default=0.001
        Strength of the pull of θ to ``theta_center``, or to its start where groups were found; no effect in paper mode.
    theta_center : float, default=-2.0
        Negative: tasks are inliers until shown otherwise.
    task_weight : {"balanced"}, dict or None, default=None
        Factor on the weight of each task's rows; "balanced" gives every task the same total.
    unseen_task : {"shared", "error"}, default="shared"
        What predict does with a task that fit did not see: base, shared block and the partition block at the mean
        mixture, or an error.
    early_stopping : bool or "auto", default="auto"
        Whether a block ends when the loss on validation rows has not improved for ``n_iter_no_change`` rounds; it then
        goes back to its best round. "auto" does so from 200 rows on, or where validation rows are given.
    validation : splitter, list of (train, test) positions or None, default=None
        Chooses the validation rows by its last split, where there is early stopping. A splitter that wants groups is
        given the task ids: whole tasks are then held out. For other groups pass ``list(splitter.split(X, y, groups))``.
        Where the rows, sorted by time, are to predict later ones, pass ``TimeSeriesSplit()``: of rows drawn at random,
        those that stand close to training rows in time hide that a model has learned the past by heart. The model is
        then one, see ``n_averaged``, and what "auto" options compare is still judged on rows drawn at random.
    validation_fraction : float or None, default=0.15
        Otherwise, share of the rows of every task held out for validation. None watches the training loss.
    n_iter_no_change : int, default=15
        Patience of early stopping, in rounds.
    tol : float, default=1e-7
        Smallest decrease of the loss that counts as one.
    refit : bool, default=True
        Whether, after rows of the training data were held out for validation, the model is fitted once more on all
        rows, with the sharing and the numbers of rounds found. Not with ``X_val``, whose rows are no training rows, not
        with ``warm_start=True``, and not where several models are averaged, which see all rows together.
    n_averaged : int or "auto", default="auto"
        Number of models whose mean the fitted forest is. Each holds out another ``validation_fraction`` of the rows to
        stop on; they have bins and base score in common, and ``sharing`` unless there is an `other_sharing_`. Only
        where rows are drawn to stop on: not with ``X_val``, ``validation``, ``validation_fraction=None``,
        ``early_stopping=False`` or ``warm_start=True``. "auto" is 5 up to 20,000 rows, and 1 beyond, with
        ``refit=False``, ``theta_init="normal"`` or in paper mode.
    warm_start : bool, default=False
        Whether fit adds rounds, up to the new ``max_iter_...``, to the blocks that the model it finds has.
    random_state : int, RandomState instance or None, default=None
        Seeds the validation rows, the rows that ``sharing="auto"`` judges on, ``subsample``, ``max_features``, bin
        edges above 200,000 rows and ``theta_init="normal"``.
    n_jobs : int or None, default=None
        Threads; None and -1 use all. The model does not depend on it. Models that are averaged are fitted side by side,
        a thread each, unless callbacks, ``verbose`` or a logger of level DEBUG follow the rounds.
    verbose : int, default=0
        1 gives a line every ten rounds, 2 every round, to the logger "mttab" of the standard library; it is seen on
        standard error unless logging is set up otherwise. For a progress bar, with scikit-learn 1.9 or newer, pass
        ``sklearn.callback.ProgressBar()`` to ``set_callbacks``, of this estimator or of a search around it.

    Attributes
    ----------
    tasks_ : ndarray of shape (n_tasks,)
        Task labels, sorted, then those of `add_task`; the columns of a 2-D ``y`` in their order.
    sharing_ : str
        What tasks share: ``sharing``, or what "auto" has come to; "pooled" where there is one task.
    other_sharing_ : str or None
        What every second one of the averaged models shares instead: "category" beside "pooled" ones, where "auto"
        leaves open which is better. None where all are alike.
    linear_start_ : bool
        Whether the first shared round is a straight line.
    task_group_ : ndarray of shape (n_tasks,)
        Group with the largest weight in each task's score; 0 is the group of the most tasks.
    outlier_score_ : ndarray of shape (n_tasks,)
        1 - w_t1 between 0 and 1, higher = more of an outlier. Where there are no groups (one task; or no partition
        block and no ``n_task_groups``) nothing is estimated and all are the sigmoid of ``theta_center``.
    theta_ : ndarray of shape (n_tasks,) or (n_tasks, n_groups)
        Log-odds of the second of two groups; of more, numbers whose softmax the weights are.
    n_iter_ : dict
        Rounds kept in each block, "shared", "partition" and "task". With ``n_averaged``, those of the model that has
        most: a round has a tree of every model that goes on so long.
    train_score_, validation_score_ : ndarray
        Minus the mean loss before the first round and after each one, block after block; the
        second is empty without validation rows, and of the fit before the last with ``refit``. With ``n_averaged``, the
        mean over the models, each on its own rows; one that has ended counts with its last loss. Losses are ½ (y − F)²,
        ½ |y − F| for "absolute_error", half the deviance for "poisson".
    feature_importances_ : ndarray of shape (n_features_in_,)
        Gain of each column, summing to 1.
    task_feature_importances_ : ndarray of shape (n_tasks, n_features_in_)
        The same for the trees that act for each task; `feature_importance` has them per block, and counts splits.
    task_similarity_ : ndarray of shape (n_tasks, n_tasks)
        Which tasks help which: the correlation, −1 to 1, of a small model of the task of a column with the labels of
        the task of a row. There where fit compares the tasks: with "groups", where "auto" tries the ways of sharing,
        and with more than two groups.
    n_tasks_, n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where ``X`` has string column names.

    Notes
    -----
    The default departs from [1]_ in its Newton form, weighted branches, normalised θ steps and data-driven θ start, and
    in leaving out blocks. ``RMTGBRegressor(**RMTGBRegressor.paper_parameters())`` is the published algorithm to the
    letter.

    "auto" compares tasks by a small model of each: the agreement of two tasks is the correlation of one's model with
    the other's labels. Average linkage on 1 - agreement makes groups if their mean silhouette is above 0.3 and
    different groups agree less than 0.7 times as much as members of one; tasks are tried "separate" if their mean
    agreement is below 0.1. The short fits are on two thirds of (at most 10,000) training rows and judged on the other
    third, each third in turn below 4000 rows, unless one is behind the best by 2 standard errors on the first third (a
    line: ahead or behind by as much), if that has 20 rows. They are chosen before "category" if better by 1.64
    ("groups" and "separate", which have that evidence already, by 1), end with trees per task if these are better than
    none by 1.25, and start from a straight line if that is better than none by 0.5. Where "pooled" is better than
    "category" by less than 1.64, or by more but with trees per task, every second one of averaged models is "category"
    and the others are "pooled". The folds are random ones whatever ``validation`` says.

    References
    ----------
    .. [1] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato. "Robust Multi-Task Gradient Boosting". 2025,
       arXiv:2507.11411.
    .. [2] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato, on clustering tasks (RMB-CLE). 2026, arXiv:2602.14231.
    .. [3] G. Golub, M. Heath, G. Wahba. "Generalized cross-validation as a method for choosing a good ridge
       parameter". Technometrics 21(2), 1979.

    Examples
    --------
    >>> from mttab import RMTGBRegressor
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(n_samples=200, group_sizes=(8, 2), random_state=0)
    >>> model = RMTGBRegressor(task_column="task", random_state=0).fit(X, y)
    >>> model.predict(X).shape
    (2000,)
    >>> int((model.outlier_score_ > 0.5).sum())
    2
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseRMTGB._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION_LOSSES))],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "target_scaling": [StrOptions({"task"}), None],
    }

    def __init__(
        self,
        *,
        task_column: Any = None,
        loss: str = "squared_error",
        quantile: float = 0.5,
        huber_delta: float = 1.0,
        sharing: str = "auto",
        n_task_groups: int | str = "auto",
        learning_rate: float | str = "auto",
        max_iter_shared: int | str = "auto",
        max_iter_partition: int | str = "auto",
        max_iter_task: int | str = "auto",
        linear_start: bool | str = "auto",
        grow_policy: str = "symmetric",
        max_leaf_nodes: int = 64,
        max_leaf_nodes_task: int | None = 8,
        max_depth: int | None = None,
        min_samples_leaf: float = 5,
        min_samples_leaf_task: float | None = 5,
        l2_regularization: float = 3.0,
        max_features: float = 1.0,
        subsample: float | str = "auto",
        max_bins: int | str = "auto",
        categorical_features: Any = "from_dtype",
        monotonic_cst: Any = None,
        target_scaling: str | None = None,
        algorithm: str = "newton",
        theta_init: Any = "data",
        theta_learning_rate: float = 1.0,
        theta_penalty: float = 0.001,
        theta_center: float = -2.0,
        task_weight: Any = None,
        unseen_task: str = "shared",
        early_stopping: bool | str = "auto",
        validation: Any = None,
        validation_fraction: float | None = 0.15,
        n_iter_no_change: int = 15,
        tol: float = 1e-7,
        refit: bool = True,
        n_averaged: int | str = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ):
        self.task_column = task_column
        self.loss = loss
        self.quantile = quantile
        self.huber_delta = huber_delta
        self.sharing = sharing
        self.n_task_groups = n_task_groups
        self.learning_rate = learning_rate
        self.max_iter_shared = max_iter_shared
        self.max_iter_partition = max_iter_partition
        self.max_iter_task = max_iter_task
        self.linear_start = linear_start
        self.grow_policy = grow_policy
        self.max_leaf_nodes = max_leaf_nodes
        self.max_leaf_nodes_task = max_leaf_nodes_task
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.min_samples_leaf_task = min_samples_leaf_task
        self.l2_regularization = l2_regularization
        self.max_features = max_features
        self.subsample = subsample
        self.max_bins = max_bins
        self.categorical_features = categorical_features
        self.monotonic_cst = monotonic_cst
        self.target_scaling = target_scaling
        self.algorithm = algorithm
        self.theta_init = theta_init
        self.theta_learning_rate = theta_learning_rate
        self.theta_penalty = theta_penalty
        self.theta_center = theta_center
        self.task_weight = task_weight
        self.unseen_task = unseen_task
        self.early_stopping = early_stopping
        self.validation = validation
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.refit = refit
        self.n_averaged = n_averaged
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @staticmethod
    def paper_parameters() -> dict[str, Any]:
        """Parameters that give the algorithm of the paper: stumps, first order, random θ, no early stopping.

        Examples
        --------
        >>> from mttab import RMTGBRegressor
        >>> RMTGBRegressor(**RMTGBRegressor.paper_parameters(), max_iter_shared=50).max_leaf_nodes
        2
        """
        return dict(_PAPER_PARAMETERS)

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        task: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        task_val: Any = None,
        sample_weight_val: Any = None,
    ) -> RMTGBRegressor:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n, n_features), path, numpy.memmap or iterator
            Features, with the task column if ``task_column`` names one. NaN is missing; pandas categories and strings
            are categorical. Frames of polars and pyarrow are read as pandas reads them. What does not fit into memory
            may be the path of a Parquet or Arrow file (or a folder of them), a memory-mapped array, or an iterator of
            (X, y) or (X, y, sample_weight) chunks: it is read a piece at a time and kept as one byte per cell.
        y : array-like of shape (n,) or (n, n_tasks), str or None
            Targets. With several columns every column is a task and NaN means not observed. Where ``X`` is a path, the
            name of the column; None where it is an iterator.
        sample_weight : array-like of shape (n,) or str, default=None
            Weight of each row; 0 = the row is absent, 2 = it is there twice. Where ``X`` is a path, the name of the
            column. From 2048 rows on, splits of a table without weights are looked for with derivatives rounded to less
            than 1/8000 of the largest; of two splits that are about as good it may then take the other one.
        task : array-like of shape (n,) or (n, n_id_columns), default=None
            Task ids, where they are not a column of ``X``.
        X_val, y_val, task_val, sample_weight_val : array-like, default=None
            Validation rows for early stopping, in place of ``validation`` and ``validation_fraction``.

        Returns
        -------
        RMTGBRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If an argument breaks its rule; the message names it and the remedy. An earlier fit stays usable.
        """
        explicit = {"X_val": X_val, "y_val": y_val, "task_val": task_val, "sample_weight_val": sample_weight_val}
        self._fit(X, y, sample_weight, task, explicit)
        return self

    def predict(self, X: Any, task: Any = None) -> np.ndarray:
        """Predicted targets.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            As in fit.
        task : array-like of shape (n,) or "all", default=None
            Task of each row, for a model fitted with ``task=``. "all", for models with row tasks: every row as a row of
            every task; the task column of ``X`` then has no say and may be left out. (Rows of a task that is called
            "all" are asked for by one id per row.)

        Returns
        -------
        ndarray of shape (n,) or (n, n_tasks)
            With one column per task, in the order of ``tasks_``, where ``y`` had several columns or ``task="all"``.
        """
        score, _ = self._score(X, task)
        return self._layout(self._fitted.loss.link_inverse(score)[:, 0], task)

    def staged_predict(self, X: Any, task: Any = None) -> Iterator[np.ndarray]:
        """Yield the predictions after each round: shared rounds first, then partition and task rounds.

        θ is the final one throughout. Parameters as in `predict`.

        Yields
        ------
        ndarray of shape (n,) or (n, n_tasks)
        """
        for score in self._staged_scores(X, task):
            yield self._layout(self._fitted.loss.link_inverse(score)[:, 0], task)

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
        refuse_every_task(task, "score")
        return _mean_over_columns(r2_score, check_target_regression(y), self.predict(X, task=task), sample_weight)

    def _read_target(self, y: Any) -> tuple[np.ndarray, None]:
        return check_target_regression(y, loss=self.loss), None

    def _read_piece_target(self, y: Any) -> tuple[np.ndarray, None]:
        values = check_target_regression(y)
        if self.loss == "poisson" and values.min(initial=0.0) < 0:
            check_target_regression(y, loss="poisson")  # says what is wrong; that all are 0 may be so in a piece
        return values, None

    def _encode_target(self, y: Any, classes: None, *, name: str) -> np.ndarray:
        return check_target_regression(y, loss=self.loss, name=name)

    def _encode_new_target(self, y: Any) -> np.ndarray:
        values = check_target_regression(y, multi_output=False)
        if self.loss == "poisson" and (values < 0).any():
            raise ValueError(f"loss='poisson' needs y >= 0, but y holds {values.min():g}; pass counts.")
        return values

    def _make_loss(self, classes: np.ndarray | None) -> Loss:
        return REGRESSION_LOSSES[self.loss](self.quantile, self.huber_delta)

    def _fit_scaling(self, long: LongTable, labels: TaskLabels, loss: Loss) -> TargetScaling:
        if self.target_scaling is None or not loss.supports_target_scaling:
            return TargetScaling.identity(labels.n_tasks)
        return TargetScaling.standard(long.y, long.encode_tasks(labels), long.weight, labels.n_tasks)


def _is_single_target(estimator: Any) -> bool:
    if getattr(estimator, "_task_source", None) == "targets":
        raise AttributeError(
            "decision_function is defined for one target; this classifier was fitted with a 2-D y, use predict_proba."
        )
    return True


class RMTGBClassifier(ClassifierMixin, BaseRMTGB):
    """Robust multi-task gradient boosting for classification.

    Histogram gradient boosting in three blocks [1]_: trees shared by all tasks, then a tree for each of two or more
    groups of tasks, between which every task finds its own mixture (so that a few odd tasks do not spoil the rest, and
    are found), then trees per task. By default a fit finds out by itself what tasks share.

    Parameters
    ----------
    task_column : str, int, list of these or None, default=None
        Column of ``X`` that says which task a row belongs to, see `RMTGBRegressor`.
    loss : {"log_loss", "multinomial"}, default="log_loss"
        "log_loss" has one score for two classes, the log-odds, and one per class for more; "multinomial" always has one
        per class.
    multi_strategy : {"one_output_per_tree", "multi_output_tree"}, default="one_output_per_tree"
        Where there is a score per class: one tree per class in every round, or one tree with a value per class in each
        leaf.
    class_weight : {"balanced"}, dict or None, default=None
        Factor on the weight of each class's rows; "balanced" gives every class the same total.
    sharing, n_task_groups, learning_rate, max_iter_shared, max_iter_partition, max_iter_task, linear_start, \
grow_policy, max_leaf_nodes, max_leaf_nodes_task, max_depth, min_samples_leaf, min_samples_leaf_task, \
l2_regularization, max_features, subsample, max_bins, categorical_features, monotonic_cst, algorithm, theta_init, \
theta_learning_rate, theta_penalty, theta_center, task_weight, unseen_task, early_stopping, validation, \
validation_fraction, n_iter_no_change, tol, refit, n_averaged, warm_start, random_state, n_jobs, verbose
        See `RMTGBRegressor`. Validation rows are stratified by task and class; ``monotonic_cst`` is for two classes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; columns of a 2-D ``y`` share them.
    tasks_, sharing_, other_sharing_, linear_start_, task_group_, outlier_score_, theta_, n_iter_, train_score_, \
validation_score_, feature_importances_, task_feature_importances_, task_similarity_, n_tasks_, n_features_in_, \
feature_names_in_
        See `RMTGBRegressor`.

    References
    ----------
    .. [1] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato. "Robust Multi-Task Gradient Boosting". 2025,
       arXiv:2507.11411.

    Examples
    --------
    >>> from mttab import RMTGBClassifier
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(n_samples=200, task_type="binary", random_state=0)
    >>> model = RMTGBClassifier(task_column="task", random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape
    (2000, 2)
    """

    __metadata_request__predict_proba: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__decision_function: ClassVar[dict[str, Any]] = {"task": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseRMTGB._parameter_constraints,
        "loss": [StrOptions(set(CLASSIFICATION_LOSSES))],
        "multi_strategy": [StrOptions({"one_output_per_tree", "multi_output_tree"})],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    def __init__(
        self,
        *,
        task_column: Any = None,
        loss: str = "log_loss",
        multi_strategy: str = "one_output_per_tree",
        class_weight: Any = None,
        sharing: str = "auto",
        n_task_groups: int | str = "auto",
        learning_rate: float | str = "auto",
        max_iter_shared: int | str = "auto",
        max_iter_partition: int | str = "auto",
        max_iter_task: int | str = "auto",
        linear_start: bool | str = "auto",
        grow_policy: str = "symmetric",
        max_leaf_nodes: int = 64,
        max_leaf_nodes_task: int | None = 8,
        max_depth: int | None = None,
        min_samples_leaf: float = 5,
        min_samples_leaf_task: float | None = 5,
        l2_regularization: float = 3.0,
        max_features: float = 1.0,
        subsample: float | str = "auto",
        max_bins: int | str = "auto",
        categorical_features: Any = "from_dtype",
        monotonic_cst: Any = None,
        algorithm: str = "newton",
        theta_init: Any = "data",
        theta_learning_rate: float = 1.0,
        theta_penalty: float = 0.001,
        theta_center: float = -2.0,
        task_weight: Any = None,
        unseen_task: str = "shared",
        early_stopping: bool | str = "auto",
        validation: Any = None,
        validation_fraction: float | None = 0.15,
        n_iter_no_change: int = 15,
        tol: float = 1e-7,
        refit: bool = True,
        n_averaged: int | str = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ):
        self.task_column = task_column
        self.loss = loss
        self.multi_strategy = multi_strategy
        self.class_weight = class_weight
        self.sharing = sharing
        self.n_task_groups = n_task_groups
        self.learning_rate = learning_rate
        self.max_iter_shared = max_iter_shared
        self.max_iter_partition = max_iter_partition
        self.max_iter_task = max_iter_task
        self.linear_start = linear_start
        self.grow_policy = grow_policy
        self.max_leaf_nodes = max_leaf_nodes
        self.max_leaf_nodes_task = max_leaf_nodes_task
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.min_samples_leaf_task = min_samples_leaf_task
        self.l2_regularization = l2_regularization
        self.max_features = max_features
        self.subsample = subsample
        self.max_bins = max_bins
        self.categorical_features = categorical_features
        self.monotonic_cst = monotonic_cst
        self.algorithm = algorithm
        self.theta_init = theta_init
        self.theta_learning_rate = theta_learning_rate
        self.theta_penalty = theta_penalty
        self.theta_center = theta_center
        self.task_weight = task_weight
        self.unseen_task = unseen_task
        self.early_stopping = early_stopping
        self.validation = validation
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.refit = refit
        self.n_averaged = n_averaged
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @staticmethod
    def paper_parameters() -> dict[str, Any]:
        """Parameters that give the algorithm of the paper, see `RMTGBRegressor.paper_parameters`.

        For classes it has one softmax score per class, two classes included, and a value per class in every leaf.
        """
        return {**_PAPER_PARAMETERS, "loss": "multinomial", "multi_strategy": "multi_output_tree"}

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        task: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        task_val: Any = None,
        sample_weight_val: Any = None,
    ) -> RMTGBClassifier:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features, with the task column if ``task_column`` names one.
        y : array-like of shape (n,) or (n, n_tasks)
            Class labels. With several columns every column is a task, all share one set of classes, and None or NaN
            means not observed.
        sample_weight, task, X_val, y_val, task_val, sample_weight_val
            See `RMTGBRegressor.fit`.

        Returns
        -------
        RMTGBClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If an argument breaks its rule, or ``y`` holds one class only. An earlier fit stays usable.
        """
        explicit = {"X_val": X_val, "y_val": y_val, "task_val": task_val, "sample_weight_val": sample_weight_val}
        self._fit(X, y, sample_weight, task, explicit)
        return self

    def predict_proba(self, X: Any, task: Any = None) -> Any:
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            As in fit.
        task : array-like of shape (n,) or "all", default=None
            Task of each row, for a model fitted with ``task=``; "all" as in `RMTGBRegressor.predict`.

        Returns
        -------
        ndarray of shape (n, n_classes), or list of these
            Columns in the order of ``classes_``; a list, one per task, where ``y`` had several columns or
            ``task="all"``.
        """
        score, _ = self._score(X, task)
        proba = self._layout(self._fitted.loss.link_inverse(score), task)
        return proba if proba.ndim == 2 else list(proba.swapaxes(0, 1))

    def predict(self, X: Any, task: Any = None) -> np.ndarray:
        """Most probable classes, (n,) or (n, n_tasks). Parameters as in `predict_proba`."""
        score, _ = self._score(X, task)
        return self._layout(self._predicted_classes(score), task)

    @available_if(_is_single_target)
    def decision_function(self, X: Any, task: Any = None) -> np.ndarray:
        """Scores before the link: log-odds (n,) of the second of two classes, else (n, n_classes).

        Parameters as in `predict_proba`; with ``task="all"`` there is an axis of tasks after the first. Not available
        after a fit with a 2-D ``y``.
        """
        score, _ = self._score(X, task)
        if len(self.classes_) == 2:
            score = score[:, 0] if score.shape[1] == 1 else score[:, 1] - score[:, 0]
        return self._layout(score, task)

    def staged_predict(self, X: Any, task: Any = None) -> Iterator[np.ndarray]:
        """Yield the predicted classes after each round, see `RMTGBRegressor.staged_predict`."""
        for score in self._staged_scores(X, task):
            yield self._layout(self._predicted_classes(score), task)

    def staged_predict_proba(self, X: Any, task: Any = None) -> Iterator[Any]:
        """Yield the class probabilities after each round, shaped as in `predict_proba`."""
        for score in self._staged_scores(X, task):
            proba = self._layout(self._fitted.loss.link_inverse(score), task)
            yield proba if proba.ndim == 2 else list(proba.swapaxes(0, 1))

    def score(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None) -> float:
        """Accuracy; of several columns the mean over the columns, each on its observed rows.

        Parameters
        ----------
        X, task : see `predict_proba`
        y : array-like of shape (n,) or (n, n_tasks)
            True classes, None or NaN = not observed.
        sample_weight : array-like of shape (n,), default=None

        Returns
        -------
        float
        """
        refuse_every_task(task, "score")
        predicted = self.predict(X, task=task)
        if predicted.ndim == 1:
            return float(accuracy_score(y, predicted, sample_weight=sample_weight))
        classes, codes = check_target_classification(y)
        true = np.array([*classes.tolist(), None], dtype=object)[codes]
        is_right = np.where(codes < 0, np.nan, (true == predicted).astype(float))
        return _mean_over_columns(_weighted_mean, is_right, is_right, sample_weight)

    def _predicted_classes(self, score: np.ndarray) -> np.ndarray:
        return self.classes_[np.argmax(self._fitted.loss.link_inverse(score), axis=1)]

    def _read_target(self, y: Any) -> tuple[np.ndarray, np.ndarray]:
        classes, codes = check_target_classification(y)
        return np.where(codes < 0, np.nan, codes.astype(np.float64)), classes

    def _encode_target(self, y: Any, classes: np.ndarray, *, name: str) -> np.ndarray:
        own, codes = check_target_classification(y, name=name)
        index = {label: i for i, label in enumerate(classes.tolist())}
        unknown = [label for label in own.tolist() if label not in index]
        if unknown:
            raise ValueError(
                f"{name} holds the class {unknown[0]!r}, which y does not have; its classes are {classes.tolist()}."
            )
        return np.append([float(index[label]) for label in own.tolist()], np.nan)[codes]

    def _encode_new_target(self, y: Any) -> np.ndarray:
        seen, codes = check_target_classification(y, multi_output=False)
        index = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in seen.tolist() if label not in index]
        if unknown:
            raise ValueError(
                f"y holds the class {unknown[0]!r}, which fit did not see: its classes are {self.classes_.tolist()}; "
                "leave these rows out, or refit on all rows."
            )
        return np.array([float(index[label]) for label in seen.tolist()])[codes]

    def _make_loss(self, classes: np.ndarray | None) -> Loss:
        assert classes is not None
        return CLASSIFICATION_LOSSES[self.loss](len(classes))

    def _class_factors(self, long: LongTable, classes: np.ndarray | None) -> np.ndarray | None:
        if self.class_weight is None or classes is None:
            return None
        if isinstance(self.class_weight, str):
            mass = np.bincount(long.y.astype(np.int64), weights=long.weight, minlength=len(classes))
            return mass.sum() / (len(classes) * np.maximum(mass, 1e-300))
        factors = values_by_label(self.class_weight, "class_weight", "class", classes.tolist(), 1.0)
        if not np.all(factors >= 0) or not factors.any():
            raise ValueError(
                f"class_weight holds {factors.min():g}, but weights must not be negative and not all of them 0."
            )
        return factors


_PAPER_PARAMETERS = {
    "algorithm": "paper",
    "theta_init": "normal",
    "theta_learning_rate": 0.1,
    "learning_rate": 0.1,
    "grow_policy": "leafwise",
    "max_leaf_nodes": 2,
    "max_leaf_nodes_task": 2,
    "min_samples_leaf": 1,
    "min_samples_leaf_task": 1,
    "l2_regularization": 0.0,
    "early_stopping": False,
}


def _weighted_mean(values: np.ndarray, _: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
    return float(np.average(values, weights=sample_weight))


def _mean_over_columns(metric: Any, y: np.ndarray, predicted: np.ndarray, sample_weight: Any) -> float:
    """Mean of a metric over the columns, each on the rows where ``y`` is not NaN."""
    if y.ndim == 1:
        return float(metric(y, predicted, sample_weight=sample_weight))
    weight = None if sample_weight is None else np.asarray(sample_weight)
    figures = []
    for t in range(y.shape[1]):
        seen = ~np.isnan(y[:, t])
        figures.append(metric(y[seen, t], predicted[seen, t], sample_weight=None if weight is None else weight[seen]))
    return float(np.mean(figures))
