"""Leaf-wise growth of one tree, and of one tree per task in a single parallel pass.

A node is a range of an index array. Splitting it sorts the range in two, in place and stably:

    rows   [ . . . a b c d e f g . . . ]      node start ─┐       ┌─ stop
    split          < > < < > < >                          a b c d e f g
    rows   [ . . . a c d f b e g . . . ]      left = a c d f, right = b e g

so that when growth ends every leaf is one contiguous range. Rows left out by subsampling are carried along in a second
index array: they do not count, but the tree's values have to reach them too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .binning import ALL_BITS, TASK_ID, byte_of, cut_between
from .histogram import build_histogram, build_histogram_parallel, gather_statistics, subtract_histogram
from .jit import jit, serial_and_parallel
from .leaves import set_values
from .packed_histogram import (
    NO_PACKING,
    build_packed_histogram,
    build_packed_histogram_parallel,
    gather_packed,
    subtract_exactly,
)
from .small_nodes import SMALL_NODE, find_split_from_rows
from .splitting import bounded_value, find_node_split
from .threads import MIN_PARALLEL_CELLS


class GrowthOptions(NamedTuple):
    """Size and randomness of a tree.

    max_leaf_nodes : int, at least 1
    max_depth : int, edges from root to leaf
    n_features_tried : int, features drawn per node; all of them if it is not smaller than their number
    """

    max_leaf_nodes: int
    max_depth: int
    n_features_tried: int


class TreeArrays(NamedTuple):
    """Trees under construction, one per entry of the first axis; node 0 is the root.

    feature : int32, −1 in a leaf; left_bin, right_bin : int32, last used bin left and first used bin right of the cut
    threshold : float64, where between the two the cut stands
    missing_left : bool; left, right : int32 children, −1 in a leaf; gain, weight : float64
    value : float64 (…, K); category_set : uint32 (…, n_words), levels that go left
    start, stop : int64, the node's range of rows; out_start, out_stop : its range of left-out rows
    low, high : float64, bounds on the value from monotonic constraints
    n_nodes : int64 (n_trees,)
    """

    feature: np.ndarray
    left_bin: np.ndarray
    right_bin: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    gain: np.ndarray
    weight: np.ndarray
    value: np.ndarray
    category_set: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    out_start: np.ndarray
    out_stop: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_nodes: np.ndarray


class Scratch(NamedTuple):
    """Memory that a grower keeps between trees; a place j in it belongs to place j of the rows.

    statistics : float64 (n_rows, n_channels), of the node in hand; (`SMALL_NODE`, n_channels) where rows are packed
    packed : int64 (n_rows,), derivatives of all rows; gathered : int64 (n_rows,), of the node in hand; or both empty
    sums : float64 (n_threads * n_blocks, 3, 1024), or empty likewise; buffer : uint32 (n_rows,)
    pool : float64 (n_slots, n_bins_total, n_channels), histograms; without slots a tree makes its own
    """

    statistics: np.ndarray
    packed: np.ndarray
    gathered: np.ndarray
    sums: np.ndarray
    buffer: np.ndarray
    pool: np.ndarray


@jit
def scratch_of_rows(scratch, start, stop, out_start, out_stop):  # type: ignore[no-untyped-def]
    """The part for a range of rows, and one of rows left out, that are grown beside others."""
    statistics = scratch.statistics[start:stop]
    buffer = scratch.buffer[start + out_start : stop + out_stop]
    return Scratch(statistics, scratch.packed, scratch.gathered, scratch.sums, buffer, scratch.pool)


def allocate_trees(n_trees: int, max_leaf_nodes: int, n_outputs: int, n_words: int) -> TreeArrays:
    """Room for ``n_trees`` trees of at most ``max_leaf_nodes`` leaves with ``n_outputs`` values each."""
    shape = (n_trees, 2 * max_leaf_nodes - 1)
    ints = [np.empty(shape, dtype=np.int32) for _ in range(5)]
    longs = [np.empty(shape, dtype=np.int64) for _ in range(4)]
    floats = [np.empty(shape, dtype=np.float64) for _ in range(5)]
    return TreeArrays(
        feature=ints[0],
        left_bin=ints[1],
        right_bin=ints[2],
        threshold=floats[4],
        missing_left=np.empty(shape, dtype=np.bool_),
        left=ints[3],
        right=ints[4],
        gain=floats[0],
        weight=floats[1],
        value=np.empty((*shape, n_outputs)),
        category_set=np.zeros((*shape, n_words), dtype=np.uint32),
        start=longs[0],
        stop=longs[1],
        out_start=longs[2],
        out_stop=longs[3],
        low=floats[2],
        high=floats[3],
        n_nodes=np.zeros(n_trees, dtype=np.int64),
    )


@jit
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
    if n_tried >= n_features:
        return np.arange(n_features)
    is_drawn = np.zeros(n_features, dtype=np.bool_)
    for top in range(n_features - n_tried, n_features):
        candidate = np.int64(next_random(state) % np.uint64(top + 1))
        is_drawn[top if is_drawn[candidate] else candidate] = True
    return np.flatnonzero(is_drawn)


@jit
def partition_rows(rows, start, stop, words, shift, mask, is_left, buffer):  # type: ignore[no-untyped-def]
    """Move the rows of ``rows[start:stop]`` that go left to the front in their order; return where the others begin.

    words, shift, mask : as in `histogram.add_to_bins`; is_left : uint8 (n_bins,), 1 for bins that go left
    buffer : uint32 (>= stop - start,), scratch

    Every row is written to both sides and counted on one: a branch that nobody can predict would cost more.
    """
    part = rows[start:stop]
    n_left = np.uint64(0)  # unsigned: numba then leaves out its test for a negative index
    for j in range(len(part)):
        i = part[j]
        buffer[np.uint64(j) - n_left] = i
        part[n_left] = i
        n_left += np.uint64(is_left[(words[i] >> shift) & mask])
    middle = np.int64(n_left)
    for j in range(len(part) - middle):
        part[middle + j] = buffer[j]
    return start + middle


@jit
def _split_range(rows, start, stop, words, task, layout, tree, node, is_left, buffer):  # type: ignore[no-untyped-def]
    """`partition_rows` by the split that ``node`` holds, of which ``is_left`` tells the bins."""
    f = tree.feature[node]
    if layout.is_categorical[f] == TASK_ID:
        return partition_rows(rows, start, stop, task, byte_of(np.int64(0))[0], ALL_BITS, is_left, buffer)
    shift, mask = byte_of(np.int64(f))
    return partition_rows(rows, start, stop, words[f >> 2], shift, mask, is_left, buffer)


@jit
def mark_left(n_codes, left_bin, missing_left, is_categorical, category_set, out_is_left):  # type: ignore[no-untyped-def]
    """Write for each of a feature's bin codes, the last of them *missing*, whether it goes left: uint8, 1 or 0."""
    for code in range(n_codes - 1):
        if is_categorical:
            out_is_left[code] = (category_set[code >> 5] >> np.uint32(code & 31)) & np.uint32(1)
        else:
            out_is_left[code] = code <= left_bin
    out_is_left[n_codes - 1] = missing_left


@jit
def _open_node(tree, node, start, stop, out_start, out_stop, low, high):  # type: ignore[no-untyped-def]
    tree.start[node], tree.stop[node] = start, stop
    tree.out_start[node], tree.out_stop[node] = out_start, out_stop
    tree.low[node], tree.high[node] = low, high
    tree.feature[node], tree.left[node], tree.right[node] = -1, -1, -1
    tree.left_bin[node], tree.right_bin[node], tree.missing_left[node] = 0, 0, False
    tree.gain[node] = 0.0


@jit
def _best_open_leaf(tree, n_nodes):  # type: ignore[no-untyped-def]
    """Leaf with the largest gain, −1 if none pays; of equal gains (to rounding) the oldest."""
    best, found = -1, 0.0
    for node in range(n_nodes):
        if tree.left[node] < 0 and tree.gain[node] > found * (1.0 + 1e-10):
            best, found = node, tree.gain[node]
    return best


@jit
def _child_bounds(tree, node, monotonic, left_sums, right_sums, options):  # type: ignore[no-untyped-def]
    """Bounds of two children: the middle of their values parts them, so that no later split can break the order."""
    low, high = tree.low[node], tree.high[node]
    if monotonic == 0:
        return low, high, low, high
    h_left = left_sums[0] if options.constant_hessian else left_sums[2]
    h_right = right_sums[0] if options.constant_hessian else right_sums[2]
    middle = 0.5 * (
        bounded_value(left_sums[1], h_left, options.l2, low, high)
        + bounded_value(right_sums[1], h_right, options.l2, low, high)
    )
    if monotonic > 0:
        return low, middle, middle, high
    return middle, high, low, middle


@jit
def grow_tree(
    words,
    task,
    layout,
    gradient,
    hessian,
    weight,
    rows,
    out_rows,
    growth,
    options,
    packing,
    scratch,
    seed,
    n_threads,
    tree,
):  # type: ignore[no-untyped-def]
    """Grow one tree leaf by leaf, the leaf with the largest gain first.

    words : uint32 (n_blocks, n_rows); task : uint32 (n_rows,); gradient, hessian : float64 (K, n_rows)
    weight : float64 (n_rows,); rows, out_rows : uint32, rows that count and rows left out, reordered here
    growth, options, packing : GrowthOptions, SplitOptions, Packing; scratch : Scratch
    tree : TreeArrays of this tree, written here

    Returns the number of nodes.
    """
    n_outputs = gradient.shape[0]
    n_channels = 1 + n_outputs if options.constant_hessian else 1 + 2 * n_outputs
    n_features = len(layout.offset) - 1
    max_leaves = min(growth.max_leaf_nodes, max(len(rows), 1))
    max_nodes = 2 * max_leaves - 1
    pool = scratch.pool
    if len(rows) > SMALL_NODE and len(pool) < max_leaves:
        pool = np.empty((max_leaves, layout.offset[n_features], n_channels))
    slot = np.full(max_nodes, -1)
    depth = np.zeros(max_nodes, dtype=np.int64)
    sums = np.empty((max_nodes, n_channels))
    is_left = np.empty(_most_bins(layout), dtype=np.uint8)
    state = np.array([seed], dtype=np.uint64)

    # numba compiles a callee once more for each literal number it is given: `root` and `one` are int64, not literals.
    root, one = np.int64(0), np.int64(1)
    _open_node(tree, root, root, len(rows), root, len(out_rows), -np.inf, np.inf)
    _gather(rows, root, len(rows), gradient, hessian, weight, options, packing, scratch, sums[0])
    tree.weight[0] = sums[0, 0]
    n_nodes, n_leaves, n_slots = one, one, root
    if max_leaves > 1 and n_features > 0 and growth.max_depth > 0:
        features = draw_features(n_features, growth.n_features_tried, state)
        if len(rows) <= SMALL_NODE:
            _propose_from_rows(words, task, layout, rows, scratch.statistics, sums[0], options, features, tree, root)
        else:
            slot[0], n_slots = 0, 1  # type: ignore[assignment]
            _fill(words, task, layout, rows, root, len(rows), packing, scratch, n_threads, pool[0])
            _propose(tree, root, pool[0], layout, sums[0], options, features)

    while n_leaves < max_leaves:
        node = _best_open_leaf(tree, n_nodes)
        if node < 0:
            break
        start, stop, out_start, out_stop = tree.start[node], tree.stop[node], tree.out_start[node], tree.out_stop[node]
        last_left, tree.threshold[node] = cut_between(
            layout, tree.feature[node], tree.left_bin[node], tree.right_bin[node]
        )
        f = tree.feature[node]
        mark_left(
            layout.offset[f + 1] - layout.offset[f],
            last_left,
            tree.missing_left[node],
            layout.is_categorical[f] != 0,
            tree.category_set[node],
            is_left,
        )
        middle = _split_range(rows, start, stop, words, task, layout, tree, node, is_left, scratch.buffer)
        out_middle = _split_range(
            out_rows, out_start, out_stop, words, task, layout, tree, node, is_left, scratch.buffer
        )
        left, right = n_nodes, n_nodes + 1
        n_nodes += 2
        n_leaves += 1
        tree.left[node], tree.right[node] = left, right
        depth[left] = depth[right] = depth[node] + 1
        # Only the smaller child's rows are read; the other one's sums and histogram are what the parent has left.
        small, large = (left, right) if middle - start <= stop - middle else (right, left)
        small_start, small_stop = (start, middle) if small == left else (middle, stop)
        _gather(rows, small_start, small_stop, gradient, hessian, weight, options, packing, scratch, sums[small])
        sums[large] = sums[node] - sums[small]
        tree.weight[left], tree.weight[right] = sums[left, 0], sums[right, 0]
        monotonic = layout.monotonic[tree.feature[node]]
        low_l, high_l, low_r, high_r = _child_bounds(tree, node, monotonic, sums[left], sums[right], options)
        _open_node(tree, left, start, middle, out_start, out_middle, low_l, high_l)
        _open_node(tree, right, middle, stop, out_middle, out_stop, low_r, high_r)
        if n_leaves == max_leaves or depth[left] >= growth.max_depth:
            continue
        is_small_open = sums[small, 0] >= 2.0 * options.min_samples_leaf * (1.0 - 1e-9)
        is_large_open = sums[large, 0] >= 2.0 * options.min_samples_leaf * (1.0 - 1e-9)
        if not (is_small_open or is_large_open):
            continue
        is_large_small = tree.stop[large] - tree.start[large] <= SMALL_NODE
        if not is_large_small:
            slot[small], slot[large] = n_slots, slot[node]
            n_slots += 1
            part = pool[slot[small]]
            _fill(words, task, layout, rows, small_start, small_stop, packing, scratch, n_threads, part)
            if packing.is_used:
                subtract_exactly(pool[slot[node]], part, pool[slot[large]])
            else:
                subtract_histogram(pool[slot[node]], part, pool[slot[large]])
        if is_small_open:
            features = draw_features(n_features, growth.n_features_tried, state)
            if small_stop - small_start <= SMALL_NODE:
                if packing.is_used:
                    _gather(
                        rows,
                        small_start,
                        small_stop,
                        gradient,
                        hessian,
                        weight,
                        options,
                        NO_PACKING,
                        scratch,
                        sums[small],
                    )
                _propose_from_rows(
                    words, task, layout, rows, scratch.statistics, sums[small], options, features, tree, small
                )
            else:
                _propose(tree, small, pool[slot[small]], layout, sums[small], options, features)
        if is_large_open:
            features = draw_features(n_features, growth.n_features_tried, state)
            if is_large_small:
                _gather(
                    rows,
                    tree.start[large],
                    tree.stop[large],
                    gradient,
                    hessian,
                    weight,
                    options,
                    NO_PACKING,
                    scratch,
                    sums[large],
                )
                _propose_from_rows(
                    words, task, layout, rows, scratch.statistics, sums[large], options, features, tree, large
                )
            else:
                _propose(tree, large, pool[slot[large]], layout, sums[large], options, features)

    for node in range(n_nodes):
        if tree.left[node] < 0:
            tree.feature[node] = -1
            tree.gain[node] = 0.0
    set_values(tree, n_nodes, rows, gradient, hessian, weight, options)
    return n_nodes


@jit
def _most_bins(layout):  # type: ignore[no-untyped-def]
    most = 1
    for f in range(len(layout.offset) - 1):
        most = max(most, layout.offset[f + 1] - layout.offset[f])
    return most


@jit
def _gather(rows, start, stop, gradient, hessian, weight, options, packing, scratch, out_sums):  # type: ignore[no-untyped-def]
    """Bring a node's derivatives into the order of its rows and sum them, packed or as floats."""
    if packing.is_used:
        gather_packed(rows, start, stop, scratch.packed, packing, scratch.gathered, out_sums)
    else:
        gather_statistics(
            rows, start, stop, gradient, hessian, weight, options.constant_hessian, scratch.statistics, out_sums
        )


@jit
def _fill(words, task, layout, rows, start, stop, packing, scratch, n_threads, out_histogram):  # type: ignore[no-untyped-def]
    is_parallel = n_threads > 1 and (stop - start) * (len(layout.offset) - 1) >= MIN_PARALLEL_CELLS
    if packing.is_used and is_parallel:
        build_packed_histogram_parallel(
            words, task, layout, rows, start, stop, scratch.gathered, packing, n_threads, scratch.sums, out_histogram
        )
    elif packing.is_used:
        build_packed_histogram(
            words, task, layout, rows, start, stop, scratch.gathered, packing, np.int64(1), scratch.sums, out_histogram
        )
    elif is_parallel:
        build_histogram_parallel(words, task, layout, rows, start, stop, scratch.statistics, out_histogram)
    else:
        build_histogram(words, task, layout, rows, start, stop, scratch.statistics, out_histogram)


@jit
def _propose(tree, node, histogram, layout, sums, options, features):  # type: ignore[no-untyped-def]
    """Write the node's best split into it; it becomes one when the node is chosen."""
    gain, feature, left_bin, right_bin, missing_left = find_node_split(
        histogram, layout, sums, options, tree.low[node], tree.high[node], features, tree.category_set[node]
    )
    tree.gain[node], tree.feature[node], tree.missing_left[node] = gain, feature, missing_left
    tree.left_bin[node], tree.right_bin[node] = left_bin, right_bin


@jit
def _propose_from_rows(words, task, layout, rows, statistics, sums, options, features, tree, node):  # type: ignore[no-untyped-def]
    """The same for a node of few rows, whose ``statistics`` have just been gathered."""
    gain, feature, left_bin, right_bin, missing_left = find_split_from_rows(
        words,
        task,
        layout,
        rows[tree.start[node] : tree.stop[node]],
        statistics,
        sums,
        options,
        tree.low[node],
        tree.high[node],
        features,
        tree.category_set[node],
    )
    tree.gain[node], tree.feature[node], tree.missing_left[node] = gain, feature, missing_left
    tree.left_bin[node], tree.right_bin[node] = left_bin, right_bin


@jit
def tree_at(trees, t):  # type: ignore[no-untyped-def]
    """Views on tree ``t`` of a stack of trees."""
    return TreeArrays(
        trees.feature[t],
        trees.left_bin[t],
        trees.right_bin[t],
        trees.threshold[t],
        trees.missing_left[t],
        trees.left[t],
        trees.right[t],
        trees.gain[t],
        trees.weight[t],
        trees.value[t],
        trees.category_set[t],
        trees.start[t],
        trees.stop[t],
        trees.out_start[t],
        trees.out_stop[t],
        trees.low[t],
        trees.high[t],
        trees.n_nodes[t : t + 1],
    )


def _grow_trees(  # type: ignore[no-untyped-def]
    words,
    task,
    layout,
    gradient,
    hessian,
    weight,
    rows,
    row_start,
    out_rows,
    out_start,
    growth,
    options,
    scratch,
    seeds,
    trees,
):
    """One tree per range of rows, the trees side by side over threads and each of them serial inside.

    rows, out_rows : uint32; row_start, out_start : int64 (n_trees + 1,), tree t has
    ``rows[row_start[t]:row_start[t+1]]``
    seeds : uint64 (n_trees,); trees : TreeArrays with n_trees entries. Node ranges count from each tree's own start.
    """
    # numba loses what a parallel loop writes to a field of a named tuple, so the array is named before the loop.
    n_nodes = trees.n_nodes
    for t in prange(len(seeds)):
        tree = tree_at(trees, t)
        n_nodes[t] = grow_tree(
            words,
            task,
            layout,
            gradient,
            hessian,
            weight,
            rows[row_start[t] : row_start[t + 1]],
            out_rows[out_start[t] : out_start[t + 1]],
            growth,
            options,
            NO_PACKING,
            scratch_of_rows(scratch, row_start[t], row_start[t + 1], out_start[t], out_start[t + 1]),
            seeds[t],
            np.int64(1),
            tree,
        )


grow_trees, grow_trees_parallel = serial_and_parallel(_grow_trees)
