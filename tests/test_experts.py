"""Networks of experts as users hold them: what MultiTab-Net promises, and gates and experts to look at."""

import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

pytest.importorskip("torch", reason="torch is not installed")

import mttab
from mttab import MMoE, MMoEClassifier, MMoERegressor, MultiTabNet, PerTaskRegressor, experts
from mttab._network_options import EXPERTS, FEATURES, TASK_TYPES, TASKS, TRAINING
from mttab.datasets import make_multitask, make_multitask_regression, make_task_groups
from mttab.metrics import multitask_gain, task_scores
from test_docstrings import names_in, sections
from test_multitabnet import differs, numbers, predicted, row_tasks, table

NAMES = [architecture.name for architecture in experts.ARCHITECTURES]
MIXED = [getattr(mttab, name) for name in NAMES]
ESTIMATORS = [getattr(mttab, name + kind) for name in NAMES for kind in ("", "Regressor", "Classifier")]
SMALL = {
    "embedding_dim": 4,
    "expert_dim": 8,
    "head_dim": 8,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 3,
    "batch_size": 64,
    "learning_rate": 0.01,
    "early_stopping": False,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}
each_architecture = pytest.mark.parametrize("name", NAMES)
# The same where it takes long: one of them is enough for every day.
each_in_time = pytest.mark.parametrize(
    "name", ["MMoE", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "MMoE")]
)
each_estimator = pytest.mark.parametrize("estimator_class", ESTIMATORS)


def of_kind(name, kind=""):
    return getattr(mttab, name + kind)


def labels_for(estimator_class, **options):
    """Numbers, or classes for a classifier."""
    X, Y = numbers(MultiTabNet, **options)
    return X, (Y > 0.2).astype(int) if "Classifier" in estimator_class.__name__ else Y


def unsure(estimator, *data, **arguments):
    """A fit of a few epochs, whatever it warns about its experts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data, **arguments)


@pytest.fixture(scope="module")
def mixed():
    """Name → network fitted to labels of three kinds, some missing; two members."""
    X, Y = table()
    X.index = Y.index = np.arange(len(X)) + 7
    return {name: unsure(of_kind(name)(**SMALL | {"n_members": 2}), X, Y) for name in NAMES}


@pytest.fixture(scope="module")
def of_rows():
    """Name → network fitted to three row tasks."""
    X, y = row_tasks()
    return {name: unsure(of_kind(name, "Regressor")(**SMALL, task_column="task"), X, y) for name in NAMES}


# --- one base ---------------------------------------------------------------------------------------------------------


def test_every_architecture_has_three_estimators_from_one_table():
    assert len(ESTIMATORS) == 15
    shared = {**TASKS, **FEATURES, **TRAINING}
    for architecture in experts.ARCHITECTURES:
        for kind, own in (("", TASK_TYPES), ("Regressor", {}), ("Classifier", {})):
            estimator_class = of_kind(architecture.name, kind)
            assert set(inspect.signature(estimator_class).parameters) == {*shared, *own, *architecture.options}
            assert pickle.loads(pickle.dumps(estimator_class())).__class__ is estimator_class
    assert set(EXPERTS) == {option for architecture in experts.ARCHITECTURES for option in architecture.options}


@each_estimator
def test_every_option_is_described(estimator_class):
    described = sections(estimator_class)
    assert names_in(described["Parameters"]) == set(estimator_class().get_params())
    assert {"References", "Examples"} <= described.keys()
    assert inspect.getdoc(estimator_class.gates) and estimator_class.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("estimator_class", [MMoE, MMoERegressor, MMoEClassifier])
def test_every_fitted_attribute_is_described(estimator_class):
    X, Y = labels_for(estimator_class, n=60)
    net = unsure(estimator_class(**SMALL | {"max_epochs": 1}), pd.DataFrame(X, columns=list("abcd")), Y)
    fitted = {name for name in vars(net) if name.endswith("_") and not name.startswith("_")}
    assert fitted == names_in(sections(estimator_class)["Attributes"])


@each_in_time
def test_it_learns_labels_of_all_kinds_of_which_some_are_missing(name):
    X, Y = make_multitask(
        700, 4, 3, task_types=["regression", "binary", "multiclass"], missing_fraction=0.2, random_state=0
    )
    some = np.flatnonzero(Y[:500].notna().any(axis=1))
    options = SMALL | {"expert_dim": 32, "max_epochs": 25, "dropout": 0.0}
    net = of_kind(name)(**options).fit(X.iloc[some], Y.iloc[some])
    scores = net.task_scores(X[500:], Y[500:])["score"]
    assert scores["y0"] > 0.85 and scores["y1"] > 0.85 and scores["y2"] > 0.65
    assert {k: p.shape for k, p in net.predict_proba(X).items()} == {"y1": (700, 2), "y2": (700, 3)}


@each_in_time
def test_it_learns_what_tells_row_tasks_apart(name):
    X, y = row_tasks(n=300)
    options = SMALL | {"expert_dim": 16, "max_epochs": 40, "task_column": "task", "dropout": 0.0}
    assert unsure(of_kind(name, "Regressor")(**options), X, y).score(X, y) > 0.9
    assert unsure(of_kind(name, "Classifier")(**options), X, y > 2.0).score(X, y > 2.0) > 0.9


@each_in_time
def test_a_single_task_is_a_network_of_its_own(name):
    X, Y = numbers(MultiTabNet)
    options = SMALL | {"max_epochs": 30, "dropout": 0.0}
    net = unsure(of_kind(name, "Regressor")(**options), X, Y[:, 0])
    assert net.n_tasks_ == 1 and net.predict(X).shape == (150,) and net.score(X, Y[:, 0]) > 0.8
    assert net.gates(X)[0].shape[0] == 150


@each_in_time
def test_the_gain_over_its_single_task_networks_is_one_call(name):
    X, Y = make_multitask_regression(150, 4, 2, random_state=0)
    network = of_kind(name, "Regressor")(**SMALL)
    alone = unsure(PerTaskRegressor(network), X[:100], Y[:100]).predict(X[100:])
    for j, column in enumerate(Y):
        single = unsure(clone(network), X[:100], Y[column][:100])
        np.testing.assert_array_equal(alone[:, j], single.predict(X[100:]))

    together = unsure(network, X[:100], Y[:100]).predict(X[100:])
    ours, theirs = (task_scores(Y[100:], Z, metric="root_mean_squared_error") for Z in (together, alone))
    gain = multitask_gain(ours, theirs)
    error, least = (np.sqrt(((Z - Y[100:]) ** 2).mean()) for Z in (together, alone))
    np.testing.assert_allclose(gain.mean, 100 * (1 - error / least).mean())
    assert gain.mean != 0


@each_architecture
def test_the_same_seed_gives_the_same_predictions_after_pickle_and_clone_too(name, mixed):
    X, Y = table()
    net = mixed[name]
    np.testing.assert_array_equal(predicted(pickle.loads(pickle.dumps(net)), X), predicted(net, X))
    np.testing.assert_array_equal(predicted(unsure(clone(net), X, Y), X), predicted(net, X))


@each_architecture
def test_a_prediction_does_not_depend_on_the_rows_predicted_with_it(name, mixed, of_rows):
    X, _ = table(n=300)  # more rows than are predicted at a time
    tasks, _ = row_tasks(n=300)
    tasks.loc[[1, 256], "task"] = "new"
    order = np.random.default_rng(0).permutation(300)
    for net, rows in ((mixed[name], X), (of_rows[name], tasks)):
        whole = predicted(net, rows)
        scale = np.maximum(1.0, np.abs(whole))
        for i in (0, 1, 255, 256, 299):
            np.testing.assert_allclose(predicted(net, rows[i : i + 1]) / scale[[i]], whole[[i]] / scale[[i]], atol=2e-7)
        np.testing.assert_allclose(predicted(net, rows.iloc[order]) / scale[order], (whole / scale)[order], atol=2e-7)


@each_architecture
def test_a_task_that_fit_did_not_see_has_the_mean_over_all_tasks(name, of_rows):
    X, _ = row_tasks(n=60)
    net = of_rows[name]
    expected = np.mean([net.predict(X.assign(task=t)) for t in net.tasks_], axis=0)
    np.testing.assert_allclose(net.predict(X.assign(task="new")), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"holds 1 task.* that fit did not see, 'new'"):
        net.set_params(unseen_task="error").predict(X.assign(task="new"))
    net.set_params(unseen_task="shared")


@each_architecture
def test_190_row_tasks_train_and_predict(name):
    X, y = row_tasks(n=380, n_tasks=190)
    net = unsure(of_kind(name, "Regressor")(**SMALL | {"max_epochs": 1}, task_column="task"), X, y)
    assert np.isfinite(net.predict(X)).all() and net.n_tasks_ == 190
    assert np.isfinite(net.predict(X[:3].assign(task="new"))).all()


@each_architecture
def test_going_on_keeps_the_networks_and_refuses_another_shape(name):
    X, Y = numbers(MultiTabNet)
    net = unsure(of_kind(name, "Regressor")(**SMALL | {"dropout": 0.0}, warm_start=True), X, Y)
    before = net.predict(X)
    unsure(net.set_params(learning_rate=1e-12), X, Y)
    np.testing.assert_allclose(net.predict(X), before, rtol=1e-4, atol=1e-4)
    assert net.n_iter_ == [6]
    net.set_params(learning_rate=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.partial_fit(X[:80], Y[:80])
    assert net.n_iter_ == [7] and not np.allclose(net.predict(X), before)
    with pytest.raises(ValueError, match=r"expert_dim=9.*refit with warm_start=False"):
        net.set_params(expert_dim=9).fit(X, Y)


def test_weights_and_rows_that_are_there_twice_are_the_same():
    X, Y = numbers(MultiTabNet)
    weight = np.where(np.arange(150) < 50, 2.0, 1.0)
    options = SMALL | {"precision": "float64", "batch_size": 1000, "dropout": 0.0, "numerical_embedding": "linear"}
    net = MMoE(**options).fit(X, Y, weight)
    twice = np.concatenate([np.arange(150), np.arange(50)])
    np.testing.assert_allclose(MMoE(**options).fit(X[twice], Y[twice]).predict(X), net.predict(X), rtol=1e-6)
    assert differs(MMoE(**options).fit(X, Y), net, X)


def test_pipelines_grid_search_and_cross_validation_work_with_missing_labels():
    X, Y = labels_for(MMoEClassifier)
    Y = np.where(np.random.default_rng(0).random(Y.shape) < 0.2, np.nan, Y)
    Y[np.isnan(Y).all(axis=1)] = 1.0
    X[0, 0] = np.nan
    pipe = make_pipeline(SimpleImputer(), MMoEClassifier(**SMALL | {"max_epochs": 2}))
    search = GridSearchCV(pipe, {"mmoeclassifier__n_experts": [1, 3]}, cv=KFold(2), error_score="raise").fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all() and search.predict(X).shape == Y.shape
    assert cross_val_predict(pipe, X, Y, cv=KFold(2)).shape == Y.shape
    rows, y = row_tasks()
    model = MMoERegressor(**SMALL, task_column="task")
    assert np.isfinite(cross_val_score(model, rows, y, cv=KFold(2), error_score="raise")).all()


@each_in_time
@pytest.mark.parametrize("task_weighting", ["uncertainty", "upgrad"])
def test_the_losses_of_the_tasks_may_be_combined_otherwise(name, task_weighting):
    if task_weighting == "upgrad":
        pytest.importorskip("torchjd", reason="torchjd is not installed")
    X, Y = numbers(MultiTabNet, n=100)
    options = SMALL | {"max_epochs": 1, "dropout": 0.0}
    plain = unsure(of_kind(name, "Regressor")(**options), X, Y)
    other = unsure(of_kind(name, "Regressor")(**options, task_weighting=task_weighting), X, Y)
    assert differs(plain, other, X)


# Another value of each option, and what else it takes to matter.
OTHER_VALUES = {
    "embedding_dim": (6, {}),
    "n_experts": (3, {}),
    "n_shared_experts": (3, {}),
    "n_task_experts": (1, {}),
    "expert_dim": (12, {}),
    "expert_depth": (1, {}),
    "n_layers": (1, {}),
    "activation": ("swish", {}),
    "expert_norm": (True, {}),
    "gate_dim": (4, {}),
    "gate_dropout": (0.5, {}),
    "head_dim": (0, {}),
    "dropout": (0.5, {}),
}


@each_architecture
def test_every_option_changes_the_predictions(name):
    X, Y = numbers(MultiTabNet, n=60)
    base = SMALL | {"max_epochs": 1, "n_bins": 2}
    net = unsure(of_kind(name)(**base), X, Y)
    (architecture,) = [a for a in experts.ARCHITECTURES if a.name == name]
    assert set(architecture.options) <= OTHER_VALUES.keys()
    for option in architecture.options:
        value, needs = OTHER_VALUES[option]
        assert differs(net, unsure(of_kind(name)(**base | needs | {option: value}), X, Y), X), option


# --- gates ------------------------------------------------------------------------------------------------------------

OWN, SHARED = ["expert 0 of price", "expert 1 of price"], ["shared expert 0", "shared expert 1"]
COLUMNS = {
    "SharedBottom": ["expert 0"],
    "MMoE": [f"expert {k}" for k in range(6)],
    "PLE": [*OWN, *SHARED],
    "STEM": [f"expert {k} of {label}" for label in ("price", "sold", "colour") for k in range(2)] + SHARED,
    "TaskExpert": [*(f"expert {k}" for k in range(6)), "memory"],
}


@each_architecture
def test_gates_say_of_every_row_and_task_what_it_reads(name, mixed):
    X, _ = table(n=40)
    X.index = np.arange(40) + 100
    gates = mixed[name].gates(X)
    assert list(gates) == ["price", "sold", "colour"]
    assert gates["price"].columns.tolist() == COLUMNS[name]
    for frame in gates.values():
        assert frame.index.equals(X.index) and frame.columns.is_unique
        np.testing.assert_allclose(frame.sum(axis=1), 1.0, rtol=1e-5)
        assert (frame.to_numpy() > 0).all()
    if name != "SharedBottom":
        assert not np.allclose(gates["price"], gates["sold"]) and gates["sold"].std().gt(0).all()
        assert not np.allclose(mixed[name].gates(X, member=1)["price"], gates["price"])
    if name in ("PLE", "TaskExpert"):
        first = mixed[name].gates(X, layer=0)["price"]
        assert first.columns.tolist() == [c for c in COLUMNS[name] if c != "memory"]
        pd.testing.assert_frame_equal(mixed[name].gates(X, layer=1)["price"], gates["price"])


@each_architecture
def test_gates_of_row_tasks_are_those_of_their_rows(name, of_rows):
    X, _ = row_tasks(n=40)
    gates = of_rows[name].gates(X)
    assert list(gates) == ["t0", "t1", "t2"]
    for label, frame in gates.items():
        assert frame.index.tolist() == X.index[X["task"] == label].tolist()
        np.testing.assert_allclose(frame.sum(axis=1), 1.0, rtol=1e-5)
        pd.testing.assert_frame_equal(of_rows[name].gates(X[X["task"] == label])[label], frame, rtol=1e-5)
    some = of_rows[name].gates(X.assign(task=X["task"].replace("t1", "new")))
    assert [len(frame) for frame in some.values()] == [14, 0, 13]


def test_a_prediction_is_the_tower_of_the_mean_that_the_gates_tell(mixed):
    """The columns of the gates are the experts they are called."""
    X, _ = table(n=20)
    net = mixed["MMoE"]
    module = net._networks[0].module
    before = net.gates(X)["sold"]
    with np.errstate(all="ignore"):
        copy = pickle.loads(pickle.dumps(net))
    bias = copy._networks[0].module.task_gates.out.bias
    assert bias.shape == module.task_gates.out.bias.shape == (3, 1, 1, 6)
    bias.data[1, 0, 0, 2] += 50.0  # "sold", expert 2
    after = copy.gates(X)
    np.testing.assert_allclose(after["sold"]["expert 2"], 1.0, atol=1e-6)
    assert (before["expert 2"] < 0.9).all()
    pd.testing.assert_frame_equal(after["price"], net.gates(X)["price"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, r"layer=2, but there are 2 layers of experts; pass -2 … 1\."),
        ({"member": -3}, r"member=-3, but there are 2 networks; pass -2 … 1\."),
    ],
)
def test_a_layer_or_member_that_is_not_there_is_refused(options, message, mixed):
    with pytest.raises(ValueError, match=message):
        mixed["PLE"].gates(table(n=5)[0], **options)


def test_gates_need_a_fit():
    with pytest.raises(NotFittedError, match="This MMoE instance is not fitted yet"):
        MMoE().gates(np.zeros((2, 3)))


# --- experts that have collapsed --------------------------------------------------------------------------------------


def dead_start(monkeypatch, name):
    """Networks of which one expert says nothing but zeros from the start."""
    make = of_kind(name)._make_module

    def spoilt(self, *arguments):
        module = make(self, *arguments)
        layer = module.layers[0] if hasattr(module, "layers") else module
        stack = layer.task_experts if hasattr(layer, "task_experts") else layer.experts
        stack.layers[-1].bias.data[-1, -1] = -20.0
        return module

    monkeypatch.setattr(experts.BaseExperts, "_make_module", spoilt)


DEAD = {
    "SharedBottom": "expert 0",
    "MMoE": "expert 5",
    "PLE": "expert 1 of colour",
    "STEM": "expert 1 of colour",
    "TaskExpert": "expert 5",
}


@each_architecture
def test_fit_warns_of_experts_that_say_nothing_but_zeros_and_names_them(name, monkeypatch):
    X, Y = table()
    dead_start(monkeypatch, name)
    n = {"SharedBottom": 1, "MMoE": 6, "PLE": 16, "STEM": 8, "TaskExpert": 12}[name]
    with pytest.warns(
        ConvergenceWarning, match=rf"1 of {n} experts have collapsed: .*{DEAD[name]} \(member 0, layer 0"
    ):
        net = of_kind(name)(**SMALL).fit(X, Y)
    zeros = net.zero_activations_
    assert zeros.columns.tolist() == ["member", "layer", "expert", "zeros"] and len(zeros) == n
    assert zeros.loc[zeros["zeros"] == 1.0, "expert"].tolist() == [DEAD[name]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swish = of_kind(name)(**SMALL, activation="swish").fit(X, Y)
    assert (swish.zero_activations_["zeros"] < 0.5).all()


@pytest.mark.parametrize("name", ["PLE", "STEM"])
def test_an_expert_of_a_row_task_is_judged_by_the_rows_of_that_task(name, monkeypatch):
    X, y = row_tasks()
    dead_start(monkeypatch, name)
    with pytest.warns(ConvergenceWarning, match="expert 1 of t2"):
        net = of_kind(name, "Regressor")(**SMALL, task_column="task").fit(X, y)
    zeros = net.zero_activations_.set_index(["layer", "expert"])["zeros"]
    assert zeros[0, "expert 1 of t2"] == 1.0 and zeros[0, "expert 1 of t1"] < 0.9


def test_the_zeros_are_counted_on_the_training_rows():
    X, Y = numbers(MultiTabNet)
    net = MMoE(**SMALL, n_experts=2).fit(X, Y)
    module = net._networks[0].module
    from mttab._core.neural.members import Place

    inputs = Place.of(net._networks[0], "auto").inputs(net._encoding.encode_features(X), None)
    x = module.features(inputs.numeric, inputs.missing, inputs.codes).flatten(1)[None, None]
    share = (module.experts(x) == 0).double().mean(dim=(0, 2, 3))
    np.testing.assert_allclose(net.zero_activations_["zeros"], share.detach(), rtol=1e-6)


# --- are they any good ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_architecture
def test_sharing_pays_where_tasks_are_related(name):
    """Ten tasks of one function with few rows each: one network of all is better than one per task."""
    options = SMALL | {"expert_dim": 32, "embedding_dim": 8, "max_epochs": 40, "batch_size": 32}
    gains = []
    for seed in range(2):
        tasks = make_task_groups(50, group_sizes=(10,), shared_share=1.0, return_bunch=True, random_state=seed)
        X_test, y_test = tasks.sample(200, random_state=99)
        together = unsure(of_kind(name, "Regressor")(**options, task_column="task"), tasks.data, tasks.target)
        for t in together.tasks_[:3]:
            train, test = tasks.data["task"] == t, X_test["task"] == t
            single = of_kind(name, "Regressor")(**options)
            unsure(single, tasks.data[train].drop(columns="task"), tasks.target[train])
            alone = np.mean((single.predict(X_test[test].drop(columns="task")) - y_test[test]) ** 2)
            gains.append(alone - np.mean((together.predict(X_test[test]) - y_test[test]) ** 2))
    assert np.mean(gains) > 0 and np.mean(np.array(gains) > 0) >= 0.6
