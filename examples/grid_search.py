"""A search that counts tasks
==========================

scikit-learn's searches work as they are. Two things make them right for tasks: folds that hold rows of every task, and
a score in which every task counts the same, whatever its size.
"""

import os

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups
from mttab.metrics import make_task_scorer
from mttab.model_selection import TaskStratifiedKFold
from mttab.plotting import OutlierScoreDisplay

QUICK = bool(os.environ.get("MTTAB_QUICK"))

sizes = [20, 40, 80, 160] if QUICK else [50, 100, 200, 400]
X, y = make_task_groups(sizes * 2, group_sizes=(6, 2), noise=0.1, random_state=0)

# %%
# The task column goes through a pipeline like any other. A ColumnTransformer has to be told to keep it, its name, and
# the frame.

scale = make_column_transformer(
    (StandardScaler(), [f"x{j}" for j in range(5)]),
    remainder="passthrough",
    verbose_feature_names_out=False,
).set_output(transform="pandas")
pipeline = make_pipeline(scale, RMTGBRegressor(task_column="task", random_state=0))

# %%
# Three scores at once: every task the same, every row the same, and the worst task. The search is decided by the first.

scoring = {
    average: make_task_scorer("root_mean_squared_error", average=average, task_column="task")
    for average in ("macro", "weighted", "worst")
}
search = GridSearchCV(
    pipeline,
    {
        "rmtgbregressor__sharing": ["pooled", "category", "auto"],
        "rmtgbregressor__max_leaf_nodes": [16] if QUICK else [8, 16],
    },
    cv=TaskStratifiedKFold(2 if QUICK else 5, task_column="task", shuffle=True, random_state=0),
    scoring=scoring,
    refit="macro",
).fit(X, y)

found = pd.DataFrame(search.cv_results_)
table = pd.DataFrame({name.removeprefix("param_rmtgbregressor__"): found[name] for name in found if "param_" in name})
for average in scoring:
    table[average] = -found[f"mean_test_{average}"]
print(table.round(3).to_string(index=False))
print("best:", search.best_params_)

# %%
# Displays look through the search and the pipeline for the model.

OutlierScoreDisplay.from_estimator(search)
plt.show()
