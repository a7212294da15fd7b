"""What every estimator of the package promises, whatever it computes; `estimator_list.py` names them all."""

import copy
import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import mttab
from estimator_list import LAYOUTS, ROWS, parameters
from test_docstrings import names_in, sections

TASKS = np.array(["east", "north", "south", "west"], dtype=object)


def table(row, n=160, seed=0):
    """Three numbers and a task that decides the sign of the effect of the first."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    task = rng.integers(0, 4, n)
    X.insert(1, "task", TASKS[task])
    y = np.where(task < 2, 1, -1) * X["a"] + 0.3 * X["b"] + 0.1 * rng.normal(size=n)
    return X, pd.Series(np.where(y > 0, "yes", "no"), name="y") if row.is_classifier else y.rename("y")


def targets(row, n=160, seed=0):
    """Three numbers and three columns of labels, some of which are missing."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    Y = pd.DataFrame({"u": X["a"], "v": X["a"] + X["b"], "w": -X["c"]})
    Y = (Y > 0).astype(float) if row.is_classifier else Y
    is_missing = rng.random(Y.shape) < 0.2
    is_missing[:, 0] &= ~is_missing.all(axis=1)
    return X, Y.mask(is_missing)


def numbers(model, X, **options):
    """What a model predicts, as one array: probabilities of a classifier."""
    said = (model.predict_proba if sklearn.base.is_classifier(model) else model.predict)(X, **options)
    return np.stack(said, axis=1) if isinstance(said, list) else np.asarray(said, dtype=np.float64)


@cache
def fitted(row):
    """A model with a task column, its table and labels; not to be changed."""
    X, y = table(row)
    return row.make(task_column="task").fit(X, y), X, y


def assert_equal(row, ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=row.tolerance, atol=row.tolerance)


# --- the list itself ---


def test_the_list_names_every_estimator_of_the_package_once():
    listed = [row.name for row in ROWS]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(mttab.__all__)
    others = [getattr(mttab, name) for name in mttab.__all__ if name not in listed]
    assert [other for other in others if isinstance(other, type) and issubclass(other, BaseEstimator)] == []
    assert all(set(row.layouts) <= set(LAYOUTS) for row in ROWS)


# --- predictions ---


@pytest.mark.parametrize("row", parameters("column"))
def test_any_rows_in_any_order_are_predicted_as_in_the_whole_table(row):
    model, X, _ = fitted(row)
    whole = numbers(model, X)
    assert np.isfinite(whole).all()
    for rows in ([3], [7, 2, 2], np.random.default_rng(1).permutation(len(X)), np.flatnonzero(X["task"] == "west")):
        assert_equal(row, numbers(model, X.iloc[rows]), whole[rows])


@pytest.mark.parametrize("row", parameters("column"))
def test_the_task_of_a_row_matters_where_tasks_differ(row):
    model, X, _ = fitted(row)
    changed = np.abs(numbers(model, X.assign(task="north")) - numbers(model, X.assign(task="west"))).max()
    assert (changed == 0) == row.name.startswith("Pooled")


@pytest.mark.parametrize("row", parameters("column"))
def test_a_task_that_fit_did_not_see_is_predicted_or_refused(row):
    model, X, _ = fitted(row)
    unseen = X.assign(task="moon")
    assert np.isfinite(numbers(model, unseen)).all()
    strict = copy.deepcopy(model).set_params(unseen_task="error")
    with pytest.raises(ValueError, match="did not see, 'moon'"):
        strict.predict(unseen)


# --- the three layouts ---


@pytest.mark.parametrize("row", parameters("column", "argument"))
def test_tasks_as_a_column_or_as_an_argument_make_the_same_model(row):
    model, X, y = fitted(row)
    features = X.drop(columns="task")
    other = row.make().fit(features, y, task=X["task"])
    assert_equal(row, numbers(other, features, task=X["task"]), numbers(model, X))
    assert other.tasks_.tolist() == model.tasks_.tolist() == TASKS.tolist()
    with pytest.raises(ValueError, match="needs the task of every row"):
        other.predict(features)
    with pytest.raises(ValueError, match="task_column='task'"):
        model.predict(X, task=X["task"])


@pytest.mark.parametrize("row", parameters("column"))
def test_a_position_names_the_task_column_of_an_array(row):
    model, X, y = fitted(row)
    other = row.make(task_column=1).fit(X.to_numpy(dtype=object), y)
    assert_equal(row, numbers(other, X.to_numpy(dtype=object)), numbers(model, X))


@pytest.mark.parametrize("row", parameters("targets"))
def test_columns_of_y_are_tasks_and_labels_may_be_missing(row):
    X, Y = targets(row)
    model = row.make().fit(X, Y)
    assert model.tasks_.tolist() == ["u", "v", "w"]
    assert np.shape(model.predict(X)) == Y.shape
    assert np.isfinite(numbers(model, X)).all()
    assert np.isfinite(model.score(X, Y))
    with pytest.raises(ValueError, match="task"):
        row.make(task_column="a").fit(X, Y)


@pytest.mark.parametrize("row", parameters("column"))
def test_without_tasks_there_is_one(row):
    _, X, y = fitted(row)
    model = row.make().fit(X.drop(columns="task"), y)
    assert model.n_tasks_ == 1
    assert numbers(model, X.drop(columns="task")).shape[0] == len(X)


# --- names ---


@pytest.mark.parametrize("row", parameters("column"))
def test_names_of_tasks_change_nothing(row):
    model, X, y = fitted(row)
    names = {"same order": [0.5, 1, 2, 30], "other order": ["z", "b", "y", "a"]}
    for order, new in names.items():
        if order == "other order" and row.sees_task_order:
            continue
        renamed = X.assign(task=X["task"].map(dict(zip(TASKS, new, strict=True))))
        other = row.make(task_column="task").fit(renamed, y)
        assert other.tasks_.tolist() == sorted(new)
        np.testing.assert_allclose(numbers(other, renamed), numbers(model, X), rtol=1e-6, atol=max(1e-7, row.tolerance))


@pytest.mark.parametrize("row", parameters("column"))
def test_the_columns_of_fit_are_known_and_wanted_again(row):
    model, X, _ = fitted(row)
    assert model.feature_names_in_.tolist() == ["a", "task", "b", "c"]
    assert model.n_features_in_ == 4
    for wrong in (X[["task", "a", "b", "c"]], X.rename(columns={"b": "B"}), X.drop(columns="c")):
        with pytest.raises(ValueError, match=r"feature names|features"):
            model.predict(wrong)
    with pytest.raises(ValueError, match="task_column='task' is not a column of X"):
        model.predict(X.drop(columns="task"))


@pytest.mark.parametrize("row", parameters("column"))
def test_every_option_and_every_fitted_attribute_is_described(row):
    model = fitted(row)[0]
    described = sections(type(model))
    assert names_in(described["Parameters"]) == set(model.get_params(deep=False))
    attributes = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    assert attributes <= names_in(described["Attributes"])
    assert "Examples" in described


# --- being an estimator ---


@pytest.mark.parametrize("row", parameters("column"))
def test_a_clone_fitted_again_and_a_copy_that_was_stored_predict_the_same(row):
    model, X, y = fitted(row)
    whole = numbers(model, X)
    assert clone(model).get_params().keys() == model.get_params().keys()
    np.testing.assert_array_equal(numbers(clone(model).fit(X, y), X), whole)
    np.testing.assert_array_equal(numbers(pickle.loads(pickle.dumps(model)), X), whole)


@pytest.mark.parametrize("row", parameters("column"))
def test_fitting_an_estimator_again_leaves_nothing_of_the_first_fit(row):
    _, X, y = fitted(row)
    model = row.make(task_column="task").fit(X.iloc[:80].assign(task="other", d=0.0), y[:80])
    model.fit(X, y)
    np.testing.assert_array_equal(numbers(model, X), numbers(fitted(row)[0], X))
    assert model.n_features_in_ == 4


@pytest.mark.parametrize("row", parameters("column"))
def test_nothing_that_was_passed_is_changed(row):
    X, y = table(row, seed=3)
    weight = np.ones(len(X))
    weight[::5] = 2.0
    passed = X.copy(deep=True), y.copy(deep=True), weight.copy()
    model = row.make(task_column="task")
    options = pickle.dumps(model.get_params())
    model.fit(X, y, sample_weight=weight)
    before = pickle.dumps(model)
    numbers(model, X)
    model.score(X, y, sample_weight=weight)
    pd.testing.assert_frame_equal(X, passed[0])
    pd.testing.assert_series_equal(y, passed[1])
    np.testing.assert_array_equal(weight, passed[2])
    assert pickle.dumps(model.get_params()) == options
    assert pickle.dumps(model) == before  # predict writes nothing either


@pytest.mark.parametrize("row", parameters("column"))
def test_a_search_over_a_pipeline_runs(row):
    _, X, y = fitted(row)
    scale = ColumnTransformer(
        [("scale", StandardScaler(), ["a", "b", "c"])], remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    chain = Pipeline([("scale", scale), ("model", row.make(task_column="task"))])
    grid = {f"model__{name}": values for name, values in row.grid.items()}
    search = GridSearchCV(chain, grid, cv=KFold(3, shuffle=True, random_state=0), error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape[0] == len(X)


@pytest.mark.parametrize("row", parameters("argument"))
def test_tasks_are_routed_through_a_pipeline(row):
    _, X, y = fitted(row)
    features, task = X.drop(columns="task"), X["task"]
    with sklearn.config_context(enable_metadata_routing=True):
        chain = make_pipeline(StandardScaler(), row.make()).fit(features, y, task=task)
        assert chain[-1].tasks_.tolist() == TASKS.tolist()
        assert chain.predict(features, task=task).shape[0] == len(X)
        assert np.isfinite(chain.score(features, y, task=task))
