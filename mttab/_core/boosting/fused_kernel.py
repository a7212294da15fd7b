"""Rounds of a block one after the other in one kernel: `run_rounds`; `fused_state` says what it is given.

It calls the kernels of a round by their addresses (see `addresses`), those that Python calls, too, so that there is
next to nothing to compile.
"""

from __future__ import annotations

import numpy as np

from .addresses import count_at, run_at
from .forest import SHARED, Nodes
from .in_place import flat
from .jit import lean, lean_jit
from .packed_histogram import fields_of_rows, pack_rows
from .sampling import leave_tasks_out
from .small_nodes import SMALL_NODE
from .sums import dot, sum_of
from .theta import sum_slopes, write_mixing, write_shares, write_theta_gradient

# How `run_rounds` ends: all rounds are done; losses have stopped falling; packed rows will not do for the next round.
ALL_DONE, STOPPED, NOT_PACKED = 0, 1, 2


@lean_jit
def run_rounds(at, growth, training, held, branches, plan, best, told, seeds, first):  # type: ignore[no-untyped-def]
    """Rounds from number ``first`` on, one for each of ``seeds``, uint64 (n_rounds, 2), of the sample and the trees.

    ``branches`` is None but in the partition block, so that others compile nothing of it.
    Returns how many are done, and how it ended.
    """
    for j in range(len(seeds)):
        _sum_up(training.scored)
        losses = training.y, training.scored.total, training.weight, plan.parameter
        run_at(at.derivatives, (*losses, growth.table.gradient, growth.table.hessian, training.loss))
        told.training[j] = sum_of(training.loss)
        n_in = _draw(at, training, plan, seeds[j, 0])
        rows, out_rows = training.rows[:n_in], training.out_rows[: len(training.y) - n_in]
        if branches is not None:
            _grow_branches(at, growth, training, held, branches, plan, told, j, rows, out_rows, seeds[j, 1])
        elif plan.block == SHARED:
            n_nodes = _grow_one(at, growth, plan, rows, out_rows, seeds[j, 1])
            if n_nodes == 0:
                return j, NOT_PACKED
            scores = training.scored.fixed, held.scored.fixed
            _keep_one(at, growth, training, held, plan, told, j, n_nodes, rows, out_rows, *scores)
        else:
            _grow_per_task(at, growth, training, plan, rows, out_rows, seeds[j, 1])
            starts = training.row_start, training.out_start
            _add_to_scores(at, growth.trees, plan, starts[0], rows, starts[1], out_rows, training.scored.fixed)
            _keep(at, growth.trees, held, plan, told, j, held.scored.fixed)
        if len(held.y) > 0:
            told.validation[j] = _mean_loss(at, held, plan)
            if _has_stopped(training, held, branches, plan, best, told.validation[j], first + j + 1):
                return j + 1, STOPPED
    return len(seeds), ALL_DONE


@lean
def _sum_up(scored):  # type: ignore[no-untyped-def]
    """Write the total score of all rows, as `rows.Scores.total` has it; without branches it is the fixed part."""
    if len(scored.groups) == 0:
        return
    total = scored.total
    _copy(scored.fixed, total)
    for g in range(len(scored.groups)):
        branch, shares = scored.groups[g], scored.shares[g]
        for i in range(len(total)):
            total[i, 0] += shares[i] * branch[i, 0]


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
def _keep_one(at, growth, training, held, plan, told, q, n_nodes, rows, out_rows, score, held_score):  # type: ignore[no-untyped-def]
    """Keep a tree for all rows at place ``q`` of the room, and add it to the scores."""
    growth.trees.n_nodes[0] = n_nodes
    training.bounds[1], training.out_bounds[1] = len(rows), len(out_rows)
    _add_to_scores(at, growth.trees, plan, training.bounds, rows, training.out_bounds, out_rows, score)
    _keep(at, growth.trees, held, plan, told, q, held_score)


@lean
def _keep(at, trees, held, plan, told, q, held_score):  # type: ignore[no-untyped-def]
    """Copy grown trees to place ``q`` of the room, and add them to the scores of validation rows."""
    room, n_nodes = told.room, np.int64(0)
    for t in range(len(trees.n_nodes)):
        told.trees.root[t] = n_nodes
        n_nodes += trees.n_nodes[t]
        room.n_nodes[q, t] = trees.n_nodes[t]
    ints, floats, missing_left, value, words = (
        room.ints[q], room.floats[q], room.missing_left[q], room.value[q], room.words[q],
    )  # fmt: skip
    n_words = count_at(at.collect, (trees, told.n_levels, plan.rate, ints, floats, missing_left, value, words))
    room.n_words[q], room.n_nodes_of_all[q] = n_words, n_nodes
    if len(held.y) == 0:
        return
    n = n_nodes
    nodes = Nodes(
        ints[0, :n], floats[0, :n], missing_left[:n], ints[1, :n], ints[2, :n], ints[3, :n], ints[4, :n],
        words[:n_words], value[:n], floats[1, :n], floats[2, :n],
    )  # fmt: skip
    rows, kept = (held.X, held.scored.task, plan.n_tasks), (nodes, told.trees)
    if at.walk != 0:
        run_at(at.walk, (*rows, *kept, plan.per_task, held_score))
    else:
        run_at(at.walk_many, (*rows, *kept, held_score))


@lean
def _grow_branches(at, growth, training, held, branches, plan, told, j, rows, out_rows, seed):  # type: ignore[no-untyped-def]
    """A tree for each branch, and a step of θ, see `rmtgb._Run.partition_round`."""
    table, own, scored, mixing = growth.table, branches.table, training.scored, branches.mixing
    n_groups = len(scored.groups)
    sum_slopes(table.gradient, scored.groups, scored.task, branches.sums)
    numbers = branches.unit, branches.penalty, branches.center
    write_theta_gradient(branches.theta, mixing, branches.sums, *numbers, branches.gradient)
    for g in range(n_groups):
        shares = scored.shares[g]
        _multiply(table.gradient[0], shares, own.gradient[0])
        if not growth.split.constant_hessian:
            _multiply(table.hessian[0], shares, own.hessian[0])
        _multiply(table.weight, shares, own.weight)
        n_in = _members(training, branches, g, rows, out_rows)
        n_rows = len(rows) + len(out_rows)
        inside, outside = branches.rows[:n_in], branches.out_rows[: n_rows - n_in]
        data = own, growth.layout, inside, outside, growth.growth, growth.split
        rest = growth.scratch, growth.subset_search, seed, None, growth.tree
        n_nodes = count_at(at.grow_symmetric, (*data, None, *rest))
        scores = scored.groups[g], held.scored.groups[g]
        _keep_one(at, growth, training, held, plan, told, j * n_groups + g, n_nodes, inside, outside, *scores)
    for t in range(len(branches.theta)):
        for c in range(branches.theta.shape[1]):
            branches.theta[t, c] -= branches.rate * branches.gradient[t, c]
    write_mixing(branches.theta, branches.task_mass, mixing)
    write_shares(mixing, scored.task, scored.shares)
    write_shares(mixing, held.scored.task, held.scored.shares)


@lean
def _copy(source, out):  # type: ignore[no-untyped-def]
    """``out[:] = source`` for arrays of one shape, which is not tested, in C order.

    Of the original numba compiles the text of an error message, too: a third of all there is to compile here.
    """
    line, out_line = flat(source), flat(out)
    for i in range(len(out_line)):
        out_line[i] = line[i]


@lean
def _multiply(values, others, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        out[i] = values[i] * others[i]


@lean
def _members(training, branches, g, rows, out_rows):  # type: ignore[no-untyped-def]
    """The sample of a branch, without the rows of tasks that give it too little weight; returns how many are in."""
    are_all = True
    for t in range(len(branches.is_member)):
        branches.is_member[t] = branches.least == 0.0 or branches.mixing[t, g] >= branches.least
        are_all = are_all and branches.is_member[t]
    if not are_all:
        before = rows, training.row_start, out_rows, training.out_start, branches.is_member
        return leave_tasks_out(*before, branches.rows, branches.row_start, branches.out_rows, branches.out_start)
    for i in range(len(rows)):
        branches.rows[i] = rows[i]
    for i in range(len(out_rows)):
        branches.out_rows[i] = out_rows[i]
    return len(rows)


@lean
def _mean_loss(at, held, plan):  # type: ignore[no-untyped-def]
    """Mean loss of the validation rows."""
    _sum_up(held.scored)
    run_at(at.values, (held.y, held.scored.total, plan.parameter, held.loss))
    return dot(held.loss, held.weight) / plan.held_weight


@lean
def _has_stopped(training, held, branches, plan, best, loss, n_done):  # type: ignore[no-untyped-def]
    """Whether losses have stopped falling; a round that is better than all before is remembered."""
    if plan.patience < 0:
        return False
    if loss < best.loss[0] - plan.tol:
        best.loss[0], best.round[0] = loss, n_done
        if branches is not None:
            _copy(training.scored.groups, best.groups)
            _copy(held.scored.groups, best.held_groups)
            _copy(branches.theta, best.theta)
        else:
            _copy(training.scored.fixed, best.fixed)
            _copy(held.scored.fixed, best.held_fixed)
        return False
    return n_done - best.round[0] >= plan.patience
