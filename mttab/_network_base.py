"""What every network estimator shares: fit as a whole, and what it leaves behind."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from mttab._callbacks import CallbackSupport, FitHooks
from mttab._core.holdout import stops_early
from mttab._core.neural.device import run_side_by_side
from mttab._core.neural.members import (
    EncodedRows,
    Job,
    Place,
    Shelf,
)
from mttab._core.neural.training import TrainedNetwork
from mttab._core.progress import Messages, Progress, messages_shown
from mttab._core.sources import Source, find_source
from mttab._core.validation import fit_context
from mttab._network_companions import Companions
from mttab._network_export import NetworkExport
from mttab._network_fit import Encoding, Layout, NetworkFitSteps, Rows
from mttab._network_making import NetworkMaking
from mttab._network_predict import NetworkPredictions
from mttab._network_ranks import check_same_arguments
from mttab._network_saving import NetworkSaving
from mttab._network_sources import fit_source


class BaseNetwork(
    NetworkSaving,
    NetworkExport,
    CallbackSupport,
    NetworkFitSteps,
    NetworkMaking,
    Companions,
    NetworkPredictions,
    BaseEstimator,
):
    """A network over encoded rows, without saying which: `_make_module` does."""

    # `task` is routed by default wherever scikit-learn routes metadata; the other arguments ask for it as usual.
    __metadata_request__fit: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__partial_fit: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__predict: ClassVar[dict[str, Any]] = {"task": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"task": True}

    # Options that a fit which goes on cannot change; an architecture adds its own.
    _fixed_options: ClassVar[tuple[str, ...]] = (
        *("task_weighting", "task_weight", "target_scaling"),
        *("numerical_embedding", "n_bins", "numerical_scaling"),
    )

    _encoding: Encoding
    _networks: list[TrainedNetwork]
    _options_of_fit: dict[str, Any]
    _fitted_task_column: Any
    _seed: int
    tasks_: np.ndarray
    n_tasks_: int
    task_types_: dict[Any, str]
    device_: str
    n_iter_: list[int]
    history_: pd.DataFrame
    n_features_in_: int
    feature_names_in_: np.ndarray

    def _look_back(self, rows: EncodedRows) -> None:
        """What there is to say of the fitted networks, given the rows they were trained on; an architecture may."""

    # --- fit -------------------------------------------------------------------------------------------------------

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
    ) -> Any:
        """Fit the networks.

        Parameters
        ----------
        X : array-like of shape (n, n_features), path, numpy.memmap or iterator
            Features, with the task column if ``task_column`` names one. NaN is missing; pandas categories and strings
            are categorical. Frames of polars and pyarrow are read as pandas reads them. What does not fit into memory
            may be the path of a Parquet or Arrow file (or a folder of them), a memory-mapped array, or an iterator of
            (X, y) or (X, y, sample_weight) chunks: it is encoded once to a temporary file, from which batches are read.
        y : array-like of shape (n,) or (n, n_tasks), str, list of str or None
            Labels. With several columns every column is a task, and NaN or None means not observed; a row without any
            label is left out, with a warning, unless ``pretext`` has a use for it. Where ``X`` is a path, the names of
            the columns; None where it is an iterator.
        sample_weight : array-like of shape (n,) or (n, n_tasks), default=None
            Weight of each row or of each label; 0 = not observed.
        task : array-like of shape (n,) or (n, n_id_columns), default=None
            Task ids, where rows have tasks and the ids are not a column of ``X``.
        X_val, y_val, task_val, sample_weight_val : array-like, default=None
            Validation rows for early stopping, in place of ``validation`` and ``validation_fraction``.

        Returns
        -------
        object
            The fitted estimator. After KeyboardInterrupt it has the best weights so far.

        Raises
        ------
        ValueError
            If an argument breaks its rule; the message names it and the remedy. An earlier fit stays usable.
        """
        explicit = {"X_val": X_val, "y_val": y_val, "task_val": task_val, "sample_weight_val": sample_weight_val}
        previous = self if self.warm_start and hasattr(self, "_networks") else None
        place = Place.resolve(self.device, self.precision)
        check_same_arguments(self, {"X": X, "y": y, "sample_weight": sample_weight, "task": task, **explicit})
        seed = previous._seed if previous else place.draw_seed(self.random_state)
        metadata = {"sample_weight": sample_weight, "task": task}
        n_networks = len(self._networks_to_train())
        hooks = self._begin_callbacks(n_networks, in_order=False, X=X, y=y, metadata=metadata)
        wants = {"warm_start": self.warm_start, "validation": self.validation, "has_tables": True}
        source = find_source(X, y, sample_weight, task, **wants)
        if source is not None:
            return self._fit_source(source, explicit, place, seed, hooks)
        is_new = previous is None or self.n_members > len(previous._members)
        learns_pretext = self.pretext == "during" or (self.pretext == "before" and is_new)
        encoding, rows, keep, ids = self._read_training(
            X, y, sample_weight, task, previous, keep_unlabelled=learns_pretext
        )
        is_stopped = stops_early(self.early_stopping, len(rows.values), explicit, self.validation)
        explicit_rows = self._explicit_rows(encoding, explicit)
        encoded = self._encoded_rows(encoding, rows)
        explicit_held = None if explicit_rows is None else self._encoded_rows(encoding, explicit_rows)
        unlabelled = None if rows.unlabelled is None else self._encoded_rows(encoding, rows.unlabelled)
        splits: list[tuple[EncodedRows, EncodedRows | None]] = []
        for member in range(self.n_members):
            is_held = np.zeros(len(rows.values), dtype=bool)
            if is_stopped and explicit_rows is None:
                is_held = self._held_out(encoding, rows, keep, X, y, ids, np.random.default_rng([seed, member]))
            is_split = is_held.any()
            splits.append((encoded.take(~is_held), encoded.take(is_held)) if is_split else (encoded, explicit_held))
        shelf = Shelf(place)
        to_train = [
            (part.with_weight_of_1(), None if held is None else held.with_weight_of_1()) for part, held in splits
        ]
        jobs = []
        for number, (member, is_companion) in enumerate(self._networks_to_train()):
            training, held = to_train[member]
            start = previous._trained_network(member, is_companion) if previous else None
            pool = training.and_rows(unlabelled) if learns_pretext else None
            progress = hooks.follow(self.verbose, "epoch", partial(self._attributes_of, encoding, place, seed), number)
            seeds = (seed, member)
            job = self._prepare(
                encoding, training, held, shelf, seeds, start, progress, pool, is_companion=is_companion
            )
            jobs.append(job)
        with messages_shown(self.verbose):
            done = run_side_by_side(jobs, place.device, self.n_jobs)
        share = self._find_shares(done, [held for _, held in splits], place, previous)
        self._take_over(done, encoding, place, seed, previous, share)
        self._look_back(encoded)
        hooks.end()
        return self

    def _fit_source(self, source: Source, explicit: dict[str, Any], place: Place, seed: int, hooks: FitHooks) -> Any:
        """Fit on what does not fit into memory."""

        def follow(encoding: Encoding, member: int) -> Progress:
            return hooks.follow(self.verbose, "epoch", partial(self._attributes_of, encoding, place, seed), member)

        def run(jobs: list[Job]) -> list[Any]:
            with messages_shown(self.verbose):
                return run_side_by_side(jobs, place.device, self.n_jobs)

        encoding, done, sample, share = fit_source(self, source, explicit, place, seed, follow, run)
        self._take_over(done, encoding, place, seed, None, share)
        self._look_back(sample)
        hooks.end()
        return self

    def _attributes_of(self, encoding: Encoding, place: Place, seed: int, network: TrainedNetwork) -> dict[str, Any]:
        """All attributes of this estimator as they would be with that network alone, for a callback to look at."""
        other = copy.copy(self)
        other._take_over(
            [(network, [])], encoding, place, seed, None, self._find_shares([(network, [])], [], place, None)
        )
        return dict(vars(other))

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, task: Any = None, *, classes: Any = None) -> Any:
        """Train for one epoch on some rows, from where the networks are.

        The first call fits scales, levels, classes and tasks; later ones keep them. There is no early stopping, no
        pretext task, and the step size stays at ``learning_rate``.

        Parameters
        ----------
        X, y, sample_weight, task
            As in `fit`.
        classes : array-like, list of these or dict, default=None
            In the first call, all classes of ``y``, of each of its columns, or by column; those in this ``y`` by
            default.

        Returns
        -------
        object
            The estimator.
        """
        previous: Any = self if hasattr(self, "_networks") else None
        place = Place.resolve(self.device, self.precision)
        check_same_arguments(self, {"X": X, "y": y, "sample_weight": sample_weight, "task": task})
        seed = previous._seed if previous else place.draw_seed(self.random_state)
        encoding, rows, _, _ = self._read_training(X, y, sample_weight, task, previous, classes)
        to_train = previous._trained_so_far() if previous else self._networks_to_train()
        encoded, shelf = self._encoded_rows(encoding, rows).with_weight_of_1(), Shelf(place)
        once: dict[str, Any] = {"max_epochs": 1, "schedule": "constant", "warmup_fraction": 0.0, "patience": None}
        jobs = [
            self._prepare(
                encoding, encoded, None, shelf, (seed, member),
                previous._trained_network(member, is_companion) if previous else None,
                Messages(self.verbose, "epoch"), is_companion=is_companion, **once,
            )
            for member, is_companion in to_train
        ]  # fmt: skip
        with messages_shown(self.verbose):
            done = run_side_by_side(jobs, place.device, self.n_jobs)
        self._take_over(done, encoding, place, seed, previous, self._find_shares(done, [], place, previous))
        self._look_back(encoded)
        return self

    def _take_over(
        self, done: list[Any], encoding: Encoding, place: Place, seed: int, previous: Any, share: np.ndarray
    ) -> None:
        """Set all fitted attributes; the history goes on where training did."""
        before = [previous.history_] if previous else []
        self._seed, self._networks = seed, [network for network, _ in done]
        self._set_fitted_attributes(encoding, [figures for _, epochs in done for figures in epochs], place)
        if hasattr(self, "companion_dim"):
            labels = [target.label for target in encoding.targets.columns]
            self.companion_share_ = dict(zip(labels, share.tolist(), strict=True))
        parts = [history for history in (*before, self.history_) if len(history)]
        if parts:
            self.history_ = pd.concat(parts, ignore_index=True)

    def _read_training(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        task: Any,
        previous: Any,
        classes: Any = None,
        *,
        keep_unlabelled: bool = False,
    ) -> tuple[Encoding, Rows, np.ndarray, Any]:
        """What fit learns of the columns (or, to go on, had learned) and the labelled rows."""
        table, layout, features, ids = self._read_layout(X, task)
        if previous is None:
            targets, values = self._fit_targets(y, sample_weight, classes)
        else:
            validate_data(self, table, reset=False, skip_check_array=True)
            self._check_same_task_source(layout)
            self._check_same_options()
            targets, values = self._encoding.targets, self._encoding.targets.encode(y, sample_weight)
        if ids is not None and values.shape[1] > 1:
            raise ValueError(
                f"y has {values.shape[1]} columns, which are tasks themselves, so task_column and task cannot be "
                "used with it; pass one column of y, or leave them out."
            )
        rows, keep = self._labelled_rows(table, features, y, values, sample_weight, ids, keep_unlabelled)
        encoding = self._fit_encoding(layout, targets, rows) if previous is None else self._encoding
        return encoding, rows, keep, ids

    def _check_same_options(self) -> None:
        for name in self._fixed_options:
            before = self._options_of_fit[name]
            if getattr(self, name) != before:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}, but the fit that this one goes on from had {before!r}; set it "
                    "back, or refit with warm_start=False."
                )

    def _check_same_task_source(self, layout: Layout) -> None:
        if layout.task_source != self._encoding.layout.task_source:
            raise ValueError("Going on from an earlier fit needs task_column or task as there; pass them the same way.")

    def _encoded_rows(self, encoding: Encoding, rows: Rows) -> EncodedRows:
        row_task = None if rows.task_ids is None else encoding.encode_tasks(rows.task_ids)
        weight = rows.weight
        if row_task is not None:
            factors = np.append(self._task_factors(encoding.targets, encoding.row_tasks), 1.0)
            weight = weight * factors[row_task, None]
        y = np.nan_to_num(encoding.scale(rows.values, row_task))
        return EncodedRows(encoding.encode_features(rows.features), row_task, y, weight)

    def _set_fitted_attributes(self, encoding: Encoding, history: list[dict[str, Any]], place: Place) -> None:
        self._encoding = encoding
        self._options_of_fit = {name: copy.copy(getattr(self, name)) for name in self._fixed_options}
        layout, targets = encoding.layout, encoding.targets.columns
        self.n_features_in_ = layout.n_columns
        if layout.names is not None:
            self.feature_names_in_ = np.array(layout.names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._fitted_task_column = self.task_column if layout.task_source == "column" else None
        labels = [t.label for t in targets]
        if encoding.row_tasks is not None:
            self.tasks_ = encoding.row_tasks.labels
        else:
            self.tasks_ = np.empty(len(labels), dtype=object)
            self.tasks_[:] = labels
        self.n_tasks_ = len(self.tasks_)
        self.task_types_ = {t.label: t.kind for t in targets}
        self.device_ = str(place.device)
        self.n_iter_ = [network.n_epochs for network in self._networks]
        self.history_ = _history_frame(history, labels)
        if not self._has_companions:
            self.history_ = self.history_.drop(columns="is_companion", errors="ignore")

    # --- scikit-learn ----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """State with every tensor on the CPU, so that it can be read where there is no other device."""
        state = super().__getstate__().copy()
        if "_networks" in state:
            state["_networks"] = [network.on_cpu() for network in state["_networks"]]
        return state

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.non_deterministic = False
        return tags


def _history_frame(history: list[dict[str, Any]], labels: list[Any]) -> pd.DataFrame:
    """A row per epoch; the validation figure of every task in a column of its own."""
    rows = []
    for figures in history:
        by_task = figures.get("by_task", [])
        named = {f"validation_score[{label}]": value for label, value in zip(labels, by_task, strict=False)}
        rows.append({name: value for name, value in figures.items() if name != "by_task"} | named)
    return pd.DataFrame(rows, columns=None if rows else ["member", "epoch", "learning_rate", "train_loss"])
