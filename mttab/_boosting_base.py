"""What both R-MTGB estimators share: from a table to training rows, from a forest to scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mttab._core.boosting.binning import BinMapper
from mttab._core.boosting.forest import BLOCKS, PARTITION, SHARED, TASK, Forest, ForestBuilder
from mttab._core.boosting.growing import Grower
from mttab._core.boosting.importance import gain_importances
from mttab._core.boosting.losses import Loss
from mttab._core.boosting.rmtgb import BlockOptions, BoostedModel, BoostingOptions, boost
from mttab._core.boosting.rows import Scores, TrainingRows, ValidationRows
from mttab._core.boosting.splitting import MIN_HESSIAN, SplitOptions
from mttab._core.boosting.threads import parallel_region, resolve_n_threads
from mttab._core.boosting.tree import GrowthOptions
from mttab._core.features import FeatureEncoder, resolve_categorical_features
from mttab._core.holdout import splitter_holdout, stratified_holdout
from mttab._core.tasks import TaskLabels, did_you_mean, label_array, melt_targets, normalise_task_ids
from mttab._core.validation import (
    HasMethods,
    Interval,
    StrOptions,
    check_monotonic_cst,
    check_same_length,
    check_table,
    check_weight,
    split_task_column,
)

# Below this many training rows early_stopping="auto" keeps them all for training.
AUTO_EARLY_STOPPING_ROWS = 500
# Prior, in rows, on category levels and their subsets, see `scan_categorical`.
CATEGORICAL_PRIOR = 10.0
CATEGORICAL_MIN_ROWS = 20.0


@dataclass
class Inputs:
    """X, y and task ids of fit, checked but not yet encoded.

    features : X without the task columns; names : all columns of X, or None
    task_positions : where the task columns stand in X; is_categorical : bool (n_columns of X,)
    task_ids : object (n_rows,) or None; y : float64 (n_rows,) or (n_rows, n_targets), NaN = not observed
    target_labels : names of the columns of a 2-D y, else None; classes : of a classifier, else None
    task_source : "column", "argument", "targets" or None
    """

    features: pd.DataFrame | np.ndarray
    names: list[str] | None
    n_columns: int
    task_positions: np.ndarray
    is_categorical: np.ndarray
    task_ids: np.ndarray | None
    y: np.ndarray
    target_labels: np.ndarray | None
    classes: np.ndarray | None
    task_source: str | None

    @property
    def feature_positions(self) -> np.ndarray:
        return np.delete(np.arange(self.n_columns), self.task_positions)

    @property
    def task_is_category(self) -> bool:
        return bool(self.is_categorical[self.task_positions].any())

    def melt(self, weight: np.ndarray) -> LongTable:
        """One entry per observed label, entries of weight 0 dropped."""
        if self.target_labels is None:
            long = LongTable(np.arange(len(self.y)), self.task_ids, self.y, weight)
        else:
            melted = melt_targets(pd.DataFrame(self.y, columns=range(len(self.target_labels))))
            ids = label_array(self.target_labels.tolist())[melted.task_idx]
            y = self.y[melted.row_idx, melted.task_idx]
            long = LongTable(melted.row_idx, ids, y, weight[melted.row_idx])
        return long if np.all(long.weight > 0) else long.take(long.weight > 0)


@dataclass
class LongTable:
    """One entry per label: row of the features, task id (None where there are no tasks), label and weight."""

    row_idx: np.ndarray
    task_ids: np.ndarray | None
    y: np.ndarray
    weight: np.ndarray

    def take(self, keep: np.ndarray) -> LongTable:
        task_ids = None if self.task_ids is None else self.task_ids[keep]
        return LongTable(self.row_idx[keep], task_ids, self.y[keep], self.weight[keep])

    def encode_tasks(self, labels: TaskLabels) -> np.ndarray:
        """Task index int32 (n,); n_tasks for tasks that training has not seen."""
        if self.task_ids is None:
            return np.zeros(len(self.y), dtype=np.int32)
        task = labels.encode(self.task_ids)
        return np.where(task < 0, labels.n_tasks, task).astype(np.int32)


@dataclass
class TargetScaling:
    """Centre and scale of each task's target, float64 (n_tasks + 1,), the last entry for unseen tasks."""

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def identity(cls, n_tasks: int) -> TargetScaling:
        return cls(np.zeros(n_tasks + 1), np.ones(n_tasks + 1))

    @classmethod
    def standard(cls, y: np.ndarray, task: np.ndarray, weight: np.ndarray, n_tasks: int) -> TargetScaling:
        """Weighted mean and standard deviation per task; constant targets keep their scale."""
        mass = np.bincount(task, weights=weight, minlength=n_tasks)
        mean = np.bincount(task, weights=weight * y, minlength=n_tasks) / mass
        variance = np.bincount(task, weights=weight * (y - mean[task]) ** 2, minlength=n_tasks) / mass
        # A task of one row, or of equal targets up to rounding, has no scale of its own.
        is_constant = variance <= 1e-24 * np.maximum(mean**2, 1e-280)
        scale = np.where(is_constant, 1.0, np.sqrt(variance))
        return cls(
            np.append(mean, np.average(mean, weights=mass)), np.append(scale, np.sqrt(np.average(scale**2, weights=mass)))
        )


class BaseRMTGB(BaseEstimator):
    """Robust multi-task gradient boosting without a target: the parts that do not care what y is."""

    # `task` is routed by default wherever scikit-learn routes metadata; the other arguments ask for it as usual.
    __metadata_request__fit: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__predict: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"task": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "task_column": [None, str, Integral, list, tuple],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter_shared": [Interval(Integral, 0, None, closed="left")],
        "max_iter_partition": [Interval(Integral, 0, None, closed="left")],
        "max_iter_task": [Interval(Integral, 0, None, closed="left")],
        "max_leaf_nodes": [Interval(Integral, 2, None, closed="left")],
        "max_leaf_nodes_task": [Interval(Integral, 2, None, closed="left"), None],
        "max_depth": [Interval(Integral, 1, None, closed="left"), None],
        "min_samples_leaf": [Interval(Real, 1, None, closed="left")],
        "min_samples_leaf_task": [Interval(Real, 1, None, closed="left"), None],
        "l2_regularization": [Interval(Real, 0, None, closed="left")],
        "max_features": [Interval(Real, 0, 1, closed="right")],
        "subsample": [Interval(Real, 0, 1, closed="right")],
        "max_bins": [Interval(Integral, 2, 255, closed="both")],
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
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    # --- what the two estimators fill in ---------------------------------------------------------------------------

    def _read_target(self, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """y as float64 (NaN = not observed, 2-D only), and the classes of a classifier."""
        raise NotImplementedError

    def _make_loss(self, classes: np.ndarray | None) -> Loss:
        raise NotImplementedError

    def _class_weights(self, long: LongTable, classes: np.ndarray | None) -> np.ndarray | float:
        return 1.0

    def _fit_scaling(self, long: LongTable, labels: TaskLabels, loss: Loss) -> TargetScaling:
        return TargetScaling.identity(labels.n_tasks)

    # --- fit -------------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, task: Any, explicit: dict[str, Any]) -> None:
        """Everything between the arguments of fit and the fitted attributes, which are set only at the very end."""
        previous = self if self.warm_start and hasattr(self, "_model") else None
        seed = previous._seed if previous else int(check_random_state(self.random_state).randint(2**31 - 1))
        inputs = self._read_inputs(X, y, task)
        long = inputs.melt(check_weight(sample_weight, len(inputs.y)))
        long, held_out = self._hold_out(long, inputs, X, y, np.random.default_rng([seed, 0]), explicit)
        labels = _task_labels(inputs, long)
        loss = self._make_loss(inputs.classes)
        if previous:
            previous._check_same_problem(self, inputs, labels)
        long.weight = long.weight * self._class_weights(long, inputs.classes) * self._task_weights(long, labels)
        self._warn_of_small_weights(long, sample_weight)
        n_threads = resolve_n_threads(self.n_jobs, len(long.y) * inputs.n_columns)
        with parallel_region(n_threads):
            encoder = previous._encoder if previous else self._fit_encoder(inputs, long)
            values = encoder.transform(inputs.features)
            mapper = previous._mapper if previous else self._fit_mapper(encoder, values, long, seed)
            scaling = previous._scaling if previous else self._fit_scaling(long, labels, loss)
            rows, order = _training_rows(mapper, values, long, labels, scaling, n_threads)
            if held_out is not None:
                validation = _validation_rows(values[:, held_out.row_idx], held_out, labels, scaling)
            else:
                validation = self._explicit_validation(explicit, inputs, encoder, labels, scaling)
            options = self._boosting_options(loss, labels, len(long.y), validation)
            start = _scores_under(previous._model, values[:, order], rows, validation, n_threads) if previous else None
            if previous:
                base = previous._model.forest.base
            else:
                # DEVIATION(base): the best constant instead of the paper's 0, except in paper mode.
                base = np.zeros(loss.n_outputs) if self.algorithm == "paper" else loss.base_score(rows.y, rows.weight)
            n_rounds_before = sum(previous._model.forest.n_rounds) if previous else 0
            model = boost(
                rows,
                validation,
                loss,
                self._make_grower(rows, mapper, inputs, n_threads, loss),
                ForestBuilder(mapper, rows.n_tasks),
                options,
                base,
                np.random.default_rng([seed, 1, n_rounds_before]),
                start=start,
                progress=ProgressLine(self.verbose) if self.verbose else None,
            )
        self._seed, self._model, self._loss = seed, model, loss
        self._encoder, self._mapper, self._scaling, self._task_labels = encoder, mapper, scaling, labels
        self._set_fitted_attributes(inputs, rows)

    def _read_inputs(self, X: Any, y: Any, task: Any) -> Inputs:
        table = check_table(X)
        probe = BaseEstimator()  # collects the column names without touching what an earlier fit has left in self
        validate_data(probe, table, skip_check_array=True)
        features, task_ids, positions = split_task_column(table, self.task_column)
        values, classes = self._read_target(y)
        check_same_length(X=table, y=values, task=task)
        target_labels, source = None, None if task_ids is None else "column"
        if task is not None:
            if task_ids is not None:
                raise ValueError(
                    f"task= was passed besides task_column={self.task_column!r}; pass the task ids in one way only."
                )
            task_ids, source = normalise_task_ids(task), "argument"
        if values.ndim == 2:
            if source is not None:
                raise ValueError(
                    f"y has {values.shape[1]} columns, which are tasks themselves, so task_column and task cannot be used "
                    "with it; melt y to one column, or leave them out."
                )
            target_labels = label_array(list(y.columns) if isinstance(y, pd.DataFrame) else range(values.shape[1]))
            source = "targets"
        return Inputs(
            features=features,
            names=list(probe.feature_names_in_) if hasattr(probe, "feature_names_in_") else None,
            n_columns=probe.n_features_in_,
            task_positions=positions,
            is_categorical=resolve_categorical_features(self.categorical_features, table, positions),
            task_ids=task_ids,
            y=values,
            target_labels=target_labels,
            classes=classes,
            task_source=source,
        )

    def _hold_out(self, long, inputs, X, y, rng, explicit):  # type: ignore[no-untyped-def]
        """Split the entries into those to train on and those, or None, that decide when a block ends."""
        is_explicit = explicit["X_val"] is not None
        if is_explicit and self.validation is not None:
            raise ValueError("X_val was passed besides validation=; choose one of the two.")
        if not self._stops_early(len(long.y), is_explicit) or is_explicit:
            return long, None
        if self.validation is not None:
            is_held = splitter_holdout(self.validation, X, y, inputs.task_ids, len(inputs.y))[long.row_idx]
        elif self.validation_fraction is None:
            return long, None
        else:
            strata = np.zeros(len(long.y), dtype=np.int64)
            if long.task_ids is not None:
                strata = TaskLabels.fit(long.task_ids).encode(long.task_ids).astype(np.int64)
            if inputs.classes is not None:
                strata = strata * len(inputs.classes) + long.y.astype(np.int64)
            is_held = stratified_holdout(strata, self.validation_fraction, rng)
        if not is_held.any() or is_held.all():
            raise ValueError(
                f"early_stopping={self.early_stopping!r} leaves {int(is_held.sum())} of {len(is_held)} labelled rows for "
                "validation, so there is nothing to compare; pass more rows, a larger validation_fraction, or "
                "early_stopping=False."
            )
        return long.take(~is_held), long.take(is_held)

    def _stops_early(self, n_rows: int, is_explicit: bool) -> bool:
        if self.early_stopping == "auto":
            return is_explicit or self.validation is not None or n_rows >= AUTO_EARLY_STOPPING_ROWS
        if is_explicit and not self.early_stopping:
            raise ValueError("X_val was passed with early_stopping=False, which has no use for it; drop one of the two.")
        return bool(self.early_stopping)

    def _task_weights(self, long: LongTable, labels: TaskLabels) -> np.ndarray | float:
        """Factor per entry from task_weight."""
        if self.task_weight is None:
            return 1.0
        task = long.encode_tasks(labels)
        if isinstance(self.task_weight, str):
            mass = np.bincount(task, weights=long.weight, minlength=labels.n_tasks)
            return (mass.sum() / (len(mass) * mass))[task]
        factors = check_weight(_by_task(self.task_weight, "task_weight", labels, 1.0), labels.n_tasks, name="task_weight")
        if not np.all(factors > 0):
            raise ValueError("task_weight holds 0, which leaves a task without rows; drop its rows instead.")
        return factors[task]

    def _warn_of_small_weights(self, long: LongTable, sample_weight: Any) -> None:
        total, needed = long.weight.sum(), 2 * self.min_samples_leaf
        if sample_weight is not None and total < needed <= len(long.y):
            warnings.warn(
                f"The weights of {len(long.y)} rows sum to {total:g}, less than twice min_samples_leaf="
                f"{self.min_samples_leaf}, so no shared tree can split: weights count as rows here; rescale "
                "sample_weight to mean 1.",
                UserWarning,
                stacklevel=5,
            )

    def _fit_encoder(self, inputs: Inputs, long: LongTable) -> FeatureEncoder:
        # A row that is held out or has no weight must not bring levels along.
        mass = np.bincount(long.row_idx, weights=long.weight, minlength=len(inputs.y))
        names = None if inputs.names is None else [inputs.names[j] for j in inputs.feature_positions]
        is_categorical = inputs.is_categorical[inputs.feature_positions]
        return FeatureEncoder().fit(inputs.features, is_categorical, sample_weight=mass, names=names)

    def _fit_mapper(self, encoder: FeatureEncoder, values: np.ndarray, long: LongTable, seed: int) -> BinMapper:
        mass = np.bincount(long.row_idx, weights=long.weight, minlength=values.shape[1])
        used = mass > 0
        if not used.all():
            values, mass = values[:, used], mass[used]
        return BinMapper(self.max_bins).fit(values, encoder.is_categorical, encoder.n_categories, mass, seed)

    def _explicit_validation(self, explicit, inputs, encoder, labels, scaling):  # type: ignore[no-untyped-def]
        """Validation rows from X_val, y_val, task_val and sample_weight_val."""
        given = [name for name, value in explicit.items() if value is not None]
        if explicit["X_val"] is None or explicit["y_val"] is None:
            if given:
                raise ValueError(f"{' and '.join(given)} passed without both X_val and y_val; pass these two together.")
            return None
        table = check_table(explicit["X_val"], name="X_val")
        if table.shape[1] != inputs.n_columns:
            raise ValueError(f"X_val has {table.shape[1]} columns, but X has {inputs.n_columns}; pass the same columns.")
        features, ids, _ = split_task_column(table, self.task_column, feature_names=inputs.names)
        y = self._encode_target(explicit["y_val"], inputs.classes, name="y_val")
        if inputs.task_source == "argument":
            if explicit["task_val"] is None:
                raise ValueError("task was passed without task_val; pass one task id per row of X_val.")
            ids = normalise_task_ids(explicit["task_val"], name="task_val")
        elif explicit["task_val"] is not None:
            raise ValueError("task_val was passed without task; pass the task ids of X_val in the same way as those of X.")
        check_same_length(X_val=table, y_val=y, task_val=ids)
        if (y.ndim == 2) != (inputs.target_labels is not None) or (y.ndim == 2 and y.shape[1] != inputs.y.shape[1]):
            raise ValueError(f"y_val has shape {y.shape}, but y has shape {inputs.y.shape}; pass the same columns.")
        weight = check_weight(explicit["sample_weight_val"], len(y), name="sample_weight_val")
        held = replace(inputs, features=features, task_ids=ids, y=y).melt(weight)
        return _validation_rows(encoder.transform(features)[:, held.row_idx], held, labels, scaling)

    def _make_grower(self, rows: TrainingRows, mapper: BinMapper, inputs: Inputs, n_threads: int, loss: Loss) -> Grower:
        constraints = check_monotonic_cst(
            self.monotonic_cst, inputs.names, inputs.n_columns, is_categorical=inputs.is_categorical
        )
        if constraints.any() and loss.n_outputs > 1:
            raise ValueError("monotonic_cst is defined for one score per row; it cannot be used with several classes.")
        if constraints[inputs.task_positions].any():
            raise ValueError(f"monotonic_cst constrains the task column {self.task_column!r}; set it to 0 there.")
        layout = mapper.layout(
            constraints[inputs.feature_positions], rows.n_tasks if inputs.task_is_category and rows.n_tasks > 1 else 0
        )
        n_tried = max(1, int(np.ceil(self.max_features * (len(layout.offset) - 1) - 1e-9)))
        max_depth = 2**31 if self.max_depth is None else self.max_depth
        is_paper = self.algorithm == "paper"
        shared_split = SplitOptions(
            min_samples_leaf=float(self.min_samples_leaf),
            min_hessian=MIN_HESSIAN,
            l2=float(self.l2_regularization),
            categorical_prior=CATEGORICAL_PRIOR,
            categorical_min_rows=CATEGORICAL_MIN_ROWS,
            constant_hessian=is_paper or loss.constant_hessian,
        )
        min_task = self.min_samples_leaf if self.min_samples_leaf_task is None else self.min_samples_leaf_task
        leaves_task = self.max_leaf_nodes if self.max_leaf_nodes_task is None else self.max_leaf_nodes_task
        return Grower(
            rows,
            layout,
            GrowthOptions(self.max_leaf_nodes, max_depth, n_tried),
            GrowthOptions(leaves_task, max_depth, n_tried),
            shared_split,
            shared_split._replace(min_samples_leaf=float(min_task)),
            n_threads,
        )

    def _boosting_options(
        self, loss: Loss, labels: TaskLabels, n_rows: int, validation: ValidationRows | None
    ) -> BoostingOptions:
        rounds = (self.max_iter_shared, self.max_iter_partition, self.max_iter_task)
        shared, partition, task = (BlockOptions(n, self.learning_rate) for n in rounds)
        theta_init = self.theta_init
        if not isinstance(theta_init, str):
            theta_init = _theta_values(theta_init, labels)
        return BoostingOptions(
            blocks=(shared, partition, task),
            newton=self.algorithm == "newton",
            vector_leaves=getattr(self, "multi_strategy", "") == "multi_output_tree" and loss.n_outputs > 1,
            theta_init=theta_init,
            theta_learning_rate=self.theta_learning_rate,
            theta_penalty=self.theta_penalty,
            theta_center=self.theta_center,
            subsample=self.subsample,
            patience=self.n_iter_no_change if self._stops_early(n_rows, validation is not None) else None,
            tol=self.tol,
        )

    def _check_same_problem(self, new: BaseRMTGB, inputs: Inputs, labels: TaskLabels) -> None:
        """Raise unless a warm start continues on the same columns, tasks, classes and with at least as many rounds."""
        names = list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None
        if inputs.n_columns != self.n_features_in_ or inputs.names != names:
            raise ValueError("warm_start=True continues on the columns of the first fit; pass the same X, or refit.")
        if labels.labels.tolist() != self._task_labels.labels.tolist():
            raise ValueError("warm_start=True continues with the tasks of the first fit; pass the same tasks, or refit.")
        if inputs.classes is not None and not np.array_equal(inputs.classes, self.classes_):
            raise ValueError("warm_start=True continues with the classes of the first fit; pass the same, or refit.")
        for block in BLOCKS:
            wanted, done = getattr(new, f"max_iter_{block}"), self.n_iter_[block]
            if wanted < done:
                raise ValueError(
                    f"max_iter_{block}={wanted} is smaller than the {done} rounds already fitted; with warm_start=True "
                    "it is the total to reach, so raise it."
                )

    def _set_fitted_attributes(self, inputs: Inputs, rows: TrainingRows) -> None:
        forest = self._model.forest
        self.n_features_in_ = inputs.n_columns
        if inputs.names is not None:
            self.feature_names_in_ = np.array(inputs.names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if inputs.classes is not None:
            self.classes_ = inputs.classes
        self._task_source = inputs.task_source
        self.tasks_ = self._task_labels.labels
        self.n_tasks_ = len(self.tasks_)
        self.theta_ = self._model.theta
        self.outlier_score_ = expit(self.theta_)
        self.n_iter_ = dict(zip(BLOCKS, forest.n_rounds, strict=True))
        self.train_score_ = _score_path(self._model.train_loss)
        self.validation_score_ = _score_path(self._model.validation_loss)
        gain = gain_importances(forest, len(inputs.feature_positions), rows.sum_by_task(rows.weight))
        by_column = np.zeros((len(gain), inputs.n_columns))
        by_column[:, inputs.feature_positions] = gain[:, :-1]
        if len(inputs.task_positions):
            by_column[:, inputs.task_positions[0]] = gain[:, -1]
        self.feature_importances_ = _normalised(by_column.sum(axis=0))
        self.task_feature_importances_ = _normalised(by_column)

    # --- predict ---------------------------------------------------------------------------------------------------

    def _read_rows(self, X: Any, task: Any) -> tuple[np.ndarray, np.ndarray]:
        """Feature values (n_features, n_rows) and task indices; with a 2-D y the rows are repeated for every task."""
        check_is_fitted(self)
        table = check_table(X)
        names = getattr(self, "feature_names_in_", None)
        column = self.task_column if self._task_source == "column" else None
        features, ids, _ = split_task_column(table, column, feature_names=names)
        validate_data(self, table, reset=False, skip_check_array=True)
        values = self._encoder.transform(features)
        if self._task_source == "targets":
            if task is not None:
                raise ValueError("task was passed, but this model was fitted with a 2-D y and predicts all tasks at once.")
            n_rows = values.shape[1]
            return np.tile(values, self.n_tasks_), np.repeat(np.arange(self.n_tasks_, dtype=np.int32), n_rows)
        if self._task_source is None:
            if task is not None:
                raise ValueError("task was passed, but this model was fitted without tasks; fit it with task_column or task.")
            return values, np.zeros(values.shape[1], dtype=np.int32)
        if self._task_source == "column" and task is not None:
            raise ValueError(f"task was passed, but this model reads its tasks from task_column={self.task_column!r} of X.")
        if self._task_source == "argument":
            if task is None:
                raise ValueError(
                    "This model was fitted with tasks, so predict needs the task of every row: pass task=, or fit with "
                    "task_column=, which also works inside pipelines, string scorers and cross_val_predict."
                )
            ids = normalise_task_ids(task)
            check_same_length(X=table, task=ids)
        name = "task" if self._task_source == "argument" else f"task_column={self.task_column!r}"
        encoded = self._task_labels.encode(ids, unseen=self.unseen_task, name=name)
        return values, np.where(encoded < 0, self.n_tasks_, encoded).astype(np.int32)

    def _n_predict_threads(self, values: np.ndarray) -> int:
        return resolve_n_threads(self.n_jobs, values.shape[1] * max(len(self._model.forest.trees.root), 1))

    def _score(self, X: Any, task: Any) -> tuple[np.ndarray, np.ndarray]:
        """Score (n, K) in the target's unit, before the link, and the task of each entry."""
        values, encoded = self._read_rows(X, task)
        n_threads = self._n_predict_threads(values)
        with parallel_region(n_threads):
            score = self._model.forest.score(values, encoded, n_threads)
        return self._unscaled(score, encoded), encoded

    def _unscaled(self, score: np.ndarray, task: np.ndarray) -> np.ndarray:
        return score * self._scaling.scale[task, None] + self._scaling.center[task, None]

    def _staged_scores(self, X: Any, task: Any) -> Iterator[np.ndarray]:
        values, encoded = self._read_rows(X, task)
        forest, n_threads = self._model.forest, self._n_predict_threads(values)
        stages = forest.staged_block_scores(values, encoded, n_threads)
        while True:
            with parallel_region(n_threads):
                blocks = next(stages, None)
            if blocks is None:
                return
            yield self._unscaled(forest.base + blocks.sum(axis=0), encoded)

    def _layout(self, values: np.ndarray) -> np.ndarray:
        """Entries back to the caller's shape: one column per task where y had several."""
        if self._task_source != "targets":
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
            for the tasks after the first where y had several columns. The base score counts as shared, the centre of
            ``target_scaling="task"`` as task.

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
            blocks = self._model.forest.block_scores(values, encoded, n_threads)
        blocks[SHARED] += self._model.forest.base
        blocks *= self._scaling.scale[encoded, None]
        blocks[TASK] += self._scaling.center[encoded, None]
        if blocks.shape[2] == 1:
            blocks = blocks[:, :, 0]
        return Bunch(**{name: self._layout(part) for name, part in zip(BLOCKS, blocks, strict=True)})

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.target_tags.multi_output = True
        return tags


# --- steps of fit that need no estimator --------------------------------------------------------------------------------


def _task_labels(inputs: Inputs, long: LongTable) -> TaskLabels:
    """Tasks that training rows have; columns of a 2-D y keep their order."""
    if inputs.target_labels is not None:
        return TaskLabels(inputs.target_labels.tolist())
    return TaskLabels([0]) if long.task_ids is None else TaskLabels.fit(long.task_ids)


def _by_task(values: dict[Any, Any], name: str, labels: TaskLabels, default: float | None) -> list[Any]:
    """Values of a dict in the order of the tasks."""
    known = labels.labels.tolist()
    for key in values:
        if key not in known:
            raise ValueError(f"{name} names the task {key!r}, which the training rows do not have{did_you_mean(key, known)}")
    missing = [label for label in known if label not in values]
    if missing and default is None:
        raise ValueError(f"{name} has no value for the task {missing[0]!r}; give every task one.")
    return [values.get(label, default) for label in known]


def _theta_values(theta_init: Any, labels: TaskLabels) -> np.ndarray:
    if isinstance(theta_init, dict):
        theta_init = _by_task(theta_init, "theta_init", labels, None)
    theta = np.asarray(theta_init, dtype=np.float64)
    if theta.shape != (labels.n_tasks,) or not np.isfinite(theta).all():
        raise ValueError(
            f"theta_init must hold one finite number per task, {labels.n_tasks} in all, but has shape {theta.shape}; "
            "pass them in the order of the sorted task labels, or as a dict."
        )
    return theta


def _training_rows(
    mapper: BinMapper, values: np.ndarray, long: LongTable, labels: TaskLabels, scaling: TargetScaling, n_threads: int
) -> tuple[TrainingRows, np.ndarray]:
    """Binned training rows in task order, and the column of ``values`` that each of them comes from."""
    task = long.encode_tasks(labels)
    position = np.argsort(task, kind="stable")
    order = long.row_idx[position]
    task = task[position]
    codes = mapper.transform(values, n_threads)
    if not np.array_equal(order, np.arange(codes.shape[1])):
        codes = np.ascontiguousarray(codes[:, order])
    y = (long.y[position] - scaling.center[task]) / scaling.scale[task]
    start = np.searchsorted(task, np.arange(labels.n_tasks + 1)).astype(np.int64)
    return TrainingRows(codes, task, start, y, long.weight[position], position), order


def _validation_rows(
    values: np.ndarray, held_out: LongTable, labels: TaskLabels, scaling: TargetScaling
) -> ValidationRows:
    task = held_out.encode_tasks(labels)
    y = (held_out.y - scaling.center[task]) / scaling.scale[task]
    return ValidationRows(np.ascontiguousarray(values), task, y, held_out.weight)


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


def _normalised(gain: np.ndarray) -> np.ndarray:
    total = gain.sum(axis=-1, keepdims=True)
    return np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)


class ProgressLine:
    """Prints a line every ten rounds and at the end of a block; every round from verbose=2 on."""

    def __init__(self, verbose: int | bool):
        self.every = 1 if int(verbose) >= 2 else 10

    def __call__(self, block: int, n_done: int, n_rounds: int, train_loss: float, validation_loss: float | None) -> None:
        if n_done % self.every and n_done != n_rounds:
            return
        held_out = "" if validation_loss is None else f", validation loss {validation_loss:.6g}"
        print(f"{BLOCKS[block]} round {n_done}/{n_rounds}: training loss {train_loss:.6g}{held_out}")
