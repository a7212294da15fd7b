"""Trees grow leaf by leaf as the twin grows them, and every row ends in the leaf that the splits send it to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import naive
from boosting_inputs import (
    NO_LIMIT,
    bin_layout,
    codes_of,
    kernel_inputs,
    make_grower,
    split_options,
    training_rows,
    tree_problems,
)
from mttab._core.boosting import growing
from mttab._core.boosting.binning import CATEGORY, TASK_ID
from mttab._core.boosting.partition import mark_left, partition_rows, partition_rows_parallel
from mttab._core.boosting.quantile import weighted_quantile
from mttab._core.boosting.threads import Team
from mttab._core.boosting.tree import draw_features, next_random
from mttab._core.boosting.tree_arrays import TreeArrays
from naive import Problem


def assert_same_tree(grown, t, problem, nodes):  # type: ignore[no-untyped-def]
    """Tree ``t`` of grown trees is the twin's tree ``nodes``; its rows must be numbered as the twin's are."""
    tree = grown.trees
    assert tree.n_nodes[t] == len(nodes)
    values = naive.leaf_values(problem, nodes)
    own_rows = grown.rows[grown.row_start[t] : grown.row_start[t + 1]]
    for i, node in enumerate(nodes):
        np.testing.assert_array_equal(
            own_rows[tree.start[t, i] : tree.stop[t, i]] if node.left < 0 else node.rows, node.rows
        )
        assert (tree.left[t, i], tree.right[t, i]) == (node.left, node.right)
        assert tree.weight[t, i] == pytest.approx(problem.weight[node.rows].sum(), rel=1e-12)
        np.testing.assert_allclose(tree.value[t, i], values[i], rtol=1e-12)
        if node.left < 0:
            assert tree.feature[t, i] == -1 and tree.gain[t, i] == 0.0
            continue
        split = node.split
        assert tree.feature[t, i] == split.feature and tree.missing_left[t, i] == split.missing_left
        assert (tree.left_bin[t, i], tree.right_bin[t, i]) == (split.left_bin, split.right_bin)
        if problem.kinds[split.feature]:
            assert levels_of(tree.category_set[t, i], problem.n_bins[split.feature]) == split.levels
        scale = abs(naive.node_score(problem, node.rows, node.low, node.high)) + node.gain
        assert abs(tree.gain[t, i] - node.gain) <= 1e-10 * scale


def levels_of(words, n_levels):  # type: ignore[no-untyped-def]
    return {b for b in range(n_levels) if words[b >> 5] >> np.uint32(b & 31) & 1}


def walk(grown, t, layout, columns, i):  # type: ignore[no-untyped-def]
    """Leaf of row ``i`` by its codes."""
    tree, node = grown.trees, 0
    while tree.left[t, node] >= 0:
        f = tree.feature[t, node]
        code = int(columns[f][i])
        missing = layout.offset[f + 1] - layout.offset[f] - 1
        if code == missing:
            is_left = tree.missing_left[t, node]
        elif layout.is_categorical[f]:
            is_left = code in levels_of(tree.category_set[t, node], missing)
        else:
            is_left = code <= tree.threshold[t, node]  # codes are values in `bin_layout`
        node = tree.left[t, node] if is_left else tree.right[t, node]
    return node


def numeric_rows(n, seed, n_features=3, n_bins=20, n_tasks=1, weight=None):  # type: ignore[no-untyped-def]
    """Rows of random codes, and gradients with something to find in them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_bins + 1, (n_features, n))
    task = np.sort(rng.integers(0, n_tasks, n))
    rows = training_rows(codes, task, weight=weight, n_tasks=n_tasks)
    gradient = (np.sin(codes[0] / 3.0) + 0.1 * codes[1] + rng.standard_normal(n))[None] * rows.weight
    return rows, bin_layout([n_bins] * n_features), gradient, rows.weight[None].copy()


# --- against the twin -------------------------------------------------------------------------------------------------


@given(tree_problems())
def test_a_tree_is_the_one_the_twin_grows(drawn):
    problem, _, _, _ = drawn
    rows, layout, options = kernel_inputs(*drawn)
    grower = make_grower(rows, layout, options, problem.max_leaf_nodes, problem.max_depth)
    grown = grower.grow_shared(problem.gradient, problem.hessian, rows.weight, rows.all_rows(), 0)
    assert_same_tree(grown, 0, problem, naive.grow_tree(problem, np.arange(rows.n_rows)))


@given(tree_problems())
def test_the_tree_of_each_task_is_the_one_the_twin_grows_on_its_rows(drawn):
    problem, task, n_tasks, _ = drawn
    rows, layout, options = kernel_inputs(*drawn)
    grower = make_grower(rows, layout, options, problem.max_leaf_nodes, problem.max_depth)
    seeds = np.zeros(n_tasks, dtype=np.uint64)
    grown = grower.grow_per_task(problem.gradient, problem.hessian, rows.weight, rows.all_rows(), seeds)
    # The id of the task, the last column, is no feature of its own tree.
    own = Problem(**{**vars(problem), "columns": problem.columns[:-1]})
    for t in np.unique(task):
        assert_same_tree(grown, t, own, naive.grow_tree(own, np.flatnonzero(task == t)))
    for t in np.setdiff1d(np.arange(n_tasks), task):
        assert grown.trees.n_nodes[t] == 1 and not grown.trees.value[t, 0].any()


def test_a_thousand_tasks_of_a_few_rows_grow_a_thousand_trees():
    rng = np.random.default_rng(0)
    task = np.sort(np.concatenate([np.arange(1000), rng.integers(0, 1000, 2000)]))
    codes = rng.integers(0, 4, (2, 3000))
    gradient = rng.integers(-4, 5, (1, 3000)).astype(float)
    weight = np.ones(3000)
    problem = Problem([*codes], [3, 3], [0, 0], [0, 0], weight, gradient, weight[None].copy(), max_leaf_nodes=3)
    rows = training_rows(codes, task)
    grower = make_grower(rows, bin_layout([3, 3]), split_options(), max_leaf_nodes=3)
    grown = grower.grow_per_task(gradient, problem.hessian, weight, rows.all_rows(), np.zeros(1000, dtype=np.uint64))
    for t in range(1000):
        assert_same_tree(grown, t, problem, naive.grow_tree(problem, np.flatnonzero(task == t)))


def test_one_row_per_task_gives_a_leaf_per_task():
    rows = training_rows([[0, 1, 2, 3, 4]], np.arange(5))
    gradient = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    grower = make_grower(rows, bin_layout([5]), split_options())
    grown = grower.grow_per_task(gradient, np.ones((1, 5)), rows.weight, rows.all_rows(), np.zeros(5, dtype=np.uint64))
    assert grown.trees.n_nodes.tolist() == [1] * 5
    np.testing.assert_array_equal(grown.trees.value[:, 0, 0], -gradient[0])


def test_a_thousand_tasks_split_as_one_category():
    rng = np.random.default_rng(1)
    task = np.sort(np.concatenate([np.arange(1000), rng.integers(0, 1000, 1000)]))
    gradient = rng.integers(-4, 5, (1, 2000)).astype(float)
    weight = np.ones(2000)
    problem = Problem([task], [1000], [TASK_ID], [0], weight, gradient, weight[None].copy(), 400.0, max_leaf_nodes=3)
    rows = training_rows(np.empty((0, 2000)), task)
    layout = bin_layout([1000], [TASK_ID])
    grower = make_grower(rows, layout, split_options(min_samples_leaf=400.0), max_leaf_nodes=3)
    grown = grower.grow_shared(gradient, problem.hessian, weight, rows.all_rows(), 0)
    assert grown.trees.n_nodes[0] == 5
    assert_same_tree(grown, 0, problem, naive.grow_tree(problem, np.arange(2000)))


@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
@pytest.mark.parametrize("is_constant", [False, True])
def test_trees_on_any_floats_split_as_well_as_the_twin_does(scale, is_constant):
    n = 150
    rng = np.random.default_rng(7)
    rows, layout, gradient, _ = numeric_rows(n, 7, weight=rng.exponential(size=n) + 0.01)
    gradient = scale * gradient * np.exp(3 * rng.standard_normal(n))
    hessian = rows.weight[None].copy() if is_constant else rng.uniform(0.01, 1.0, (1, n))
    problem = Problem([*codes_of(rows)], [20] * 3, [0] * 3, [0] * 3, rows.weight, gradient, hessian, 2.0)
    problem.max_leaf_nodes = 6
    options = split_options(is_constant, min_samples_leaf=2.0)
    grown = make_grower(rows, layout, options, 6).grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    assert_same_tree(grown, 0, problem, naive.grow_tree(problem, np.arange(n)))


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_leaf_nodes", [1, 2, 5, 31])
def test_max_leaf_nodes_is_reached_and_not_passed(max_leaf_nodes):
    rows, layout, gradient, hessian = numeric_rows(300, 0)
    grower = make_grower(rows, layout, split_options(), max_leaf_nodes)
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    assert np.sum(grown.trees.left[0, : grown.trees.n_nodes[0]] < 0) == max_leaf_nodes


@pytest.mark.parametrize("max_depth", [1, 3])
def test_max_depth_counts_edges(max_depth):
    rows, layout, gradient, hessian = numeric_rows(400, 1)
    grower = make_grower(rows, layout, split_options(), 100, max_depth)
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    depth = np.zeros(grown.trees.n_nodes[0], dtype=int)
    for i in range(len(depth)):
        for child in (grown.trees.left[0, i], grown.trees.right[0, i]):
            if child >= 0:
                depth[child] = depth[i] + 1
    assert depth.max() == max_depth and len(depth) == 2 ** (max_depth + 1) - 1


def test_no_leaf_has_less_weight_than_min_samples_leaf():
    rng = np.random.default_rng(2)
    rows, layout, gradient, hessian = numeric_rows(300, 2, weight=rng.uniform(0.1, 2.0, 300))
    grower = make_grower(rows, layout, split_options(min_samples_leaf=12.5), 100)
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    is_leaf = grown.trees.left[0, : grown.trees.n_nodes[0]] < 0
    weights = [
        rows.weight[grown.rows[a:b]].sum() for a, b in zip(grown.trees.start[0], grown.trees.stop[0], strict=True)
    ]
    assert is_leaf.sum() > 10 and min(np.array(weights[: len(is_leaf)])[is_leaf]) >= 12.5


def test_no_rows_or_no_features_give_one_leaf():
    rows = training_rows(np.empty((0, 4)), np.zeros(4))
    grower = make_grower(rows, bin_layout([]), split_options())
    gradient, hessian = np.array([[1.0, 2.0, 3.0, 4.0]]), np.ones((1, 4))
    assert grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0).trees.value[0, 0] == -2.5
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.sample(np.zeros(4, dtype=bool)), 0)
    assert grown.trees.n_nodes[0] == 1 and grown.trees.value[0, 0] == 0.0
    assert sorted(grown.out_rows[grown.trees.out_start[0, 0] : grown.trees.out_stop[0, 0]]) == [0, 1, 2, 3]


def test_l2_regularization_shrinks_the_leaves():
    rows, layout, gradient, hessian = numeric_rows(50, 3)
    for l2 in (0.0, 10.0):
        grower = make_grower(rows, layout, split_options(l2=l2), 1)
        grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
        assert grown.trees.value[0, 0, 0] == pytest.approx(-gradient.sum() / (50 + l2))


# --- rows -------------------------------------------------------------------------------------------------------------


@given(tree_problems(), st.data())
def test_rows_left_out_reach_the_leaf_of_their_codes_and_count_for_nothing(drawn, data):
    problem, task, n_tasks, _ = drawn
    rows, layout, options = kernel_inputs(*drawn)
    is_in = data.draw(npst.arrays(np.bool_, len(task)))
    grower = make_grower(rows, layout, options, problem.max_leaf_nodes, problem.max_depth)
    grown = grower.grow_shared(problem.gradient, problem.hessian, rows.weight, rows.sample(is_in), 0)
    if is_in.any():
        assert_same_tree(grown, 0, problem, naive.grow_tree(problem, np.flatnonzero(is_in)))
    score = np.zeros((len(task), problem.n_outputs))
    grown.add_to(score, 0.5, 0, 1)
    for i in range(len(task)):
        leaf = walk(grown, 0, layout, problem.columns, i)
        np.testing.assert_array_equal(score[i], 0.5 * grown.trees.value[0, leaf])

    grown = grower.grow_per_task(
        problem.gradient, problem.hessian, rows.weight, rows.sample(is_in), np.zeros(n_tasks, dtype=np.uint64)
    )
    score[:] = 0.0
    grown.add_to(score, 0.5, 0, 1)
    for i in range(len(task)):
        leaf = walk(grown, task[i], layout, problem.columns, i)
        np.testing.assert_array_equal(score[i], 0.5 * grown.trees.value[task[i], leaf])


@given(
    npst.arrays(np.uint8, st.integers(0, 40), elements=st.integers(0, 9)),
    st.integers(0, 8),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**9 - 1),
    st.sampled_from([None, 1, 2, 5]),
    st.data(),
)
def test_partition_keeps_the_order_of_rows_on_both_sides(
    codes, left_bin, missing_left, is_categorical, levels, n_threads, data
):
    n = len(codes)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    rows = np.random.default_rng(0).permutation(n).astype(np.uint32)
    before = rows.copy()
    words = np.array([levels], dtype=np.uint32)
    buffers = np.empty((2, n), dtype=np.uint32)
    goes_left = np.full(10, 7, dtype=np.uint8)
    mark_left(np.int64(10), np.int64(left_bin), missing_left, is_categorical, words, goes_left)
    column = codes.astype(np.uint32) << 8, np.uint32(8), np.uint32(255)
    if n_threads is None:
        middle = partition_rows(rows, np.int64(start), np.int64(stop), *column, goes_left, buffers[0])
    else:
        more = goes_left, *buffers, np.int64(n_threads)
        middle = partition_rows_parallel(rows, np.int64(start), np.int64(stop), *column, *more)

    def is_left(i):  # type: ignore[no-untyped-def]
        if codes[i] == 9:
            return missing_left
        return bool(levels >> int(codes[i]) & 1) if is_categorical else codes[i] <= left_bin

    node = before[start:stop].tolist()
    expected = [i for i in node if is_left(i)], [i for i in node if not is_left(i)]
    assert (rows[start:middle].tolist(), rows[middle:stop].tolist()) == expected
    np.testing.assert_array_equal(rows[:start], before[:start])
    np.testing.assert_array_equal(rows[stop:], before[stop:])


@pytest.mark.parametrize("n_threads", [2, 3, 16])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_constant", [False, True])
def test_a_tree_is_the_same_for_any_number_of_threads(is_constant, is_weighted, n_threads, monkeypatch):
    n, rng = 6000, np.random.default_rng(0)
    rows, layout, gradient, hessian = numeric_rows(n, 0, n_features=7, n_bins=50, n_tasks=40)
    if is_weighted:
        weight = rng.uniform(0.5, 2.0, n)
        rows = training_rows(codes_of(rows), rows.task, weight=weight)
    layout = bin_layout([50] * 7 + [40], [0, 0, CATEGORY, 0, 0, 0, 0, TASK_ID])
    hessian = rows.weight[None].copy() if is_constant else rng.uniform(0.01, 1.0, (1, n))
    options = split_options(is_constant, min_samples_leaf=10.0)
    sample = rows.sample(rng.random(n) < 0.8)
    grown = []
    for threads in (1, n_threads):
        # Every step that can be shared out is, however small.
        monkeypatch.setattr(growing, "team_of", lambda n: Team(np.int64(n), np.int64(0)) if n > 1 else None)
        grower = make_grower(rows, layout, options, 40, n_features_tried=5, n_threads=threads)
        grown.append(grower.grow_shared(gradient, hessian, rows.weight, sample, 3))
    one, many = grown
    n_nodes = one.trees.n_nodes[0]
    assert n_nodes == many.trees.n_nodes[0] == 79
    np.testing.assert_array_equal(one.rows, many.rows)
    np.testing.assert_array_equal(one.out_rows, many.out_rows)
    is_split = one.trees.left[0, :n_nodes] >= 0
    for name in TreeArrays._fields[:-1]:
        is_compared = is_split if name in ("threshold", "category_set") else np.full(n_nodes, True)  # not set in leaves
        a, b = (getattr(trees.trees, name)[0, :n_nodes][is_compared] for trees in grown)
        np.testing.assert_array_equal(a, b, err_msg=name)
    scores = np.zeros((2, n, 1))
    for score, trees, threads in zip(scores, grown, (1, n_threads), strict=True):
        trees.add_to(score, 0.1, 0, threads)
    np.testing.assert_array_equal(*scores)
    assert len(np.unique(scores[0])) == 40, "one value per leaf, rows that were left out included"


def test_growing_changes_nothing_that_is_passed_in():
    rows, layout, gradient, hessian = numeric_rows(60, 4, n_tasks=3)
    sample = rows.sample(np.arange(60) % 3 > 0)
    given_arrays = (rows.words, rows.task, gradient, hessian, rows.weight, sample.rows, sample.out_rows, *layout)
    before = [a.copy() for a in given_arrays]
    grower = make_grower(rows, layout, split_options())
    grower.grow_shared(gradient, hessian, rows.weight, sample, 0)
    grower.grow_per_task(gradient, hessian, rows.weight, sample, np.zeros(3, dtype=np.uint64))
    for now, then in zip(given_arrays, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_integer_weight_is_the_row_that_often():
    rng = np.random.default_rng(5)
    repeats = rng.integers(1, 4, 120)
    rows, layout, gradient, _ = numeric_rows(120, 5, weight=np.ones(120))
    gradient = np.round(8 * gradient)
    repeated = training_rows(np.repeat(codes_of(rows), repeats, axis=1), np.repeat(rows.task, repeats))
    trees = []
    for own, weight in ((rows, repeats.astype(float)), (repeated, np.ones(repeats.sum()))):
        g = np.repeat(gradient, repeats, axis=1) if own is repeated else gradient * repeats
        grower = make_grower(own, layout, split_options(min_samples_leaf=7.0), 9)
        trees.append(grower.grow_shared(g, weight[None].copy(), weight, own.all_rows(), 0).trees)
    for name in ("feature", "left_bin", "right_bin", "missing_left", "left", "right", "weight", "value", "gain"):
        n = trees[0].n_nodes[0]
        assert n == trees[1].n_nodes[0] == 17
        np.testing.assert_allclose(getattr(trees[0], name)[0, :n], getattr(trees[1], name)[0, :n], rtol=1e-12)


# --- constraints ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([-1, 1]))
def test_predictions_are_monotonic_whatever_the_other_features(seed, sign):
    rows, _, gradient, hessian = numeric_rows(200, seed, n_bins=6)
    layout = bin_layout([6] * 3, monotonic=[sign, 0, 0])
    grower = make_grower(rows, layout, split_options(min_samples_leaf=3.0), 31)
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(7), np.arange(7), indexing="ij"))
    columns = grid.reshape(3, -1)
    leaves = [walk(grown, 0, layout, columns, i) for i in range(columns.shape[1])]
    values = grown.trees.value[0, leaves, 0].reshape(6, 7, 7)
    assert np.all(sign * np.diff(values, axis=0) >= 0)


# --- features tried ---------------------------------------------------------------------------------------------------


def draw(n_features, n_tried, seed):  # type: ignore[no-untyped-def]
    return draw_features(n_features, n_tried, np.array([seed], dtype=np.uint64))


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**63))
def test_drawn_features_are_distinct_ascending_and_as_many_as_asked(n_features, n_tried, seed):
    drawn = draw(n_features, n_tried, seed)
    assert len(drawn) == min(n_tried, n_features)
    assert np.all(np.diff(drawn) > 0) and drawn[0] >= 0 and drawn[-1] < n_features


def test_every_set_of_features_is_drawn_as_often():
    state = np.array([3], dtype=np.uint64)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(10_000):
        drawn = tuple(draw_features(5, 2, state).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    # Ten sets, expected 1000 each, standard deviation 30.
    assert len(counts) == 10 and all(880 < count < 1120 for count in counts.values())


def test_random_bits_are_those_of_splitmix64():
    # First outputs of the reference implementation for seed 1234567.
    state = np.array([1234567], dtype=np.uint64)
    assert [int(next_random(state)) for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_each_node_takes_the_best_of_the_features_that_it_tries():
    rows, layout, gradient, hessian = numeric_rows(120, 6, n_features=4)
    problem = Problem([*codes_of(rows)], [20] * 4, [0] * 4, [0] * 4, rows.weight, gradient, hessian)
    roots = set()
    for seed in range(12):
        grower = make_grower(rows, layout, split_options(), 4, NO_LIMIT, n_features_tried=2)
        tree = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), seed).trees
        roots.add(int(tree.feature[0, 0]))
        gains = [naive.best_split(problem, np.arange(120), [f])[0] for f in range(4)]
        n_better = sum(gain > gains[tree.feature[0, 0]] * (1 + 1e-9) for gain in gains)
        assert n_better <= 2
        assert tree.gain[0, 0] == pytest.approx(gains[tree.feature[0, 0]], rel=1e-9)
    assert len(roots) > 1
    again = [
        make_grower(rows, layout, split_options(), 4, NO_LIMIT, 2)
        .grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 5)
        .trees.feature.tolist()
        for _ in range(2)
    ]
    assert again[0] == again[1]


# --- values -----------------------------------------------------------------------------------------------------------


@given(
    npst.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e300, 1e300) | st.integers(-2, 2)),
    st.sampled_from([0.1, 0.25, 0.5, 0.9, 1 / 3]),
    st.integers(0, 2**32 - 1),
)
def test_weighted_quantile_is_the_quantile_of_repeated_values(values, quantile, seed):
    repeats = np.random.default_rng(seed).integers(1, 4, len(values))
    expected = naive.weighted_quantile(values, repeats, quantile)
    assert weighted_quantile(values, repeats.astype(float), quantile) == pytest.approx(expected, rel=1e-12)
    tenths = weighted_quantile(values, 0.1 * repeats, quantile)
    assert tenths == pytest.approx(expected, rel=1e-12), "only the shares of the weights count"


def test_quantile_of_nothing_is_zero():
    assert weighted_quantile(np.empty(0), np.empty(0), 0.5) == 0.0


@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_renewed_leaves_hold_the_quantile_of_their_residuals(quantile):
    repeats = np.random.default_rng(8).integers(1, 3, 90)
    rows, layout, gradient, hessian = numeric_rows(90, 8, n_tasks=4, weight=repeats.astype(float))
    residual = np.random.default_rng(9).standard_normal(90)
    sample = rows.sample(np.arange(90) % 4 > 0)
    grower = make_grower(rows, layout, split_options(), 3)
    for grown in (
        grower.grow_shared(gradient, hessian, rows.weight, sample, 0),
        grower.grow_per_task(gradient, hessian, rows.weight, sample, np.zeros(4, dtype=np.uint64)),
    ):
        grown.renew_values(residual, rows.weight, quantile, 1)
        tree, n_leaves = grown.trees, 0
        for t in range(len(tree.n_nodes)):
            for i in np.flatnonzero(tree.left[t, : tree.n_nodes[t]] < 0):
                inside = grown.rows[grown.row_start[t] + tree.start[t, i] : grown.row_start[t] + tree.stop[t, i]]
                expected = naive.weighted_quantile(residual[inside], repeats[inside], quantile)
                assert tree.value[t, i, 0] == pytest.approx(expected)
                n_leaves += 1
        assert n_leaves == 3 * len(tree.n_nodes)


def test_renewed_leaves_keep_within_monotonic_bounds():
    rng = np.random.default_rng(10)
    rows, _, gradient, hessian = numeric_rows(200, 10, n_features=2)
    # The second feature is all missing, so the tree splits on the constrained one only.
    rows.words[0] = rows.words[0] & 255 | 20 << 8
    grower = make_grower(rows, bin_layout([20, 20], monotonic=[1, 0]), split_options(min_samples_leaf=5.0), 12)
    grown = grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    grown.renew_values(rng.standard_cauchy(200), rows.weight, 0.5, 1)
    values = [grown.trees.value[0, walk(grown, 0, grower.layout, [np.arange(20)], i), 0] for i in range(20)]
    assert np.all(np.diff(values) >= 0) and len(set(values)) > 2
