"""Models to files and back, without pickle: what ``save`` of every estimator writes, `load` reads."""

from __future__ import annotations

import inspect
import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, TypeVar

from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mttab._core.archive import ModelFileError, NotStorableError, Record, read, shown, write
from mttab._core.records import check_type, field_hints, require
from mttab._stored_kinds import STATES, Kind, class_of, set_fitted

__all__ = ["ModelFileError", "load"]

_PACKAGES = ("mttab", "numpy", "pandas", "scikit-learn", "lightgbm", "torch", "safetensors")
# Set by scikit-learn: who is told of progress is no part of a model, and requests are stored by themselves.
_NOT_FITTED = ("_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_metadata_request")
# Places in a model, as errors name them: an option of an estimator in an estimator, and what users name things by.
_OPTION_INSIDE = re.compile(r"\.(?:options|parameters)\.(\w+)")
_LABEL = re.compile("label|task|class|categor|column|index|name")

Model = TypeVar("Model", bound=BaseEstimator)


class Saving:
    """Mixin that gives an estimator ``save``.

    Its fitted state is every attribute that is no parameter. Annotations on the class say what they are, and `load`
    holds them to it.
    """

    # What parameters stand for that files do not name, for they were written before there were such parameters.
    _unsaid_parameters: ClassVar[dict[str, Any]] = {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one file, which `mttab.load` reads.

        The file is in the safetensors format: arrays, and a JSON header with parameters, task labels and encoders.
        Reading it executes nothing, so it may come from anywhere. The loaded model predicts the same, bit by bit on the
        same kind of processor or device, and can go on where this one could (``warm_start``, ``partial_fit``).

        Of processes that train a network together (``torchrun``), the first one writes; the others return at once, so
        that what reads the file is to be in the first process or to wait for it.

        Parameters
        ----------
        path : str or path-like
            Overwritten where it exists, in one step: there is never half a file.

        Raises
        ------
        NotFittedError
            If there is nothing to save yet.
        TypeError
            If a parameter or a label is of a kind that a file without code cannot hold: a splitter or an estimator that
            neither scikit-learn's splitters, LightGBM nor this package has, a function; the message names it.

        Examples
        --------
        >>> import tempfile, mttab
        >>> from mttab.datasets import make_task_groups
        >>> X, y = make_task_groups(50, random_state=0)
        >>> model = mttab.RMTGBRegressor(task_column="task", max_iter_shared=5, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.mttab")
        ...     again = mttab.load(f"{folder}/model.mttab")
        >>> bool((again.predict(X) == model.predict(X)).all())
        True
        """
        check_is_fitted(self)
        name = type(self).__name__
        if KINDS.get(name) is None or class_of(name, KINDS[name].module) is not type(self):
            raise TypeError(
                f"{name} is a class of your own, which a file without code cannot bring back; save the estimator of "
                "mttab that it is made of, or pickle it."
            )
        if not self._writes_files():
            return
        try:
            write(path, {"class": name, "versions": _versions()}, self, _pack)
        except NotStorableError as err:
            raise TypeError(_why_not(name, err)) from None

    def _writes_files(self) -> bool:
        """Whether this process is the one that writes, where several hold the same model."""
        return True

    def _pack_fitted(self, fitted: dict[str, Any]) -> dict[str, Any]:
        """Fitted attributes as what a file can hold."""
        return fitted

    def _unpack_fitted(self, fitted: dict[str, Any]) -> dict[str, Any]:
        """The reverse, on an estimator that has its parameters again."""
        return fitted

    def _check_restored(self) -> None:
        """Raise ValueError unless the restored attributes fit together."""

    def _settle(self, device: str | None) -> None:
        """Take the place where to compute, once all is restored."""


def load(path: str | os.PathLike[str], *, device: str | None = None) -> Any:
    """Read a model that ``save`` of an estimator wrote.

    Nothing in the file is executed: it holds numbers and text, and names of classes in a fixed list.

    Parameters
    ----------
    path : str or path-like
    device : str, default=None
        Where a network predicts from now on: "cpu", "cuda", "mps", or "auto". None: where it was trained, or on the CPU
        if there is no such device here. Other models have no device. The parameter ``device``, where it trains, stays
        what it was: to train further where that is absent, ``set_params(device="auto")``.

    Returns
    -------
    estimator
        Of the class that was saved.

    Raises
    ------
    ModelFileError
        If the file was not written by ``save``, is truncated or altered, or needs a newer version of this package.
    ValueError
        If this machine lacks the device.
    ImportError
        If the model needs a package that is not installed; the message says how to get it.

    Notes
    -----
    Files of earlier versions stay readable. What is stored is equal bit by bit wherever it is read, and so are
    predictions on the same machine; another processor or device may add up in another order.

    Examples
    --------
    >>> import tempfile, mttab
    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(50, random_state=0)
    >>> model = mttab.RMTGBRegressor(task_column="task", max_iter_shared=5, early_stopping=False).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model.mttab")
    ...     again = mttab.load(f"{folder}/model.mttab")
    >>> again
    RMTGBRegressor(early_stopping=False, max_iter_shared=5, task_column='task')
    """
    restored: list[Saving] = []

    def unpack(record: Record) -> Any:
        kind = KINDS.get(record.kind)
        require(kind, f"it holds a {record.kind}, which this version of mttab does not know; update mttab")
        assert kind is not None
        check_type(record.fields, dict, record.kind)
        made = kind.build(class_of(record.kind, kind.module), record.fields)
        if isinstance(made, Saving):
            restored.append(made)
        return made

    _, model = read(path, unpack)
    if not isinstance(model, Saving):
        raise ModelFileError(f"{os.fspath(path)!r} holds a {type(model).__name__}, which is no model; save one.")
    for part in restored:
        part._settle(device)
    return model


def _pack(value: Any) -> Record | None:
    """The record of an object of a known class."""
    name = type(value).__name__
    kind = KINDS.get(name)
    package = type(value).__module__.split(".")[0]
    if kind is None or kind.module.split(".")[0] != package or class_of(name, kind.module) is not type(value):
        return None
    fields = kind.take_apart(value)
    return None if fields is None else Record(name, fields)


def _take_apart_estimator(model: Any) -> dict[str, Any]:
    options = model.get_params(deep=False)
    fitted = {name: value for name, value in vars(model).items() if name not in options and name not in _NOT_FITTED}
    return {
        "parameters": options,
        "requests": _requests(model),
        "fitted": model._pack_fitted(fitted),
    }


def _build_estimator(cls: Any, fields: dict[str, Any]) -> Any:
    options = {**getattr(cls, "_unsaid_parameters", {}), **fields["parameters"]}
    unknown = set(options) - set(inspect.signature(cls).parameters)
    require(not unknown, f"{cls.__name__} has no parameter {sorted(unknown)[:1]} here; update mttab")
    model = cls(**options)
    with config_context(enable_metadata_routing=True):
        for method, requests in fields["requests"].items():
            getattr(model, f"set_{method}_request")(**requests)
    fitted = model._unpack_fitted(fields["fitted"])
    hints, _ = field_hints(cls)
    for name in fitted.keys() & hints.keys():
        check_type(fitted[name], hints[name], f"{cls.__name__}.{name}")
    set_fitted(model, fitted)
    if fitted:
        model._check_restored()
    return model


def _requests(model: Any) -> dict[str, dict[str, Any]]:
    """Metadata that the user has requested by hand, by method."""
    if "_metadata_request" not in vars(model):
        return {}
    by_method = vars(model.get_metadata_routing()).items()
    found = {method: dict(getattr(asked, "requests", {})) for method, asked in by_method if method != "owner"}
    return {method: asked for method, asked in found.items() if asked and hasattr(model, f"set_{method}_request")}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _why_not(name: str, err: NotStorableError) -> str:
    parts = err.where.split(".")
    if hasattr(err.value, "fit") and hasattr(err.value, "get_params"):
        return (
            f"{name} cannot be saved: it has {shown(err.value)} inside ({err.where}), an estimator of another library, "
            "and a file without code holds those of mttab and LightGBM only; save it with a means of that library, "
            "or pickle it."
        )
    inner = _OPTION_INSIDE.findall(err.where)
    if inner:
        wanted = "an int or None" if inner[-1] == "random_state" else "text, numbers or None"
        return (
            f"{name} cannot be saved: {err.where} is {shown(err.value)}, an option of an estimator inside that a file "
            f"without code cannot hold; fit with {inner[-1]}=<{wanted}>, or pickle the model."
        )
    if parts[0] == "parameters" and len(parts) > 1:
        option = parts[1].split("[")[0]
        return (
            f"{name} cannot be saved: its parameter {option} holds {shown(err.value)}, which a file without code "
            f"cannot bring back; predictions may not need it: model.set_params({option}=None) before save, or pickle."
        )
    remedy = "pickle the model."
    if _LABEL.search(err.where):
        remedy = f"use labels and categories that are strings, numbers, dates or tuples of these, or {remedy}"
    return f"{name} cannot be saved: {err.where} is {shown(err.value)}, which a file without code cannot hold; {remedy}"


# Every public estimator and where it is. A new one is entered here, and nowhere else.
ESTIMATORS: dict[str, str] = {
    "RMTGBClassifier": "mttab.boosting",
    "RMTGBRegressor": "mttab.boosting",
    "MultiTabNet": "mttab.multitabnet",
    "MultiTabNetClassifier": "mttab.multitabnet",
    "MultiTabNetRegressor": "mttab.multitabnet",
    **{
        f"{architecture}{kind}": "mttab.experts"
        for architecture in ("SharedBottom", "MMoE", "PLE", "STEM", "TaskExpert")
        for kind in ("", "Classifier", "Regressor")
    },
    **{
        f"{wrapper}{kind}": "mttab.clustering" if wrapper == "TaskCluster" else "mttab.baselines"
        for wrapper in ("Pooled", "TaskAsFeature", "PerTask", "TaskCluster")
        for kind in ("Classifier", "Regressor")
    },
}
KINDS: dict[str, Kind] = STATES | {
    name: Kind(module, _take_apart_estimator, _build_estimator) for name, module in ESTIMATORS.items()
}
