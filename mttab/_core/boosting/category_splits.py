"""Best set of levels of a category to send left, from its histogram."""

from __future__ import annotations

import numpy as np

from .in_place import larger, smaller
from .jit import lean, lean_jit
from .splitting import TIE, count_outputs, pair_score


@lean
def scan_categorical(histogram, sums, options, min_rows, low, high, best, room, out_set):  # type: ignore[no-untyped-def]
    """Best subset of levels to send left, among the prefixes of the levels sorted by mean gradient (Fisher 1958).

    An order that is taken from the gradients fits noise that thresholds cannot, hence three precautions. Levels with
    less than ``min_rows`` in the node are not sorted but stay right together, so both ends of the order are tried as
    left. The order is by G / (H + prior), which moves small levels to the middle. Subsets are scored with the prior
    added to λ. *Missing* is one level like the others. Bits of ``out_set`` uint32 (n_words,) are the levels that go
    left; a level without rows in this node follows the heavier child. room : SplitRoom

    Returns (score, missing goes left); ``out_set`` is written only where the score beats ``best``.
    """
    n_levels, n_channels = histogram.shape
    n_outputs = count_outputs(n_channels, options)
    l2 = options.l2 + options.categorical_prior * mean_hessian(sums, n_outputs, options)
    if most_of_levels(histogram, n_outputs, options, l2) <= best:
        return best, False
    places, keys = room.places, room.keys
    n_used, has_rest = levels_in_use(histogram, min_rows, places[0])
    if n_used + has_rest < 2:
        return best, False
    levels = places[0, :n_used]
    level_keys(histogram, levels, sums, n_outputs, options, keys[0], keys[1])
    sort_levels(levels, keys[0], places[1], places[2])
    left, right = room.pair[0], room.pair[1]
    found, n_left, is_reversed, is_left_heavier = best, 0, False, False
    for direction in range(2 if has_rest else 1):
        left[:] = 0.0
        for j in range(n_used if has_rest else n_used - 1):
            b = levels[n_used - 1 - j] if direction == 1 else levels[j]
            for c in range(n_channels):
                left[c] += histogram[b, c]
                right[c] = sums[c] - left[c]
            score = pair_score(left, right, n_outputs, options, l2, np.int8(0), low, high)
            if score > found + TIE * abs(found):
                found, n_left, is_reversed, is_left_heavier = (
                    score,
                    j + 1,
                    direction == 1,
                    left[0] >= right[0] * (1.0 - TIE),
                )
    if n_left == 0:
        return best, False
    goes_left = places[1]
    for b in range(n_levels):
        goes_left[b] = is_left_heavier and histogram[b, 0] <= 0.0
    for j in range(n_left):
        goes_left[levels[n_used - 1 - j] if is_reversed else levels[j]] = 1
    out_set[:] = 0
    for b in range(n_levels - 1):
        if goes_left[b]:
            out_set[b >> 5] |= np.uint32(1) << np.uint32(b & 31)
    return found, goes_left[n_levels - 1] != 0


@lean_jit
def most_of_levels(histogram, n_outputs, options, l2):  # type: ignore[no-untyped-def]
    """No two sets of levels score more: (Σ g)² / (Σ h + λ) ≤ Σ g² / (h + λ / n), by Cauchy and Schwarz.

    Most categories fall short of the best feature so far by this alone, and are not sorted.
    """
    n_used, total = 0, 0.0
    for b in range(len(histogram)):
        n_used += histogram[b, 0] > 0.0
    share = l2 / larger(n_used, 1)
    for k in range(n_outputs):
        h_channel = 0 if options.constant_hessian else 1 + n_outputs + k
        for b in range(len(histogram)):
            score = histogram[b, 1 + k] ** 2 / larger(histogram[b, h_channel] + share, 1e-300)
            total += score if histogram[b, 0] > 0.0 else 0.0
    return total * (1.0 + 1e-9)


@lean
def levels_in_use(histogram, min_rows, out_levels):  # type: ignore[no-untyped-def]
    """Write the levels with rows, at least ``min_rows``; return how many, and whether there are others with rows."""
    n_used, has_rest = 0, False
    for b in range(len(histogram)):
        if histogram[b, 0] > 0.0 and histogram[b, 0] >= min_rows * (1.0 - 1e-9):
            out_levels[n_used] = b
            n_used += 1
        elif histogram[b, 0] > 0.0:
            has_rest = True
    return n_used, has_rest


@lean
def sort_levels(levels, keys, room, more_room):  # type: ignore[no-untyped-def]
    """Sort ``levels`` by ``keys``, which are rounded first; equal ones stay in their order.

    Equal levels (same labels, same weights) must not be told apart by the rounding of their sums.
    room, more_room : int64 (>= len(levels),), scratch

        [ rounded key (32 bits) | place of the level (32 bits) ]    what is sorted, so that no two are equal
    """
    n, largest = len(levels), 0.0
    for j in range(n):
        largest = larger(largest, abs(keys[j]))
    for j in range(n):
        key = np.rint(keys[j] / largest * 1e9) if largest > 0.0 else 0.0
        room[j] = (np.int64(key) << 32) + j
    # A merge sort, for numpy's takes long to compile, and without branches that nobody can predict.
    order, merged, width = room, more_room, 4
    for low in range(0, n, width):
        _sort_four(order, low, smaller(low + width, n))
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = smaller(low + width, n), smaller(low + 2 * width, n)
            a, b, place = low, middle, low
            while a < middle and b < high:
                x, y = order[a], order[b]
                is_first = x < y
                merged[place] = x if is_first else y
                a += is_first
                b += not is_first
                place += 1
            for k in range(a, middle):
                merged[place + k - a] = order[k]
            for k in range(b, high):
                merged[place + k - b] = order[k]
        order, merged = merged, order
        width *= 2
    for j in range(n):
        merged[j] = levels[order[j] & 0xFFFFFFFF]
    for j in range(n):
        levels[j] = merged[j]


@lean
def _sort_four(numbers, low, high):  # type: ignore[no-untyped-def]
    """Sort ``numbers[low:high]``, at most four."""
    if high - low == 4:
        a, b, c, d = numbers[low], numbers[low + 1], numbers[low + 2], numbers[low + 3]
        a, b, c, d = smaller(a, b), larger(a, b), smaller(c, d), larger(c, d)
        a, c, b, d = smaller(a, c), larger(a, c), smaller(b, d), larger(b, d)
        numbers[low], numbers[low + 1], numbers[low + 2], numbers[low + 3] = a, smaller(b, c), larger(b, c), d
        return
    for j in range(low + 1, high):
        number, place = numbers[j], j
        while place > low and numbers[place - 1] > number:
            numbers[place] = numbers[place - 1]
            place -= 1
        numbers[place] = number


@lean_jit
def mean_hessian(sums, n_outputs, options):  # type: ignore[no-untyped-def]
    """Mean hessian of a row in the node, over outputs."""
    if options.constant_hessian:
        return 1.0
    total = 0.0
    for k in range(n_outputs):
        total += sums[1 + n_outputs + k]
    return total / (n_outputs * sums[0])


@lean
def level_keys(histogram, levels, sums, n_outputs, options, out_keys, candidate):  # type: ignore[no-untyped-def]
    """Smoothed mean gradient of each used level; of several outputs, the one that differs most between levels.

    out_keys, candidate : float64 (>= len(levels),), the latter scratch
    """
    widest = -1.0
    for k in range(n_outputs):
        h_total = sums[0] if options.constant_hessian else sums[1 + n_outputs + k]
        prior = options.categorical_prior * larger(h_total, 1e-100) / sums[0]
        spread = 0.0
        for j in range(len(levels)):
            b = levels[j]
            h = histogram[b, 0] if options.constant_hessian else histogram[b, 1 + n_outputs + k]
            candidate[j] = histogram[b, 1 + k] / (h + prior)
            spread += candidate[j] * histogram[b, 1 + k]
        if spread > widest * (1.0 + 1e-9):  # outputs that mirror each other differ by rounding only
            widest = spread
            for j in range(len(levels)):  # assigned as a whole, an array brings two seconds of compiling messages
                out_keys[j] = candidate[j]
