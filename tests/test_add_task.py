"""A task more for a fitted model, and predictions for every task at once."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.long_table import TargetScaling
from mttab.datasets import make_task_groups

OPTIONS = {"task_column": "task", "random_state": 0, "n_jobs": 1}
NEW = 9


def draw(task_type="regression", group_sizes=(5, 5), n=60, **options):
    tasks = make_task_groups(
        n, group_sizes=group_sizes, task_type=task_type, return_bunch=True, random_state=0, **options
    )
    X_test, y_test = tasks.sample(200, random_state=1)
    is_new, is_new_test = (tasks.data["task"] == NEW).to_numpy(), (X_test["task"] == NEW).to_numpy()
    return tasks.data, tasks.target.to_numpy(), is_new, X_test[is_new_test], y_test.to_numpy()[is_new_test]


def error(model, X, y):
    return float(np.sqrt(np.mean((model.predict(X) - y) ** 2)))


SHARINGS = {
    "pooled": {"sharing": "pooled", "max_iter_shared": 60, "max_iter_task": 20},
    "category": {"sharing": "category", "max_iter_shared": 60, "max_iter_task": 20},
    "groups": {"sharing": "groups", "max_iter_partition": 60, "max_iter_task": 20},
    "separate": {"sharing": "separate", "max_iter_task": 60},
    "blocks": {"sharing": "blocks", "max_iter_shared": 20, "max_iter_partition": 20, "max_iter_task": 20},
}


@pytest.fixture(scope="module")
def rows():
    return draw()


@pytest.fixture(scope="module")
def fitted(rows):
    """A model per way of sharing, of nine tasks."""
    X, y, is_new, _, _ = rows
    fits = {name: RMTGBRegressor(**OPTIONS | o, early_stopping=False) for name, o in SHARINGS.items()}
    return {name: model.fit(X[~is_new], y[~is_new]) for name, model in fits.items()}


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("n", [1, 2, 60])
def test_other_tasks_and_unseen_ones_keep_their_predictions_to_the_last_bit(fitted, rows, sharing, n):
    X, y, is_new, _, _ = rows
    model = copy.deepcopy(fitted[sharing])
    known, unseen = model.predict(X[~is_new]), model.predict(X.assign(task="never seen"))
    importances = model.task_feature_importances_
    assert model.add_task(X[is_new][:n], y[is_new][:n], NEW) is model
    np.testing.assert_array_equal(model.predict(X[~is_new]), known)
    np.testing.assert_array_equal(model.predict(X.assign(task="never seen")), unseen)
    np.testing.assert_array_equal(model.task_feature_importances_[:-1], importances)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_fitted_attributes_know_the_new_task(fitted, rows, sharing):
    X, y, is_new, _, _ = rows
    model = copy.deepcopy(fitted[sharing]).add_task(X[is_new], y[is_new], NEW)
    assert model.tasks_.tolist() == [*range(9), NEW] and model.n_tasks_ == 10
    for values in (model.theta_, model.outlier_score_, model.task_group_, model.task_feature_importances_):
        assert len(values) == 10
    weights = model._fitted.model.forest.mixing
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert model.outlier_score_[-1] == pytest.approx(1.0 - weights[9, 0])
    assert model.task_group_[-1] == weights[9].argmax()
    assert model.feature_importances_.sum() == pytest.approx(1.0)
    parts = model.decompose(X)
    np.testing.assert_allclose(parts.shared + parts.partition + parts.task, model.predict(X), atol=1e-12)
    *_, last = model.staged_predict(X)
    np.testing.assert_allclose(last, model.predict(X), atol=1e-12)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_the_same_rows_in_any_order_give_the_same_task(fitted, rows):
    X, y, is_new, X_test, _ = rows
    X, y = X[is_new], y[is_new]
    one = copy.deepcopy(fitted["category"]).add_task(X, y, NEW)
    other = copy.deepcopy(fitted["category"]).add_task(X[::-1], y[::-1], NEW)
    np.testing.assert_allclose(one.predict(X_test), other.predict(X_test), atol=1e-12)


def test_a_weight_of_two_is_a_row_that_is_there_twice(fitted, rows):
    X, y, is_new, X_test, _ = rows
    X, y = X[is_new][:30], y[is_new][:30]
    twice = copy.deepcopy(fitted["groups"]).add_task(pd.concat([X, X[:10]]), np.append(y, y[:10]), NEW)
    weight = np.where(np.arange(30) < 10, 2.0, 1.0)
    weighted = copy.deepcopy(fitted["groups"]).add_task(X, y, NEW, sample_weight=weight)
    np.testing.assert_allclose(twice.theta_, weighted.theta_, atol=1e-9)
    np.testing.assert_allclose(twice.predict(X_test), weighted.predict(X_test), atol=0.02)


@pytest.mark.parametrize(("n", "gain"), [(2, 0.85), (10, 0.75), (60, 0.7)])
def test_a_new_task_joins_the_group_whose_branch_explains_its_rows(fitted, rows, n, gain):
    X, y, is_new, X_test, y_test = rows
    model = fitted["groups"]
    added = copy.deepcopy(model).add_task(X[is_new][:n], y[is_new][:n], NEW)
    assert added.task_group_[-1] == added.task_group_[8] != added.task_group_[0]
    assert error(added, X_test, y_test) < gain * error(model, X_test, y_test)


def test_a_new_task_follows_the_known_one_that_it_is_like_where_trees_split_on_the_task(fitted, rows):
    X, y, is_new, X_test, y_test = rows
    model = fitted["category"]
    added = copy.deepcopy(model).add_task(X[is_new][:20], y[is_new][:20], NEW)
    assert error(added, X_test, y_test) < 0.7 * error(model, X_test, y_test)


@pytest.mark.parametrize("sharing", ["pooled", "separate"])
def test_many_rows_give_trees_of_their_own(fitted, rows, sharing):
    X, y, is_new, X_test, y_test = rows
    model = fitted[sharing]
    added = copy.deepcopy(model).add_task(X[is_new], y[is_new], NEW)
    assert error(added, X_test, y_test) < 0.95 * error(model, X_test, y_test)


@pytest.mark.slow
def test_a_new_task_is_never_much_worse_than_an_unseen_one_and_better_with_its_rows():
    ratios = []
    for seed in range(6):
        for options in ({"group_sizes": (10,), "shared_share": 0.9}, {"group_sizes": (10,), "shared_share": 0.0}):
            tasks = make_task_groups(
                100, noise=0.1, noise_unit="label_sd", return_bunch=True, random_state=seed, **options
            )
            X_test, y_test = tasks.sample(300, random_state=seed + 1)
            X, y, is_new = tasks.data, tasks.target.to_numpy(), (tasks.data["task"] == NEW).to_numpy()
            of_test = (X_test["task"] == NEW).to_numpy()
            X_test, y_test = X_test[of_test], y_test.to_numpy()[of_test]
            model = RMTGBRegressor(**OPTIONS).fit(X[~is_new], y[~is_new])
            unseen = error(model, X_test, y_test)
            added = [copy.deepcopy(model).add_task(X[is_new][:n], y[is_new][:n], NEW) for n in (2, 5, 10, 100)]
            ratios.append([error(one, X_test, y_test) / unseen for one in added])
    ratios = np.array(ratios)
    assert ratios.max() < 1.35 and ratios.mean(axis=0).max() < 1.06
    assert ratios[:, -1].mean() < 0.8


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_classifier_learns_a_task_of_one_class_or_of_many_rows(n_classes):
    X, y, is_new, X_test, _ = draw("binary", n=200)
    if n_classes == 3:
        y = np.where(X["x0"] > 0.5, 2, y)
    names = np.array(["no", "yes", "maybe"])
    model = RMTGBClassifier(**OPTIONS | SHARINGS["blocks"], early_stopping=False).fit(X[~is_new], names[y[~is_new]])
    before = model.predict_proba(X[~is_new])
    few = copy.deepcopy(model).add_task(X[is_new & (y == 1)][:3], ["yes"] * 3, NEW)
    many = copy.deepcopy(model).add_task(X[is_new], names[y[is_new]], NEW)
    for added in (few, many):
        np.testing.assert_array_equal(added.predict_proba(X[~is_new]), before)
        proba = added.predict_proba(X_test)
        assert np.isfinite(proba).all() and proba.sum(axis=1) == pytest.approx(1.0)
    assert many.score(X[is_new], names[y[is_new]]) > model.score(X[is_new], names[y[is_new]])


@pytest.mark.parametrize("options", [{"loss": "absolute_error"}, {"loss": "huber"}, {"loss": "poisson"}])
def test_every_loss_takes_a_task_more(options, rows):
    X, y, is_new, X_test, _ = rows
    y = np.round(5.0 * np.exp(2.0 * y)) if options["loss"] == "poisson" else y
    short = {"max_iter_shared": 10, "max_iter_partition": 0, "max_iter_task": 60, "early_stopping": False}
    model = RMTGBRegressor(**OPTIONS | short | options).fit(X[~is_new], y[~is_new])
    added = copy.deepcopy(model).add_task(X[is_new], y[is_new], NEW)
    assert np.isfinite(added.predict(X_test)).all()
    assert error(added, X[is_new], y[is_new]) < error(model, X[is_new], y[is_new])
    assert np.isfinite(model.add_task(X[is_new][:2], np.zeros(2), NEW).predict(X_test)).all()


def test_with_a_scale_per_task_a_task_of_another_unit_gets_its_own(rows):
    X, y, is_new, X_test, y_test = rows
    unit = 10.0 ** (X["task"].to_numpy() % 4)
    model = RMTGBRegressor(**OPTIONS, target_scaling="task").fit(X[~is_new], (y * unit)[~is_new])
    model.add_task(X[is_new], 5000.0 * y[is_new] + 1e5, NEW)
    assert error(model, X_test, 5000.0 * y_test + 1e5) < 0.7 * 5000.0 * y_test.std()


def test_scale_and_centre_of_a_new_task_are_those_of_unseen_tasks_as_far_as_its_rows_are_few():
    known = TargetScaling.standard(np.array([0.0, 2.0, 10.0, 14.0]), np.array([0, 0, 1, 1]), np.ones(4), 2)
    one = known.with_task(np.array([20.0]), np.ones(1))
    assert one.scale[2] == known.scale[-1] and known.center[-1] < one.center[2] < 20.0
    many = known.with_task(np.tile([19.0, 21.0], 500), np.ones(1000))
    assert many.center[2] == pytest.approx(20.0, abs=0.1) and many.scale[2] == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(many.center[[0, 1, 3]], known.center)
    same = TargetScaling.identity(3).with_task(np.array([5.0, 7.0]), np.ones(2))
    assert same.center.tolist() == [0.0] * 5 and same.scale.tolist() == [1.0] * 5


def test_several_tasks_are_added_one_after_the_other(fitted, rows):
    X, y, is_new, _, _ = rows
    X_new = X[is_new][:12].drop(columns="task")
    model = copy.deepcopy(fitted["category"])
    for i in range(40):  # across the 32 levels that one word of a split's set holds
        model.add_task(X_new, y[is_new][:12], f"new {i}")
    assert model.n_tasks_ == 49
    reference = copy.deepcopy(fitted["category"]).add_task(X_new, y[is_new][:12], "new 0")
    np.testing.assert_array_equal(model.predict(X.assign(task="new 0")), reference.predict(X.assign(task="new 0")))
    np.testing.assert_allclose(
        model.predict(X.assign(task="new 39")), reference.predict(X.assign(task="new 0")), atol=0.2
    )


def test_a_warm_start_goes_on_with_the_added_task(fitted, rows):
    X, y, is_new, _, _ = rows
    model = copy.deepcopy(fitted["blocks"]).add_task(X[is_new], y[is_new], NEW)
    loss = np.mean((model.predict(X) - y) ** 2)
    rounds = {f"max_iter_{block}": n + 5 for block, n in model.n_iter_.items()}
    model.set_params(warm_start=True, **rounds).fit(X, y)
    assert list(model.n_iter_.values()) == list(rounds.values()) and model.tasks_.tolist() == list(range(10))
    assert np.mean((model.predict(X) - y) ** 2) < loss


def test_composite_ids_and_ids_passed_as_an_argument(rows):
    X, y, is_new, _, _ = rows
    pair = X.assign(town=np.where(X["task"] < 5, "a", "b"))
    short = {"max_iter_shared": 10, "max_iter_partition": 0, "max_iter_task": 10, "early_stopping": False}
    model = RMTGBRegressor(task_column=["town", "task"], random_state=0, **short).fit(pair[~is_new], y[~is_new])
    model.add_task(pair[is_new], y[is_new], ("b", NEW))
    assert model.tasks_.tolist()[-1] == ("b", NEW)
    with pytest.raises(ValueError, match=r"task=9, but tasks of this model are like \('a', 0\); pass a tuple"):
        model.add_task(pair[is_new], y[is_new], 9)
    ids, features = X["task"].astype(str), X.drop(columns="task")
    model = RMTGBRegressor(random_state=0, **short).fit(features[~is_new], y[~is_new], task=ids[~is_new])
    model.add_task(features[is_new], y[is_new], "9")
    assert model.tasks_.tolist()[-1] == "9"
    assert model.predict(features, task="all").shape == (len(X), 10)


BAD = {
    "known": (lambda X, y: (X, y, 3), "task=3 is a task of this model already.*refit on all rows"),
    "known as a float": (lambda X, y: (X, y, 3.0), "task=3 is a task of this model already"),
    "missing": (lambda X, y: (X, y, None), "task=None is no label; pass the one of the new task"),
    "several": (lambda X, y: (X, y, [9, 10]), "no single label; .*once for each"),
    "other rows": (
        lambda X, y: (X, y, 10),
        "task=10, but task_column='task' holds 9; pass the rows of the new task only",
    ),
    "length": (lambda X, y: (X, y[:-1], 9), "X has 60 rows, y has 59 rows"),
    "nan": (lambda X, y: (X, np.where(y > y.mean(), np.nan, y), 9), "y contains NaN"),
    "table": (lambda X, y: (X, np.column_stack([y, y]), 9), "y should be a 1d array"),
    "columns": (lambda X, y: (X.drop(columns="x0"), y, 9), "feature names should match"),
    "weight": (lambda X, y: (X, y, 9, np.zeros(60)), "sample_weight is zero in every row"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named_and_leave_the_model_as_it_was(fitted, rows, case):
    X, y, is_new, X_test, _ = rows
    make, message = BAD[case]
    model = copy.deepcopy(fitted["pooled"])
    with pytest.raises(ValueError, match=message):
        model.add_task(*make(X[is_new], y[is_new]))
    assert model.n_tasks_ == 9
    np.testing.assert_array_equal(model.predict(X_test), fitted["pooled"].predict(X_test))


def test_a_class_that_fit_did_not_see_is_refused_by_name(rows):
    X, y, is_new, _, _ = rows
    model = RMTGBClassifier(**OPTIONS, max_iter_shared=3, early_stopping=False).fit(X[~is_new], y[~is_new] > 0)
    with pytest.raises(ValueError, match=r"class 'high', which fit did not see: its classes are \[False, True\]"):
        model.add_task(X[is_new], np.where(y[is_new] > 0, "high", "low"), NEW)


def test_models_whose_rows_have_no_tasks_say_to_refit(rows):
    X, y, _, _, _ = rows
    features = X.drop(columns="task")
    short = {"max_iter_shared": 2, "max_iter_partition": 0, "max_iter_task": 2}
    wide = RMTGBRegressor(**short).fit(features, np.column_stack([y, -y]))
    with pytest.raises(ValueError, match="fitted with the columns of a 2-D y as its tasks; refit it"):
        wide.add_task(features, y, 2)
    with pytest.raises(ValueError, match=r"fitted with no tasks; refit it .* with task_column or task"):
        RMTGBRegressor(**short).fit(features, y).add_task(features, y, 2)


# --- every task at once ---


@pytest.mark.parametrize("form", ["frame", "without the column", "other ids", "array"])
def test_predictions_for_every_task_are_those_for_each(fitted, rows, form):
    X, _, is_new, _, _ = rows
    model = fitted["blocks"]
    X = X[~is_new][::7]
    table = {
        "frame": X, "without the column": X.drop(columns="task"), "other ids": X.assign(task=np.nan),
        "array": X.drop(columns="task").to_numpy(),
    }[form]  # fmt: skip
    if form == "array":
        model = copy.deepcopy(model)
        del model.feature_names_in_
        model._fitted_task_column = list(X.columns).index("task")
    wide = model.predict(table, task="all")
    assert wide.shape == (len(X), 9)
    for i, task in enumerate(model.tasks_):
        np.testing.assert_array_equal(wide[:, i], fitted["blocks"].predict(X.assign(task=task)))


def test_every_method_takes_all_tasks_or_refuses_them(fitted, rows):
    X, y, _, _, _ = rows
    model = fitted["blocks"]
    parts = model.decompose(X[:5], task="all")
    np.testing.assert_allclose(
        parts.shared + parts.partition + parts.task, model.predict(X[:5], task="all"), atol=1e-12
    )
    *_, last = model.staged_predict(X[:5], task="all")
    np.testing.assert_allclose(last, model.predict(X[:5], task="all"), atol=1e-12)
    with pytest.raises(ValueError, match="score compares each row with its own label, so task='all' says nothing"):
        model.score(X, y, task="all")
    labels = np.digitize(y, [-0.3, 0.3])
    for y_class, n_classes in ((labels > 0, 2), (labels, 3)):
        model = RMTGBClassifier(**OPTIONS, max_iter_shared=3, early_stopping=False).fit(X, y_class)
        proba = model.predict_proba(X[:5], task="all")
        assert len(proba) == 10 and {p.shape for p in proba} == {(5, n_classes)}
        np.testing.assert_array_equal(proba[3], model.predict_proba(X[:5].assign(task=3)))
        np.testing.assert_array_equal(model.predict(X[:5], task="all")[:, 3], model.predict(X[:5].assign(task=3)))
        scores = model.decision_function(X[:5], task="all")
        np.testing.assert_array_equal(scores[:, 3], model.decision_function(X[:5].assign(task=3)))


def test_a_task_that_is_called_all_is_asked_for_by_an_id_per_row(rows):
    X, y, _, _, _ = rows
    X, ids = X.drop(columns="task"), np.where(X["task"] < 5, "all", "some")
    model = RMTGBRegressor(max_iter_shared=3, early_stopping=False, random_state=0).fit(X, y, task=ids)
    wide = model.predict(X[:4], task="all")
    assert wide.shape == (4, 2) and model.tasks_.tolist() == ["all", "some"]
    np.testing.assert_array_equal(model.predict(X[:4], task=["all"] * 4), wide[:, 0])


def test_all_tasks_are_for_models_whose_rows_have_one(rows):
    X, y, _, _, _ = rows
    X = X.drop(columns="task")
    short = {"max_iter_shared": 2, "max_iter_partition": 0, "max_iter_task": 2}
    with pytest.raises(ValueError, match="fitted without tasks"):
        RMTGBRegressor(**short).fit(X, y).predict(X, task="all")
    with pytest.raises(ValueError, match="fitted with a 2-D y and predicts all tasks at once; drop task"):
        RMTGBRegressor(**short).fit(X, np.column_stack([y, y])).predict(X, task="all")
