"""The tables of `bench_neural.py`: figures, gains over single-task models, wins and ranks."""

from typing import Any

import numpy as np
import pandas as pd

import loss_tables
from mttab.metrics import multitask_gain
from target_task_peers import BASELINE, PEERS

OURS = ("MultiTabNet", "R-MTGB")  # the first of these that ran is compared with each peer
LEAST_LOSS = 1e-6  # a perfect figure, so that ratios stay finite
LEAST_BASELINE = 0.05  # a gain relative to a figure nearer to 0 would say nothing


def show(scores: pd.DataFrame, results: list[dict[str, Any]], peers: list[str]) -> dict[str, pd.DataFrame]:
    """Print all tables and return them by title; `scores` has a row per view, seed, peer and target."""
    n_seeds = scores["seed"].nunique()
    figures = mean_over_seeds(scores[~scores["is_undefined"]])[peers]
    losses = (1.0 - figures).clip(lower=LEAST_LOSS)
    seconds = pd.DataFrame(results).groupby(["view", "peer"], sort=False)["seconds"].mean().unstack()[peers]
    gap = figures.sub(figures[BASELINE], axis=0).drop(columns=BASELINE)
    found = {
        f"Figure of every target, number of seeds: {n_seeds}": (figures, "{:.4f}"),
        "Mean figure per view": (mean_over_targets(figures), "{:.4f}"),
        f"Mean figure less that of {BASELINE}": (mean_over_targets(gap), "{:+.4f}"),
        f"Δm in % against {BASELINE}": (gain_table(figures, dict.fromkeys(peers, BASELINE)), "{:+.2f}"),
        "Δm in % against its own single-task version": (gain_table(figures, singles(peers)), "{:+.2f}"),
        "Loss, 1 − figure, over that of the best approach to each target, geometric mean per view": (
            ratio_to_best(losses), "{:.4f}",
        ),
        "Mean seconds per view": (seconds, "{:.1f}"),
        f"Each against {BASELINE} (loss = 1 − figure, a tie: within {loss_tables.TIE:.1%})": (
            against_baseline(losses), "{:.4f}",
        ),
        **against_peers(losses),
        f"Mean rank over {len(losses)} targets, 1 is best": (ranks(losses), "{:.2f}"),
    }  # fmt: skip
    found = {title: (table, digits) for title, (table, digits) in found.items() if not table.empty}
    for title, (table, digits) in found.items():
        print(f"\n{title}\n\n{table.to_string(float_format=digits.format, na_rep='failed')}", flush=True)
    print_notes(scores, figures)
    return {title: table.reset_index() for title, (table, _) in found.items()}


def mean_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per view and target, one column per peer; no figure if any seed has none."""
    keys = ["view", "target", "metric"]
    means = scores.groupby([*keys, "peer"], sort=False)["score"].agg(lambda score: score.mean(skipna=False)).unstack()
    return means.reindex(pd.MultiIndex.from_frame(scores[keys].drop_duplicates())).rename_axis(columns=None)


def mean_over_targets(figures: pd.DataFrame) -> pd.DataFrame:
    """Mean over the targets of each view; no figure if the peer failed on any."""
    return figures.groupby("view", sort=False).agg(lambda figure: figure.mean(skipna=False))


def ratio_to_best(losses: pd.DataFrame) -> pd.DataFrame:
    """1 = the best on every target of the view."""
    return np.exp(mean_over_targets(np.log(losses.div(losses.min(axis=1), axis=0))))


def singles(peers: list[str]) -> dict[str, str]:
    pairs = {name: PEERS[name].single for name in peers}
    return {name: single for name, single in pairs.items() if single in peers}


def gain_table(figures: pd.DataFrame, single_of: dict[str, str]) -> pd.DataFrame:
    """Rows views, columns peers; the mean over targets of the relative gain, see `mttab.metrics.multitask_gain`.

    Left out are targets where the baseline's figure is below `LEAST_BASELINE`.
    """
    rows: dict[str, dict[str, float]] = {}
    for view, table in figures.groupby("view", sort=False):
        table = table.droplevel(["view", "metric"])
        for name, single in single_of.items():
            if name == single:
                continue
            used = table[~(table[single] < LEAST_BASELINE)]
            is_complete = len(used) and used[[name, single]].notna().all(axis=None)
            gain = multitask_gain(used[name], used[single], greater_is_better=True).mean if is_complete else np.nan
            rows.setdefault(view, {})[name] = gain
    return pd.DataFrame.from_dict(rows, orient="index")


def against_baseline(losses: pd.DataFrame) -> pd.DataFrame:
    """Wins, ties and losses of each peer against one LightGBM per target."""
    others = losses.columns.drop(BASELINE)
    rows = {name: loss_tables.compare_with(losses[[name, BASELINE]], name).loc[BASELINE] for name in others}
    return by_target(pd.DataFrame.from_dict(rows, orient="index"))


def against_peers(losses: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, str]]:
    """The same of our estimator against each peer."""
    ours = next((name for name in OURS if name in losses), None)
    if ours is None or losses.shape[1] < 3:
        return {}
    return {f"{ours} against each": (by_target(loss_tables.compare_with(losses, ours)), "{:.4f}")}


def by_target(table: pd.DataFrame) -> pd.DataFrame:
    counts = {name: int for name in ("views", "wins", "ties", "losses") if name in table}
    return table.astype(counts).rename(columns={"views": "targets"})


def ranks(losses: pd.DataFrame) -> pd.DataFrame:
    return loss_tables.mean_ranks(losses).sort_values().to_frame()


def print_notes(scores: pd.DataFrame, figures: pd.DataFrame) -> None:
    """What failed or is undefined, and what the gains leave out."""
    failures = scores[scores["failure"].notna()]
    print(f"\n{len(failures)} of {len(scores)} figures failed")
    for row in failures.itertuples():
        print(f"  {row.view}, {row.target}, seed {row.seed}, {row.peer}: {row.failure}")
    for row in scores[scores["is_undefined"]].drop_duplicates(["view", "target", "seed"]).itertuples():
        print(f"left out: {row.view}, {row.target}, seed {row.seed}: the test rows have one class or value only")
    for view, target, _ in figures.index[figures[BASELINE] < LEAST_BASELINE]:
        print(f"Δm leaves out {view}, {target}: the figure of {BASELINE} is below {LEAST_BASELINE}")
