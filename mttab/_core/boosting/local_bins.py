"""Bins of a small task's own: groups of neighbouring bins that hold about as many of its rows each.

A task of 100 rows uses at most 100 of a feature's 255 bins, most of them for one row. Once per fit its rows are given
coarser bins, their edges at the quantiles of the task itself, and their place in a histogram whose features stand side
by side, with *missing* in the last line of it:

    bins of x0 in use    3 9 | 17 31 40 | 77 200         line 0      x0 x1 x2 . . .
    local bins             0        1        2           line 1      x0 x1 x2 . . .      cell = n_lanes × bin + lane

A feature of which a task has no more than `MAX_BINS` different bins loses nothing; of more than `FEW_ROWS` rows,
`MAX_BINS_OF_MANY`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .binning import BinLayout, byte_of
from .in_place import larger, smaller
from .jit import inner, serial_and_parallel

# Rows of such a task.
MAX_ROWS = 1023
# More of them cost time, and fit noise: of 32 the test loss was larger.
MAX_BINS = 16
# So many rows of a bin are counted in a byte. With more rows there is less noise to fit, and more to see: of 16 or 32
# bins the test loss was larger on some tables, of 64 on none.
FEW_ROWS, MAX_BINS_OF_MANY = 255, 64
MISSING = 2**16 - 1  # until it is known how many bins come before it
# Lanes of a histogram are a multiple of this: so many are spelled out where rows are added up.
LANE_STEP = 4


class LocalBins(NamedTuple):
    """Small tasks' rows by bins of their own.

    feature : int64 (n_numeric,), the feature of each lane; lanes without one fill up to a multiple of `LANE_STEP`
    cell : uint16 (n_rows, n_lanes), cells of the task's histogram; not written for the rows of other tasks
    n_bins : int64 (n_tasks,), lines of the histogram before that of missing values; 0 where a task is not small
    """

    feature: np.ndarray
    cell: np.ndarray
    n_bins: np.ndarray


def no_local_bins(n_tasks: int) -> LocalBins:
    """Those of tasks none of which counts as small."""
    return LocalBins(np.empty(0, dtype=np.int64), np.empty((0, 0), np.uint16), np.zeros(n_tasks, dtype=np.int64))


def max_rows_for(layout: BinLayout) -> int:
    """Rows of a task up to which it has local bins; 0 for so many features that the number of a cell would not fit."""
    n_lanes = np.count_nonzero(layout.is_categorical == 0) + LANE_STEP
    if n_lanes * (MAX_BINS_OF_MANY + 1) <= 2**16:
        return MAX_ROWS
    return FEW_ROWS if n_lanes * (MAX_BINS + 1) <= 2**16 else 0


def new_local_bins(layout: BinLayout, n_rows: int, n_tasks: int) -> LocalBins:
    """Room for `find_local_bins`."""
    feature = np.flatnonzero(layout.is_categorical == 0)
    n_lanes = -(-len(feature) // LANE_STEP) * LANE_STEP
    return LocalBins(feature, np.zeros((n_rows, n_lanes), dtype=np.uint16), np.zeros(n_tasks, dtype=np.int64))


@inner
def _group_bins(mass, n_bins, max_bins, out_local):  # type: ignore[no-untyped-def]
    """Write the local bin of every value bin, as `binning.quantile_bins` would form them but that some may stay empty.

    n_bins, max_bins : int64, of the feature, and of the task

    mass : float64 (256,), weight of the task's rows in each bin, overwritten; out_local : uint16 (256,)

    Returns how many there are.
    """
    n_used, total = np.int64(0), 0.0
    for b in range(n_bins):
        out_local[b] = n_used
        n_used += mass[b] > 0.0
        before, total = total, total + mass[b]
        mass[b] = before
    if n_used <= max_bins:
        for b in range(n_bins):  # rows without weight may come after the last that counts
            out_local[b] = smaller(np.int64(out_local[b]), larger(n_used - 1, 0))
        return n_used
    # A bin is in the group of its number if so many of ``max_bins`` equal shares of the weight end before it.
    n_shares = max_bins / total
    for b in range(n_bins):
        out_local[b] = smaller(np.int32(mass[b] * n_shares + 1e-9), max_bins - 1)
    return np.int64(max_bins)


def _find_local_bins(words, weight, task_start, offset, max_rows, local):  # type: ignore[no-untyped-def]
    """Write the cells and the numbers of bins of every task of at most ``max_rows`` rows.

    words : uint32 (n_blocks, n_rows); weight : float64 (n_rows,)
    task_start : int64 (n_tasks + 1,); offset : as in `binning.BinLayout`; max_rows : int64, see `max_rows_for`
    """
    feature, cell, n_local = local.feature, local.cell, local.n_bins  # numba loses writes to fields in parallel loops
    n_lanes = cell.shape[1]
    for t in prange(len(task_start) - 1):
        first, last = task_start[t], task_start[t + 1]
        if last - first > max_rows:
            continue
        max_bins = MAX_BINS if last - first <= FEW_ROWS else MAX_BINS_OF_MANY
        mass, local_bin = np.empty(256), np.empty(256, dtype=np.uint16)
        most = np.int64(1)
        for lane in range(len(feature)):
            f = feature[lane]
            shift, mask = byte_of(f)
            n_bins = offset[f + 1] - offset[f] - 1
            for b in range(n_bins + 1):
                mass[b] = 0.0
            for i in range(first, last):
                mass[(words[f >> 2, i] >> shift) & mask] += weight[i]
            most = larger(most, _group_bins(mass, n_bins, max_bins, local_bin))
            local_bin[n_bins] = MISSING
            for i in range(first, last):
                cell[i, lane] = local_bin[(words[f >> 2, i] >> shift) & mask]
        n_local[t] = most
        for i in range(first, last):
            for lane in range(n_lanes):
                cell[i, lane] = smaller(np.int64(cell[i, lane]), most) * n_lanes + lane


find_local_bins, find_local_bins_parallel = serial_and_parallel(_find_local_bins)
