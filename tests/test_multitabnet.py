"""MultiTab-Net as users hold it: what a fit promises, whatever the table, the labels and the options."""

import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

pytest.importorskip("torch", reason="torch is not installed")

import torch

from mttab import MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor
from mttab._core.neural.attention import MASKS
from mttab._core.neural.tokens import NUMERICAL_EMBEDDINGS
from mttab.datasets import make_multitask_regression

ROOT = Path(__file__).resolve().parents[1]
ESTIMATORS = [MultiTabNet, MultiTabNetRegressor, MultiTabNetClassifier]
SMALL = {
    "embedding_dim": 8,
    "n_heads": 2,
    "n_blocks": 1,
    "mlp_dim": 16,
    "head_dim": 8,
    "direct_dim": 8,
    "companion_dim": 8,
    "n_bins": 4,
    "sample_attention_dim": 8,
    "n_members": 1,
    "max_epochs": 3,
    "batch_size": 64,
    "learning_rate": 0.01,
    "early_stopping": False,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}
ALONE = SMALL | {"companion_dim": 0}
ROWS = {"sample_attention": True, "context_size": 50}
with_and_without_rows = pytest.mark.parametrize("rows", [{}, ROWS], ids=["features", "features and rows"])
each_estimator = pytest.mark.parametrize("estimator_class", ESTIMATORS)


def table(n=150, seed=0):
    """Numbers with holes, a category, and labels of three kinds with holes."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.normal(size=n), "kind": pd.Categorical(rng.choice(["oak", "fir", "elm"], n))})
    X["b"] = np.where(rng.random(n) < 0.1, np.nan, rng.exponential(size=n))
    score = X["a"] + (X["kind"] == "fir")
    Y = pd.DataFrame({"price": 1000 + 50 * (score + 0.1 * rng.normal(size=n)), "sold": (score > 0.3).astype(float)})
    Y["colour"] = np.array(["red", "green", "blue"], dtype=object)[np.digitize(score, [-0.3, 0.8])]
    is_seen = rng.random(Y.shape) > 0.15
    is_seen[~is_seen.any(axis=1), 0] = True
    return X, Y.where(is_seen)


def numbers(estimator_class, n=150, n_tasks=2, seed=0):
    """An array of numbers, and labels for this estimator."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    Y = X[:, np.arange(n_tasks) % 4] + 0.3 * X[:, 2:3] ** 2
    return X, (Y > 0.2).astype(int) if estimator_class is MultiTabNetClassifier else Y


def predicted(model, X, **options):
    """All that a model predicts, as one array of numbers."""
    values = model.predict(X, **options)
    parts = [np.asarray(values, dtype=object)[:, None]] if np.ndim(values) == 1 else [np.asarray(values, dtype=object)]
    out = [np.column_stack([pd.to_numeric(pd.Series(c), errors="coerce").fillna(0.0) for c in parts[0].T])]
    if hasattr(model, "predict_proba"):
        proba = model.predict_proba(X, **options)
        proba = proba.values() if isinstance(proba, dict) else proba if isinstance(proba, list) else [proba]
        out += list(proba)
    return np.column_stack(out).astype(float)


def assert_same(model, other, X):
    np.testing.assert_array_equal(predicted(model, X), predicted(other, X))


def differs(model, other, X):
    return not np.allclose(predicted(model, X), predicted(other, X), rtol=1e-7, atol=1e-7)


# --- one seed, one model ----------------------------------------------------------------------------------------------


@with_and_without_rows
def test_the_same_seed_gives_the_same_predictions_after_pickle_and_clone_too(rows):
    X, Y = table()
    net = MultiTabNet(**SMALL | rows).fit(X, Y)
    assert_same(MultiTabNet(**SMALL | rows).fit(X, Y), net, X)
    assert_same(clone(net).fit(X, Y), net, X)
    assert_same(pickle.loads(pickle.dumps(net)), net, X)
    assert differs(MultiTabNet(**SMALL | rows | {"random_state": 1}).fit(X, Y), net, X)


SECOND_PROCESS = """
import pickle, sys
sys.path.insert(0, {tests!r})
from test_multitabnet import ROWS, SMALL, predicted, table
from mttab import MultiTabNet

X, Y = table()
fitted = MultiTabNet(**SMALL | ROWS).fit(X, Y)
with open({path!r}, "rb") as file:
    loaded = pickle.load(file)
print([[x.hex() for x in predicted(net, X).ravel().tolist()] for net in (fitted, loaded)] == {expected})
"""


def test_the_same_seed_gives_the_same_predictions_in_a_second_process(tmp_path):
    X, Y = table()
    net = MultiTabNet(**SMALL | ROWS).fit(X, Y)
    path = tmp_path / "net.pickle"
    path.write_bytes(pickle.dumps(net))
    expected = [[x.hex() for x in predicted(net, X).ravel().tolist()]] * 2
    script = SECOND_PROCESS.format(tests=str(ROOT / "tests"), path=str(path), expected=expected)
    run = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert run.stdout.strip() == "True", run.stderr


@each_estimator
def test_a_refit_forgets_the_earlier_fit(estimator_class):
    X, Y = numbers(estimator_class, n_tasks=3)
    names = pd.DataFrame(X, columns=list("abcd")).assign(kind=pd.Categorical(["x", "y"] * 75))
    options = SMALL | ROWS
    net = estimator_class(**options).fit(names, Y[:, 0], task=np.arange(150) % 3)
    X, Y = numbers(estimator_class, n=120, seed=1)
    fresh = estimator_class(**options).fit(X, Y)
    assert_same(net.fit(X, Y), fresh, X)
    assert vars(net).keys() == vars(fresh).keys()
    assert not hasattr(net, "feature_names_in_") and net.n_features_in_ == 4 and net.n_tasks_ == 2


@each_estimator
def test_a_fit_that_fails_leaves_the_earlier_one_usable(estimator_class):
    X, Y = numbers(estimator_class)
    net = estimator_class(**SMALL).fit(X, Y)
    before = predicted(net, X)
    with pytest.raises(ValueError, match="infinity"):
        net.fit(np.where(X > 1, np.inf, X)[:, :3], Y)
    np.testing.assert_array_equal(predicted(net, X), before)


def test_nothing_of_the_caller_is_changed():
    X, Y = table()
    weight = np.random.default_rng(0).uniform(size=Y.shape)
    copies = X.copy(), Y.copy(), weight.copy()
    net = MultiTabNet(**SMALL).fit(X, Y, weight)
    net.predict(X), net.score(X, Y, weight), net.task_scores(X, Y), net.attention(X)
    pd.testing.assert_frame_equal(X, copies[0])
    pd.testing.assert_frame_equal(Y, copies[1])
    np.testing.assert_array_equal(weight, copies[2])


# --- a row at a time --------------------------------------------------------------------------------------------------


@with_and_without_rows
def test_a_prediction_does_not_depend_on_the_rows_predicted_with_it(rows):
    X, Y = table(n=300)  # more rows than are predicted at a time
    net = MultiTabNet(**SMALL | rows | {"n_blocks": 2}).fit(X, Y)
    whole = predicted(net, X)
    close = {"rtol": 1e-7, "atol": 1e-7}  # scikit-learn's own measure; prices are off by their unit
    scale = np.array([1000.0, *[1.0] * (whole.shape[1] - 1)])
    for i in (0, 1, 255, 256, 299):
        np.testing.assert_allclose(predicted(net, X[i : i + 1]) / scale, whole[[i]] / scale, **close)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_allclose(predicted(net, X.iloc[order]) / scale, whole[order] / scale, **close)


# --- labels and weights -----------------------------------------------------------------------------------------------


def test_predictions_come_back_as_y_came():
    X, Y = table()
    X.index = Y.index = np.arange(len(X)) + 7
    net = MultiTabNet(**SMALL).fit(X, Y)
    out = net.predict(X[:10])
    assert isinstance(out, pd.DataFrame)
    assert out.columns.tolist() == ["price", "sold", "colour"] and out.index.tolist() == list(range(7, 17))
    assert out["price"].between(700, 1300).all()
    assert set(out["sold"]) <= {0, 1} and set(out["colour"]) <= {"red", "green", "blue"}
    assert net.task_types_ == {"price": "regression", "sold": "binary", "colour": "multiclass"}
    assert net.tasks_.tolist() == ["price", "sold", "colour"]
    assert {k: v.tolist() for k, v in net.classes_.items()} == {"sold": [0, 1], "colour": ["blue", "green", "red"]}
    array = MultiTabNet(**SMALL).fit(X, Y.to_numpy()).predict(X)
    assert isinstance(array, np.ndarray) and array.shape == Y.shape
    one = MultiTabNet(**SMALL).fit(X, Y["price"].fillna(1000.0)).predict(X)
    assert isinstance(one, np.ndarray) and one.shape == (len(X),)


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [3, 5]], ids=["strings", "bools", "integers"])
def test_classes_may_be_strings_bools_or_integers(labels):
    X, Y = numbers(MultiTabNetClassifier)
    Y = np.array(labels)[Y]
    net = MultiTabNetClassifier(**SMALL | {"max_epochs": 30}).fit(X, Y)
    assert [c.tolist() for c in net.classes_] == [labels, labels]
    assert net.predict(X).tolist()[0][0] in labels
    assert net.score(X, Y) > 0.8


@each_estimator
def test_a_row_without_any_label_is_left_out_with_a_warning(estimator_class):
    X, Y = numbers(estimator_class)
    Y = Y.astype(float)
    Y[[3, 77]] = np.nan
    keep = ~np.isnan(Y).all(axis=1)
    with pytest.warns(UserWarning, match=r"y has no label in 2 of 150 rows \(first: row 3\); they are left out"):
        net = estimator_class(**SMALL).fit(X, Y)
    assert_same(net, estimator_class(**SMALL).fit(X[keep], Y[keep]), X)
    with pytest.warns(UserWarning, match="y has no label in 2 of 150 rows"):
        estimator_class(**SMALL).fit(X, Y[:, 0])


@each_estimator
def test_a_row_of_weight_0_is_left_out_without_a_warning(estimator_class, recwarn):
    X, Y = numbers(estimator_class)
    weight = np.ones(150)
    weight[[3, 77]] = 0.0
    net = estimator_class(**SMALL).fit(X, Y, weight)
    assert len(recwarn) == 0
    assert_same(net, estimator_class(**SMALL).fit(X[weight > 0], Y[weight > 0]), X)


@with_and_without_rows
def test_a_weight_per_row_is_that_of_all_its_labels_and_their_unit_plays_no_part(rows):
    X, Y = numbers(MultiTabNet)
    weight = np.random.default_rng(0).integers(1, 9, size=150).astype(float)
    options = SMALL | rows | {"precision": "float64"}
    net = MultiTabNet(**options).fit(X, Y, weight)
    assert_same(MultiTabNet(**options).fit(X, Y, np.column_stack([weight, weight])), net, X)
    for unit in [1024.0, 1e-40]:
        assert not differs(MultiTabNet(**options).fit(X, Y, unit * weight), net, X)
    assert differs(MultiTabNet(**options).fit(X, Y), net, X)


def test_a_label_of_weight_0_may_be_anything_wherever_labels_are_read():
    X, Y = table()
    weight = np.ones(Y.shape)
    weight[0] = 0.0
    odd = Y.assign(price=np.where(np.arange(150) == 0, np.inf, Y["price"]))
    odd.loc[0, "colour"] = "mauve"
    net = MultiTabNet(**SMALL | {"early_stopping": "auto"}, warm_start=True)
    net.fit(X, odd, weight, X_val=X, y_val=odd, sample_weight_val=weight).fit(X, odd, weight).partial_fit(
        X, odd, weight
    )
    assert net.score(X, odd, weight) == pytest.approx(net.score(X[1:], odd[1:]), rel=1e-6)
    pd.testing.assert_frame_equal(net.task_scores(X, odd, weight), net.task_scores(X[1:], odd[1:]))


def test_labels_that_contradict_each_other_are_averaged_by_the_weights_of_their_cells():
    X = np.random.default_rng(0).normal(size=(60, 2))
    Y = np.repeat([[1.0, 1.0], [-1.0, -1.0]], 60, axis=0)
    weight = np.repeat([[9.0, 1.0], [1.0, 1.0]], 60, axis=0)
    net = MultiTabNet(**SMALL | {"max_epochs": 15}).fit(np.vstack([X, X]), Y, weight)
    assert net.predict(X).mean(axis=0) == pytest.approx([0.8, 0.0], abs=0.12)


def test_task_weight_says_what_a_task_counts():
    X, Y = numbers(MultiTabNet)
    net = MultiTabNet(**SMALL).fit(X, Y)
    assert_same(MultiTabNet(**SMALL, task_weight={0: 2.0, 1: 2.0}).fit(X, Y), net, X)
    heavy = MultiTabNet(**SMALL, task_weight={0: 1000.0}).fit(X, Y)
    alone = MultiTabNet(**SMALL, task_weight={0: 1e9}).fit(X, Y)
    assert differs(heavy, net, X)
    assert np.abs(heavy.predict(X) - alone.predict(X))[:, 0].max() < np.abs(heavy.predict(X) - net.predict(X)).max()
    task = np.arange(150) % 3
    of_rows = {w: MultiTabNet(**SMALL, task_weight={2: w}).fit(X, Y[:, 0], task=task) for w in (1.0, 50.0)}
    assert np.abs(of_rows[1.0].predict(X, task=task) - of_rows[50.0].predict(X, task=task)).max() > 1e-3


# --- tasks of rows ----------------------------------------------------------------------------------------------------


def row_tasks(n=150, n_tasks=3, seed=0):
    """Numbers, a task per row that shifts the target, and that target."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc"))
    X["task"] = [f"t{i}" for i in np.arange(n) % n_tasks]
    return X, (X["a"] + 2.0 * (np.arange(n) % n_tasks)).to_numpy()


def test_the_task_of_a_row_may_come_as_a_column_or_as_an_argument():
    X, y = row_tasks()
    net = MultiTabNetRegressor(**SMALL, task_column="task").fit(X, y)
    assert net.tasks_.tolist() == ["t0", "t1", "t2"] and net.n_tasks_ == 3 and net.n_features_in_ == 4
    other = MultiTabNetRegressor(**SMALL).fit(X[list("abc")], y, task=X["task"])
    np.testing.assert_array_equal(other.predict(X[list("abc")], task=X["task"]), net.predict(X))
    array = MultiTabNetRegressor(**SMALL, task_column=-1).fit(X.to_numpy(), y)
    np.testing.assert_array_equal(array.predict(X.to_numpy()), net.predict(X))
    pairs = MultiTabNetRegressor(**SMALL, task_column=["task", "half"])
    pairs.fit(X.assign(half=np.arange(150) % 2), y)
    assert pairs.n_tasks_ == 6 and pairs.tasks_[0] == ("t0", 0)


def test_a_network_with_row_tasks_learns_what_tells_them_apart():
    X, y = row_tasks(n=300)
    options = SMALL | {"max_epochs": 40, "task_column": "task"}
    assert MultiTabNetRegressor(**options).fit(X, y).score(X, y) > 0.9
    assert MultiTabNetClassifier(**options).fit(X, y > 2.0).score(X, y > 2.0) > 0.9


def test_190_row_tasks_cost_one_token_per_row_and_one_line_of_a_table_per_task():
    size = {}
    for n_tasks in (2, 190):
        X, y = row_tasks(n=380, n_tasks=n_tasks)
        net = MultiTabNetRegressor(**SMALL, task_column="task").fit(X, y)
        module = net._networks[0].module
        size[n_tasks] = sum(p.numel() for p in module.parameters())
        assert net.attention(X)["t1"].shape == (1, 3 + 1)
    assert size[190] - size[2] == 188 * SMALL["embedding_dim"]


def test_a_task_that_fit_did_not_see_has_the_mean_of_all_tokens():
    X, y = row_tasks()
    net = MultiTabNetRegressor(**ALONE, task_column="task").fit(X, y)
    unseen = net.predict(X.assign(task="new"))
    np.testing.assert_array_equal(net.predict(X.assign(task="other")), unseen)
    assert all(np.abs(net.predict(X.assign(task=t)) - unseen).max() > 1e-4 for t in net.tasks_)
    tokens = net._networks[0].module.task_tokens
    with torch.no_grad():
        tokens.copy_(tokens.mean(dim=0).expand_as(tokens).clone())
    np.testing.assert_allclose(net.predict(X), unseen, rtol=1e-5)


def test_a_task_that_fit_did_not_see_may_be_an_error():
    X, y = row_tasks()
    net = MultiTabNetRegressor(**SMALL, task_column="task", unseen_task="error").fit(X, y)
    assert np.isfinite(net.predict(X)).all()
    with pytest.raises(ValueError, match=r"task_column='task' holds 1 task\(s\) that fit did not see, 'new'"):
        net.predict(X.assign(task="new"))


def test_with_a_scale_per_task_the_unit_of_a_task_plays_no_part():
    X, y = row_tasks()
    is_last = (X["task"] == "t2").to_numpy()
    in_cents = np.where(is_last, 128.0 * y, y)
    options = SMALL | {"task_column": "task", "target_scaling": "task", "precision": "float64"}
    net = MultiTabNetRegressor(**options).fit(X, y)
    other = MultiTabNetRegressor(**options).fit(X, in_cents)
    np.testing.assert_allclose(other.predict(X), np.where(is_last, 128.0, 1.0) * net.predict(X), rtol=1e-6)
    pooled = options | {"target_scaling": None}
    ratio = MultiTabNetRegressor(**pooled).fit(X, in_cents).predict(X) / MultiTabNetRegressor(**pooled).fit(
        X, y
    ).predict(X)
    assert not np.allclose(ratio, np.where(is_last, 128.0, 1.0), rtol=0.1)


def test_one_row_per_task_works():
    X, y = row_tasks(n=40, n_tasks=40)
    for target_scaling in (None, "task"):
        net = MultiTabNetRegressor(**SMALL, task_column="task", target_scaling=target_scaling).fit(X, y)
        assert np.isfinite(net.predict(X)).all() and net.n_tasks_ == 40


@pytest.mark.parametrize(
    ("fit", "use", "message"),
    [
        ({"task_column": "task", "wide": True}, None, "y has 2 columns, which are tasks themselves, so task_column"),
        ({"task": True, "wide": True}, None, "y has 2 columns, which are tasks themselves"),
        ({"task_column": "task", "task": True}, None, "task= was passed besides task_column='task'; pass the task ids"),
        ({"task_column": "tsk"}, None, r"task_column='tsk' is not a column of X; did you mean 'task'\?"),
        (
            {"task_column": "task"},
            {"task": True},
            "task was passed, but the tasks of this model are task_column='task'",
        ),
        ({"task": True}, {}, "This model was fitted with tasks, so predict needs the task of every row: pass task="),
        ({"wide": True}, {"task": True}, "task was passed, but the tasks of this model are the columns of y; drop"),
        ({"task_column": "task", "task_weight": {"t9": 2.0}}, None, "task_weight names the task 't9', which"),
        (
            {"task_column": "task", "task_weight": {"t1": 0.0}},
            None,
            "task_weight holds 0 for the task 't1', but must be",
        ),
        ({"task_column": "task", "categorical_features": ["task"]}, None, "categorical_features names the task column"),
    ],
)
def test_tasks_that_are_given_in_no_way_or_in_two_are_refused(fit, use, message):
    X, y = row_tasks(n=40)
    fit = dict(fit)
    if fit.pop("wide", False):
        y = np.column_stack([y, y])
    if "task_column" not in fit:
        X, task = X[list("abc")], X["task"]
    else:
        task = X["task"]
    argument = {"task": task} if fit.pop("task", False) else {}
    net = MultiTabNetRegressor(**SMALL, **fit)
    if use is not None:
        net.fit(X, y, **argument)
    with pytest.raises(ValueError, match=message):
        net.fit(X, y, **argument) if use is None else net.predict(X, **({"task": task} if use else {}))


# --- every network ----------------------------------------------------------------------------------------------------


@with_and_without_rows
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("numerical_embedding", NUMERICAL_EMBEDDINGS)
def test_every_network_trains_and_predicts(mask, rows, numerical_embedding):
    X, Y = table()
    options = {"mask": mask, "numerical_embedding": numerical_embedding, "n_blocks": 2, "max_epochs": 6}
    net = MultiTabNet(**SMALL | rows | options).fit(X, Y)
    losses = net.history_["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert np.isfinite(predicted(net, X)).all()


@with_and_without_rows
@pytest.mark.parametrize("n_tasks", [1, 2, 5, 50])
def test_one_task_and_many_tasks_train_and_predict(n_tasks, rows):
    X, Y = numbers(MultiTabNet, n_tasks=n_tasks)
    net = MultiTabNet(**SMALL | rows).fit(X, Y)
    assert net.predict(X).shape == (150, n_tasks) and np.isfinite(net.predict(X)).all()
    assert net.n_tasks_ == len(net.task_scores(X, Y)) == len(net.attention(X)) == n_tasks


@with_and_without_rows
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_every_precision_trains_and_predicts(precision, rows):
    X, Y = numbers(MultiTabNet)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=150)
    net = MultiTabNet(**SMALL | rows | {"max_epochs": 10}, precision=precision).fit(X, Y, weight)
    losses = net.history_["train_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert np.isfinite(net.predict(X)).all() and net.predict(X).dtype == np.float64


@pytest.mark.parametrize(
    "options", [{"batch_size": 1000}, {"batch_size": 7}, {"sample_attention": True, "context_size": 10_000}]
)
def test_batches_and_contexts_may_be_larger_or_smaller_than_the_table(options):
    X, Y = table(n=40)
    assert np.isfinite(predicted(MultiTabNet(**SMALL | options).fit(X, Y), X)).all()


def test_no_epoch_leaves_a_network_that_predicts():
    X, Y = table(n=60)
    net = MultiTabNet(**ALONE | ROWS | {"max_epochs": 0}).fit(X, Y)
    assert np.isfinite(predicted(net, X)).all()
    assert net.n_iter_ == [0] and len(net.history_) == 0


# Another value of each option, and what else it takes to matter.
OTHER_VALUES = {
    "task_weighting": ("uncertainty", {}),
    "task_weight": ({0: 9.0}, {}),
    "categorical_features": ([3], {}),
    "numerical_embedding": ("periodic", {}),
    "n_bins": (7, {"numerical_embedding": "piecewise_linear"}),
    "numerical_scaling": ("standard", {}),
    "embedding_dim": (12, {}),
    "n_blocks": (2, {}),
    "n_heads": (4, {}),
    "mlp_dim": (20, {}),
    "head_dim": (12, {}),
    "direct_dim": (0, {}),
    "companion_dim": (0, {}),
    "mask": ("both", {"n_blocks": 2}),
    "token_features": ("categorical", {}),
    "sample_attention": (True, {}),
    "sample_attention_dim": (None, {"sample_attention": True}),
    "context_size": (20, {"sample_attention": True}),
    "dropout": (0.5, {}),
    "n_members": (2, {}),
    "learning_rate": (0.002, {}),
    "weight_decay": (20.0, {}),
    "batch_size": ("auto", {}),
    "max_epochs": (4, {}),
    "schedule": ("constant", {}),
    "warmup_fraction": (0.7, {}),
    "gradient_clip": (1e-3, {}),
    "weight_averaging": (0.0, {}),
    "sam_rho": (0.5, {}),
    "pretext": ("during", {}),
    "pretext_fraction": (0.8, {"pretext": "during"}),
    "pretext_weight": (9.0, {"pretext": "during"}),
    "pretext_epochs": (2, {"pretext": "before"}),
    "early_stopping": (True, {}),
    "validation": (KFold(2), {"early_stopping": True}),
    "validation_fraction": (0.4, {"early_stopping": True}),
    "precision": ("float64", {}),
    "random_state": (1, {}),
}
# The rest, each with a test of its own, by its name or a part of it.
OTHER_TESTS = {
    "task_types": "test_the_kinds_of_the_tasks_may_be_given",
    "task_column": "test_the_task_of_a_row_may_come_as_a_column",
    "unseen_task": "test_a_task_that_fit_did_not_see_may_be_an_error",
    "target_scaling": "test_with_a_scale_per_task_the_unit",
    "patience": "test_patience_says_how_long_training_goes_on",
    "warm_start": "test_warm_start_goes_on",
    "device": "test_a_device_that_is_not_there",
    "compile": "test_compile_is_passed_on",
    "n_jobs": "test_the_network_is_the_same_for_any_number_of_threads",
    "verbose": "test_verbose_logs_the_figures",
}


@pytest.mark.parametrize("option", OTHER_VALUES)
def test_every_option_changes_the_predictions(option):
    X, Y = numbers(MultiTabNet)
    X[:, 3] = np.round(X[:, 3])
    value, needs = OTHER_VALUES[option]
    base = SMALL | {"dropout": 0.1, "schedule": "cosine", "mask": "task_to_task", "numerical_scaling": "quantile"}
    base |= {"numerical_embedding": "linear", "precision": "float32"} | needs
    net, other = MultiTabNet(**base).fit(X, Y), MultiTabNet(**base | {option: value}).fit(X, Y)
    assert differs(net, other, X)


def test_every_option_has_a_test():
    options = set(inspect.signature(MultiTabNet).parameters)
    assert options == OTHER_VALUES.keys() | OTHER_TESTS.keys()
    assert all(any(name.startswith(test) for name in globals()) for test in OTHER_TESTS.values())


def test_the_parameters_of_the_paper_make_its_network():
    X, Y = numbers(MultiTabNetRegressor)
    for estimator_class in ESTIMATORS:
        paper = estimator_class.paper_parameters()
        assert paper.keys() <= estimator_class().get_params().keys()
    net = MultiTabNetRegressor(**paper | {"max_epochs": 2, "random_state": 0, "n_jobs": 1}).fit(X, Y)
    assert np.isfinite(net.predict(X)).all()
    assert net.attention(X)[0].shape == (1, 4 + 2)
    assert (net.embedding_dim, net.n_heads, net.mask, net.sample_attention) == (16, 4, "task_to_task", True)
    assert net.history_["learning_rate"].tolist() == [1e-3] * 2
    assert net._networks[0].module.direct is None


def test_it_learns():
    X, Y = make_multitask_regression(1400, 4, 3, degree=[1, 2, 2], random_state=0)
    options = {"mlp_dim": 32, "head_dim": 32, "max_epochs": 40, "learning_rate": 0.02, "dropout": 0.0}
    net = MultiTabNetRegressor(**SMALL | options, numerical_embedding="linear").fit(X[:1000], Y[:1000])
    assert (net.task_scores(X[1000:], Y[1000:])["score"] >= 0.95).all()


def test_smooth_functions_of_many_numbers_are_learned_more_exactly_past_the_attention():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 12))
    Y = np.tanh(X @ rng.normal(size=(12, 4)) / 3.0) @ rng.normal(size=(4, 2))
    options = SMALL | {"max_epochs": 60, "early_stopping": True, "dropout": 0.1}
    loss = {}
    for width in (0, 32):
        net = MultiTabNetRegressor(**options | {"direct_dim": width}).fit(X[:500], Y[:500])
        loss[width] = 1.0 - net.score(X[500:], Y[500:])
    assert loss[32] < 0.5 * loss[0]


# --- tables of features -----------------------------------------------------------------------------------------------


def test_a_level_that_fit_did_not_see_has_a_token_of_its_own():
    X, Y = table()
    net = MultiTabNet(**SMALL | ROWS).fit(X.assign(kind=X["kind"].where(np.arange(150) % 7 > 0)), Y)
    of = {level: predicted(net, X.assign(kind=level)) for level in ["fir", "oak", "elm", None, "ash", "yew"]}
    np.testing.assert_array_equal(of["ash"], of["yew"])
    for known in ("fir", "oak", "elm", None):
        assert np.abs(of["ash"] - of[known]).max() > 1e-6


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"k": ["x", "y", None] * 20, "l": pd.Categorical([1, 2, 2] * 20)}),
        pd.DataFrame({"a": [5.0] * 60, "b": [np.nan] * 60}),
        pd.DataFrame({"a": np.arange(60.0), "b": [np.nan] * 60, "c": 1, "k": "x"}),
        pd.DataFrame({"k": [None] * 60, "a": np.arange(60.0)}).astype({"k": object}),
        np.full((60, 1), np.nan),
    ],
    ids=["all categorical", "nothing to see", "one of each", "an empty category", "one empty column"],
)
@with_and_without_rows
@pytest.mark.parametrize("numerical_embedding", NUMERICAL_EMBEDDINGS)
def test_constant_empty_and_categorical_tables_work(X, rows, numerical_embedding):
    rng = np.random.default_rng(0)
    Y = np.column_stack([rng.normal(size=60), rng.integers(0, 2, size=60)])
    net = MultiTabNet(**SMALL | rows, numerical_embedding=numerical_embedding).fit(X, Y)
    assert np.isfinite(predicted(net, X)).all()


def test_a_reordered_or_missing_column_is_scikit_learns_error_that_names_it():
    X, Y = table()
    net = MultiTabNet(**SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
        net.predict(X[["b", "kind", "a"]])
    with pytest.raises(ValueError, match=r"Feature names seen at fit time, yet now missing:\n- kind"):
        net.predict(X[["a", "b"]])
    with pytest.raises(ValueError, match=r"Feature names unseen at fit time:\n- extra"):
        net.predict(X.assign(extra=1.0))
    array = MultiTabNetRegressor(**SMALL).fit(*numbers(MultiTabNetRegressor))
    with pytest.raises(ValueError, match="X has 3 features, but MultiTabNetRegressor is expecting 4 features"):
        array.predict(np.zeros((2, 3)))


# --- probabilities and scores -----------------------------------------------------------------------------------------


def test_probabilities_are_an_array_a_list_or_a_dict():
    X, Y = table()
    Y = Y.ffill().bfill()
    one = MultiTabNetClassifier(**SMALL).fit(X, Y["colour"])
    assert one.predict_proba(X).shape == (150, 3) and one.classes_.tolist() == ["blue", "green", "red"]
    two = MultiTabNetClassifier(**SMALL).fit(X, Y[["sold", "colour"]])
    assert [p.shape for p in two.predict_proba(X)] == [(150, 2), (150, 3)]
    assert [c.tolist() for c in two.classes_] == [[0, 1], ["blue", "green", "red"]]
    mixed = MultiTabNet(**SMALL).fit(X, Y)
    assert {k: p.shape for k, p in mixed.predict_proba(X).items()} == {"sold": (150, 2), "colour": (150, 3)}
    assert not hasattr(MultiTabNetRegressor(), "predict_proba")
    for p, classes, label in [
        (one.predict_proba(X), one.classes_, one.predict(X)),
        (two.predict_proba(X)[0], two.classes_[0], two.predict(X)["sold"]),
        (mixed.predict_proba(X)["colour"], mixed.classes_["colour"], mixed.predict(X)["colour"]),
    ]:
        np.testing.assert_allclose(p.sum(axis=1), 1.0)
        assert (p > 0).all()
        np.testing.assert_array_equal(classes[p.argmax(axis=1)], label)


def test_the_score_is_the_mean_of_r2_and_accuracy_over_the_observed_labels():
    X, Y = table()
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=Y.shape)
    net = MultiTabNet(**SMALL).fit(X, Y)
    found, out = net.task_scores(X, Y, weight), net.predict(X)
    assert found.index.tolist() == ["price", "sold", "colour"] and found.index.name == "task"
    assert found["metric"].tolist() == ["r2", "accuracy", "accuracy"]
    assert found["n"].tolist() == Y.notna().sum().tolist()
    for t, (label, metric) in enumerate(zip(Y, [r2_score, accuracy_score, accuracy_score], strict=True)):
        use = Y[label].notna()
        expected = metric(Y.loc[use, label], out.loc[use, label], sample_weight=weight[use, t])
        assert found.loc[label, "score"] == pytest.approx(expected)
    assert net.score(X, Y, weight) == pytest.approx(found["score"].mean())


@pytest.mark.parametrize("estimator_class", [MultiTabNetRegressor, MultiTabNetClassifier])
def test_the_scores_of_the_thin_estimators_know_missing_labels_and_tasks_too(estimator_class):
    X, Y = numbers(estimator_class)
    Y = np.where(np.random.default_rng(0).random(Y.shape) < 0.2, np.nan, Y)
    Y[np.isnan(Y).all(axis=1)] = 1.0
    net = estimator_class(**SMALL).fit(X, Y)
    metric = accuracy_score if estimator_class is MultiTabNetClassifier else r2_score
    seen = [~np.isnan(y) for y in Y.T]
    expected = [metric(Y[use, t], net.predict(X)[use, t]) for t, use in enumerate(seen)]
    assert net.score(X, Y) == pytest.approx(np.mean(expected))
    task = np.arange(150) % 2
    y = np.nan_to_num(Y[:, 0])
    of_rows = estimator_class(**SMALL).fit(X, y, task=task)
    assert of_rows.score(X, y, task=task) == pytest.approx(metric(y, of_rows.predict(X, task=task)))


def test_scores_by_task_of_row_tasks_are_those_of_their_rows():
    X, y = row_tasks()
    net = MultiTabNetRegressor(**SMALL, task_column="task").fit(X, y)
    found = net.task_scores(X, y)
    assert found.index.tolist() == ["t0", "t1", "t2"] and found["n"].tolist() == [50] * 3
    for label in found.index:
        use = X["task"] == label
        assert found.loc[label, "score"] == pytest.approx(r2_score(y[use], net.predict(X[use])))


def test_a_task_without_a_label_has_no_score_and_none_at_all_is_an_error():
    X, Y = table()
    net = MultiTabNet(**SMALL).fit(X, Y)
    some = Y.assign(price=np.nan)
    assert net.task_scores(X, some)["score"].isna().tolist() == [True, False, False]
    assert net.score(X, some) == pytest.approx(net.task_scores(X, some)["score"].mean())
    with pytest.raises(ValueError, match="y has no label with a positive weight, so there is nothing to score"):
        net.score(X, pd.DataFrame(np.nan, index=Y.index, columns=Y.columns))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_single_label_of_a_regression_leaves_the_score_to_the_other_tasks():
    X, Y = table()
    net = MultiTabNet(**SMALL).fit(X, Y)
    one = Y.assign(price=Y["price"].where(np.arange(150) == Y["price"].first_valid_index()))
    assert net.task_scores(X, one)["score"].isna().tolist() == [True, False, False]
    assert net.score(X, one) == pytest.approx(net.task_scores(X, one)["score"].mean())
    assert np.isnan(net.score(X, one.assign(sold=np.nan, colour=None)))


def test_a_class_that_fit_did_not_see_is_a_miss_in_the_score():
    X, Y = numbers(MultiTabNetClassifier)
    net = MultiTabNetClassifier(**SMALL).fit(X, Y)
    assert net.score(X, np.full(Y.shape, 7)) == 0.0


# --- what is watched in training --------------------------------------------------------------------------------------


def test_the_history_has_a_row_per_member_and_epoch():
    X, Y = table(n=250)
    net = MultiTabNet(**ALONE | {"n_members": 2, "early_stopping": True}).fit(X, Y)
    history = net.history_
    assert history[["member", "epoch"]].to_numpy().tolist() == [[m, e] for m in range(2) for e in range(3)]
    named = {f"validation_score[{task}]" for task in Y}
    assert {"learning_rate", "train_loss", "validation_score"} | named <= set(history)
    assert history.notna().all(axis=None) and net.n_iter_ == [3, 3] and net.device_ == "cpu"
    assert "validation_score" not in MultiTabNet(**ALONE).fit(X, Y).history_


def test_patience_says_how_long_training_goes_on():
    X, Y = numbers(MultiTabNet, n=250)
    noise = np.random.default_rng(0).normal(size=Y.shape)  # nothing to learn
    options = SMALL | {"early_stopping": True, "max_epochs": 60, "learning_rate": 0.03}
    n_epochs = [MultiTabNet(**options | {"patience": p}).fit(X, noise).n_iter_[0] for p in (1, 6)]
    assert n_epochs[0] < n_epochs[1] < 60


def validation_score(net):
    return net.history_["validation_score"].max()


class Recording(GroupKFold):
    """Tells what it was asked to split."""

    def split(self, X, y=None, groups=None):
        self.seen = X, y, groups
        return super().split(X, y, groups)


def test_training_that_diverges_is_an_error_that_names_the_step_size():
    X, Y = table()
    with pytest.raises(ValueError, match="training diverged: the loss of epoch 0 is nan; pass a smaller"):
        MultiTabNet(**SMALL | {"learning_rate": 1e30, "gradient_clip": 0.0, "batch_size": 16}).fit(X, Y)


def test_validation_rows_may_be_given_or_chosen_by_a_splitter():
    X, y = row_tasks(n=200)
    options = ALONE | {"early_stopping": True, "max_epochs": 8, "task_column": "task"}
    held = np.arange(200) >= 150
    net = MultiTabNetRegressor(**options).fit(X[~held], y[~held], X_val=X[held], y_val=y[held])
    assert net.score(X[held], y[held]) == pytest.approx(validation_score(net), abs=1e-5)
    pairs = [(np.flatnonzero(held), np.flatnonzero(~held)), (np.flatnonzero(~held), np.flatnonzero(held))]
    net = MultiTabNetRegressor(**options, validation=pairs).fit(X, y)
    assert net.score(X[held], y[held]) == pytest.approx(validation_score(net), abs=1e-5)
    splitter = Recording(3)
    net = MultiTabNetRegressor(**options, validation=splitter).fit(X, y)
    assert splitter.seen[0] is X and splitter.seen[1] is y and splitter.seen[2].tolist() == X["task"].tolist()
    last = list(GroupKFold(3).split(X, y, X["task"]))[-1][1]
    assert net.score(X.iloc[last], y[last]) == pytest.approx(validation_score(net), abs=1e-5)


def test_weights_of_validation_rows_count_there():
    X, Y = numbers(MultiTabNet, n=250)
    weight = np.where(np.arange(50) < 25, 1.0, 0.0)
    options = SMALL | {"early_stopping": True, "max_epochs": 8}
    net = MultiTabNet(**options).fit(X[50:], Y[50:], X_val=X[:50], y_val=Y[:50], sample_weight_val=weight)
    other = MultiTabNet(**options).fit(X[50:], Y[50:], X_val=X[:25], y_val=Y[:25])
    np.testing.assert_allclose(validation_score(net), validation_score(other), rtol=1e-5)


def test_a_rare_class_is_always_among_the_validation_rows():
    X = numbers(MultiTabNet, n=200)[0]
    y = (np.arange(200) < 10).astype(int)
    options = SMALL | {"early_stopping": True, "max_epochs": 1, "validation_fraction": 0.15}
    for seed in range(8):
        net = MultiTabNet(**options | {"random_state": seed}).fit(X, y)
        assert net.history_["validation_score"].notna().all()


def test_by_default_small_tables_are_trained_on_as_a_whole():
    options = SMALL | {"early_stopping": "auto"}
    small, large = numbers(MultiTabNet, n=60), numbers(MultiTabNet, n=600)
    assert "validation_score" not in MultiTabNet(**options).fit(*small).history_
    assert "validation_score" in MultiTabNet(**options).fit(*large).history_
    held = {"X_val": small[0][:20], "y_val": small[1][:20]}
    assert "validation_score" in MultiTabNet(**options).fit(*small, **held).history_
    assert "validation_score" in MultiTabNet(**options, validation=KFold(3)).fit(*small).history_


@pytest.mark.parametrize(
    ("options", "held", "message"),
    [
        ({}, {"X_val": True}, "X_val passed without both X_val and y_val"),
        ({"early_stopping": "auto"}, {"X_val": True}, "X_val passed without both X_val and y_val"),
        ({"early_stopping": "auto"}, {"y_val": True}, "y_val passed without both X_val and y_val"),
        ({"early_stopping": False}, {"X_val": True, "y_val": True}, "early_stopping=False, which has no use for it"),
        ({"validation": KFold(2)}, {"X_val": True, "y_val": True}, "X_val was passed besides validation="),
        ({}, {"X_val": "narrow", "y_val": True}, "X_val has 3 columns, but X has 4; pass the same columns"),
        ({}, {"X_val": True, "y_val": "narrow"}, "y_val has 1 columns, but fit saw 2 tasks"),
        ({}, {"X_val": True, "y_val": "short"}, "X_val has 20 rows, y_val has 19 rows"),
        ({}, {"X_val": True, "y_val": True, "task_val": True}, "task_val was passed without task"),
        ({"validation": [([0], [0])]}, {}, "leaves no row to train"),
        ({"validation_fraction": 1e-9}, {}, "early_stopping=True leaves 0 of 150 labelled rows for validation"),
    ],
)
def test_validation_rows_that_are_not_to_be_had_are_refused(options, held, message):
    X, Y = numbers(MultiTabNet)
    parts = {
        "X_val": {True: X[:20], "narrow": X[:20, :3]},
        "y_val": {True: Y[:20], "narrow": Y[:20, :1], "short": Y[:19]},
        "task_val": {True: np.zeros(20)},
    }
    held = {name: parts[name][which] for name, which in held.items()}
    with pytest.raises(ValueError, match=message):
        MultiTabNet(**SMALL | {"early_stopping": True} | options).fit(X, Y, **held)


# --- going on ---------------------------------------------------------------------------------------------------------


@with_and_without_rows
def test_warm_start_goes_on_from_the_networks_it_finds(rows):
    X, Y = table()
    net = MultiTabNet(**ALONE | rows | {"n_members": 2, "dropout": 0.0}, warm_start=True).fit(X, Y)
    before, twin = predicted(net, X), pickle.loads(pickle.dumps(net))
    net.set_params(learning_rate=1e-12, max_epochs=2).fit(X, Y)
    np.testing.assert_allclose(predicted(net, X), before, rtol=1e-4, atol=1e-4)
    assert net.n_iter_ == [5, 5]
    epochs = net.history_.groupby("member")["epoch"].apply(list)
    assert epochs.tolist() == [list(range(5))] * 2
    net.set_params(learning_rate=0.01).fit(X, Y)
    assert not np.allclose(predicted(net, X), before, rtol=1e-4, atol=1e-4)
    twin.set_params(warm_start=False).fit(X, Y)
    assert twin.n_iter_ == [3, 3]


@with_and_without_rows
@pytest.mark.parametrize(("first", "then"), [("float32", "float64"), ("float64", "float32")])
def test_going_on_may_change_the_precision(first, then, rows):
    X, Y = table()
    net = MultiTabNet(**SMALL | rows | {"dropout": 0.0}, precision=first).fit(X, Y, np.linspace(0.5, 1.5, 150))
    before = predicted(net, X)
    net.set_params(precision=then, learning_rate=1e-12).partial_fit(X, Y)
    np.testing.assert_allclose(predicted(net, X), before, rtol=1e-4, atol=1e-4)
    assert str(next(net._networks[0].module.parameters()).dtype) == f"torch.{then}"


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_that_fails_leaves_the_networks_as_they_were(method, monkeypatch):
    X, Y = table()
    net = MultiTabNet(**ALONE, warm_start=True).fit(X, Y)
    before = predicted(net, X)

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("mttab._core.progress.Messages.end_step", fail)  # after the first epoch
    with pytest.raises(RuntimeError, match="out of memory"):
        getattr(net, method)(X, Y)
    np.testing.assert_array_equal(predicted(net, X), before)
    assert net.n_iter_ == [3] and len(net.history_) == 3


def test_warm_start_wants_the_same_columns_and_tasks():
    X, Y = table()
    net = MultiTabNet(**SMALL, warm_start=True).fit(X, Y)
    for other, message in [(X[["a", "b"]], "yet now missing:\n- kind"), (X.assign(z=1), "unseen at fit time:\n- z")]:
        with pytest.raises(ValueError, match=message):
            net.fit(other, Y)
    with pytest.raises(ValueError, match=r"y has the columns \['price', 'sold'\], but fit saw"):
        net.fit(X, Y[["price", "sold"]])
    with pytest.raises(ValueError, match="needs task_column or task as there"):
        net.fit(X, Y["price"], task=np.arange(150))


@pytest.mark.parametrize("change", [{"embedding_dim": 12}, {"dropout": 0.3}, {"task_weight": {0: 2.0}}, {"n_bins": 5}])
def test_going_on_with_another_network_in_mind_is_refused(change):
    X, Y = numbers(MultiTabNetRegressor)
    net = MultiTabNetRegressor(**SMALL, warm_start=True).fit(X, Y).set_params(**change)
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}=.*refit with warm_start=False"):
        net.fit(X, Y)
    with pytest.raises(ValueError, match=name):
        net.partial_fit(X, Y)


@with_and_without_rows
def test_partial_fit_learns_portion_by_portion(rows):
    X, Y = numbers(MultiTabNetRegressor, n=256)
    net = MultiTabNetRegressor(**ALONE | rows | {"dropout": 0.0, "learning_rate": 0.02, "batch_size": 32})
    scores = []
    for _ in range(12):
        for start in range(0, 256, 128):
            net.partial_fit(X[start : start + 128], Y[start : start + 128])
        scores.append(net.score(X, Y))
    assert scores[-1] > max(scores[0], 0.7)
    assert net.n_iter_ == [24] and net.history_["epoch"].tolist() == list(range(24))


def test_partial_fit_takes_classes_that_the_first_portion_lacks():
    X, Y = numbers(MultiTabNetClassifier)
    one_class = Y[:, 0] == 1
    with pytest.raises(ValueError, match="y holds one class only, 1"):
        MultiTabNetClassifier(**ALONE).partial_fit(X[one_class], Y[one_class, 0])
    net = MultiTabNetClassifier(**ALONE).partial_fit(X[one_class], Y[one_class, 0], classes=[0, 1, 2])
    assert net.classes_.tolist() == [0, 1, 2] and net.predict_proba(X).shape == (150, 3)
    net.partial_fit(X[~one_class], Y[~one_class, 0])
    assert net.n_iter_ == [2]
    with pytest.raises(ValueError, match="column 0 of y holds the class 5, which training has not seen"):
        net.partial_fit(X, np.full(150, 5))
    wide = MultiTabNetClassifier(**ALONE).partial_fit(X, Y, classes=[[0, 1], [0, 1, 2]])
    assert [c.tolist() for c in wide.classes_] == [[0, 1], [0, 1, 2]]


def test_unknown_levels_have_the_mean_token_also_after_going_on_until_one_comes_in_training():
    X, Y = table()
    net = MultiTabNet(**SMALL).fit(X, Y)
    for _ in range(3):
        net.partial_fit(X, Y)

    def distance():
        tokens = net._networks[0].module.features
        return (tokens.table[-1] - tokens.level_weight @ tokens.table / tokens.level_weight.sum()).abs().max().item()

    assert distance() < 1e-5
    net.partial_fit(X.assign(kind="ash"), Y)
    assert distance() > 1e-3


def test_a_portion_without_labels_is_refused():
    X, Y = numbers(MultiTabNetRegressor)
    net = MultiTabNetRegressor(**SMALL).partial_fit(X, Y)
    with (
        pytest.warns(UserWarning, match="no label in 3 of 3 rows"),
        pytest.raises(ValueError, match="pass some labels"),
    ):
        net.partial_fit(X[:3], np.full((3, 2), np.nan))


def test_partial_fit_goes_on_from_a_fit():
    X, Y = table()
    net = MultiTabNet(**ALONE).fit(X, Y)
    before = predicted(net, X)
    net.set_params(learning_rate=1e-12).partial_fit(X, Y)
    np.testing.assert_allclose(predicted(net, X), before, rtol=1e-4, atol=1e-4)
    assert net.n_iter_ == [4] and len(net.history_) == 4


# --- reading it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "task_to_task"])
def test_attention_says_of_every_task_what_it_reads(mask):
    X, Y = table()
    net = MultiTabNet(**SMALL | ROWS | {"mask": mask, "n_blocks": 2, "n_members": 2}).fit(X, Y)
    read = net.attention(X)
    assert list(read) == list(Y)
    for label, weights in read.items():
        assert weights.columns.tolist() == [*X, *Y] and weights.shape == (2, 6) and weights.index.name == "block"
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
        others = weights[[name for name in Y if name != label]]
        assert (others == 0).all(axis=None) == (mask == "task_to_task")
        assert (weights[[*X, label]] > 0).all(axis=None)


@pytest.mark.parametrize("moved", ["a", "kind", "b"])
def test_the_columns_of_attention_are_the_features_they_are_called(moved):
    X, Y = table()
    net = MultiTabNet(**SMALL | {"n_heads": 1}).fit(X, Y)
    row = X[:1].assign(b=0.3)
    before = net.attention(row)["price"].iloc[0]
    after = net.attention(
        row.assign(**{moved: "elm" if row["kind"].item() == "oak" else "oak"} if moved == "kind" else {moved: 2.5})
    )
    after = after["price"].iloc[0]
    one, other = [name for name in X if name != moved]
    # Weights of a softmax over keys: the ratio of two features knows of no third.
    assert after[one] / after[other] == pytest.approx(before[one] / before[other], rel=1e-4)
    assert after[moved] / after[one] != pytest.approx(before[moved] / before[one], rel=1e-3)


def test_a_task_that_is_called_like_a_feature_is_told_apart_in_attention():
    X, Y = table(n=60)
    X, Y = X.assign(price=1.0), Y.assign(**{"task price": 2.0 * X["a"]})
    weights = MultiTabNet(**SMALL).fit(X, Y).attention(X)
    assert list(weights) == list(Y)
    for frame in weights.values():
        assert frame.columns.tolist() == [*X, "task task price", "sold", "colour", "task price"]


# --- scikit-learn -----------------------------------------------------------------------------------------------------


@each_estimator
def test_pipelines_grid_search_and_cross_validation_work_with_missing_labels(estimator_class):
    X, Y = numbers(estimator_class)
    Y = np.where(np.random.default_rng(0).random(Y.shape) < 0.2, np.nan, Y)
    Y[np.isnan(Y).all(axis=1)] = 1.0
    X[0, 0] = np.nan
    pipe = make_pipeline(SimpleImputer(), estimator_class(**SMALL | {"max_epochs": 2}))
    name = estimator_class.__name__.lower()
    scores = cross_val_score(pipe, X, Y, cv=KFold(2), error_score="raise")
    assert np.isfinite(scores).all()
    search = GridSearchCV(pipe, {f"{name}__embedding_dim": [4, 8]}, cv=KFold(2), error_score="raise").fit(X, Y)
    assert search.best_params_[f"{name}__embedding_dim"] in (4, 8)
    assert search.predict(X).shape == Y.shape
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    out = cross_val_predict(pipe, X, Y, cv=KFold(2))
    assert out.shape == Y.shape and np.isfinite(out).all()


def test_a_frame_of_mixed_labels_goes_through_cross_validation():
    X, Y = table()
    assert np.isfinite(cross_val_score(MultiTabNet(**SMALL), X, Y, cv=KFold(2), error_score="raise")).all()


def test_the_task_column_survives_pipelines_and_the_argument_is_routed():
    X, y = row_tasks()
    scores = cross_val_score(MultiTabNetRegressor(**SMALL, task_column="task"), X, y, cv=KFold(2), error_score="raise")
    assert np.isfinite(scores).all()
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(SimpleImputer(), MultiTabNetClassifier(**SMALL))
        pipe.fit(X[list("abc")], y > 2, task=X["task"])
        assert pipe.predict(X[list("abc")], task=X["task"]).shape == (150,)
        assert pipe.predict_proba(X[list("abc")], task=X["task"]).shape == (150, 2)
        assert np.isfinite(pipe.score(X[list("abc")], y > 2, task=X["task"]))


# --- options that are only passed on ----------------------------------------------------------------------------------


def test_the_kinds_of_the_tasks_may_be_given():
    X, Y = numbers(MultiTabNetClassifier)
    net = MultiTabNet(**SMALL, task_types={1: "regression"}).fit(X, Y)
    assert net.task_types_ == {0: "binary", 1: "regression"}
    assert MultiTabNet(**SMALL, task_types="multiclass").fit(X, Y).task_types_ == {0: "multiclass", 1: "multiclass"}


def test_compile_is_passed_on_to_torch(monkeypatch):
    X, Y = table(n=60)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, *args, **options: compiled.append(module) or module)
    plain = MultiTabNet(**ALONE | {"n_members": 2}).fit(X, Y)
    assert compiled == []
    net = MultiTabNet(**ALONE | {"n_members": 2}, compile=True).fit(X, Y)
    assert compiled == [network.module for network in net._networks]
    assert_same(net, plain, X)


def test_where_torch_cannot_compile_the_error_names_the_remedy(monkeypatch):
    def refuse(*_):
        raise torch._inductor.exc.InvalidCxxCompiler()

    monkeypatch.setattr(torch, "compile", lambda module: refuse)
    with pytest.raises(RuntimeError, match=r"compile=True, but .* install one \(g\+\+ or clang.*pass compile=False"):
        MultiTabNet(**SMALL, compile=True).fit(*table(n=60))


def test_an_error_that_is_not_of_the_compiler_stays_what_it_is(monkeypatch):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(torch, "compile", lambda module: refuse)
    with pytest.raises(MemoryError):
        MultiTabNet(**SMALL, compile=True).fit(*table(n=60))


def test_the_network_is_the_same_for_any_number_of_threads(monkeypatch):
    X, Y = numbers(MultiTabNet)
    options = SMALL | {"max_epochs": 1}
    one, other = (MultiTabNet(**options | {"n_jobs": n}).fit(X, Y) for n in (1, 2))
    np.testing.assert_allclose(predicted(one, X), predicted(other, X), rtol=1e-4, atol=1e-4)  # up to the order of sums
    seen = []

    def record(jobs, device, n_jobs):
        seen.append(n_jobs)
        return [job(lambda: False) for job in jobs]

    monkeypatch.setattr("mttab._network_base.run_side_by_side", record)
    seven = MultiTabNet(**options | {"n_jobs": 7}).fit(X, Y)
    np.testing.assert_allclose(predicted(seven, X), predicted(one, X), rtol=1e-4, atol=1e-4)
    assert seen == [7]


def test_verbose_logs_the_figures_of_epochs(caplog):
    X, Y = table(n=60)
    MultiTabNet(**ALONE).fit(X, Y)
    assert caplog.messages == []
    MultiTabNet(**ALONE, verbose=1).fit(X, Y)
    (line,) = caplog.messages
    assert line.startswith("member 1 epoch 3/3: training loss ")


# --- bad input --------------------------------------------------------------------------------------------------------


BAD_INPUT = {
    "no column": (MultiTabNet, {}, lambda X, Y: (X, Y[:, :0]), "y has no columns, so there is no task to learn"),
    "unknown kind": (
        MultiTabNet,
        {"task_types": {0: "ordinal"}},
        lambda X, Y: (X, Y),
        r"task_types\[0\]='ordinal' is no kind of task; pass one of 'regression', 'binary', 'multiclass'",
    ),
    "unknown kind of all": (
        MultiTabNet,
        {"task_types": "ordinal"},
        lambda X, Y: (X, Y),
        "The 'task_types' parameter of MultiTabNet must be",
    ),
    "one class": (MultiTabNetClassifier, {}, lambda X, Y: (X, 0 * Y), "column 0 of y holds one class only, 0"),
    "no label": (MultiTabNet, {}, lambda X, Y: (X, Y * [1, np.nan]), "column 1 of y has no label .*; leave it out"),
    "infinite X": (MultiTabNet, {}, lambda X, Y: (X * [1, 1, np.inf, 1], Y), "Input X contains infinity.*column 'x2'"),
    "infinite Y": (MultiTabNetRegressor, {}, lambda X, Y: (X, Y / [1, 0]), "Input column 1 of y contains infinity"),
    "text": (MultiTabNetRegressor, {}, lambda X, Y: (X, Y.astype(str)), "column 0 of y must hold numbers for a regres"),
    "lengths": (MultiTabNet, {}, lambda X, Y: (X[:9], Y), "X has 9 rows, y has 150 rows; pass one entry per row of X"),
    "weights": (MultiTabNet, {}, lambda X, Y: (X, Y, np.ones((150, 3))), r"sample_weight has shape \(150, 3\), but"),
    "all weights 0": (MultiTabNet, {}, lambda X, Y: (X, Y, np.zeros(150)), "sample_weight is zero in every row"),
    "task weight": (
        MultiTabNet,
        {"task_weight": {"prize": 2.0}},
        lambda X, Y: (X, pd.DataFrame(Y, columns=["price", "sold"])),
        r"task_weight names the task 'prize', .*; did you mean 'price'\?",
    ),
    "negative task weight": (
        MultiTabNet, {"task_weight": {1: -2.0}}, lambda X, Y: (X, Y), "task_weight holds -2 for the task 1, but must be"
    ),
    "width": (
        MultiTabNet, {"embedding_dim": 10, "n_heads": 4}, lambda X, Y: (X, Y),
        "embedding_dim=10 is no multiple of n_heads=4, which share it; pass for example embedding_dim=8",
    ),
    "width of rows": (
        MultiTabNet, {"sample_attention": True, "sample_attention_dim": 13}, lambda X, Y: (X, Y),
        "sample_attention_dim=13 is no multiple of n_heads=2",
    ),
    "numbers without a way": (
        MultiTabNet, {"token_features": "categorical", "direct_dim": 0}, lambda X, Y: (X, Y),
        "token_features='categorical' leaves the numbers of X to the MLP of direct_dim, which is 0; pass",
    ),
    "option": (MultiTabNet, {"mask": "all"}, lambda X, Y: (X, Y), "The 'mask' parameter of MultiTabNet must be a str"),
    "no thread": (MultiTabNet, {"n_jobs": 0}, lambda X, Y: (X, Y), "The 'n_jobs' parameter of MultiTabNet must be"),
    "huge numbers": (
        MultiTabNet, {}, lambda X, Y: (X, Y * [1.0, 1e300]),
        r"column 1 of y holds numbers as large as .*e\+300, whose squares overflow; divide it by a power of ten",
    ),
    "device": (MultiTabNet, {"device": "toaster"}, lambda X, Y: (X, Y), "device='toaster' is no device of torch; pass"),
    "categories": (
        MultiTabNet, {"categorical_features": ["colour"]},
        lambda X, Y: (pd.DataFrame(X, columns=["color", "b", "c", "d"]), Y),
        r"categorical_features names 'colour', which is not a column of X.*did you mean 'color'\?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_with_the_rule_and_the_remedy(case):
    estimator_class, options, spoil, message = BAD_INPUT[case]
    X, Y = numbers(estimator_class)
    with np.errstate(all="ignore"):
        arguments = spoil(X, Y)
    with pytest.raises(ValueError, match=message):
        estimator_class(**SMALL | options).fit(*arguments)


@pytest.mark.parametrize("device", ["cuda:99", "mps:99", "xpu:99", "hpu", "meta", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(device):
    kind = device.partition(":")[0].upper()
    message = rf"device='{device}' was asked for, but torch .* sees (no|only \d+) {kind} device here; pass device="
    with pytest.raises(ValueError, match=message):
        MultiTabNet(**SMALL | {"device": device}).fit(*table(n=60))


def test_methods_that_need_a_fit_say_so():
    X = table(n=60)[0]
    for method in ("predict", "predict_proba", "attention"):
        with pytest.raises(sklearn.exceptions.NotFittedError, match="This MultiTabNet instance is not fitted yet"):
            getattr(MultiTabNet(), method)(X)


WITHOUT_TORCH = """
import json, sys
from importlib.machinery import PathFinder

import mttab

found = {"torch": "torch" in sys.modules}


class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name.partition(".")[0] == "torch" else super().find_spec(name, *args)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
for name in ("MultiTabNet", "MultiTabNetClassifier", "MultiTabNetRegressor"):
    try:
        getattr(mttab, name)
    except ImportError as err:
        found[name] = str(err)
found["boosting"] = mttab.RMTGBRegressor.__name__
print(json.dumps(found))
"""


def test_without_torch_the_error_names_the_extra_and_the_rest_of_the_package_works():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, cwd=ROOT, env=os.environ, timeout=300
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    message = "The networks of mttab need torch, which is not installed; run pip install 'mttab[neural]'."
    assert found == {"torch": False, "boosting": "RMTGBRegressor"} | {cls.__name__: message for cls in ESTIMATORS}
