"""Symmetric trees are those of the twin: one cut per level, in every node that it leaves large enough."""

import numpy as np
import pytest
from hypothesis import given

import naive
from boosting_inputs import (
    bin_layout,
    codes_of,
    kernel_inputs,
    make_grower,
    split_options,
    training_rows,
    tree_problems,
)
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting import growing
from mttab._core.boosting.binning import CATEGORY, TASK_ID
from mttab._core.boosting.distributed import DistributedGrower
from mttab._core.boosting.level_search import sum_up
from mttab._core.boosting.rows import Peers
from mttab._core.boosting.threads import Team
from mttab._core.boosting.tree_arrays import TreeArrays
from mttab.datasets import make_task_groups
from naive import Problem
from test_tree import assert_same_tree, numeric_rows


@given(tree_problems())
def test_a_symmetric_tree_is_the_one_the_twin_grows(drawn):
    problem, _, _, _ = drawn
    rows, layout, options = kernel_inputs(*drawn)
    grower = make_grower(rows, layout, options, problem.max_leaf_nodes, problem.max_depth, is_symmetric=True)
    grown = grower.grow_shared(problem.gradient, problem.hessian, rows.weight, rows.all_rows(), 0)
    assert_same_tree(grown, 0, problem, naive.grow_symmetric_tree(problem, np.arange(rows.n_rows)))


def test_a_symmetric_tree_of_packed_derivatives_is_the_one_the_twin_grows():
    rng = np.random.default_rng(3)
    n = 3000  # enough rows for sums of whole numbers
    codes = np.array([rng.integers(0, 7, n), rng.integers(0, 4, n), rng.integers(0, 6, n)])
    gradient = rng.integers(-8, 9, (1, n)) + np.array([0.0, 4.0, -4.0, 0.0, 4.0, 8.0])[codes[2]] * (codes[0] > 3)
    weight = np.ones(n)
    kinds, n_bins = [0, 0, CATEGORY], [6, 4, 5]
    problem = Problem([*codes], n_bins, kinds, [0, 0, 0], weight, gradient, weight[None], 20.0, max_leaf_nodes=16)
    rows = training_rows(codes, np.zeros(n))
    options = split_options(min_samples_leaf=20.0, categorical_min_rows=problem.categorical_min_rows)
    grower = make_grower(rows, bin_layout(n_bins, kinds), options, 16, is_symmetric=True)
    grown = grower.grow_shared(gradient, weight[None].copy(), rows.weight, rows.all_rows(), 0)
    assert_same_tree(grown, 0, problem, naive.grow_symmetric_tree(problem, np.arange(n)))
    assert {0, 2} <= set(grown.trees.feature[0, :7]), "a threshold and a set of levels"


def test_bins_become_sums_up_to_each_where_they_have_an_order_and_missing_values_stay_apart():
    layout, rng = bin_layout([4, 3, 2], [0, CATEGORY, 0]), np.random.default_rng(0)
    for n_channels in (2, 3, 5):
        histogram = rng.random((layout.offset[-1], n_channels))
        expected = histogram.copy()
        for f in (0, 2):
            values = slice(layout.offset[f], layout.offset[f + 1] - 1)
            expected[values] = np.cumsum(histogram[values], axis=0)
        sum_up(histogram, layout, 0, 3)
        np.testing.assert_allclose(histogram, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("seed", range(10))
def test_what_rounding_leaves_of_missing_values_is_not_taken_for_rows(seed):
    """Two small leaves have all missing values of x1; the third one's are what the others leave of sums that round."""
    rng, n = np.random.default_rng(seed), 400
    codes = np.array([np.r_[np.zeros(9), np.ones(9), np.full(n - 18, 2)], rng.integers(0, 6, n)]).astype(np.int64)
    codes[1, [0, 2, 3, 5, 7, 9, 11, 12, 16]] = 6
    weight = np.r_[rng.uniform(0.9, 1.1, 18), rng.uniform(0.1, 3.0, n - 18)]
    gradient = weight * (np.array([-3000.0, 1000.0, 0.0])[codes[0]] + (codes[1] == 5))
    problem = Problem([*codes], [3, 6], [0, 0], [0, 0], weight, gradient[None], weight[None], 5.0, max_leaf_nodes=8)
    rows = training_rows(codes, np.zeros(n), weight=weight)
    grower = make_grower(rows, bin_layout([3, 6]), split_options(min_samples_leaf=5.0), 8, is_symmetric=True)
    grown = grower.grow_shared(gradient[None], weight[None].copy(), rows.weight, rows.all_rows(), 0)
    assert grown.trees.feature[0, :7].tolist() == [0, -1, 0, -1, 1, -1, -1]
    assert grown.trees.missing_left[0, 4], "where most rows go"
    assert_same_tree(grown, 0, problem, naive.grow_symmetric_tree(problem, np.arange(n)))


@pytest.mark.parametrize("direction", [-1, 1])
def test_missing_values_alone_are_never_left_of_a_cut(direction):
    """Not even where the first bins have no rows, and a constraint forbids them alone on the right."""
    rng, n = np.random.default_rng(0), 300
    codes = np.array([rng.integers(2, 4, n)])
    codes[0, rng.random(n) < 0.4] = 5
    gradient = np.where(codes[0] == 5, 3.0 * direction, 0.0) + 0.1 * rng.standard_normal(n)
    weight = np.ones(n)
    problem = Problem([*codes], [5], [0], [direction], weight, gradient[None], weight[None], 5.0, max_leaf_nodes=4)
    rows = training_rows(codes, np.zeros(n))
    grower = make_grower(
        rows, bin_layout([5], [0], [direction]), split_options(min_samples_leaf=5.0), 4, is_symmetric=True
    )
    grown = grower.grow_shared(gradient[None], weight[None].copy(), rows.weight, rows.all_rows(), 0)
    assert_same_tree(grown, 0, problem, naive.grow_symmetric_tree(problem, np.arange(n)))
    assert grown.trees.left_bin[0, 0] >= 2


def test_all_nodes_of_a_level_have_one_cut():
    rows, layout, gradient, hessian = numeric_rows(5000, 0)  # so many that no node has to wait
    grower = make_grower(rows, layout, split_options(), 16, is_symmetric=True)
    tree = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0).trees
    level, n_levels = [0], 0
    while tree.left[0, level[0]] >= 0:
        n_levels += 1
        cut = [level for level in level if tree.left[0, level] >= 0]
        assert len({(tree.feature[0, i], tree.left_bin[0, i]) for i in cut}) == 1
        level = [child for i in cut for child in (tree.left[0, i], tree.right[0, i])]
    assert n_levels == 4, "as deep as 16 leaves allow"


@pytest.mark.parametrize(("max_leaf_nodes", "max_depth", "expected"), [(2, 99, 2), (7, 99, 4), (8, 99, 8), (64, 3, 8)])
def test_a_symmetric_tree_is_as_deep_as_its_leaves_and_its_depth_allow(max_leaf_nodes, max_depth, expected):
    rows, layout, gradient, hessian = numeric_rows(2000, 1)
    grower = make_grower(rows, layout, split_options(), max_leaf_nodes, max_depth, is_symmetric=True)
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    n_nodes = grown.trees.n_nodes[0]
    assert np.sum(grown.trees.left[0, :n_nodes] < 0) == expected


def test_a_node_that_a_cut_leaves_too_small_waits_for_the_next_level():
    # The second feature is 1 in three rows with x0 ≤ 0, and in half of those with x0 > 0.
    codes = np.array([[0] * 10 + [1] * 10, [1] * 3 + [0] * 7 + [1] * 5 + [0] * 5, [0, 1] * 10])
    gradient = np.where(codes[0] == 0, -20.0, 20.0) + 6.0 * codes[1] + 2.0 * codes[2]
    rows = training_rows(codes, np.zeros(20))
    grower = make_grower(rows, bin_layout([2, 2, 2]), split_options(min_samples_leaf=4.0), 8, is_symmetric=True)
    tree = grower.grow_shared(gradient[None], np.ones((1, 20)), rows.weight, rows.all_rows(), 0).trees
    assert tree.feature[0, :7].tolist() == [0, 2, 1, -1, -1, -1, -1]


def test_levels_are_told_apart_where_two_nodes_see_them_the_other_way_round():
    """Summed over x0 every level has gradient 0, so an order by these sums would be no order."""
    rng = np.random.default_rng(0)
    n, slope = 4000, np.array([1.0, -1.0, 2.0, -2.0, 1.5, -1.5, 0.5, -0.5])
    codes = np.array([np.arange(n) % 2, rng.integers(0, 8, n)])
    signal = slope[codes[1]] * (2 * codes[0] - 1)
    gradient = (signal + 6.0 * codes[0] - 3.0 + 0.1 * rng.standard_normal(n))[None]
    rows = training_rows(codes, np.zeros(n))
    grower = make_grower(rows, bin_layout([2, 8], [0, CATEGORY]), split_options(), 4, is_symmetric=True)
    tree = grower.grow_shared(gradient, np.ones((1, n)), rows.weight, rows.all_rows(), 0).trees
    assert tree.feature[0, :3].tolist() == [0, 1, 1]
    levels = {b for b in range(8) if tree.category_set[0, 1, 0] >> np.uint32(b) & 1}
    assert levels in ({0, 2, 4, 6}, {1, 3, 5, 7})


@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_constant", [False, True])
def test_a_symmetric_tree_is_the_same_for_any_number_of_threads(is_constant, is_weighted, n_threads, monkeypatch):
    n, rng = 6000, np.random.default_rng(0)
    rows, _, gradient, _ = numeric_rows(n, 0, n_features=7, n_bins=50, n_tasks=40)
    if is_weighted:
        rows = training_rows(codes_of(rows), rows.task, weight=rng.uniform(0.5, 2.0, n))
    layout = bin_layout([50] * 7 + [40], [0, 0, CATEGORY, 0, 0, 0, 0, TASK_ID])
    hessian = rows.weight[None].copy() if is_constant else rng.uniform(0.01, 1.0, (1, n))
    sample = rows.sample(rng.random(n) < 0.8)
    grown = []
    for threads in (1, n_threads):
        # Every step that can be shared out is, however small.
        monkeypatch.setattr(growing, "team_of", lambda n: Team(np.int64(n), np.int64(0)) if n > 1 else None)
        options = split_options(is_constant, min_samples_leaf=10.0)
        grower = make_grower(rows, layout, options, 64, n_features_tried=5, n_threads=threads, is_symmetric=True)
        grown.append(grower.grow_shared(gradient, hessian, rows.weight, sample, 3))
    one, many = grown
    n_nodes = one.trees.n_nodes[0]
    assert n_nodes == many.trees.n_nodes[0] > 40
    np.testing.assert_array_equal(one.rows, many.rows)
    np.testing.assert_array_equal(one.out_rows, many.out_rows)
    is_split = one.trees.left[0, :n_nodes] >= 0
    for name in TreeArrays._fields[:-1]:
        is_compared = is_split if name in ("threshold", "category_set") else np.full(n_nodes, True)  # not set in leaves
        a, b = (getattr(trees.trees, name)[0, :n_nodes][is_compared] for trees in grown)
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_of_features_that_split_alike_the_first_one_is_taken():
    """Their gains differ in the last bit, for the rows are summed from the other end."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 6, 300)
        gradient = np.sin(x) + rng.standard_normal(300)
        gradient -= gradient.mean()
        rows = training_rows(np.array([x, 5 - x]), np.zeros(300))
        grower = make_grower(rows, bin_layout([6, 6]), split_options(), 2, is_symmetric=True)
        tree = grower.grow_shared(gradient[None], np.ones((1, 300)), rows.weight, rows.all_rows(), 0).trees
        assert tree.feature[0, 0] == 0


def test_a_heavy_row_is_a_leaf_and_no_more():
    """A single row may weigh enough for two leaves, but there are no more nodes than rows allow."""
    codes = np.array([[0, 1, 2], [0, 0, 1]])
    rows = training_rows(codes, np.zeros(3), weight=np.full(3, 10.0))
    grower = make_grower(rows, bin_layout([3, 3]), split_options(min_samples_leaf=5.0), 64, is_symmetric=True)
    tree = grower.grow_shared(
        np.array([[-30.0, 10.0, 50.0]]), rows.weight[None].copy(), rows.weight, rows.all_rows(), 0
    )
    assert tree.trees.n_nodes[0] == 5
    leaves = tree.trees.left[0, :5] < 0
    assert sorted(tree.trees.value[0, :5, 0][leaves]) == [-5.0, -1.0, 3.0]


def waiting_nodes():
    """Rows whose second level leaves one node waiting and the children of the other too small to be split."""
    x0 = np.r_[np.zeros(100, int), np.ones(12, int)]
    x1 = np.r_[np.ones(3, int), np.zeros(97, int), np.ones(6, int), np.zeros(6, int)]
    x2 = np.r_[np.arange(100) % 2, np.zeros(12, int)]
    gradient = np.where(x0 == 0, -20.0, 200.0) + x0 * 60.0 * (x1 - 0.5) + 0.5 * x2
    return training_rows(np.array([x0, x1, x2]), np.zeros(112)), gradient[None]


class PickyPeers(Peers):
    """The only holder of rows, who refuses to send nothing, as sockets do."""

    def sum(self, values):
        values = np.ascontiguousarray(values, dtype=np.float64)
        values.data.cast("B")
        return values.copy()


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_symmetric_tree_of_many_processes_is_that_of_one(is_waiting):
    if is_waiting:
        (rows, gradient), n_bins = waiting_nodes(), [2, 2, 2]
    else:
        rows, _, gradient, _ = numeric_rows(4000, 2, n_features=4)
        n_bins = [20] * 4
    hessian = np.ones((1, rows.n_rows))
    grower = make_grower(rows, bin_layout(n_bins), split_options(min_samples_leaf=5.0), 8, is_symmetric=True)
    one = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0).trees
    rows.peers = PickyPeers()
    many = DistributedGrower.of(grower).grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0).trees
    n_nodes = one.n_nodes[0]
    assert n_nodes == many.n_nodes[0] >= 7
    for name in ("feature", "left_bin", "right_bin", "left", "right", "start", "stop"):
        np.testing.assert_array_equal(getattr(one, name)[0, :n_nodes], getattr(many, name)[0, :n_nodes], err_msg=name)
    np.testing.assert_allclose(one.value[0, :n_nodes], many.value[0, :n_nodes], rtol=1e-12)


def test_trees_of_large_tasks_grow_side_by_side_as_they_do_alone():
    """They are grown beside symmetric trees, whose histograms they must not write to."""
    n_tasks, n = 70, 70 * 300
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(n_tasks), 300)
    codes = rng.integers(0, 20, (3, n))
    gradient = (np.sin(codes[0] / 3.0 + task) + rng.standard_normal(n))[None]
    rows = training_rows(codes, task)
    trees = []
    for n_threads in (1, 2):
        options = split_options(min_samples_leaf=5.0)
        grower = make_grower(rows, bin_layout([20] * 3), options, 8, n_threads=n_threads, is_symmetric=True)
        seeds = np.zeros(n_tasks, dtype=np.uint64)
        trees.append(grower.grow_per_task(gradient, np.ones((1, n)), rows.weight, rows.all_rows(), seeds))
    one, many = trees
    np.testing.assert_array_equal(one.trees.n_nodes, many.trees.n_nodes)
    np.testing.assert_array_equal(one.rows, many.rows)
    for t in range(n_tasks):
        n_nodes = one.trees.n_nodes[t]
        np.testing.assert_array_equal(one.trees.value[t, :n_nodes], many.trees.value[t, :n_nodes])


def test_no_rows_or_no_features_give_one_leaf():
    for codes, n in ((np.empty((0, 5)), 5), (np.empty((2, 0)), 0)):
        rows = training_rows(codes, np.zeros(n), n_tasks=1)
        grower = make_grower(rows, bin_layout([3] * len(codes)), split_options(), is_symmetric=True)
        grown = grower.grow_shared(np.ones((1, n)), np.ones((1, n)), rows.weight, rows.all_rows(), 0)
        assert grown.trees.n_nodes[0] == 1


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("seed", range(4))
def test_predictions_are_monotonic_whatever_the_other_features(seed, sign):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 12, (300, 3)).astype(float)
    y = sign * X[:, 0] + 4 * np.sin(X[:, 1]) * (X[:, 0] > 5) + 2 * rng.standard_normal(300)
    options = {"max_iter_shared": 20, "min_samples_leaf": 3, "early_stopping": False, "random_state": 0}
    model = RMTGBRegressor(monotonic_cst=[sign, 0, 0], **options).fit(X, y)
    grid = np.column_stack([np.tile(np.arange(12.0), 40), np.repeat(rng.integers(0, 12, (40, 2)), 12, axis=0)])
    steps = np.diff(model.predict(grid).reshape(40, 12), axis=1) * sign
    assert steps.min() >= -1e-12 and steps.max() > 0.1


@pytest.mark.parametrize("estimator", [RMTGBRegressor, RMTGBClassifier])
def test_with_two_leaves_both_ways_to_grow_are_one(estimator):
    kind = "binary" if estimator is RMTGBClassifier else "regression"
    X, y = make_task_groups(n_samples=60, task_type=kind, random_state=0)
    options = {"task_column": "task", "max_leaf_nodes": 2, "max_iter_shared": 30, "random_state": 0}
    symmetric, leafwise = (estimator(grow_policy=policy, **options).fit(X, y) for policy in ("symmetric", "leafwise"))
    predict = "predict_proba" if kind == "binary" else "predict"
    np.testing.assert_allclose(getattr(symmetric, predict)(X), getattr(leafwise, predict)(X), rtol=1e-9)
