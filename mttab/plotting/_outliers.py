"""Outlier score of every task, beside its number of rows and its error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mttab.plotting._axes import (
    BLUE,
    GREY,
    PALE_GREY,
    VERMILLION,
    height_of_tasks,
    make_axes,
    open_frame,
    split_panels,
    stand_tasks,
    thickness,
    use_counts,
    words,
)
from mttab.plotting._figures import read_attribute, score_estimator, task_column_of, task_index

OUTLIER = 0.5  # above it a task is nearer to other groups than to the largest one


class OutlierScoreDisplay:
    """Outlier score of every task, the highest first, beside its number of rows and its error.

    Parameters
    ----------
    table : DataFrame of shape (n_tasks, 1 to 4)
        Indexed by task. Column outlier_score, between 0 and 1; and, as far as known, n (rows), error and
        standard_error. Drawn in the order of the score.
    error_name : str, default="error"
        What the error is, for its axis.

    Attributes
    ----------
    table : DataFrame
        What is drawn, sorted.
    figure_, ax_ : Figure, Axes
    axes_ : dict of Axes
        Panels by column: "outlier_score", and "n", "error" where there are such columns.
    score_ : PathCollection
        The dots of the scores; ``bars_`` those of the rows (BarContainer), ``error_`` of the errors
        (ErrorbarContainer).

    Examples
    --------
    >>> from mttab import RMTGBRegressor
    >>> from mttab.datasets import make_task_groups
    >>> from mttab.plotting import OutlierScoreDisplay
    >>> tasks = make_task_groups(60, group_sizes=(4, 1), return_bunch=True, random_state=0)
    >>> model = RMTGBRegressor(task_column="task", random_state=0).fit(tasks.data, tasks.target)
    >>> display = OutlierScoreDisplay.from_estimator(model, *tasks.sample(50, random_state=1))
    >>> display.table.columns.tolist()
    ['outlier_score', 'n', 'error', 'standard_error']
    """

    def __init__(self, table: pd.DataFrame, *, error_name: str = "error"):
        if "outlier_score" not in table:
            raise ValueError(f"table has the columns {list(table.columns)}, but not 'outlier_score'; add it.")
        self.table = table.sort_values("outlier_score", ascending=False, kind="stable")
        self.error_name = error_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        task: Any = None,
        metric: Any = "auto",
        max_tasks: int | None = None,
        ax: Any = None,
    ) -> OutlierScoreDisplay:
        """Read the scores of a fitted estimator; with rows, count and score them as well.

        Parameters
        ----------
        estimator : object
            With ``outlier_score_`` and ``tasks_``, or a pipeline that ends with one.
        X, y : array-like, default=None
            Rows to count and to score per task. Without them only the outlier scores are drawn.
        task : array-like of shape (n,), default=None
            Their tasks, for a model fitted with ``task=``.
        metric : str or callable, default="auto"
            As in `mttab.metrics.task_scores`; "auto" is the root mean squared error, of classifiers the log loss.
        max_tasks, ax : see `plot`

        Returns
        -------
        OutlierScoreDisplay
        """
        scores = read_attribute(estimator, "outlier_score_", cls.__name__)
        table = pd.DataFrame({"outlier_score": np.asarray(scores)})
        table.index = task_index(read_attribute(estimator, "tasks_", cls.__name__))
        name = "error"
        if (X is None) != (y is None):
            raise ValueError("Errors need both X and y; pass both, or neither to draw the outlier scores alone.")
        if X is not None:
            figures = score_estimator(estimator, X, y, task, metric, task_column_of(estimator))
            name = words(figures["metric"].iloc[0])
            figures = figures[["n", "score", "standard_error"]].reindex(table.index)
            table["n"] = figures["n"].fillna(0).astype(int)
            table["error"], table["standard_error"] = figures["score"], figures["standard_error"]
        return cls(table, error_name=name).plot(ax=ax, max_tasks=max_tasks)

    def plot(self, ax: Any = None, *, max_tasks: int | None = None) -> OutlierScoreDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; its area is divided among the panels. None makes a figure.
        max_tasks : int or None, default=None
            Draw only so many tasks, those with the highest scores.

        Returns
        -------
        OutlierScoreDisplay
            The display itself.
        """
        table = self.table if max_tasks is None else self.table.head(max_tasks)
        names = [name for name in ("outlier_score", "n", "error") if name in table]
        widths = {"outlier_score": 4.0, "n": 1.6, "error": 3.0}
        width = 4.6 + 0.8 * sum(widths[name] for name in names[1:])
        self.figure_, self.ax_ = make_axes(ax, width, height_of_tasks(len(table)))
        panels = split_panels(self.ax_, [widths[name] for name in names])
        self.axes_ = dict(zip(names, panels, strict=True))
        place, size = np.arange(len(table)), float(np.clip(1500 / len(table), 6, 34))
        stand_tasks(panels[0], table.index, str(table.index.name or "task"))
        open_frame(*panels)

        first, score = panels[0], table["outlier_score"].to_numpy()
        colour = np.where(score > OUTLIER, VERMILLION, BLUE)
        first.hlines(place, 0.0, score, color=colour, linewidth=np.clip(300 / len(table), 0.8, 2.0))
        self.score_ = first.scatter(score, place, s=size, color=colour, zorder=3, clip_on=False)
        first.axvline(OUTLIER, color=GREY, linewidth=0.8, linestyle=":")
        first.set(xlim=(0.0, 1.0), xlabel="outlier score")
        if len(table) < len(self.table):
            first.set_xlabel(f"outlier score, the highest {len(table)} of {len(self.table)}")
        if "n" in table:
            self.bars_ = self.axes_["n"].barh(place, table["n"], height=thickness(len(table)), color=PALE_GREY)
            self.axes_["n"].set_xlabel("rows")
            use_counts(self.axes_["n"].xaxis)
        if "error" in table:
            spread = table["standard_error"].fillna(0.0) if "standard_error" in table else None
            style = {"markersize": size**0.5, "elinewidth": 0.7 if len(table) > 60 else 1.2, "color": GREY}
            self.error_ = self.axes_["error"].errorbar(table["error"], place, xerr=spread, fmt="o", **style)
            note = "" if spread is None else "\n± standard error over rows"
            self.axes_["error"].set_xlabel(self.error_name + note)
            if not (table["error"] < 0).any():
                self.axes_["error"].set_xlim(left=0.0)
        return self
