"""The steps of fitting an R-MTGB estimator: from what the user passes to what `boost` takes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from mttab._boosting_rows import validation_rows
from mttab._boosting_sharing import SharingSteps
from mttab._core.boosting.binning import MAX_BINS, BinMapper
from mttab._core.boosting.forest import BLOCKS
from mttab._core.boosting.growing import Grower
from mttab._core.boosting.losses import Loss
from mttab._core.boosting.options import BlockOptions, BoostingOptions
from mttab._core.boosting.rmtgb import BoostedModel
from mttab._core.boosting.rows import TrainingRows
from mttab._core.boosting.sharing import Sharing
from mttab._core.boosting.splitting import MIN_HESSIAN, SplitOptions
from mttab._core.boosting.tree import GrowthOptions
from mttab._core.features import FeatureEncoder, LargeTable, resolve_categorical_features
from mttab._core.frames import pandas_if_table
from mttab._core.holdout import splitter_holdout, stratified_holdout
from mttab._core.long_table import (
    Inputs,
    LongTable,
    TargetScaling,
    present_classes,
    target_task_labels,
    values_by_label,
)
from mttab._core.tasks import TaskLabels, normalise_task_ids
from mttab._core.validation import (
    check_monotonic_cst,
    check_same_length,
    check_table,
    check_weight,
    resolve_task_ids,
    split_task_column,
)

# Prior, in rows, on category levels and their subsets, see `scan_categorical`.
CATEGORICAL_PRIOR = 30.0
CATEGORICAL_MIN_ROWS = 20.0
# Largest number of rounds of a block with max_iter="auto", where validation rows end it and where nothing does.
AUTO_ROUNDS_STOPPED, AUTO_ROUNDS = 1000, 200
# Share of the rows of each round with subsample="auto" and validation rows.
AUTO_SUBSAMPLE = 0.8
# ... unless there are fewer different rows than this: equal ones are drawn together, and a round would miss a lot.
AUTO_SUBSAMPLE_MIN_ROWS = 100
# Models with n_averaged="auto", up to so many rows; with more, several fits cost more than they bring.
AUTO_AVERAGED, AUTO_AVERAGED_MAX_ROWS = 5, 20_000
# Steps with learning_rate="auto". The mean of several models makes up for larger ones, a single model does not.
AUTO_LEARNING_RATE, AUTO_LEARNING_RATE_AVERAGED = 0.1, 0.15
# Bins with max_bins="auto" and validation rows: the root of the number of rows, but not fewer than these.
AUTO_MIN_BINS = 64


@dataclass(frozen=True)
class Fitted:
    """What a fit has learned: all that predict reads, and what a later fit goes on from."""

    model: BoostedModel
    loss: Loss
    encoder: FeatureEncoder
    mapper: BinMapper
    scaling: TargetScaling
    labels: TaskLabels
    sharing: Sharing
    task_weight: np.ndarray
    task_positions: tuple[int, ...] = ()  # of the task columns in X


class FitSteps(SharingSteps):
    """Mixin with one method per step of `BaseRMTGB._fit` and `_fit_entries`; none sets an attribute."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    # --- what the two estimators fill in ---------------------------------------------------------------------------

    def _read_target(self, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """y as float64 (NaN = not observed, 2-D only), and the classes of a classifier."""
        raise NotImplementedError

    def _read_piece_target(self, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """`_read_target` for some rows of a table, which need not hold what the whole must."""
        return self._read_target(y)

    def _make_loss(self, classes: np.ndarray | None) -> Loss:
        raise NotImplementedError

    def _class_factors(self, long: LongTable, classes: np.ndarray | None) -> np.ndarray | None:
        """Factor (n_classes,) on the weights of each class, None for none."""
        return None

    def _fit_scaling(self, long: LongTable, labels: TaskLabels, loss: Loss) -> TargetScaling:
        return TargetScaling.identity(labels.n_tasks)

    # --- steps -----------------------------------------------------------------------------------------------------

    def _read_inputs(self, X: Any, y: Any, task: Any, sample_weight: Any) -> tuple[Inputs, np.ndarray]:
        table = check_table(X)
        probe = BaseEstimator()  # collects the column names without touching what an earlier fit has left in self
        validate_data(probe, table, skip_check_array=True)
        features, task_ids, positions = split_task_column(table, self.task_column)
        y = pandas_if_table(y, name="y")
        values, classes = self._read_target(y)
        target_labels = None
        task_ids, source = resolve_task_ids(task, task_ids, self.task_column)
        check_same_length(X=table, y=values, task=task_ids if source == "argument" else None)
        if values.ndim == 2:
            target_labels = target_task_labels(y, values.shape[1], source)
            source = "targets"
        weight = check_weight(sample_weight, len(values))
        if classes is not None:
            values, classes = present_classes(values, classes, weight)
        inputs = Inputs(
            features=features,
            names=list(probe.feature_names_in_) if hasattr(probe, "feature_names_in_") else None,
            n_columns=probe.n_features_in_,
            task_positions=positions,
            is_categorical=resolve_categorical_features(self.categorical_features, table, positions.tolist()),
            task_ids=task_ids,
            y=values,
            target_labels=target_labels,
            classes=classes,
            task_source=source,
        )
        return inputs, weight

    def _may_average(self, explicit: dict[str, Any]) -> bool:
        """Whether rows to stop on are drawn here, and so can be drawn several times."""
        is_drawn = self.validation is None and self.validation_fraction is not None and explicit["X_val"] is None
        return is_drawn and self.early_stopping is not False and not self.warm_start

    def _n_averaged(self, n_rows: int, explicit: dict[str, Any]) -> int:
        """Number of models whose mean the fit is."""
        if not self._may_average(explicit):
            return 1
        if self.n_averaged != "auto":
            return int(self.n_averaged)
        # Branches that start at random have no numbers in common.
        is_drawn = isinstance(self.theta_init, str) and self.theta_init == "normal"
        is_one = not self.refit or is_drawn or self.algorithm == "paper"
        return 1 if is_one or n_rows > AUTO_AVERAGED_MAX_ROWS else AUTO_AVERAGED

    def _held_out(self, long: LongTable, inputs: Inputs, X: Any, y: Any, seed: int, n_models: int) -> np.ndarray | None:
        """Entries bool (n_models, n_entries) that decide when a block of each model ends; None for none."""
        if self.validation is not None:
            is_held = splitter_holdout(self.validation, X, y, inputs.task_ids, len(inputs.y))[long.row_idx][None]
        elif self.validation_fraction is None:
            return None
        else:
            strata = np.zeros(len(long.y), dtype=np.int64)
            if long.task_ids is not None:
                strata = TaskLabels.fit(long.task_ids).encode(long.task_ids).astype(np.int64)
            if inputs.classes is not None:
                strata = strata * len(inputs.classes) + long.y.astype(np.int64)
            is_held = self._draw_held_out(strata, seed, n_models)
        if self.early_stopping == "auto" and self.validation is None and not is_held.any():
            return None  # every task has a single row, or every class of every task
        if not is_held.any() or is_held[0].all():
            raise ValueError(
                f"early_stopping={self.early_stopping!r} leaves {int(is_held[0].sum())} of {len(long.y)} labelled rows "
                "for validation, so there is nothing to compare; pass more rows, a larger validation_fraction, or "
                "early_stopping=False."
            )
        return is_held

    def _draw_held_out(self, strata: np.ndarray, seed: int, n_models: int) -> np.ndarray:
        """A share bool (n_models, n) of the rows of every stratum for each model; all False if there is none."""
        drawn = [
            stratified_holdout(strata, self.validation_fraction, np.random.default_rng([seed, 0, number]))
            for number in range(n_models)
        ]
        # A draw of few rows may be empty while another is not.
        return np.array([is_held for is_held in drawn if is_held.any()] or drawn[:1])

    def _task_factors(self, long: LongTable, labels: TaskLabels) -> np.ndarray | None:
        """Factor (n_tasks + 1,) on the weights of each task, 1 for unseen ones; None for none."""
        if self.task_weight is None:
            return None
        if isinstance(self.task_weight, str):
            mass = np.bincount(long.encode_tasks(labels), weights=long.weight, minlength=labels.n_tasks)
            return np.append(mass.sum() / (len(mass) * mass), 1.0)
        factors = values_by_label(self.task_weight, "task_weight", "task", labels.labels.tolist(), 1.0)
        for label, factor in zip(labels.labels.tolist(), factors, strict=True):
            if factor == 0:
                raise ValueError(f"task_weight holds 0, which leaves a task without rows; drop those of {label!r}.")
            if factor < 0:
                raise ValueError(f"task_weight holds {factor:g} for the task {label!r}, but must be positive.")
        return np.append(factors, 1.0)

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
        names = [f"x{j}" if inputs.names is None else inputs.names[j] for j in inputs.feature_positions]
        is_categorical = inputs.is_categorical[inputs.feature_positions]
        return FeatureEncoder().fit(inputs.features, is_categorical, sample_weight=mass, names=names)

    def _fit_mapper(
        self,
        encoder: FeatureEncoder,
        values: np.ndarray | LargeTable,
        long: LongTable,
        has_validation: bool,
        seed: int,
        n_threads: int,
    ) -> BinMapper:
        mass = np.bincount(long.row_idx, weights=long.weight, minlength=values.shape[1])
        max_bins = self.max_bins
        if max_bins == "auto":
            max_bins = int(np.clip(np.sqrt(len(long.y)), AUTO_MIN_BINS, MAX_BINS)) if has_validation else MAX_BINS
        return BinMapper(max_bins).fit(values, encoder.is_categorical, encoder.n_categories, mass, seed, n_threads)

    def _explicit_validation(self, explicit, inputs, encoder, labels, scaling, factors):  # type: ignore[no-untyped-def]
        """Validation rows from X_val, y_val, task_val and sample_weight_val."""
        if explicit["X_val"] is None:
            return None
        table = check_table(explicit["X_val"], name="X_val")
        if table.shape[1] != inputs.n_columns:
            raise ValueError(
                f"X_val has {table.shape[1]} columns, but X has {inputs.n_columns}; pass the same columns."
            )
        _check_names_of_validation_table(table, inputs.names)
        features, ids, _ = split_task_column(table, self.task_column, feature_names=inputs.names)
        y = self._encode_target(explicit["y_val"], inputs.classes, name="y_val")
        if inputs.task_source == "argument":
            if explicit["task_val"] is None:
                raise ValueError("task was passed without task_val; pass one task id per row of X_val.")
            ids = normalise_task_ids(explicit["task_val"], name="task_val")
        elif explicit["task_val"] is not None:
            raise ValueError(
                "task_val was passed without task; pass the task ids of X_val in the same way as those of X."
            )
        check_same_length(X_val=table, y_val=y, task_val=ids)
        if (y.ndim == 2) != (inputs.target_labels is not None) or (y.ndim == 2 and y.shape[1] != inputs.y.shape[1]):
            raise ValueError(f"y_val has shape {y.shape}, but y has shape {inputs.y.shape}; pass the same columns.")
        weight = check_weight(explicit["sample_weight_val"], len(y), name="sample_weight_val", table="X_val")
        held = replace(inputs, features=features, task_ids=ids, y=y).melt(weight).weighted(labels, *factors)
        return validation_rows(encoder.transform(features, name="X_val")[:, held.row_idx], held, labels, scaling)

    def _max_iter(self, block: str, has_validation: bool) -> int:
        wanted = getattr(self, f"max_iter_{block}")
        if wanted == "auto":
            return AUTO_ROUNDS_STOPPED if has_validation else AUTO_ROUNDS
        return int(wanted)

    def _learning_rate(self, n_models: int) -> float:
        """Step of each of so many models that are averaged."""
        if self.learning_rate == "auto":
            return AUTO_LEARNING_RATE if n_models == 1 else AUTO_LEARNING_RATE_AVERAGED
        return float(self.learning_rate)

    def _make_grower(
        self, rows: TrainingRows, mapper: BinMapper, inputs: Inputs, n_threads: int, loss: Loss, task_is_category: bool
    ) -> Grower:
        constraints = check_monotonic_cst(
            self.monotonic_cst, inputs.names, inputs.n_columns, is_categorical=inputs.is_categorical
        )
        if constraints.any() and loss.n_outputs > 1:
            raise ValueError("monotonic_cst is defined for one score per row; it cannot be used with several classes.")
        if constraints[inputs.task_positions].any():
            raise ValueError(f"monotonic_cst constrains the task column {self.task_column!r}; set it to 0 there.")
        layout = mapper.layout(
            constraints[inputs.feature_positions], rows.n_tasks if task_is_category and rows.n_tasks > 1 else 0
        )
        n_tried = max(1, int(np.ceil(self.max_features * (len(layout.offset) - 1) - 1e-9)))
        # Plain numbers: numba compiles its kernels anew for those of another type, such as numpy's of 32 bits.
        max_depth = 2**31 if self.max_depth is None else int(self.max_depth)
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
            GrowthOptions(int(self.max_leaf_nodes), max_depth, n_tried),
            GrowthOptions(int(leaves_task), max_depth, n_tried),
            shared_split,
            shared_split._replace(min_samples_leaf=float(min_task)),
            n_threads,
            self.grow_policy == "symmetric",
            isinstance(self.max_bins, str) and not is_paper,
        )

    def _boosting_options(
        self,
        loss: Loss,
        labels: TaskLabels,
        stops_early: bool,
        has_validation: bool,
        tasks: TaskLabels,
        rows: TrainingRows,
        n_models: int,
    ) -> BoostingOptions:
        """``labels`` are the tasks that have rows here, ``tasks`` those that ``theta_init`` has values for."""
        rate = self._learning_rate(n_models)
        shared, partition, task = (BlockOptions(self._max_iter(block, has_validation), rate) for block in BLOCKS)
        theta_init = self.theta_init
        if not isinstance(theta_init, str):
            place = {label: i for i, label in enumerate(tasks.labels.tolist())}
            theta_init = _theta_values(theta_init, tasks)[[place[label] for label in labels.labels.tolist()]]
            if partition.max_iter == 0 or labels.n_tasks == 1:
                theta_init = "data"  # without a partition block nothing is estimated
        subsample = self.subsample
        if subsample == "auto":
            is_drawn = has_validation and rows.totals(rows.n_different())[0] >= AUTO_SUBSAMPLE_MIN_ROWS
            subsample = AUTO_SUBSAMPLE if is_drawn else 1.0
        return BoostingOptions(
            blocks=(shared, partition, task),
            newton=self.algorithm == "newton",
            vector_leaves=self._has_vector_leaves(loss),
            theta_init=theta_init,
            theta_learning_rate=self.theta_learning_rate,
            theta_penalty=self.theta_penalty,
            theta_center=self.theta_center,
            subsample=float(subsample),
            patience=int(self.n_iter_no_change) if stops_early else None,
            tol=self.tol,
        )

    def _has_vector_leaves(self, loss: Loss) -> bool:
        return getattr(self, "multi_strategy", None) == "multi_output_tree" and loss.n_outputs > 1

    def _check_same_problem(self, inputs: Inputs, labels: TaskLabels, loss: Loss) -> None:
        """Raise unless a warm start continues on the same columns, tasks, classes and scores, with no fewer rounds."""
        names = list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None
        if inputs.n_columns != self.n_features_in_ or inputs.names != names:
            raise ValueError("warm_start=True continues on the columns of the first fit; pass the same X, or refit.")
        column = self.task_column if inputs.task_source == "column" else None
        if inputs.task_source != self._task_source or column != self._fitted_task_column:
            raise ValueError("warm_start=True continues with task_column or task as in the first fit; or refit.")
        if set(labels.labels.tolist()) != set(self._fitted.labels.labels.tolist()):  # added tasks are the last there
            raise ValueError("warm_start=True continues with the tasks of the first fit; pass the same, or refit.")
        if inputs.classes is not None and not np.array_equal(inputs.classes, self.classes_):
            raise ValueError("warm_start=True continues with the classes of the first fit; pass the same, or refit.")
        if type(loss) is not type(self._fitted.loss):
            raise ValueError(f"warm_start=True continues on the first fit's score; loss={self.loss!r} needs a refit.")
        n_leaf_outputs = self._fitted.model.forest.nodes.value.shape[1]
        if n_leaf_outputs != (loss.n_outputs if self._has_vector_leaves(loss) else 1):
            raise ValueError(f"warm_start=True continues with leaves of {n_leaf_outputs} values; keep multi_strategy.")
        if (self.sharing, self.n_task_groups) != self._fitted_sharing:
            raise ValueError(
                "warm_start=True continues with the sharing and n_task_groups of the first fit; keep them, or refit."
            )
        if getattr(self, "target_scaling", None) != self._fitted_target_scaling:
            raise ValueError("warm_start=True continues on the scale of the first fit; keep target_scaling, or refit.")
        for block in BLOCKS:
            wanted, done = getattr(self, f"max_iter_{block}"), self.n_iter_[block]
            if wanted != "auto" and wanted < done:
                raise ValueError(
                    f"max_iter_{block}={wanted} is smaller than the {done} rounds already fitted; with warm_start=True "
                    "it is the total to reach, so raise it."
                )


def _theta_values(theta_init: Any, labels: TaskLabels) -> np.ndarray:
    if isinstance(theta_init, dict):
        theta_init = values_by_label(theta_init, "theta_init", "task", labels.labels.tolist(), None)
    try:
        theta = np.asarray(theta_init, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"theta_init must hold one finite number per task, but {err}.") from err
    if theta.shape != (labels.n_tasks,) or not np.isfinite(theta).all():
        raise ValueError(
            f"theta_init must hold one finite number per task, {labels.n_tasks} in all, but has shape {theta.shape}; "
            "pass them in the order of the sorted task labels, or as a dict."
        )
    return theta


def _check_names_of_validation_table(table: pd.DataFrame | np.ndarray, names: list[str] | None) -> None:
    if names is None or not isinstance(table, pd.DataFrame):
        return
    unknown = [str(name) for name in table.columns if name not in names]
    if unknown:
        raise ValueError(f"X_val has the column {unknown[0]!r}, which X does not have; pass the same columns.")
    if list(table.columns) != names:
        raise ValueError("X_val has the columns of X in another order; pass X_val[X.columns].")
