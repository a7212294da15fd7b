"""What both R-MTGB estimators share: their options, fit as a whole, and the fitted attributes."""

from __future__ import annotations

from copy import copy
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from mttab._boosting_adapt import TaskAdaptation
from mttab._boosting_explain import Explaining
from mttab._boosting_fit import FitSteps, Fitted
from mttab._boosting_predict import Predicting
from mttab._boosting_rows import training_rows, validation_rows
from mttab._boosting_sources import fit_source
from mttab._callbacks import CallbackSupport, FitHooks
from mttab._core.boosting.averaging import boost_averaged
from mttab._core.boosting.forest import BLOCKS, PARTITION, SHARED, TASK, Forest, ForestBuilder
from mttab._core.boosting.growing import Grower
from mttab._core.boosting.importance import gain_importances, normalised
from mttab._core.boosting.losses import Loss
from mttab._core.boosting.rmtgb import BoostedModel, boost
from mttab._core.boosting.rows import Scores, TrainingRows, ValidationRows
from mttab._core.boosting.sharing import STRUCTURES, Race
from mttab._core.boosting.threads import fit_region, resolve_n_threads
from mttab._core.holdout import stops_early
from mttab._core.long_table import Inputs, LongTable, training_tasks
from mttab._core.progress import messages_shown, tell
from mttab._core.records import require
from mttab._core.sources import find_source
from mttab._core.tasks import TaskLabels
from mttab._core.validation import HasMethods, Interval, StrOptions
from mttab.persistence import Saving


class BaseRMTGB(Predicting, Explaining, Saving, CallbackSupport, FitSteps, TaskAdaptation, BaseEstimator):
    """Robust multi-task gradient boosting without a target: the parts that do not care what y is."""

    # `task` is routed by default wherever scikit-learn routes metadata; the other arguments ask for it as usual.
    __metadata_request__fit: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__predict: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"task": True}

    _unsaid_parameters: ClassVar[dict[str, Any]] = {"grow_policy": "leafwise", "linear_start": False}
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "task_column": [None, str, Integral, list, tuple],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "sharing": [StrOptions({"auto", "blocks", *STRUCTURES})],
        "n_task_groups": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "max_iter_shared": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "max_iter_partition": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "max_iter_task": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "grow_policy": [StrOptions({"symmetric", "leafwise"})],
        "max_leaf_nodes": [Interval(Integral, 2, None, closed="left")],
        "max_leaf_nodes_task": [Interval(Integral, 2, None, closed="left"), None],
        "linear_start": [StrOptions({"auto"}), "boolean"],
        "max_depth": [Interval(Integral, 1, None, closed="left"), None],
        "min_samples_leaf": [Interval(Real, 1, None, closed="left")],
        "min_samples_leaf_task": [Interval(Real, 1, None, closed="left"), None],
        "l2_regularization": [Interval(Real, 0, None, closed="left")],
        "max_features": [Interval(Real, 0, 1, closed="right")],
        "subsample": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right")],
        "max_bins": [StrOptions({"auto"}), Interval(Integral, 2, 255, closed="both")],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "monotonic_cst": ["array-like", dict, None],
        "algorithm": [StrOptions({"newton", "paper"})],
        "theta_init": [StrOptions({"data", "normal"}), dict, "array-like"],
        "theta_learning_rate": [Interval(Real, 0, None, closed="left")],
        "theta_penalty": [Interval(Real, 0, None, closed="left")],
        "theta_center": [Interval(Real, None, 0, closed="neither")],
        "task_weight": [StrOptions({"balanced"}), dict, None],
        "unseen_task": [StrOptions({"shared", "error"})],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation": [None, HasMethods(["split"]), "array-like", list, tuple],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "refit": ["boolean"],
        "n_averaged": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    # What predict reads, set at the end of fit.
    _fitted: Fitted
    _task_source: str | None
    _fitted_task_column: Any
    _fitted_target_scaling: str | None
    _fitted_sharing: tuple[str, int | str]
    _seed: int
    tasks_: np.ndarray
    n_tasks_: int
    sharing_: str
    theta_: np.ndarray
    task_group_: np.ndarray
    outlier_score_: np.ndarray
    n_iter_: dict[str, int]
    train_score_: np.ndarray
    validation_score_: np.ndarray
    feature_importances_: np.ndarray
    task_feature_importances_: np.ndarray
    n_features_in_: int
    feature_names_in_: np.ndarray

    @property
    def linear_start_(self) -> bool:
        """Whether the first shared round is a straight line."""
        check_is_fitted(self)
        return self._fitted.sharing.has_line and self.n_iter_["shared"] > 0

    @property
    def other_sharing_(self) -> str | None:
        """What every second one of the averaged models shares instead of ``sharing_``; None where all are alike."""
        check_is_fitted(self)
        other = self._fitted.sharing.other
        return None if other is None else other.name

    # --- fit -------------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, task: Any, explicit: dict[str, Any]) -> None:
        """Everything between the arguments of fit and the fitted attributes, which are set only at the very end."""
        previous = self._fitted if self.warm_start and hasattr(self, "_fitted") else None
        # Three blocks of one model or more, or once more on all rows.
        metadata = {"sample_weight": sample_weight, "task": task}
        n_models = max(self._n_averaged(0, explicit), 2 if self.refit else 1)
        hooks = self._begin_callbacks(3 * n_models, in_order=True, X=X, y=y, metadata=metadata)
        wants = {"warm_start": self.warm_start, "validation": self.validation, "has_tables": False}
        source = find_source(X, y, sample_weight, task, **wants)
        if source is not None:
            fit_source(self, source, explicit, hooks)
            hooks.end()
            return
        seed = self._seed if previous else int(check_random_state(self.random_state).randint(2**31 - 1))
        inputs, weight = self._read_inputs(X, y, task, sample_weight)
        everything = long = inputs.melt(weight)
        is_stopped = stops_early(self.early_stopping, len(long.y), explicit, self.validation)
        held_out = is_held = None
        if is_stopped and explicit["X_val"] is None:
            is_held = self._held_out(long, inputs, X, y, seed, self._n_averaged(len(long.y), explicit))
            # "auto" gives up where no row can be held out; without a validation_fraction the training loss is watched.
            is_stopped = is_held is not None or self.validation_fraction is None
        if is_held is not None and len(is_held) == 1:
            long, held_out, is_held = long.take(~is_held[0]), long.take(is_held[0]), None
        loss = self._make_loss(inputs.classes)
        if previous:
            self._check_same_problem(inputs, training_tasks(inputs, long), loss)
        self._warn_of_small_weights(long, sample_weight)
        n_cells = len(long.y) * inputs.n_columns
        threads = fit_region(resolve_n_threads(self.n_jobs, n_cells), n_cells)
        with threads as n_threads, messages_shown(self.verbose):
            is_refitted = self.refit and held_out is not None and not self.warm_start
            tasks = training_tasks(inputs, everything if is_refitted else long)
            fitted = self._fit_entries(
                inputs, long, held_out, explicit, loss, is_stopped, seed, n_threads, tasks, hooks, previous,
                is_held=is_held,
            )  # fmt: skip
            # What two tasks share cannot be learned from one of them.
            if is_refitted and (fitted.labels.n_tasks > 1 or tasks.n_tasks == 1):
                tell(self.verbose, "once more on all rows")
                again = self._fit_entries(
                    inputs, everything, None, {}, loss, False, seed, n_threads, tasks, hooks, chosen=fitted
                )
                again.model.validation_loss = fitted.model.validation_loss
                fitted = again
        self._seed, self._fitted = seed, fitted
        self._set_fitted_attributes(inputs)
        hooks.end()

    def _attributes_of(self, fitted: Fitted, inputs: Inputs, seed: int) -> dict[str, Any]:
        """All attributes of this estimator as they would be with that model, for a callback to look at."""
        other = copy(self)
        other._seed, other._fitted = seed, fitted
        other._set_fitted_attributes(inputs)
        return dict(vars(other))

    def _fit_entries(
        self,
        inputs: Inputs,
        long: LongTable,
        held_out: LongTable | None,
        explicit: dict[str, Any],
        loss: Loss,
        is_stopped: bool,
        seed: int,
        n_threads: int,
        tasks: TaskLabels,
        hooks: FitHooks,
        previous: Fitted | None = None,
        chosen: Fitted | None = None,
        is_held: np.ndarray | None = None,
    ) -> Fitted:
        """Encode, bin and boost the entries ``long``.

        ``tasks`` are those of the fit as a whole, of which some may be held out here.
        ``previous`` is a fit to go on from, ``chosen`` one whose sharing and numbers of rounds are taken over.
        ``is_held`` (n_models, n_entries) asks for the mean of models which hold these entries out; there is then no
        ``held_out``.
        """
        labels = previous.labels if previous else training_tasks(inputs, long)
        factors = self._class_factors(long, inputs.classes), self._task_factors(long, labels)
        long = long.weighted(labels, *factors)
        encoder = previous.encoder if previous else self._fit_encoder(inputs, long)
        values = encoder.read(inputs.features)
        has_validation = any(part is not None for part in (held_out, is_held, explicit.get("X_val"), chosen))
        how_to_bin = has_validation, seed, n_threads
        mapper = previous.mapper if previous else self._fit_mapper(encoder, values, long, *how_to_bin)
        scaling = previous.scaling if previous else self._fit_scaling(long, labels, loss)
        rows, X = training_rows(mapper, values, long, labels, scaling, n_threads)
        validation = None
        if held_out is not None:
            held_out = held_out.weighted(labels, *factors)
            validation = validation_rows(values[:, held_out.row_idx], held_out, labels, scaling)
        elif is_held is not None:
            is_held = is_held[:, rows.position]
            validation = rows.judged(X, is_held[0])
        elif explicit:
            validation = self._explicit_validation(explicit, inputs, encoder, labels, scaling, factors)
        n_models, named = 1 if is_held is None else len(is_held), inputs.task_is_category
        options = self._boosting_options(loss, labels, is_stopped, has_validation, tasks, rows, n_models)
        start = _scores_under(previous.model, X[:, :], rows, validation, n_threads) if previous else None
        if previous:
            base = previous.model.forest.base
        else:
            # DEVIATION(base): the best constant instead of the paper's 0, except in paper mode.
            base = np.zeros(loss.n_outputs) if self.algorithm == "paper" else loss.base_score(rows.y, rows.weight)

        n_at_once = self._n_at_once(hooks, n_models, n_threads, rows.n_rows * inputs.n_columns)

        def make_grower(rows: TrainingRows, task_is_category: bool) -> Grower:
            n_own = 1 if n_at_once > 1 else n_threads
            return self._make_grower(rows, mapper, inputs, n_own, loss, task_is_category)

        def make_builder() -> ForestBuilder:
            return ForestBuilder(mapper, rows.n_tasks)

        race = Race(rows, X, loss, make_grower, make_builder, options, base, named, seed, n_models, n_at_once)
        sharing, applied = self._settle_sharing(race, validation, previous, chosen)

        def as_fitted(model: BoostedModel) -> Fitted:
            numbered = sharing.renumbered(model.group_order)
            mass, positions = rows.sum_by_task(rows.weight), tuple(inputs.task_positions.tolist())
            return Fitted(model, loss, encoder, mapper, scaling, labels, numbered, mass, positions)

        progress = hooks.follow(
            self.verbose, "round", lambda model: self._attributes_of(as_fitted(model), inputs, seed)
        )
        if is_held is not None:
            return as_fitted(boost_averaged(race, is_held, sharing, progress))
        rng = np.random.default_rng([seed, 1, sum(previous.model.forest.n_rounds) if previous else 0])
        model = boost(
            rows, validation, loss, race.grower(rows, sharing), make_builder(), applied, base, rng,
            start=start, progress=progress,
        )  # fmt: skip
        return as_fitted(model)

    def _n_at_once(self, hooks: FitHooks, n_models: int, n_threads: int, n_cells: int) -> int:
        """How many models are fitted side by side, a thread each, where kernels could have ``n_threads``.

        One where these are more than the models, where cores are taken, or where somebody follows the rounds.
        """
        is_busy = n_threads < resolve_n_threads(self.n_jobs, n_cells)
        if n_models == 1 or n_threads > n_models or is_busy or hooks.is_heard(self.verbose):
            return 1
        return min(resolve_n_threads(self.n_jobs), n_models)

    def _set_fitted_attributes(self, inputs: Inputs) -> None:
        model = self._fitted.model
        self.n_features_in_ = inputs.n_columns
        if inputs.names is not None:
            self.feature_names_in_ = np.array(inputs.names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if inputs.classes is not None:
            self.classes_ = inputs.classes
        self._task_source = inputs.task_source
        self._fitted_sharing = self.sharing, self.n_task_groups
        self._fitted_target_scaling = getattr(self, "target_scaling", None)
        self._fitted_task_column = self.task_column if inputs.task_source == "column" else None
        self.sharing_ = self._fitted.sharing.name
        self._set_task_attributes()
        self.train_score_ = _score_path(model.train_loss)
        self.validation_score_ = _score_path(model.validation_loss)
        gain = self._gain_by_column()
        self.feature_importances_ = normalised(gain.sum(axis=0))
        self.task_feature_importances_ = normalised(gain)

    def _set_task_attributes(self) -> None:
        """The fitted attributes with a value per task, and the rounds."""
        model, forest = self._fitted.model, self._fitted.model.forest
        self.tasks_ = self._fitted.labels.labels
        self.n_tasks_ = len(self.tasks_)
        self.theta_ = model.theta
        self.task_group_ = forest.mixing[:-1].argmax(axis=1)
        self.outlier_score_ = 1.0 - forest.mixing[:-1, 0]
        self.n_iter_ = dict(zip(BLOCKS, forest.n_rounds, strict=True))

    def _gain_by_column(self) -> np.ndarray:
        """Gain (n_tasks, n_features_in_) of each column in the trees that act for each task."""
        task_columns = list(self._fitted.task_positions)
        features = np.delete(np.arange(self.n_features_in_), task_columns)
        gain = gain_importances(self._fitted.model.forest, len(features), self._fitted.task_weight)
        by_column = np.zeros((len(gain), self.n_features_in_))
        by_column[:, features] = gain[:, :-1]
        if len(task_columns):
            by_column[:, task_columns[0]] = gain[:, -1]
        return by_column

    # --- save and load ---------------------------------------------------------------------------------------------

    def _check_restored(self) -> None:
        fitted, forest = self._fitted, self._fitted.model.forest
        n_tasks, n_features = fitted.labels.n_tasks, len(fitted.encoder.names)
        require(
            len(forest.mixing) == len(fitted.scaling.center) == n_tasks + 1, "the model has another number of tasks"
        )
        require(len(self.tasks_) == self.n_tasks_ == n_tasks, "tasks_ are not those of the model")
        require(forest.nodes.feature.max(initial=-1) <= n_features, "a tree asks for a feature that X does not have")
        asks_for_task = forest.nodes.feature == n_features
        require(np.all(forest.nodes.category_start[asks_for_task] >= 0), "a tree asks for the task without any levels")
        require(
            np.array_equal(fitted.mapper.is_categorical, fitted.encoder.is_categorical), "bins are of other features"
        )
        require(forest.n_outputs == fitted.loss.n_outputs, "the loss has another number of scores")
        if hasattr(self, "classes_"):
            require(len(self.classes_) in (2, forest.n_outputs), "classes_ are not those of the model")
        n_ids = 1 if isinstance(self._fitted_task_column, (str, int)) else len(self._fitted_task_column or ())
        require(self.n_features_in_ == n_features + n_ids, "n_features_in_ is not that of the model")

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.target_tags.multi_output = True
        return tags


def _scores_under(
    model: BoostedModel, values: np.ndarray, rows: TrainingRows, validation: ValidationRows | None, n_threads: int
) -> tuple[BoostedModel, Scores, Scores | None]:
    """A fitted model with the scores of training and validation rows under it, for a warm start."""
    scores = _partial_scores(model.forest, np.ascontiguousarray(values), rows.task, n_threads)
    if validation is None:
        return model, scores, None
    return model, scores, _partial_scores(model.forest, validation.X, validation.task, n_threads)


def _partial_scores(forest: Forest, X: np.ndarray, task: np.ndarray, n_threads: int) -> Scores:
    blocks = forest.block_scores(X, task, n_threads)
    groups = np.stack([forest.group_score(X, task, group, n_threads) for group in range(forest.mixing.shape[1])])
    return Scores(forest.base + blocks[SHARED] + blocks[TASK], groups, task, forest.n_rounds[PARTITION] > 0)


def _score_path(losses: tuple[list[float], ...]) -> np.ndarray:
    """Scores (higher is better) before the first round and after each round, block after block."""
    path: list[float] = []
    for history in losses:
        path += history if not path else history[1:]
    return -np.array(path)
