"""What the R-MTGB estimators do with tasks, targets, blocks, validation rows and categories."""

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit, softmax, xlogy
from sklearn.metrics import log_loss, mean_poisson_deviance
from sklearn.model_selection import GroupShuffleSplit, KFold, TimeSeriesSplit, train_test_split

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
BLOCKS = ["shared", "partition", "task"]
SMALL = {
    "max_iter_shared": 6,
    "max_iter_partition": 5,
    "max_iter_task": 4,
    "early_stopping": False,
    "min_samples_leaf": 5,
    "random_state": 0,
}
ONLY_SHARED = {"max_iter_partition": 0, "max_iter_task": 0}


def task_rows(estimator_class, n=240, n_tasks=4, seed=0, n_classes=3):
    """Features, target and task numbers; the last task runs against the others."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    task = rng.integers(0, n_tasks, n)
    y = np.where(task == n_tasks - 1, -1, 1) * X["a"] + 0.5 * X["b"] * task + 0.1 * rng.normal(size=n)
    if estimator_class is RMTGBClassifier:
        y = pd.Series(
            np.array(["low", "middle", "high"])[3 - n_classes :][np.digitize(y, [-0.5, 0.5][: n_classes - 1])]
        )
    return X, y.rename("y"), task


def predicted_numbers(model, X, **options):
    """What a model predicts, as floats: probabilities for a classifier."""
    return (model.predict_proba if isinstance(model, RMTGBClassifier) else model.predict)(X, **options)


def score_before_link(model, X, **options):
    """Log-odds, or the score of every class up to a constant per row; the logarithm of a poisson mean."""
    out = predicted_numbers(model, X, **options)
    if isinstance(model, RMTGBRegressor):
        return np.log(out) if model.loss == "poisson" else out
    return [logit(p[:, 1]) if p.shape[1] == 2 else np.log(p) for p in (out if isinstance(out, list) else [out])]


# --- task ids ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(lambda t: t, id="int"),
        pytest.param(lambda t: t.astype(np.int8) - 2, id="negative"),
        pytest.param(lambda t: t.astype(float), id="integral float"),
        pytest.param(lambda t: t + 0.5, id="fraction"),
        pytest.param(lambda t: np.array(["a", "b", "c", "d"])[t], id="text"),
        pytest.param(lambda t: pd.Series(np.array(["a", "b", "c", "d"], dtype=object)[t]), id="object"),
        pytest.param(lambda t: pd.Categorical.from_codes(t, ["a", "b", "c", "d"]), id="category"),
        pytest.param(
            lambda t: pd.Categorical.from_codes(3 - t, ["d", "c", "b", "a", "unused"]), id="unsorted category"
        ),
        pytest.param(lambda t: pd.array(t, dtype="Int64"), id="nullable"),
        pytest.param(lambda t: pd.Timestamp("2024-01-31") + pd.to_timedelta(t, unit="D"), id="date"),
    ],
)
def test_any_type_of_task_id_gives_the_same_model(estimator_class, ids):
    X, y, task = task_rows(estimator_class)
    plain = estimator_class(task_column="task", **SMALL).fit(X.assign(task=task), y)
    labelled = X.assign(task=ids(task))
    model = estimator_class(task_column="task", **SMALL).fit(labelled, y)
    np.testing.assert_array_equal(predicted_numbers(model, labelled), predicted_numbers(plain, X.assign(task=task)))
    np.testing.assert_array_equal(model.theta_, plain.theta_)
    assert len(model.tasks_) == model.n_tasks_ == 4
    assert set(model.tasks_.tolist()) == set(labelled["task"].tolist())
    assert sorted(model.tasks_.tolist()) == model.tasks_.tolist()


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("task_column", ["task", 1, -3, ["task"], [1], np.int64(1), ("task",)])
def test_the_task_column_may_be_named_or_counted(estimator_class, task_column):
    X, y, task = task_rows(estimator_class)
    X.insert(1, "task", task)
    model = estimator_class(task_column=task_column, **SMALL).fit(X, y)
    reference = estimator_class(**SMALL).fit(X.drop(columns="task"), y, task=task)
    np.testing.assert_array_equal(
        predicted_numbers(model, X), predicted_numbers(reference, X.drop(columns="task"), task=task)
    )


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_several_columns_make_composite_ids(estimator_class):
    X, y, task = task_rows(estimator_class)
    town, year = np.array(["x", "y"])[task // 2], 2000 + task % 2
    table = X.assign(town=town, year=year)
    model = estimator_class(task_column=["town", "year"], **SMALL).fit(table, y)
    assert model.tasks_.tolist() == [("x", 2000), ("x", 2001), ("y", 2000), ("y", 2001)]
    assert model.n_features_in_ == 5
    single = estimator_class(task_column="task", **SMALL).fit(X.assign(task=task), y)
    expected = predicted_numbers(single, X.assign(task=task))
    np.testing.assert_array_equal(predicted_numbers(model, table), expected)
    by_argument = estimator_class(**SMALL).fit(X, y, task=table[["town", "year"]])
    np.testing.assert_array_equal(predicted_numbers(by_argument, X, task=table[["town", "year"]]), expected)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_1_and_1_0_are_the_same_task_at_predict(estimator_class):
    X, y, task = task_rows(estimator_class)
    model = estimator_class(task_column="task", unseen_task="error", **SMALL).fit(X.assign(task=task), y)
    expected = predicted_numbers(model, X.assign(task=task))
    np.testing.assert_array_equal(predicted_numbers(model, X.assign(task=task.astype(float))), expected)
    with pytest.raises(ValueError, match=r"task_column='task' holds 4 task.* that fit did not see, .*str.*number"):
        model.predict(X.assign(task=task.astype(str)))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_task_may_be_an_argument(estimator_class):
    X, y, task = task_rows(estimator_class)
    model = estimator_class(**SMALL).fit(X, y, task=task)
    in_column = estimator_class(task_column="task", **SMALL).fit(X.assign(task=task), y)
    expected = predicted_numbers(in_column, X.assign(task=task))
    np.testing.assert_array_equal(predicted_numbers(model, X, task=task), expected)
    np.testing.assert_array_equal(predicted_numbers(model, X, task=list(task)), expected)
    assert model.score(X, y, task=task) == in_column.score(X.assign(task=task), y)
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.feature_importances_, in_column.feature_importances_[:3])


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("method", ["predict", "score", "decompose", "staged_predict"])
def test_predict_without_a_task_names_the_better_way(estimator_class, method):
    X, y, task = task_rows(estimator_class)
    model = estimator_class(**SMALL).fit(X, y, task=task)
    with pytest.raises(ValueError, match="predict needs the task of every row: pass task=, or fit with task_column="):
        if method == "score":
            model.score(X, y)
        elif method == "staged_predict":
            next(model.staged_predict(X))
        else:
            getattr(model, method)(X)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_without_tasks_there_is_one_task_and_only_the_shared_block(estimator_class):
    X, y, _ = task_rows(estimator_class)
    model = estimator_class(**SMALL).fit(X, y)
    assert model.n_tasks_ == len(model.tasks_) == len(model.outlier_score_) == 1
    assert model.n_iter_ == {"shared": 6, "partition": 0, "task": 0}
    assert model.outlier_score_[0] < 0.5
    pooled = estimator_class(**SMALL | ONLY_SHARED).fit(X, y)
    np.testing.assert_array_equal(predicted_numbers(model, X), predicted_numbers(pooled, X))


# --- columns of y as tasks ---


def wide(estimator_class, as_frame, n=150, n_classes=3, seed=0):
    """X and a 2-D y of three columns with holes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    score = np.column_stack([X[:, 0], X[:, 0] + 0.5 * X[:, 1], -X[:, 0]]) + 0.1 * rng.normal(size=(n, 3))
    hole = rng.random((n, 3)) < [0.0, 0.3, 0.6]
    if estimator_class is RMTGBClassifier:
        Y = np.array(["low", "middle", "high"], dtype=object)[np.digitize(score, [-0.5, 0.5][: n_classes - 1])]
        Y[hole] = None
    else:
        Y = np.where(hole, np.nan, score)
    if as_frame:
        return pd.DataFrame(X, columns=["a", "b", "c"]), pd.DataFrame(Y, columns=["z", "m", "k"])
    return X, Y


def melted(X, Y):
    """The long table of a 2-D y: column after column, and a task column that counts the columns."""
    Y = pd.DataFrame(np.asarray(Y, dtype=object))
    seen = [np.flatnonzero(Y[t].notna()) for t in Y]
    rows = np.concatenate(seen)
    task = np.repeat(np.arange(len(seen)), [len(s) for s in seen])
    y = Y.to_numpy()[rows, task]
    table = pd.DataFrame(np.asarray(X)[rows], columns=["a", "b", "c"]).assign(task=task)
    return table, y if isinstance(y[0], str) else y.astype(float), rows, task


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("as_frame", [True, False])
@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "subsample": 0.7, "max_features": 0.5}])
def test_a_2d_y_equals_the_melted_long_table(estimator_class, as_frame, options):
    X, Y = wide(estimator_class, as_frame)
    model = estimator_class(**SMALL | options).fit(X, Y)
    table, y, rows, task = melted(X, Y)
    long = estimator_class(task_column="task", **SMALL | options).fit(table, y)
    assert model.n_iter_ == long.n_iter_
    np.testing.assert_allclose(model.theta_, long.theta_, rtol=0, atol=1e-9)
    predicted = model.predict(X)
    assert predicted.shape == (150, 3)
    if estimator_class is RMTGBClassifier:
        assert model.classes_.tolist() == long.classes_.tolist() == ["high", "low", "middle"]
        np.testing.assert_array_equal(predicted[rows, task], long.predict(table))
        proba = model.predict_proba(X)
        assert isinstance(proba, list)
        assert [p.shape for p in proba] == [(150, 3)] * 3
        np.testing.assert_allclose(np.array(proba)[task, rows], long.predict_proba(table), rtol=0, atol=1e-9)
    else:
        np.testing.assert_allclose(predicted[rows, task], long.predict(table), rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_columns_of_a_2d_y_keep_their_names_and_order(estimator_class):
    X, Y = wide(estimator_class, as_frame=True)
    model = estimator_class(**SMALL).fit(X, Y)
    assert model.tasks_.tolist() == ["z", "m", "k"]
    assert model.n_features_in_ == 3
    reordered = estimator_class(**SMALL).fit(X, Y[["k", "z", "m"]])
    np.testing.assert_allclose(model.theta_[[2, 0, 1]], reordered.theta_, rtol=0, atol=1e-9)
    assert estimator_class(**SMALL).fit(*wide(estimator_class, as_frame=False)).tasks_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_any_missing_value_in_a_2d_y_means_not_observed(missing):
    X, Y = wide(RMTGBClassifier, as_frame=True)
    expected = RMTGBClassifier(**SMALL).fit(X, Y).predict_proba(X)
    other = RMTGBClassifier(**SMALL).fit(X, Y.astype(object).where(Y.notna(), missing)).predict_proba(X)
    np.testing.assert_array_equal(expected, other)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_row_without_any_label_is_absent(estimator_class):
    X, Y = wide(estimator_class, as_frame=False)
    empty = np.full((20, 3), None if estimator_class is RMTGBClassifier else np.nan)
    longer = np.vstack([X, 100 + X[:20]]), np.vstack([Y, empty])
    expected = predicted_numbers(estimator_class(**SMALL).fit(X, Y), X)
    np.testing.assert_array_equal(predicted_numbers(estimator_class(**SMALL).fit(*longer), X), expected)


def test_a_2d_y_of_two_classes_has_probabilities_per_task_and_no_decision_function():
    X, Y = wide(RMTGBClassifier, as_frame=True, n_classes=2)
    model = RMTGBClassifier(**SMALL).fit(X, Y)
    proba = model.predict_proba(X)
    assert [p.shape for p in proba] == [(150, 2)] * 3
    np.testing.assert_array_equal(model.predict(X), model.classes_[np.argmax(proba, axis=2).T])
    assert not hasattr(model, "decision_function")
    with pytest.raises(AttributeError) as raised:
        model.decision_function(X)
    assert "decision_function is defined for one target" in str(raised.value.__cause__)
    assert "use predict_proba" in str(raised.value.__cause__)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_row_weight_counts_for_all_its_labels(estimator_class):
    X, Y = wide(estimator_class, as_frame=False)
    weight = np.random.default_rng(0).integers(0, 3, len(X))
    model = estimator_class(**SMALL).fit(X, Y, sample_weight=weight)
    repeated = estimator_class(**SMALL).fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight, axis=0))
    for ours, theirs in zip(predicted_numbers(model, X), predicted_numbers(repeated, X), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


# --- tasks that fit did not see ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("way", ["column", "argument"])
def test_an_unseen_task_gets_what_all_tasks_share(estimator_class, way):
    X, y, task = task_rows(estimator_class, n_classes=2)
    weight = np.random.default_rng(1).integers(1, 4, len(y)).astype(float)
    options = SMALL | {"theta_init": [-2.0, -1.0, 0.0, 1.5]}
    if way == "column":
        model = estimator_class(task_column="task", **options).fit(X.assign(task=task), y, sample_weight=weight)
        parts = [model.decompose(X.assign(task=t)) for t in (0, 3, 77)]
    else:
        model = estimator_class(**options).fit(X, y, task=task, sample_weight=weight)
        parts = [model.decompose(X, task=np.full(len(X), t)) for t in (0, 3, 77)]
    inlier, outlier, unseen = parts
    np.testing.assert_array_equal(unseen.shared, inlier.shared)
    np.testing.assert_array_equal(unseen.task, 0)
    assert np.abs(inlier.task).max() > 0.01
    # Two tasks with known shares of the branches give the branches; the mean share weighs every row alike.
    s = model.outlier_score_
    difference = (outlier.partition - inlier.partition) / (s[3] - s[0])
    mean_share = np.average(s[task], weights=weight)
    assert np.abs(difference).max() > 0.01
    np.testing.assert_allclose(unseen.partition, inlier.partition + (mean_share - s[0]) * difference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_unseen_tasks_can_be_an_error_that_changes_nothing_for_the_others(estimator_class):
    X, y, task = task_rows(estimator_class)
    names = np.array(["north", "south", "west", "east"])[task]
    shared = estimator_class(task_column="task", **SMALL).fit(X.assign(task=names), y)
    strict = estimator_class(task_column="task", unseen_task="error", **SMALL).fit(X.assign(task=names), y)
    np.testing.assert_array_equal(
        predicted_numbers(shared, X.assign(task=names)), predicted_numbers(strict, X.assign(task=names))
    )
    with pytest.raises(ValueError, match=r"task_column='task' holds 1 task.*'nord'.*unseen_task='shared'"):
        strict.predict(X.assign(task="nord"))
    mixed = np.where(np.arange(len(X)) % 2, names, "nord")
    np.testing.assert_array_equal(
        predicted_numbers(shared, X.assign(task=mixed))[1::2], predicted_numbers(shared, X.assign(task=names))[1::2]
    )


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_an_unseen_task_is_predicted_in_the_units_of_the_typical_task(estimator_class):
    if estimator_class is RMTGBClassifier:
        X, y, task = task_rows(estimator_class)
        model = estimator_class(task_column="task", **SMALL).fit(X.assign(task=task), y)
        assert np.allclose(model.predict_proba(X.assign(task=99)).sum(axis=1), 1)
        return
    X, y, task = task_rows(estimator_class)
    y = 1000 + 10 * y
    model = estimator_class(task_column="task", target_scaling="task", **SMALL).fit(X.assign(task=task), y)
    predicted = model.predict(X.assign(task=99))
    assert abs(predicted.mean() - 1000) < 5
    assert 1 < predicted.std() < 20


# --- target_scaling, task_weight, class_weight ---


@pytest.mark.parametrize("layout", ["long", "wide"])
@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "min_samples_leaf": 2}, {"loss": "absolute_error"}])
def test_with_target_scaling_the_unit_of_one_task_is_the_unit_of_its_predictions_only(layout, options):
    options = SMALL | {"target_scaling": "task"} | options
    if layout == "long":
        X, y, task = task_rows(RMTGBRegressor)
        X = X.assign(task=task)
        in_grams = y.where(task != 2, 1000 * y)
        factor = np.where(task == 2, 1000, 1)
        model = RMTGBRegressor(task_column="task", **options).fit(X, y)
        other = RMTGBRegressor(task_column="task", **options).fit(X, in_grams)
    else:
        X, y = wide(RMTGBRegressor, as_frame=True)
        factor = np.array([1, 1000, 1])
        model = RMTGBRegressor(**options).fit(X, y)
        other = RMTGBRegressor(**options).fit(X, y * factor)
    np.testing.assert_allclose(other.predict(X), model.predict(X) * factor, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.theta_, model.theta_, rtol=0, atol=1e-9)
    assert other.n_iter_ == model.n_iter_


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_without_target_scaling_the_large_unit_drowns_the_others(layout):
    if layout == "long":
        X, y, task = task_rows(RMTGBRegressor)
        model = RMTGBRegressor(task_column="task", **SMALL).fit(X.assign(task=task), y.where(task != 2, 1000 * y))
        error = np.abs(model.predict(X.assign(task=task)) - y)[task != 2]
    else:
        X, Y = wide(RMTGBRegressor, as_frame=True)
        model = RMTGBRegressor(**SMALL).fit(X, Y * [1, 1000, 1])
        error = np.abs(model.predict(X)[:, [0]] - Y[["z"]].to_numpy())
    assert error.mean() > 5


def test_the_scale_of_a_constant_task_or_of_one_row_does_no_harm():
    X, y, task = task_rows(RMTGBRegressor)
    task, y = task.copy(), y.copy()
    task[0], y[0] = 4, 1e6  # a task of one row
    y[task == 1] = 0.1 + 0.2
    X = X.assign(task=task)
    model = RMTGBRegressor(task_column="task", target_scaling="task", **SMALL).fit(X, y)
    predicted = model.predict(X)
    assert abs(predicted[0] - 1e6) < 10
    assert np.abs(predicted[task == 1] - 0.3).max() < 5
    assert np.isfinite(predicted).all()


def test_target_scaling_is_off_for_counts():
    X, y, task = task_rows(RMTGBRegressor)
    X, counts = X.assign(task=task), np.random.default_rng(0).poisson(np.exp(y) * np.where(task == 2, 100, 1))
    plain = RMTGBRegressor(task_column="task", loss="poisson", **SMALL).fit(X, counts)
    scaled = RMTGBRegressor(task_column="task", loss="poisson", target_scaling="task", **SMALL).fit(X, counts)
    np.testing.assert_array_equal(plain.predict(X), scaled.predict(X))
    assert plain.predict(X).min() > 0


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_task_weight_multiplies_the_weights_of_a_tasks_rows(estimator_class):
    X, y, task = task_rows(estimator_class)
    X = X.assign(task=task)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    as_dict = estimator_class(task_column="task", task_weight={2: 2.0, 3: 0.25}, **SMALL).fit(X, y, weight)
    by_hand = estimator_class(task_column="task", **SMALL).fit(X, y, weight * np.array([1, 1, 2, 0.25])[task])
    np.testing.assert_allclose(predicted_numbers(as_dict, X), predicted_numbers(by_hand, X), rtol=1e-12)
    unweighted = estimator_class(task_column="task", **SMALL).fit(X, y, weight)
    assert np.abs(predicted_numbers(as_dict, X) - predicted_numbers(unweighted, X)).max() > 1e-3


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_balanced_task_weights_give_every_task_the_same_total_so_that_large_tasks_do_not_drown_small_ones(
    estimator_class,
):
    rng = np.random.default_rng(0)
    task = np.repeat([0, 1], [600, 60])
    X = pd.DataFrame({"a": rng.normal(size=660), "task": task})
    y = np.where(task == 0, 1.0, -1.0) * X["a"]
    if estimator_class is RMTGBClassifier:
        y = y > 0
    options = SMALL | ONLY_SHARED | {"max_iter_shared": 20}
    balanced = estimator_class(task_column="task", task_weight="balanced", **options).fit(X, y)
    by_hand = estimator_class(task_column="task", task_weight={0: 660 / 1200, 1: 660 / 120}, **options).fit(X, y)
    np.testing.assert_allclose(predicted_numbers(balanced, X), predicted_numbers(by_hand, X), rtol=0, atol=1e-9)
    drowned = estimator_class(task_column="task", **options).fit(X, y)
    small = task == 1
    assert balanced.score(X[small], y[small]) > drowned.score(X[small], y[small]) + 0.1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_weight_multiplies_the_weights_of_a_classs_rows(n_classes):
    X, y, task = task_rows(RMTGBClassifier, n_classes=n_classes)
    X = X.assign(task=task)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    as_dict = RMTGBClassifier(task_column="task", class_weight={"high": 3.0}, **SMALL).fit(X, y, weight)
    by_hand = RMTGBClassifier(task_column="task", **SMALL).fit(X, y, weight * np.where(y == "high", 3.0, 1.0))
    np.testing.assert_array_equal(as_dict.predict_proba(X), by_hand.predict_proba(X))
    mass = pd.Series(weight).groupby(y).sum()
    balanced = RMTGBClassifier(task_column="task", class_weight="balanced", **SMALL).fit(X, y, weight)
    factor = mass.sum() / (n_classes * mass)
    by_hand = RMTGBClassifier(task_column="task", class_weight=factor.to_dict(), **SMALL).fit(X, y, weight)
    np.testing.assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), rtol=0, atol=1e-9)


def test_class_and_task_weights_work_on_the_columns_of_a_2d_y():
    X, Y = wide(RMTGBClassifier, as_frame=True)
    table, y, rows, task = melted(X, Y)
    options = SMALL | {"class_weight": "balanced"}
    model = RMTGBClassifier(task_weight={"m": 3.0}, **options).fit(X, Y)
    long = RMTGBClassifier(task_weight={1: 3.0}, task_column="task", **options).fit(table, y)
    np.testing.assert_allclose(
        np.array(model.predict_proba(X))[task, rows], long.predict_proba(table), rtol=0, atol=1e-9
    )


# --- small and odd tasks ---


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_class_seen_in_one_task_only_is_learned_there(early_stopping):
    X, y, task = task_rows(RMTGBClassifier, n=400)
    y = y.where((task != 1) | (X["b"] < 0.3), "rare")
    X = X.assign(task=task)
    options = SMALL | {"early_stopping": early_stopping, "max_iter_task": 30}
    model = RMTGBClassifier(task_column="task", **options).fit(X, y)
    assert model.classes_.tolist() == ["high", "low", "middle", "rare"]
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert np.mean(model.predict(X)[(y == "rare").to_numpy()] == "rare") > 0.8
    assert np.mean(model.predict(X)[(y != "rare").to_numpy()] == "rare") < 0.1


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_task_of_one_class_and_tasks_of_one_row_work(estimator_class, early_stopping):
    X, y, task = task_rows(estimator_class)
    task = task.copy()
    task[:10] = np.arange(100, 110)
    if estimator_class is RMTGBClassifier:
        y = y.where(task != 0, "high")
    X, options = X.assign(task=task), SMALL | {"early_stopping": early_stopping, "min_samples_leaf_task": 1}
    model = estimator_class(task_column="task", **options).fit(X, y)
    assert model.tasks_.tolist() == [0, 1, 2, 3, *range(100, 110)]
    assert np.isfinite(predicted_numbers(model, X)).all()
    assert np.isfinite(model.theta_).all()
    assert ((model.outlier_score_ >= 0) & (model.outlier_score_ <= 1)).all()


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_every_row_may_be_a_task_of_its_own(estimator_class):
    X, y, _ = task_rows(estimator_class)
    X = X.assign(task=np.arange(len(X)))
    model = estimator_class(task_column="task", **SMALL).fit(X, y)
    assert model.n_tasks_ == len(X)
    assert np.isfinite(predicted_numbers(model, X)).all()
    assert model.score(X, y) > 0.2


# --- decompose ---


@pytest.mark.parametrize("layout", ["none", "column", "argument", "targets"])
@pytest.mark.parametrize(
    ("estimator_class", "options", "n_classes"),
    [
        (RMTGBRegressor, {}, None),
        (RMTGBRegressor, {"target_scaling": "task"}, None),
        (RMTGBRegressor, {"loss": "absolute_error", "target_scaling": "task"}, None),
        (RMTGBRegressor, {"loss": "poisson"}, None),
        (RMTGBRegressor, {"algorithm": "paper", "theta_init": "normal"}, None),
        (RMTGBClassifier, {}, 2),
        (RMTGBClassifier, {}, 3),
        (RMTGBClassifier, {"multi_strategy": "multi_output_tree"}, 3),
        (RMTGBClassifier, {"loss": "multinomial"}, 2),
    ],
)
def test_the_parts_of_decompose_sum_to_the_score(layout, estimator_class, options, n_classes):
    model, at_fit, at_predict = estimator_class(**SMALL | options), {}, {}
    if layout == "targets":
        X, y = wide(estimator_class, as_frame=True, n_classes=n_classes or 3)
    else:
        X, y, task = task_rows(estimator_class, n_classes=n_classes or 3)
        if layout == "column":
            X = X.assign(task=task)
            model.set_params(task_column="task")
        elif layout == "argument":
            at_fit = at_predict = {"task": task}
    if options.get("loss") == "poisson":
        y = np.exp(y).round()
    model.fit(X, y, **at_fit)
    parts = model.decompose(X, **at_predict)
    assert list(parts) == BLOCKS
    total = parts.shared + parts.partition + parts.task
    for part, is_used in zip((parts.partition, parts.task), [layout != "none"] * 2, strict=True):
        assert part.shape == total.shape
        # With one task these blocks are left out; only the centre of its target is booked under task.
        assert (np.ptp(part) > 1e-3) == is_used
    n_scores = () if n_classes is None or (n_classes == 2 and "loss" not in options) else (n_classes,)
    n_tasks = (3,) if layout == "targets" else ()
    assert total.shape == (len(X), *n_tasks, *n_scores)
    if n_scores:
        proba = model.predict_proba(X, **at_predict)
        proba = np.stack(proba, axis=1) if isinstance(proba, list) else proba
        np.testing.assert_allclose(softmax(total, axis=-1), proba, rtol=0, atol=1e-9)
    elif n_classes:
        proba = model.predict_proba(X, **at_predict)
        second = np.stack(proba, axis=1)[:, :, 1] if isinstance(proba, list) else proba[:, 1]
        np.testing.assert_allclose(expit(total), second, rtol=0, atol=1e-9)
        if not n_tasks:
            np.testing.assert_allclose(total, model.decision_function(X, **at_predict), rtol=0, atol=1e-9)
    else:
        predicted = model.predict(X, **at_predict)
        expected = np.log(predicted) if options.get("loss") == "poisson" else predicted
        np.testing.assert_allclose(total, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_block_of_no_rounds_contributes_nothing(estimator_class):
    X, y, task = task_rows(estimator_class, n_classes=2)
    X = X.assign(task=task)
    for block in BLOCKS:
        model = estimator_class(task_column="task", **SMALL | {f"max_iter_{block}": 0}).fit(X, y)
        assert model.n_iter_[block] == 0
        for name, part in model.decompose(X).items():
            # The base score is booked under shared.
            assert (np.ptp(part) == 0) == (name == block)
        if block == "partition":
            assert (model.outlier_score_ < 0.5).all()


@pytest.mark.parametrize("target_scaling", [None, "task"])
def test_the_base_score_is_booked_under_shared_and_the_centre_of_a_scaled_target_under_task(target_scaling):
    X, y, task = task_rows(RMTGBRegressor)
    y = y + 10 * task
    X, none = X.assign(task=task), {"max_iter_shared": 0, "max_iter_partition": 0, "max_iter_task": 0}
    model = RMTGBRegressor(task_column="task", target_scaling=target_scaling, **SMALL | none).fit(X, y)
    parts = model.decompose(X)
    centre = y.groupby(task).mean().to_numpy()[task] if target_scaling else np.zeros(len(y))
    np.testing.assert_allclose(parts.task, centre, rtol=0, atol=1e-9)
    np.testing.assert_allclose(parts.shared, 0 if target_scaling else y.mean(), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(parts.partition, 0)


# --- importances ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_feature_importances_sum_to_one_and_count_the_task_column_only_where_it_is_a_category(estimator_class):
    X, y, task = task_rows(estimator_class)
    X.insert(1, "task", task)
    for options, is_used in (({}, False), ({"categorical_features": ["task"]}, True)):
        model = estimator_class(task_column="task", grow_policy="leafwise", **SMALL | options).fit(X, y)
        assert model.feature_importances_.shape == (4,)
        assert model.feature_importances_.sum() == pytest.approx(1)
        assert (model.feature_importances_ >= 0).all()
        assert (model.feature_importances_[1] > 0) == is_used
        assert model.task_feature_importances_.shape == (4, 4)
        np.testing.assert_allclose(model.task_feature_importances_.sum(axis=1), 1)
        assert (model.task_feature_importances_[:, 1] > 0).all() == is_used
        assert model.feature_importances_[0] > model.feature_importances_[3]


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_importances_are_zero_where_no_tree_splits(estimator_class):
    X, y, task = task_rows(estimator_class)
    model = estimator_class(task_column="task", **SMALL | {"min_samples_leaf": 1000, "min_samples_leaf_task": 1000})
    model.fit(X.assign(task=task), y)
    np.testing.assert_array_equal(model.feature_importances_, 0)
    np.testing.assert_array_equal(model.task_feature_importances_, 0)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_task_feature_importances_show_what_each_task_uses(estimator_class):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 3)), columns=["a", "b", "c"])
    task = np.arange(300) % 3
    y = X.to_numpy()[np.arange(300), task]  # task 0 depends on a, task 1 on b, task 2 on c
    if estimator_class is RMTGBClassifier:
        y = y > 0
    options = SMALL | {"max_iter_shared": 0, "max_iter_partition": 0}
    model = estimator_class(task_column="task", **options).fit(X.assign(task=task), y)
    importances = model.task_feature_importances_
    assert importances.shape == (3, 4)
    assert np.argmax(importances, axis=1).tolist() == [0, 1, 2]
    assert (importances.max(axis=1) > 0.8).all()
    # All tasks count towards the importance of a feature.
    assert (model.feature_importances_[:3] > 0.2).all()


# --- the task as a category, and other categories of many levels ---


def many_tasks(seed=0):
    """300 tasks of 8 rows without any signal, but two of 6 rows whose target is 5 or -5: the rarest ones."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(300), 8)
    return pd.DataFrame({"x": rng.normal(size=len(task)), "task": task}), 0.1 * rng.normal(size=len(task))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("pair", [(3, 259), (3, 258), (3, 257), (298, 299), (253, 254), (0, 255)])
def test_two_tasks_of_300_are_told_apart_by_shared_trees_that_split_on_the_task_and_only_by_them(estimator_class, pair):
    X, y = many_tasks()
    low, high = (X["task"] == t for t in pair)
    y = np.where(low, -5, np.where(high, 5, y))
    is_rare = (low | high) & (X.groupby("task").cumcount() >= 6)
    X, y, low, high = X[~is_rare], y[~is_rare], low[~is_rare].to_numpy(), high[~is_rare].to_numpy()
    others = ~low & ~high
    if estimator_class is RMTGBClassifier:
        y = (y > 0).astype(int)
    options = ONLY_SHARED | {"max_iter_shared": 30, "early_stopping": False, "min_samples_leaf": 1, "max_leaf_nodes": 4}
    aware = estimator_class(task_column="task", categorical_features=["task"], **options).fit(X, y)
    blind = estimator_class(task_column="task", **options).fit(X, y)

    def score(model, t):
        return np.ravel(score_before_link(model, X.assign(task=t)))

    if estimator_class is RMTGBRegressor:
        assert score(aware, pair[0]).max() < -3
        assert score(aware, pair[1]).min() > 3
        assert np.abs(aware.predict(X)[others]).max() < 2.5
        assert np.abs(aware.predict(X)[others]).mean() < 0.5
    else:
        assert score(aware, pair[0]).max() + 0.5 < score(aware, pair[1]).min()
        assert np.mean(aware.predict(X)[low | high] == y[low | high]) == 1
    np.testing.assert_array_equal(score(blind, pair[0]), score(blind, pair[1]))


def test_the_task_as_a_category_may_be_counted_or_masked_or_composite():
    X, y, task = task_rows(RMTGBRegressor)
    X.insert(1, "task", task)
    options = SMALL | {"task_column": "task"}
    expected = RMTGBRegressor(categorical_features=["task"], **options).fit(X, y).predict(X)
    for named in ([1], [False, True, False, False], np.array([1]), ("task",)):
        np.testing.assert_array_equal(
            RMTGBRegressor(categorical_features=named, **options).fit(X, y).predict(X), expected
        )
    assert np.abs(RMTGBRegressor(**options).fit(X, y).predict(X) - expected).max() > 0.01
    composite = X.assign(town=task // 2, year=task % 2).drop(columns="task")
    options = SMALL | {"task_column": ["town", "year"], "categorical_features": ["town", "year"]}
    np.testing.assert_array_equal(RMTGBRegressor(**options).fit(composite, y).predict(composite), expected)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_an_unseen_task_goes_where_the_shared_trees_send_a_missing_category(estimator_class):
    X, y, task = task_rows(estimator_class)
    X = X.assign(task=task)
    model = estimator_class(task_column="task", categorical_features=["task"], **SMALL | ONLY_SHARED).fit(X, y)
    one, other = predicted_numbers(model, X.assign(task=88)), predicted_numbers(model, X.assign(task=99))
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()


def stores(n_levels=300, n_frequent=253):
    """A category of 300 levels: 253 with 32 rows, the others with 30; each level has a target of its own."""
    level = np.concatenate([np.repeat(np.arange(n_frequent), 32), np.repeat(np.arange(n_frequent, n_levels), 30)])
    value = np.random.default_rng(0).permutation(n_levels).astype(float)
    store = pd.Categorical.from_codes(level, [f"s{i:03}" for i in range(n_levels)])
    return pd.DataFrame({"x": np.zeros(len(level)), "store": store}), value[level], level


@pytest.mark.parametrize("by_name", [False, True])
def test_the_rarest_levels_of_a_large_category_share_a_bin_and_the_others_do_not(by_name):
    X, y, level = stores()
    options = {"min_samples_leaf": 1, "max_leaf_nodes": 500, "max_iter_shared": 60, "early_stopping": False}
    if by_name:
        X["store"] = level.astype(float)
        options["categorical_features"] = ["store"]
    predicted = RMTGBRegressor(**options).fit(X, y).predict(X)
    rare = level >= 253
    assert len(np.unique(predicted[rare])) == 1
    assert len(np.unique(predicted[~rare].round(3))) > 200
    assert abs(predicted[rare][0] - y[rare].mean()) < 5
    assert np.abs(predicted - y)[~rare].mean() < 5


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("kind", ["category", "text", "number"])
def test_a_level_unseen_at_fit_counts_as_missing(estimator_class, kind):
    X, y, task = task_rows(estimator_class)
    level = np.random.default_rng(5).integers(0, 4, len(X))
    if estimator_class is RMTGBRegressor:
        y = y + 2 * (level == 1) - 3 * (level == 3)
    else:
        y = y.mask(level == 1, "high").mask(level == 3, "low")
    names = np.array(["oak", "fir", "elm", None], dtype=object)
    column = {
        "category": pd.Categorical(names[level]),
        "text": names[level],
        "number": np.where(level == 3, np.nan, level),
    }
    new = {"category": pd.Categorical(["yew"] * len(X)), "text": "yew", "number": 17.0}
    options = SMALL | {"categorical_features": ["tree"] if kind == "number" else "from_dtype"}
    model = estimator_class(task_column="task", **options).fit(X.assign(task=task, tree=column[kind]), y)
    missing = np.nan if kind == "number" else None
    on_new = predicted_numbers(model, X.assign(task=task, tree=new[kind]))
    on_missing = predicted_numbers(model, X.assign(task=task, tree=pd.Series([missing] * len(X), dtype=object)))
    np.testing.assert_array_equal(on_new, on_missing)
    assert model.feature_importances_[-1] > 0
    # A missing level has an effect of its own.
    known = predicted_numbers(model, X.assign(task=task, tree=1.0 if kind == "number" else "fir"))
    assert np.abs(known - on_missing).mean() > (1 if estimator_class is RMTGBRegressor else 0.2)


def test_missing_numbers_take_the_better_side_of_each_split():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = np.where(x > 0, 1.0, -1.0)
    y[:100], x[:100] = 1.0, np.nan
    X = pd.DataFrame({"x": x, "task": np.arange(400) % 2})
    for sign in (1, -1):
        predicted = RMTGBRegressor(task_column="task", **SMALL | {"max_iter_shared": 30}).fit(X, sign * y).predict(X)
        assert (sign * predicted[:100] > 0.8).all()


# --- monotonic_cst ---


def against_the_grain(estimator_class, seed=0):
    """A target that falls with `up` and rises with `down` in parts of their range, differently in each task."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.uniform(-1, 1, size=(900, 3)), columns=["up", "down", "free"])
    task = rng.integers(0, 3, len(X))
    wave = np.sin(3 * X["up"] + task) - np.sin(3 * X["down"] - task) + np.cos(3 * X["free"])
    y = wave + 0.5 * rng.normal(size=len(X))
    return X.assign(task=task), (y > 0 if estimator_class is RMTGBClassifier else y)


def largest_violation(model, seed=1):
    """Largest fall along `up` or rise along `down`, for every task, an unseen one, and each of the blocks' rounds."""
    rng = np.random.default_rng(seed)
    grid, worst = np.linspace(-1.2, 1.2, 200), 0.0
    for column, sign in (("up", 1), ("down", -1)):
        rows = pd.DataFrame(rng.uniform(-1, 1, size=(15, 3)), columns=["up", "down", "free"])
        X = (
            rows.loc[np.repeat(rows.index, len(grid))]
            .reset_index(drop=True)
            .assign(**{column: np.tile(grid, len(rows))})
        )
        for task in (0, 1, 2, 99):
            out = predicted_numbers(model, X.assign(task=task))
            out = (out[:, 1] if out.ndim == 2 else out).reshape(len(rows), len(grid))
            worst = max(worst, -(sign * np.diff(out, axis=1)).min())
    return worst


@pytest.mark.parametrize(
    ("estimator_class", "options"),
    [
        (RMTGBRegressor, {}),
        (RMTGBRegressor, {"target_scaling": "task"}),
        (RMTGBRegressor, {"loss": "huber"}),
        (RMTGBRegressor, {"loss": "absolute_error"}),
        (RMTGBRegressor, {"loss": "quantile", "quantile": 0.8}),
        (RMTGBRegressor, {"algorithm": "paper", "theta_init": "normal"}),
        (RMTGBRegressor, {"l2_regularization": 10.0, "subsample": 0.5, "max_features": 0.5}),
        (RMTGBRegressor, {"categorical_features": ["task"]}),
        (RMTGBClassifier, {}),
    ],
)
def test_predictions_are_monotonic_for_every_task_through_all_blocks(estimator_class, options):
    X, y = against_the_grain(estimator_class)
    options = {"max_iter_shared": 20, "max_iter_partition": 15, "max_iter_task": 15, "early_stopping": False} | options
    options |= {"theta_init": [-1.0, 0.5, 1.0], "random_state": 0, "task_column": "task"}
    free = estimator_class(**options).fit(X, y)
    assert largest_violation(free) > 0.05
    as_dict = estimator_class(monotonic_cst={"up": 1, "down": -1}, **options).fit(X, y)
    assert as_dict.n_iter_ == {"shared": 20, "partition": 15, "task": 15}
    assert largest_violation(as_dict) <= 1e-12
    assert np.ptp(predicted_numbers(as_dict, X)) > 0.2
    as_list = estimator_class(monotonic_cst=[1, -1, 0, 0], **options).fit(X, y)
    np.testing.assert_array_equal(predicted_numbers(as_list, X), predicted_numbers(as_dict, X))


def test_counts_are_monotonic_too():
    X, y = against_the_grain(RMTGBRegressor)
    options = SMALL | {"loss": "poisson", "max_iter_shared": 30, "max_iter_task": 15}
    counts = np.random.default_rng(0).poisson(np.exp(y))
    model = RMTGBRegressor(task_column="task", monotonic_cst={"up": 1, "down": -1}, **options).fit(X, counts)
    assert largest_violation(model) <= 1e-9


# --- stages, losses per round ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("layout", ["column", "argument", "targets"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_there_is_a_stage_per_round_and_the_last_one_is_predict(estimator_class, layout, early_stopping):
    at_predict = {}
    model = estimator_class(**SMALL | {"early_stopping": early_stopping, "max_iter_task": 40, "n_iter_no_change": 2})
    if layout == "targets":
        X, y = wide(estimator_class, as_frame=True)
        model.fit(X, y)
    else:
        X, y, task = task_rows(estimator_class)
        if layout == "column":
            X = X.assign(task=task)
            model.set_params(task_column="task").fit(X, y)
        else:
            at_predict = {"task": task}
            model.fit(X, y, task=task)
    stages = list(model.staged_predict(X, **at_predict))
    assert len(stages) == sum(model.n_iter_.values())
    final = stages[-1]
    assert all(stage.shape == stages[-1].shape for stage in stages)
    if estimator_class is RMTGBRegressor:
        np.testing.assert_allclose(final, model.predict(X, **at_predict), rtol=0, atol=1e-12)
        return
    np.testing.assert_array_equal(final, model.predict(X, **at_predict))
    proba = list(model.staged_predict_proba(X, **at_predict))
    assert len(proba) == len(stages)
    np.testing.assert_allclose(proba[-1], model.predict_proba(X, **at_predict), rtol=0, atol=1e-12)
    for stage, p in zip(stages, proba, strict=True):
        np.testing.assert_array_equal(stage, model.classes_[np.argmax(p, axis=-1)].T)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_stages_come_block_after_block(estimator_class):
    X, y, task = task_rows(estimator_class)
    X = X.assign(task=task)
    model = estimator_class(task_column="task", **SMALL).fit(X, y)
    shared = estimator_class(task_column="task", **SMALL | ONLY_SHARED).fit(X, y)
    without_task = estimator_class(task_column="task", **SMALL | {"max_iter_task": 0}).fit(X, y)
    method = "staged_predict_proba" if estimator_class is RMTGBClassifier else "staged_predict"
    stages = list(getattr(model, method)(X))
    np.testing.assert_allclose(stages[5], predicted_numbers(shared, X), rtol=0, atol=1e-12)
    np.testing.assert_allclose(stages[10], predicted_numbers(without_task, X), rtol=0, atol=1e-12)


def mean_loss(model, X, y, weight=None, **options):
    """The loss that the model minimises, from its public predictions."""
    if isinstance(model, RMTGBClassifier):
        return log_loss(y, model.predict_proba(X, **options), sample_weight=weight)
    error = y - model.predict(X, **options)
    q = {"quantile": model.quantile, "absolute_error": 0.5}.get(model.loss)
    if q is not None:
        values = np.maximum(q * error, (q - 1) * error)
    elif model.loss == "huber":
        d, e = model.huber_delta, np.abs(error)
        values = np.where(e <= d, 0.5 * e**2, d * (e - 0.5 * d))
    elif model.loss == "poisson":
        mean = model.predict(X)
        values = mean - y * np.log(mean) - y + xlogy(y, y)
    else:
        values = 0.5 * error**2
    return np.average(values, weights=weight)


@pytest.mark.parametrize(
    ("estimator_class", "options"),
    [
        (RMTGBRegressor, {}),
        (RMTGBRegressor, {"loss": "absolute_error"}),
        (RMTGBRegressor, {"loss": "quantile", "quantile": 0.2}),
        (RMTGBRegressor, {"loss": "huber", "huber_delta": 0.5}),
        (RMTGBRegressor, {"loss": "poisson"}),
        (RMTGBRegressor, {"subsample": 0.5}),
        (RMTGBClassifier, {}),
        (RMTGBClassifier, {"loss": "multinomial", "multi_strategy": "multi_output_tree"}),
    ],
)
def test_train_score_is_minus_the_mean_loss_before_and_after_each_round(estimator_class, options):
    X, y, task = task_rows(estimator_class)
    X, weight = X.assign(task=task), np.random.default_rng(0).uniform(0.5, 2, len(task))
    if options.get("loss") == "poisson":
        y = np.exp(y).round()
    model = estimator_class(task_column="task", **SMALL | options).fit(X, y, sample_weight=weight)
    assert model.train_score_.shape == (1 + 6 + 5 + 4,)
    assert model.validation_score_.shape == (0,)
    assert model.train_score_[-1] == pytest.approx(-mean_loss(model, X, y, weight), rel=1e-9)
    base = model.train_score_[0]
    if estimator_class is RMTGBClassifier:
        shares = pd.Series(weight).groupby(y).sum() / weight.sum()
        assert base == pytest.approx((shares * np.log(shares)).sum(), rel=1e-9)
    elif model.loss == "squared_error":
        assert base == pytest.approx(-0.5 * np.cov(y, aweights=weight, ddof=0), rel=1e-9)
    if "subsample" not in options:
        assert (np.diff(model.train_score_) > 0).all()


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_model_without_rounds_has_the_score_of_its_base(estimator_class, early_stopping):
    X, y, task = task_rows(estimator_class)
    X, none = X.assign(task=task), {"max_iter_shared": 0, "max_iter_partition": 0, "max_iter_task": 0}
    model = estimator_class(task_column="task", **SMALL | none | {"early_stopping": early_stopping}).fit(X, y)
    assert np.ptp(predicted_numbers(model, X), axis=0).max() == 0
    assert model.n_iter_ == {"shared": 0, "partition": 0, "task": 0}
    assert list(model.staged_predict(X)) == []
    assert len(model.train_score_) == 1
    assert len(model.validation_score_) == early_stopping


def test_scaled_targets_have_their_losses_in_scaled_units():
    X, y, task = task_rows(RMTGBRegressor)
    model = RMTGBRegressor(task_column="task", target_scaling="task", **SMALL).fit(X.assign(task=task), y)
    # The base score of a standardised target is 0, its variance 1.
    assert model.train_score_[0] == pytest.approx(-0.5)


# --- validation rows and early stopping ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize(
    "splitter",
    [
        pytest.param(TimeSeriesSplit(n_splits=3), id="time"),
        pytest.param(KFold(4), id="folds"),
        pytest.param([(np.arange(0, 240, 2), np.arange(1, 240, 2))], id="list of pairs"),
        pytest.param([(np.arange(100, 240), np.arange(100)), (np.arange(200), np.arange(200, 240))], id="two pairs"),
    ],
)
def test_a_splitter_validates_on_the_rows_of_its_last_split(estimator_class, splitter):
    X, y, task = task_rows(estimator_class)
    X, weight = X.assign(task=task), np.random.default_rng(0).uniform(0.5, 2, len(task))
    options = SMALL | {"early_stopping": "auto", "task_column": "task", "refit": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of groups that the splitter has no use for, say
        model = estimator_class(validation=splitter, **options).fit(X, y, sample_weight=weight)
    train, test = (list(splitter.split(X)) if hasattr(splitter, "split") else splitter)[-1]
    by_hand = estimator_class(**options).fit(
        X.iloc[train],
        y.iloc[train],
        weight[train],
        X_val=X.iloc[test],
        y_val=y.iloc[test],
        sample_weight_val=weight[test],
    )
    np.testing.assert_array_equal(model.validation_score_, by_hand.validation_score_)
    np.testing.assert_array_equal(predicted_numbers(model, X), predicted_numbers(by_hand, X))
    assert model.validation_score_.shape == model.train_score_.shape == (1 + sum(model.n_iter_.values()),)
    assert model.validation_score_[-1] == pytest.approx(
        -mean_loss(model, X.iloc[test], y.iloc[test], weight[test]), rel=1e-9
    )
    assert model.train_score_[-1] == pytest.approx(
        -mean_loss(model, X.iloc[train], y.iloc[train], weight[train]), rel=1e-9
    )


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_group_splitter_holds_out_whole_tasks_which_then_count_as_unseen(estimator_class):
    X, y, task = task_rows(estimator_class, n=400, n_tasks=8)
    splitter = GroupShuffleSplit(n_splits=1, test_size=2, random_state=0)
    options = SMALL | {"early_stopping": True, "refit": False}
    model = estimator_class(task_column="task", validation=splitter, **options).fit(X.assign(task=task), y)
    train, test = next(splitter.split(X, y, task))
    assert model.tasks_.tolist() == sorted(set(task[train]))
    assert model.validation_score_[-1] == pytest.approx(
        -mean_loss(model, X.assign(task=99).iloc[test], y.iloc[test]), rel=1e-9
    )


@pytest.mark.parametrize("way", ["column", "argument"])
def test_explicit_validation_rows_come_with_their_tasks(way):
    X, y, task = task_rows(RMTGBRegressor)
    X, X_val, y, y_val, task, task_val = train_test_split(X, y, task, test_size=0.3, random_state=0)
    options = SMALL | {"early_stopping": True, "max_iter_task": 40}
    if way == "column":
        X, X_val, given, val_task, at_predict = X.assign(task=task), X_val.assign(task=task_val), {}, {}, {}
        options["task_column"] = "task"
    else:
        given, val_task, at_predict = {"task": task}, {"task_val": task_val}, {"task": task_val}
    model = RMTGBRegressor(**options).fit(X, y, **given, X_val=X_val, y_val=y_val, **val_task)
    expected = -mean_loss(model, X_val, y_val, **at_predict)
    assert model.validation_score_[-1] == pytest.approx(expected, rel=1e-9)
    # Once the shares of the branches stand still, every round's score is that of the stage.
    staged = [-0.5 * np.mean((y_val - stage) ** 2) for stage in model.staged_predict(X_val, **at_predict)]
    n_shared, n_task = model.n_iter_["shared"], model.n_iter_["task"]
    np.testing.assert_allclose(model.validation_score_[1 : n_shared + 1], staged[:n_shared], rtol=1e-9)
    np.testing.assert_allclose(model.validation_score_[-n_task:], staged[-n_task:], rtol=1e-9)
    wrong = (X_val.assign(task=0), {}) if way == "column" else (X_val, {"task_val": np.zeros_like(task_val)})
    other = RMTGBRegressor(**options).fit(X, y, **given, X_val=wrong[0], y_val=y_val, **wrong[1])
    assert abs(other.validation_score_[-1] - model.validation_score_[-1]) > 1e-3


def test_explicit_validation_rows_of_a_2d_y():
    X, Y = wide(RMTGBRegressor, as_frame=True)
    model = RMTGBRegressor(**SMALL | {"early_stopping": True}).fit(X[:100], Y[:100], X_val=X[100:], y_val=Y[100:])
    error = (model.predict(X[100:]) - Y[100:].to_numpy()).ravel()
    assert model.validation_score_[-1] == pytest.approx(-0.5 * np.nanmean(error**2), rel=1e-9)


def test_explicit_validation_rows_may_hold_tasks_that_training_has_not_seen():
    X, y, task = task_rows(RMTGBRegressor)
    X = X.assign(task=task)
    new = X.assign(task=77)
    model = RMTGBRegressor(task_column="task", **SMALL | {"early_stopping": True}).fit(X, y, X_val=new, y_val=y)
    assert model.validation_score_[-1] == pytest.approx(-mean_loss(model, new, y), rel=1e-9)
    assert model.tasks_.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_held_out_rows_are_the_same_share_of_every_task(seed):
    # A target that is constant within a task makes the loss before the first tree count the held-out rows per task.
    level = np.array([0.0, 1.0, 10.0, 100.0])
    task = np.random.default_rng(seed).permutation(np.repeat(np.arange(4), [40, 80, 120, 160]))
    X, y = pd.DataFrame({"x": np.arange(400.0), "task": task}), level[task]
    options = SMALL | {"early_stopping": True, "validation_fraction": 0.25, "random_state": seed}
    model = RMTGBRegressor(task_column="task", **options).fit(X, y)
    assert model.validation_score_[0] == pytest.approx(-0.5 * np.var(y), rel=1e-12)
    assert model.train_score_[0] == pytest.approx(-0.5 * np.var(y), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_held_out_rows_are_the_same_share_of_every_class_in_every_task(seed):
    task, label = np.repeat([0, 0, 1, 1], [40, 160, 160, 40]), np.repeat([0, 1, 0, 1], [40, 160, 160, 40])
    order = np.random.default_rng(seed).permutation(400)
    X, y = pd.DataFrame({"x": np.arange(400.0), "task": task[order]}), label[order]
    options = SMALL | {"early_stopping": True, "validation_fraction": 0.25, "random_state": seed}
    rounds = {"max_iter_shared": 0, "max_iter_partition": 0, "max_iter_task": 1, "max_leaf_nodes_task": 2}
    # One leaf per task: the losses show the share of each class in each task, in both parts.
    options |= rounds | {"subsample": 1.0, "refit": False}
    model = RMTGBClassifier(task_column="task", min_samples_leaf_task=1000, **options).fit(X, y)
    np.testing.assert_allclose(model.validation_score_, model.train_score_, rtol=1e-12)
    assert model.train_score_[0] == pytest.approx(-np.log(2), rel=1e-12)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_early_stopping_ends_each_block_at_its_best_round(estimator_class):
    X, y = make_task_groups(
        100, task_type="binary" if estimator_class is RMTGBClassifier else "regression", noise=1.0, random_state=0
    )
    options = {"max_iter_shared": 300, "max_iter_partition": 300, "max_iter_task": 300, "n_iter_no_change": 5}
    model = estimator_class(task_column="task", early_stopping=True, random_state=0, **options).fit(X, y)
    path, start = model.validation_score_, 0
    for block in BLOCKS:
        assert model.n_iter_[block] < 300
        part = path[start : start + model.n_iter_[block] + 1]
        assert np.argmax(part) == len(part) - 1
        start += model.n_iter_[block]
    assert len(path) == start + 1
    patient = estimator_class(
        task_column="task", early_stopping=True, random_state=0, **options | {"n_iter_no_change": 40}
    )
    assert patient.fit(X, y).n_iter_["shared"] >= model.n_iter_["shared"]


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_auto_early_stopping_begins_at_the_number_of_rows_that_the_docstring_states(estimator_class):
    n = int(re.search(r'"auto" does so from (\d+)\s+rows on', RMTGBRegressor.__doc__).group(1))
    X, y, task = task_rows(estimator_class, n=n)
    X, options = X.assign(task=task), SMALL | {"early_stopping": "auto", "task_column": "task"}
    assert len(estimator_class(**options).fit(X, y).validation_score_) > 0
    assert len(estimator_class(**options).fit(X[:-1], y[:-1]).validation_score_) == 0
    # Rows of weight 0 are absent here as well.
    weight = np.ones(n)
    weight[7] = 0
    assert len(estimator_class(**options).fit(X, y, weight).validation_score_) == 0


def test_without_a_validation_fraction_the_training_loss_is_watched():
    X, y, task = task_rows(RMTGBRegressor)
    X = X.assign(task=task)
    options = SMALL | {"early_stopping": True, "max_iter_shared": 200, "task_column": "task"}
    watched = RMTGBRegressor(validation_fraction=None, tol=0.01, **options).fit(X, y)
    assert len(watched.validation_score_) == 0
    assert watched.n_iter_["shared"] < 200
    assert watched.train_score_[-1] == pytest.approx(-mean_loss(watched, X, y), rel=1e-9)  # no row was held out
    held = RMTGBRegressor(validation_fraction=0.2, **options).fit(X, y)
    assert len(held.validation_score_) == len(held.train_score_) > 0


# --- warm_start ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_shared_rounds_added_by_a_warm_start_equal_those_of_one_fit(estimator_class, n_classes):
    X, y, task = task_rows(estimator_class, n_classes=n_classes)
    X, options = X.assign(task=task), SMALL | ONLY_SHARED | {"task_column": "task"}
    warm = estimator_class(warm_start=True, **options)
    for n in (0, 4, 4, 12):
        warm.set_params(max_iter_shared=n).fit(X, y)
        at_once = estimator_class(**options | {"max_iter_shared": n}).fit(X, y)
        assert warm.n_iter_ == at_once.n_iter_ == {"shared": n, "partition": 0, "task": 0}
        np.testing.assert_allclose(predicted_numbers(warm, X), predicted_numbers(at_once, X), rtol=0, atol=1e-9)
        np.testing.assert_allclose(warm.train_score_, at_once.train_score_, rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("options", [{}, {"subsample": 0.5, "max_features": 0.5}])
def test_a_warm_start_adds_rounds_to_any_block_and_keeps_those_that_are_there(estimator_class, options):
    X, y, task = task_rows(estimator_class, n_classes=2)
    X = X.assign(task=task)
    model = estimator_class(task_column="task", warm_start=True, **SMALL | options).fit(X, y)
    before, first = model.n_iter_, model.decompose(X)
    for block in ("task", "partition", "shared"):
        model.set_params(**{f"max_iter_{block}": 20}).fit(X, y)
        assert model.n_iter_ == before | {block: 20}
        before = model.n_iter_
        parts = model.decompose(X)
        for name in BLOCKS:
            if block != name and name != "partition":
                np.testing.assert_allclose(parts[name], first[name], rtol=0, atol=1e-12)
        assert np.abs(parts[block] - first[block]).max() > 1e-3
        first = parts
        assert len(model.train_score_) == 1 + sum(model.n_iter_.values())
        assert len(list(model.staged_predict(X))) == sum(model.n_iter_.values())
    total = first.shared + first.partition + first.task
    if estimator_class is RMTGBRegressor:
        np.testing.assert_allclose(total, model.predict(X), rtol=0, atol=1e-9)
    else:
        np.testing.assert_allclose(total, model.decision_function(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_warm_start_validates_on_the_same_rows_and_never_goes_back(estimator_class):
    X, y, task = task_rows(estimator_class)
    X, options = X.assign(task=task), SMALL | {"early_stopping": True, "n_iter_no_change": 3, "task_column": "task"}
    model = estimator_class(warm_start=True, **options).fit(X, y)
    first = model.validation_score_
    n_shared = model.n_iter_["shared"]
    model.set_params(max_iter_shared=40, max_iter_partition=40, max_iter_task=40).fit(X, y)
    np.testing.assert_array_equal(model.validation_score_[: n_shared + 1], first[: n_shared + 1])
    assert model.validation_score_[-1] >= first[-1]
    assert len(model.validation_score_) == 1 + sum(model.n_iter_.values())


def test_a_warm_start_that_continues_all_blocks_goes_on_lowering_the_loss():
    X, y, task = task_rows(RMTGBRegressor)
    X = X.assign(task=task)
    model = RMTGBRegressor(task_column="task", warm_start=True, **SMALL).fit(X, y)
    before = mean_loss(model, X, y)
    model.set_params(max_iter_shared=20, max_iter_partition=20, max_iter_task=20).fit(X, y)
    assert model.n_iter_ == {"shared": 20, "partition": 20, "task": 20}
    assert mean_loss(model, X, y) < 0.5 * before
    assert model.train_score_[-1] == pytest.approx(-mean_loss(model, X, y), rel=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_without_warm_start_a_second_fit_starts_anew(estimator_class):
    X, y, task = task_rows(estimator_class)
    X = X.assign(task=task)
    model = estimator_class(task_column="task", **SMALL).fit(X, y)
    again = estimator_class(task_column="task", **SMALL).fit(X[:100], y[:100]).fit(X, y)
    np.testing.assert_array_equal(predicted_numbers(model, X), predicted_numbers(again, X))


# --- verbose ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_verbose_logs_a_line_per_ten_rounds_or_per_round_with_the_losses(estimator_class, caplog):
    X, y, task = task_rows(estimator_class)
    X, options = X.assign(task=task), SMALL | {"task_column": "task", "max_iter_shared": 20, "early_stopping": True}
    options |= {"sharing": "blocks", "refit": False}
    estimator_class(**options | {"n_iter_no_change": 50}).fit(X, y)
    assert caplog.messages == []
    lines = {}
    for verbose in (1, 2):
        model = estimator_class(verbose=verbose, **options | {"n_iter_no_change": 50}).fit(X, y)
        lines[verbose] = caplog.messages.copy()
        caplog.clear()
    assert [line.split(":")[0] for line in lines[1]] == [
        "shared round 10/20", "shared round 20/20", "partition round 5/5", "task round 4/4"
    ]  # fmt: skip
    assert len(lines[2]) == 29
    assert set(lines[1]) <= set(lines[2])
    first = lines[2][0]
    assert first.startswith("shared round 1/20: training loss ")
    assert f"{-model.train_score_[1]:.6g}, validation loss {-model.validation_score_[1]:.6g}" in first


# --- mixed types of classes ---


@pytest.mark.parametrize(
    "labels",
    [["no", "yes"], [False, True], [3, 7], [-1, 1], [0.0, 1.0], ["a", "b", "c"], [10, 20, 30]],
)
def test_classes_keep_the_type_that_y_had(labels):
    X, y, task = task_rows(RMTGBClassifier, n_classes=len(labels))
    y = np.array(labels)[np.unique(y, return_inverse=True)[1]]
    X = X.assign(task=task)
    model = RMTGBClassifier(task_column="task", **SMALL).fit(X, y)
    assert model.classes_.tolist() == labels
    assert model.classes_.dtype.kind == y.dtype.kind if y.dtype.kind != "U" else model.classes_.dtype.kind in "UO"
    predicted = model.predict(X)
    assert set(predicted.tolist()) == set(labels)
    assert model.score(X, y) > 0.7
    reference = RMTGBClassifier(task_column="task", **SMALL).fit(X, np.unique(y, return_inverse=True)[1])
    np.testing.assert_array_equal(model.predict_proba(X), reference.predict_proba(X))


def test_all_pairs_of_layouts_agree_on_two_classes_and_two_scores_of_them():
    X, y, task = task_rows(RMTGBClassifier, n_classes=2)
    X = X.assign(task=task)
    # Two softmax scores of half the size each are the same model as one log-odds, up to how their trees regularise.
    one = RMTGBClassifier(task_column="task", **SMALL).fit(X, y)
    two = RMTGBClassifier(task_column="task", loss="multinomial", **SMALL).fit(X, y)
    assert one.decision_function(X).shape == two.decision_function(X).shape == (len(X),)
    assert np.corrcoef(one.decision_function(X), two.decision_function(X))[0, 1] > 0.95
    for model in (one, two):
        np.testing.assert_allclose(logit(model.predict_proba(X)[:, 1]), model.decision_function(X), atol=1e-9)


def test_counts_are_fitted_on_the_log_scale():
    X, y, task = task_rows(RMTGBRegressor, n=600)
    X, counts = X.assign(task=task), np.random.default_rng(0).poisson(np.exp(y))
    options = {"task_column": "task", "early_stopping": False, "random_state": 0}
    rounds = {"max_iter_shared": 30, "max_iter_partition": 20, "max_iter_task": 20}
    poisson = RMTGBRegressor(loss="poisson", **options | rounds).fit(X[:400], counts[:400])
    assert poisson.predict(X).min() > 0
    constant = np.full(200, counts[:400].mean())
    deviance = mean_poisson_deviance(counts[400:], poisson.predict(X[400:]))
    assert deviance < 0.8 * mean_poisson_deviance(counts[400:], constant)


def test_blocks_are_named_in_the_order_of_their_rounds():
    X, y, task = task_rows(RMTGBRegressor)
    for rounds in itertools.product([0, 3], repeat=3):
        named = {f"max_iter_{block}": n for block, n in zip(BLOCKS, rounds, strict=True)}
        model = RMTGBRegressor(task_column="task", **SMALL | named).fit(X.assign(task=task), y)
        assert list(model.n_iter_.items()) == list(zip(BLOCKS, rounds, strict=True))
