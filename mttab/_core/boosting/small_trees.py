"""Growth of a small task's tree: what `tree.grow_tree` does, on local bins, in memory that many tasks share.

The smaller child of a split is added up row by row, the larger one is what the parent has more. A child that is too
small to be split is not searched, and where both are, or the tree is full, nothing is added up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .binning import CATEGORY, byte_of, cut_between
from .category_splits import scan_categorical
from .in_place import empty, larger, smaller
from .jit import inlined, inner, lean
from .leaves import set_values_of
from .local_bins import MAX_BINS_OF_MANY, MAX_ROWS
from .local_search import (
    COUNT_BITS,
    COUNT_MASK,
    NEAR,
    NO_KEY,
    add_rows,
    first_key,
    gains_of_cuts,
    gains_of_cuts_by_planes,
    has_missing,
    largest,
    move_missing,
    number_of,
    pack_task,
    subtract,
    sum_packed,
    sums_left_of,
)
from .partition import mark_left, partition_rows
from .splitting import TIE, SplitRoom, new_split_room
from .tree import draw_among
from .tree_arrays import best_open_leaf, close_leaves, open_node


class SmallScratch(NamedTuple):
    """Memory of one thread for trees of small tasks, one after the other.

    depth, slot : int64 (max_nodes,), of a node, and the place of its histogram
    sums : float64 (max_nodes, 3), rows, gradient in units, and hessian of a node
    packed : int32 (n_planes, MAX_ROWS + 1), counts : int32 (n_leaves, n_planes, n_cells), see `local_search`
    gain : float32 (2, n_cells), of a cut after each cell, with missing values on the right, and on the left
    key : int32 (n_cells,), see `_key`
    state : uint64 (1,), of the random numbers; is_tried : bool (n_features,)
    is_left : uint8 (256,), buffer : uint32 (MAX_ROWS + 1,), of a split
    level_units : int32 (2, 256), levels : float64 (256, n_channels), of a category, see `_sum_levels`
    room : for the search of sets of levels
    """

    depth: np.ndarray
    slot: np.ndarray
    sums: np.ndarray
    packed: np.ndarray
    counts: np.ndarray
    gain: np.ndarray
    key: np.ndarray
    state: np.ndarray
    is_tried: np.ndarray
    is_left: np.ndarray
    buffer: np.ndarray
    level_units: np.ndarray
    levels: np.ndarray
    room: SplitRoom


@inlined
def _key(lane, b):  # type: ignore[no-untyped-def]
    """Number of a cut: equal ones count in the order of features, then with missing values on the right, then of bins.

    A cut with missing values on the left has `MAX_BINS_OF_MANY` more.
    """
    return np.int32(2 * MAX_BINS_OF_MANY * lane + b)


@inner
def new_small_scratch(max_leaf_nodes, n_features, n_numeric, n_lanes, n_lines, n_channels, n_planes):  # type: ignore[no-untyped-def]
    max_nodes, is_tried = 2 * max_leaf_nodes, empty(n_features, np.bool_)
    for f in range(n_features):
        is_tried[f] = True
    key = empty(n_lines * n_lanes, np.int32)
    for b in range(n_lines):
        for lane in range(n_lanes):
            key[b * n_lanes + lane] = _key(lane, b) if lane < n_numeric else NO_KEY  # lanes that only fill up
    return SmallScratch(
        empty(max_nodes, np.int64),
        empty(max_nodes, np.int64),
        empty((max_nodes, 3), np.float64),
        empty((n_planes, MAX_ROWS + 1), np.int32),
        empty((max_leaf_nodes, n_planes, n_lines * n_lanes), np.int32),
        empty((2, n_lines * n_lanes), np.float32),
        key,
        empty(1, np.uint64),
        is_tried,
        empty(256, np.uint8),
        empty(MAX_ROWS + 1, np.uint32),
        empty((2, 256), np.int32),
        empty((256, n_channels), np.float64),
        new_split_room(256, 0, n_channels),
    )


@inlined
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
    max_leaves = smaller(growth.max_leaf_nodes, larger(len(rows), 1))
    least = 2.0 * options.min_samples_leaf * (1.0 - 1e-9)
    n_cells, root = (n_bins + 1) * local.cell.shape[1], np.int64(0)
    open_node(tree, root, root, len(rows), root, len(out_rows), -np.inf, np.inf)
    own.depth[0], own.slot[0], own.state[0] = 0, 0, seed
    sum_packed(own.packed, table.weight, are_apart, rows, root, len(rows), first_row, units[1], own.sums[0])
    tree.weight[0] = own.sums[0, 0]
    n_nodes, n_leaves = np.int64(1), np.int64(1)
    # The nodes that wait to be searched: one whose rows are to be added up, and its sibling.
    small, large, may_miss = root, np.int64(-1), False
    while n_leaves < max_leaves:
        widest = larger(own.sums[small, 0], own.sums[large, 0] if large >= 0 else 0.0)
        if widest >= least and own.depth[small] < growth.max_depth:
            start, stop = tree.start[small], tree.stop[small]
            add_rows(local.cell, own.packed, rows, start, stop, first_row, n_bins, own.slot[small], own.counts)
            if large >= 0:
                subtract(own.counts, own.slot[large], own.slot[small], n_cells)
            else:
                may_miss = has_missing(own.counts, root, n_bins, local.cell.shape[1], are_apart)
            for child in (small, large):
                if child >= 0 and own.sums[child, 0] >= least:
                    _search(
                        table, layout, local, n_bins, rows, first_row, may_miss, are_apart, units, growth, options, own,
                        tree, child,
                    )  # fmt: skip
        node = best_open_leaf(tree.left, tree.gain, n_nodes)
        if node < 0:
            break
        left, right = n_nodes, n_nodes + 1
        n_nodes += 2
        n_leaves += 1
        _split(table, layout, local, n_bins, rows, out_rows, are_apart, own, tree, node, left, right)
        is_left_small = tree.stop[left] - tree.start[left] <= tree.stop[right] - tree.start[right]
        small, large = (left, right) if is_left_small else (right, left)
        own.slot[small], own.slot[large] = n_leaves - 1, own.slot[node]
        start, stop = tree.start[small], tree.stop[small]
        sum_packed(own.packed, table.weight, are_apart, rows, start, stop, first_row, units[1], own.sums[small])
        for c in range(3):
            own.sums[large, c] = own.sums[node, c] - own.sums[small, c]
        tree.weight[left], tree.weight[right] = own.sums[left, 0], own.sums[right, 0]
    close_leaves(tree, n_nodes)
    derivatives, scratch = (table.gradient, table.hessian, table.weight), own.sums[0]
    set_values_of(tree, n_nodes, rows, *derivatives, options, np.int64(0), np.int64(len(rows) + 1), scratch)
    return n_nodes


# --- the best split of a node -----------------------------------------------------------------------------------------


@inlined
def _search(  # type: ignore[no-untyped-def]
    table, layout, local, n_bins, rows, first_row, may_miss, are_apart, units, growth, options, own, tree, node
):
    """Write the best split of a node, whose histogram is filled, into it.

    may_miss : bool, whether a row of the tree has no value of some feature

    Until it is made, ``left_bin`` is the last local bin left and ``right_bin`` the feature's lane. Scores are in the
    unit of packed gradients.
    """
    n_features = len(layout.offset) - 1
    weight, total, hessian = own.sums[node, 0], own.sums[node, 1], own.sums[node, 2]
    if growth.n_features_tried < n_features:
        draw_among(own.is_tried, growth.n_features_tried, own.state)
    parent = total * total / (hessian + options.l2) if hessian + options.l2 > 0.0 else 0.0
    best, feature, bin_, at, missing_left = parent, np.int64(-1), np.int64(0), np.int64(0), False
    lane, cut = _search_lanes(local, n_bins, may_miss, are_apart, units, growth, options, own, node)
    if lane >= 0:
        w, g, h, is_missing = sums_left_of(
            own.counts, own.slot[node], n_bins, local.cell.shape[1], lane, cut, are_apart, units
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
                bar = best if f > feature else larger(parent, best * (1.0 - 3.0 * TIE))
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
def _search_lanes(local, n_bins, may_miss, are_apart, units, growth, options, own, node):  # type: ignore[no-untyped-def]
    """Lane and place of the best cut of a numeric feature, −1 where there is none."""
    n_lanes, slot, found = local.cell.shape[1], own.slot[node], np.int32(0)
    n_cells, is_any_missing = n_bins * n_lanes, may_miss and has_missing(own.counts, slot, n_bins, n_lanes, are_apart)
    n_sides = 2 if is_any_missing else 1
    for side in range(n_sides):
        gain = own.gain[side, :n_cells]
        if side == 1:
            move_missing(own.counts, slot, n_bins, n_lanes, np.int32(1))
        if own.counts.shape[1] == 1:
            gains_of_cuts(own.counts, slot, n_cells, own.sums, node, options, gain)
        else:
            gains_of_cuts_by_planes(own.counts, slot, n_cells, own.sums, node, are_apart, units, options, gain)
        if growth.n_features_tried < len(own.is_tried):
            _leave_lanes_out(local.feature, own.is_tried, n_lanes, gain)
        found = larger(found, largest(gain))
    if is_any_missing:
        move_missing(own.counts, slot, n_bins, n_lanes, np.int32(-1))
    if found == 0:
        return np.int64(-1), np.int64(0)
    bar, key = np.float32(number_of(found) * (1.0 - NEAR)), own.key[:n_cells]
    first = first_key(own.gain[0, :n_cells], bar, key)
    if is_any_missing:
        first_with_missing = first_key(own.gain[1, :n_cells], bar, key)
        if first_with_missing < NO_KEY:
            first = smaller(first, first_with_missing + MAX_BINS_OF_MANY)
    if first == NO_KEY:
        return np.int64(-1), np.int64(0)
    lane, place = np.int64(first) // (2 * MAX_BINS_OF_MANY), np.int64(first) % (2 * MAX_BINS_OF_MANY)
    return lane, place if place < MAX_BINS_OF_MANY else place - MAX_BINS_OF_MANY + n_bins


@lean
def _leave_lanes_out(feature, is_tried, n_lanes, gain):  # type: ignore[no-untyped-def]
    """No gain for cuts of features that are not tried."""
    for lane in range(len(feature)):
        if not is_tried[feature[lane]]:
            for c in range(lane, len(gain), n_lanes):
                gain[c] = 0.0


@lean
def _search_levels(  # type: ignore[no-untyped-def]
    table, layout, rows, first_row, are_apart, unit_h, f, options, own, tree, node, best
):
    """`category_splits.scan_categorical` of a node, from its rows."""
    part, out_set = own.levels[: layout.offset[f + 1] - layout.offset[f]], tree.category_set[node]
    sums = own.sums[node, : part.shape[1]]
    _sum_levels(table, rows[tree.start[node] : tree.stop[node]], first_row, are_apart, unit_h, f, own, part)
    min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
    return scan_categorical(part, sums, options, min_rows, -np.inf, np.inf, best, own.room, out_set)


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
def _split(table, layout, local, n_bins, rows, out_rows, are_apart, own, tree, node, left, right):  # type: ignore[no-untyped-def]
    """Send the rows of a node to two children, which are opened."""
    start, stop, out_start, out_stop = tree.start[node], tree.stop[node], tree.out_start[node], tree.out_stop[node]
    f, is_by_cell = np.int64(tree.feature[node]), False
    shift, mask = byte_of(f)
    column, middle, out_middle = table.words[f >> 2], start, out_start
    if not layout.is_categorical[f]:
        missing = np.int64(layout.offset[f + 1] - layout.offset[f] - 1)
        lane, n_lanes = np.int64(tree.right_bin[node]), local.cell.shape[1]
        cut, missing_cell = tree.left_bin[node] * n_lanes + lane, n_bins * n_lanes + lane
        n_left = _deal_rows(local.cell, lane, cut, missing_cell, tree.missing_left[node], rows[start:stop], own.buffer)
        middle = start + n_left
        beside = column, shift, mask, missing, table.weight, are_apart
        _, left_bin, is_left_whole = _range_of_bins(rows[start:middle], *beside)
        right_bin, last_bin, is_right_whole = _range_of_bins(rows[middle:stop], *beside)
        is_by_cell = is_left_whole and is_right_whole and left_bin >= 0
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
def _deal_rows(cell, lane, cut, missing_cell, missing_left, part, buffer):  # type: ignore[no-untyped-def]
    """Sort the rows ``part`` in two by their cells, as `partition.partition_rows` would; return how many go left.

    cut, missing_cell : int64, the last cell that goes left, and that of missing values, the last of all

    Where missing values go left they come first: cells are counted from theirs on, and wrap around.
    """
    begin = np.uint32(missing_cell if missing_left else 0)
    last, n_left = np.uint32(np.uint32(cut) - begin), np.uint64(0)
    for j in range(len(part)):
        i = part[j]
        buffer[np.uint64(j) - n_left] = i
        part[n_left] = i
        n_left += np.uint64(np.uint32(np.uint32(cell[i, lane]) - begin) <= last)
    for j in range(len(part) - np.int64(n_left)):
        part[n_left + np.uint64(j)] = buffer[j]
    return np.int64(n_left)


@inlined
def _range_of_bins(part, column, shift, mask, missing, weight, are_apart):  # type: ignore[no-untyped-def]
    """First and last bin of rows with weight but the *missing* one, which comes after all others, and whether all have.

    They are ``missing`` and −1 where there is no such row. Rows without weight, of which there are none unless rows are
    weighed apart, had no say in where the threshold stands.
    """
    none, first, last, all_count = np.int32(-1), np.int32(missing), np.int32(-1), True
    if are_apart:
        for j in range(len(part)):
            code, counts = np.int32((column[part[j]] >> shift) & mask), weight[part[j]] > 0.0
            all_count &= counts
            first = smaller(first, code if counts else np.int32(missing))
            last = larger(last, code if counts & (code < missing) else none)
        return np.int64(first), np.int64(last), all_count
    for j in range(len(part)):
        code = np.int32((column[part[j]] >> shift) & mask)
        first, last = smaller(first, code), larger(last, code if code < missing else none)
    return np.int64(first), np.int64(last), all_count
