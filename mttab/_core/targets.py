"""Checks of y: numbers to regress, labels to classify, and which of the two a column is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets

from mttab._core.frames import pandas_if_table
from mttab._core.tasks import factorize_labels, label_array, label_type, sort_order

# What pandas calls the content of an object column that is one of numbers all the same.
_NUMBERS_IN_OBJECTS = {"integer", "floating", "mixed-integer-float", "decimal"}


def check_target_regression(
    y: Any,
    *,
    multi_output: bool = True,
    allow_missing: bool = False,
    loss: str | None = None,
    name: str = "y",
) -> np.ndarray:
    """Numbers to regress, as float64.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_targets)
        NaN = not observed, which only a 2-D y may hold. A single column is ravelled with scikit-learn's warning.
    multi_output : bool, default=True
        Whether several columns are allowed.
    allow_missing : bool, default=False
        Whether a 1-D y may hold NaN as well.
    loss : str, default=None
        "poisson" wants counts: no negative value, and not all of them zero.
    name : str, default="y"
        What the user calls it, for error messages.

    Returns
    -------
    ndarray of shape (n,) or (n, n_targets), float64
        Perhaps y itself, so not to be written to.

    Raises
    ------
    ValueError
        If y is not made of finite numbers of the right sign and shape.
    """
    values = _as_floats(_target_array(y, multi_output=multi_output, name=name), name=name)
    _refuse_infinite(values, name=name)
    if values.ndim == 1 and not allow_missing:
        _refuse_missing(np.isnan(values), name=name)
    if loss == "poisson":
        if (values < 0).any():
            raise ValueError(
                f"loss='poisson' needs {name} >= 0, but {name} holds {np.nanmin(values):g}; "
                "pass counts or choose another loss."
            )
        if not np.nansum(values) > 0:
            raise ValueError(
                f"loss='poisson' needs a {name} whose sum is positive, but every {name} is 0; "
                "pass counts or choose another loss."
            )
    return values


def check_target_classification(
    y: Any, *, multi_output: bool = True, allow_missing: bool = False, name: str = "y"
) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the class index of each label.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_targets)
        Labels: strings, bools or whole numbers. Several columns share one set of classes, and there None or NaN = not
        observed.
    multi_output : bool, default=True
        Whether several columns are allowed.
    allow_missing : bool, default=False
        Whether a 1-D y may hold labels that are not observed as well.
    name : str, default="y"
        What the user calls it, for error messages.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted, of the type of y. One class only is no error here.
    y_codes : ndarray of the shape of y, int32
        Index into `classes`; −1 where not observed.

    Raises
    ------
    ValueError
        If y is no column, or table, of class labels.
    """
    labels_of_rows = _target_array(y, multi_output=multi_output, name=name)
    kind = labels_of_rows.dtype.kind
    if kind in "cmM":
        what = "dates" if kind in "mM" else "complex numbers (Complex data not supported)"
        raise ValueError(f"Unknown label type: {name} holds {what}; pass strings, bools or integers as classes.")
    if kind == "f":
        _refuse_infinite(labels_of_rows, name=name)
    codes, labels = factorize_labels(labels_of_rows.ravel(), name=name)
    if (labels_of_rows.ndim == 1 and not allow_missing) or not labels:
        _refuse_missing(codes < 0, name=name)
    _refuse_labels_that_are_no_classes(labels, name=name)
    order = sort_order(labels)
    rank = np.full(len(labels) + 1, -1, dtype=np.int32)  # the last entry is what the code of a missing label reaches
    rank[order] = np.arange(len(labels), dtype=np.int32)
    classes = label_array([labels[i] for i in order])
    if kind in "biuU" or (kind == "f" and not (codes < 0).any() and labels_of_rows.ndim == 1):
        # floats of a 2-D y, or beside NaN, may only be there to hold NaN
        classes = classes.astype(labels_of_rows.dtype)
    return classes, rank[codes].reshape(labels_of_rows.shape)


def infer_label_kind(y: Any) -> str:
    """What the labels of one column are, where the user did not say.

    Objects, strings, bools and categories are classes; numbers that are only 0 and 1 (with or without NaN) are binary;
    other numbers are to be regressed. An object column that holds nothing but numbers counts as numbers.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels; missing ones do not count.

    Returns
    -------
    {"regression", "binary", "multiclass"}

    Examples
    --------
    >>> from mttab._core.targets import infer_label_kind
    >>> infer_label_kind([0, 1, None, 1]), infer_label_kind([0, 1, 2]), infer_label_kind(["a", "b", "c"])
    ('binary', 'regression', 'multiclass')
    """
    column = pd.Series(y if hasattr(y, "dtype") else list(y))
    column = column[column.notna()]
    if len(column) == 0:
        raise ValueError("y has no label at all, so its kind cannot be told; leave this column out.")
    kind = "O" if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype.kind
    if kind in "mM":
        raise ValueError("y holds dates, which are neither classes nor numbers; convert them to one of these.")
    if column.dtype.name == "object" and pd.api.types.infer_dtype(column) in _NUMBERS_IN_OBJECTS:
        kind = "f"
    if kind in "iuf":
        return "binary" if column.isin([0, 1]).all() else "regression"
    return "binary" if column.nunique() <= 2 else "multiclass"


# ----------------------------------------------------------------------------------------------------------------------
# Steps of the checks
# ----------------------------------------------------------------------------------------------------------------------


def _target_array(y: Any, *, multi_output: bool, name: str) -> np.ndarray:
    """Turn y into a 1-D or 2-D array of at least one row; a single column is ravelled."""
    if y is None:
        raise ValueError(f"This estimator requires {name} to be passed, but the target {name} is None.")
    if sparse.issparse(y):
        raise TypeError(f"Sparse data was passed for {name}, but dense data is required; use {name}.toarray().")
    y = pandas_if_table(y, name=name)
    if not hasattr(y, "__array__"):  # through pandas, which keeps [1, "a", None] as they are
        rows = list(y)
        y = pd.DataFrame(rows) if rows and isinstance(rows[0], (list, tuple, np.ndarray)) else pd.Series(rows)
    array = _numpy_of_pandas(y) if isinstance(y, (pd.Series, pd.DataFrame)) else np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples, ), for example using ravel().",
            DataConversionWarning,
            stacklevel=4,
        )
        array = array.ravel()
    if array.ndim not in (1, 2) or (array.ndim == 2 and (array.shape[1] == 0 or not multi_output)):
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {array.shape} instead; pass one label per row"
            + (", or a 2-D y with one column per task." if multi_output else ".")
        )
    if len(array) == 0:
        raise ValueError(f"Found array with 0 sample(s) in {name} while a minimum of 1 is required.")
    return array


def _numpy_of_pandas(y: pd.Series | pd.DataFrame) -> np.ndarray:
    """Nullable and Arrow numbers as float64 with NaN, where something is missing; the rest as pandas converts it."""
    dtypes = y.dtypes if isinstance(y, pd.DataFrame) else [y.dtype]
    are_numbers = all(dtype.kind in "iuf" and not isinstance(dtype, pd.CategoricalDtype) for dtype in dtypes)
    if are_numbers and bool(np.any(pd.isna(y))):
        return y.to_numpy(dtype=np.float64, na_value=np.nan)
    return y.to_numpy()


def _as_floats(values: np.ndarray, *, name: str) -> np.ndarray:
    kind = values.dtype.kind
    if kind in "cmM":
        what = "dates" if kind in "mM" else "complex numbers (Complex data not supported)"
        raise ValueError(f"{name} holds {what}, but a regression needs real numbers; convert it.")
    try:
        text = next((v for v in values.flat if isinstance(v, (str, bytes))), None) if kind in "OUS" else None
        if text is not None:  # numpy would read "1.5" as a number
            raise ValueError(f"{str(text)!r} is text")
        if kind == "O":
            values = np.where(pd.isna(values), np.nan, values)
        return values.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as err:
        raise ValueError(
            f"{name} must hold numbers for a regression, but {err}; convert {name}, or use the classifier."
        ) from err


def _refuse_infinite(values: np.ndarray, *, name: str) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argwhere(infinite)[0, 0])
        raise ValueError(
            f"Input {name} contains infinity or a value too large for dtype('float64') "
            f"(first: row {row}); replace it or leave the row out."
        )


def _refuse_missing(missing: np.ndarray, *, name: str) -> None:
    if missing.any():
        raise ValueError(
            f"Input {name} contains NaN in {missing.sum()} of {missing.size} rows (first: row {missing.argmax()}); "
            "leave these rows out, or pass a 2-D y with one column per task, where NaN = not observed."
        )


def _refuse_labels_that_are_no_classes(labels: list, *, name: str) -> None:
    fractions = [label for label in labels if isinstance(label, float)]
    if fractions:
        check_classification_targets(np.array(fractions))  # scikit-learn's own words for a continuous target
    example: dict[str, Any] = {}
    for label in labels:
        example.setdefault(label_type(label), label)
    if len(example) > 1:
        one, other = list(example.values())[:2]
        raise ValueError(f"{name} mixes labels of different types, such as {one!r} and {other!r}; make them one type.")
