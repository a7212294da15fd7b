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

from .addresses import address_of
from .collecting import collect_nodes, new_room
from .derivatives import Derivatives
from .forest import SHARED, TASK, ForestBuilder, Nodes, Trees
from .fused_kernel import STOPPED, Best, Growth, Held, Kernels, Plan, Told, Training, run_rounds
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
from .tree import Table
from .tree_arrays import only_tree

# Rounds in one go, and (row, feature) cells: Ctrl-C is heard in between, after some 0.1 s at the latest.
MAX_ROUNDS, MAX_CELLS = 32, 30_000_000
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


def can_run(
    block: int,
    rows: TrainingRows,
    derivatives: Derivatives,
    grower: Grower,
    scores: Scores,
    validation_scores: Scores | None,
) -> bool:
    """Whether `FusedRounds` know how: one score per row, without quantiles, one thread, no leaf by leaf shared trees.

    No branches may have trees: neither in a partition block, nor before these rounds.
    """
    is_plain = grower.n_threads == 1 and rows.peers is ALONE and not derivatives.renews and rows.n_rows > 0
    has_groups = scores.has_groups or (validation_scores is not None and validation_scores.has_groups)
    knows_trees = block == TASK or (block == SHARED and grower.is_symmetric)
    n_nodes, n_words = grower.size_of_round(block == TASK)
    is_small = n_nodes <= MAX_NODES and n_words <= MAX_WORDS
    return is_plain and knows_trees and is_small and derivatives.loss.n_outputs == 1 and not has_groups


class FusedRounds:
    """Rounds of one block of one fit; parameters as of `rmtgb.boost`, if `can_run`."""

    def __init__(
        self,
        block: int,
        rows: TrainingRows,
        derivatives: Derivatives,
        grower: Grower,
        scores: Scores,
        validation_scores: Scores | None,
        validation: ValidationRows | None,
        builder: ForestBuilder,
        options: BoostingOptions,
        task_keys: np.ndarray,
        validation_weight: float,
    ):
        self.block, self.builder = block, builder
        per_task = block == TASK
        is_packed = (
            not per_task and rows.n_rows >= MIN_PACKED_ROWS and grower.may_pack(derivatives.gradient, rows.weight)
        )
        self.growth = _growth(grower, derivatives, per_task, is_packed, task_keys)
        self.training = _training(rows, options, scores)
        self.held = _held(validation, validation_scores, rows.n_features)
        *kernels, parameter = derivatives.loss.serial_kernels()
        n_bins = self.growth.local.n_bins
        self.plan = Plan(
            float(parameter), float(options.subsample), float(options.blocks[block].learning_rate), rows.n_tasks,
            float(validation_weight), -1 if options.patience is None else options.patience, float(options.tol),
            per_task, is_packed, not rows.is_unweighted, bool(n_bins.any()), not n_bins.all(),
        )  # fmt: skip
        n_nodes, n_words = grower.size_of_round(per_task)
        most = MAX_ROUNDS, MAX_CELLS // (rows.n_rows * max(rows.n_features, 1)), MAX_NODES // n_nodes
        most_rounds = max(1, min(*most, MAX_WORDS // max(n_words, 1), options.blocks[block].max_iter))
        room, trees = new_room(most_rounds, self.growth.trees), np.zeros((5, len(self.growth.trees.n_nodes)), np.int32)
        self.told = Told(room, builder.n_levels, Trees(*trees), np.empty(most_rounds), np.empty(most_rounds))
        self.kernels = self._kernels(*kernels)

    def run(self, first: int, last: int, rng: np.random.Generator, best: BestRound) -> tuple[int, bool]:
        """Rounds from number ``first`` on, at most up to ``last``; `told` has their losses, ``best`` the best round.

        Returns how many are done, perhaps none, and whether the losses have stopped falling.
        """
        n_rounds, n_seeds = min(last - first, len(self.told.training)), 1 if self.plan.share >= 1.0 else 2
        before = rng.bit_generator.state
        seeds = np.zeros((n_rounds, 2), dtype=np.uint64)
        seeds[:, 2 - n_seeds :] = rng.integers(2**63, size=(n_rounds, n_seeds))
        scores, held_scores, _ = best.state
        held_score = self.held.score if held_scores is None else held_scores.fixed
        found = Best(np.array([best.loss]), np.array([best.round]), scores.fixed, held_score)
        data = self.kernels, self.growth, self.training, self.held, self.plan, found, self.told, seeds, first
        n_done, end = run_rounds(*data)
        best.loss, best.round = float(found.loss[0]), int(found.round[0])
        if n_done < n_rounds:  # the seeds of rounds that were not are drawn again, by whoever comes next
            rng.bit_generator.state = before
            rng.integers(2**63, size=(n_done, n_seeds))
        if n_done > 0:
            self.builder.append_rounds(self.told.room, n_done, self.block, first)
        return n_done, end == STOPPED

    def _kernels(self, derivatives: Any, values: Any) -> Kernels:
        """The kernels; to find the types of all arguments takes a millisecond, so they are remembered."""
        plan, n_held = self.plan, len(self.held.y)
        given = self.growth.table, self.growth.layout, self.growth.local, self.training, self.held
        kinds = tuple((array.dtype.char, array.flags.num) for arrays in given for array in arrays)
        needed = (
            True, plan.share < 1.0, not plan.per_task and not plan.is_packed, plan.is_packed,
            plan.per_task and plan.has_small, plan.per_task and plan.has_large, True, True,
            n_held > 0 and (plan.per_task or n_held < WALKED_ROWS), n_held >= WALKED_ROWS and not plan.per_task,
            n_held > 0,
        )  # fmt: skip
        key = derivatives, needed, kinds
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
        walked = held.X, held.task, plan.n_tasks, nodes, told.trees
        losses = training.y, training.score, training.weight, plan.parameter, table.gradient, table.hessian
        calls = (
            (derivatives, types.none, (*losses, training.loss)),
            (draw_rows, types.int64, (training.key, seed, plan.share, training.task_start, *sample)),
            (grow_symmetric_tree, types.int64, (*shared, None, *rest)),
            (grow_symmetric_tree, types.int64, (*shared, packing, *rest)),
            (grow_small_trees, types.none, (*of_tasks, plan.is_weighted, *how, growth.seeds, trees)),
            (grow_trees, types.none, (*of_tasks, *how, growth.scratch, growth.seeds, trees)),
            (add_leaf_values, types.none, (trees, sample[1], sample[0], sample[3], sample[2], plan.rate, zero, one,
                                           training.score)),
            (collect_nodes, types.int64, (trees, told.n_levels, plan.rate, *here)),
            (walk_round, types.none, (*walked, plan.per_task, held.score)),
            (add_tree, types.none, (*walked, held.score)),
            (values, types.none, (held.y, held.score, plan.parameter, held.loss)),
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


def _training(rows: TrainingRows, options: BoostingOptions, scores: Scores) -> Training:
    key = rows.content_key if options.subsample < 1.0 else np.empty(0, dtype=np.uint64)
    drawn, out = np.empty((2, rows.n_rows + 1), dtype=np.uint32)
    row_start, out_start = rows.task_start.copy(), np.zeros_like(rows.task_start)
    bounds, out_bounds = np.zeros((2, 2), dtype=np.int64)
    losses = np.empty(n_sums_of_losses(rows.n_rows))
    given = rows.y, rows.weight, scores.fixed, key, rows.task_start
    return Training(*given, losses, drawn, row_start, out, out_start, bounds, out_bounds)


def _held(validation: ValidationRows | None, scores: Scores | None, n_features: int) -> Held:
    if validation is None or scores is None:
        nothing, no_task = np.empty(0), np.empty(0, dtype=np.int32)
        return Held(np.empty((n_features, 0)), no_task, nothing, nothing, np.empty((0, 1)), nothing)
    own = validation.X, validation.task, validation.y, validation.weight
    return Held(*own, scores.fixed, np.empty(len(validation.y)))
