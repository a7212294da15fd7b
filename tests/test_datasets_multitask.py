"""Promises of `make_multitask`, `make_multitask_regression` and `make_multitask_classification`."""

import pickle
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from mttab.datasets import make_multitask, make_multitask_classification, make_multitask_regression

MAKERS = [make_multitask, make_multitask_regression, make_multitask_classification]


def draw(**arguments):
    return make_multitask(**{"n_samples": 200, "n_features": 8, "n_tasks": 4, "random_state": 0} | arguments)


def bunch_of(**arguments):
    return draw(return_bunch=True, **arguments)


def test_the_published_setting_is_the_default():
    bunch = make_multitask_regression(100, return_bunch=True, random_state=0)
    assert bunch.data.shape == (100, 32) and bunch.target.shape == (100, 7)
    np.testing.assert_array_equal(bunch.degree, [1, 3, 2, 3, 4, 2, 3])
    np.testing.assert_array_equal(bunch.noise_sd, np.full(7, 0.01))
    np.testing.assert_allclose(bunch.correlation_of_weights[np.triu_indices(7, 1)], 0.4, atol=1e-10)


def test_labels_are_the_stated_function_of_features_and_weights():
    bunch = bunch_of(task_types="regression", noise=0.0, degree=[1, 2, 3, 4])
    z = bunch.data.to_numpy() @ bunch.weights.T
    expected = np.column_stack([sum(z[:, t] ** k for k in range(1, t + 2)) for t in range(4)])
    np.testing.assert_allclose(bunch.target.to_numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(bunch.noise_free, expected, atol=1e-10)


@pytest.mark.parametrize("maker", MAKERS)
def test_same_seed_same_data_and_another_seed_other_data(maker):
    arguments = {"missing_fraction": 0.2, "n_nuisance": 2, "n_categorical": 2}
    first, again, other = (maker(50, random_state=seed, **arguments) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert not np.array_equal(first[0]["x0"], other[0]["x0"])


@pytest.mark.parametrize(
    "change",
    [
        {"noise": 0.5},
        {"noise": [0.0, 0.1, 0.2, 0.3], "noise_unit": "label_sd"},
        {"task_types": "binary"},
        {"class_balance": 0.2},
        {"n_classes": 5},
        {"missing_fraction": 0.3},
        {"degree": [1, 1, 1, 4]},
        {"n_nuisance": 3},
        {"n_categorical": 3},
        {"correlation": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_knobs_are_independent(change):
    plain, changed = bunch_of(), bunch_of(**change)
    informative = [f"x{j}" for j in range(8)]
    pd.testing.assert_frame_equal(plain.data[informative], changed.data[informative])
    if "correlation" not in change:
        np.testing.assert_array_equal(plain.weights, changed.weights)
        np.testing.assert_array_equal(plain.correlation_requested, changed.correlation_requested)
    if not {"correlation", "degree"} & set(change):
        np.testing.assert_array_equal(plain.noise_free, changed.noise_free)
    if {"missing_fraction", "n_nuisance", "n_categorical"} & set(change):
        observed = changed.target.notna()
        pd.testing.assert_frame_equal(plain.target.where(observed), changed.target.where(observed), check_dtype=False)


def test_the_degree_and_noise_of_one_task_leave_the_labels_of_others_alone():
    plain = draw(task_types="regression", degree=2, noise=0.1)[1]
    changed = draw(task_types="regression", degree=[2, 4, 2, 2], noise=[0.1, 0.1, 0.9, 0.1])[1]
    pd.testing.assert_frame_equal(plain[["y0", "y3"]], changed[["y0", "y3"]])
    assert not np.allclose(plain["y1"], changed["y1"]) and not np.allclose(plain["y2"], changed["y2"])


@pytest.mark.parametrize(
    "probe", [Ridge(), HistGradientBoostingRegressor(max_iter=50, random_state=0)], ids=["ridge", "boosting"]
)
def test_a_higher_degree_is_harder_for_a_fixed_probe_and_leaves_the_request_alone(probe):
    errors, requests = [], []
    for degree in (1, 2, 3, 4):
        bunch = make_multitask_regression(2000, 6, 3, degree=[1, degree, 1], return_bunch=True, random_state=0)
        X_test, Y_test = bunch.sample(2000)
        prediction = probe.fit(bunch.data, bunch.target["y1"]).predict(X_test)
        errors.append(np.sqrt(np.mean((prediction - Y_test["y1"]) ** 2)))
        requests.append(bunch.correlation_requested)
        np.testing.assert_allclose(bunch.correlation_of_weights, requests[0], atol=1e-10)
    assert errors == sorted(errors) and errors[-1] > 2.0 * errors[0]
    assert all(np.array_equal(request, requests[0]) for request in requests)


def test_noise_has_the_stated_size_in_either_unit():
    absolute = bunch_of(n_samples=20_000, task_types="regression", noise=[0.0, 0.5, 1.0, 2.0])
    residual = (absolute.target - absolute.noise_free).std().to_numpy()
    np.testing.assert_allclose(residual, [0.0, 0.5, 1.0, 2.0], rtol=0.03, atol=1e-12)
    relative = bunch_of(
        n_samples=20_000, task_types="regression", noise=0.3, noise_unit="label_sd", degree=[1, 2, 3, 3]
    )
    ratio = (relative.target - relative.noise_free).std() / relative.noise_free.std(axis=0)
    np.testing.assert_allclose(ratio, 0.3, rtol=0.1)


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0.05, 0.95),
    degree=st.integers(1, 5),
    noise=st.sampled_from([0.0, 0.01, 1.0]),
    seed=st.integers(0, 99),
)
def test_classes_have_the_balance_asked_for(share, degree, noise, seed):
    rest = 1.0 - share
    _, Y = make_multitask(
        20_000, 2, task_types=["binary", "multiclass"], degree=degree, noise=noise, n_classes=3,
        class_balance=[share, [rest / 4, share, 3 * rest / 4]], as_frame=False, random_state=seed,
    )  # fmt: skip
    for y, wanted in ((Y[:, 0], [rest, share]), (Y[:, 1], [rest / 4, share, 3 * rest / 4])):
        observed = np.bincount(y.astype(int), minlength=len(wanted)) / len(y)
        np.testing.assert_allclose(observed, wanted, atol=5.5 * np.sqrt(0.25 / len(y)))


def test_classes_are_balanced_by_default_and_ordered_by_the_score():
    bunch = make_multitask_classification(20_000, n_tasks=2, n_classes=4, noise=0.0, return_bunch=True, random_state=0)
    for t in range(2):
        y = bunch.target[f"y{t}"].to_numpy()
        np.testing.assert_allclose(np.bincount(y) / len(y), 0.25, atol=0.015)
        assert all(bunch.noise_free[y == k, t].max() <= bunch.noise_free[y == k + 1, t].min() for k in range(3))


def test_dtypes_tell_what_a_label_is():
    _, Y = draw(task_types=["regression", "binary", "multiclass", "binary"], missing_fraction=[0.5, 0.5, 0.5, 0.0])
    assert Y["y0"].dtype == np.float64
    assert set(Y["y1"].dropna()) == {0, 1} and Y["y1"].isna().any()
    assert isinstance(Y["y2"].dtype, pd.CategoricalDtype) and Y["y2"].isna().any()
    assert Y["y3"].dtype == np.int64
    assert draw(as_frame=False)[1].dtype == np.float64
    assert make_multitask_classification(20, as_frame=False, random_state=0)[1].dtype == np.int64


def test_arrays_are_the_frame_in_numbers():
    arguments = {"n_nuisance": 2, "n_categorical": 2, "missing_fraction": 0.2}
    X, Y = draw(**arguments)
    X_array, Y_array = draw(as_frame=False, **arguments)
    for j, name in enumerate(X):
        column = X[name].cat.codes if X[name].dtype == "category" else X[name]
        np.testing.assert_array_equal(X_array[:, j], column)
    for t, name in enumerate(Y):
        np.testing.assert_array_equal(Y_array[:, t], Y[name].to_numpy(dtype=float, na_value=np.nan))


def test_task_types_take_turns_by_default_and_may_be_one_for_all():
    assert bunch_of().task_types == ["regression", "binary", "multiclass", "regression"]
    assert bunch_of(task_types="binary").task_types == ["binary"] * 4
    assert make_multitask_classification(10, n_classes=[2, 3], return_bunch=True).task_types == ["binary", "multiclass"]


@pytest.mark.parametrize(
    "argument",
    [{"degree": [1, 2, 3]}, {"correlation": np.eye(3)}, {"noise": [0, 0, 1]}, {"missing_fraction": [0, 0, 0.1]}],
    ids=lambda argument: next(iter(argument)),
)
@pytest.mark.parametrize("maker", MAKERS)
def test_the_number_of_tasks_follows_the_arguments(maker, argument):
    assert maker(10, random_state=0, **argument)[1].shape == (10, 3)


def test_labels_are_missing_at_the_stated_rate_and_independently():
    fractions = np.array([0.0, 0.1, 0.5, 0.9])
    _, Y = draw(n_samples=20_000, missing_fraction=fractions)
    missing = Y.isna().to_numpy()
    np.testing.assert_allclose(missing.mean(axis=0), fractions, atol=0.015)
    assert abs(np.corrcoef(missing[:, 1], missing[:, 2])[0, 1]) < 0.03


def test_nuisance_features_are_unrelated_to_features_and_labels():
    bunch = bunch_of(n_samples=20_000, n_nuisance=3)
    nuisance = bunch.data[["nuisance0", "nuisance1", "nuisance2"]].to_numpy()
    others = np.column_stack([bunch.data[[f"x{j}" for j in range(8)]].to_numpy(), bunch.noise_free])
    correlations = np.corrcoef(np.column_stack([nuisance, others]), rowvar=False)[:3, 3:]
    assert np.abs(correlations).max() < 0.04


def test_categorical_features_tell_the_interval_of_a_feature():
    X, _ = draw(n_samples=20_000, n_categorical=2, n_levels=4)
    edges = norm.ppf([0.25, 0.5, 0.75])
    for j in range(2):
        pairs = {(b, level) for b, level in zip(np.searchsorted(edges, X[f"x{j}"]), X[f"category{j}"], strict=True)}
        assert len(pairs) == 4  # each level is one interval, each interval one level
        np.testing.assert_allclose(X[f"category{j}"].value_counts(normalize=True), 0.25, atol=0.02)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_sample_has_the_same_tasks_fresh_rows_and_all_labels(maker):
    bunch = maker(100, missing_fraction=0.5, n_nuisance=1, n_categorical=1, return_bunch=True, random_state=0)
    first, second = bunch.sample(100, return_bunch=True), bunch.sample(100, return_bunch=True)
    rows = [set(b.data["x0"]) for b in (bunch, first, second)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    for fresh in (first, second):
        assert not fresh.target.isna().any().any()
        assert list(fresh.data.columns) == list(bunch.data.columns)
        np.testing.assert_array_equal(fresh.weights, bunch.weights)
        z = fresh.data[[f"x{j}" for j in range(32)]].to_numpy() @ bunch.weights.T
        np.testing.assert_allclose(fresh.noise_free[:, 0], z[:, 0], atol=1e-10)
    levels = [b.data.groupby("category0", observed=True)["x0"].mean() for b in (bunch, first)]
    np.testing.assert_array_equal(levels[0].argsort(), levels[1].argsort())


def test_samples_repeat_with_the_seed_and_after_pickle():
    bunch, again = bunch_of(), bunch_of()
    thawed = pickle.loads(pickle.dumps(bunch))
    X, Y = bunch.sample(30)
    for other in (again, thawed):
        X_other, Y_other = other.sample(30)
        pd.testing.assert_frame_equal(X, X_other)
        pd.testing.assert_frame_equal(Y, Y_other)
    assert not set(bunch.data["x0"]) & set(bunch.sample(200, random_state=0)[0]["x0"])


def test_more_rows_begin_with_the_same_rows():
    few, many = draw(n_samples=100), draw(n_samples=3000)
    for a, b in zip(few, many, strict=True):
        pd.testing.assert_frame_equal(a, b[:100])


def test_a_million_rows_take_less_than_three_seconds():
    times = []
    for _ in range(2):  # the better of two: the machine may be busy
        start = time.process_time()
        X, Y = make_multitask_regression(1_000_000, 32, 7, random_state=0)
        times.append(time.process_time() - start)
    assert X.shape == (1_000_000, 32) and Y.shape == (1_000_000, 7)
    assert min(times) < 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples=0 must be a whole number of at least 1"),
        ({"n_tasks": 2.0}, "n_tasks=2.0"),
        ({"degree": 0}, "degree=0 must be between 1 and 20"),
        ({"degree": [1, 2]}, r"degree must be .* one entry per task \(4\)"),
        ({"degree": 1.5}, "degree=1.5 must be a whole number"),
        ({"noise": -0.1}, "noise=-0.1 must be at least 0"),
        ({"noise_unit": "percent"}, "noise_unit='percent'"),
        ({"noise": float("inf")}, "noise=inf must be finite"),
        ({"noise": None}, "noise=None must be finite"),
        ({"n_tasks": None, "degree": []}, r"degree must be .* one entry per task \(7\), got shape \(0,\)"),
        ({"missing_fraction": 1.0}, "missing_fraction=1.0 must be between 0 and 1, and less than 1"),
        ({"task_types": 3}, "task_types=3 must be one of"),
        ({"task_types": "ordinal"}, "task_types='ordinal' must be one of"),
        ({"task_types": ["binary"]}, "task_types must be one type or 4"),
        ({"n_classes": 1}, "n_classes=1"),
        ({"class_balance": 1.5}, "class_balance=1.5 of task 1 must be a number between 0 and 1"),
        ({"class_balance": [None, None, [0.5, 0.4], None]}, "of task 2 must be 3 positive shares that sum to 1"),
        ({"class_balance": [0.5, 0.5]}, r"must be a number or a sequence with one entry per task \(4\)"),
        ({"class_balance": "even"}, "class_balance='even' must be a number or a sequence"),
        ({"class_balance": {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}}, "class_balance={0: .* must be a number or a sequence"),
        ({"class_balance": [None, "half", None, None]}, "class_balance='half' of task 1 must be a number between"),
        ({"class_balance": 0.3, "task_types": "multiclass"}, "class_balance=0.3 is the share .* but there are none"),
        ({"n_nuisance": -1}, "n_nuisance=-1"),
        ({"n_levels": 1}, "n_levels=1"),
        ({"n_categorical": True}, "n_categorical=True"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(**arguments)
