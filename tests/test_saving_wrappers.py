"""Wrappers around other estimators: files whose parts do not fit together are refused."""

import copy
from functools import cache
from typing import Any

import lightgbm
import numpy as np
import pytest

import mttab
from equality import assert_same
from mttab import ModelFileError, load
from test_saving import make_table, resealed, saved_and_loaded

WRAPPERS: dict[str, dict[str, Any]] = {
    "Pooled": {},
    "TaskAsFeature": {"task_encoding": "onehot"},
    "PerTask": {},
    "TaskCluster": {"n_clusters": 2, "n_folds": 2, "random_state": 0},
}


@cache
def wrapped(name):
    """A wrapper around LightGBM, not to be changed, and its table."""
    X, y = make_table()
    options = {"n_estimators": 3, "min_child_samples": 5, "verbose": -1, "n_jobs": 1}
    is_classifier = name.endswith("Classifier")
    inner = lightgbm.LGBMClassifier(**options) if is_classifier else lightgbm.LGBMRegressor(**options)
    own = WRAPPERS[name.removesuffix("Classifier").removesuffix("Regressor")]
    if "n_clusters" in own:
        own = own | {"pilot": inner}
    model = getattr(mttab, name)(inner, task_column="task", **own)
    return model.fit(X, np.array(["low", "high"])[(y > 1.5).astype(int)] if is_classifier else y), X


def wrapper_changes():
    """Fitted attributes of wrappers, and values that do not belong there."""
    for wrapper in WRAPPERS:
        of_models = "estimators_" if wrapper in ("PerTask", "TaskCluster") else "estimator_"
        yield from ((wrapper, of_models, value) for value in (None, [], 99))
        yield from ((wrapper, "n_tasks_", value) for value in (None, 0, 2, 10**12))
        yield from ((wrapper, "tasks_", value) for value in (None, [], ["north", "south", "west"]))
        yield from ((wrapper, "n_features_in_", value) for value in (None, 3, 10**12))
        yield from ((wrapper, "feature_names_in_", value) for value in (["a", "b", "kind", "task"], 99))
        yield from ((wrapper, "_fitted_task_column", value) for value in (None, [], ["a", "b"], "z", 99, 1.5))
        yield from ((wrapper, "_task_source", value) for value in (None, "argument", "targets", "moon"))
        yield from ((wrapper, "_labels", value) for value in (None, []))
    yield from (("PerTask", "estimators_", change) for change in ([None] * 3, [[]] * 3))
    yield from (("PerTask", "fallback_", value) for value in ([], 99))
    others = [["task", ["u", "v", "w"], "onehot"], ("task", ["u", "v"], "onehot"), ("task", ["u", "u", "v"], "onehot")]
    yield from (("TaskAsFeature", "_handed_on", value) for value in (None, 99, *others, ("task", ["u"], "category")))
    yield from (("TaskCluster", "n_clusters_", value) for value in (1, 3, None))
    yield from (("TaskCluster", "task_labels_", value) for value in (None, [0, 1, 1]))
    yield from (("TaskCluster", "placed_tasks_", value) for value in (None, {"east": 0}))
    yield from (("TaskCluster", "cross_error_", value) for value in (None, 99))


@pytest.mark.parametrize(("wrapper", "name", "value"), list(wrapper_changes()))
def test_a_wrapper_whose_parts_do_not_fit_together_is_refused(wrapper, name, value, tmp_path):
    def change(content, tensors):
        fitted = content["fields"]["fitted"]
        assert name in fitted
        is_tuple = isinstance(value, tuple)
        fitted[name] = {"$": "tuple", "items": list(value)} if is_tuple else value

    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        load(resealed(wrapped(f"{wrapper}Regressor")[0], tmp_path, change))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_with_models_of_other_rows_is_refused(wrapper, tmp_path):
    other = copy.deepcopy(wrapped(f"{wrapper}Classifier")[0])
    other.classes_ = np.array(["low", "top"], dtype=object)
    other.save(tmp_path / "model.mttab")
    with pytest.raises(ModelFileError, match="a class that is not among classes_"):
        load(tmp_path / "model.mttab")
    fewer = copy.deepcopy(wrapped(f"{wrapper}Regressor")[0])
    fewer.tasks_ = fewer.tasks_[::-1]
    fewer.save(tmp_path / "model.mttab")
    with pytest.raises(ModelFileError, match="tasks_ are not those of the model"):
        load(tmp_path / "model.mttab")


def test_groups_that_have_no_model_are_refused(tmp_path):
    model = copy.deepcopy(wrapped("TaskClusterRegressor")[0])
    model.task_labels_ = np.array([0, 1, 5])
    model.save(tmp_path / "model.mttab")
    with pytest.raises(ModelFileError, match="task_labels_ are not the groups"):
        load(tmp_path / "model.mttab")


def test_a_wrapper_with_placed_tasks_comes_back(tmp_path):
    model, X = wrapped("TaskClusterRegressor")
    model = copy.deepcopy(model)
    new = X.assign(task="east")
    model.place_task(new, X["b"])
    again = saved_and_loaded(model, tmp_path)
    assert again.placed_tasks_ == model.placed_tasks_
    assert_same(again.predict(new), model.predict(new))
    model.placed_tasks_ = {"east": 7}
    model.save(tmp_path / "model.mttab")
    with pytest.raises(ModelFileError, match="a placed task is in no group"):
        load(tmp_path / "model.mttab")


@pytest.mark.parametrize(("name", "value"), [("_Booster", None), ("_n_features", 10**12), ("_n_features_in", 2)])
def test_a_lightgbm_estimator_that_is_not_of_its_booster_is_refused(name, value, tmp_path):
    def change(content, tensors):
        content["fields"]["fitted"]["estimator_"]["fields"]["fitted"][name] = value

    with pytest.raises(ModelFileError, match=r"LGBMRegressor (has no booster|is of other features)"):
        load(resealed(wrapped("PooledRegressor")[0], tmp_path, change))
