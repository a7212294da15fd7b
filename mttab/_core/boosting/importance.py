"""Gain importances of a forest, in total and as it acts for each task."""

from __future__ import annotations

import numpy as np

from .forest import PARTITION, TASK, Forest


def gain_importances(forest: Forest, n_features: int, task_weight: np.ndarray) -> np.ndarray:
    """Gain float64 (n_tasks, n_features + 1) of each feature in the trees of each task; the last column is the task id.

    A split in a shared tree is shared out over tasks by ``task_weight`` (n_tasks,), the sum of their rows' weights, in
    a partition tree by that times the task's weight of the tree's group; a task tree belongs to its task. Summed over
    tasks every split counts once.
    """
    nodes, trees = forest.nodes, forest.trees
    n_tasks = len(task_weight)
    gain_of_tree = _gain_by_tree(forest, n_features)
    importances = np.zeros((n_tasks, n_features + 1))
    if len(nodes.feature) == 0:
        return importances
    is_task = trees.block == TASK
    np.add.at(importances, trees.group[is_task], gain_of_tree[is_task])
    for block_weight, member in _common_shares(forest, task_weight):
        importances += block_weight[:, None] * gain_of_tree[member].sum(axis=0)
    return importances


def _gain_by_tree(forest: Forest, n_features: int) -> np.ndarray:
    """Gain float64 (n_trees, n_features + 1) of each feature in each tree."""
    nodes, n_trees = forest.nodes, len(forest.trees.root)
    # Nodes lie tree after tree, but trees are sorted by block: find the tree of a node by the roots in node order.
    by_root = np.argsort(forest.trees.root, kind="stable")
    place = np.searchsorted(forest.trees.root[by_root], np.arange(len(nodes.feature)), side="right") - 1
    tree = by_root[place] if n_trees else np.empty(0, dtype=np.int64)
    is_split = nodes.feature >= 0
    gain = np.zeros((n_trees, n_features + 1))
    np.add.at(gain, (tree[is_split], nodes.feature[is_split]), nodes.gain[is_split])
    return gain


def _common_shares(forest: Forest, task_weight: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (share of each task, trees it applies to) for the shared block and each partition group."""
    trees = forest.trees
    pairs = [(task_weight / task_weight.sum(), (trees.block != TASK) & (trees.block != PARTITION))]
    for group in range(forest.mixing.shape[1]):
        mass = task_weight * forest.mixing[:-1, group]
        pairs.append((mass / max(mass.sum(), 1e-300), (trees.block == PARTITION) & (trees.group == group)))
    return pairs


def normalised(gain: np.ndarray) -> np.ndarray:
    """The same summing to 1 along the last axis, or 0."""
    total = gain.sum(axis=-1, keepdims=True)
    return np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
