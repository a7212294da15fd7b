"""Rows as bytes find the leaves that walking finds, whatever trees ask of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive
from mttab._core.boosting import forest as forest_module
from mttab._core.boosting.coded_rows import CODED_BLOCK, MAX_EDGES, ranges_for_coding
from mttab._core.boosting.forest import PARTITION, SHARED, Forest, Nodes, Trees
from mttab._core.boosting.leaf_masks import MAX_LEAVES

N_FEATURES, N_TASKS, N_LEVELS = 3, 5, 40  # two numbers, a category; the task id is a feature, too


def random_forest(seed, n_leaves, thresholds, n_levels=N_LEVELS, n_tasks=N_TASKS):  # type: ignore[no-untyped-def]
    """Trees of so many leaves each that split at some of the ``thresholds``, at sets of levels and of tasks."""
    rng = np.random.default_rng(seed)
    root, feature, left, right = [], [], [], []
    for n in n_leaves:
        root.append(len(feature))
        feature, left, right = [*feature, -1], [*left, -1], [*right, -1]
        for _ in range(n - 1):
            leaf = rng.choice([i for i in range(root[-1], len(feature)) if feature[i] < 0])
            feature[leaf], left[leaf], right[leaf] = rng.integers(N_FEATURES + 1), len(feature), len(feature) + 1
            feature, left, right = [*feature, -1, -1], [*left, -1, -1], [*right, -1, -1]
    n_nodes, feature = len(feature), np.array(feature, dtype=np.int32)
    is_set = feature >= N_FEATURES - 1
    size = np.where(is_set, np.where(feature == N_FEATURES, n_tasks, n_levels), 0).astype(np.int32)
    n_words = (size + 31) // 32
    nodes = Nodes(
        feature=feature,
        threshold=rng.choice(thresholds, n_nodes),
        missing_left=rng.random(n_nodes) < 0.5,
        left=np.array(left, dtype=np.int32),
        right=np.array(right, dtype=np.int32),
        category_start=np.where(is_set, np.cumsum(n_words) - n_words, -1).astype(np.int32),
        n_levels=size,
        category_words=rng.integers(0, 2**32, int(n_words.sum()), dtype=np.uint32),
        value=rng.standard_normal((n_nodes, 1)),
        gain=np.zeros(n_nodes),
        weight=np.ones(n_nodes),
    )
    n_trees = len(root)
    nothing, order = np.zeros(n_trees, dtype=np.int32), np.arange(n_trees, dtype=np.int32)
    block = np.where(order < n_trees // 2, SHARED, PARTITION).astype(np.int32)
    trees = Trees(np.array(root, dtype=np.int32), block, block % 2, order, nothing)
    forest = Forest(nodes, trees, np.zeros(1), rng.random((n_tasks + 1, 2)), (n_trees, n_trees, 0))
    forest.check_state()
    return forest


def raw_rows(n, thresholds, seed, n_levels=N_LEVELS, n_tasks=N_TASKS):  # type: ignore[no-untyped-def]
    """Values at, between and beyond thresholds; missing values, unknown levels and unseen tasks."""
    rng = np.random.default_rng(seed)
    X = np.vstack([rng.choice(thresholds, (2, n)), rng.integers(-1, n_levels + 2, n)])
    X[:2] = np.where(rng.random((2, n)) < 0.5, X[:2] + rng.normal(size=(2, n)), X[:2])
    X[rng.random(X.shape) < 0.15] = np.nan
    X[0, ::50], X[1, ::50] = np.inf, -np.inf
    return X, rng.integers(0, n_tasks + 1, n).astype(np.int32)


def coded_score(monkeypatch, forest, X, task, n_threads=1):  # type: ignore[no-untyped-def]
    with monkeypatch.context() as patch:
        patch.setattr(forest_module, "MIN_ROWS", 1)
        patch.setattr(forest_module, "MIN_ROWS_PER_NODE", 0)
        return forest.score(X, task, n_threads)


def ranges_of(forest):  # type: ignore[no-untyped-def]
    n_trees, n_tasks = len(forest.trees.root), len(forest.mixing) - 1
    masks = forest.masks(0, n_trees)
    ranges = list(ranges_for_coding(forest.nodes, forest.trees.root, masks, 0, n_trees, N_FEATURES, n_tasks))
    assert [first for first, _, _ in ranges] == [0, *(last for _, last, _ in ranges[:-1])] and ranges[-1][1] == n_trees
    return ranges


@pytest.mark.parametrize("what", ["n_levels", "n_tasks"])
def test_as_many_levels_as_a_byte_holds_have_codes(monkeypatch, what):
    sizes = {"n_levels": N_LEVELS, "n_tasks": N_TASKS} | {what: MAX_EDGES}
    forest = random_forest(9, [20] * 8, np.arange(9.0), **sizes)
    assert [coding is None for _, _, coding in ranges_of(forest)] == [False]
    X, task = raw_rows(600, np.arange(9.0), 10, **sizes)
    coded = forest_module.ranges_for_coding
    seen = []
    monkeypatch.setattr(forest_module, "ranges_for_coding", lambda *a: seen.extend(coded(*a)) or list(seen))
    np.testing.assert_array_equal(coded_score(monkeypatch, forest, X, task), forest.score(X, task))
    assert seen[0][2] is not None


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_codes_find_the_leaves_that_walking_finds(data, seed):
    n_leaves = data.draw(st.lists(st.integers(1, MAX_LEAVES + 2), min_size=4, max_size=8), label="leaves of each tree")
    thresholds = np.array(data.draw(st.lists(st.floats(allow_nan=False), min_size=1, max_size=40), label="thresholds"))
    forest = random_forest(seed, n_leaves, thresholds)
    X, task = raw_rows(40, thresholds, seed)
    with pytest.MonkeyPatch.context() as patch:
        found = coded_score(patch, forest, X, task)
    np.testing.assert_allclose(found, naive.forest_score(forest, X, task), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n", [CODED_BLOCK - 1, CODED_BLOCK, CODED_BLOCK + 1, 3 * CODED_BLOCK + 7])
def test_the_bits_are_those_of_other_ways_whatever_the_number_of_rows_and_threads(monkeypatch, n):
    thresholds = np.round(np.random.default_rng(0).standard_normal(60), 2)
    forest = random_forest(1, [31, 64, 8, 32, 33, 1, 2, 40], thresholds)
    X, task = raw_rows(n, thresholds, 2)
    assert all(coding is not None for _, _, coding in ranges_of(forest))
    expected = forest.score(X, task)
    np.testing.assert_array_equal(coded_score(monkeypatch, forest, X, task), expected)
    np.testing.assert_array_equal(coded_score(monkeypatch, forest, X, task, 2), expected)


def test_trees_that_ask_more_than_a_byte_holds_go_in_several_ranges(monkeypatch):
    thresholds = np.random.default_rng(3).standard_normal(5000)
    forest = random_forest(4, [60] * 60, thresholds)
    ranges = ranges_of(forest)
    assert len(ranges) > 2 and all(coding is not None for _, _, coding in ranges)
    assert max(np.isfinite(coding.edges).sum(axis=1).max() for _, _, coding in ranges) <= MAX_EDGES
    X, task = raw_rows(300, thresholds, 5)
    np.testing.assert_array_equal(coded_score(monkeypatch, forest, X, task), forest.score(X, task))


@pytest.mark.parametrize(
    ("what", "n_leaves"),
    [("n_levels", [9] * 8), ("n_tasks", [9] * 8), ("leaves", [9, 9, 9, 9, 65, 70, 9, 9, 9, 9])],
)
def test_trees_with_too_many_levels_or_leaves_go_without_codes_and_the_others_with(monkeypatch, what, n_leaves):
    sizes = {"n_levels": N_LEVELS, "n_tasks": N_TASKS} | ({what: MAX_EDGES + 1} if what != "leaves" else {})
    forest = random_forest(6, n_leaves, np.arange(9.0), **sizes)
    ranges = ranges_of(forest)
    assert any(coding is None for _, _, coding in ranges)
    if what == "leaves":
        assert [(first, last) for first, last, coding in ranges if coding is None] == [(4, 6)]
    X, task = raw_rows(300, np.arange(9.0), 7, **sizes)
    np.testing.assert_array_equal(coded_score(monkeypatch, forest, X, task), forest.score(X, task))


def test_fewer_trees_than_features_are_not_worth_coding():
    assert [coding for _, _, coding in ranges_of(random_forest(8, [60, 60, 60], np.arange(9.0)))] == [None]
    assert ranges_of(random_forest(8, [60, 60, 60, 60], np.arange(9.0)))[0][2] is not None
