"""Best cut of all open nodes of a level together, from their histograms.

The gain of a cut is the sum of its gains in the nodes, each the score of two children less the node's own, see
`splitting`; a node that the cut would split into children below the minimum sizes adds nothing. Of cuts whose gains
differ by no more than rounding noise the first one is taken.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .histogram import fill_floats, subtract_histogram
from .jit import inlined, jit, lean, serial_and_parallel
from .level import new_room
from .level_categories import call_best_subset
from .node_search import first_feature
from .packed_histogram import fill_packed, subtract_exactly
from .splitting import TIE, count_outputs, pair_score


def _search_level(  # type: ignore[no-untyped-def]
    words, task, layout, rows, options, packing, scratch, starts, stops, level, n_threads
):
    """Histograms of the level's nodes, and the best cut of all of them by each feature, shared out over threads.

    words, task, layout, rows, options, packing, scratch : as in `tree.grow_tree`; starts, stops : of the nodes' rows
    level : Level, with what has been found afterwards
    """
    n_features = len(layout.offset) - 1
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first = first_feature(thread, n_threads, n_features)
        last = first_feature(thread + 1, n_threads, n_features)
        fill_histograms(
            words, task, layout, rows, packing, scratch, scratch.sums[thread], starts, stops, level, first, last
        )
        room = new_room(layout, options, level)
        _search_features(layout, options, np.bool_(packing is not None), level, room, first, last)


search_level, search_level_parallel = serial_and_parallel(_search_level)


@lean
def fill_histograms(words, task, layout, rows, packing, scratch, sums, starts, stops, level, first, last):  # type: ignore[no-untyped-def]
    """Histograms of the level's nodes over the features ``first:last``; sums is the thread's of ``scratch.sums``."""
    pool, slot, smalls, larges = level.pool, level.slot, level.small, level.large
    a, b = layout.offset[first], layout.offset[last]
    for p in range(level.counts[1]):
        start, stop, histogram = starts[smalls[p]], stops[smalls[p]], pool[slot[smalls[p]]]
        if packing is not None:
            fill_packed(
                words, task, layout, rows, start, stop, scratch.gathered[start:stop], packing, first, last, sums,
                histogram,
            )  # fmt: skip
        else:
            fill_floats(words, task, layout, rows, start, stop, scratch.statistics[start:stop], first, last, histogram)
        if larges[p] >= 0:
            rest = pool[slot[larges[p]]]
            if packing is not None:
                subtract_exactly(rest[a:b], histogram[a:b], rest[a:b])
            else:
                subtract_histogram(rest[a:b], histogram[a:b], rest[a:b])


@lean
def _search_features(layout, options, is_exact, level, room, first, last):  # type: ignore[no-untyped-def]
    for f in range(first, last):
        if not level.is_tried[f]:
            continue
        if layout.is_categorical[f]:
            level.gain[f], level.missing_left[f] = call_best_subset(f, layout, options, level, room, room.words)
            level.left_bin[f], level.next_bin[f] = 0, 0
        else:
            found = best_threshold(f, layout, options, level, room, is_exact)
            level.gain[f], level.left_bin[f], level.next_bin[f], level.missing_left[f] = found


@jit
def best_feature(layout, options, level, tree):  # type: ignore[no-untyped-def]
    """The feature that gains most, of equal ones the first, −1 if none pays; its levels are written to the nodes."""
    found = _largest_gain(level)
    if found >= 0 and layout.is_categorical[found]:  # the levels were not kept for every feature
        _write_levels(found, layout, options, level, new_room(layout, options, level), tree.category_set)
    return found


@lean
def _largest_gain(level):  # type: ignore[no-untyped-def]
    best, found = 0.0, np.int64(-1)
    for f in range(len(level.gain)):
        if level.is_tried[f] and level.gain[f] > best + level.noise[0] + TIE * best:
            best, found = level.gain[f], np.int64(f)
    return found


@lean
def _write_levels(f, layout, options, level, room, out_sets):  # type: ignore[no-untyped-def]
    first = out_sets[level.nodes[0]]
    call_best_subset(f, layout, options, level, room, first)
    for j in range(1, level.counts[0]):
        for k in range(len(first)):
            out_sets[level.nodes[j], k] = first[k]


@lean
def best_threshold(f, layout, options, level, room, is_exact):  # type: ignore[no-untyped-def]
    """Best threshold for all open nodes together, and the side of their missing values.

    is_exact : bool, sums of histograms are the same in whatever order they are formed

    Returns (sum of gains, bin, next used bin, missing goes left); 0 and −1 where nothing pays.
    """
    a, b, n_open = layout.offset[f], layout.offset[f + 1], level.counts[0]
    n_bins, monotonic = b - a - 1, layout.monotonic[f]
    n_outputs = count_outputs(level.pool.shape[2], options)
    has_missing, is_bounded = False, monotonic != 0
    for j in range(n_open):
        node = level.nodes[j]
        has_missing |= level.pool[level.slot[node], b - 1, 0] > 0.0
        is_bounded |= level.low[node] > -np.inf or level.high[node] < np.inf
    no, yes = np.bool_(False), np.bool_(True)  # numba compiles a callee once more for each literal that it is given
    # The last value bin is a candidate only where missing values go right: then they alone are the right child.
    n_cuts = n_bins if has_missing else n_bins - 1
    together, missing_right, missing_left, gain = room.lines[0], room.lines[1], room.lines[2], room.lines[3]
    for cut in range(n_bins):
        together[cut], missing_right[cut], missing_left[cut] = 0.0, 0.0, 0.0
    for j in range(n_open):
        node = level.nodes[j]
        part = level.pool[level.slot[node], a:b]
        if n_outputs > 1 or is_bounded:
            for cut in range(n_bins):
                together[cut] += part[cut, 0]
            rest = options, n_outputs, monotonic, level, node, room.sums
            _add_gains_of_many(part, n_cuts, no, *rest, missing_right)
            if has_missing:
                _add_gains_of_many(part, n_bins - 1, yes, *rest, missing_left)
            continue
        _sum_up_to(part, n_cuts, no, options, room, together)
        if n_cuts < n_bins:
            together[n_cuts] += part[n_cuts, 0]
        _score_cuts(part, n_cuts, no, level.sums[node], options, level.own[node], room)
        for cut in range(n_cuts):
            missing_right[cut] += gain[cut]
        if has_missing:
            if part[n_bins, 0] > 0.0:  # else the two sides are one
                if not is_exact:
                    _sum_up_to(part, n_bins - 1, yes, options, room, gain)
                _score_cuts(part, n_bins - 1, is_exact, level.sums[node], options, level.own[node], room)
            for cut in range(n_bins - 1):
                missing_left[cut] += gain[cut]
    found, left_bin, is_left = 0.0, np.int64(-1), False
    for side in range(2 if has_missing else 1):
        gains = missing_left if side == 1 else missing_right
        for cut in range(n_bins - 1 if side == 1 else n_cuts):
            if together[cut] > 0.0 and gains[cut] > found + level.noise[0] + TIE * found:
                found, left_bin, is_left = gains[cut], np.int64(cut), side == 1
    if left_bin < 0:
        return 0.0, left_bin, left_bin, False
    next_bin, w_left, w_right = n_bins, 0.0, 0.0
    for cut in range(n_bins):
        if cut <= left_bin:
            w_left += together[cut]
        else:
            w_right += together[cut]
            if together[cut] > 0.0:
                next_bin = min(next_bin, np.int64(cut))
    return found, left_bin, next_bin, is_left if has_missing else w_left >= w_right * (1.0 - TIE)


@inlined
def _sum_up_to(histogram, n_cuts, missing_left, options, room, out_together):  # type: ignore[no-untyped-def]
    """Sums of a node's bins up to each cut, for one output, into lines 4 to 6: weight, gradient and hessian.

    The weights in the bins are added to ``out_together``, which costs nothing while a sum waits for the one before.
    """
    weights, gradients, hessians = room.lines[4], room.lines[5], room.lines[6]
    n_bins, w, g, h = len(histogram) - 1, 0.0, 0.0, 0.0
    if options.constant_hessian:
        if missing_left:
            w, g = histogram[n_bins, 0], histogram[n_bins, 1]
        for b in range(n_cuts):
            w += histogram[b, 0]
            g += histogram[b, 1]
            out_together[b] += histogram[b, 0]
            weights[b], gradients[b] = w, g
    else:
        if missing_left:
            w, g, h = histogram[n_bins, 0], histogram[n_bins, 1], histogram[n_bins, 2]
        for b in range(n_cuts):
            w += histogram[b, 0]
            g += histogram[b, 1]
            h += histogram[b, 2]
            out_together[b] += histogram[b, 0]
            weights[b], gradients[b], hessians[b] = w, g, h


@inlined
def _score_cuts(histogram, n_cuts, with_missing, sums, options, own, room):  # type: ignore[no-untyped-def]
    """A node's gain of every cut, from the sums up to it, into line 3; the processor takes several cuts at a time.

    with_missing : bool, missing values are to be added to the sums
    """
    weights, gradients, gain = room.lines[4], room.lines[5], room.lines[3]
    h_channel = 0 if options.constant_hessian else 2
    hessians = weights if options.constant_hessian else room.lines[6]
    w_more, g_more, h_more, n_bins = 0.0, 0.0, 0.0, len(histogram) - 1
    if with_missing:
        w_more, g_more, h_more = histogram[n_bins, 0], histogram[n_bins, 1], histogram[n_bins, h_channel]
    least, min_hessian, l2 = options.min_samples_leaf * (1.0 - 1e-9), options.min_hessian, options.l2
    w_all, g_all, h_all = sums[0], sums[1], sums[h_channel]
    for b in range(n_cuts):
        w, g, h = weights[b] + w_more, gradients[b] + g_more, hessians[b] + h_more
        w_right, g_right, h_right = w_all - w, g_all - g, h_all - h
        score = g * g / (h + l2) + g_right * g_right / (h_right + l2) - own
        is_allowed = (w >= least) & (w_right >= least) & (h >= min_hessian) & (h_right >= min_hessian)
        is_allowed &= (w > 0.0) & (w_right > 0.0)
        gain[b] = score if is_allowed else 0.0


@lean
def _add_gains_of_many(histogram, last, missing_left, options, n_outputs, monotonic, level, node, pair, out_gains):  # type: ignore[no-untyped-def]
    """The same for several outputs, or values with bounds; ``pair`` float64 (>= 2, n_channels) is scratch."""
    n_bins, n_channels = histogram.shape[0] - 1, histogram.shape[1]
    left, right = pair[0], pair[1]
    for c in range(n_channels):
        left[c] = histogram[n_bins, c] if missing_left else 0.0
    for b in range(last):
        for c in range(n_channels):
            left[c] += histogram[b, c]
            right[c] = level.sums[node, c] - left[c]
        score = pair_score(left, right, n_outputs, options, options.l2, monotonic, level.low[node], level.high[node])
        if score > -np.inf:
            out_gains[b] += score - level.own[node]
