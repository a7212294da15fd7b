"""Summaries of losses per view and approach: ratios, wins / ties / losses and ranks. Shared by the benchmarks."""

import numpy as np
import pandas as pd

TIE = 0.001  # losses closer than this, relatively, count as equal


def mean_over_seeds(results: pd.DataFrame, value: str = "loss") -> pd.DataFrame:
    """Long results (view, peer, seed, `value`) -> one row per view, one column per peer; NaN if any seed failed."""
    table = results.groupby(["view", "peer"], sort=False)[value].agg(lambda values: values.mean(skipna=False)).unstack()
    return table.reindex(index=results["view"].unique(), columns=results["peer"].unique())


def compare_with(losses: pd.DataFrame, ours: str) -> pd.DataFrame:
    """One row per peer: geometric mean of ours / theirs over the views that both finished, and how many views are won.

    Where only one of the two failed, the other wins.
    """
    rows = {}
    for peer in losses.columns.drop(ours):
        a, b = losses[ours], losses[peer]
        ratio = (a / b).dropna()
        rows[peer] = {
            "geometric mean ratio": np.exp(np.log(ratio).mean()) if len(ratio) else np.nan,
            "views": len(ratio),
            "wins": int((ratio < 1 - TIE).sum() + (a.notna() & b.isna()).sum()),
            "ties": int(((ratio - 1).abs() <= TIE).sum()),
            "losses": int((ratio > 1 + TIE).sum() + (a.isna() & b.notna()).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def mean_ranks(losses: pd.DataFrame) -> pd.Series:
    """Mean rank over views, 1 is best; equal losses share a rank, a failure is last."""
    return losses.rank(axis=1, na_option="bottom").mean().rename("mean rank")
