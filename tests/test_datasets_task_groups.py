"""Promises of `make_task_groups`."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mttab.datasets import make_task_groups


def scores_at(bunch, X):
    """Noise-free scores of every task at the same rows, shape (n_tasks, n_rows)."""
    return np.array([function(X) for function in bunch.sample.__self__.functions])


@pytest.fixture(scope="module")
def grid():
    return np.random.default_rng(7).uniform(-1.0, 1.0, (400, 5))


def test_a_frame_holds_the_features_and_the_task_of_each_row():
    X, y = make_task_groups(20, n_features=3, group_sizes=(2, 1), random_state=0)
    assert list(X.columns) == ["x0", "x1", "x2", "task"]
    assert X["task"].value_counts().to_dict() == {0: 20, 1: 20, 2: 20}
    assert isinstance(y, pd.Series) and y.index.equals(X.index)
    assert X[["x0", "x1", "x2"]].abs().max().max() <= 1.0


def test_arrays_are_the_frame_with_the_task_in_the_last_column():
    X, y = make_task_groups(20, random_state=0)
    X_array, y_array = make_task_groups(20, random_state=0, as_frame=False)
    np.testing.assert_array_equal(X_array, X.to_numpy())
    np.testing.assert_array_equal(y_array, y.to_numpy())


def test_same_seed_same_data_and_another_seed_other_data():
    for seed in (3, np.random.SeedSequence(3)):
        X, y = make_task_groups(30, random_state=seed)
        X_again, y_again = make_task_groups(30, random_state=seed)
        pd.testing.assert_frame_equal(X, X_again)
        pd.testing.assert_series_equal(y, y_again)
    first, second = (make_task_groups(30, random_state=np.random.default_rng(3))[1] for _ in range(2))
    pd.testing.assert_series_equal(first, second)
    assert not np.array_equal(y, make_task_groups(30, random_state=4)[1])


def test_share_1_makes_the_tasks_of_a_group_one_function(grid):
    bunch = make_task_groups(10, group_sizes=(3, 2), shared_share=1.0, return_bunch=True, random_state=0)
    scores = scores_at(bunch, grid)
    np.testing.assert_array_equal(scores[0], scores[2])
    np.testing.assert_array_equal(scores[3], scores[4])
    assert np.abs(scores[0] - scores[3]).max() > 0.1


def test_share_0_makes_tasks_unrelated_to_their_group(grid):
    one_group = make_task_groups(10, group_sizes=(5,), shared_share=0.0, return_bunch=True, random_state=0)
    no_group = make_task_groups(10, group_sizes=(1,) * 5, shared_share=0.0, return_bunch=True, random_state=0)
    np.testing.assert_array_equal(scores_at(one_group, grid), scores_at(no_group, grid))


def test_a_score_is_the_stated_mixture(grid):
    shared, own, mixed = (
        scores_at(make_task_groups(10, shared_share=c, return_bunch=True, random_state=0), grid) for c in (1, 0, 0.7)
    )
    np.testing.assert_allclose(mixed, 0.7 * shared + 0.3 * own, atol=1e-12)


def test_shared_share_may_differ_per_task(grid):
    share = [1.0, 1.0, 0.0]
    bunch = make_task_groups(10, group_sizes=(3,), shared_share=share, return_bunch=True, random_state=0)
    scores = scores_at(bunch, grid)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 0.1


def test_outlier_tasks_are_those_outside_the_largest_group():
    bunch = make_task_groups(5, group_sizes=(2, 4, 4, 1), return_bunch=True, random_state=0)
    np.testing.assert_array_equal(bunch.outlier_tasks, [0, 1, 10])
    np.testing.assert_array_equal(bunch.task_group, [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3])


def test_scores_have_mean_0_and_variance_1_over_draws():
    values = [
        scores_at(make_task_groups(1, group_sizes=(20,), shared_share=0.0, return_bunch=True, random_state=s), x)
        for s, x in enumerate(np.random.default_rng(0).uniform(-1, 1, (30, 1, 5)))
    ]
    assert abs(np.mean(values)) < 0.15
    assert abs(np.var(values) - 1.0) < 0.2


def test_a_larger_length_scale_is_smoother():
    line = np.zeros((200, 5))
    line[:, 0] = np.linspace(-1, 1, 200)
    roughness = []
    for length_scale in (0.1, (0.2, 0.3), 1.0):
        bunch = make_task_groups(
            5, group_sizes=(10,), shared_share=0.0, length_scale=length_scale, return_bunch=True, random_state=0
        )
        roughness.append(np.mean(np.diff(scores_at(bunch, line), axis=1) ** 2))
    assert roughness[0] > roughness[1] > roughness[2]


def test_noise_changes_the_labels_only():
    quiet = make_task_groups(50, return_bunch=True, random_state=0)
    noisy = make_task_groups(50, noise=0.3, return_bunch=True, random_state=0)
    pd.testing.assert_frame_equal(quiet.data, noisy.data)
    np.testing.assert_array_equal(quiet.noise_free, noisy.noise_free)
    np.testing.assert_array_equal(quiet.target, quiet.noise_free)
    assert np.std(noisy.target - noisy.noise_free) == pytest.approx(0.3, rel=0.15)


def test_noise_of_one_task_leaves_the_others_alone():
    bunch = make_task_groups(50, group_sizes=(3,), noise=[0.0, 0.5, 0.0], return_bunch=True, random_state=0)
    is_noisy = bunch.target.to_numpy() != bunch.noise_free
    assert set(bunch.task[is_noisy]) == {1}


def test_relative_noise_is_a_fraction_of_the_label_sd():
    bunch = make_task_groups(
        2000, group_sizes=(4,), noise=0.5, noise_unit="label_sd", return_bunch=True, random_state=0
    )
    for t in range(4):
        assert bunch.noise_sd[t] == pytest.approx(0.5 * bunch.noise_free[bunch.task == t].std(), rel=0.1)


def test_rows_per_task_may_differ_and_do_not_touch_other_tasks():
    short = make_task_groups([10, 20, 5], group_sizes=(3,), shuffle=False, random_state=0)
    longer = make_task_groups([10, 20, 50], group_sizes=(3,), shuffle=False, random_state=0)
    pd.testing.assert_frame_equal(short[0][:30], longer[0][:30])
    pd.testing.assert_series_equal(short[1][:30], longer[1][:30])
    assert len(longer[0]) == 80


def test_shuffle_changes_the_order_only():
    X, y = make_task_groups(20, shuffle=False, random_state=0)
    X_shuffled, y_shuffled = make_task_groups(20, random_state=0)
    assert X["task"].is_monotonic_increasing and not X_shuffled["task"].is_monotonic_increasing
    columns = list(X.columns)
    pd.testing.assert_frame_equal(
        X.assign(y=y).sort_values(columns, ignore_index=True),
        X_shuffled.assign(y=y_shuffled).sort_values(columns, ignore_index=True),
    )


def test_binary_is_the_sign_where_both_classes_are_frequent():
    bunch = make_task_groups(task_type="binary", return_bunch=True, random_state=1)
    has_sign_cut = bunch.cuts[:, 0] == 0.0
    assert has_sign_cut.any()
    rows = has_sign_cut[bunch.task]
    np.testing.assert_array_equal(bunch.target[rows], bunch.noise_free[rows] > 0.0)


@settings(max_examples=25, deadline=None)
@example(seed=0, n_classes=4, fraction=0.78515625, shared_share=0.9)  # no whole draw has it
@example(seed=3, n_classes=4, fraction=1.0, shared_share=0.0)
@example(seed=0, n_classes=3, fraction=1.0, shared_share=0.0)  # three thirds of 100 rows
@given(
    seed=st.integers(0, 10_000),
    n_classes=st.integers(2, 4),
    fraction=st.floats(0.0, 1.0),
    shared_share=st.sampled_from([0.0, 0.9, 1.0]),
)
def test_every_class_has_its_share_in_every_task(seed, n_classes, fraction, shared_share):
    min_class_share = fraction / n_classes
    X, y = make_task_groups(
        100, 2, (3, 1), shared_share=shared_share, n_fourier=50, task_type="multiclass", n_classes=n_classes,
        min_class_share=min_class_share, random_state=seed,
    )  # fmt: skip
    counts = pd.crosstab(X["task"], y).reindex(columns=range(n_classes), fill_value=0)
    wanted = np.ceil(min_class_share * 100 - 1e-9)
    assert counts.to_numpy().min() >= (wanted if wanted * n_classes <= 100 else np.floor(min_class_share * 100))


def test_task_type_changes_the_labels_only():
    regression = make_task_groups(200, min_class_share=0.0, return_bunch=True, random_state=0)
    binary = make_task_groups(200, min_class_share=0.0, task_type="binary", return_bunch=True, random_state=0)
    pd.testing.assert_frame_equal(regression.data, binary.data)
    np.testing.assert_array_equal(regression.target > 0, binary.target == 1)


def test_a_sample_has_the_same_functions_and_fresh_rows(grid):
    bunch = make_task_groups(50, task_type="binary", return_bunch=True, random_state=0)
    first, second = bunch.sample(50, return_bunch=True), bunch.sample(50, return_bunch=True)
    for fresh in (first, second):
        np.testing.assert_array_equal(scores_at(fresh, grid), scores_at(bunch, grid))
        np.testing.assert_array_equal(fresh.cuts, bunch.cuts)
    rows = [{tuple(row) for row in b.data.to_numpy()} for b in (bunch, first, second)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    for task, function in enumerate(first.sample.__self__.functions):
        x = first.data.loc[first.task == task, first.feature_names].to_numpy()
        np.testing.assert_allclose(first.noise_free[first.task == task], function(x), atol=1e-12)


def test_samples_repeat_with_the_seed_and_after_pickle():
    bunch = make_task_groups(20, return_bunch=True, random_state=0)
    again = make_task_groups(20, return_bunch=True, random_state=0)
    thawed = pickle.loads(pickle.dumps(bunch))
    X, y = bunch.sample(30)
    for other in (again, thawed):
        X_other, y_other = other.sample(30)
        pd.testing.assert_frame_equal(X, X_other)
        pd.testing.assert_series_equal(y, y_other)
    pd.testing.assert_frame_equal(bunch.sample(5, random_state=1)[0], bunch.sample(5, random_state=1)[0])
    train = {tuple(row) for row in bunch.data.to_numpy()}
    assert not train & {tuple(row) for row in bunch.sample(20, random_state=0)[0].to_numpy()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_sizes": ()}, "group_sizes"),
        ({"group_sizes": (3, 0)}, "group_sizes"),
        ({"n_samples": [10, 20]}, "n_samples must be .* one entry per task \\(10\\)"),
        ({"n_samples": 2.5}, "n_samples=2.5 must be a whole number"),
        ({"n_features": 0}, "n_features=0"),
        ({"shared_share": 1.2}, "shared_share=1.2 must be between 0 and 1"),
        ({"length_scale": (0.5, 0.1)}, "length_scale"),
        ({"length_scale": (1, 2, 3)}, "length_scale"),
        ({"length_scale": "smooth"}, "length_scale='smooth' must be a positive number or a pair"),
        ({"noise": -1.0}, "noise=-1.0 must be at least 0"),
        ({"noise": "high"}, "noise='high'"),
        ({"noise_unit": "sd"}, "noise_unit='sd' must be one of 'absolute', 'label_sd'"),
        ({"task_type": "ranking"}, "task_type='ranking'"),
        ({"task_type": "multiclass", "n_classes": 5, "min_class_share": 0.3}, "min_class_share=0.3"),
        ({"task_type": "multiclass", "n_classes": 1}, "n_classes=1"),
        ({"task_type": "binary", "min_class_share": None}, "min_class_share=None must be a number between 0 and 1/2"),
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": "seed"}, "random_state='seed'"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task_groups(**arguments)
