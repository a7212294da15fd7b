"""One tree per task, all tasks in a parallel pass: side by side over threads, each tree serial inside.

Small tasks have bins of their own and a pass of their own, so that a table of small tasks does not wait for the kernel
of large ones to be compiled, nor the other way round.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .in_place import larger, smaller
from .jit import inlined, lean, serial_and_parallel
from .local_bins import FEW_ROWS, MAX_ROWS
from .local_search import n_planes_for
from .node_search import allocate_candidates
from .small_nodes import SMALL_NODE
from .small_trees import grow_small_tree, new_small_scratch
from .tree import grow_tree, scratch_of_rows
from .tree_arrays import lent_tree_at, tree_at

# Small tasks that a thread takes at a time, and lays out memory for; fewer where that leaves less than so many turns.
TASKS_AT_ONCE, MIN_TURNS = 32, 16


def _grow_trees(table, layout, rows, row_start, out_rows, out_start, local, growth, options, scratch, seeds, trees):  # type: ignore[no-untyped-def]
    """Grow the tree of every task that has no local bins.

    rows, out_rows : uint32; row_start, out_start : int64 (n_trees + 1,), tree t has
    ``rows[row_start[t]:row_start[t+1]]``
    local : LocalBins; seeds : uint64 (n_trees,)
    trees : TreeArrays with n_trees entries. Node ranges count from each tree's own start.
    """
    # numba loses what a parallel loop writes to a field of a named tuple, so the array is named before the loop.
    n_nodes, n_features = trees.n_nodes, len(layout.offset) - 1
    for t in prange(len(seeds)):
        if local.n_bins[t] > 0:
            continue
        own_rows, own_out_rows = rows[row_start[t] : row_start[t + 1]], out_rows[out_start[t] : out_start[t + 1]]
        n_nodes[t] = grow_tree(
            table,
            layout,
            own_rows,
            own_out_rows,
            growth,
            options,
            None,
            allocate_candidates(n_features if len(own_rows) > SMALL_NODE else 0, scratch.statistics.shape[1]),
            scratch_of_rows(scratch, row_start[t], row_start[t + 1], out_start[t], out_start[t + 1]),
            seeds[t],
            None,
            tree_at(trees, np.int64(t)),
        )


grow_trees, grow_trees_parallel = serial_and_parallel(_grow_trees)


def _grow_small_trees(  # type: ignore[no-untyped-def]
    table, layout, rows, row_start, out_rows, out_start, local, is_weighted, growth, options, seeds, trees
):
    """The same for every task that has local bins; is_weighted : bool, rows have weights other than 1."""
    n_features, n_trees = len(layout.offset) - 1, len(seeds)
    n_channels = 2 if options.constant_hessian else 3
    at_once = larger(1, smaller(TASKS_AT_ONCE, n_trees // MIN_TURNS))
    for job in prange((n_trees + at_once - 1) // at_once):
        first = at_once * np.int64(job)  # a parallel loop counts in uint64
        last = smaller(first + at_once, np.int64(n_trees))
        # Tasks whose rows are weighed apart have memory of their own, none where there are none.
        n_leaves, most = smaller(growth.max_leaf_nodes, MAX_ROWS), np.int64(0)
        n_leaves_counted, n_leaves_apart = np.int64(0), np.int64(0)
        for t in range(first, last):  # type: ignore[call-overload]
            most = larger(most, local.n_bins[t])
            if local.n_bins[t] > 0 and _are_apart(t, row_start, out_start, is_weighted):
                n_leaves_apart = n_leaves
            elif local.n_bins[t] > 0:
                n_leaves_counted = n_leaves
        size = n_features, len(local.feature), local.cell.shape[1], most + 1, n_channels
        counted = new_small_scratch(n_leaves_counted, *size, n_planes_for(options.constant_hessian, False))
        apart = new_small_scratch(n_leaves_apart, *size, n_planes_for(options.constant_hessian, True))
        sample = rows, row_start, out_rows, out_start
        _grow_small_trees_of(
            table, layout, *sample, local, is_weighted, growth, options, seeds, counted, apart, first, last, trees
        )


@lean
def _grow_small_trees_of(  # type: ignore[no-untyped-def]
    table, layout, rows, row_start, out_rows, out_start, local, is_weighted, growth, options, seeds, counted, apart,
    first, last, trees,
):  # fmt: skip
    """The trees of tasks ``first:last``; a function of its own, so that nobody counts, task by task, who has arrays."""
    for t in range(first, last):
        if local.n_bins[t] > 0:
            own_rows, own_out_rows = rows[row_start[t] : row_start[t + 1]], out_rows[out_start[t] : out_start[t + 1]]
            # What is in and what is left out are a task's rows, one after the other.
            first_row = np.uint32(row_start[t] + out_start[t])
            are_apart = _are_apart(t, row_start, out_start, is_weighted)
            trees.n_nodes[t] = grow_small_tree(
                table, layout, local, local.n_bins[t], own_rows, own_out_rows, first_row, are_apart, growth, options,
                apart if are_apart else counted, seeds[t], lent_tree_at(trees, t),
            )  # fmt: skip


@inlined
def _are_apart(t, row_start, out_start, is_weighted):  # type: ignore[no-untyped-def]
    """Whether a task's rows are weighed apart, see `local_search`: a question of all of them, not of those drawn."""
    n_rows = row_start[t + 1] - row_start[t] + out_start[t + 1] - out_start[t]
    return is_weighted or n_rows > FEW_ROWS


grow_small_trees, grow_small_trees_parallel = serial_and_parallel(_grow_small_trees)
