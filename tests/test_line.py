"""The straight line that a shared block may start from: a ridge regression, and trees that say it exactly."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import Ridge

from boosting_inputs import bin_layout, training_rows
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting import line
from mttab._core.boosting.binning import CATEGORY
from mttab._core.boosting.line import PENALTIES, add_lines, features_of_lines, fit_lines, trees_of_lines
from mttab.datasets import make_task_groups

# The line alone.
LINE = {"linear_start": True, "early_stopping": False, "max_iter_shared": 1, "max_iter_partition": 0}
LINE |= {"max_iter_task": 0, "random_state": 0}


def straight(n=400, seed=0, n_features=6, noise=1.0):
    """Numbers of which y is a sum, and noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features))
    return X, X @ np.arange(1.0, n_features + 1) + noise * rng.normal(size=n)


def steps(n=400, seed=0):
    """Numbers of which y jumps up and down."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(n, 4))
    return X, 3.0 * (np.floor(6 * X[:, 0]) % 2) + np.where(np.abs(X[:, 1] - 0.5) < 0.25, 2.0, 0.0)


def middles(column):
    """Each value, the outermost ones as well: every one is a bin of its own."""
    return np.unique(column[~np.isnan(column)])


def ridge_twin(Z, y, weight):
    """Slopes of the ridge regression of least generalised cross-validation error, one hat matrix after the other."""
    n, root = weight.sum(), np.sqrt(weight)
    centred = root[:, None] * (Z - np.average(Z, axis=0, weights=weight))
    target = root * (y - np.average(y, weights=weight))
    errors, slopes = [], []
    for penalty in PENALTIES:
        solve = np.linalg.solve(centred.T @ centred + penalty * np.eye(Z.shape[1]), centred.T)
        rest = target - centred @ (solve @ target)
        errors.append(rest @ rest / (n - 1.0 - np.trace(centred @ solve)) ** 2)
        slopes.append(solve @ target)
    return slopes[int(np.argmin(errors))]


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 3))
def test_slopes_are_those_of_the_twin_and_trees_say_the_line(seed, is_weighted, n_outputs):
    rng = np.random.default_rng(seed)
    n, n_bins = 60, [5, 3, 8, 4]
    codes = np.array([rng.integers(0, b + 1, n) for b in n_bins], dtype=np.uint8)  # the last one is missing
    layout = bin_layout(n_bins, [0, 0, 0, CATEGORY])
    weight = rng.integers(1, 4, n).astype(float) if is_weighted else np.ones(n)
    rows = training_rows(codes, np.zeros(n), weight=weight)
    response = rng.normal(size=(n_outputs, n)) + codes[0]
    response = response[:, rows.position]
    lines = fit_lines(rows, layout, lambda part: response[:, part], np.ones(n_outputs), 0)
    assert lines.features.tolist() == [0, 1, 2]
    Z = codes[:3].T.astype(float)
    for f in range(3):
        is_seen = codes[f] < n_bins[f]
        Z[~is_seen, f] = lines.center_bin[f]
        mean = np.average(codes[f][is_seen], weights=weight[is_seen])
        assert abs(lines.center_bin[f] - mean) <= 0.5
        Z[:, f] = (Z[:, f] - mean) / np.sqrt(np.average((codes[f][is_seen] - mean) ** 2, weights=weight[is_seen]))
    expected = np.column_stack([Z @ ridge_twin(Z, response[k], weight) for k in range(n_outputs)])
    score = np.zeros((n, n_outputs))
    add_lines(lines, rows, score)
    np.testing.assert_allclose(score, expected, atol=1e-5 * np.abs(expected).max())  # slopes have 20 bits
    found = np.zeros_like(score)
    for nodes, _ in trees_of_lines(lines, layout, slice(None), 0):
        assert nodes.weight[0] == weight.sum()
        for i in range(n):
            node = 0
            while nodes.feature[node] >= 0:
                f = nodes.feature[node]
                is_missing = codes[f, i] == n_bins[f]
                goes_left = nodes.missing_left[node] if is_missing else codes[f, i] <= nodes.threshold[node]
                node = nodes.left[node] if goes_left else nodes.right[node]
            found[i] += nodes.value[node]
    np.testing.assert_array_equal(found, score)


def test_the_line_of_a_table_is_the_ridge_regression():
    X, y = straight(n=200)  # every value is a bin
    model = RMTGBRegressor(**LINE).fit(X, y)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    for column in range(X.shape[1]):  # the outermost ones stand at their own value, too
        assert len(middles(X[:, column])) == 200
    lines = [Ridge(alpha=penalty).fit(Z, y).predict(Z) for penalty in PENALTIES]
    assert min(np.abs(line - model.predict(X)).max() for line in lines) < 1e-3 * y.std()
    assert model.n_iter_ == {"shared": 1, "partition": 0, "task": 0}
    assert model.linear_start_


@pytest.mark.parametrize("multi_strategy", ["one_output_per_tree", "multi_output_tree"])
def test_every_score_of_a_classifier_has_its_line(multi_strategy):
    X, y = straight(noise=0.1)
    labels = np.digitize(y, np.quantile(y, [0.3, 0.7]))
    model = RMTGBClassifier(multi_strategy=multi_strategy, **LINE).fit(X, labels)
    scores = model.decision_function(X)
    assert np.corrcoef(scores[:, 0], y)[0, 1] < -0.8 and np.corrcoef(scores[:, 2], y)[0, 1] > 0.8
    shares = np.log(np.bincount(labels) / len(labels))
    np.testing.assert_allclose(scores.mean(axis=0), shares - shares.mean(), atol=1e-6)  # lines go through the base


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "poisson"])
def test_a_line_lowers_the_loss_whatever_it_is(loss):
    X, y = straight()
    y = np.exp(0.05 * y) if loss == "poisson" else y
    model = RMTGBRegressor(loss=loss, **LINE).fit(X, y)
    before, after = -model.train_score_
    assert after < 0.9 * before


def test_prediction_staged_prediction_export_and_shap_values_know_the_line():
    X, y = make_task_groups(n_samples=80, random_state=0)
    X.iloc[::7, 0] = np.nan
    options = {"task_column": "task", "max_iter_shared": 5, "max_iter_partition": 3, "max_iter_task": 3}
    model = RMTGBRegressor(linear_start=True, early_stopping=False, sharing="blocks", **options).fit(X, y)
    predicted = model.predict(X)
    *_, last = model.staged_predict(X)
    np.testing.assert_allclose(last, predicted, rtol=1e-12)
    np.testing.assert_allclose(next(iter(model.staged_predict(X))), RMTGBRegressor(**LINE | {"task_column": "task"})
                               .fit(X, y).predict(X), rtol=1e-9)  # fmt: skip
    shap = model.shap_values(X)
    np.testing.assert_allclose(shap.values.sum(axis=1) + shap.base_values, predicted, rtol=1e-9)
    export = model.to_lightgbm(task=3)
    own = X[X["task"] == 3]
    exported = export.booster.predict(export.encode(own.drop(columns="task")))
    np.testing.assert_allclose(exported, model.predict(own), rtol=1e-9)


def test_missing_values_stay_near_the_line_of_the_mean():
    X, y = straight(noise=0.0)
    X[:, 5] = np.round(X[:, 5], 1)
    model = RMTGBRegressor(**LINE).fit(X, y)
    row = np.zeros((1, 6))
    np.testing.assert_allclose(model.predict(np.full((1, 6), np.nan)), model.predict(row), atol=2.0)
    assert abs(model.predict(np.full((1, 6), np.nan))[0] - y.mean()) < 2.0 < y.std()


def test_a_slope_against_a_constraint_is_0_and_the_others_go_on():
    X, y = straight()
    free = RMTGBRegressor(**LINE).fit(X, y)
    bound = RMTGBRegressor(monotonic_cst=[0, 0, 0, 0, 0, -1], **LINE).fit(X, y)
    allowed = RMTGBRegressor(monotonic_cst=[0, 0, 0, 0, 0, 1], **LINE).fit(X, y)
    np.testing.assert_array_equal(allowed.predict(X), free.predict(X))
    moved = X.copy()
    moved[:, 5] = X[::-1, 5]
    np.testing.assert_array_equal(bound.predict(moved), bound.predict(X))
    without = RMTGBRegressor(**LINE).fit(X[:, :5], y)
    np.testing.assert_allclose(bound.predict(X), without.predict(X[:, :5]), atol=1e-4 * y.std())
    forest = bound._fitted.model.forest
    assert sorted(set(forest.nodes.feature[forest.trees.root])) == [0, 1, 2, 3, 4], "no tree without a slope"


def test_only_numbers_of_three_values_have_a_slope_and_of_too_many_none():
    assert features_of_lines(bin_layout([2, 3, 255, 9], [0, 0, 0, CATEGORY]), 4).tolist() == [1, 2]
    assert len(features_of_lines(bin_layout([3] * 256), 256)) == 256
    assert len(features_of_lines(bin_layout([3] * 257), 257)) == 0


def test_where_there_is_nothing_to_draw_a_line_through_a_tree_is_grown_instead():
    X, y = straight()
    X = (X > 0).astype(float)
    on, off = (RMTGBRegressor(**LINE | {"linear_start": has_line}).fit(X, y) for has_line in (True, np.False_))
    np.testing.assert_array_equal(on.predict(X), off.predict(X))
    assert not on.linear_start_


def test_auto_takes_the_line_where_it_helps_and_not_where_it_does_not():
    is_taken = {}
    for name, make in {"straight": straight, "steps": steps}.items():
        X, y = make()
        X_new, y_new = make(seed=1)
        model = RMTGBRegressor(random_state=0).fit(X, y)
        is_taken[name] = model.linear_start_
        error = {
            has_line: np.mean((clone(model).set_params(linear_start=has_line).fit(X, y).predict(X_new) - y_new) ** 2)
            for has_line in (True, False)
        }
        if name == "straight":
            assert error[True] < 0.8 * error[False]
        assert np.mean((model.predict(X_new) - y_new) ** 2) == error[is_taken[name]]
    assert is_taken == {"straight": True, "steps": False}


@pytest.mark.parametrize("options", [{"early_stopping": False}, RMTGBRegressor.paper_parameters()])
def test_auto_is_no_line_where_there_is_nothing_to_choose_by_and_in_paper_mode(options):
    X, y = straight()
    assert not RMTGBRegressor(max_iter_shared=3, **options).fit(X, y).linear_start_


@pytest.mark.parametrize("sharing", ["blocks", "pooled", "category", "groups"])
def test_every_way_to_share_may_start_from_the_line(sharing):
    X, y = make_task_groups(n_samples=60, group_sizes=(4, 3), random_state=0)
    rounds = {"max_iter_shared": 4, "max_iter_partition": 3, "max_iter_task": 2, "early_stopping": False}
    model = RMTGBRegressor(task_column="task", sharing=sharing, linear_start=True, random_state=0, **rounds).fit(X, y)
    assert model.linear_start_
    assert model.n_iter_["shared"] == (1 if sharing == "groups" else 4)
    assert np.abs(model.decompose(X)["shared"]).max() > 0.0


@pytest.mark.parametrize("has_line", [False, np.False_])
def test_without_a_line_there_is_none(has_line):
    X, y = straight()
    assert not RMTGBRegressor(**LINE | {"linear_start": has_line}).fit(X, y).linear_start_


def test_separate_tasks_share_no_line():
    X, y = make_task_groups(n_samples=60, group_sizes=(4, 3), random_state=0)
    model = RMTGBRegressor(task_column="task", sharing="separate", linear_start=True, early_stopping=False).fit(X, y)
    assert not model.linear_start_ and model.n_iter_["shared"] == 0


@pytest.mark.parametrize("table", ["independent", "collinear", "many features, some rows looked at"])
def test_the_order_of_rows_weights_for_copies_and_threads_change_no_bit_of_the_line(table, monkeypatch):
    X, y = straight()
    if table == "collinear":
        X = np.column_stack([X, 2.5 * X + 1.0])
    elif table != "independent":
        monkeypatch.setattr(line, "MAX_PRODUCTS", 0.0)
        monkeypatch.setattr(line, "MIN_ROWS", 200)
    weight = np.random.default_rng(0).integers(1, 3, len(y))
    order = np.random.default_rng(1).permutation(len(y))
    model = RMTGBRegressor(**LINE).fit(X, y, sample_weight=weight)
    others = [
        clone(model).fit(X[order], y[order], sample_weight=weight[order]),
        clone(model).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight)),
        clone(model).set_params(n_jobs=2).fit(X, y, sample_weight=weight),
    ]
    for other in others:
        np.testing.assert_array_equal(other.predict(X), model.predict(X))


def test_with_more_features_than_rows_the_line_does_not_go_through_every_row():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 60)), rng.normal(size=40)
    residual = y - RMTGBRegressor(**LINE).fit(X, y).predict(X)
    assert residual.std() > 0.5 * y.std()


@pytest.mark.filterwarnings("error")
def test_a_column_of_huge_values_leaves_the_other_slopes_alone():
    X, y = straight()
    for huge in (1e160, 1e300, np.finfo(float).max):
        column = np.where(np.arange(len(y)) % 3 == 0, huge, np.arange(len(y)) % 50)
        model = RMTGBRegressor(**LINE).fit(np.column_stack([X, column]), y)
        assert model.score(np.column_stack([X, column]), y) > 0.9


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_the_unit_of_y_changes_no_importance(loss):
    X, y = straight()
    options = {"loss": loss, "early_stopping": False, "max_iter_shared": 10, "linear_start": True}
    importances = [RMTGBRegressor(**options).fit(X, y * unit).feature_importances_ for unit in (0.001, 1.0, 1000.0)]
    for others in importances[1:]:
        np.testing.assert_allclose(others, importances[0], atol=1e-3)


def test_a_warm_start_goes_on_from_the_line():
    X, y = straight()
    options = {"linear_start": True, "early_stopping": False, "random_state": 0}
    model = RMTGBRegressor(max_iter_shared=1, warm_start=True, **options).fit(X, y)
    model.set_params(max_iter_shared=6).fit(X, y)
    assert model.linear_start_
    np.testing.assert_allclose(model.predict(X), RMTGBRegressor(max_iter_shared=6, **options).fit(X, y).predict(X))


def test_gain_is_what_each_feature_explains():
    X, y = straight(n=2000, noise=0.0)
    importances = RMTGBRegressor(**LINE).fit(pd.DataFrame(X), y).feature_importances_
    expected = np.arange(1.0, 7.0) ** 2
    np.testing.assert_allclose(importances, expected / expected.sum(), rtol=0.15)
