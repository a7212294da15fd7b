"""Histograms agree with sums taken bin by bin, also those that no row was read for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import naive
from boosting_inputs import bin_layout, codes_of, float_histogram, kernel_inputs, training_rows, tree_problems
from mttab._core.boosting.binning import TASK_ID
from mttab._core.boosting.histogram import gather_statistics, subtract_histogram
from mttab._core.boosting.node_search import fill_histogram_parallel

# Sums of any floats: rounding is relative to the sum of absolute values.
TOLERANCE = 1e-13


def kernel_histogram(rows, layout, gradient, hessian, node, constant_hessian, start=0, stop=None, **options):  # type: ignore[no-untyped-def]
    """Histogram and sums of the node ``node[start:stop]``."""
    stop = len(node) if stop is None else stop
    n_channels = 1 + len(gradient) * (1 if constant_hessian else 2)
    statistics = np.empty((len(node), n_channels))
    sums = np.empty(n_channels)
    gather_statistics(node, start, stop, gradient, hessian, rows.weight, constant_hessian, statistics, sums)
    return float_histogram(rows, layout, node, start, stop, statistics, **options), sums


def channels(problem, is_constant):  # type: ignore[no-untyped-def]
    return [problem.weight, *problem.gradient, *([] if is_constant else problem.hessian)]


def random_rows(n, n_bins, n_tasks, n_outputs, seed):  # type: ignore[no-untyped-def]
    """Binned rows in task order, with derivatives."""
    rng = np.random.default_rng(seed)
    codes = np.array([rng.integers(0, b + 1, n) for b in n_bins], dtype=np.uint8).reshape(len(n_bins), n)
    rows = training_rows(codes, rng.integers(0, n_tasks, n), weight=rng.uniform(0.1, 3.0, n), n_tasks=n_tasks)
    layout = bin_layout([*n_bins, n_tasks], [0] * len(n_bins) + [TASK_ID])
    return rows, layout, rng.standard_normal((n_outputs, n)), rng.uniform(0.0, 1.0, (n_outputs, n))


@given(tree_problems())
def test_histogram_holds_the_sums_of_each_bin(drawn):
    problem, _, _, is_constant = drawn
    rows, layout, _ = kernel_inputs(*drawn)
    node = rows.all_rows().rows
    fast, sums = kernel_histogram(rows, layout, problem.gradient, problem.hessian, node, is_constant)
    slow = naive.histogram(problem.columns, problem.n_bins, node, channels(problem, is_constant))
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(sums, np.sum(channels(problem, is_constant), axis=1))


@given(
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_histogram_of_huge_and_tiny_values_is_right_to_rounding(n, n_outputs, is_constant, seed, data):
    rows, layout, _, hessian = random_rows(n, [3, 255], 4, n_outputs, seed)
    gradient = data.draw(npst.arrays(np.float64, (n_outputs, n), elements=st.floats(-1e200, 1e200)))
    node = rows.all_rows().rows
    fast, _ = kernel_histogram(rows, layout, gradient, hessian, node, is_constant)
    values = [rows.weight, *gradient, *([] if is_constant else hessian)]
    columns, n_bins = [*codes_of(rows), rows.task], [3, 255, 4]
    slow = naive.histogram(columns, n_bins, node, values)
    size = naive.histogram(columns, n_bins, node, [np.abs(v) for v in values])
    assert np.all(np.abs(fast - slow) <= TOLERANCE * size)


def test_a_node_is_a_range_of_the_rows_and_nothing_outside_it_counts():
    rows, layout, gradient, hessian = random_rows(50, [5, 9], 3, 1, seed=0)
    node = np.random.default_rng(1).permutation(50).astype(np.uint32)
    fast, sums = kernel_histogram(rows, layout, gradient, hessian, node, False, start=12, stop=31)
    part = node[12:31]
    slow = naive.histogram([*codes_of(rows), rows.task], [5, 9, 3], part, [rows.weight, *gradient, *hessian])
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(sums, [rows.weight[part].sum(), gradient[0, part].sum(), hessian[0, part].sum()])
    empty, sums = kernel_histogram(rows, layout, gradient, hessian, node, False, start=7, stop=7)
    assert not empty.any() and not sums.any()


@given(tree_problems(), st.data())
def test_sibling_histogram_equals_the_one_built_from_its_rows(drawn, data):
    problem, task, _, is_constant = drawn
    rows, layout, _ = kernel_inputs(*drawn)
    is_child = data.draw(npst.arrays(np.bool_, len(task)))
    node = rows.all_rows().rows
    parent, child, sibling = (
        kernel_histogram(rows, layout, problem.gradient, problem.hessian, part, is_constant)[0]
        for part in (node, node[is_child], node[~is_child])
    )
    out = np.full_like(parent, np.nan)
    subtract_histogram(parent, child, out)
    np.testing.assert_array_equal(out, sibling)
    subtract_histogram(parent, child, parent)
    np.testing.assert_array_equal(parent, sibling, err_msg="in place")


@given(st.integers(2, 200), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-150, 1e150]))
def test_bins_without_rows_are_exactly_zero_however_often_was_subtracted(n, seed, scale):
    rows, layout, gradient, hessian = random_rows(n, [2, 40], 3, 1, seed)
    gradient *= scale
    part = np.random.default_rng(seed).integers(0, 3, n)
    whole, first, second, third = (
        kernel_histogram(rows, layout, gradient, hessian, np.flatnonzero(inside).astype(np.uint32), False)[0]
        for inside in (part >= 0, part == 0, part == 1, part == 2)
    )
    out = np.empty_like(whole)
    subtract_histogram(whole, first, out)
    np.testing.assert_array_equal(out[:, 0] > 0, (second + third)[:, 0] > 0)
    # What is left after the first subtraction has other rounding than a sum over the same rows.
    subtract_histogram(out, second, out)
    np.testing.assert_array_equal(out[:, 0] > 0, third[:, 0] > 0)
    assert not out[third[:, 0] == 0].any()
    np.testing.assert_allclose(out[:, 0], third[:, 0], rtol=1e-12, atol=1e-13 * n)
    np.testing.assert_allclose(out[:, 1], third[:, 1], atol=1e-13 * n * np.abs(gradient).max())


def test_a_thousand_tasks_have_a_bin_each():
    rows, layout, gradient, hessian = random_rows(3000, [7], 1000, 1, seed=3)
    fast, _ = kernel_histogram(rows, layout, gradient, hessian, rows.all_rows().rows, True)
    by_task = fast[layout.offset[1] :]
    np.testing.assert_allclose(by_task[:1000, 1], rows.sum_by_task(gradient[0]), atol=1e-12)
    np.testing.assert_allclose(by_task[:1000, 0], rows.sum_by_task(rows.weight), rtol=1e-12)
    assert not by_task[1000].any()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_parallel_histogram_is_the_same_to_the_last_bit(n_threads):
    rows, layout, gradient, hessian = random_rows(4000, [255, 3, 60, 100], 9, 1, seed=4)
    node = rows.all_rows().rows
    serial, _ = kernel_histogram(rows, layout, gradient, hessian, node, False)
    options = {"fill": fill_histogram_parallel, "n_threads": n_threads}
    parallel, _ = kernel_histogram(rows, layout, gradient, hessian, node, False, **options)
    np.testing.assert_array_equal(parallel, serial)
