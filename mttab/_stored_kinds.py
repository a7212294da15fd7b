"""What a model file may hold besides plain data: a fixed table of classes, and how each is taken apart and built."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mttab._core.lightgbm_text import check_lightgbm_text
from mttab._core.records import build, check_type, fields_of, require


class Kind(NamedTuple):
    """A class that files know by its name.

    Attributes
    ----------
    module : str
        Where the class is; nothing else is ever imported for a file.
    take_apart : callable
        Object → fields; None for an object that it cannot take apart.
    build : callable
        Class, fields → object; ValueError if they do not fit.
    """

    module: str
    take_apart: Callable[[Any], dict[str, Any] | None] = fields_of
    build: Callable[[Any, dict[str, Any]], Any] = build


@cache
def class_of(kind: str, module: str) -> Any:
    """The class of a row of the table."""
    if module == "torch":
        import_module("mttab._core.neural")  # which says how to get it
    return getattr(import_module(module), kind)


# --- adapters -------------------------------------------------------------------------------------------------------


def _take_apart_labels(labels: Any) -> dict[str, Any]:
    return {"labels": labels.labels}


def _build_labels(cls: Any, fields: dict[str, Any]) -> Any:
    check_type(fields["labels"], np.ndarray, "TaskLabels.labels")
    return cls(fields["labels"].tolist())


def _take_apart_random_state(state: np.random.RandomState) -> dict[str, Any] | None:
    fields = dict(state.get_state(legacy=False))
    return fields if fields["bit_generator"] == "MT19937" else None  # which a new one has


def _build_random_state(cls: Any, fields: dict[str, Any]) -> Any:
    made = cls()
    made.set_state(fields)
    return made


def _take_apart_tensor(tensor: Any) -> dict[str, Any]:
    return {"values": tensor.detach().cpu().numpy()}


def _build_tensor(cls: Any, fields: dict[str, Any]) -> Any:
    check_type(fields["values"], np.ndarray, "Tensor.values")
    return import_module("torch").as_tensor(fields["values"])


def take_apart_options(value: Any) -> dict[str, Any]:
    """The arguments of the constructor, for objects that keep them under their names."""
    kept = {**getattr(value, "cvargs", {}), **vars(value)}  # a repeated splitter keeps those of the single one apart
    return {name: kept[name] for name in inspect.signature(type(value)).parameters}


def build_from_options(cls: Any, fields: dict[str, Any]) -> Any:
    """The reverse."""
    return cls(**fields)


def _take_apart_values(values: Any) -> dict[str, Any]:
    """Array, or list of items with the name of their type where pandas has a type of its own."""
    if isinstance(values.dtype, np.dtype):
        return {"values": values.to_numpy()}
    return {"values": list(values), "dtype": str(values.dtype)}


def _take_apart_index(index: pd.Index) -> dict[str, Any] | None:
    if isinstance(index, pd.MultiIndex):
        fields = {"values": list(index), "names": list(index.names)}
    elif isinstance(index, pd.RangeIndex):
        fields = {"range": [index.start, index.stop, index.step], "name": index.name}
    else:
        fields = {**_take_apart_values(index), "name": index.name}
    again = _build_index(type(index), fields)
    is_same = type(again) is type(index) and again.dtype == index.dtype and again.identical(index)
    return fields if is_same else None  # None: ordered categories, for one


def _build_index(cls: Any, fields: dict[str, Any]) -> pd.Index:
    if "range" in fields:
        return pd.RangeIndex(*fields["range"], name=fields["name"])
    if "names" in fields:
        return pd.MultiIndex.from_tuples(fields["values"], names=fields["names"])
    return pd.Index(fields["values"], dtype=fields.get("dtype"), name=fields["name"], tupleize_cols=False)


def _take_apart_series(series: pd.Series) -> dict[str, Any] | None:
    fields = {**_take_apart_values(series), "index": series.index, "name": series.name}
    return fields if _build_series(pd.Series, fields).equals(series) else None


def _build_series(cls: Any, fields: dict[str, Any]) -> pd.Series:
    return pd.Series(fields["values"], index=fields["index"], dtype=fields.get("dtype"), name=fields["name"])


def _take_apart_frame(frame: pd.DataFrame) -> dict[str, Any]:
    values = [_take_apart_values(frame.iloc[:, j]) for j in range(frame.shape[1])]
    return {"columns": frame.columns, "index": frame.index, "values": values}


def _build_frame(cls: Any, fields: dict[str, Any]) -> pd.DataFrame:
    series = [pd.Series(column["values"], fields["index"], column.get("dtype")) for column in fields["values"]]
    frame = pd.DataFrame(dict(enumerate(series)), index=fields["index"])
    frame.columns = fields["columns"]
    return frame


def _take_apart_lightgbm(model: Any) -> dict[str, Any]:
    options = model.get_params(deep=False)
    fitted = {name: value for name, value in vars(model).items() if name not in options}
    for name in ("_best_score", "_evals_result"):
        fitted[name] = _plain_dicts(fitted.get(name))
    return {"options": options, "fitted": fitted}


def _build_lightgbm(cls: Any, fields: dict[str, Any]) -> Any:
    made, fitted = cls(**fields["options"]), fields["fitted"]
    set_fitted(made, fitted)
    booster = fitted.get("_Booster")
    require((booster is not None) == fitted.get("fitted_", False), f"{cls.__name__} has no booster")
    if booster is not None:
        n_features = {fitted.get("_n_features"), fitted.get("_n_features_in")}
        require(n_features == {booster.num_feature()}, f"{cls.__name__} is of other features than its booster")
    return made


def _build_fitted(cls: Any, fields: dict[str, Any]) -> Any:
    made = cls()
    set_fitted(made, fields)
    return made


def _plain_dicts(value: Any) -> Any:
    return {k: _plain_dicts(v) for k, v in value.items()} if isinstance(value, dict) else value


def _take_apart_booster(booster: Any) -> dict[str, Any]:
    return {"text": booster.model_to_string(num_iteration=-1), "best_iteration": booster.best_iteration}


def _build_booster(cls: Any, fields: dict[str, Any]) -> Any:
    check_type(fields["text"], str, "Booster.text")
    check_type(fields["best_iteration"], int, "Booster.best_iteration")
    check_lightgbm_text(fields["text"])
    made = cls(model_str=fields["text"])
    made.best_iteration = fields["best_iteration"]
    return made


def set_fitted(model: Any, fitted: dict[str, Any]) -> None:
    """Set fitted attributes, none of which may hide what the class itself has."""
    for name in fitted:
        is_own = name.isidentifier() and (name.startswith("_") or name.endswith("_")) and not name.startswith("__")
        require(is_own and not hasattr(type(model), name), f"{name} is no fitted attribute of {type(model).__name__}")
    vars(model).update(fitted)


# --- the table ------------------------------------------------------------------------------------------------------

_LOSSES = ("SquaredError", "AbsoluteError", "Huber", "Quantile", "Poisson", "BinaryLogLoss", "MultinomialLogLoss")
_OWN_SPLITTERS = ("TaskStratifiedKFold", "TaskShuffleSplit", "LeaveTasksOut")
_SPLITTERS = (
    *("KFold", "StratifiedKFold", "GroupKFold", "StratifiedGroupKFold", "RepeatedKFold", "RepeatedStratifiedKFold"),
    *("ShuffleSplit", "StratifiedShuffleSplit", "GroupShuffleSplit", "TimeSeriesSplit"),
    *("LeaveOneGroupOut", "LeavePGroupsOut", "LeaveOneOut", "LeavePOut"),
)
_PANDAS_INDEXES = ("Index", "RangeIndex", "MultiIndex", "DatetimeIndex", "TimedeltaIndex")

STATES: dict[str, Kind] = {
    "Fitted": Kind("mttab._boosting_fit"),
    "BoostedModel": Kind("mttab._core.boosting.rmtgb"),
    "Forest": Kind("mttab._core.boosting.forest"),
    "Nodes": Kind("mttab._core.boosting.forest"),
    "Trees": Kind("mttab._core.boosting.forest"),
    "BinMapper": Kind("mttab._core.boosting.binning"),
    "Sharing": Kind("mttab._core.boosting.sharing"),
    **dict.fromkeys(_LOSSES, Kind("mttab._core.boosting.losses")),
    "FeatureEncoder": Kind("mttab._core.features"),
    "TargetScaling": Kind("mttab._core.long_table"),
    "TargetTable": Kind("mttab._core.target_table"),
    "TargetColumn": Kind("mttab._core.target_table"),
    "TaskLabels": Kind("mttab._core.tasks", _take_apart_labels, _build_labels),
    "Encoding": Kind("mttab._network_fit"),
    "Layout": Kind("mttab._network_fit"),
    "ColumnEncoder": Kind("mttab._core.neural.columns"),
    "Inputs": Kind("mttab._core.neural.network"),
    "RowMemory": Kind("mttab._core.neural.attention"),
    "Tensor": Kind("torch", _take_apart_tensor, _build_tensor),
    **dict.fromkeys(_OWN_SPLITTERS, Kind("mttab.model_selection", take_apart_options, build_from_options)),
    **dict.fromkeys(_SPLITTERS, Kind("sklearn.model_selection", take_apart_options, build_from_options)),
    "RandomState": Kind("numpy.random", _take_apart_random_state, _build_random_state),
    **dict.fromkeys(_PANDAS_INDEXES, Kind("pandas", _take_apart_index, _build_index)),
    "Series": Kind("pandas", _take_apart_series, _build_series),
    "DataFrame": Kind("pandas", _take_apart_frame, _build_frame),
    **dict.fromkeys(("LGBMRegressor", "LGBMClassifier"), Kind("lightgbm", _take_apart_lightgbm, _build_lightgbm)),
    "Booster": Kind("lightgbm", _take_apart_booster, _build_booster),
    "LabelEncoder": Kind("sklearn.preprocessing", fields_of, _build_fitted),
}
