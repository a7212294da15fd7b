"""Rows are put in the order of their groups as numpy's slower ways do it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mttab._core.sorting import order_of_groups, order_within_groups

GROUPS = st.one_of(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.integers(-2, 300), max_size=40),
    st.lists(st.integers(-(2**62), 2**62), max_size=40),
)


@given(GROUPS)
def test_groups_are_in_order_and_rows_of_a_group_as_they_come(groups):
    groups = np.array(groups, dtype=np.int64)
    np.testing.assert_array_equal(order_of_groups(groups), np.argsort(groups, kind="stable"))


@given(GROUPS, st.integers(0, 2**31), st.booleans())
def test_rows_of_a_group_are_in_the_order_of_their_values(groups, seed, has_ties):
    groups, rng = np.array(groups, dtype=np.int64), np.random.default_rng(seed)
    values = rng.integers(3, size=len(groups)).astype(float) if has_ties else rng.random(len(groups))
    order, expected = order_within_groups(values, groups), np.lexsort((values, groups))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(groups)))
    np.testing.assert_array_equal(groups[order], groups[expected])
    np.testing.assert_array_equal(values[order], values[expected])
    if not has_ties:
        np.testing.assert_array_equal(order, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64, np.float64])
def test_any_whole_numbers_are_groups(dtype):
    groups = np.array([2, 0, 70_000, 2, 1, 2049, 2048, 2049], dtype=dtype)
    assert order_of_groups(groups).tolist() == [1, 4, 0, 3, 6, 5, 7, 2]


@pytest.mark.parametrize("n_tasks", [1, 255, 256, 65535, 65536])
def test_rows_in_task_order_are_those_of_a_stable_sort_whatever_type_numbers_of_tasks_fit(n_tasks):
    task = np.random.default_rng(0).integers(0, n_tasks + 1, 300).astype(np.int32)
    task[::7] = n_tasks  # of no known task
    np.testing.assert_array_equal(order_of_groups(task), np.argsort(task, kind="stable"))
