"""Columns as the networks read them: scaled numbers, flags of what is missing, rows of one embedding table."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is not installed")

import torch

from mttab._core.neural.columns import SCALINGS, ColumnEncoder
from mttab._core.neural.tokens import NUMERICAL_EMBEDDINGS, FeatureTokens

# Numbers with holes and ties, in steps of an eighth, so that no two of them nearly coincide.
EIGHTHS = st.integers(-5000, 5000).map(lambda i: i / 8)
NUMBERS = st.one_of(st.just(np.nan), EIGHTHS)
each_scaling = pytest.mark.parametrize("scaling", SCALINGS)


def fit(values, weight=None, n_categories=None, is_categorical=None, scaling="quantile"):
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    is_categorical = np.zeros(len(values), dtype=bool) if is_categorical is None else np.array(is_categorical)
    n_categories = np.zeros(len(values), dtype=int) if n_categories is None else np.array(n_categories)
    weight = np.ones(values.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    return ColumnEncoder().fit(values, n_categories, is_categorical, weight, scaling)


@st.composite
def weighted_columns(draw):
    """A numeric feature, a categorical one of three levels, and whole weights."""
    n = draw(st.integers(2, 30))
    numbers = draw(st.lists(NUMBERS, min_size=n, max_size=n))
    levels = draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=n, max_size=n))
    weight = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    return np.array([numbers, levels]), np.array(weight)


@each_scaling
@given(data=weighted_columns())
def test_a_weight_is_a_row_that_is_there_so_often(scaling, data):
    values, weight = data
    repeated = np.repeat(values, weight, axis=1)
    options = {"n_categories": [0, 3], "is_categorical": [False, True], "scaling": scaling}
    one, other = fit(values, weight, **options), fit(repeated, **options)
    np.testing.assert_allclose(one.transform(values).numeric, other.transform(values).numeric, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.level_frequency, other.level_frequency)
    edges = one.bin_edges(one.transform(values), weight.astype(float), 4)
    naive = other.bin_edges(other.transform(repeated), np.ones(repeated.shape[1]), 4)
    np.testing.assert_allclose(edges, naive, rtol=1e-5, atol=1e-5)


@each_scaling
@given(data=st.data())
def test_a_larger_number_never_becomes_a_smaller_one(scaling, data):
    seen = data.draw(st.lists(NUMBERS, min_size=1, max_size=40))
    new = np.sort(data.draw(st.lists(EIGHTHS, min_size=2, max_size=40)))
    scaled = fit(seen, scaling=scaling).transform(new[None]).numeric[:, 0]
    assert (np.diff(scaled, axis=0) >= 0).all() and np.isfinite(scaled).all() and (np.abs(scaled) <= 4).all()


@given(seen=st.lists(EIGHTHS, min_size=2, max_size=40, unique=True))
def test_distinct_numbers_of_training_stay_apart(seen):
    scaled = fit(seen).transform(np.sort(seen)[None]).numeric[:, 0, 0]
    assert (np.diff(scaled) > 0).all()


def test_quantiles_become_those_of_the_standard_normal():
    x = np.random.default_rng(0).exponential(size=20_000)  # far more than the map has knots
    scaled = fit(x).transform(x[None]).numeric[:, 0, 0]
    assert abs(scaled.mean()) < 0.01 and abs(scaled.std() - 1) < 0.01
    for z, share in [(-1.0, 0.1587), (0.0, 0.5), (1.5, 0.9332)]:
        assert (scaled < z).mean() == pytest.approx(share, abs=0.005)


def test_the_linear_scale_keeps_proportions_and_draws_in_extremes():
    x = np.random.default_rng(0).normal(5.0, 2.0, size=20_001)
    new = np.array([5.0, 5.2, 5.4, 7.0, 1e9, -1e300])
    zero, one, two, deviation, far, farther = fit(x).transform(new[None]).numeric[:, 0, 1]
    assert two - one == pytest.approx(one - zero, rel=0.01)
    assert deviation - zero == pytest.approx(1 / math.sqrt(1 + 1 / 9), abs=0.02)
    assert far == pytest.approx(3.0) and farther == pytest.approx(-3.0)


def test_standard_scaling_takes_mean_and_deviation_and_ends_at_four_deviations():
    x = np.array([1.0, 2.0, 3.0, np.nan])
    encoder = fit(x, scaling="standard")
    got = encoder.transform(np.array([[1.0, 2.0, 3.0, 100.0, -100.0]])).numeric[:, 0, 0]
    sd = np.sqrt(2 / 3)
    np.testing.assert_allclose(got, [-1 / sd, 0, 1 / sd, 4, -4], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("unit", [1e-290, 1e290])
def test_numbers_of_any_size_are_scaled_like_others(scaling, unit):
    x = np.random.default_rng(0).normal(2.0, 3.0, size=50)
    scaled = fit(x * unit, scaling=scaling).transform(x[None] * unit).numeric
    np.testing.assert_allclose(scaled, fit(x, scaling=scaling).transform(x[None]).numeric, rtol=1e-5, atol=1e-6)
    ends = np.array([-1.7e308, 0.0, 1.0, 1.7e308])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(fit(ends, scaling=scaling).transform(ends[None]).numeric).all()


def test_a_row_that_weighs_next_to_nothing_leaves_no_infinity():
    encoder = fit([0.0, 1.0, 2.0], weight=[1e-300, 1.0, 1e-300])
    assert np.isfinite(encoder.transform(np.array([[-1.0, 0.0, 1.0, 2.0, 3.0]])).numeric).all()


def test_what_is_missing_is_flagged_and_becomes_the_number_zero():
    columns = fit([1.0, np.nan, 3.0]).transform(np.array([[np.nan, 3.0, 1.0]]))
    assert columns.missing[:, 0].tolist() == [True, False, False]
    assert (columns.numeric[0, 0] == 0.0).all() and (columns.numeric[1, 0] != 0.0).all()
    assert columns.numeric.dtype == np.float32


@each_scaling
@pytest.mark.parametrize("x", [[7.0, 7.0, np.nan], [np.nan, np.nan], [3.0]])
def test_a_constant_or_empty_column_says_nothing_but_what_is_missing(scaling, x):
    encoder = fit(x, scaling=scaling)
    columns = encoder.transform(np.array([[-1e9, 7.0, 1e9, np.nan]]))
    assert columns.numeric.shape == (4, 1, encoder.n_scales) and not columns.numeric.any()
    assert columns.missing[:, 0].tolist() == [False, False, False, True]
    assert encoder.bin_edges(encoder.transform(np.array([x])), np.ones(len(x)), 4).tolist() == [[0.0] * 5]


def test_every_level_and_missing_and_unknown_have_a_row_of_their_own_in_every_feature():
    levels = np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    encoder = fit(levels, n_categories=[2, 3], is_categorical=[True, True])
    assert encoder.offset.tolist() == [0, 4, 9]
    new = np.array([[0.0, 1.0, np.nan, 2.0, 0.0], [0.0, 1.0, 2.0, np.nan, 3.0]])
    columns = encoder.transform(new)
    assert columns.codes.T.tolist() == [[0, 1, 2, 3, 0], [4, 5, 6, 7, 8]]
    assert columns.codes.dtype == np.int64
    assert columns.numeric.shape[:2] == columns.missing.shape == (5, 0)


def test_the_frequency_of_a_level_is_the_weight_of_its_rows():
    levels = np.array([[0.0, 1.0, np.nan, 1.0]])
    encoder = fit(levels, weight=[1.0, 2.0, 4.0, 8.0], n_categories=[2], is_categorical=[True])
    assert encoder.level_frequency.tolist() == [1.0, 10.0, 4.0, 0.0]


def test_numbers_and_categories_are_told_apart_wherever_they_stand():
    values = np.array([[0.0, 1.0], [5.0, 9.0], [1.0, 0.0], [2.0, 1.0]])
    encoder = fit(values, n_categories=[2, 0, 2, 0], is_categorical=[True, False, True, False])
    assert encoder.numeric.tolist() == [1, 3] and encoder.categorical.tolist() == [0, 2]
    columns = encoder.transform(values)
    assert (np.sign(columns.numeric[:, :, 0]) == [[-1, 1], [1, -1]]).all()
    assert columns.codes.tolist() == [[0, 5], [1, 4]]


@given(x=st.lists(NUMBERS, min_size=1, max_size=60), n_bins=st.integers(2, 9))
def test_bin_edges_rise_from_the_smallest_to_the_largest_number(x, n_bins):
    encoder = fit(x)
    columns = encoder.transform(np.array([x]))
    edges = encoder.bin_edges(columns, np.ones(len(x)), n_bins)
    assert edges.shape == (1, n_bins + 1) and edges.dtype == np.float32
    assert (np.diff(edges[0]) >= 0).all()
    seen = columns.numeric[~columns.missing][:, 0]
    if len(seen):
        assert edges[0, 0] == seen.min() and edges[0, -1] == seen.max()
        if len(np.unique(seen)) <= n_bins + 1:
            assert set(edges[0]) == set(seen)  # few values: every one is an edge


def test_bins_hold_about_the_same_weight():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=4000), rng.uniform(0.1, 3.0, size=4000)
    encoder = fit(x, weight)
    columns = encoder.transform(x[None])
    edges = encoder.bin_edges(columns, weight, 8)[0]
    share, _ = np.histogram(columns.numeric[:, 0, 0], edges, weights=weight / weight.sum())
    np.testing.assert_allclose(share, 1 / 8, atol=0.005)


def test_a_table_stays_as_it_is():
    values = np.array([[np.nan, 1.0, 2.0], [0.0, np.nan, 5.0]])
    before = values.copy()
    fit(values, n_categories=[0, 2], is_categorical=[False, True]).transform(values)
    np.testing.assert_array_equal(values, before)


# --- from columns to tokens -------------------------------------------------------------------------------------------


def naive_channels(tokens, scales, is_missing, feature, edges):
    """What one number brings to its token, in plain Python."""
    out = [*([0.0] * len(scales) if is_missing else scales), float(is_missing)]
    value = out[0]
    if tokens.embedding == "periodic":
        pairs = zip(tokens.frequency[feature].tolist(), tokens.phase[feature].tolist(), strict=True)
        out += [math.cos(2 * math.pi * f * value + p) for f, p in pairs]
    if tokens.embedding == "piecewise_linear":
        for low, high in itertools.pairwise(edges[feature].tolist()):
            out.append(min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0)
    return out


@pytest.mark.parametrize("embedding", NUMERICAL_EMBEDDINGS)
def test_a_number_becomes_the_affine_image_of_its_channels_and_a_level_its_row(embedding):
    rng = np.random.default_rng(0)
    values = np.vstack([rng.normal(size=(3, 40)), rng.integers(0, 3, size=40)])
    values[0, :10], values[1] = np.nan, np.round(values[1])  # holes; few values, so that bins are empty
    encoder = fit(values, n_categories=[0, 0, 0, 3], is_categorical=[False, False, False, True])
    columns = encoder.transform(values)
    edges = encoder.bin_edges(columns, np.ones(40), 6)
    torch.manual_seed(0)
    bins = edges if embedding == "piecewise_linear" else None
    tokens = FeatureTokens(3, encoder.n_scales, encoder.offset, encoder.level_frequency, 5, embedding, bins)
    got = tokens(*(torch.as_tensor(a) for a in columns)).detach().numpy()
    assert got.shape == (40, 4, 5)
    weight, bias, table = (p.detach().numpy() for p in (tokens.weight, tokens.bias, tokens.table))
    for i in range(40):
        for j in range(3):
            x = naive_channels(tokens, columns.numeric[i, j].tolist(), bool(columns.missing[i, j]), j, edges)
            np.testing.assert_allclose(got[i, j], np.array(x) @ weight[j] + bias[j, 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got[i, 3], table[columns.codes[i, 0]])


def test_a_level_without_training_data_has_the_weighted_mean_token_of_its_feature():
    encoder = fit(
        np.array([[0.0, 0.0, 1.0, np.nan], [2.0, 0.0, 1.0, 1.0]]), n_categories=[2, 3], is_categorical=[True, True]
    )
    tokens = FeatureTokens(0, encoder.n_scales, encoder.offset, encoder.level_frequency, 5, "linear")
    before = tokens.table.detach().clone()
    tokens.fill_unseen()
    after = tokens.table.detach()
    known = encoder.level_frequency > 0
    assert known.tolist() == [True, True, True, False, True, True, True, False, False]
    torch.testing.assert_close(after[known], before[known], rtol=0, atol=0)
    torch.testing.assert_close(after[3], (2 * before[0] + before[1] + before[2]) / 4)
    for missing_or_unknown in (7, 8):
        torch.testing.assert_close(after[missing_or_unknown], (before[4] + 2 * before[5] + before[6]) / 4)
