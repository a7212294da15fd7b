"""One figure per task, with its standard error, for tasks that are groups of rows or columns of y."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mttab._core.tasks import label_array, some_of
from mttab.metrics._metric import Metric, evaluate, resolve_metric
from mttab.metrics._standard_error import standard_error as standard_error_of
from mttab.metrics._task_rows import TaskRows, split_tasks

COLUMNS = ["metric", "n", "weight", "score", "standard_error", "greater_is_better", "reason"]


def task_scores(
    y_true: Any,
    y_pred: Any,
    *,
    metric: Any,
    task: Any = None,
    labels: Any = None,
    sample_weight: Any = None,
    standard_error: bool = True,
) -> pd.DataFrame:
    """Score of every task, with its standard error.

    Parameters
    ----------
    y_true : array-like of shape (n,) or (n, n_tasks)
        Observed targets. Two-dimensional (an array or DataFrame): one column per task. NaN, None or pd.NA = not
        observed; such entries are left out.
    y_pred : array-like, list or dict
        Predictions for the same rows.

        - For 1-D `y_true`: shape (n,), labels or numbers, or shape (n, n_classes), class probabilities with the
          columns in the order of `labels`. Numbers of shape (n,) also serve as decision values and, where they lie in
          [0, 1] and there are two classes, as probabilities of the second class.
        - For 2-D `y_true`: an array or DataFrame of shape (n, n_tasks) (a DataFrame is matched by column name), or a
          list of arrays (by position) or dict (by name) of such per-task predictions, as `predict_proba` returns them.
          Nested lists of numbers are rows, as in `y_true`.
    metric : str, callable, list of these, or dict of task to one of these
        A scikit-learn scorer name ("r2", "roc_auc", "neg_log_loss"): the score is what the scorer returns, greater is
        better. Such a name without its "neg_" ("root_mean_squared_error"): the score is the loss itself, less is
        better. A scorer from `sklearn.metrics.make_scorer`: greater is better. A function ``metric(y_true, y_pred)``:
        less is better if its name ends in _error, _loss or _deviance. With a list every task gets one row per metric;
        with a dict only the tasks named in it are scored, each by its own metric.
    task : array-like of shape (n,) or (n, k), default=None
        Task id of each row (several columns: the id is their tuple). None with a 1-D `y_true`: all rows are one task,
        called 0. To be left out with a 2-D `y_true`.
    labels : array-like of shape (n_classes,), or list or dict of these per task, default=None
        Class labels in the order of the probability columns. By default the sorted labels that occur in `y_true` (in
        the column, if it has several), over all tasks.
    sample_weight : array-like of shape (n,), default=None
        Non-negative weights. A row of weight 0 counts as absent.
    standard_error : bool, default=True
        Whether to compute standard errors; without them it is many times faster for metrics that need the jackknife.

    Returns
    -------
    DataFrame
        One row per task and metric, index "task" (sorted, or in the order of the columns of `y_true`), columns

        - metric : str,
        - n : int, rows observed, and weight : float, the sum of their weights (n without `sample_weight`),
        - score : float, NaN where the metric is undefined,
        - standard_error : float, in the unit of the score,
        - greater_is_better : bool,
        - reason : str, why the score is undefined or doubtful, otherwise "".

    Raises
    ------
    ValueError
        If shapes do not match, or if no task could be scored because the metric raises on each of them.

    Notes
    -----
    The standard error says how the score would vary with other test rows of the same task; it does not know about
    other training sets or seeds. Rows count as independent. For the mean squared, root mean squared and mean absolute
    error, R², accuracy, log loss and the binary unweighted ROC AUC it comes from the closed-form influence of each row
    (infinitesimal jackknife: s/√n for a mean loss, DeLong's variance [1]_ for the AUC). For every other metric it
    comes from the delete-a-group jackknife with min(n, 50) random groups, fixed seed [2]_: unreliable for the median
    and the maximum, which are not smooth. It is NaN with fewer than two rows, or where a metric is undefined once some
    rows are left out.

    References
    ----------
    .. [1] E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
       operating characteristic curves", Biometrics 44 (1988).
    .. [2] J. Shao, D. Tu, "The Jackknife and Bootstrap", Springer (1995).

    Examples
    --------
    >>> from mttab.metrics import task_scores
    >>> y = [1.0, 2.0, 3.0, 10.0, 20.0]
    >>> prediction = [1.5, 2.0, 2.5, 13.0, 16.0]
    >>> scores = task_scores(y, prediction, task=["a", "a", "a", "b", "b"], metric="mean_absolute_error")
    >>> scores[["n", "score", "standard_error"]].round(3)
          n  score  standard_error
    task
    a     3  0.333           0.167
    b     2  3.500           0.500
    """
    tasks = list(split_tasks(y_true, y_pred, task=task, labels=labels, sample_weight=sample_weight))
    if isinstance(metric, Mapping):
        by_task = {label: resolve_metric(m) for label, m in metric.items()}
        known = [t.label for t in tasks]
        unknown = [label for label in by_task if label not in known]
        if unknown:
            raise ValueError(f"metric names tasks that do not occur: {some_of(unknown)}. Tasks: {some_of(known)}.")
        pairs = [[(t, by_task[t.label]) for t in tasks if t.label in by_task]]
    else:
        metrics = [resolve_metric(m) for m in (metric if isinstance(metric, (list, tuple)) else [metric])]
        pairs = [[(t, m) for t in tasks] for m in metrics]
    if not metric:
        raise ValueError(f"metric={metric!r} names no metric; pass at least one.")
    return pd.concat([score_tasks(p, with_standard_error=standard_error) for p in pairs])


def score_tasks(pairs: Sequence[tuple[TaskRows, Metric]], *, with_standard_error: bool) -> pd.DataFrame:
    """The table of `task_scores` for tasks already apart, each with its metric."""
    records, failures = [], []
    for t, metric in pairs:
        figure, error, reason = math.nan, math.nan, t.problem or "no observed rows"
        if t.problem:
            failures.append(ValueError(t.problem))
        elif len(t.rows):
            try:
                figure, reason = evaluate(metric, t.recital, t.y, t.rows, t.weight)
            except ValueError as err:
                failures.append(err)
                reason = str(err).strip().split("\n")[0]
        if with_standard_error and not math.isnan(figure):
            error = standard_error_of(metric, t.recital, t.y, t.rows, t.weight)
        weight = float(len(t.rows) if t.weight is None else t.weight.sum())
        records.append((metric.name, len(t.rows), weight, figure, error, metric.greater_is_better, reason))
    # An error on one task is a property of the task; an error wherever there was something to score is a mistaken call.
    if failures and all(math.isnan(record[3]) for record in records):
        raise failures[0]
    index = pd.Index(label_array([t.label for t, _ in pairs]), name="task", tupleize_cols=False)
    return pd.DataFrame(records, columns=COLUMNS, index=index)


def average_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Macro, weighted and worst-task averages of a table of task scores.

    Tasks without a score are left out of all of them and counted in n_undefined.

    Parameters
    ----------
    scores : DataFrame
        What `task_scores` returns.

    Returns
    -------
    DataFrame
        One row per metric, index "metric", columns

        - macro : float, the plain mean over tasks, and macro_standard_error : float, of that mean given these tasks
          (the tasks' errors are taken as independent),
        - weighted : float, the mean over tasks weighted by their number of rows (or sum of weights),
        - worst : float, the score of the worst task, and worst_task, its label (None if no task has a score),
        - n_tasks : int, tasks with a score, and n_undefined : int, tasks without.

    Examples
    --------
    >>> from mttab.metrics import average_scores, task_scores
    >>> scores = task_scores([1, 2, 3, 10], [1, 2, 5, 13], task=list("aaab"), metric="mean_absolute_error")
    >>> average_scores(scores)[["macro", "weighted", "worst", "worst_task", "n_tasks"]].round(2)
            macro  weighted  worst worst_task  n_tasks
    metric
    mean_absolute_error   1.83      1.25    3.0          b        2
    """
    absent = [c for c in COLUMNS if c not in getattr(scores, "columns", ())]
    if absent:
        raise ValueError(f"scores lacks the columns {absent}; pass the table that task_scores returns.")
    rows = {}
    for name, group in scores.groupby("metric", sort=False):
        figure = group["score"].to_numpy(dtype=np.float64)
        defined = ~np.isnan(figure)
        greater_is_better = bool(group["greater_is_better"].iloc[0])
        worst, label = math.nan, None
        if defined.any():
            at = int(np.nanargmin(figure) if greater_is_better else np.nanargmax(figure))
            worst, label = figure[at], group.index[at]
        error = group["standard_error"].to_numpy(dtype=np.float64)[defined]
        rows[name] = {
            "macro": average(figure, group["weight"], "macro", greater_is_better),
            "macro_standard_error": float(np.sqrt(np.sum(error**2)) / defined.sum()) if defined.any() else math.nan,
            "weighted": average(figure, group["weight"], "weighted", greater_is_better),
            "worst": worst,
            "worst_task": label,
            "n_tasks": int(defined.sum()),
            "n_undefined": int((~defined).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def average(figures: Any, weights: Any, kind: str, greater_is_better: bool) -> float:
    """One of the averages "macro", "weighted", "worst" over the figures that are not NaN; NaN if all are."""
    figures, weights = np.asarray(figures, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    defined = ~np.isnan(figures)
    if not defined.any():
        return math.nan
    figures, weights = figures[defined], weights[defined]
    if kind == "macro":
        return float(figures.mean())
    if kind == "weighted":
        return float(np.average(figures, weights=weights))
    return float(figures.min() if greater_is_better else figures.max())
