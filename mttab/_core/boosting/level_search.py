"""Best cut of all open nodes of a level together, from their histograms.

The gain of a cut is the sum of its gains in the nodes, each the score of two children less the node's own, see
`splitting`; a node that the cut would split into children below the minimum sizes adds nothing. Of cuts whose gains
differ by no more than rounding noise the first one is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .binning import CATEGORY
from .histogram import fill_floats, subtract_histogram
from .jit import inner, jit, lean, lean_jit, serial_and_parallel
from .node_search import first_feature, most_bins
from .packed_histogram import fill_packed, subtract_exactly
from .splitting import TIE, level_keys, levels_in_use, mean_hessian, pair_score, sort_levels

# Steps from one node's view of the levels to the view that tells most about all nodes.
N_POWER_STEPS = 4


class Level(NamedTuple):
    """The nodes of a level that may be split, and the best cut of them all by every feature.

    nodes : int64, open nodes by number; small, large : int64, siblings, the first to be filled; −1: no sibling
    counts : int64 (2,), how many open nodes and how many siblings there are
    own : float64 (max_nodes,), scores of the nodes; noise : float64 (1,), what gains may differ by from rounding alone
    sums : float64 (max_nodes, n_channels); low, high : float64 (max_nodes,), bounds
    pool : float64 (n_slots, n_bins_total, n_channels), histograms; slot : int64 (max_nodes,), which is the node's
    is_tried : bool (n_features,); gain, left_bin, next_bin, missing_left : (n_features,), of the best cut by each
    """

    nodes: np.ndarray
    small: np.ndarray
    large: np.ndarray
    counts: np.ndarray
    own: np.ndarray
    noise: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pool: np.ndarray
    slot: np.ndarray
    is_tried: np.ndarray
    gain: np.ndarray
    left_bin: np.ndarray
    next_bin: np.ndarray
    missing_left: np.ndarray


def _search_level(  # type: ignore[no-untyped-def]
    words, task, layout, rows, options, packing, scratch, starts, stops, level, n_threads
):
    """Histograms of the level's nodes, and the best cut of all of them by each feature, shared out over threads.

    words, task, layout, rows, options, packing, scratch : as in `tree.grow_tree`; starts, stops : of the nodes' rows
    level : Level, with what has been found afterwards
    """
    offset, n_features = layout.offset, len(layout.offset) - 1
    # numba loses what a parallel loop writes to a field of a named tuple: arrays are named before the loop.
    gain, left_bin, next_bin, missing_left = level.gain, level.left_bin, level.next_bin, level.missing_left
    pool, slot, smalls, larges, n_pairs = level.pool, level.slot, level.small, level.large, level.counts[1]
    is_tried, is_categorical = level.is_tried, layout.is_categorical
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first = first_feature(thread, n_threads, n_features)
        last = first_feature(thread + 1, n_threads, n_features)
        for p in range(n_pairs):
            start, stop, histogram = starts[smalls[p]], stops[smalls[p]], pool[slot[smalls[p]]]
            if packing is not None:
                fill_packed(
                    words, task, layout, rows, start, stop, scratch.gathered[start:stop], packing, first, last,
                    scratch.sums[thread], histogram,
                )  # fmt: skip
            else:
                fill_floats(
                    words, task, layout, rows, start, stop, scratch.statistics[start:stop], first, last, histogram
                )
            if larges[p] >= 0:
                a, b = offset[first], offset[last]
                rest = pool[slot[larges[p]]]
                if packing is not None:
                    subtract_exactly(rest[a:b], histogram[a:b], rest[a:b])
                else:
                    subtract_histogram(rest[a:b], histogram[a:b], rest[a:b])
        levels, room = np.empty((most_bins(offset) + 31) // 32, dtype=np.uint32), np.empty((5, most_bins(offset) + 1))
        for f in range(first, last):
            if not is_tried[f]:
                continue
            if is_categorical[f]:
                gain[f], missing_left[f] = best_subset(f, layout, options, level, levels)
                left_bin[f], next_bin[f] = 0, 0
            else:
                gain[f], left_bin[f], next_bin[f], missing_left[f] = best_threshold(f, layout, options, level, room)


search_level, search_level_parallel = serial_and_parallel(_search_level)


@lean_jit
def best_feature(layout, options, level, tree):  # type: ignore[no-untyped-def]
    """The feature that gains most, of equal ones the first, −1 if none pays; its levels are written to the nodes."""
    best, found = 0.0, np.int64(-1)
    for f in range(len(level.gain)):
        if level.is_tried[f] and level.gain[f] > best + level.noise[0] + TIE * best:
            best, found = level.gain[f], np.int64(f)
    if found >= 0 and layout.is_categorical[found]:  # the levels were not kept for every feature
        first = tree.category_set[level.nodes[0]]
        best_subset(found, layout, options, level, first)
        for j in range(1, level.counts[0]):
            for k in range(len(first)):
                tree.category_set[level.nodes[j], k] = first[k]
    return found


@lean
def count_outputs(n_channels, options):  # type: ignore[no-untyped-def]
    return n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2


@lean_jit
def best_threshold(f, layout, options, level, room):  # type: ignore[no-untyped-def]
    """Best threshold for all open nodes together, and the side of their missing values.

    room : float64 (5, >= bins of the feature), scratch

    Returns (sum of gains, bin, next used bin, missing goes left); 0 and −1 where nothing pays.
    """
    a, b, n_open = layout.offset[f], layout.offset[f + 1], level.counts[0]
    n_bins, monotonic = b - a - 1, layout.monotonic[f]
    n_outputs = count_outputs(level.pool.shape[2], options)
    has_missing, is_bounded = False, monotonic != 0
    gains, together = room[3], room[4]
    for cut in range(n_bins):
        together[cut] = 0.0
    for j in range(n_open):
        node = level.nodes[j]
        has_missing |= level.pool[level.slot[node], b - 1, 0] > 0.0
        is_bounded |= level.low[node] > -np.inf or level.high[node] < np.inf
        for cut in range(n_bins):
            together[cut] += level.pool[level.slot[node], a + cut, 0]
    found, left_bin, is_left = 0.0, np.int64(-1), False
    for missing_left in range(2 if has_missing else 1):
        # The last value bin is a candidate only where missing values go right: then they alone are the right child.
        last = n_bins if has_missing and missing_left == 0 else n_bins - 1
        for cut in range(last):
            gains[cut] = 0.0
        for j in range(n_open):
            node = level.nodes[j]
            part = level.pool[level.slot[node], a:b]
            if n_outputs == 1 and not is_bounded:
                _add_gains(part, last, missing_left == 1, level.sums[node], options, level.own[node], room)
            else:
                _add_gains_of_many(part, last, missing_left == 1, options, n_outputs, monotonic, level, node, gains)
        for cut in range(last):
            if together[cut] > 0.0 and gains[cut] > found + level.noise[0] + TIE * found:
                found, left_bin, is_left = gains[cut], np.int64(cut), missing_left == 1
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


@lean
def _add_gains(histogram, last, missing_left, sums, options, own, room):  # type: ignore[no-untyped-def]
    """Add a node's gain of every cut before bin ``last`` to ``room[3]``, for one output without bounds.

    First the running sums, one after the other, then the gains, of which the processor takes several at a time.
    """
    h_channel = 0 if options.constant_hessian else 2
    n_bins = histogram.shape[0] - 1
    w, g, h = 0.0, 0.0, 0.0
    if missing_left:
        w, g, h = histogram[n_bins, 0], histogram[n_bins, 1], histogram[n_bins, h_channel]
    weights, gradients, hessians, gains = room[0], room[1], room[2], room[3]
    for b in range(last):
        w += histogram[b, 0]
        g += histogram[b, 1]
        h += histogram[b, h_channel]
        weights[b], gradients[b], hessians[b] = w, g, h
    least, min_hessian, l2 = options.min_samples_leaf * (1.0 - 1e-9), options.min_hessian, options.l2
    w_all, g_all, h_all = sums[0], sums[1], sums[h_channel]
    for b in range(last):
        w, g, h = weights[b], gradients[b], hessians[b]
        w_right, g_right, h_right = w_all - w, g_all - g, h_all - h
        gain = g * g / (h + l2) + g_right * g_right / (h_right + l2) - own
        is_allowed = (w >= least) & (w_right >= least) & (h >= min_hessian) & (h_right >= min_hessian)
        is_allowed &= (w > 0.0) & (w_right > 0.0)
        gains[b] += gain if is_allowed else 0.0


@inner
def _add_gains_of_many(histogram, last, missing_left, options, n_outputs, monotonic, level, node, out_gains):  # type: ignore[no-untyped-def]
    """The same for several outputs, or values with bounds."""
    n_bins, n_channels = histogram.shape[0] - 1, histogram.shape[1]
    left, right = np.empty(n_channels), np.empty(n_channels)
    for c in range(n_channels):
        left[c] = histogram[n_bins, c] if missing_left else 0.0
    for b in range(last):
        for c in range(n_channels):
            left[c] += histogram[b, c]
            right[c] = level.sums[node, c] - left[c]
        score = pair_score(left, right, n_outputs, options, options.l2, monotonic, level.low[node], level.high[node])
        if score > -np.inf:
            out_gains[b] += score - level.own[node]


@jit
def best_subset(f, layout, options, level, out_set):  # type: ignore[no-untyped-def]
    """Best set of levels to send left for all open nodes together; `splitting.scan_categorical` says what is tried.

    Whether a level has enough rows to be sorted is a question of all open nodes together, too.

    Returns (sum of gains, missing goes left) and writes ``out_set`` where anything pays.
    """
    a, n_levels, n_channels = layout.offset[f], layout.offset[f + 1] - layout.offset[f], level.pool.shape[2]
    n_outputs, n_open = count_outputs(n_channels, options), level.counts[0]
    together, sums = np.zeros((n_levels, n_channels)), np.zeros(n_channels)
    for j in range(n_open):
        node = level.nodes[j]
        for c in range(n_channels):
            sums[c] += level.sums[node, c]
            for k in range(n_levels):
                together[k, c] += level.pool[level.slot[node], a + k, c]
    min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
    levels, has_rest = levels_in_use(together, min_rows)
    if len(levels) + has_rest < 2:
        return 0.0, False
    if n_open == 1:
        keys = level_keys(together, levels, sums, n_outputs, options)
    else:
        keys = _contrast_keys(a, levels, together, sums, n_outputs, options, level)
    levels = sort_levels(levels, keys)
    l2 = options.l2 + options.categorical_prior * mean_hessian(sums, n_outputs, options)
    found, n_left, is_reversed = 0.0, 0, False
    n_cuts = len(levels) if has_rest else len(levels) - 1
    for direction in range(2 if has_rest else 1):
        if direction == 1:
            levels = levels[::-1].copy()
        gains = _gains_of_prefixes(a, levels, n_cuts, n_outputs, options, l2, level)
        for j in range(n_cuts):
            if gains[j] > found + level.noise[0] + TIE * found:
                found, n_left, is_reversed = gains[j], j + 1, direction == 1
    if n_left == 0:
        return 0.0, False
    if has_rest and not is_reversed:
        levels = levels[::-1].copy()
    goes_left, w_left = np.zeros(n_levels, dtype=np.bool_), 0.0
    for j in range(n_left):
        goes_left[levels[j]] = True
        w_left += together[levels[j], 0]
    is_left_heavier = w_left >= (sums[0] - w_left) * (1.0 - TIE)
    out_set[:] = 0
    for k in range(n_levels):
        goes_left[k] |= is_left_heavier and together[k, 0] <= 0.0
        if goes_left[k] and k < n_levels - 1:
            out_set[k >> 5] |= np.uint32(1) << np.uint32(k & 31)
    return found, goes_left[n_levels - 1]


@inner
def _gains_of_prefixes(a, levels, n_cuts, n_outputs, options, l2, level):  # type: ignore[no-untyped-def]
    """Gains, summed over the open nodes, of sending the first level left, the first two, and so on."""
    n_channels = level.pool.shape[2]
    gains, left, right = np.zeros(n_cuts), np.empty(n_channels), np.empty(n_channels)
    for i in range(level.counts[0]):
        node = level.nodes[i]
        low, high = level.low[node], level.high[node]
        for c in range(n_channels):
            left[c] = 0.0
        for j in range(n_cuts):
            for c in range(n_channels):
                left[c] += level.pool[level.slot[node], a + levels[j], c]
                right[c] = level.sums[node, c] - left[c]
            score = pair_score(left, right, n_outputs, options, l2, np.int8(0), low, high)
            if score > -np.inf:
                gains[j] += score - level.own[node]
    return gains


@lean
def _hessian_of(channels, k, n_outputs, options):  # type: ignore[no-untyped-def]
    return channels[0] if options.constant_hessian else channels[1 + n_outputs + k]


@jit
def _contrast_keys(a, levels, together, sums, n_outputs, options, level):  # type: ignore[no-untyped-def]
    """What to sort levels by so that the sets at both ends differ most in all nodes, whichever way round in each.

    Where one node has a level's labels above its mean and another one below, their sum says nothing. So nodes are
    weighed, with either sign: C_ln is the gradient of level l in node n beyond the node's mean, and the weights v of
    the nodes are the first right singular vector of

        C_ln / √((H_l + prior) H_n)            (a few steps of power iteration from the node that differs most)

    Levels are sorted by Σ_n v_n C_ln / √H_n / (H_l + prior). Several outputs of a node count as nodes of their own.
    """
    contrast = np.empty((len(levels), level.counts[0] * n_outputs))
    scale, keys = np.empty(len(levels)), np.empty(len(levels))
    prior = options.categorical_prior * mean_hessian(sums, n_outputs, options)
    for j in range(len(levels)):
        scale[j] = prior
        for k in range(n_outputs):
            scale[j] += _hessian_of(together[levels[j]], k, n_outputs, options) / n_outputs
    widest, direction = -1.0, np.zeros(contrast.shape[1])
    for column in range(contrast.shape[1]):
        node, k = level.nodes[column // n_outputs], column % n_outputs
        h_node = max(_hessian_of(level.sums[node], k, n_outputs, options), 1e-100)
        mean, spread = level.sums[node, 1 + k] / h_node, 0.0
        for j in range(len(levels)):
            cell = level.pool[level.slot[node], a + levels[j]]
            beyond = cell[1 + k] - mean * _hessian_of(cell, k, n_outputs, options)
            contrast[j, column] = beyond / np.sqrt(h_node)
            spread += contrast[j, column] / max(scale[j], 1e-100) * contrast[j, column]
        if spread > widest * (1.0 + 1e-9):
            widest = spread
            direction[:] = 0.0
            direction[column] = 1.0
    for step in range(N_POWER_STEPS + 1):
        for j in range(len(levels)):
            keys[j] = 0.0
            for column in range(len(direction)):
                keys[j] += direction[column] * contrast[j, column]
            keys[j] /= max(scale[j], 1e-100)
        if step < N_POWER_STEPS:
            _project(keys, contrast, direction)
    return keys


@lean
def _project(keys, contrast, out_direction):  # type: ignore[no-untyped-def]
    """Weights of the columns by what the keys have in common with each, the largest of them 1."""
    largest = 1e-300
    for column in range(len(out_direction)):
        out_direction[column] = 0.0
        for j in range(len(keys)):
            out_direction[column] += keys[j] * contrast[j, column]
        largest = max(largest, abs(out_direction[column]))
    for column in range(len(out_direction)):
        out_direction[column] /= largest
