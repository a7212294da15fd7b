r"""Many rows through one tree by looking at every node: no row waits for the answer of the node before (QuickScorer).

Leaves are numbered from left to right. A row that goes right at a node cannot end in a leaf of the node's left subtree,

            a                    row goes right at a, left at b:
          /   \                  all leaves     1 1 1 1
         b     3                 right at a     0 0 0 1   keeps what is right of a's left subtree
        / \
       c   2                     lowest bit left: leaf 3
      0 1

so the leaf is the lowest bit that is left after every node at which the row goes right has struck out its own. That is
more tests than a walk needs, but they are simple, do not depend on each other and run on several rows at once.

Lucchese et al., QuickScorer: a fast algorithm to rank documents with additive ensembles of regression trees, 2015.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from .jit import jit

# Leaves that a mask has bits for; larger trees are walked.
MAX_LEAVES = 64
# Below so many rows walking is over before the masks are there.
MIN_ROWS = 512
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


class LeafMasks(NamedTuple):
    """What `make_masks` writes: ``keep`` uint64 and ``leaf`` int32 (n_nodes,), ``size`` int32 (n_trees,)."""

    keep: np.ndarray
    leaf: np.ndarray
    size: np.ndarray


@jit
def _has_level(words, start, level):  # type: ignore[no-untyped-def]
    """Whether a level is in the set whose first word is ``words[start]``."""
    place = np.int64(level)
    return (words[start + (place >> 5)] >> np.uint32(place & 31)) & np.uint32(1) != 0


@jit
def is_left(nodes, node, X, task, n_tasks, i):  # type: ignore[no-untyped-def]
    """Whether row ``i`` goes left at an inner node."""
    f = nodes.feature[node]
    is_task = f >= X.shape[0]
    x = np.float64(task[i]) if is_task else X[f, i]
    start = nodes.category_start[node]
    if np.isnan(x) or (is_task and task[i] >= n_tasks):
        return nodes.missing_left[node]
    if start < 0:
        return x <= nodes.threshold[node]
    if x < 0 or x >= nodes.n_levels[node]:
        return nodes.missing_left[node]
    return _has_level(nodes.category_words, start, x)


@jit
def make_masks(nodes, root, out_keep, out_leaf, out_size):  # type: ignore[no-untyped-def]
    """Masks of the trees that start at the nodes ``root``, each tree a contiguous range with children after parents.

    out_keep : uint64 (n_nodes,), of an inner node the leaves outside its left subtree
    out_leaf : int32 (n_nodes,), at place root + k the k-th leaf of a tree from the left
    out_size : int32 (n_trees,), nodes of each tree, 0 where it has more than `MAX_LEAVES` leaves
    """
    n_leaves, first = np.empty_like(out_leaf), np.empty_like(out_leaf)
    for t in range(len(root)):
        node, last = root[t], root[t]
        while node <= last:
            last = max(last, nodes.left[node], nodes.right[node])
            node += 1
        for node in range(last, root[t] - 1, -1):
            is_leaf = nodes.feature[node] < 0
            n_leaves[node] = 1 if is_leaf else n_leaves[nodes.left[node]] + n_leaves[nodes.right[node]]
        if n_leaves[root[t]] > MAX_LEAVES:
            out_size[t] = 0
            continue
        out_size[t] = last - root[t] + 1
        first[root[t]] = 0
        for node in range(root[t], last + 1):
            if nodes.feature[node] < 0:
                out_leaf[root[t] + first[node]] = node
                continue
            left, right = nodes.left[node], nodes.right[node]
            first[left], first[right] = first[node], first[node] + n_leaves[left]
            members = _ALL >> np.uint64(64 - n_leaves[left])
            out_keep[node] = ~(members << np.uint64(first[left]))


@jit
def find_leaves(nodes, root, size, keep, leaf, X, task, n_tasks, begin, end, masks, out_leaf):  # type: ignore[no-untyped-def]
    """Leaf of each row ``begin:end`` in one tree.

    size, keep, leaf : as from `make_masks`; masks : uint64 (>= end - begin,), scratch; out_leaf : int32, likewise
    """
    masks[: end - begin] = _ALL
    for node in range(root, root + size):
        f = nodes.feature[node]
        if f < 0:
            continue
        others = keep[node]
        start, n_levels, missing_left = nodes.category_start[node], nodes.n_levels[node], nodes.missing_left[node]
        if f >= X.shape[0]:
            ids, n_known = task[begin:end], min(n_levels, n_tasks)
            for j in range(len(ids)):
                known = 0 <= ids[j] < n_known
                if not (_has_level(nodes.category_words, start, ids[j]) if known else missing_left):
                    masks[j] &= others
            continue
        if start >= 0:
            levels = X[f, begin:end]
            for j in range(len(levels)):
                known = 0 <= levels[j] < n_levels  # false for NaN
                if not (_has_level(nodes.category_words, start, levels[j]) if known else missing_left):
                    masks[j] &= others
            continue
        x, threshold = X[f, begin:end], nodes.threshold[node]
        # A comparison with NaN is false: it has to be asked so that false is where missing values go.
        if nodes.missing_left[node]:
            for j in range(len(x)):
                masks[j] &= others if x[j] > threshold else _ALL
        else:
            for j in range(len(x)):
                masks[j] &= _ALL if x[j] <= threshold else others
    for j in range(end - begin):
        out_leaf[j] = leaf[root + np.int64(trailing_zeros(masks[j]))]
