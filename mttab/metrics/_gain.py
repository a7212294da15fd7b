"""Against single-task models: the multitask gain Δm, and the tasks that sharing harms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from mttab._core.tasks import label_array, some_of

_KEYS = ["metric", "task"]


class MultitaskGain(NamedTuple):
    """What `multitask_gain` returns.

    Attributes
    ----------
    mean : float
        Δm in %: the mean over tasks of each task's mean gain over its metrics; NaN if no gain is defined.
    per_task : DataFrame
        One row per task and metric, index "task", columns metric, score, baseline, gain (in %) and reason.
    """

    mean: float
    per_task: pd.DataFrame


def multitask_gain(scores: Any, baseline: Any, *, greater_is_better: bool | None = None) -> MultitaskGain:
    """Multitask gain Δm over single-task models, in %.

    Per task, Δ = 100 · (M − B) / abs(B), with the opposite sign for a loss; Δm is the mean over tasks [1]_.

    Parameters
    ----------
    scores : DataFrame, Series, dict, or a list or dict of these per seed
        Figures of the multi-task model: what `task_scores` returns, or one number per task (Series or dict).
        Several seeds: such tables in a list or a dict by seed, or with a column "seed", which counts first; each task's
        figure is then its mean over the seeds that have one.
    baseline : same forms
        Figures of the single-task models, for at least the tasks and metrics of `scores`.
    greater_is_better : bool, default=None
        The sign of plain numbers per task. Tables of `task_scores` carry each metric's sign themselves.

    Returns
    -------
    MultitaskGain
        The mean, and the table per task. Positive = the multi-task model is better.

    Raises
    ------
    ValueError
        If the baseline lacks a task, a table lists a task twice for one metric and seed, or a sign is missing.

    Notes
    -----
    A task with a baseline of exactly 0 has no relative gain: NaN with a reason, left out of the mean (0 if the score is
    0 too). Near 0 the ratio explodes, so prefer errors (log loss, RMSE) to scores that may be close to 0 (R²).

    DEVIATION: abs(B) where the formula of [1]_ has B. The two differ only for a negative baseline (a poor R², or a
    scikit-learn score such as neg_log_loss), where B would turn an improvement into a loss.

    References
    ----------
    .. [1] K.-K. Maninis, I. Radosavovic, I. Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019.

    Examples
    --------
    >>> from mttab.metrics import multitask_gain
    >>> gain = multitask_gain({"a": 0.9, "b": 2.0}, {"a": 1.0, "b": 1.6}, greater_is_better=False)
    >>> round(gain.mean, 2)
    -7.5
    >>> gain.per_task["gain"].round(2).to_dict()
    {'a': 10.0, 'b': -25.0}
    """
    ours, theirs = (
        tidy_scores(scores, greater_is_better, "scores"),
        tidy_scores(baseline, greater_is_better, "baseline"),
    )
    pairs = _mean_over_seeds(ours).merge(
        _mean_over_seeds(theirs), on=_KEYS, how="left", suffixes=("", "_baseline"), indicator=True
    )
    missing = pairs.loc[pairs["_merge"] == "left_only", "task"].tolist()
    if missing:
        raise ValueError(f"baseline has no figure for: {some_of(missing)}; score the same tasks with the same metric.")
    score, base = pairs["score"].to_numpy(), pairs["score_baseline"].to_numpy()
    sign = np.where(pairs["greater_is_better"].to_numpy(dtype=bool), 1.0, -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = 100.0 * sign * (score - base) / np.abs(base)
    gain[base == 0] = np.where(score == 0, 0.0, np.nan)[base == 0]
    reason = np.select(
        [np.isnan(score), np.isnan(base), np.isnan(gain)], ["no score", "no baseline", "baseline is 0"], default=""
    )
    table = pd.DataFrame(
        {"metric": pairs["metric"], "score": score, "baseline": base, "gain": gain, "reason": reason}
    ).set_index(_task_index(pairs["task"]))
    per_task = pd.Series(gain).groupby(pd.factorize(pairs["task"])[0]).mean()
    return MultitaskGain(float(per_task.mean()), table)


def harmed_tasks(
    scores: Any,
    baseline: Any,
    *,
    alpha: float = 0.05,
    correction: str | None = "holm",
    test_train_ratio: float = 0.0,
    greater_is_better: bool | None = None,
    all_tasks: bool = False,
) -> pd.DataFrame:
    """Tasks on which the multi-task model is worse than the single-task model, paired over seeds.

    For each task (and metric) a one-sided paired t test of the differences per seed, with the p-values of all tasks of
    a metric corrected together.

    Parameters
    ----------
    scores, baseline : list or dict of tables per seed, or DataFrame with a column "seed"
        As in `multitask_gain`; the seeds found in both are paired. With a single seed the table says which tasks are
        worse, and nothing can be tested.
    alpha : float, default=0.05
        Level of the corrected test, between 0 and 1.
    correction : {"holm", "fdr_bh", None}, default="holm"
        Holm's step-down bounds the chance of one false alarm among all tasks [1]_; Benjamini–Hochberg ("fdr_bh") the
        expected share of false alarms among the tasks called harmed; None tests each task by itself.
    test_train_ratio : float, default=0.0
        Test rows over training rows. Seeds that only resplit one data set are not independent; with this ratio the
        variance gets Nadeau and Bengio's factor 1/J + ratio in place of 1/J, for J seeds [2]_. 0: seeds are
        independent draws.
    greater_is_better : bool, default=None
        The sign of plain numbers per task.
    all_tasks : bool, default=False
        Whether to list also the tasks that are not worse on average.

    Returns
    -------
    DataFrame
        The tasks that are worse on average, the surest harm first. Index "task", columns

        - metric, n_seeds (pairs with both figures), score and baseline (means over these seeds),
        - difference : float, mean over seeds of score less baseline, negative = worse (sign turned for a loss),
        - p_value and p_adjusted : float, NaN with one seed, or where all seeds give one and the same difference,
        - harmed : bool, p_adjusted < alpha.

    Raises
    ------
    ValueError
        If no seed is in both, the baseline lacks a task, or an option is out of range.

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).
    .. [2] C. Nadeau, Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003).

    Examples
    --------
    >>> from mttab.metrics import harmed_tasks
    >>> multi = [{"a": 1.0, "b": 2.0}, {"a": 1.1, "b": 2.2}, {"a": 0.9, "b": 2.1}]
    >>> single = [{"a": 1.2, "b": 1.5}, {"a": 1.2, "b": 1.6}, {"a": 1.2, "b": 1.7}]
    >>> table = harmed_tasks(multi, single, greater_is_better=False)
    >>> table[["n_seeds", "difference", "p_adjusted", "harmed"]].round(3)
          n_seeds  difference  p_adjusted  harmed
    task
    b           3        -0.5       0.013    True
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r} is no level; pass a number between 0 and 1, such as 0.05.")
    if correction not in _CORRECTIONS:
        raise ValueError(f"correction={correction!r} is not one of 'holm', 'fdr_bh', None.")
    if not test_train_ratio >= 0:
        raise ValueError(f"test_train_ratio={test_train_ratio!r} is negative; pass n_test / n_train, or 0.")
    ours, theirs = (
        tidy_scores(scores, greater_is_better, "scores"),
        tidy_scores(baseline, greater_is_better, "baseline"),
    )
    if not set(ours["seed"]) & set(theirs["seed"]):
        raise ValueError("scores and baseline have no seed in common; run both on the same seeds.")
    pairs = ours.merge(theirs, on=["seed", *_KEYS], suffixes=("", "_baseline"))
    is_paired = ours[_KEYS].merge(pairs[_KEYS].drop_duplicates(), how="left", indicator=True)["_merge"] == "both"
    missing = ours["task"][~is_paired.to_numpy()]
    if len(missing):
        raise ValueError(
            f"baseline has no figure for: {some_of(missing.drop_duplicates().tolist())}; "
            "score the same tasks with the same metric on the same seeds."
        )
    sign = np.where(pairs["greater_is_better"].to_numpy(dtype=bool), 1.0, -1.0)
    pairs["difference"] = sign * (pairs["score"] - pairs["score_baseline"])
    rows = [
        (metric, task, *_paired_test(group, test_train_ratio))
        for (metric, task), group in pairs.groupby(_KEYS, sort=False)
    ]
    table = pd.DataFrame(rows, columns=[*_KEYS, "n_seeds", "score", "baseline", "difference", "p_value"])
    table["p_adjusted"] = table.groupby("metric")["p_value"].transform(
        lambda p: _CORRECTIONS[correction](p.to_numpy(dtype=np.float64))
    )
    table["harmed"] = (table["p_adjusted"] < alpha) & (table["difference"] < 0)
    table = table.sort_values(["p_adjusted", "difference"], kind="stable", ignore_index=True)
    table = table.set_index(_task_index(table["task"])).drop(columns="task")
    return table if all_tasks else table[table["difference"] < 0]


def _paired_test(group: pd.DataFrame, test_train_ratio: float) -> tuple[int, float, float, float, float]:
    """Number of seeds, means, mean difference, and p of "the difference is not below 0"."""
    group = group[group["difference"].notna()]
    if group.empty:
        return 0, math.nan, math.nan, math.nan, math.nan
    difference = group["difference"].to_numpy(dtype=np.float64)
    n, mean = len(difference), float(difference.mean())
    p_value = math.nan
    if n > 1:
        spread = float(difference.std(ddof=1))
        if spread > 1e-12 * abs(mean):
            p_value = float(student_t.cdf(mean / (spread * math.sqrt(1.0 / n + test_train_ratio)), df=n - 1))
        elif mean == 0:
            p_value = 1.0
        # else: seeds that change nothing measure no noise, and a p of 0 would claim that there is none
    return n, float(group["score"].mean()), float(group["score_baseline"].mean()), mean, p_value


def _holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values; NaN stay NaN and do not count as tests."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values for the false discovery rate."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return adjusted


_CORRECTIONS: dict = {"holm": _holm, "fdr_bh": _benjamini_hochberg, None: lambda p: p}


# ----------------------------------------------------------------------------------------------------------------------
# Every accepted form of scores to one table
# ----------------------------------------------------------------------------------------------------------------------


def tidy_scores(scores: Any, greater_is_better: bool | None, name: str) -> pd.DataFrame:
    """Columns seed, metric, task, score, greater_is_better, one row per figure."""
    if isinstance(scores, Mapping) and any(isinstance(v, (pd.DataFrame, pd.Series, Mapping)) for v in scores.values()):
        by_seed = dict(scores)
    elif isinstance(scores, (list, tuple)):
        by_seed = dict(enumerate(scores))
    else:
        by_seed = {0: scores}
    if not by_seed:
        raise ValueError(f"{name} is empty; pass at least one table of task scores.")
    parts = []
    for seed, part in by_seed.items():
        # A table that says its seeds is believed: position in a list would pair other runs.
        has_seeds = isinstance(part, pd.DataFrame) and "seed" in part.columns
        seeds = part["seed"].to_numpy() if has_seeds else seed
        parts.append(_tidy_one(part, greater_is_better, name).assign(seed=seeds))
    table = pd.concat(parts, ignore_index=True)
    repeated = table[table.duplicated(["seed", *_KEYS])]
    if len(repeated):
        raise ValueError(
            f"{name} lists task {repeated['task'].iloc[0]!r} twice for one metric and seed; "
            "for several seeds add a column 'seed', or pass a list with one table per seed."
        )
    return table


def _tidy_one(scores: Any, greater_is_better: bool | None, name: str) -> pd.DataFrame:
    if isinstance(scores, pd.DataFrame):
        absent = [c for c in ("metric", "score", "greater_is_better") if c not in scores.columns]
        if absent:
            raise ValueError(
                f"{name} lacks the columns {absent}; pass a table of task_scores, or a Series with one number per task."
            )
        tasks, table = scores.index, scores[["metric", "score", "greater_is_better"]].reset_index(drop=True)
    elif not isinstance(scores, (pd.Series, Mapping)):
        raise ValueError(
            f"{name} holds a {type(scores).__name__} where a table belongs; pass a table of task_scores, or a Series "
            "or dict with one number per task (several seeds: a list of these)."
        )
    else:
        if greater_is_better is None:
            raise ValueError(
                f"{name} holds plain numbers, whose sign is not known; pass greater_is_better=True for a score, "
                "False for a loss."
            )
        series = scores if isinstance(scores, pd.Series) else pd.Series(list(scores.values()), index=_index_of(scores))
        tasks = series.index
        table = pd.DataFrame({"metric": "score", "score": series.to_numpy(dtype=np.float64)})
        table["greater_is_better"] = bool(greater_is_better)
    table["task"] = pd.Series(label_array(list(tasks)), dtype=object)
    return table


def _index_of(figures: Mapping) -> pd.Index:
    return pd.Index(label_array(list(figures)), tupleize_cols=False)


def _task_index(tasks: pd.Series) -> pd.Index:
    return pd.Index(label_array(tasks.tolist()), name="task", tupleize_cols=False)


def _mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """One row per metric and task, in order of appearance."""
    return table.groupby(_KEYS, sort=False, as_index=False).agg({"score": "mean", "greater_is_better": "first"})
