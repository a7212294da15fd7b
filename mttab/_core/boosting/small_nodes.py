"""Best split of a node with few rows, straight from the rows: a node of 20 rows must not pay for 255 empty bins.

Per feature the bins in use are listed in order and only those are summed and scanned,

    codes of the rows   7 200 7 31        bins in use  7 31 200        histogram  [. . .] + missing

so the result is that of the full histogram, which is never built (and the sibling needs no subtraction either).
"""

from __future__ import annotations

import numpy as np

from .binning import ALL_BITS, CATEGORY, TASK_ID, byte_of
from .histogram import add_to_bins
from .jit import jit
from .splitting import scan_categorical, scan_numeric, sums_score

# Largest number of rows of such a node. Listing the bins costs rows² in the worst case, a full histogram 255 bins.
SMALL_NODE = 64


@jit
def compact_bins(words, shift, mask, rows, statistics, missing_code, is_used, used, rank, out_histogram):  # type: ignore[no-untyped-def]
    """Sum the rows into the bins they use, in ascending order, and *missing* last; return the number of value bins.

    words, shift, mask : as in `histogram.add_to_bins`; rows : uint32 (n,); statistics : float64 (>= n, n_channels)
    is_used : bool (256,), all False, and left so; used, rank : int64 (256,), bins in use and their places, written
    out_histogram : float64 (> n, n_channels)
    """
    n_used = 0
    for j in range(len(rows)):
        b = np.int64((words[rows[j]] >> shift) & mask)
        if b != missing_code and not is_used[b]:
            is_used[b] = True
            place = n_used
            while place > 0 and used[place - 1] > b:
                used[place] = used[place - 1]
                place -= 1
            used[place] = b
            n_used += 1
    for place in range(n_used):
        rank[used[place]] = place
        is_used[used[place]] = False
    rank[missing_code] = n_used
    n_channels = statistics.shape[1]
    out_histogram[: n_used + 1, :] = 0.0
    for j in range(len(rows)):
        place = rank[(words[rows[j]] >> shift) & mask]
        for c in range(n_channels):
            out_histogram[place, c] += statistics[j, c]
    return n_used


@jit
def find_split_from_rows(words, task, layout, rows, statistics, sums, options, low, high, features, out_set):  # type: ignore[no-untyped-def]
    """`splitting.find_node_split` for the rows ``rows`` uint32 (n,) of one node, with their ``statistics``."""
    n_channels = statistics.shape[1]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    own = sums_score(sums, n_outputs, options, options.l2, low, high)
    best, feature, left_bin, next_bin, missing_left = own, -1, 0, 0, False
    is_used = np.zeros(256, dtype=np.bool_)
    used, rank = np.empty(256, dtype=np.int64), np.empty(256, dtype=np.int64)
    compact = np.empty((min(len(rows), 256) + 1, n_channels))
    for f in features:
        n_bins = layout.offset[f + 1] - layout.offset[f]
        if layout.is_categorical[f]:
            part = np.empty((n_bins, n_channels))
            if layout.is_categorical[f] == TASK_ID:
                add_to_bins(task, byte_of(np.int64(0))[0], ALL_BITS, rows, np.int64(0), len(rows), statistics, part)
            else:
                shift, mask = byte_of(f)
                add_to_bins(words[f >> 2], shift, mask, rows, np.int64(0), len(rows), statistics, part)
            min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
            score, is_left = scan_categorical(part, sums, options, min_rows, low, high, best, out_set)
            b, following = 0, 0
        else:
            shift, mask = byte_of(f)
            n_used = compact_bins(
                words[f >> 2], shift, mask, rows, statistics, n_bins - 1, is_used, used, rank, compact
            )
            part = compact[: n_used + 1]
            score, b, following, is_left = scan_numeric(part, sums, options, layout.monotonic[f], low, high, best)
            if score > best:
                b, following = used[b], used[following] if following < n_used else n_bins - 1
        if score > best:
            best, feature, left_bin, next_bin, missing_left = score, f, b, following, is_left
    return best - own, feature, left_bin, next_bin, missing_left
