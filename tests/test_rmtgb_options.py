"""Every option of the constructors changes something that a user can observe."""

import logging
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import TimeSeriesSplit

from mttab import RMTGBClassifier, RMTGBRegressor

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
BASE = {
    "task_column": "task",
    "max_iter_shared": 8,
    "max_iter_partition": 8,
    "max_iter_task": 8,
    "min_samples_leaf": 5,
    "early_stopping": False,
    "random_state": 0,
}
STOPPING = {"early_stopping": True, "max_iter_shared": 80, "max_iter_partition": 80, "max_iter_task": 80}


def table(estimator_class):
    """Four tasks of 240, 120, 60 and 30 rows, the last one in another unit and against the others."""
    rng = np.random.default_rng(0)
    task = np.repeat([0, 1, 2, 3], [240, 120, 60, 30])
    X = pd.DataFrame(rng.normal(size=(len(task), 3)), columns=["a", "b", "c"])
    X["code"], X["task"] = rng.integers(0, 6, len(task)), task
    wave = np.array([0.0, 2.0, -1.0, 0.5, -2.0, 1.0])[X["code"]]
    score = np.where(task == 3, -3, 1) * X["a"] + 0.5 * task * np.sin(2 * X["b"]) + wave
    y = (score + 0.7 * rng.normal(size=len(task))).to_numpy()
    if estimator_class is RMTGBClassifier:
        y = np.digitize(y, [-0.7, 0.9])
    order = rng.permutation(len(task))
    return X.iloc[order].reset_index(drop=True), y[order]


def predictions(model, X, y, capsys):
    model.fit(X, y)
    return model.predict_proba(X) if isinstance(model, RMTGBClassifier) else model.predict(X)


def predictions_for_two_classes(model, X, y, capsys):
    return predictions(model, X, y > 0, capsys)


def predictions_without_the_task(model, X, y, capsys):
    return predictions(model, X if model.task_column else X.drop(columns="task"), y, capsys)


def rounds(model, X, y, capsys):
    return tuple(model.fit(X, y).n_iter_.values())


def groups(model, X, y, capsys):
    return model.fit(X, y).task_group_.tolist()


def theta(model, X, y, capsys):
    return model.fit(X, y).theta_


def length_of_validation_score(model, X, y, capsys):
    return len(model.fit(X, y).validation_score_) > 0


def is_an_unseen_task_refused(model, X, y, capsys):
    model.fit(X, y)
    try:
        model.predict(X.assign(task=99))
    except ValueError as err:
        return str(err)
    return None


def predictions_after_a_second_fit(model, X, y, capsys):
    predictions(model, X, y[::-1], capsys)
    return predictions(model, X, y, capsys)


def lines_for_the_logger(model, X, y, capsys):
    lines, logger = logging.Handler(), logging.getLogger("mttab")
    lines.emit = lambda record: found.append(record.getMessage())
    found = []
    logger.addHandler(lines)
    model.fit(X, y)
    logger.removeHandler(lines)
    return found


def number_of_threads(model, X, y, capsys):
    """Threads that numba was told to use, on a table that is worth more than one."""
    used, tell = [], numba.set_num_threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba, "set_num_threads", lambda n: (used.append(n), tell(n)))
        model.fit(pd.concat([X] * 200), np.tile(y, 200))
    return max(used, default=1)


@dataclass
class Case:
    """Two values of an option, the other options they need, and what differs between the two."""

    one: Any
    other: Any
    observe: Any = predictions
    options: dict[str, Any] = field(default_factory=dict)


BOTH = {
    "task_column": Case("task", None, predictions_without_the_task),
    "sharing": Case("blocks", "pooled", rounds),
    "n_task_groups": Case(2, 3, groups, {"sharing": "groups"}),
    "learning_rate": Case(0.1, 0.3),
    "max_iter_shared": Case(8, 3, rounds),
    "max_iter_partition": Case(8, 3, rounds),
    "max_iter_task": Case(8, 3, rounds),
    "linear_start": Case(False, True, options={"max_iter_partition": 0, "max_iter_task": 0}),
    "grow_policy": Case("symmetric", "leafwise", options={"max_iter_partition": 0, "max_iter_task": 0}),
    "max_leaf_nodes": Case(31, 3, options={"max_iter_partition": 0, "max_iter_task": 0}),
    "max_leaf_nodes_task": Case(8, None, options={"max_iter_shared": 0, "max_iter_partition": 0}),
    "max_depth": Case(None, 1),
    "min_samples_leaf": Case(5, 40, options={"max_iter_partition": 0, "max_iter_task": 0}),
    "min_samples_leaf_task": Case(1, None, options={"max_iter_shared": 0, "max_iter_partition": 0}),
    "l2_regularization": Case(0.0, 10.0),
    "max_features": Case(1.0, 0.5),
    "subsample": Case(1.0, 0.5),
    "max_bins": Case(255, 4),
    "categorical_features": Case("from_dtype", ["code"]),
    "monotonic_cst": Case(None, {"b": 1}, predictions_for_two_classes),
    "algorithm": Case("newton", "paper", options={"theta_init": "normal", "theta_learning_rate": 0.01}),
    "theta_init": Case("data", [0.5, -1.0, 1.0, 0.0], theta),
    "theta_learning_rate": Case(1.0, 0.5, theta),
    "theta_penalty": Case(0.01, 0.5, theta),
    "theta_center": Case(-2.0, -1.0, theta),
    "task_weight": Case(None, "balanced"),
    "unseen_task": Case("shared", "error", is_an_unseen_task_refused),
    "early_stopping": Case(False, True, length_of_validation_score),
    "validation": Case(None, TimeSeriesSplit(2), options=STOPPING),
    "validation_fraction": Case(0.1, 0.4, options=STOPPING),
    "n_iter_no_change": Case(1, 20, rounds, options=STOPPING),
    "tol": Case(1e-7, 0.1, rounds, options=STOPPING),
    "refit": Case(True, False, options=STOPPING | {"n_averaged": 1}),
    "n_averaged": Case(1, 3, options=STOPPING),
    "warm_start": Case(False, True, predictions_after_a_second_fit),
    "random_state": Case(0, 1, options={"subsample": 0.5}),
    "n_jobs": Case(1, 2, number_of_threads, {"max_iter_shared": 1, "max_iter_partition": 0, "max_iter_task": 0}),
    "verbose": Case(0, 1, lines_for_the_logger),
}
CASES = {
    RMTGBRegressor: BOTH
    | {
        "loss": Case("squared_error", "absolute_error"),
        "quantile": Case(0.5, 0.9, options={"loss": "quantile"}),
        "huber_delta": Case(1.0, 0.1, options={"loss": "huber"}),
        "target_scaling": Case(None, "task"),
    },
    RMTGBClassifier: BOTH
    | {
        "loss": Case("log_loss", "multinomial", predictions_for_two_classes),
        "multi_strategy": Case("one_output_per_tree", "multi_output_tree"),
        "class_weight": Case(None, "balanced"),
    },
}


@pytest.mark.parametrize(
    ("estimator_class", "option"),
    [(estimator_class, name) for estimator_class in ESTIMATORS for name in CASES[estimator_class]],
)
def test_every_option_changes_something_observable(estimator_class, option, capsys):
    case = CASES[estimator_class][option]
    if option == "n_jobs" and numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread on this machine")
    X, y = table(estimator_class)
    model = estimator_class(**BASE | case.options | {option: case.one})
    first, again = (case.observe(model, X, y, capsys) for _ in range(2))
    np.testing.assert_array_equal(again, first)  # what differs below is not chance
    second = case.observe(estimator_class(**BASE | case.options | {option: case.other}), X, y, capsys)
    if isinstance(first, np.ndarray):
        assert np.shape(first) == np.shape(second)
        assert np.abs(first - second).max() > 1e-3
    else:
        assert first != second


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_no_option_is_left_without_a_case(estimator_class):
    assert set(CASES[estimator_class]) == set(estimator_class().get_params())


def test_the_two_estimators_share_the_defaults_of_their_common_options():
    regressor, classifier = RMTGBRegressor().get_params(), RMTGBClassifier().get_params()
    common = (regressor.keys() & classifier.keys()) - {"loss"}
    assert len(common) == len(BOTH)
    assert {name: regressor[name] for name in common} == {name: classifier[name] for name in common}


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_paper_parameters_are_options_and_may_be_changed(estimator_class):
    parameters = estimator_class.paper_parameters()
    assert parameters.keys() <= estimator_class().get_params().keys()
    parameters["max_iter_shared"] = 3  # a copy: the next caller gets the paper's own
    assert "max_iter_shared" not in estimator_class.paper_parameters()
    X, y = table(estimator_class)
    rounds = {"max_iter_partition": 3, "max_iter_task": 3, "random_state": 0}
    model = estimator_class(task_column="task", **parameters, **rounds).fit(X, y)
    assert model.n_iter_ == {"shared": 3, "partition": 3, "task": 3}


@pytest.mark.parametrize("options", [{"theta_init": "normal"}, {"theta_init": {0: 0.5, 1: -1.0, 2: 1.0, 3: 0.0}}])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_theta_starts_where_it_is_told_to(estimator_class, options):
    X, y = table(estimator_class)
    frozen = BASE | {"theta_learning_rate": 0.0} | options
    model = estimator_class(**frozen).fit(X, y)
    if options["theta_init"] == "normal":
        other = estimator_class(**frozen | {"random_state": 1}).fit(X, y)
        assert np.abs(model.theta_).max() < 0.5
        assert np.abs(np.abs(other.theta_) - np.abs(model.theta_)).min() > 1e-6
    else:
        # The branch that most tasks lean to is the inlier branch; two lean each way, and tasks 0 and 2 have more rows.
        np.testing.assert_allclose(model.theta_, [-0.5, 1.0, -1.0, 0.0])
        np.testing.assert_allclose(model.outlier_score_, 1 / (1 + np.exp(-model.theta_)))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_turning_the_branches_around_changes_no_prediction(estimator_class):
    X, y = table(estimator_class)
    start = np.array([-1.0, -0.5, 0.0, 2.0])
    options = BASE | {"theta_penalty": 0.0}
    model, mirrored = (estimator_class(**options | {"theta_init": sign * start}).fit(X, y) for sign in (1, -1))
    np.testing.assert_allclose(mirrored.theta_, model.theta_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(predictions(mirrored, X, y, None), predictions(model, X, y, None), rtol=0, atol=1e-9)
    assert model.outlier_score_[3] > 0.5
    assert (model.outlier_score_[:2] < 0.5).all()
