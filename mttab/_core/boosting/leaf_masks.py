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

All nodes of a level of a symmetric tree ask the same question, so that 63 nodes make no more than six different cuts.
Where cuts repeat so often each is asked once, and the answers together are the place of the leaf in a table. A node
that was left whole on a level stands in the table twice.

Lucchese et al., QuickScorer: a fast algorithm to rank documents with additive ensembles of regression trees, 2015.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from .in_place import empty, larger, smaller
from .jit import inner, jit, lean, lean_jit

# Leaves that a mask has bits for; larger trees are walked.
MAX_LEAVES = 64
# Different cuts that a table of leaves has bits for, and nodes per cut from which on it saves anything.
MAX_CUTS, NODES_PER_CUT = 6, 2
# Below so many rows walking is over before the masks are there.
MIN_ROWS = 512
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


class LeafMasks(NamedTuple):
    """What `make_masks` writes.

    keep : uint64 (n_nodes,), of an inner node the leaves outside its left subtree
    leaf : int32 (n_nodes,), at place root + k the k-th leaf of a tree from the left
    size : int32 (n_trees,), nodes of each tree, 0 where it has more than `MAX_LEAVES` leaves, or a table
    n_cuts : int32 (n_trees,), different cuts of a tree with a table, else 0; cut : int32 (n_trees, `MAX_CUTS`), nodes
    table : int32 (n_trees, 2 ** `MAX_CUTS`), leaf of a row that goes left at the cuts whose bits are set
    """

    keep: np.ndarray
    leaf: np.ndarray
    size: np.ndarray
    n_cuts: np.ndarray
    cut: np.ndarray
    table: np.ndarray


def new_masks(n_nodes, n_trees):  # type: ignore[no-untyped-def]
    """Room for the masks of some trees."""
    return LeafMasks(
        empty(n_nodes, np.uint64),
        empty(n_nodes, np.int32),
        np.zeros(n_trees, dtype=np.int32),
        np.zeros(n_trees, dtype=np.int32),
        empty((n_trees, MAX_CUTS), np.int32),
        empty((n_trees, 1 << MAX_CUTS), np.int32),
    )


allocate_masks = inner(new_masks)  # the same for kernels


@inner
def masks_of(keep, leaf, size, n_cuts, cut, table):  # type: ignore[no-untyped-def]
    return LeafMasks(keep, leaf, size, n_cuts, cut, table)


@lean
def has_level(words, start, level):  # type: ignore[no-untyped-def]
    """Whether a level is in the set whose first word is ``words[start]``."""
    place = np.int64(level)
    return (words[start + (place >> 5)] >> np.uint32(place & 31)) & np.uint32(1) != 0


@lean_jit
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
    return has_level(nodes.category_words, start, x)


@lean
def _is_same_cut(nodes, a, b):  # type: ignore[no-untyped-def]
    """Whether two inner nodes send every row the same way."""
    first, other = nodes.category_start[a], nodes.category_start[b]
    if nodes.feature[a] != nodes.feature[b] or nodes.missing_left[a] != nodes.missing_left[b]:
        return False
    if first < 0 or other < 0:
        return first < 0 and other < 0 and nodes.threshold[a] == nodes.threshold[b]
    if nodes.n_levels[a] != nodes.n_levels[b]:
        return False
    for k in range((nodes.n_levels[a] + 31) >> 5):
        if nodes.category_words[first + k] != nodes.category_words[other + k]:
            return False
    return True


@lean
def _make_table(nodes, root, last, which, out_cut, out_table):  # type: ignore[no-untyped-def]
    """Table of the leaves of the tree ``root:last + 1``; returns how many cuts it has, 0 where a table saves nothing.

    which : int32 (n_nodes,), scratch
    """
    n_cuts, n_inner = 0, 0
    for node in range(root, last + 1):
        if nodes.feature[node] < 0:
            continue
        k, n_inner = 0, n_inner + 1
        while k < n_cuts and not _is_same_cut(nodes, out_cut[k], node):
            k += 1
        if k == n_cuts:
            if n_cuts == MAX_CUTS:
                return 0
            out_cut[n_cuts] = node
            n_cuts += 1
        which[node] = k
    if n_inner < NODES_PER_CUT * n_cuts:
        return 0
    for answers in range(1 << n_cuts):
        node = root
        while nodes.feature[node] >= 0:
            node = nodes.left[node] if (answers >> which[node]) & 1 else nodes.right[node]
        out_table[answers] = node
    return n_cuts


@jit
def make_masks(nodes, root, begin, end, masks):  # type: ignore[no-untyped-def]
    """Masks, or tables, of the trees ``begin:end``, each a contiguous range of nodes with children after parents.

    root : int32 (n_trees,), first node of each tree; masks : LeafMasks, written
    """
    n_nodes = len(masks.leaf)
    _write_masks(nodes, root, begin, end, masks, empty(n_nodes, np.int32), empty(n_nodes, np.int32))


@lean
def _write_masks(nodes, root, begin, end, masks, n_leaves, first):  # type: ignore[no-untyped-def]
    keep, leaf = masks.keep, masks.leaf
    for t in range(begin, end):
        node, last = root[t], root[t]
        while node <= last:
            last = larger(last, larger(nodes.left[node], nodes.right[node]))
            node += 1
        masks.size[t] = 0
        masks.n_cuts[t] = _make_table(nodes, np.int64(root[t]), np.int64(last), leaf, masks.cut[t], masks.table[t])
        if masks.n_cuts[t] > 0:
            continue
        for node in range(last, root[t] - 1, -1):
            is_leaf = nodes.feature[node] < 0
            n_leaves[node] = 1 if is_leaf else n_leaves[nodes.left[node]] + n_leaves[nodes.right[node]]
        if n_leaves[root[t]] > MAX_LEAVES:
            continue
        masks.size[t] = last - root[t] + 1
        first[root[t]] = 0
        for node in range(root[t], last + 1):
            if nodes.feature[node] < 0:
                leaf[root[t] + first[node]] = node
                continue
            left, right = nodes.left[node], nodes.right[node]
            first[left], first[right] = first[node], first[node] + n_leaves[left]
            members = _ALL >> np.uint64(64 - n_leaves[left])
            keep[node] = ~(members << np.uint64(first[left]))


@lean
def _strike_out(nodes, node, others, X, task, n_tasks, begin, end, bits):  # type: ignore[no-untyped-def]
    """Of the bits (>= end - begin,) of the rows ``begin:end`` that go right at a node leave only ``others`` uint64."""
    f, start = nodes.feature[node], nodes.category_start[node]
    n_levels, missing_left = nodes.n_levels[node], nodes.missing_left[node]
    if f >= X.shape[0]:
        ids, n_known = task[begin:end], smaller(n_levels, n_tasks)
        for j in range(len(ids)):
            known = 0 <= ids[j] < n_known
            if not (has_level(nodes.category_words, start, ids[j]) if known else missing_left):
                bits[j] &= others
        return
    if start >= 0:
        levels = X[f, begin:end]
        for j in range(len(levels)):
            known = 0 <= levels[j] < n_levels  # false for NaN
            if not (has_level(nodes.category_words, start, levels[j]) if known else missing_left):
                bits[j] &= others
        return
    x, threshold = X[f, begin:end], nodes.threshold[node]
    # A comparison with NaN is false: it has to be asked so that false is where missing values go.
    if missing_left:
        for j in range(len(x)):
            bits[j] &= others if x[j] > threshold else _ALL
    else:
        for j in range(len(x)):
            bits[j] &= _ALL if x[j] <= threshold else others


@lean
def find_leaves(nodes, root, tree, masks, X, task, n_tasks, begin, end, bits, out_leaf):  # type: ignore[no-untyped-def]
    """Leaf of each row ``begin:end`` in a tree that has a table or masks; returns False where it has neither.

    root : the tree's first node; masks : LeafMasks; bits : uint64 (>= end - begin,), scratch; out_leaf : int32, as long
    """
    size, n_cuts = np.int64(masks.size[tree]), np.int64(masks.n_cuts[tree])
    if size == 0 and n_cuts == 0:
        return False
    for j in range(end - begin):
        bits[j] = _ALL
    if n_cuts > 0:
        for k in range(n_cuts):
            others = ~(np.uint64(1) << np.uint64(k))
            _strike_out(nodes, np.int64(masks.cut[tree, k]), others, X, task, n_tasks, begin, end, bits)
        table, asked = masks.table[tree], (np.uint64(1) << np.uint64(n_cuts)) - np.uint64(1)
        for j in range(end - begin):
            out_leaf[j] = table[bits[j] & asked]
        return True
    for node in range(root, root + size):
        if nodes.feature[node] >= 0:
            _strike_out(nodes, node, masks.keep[node], X, task, n_tasks, begin, end, bits)
    for j in range(end - begin):
        out_leaf[j] = masks.leaf[root + np.int64(trailing_zeros(bits[j]))]
    return True
