"""Best split of a node of a small task, from lists of its rows that are sorted by each feature.

A task of at most 256 rows is sorted by every feature once per fit. A node is a range of each list, and splitting it
deals every list to both children, which are then sorted, too:

    by x0   7 2 5 0 3 6 1 4                by x0   2 0 3 1 | 7 5 6 4
    by x1   0 5 2 7 4 1 6 3      0–3 left  by x1   0 2 1 3 | 5 7 4 6

One pass over a list sees the bins in use in their order: nothing is emptied, listed or skipped as in a histogram. For
trees with one value per leaf, rows that all have weight, and no monotonic constraints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .binning import CATEGORY, byte_of
from .jit import inner, jit, serial_and_parallel
from .splitting import TIE, scan_categorical, sums_score

# Rows of such a task: their numbers within it fit a byte.
MAX_ROWS = 256


class Presorted(NamedTuple):
    """Rows of one task in the order of each feature.

    is_used : bool; is_plain : bool, every row counts once, in its hessian, too
    first_row : int64, number of the task's first row
    order : uint8 (n_features, n), rows less ``first_row``, in node ranges, dealt as the tree grows
    goes_left, buffer : uint8 (256,), scratch; expected, bottom : float64 (257,), scratch
    """

    is_used: bool
    is_plain: bool
    first_row: np.int64
    order: np.ndarray
    goes_left: np.ndarray
    buffer: np.ndarray
    expected: np.ndarray
    bottom: np.ndarray


# In place of what `sort_tasks` writes, where no task is sorted.
NO_ORDER = np.empty((0, 0), dtype=np.uint8)


def _sort_tasks(words, task_start, out_order):  # type: ignore[no-untyped-def]
    """Sort the rows of every small task by each feature, equal ones in their order (counting sort).

    words : uint32 (n_blocks, n_rows); task_start : int64 (n_tasks + 1,)
    out_order : uint8 (n_features, n_rows), place of a row in its task; not written for tasks of more rows
    """
    for t in prange(len(task_start) - 1):
        first, n_rows = task_start[t], task_start[t + 1] - task_start[t]
        if n_rows > MAX_ROWS:
            continue
        begin = np.empty(257, dtype=np.int64)
        for f in range(out_order.shape[0]):
            shift, mask = byte_of(np.int64(f))
            begin[:] = 0
            for i in range(n_rows):
                begin[((words[f >> 2, first + i] >> shift) & mask) + 1] += 1
            for code in range(256):
                begin[code + 1] += begin[code]
            for i in range(n_rows):
                code = (words[f >> 2, first + i] >> shift) & mask
                out_order[f, first + begin[code]] = i
                begin[code] += 1


sort_tasks, sort_tasks_parallel = serial_and_parallel(_sort_tasks)


@jit
def presorted_rows(task_order, is_plain, first_row, last_row, rows):  # type: ignore[no-untyped-def]
    """`Presorted` of the rows ``rows`` (uint32, ascending) of the task that has ``first_row`` to ``last_row``.

    task_order : as `sort_tasks` writes it, or without features where it is not to be used; is_plain : see `Presorted`
    """
    n_features, n_rows, n_used = task_order.shape[0], last_row - first_row, len(rows)
    is_used = n_features > 0 and n_rows <= MAX_ROWS
    order = np.empty((n_features if is_used else 0, n_used), dtype=np.uint8)
    goes_left, buffer = np.empty(256, dtype=np.uint8), np.empty(256, dtype=np.uint8)
    if is_used and n_used == n_rows:
        for f in range(n_features):
            for j in range(n_rows):
                order[f, j] = task_order[f, first_row + j]
    elif is_used:
        is_in = goes_left
        is_in[:] = 0
        for row in rows:
            is_in[row - first_row] = 1
        for f in range(n_features):
            n_kept = np.uint64(0)
            for j in range(n_rows):
                i = task_order[f, first_row + j]
                buffer[n_kept] = i
                n_kept += np.uint64(is_in[i])
            for j in range(n_used):
                order[f, j] = buffer[j]
    return Presorted(is_used, is_plain, np.int64(first_row), order, goes_left, buffer, np.empty(257), np.empty(257))


@jit
def deal_lists(presorted, rows, start, middle, stop):  # type: ignore[no-untyped-def]
    """Deal the lists of a node whose ``rows[start:stop]`` have been split at ``middle`` to its children."""
    goes_left, buffer = presorted.goes_left, presorted.buffer
    for j in range(start, stop):
        goes_left[rows[j] - presorted.first_row] = j < middle
    for f in range(presorted.order.shape[0]):
        part = presorted.order[f, start:stop]
        n_left = np.uint64(0)
        for j in range(len(part)):
            i = part[j]
            buffer[np.uint64(j) - n_left] = i
            part[n_left] = i
            n_left += np.uint64(goes_left[i])
        n = np.int64(n_left)
        for j in range(len(part) - n):
            part[n + j] = buffer[j]


@inner
def _code(order, j, first_row, column, shift):  # type: ignore[no-untyped-def]
    return (column[first_row + order[j]] >> shift) & np.uint32(255)


@inner
def _tabulate(presorted, sums, options):  # type: ignore[no-untyped-def]
    """Write what `_scan_list` needs to know of every number of rows that count once: h G / H and h (H − h)."""
    both = sums[0] + 2.0 * options.l2
    for w in range(np.int64(sums[0]) + 1):
        below = w + options.l2
        presorted.expected[w], presorted.bottom[w] = sums[1] / both * below, below * (both - below)


@inner
def _scan_list(presorted, order, column, shift, missing, gradient, hessian, weight, sums, options, best):  # type: ignore[no-untyped-def]
    """`splitting.scan_numeric` of a node from its rows in the order of the feature.

    order : uint8 (n,); column : uint32 (n_rows,), codes in the byte at ``shift``; missing : the code of no value
    gradient, hessian, weight : float64 (n_rows,)

    Cuts are compared as in `splitting._scan_one_output`, and only where one wins it is asked whether there is a cut, or
    both rows are in one bin. Where every row counts once all but the gradient is known in advance.
    """
    first_row = presorted.first_row
    own_gradient = gradient[first_row : first_row + MAX_ROWS]
    h_channel = 0 if options.constant_hessian else 2
    min_weight, l2 = options.min_samples_leaf * (1.0 - 1e-9), options.l2
    n_values, missing_w, missing_g, missing_h = len(order), 0.0, 0.0, 0.0
    while n_values > 0 and _code(order, n_values - 1, first_row, column, shift) == missing:
        n_values -= 1
        row = first_row + order[n_values]
        missing_w += weight[row]
        missing_g += gradient[row]
        missing_h += weight[row] if options.constant_hessian else hessian[row]
    has_missing = n_values < len(order)
    both = sums[h_channel] + 2.0 * l2
    slope = sums[1] / both
    noise = TIE * (sums[1] * slope / both)
    bar, bottom = (best + TIE * abs(best)) / both - sums[1] * slope / both, 1.0
    best_j, best_w, best_g, best_h, best_missing_left = np.int64(-1), 0.0, 0.0, 0.0, False
    for missing_left in range(2 if has_missing else 1):
        w, g, h = (missing_w, missing_g, missing_h) if missing_left == 1 else (0.0, 0.0, 0.0)
        # All values left is a candidate only where missing values go right: then they alone are the right child.
        last = n_values if has_missing and missing_left == 0 else n_values - 1
        if presorted.is_plain:
            n_before = int(w)
            first = max(int(np.ceil(min_weight)) - n_before - 1, 0)
            last = min(last, int(sums[0] - max(min_weight, 0.5)) - n_before)
            # Unsigned: numba then leaves out its test for a negative index.
            for j in range(min(first, last)):
                g += own_gradient[np.uint64(order[np.uint64(j)])]
            expected, bottoms = presorted.expected[n_before + 1 :], presorted.bottom[n_before + 1 :]
            for j in range(first, last):
                g += own_gradient[np.uint64(order[np.uint64(j)])]
                d, q = g - expected[np.uint64(j)], bottoms[np.uint64(j)]
                if d * d * bottom > bar * q and _is_cut(order, j, n_values, first_row, column, shift):
                    n_left = n_before + j + 1
                    if min(n_left, sums[0] - n_left) >= options.min_hessian:
                        bar, bottom = d * d + TIE * (d * d) + noise * q, q
                        best_j, best_w, best_g, best_h = np.int64(j), float(n_left), g, float(n_left)
                        best_missing_left = missing_left == 1
            continue
        for j in range(last):
            row = first_row + order[j]
            w += weight[row]
            g += gradient[row]
            h += weight[row] if options.constant_hessian else hessian[row]
            if w < min_weight:
                continue
            w_right = sums[0] - w
            if w_right < min_weight or w_right <= 0.0:
                break
            below = h + l2
            d, q = g - slope * below, below * (both - below)
            if d * d * bottom > bar * q and _is_cut(order, j, n_values, first_row, column, shift):
                if w > 0.0 and min(h, sums[h_channel] - h) >= options.min_hessian:
                    bar, bottom = d * d + TIE * (d * d) + noise * q, q
                    best_j, best_w, best_g, best_h = np.int64(j), w, g, h
                    best_missing_left = missing_left == 1
    if best_j < 0:
        return best, np.int64(-1), np.int64(-1), False
    if not has_missing:
        best_missing_left = best_w >= (sums[0] - best_w) * (1.0 - TIE)
    g_right, h_right = sums[1] - best_g, sums[h_channel] - best_h
    found = best_g * best_g / (best_h + l2) + g_right * g_right / (h_right + l2)
    following = missing
    if best_j + 1 < n_values:
        following = _code(order, best_j + 1, first_row, column, shift)
    return found, np.int64(_code(order, best_j, first_row, column, shift)), np.int64(following), best_missing_left


@inner
def _is_cut(order, j, n_values, first_row, column, shift):  # type: ignore[no-untyped-def]
    """Whether the values of a list end at place ``j``, or those of a bin do."""
    if j + 1 == n_values:
        return True
    return _code(order, j, first_row, column, shift) != _code(order, j + 1, first_row, column, shift)


@jit
def find_split_from_lists(table, layout, presorted, start, stop, sums, options, features, out_set):  # type: ignore[no-untyped-def]
    """`splitting.find_node_split` for the rows that stand in ``start:stop`` of every list."""
    low, high = -np.inf, np.inf  # there are no monotonic constraints
    own = sums_score(sums, np.int64(1), options, options.l2, low, high)
    best, feature, left_bin, next_bin, missing_left = own, -1, np.int64(0), np.int64(0), False
    gradient, hessian, weight, first_row = table.gradient[0], table.hessian[0], table.weight, presorted.first_row
    if presorted.is_plain:
        _tabulate(presorted, sums, options)
    for f in features:
        order, column = presorted.order[f, start:stop], table.words[f >> 2]
        shift, mask = byte_of(f)
        n_bins = layout.offset[f + 1] - layout.offset[f]
        if layout.is_categorical[f]:
            part = np.zeros((n_bins, len(sums)))
            for i in order:
                row = first_row + i
                code = (column[row] >> shift) & mask
                part[code, 0] += weight[row]
                part[code, 1] += gradient[row]
                if not options.constant_hessian:
                    part[code, 2] += hessian[row]
            min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
            score, is_left = scan_categorical(part, sums, options, min_rows, low, high, best, out_set)
            b, following = np.int64(0), np.int64(0)
        else:
            missing = np.uint32(n_bins - 1)
            score, b, following, is_left = _scan_list(
                presorted, order, column, shift, missing, gradient, hessian, weight, sums, options, best
            )
        if score > best:
            best, feature, left_bin, next_bin, missing_left = score, f, b, following, is_left
    return best - own, feature, left_bin, next_bin, missing_left
