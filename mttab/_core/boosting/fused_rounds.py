"""Many rounds of a block in one go, without a word of Python between their kernels.

A round on a few thousand rows takes 0.2 ms, in ten calls of kernels. Each gives Python's lock away and asks for it
back; where fits run side by side in threads, as those of a race do, it waits for it, and is woken up, up to ten times:

    thread 1   ▓▓▓▓▓·▓▓▓··▓▓▓▓▓▓▓▓··▓▓▓▓        ▓ a kernel    · waiting for Python's lock
    thread 2   ▓▓▓··▓▓▓▓▓▓▓··▓▓▓▓▓·▓▓▓▓

`fused_kernel.run_rounds` calls the very same kernels in the same order, so the model is the same, bit for bit. Whatever
it does not know, see `can_run`, is left to the rounds of `rmtgb`, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import typeof, types

from .addresses import address_of, kinds_of
from .collecting import collect_nodes, new_room
from .derivatives import Derivatives
from .forest import PARTITION, SHARED, TASK, ForestBuilder, Nodes, Trees
from .fused_kernel import STOPPED, run_rounds
from .fused_state import Best, Branches, Growth, Held, Kernels, Plan, Scored, Told, Training
from .growing import Grower
from .leaves import add_leaf_values
from .local_bins import no_local_bins
from .losses import n_sums_of_losses
from .options import BoostingOptions
from .packed_histogram import MIN_PACKED_ROWS, Packing
from .rows import ALONE, Scores, TrainingRows, ValidationRows
from .sampling import draw_rows
from .scoring import WALKED_ROWS, add_tree, walk_round
from .symmetric import grow_symmetric_tree
from .task_trees import grow_small_trees, grow_trees
from .theta import as_columns
from .tree import Table
from .tree_arrays import only_tree

# Rounds in one go, and (row, feature) cells: Ctrl-C is heard in between, after some 0.1 s at the latest.
MAX_ROUNDS, MAX_CELLS = 64, 30_000_000
# Nodes that there is room for, and words of 32 bits for their sets of levels: 16 and 4 MB.
MAX_NODES, MAX_WORDS = 2**18, 2**20

# Kernels of this process by what tells the types of their arguments.
_known_kernels: dict[tuple[Any, ...], Kernels] = {}


@dataclass
class BestRound:
    """The round of a block with the least loss so far, and what going back to it restores."""

    loss: float
    round: int
    state: tuple[Scores, Scores | None, np.ndarray]


def can_run(block: int, rows: TrainingRows, derivatives: Derivatives, grower: Grower, options: BoostingOptions) -> bool:
    """Whether `FusedRounds` know how: one score per row, without quantiles, one thread, no leaf by leaf shared trees.

    Nor the published algorithm's branches, nor trees of which a round's would need too much room.
    """
    is_plain = grower.n_threads == 1 and rows.peers is ALONE and not derivatives.renews and rows.n_rows > 0
    knows_trees = block == TASK or (grower.is_symmetric and (block == SHARED or options.newton))
    n_nodes, n_words = grower.size_of_round(block == TASK)
    is_small = n_nodes <= MAX_NODES and n_words <= MAX_WORDS
    return is_plain and knows_trees and is_small and derivatives.loss.n_outputs == 1


@dataclass
class ThetaState:
    """θ (n_tasks,) or (n_tasks, n_groups), and what its steps need; see `rmtgb._Run.theta_units`."""

    theta: np.ndarray
    mixing: np.ndarray
    task_mass: np.ndarray
    units: tuple[np.ndarray, float, np.ndarray]


class FusedRounds:
    """Rounds of one block of one fit, if `can_run`.

    block : see `forest.BLOCKS`
    derivatives : of ``rows``, which ``grower`` grows trees on
    scores, validation_scores : of both kinds of rows, added to
    builder : is given the trees
    task_keys : uint64 (n_tasks,), random bits of each task
    validation_weight : of all validation rows, what their losses are divided by
    state : θ before these rounds
    """

    def __init__(
        self,
        block: int,
        rows: TrainingRows,
        derivatives: Derivatives,
        grower: Grower,
        options: BoostingOptions,
        scores: Scores,
        validation_scores: Scores | None,
        validation: ValidationRows | None,
        builder: ForestBuilder,
        task_keys: np.ndarray,
        validation_weight: float,
        state: ThetaState,
    ):
        self.block, self.builder = block, builder
        per_task, n_rows = block == TASK, rows.n_rows
        is_packed = block == SHARED and n_rows >= MIN_PACKED_ROWS and grower.may_pack(derivatives.gradient, rows.weight)
        self.growth = _growth(grower, derivatives, per_task, is_packed, task_keys)
        for each in (scores, validation_scores):
            if each is not None and block == PARTITION:
                each.part(PARTITION, 0)  # branches without trees yet
        self.training = _training(rows, options, _scored(scores, state.mixing))
        self.held = _held(validation, validation_scores, rows.n_features, state.mixing)
        self.branches = None if block != PARTITION else _branches(self.growth.table, rows, options, state)
        self._shape_of_theta = state.theta.shape
        *kernels, parameter = derivatives.loss.serial_kernels()
        n_bins = self.growth.local.n_bins
        self.plan = Plan(
            float(parameter), float(options.subsample), float(options.blocks[block].learning_rate), rows.n_tasks,
            float(validation_weight), -1 if options.patience is None else options.patience, float(options.tol),
            block, per_task, is_packed, not rows.is_unweighted, bool(n_bins.any()), not n_bins.all(),
        )  # fmt: skip
        # Branches have a place of their own in the room.
        self.n_places = 1 if block != PARTITION else len(self.training.scored.groups)
        n_nodes, n_words = (self.n_places * n for n in grower.size_of_round(per_task))
        most = MAX_ROUNDS, MAX_CELLS // (n_rows * max(rows.n_features, 1)), MAX_NODES // n_nodes
        most_rounds = max(1, min(*most, MAX_WORDS // max(n_words, 1), options.blocks[block].max_iter))
        room = new_room(most_rounds * self.n_places, self.growth.trees)
        trees = Trees(*np.zeros((5, len(self.growth.trees.n_nodes)), dtype=np.int32))
        self.told = Told(room, builder.n_levels, trees, np.empty(most_rounds), np.empty(most_rounds))
        self.kernels = self._kernels(*kernels)

    def run(self, first: int, last: int, rng: np.random.Generator, best: BestRound) -> tuple[int, bool]:
        """Rounds from number ``first`` on, at most up to ``last``; `told` has their losses, ``best`` the best round.

        Returns how many are done, perhaps none, and whether the losses have stopped falling.
        """
        n_rounds, n_seeds = min(last - first, len(self.told.training)), 1 if self.plan.share >= 1.0 else 2
        before = rng.bit_generator.state
        seeds = np.zeros((n_rounds, 2), dtype=np.uint64)
        seeds[:, 2 - n_seeds :] = rng.integers(2**63, size=(n_rounds, n_seeds))
        found = self._best(best)
        data = self.training, self.held, self.branches, self.plan, found, self.told, seeds, first
        n_done, end = run_rounds(self.kernels, self.growth, *data)
        if found.round[0] != best.round and self.block == PARTITION:
            for scores, groups in zip(best.state[:2], (found.groups, found.held_groups), strict=True):
                if scores is not None:
                    scores.has_groups, scores.groups = True, groups
        best.loss, best.round = float(found.loss[0]), int(found.round[0])
        if n_done < n_rounds:  # the seeds of rounds that were not are drawn again, by whoever comes next
            rng.bit_generator.state = before
            rng.integers(2**63, size=(n_done, n_seeds))
        if n_done > 0:
            self.builder.append_rounds(self.told.room, n_done, self.n_places, self.block, first)
        return n_done, end == STOPPED

    @property
    def theta(self) -> np.ndarray:
        """θ after the rounds so far of the partition block, in the shape in which it came."""
        assert self.branches is not None
        return self.branches.theta.reshape(self._shape_of_theta).copy()

    def _best(self, best: BestRound) -> Best:
        """The best round as the kernel knows it, which writes to its scores and its θ."""
        scores, held_scores, theta = best.state
        held = self.held.scored if held_scores is None else held_scores
        groups, held_groups = scores.groups, held.groups
        if self.block == PARTITION and not scores.has_groups:  # its branches are one empty array for all copies
            groups = np.empty_like(self.training.scored.groups)
            held_groups = np.empty_like(self.held.scored.groups)
        number = np.array([best.loss]), np.array([best.round])
        return Best(*number, scores.fixed, held.fixed, groups, held_groups, as_columns(theta))

    def _kernels(self, derivatives: Any, values: Any) -> Kernels:
        """The kernels; to find the types of all arguments takes a millisecond, so they are remembered."""
        plan, n_held = self.plan, len(self.held.y)
        given = self.growth.table, self.growth.layout, self.growth.local, *_parts(self.training), *_parts(self.held)
        needed = (
            True, plan.share < 1.0, not (plan.per_task or plan.is_packed), plan.is_packed,
            plan.per_task and plan.has_small, plan.per_task and plan.has_large, True, True,
            n_held > 0 and (plan.per_task or n_held < WALKED_ROWS), n_held >= WALKED_ROWS and not plan.per_task,
            n_held > 0,
        )  # fmt: skip
        scalars = tuple(map(type, (*self.growth.growth, *self.growth.split)))
        key = derivatives, needed, scalars, *map(kinds_of, given)
        if key not in _known_kernels:
            _known_kernels[key] = self._addresses(derivatives, values, needed)
        return _known_kernels[key]

    def _addresses(self, derivatives: Any, values: Any, needed: tuple[bool, ...]) -> Kernels:
        """The kernels for arguments as `run_rounds` passes them, if they are needed."""
        training, held, plan, told, growth = self.training, self.held, self.plan, self.told, self.growth
        table, trees, room = growth.table, growth.trees, told.room
        seed, zero, one = np.uint64(0), np.int64(0), np.int64(1)
        packing = Packing(zero, zero, 1.0, 1.0, zero)
        shared = table, growth.layout, training.rows, training.out_rows, growth.growth, growth.split
        rest = growth.scratch, growth.subset_search, seed, None, growth.tree
        sample = training.rows, training.row_start, training.out_rows, training.out_start
        of_tasks, how = (table, growth.layout, *sample, growth.local), (growth.growth, growth.split)
        here = room.ints[0], room.floats[0], room.missing_left[0], room.value[0], room.words[0]
        (feature, left, right, start, n_levels), (threshold, gain, weight) = here[:2]
        nodes = Nodes(feature, threshold, here[2], left, right, start, n_levels, here[4], here[3], gain, weight)
        walked = held.X, held.scored.task, plan.n_tasks, nodes, told.trees
        losses = training.y, training.scored.total, training.weight, plan.parameter, table.gradient, table.hessian
        calls = (
            (derivatives, types.none, (*losses, training.loss)),
            (draw_rows, types.int64, (training.key, seed, plan.share, training.task_start, *sample)),
            (grow_symmetric_tree, types.int64, (*shared, None, *rest)),
            (grow_symmetric_tree, types.int64, (*shared, packing, *rest)),
            (grow_small_trees, types.none, (*of_tasks, plan.is_weighted, *how, growth.seeds, trees)),
            (grow_trees, types.none, (*of_tasks, *how, growth.scratch, growth.seeds, trees)),
            (add_leaf_values, types.none, (trees, sample[1], sample[0], sample[3], sample[2], plan.rate, zero, one,
                                           training.scored.fixed)),
            (collect_nodes, types.int64, (trees, told.n_levels, plan.rate, *here)),
            (walk_round, types.none, (*walked, plan.per_task, held.scored.fixed)),
            (add_tree, types.none, (*walked, held.scored.fixed)),
            (values, types.none, (held.y, held.scored.total, plan.parameter, held.loss)),
        )  # fmt: skip
        return Kernels(
            *(
                address_of(kernel, tuple(map(typeof, arguments)), result, is_needed)
                for (kernel, result, arguments), is_needed in zip(calls, needed, strict=True)
            )
        )


def _growth(grower: Grower, derivatives: Derivatives, per_task: bool, is_packed: bool, task_keys: np.ndarray) -> Growth:
    """What grows trees on these derivatives."""
    gradient, hessian, weight = derivatives.gradient, derivatives.hessian, grower.rows.weight
    table = Table(grower.rows.words, grower.task_ids, gradient, hessian, weight)
    none = np.empty(0, dtype=np.uint64)
    if not per_task:
        trees, tree = grower.shared_tree(len(gradient))
        scratch, local = grower.scratch_of_shared(gradient, is_packed), no_local_bins(grower.rows.n_tasks)
        options, search = (grower.layout, grower.shared_growth, grower.shared_split), grower.subset_search()
        return Growth(table, *options, scratch, search, local, trees, tree, none, none)
    trees, local, scratch = grower.room_of_tasks(gradient)
    options = grower.task_layout, grower.task_growth, grower.task_split
    seeds = np.empty_like(task_keys)
    return Growth(table, *options, scratch, np.int64(0), local, trees, only_tree(trees), task_keys, seeds)


def _scored(scores: Scores, mixing: np.ndarray) -> Scored:
    if not scores.has_groups:
        n_rows = len(scores.task)
        none = np.empty((0, n_rows, 1)), np.empty((0, n_rows))
        return Scored(scores.task, scores.fixed, *none, scores.fixed)
    return Scored(scores.task, scores.fixed, scores.groups, scores.shares(mixing).copy(), np.empty_like(scores.fixed))


def _training(rows: TrainingRows, options: BoostingOptions, scored: Scored) -> Training:
    key = rows.content_key if options.subsample < 1.0 else np.empty(0, dtype=np.uint64)
    drawn, out = np.empty((2, rows.n_rows + 1), dtype=np.uint32)
    row_start, out_start = rows.task_start.copy(), np.zeros_like(rows.task_start)
    bounds, out_bounds = np.zeros((2, 2), dtype=np.int64)
    losses = np.empty(n_sums_of_losses(rows.n_rows))
    sample = drawn, row_start, out, out_start
    return Training(rows.y, rows.weight, scored, key, rows.task_start, losses, *sample, bounds, out_bounds)


def _held(validation: ValidationRows | None, scores: Scores | None, n_features: int, mixing: np.ndarray) -> Held:
    if validation is None or scores is None:
        nothing, no_score = np.empty(0), np.empty((0, 1))
        scored = Scored(
            np.empty(0, dtype=np.int32), no_score, np.empty((mixing.shape[1], 0, 1)), np.empty((mixing.shape[1], 0)),
            no_score,
        )  # fmt: skip
        return Held(np.empty((n_features, 0)), nothing, nothing, nothing, scored)
    own = validation.X, validation.y, validation.weight, np.empty(len(validation.y))
    return Held(*own, _scored(scores, mixing))


def _branches(table: Table, rows: TrainingRows, options: BoostingOptions, state: ThetaState) -> Branches:
    """What rounds of the partition block work on."""
    theta, (unit, penalty, center) = as_columns(state.theta).copy(), state.units
    n_rows, n_tasks, n_groups = rows.n_rows, *state.mixing.shape
    own = table._replace(
        gradient=np.empty_like(table.gradient), hessian=np.ones_like(table.hessian), weight=np.empty(n_rows)
    )
    drawn, out = np.empty((2, n_rows + 1), dtype=np.uint32)
    row_start, out_start = np.empty((2, n_tasks), dtype=np.int64)
    numbers = options.theta_learning_rate, penalty, options.least_share
    return Branches(
        theta, np.empty_like(theta), center, state.mixing.copy(), unit, state.task_mass,
        np.empty((n_groups, n_tasks - 1)), np.empty(n_tasks - 1, dtype=np.bool_), own, drawn, row_start, out, out_start,
        *map(float, numbers),
    )  # fmt: skip


def _parts(rows: Training | Held) -> list[tuple[np.ndarray, ...]]:
    """The arrays of rows, and those of their scores."""
    return [tuple(part for part in rows if isinstance(part, np.ndarray)), rows.scored]
