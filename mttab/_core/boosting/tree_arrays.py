"""Trees under construction: flat arrays, one entry per node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .jit import inlined, inner, lean_jit


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


def allocate_trees(n_trees: int, max_leaf_nodes: int, n_outputs: int, n_words: int) -> TreeArrays:
    """Room for ``n_trees`` trees of at most ``max_leaf_nodes`` leaves with ``n_outputs`` values each."""
    shape = (n_trees, 2 * max_leaf_nodes - 1)
    # One block for all arrays of a type: there are thousands of such trees.
    feature, left_bin, right_bin, left, right = np.empty((5, *shape), dtype=np.int32)
    start, stop, out_start, out_stop = np.empty((4, *shape), dtype=np.int64)
    threshold, gain, weight, low, high = np.empty((5, *shape))
    return TreeArrays(
        feature=feature,
        left_bin=left_bin,
        right_bin=right_bin,
        threshold=threshold,
        missing_left=np.empty(shape, dtype=np.bool_),
        left=left,
        right=right,
        gain=gain,
        weight=weight,
        value=np.empty((*shape, n_outputs)),
        category_set=np.zeros((*shape, n_words), dtype=np.uint32),
        start=start,
        stop=stop,
        out_start=out_start,
        out_stop=out_stop,
        low=low,
        high=high,
        n_nodes=np.zeros(n_trees, dtype=np.int64),
    )


def only_tree(trees: TreeArrays) -> TreeArrays:
    """Views on the one tree of a stack of one, for Python."""
    return TreeArrays._make([*(array[0] for array in trees[:-1]), trees.n_nodes])


def _tree_at(trees, t):  # type: ignore[no-untyped-def]
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


# The other one is for callers that count no references, see `linking.lent`.
tree_at, lent_tree_at = inner(_tree_at), inlined(_tree_at)


@lean_jit
def open_node(tree, node, start, stop, out_start, out_stop, low, high):  # type: ignore[no-untyped-def]
    tree.start[node], tree.stop[node] = start, stop
    tree.out_start[node], tree.out_stop[node] = out_start, out_stop
    tree.low[node], tree.high[node] = low, high
    tree.feature[node], tree.left[node], tree.right[node] = -1, -1, -1
    tree.left_bin[node], tree.right_bin[node], tree.missing_left[node] = 0, 0, False
    tree.gain[node] = 0.0


@lean_jit
def close_leaves(tree, n_nodes):  # type: ignore[no-untyped-def]
    """Forget the splits that were proposed for leaves."""
    for node in range(n_nodes):
        if tree.left[node] < 0:
            tree.feature[node], tree.gain[node] = -1, 0.0


@lean_jit
def best_open_leaf(left, gain, n_nodes):  # type: ignore[no-untyped-def]
    """Leaf with the largest gain, −1 if none pays; of equal gains (to rounding) the oldest."""
    best, found = -1, 0.0
    for node in range(n_nodes):
        if left[node] < 0 and gain[node] > found * (1.0 + 1e-10):
            best, found = node, gain[node]
    return best
