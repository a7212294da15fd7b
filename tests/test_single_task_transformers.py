"""FT-Transformer, SAINT and TabTransformer as settings of MultiTab-Net: they fit, and are what they are called."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from mttab import MultiTabNet, MultiTabNetRegressor
from mttab._core.neural.members import Place
from test_multitabnet import table

NAMES = ["ft_transformer", "saint", "tab_transformer"]


SHORT = {"max_epochs": 2, "batch_size": 40, "random_state": 0, "n_jobs": 1, "early_stopping": False}


@pytest.fixture(scope="module")
def nets():
    """Name → network of a sixth of the published width or more, fitted to numbers and a category."""
    X, Y = table(n=80)
    y = Y["price"].fillna(1000.0)
    narrow = SHORT | {"embedding_dim": 32, "mlp_dim": 32, "head_dim": 16}
    return {n: MultiTabNetRegressor(**MultiTabNetRegressor.paper_parameters(n) | narrow).fit(X, y) for n in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_with_the_published_widths_each_fits(name):
    X, Y = table(n=80)
    net = MultiTabNet(**MultiTabNet.paper_parameters(name) | SHORT).fit(X, Y)
    assert net.predict(X).notna().all(axis=None)
    losses = net.history_["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]


def in_training(net, X):
    """Scores as a training step sees them, but for dropout."""
    network = net._networks[0]
    features, _, _ = net._read_rows(X, None)
    inputs = Place.of(network, "float32").inputs(net._encoding.encode_features(features), None)
    with torch.no_grad():
        return network.module.eval()(inputs, None, None)[0][:, 0, 0].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_each_fits_a_single_task_and_rows_do_not_depend_on_each_other_in_prediction(name, nets):
    X, _ = table(n=80)
    whole = nets[name].predict(X)
    assert whole.shape == (80,) and np.isfinite(whole).all() and whole.std() > 0
    np.testing.assert_allclose(nets[name].predict(X[3:4]), whole[3:4], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "rows_see_rows"), [("ft_transformer", False), ("saint", True), ("tab_transformer", False)]
)
def test_only_in_saint_a_row_sees_other_rows_in_training(name, rows_see_rows, nets):
    X, _ = table(n=80)
    before = in_training(nets[name], X)
    after = in_training(nets[name], X.assign(a=X["a"].where(np.arange(80) != 5, 3.0)))
    assert after[5] != before[5]
    assert (np.abs(np.delete(after - before, 5)).max() > 1e-7) == rows_see_rows
    blocks = nets[name]._networks[0].module.blocks
    assert all((block.row_attention is not None) == rows_see_rows for block in blocks)
    assert len(blocks) == {"ft_transformer": 3, "saint": 1, "tab_transformer": 6}[name]


def test_attention_is_over_all_features_but_in_tab_transformer_over_categories_alone(nets):
    X, _ = table(n=80)
    read = {name: net.attention(X)["price"] for name, net in nets.items()}
    assert read["ft_transformer"].columns.tolist() == read["saint"].columns.tolist() == ["a", "kind", "b", "price"]
    assert read["tab_transformer"].columns.tolist() == ["kind", "price"]
    for weights in read.values():
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    moved = X.assign(a=2.0, b=0.5)
    net = nets["tab_transformer"]
    assert net.attention(moved)["price"].equals(read["tab_transformer"])
    assert not np.allclose(net.predict(moved), net.predict(X))
    assert not net.attention(X.assign(kind="oak"))["price"].equals(read["tab_transformer"])
    assert not nets["ft_transformer"].attention(moved)["price"].equals(read["ft_transformer"])


def test_numbers_without_tokens_cost_attention_nothing(nets):
    module = nets["tab_transformer"]._networks[0].module
    assert module.features.n_numeric == 0 and module.features.weight.numel() == 0
    assert module.direct is not None and nets["ft_transformer"]._networks[0].module.direct is None


def test_tables_without_numbers_or_without_categories_work_without_numeric_tokens():
    X, Y = table(n=60)
    options = {"token_features": "categorical", "embedding_dim": 4, "mlp_dim": 8, "max_epochs": 1, "random_state": 0}
    for columns, direct_dim in ((["a", "b"], 8), (["kind"], 0), (["kind"], 8)):
        net = MultiTabNet(**options, direct_dim=direct_dim, n_members=1).fit(X[columns], Y)
        assert np.isfinite(net.predict(X[columns])["price"].astype(float)).all()


def test_a_network_of_another_name_is_refused():
    with pytest.raises(ValueError, match="network='bert' is no published network; pass one of 'multitab_net', 'ft_tr"):
        MultiTabNet.paper_parameters("bert")
