"""Groups of tasks from the errors that the models of single tasks make on the rows of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

LINKAGES = ("average", "centroid", "complete", "median", "single", "ward", "weighted")
# Errors below this share of the median error of a task count as that: 1 / 0 is no similarity.
SMALLEST_ERROR = 1e-9


@dataclass(frozen=True)
class TaskClusters:
    """Tasks in groups, and how they came about.

    label : int (n_tasks,), groups numbered from the one with the most tasks, ties by their first task
    linkage : float (n_tasks − 1, 4), as `scipy.cluster.hierarchy` has it
    silhouette : number of groups -> mean silhouette, of those that were tried
    """

    label: np.ndarray
    linkage: np.ndarray
    silhouette: dict[int, float]


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
    distance: np.ndarray, method: str, n_clusters: int | None, max_clusters: int, min_silhouette: float
) -> TaskClusters:
    """Hierarchical clustering, cut where the mean silhouette is largest, or into a given number of groups.

    Parameters
    ----------
    distance : ndarray of shape (n_tasks, n_tasks)
    method : str
        One of `LINKAGES`.
    n_clusters : int or None
        None tries 2 … ``max_clusters`` and takes one group if no mean silhouette reaches ``min_silhouette``. Ties in
        the distances may make fewer groups than a given number.
    max_clusters : int
    min_silhouette : float
    """
    n_tasks = len(distance)
    if n_tasks == 1:
        return TaskClusters(np.zeros(1, dtype=np.int64), np.empty((0, 4)), {})
    tree = linkage(squareform(distance, checks=False), method)
    silhouette = {}
    # A silhouette needs a group of two tasks, and another group.
    for k in range(2, min(max_clusters, n_tasks - 1) + 1):
        label = fcluster(tree, k, "maxclust")
        if len(np.unique(label)) == k:
            silhouette[k] = float(silhouette_score(distance, label, metric="precomputed"))
    if n_clusters is None:
        best = max(silhouette, key=silhouette.__getitem__, default=1)
        n_clusters = best if silhouette.get(best, -np.inf) >= min_silhouette else 1
    return TaskClusters(number_by_size(fcluster(tree, n_clusters, "maxclust")), tree, silhouette)


def number_by_size(label: np.ndarray) -> np.ndarray:
    """Groups renumbered 0, 1, … from the one with the most members down, ties by their first member."""
    _, first, index, counts = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
    place = np.empty(len(counts), dtype=np.int64)
    place[np.lexsort((first, -counts))] = np.arange(len(counts))
    return place[index]
