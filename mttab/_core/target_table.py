"""A table of labels of mixed kinds: one column per task, read into numbers and written back as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mttab._core.frames import pandas_if_table
from mttab._core.records import require
from mttab._core.targets import check_target_classification, check_target_regression, infer_label_kind
from mttab._core.tasks import did_you_mean
from mttab._core.validation import check_cell_weight

TASK_TYPES = ("regression", "binary", "multiclass")


@dataclass(frozen=True)
class TargetColumn:
    """What fit learned of one task's labels.

    Attributes
    ----------
    label : object
        Name of the column, as the user calls the task.
    kind : {"regression", "binary", "multiclass"}
    classes : ndarray of shape (n_classes,) or None
        Sorted classes; None for regression.
    """

    label: Any
    kind: str
    classes: np.ndarray | None

    def check_state(self) -> None:
        """Raise ValueError unless the classes are those of the kind."""
        n_classes = -1 if self.classes is None else len(self.classes)
        fits = {"regression": n_classes == -1, "binary": n_classes == 2, "multiclass": n_classes >= 2}
        require(fits.get(self.kind), f"the task {self.label!r} has not the classes of its kind")

    @property
    def n_outputs(self) -> int:
        """Scores that a network gives for this task: one, or one per class of three and more."""
        return 1 if self.classes is None or self.kind == "binary" else len(self.classes)


class TargetTable:
    """The tasks of a table of labels.

    Attributes
    ----------
    columns : list of TargetColumn
    frame_columns : Index or None
        Columns of the DataFrame in which the labels came, and in which predictions go back; None without one.
    is_single : bool
        Whether they came as a 1-D y.
    """

    columns: list[TargetColumn]
    frame_columns: pd.Index | None
    is_single: bool

    def fit(
        self, y: Any, task_types: Any = "auto", sample_weight: Any = None, classes: Any = None
    ) -> tuple[TargetTable, np.ndarray]:
        """Learn kinds and classes.

        Parameters
        ----------
        y : array-like of shape (n,) or (n, n_tasks)
            Labels; NaN or None = not observed.
        task_types : "auto", str or dict, default="auto"
            Kind of every column: inferred, one for all, or by column, where columns that the dict leaves out are
            inferred. "classes" for all: binary or multiclass, by the number of classes of each.
        sample_weight : array-like of shape (n,) or (n, n_tasks), default=None
            A label of weight 0 is not observed.
        classes : array-like, list of these or dict, default=None
            Classes of the task, of every task, or by column, where y may hold some of them only; None for regression. A
        column whose kind is to be inferred holds classes if they are given.

        Returns
        -------
        self : TargetTable
        values : ndarray of shape (n, n_tasks), float64
            Numbers, or indices of classes; NaN = not observed.

        Raises
        ------
        ValueError
            If y has no column, a column twice, a task without a label, or labels that are not of their kind.
        """
        y = pandas_if_table(y, name="y")
        series = _columns_of(y)
        self.frame_columns = y.columns.copy() if isinstance(y, pd.DataFrame) else None
        self.is_single = (
            len(series) == 1 and self.frame_columns is None and (isinstance(y, pd.Series) or _array(y, "y").ndim == 1)
        )
        labels = [name for name, _ in series]
        kinds = _kinds(task_types, labels)
        known = _known_classes(classes, labels)
        self.columns, values = [], []
        for i, ((name, column), kind) in enumerate(zip(_with_weight(series, sample_weight), kinds, strict=True)):
            target, numbers = _fit_column(name, column, kind, known[i], _called(name, self.is_single))
            self.columns.append(target)
            values.append(numbers)
        return self, np.column_stack(values)

    def encode(self, y: Any, sample_weight: Any = None, *, known_only: bool = True, name: str = "y") -> np.ndarray:
        """Labels of further rows as `fit` returns them.

        A class that fit did not see is an error, or with ``known_only=False`` the number of classes.
        """
        y = pandas_if_table(y, name=name)
        series = _columns_of(y, name=name)
        labels = [column.label for column in self.columns]
        given = [label for label, _ in series]
        if isinstance(y, pd.DataFrame) and self.frame_columns is not None and given != labels:
            if set(given) != set(labels):
                raise ValueError(f"{name} has the columns {given}, but fit saw {labels}; pass the same columns.")
            series = [series[given.index(label)] for label in labels]
        if len(series) != len(labels):
            raise ValueError(f"{name} has {len(series)} columns, but fit saw {len(labels)} tasks; pass the same.")
        return np.column_stack(
            [
                _encode_column(target, column, known_only, f"column {target.label!r} of {name}")
                for target, (_, column) in zip(self.columns, _with_weight(series, sample_weight), strict=True)
            ]
        )

    def decode(self, values: np.ndarray, index: Any = None) -> Any:
        """Predictions in the shape and with the labels of the y of fit.

        Parameters
        ----------
        values : ndarray of shape (n, n_tasks), float64
            Numbers, or indices of classes.
        index : Index, default=None
            Of the rows, for a DataFrame.

        Returns
        -------
        ndarray of shape (n,) or (n, n_tasks), or DataFrame
        """
        columns = [
            values[:, t] if target.classes is None else target.classes[values[:, t].astype(np.intp)]
            for t, target in enumerate(self.columns)
        ]
        if self.frame_columns is not None:
            frame = pd.DataFrame(dict(enumerate(columns)), index=index)
            frame.columns = self.frame_columns.copy()
            return frame
        if self.is_single:
            return columns[0]
        dtypes = {column.dtype.kind for column in columns}
        if dtypes <= set("biuf") and dtypes != {"b"}:
            dtype: Any = np.result_type(*columns)
        else:
            dtype = columns[0].dtype if len({c.dtype for c in columns}) == 1 else object
        out = np.empty(values.shape, dtype=dtype)
        for t, column in enumerate(columns):
            out[:, t] = column
        return out


def _columns_of(y: Any, *, name: str = "y") -> list[tuple[Any, pd.Series]]:
    """The columns of y with their names; numbers of a mixed table become numbers again."""
    if y is None:
        raise ValueError(f"This estimator requires {name} to be passed, but the target {name} is None.")
    y = pandas_if_table(y, name=name)
    if isinstance(y, pd.DataFrame):
        series = [(y.columns[j], y.iloc[:, j]) for j in range(y.shape[1])]
    elif isinstance(y, pd.Series):
        series = [(0 if y.name is None else y.name, y)]
    else:
        array = _array(y, name)
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2:
            raise ValueError(f"{name} should be a 1d or 2d array, got an array of shape {array.shape} instead.")
        series = [(t, pd.Series(array[:, t]).infer_objects()) for t in range(array.shape[1])]
    if not series:
        raise ValueError(f"{name} has no columns, so there is no task to learn; pass one column per task.")
    labels = [label for label, _ in series]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ValueError(f"{name} has the column {twice[0]!r} twice, but columns are tasks; rename one.")
    if len(series[0][1]) == 0:
        raise ValueError(f"Found array with 0 sample(s) in {name} while a minimum of 1 is required.")
    return [(label, column.reset_index(drop=True)) for label, column in series]


def _with_weight(series: list[tuple[Any, pd.Series]], sample_weight: Any) -> list[tuple[Any, pd.Series]]:
    """The same columns; labels of weight 0 are not observed."""
    if sample_weight is None:
        return series
    weight = check_cell_weight(sample_weight, (len(series[0][1]), len(series)), table="y")
    return [(label, column.where(weight[:, i] > 0)) for i, (label, column) in enumerate(series)]


def _array(y: Any, name: str) -> np.ndarray:
    if hasattr(y, "toarray"):
        raise TypeError(f"Sparse data was passed for {name}, but dense data is required; use {name}.toarray().")
    if hasattr(y, "__array__"):
        return np.asarray(y)
    rows = list(y)  # through pandas, which keeps [1, "a", None] as they are
    is_table = bool(rows) and isinstance(rows[0], (list, tuple, np.ndarray))
    return (pd.DataFrame(rows) if is_table else pd.Series(rows)).to_numpy()


def _known_classes(classes: Any, labels: list[Any]) -> list[Any]:
    """Classes given for each column, None where there are none."""
    if classes is None:
        return [None] * len(labels)
    if isinstance(classes, dict):
        for label in classes:
            if label not in labels:
                raise ValueError(f"classes names {label!r}, which is not a column of y{did_you_mean(label, labels)}")
        return [classes.get(label) for label in labels]
    if len(labels) == 1 and not (isinstance(classes, list) and len(classes) and np.ndim(classes[0]) == 1):
        return [classes]
    if len(classes) != len(labels):
        raise ValueError(f"classes has {len(classes)} entries, but y has {len(labels)} columns; pass one per column.")
    return list(classes)


def _called(label: Any, is_single: bool) -> str:
    return "y" if is_single else f"column {label!r} of y"


def _kinds(task_types: Any, labels: list[Any]) -> list[str | None]:
    """Kind of each column, None where it is to be inferred."""
    if isinstance(task_types, dict):
        for label, kind in task_types.items():
            if label not in labels:
                raise ValueError(f"task_types names {label!r}, which is not a column of y{did_you_mean(label, labels)}")
            _check_kind(kind, f"task_types[{label!r}]", TASK_TYPES)
        return [task_types.get(label) for label in labels]
    if task_types == "auto":
        return [None] * len(labels)
    _check_kind(task_types, "task_types", (*TASK_TYPES, "classes"))
    return [task_types] * len(labels)


def _check_kind(kind: Any, name: str, allowed: tuple[str, ...]) -> None:
    if kind not in allowed:
        known = ", ".join(repr(k) for k in TASK_TYPES)
        raise ValueError(f"{name}={kind!r} is no kind of task; pass one of {known}{did_you_mean(kind, TASK_TYPES)}")


def _fit_column(
    label: Any, column: pd.Series, kind: str | None, known: Any, name: str
) -> tuple[TargetColumn, np.ndarray]:
    if not column.notna().any():
        raise ValueError(f"{name} has no label with a positive weight, so there is nothing to learn; leave it out.")
    if kind is None:
        kind = infer_label_kind(column) if known is None else "classes"
    if kind == "regression":
        return TargetColumn(label, kind, None), check_target_regression(column, allow_missing=True, name=name)
    seen, codes = check_target_classification(column, allow_missing=True, name=name)
    classes = seen if known is None else check_target_classification(known, name="classes")[0]
    if len(classes) < 2:
        raise ValueError(
            f"{name} holds one class only, {classes.tolist()[0]!r}, but a classifier needs at least two; check the "
            "labels, or leave it out."
        )
    if kind == "binary" and len(classes) > 2:
        raise ValueError(f"{name} is to be binary, but holds {len(classes)} classes; call it 'multiclass'.")
    if kind == "classes":
        kind = "binary" if len(classes) == 2 else "multiclass"
    target = TargetColumn(label, kind, classes)
    return target, _index_of_classes(target, seen, codes, True, name)


def _encode_column(target: TargetColumn, column: pd.Series, known_only: bool, name: str) -> np.ndarray:
    if target.classes is None:
        return check_target_regression(column, allow_missing=True, name=name)
    if not column.notna().any():
        return np.full(len(column), np.nan)
    return _index_of_classes(
        target, *check_target_classification(column, allow_missing=True, name=name), known_only, name
    )


def _index_of_classes(
    target: TargetColumn, seen: np.ndarray, codes: np.ndarray, known_only: bool, name: str
) -> np.ndarray:
    """Index into the classes of the task for each label, NaN where not observed."""
    assert target.classes is not None
    place = {c: i for i, c in enumerate(target.classes.tolist())}
    unseen = [c for c in seen.tolist() if c not in place]
    if unseen and known_only:
        raise ValueError(
            f"{name} holds the class {unseen[0]!r}, which training has not seen; leave these rows out, or train on "
            "some of them."
        )
    index = np.array([*(place.get(c, len(place)) for c in seen.tolist()), np.nan])
    return index[codes]
