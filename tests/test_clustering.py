"""Task clustering: groups are found, tasks are compared on held-out rows, new tasks are placed."""

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import dendrogram, is_valid_linkage
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import adjusted_rand_score, mean_absolute_error, zero_one_loss
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeRegressor

from mttab import PerTaskRegressor, TaskClusterClassifier, TaskClusterRegressor
from mttab.datasets import make_task_groups

# Linear functions, of which tasks of one group share one.
GROUP = np.array([0, 1, 0, 2, 0, 1, 1, 0])
SLOPES = np.array([[2.0, 0.0, 1.0], [-1.0, 2.0, 0.0], [0.0, -2.0, -2.0]])


def lines(n_each=40, seed=0, group=GROUP, noise=0.3):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(len(group)), n_each)
    X = pd.DataFrame(rng.normal(size=(len(task), 3)), columns=["a", "b", "c"]).assign(task=task)
    y = (X[["a", "b", "c"]].to_numpy() * SLOPES[group[task]]).sum(axis=1) + noise * rng.normal(size=len(task))
    order = rng.permutation(len(task))
    return X.iloc[order], pd.Series(y, name="y").iloc[order]


def classes(y):
    return pd.Series(np.where(y > 0, "yes", "no"), index=y.index)


def make(**options):
    options = {"task_column": "task", "pilot": Ridge(), "n_folds": 2, "random_state": 0} | options
    return TaskClusterRegressor(Ridge(), **options)


@pytest.fixture(scope="module")
def fitted():
    X, y = lines()
    return make().fit(X, y), X, y


# --- groups ---


def test_groups_are_found_and_each_has_a_model_of_its_rows(fitted):
    model, X, y = fitted
    assert adjusted_rand_score(GROUP, model.task_labels_) == 1
    assert model.task_labels_[0] == 0  # the group of the most tasks
    assert model.n_clusters_ == len(model.estimators_) == 3
    by_group = PerTaskRegressor(Ridge(), task_column="task").fit(X.assign(task=GROUP[X["task"]]), y)
    np.testing.assert_allclose(model.predict(X), by_group.predict(X.assign(task=GROUP[X["task"]])))
    assert model.score(X, y) > 0.95


@pytest.mark.parametrize("options", [{}, {"pilot": None}], ids=["around Ridge", "boosting"])
def test_groups_of_classification_tasks_are_found(options):
    X, y = lines(100)
    options = {"task_column": "task", "pilot": LogisticRegression(), "random_state": 0} | options
    model = TaskClusterClassifier(LogisticRegression(), **options).fit(X, classes(y))
    assert adjusted_rand_score(GROUP, model.task_labels_) == 1
    assert model.score(X, classes(y)) > 0.9


def test_columns_of_y_are_tasks_to_cluster():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    Y = pd.DataFrame(X @ SLOPES[GROUP].T + 0.3 * rng.normal(size=(80, len(GROUP)))).mask(rng.random((80, 8)) < 0.2)
    model = TaskClusterRegressor(Ridge(), pilot=Ridge(), random_state=0).fit(X, Y)
    assert adjusted_rand_score(GROUP, model.task_labels_) == 1
    assert model.predict(X).shape == Y.shape
    with pytest.raises(ValueError, match="place_task needs a model that was fitted with task ids"):
        model.place_task(X, Y)


def test_what_was_found_can_be_looked_at(fitted):
    model, _, _ = fitted
    n = len(GROUP)
    assert model.cross_error_.shape == model.task_similarity_.shape == model.task_distance_.shape == (n, n)
    np.testing.assert_allclose(model.task_similarity_, 1 / model.cross_error_)
    np.testing.assert_array_equal(model.task_distance_, model.task_distance_.T)
    assert is_valid_linkage(model.linkage_)
    leaves = dendrogram(model.linkage_, labels=model.tasks_.tolist(), no_plot=True)["ivl"]
    assert sorted(leaves) == model.tasks_.tolist()
    assert max(model.silhouette_scores_, key=model.silhouette_scores_.get) == 3


def test_a_number_of_groups_is_obeyed(fitted):
    _, X, y = fitted
    assert [make(n_clusters=k).fit(X, y).n_clusters_ for k in (1, 2, 5, 8, 30)] == [1, 2, 5, 8, 8]
    assert make(max_clusters=2).fit(X, y).n_clusters_ == 2


def test_one_group_is_taken_for_lack_of_silhouette_unless_that_is_clearly_worse(fitted):
    _, X, y = fitted
    assert make(min_silhouette=0.999, n_folds=None).fit(X, y).n_clusters_ == 1
    assert make(min_silhouette=0.999).fit(X, y).n_clusters_ == 3
    X, y = lines(group=np.zeros(8, dtype=int))
    assert make(min_silhouette=0.999).fit(X, y).n_clusters_ == 1 < make(min_silhouette=-1).fit(X, y).n_clusters_


def test_tasks_that_have_nothing_in_common_are_not_one_group():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(600, 4))).add_prefix("x").assign(task=np.repeat(np.arange(12), 50))
    slope = rng.normal(size=(12, 4))
    y = (X.iloc[:, :4].to_numpy() * slope[X["task"]]).sum(axis=1) + 0.3 * rng.normal(size=600)
    model = make().fit(X, y)
    assert model.n_clusters_ >= 8
    assert min(model.group_errors_, key=model.group_errors_.get) >= 8
    assert make(n_folds=None).fit(X, y).group_errors_ == make(n_clusters=2).fit(X, y).group_errors_ == {}


def test_every_linkage_and_every_distance_finds_clear_groups(fitted):
    _, X, y = fitted
    ways = [{"linkage": name} for name in ("single", "complete", "weighted", "centroid", "median", "ward")]
    ways += [{"distance": name} for name in ("cosine", "euclidean", "cityblock", "sqeuclidean", "chebyshev")]
    trees = [make(n_clusters=3, **way).fit(X, y) for way in ways]
    assert [adjusted_rand_score(GROUP, model.task_labels_) for model in trees] == [1.0] * len(ways)
    heights = {tuple(model.linkage_[:, 2].round(12)) for model in trees}
    assert len(heights) == len(ways)


# --- cross errors ---


def test_an_error_is_that_of_a_model_that_has_not_seen_the_row():
    X, y = lines(30)
    deep = DecisionTreeRegressor(random_state=0)
    seen = make(pilot=deep, n_folds=None).fit(X, y)
    unseen = make(pilot=deep).fit(X, y)
    assert not np.diag(seen.cross_error_).any()  # a full tree repeats what it was fitted on
    assert np.diag(unseen.cross_error_).min() > 0.3
    seen, here = make(n_folds=None).fit(X, y), X["task"] == 0
    alone = Ridge().fit(X.loc[here, ["a", "b", "c"]], y[here])
    said = alone.predict(X.loc[X["task"] == 1, ["a", "b", "c"]])
    assert seen.cross_error_[1, 0] == pytest.approx(np.sqrt(np.mean((said - y[X["task"] == 1]) ** 2)))


@pytest.mark.parametrize(("metric", "function"), [("absolute_error", mean_absolute_error)])
def test_a_metric_by_name_is_the_function(metric, function):
    X, y = lines(20)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(X))
    named, called = (make(metric=m).fit(X, y, sample_weight=weight) for m in (metric, function))
    np.testing.assert_allclose(named.cross_error_, called.cross_error_)
    root, square = (make(metric=m).fit(X, y).cross_error_ for m in ("root_mean_squared_error", "squared_error"))
    np.testing.assert_allclose(root**2, square)
    with pytest.raises(ValueError, match="errors must be 0 or more"):
        make(metric=lambda true, said: -1.0).fit(X, y)


def test_metrics_of_classes():
    X, y = lines(40)
    options = {"task_column": "task", "pilot": LogisticRegression(), "n_folds": 2, "random_state": 0}
    error = {
        metric: TaskClusterClassifier(LogisticRegression(), metric=metric, **options).fit(X, classes(y)).cross_error_
        for metric in ("zero_one", "brier", "log_loss", zero_one_loss)
    }
    assert all((values >= 0).all() for values in error.values())
    # No error in 40 rows counts as half an error.
    np.testing.assert_allclose(error["zero_one"], np.maximum(error[zero_one_loss], 0.5 / 40))
    assert len({values[0, 1] for values in error.values()}) >= 3
    without = TaskClusterClassifier(LogisticRegression(), task_column="task", pilot=RidgeClassifier())
    with pytest.raises(ValueError, match="use metric='zero_one'"):
        without.fit(X, classes(y))
    assert without.set_params(metric="zero_one").fit(X, classes(y)).cross_error_.shape == (8, 8)


def test_at_most_so_many_rows_of_a_task_are_compared():
    X, y = lines(60)
    few = make(max_pilot_rows=20).fit(X, y)
    assert (few.cross_error_ != make(max_pilot_rows=None).fit(X, y).cross_error_).all()
    np.testing.assert_array_equal(make(max_pilot_rows=60).fit(X, y).cross_error_, make().fit(X, y).cross_error_)
    assert adjusted_rand_score(GROUP, few.task_labels_) == 1


def test_the_seed_draws_the_folds_and_the_order_of_rows_does_not(fitted):
    model, X, y = fitted
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_allclose(make().fit(X.iloc[order], y.iloc[order]).cross_error_, model.cross_error_)
    assert (make(random_state=1).fit(X, y).cross_error_ != model.cross_error_).all()


def test_tasks_of_one_or_two_rows_take_part():
    X, y = lines(30)
    tiny = lines(1, seed=5, group=np.array([0, 1]))[0].assign(task=[50, 51])
    X, y = pd.concat([X, tiny]), np.append(y, [0.0, 1.0])
    for pilot in (Ridge(), None):
        model = make(pilot=pilot).fit(X, y)
        assert np.isfinite(model.cross_error_).all()
        assert model.tasks_.tolist() == [*range(8), 50, 51]
    rows = pd.DataFrame({"a": [0.0, 1.0, 2.0], "task": [0, 1, 2]})
    assert make().fit(rows, [0.0, 1.0, 2.0]).predict(rows).shape == (3,)


# --- new tasks ---


def test_new_tasks_are_placed_by_their_first_rows_and_predicted_by_their_group(fitted):
    model = make().fit(*fitted[1:])
    X, y = lines(50, seed=9, group=np.array([0, 1, 2]), noise=0.1)
    X["task"] += 20
    first = X.groupby("task").head(5).index
    before = model.score(X, y)
    placed = model.place_task(X.loc[first], y.loc[first])
    expected = {20 + g: int(model.task_labels_[np.flatnonzero(GROUP == g)[0]]) for g in range(3)}
    assert placed == model.placed_tasks_ == expected
    assert model.score(X, y) > 0.95 > before
    # One by one is the same; more rows may move a task; those of fit are settled.
    other = make().fit(*fitted[1:])
    for task in (22, 20, 21):
        rows = [i for i in first if X.loc[i, "task"] == task]
        other.place_task(X.loc[rows], y.loc[rows])
    assert other.placed_tasks_ == placed
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    group_of_22 = X[X["task"] == 22].assign(task=20)
    assert other.place_task(group_of_22, y[group_of_22.index]) == {20: placed[22]}
    with pytest.raises(ValueError, match="rows of the task 0, which fit has put in a group"):
        model.place_task(fitted[1], fitted[2])
    assert model.fit(*fitted[1:]).placed_tasks_ == {}


def test_new_tasks_are_placed_with_ids_as_an_argument_and_with_classes(fitted):
    X, y = fitted[1].drop(columns="task"), classes(fitted[2])
    model = TaskClusterClassifier(RidgeClassifier(), pilot=LogisticRegression(), random_state=0)
    model.fit(X, y, task=fitted[1]["task"])
    new, target = lines(30, seed=9, group=np.array([2]))
    placed = model.place_task(new.drop(columns="task"), classes(target), task=["moon"] * len(new))
    assert placed == {"moon": int(model.task_labels_[np.flatnonzero(GROUP == 2)[0]])}
    assert (model.predict(new.drop(columns="task"), task=["moon"] * len(new)) == classes(target)).mean() > 0.8
    with pytest.raises(ValueError, match="'maybe', which fit did not see"):
        model.place_task(new.drop(columns="task"), ["maybe"] * len(new), task=["sun"] * len(new))


def test_an_unseen_task_gets_the_mean_of_the_groups(fitted):
    model, X, _ = fitted
    moon, features = X.assign(task=99), X.drop(columns="task")
    share = np.bincount(model.task_labels_) / len(GROUP)
    expected = sum(part * inner.predict(features) for part, inner in zip(share, model.estimators_, strict=True))
    np.testing.assert_allclose(model.predict(moon), expected)
    mixed = X.assign(task=np.where(np.arange(len(X)) % 2, 99, X["task"]))
    np.testing.assert_allclose(
        model.predict(mixed), np.where(np.arange(len(X)) % 2, expected, model.predict(X)), atol=1e-9
    )


# --- whole ---


def test_a_search_finds_the_number_of_groups(fitted):
    _, X, y = fitted
    search = GridSearchCV(make(), {"n_clusters": [1, 3], "estimator__alpha": [0.1, 1e3]}, cv=2, error_score="raise")
    assert search.fit(X, y).best_params_ == {"n_clusters": 3, "estimator__alpha": 0.1}


def test_the_published_settings_are_one_call():
    X, y = make_task_groups(60, group_sizes=(6, 4), random_state=0)
    options = TaskClusterRegressor.paper_parameters()
    model = TaskClusterRegressor(DummyRegressor(), task_column="task", random_state=0, **options).fit(X, y)
    held_out = TaskClusterRegressor(
        DummyRegressor(), task_column="task", random_state=0, **options | {"n_folds": 5}
    ).fit(X, y)
    assert np.diag(model.cross_error_).max() < np.diag(held_out.cross_error_).min()
    assert set(TaskClusterClassifier.paper_parameters()) == set(options)


@pytest.mark.slow
def test_the_groups_of_the_published_setting_are_found_and_worth_as_much_as_the_true_ones():
    found, ratio = [], []
    for draw in range(3):
        tasks = make_task_groups(
            100, group_sizes=(9, 6, 5, 3, 2), length_scale=(0.1, 0.5), random_state=draw, return_bunch=True
        )
        X, y = tasks.sample(200, random_state=draw + 1000)
        options = {"task_column": "task", "random_state": draw}
        model = TaskClusterRegressor(**options).fit(tasks.data, tasks.target)
        group = tasks.task_group[tasks.data["task"]], tasks.task_group[X["task"]]
        truth = PerTaskRegressor(**options).fit(tasks.data.assign(task=group[0]), tasks.target)
        error, least = model.predict(X) - y, truth.predict(X.assign(task=group[1])) - y
        found.append(adjusted_rand_score(tasks.task_group, model.task_labels_))
        ratio.append(np.sqrt((error**2).mean() / (least**2).mean()))
    assert np.mean(found) >= 0.95
    assert np.mean(ratio) <= 1.02
