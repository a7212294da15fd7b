"""Which tasks do not belong?
==========================

Ten schools share most of what makes their pupils' marks, two follow other rules. Nobody has told the model which. What
does it find, and what would have happened without asking?
"""

import os

import matplotlib.pyplot as plt
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups
from mttab.plotting import OutlierScoreDisplay, TaskGainDisplay, TrainingCurveDisplay

QUICK = bool(os.environ.get("MTTAB_QUICK"))

# %%
# Twelve tasks of unequal size; tasks 10 and 11 follow another function than the rest.

n_rows = [60, 80, 100, 120, 140, 160] * 2 if QUICK else [150, 200, 250, 300, 350, 400] * 2
tasks = make_task_groups(n_rows, group_sizes=(10, 2), noise=0.1, return_bunch=True, random_state=0)
X_test, y_test = tasks.sample(200, random_state=1)

model = RMTGBRegressor(task_column="task", random_state=0).fit(tasks.data, tasks.target)
print("sharing:", model.sharing_)

# %%
# Outlier scores
# --------------
# A score near 1 says that a task takes nothing from the largest group. The error beside it says whether the model
# copes: an outlier that is predicted well is simply different, one that is predicted badly is worth a look at its data.

OutlierScoreDisplay.from_estimator(model, X_test, y_test)

# %%
# How the fit went
# ----------------
# Blocks without trees do not appear: the fit has left out what did not pay.

TrainingCurveDisplay.from_estimator(model)

# %%
# What if nobody had asked?
# -------------------------
# A model that never hears of tasks, on the same rows. The two outliers gain most, and the others gain as well: they are
# rid of them.

drop_task = FunctionTransformer(lambda X: X.drop(columns="task"))
pooled = make_pipeline(drop_task, RMTGBRegressor(random_state=0)).fit(tasks.data, tasks.target)
display = TaskGainDisplay.from_estimator(model, pooled, X_test, y_test)
print(display.table["gain"].round(1).to_string())
plt.show()
