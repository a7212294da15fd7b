"""scikit-learn's own checks of the networks of experts, without an exception."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from sklearn.utils.estimator_checks import parametrize_with_checks

import mttab

# Small networks that learn fast. A batch of all rows in double precision, without dropout, makes "weight 2" and "there
# twice" the same to the last digits that one of the checks compares. Swish: with ReLU a handful of rows can collapse an
# expert, of which fit would warn.
SMALL = {
    "embedding_dim": 4,
    "expert_dim": 16,
    "head_dim": 0,
    "activation": "swish",
    "n_bins": 4,
    "expert_depth": 1,
    "n_members": 1,
    "max_epochs": 20,
    "batch_size": 1000,
    "learning_rate": 0.05,
    "dropout": 0.0,
    "precision": "float64",
    "early_stopping": False,
    "n_jobs": 1,
}
KINDS = ("Regressor", "Classifier")


@parametrize_with_checks([getattr(mttab, f"MMoE{kind}")(**SMALL) for kind in KINDS])
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [getattr(mttab, name + kind)(**SMALL) for name in ("SharedBottom", "PLE", "STEM", "TaskExpert") for kind in KINDS]
)
def test_scikit_learn_checks_of_the_others_pass(estimator, check):
    check(estimator)
