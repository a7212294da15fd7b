"""Requested against achieved correlations of the tasks of `mttab.datasets.make_multitask`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mttab.plotting._axes import GREY, SERIES, make_axes, open_frame

NAMES = {
    "correlation_of_weights": "weights, exact",
    "correlation_of_targets": "noise-free scores, exact",
    "noise_free": "noise-free scores, these rows",
}


class CorrelationDisplay:
    """Correlation of every two tasks, as it came out, against what was asked for.

    Parameters
    ----------
    table : DataFrame
        A row per pair of tasks: requested, and a column per way of measuring what came out.

    Attributes
    ----------
    table : DataFrame
    figure_, ax_ : Figure, Axes
    points_ : dict of PathCollection
        By column of the table.
    line_ : AxLine
        Where both are the same.

    Examples
    --------
    >>> from mttab.datasets import make_multitask
    >>> from mttab.plotting import CorrelationDisplay
    >>> bunch = make_multitask(300, 6, 3, correlation=0.5, return_bunch=True, random_state=0)
    >>> CorrelationDisplay.from_bunch(bunch).table.iloc[:, 1].round(6).tolist()
    [0.5, 0.5, 0.5]
    """

    def __init__(self, table: pd.DataFrame):
        self.table = table

    @classmethod
    def from_bunch(cls, bunch: Any, *, ax: Any = None) -> CorrelationDisplay:
        """Compare what a generator was asked for with the tasks and the rows that it drew.

        Parameters
        ----------
        bunch : Bunch
            Of ``make_multitask(..., return_bunch=True)`` and its relatives, with at least two tasks.
        ax : see `plot`

        Returns
        -------
        CorrelationDisplay
        """
        if "correlation_requested" not in bunch:
            raise ValueError("bunch has no correlation_requested; pass that of make_multitask(..., return_bunch=True).")
        n_tasks = len(bunch.correlation_requested)
        if n_tasks < 2:
            raise ValueError(f"bunch has {n_tasks} task; a correlation takes two.")
        pairs = np.triu_indices(n_tasks, 1)
        table = {"requested": bunch.correlation_requested[pairs]}
        for key, name in NAMES.items():
            matrix = np.corrcoef(bunch[key], rowvar=False) if key == "noise_free" else bunch[key]
            table[name] = matrix[pairs]
        names = bunch.get("target_names", range(n_tasks))
        index = pd.MultiIndex.from_arrays([[names[i] for i in of] for of in pairs], names=["task", "other"])
        return cls(pd.DataFrame(table, index=index)).plot(ax=ax)

    def plot(self, ax: Any = None) -> CorrelationDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        CorrelationDisplay
            The display itself.
        """
        self.figure_, self.ax_ = make_axes(ax, 5.4, 4.8)
        if np.ptp(self.table["requested"]) > 1e-9:
            self._plot_against_requested()
        else:
            self._plot_strips()
        self.ax_.set_ylabel(f"correlation that came out, {len(self.table)} pairs of tasks")
        open_frame(self.ax_)
        return self

    def _plot_against_requested(self) -> None:
        """A point per pair, its correlation against the one requested."""
        low, high = float(self.table.min().min()), float(self.table.max().max())
        margin = 0.06 * (high - low)
        limits = (max(low - margin, -1.05), min(high + margin, 1.05))
        self.line_ = self.ax_.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=0.8, zorder=1)
        self.points_ = {}
        for name, look in self._looks().items():
            self.points_[name] = self.ax_.scatter(self.table["requested"], self.table[name], label=name, **look)
        self.ax_.set(xlim=limits, ylim=limits, aspect="equal", xlabel="requested correlation")
        self.ax_.locator_params(nbins=6)
        legend = self.ax_.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        for handle in legend.legend_handles:
            handle.set(alpha=1.0, sizes=[25.0])

    def _plot_strips(self) -> None:
        """Where all pairs were to have one correlation: a strip of points per way of measuring what came out."""
        requested = float(self.table["requested"].iloc[0])
        self.line_ = self.ax_.axhline(requested, color=GREY, linewidth=0.8, zorder=1)
        self.points_ = {}
        looks = self._looks()
        sideways = 0.6 * (np.modf(np.arange(len(self.table)) * 0.6180339887)[0] - 0.5)  # evenly, the same in every run
        for i, (name, look) in enumerate(looks.items()):
            self.points_[name] = self.ax_.scatter(i + sideways, self.table[name], label=name, **look)
        low, high = float(self.table.min().min()), float(self.table.max().max())
        margin = max(0.06 * (high - low), 0.05)
        self.ax_.set(xlim=(-0.5, len(looks) - 0.5), ylim=(low - margin, high + margin))
        self.ax_.set_xticks(range(len(looks)), [name.replace(", ", "\n") for name in looks])
        self.ax_.set_xlabel(f"the line: requested, {requested:g}")

    def _looks(self) -> dict[str, dict[str, Any]]:
        """How the points of every column look; measured in rows first, so that the exact ones lie above them."""
        n_pairs = len(self.table)
        names = [name for name in self.table if name != "requested"]
        size, opacity = float(np.clip(4000 / n_pairs, 3, 30)), float(np.clip(1500 / n_pairs, 0.08, 0.9))
        looks = {}
        for i, (name, (colour, marker, _)) in enumerate(zip(names, SERIES, strict=False)):
            looks[name] = {"s": size, "color": colour, "marker": marker, "alpha": opacity, "linewidth": 0}
            looks[name] |= {"zorder": 4 - i, "rasterized": n_pairs > 1000}
        return looks
