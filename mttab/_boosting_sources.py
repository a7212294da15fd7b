"""Fitting an R-MTGB estimator on what does not fit into memory: a Parquet or Arrow path, a memory map, chunks.

A source is read three times, a piece at a time: for its tasks and classes, for its bin edges, and to bin it. From then
on there is one byte per cell, in memory or, where that is short, in a temporary file.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from mttab._boosting_pieces import (
    Piece,
    Problem,
    boost_training,
    encode,
    finish,
    merge_columns,
    merge_labels,
    own_validation,
    read_columns,
    read_labels,
    spread_scaling,
)
from mttab._core.boosting.rmtgb import Progress
from mttab._core.boosting.rows import TrainingRows, ValidationRows
from mttab._core.boosting.threads import parallel_region, resolve_n_threads
from mttab._core.holdout import stops_early, stratified_holdout
from mttab._core.tasks import did_you_mean

# Rows of a piece that is read at a time.
PIECE_ROWS = 65_536
# Share of the memory that is free beyond which bins go to a file.
FREE_SHARE = 0.5
_ARROW_SUFFIXES = {".arrow", ".feather", ".ipc"}


class Source:
    """A table that is read in pieces, as often as needed."""

    def pieces(self) -> Iterator[Piece]:
        raise NotImplementedError


class ArrowSource(Source):
    """A Parquet or Arrow file, or a folder of them; target and weight are columns of it."""

    def __init__(self, path: Any, y: Any, sample_weight: Any, task: Any):
        try:
            import pyarrow.dataset
        except ImportError as err:
            raise ImportError('Reading a path needs Arrow: pip install "mttab[parquet]".') from err
        if not Path(path).exists():
            raise ValueError(f"X={str(path)!r} is no file or folder; pass the path of a Parquet or Arrow file.")
        suffixes = {p.suffix for p in Path(path).rglob("*")} if Path(path).is_dir() else {Path(path).suffix}
        self.dataset = pyarrow.dataset.dataset(path, format="ipc" if suffixes & _ARROW_SUFFIXES else "parquet")
        names = self.dataset.schema.names
        for argument, name in {"y": y, "sample_weight": sample_weight}.items():
            if name is None and argument == "sample_weight":
                continue
            if not isinstance(name, str):
                raise ValueError(
                    f"{argument} is a {type(name).__name__}, but with a path as X it names a column; pass a str."
                )
            if name not in names:
                raise ValueError(f"{argument}={name!r} is not a column of {str(path)!r}{did_you_mean(name, names)}")
        if task is not None:
            raise ValueError("task was passed with a path as X; name the task column by task_column.")
        self.y, self.weight = y, sample_weight

    def pieces(self) -> Iterator[Piece]:
        # Little is read ahead: what lies in memory besides the bins are a few of these pieces.
        batches = self.dataset.to_batches(batch_size=PIECE_ROWS, batch_readahead=1, fragment_readahead=1)
        for batch in batches:
            frame = batch.to_pandas()
            weight = None if self.weight is None else frame[self.weight].to_numpy(dtype=np.float64)
            taken = [self.y] if self.weight is None else [self.y, self.weight]
            yield Piece(frame.drop(columns=taken), frame[self.y], weight)


class MappedSource(Source):
    """A memory-mapped array; y, weights and tasks are arrays of as many rows."""

    def __init__(self, X: np.memmap, y: Any, sample_weight: Any, task: Any):
        self.X, self.others = X, (y, sample_weight, task)
        for name, values in zip(("y", "sample_weight", "task"), self.others, strict=True):
            if values is not None and len(values) != len(X):
                raise ValueError(f"X has {len(X)} rows, but {name} has {len(values)}; pass one entry per row of X.")

    def pieces(self) -> Iterator[Piece]:
        for start in range(0, len(self.X), PIECE_ROWS):
            rows = slice(start, start + PIECE_ROWS)
            yield Piece(np.array(self.X[rows]), *(None if v is None else v[rows] for v in self.others))


class ChunkSource(Source):
    """An iterator of (X, y) or (X, y, sample_weight), which can be read once only and is kept in a temporary folder."""

    def __init__(self, chunks: Iterator[Any]):
        self.folder = tempfile.TemporaryDirectory(prefix="mttab-")
        self.n_chunks = 0
        for chunk in chunks:
            if not isinstance(chunk, (tuple, list)) or len(chunk) not in (2, 3):
                raise ValueError(
                    f"X is an iterator that gave a {type(chunk).__name__}; let it give tuples (X, y) or "
                    "(X, y, sample_weight)."
                )
            with (Path(self.folder.name) / str(self.n_chunks)).open("wb") as file:
                pickle.dump(tuple(chunk), file, protocol=pickle.HIGHEST_PROTOCOL)
            self.n_chunks += 1

    def pieces(self) -> Iterator[Piece]:
        for i in range(self.n_chunks):
            with (Path(self.folder.name) / str(i)).open("rb") as file:
                yield Piece(*pickle.load(file))


def find_source(model: Any, X: Any, y: Any, sample_weight: Any, task: Any) -> Source | None:
    """The source that X is, or None for a table in memory."""
    if isinstance(X, np.memmap):
        # Others than these options want the table as a whole; it is read into memory then.
        is_whole = model.warm_start or model.validation is not None or np.ndim(y) == 2 or X.ndim != 2
        return None if is_whole else MappedSource(X, _sliceable(y), _sliceable(sample_weight), _sliceable(task))
    if isinstance(X, (str, os.PathLike)):
        _refuse_options(model, "a path")
        return ArrowSource(X, y, sample_weight, task)
    if isinstance(X, Iterator):
        _refuse_options(model, "an iterator")
        given = {"y": y, "sample_weight": sample_weight, "task": task}
        extra = next((name for name, value in given.items() if value is not None), None)
        if extra is not None:
            raise ValueError(
                f"{extra} was passed with an iterator as X; let the iterator give (X, y) or (X, y, sample_weight), and "
                "pass y=None."
            )
        return ChunkSource(X)
    return None


def _sliceable(values: Any) -> Any:
    if values is None or isinstance(values, np.ndarray):
        return values
    return values.to_numpy() if isinstance(values, (pd.Series, pd.DataFrame)) else np.asarray(values)


def _refuse_options(model: Any, what: str) -> None:
    if model.warm_start:
        raise ValueError(f"warm_start=True needs the table in memory, but X is {what}; fit anew.")
    if model.validation is not None:
        raise ValueError(
            f"validation splits a table in memory, but X is {what}; use validation_fraction, or pass X_val and y_val."
        )


def fit_source(model: Any, source: Source, explicit: dict[str, Any], progress: Progress | None) -> None:
    """Fit the estimator on a source."""
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    counts = read_labels(model, source.pieces())
    problem = merge_labels(model, [counts])
    has_validation = stops_early(model.early_stopping, problem.n_rows, explicit, None)
    problem = merge_columns(model, problem, [read_columns(model, problem, source.pieces())], has_validation)
    n_threads = resolve_n_threads(model.n_jobs, problem.n_rows * problem.columns.n_columns)
    with tempfile.TemporaryDirectory(prefix="mttab-") as folder, parallel_region(n_threads):
        rows = bin_source(model, problem, source, counts.task_rows, Path(folder))
        loss = model._make_loss(problem.classes)
        scaling = spread_scaling(model, rows.y, rows.task, rows.weight, problem.labels.n_tasks, loss)
        strata = rows.task.astype(np.int64)
        if problem.classes is not None:
            strata = strata * len(problem.classes) + rows.y.astype(np.int64)
        rows.y -= scaling.center[rows.task]
        rows.y /= scaling.scale[rows.task]
        options: dict[str, Any] = {"seed": seed, "n_threads": n_threads, "progress": progress}
        validation = own_validation(model, problem, rows, None, explicit, scaling)
        is_held = None
        if has_validation and validation is None and model.validation_fraction is not None:
            is_held = _held_out(model, rows, strata, seed)
        del strata
        if is_held is None:
            is_stopped = has_validation and (validation is not None or model.validation_fraction is None)
            fitted = boost_training(model, problem, rows, validation, scaling, is_stopped, **options)
        else:
            assert problem.mapper is not None
            X = problem.mapper.decode(rows.codes[:, is_held])
            validation = ValidationRows(X, rows.task[is_held], rows.y[is_held], rows.weight[is_held])
            fitted = boost_training(model, problem, rows.take(~is_held), validation, scaling, True, **options)
            if model.refit:
                again = boost_training(model, problem, rows, None, scaling, False, **options, chosen=fitted)
                again.model.validation_loss = fitted.model.validation_loss
                fitted = again
    finish(model, problem, fitted, seed)


def bin_source(model: Any, problem: Problem, source: Source, task_rows: dict[Any, float], folder: Path) -> TrainingRows:
    """All rows as bins in task order, each piece written to where its rows belong."""
    labels = problem.labels
    n, n_features = problem.n_rows, len(problem.inputs.feature_positions)
    counts = np.array([task_rows.get(label, n) for label in labels.labels.tolist()], dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(counts)])
    codes = _room((n_features, n), folder)
    task = np.repeat(np.arange(labels.n_tasks, dtype=np.int32), counts)
    y, weight, position = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
    following, first = start[:-1].copy(), 0
    for piece in source.pieces():
        part = encode(model, problem, piece, first)
        if part is None:
            continue
        order = np.argsort(part.task, kind="stable")
        of_task = part.task[order]
        place = following[of_task] + np.arange(len(order)) - np.searchsorted(of_task, of_task)
        for f in range(n_features):
            codes[f, place] = part.codes[f, order]
        y[place], weight[place], position[place] = part.y[order], part.weight[order], part.position[order]
        following += np.bincount(part.task, minlength=labels.n_tasks)
        first += len(part)
    return TrainingRows(codes, task, start.astype(np.int64), y, weight, position, problem.task_mass)


def _room(shape: tuple[int, int], folder: Path) -> np.ndarray:
    """An array for bins, in a file where memory is short."""
    n_bytes = shape[0] * shape[1]
    if n_bytes > FREE_SHARE * _free_memory():
        mapped = np.memmap(folder / "bins", dtype=np.uint8, mode="w+", shape=shape)
        return mapped.view(np.ndarray)
    return np.empty(shape, dtype=np.uint8)


def _free_memory() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not Linux: bins are the least of what a fit needs
        return np.inf


def _held_out(model: Any, rows: TrainingRows, strata: np.ndarray, seed: int) -> np.ndarray | None:
    """Rows that decide when a block ends, drawn in the order of the table as for one in memory."""
    in_order = np.argsort(rows.position)
    is_held = np.empty(rows.n_rows, dtype=bool)
    rng = np.random.default_rng([seed, 0])
    is_held[in_order] = stratified_holdout(strata[in_order], model.validation_fraction, rng)
    if is_held.any():
        return is_held
    if model.early_stopping == "auto":
        return None
    raise ValueError(
        f"early_stopping={model.early_stopping!r} leaves none of {rows.n_rows} rows for validation, so there is "
        "nothing to compare; pass more rows, a larger validation_fraction, or early_stopping=False."
    )
