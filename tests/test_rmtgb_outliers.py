"""Planted outlier tasks are found, none is found where none was planted, and looking for them costs nothing."""

from functools import cache

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

ESTIMATORS = {"regression": RMTGBRegressor, "binary": RMTGBClassifier}
N_FEW, N_MANY = 3, 50
FEW = pytest.param(N_FEW, id="few draws")
MANY = pytest.param(N_MANY, id="many draws", marks=pytest.mark.slow)


@cache
def outlier_scores(task_type, group_sizes, seed):
    """Score of each task of one draw, the planted ones last. The task block comes after them and is left out."""
    X, y = make_task_groups(300, n_features=5, group_sizes=group_sizes, task_type=task_type, random_state=seed)
    rounds = {"max_iter_shared": 200, "max_iter_partition": 200, "max_iter_task": 0}
    model = ESTIMATORS[task_type](task_column="task", random_state=0, **rounds).fit(X, y)
    assert model.tasks_.tolist() == list(range(10))
    return model.outlier_score_


@pytest.mark.parametrize("n_draws", [FEW, MANY])
@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_outlier_scores_rank_the_planted_tasks_first(task_type, n_draws):
    planted = np.arange(10) >= 8
    auroc = np.array([roc_auc_score(planted, outlier_scores(task_type, (8, 2), seed)) for seed in range(n_draws)])
    assert auroc.mean() >= 0.95
    assert (auroc < 0.8).sum() <= n_draws // 20


@pytest.mark.parametrize("n_draws", [FEW, MANY])
@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_the_planted_tasks_score_above_one_half_and_the_others_below(task_type, n_draws):
    wrong = {}
    for seed in range(n_draws):
        score = outlier_scores(task_type, (8, 2), seed)
        if not ((score[8:] > 0.5).all() and (score[:8] < 0.5).all()):
            wrong[seed] = score.round(2).tolist()
    assert wrong == {}


@pytest.mark.parametrize("n_draws", [FEW, MANY])
@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_no_task_scores_above_one_half_where_none_was_planted(task_type, n_draws):
    highest = [outlier_scores(task_type, (10,), seed).max() for seed in range(n_draws)]
    assert max(highest) < 0.5


@pytest.mark.parametrize(
    "n_draws", [pytest.param(2, id="few draws"), pytest.param(20, id="many draws", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_without_outliers_the_partition_block_costs_at_most_1_percent(task_type, n_draws):
    log_ratios = []
    for seed in range(n_draws):
        bunch = make_task_groups(300, group_sizes=(10,), task_type=task_type, random_state=seed, return_bunch=True)
        X_new, y_new = bunch.sample(500, random_state=seed)
        errors = []
        for rounds in ({}, {"max_iter_partition": 0}):
            model = ESTIMATORS[task_type](task_column="task", random_state=0, **rounds).fit(bunch.data, bunch.target)
            if task_type == "regression":
                errors.append(root_mean_squared_error(y_new, model.predict(X_new)))
            else:
                errors.append(log_loss(y_new, model.predict_proba(X_new)))
        log_ratios.append(np.log(errors[0] / errors[1]))
    assert np.mean(log_ratios) < np.log(1.01)


@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_the_task_block_leaves_the_outlier_scores_alone(task_type):
    # Enough of every task's own that early stopping leaves it a task tree.
    X, y = make_task_groups(100, shared_share=0.6, task_type=task_type, random_state=0)
    options = {"task_column": "task", "sharing": "blocks", "random_state": 0}
    with_block = ESTIMATORS[task_type](max_iter_task=5, **options).fit(X, y)
    without = ESTIMATORS[task_type](max_iter_task=0, **options).fit(X, y)
    np.testing.assert_array_equal(with_block.outlier_score_, without.outlier_score_)
    assert with_block.n_iter_["task"] > 0


@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_a_seed_does_not_change_who_is_called_an_outlier(task_type):
    X, y = make_task_groups(300, task_type=task_type, random_state=1)
    for early_stopping in (True, False):
        options = {
            "early_stopping": early_stopping,
            "max_iter_task": 0,
            "max_iter_shared": 40,
            "max_iter_partition": 40,
        }
        scores = [
            ESTIMATORS[task_type](task_column="task", random_state=seed, **options).fit(X, y).outlier_score_
            for seed in range(3)
        ]
        for score in scores:
            assert np.flatnonzero(score > 0.5).tolist() == [8, 9]
            if not early_stopping:  # nothing else is random
                np.testing.assert_array_equal(score, scores[0])


@pytest.mark.parametrize("task_type", ESTIMATORS)
def test_sharing_with_a_partition_helps_the_majority_of_tasks_when_there_are_outliers(task_type):
    ratios = []
    for seed in range(2):
        bunch = make_task_groups(300, group_sizes=(8, 2), task_type=task_type, random_state=seed, return_bunch=True)
        X_new, y_new = bunch.sample(500, random_state=seed)
        errors = []
        for rounds in ({}, {"max_iter_partition": 0, "max_iter_task": 0}):  # the second one pools all tasks
            model = ESTIMATORS[task_type](task_column="task", random_state=0, **rounds).fit(bunch.data, bunch.target)
            errors.append(1 - model.score(X_new, y_new))
        ratios.append(errors[0] / errors[1])
    assert np.mean(ratios) < 0.8
