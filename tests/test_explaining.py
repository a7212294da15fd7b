"""What a fitted booster tells about itself: SHAP values that add up, importances per block and task, similar tasks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GroupShuffleSplit

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

SMALL = {"max_iter_shared": 8, "max_iter_partition": 4, "max_iter_task": 3, "min_samples_leaf": 5, "random_state": 0}


def make_table(n=500):
    """Rows of three schools: `a` matters everywhere, `b` in B only, `c` is a category, `noise` is nothing."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "school": rng.choice(["A", "B", "C"], n),
            "b": rng.normal(size=n),
            "c": pd.Categorical(rng.choice(["x", "y", "z"], n)),
            "noise": rng.normal(size=n),
        }
    )
    y = X["a"] + 2.0 * X["b"] * (X["school"] == "B") + (X["c"] == "y") + 0.1 * rng.normal(size=n)
    X.loc[::7, "a"] = np.nan
    X.loc[::9, "c"] = None
    return X, y.to_numpy()


X, Y = make_table()
X_NEW = X.assign(school=np.where(np.arange(len(X)) % 5, X["school"], "new"))


@pytest.fixture(scope="module")
def regressor():
    options = {"sharing": "blocks", "target_scaling": "task", "categorical_features": ["school", "c"]}
    return RMTGBRegressor(task_column="school", **SMALL, **options).fit(X, Y)


@pytest.fixture(scope="module")
def separate():
    return RMTGBRegressor(task_column="school", sharing="separate", **{**SMALL, "max_iter_task": 40}).fit(X, Y)


# --- SHAP values ----------------------------------------------------------------------------------------------------


def test_shap_values_sum_to_the_score(regressor):
    values, base_values = regressor.shap_values(X_NEW)
    assert values.shape == X.shape
    np.testing.assert_allclose(values.sum(axis=1) + base_values, regressor.predict(X_NEW), rtol=1e-9)


def test_the_task_moves_the_base_value_and_not_its_column(regressor):
    values, base_values = regressor.shap_values(X_NEW)
    assert np.all(values[:, list(X).index("school")] == 0.0)
    assert pd.Series(base_values).groupby(X_NEW["school"].to_numpy()).nunique().eq(1).all()
    assert len(np.unique(base_values)) == 4


def test_shap_values_are_those_of_the_exported_booster(regressor):
    of_task = X_NEW[X_NEW["school"] == "B"]
    exported = regressor.to_lightgbm("B")
    features = of_task.drop(columns="school")
    wanted = exported.booster.predict(exported.encode(features), pred_contrib=True)
    values, base_values = regressor.shap_values(of_task)
    np.testing.assert_allclose(np.delete(values, 1, axis=1), wanted[:, :-1], atol=1e-12)
    np.testing.assert_allclose(base_values, wanted[:, -1])


def test_base_values_are_the_mean_score_of_the_training_rows():
    features = X.drop(columns="school")
    model = RMTGBRegressor(**SMALL, early_stopping=False).fit(features, Y)
    np.testing.assert_allclose(model.shap_values(features).base_values, model.predict(features).mean())


def test_shap_values_see_what_matters_to_a_task(separate):
    size = pd.DataFrame(np.abs(separate.shap_values(X).values), columns=list(X)).groupby(X["school"]).mean()
    assert size.loc["B", "b"] > 5 * size.loc["A", "b"]
    assert (size["a"] > 5 * size["noise"]).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_shap_values_of_classes_sum_to_the_scores(n_classes):
    model = RMTGBClassifier(task_column="school", **SMALL).fit(X, np.digitize(Y, [0, 1][: n_classes - 1]))
    values, base_values = model.shap_values(X_NEW)
    assert values.shape == X.shape + (() if n_classes == 2 else (3,))
    np.testing.assert_allclose(values.sum(axis=1) + base_values, model.decision_function(X_NEW), rtol=1e-9, atol=1e-9)


def test_shap_values_of_several_columns_of_y_have_an_axis_for_them():
    features, targets = X.drop(columns="school"), np.column_stack([Y, -Y])
    model = RMTGBRegressor(**SMALL).fit(features, targets)
    values, base_values = model.shap_values(features)
    assert values.shape == (len(X), 2, 4)
    np.testing.assert_allclose(values.sum(axis=2) + base_values, model.predict(features), rtol=1e-9, atol=1e-9)


def test_shap_values_take_the_task_of_every_row_where_fit_did():
    features = X.drop(columns="school")
    model = RMTGBRegressor(**SMALL).fit(features, Y, task=X["school"])
    values, base_values = model.shap_values(features, task=X["school"])
    assert values.shape == features.shape
    np.testing.assert_allclose(values.sum(axis=1) + base_values, model.predict(features, task=X["school"]), rtol=1e-9)
    with pytest.raises(ValueError, match="pass task="):
        model.shap_values(features)


# --- importances ----------------------------------------------------------------------------------------------------


def test_gain_of_the_blocks_and_of_the_tasks_sums_to_the_same(regressor):
    by_block, by_task = regressor.feature_importance(), regressor.feature_importance(by="task")
    assert list(by_block) == ["shared", "partition", "task"]
    assert list(by_task) == ["A", "B", "C"]
    assert list(by_block.index) == list(by_task.index) == list(X)
    np.testing.assert_allclose(by_task.sum(axis=1), by_block.sum(axis=1))
    total = by_block.sum(axis=1)
    np.testing.assert_allclose(total / total.sum(), regressor.feature_importances_)
    np.testing.assert_allclose((by_task / by_task.sum()).T, regressor.task_feature_importances_)


@pytest.mark.parametrize("kind", ["gain", "split"])
def test_importances_by_block_and_by_task_agree(regressor, kind):
    for task in regressor.tasks_:
        of_task = regressor.feature_importance(kind, task=task)
        for block in of_task:
            by_task = regressor.feature_importance(kind, by="task", block=block)
            np.testing.assert_array_equal(by_task[task], of_task[block])
        np.testing.assert_allclose(regressor.feature_importance(kind, by="task")[task], of_task.sum(axis=1))


def test_splits_are_those_of_the_trees_that_act_for_a_task(separate):
    counted = separate.feature_importance("split", by="task").drop(index="school")
    for task in separate.tasks_:
        assert counted[task].tolist() == separate.to_lightgbm(task).booster.feature_importance("split").tolist()
    assert np.array_equal(separate.feature_importance("split")["task"].drop("school"), counted.sum(axis=1))


def test_importances_see_what_matters_to_a_task(separate):
    by_task = separate.feature_importance(by="task")
    share = by_task / by_task.sum()
    assert share.loc["b", "B"] > 0.5
    assert (share.loc["b", ["A", "C"]] < 0.1).all()


def test_splits_on_a_task_that_is_no_column_have_a_row_of_their_own():
    features = X.drop(columns="school").to_numpy(dtype=object)[:, [0, 1]].astype(float)
    model = RMTGBRegressor(sharing="category", **SMALL).fit(features, Y + 3.0 * (X["school"] == "B"), task=X["school"])
    table = model.feature_importance("split")
    assert list(table.index) == ["x0", "x1", "(task)"]
    assert table.loc["(task)", "shared"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"importance_type": "gian"}, "importance_type='gian' is not one of 'gain', 'split'; did you mean 'gain'"),
        ({"by": "tasks"}, "by='tasks' is not one of 'block', 'task'; did you mean 'task'"),
        ({"by": "task", "block": "all"}, "block='all' is not one of"),
        ({"by": "task", "task": "A"}, "task= was passed with by='task'"),
        ({"block": "shared"}, "block= was passed with by='block'"),
        ({"task": "D"}, "task='D' is not one of the tasks of fit"),
    ],
)
def test_importances_that_make_no_sense_are_refused(regressor, arguments, message):
    with pytest.raises(ValueError, match=message):
        regressor.feature_importance(**arguments)


def test_permutation_importance_of_all_and_of_one_task(separate):
    found = {}
    for name, rows in {"all": X, "A": X[X["school"] == "A"], "B": X[X["school"] == "B"]}.items():
        result = permutation_importance(separate, rows, Y[rows.index], n_repeats=2, random_state=0)
        found[name] = dict(zip(X, result.importances_mean, strict=True))
    assert found["all"]["school"] > 0.1
    assert found["A"]["school"] == 0.0
    assert found["B"]["b"] > 0.5 > 0.1 > found["A"]["b"]
    assert found["all"]["a"] > 0.1 > found["all"]["noise"]


# --- similar tasks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped():
    features, y = make_task_groups(100, group_sizes=(3, 3), random_state=0)
    return features, y, RMTGBRegressor(task_column="task", sharing="groups", **SMALL).fit(features, y)


def test_tasks_of_one_group_are_similar(grouped):
    _, _, model = grouped
    similarity = model.task_similarity_
    is_same = model.task_group_[:, None] == model.task_group_
    assert similarity.shape == (6, 6)
    assert np.all(np.diag(similarity) == 1.0)
    assert similarity[is_same].min() > 0.4 > 0.3 > similarity[~is_same].max()


def test_tasks_that_were_held_out_are_compared_too(grouped):
    features, y, _ = grouped
    for sharing in ("groups", "auto"):
        model = RMTGBRegressor(
            task_column="task", sharing=sharing, validation=GroupShuffleSplit(random_state=0), **SMALL
        )
        assert model.fit(features, y).task_similarity_.shape == (6, 6)
        assert np.isfinite(model.task_similarity_).all()


@pytest.mark.parametrize("sharing", ["pooled", "category", "separate", "blocks"])
def test_tasks_that_were_not_compared_have_no_similarity(sharing):
    model = RMTGBRegressor(task_column="school", sharing=sharing, **SMALL).fit(X, Y)
    assert not hasattr(model, "task_similarity_")
    with pytest.raises(AttributeError, match=f"not done with sharing='{sharing}' and 3 task.*use sharing='groups'"):
        _ = model.task_similarity_


def test_a_task_without_a_comparison_is_nan(grouped):
    _, _, model = grouped
    sharing = model._fitted.sharing
    fewer = RMTGBRegressor(task_column="task")
    vars(fewer).update(vars(model), _fitted=replace(model._fitted, sharing=replace(sharing, agreement=np.eye(5))))
    assert np.isnan(fewer.task_similarity_[5, :5]).all()
    assert fewer.task_similarity_[5, 5] == 1.0


# --- intervals ------------------------------------------------------------------------------------------------------


def test_quantiles_make_intervals_that_cover_about_what_they_say():
    """As with any boosting they are a little narrow; `examples/conformal_intervals.py` mends that."""
    options = {"group_sizes": (3,), "noise": 0.5, "noise_unit": "label_sd", "random_state": 0}
    tasks = make_task_groups(400, return_bunch=True, **options)
    X_test, y_test = tasks.sample(500, random_state=1)
    low, high = (
        RMTGBRegressor(task_column="task", loss="quantile", quantile=q, random_state=0)
        .fit(tasks.data, tasks.target)
        .predict(X_test)
        for q in (0.1, 0.9)
    )
    assert (low <= high).mean() > 0.99
    is_covered = (low <= y_test) & (y_test <= high)
    assert 0.6 < is_covered.mean() < 0.85  # of 0.8
    assert is_covered.groupby(X_test["task"]).mean().between(0.55, 0.9).all()
    assert 0.07 < (y_test < low).mean() < 0.2 and 0.07 < (y_test > high).mean() < 0.2
