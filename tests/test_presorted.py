"""Lists of a small task's rows, sorted by each feature, give the splits that the rows themselves give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boosting_inputs import bin_layout, codes_of, split_options, training_rows
from mttab import RMTGBClassifier
from mttab._core.boosting.binning import CATEGORY
from mttab._core.boosting.histogram import gather_statistics
from mttab._core.boosting.presorted import (
    MAX_ROWS,
    deal_lists,
    find_split_from_lists,
    presorted_rows,
    sort_tasks,
    sort_tasks_parallel,
)
from mttab._core.boosting.small_nodes import find_split_from_rows
from mttab._core.boosting.tree import Table

N_BINS, KINDS = [255, 3, 40, 6, 1], [0, 0, 0, CATEGORY, 0]


def tasks_of(sizes, seed):  # type: ignore[no-untyped-def]
    """Rows of tasks of these sizes with missing values and ties."""
    rng, n = np.random.default_rng(seed), sum(sizes)
    codes = np.array([rng.integers(0, b + 1, n) for b in N_BINS], dtype=np.uint8)
    codes[2] = np.minimum(codes[2], 39)  # a feature without missing values
    return training_rows(codes, np.repeat(np.arange(len(sizes)), sizes), n_tasks=len(sizes)), bin_layout(N_BINS, KINDS)


@pytest.mark.parametrize("kernel", [sort_tasks, sort_tasks_parallel])
def test_every_small_task_is_sorted_by_every_feature_and_large_ones_are_left_alone(kernel):
    sizes = [1, 0, MAX_ROWS, MAX_ROWS + 1, 30]
    rows, _ = tasks_of(sizes, 0)
    order = np.full((len(N_BINS), rows.n_rows), 77, dtype=np.uint8)
    kernel(rows.words, rows.task_start, order)
    codes = codes_of(rows)
    for t, size in enumerate(sizes):
        own = slice(rows.task_start[t], rows.task_start[t + 1])
        for f in range(len(N_BINS)):
            expected = np.full(size, 77) if size > MAX_ROWS else np.argsort(codes[f, own], kind="stable")
            np.testing.assert_array_equal(order[f, own], expected)


@pytest.mark.parametrize("is_constant", [True, False])
@given(
    n=st.integers(1, MAX_ROWS),
    seed=st.integers(0, 2**32 - 1),
    is_weighted=st.booleans(),
    min_samples_leaf=st.sampled_from([1.0, 5.0, 6.5]),
    l2=st.sampled_from([0.0, 1.0]),
)
def test_the_split_is_that_of_the_rows_and_so_are_those_of_both_children(
    is_constant, n, seed, is_weighted, min_samples_leaf, l2
):
    rng = np.random.default_rng(seed)
    rows, layout = tasks_of([50, n, 50], seed)
    n_all, codes = rows.n_rows, codes_of(rows)
    weight = rng.uniform(0.1, 3.0, n_all) if is_weighted else np.ones(n_all)
    gradient = ((codes[0] > 100) + 0.3 * codes[3] + rng.standard_normal(n_all))[None] * weight
    hessian = weight[None].copy() if is_constant else rng.uniform(0.01, 0.25, (1, n_all)) * weight
    options = split_options(is_constant, min_samples_leaf=min_samples_leaf, l2=l2)
    table = Table(rows.words, rows.task.view(np.uint32), gradient, hessian, weight)
    order = np.empty((len(N_BINS), n_all), dtype=np.uint8)
    sort_tasks(rows.words, rows.task_start, order)
    is_in = rng.random(n) < rng.choice([0.6, 1.0])
    node = np.flatnonzero(is_in).astype(np.uint32) + np.uint32(50)
    is_plain = is_constant and not is_weighted
    presorted = presorted_rows(order, is_plain, np.int64(50), np.int64(50 + n), node)
    assert presorted.is_used and presorted.order.shape == (len(N_BINS), len(node))

    def assert_same_split(start, stop):  # type: ignore[no-untyped-def]
        n_channels = 2 if is_constant else 3
        own, statistics, sums = node[start:stop], np.empty((stop - start, n_channels)), np.empty(n_channels)
        gather_statistics(own, 0, len(own), gradient, hessian, weight, is_constant, statistics, sums)
        features, sets = np.arange(len(N_BINS)), np.zeros((2, 8), dtype=np.uint32)
        place = np.int64(start), np.int64(stop)
        fast = find_split_from_lists(table, layout, presorted, *place, sums, options, features, sets[0])
        slow = find_split_from_rows(
            rows.words, table.task, layout, own, statistics, sums, options, -np.inf, np.inf, features, sets[1]
        )
        assert fast[0] == pytest.approx(slow[0], rel=1e-9, abs=1e-9)
        assert fast[1:] == slow[1:]
        if slow[1] >= 0 and KINDS[slow[1]]:
            np.testing.assert_array_equal(*sets)
        return slow

    if len(node) == 0:
        return
    _, f, left_bin, _, missing_left = assert_same_split(0, len(node))
    if f < 0 or KINDS[f]:
        return
    own = codes[f, node]
    goes_left = np.where(own == N_BINS[f], missing_left, own <= left_bin)
    node = np.concatenate([node[goes_left], node[~goes_left]])
    middle = int(goes_left.sum())
    deal_lists(presorted, node, np.int64(0), np.int64(middle), np.int64(len(node)))
    for start, stop in ((0, middle), (middle, len(node))):
        for f in range(len(N_BINS)):
            listed = presorted.order[f, start:stop].astype(np.int64) + 50
            assert sorted(listed) == sorted(node[start:stop]), "the rows of the child"
            assert np.all(np.diff(codes[f, listed].astype(int)) >= 0), "in the order of the feature"
        assert_same_split(start, stop)


def test_tasks_of_more_rows_are_not_presorted():
    rows, _ = tasks_of([MAX_ROWS + 1], 1)
    order = np.empty((len(N_BINS), rows.n_rows), dtype=np.uint8)
    node = rows.all_rows().rows
    assert not presorted_rows(order, True, np.int64(0), np.int64(len(node)), node).is_used


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
