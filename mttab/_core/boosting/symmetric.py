"""Symmetric trees: level by level, and every node of a level is split by the same feature at the same place.

With depth d such a tree asks at most d questions, whatever the node, so it bends less to the noise of single nodes than
a tree that is grown leaf by leaf, and boosting with them generalises better on most tables (Kohavi, 1994, on oblivious
graphs; CatBoost: Prokhorenkova et al., 2018, arXiv 1706.09516). The gain of a cut is the sum of its gains in all nodes:

                 x₂ ≤ 5                        level 1: one node
            x₁ ≤ 3    x₁ ≤ 3                   level 2: the cut with the largest gain in both together
           /   /   |      .                    a child would be too small (·): this node waits for the next level

A node that a level's cut would split into children below the minimum sizes, or against a monotonic constraint, is left
whole, and adds nothing to its gain; it waits for the next level.
"""

from __future__ import annotations

import numpy as np

from .histogram import gather_statistics
from .in_place import larger, smaller
from .jit import inlined, jit, lean, lean_jit
from .level import allocate_level
from .level_search import best_feature, search_level, search_level_parallel
from .packed_histogram import gather_and_sum
from .splitting import TIE, count_outputs, pair_score, sums_score
from .tree import EMPTY_NODE, begin_tree, bound_children, draw_among, split_node, value_leaves
from .tree_arrays import close_leaves, open_node


@jit
def grow_symmetric_tree(  # type: ignore[no-untyped-def]
    table, layout, rows, out_rows, growth, options, packing, scratch, subset_search, seed, team, tree
):  # fmt: skip
    """Grow one symmetric tree; parameters and result as for `tree.grow_tree`, ``subset_search`` as in `level.Level`.

    Its depth is at most ``growth.max_depth``, and such that no more than ``growth.max_leaf_nodes`` leaves can come out.
    """
    # What is made is made here: the rest is passed on to functions that need not count who refers to it.
    max_leaves = smaller(growth.max_leaf_nodes, larger(len(rows), 1))
    own = begin_tree(table, layout, rows, options, scratch, seed, max_leaves)
    n_features, n_words = len(layout.offset) - 1, tree.category_set.shape[1]
    level = allocate_level(n_features, n_words, own.sums, own.pool, own.slot, tree.low, tree.high, subset_search)
    return _grow(table, layout, rows, out_rows, growth, options, packing, scratch, team, own, level, tree)


@lean
def _grow(table, layout, rows, out_rows, growth, options, packing, scratch, team, own, level, tree):  # type: ignore[no-untyped-def]
    root, depth, n_nodes = np.int64(0), np.int64(0), np.int64(1)
    open_node(tree, root, root, len(rows), root, len(out_rows), -np.inf, np.inf)
    _gather_node(table, rows, root, len(rows), options, packing, scratch, own.sums[0])
    tree.weight[0] = own.sums[0, 0]
    open_root(level)
    while level.counts[0] > 0 and may_go_deeper(depth, growth):
        depth += 1
        draw_level(level, growth, options, table.gradient.shape[0], own.state)
        n_cells = _gather_level(table, rows, options, packing, scratch, tree, level)
        data = table.words, table.task, layout, rows, options, packing, scratch, tree.start, tree.stop, level
        if team is None:
            search_level(*data, np.int64(1))
        elif n_cells * len(level.gain) >= team.min_cells:
            search_level_parallel(*data, team.n_threads)
        else:
            search_level(*data, np.int64(1))
        feature = best_feature(layout, level, tree)
        if feature < 0:
            break
        n_before = n_nodes
        n_nodes = split_level(table, layout, rows, out_rows, options, scratch, team, own, tree, level, feature, n_nodes)
        if n_nodes == n_before:
            break
    close_leaves(tree, n_nodes)
    value_leaves(table, rows, options, team, tree, n_nodes)
    return n_nodes


@lean_jit
def open_root(level):  # type: ignore[no-untyped-def]
    """Begin with the root, whose sums are known."""
    level.nodes[0], level.small[0], level.large[0] = 0, 0, -1
    level.counts[0] = level.counts[1] = 1 if len(level.gain) > 0 and level.sums[0, 0] > 0.0 else 0


@lean_jit
def may_go_deeper(depth, growth):  # type: ignore[no-untyped-def]
    return depth < growth.max_depth and depth < 62 and (np.int64(2) << depth) <= growth.max_leaf_nodes


@lean_jit
def draw_level(level, growth, options, n_outputs, state):  # type: ignore[no-untyped-def]
    """Draw the features of a level, the same for all its nodes, and score the nodes as they are."""
    total = 0.0
    draw_among(level.is_tried, growth.n_features_tried, state)
    for j in range(level.counts[0]):
        node = level.nodes[j]
        score = sums_score(level.sums[node], n_outputs, options, options.l2, level.low[node], level.high[node])
        level.own[node] = score
        total += abs(score)
    level.noise[0] = TIE * total


@lean
def _gather_node(table, rows, start, stop, options, packing, scratch, out_sums):  # type: ignore[no-untyped-def]
    """Bring a node's derivatives into the order of its rows, at the places of its rows, and sum them."""
    if packing is not None:
        gather_and_sum(rows, start, stop, scratch.packed, packing, scratch.gathered[start:stop], out_sums)
    else:
        gather_statistics(
            rows, start, stop, table.gradient, table.hessian, table.weight, options.constant_hessian,
            scratch.statistics[start:stop], out_sums,
        )  # fmt: skip


@lean
def _gather_level(table, rows, options, packing, scratch, tree, level):  # type: ignore[no-untyped-def]
    """The same for the nodes that are to be filled; returns how many rows' worth of work there is per feature."""
    n_cells = np.int64(0)
    for p in range(level.counts[1]):
        start, stop = tree.start[level.small[p]], tree.stop[level.small[p]]
        n_cells += stop - start + EMPTY_NODE
        if level.large[p] >= 0:  # the root's were gathered when they were summed
            _gather_node(table, rows, start, stop, options, packing, scratch, level.unused)
    return n_cells


@lean_jit
def split_level(table, layout, rows, out_rows, options, scratch, team, own, tree, level, feature, n_nodes):  # type: ignore[no-untyped-def]
    """Split the open nodes and open their children, whose number is returned with that of all others."""
    n_open, n_pairs, n_leaves = np.int64(0), np.int64(0), (n_nodes + 1) // 2
    n_before = level.counts[0]
    for j in range(n_before):
        level.before[j] = level.nodes[j]
    for j in range(n_before):
        node, left, right = level.before[j], n_nodes, n_nodes + 1
        # No more leaves than rows: one row of a large weight is open, but nothing can be split off.
        if right >= len(level.sums) or not cut_node(layout, options, level, tree, node, feature, left, right):
            level.nodes[n_open] = node
            n_open += 1
            continue
        n_nodes += 2
        n_leaves += 1
        split_node(table, layout, rows, out_rows, scratch, team, own, tree, node, left, right)
        sums = level.sums[left], level.sums[right]
        bound_children(tree.low, tree.high, node, left, right, layout.monotonic[feature], *sums, options)
        tree.weight[left], tree.weight[right] = sums[0][0], sums[1][0]
        n_open, n_pairs = open_children(options, level, node, left, right, n_leaves - 1, n_open, n_pairs)
    level.counts[0], level.counts[1] = n_open, n_pairs
    return n_nodes


@inlined
def cut_node(layout, options, level, tree, node, f, left, right):  # type: ignore[no-untyped-def]
    """Write the level's cut into a node, and its children's sums; False where a child is too small or out of order."""
    a, b = layout.offset[f], layout.offset[f + 1]
    histogram, n_channels = level.pool[level.slot[node], a:b], level.sums.shape[1]
    left_sums, right_sums, missing = level.sums[left], level.sums[right], b - a - 1
    for c in range(n_channels):
        left_sums[c] = histogram[missing, c] if level.missing_left[f] else 0.0
        if not layout.is_categorical[f]:
            left_sums[c] += histogram[level.left_bin[f], c]  # sums up to each bin
    if layout.is_categorical[f]:
        for k in range(missing):
            if (tree.category_set[node, k >> 5] >> np.uint32(k & 31)) & np.uint32(1) == 1:
                for c in range(n_channels):
                    left_sums[c] += histogram[k, c]
    for c in range(n_channels):
        right_sums[c] = level.sums[node, c] - left_sums[c]
    score = pair_score(
        left_sums, right_sums, count_outputs(n_channels, options), options, options.l2, layout.monotonic[f],
        level.low[node], level.high[node],
    )  # fmt: skip
    if score == -np.inf:
        return False
    tree.feature[node], tree.gain[node] = f, larger(score - level.own[node], 0.0)
    tree.left_bin[node], tree.right_bin[node] = level.left_bin[f], level.next_bin[f]
    tree.missing_left[node] = level.missing_left[f]
    return True


@lean_jit
def open_children(options, level, node, left, right, new_slot, n_open, n_pairs):  # type: ignore[no-untyped-def]
    """Say which of two children is filled, and open those that are large enough to be split.

    Returns how many open nodes and how many pairs of siblings the next level has so far.
    """
    # Only the smaller child's rows are read; the other one's histogram is what the parent's has left.
    is_left_small = level.sums[left, 0] <= level.sums[right, 0]
    small, large = (left, right) if is_left_small else (right, left)
    level.slot[small], level.slot[large] = new_slot, level.slot[node]
    n_before = n_open
    for child in (left, right):
        if level.sums[child, 0] >= 2.0 * options.min_samples_leaf * (1.0 - 1e-9):
            level.nodes[n_open] = child
            n_open += 1
    if n_open > n_before:
        level.small[n_pairs], level.large[n_pairs] = small, large
        n_pairs += 1
    return n_open, n_pairs
