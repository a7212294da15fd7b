"""With one task, block 1 alone and the same sizes, the model is as good as LightGBM."""

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, make_friedman1, make_friedman2, make_hastie_10_2
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split

from mttab import RMTGBClassifier, RMTGBRegressor

N_ROUNDS, LEAVES, RATE, LEAF_ROWS, BINS = 100, 31, 0.1, 20, 255
OURS = {
    "max_iter_shared": N_ROUNDS,
    "max_iter_partition": 50,  # one task has neither of these two blocks
    "max_iter_task": 50,
    "learning_rate": RATE,
    "grow_policy": "leafwise",
    "max_leaf_nodes": LEAVES,
    "min_samples_leaf": LEAF_ROWS,
    "l2_regularization": 0.0,
    "max_bins": BINS,
    "early_stopping": False,
}
THEIRS = {
    "n_estimators": N_ROUNDS,
    "learning_rate": RATE,
    "num_leaves": LEAVES,
    "min_child_samples": LEAF_ROWS,
    "max_bin": BINS,
    "n_jobs": 1,
    "verbose": -1,
}
# Loader and number of train-test splits: the less rows, the more splits.
REGRESSION = {
    "friedman1": (lambda: make_friedman1(4000, noise=1.0, random_state=0), 3),
    "friedman2": (lambda: make_friedman2(4000, noise=50.0, random_state=0), 3),
    "diabetes": (lambda: load_diabetes(return_X_y=True), 10),
}
CLASSIFICATION = {
    "hastie": (lambda: make_hastie_10_2(4000, random_state=0), 3),
    "breast cancer": (lambda: load_breast_cancer(return_X_y=True), 5),
}


def mean_errors(X, y, n_splits, ours, theirs, error):
    """Mean test error of both models over the splits."""
    errors = []
    for seed in range(n_splits):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed)
        errors.append([error(y_test, model.fit(X_train, y_train), X_test) for model in (ours, theirs)])
    return np.mean(errors, axis=0)


@pytest.mark.parametrize("name", REGRESSION)
def test_rmse_is_within_2_percent_of_lightgbm_or_better(name):
    load, n_splits = REGRESSION[name]
    ours, theirs = mean_errors(
        *load(),
        n_splits,
        RMTGBRegressor(**OURS),
        LGBMRegressor(**THEIRS),
        lambda y, model, X: root_mean_squared_error(y, model.predict(X)),
    )
    assert ours / theirs < 1.02


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_log_loss_is_within_2_percent_of_lightgbm_or_better(name):
    load, n_splits = CLASSIFICATION[name]
    ours, theirs = mean_errors(
        *load(),
        n_splits,
        RMTGBClassifier(**OURS),
        LGBMClassifier(**THEIRS),
        lambda y, model, X: log_loss(y, model.predict_proba(X)),
    )
    assert ours / theirs < 1.02
