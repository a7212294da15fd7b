"""Axes for any number of tasks: sizes, panels side by side, and as many tick labels as fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GREY, PALE_GREY, PALE_VERMILLION = "#6C757D", "#C9CED3", "#F2BE9B"
SERIES = ((BLUE, "o", "-"), (VERMILLION, "^", "--"), (GREEN, "s", ":"), (ORANGE, "D", "-."), (PURPLE, "v", "-"))

LABEL_POINTS = 8.0  # height of a task's label
LINE_POINTS = 1.25 * LABEL_POINTS  # ... and of the line it takes
CHARACTER_POINTS = 0.66 * LABEL_POINTS  # width of a broad character
MAX_CHARACTERS = 20


def import_pyplot() -> Any:
    """matplotlib.pyplot, or an error that names the extra."""
    try:
        from matplotlib import pyplot
    except ImportError as err:
        raise ImportError("Drawing needs matplotlib, which is not installed; pip install 'mttab[plot]'.") from err
    return pyplot


def make_axes(ax: Any, width: float, height: float) -> tuple[Any, Any]:
    """Figure and axes to draw in: those of `ax`, or a new figure of this size in inches."""
    if ax is not None:
        return ax.figure, ax
    return import_pyplot().subplots(figsize=(width, height), layout="constrained")


def height_of_tasks(n_tasks: int, *, least: float = 2.4, most: float = 9.0) -> float:
    """Inches for a line per task, within bounds."""
    return min(max(1.0 + 0.2 * n_tasks, least), most)


def split_panels(ax: Any, widths: Sequence[float], *, gap: float = 0.05, share_y: bool = True) -> list[Any]:
    """Panels side by side in place of `ax`, usually with a common y axis; `ax` itself where one is enough."""
    if len(widths) == 1:
        return [ax]
    ax.set_axis_off()
    room = 1.0 - gap * (len(widths) - 1)
    shares = np.array(widths) / sum(widths) * room
    starts = np.concatenate([[0.0], np.cumsum(shares + gap)[:-1]])
    panels: list[Any] = []
    for start, share in zip(starts, shares, strict=True):
        panel = ax.inset_axes([start, 0.0, share, 1.0], sharey=panels[0] if panels and share_y else None)
        if panels and share_y:
            panel.tick_params(axis="y", labelleft=False, length=0)
        panels.append(panel)
    return panels


def thickness(n_tasks: int) -> float:
    """Height of the bar of a task: thin where there are few, without stripes of background where there are many."""
    return 0.5 if n_tasks <= 6 else 0.8 if n_tasks <= 60 else 1.0


def short(label: Any) -> str:
    """A task's label as text that leaves room for the picture; its end stays, by which labels often differ."""
    text = " / ".join(map(str, label)) if isinstance(label, tuple) else str(label)
    if len(text) <= MAX_CHARACTERS:
        return text
    n_last = MAX_CHARACTERS // 2 - 2
    return text[: MAX_CHARACTERS - 1 - n_last] + "…" + text[-n_last:]


def label_ticks(axis: Any, labels: Sequence[Any]) -> None:
    """Tick labels at 0, 1, …: every one, or every k-th so that none overlap, whatever size the axes come to have."""
    from matplotlib.ticker import FuncFormatter, Locator

    texts = [short(label) for label in labels]
    is_x = axis.axis_name == "x"
    widest = CHARACTER_POINTS * (max(map(len, texts), default=0) + 1)

    def length() -> float:
        box = axis.axes.bbox
        return (box.width if is_x else box.height) * 72.0 / axis.axes.figure.dpi

    # On an x axis labels lie down only where they surely fit, constrained layout taking some of the room.
    is_flat = is_x and len(texts) * widest < 0.75 * length()
    room = widest if is_flat else LINE_POINTS

    class FittingLocator(Locator):
        def __call__(self) -> Any:
            return self.tick_values(*axis.get_view_interval())

        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = sorted((vmin, vmax))
            n_fit = max(1, math.floor(length() / room))
            step = max(1, math.ceil(min(high - low, len(texts)) / n_fit))
            ticks = np.arange(0, len(texts), step)
            return ticks[(ticks >= low) & (ticks <= high)]

    axis.set_major_locator(FittingLocator())
    axis.set_major_formatter(FuncFormatter(lambda place, _: texts[round(place)] if 0 <= place < len(texts) else ""))
    rotation = {"rotation": 0 if is_flat else 90} if is_x else {}
    axis.set_tick_params(labelsize=LABEL_POINTS, length=0, **rotation)


def stand_tasks(ax: Any, labels: Sequence[Any], name: str = "task") -> None:
    """Tasks from the top of the y axis down."""
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_ylabel(name)
    label_ticks(ax.yaxis, labels)


def open_frame(*axes: Any) -> None:
    """Leave out the lines above and on the right."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)


def use_counts(axis: Any) -> None:
    """Whole numbers on an axis, few enough for a narrow panel."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(3, integer=True))


def words(name: str) -> str:
    """A metric's name as text: "root_mean_squared_error" → "root mean squared error"."""
    return name.removeprefix("neg_").replace("_", " ")
