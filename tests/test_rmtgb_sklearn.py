"""The R-MTGB estimators inside scikit-learn: checks, pipelines, searches, scorers, inspection and metadata routing."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.inspection import permutation_importance
from sklearn.metrics import get_scorer, log_loss, mean_squared_error, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, TimeSeriesSplit, cross_val_predict, cross_val_score
from sklearn.model_selection import cross_validate as sk_cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from mttab import RMTGBClassifier, RMTGBRegressor

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
# Before 1.8, a search hands nothing on to the score method of a pipeline.
SEARCH_SCORES_PIPELINES_WITH_METADATA = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
SMALL = {"max_iter_shared": 8, "max_iter_partition": 4, "max_iter_task": 4, "early_stopping": False, "random_state": 0}


def schools(estimator_class, n=240, seed=0):
    """A table with numbers, a category and a text task column; the school decides the sign of the effect of `hours`."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "hours": rng.normal(size=n),
            "noise": rng.normal(size=n),
            "school": rng.choice(["north", "south", "west"], n),
            "room": rng.choice(["a", "b"], n),
        }
    )
    score = X["hours"] * X["school"].map({"north": 1.0, "south": 1.0, "west": -1.0}) + (X["room"] == "a")
    y = score + 0.1 * rng.normal(size=n)
    if estimator_class is RMTGBClassifier:
        y = pd.Series(np.where(y > 0.5, "yes", "no"))
    return X, y.rename("y")


def columns(**options):
    options = {"remainder": "passthrough"} | options
    return ColumnTransformer([("scale", StandardScaler(), ["hours", "noise"])], **options)


def pipeline(estimator_class, **options):
    """Scaled numbers and an untouched task column, under the names that they had."""
    transformer = columns(verbose_feature_names_out=False).set_output(transform="pandas")
    return Pipeline([("columns", transformer), ("model", estimator_class(task_column="school", **SMALL | options))])


def predicted_numbers(model, X):
    """What a model predicts, as floats: probabilities for a classifier."""
    return model.predict_proba(X) if is_classifier(model) else model.predict(X)


# --- pipelines and searches ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_pipeline_equals_the_steps_by_hand(estimator_class):
    X, y = schools(estimator_class)
    chain = pipeline(estimator_class).fit(X, y)
    scaled = X.assign(**{c: (X[c] - X[c].mean()) / X[c].std(ddof=0) for c in ("hours", "noise")})
    by_hand = estimator_class(task_column="school", **SMALL).fit(scaled, y)
    np.testing.assert_allclose(predicted_numbers(chain, X), predicted_numbers(by_hand, scaled), rtol=0, atol=1e-9)
    assert chain[-1].tasks_.tolist() == ["north", "south", "west"]
    assert list(chain[:-1].get_feature_names_out()) == list(chain[-1].feature_names_in_) == list(X.columns)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_grid_search_over_block_sizes_runs_in_a_pipeline_and_finds_the_blocks_that_tasks_need(estimator_class):
    X, y = schools(estimator_class)
    scoring = "neg_log_loss" if estimator_class is RMTGBClassifier else "neg_mean_squared_error"
    grid = {"model__max_iter_shared": [0, 30], "model__max_iter_partition": [0, 4], "model__max_iter_task": [0, 30]}
    search = GridSearchCV(pipeline(estimator_class), grid, scoring=scoring, cv=3, error_score="raise").fit(X, y)
    # "west" runs against the others: a model without trees of its own cannot follow.
    assert search.best_params_["model__max_iter_task"] == 30
    results = pd.DataFrame(search.cv_results_).set_index([f"param_{name}" for name in grid])["mean_test_score"]
    assert len(results) == 8
    assert results[0, 0, 0] == results.min()
    assert search.best_score_ == results.max()
    assert search.score(X, y) == get_scorer(scoring)(search.best_estimator_, X, y)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize(
    ("options", "as_pandas", "match"),
    [
        ({}, True, "'remainder__school'.*verbose_feature_names_out=False.*set_output"),
        ({}, False, "array without column names.*set_output.*verbose_feature_names_out=False"),
        (
            {"verbose_feature_names_out": False, "remainder": "drop"},
            True,
            "passthrough.*verbose_feature_names_out=False",
        ),
    ],
)
def test_a_column_transformer_that_hides_the_task_column_is_told_how_to_keep_it(
    estimator_class, options, as_pandas, match
):
    X, y = schools(estimator_class)
    transformer = columns(**options)
    if as_pandas:
        transformer.set_output(transform="pandas")
    chain = make_pipeline(transformer, estimator_class(task_column="school", **SMALL))
    with pytest.raises(ValueError, match=f"task_column='school'.*{match}"):
        chain.fit(X, y)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_column_transformer_without_names_works_with_a_task_position(estimator_class):
    X, y = schools(estimator_class)
    named = pipeline(estimator_class, categorical_features=None).fit(X.drop(columns="room"), y)
    unnamed = make_pipeline(columns(), estimator_class(task_column=2, **SMALL)).fit(X.drop(columns="room"), y)
    np.testing.assert_array_equal(
        predicted_numbers(named, X.drop(columns="room")), predicted_numbers(unnamed, X.drop(columns="room"))
    )


# --- scorers and cross-validation ---


@pytest.mark.parametrize(
    ("estimator_class", "scoring"),
    [
        (RMTGBRegressor, "r2"),
        (RMTGBRegressor, "neg_root_mean_squared_error"),
        (RMTGBRegressor, "neg_mean_absolute_error"),
        (RMTGBClassifier, "accuracy"),
        (RMTGBClassifier, "roc_auc"),
        (RMTGBClassifier, "neg_log_loss"),
        (RMTGBClassifier, "neg_brier_score"),
    ],
)
def test_string_scorers_see_the_tasks(estimator_class, scoring):
    X, y = schools(estimator_class)
    if scoring == "neg_brier_score":
        y = (y == "yes").astype(int)
    model = estimator_class(task_column="school", **SMALL)
    cv = KFold(3, shuffle=True, random_state=0)
    figures = cross_val_score(model, X, y, scoring=scoring, cv=cv, error_score="raise")
    expected, blind = [], []
    for train, test in cv.split(X):
        fitted = clone(model).fit(X.iloc[train], y.iloc[train])
        expected.append(get_scorer(scoring)(fitted, X.iloc[test], y.iloc[test]))
        without = X.drop(columns="school")
        fitted = clone(model).set_params(task_column=None).fit(without.iloc[train], y.iloc[train])
        blind.append(get_scorer(scoring)(fitted, without.iloc[test], y.iloc[test]))
    assert figures.tolist() == expected
    assert np.mean(figures) > np.mean(blind)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_cross_val_predict_gives_each_row_the_prediction_of_the_fold_that_left_it_out(estimator_class):
    X, y = schools(estimator_class)
    model, cv = estimator_class(task_column="school", **SMALL), KFold(3)
    method = "predict_proba" if is_classifier(model) else "predict"
    out = cross_val_predict(model, X, y, cv=cv, method=method)
    for train, test in cv.split(X):
        fitted = clone(model).fit(X.iloc[train], y.iloc[train])
        np.testing.assert_array_equal(out[test], getattr(fitted, method)(X.iloc[test]))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_cross_validation_takes_a_2d_y(estimator_class):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    Y = np.column_stack([X[:, 0], X[:, 0] + X[:, 1]])
    if estimator_class is RMTGBClassifier:
        Y = (Y > 0).astype(int)
    model = estimator_class(**SMALL)
    assert (cross_val_score(model, X, Y, cv=3, error_score="raise") > 0.3).all()
    out = cross_val_predict(model, X, Y, cv=KFold(3))
    train, test = next(KFold(3).split(X))
    np.testing.assert_array_equal(out[test], clone(model).fit(X[train], Y[train]).predict(X[test]))


def test_decision_function_ranks_rows_as_predict_proba_does():
    X, y = schools(RMTGBClassifier)
    model = RMTGBClassifier(task_column="school", **SMALL).fit(X, y)
    assert roc_auc_score(y, model.decision_function(X)) == roc_auc_score(y, model.predict_proba(X)[:, 1])
    assert get_scorer("neg_log_loss")(model, X, y) == -log_loss(y, model.predict_proba(X))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_permutation_importance_shuffles_the_task_column_like_any_other(estimator_class):
    X, y = schools(estimator_class)
    model = estimator_class(task_column="school", **SMALL | {"max_iter_task": 30}).fit(X, y)
    result = permutation_importance(model, X, y, n_repeats=3, random_state=0)
    importance = dict(zip(X.columns, result.importances_mean, strict=True))
    assert importance["hours"] > importance["noise"]
    # Rows under another school's name get another school's prediction.
    assert importance["school"] > importance["noise"] + 0.1


def test_score_is_r2_and_accuracy():
    X, y = schools(RMTGBRegressor)
    weight = np.linspace(0, 1, len(y))
    model = RMTGBRegressor(task_column="school", **SMALL).fit(X, y)
    assert model.score(X, y) == r2_score(y, model.predict(X))
    assert model.score(X, y, sample_weight=weight) == r2_score(y, model.predict(X), sample_weight=weight)
    X, y = schools(RMTGBClassifier)
    model = RMTGBClassifier(task_column="school", **SMALL).fit(X, y)
    assert model.score(X, y) == np.mean(y == model.predict(X))
    assert model.score(X, y, sample_weight=weight) == pytest.approx(np.average(y == model.predict(X), weights=weight))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_score_of_several_columns_is_the_mean_over_the_observed_labels_of_each(estimator_class):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    Y = pd.DataFrame({"a": X[:, 0] + X[:, 1], "b": X[:, 0] - X[:, 1]})
    if estimator_class is RMTGBClassifier:
        Y = (Y > 0).astype(float)
    Y.iloc[:30, 1] = np.nan
    weight = np.linspace(0.1, 1, 80)
    model = estimator_class(**SMALL).fit(X, Y)
    predicted = model.predict(X)
    for w in (None, weight):
        figures = []
        for t, seen in enumerate(Y.notna().to_numpy().T):
            true, guess, part = Y.to_numpy()[seen, t], predicted[seen, t], None if w is None else w[seen]
            if estimator_class is RMTGBClassifier:
                figures.append(np.average(true == guess, weights=part))
            else:
                figures.append(
                    1 - mean_squared_error(true, guess, sample_weight=part) / np.cov(true, aweights=part, ddof=0)
                )
        assert model.score(X, Y, sample_weight=w) == pytest.approx(np.mean(figures), rel=1e-12)


# --- metadata routing ---


@pytest.fixture
def routing():
    """Metadata routing switched on, and back to what it was."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def split_off_task(estimator_class):
    X, y = schools(estimator_class)
    return X.drop(columns=["school", "room"]), y, X["school"].to_numpy()


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_task_is_routed_to_fit_and_score_without_being_asked_for(estimator_class, routing):
    X, y, task = split_off_task(estimator_class)
    model, cv = estimator_class(**SMALL), KFold(3)
    results = sk_cross_validate(model, X, y, params={"task": task}, cv=cv, return_estimator=True, error_score="raise")
    for (train, test), fitted, figure in zip(cv.split(X), results["estimator"], results["test_score"], strict=True):
        assert fitted.tasks_.tolist() == ["north", "south", "west"]
        by_hand = clone(model).fit(X.iloc[train], y.iloc[train], task=task[train])
        assert figure == by_hand.score(X.iloc[test], y.iloc[test], task=task[test])


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_task_is_routed_through_a_pipeline_and_a_grid_search(estimator_class, routing):
    X, y, task = split_off_task(estimator_class)
    chain = make_pipeline(StandardScaler(), estimator_class(**SMALL))
    name = f"{chain.steps[-1][0]}__max_iter_task"
    search = GridSearchCV(chain, {name: [0, 20]}, cv=3, error_score="raise")
    if not SEARCH_SCORES_PIPELINES_WITH_METADATA:
        with pytest.raises(ValueError, match="fit with task_column=, which also works inside pipelines"):
            search.fit(X, y, task=task)
        return
    search.fit(X, y, task=task)
    assert search.best_params_ == {name: 20}
    assert search.best_estimator_[-1].n_tasks_ == 3
    assert search.score(X, y, task=task) == search.best_estimator_.score(X, y, task=task)
    np.testing.assert_array_equal(
        search.best_estimator_.predict(X, task=task),
        chain.set_params(**{name: 20}).fit(X, y, task=task).predict(X, task=task),
    )


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_string_scorers_on_a_model_fitted_with_task_are_refused_rather_than_guessed(estimator_class, routing):
    X, y, task = split_off_task(estimator_class)
    scoring = "accuracy" if estimator_class is RMTGBClassifier else "r2"
    with pytest.raises(ValueError, match="task_column="):
        sk_cross_validate(
            estimator_class(**SMALL), X, y, params={"task": task}, scoring=scoring, cv=3, error_score="raise"
        )


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_sample_weight_is_routed_once_it_is_requested(estimator_class, routing):
    X, y, task = split_off_task(estimator_class)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    model = estimator_class(**SMALL).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    results = sk_cross_validate(
        model, X, y, params={"task": task, "sample_weight": weight}, cv=KFold(2), error_score="raise"
    )
    train, test = next(KFold(2).split(X))
    by_hand = estimator_class(**SMALL).fit(X.iloc[train], y.iloc[train], weight[train], task[train])
    figure = by_hand.score(X.iloc[test], y.iloc[test], sample_weight=weight[test], task=task[test])
    assert results["test_score"][0] == figure


# --- what every estimator has ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_clone_keeps_every_parameter_and_no_fitted_state(estimator_class):
    X, y = schools(estimator_class)
    options = {"theta_init": {"north": 0.5, "south": -1.0, "west": 1.0}, "monotonic_cst": {"hours": 1}, "n_jobs": 1}
    model = estimator_class(task_column="school", validation=TimeSeriesSplit(3), **SMALL | options).fit(X, y)
    copy = clone(model)
    assert not hasattr(copy, "tasks_")
    with pytest.raises(sklearn.exceptions.NotFittedError):
        copy.predict(X)
    assert repr(copy) == repr(model)
    assert copy.get_params().keys() == model.get_params().keys()
    np.testing.assert_array_equal(predicted_numbers(copy.fit(X, y), X), predicted_numbers(model, X))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_html_representation_names_the_estimator_before_and_after_fit(estimator_class):
    X, y = schools(estimator_class)
    model = estimator_class(task_column="school", **SMALL)
    for html in (
        estimator_html_repr(model),
        estimator_html_repr(model.fit(X, y)),
        estimator_html_repr(pipeline(estimator_class)),
    ):
        assert estimator_class.__name__ in html
        assert "school" in html


def test_tags_say_what_the_estimators_can_do():
    regressor, classifier = RMTGBRegressor(), RMTGBClassifier()
    assert is_regressor(regressor)
    assert is_classifier(classifier)
    for model in (regressor, classifier):
        tags = model.__sklearn_tags__()
        assert tags.input_tags.allow_nan
        assert tags.input_tags.categorical
        assert tags.target_tags.multi_output


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_column_names_are_kept_and_count_the_task_column(estimator_class):
    X, y = schools(estimator_class)
    X = X.drop(columns="room")
    model = estimator_class(task_column="school", **SMALL).fit(X, y)
    assert model.feature_names_in_.tolist() == X.columns.tolist()
    assert model.n_features_in_ == len(model.feature_importances_) == 3
    # A second fit on an array forgets the names of the first.
    model.set_params(task_column=2).fit(X.to_numpy(), y)
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == len(model.feature_importances_) == 3


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_an_array_without_names_is_read_by_the_names_of_fit_and_warned_of(estimator_class):
    X, y = schools(estimator_class)
    model = estimator_class(task_column="school", **SMALL).fit(X, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        predicted = predicted_numbers(model, X.to_numpy())
    np.testing.assert_array_equal(predicted, predicted_numbers(model, X))
