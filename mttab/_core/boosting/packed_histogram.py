"""Histograms of whole numbers: gradient, hessian and count of a row in one int64, added to a bin in one step.

A row that counts once and has one output is packed as

    63            shift_g            shift_h             0
    [ gradient / unit_g | hessian / unit_h | 1 (the row) ]         without the middle where the hessian is constant

so that one addition per feature and row does what three float additions would. The units are powers of two, and a node
is added up in chunks of rows so short that no field can run over into its neighbour. Fields of several chunks are added
as whole numbers, and turned into floats at the end: sums of whole multiples of a power of two are exact, hence

* the same histogram, bit for bit, in any order of rows and with any number of threads;
* parent − child is exactly the sibling.

What is lost is the rounding of each row's derivatives to their unit, at most half of it per row: ``n × unit / 2`` for a
sum over n rows. Only the choice of splits sees that; leaf values are summed from the derivatives themselves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from .binning import TASK_ID
from .in_place import empty, flat, larger, smaller
from .jit import inlined, inner, jit, lean, lean_jit, serial_and_parallel

# Rows per chunk: with a constant hessian two fields share 64 bits, else three do and have to be emptied more often. A
# longer chunk is emptied less often, a shorter one leaves finer units: the first with units fine enough is taken.
CHUNK_TWO_FIELDS, CHUNKS_THREE_FIELDS = 2**20, (2**12, 2**10)
# Words that are fetched before they are added to bins.
WORDS_AT_ONCE = 256
# Below so many rows a tree is grown on floats: packing would save nothing, and every sum is then as exact as it can be.
MIN_PACKED_ROWS = 2048
# Derivatives that are on average less than so many units are left to floats: one huge value would leave nothing of the
# others.
MIN_MEAN_UNITS = 32


class Packing(NamedTuple):
    """How derivatives become fields of an int64.

    shift_g, shift_h : int64, lowest bits of the fields; equal where the hessian has none
    unit_g, unit_h : float64, powers of two
    chunk : int64, number of rows whose sums fit the fields
    """

    shift_g: np.int64
    shift_h: np.int64
    unit_g: float
    unit_h: float
    chunk: np.int64


def choose_packing(gradient: np.ndarray, hessian: np.ndarray, constant_hessian: bool) -> Packing | None:
    """Fields for derivatives (1, n_rows) that count each row once; None says that trees are grown on floats."""
    if gradient.shape[1] < MIN_PACKED_ROWS:
        return None
    packing = fields_of_rows(gradient[0], hessian[0], constant_hessian)
    return packing if packing.chunk > 0 else None


def packing_for(
    n_rows: int, size_g: tuple[float, float], size_h: tuple[float, float], constant_hessian: bool
) -> Packing | None:
    """The same for derivatives of which the largest and the mean absolute value are known."""
    if n_rows < MIN_PACKED_ROWS:
        return None
    packing = find_fields(n_rows, size_g, size_h, constant_hessian)
    return packing if packing.chunk > 0 else None


@lean_jit
def fields_of_rows(gradient, hessian, constant_hessian):  # type: ignore[no-untyped-def]
    """`find_fields` for the derivatives (n_rows,) of all rows."""
    size_h = (1.0, 1.0) if constant_hessian else largest_and_mean(hessian)
    return find_fields(len(gradient), largest_and_mean(gradient), size_h, constant_hessian)


@lean_jit
def find_fields(n_rows, size_g, size_h, constant_hessian):  # type: ignore[no-untyped-def]
    """The fields for so many rows, by the largest and the mean absolute values; a chunk of 0 rows: none will do."""
    n_bits = _bit_length(n_rows)
    for longest in CHUNKS_THREE_FIELDS:
        chunk = smaller(CHUNK_TWO_FIELDS if constant_hessian else longest, 1 << n_bits)
        row_bits = _bit_length(chunk)  # the count, up to and including `chunk`
        shift_h = row_bits
        h_bits = 0 if constant_hessian else row_bits + (63 - 3 * row_bits) // 2
        shift_g = shift_h + h_bits
        unit_g = _unit(size_g, 63 - shift_g - row_bits)
        unit_h = 1.0 if constant_hessian else _unit(size_h, h_bits - row_bits)
        if unit_g > 0.0 and unit_h > 0.0:
            return Packing(np.int64(shift_g), np.int64(shift_h), unit_g, unit_h, np.int64(chunk))
        if constant_hessian:
            break
    return Packing(np.int64(0), np.int64(0), 0.0, 0.0, np.int64(0))


@lean
def _bit_length(number):  # type: ignore[no-untyped-def]
    """Bits of a whole number ≥ 0."""
    n_bits = 0
    while number >> n_bits > 0:
        n_bits += 1
    return n_bits


@lean
def _unit(size, n_bits):  # type: ignore[no-untyped-def]
    """Power of two of which at most 2^n_bits make the largest value; 0 where too few would make the mean."""
    largest, mean = size
    if not 1e-200 < largest < 1e200:
        return 0.0
    unit = math.ldexp(1.0, np.int32(math.frexp(largest)[1] - n_bits))  # type: ignore[arg-type]
    return unit if mean >= MIN_MEAN_UNITS * unit else 0.0


@jit
def largest_and_mean(values):  # type: ignore[no-untyped-def]
    """Largest and mean absolute value."""
    largest, total = 0.0, 0.0
    for i in range(len(values)):
        size = abs(values[i])
        largest = larger(largest, size)
        total += size
    return largest, total / len(values)


def _pack_rows(gradient, hessian, packing, out_packed):  # type: ignore[no-untyped-def]
    """Derivatives (1, n_rows) → int64 (n_rows,)."""
    per_g, per_h = 1.0 / packing.unit_g, 1.0 / packing.unit_h
    has_hessian = packing.shift_g > packing.shift_h
    for i in prange(len(out_packed)):
        fields = (np.int64(np.rint(gradient[0, i] * per_g)) << packing.shift_g) + 1
        if has_hessian:
            fields += np.int64(np.rint(hessian[0, i] * per_h)) << packing.shift_h
        out_packed[i] = fields


pack_rows, pack_rows_parallel = serial_and_parallel(_pack_rows, lean_jit)


@jit
def unpack(fields, packing):  # type: ignore[no-untyped-def]
    """Count, gradient sum and hessian sum of packed fields, as floats.

    The gradient is the highest field: shifting it down rounds towards −∞, which the other fields, never negative, undo.
    """
    count = fields & ((np.int64(1) << packing.shift_h) - 1)
    h = (fields >> packing.shift_h) & ((np.int64(1) << (packing.shift_g - packing.shift_h)) - 1)
    return np.float64(count), np.float64(fields >> packing.shift_g) * packing.unit_g, np.float64(h) * packing.unit_h


@lean
def gather_and_sum(rows, start, stop, packed, packing, out_packed, out_sums):  # type: ignore[no-untyped-def]
    """Copy the packed rows of ``rows[start:stop]`` to ``out_packed`` and sum their fields as floats."""
    out_sums[:] = 0.0
    first, n_rows = np.int64(0), stop - start
    while first < n_rows:
        last, total = smaller(first + packing.chunk, n_rows), np.int64(0)
        # Slices: of places like ``start + j`` numba asks, row by row, whether they are negative.
        part, out = rows[start + first : start + last], out_packed[first:last]
        for j in range(len(part)):
            fields = packed[part[j]]
            out[j] = fields
            total += fields
        count, g, h = unpack(total, packing)
        out_sums[0] += count
        out_sums[1] += g
        if len(out_sums) == 3:
            out_sums[2] += h
        first = last


def _gather_packed(rows, start, stop, packed, packing, n_threads, out_packed, out_sums):  # type: ignore[no-untyped-def]
    """Bring the packed rows of a node to its own order, from place 0 on, and sum their fields as floats.

    Sums of whole units are exact, so the number of threads changes no bit of them.
    """
    sums = empty((n_threads, len(out_sums)), np.float64)
    for job in prange(n_threads):
        p = np.int64(job)  # a parallel loop counts in uint64
        first, last = (stop - start) * p // n_threads, (stop - start) * (p + 1) // n_threads
        gather_and_sum(rows, start + first, start + last, packed, packing, out_packed[first:last], sums[p])
    out_sums[:] = 0.0
    for part in range(n_threads):  # a sum by numpy would be a parallel loop of its own
        for c in range(len(out_sums)):
            out_sums[c] += sums[part, c]


gather_packed, gather_packed_parallel = serial_and_parallel(_gather_packed)


@lean
def _add_chunk(words, rows, node_start, start, stop, packed, own_words, cells):  # type: ignore[no-untyped-def]
    """Add ``rows[start:stop]`` to the bins of four features at once.

    words : uint32 (n_rows,), four bins each; packed : int64, of the node's rows from place 0 on
    own_words : uint32 (`WORDS_AT_ONCE`,), scratch; cells : int64 (4, 256)
    """
    first = start
    while first < stop:
        n = smaller(stop - first, WORDS_AT_ONCE)
        _take(words, rows, first, n, own_words)
        own = packed[first - node_start : first - node_start + n]
        for j in range(len(own)):
            fields, word = own[j], own_words[j]
            cells[0, word & 255] += fields
            cells[1, (word >> 8) & 255] += fields
            cells[2, (word >> 16) & 255] += fields
            cells[3, word >> 24] += fields
        first += n


@lean
def _add_chunk_of_two(words, shift, rows, node_start, start, stop, packed, own_words, cells):  # type: ignore[no-untyped-def]
    """The same for two features, those of the lower half of the words (shift 0) or of the upper half (shift 16)."""
    first = start
    while first < stop:
        n = smaller(stop - first, WORDS_AT_ONCE)
        _take(words, rows, first, n, own_words)
        own = packed[first - node_start : first - node_start + n]
        for j in range(len(own)):
            fields, word = own[j], own_words[j] >> shift
            cells[0, word & 255] += fields
            cells[1, (word >> 8) & 255] += fields
        first += n


@inlined
def _take(words, rows, first, n, out_words):  # type: ignore[no-untyped-def]
    """Words of ``rows[first : first + n]``. Deep in a tree of a large table each is a cache line of its own.

    A loop that does nothing else has many of them under way at once; one that adds to bins waits for each.
    """
    part = rows[first : first + n]
    for j in range(len(part)):
        out_words[j] = words[part[j]]


@lean
def _empty_cells(cells, packing, out_sums):  # type: ignore[no-untyped-def]
    """Add the fields of ``cells`` (256,) to ``out_sums`` int64 (3, 256) and set them to 0.

    Whole numbers, of which four go into one step: a processor without AVX-512 turns them into floats one by one.
    """
    mask_c = (np.int64(1) << packing.shift_h) - 1
    mask_h = (np.int64(1) << (packing.shift_g - packing.shift_h)) - 1
    counts, gradients, hessians = out_sums[0], out_sums[1], out_sums[2]
    for b in range(len(cells)):
        fields = cells[b]
        counts[b] += fields & mask_c
        gradients[b] += fields >> packing.shift_g
        hessians[b] += (fields >> packing.shift_h) & mask_h
        cells[b] = 0


@lean
def _write_sums(sums, packing, out_histogram):  # type: ignore[no-untyped-def]
    """One feature's ``sums`` int64 (3, >= n_bins) as floats (n_bins, 2 or 3)."""
    for b in range(len(out_histogram)):
        out_histogram[b, 0] = np.float64(sums[0, b])
        out_histogram[b, 1] = np.float64(sums[1, b]) * packing.unit_g
        if out_histogram.shape[1] == 3:
            out_histogram[b, 2] = np.float64(sums[2, b]) * packing.unit_h


@lean
def _write_cells(cells, packing, out_histogram):  # type: ignore[no-untyped-def]
    """One feature's ``cells`` (>= n_bins,) as floats (n_bins, 2 or 3); those that were in use are 0 afterwards."""
    mask_c = (np.int64(1) << packing.shift_h) - 1
    mask_h = (np.int64(1) << (packing.shift_g - packing.shift_h)) - 1
    # One line, with the distance of bins a number in the code: only so are whole registers written.
    own, out = cells[: len(out_histogram)], flat(out_histogram)
    if mask_h == 0:
        for b in range(len(own)):
            fields, place = own[b], np.uint64(2 * b)
            own[b] = 0
            out[place] = np.float64(fields & mask_c)
            out[place + np.uint64(1)] = np.float64(fields >> packing.shift_g) * packing.unit_g
    else:
        for b in range(len(own)):
            fields, place = own[b], np.uint64(3 * b)
            own[b] = 0
            out[place] = np.float64(fields & mask_c)
            out[place + np.uint64(1)] = np.float64(fields >> packing.shift_g) * packing.unit_g
            out[place + np.uint64(2)] = np.float64((fields >> packing.shift_h) & mask_h) * packing.unit_h


@lean
def _add_task_levels(task, rows, start, stop, packed, packing, out_histogram):  # type: ignore[no-untyped-def]
    """The histogram of the task id, which has any number of bins, row by row."""
    out_histogram[:, :] = 0.0
    for j in range(start, stop):
        count, g, h = unpack(packed[j - start], packing)
        level = task[rows[j]]
        out_histogram[level, 0] += count
        out_histogram[level, 1] += g
        if out_histogram.shape[1] == 3:
            out_histogram[level, 2] += h


@inner
def new_cells():  # type: ignore[no-untyped-def]
    """Scratch for `fill_packed`: bins of four features, which are 0 between two nodes, and words of rows."""
    cells = empty((4, 256), np.int64)
    line = flat(cells)
    for cell in range(len(line)):
        line[cell] = 0
    return cells, empty(WORDS_AT_ONCE, np.uint32)


@lean
def fill_packed(  # type: ignore[no-untyped-def]
    words, task, layout, rows, start, stop, packed, packing, first, last, sums, cells, own_words, out_histogram
):
    """`histogram.fill_floats` from packed rows; ``first`` is even, ``last`` even or the number of features.

    words : uint32 (n_blocks, n_rows), four bins each; packed : int64, of the node's rows from place 0 on
    sums : int64 (3, 1024), scratch; cells, own_words : from `new_cells`
    out_histogram : float64 (n_bins_total, 2 or 3)
    """
    offset = layout.offset
    in_one_go = stop - start <= packing.chunk
    n_in_words = last
    if last > first and layout.is_categorical[last - 1] == TASK_ID:
        n_in_words = last - 1
        _add_task_levels(task, rows, start, stop, packed, packing, out_histogram[offset[last - 1] : offset[last]])
    f = first
    while f < n_in_words:
        n_here = 4 if f & 3 == 0 and n_in_words - f > 2 else 2
        if not in_one_go:
            sums[:, :] = 0
        begin = start
        while begin < stop:
            end = smaller(begin + packing.chunk, stop)
            if n_here == 4:
                _add_chunk(words[f >> 2], rows, start, begin, end, packed, own_words, cells)
            else:
                shift = np.uint32(8 * (f & 3))
                _add_chunk_of_two(words[f >> 2], shift, rows, start, begin, end, packed, own_words, cells)
            if not in_one_go:
                for k in range(4):
                    _empty_cells(cells[k], packing, sums[:, 256 * k : 256 * (k + 1)])
            begin = end
        for own in range(f, smaller(f + n_here, n_in_words)):
            out = out_histogram[offset[own] : offset[own + 1]]
            if in_one_go:
                _write_cells(cells[own - f], packing, out)
            else:
                _write_sums(sums[:, 256 * (own - f) :], packing, out)
        for k in range(n_in_words - f, n_here):  # what a feature of another thread, or none, has left
            cells[k, :] = 0
        f += n_here


@lean_jit
def subtract_exactly(parent, child):  # type: ignore[no-untyped-def]
    """Make a parent's packed sums those of the child's sibling, which leaves no rounding behind."""
    sums, own = flat(parent), flat(child)
    for cell in range(len(sums)):
        sums[cell] -= own[cell]
