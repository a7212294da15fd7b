"""Groups of tasks
===============

Fourteen tasks fall into three groups that have nothing to do with each other. The fit is not told the groups, not even
that there are any.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups
from mttab.plotting import OutlierScoreDisplay, TaskSimilarityDisplay

QUICK = bool(os.environ.get("MTTAB_QUICK"))

tasks = make_task_groups(100 if QUICK else 200, group_sizes=(7, 4, 3), noise=0.1, return_bunch=True, random_state=0)
model = RMTGBRegressor(task_column="task", n_task_groups="auto", random_state=0).fit(tasks.data, tasks.target)

# %%
# ``task_group_`` has the group of every task, 0 being the largest. How well that agrees with the truth, which is known
# here, is told by the adjusted Rand index: 1 is perfect, 0 chance.

print("sharing:", model.sharing_)
print("groups :", model.task_group_)
print("adjusted Rand index:", round(adjusted_rand_score(tasks.task_group, model.task_group_), 2))

# %%
# How alike are the functions that were learned?
# ----------------------------------------------
# Let the model predict the same rows as if they belonged to each of the tasks in turn. Tasks whose predictions go up
# and down together have learned the same thing. The dendrogram joins them.

rows = tasks.data.drop_duplicates(subset=["x0", "x1"]).head(500)
as_task = {task: model.predict(rows.assign(task=task)) for task in model.tasks_}
similarity = pd.DataFrame(np.corrcoef(list(as_task.values())), index=model.tasks_, columns=model.tasks_)
TaskSimilarityDisplay.from_matrix(similarity)

# %%
# Outlier scores say how far a task is from the *largest* group; with three groups look at ``task_group_`` as well.

OutlierScoreDisplay.from_estimator(model, *tasks.sample(100, random_state=1))
plt.show()
