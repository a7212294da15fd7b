"""scikit-learn's own checks of every estimator of the package; `estimator_list.py` has the settings that they run with.

One exception, in one place: a mixed network answers `predict_proba` with a dict by target, which the five checks of
`NEEDS_AN_ARRAY` would compare as an array. What they promise is held for all estimators by `test_all_estimators.py`
(rows in any order and any part of them, a fit once more, a model that was pickled) and, where weights are concerned,
by the checks of the two other kinds of the same network, which are the same code.
"""

from importlib.util import find_spec

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import mttab
from estimator_list import ROWS

NEEDS_AN_ARRAY = (
    "check_estimators_pickle",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_sample_weight_equivalence_on_dense_data",
)
MIXED = {row.name for row in ROWS if row.is_mixed}


def checked(*, slowly):
    """The estimators whose checks belong to the slow suite, or to the other, as far as they can be imported here."""
    can_run = [row for row in ROWS if row.needs is None or find_spec(row.needs) is not None]
    return [getattr(mttab, row.name)(**row.checked) for row in can_run if row.checked_slowly == slowly]


def expected_to_fail(estimator):
    reason = "compares what predict_proba says as an array, which is a dict by target"
    return dict.fromkeys(NEEDS_AN_ARRAY, reason) if type(estimator).__name__ in MIXED else {}


@parametrize_with_checks(checked(slowly=False), expected_failed_checks=expected_to_fail)
def test_the_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(checked(slowly=True), expected_failed_checks=expected_to_fail)
def test_the_checks_that_take_longer_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([mttab.TaskAsFeatureRegressor(), mttab.PerTaskClassifier(), mttab.TaskClusterRegressor()])
def test_the_checks_pass_around_the_default_estimator(estimator, check):
    check(estimator)


def test_every_estimator_of_the_list_is_checked():
    pytest.importorskip("torch", reason="torch is not installed")
    names = [type(estimator).__name__ for slowly in (False, True) for estimator in checked(slowly=slowly)]
    assert sorted(names) == sorted(row.name for row in ROWS)
