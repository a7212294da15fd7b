"""Task-wise sharpness-aware minimisation: the step against explicit moves of the weights, and what a fit promises."""

import copy

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from mttab import MultiTabNet, MultiTabNetRegressor
from mttab._core.neural.members import Place
from mttab._core.neural.sharpness import moved, sharpness_aware_gradients
from mttab._core.neural.training import _Run
from mttab._core.neural.weighting import AGGREGATORS, MAX_ROW_TASK_PARTS

SMALL = {
    "embedding_dim": 8,
    "n_heads": 2,
    "n_blocks": 1,
    "mlp_dim": 16,
    "head_dim": 8,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 2,
    "early_stopping": False,
    "batch_size": 64,
    "dropout": 0.0,
    "learning_rate": 0.01,
    "precision": "float64",
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}


def labels(n=120, n_tasks=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, X[:, :n_tasks] * [1.0, -1.0, 1.0][:n_tasks] + 0.5 * X[:, 3:] ** 2 + 0.1 * rng.normal(size=(n, n_tasks))


# --- the step ---------------------------------------------------------------------------------------------------------


def test_on_a_linear_network_the_gradients_are_those_at_weights_moved_by_hand():
    rng = np.random.default_rng(0)
    X, Y, W = rng.normal(size=(20, 3)), rng.normal(size=(20, 2)), rng.normal(size=(2, 3))
    layer = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(W))

    def loss_of(t):
        return ((layer(torch.as_tensor(X)) - torch.as_tensor(Y)) ** 2).mean(dim=0)[t]

    def slope(weights, t):  # of the mean squared error of one output
        out = np.zeros((2, 3))
        out[t] = 2 * (X @ weights[t] - Y[:, t]) @ X / 20
        return out

    plain, flat = sharpness_aware_gradients(loss_of, 2, [layer.weight], [], 0.3)
    for t in range(2):
        gradient = slope(W, t)
        beside = slope(W + 0.3 * gradient / np.sqrt((gradient**2).sum()), t)
        np.testing.assert_allclose(plain[t], gradient.ravel())
        np.testing.assert_allclose(flat[t], (beside - gradient).ravel())
    np.testing.assert_array_equal(layer.weight.detach(), W)


def test_moved_weights_come_back_to_the_last_digit_after_an_error_too():
    parameters = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(4))]
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(ZeroDivisionError), moved(parameters, torch.randn(19), 0.1):
        gone = torch.cat([(p - b).detach().flatten() for p, b in zip(parameters, before, strict=True)])
        assert float(gone.norm()) == pytest.approx(0.1, rel=1e-5)
        raise ZeroDivisionError
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def run_of(X, y, task=None, **options):
    """A training that stands before its first step."""
    net = MultiTabNetRegressor(**SMALL | options).fit(X, y, task=task)
    encoding, rows, _, _ = net._read_training(X, y, None, task, net)
    training = net._encoded_rows(encoding, rows).with_weight_of_1()
    place = Place.of(net._networks[0], net.precision)
    run = _Run(
        net._networks[0],
        place.examples(training),
        None,
        net._training_options(len(X), False, False),
        torch.Generator().manual_seed(0),
        None,
    )
    run.network.module.train()
    return run


def naive_parts(run, rows, part):
    """Gradient of a part, and what it changes by beside the weights; on a copy, with everything written out."""
    module, weighting = copy.deepcopy(run.network.module), copy.deepcopy(run.weighting)
    batch = run.training.take(rows)

    def gradient():
        scores = module(batch.inputs, None, None)[0][:, :, 0]
        cells = (scores - batch.y) ** 2 * batch.weight
        variance = getattr(weighting, "log_variance", torch.zeros(6, dtype=torch.float64))
        weight, n, total = weighting.task_weight, len(rows), 0.0
        for t in range(len(weight)):
            if weighting.row_tasks:  # of five tasks and a sixth of all others; their weights cancel
                loss = cells[batch.inputs.task == t].sum() / (n * run.training.weight.mean()) / weight[t]
            else:
                loss = cells[:, t].sum() / (n * run.training.weight[:, t].mean())
            if t % weighting.n_parts == part:
                total = total + weight[t] * (loss * torch.exp(-variance[t]) + variance[t])
        wanted = [*module.parameters(), *weighting.parameters()]
        found = torch.autograd.grad(total, wanted, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, wanted, strict=True)]

    first = gradient()
    of_module = first[: len(list(module.parameters()))]
    length = torch.sqrt(sum((g**2).sum() for g in of_module))
    with torch.no_grad():
        for parameter, g in zip(module.parameters(), of_module, strict=True):
            parameter += run.options.sam_rho * g / length
    beside = gradient()
    join = [torch.cat([g.flatten() for g in part]) for part in (first, beside)]
    return join[0], join[1] - join[0]


@pytest.mark.parametrize("task_weighting", ["equal", "uncertainty", "mgda", "upgrad"])
@pytest.mark.parametrize("rows_have_tasks", [False, True], ids=["columns", "row tasks"])
def test_loss_gradients_and_flat_gradients_are_combined_separately_and_added(task_weighting, rows_have_tasks):
    if task_weighting in AGGREGATORS:
        pytest.importorskip("torchjd", reason="torchjd is not installed")
    X, Y = labels()
    Y[::7, 0] = np.nan
    source = (X, Y[:, 1], np.arange(120) % 5) if rows_have_tasks else (X, Y, None)
    run = run_of(*source, task_weighting=task_weighting, sam_rho=0.2)
    rows = torch.arange(10, 60)
    before = copy.deepcopy(run.network.module.state_dict())
    run._backward(rows)
    found = torch.cat([p.grad.flatten() for p in run.parameters])
    pairs = [naive_parts(run, rows, part) for part in range(run.weighting.n_parts)]
    plain, flat = (torch.stack(gradients) for gradients in zip(*pairs, strict=True))
    expected = run.weighting.combine(plain) + run.weighting.combine(flat)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert float(flat.norm()) > 1e-3 * float(plain.norm())
    assert all(torch.equal(value, before[name]) for name, value in run.network.module.state_dict().items())


def test_the_same_units_are_left_out_at_the_weights_and_beside_them():
    X, Y = labels()
    run = run_of(X, Y, dropout=0.5, sam_rho=1e-6)
    with run.drawing():
        state = run.generator.get_state()
        run._backward(torch.arange(60))
        sharp = torch.cat([p.grad.flatten() for p in run.parameters])
        run.generator.set_state(state)
        run.options = run.options._replace(sam_rho=0.0)
        run.optimizer.zero_grad()
        run._backward(torch.arange(60))
    plain = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in run.parameters])
    np.testing.assert_allclose(sharp, plain, atol=1e-3 * float(plain.abs().max()))


def test_a_task_without_a_label_in_a_batch_has_no_say():
    X, Y = labels()
    Y[60:, 2] = np.nan
    run = run_of(X, Y, sam_rho=0.2)
    run._backward(torch.arange(60, 120))
    heads = run.network.module.heads
    assert bool((heads.weight_in.grad[2] == 0).all()) and bool((heads.weight_in.grad[1] != 0).any())


# --- a fit ------------------------------------------------------------------------------------------------------------

TABLES = {
    "members": {"n_members": 2},
    "single precision": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "no clipping": {"gradient_clip": 0.0},
    "uncertainty": {"task_weighting": "uncertainty"},
    "row attention": {"sample_attention": True, "sample_attention_dim": 8, "context_size": 30},
    "dropout": {"dropout": 0.2},
}


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("rows_have_tasks", [False, True], ids=["columns", "row tasks"])
def test_it_trains_and_is_the_same_for_the_same_seed(options, rows_have_tasks):
    X, Y = labels()
    y, task = (Y[:, 0], np.arange(120) % 3) if rows_have_tasks else (Y, None)
    options = SMALL | {"sam_rho": 0.1, "max_epochs": 4} | options
    net, again = (MultiTabNet(**options).fit(X, y, task=task) for _ in range(2))
    assert net.history_["train_loss"].iloc[-1] < net.history_["train_loss"].iloc[0]
    np.testing.assert_array_equal(net.predict(X, task=task), again.predict(X, task=task))
    off = MultiTabNet(**options | {"sam_rho": 0.0}).fit(X, y, task=task)
    assert np.abs(off.predict(X, task=task) - net.predict(X, task=task)).max() > 1e-4


def test_hundreds_of_row_tasks_are_dealt_into_groups():
    X, Y = labels(n=400)
    task = np.arange(400) % 190
    net = MultiTabNetRegressor(**SMALL | {"max_epochs": 1}, sam_rho=0.1).fit(X, Y[:, 0], task=task)
    weighting = net._networks[0].weighting
    assert weighting.n_parts == MAX_ROW_TASK_PARTS
    assert np.bincount(weighting.part_of_loss).max() == 12
    assert np.isfinite(net.predict(X, task=task)).all()


@pytest.mark.slow
def test_it_ends_where_the_loss_is_flatter():
    X, Y = labels(n=80)
    sharpness = {}
    for rho in (0.0, 0.3):
        options = {"max_epochs": 60, "weight_averaging": 0.0, "sam_rho": rho}
        run = run_of(X, Y, **options)
        run.options = run.options._replace(sam_rho=0.1)

        def loss_of(t, run=run):
            return run._losses(torch.arange(80), 80)[t]

        parameters = list(run.network.module.parameters())
        rises = []
        for t in range(3):
            gradient = torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss_of(t), parameters, materialize_grads=True)]
            )
            at = float(loss_of(t).detach())
            with moved(parameters, gradient, 0.1):
                rises.append(float(loss_of(t).detach()) - at)
        sharpness[rho] = np.mean(rises)
    assert sharpness[0.3] < 0.8 * sharpness[0.0]
