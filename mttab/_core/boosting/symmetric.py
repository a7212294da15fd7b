"""Symmetric trees: level by level, and every node of a level is split by the same feature at the same place.

With depth d such a tree asks at most d questions, whatever the node, so it bends less to the noise of single nodes than
a tree that is grown leaf by leaf, and boosting with them generalises better on most tables (Kohavi, 1994, on oblivious
graphs; CatBoost: Prokhorenkova et al., 2018, arXiv 1706.09516). The gain of a cut is the sum of its gains in all nodes::

                 x₂ ≤ 5                        level 1: one node
            x₁ ≤ 3    x₁ ≤ 3                   level 2: the cut with the largest gain in both together
           /   /   |      .                    a child would be too small (·): this node waits for the next level

A node that a level's cut would split into children below the minimum sizes is left whole, and adds nothing to its gain.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .binning import CATEGORY
from .histogram import fill_floats, gather_statistics, subtract_histogram
from .jit import inner, jit, serial_and_parallel
from .node_search import first_feature, most_bins
from .packed_histogram import fill_packed, gather_packed, subtract_exactly
from .splitting import TIE, level_keys, levels_in_use, mean_hessian, pair_score, sort_levels, sums_score
from .tree import begin_tree, bound_children, draw_features, split_node, value_leaves
from .tree_arrays import open_node

# Steps from one node's view of the levels to the view that tells most about all nodes.
N_POWER_STEPS = 4


class Level(NamedTuple):
    """The nodes of a level, and the best cut by every feature.

    nodes : int64 (n_open,), those that may be split, by number
    small, large : int64 (n_pairs,), siblings of which the first one's histogram is to be filled; −1: no sibling
    own : float64 (max_nodes,), scores of the nodes
    is_tried : bool (n_features,); score, left_bin, next_bin, missing_left : (n_features,), of its best cut
    """

    nodes: np.ndarray
    small: np.ndarray
    large: np.ndarray
    own: np.ndarray
    is_tried: np.ndarray
    score: np.ndarray
    left_bin: np.ndarray
    next_bin: np.ndarray
    missing_left: np.ndarray


@jit
def grow_symmetric_tree(  # type: ignore[no-untyped-def]
    table, layout, rows, out_rows, growth, options, packing, scratch, seed, team, tree
):  # fmt: skip
    """Grow one symmetric tree; parameters and result as for `tree.grow_tree`.

    Its depth is at most ``growth.max_depth``, and such that no more than ``growth.max_leaf_nodes`` leaves can come out.
    """
    max_leaves = min(growth.max_leaf_nodes, max(len(rows), 1))
    own = begin_tree(table, layout, rows, options, scratch, seed, max_leaves)
    n_features, max_nodes = len(layout.offset) - 1, 2 * max_leaves - 1
    root, one, zero = np.int64(0), np.int64(1), np.int64(0)
    open_node(tree, root, root, len(rows), root, len(out_rows), -np.inf, np.inf)
    _sum_root(rows, table, options, packing, scratch, own.sums[0])
    tree.weight[0] = own.sums[0, 0]
    level = _first_level(n_features, max_nodes)
    n_open, n_pairs, n_nodes, n_leaves = one, one, one, one
    depth = zero
    while n_open > 0 and depth < growth.max_depth and (one << (depth + 1)) <= growth.max_leaf_nodes and n_features > 0:
        depth += 1
        features = draw_features(n_features, growth.n_features_tried, own.state)
        for f in range(n_features):
            level.is_tried[f] = False
        for f in features:
            level.is_tried[f] = True
        found = _search_level(table, layout, rows, options, packing, scratch, team, own, tree, level, n_open, n_pairs)
        if found < 0:
            break
        n_before, n_whole, n_pairs = n_open, zero, zero
        n_open = zero
        children = np.empty(4 * n_before, dtype=np.int64)
        for j in range(n_before):
            node = level.nodes[j]
            left, right = n_nodes, n_nodes + 1
            if not _cut_node(layout, options, own, tree, level, node, found, left, right):
                children[n_whole + n_open] = node
                n_whole += one
                continue
            n_nodes += 2
            n_leaves += 1
            split_node(table, layout, rows, out_rows, scratch, team, own, tree, node, left, right)
            bound_children(
                tree.low, tree.high, node, left, right, layout.monotonic[found], own.sums[left], own.sums[right],
                options,
            )  # fmt: skip
            tree.weight[left], tree.weight[right] = own.sums[left, 0], own.sums[right, 0]
            is_left_small = tree.stop[left] - tree.start[left] <= tree.stop[right] - tree.start[right]
            small, large = (left, right) if is_left_small else (right, left)
            own.slot[small], own.slot[large] = n_leaves - 1, own.slot[node]
            is_any_open = False
            for child in (left, right):
                if own.sums[child, 0] >= 2.0 * options.min_samples_leaf * (1.0 - 1e-9):
                    children[n_whole + n_open] = child
                    n_open += one
                    is_any_open = True
            if is_any_open:
                level.small[n_pairs], level.large[n_pairs] = small, large
                n_pairs += one
        n_open += n_whole
        for j in range(n_open):
            level.nodes[j] = children[j]
    for node in range(n_nodes):
        if tree.left[node] < 0:
            tree.feature[node] = -1
            tree.gain[node] = 0.0
    value_leaves(table, rows, options, team, tree, n_nodes)
    return n_nodes


@inner
def _first_level(n_features, max_nodes):  # type: ignore[no-untyped-def]
    nodes, small, large = (
        np.empty(max_nodes, dtype=np.int64),
        np.empty(max_nodes, dtype=np.int64),
        np.empty(max_nodes, dtype=np.int64),
    )
    nodes[0], small[0], large[0] = 0, 0, -1
    return Level(
        nodes,
        small,
        large,
        np.empty(max_nodes),
        np.empty(n_features, dtype=np.bool_),
        np.empty(n_features),
        np.empty(n_features, dtype=np.int64),
        np.empty(n_features, dtype=np.int64),
        np.empty(n_features, dtype=np.bool_),
    )


@inner
def _sum_root(rows, table, options, packing, scratch, out_sums):  # type: ignore[no-untyped-def]
    """Channel sums of all rows, whose derivatives are brought into their order."""
    if packing is not None:
        gather_packed(rows, np.int64(0), len(rows), scratch.packed, packing, np.int64(1), scratch.gathered, out_sums)
    else:
        gather_statistics(
            rows, np.int64(0), len(rows), table.gradient, table.hessian, table.weight, options.constant_hessian,
            scratch.statistics, out_sums,
        )  # fmt: skip


@inner
def _search_level(table, layout, rows, options, packing, scratch, team, own, tree, level, n_open, n_pairs):  # type: ignore[no-untyped-def]
    """Fill the histograms of the level and return the feature of its best cut, −1 if none pays."""
    n_features, sums = len(layout.offset) - 1, np.empty(own.sums.shape[1])
    n_cells = np.int64(0)
    for p in range(n_pairs):
        small = level.small[p]
        start, stop = tree.start[small], tree.stop[small]
        n_cells += (stop - start + 500) * n_features
        if level.large[p] >= 0:  # the root's were gathered when they were summed
            if packing is not None:
                gather_packed(
                    rows, start, stop, scratch.packed, packing, np.int64(1), scratch.gathered[start:stop], sums
                )
            else:
                gather_statistics(
                    rows, start, stop, table.gradient, table.hessian, table.weight, options.constant_hessian,
                    scratch.statistics[start:stop], sums,
                )  # fmt: skip
    n_outputs, total = table.gradient.shape[0], 0.0
    for j in range(n_open):
        node = level.nodes[j]
        level.own[node] = sums_score(own.sums[node], n_outputs, options, options.l2, tree.low[node], tree.high[node])
        total += abs(level.own[node])
    arguments = (
        table.words, table.task, layout, rows, options, packing, scratch, own.pool, own.slot, own.sums, tree.start,
        tree.stop, tree.low, tree.high, n_open, n_pairs, level,
    )  # fmt: skip
    if team is None:
        search_features(*arguments, np.int64(1))
    elif n_cells >= team.min_cells:
        search_features_parallel(*arguments, team.n_threads)
    else:
        search_features(*arguments, np.int64(1))
    best, found = TIE * total, np.int64(-1)
    for f in range(n_features):
        if level.is_tried[f] and level.score[f] > best:
            best, found = level.score[f] + TIE * total, np.int64(f)
    if found >= 0 and layout.is_categorical[found]:  # the levels were not kept for every feature
        _best_subset(
            found, layout, options, own.pool, own.slot, own.sums, tree.low, tree.high, n_open, level,
            tree.category_set[level.nodes[0]],
        )  # fmt: skip
        for j in range(1, n_open):
            for k in range(tree.category_set.shape[1]):
                tree.category_set[level.nodes[j], k] = tree.category_set[level.nodes[0], k]
    return found


def _search_features(  # type: ignore[no-untyped-def]
    words, task, layout, rows, options, packing, scratch, pool, slot, sums, starts, stops, low, high, n_open, n_pairs,
    level, n_threads,
):  # fmt: skip
    """Histograms of the level's nodes and its best cut by each feature, the features shared out over threads."""
    offset, n_features = layout.offset, len(layout.offset) - 1
    # numba loses what a parallel loop writes to a field of a named tuple: arrays are named before the loop.
    score, left_bin, next_bin, missing_left = level.score, level.left_bin, level.next_bin, level.missing_left
    smalls, larges, is_tried = level.small, level.large, level.is_tried
    n_words = (most_bins(offset) + 31) // 32
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first = first_feature(thread, n_threads, n_features)
        last = first_feature(thread + 1, n_threads, n_features)
        levels = np.empty(n_words, dtype=np.uint32)
        room = np.empty((6, most_bins(offset) + 1))
        for p in range(n_pairs):
            small, large = smalls[p], larges[p]
            start, stop, histogram = starts[small], stops[small], pool[slot[small]]
            if packing is not None:
                fill_packed(
                    words, task, layout, rows, start, stop, scratch.gathered[start:stop], packing, first, last,
                    scratch.sums[thread], histogram,
                )  # fmt: skip
            else:
                fill_floats(
                    words, task, layout, rows, start, stop, scratch.statistics[start:stop], first, last, histogram
                )
            if large >= 0:
                a, b = offset[first], offset[last]
                rest = pool[slot[large]]
                if packing is not None:
                    subtract_exactly(rest[a:b], histogram[a:b], rest[a:b])
                else:
                    subtract_histogram(rest[a:b], histogram[a:b], rest[a:b])
        for f in range(first, last):
            if not is_tried[f]:
                continue
            if layout.is_categorical[f]:
                score[f], missing_left[f] = _best_subset(
                    f, layout, options, pool, slot, sums, low, high, n_open, level, levels
                )
                left_bin[f], next_bin[f] = 0, 0
            else:
                score[f], left_bin[f], next_bin[f], missing_left[f] = _best_threshold(
                    f, layout, options, pool, slot, sums, low, high, n_open, level, room
                )


search_features, search_features_parallel = serial_and_parallel(_search_features)


@jit
def _best_threshold(f, layout, options, pool, slot, sums, low, high, n_open, level, room):  # type: ignore[no-untyped-def]
    """Best threshold for all open nodes together, and the side of their missing values.

    Returns (sum of gains, bin, next used bin, missing goes left).
    """
    a, b = layout.offset[f], layout.offset[f + 1]
    n_bins, monotonic = b - a - 1, layout.monotonic[f]
    n_channels = pool.shape[2]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    has_missing, is_bounded = False, monotonic != 0
    for j in range(n_open):
        node = level.nodes[j]
        has_missing |= pool[slot[node], b - 1, 0] > 0.0
        is_bounded |= low[node] > -np.inf or high[node] < np.inf
    gains, weight_left = room[4:6], 0.0
    gains[:, :] = 0.0
    for missing_left in range(2 if has_missing else 1):
        last = n_bins if has_missing and missing_left == 0 else n_bins - 1
        for j in range(n_open):
            node = level.nodes[j]
            part = pool[slot[node], a:b]
            if n_outputs == 1 and not is_bounded:
                _add_gains(part, last, missing_left == 1, sums[node], options, level.own[node], room, gains[missing_left])
            else:
                _add_gains_of_many(
                    part, last, missing_left == 1, sums[node], options, n_outputs, monotonic, low[node], high[node],
                    level.own[node], gains[missing_left],
                )  # fmt: skip
    found, left_bin, is_left = 0.0, np.int64(-1), False
    for missing_left in range(2 if has_missing else 1):
        for cut in range(n_bins):
            if gains[missing_left, cut] > found * (1.0 + TIE):
                found, left_bin, is_left = gains[missing_left, cut], np.int64(cut), missing_left == 1
    if left_bin < 0:
        return 0.0, left_bin, left_bin, False
    next_bin, w_left, w = n_bins, 0.0, 0.0
    # The gain of an empty bin is that of the used one before it, which came first, to rounding.
    for j in range(n_open):
        part = pool[slot[level.nodes[j]], a:b]
        for cut in range(n_bins):
            w += part[cut, 0]
            if cut <= left_bin:
                w_left += part[cut, 0]
            elif part[cut, 0] > 0.0:
                next_bin = min(next_bin, np.int64(cut))
    return found, left_bin, next_bin, is_left if has_missing else w_left >= (w - w_left) * (1.0 - TIE)


@inner
def _add_gains(histogram, last, missing_left, sums, options, own, room, out_gain):  # type: ignore[no-untyped-def]
    """Add a node's gain of every cut before bin ``last``, for one output without bounds.

    First the running sums, one after the other, then the gains, which the processor takes several at a time.
    """
    h_channel = 0 if options.constant_hessian else 2
    n_bins = histogram.shape[0] - 1
    w, g, h = 0.0, 0.0, 0.0
    if missing_left:
        w, g, h = histogram[n_bins, 0], histogram[n_bins, 1], histogram[n_bins, h_channel]
    weights, gradients, hessians = room[0], room[1], room[2]
    for b in range(last):
        w += histogram[b, 0]
        g += histogram[b, 1]
        h += histogram[b, h_channel]
        weights[b], gradients[b], hessians[b] = w, g, h
    least, min_hessian, l2 = options.min_samples_leaf * (1.0 - 1e-9), options.min_hessian, options.l2
    w_all, g_all, h_all = sums[0], sums[1], sums[h_channel]
    for b in range(last):
        g, h, w = gradients[b], hessians[b], weights[b]
        g_right, h_right, w_right = g_all - g, h_all - h, w_all - w
        gain = g * g / (h + l2) + g_right * g_right / (h_right + l2) - own
        is_allowed = (w >= least) & (w_right >= least) & (h >= min_hessian) & (h_right >= min_hessian)
        is_allowed &= (w > 0.0) & (w_right > 0.0)
        out_gain[b] += gain if is_allowed else 0.0


@inner
def _add_gains_of_many(  # type: ignore[no-untyped-def]
    histogram, last, missing_left, sums, options, n_outputs, monotonic, low, high, own, out_gain
):  # fmt: skip
    """The same for several outputs, or values with bounds."""
    n_bins, n_channels = histogram.shape[0] - 1, histogram.shape[1]
    left, right = np.empty(n_channels), np.empty(n_channels)
    for c in range(n_channels):
        left[c] = histogram[n_bins, c] if missing_left else 0.0
    for b in range(last):
        for c in range(n_channels):
            left[c] += histogram[b, c]
            right[c] = sums[c] - left[c]
        score = pair_score(left, right, n_outputs, options, options.l2, monotonic, low, high)
        if score > -np.inf:
            out_gain[b] += score - own


@jit
def _best_subset(f, layout, options, pool, slot, sums, low, high, n_open, level, out_set):  # type: ignore[no-untyped-def]
    """Best set of levels to send left for all open nodes together; `splitting.scan_categorical` says what is tried.

    Levels are sorted by their gradients in all open nodes together.

    Returns (sum of gains, missing goes left) and writes ``out_set``.
    """
    a, b = layout.offset[f], layout.offset[f + 1]
    n_levels, n_channels = b - a, pool.shape[2]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    together, all_sums = np.zeros((n_levels, n_channels)), np.zeros(n_channels)
    for j in range(n_open):
        node = level.nodes[j]
        for c in range(n_channels):
            all_sums[c] += sums[node, c]
            for k in range(n_levels):
                together[k, c] += pool[slot[node], a + k, c]
    min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
    levels, has_rest = levels_in_use(together, min_rows)
    n_used = len(levels)
    if n_used + has_rest < 2:
        return 0.0, False
    if n_open == 1:
        keys = level_keys(together, levels, all_sums, n_outputs, options)
    else:
        keys = _contrast_keys(a, levels, together, options, n_outputs, pool, slot, sums, n_open, level)
    levels = sort_levels(levels, keys)
    l2 = options.l2 + options.categorical_prior * mean_hessian(all_sums, n_outputs, options)
    n_cuts = n_used if has_rest else n_used - 1
    gains = np.zeros((2, max(n_cuts, 1)))
    left, right = np.empty(n_channels), np.empty(n_channels)
    for direction in range(2 if has_rest else 1):
        for i in range(n_open):
            node = level.nodes[i]
            left[:] = 0.0
            for j in range(n_cuts):
                k = levels[n_used - 1 - j] if direction == 1 else levels[j]
                for c in range(n_channels):
                    left[c] += pool[slot[node], a + k, c]
                    right[c] = sums[node, c] - left[c]
                score = pair_score(left, right, n_outputs, options, l2, np.int8(0), low[node], high[node])
                if score > -np.inf:
                    gains[direction, j] += score - level.own[node]
    found, n_left, is_reversed = 0.0, 0, False
    for direction in range(2 if has_rest else 1):
        for j in range(n_cuts):
            if gains[direction, j] > found * (1.0 + TIE):
                found, n_left, is_reversed = gains[direction, j], j + 1, direction == 1
    if n_left == 0:
        return 0.0, False
    goes_left = np.zeros(n_levels, dtype=np.bool_)
    w_left = 0.0
    for j in range(n_left):
        k = levels[n_used - 1 - j] if is_reversed else levels[j]
        goes_left[k] = True
        w_left += together[k, 0]
    if w_left >= (all_sums[0] - w_left) * (1.0 - TIE):
        for k in range(n_levels):
            goes_left[k] |= together[k, 0] <= 0.0
    out_set[:] = 0
    for k in range(n_levels - 1):
        if goes_left[k]:
            out_set[k >> 5] |= np.uint32(1) << np.uint32(k & 31)
    return found, goes_left[n_levels - 1]


@jit
def _contrast_keys(a, levels, together, options, n_outputs, pool, slot, sums, n_open, level):  # type: ignore[no-untyped-def]
    """What to sort levels by so that the sets at both ends differ most in all nodes, whichever way round in each.

    Where one node has a level's labels above its mean and another one below, their sum says nothing. So nodes are
    weighed, with either sign: C_ln is the gradient of level l in node n beyond the node's mean, and the weights v of
    the nodes are the first right singular vector of

        C_ln / √((H_l + prior) H_n)            (a few steps of power iteration from the node that differs most)

    Levels are sorted by Σ_n v_n C_ln / √H_n / (H_l + prior), which for one node is the order of its mean gradients.
    """
    n_columns = n_open * n_outputs
    contrast, scale = np.empty((len(levels), n_columns)), np.empty(len(levels))
    for j in range(len(levels)):
        h, total, h_total = 0.0, together[levels[j], 0], 0.0
        for k in range(n_outputs):
            h += total if options.constant_hessian else together[levels[j], 1 + n_outputs + k]
        for i in range(n_open):
            for k in range(n_outputs):
                own = sums[level.nodes[i]]
                h_total += own[0] if options.constant_hessian else own[1 + n_outputs + k]
        weight = 0.0
        for i in range(n_open):
            weight += sums[level.nodes[i], 0]
        scale[j] = (h + options.categorical_prior * max(h_total, 1e-100) / weight) / n_outputs
    widest, first = -1.0, 0
    for i in range(n_open):
        node = level.nodes[i]
        for k in range(n_outputs):
            c = i * n_outputs + k
            h_node = max(sums[node, 0] if options.constant_hessian else sums[node, 1 + n_outputs + k], 1e-100)
            mean, spread = sums[node, 1 + k] / h_node, 0.0
            for j in range(len(levels)):
                cell = pool[slot[node], a + levels[j]]
                h = cell[0] if options.constant_hessian else cell[1 + n_outputs + k]
                contrast[j, c] = (cell[1 + k] - mean * h) / np.sqrt(h_node)
                spread += contrast[j, c] * contrast[j, c] / scale[j]
            if spread > widest * (1.0 + 1e-9):
                widest, first = spread, c
    direction, keys = np.zeros(n_columns), np.empty(len(levels))
    direction[first] = 1.0
    for step in range(N_POWER_STEPS + 1):
        for j in range(len(levels)):
            keys[j] = 0.0
            for c in range(n_columns):
                keys[j] += direction[c] * contrast[j, c]
            keys[j] /= scale[j]
        if step < N_POWER_STEPS:
            largest = 0.0
            for c in range(n_columns):
                direction[c] = 0.0
                for j in range(len(levels)):
                    direction[c] += keys[j] * contrast[j, c]
                largest = max(largest, abs(direction[c]))
            for c in range(n_columns):
                direction[c] /= max(largest, 1e-300)
    return keys


@inner
def _cut_node(layout, options, own, tree, level, node, f, left, right):  # type: ignore[no-untyped-def]
    """Write the level's cut into a node, and its children's sums; False where a child would be too small."""
    a, b = layout.offset[f], layout.offset[f + 1]
    n_channels, histogram = own.sums.shape[1], own.pool[own.slot[node], a:b]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    sums, left_sums, right_sums = own.sums[node], own.sums[left], own.sums[right]
    left_sums[:] = 0.0
    for k in range(b - a):
        if k == b - a - 1:
            is_left = level.missing_left[f]
        elif layout.is_categorical[f]:
            is_left = (tree.category_set[node, k >> 5] >> np.uint32(k & 31)) & np.uint32(1) == 1
        else:
            is_left = k <= level.left_bin[f]
        if is_left:
            for c in range(n_channels):
                left_sums[c] += histogram[k, c]
    for c in range(n_channels):
        right_sums[c] = sums[c] - left_sums[c]
    l2, low, high = options.l2, tree.low[node], tree.high[node]
    score = pair_score(left_sums, right_sums, n_outputs, options, l2, layout.monotonic[f], low, high)
    if score == -np.inf:
        return False
    tree.feature[node], tree.gain[node] = f, max(score - level.own[node], 0.0)
    tree.left_bin[node], tree.right_bin[node] = level.left_bin[f], level.next_bin[f]
    tree.missing_left[node] = level.missing_left[f]
    return True
