"""Growth of a small task's tree: what `tree.grow_tree` does, on local bins, in memory that many tasks share.

The smaller child of a split is added up row by row, the larger one is what the parent has more. A child that is too
small to be split is not searched, and where both are, or the tree is full, nothing is added up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .binning import CATEGORY, byte_of, cut_between
from .jit import inlined, inner, lean
from .leaves import set_values
from .local_bins import MAX_ROWS
from .local_search import (
    COUNT_BITS,
    COUNT_MASK,
    NEAR,
    add_rows,
    has_missing,
    move_missing,
    pack_task,
    scan,
    scan_planes,
    subtract,
    sum_packed,
    sums_left_of,
)
from .partition import mark_left, partition_rows
from .splitting import TIE, scan_categorical
from .tree import draw_among
from .tree_arrays import best_open_leaf, close_leaves, open_node


class SmallScratch(NamedTuple):
    """Memory of one thread for trees of small tasks, one after the other.

    depth, slot : int64 (max_nodes,), of a node, and the place of its histogram
    sums : float64 (max_nodes, 3), rows, gradient in units, and hessian of a node
    packed : int32 (n_planes, MAX_ROWS + 1), counts : int32 (n_leaves, n_planes, n_cells), see `local_search`
    bar : float32 (n_lanes,), bin : int32 (n_lanes,), of a search
    state : uint64 (1,), of the random numbers; is_tried : bool (n_features,)
    is_left : uint8 (256,), buffer : uint32 (MAX_ROWS + 1,), of a split
    level_units : int32 (2, 256), levels : float64 (256, n_channels), of a category, see `_sum_levels`
    """

    depth: np.ndarray
    slot: np.ndarray
    sums: np.ndarray
    packed: np.ndarray
    counts: np.ndarray
    bar: np.ndarray
    bin: np.ndarray
    state: np.ndarray
    is_tried: np.ndarray
    is_left: np.ndarray
    buffer: np.ndarray
    level_units: np.ndarray
    levels: np.ndarray


@inner
def new_small_scratch(max_leaf_nodes, n_features, n_lanes, n_lines, n_channels, n_planes):  # type: ignore[no-untyped-def]
    max_nodes, is_tried = 2 * max_leaf_nodes, np.empty(n_features, dtype=np.bool_)
    for f in range(n_features):
        is_tried[f] = True
    return SmallScratch(
        np.empty(max_nodes, dtype=np.int64),
        np.empty(max_nodes, dtype=np.int64),
        np.empty((max_nodes, 3)),
        np.empty((n_planes, MAX_ROWS + 1), dtype=np.int32),
        np.empty((max_leaf_nodes, n_planes, n_lines * n_lanes), dtype=np.int32),
        np.empty(n_lanes, dtype=np.float32),
        np.empty(n_lanes, dtype=np.int32),
        np.empty(1, dtype=np.uint64),
        is_tried,
        np.empty(256, dtype=np.uint8),
        np.empty(MAX_ROWS + 1, dtype=np.uint32),
        np.empty((2, 256), dtype=np.int32),
        np.empty((256, n_channels)),
    )


@lean
def grow_small_tree(
    table, layout, local, n_bins, rows, out_rows, first_row, are_apart, growth, options, own, seed, tree
):  # type: ignore[no-untyped-def]
    """Grow the tree of a task of at most `local_bins.MAX_ROWS` rows, leaf by leaf, as `tree.grow_tree` does.

    local : LocalBins; n_bins : int64, those of this task; first_row : uint32, the task's first row
    are_apart : bool, rows are weighed apart, see `local_search`; own : SmallScratch; the others as there

    Returns the number of nodes.
    """
    n_own = len(rows) + len(out_rows)
    units = pack_task(table, options.constant_hessian, are_apart, rows, n_own, first_row, own.packed)
    max_leaves, least = min(growth.max_leaf_nodes, max(len(rows), 1)), 2.0 * options.min_samples_leaf * (1.0 - 1e-9)
    n_cells, root = (n_bins + 1) * local.cell.shape[1], np.int64(0)
    open_node(tree, root, root, len(rows), root, len(out_rows), -np.inf, np.inf)
    own.depth[0], own.slot[0], own.state[0] = 0, 0, seed
    sum_packed(own.packed, table.weight, are_apart, rows, root, len(rows), first_row, units[1], own.sums[0])
    tree.weight[0] = own.sums[0, 0]
    n_nodes, n_leaves = np.int64(1), np.int64(1)
    # The nodes that wait to be searched: one whose rows are to be added up, and its sibling.
    small, large = root, np.int64(-1)
    while n_leaves < max_leaves:
        widest = max(own.sums[small, 0], own.sums[large, 0] if large >= 0 else 0.0)
        if widest >= least and own.depth[small] < growth.max_depth:
            start, stop = tree.start[small], tree.stop[small]
            add_rows(local.cell, own.packed, rows, start, stop, first_row, n_bins, own.slot[small], own.counts)
            if large >= 0:
                subtract(own.counts, own.slot[large], own.slot[small], n_cells)
            for child in (small, large):
                if child >= 0 and own.sums[child, 0] >= least:
                    _search(
                        table, layout, local, n_bins, rows, first_row, are_apart, units, growth, options, own, tree,
                        child,
                    )  # fmt: skip
        node = best_open_leaf(tree.left, tree.gain, n_nodes)
        if node < 0:
            break
        left, right = n_nodes, n_nodes + 1
        n_nodes += 2
        n_leaves += 1
        _split(table, layout, local, n_bins, rows, out_rows, own, tree, node, left, right)
        is_left_small = tree.stop[left] - tree.start[left] <= tree.stop[right] - tree.start[right]
        small, large = (left, right) if is_left_small else (right, left)
        own.slot[small], own.slot[large] = n_leaves - 1, own.slot[node]
        start, stop = tree.start[small], tree.stop[small]
        sum_packed(own.packed, table.weight, are_apart, rows, start, stop, first_row, units[1], own.sums[small])
        for c in range(3):
            own.sums[large, c] = own.sums[node, c] - own.sums[small, c]
        tree.weight[left], tree.weight[right] = own.sums[left, 0], own.sums[right, 0]
    close_leaves(tree, n_nodes)
    set_values(tree, n_nodes, rows, table.gradient, table.hessian, table.weight, options, np.int64(1))
    return n_nodes


# --- the best split of a node -----------------------------------------------------------------------------------------


@inlined
def _search(  # type: ignore[no-untyped-def]
    table, layout, local, n_bins, rows, first_row, are_apart, units, growth, options, own, tree, node
):
    """Write the best split of a node, whose histogram is filled, into it.

    Until it is made, ``left_bin`` is the last local bin left and ``right_bin`` the feature's lane. Scores are in the
    unit of packed gradients.
    """
    n_features = len(layout.offset) - 1
    weight, total, hessian = own.sums[node, 0], own.sums[node, 1], own.sums[node, 2]
    if growth.n_features_tried < n_features:
        draw_among(own.is_tried, growth.n_features_tried, own.state)
    parent = total * total / (hessian + options.l2) if hessian + options.l2 > 0.0 else 0.0
    best, feature, bin_, at, missing_left = parent, np.int64(-1), np.int64(0), np.int64(0), False
    lane = _search_lanes(local, n_bins, are_apart, units, options, own, node)
    if lane >= 0:
        cut = np.int64(own.bin[lane])
        w, g, h, is_missing = sums_left_of(
            own.counts, own.slot[node], n_bins, len(own.bar), lane, cut, are_apart, units
        )
        g_right, h_right = total - g, hessian - h
        score = g * g / (h + options.l2) + g_right * g_right / (h_right + options.l2)
        if score > parent + TIE * abs(parent):
            best, feature, bin_, at = score, local.feature[lane], cut % n_bins, lane
            missing_left = cut >= n_bins if is_missing else w >= (weight - w) * (1.0 - TIE)
    if len(local.feature) < n_features:
        for f in range(n_features):
            if layout.is_categorical[f] and own.is_tried[f]:
                # Of equal splits that of the first feature counts, though numbers have been looked at before.
                bar = best if f > feature else max(parent, best * (1.0 - 3.0 * TIE))
                score, is_left = _search_levels(
                    table, layout, rows, first_row, are_apart, units[1], f, options, own, tree, node, bar
                )
                if score > bar:
                    best, feature, bin_, at, missing_left = score, np.int64(f), np.int64(0), np.int64(0), is_left
    tree.gain[node], tree.feature[node], tree.missing_left[node] = (
        (best - parent) * units[0] ** 2,
        feature,
        missing_left,
    )
    tree.left_bin[node], tree.right_bin[node] = bin_, at


@inlined
def _search_lanes(local, n_bins, are_apart, units, options, own, node):  # type: ignore[no-untyped-def]
    """Lane of the best cut of a numeric feature, −1 where there is none; where it is stands in ``own.bin``."""
    n_lanes, slot = len(own.bar), own.slot[node]
    for lane in range(n_lanes):
        own.bar[lane], own.bin[lane] = 0.0, -1
    is_any_missing = has_missing(own.counts, slot, n_bins, n_lanes, are_apart)
    for side in range(2 if is_any_missing else 1):
        if side == 1:
            move_missing(own.counts, slot, n_bins, n_lanes, np.int32(1))
        node_and_place = own.counts, slot, n_bins, n_lanes, side * n_bins, own.sums, node
        if own.counts.shape[1] == 1:
            scan(*node_and_place, options, own.bar, own.bin)
        else:
            scan_planes(*node_and_place, are_apart, units, options, own.bar, own.bin)
    if is_any_missing:
        move_missing(own.counts, slot, n_bins, n_lanes, np.int32(-1))
    best_lane, best = np.int64(-1), 0.0
    for lane in range(len(local.feature)):
        if own.bar[lane] > best and own.is_tried[local.feature[lane]]:
            best_lane, best = np.int64(lane), own.bar[lane] * (1.0 + NEAR)
    return best_lane


@inner
def _search_levels(  # type: ignore[no-untyped-def]
    table, layout, rows, first_row, are_apart, unit_h, f, options, own, tree, node, best
):
    """`splitting.scan_categorical` of a node, from its rows."""
    part, sums = own.levels[: layout.offset[f + 1] - layout.offset[f]], own.sums[node]
    _sum_levels(table, rows[tree.start[node] : tree.stop[node]], first_row, are_apart, unit_h, f, own, part)
    min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
    out_set = tree.category_set[node]
    return scan_categorical(part, sums[: part.shape[1]], options, min_rows, -np.inf, np.inf, best, out_set)


@lean
def _sum_levels(table, members, first_row, are_apart, unit_h, f, own, out_levels):  # type: ignore[no-untyped-def]
    """Weight, gradient in units, and hessian unless it is the weight, of every level of a category.

    members : uint32, the node's rows; out_levels : float64 (n_levels, 2 or 3)
    """
    column, (shift, mask) = table.words[f >> 2], byte_of(np.int64(f))
    n_levels, n_channels = out_levels.shape
    for c in range(1, n_channels):
        values, units = own.packed[c - 1], own.level_units[c - 1]
        for k in range(n_levels):
            units[k] = 0
        for j in range(len(members)):
            i = members[j]
            units[np.uint64((column[i] >> shift) & mask)] += values[i - first_row]
    for k in range(n_levels):
        out_levels[k, 0] = own.level_units[0, k] & COUNT_MASK
        out_levels[k, 1] = own.level_units[0, k] >> (np.int32(0) if are_apart else COUNT_BITS)
        if n_channels == 3:
            out_levels[k, 2] = own.level_units[1, k] * unit_h
    if are_apart:
        for k in range(n_levels):
            out_levels[k, 0] = 0.0
        for j in range(len(members)):
            out_levels[np.uint64((column[members[j]] >> shift) & mask), 0] += table.weight[members[j]]


# --- splitting a node -------------------------------------------------------------------------------------------------


@inlined
def _split(table, layout, local, n_bins, rows, out_rows, own, tree, node, left, right):  # type: ignore[no-untyped-def]
    """Send the rows of a node to two children, which are opened."""
    start, stop, out_start, out_stop = tree.start[node], tree.stop[node], tree.out_start[node], tree.out_stop[node]
    f, is_by_cell = np.int64(tree.feature[node]), False
    shift, mask = byte_of(f)
    column, middle, out_middle = table.words[f >> 2], start, out_start
    if not layout.is_categorical[f]:
        missing = np.int64(layout.offset[f + 1] - layout.offset[f] - 1)
        middle, is_by_cell, left_bin, right_bin, last_bin = _deal_rows(
            column, shift, mask, missing, local.cell, len(own.bar), n_bins, rows, own.buffer, tree, node, table.weight
        )
        if left_bin < 0:
            # Missing values alone go left, against all others: the same split, written with them on the right.
            left_bin, right_bin, tree.missing_left[node] = last_bin, missing, False
        tree.left_bin[node], tree.right_bin[node] = left_bin, right_bin
    last_left, tree.threshold[node] = cut_between(layout, f, tree.left_bin[node], tree.right_bin[node])
    if not is_by_cell or out_stop > out_start:
        n_codes, is_set = layout.offset[f + 1] - layout.offset[f], layout.is_categorical[f] != 0
        mark_left(n_codes, last_left, tree.missing_left[node], is_set, tree.category_set[node], own.is_left)
        if not is_by_cell:
            middle = partition_rows(rows, start, stop, column, shift, mask, own.is_left, own.buffer)
        out_middle = partition_rows(out_rows, out_start, out_stop, column, shift, mask, own.is_left, own.buffer)
    tree.left[node], tree.right[node] = left, right
    own.depth[left] = own.depth[right] = own.depth[node] + 1
    open_node(tree, left, start, middle, out_start, out_middle, -np.inf, np.inf)
    open_node(tree, right, middle, stop, out_middle, out_stop, -np.inf, np.inf)


@inlined
def _deal_rows(column, shift, mask, missing, cell, n_lanes, n_bins, rows, buffer, tree, node, weight):  # type: ignore[no-untyped-def]
    """Sort the rows of a node in two by the local bins of a cut, as `partition.partition_rows` would.

    Returns the place where those begin that go right, whether it is right, and of the node's rows with weight the last
    bin left of the cut, −1 if there is none, the first one right of it, and the last of all. It may be wrong for rows
    without weight, whose values had no say in where the threshold stands.
    """
    start, stop, lane = tree.start[node], tree.stop[node], np.int64(tree.right_bin[node])
    last_cell, missing_cell = tree.left_bin[node] * n_lanes + lane, n_bins * n_lanes + lane
    left_bin, right_bin, last_bin = np.int64(-1), missing, np.int64(-1)
    part, n_left, missing_left, all_count = rows[start:stop], np.uint64(0), tree.missing_left[node], True
    for j in range(len(part)):
        i = part[j]
        code, own = np.int64((column[i] >> shift) & mask), np.int64(cell[i, lane])
        is_below, is_missing, counts = own <= last_cell, own == missing_cell, weight[i] > 0.0
        all_count &= counts
        buffer[np.uint64(j) - n_left] = i
        part[n_left] = i
        n_left += np.uint64(is_below | (is_missing & missing_left))
        left_bin = max(left_bin, code if is_below & counts else np.int64(-1))
        right_bin = min(right_bin, code if counts & (not is_below) else missing)
        last_bin = max(last_bin, code if counts & (not is_missing) else np.int64(-1))
    for j in range(len(part) - np.int64(n_left)):
        part[n_left + np.uint64(j)] = buffer[j]
    return start + np.int64(n_left), all_count and left_bin >= 0, left_bin, right_bin, last_bin
