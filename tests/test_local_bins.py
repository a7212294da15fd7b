"""Small tasks have bins of their own, and are searched by them as the twin searches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive
from boosting_inputs import bin_layout, codes_of, make_grower, split_options, training_rows
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting.binning import CATEGORY
from mttab._core.boosting.local_bins import (
    FEW_ROWS,
    LANE_STEP,
    MAX_BINS,
    MAX_BINS_OF_MANY,
    MAX_ROWS,
    find_local_bins,
    find_local_bins_parallel,
    max_rows_for,
    new_local_bins,
)
from mttab.datasets import make_task_groups

N_BINS, KINDS = [255, 3, 40, 6, 1], [0, 0, 0, CATEGORY, 0]
N_LANES = LANE_STEP  # the four features that are numbers


def most_bins(n_rows: int) -> int:
    return MAX_BINS if n_rows <= FEW_ROWS else MAX_BINS_OF_MANY


def tasks_of(sizes, seed):  # type: ignore[no-untyped-def]
    """Rows of tasks of these sizes with missing values and ties."""
    rng, n = np.random.default_rng(seed), sum(sizes)
    codes = np.array([rng.integers(0, b + 1, n) for b in N_BINS], dtype=np.uint8)
    codes[2] = np.minimum(codes[2], 39)  # a feature without missing values
    return training_rows(codes, np.repeat(np.arange(len(sizes)), sizes), n_tasks=len(sizes)), bin_layout(N_BINS, KINDS)


@pytest.mark.parametrize("kernel", [find_local_bins, find_local_bins_parallel])
def test_every_row_of_a_small_task_stands_in_its_own_bins_and_large_tasks_are_left_alone(kernel):
    sizes = [1, 0, MAX_ROWS, MAX_ROWS + 1, 30, FEW_ROWS, FEW_ROWS + 1]
    rows, layout = tasks_of(sizes, 0)
    local = new_local_bins(layout, rows.n_rows, rows.n_tasks)
    kernel(rows.words, rows.weight, rows.task_start, layout.offset, MAX_ROWS, local)
    codes = codes_of(rows)
    assert local.feature.tolist() == [0, 1, 2, 4] and local.cell.shape == (rows.n_rows, N_LANES)
    for t, size in enumerate(sizes):
        own = slice(rows.task_start[t], rows.task_start[t + 1])
        if size == 0 or size > MAX_ROWS:
            assert local.n_bins[t] == (1 if size == 0 else 0), "a task without rows is a small one"
            continue
        features = [(codes[f, own], rows.weight[own], N_BINS[f], most_bins(size)) for f in local.feature]
        bins = np.array([naive.local_bins(*feature) for feature in features])
        n_lines = max(1, bins.max() + 1)
        assert local.n_bins[t] == n_lines
        bins[bins < 0] = n_lines
        np.testing.assert_array_equal(local.cell[own], bins.T * N_LANES + np.arange(N_LANES))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=MAX_ROWS), st.sampled_from([4, 32, 200]))
def test_local_bins_keep_the_order_share_the_rows_out_and_lose_nothing_where_they_are_enough(codes, max_bins):
    codes = np.array(codes)
    bins, n_rows = naive.local_bins(codes, np.ones(len(codes)), 255, max_bins), np.sum(codes < 255)
    assert np.array_equal(bins < 0, codes == 255) and bins.max(initial=-1) < max_bins
    order = np.argsort(codes[codes < 255])
    assert np.all(np.diff(bins[codes < 255][order]) >= 0)
    n_used = len(np.unique(codes[codes < 255]))
    if n_used <= max_bins:
        assert len(np.unique(bins[bins >= 0])) == n_used
    else:
        for b in np.unique(bins[bins >= 0]):  # a bin holds its share, and beyond it the rows of one bin at most
            members = codes[bins == b]
            assert np.sum(members < members.max()) <= n_rows / max_bins


def problem_on_local_bins(rows, layout, gradient, hessian, options, **size):  # type: ignore[no-untyped-def]
    """The `Problem` of the only task's rows with its local bins as bins; weights are those of the rows."""
    codes, columns, n_bins, most = codes_of(rows), [], [], most_bins(rows.n_rows)
    for f, n in enumerate(N_BINS):
        bins = codes[f].astype(int) if KINDS[f] else naive.local_bins(codes[f], rows.weight, n, most)
        n_bins.append(n if KINDS[f] else most)
        columns.append(np.where(bins < 0, n_bins[-1], bins))
    rest = {"min_samples_leaf": options.min_samples_leaf, "l2": options.l2}
    rest |= {"categorical_min_rows": options.categorical_min_rows}
    kinds, monotonic = list(KINDS), [0] * len(KINDS)
    return naive.Problem(columns, n_bins, kinds, monotonic, rows.weight, gradient, hessian, **rest, **size)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_constant", [True, False])
@given(
    n=st.integers(1, MAX_ROWS),
    seed=st.integers(0, 2**32 - 1),
    min_samples_leaf=st.sampled_from([1.0, 5.0, 6.5]),
    l2=st.sampled_from([0.0, 1.0]),
)
def test_the_tree_of_a_small_task_is_the_one_the_twin_grows_on_local_bins(
    is_weighted, is_constant, n, seed, min_samples_leaf, l2
):
    rng = np.random.default_rng(seed)
    rows, layout = tasks_of([n], seed)
    if is_weighted:
        rows.weight[:] = rng.choice([0.25, 0.5, 1.0, 2.0], n)
    gradient = np.rint(64 * ((codes_of(rows)[0] > 100) + rng.standard_normal(n)))[None] / 16
    gradient *= rows.weight  # by which it is divided before it is rounded: sums are exact
    hessian = rows.weight[None].copy() if is_constant else rng.choice([0.25, 0.5, 1.0], (1, n))
    options = split_options(is_constant, min_samples_leaf=min_samples_leaf, l2=l2)
    grown = make_grower(rows, layout, options, 4, has_local_bins=True).grow_per_task(
        gradient, hessian, rows.weight, rows.all_rows(), np.zeros(1, dtype=np.uint64)
    )
    problem = problem_on_local_bins(rows, layout, gradient, hessian, options, max_leaf_nodes=4)
    nodes, tree = naive.grow_tree(problem, np.arange(n)), grown.trees
    assert tree.n_nodes[0] == len(nodes)
    for i, node in enumerate(nodes):
        assert tree.weight[0, i] == rows.weight[node.rows].sum()
        if node.left < 0:
            assert set(grown.rows[tree.start[0, i] : tree.stop[0, i]]) == set(node.rows)
            continue
        # Of cuts that gain as much up to `NEAR` the twin may take another one, seldom enough for this not to happen.
        assert tree.feature[0, i] == node.split.feature
        assert tree.gain[0, i] == pytest.approx(node.gain, rel=1e-9)


@pytest.mark.parametrize("is_constant", [True, False])
def test_a_threshold_stands_halfway_between_the_values_of_the_nodes_rows(is_constant):
    rows = training_rows([np.arange(200)], np.zeros(200, dtype=int))
    gradient = np.where(np.arange(200) < 100, -1.0, 1.0)[None]
    grower = make_grower(rows, bin_layout([255]), split_options(is_constant), 2, has_local_bins=True)
    seeds = np.zeros(1, dtype=np.uint64)
    grown = grower.grow_per_task(gradient, np.ones((1, 200)), rows.weight, rows.all_rows(), seeds)
    threshold = grown.trees.threshold[0, 0]
    own = naive.local_bins(np.arange(200), rows.weight, 255, MAX_BINS)
    last_left = np.flatnonzero(own == own[99])[-1] if abs(99 - threshold) > 1 else 99
    assert grown.trees.stop[0, 1] == np.floor(threshold) + 1 and threshold == last_left + 0.5


@pytest.mark.parametrize("n", [60, 255, MAX_ROWS])
def test_what_rounding_takes_from_the_gain_of_a_tree_is_within_the_stated_bound(n):
    rng = np.random.default_rng(0)
    rows = training_rows([rng.permutation(n) % 255 for _ in range(5)], np.zeros(n, dtype=int))
    gradient = rng.standard_normal((1, n)) * np.exp(rng.standard_normal(n))
    grower = make_grower(rows, bin_layout([255] * 5), split_options(min_samples_leaf=5.0), 2, has_local_bins=True)
    seeds = np.zeros(1, dtype=np.uint64)
    grown = grower.grow_per_task(gradient, np.ones((1, n)), rows.weight, rows.all_rows(), seeds)
    tree, unit = grown.trees, 2.0 ** (np.ceil(np.log2(np.abs(gradient).max())) - (15 if n <= FEW_ROWS else 21))
    sides = [gradient[0, grown.rows[tree.start[0, i] : tree.stop[0, i]]] for i in (0, 1, 2)]
    scores = [own.sum() ** 2 / len(own) for own in sides]
    # A sum of n rows is off by n × unit / 2 at most, so a score by |G| × unit + n × unit² / 4.
    off = sum(abs(own.sum()) * unit + len(own) * unit**2 / 4 for own in sides)
    exact = scores[1] + scores[2] - scores[0]
    assert abs(tree.gain[0, 0] - exact) < off < 0.05 * exact
    for i in (1, 2):
        assert tree.value[0, i, 0] == pytest.approx(-sides[i].mean(), rel=1e-13), "leaf values do not see it"


def test_trees_of_small_tasks_are_the_same_beside_a_task_whose_rows_are_weighed_apart():
    sizes = [60, FEW_ROWS, 400]
    rows, layout = tasks_of(sizes, 0)
    gradient = np.random.default_rng(0).standard_normal((1, sum(sizes)))
    trees = []
    for n_tasks in (2, 3):
        n = rows.task_start[n_tasks]
        own = training_rows(codes_of(rows)[:, :n], rows.task[:n], n_tasks=n_tasks)
        grower = make_grower(own, layout, split_options(min_samples_leaf=5.0), 8, has_local_bins=True)
        seeds, of_rows = np.zeros(n_tasks, dtype=np.uint64), (gradient[:, :n].copy(), np.ones((1, n)))
        trees.append(grower.grow_per_task(*of_rows, own.weight, own.all_rows(), seeds).trees)
    assert trees[1].n_nodes[2] > 1
    for t, n_nodes in enumerate(trees[0].n_nodes):
        assert n_nodes > 1
        for name in ("feature", "left", "right", "start", "stop", "gain", "weight"):
            alone, beside = (getattr(grown, name)[t, :n_nodes] for grown in trees)
            np.testing.assert_array_equal(alone, beside)


@pytest.mark.parametrize("seed", range(6))
def test_a_weight_of_two_is_a_row_twice_also_where_few_rows_of_a_larger_task_are_drawn(seed):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(4), [300, 310, 290, 305])
    X = np.column_stack([rng.standard_normal((len(task), 4)), task])
    y, weight = X[:, 0] * np.cos(task) + rng.standard_normal(len(task)), rng.choice([1, 2], len(task))
    options = {"task_column": 4, "sharing": "separate", "subsample": 0.55, "max_iter_task": 20, "random_state": 0}
    weighted = RMTGBRegressor(early_stopping=False, **options).fit(X, y, sample_weight=weight)
    repeated = RMTGBRegressor(early_stopping=False, **options).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(repeated.predict(X), weighted.predict(X), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("n_features", "max_rows"), [(1004, MAX_ROWS), (1005, FEW_ROWS), (3851, FEW_ROWS), (3852, 0), (5000, 0)]
)
def test_very_wide_tables_have_local_bins_as_far_as_numbers_of_cells_go(n_features, max_rows):
    assert max_rows_for(bin_layout([2] * n_features + [3], [0] * n_features + [CATEGORY])) == max_rows


@pytest.mark.parametrize("n_features", [1005, 3900])
def test_trees_of_small_tasks_see_all_features_of_a_very_wide_table(n_features):
    rng = np.random.default_rng(0)
    X, task = rng.standard_normal((400, n_features)), np.repeat([0, 1], [100, 300])
    y = X[:, -1] * np.where(task == 0, 2.0, -1.0)
    options = {"task_column": n_features, "sharing": "separate", "max_iter_task": 30, "early_stopping": False}
    own, all_bins = (
        RMTGBRegressor(max_bins=bins, **options).fit(np.column_stack([X, task]), y) for bins in ("auto", 255)
    )
    errors = [np.mean((model.predict(np.column_stack([X, task])) - y) ** 2) for model in (own, all_bins)]
    assert max(errors) < 0.5 * np.var(y) and errors[0] == pytest.approx(
        errors[1], rel=0.0 if n_features > 3851 else 0.5
    )


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_trees_of_small_tasks_do_not_depend_on_the_number_of_threads_or_the_other_tasks(kind):
    X, y = make_task_groups(90, n_features=20, group_sizes=(40, 30), task_type=kind, random_state=0)
    X.loc[X.index[::7], "x1"] = np.nan
    model = RMTGBRegressor if kind == "regression" else RMTGBClassifier
    options = {"max_iter_shared": 0, "max_iter_partition": 0, "max_iter_task": 3, "sharing": "blocks"}
    options |= {"task_column": "task", "early_stopping": False, "random_state": 0}
    one, two = (model(n_jobs=n, **options).fit(X, y) for n in (1, 2))
    method = "predict" if kind == "regression" else "predict_proba"
    np.testing.assert_array_equal(getattr(one, method)(X), getattr(two, method)(X))


def test_rows_of_classes_without_weight_steer_no_split_of_a_small_task():
    rng = np.random.default_rng(0)
    n = 600
    task, labels = np.repeat(np.arange(10), n // 10), rng.integers(0, 3, n)
    X = np.column_stack([rng.standard_normal((n, 3)) + labels[:, None] * 0.5, task])
    options = {"max_iter_shared": 0, "max_iter_partition": 0, "max_iter_task": 5, "sharing": "blocks"}
    options |= {"task_column": 3, "class_weight": {0: 1, 1: 1, 2: 0}, "early_stopping": False, "random_state": 0}
    predictions = []
    for values in (X, np.where((labels == 2)[:, None] & (np.arange(4) < 3), np.nan, X)):
        model = RMTGBClassifier(**options).fit(values, labels)
        predictions.append(model.predict_proba(X[labels < 2]))
    np.testing.assert_array_equal(*predictions)


@pytest.mark.parametrize("unit", [1e6, 1e7, 1e9, 1e12])
def test_trees_of_small_tasks_are_the_same_whatever_the_unit_of_weights_is(unit):
    # Beside large sums of weights 24 bits do not see the rows that a cut leaves on its right: there may be none.
    X, y = make_task_groups(60, group_sizes=(4,), random_state=0)

    def fit(unit):
        options = {"min_samples_leaf": int(5 * unit), "max_iter_task": 5, "l2_regularization": 0.0}
        model = RMTGBRegressor(task_column="task", sharing="separate", early_stopping=False, random_state=0, **options)
        return model.fit(X, y, sample_weight=np.full(len(y), unit)).predict(X)

    np.testing.assert_allclose(fit(unit), fit(1e3), rtol=1e-9)
