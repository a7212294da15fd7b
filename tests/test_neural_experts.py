"""Networks of experts as modules: against slow twins, their gradients, and the blocks of rows of one task."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

import naive_experts
from mttab._core.neural.expert_parts import ExpertOptions, ExpertStack, GateDropout, Gates, HiddenDropout
from mttab._core.neural.experts import MMoEModule, PLEModule, SharedBottomModule, STEMModule, TaskExpertModule
from mttab._core.neural.network import Inputs
from mttab._core.neural.stacked import EveryTask, OwnTask, StackedLinear
from mttab._core.neural.tokens import FeatureTokens

MODULES = [SharedBottomModule, MMoEModule, PLEModule, STEMModule, TaskExpertModule]
OPTIONS = {
    "n_features": 4,
    "n_outputs": 2,
    "n_tasks": 3,
    "has_row_tasks": False,
    "width": 3,
    "n_experts": 2,
    "n_task_experts": 2,
    "expert_width": 5,
    "expert_depth": 2,
    "n_layers": 3,
    "activation": "relu",
    "expert_norm": False,
    "gate_width": 0,
    "gate_dropout": 0.0,
    "head_width": 4,
    "dropout": 0.0,
}
VARIANTS = {
    "as published": {},
    "after HoME": {"activation": "swish", "expert_norm": True},
    "deep gates, linear towers": {"gate_width": 3, "head_width": 0},
    "small": {"n_experts": 1, "n_task_experts": 1, "expert_depth": 1, "n_layers": 1, "n_outputs": 1},
    "one task": {"n_tasks": 1},
}
each_module = pytest.mark.parametrize("module_class", MODULES)
of_rows_or_targets = pytest.mark.parametrize("has_row_tasks", [False, True], ids=["targets", "row tasks"])


@pytest.fixture(autouse=True)
def in_double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def make(module_class, **changes):
    """A module in evaluation mode."""
    torch.manual_seed(0)
    options = ExpertOptions(**OPTIONS | changes)
    width = options.width * module_class.n_embeddings(options.n_tasks)
    features = FeatureTokens(3, 1, np.array([0, 5]), np.ones(5), width, "linear")
    return module_class(features, options).eval()


def rows(n=11, n_tasks=0, unseen=()):
    """Three numbers and a category; a row task each where there are `n_tasks`."""
    generator = torch.Generator().manual_seed(1)
    task = torch.randint(n_tasks, (n,), generator=generator) if n_tasks else torch.empty(0, dtype=torch.int64)
    for i in unseen:
        task[i] = n_tasks
    return Inputs(
        torch.randn(n, 3, 1, generator=generator),
        torch.rand(n, 3, generator=generator) < 0.2,
        torch.randint(5, (n, 1), generator=generator),
        task,
    )


# --- against the twins ------------------------------------------------------------------------------------------------


@each_module
@of_rows_or_targets
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_scores_are_those_of_the_slow_twin(module_class, has_row_tasks, variant):
    module = make(module_class, has_row_tasks=has_row_tasks, **VARIANTS[variant])
    n_tasks = module.options.n_tasks
    inputs = rows(n_tasks=n_tasks, unseen=(4, 7)) if has_row_tasks else rows()
    found, made = module(inputs)
    assert made == [] and found.shape == (11, 1 if has_row_tasks else n_tasks, module.options.n_outputs)
    torch.testing.assert_close(found, naive_experts.scores(module, inputs))


@each_module
def test_with_more_tasks_than_rows_and_far_fewer_the_scores_are_those_of_the_slow_twin(module_class):
    for n, n_tasks in ((5, 12), (60, 2)):
        module = make(module_class, has_row_tasks=True, n_tasks=n_tasks)
        inputs = rows(n, n_tasks)
        torch.testing.assert_close(module(inputs)[0], naive_experts.scores(module, inputs))


@each_module
def test_columns_of_y_and_row_tasks_are_the_same_network(module_class):
    """Up to the shared stream of PLE between layers, which with row tasks does not read the other tasks."""
    torch.manual_seed(0)
    targets, own = (make(module_class, has_row_tasks=b, n_layers=1) for b in (False, True))
    inputs = rows(n_tasks=3)
    everything = targets(inputs._replace(task=inputs.task[:0]))[0]
    torch.testing.assert_close(own(inputs)[0][:, 0], everything[torch.arange(11), inputs.task])


@each_module
@of_rows_or_targets
def test_a_row_knows_nothing_of_the_other_rows(module_class, has_row_tasks):
    module = make(module_class, has_row_tasks=has_row_tasks, expert_norm=True)
    inputs = rows(n_tasks=3 if has_row_tasks else 0)
    whole = module(inputs)[0]
    for i in range(11):
        torch.testing.assert_close(module(inputs.take(torch.tensor([i])))[0][0], whole[i])
    before = whole.detach().clone()
    inputs.numeric[0] += 1.0
    after = module(inputs)[0]
    assert torch.equal(after[1:], before[1:]) and not torch.allclose(after[0], before[0])


@each_module
@of_rows_or_targets
def test_the_gates_are_shares_of_the_experts(module_class, has_row_tasks):
    module = make(module_class, has_row_tasks=has_row_tasks)
    inputs = rows(n_tasks=3 if has_row_tasks else 0)
    n_seen = {"MMoEModule": 2, "PLEModule": 4, "STEMModule": 8, "TaskExpertModule": 3}.get(module_class.__name__, 1)
    for layer in range(3 if hasattr(module, "layers") else 1):
        gates = module.gates(inputs, layer)
        n = n_seen - (module.has_memory and layer == 0)
        assert gates.shape == (11, 1 if has_row_tasks else 3, n) and (gates > 0).all()
        torch.testing.assert_close(gates.sum(dim=2), torch.ones(gates.shape[:2]))


@each_module
@of_rows_or_targets
def test_what_the_towers_read_can_be_had(module_class, has_row_tasks):
    module = make(module_class, has_row_tasks=has_row_tasks, head_width=0)
    inputs = rows(n_tasks=3 if has_row_tasks else 0)
    read = module.represent(inputs).unflatten(1, (-1, 5))
    out = module.towers.out
    for i, row in enumerate(read):
        tasks = [int(inputs.task[i])] if has_row_tasks else range(3)
        expected = torch.stack([r @ out.weight[t, 0] + out.bias[t, 0, 0] for r, t in zip(row, tasks, strict=True)])
        torch.testing.assert_close(module(inputs)[0][i], expected)


def test_the_gates_of_mmoe_are_those_of_the_slow_twin():
    module, inputs = make(MMoEModule), rows()
    x = module.features(inputs.numeric, inputs.missing, inputs.codes).flatten(1)
    expected = torch.stack([torch.stack([naive_experts.gate(module.task_gates, t, r) for t in range(3)]) for r in x])
    torch.testing.assert_close(module.gates(inputs, 0), expected)


# --- gradients --------------------------------------------------------------------------------------------------------


@each_module
@of_rows_or_targets
def test_the_gradients_of_one_task_are_those_of_the_slow_twin_but_for_what_stem_blocks(module_class, has_row_tasks):
    module = make(module_class, has_row_tasks=has_row_tasks, n_layers=2, activation="swish")
    inputs, t = rows(n_tasks=3) if has_row_tasks else rows(), 1

    def gradients(scores):
        of_task = scores[inputs.task == t].sum() if has_row_tasks else scores[:, t].sum()
        found = torch.autograd.grad(of_task, list(module.parameters()), allow_unused=True)
        named = zip(module.named_parameters(), found, strict=True)
        return {name: torch.zeros_like(p) if g is None else g for (name, p), g in named}

    found, expected = gradients(module(inputs)[0]), gradients(naive_experts.scores(module, inputs))
    for name, gradient in found.items():
        twin = expected[name]
        if module_class is STEMModule and name.startswith("task_experts"):
            assert (twin[0] != 0).any() and (twin[2] != 0).any(), "without the block they would learn"
            assert (gradient[0] == 0).all() and (gradient[2] == 0).all()
            gradient, twin = gradient[t], twin[t]
            assert (gradient != 0).any()
        elif module_class is STEMModule and name.startswith("features"):
            of_task = gradient.unflatten(-1, (4, -1)).movedim(-2, 0)
            assert (of_task[0] == 0).all() and (of_task[2] == 0).all()
            assert (of_task[t] != 0).any() and (of_task[3] != 0).any()
            gradient, twin = of_task[[t, 3]], twin.unflatten(-1, (4, -1)).movedim(-2, 0)[[t, 3]]
        torch.testing.assert_close(gradient, twin)


@of_rows_or_targets
def test_in_stem_the_loss_of_every_task_moves_the_shared_experts(has_row_tasks):
    module = make(STEMModule, has_row_tasks=has_row_tasks, activation="swish")
    inputs = rows(n_tasks=3) if has_row_tasks else rows()
    for t in range(3):
        scores = module(inputs)[0]
        loss = scores[inputs.task == t].sum() if has_row_tasks else scores[:, t].sum()
        for gradient in torch.autograd.grad(loss, list(module.shared_experts.parameters())):
            assert (gradient != 0).any()


# --- rows of one task -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_tasks"), [(1, 1), (7, 1), (40, 3), (40, 40), (10, 300), (1000, 7), (256, 190)])
def test_blocks_hold_rows_of_one_task_and_give_them_back_in_order(n, n_tasks):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        task = (torch.rand(n, generator=generator) ** 3 * n_tasks).long()  # tasks of very different sizes
        layout = OwnTask(task, n_tasks)
        x = torch.randn(2, n, 3, generator=generator)
        blocks = layout.spread(x)
        assert blocks.shape == (layout.n_blocks, 2, layout.block_size, 3)
        torch.testing.assert_close(layout.gather(blocks[:, 1])[:, 0], x[1], rtol=0, atol=0)
        of_block = layout.pick(torch.arange(n_tasks))[:, None, None].expand(-1, layout.block_size, 1)
        assert torch.equal(layout.gather(of_block)[:, 0, 0], task)
        assert layout.n_blocks * layout.block_size <= 2.5 * n and layout.n_blocks <= 2.5 * n_tasks
        same_size = OwnTask(torch.zeros_like(task), n_tasks)
        assert same_size.n_blocks == layout.n_blocks and same_size.block_size == layout.block_size


def test_where_every_row_goes_to_every_task_nothing_is_copied():
    x = torch.randn(2, 5, 3)
    layout = EveryTask(4, x.device)
    assert layout.spread(x).data_ptr() == x.data_ptr() and layout.pick(x) is x
    assert layout.gather(torch.randn(4, 5, 3)).shape == (5, 4, 3)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 3), (4, 3)])
def test_stacked_maps_are_maps_one_by_one(shape):
    layer = StackedLinear(4, 3, 5, 2)
    x = torch.randn(*shape, 6, 5)
    out = layer(x, EveryTask(4, x.device))
    assert out.shape == (4, 3, 6, 2)
    for g in range(4):
        for m in range(3):
            expected = x[g % shape[0], m % shape[1]] @ layer.weight[g, m] + layer.bias[g, m]
            torch.testing.assert_close(out[g, m], expected)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_normed_expert_is_blind_to_the_scale_of_its_input():
    x = torch.randn(1, 1, 50, 6)
    normed = ExpertStack(1, 4, 6, ExpertOptions(**OPTIONS | {"expert_norm": True, "expert_depth": 1}))
    torch.testing.assert_close(normed(1e6 * x), normed(1e3 * x), rtol=1e-6, atol=1e-6)
    plain = ExpertStack(1, 4, 6, ExpertOptions(**OPTIONS | {"expert_depth": 1}))
    assert not torch.allclose(plain(1000.0 * x), plain(x), rtol=1e-2)


def test_experts_that_a_gate_leaves_out_have_weight_0_and_the_others_grow_in_proportion():
    part = GateDropout(0.5).train()
    part.generator = torch.Generator().manual_seed(0)
    weights = torch.rand(3, 200, 4).softmax(dim=2)
    out = part(weights)
    torch.testing.assert_close(out.sum(dim=2), torch.ones(3, 200))
    share = (out == 0).double().mean()
    assert 0.4 < share < 0.5  # half of them, but for rows that would have lost all
    ratio = out / weights
    kept = torch.where(out > 0, ratio, torch.nan)
    spread = kept.nan_to_num(0).amax(dim=2) - kept.nan_to_num(torch.inf).amin(dim=2)
    torch.testing.assert_close(spread, torch.zeros_like(spread), atol=1e-9, rtol=0)
    assert torch.equal(part.eval()(weights), weights)


def test_dropout_leaves_out_single_units_by_its_own_generator():
    part = HiddenDropout(0.25).train()
    part.generator = torch.Generator().manual_seed(0)
    x = torch.ones(2, 3, 500, 8)
    out = part(x)
    assert set(out.unique().tolist()) == {0.0, 1.0 / 0.75} and 0.22 < (out == 0).double().mean() < 0.28
    assert not torch.equal(out[0, 0], out[0, 1])
    part.generator = torch.Generator().manual_seed(0)
    assert torch.equal(part(x), out) and torch.equal(part.eval()(x), x)


def test_a_gate_is_linear_unless_it_has_hidden_units():
    options = ExpertOptions(**OPTIONS)
    assert sum(p.numel() for p in Gates(3, 6, 2, options).parameters()) == 3 * (6 + 1) * 2
    deep = Gates(3, 6, 2, options._replace(gate_width=5))
    assert sum(p.numel() for p in deep.parameters()) == 3 * ((6 + 1) * 5 + (5 + 1) * 2)


@each_module
@of_rows_or_targets
def test_zeros_are_counted_expert_by_expert(module_class, has_row_tasks):
    module = make(module_class, has_row_tasks=has_row_tasks, n_layers=2)
    inputs = rows(n_tasks=3 if has_row_tasks else 0)
    before = module.zeros(inputs)
    assert ((before > 0) & (before < 1)).any(dim=0).all()
    layer = module.layers[0] if hasattr(module, "layers") else module
    stack = layer.shared_experts if hasattr(layer, "shared_experts") else layer.experts
    with torch.no_grad():
        stack.layers[-1].bias[0, -1] = -1e9
    after = module.zeros(inputs)
    dead = (after == 1).all(dim=0)
    assert dead.sum() == 1
    of_layer = after.shape[1] // (2 if hasattr(module, "layers") else 1)
    assert dead.nonzero().item() == of_layer - 1  # the last shared expert of the first layer
