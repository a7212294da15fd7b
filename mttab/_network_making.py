"""From the options of a network estimator to networks, and to trainings that are ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mttab._core.neural.losses import TaskOutputs
from mttab._core.neural.members import EncodedRows, Job, Shelf, prepare_training
from mttab._core.neural.stepping import PretextOptions, TrainingOptions
from mttab._core.neural.tokens import FeatureTokens
from mttab._core.neural.training import TrainedNetwork
from mttab._core.neural.weighting import make_weighting
from mttab._core.progress import Progress
from mttab._network_fit import Encoding

# Rows of a batch with batch_size="auto": about this share of the training rows, between these bounds.
AUTO_BATCHES, AUTO_BATCH_MIN, AUTO_BATCH_MAX = 32, 32, 1024
# Passes over the rows with max_epochs="auto": as many as see this many rows in all, between these bounds.
AUTO_ROWS_IN_ALL, AUTO_EPOCHS_MIN, AUTO_EPOCHS_MAX = 3_200_000, 10, 100
# So many times as many for a companion whose training validation rows end: what is smooth it learns ever more exactly.
COMPANION_EPOCHS = 4


class NetworkMaking:
    """Mixin of `BaseNetwork`; none of its methods sets an attribute."""

    if TYPE_CHECKING:  # parameters of the estimators, and steps of the fit

        def __getattr__(self, name: str) -> Any: ...

    # --- what an architecture fills in -----------------------------------------------------------------------------

    def _make_module(self, encoding: Encoding, outputs: TaskOutputs, bins: np.ndarray | None) -> Any:
        """The network as a torch module, freshly initialised from torch's global generator."""
        raise NotImplementedError

    def _make_companion(self, encoding: Encoding, outputs: TaskOutputs) -> Any:
        """The same of the MLP beside a member, where there is one."""
        raise NotImplementedError

    def _feature_tokens(
        self,
        encoding: Encoding,
        bins: np.ndarray | None,
        width: int,
        n_numeric: int | None = None,
        embedding: str | None = None,
    ) -> FeatureTokens:
        """What embeds the features: all, or the first `n_numeric` of the numeric ones and the categorical ones."""
        columns = encoding.columns
        return FeatureTokens(
            len(columns.numeric) if n_numeric is None else n_numeric,
            columns.n_scales,
            columns.offset,
            columns.level_frequency,
            width,
            embedding or self.numerical_embedding,
            None if bins is None else bins[:n_numeric],
        )

    # --- networks and their trainings ------------------------------------------------------------------------------

    def _prepare(
        self,
        encoding: Encoding,
        training: EncodedRows,
        held: EncodedRows | None,
        shelf: Shelf,
        seeds: tuple[int, int],
        start: TrainedNetwork | None,
        progress: Progress,
        pool: EncodedRows | None = None,
        sample: EncodedRows | None = None,
        *,
        is_companion: bool = False,
        **overrides: Any,
    ) -> Job:
        """The training of one network, ready to run.

        ``pool`` are the rows of its pretext task, ``sample`` rows to choose its bins by where that is not all of them.
        """
        training = training.with_weight_of_1()
        validation = None if held is None else held.with_weight_of_1()
        pool = None if pool is None else pool.with_weight_of_1()
        options = self._training_options(len(training.y), held is not None, shelf.place.bf16)
        if is_companion and held is not None and self.max_epochs == "auto":
            options = options._replace(max_epochs=COMPANION_EPOCHS * options.max_epochs)
        options = options._replace(on_roots=is_companion, **overrides)
        if pool is not None:
            options = options._replace(pretext=self._pretext_options(len(pool.y)))

        def make() -> TrainedNetwork:
            return self._new_network(encoding, training, sample or pool or training, is_companion)

        return prepare_training(
            start or make, training, validation, options, shelf, seeds, progress, pool, is_companion=is_companion
        )

    def _new_network(
        self, encoding: Encoding, training: EncodedRows, pool: EncodedRows, is_companion: bool
    ) -> TrainedNetwork:
        bins = None
        if self.numerical_embedding == "piecewise_linear" and not is_companion:
            bins = encoding.columns.bin_edges(pool.columns, pool.weight.max(axis=1), self.n_bins)
        if encoding.row_tasks is None:
            task_weight = self._task_factors(encoding.targets, None)
        else:
            task_weight = training.weight_by_task(encoding.row_tasks.n_tasks)
        return self._network_with(encoding, bins, task_weight, is_companion)

    def _blank_network(self, encoding: Encoding, *, is_companion: bool = False) -> TrainedNetwork:
        """A network of the same shape before it has seen any row."""
        is_binned = self.numerical_embedding == "piecewise_linear"
        bins = np.zeros((len(encoding.columns.numeric), self.n_bins + 1)) if is_binned else None
        n_tasks = len(encoding.targets.columns) if encoding.row_tasks is None else encoding.row_tasks.n_tasks + 1
        return self._network_with(encoding, bins, np.ones(n_tasks), is_companion)

    def _network_with(
        self, encoding: Encoding, bins: np.ndarray | None, task_weight: np.ndarray, is_companion: bool
    ) -> TrainedNetwork:
        targets = encoding.targets.columns
        outputs = TaskOutputs([t.kind for t in targets], [0 if t.classes is None else len(t.classes) for t in targets])
        weighting = make_weighting(self.task_weighting, task_weight, encoding.row_tasks is not None)
        if is_companion:
            return TrainedNetwork(self._make_companion(encoding, outputs), outputs, weighting, is_companion=True)
        return TrainedNetwork(self._make_module(encoding, outputs, bins), outputs, weighting)

    def _batch_size(self, n: int) -> int:
        if self.batch_size != "auto":
            return self.batch_size
        return int(np.clip(2 ** round(np.log2(max(n, 1) / AUTO_BATCHES)), AUTO_BATCH_MIN, AUTO_BATCH_MAX))

    def _pretext_options(self, n: int) -> PretextOptions:
        epochs = _auto_epochs(n) if self.pretext_epochs == "auto" else self.pretext_epochs
        is_before = self.pretext == "before"
        return PretextOptions(is_before, self.pretext_fraction, self.pretext_weight, epochs, self._batch_size(n))

    def _training_options(self, n: int, has_validation: bool, bf16: bool) -> TrainingOptions:
        return TrainingOptions(
            max_epochs=_auto_epochs(n) if self.max_epochs == "auto" else self.max_epochs,
            batch_size=self._batch_size(n),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            schedule=self.schedule,
            gradient_clip=self.gradient_clip,
            averaging=self.weight_averaging,
            patience=self.patience if has_validation else None,
            context_size=getattr(self, "context_size", 0),
            bf16=bf16,
            compile=self.compile,
            sam_rho=self.sam_rho,
        )


def _auto_epochs(n: int) -> int:
    return int(np.clip(AUTO_ROWS_IN_ALL // max(n, 1), AUTO_EPOCHS_MIN, AUTO_EPOCHS_MAX))
