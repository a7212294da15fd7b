"""Fitting a network estimator on what does not fit into memory: encoded once to a file, from which batches are read.

Scales, levels, classes and tasks are learned from a sample of the rows, to which the first row of every level, class
and task is added. All rows are then encoded, a piece at a time, into arrays in a temporary folder that the operating
system maps into memory: a batch reads its rows and no others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mttab._core.features import resolve_categorical_features
from mttab._core.holdout import stops_early
from mttab._core.neural.columns import Columns
from mttab._core.neural.members import EncodedRows, Shelf
from mttab._core.progress import Progress
from mttab._core.sources import Source
from mttab._core.tasks import factorize_labels
from mttab._core.validation import check_cell_weight, check_table, split_task_column
from mttab._network_fit import Encoding, Rows
from mttab._network_ranks import check_same_rows

# Rows that scales and quantiles are learned from.
SAMPLE_ROWS = 200_000
# Rows held out for early stopping, at most: they stay in memory.
MAX_VALIDATION_ROWS = 100_000


class Sample(NamedTuple):
    """Rows of a source in memory, and the largest weight of all of them."""

    X: Any
    y: Any
    weight: Any
    task: Any
    largest_weight: float


def read_sample(net: Any, source: Source, rng: np.random.Generator) -> Sample:
    """Rows drawn at random, and the first of every level, class and task."""
    share = min(1.0, SAMPLE_ROWS / max(source.n_rows, 1))
    seen: dict[Any, set[Any]] = {}
    parts: list[tuple[Any, ...]] = []
    largest = 0.0
    for piece in source.pieces():
        if len(piece.X) == 0:
            continue
        weight = None if piece.weight is None else np.asarray(piece.weight, dtype=np.float64)
        largest = max(largest, 1.0 if weight is None else float(weight.max()))
        rows = (piece.X, piece.y, weight, piece.task)
        if weight is not None and weight.ndim == 1 and not weight.all():  # what has no weight brings no level along
            rows = tuple(_rows(values, weight > 0) for values in rows)
            if len(rows[0]) == 0:
                continue
        keep = rng.random(len(rows[0])) < share
        for key, column in _columns_with_labels(net, rows[0], rows[1], rows[3]):
            keep[_first_of_new(column, seen.setdefault(key, set()), str(key))] = True
        parts.append(tuple(_rows(values, keep) for values in rows))
    if not parts:
        raise ValueError("Found array with 0 sample(s) in all pieces of X while a minimum of 1 is required.")
    X, y, weight, task = (_joined(list(column)) for column in zip(*parts, strict=True))
    return Sample(X, y, weight, task, largest)


def _columns_with_labels(net: Any, X: Any, y: Any, task: Any) -> list[tuple[Any, Any]]:
    """Columns of which every value counts: categories, task ids, and classes."""
    table = check_table(X)
    _, ids, positions = split_task_column(table, net.task_column)
    is_categorical = resolve_categorical_features(net.categorical_features, table, positions.tolist())
    found: list[tuple[Any, Any]] = []
    for j in np.flatnonzero(is_categorical):
        found.append((f"column {j} of X", table.iloc[:, j] if isinstance(table, pd.DataFrame) else table[:, j]))
    for ids_of_rows in (ids, task):
        if ids_of_rows is not None:
            found.append(("task", ids_of_rows))
    labels = y if isinstance(y, pd.DataFrame) else pd.DataFrame(np.asarray(y))
    return found + [
        (f"column {j} of y", labels.iloc[:, j]) for j in range(labels.shape[1]) if _may_be_classes(labels.iloc[:, j])
    ]


def _may_be_classes(column: pd.Series) -> bool:
    return column.dtype.kind not in "f" or bool(column.dropna().isin([0, 1]).all())


def _first_of_new(column: Any, seen: set[Any], name: str) -> np.ndarray:
    """Positions where a label stands for the first time."""
    codes, labels = factorize_labels(column, name=name)
    _, first = np.unique(codes[codes >= 0], return_index=True)
    place = np.flatnonzero(codes >= 0)[first]
    new = [label not in seen for label in labels]
    seen.update(labels)
    return place[np.array(new, dtype=bool)]


def _rows(values: Any, keep: np.ndarray) -> Any:
    if values is None:
        return None
    return values[keep] if isinstance(values, (np.ndarray, pd.DataFrame, pd.Series)) else np.asarray(values)[keep]


def _joined(parts: list[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], (pd.DataFrame, pd.Series)):
        return pd.concat(parts, ignore_index=True)
    return np.concatenate(parts)


class EncodedFile:
    """Encoded rows in a folder, filled a piece at a time."""

    def __init__(self, folder: Path, n_rows: int, like: EncodedRows, dtype: Any):
        self.folder, self.n_filled = folder, 0
        self.has_task = like.task is not None
        shapes = {
            "numeric": (like.columns.numeric, np.float32),
            "missing": (like.columns.missing, bool),
            "codes": (like.columns.codes, np.int64),
            "y": (like.y, dtype),
            "weight": (like.weight, dtype),
            **({"task": (like.task, np.int64)} if self.has_task else {}),
        }
        self.arrays: dict[str, np.ndarray] = {}
        for name, (array, kind) in shapes.items():
            shape = (n_rows, *array.shape[1:])  # type: ignore[union-attr]
            if 0 in shape:
                self.arrays[name] = np.empty(shape, dtype=kind)
            else:
                self.arrays[name] = np.memmap(folder / name, dtype=kind, mode="w+", shape=shape).view(np.ndarray)

    def append(self, rows: EncodedRows) -> None:
        place = slice(self.n_filled, self.n_filled + len(rows.y))
        parts = {**rows.columns._asdict(), "y": rows.y, "weight": rows.weight, "task": rows.task}
        for name, array in self.arrays.items():
            array[place] = parts[name]
        self.n_filled += len(rows.y)

    def rows(self) -> EncodedRows:
        a = {name: array[: self.n_filled] for name, array in self.arrays.items()}
        return EncodedRows(Columns(a["numeric"], a["missing"], a["codes"]), a.get("task"), a["y"], a["weight"])


def encode_source(
    net: Any, encoding: Encoding, source: Source, largest: float, share_held: float, folder: Path, dtype: Any,
    rng: np.random.Generator,
) -> tuple[EncodedRows, EncodedRows | None]:  # fmt: skip
    """All rows with a label, in a file, and those held out, in memory."""
    unit = 2.0 ** np.floor(np.log2(largest)) if largest > 0 else 1.0
    file: EncodedFile | None = None
    held: list[EncodedRows] = []
    for piece in source.pieces():
        if len(piece.X) == 0 or (piece.weight is not None and not np.any(piece.weight)):
            continue
        rows = _labelled(net, encoding, piece, unit)
        is_held = rng.random(len(piece.X)) < share_held
        is_labelled = (rows.weight > 0).any(axis=1)
        encoded = net._encoded_rows(encoding, rows)
        if file is None:
            file = EncodedFile(folder, source.n_rows, encoded, dtype)
        file.append(encoded.take(is_labelled & ~is_held))
        if (is_held & is_labelled).any():
            held.append(encoded.take(is_held & is_labelled))
    assert file is not None
    if file.n_filled == 0:
        raise ValueError("y has no label with a positive weight, so there is nothing to learn; pass some labels.")
    return file.rows(), _stacked(held) if held else None


def _labelled(net: Any, encoding: Encoding, piece: Any, unit: float) -> Rows:
    _, _, features, ids = net._read_layout(piece.X, piece.task)
    values = encoding.targets.encode(piece.y, piece.weight)
    weight = check_cell_weight(piece.weight, values.shape)
    return Rows(features, values, np.where(np.isnan(values), 0.0, weight / unit), ids)


def _stacked(parts: list[EncodedRows]) -> EncodedRows:
    columns = Columns(*(np.concatenate(column) for column in zip(*(p.columns for p in parts), strict=True)))
    task = None if parts[0].task is None else np.concatenate([p.task for p in parts if p.task is not None])
    return EncodedRows(columns, task, *(np.concatenate([getattr(p, name) for p in parts]) for name in ("y", "weight")))


def fit_source(
    net: Any,
    source: Source,
    explicit: dict[str, Any],
    place: Any,
    seed: int,
    follow: Callable[[Encoding, int], Progress],
    run: Callable[..., list[Any]],
) -> tuple[Encoding, list[Any], EncodedRows, np.ndarray]:
    """Encoding, trained networks, a sample of the rows, and the share of the companions in every column of y.

    ``follow`` makes what follows the training of a network, ``run`` trains jobs.
    """
    if net.pretext is not None:
        raise ValueError(
            f"pretext={net.pretext!r} needs the table in memory, but X is read in pieces; pass pretext=None, or a "
            "table."
        )
    rng = np.random.default_rng([seed, 0])
    sample = read_sample(net, source, rng)
    encoding, rows, _, _ = net._read_training(sample.X, sample.y, sample.weight, sample.task, None)
    of_sample = net._encoded_rows(encoding, rows).with_weight_of_1()
    explicit_rows = net._explicit_rows(encoding, explicit)
    is_stopped = stops_early(net.early_stopping, source.n_rows, explicit, None)
    share = 0.0
    if is_stopped and explicit_rows is None and net.validation_fraction:
        share = min(net.validation_fraction, MAX_VALIDATION_ROWS / source.n_rows)
    with tempfile.TemporaryDirectory(prefix="mttab-") as folder:
        dtype = np.float64 if net.precision == "float64" else np.float32
        training, held = encode_source(
            net, encoding, source, sample.largest_weight, share, Path(folder), dtype, np.random.default_rng([seed, 1])
        )
        check_same_rows(training)
        if explicit_rows is not None:
            held = net._encoded_rows(encoding, explicit_rows)
        shelf = Shelf(place)
        jobs = [
            net._prepare(
                encoding, training, held, shelf, (seed, member), None, follow(encoding, number), sample=of_sample,
                is_companion=is_companion,
            )
            for number, (member, is_companion) in enumerate(net._networks_to_train())
        ]  # fmt: skip
        done = run(jobs)
        return encoding, done, of_sample, net._find_shares(done, [held] * net.n_members, place, None)
