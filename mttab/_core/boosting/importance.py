"""How much a forest uses each feature, by gain or by number of splits, per block and as it acts for each task."""

from __future__ import annotations

import numpy as np

from .forest import BLOCKS, PARTITION, SHARED, TASK, Forest


def gain_importances(forest: Forest, n_features: int, task_weight: np.ndarray) -> np.ndarray:
    """Gain float64 (n_tasks, n_features + 1) of each feature in the trees of each task; the last column is the task id.

    Summed over tasks every split counts once, see `task_importances`.
    """
    return task_importances(forest, n_features, task_weight, "gain").sum(axis=0)


def block_importances(forest: Forest, n_features: int, kind: str) -> np.ndarray:
    """Importances float64 (3, n_features + 1) of each feature in each block, every split counted once.

    ``kind`` is "gain" or "split"; the last column is the task id.
    """
    of_tree = _by_tree(forest, n_features, kind)
    return np.stack([of_tree[forest.trees.block == block].sum(axis=0) for block in range(len(BLOCKS))])


def task_importances(forest: Forest, n_features: int, task_weight: np.ndarray, kind: str) -> np.ndarray:
    """Importances float64 (3, n_tasks, n_features + 1) of each feature in the trees of each block, for each task.

    Gain is shared out over tasks, so that it sums to that of `block_importances`: that of a split in a shared tree by
    ``task_weight`` (n_tasks,), the sum of their rows' weights, in a partition tree by that times the task's weight of
    the tree's group; a task tree belongs to its task. Splits are those of the trees that act for a task: in a partition
    tree they count as much as the task's weight of the group.
    """
    trees, n_tasks = forest.trees, len(task_weight)
    of_tree = _by_tree(forest, n_features, kind)
    out = np.zeros((len(BLOCKS), n_tasks, n_features + 1))
    is_own = trees.block == TASK
    cell = trees.group[is_own, None] * np.int64(n_features + 1) + np.arange(n_features + 1)
    out[TASK] = np.bincount(cell.ravel(), of_tree[is_own].ravel(), out[TASK].size).reshape(out[TASK].shape)
    weight = np.ones(n_tasks)
    if kind == "gain":
        weight = task_weight / task_weight.sum()
    out[SHARED] = weight[:, None] * of_tree[trees.block == SHARED].sum(axis=0)
    for group, share in enumerate(forest.mixing[:-1].T):
        if kind == "gain":
            share = task_weight * share / max((task_weight * share).sum(), 1e-300)
        member = (trees.block == PARTITION) & (trees.group == group)
        out[PARTITION] += share[:, None] * of_tree[member].sum(axis=0)
    return out


def _by_tree(forest: Forest, n_features: int, kind: str) -> np.ndarray:
    """Gain, or number of splits, float64 (n_trees, n_features + 1) of each feature in each tree."""
    nodes, n_trees = forest.nodes, len(forest.trees.root)
    # Nodes lie tree after tree, but trees are sorted by block: a tree's nodes end where the next root stands.
    by_root = np.argsort(forest.trees.root, kind="stable")
    tree = np.repeat(by_root, np.diff(forest.trees.root[by_root], append=len(nodes.feature)))
    # Leaves, of feature −1, count as 0 of the feature before, or of the first.
    cell = np.maximum(tree * (n_features + 1) + nodes.feature, 0)
    value = np.where(nodes.feature >= 0, nodes.gain, 0.0) if kind == "gain" else nodes.feature >= 0
    sums = np.bincount(cell, value, n_trees * (n_features + 1))
    return sums.reshape(n_trees, n_features + 1).astype(np.float64)  # of no node, numpy counts in int64


def normalised(gain: np.ndarray) -> np.ndarray:
    """The same summing to 1 along the last axis, or 0."""
    total = gain.sum(axis=-1, keepdims=True)
    return np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
