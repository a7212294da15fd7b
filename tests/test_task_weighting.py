"""Weights and gradients of several tasks become one step: what each way promises, with columns and with row tasks."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from mttab import MultiTabNetRegressor
from mttab._core.neural.weighting import AGGREGATORS, MAX_ROW_TASK_PARTS, make_weighting

SMALL = {
    "embedding_dim": 8,
    "n_blocks": 1,
    "mlp_dim": 16,
    "head_dim": 8,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 3,
    "early_stopping": False,
    "batch_size": 64,
    "dropout": 0.0,
    "learning_rate": 0.01,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}


def row_tasks(n=180, n_tasks=3, seed=0):
    """Rows of tasks whose targets contradict each other."""
    rng = np.random.default_rng(seed)
    X, task = rng.normal(size=(n, 4)), np.arange(n) % n_tasks
    return X, X[:, 0] * (1.0 - 2.0 * (task % 2)) + X[:, 1] + 0.1 * rng.normal(size=n), task


def aggregator(name, n):
    pytest.importorskip("torchjd", reason="torchjd is not installed")
    weighting = make_weighting(name, np.ones(n))
    weighting.generator = torch.Generator().manual_seed(0)
    return weighting


@pytest.mark.parametrize("name", AGGREGATORS)
def test_a_task_without_a_label_in_the_batch_changes_nothing(name):
    gradients = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    weighting = aggregator(name, 4)
    without = weighting.combine(gradients)
    weighting.generator.manual_seed(0)
    with_it = weighting.combine(torch.cat([gradients[:1], torch.zeros(1, 12), gradients[1:]]))
    assert torch.equal(with_it, without) and bool((without != 0).any())
    assert torch.equal(weighting.combine(torch.zeros(4, 12)), torch.zeros(12))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradients_that_agree_are_followed(name):
    gradients = torch.tensor([[1.0, 2.0, 0.0]]).repeat(3, 1)
    step = aggregator(name, 3).combine(gradients)
    assert float(torch.cosine_similarity(step, gradients[0], dim=0)) == pytest.approx(1.0, abs=1e-5)


def test_no_task_is_harmed_by_a_step_of_upgrad_where_equal_weights_harm_one():
    gradients = torch.tensor([[4.0, 0.0, 1.0], [-1.0, 0.5, 0.0], [3.0, 0.2, 0.0]])
    equal = make_weighting("equal", np.ones(3)).combine(gradients)
    assert float((gradients @ equal).min()) < 0
    assert float((gradients @ aggregator("upgrad", 3).combine(gradients)).min()) > -1e-4


@pytest.mark.parametrize("name", ["pcgrad", "graddrop"])
def test_aggregators_that_draw_at_random_draw_by_the_seed_of_the_fit_alone(name):
    pytest.importorskip("torchjd", reason="torchjd is not installed")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    Y = X @ rng.normal(size=(4, 4))  # four tasks that pull to all sides
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        net = MultiTabNetRegressor(**SMALL, task_weighting=name).fit(X, Y)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(net.predict(X))
    np.testing.assert_array_equal(*found)


def test_a_step_that_heeds_what_is_unexplained_lowers_the_roots_of_the_losses():
    target = torch.tensor([0.1, 3.0])
    weights = torch.zeros(2, requires_grad=True)
    (weights - target).square().sqrt().sum().backward()
    wanted = weights.grad.clone()
    weighting = make_weighting("equal", np.ones(2))
    weighting.heed(target**2)
    weighting.backward((weights - target).square(), [weights])
    assert torch.allclose(weights.grad / weights.grad[0], wanted / wanted[0])


@pytest.mark.parametrize("name", ["uncertainty", *AGGREGATORS])
def test_ways_that_size_up_the_losses_themselves_heed_nothing(name):
    weighting = make_weighting(name, np.ones(3)) if name == "uncertainty" else aggregator(name, 3)
    losses = torch.tensor([1.0, 0.5, 0.01])
    before = weighting.weighted(losses)
    weighting.heed(losses)
    assert torch.equal(weighting.weighted(losses), before)


def test_row_tasks_which_share_a_column_heed_nothing():
    weighting = make_weighting("equal", np.ones(4), True)
    weighting.heed(torch.tensor([0.01]))
    assert torch.equal(weighting.weighted(torch.ones(4)), torch.full((4,), 0.25))


def test_with_equal_weights_row_tasks_count_by_the_weight_of_their_rows():
    rng = np.random.default_rng(0)
    weight, task, cells = rng.uniform(0.5, 2.0, size=40), rng.integers(0, 3, size=40), rng.random(40)
    by_task = np.append(np.bincount(task, weights=weight), weight.mean())
    weighting = make_weighting("equal", by_task, row_tasks=True).double()
    share = by_task / by_task.sum()
    losses = np.array([(cells * weight)[task == t].sum() / weight.sum() for t in range(4)]) / share
    total = float(weighting.total(torch.as_tensor(losses)))
    assert total == pytest.approx((cells * weight).sum() / weight.sum())


@pytest.mark.parametrize("name", ["uncertainty", *AGGREGATORS])
def test_row_tasks_are_weighted_too(name):
    if name in AGGREGATORS:
        pytest.importorskip("torchjd", reason="torchjd is not installed")
    X, y, task = row_tasks()
    equal = MultiTabNetRegressor(**SMALL).fit(X, y, task=task).predict(X, task=task)
    net = MultiTabNetRegressor(**SMALL, task_weighting=name).fit(X, y, task=task)
    assert np.abs(net.predict(X, task=task) - equal).max() > 1e-4
    for _, of_one in net.history_.groupby("is_companion"):
        assert of_one["train_loss"].is_monotonic_decreasing
    net.partial_fit(X, y, task=np.where(task == 2, 9, task))  # a task that is new has a place, too
    assert np.isfinite(net.predict(X, task=task)).all()


def test_the_learned_variance_of_a_noisy_row_task_is_the_largest():
    X, y, task = row_tasks(n=300)
    y = y + np.where(task == 1, 3.0, 0.0) * np.random.default_rng(1).normal(size=300)
    net = MultiTabNetRegressor(**SMALL | {"max_epochs": 30}, task_weighting="uncertainty").fit(X, y, task=task)
    assert int(net._networks[0].weighting.log_variance[:3].argmax()) == 1


def test_more_row_tasks_than_a_step_can_take_one_by_one_are_dealt_into_groups():
    pytest.importorskip("torchjd", reason="torchjd is not installed")
    X, y, task = row_tasks(n=360, n_tasks=120)
    net = MultiTabNetRegressor(**SMALL, task_weighting="mgda").fit(X, y, task=task)
    assert net._networks[0].weighting.n_parts == MAX_ROW_TASK_PARTS < 120
    assert np.isfinite(net.predict(X, task=task)).all()
