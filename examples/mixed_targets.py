"""Labels of mixed kinds, some of them missing
===========================================

Every row has three labels, a number, a yes or no and one of three classes, and a third of the labels were never
observed. One network learns them together.
"""

import os

import matplotlib.pyplot as plt

from mttab import MultiTabNet
from mttab.datasets import make_multitask
from mttab.metrics import task_scores
from mttab.plotting import CorrelationDisplay, TrainingCurveDisplay

QUICK = bool(os.environ.get("MTTAB_QUICK"))

# %%
# The scores behind the labels are made with correlations that we ask for, exactly. What came out:

correlation = [[1.0, 0.4, 0.6], [0.4, 1.0, 0.2], [0.6, 0.2, 1.0]]
tasks = make_multitask(
    700 if QUICK else 3000,
    n_features=8,
    task_types=["regression", "binary", "multiclass"],
    correlation=correlation,
    correlation_of="targets",
    degree=[1, 2, 1],
    noise=0.3,
    noise_unit="label_sd",
    missing_fraction=1 / 3,
    return_bunch=True,
    random_state=0,
)
X_test, Y_test = tasks.sample(1000, random_state=1)
CorrelationDisplay.from_bunch(tasks)

# %%
# NaN in ``y`` is a label that was not observed; the row still counts for the other tasks. A row without any label would
# be left out, with a warning.

Y = tasks.target.dropna(how="all")
X = tasks.data.loc[Y.index]
print(Y.isna().mean().round(2).to_string())

net = MultiTabNet(n_members=1 if QUICK else 4, max_epochs=15 if QUICK else "auto", random_state=0).fit(X, Y)
print(net.task_types_)
TrainingCurveDisplay.from_estimator(net)

# %%
# Each task is scored by a metric of its own. `mttab.metrics.task_scores` takes what ``predict`` and ``predict_proba``
# return.

predictions = {**net.predict(X_test)[["y0"]].to_dict("series"), **net.predict_proba(X_test)}
metrics = {"y0": "r2", "y1": "roc_auc", "y2": "accuracy"}
scores = task_scores(Y_test, predictions, metric=metrics, labels=net.classes_)
print(scores[["metric", "n", "score", "standard_error"]].round(3))
plt.show()
