"""Which tasks are alike: models of single tasks judged on the rows of the others, and groups of tasks from that.

A small forest f_j is grown on the rows of each task j. The agreement of task i with task j is the correlation, over
rows of task i, of f_j with what a constant leaves of the labels of i:

    tasks of two groups    [1 1 0 0]        no task like another    [. 0 0 0]        all alike    [. 1 1 1]
                           [1 1 0 0]                                [0 . 0 0]                     [1 . 1 1]
                           [0 0 1 1]                                [0 0 . 0]                     [1 1 . 1]
                           [0 0 1 1]                                [0 0 0 .]                     [1 1 1 .]

Unlike an error it does not change with the unit or the level of a task's labels. The idea to cluster tasks by how well
their models serve each other is that of Emami et al. 2026 (arXiv 2602.14231), who compare errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from .derivatives import Derivatives
from .forest import TASK, Forest, ForestBuilder
from .growing import Grower
from .in_place import larger, smaller
from .jit import jit, lean, serial_and_parallel
from .losses import Loss
from .rows import Scores, TrainingRows
from .scoring import ROW_BLOCK, leaves_of_rows

# The forest of a task: few rounds with large steps.
N_ROUNDS, LEARNING_RATE = 10, 0.4
# Rows of a task on which the models of the others are judged, and of all tasks together as far as that leaves ten each.
MAX_JUDGED_ROWS, MAX_JUDGED_IN_ALL, MIN_JUDGED_ROWS = 40, 2000, 10
# More tasks than this are not compared: the matrix, and the time for it, grow with their square.
MAX_TASKS = 300
# Largest number of groups that is looked for, and least mean silhouette that makes them groups.
MAX_GROUPS, MIN_SILHOUETTE = 10, 0.3
# Tasks of different groups agree at most by this share of what tasks of one group do.
MAX_RATIO = 0.7


def task_agreement(
    rows: TrainingRows, X: Any, loss: Loss, grower: Grower, builder: ForestBuilder, base: np.ndarray
) -> np.ndarray:
    """Agreement (n_tasks, n_tasks) of the task of a row with that of a column, −1 to 1, not symmetric.

    The diagonal is on rows that the models were grown on, and so too good.

    X : ``X[:, some]`` gives raw values of training rows, float64 (n_features, n_some); base : float64 (n_outputs,)
    """
    score = _level_of_each_task(rows, loss, base)
    derivatives = Derivatives(rows, loss, grower.n_threads, renews=False)
    derivatives.update(score)
    left_over = -derivatives.gradient / np.maximum(rows.weight, 1e-300)
    for r in range(N_ROUNDS):
        if r > 0:
            derivatives.update(score)
        for k, outputs in derivatives.outputs:
            grown = grower.grow_alone(*derivatives.of(outputs), rows.weight, rows.all_rows(), 0)
            builder.append(grown.trees, TASK, np.arange(rows.n_tasks), r, k, LEARNING_RATE)
            grown.add_to(score, LEARNING_RATE, k, grower.n_threads)
    mixing = np.zeros((rows.n_tasks + 1, 2))
    forest = builder.build(base, mixing, (0, 0, N_ROUNDS), 1)
    n_each = int(np.clip(MAX_JUDGED_IN_ALL // rows.n_tasks, MIN_JUDGED_ROWS, MAX_JUDGED_ROWS))
    judged = _first_by_content(rows, n_each)
    weight = rows.weight[judged]
    start = np.searchsorted(rows.task[judged], np.arange(rows.n_tasks + 1))
    predicted = _predict_by_every_task(forest, np.ascontiguousarray(X[:, judged]), rows.n_tasks, grower.n_threads)
    out = np.zeros((rows.n_tasks, rows.n_tasks))
    correlate(predicted, left_over[:, judged], weight, start, out)
    return out


def _level_of_each_task(rows: TrainingRows, loss: Loss, base: np.ndarray) -> np.ndarray:
    """Score (n_rows, n_outputs) to start from: the best constant of each task where labels may differ in level."""
    if loss.is_location:
        return loss.base_scores(rows.y, rows.weight, rows.task_start)[rows.task]
    return Scores.zeros(base, rows.task).fixed


@jit
def correlate(predicted, truth, weight, start, out):  # type: ignore[no-untyped-def]
    """Weighted correlation out (n_tasks, n_models) of predictions with the truth on the rows of each task.

    predicted : float64 (n_models, n_rows, K); truth : float64 (K, n_rows); weight : float64 (n_rows,)
    start : int64 (n_tasks + 1,), where the rows of each task begin

    Both are centred per output, and what is left of a constant is 0: rounding leaves some noise of it.
    """
    n_models, _, n_outputs = predicted.shape
    largest = 0
    for t in range(len(start) - 1):
        largest = larger(largest, start[t + 1] - start[t])
    own, of_model, share = np.empty((n_outputs, largest)), np.empty(largest), np.empty(largest)
    for t in range(len(start) - 1):
        first, n = start[t], start[t + 1] - start[t]
        total = weight[first : first + n].sum()
        share[:n] = weight[first : first + n] / total
        length = 0.0
        for k in range(n_outputs):
            length += _centre(truth[k, first : first + n], share[:n], own[k])
        for j in range(n_models):
            product, own_length = 0.0, 0.0
            for k in range(n_outputs):
                own_length += _centre(predicted[j, first : first + n, k], share[:n], of_model)
                for i in range(n):
                    product += share[i] * of_model[i] * own[k, i]
            norm = np.sqrt(own_length * length)
            out[t, j] = product / norm if norm > 1e-300 else 0.0


@lean
def _centre(values, share, out):  # type: ignore[no-untyped-def]
    """Values less their weighted mean, and the weighted sum of their squares; 0 for a constant."""
    mean, before, after = 0.0, 0.0, 0.0
    for i in range(len(values)):
        mean += share[i] * values[i]
        before += share[i] * values[i] * values[i]
    for i in range(len(values)):
        out[i] = values[i] - mean
        after += share[i] * out[i] * out[i]
    if after > 1e-20 * before:
        return after
    for i in range(len(values)):
        out[i] = 0.0
    return 0.0


def _first_by_content(rows: TrainingRows, n_each: int) -> np.ndarray:
    """Up to ``n_each`` different rows of every task, chosen by what is in them, in task order; equal ones together."""
    order = np.lexsort((rows.content_key, rows.task))
    key, task = rows.content_key[order], rows.task[order]
    is_new = np.append(True, (key[1:] != key[:-1]) | (task[1:] != task[:-1]))
    place = np.cumsum(is_new)
    first = np.append(place, 0)[rows.task_start[:-1]]  # of each task; the last ones may have no row
    return order[place - first[task] < n_each]


def _add_every_task(X, nodes, root, output, first, masks, out):  # type: ignore[no-untyped-def]
    """out (n_tasks, n_rows, K) += the trees ``first[j]:first[j + 1]`` of every task j on all rows."""
    n_rows = X.shape[1]
    for j in prange(len(first) - 1):
        task = np.zeros(n_rows, dtype=np.int32)  # the trees of one task never ask for it
        bits, leaves = np.empty(ROW_BLOCK, dtype=np.uint64), np.empty(ROW_BLOCK, dtype=np.int32)
        for begin in range(0, n_rows, ROW_BLOCK):
            end = smaller(begin + ROW_BLOCK, n_rows)
            for tree in range(first[j], first[j + 1]):
                at = np.int64(root[tree])
                leaves_of_rows(nodes, at, tree, masks, X, task, np.int64(1), begin, end, bits, leaves)
                for i in range(begin, end):
                    out[j, i, output[tree]] += nodes.value[leaves[i - begin], 0]


_add_every_task_serial, _add_every_task_parallel = serial_and_parallel(_add_every_task)


def _predict_by_every_task(forest: Forest, X: np.ndarray, n_tasks: int, n_threads: int) -> np.ndarray:
    """Score (n_tasks, n_rows, n_outputs) of every row by the trees of every task."""
    out = np.zeros((n_tasks, X.shape[1], forest.n_outputs))
    first = np.searchsorted(forest.trees.group, np.arange(n_tasks + 1)).astype(np.int64)
    kernel = _add_every_task_parallel if n_threads > 1 else _add_every_task_serial
    masks = forest.masks(0, len(forest.trees.root))
    kernel(X, forest.nodes, forest.trees.root, forest.trees.output, first, masks, out)
    return out


def cluster_tasks(agreement: np.ndarray, n_groups: int | None = None) -> np.ndarray | None:
    """Group int (n_tasks,) of every task by average linkage, numbered from the largest; None if there are no groups.

    Parameters
    ----------
    agreement : (n_tasks, n_tasks)
    n_groups : int or None
        None takes the number with the largest mean silhouette, and finds no groups if that is below `MIN_SILHOUETTE`
        or the groups agree nearly as much with each other as within. A number is obeyed as far as there are as many
        tasks.
    """
    n_tasks = len(agreement)
    distance = np.clip(1.0 - 0.5 * (agreement + agreement.T), 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    if n_tasks < 2 or (n_groups is None and n_tasks < 3):
        return None
    tree = linkage(squareform(distance, checks=False), "average")
    if n_groups is not None:
        return _by_size(fcluster(tree, min(n_groups, n_tasks), "maxclust"))
    best, found = MIN_SILHOUETTE, None
    for k in range(2, min(MAX_GROUPS, n_tasks - 1) + 1):
        group = fcluster(tree, k, "maxclust")
        if len(np.unique(group)) != k:
            continue  # ties in the distances
        silhouette = mean_silhouette(distance, group - 1)
        if silhouette > best and _are_apart(agreement, group):
            best, found = silhouette, group
    return None if found is None else _by_size(found)


def mean_silhouette(distance: np.ndarray, group: np.ndarray) -> float:
    """Mean silhouette of two groups or more, numbered from 0, as `sklearn.metrics.silhouette_score` has it.

    Nine of them are needed per fit, and its checks take ten times as long as the sums.
    """
    everyone, n_members = np.arange(len(group)), np.bincount(group)
    from_group = np.stack([distance[:, group == k].sum(axis=1) for k in range(len(n_members))], axis=1)
    within = from_group[everyone, group] / np.maximum(n_members[group] - 1, 1)
    to_others = from_group / n_members
    to_others[everyone, group] = np.inf
    nearest = to_others.min(axis=1)
    widest = np.maximum(within, nearest)
    is_counted = (n_members[group] > 1) & (widest > 0)
    return float(np.mean(np.divide(nearest - within, widest, out=np.zeros(len(group)), where=is_counted)))


def _are_apart(agreement: np.ndarray, group: np.ndarray) -> bool:
    """Whether tasks of different groups agree much less than tasks of one group; the silhouette has no scale."""
    is_same = group[:, None] == group
    is_other_task = ~np.eye(len(group), dtype=bool)
    within, between = agreement[is_same & is_other_task], agreement[~is_same]
    return len(within) > 0 and bool(between.mean() < MAX_RATIO * within.mean())


def _by_size(group: np.ndarray) -> np.ndarray:
    """Groups renumbered from the one with the most tasks down, ties by their first task."""
    _, first, index, counts = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    place = np.empty(len(counts), dtype=np.int64)
    place[np.lexsort((first, -counts))] = np.arange(len(counts))
    return place[index]
