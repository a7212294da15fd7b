"""Histograms of one node: per bin of every feature the sums of weight, gradient and hessian of the node's rows.

A histogram is float64 (n_bins_total, n_channels); `BinLayout.offset` says where a feature's bins stand. Channels are

    [weight, gradient_0 … gradient_{K-1}]                            constant hessian (hessian = weight), or
    [weight, gradient_0 … gradient_{K-1}, hessian_0 … hessian_{K-1}]

for trees whose leaves hold K outputs. The kernels here add float64 row by row, for any weights and any K; the common
case, one output and rows that count once, has kernels of its own in `packed_histogram`.
"""

from __future__ import annotations

import numpy as np

from .binning import ALL_BITS, TASK_ID, byte_of
from .in_place import flat
from .jit import inlined, lean, lean_jit


@lean_jit
def gather_statistics(rows, start, stop, gradient, hessian, weight, constant_hessian, out_statistics, out_sums):  # type: ignore[no-untyped-def]
    """Lay the channels of ``rows[start:stop]`` side by side in node order, and sum them.

    rows : uint32 (n,); gradient, hessian : float64 (K, n_rows); weight : float64 (n_rows,)
    out_statistics : float64 (>= stop - start, n_channels); out_sums : float64 (n_channels,)

    Every feature then reads them in sequence instead of jumping through three arrays.
    """
    n_outputs = gradient.shape[0]
    out_sums[:] = 0.0
    for j in range(stop - start):
        i = rows[start + j]
        out_statistics[j, 0] = weight[i]
        out_sums[0] += weight[i]
        for k in range(n_outputs):
            out_statistics[j, 1 + k] = gradient[k, i]
            out_sums[1 + k] += gradient[k, i]
            if not constant_hessian:
                out_statistics[j, 1 + n_outputs + k] = hessian[k, i]
                out_sums[1 + n_outputs + k] += hessian[k, i]


@inlined
def set_zero(histogram):  # type: ignore[no-untyped-def]
    """Empty all bins, as one line of memory: through two axes numba goes cell by cell, which takes ten times longer."""
    cells = flat(histogram)
    for cell in range(len(cells)):
        cells[cell] = 0.0


@lean
def add_to_bins(words, shift, mask, rows, start, stop, statistics, out_histogram):  # type: ignore[no-untyped-def]
    """Add the rows of one node to the bins of one feature.

    words : uint32 (n_rows,), a row's bin is ``(word >> shift) & mask``; statistics : as gathered
    out_histogram : float64 (n_bins, n_channels), zeroed here
    """
    n_channels, part = statistics.shape[1], rows[start:stop]
    set_zero(out_histogram)
    if n_channels == 2:
        # The two cases of one output are spelled out: an inner loop over channels costs more.
        for j in range(len(part)):
            b = (words[part[j]] >> shift) & mask
            out_histogram[b, 0] += statistics[j, 0]
            out_histogram[b, 1] += statistics[j, 1]
    elif n_channels == 3:
        for j in range(len(part)):
            b = (words[part[j]] >> shift) & mask
            out_histogram[b, 0] += statistics[j, 0]
            out_histogram[b, 1] += statistics[j, 1]
            out_histogram[b, 2] += statistics[j, 2]
    else:
        for j in range(len(part)):
            b = (words[part[j]] >> shift) & mask
            for c in range(n_channels):
                out_histogram[b, c] += statistics[j, c]


@lean
def add_to_four(words, offset, rows, start, stop, statistics, out_histogram):  # type: ignore[no-untyped-def]
    """The same for the four features of a word, with 2 or 3 channels: a sum of one does not wait for those of others.

    offset : int64 (>= 5,), where the features' bins begin; out_histogram : of all features
    """
    a, b, c, d = offset[0], offset[1], offset[2], offset[3]
    part, has_third = rows[start:stop], statistics.shape[1] == 3
    set_zero(out_histogram[a : offset[4]])
    for j in range(len(part)):
        word, first, second = words[part[j]], statistics[j, 0], statistics[j, 1]
        p, q = a + np.int64(word & 255), b + np.int64((word >> 8) & 255)
        r, s = c + np.int64((word >> 16) & 255), d + np.int64(word >> 24)
        out_histogram[p, 0] += first
        out_histogram[q, 0] += first
        out_histogram[r, 0] += first
        out_histogram[s, 0] += first
        out_histogram[p, 1] += second
        out_histogram[q, 1] += second
        out_histogram[r, 1] += second
        out_histogram[s, 1] += second
        if has_third:
            third = statistics[j, 2]
            out_histogram[p, 2] += third
            out_histogram[q, 2] += third
            out_histogram[r, 2] += third
            out_histogram[s, 2] += third


@lean
def fill_floats(words, task, layout, rows, start, stop, statistics, first, last, out_histogram):  # type: ignore[no-untyped-def]
    """Histogram of the node ``rows[start:stop]`` over the features ``first`` to ``last``, that one left out.

    words : uint32 (n_blocks, n_rows); task : uint32 (n_rows,), read where the layout's last feature is the task id
    """
    offset, f = layout.offset, np.int64(first)
    while f < last:
        if f & 3 == 0 and f + 4 <= last and layout.is_categorical[f + 3] != TASK_ID and 2 <= statistics.shape[1] <= 3:
            add_to_four(words[f >> 2], offset[f : f + 5], rows, start, stop, statistics, out_histogram)
            f += 4
            continue
        part = out_histogram[offset[f] : offset[f + 1]]
        if layout.is_categorical[f] == TASK_ID:
            add_to_bins(task, byte_of(np.int64(0))[0], ALL_BITS, rows, start, stop, statistics, part)
        else:
            shift, mask = byte_of(f)
            add_to_bins(words[f >> 2], shift, mask, rows, start, stop, statistics, part)
        f += 1


@lean_jit
def subtract_histogram(parent, child, out_sibling):  # type: ignore[no-untyped-def]
    """Sibling = parent − child, cell by cell; ``out_sibling`` may be ``parent``.

    A bin that the child empties is set to exact zero: what float subtraction leaves there must not look like rows.
    """
    n_bins, n_channels = parent.shape
    for b in range(n_bins):
        left_over = parent[b, 0] - child[b, 0]
        if left_over <= 1e-12 * parent[b, 0]:
            for c in range(n_channels):
                out_sibling[b, c] = 0.0
        else:
            out_sibling[b, 0] = left_over
            for c in range(1, n_channels):
                out_sibling[b, c] = parent[b, c] - child[b, c]
