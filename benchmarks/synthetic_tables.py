"""The tables of `bench_synthetic.py`, from the results of single runs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import loss_tables
from mttab.metrics import multitask_gain
from target_task_peers import BASELINE, TUNED_BASELINE

AUROC_FLOOR = 0.8  # a draw below counts as one in which the outliers were not found


def show(experiment: str, part: str, results: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Print the tables of one part of an experiment and return them by title."""
    n_draws = 1 + max(result["draw"] for result in results)
    title = f"{experiment}, {part}, number of draws: {n_draws}"
    if experiment == "sweeps":
        found = {f"{title}: {what}": table for what, table in gain_tables(part, results).items()}
        digits = "{:+.1f}".format
    else:
        found = {f"{title}: {loss}": error_table(experiment, loss, results) for loss in losses_of(results)}
        digits = "{:.4f}".format
        if experiment == "outliers" and not (score := score_table(results)).empty:
            found[f"{title}: outlier scores (1 = outlier)"] = score
    for name, table in found.items():
        print(f"\n{name}\n\n{table.to_string(float_format=digits, na_rep='–')}", flush=True)
    return found


def losses_of(results: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(loss for result in results for loss in result.get("errors") or ()))


def error_table(experiment: str, loss: str, results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per approach: mean over draws of the mean over tasks, with its standard error, and the mean rank.

    Columns all, then the kinds of tasks. A mean is over the draws that finished; "failed" says how many did not.
    """
    rows = []
    for result in results:
        row = {"view": result["draw"], "peer": result["approach"], "seconds": result["seconds"]}
        if not result["error"]:
            errors, group = np.array(result["errors"][loss]), np.array(result["task_group"])
            row |= {name: errors[members].mean() for name, members in kinds_of_tasks(experiment, group).items()}
        rows.append(row)
    runs = pd.DataFrame(rows)
    columns = [column for column in runs.columns if column not in ("view", "peer", "seconds")]
    table = runs.groupby("peer", sort=False)[columns].mean()
    if "all" in table:
        table.insert(1, "± all", runs.groupby("peer", sort=False)["all"].sem())
        table["mean rank"] = loss_tables.mean_ranks(loss_tables.mean_over_seeds(runs, "all"))
    table["seconds"] = runs.groupby("peer", sort=False)["seconds"].mean()
    table["failed"] = runs["seconds"].isna().groupby(runs["peer"], sort=False).sum()
    return table.rename_axis(index=None)


def kinds_of_tasks(experiment: str, group: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> which tasks: the groups, called inliers and outliers where there are two."""
    everything = {"all": np.ones(len(group), dtype=bool)}
    if experiment == "outliers":
        return everything | {"inliers": group == 0, "outliers": group != 0}
    return everything | {f"group of {(group == g).sum()}": group == g for g in np.unique(group)}


def score_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per approach that scores tasks: mean score of both kinds, and how well it tells them apart."""
    rows = []
    for result in results:
        if not result["error"] and result["outlier_score"] is not None:
            score, is_outlier = np.array(result["outlier_score"]), np.array(result["task_group"]) != 0
            auroc = roc_auc_score(is_outlier, score)
            rows.append((result["approach"], score[~is_outlier].mean(), score[is_outlier].mean(), auroc))
    names = ["approach", "inliers", "outliers", "AUROC"]
    runs = pd.DataFrame(rows, columns=names).groupby("approach", sort=False)
    table = runs[names[1:]].mean().rename_axis(index=None)
    table[f"draws below {AUROC_FLOOR}"] = runs["AUROC"].agg(lambda auroc: int((auroc < AUROC_FLOOR).sum()))
    return table


def gain_tables(sweep: str, results: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Δm in % of RMSE, rows approaches, columns points: against LightGBM per target, and within each family.

    A mean over several draws has a table of standard errors beside it.
    """
    names = list(dict.fromkeys(result["approach"] for result in results))
    compared = {BASELINE: dict.fromkeys(names, BASELINE)}
    if TUNED_BASELINE in names:
        compared[TUNED_BASELINE] = dict.fromkeys(names, TUNED_BASELINE)
    compared["its own single-task version"] = {n: f"{n} per target" for n in names if f"{n} per target" in names}
    found = {}
    for baseline, single_of in compared.items():
        gains = gains_of_draws(sweep, results, single_of)
        if gains.empty:
            continue
        title = f"Δm in % of RMSE by {sweep}, positive = better than {baseline}"
        found[title] = by_point(gains, lambda gain: gain.mean(skipna=False))
        if gains["draw"].nunique() > 1:
            found[f"{title}: standard error"] = by_point(gains, lambda gain: gain.sem(skipna=False))
    return found


def gains_of_draws(sweep: str, results: list[dict[str, Any]], single_of: dict[str, str]) -> pd.DataFrame:
    """One row per run: the gain over its single-task approach in the same draw, NaN where either failed."""
    errors = {
        (result["approach"], result["problem"][sweep], result["draw"]): result["errors"]["RMSE"]
        for result in results
        if not result["error"]
    }
    rows = []
    for result in results:
        approach, point, draw = result["approach"], result["problem"][sweep], result["draw"]
        single = single_of.get(approach)
        scores, baseline = errors.get((approach, point, draw)), errors.get((single, point, draw))
        if single is None or single == approach:
            continue
        is_complete = scores is not None and baseline is not None
        gain = multitask_gain(scores, baseline, greater_is_better=False).mean if is_complete else np.nan
        rows.append((approach, point, draw, gain))
    return pd.DataFrame(rows, columns=["approach", "point", "draw", "gain"])


def by_point(gains: pd.DataFrame, summary: Callable[[pd.Series], float]) -> pd.DataFrame:
    """Over the draws; no figure where any of them failed."""
    table = gains.groupby(["approach", "point"], sort=False)["gain"].agg(summary)
    return table.unstack().rename_axis(index=None, columns=None)


def list_failures(results: list[dict[str, Any]]) -> list[str]:
    """What failed, where, and why."""
    return [
        f"{result['experiment']} {result['problem']}, draw {result['draw']}, {result['approach']}: {result['error']}"
        for result in results
        if result["error"]
    ]
