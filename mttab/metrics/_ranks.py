"""Average ranks of approaches over data sets or tasks, and what difference of ranks means something."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2, rankdata, studentized_range

from mttab._core.tasks import some_of
from mttab.metrics._gain import tidy_scores


class RankTable(NamedTuple):
    """What `rank_table` returns.

    Attributes
    ----------
    ranks : DataFrame
        One row per approach, best first, index "approach", columns average_rank (1 = best), wins (times alone on rank
        1), n_missing (times without a figure) and tied_with_best (average rank within the critical difference of the
        best one).
    friedman_statistic : float
        Friedman's χ² with n_approaches − 1 degrees of freedom, corrected for ties.
    p_value : float
        Of "all approaches rank the same".
    critical_difference : float
        Nemenyi: two average ranks that differ by less do not differ at level alpha.
    n_blocks : int
        Data sets or tasks that were ranked.
    """

    ranks: pd.DataFrame
    friedman_statistic: float
    p_value: float
    critical_difference: float
    n_blocks: int

    def __str__(self) -> str:
        return (
            f"{self.ranks.to_string(float_format='{:.2f}'.format)}\n"
            f"Friedman χ²({len(self.ranks) - 1}) = {self.friedman_statistic:.2f}, p = {self.p_value:.3g}; "
            f"critical difference {self.critical_difference:.2f} over {self.n_blocks} rows"
        )


def rank_table(
    results: Any, *, greater_is_better: bool | None = None, alpha: float = 0.05, missing: str = "worst"
) -> RankTable:
    """Average ranks of approaches, Friedman's test and Nemenyi's critical difference.

    Each data set (or task) ranks the approaches, so that none dominates through its scale [1]_.

    Parameters
    ----------
    results : DataFrame of shape (n_blocks, n_approaches), or dict of approach to task scores
        A DataFrame has one row per data set or task and one column per approach. In a dict the scores take any form
        that `multitask_gain` accepts; seeds are averaged first, and each (metric, task) is one row.
    greater_is_better : bool, default=None
        The sign of plain numbers. Tables of `task_scores` carry each metric's sign themselves.
    alpha : float, default=0.05
        Level of the critical difference, between 0 and 1.
    missing : {"worst", "drop"}, default="worst"
        An approach without a figure (NaN) ranks behind all others there, or the row is dropped: dropping rewards an
        approach that fails where it would have been bad. Rows without any figure are always dropped.

    Returns
    -------
    RankTable
        Printing it shows the table and the tests.

    Raises
    ------
    ValueError
        If there are fewer than two approaches or no row to rank, or the sign of plain numbers is not given.

    Notes
    -----
    The critical difference is q_α √(k (k + 1) / (6 N)) for k approaches and N rows, with q_α the studentised range
    divided by √2. Friedman's χ² is an approximation for large N; below about 10 rows take p as a rough guide. Rows are
    taken as independent, which tasks of one data set are only in part.

    References
    ----------
    .. [1] J. Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006).

    Examples
    --------
    >>> import pandas as pd
    >>> from mttab.metrics import rank_table
    >>> rmse = pd.DataFrame(
    ...     {"pooled": [2.0, 5.1, 9.0, 3.1], "per task": [2.2, 6.0, 8.0, 3.3], "both": [1.9, 5.0, 7.5, 3.0]},
    ...     index=["computer", "student", "school", "abalone"],
    ... )
    >>> table = rank_table(rmse, greater_is_better=False)
    >>> table.ranks[["average_rank", "wins", "tied_with_best"]]
              average_rank  wins  tied_with_best
    approach
    both              1.00     4            True
    pooled            2.25     0            True
    per task          2.75     0           False
    >>> round(table.friedman_statistic, 2), round(table.p_value, 3), round(table.critical_difference, 2)
    (6.5, 0.039, 1.66)
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r} is no level; pass a number between 0 and 1, such as 0.05.")
    if missing not in ("worst", "drop"):
        raise ValueError(f"missing={missing!r} is not one of 'worst', 'drop'.")
    merit = _merit(results, greater_is_better)
    n_missing = merit.isna().sum()
    has_figures = merit.notna().any(axis=1) if missing == "worst" else merit.notna().all(axis=1)
    merit = merit[has_figures]
    n_blocks, k = merit.shape
    if k < 2 or n_blocks == 0:
        raise ValueError(f"results has {k} approaches and {n_blocks} rows to rank; pass at least 2 approaches, 1 row.")
    rank = rankdata(-merit.fillna(-math.inf).to_numpy(dtype=np.float64), axis=1)
    mean_rank = rank.mean(axis=0)
    statistic, p_value = _friedman(rank)
    difference = float(
        studentized_range.ppf(1 - alpha, k, np.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / 6 / n_blocks)
    )
    table = pd.DataFrame(
        {
            "average_rank": mean_rank,
            "wins": (rank == 1).sum(axis=0),
            "n_missing": n_missing.to_numpy(),
            "tied_with_best": mean_rank - mean_rank.min() <= difference,
        },
        index=merit.columns.rename("approach"),
    ).sort_values("average_rank", kind="stable")
    return RankTable(table, statistic, p_value, difference, n_blocks)


def _friedman(rank: np.ndarray) -> tuple[float, float]:
    """χ² with the correction for ties, and its p; (0, 1) where every row is one tie."""
    n, k = rank.shape
    between = n * np.sum((rank.mean(axis=0) - (k + 1) / 2) ** 2)
    # The variance of a row's ranks, (k³ − k) / 12 per row without ties, shrinks with each tie.
    within = np.sum((rank - (k + 1) / 2) ** 2) / (n * (k - 1))
    if within == 0:
        return 0.0, 1.0
    statistic = float(between / within)
    return statistic, float(chi2.sf(statistic, k - 1))


def _merit(results: Any, greater_is_better: bool | None) -> pd.DataFrame:
    """Rows × approaches, greater is better."""
    if isinstance(results, pd.DataFrame):
        if greater_is_better is None:
            raise ValueError(
                "results holds plain numbers, whose sign is not known; pass greater_is_better=True for scores, "
                "False for losses."
            )
        try:
            figures = results.astype(np.float64)
        except (TypeError, ValueError):
            texts = results.select_dtypes(exclude="number").columns.tolist()
            raise ValueError(
                f"results holds columns that are no numbers, {some_of(texts)}, but each column is an approach; set the "
                "names of data sets or tasks as the index, and pass tables of task_scores in a dict by approach."
            ) from None
        return figures if greater_is_better else -figures
    if not isinstance(results, Mapping):
        raise ValueError(f"results is a {type(results).__name__}; pass a DataFrame, or a dict of approach to scores.")
    columns = {}
    for approach, scores in results.items():
        table = tidy_scores(scores, greater_is_better, f"results[{approach!r}]")
        sign = np.where(table["greater_is_better"].to_numpy(dtype=bool), 1.0, -1.0)
        merit = (sign * table["score"]).groupby([table["metric"], table["task"]], sort=False).mean()
        columns[approach] = pd.Series(merit.to_numpy(), index=pd.Index(merit.index.to_list(), tupleize_cols=False))
    return pd.DataFrame(columns)
