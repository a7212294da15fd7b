"""Groups of tasks from the errors that the models of single tasks make on the rows of the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

LINKAGES = ("average", "centroid", "complete", "median", "single", "ward", "weighted")
# Errors below this share of the median error of a task count as that: 1 / 0 is no similarity.
SMALLEST_ERROR = 1e-9
# A number of groups is out if its error exceeds the least one by more than chance would have it, in a paired t test
# over the tasks at this level. Chosen on draws 300 to 369 (classes) and 300 to 319 (regression) of the setting of
# `bench_clustering.py`.
LEVEL = 0.05


@dataclass(frozen=True)
class TaskClusters:
    """Tasks in groups, and how they came about.

    label : int (n_tasks,), groups numbered from the one with the most tasks, ties by their first task
    linkage : float (n_tasks − 1, 4), as `scipy.cluster.hierarchy` has it
    silhouette : number of groups -> mean silhouette, of those that were tried
    error : number of groups -> mean over tasks of the error, in units of that of all numbers tried; may be empty
    """

    label: np.ndarray
    linkage: np.ndarray
    silhouette: dict[int, float]
    error: dict[int, float]


def similarity_of_errors(error: np.ndarray) -> np.ndarray:
    """One over the error, (n_tasks, n_tasks); rows are tasks, columns the models of tasks."""
    typical = np.median(error, axis=1, keepdims=True)
    typical = np.where(typical > 0, typical, error.mean(axis=1, keepdims=True))
    typical = np.where(typical > 0, typical, 1.0)  # no model makes any error: all are alike
    return 1.0 / np.maximum(error, SMALLEST_ERROR * typical)


def task_distances(similarity: np.ndarray, metric: str) -> np.ndarray:
    """Distance (n_tasks, n_tasks) between the rows of a similarity matrix, by a metric of `scipy` by name."""
    # The unit of a task's labels is a factor of its row: with the rows of one length, none outweighs another.
    rows = similarity / np.linalg.norm(similarity, axis=1, keepdims=True)
    distance = np.clip(squareform(pdist(rows, metric)), 0.0, None)
    return np.nan_to_num(distance)  # a correlation of constant rows is not defined: they are alike


def cluster_by_distance(
    distance: np.ndarray,
    method: str,
    n_clusters: int | None,
    max_clusters: int,
    min_silhouette: float,
    error_of_groups: Callable[[np.ndarray], np.ndarray] | None = None,
) -> TaskClusters:
    """Hierarchical clustering, cut where the mean silhouette is largest, or into a given number of groups.

    Parameters
    ----------
    distance : ndarray of shape (n_tasks, n_tasks)
    method : str
        One of `LINKAGES`.
    n_clusters : int or None
        None tries 1 … ``max_clusters``; one group is taken if no mean silhouette reaches ``min_silhouette``. Ties in
        the distances may make fewer groups than a given number.
    max_clusters : int
    min_silhouette : float
    error_of_groups : callable or None
        Group of each task -> error (n_tasks,) of each task in its group, on rows that nothing was fitted on. Numbers of
        groups whose error is clearly above the least are out, one group included: the silhouette has no scale, and
        prefers few groups far apart to those within one of them.
    """
    n_tasks = len(distance)
    if n_tasks == 1:
        return TaskClusters(np.zeros(1, dtype=np.int64), np.empty((0, 4)), {}, {})
    tree = linkage(squareform(distance, checks=False), method)
    cuts = _cuts(tree, max_clusters)
    silhouette = _silhouettes(distance, cuts)
    if n_clusters is not None:
        return TaskClusters(number_by_size(fcluster(tree, n_clusters, "maxclust")), tree, silhouette, {})
    error: dict[int, float] = {}
    allowed = set(cuts)
    if error_of_groups is not None:
        by_task = np.stack([error_of_groups(label) for label in cuts.values()])
        typical = by_task.mean(axis=0)  # tasks may have different units
        relative = by_task / np.where(typical > 0, typical, 1.0)
        error = dict(zip(cuts, relative.mean(axis=1).tolist(), strict=True))
        allowed = {k for k, is_near in zip(cuts, _not_worse(relative), strict=True) if is_near}
    best = max(allowed & set(silhouette), key=silhouette.__getitem__, default=min(allowed))
    if 1 in allowed and silhouette.get(best, -np.inf) < min_silhouette:
        best = 1
    return TaskClusters(cuts[best], tree, silhouette, error)


def _cuts(tree: np.ndarray, max_clusters: int) -> dict[int, np.ndarray]:
    """Number of groups, from 1 on, -> group of each task; without those that ties leave out."""
    n_tasks = len(tree) + 1
    cuts = {k: number_by_size(fcluster(tree, k, "maxclust")) for k in range(1, min(max_clusters, n_tasks) + 1)}
    return {k: label for k, label in cuts.items() if label.max() + 1 == k}


def _silhouettes(distance: np.ndarray, cuts: dict[int, np.ndarray]) -> dict[int, float]:
    """Mean silhouettes; they need a group of two tasks, and another group."""
    return {
        k: float(silhouette_score(distance, label, metric="precomputed"))
        for k, label in cuts.items()
        if 1 < k < len(distance)
    }


def _not_worse(error: np.ndarray) -> np.ndarray:
    """Of which rows of (n_rows, n_tasks) the mean is not clearly above the least one."""
    excess = error - error[error.mean(axis=1).argmin()]
    n_tasks = error.shape[1]
    bound = stats.t.ppf(1 - LEVEL / 2, n_tasks - 1) * excess.std(axis=1, ddof=1) / np.sqrt(n_tasks)
    return excess.mean(axis=1) <= bound


def number_by_size(label: np.ndarray) -> np.ndarray:
    """Groups renumbered 0, 1, … from the one with the most members down, ties by their first member."""
    _, first, index, counts = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
    place = np.empty(len(counts), dtype=np.int64)
    place[np.lexsort((first, -counts))] = np.arange(len(counts))
    return place[index]
