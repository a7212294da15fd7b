"""Intervals that cover as often as they say
=========================================

Quantile models promise 90 % and keep less, and one correction for all tasks covers quiet tasks too often and noisy ones
too rarely. Conformal prediction with MAPIE, calibrated on rows of each task that no model has seen, keeps the promise
task by task. It takes our estimators as they are, because the task id is a column of X.

::

    pip install "mttab[examples]"
    python examples/conformal_intervals.py
    python examples/conformal_intervals.py --quick      # fewer rows
"""

import argparse
import logging

import numpy as np
import pandas as pd
from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups

NOISE = (0.1, 0.1, 0.3, 0.3, 0.9, 0.9)  # standard deviation of the noise of each task
LEVEL = 0.9


def draw(n_rows: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on, to calibrate on and to test on: tasks that share a function, some noisier than others."""
    tasks = make_task_groups(n_rows, group_sizes=(len(NOISE),), return_bunch=True, random_state=seed)
    known = tasks.sample(n_rows, random_state=seed + 1)
    rng = np.random.default_rng(seed)
    # Arrays, because that is what MAPIE makes of a table where it calibrates quantiles; the task id is the last column.
    samples = [(tasks.data, tasks.target), known, tasks.sample(1000, random_state=seed + 2)]
    parts = [(X.to_numpy(), y.to_numpy()) for X, y in samples]
    return [(X, y + rng.normal(size=len(y)) * np.take(NOISE, X[:, -1].astype(int))) for X, y in parts]


def intervals(rows: list[tuple[np.ndarray, np.ndarray]], seed: int) -> dict[str, np.ndarray]:
    """Lower and upper ends (n, 2) for the test rows, by four methods."""
    (X, y), (X_calibrate, y_calibrate), (X_test, _) = rows
    options = {"task_column": -1, "random_state": seed}
    mean = RMTGBRegressor(**options).fit(X, y)
    levels = ((1 - LEVEL) / 2, (1 + LEVEL) / 2, 0.5)  # lower, upper, median: the order that MAPIE asks for
    quantiles = [RMTGBRegressor(loss="quantile", quantile=q, **options).fit(X, y) for q in levels]
    found = {"quantile models": np.column_stack([model.predict(X_test) for model in quantiles[:2]])}
    for_all = SplitConformalRegressor(mean, confidence_level=LEVEL).conformalize(X_calibrate, y_calibrate)
    found["conformal, all tasks"] = for_all.predict_interval(X_test)[1][:, :, 0]
    of_task, of_task_quantiles = np.empty((2, len(X_test), 2))
    for task in mean.tasks_:
        known, new = X_calibrate[:, -1] == task, X_test[:, -1] == task
        split = SplitConformalRegressor(mean, confidence_level=LEVEL)
        adaptive = ConformalizedQuantileRegressor(quantiles, confidence_level=LEVEL, prefit=True)
        for conformal, out in ((split, of_task), (adaptive, of_task_quantiles)):
            conformal.conformalize(X_calibrate[known], y_calibrate[known])
            out[new] = conformal.predict_interval(X_test[new])[1][:, :, 0]
    found["conformal, per task"] = of_task
    found["conformal quantiles, per task"] = of_task_quantiles
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="150 rows per task instead of 500")
    options = parser.parse_args()
    logging.disable(logging.INFO)  # MAPIE notes every pair of quantiles that cross
    rows = draw(150 if options.quick else 500, options.seed)
    X_test, truth = rows[-1]
    covered, width = {}, {}
    for name, ends in intervals(rows, options.seed).items():
        by_task = pd.DataFrame({"in": (ends[:, 0] <= truth) & (truth <= ends[:, 1]), "width": ends[:, 1] - ends[:, 0]})
        covered[name], width[name] = by_task.groupby(X_test[:, -1].astype(int)).mean().to_numpy().T
    for what, table in ((f"rows covered, of {LEVEL:.0%} promised", covered), ("mean width", width)):
        frame = pd.DataFrame(table).T.rename(columns=lambda t: f"task {t}")
        print(f"{what}\n\n{frame.round(2).to_string()}\n")
    print("noise " + ", ".join(f"{noise} in task {t}" for t, noise in enumerate(NOISE)))


if __name__ == "__main__":
    main()
