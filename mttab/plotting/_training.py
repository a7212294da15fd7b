"""How training went: loss after every round of each block, or after every epoch of each network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mttab.plotting._axes import BLUE, GREY, VERMILLION, make_axes, open_frame, split_panels, use_counts
from mttab.plotting._figures import innermost

BLOCK_SHADES = {"shared": "#FFFFFF", "partition": "#ECEFF1", "task": "#D5DBDF"}
LOOKS = {"training loss": (BLUE, "-"), "validation loss": (VERMILLION, "--"), "validation score": (VERMILLION, "--")}


class TrainingCurveDisplay:
    """Training and validation figures after every step of a fit.

    Parameters
    ----------
    curves : DataFrame
        Columns step (rounds or epochs done), what ("training loss", "validation loss" or "validation score"), member
        (which network, members before companions; 0 where there is one model) and value.
    step_name : str
        "rounds" or "epochs".
    blocks : dict of str to int, default=None
        Number of rounds of each block in their order, for boosting.

    Attributes
    ----------
    curves, blocks
        What is drawn.
    figure_, ax_ : Figure, Axes
    axes_ : dict of Axes
        Panel of every kind of figure: losses share one, scores have their own.
    lines_ : dict of list of Line2D
        Lines of each kind, one per network.

    Examples
    --------
    >>> from mttab import RMTGBRegressor
    >>> from mttab.datasets import make_task_groups
    >>> from mttab.plotting import TrainingCurveDisplay
    >>> X, y = make_task_groups(40, group_sizes=(3,), random_state=0)
    >>> model = RMTGBRegressor(task_column="task", sharing="blocks", max_iter_shared=9, random_state=0).fit(X, y)
    >>> TrainingCurveDisplay.from_estimator(model).blocks["shared"]
    9
    """

    def __init__(self, curves: pd.DataFrame, *, step_name: str, blocks: dict[str, int] | None = None):
        self.curves = curves
        self.step_name = step_name
        self.blocks = blocks

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> TrainingCurveDisplay:
        """Read the history of a fit.

        Parameters
        ----------
        estimator : object
            Fitted boosting model or network (``history_``), or a pipeline that ends with one.
        ax : see `plot`

        Returns
        -------
        TrainingCurveDisplay
        """
        model = innermost(estimator)
        if hasattr(model, "history_"):
            return cls(_curves_of_network(model.history_), step_name="epochs").plot(ax=ax)
        if hasattr(model, "train_score_") and hasattr(model, "n_iter_"):
            return cls(_curves_of_boosting(model), step_name="rounds", blocks=dict(model.n_iter_)).plot(ax=ax)
        raise ValueError(
            f"{cls.__name__} reads history_ or train_score_, and this {type(model).__name__} has neither; fit it first."
        )

    def plot(self, ax: Any = None) -> TrainingCurveDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; its area is divided where there are losses and scores. None makes a figure.

        Returns
        -------
        TrainingCurveDisplay
            The display itself.
        """
        kinds = list(dict.fromkeys(self.curves["what"]))
        has_scores = "validation score" in kinds
        self.figure_, self.ax_ = make_axes(ax, 8.4 if has_scores else 6.4, 3.6)
        loss_ax, *rest = split_panels(self.ax_, [1.0] * (1 + has_scores), gap=0.14, share_y=False)
        self.axes_ = {kind: rest[0] if kind == "validation score" else loss_ax for kind in kinds}
        self.lines_: dict[str, list[Any]] = {kind: [] for kind in kinds}
        n_members = self.curves["member"].nunique()
        for (kind, _), curve in self.curves.groupby(["what", "member"], sort=False):
            colour, dash = LOOKS[kind]
            look = {"color": colour, "linestyle": dash, "alpha": 1.0 if n_members == 1 else 0.7}
            label = kind if not self.lines_[kind] else None
            self.lines_[kind] += self.axes_[kind].plot(curve["step"], curve["value"], label=label, **look)
        self._shade_blocks(loss_ax)
        note = f" (a line per network, {n_members})" if n_members > 1 else ""
        for panel in dict.fromkeys(self.axes_.values()):
            of_panel = [kind for kind in kinds if self.axes_[kind] is panel]
            panel.set_xlabel(self.step_name + note)
            name = of_panel[0] if len(of_panel) == 1 else "loss"
            panel.set_ylabel(f"{name} (higher is better)" if name == "validation score" else name)
            use_counts(panel.xaxis)
            panel.xaxis.get_major_locator().set_params(nbins=6)
            open_frame(panel)
        if self.blocks or len([kind for kind in kinds if kind != "validation score"]) > 1:
            loss_ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return self

    def _shade_blocks(self, ax: Any) -> None:
        start = 0
        for name, n_rounds in (self.blocks or {}).items():
            if n_rounds:
                shade = BLOCK_SHADES.get(name, "#FFFFFF")
                label = f"{name} trees: {n_rounds} round{'s' if n_rounds > 1 else ''}"
                ax.axvspan(
                    start, start + n_rounds, facecolor=shade, edgecolor=GREY, linewidth=0.4, zorder=0, label=label
                )
            start += n_rounds
        if start:
            ax.set_xlim(0, start)


def _curve(what: str, member: int, values: Any, first: int = 0) -> pd.DataFrame:
    values = np.asarray(values, dtype=np.float64)
    return pd.DataFrame({"step": np.arange(len(values)) + first, "what": what, "member": member, "value": values})


def _curves_of_boosting(model: Any) -> pd.DataFrame:
    parts = [_curve("training loss", 0, -model.train_score_)]
    if len(getattr(model, "validation_score_", ())):
        parts.append(_curve("validation loss", 0, -model.validation_score_))
    return pd.concat(parts, ignore_index=True)


def _curves_of_network(history: pd.DataFrame) -> pd.DataFrame:
    columns = {"train_loss": "training loss", "validation_score": "validation score"}
    networks = [name for name in ("is_companion", "member") if name in history]  # members first, as in n_iter_
    parts = [
        _curve(what, number, epochs[column], first=1)
        for column, what in columns.items()
        if column in history
        for number, (_, epochs) in enumerate(history.groupby(networks))
    ]
    if not parts:
        raise ValueError("history_ holds no epochs; fit with max_epochs of at least 1.")
    return pd.concat(parts, ignore_index=True)
