"""Who gains by sharing, and who is harmed?
========================================

A better mean may hide tasks that are worse off. The same tasks are drawn several times, and for each a paired test
tells whether sharing harms it by more than chance.
"""

import os

import matplotlib.pyplot as plt

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups
from mttab.metrics import average_scores, harmed_tasks, multitask_gain, task_scores
from mttab.plotting import TaskGainDisplay

QUICK = bool(os.environ.get("MTTAB_QUICK"))
SEEDS = range(4 if QUICK else 8)

# %%
# Ten tasks of one family, two of another, of unequal size. Three ways to model them: pooled, R-MTGB, and separate trees
# for each task, which is the baseline.

n_rows = [30, 60, 120, 240] * 3
ways = {"pooled": "pooled", "R-MTGB": "auto", "separate": "separate"}
scores = {way: {} for way in ways}
for seed in SEEDS:
    tasks = make_task_groups(n_rows, group_sizes=(10, 2), noise=0.1, return_bunch=True, random_state=0)
    X, y = tasks.sample(n_rows, random_state=100 + seed)  # other rows of the same tasks
    X_test, y_test = tasks.sample(200, random_state=200 + seed)
    for way, sharing in ways.items():
        rounds = {"max_iter_task": 0} if way == "pooled" else {}
        model = RMTGBRegressor(task_column="task", sharing=sharing, random_state=seed, **rounds).fit(X, y)
        scores[way][seed] = task_scores(
            y_test, model.predict(X_test), metric="root_mean_squared_error", task=X_test["task"]
        )

# %%
# The means
# ---------
# Macro: every task counts the same.

for way, by_seed in scores.items():
    (mean,) = average_scores(by_seed[0]).itertuples()
    print(f"{way:9} macro {mean.macro:.3f}   worst task {mean.worst_task}: {mean.worst:.3f}   (seed 0)")

# %%
# Pooling
# -------
# One model that does not know the task: which tasks pay for it?

TaskGainDisplay.from_scores(scores["pooled"], scores["separate"])
print(harmed_tasks(scores["pooled"], scores["separate"])[["difference", "p_adjusted", "harmed"]].round(3))

# %%
# R-MTGB
# ------

TaskGainDisplay.from_scores(scores["R-MTGB"], scores["separate"])
print(f"mean gain {multitask_gain(scores['R-MTGB'], scores['separate']).mean:.1f} %")
worse = harmed_tasks(scores["R-MTGB"], scores["separate"])
print(f"worse on average: {len(worse)} tasks, harmed: {worse['harmed'].sum()}")

# %%
# The same as a cloud of points, which shows the size of the errors.

TaskGainDisplay.from_scores(scores["R-MTGB"], scores["separate"], kind="score")
plt.show()
