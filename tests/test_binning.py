"""Binning: every value in the interval of its bin, and thresholds that send rows where their bins went."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mttab._core.boosting import binning
from mttab._core.boosting.binning import CATEGORY, TASK_ID, BinMapper, cut_between, quantile_bins

SUBNORMAL = 5e-324
HUGE = 1e308

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-3, 3).map(float),
    st.sampled_from([0.0, -0.0, SUBNORMAL, -SUBNORMAL, 3 * SUBNORMAL, HUGE, -HUGE, 1.0, np.nextafter(1.0, 2.0)]),
)
columns = npst.arrays(np.float64, st.integers(1, 60), elements=numbers)
columns_with_gaps = npst.arrays(np.float64, st.integers(1, 60), elements=st.one_of(numbers, st.just(np.nan)))
bin_counts = st.sampled_from([2, 3, 7, 254, 255])
# Many more distinct values than bins, which columns of that size drawn one by one would not reach.
many_values = st.builds(
    lambda seed, n: np.random.default_rng(seed).standard_normal(n), st.integers(0, 2**32 - 1), st.integers(256, 900)
)


def fit(*columns, max_bins=255, weight=None):  # type: ignore[no-untyped-def]
    """Mapper of numeric columns."""
    X = np.array(columns, dtype=np.float64)
    weight = np.ones(X.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    nothing = np.zeros(len(X), dtype=np.int64)
    return BinMapper(max_bins).fit(X, nothing.astype(bool), nothing, weight, 0)


def transform(mapper, *columns):  # type: ignore[no-untyped-def]
    return mapper.transform(np.array(columns, dtype=np.float64))


# --- edges ------------------------------------------------------------------------------------------------------------


@given(columns_with_gaps | many_values, bin_counts)
def test_every_value_lies_in_the_interval_of_its_bin(column, max_bins):
    mapper = fit(column, max_bins=max_bins)
    codes = transform(mapper, column)[0]
    upper = np.append(mapper.edges[0], np.inf)
    lower = np.append(-np.inf, mapper.edges[0])
    missing = np.isnan(column)
    assert np.all(codes[missing] == mapper.n_bins[0])
    codes, present = codes[~missing], column[~missing]
    assert np.all(codes < mapper.n_bins[0])
    assert np.all((lower[codes] < present) & (present <= upper[codes]))


@given(columns_with_gaps | many_values, bin_counts)
def test_lows_and_highs_are_the_extremes_of_each_bin(column, max_bins):
    mapper = fit(column, max_bins=max_bins)
    codes = transform(mapper, column)[0]
    if np.isnan(column).all():
        assert mapper.n_bins[0] == 1 and np.isnan([mapper.lows[0][0], mapper.highs[0][0]]).all()
        return
    for b in range(mapper.n_bins[0]):
        inside = column[codes == b]
        assert inside.min() == mapper.lows[0][b] and inside.max() == mapper.highs[0][b]


@given(columns, bin_counts)
def test_edges_ascend_and_are_finite(column, max_bins):
    edges = fit(column, max_bins=max_bins).edges[0]
    assert np.isfinite(edges).all() and np.all(np.diff(edges) > 0)


@given(
    many_values | columns,
    bin_counts,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 5.0, 30.0]),
)
def test_there_are_never_more_bins_than_asked_for_whatever_the_weights(column, max_bins, seed, spread):
    weight = np.exp(spread * np.random.default_rng(seed).standard_normal(len(column)))
    mapper = fit(column, max_bins=max_bins, weight=weight)
    assert mapper.n_bins[0] == len(mapper.edges[0]) + 1 <= max_bins


def test_a_last_value_of_next_to_no_weight_opens_no_bin_beyond_the_largest():
    column = np.arange(301.0)
    weight = np.append(np.ones(300), 1e-12)
    mapper = fit(column, weight=weight)
    assert mapper.n_bins[0] <= 255
    assert transform(mapper, [np.nan, 300.0])[0].tolist() == [mapper.n_bins[0], mapper.n_bins[0] - 1]


@given(npst.arrays(np.float64, st.integers(1, 40), elements=st.integers(-9, 9)))
def test_few_distinct_values_have_a_bin_each_with_edges_midway(column):
    distinct = np.unique(column)
    mapper = fit(column)
    assert mapper.n_bins[0] == len(distinct)
    np.testing.assert_array_equal(mapper.edges[0], (distinct[:-1] + distinct[1:]) / 2)
    np.testing.assert_array_equal(transform(mapper, column)[0], np.searchsorted(distinct, column))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, np.nextafter(1.0, 2.0)),
        (-np.nextafter(1.0, 2.0), -1.0),
        (0.0, SUBNORMAL),
        (-SUBNORMAL, 0.0),
        (3 * SUBNORMAL, 4 * SUBNORMAL),
        (HUGE, np.nextafter(HUGE, np.inf)),
        (-HUGE, HUGE),
        (-np.finfo(float).max, np.finfo(float).max),
    ],
)
def test_neighbouring_huge_and_subnormal_values_are_told_apart(low, high):
    mapper = fit([low, high])
    assert transform(mapper, [low, high])[0].tolist() == [0, 1]
    assert low <= cut(mapper, 0, 0, 1)[1] < high


def test_an_edge_between_huge_values_is_their_middle():
    assert fit([HUGE, 1.5 * HUGE]).edges[0].tolist() == [1.25 * HUGE]


@given(many_values, bin_counts, st.integers(0, 2**32 - 1))
def test_an_integer_weight_is_the_value_that_often(column, max_bins, seed):
    repeats = np.random.default_rng(seed).integers(1, 4, len(column))
    weighted = fit(column, max_bins=max_bins, weight=repeats)
    repeated = fit(np.repeat(column, repeats), max_bins=max_bins)
    np.testing.assert_array_equal(weighted.edges[0], repeated.edges[0])
    np.testing.assert_array_equal(weighted.highs[0], repeated.highs[0])


@given(many_values, bin_counts, st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(column, max_bins, seed):
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 2.0, len(column))
    order = rng.permutation(len(column))
    shuffled = fit(column[order], max_bins=max_bins, weight=weight[order])
    np.testing.assert_array_equal(fit(column, max_bins=max_bins, weight=weight).edges[0], shuffled.edges[0])


@pytest.mark.parametrize("unit", [0.1, 1e-30, 1e30])
def test_only_the_shares_of_the_weights_count(unit):
    # Every bin closes exactly where a share is reached, which rounding must not shift.
    column = np.arange(1020.0)
    expected = fit(column).edges[0]
    assert len(expected) == 254
    np.testing.assert_array_equal(fit(column, weight=np.full(1020, unit)).edges[0], expected)


@given(many_values, bin_counts, st.integers(0, 2**32 - 1))
def test_bins_hold_equal_shares_of_the_weight_up_to_one_value(column, max_bins, seed):
    weight = np.random.default_rng(seed).uniform(0.1, 2.0, len(column))
    mapper = fit(column, max_bins=max_bins, weight=weight)
    mass = np.bincount(transform(mapper, column)[0], weights=weight)
    share = weight.sum() / max_bins
    assert np.all(np.abs(mass - share) <= max(share, weight.max()) * (1 + 1e-6))
    # A boundary is at most one value late, so what lies left of it is the due share and at most one value more.
    late = np.cumsum(mass) / share % 1.0
    assert np.all(np.minimum(late, 1 - late) * share <= weight.max() * (1 + 1e-6))


@example(np.full(3, np.nan))
@given(npst.arrays(np.float64, st.integers(1, 9), elements=st.just(np.nan)))
def test_a_column_without_values_has_one_empty_bin_and_the_missing_one(column):
    mapper = fit(column)
    assert mapper.n_bins.tolist() == [1] and len(mapper.edges[0]) == 0
    assert np.all(transform(mapper, column) == 1)
    assert transform(mapper, [-HUGE, 0.0, HUGE])[0].tolist() == [0, 0, 0]


def test_a_constant_column_has_one_bin():
    mapper = fit(np.full(7, 3.5))
    assert mapper.n_bins.tolist() == [1] and len(mapper.edges[0]) == 0


def test_edges_of_large_columns_come_from_a_sample_that_the_seed_fixes(monkeypatch):
    monkeypatch.setattr(binning, "SAMPLE_SIZE", 400)
    column = np.random.default_rng(0).standard_normal(5000)
    nothing = np.zeros(1, dtype=np.int64)

    def edges(seed):
        return BinMapper(64).fit(column[None], nothing.astype(bool), nothing, np.ones(5000), seed).edges[0]

    np.testing.assert_array_equal(edges(1), edges(1))
    assert not np.array_equal(edges(1), edges(2))
    shares = np.bincount(np.searchsorted(edges(1), column), minlength=64) / 5000
    assert shares.max() < 5 / 64


# --- codes ------------------------------------------------------------------------------------------------------------


@given(columns, columns, bin_counts)
def test_codes_of_new_values_rise_with_the_value(column, new, max_bins):
    mapper = fit(column, max_bins=max_bins)
    codes = transform(mapper, np.sort(new))[0].astype(int)
    assert np.all(np.diff(codes) >= 0) and codes.max() < mapper.n_bins[0]


def test_category_codes_are_their_own_bins_and_unknown_ones_are_missing():
    X = np.array([[0.0, 3.0, np.nan, 2.0, -1.0, 4.0, 1e9, -1e9]])
    mapper = BinMapper().fit(X, np.array([True]), np.array([4]), np.ones(8), 0)
    assert mapper.n_bins.tolist() == [4]
    assert mapper.transform(X)[0].tolist() == [0, 3, 4, 2, 4, 4, 4, 4]


def test_parallel_binning_gives_the_same_codes():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3, 9000))
    X[0, ::7] = np.nan
    X[2] = rng.integers(-1, 9, 9000)
    mapper = BinMapper(32).fit(X, np.array([False, False, True]), np.array([0, 0, 8]), np.ones(9000), 0)
    np.testing.assert_array_equal(mapper.transform(X, 2), mapper.transform(X, 1))


def test_no_columns_make_no_codes():
    mapper = BinMapper().fit(np.empty((0, 4)), np.empty(0, bool), np.empty(0, np.int64), np.ones(4), 0)
    assert mapper.transform(np.empty((0, 4))).shape == (0, 4)


# --- layout and thresholds --------------------------------------------------------------------------------------------


def test_the_layout_gives_every_feature_its_bins_and_a_missing_one_and_the_task_comes_last():
    X = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    mapper = BinMapper().fit(X, np.array([False, True]), np.array([0, 5]), np.ones(3), 0)
    layout = mapper.layout(np.array([-1, 0]), n_tasks_as_category=300)
    assert layout.offset.tolist() == [0, 4, 10, 311]
    assert layout.is_categorical.tolist() == [0, CATEGORY, TASK_ID] and layout.monotonic.tolist() == [-1, 0, 0]
    assert mapper.layout(np.array([-1, 0])).offset.tolist() == [0, 4, 10]


def cut(mapper, feature, left, right):
    """Last bin that goes left, and the threshold."""
    layout = mapper.layout(np.zeros(len(mapper.n_bins), dtype=np.int64))
    return cut_between(layout, feature, left, right)


@given(columns | many_values, bin_counts, st.data())
def test_every_value_goes_the_same_way_by_bin_and_by_threshold(column, max_bins, data):
    mapper = fit(column, max_bins=max_bins)
    if mapper.n_bins[0] < 2:
        return
    left = data.draw(st.integers(0, mapper.n_bins[0] - 2))
    right = data.draw(st.integers(left + 1, mapper.n_bins[0] - 1))
    last_left, threshold = cut(mapper, 0, left, right)
    assert left <= last_left < right
    codes, known = transform(mapper, column)[0], ~np.isnan(column)
    np.testing.assert_array_equal(codes[known] <= last_left, column[known] <= threshold)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=12, unique=True), st.data())
def test_with_a_bin_per_value_thresholds_stand_midway_between_the_values_on_both_sides(values, data):
    values = np.sort(np.array(values, dtype=np.float64))
    left = data.draw(st.integers(0, len(values) - 2))
    right = data.draw(st.integers(left + 1, len(values) - 1))  # further right in a node without the values in between
    middle = (values[left] + values[right]) / 2
    assert cut(fit(values), 0, left, right) == (np.sum(values <= middle) - 1, middle)


def test_thresholds_do_not_cut_through_a_bin():
    mapper = fit([0.0, 1.0, 2.0, 5.0, 6.0, 7.0], max_bins=3)  # bins [0, 1], [2, 5], [6, 7]
    assert cut(mapper, 0, 0, 2) == (0, 1.5)  # midway, 3.5, lies within the bin in between
    mapper = fit([0.0, 1.0, 2.0, 5.0, 8.0, 9.0], max_bins=3)
    assert cut(mapper, 0, 0, 2) == (1, 6.5)  # and 4.5 is nearer to its upper edge


def test_there_is_no_finite_threshold_on_categories_and_where_only_missing_values_go_right():
    X = np.array([[0.0, 1.0, 4.0], [0.0, 1.0, 2.0]])
    mapper = BinMapper().fit(X, np.array([False, True]), np.array([0, 3]), np.ones(3), 0)
    assert cut(mapper, 0, 2, 3) == (2, np.inf) and cut(mapper, 1, 0, 0) == (2, np.inf)


def test_quantile_bins_of_half_open_shares():
    # Four values, two bins: the first half of the weight closes the first bin.
    edges, lows, highs = quantile_bins(np.array([4.0, 1.0, 3.0, 2.0]), np.ones(4), 2)
    assert edges.tolist() == [2.5] and lows.tolist() == [1.0, 3.0] and highs.tolist() == [2.0, 4.0]
