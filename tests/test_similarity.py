"""Tasks that are alike: planted groups are found, none where there are none, whatever the units and the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, silhouette_score

from boosting_inputs import make_grower, split_options, training_rows
from mttab._core.boosting.binning import BinMapper
from mttab._core.boosting.forest import ForestBuilder
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES
from mttab._core.boosting.options import BlockOptions, BoostingOptions
from mttab._core.boosting.rmtgb import boost
from mttab._core.boosting.similarity import (
    LEARNING_RATE,
    MAX_JUDGED_ROWS,
    N_ROUNDS,
    cluster_tasks,
    correlate,
    mean_silhouette,
    task_agreement,
)
from mttab.datasets import make_task_groups

SQUARED = REGRESSION_LOSSES["squared_error"](0.5, 1.0)


def setting(X, task, y, loss=SQUARED, weight=None, mapper=None, n_threads=1):  # type: ignore[no-untyped-def]
    """What the core needs to grow trees on these rows: mapper, rows in task order, grower and base score."""
    weight = np.ones(len(y)) if weight is None else weight
    if mapper is None:
        nothing = np.zeros(len(X), dtype=np.int64)
        mapper = BinMapper().fit(X, nothing.astype(bool), nothing, weight, 0)
    rows = training_rows(mapper.transform(X), task, y, weight)
    layout = mapper.layout(np.zeros(len(X), dtype=np.int64), 0)
    split = split_options(loss.constant_hessian, min_samples_leaf=5.0)
    return mapper, rows, make_grower(rows, layout, split, 8, n_threads=n_threads), loss.base_score(rows.y, rows.weight)


def agreement_of(X, task, y, loss=SQUARED, **options):  # type: ignore[no-untyped-def]
    """`task_agreement` of raw features (n_features, n_rows)."""
    mapper, rows, grower, base = setting(X, task, y, loss, **options)
    in_order = np.ascontiguousarray(X[:, rows.position])
    return task_agreement(rows, in_order, loss, grower, ForestBuilder(mapper, rows.n_tasks), base)


def planted(group_sizes, seed, n=100, **options):  # type: ignore[no-untyped-def]
    """Features (n_features, n_rows), task and y of `make_task_groups`, and the group of each task."""
    options = {"noise": 0.1, "noise_unit": "label_sd"} | options
    bunch = make_task_groups(n, group_sizes=group_sizes, random_state=seed, return_bunch=True, **options)
    X = bunch.data.drop(columns="task").to_numpy().T
    return np.ascontiguousarray(X), bunch.task, bunch.target.to_numpy().astype(float), bunch.task_group


def unrelated(n_tasks=6, n=100, seed=0):  # type: ignore[no-untyped-def]
    """Every task depends on a feature of its own."""
    rng = np.random.default_rng(seed)
    X, task = rng.standard_normal((n_tasks, n_tasks * n)), np.repeat(np.arange(n_tasks), n)
    return X, task, X[task, np.arange(len(task))] + 0.1 * rng.standard_normal(len(task))


def other_tasks(agreement):  # type: ignore[no-untyped-def]
    """Entries off the diagonal, which is on rows that the models have seen."""
    return agreement[~np.eye(len(agreement), dtype=bool)]


# --- agreement --------------------------------------------------------------------------------------------------------


def naive_agreement(X, task, y, loss, weight):  # type: ignore[no-untyped-def]
    """Task by task: a model of its rows alone, and its correlation with the labels of every task."""
    mapper, rows, _, base = setting(X, task, y, loss, weight=weight)
    n_tasks = rows.n_tasks
    out = np.empty((n_tasks, n_tasks))
    for j in range(n_tasks):
        own = task == j
        _, alone, grower, _ = setting(X[:, own], np.zeros(own.sum()), y[own], loss, weight=weight[own], mapper=mapper)
        blocks = (BlockOptions(N_ROUNDS, LEARNING_RATE), BlockOptions(0, 1.0), BlockOptions(0, 1.0))
        level = loss.base_score(alone.y, alone.weight) if loss.is_location else base
        model = boost(
            alone,
            None,
            loss,
            grower,
            ForestBuilder(mapper, 1),
            BoostingOptions(blocks),
            level,
            np.random.default_rng(0),
        )
        for i in range(n_tasks):
            by_content = sorted(np.flatnonzero(rows.task == i), key=lambda row: rows.content_key[row])
            judged_keys = sorted({rows.content_key[row] for row in by_content})[:MAX_JUDGED_ROWS]
            of_task = [row for row in by_content if rows.content_key[row] in judged_keys]
            raw = np.ascontiguousarray(X[:, rows.position[of_task]])
            score = model.forest.score(raw, np.zeros(len(of_task), dtype=np.int32))
            if loss.n_outputs == 1:
                truth = rows.y[of_task][:, None]
            else:
                truth = np.eye(loss.n_outputs)[rows.y[of_task].astype(int)]
            out[i, j] = naive_correlation(score, truth, rows.weight[of_task])
    return out


def naive_correlation(predicted, truth, weight):  # type: ignore[no-untyped-def]
    """Of all outputs at once, each without its own mean."""
    product = of_predicted = of_truth = 0.0
    for k in range(truth.shape[1]):
        p = predicted[:, k] - np.average(predicted[:, k], weights=weight)
        t = truth[:, k] - np.average(truth[:, k], weights=weight)
        product += np.sum(weight * p * t)
        of_predicted += np.sum(weight * p * p)
        of_truth += np.sum(weight * t * t)
    return product / np.sqrt(of_predicted * of_truth) if of_predicted * of_truth > 0 else 0.0


@pytest.mark.parametrize("name", ["squared_error", "two classes", "three classes"])
def test_agreement_is_the_correlation_of_the_model_of_one_task_with_the_labels_of_the_other(name):
    X, task, y, _ = planted((2, 1), 0, n=60)
    n_classes = {"two classes": 2, "three classes": 3}.get(name)
    loss = CLASSIFICATION_LOSSES["log_loss"](n_classes) if n_classes else SQUARED
    if n_classes:
        y = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes)).astype(float)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    expected = naive_agreement(X, task, y, loss, weight)
    np.testing.assert_allclose(agreement_of(X, task, y, loss, weight=weight), expected, rtol=1e-8, atol=1e-8)
    assert np.ptp(other_tasks(expected)) > 0.1


@given(st.lists(st.integers(0, 8), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_correlation_is_that_of_its_twin_and_0_for_constants_and_tasks_without_rows(sizes, n_outputs, seed):
    rng, n, n_models = np.random.default_rng(seed), sum(sizes), len(sizes)
    predicted = rng.integers(-2, 3, (n_models, n, n_outputs)).astype(float)
    truth, weight = rng.integers(-2, 3, (n_outputs, n)).astype(float), rng.uniform(0.5, 2.0, n)
    predicted[0] = 3.0
    start, got = np.concatenate([[0], np.cumsum(sizes)]), np.full((len(sizes), n_models), np.nan)
    correlate(predicted, truth, weight, start, got)
    for t in range(len(sizes)):
        own = slice(start[t], start[t + 1])
        for j in range(n_models):
            values, labels = predicted[j, own], truth[:, own].T
            if sizes[t] == 0 or np.ptp(values, axis=0).max() == 0 or np.ptp(labels, axis=0).max() == 0:
                assert got[t, j] == 0.0
            else:
                assert got[t, j] == pytest.approx(naive_correlation(values, labels, weight[own]), abs=1e-9)
    assert np.all(np.abs(got) <= 1.0 + 1e-9)


@pytest.mark.parametrize("change", ["unit", "level"])
@pytest.mark.parametrize("seed", range(2))
def test_the_unit_and_the_level_of_the_labels_of_a_task_do_not_change_its_agreement(change, seed):
    X, task, y, _ = planted((2, 2), seed)
    changed = np.where(task == 1, 1024.0 * y, y) if change == "unit" else np.where(task == 1, y + 64.0, y)
    np.testing.assert_allclose(agreement_of(X, task, changed), agreement_of(X, task, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "quantile"])
def test_the_level_of_the_labels_of_a_task_hides_no_group_from_a_robust_loss(loss):
    X, task, y, group = planted((3, 2), 0)
    level = np.array([0.0, 100.0, -50.0, 300.0, 5.0])[task]
    found = cluster_tasks(agreement_of(X, task, y + level, REGRESSION_LOSSES[loss](0.5, 1.0)))
    np.testing.assert_array_equal(found, group)


def test_the_order_of_rows_and_the_number_of_threads_do_not_change_agreement():
    X, task, y, _ = planted((2, 2), 0)
    agreement = agreement_of(X, task, y)
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = agreement_of(np.ascontiguousarray(X[:, order]), task[order], y[order])
    np.testing.assert_allclose(shuffled, agreement, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(agreement_of(X, task, y, n_threads=2), agreement)


def test_a_weight_counts_how_often_a_row_is_there():
    X, task, y, _ = planted((2, 1), 0, n=30)
    weight = np.random.default_rng(0).integers(1, 4, len(y))
    rows = np.repeat(np.arange(len(y)), weight)
    repeated = agreement_of(np.ascontiguousarray(X[:, rows]), task[rows], y[rows])
    weighted = agreement_of(X, task, y, weight=weight.astype(float))
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=1e-9)


def test_renaming_tasks_renames_rows_and_columns_of_the_agreement():
    X, task, y, _ = planted((3, 2), 1)
    new_name = np.array([3, 0, 4, 1, 2])
    renamed = agreement_of(X, new_name[task], y)
    np.testing.assert_allclose(renamed[np.ix_(new_name, new_name)], agreement_of(X, task, y), rtol=0, atol=1e-9)


def test_tasks_without_anything_to_learn_agree_with_nobody():
    X, task, y, _ = planted((3,), 0)
    y = np.where(task == 1, 5.0, y)
    agreement = agreement_of(X, task, y)
    assert max(np.abs(agreement[1]).max(), np.abs(agreement[:, 1]).max()) < 1e-9
    assert agreement[0, 2] > 0.3
    # A row per task cannot be correlated.
    assert not agreement_of(X[:, :5], np.arange(5), y[:5]).any()


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_type", ["regression", "binary"])
@pytest.mark.parametrize("seed", range(3))
def test_two_planted_groups_are_recovered(task_type, seed):
    X, task, y, group = planted((6, 4), seed, task_type=task_type)
    loss = CLASSIFICATION_LOSSES["log_loss"](2) if task_type == "binary" else SQUARED
    np.testing.assert_array_equal(cluster_tasks(agreement_of(X, task, y, loss)), group)


@pytest.mark.parametrize("seed", range(3))
def test_five_planted_groups_of_unequal_sizes_are_recovered_and_numbered_from_the_largest(seed):
    X, task, y, group = planted((7, 5, 4, 3, 2), seed)
    found = cluster_tasks(agreement_of(X, task, y))
    assert adjusted_rand_score(group, found) >= 0.9
    assert np.all(np.diff(np.bincount(found)) <= 0)


@pytest.mark.parametrize("seed", range(3))
def test_tasks_that_are_all_alike_have_no_groups(seed):
    X, task, y, _ = planted((6,), seed, shared_share=1.0)
    agreement = agreement_of(X, task, y)
    assert other_tasks(agreement).min() > 0.4
    assert cluster_tasks(agreement) is None


@pytest.mark.parametrize("seed", range(3))
def test_tasks_that_are_all_different_have_no_groups(seed):
    agreement = agreement_of(*unrelated(seed=seed))
    assert np.abs(other_tasks(agreement)).max() < 0.6
    assert cluster_tasks(agreement) is None


def noisy_blocks(group, seed):  # type: ignore[no-untyped-def]
    """Agreement about 0.9 within groups and about 0 between them."""
    noise = np.random.default_rng(seed).uniform(-0.09, 0.09, (len(group), len(group)))
    return 0.9 * (group[:, None] == group) + noise


@settings(max_examples=40)
@given(st.lists(st.integers(2, 6), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_blocks_of_agreement_are_groups_in_any_order_of_the_tasks(sizes, seed):
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    found = cluster_tasks(noisy_blocks(group, seed))
    assert found is not None and adjusted_rand_score(group, found) == 1.0
    # Numbered from the largest group, those of one size by their first task.
    keys = [(-np.sum(found == g), np.flatnonzero(found == g)[0]) for g in range(len(sizes))]
    assert keys == sorted(keys)


@given(n=st.integers(3, 30), k=st.integers(2, 6), has_ties=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_the_mean_silhouette_is_that_of_scikit_learn(n, k, has_ties, seed):
    rng = np.random.default_rng(seed)
    group = np.unique(np.concatenate([[0, 1, 1], rng.integers(k, size=n - 3)]), return_inverse=True)[1]
    distance = rng.integers(3, size=(n, n)).astype(float) if has_ties else rng.random((n, n))
    distance = np.triu(distance, 1) + np.triu(distance, 1).T
    expected = silhouette_score(distance, group, metric="precomputed")
    assert mean_silhouette(distance, group) == pytest.approx(expected, abs=1e-12)


def test_small_differences_between_tasks_that_are_alike_make_no_groups():
    pair = np.kron(np.eye(2), np.ones((2, 2)))
    assert cluster_tasks(0.95 + 0.03 * pair) is None


@pytest.mark.parametrize("n_groups", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("kind", ["alike", "different", "five groups"])
def test_a_given_number_of_groups_is_obeyed_as_far_as_there_are_tasks(kind, n_groups):
    group = {"alike": np.zeros(8), "different": np.arange(8), "five groups": np.array([0, 0, 1, 1, 2, 2, 3, 4])}[kind]
    found = cluster_tasks(noisy_blocks(group, 0), n_groups)
    assert found is not None
    assert len(set(found)) == min(n_groups, 8)
    if kind == "five groups" and n_groups == 5:
        assert adjusted_rand_score(group, found) == 1.0


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_one_task_has_no_groups_and_two_have_them_only_where_asked_for(n_tasks):
    agreement = np.eye(n_tasks)
    assert cluster_tasks(agreement) is None
    if n_tasks == 1:
        assert cluster_tasks(agreement, 2) is None
    else:
        assert cluster_tasks(agreement, 2).tolist() == cluster_tasks(agreement, 5).tolist() == [0, 1]


def test_tasks_that_nothing_tells_apart_are_one_group_and_not_an_error():
    for agreement in (np.zeros((6, 6)), np.ones((6, 6))):
        assert cluster_tasks(agreement) is None
        assert len(set(cluster_tasks(agreement, 3))) <= 3
    X, task, y = unrelated(n=1)
    assert cluster_tasks(agreement_of(X, task, y)) is None
