"""The mean of several models as one forest: each holds out rows of its own to stop on, and all rows are used together.

Round r of a block holds the trees of round r of every model that has so many, with leaf values divided by the number of
models. The score after r rounds is then the mean of the models' scores after as many of their own rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mttab._core.progress import Progress, UntilOver

from .forest import PARTITION, ForestBuilder
from .rmtgb import BoostedModel, Histories, boost
from .sharing import Race, Sharing
from .theta import inliers_first, mixing_weights
from .threads import map_in_threads


def boost_averaged(race: Race, held: np.ndarray, sharing: Sharing, progress: Progress) -> BoostedModel:
    """Boost a model for each share of the rows that is held out, and return their mean.

    held : bool (n_models, n_rows), the rows on which each model stops and which it does not train on
    progress : follows the models one after the other; it hears nothing where several are boosted at once
    """
    rows, sharings = race.rows, sharing.of_models(len(held))
    unheard = UntilOver()
    if race.n_at_once > 1:
        progress = unheard

    def fit(number: int) -> BoostedModel:
        is_held, own, rng = held[number], sharings[number], np.random.default_rng([race.seed, 1, number])
        training = rows.take(~is_held)
        parts = training, rows.judged(race.X, is_held), race.loss, race.grower(training, own), race.make_builder()
        return boost(*parts, own.apply(race.options), race.base, rng, progress=progress)

    models = map_in_threads(fit, range(len(held)), race.n_at_once, unheard.give_up)
    task_mass = rows.sum_by_task(rows.weight) if rows.task_mass is None else rows.task_mass
    return average(models, race.make_builder(), task_mass)


def average(models: Sequence[BoostedModel], builder: ForestBuilder, task_mass: np.ndarray) -> BoostedModel:
    """The mean of models of the same tasks and base score, whose branches started with the same numbers.

    There is one θ in a forest: where branches have trees, each task mixes them by the mean of the models' θ.
    """
    theta, order = inliers_first(np.mean([_as_started(model) for model in models], axis=0), task_mass)
    for model in models:
        nodes, trees = model.forest.nodes, model.forest.trees
        is_branch = trees.block == PARTITION
        started_as = model.group_order[np.where(is_branch, trees.group, 0)].astype(np.int32)
        nodes = nodes._replace(value=nodes.value / len(models), gain=nodes.gain / len(models))
        builder.append_part(nodes, trees._replace(group=np.where(is_branch, started_as, trees.group)))
    builder.reorder_groups(order)
    first = models[0].forest
    rounds = np.max([model.forest.n_rounds for model in models], axis=0).tolist()
    forest = builder.build(
        first.base, mixing_weights(theta, task_mass), (rounds[0], rounds[1], rounds[2]), first.nodes.value.shape[1]
    )
    train, validation = (
        _mean_histories([getattr(model, name) for model in models]) for name in ("train_loss", "validation_loss")
    )
    return BoostedModel(forest, theta, train, validation, order)


def _as_started(model: BoostedModel) -> np.ndarray:
    """θ with the branches numbered as they were before the first round."""
    if model.theta.ndim == 2:
        return model.theta[:, np.argsort(model.group_order)]
    return model.theta if model.group_order[0] == 0 else -model.theta


def _mean_histories(histories: Sequence[Histories]) -> Histories:
    """Mean loss after each round; a model that has ended keeps its last one."""
    shared, partition, task = (_mean_history(of_block) for of_block in zip(*histories, strict=True))
    return shared, partition, task


def _mean_history(losses: Sequence[list[float]]) -> list[float]:
    n = max(len(history) for history in losses)
    if n == 0:
        return []
    padded = [np.pad(history, (0, n - len(history)), mode="edge") for history in losses]
    return np.mean(padded, axis=0).tolist()
