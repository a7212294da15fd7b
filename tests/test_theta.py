"""θ: how it starts from data, what it weighs, and which branch is called the inlier branch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.special import expit

from boosting_inputs import codes_of, run_boosting, training_rows
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES
from mttab._core.boosting.theta import (
    OWN_SHARE,
    START_LIMIT,
    group_order,
    mixing_weights,
    orientation,
    start_from_disagreement,
    start_from_groups,
    sum_slopes,
    write_shares,
    write_theta_gradient,
)

CENTER = -2.0
thetas = npst.arrays(np.float64, st.integers(1, 12), elements=st.floats(-50, 50) | st.just(0.0))
losses = npst.arrays(np.float64, 7, elements=st.floats(1e-3, 1e3))
savings = npst.arrays(np.float64, 7, elements=st.floats(-1e3, 1e3))


def start(task_loss, saved, standard_error, center=CENTER):  # type: ignore[no-untyped-def]
    arrays = (np.asarray(a, dtype=np.float64) for a in (task_loss, saved, standard_error))
    return start_from_disagreement(*arrays, center)


def test_a_task_of_which_nothing_is_known_starts_at_the_center_and_leaves_the_others_alone():
    task_loss, saved, error = np.array([[1.0, 1.1, 0.9, 6.0], [0.0, 0.1, 0.0, 5.0], [0.1, 0.1, 0.1, 0.2]])
    nothing = np.nan
    got = start([*task_loss, nothing], [*saved, nothing], [*error, nothing])
    np.testing.assert_array_equal(got[:-1], start(task_loss, saved, error))
    assert got[-1] == CENTER and got[3] > CENTER
    np.testing.assert_array_equal(start([nothing], [nothing], [nothing]), [CENTER])


# --- mixing -----------------------------------------------------------------------------------------------------------


@given(thetas, st.integers(0, 2**32 - 1))
def test_branch_weights_of_every_task_sum_to_one(theta, seed):
    row_weight = np.random.default_rng(seed).uniform(0.1, 100.0, len(theta))
    mixing = mixing_weights(theta, row_weight)
    assert mixing.shape == (len(theta) + 1, 2) and np.all((mixing >= 0) & (mixing <= 1))
    np.testing.assert_allclose(mixing.sum(axis=1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(mixing[:-1, 1], expit(theta))
    # A task unseen at fit is mixed as the average row is.
    assert mixing[-1, 1] == pytest.approx(np.sum(expit(theta) * row_weight) / row_weight.sum())


def test_branch_weights_of_extreme_theta_are_zero_and_one():
    mixing = mixing_weights(np.array([-1e6, 1e6]), np.ones(2))
    np.testing.assert_array_equal(mixing, [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])


@given(st.integers(1, 12), st.integers(3, 6), st.integers(0, 2**32 - 1))
def test_weights_of_more_than_two_branches_sum_to_one_and_unseen_tasks_have_their_mean(n_tasks, n_groups, seed):
    rng = np.random.default_rng(seed)
    theta, row_weight = 10.0 * rng.standard_normal((n_tasks, n_groups)), rng.uniform(0.1, 100.0, n_tasks)
    mixing = mixing_weights(theta, row_weight)
    assert mixing.shape == (n_tasks + 1, n_groups) and np.all((mixing >= 0) & (mixing <= 1))
    np.testing.assert_allclose(mixing.sum(axis=1), 1.0, rtol=1e-12)
    # Ratios of weights are differences of θ.
    np.testing.assert_allclose(np.log(mixing[:-1, :1] / mixing[:-1]), theta[:, :1] - theta, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mixing[-1], np.average(mixing[:-1], axis=0, weights=row_weight), rtol=1e-12)


@pytest.mark.parametrize("n_groups", [2, 3, 5])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_gradient_of_theta_is_the_slope_of_the_loss(n_groups, n_outputs):
    """Of a loss that is linear in the score, whose gradient is given, and a quadratic penalty, by differences."""
    rng = np.random.default_rng(n_groups)
    n_tasks, n_rows = 4, 60
    task = np.sort(rng.integers(0, n_tasks, n_rows)).astype(np.int32)
    gradient, groups = rng.normal(size=(n_outputs, n_rows)), rng.normal(size=(n_groups, n_rows, n_outputs))
    columns = (n_tasks, 1 if n_groups == 2 else n_groups)
    theta, center, unit = rng.normal(size=columns), rng.normal(size=columns), rng.uniform(1.0, 3.0, n_tasks)

    def loss(theta):
        mixing = mixing_weights(theta[:, 0] if n_groups == 2 else theta, np.ones(n_tasks))
        shares = np.empty((n_groups, n_rows))
        write_shares(mixing, task, shares)
        np.testing.assert_array_equal(shares, mixing.T[:, task])
        per_row = np.einsum("gi,gik,ki->i", shares, groups, gradient)
        of_task = np.bincount(task, weights=per_row, minlength=n_tasks) / unit
        return of_task.sum() + 0.05 * np.sum((theta - center) ** 2)

    found, sums = np.empty(columns), np.empty((n_groups, n_tasks))
    sum_slopes(gradient, groups, task, sums)
    mixing = mixing_weights(theta[:, 0] if n_groups == 2 else theta, np.ones(n_tasks))
    write_theta_gradient(theta, mixing, sums, unit, 0.1, center, found)
    for place in np.ndindex(columns):
        step = np.zeros(columns)
        step[place] = 1e-5
        assert found[place] == pytest.approx((loss(theta + step) - loss(theta - step)) / 2e-5, rel=1e-5, abs=1e-7)


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theta", "row_weight", "expected"),
    [
        ([-1.0, -1.0, 3.0], [1, 1, 99], 1.0),  # one vote per task, however many rows
        ([1.0, 1.0, -3.0], [1, 1, 99], -1.0),
        ([0.1, -3.0], [10, 9], -1.0),  # ties by rows
        ([0.1, -3.0], [9, 10], 1.0),
        ([1.0, 2.0, -1.0, -2.0], [5, 5, 4, 7], 1.0),
        ([1.0, 0.0, 0.0], [1, 9, 9], -1.0),  # who leans nowhere has no vote, nor rows
        ([0.0, 0.0], [1, 2], 1.0),
        ([1.0, -1.0], [5, 5], 1.0),  # nothing to go by: as it is
    ],
)
def test_the_inlier_branch_is_the_one_most_tasks_lean_to(theta, row_weight, expected):
    assert orientation(np.array(theta), np.array(row_weight, dtype=float)) == expected


@given(thetas, st.integers(0, 2**32 - 1))
def test_once_turned_theta_stays(theta, seed):
    rng = np.random.default_rng(seed)
    row_weight = rng.integers(1, 50, len(theta)).astype(float)
    turned = orientation(theta, row_weight) * theta
    assert orientation(turned, row_weight) == 1.0
    order = rng.permutation(len(theta))
    assert orientation(theta[order], row_weight[order]) == orientation(theta, row_weight)


@pytest.mark.parametrize(
    ("favourite", "row_weight", "expected"),
    [
        ([1, 1, 0], [1, 1, 99], [1, 0, 2]),  # one vote per task, however many rows
        ([2, 2, 0, 0, 1], [5, 5, 9, 9, 99], [0, 2, 1]),  # ties by rows
        ([0, 1, 2], [1, 1, 1], [0, 1, 2]),  # nothing to go by: as it is
    ],
)
def test_groups_are_ordered_by_the_tasks_that_lean_to_them(favourite, row_weight, expected):
    weights = np.full((len(favourite), 3), 0.3)
    weights[np.arange(len(favourite)), favourite] = 0.4
    assert group_order(weights, np.array(row_weight, dtype=float)).tolist() == expected


@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_start_from_groups_gives_every_task_its_own_group_and_strangers_all_alike(n_groups, n_tasks, seed):
    group = np.random.default_rng(seed).integers(-1, n_groups, n_tasks)
    theta = start_from_groups(group, n_groups)
    assert theta.shape == ((n_tasks,) if n_groups == 2 else (n_tasks, n_groups))
    mixing = mixing_weights(theta, np.ones(n_tasks))[:-1]
    for weights, own in zip(mixing, group, strict=True):
        rest = (1.0 - OWN_SHARE) / (n_groups - 1)
        expected = np.full(n_groups, 1.0 / n_groups) if own < 0 else np.full(n_groups, rest)
        if own >= 0:
            expected[own] = OWN_SHARE
        np.testing.assert_allclose(weights, expected, rtol=1e-9)


# --- start ------------------------------------------------------------------------------------------------------------


@given(losses, savings, losses, st.permutations(range(7)))
def test_renaming_tasks_renames_their_starts(task_loss, saved, error, order):
    order = np.array(order)
    np.testing.assert_allclose(
        start(task_loss[order], saved[order], error[order]), start(task_loss, saved, error)[order], rtol=1e-12
    )


@given(losses, savings, losses, st.sampled_from([1e-12, 1e-3, 7.0, 1e9]))
def test_the_unit_of_the_loss_does_not_matter(task_loss, saved, error, unit):
    np.testing.assert_allclose(
        start(unit * task_loss, unit * saved, unit * error), start(task_loss, saved, error), rtol=1e-6, atol=1e-9
    )


@given(losses, savings, losses, st.sampled_from([-0.5, -2.0, -2.9]))
def test_starts_lie_between_the_center_and_the_limit(task_loss, saved, error, center):
    theta = start(task_loss, saved, error, center)
    assert np.all((theta >= center) & (theta <= START_LIMIT))
    # At least half of the tasks save no more than the typical one: they start as inliers.
    assert np.sum(theta == center) >= 4


@given(losses, savings, losses, st.integers(0, 6), st.floats(0.0, 100.0))
def test_who_saves_more_starts_no_lower_and_who_is_less_certain_no_higher(task_loss, saved, error, t, more):
    before = start(task_loss, saved, error)[t]
    better = saved.copy()
    better[t] += more
    vague = error.copy()
    vague[t] += more
    assert start(task_loss, better, error)[t] >= before - 1e-12
    assert start(task_loss, saved, vague)[t] <= before + 1e-12


def test_one_task_far_above_the_others_starts_as_an_outlier_and_the_others_as_inliers():
    theta = start([1.0] * 9 + [5.0], [-0.1] * 9 + [4.0], [0.05] * 10)
    assert theta[-1] > 0 and np.all(theta[:-1] == CENTER)


def test_much_loss_with_nothing_to_save_makes_no_outlier():
    assert start([1.0, 1.0, 1.0, 50.0], [0.0, 0.0, 0.0, 0.0], [0.01] * 4).tolist() == [CENTER] * 4


def test_a_saving_within_chance_makes_no_outlier():
    assert start([1.0] * 5, [0.0] * 4 + [3.0], [0.1] * 4 + [3.0]).tolist() == [CENTER] * 5


def test_where_every_task_is_better_off_alone_nobody_stands_out():
    assert start([5.0] * 6, [4.0] * 6, [0.1] * 6).tolist() == [CENTER] * 6


def test_two_outliers_of_ten_are_both_seen():
    theta = start([1.0] * 8 + [2.0, 3.0], [0.0] * 8 + [1.5, 2.5], [0.1] * 10)
    assert np.all(theta[-2:] > 0) and np.all(theta[:-2] == CENTER)


@pytest.mark.parametrize("value", [0.0, 1e-310, 1e300])
def test_no_loss_and_huge_loss_give_finite_starts(value):
    for saved in ([0.0] * 3, [0.0, 0.0, value]):
        assert np.isfinite(start([value] * 3, saved, [0.0] * 3)).all()


# --- from rows --------------------------------------------------------------------------------------------------------


def tasks_with_one_odd_and_one_noisy(seed, loss_name="squared_error"):  # type: ignore[no-untyped-def]
    """Six tasks of one function; task 4 has its opposite, task 2 much noise on top."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(6), 150).astype(np.int32)
    X = rng.uniform(-2.0, 2.0, (2, 900))
    score = 2.0 * np.sin(2.0 * X[0]) + X[1]
    score = np.where(task == 4, -score, score) + np.where(task == 2, 2.5, 0.2) * rng.standard_normal(900)
    return X, task, (score > 0).astype(float) if loss_name == "log_loss" else score


def data_start(X, task, y, loss, **options):  # type: ignore[no-untyped-def]
    """θ as it starts: after one partition round that does not move it."""
    model, _ = run_boosting(X, task, y, loss, (15, 1, 0), theta_learning_rate=0.0, theta_init="data", **options)
    return model.theta


SQUARED = REGRESSION_LOSSES["squared_error"](0.5, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_an_odd_task_starts_as_an_outlier_and_a_noisy_one_does_not(seed):
    X, task, y = tasks_with_one_odd_and_one_noisy(seed)
    theta = data_start(X, task, y, SQUARED)
    assert theta[4] > 0 and np.all(np.delete(theta, 4) < 0)
    X, task, y = tasks_with_one_odd_and_one_noisy(seed, "log_loss")
    theta = data_start(X, task, y, CLASSIFICATION_LOSSES["log_loss"](2))
    assert theta[4] > 0 and np.all(np.delete(theta, 4) < 0)


def test_the_unit_of_y_and_the_seed_do_not_move_the_start():
    X, task, y = tasks_with_one_odd_and_one_noisy(0)
    theta = data_start(X, task, y, SQUARED)
    np.testing.assert_array_equal(data_start(X, task, y, SQUARED, seed=99), theta)
    # A power of two, so that bits, by which rows are parted in halves, are scaled exactly.
    scaled = data_start(X, task, 1024.0 * y, SQUARED)
    assert np.all(np.sign(scaled) == np.sign(theta)) and abs(scaled - theta).max() < 1.0


def test_the_order_of_rows_and_the_names_of_tasks_do_not_move_the_start():
    X, task, y = tasks_with_one_odd_and_one_noisy(1)
    theta = data_start(X, task, y, SQUARED)
    order = np.random.default_rng(0).permutation(900)
    order = order[np.argsort(task[order], kind="stable")]
    np.testing.assert_allclose(data_start(X[:, order].copy(), task[order], y[order], SQUARED), theta, rtol=1e-9)
    renamed = np.array([3, 5, 0, 1, 2, 4], dtype=np.int32)
    order = np.argsort(renamed[task], kind="stable")
    again = data_start(X[:, order].copy(), renamed[task][order], y[order], SQUARED)
    np.testing.assert_allclose(again[renamed], theta, rtol=1e-9)


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_equal_rows_fall_into_the_same_half_in_any_order(n, seed):
    rng = np.random.default_rng(seed)
    codes, y = rng.integers(0, 4, (2, n)), rng.integers(0, 3, n).astype(float)
    half = training_rows(codes, np.zeros(n), y).content_halves()
    for row in range(n):
        same = np.all(codes == codes[:, [row]], axis=0) & (y == y[row])
        assert len(set(half[same])) == 1
    order = rng.permutation(n)
    np.testing.assert_array_equal(training_rows(codes[:, order], np.zeros(n), y[order]).content_halves(), half[order])
    negative_zero = training_rows(codes, np.zeros(n), np.where(y == 0, -0.0, y)).content_halves()
    np.testing.assert_array_equal(negative_zero, half)


@pytest.mark.parametrize("kind", ["numbers", "classes", "no features"])
def test_halves_are_about_equal_and_do_not_follow_the_target(kind):
    rng = np.random.default_rng(0)
    n = 4000
    codes = rng.integers(0, 255, (0 if kind == "no features" else 3, n))
    y = rng.integers(0, 2, n).astype(float) if kind == "classes" else rng.standard_normal(n)
    half = training_rows(codes, np.zeros(n), y).content_halves()
    assert abs(half.mean() - 0.5) < 0.05
    assert abs(np.corrcoef(half, y)[0, 1]) < 0.06
    for column in codes:
        assert abs(np.corrcoef(half, column)[0, 1]) < 0.06


# --- samples of rows ------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
def test_equal_rows_are_drawn_together_in_any_order_and_the_seed_draws_others(n, share, seed):
    rng = np.random.default_rng(seed)
    codes, y = rng.integers(0, 4, (2, n)), rng.integers(0, 3, n).astype(float)
    rows = training_rows(codes, rng.integers(0, 3, n), y)
    sample, expected = rows.content_sample(share, seed), rows.sample(rows.content_share(share, seed))
    for name in ("rows", "row_start", "out_rows", "out_start"):
        np.testing.assert_array_equal(getattr(sample, name), getattr(expected, name))
    drawn = training_rows(codes, np.zeros(n), y).content_share(share, seed)
    for row in range(n):
        same = np.all(codes == codes[:, [row]], axis=0) & (y == y[row])
        assert len(set(drawn[same])) == 1
    order = rng.permutation(n)
    again = training_rows(codes[:, order], np.zeros(n), y[order]).content_share(share, seed)
    np.testing.assert_array_equal(again, drawn[order])


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_the_share_that_is_drawn_is_the_share_asked_for_and_draws_do_not_follow_each_other_or_the_target(share):
    rng = np.random.default_rng(0)
    n = 4000
    y = rng.standard_normal(n)
    rows = training_rows(rng.integers(0, 255, (3, n)), np.zeros(n), y)
    draws = np.array([rows.content_share(share, seed) for seed in range(20)])
    np.testing.assert_allclose(draws.mean(axis=1), share, atol=0.04)
    if share == 1.0:
        assert draws.all()
        return
    for seed in range(3):
        np.testing.assert_allclose(np.bincount(rows.content_folds(4, seed)) / n, 0.25, atol=0.04)
    correlation = np.corrcoef(np.vstack([draws, y, rows.content_halves()]))
    assert np.abs(correlation[~np.eye(22, dtype=bool)]).max() < 0.08


@given(npst.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 4)), st.integers(0, 2**32 - 1))
def test_a_sample_within_tasks_has_its_rows_of_these_and_leaves_out_the_rest(task, seed):
    rng = np.random.default_rng(seed)
    rows = training_rows(np.zeros((1, len(task))), task, n_tasks=5)
    is_in, is_member = rng.random(len(task)) < 0.6, rng.random(5) < 0.6
    got, expected = rows.sample(is_in).within(is_member), rows.sample(is_in & is_member[rows.task])
    for name in ("rows", "row_start", "out_rows", "out_start"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        assert getattr(got, name).dtype == getattr(expected, name).dtype


@given(npst.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 4)), st.integers(0, 2**32 - 1))
def test_rows_taken_are_those_rows_with_all_tasks_kept(task, seed):
    rng = np.random.default_rng(seed)
    n = len(task)
    codes, y, weight = rng.integers(0, 9, (2, n)), rng.standard_normal(n), rng.uniform(0.5, 2.0, n)
    rows = training_rows(codes, task, y, weight, n_tasks=5)
    is_in = rng.random(n) < 0.6
    taken = rows.take(is_in)
    expected = training_rows(codes_of(rows)[:, is_in], rows.task[is_in], rows.y[is_in], rows.weight[is_in], n_tasks=5)
    for name in ("words", "task", "task_start", "y", "weight"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(expected, name))
    assert taken.n_tasks == 5 and taken.words.flags.c_contiguous
    np.testing.assert_array_equal(taken.position, rows.position[is_in])
