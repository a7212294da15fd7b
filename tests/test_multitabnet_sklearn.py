"""scikit-learn's own checks of the network estimators, without an exception."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from sklearn.utils.estimator_checks import parametrize_with_checks

from mttab.multitabnet import MultiTabNetClassifier, MultiTabNetRegressor

# Small networks that learn fast. A batch of all rows in double precision, without dropout, makes "weight 2" and "there
# twice" the same to the last digits that one of the checks compares.
SMALL = {
    "embedding_dim": 8,
    "mlp_dim": 16,
    "head_dim": 16,
    "n_blocks": 1,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 60,
    "batch_size": 1000,
    "learning_rate": 0.02,
    "dropout": 0.0,
    "precision": "float64",
    "early_stopping": False,
    "n_jobs": 1,
}


@parametrize_with_checks([MultiTabNetRegressor(**SMALL), MultiTabNetClassifier(**SMALL)])
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)
