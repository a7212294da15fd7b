"""Attention: which token and which row sees which, against dense twins, and what that does to whole networks."""

import math

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from mttab import MultiTabNet
from mttab._core.neural.attention import MASKS, FeatureAttention
from mttab._core.neural.members import Place

WIDTH, N_HEADS, N_FEATURES, N_TASKS = 8, 2, 4, 3
each_mask = pytest.mark.parametrize("mask", MASKS)


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)


def untrained(n_tasks=N_TASKS, n_rows=6, **options):
    """A network as it is before the first step, and rows for it."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(n_rows, N_FEATURES)), rng.normal(size=(n_rows, n_tasks))
    X[0, 0] = np.nan
    start = {
        "embedding_dim": WIDTH,
        "n_heads": N_HEADS,
        "mlp_dim": 16,
        "head_dim": 8,
        "direct_dim": 12,
        "n_members": 1,
        "max_epochs": 0,
        "early_stopping": False,
        "sample_attention_dim": 8,
        "n_bins": 4,
        "dropout": 0.0,
        "precision": "float64",
        "device": "cpu",
        "n_jobs": 1,
        "random_state": 0,
    }
    net = MultiTabNet(**(start | options)).fit(X, Y)
    inputs = Place.resolve("cpu", "float64").inputs(net._encoding.encode_features(X), None)
    return net._networks[0], inputs


def untrained_row_attention(**options):
    """Attention over rows, and how wide a row is."""
    (block,) = untrained(sample_attention=True, n_blocks=1, **options)[0].module.blocks
    attention = block.row_attention
    with torch.no_grad():
        for parameter in attention.parameters():  # off a start of ones, and sharp enough to tell rows apart
            parameter += 0.3 * torch.randn_like(parameter)
    return attention, WIDTH * (N_FEATURES + N_TASKS)


# --- twins ------------------------------------------------------------------------------------------------------------


def allowed_pairs(d, t, mask):
    """(d + t, d + t) bool: may this query see this key?"""
    allowed = torch.ones(d + t, d + t, dtype=torch.bool)
    for query in range(d + t):
        for key in range(d + t):
            if mask in ("task_to_task", "both") and query >= d and key >= d and query != key:
                allowed[query, key] = False
            if mask in ("feature_to_task", "both") and query < d and key >= d:
                allowed[query, key] = False
    return allowed


def dense_attention(attention, tokens, allowed):
    """Weights (n, heads, L, L) and output (n, L, width) of a plain masked multi-head attention."""
    width = tokens.shape[2]
    key_weight, value_weight = attention.key_value.weight.split(width)
    key_bias, value_bias = attention.key_value.bias.split(width)
    query = tokens @ attention.query.weight.T + attention.query.bias
    key, value = tokens @ key_weight.T + key_bias, tokens @ value_weight.T + value_bias
    weights, read = [], []
    for columns in torch.arange(width).chunk(attention.n_heads):
        scores = torch.einsum("nqe,nke->nqk", query[..., columns], key[..., columns]) / math.sqrt(len(columns))
        weight = scores.masked_fill(~allowed, -math.inf).softmax(dim=2)
        weights.append(weight)
        read.append(weight @ value[..., columns])
    out = torch.cat(read, dim=2) @ attention.out.weight.T + attention.out.bias
    return torch.stack(weights, dim=1), out


# --- tokens of a row --------------------------------------------------------------------------------------------------


@each_mask
@pytest.mark.parametrize("n_tasks", [1, N_TASKS])
def test_the_attention_of_a_row_is_the_masked_softmax_over_all_pairs(mask, n_tasks):
    attention = FeatureAttention(WIDTH, N_HEADS, n_tasks, mask)
    tokens = torch.randn(5, N_FEATURES + n_tasks, WIDTH)
    weights, expected = dense_attention(attention, tokens, allowed_pairs(N_FEATURES, n_tasks, mask))
    torch.testing.assert_close(attention(tokens, only_tasks=False), expected)
    torch.testing.assert_close(attention(tokens, only_tasks=True), expected[:, N_FEATURES:])
    torch.testing.assert_close(attention.task_weights(tokens), weights[:, :, N_FEATURES:].mean(dim=1))


@each_mask
def test_a_forbidden_pair_has_no_weight_and_no_gradient_and_every_other_pair_has_both(mask):
    attention = FeatureAttention(WIDTH, N_HEADS, N_TASKS, mask)
    tokens = torch.randn(1, N_FEATURES + N_TASKS, WIDTH)
    allowed = allowed_pairs(N_FEATURES, N_TASKS, mask)

    weights = attention.task_weights(tokens)[0]
    assert torch.equal(weights != 0, allowed[N_FEATURES:])

    jacobian = torch.autograd.functional.jacobian(lambda x: attention(x[None], only_tasks=False)[0], tokens[0])
    assert torch.equal(jacobian.abs().sum(dim=(1, 3)) != 0, allowed)
    only_tasks = torch.autograd.functional.jacobian(lambda x: attention(x[None], only_tasks=True)[0], tokens[0])
    torch.testing.assert_close(only_tasks, jacobian[N_FEATURES:])


@each_mask
def test_the_gradients_of_the_weights_are_those_of_the_dense_attention(mask):
    attention = FeatureAttention(WIDTH, N_HEADS, N_TASKS, mask)
    tokens = torch.randn(5, N_FEATURES + N_TASKS, WIDTH)
    expected = dense_attention(attention, tokens, allowed_pairs(N_FEATURES, N_TASKS, mask))[1]
    parameters = list(attention.parameters())
    of_twin = torch.autograd.grad((expected**2).sum(), parameters)
    got = torch.autograd.grad((attention(tokens, only_tasks=False) ** 2).sum(), parameters)
    for one, other in zip(got, of_twin, strict=True):
        torch.testing.assert_close(one, other)


# --- rows of a batch --------------------------------------------------------------------------------------------------


def naive_row_attention(attention, rows, keys_of, log_weights_of):
    """Row by row and head by head: row i sees the (normed) rows ``keys_of(i)`` with these log weights."""
    width = attention.query_key_value.out_features // 3
    weight, bias = attention.query_key_value.weight.split(width), attention.query_key_value.bias.split(width)
    out = torch.empty_like(rows)
    for i, row in enumerate(rows):
        seen, log_weight = attention.norm(keys_of(i)), log_weights_of(i)
        query = weight[0] @ attention.norm(row) + bias[0]
        key, value = seen @ weight[1].T + bias[1], seen @ weight[2].T + bias[2]
        read = []
        for columns in torch.arange(width).chunk(attention.n_heads):
            scores = key[:, columns] @ query[columns] / math.sqrt(len(columns)) + log_weight
            read.append((scores.exp() / scores.exp().sum()) @ value[:, columns])
        out[i] = attention.out.weight @ torch.cat(read) + attention.out.bias
    return out


def test_in_training_every_row_sees_all_rows_by_their_weights():
    attention, width = untrained_row_attention()
    rows, log_weight = torch.randn(6, width), torch.rand(6)
    expected = naive_row_attention(attention, rows, lambda i: rows, lambda i: torch.zeros(6))
    torch.testing.assert_close(attention(rows, None)[0], expected)
    expected = naive_row_attention(attention, rows, lambda i: rows, lambda i: log_weight)
    torch.testing.assert_close(attention(rows, None, log_weight)[0], expected)


def test_a_batch_larger_than_the_context_is_cut_into_groups_that_see_each_other():
    attention, width = untrained_row_attention(context_size=3)
    rows, log_weight = torch.randn(7, width), torch.rand(7)
    groups = {i: group for group in torch.arange(7).tensor_split(3) for i in group.tolist()}
    expected = naive_row_attention(attention, rows, lambda i: rows[groups[i]], lambda i: log_weight[groups[i]])
    got, memory = attention(rows, None, log_weight)
    torch.testing.assert_close(got, expected)
    new = torch.randn(1, width)  # prediction sees all of them
    seen, weights = torch.cat([rows, new]), torch.cat([log_weight, torch.zeros(1)])
    torch.testing.assert_close(
        attention(new, memory)[0], naive_row_attention(attention, new, lambda i: seen, lambda i: weights)
    )


@pytest.mark.parametrize("is_weighted", [False, True])
def test_in_prediction_a_row_sees_the_memory_and_itself_and_no_other(is_weighted):
    attention, width = untrained_row_attention()
    context, rows = torch.randn(5, width), torch.randn(4, width)
    log_weight = torch.rand(5) if is_weighted else None
    _, memory = attention(context, None, log_weight)
    got, made = attention(rows, memory)
    weights = torch.cat([log_weight if is_weighted else torch.zeros(5), torch.zeros(1)])
    expected = naive_row_attention(attention, rows, lambda i: torch.cat([context, rows[[i]]]), lambda i: weights)
    torch.testing.assert_close(got, expected)
    assert made is None


def test_a_row_of_log_weight_log_2_is_the_row_twice():
    attention, width = untrained_row_attention()
    rows = torch.randn(6, width)
    log_weight = torch.tensor([0.0, 0.0, math.log(2.0), 0.0, 0.0, 0.0])
    twice = torch.cat([rows, rows[[2]]])
    got, memory = attention(rows, None, log_weight)
    expected, memory_twice = attention(twice, None)
    torch.testing.assert_close(got, expected[:6])
    assert not torch.allclose(got, attention(rows, None)[0])
    new = torch.randn(3, width)
    torch.testing.assert_close(attention(new, memory)[0], attention(new, memory_twice)[0])


# --- whole networks ---------------------------------------------------------------------------------------------------


@each_mask
@pytest.mark.parametrize("n_blocks", [1, 2, 3])
@pytest.mark.parametrize("sample_attention", [False, True], ids=["features", "features and rows"])
def test_a_task_is_isolated_exactly_where_the_mask_and_the_depth_say_so(mask, n_blocks, sample_attention):
    network, inputs = untrained(mask=mask, n_blocks=n_blocks, sample_attention=sample_attention)
    isolates = not sample_attention and (mask == "both" or (mask == "task_to_task" and n_blocks == 1))
    for is_training in (True, False):
        module = network.module.train(is_training)
        before = module(inputs)[0].detach()
        for task in range(N_TASKS):
            module.zero_grad()
            module(inputs)[0][:, task].sum().backward()
            has_gradient = module.task_tokens.grad.abs().sum(dim=1) != 0
            with torch.no_grad():
                kept = module.task_tokens[task].clone()
                module.task_tokens[task] = torch.randn(WIDTH)
                after = module(inputs)[0]
                module.task_tokens[task] = kept
            for other in range(N_TASKS):
                is_same = torch.equal(after[:, other], before[:, other])
                assert is_same == (isolates and other != task)
                assert bool(has_gradient[other]) == (other == task or not isolates)


@pytest.mark.parametrize("mask", ["task_to_task", "both"])
def test_without_a_way_between_tasks_a_task_learns_the_same_beside_any_other_tasks(mask):
    network, inputs = untrained(mask=mask, n_blocks=1)
    scores = network.scores(inputs)
    with torch.no_grad():
        network.module.task_tokens[1:] = 100.0 * torch.randn(N_TASKS - 1, WIDTH)
    assert torch.equal(network.scores(inputs)[:, 0], scores[:, 0])


@pytest.mark.parametrize("numerical_embedding", ["linear", "periodic", "piecewise_linear"])
@pytest.mark.parametrize("sample_attention", [False, True], ids=["features", "features and rows"])
def test_every_score_depends_on_every_feature_and_with_row_attention_on_every_row(
    numerical_embedding, sample_attention
):
    network, inputs = untrained(n_blocks=1, numerical_embedding=numerical_embedding, sample_attention=sample_attention)
    module = network.module.train()
    numeric = inputs.numeric.clone().requires_grad_()
    n = len(numeric)
    for row in range(n):
        for task in range(N_TASKS):
            score = module(inputs._replace(numeric=numeric))[0][row, task, 0]
            (gradient,) = torch.autograd.grad(score, numeric)
            own = torch.zeros(n, 1, dtype=torch.bool)
            own[row] = True
            assert torch.equal((gradient != 0).all(dim=2), (own | sample_attention).expand(n, N_FEATURES))


def test_another_row_changes_a_training_output_and_no_prediction():
    network, inputs = untrained(sample_attention=True, n_blocks=2)
    changed = inputs._replace(numeric=inputs.numeric.clone())
    changed.numeric[1:] += 1.0
    module = network.module.train()
    assert not torch.equal(module(changed)[0][0], module(inputs)[0][0])
    assert torch.equal(network.scores(changed)[0], network.scores(inputs)[0])
    assert not torch.equal(network.scores(changed)[1], network.scores(inputs)[1])


def test_predictions_read_the_context():
    network, inputs = untrained(sample_attention=True, n_blocks=1)
    before = network.scores(inputs)
    network.context = network.context._replace(numeric=network.context.numeric + 1.0)
    network.remember()
    assert (network.scores(inputs) != before).all()


def test_a_prediction_that_is_part_of_the_context_alone_is_a_training_output():
    """A row that sees a memory of itself only, and itself, sees what it would see alone in a batch."""
    network, inputs = untrained(sample_attention=True, n_blocks=2)
    one = inputs.take(slice(2, 3))
    network.context = one
    network.remember()
    torch.testing.assert_close(network.scores(one), network.module(one)[0].detach())


def plain_encoder(module, tokens):
    """The same with torch's own pre-norm transformer encoder, and a two-layer head on the last token."""
    for block in module.blocks:
        (norm,) = [m for m in block.mlp.modules() if isinstance(m, nn.LayerNorm)]
        first, second = [m for m in block.mlp.modules() if isinstance(m, nn.Linear)]
        layer = nn.TransformerEncoderLayer(
            WIDTH, N_HEADS, first.out_features, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        layer.norm1.load_state_dict(block.norm.state_dict())
        layer.norm2.load_state_dict(norm.state_dict())
        layer.linear1.load_state_dict(first.state_dict())
        layer.linear2.load_state_dict(second.state_dict())
        query, key_value = block.attention.query, block.attention.key_value
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(torch.cat([query.weight, key_value.weight]))
            layer.self_attn.in_proj_bias.copy_(torch.cat([query.bias, key_value.bias]))
        layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
        tokens = layer(tokens)
    heads = module.heads
    hidden = nn.functional.gelu(heads.norm(tokens[:, -1]) @ heads.weight_in[0] + heads.bias_in[0])
    return hidden @ heads.weight_out[0] + heads.bias_out[0]


@each_mask
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_with_one_task_the_network_is_a_plain_encoder_with_one_more_token(mask, n_blocks):
    network, inputs = untrained(n_tasks=1, mask=mask, n_blocks=n_blocks, numerical_embedding="linear", direct_dim=0)
    module = network.module
    with torch.no_grad():  # off their start of ones and zeros
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    channels = torch.cat([inputs.numeric, inputs.missing.to(inputs.numeric.dtype)[:, :, None]], dim=2)
    features = torch.einsum("ndc,dce->nde", channels, module.features.weight) + module.features.bias[:, 0]
    tokens = torch.cat([features, module.task_tokens.expand(len(features), 1, WIDTH)], dim=1)
    expected = plain_encoder(module, tokens)
    if mask in ("none", "task_to_task") or n_blocks == 1:
        torch.testing.assert_close(module(inputs)[0][:, 0], expected)
    else:  # features that may not see the task token are another network, from the second block on
        assert not torch.allclose(module(inputs)[0][:, 0], expected)


# --- past the attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_row_task", [False, True], ids=["targets", "row tasks"])
def test_an_mlp_of_all_that_is_known_of_a_row_is_added_to_the_scores_of_the_heads(is_row_task):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"]).assign(kind=rng.choice(["oak", "fir"], 30))
    X.loc[::4, "a"] = np.nan
    y, tasks = rng.normal(size=(30, 1 if is_row_task else 3)), rng.integers(0, 4, 30) if is_row_task else None
    options = {"n_members": 1, "max_epochs": 0, "precision": "float64", "device": "cpu", "random_state": 0}
    net = MultiTabNet(**options, direct_dim=7, embedding_dim=WIDTH).fit(X, y, task=tasks)
    columns, module = net._encoding.encode_features(X), net._networks[0].module
    inputs = Place.resolve("cpu", "float64").inputs(columns, tasks)
    before = module(inputs)[0]
    layers = [layer for layer in module.direct if isinstance(layer, nn.Linear)]
    with torch.no_grad():  # off its start, from which it says nothing
        for parameter in module.direct.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    known = [inputs.numeric.flatten(1), inputs.missing.double(), module.features.table[inputs.codes[:, 0]]]
    if is_row_task:
        known.append(module.task_tokens[inputs.task])
    x = torch.cat(known, dim=1)
    for layer in layers[:-1]:
        x = nn.functional.gelu(x @ layer.weight.T + layer.bias)
    expected = x @ layers[-1].weight.T + layers[-1].bias
    torch.testing.assert_close(module(inputs)[0] - before, expected[:, :, None])


def test_a_gap_that_training_has_not_seen_has_no_effect_of_its_own_past_the_attention():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    options = {
        "n_members": 1,
        "direct_dim": 8,
        "max_epochs": 5,
        "early_stopping": False,
        "device": "cpu",
        "random_state": 0,
    }
    module = MultiTabNet(**options, n_jobs=1).fit(X, X[:, :2])._networks[0].module
    of_gaps = module.direct[0].weight[:, 3 * 2 : 3 * 2 + 3]
    assert (of_gaps == 0).all()
