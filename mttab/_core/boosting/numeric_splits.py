"""Best threshold of a numeric feature, from its histogram."""

from __future__ import annotations

import numpy as np

from .in_place import larger
from .jit import inlined, lean, lean_jit
from .splitting import TIE, pair_score


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

    It is found by bits: as whole numbers, those of numbers that are not negative are in the same order.
    """
    l2, least = options.l2, options.min_hessian
    for c in range(len(out_gains)):
        h = hessians[c]
        below = h + l2
        d, q = gradients[c] - slope * below, below * (both - below)
        gain = d * d / q
        out_gains[c] = gain if (h >= least) & (total - h >= least) & (q > 0.0) else 0.0
    bits, found = out_gains.view(np.int64), np.int64(0)
    for c in range(len(bits)):
        found = larger(found, bits[c])
    return np.int64(found).view(np.float64)


@inlined
def _first_of(gains, bar):  # type: ignore[no-untyped-def]
    """Place of the first gain of at least ``bar``; there is one."""
    c = 0
    while gains[c] < bar:
        c += 1
    return c
