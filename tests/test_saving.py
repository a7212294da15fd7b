"""Models saved to a file and loaded again: the same in every bit, without code, and refused where that cannot be."""

import json
import pickle
import re
from contextlib import suppress
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit

import mttab
from equality import assert_same
from estimator_list import parameters
from mttab import ModelFileError, MultiTabNet, RMTGBClassifier, RMTGBRegressor, load
from mttab._core.archive import seal, unseal
from mttab._core.boosting.losses import REGRESSION_LOSSES
from mttab._core.records import field_hints
from mttab._stored_kinds import Kind, class_of
from mttab.datasets import make_multitask, make_task_groups
from mttab.model_selection import TaskShuffleSplit, TaskStratifiedKFold
from mttab.persistence import ESTIMATORS, KINDS, Saving, _build_estimator, _take_apart_estimator

ROUNDS: dict[str, Any] = {"max_iter_shared": 6, "max_iter_partition": 3, "max_iter_task": 2, "min_samples_leaf": 5}
SMALL: dict[str, Any] = {
    **{"embedding_dim": 4, "n_blocks": 1, "mlp_dim": 4, "head_dim": 4, "n_bins": 3, "n_members": 2, "max_epochs": 2},
    **{"random_state": 0, "batch_size": 64},
}


def make_table(n=160, labels=("north", "south", "west"), seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n)})
    X.loc[rng.random(n) < 0.1, "a"] = np.nan
    X["kind"] = pd.Categorical(rng.choice(["u", "v", None], n))
    column = np.empty(n, dtype=object)
    column[:] = [labels[i] for i in np.arange(n) % len(labels)]
    X["task"] = pd.Series(list(column))
    y = X["b"].to_numpy() + (np.arange(n) % len(labels)) + 5.0 * (X["kind"] == "u")
    return X, y.to_numpy()


def saved_and_loaded(model, folder, **options):
    model.save(folder / "model.mttab")
    return load(folder / "model.mttab", **options)


def assert_equal_models(model, again, X):
    """Attributes in every bit, and whatever a model can say about rows."""
    assert_same(vars(model), vars(again))
    for method in ("predict", "predict_proba", "decision_function", "decompose", "attention"):
        if hasattr(model, method):
            one, other = getattr(model, method)(X), getattr(again, method)(X)
            assert_same(dict(one), dict(other)) if isinstance(one, dict) else assert_same(one, other)
    for method in ("staged_predict", "staged_predict_proba"):
        if hasattr(model, method):
            assert_same(list(getattr(model, method)(X)), list(getattr(again, method)(X)))


# --- boosters -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regressor():
    X, y = make_table()
    return RMTGBRegressor(task_column="task", random_state=0, **ROUNDS).fit(X, y)


@pytest.mark.parametrize("loss", sorted(REGRESSION_LOSSES))
def test_a_regressor_of_every_loss_comes_back_in_every_bit(loss, tmp_path):
    X, y = make_table()
    model = RMTGBRegressor(task_column="task", loss=loss, target_scaling="task", random_state=0, **ROUNDS)
    model.fit(X, np.abs(y))
    unseen = X.assign(task="elsewhere", kind="w")
    assert_equal_models(model, saved_and_loaded(model, tmp_path), pd.concat([X, unseen]))


@pytest.mark.parametrize("options", [{}, {"loss": "multinomial", "multi_strategy": "multi_output_tree"}])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_classifier_comes_back_in_every_bit(n_classes, options, tmp_path):
    X, y = make_table()
    y = np.array(["low", "high", "top"])[np.digitize(y, [1.0, 2.0][: n_classes - 1])]
    model = RMTGBClassifier(task_column="task", random_state=0, **ROUNDS, **options).fit(X, y)
    assert_equal_models(model, saved_and_loaded(model, tmp_path), X)


def test_a_model_of_several_columns_comes_back_in_every_bit(tmp_path):
    X, y = make_table()
    Y = pd.DataFrame({"first": y, ("second", 2): np.where(np.arange(len(y)) % 3 == 0, np.nan, -y)})
    model = RMTGBRegressor(sharing="blocks", random_state=0, **ROUNDS).fit(X[["a", "b", "kind"]], Y)
    assert_equal_models(model, saved_and_loaded(model, tmp_path), X[["a", "b", "kind"]])


LABELS = {
    "str": ("north", "söuth", ""),
    "int": (3, -1, 2**70),
    "float": (0.5, 1.25, -3.0),
    "bool": (True, False),
    "mixed": ("north", 1, 2.5),
    "Timestamp": (pd.Timestamp("2020-01-01"), pd.Timestamp("2021-01-01 12:00:01")),
    "Timestamp with a zone": (pd.Timestamp("2020-01-01", tz="Europe/Vienna"), pd.Timestamp("2021", tz="Europe/Vienna")),
}


@pytest.mark.parametrize("kind", LABELS)
def test_task_labels_of_every_kind_come_back(kind, tmp_path):
    X, y = make_table(60, LABELS[kind])
    model = RMTGBRegressor(task_column="task", random_state=0, **ROUNDS).fit(X, y)
    assert_equal_models(model, saved_and_loaded(model, tmp_path), X)


def test_composite_task_labels_come_back(tmp_path):
    X, y = make_table(60)
    X["year"] = np.arange(60) % 2 + 2000
    model = RMTGBRegressor(task_column=["task", "year"], random_state=0, **ROUNDS).fit(X, y)
    again = saved_and_loaded(model, tmp_path)
    assert again.tasks_[0] == ("north", 2000)
    assert_equal_models(model, again, X)


def test_a_model_of_arrays_and_a_task_argument_comes_back(tmp_path):
    X, y = make_table(60)
    task, X = X["task"].to_numpy(), X[["a", "b"]].to_numpy()
    model = RMTGBRegressor(random_state=0, **ROUNDS).fit(X, y, task=task)
    again = saved_and_loaded(model, tmp_path)
    assert_same(model.predict(X, task=task), again.predict(X, task=task))
    with pytest.raises(ValueError, match="needs the task of every row"):
        again.predict(X)


def test_a_loaded_booster_goes_on_as_a_pickled_one(regressor, tmp_path):
    X, y = make_table()
    models = [saved_and_loaded(regressor, tmp_path), pickle.loads(pickle.dumps(regressor))]
    for model in models:
        model.set_params(warm_start=True, max_iter_shared=9, max_iter_task=4).fit(X, y)
    assert models[0].n_iter_["shared"] == 9
    assert_same(vars(models[0]), vars(models[1]))


def test_a_loaded_model_can_be_cloned_and_saved_again(regressor, tmp_path):
    again = saved_and_loaded(regressor, tmp_path)
    assert_same(clone(again).get_params(), clone(regressor).get_params())
    data = (tmp_path / "model.mttab").read_bytes()
    again.save(str(tmp_path / "again.mttab"))
    first, second = (unseal(d, "") for d in (data, (tmp_path / "again.mttab").read_bytes()))
    assert first[1] == second[1]
    assert_same(dict(sorted(first[0].items())), dict(sorted(second[0].items())))


# --- parameters -----------------------------------------------------------------------------------------------------


class MySplitter(KFold):
    """A class of the user's own."""


@pytest.mark.parametrize(
    "validation",
    [
        KFold(3, shuffle=True, random_state=1),
        ShuffleSplit(2, test_size=0.3, random_state=np.random.RandomState(3)),
        GroupKFold(2),
        TaskStratifiedKFold(3),
        TaskShuffleSplit(n_splits=2, test_size=0.2, random_state=0),
        [(np.arange(50), np.arange(50, 160))],
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_splitter_comes_back(validation, tmp_path):
    X, y = make_table()
    model = RMTGBRegressor(task_column="task", validation=validation, early_stopping=True, random_state=0, **ROUNDS)
    again = saved_and_loaded(model.fit(X, y), tmp_path)
    assert_same(again.validation, validation)
    assert_same(vars(clone(model).fit(X, y)), vars(clone(again).fit(X, y)))


@pytest.mark.parametrize("kind", [name for name, row in KINDS.items() if row.module.endswith("model_selection")])
def test_every_splitter_in_the_table_can_be_built_again(kind):
    cls = class_of(kind, KINDS[kind].module)
    needed = {"LeavePGroupsOut": {"n_groups": 2}, "LeavePOut": {"p": 2}}
    splitter = cls(**needed.get(kind, {}))
    again = KINDS[kind].build(cls, KINDS[kind].take_apart(splitter))
    assert_same(again, splitter)


def test_parameters_that_are_arrays_dicts_and_generators_come_back(tmp_path):
    X, y = make_table()
    model = RMTGBRegressor(
        task_column="task",
        sharing="blocks",
        monotonic_cst={"b": 1},
        categorical_features=np.array([False, False, True, False]),
        theta_init={"north": 0.1, "south": np.float64(-0.2), "west": 1},
        task_weight={"north": 2.0},
        learning_rate=np.float32(0.1),
        random_state=np.random.RandomState(7),
        **ROUNDS,
    ).fit(X, y)
    again = saved_and_loaded(model, tmp_path)
    assert_equal_models(model, again, X)
    assert_same(model.fit(X, y).predict(X), again.fit(X, y).predict(X))  # the generator goes on


def test_a_parameter_that_cannot_be_stored_is_named_with_the_remedy(regressor, tmp_path):
    X, y = make_table()
    model = RMTGBRegressor(task_column="task", validation=MySplitter(3), early_stopping=True, **ROUNDS).fit(X, y)
    with pytest.raises(TypeError, match=r"parameter validation holds MySplitter.*set_params\(validation=None\)"):
        model.save(tmp_path / "model.mttab")
    assert not (tmp_path / "model.mttab").exists()
    assert_equal_models(model, saved_and_loaded(model.set_params(validation=None), tmp_path), X)


def test_a_label_that_cannot_be_stored_is_named(tmp_path):
    X, y = make_table(60, (pd.Period("2020", "Y"), pd.Period("2021", "Y")))
    model = RMTGBRegressor(random_state=0, **ROUNDS).fit(X[["a", "b"]], y, task=X["task"])
    with pytest.raises(TypeError, match=r"Period\('2020'.*use labels and categories that are strings"):
        model.save(tmp_path / "model.mttab")


@pytest.mark.parametrize("is_still_a_parameter", [True, False])
@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("random_state", np.random.default_rng(0), "an int or None"),
        ("objective", lambda y, score: (score - y, np.ones(len(y))), "text, numbers or None"),
    ],
    ids=["random_state", "objective"],
)
def test_an_option_inside_that_cannot_be_stored_is_named_with_its_own_remedy(
    option, value, wanted, is_still_a_parameter, tmp_path
):
    X, y = make_table()
    inner = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1, **{option: value})
    model = mttab.PooledRegressor(inner, task_column="task").fit(X, y)
    if not is_still_a_parameter:
        model.set_params(estimator=None)
    with pytest.raises(TypeError, match=f"fit with {option}=<{wanted}>, or pickle the model") as caught:
        model.save(tmp_path / "model.mttab")
    assert "label" not in str(caught.value)


def test_what_else_cannot_be_stored_is_named_without_advice_on_labels(regressor, tmp_path):
    model = pickle.loads(pickle.dumps(regressor))
    model.note_ = object()
    with pytest.raises(TypeError, match=r"fitted\.note_ is <object.*cannot hold; pickle the model"):
        model.save(tmp_path / "model.mttab")


def test_what_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        RMTGBRegressor().save(tmp_path / "model.mttab")


class MyRegressor(RMTGBRegressor):
    """A class of the user's own."""


def test_a_class_of_the_users_own_is_refused_by_name(regressor, tmp_path):
    model = MyRegressor()
    vars(model).update(vars(regressor))
    with pytest.raises(TypeError, match="MyRegressor is a class of your own"):
        model.save(tmp_path / "model.mttab")


def test_requested_metadata_comes_back(regressor, tmp_path):
    from sklearn import config_context

    model = pickle.loads(pickle.dumps(regressor))
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight="weight")
        again = saved_and_loaded(model, tmp_path)
        assert str(again.get_metadata_routing()) == str(model.get_metadata_routing())


# --- networks -------------------------------------------------------------------------------------------------------


def make_labels(n=160):
    X, _ = make_table(n)
    types = ["regression", "binary", "multiclass"]
    _, Y = make_multitask(n, 3, 3, task_types=types, random_state=0)
    return X, Y.mask(np.random.default_rng(3).random(Y.shape) < 0.1)


@pytest.fixture(scope="module")
def network():
    X, Y = make_labels()
    return MultiTabNet(**SMALL, task_weighting="uncertainty", direct_dim=3).fit(X, Y)


NETWORKS: dict[str, dict[str, Any]] = {
    "rows see rows, in double precision": {"sample_attention": True, "context_size": 20, "precision": "float64"},
    "other embeddings": {"numerical_embedding": "periodic", "numerical_scaling": "standard", "mask": "both"},
}


@pytest.mark.parametrize("options", [next(iter(NETWORKS)), pytest.param("other embeddings", marks=pytest.mark.slow)])
def test_a_network_comes_back_in_every_bit_and_goes_on(options, tmp_path):
    X, Y = make_labels()
    model = MultiTabNet(**SMALL, **NETWORKS[options]).fit(X, Y)
    again, pickled = saved_and_loaded(model, tmp_path), pickle.loads(pickle.dumps(model))
    assert_equal_models(model, again, X.assign(kind="w"))
    assert_same(vars(again.partial_fit(X, Y)), vars(pickled.partial_fit(X, Y)))


def test_a_frame_of_predictions_has_its_columns_again(network, tmp_path):
    X, Y = make_labels()
    again = saved_and_loaded(network, tmp_path)
    assert_equal_models(network, again, X)
    assert again.predict(X).columns.identical(Y.columns)


@pytest.mark.parametrize(
    "columns",
    [
        pd.Index([3, 1, 2]),
        pd.RangeIndex(2, 8, 2, name="target"),
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["x", None]),
        pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-03"]),
        pd.Index(["a", 1, ("b", 2)], dtype=object),
    ],
    ids=lambda c: type(c).__name__,
)
def test_columns_of_every_kind_come_back(columns, tmp_path):
    X, Y = make_labels(40)
    Y.columns = columns
    model = MultiTabNet(**{**SMALL, "max_epochs": 0, "n_members": 1}).fit(X, Y)
    again = saved_and_loaded(model, tmp_path)
    assert again.predict(X).columns.identical(columns)
    assert_same(list(again.predict_proba(X)), list(model.predict_proba(X)))


def test_a_network_of_row_tasks_comes_back(tmp_path):
    X, y = make_table()
    model = mttab.MultiTabNetRegressor(task_column="task", target_scaling="task", **SMALL).fit(X, y)
    assert_equal_models(model, saved_and_loaded(model, tmp_path), pd.concat([X, X.assign(task="elsewhere")]))


def test_a_network_classifier_comes_back(tmp_path):
    X, y = make_table()
    model = mttab.MultiTabNetClassifier(**SMALL).fit(X[["a", "kind"]], np.where(y > 1, "high", "low"))
    assert_equal_models(model, saved_and_loaded(model, tmp_path), X[["a", "kind"]])


def test_options_set_after_fit_do_not_disturb_the_weights(network, tmp_path):
    X, _ = make_labels()
    model = pickle.loads(pickle.dumps(network)).set_params(embedding_dim=64, n_blocks=7)
    again = saved_and_loaded(model, tmp_path)
    assert again.embedding_dim == 64
    assert_same(again.predict(X), network.predict(X))


@pytest.mark.parametrize("device", ["cuda:99", "mps:99", "xpu:99", "hpu", "meta"])
def test_a_network_trained_on_a_device_that_is_absent_is_loaded_on_the_cpu(device, network, tmp_path):
    X, Y = make_labels()
    model = pickle.loads(pickle.dumps(network)).set_params(device=device)
    model.device_ = device
    again = saved_and_loaded(model, tmp_path)
    assert again._networks[0].module.task_tokens.device.type == "cpu"
    assert_same(again.predict(X), network.predict(X))
    with pytest.raises(ValueError, match=rf"device='{device}' was asked for.*loaded: set_params\(device='auto'\)"):
        again.partial_fit(X, Y)
    again.set_params(device="cpu").partial_fit(X, Y)
    assert_same(load(tmp_path / "model.mttab", device="cpu").predict(X), network.predict(X))
    with pytest.raises(ValueError, match=f"device='{device}' was asked for"):
        load(tmp_path / "model.mttab", device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU to compare the CPU with")
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_network_trained_on_a_gpu_comes_back_there_and_on_the_cpu(precision, tmp_path):
    X, Y = make_labels()
    model = MultiTabNet(**SMALL, device="cuda", precision=precision).fit(X, Y)
    again = saved_and_loaded(model, tmp_path)
    assert again._networks[0].module.task_tokens.device.type == "cuda"
    assert_equal_models(model, again, X)
    on_cpu, pickled = load(tmp_path / "model.mttab", device="cpu"), pickle.loads(pickle.dumps(model))
    assert_same(on_cpu._networks[0].module, model._networks[0].module)
    assert on_cpu._networks[0].module.task_tokens.device.type == "cpu"
    assert_same(on_cpu.predict(X), pickled.predict(X))  # a pickle has its tensors on the CPU
    number = model.predict(X).columns[0]
    near = 0.1 if precision == "auto" else 1e-3  # "auto" computes products with 16 bits on most GPUs
    np.testing.assert_allclose(on_cpu.predict(X)[number], model.predict(X)[number], atol=near * Y[number].std())


# --- models inside models -------------------------------------------------------------------------------------------


class Wrapper(Saving, BaseEstimator):
    """One model per class of something."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimators_ = {name: clone(self.estimator).fit(X, y) for name in ("a", 1)}
        return self

    def predict(self, X):
        return sum(model.predict(X) for model in self.estimators_.values())


@pytest.fixture
def known_wrapper(monkeypatch):
    monkeypatch.setitem(KINDS, "Wrapper", Kind(__name__, _take_apart_estimator, _build_estimator))


@pytest.mark.usefixtures("known_wrapper")
@pytest.mark.parametrize(
    "estimator",
    [
        RMTGBRegressor(random_state=0, **ROUNDS),
        mttab.MultiTabNetRegressor(**SMALL),
        lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=5, verbose=-1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_wrapper_saves_the_models_inside(estimator, tmp_path):
    X, y = make_table()
    X = X[["a", "b", "kind"]]
    model = Wrapper(estimator).fit(X, y)
    again = saved_and_loaded(model, tmp_path)
    assert_same(again.predict(X), model.predict(X))
    assert_same(again.estimator.get_params(), estimator.get_params())
    assert_same(again.fit(X, y).predict(X), model.predict(X))


@pytest.mark.usefixtures("known_wrapper")
def test_a_lightgbm_classifier_inside_keeps_its_classes(tmp_path):
    X, y = make_table()
    model = Wrapper(lightgbm.LGBMClassifier(n_estimators=5, verbose=-1))
    model.estimators_ = {"a": clone(model.estimator).fit(X[["a", "kind"]], np.where(y > 1, "high", "low"))}
    again = saved_and_loaded(model, tmp_path)
    one, other = model.estimators_["a"], again.estimators_["a"]
    assert_same(one.predict_proba(X[["a", "kind"]]), other.predict_proba(X[["a", "kind"]]))
    assert_same(one.predict(X[["a", "kind"]]), other.predict(X[["a", "kind"]]))
    assert other.classes_.tolist() == ["high", "low"]
    _, metadata = unseal((tmp_path / "model.mttab").read_bytes(), "")
    assert "Tree=0" in metadata["content"]  # as text that LightGBM reads


@pytest.mark.usefixtures("known_wrapper")
def test_an_estimator_of_another_library_inside_is_refused_by_name(tmp_path):
    X, y = make_table()
    with pytest.raises(TypeError, match=r"Wrapper cannot be saved: it has Ridge\(\) inside"):
        Wrapper(Ridge()).fit(X[["b"]], y).save(tmp_path / "model.mttab")


# --- files that are not what they should be -------------------------------------------------------------------------


def test_a_model_file_damaged_anywhere_is_refused(regressor, tmp_path):
    regressor.save(tmp_path / "model.mttab")
    data = (tmp_path / "model.mttab").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data), size=60):
        (tmp_path / "cut.mttab").write_bytes(data[:place])
        with pytest.raises(ModelFileError, match=r"cut\.mttab"):
            load(tmp_path / "cut.mttab")
        (tmp_path / "altered.mttab").write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        with pytest.raises(ModelFileError, match=r"altered\.mttab"):
            load(tmp_path / "altered.mttab")


def resealed(model, folder, change):
    """The model saved, and changed by somebody who knows how to make the checksum fit."""
    model.save(folder / "model.mttab")
    tensors, metadata = unseal((folder / "model.mttab").read_bytes(), "")
    content = json.loads(metadata["content"])
    change(content, tensors)
    (folder / "model.mttab").write_bytes(seal(tensors, {**metadata, "content": json.dumps(content)}))
    return folder / "model.mttab"


def forest_of(content, tensors):
    forest = content["fields"]["fitted"]["_fitted"]["fields"]["model"]["fields"]["forest"]["fields"]
    return {
        name: tensors[array["name"]] for part in ("nodes", "trees") for name, array in forest[part]["fields"].items()
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("left", 10**6), ("left", 0), ("right", -1), ("feature", 99), ("category_start", 10**6), ("root", -1)),
        *(("root", 10**6), ("block", 3), ("group", 50), ("output", 1), ("round", 10**6), ("n_levels", 10**6)),
    ],
)
def test_a_forest_whose_indices_lead_astray_is_refused(name, value, regressor, tmp_path):
    def change(content, tensors):
        part = forest_of(content, tensors)
        if name in ("category_start", "n_levels"):
            place = np.flatnonzero(part["category_start"] >= 0)[0]
        else:
            place = 0
        part[name][place] = value

    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(resealed(regressor, tmp_path, change))


@pytest.mark.parametrize(("name", "value"), [("left", 10**8), ("right", 0), ("left", -2)])
def test_a_leaf_with_a_child_is_refused(name, value, regressor, tmp_path):
    def change(content, tensors):
        part = forest_of(content, tensors)
        part[name][np.flatnonzero(part["feature"] < 0)[0]] = value

    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(resealed(regressor, tmp_path, change))


@pytest.mark.parametrize("start", [-1, -(10**9)])
def test_a_split_on_the_task_without_levels_is_refused(start, tmp_path):
    X, y = make_task_groups(n_samples=40, random_state=0)
    model = RMTGBRegressor(task_column="task", sharing="category", max_iter_shared=60, n_jobs=1).fit(X, y)
    n_asked = []

    def change(content, tensors):
        part = forest_of(content, tensors)
        asks_for_task = part["feature"] == X.shape[1] - 1
        n_asked.append(asks_for_task.sum())
        part["category_start"][asks_for_task] = start

    path = resealed(model, tmp_path, change)
    assert n_asked[0] > 0
    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content, tensors: content.update(kind="system"),
        lambda content, tensors: content.update(kind="MultiTabNet"),
        lambda content, tensors: content["fields"]["parameters"].update(novelty=1),
        lambda content, tensors: content["fields"]["fitted"].update(predict=1),
        lambda content, tensors: content["fields"]["fitted"].update(__class__=1),
        lambda content, tensors: content["fields"]["fitted"].pop("_fitted"),
        lambda content, tensors: content["fields"]["fitted"].update(theta_="large"),
        lambda content, tensors: content["fields"]["fitted"]["_fitted"]["fields"].update(novelty=1),
        lambda content, tensors: content["fields"]["fitted"]["_fitted"]["fields"].update(loss=None),
        lambda content, tensors: content["fields"]["fitted"]["_fitted"]["fields"]["loss"].update(kind="BinMapper"),
        lambda content, tensors: content["fields"]["fitted"]["_fitted"]["fields"]["mapper"]["fields"]["edges"].pop(),
        lambda content, tensors: content["fields"]["fitted"]["_fitted"]["fields"]["encoder"]["fields"]["names"].pop(),
    ],
)
def test_a_file_whose_parts_are_not_what_they_should_be_is_refused(change, regressor, tmp_path):
    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(resealed(regressor, tmp_path, change))


@pytest.mark.parametrize(("which", "n_files"), [("regressor", 60), pytest.param("network", 40, marks=pytest.mark.slow)])
def test_a_file_with_other_values_in_it_is_refused_or_harmless(which, n_files, request, tmp_path):
    """Whatever somebody writes into a file: an error of ours, or a model that at worst predicts nonsense."""
    model = request.getfixturevalue(which)
    X = make_labels()[0]
    rng = np.random.default_rng(0)
    model.save(tmp_path / "model.mttab")
    tensors, metadata = unseal((tmp_path / "model.mttab").read_bytes(), "")
    n_refused = 0
    for _ in range(n_files):
        name = rng.choice(sorted(tensors))
        (tmp_path / "model.mttab").write_bytes(seal({**tensors, name: with_other_values(tensors[name], rng)}, metadata))
        try:
            again = load(tmp_path / "model.mttab")
        except ModelFileError:
            n_refused += 1
            continue
        with suppress(ValueError, IndexError, RuntimeError):
            again.predict(X[:5])
    assert n_files // 4 < n_refused < n_files


def with_other_values(array, rng):
    """An array of another shape, of another type, or with an extreme number in it."""
    kind = rng.integers(3)
    if kind == 0:
        return np.concatenate([array.ravel(), array.ravel()[:1]]) if array.ndim else array.reshape(1)
    if kind == 1:
        return array.astype(rng.choice(["f4", "f8", "i4", "i8"]))
    out = array.copy()
    if array.size:
        extremes = {"b": [0, 1], "f": [np.nan, np.inf, -1]}.get(array.dtype.kind, [2**31 - 1, 0])
        out.flat[rng.integers(array.size)] = rng.choice(extremes)
    return out


@pytest.mark.parametrize(
    ("field", "value"),
    [("tree_sizes", "7"), ("left_child", "999999999"), ("left_child", "0"), ("split_feature", "99999999")],
)
def test_a_text_of_lightgbm_that_leads_astray_is_refused(field, value, tmp_path):
    X, y = make_table()
    inner = lightgbm.LGBMRegressor(n_estimators=3, min_child_samples=5, verbose=-1, n_jobs=1)
    model = mttab.PooledRegressor(inner, task_column="task").fit(X, y)
    assert_same(saved_and_loaded(model, tmp_path).predict(X), model.predict(X))

    def change(content, tensors):
        booster = content["fields"]["fitted"]["estimator_"]["fields"]["fitted"]["_Booster"]["fields"]
        old = re.search(rf"{field}=(\d+)", booster["text"])
        # as long as before, where that is possible, so that the sizes of the trees stay true
        after = booster["text"][old.start(1) + len(value) :] if field != "tree_sizes" else booster["text"][old.end(1) :]
        booster["text"] = booster["text"][: old.start(1)] + value + after

    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(resealed(model, tmp_path, change))


def test_a_file_of_no_model_is_refused(regressor, tmp_path):
    with pytest.raises(ModelFileError, match="holds a list, which is no model"):
        load(resealed_as(regressor, tmp_path, "[1]"))


def resealed_as(model, folder, content):
    model.save(folder / "model.mttab")
    tensors, metadata = unseal((folder / "model.mttab").read_bytes(), "")
    (folder / "model.mttab").write_bytes(seal(tensors, {**metadata, "content": content}))
    return folder / "model.mttab"


# --- all estimators ---------------------------------------------------------------------------------------------------


def around_lightgbm(row):
    """Options with LightGBM where the list has an estimator that cannot be saved."""
    if "estimator" not in row.options:
        return {}
    cls = lightgbm.LGBMClassifier if row.is_classifier else lightgbm.LGBMRegressor
    inner = cls(n_estimators=3, min_child_samples=5, verbose=-1, n_jobs=1)
    return {name: clone(inner) for name in ("estimator", "pilot") if name in row.options}


@pytest.mark.parametrize("row", parameters("column", "targets"))
def test_every_estimator_predicts_the_same_and_has_its_parameters_again(row, tmp_path):
    X, y = make_table(80)
    features, is_high = X[["a", "b", "kind"]], y > 1.5
    one = np.array(["low", "high"])[is_high.astype(int)] if row.is_classifier else y
    several = pd.DataFrame({"u": is_high if row.is_classifier else y, "v": X["b"] > 0}).astype(float)
    several.loc[::7, "v"] = np.nan
    for table, labels, own in [(X, one, {"task_column": "task"}), (features, several, {})]:
        model = row.make(**around_lightgbm(row), **own).fit(table, labels)
        again = saved_and_loaded(model, tmp_path)
        assert_same(again.get_params(), model.get_params())
        for method in ("predict", "predict_proba"):
            if hasattr(model, method):
                assert_same(getattr(again, method)(table), getattr(model, method)(table))


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_public_estimator_can_be_saved():
    public = {name: getattr(mttab, name) for name in mttab.__all__}
    estimators = {
        name for name, value in public.items() if isinstance(value, type) and issubclass(value, BaseEstimator)
    }
    assert estimators == set(ESTIMATORS)
    for name in estimators:
        assert issubclass(public[name], Saving)
        assert class_of(name, ESTIMATORS[name]) is public[name]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_the_table_is_there_and_its_annotations_can_be_read(kind):
    cls = class_of(kind, KINDS[kind].module)
    assert cls.__name__ == kind
    if cls.__module__.startswith("mttab") and kind != "TaskLabels":
        field_hints(cls)
