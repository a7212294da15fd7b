"""Error of a task that is new, against the number of its rows that were there to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils import check_random_state

from mttab._core.tasks import did_you_mean, some_of
from mttab._core.validation import check_table, split_task_column
from mttab.plotting._axes import SERIES, make_axes, open_frame, words
from mttab.plotting._figures import score_estimator

N_ROWS = (2, 5, 10, 20, 50, 100, 200)


class NewTaskDisplay:
    """Error on new rows of a new task, a line per approach, with the standard error over draws.

    Parameters
    ----------
    mean, standard_error : DataFrame of shape (n_sizes, n_approaches)
        Indexed by the number of rows of the new task, a column per approach. NaN errors are not drawn.
    error_name : str, default="error"
        What the error is, for its axis.

    Attributes
    ----------
    mean, standard_error : DataFrame
        What is drawn.
    figure_, ax_ : Figure, Axes
    lines_ : dict of Line2D
        By approach.
    bands_ : dict of FillBetweenPolyCollection
        Mean ± standard error, by approach.

    Examples
    --------
    >>> import pandas as pd
    >>> from mttab.plotting import NewTaskDisplay
    >>> runs = pd.DataFrame({"n_rows": [5, 5, 50, 50], "approach": "ours", "error": [0.8, 0.6, 0.4, 0.2]})
    >>> NewTaskDisplay.from_results(runs).mean["ours"].round(1).tolist()
    [0.7, 0.3]
    """

    def __init__(self, mean: pd.DataFrame, standard_error: pd.DataFrame, *, error_name: str = "error"):
        self.mean = mean
        self.standard_error = standard_error
        self.error_name = error_name

    @classmethod
    def from_results(
        cls,
        runs: pd.DataFrame,
        *,
        n_rows: str = "n_rows",
        approach: str = "approach",
        error: str = "error",
        ax: Any = None,
    ) -> NewTaskDisplay:
        """Average over draws.

        Parameters
        ----------
        runs : DataFrame
            A row per draw, number of rows and approach.
        n_rows, approach, error : str
            Its columns; the name of `error` labels the axis.
        ax : see `plot`

        Returns
        -------
        NewTaskDisplay
        """
        absent = [column for column in (n_rows, approach, error) if column not in runs]
        if absent:
            raise ValueError(f"runs has no column {absent[0]!r}; it has {', '.join(map(str, runs.columns))}.")
        groups = runs.groupby([n_rows, approach], sort=False)[error]
        order = list(dict.fromkeys(runs[approach]))
        mean, spread = (of.unstack().sort_index()[order] for of in (groups.mean(), groups.sem()))
        return cls(mean, spread, error_name=error).plot(ax=ax)

    @classmethod
    def from_estimator(
        cls,
        estimators: Any,
        X: Any,
        y: Any,
        *,
        new_task: Any,
        task_column: Any,
        n_rows: Sequence[int] = N_ROWS,
        test_size: float = 0.5,
        n_draws: int = 3,
        metric: Any = "auto",
        random_state: Any = None,
        ax: Any = None,
    ) -> NewTaskDisplay:
        """Fit again and again, as if one of the tasks had only so many rows so far.

        Parameters
        ----------
        estimators : estimator, or dict of str to estimator
            Not fitted; cloned for every fit. They get `X` with its task column: a baseline that should not see the task
            may be a pipeline that drops it.
        X, y : array-like
            Rows of all tasks.
        new_task : object
            Id of the task to treat as new.
        task_column : str, int or list of these
            Where its id stands in `X`.
        n_rows : sequence of int
            Numbers of its rows to learn from; those beyond what is left after `test_size` are left out.
        test_size : float, default=0.5
            Share of its rows that are kept to compute the error on.
        n_draws : int, default=3
            How often its rows are drawn anew.
        metric : str or callable, default="auto"
            As in `mttab.metrics.task_scores`; "auto" is the root mean squared error, of classifiers the log loss.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws.
        ax : see `plot`

        Returns
        -------
        NewTaskDisplay
        """
        approaches = estimators if isinstance(estimators, Mapping) else {type(estimators).__name__: estimators}
        X = check_table(X)
        _, ids, _ = split_task_column(X, task_column)
        if ids is None:
            raise ValueError("task_column=None names no column; pass the one of X with the task ids.")
        of_task = np.flatnonzero(np.array([label == new_task for label in ids]))
        if len(of_task) == 0:
            known = list(dict.fromkeys(ids.tolist()))
            hint = did_you_mean(new_task, known)
            raise ValueError(f"new_task={new_task!r} has no rows in X, whose tasks are {some_of(known)}{hint}")
        n_test = int(np.ceil(test_size * len(of_task)))
        sizes = [n for n in n_rows if n <= len(of_task) - n_test]
        if not sizes or n_test < 2:
            raise ValueError(
                f"new_task={new_task!r} has {len(of_task)} rows, too few to keep a share of {test_size} for testing "
                f"and learn from {min(n_rows)}; pass another task, or smaller n_rows."
            )
        rng, y = check_random_state(random_state), np.asarray(y)
        others = np.setdiff1d(np.arange(len(y)), of_task)
        runs = []
        for draw in range(n_draws):
            shuffled = rng.permutation(of_task)
            test = shuffled[:n_test]
            for n in sizes:
                rows = np.concatenate([others, shuffled[n_test : n_test + n]])
                for name, estimator in approaches.items():
                    model = clone(estimator).fit(_take(X, rows), y[rows])
                    scores = score_estimator(model, _take(X, test), y[test], None, metric, task_column)
                    error = str(scores["metric"].iloc[0])
                    runs.append({"draw": draw, "n_rows": n, "approach": name, error: scores["score"].iloc[0]})
        return cls.from_results(pd.DataFrame(runs), error=error, ax=ax)

    def plot(self, ax: Any = None) -> NewTaskDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        NewTaskDisplay
            The display itself.
        """
        from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

        self.figure_, self.ax_ = make_axes(ax, 6.4, 4.0)
        self.lines_, self.bands_ = {}, {}
        for i, approach in enumerate(self.mean):
            colour, marker, dash = SERIES[i % len(SERIES)]
            mean, spread = self.mean[approach], self.standard_error[approach].fillna(0.0)
            look = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 5}
            (self.lines_[approach],) = self.ax_.plot(mean.index, mean, label=approach, **look)
            band = {"color": colour, "alpha": 0.15, "linewidth": 0}
            self.bands_[approach] = self.ax_.fill_between(mean.index, mean - spread, mean + spread, **band)
        sizes = self.mean.index.to_numpy(dtype=float)
        if sizes.min() > 0:
            self.ax_.set_xscale("log")
            self.ax_.xaxis.set_major_locator(FixedLocator(_spread_out(sizes)))
            self.ax_.xaxis.set_minor_locator(NullLocator())
            self.ax_.xaxis.set_major_formatter(ScalarFormatter())
        if not (self.mean < 0).any(axis=None):
            self.ax_.set_ylim(bottom=0.0)
        self.ax_.set_xlabel("rows of the new task to learn from")
        self.ax_.set_ylabel(f"{words(self.error_name)} of the new task")
        self.ax_.legend(frameon=False)
        open_frame(self.ax_)
        return self


def _spread_out(sizes: np.ndarray, least: float = 0.07) -> list[float]:
    """The sizes that can be written under a log axis: each at least this share of its length from the one before."""
    sizes = np.unique(sizes)
    span = float(np.log(sizes[-1] / sizes[0])) or 1.0
    chosen = [float(sizes[0])]
    for size in sizes[1:]:
        if np.log(size / chosen[-1]) / span >= least:
            chosen.append(float(size))
    return chosen


def _take(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]
