"""scikit-learn's own checks of the estimators that go around others, without an exception."""

import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

import mttab

NAMES = ("Pooled", "TaskAsFeature", "PerTask", "TaskCluster")
ONEHOT = {"TaskAsFeature": {"task_encoding": "onehot"}}
FAST = [mttab.PerTaskRegressor(Ridge()), mttab.TaskClusterClassifier(LogisticRegression())]


def around(name, inner):
    kind = "Regressor" if isinstance(inner, Ridge) else "Classifier"
    return getattr(mttab, name + kind)(inner, **ONEHOT.get(name, {}))


@parametrize_with_checks(FAST)
def test_scikit_learn_checks_pass_around_a_linear_model(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([around(name, inner) for name in NAMES for inner in (Ridge(), LogisticRegression())])
def test_scikit_learn_checks_pass_around_any_linear_model(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([mttab.TaskAsFeatureRegressor(), mttab.PerTaskClassifier(), mttab.TaskClusterRegressor()])
def test_scikit_learn_checks_pass_around_the_default_estimator(estimator, check):
    check(estimator)
