"""Checks of the table, its task column, weights and constraints; the only file with scikit-learn's private names."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import _fit_context as fit_context  # noqa: F401 - used by the estimators
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions  # noqa: F401 - used by the estimators
from sklearn.utils.validation import _num_samples, check_array

from mttab._core.frames import pandas_if_table
from mttab._core.tasks import closest, did_you_mean, normalise_task_ids, some_of

# ----------------------------------------------------------------------------------------------------------------------
# The table
# ----------------------------------------------------------------------------------------------------------------------


def check_table(X: Any, *, name: str = "X") -> pd.DataFrame | np.ndarray:
    """X as a DataFrame or a 2-D array of at least one row and one column, values untouched.

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        DataFrame (pandas, or any frame with `to_pandas`), ndarray, list of rows. Lists that mix text and numbers become
        object arrays, so that no number turns into text.
    name : str, default="X"
        What the user calls it, for error messages.

    Raises
    ------
    TypeError
        If X is sparse, lazy, or made of dicts.
    ValueError
        If X is not two-dimensional, empty or complex, in scikit-learn's words, or has two columns of one name.
    """
    if type(X) is np.ndarray and X.ndim == 2 and X.size > 0 and X.dtype.kind in "biuf":
        return X  # nothing to find fault with, and scikit-learn takes as long to say so as a row takes to predict
    X = pandas_if_table(X, name=name)
    if isinstance(X, (list, tuple)) and len(X) and isinstance(X[0], dict):
        raise TypeError(f"{name} is a list of dicts; pass a table, for example pandas.DataFrame({name}).")
    if isinstance(X, pd.DataFrame):
        for size, what in zip(X.shape, ("sample(s)", "feature(s)"), strict=True):
            if size == 0:
                raise ValueError(f"Found array with 0 {what} (shape={X.shape}) while a minimum of 1 is required.")
        if not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise ValueError(f"{name} has the column {twice!r} twice; rename one, or leave one out.")
        return X
    # check_array only warns of nothing and converts nothing here: it says what is wrong with the shape.
    table = check_array(X, dtype=None, ensure_all_finite=False, input_name=name)
    if table.dtype.kind in "US" and not isinstance(X, np.ndarray):
        table = check_array(X, dtype=object, ensure_all_finite=False, input_name=name)
    return table


def column_names(X: pd.DataFrame | np.ndarray) -> list[str]:
    """Names of the columns; x0, x1, … for an array, as scikit-learn calls them."""
    if isinstance(X, pd.DataFrame):
        return [str(c) for c in X.columns]
    return [f"x{j}" for j in range(X.shape[1])]


def check_same_length(**arrays: Any) -> None:
    """Raise if the arguments that are not None differ in their number of rows; `check_same_length(X=X, y=y)`."""
    lengths = {name: _num_samples(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} has {n} rows" for name, n in lengths.items())
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {each}; pass one entry per row of X."
        )


# ----------------------------------------------------------------------------------------------------------------------
# The task column
# ----------------------------------------------------------------------------------------------------------------------


def split_task_column(
    X: Any, task_column: Any, *, feature_names: Sequence[str] | None = None
) -> tuple[pd.DataFrame | np.ndarray, np.ndarray | None, np.ndarray]:
    """Take the task ids out of X.

    Parameters
    ----------
    X : array-like of shape (n, n_columns)
        The table with the task column in it.
    task_column : None, str, int or list of these
        Name or position of the column; a list makes composite ids.
    feature_names : sequence of str, default=None
        Names of the columns where X is an array without any: those seen at fit.

    Returns
    -------
    features : DataFrame or ndarray of shape (n, n_features)
        X without these columns; a view where that is possible.
    task_ids : ndarray of shape (n,) or None
        See `normalise_task_ids`; None without a task column.
    task_positions : ndarray of shape (n_task_columns,), intp
        Where the columns stand in X.

    Raises
    ------
    ValueError
        If a column is not there, is named twice, has missing values, or no other column is left.
    """
    X = check_table(X)
    if task_column is None:
        return X, None, np.empty(0, dtype=np.intp)
    wanted = _as_list(task_column, X)
    positions = np.array([_task_position(X, column, feature_names) for column in wanted], dtype=np.intp)
    if len(set(positions.tolist())) < len(positions):
        raise ValueError(f"task_column={task_column!r} names one column twice; name each column once.")
    if len(positions) == X.shape[1]:
        raise ValueError(f"task_column={task_column!r} leaves no feature in X; pass at least one column besides it.")
    name = f"task_column={task_column!r}"
    if isinstance(X, pd.DataFrame):
        ids: Any = X.iloc[:, positions[0]] if len(positions) == 1 else X.iloc[:, positions]
    else:
        ids = X[:, positions[0]] if len(positions) == 1 else X[:, positions]
    return drop_columns(X, positions), normalise_task_ids(ids, name=name), positions


def resolve_task_ids(task: Any, ids: np.ndarray | None, task_column: Any) -> tuple[np.ndarray | None, str | None]:
    """Task ids of the rows of fit and where they come from: "column", "argument", or None without any.

    Parameters
    ----------
    task : array-like or None
        The argument of fit.
    ids : ndarray or None
        What `split_task_column` found.
    task_column : None, str, int or list of these
        The option of the estimator, for the error message.
    """
    if task is None:
        return ids, None if ids is None else "column"
    if ids is not None:
        raise ValueError(f"task= was passed besides task_column={task_column!r}; pass the task ids in one way only.")
    return normalise_task_ids(task), "argument"


def require_task(task: Any, table: Any) -> np.ndarray:
    """Task ids that predict needs of a model fitted with ``task=``, one per row of the table."""
    if task is None:
        raise ValueError(
            "This model was fitted with tasks, so predict needs the task of every row: pass task=, or fit with "
            "task_column=, which also works inside pipelines, string scorers and cross_val_predict."
        )
    ids = normalise_task_ids(task)
    check_same_length(X=table, task=ids)
    return ids


def task_positions(task_column: Any, n_columns: int, feature_names: Sequence[str] | None) -> np.ndarray:
    """Where the task columns stood in X at fit, given its columns; intp (n_task_columns,)."""
    if task_column is None:
        return np.empty(0, dtype=np.intp)
    at_fit: Any = np.empty((1, n_columns)) if feature_names is None else pd.DataFrame(columns=list(feature_names))
    wanted = _as_list(task_column, at_fit)
    return np.array([_task_position(at_fit, column, feature_names) for column in wanted], dtype=np.intp)


def drop_columns(X: pd.DataFrame | np.ndarray, positions: np.ndarray) -> pd.DataFrame | np.ndarray:
    """X without some of its columns; a view where that is possible."""
    kept = np.delete(np.arange(X.shape[1]), positions)
    if isinstance(X, pd.DataFrame):
        return X.iloc[:, kept]
    if kept[-1] - kept[0] + 1 == len(kept):  # the first or last column was taken: a view spares a copy of the table
        return X[:, kept[0] : kept[-1] + 1]
    return X[:, kept]


def _as_list(task_column: Any, X: pd.DataFrame | np.ndarray) -> list:
    if isinstance(task_column, tuple) and isinstance(X, pd.DataFrame) and task_column in X.columns:
        return [task_column]  # the name of a column under a MultiIndex
    if isinstance(task_column, (list, tuple, np.ndarray, pd.Index)):
        if len(task_column) == 0:
            raise ValueError("task_column=[] names no column; pass None to fit without tasks.")
        return list(task_column)
    return [task_column]


def _task_position(X: pd.DataFrame | np.ndarray, column: Any, feature_names: Sequence[str] | None) -> int:
    n_columns = X.shape[1]
    if isinstance(column, Integral) and not isinstance(column, (bool, np.bool_)):
        if not -n_columns <= column < n_columns:
            raise ValueError(
                f"task_column={column!r} is not a column of X, which has {n_columns}; "
                f"pass a position from 0 to {n_columns - 1} or a name."
            )
        return int(column) % n_columns
    if not isinstance(column, (str, tuple)):
        raise ValueError(f"task_column={column!r} is neither a name nor a position; pass a str, an int or a list.")
    names = _known_names(X, feature_names)
    if names is None:
        raise ValueError(
            f"task_column={column!r} is a name, but X is an array without column names; pass a DataFrame or the "
            'column\'s position. In a Pipeline, .set_output(transform="pandas") and '
            "ColumnTransformer(verbose_feature_names_out=False) keep the names."
        )
    if column not in names:
        raise ValueError(_missing_column_message(column, names))
    return names.index(column)


def _known_names(X: pd.DataFrame | np.ndarray, feature_names: Sequence[str] | None) -> list | None:
    if isinstance(X, pd.DataFrame):
        return list(X.columns)
    if feature_names is not None and len(feature_names) == X.shape[1]:
        return list(feature_names)
    return None


def _missing_column_message(column: Any, names: list) -> str:
    renamed = [name for name in names if isinstance(name, str) and name.endswith(f"__{column}")]
    if renamed:
        return (
            f"task_column={column!r} is not a column of X, but {renamed[0]!r} is: ColumnTransformer renames columns; "
            'give it verbose_feature_names_out=False and .set_output(transform="pandas").'
        )
    if closest(column, names) is not None:
        return f"task_column={column!r} is not a column of X{did_you_mean(column, names)}"
    return (
        f"task_column={column!r} is not a column of X, whose columns are {some_of(names)}; if a ColumnTransformer "
        "dropped or renamed it, pass it through (remainder='passthrough') with verbose_feature_names_out=False and "
        '.set_output(transform="pandas").'
    )


# ----------------------------------------------------------------------------------------------------------------------
# Weights and constraints
# ----------------------------------------------------------------------------------------------------------------------


def check_weight(sample_weight: Any, n_rows: int, *, name: str = "sample_weight", table: str = "X") -> np.ndarray:
    """One weight per row: finite, not negative, and not all zero.

    Parameters
    ----------
    sample_weight : None, number or array-like of shape (n_rows,)
        None or a number weighs all rows alike.
    n_rows : int
        Rows of X.
    name : str, default="sample_weight"
        Name of the argument, for error messages.
    table : str, default="X"
        Name of the table it belongs to.

    Returns
    -------
    ndarray of shape (n_rows,), float64
    """
    if sample_weight is None:
        return np.ones(n_rows)
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_rows, float(sample_weight))
    try:
        if isinstance(sample_weight, pd.Series):  # asarray cannot read the missing values of every pandas type
            weight = sample_weight.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            weight = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name} holds values that are not numbers ({err}); pass one number per row.") from err
    if weight.ndim != 1:
        raise ValueError(f"{name} has shape {weight.shape}, but must be 1-D; pass one number per row.")
    if len(weight) != n_rows:
        raise ValueError(f"{name} has {len(weight)} entries, but {table} has {n_rows} rows; pass one number per row.")
    if not np.isfinite(weight).all():
        first = int(np.argmin(np.isfinite(weight)))
        raise ValueError(f"{name} holds {weight[first]} in row {first}, but must be finite; use 0 to leave a row out.")
    if (weight < 0).any():
        raise ValueError(f"{name} holds {weight.min():g}, but must not be negative; use 0 to leave a row out.")
    if not weight.any():
        raise ValueError(f"{name} is zero in every row, so there is nothing to learn from; give some rows weight.")
    return weight


def check_cell_weight(
    sample_weight: Any, shape: tuple[int, int], *, name: str = "sample_weight", table: str = "X"
) -> np.ndarray:
    """Weights of the labels, (n, n_tasks): as given, or those of the rows for all tasks.

    Parameters
    ----------
    sample_weight : array-like of shape (n,) or (n, n_tasks) or None
        0 = the label is not observed; None = all are 1.
    shape : tuple of int
        (n, n_tasks).
    name, table : str
        What the user calls the weights and the table, for error messages.
    """
    weight = None if sample_weight is None else np.asarray(sample_weight)
    if weight is None or weight.ndim != 2:
        of_rows = check_weight(sample_weight, shape[0], name=name, table=table)
        return np.repeat(of_rows[:, None], shape[1], axis=1)
    if weight.shape != shape:
        raise ValueError(f"{name} has shape {weight.shape}, but the labels have {shape}; pass one number per label.")
    return check_weight(weight.ravel(), weight.size, name=name, table="y").reshape(shape)


def check_monotonic_cst(
    monotonic_cst: Any,
    names: Sequence[str] | None,
    n_features_in: int,
    *,
    is_categorical: np.ndarray | None = None,
) -> np.ndarray:
    """Monotonic constraint of each column: −1 decreasing, 0 none, 1 increasing.

    Parameters
    ----------
    monotonic_cst : None, array-like of shape (n_features_in,) or dict of column name to value
        Columns that a dict does not name are free.
    names : sequence of str or None
        Column names, None where X has none.
    n_features_in : int
        Columns of X.
    is_categorical : ndarray of shape (n_features_in,), bool, default=None
        Categorical columns, which cannot be constrained, as their levels have no order.

    Returns
    -------
    ndarray of shape (n_features_in,), int8
    """
    if monotonic_cst is None:
        return np.zeros(n_features_in, dtype=np.int8)
    if isinstance(monotonic_cst, dict):
        monotonic_cst = _constraints_from_dict(monotonic_cst, names, n_features_in)
    constraints = np.asarray(monotonic_cst)
    if constraints.shape != (n_features_in,):
        raise ValueError(
            f"monotonic_cst has shape {constraints.shape} but the input data X has {n_features_in} features; "
            "pass one of -1, 0, 1 per column."
        )
    unknown = [value for value in constraints.tolist() if value not in (-1, 0, 1)]
    if unknown:
        raise ValueError(
            f"monotonic_cst holds {unknown[0]!r}, but must be -1 (decreasing), 0 (free) or 1 (increasing)."
        )
    if is_categorical is not None and (clash := np.flatnonzero((constraints != 0) & is_categorical)).size:
        which = repr(names[clash[0]]) if names is not None else str(clash[0])
        raise ValueError(
            f"monotonic_cst constrains column {which}, which is categorical; set it to 0, as its levels have no order."
        )
    return constraints.astype(np.int8)


def _constraints_from_dict(monotonic_cst: dict, names: Sequence[str] | None, n_features_in: int) -> list:
    if names is None:
        raise ValueError("monotonic_cst is a dict, but X has no column names; pass a DataFrame or one value a column.")
    for key in monotonic_cst:
        if key not in set(names):
            raise ValueError(f"monotonic_cst names {key!r}, which is not a column of X{did_you_mean(key, names)}")
    return [monotonic_cst.get(name, 0) for name in names]
