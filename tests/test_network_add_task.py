"""A row task more for a fitted network, and its predictions for every task at once."""

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from mttab import MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor
from mttab.datasets import make_task_groups

OPTIONS = {
    "task_column": "task", "embedding_dim": 16, "n_blocks": 1, "mlp_dim": 32, "head_dim": 16, "n_members": 2,
    "learning_rate": 0.01, "max_epochs": 12, "batch_size": 64, "early_stopping": False, "random_state": 0, "n_jobs": 1,
    "device": "cpu",
}  # fmt: skip
NEW = 7


def draw(n=60):
    tasks = make_task_groups(n, group_sizes=(4, 4), return_bunch=True, random_state=0)
    X_test, y_test = tasks.sample(200, random_state=1)
    is_new, of_test = (tasks.data["task"] == NEW).to_numpy(), (X_test["task"] == NEW).to_numpy()
    return tasks.data, tasks.target.to_numpy(), is_new, X_test[of_test], y_test.to_numpy()[of_test]


@pytest.fixture(scope="module")
def rows():
    return draw()


@pytest.fixture(scope="module")
def fitted(rows):
    X, y, is_new, _, _ = rows
    return MultiTabNetRegressor(**OPTIONS).fit(X[~is_new], y[~is_new])


@pytest.mark.parametrize("n", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 20))])
def test_other_tasks_and_unseen_ones_keep_their_predictions_to_the_last_bit(fitted, rows, n):
    X, y, is_new, X_test, _ = rows
    net = copy.deepcopy(fitted)
    known, unseen = net.predict(X[~is_new]), net.predict(X[:50].assign(task="never seen"))
    assert net.add_task(X[is_new][:n], y[is_new][:n], NEW) is net
    np.testing.assert_array_equal(net.predict(X[~is_new]), known)
    np.testing.assert_array_equal(net.predict(X[:50].assign(task="never seen")), unseen)
    assert net.tasks_.tolist() == list(range(8)) and net.n_tasks_ == 8
    twin = copy.deepcopy(fitted).add_task(X[is_new][:n].drop(columns="task"), y[is_new][:n], NEW)
    np.testing.assert_array_equal(twin.predict(X_test), net.predict(X_test))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net)).predict(X_test), net.predict(X_test))


def test_a_new_task_is_much_better_off_than_an_unseen_one(fitted, rows):
    X, y, is_new, X_test, y_test = rows
    before = np.mean((fitted.predict(X_test) - y_test) ** 2)
    added = copy.deepcopy(fitted).add_task(X[is_new][:20], y[is_new][:20], NEW)
    assert np.mean((added.predict(X_test) - y_test) ** 2) < 0.6 * before


@pytest.mark.parametrize("options", [{"sample_attention": True}, {"direct_dim": 8}, {"target_scaling": "task"}])
def test_every_kind_of_network_takes_a_task_more(rows, options):
    X, y, is_new, X_test, _ = rows
    net = MultiTabNetRegressor(**OPTIONS | {"max_epochs": 2, "n_members": 1} | options).fit(X[~is_new], y[~is_new])
    known = net.predict(X[~is_new])
    net.add_task(X[is_new][:10], 10.0 * y[is_new][:10], NEW)
    np.testing.assert_array_equal(net.predict(X[~is_new]), known)
    assert np.isfinite(net.predict(X_test)).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_classifier_takes_a_task_more_and_predicts_for_all(rows, n_classes):
    X, y, is_new, X_test, _ = rows
    labels = np.array(["low", "high", "top"])[np.digitize(y, [0.0, 0.5][: n_classes - 1])]
    net = MultiTabNetClassifier(**OPTIONS | {"max_epochs": 3, "n_members": 1}).fit(X[~is_new], labels[~is_new])
    net.add_task(X[is_new], labels[is_new], NEW, sample_weight=np.linspace(0.5, 1.5, is_new.sum()))
    proba = net.predict_proba(X_test[:5], task="all")
    assert len(proba) == 8 and {p.shape for p in proba} == {(5, n_classes)}
    np.testing.assert_array_equal(proba[7], net.predict_proba(X_test[:5]))
    assert net.predict(X_test[:5], task="all").shape == (5, 8)
    with pytest.raises(ValueError, match=r"holds the class 'other', which training has not seen; leave these rows out"):
        net.add_task(X[is_new].drop(columns="task"), ["other"] * is_new.sum(), 8)


def test_predictions_for_every_task_are_those_for_each(fitted, rows):
    X, _, is_new, _, _ = rows
    X = X[~is_new][::9]
    wide = fitted.predict(X.drop(columns="task"), task="all")
    assert wide.shape == (len(X), 7)
    np.testing.assert_array_equal(fitted.predict(X.assign(task=None), task="all"), wide)
    for i, task in enumerate(fitted.tasks_):
        np.testing.assert_array_equal(wide[:, i], fitted.predict(X.assign(task=task)))
    with pytest.raises(ValueError, match="score compares each row with its own label"):
        fitted.score(X, wide[:, 0], task="all")


def test_a_network_of_mixed_labels_gives_probabilities_by_task(rows):
    X, y, is_new, _, _ = rows
    net = MultiTabNet(**OPTIONS | {"max_epochs": 1, "n_members": 1}).fit(X[~is_new], y[~is_new] > 0)
    net.add_task(X[is_new][:5], y[is_new][:5] > 0, NEW)
    proba = net.predict_proba(X[:4], task="all")
    assert list(proba) == list(range(8)) and proba[NEW].shape == (4, 2)


def test_training_goes_on_after_a_task_was_added(fitted, rows):
    X, y, is_new, _, _ = rows
    net = copy.deepcopy(fitted).add_task(X[is_new][:5], y[is_new][:5], NEW)
    error = np.mean((net.predict(X[is_new]) - y[is_new]) ** 2)
    net.set_params(warm_start=True, max_epochs=5).fit(X, y)
    assert net.n_iter_ == [17] * 4 and np.mean((net.predict(X[is_new]) - y[is_new]) ** 2) < error


def test_bad_arguments_are_named_and_leave_the_network_as_it_was(fitted, rows):
    X, y, is_new, X_test, _ = rows
    net, (X, y) = copy.deepcopy(fitted), (X[is_new], y[is_new])
    for arguments, message in [
        ((X, y, 3), "task=3 is a task of this model already"),
        ((X, y, 8), "task=8, but task_column='task' holds 7"),
        ((X, y[:-1], NEW), "inconsistent numbers of samples"),
        ((X.drop(columns="x0"), y, NEW), "feature names should match"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.add_task(*arguments)
    assert net.n_tasks_ == 7
    np.testing.assert_array_equal(net.predict(X_test), fitted.predict(X_test))


def test_a_network_whose_tasks_are_columns_of_y_says_to_refit(rows):
    X, y, _, _, _ = rows
    X = X.drop(columns="task")[:60]
    options = OPTIONS | {"task_column": None, "max_epochs": 1, "n_members": 1}
    net = MultiTabNetRegressor(**options).fit(X, np.column_stack([y, -y])[:60])
    with pytest.raises(ValueError, match=r"the tasks of this network are the columns of y.*refit with the new column"):
        net.add_task(X, y[:60], "third")
    with pytest.raises(ValueError, match="tasks of this model are the columns of y; drop task"):
        net.predict(X, task="all")
