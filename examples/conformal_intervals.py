"""Intervals that cover as often as they say
=========================================

Quantile models promise 90 % and keep less, and one correction for all tasks covers quiet tasks too often and noisy ones
too rarely. Conformal prediction with MAPIE, calibrated on rows of each task that no model has seen, keeps the promise
task by task. It takes our estimators as they are, because the task id is a column of X.

::

    pip install "mttab[examples]"
    python examples/conformal_intervals.py
"""

import logging
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor
from matplotlib.ticker import PercentFormatter

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups

N_ROWS = 150 if os.environ.get("MTTAB_QUICK") else 500  # of each task, to train on and again to calibrate on
NOISE = (0.1, 0.1, 0.3, 0.3, 0.9, 0.9)  # standard deviation of the noise of each task
LEVEL = 0.9
logging.disable(logging.INFO)  # MAPIE notes every pair of quantiles that cross

# %%
# Rows to train on, to calibrate on and to test on: tasks that share a function, some noisier than others. MAPIE makes
# arrays of tables where it calibrates quantiles, so the rows are arrays from the start; the task id is the last column.

tasks = make_task_groups(N_ROWS, group_sizes=(len(NOISE),), return_bunch=True, random_state=0)
rng = np.random.default_rng(0)


def observed(X: pd.DataFrame, y: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Rows as arrays, with the noise of their tasks."""
    return X.to_numpy(), y.to_numpy() + rng.normal(size=len(y)) * np.take(NOISE, X["task"])


X, y = observed(tasks.data, tasks.target)
X_calibrate, y_calibrate = observed(*tasks.sample(N_ROWS, random_state=1))
X_test, y_test = observed(*tasks.sample(1000, random_state=2))

# %%
# The models: one of the mean, and quantile models for the lower end, the upper end and the median, which is the order
# that MAPIE asks for.

mean = RMTGBRegressor(task_column=-1, random_state=0).fit(X, y)
quantiles = [
    RMTGBRegressor(loss="quantile", quantile=level, task_column=-1, random_state=0).fit(X, y)
    for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2, 0.5)
]

# %%
# Four kinds of intervals. Calibrating per task is a loop over the tasks: the models stay as they are, and MAPIE sees
# the rows of one task at a time.

ends = {"quantile models": np.column_stack([model.predict(X_test) for model in quantiles[:2]])}
for_all = SplitConformalRegressor(mean, confidence_level=LEVEL).conformalize(X_calibrate, y_calibrate)
ends["conformal, all tasks"] = for_all.predict_interval(X_test)[1][:, :, 0]
ends["conformal, per task"] = np.empty((len(X_test), 2))
ends["conformal quantiles, per task"] = np.empty((len(X_test), 2))
for task in mean.tasks_:
    known, new = X_calibrate[:, -1] == task, X_test[:, -1] == task
    for name, conformal in {
        "conformal, per task": SplitConformalRegressor(mean, confidence_level=LEVEL),
        "conformal quantiles, per task": ConformalizedQuantileRegressor(quantiles, confidence_level=LEVEL, prefit=True),
    }.items():
        conformal.conformalize(X_calibrate[known], y_calibrate[known])
        ends[name][new] = conformal.predict_interval(X_test[new])[1][:, :, 0]

# %%
# What they keep
# --------------

of_task = [f"task {int(task)}" for task in X_test[:, -1]]
inside = {name: (found[:, 0] <= y_test) & (y_test <= found[:, 1]) for name, found in ends.items()}
covered = pd.DataFrame(inside).groupby(of_task).mean()
width = pd.DataFrame({name: found[:, 1] - found[:, 0] for name, found in ends.items()}).groupby(of_task).mean()
print(f"rows covered, of {LEVEL:.0%} promised\n\n{covered.T.round(2).to_string()}")
print(f"\nmean width\n\n{width.T.round(2).to_string()}")

# %%
# Calibrated for all tasks at once, the intervals are equally wide everywhere: wider than the quiet tasks need, too
# narrow for the noisy ones. Per task they are as wide as the noise of the task asks for.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
place = np.arange(len(NOISE))
looks = zip(ends, "vsoD", ("#D55E00", "#E69F00", "#0072B2", "#009E73"), (-0.24, -0.08, 0.08, 0.24), strict=True)
for name, marker, colour, shift in looks:
    for panel, table in ((left, covered), (right, width)):
        panel.plot(table[name], place + shift, marker, color=colour, label=name)
left.axvline(LEVEL, color="#6C757D", linewidth=1, linestyle="--", zorder=0)
left.set(xlabel=f"rows covered, of {LEVEL:.0%} promised", ylim=(len(NOISE) - 0.5, -0.5))
left.set_yticks(place, [f"task {t}\nnoise {noise}" for t, noise in enumerate(NOISE)])
left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
right.set(xlabel="mean width of the intervals, in the unit of y", xlim=(0, None))
for panel in (left, right):
    for line in place[1:] - 0.5:
        panel.axhline(line, color="#C9CED3", linewidth=0.5, zorder=0)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right"]].set_visible(False)
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
plt.show()
