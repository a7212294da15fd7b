"""Many rows through many trees: values become bytes first, and a node asks dozens of rows at once.

Trees compare a feature with a few places only. Which of these a value lies between is all they need to know of it, and
fits into a byte as long as there are no more than `MAX_EDGES`:

    thresholds of a feature in these trees       0.3   1.1   4.0
    code of a value                           0     1     2     3        255: missing, or an unknown level

A node with the r-th threshold (from 0) sends codes above r to the right. The leaves that this strikes out, see
`leaf_masks`, are bits of up to eight bytes per row, the planes; a node changes those in which its left subtree has
leaves, most often one:

    for the 1024 rows of a block:   plane &= others if code > r else 0xFF

is then a few instructions for 32 rows, or for 64 where registers are as wide. Trees are taken in ranges whose
thresholds fit into a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numba.cpython.unsafe.numbers import trailing_zeros

from .binning import edges_below
from .in_place import smaller
from .jit import inlined, lean, serial_and_parallel
from .leaf_masks import LeafMasks, has_level
from .scoring import add_values

# Different thresholds of a feature that codes can tell apart; `MISSING` is no value or an unknown level.
MAX_EDGES, MISSING = 254, 255
# Up to so many thresholds are searched in five steps, more in eight.
FEW_EDGES = 31
# Rows that go through the trees together, with their codes and planes in the first-level cache.
CODED_BLOCK = 1024
# Below so many rows per node of a tree coding does not pay: a node takes 0.2 µs, and again for each halving of a range.
MIN_ROWS_PER_NODE = 16


class Coding(NamedTuple):
    """What a range of trees asks of each feature.

    features : int64 (n_used,), features that some node looks at; n_features means the task id
    place : int64 (n_features + 1,), place of each of them in ``features``
    kind : uint8 (n_used,), 0 for levels, else 5 or 8, the steps of a search for the threshold
    edges : float64 (n_used, 255), thresholds in order, then +inf
    cut : uint8 (n_nodes,), of a numeric node the smallest code that goes right, one more where missing values go left
    """

    features: np.ndarray
    place: np.ndarray
    kind: np.ndarray
    edges: np.ndarray
    cut: np.ndarray


def ranges_for_coding(
    nodes: Any, root: np.ndarray, masks: LeafMasks, begin: int, end: int, n_features: int, n_tasks: int
) -> Iterator[tuple[int, int, Coding | None]]:
    """Consecutive ranges that make up the trees ``begin:end``, with the coding of each, or None where it has none.

    Trees with neither masks nor a table have none, nor have those that split more levels than a byte has room for.
    """
    starts = np.append(np.sort(root), len(nodes.feature))
    stop = starts[np.searchsorted(starts, root[begin:end], side="right")]
    is_large = (nodes.n_levels > MAX_EDGES) | ((nodes.feature >= n_features) & (n_tasks > MAX_EDGES))
    n_large = np.append(0, np.cumsum(is_large))
    has_none = (n_large[stop] > n_large[root[begin:end]]) | ((masks.size == 0) & (masks.n_cuts == 0))[begin:end]
    edges = np.flatnonzero(has_none[1:] != has_none[:-1]) + 1
    for first, last in zip([0, *edges], [*edges, end - begin], strict=True):
        if has_none[first]:
            yield begin + first, begin + last, None
        else:
            inner = [np.arange(a, b) for a, b in zip(root[begin + first : begin + last], stop[first:last], strict=True)]
            yield from _halved(nodes, inner, begin + first, n_features)


def _halved(
    nodes: Any, of_trees: list[np.ndarray], begin: int, n_features: int
) -> Iterator[tuple[int, int, Coding | None]]:
    """The same for trees with these nodes, the first of them ``begin``; halves where they ask too much for a byte."""
    coding, n_trees = code_nodes(nodes, np.concatenate(of_trees), n_features), len(of_trees)
    if coding is not None and n_trees < len(coding.features):
        coding = None  # coding would take longer than it saves
    elif coding is None and n_trees > 1:
        half = n_trees // 2
        yield from _halved(nodes, of_trees[:half], begin, n_features)
        yield from _halved(nodes, of_trees[half:], begin + half, n_features)
        return
    yield begin, begin + n_trees, coding


def code_nodes(nodes: Any, own: np.ndarray, n_features: int) -> Coding | None:
    """Coding of the nodes with these indices; None where a feature has too many thresholds."""
    inner = own[nodes.feature[own] >= 0]
    feature, is_level = nodes.feature[inner], nodes.category_start[inner] >= 0
    features = np.unique(feature).astype(np.int64)
    place = np.zeros(n_features + 1, dtype=np.int64)
    place[features] = np.arange(len(features))
    edges, cut = np.full((len(features), 255), np.inf), np.zeros(len(nodes.feature), dtype=np.uint8)
    numeric = inner[~is_level]
    order = np.lexsort((nodes.threshold[numeric], nodes.feature[numeric]))
    numeric = numeric[order]
    at, threshold = place[nodes.feature[numeric]], nodes.threshold[numeric]
    is_first = np.append(True, at[1:] != at[:-1])[: len(at)]
    is_new = is_first | np.append(True, threshold[1:] != threshold[:-1])[: len(at)]
    rank = np.cumsum(is_new) - 1
    rank -= np.maximum.accumulate(np.where(is_first, rank, 0))
    if len(rank) and rank.max() >= MAX_EDGES:
        return None
    edges[at, rank] = threshold
    cut[numeric] = rank + 1 + nodes.missing_left[numeric]
    n_edges = np.bincount(at, is_new, len(features))
    kind = np.where(n_edges == 0, 0, np.where(n_edges <= FEW_EDGES, 5, 8)).astype(np.uint8)
    return Coding(features, place, kind, edges, cut)


@lean
def _code_rows(X, task, n_tasks, coding, first, last, out_codes):  # type: ignore[no-untyped-def]
    """Codes uint8 (n_used, >= last - first) of the rows ``first:last``."""
    for u in range(len(coding.features)):
        f, codes, edges = coding.features[u], out_codes[u], coding.edges[u]
        if f >= X.shape[0]:
            for i in range(first, last):
                codes[i - first] = task[i] if 0 <= task[i] < n_tasks else MISSING
            continue
        x = X[f, first:last]
        if coding.kind[u] == 0:
            for j in range(len(x)):
                codes[j] = np.uint8(x[j]) if 0 <= x[j] < MAX_EDGES else np.uint8(MISSING)  # false for NaN
        elif coding.kind[u] == 5:
            for j in range(len(x)):
                codes[j] = MISSING if np.isnan(x[j]) else edges_below(x[j], edges, np.uint64(16))
        else:
            for j in range(len(x)):
                codes[j] = MISSING if np.isnan(x[j]) else edges_below(x[j], edges, np.uint64(128))


@inlined
def _strike_out(nodes, node, others, codes, cut, n_rows, plane):  # type: ignore[no-untyped-def]
    """Of a plane's bits of the rows that go right at a node leave only ``others`` uint8."""
    all_bits = np.uint8(255)
    start, missing_left = nodes.category_start[node], nodes.missing_left[node]
    if start >= 0:
        n_levels = nodes.n_levels[node]
        for j in range(n_rows):
            is_left = has_level(nodes.category_words, start, codes[j]) if codes[j] < n_levels else missing_left
            plane[j] &= all_bits if is_left else others
    elif missing_left:
        for j in range(n_rows):  # the next code is 0 for missing values, and goes left
            plane[j] &= others if np.uint8(codes[j] + np.uint8(1)) >= cut else all_bits
    else:
        for j in range(n_rows):
            plane[j] &= others if codes[j] >= cut else all_bits


@inlined
def _four_planes(planes, p, j):  # type: ignore[no-untyped-def]
    low = np.uint64(planes[p, j]) | (np.uint64(planes[p + 1, j]) << np.uint64(8))
    return low | (np.uint64(planes[p + 2, j]) << np.uint64(16)) | (np.uint64(planes[p + 3, j]) << np.uint64(24))


@lean
def _find_leaves(nodes, root, tree, masks, coding, codes, n_rows, planes, out_leaf):  # type: ignore[no-untyped-def]
    """`leaf_masks.find_leaves` for rows with codes (n_used, >= n_rows); planes uint8 (8, >= n_rows) are scratch."""
    size, n_cuts = np.int64(masks.size[tree]), np.int64(masks.n_cuts[tree])
    if n_cuts > 0:
        planes[0, :n_rows] = np.uint8(255)
        for k in range(n_cuts):
            one = np.int64(masks.cut[tree, k])
            others = np.uint8(255 - (1 << k))
            own = codes[coding.place[nodes.feature[one]]]
            _strike_out(nodes, one, others, own, coding.cut[one], n_rows, planes[0])
        table, asked = masks.table[tree], np.uint8((1 << n_cuts) - 1)
        for j in range(n_rows):
            out_leaf[j] = table[planes[0, j] & asked]
        return
    n_planes = np.int64(4 if size < 64 else 8)  # of trees with up to 32, or 64, leaves
    for p in range(n_planes):
        planes[p, :n_rows] = np.uint8(255)
    for node in range(root, root + size):
        if nodes.feature[node] < 0:
            continue
        own = codes[coding.place[nodes.feature[node]]]
        for p in range(n_planes):
            others = np.uint8((masks.keep[node] >> np.uint64(8 * p)) & np.uint64(255))
            if others != 255:
                _strike_out(nodes, node, others, own, coding.cut[node], n_rows, planes[p])
    leaf = masks.leaf[root : root + size]
    if n_planes == 4:
        for j in range(n_rows):
            out_leaf[j] = leaf[np.int64(trailing_zeros(_four_planes(planes, 0, j)))]
    else:
        for j in range(n_rows):
            bits = _four_planes(planes, 0, j) | (_four_planes(planes, 4, j) << np.uint64(32))
            out_leaf[j] = leaf[np.int64(trailing_zeros(bits))]


def _add_coded_trees(X, task, nodes, trees, masks, coding, mixing, begin, end, out):  # type: ignore[no-untyped-def]
    """Add the contributions of the common trees ``begin:end``, all of which have masks or a table, to ``out``.

    Parameters as for `scoring.add_trees`; coding : Coding of these trees.
    """
    n_rows, n_tasks, n_used = X.shape[1], mixing.shape[0] - 1, len(coding.features)
    for block in prange((n_rows + CODED_BLOCK - 1) // CODED_BLOCK):
        first = np.int64(block) * CODED_BLOCK  # a parallel loop counts in uint64
        last = smaller(first + CODED_BLOCK, n_rows)
        codes, planes = np.empty((n_used, CODED_BLOCK), dtype=np.uint8), np.empty((8, CODED_BLOCK), dtype=np.uint8)
        leaves = np.empty(CODED_BLOCK, dtype=np.int32)
        _code_rows(X, task, n_tasks, coding, first, last, codes)
        for tree in range(begin, end):
            root = np.int64(trees.root[tree])
            _find_leaves(nodes, root, tree, masks, coding, codes, last - first, planes, leaves)
            add_values(nodes, trees, tree, mixing, task, first, last, leaves, out)


add_coded_trees, add_coded_trees_parallel = serial_and_parallel(_add_coded_trees)
