"""A task scorer goes wherever scikit-learn takes scoring=, with the ids in X or routed as task=."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer, mean_pinball_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mttab.metrics import TaskScorer, make_task_scorer, task_scores
from mttab.model_selection import TaskStratifiedKFold


class TaskMeanRegressor(RegressorMixin, BaseEstimator):
    """Predicts each task's mean, drawn towards the mean of all; the ids are a column of X, or come as task=."""

    __metadata_request__fit = {"task": True}  # noqa: RUF012
    __metadata_request__predict = {"task": True}  # noqa: RUF012

    def __init__(self, task_column=None, shrinkage=0.0):
        self.task_column = task_column
        self.shrinkage = shrinkage

    def fit(self, X, y, task=None):
        means = pd.Series(np.asarray(y)).groupby(np.asarray(self._ids(X, task))).mean()
        self.means_ = (1 - self.shrinkage) * means + self.shrinkage * np.mean(y)
        return self

    def predict(self, X, task=None):
        return np.asarray([self.means_[t] for t in self._ids(X, task)])

    def _ids(self, X, task):
        if task is None and self.task_column is None:
            raise ValueError("no ids; name the task_column")
        return X[self.task_column] if task is None else task


class TaskRateClassifier(ClassifierMixin, TaskMeanRegressor):
    """Class probabilities: the share of the second class in each task."""

    __metadata_request__predict_proba = {"task": True}  # noqa: RUF012

    def fit(self, X, y, task=None):
        self.classes_ = np.unique(y)
        return super().fit(X, (np.asarray(y) == self.classes_[1]).astype(float), task)

    def predict_proba(self, X, task=None):
        rate = super().predict(X, task)
        return np.column_stack([1 - rate, rate])

    def predict(self, X, task=None):
        return self.classes_[(super().predict(X, task) > 0.5).astype(int)]


class WideMeanClassifier(ClassifierMixin, BaseEstimator):
    """One target per column, probabilities as a list of arrays."""

    def fit(self, X, Y):
        self.classes_ = [np.unique(Y[c].dropna()) for c in Y]
        self.rates_ = [(Y[c].dropna() == k[-1]).mean() for c, k in zip(Y, self.classes_, strict=True)]
        return self

    def predict_proba(self, X):
        return [np.tile([1 - rate, rate], (len(X), 1)) for rate in self.rates_]

    def predict(self, X):
        return np.column_stack(
            [np.repeat(k[int(r > 0.5)], len(X)) for k, r in zip(self.classes_, self.rates_, strict=True)]
        )


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    school = rng.choice(["a", "b", "c"], 120, p=[0.6, 0.3, 0.1])
    X = pd.DataFrame({"school": school, "x": rng.normal(size=120)})
    y = pd.Series(school).map({"a": 0.0, "b": 2.0, "c": -3.0}) + rng.normal(size=120)
    return X, y.to_numpy()


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


CV = TaskStratifiedKFold(3, task_column="school", shuffle=True, random_state=0)


def expected(estimator, X, y, metric, average):
    """Fold by fold, by hand."""
    values = []
    for train, test in CV.split(X, y):
        model = clone(estimator).fit(X.iloc[train], y[train])
        scores = task_scores(y[test], model.predict(X.iloc[test]), task=X["school"].iloc[test], metric=metric)
        figure = scores["score"]
        weight = scores["n"] if average == "weighted" else None
        worst = figure.min() if scores["greater_is_better"].all() else figure.max()
        value = worst if average == "worst" else np.average(figure, weights=weight)
        values.append(value if scores["greater_is_better"].all() else -value)
    return np.array(values)


# ----------------------------------------------------------------------------------------------------------------------
# Ids in a column of X
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["macro", "weighted", "worst"])
@pytest.mark.parametrize("metric", ["r2", "neg_mean_absolute_error", "mean_absolute_error"])
def test_cross_validate_averages_over_tasks(average, metric, table):
    X, y = table
    scorer = make_task_scorer(metric, average=average, task_column="school")
    model = TaskMeanRegressor("school", shrinkage=0.5)
    scores = cross_validate(model, X, y, cv=CV, scoring=scorer, error_score="raise")["test_score"]
    np.testing.assert_allclose(scores, expected(model, X, y, metric, average))


def test_grid_search_prefers_what_the_scorer_prefers(table):
    X, y = table
    grid = {"shrinkage": [0.0, 0.5, 1.0]}
    scorer = make_task_scorer("root_mean_squared_error", average="worst", task_column="school")
    search = GridSearchCV(TaskMeanRegressor("school"), grid, cv=CV, scoring=scorer, error_score="raise").fit(X, y)
    assert search.best_params_ == {"shrinkage": 0.0}
    assert search.score(X, y) == scorer(search.best_estimator_, X, y) < 0


def test_multimetric_scoring_mixes_task_scorers_and_names(table):
    X, y = table
    scoring = {
        "macro": make_task_scorer("r2", task_column="school"),
        "worst": make_task_scorer("r2", average="worst", task_column="school"),
        "plain": "r2",
    }
    scores = cross_validate(TaskMeanRegressor("school"), X, y, cv=CV, scoring=scoring, error_score="raise")
    assert (scores["test_worst"] < scores["test_macro"]).all()
    search = GridSearchCV(
        TaskMeanRegressor("school"),
        {"shrinkage": [0.0, 1.0]},
        cv=CV,
        scoring=scoring,
        refit="worst",
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"shrinkage": 0.0}
    np.testing.assert_allclose(search.cv_results_["mean_test_macro"][0], scores["test_macro"].mean())


def test_the_column_may_be_a_position_or_several_and_x_an_array(table):
    X, y = table
    number = X.assign(school=X["school"].map(ord), year=np.arange(120) % 2)
    by_name = make_task_scorer("neg_mean_squared_error", task_column="school")(DummyRegressor().fit(X, y), number, y)
    by_position = make_task_scorer("neg_mean_squared_error", task_column=0)
    assert by_position(DummyRegressor().fit(X, y), number.to_numpy(), y) == by_name
    both = make_task_scorer("neg_mean_squared_error", task_column=["school", "year"])
    assert len(both.score_tasks(DummyRegressor().fit(X, y), number, y)) == 6


def test_pipelines_and_permutation_importance_get_x_as_it_is(table):
    X, y = table
    encode = make_column_transformer((OneHotEncoder(), ["school"]), (StandardScaler(), ["x"]))
    pipe = make_pipeline(encode, Ridge())
    scorer = make_task_scorer("neg_mean_squared_error", task_column="school")
    assert np.isfinite(cross_validate(pipe, X, y, cv=CV, scoring=scorer, error_score="raise")["test_score"]).all()
    importance = permutation_importance(pipe.fit(X, y), X, y, scoring=scorer, random_state=0)
    assert importance.importances_mean[0] > importance.importances_mean[1]


def test_classifiers_are_asked_for_what_the_metric_needs(table):
    X, y = table
    label = np.where(y > 0, "yes", "no")
    model = TaskRateClassifier("school").fit(X, label)
    proba = model.predict_proba(X)
    for metric in ("neg_log_loss", "neg_brier_score", "roc_auc", "accuracy"):
        scorer = make_task_scorer(metric, task_column="school")
        table_ = scorer.score_tasks(model, X, label)
        by_hand = task_scores(label, proba, task=X["school"], metric=metric, standard_error=False)
        pd.testing.assert_frame_equal(table_, by_hand)
        assert scorer(model, X, label) == pytest.approx(by_hand["score"].mean())


def test_a_task_with_one_class_is_left_out_and_a_missing_class_is_no_error():
    X = pd.DataFrame({"school": list("aaaabb"), "x": range(6)})
    y = np.array([0, 1, 0, 1, 1, 1])
    scorer = make_task_scorer("roc_auc", task_column="school")
    pipe = make_pipeline(make_column_transformer(("passthrough", ["x"])), LogisticRegression()).fit(X, y)
    assert scorer(pipe, X, y) == scorer.score_tasks(pipe, X, y).loc["a", "score"]
    assert np.isfinite(make_task_scorer("neg_log_loss", task_column="school")(pipe, X, y))
    assert np.isnan(scorer(pipe, X.iloc[4:], y[4:]))


def test_scorers_and_functions_can_be_averaged(table):
    X, y = table
    model = TaskMeanRegressor("school").fit(X, y)
    of_function = make_task_scorer(mean_pinball_loss, task_column="school")(model, X, y)
    of_scorer = make_task_scorer(make_scorer(mean_pinball_loss, greater_is_better=False), task_column="school")(
        model, X, y
    )
    assert of_function == pytest.approx(of_scorer) and of_function < 0
    label = (y > 0).astype(int)
    log_loss = make_scorer(sklearn.metrics.log_loss, response_method="predict_proba", greater_is_better=False)
    scorer = make_task_scorer(log_loss, task_column="school")
    assert scorer(DummyClassifier().fit(X, label), X, label) < 0


# ----------------------------------------------------------------------------------------------------------------------
# Ids routed as task=
# ----------------------------------------------------------------------------------------------------------------------


def test_routed_ids_reach_fit_the_scorer_and_predict(table, routing):
    X, y = table
    scoring = {"macro": make_task_scorer("r2"), "worst": make_task_scorer("r2", average="worst")}
    routed = cross_validate(
        TaskMeanRegressor(), X[["x"]], y, scoring=scoring, params={"task": X["school"]}, error_score="raise", cv=3
    )
    of_column = {name: make_task_scorer("r2", average=name, task_column="school") for name in scoring}
    options = {"scoring": of_column, "cv": 3, "error_score": "raise", "params": {}}  # 1.6.0 trips over None
    expected = cross_validate(TaskMeanRegressor("school"), X, y, **options)
    for name in scoring:
        np.testing.assert_allclose(routed[f"test_{name}"], expected[f"test_{name}"])


def test_grid_search_and_pipelines_route_the_ids(table, routing):
    X, y = table
    pipe = make_pipeline(StandardScaler(), TaskMeanRegressor())
    grid = {"taskmeanregressor__shrinkage": [0.0, 1.0]}
    search = GridSearchCV(pipe, grid, scoring=make_task_scorer("r2", average="worst"), cv=3, error_score="raise")
    search.fit(X[["x"]], y, task=X["school"].to_list())
    assert search.best_params_ == {"taskmeanregressor__shrinkage": 0.0}


def test_an_alias_can_be_requested_and_a_request_withdrawn(table, routing):
    X, y = table
    scorer = make_task_scorer("r2").set_score_request(task="school")
    model = TaskMeanRegressor().set_fit_request(task="school")
    scores = cross_validate(model, X[["x"]], y, scoring=scorer, params={"school": X["school"]}, error_score="raise")
    assert np.isfinite(scores["test_score"]).all()
    assert scorer.get_metadata_routing().score.requests == {"task": "school", "sample_weight": None}
    assert scorer.set_score_request(task=False).get_metadata_routing().score.requests["task"] is False


def test_ids_passed_beside_a_task_column_are_refused_by_scikit_learn(table, routing):
    X, y = table
    scorer = make_task_scorer("r2", task_column="school")
    with pytest.raises(ValueError, match="task"):
        cross_validate(DummyRegressor(), X, y, scoring=scorer, params={"task": X["school"]})


def test_a_pooled_estimator_is_called_without_the_ids(table, routing):
    X, y = table
    for model in (Ridge(), make_pipeline(StandardScaler(), Ridge())):
        scores = cross_validate(
            model, X[["x"]], y, scoring=make_task_scorer("r2"), params={"task": X["school"]}, error_score="raise"
        )
        assert np.isfinite(scores["test_score"]).all()


def test_a_direct_call_forwards_the_ids_with_routing_off(table):
    X, y = table
    model = TaskMeanRegressor().fit(X, y, task=X["school"])
    assert make_task_scorer("r2")(model, X[["x"]], y, task=X["school"]) == pytest.approx(
        make_task_scorer("r2", task_column="school")(TaskMeanRegressor("school").fit(X, y), X, y)
    )


# ----------------------------------------------------------------------------------------------------------------------
# Wide y, weights, and the object itself
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["roc_auc", "neg_log_loss", "accuracy"])
def test_the_columns_of_a_wide_y_are_tasks(metric):
    rng = np.random.default_rng(0)
    Y = pd.DataFrame({"u": rng.integers(0, 2, 60), "v": rng.integers(0, 2, 60)}).mask(rng.random((60, 2)) < 0.3)
    X = np.zeros((60, 1))
    model = WideMeanClassifier().fit(X, Y)
    scorer = make_task_scorer(metric)
    by_hand = task_scores(Y, model.predict_proba(X), metric=metric, standard_error=False)
    pd.testing.assert_frame_equal(scorer.score_tasks(model, X, Y), by_hand, check_exact=False)
    scores = cross_validate(WideMeanClassifier(), X, Y, scoring={"m": scorer}, cv=KFold(3), error_score="raise")
    assert np.isfinite(scores["test_m"]).all()
    with pytest.raises(ValueError, match="task_column is given although y has one column per task"):
        make_task_scorer(metric, task_column=0)(model, X, Y)


def test_regression_with_a_wide_y():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 2)), rng.normal(size=(40, 3))
    model = Ridge().fit(X, Y)
    assert make_task_scorer("r2")(model, X, Y) == pytest.approx(sklearn.metrics.r2_score(Y, model.predict(X)))


def test_sample_weight_weighs_rows_and_tasks(table):
    X, y = table
    weight = np.random.default_rng(0).integers(0, 3, 120)
    rows = np.repeat(np.arange(120), weight)
    model = TaskMeanRegressor("school", shrinkage=0.5).fit(X, y)
    for average in ("macro", "weighted", "worst"):
        scorer = make_task_scorer("r2", average=average, task_column="school")
        weighted = scorer(model, X, y, sample_weight=weight)
        assert weighted == pytest.approx(scorer(model, X.iloc[rows], y[rows]))


def test_weights_of_a_grid_search_reach_the_scorer(table):
    X, y = table
    weight = np.random.default_rng(0).uniform(size=120)
    scoring = {"t": make_task_scorer("r2", task_column="school"), "p": "r2"}
    numbers = X.assign(school=X["school"].map(ord))
    plain = GridSearchCV(Ridge(), {"alpha": [1.0]}, scoring=scoring, refit=False, error_score="raise")
    weighted = clone(plain).fit(numbers, y, sample_weight=weight).cv_results_["mean_test_t"]
    assert weighted != plain.fit(numbers, y).cv_results_["mean_test_t"]


def test_scorers_survive_clone_pickle_and_print(table, routing):
    X, y = table
    model = TaskMeanRegressor("school").fit(X, y)
    scorer = make_task_scorer("r2", average="worst", task_column="school").set_score_request(sample_weight=True)
    assert repr(scorer) == "make_task_scorer('r2', average='worst', task_column='school')"
    for twin in (clone(scorer), clone(scorer, safe=False), pickle.loads(pickle.dumps(scorer))):
        assert isinstance(twin, TaskScorer) and twin is not scorer and repr(twin) == repr(scorer)
        assert twin(model, X, y) == scorer(model, X, y)
        twin.set_score_request(sample_weight=False)
        assert scorer.get_metadata_routing().score.requests["sample_weight"] is True
    search = GridSearchCV(model, {"shrinkage": [0.0]}, scoring={"a": scorer}, refit="a", n_jobs=2)
    assert "TaskScorer" not in repr(search) and "make_task_scorer('r2'" in repr(search)
    assert np.isfinite(clone(search).fit(X, y).best_score_)
    assert "sk-estimator" in search._repr_html_() or "sk-top-container" in search._repr_html_()


def test_a_request_needs_routing():
    with pytest.raises(RuntimeError, match="metadata routing is off"):
        make_task_scorer("r2").set_score_request(task=True)


def test_mistakes_are_named(table):
    X, y = table
    model = TaskMeanRegressor("school").fit(X, y)
    with pytest.raises(ValueError, match="average='mean' is not one of 'macro', 'weighted', 'worst'"):
        make_task_scorer("r2", average="mean")
    with pytest.raises(ValueError, match="metric='r3' is not a scikit-learn scorer name"):
        make_task_scorer("r3")
    with pytest.raises(ValueError, match="in neither way; give task_column="):
        make_task_scorer("r2")(model, X, y)
    with pytest.raises(ValueError, match="in both ways"):
        make_task_scorer("r2", task_column="school")(model, X, y, task=X["school"])
    with pytest.raises(ValueError, match="did you mean 'school'"):
        make_task_scorer("r2", task_column="shcool")(model, X, y)
    with pytest.raises(ValueError, match="neg_log_loss' needs other predictions than predict"):
        make_task_scorer("neg_log_loss", task_column="school")(model, X, y)
    with pytest.raises(ValueError, match="no ids; name the task_column"):
        make_task_scorer("r2", task_column="school")(TaskMeanRegressor().fit(X, y, task=X["school"]), X, y)
