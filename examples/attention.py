"""What does a task read?
======================

The token of every task looks at the tokens of the features. Where it looks can be drawn. Here we know the truth, and
can see how far to trust the picture.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance

from mttab import MultiTabNetRegressor
from mttab.plotting import AttentionDisplay

QUICK = bool(os.environ.get("MTTAB_QUICK"))

# %%
# Two tasks read the first two features, a third one others, and two features are noise.

rng = np.random.default_rng(0)
n = 800 if QUICK else 4000
names = ["age", "income", "distance", "rooms", "noise a", "noise b"]
X = pd.DataFrame(rng.normal(size=(n, 6)), columns=names)
Y = pd.DataFrame(
    {
        "spending": X["age"] + X["income"],
        "saving": X["income"] - X["age"],
        "rent": X["rooms"] - X["distance"],
    }
) + rng.normal(scale=0.2, size=(n, 3))

net = MultiTabNetRegressor(n_members=1 if QUICK else 4, max_epochs=15 if QUICK else "auto", random_state=0)
net.fit(X[: n // 2], Y[: n // 2])

# %%
# Attention, averaged over heads, blocks and rows
# -----------------------------------------------

AttentionDisplay.from_estimator(net, X[n // 2 :])

# %%
# The check
# ---------
# Attention tells where a token looks, not what it makes of it. What a feature is worth to a task is told by shuffling
# the feature: how much does R² of that task fall?


def r2_of(task):
    """Scorer of one column of y."""

    def scorer(model, X, Y):
        truth, predicted = Y[task], np.asarray(model.predict(X))[:, list(Y).index(task)]
        return 1.0 - np.mean((truth - predicted) ** 2) / np.var(truth)

    return scorer


scorers = {task: r2_of(task) for task in Y}
found = permutation_importance(net, X[n // 2 :], Y[n // 2 :], scoring=scorers, n_repeats=2, random_state=0)
worth = pd.DataFrame({task: of.importances_mean for task, of in found.items()}, index=names).T
print(worth.round(2))

# %%
# The two agree on the features that matter where they put the same names first; where they differ, trust the shuffling.

attention = AttentionDisplay.from_estimator(net, X[n // 2 :]).weights
plt.close()
for task in Y:
    first, second = (", ".join(sorted(of.loc[task].nlargest(2).index)) for of in (attention, worth))
    print(f"{task:9} most read: {first:16}  worth most: {second}")
plt.show()
