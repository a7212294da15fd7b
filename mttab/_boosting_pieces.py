"""Fitting an R-MTGB estimator on a table that comes in pieces: chunks of a file, or partitions on other machines.

Every step reads pieces and returns something small that can be merged, until rows are bins:

    read_labels   tasks, classes and columns of some pieces       ->  merge_labels   ->  Problem
    read_columns  levels and quantile summaries of their columns   ->  merge_columns  ->  Problem with encoder and bins
    encode        BinnedRows, one byte per cell

What follows is in `_boosting_training`. None of them sets an attribute of the estimator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from mttab._boosting_fit import AUTO_MIN_BINS
from mttab._core.boosting.binning import (
    MAX_BINS,
    BinMapper,
    merge_summaries,
    summarise_column,
)
from mttab._core.features import FeatureEncoder, resolve_categorical_features
from mttab._core.long_table import Inputs, LongTable
from mttab._core.sources import Piece
from mttab._core.tasks import TaskLabels, factorize_labels, label_array, sort_order
from mttab._core.validation import check_same_length, check_table, check_weight, resolve_task_ids, split_task_column

# Summaries of a column that are kept side by side before they are made one.
MERGE_EVERY = 16


class ReadPiece(NamedTuple):
    """The same checked, rows of weight 0 left out; y are numbers, or indices into the piece's own classes."""

    features: pd.DataFrame | np.ndarray
    task_ids: np.ndarray | None
    y: np.ndarray
    classes: np.ndarray | None
    weight: np.ndarray
    columns: Columns


class Columns(NamedTuple):
    """What the columns of a piece are; names are None where it has none."""

    names: list[str] | None
    n_columns: int
    task_positions: list[int]
    is_categorical: np.ndarray
    task_source: str | None


@dataclass
class LabelCounts:
    """Tasks and classes of some pieces with their weights, and the number of rows of each piece."""

    n_rows: list[int]
    columns: Columns | None
    task_mass: dict[Any, float]
    task_rows: dict[Any, float]
    class_mass: dict[Any, float]
    class_dtype: np.dtype | None


@dataclass
class Problem:
    """What a fit knows of the whole table. Small: it is sent to every worker.

    task_mass : float64 (n_tasks,), sums of the user's weights
    class_factors, task_factors : factors on the weights, (n_classes,) and (n_tasks + 1,), or None
    encoder, mapper : known once the columns have been read
    """

    columns: Columns
    labels: TaskLabels
    classes: np.ndarray | None
    n_rows: int
    task_mass: np.ndarray
    class_factors: np.ndarray | None
    task_factors: np.ndarray | None
    encoder: FeatureEncoder | None = None
    mapper: BinMapper | None = None

    @property
    def inputs(self) -> Inputs:
        """The `Inputs` of a fit, without any rows."""
        columns = self.columns
        return Inputs(
            features=np.empty((0, 0)),
            names=columns.names,
            n_columns=columns.n_columns,
            task_positions=np.array(columns.task_positions, dtype=np.intp),
            is_categorical=columns.is_categorical,
            task_ids=None,
            y=np.empty(0),
            target_labels=None,
            classes=self.classes,
            task_source=columns.task_source,
        )


@dataclass
class BinnedRows:
    """Rows as bins: codes uint8 (n_features, n), task int32, y and weights float64, place in the table int64.

    weight : the user's weight times the factors of class and task
    """

    codes: np.ndarray
    task: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, keep: np.ndarray) -> BinnedRows:
        codes = np.ascontiguousarray(self.codes[:, keep])
        return BinnedRows(codes, self.task[keep], self.y[keep], self.weight[keep], self.position[keep])

    @classmethod
    def joined(cls, parts: Sequence[BinnedRows]) -> BinnedRows:
        rows = [np.concatenate([getattr(p, name) for p in parts]) for name in ("task", "y", "weight", "position")]
        return cls(np.concatenate([part.codes for part in parts], axis=1), *rows)


# ----------------------------------------------------------------------------------------------------------------------
# Tasks and classes
# ----------------------------------------------------------------------------------------------------------------------


def read_piece(model: Any, piece: Piece) -> ReadPiece | None:
    """Check one piece; None where it has no row with a weight."""
    if len(piece.X) == 0:
        return None
    table = check_table(piece.X)
    probe = BaseEstimator()  # collects the column names
    validate_data(probe, table, skip_check_array=True)
    features, ids, positions = split_task_column(table, model.task_column)
    ids, source = resolve_task_ids(piece.task, ids, model.task_column)
    if np.ndim(piece.y) == 2 and np.shape(piece.y)[1] > 1:
        raise ValueError(
            f"y has {np.shape(piece.y)[1]} columns, but a table that is read in pieces has one target; melt y to one "
            "column and name the tasks by task_column."
        )
    y, classes = model._read_piece_target(piece.y)
    check_same_length(X=table, y=y, task=ids if source == "argument" else None, sample_weight=piece.weight)
    weight = np.ones(len(y))
    if piece.weight is not None:
        weight = np.asarray(piece.weight, dtype=np.float64)
        weight = check_weight(weight, len(y)) if weight.any() else weight
    is_categorical = resolve_categorical_features(model.categorical_features, table, positions.tolist())
    names = list(probe.feature_names_in_) if hasattr(probe, "feature_names_in_") else None
    columns = Columns(names, probe.n_features_in_, positions.tolist(), is_categorical, source)
    if not weight.all():
        keep = weight > 0
        if not keep.any():
            return None
        features = features[keep]
        ids, y, weight = None if ids is None else ids[keep], y[keep], weight[keep]
    return ReadPiece(features, ids, y, classes, weight, columns)


def read_labels(model: Any, pieces: Iterable[Piece]) -> LabelCounts:
    """Tasks, classes and columns of some pieces."""
    counts = LabelCounts([], None, {}, {}, {}, None)
    for piece in pieces:
        read = read_piece(model, piece)
        counts.n_rows.append(0 if read is None else len(read.y))
        if read is None:
            continue
        counts.columns = read.columns if counts.columns is None else _same_columns(counts.columns, read.columns)
        if read.task_ids is not None:
            labels = TaskLabels.fit(read.task_ids)
            task = labels.encode(read.task_ids)
            mass = np.bincount(task, weights=read.weight, minlength=labels.n_tasks)
            _add_up(counts.task_mass, labels.labels.tolist(), mass)
            _add_up(counts.task_rows, labels.labels.tolist(), np.bincount(task, minlength=labels.n_tasks))
        if read.classes is not None:
            mass = np.bincount(read.y.astype(np.int64), weights=read.weight, minlength=len(read.classes))
            _add_up(counts.class_mass, read.classes.tolist(), mass)
            counts.class_dtype = _common_dtype([counts.class_dtype, read.classes.dtype])
    return counts


def merge_labels(model: Any, parts: Sequence[LabelCounts]) -> Problem:
    """The problem of the whole table, its columns not yet binned."""
    used = [part for part in parts if part.columns is not None]
    if not used:
        raise ValueError(
            "Found array with 0 sample(s) with a positive weight in all pieces of X while a minimum of 1 is required."
        )
    columns = used[0].columns
    assert columns is not None
    task_mass: dict[Any, float] = {}
    class_mass: dict[Any, float] = {}
    for part in used:
        assert part.columns is not None
        columns = _same_columns(columns, part.columns)
        _add_up(task_mass, part.task_mass, part.task_mass.values())
        _add_up(class_mass, part.class_mass, part.class_mass.values())
    n_rows = sum(sum(part.n_rows) for part in parts)
    known = list(task_mass) if task_mass else [0]
    known = [known[i] for i in sort_order(known)]
    labels = TaskLabels(known)
    mass = np.array([task_mass.get(label, float(n_rows)) for label in known])
    of_tasks = LongTable(np.arange(len(known)), label_array(known), np.zeros(len(known)), mass)
    classes = class_factors = None
    if class_mass:
        classes = _sorted_classes(list(class_mass), _common_dtype([part.class_dtype for part in used]))
        by_class = np.array([class_mass[label] for label in classes.tolist()])
        if np.sum(by_class > 0) < 2:
            raise ValueError(
                f"y holds one class only, {classes.tolist()[0]!r}, but a classifier needs at least two; check the "
                "labels."
            )
        of_classes = LongTable(np.arange(len(classes)), None, np.arange(len(classes), dtype=np.float64), by_class)
        class_factors = model._class_factors(of_classes, classes)
    return Problem(columns, labels, classes, n_rows, mass, class_factors, model._task_factors(of_tasks, labels))


def _add_up(total: dict[Any, float], labels: Iterable[Any], mass: Iterable[float]) -> None:
    for label, value in zip(labels, mass, strict=True):
        if value > 0:
            total[label] = total.get(label, 0.0) + float(value)


def _common_dtype(dtypes: Sequence[np.dtype | None]) -> np.dtype | None:
    """A type for classes that all pieces agree on, else None."""
    known = [dtype for dtype in dtypes if dtype is not None]
    if not known or len({dtype.kind for dtype in known}) > 1 or known[0].kind not in "biuU":
        return np.dtype(object) if known else None
    return np.result_type(*known)


def _sorted_classes(labels: list[Any], dtype: np.dtype | None) -> np.ndarray:
    classes = label_array([labels[i] for i in sort_order(labels)])
    return classes if dtype is None or dtype.kind == "O" else classes.astype(dtype)


def _same_columns(one: Columns, other: Columns) -> Columns:
    if (one.names, one.n_columns) != (other.names, other.n_columns):
        left = one.names if one.names is not None else one.n_columns
        right = other.names if other.names is not None else other.n_columns
        raise ValueError(f"X has the columns {left} in one piece and {right} in another; pass the same columns in all.")
    return one._replace(is_categorical=one.is_categorical | other.is_categorical)


# ----------------------------------------------------------------------------------------------------------------------
# Levels and bin edges
# ----------------------------------------------------------------------------------------------------------------------


Summary = tuple[Any, Any]  # of one column: distinct values or levels, and their weights


def read_columns(model: Any, problem: Problem, pieces: Iterable[Piece]) -> list[Summary] | None:
    """Levels or quantile summary of every feature of some pieces; None where they have no rows."""
    is_categorical = problem.inputs.is_categorical[problem.inputs.feature_positions]
    numeric = np.flatnonzero(~is_categorical)
    names = _feature_names(problem)
    found: list[list[Summary]] = [[] for _ in is_categorical]
    for piece in pieces:
        read = read_piece(model, piece)
        if read is None:
            continue
        weight = read.weight * _factor(read, problem)
        features = read.features
        if len(numeric):
            of_numbers = features.iloc[:, numeric] if isinstance(features, pd.DataFrame) else features[:, numeric]
            plain = FeatureEncoder().fit(of_numbers, None, names=[names[f] for f in numeric])
            for f, values in zip(numeric, plain.transform(of_numbers), strict=True):
                found[f].append(summarise_column(values, weight))
                if len(found[f]) == MERGE_EVERY:
                    found[f] = [_merge_numbers(found[f])]
        for f in np.flatnonzero(is_categorical):
            column = features.iloc[:, f] if isinstance(features, pd.DataFrame) else features[:, f]
            codes, levels = factorize_labels(column, name=f"column {names[f]!r} of X")
            mass = np.bincount(codes[codes >= 0], weights=weight[codes >= 0], minlength=len(levels))
            found[f].append((levels, mass))
            if len(found[f]) == MERGE_EVERY:
                found[f] = [_merge_levels(found[f])]
    if not found[0]:
        return None
    return [_merge_levels(parts) if is_categorical[f] else _merge_numbers(parts) for f, parts in enumerate(found)]


def merge_columns(model: Any, problem: Problem, parts: Sequence[list[Summary] | None], has_validation: bool) -> Problem:
    """The problem with encoder and bin edges."""
    columns = problem.columns
    is_categorical = columns.is_categorical[problem.inputs.feature_positions]
    of_column = list(zip(*(part for part in parts if part is not None), strict=True))
    merged = [
        _merge_levels(list(column)) if is_categorical[f] else merge_summaries(list(column))
        for f, column in enumerate(of_column)
    ]
    names = _feature_names(problem)
    encoder = FeatureEncoder().fit(np.zeros((1, len(names))), None, names=names)
    encoder.is_categorical = is_categorical
    for f in np.flatnonzero(is_categorical):
        levels, mass = merged[f]
        of_levels = pd.DataFrame({"level": pd.Series(levels, dtype=object)})
        if len(levels) == 0:
            encoder.categories[f], encoder.level_codes[f] = np.empty(0, dtype=object), np.empty(0, dtype=np.int32)
            continue
        one = FeatureEncoder().fit(of_levels, [True], sample_weight=np.asarray(mass), names=[names[f]])
        encoder.categories[f], encoder.level_codes[f] = one.categories[0], one.level_codes[0]
        encoder.n_categories[f] = one.n_categories[0]
    max_bins = model.max_bins
    if max_bins == "auto":
        max_bins = int(np.clip(np.sqrt(problem.n_rows), AUTO_MIN_BINS, MAX_BINS)) if has_validation else MAX_BINS
    mapper = BinMapper(max_bins).fit_summaries(merged, is_categorical, encoder.n_categories)
    return replace(problem, encoder=encoder, mapper=mapper)


def _feature_names(problem: Problem) -> list[str]:
    names = problem.columns.names
    return [f"x{j}" if names is None else names[j] for j in problem.inputs.feature_positions]


def _merge_levels(parts: list[Summary]) -> Summary:
    total: dict[Any, float] = {}
    for levels, mass in parts:
        _add_up(total, levels, mass)
    return list(total), list(total.values())


def _merge_numbers(parts: list[Summary]) -> Summary:
    """One summary of many pieces, no longer than the summary of one."""
    return summarise_column(*merge_summaries(parts))


# ----------------------------------------------------------------------------------------------------------------------
# Rows
# ----------------------------------------------------------------------------------------------------------------------


def _factor(read: ReadPiece, problem: Problem) -> np.ndarray:
    """Factor (n,) on the weights of the rows, for their class and task."""
    factor = np.ones(len(read.y))
    if problem.class_factors is not None:
        factor *= problem.class_factors[_class_codes(read, problem).astype(np.int64)]
    if problem.task_factors is not None:
        factor *= problem.task_factors[_task_codes(read, problem)]
    return factor


def _class_codes(read: ReadPiece, problem: Problem) -> np.ndarray:
    assert read.classes is not None and problem.classes is not None
    place = {label: float(i) for i, label in enumerate(problem.classes.tolist())}
    return np.array([place.get(label, np.nan) for label in read.classes.tolist()])[read.y.astype(np.int64)]


def _task_codes(read: ReadPiece, problem: Problem) -> np.ndarray:
    if read.task_ids is None:
        return np.zeros(len(read.y), dtype=np.int32)
    return problem.labels.encode(read.task_ids)


def encode(model: Any, problem: Problem, piece: Piece, first: int) -> BinnedRows | None:
    """The rows of a piece as bins; ``first`` rows with a weight stand before it in the table."""
    read = read_piece(model, piece)
    if read is None:
        return None
    assert problem.encoder is not None and problem.mapper is not None
    codes = problem.mapper.transform(problem.encoder.transform(read.features))
    y = read.y if problem.classes is None else _class_codes(read, problem)
    position = first + np.arange(len(y), dtype=np.int64)
    return BinnedRows(codes, _task_codes(read, problem), y, read.weight * _factor(read, problem), position)
