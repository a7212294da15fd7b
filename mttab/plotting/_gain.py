"""Error of every task against a baseline: who gains by sharing, and who is harmed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mttab.metrics import harmed_tasks, multitask_gain, task_scores
from mttab.plotting._axes import (
    BLUE,
    GREY,
    PALE_VERMILLION,
    VERMILLION,
    height_of_tasks,
    make_axes,
    open_frame,
    stand_tasks,
    thickness,
    words,
)
from mttab.plotting._figures import score_estimator, task_column_of, task_index

GAINS, WORSE, HARMED = "better", "worse, may be chance", "harmed"


class TaskGainDisplay:
    """Figure of every task against that of a baseline: who gains, and who is harmed.

    Parameters
    ----------
    table : DataFrame
        Indexed by task, a row per task, columns score, baseline, gain (in %, positive = better than the baseline) and
        harmed (bool: worse by more than chance).
    mean : float
        Mean gain in %.
    metric : str
        What the figures are.
    greater_is_better : bool
        Whether more of it is better.
    is_tested : bool, default=True
        Whether there were several seeds, so that chance could be judged.

    Attributes
    ----------
    table : DataFrame
        What is drawn, the largest gain first.
    figure_, ax_ : Figure, Axes
    bars_ : dict of BarContainer
        By "better", "worse, may be chance" and "harmed", with ``kind="gain"``.
    points_ : dict of PathCollection
        The same with ``kind="score"``.

    Examples
    --------
    >>> from mttab.plotting import TaskGainDisplay
    >>> ours, alone = {"a": 0.9, "b": 2.0, "c": 0.5}, {"a": 1.0, "b": 1.6, "c": 1.0}
    >>> display = TaskGainDisplay.from_scores(ours, alone, greater_is_better=False)
    >>> display.table["gain"].round(1).to_dict()
    {'c': 50.0, 'a': 10.0, 'b': -25.0}
    """

    def __init__(
        self, table: pd.DataFrame, *, mean: float, metric: str, greater_is_better: bool, is_tested: bool = True
    ):
        self.table = table.sort_values("gain", ascending=False, kind="stable")
        self.mean = mean
        self.metric = metric
        self.greater_is_better = greater_is_better
        self.is_tested = is_tested

    @classmethod
    def from_scores(
        cls,
        scores: Any,
        baseline: Any,
        *,
        greater_is_better: bool | None = None,
        alpha: float = 0.05,
        kind: str = "gain",
        ax: Any = None,
    ) -> TaskGainDisplay:
        """Compare figures per task; with several seeds also test who is harmed.

        Parameters
        ----------
        scores, baseline : DataFrame, Series, dict, or list or dict of these per seed
            As in `mttab.metrics.multitask_gain`: tables of `mttab.metrics.task_scores`, or a number per task.
        greater_is_better : bool, default=None
            The sign of plain numbers.
        alpha : float, default=0.05
            Level of `mttab.metrics.harmed_tasks`.
        kind, ax : see `plot`

        Returns
        -------
        TaskGainDisplay
        """
        mean, gains = multitask_gain(scores, baseline, greater_is_better=greater_is_better)
        if gains["metric"].nunique() > 1 and gains.index.has_duplicates:
            raise ValueError(
                f"scores hold several metrics per task ({', '.join(gains['metric'].unique())}), and a task has one "
                "bar; pass the rows of one of them."
            )
        tested = harmed_tasks(scores, baseline, greater_is_better=greater_is_better, alpha=alpha, all_tasks=True)
        table = gains.copy()
        table["harmed"] = tested["harmed"].reindex(table.index).to_numpy(dtype=bool)
        table.index = task_index(table.index)
        one = scores if isinstance(scores, pd.DataFrame) else None
        if one is None and isinstance(scores, (list, dict)):
            one = next(iter(scores if isinstance(scores, list) else scores.values()), None)
        if greater_is_better is None and isinstance(one, pd.DataFrame):
            greater_is_better = bool(one["greater_is_better"].iloc[0])
        metric = table["metric"].iloc[0] if table["metric"].nunique() == 1 else "score"
        is_tested = bool((tested["n_seeds"] > 1).any())
        display = cls(table, mean=mean, metric=metric, greater_is_better=bool(greater_is_better), is_tested=is_tested)
        return display.plot(ax=ax, kind=kind)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        y_baseline: Any,
        *,
        metric: Any,
        task: Any = None,
        labels: Any = None,
        kind: str = "gain",
        ax: Any = None,
    ) -> TaskGainDisplay:
        """Score two sets of predictions for the same rows.

        Parameters
        ----------
        y_true, y_pred, metric, task, labels
            As in `mttab.metrics.task_scores`.
        y_baseline : array-like
            Predictions of the baseline, like `y_pred`.
        kind, ax : see `plot`

        Returns
        -------
        TaskGainDisplay
        """
        how = {"metric": metric, "task": task, "labels": labels, "standard_error": False}
        return cls.from_scores(
            task_scores(y_true, y_pred, **how), task_scores(y_true, y_baseline, **how), kind=kind, ax=ax
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        baseline: Any,
        X: Any,
        y: Any,
        *,
        task: Any = None,
        metric: Any = "auto",
        kind: str = "gain",
        ax: Any = None,
    ) -> TaskGainDisplay:
        """Score two fitted estimators on the same rows.

        Parameters
        ----------
        estimator : object
            Fitted; the tasks are read by its ``task_column``, if it has one and `task` is None.
        baseline : object
            Fitted on the same columns. One that should not see the task may be a pipeline that drops it.
        X, y : array-like
            Rows that neither was fitted on.
        task : array-like of shape (n,), default=None
            Tasks of the rows; handed on to what takes a task.
        metric : str or callable, default="auto"
            As in `mttab.metrics.task_scores`; "auto" is the root mean squared error, of classifiers the log loss.
        kind, ax : see `plot`

        Returns
        -------
        TaskGainDisplay
        """
        column = task_column_of(estimator)
        figures = score_estimator(estimator, X, y, task, metric, column)
        against = score_estimator(baseline, X, y, task, metric, column)
        return cls.from_scores(figures, against, kind=kind, ax=ax)

    def plot(self, ax: Any = None, *, kind: str = "gain") -> TaskGainDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        kind : {"gain", "score"}, default="gain"
            "gain": a bar per task, the largest gain first. "score": a point per task, its figure against that of the
            baseline.

        Returns
        -------
        TaskGainDisplay
            The display itself.
        """
        if kind not in ("gain", "score"):
            raise ValueError(f"kind={kind!r} is not one of 'gain', 'score'.")
        table = self.table[self.table["gain"].notna()]
        is_harmed = table["harmed"].to_numpy(dtype=bool)
        is_worse = (table["gain"] < 0).to_numpy() & ~is_harmed
        kinds = {
            GAINS: (~is_worse & ~is_harmed, BLUE, "o"),
            WORSE: (is_worse, PALE_VERMILLION if self.is_tested else VERMILLION, "v"),
            HARMED: (is_harmed, VERMILLION, "X"),
        }
        names = {GAINS: GAINS, WORSE: WORSE if self.is_tested else "worse", HARMED: HARMED}
        counts = {name: int(rows.sum()) for name, (rows, *_) in kinds.items()}
        self._legend_labels = {name: f"{names[name]}: {n} task{'' if n == 1 else 's'}" for name, n in counts.items()}
        if kind == "gain":
            self._plot_bars(table, kinds, ax)
        else:
            self._plot_points(table, kinds, ax)
        open_frame(self.ax_)
        return self

    def _plot_bars(self, table: pd.DataFrame, kinds: dict, ax: Any) -> None:
        height = height_of_tasks(len(table))
        self.figure_, self.ax_ = make_axes(ax, 6.4, height + 0.4)
        place, gain = np.arange(len(table)), table["gain"].to_numpy()
        self.bars_ = {}
        for name, (rows, colour, _) in kinds.items():
            if rows.any():
                label = self._legend_labels[name]
                self.bars_[name] = self.ax_.barh(
                    place[rows], gain[rows], height=thickness(len(table)), color=colour, label=label
                )
        self.ax_.axvline(0.0, color="black", linewidth=0.8)
        self.mean_line_ = self.ax_.axvline(
            self.mean, color=GREY, linewidth=1.0, linestyle="--", label=f"mean: {self.mean:+.1f} %"
        )
        stand_tasks(self.ax_, table.index, str(table.index.name or "task"))
        self.ax_.set_xlabel(f"gain over the baseline in % of its {words(self.metric)}")
        self._add_legend()

    def _plot_points(self, table: pd.DataFrame, kinds: dict, ax: Any) -> None:
        self.figure_, self.ax_ = make_axes(ax, 5.2, 5.2)
        x, y = table["baseline"].to_numpy(), table["score"].to_numpy()
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        self.ax_.axline((low, low), slope=1.0, color=GREY, linewidth=0.8, zorder=1)
        self.points_ = {}
        size = float(np.clip(3000 / len(table), 12, 40))
        for name, (rows, colour, marker) in kinds.items():
            if rows.any():
                # A white rim tells dots apart, but would eat most of a cross.
                edge = VERMILLION if colour == PALE_VERMILLION else colour if marker == "X" else "white"
                look = {"s": size, "color": colour, "marker": marker, "edgecolor": edge, "linewidth": 0.5}
                self.points_[name] = self.ax_.scatter(x[rows], y[rows], label=self._legend_labels[name], **look)
        limits = (low - margin, high + margin)
        self.ax_.set(xlim=limits, ylim=limits, aspect="equal")
        better = "above" if self.greater_is_better else "below"
        self.ax_.set_xlabel(f"{words(self.metric)} of the baseline")
        self.ax_.set_ylabel(f"{words(self.metric)}\n({better} the line: better than the baseline)")
        self._add_legend()

    def _add_legend(self) -> None:
        self.ax_.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderpad=0.2)
