"""Rows through the trees of a model: the kernels that predict.

Where there are many rows, `ROW_BLOCK` of them at a time go through a tree, see `leaf_masks`; few rows, and trees with
more leaves than a mask has bits, are walked node by node. Rows of tasks with trees of their own are put in the order
of their tasks first.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mttab._core.sorting import order_of_groups

from .in_place import smaller
from .jit import lean, lean_jit, serial_and_parallel
from .leaf_masks import allocate_masks, find_leaves, is_left, make_masks, masks_of

# What the trees of a model are for, in the order of training.
BLOCKS = ("shared", "partition", "task")
SHARED, PARTITION, TASK = 0, 1, 2
# Rows that go through the trees together: their values stay in the first-level cache while the trees pass over them.
ROW_BLOCK = 128
# Fewer rows are walked through a single tree: masks, which take longer to compile, too, save nothing there.
WALKED_ROWS = 128


@lean
def find_leaf(nodes, root, X, task, n_tasks, i):  # type: ignore[no-untyped-def]
    """Leaf of row ``i`` in the tree that starts at node ``root``."""
    node = np.int64(root)
    while nodes.feature[node] >= 0:
        node = nodes.left[node] if is_left(nodes, node, X, task, n_tasks, i) else nodes.right[node]
    return node


@lean
def leaves_of_rows(nodes, root, tree, masks, X, task, n_tasks, begin, end, bits, out_leaf):  # type: ignore[no-untyped-def]
    """Leaf of each row ``begin:end`` in one tree, by its table or its masks, or walked to where it has neither."""
    if not find_leaves(nodes, root, tree, masks, X, task, n_tasks, begin, end, bits, out_leaf):
        for i in range(begin, end):
            out_leaf[i - begin] = find_leaf(nodes, root, X, task, n_tasks, i)


@lean
def add_values(nodes, trees, tree, mixing, task, first, last, leaves, out):  # type: ignore[no-untyped-def]
    """Add what a common tree has in its ``leaves`` int32 (>= last - first,) for the rows ``first:last``."""
    kind, group = trees.block[tree], trees.group[tree]
    for k in range(nodes.value.shape[1]):
        sums, values = out[kind, first:last, trees.output[tree] + k], nodes.value[:, k]
        if kind == SHARED:
            for j in range(len(sums)):
                sums[j] += values[leaves[j]]
        else:
            for j in range(len(sums)):
                sums[j] += mixing[task[first + j], group] * values[leaves[j]]


def _add_trees(X, task, nodes, trees, masks, mixing, begin, end, task_begin, task_end, out):  # type: ignore[no-untyped-def]
    """Add the contributions of common trees ``begin:end`` and of each row's own task trees.

    X : float64 (n_features, n_rows); task : int32 (n_rows,), n_tasks for unseen ones
    masks : LeafMasks of the common trees
    task_begin, task_end : int64 (n_tasks + 1,), each task's range of trees; out : float64 (3, n_rows, n_outputs)
    """
    n_rows = X.shape[1]
    n_tasks = mixing.shape[0] - 1
    n_leaf_outputs = nodes.value.shape[1]
    for block in prange((n_rows + ROW_BLOCK - 1) // ROW_BLOCK):
        first = np.int64(block) * ROW_BLOCK  # a parallel loop counts in uint64
        last = smaller(first + ROW_BLOCK, n_rows)
        bits, leaves = np.empty(ROW_BLOCK, dtype=np.uint64), np.empty(ROW_BLOCK, dtype=np.int32)
        for tree in range(begin, end):
            root = np.int64(trees.root[tree])
            leaves_of_rows(nodes, root, tree, masks, X, task, n_tasks, first, last, bits, leaves)
            add_values(nodes, trees, tree, mixing, task, first, last, leaves, out)
        for i in range(first, last):
            for tree in range(task_begin[task[i]], task_end[task[i]]):
                leaf = find_leaf(nodes, np.int64(trees.root[tree]), X, task, n_tasks, i)
                for k in range(n_leaf_outputs):
                    out[TASK, i, trees.output[tree] + k] += nodes.value[leaf, k]


add_trees, add_trees_parallel = serial_and_parallel(_add_trees)


def blocks_of_tasks(task: np.ndarray, n_tasks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of known tasks in task order, in blocks of rows of one task: the order, and task and start of each block."""
    order = order_of_groups(task)
    counts = np.bincount(task, minlength=n_tasks)[:n_tasks]
    n_blocks = -(-counts // ROW_BLOCK)
    block_task = np.repeat(np.arange(n_tasks), n_blocks)
    place = np.arange(len(block_task)) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)
    start = np.repeat(np.cumsum(counts) - counts, n_blocks) + ROW_BLOCK * place
    return order, block_task, np.append(start, counts.sum())


def _add_task_trees(X, order, block_task, block_start, nodes, trees, masks, task_begin, task_end, out):  # type: ignore[no-untyped-def]
    """Add the contributions of each row's own task trees, many rows of a task at a time, see `blocks_of_tasks`."""
    for block in prange(len(block_task)):
        t, first = block_task[block], block_start[block]
        n_rows = block_start[block + 1] - first
        own, ids = np.empty((X.shape[0], ROW_BLOCK)), np.zeros(ROW_BLOCK, dtype=np.int32)  # no tree asks for the task
        for f in range(X.shape[0]):
            for j in range(n_rows):
                own[f, j] = X[f, order[first + j]]
        bits, leaves = np.empty(ROW_BLOCK, dtype=np.uint64), np.empty(ROW_BLOCK, dtype=np.int32)
        begin, end = np.int64(0), np.int64(n_rows)
        for tree in range(task_begin[t], task_end[t]):
            root = np.int64(trees.root[tree])
            leaves_of_rows(nodes, root, tree, masks, own, ids, np.int64(1), begin, end, bits, leaves)
            for j in range(n_rows):
                for k in range(nodes.value.shape[1]):
                    out[TASK, order[first + j], trees.output[tree] + k] += nodes.value[leaves[j], k]


add_task_trees, add_task_trees_parallel = serial_and_parallel(_add_task_trees)


def _walk_round(X, task, n_tasks, nodes, trees, is_per_task, out_score):  # type: ignore[no-untyped-def]
    """Add one tree, or of one tree per task each row's own, to ``out_score`` (n_rows, n_outputs), unweighted."""
    for i in prange(X.shape[1]):
        tree = np.int64(task[i]) if is_per_task else np.int64(0)
        if tree < len(trees.root):
            leaf = find_leaf(nodes, np.int64(trees.root[tree]), X, task, n_tasks, i)
            for k in range(nodes.value.shape[1]):
                out_score[i, trees.output[tree] + k] += nodes.value[leaf, k]


walk_round, walk_round_parallel = serial_and_parallel(_walk_round, lean_jit)


def _add_tree(X, task, n_tasks, nodes, trees, out_score):  # type: ignore[no-untyped-def]
    """The same for one tree and many rows."""
    n_rows, tree = X.shape[1], np.int64(0)
    masks = allocate_masks(len(nodes.feature), np.int64(1))
    make_masks(nodes, trees.root, tree, np.int64(1), masks)
    # A parallel loop cannot be given a named tuple that is made here, so it puts one together itself.
    keep, leaf, size, n_cuts, cut, table = masks
    for block in prange((n_rows + ROW_BLOCK - 1) // ROW_BLOCK):
        first = np.int64(block) * ROW_BLOCK
        last = smaller(first + ROW_BLOCK, n_rows)
        own = masks_of(keep, leaf, size, n_cuts, cut, table)
        bits, leaves = np.empty(ROW_BLOCK, dtype=np.uint64), np.empty(ROW_BLOCK, dtype=np.int32)
        leaves_of_rows(nodes, np.int64(trees.root[0]), tree, own, X, task, n_tasks, first, last, bits, leaves)
        for k in range(nodes.value.shape[1]):
            sums, values = out_score[first:last, trees.output[0] + k], nodes.value[:, k]
            for j in range(len(sums)):
                sums[j] += values[leaves[j]]


add_tree, add_tree_parallel = serial_and_parallel(_add_tree)
