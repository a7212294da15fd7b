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
from .jit import inlined, inner, jit, lean, serial_and_parallel
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


class Room(NamedTuple):
    """Scratch memory of a thread that searches a level.

    lines : float64 (7, most bins of a feature)
    together : float64 (most levels of a category, n_channels), bins of all open nodes together
    contrast, across : float64 (most levels, n_columns) and its transpose; direction : float64 (n_columns,)
    levels : int64 (3, most levels); words : uint32, a set of levels; sums : float64 (3, n_channels)
    """

    lines: np.ndarray
    together: np.ndarray
    contrast: np.ndarray
    across: np.ndarray
    direction: np.ndarray
    levels: np.ndarray
    words: np.ndarray
    sums: np.ndarray


@inner
def _new_room(layout, options, level):  # type: ignore[no-untyped-def]
    n_channels, n_levels = level.pool.shape[2], np.int64(0)
    for f in range(len(layout.is_categorical)):
        if layout.is_categorical[f]:
            n_levels = max(n_levels, layout.offset[f + 1] - layout.offset[f])
    n_columns = level.counts[0] * count_outputs(n_channels, options)
    return Room(
        np.empty((7, most_bins(layout.offset))),
        np.empty((n_levels, n_channels)),
        np.empty((n_levels, n_columns)),
        np.empty((n_columns, n_levels)),
        np.empty(n_columns),
        np.empty((3, n_levels), dtype=np.int64),
        np.empty((n_levels + 31) // 32, dtype=np.uint32),
        np.empty((3, n_channels)),
    )


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
        room = _new_room(layout, options, level)
        for f in range(first, last):
            if not is_tried[f]:
                continue
            if is_categorical[f]:
                gain[f], missing_left[f] = best_subset(f, layout, options, level, room, room.words)
                left_bin[f], next_bin[f] = 0, 0
            else:
                gain[f], left_bin[f], next_bin[f], missing_left[f] = best_threshold(
                    f, layout, options, level, room, np.bool_(packing is not None)
                )


search_level, search_level_parallel = serial_and_parallel(_search_level)


@jit
def best_feature(layout, options, level, tree):  # type: ignore[no-untyped-def]
    """The feature that gains most, of equal ones the first, −1 if none pays; its levels are written to the nodes."""
    best, found = 0.0, np.int64(-1)
    for f in range(len(level.gain)):
        if level.is_tried[f] and level.gain[f] > best + level.noise[0] + TIE * best:
            best, found = level.gain[f], np.int64(f)
    if found >= 0 and layout.is_categorical[found]:  # the levels were not kept for every feature
        first = tree.category_set[level.nodes[0]]
        best_subset(found, layout, options, level, _new_room(layout, options, level), first)
        for j in range(1, level.counts[0]):
            for k in range(len(first)):
                tree.category_set[level.nodes[j], k] = first[k]
    return found


@lean
def count_outputs(n_channels, options):  # type: ignore[no-untyped-def]
    return n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2


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


@lean
def best_subset(f, layout, options, level, room, out_set):  # type: ignore[no-untyped-def]
    """Best set of levels to send left for all open nodes together; `splitting.scan_categorical` says what is tried.

    Whether a level has enough rows to be sorted is a question of all open nodes together, too.

    Returns (sum of gains, missing goes left) and writes ``out_set`` where anything pays.
    """
    a, n_levels, n_channels = layout.offset[f], layout.offset[f + 1] - layout.offset[f], level.pool.shape[2]
    n_outputs, n_open = count_outputs(n_channels, options), level.counts[0]
    together, sums, keys = room.together[:n_levels], room.sums[2], room.lines[1]
    together[:, :] = 0.0
    sums[:] = 0.0
    for j in range(n_open):
        node = level.nodes[j]
        part = level.pool[level.slot[node], a : a + n_levels]
        for c in range(n_channels):
            sums[c] += level.sums[node, c]
        for k in range(n_levels):
            for c in range(n_channels):
                together[k, c] += part[k, c]
    min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
    n_used, has_rest = levels_in_use(together, min_rows, room.levels[0])
    if n_used + has_rest < 2:
        return 0.0, False
    levels = room.levels[0, :n_used]
    if n_open == 1:
        level_keys(together, levels, sums, n_outputs, options, keys, room.lines[2])
    else:
        _contrast_keys(a, levels, sums, n_outputs, options, level, room)
    sort_levels(levels, keys, room.levels[1], room.levels[2])
    l2 = options.l2 + options.categorical_prior * mean_hessian(sums, n_outputs, options)
    found, n_left, is_reversed, gains = 0.0, 0, False, room.lines[0]
    n_cuts = n_used if has_rest else n_used - 1
    for direction in range(2 if has_rest else 1):
        if direction == 1:
            _reverse(levels)
        _gains_of_prefixes(a, levels, n_cuts, n_outputs, options, l2, level, room)
        for j in range(n_cuts):
            if gains[j] > found + level.noise[0] + TIE * found:
                found, n_left, is_reversed = gains[j], j + 1, direction == 1
    if n_left == 0:
        return 0.0, False
    if has_rest and not is_reversed:
        _reverse(levels)
    goes_left, w_left = room.levels[1], 0.0
    for k in range(n_levels):
        goes_left[k] = 0
    for j in range(n_left):
        goes_left[levels[j]] = 1
        w_left += together[levels[j], 0]
    is_left_heavier = w_left >= (sums[0] - w_left) * (1.0 - TIE)
    out_set[:] = 0
    for k in range(n_levels):
        if is_left_heavier and together[k, 0] <= 0.0:
            goes_left[k] = 1
        if goes_left[k] and k < n_levels - 1:
            out_set[k >> 5] |= np.uint32(1) << np.uint32(k & 31)
    return found, goes_left[n_levels - 1] != 0


@lean
def _reverse(levels):  # type: ignore[no-untyped-def]
    for j in range(len(levels) // 2):
        levels[j], levels[len(levels) - 1 - j] = levels[len(levels) - 1 - j], levels[j]


@lean
def _gains_of_prefixes(a, levels, n_cuts, n_outputs, options, l2, level, room):  # type: ignore[no-untyped-def]
    """Gains, summed over the open nodes, of sending the first level left, the first two, and so on: line 0."""
    n_channels, gains = level.pool.shape[2], room.lines[0]
    for j in range(n_cuts):
        gains[j] = 0.0
    for i in range(level.counts[0]):
        node = level.nodes[i]
        low, high, part, sums = level.low[node], level.high[node], level.pool[level.slot[node], a:], level.sums[node]
        if n_outputs == 1 and low == -np.inf and high == np.inf:
            _add_gains_of_one(part, levels, n_cuts, sums, options, l2, level.own[node], room)
            continue
        left, right = room.sums[0], room.sums[1]
        for c in range(n_channels):
            left[c] = 0.0
        for j in range(n_cuts):
            for c in range(n_channels):
                left[c] += part[levels[j], c]
                right[c] = sums[c] - left[c]
            score = pair_score(left, right, n_outputs, options, l2, np.int8(0), low, high)
            if score > -np.inf:
                gains[j] += score - level.own[node]


@inlined
def _add_gains_of_one(part, levels, n_cuts, sums, options, l2, own, room):  # type: ignore[no-untyped-def]
    """The same of one node for one output without bounds, as `splitting.pair_score` has them, several at a time."""
    h_channel = 0 if options.constant_hessian else 2
    gains, weights, gradients, hessians = room.lines[0], room.lines[4], room.lines[5], room.lines[6]
    w, g, h = 0.0, 0.0, 0.0
    for j in range(n_cuts):
        w += part[levels[j], 0]
        g += part[levels[j], 1]
        h += part[levels[j], h_channel]
        weights[j], gradients[j], hessians[j] = w, g, h
    least, min_hessian = options.min_samples_leaf * (1.0 - 1e-9), options.min_hessian
    for j in range(n_cuts):
        w, g, h = weights[j], gradients[j], hessians[j]
        w_right, g_right, h_right = sums[0] - w, sums[1] - g, sums[h_channel] - h
        left, right = -g / (h + l2), -g_right / (h_right + l2)
        score = -(2.0 * g * left + (h + l2) * left * left) - (2.0 * g_right * right + (h_right + l2) * right * right)
        is_allowed = (w >= least) & (w_right >= least) & (h >= min_hessian) & (h_right >= min_hessian)
        is_allowed &= (w > 0.0) & (w_right > 0.0) & (h + l2 > 1e-290) & (h_right + l2 > 1e-290)
        gains[j] += score - own if is_allowed else 0.0


@inlined
def _hessian_of(channels, k, n_outputs, options):  # type: ignore[no-untyped-def]
    return channels[0] if options.constant_hessian else channels[1 + n_outputs + k]


@lean
def _contrast_keys(a, levels, sums, n_outputs, options, level, room):  # type: ignore[no-untyped-def]
    """What to sort levels by so that the sets at both ends differ most in all nodes, whichever way round in each.

    Where one node has a level's labels above its mean and another one below, their sum says nothing. So nodes are
    weighed, with either sign: C_ln is the gradient of level l in node n beyond the node's mean, and the weights v of
    the nodes are the first right singular vector of

        C_ln / √((H_l + prior) H_n)            (a few steps of power iteration from the node that differs most)

    Levels are sorted by Σ_n v_n C_ln / √H_n / (H_l + prior), which is left in line 1. Several outputs of a node count
    as nodes of their own. The contrast is kept both ways round, so that either sum runs over neighbours.
    """
    contrast, across, together, direction = room.contrast, room.across, room.together, room.direction
    keys, scale, n_columns = room.lines[1], room.lines[2], level.counts[0] * n_outputs
    prior = options.categorical_prior * mean_hessian(sums, n_outputs, options)
    for j in range(len(levels)):
        scale[j] = prior
        for k in range(n_outputs):
            scale[j] += _hessian_of(together[levels[j]], k, n_outputs, options) / n_outputs
        scale[j] = max(scale[j], 1e-100)
    widest, first = -1.0, np.int64(0)
    for column in range(n_columns):
        node, k = level.nodes[column // n_outputs], column % n_outputs
        part, line = level.pool[level.slot[node], a:], across[column]
        h_node = max(_hessian_of(level.sums[node], k, n_outputs, options), 1e-100)
        mean, spread = level.sums[node, 1 + k] / h_node, 0.0
        for j in range(len(levels)):
            cell = part[levels[j]]
            beyond = cell[1 + k] - mean * _hessian_of(cell, k, n_outputs, options)
            line[j] = beyond / np.sqrt(h_node)
            contrast[j, column] = line[j]
            spread += line[j] / scale[j] * line[j]
        if spread > widest * (1.0 + 1e-9):
            widest, first = spread, np.int64(column)
    for column in range(n_columns):
        direction[column] = 1.0 if column == first else 0.0
    for step in range(N_POWER_STEPS + 1):
        for j in range(len(levels)):
            keys[j] = 0.0
        for column in range(n_columns):
            share, line = direction[column], across[column]
            if share != 0.0:
                for j in range(len(levels)):
                    keys[j] += share * line[j]
        for j in range(len(levels)):
            keys[j] /= scale[j]
        if step < N_POWER_STEPS:
            _project(keys[: len(levels)], contrast, direction[:n_columns])


@inlined
def _project(keys, contrast, out_direction):  # type: ignore[no-untyped-def]
    """Weights of the columns by what the keys have in common with each, the largest of them 1."""
    largest = 1e-300
    for column in range(len(out_direction)):
        out_direction[column] = 0.0
    for j in range(len(keys)):
        key, line = keys[j], contrast[j]
        for column in range(len(out_direction)):
            out_direction[column] += key * line[column]
    for column in range(len(out_direction)):
        largest = max(largest, abs(out_direction[column]))
    for column in range(len(out_direction)):
        out_direction[column] /= largest
