"""The pretext task: its loss against a naive twin, which rows it learns from, and what a fit with it promises."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from mttab import MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor
from mttab._core.neural.network import Inputs
from mttab._core.neural.pretext import Pretext, PretextRows, mask_features, pretrain
from mttab._core.neural.stepping import PretextOptions, TrainingOptions
from mttab._core.neural.tokens import FeatureTokens
from mttab.datasets import make_multitask_regression

SMALL = {
    "embedding_dim": 8,
    "n_heads": 2,
    "n_blocks": 1,
    "mlp_dim": 16,
    "head_dim": 8,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 3,
    "early_stopping": False,
    "batch_size": 64,
    "learning_rate": 0.01,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
    "pretext_epochs": 2,
}
ALONE = SMALL | {"companion_dim": 0}
WAYS = ["before", "during"]
each_way = pytest.mark.parametrize("pretext", WAYS)


def table(n=150, seed=0):
    """Features of two kinds with gaps, redundant ones among them, and labels of two kinds for 60 rows."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    X = pd.DataFrame({"a": a, "kind": pd.Categorical(np.where(a > 0.5, "oak", rng.choice(["fir", "elm"], n)))})
    X["b"] = np.where(rng.random(n) < 0.1, np.nan, a + 0.1 * rng.normal(size=n))
    Y = pd.DataFrame({"price": 50 * a + rng.normal(size=n), "sold": (a > 0.3).astype(float)})
    return X, Y[np.arange(n) % 5 < 2].reindex(Y.index)


def predicted(net, X, **options):
    values = net.predict(X, **options)
    return np.column_stack([np.asarray(values, dtype=float), *getattr(net, "predict_proba", lambda _: {})(X).values()])


# --- the task ---------------------------------------------------------------------------------------------------------


def encoded(n=40, seed=0):
    """Two numbers and two categories, with three and two levels, and a network part that embeds them."""
    rng = np.random.default_rng(seed)
    offset = np.array([0, 5, 9])  # levels, "missing", "unknown"
    codes = np.column_stack([rng.choice([0, 1, 2, 3], n), rng.choice([5, 6, 7], n)])
    missing = rng.random((n, 2)) < 0.2
    numeric = np.where(missing[:, :, None], 0.0, rng.normal(size=(n, 2, 1)))
    inputs = Inputs(*(torch.as_tensor(x) for x in (numeric, missing, codes, np.empty(0, dtype=np.int64))))
    return inputs, FeatureTokens(2, 1, offset, np.ones(9), 6, "linear").double()


class Tiny(nn.Module):
    """The least that the pretext task asks of a network."""

    def __init__(self, features):
        super().__init__()
        self.features, self.mix = features, nn.Linear(24, 5, dtype=torch.float64)

    def represent(self, inputs, log_weight=None):
        return torch.tanh(self.mix(self.features(inputs.numeric, inputs.missing, inputs.codes).flatten(1)))


STEPS = TrainingOptions(
    max_epochs=1,
    batch_size=16,
    learning_rate=0.02,
    weight_decay=0.0,
    warmup_fraction=0.0,
    schedule="constant",
    gradient_clip=1.0,
    averaging=0.0,
    patience=None,
    context_size=0,
    bf16=False,
    compile=False,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_share_of_the_features_that_are_there_is_masked_as_missing_and_the_rest_left_alone():
    inputs, _ = encoded(n=2000)
    level = torch.tensor([3, 7])
    before = [part.clone() for part in inputs]
    masked, numbers, levels = mask_features(inputs, 0.3, level, generator())
    assert all(torch.equal(part, old) for part, old in zip(inputs, before, strict=True))
    assert float(numbers[~inputs.missing].double().mean()) == pytest.approx(0.3, abs=0.03)
    assert not (numbers & inputs.missing).any() and not (levels & (inputs.codes == level)).any()
    assert torch.equal(masked.missing, inputs.missing | numbers) and bool((masked.numeric[numbers] == 0).all())
    assert torch.equal(masked.numeric[~numbers], inputs.numeric[~numbers])
    assert torch.equal(masked.codes, torch.where(levels, level, inputs.codes))


def test_its_loss_is_the_naive_one():
    inputs, features = encoded()
    module, weight = Tiny(features), torch.rand(40, generator=generator(5), dtype=torch.float64) + 0.5
    options = PretextOptions(is_before=False, fraction=0.4, weight=1.0, n_epochs=1, batch_size=40)
    task = Pretext(module, PretextRows(inputs, weight, generator()), options, STEPS, 1)
    rows = torch.arange(40)
    state = task.rows.generator.get_state()
    found = float(task._loss(rows).detach())
    task.rows.generator.set_state(state)
    masked, is_number, is_level = mask_features(inputs, 0.4, torch.tensor([3, 7]), task.rows.generator)
    with torch.no_grad():
        numbers, scores = task.heads(module.represent(masked))
    total = mass = 0.0
    for i in range(40):
        for j in range(2):
            w = float(weight[i])
            if is_number[i, j]:
                total, mass = total + w * float(numbers[i, j] - inputs.numeric[i, j, 0]) ** 2, mass + w
            if is_level[i, j]:
                p = log_softmax(scores[j][i].numpy())
                total -= w * p[int(inputs.codes[i, j]) - (0, 5)[j]] / np.log(len(p))
                mass += w
    assert found == pytest.approx(total / mass)


def test_any_network_with_a_representation_learns_to_reconstruct_what_was_masked():
    inputs, features = encoded(n=160)
    inputs = inputs._replace(missing=torch.zeros_like(inputs.missing))
    inputs.numeric[:, 1] = inputs.numeric[:, 0]  # one number tells the other
    module, seen = Tiny(features), []
    options = PretextOptions(is_before=True, fraction=0.3, weight=1.0, n_epochs=20, batch_size=16)
    rows = PretextRows(inputs, torch.ones(160, dtype=torch.float64), generator())
    pretrain(module, rows, options, STEPS, generator(), seen.append, lambda: False)
    losses = [figures["pretext_loss"] for figures in seen]
    assert len(losses) == 20 and losses[-1] < 0.85 * losses[0]


def test_nothing_to_mask_is_no_error():
    inputs, features = encoded()
    inputs = inputs._replace(missing=torch.ones_like(inputs.missing), codes=torch.tensor([3, 7]).repeat(40, 1))
    options = PretextOptions(is_before=False, fraction=0.4, weight=1.0, n_epochs=1, batch_size=40)
    task = Pretext(Tiny(features), PretextRows(inputs, torch.ones(40), generator()), options, STEPS, 1)
    assert float(task.backward()) == 0.0


# --- the rows ---------------------------------------------------------------------------------------------------------


@each_way
def test_rows_without_labels_take_part_without_a_warning(pretext, recwarn):
    X, Y = table()
    is_labelled = Y.notna().any(axis=1)
    net = MultiTabNet(**SMALL, pretext=pretext).fit(X, Y)
    assert len(recwarn) == 0
    without = MultiTabNet(**SMALL, pretext=pretext).fit(X[is_labelled], Y[is_labelled])
    assert np.abs(predicted(net, X) - predicted(without, X)).max() > 1e-3


@each_way
def test_a_level_that_only_rows_without_labels_have_is_known(pretext):
    X, Y = table()
    X["kind"] = X["kind"].astype(object).where(Y.notna().any(axis=1) | (X["a"] > 0), "yew")
    net = MultiTabNet(**SMALL, pretext=pretext).fit(X, Y)
    assert np.abs(predicted(net, X.assign(kind="yew")) - predicted(net, X.assign(kind="ash"))).max() > 1e-6


@each_way
def test_a_row_of_weight_0_stays_left_out(pretext):
    X, Y = table()
    weight = np.ones(150)
    weight[2:10] = 0.0
    net = MultiTabNet(**SMALL, pretext=pretext).fit(X, Y, weight)
    assert np.array_equal(
        predicted(net, X),
        predicted(MultiTabNet(**SMALL, pretext=pretext).fit(X[weight > 0], Y[weight > 0], weight[weight > 0]), X),
    )


@each_way
def test_the_validation_rows_are_those_of_a_fit_without_it(pretext, monkeypatch):
    X, Y = table()
    held = []
    original = MultiTabNet._held_out

    def recording(self, *arguments):
        held.append(original(self, *arguments))
        return held[-1]

    monkeypatch.setattr(MultiTabNet, "_held_out", recording)
    options = ALONE | {"early_stopping": True, "max_epochs": 2, "n_members": 2}
    is_labelled = Y.notna().any(axis=1)
    MultiTabNet(**options).fit(X[is_labelled], Y[is_labelled])
    net = MultiTabNet(**options, pretext=pretext).fit(X, Y)
    for i in range(2):
        np.testing.assert_array_equal(held[i], held[2 + i])
    assert net.history_["validation_score"].notna().sum() == 4


def test_without_any_label_there_is_still_nothing_to_learn():
    X, Y = table()
    with pytest.raises(ValueError, match="no label with a positive weight"):
        MultiTabNetRegressor(**SMALL, pretext="during").fit(X, Y["price"] * np.nan)


@pytest.mark.parametrize("options", [{}, {"sample_attention": True, "sample_attention_dim": 8, "context_size": 30}])
@each_way
def test_rows_without_labels_may_be_of_tasks_without_labels(pretext, options):
    X, Y = table()
    task = np.where(Y["price"].notna(), np.arange(150) % 3, np.arange(150) % 4)
    net = MultiTabNetRegressor(**SMALL | options, pretext=pretext).fit(X, Y["price"], task=task)
    assert net.tasks_.tolist() == [0, 1, 2]
    assert np.isfinite(net.predict(X, task=task)).all()


# --- a fit ------------------------------------------------------------------------------------------------------------


@each_way
def test_one_seed_is_one_model_and_nothing_of_the_task_is_kept(pretext):
    X, Y = table()
    options = SMALL | {"n_members": 2, "dropout": 0.2, "direct_dim": 8}
    torch.manual_seed(1)
    net = MultiTabNet(**options, pretext=pretext).fit(X, Y)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = MultiTabNet(**options | {"n_jobs": 2}, pretext=pretext).fit(X, Y)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(predicted(net, X), predicted(again, X))
    np.testing.assert_array_equal(predicted(net, X), predicted(pickle.loads(pickle.dumps(net)), X))
    is_labelled = Y.notna().any(axis=1)
    plain = MultiTabNet(**options).fit(X[is_labelled], Y[is_labelled])
    shapes = [{k: v.shape for k, v in m._networks[0].module.state_dict().items()} for m in (net, plain)]
    assert shapes[0] == shapes[1]


def test_the_history_tells_the_epochs_before_from_those_of_the_tasks(caplog):
    X, Y = table()
    caplog.set_level("INFO", "mttab")
    before = MultiTabNet(**ALONE, pretext="before", verbose=1).fit(X, Y)
    assert f"member 1 epoch {ALONE['max_epochs']}/{ALONE['max_epochs']}" in caplog.text
    assert before.history_["phase"].fillna("tasks").tolist() == ["pretext"] * 2 + ["tasks"] * 3
    assert before.history_["pretext_loss"].notna().tolist() == [True] * 2 + [False] * 3
    assert before.n_iter_ == [3]
    during = MultiTabNet(**ALONE, pretext="during").fit(X, Y)
    assert during.history_["pretext_loss"].between(0.2, 2.0).all() and during.n_iter_ == [3]


@pytest.mark.parametrize(
    "options",
    [{"precision": "bfloat16"}, {"task_weighting": "uncertainty"}, {"sam_rho": 0.1}, {"gradient_clip": 0.0}],
    ids=str,
)
@each_way
def test_it_goes_with_the_other_ways_of_training(pretext, options):
    X, Y = table()
    net = MultiTabNet(**SMALL | options | {"max_epochs": 6}, pretext=pretext).fit(X, Y)
    losses = net.history_["train_loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0]


def test_going_on_learns_it_during_the_tasks_but_not_before_them_again():
    X, Y = table()
    net = MultiTabNet(**ALONE, pretext="before", warm_start=True).fit(X, Y)
    with pytest.warns(UserWarning, match="left out, with no pretext task to learn here"):
        net.fit(X, Y)
    assert (net.history_["phase"] == "pretext").sum() == 2 and net.n_iter_ == [6]
    net.set_params(pretext="during").fit(X, Y)
    assert net.history_["pretext_loss"].notna().sum() == 2 + 3


@each_way
def test_it_plays_no_part_in_partial_fit(pretext):
    X, Y = table()
    found = []
    for value in (None, pretext):
        with pytest.warns(UserWarning, match="y has no label in 90 of 150 rows"):
            found.append(predicted(MultiTabNet(**SMALL, pretext=value).partial_fit(X, Y), X))
    np.testing.assert_array_equal(*found)


def test_a_classifier_has_it_too():
    X, Y = table()
    net = MultiTabNetClassifier(**SMALL, pretext="during").fit(X, Y["sold"])
    assert net.predict_proba(X).shape == (150, 2)


@pytest.mark.slow
def test_it_pays_where_labels_are_few_and_features_repeat_each_other():
    errors = {None: [], "during": []}
    for seed in range(3):
        rows = make_multitask_regression(2100, 4, 4, degree=[1, 2, 2, 3], noise=0.1, as_frame=False, random_state=seed)
        hidden, Y = rows[0], rows[1] / rows[1].std(axis=0)
        rng = np.random.default_rng(seed)
        X = hidden @ rng.normal(size=(4, 24)) / 2.0 + 0.3 * rng.normal(size=(2100, 24))
        given = np.where(np.arange(2100)[:, None] < 100, Y, np.nan)
        for pretext, found in errors.items():
            options = {"n_members": 1, "embedding_dim": 16, "n_blocks": 1, "mlp_dim": 64, "n_jobs": 1}
            options |= {"early_stopping": True, "random_state": seed}
            n = 100 if pretext is None else 1100
            net = MultiTabNetRegressor(**options, pretext=pretext).fit(X[:n], given[:n])
            found.append(np.sqrt(((net.predict(X[1100:]) - Y[1100:]) ** 2).mean(axis=0)).mean())
    assert np.mean(errors["during"]) < 0.98 * np.mean(errors[None])
