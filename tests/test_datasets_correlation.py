"""Promises about correlations: exact cosines, exact label correlations, and refusals that name the bound."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss

from mttab.datasets import make_multitask_classification, make_multitask_regression
from mttab.datasets._correlation import draw_weights
from mttab.datasets._hermite import (
    MAX_DEGREE,
    correlation_polynomial,
    cosine_for,
    hermite_coefficients,
    label_sd,
    polynomial,
    reachable_range,
)

DEGREES = st.integers(1, 8)
COSINES = st.floats(-1.0, 1.0)


@st.composite
def correlation_matrices(draw):
    """Correlation matrices of 1 to 8 tasks, some of them singular."""
    n_tasks = draw(st.integers(1, 8))
    rank = draw(st.integers(1, n_tasks))
    factor = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal((n_tasks, rank))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    matrix = factor @ factor.T
    np.fill_diagonal(matrix, 1.0)
    return np.clip((matrix + matrix.T) / 2.0, -1.0, 1.0)


@given(matrix=correlation_matrices(), extra=st.integers(0, 20), seed=st.integers(0, 1000))
def test_cosines_of_the_weights_are_those_asked_for(matrix, extra, seed):
    W = draw_weights(matrix, len(matrix) + extra, np.random.default_rng(seed))
    np.testing.assert_allclose(W @ W.T, matrix, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(n_tasks=st.integers(2, 8), place=st.floats(0.0, 1.0))
def test_one_correlation_for_all_pairs_may_be_anything_from_its_bound_to_1(n_tasks, place):
    low = -1.0 / (n_tasks - 1)
    rho = min(low + place * (1.0 - low), 1.0)
    bunch = make_multitask_regression(5, n_tasks, n_tasks, correlation=rho, return_bunch=True, random_state=0)
    expected = np.where(np.eye(n_tasks, dtype=bool), 1.0, rho)
    np.testing.assert_allclose(bunch.correlation_of_weights, expected, atol=1e-10)
    np.testing.assert_allclose(bunch.weights @ bunch.weights.T, expected, atol=1e-10)
    np.testing.assert_array_equal(bunch.correlation_requested, expected)


@given(degree_s=st.integers(1, MAX_DEGREE), degree_t=st.integers(1, MAX_DEGREE), rho=COSINES)
def test_hermite_value_equals_quadrature(degree_s, degree_t, rho):
    nodes, weights = hermegauss(MAX_DEGREE + 1)  # exact for polynomials up to degree 2 MAX_DEGREE + 1
    weights = weights / weights.sum()
    z_s = nodes[:, None]
    z_t = rho * z_s + np.sqrt(1.0 - rho**2) * nodes[None, :]
    f, g = polynomial(z_s, degree_s), polynomial(z_t, degree_t)
    own = [polynomial(nodes, degree) for degree in (degree_s, degree_t)]
    means = [weights @ values for values in own]
    sds = [np.sqrt(weights @ (values - mean) ** 2) for values, mean in zip(own, means, strict=True)]
    covariance = weights @ ((f - means[0]) * (g - means[1])) @ weights
    assert correlation_polynomial(degree_s, degree_t)(rho) == pytest.approx(covariance / sds[0] / sds[1], abs=1e-10)
    assert label_sd(degree_s) == pytest.approx(sds[0], rel=1e-10)


@pytest.mark.parametrize("degree", range(1, 7))
def test_polynomial_is_the_sum_of_powers(degree):
    z = np.linspace(-2.0, 2.0, 9)
    np.testing.assert_allclose(polynomial(z, degree), sum(z**k for k in range(1, degree + 1)), atol=1e-12)


@given(degree_s=DEGREES, degree_t=DEGREES, place=st.floats(0.0, 1.0))
def test_the_inverse_gives_every_reachable_label_correlation(degree_s, degree_t, place):
    low, high = reachable_range(degree_s, degree_t)
    wanted = low + place * (high - low)
    cosine = cosine_for(wanted, degree_s, degree_t)
    assert cosine is not None and -1.0 <= cosine <= 1.0
    assert correlation_polynomial(degree_s, degree_t)(cosine) == pytest.approx(wanted, abs=1e-10)


@given(degree_s=DEGREES, degree_t=DEGREES, excess=st.floats(1e-6, 1.0))
def test_nothing_beyond_the_reachable_range_is_promised(degree_s, degree_t, excess):
    low, high = reachable_range(degree_s, degree_t)
    values = correlation_polynomial(degree_s, degree_t)(np.linspace(-1.0, 1.0, 2001))
    assert values.min() >= low - 1e-12 and values.max() <= high + 1e-12
    assert cosine_for(high + excess, degree_s, degree_t) is None
    assert cosine_for(low - excess, degree_s, degree_t) is None


@given(degree_s=DEGREES, degree_t=DEGREES, rho=st.floats(0.0, 1.0))
def test_a_positive_label_correlation_has_the_one_positive_cosine(degree_s, degree_t, rho):
    curve = correlation_polynomial(degree_s, degree_t)
    assert cosine_for(float(curve(rho)), degree_s, degree_t) == pytest.approx(rho, abs=1e-9)


def test_where_the_curve_turns_the_branch_through_0_is_taken():
    assert reachable_range(2, 2) == pytest.approx((-1 / 24, 1.0))
    curve = correlation_polynomial(2, 2)  # (ρ + 2ρ²) / 3: least at -1/4, 0 again at -1/2, 1/3 at -1
    assert curve(-0.4) == pytest.approx(curve(-0.1))
    assert cosine_for(float(curve(-0.4)), 2, 2) == pytest.approx(-0.1)
    assert cosine_for(1 / 3, 2, 2) == pytest.approx(0.5)
    assert cosine_for(-1 / 24, 2, 2) == pytest.approx(-0.25)
    assert cosine_for(0.0, 2, 2) == pytest.approx(0.0, abs=1e-15)


def test_weights_rule_correlations_of_labels_by_the_published_numbers():
    bunch = make_multitask_regression(5, return_bunch=True, random_state=0)
    off_diagonal = bunch.correlation_of_targets[np.triu_indices(7, 1)]
    assert off_diagonal.min() == pytest.approx(0.13, abs=0.005)
    assert off_diagonal.max() == pytest.approx(0.33, abs=0.005)


@settings(max_examples=40, deadline=None)
@given(
    degree=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    share=st.floats(0.0, 0.9),
    matrix_seed=st.integers(0, 1000),
)
def test_label_correlations_are_exactly_those_asked_for(degree, share, matrix_seed):
    factor = np.random.default_rng(matrix_seed).standard_normal((len(degree), 8))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    requested = np.eye(len(degree)) + share * 0.2 * (factor @ factor.T - np.eye(len(degree)))
    try:
        bunch = make_multitask_regression(
            5, 8, correlation=requested, correlation_of="targets", degree=degree, return_bunch=True, random_state=0
        )
    except ValueError as error:
        assume("can be reached" not in str(error) and "which reach" not in str(error))
        raise
    np.testing.assert_allclose(bunch.correlation_of_targets, requested, atol=1e-10)
    np.testing.assert_allclose(bunch.correlation_requested, requested)


def jackknife_correlation(a, b, n_blocks=50):
    """Correlation of a and b and its delete-one-block jackknife standard error."""
    blocks = np.array_split(np.arange(len(a)), n_blocks)
    moments = np.array([[a[i].sum(), b[i].sum(), a[i] @ a[i], b[i] @ b[i], a[i] @ b[i], len(i)] for i in blocks])

    def correlation(m):
        mean_a, mean_b, aa, bb, ab, _ = np.array(m) / m[5]
        return (ab - mean_a * mean_b) / np.sqrt((aa - mean_a**2) * (bb - mean_b**2))

    total = moments.sum(axis=0)
    left_out = np.array([correlation(total - m) for m in moments])
    se = np.sqrt((n_blocks - 1) * np.mean((left_out - left_out.mean()) ** 2))
    return correlation(total), se


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "arguments",
    [
        {"n_tasks": 7, "correlation": 0.4},
        {"degree": [1, 2, 3], "correlation": 0.2, "correlation_of": "targets"},
        {"degree": [2, 2, 3], "correlation": -0.03, "correlation_of": "targets"},
    ],
    ids=["weights", "targets", "negative targets"],
)
def test_empirical_label_correlations_agree_with_the_exact_ones(seed, arguments):
    bunch = make_multitask_regression(100_000, 8, return_bunch=True, random_state=seed, **arguments)
    for s, t in zip(*np.triu_indices(bunch.noise_free.shape[1], 1), strict=True):
        r, se = jackknife_correlation(bunch.noise_free[:, s], bunch.noise_free[:, t])
        assert abs(r - bunch.correlation_of_targets[s, t]) < 5.0 * se


def test_correlations_of_classes_are_those_of_their_scores():
    bunch = make_multitask_classification(
        5, degree=[1, 2, 3], correlation=0.2, correlation_of="targets", return_bunch=True, random_state=0
    )
    np.testing.assert_allclose(bunch.correlation_of_targets[np.triu_indices(3, 1)], 0.2, atol=1e-10)


def test_hermite_coefficients_of_known_polynomials():
    np.testing.assert_allclose(hermite_coefficients(1), [0.0, 1.0])
    np.testing.assert_allclose(hermite_coefficients(2), [1.0, 1.0, np.sqrt(2.0)])
    np.testing.assert_allclose(hermite_coefficients(3), [1.0, 4.0, np.sqrt(2.0), np.sqrt(6.0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_tasks": 5, "correlation": -0.3}, r"correlation=-0.3 is below -1/\(n_tasks - 1\) = -0.25"),
        ({"n_tasks": 5, "correlation": 1.1}, "correlation must lie between -1 and 1, got 1.1"),
        ({"n_tasks": 5, "correlation": float("nan")}, "correlation must lie between -1 and 1"),
        ({"n_tasks": 5, "n_features": 4}, "n_features=4 must be at least n_tasks=5"),
        ({"correlation": [[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]}, "least eigenvalue is -0.8; multiplying"),
        ({"correlation": [[1, 0.5], [0.4, 1]]}, "must be symmetric"),
        ({"correlation": [[1, 0.5], [0.5, 0.9]]}, "must have 1 on its diagonal"),
        ({"correlation": [[1, 0.5]]}, r"must be a number or of shape \(1, 1\), got shape \(1, 2\)"),
        ({"n_tasks": 3, "correlation": np.eye(2)}, r"of shape \(3, 3\), got shape \(2, 2\)"),
        ({"correlation": "high"}, "correlation='high' must be a number or a matrix"),
        ({"correlation_of": "labels"}, "correlation_of='labels' must be one of 'weights', 'targets'"),
    ],
)
def test_impossible_correlations_are_refused_with_the_bound(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_multitask_regression(10, **arguments)


@pytest.mark.parametrize(
    ("degree", "correlation", "message"),
    [
        ([1, 4], 0.4, "correlation=0.4 of the labels cannot be had by 2 tasks of degrees .* reach -0.3333 to 0.3333"),
        ([2, 2], -0.1, "reach -0.04167 to 1"),
        ([1, 4], [[1, 0.4], [0.4, 1]], "tasks 0 and 1 .* degrees 1 and 4, which reach -0.3333 to 0.3333"),
    ],
)
def test_label_correlations_that_degrees_cannot_reach_are_refused_with_the_range(degree, correlation, message):
    with pytest.raises(ValueError, match=message):
        make_multitask_regression(10, degree=degree, correlation=correlation, correlation_of="targets")


def test_the_range_stated_for_all_pairs_can_be_had():
    degree = [1, 2, 3, 4]
    with pytest.raises(ValueError, match="which reach") as error:
        make_multitask_regression(10, degree=degree, correlation=0.9, correlation_of="targets")
    low, high = (float(word.rstrip(".")) for word in str(error.value).split("which reach ")[1].split(" to "))
    assert low < 0.0 < high
    for inside in (0.99 * low, 0.99 * high):
        make_multitask_regression(10, degree=degree, correlation=inside, correlation_of="targets")
    for outside in (1.01 * low, 1.01 * high):
        with pytest.raises(ValueError, match="which reach"):
            make_multitask_regression(10, degree=degree, correlation=outside, correlation_of="targets")


def test_cosines_that_are_not_semidefinite_are_refused_with_what_can_be_reached():
    near = np.where(np.eye(3, dtype=bool), 1.0, 0.55)
    near[0, 2] = near[2, 0] = -0.2
    with pytest.raises(ValueError, match="cosines are not positive semi-definite") as error:
        make_multitask_regression(10, degree=[1, 2, 1], correlation=near, correlation_of="targets")
    share = float(str(error.value).split("], ")[1].split(" times")[0])
    make_multitask_regression(
        10, degree=[1, 2, 1], correlation=np.eye(3) + share * (near - np.eye(3)), correlation_of="targets"
    )
