"""Splitting a node: its rows, a range of an index array, are sorted in two, in place and stably.

Between the node's start and its stop::

    rows   [ . . . a b c d e f g . . . ]
    split          < > < < > < >
    rows   [ . . . a c d f b e g . . . ]      left = a c d f, right = b e g
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .binning import ALL_BITS, TASK_ID, byte_of
from .jit import jit, lean_jit

# To move a row costs about as much as to add it to so many bins.
CELLS_PER_ROW = 4


@lean_jit
def mark_left(n_codes, left_bin, missing_left, is_categorical, category_set, out_is_left):  # type: ignore[no-untyped-def]
    """Write for each of a feature's bin codes, the last of them *missing*, whether it goes left: uint8, 1 or 0."""
    for code in range(n_codes - 1):
        if is_categorical:
            out_is_left[code] = (category_set[code >> 5] >> np.uint32(code & 31)) & np.uint32(1)
        else:
            out_is_left[code] = code <= left_bin
    out_is_left[n_codes - 1] = missing_left


@lean_jit
def _deal_rows(part, words, shift, mask, is_left, out_left, out_right):  # type: ignore[no-untyped-def]
    """Copy the rows ``part`` to the side that they go to, in their order; return how many go left.

    words, shift, mask : as in `histogram.add_to_bins`; is_left : uint8 (n_bins,), 1 for bins that go left
    out_left, out_right : uint32 (>= len(part),); ``out_left`` may be ``part``

    Every row is written to both sides and counted on one: a branch that nobody can predict would cost more.
    """
    n_left = np.uint64(0)  # unsigned: numba then leaves out its test for a negative index
    for j in range(len(part)):
        i = part[j]
        out_right[np.uint64(j) - n_left] = i
        out_left[n_left] = i
        n_left += np.uint64(is_left[(words[i] >> shift) & mask])
    return np.int64(n_left)


@lean_jit
def partition_rows(rows, start, stop, words, shift, mask, is_left, buffer):  # type: ignore[no-untyped-def]
    """Sort the rows of ``rows[start:stop]`` in two; return where those begin that do not go left.

    words, shift, mask, is_left : as in `_deal_rows`; buffer : uint32 (>= stop - start,), scratch
    """
    part = rows[start:stop]
    n_left = _deal_rows(part, words, shift, mask, is_left, part, buffer)
    for j in range(len(part) - n_left):
        part[n_left + j] = buffer[j]
    return start + n_left


def _partition_rows_parallel(rows, start, stop, words, shift, mask, is_left, buffer, left_buffer, n_threads):  # type: ignore[no-untyped-def]
    """The same by several threads: each deals a part of the rows, and copies it back when all have been counted."""
    n_rows = stop - start
    first = np.empty(n_threads + 1, dtype=np.int64)
    n_left = np.empty(n_threads + 1, dtype=np.int64)
    n_left[0] = 0
    for p in range(n_threads + 1):
        first[p] = n_rows * p // n_threads
    for p in prange(n_threads):
        a, b = first[p], first[p + 1]
        part = rows[start + a : start + b]
        n_left[p + 1] = _deal_rows(part, words, shift, mask, is_left, left_buffer[a:b], buffer[a:b])
    left_before = np.cumsum(n_left)
    middle = start + left_before[n_threads]
    for p in prange(n_threads):
        a, n, left = first[p], n_left[p + 1], start + left_before[p]
        right = middle + a - left_before[p]
        for j in range(n):
            rows[left + j] = left_buffer[a + j]
        for j in range(first[p + 1] - a - n):
            rows[right + j] = buffer[a + j]
    return middle


partition_rows_parallel = jit(_partition_rows_parallel, parallel=True)


@lean_jit
def split_range(rows, start, stop, words, task, layout, f, is_left, scratch, team):  # type: ignore[no-untyped-def]
    """`partition_rows` by feature ``f``, of whose bins ``is_left`` tells which go left."""
    is_task = layout.is_categorical[f] == TASK_ID
    shift, mask = (byte_of(np.int64(0))[0], ALL_BITS) if is_task else byte_of(f)
    column = task if is_task else words[f >> 2]
    if team is None:
        return partition_rows(rows, start, stop, column, shift, mask, is_left, scratch.buffer)
    if (stop - start) * CELLS_PER_ROW >= team.min_cells:
        return partition_rows_parallel(
            rows, start, stop, column, shift, mask, is_left, scratch.buffer, scratch.left_buffer, team.n_threads
        )
    return partition_rows(rows, start, stop, column, shift, mask, is_left, scratch.buffer)
