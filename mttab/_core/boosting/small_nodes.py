"""Best split of a node with few rows, straight from the rows: a node of 20 rows must not pay for 255 empty bins.

Per feature the bins in use are listed in order and only those are summed and scanned,

    codes of the rows   7 200 7 31        bins in use  7 31 200        histogram  [. . .] + missing

so the result is that of the full histogram, which is never built (and the sibling needs no subtraction either).
"""

from __future__ import annotations

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from .binning import CATEGORY, TASK_ID, byte_of
from .category_splits import scan_categorical
from .histogram import set_zero
from .in_place import empty, larger, smaller
from .jit import jit, lean
from .numeric_splits import scan_numeric
from .splitting import count_outputs, new_split_room, sums_score

# Largest number of rows of such a node: with more, most bins are in use.
SMALL_NODE = 128


@lean
def compact_bins(words, shift, mask, rows, statistics, missing_code, cells, used, out_histogram):  # type: ignore[no-untyped-def]
    """Sum the rows into the bins they use, in ascending order, and *missing* last; return the number of value bins.

    words, shift, mask : as in `histogram.add_to_bins`; rows : uint32 (n,); statistics : float64 (>= n, n_channels)
    cells : float64 (256, n_channels), all 0, and left so; used : int64 (256,), bins in use, written
    out_histogram : float64 (> n, n_channels)

    A set of 256 bits says which bins are in use: its members come out in order without any sorting.
    """
    n_channels = statistics.shape[1]
    one, six, low_six = np.uint64(1), np.uint64(6), np.uint64(63)
    set_0, set_1, set_2, set_3 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for j in range(len(rows)):
        b = np.uint64((words[rows[j]] >> shift) & mask)
        # Of the four words of the set the row's bin is added to one: a product with 0 or 1, not a branch.
        bit, quarter = one << (b & low_six), b >> six
        set_0 |= bit * np.uint64(quarter == 0)
        set_1 |= bit * np.uint64(quarter == 1)
        set_2 |= bit * np.uint64(quarter == 2)
        set_3 |= bit * np.uint64(quarter == 3)
        cells[b, 0] += statistics[j, 0]
        cells[b, 1] += statistics[j, 1]
        for c in range(2, n_channels):
            cells[b, c] += statistics[j, c]
    n_used, has_missing = np.uint64(0), False
    for place in range(4):
        members = set_0 if place == 0 else (set_1 if place == 1 else (set_2 if place == 2 else set_3))
        while members != 0:
            b = np.uint64(trailing_zeros(members)) + np.uint64(64 * place)
            members &= members - one
            if b == missing_code:
                has_missing = True
                continue
            used[n_used] = b
            out_histogram[n_used, 0], out_histogram[n_used, 1] = cells[b, 0], cells[b, 1]
            cells[b, 0], cells[b, 1] = 0.0, 0.0
            for c in range(2, n_channels):
                out_histogram[n_used, c] = cells[b, c]
                cells[b, c] = 0.0
            n_used += one
    for c in range(n_channels):
        out_histogram[n_used, c] = cells[missing_code, c] if has_missing else 0.0
        cells[missing_code, c] = 0.0
    return np.int64(n_used)


@jit
def find_split_from_rows(words, task, layout, rows, statistics, sums, options, low, high, is_tried, out_set):  # type: ignore[no-untyped-def]
    """`feature_splits.find_node_split` for the rows ``rows`` uint32 (n,) of one node, with their ``statistics``.

    is_tried : bool (n_features,)
    """
    n_channels, most = statistics.shape[1], np.int64(0)
    for f in range(len(is_tried)):
        if layout.is_categorical[f]:
            most = larger(most, layout.offset[f + 1] - layout.offset[f])
    cells, used = np.zeros((256, n_channels)), empty(256, np.int64)
    compact = empty((smaller(len(rows), 256) + 1, n_channels), np.float64)
    levels = empty((most, n_channels), np.float64)
    scratch = cells, used, compact, levels, new_split_room(most, len(compact), n_channels)
    node = words, task, layout, rows, statistics, sums, options, low, high
    return _find_split(*node, is_tried, *scratch, out_set)


@lean
def _find_split(  # type: ignore[no-untyped-def]
    words,
    task,
    layout,
    rows,
    statistics,
    sums,
    options,
    low,
    high,
    is_tried,
    cells,
    used,
    compact,
    levels,
    room,
    out_set,
):
    """The same in memory of the caller's; levels : float64 (>= n_levels, n_channels); others as for `compact_bins`."""
    n_channels = statistics.shape[1]
    own = sums_score(sums, count_outputs(n_channels, options), options, options.l2, low, high)
    best, feature, left_bin, next_bin, missing_left = own, -1, 0, 0, False
    for f in range(len(is_tried)):
        if not is_tried[f]:
            continue
        n_bins = layout.offset[f + 1] - layout.offset[f]
        if layout.is_categorical[f]:
            part, is_task = levels[:n_bins], layout.is_categorical[f] == TASK_ID
            set_zero(part)
            shift, mask = byte_of(f)
            for j in range(len(rows)):
                i = rows[j]
                level = task[i] if is_task else (words[f >> 2, i] >> shift) & mask
                for c in range(n_channels):
                    part[level, c] += statistics[j, c]
            min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
            score, is_left = scan_categorical(part, sums, options, min_rows, low, high, best, room, out_set)
            b, following = 0, 0
        else:
            shift, mask = byte_of(f)
            n_used = compact_bins(words[f >> 2], shift, mask, rows, statistics, n_bins - 1, cells, used, compact)
            part = compact[: n_used + 1]
            score, b, following, is_left = scan_numeric(part, sums, options, layout.monotonic[f], low, high, best, room)
            if score > best:
                b, following = used[b], used[following] if following < n_used else n_bins - 1
        if score > best:
            best, feature, left_bin, next_bin, missing_left = score, f, b, following, is_left
    return best - own, feature, left_bin, next_bin, missing_left
