"""Rounds of a block one after the other in one kernel: `run_rounds`, and what it is given.

It calls the kernels of a round by their addresses (see `addresses`), those that Python calls, too, so that there is
next to nothing to compile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .addresses import count_at, run_at
from .collecting import NodeRoom
from .forest import Nodes, Trees
from .jit import lean, lean_jit
from .local_bins import LocalBins
from .packed_histogram import fields_of_rows, pack_rows
from .small_nodes import SMALL_NODE
from .splitting import SplitOptions
from .sums import dot, sum_of
from .tree import GrowthOptions, Scratch, Table
from .tree_arrays import TreeArrays

# How `run_rounds` ends: all rounds are done; losses have stopped falling; packed rows will not do for the next round.
ALL_DONE, STOPPED, NOT_PACKED = 0, 1, 2


class Kernels(NamedTuple):
    """Addresses int64 of the kernels of a round, 0 of those that the fit at hand has no use for.

    Of the five that grow trees a fit has one, or both of those for tasks; of the two that follow validation rows
    through them one.
    """

    derivatives: int
    draw_rows: int
    grow_symmetric: int
    grow_symmetric_packed: int
    grow_small: int
    grow_large: int
    add_leaf_values: int
    collect: int
    walk: int
    walk_many: int
    values: int


class Growth(NamedTuple):
    """What trees are grown by and in; see `tree.grow_tree` and `task_trees` for most of it.

    trees : TreeArrays of a round; tree : the first one, the only one but for trees per task
    task_keys, seeds : uint64 (n_tasks,), random bits of each task, and room for its seed in a round
    """

    table: Table
    layout: Any
    growth: GrowthOptions
    split: SplitOptions
    scratch: Scratch
    subset_search: np.int64
    local: LocalBins
    trees: TreeArrays
    tree: TreeArrays
    task_keys: np.ndarray
    seeds: np.ndarray


class Training(NamedTuple):
    """Training rows.

    y, weight : float64 (n_rows,); score : float64 (n_rows, 1), added to; key, task_start : see `sampling.draw_rows`
    loss : float64 (n_sums,), sums of losses of some rows each
    rows, row_start, out_rows, out_start : the sample of a round
    bounds, out_bounds : int64 (2,), where rows of one tree for all begin and end
    """

    y: np.ndarray
    weight: np.ndarray
    score: np.ndarray
    key: np.ndarray
    task_start: np.ndarray
    loss: np.ndarray
    rows: np.ndarray
    row_start: np.ndarray
    out_rows: np.ndarray
    out_start: np.ndarray
    bounds: np.ndarray
    out_bounds: np.ndarray


class Held(NamedTuple):
    """Validation rows, perhaps none: X float64 (n_features, n_rows), score (n_rows, 1), loss (n_rows,), see `rows`."""

    X: np.ndarray
    task: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    score: np.ndarray
    loss: np.ndarray


class Plan(NamedTuple):
    """Numbers of a block.

    parameter : of the loss; share : of the rows that are drawn; rate : the learning rate
    held_weight : of all validation rows; patience : −1 where nothing ends the block early
    per_task : a tree for each task, not one for all; is_packed : derivatives are whole numbers, see `packed_histogram`
    is_weighted, has_small, has_large : see `task_trees`
    """

    parameter: float
    share: float
    rate: float
    n_tasks: int
    held_weight: float
    patience: int
    tol: float
    per_task: bool
    is_packed: bool
    is_weighted: bool
    has_small: bool
    has_large: bool


class Best(NamedTuple):
    """The best round so far: loss float64 (1,), how many rounds were done int64 (1,), and the scores of all rows."""

    loss: np.ndarray
    round: np.ndarray
    score: np.ndarray
    held_score: np.ndarray


class Told(NamedTuple):
    """What rounds leave behind: nodes, and losses float64 (n_rounds,), the sum of training before and of validation.

    n_levels : see `collecting.collect_nodes`; trees : Trees of the last round
    """

    room: NodeRoom
    n_levels: np.ndarray
    trees: Trees
    training: np.ndarray
    validation: np.ndarray


@lean_jit
def run_rounds(at, growth, training, held, plan, best, told, seeds, first):  # type: ignore[no-untyped-def]
    """Rounds from number ``first`` on, one for each of ``seeds``, uint64 (n_rounds, 2), of the sample and the trees.

    Returns how many are done, and how it ended.
    """
    for j in range(len(seeds)):
        derivatives = growth.table.gradient, growth.table.hessian
        losses = training.y, training.score, training.weight, plan.parameter, *derivatives, training.loss
        run_at(at.derivatives, losses)
        told.training[j] = sum_of(training.loss)
        n_in = _draw(at, training, plan, seeds[j, 0])
        rows, out_rows = training.rows[:n_in], training.out_rows[: len(training.y) - n_in]
        if not plan.per_task:
            n_nodes = _grow_one(at, growth, plan, rows, out_rows, seeds[j, 1])
            if n_nodes == 0:
                return j, NOT_PACKED
            growth.trees.n_nodes[0] = n_nodes
            training.bounds[1], training.out_bounds[1] = len(rows), len(out_rows)
            _add_to_scores(at, growth.trees, plan, training.bounds, rows, training.out_bounds, out_rows, training.score)
        else:
            _grow_per_task(at, growth, training, plan, rows, out_rows, seeds[j, 1])
            starts = training.row_start, training.out_start
            _add_to_scores(at, growth.trees, plan, starts[0], rows, starts[1], out_rows, training.score)
        _collect(at, growth.trees, plan.rate, told, j)
        if len(held.y) > 0:
            told.validation[j] = _validate(at, held, plan, told, j)
            if _has_stopped(training, held, plan, best, told.validation[j], first + j + 1):
                return j + 1, STOPPED
    return len(seeds), ALL_DONE


@lean
def _draw(at, training, plan, seed):  # type: ignore[no-untyped-def]
    """The sample of a round, written to its room; returns how many rows are in."""
    if plan.share < 1.0:
        sample = training.rows, training.row_start, training.out_rows, training.out_start
        return count_at(at.draw_rows, (training.key, seed, plan.share, training.task_start, *sample))
    for i in range(len(training.y)):
        training.rows[i] = i
    return np.int64(len(training.y))


@lean
def _grow_one(at, growth, plan, rows, out_rows, seed):  # type: ignore[no-untyped-def]
    """One tree for all rows; returns its number of nodes, 0 if it cannot be grown on packed rows."""
    data = growth.table, growth.layout, rows, out_rows, growth.growth, growth.split
    rest = growth.scratch, growth.subset_search, seed, None, growth.tree
    if not plan.is_packed:
        return count_at(at.grow_symmetric, (*data, None, *rest))
    gradient, hessian = growth.table.gradient, growth.table.hessian
    packing = fields_of_rows(gradient[0], hessian[0], growth.split.constant_hessian)
    if packing.chunk == 0 or len(rows) <= SMALL_NODE:
        return np.int64(0)
    pack_rows(gradient, hessian, packing, growth.scratch.packed)
    return count_at(at.grow_symmetric_packed, (*data, packing, *rest))


@lean
def _grow_per_task(at, growth, training, plan, rows, out_rows, seed):  # type: ignore[no-untyped-def]
    """A tree for each task."""
    for t in range(len(growth.seeds)):
        growth.seeds[t] = seed ^ growth.task_keys[t]
    sample = rows, training.row_start, out_rows, training.out_start
    data, how = (growth.table, growth.layout, *sample, growth.local), (growth.growth, growth.split)
    if plan.has_small:
        run_at(at.grow_small, (*data, plan.is_weighted, *how, growth.seeds, growth.trees))
    if plan.has_large:
        run_at(at.grow_large, (*data, *how, growth.scratch, growth.seeds, growth.trees))


@lean
def _add_to_scores(at, trees, plan, row_start, rows, out_start, out_rows, score):  # type: ignore[no-untyped-def]
    zero, one = np.int64(0), np.int64(1)
    run_at(at.add_leaf_values, (trees, row_start, rows, out_start, out_rows, plan.rate, zero, one, score))


@lean
def _collect(at, trees, rate, told, j):  # type: ignore[no-untyped-def]
    """Copy the trees of the ``j``-th round to the room."""
    room, n_nodes = told.room, np.int64(0)
    for t in range(len(trees.n_nodes)):
        told.trees.root[t] = n_nodes
        n_nodes += trees.n_nodes[t]
        room.n_nodes[j, t] = trees.n_nodes[t]
    here = room.ints[j], room.floats[j], room.missing_left[j], room.value[j], room.words[j]
    room.n_words[j] = count_at(at.collect, (trees, told.n_levels, rate, *here))
    room.n_nodes_of_all[j] = n_nodes


@lean
def _validate(at, held, plan, told, j):  # type: ignore[no-untyped-def]
    """Add the trees of the ``j``-th round to the scores of validation rows; their mean loss."""
    room = told.room
    n, words, ints, floats = room.n_nodes_of_all[j], room.words[j, : room.n_words[j]], room.ints[j], room.floats[j]
    nodes = Nodes(
        ints[0, :n], floats[0, :n], room.missing_left[j, :n], ints[1, :n], ints[2, :n], ints[3, :n], ints[4, :n],
        words, room.value[j, :n], floats[1, :n], floats[2, :n],
    )  # fmt: skip
    rows, trees = (held.X, held.task, plan.n_tasks), (nodes, told.trees)
    if at.walk != 0:
        run_at(at.walk, (*rows, *trees, plan.per_task, held.score))
    else:
        run_at(at.walk_many, (*rows, *trees, held.score))
    run_at(at.values, (held.y, held.score, plan.parameter, held.loss))
    return dot(held.loss, held.weight) / plan.held_weight


@lean
def _has_stopped(training, held, plan, best, loss, n_done):  # type: ignore[no-untyped-def]
    """Whether losses have stopped falling; a round that is better than all before is remembered."""
    if plan.patience < 0:
        return False
    if loss < best.loss[0] - plan.tol:
        best.loss[0], best.round[0] = loss, n_done
        best.score[:, :] = training.score
        best.held_score[:, :] = held.score
        return False
    return n_done - best.round[0] >= plan.patience
