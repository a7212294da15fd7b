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
    return _sums(forest, n_features, kind, forest.trees.block, len(BLOCKS))


def task_importances(forest: Forest, n_features: int, task_weight: np.ndarray, kind: str) -> np.ndarray:
    """Importances float64 (3, n_tasks, n_features + 1) of each feature in the trees of each block, for each task.

    Gain is shared out over tasks, so that it sums to that of `block_importances`: that of a split in a shared tree by
    ``task_weight`` (n_tasks,), the sum of their rows' weights, in a partition tree by that times the task's weight of
    the tree's group; a task tree belongs to its task. Splits are those of the trees that act for a task: in a partition
    tree they count as much as the task's weight of the group.
    """
    trees, n_tasks, n_groups = forest.trees, len(task_weight), forest.mixing.shape[1]
    # Places for the trees of each task, the shared ones, and those of each group.
    place = trees.group + np.array([n_tasks, n_tasks + 1, 0])[trees.block]
    sums = _sums(forest, n_features, kind, place, n_tasks + 1 + n_groups)
    out = np.zeros((len(BLOCKS), n_tasks, n_features + 1))
    out[TASK] = sums[:n_tasks]
    weight = np.ones(n_tasks)
    if kind == "gain":
        weight = task_weight / task_weight.sum()
    out[SHARED] = weight[:, None] * sums[n_tasks]
    for share, of_group in zip(forest.mixing[:-1].T, sums[n_tasks + 1 :], strict=True):
        if kind == "gain":
            share = task_weight * share / max((task_weight * share).sum(), 1e-300)
        out[PARTITION] += share[:, None] * of_group
    return out


def _sums(forest: Forest, n_features: int, kind: str, place: np.ndarray, n_places: int) -> np.ndarray:
    """Gain, or number of splits, float64 (n_places, n_features + 1) of each feature in trees of the same place.

    place : int (n_trees,), of each tree
    """
    nodes, root = forest.nodes, forest.trees.root
    # Nodes lie tree after tree, but trees are sorted by block: a tree's nodes end where the next root stands.
    by_root = np.argsort(root, kind="stable")
    of_node = np.repeat(place[by_root] * (n_features + 1), np.diff(root[by_root], append=len(nodes.feature)))
    # Leaves, of feature −1, count as 0 of the feature before, or of the first.
    is_split, cell = nodes.feature >= 0, np.maximum(of_node + nodes.feature, 0)
    sums = np.bincount(cell, nodes.gain * is_split if kind == "gain" else is_split, n_places * (n_features + 1))
    return sums.reshape(n_places, n_features + 1).astype(np.float64)  # of no node, numpy counts in int64


def normalised(gain: np.ndarray) -> np.ndarray:
    """The same summing to 1 along the last axis, or 0."""
    total = gain.sum(axis=-1, keepdims=True)
    return np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
