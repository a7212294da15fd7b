"""Edges of weights, tasks and blocks that early stopping and outlier detection must not fall over."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups


def imbalanced(n=600):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc")).assign(task=np.arange(n) % 4)
    return X, (X["a"] + rng.normal(size=n) > 1.2).astype(int).to_numpy()


@pytest.mark.parametrize("way", ["fraction", "X_val"])
def test_class_weight_is_the_sample_weight_of_its_classes_for_early_stopping_too(way):
    X, y = imbalanced()
    weight = np.where(y == 1, 10.0, 1.0)
    common = {"task_column": "task", "early_stopping": True, "random_state": 0}
    held = {} if way == "fraction" else {"X_val": X[::3], "y_val": y[::3]}
    held_weight = {"sample_weight_val": weight[::3]} if held else {}
    model = RMTGBClassifier(class_weight={1: 10.0}, **common).fit(X, y, **held)
    other = RMTGBClassifier(**common).fit(X, y, sample_weight=weight, **held, **held_weight)
    assert model.n_iter_ == other.n_iter_
    np.testing.assert_allclose(model.validation_score_, other.validation_score_, rtol=1e-9)
    unweighted = RMTGBClassifier(**common).fit(X, y, **held)
    assert not np.array_equal(unweighted.validation_score_, model.validation_score_)


def test_task_weight_weighs_the_validation_rows_of_its_task():
    X, y = imbalanced()
    factors = {0: 5.0, 1: 1.0, 2: 1.0, 3: 1.0}
    common = {"task_column": "task", "early_stopping": True, "random_state": 0}
    model = RMTGBClassifier(task_weight=factors, **common).fit(X, y)
    other = RMTGBClassifier(**common).fit(X, y, sample_weight=X["task"].map(factors))
    np.testing.assert_allclose(model.validation_score_, other.validation_score_, rtol=1e-9)


def test_an_unseen_task_gets_the_mixture_of_the_rows_whatever_the_task_weights():
    X, y = make_task_groups(60, group_sizes=(3, 1), random_state=0)
    model = RMTGBRegressor(task_column="task", task_weight={3: 1000.0}, early_stopping=False, max_iter_task=0).fit(X, y)
    assert model._fitted.model.forest.mixing[-1, 1] == pytest.approx(model.outlier_score_.mean())


@pytest.mark.parametrize("estimator_class", [RMTGBRegressor, RMTGBClassifier])
def test_a_row_per_task_fits_with_default_options(estimator_class):
    X, y = imbalanced()
    X["task"] = np.arange(len(X))
    model = estimator_class(task_column="task", max_iter_task=2).fit(X, y)
    assert model.n_tasks_ == len(X) and len(model.validation_score_) == 0
    with pytest.raises(ValueError, match=r"early_stopping=True leaves 0 of 600 labelled rows for validation"):
        estimator_class(task_column="task", early_stopping=True).fit(X, y)


def test_classes_without_weight_are_absent():
    X, y = imbalanced()
    labels = np.where(np.arange(len(y)) % 10 == 0, "ghost", np.where(y == 1, "yes", "no"))
    weight = (labels != "ghost").astype(float)
    model = RMTGBClassifier(task_column="task", early_stopping=False).fit(X, labels, sample_weight=weight)
    other = RMTGBClassifier(task_column="task", early_stopping=False).fit(X[weight > 0], labels[weight > 0])
    assert model.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(model.predict_proba(X), other.predict_proba(X))
    with pytest.raises(ValueError, match="y holds one class only, 'no'"):
        RMTGBClassifier().fit(X, labels, sample_weight=(labels == "no").astype(float))


@pytest.mark.slow
def test_outliers_are_found_without_a_shared_block():
    for seed in range(3):
        X, y = make_task_groups(300, random_state=seed)
        model = RMTGBRegressor(task_column="task", max_iter_shared=0, max_iter_task=0, random_state=0).fit(X, y)
        assert (model.outlier_score_ > 0.5).tolist() == [False] * 8 + [True] * 2


@pytest.mark.parametrize("scale", [2.0, np.e, 20.0])
def test_poisson_outliers_do_not_depend_on_the_mean_count(scale):
    X, y = make_task_groups(300, random_state=1)
    counts = np.random.default_rng(0).poisson(scale * np.exp(y))
    model = RMTGBRegressor(task_column="task", loss="poisson", sharing="groups", random_state=0)
    scores = model.fit(X, counts).outlier_score_
    assert scores[8:].min() > 0.5 > scores[:8].max()


def test_a_warm_start_may_begin_to_stop_early():
    X, y = imbalanced()
    model = RMTGBClassifier(task_column="task", warm_start=True, early_stopping=False, max_iter_shared=5).fit(X, y)
    model.set_params(early_stopping=True, max_iter_shared=20).fit(X, y)
    assert 5 <= model.n_iter_["shared"] <= 20


def test_a_resumed_block_that_only_does_harm_keeps_no_round():
    X, y = make_task_groups(100, random_state=0)
    options = {"task_column": "task", "warm_start": True, "early_stopping": True, "random_state": 0}
    model = RMTGBRegressor(max_iter_shared=15, max_iter_partition=10, max_iter_task=10, **options).fit(X, y)
    before, rounds = model.predict(X), model.n_iter_["shared"]
    model.set_params(learning_rate=2.5, max_iter_shared=30, max_iter_partition=10, max_iter_task=10).fit(X, y)
    assert model.n_iter_["shared"] == rounds
    np.testing.assert_array_equal(model.predict(X), before)


def test_task_is_routed_to_predict_proba_and_decision_function():
    X, y = imbalanced()
    features, task = X[list("abc")], X["task"]
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), RMTGBClassifier(max_iter_shared=5)).fit(features, y, task=task)
        assert pipeline.predict_proba(features, task=task).shape == (len(y), 2)
        assert pipeline.decision_function(features, task=task).shape == (len(y),)
