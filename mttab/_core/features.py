"""Feature columns as float64 rows: numbers as they are, categories as codes, missing and unknown as NaN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from mttab._core.records import require
from mttab._core.tasks import did_you_mean, factorize_labels, label_array, some_of, sort_order
from mttab._core.validation import check_table, column_names

# What pandas calls the content of an object column that is one of numbers all the same.
_NUMERIC_OBJECTS = {"integer", "floating", "mixed-integer-float", "decimal", "boolean", "empty"}
_DATE_OBJECTS = {"datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period"}
# Rows transposed at a time: the block's columns then stay in the cache while they are written out.
_BLOCK_ROWS = 256
# Cells of a table that is read, and checked, as a whole.
_SMALL_TABLE = 100_000
# Cells of a table that a fit holds as floats as a whole; of a larger one it reads so many at a time.
HELD_CELLS, PIECE_CELLS = 2**22, 2**20


class FeatureEncoder:
    """Table → float64 array with one row per feature, as binning and trees read it.

    Attributes
    ----------
    names : list of str
        The features, as error messages call them.
    is_categorical : ndarray of shape (n_features,), bool
    n_categories : ndarray of shape (n_features,), int32
        Number of codes of a categorical feature; 0 for a numeric one.
    categories : list of ndarray or None
        Sorted levels of each categorical feature, None for a numeric one.
    level_codes : list of ndarray or None
        Code of each level; `arange` unless rare levels share the last code.
    """

    names: list[str]
    is_categorical: np.ndarray
    n_categories: np.ndarray
    categories: list[np.ndarray | None]
    level_codes: list[np.ndarray | None]
    unknown: str

    def check_state(self) -> None:
        """Raise ValueError unless every feature has its levels and codes."""
        n_features = len(self.names)
        require(self.is_categorical.shape == self.n_categories.shape == (n_features,), "features are not one by one")
        require(self.is_categorical.dtype == bool and self.n_categories.dtype == np.int32, "features are misdescribed")
        require(self.unknown in ("missing", "code"), f"{self.unknown!r} is no code of unknown levels")
        each = zip(self.categories, self.level_codes, self.is_categorical, self.n_categories, strict=True)
        for levels, codes, is_categorical, n_codes in each:
            require((levels is not None) == (codes is not None) == is_categorical, "a feature has no levels")
            if levels is not None and codes is not None:
                require(levels.ndim == 1 and levels.shape == codes.shape, "a level has no code")
                require(np.all((codes >= 0) & (codes < n_codes)), "a level has another feature's code")

    def fit(
        self,
        features: Any,
        categorical_features: Any = "from_dtype",
        max_categories: int | None = 254,
        sample_weight: np.ndarray | None = None,
        *,
        names: Sequence[str] | None = None,
        unknown: str = "missing",
    ) -> FeatureEncoder:
        """Learn which columns are categorical, and their levels.

        Parameters
        ----------
        features : DataFrame or array-like of shape (n, n_features)
            Columns of X without the task column.
        categorical_features : "from_dtype", None, mask or list, default="from_dtype"
            See `resolve_categorical_features`; positions count in `features`.
        max_categories : int or None, default=254
            A feature with more levels keeps a code for its `max_categories` − 1 most frequent ones (ties: first level);
            the others share the last code. None never merges.
        sample_weight : ndarray of shape (n,), default=None
            Counts towards frequency; a level seen with weight 0 only is not seen.
        names : sequence of str, default=None
            Names for error messages; those of the columns, x0, x1, … without any.
        unknown : {"missing", "code"}, default="missing"
            What a level becomes that fit did not see: NaN as a missing one, or the code after the last.
        """
        X = check_table(features)
        self.names = list(names) if names is not None else column_names(X)
        self.is_categorical = resolve_categorical_features(categorical_features, X)
        self.categories, self.level_codes, self.unknown = [], [], unknown
        for j in range(X.shape[1]):
            levels = codes = None
            if self.is_categorical[j]:
                levels, codes = _levels(_column(X, j), max_categories, sample_weight, name=self._where(j))
            self.categories.append(levels)
            self.level_codes.append(codes)
        self.n_categories = np.array(
            [0 if codes is None else int(codes.max(initial=-1)) + 1 for codes in self.level_codes], dtype=np.int32
        )
        return self

    def read(self, features: Any) -> np.ndarray | LargeTable:
        """What `transform` gives, of a large table as something that reads it when it is asked for: ``X[:, rows]``."""
        X = check_table(features)
        return self.transform(X) if X.size <= HELD_CELLS else LargeTable(self, X)

    def transform(self, features: Any, *, name: str = "X", first_row: int = 0) -> np.ndarray:
        """Values of each feature.

        Numbers above 2⁵³ are rounded to the nearest float64.

        Parameters
        ----------
        features : DataFrame or array-like of shape (n, n_features)
            As in `fit`; column types may differ.
        name : str, default="X"
            What the user calls the table, for error messages.
        first_row : int, default=0
            Number of the first row, for error messages.

        Returns
        -------
        ndarray of shape (n_features, n), float64, C-contiguous
            Numbers, or codes of levels; NaN where missing. A level that `fit` did not see is NaN, or with
            ``unknown="code"`` the number of codes. Always a new array.
        """
        X = check_table(features)
        if X.shape[1] != len(self.names):
            raise ValueError(f"{name} has {X.shape[1]} features, but fit saw {len(self.names)}; pass the same columns.")
        is_small = X.size <= _SMALL_TABLE
        if isinstance(X, pd.DataFrame) and is_small and not self.is_categorical.any():
            whole = X.to_numpy()  # all at once: a column costs as much as many rows
            X = whole if whole.dtype.kind in "iuf" else X
        if isinstance(X, np.ndarray) and X.dtype.kind in "biuf":
            out = _transposed(X)
            unread = np.flatnonzero(self.is_categorical).tolist()
        else:
            out = np.empty((X.shape[1], X.shape[0]))
            unread = list(range(X.shape[1]))
        for j in unread:
            out[j] = self._read(_column(X, j), j, name)
        if is_small and not np.isinf(out).any():
            return out
        for j in np.flatnonzero(~self.is_categorical).tolist():
            _refuse_infinite(out[j], name=self._where(j, name), first_row=first_row)
        return out

    def column(self, features: pd.DataFrame | np.ndarray, j: int, rows: slice | np.ndarray) -> np.ndarray:
        """Values float64 of one feature of some rows, as `transform` has them."""
        column = features.iloc[rows, j] if isinstance(features, pd.DataFrame) else features[rows, j]
        values = self._read(column, j, "X")
        if not self.is_categorical[j] and np.isinf(values).any():
            _refuse_infinite(self._read(_column(features, j), j, "X"), name=self._where(j))
        return values

    def _read(self, column: Any, j: int, table: str) -> np.ndarray:
        levels, level_codes = self.categories[j], self.level_codes[j]
        if levels is None or level_codes is None:
            return _numbers(column, name=self._where(j, table))
        codes, seen = factorize_labels(column, name=self._where(j, table))
        code_of = dict(zip(levels.tolist(), level_codes.tolist(), strict=True))
        unseen = np.nan if self.unknown == "missing" else float(self.n_categories[j])
        values = np.array([*(code_of.get(level, unseen) for level in seen), np.nan])  # the last one for code −1
        return values[codes]

    def _where(self, j: int, table: str = "X") -> str:
        return f"column {self.names[j]!r} of {table}"


class LargeTable:
    """Values (n_features, n) of a table, read from it for the rows that are asked for and never held as a whole."""

    def __init__(self, encoder: FeatureEncoder, table: pd.DataFrame | np.ndarray):
        self._encoder, self._table = encoder, table
        self.shape = table.shape[1], table.shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: tuple[Any, Any]) -> np.ndarray:
        """``X[:, rows]``, or ``X[j, rows]`` of one feature; rows are a slice, numbers or a mask."""
        feature, rows = place
        if feature != slice(None):
            return self._encoder.column(self._table, feature, rows)
        table = self._table.iloc[rows] if isinstance(self._table, pd.DataFrame) else self._table[rows]
        return self._encoder.transform(table) if len(table) else np.empty((self.shape[0], 0))

    def pieces(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Ranges of rows and their values, one after the other."""
        n_rows, step = self.shape[1], max(1, PIECE_CELLS // self.shape[0])
        for first in range(0, n_rows, step):
            rows = slice(first, min(first + step, n_rows))
            table = self._table.iloc[rows] if isinstance(self._table, pd.DataFrame) else self._table[rows]
            yield rows, self._encoder.transform(table, first_row=first)


def resolve_categorical_features(
    categorical_features: Any, X: pd.DataFrame | np.ndarray, task_positions: Sequence[int] = ()
) -> np.ndarray:
    """Which columns of X are categorical.

    Parameters
    ----------
    categorical_features : "from_dtype", None, or array-like of bool, int or str
        "from_dtype": columns of a DataFrame that hold categories, strings or objects which are not all numbers; none of
        an array. None: no column. Otherwise a mask over the columns, or their positions or names.
    X : DataFrame or ndarray of shape (n, n_columns)
        The whole table: positions count the task column.
    task_positions : sequence of int, default=()
        Task columns, which "from_dtype" leaves out. Named explicitly they stay in: the task as a category.

    Returns
    -------
    ndarray of shape (n_columns,), bool
    """
    mask = np.zeros(X.shape[1], dtype=bool)
    if categorical_features is None:
        return mask
    if isinstance(categorical_features, str):
        if categorical_features != "from_dtype":
            raise ValueError(
                f"categorical_features={categorical_features!r} is not understood; pass 'from_dtype', None, or a list "
                "of names or positions."
            )
        if isinstance(X, pd.DataFrame):
            mask[:] = [_holds_categories(X.iloc[:, j]) for j in range(X.shape[1])]
        mask[list(task_positions)] = False
        return mask
    if not isinstance(categorical_features, (list, tuple, np.ndarray, pd.Index, pd.Series)):
        raise ValueError(f"categorical_features={categorical_features!r} is no list; pass names or positions in one.")
    wanted = list(categorical_features)
    if wanted and all(isinstance(w, (bool, np.bool_)) for w in wanted):
        if len(wanted) != len(mask):
            raise ValueError(
                f"categorical_features is a mask of length {len(wanted)}, but X has {len(mask)} columns; "
                "pass one bool per column."
            )
        return np.array(wanted, dtype=bool)
    for column in wanted:
        mask[_position(column, X)] = True
    return mask


def _position(column: Any, X: pd.DataFrame | np.ndarray) -> int:
    n_columns = X.shape[1]
    if isinstance(column, Integral):
        if not -n_columns <= column < n_columns:
            raise ValueError(
                f"categorical_features holds {column}, but X has {n_columns} columns; "
                f"pass positions from 0 to {n_columns - 1}."
            )
        return int(column)
    if not isinstance(X, pd.DataFrame):
        raise ValueError(
            f"categorical_features names {column!r}, but X is an array without column names; pass positions."
        )
    names = list(X.columns)
    if column not in names:
        raise ValueError(
            f"categorical_features names {column!r}, which is not a column of X, whose columns are {some_of(names)}"
            f"{did_you_mean(column, names)}"
        )
    return names.index(column)


# ----------------------------------------------------------------------------------------------------------------------
# Reading one column
# ----------------------------------------------------------------------------------------------------------------------


def _column(X: pd.DataFrame | np.ndarray, j: int) -> Any:
    return X.iloc[:, j] if isinstance(X, pd.DataFrame) else X[:, j]


def _holds_categories(column: pd.Series) -> bool:
    dtype = column.dtype
    if isinstance(dtype, (pd.CategoricalDtype, pd.StringDtype)) or dtype.kind in "US":  # the last: Arrow's strings
        return True
    if dtype.kind != "O" or isinstance(dtype, pd.PeriodDtype):
        return False
    content = pd.api.types.infer_dtype(column)
    return content not in _NUMERIC_OBJECTS and content not in _DATE_OBJECTS


def _levels(
    column: Any, max_categories: int | None, sample_weight: np.ndarray | None, *, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted levels of a column and the code of each."""
    codes, labels = factorize_labels(column, name=name)
    seen = codes >= 0
    weight = None if sample_weight is None else sample_weight[seen]
    frequency = np.bincount(codes[seen], weights=weight, minlength=len(labels))
    order = np.array([i for i in sort_order(labels) if frequency[i] > 0], dtype=np.intp)
    levels, frequency = label_array([labels[i] for i in order]), frequency[order]
    level_codes = np.arange(len(levels), dtype=np.int32)
    if max_categories is not None and len(levels) > max_categories:
        kept = np.sort(np.argsort(-frequency, kind="stable")[: max_categories - 1])
        level_codes[:] = max_categories - 1
        level_codes[kept] = np.arange(len(kept), dtype=np.int32)
    return levels, level_codes


def _numbers(column: Any, *, name: str) -> np.ndarray:
    """One column as float64, NaN where missing."""
    if isinstance(column, pd.Series):
        dtype = column.dtype
        if not isinstance(dtype, (np.dtype, pd.CategoricalDtype)) and dtype.kind in "biuf":  # nullable, Arrow, sparse
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        column = column.to_numpy()
    kind = column.dtype.kind
    if kind in "mM" or (kind == "O" and pd.api.types.infer_dtype(column) in _DATE_OBJECTS):
        raise ValueError(
            f"{name} holds dates or times, which are no numbers; convert it, for example to days since a fixed date."
        )
    if kind == "c":
        raise ValueError(f"Complex data not supported: {name} holds complex numbers; split them into two columns.")
    if kind == "O":
        column = np.where(pd.isna(column), np.nan, column)
    return _as_floats(column, name=name)


def _as_floats(values: np.ndarray, *, name: str) -> np.ndarray:
    """Float64 of numbers, and of text that reads as a number."""
    try:
        return values.astype(np.float64)
    except TypeError as err:  # a dict, say: scikit-learn's checks want numpy's words
        raise TypeError(f"{name} holds a value that is no number: {err}") from err
    except OverflowError as err:
        raise ValueError(
            f"Input X contains infinity or a value too large for dtype('float64'): {name} holds it ({err}); rescale it."
        ) from err
    except ValueError as err:
        raise ValueError(
            f"{name} is to be read as numbers, but {err}; name it in categorical_features, or make it a pandas "
            "category and leave categorical_features='from_dtype'."
        ) from err


def _refuse_infinite(values: np.ndarray, *, name: str, first_row: int = 0) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise ValueError(
            "Input X contains infinity or a value too large for dtype('float64'): "
            f"{name} holds {values[row]} in row {first_row + row}; use NaN where a value is missing."
        )


def _transposed(X: np.ndarray) -> np.ndarray:
    """X.T as a new C-contiguous float64 array, a block of rows at a time."""
    out = np.empty((X.shape[1], X.shape[0]))
    for start in range(0, X.shape[0], _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        out[:, block] = X[block].T
    return out
