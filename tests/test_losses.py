"""Losses: derivatives are those of the values, constants of least loss, links. Every row of the tables is tested."""

import time
from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from llvmlite import binding
from scipy.optimize import minimize

from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES, BinaryLogLoss, Huber

QUANTILE, DELTA = 0.3, 0.7

LOSSES = {f"regression-{name}": make(QUANTILE, DELTA) for name, make in REGRESSION_LOSSES.items()} | {
    f"{n_classes}-classes-{name}": make(n_classes)
    for name, make in CLASSIFICATION_LOSSES.items()
    for n_classes in (2, 4)
}
N_CLASSES = {name: int(name[0]) for name in LOSSES if name[0].isdigit()}
# Documented as one step towards the constant of least loss, which has no closed form.
ONE_STEP = {name for name, loss in LOSSES.items() if isinstance(loss, Huber)}

each_loss = pytest.mark.parametrize("name", LOSSES)
each_class_loss = pytest.mark.parametrize("name", N_CLASSES)


def targets(name, n, seed=0):  # type: ignore[no-untyped-def]
    """Targets that the loss can have: classes, or counts (which every regression loss takes)."""
    rng = np.random.default_rng(seed)
    if name in N_CLASSES:
        return np.arange(n, dtype=np.float64) % N_CLASSES[name] if n < 8 else rng.integers(0, N_CLASSES[name], n) + 0.0
    return rng.poisson(2.0, n) + 0.0


def values(loss, y, score):  # type: ignore[no-untyped-def]
    return loss.values(y, np.ascontiguousarray(score), np.full(len(y), np.nan))


def derivatives(loss, y, score, weight=None, n_threads=1):  # type: ignore[no-untyped-def]
    weight = np.ones(len(y)) if weight is None else weight
    gradient, hessian = np.full((loss.n_outputs, len(y)), np.nan), np.full((loss.n_outputs, len(y)), np.nan)
    loss.derivatives(y, np.ascontiguousarray(score), weight, gradient, hessian, n_threads)
    return gradient, hessian


def random_scores(loss, n, seed=1):  # type: ignore[no-untyped-def]
    return 1.5 * np.random.default_rng(seed).standard_normal((n, loss.n_outputs))


def shifted(score, k, step):  # type: ignore[no-untyped-def]
    out = score.copy()
    out[:, k] += step
    return out


@each_loss
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_derivatives_bring_the_weighted_sum_of_the_losses_along(name, is_weighted, n_threads):
    loss, n = LOSSES[name], 3000
    y, score = targets(name, n), 20.0 * random_scores(LOSSES[name], n)
    if name == "regression-poisson":
        score /= 20.0
    weight = np.random.default_rng(3).uniform(0.0, 3.0, n) if is_weighted else np.ones(n)
    out = np.empty((2, loss.n_outputs, n))
    total = loss.derivatives(y, score, weight, out[0], out[1], n_threads)
    assert total == pytest.approx(values(loss, y, score) @ weight, rel=1e-12)


# --- derivatives ------------------------------------------------------------------------------------------------------


@each_loss
def test_gradients_are_finite_differences_of_the_values(name):
    loss, h = LOSSES[name], 1e-5
    y, score = targets(name, 400), random_scores(LOSSES[name], 400)
    gradient, _ = derivatives(loss, y, score)
    for k in range(loss.n_outputs):
        numeric = (values(loss, y, shifted(score, k, h)) - values(loss, y, shifted(score, k, -h))) / (2 * h)
        np.testing.assert_allclose(gradient[k], numeric, rtol=1e-6, atol=1e-7)


@each_loss
def test_hessians_are_finite_differences_of_the_gradients_or_an_upper_bound(name):
    loss, h = LOSSES[name], 1e-5
    y, score = targets(name, 400), random_scores(LOSSES[name], 400)
    _, hessian = derivatives(loss, y, score)
    for k in range(loss.n_outputs):
        above, below = (derivatives(loss, y, shifted(score, k, step))[0][k] for step in (h, -h))
        numeric = (above - below) / (2 * h)
        if loss.constant_hessian:
            assert np.isnan(hessian).all(), "a constant hessian is nobody's to write"
            assert np.all(numeric <= 1.0 + 1e-6)
        else:
            np.testing.assert_allclose(hessian[k], numeric, rtol=1e-6, atol=1e-7)


@each_loss
def test_weights_multiply_both_derivatives_and_not_the_values(name):
    loss = LOSSES[name]
    y, score = targets(name, 50), random_scores(LOSSES[name], 50)
    weight = np.random.default_rng(2).uniform(0.1, 3.0, 50)
    for plain, weighted in zip(derivatives(loss, y, score), derivatives(loss, y, score, weight), strict=True):
        np.testing.assert_allclose(weighted, plain * weight, rtol=1e-14)


@each_loss
def test_parallel_kernels_give_the_same_bits(name):
    loss = LOSSES[name]
    y, score, weight = targets(name, 3000), random_scores(LOSSES[name], 3000), np.linspace(0.1, 2.0, 3000)
    for serial, parallel in zip(
        derivatives(loss, y, score, weight, 1), derivatives(loss, y, score, weight, 2), strict=True
    ):
        np.testing.assert_array_equal(serial, parallel)
    np.testing.assert_array_equal(values(loss, y, score), loss.values(y, score, np.empty(3000), 2))


@each_loss
@pytest.mark.parametrize("extreme", [-1e4, -800.0, -40.0, 40.0, 700.0])
def test_extreme_scores_give_finite_numbers(name, extreme):
    loss = LOSSES[name]
    y = targets(name, 6)
    for k in range(loss.n_outputs):
        score = shifted(np.zeros((6, loss.n_outputs)), k, extreme)
        gradient, hessian = derivatives(loss, y, score)
        assert np.isfinite(gradient).all() and np.isfinite(values(loss, y, score)).all()
        assert loss.constant_hessian or (np.isfinite(hessian).all() and np.all(hessian >= 0))
        assert np.isfinite(loss.link_inverse(score)).all()


@each_class_loss
@pytest.mark.parametrize("extreme", [800.0, 1e4, 1e300])
def test_classes_stand_any_score(name, extreme):
    loss, y = LOSSES[name], targets(name, 6)
    for k in range(loss.n_outputs):
        score = shifted(np.zeros((6, loss.n_outputs)), k, extreme)
        assert np.isfinite(derivatives(loss, y, score)).all() and np.isfinite(values(loss, y, score)).all()
        np.testing.assert_allclose(loss.link_inverse(score).sum(axis=1), 1.0)


# --- base score -------------------------------------------------------------------------------------------------------


def mean_loss(loss, y, weight, constant):  # type: ignore[no-untyped-def]
    score = np.tile(np.atleast_1d(np.asarray(constant, dtype=np.float64)), (len(y), 1))
    return np.average(values(loss, y, score), weights=weight)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ONE_STEP])
def test_the_base_score_is_the_constant_of_least_loss(name):
    loss, y = LOSSES[name], targets(name, 301, seed=3)
    weight = np.random.default_rng(4).uniform(0.1, 3.0, 301)
    base = loss.base_score(y, weight)
    assert base.shape == (loss.n_outputs,)
    found = minimize(lambda c: mean_loss(loss, y, weight, c), base + 0.1, method="Nelder-Mead", options={"xatol": 1e-9})
    # Loss, not place: a quantile may be a whole interval, and softmax scores may be shifted together.
    assert mean_loss(loss, y, weight, base) <= found.fun + 1e-9 * abs(found.fun)


@pytest.mark.parametrize("name", sorted(ONE_STEP))
def test_a_one_step_base_score_is_better_than_the_median_it_starts_from_and_close_to_the_best(name):
    loss = LOSSES[name]
    y = np.random.default_rng(5).gamma(2.0, 2.0, 501)
    weight = np.random.default_rng(4).uniform(0.1, 3.0, 501)
    own = mean_loss(loss, y, weight, loss.base_score(y, weight))
    median = LOSSES["regression-absolute_error"].base_score(y, weight)
    best = minimize(lambda c: mean_loss(loss, y, weight, c), median, method="Nelder-Mead").fun
    assert own < mean_loss(loss, y, weight, median)
    assert own <= best * 1.01


@each_loss
def test_weight_two_is_the_row_twice_in_the_base_score(name):
    loss, y = LOSSES[name], targets(name, 60, seed=6)
    repeats = np.random.default_rng(7).integers(1, 4, 60)
    repeated = np.repeat(y, repeats)
    np.testing.assert_allclose(
        loss.base_score(y, repeats.astype(float)), loss.base_score(repeated, np.ones(len(repeated))), rtol=1e-12
    )


@each_loss
def test_base_scores_of_runs_of_rows_are_those_of_the_rows_alone_and_0_without_rows(name):
    loss, y = LOSSES[name], targets(name, 60, seed=6)
    weight, start = np.random.default_rng(7).uniform(0.5, 2.0, 60), np.array([0, 0, 7, 8, 60, 60])
    own = [slice(*ends) for ends in pairwise(start)]
    expected = [loss.base_score(y[rows], weight[rows]) if y[rows].size else np.zeros(loss.n_outputs) for rows in own]
    found = loss.base_scores(y, weight, start)
    assert found.shape == (5, loss.n_outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["regression-absolute_error", "regression-quantile", "regression-squared_error"])
def test_a_row_that_is_met_exactly_pulls_nowhere(name):
    y = np.array([1.0, 2.0])
    gradient, _ = derivatives(LOSSES[name], y, y[:, None])
    assert gradient.tolist() == [[0.0, 0.0]]


@each_class_loss
def test_base_scores_of_several_classes_are_centred(name):
    base = LOSSES[name].base_score(targets(name, 50), np.ones(50))
    assert len(base) == 1 or abs(base.sum()) < 1e-12


@each_class_loss
def test_a_class_without_rows_leaves_the_base_score_finite(name):
    for y in (np.zeros(5), np.ones(5)):
        assert np.isfinite(LOSSES[name].base_score(y, np.ones(5))).all()


# --- links ------------------------------------------------------------------------------------------------------------


@each_class_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_the_loss_is_minus_the_log_of_the_probability_of_the_class(name, seed):
    loss, y = LOSSES[name], targets(name, 20, seed)
    score = random_scores(loss, 20, seed)
    proba = loss.link_inverse(score)
    assert proba.shape == (20, N_CLASSES[name]) and np.all(proba >= 0)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    np.testing.assert_allclose(values(loss, y, score), -np.log(proba[np.arange(20), y.astype(int)]), rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in N_CLASSES])
def test_a_regression_loss_is_least_where_the_prediction_is_the_target(name):
    loss = LOSSES[name]
    y = targets(name, 40) + 1.0
    grid = np.linspace(-1.0, 10.0, 2201)
    for target in np.unique(y):
        at = values(loss, np.full(len(grid), target), grid[:, None])
        assert loss.link_inverse(grid[[np.argmin(at)], None])[0, 0] == pytest.approx(target, abs=0.05 * target)
        assert at.min() == pytest.approx(0.0, abs=1e-3) and np.all(at > -1e-12), "0 is the least loss"


def test_the_losses_say_what_they_say_they_are():
    y, score = np.array([0.0, 3.0, 2.0]), np.array([[1.0], [1.0], [1.5]])
    expected = {
        "squared_error": [0.5, 2.0, 0.125],
        "absolute_error": [0.5, 1.0, 0.25],
        "huber": [0.7 * (1 - 0.35), 0.7 * (2 - 0.35), 0.125],
        "quantile": [0.7, 0.6, 0.15],
        "poisson": [np.e, np.e - 3.0 - 3.0 + 3.0 * np.log(3.0), np.exp(1.5) - 3.0 - 2.0 + 2.0 * np.log(2.0)],
    }
    assert set(expected) == set(REGRESSION_LOSSES), "a new loss belongs here, with its values by hand"
    for name, numbers in expected.items():
        np.testing.assert_allclose(values(LOSSES[f"regression-{name}"], y, score), numbers, err_msg=name)


@given(npst.arrays(np.float64, st.integers(1, 2100), elements=st.floats(-800.0, 800.0) | st.floats(-40.0, 40.0)))
def test_log_loss_derivatives_are_exact_to_the_last_places(score):
    n = len(score)
    y, weight = (np.arange(n) % 3 == 0) + 0.0, np.ones(n)
    gradient, hessian = np.empty((1, n)), np.empty((1, n))
    CLASSIFICATION_LOSSES["log_loss"](2).derivatives(y, score[:, None].copy(), weight, gradient, hessian)
    e = np.exp(-np.minimum(np.abs(score), 700.0))
    p = np.where(score >= 0.0, 1.0, e) / (1.0 + e)
    np.testing.assert_allclose(gradient[0], p - y, rtol=1e-14, atol=2e-16)
    np.testing.assert_allclose(hessian[0], e / (1.0 + e) ** 2, rtol=1e-14)


@pytest.mark.skipif(numba.config.USING_SVML, reason="the twin takes several rows at once, too")
def test_the_log_loss_takes_several_rows_at_once():
    """LLVM says nothing where it gives up on a loop, and the derivatives then take three times as long."""
    try:
        has_vectors = binding.get_host_cpu_features().get("avx2", False)
    except RuntimeError:
        has_vectors = False
    if not has_vectors:
        pytest.skip("vectors of two numbers gain little")

    @numba.njit(error_model="numpy")
    def one_by_one(y, score, gradient, hessian):
        total = 0.0
        for i in range(len(y)):
            f = score[i, 0]
            e = np.exp(-abs(f))
            p = (1.0 if f >= 0.0 else e) / (1.0 + e)
            total += max(f, 0.0) - y[i] * f + np.log1p(e)
            gradient[0, i], hessian[0, i] = p - y[i], p * (1.0 - p)
        return total

    rng, n = np.random.default_rng(0), 100_000
    y, score, weight = rng.integers(0, 2, n).astype(float), rng.normal(size=(n, 1)), np.ones(n)
    room, seconds = np.empty((2, 1, n)), {}
    runs = {
        "ours": lambda: BinaryLogLoss().derivatives(y, score, weight, *room),
        "twin": lambda: one_by_one(y, score, *room),
    }
    for _ in range(15):
        for name, run in runs.items():
            start = time.perf_counter()
            assert run() > 0.0
            seconds[name] = min(seconds.get(name, np.inf), time.perf_counter() - start)
    assert seconds["ours"] < 0.35 * seconds["twin"]
