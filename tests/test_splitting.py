"""The best split of a node is the one that trying everything finds, ties included."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import naive
from boosting_inputs import (
    bin_layout,
    codes_of,
    float_histogram,
    kernel_inputs,
    split_options,
    training_rows,
    tree_problems,
)
from mttab._core.boosting.binning import CATEGORY, TASK_ID
from mttab._core.boosting.category_splits import most_of_levels
from mttab._core.boosting.feature_splits import find_node_split
from mttab._core.boosting.histogram import gather_statistics
from mttab._core.boosting.small_nodes import find_split_from_rows
from mttab._core.boosting.splitting import MIN_HESSIAN
from naive import Problem, Split


def find_split(  # type: ignore[no-untyped-def]
    rows, layout, options, gradient, hessian, node=None, low=-np.inf, high=np.inf, features=None, from_rows=False
):
    """Gain and split of the node, from its histogram, or straight from its rows as for small nodes."""
    node = rows.all_rows().rows if node is None else node
    n_channels = 1 + len(gradient) * (1 if options.constant_hessian else 2)
    statistics, sums = np.empty((len(node), n_channels)), np.empty(n_channels)
    gather_statistics(node, 0, len(node), gradient, hessian, rows.weight, options.constant_hessian, statistics, sums)
    n_layout = len(layout.offset) - 1
    words = np.zeros((int(np.diff(layout.offset).max()) + 31) // 32, dtype=np.uint32)
    features = np.arange(n_layout) if features is None else np.asarray(features, dtype=np.int64)
    if from_rows:
        of_node = layout, node, statistics, sums, options, low, high, np.isin(np.arange(n_layout), features), words
        gain, f, left_bin, right_bin, missing_left = find_split_from_rows(
            rows.words, rows.task.view(np.uint32), *of_node
        )
    else:
        histogram = float_histogram(rows, layout, node, 0, len(node), statistics)
        gain, f, left_bin, right_bin, missing_left = find_node_split(
            histogram, layout, sums, options, low, high, features, words
        )
    if f < 0:
        return gain, None
    codes = codes_of(rows)[f] if f < rows.n_features else rows.task
    missing = layout.offset[f + 1] - layout.offset[f] - 1
    levels = (
        {b for b in range(missing) if words[b >> 5] >> np.uint32(b & 31) & 1} if layout.is_categorical[f] else set()
    )
    own = codes[node].astype(int)
    is_left = np.isin(own, list(levels)) if layout.is_categorical[f] else own <= left_bin
    is_left = np.where(own == missing, missing_left, is_left)
    return gain, Split(f, is_left, left_bin, right_bin, bool(missing_left), levels)


def assert_same_split(fast: Split | None, slow: Split | None) -> None:
    assert (fast is None) == (slow is None)
    if fast is not None and slow is not None:
        np.testing.assert_array_equal(fast.is_left, slow.is_left)
        assert (fast.feature, fast.left_bin, fast.right_bin) == (slow.feature, slow.left_bin, slow.right_bin)
        assert (fast.missing_left, fast.levels) == (slow.missing_left, slow.levels)


def one_feature(codes, gradient, n_bins, weight=None, kind=0, monotonic=0, **options):  # type: ignore[no-untyped-def]
    """Best split of all rows on a single feature, squared error."""
    n = len(codes)
    if kind == TASK_ID:
        rows = training_rows(np.empty((0, n)), codes, weight=weight, n_tasks=n_bins + 1)
        assert np.array_equal(rows.task, codes), "in the order of the tasks"
    else:
        rows = training_rows([codes], np.zeros(n), weight=weight)
    layout = bin_layout([n_bins], [kind], [monotonic])
    gradient = np.asarray(gradient, dtype=np.float64)[None] * rows.weight
    return find_split(rows, layout, split_options(**options), gradient, rows.weight[None].copy())


# --- against the twin -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_rows", [False, True])
@settings(max_examples=200)
@given(drawn=tree_problems(), data=st.data())
def test_the_split_is_the_best_of_all_splits(from_rows, drawn, data):
    problem, task, _, _ = drawn
    rows, layout, options = kernel_inputs(*drawn)
    n_features = len(problem.columns)
    node = np.flatnonzero(data.draw(npst.arrays(np.bool_, len(task), fill=st.just(True)))).astype(np.uint32)
    features = sorted(data.draw(st.sets(st.integers(0, n_features - 1), min_size=1)))
    low, high = -math.inf, math.inf
    if problem.n_outputs == 1 and data.draw(st.booleans()):
        scale = float(np.abs(problem.gradient).max())
        low, high = sorted(data.draw(st.tuples(*[st.sampled_from([-scale, -scale / 4, 0.0, scale / 4, scale])] * 2)))
    if len(node) == 0:
        return
    gain, fast = find_split(
        rows, layout, options, problem.gradient, problem.hessian, node, low, high, features, from_rows
    )
    slow_gain, slow = naive.best_split(problem, node, features, low, high)
    assert_same_split(fast, slow)
    size = abs(naive.node_score(problem, node, low, high)) + slow_gain
    assert abs(gain - slow_gain) <= 1e-12 * size


@given(
    st.integers(2, 60),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.sampled_from([1e-100, 1e-3, 1.0, 1e100]),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_with_any_floats_the_split_is_allowed_and_as_good_as_the_best(n, n_outputs, is_constant, scale, seed, data):
    rng = np.random.default_rng(seed)
    weight = np.sort(rng.exponential(size=n)) + 0.05
    task = np.sort(rng.integers(0, 12, n))
    columns = [rng.integers(0, b + 1, n) for b in (4, 20)]
    elements = st.one_of(st.floats(-1.0, 1.0), st.sampled_from([0.1, -0.1, 1e-9]))
    # The noise parts levels of equal mean gradient: which of them comes first is not the question here.
    noise = 1e-3 * rng.standard_normal((n_outputs, n))
    gradient = scale * (data.draw(npst.arrays(np.float64, (n_outputs, n), elements=elements)) + noise)
    hessian = np.tile(weight, (n_outputs, 1)) if is_constant else rng.uniform(0.0, 1.0, (n_outputs, n)) * weight
    problem = Problem([*columns, task], [4, 20, 12], [0, CATEGORY, TASK_ID], [0, 0, 0], weight, gradient, hessian, 2.0)
    rows, layout, options = kernel_inputs(problem, task, 12, is_constant)
    everything = np.arange(n)
    gain, fast = find_split(rows, layout, options, gradient, hessian)
    slow_gain, _ = naive.best_split(problem, everything)
    own = naive.node_score(problem, everything)
    assert gain == pytest.approx(slow_gain, abs=1e-9 * (own + slow_gain))
    if fast is None:
        return
    score = naive.split_score(
        problem, everything, fast, -math.inf, math.inf, naive.prior_l2(problem, fast.feature, everything)
    )
    assert np.isfinite(score), "the split leaves a child too small"
    assert score - own == pytest.approx(gain, abs=1e-9 * (own + gain))


@given(st.integers(1, 90), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_small_node_splits_as_its_histogram_does_to_the_last_bit(n, n_outputs, is_constant, seed):
    rng = np.random.default_rng(seed)
    n_bins = [1, 5, 254, 255]
    codes = [np.minimum(rng.integers(0, b + 2, n), b) for b in n_bins]
    codes[3][rng.random(n) < 0.3] = 0
    rows = training_rows(codes, rng.integers(0, 30, n), weight=rng.exponential(size=n) + 0.1, n_tasks=30)
    layout = bin_layout([*n_bins, 30], [0, CATEGORY, 0, 0, TASK_ID])
    gradient, hessian = rng.standard_normal((n_outputs, n)), rng.uniform(0.0, 1.0, (n_outputs, n))
    node = rng.permutation(n)[: rng.integers(1, n + 1)].astype(np.uint32)
    options = split_options(is_constant, min_samples_leaf=1.5)
    (gain, split), (again, same) = (
        find_split(rows, layout, options, gradient, hessian, node, from_rows=from_rows) for from_rows in (False, True)
    )
    assert gain == again
    assert_same_split(same, split)


@pytest.mark.parametrize("n_levels", [2, 31, 32, 33, 254, 300])
def test_categories_of_any_number_split_as_the_twin_does(n_levels):
    rng = np.random.default_rng(n_levels)
    n = 400
    # Only half of the levels have rows.
    task = np.sort(2 * rng.integers(0, (n_levels + 1) // 2, n))
    gradient = rng.integers(-4, 5, (1, n)) + np.round(4 * np.sin(task))
    weight = np.ones(n)
    problem = Problem([task], [n_levels], [TASK_ID], [0], weight, gradient, weight[None].copy(), 5.0)
    rows, layout, options = kernel_inputs(problem, task, n_levels, True)
    gain, fast = find_split(rows, layout, options, gradient, problem.hessian)
    slow_gain, slow = naive.best_split(problem, np.arange(n))
    assert_same_split(fast, slow)
    assert gain == pytest.approx(slow_gain, rel=1e-12)
    assert n_levels == 2 or slow is not None


# --- ties -------------------------------------------------------------------------------------------------------------


def test_of_equal_splits_the_first_feature_and_the_lowest_threshold_win():
    gradient = np.array([[-1.0, 0.0, 0.0, 1.0]])
    codes = [[0, 1, 1, 2], [2, 1, 1, 0], [0, 1, 1, 2]]
    rows = training_rows(codes, np.zeros(4))
    layout = bin_layout([3, 3, 3])
    _, split = find_split(rows, layout, split_options(), gradient, np.ones((1, 4)), features=[1, 2])
    assert (split.feature, split.left_bin) == (1, 0)
    _, split = find_split(rows, layout, split_options(), gradient, np.ones((1, 4)))
    assert (split.feature, split.left_bin) == (0, 0)


def test_of_equal_splits_on_categories_the_first_wins():
    rows = training_rows([[0, 1, 1, 2], [0, 1, 1, 2]], np.zeros(4))
    gradient = np.array([[-9.0, 0.0, 0.0, 9.0]])
    _, split = find_split(rows, bin_layout([3, 3], [CATEGORY, CATEGORY]), split_options(), gradient, np.ones((1, 4)))
    assert split.feature == 0 and split.levels == {0}, "the lowest mean gradient first"


@given(st.integers(3, 80), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_the_order_in_which_rows_are_summed_does_not_choose_between_equal_splits(n, n_outputs, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 6, (1, n)).astype(np.uint8)
    # The second feature is the first one upside down: the same partitions from the other side.
    codes = np.concatenate([codes, 5 - codes, codes])
    rows = training_rows(codes, np.zeros(n), weight=rng.uniform(0.1, 1.0, n))
    layout = bin_layout([6, 6, 6])
    gradient, hessian = rng.standard_normal((n_outputs, n)), rng.uniform(0.5, 1.0, (n_outputs, n))
    found = set()
    for _ in range(5):
        node = rng.permutation(n).astype(np.uint32)
        _, split = find_split(rows, layout, split_options(False), gradient, hessian, node)
        found.add(None if split is None else (split.feature, split.left_bin, split.right_bin, split.missing_left))
    assert len(found) == 1
    assert found == {None} or found.pop()[0] == 0


def test_missing_values_go_right_where_both_sides_are_as_good():
    # Cut after the first value, both sides of the missing rows give 1/1 + 1/3.
    _, split = one_feature([0, 1, 2, 2], [-1.0, 1.0, 0.0, 0.0], 2)
    assert split.left_bin == 0 and split.missing_left is False


# --- numeric features -------------------------------------------------------------------------------------------------


def test_missing_values_alone_can_be_a_child():
    _, split = one_feature([0, 1, 3, 2, 3, 3], [1.0, 1.0, -1.0, 1.0, -1.0, -1.0], 3)
    assert split.is_left.tolist() == [True, True, False, True, False, False]
    assert (split.left_bin, split.right_bin, split.missing_left) == (2, 3, False)


def test_missing_values_go_where_their_gradients_fit():
    _, split = one_feature([0, 1, 2, 2], [1.0, -1.0, 1.0, 1.1], 2)
    assert split.missing_left is True and split.left_bin == 0


@pytest.mark.parametrize("monotonic", [0, 1])
def test_missing_values_that_training_never_saw_follow_the_heavier_child(monotonic):
    def missing_left(*args):  # type: ignore[no-untyped-def]
        return one_feature(*args, monotonic=monotonic)[1].missing_left

    assert missing_left([0, 0, 0, 1], [1.0, 1.0, 1.0, -3.0], 2) is True
    assert missing_left([0, 1, 1, 1], [3.0, -1.0, -1.0, -1.0], 2) is False
    assert missing_left([0, 1, 1, 1], [3.0, -1.0, -1.0, -1.0], 2, [9.0, 1.0, 1.0, 1.0]) is True
    assert missing_left([0, 0, 1, 1], [3.0, 3.0, -1.0, -1.0], 2) is True, "left where both weigh the same"


def test_empty_bins_are_skipped_to_the_next_used_one():
    _, split = one_feature([3, 3, 200, 200], [1.0, 1.0, -1.0, -1.0], 255)
    assert (split.left_bin, split.right_bin) == (3, 200)


@pytest.mark.parametrize("code", [0, 2, 3])
@pytest.mark.parametrize("kind", [0, CATEGORY, TASK_ID])
def test_a_constant_column_never_splits(code, kind):
    # Code 3 is *missing*: a column without any value.
    gain, split = one_feature([code] * 5, [1.0, -2.0, 3.0, 0.5, 0.0], 3, kind=kind)
    assert gain == 0.0 and split is None


def test_a_split_without_gain_is_no_split():
    gain, split = one_feature([0, 0, 1, 1], [1.0, -1.0, 1.0, -1.0], 2)
    assert gain == 0.0 and split is None


@pytest.mark.parametrize("kind", [0, CATEGORY, TASK_ID])
def test_min_samples_leaf_counts_weights(kind):
    codes, gradient = [0] * 10 + [1] * 30, [9.0] * 10 + [-3.0] * 30

    def is_split(weight, smallest, sign=1.0):  # type: ignore[no-untyped-def]
        options = {"min_samples_leaf": smallest, "categorical_prior": 1.0}
        return one_feature(codes, sign * np.array(gradient), 2, weight, kind, **options)[1] is not None

    tenths = [0.1] * 40
    for sign in (1.0, -1.0):
        assert is_split(tenths, 1.0, sign), "ten times 0.1 is 1, whatever floats say"
    assert not is_split(tenths, 1.01)
    assert is_split([2.0] * 40, 20.0) and not is_split([2.0] * 40, 20.5)


def test_a_child_needs_curvature():
    rows = training_rows([[0, 0, 1, 1]], np.zeros(4))
    gradient = np.array([[1.0, 1.0, -1.0, -1.0]])

    def is_split(smallest, other=1.0, **options):  # type: ignore[no-untyped-def]
        hessian = np.array([[other, other, smallest / 2, smallest / 2]])
        return find_split(rows, bin_layout([2]), split_options(False, **options), gradient, hessian)[1] is not None

    assert is_split(1.01 * MIN_HESSIAN) and not is_split(0.99 * MIN_HESSIAN) and not is_split(0.0)
    # Beside large sums, too, of which the smallest hessian that is allowed is less than a rounding.
    assert is_split(1e13, other=5e13, l2=3.0) and not is_split(0.0, other=5e13, l2=3.0)


def test_gain_is_the_loss_that_two_means_save_over_one():
    gain, _ = one_feature([0, 0, 1, 1], [1.0, 3.0, -2.0, -2.0], 2)
    assert gain == pytest.approx(4.0**2 / 2 + 4.0**2 / 2 - 0.0)
    regularised, _ = one_feature([0, 0, 1, 1], [1.0, 3.0, -2.0, -2.0], 2, l2=2.0)
    assert regularised == pytest.approx(4.0**2 / 4 + 4.0**2 / 4)


# --- constraints ------------------------------------------------------------------------------------------------------


def test_a_monotonic_feature_splits_in_its_direction_only():
    codes, gradient = [0, 0, 1, 1, 2, 2], [-3.0, -3.0, 1.0, 1.0, 2.0, 2.0]  # values fall with the code
    assert one_feature(codes, gradient, 3, monotonic=1)[1] is None
    assert one_feature(codes, gradient, 3, monotonic=-1)[1].left_bin == 0
    # The best cut breaks the order, the second best does not.
    codes, gradient = [0, 1, 2], [0.0, 4.0, -1.0]
    assert one_feature(codes, gradient, 3)[1].left_bin == 1
    assert one_feature(codes, gradient, 3, monotonic=-1)[1].left_bin == 0


def test_bounds_lower_the_gain_to_what_the_bounded_values_save():
    rows = training_rows([[0, 0, 1, 1]], np.zeros(4))
    gradient, hessian = np.array([[2.0, 2.0, -2.0, -2.0]]), np.ones((1, 4))
    free, _ = find_split(rows, bin_layout([2]), split_options(), gradient, hessian)
    bound, _ = find_split(rows, bin_layout([2]), split_options(), gradient, hessian, low=-1.0, high=0.5)
    # Σ −2 G v − H v² for values −1 (left) and ½ (right), less the score of the node, 0.
    assert free == pytest.approx(16.0) and bound == pytest.approx((8.0 - 2.0) + (4.0 - 0.5))


# --- categories -------------------------------------------------------------------------------------------------------


def test_levels_without_rows_follow_the_heavier_child():
    _, split = one_feature([0, 0, 0, 4], [1.0, 1.0, 1.0, -3.0], 6, kind=CATEGORY)
    heavier = split.levels if 0 in split.levels else set(range(6)) - split.levels
    assert heavier == {0, 1, 2, 3, 5}
    assert split.missing_left == (0 in split.levels)


@given(
    st.integers(1, 8),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 30.0]),
    st.integers(0, 2**32 - 1),
)
def test_no_two_sets_of_levels_score_more_than_the_bound(n_levels, n_outputs, is_constant, l2, seed):
    rng = np.random.default_rng(seed)
    n_channels = 1 + n_outputs if is_constant else 1 + 2 * n_outputs
    histogram = rng.exponential(size=(n_levels, n_channels)) * rng.choice([0.0, 1.0, 100.0], n_levels)[:, None]
    histogram[:, 1 : 1 + n_outputs] *= rng.choice([-1.0, 0.0, 1.0], (n_levels, n_outputs))
    hessian = histogram[:, [0] * n_outputs if is_constant else slice(1 + n_outputs, None)]
    gradient = histogram[:, 1 : 1 + n_outputs]

    def score(members: np.ndarray) -> float:
        g, h = gradient[members].sum(axis=0), hessian[members].sum(axis=0) + l2
        return float(np.sum(np.divide(g**2, h, out=np.zeros(n_outputs), where=h > 0.0)))

    bound = most_of_levels(histogram, n_outputs, split_options(constant_hessian=is_constant), l2)
    for number in range(2**n_levels):
        is_left = (number >> np.arange(n_levels)) & 1 == 1
        assert score(is_left) + score(~is_left) <= bound * (1.0 + 1e-12)
    if l2 == 0.0 and n_levels <= 2:
        assert bound == pytest.approx(score(np.arange(n_levels) < 1) + score(np.arange(n_levels) >= 1))


def test_missing_is_a_level_of_its_own():
    _, split = one_feature([0, 1, 2, 2, 0, 1], [1.0, 1.0, -1.0, -1.0, 1.0, 1.0], 2, kind=CATEGORY)
    assert split.is_left.tolist() in ([True, True, False, False, True, True], [False, False, True, True, False, False])


def test_rare_levels_stand_near_zero_in_the_order_of_levels():
    # One row of gradient 1 says less than twenty of 0.9: with a prior of one row level 1 is ordered below level 2, and
    # only then is there a prefix that leaves three rows on both sides.
    codes = [0] * 2 + [1] + [2] * 20
    gradient = [-9.0] * 2 + [1.0] + [0.9] * 20
    rules = {"kind": TASK_ID, "min_samples_leaf": 3.0}
    _, split = one_feature(codes, gradient, 3, **rules, categorical_prior=1.0)
    assert split.is_left.tolist() == [True] * 3 + [False] * 20
    _, split = one_feature(codes, gradient, 3, **rules, categorical_prior=1e-9)
    assert split is None


def test_levels_of_few_rows_stay_right_and_both_ends_of_the_order_are_tried_without_them():
    # Level 1 is the odd one, at the upper end of the order; of the others only level 0 has three rows.
    codes = [0, 0, 0, 1, 1, 1, 2, 3, 4]
    gradient = [-1.0, -1.0, -1.0, 9.0, 9.0, 9.0, 1.0, -2.0, -1.5]
    rules = {"categorical_min_rows": 3.0, "categorical_prior": 0.01}
    _, split = one_feature(codes, gradient, 4, kind=CATEGORY, **rules)
    assert split.levels == {1} and split.missing_left is False
    _, split = one_feature(codes, gradient, 4, kind=TASK_ID, **rules)
    assert split.levels == {0, 2, 3} and split.missing_left is True, "ids of tasks are all sorted"


def test_category_subsets_are_scored_with_the_prior_added_to_lambda():
    gain, split = one_feature([0, 0, 1, 1], [2.0, 2.0, -2.0, -2.0], 2, kind=TASK_ID, categorical_prior=6.0)
    assert split is not None and gain == pytest.approx(2 * 4.0**2 / (2 + 6.0))


def test_of_several_outputs_the_one_that_differs_most_between_levels_orders_them():
    rows = training_rows([[0, 0, 1, 1, 2, 2, 3, 3]], np.zeros(8))
    weak, strong = [0.1, 0.1, -0.1, -0.1, 0.1, 0.1, -0.1, -0.1], [1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
    for gradient in ([weak, strong], [strong, weak]):
        _, split = find_split(rows, bin_layout([4], [CATEGORY]), split_options(), np.array(gradient), np.ones((2, 8)))
        assert split.levels in ({0, 1}, {2, 3})
