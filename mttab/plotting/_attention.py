"""Which features, and which other tasks, every task reads: attention as a heat map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mttab.plotting._axes import label_ticks, make_axes, stand_tasks
from mttab.plotting._figures import innermost, task_index


class AttentionDisplay:
    """Attention of every task to every feature, the features most read first.

    Parameters
    ----------
    weights : DataFrame of shape (n_tasks, n_features)
        Share of the attention of the task, its row, that goes to the feature, its column.

    Attributes
    ----------
    weights : DataFrame
        What is drawn.
    figure_, ax_ : Figure, Axes
    image_ : AxesImage
    colorbar_ : Colorbar

    Examples
    --------
    >>> import pandas as pd
    >>> from mttab.plotting import AttentionDisplay
    >>> weights = pd.DataFrame([[0.2, 0.8], [0.3, 0.7]], index=["risk", "cost"], columns=["age", "income"])
    >>> AttentionDisplay(weights).plot().ax_.get_xlabel()
    'feature, most read first'
    """

    def __init__(self, weights: pd.DataFrame):
        order = np.argsort(-weights.to_numpy(dtype=np.float64).mean(axis=0), kind="stable")
        self.weights = weights.iloc[:, order]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        task: Any = None,
        block: int | str = "mean",
        include_tasks: bool = False,
        ax: Any = None,
    ) -> AttentionDisplay:
        """Read the attention of a fitted network on some rows.

        Parameters
        ----------
        estimator : object
            With a method ``attention``, as `mttab.MultiTabNet` has one.
        X : array-like of shape (n, n_features)
            Rows over which the attention is averaged, with row tasks by task.
        task : array-like of shape (n,), default=None
            Their tasks, for a network fitted with ``task=``.
        block : int or "mean", default="mean"
            Which block of attention, from 0 (or from the last, -1); "mean" averages over them.
        include_tasks : bool, default=False
            Whether the attention to the tokens of tasks, its own included, is drawn as well.
        ax : see `plot`

        Returns
        -------
        AttentionDisplay
        """
        model = innermost(estimator)
        if not hasattr(model, "attention"):
            raise ValueError(f"{type(model).__name__} has no attention to draw; pass a fitted MultiTabNet.")
        found = estimator.attention(X, task=task) if hasattr(estimator, "attention") else None
        if found is None:
            raise ValueError("attention reads rows as the network gets them; pass the network and transformed rows.")
        n_blocks = len(next(iter(found.values())))
        if block != "mean" and not (isinstance(block, int | np.integer) and -n_blocks <= block < n_blocks):
            raise ValueError(
                f"block={block!r} is not one of the {n_blocks} blocks; pass 0 to {n_blocks - 1} or 'mean'."
            )
        rows = [of.mean() if block == "mean" else of.iloc[block] for of in found.values()]
        tasks = task_index("unseen" if label is None else label for label in found)
        weights = pd.DataFrame(np.array(rows), index=tasks, columns=rows[0].index)
        if not include_tasks:
            weights = weights.iloc[:, : -len(model.task_types_)]  # columns of y
        return cls(weights).plot(ax=ax)

    def plot(self, ax: Any = None, *, cmap: Any = "cividis") -> AttentionDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str or Colormap, default="cividis"

        Returns
        -------
        AttentionDisplay
            The display itself.
        """
        n_tasks, n_features = self.weights.shape
        width = float(np.clip(3.0 + 0.25 * n_features, 4.5, 10.0))
        self.figure_, self.ax_ = make_axes(ax, width, float(np.clip(1.8 + 0.22 * n_tasks, 2.6, 8.0)))
        values = self.weights.to_numpy(dtype=np.float64)
        self.image_ = self.ax_.imshow(values, cmap=cmap, vmin=0.0, aspect="auto", interpolation="nearest")
        stand_tasks(self.ax_, self.weights.index)
        self.ax_.set_xlim(-0.5, n_features - 0.5)
        label_ticks(self.ax_.xaxis, self.weights.columns)
        self.ax_.set_xlabel("feature, most read first")
        self.colorbar_ = self.figure_.colorbar(self.image_, ax=self.ax_, label="share of attention")
        return self
