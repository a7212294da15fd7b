"""Fitting an R-MTGB estimator on rows that are bins already, in one process or in step with others.

None of the functions sets an attribute of the estimator but `finish`, which makes it the one that a fit on the whole
table leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mttab._boosting_fit import Fitted
from mttab._boosting_pieces import BinnedRows, Problem
from mttab._core.boosting.averaging import boost_averaged
from mttab._core.boosting.binning import BinMapper, pack_words, unpack_words
from mttab._core.boosting.distributed import DistributedGrower, spread_base_score
from mttab._core.boosting.forest import ForestBuilder
from mttab._core.boosting.growing import Grower
from mttab._core.boosting.losses import Loss
from mttab._core.boosting.rmtgb import BoostedModel, boost
from mttab._core.boosting.rows import ALONE, Peers, TrainingRows, ValidationRows
from mttab._core.boosting.sharing import Race, Sharing, with_rounds
from mttab._core.holdout import stops_early
from mttab._core.long_table import TargetScaling
from mttab._core.progress import Progress


def boost_rows(
    model: Any,
    problem: Problem,
    rows: BinnedRows,
    *,
    seed: int,
    n_threads: int,
    peers: Peers = ALONE,
    is_own_task: np.ndarray | None = None,
    explicit: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Boost the rows that are here, in step with the peers; the forest has trees of the tasks that are here.

    is_own_task : bool (n_tasks,), tasks that this process answers for; None: all
    explicit : ``X_val`` and its companions, of which each process takes the rows of its own tasks
    """
    labels, loss = problem.labels, model._make_loss(problem.classes)
    order = np.lexsort((rows.position, rows.task))
    task = rows.task[order]
    scaling = spread_scaling(model, rows.y, rows.task, rows.weight, labels.n_tasks, loss, peers)
    training = TrainingRows(
        words=pack_words(rows.codes[:, order]),
        n_features=len(rows.codes),
        task=task,
        task_start=np.searchsorted(task, np.arange(labels.n_tasks + 1)).astype(np.int64),
        y=(rows.y[order] - scaling.center[task]) / scaling.scale[task],
        weight=rows.weight[order],
        position=rows.position[order],
        task_mass=problem.task_mass,
        peers=peers,
    )
    explicit = explicit or {"X_val": None}
    validation = own_validation(model, problem, training, is_own_task, explicit, scaling)
    is_stopped = stops_early(model.early_stopping, problem.n_rows, explicit, None) and (
        validation is not None or model.validation_fraction is None
    )
    return boost_training(
        model, problem, training, validation, scaling, is_stopped, seed=seed, n_threads=n_threads,
        follow=lambda _: progress or Progress(),
    )  # fmt: skip


class DecodedRows:
    """Raw values (n_features, n_rows) of binned rows, made for the rows that are asked for: ``X[:, rows]``."""

    def __init__(self, mapper: BinMapper, rows: TrainingRows):
        self.mapper, self.rows = mapper, rows

    def __getitem__(self, place: tuple[Any, Any]) -> np.ndarray:
        return self.mapper.decode(unpack_words(self.rows.words[place], self.rows.n_features))


def boost_training(
    model: Any,
    problem: Problem,
    training: TrainingRows,
    validation: ValidationRows | None,
    scaling: TargetScaling,
    is_stopped: bool,
    *,
    seed: int,
    n_threads: int,
    follow: Callable[[Callable[[BoostedModel], Fitted]], Progress],
    chosen: Fitted | None = None,
    is_held: np.ndarray | None = None,
) -> Fitted:
    """Boost training rows; ``chosen`` is a fit whose sharing and numbers of rounds are taken over.

    ``follow`` is given what makes the fit of a model, and makes what follows the rounds.
    ``is_held`` (n_models, n_rows) asks for the mean of models which hold these rows out; there is then no
    ``validation``.
    """
    mapper, encoder, labels, inputs = problem.mapper, problem.encoder, problem.labels, problem.inputs
    assert mapper is not None and encoder is not None
    loss = model._make_loss(problem.classes)
    is_alone = training.peers is ALONE
    if model.loss == "poisson" and training.totals(training.y.sum()) == [0.0]:
        model._read_target(np.zeros(1))  # says what is wrong
    X = DecodedRows(mapper, training)
    if is_held is not None:
        validation = training.judged(X, is_held[0])
    has_validation = validation is not None or chosen is not None
    n_models, named = 1 if is_held is None else len(is_held), inputs.task_is_category
    options = model._boosting_options(loss, labels, is_stopped, has_validation, labels, training, n_models)
    base = np.zeros(loss.n_outputs)
    if model.algorithm != "paper":
        n_classes = None if problem.classes is None else len(problem.classes)
        base = spread_base_score(loss, training, n_classes)
        if is_alone:
            base = loss.base_score(training.y, training.weight)

    def make_grower(rows: TrainingRows, task_is_category: bool) -> Grower:
        grower = model._make_grower(rows, mapper, inputs, n_threads, loss, task_is_category)
        return grower if is_alone else DistributedGrower.of(grower)

    def make_builder() -> ForestBuilder:
        return ForestBuilder(mapper, labels.n_tasks)

    race = Race(training, X, loss, make_grower, make_builder, options, base, named, seed, n_models)
    if chosen is not None:
        sharing: Sharing = chosen.sharing
        applied = with_rounds(sharing.apply(options), chosen.model.forest.n_rounds)
    else:
        sharing = model._decide_sharing(race, validation)
        applied = sharing.apply(options)
    weight = training.sum_by_task(training.weight)

    def as_fitted(boosted: BoostedModel) -> Fitted:
        numbered, positions = sharing.renumbered(boosted.group_order), tuple(problem.columns.task_positions)
        return Fitted(boosted, loss, encoder, mapper, scaling, labels, numbered, weight, positions)

    progress = follow(as_fitted)
    if is_held is not None:
        return as_fitted(boost_averaged(race, is_held, sharing, progress))
    rng, grower = np.random.default_rng([seed, 1, 0]), race.grower(training, sharing)
    return as_fitted(boost(training, validation, loss, grower, make_builder(), applied, base, rng, progress=progress))


def spread_scaling(
    model: Any, y: np.ndarray, task: np.ndarray, weight: np.ndarray, n_tasks: int, loss: Loss, peers: Peers = ALONE
) -> TargetScaling:
    """Centre and scale of each task's target, from the rows of all processes."""
    if getattr(model, "target_scaling", None) is None or not loss.supports_target_scaling:
        return TargetScaling.identity(n_tasks)
    return TargetScaling.standard(y, task, weight, n_tasks, total=peers.sum)


def own_validation(
    model: Any,
    problem: Problem,
    rows: TrainingRows,
    is_own_task: np.ndarray | None,
    explicit: dict[str, Any],
    scaling: TargetScaling,
) -> ValidationRows | None:
    """Validation rows of the tasks that are here; those of unseen tasks count with the first process."""
    if explicit.get("X_val") is None:
        return None
    factors = problem.class_factors, problem.task_factors
    everything = model._explicit_validation(explicit, problem.inputs, problem.encoder, problem.labels, scaling, factors)
    if is_own_task is None:
        return everything
    keep = np.append(is_own_task, rows.peers.rank == 0)[everything.task]
    X = np.ascontiguousarray(everything.X[:, keep])
    return ValidationRows(X, everything.task[keep], everything.y[keep], everything.weight[keep])


def finish(model: Any, problem: Problem, fitted: Fitted, seed: int) -> None:
    """Leave the estimator as a fit on the whole table does."""
    model._seed, model._fitted = seed, fitted
    model._set_fitted_attributes(problem.inputs)
