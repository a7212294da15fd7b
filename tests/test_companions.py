"""The MLP beside each member of MultiTabNet, and how much it counts for each column of y."""

import copy
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.model_selection import KFold

pytest.importorskip("torch", reason="the extra neural is not installed")

import torch

from mttab import MMoE, ModelFileError, MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor, load
from mttab._core.neural.blending import EQUAL, SHARES, JudgedRows, find_shares
from mttab._core.neural.columns import BEND
from mttab._core.neural.losses import TaskOutputs
from mttab._core.neural.members import Place
from mttab._core.neural.network import unbent
from mttab._core.neural.training import train

SMALL = {
    "embedding_dim": 8,
    "n_blocks": 1,
    "mlp_dim": 16,
    "head_dim": 8,
    "n_bins": 4,
    "companion_dim": 16,
    "n_members": 2,
    "max_epochs": 4,
    "batch_size": 64,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}
OTHERS = {"early_stopping": True, "companion_dim": 0}


def table(n=260, seed=0):
    """Numbers with gaps, a category, and labels of three kinds with gaps."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.normal(size=n), "kind": pd.Categorical(rng.choice(["oak", "fir", "elm"], n))})
    X["b"] = np.where(rng.random(n) < 0.1, np.nan, rng.exponential(size=n))
    score = X["a"] + (X["kind"] == "fir") + 0.3 * rng.normal(size=n)
    Y = pd.DataFrame({"height": score * 3.0 + 5.0, "is_tall": np.where(score > 0, "yes", "no")}, dtype=object)
    Y["zone"] = np.array(["low", "mid", "top"])[np.digitize(score, [-0.5, 0.8])]
    Y.loc[rng.random(n) < 0.2, "zone"] = None
    return X, Y.astype({"height": float})


def probabilities(net, X):
    return np.hstack([net.predict(X)[["height"]], *net.predict_proba(X).values()])


@pytest.fixture(scope="module")
def fitted():
    X, Y = table()
    return MultiTabNet(**SMALL | {"early_stopping": True}).fit(X, Y)


def with_share(net, share):
    """The same networks, mixed otherwise."""
    other = pickle.loads(pickle.dumps(net))
    other.companion_share_ = dict.fromkeys(net.companion_share_, share)
    return other


# --- how much each counts ---------------------------------------------------------------------------------------------


def judged(n, errors, n_tasks=1, seed=0):
    """Rows of regressions for which the two predictions have errors of these sizes, drawn apart."""
    rng = np.random.default_rng(seed)
    y = torch.as_tensor(rng.normal(size=(n, n_tasks)))
    first, second = ((y + size * torch.as_tensor(rng.normal(size=y.shape)))[:, :, None] for size in errors)
    return JudgedRows(first, second, y, torch.ones_like(y))


def test_the_kind_that_is_clearly_better_counts_for_more():
    outputs = TaskOutputs(["regression"], [0])
    assert find_shares(outputs, [judged(400, (1.0, 0.05))]) >= 0.9
    assert find_shares(outputs, [judged(400, (0.05, 1.0))]) <= 0.1
    assert find_shares(outputs, [judged(400, (0.5, 0.5))]) == EQUAL


def test_every_column_has_a_share_of_its_own():
    rows, other = judged(300, (1.0, 0.05)), judged(300, (0.05, 1.0))
    both = JudgedRows(*(torch.cat(pair, dim=1) for pair in zip(rows, other, strict=True)))
    shares = find_shares(TaskOutputs(["regression"] * 2, [0, 0]), [both])
    assert shares[0] >= 0.9 and shares[1] <= 0.1


def test_few_validation_rows_leave_both_kinds_equal():
    outputs = TaskOutputs(["regression"], [0])
    for seed in range(20):
        assert find_shares(outputs, [judged(1, (1.0, 0.1), seed=seed)]) == EQUAL
    # A handful that speaks for one of them moves the share less far than many.
    few = np.mean([find_shares(outputs, [judged(5, (0.6, 0.4), seed=seed)]) for seed in range(40)])
    many = np.mean([find_shares(outputs, [judged(500, (0.6, 0.4), seed=seed)]) for seed in range(10)])
    assert abs(few - EQUAL) < abs(many - EQUAL)


def test_a_label_that_is_not_observed_has_no_say():
    rows = judged(100, (1.0, 0.1), n_tasks=2)
    rows.weight[:, 1] = 0.0
    rows.weight[:50, 0] = 0.0
    wild = rows._replace(first=rows.first.clone())
    wild.first[:50] = 1e3
    outputs = TaskOutputs(["regression"] * 2, [0, 0])
    shares = find_shares(outputs, [rows])
    assert shares[0] > EQUAL and shares[1] == EQUAL
    assert np.array_equal(find_shares(outputs, [wild]), shares)


def test_rows_in_several_sets_are_judged_together():
    rows = judged(60, (0.7, 0.4), n_tasks=2)
    parts = [JudgedRows(*(part[half] for part in rows)) for half in (slice(0, 25), slice(25, 60))]
    outputs = TaskOutputs(["regression"] * 2, [0, 0])
    assert np.array_equal(find_shares(outputs, parts), find_shares(outputs, [rows]))


@pytest.mark.parametrize(("kind", "n_classes"), [("binary", 2), ("multiclass", 3)])
def test_probabilities_are_judged_by_the_log_loss_of_their_mean(kind, n_classes):
    rng = np.random.default_rng(0)
    n, k = 200, 1 if kind == "binary" else n_classes
    y = rng.integers(0, n_classes, size=(n, 1))
    outputs = TaskOutputs([kind], [n_classes])
    scores = [torch.as_tensor(rng.normal(size=(n, 1, k))) for _ in range(2)]
    scores[1][np.arange(n), 0, 0 if k == 1 else y[:, 0]] += 1.5 * (torch.as_tensor(2.0 * y[:, 0] - 1) if k == 1 else 1)
    first, second = (outputs.predictions(s) for s in scores)
    found = find_shares(
        outputs,
        [JudgedRows(first, second, torch.as_tensor(y, dtype=torch.float64), torch.ones(n, 1, dtype=torch.float64))],
    )

    def loss(share):
        p = ((1 - share) * first + share * second).numpy()[:, 0]
        p = np.column_stack([1 - p, p]) if k == 1 else p
        return -np.log(p[np.arange(n), y[:, 0]])

    losses = np.stack([loss(share) for share in SHARES])
    best = losses.mean(axis=1).argmin()
    excess = losses - losses[best]
    is_good = excess.mean(axis=1) <= excess.std(axis=1, ddof=1) / np.sqrt(n)
    assert_allclose(found, SHARES[is_good][np.abs(SHARES[is_good] - EQUAL).argmin()], atol=0.051)


# --- in the estimator -------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_mean_of_the_kinds_by_their_share(fitted):
    X, _ = table(seed=1)
    members, companions = probabilities(with_share(fitted, 0.0), X), probabilities(with_share(fitted, 1.0), X)
    assert np.abs(members - companions).max() > 0.01
    assert_allclose(probabilities(with_share(fitted, 0.25), X), 0.75 * members + 0.25 * companions, atol=1e-6)
    share = np.repeat(list(fitted.companion_share_.values()), [1, 2, 3])
    assert_allclose(probabilities(fitted, X), (1 - share) * members + share * companions, atol=1e-6)


def test_the_members_are_the_same_with_and_without_companions(fitted):
    X, Y = table()
    alone = MultiTabNet(**SMALL | OTHERS).fit(X, Y)
    assert np.array_equal(probabilities(with_share(fitted, 0.0), X), probabilities(alone, X))
    assert set(alone.companion_share_.values()) == {0.0} and len(alone.n_iter_) == 2
    assert "is_companion" not in alone.history_


@pytest.mark.slow
def test_shares_help_where_one_kind_is_far_ahead():
    """On jumps attention with its bins is ahead, on products of many numbers the MLP."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 8))
    smooth = np.tanh(X @ rng.normal(size=(8, 2)) / 2).prod(axis=1)
    jumps = (X[:, 0] > 0.3) * 1.0 + (X[:, 1] > -0.2) * (X[:, 2] > 0.1)
    Y = np.column_stack([smooth, jumps])
    options = {"embedding_dim": 8, "n_blocks": 1, "mlp_dim": 16, "n_members": 2, "max_epochs": 40, "n_jobs": 1}
    net = MultiTabNetRegressor(**options, random_state=0).fit(X[:500], Y[:500])
    assert net.companion_share_[0] > EQUAL > net.companion_share_[1]
    scores = net.task_scores(X[500:], Y[500:])["score"]
    assert (scores > with_share(net, EQUAL).task_scores(X[500:], Y[500:])["score"]).all()


def test_without_validation_rows_both_kinds_are_equal():
    X, Y = table(n=60)
    net = MultiTabNet(**SMALL).fit(X, Y)
    assert set(net.companion_share_.values()) == {EQUAL} and len(net.n_iter_) == 4


def test_validation_rows_that_all_members_share_are_judged_once(monkeypatch):
    X, Y = table()
    seen = []

    def spy(outputs, judged):
        seen.append([len(rows.y) for rows in judged])
        return find_shares(outputs, judged)

    monkeypatch.setattr("mttab._core.neural.members.find_shares", spy)
    MultiTabNet(**SMALL | {"validation": KFold(2)}).fit(X, Y)
    MultiTabNet(**SMALL).fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    MultiTabNet(**SMALL | {"early_stopping": True, "validation_fraction": 0.1}).fit(X, Y)
    assert seen[:2] == [[130], [60]] and [abs(n - 26) <= 2 for n in seen[2]] == [True, True]


def test_a_row_is_predicted_the_same_in_any_company(fitted):
    X, _ = table(n=300, seed=2)
    whole, heights = probabilities(fitted, X), fitted.predict(X)["height"]
    for i in (0, 17, 299):
        assert_allclose(probabilities(fitted, X[i : i + 1])[0], whole[i], rtol=0, atol=1e-7)
        assert fitted.predict(X[i : i + 1])["height"].iloc[0] == heights[i]


def test_the_same_seed_gives_the_same_predictions_and_shares(fitted):
    X, Y = table()
    again = MultiTabNet(**SMALL | {"early_stopping": True}).fit(X, Y)
    assert again.companion_share_ == fitted.companion_share_
    assert np.array_equal(probabilities(again, X), probabilities(fitted, X))


def test_files_and_pickles_keep_companions_and_shares(fitted, tmp_path):
    X, _ = table()
    fitted.save(tmp_path / "net")
    for again in (load(tmp_path / "net"), pickle.loads(pickle.dumps(fitted))):
        assert again.companion_share_ == fitted.companion_share_
        assert np.array_equal(probabilities(again, X), probabilities(fitted, X))


@pytest.mark.parametrize(("kept", "share"), [("_members", 0.5), ("_companions", 0.5), ("_companions", 0.0)])
def test_a_file_without_the_networks_that_count_is_refused(kept, share, fitted, tmp_path):
    part = copy.copy(fitted)
    part._networks, part.companion_share_ = getattr(fitted, kept), dict.fromkeys(fitted.companion_share_, share)
    part.save(tmp_path / "part")
    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(tmp_path / "part")


def test_shares_take_little_more_memory_than_the_losses_of_one():
    n, outputs = 20_000, TaskOutputs(["regression"] * 10, [0] * 10)
    rows = judged(n, (1.0, 0.5), n_tasks=10)
    tracemalloc.start()
    find_shares(outputs, [rows])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * 10 * 8  # numpy's part of it: eight arrays of one loss per cell, not 21


def test_going_on_trains_both_kinds_and_weighs_them_anew():
    X, Y = table()
    net = MultiTabNet(**SMALL | {"early_stopping": True, "warm_start": True}).fit(X, Y).set_params(n_members=3)
    before = dict(net.companion_share_)
    net.fit(X, Y)
    assert net.n_iter_ == [8, 8, 4, 8, 8, 4]
    epochs = net.history_.groupby(["is_companion", "member"]).size()
    assert epochs.tolist() == net.n_iter_
    shares = dict(net.companion_share_)
    net.partial_fit(X, Y)
    assert net.n_iter_ == [9, 9, 5, 9, 9, 5] and net.companion_share_ == shares
    assert before.keys() == shares.keys()
    with pytest.raises(ValueError, match="companion_dim=8, but the fit that this one goes on from had 16"):
        net.set_params(companion_dim=8).fit(X, Y)


def test_partial_fit_from_the_start_leaves_both_kinds_equal():
    X, Y = table()
    net = MultiTabNet(**SMALL).partial_fit(X, Y)
    assert net.n_iter_ == [1] * 4 and set(net.companion_share_.values()) == {EQUAL}


def test_an_unknown_task_and_an_added_one_work_with_companions():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"shop": rng.integers(0, 4, 240), "a": rng.normal(size=240)})
    y = X["a"] * (X["shop"] - 1.5)
    net = MultiTabNetRegressor(task_column="shop", **SMALL).fit(X[X["shop"] < 3], y[X["shop"] < 3])
    assert np.isfinite(net.predict(X)).all()
    old = net.predict(X[X["shop"] < 3])
    net.add_task(X[X["shop"] == 3], y[X["shop"] == 3], task=3)
    assert np.array_equal(net.predict(X[X["shop"] < 3]), old) and net.tasks_.tolist() == [0, 1, 2, 3]
    columns = {task: net.predict(X.assign(shop=task)) for task in range(4)}
    assert np.ptp(np.column_stack(list(columns.values())), axis=1).max() > 0.01


def test_a_companion_learns_what_levels_say():
    rng = np.random.default_rng(0)
    kind = pd.Categorical(rng.choice(list("abcd"), 300))
    y = np.where(kind.codes % 2 == 1, "odd", "even")
    net = MultiTabNetClassifier(**SMALL | {"max_epochs": 30}).fit(pd.DataFrame({"kind": kind}), y)
    assert with_share(net, 1.0).score(pd.DataFrame({"kind": kind}), y) == 1.0


@pytest.mark.slow
def test_companions_train_longer_only_where_validation_rows_can_end_it():
    X, Y = table(n=210)
    options = {**SMALL, "n_members": 1, "max_epochs": "auto", "patience": 1000, "companion_dim": 4}
    member, companion = MultiTabNet(**options | {"early_stopping": True}).fit(X, Y).n_iter_
    assert (member, companion) == (100, 400)
    assert MultiTabNet(**options | {"early_stopping": False}).fit(X, Y).n_iter_ == [100, 100]


def test_a_companion_has_no_part_that_reads_the_same_of_every_row(fitted):
    companion = fitted._companions[0].module
    assert companion.heads is None and companion.task_tokens.numel() == 0
    X, _ = table()
    shop = np.arange(len(X)) % 3
    net = MultiTabNetRegressor(**SMALL | {"max_epochs": 1}).fit(X, X["a"], task=shop)
    assert net._companions[0].module.task_tokens.shape == (3, SMALL["embedding_dim"])


@pytest.mark.slow
def test_noise_in_one_column_does_not_keep_a_companion_from_learning_another(monkeypatch):
    options = {**SMALL, "n_members": 1, "max_epochs": "auto", "companion_dim": 64, "batch_size": 32}

    def log_error(seed):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(700, 6))
        exact = np.tanh(X @ rng.normal(size=6) / 2)
        Y = np.column_stack([exact, *(X[:, 0] + rng.exponential(size=700) ** 3 for _ in range(3))])
        net = with_share(MultiTabNetRegressor(**options).fit(X[:450], Y[:450]), 1.0)
        return np.log(1.0 - net.task_scores(X[450:], Y[450:])["score"].iloc[0])

    on_roots = np.mean([log_error(seed) for seed in range(4)])

    def train_on_means(network, training, validation, options, *others):
        return train(network, training, validation, options._replace(on_roots=False), *others)

    monkeypatch.setattr("mttab._core.neural.members.train", train_on_means)
    assert on_roots < np.mean([log_error(seed) for seed in range(4)]) - np.log(3.0)


@pytest.mark.parametrize("unit", [1.0, 12.0])
def test_a_member_and_its_companion_share_the_tensors_of_their_rows(unit, monkeypatch):
    X, Y = table()
    made = []
    monkeypatch.setattr(Place, "examples", lambda *args, make=Place.examples: made.append(args[1]) or make(*args))
    MultiTabNet(**SMALL | {"early_stopping": True}).fit(X, Y, sample_weight=np.full(len(X), unit))
    assert len(made) == 4  # rows to train on and to validate on, of two members
    MultiTabNet(**SMALL).partial_fit(X, Y, sample_weight=np.full(len(X), unit))
    assert len(made) == 5


def test_what_weighs_the_columns_in_training_is_not_kept(fitted):
    assert all(network.weighting.factor is None for network in fitted._networks)
    companions = fitted.history_[fitted.history_["is_companion"]]
    columns = [f"validation_score[{label}]" for label in fitted.companion_share_]
    assert_allclose(companions["validation_score"], companions[columns].mean(axis=1), rtol=1e-6)


def test_the_smooth_scale_is_straight_near_0_and_a_logarithm_beyond():
    score = torch.tensor([-100.0, -2.0, -0.01, 0.0, 0.01, 2.0, 100.0], dtype=torch.float64)
    bent = score / (1.0 + (score / BEND) ** 2).sqrt()
    assert_allclose(unbent(bent), torch.asinh(score), rtol=1e-9, atol=1e-12)
    assert torch.isfinite(unbent(torch.tensor([-BEND, BEND]))).all()


def test_weights_and_attention_are_those_of_the_members_alone(fitted):
    X, Y = table()
    alone = MultiTabNet(**SMALL | OTHERS).fit(X, Y)
    for label, weights in fitted.attention(X).items():
        assert_allclose(weights, alone.attention(X)[label])


def test_networks_of_experts_have_none():
    X, Y = table()
    net = MMoE(n_members=1, max_epochs=1, n_jobs=1, random_state=0).fit(X, Y)
    assert not hasattr(net, "companion_share_") and "is_companion" not in net.history_
