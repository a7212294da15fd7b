"""Training of networks: losses against naive ones, weights, schedule, early stopping, interrupts, global state."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, r2_score

pytest.importorskip("torch", reason="torch is not installed")

import torch
from scipy.special import expit, softmax

from mttab import MultiTabNet, MultiTabNetRegressor, _callbacks
from mttab._core.neural.averaging import WeightAverage
from mttab._core.neural.device import run_side_by_side
from mttab._core.neural.losses import TaskOutputs, explained
from mttab._core.neural.network import TokenDropout
from mttab._core.neural.weighting import AGGREGATORS, WEIGHTINGS, make_weighting
from mttab._core.progress import Messages

SMALL = {
    "embedding_dim": 8,
    "n_heads": 2,
    "n_blocks": 1,
    "mlp_dim": 16,
    "head_dim": 8,
    "direct_dim": 8,
    "companion_dim": 8,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 4,
    "early_stopping": False,
    "batch_size": 64,
    "dropout": 0.0,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}
ALONE = SMALL | {"companion_dim": 0}
CPU = torch.device("cpu")


def regression_data(n=200, n_tasks=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    Y = X[:, :n_tasks] + 0.5 * X[:, 1:2] ** 2 + 0.1 * rng.normal(size=(n, n_tasks))
    return X, Y


def same(model, other, X):
    return np.array_equal(np.asarray(model.predict(X)), np.asarray(other.predict(X)))


# --- losses -----------------------------------------------------------------------------------------------------------

KINDS = ["multiclass", "regression", "binary", "multiclass", "regression"]
N_CLASSES = [3, 0, 2, 4, 0]


def scores_and_labels(rng, n=6):
    scores = rng.normal(size=(n, len(KINDS), 4)) * 3
    y = np.column_stack([rng.integers(0, c, size=n) if c else rng.normal(size=n) for c in N_CLASSES]).astype(float)
    return torch.as_tensor(scores).requires_grad_(), torch.as_tensor(y)


def naive_loss(kind, n_classes, score, y):
    if kind == "regression":
        return (score[0] - y) ** 2
    p = [1 - expit(score[0]), expit(score[0])] if kind == "binary" else softmax(score[:n_classes])
    return -np.log(p[int(y)])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_losses_and_predictions_are_the_naive_ones(seed):
    outputs = TaskOutputs(KINDS, N_CLASSES)
    scores, y = scores_and_labels(np.random.default_rng(seed))
    losses, predicted = outputs.cell_losses(scores, y), outputs.predictions(scores).detach().numpy()
    for i, row in enumerate(scores.detach().numpy()):
        for t, (kind, n_classes) in enumerate(zip(KINDS, N_CLASSES, strict=True)):
            assert losses[i, t].item() == pytest.approx(naive_loss(kind, n_classes, row[t], y[i, t].item()))
            if kind == "multiclass":
                np.testing.assert_allclose(predicted[i, t, :n_classes], softmax(row[t, :n_classes]))
            else:
                assert predicted[i, t, 0] == pytest.approx(expit(row[t, 0]) if kind == "binary" else row[t, 0])


def test_padding_has_no_probability_and_no_gradient():
    outputs = TaskOutputs(KINDS, N_CLASSES)
    scores, y = scores_and_labels(np.random.default_rng(0))
    outputs.cell_losses(scores, y).sum().backward()
    n_used = [3, 1, 1, 4, 1]
    is_used = torch.arange(4) < torch.tensor(n_used)[:, None]
    assert torch.equal((scores.grad != 0).all(dim=0), is_used)
    assert torch.equal((scores.grad != 0).any(dim=0), is_used)
    assert (outputs.predictions(scores)[:, 0, 3] == 0).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_share_explained_is_r2_and_its_counterpart_in_log_loss(seed):
    rng = np.random.default_rng(seed)
    outputs = TaskOutputs(KINDS, N_CLASSES)
    scores, y = scores_and_labels(rng, n=30)
    weight = rng.uniform(0.5, 2.0, size=y.shape) * (rng.random(y.shape) < 0.8)
    got = explained(outputs, scores, y, torch.as_tensor(weight)).detach().numpy()
    predicted, labels = outputs.predictions(scores).detach().numpy(), y.numpy()
    for t, (kind, n_classes) in enumerate(zip(KINDS, N_CLASSES, strict=True)):
        use = weight[:, t] > 0
        truth, w = labels[use, t], weight[use, t]
        if kind == "regression":
            expected = r2_score(truth, predicted[use, t, 0], sample_weight=w)
        else:
            classes = range(n_classes)
            share = np.array([w[truth == c].sum() for c in classes]) / w.sum()
            p = predicted[use, t, :n_classes]
            if kind == "binary":
                p = np.column_stack([1 - p[:, 0], p[:, 0]])
            constant = np.tile(share, (len(truth), 1))
            losses = [log_loss(truth, q, sample_weight=w, labels=classes) for q in (p, constant)]
            expected = 1 - losses[0] / losses[1]
        assert got[t] == pytest.approx(expected, rel=1e-6)


def test_a_task_without_labels_or_with_one_value_only_has_no_figure():
    outputs = TaskOutputs(["regression", "binary", "regression", "regression"], [0, 2, 0, 0])
    y = torch.tensor([[1.0, 1.0, 5.0, 1.0], [2.0, 1.0, 5.0, 2.0]], dtype=torch.float64)
    weight = torch.tensor([[0.0, 1.0, 1.0, 1.0]] * 2, dtype=torch.float64)
    got = explained(outputs, torch.zeros(2, 4, 1, dtype=torch.float64), y, weight)
    assert torch.isnan(got).tolist() == [True, True, True, False]


def test_the_training_loss_is_the_weighted_mean_loss_of_the_tasks_whatever_the_batches():
    X, Y = regression_data(n=90)
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.2, 3.0, size=Y.shape)
    Y[rng.random(Y.shape) < 0.2] = np.nan
    Y[np.isnan(Y).all(axis=1), 0] = 0.0
    options = ALONE | {"max_epochs": 1, "learning_rate": 1e-12, "precision": "float64", "task_weight": {0: 5.0}}
    predicted = MultiTabNet(**options | {"max_epochs": 0}).fit(X, Y, weight).predict(X)
    losses = []
    for t in range(2):
        use = ~np.isnan(Y[:, t])
        w, y = weight[use, t], Y[use, t]
        mean = np.average(y, weights=w)
        losses.append(np.average((y - predicted[use, t]) ** 2, weights=w) / np.average((y - mean) ** 2, weights=w))
    for batch_size in (1000, 30, 7):
        net = MultiTabNet(**options | {"batch_size": batch_size}).fit(X, Y, weight)
        assert net.history_["train_loss"].tolist() == pytest.approx([np.mean(losses)], rel=1e-6)


# --- what is not observed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("sample_attention", [False, True], ids=["features", "features and rows"])
def test_a_missing_label_is_any_label_of_weight_0(early_stopping, sample_attention):
    rng = np.random.default_rng(0)
    X, Y = regression_data(n=120)
    Y = np.column_stack([Y, rng.integers(0, 3, size=120)])
    is_missing = rng.random(Y.shape) < 0.3
    is_missing[is_missing.all(axis=1), 1] = False
    options = SMALL | {
        "early_stopping": early_stopping,
        "sample_attention": sample_attention,
        "sample_attention_dim": 8,
        "task_types": {0: "regression", 1: "regression", 2: "multiclass"},
    }
    missing = MultiTabNet(**options).fit(X, np.where(is_missing, np.nan, Y))
    for anything in (0.0, 7.0, 1e6):
        net = MultiTabNet(**options).fit(X, np.where(is_missing, anything, Y), (~is_missing).astype(float))
        assert same(net, missing, X)
        assert net.history_.equals(missing.history_)
    assert not same(MultiTabNet(**options).fit(X, Y), missing, X)


# --- schedule, patience, weights --------------------------------------------------------------------------------------


def step_sizes(**options):
    X, Y = regression_data(n=50)
    net = MultiTabNet(**ALONE | {"batch_size": 50, "max_epochs": 40, "learning_rate": 0.01} | options).fit(X, Y)
    return net.history_["learning_rate"].to_numpy()  # one step per epoch


def test_the_step_size_rises_linearly_and_then_stays_or_falls_to_a_hundredth():
    constant = step_sizes(schedule="constant", warmup_fraction=0.1)
    np.testing.assert_allclose(constant[:4], 0.01 * np.arange(1, 5) / 4)
    np.testing.assert_allclose(constant[4:], 0.01)
    cosine = step_sizes(schedule="cosine", warmup_fraction=0.1)
    np.testing.assert_allclose(cosine[:4], constant[:4])
    assert (np.diff(cosine[4:]) < 0).all()
    assert 0.01 * 0.01 <= cosine[-1] < 0.01 * 0.015
    assert cosine[4 + 18] == pytest.approx(0.01 * (0.01 + 0.99 / 2))  # half way down after half of the rest
    np.testing.assert_allclose(step_sizes(schedule="constant", warmup_fraction=0.0), 0.01)


def test_a_gradient_is_never_longer_than_gradient_clip():
    X, Y = regression_data()
    free = MultiTabNet(**SMALL, gradient_clip=0.0, weight_decay=0.0).fit(X, Y)
    held = MultiTabNet(**SMALL, gradient_clip=1e-13, weight_decay=0.0).fit(X, Y)  # far below what AdamW takes for 0
    start = MultiTabNet(**SMALL | {"max_epochs": 0}, weight_decay=0.0).fit(X, Y)
    moved = np.abs(held.predict(X) - start.predict(X)).max()
    assert moved < 1e-4 < 1e-2 < np.abs(free.predict(X) - start.predict(X)).max()


def test_the_weights_of_the_best_epoch_are_kept_and_training_ends_when_patience_does():
    X, Y = regression_data(n=400)
    options = ALONE | {"early_stopping": True, "learning_rate": 0.1, "max_epochs": 60, "patience": 4}
    options |= {"schedule": "constant"}  # steps that stay large lead away from the best weights
    net = MultiTabNetRegressor(**options).fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    scores = net.history_["validation_score"]
    assert scores.idxmax() < len(scores) - 1  # not the last epoch, or this shows nothing
    assert net.score(X[200:], Y[200:]) == pytest.approx(scores.max(), abs=1e-5)
    assert len(scores) < 60
    assert len(scores) - 1 - scores.idxmax() in (4, 5)


def test_dropout_leaves_out_its_share_of_the_channels_of_a_row_and_keeps_the_mean():
    dropout = TokenDropout(0.2).train()
    x = dropout(torch.ones(400, 3, 50))
    assert float((x == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(x[:, 0], x[:, 2]) and not torch.equal(x[0], x[1])
    torch.testing.assert_close(x[x > 0], torch.full_like(x[x > 0], 1 / 0.8))
    assert torch.equal(dropout.eval()(x), x)


def test_what_early_stopping_watches_is_the_mean_of_the_figures_of_the_tasks():
    X, Y = regression_data(n=300)
    Y = np.column_stack([Y, Y[:, 0] > 0])
    net = MultiTabNet(**SMALL | {"early_stopping": True}).fit(X, Y)
    history = net.history_
    by_task = history[[f"validation_score[{t}]" for t in range(3)]]
    np.testing.assert_allclose(by_task.mean(axis=1), history["validation_score"], rtol=1e-5)


# --- several tasks, one step ------------------------------------------------------------------------------------------


def test_equal_weighting_is_the_mean_with_the_factors_of_the_tasks():
    weighting = make_weighting("equal", np.array([1.0, 3.0]))
    assert weighting.total(torch.tensor([2.0, 10.0])).item() == pytest.approx((2 + 30) / 4)


def test_uncertainty_weighting_divides_by_learned_variances_and_charges_for_them():
    weighting = make_weighting("uncertainty", np.array([1.0, 3.0])).double()
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([0.5, -1.0]))
    losses = torch.tensor([2.0, 10.0], dtype=torch.float64)
    expected = 0.25 * (2 / np.exp(0.5) + 0.5) + 0.75 * (10 / np.exp(-1.0) - 1.0)
    assert weighting.total(losses).item() == pytest.approx(expected)
    weighting.backward(losses, list(weighting.parameters()))
    gradient = [0.25 * (1 - 2 / np.exp(0.5)), 0.75 * (1 - 10 / np.exp(-1.0))]
    assert weighting.log_variance.grad.tolist() == pytest.approx(gradient)


def test_mgda_steps_along_the_shortest_combination_of_the_gradients():
    pytest.importorskip("torchjd", reason="torchjd is not installed")
    weighting = make_weighting("mgda", np.array([1.0, 1.0]))
    parameter = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    slopes = torch.tensor([[2.0, 0.0], [0.0, 6.0]])  # halved by the equal weights: (1, 0) and (0, 3)
    weighting.backward(slopes @ parameter, [parameter])
    np.testing.assert_allclose(parameter.grad, [0.9, 0.3], atol=1e-2)  # 0.9·(1, 0) + 0.1·(0, 3)


@pytest.mark.parametrize("task_weighting", [name for name in WEIGHTINGS if name != "equal"])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_every_task_weighting_trains_and_differs_from_equal_weights(task_weighting, n_tasks):
    if task_weighting in AGGREGATORS:
        pytest.importorskip("torchjd", reason="torchjd is not installed")
    X, Y = regression_data(n_tasks=n_tasks)
    options = SMALL | {"learning_rate": 0.01, "gradient_clip": 0.0}
    equal = MultiTabNetRegressor(**options).fit(X, Y)
    other = MultiTabNetRegressor(**options, task_weighting=task_weighting).fit(X, Y)
    assert np.isfinite(other.predict(X)).all()
    losses = other.history_["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    # A single task leaves nothing to combine, but its loss may still be divided by its variance.
    is_equal = np.allclose(other.predict(X), equal.predict(X), rtol=1e-4, atol=1e-4)
    assert is_equal == (n_tasks == 1 and task_weighting in AGGREGATORS)


def test_without_torchjd_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    X, Y = regression_data(n=30)
    with pytest.raises(ImportError, match=r"task_weighting='upgrad' .* pip install 'mttab\[torchjd\]'"):
        MultiTabNet(**SMALL, task_weighting="upgrad").fit(X, Y)


# --- interrupts, errors, threads --------------------------------------------------------------------------------------


class Interrupting(Messages):
    """In place of messages: sends SIGINT after some epochs, as Ctrl-C does."""

    after = 6

    def end_step(self, n_done, figures, model):
        if self.part == "member 1" and n_done == self.after + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return False


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGINT"),
    reason="an interrupt comes to the main thread",
)
@pytest.mark.parametrize("n_members", [1, 2])
def test_an_interrupt_keeps_the_best_weights_so_far(monkeypatch, n_members, request):
    # Workers of pytest-xdist ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(_callbacks, "Messages", Interrupting)
    X, Y = regression_data(n=400)
    options = SMALL | {
        "early_stopping": True,
        "learning_rate": 0.1,
        "max_epochs": 100_000,
        "patience": 100_000,
        "n_members": n_members,
        "n_jobs": n_members,
        "verbose": 1,
    }
    net = MultiTabNetRegressor(**options)
    try:
        net.fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    except KeyboardInterrupt:
        pytest.fail("the interrupt came through")
    assert all(n < 100_000 for n in net.n_iter_) and max(net.n_iter_) > Interrupting.after
    assert np.isfinite(net.predict(X)).all()
    if n_members == 1:
        assert net.score(X[200:], Y[200:]) == pytest.approx(net.history_["validation_score"].max(), abs=1e-5)


def test_results_come_in_the_order_of_the_jobs():
    def job(i):
        def run(is_cancelled):
            time.sleep(0.02 * (3 - i))
            return i

        return run

    assert run_side_by_side([job(i) for i in range(3)], CPU, 3) == [0, 1, 2]
    assert run_side_by_side([job(i) for i in range(3)], CPU, 1) == [0, 1, 2]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_an_error_of_one_job_is_raised_and_stops_the_others(order):
    has_begun, seen = threading.Event(), []

    def fails(is_cancelled):
        has_begun.wait(30)
        raise ValueError("no good")

    def waits(is_cancelled):
        has_begun.set()
        end = time.monotonic() + 30
        while not is_cancelled() and time.monotonic() < end:
            time.sleep(0.005)
        seen.append(is_cancelled())

    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="no good"):
        run_side_by_side([fails, waits][::order], CPU, 2)
    assert seen == [True]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("n_jobs", "n_networks", "share"), [(4, 2, 2), (4, 1, 4), (1, 3, 1), (3, 2, 1)])
def test_jobs_share_the_threads_and_leave_their_number_as_it_was(n_jobs, n_networks, share):
    before = torch.get_num_threads()
    found = run_side_by_side([lambda is_cancelled: torch.get_num_threads()] * n_networks, CPU, n_jobs)
    assert found == [share] * n_networks
    assert torch.get_num_threads() == before


def test_n_jobs_none_takes_as_many_threads_as_torch_has():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for n_jobs in (None, -1):
            assert run_side_by_side([lambda is_cancelled: torch.get_num_threads()], CPU, n_jobs) == [3]
    finally:
        torch.set_num_threads(before)


def global_state():
    return (
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002 - that of numpy's global generator
    )


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_fit_and_predict_leave_the_global_state_as_it_was(precision):
    X, Y = regression_data(n=100)
    before_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = global_state()
        net = MultiTabNet(**SMALL, precision=precision).fit(X, Y)
        assert global_state() == before
        net.predict(X)
        net.partial_fit(X, Y)
        assert global_state() == before
        with pytest.raises(ValueError, match="no multiple of n_heads"):
            MultiTabNet(**SMALL | {"embedding_dim": 9}, precision=precision).fit(X, Y)
        assert global_state() == before
    finally:
        torch.set_num_threads(before_threads)


def test_the_global_seed_plays_no_part():
    X, Y = regression_data(n=100)
    options = SMALL | {"dropout": 0.2, "n_members": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = MultiTabNet(**options).fit(X, Y)
        torch.manual_seed(2)
        assert same(MultiTabNet(**options).fit(X, Y), one, X)


def test_members_trained_side_by_side_are_those_trained_one_after_the_other():
    X, Y = regression_data(n=100)
    options = SMALL | {"dropout": 0.2, "n_members": 3}
    one = MultiTabNet(**options).fit(X, Y)
    other = MultiTabNet(**options | {"n_jobs": 3}).fit(X, Y)
    assert same(one, other, X)
    assert one.history_.equals(other.history_)


def test_fits_in_threads_do_not_disturb_each_other():
    X, Y = regression_data(n=60)
    options = SMALL | {"dropout": 0.2, "max_epochs": 1}
    alone = {p: MultiTabNet(**options, precision=p).fit(X, Y).predict(X) for p in ("float32", "float64")}
    before_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = global_state()
        order = ["float32", "float64"] * 8
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda p: MultiTabNet(**options, precision=p).fit(X, Y).predict(X), order))
        assert global_state() == before
    finally:
        torch.set_num_threads(before_threads)
    for precision, predicted in zip(order, found, strict=True):
        np.testing.assert_array_equal(predicted, alone[precision])


@pytest.mark.parametrize(
    ("n_rows", "n_epochs", "batch_size"), [(100, 100, 32), (5000, 100, 128), (32_000, 100, 1024), (100_000, 32, 1024)]
)
def test_by_default_large_tables_are_passed_over_less_often_in_larger_batches(n_rows, n_epochs, batch_size):
    options = MultiTabNet()._training_options(n_rows, True, False)
    assert (options.max_epochs, options.batch_size) == (n_epochs, batch_size)


def test_going_on_never_ends_with_worse_weights_than_it_began_with():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = X[:, :2] + 0.1 * rng.normal(size=(300, 2))
    held = {"X_val": X[200:], "y_val": Y[200:]}
    small = {"embedding_dim": 8, "n_blocks": 1, "n_members": 1, "random_state": 0, "n_jobs": 1}
    net = MultiTabNetRegressor(**small, max_epochs=20, learning_rate=0.02, warm_start=True).fit(
        X[:200], Y[:200], **held
    )
    before = net.score(X[200:], Y[200:])
    net.set_params(learning_rate=5.0, max_epochs=2).fit(X[:200], Y[:200], **held)
    assert net.score(X[200:], Y[200:]) >= before - 1e-6


def test_a_task_with_a_handful_of_labels_keeps_them_for_training():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    Y = np.column_stack([X[:, 0], np.full(400, np.nan)])
    Y[:3, 1] = [0.0, 1.0, 2.0]
    net = MultiTabNetRegressor(validation_fraction=0.9)
    encoding, rows, keep, _ = net._read_training(X, Y, None, None, None)
    for seed in range(20):  # the three would often be held out together
        held = net._held_out(encoding, rows, keep, X, Y, None, np.random.default_rng(seed))
        assert rows.weight[~held, 1].any()
        assert 0.8 < held.mean() < 0.95


def test_the_mean_of_the_weights_is_a_running_one_and_leaves_the_network_as_it_was():
    layer = torch.nn.Linear(1, 1, bias=False)
    average, mean = WeightAverage(layer, 0.9), layer.weight.item()
    for step in range(1, 200):  # the last one is 199
        with torch.no_grad():
            layer.weight.fill_(float(step % 7))
        average.update()
        decay = min(0.9, step / (step + 9))
        mean = decay * mean + (1 - decay) * (step % 7)
    with average.applied():
        assert layer.weight.item() == pytest.approx(mean, rel=1e-4)
    assert layer.weight.item() == 199 % 7
    average.apply()
    assert layer.weight.item() == pytest.approx(mean, rel=1e-4)


def test_without_averaging_the_weights_of_the_last_step_stay():
    layer = torch.nn.Linear(1, 1)
    average = WeightAverage(layer, 0.0)
    before = layer.weight.item()
    average.update()
    average.apply()
    assert layer.weight.item() == before
