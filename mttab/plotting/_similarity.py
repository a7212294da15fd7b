"""How similar tasks are: a heat map in the order of a dendrogram."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import is_valid_linkage
from scipy.cluster.hierarchy import linkage as cluster
from scipy.spatial.distance import squareform

from mttab.plotting._axes import GREY, label_ticks, make_axes, stand_tasks
from mttab.plotting._figures import innermost, read_attribute, task_index


class TaskSimilarityDisplay:
    """Similarity of every two tasks, as a heat map beside its dendrogram.

    Parameters
    ----------
    similarity : DataFrame of shape (n_tasks, n_tasks)
        Index and columns are the tasks; or distances, with ``is_distance=True``. NaN = not known. Need not be
        symmetric: it may hold how well the model of the task of a column serves the task of a row.
    linkage : ndarray of shape (n_tasks - 1, 4) or None, default=None
        Linkage as scipy makes it. None: average linkage on the distances, or on the largest similarity minus the
        similarity, NaN counting as the farthest, a pair being as far as the mean of its two entries.
    is_distance : bool, default=False
        Whether `similarity` holds distances.
    name : str, default="similarity"
        What is drawn, for the colour bar.

    Attributes
    ----------
    similarity : DataFrame
        What is drawn, in the order of the leaves of the dendrogram.
    linkage : ndarray of shape (n_tasks - 1, 4)
    figure_, ax_ : Figure, Axes
    axes_ : dict of Axes
        "matrix", "tree" and "colors", side by side within ``ax_``.
    image_ : AxesImage
    tree_ : LineCollection
    colorbar_ : Colorbar

    Examples
    --------
    >>> import numpy as np
    >>> from mttab.plotting import TaskSimilarityDisplay
    >>> similarity = np.array([[1.0, 0.1, 0.8], [0.1, 1.0, 0.2], [0.8, 0.2, 1.0]])
    >>> display = TaskSimilarityDisplay.from_matrix(similarity, tasks=["north", "east", "south"])
    >>> display.similarity.index.tolist()
    ['east', 'north', 'south']
    """

    def __init__(
        self,
        similarity: pd.DataFrame,
        *,
        linkage: Any = None,
        is_distance: bool = False,
        name: str | None = None,
    ):
        values = similarity.to_numpy(dtype=np.float64)
        if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
            raise ValueError(f"similarity has the shape {values.shape}; pass a square of at least two tasks.")
        if linkage is None:
            linkage = _average_linkage(values, is_distance)
        elif not is_valid_linkage(np.asarray(linkage, dtype=np.float64)) or len(linkage) != len(values) - 1:
            raise ValueError(
                f"linkage has the shape {np.shape(linkage)}; pass scipy's linkage of the {len(values)} tasks, of shape "
                f"({len(values) - 1}, 4)."
            )
        self.linkage = np.asarray(linkage, dtype=np.float64)
        order = leaves_in_order(self.linkage)
        self.similarity = similarity.iloc[order, order]
        self.is_distance = is_distance
        self.name = name or ("distance" if is_distance else "similarity")

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> TaskSimilarityDisplay:
        """Read the similarity of tasks that a fit has found.

        Parameters
        ----------
        estimator : object
            With ``task_similarity_`` (n_tasks, n_tasks) and ``tasks_``. The dendrogram is its ``linkage_``, if it has
            one.
        ax : see `plot`

        Returns
        -------
        TaskSimilarityDisplay
        """
        similarity = read_attribute(estimator, "task_similarity_", cls.__name__)
        linkage = getattr(innermost(estimator), "linkage_", None)
        if not isinstance(similarity, pd.DataFrame):
            tasks = read_attribute(estimator, "tasks_", cls.__name__)
            return cls.from_matrix(similarity, tasks=tasks, linkage=linkage, ax=ax)
        return cls(similarity, linkage=linkage).plot(ax=ax)

    @classmethod
    def from_matrix(
        cls, similarity: Any, *, tasks: Any = None, linkage: Any = None, is_distance: bool = False, ax: Any = None
    ) -> TaskSimilarityDisplay:
        """Draw a matrix.

        Parameters
        ----------
        similarity : array-like or DataFrame of shape (n_tasks, n_tasks)
        tasks : array-like of shape (n_tasks,), default=None
            Their labels; by default those of the DataFrame, or 0, 1, ….
        linkage, is_distance : see the class
        ax : see `plot`

        Returns
        -------
        TaskSimilarityDisplay
        """
        frame = pd.DataFrame(similarity).copy()
        if tasks is not None:
            if len(tasks) != len(frame):
                raise ValueError(f"tasks has {len(tasks)} labels for {len(frame)} rows of similarity; pass one each.")
            frame.index = frame.columns = task_index(tasks)
        return cls(frame, linkage=linkage, is_distance=is_distance).plot(ax=ax)

    def plot(self, ax: Any = None, *, cmap: Any = None) -> TaskSimilarityDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; its area is divided. None makes a figure, in which the matrix is about square.
        cmap : str or Colormap, default=None
            By default "cividis", and "RdBu" around 0 where there are negative similarities.

        Returns
        -------
        TaskSimilarityDisplay
            The display itself.
        """
        n_tasks = len(self.similarity)
        side = float(np.clip(2.2 + 0.12 * n_tasks, 3.0, 7.0))
        self.figure_, self.ax_ = make_axes(ax, 1.45 * side + 1.2, side + 0.6)
        self.ax_.set_axis_off()
        places = {"matrix": (0.0, 0.74), "tree": (0.76, 0.18), "colors": (0.96, 0.04)}
        self.axes_ = {name: self.ax_.inset_axes([left, 0.0, width, 1.0]) for name, (left, width) in places.items()}
        self._draw_matrix(self.axes_["matrix"], cmap)
        self._draw_tree(self.axes_["tree"])
        self.colorbar_ = self.figure_.colorbar(self.image_, cax=self.axes_["colors"], label=self.name)
        return self

    def _draw_matrix(self, ax: Any, cmap: Any) -> None:
        shown = self.similarity.to_numpy(dtype=np.float64, copy=True)
        if not self.is_distance:  # a task and itself would take up the range of colours
            np.fill_diagonal(shown, np.nan)
        known = shown[np.isfinite(shown)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        is_signed = low < 0.0 and not self.is_distance
        if low == high:  # one number, as of two tasks: its place between 0 and itself says more than one within itself
            low, high = min(low, 0.0), max(high, 0.0 if low else 1.0)
        if is_signed:
            high = max(-low, high)
            low = -high
        cmap = cmap or ("RdBu" if is_signed else "cividis_r" if self.is_distance else "cividis")
        look = {"cmap": cmap, "vmin": low, "vmax": high, "interpolation": "nearest", "aspect": "auto"}
        self.image_ = ax.imshow(shown, **look)
        ax.set_facecolor("#E5E5E5")
        stand_tasks(ax, self.similarity.index)
        ax.set_xlim(-0.5, len(shown) - 0.5)
        label_ticks(ax.xaxis, self.similarity.columns)
        if not np.allclose(shown, shown.T, equal_nan=True):
            ax.set_ylabel("task (row)")
            ax.set_xlabel("task (column)")

    def _draw_tree(self, ax: Any) -> None:
        from matplotlib.collections import LineCollection

        lines = branches(self.linkage)
        self.tree_ = ax.add_collection(LineCollection(lines, colors=GREY, linewidths=1.0))
        ax.set_axis_off()
        ax.set_xlim(0.0, 1.05 * float(self.linkage[:, 2].max()) or 1.0)
        ax.set_ylim(len(self.similarity) - 0.5, -0.5)


def branches(linkage: np.ndarray) -> list[np.ndarray]:
    """The fork of every merge, as points (distance, place), where the leaves stand at 0, 1, … in their order."""
    n_leaves = len(linkage) + 1
    place = np.empty(2 * n_leaves - 1)
    place[leaves_in_order(linkage)] = np.arange(n_leaves)
    height = np.concatenate([np.zeros(n_leaves), linkage[:, 2]])
    forks = []
    for i, (left, right) in enumerate(linkage[:, :2].astype(int)):
        top = linkage[i, 2]
        at = place[[left, left, right, right]]
        forks.append(np.column_stack([[height[left], top, top, height[right]], at]))
        place[n_leaves + i] = (place[left] + place[right]) / 2.0
    return forks


def leaves_in_order(linkage: np.ndarray) -> np.ndarray:
    """Leaves from first to last, as in scipy's dendrogram, but without recursion: chains of tasks may be long."""
    n_leaves = len(linkage) + 1
    order, waiting = [], [2 * n_leaves - 2]
    while waiting:
        node = waiting.pop()
        if node < n_leaves:
            order.append(node)
        else:
            left, right = linkage[node - n_leaves, :2].astype(int)
            waiting += [right, left]
    return np.array(order)


def _average_linkage(values: np.ndarray, is_distance: bool) -> np.ndarray:
    known = values[np.isfinite(values)]
    top = known.max() if len(known) else 1.0
    distance = values if is_distance else top - values
    farthest = np.nanmax(distance) if len(known) else 1.0
    distance = np.where(np.isfinite(distance), distance, farthest)
    np.fill_diagonal(distance, 0.0)
    return cluster(squareform((distance + distance.T) / 2.0, checks=False), method="average")
