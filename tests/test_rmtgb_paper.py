"""Paper mode is the published algorithm: the estimators agree with a twin that is written from its box alone.

And the two ends of it: block 1 alone is pooled boosting, block 3 alone is boosting each task by itself.
"""

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

import naive
from boosting_inputs import run_boosting
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES

ROUNDS = {"max_iter_shared": 10, "max_iter_partition": 15, "max_iter_task": 10}
TASK_SIZES = (11, 60, 25, 40, 4)
LABELS = np.array(["b", "a", "e", "d", "c"])  # of tasks in the order of TASK_SIZES: not the sorted one


def make_data(kind, n_classes, seed):  # type: ignore[no-untyped-def]
    """Training rows (X, task) in mixed order, target, and fresh rows; tasks are of unequal size."""
    rng = np.random.default_rng(seed)

    def draw(sizes):  # type: ignore[no-untyped-def]
        task = rng.permutation(np.repeat(LABELS, sizes))
        n = len(task)
        X = rng.integers(0, 9, (n, 3)) / 2.0 if kind == "grid" else rng.standard_normal((n, 3))
        return X, task

    train, fresh = draw(TASK_SIZES), draw((40,) * 5)
    if kind == "grid":
        # Values on thresholds and outside the range, too.
        fresh = np.round(4 * rng.uniform(-1.0, 6.0, fresh[0].shape)) / 4, fresh[1]
    offset = dict(zip(LABELS, rng.standard_normal(5), strict=True))
    score = np.sin(train[0][:, 0]) * np.where(train[1] == "d", -3.0, 3.0) + train[0][:, 1]
    score += np.array([offset[t] for t in train[1]]) + 0.3 * rng.standard_normal(len(score))
    if n_classes:
        cuts = np.quantile(score, np.arange(1, n_classes) / n_classes)
        y = np.array(["low", "mid", "top"])[np.searchsorted(cuts, score)]
    else:
        y = score + 0.5
    return train, y, fresh


def fit_both(kind, n_classes, seed, theta, **parameters):  # type: ignore[no-untyped-def]
    """Estimator and twin on the same rows; the twin starts from ``theta``."""
    (X, task), y, _ = make_data(kind, n_classes, seed)
    estimator = RMTGBClassifier if n_classes else RMTGBRegressor
    model = estimator(**{**estimator.paper_parameters(), **ROUNDS, **parameters}).fit(X, y, task=task)
    codes = y if n_classes == 0 else np.unique(y, return_inverse=True)[1]
    rounds = tuple(ROUNDS.values())
    index = np.unique(task, return_inverse=True)[1]
    twin = naive.PaperBoosting(rounds, theta, n_classes).fit(X, codes, index)  # type: ignore[arg-type]
    return model, twin


def assert_agree(model, twin, kind, n_classes, seed):  # type: ignore[no-untyped-def]
    (X, task), _, (X_fresh, task_fresh) = make_data(kind, n_classes, seed)
    for Z, labels in ((X, task), (X_fresh, task_fresh)):
        expected = twin.score(Z, np.searchsorted(np.unique(task), labels))
        if n_classes == 0:
            np.testing.assert_allclose(model.predict(Z, task=labels), expected[:, 0], rtol=0, atol=1e-6)
            continue
        np.testing.assert_allclose(model.predict_proba(Z, task=labels), softmax(expected, axis=1), rtol=0, atol=1e-6)
        own = model.decision_function(Z, task=labels)
        wanted = expected if n_classes > 2 else expected[:, 1] - expected[:, 0]
        np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-6)
    # The branches have no names in the paper: the package calls the one most tasks lean to the inlier branch.
    sign = 1.0 if np.allclose(model.theta_, twin.theta, rtol=0, atol=1e-6) else -1.0
    np.testing.assert_allclose(model.theta_, sign * twin.theta, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("kind", ["grid", "continuous"])
def test_paper_mode_agrees_with_the_box_from_a_given_theta(kind, n_classes, seed):
    theta = np.random.default_rng(100 + seed).normal(0.0, 0.8, 5)
    model, twin = fit_both(kind, n_classes, seed, theta, theta_init=theta)
    assert_agree(model, twin, kind, n_classes, seed)
    assert np.abs(np.abs(twin.theta) - np.abs(theta)).max() > 1e-3, "theta has moved"


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_paper_mode_agrees_with_the_box_from_a_drawn_theta(n_classes):
    # The draw shows where θ does not move; its sign is free, as the two branches are interchangeable at the start.
    seed, kind = 3, "grid"
    (X, task), y, _ = make_data(kind, n_classes, seed)
    estimator = RMTGBClassifier if n_classes else RMTGBRegressor
    still = {**estimator.paper_parameters(), **ROUNDS, "theta_learning_rate": 0.0, "random_state": 7}
    start = estimator(**still).fit(X, y, task=task).theta_
    model, twin = fit_both(kind, n_classes, seed, start, random_state=7)
    assert_agree(model, twin, kind, n_classes, seed)
    assert not np.allclose(np.abs(twin.theta), np.abs(start), rtol=0, atol=1e-4), "theta has moved"


def test_theta_is_drawn_from_a_normal_of_standard_deviation_a_tenth():
    task = np.repeat(np.arange(2000), 1)
    parameters = {**RMTGBRegressor.paper_parameters(), "theta_learning_rate": 0.0}
    parameters |= {"max_iter_shared": 0, "max_iter_partition": 1, "max_iter_task": 0}
    X, y = np.zeros((2000, 1)), np.arange(2000.0)
    theta = RMTGBRegressor(**parameters, random_state=0).fit(X, y, task=task).theta_
    assert abs(theta.mean()) < 4 * 0.1 / np.sqrt(2000)
    assert theta.std() == pytest.approx(0.1, rel=0.08)
    other = RMTGBRegressor(**parameters, random_state=1).fit(X, y, task=task).theta_
    assert not np.allclose(np.abs(theta), np.abs(other))


def test_swapping_the_sign_of_theta_swaps_the_branches_and_nothing_else():
    theta = np.random.default_rng(0).normal(0.0, 0.8, 5)
    (X, task), y, _ = make_data("grid", 0, 0)
    parameters = {**RMTGBRegressor.paper_parameters(), **ROUNDS}
    models = [RMTGBRegressor(**{**parameters, "theta_init": sign * theta}).fit(X, y, task=task) for sign in (1.0, -1.0)]
    np.testing.assert_allclose(models[0].predict(X, task=task), models[1].predict(X, task=task), rtol=0, atol=1e-9)
    np.testing.assert_allclose(models[0].theta_, models[1].theta_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(models[0].outlier_score_, expit(models[0].theta_), rtol=1e-12)


def test_the_twin_itself_does_what_the_paper_says_on_a_case_done_by_hand():
    # One row per task, no feature to split on: trees are single leaves and every number can be followed.
    X, y, task, theta = np.zeros((2, 1)), np.array([1.0, 3.0]), np.array([0, 1]), logit([0.25, 0.5])
    twin = naive.PaperBoosting((1, 2, 1), theta).fit(X, y, task)
    shared = 0.1 * 2.0
    s = np.array([0.25, 0.5])
    r = y - shared
    outlier, inlier = 0.1 * np.mean(s * r), 0.1 * np.mean((1 - s) * r)  # branches after round 1, θ gradient still 0
    r = y - shared - (1 - s) * inlier - s * outlier
    step = s * (1 - s) * -r * (outlier - inlier)
    outlier, inlier = outlier + 0.1 * np.mean(s * r), inlier + 0.1 * np.mean((1 - s) * r)
    theta = theta - 0.1 * step
    np.testing.assert_allclose(twin.theta, theta, rtol=1e-12)
    s = expit(theta)
    common = shared + (1 - s) * inlier + s * outlier
    np.testing.assert_allclose(twin.score(X, task)[:, 0], common + 0.1 * (y - common), rtol=1e-12)


# --- the two ends -----------------------------------------------------------------------------------------------------

LOSSES = {
    "squared_error": (REGRESSION_LOSSES["squared_error"](0.5, 1.0), 0, {}),
    "absolute_error": (REGRESSION_LOSSES["absolute_error"](0.5, 1.0), 0, {}),
    "two classes": (CLASSIFICATION_LOSSES["log_loss"](2), 2, {}),
    "three classes": (CLASSIFICATION_LOSSES["log_loss"](3), 3, {}),
    "three classes, vector leaves": (CLASSIFICATION_LOSSES["log_loss"](3), 3, {"vector_leaves": True}),
}


def core_data(n_classes):  # type: ignore[no-untyped-def]
    """Features (n_features, n_rows) with gaps and a category, tasks sorted, target, weights."""
    rng = np.random.default_rng(11)
    task = np.repeat(np.arange(4), (90, 20, 150, 41)).astype(np.int32)
    n = len(task)
    X = np.vstack([rng.standard_normal((2, n)), rng.integers(0, 6, n)])
    X[1, ::9] = np.nan
    score = 2.0 * X[0] + task * np.sin(3.0 * X[0]) + X[2] + rng.standard_normal(n)
    y = np.searchsorted(np.quantile(score, np.arange(1, n_classes) / n_classes), score) + 0.0 if n_classes else score
    return X, task, y, rng.uniform(0.5, 2.0, n), {"is_categorical": np.array([False, False, True]),
                                                  "n_categories": np.array([0, 0, 6])}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_only_block_1_is_pooled_boosting_exactly(name):
    loss, n_classes, options = LOSSES[name]
    X, task, y, weight, columns = core_data(n_classes)
    base = loss.base_score(y, weight)
    model, mapper = run_boosting(X, task, y, loss, (12, 0, 0), base=base, weight=weight, **columns, **options)
    pooled, _ = run_boosting(
        X, np.zeros_like(task), y, loss, (12, 0, 0), base=base, weight=weight, mapper=mapper, **options
    )
    fresh = np.vstack([np.random.default_rng(0).standard_normal((2, 500)), np.arange(500) % 8 - 1.0])
    np.testing.assert_array_equal(
        model.forest.score(fresh, (np.arange(500) % 5).astype(np.int32)),
        pooled.forest.score(fresh, np.zeros(500, dtype=np.int32)),
    )
    assert np.ptp(model.forest.score(fresh, np.zeros(500, dtype=np.int32))) > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_only_block_3_is_boosting_each_task_by_itself_exactly(name):
    loss, n_classes, options = LOSSES[name]
    X, task, y, weight, columns = core_data(n_classes)
    base = loss.base_score(y, weight)
    model, mapper = run_boosting(X, task, y, loss, (0, 0, 12), base=base, weight=weight, **columns, **options)
    fresh = np.vstack([np.random.default_rng(0).standard_normal((2, 500)), np.arange(500) % 8 - 1.0])
    for t in range(4):
        own = task == t
        alone, _ = run_boosting(
            np.ascontiguousarray(X[:, own]), np.zeros(own.sum(), dtype=np.int32), y[own], loss, (12, 0, 0),
            base=base, weight=weight[own], mapper=mapper, **options,
        )  # fmt: skip
        np.testing.assert_array_equal(
            model.forest.score(fresh, np.full(500, t, dtype=np.int32)),
            alone.forest.score(fresh, np.zeros(500, dtype=np.int32)),
        )
    # Where there are no trees, for a task unseen at fit, the base score is left.
    unseen = model.forest.score(fresh, np.full(500, 4, dtype=np.int32))
    np.testing.assert_array_equal(unseen, np.tile(base, (500, 1)))


def test_one_task_has_one_block():
    loss = REGRESSION_LOSSES["squared_error"](0.5, 1.0)
    X, task, y, weight, columns = core_data(0)
    model, _ = run_boosting(X, np.zeros_like(task), y, loss, (3, 5, 5), weight=weight, **columns)
    assert model.forest.n_rounds == (3, 0, 0) and len(model.forest.trees.root) == 3
