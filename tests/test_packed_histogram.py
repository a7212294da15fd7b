"""Histograms of packed rows: exact where they say so, and off by no more than the units allow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive
from boosting_inputs import (
    bin_layout,
    codes_of,
    float_histogram,
    make_grower,
    make_scratch,
    split_options,
    training_rows,
)
from mttab._core.boosting.binning import TASK_ID
from mttab._core.boosting.histogram import gather_statistics, subtract_histogram
from mttab._core.boosting.node_search import fill_histogram, fill_histogram_parallel
from mttab._core.boosting.packed_histogram import (
    CHUNKS_THREE_FIELDS,
    MIN_MEAN_UNITS,
    MIN_PACKED_ROWS,
    choose_packing,
    gather_packed,
    gather_packed_parallel,
    pack_rows,
    subtract_exactly,
    unpack,
)
from mttab._core.boosting.small_nodes import SMALL_NODE

N_BINS, N_TASKS = [3, 255, 1, 40, 7], 4


def packed_inputs(n, is_constant, seed, spread=1.0):  # type: ignore[no-untyped-def]
    """Rows that count once, with derivatives like those of a squared error or a log loss."""
    rng = np.random.default_rng(seed)
    codes = np.array([rng.integers(0, b + 1, n) for b in N_BINS], dtype=np.uint8)
    rows = training_rows(codes, rng.integers(0, N_TASKS, n), n_tasks=N_TASKS)
    layout = bin_layout([*N_BINS, N_TASKS], [0] * len(N_BINS) + [TASK_ID])
    if is_constant:
        gradient, hessian = spread * rng.standard_normal((1, n)), np.ones((1, n))
    else:
        p = 1.0 / (1.0 + np.exp(-rng.normal(-2.0, 1.0, (1, n))))
        gradient, hessian = p - (rng.random((1, n)) < p), p * (1.0 - p)
    packing = choose_packing(gradient, hessian, is_constant)
    assert packing is not None
    packed = np.empty(n, dtype=np.int64)
    pack_rows(gradient, hessian, packing, packed)
    return rows, layout, gradient, hessian, packing, packed


def histogram_of(rows, layout, node, packing, packed, n_channels, n_threads=1, is_parallel=False):  # type: ignore[no-untyped-def]
    """Histogram and sums of a node."""
    gathered, sums = np.empty(len(node), dtype=np.int64), np.empty(n_channels)
    start, stop, n_threads = np.int64(0), np.int64(len(node)), np.int64(n_threads)
    gather, fill = gather_packed, fill_histogram
    if is_parallel:
        gather, fill = gather_packed_parallel, fill_histogram_parallel
    gather(node, start, stop, packed, packing, n_threads, gathered, sums)
    out = np.full((layout.offset[-1], n_channels), np.nan)
    scratch = make_scratch(gathered=gathered, n_threads=int(n_threads))
    fill(rows.words, rows.task.view(np.uint32), layout, node, start, stop, packing, scratch, n_threads, out)
    return out, sums


@pytest.mark.parametrize("is_constant", [True, False])
@settings(max_examples=25, deadline=None)
@given(n=st.integers(MIN_PACKED_ROWS, 4 * CHUNKS_THREE_FIELDS[0]), seed=st.integers(0, 2**32 - 1))
def test_sums_are_off_by_at_most_half_a_unit_per_row(is_constant, n, seed):
    rows, layout, gradient, hessian, packing, packed = packed_inputs(n, is_constant, seed)
    node = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.7).astype(np.uint32)
    values = [np.ones(n), gradient[0]] if is_constant else [np.ones(n), gradient[0], hessian[0]]
    fast, sums = histogram_of(rows, layout, node, packing, packed, len(values))
    slow = naive.histogram([*codes_of(rows), rows.task], [*N_BINS, N_TASKS], node, values)
    np.testing.assert_array_equal(fast[:, 0], slow[:, 0], err_msg="counts are exact")
    half_units = [0.0, packing.unit_g, packing.unit_h][: len(values)]
    bound = 0.5 * slow[:, :1] * half_units
    assert np.all(np.abs(fast - slow) <= bound + 1e-12)
    np.testing.assert_array_equal(sums, fast[: layout.offset[1]].sum(axis=0), err_msg="sums of the node")
    assert packing.unit_g <= 2.0**-11 * np.abs(gradient).max(), "there are at least some thousand units"


@pytest.mark.parametrize("is_constant", [True, False])
def test_any_order_of_rows_and_any_number_of_threads_give_the_same_bits(is_constant):
    rows, layout, _, _, packing, packed = packed_inputs(6000, is_constant, seed=1)
    node = rows.all_rows().rows
    n_channels = 2 if is_constant else 3
    expected, sums = histogram_of(rows, layout, node, packing, packed, n_channels)
    shuffled = np.random.default_rng(2).permutation(node)
    for n_threads, is_parallel, chunk in [(1, False, 999), (3, False, 7000), (2, True, 7000), (9, True, 999)]:
        parts = packing._replace(chunk=np.int64(min(chunk, packing.chunk)))
        out, total = histogram_of(rows, layout, shuffled, parts, packed, n_channels, n_threads, is_parallel)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(total, sums)


@pytest.mark.parametrize("is_constant", [True, False])
def test_the_sibling_is_exactly_what_its_own_rows_give(is_constant):
    rows, layout, _, _, packing, packed = packed_inputs(5000, is_constant, seed=3, spread=1e90)
    node = rows.all_rows().rows
    is_child = np.random.default_rng(4).random(5000) < 0.3
    parent, child, sibling = (
        histogram_of(rows, layout, part, packing, packed, 2 if is_constant else 3)[0]
        for part in (node, node[is_child], node[~is_child])
    )
    subtract_exactly(parent, child)
    np.testing.assert_array_equal(parent, sibling)


@pytest.mark.parametrize("is_constant", [True, False])
def test_no_field_runs_over_into_its_neighbour_at_the_extremes(is_constant):
    n = CHUNKS_THREE_FIELDS[0] * 4
    for sign in (-1.0, 1.0):
        gradient, hessian = np.full((1, n), sign * 0.999999), np.full((1, n), 0.25)
        packing = choose_packing(gradient, hessian, is_constant)
        packed = np.empty(n, dtype=np.int64)
        pack_rows(gradient, hessian, packing, packed)
        total = packed[: packing.chunk].sum()
        count, g, h = unpack(total, packing)
        n_rows = min(n, int(packing.chunk))
        assert count == n_rows
        assert g == pytest.approx(sign * 0.999999 * n_rows, abs=0.5 * n_rows * packing.unit_g)
        assert h == (0.0 if is_constant else 0.25 * n_rows)


@pytest.mark.parametrize(
    ("gradient", "hessian"),
    [
        pytest.param(np.zeros(5000), np.ones(5000), id="nothing to learn"),
        pytest.param(np.append(np.full(4999, 1e-9), 1.0), np.full(5000, 0.1), id="one huge gradient"),
        pytest.param(np.ones(5000), np.append(np.full(4999, 1e-9), 1.0), id="one huge hessian"),
        pytest.param(np.full(5000, np.inf), np.ones(5000), id="infinite"),
        pytest.param(np.full(5000, 1e250), np.ones(5000), id="near the largest float"),
        pytest.param(np.ones(MIN_PACKED_ROWS - 1), np.ones(MIN_PACKED_ROWS - 1), id="few rows"),
    ],
)
def test_what_units_cannot_resolve_is_left_to_floats(gradient, hessian):
    assert choose_packing(gradient[None], hessian[None], False) is None


def test_derivatives_too_small_for_the_units_of_a_long_chunk_get_a_short_one():
    n = 10 * CHUNKS_THREE_FIELDS[0]
    shape = np.append(np.full(n - 1, 0.01), 0.999)[None]
    assert choose_packing(np.full((1, n), 0.5), np.full((1, n), 0.2), False).chunk == CHUNKS_THREE_FIELDS[0]
    short = choose_packing(0.3 * shape, 0.25 * shape, False)
    assert short.chunk == CHUNKS_THREE_FIELDS[1] and MIN_MEAN_UNITS * short.unit_g <= 0.3 * shape.mean()


@pytest.mark.parametrize("is_constant", [True, False])
def test_a_tree_on_packed_rows_has_exact_leaf_values_and_splits_as_good_as_on_floats(is_constant):
    rows, layout, gradient, hessian, _, _ = packed_inputs(5000, is_constant, seed=5)
    codes = codes_of(rows)
    gradient = gradient + 0.5 * (codes[3] > 20) - 0.4 * (codes[1] < 90) * (codes[0] == 1)
    options = split_options(is_constant, min_samples_leaf=20.0)
    grown = {}
    for is_packed in (True, False):
        grower = make_grower(rows, layout, options, max_leaf_nodes=8)
        if not is_packed:  # the same weights, but not the array that says so
            rows.weight = rows.weight.copy()
        weight = rows.weight if is_packed else np.ones(5000)
        tree = grower.grow_shared(gradient, hessian, weight, rows.all_rows(), 0)
        assert grower._scratch.keys() == {(2 if is_constant else 3, is_packed)}
        grown[is_packed] = tree
    fast, slow = grown[True].trees, grown[False].trees
    is_leaf = fast.left[0, : fast.n_nodes[0]] < 0
    for node in np.flatnonzero(is_leaf):
        own = grown[True].rows[fast.start[0, node] : fast.stop[0, node]]
        h = len(own) if is_constant else hessian[0, own].sum()
        assert fast.value[0, node, 0] == pytest.approx(-gradient[0, own].sum() / h, rel=1e-12)
        assert fast.weight[0, node] == len(own)
    n_nodes = fast.n_nodes[0]
    assert fast.gain[0, :n_nodes].sum() == pytest.approx(slow.gain[0, : slow.n_nodes[0]].sum(), rel=1e-3)


def test_floats_and_packed_rows_agree_where_the_units_lose_nothing():
    rows, layout, gradient, hessian, _, _ = packed_inputs(4000, True, seed=6)
    gradient = np.round(gradient * 64) / 64
    packing = choose_packing(gradient, hessian, True)
    packed = np.empty(4000, dtype=np.int64)
    pack_rows(gradient, hessian, packing, packed)
    node = rows.all_rows().rows
    fast, _ = histogram_of(rows, layout, node, packing, packed, 2)
    statistics, sums = np.empty((4000, 2)), np.empty(2)
    gather_statistics(node, np.int64(0), np.int64(4000), gradient, hessian, rows.weight, True, statistics, sums)
    slow = float_histogram(rows, layout, node, 0, 4000, statistics)
    np.testing.assert_array_equal(fast, slow)
    child, _ = histogram_of(rows, layout, node[:1000], packing, packed, 2)
    one, other = np.empty_like(fast), fast.copy()
    subtract_histogram(fast, child, one)
    subtract_exactly(other, child)
    np.testing.assert_array_equal(one, other)


def test_a_small_sample_of_many_rows_is_grown_from_its_rows():
    rows, layout, gradient, hessian, _, _ = packed_inputs(3000, True, seed=8)
    sample = rows.sample(np.arange(3000) % (3000 // SMALL_NODE + 1) == 0)  # too few rows for histograms
    trees = []
    for weight in (rows.weight, rows.weight.copy()):  # packed are rows with the weights of the table itself
        grower = make_grower(rows, layout, split_options(True, min_samples_leaf=10.0), max_leaf_nodes=6)
        trees.append(grower.grow_shared(gradient, hessian, weight, sample, 0).trees)
    n_nodes = trees[0].n_nodes[0]
    assert n_nodes == trees[1].n_nodes[0] > 3
    for name in ("feature", "left_bin", "gain", "weight", "value"):
        one, other = (getattr(tree, name)[0, :n_nodes] for tree in trees)
        np.testing.assert_array_equal(one, other)


def test_monotonic_constraints_are_kept_on_floats():
    rows, layout, gradient, hessian, _, _ = packed_inputs(3000, True, seed=7)
    layout = layout._replace(monotonic=np.array([0, 1, 0, 0, 0, 0], dtype=np.int8))
    grower = make_grower(rows, layout, split_options(True, min_samples_leaf=20.0), max_leaf_nodes=8)
    grower.grow_shared(gradient, hessian, rows.weight, rows.all_rows(), 0)
    assert grower._scratch.keys() == {(2, False)}
