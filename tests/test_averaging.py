"""The mean of several models that stop on different rows: one forest, with one meaning for all that is read from it."""

import logging
import pickle
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import ShuffleSplit

import mttab
from mttab import RMTGBClassifier, RMTGBRegressor, _boosting_base, _boosting_fit, _boosting_sharing
from mttab._core.boosting import averaging, fused_rounds
from mttab._core.boosting import sharing as sharing_module
from mttab._core.boosting.forest import PARTITION, SHARED
from mttab._core.boosting.sharing import Sharing
from mttab.datasets import make_task_groups

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
QUICK = {"task_column": "task", "random_state": 0, "learning_rate": 0.2, "n_iter_no_change": 3, "n_averaged": 3}


def rows(estimator_class, n=80, group_sizes=(4, 2)):
    options = {"noise": 0.3, "noise_unit": "label_sd", "random_state": 0}
    X, y = make_task_groups(n, group_sizes=group_sizes, **options)
    X = X.assign(kind=pd.Categorical(np.array(list("abcd"))[np.arange(len(X)) % 4]))
    return X, (y if estimator_class is RMTGBRegressor else np.where(y > y.median(), "up", "down"))


def score_of(model, X):
    return model.decision_function(X) if isinstance(model, RMTGBClassifier) else model.predict(X)


@pytest.fixture
def averaged(monkeypatch):
    """The models that each fit has averaged, in the order of the fits."""
    fits = []

    def record(models, builder, task_mass):
        fits.append(models)
        return average(models, builder, task_mass)

    average = averaging.average
    monkeypatch.setattr(averaging, "average", record)
    return fits


# --- several models at once -------------------------------------------------------------------------------------------


def as_many_as_asked(n_jobs, n_cells=np.inf):
    """In place of `resolve_n_threads`, whatever the machine: all for whole fits, one for kernels of these few rows."""
    return n_jobs if n_cells == np.inf else 1


@pytest.fixture
def threads_met(monkeypatch):
    """Names of the Python threads that boost; two threads are there to be used."""
    met = set()

    def recording(fit):
        def record(*args, **options):
            met.add(threading.current_thread().name)
            return fit(*args, **options)

        return record

    monkeypatch.setattr(averaging, "boost", recording(averaging.boost))
    monkeypatch.setattr(sharing_module, "judge", recording(sharing_module.judge))
    monkeypatch.setattr(
        _boosting_base, "resolve_n_threads", lambda n_jobs, n_cells=np.inf: n_jobs if n_cells > 1e9 else 1
    )
    return met


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_models_fitted_at_once_are_those_fitted_one_after_the_other(estimator_class, threads_met):
    X, y = rows(estimator_class)
    scores = []
    for n_jobs in (1, 2):
        threads_met.clear()
        scores.append(score_of(estimator_class(n_jobs=n_jobs, **QUICK).fit(X, y), X))
        assert (threading.main_thread().name in threads_met) == (n_jobs == 1)
    np.testing.assert_array_equal(*scores)


def test_models_are_fitted_one_after_the_other_where_somebody_follows(threads_met, caplog):
    X, y = rows(RMTGBRegressor)
    quiet = RMTGBRegressor(n_jobs=2, **QUICK).fit(X, y)
    threads_met.clear()
    with caplog.at_level(logging.INFO, logger="mttab"):
        told = RMTGBRegressor(n_jobs=2, verbose=1, **QUICK).fit(X, y)
    assert threads_met == {threading.main_thread().name}
    np.testing.assert_array_equal(told.predict(X), quiet.predict(X))


def test_models_that_nobody_waits_for_any_more_end_soon(monkeypatch):
    X, y = rows(RMTGBRegressor)
    started, failed, others = threading.Event(), threading.Event(), []

    def fail_one(rows, validation, loss, grower, builder, options, base, rng, progress):
        if started.is_set():
            failed.set()
            raise KeyboardInterrupt
        started.set()
        assert failed.wait(30)
        time.sleep(0.2)  # the main thread hears of it
        model = boost(rows, validation, loss, grower, builder, options, base, rng, progress=progress)
        others.append(model.forest.n_rounds)

    boost = averaging.boost
    monkeypatch.setattr(averaging, "boost", fail_one)
    monkeypatch.setattr(_boosting_base, "resolve_n_threads", as_many_as_asked)
    options = {**QUICK, "n_jobs": 2, "n_averaged": 2, "n_iter_no_change": 50, "learning_rate": 0.01}
    options |= {f"max_iter_{block}": 3 * fused_rounds.MAX_ROUNDS for block in ("shared", "task")}
    with pytest.raises(KeyboardInterrupt):
        RMTGBRegressor(**options, sharing="pooled").fit(X, y)
    assert others and max(others[0]) <= fused_rounds.MAX_ROUNDS  # they end between kernels, not within


@pytest.mark.parametrize(("n_averaged", "rate"), [(1, 0.1), (2, 0.15)])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_steps_are_larger_where_several_models_are_averaged(estimator_class, n_averaged, rate):
    X, y = rows(estimator_class)
    options = QUICK | {"sharing": "category", "n_averaged": n_averaged}
    automatic = estimator_class(**options | {"learning_rate": "auto"}).fit(X, y)
    given = estimator_class(**options | {"learning_rate": rate}).fit(X, y)
    np.testing.assert_array_equal(score_of(automatic, X), score_of(given, X))
    other = estimator_class(**options | {"learning_rate": 0.25 - rate}).fit(X, y)
    assert not np.array_equal(score_of(automatic, X), score_of(other, X))


# --- what is averaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["pooled", "category", "separate"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_score_after_every_round_is_the_mean_of_the_models(estimator_class, sharing, averaged):
    X, y = rows(estimator_class)
    model = estimator_class(sharing=sharing, **QUICK).fit(X, y)
    (models,) = averaged
    assert len(models) == 3
    rounds = np.array([single.forest.n_rounds for single in models])
    assert tuple(model.n_iter_.values()) == tuple(rounds.max(axis=0))
    assert len(np.unique(rounds)) > 2  # they have stopped at rounds of their own
    values, task = model._read_rows(X, None)
    mean = np.mean([single.forest.score(values, task) for single in models], axis=0)[:, 0]
    np.testing.assert_allclose(score_of(model, X), mean, rtol=0, atol=1e-9)
    stages = list(model._fitted.model.forest.staged_block_scores(values, task))
    assert len(stages) == rounds.max(axis=0).sum()
    for r in (0, int(rounds[:, np.argmax(rounds.sum(axis=0))].min())):
        each = [list(single.forest.staged_block_scores(values, task)) for single in models]
        if sharing == "separate" or rounds[:, 0].min() > r:
            np.testing.assert_allclose(stages[r], np.mean([s[min(r, len(s) - 1)] for s in each], axis=0), atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_losses_of_a_round_are_means_and_those_of_the_mean_are_no_larger(estimator_class, averaged):
    X, y = rows(estimator_class)
    model = estimator_class(sharing="pooled", max_iter_task=0, **QUICK).fit(X, y)
    (models,) = averaged
    for path, name in ((model.train_score_, "train_loss"), (model.validation_score_, "validation_loss")):
        assert len(path) == 1 + model.n_iter_["shared"]
        histories = [getattr(single, name)[0] for single in models]
        assert path[0] == pytest.approx(-np.mean([history[0] for history in histories]))
        assert path[-1] == pytest.approx(-np.mean([history[-1] for history in histories]))
    if estimator_class is RMTGBRegressor:
        values, task = model._read_rows(X, None)
        of_each = [np.mean((y - single.forest.score(values, task)[:, 0]) ** 2) for single in models]
        assert np.mean((y - model.predict(X)) ** 2) < np.mean(of_each)


def test_every_row_is_trained_on_and_every_model_holds_out_others(monkeypatch):
    X, y = rows(RMTGBRegressor)
    drawn = []

    def record(*args):
        drawn.append(args[1])
        return boost_averaged(*args)

    boost_averaged = _boosting_base.boost_averaged
    monkeypatch.setattr(_boosting_base, "boost_averaged", record)
    RMTGBRegressor(**QUICK | {"n_averaged": "auto", "validation_fraction": 0.2}).fit(X, y)
    (held,) = drawn
    assert held.shape == (5, len(X)) and not held.all(axis=0).any()
    np.testing.assert_allclose(held.mean(axis=1), 0.2, atol=0.02)
    assert len(np.unique(held, axis=0)) == 5


@pytest.mark.parametrize("n_task_groups", ["auto", pytest.param(3, marks=pytest.mark.slow)])
def test_groups_keep_their_numbers_and_theta_is_the_mean(n_task_groups, averaged):
    group_sizes = (4, 2) if n_task_groups == "auto" else (4, 3, 2)
    X, y = rows(RMTGBRegressor, group_sizes=group_sizes)
    model = RMTGBRegressor(sharing="groups", n_task_groups=n_task_groups, **QUICK).fit(X, y)
    np.testing.assert_array_equal(model.task_group_, np.repeat(np.arange(len(group_sizes)), group_sizes))
    (models,) = averaged
    assert all(single.forest.n_rounds[PARTITION] > 0 for single in models)
    np.testing.assert_allclose(model.theta_, np.mean([single.theta for single in models], axis=0))
    values, task = model._read_rows(X, None)
    mean = np.mean([single.forest.score(values, task) for single in models], axis=0)[:, 0]
    assert np.abs(model.predict(X) - mean).max() < 0.05 * np.std(y)  # exact but for the θ that each model has found


def test_models_that_number_their_branches_differently_are_averaged_branch_by_branch(averaged):
    X, y = rows(RMTGBRegressor)
    model = RMTGBRegressor(sharing="groups", **QUICK).fit(X, y)
    single = averaged[0][0]
    trees = single.forest.trees
    group = np.where(trees.block == PARTITION, 1 - trees.group, trees.group).astype(np.int32)
    turned = replace(
        single,
        forest=replace(single.forest, trees=trees._replace(group=group), mixing=single.forest.mixing[:, ::-1].copy()),
        theta=-single.theta,
        group_order=single.group_order[::-1],
    )
    mapper, n_tasks = model._fitted.mapper, model.n_tasks_
    builder = averaging.ForestBuilder(mapper, n_tasks)
    both = averaging.average([single, turned], builder, np.full(n_tasks, 80.0))
    values, task = model._read_rows(X, None)
    np.testing.assert_allclose(both.forest.score(values, task), single.forest.score(values, task), atol=1e-12)
    np.testing.assert_allclose(both.theta, single.theta)


# --- models of two kinds ----------------------------------------------------------------------------------------------


def open_rows():
    """Tasks that share nine tenths: pooled models win the race, and need trees of single tasks for it."""
    return make_task_groups(100, group_sizes=(6,), noise=0.1, noise_unit="label_sd", random_state=0)


def test_every_second_model_has_the_task_as_a_category_where_the_race_is_open(averaged):
    X, y = open_rows()
    options = QUICK | {"n_averaged": 5, "linear_start": False}
    model = RMTGBRegressor(**options).fit(X, y)
    assert (model.sharing_, model.other_sharing_) == ("pooled", "category")
    alike = {name: RMTGBRegressor(sharing=name, **options).fit(X, y) for name in ("pooled", "category")}
    assert all(each.other_sharing_ is None for each in alike.values())
    mixed, pooled, category = averaged
    for number, single in enumerate(mixed):
        same, different = (category, pooled) if number % 2 else (pooled, category)
        np.testing.assert_array_equal(single.forest.nodes.threshold, same[number].forest.nodes.threshold)
        np.testing.assert_array_equal(single.forest.nodes.value, same[number].forest.nodes.value)
        assert not np.array_equal(single.forest.nodes.value, different[number].forest.nodes.value)
    values, task = model._read_rows(X, None)
    mean = np.mean([single.forest.score(values, task) for single in mixed], axis=0)[:, 0]
    np.testing.assert_allclose(model.predict(X), mean, rtol=0, atol=1e-9)
    importance = [each.feature_importances_[X.columns.get_loc("task")] for each in (alike["category"], model)]
    assert importance[0] > importance[1] > 0 == alike["pooled"].feature_importances_[X.columns.get_loc("task")]


@pytest.mark.parametrize("way", ["one model", "validation rows of the user", "warm start"])
def test_a_single_model_is_of_one_kind_however_open_the_race(way):
    X, y = open_rows()
    options, explicit = QUICK | {"n_averaged": "auto"}, {}
    if way == "validation rows of the user":
        explicit = {"X_val": X[::5], "y_val": y[::5]}
    else:
        options |= {"one model": {"n_averaged": 1}, "warm start": {"warm_start": True}}[way]
    model = RMTGBRegressor(**options).fit(X, y, **explicit)
    assert model.sharing_ in ("pooled", "category") and model.other_sharing_ is None


@pytest.mark.parametrize("has_line", [False, True])
def test_models_of_two_kinds_start_from_a_line_all_or_none(has_line, averaged):
    X, y = open_rows()
    model = RMTGBRegressor(**QUICK | {"linear_start": has_line}).fit(X, y)
    assert model.other_sharing_ == "category" and model.linear_start_ == has_line
    for single in averaged[0]:
        trees = single.forest.trees
        n_first = np.sum((trees.block == SHARED) & (trees.round == 0))
        assert n_first == (X.shape[1] - 1 if has_line else 1)  # a line is one tree per feature


def test_a_mean_of_two_kinds_is_exported_explained_and_saved_as_one_forest(tmp_path):
    X, y = open_rows()
    model = RMTGBRegressor(**QUICK).fit(X, y)
    assert model.other_sharing_ == "category"
    model.save(tmp_path / "model.mttab")
    for copy in (mttab.load(tmp_path / "model.mttab"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copy.predict(X), model.predict(X))
        assert (copy.sharing_, copy.other_sharing_) == ("pooled", "category")
    stages = list(model.staged_predict(X))
    assert len(stages) == sum(model.n_iter_.values())
    np.testing.assert_allclose(stages[-1], model.predict(X), rtol=0, atol=1e-9)
    of_task = X[X["task"] == 2]
    raw = model.to_lightgbm(task=2).booster.predict(of_task.drop(columns="task"))
    np.testing.assert_allclose(raw, model.predict(of_task), rtol=0, atol=1e-9)
    values, base_values = model.shap_values(X[:20])
    np.testing.assert_allclose(values.sum(axis=1) + base_values, model.predict(X[:20]), rtol=0, atol=1e-9)


def test_a_task_more_leaves_a_mean_of_two_kinds_alone():
    X, y = open_rows()
    is_old = X["task"] < 5
    model = RMTGBRegressor(**QUICK | {"random_state": 1}).fit(X[is_old], y[is_old])
    assert model.other_sharing_ == "category"
    before = model.predict(X[is_old])
    model.add_task(X[~is_old], y[~is_old], 5)
    np.testing.assert_array_equal(model.predict(X[is_old]), before)
    assert model.score(X[~is_old], y[~is_old]) > 0.8


@pytest.mark.parametrize("n_groups", [2, 3])
def test_groups_that_were_found_and_lost_are_in_neither_kind(n_groups, monkeypatch):
    X, y = open_rows()
    monkeypatch.setattr(_boosting_sharing, "cluster_tasks", lambda agreement, n: np.arange(len(agreement)) % n_groups)
    model = RMTGBRegressor(**QUICK).fit(X, y)
    assert (model.sharing_, model.other_sharing_) == ("pooled", "category")
    assert not model.task_group_.any() and len(np.unique(model.outlier_score_)) == 1


@pytest.mark.parametrize(("of_pooled", "of_category"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_mean_of_two_kinds_goes_on_in_every_block_that_one_of_them_has(of_pooled, of_category, monkeypatch):
    X, y = open_rows()
    other = Sharing("category", has_task_block=of_category)
    found = Sharing("pooled", has_task_block=of_pooled, other=other)
    monkeypatch.setattr(_boosting_sharing, "choose_sharing", lambda *args: found)
    model = RMTGBRegressor(**QUICK).fit(X, y)
    assert (model.n_iter_["task"] > 0) == (of_pooled or of_category)
    wanted = {block: model.n_iter_[block] + 3 * (model.n_iter_[block] > 0) for block in model.n_iter_}
    error = np.mean((y - model.predict(X)) ** 2)
    more = {f"max_iter_{block}": n for block, n in wanted.items()}
    model.set_params(warm_start=True, early_stopping=False, **more).fit(X, y)
    assert model.n_iter_ == wanted and model.other_sharing_ == "category"
    assert np.mean((y - model.predict(X)) ** 2) < error


WAYS = {
    "default": ({}, 5),
    "asked for": ({"n_averaged": 2}, 2),
    "asked for without a refit": ({"n_averaged": 2, "refit": False}, 2),
    "no refit": ({"refit": False}, 0),
    "blocks": ({"sharing": "blocks"}, 5),
    "a drawn start": ({"sharing": "blocks", "theta_init": "normal"}, 0),
    "paper mode": ({"algorithm": "paper"}, 0),
    "validation": ({"validation": ShuffleSplit(3, random_state=0), "n_averaged": 2}, 0),
    "training loss": ({"validation_fraction": None, "n_averaged": 2}, 0),
    "no early stopping": ({"early_stopping": False, "n_averaged": 2}, 0),
    "warm start": ({"warm_start": True, "n_averaged": 2}, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_several_models_are_averaged_only_where_rows_are_drawn_to_stop_on(way, averaged):
    options, n_models = WAYS[way]
    X, y = rows(RMTGBRegressor)
    few = {"max_iter_shared": 4, "max_iter_partition": 4, "max_iter_task": 4}
    RMTGBRegressor(**QUICK | {"n_averaged": "auto"} | few | options).fit(X, y)
    assert [len(models) for models in averaged] == ([n_models] if n_models else [])


def test_validation_rows_of_the_user_and_many_rows_mean_one_model(averaged, monkeypatch):
    X, y = rows(RMTGBRegressor)
    few = {"max_iter_shared": 4, "max_iter_partition": 4, "max_iter_task": 4}
    RMTGBRegressor(**QUICK | few).fit(X, y, X_val=X[::5], y_val=y[::5])
    monkeypatch.setattr(_boosting_fit, "AUTO_AVERAGED_MAX_ROWS", len(X) - 1)
    RMTGBRegressor(**QUICK | few | {"n_averaged": "auto"}).fit(X, y)
    assert averaged == []


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_mean_depends_on_the_seed_alone(estimator_class):
    X, y = rows(estimator_class)
    first = estimator_class(**QUICK, n_jobs=1).fit(X, y)
    again = estimator_class(**QUICK, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(score_of(again, X), score_of(first, X))
    renamed = X.assign(task="task " + X["task"].astype(str).str[::-1])
    other_names = estimator_class(**QUICK).fit(renamed, y)
    np.testing.assert_allclose(score_of(other_names, renamed), score_of(first, X), atol=1e-9)
    other_seed = estimator_class(**QUICK | {"random_state": 1}).fit(X, y)
    assert np.abs(score_of(other_seed, X) - score_of(first, X)).max() > 1e-3


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_weights_count_in_every_model(estimator_class):
    X, y = rows(estimator_class)
    weight = np.where(X["task"] == 0, 5.0, 1.0)
    plain, weighted = (estimator_class(**QUICK).fit(X, y, sample_weight=w) for w in (None, weight))
    np.testing.assert_array_equal(
        score_of(estimator_class(**QUICK).fit(X, y, sample_weight=np.ones(len(X))), X), score_of(plain, X)
    )
    is_first = X["task"] == 0
    assert weighted.score(X[is_first], y[is_first]) > plain.score(X[is_first], y[is_first])


@pytest.mark.parametrize("sharing", ["groups", "category"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_mean_is_exported_saved_and_pickled_as_one_forest(estimator_class, sharing, tmp_path):
    X, y = rows(estimator_class)
    model = estimator_class(sharing=sharing, **QUICK).fit(X, y)
    model.save(tmp_path / "model.mttab")
    for copy in (mttab.load(tmp_path / "model.mttab"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(score_of(copy, X), score_of(model, X))
        assert copy.n_iter_ == model.n_iter_
    of_task = X[X["task"] == 5]
    raw = model.to_lightgbm(task=5).booster.predict(of_task.drop(columns="task"), raw_score=True)
    np.testing.assert_allclose(raw, score_of(model, of_task), atol=1e-9)
    parts = model.decompose(X)
    np.testing.assert_allclose(parts.shared + parts.partition + parts.task, score_of(model, X), atol=1e-9)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_warm_start_goes_on_from_the_mean(estimator_class):
    X, y = rows(estimator_class)
    model = estimator_class(sharing="category", max_iter_task=0, **QUICK).fit(X, y)
    before, n_before = score_of(model, X), model.n_iter_["shared"]
    stages = list(model._staged_scores(X, None))
    model.set_params(warm_start=True, early_stopping=False, max_iter_shared=n_before + 4).fit(X, y)
    assert model.n_iter_["shared"] == n_before + 4
    after = list(model._staged_scores(X, None))
    np.testing.assert_allclose(after[n_before - 1], stages[-1], atol=1e-12)
    assert model.train_score_[-1] > model.train_score_[n_before] and np.abs(score_of(model, X) - before).max() > 1e-3


def test_a_task_can_be_added_to_the_mean_and_leaves_the_others_alone():
    X, y = rows(RMTGBRegressor)
    is_old = X["task"] < 5
    model = RMTGBRegressor(**QUICK).fit(X[is_old], y[is_old])
    before = model.predict(X[is_old])
    model.add_task(X[~is_old], y[~is_old], 5)
    np.testing.assert_array_equal(model.predict(X[is_old]), before)
    assert np.isfinite(model.predict(X[~is_old])).all()


def test_a_path_is_fitted_with_the_same_rows_held_out(tmp_path):
    X, y = rows(RMTGBRegressor)
    X.assign(y=y).to_parquet(tmp_path / "table.parquet")
    options = QUICK | {"sharing": "category", "max_bins": 255}
    whole = RMTGBRegressor(**options).fit(X, y)
    model = RMTGBRegressor(**options).fit(tmp_path / "table.parquet", y="y")
    np.testing.assert_allclose(model.validation_score_, whole.validation_score_)
    np.testing.assert_allclose(model.predict(X), whole.predict(X))


def test_a_path_is_fitted_by_models_of_the_same_two_kinds(tmp_path):
    X, y = open_rows()
    X.assign(y=y).to_parquet(tmp_path / "table.parquet")
    whole = RMTGBRegressor(**QUICK | {"max_bins": 255}).fit(X, y)
    model = RMTGBRegressor(**QUICK | {"max_bins": 255}).fit(tmp_path / "table.parquet", y="y")
    assert model.other_sharing_ == whole.other_sharing_ == "category"
    np.testing.assert_allclose(model.predict(X), whole.predict(X))
