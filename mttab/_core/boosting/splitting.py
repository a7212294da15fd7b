"""Best split of one node, from its histogram.

A node with gradient sums G_k and hessian sums H_k scores Σ_k G_k² / (H_k + λ); the gain of a split is the score of its
two children less its own. Features are tried in order and a later candidate must beat the best one by more than
rounding noise (`TIE`), so equal partitions are always resolved the same way, in whatever order rows were summed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .binning import CATEGORY
from .in_place import empty, larger, smaller
from .jit import inlined, inner, jit, lean, lean_jit

TIE = 1e-10
# Smallest hessian sum of a leaf, as in LightGBM: keeps −G / H finite where a probability has saturated.
MIN_HESSIAN = 1e-3


class SplitOptions(NamedTuple):
    """What a split has to respect.

    min_samples_leaf : float, smallest sum of sample weights in a child
    min_hessian : float, smallest sum of hessians in a child, in sample weights' unit × mean hessian
    l2 : float, λ, added to a leaf's hessian sum
    categorical_prior : float, rows of prior in the order of category levels and in the score of their subsets
    categorical_min_rows : float, smallest sum of sample weights of a level that is sorted at all; not for task ids
    constant_hessian : bool, the hessian is the sample weight and has no channel of its own
    """

    min_samples_leaf: float
    min_hessian: float
    l2: float
    categorical_prior: float
    categorical_min_rows: float
    constant_hessian: bool


class SplitRoom(NamedTuple):
    """Scratch memory for the search of a split.

    places : int64 (3, >= n_levels), keys : float64 (2, >= n_levels), of the levels of a category
    pair : float64 (2, n_channels), sums of two children
    cuts : float64 (4, >= n_bins), see `_scan_one_output`
    """

    places: np.ndarray
    keys: np.ndarray
    pair: np.ndarray
    cuts: np.ndarray


@inner
def new_split_room(n_levels, n_bins, n_channels):  # type: ignore[no-untyped-def]
    """Room for features of so many levels, and numeric ones of so many bins."""
    return SplitRoom(
        empty((3, n_levels), np.int64),
        empty((2, n_levels), np.float64),
        empty((2, n_channels), np.float64),
        empty((4, n_bins), np.float64),
    )


@lean_jit
def bounded_value(gradient, hessian, l2, low, high):  # type: ignore[no-untyped-def]
    """Newton step −G / (H + λ), held between the bounds that monotonic constraints set."""
    denominator = hessian + l2
    value = -gradient / denominator if denominator > 1e-290 else 0.0
    return smaller(larger(value, low), high)


@lean_jit
def sums_score(sums, n_outputs, options, l2, low, high):  # type: ignore[no-untyped-def]
    """Score Σ_k G_k² / (H_k + λ) of channel sums; with bounds, of the value that they allow."""
    total = 0.0
    for k in range(n_outputs):
        g = sums[1 + k]
        h = sums[0] if options.constant_hessian else sums[1 + n_outputs + k]
        value = bounded_value(g, h, l2, low, high)
        total -= 2.0 * g * value + (h + l2) * value * value
    return total


@lean_jit
def _is_allowed(sums, n_outputs, options):  # type: ignore[no-untyped-def]
    # 1e-9: sums of weights like 0.1 must not fail a whole-number minimum by rounding.
    if sums[0] <= 0.0 or sums[0] < options.min_samples_leaf * (1.0 - 1e-9):
        return False
    total = 0.0
    for k in range(n_outputs):
        total += sums[0] if options.constant_hessian else sums[1 + n_outputs + k]
    return total >= options.min_hessian


@lean
def count_outputs(n_channels, options):  # type: ignore[no-untyped-def]
    return n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2


@lean_jit
def pair_score(left, right, n_outputs, options, l2, monotonic, low, high):  # type: ignore[no-untyped-def]
    """Score of two children, −inf if one is too small or their order breaks the feature's monotonic constraint."""
    if not (_is_allowed(left, n_outputs, options) and _is_allowed(right, n_outputs, options)):
        return -np.inf
    if monotonic != 0:
        h_left = left[0] if options.constant_hessian else left[1 + n_outputs]
        h_right = right[0] if options.constant_hessian else right[1 + n_outputs]
        left_value = bounded_value(left[1], h_left, l2, low, high)
        right_value = bounded_value(right[1], h_right, l2, low, high)
        if (right_value - left_value) * monotonic < 0:
            return -np.inf
    return sums_score(left, n_outputs, options, l2, low, high) + sums_score(right, n_outputs, options, l2, low, high)


@lean
def scan_numeric(histogram, sums, options, monotonic, low, high, best, room):  # type: ignore[no-untyped-def]
    """Best threshold of a numeric feature and the side of its missing values.

    histogram : float64 (n_bins + 1, n_channels) of this feature, the last bin is *missing*
    sums : float64 (n_channels,) of the node; best : score of the two children that has to be beaten; room : SplitRoom

    Returns (score, bin, next used bin, missing goes left); score is ``best`` or less where nothing beats it.
    """
    n_bins = histogram.shape[0] - 1
    n_channels = histogram.shape[1]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    if n_outputs == 1 and monotonic == 0 and low == -np.inf and high == np.inf:
        return _scan_one_output(histogram, sums, options, best, room.cuts)
    has_missing = histogram[n_bins, 0] > 0.0
    left, right = room.pair[0], room.pair[1]
    best_bin, best_next, best_missing_left, found = -1, -1, False, best
    for missing_left in range(2 if has_missing else 1):
        for c in range(n_channels):
            left[c] = histogram[n_bins, c] if missing_left == 1 else 0.0
        awaiting_next = False
        # The last value bin is a candidate only where missing values go right: then they alone are the right child.
        last = n_bins if has_missing and missing_left == 0 else n_bins - 1
        for b in range(n_bins):
            if histogram[b, 0] <= 0.0:
                continue
            if awaiting_next:
                best_next = b
                awaiting_next = False
            if b >= last:
                break
            for c in range(n_channels):
                left[c] += histogram[b, c]
                right[c] = sums[c] - left[c]
            if left[0] < options.min_samples_leaf * (1.0 - 1e-9):
                continue
            if right[0] < options.min_samples_leaf * (1.0 - 1e-9):
                break
            score = pair_score(left, right, n_outputs, options, options.l2, monotonic, low, high)
            if score > found + TIE * abs(found):
                found, best_bin, best_next = score, b, n_bins
                best_missing_left = missing_left == 1 if has_missing else left[0] >= right[0] * (1.0 - TIE)
                awaiting_next = True
    return found, best_bin, best_next, best_missing_left


@lean_jit
def _scan_one_output(histogram, sums, options, best, cuts):  # type: ignore[no-untyped-def]
    """`scan_numeric` for one output without bounds, the common case: many cuts in one step, and hardly a branch.

    With h + λ written as h, and G, H the sums of both children, the score of a cut is

        g² / h + (G − g)² / (H − h)  =  G² / H + H d² / q,     d = g − h G / H,     q = h (H − h),

    so the best cut has the largest d² / q. An empty bin repeats the candidate before it, and of equal ones the first
    counts.

    cuts : float64 (4, >= n_bins), scratch
    """
    n_bins = histogram.shape[0] - 1
    h_channel = 0 if options.constant_hessian else 2
    missing_w, missing_g, missing_h = histogram[n_bins, 0], histogram[n_bins, 1], histogram[n_bins, h_channel]
    has_missing = missing_w > 0.0
    both = sums[h_channel] + 2.0 * options.l2
    slope = sums[1] / both
    # A cut has to beat this d² / q, which holds the noise that a score has to be better by.
    flat = sums[1] * slope / both
    bar = larger((best + TIE * abs(best)) / both - flat, 0.0)
    best_bin, best_w, best_g, best_h, best_missing_left = np.int64(-1), 0.0, 0.0, 0.0, False
    for missing_left in range(2 if has_missing else 1):
        w, g, h = (missing_w, missing_g, missing_h) if missing_left == 1 else (0.0, 0.0, 0.0)
        # The last value bin is a candidate only where missing values go right: then they alone are the right child.
        last = n_bins if has_missing and missing_left == 0 else n_bins - 1
        first, stop = _sum_left(histogram[:last], h_channel, w, g, h, sums[0], options, cuts)
        weights, gradients, hessians = cuts[0, first:stop], cuts[1, first:stop], cuts[h_channel, first:stop]
        gains = cuts[3, first:stop]
        found = _largest_gain(gradients, hessians, slope, both, sums[h_channel], options, gains)
        if found > bar:
            c = _first_of(gains, larger((found - TIE * flat) / (1.0 + TIE), bar))
            bar = found + TIE * (found + flat)
            best_bin, best_w, best_g, best_h = first + c, weights[c], gradients[c], hessians[c]
            best_missing_left = missing_left == 1 if has_missing else best_w >= (sums[0] - best_w) * (1.0 - TIE)
    if best_bin < 0:
        return best, best_bin, np.int64(-1), False
    g_right, h_right = sums[1] - best_g, sums[h_channel] - best_h
    found = best_g * best_g / (best_h + options.l2) + g_right * g_right / (h_right + options.l2)
    best_next = best_bin + 1
    while best_next < n_bins and histogram[best_next, 0] <= 0.0:
        best_next += 1
    return found, best_bin, best_next, best_missing_left


@inlined
def _sum_left(histogram, h_channel, w, g, h, total, options, out_cuts):  # type: ignore[no-untyped-def]
    """Write what is left of each cut; return the first and the last, not included, with weight enough on both sides.

    histogram : float64 (n_cuts, n_channels), the bins left of the last cut; w, g, h : what is left of the first bin
    total : float64, weight of the node; out_cuts : weight, gradient and, if it has a channel, hessian
    """
    weights, gradients, hessians = out_cuts[0, : len(histogram)], out_cuts[1], out_cuts[2]
    for b in range(len(weights)):
        w += histogram[b, 0]
        g += histogram[b, 1]
        weights[b], gradients[b] = w, g
    if h_channel > 0:
        for b in range(len(weights)):
            h += histogram[b, h_channel]
            hessians[b] = h
    # Weights only grow from cut to cut, so that it is enough to count.
    min_weight, first, last = options.min_samples_leaf * (1.0 - 1e-9), np.int64(0), np.int64(0)
    for b in range(len(weights)):
        left, right = weights[b], total - weights[b]
        first += np.int64((left < min_weight) | (left <= 0.0))
        last += np.int64((right >= min_weight) & (right > 0.0))
    return first, larger(first, last)


@inlined
def _largest_gain(gradients, hessians, slope, both, total, options, out_gains):  # type: ignore[no-untyped-def]
    """Write d² / q of each cut, 0 where a hessian is too small, and return the largest.

    That of numbers that are not negative, whose bits are in their order as whole numbers.
    """
    l2, least, most = options.l2, options.min_hessian, total - options.min_hessian
    for c in range(len(out_gains)):
        h = hessians[c]
        below = h + l2
        d, q = gradients[c] - slope * below, below * (both - below)
        gain = d * d / q
        out_gains[c] = gain if (h >= least) & (h <= most) & (q > 0.0) else 0.0
    bits, found = out_gains.view(np.int64), np.int64(0)
    for c in range(len(bits)):
        found = larger(found, bits[c])
    return np.int64(found).view(np.float64)


@inlined
def _first_of(gains, bar):  # type: ignore[no-untyped-def]
    """Place of the first gain of at least ``bar``."""
    c = 0
    while gains[c] < bar:
        c += 1
    return c


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


@lean
def find_feature_split(f, histogram, layout, sums, options, low, high, best, room, out_set):  # type: ignore[no-untyped-def]
    """Best split of a node by feature ``f``, whose part of the histogram this is, if it beats the score ``best``.

    room : SplitRoom; out_set : uint32 (>= n_words,), levels that go left where the feature is a category

    Returns (score, bin, next used bin, missing goes left); the score is ``best`` where nothing beats it.
    """
    if layout.is_categorical[f]:
        min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
        score, missing_left = scan_categorical(histogram, sums, options, min_rows, low, high, best, room, out_set)
        return score, np.int64(0), np.int64(0), missing_left
    return scan_numeric(histogram, sums, options, layout.monotonic[f], low, high, best, room)


@jit
def find_node_split(histogram, layout, sums, options, low, high, features, out_set):  # type: ignore[no-untyped-def]
    """Best split of a node over the given features.

    histogram : float64 (n_bins_total, n_channels); sums : float64 (n_channels,); features : int64, ascending
    out_set : uint32 (n_words,), levels that go left where the best split is on a category

    Returns (gain, feature, bin, next used bin, missing goes left); gain is 0 and feature −1 where no split pays.
    """
    n_channels = histogram.shape[1]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    own = sums_score(sums, n_outputs, options, options.l2, low, high)
    best, feature, left_bin, next_bin, missing_left = own, -1, 0, 0, False
    room = new_split_room(len(histogram), len(histogram), n_channels)
    for f in features:
        part = histogram[layout.offset[f] : layout.offset[f + 1]]
        score, b, following, is_left = find_feature_split(
            f, part, layout, sums, options, low, high, best, room, out_set
        )
        if score > best:
            best, feature, left_bin, next_bin, missing_left = score, f, b, following, is_left
    return best - own, feature, left_bin, next_bin, missing_left
