"""Pooled models, models that are told the task, and models per task, around any estimator."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from lightgbm import LGBMRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import get_tags

import mttab
from mttab import (
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
    TaskAsFeatureClassifier,
    TaskAsFeatureRegressor,
    TaskClusterClassifier,
    TaskClusterRegressor,
)

REGRESSORS = [PooledRegressor, TaskAsFeatureRegressor, PerTaskRegressor, TaskClusterRegressor]
CLASSIFIERS = [PooledClassifier, TaskAsFeatureClassifier, PerTaskClassifier, TaskClusterClassifier]


def schools(n=200, seed=0):
    """Numbers with a hole, a category, text ids; `hours` works the other way in the west."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "hours": rng.normal(size=n),
            "school": rng.choice(["north", "south", "west"], n),
            "age": rng.normal(size=n),
            "room": pd.Categorical(rng.choice(["a", "b"], n)),
        }
    )
    X.loc[0, "age"] = np.nan
    y = X["hours"] * np.where(X["school"] == "west", -1, 1) + (X["room"] == "a") + 0.1 * rng.normal(size=n)
    return X, y.rename("y")


def numeric(n=200, seed=0):
    X, y = schools(n, seed)
    return X.drop(columns="room").fillna(0.0), y


def labels(y):
    return pd.Series(np.where(y > 0.5, "yes", "no"), index=y.index)


# --- what each of them is ---


def test_pooled_is_the_estimator_without_the_task_column():
    X, y = numeric()
    model = PooledRegressor(Ridge(), task_column="school").fit(X, y)
    plain = Ridge().fit(X.drop(columns="school"), y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X.drop(columns="school")))
    assert model.estimator_.feature_names_in_.tolist() == ["hours", "age"]


def test_per_task_is_the_estimator_on_the_rows_of_each_task():
    X, y = numeric()
    model = PerTaskRegressor(Ridge(), task_column="school").fit(X, y)
    for name, part, estimator in zip(model.tasks_, ["north", "south", "west"], model.estimators_, strict=True):
        here = X["school"] == part
        alone = Ridge().fit(X.loc[here, ["hours", "age"]], y[here])
        assert name == part
        np.testing.assert_allclose(estimator.coef_, alone.coef_)
        np.testing.assert_allclose(model.predict(X[here]), alone.predict(X.loc[here, ["hours", "age"]]))
    everything = Ridge().fit(X[["hours", "age"]], y)
    moon = X.assign(school="moon")
    np.testing.assert_allclose(model.predict(moon), everything.predict(X[["hours", "age"]]))


def test_per_column_is_the_estimator_on_the_observed_rows_of_each_column():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    Y = X[:, :2] + rng.normal(size=(60, 2))
    Y[:20, 1] = np.nan
    model = PerTaskRegressor(Ridge()).fit(X, Y)
    np.testing.assert_allclose(model.predict(X)[:, 0], Ridge().fit(X, Y[:, 0]).predict(X))
    np.testing.assert_allclose(model.predict(X)[:, 1], Ridge().fit(X[20:], Y[20:, 1]).predict(X))
    assert model.fallback_ is None  # no new task can come


@pytest.mark.parametrize("encoding", ["category", "onehot", "ordinal"])
def test_the_task_is_handed_on_as_asked_for(encoding):
    X, y = numeric()
    model = TaskAsFeatureRegressor(Spy(), task_column="school", task_encoding=encoding).fit(X, y)
    seen = model.estimator_.seen_
    code = X["school"].map({"north": 0, "south": 1, "west": 2}).to_numpy()
    assert seen.columns[:2].tolist() == ["hours", "age"]
    if encoding == "category":
        assert seen["school"].cat.categories.tolist() == ["school=north", "school=south", "school=west"]
        np.testing.assert_array_equal(seen["school"].cat.codes, code)
    elif encoding == "onehot":
        assert seen.columns[2:].tolist() == ["school=north", "school=south", "school=west"]
        np.testing.assert_array_equal(seen.iloc[:, 2:], np.eye(3)[code])
    else:
        np.testing.assert_array_equal(seen["school"], code)
    unseen = model.estimator_.table_of(lambda: model.predict(X.assign(school="moon")))
    if encoding == "category":
        assert unseen["school"].isna().all()
    else:
        assert (unseen.iloc[:, 2:] == (0 if encoding == "onehot" else -1)).all(axis=None)


class Spy(DecisionTreeRegressor):
    """Remembers the table that it was handed."""

    def fit(self, X, y):
        self.seen_ = X
        return self

    def predict(self, X):
        self.seen_ = X
        return np.zeros(len(X))

    def table_of(self, call):
        call()
        return self.seen_


@pytest.mark.parametrize("task_column", [0, [0, 1]])
@pytest.mark.parametrize("encoding", ["category", "onehot"])
def test_the_names_of_added_columns_go_with_those_of_the_table(task_column, encoding):
    X, y = numeric()
    n_columns = {"category": 1, "onehot": 3}[encoding] + (2 if task_column == 0 else 1)
    frame = X[["school", "age", "hours"]].assign(age=0)
    for table in (frame, frame.set_axis([5, 1, 7], axis=1), frame.to_numpy(dtype=object)):
        model = TaskAsFeatureRegressor(Spy(), task_column=task_column, task_encoding=encoding).fit(table, y)
        seen = model.estimator_.seen_
        assert seen.shape[1] == n_columns
        if isinstance(seen, pd.DataFrame):
            assert len({type(name) for name in seen.columns}) == 1
            assert seen.columns.is_unique


def test_a_feature_that_is_called_task_is_not_overwritten():
    X, y = numeric()
    table = X.drop(columns="school").assign(task=1.0)
    model = TaskAsFeatureRegressor(Spy()).fit(table, y, task=X["school"])
    assert model.estimator_.seen_.columns.tolist() == ["hours", "age", "task", "task_"]


def test_ids_that_look_alike_are_different_levels():
    X, y = numeric(40)
    ids = np.array([1, "1"] * 20, dtype=object)
    model = TaskAsFeatureRegressor(Spy(), task_encoding="onehot").fit(X.drop(columns="school"), y, task=ids)
    assert model.estimator_.seen_.columns[2:].tolist() == ["task=1", "task='1'"]


def test_an_estimator_that_reads_numbers_only_is_told_how_to_get_them():
    X, y = numeric()
    with pytest.raises(ValueError, match="could not convert") as error:
        TaskAsFeatureRegressor(Ridge(), task_column="school").fit(X.assign(school=np.arange(len(X)) % 3), y)
    assert "task_encoding='onehot' or 'ordinal'" in error.value.__notes__[0]


# --- tables of other kinds ---


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize(
    "inner",
    [
        HistGradientBoostingRegressor(max_iter=10),
        LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1),
        mttab.RMTGBRegressor(max_iter_shared=20, early_stopping=False),
    ],
)
def test_categories_reach_an_estimator_that_reads_them(inner, kind):
    X, y = schools(600)
    model = REGRESSORS[kind](inner, task_column="school").fit(X, y)
    effect = model.predict(X.assign(room=pd.Categorical(["a"] * len(X), ["a", "b"]))) - model.predict(
        X.assign(room=pd.Categorical(["b"] * len(X), ["a", "b"]))
    )
    assert effect.mean() > 0.1


def test_an_array_in_which_ids_made_text_of_numbers_holds_numbers_again():
    X, y = numeric()
    text = X.to_numpy(dtype=str)
    assert text.dtype.kind == "U"
    for estimator in (PooledRegressor, PerTaskRegressor):
        model = estimator(DecisionTreeRegressor(max_depth=3, random_state=0), task_column=1).fit(text, y)
        other = estimator(DecisionTreeRegressor(max_depth=3, random_state=0), task_column="school").fit(X, y)
        np.testing.assert_allclose(model.predict(text), other.predict(X))


def test_a_pipeline_can_encode_the_task_and_is_given_weights():
    X, y = numeric()
    weight = np.linspace(0.1, 3, len(X))
    chain = make_pipeline(StandardScaler(), Ridge())
    for with_routing in (False, True):
        with sklearn.config_context(enable_metadata_routing=with_routing):
            if with_routing:
                chain[-1].set_fit_request(sample_weight=True)
                chain[0].set_fit_request(sample_weight=False)
            model = PooledRegressor(chain, task_column="school").fit(X, y, sample_weight=weight)
        scaled = StandardScaler().fit_transform(X[["hours", "age"]])
        expected = Ridge().fit(scaled, y, sample_weight=weight).predict(scaled)
        np.testing.assert_allclose(model.predict(X), expected)
    encoded = make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge())
    assert TaskAsFeatureRegressor(encoded, task_column="school").fit(X, y).score(X, y) > 0


# --- weights ---


@pytest.mark.parametrize("kind", range(4))
def test_a_weight_counts_how_often_a_row_is_there(kind):
    X, y = numeric(120)
    weight = np.random.default_rng(0).choice([0, 1, 2], len(X))
    often = np.repeat(np.arange(len(X)), weight)
    options = {"task_column": "school", "random_state": 0}
    options |= {"task_encoding": "onehot"} if kind == 1 else {}
    options |= {"pilot": Ridge(), "n_clusters": 2} if kind == 3 else {}
    weighted = REGRESSORS[kind](Ridge(), **options).fit(X, y, sample_weight=weight)
    repeated = REGRESSORS[kind](Ridge(), **options).fit(X.iloc[often], y.iloc[often])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-8)
    unweighted = REGRESSORS[kind](Ridge(), **options).fit(X, y)
    assert np.abs(unweighted.predict(X) - weighted.predict(X)).max() > 1e-3
    if kind == 3:
        np.testing.assert_allclose(weighted.cross_error_, repeated.cross_error_, atol=1e-8)


def test_a_task_without_weight_is_absent_and_may_not_decide_anything():
    X, y = numeric()
    weight = (X["school"] != "west").to_numpy().astype(float)
    model = PerTaskRegressor(Ridge(), task_column="school").fit(X, y, sample_weight=weight)
    assert model.tasks_.tolist() == ["north", "south"]


def test_weights_for_an_estimator_that_takes_none_are_refused():
    X, y = numeric()
    with pytest.raises(ValueError, match="KNeighborsRegressor takes no weights"):
        PooledRegressor(KNeighborsRegressor(), task_column="school").fit(X, y, sample_weight=np.ones(len(X)))


# --- classes ---


@pytest.mark.parametrize("inner", [DecisionTreeClassifier(random_state=0), HistGradientBoostingClassifier(max_iter=5)])
def test_classes_that_a_task_does_not_have_get_no_probability_there(inner):
    X, y = numeric()
    y = labels(y).astype(object)
    y[(X["school"] == "north") & (X["age"] > 0)] = "maybe"
    y[X["school"] == "south"] = "yes"
    model = PerTaskClassifier(inner, task_column="school").fit(X, y)
    assert model.classes_.tolist() == ["maybe", "no", "yes"]
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    assert (proba[X["school"] == "south"] == [0, 0, 1]).all()
    assert (proba[X["school"] == "west", 0] == 0).all()
    assert proba[X["school"] == "north", 0].max() > 0.5
    assert (model.predict(X[X["school"] == "south"]) == "yes").all()
    assert set(model.predict(X)) == {"maybe", "no", "yes"}


@pytest.mark.parametrize("kind", range(4))
def test_classifiers_without_probabilities_classify(kind):
    X, y = numeric()
    options = {1: {"task_encoding": "onehot"}, 3: {"n_clusters": 2, "random_state": 0}}.get(kind, {})
    model = CLASSIFIERS[kind](RidgeClassifier(), task_column="school", **options).fit(X, labels(y))
    assert set(model.predict(X)) <= {"no", "yes"}
    assert model.predict(X.assign(school="moon")).shape == (len(X),)
    assert not hasattr(model, "predict_proba")
    assert hasattr(CLASSIFIERS[kind](LogisticRegression()), "predict_proba")


def test_the_labels_reach_the_estimator_as_the_user_calls_them():
    X, y = numeric()
    weights = {"yes": 20.0, "no": 1.0}
    model = PooledClassifier(LogisticRegression(class_weight=weights), task_column="school").fit(X, labels(y))
    assert model.estimator_.classes_.tolist() == ["no", "yes"]
    assert (model.predict(X) == "yes").mean() > 0.9


def test_a_2d_y_of_classes_gives_a_probability_array_per_column():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    Y = pd.DataFrame({"u": np.where(X[:, 0] > 0, "b", "a"), "v": np.where(X[:, 1] > 0, "b", "a")}).astype(object)
    Y.iloc[:10, 0] = None
    model = PerTaskClassifier(LogisticRegression()).fit(X, Y)
    assert [p.shape for p in model.predict_proba(X)] == [(80, 2)] * 2
    assert model.score(X, Y) > 0.9


# --- small and unseen tasks ---


def test_a_task_with_too_few_rows_is_predicted_by_the_model_of_all_rows():
    X, y = numeric()
    X.loc[3, "school"] = "tiny"
    model = PerTaskRegressor(LinearRegression(), task_column="school").fit(X, y)
    everything = LinearRegression().fit(X[["hours", "age"]], y)
    np.testing.assert_allclose(model.predict(X.assign(school="tiny")), everything.predict(X[["hours", "age"]]))
    own = PerTaskRegressor(LinearRegression(), task_column="school", min_task_rows=1).fit(X, y)
    np.testing.assert_allclose(own.predict(X.assign(school="tiny")), y[3])
    assert PerTaskRegressor(LinearRegression(), task_column="school", unseen_task="error").fit(X, y).fallback_


def test_without_unseen_tasks_no_model_of_all_rows_is_made_and_none_is_used():
    X, y = numeric()
    model = PerTaskRegressor(Ridge(), task_column="school", unseen_task="error").fit(X, y)
    assert model.fallback_ is None
    with pytest.raises(ValueError, match="unseen_task was 'error' in fit"):
        model.set_params(unseen_task="shared").predict(X.assign(school="moon"))


def test_an_error_of_the_estimator_says_of_which_task():
    X, y = numeric()
    X.loc[X["school"] == "south", "age"] = np.nan
    with pytest.raises(ValueError, match="NaN") as error:
        PerTaskRegressor(Ridge(), task_column="school").fit(X, y)
    assert "'south'" in error.value.__notes__[0]


# --- being an estimator ---


def test_the_seed_reaches_every_random_state_of_the_estimator():
    X, y = numeric()
    chain = make_pipeline(StandardScaler(), DecisionTreeRegressor(splitter="random"))
    model = PerTaskRegressor(chain, task_column="school", random_state=3).fit(X, y)
    states = {estimator[-1].random_state for estimator in model.estimators_}
    assert len(states) == 1 and None not in states
    assert chain[-1].random_state is None
    free = PerTaskRegressor(chain, task_column="school").fit(X, y)
    assert free.estimators_[0][-1].random_state is None


def test_tags_are_those_of_the_estimator():
    assert get_tags(PooledRegressor(HistGradientBoostingRegressor())).input_tags.allow_nan
    assert not get_tags(PooledRegressor(Ridge())).input_tags.allow_nan
    assert get_tags(PerTaskClassifier()).input_tags.categorical
    assert get_tags(PerTaskRegressor(Ridge())).target_tags.multi_output


def test_nested_parameters_are_searched_with_routed_weights():
    X, y = numeric()
    with sklearn.config_context(enable_metadata_routing=True):
        model = PerTaskRegressor(Ridge(), task_column="school").set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(
            model, {"estimator__alpha": [1e-3, 1e3], "min_task_rows": [2, 10**6]}, error_score="raise"
        )
        search.fit(X, y, sample_weight=np.ones(len(X)))
    assert search.best_params_ == {"estimator__alpha": 1e-3, "min_task_rows": 2}


@pytest.mark.slow  # starts processes
def test_models_fitted_side_by_side_are_the_same():
    X, y = numeric()
    one, two = (PerTaskRegressor(Ridge(), task_column="school", n_jobs=n).fit(X, y) for n in (1, 2))
    np.testing.assert_array_equal(one.predict(X), two.predict(X))


def test_the_defaults_boost():
    X, y = schools()
    for kind in REGRESSORS[1:3]:
        model = kind(task_column="school", random_state=0).fit(X, y)
        assert model.score(X, y) > 0.6
        inner = model.estimator_ if kind is TaskAsFeatureRegressor else model.estimators_[0]
        assert isinstance(inner, mttab.RMTGBRegressor)


def test_a_failed_fit_leaves_the_earlier_one_as_it_was():
    X, y = numeric()
    model = PerTaskRegressor(Ridge(), task_column="school").fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X.assign(age=np.nan, school="other"), y)
    np.testing.assert_array_equal(model.predict(X), before)
