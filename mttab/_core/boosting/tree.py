"""Leaf-wise growth of one tree, and of one tree per task in a single parallel pass.

A node is a range of an index array, and splitting it sorts the range in two (`partition`), so that when growth ends
every leaf is one contiguous range. Rows left out by subsampling are carried along in a second index array: they do not
count, but the tree's values have to reach them too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .binning import cut_between
from .histogram import gather_statistics
from .in_place import empty, larger, smaller
from .jit import inlined, inner, jit, lean, lean_jit
from .leaves import set_values, set_values_parallel
from .node_search import best_candidate, most_bins, search_nodes, search_nodes_parallel
from .packed_histogram import gather_and_sum, gather_packed_parallel
from .partition import CELLS_PER_ROW, mark_left, split_range
from .small_nodes import SMALL_NODE, find_split_from_rows
from .splitting import bounded_value
from .tree_arrays import best_open_leaf, close_leaves, open_node

# Rows' worth of work, per feature, in a histogram whose node has none: bins are subtracted and searched all the same.
EMPTY_NODE = 500


class GrowthOptions(NamedTuple):
    """Size and randomness of a tree.

    max_leaf_nodes : int, at least 1
    max_depth : int, edges from root to leaf
    n_features_tried : int, features drawn per node, or per level of a symmetric tree; all of them if it is not smaller
    than their number
    """

    max_leaf_nodes: int
    max_depth: int
    n_features_tried: int


class Scratch(NamedTuple):
    """Memory that a grower keeps between trees; a place j in it belongs to place j of the rows.

    statistics : float64 (n_rows, n_channels), of the node in hand; (`SMALL_NODE`, n_channels) where rows are packed
    packed : int64 (n_rows,), derivatives of all rows; gathered : int64 (n_rows,), of the node in hand; or both empty
    sums : int64 (n_threads, 3, 1024); buffer, left_buffer : uint32 (n_rows,), the latter empty for one thread
    pool : float64 (n_slots, n_bins_total, n_channels), histograms; without slots a tree makes its own
    """

    statistics: np.ndarray
    packed: np.ndarray
    gathered: np.ndarray
    sums: np.ndarray
    buffer: np.ndarray
    left_buffer: np.ndarray
    pool: np.ndarray


@inner
def scratch_of_rows(scratch, start, stop, out_start, out_stop):  # type: ignore[no-untyped-def]
    """The part for a range of rows, and one of rows left out, that are grown beside others."""
    statistics = scratch.statistics[start:stop]
    buffer = scratch.buffer[start + out_start : stop + out_stop]
    # Trees grow side by side, so none of them may use the pool of the others.
    return Scratch(
        statistics, scratch.packed, scratch.gathered, scratch.sums, buffer, scratch.left_buffer, scratch.pool[:0]
    )


@lean_jit
def next_random(state):  # type: ignore[no-untyped-def]
    """Next 64 random bits of a splitmix64 generator; ``state`` uint64 (1,) is advanced."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def draw_features(n_features, n_tried, state):  # type: ignore[no-untyped-def]
    """``n_tried`` of the feature indices, ascending, drawn without replacement (Floyd's selection)."""
    features, is_drawn = empty(n_features, np.int64), empty(n_features, np.bool_)
    draw_among(is_drawn, n_tried, state)
    n_drawn = 0
    for f in range(n_features):
        features[n_drawn] = f
        n_drawn += is_drawn[f]
    return features[: smaller(n_tried, n_features)]


@lean_jit
def draw_among(out_is_drawn, n_tried, state):  # type: ignore[no-untyped-def]
    """The same as marks, bool (n_features,)."""
    n_features = len(out_is_drawn)
    for f in range(n_features):
        out_is_drawn[f] = n_tried >= n_features
    if n_tried >= n_features:
        return
    for top in range(n_features - n_tried, n_features):
        candidate = np.int64(next_random(state) % np.uint64(top + 1))
        out_is_drawn[top if out_is_drawn[candidate] else candidate] = True


class Table(NamedTuple):
    """What a tree is grown on.

    words : uint32 (n_blocks, n_rows); task : uint32 (n_rows,)
    gradient, hessian : float64 (K, n_rows); weight : float64 (n_rows,)
    """

    words: np.ndarray
    task: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    weight: np.ndarray


class Growing(NamedTuple):
    """What a tree needs while it grows, one entry per node.

    depth : int64; slot : int64, place of the node's histogram in the pool; sums : float64 (…, n_channels)
    pool : float64 (n_slots, n_bins_total, n_channels); is_left : uint8 (most bins of a feature,), scratch
    state : uint64 (1,), of the random numbers; is_tried : bool (2, n_features), features drawn for two siblings
    """

    depth: np.ndarray
    slot: np.ndarray
    sums: np.ndarray
    pool: np.ndarray
    is_left: np.ndarray
    state: np.ndarray
    is_tried: np.ndarray


@jit
def grow_tree(  # type: ignore[no-untyped-def]
    table, layout, rows, out_rows, growth, options, packing, candidates, scratch, seed, team, tree
):  # fmt: skip
    """Grow one tree leaf by leaf, the leaf with the largest gain first.

    table : Table; layout : BinLayout; rows, out_rows : uint32, rows that count and rows left out, reordered here
    growth, options : GrowthOptions, SplitOptions; scratch : Scratch; seed : uint64
    packing : Packing, or None where derivatives are floats
    candidates : Candidates, scratch, or None where no node has more than `SMALL_NODE` rows
    team : Team, or None for one thread
    tree : TreeArrays of this tree, written here

    What None leaves out is not compiled, and compiling takes long.

    Returns the number of nodes.
    """
    # What is made is made here: the rest is passed on to functions that need not count who refers to it.
    max_leaves = smaller(growth.max_leaf_nodes, larger(len(rows), 1))
    own = begin_tree(table, layout, rows, options, scratch, seed, max_leaves)
    return _grow(
        table, layout, rows, out_rows, growth, options, packing, candidates, scratch, team, own, max_leaves, tree
    )


@lean
def _grow(  # type: ignore[no-untyped-def]
    table, layout, rows, out_rows, growth, options, packing, candidates, scratch, team, own, max_leaves, tree
):
    # numba compiles a callee once more for each literal that it is given, so none of these is one.
    root, one, yes, no = np.int64(0), np.int64(1), np.bool_(True), np.bool_(False)
    open_node(tree, root, root, len(rows), root, len(out_rows), -np.inf, np.inf)
    _gather(table, rows, root, len(rows), options, packing, scratch, team, own.sums[0])
    tree.weight[0] = own.sums[0, 0]
    n_nodes, n_leaves = one, one
    if max_leaves > 1 and len(layout.offset) > 1 and growth.max_depth > 0:
        _search(
            table, layout, rows, growth, options, packing, candidates, scratch, team, own, tree,
            root, -one, yes, no,
        )  # fmt: skip
    while n_leaves < max_leaves:
        node = best_open_leaf(tree.left, tree.gain, n_nodes)
        if node < 0:
            break
        left, right = n_nodes, n_nodes + 1
        n_nodes += 2
        n_leaves += 1
        split_node(table, layout, rows, out_rows, scratch, team, own, tree, node, left, right)
        # Only the smaller child's rows are read; the other one's sums and histogram are what the parent has left.
        is_left_small = tree.stop[left] - tree.start[left] <= tree.stop[right] - tree.start[right]
        small, large = (left, right) if is_left_small else (right, left)
        own.slot[small], own.slot[large] = n_leaves - 1, own.slot[node]
        _gather(table, rows, tree.start[small], tree.stop[small], options, packing, scratch, team, own.sums[small])
        for c in range(own.sums.shape[1]):
            own.sums[large, c] = own.sums[node, c] - own.sums[small, c]
        tree.weight[left], tree.weight[right] = own.sums[left, 0], own.sums[right, 0]
        bound_children(
            tree.low, tree.high, node, left, right, layout.monotonic[tree.feature[node]],
            own.sums[left], own.sums[right], options,
        )  # fmt: skip
        if n_leaves < max_leaves and own.depth[left] < growth.max_depth:
            least = 2.0 * options.min_samples_leaf * (1.0 - 1e-9)
            _search(
                table, layout, rows, growth, options, packing, candidates, scratch, team, own, tree,
                small, large, own.sums[small, 0] >= least, own.sums[large, 0] >= least,
            )  # fmt: skip
    close_leaves(tree, n_nodes)
    value_leaves(table, rows, options, team, tree, n_nodes)
    return n_nodes


@inner
def begin_tree(table, layout, rows, options, scratch, seed, max_leaves):  # type: ignore[no-untyped-def]
    n_outputs, n_features, max_nodes = table.gradient.shape[0], len(layout.offset) - 1, 2 * max_leaves - 1
    n_channels = 1 + n_outputs if options.constant_hessian else 1 + 2 * n_outputs
    pool = scratch.pool
    if len(rows) > SMALL_NODE and len(pool) < max_leaves:
        pool = empty((max_leaves, layout.offset[n_features], n_channels), np.float64)
    depth, state = empty(max_nodes, np.int64), empty(1, np.uint64)
    slot = empty(max_nodes, np.int64)
    depth[0], slot[0], state[0] = 0, 0, seed
    return Growing(
        depth,
        slot,
        empty((max_nodes, n_channels), np.float64),
        pool,
        empty(most_bins(layout.offset), np.uint8),
        state,
        empty((2, n_features), np.bool_),
    )


@lean
def value_leaves(table, rows, options, team, tree, n_nodes):  # type: ignore[no-untyped-def]
    derivatives = table.gradient, table.hessian, table.weight
    if team is None:
        set_values(tree, n_nodes, rows, *derivatives, options, np.int64(1))
    elif len(rows) >= team.min_cells:
        set_values_parallel(tree, n_nodes, rows, *derivatives, options, team.n_threads)
    else:
        set_values(tree, n_nodes, rows, *derivatives, options, np.int64(1))


@inlined
def split_node(table, layout, rows, out_rows, scratch, team, own, tree, node, left, right):  # type: ignore[no-untyped-def]
    """Send the rows of a node to two children, which are opened."""
    start, stop, out_start, out_stop = tree.start[node], tree.stop[node], tree.out_start[node], tree.out_stop[node]
    f = np.int64(tree.feature[node])
    last_left, tree.threshold[node] = cut_between(layout, f, tree.left_bin[node], tree.right_bin[node])
    mark_left(
        layout.offset[f + 1] - layout.offset[f],
        last_left,
        tree.missing_left[node],
        layout.is_categorical[f] != 0,
        tree.category_set[node],
        own.is_left,
    )
    words, task = table.words, table.task
    middle = split_range(rows, start, stop, words, task, layout, f, own.is_left, scratch, team)
    out_middle = split_range(out_rows, out_start, out_stop, words, task, layout, f, own.is_left, scratch, team)
    tree.left[node], tree.right[node] = left, right
    own.depth[left] = own.depth[right] = own.depth[node] + 1
    open_node(tree, left, start, middle, out_start, out_middle, tree.low[node], tree.high[node])
    open_node(tree, right, middle, stop, out_middle, out_stop, tree.low[node], tree.high[node])


@lean_jit
def bound_children(lows, highs, node, left, right, monotonic, left_sums, right_sums, options):  # type: ignore[no-untyped-def]
    """Bounds of two children: the middle of their values parts them, so that no later split can break the order.

    lows, highs : float64 (max_nodes,), bounds of all nodes
    """
    if monotonic == 0:
        return
    low, high = lows[node], highs[node]
    h_left = left_sums[0] if options.constant_hessian else left_sums[2]
    h_right = right_sums[0] if options.constant_hessian else right_sums[2]
    middle = 0.5 * (
        bounded_value(left_sums[1], h_left, options.l2, low, high)
        + bounded_value(right_sums[1], h_right, options.l2, low, high)
    )
    if monotonic > 0:
        highs[left] = lows[right] = middle
    else:
        lows[left] = highs[right] = middle


@lean
def _gather(table, rows, start, stop, options, packing, scratch, team, out_sums):  # type: ignore[no-untyped-def]
    """Bring a node's derivatives into the order of its rows and sum them, packed or as floats."""
    if packing is not None:
        if team is None:
            gather_and_sum(rows, start, stop, scratch.packed, packing, scratch.gathered, out_sums)
        elif (stop - start) * CELLS_PER_ROW >= team.min_cells:
            gather_packed_parallel(
                rows, start, stop, scratch.packed, packing, team.n_threads, scratch.gathered, out_sums
            )
        else:
            gather_and_sum(rows, start, stop, scratch.packed, packing, scratch.gathered, out_sums)
    else:
        gather_statistics(
            rows, start, stop, table.gradient, table.hessian, table.weight, options.constant_hessian,
            scratch.statistics, out_sums,
        )  # fmt: skip


@lean
def _search(  # type: ignore[no-untyped-def]
    table, layout, rows, growth, options, packing, candidates, scratch, team, own, tree, small, large,
    is_small_open, is_large_open,
):  # fmt: skip
    """Write the best splits of two siblings, or of the root (with ``large`` −1), into those that are open."""
    if not (is_small_open or is_large_open):
        return
    if candidates is not None:
        widest = small if large < 0 else large
        if tree.stop[widest] - tree.start[widest] > SMALL_NODE:
            _search_histograms(
                table, layout, rows, growth, options, packing, candidates, scratch, team, own, tree,
                small, large, is_small_open, is_large_open,
            )  # fmt: skip
            return
    for child, is_open in ((small, is_small_open), (large, is_large_open)):
        if is_open:
            is_tried = own.is_tried[0]
            draw_among(is_tried, growth.n_features_tried, own.state)
            _search_rows(table, layout, rows, is_tried, options, packing, scratch, own, tree, child, child == small)


@lean
def _search_rows(table, layout, rows, is_tried, options, packing, scratch, own, tree, node, is_gathered):  # type: ignore[no-untyped-def]
    """Write the best split of a node of few rows into it; it becomes one when the node is chosen.

    is_tried : bool (n_features,); is_gathered : whether the node's rows are those gathered last
    """
    start, stop = tree.start[node], tree.stop[node]
    if packing is not None or not is_gathered:
        gather_statistics(
            rows, start, stop, table.gradient, table.hessian, table.weight, options.constant_hessian,
            scratch.statistics, own.sums[node],
        )  # fmt: skip
    sums, low, high, out_set = own.sums[node], tree.low[node], tree.high[node], tree.category_set[node]
    found = find_split_from_rows(
        table.words, table.task, layout, rows[start:stop], scratch.statistics, sums, options, low, high, is_tried,
        out_set,
    )  # fmt: skip
    propose(tree, node, found)


@lean
def _search_histograms(  # type: ignore[no-untyped-def]
    table, layout, rows, growth, options, packing, candidates, scratch, team, own, tree, small, large,
    is_small_open, is_large_open,
):  # fmt: skip
    """The same from histograms, but for a smaller child of few rows."""
    n_features = len(layout.offset) - 1
    by_rows = tree.stop[small] - tree.start[small] <= SMALL_NODE
    few, many = own.is_tried[0], own.is_tried[1]
    draw_among(few, growth.n_features_tried if is_small_open else 0, own.state)
    draw_among(many, growth.n_features_tried if is_large_open else 0, own.state)
    if is_large_open or not by_rows:
        _wish(candidates, np.int64(0), few, is_small_open and not by_rows, own, tree, small)
        _wish(candidates, np.int64(1), many, is_large_open, own, tree, large)
        histogram = own.pool[own.slot[small]]
        rest = own.pool[own.slot[large]] if large >= 0 else histogram[:0]
        start, stop = tree.start[small], tree.stop[small]
        node = table.words, table.task, layout, rows, start, stop, packing, scratch
        if team is None:
            search_nodes(*node, np.int64(1), options, histogram, rest, candidates)
        elif (stop - start + EMPTY_NODE) * n_features >= team.min_cells:
            search_nodes_parallel(*node, team.n_threads, options, histogram, rest, candidates)
        else:
            search_nodes(*node, np.int64(1), options, histogram, rest, candidates)
        if is_small_open and not by_rows:
            _choose(candidates, np.int64(0), histogram, layout, options, tree, small)
        if is_large_open:
            _choose(candidates, np.int64(1), rest, layout, options, tree, large)
    if is_small_open and by_rows:
        _search_rows(table, layout, rows, few, options, packing, scratch, own, tree, small, np.bool_(True))


@lean
def _wish(candidates, k, is_tried, is_open, own, tree, node):  # type: ignore[no-untyped-def]
    """Say what is to be looked for of a node: the best split by each of the features, if it is open."""
    for f in range(len(is_tried)):
        candidates.is_tried[k, f] = is_open and is_tried[f]
    if is_open:
        for c in range(own.sums.shape[1]):
            candidates.sums[k, c] = own.sums[node, c]
        candidates.low[k], candidates.high[k] = tree.low[node], tree.high[node]


@lean
def _choose(candidates, k, histogram, layout, options, tree, node):  # type: ignore[no-untyped-def]
    propose(tree, node, best_candidate(candidates, k, histogram, layout, options, tree.category_set[node]))


@lean_jit
def propose(tree, node, found):  # type: ignore[no-untyped-def]
    """Write the best split that was found for a node into it; it becomes one when the node is chosen."""
    gain, feature, left_bin, right_bin, missing_left = found
    tree.gain[node], tree.feature[node], tree.missing_left[node] = gain, feature, missing_left
    tree.left_bin[node], tree.right_bin[node] = left_bin, right_bin
