"""Task label ↔ index, fixed at fit; row tasks ↔ target tasks; what happens to a task that fit did not see.

A *label* is whatever the user calls a task: an int, a string, a date, a tuple for composite ids. Labels are compared as
Python compares them, so 1, 1.0 and True are one task and "1" is another: a column of ints that a pipeline turned into
floats (or a bool column that it turned into 0.0 and 1.0) keeps its tasks. A missing id is never a label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mttab._core.frames import pandas_if_table

# Labels named in an error message; a table may hold thousands.
_N_SHOWN = 5


# ----------------------------------------------------------------------------------------------------------------------
# Labels
# ----------------------------------------------------------------------------------------------------------------------


def factorize_labels(values: Any, *, name: str) -> tuple[np.ndarray, list]:
    """Codes and distinct labels of a 1-D column.

    Parameters
    ----------
    values : array-like of shape (n,)
        Series, pandas array, ndarray or list, of any type whose values can be hashed.
    name : str
        What the user calls this column, for error messages.

    Returns
    -------
    codes : ndarray of shape (n,), intp
        Position of each row's label in `labels`; −1 where it is missing (None, NaN, NaT, pd.NA).
    labels : list
        Distinct labels as plain Python values (int, float, str, bool, tuple, Timestamp, …), in order of appearance.
        A float that is an integer has become an int.
    """
    column = _as_column(values, name=name)
    try:
        codes, uniques = pd.factorize(column)
    except TypeError as err:
        raise TypeError(f"{name} holds values that cannot be labels ({err}); use strings or integers.") from err
    dtype = uniques.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biu":  # plain and distinct already
        return codes, np.asarray(uniques).tolist()
    # Two spellings of one label (1 and 1.0 in an object column, a tuple with 1.0) share the first one's code.
    position: dict[Any, int] = {}
    new_code = [-1 if _is_missing(u) else position.setdefault(_plain(u), len(position)) for u in uniques]
    if new_code != list(range(len(uniques))):
        codes = np.array([*new_code, -1], dtype=codes.dtype)[codes]
    labels = list(position)
    if any(isinstance(label, float) and math.isinf(label) for label in labels):
        raise ValueError(f"{name} holds an infinite value, which cannot be a label; replace it with a finite one.")
    return codes, labels


def label_array(labels: Sequence) -> np.ndarray:
    """Labels as a 1-D array: bool, int64 or float64 where all of them fit that type, otherwise objects.

    Strings stay Python strings, so that error messages and tables show 'a' and not np.str_('a').
    """
    types = set(map(type, labels))
    if types == {bool}:
        return np.array(labels, dtype=bool)
    if types and types <= {bool, int, float}:
        dtype = np.float64 if float in types else np.int64
        try:
            numbers = np.array(labels, dtype=dtype)
        except OverflowError:  # integers beyond 64 bits stay Python integers
            numbers = None
        if numbers is not None and numbers.tolist() == list(labels):
            return numbers
    out = np.empty(len(labels), dtype=object)
    for i, label in enumerate(labels):  # one by one, because numpy would unpack tuples into a second axis
        out[i] = label
    return out


def label_type(label: Any) -> str:
    """Name of a label's type; bools, ints and floats are all 'number', as they compare with one another."""
    return "number" if isinstance(label, (bool, int, float)) else type(label).__name__


def sort_order(labels: Sequence) -> list[int]:
    """Positions that sort labels of mixed types: by type name, then by value."""
    types = {label_type(label) for label in labels}
    if len(types) == 1 and types != {"tuple"}:
        try:
            return sorted(range(len(labels)), key=labels.__getitem__)
        except TypeError:  # hashable, but without an order
            pass
    return sorted(range(len(labels)), key=lambda i: _sort_key(labels[i]))


def closest(value: Any, known: Iterable) -> str | None:
    """The known string that `value` may be a misspelling of."""
    if not isinstance(value, str):
        return None
    return next(iter(get_close_matches(value, [k for k in known if isinstance(k, str)], n=1)), None)


def did_you_mean(value: Any, known: Iterable) -> str:
    """End of an error message: `"; did you mean 'school'?"`, or a full stop where nothing resembles `value`."""
    match = closest(value, known)
    return "." if match is None else f"; did you mean {match!r}?"


def some_of(labels: Sequence) -> str:
    """The first few labels for an error message, and how many there are when not all are shown."""
    shown = ", ".join(repr(_plain(label)) for label in labels[:_N_SHOWN])
    return shown if len(labels) <= _N_SHOWN else f"{shown}, … ({len(labels)} in all)"


def _as_column(values: Any, *, name: str) -> Any:
    """A 1-D Series or ndarray that pandas can factorize without losing what the values are."""
    if isinstance(values, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        column = pd.Series(values)
    elif isinstance(values, (str, bytes)) or not (hasattr(values, "__array__") or hasattr(values, "__len__")):
        raise ValueError(f"{name}={values!r} is a single value, but one id per row is needed; pass a column of ids.")
    elif hasattr(values, "__array__"):
        column = np.asarray(values)
    else:
        # pandas keeps ["a", 1] apart, where numpy would make '1' of the 1.
        column = pd.Series(list(values))
    if column.ndim != 1:
        raise ValueError(f"{name} has shape {column.shape}, but one id per row is needed; pass a 1-D column of ids.")
    kind = getattr(column.dtype, "kind", "O")
    if kind == "c":
        raise ValueError(f"{name} holds complex numbers, which cannot be labels; use strings or integers.")
    if isinstance(column, np.ndarray) and kind == "f" and column.dtype != np.float64:
        return column.astype(np.float64)  # also float16 and longdouble, which pandas cannot hash
    return pd.Series(column) if kind in "mM" else column


def _plain(label: Any) -> Any:
    """A Python value for a numpy scalar, an int for an integral number, element by element in a tuple."""
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if isinstance(label, str):
        return str(label)
    if isinstance(label, (tuple, list)):  # a list stands for a tuple that went through JSON
        return tuple(_plain(part) for part in label)
    return label


def _is_missing(label: Any) -> bool:
    if isinstance(label, tuple):
        return any(_is_missing(part) for part in label)
    return label is None or label is pd.NA or label is pd.NaT or (isinstance(label, float) and math.isnan(label))


def _sort_key(label: Any) -> tuple:
    if isinstance(label, tuple):
        return ("tuple", tuple(_sort_key(part) for part in label))
    if isinstance(label, (bool, int, float, str, bytes, pd.Timestamp)):
        return (label_type(label), label)
    return (label_type(label), repr(label))


# ----------------------------------------------------------------------------------------------------------------------
# Task ids of rows
# ----------------------------------------------------------------------------------------------------------------------


def normalise_task_ids(ids: Any, *, name: str = "task") -> np.ndarray:
    """Task ids of the rows as one 1-D array of labels.

    Parameters
    ----------
    ids : array-like of shape (n,) or (n, k)
        One id per row. With several columns (DataFrame, 2-D array, list of rows) the id of a row is the tuple of its
        values. Integral floats become ints, other floats are labels as they are; bools stay bools and equal 0 and 1.
    name : str, default="task"
        What the user calls the ids, for error messages.

    Returns
    -------
    ndarray of shape (n,)
        bool, int64 or float64 where all labels fit that type, otherwise objects (strings, tuples, mixed types).

    Raises
    ------
    ValueError
        If an id is missing or infinite, or `ids` is not one id per row.
    """
    codes, labels = _task_codes(ids, name=name)
    return label_array(labels)[codes] if labels else np.empty(0, dtype=np.int64)


def _task_codes(ids: Any, *, name: str) -> tuple[np.ndarray, list]:
    """`factorize_labels` for task ids: several columns make tuples, and a missing id is an error."""
    columns = _id_columns(ids)
    if columns is None:
        codes, labels = factorize_labels(ids, name=name)
        _refuse_missing(codes, name=name)
        return codes, labels
    if not columns:
        raise ValueError(f"{name} has no columns, but one id per row is needed; pass at least one column of ids.")
    if len(columns) == 1:
        return _task_codes(columns[0], name=name)
    code, parts = _task_codes(columns[0], name=name)
    labels = [(part,) for part in parts]
    for column in columns[1:]:
        next_code, next_labels = _task_codes(column, name=name)
        # Renumbering after each column keeps the product of two code ranges below n², within 64 bits.
        code, pairs = pd.factorize(code.astype(np.int64) * len(next_labels) + next_code)
        first, second = np.divmod(pairs, max(len(next_labels), 1))
        labels = [(*labels[i], next_labels[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    return code, labels


def _id_columns(ids: Any) -> list | None:
    """The columns of two-dimensional ids, None for one-dimensional ones."""
    ids = pandas_if_table(ids, name="task")
    if isinstance(ids, pd.DataFrame):
        return [ids.iloc[:, j] for j in range(ids.shape[1])]
    if isinstance(ids, np.ndarray) and ids.ndim == 2:
        return [ids[:, j] for j in range(ids.shape[1])]
    if isinstance(ids, (list, tuple)) and len(ids) and isinstance(ids[0], (list, np.ndarray)):
        return _id_columns(pd.DataFrame([list(row) for row in ids], dtype=object))
    return None


def _refuse_missing(codes: np.ndarray, *, name: str) -> None:
    missing = codes < 0
    if missing.any():
        raise ValueError(
            f"{name} has no value in {int(missing.sum())} of {len(codes)} rows (first: row {int(missing.argmax())}), "
            "but every row needs a task; drop these rows or give them a task of their own, "
            "for example with .fillna('unknown')."
        )


class TaskLabels:
    """The tasks a model was fitted on, and their indices 0 … n_tasks − 1.

    Parameters
    ----------
    labels : sequence
        Distinct task labels; a label's position is its task's index. `fit` sorts them.

    Attributes
    ----------
    labels : ndarray of shape (n_tasks,)
        The labels, as the user calls the tasks.

    Examples
    --------
    >>> from mttab._core.tasks import TaskLabels
    >>> tasks = TaskLabels.fit(["north", "south", "north"])
    >>> tasks.labels
    array(['north', 'south'], dtype=object)
    >>> tasks.encode(["south", "west"])
    array([ 1, -1], dtype=int32)
    """

    __slots__ = ("_index", "labels")

    def __init__(self, labels: Sequence) -> None:
        plain = [_plain(label) for label in labels]
        self.labels = label_array(plain)
        self._index = {label: i for i, label in enumerate(plain)}
        if len(self._index) != len(plain):
            raise ValueError("labels names a task twice; each task needs one label.")

    @classmethod
    def fit(cls, ids: Any, *, name: str = "task") -> TaskLabels:
        """The distinct labels of `ids` (see `normalise_task_ids`), sorted."""
        _, labels = _task_codes(ids, name=name)
        return cls([labels[i] for i in sort_order(labels)])

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.labels)

    def encode(self, ids: Any, *, unseen: str = "shared", name: str = "task") -> np.ndarray:
        """Task index of each row.

        Parameters
        ----------
        ids : array-like of shape (n,) or (n, k)
            Task ids of the rows, see `normalise_task_ids`.
        unseen : {"shared", "error"}, default="shared"
            A task that `fit` did not see gets −1, or raises.
        name : str, default="task"
            What the user calls the ids, for error messages.

        Returns
        -------
        ndarray of shape (n,), int32
            Indices into `labels`; −1 for an unseen task.
        """
        codes, labels = _task_codes(ids, name=name)
        if not labels:
            return np.empty(0, dtype=np.int32)
        index = np.array([self._index.get(label, -1) for label in labels], dtype=np.int32)
        if unseen == "error" and (index < 0).any():
            raise ValueError(self._unseen_message([labels[i] for i in np.flatnonzero(index < 0)], name=name))
        return index[codes]

    def _unseen_message(self, unseen: list, *, name: str) -> str:
        known = self.labels.tolist()
        match = closest(unseen[0], known)
        if match is not None:
            hint = f" (did you mean {match!r}?)"
        elif label_type(unseen[0]) != label_type(known[0]):
            hint = f" (a {label_type(unseen[0])}, where the tasks of fit are of type {label_type(known[0])})"
        else:
            hint = ""
        return (
            f"{name} holds {len(unseen)} task(s) that fit did not see, {some_of(unseen)}{hint}, beside the known "
            f"{some_of(known)}; unseen_task='shared' predicts such tasks from what all tasks share."
        )

    def __reduce__(self) -> tuple:
        return TaskLabels, (self.labels.tolist(),)

    def __repr__(self) -> str:
        return f"TaskLabels([{some_of(self.labels.tolist())}])"


# ----------------------------------------------------------------------------------------------------------------------
# Target tasks: the columns of a 2-D y
# ----------------------------------------------------------------------------------------------------------------------


class MeltedTargets(NamedTuple):
    """A 2-D y as a long table: one entry per observed label.

    Attributes
    ----------
    row_idx : ndarray of shape (n_observed,), intp
        Row of X.
    task_idx : ndarray of shape (n_observed,), int32
        Column of y.
    y : ndarray of shape (n_observed,)
        The observed label; float64 for numbers, otherwise objects.
    labels : ndarray of shape (n_targets,)
        Column names of y, 0 … n_targets − 1 where it has none.
    """

    row_idx: np.ndarray
    task_idx: np.ndarray
    y: np.ndarray
    labels: np.ndarray


def melt_targets(Y: Any, *, name: str = "y") -> MeltedTargets:
    """Columns of a 2-D y as tasks, in the order of `DataFrame.melt` (column after column) without the missing labels.

    A row without any label does not appear. Values of another table of the same shape, such as class indices, follow
    as `values[melted.row_idx, melted.task_idx]`.

    Parameters
    ----------
    Y : array-like of shape (n, n_targets)
        NaN, None or pd.NA = not observed.
    name : str, default="y"
        What the user calls it, for error messages.

    Raises
    ------
    ValueError
        If a column has no label at all.
    """
    frame = Y if isinstance(Y, pd.DataFrame) else pd.DataFrame(Y if hasattr(Y, "__array__") else list(Y))
    labels = label_array([_plain(c) for c in frame.columns])
    # Column by column, so that one column of text does not turn the numbers beside it into text.
    columns = [frame.iloc[:, j] for j in range(frame.shape[1])]
    rows = [np.flatnonzero(column.notna()) for column in columns]
    for label, observed in zip(labels.tolist(), rows, strict=True):
        if len(observed) == 0:
            raise ValueError(f"{name} has no label at all in column {label!r}; leave this column out.")
    values = [_values(column.iloc[observed]) for column, observed in zip(columns, rows, strict=True)]
    task_idx = np.repeat(np.arange(len(columns), dtype=np.int32), [len(observed) for observed in rows])
    return MeltedTargets(np.concatenate(rows), task_idx, np.concatenate(values), labels)


def _values(observed: pd.Series) -> np.ndarray:
    values = observed.to_numpy()
    return values.astype(np.float64) if values.dtype.kind in "iuf" else values.astype(object)
