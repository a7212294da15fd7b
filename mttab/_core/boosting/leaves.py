"""What leaves hold: Newton values, quantiles of residuals where a loss asks for them, and their way into the scores."""

from __future__ import annotations

import numpy as np
from numba import prange

from .in_place import empty, larger, smaller
from .jit import inlined, lean_jit, serial_and_parallel
from .quantile import weighted_quantile
from .splitting import bounded_value


def _sum_rows(rows, start, stop, gradient, hessian, weight, constant_hessian, out_sums):  # type: ignore[no-untyped-def]
    n_outputs = gradient.shape[0]
    if n_outputs == 1:  # in registers: a sum that waits for its own last store takes three times as long
        w, g, h = 0.0, 0.0, 0.0
        for j in range(start, stop):
            w += weight[rows[j]]
            g += gradient[0, rows[j]]
            if not constant_hessian:
                h += hessian[0, rows[j]]
        out_sums[0], out_sums[1] = w, g
        if not constant_hessian:
            out_sums[2] = h
        return
    out_sums[:] = 0.0
    for j in range(start, stop):
        i = rows[j]
        out_sums[0] += weight[i]
        for k in range(n_outputs):
            out_sums[1 + k] += gradient[k, i]
            if not constant_hessian:
                out_sums[1 + n_outputs + k] += hessian[k, i]


# The other one is for single leaves, of few rows.
sum_rows, sum_few_rows = lean_jit(_sum_rows), inlined(_sum_rows)


@inlined
def set_values_of(tree, n_nodes, rows, gradient, hessian, weight, options, first, end, sums):  # type: ignore[no-untyped-def]
    """Write −G / (H + λ) into leaves whose rows begin at places ``first:end``; sums float64 (n_channels,), scratch."""
    n_outputs = gradient.shape[0]
    for node in range(n_nodes):
        start = tree.start[node]
        if tree.left[node] >= 0:
            if first == 0:
                for k in range(n_outputs):
                    tree.value[node, k] = 0.0
        elif first <= start < end:
            sum_few_rows(rows, start, tree.stop[node], gradient, hessian, weight, options.constant_hessian, sums)
            for k in range(n_outputs):
                h = sums[0] if options.constant_hessian else sums[1 + n_outputs + k]
                tree.value[node, k] = bounded_value(sums[1 + k], h, options.l2, tree.low[node], tree.high[node])


def _set_values(tree, n_nodes, rows, gradient, hessian, weight, options, n_threads):  # type: ignore[no-untyped-def]
    """Leaf values −G / (H + λ) from the rows themselves, not from histograms that subtraction has rounded.

    Each thread takes the leaves whose rows begin in its part of them.
    """
    n_outputs = gradient.shape[0]
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first, last = len(rows) * thread // n_threads, len(rows) * (thread + 1) // n_threads
        end = last + 1 if thread == n_threads - 1 else last  # where leaves without rows may begin
        sums = empty(1 + n_outputs if options.constant_hessian else 1 + 2 * n_outputs, np.float64)
        set_values_of(tree, n_nodes, rows, gradient, hessian, weight, options, first, end, sums)


set_values, set_values_parallel = serial_and_parallel(_set_values)


def _renew_values(trees, row_start, rows, residual, weight, quantile):  # type: ignore[no-untyped-def]
    """Replace one-output leaf values by the weighted quantile of the residuals in the leaf, within the leaf's bounds.

    row_start : int64 (n_trees + 1,); rows : uint32; residual, weight : float64 (n_rows,)
    """
    n_nodes = trees.feature.shape[1]
    out_value = trees.value  # named outside the parallel loop, see tree._grow_trees
    for job in prange((len(row_start) - 1) * n_nodes):
        t, node = job // n_nodes, job % n_nodes
        if node < trees.n_nodes[t] and trees.left[t, node] < 0:
            start, stop = row_start[t] + trees.start[t, node], row_start[t] + trees.stop[t, node]
            if stop > start:
                members = rows[start:stop]
                value = weighted_quantile(residual[members], weight[members], quantile)
                out_value[t, node, 0] = smaller(larger(value, trees.low[t, node]), trees.high[t, node])


renew_values, renew_values_parallel = serial_and_parallel(_renew_values)


@lean_jit
def _add_to_rows(rows, start, stop, step, output, out_score):  # type: ignore[no-untyped-def]
    for j in range(start, stop):
        out_score[rows[j], output] += step


def _add_leaf_values(trees, row_start, rows, out_start, out_rows, rate, output, n_threads, out_score):  # type: ignore[no-untyped-def]
    """Add ``rate`` × leaf value to the score of every row, in use or left out.

    out_score : float64 (n_rows, n_outputs of the loss); output : column that one-output leaves add to

    Each thread takes an equal part of the rows, whatever leaves they are in.
    """
    n_outputs = trees.value.shape[2]
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first, last = len(rows) * thread // n_threads, len(rows) * (thread + 1) // n_threads
        out_first, out_last = len(out_rows) * thread // n_threads, len(out_rows) * (thread + 1) // n_threads
        for t in range(len(row_start) - 1):
            for node in range(trees.n_nodes[t]):
                if trees.left[t, node] >= 0:
                    continue
                a = larger(row_start[t] + trees.start[t, node], first)
                b = smaller(row_start[t] + trees.stop[t, node], last)
                c = larger(out_start[t] + trees.out_start[t, node], out_first)
                d = smaller(out_start[t] + trees.out_stop[t, node], out_last)
                for k in range(n_outputs):
                    step = rate * trees.value[t, node, k]
                    _add_to_rows(rows, a, b, step, output + k, out_score)
                    _add_to_rows(out_rows, c, d, step, output + k, out_score)


add_leaf_values, add_leaf_values_parallel = serial_and_parallel(_add_leaf_values, lean_jit)
