"""Tables that are read in pieces: a Parquet or Arrow path, a memory-mapped array, an iterator of chunks."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mttab._core.frames import pandas_if_table
from mttab._core.tasks import did_you_mean

# Rows of a piece that is read at a time.
PIECE_ROWS = 65_536
_ARROW_SUFFIXES = {".arrow", ".feather", ".ipc"}


class Piece(NamedTuple):
    """Some rows as the user has them."""

    X: Any
    y: Any
    weight: Any = None
    task: Any = None


class Source:
    """A table that is read in pieces, as often as needed.

    Attributes
    ----------
    n_rows : int
    """

    n_rows: int

    def pieces(self) -> Iterator[Piece]:
        raise NotImplementedError


class ArrowSource(Source):
    """A Parquet or Arrow file, or a folder of them; target and weight are columns of it."""

    def __init__(self, path: Any, y: Any, sample_weight: Any, task: Any, has_tables: bool):
        try:
            import pyarrow.dataset
        except ImportError as err:
            raise ImportError('Reading a path needs Arrow: pip install "mttab[parquet]".') from err
        if not Path(path).exists():
            raise ValueError(f"X={str(path)!r} is no file or folder; pass the path of a Parquet or Arrow file.")
        named = next((p.name for p in Path(path).rglob("*=*") if p.is_dir()), None) if Path(path).is_dir() else None
        if named is not None:
            raise ValueError(
                f"X={str(path)!r} is a folder with parts such as {named!r}, whose names hold a column that their files "
                "do not have; write it with that column in the files (without partition_cols)."
            )
        suffixes = {p.suffix for p in Path(path).rglob("*")} if Path(path).is_dir() else {Path(path).suffix}
        self.dataset = pyarrow.dataset.dataset(path, format="ipc" if suffixes & _ARROW_SUFFIXES else "parquet")
        names = self.dataset.schema.names
        wanted = {"y": y} if sample_weight is None else {"y": y, "sample_weight": sample_weight}
        for argument, given in wanted.items():
            for name in given if isinstance(given, list) and has_tables else [given]:
                if not isinstance(name, str):
                    raise ValueError(
                        f"{argument} is a {type(given).__name__}, but with a path as X it names a column; pass a str."
                    )
                if name not in names:
                    raise ValueError(f"{argument}={name!r} is not a column of {str(path)!r}{did_you_mean(name, names)}")
        if task is not None:
            raise ValueError("task was passed with a path as X; name the task column by task_column.")
        self.y, self.weight, self.n_rows = y, sample_weight, self.dataset.count_rows()

    def pieces(self) -> Iterator[Piece]:
        for batch in self._batches():
            frame = batch.to_pandas()
            weight = None if self.weight is None else frame[self.weight].to_numpy(dtype=np.float64)
            taken = self.y if isinstance(self.y, list) else [self.y]
            taken = taken if self.weight is None else [*taken, self.weight]
            yield Piece(frame.drop(columns=taken), frame[self.y], weight)

    def _batches(self) -> Iterator[Any]:
        """Some rows at a time, by readers that read no further: a scan of the dataset decodes what it can ahead."""
        import pyarrow.ipc
        import pyarrow.parquet

        for path in self.dataset.files:
            if self.dataset.format.default_extname == "parquet":
                with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
                    yield from file.iter_batches(PIECE_ROWS)
                continue
            with pyarrow.memory_map(path) as mapped, pyarrow.ipc.open_file(mapped) as file:
                for i in range(file.num_record_batches):
                    batch = file.get_batch(i)
                    for start in range(0, batch.num_rows, PIECE_ROWS):
                        yield batch.slice(start, PIECE_ROWS)


class MappedSource(Source):
    """A memory-mapped array; y, weights and tasks are arrays of as many rows."""

    def __init__(self, X: np.memmap, y: Any, sample_weight: Any, task: Any):
        self.X, self.others, self.n_rows = X, (y, sample_weight, task), len(X)
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
        self.n_chunks = self.n_rows = 0
        for chunk in chunks:
            if not isinstance(chunk, (tuple, list)) or len(chunk) not in (2, 3):
                raise ValueError(
                    f"X is an iterator that gave a {type(chunk).__name__}; let it give tuples (X, y) or "
                    "(X, y, sample_weight)."
                )
            with (Path(self.folder.name) / str(self.n_chunks)).open("wb") as file:
                pickle.dump(tuple(chunk), file, protocol=pickle.HIGHEST_PROTOCOL)
            self.n_chunks += 1
            self.n_rows += len(chunk[0])

    def pieces(self) -> Iterator[Piece]:
        for i in range(self.n_chunks):
            with (Path(self.folder.name) / str(i)).open("rb") as file:
                X, *others = pickle.load(file)
                yield Piece(pandas_if_table(X, name="X"), *others)


def find_source(
    X: Any, y: Any, sample_weight: Any, task: Any, *, warm_start: bool, validation: Any, has_tables: bool
) -> Source | None:
    """The source that X is, or None for a table in memory.

    warm_start, validation : options of the estimator, which want the table in memory
    has_tables : whether y may have several columns in a source
    """
    # joblib hands arrays above a megabyte to its processes as such; they are meant as the arrays that they were.
    if isinstance(X, np.memmap) and "joblib_memmapping_folder" not in str(X.filename):
        is_whole = warm_start or validation is not None or (np.ndim(y) == 2 and not has_tables) or X.ndim != 2
        return None if is_whole else MappedSource(X, _sliceable(y), _sliceable(sample_weight), _sliceable(task))
    if isinstance(X, (str, os.PathLike)):
        _refuse_options(warm_start, validation, "a path")
        return ArrowSource(X, y, sample_weight, task, has_tables)
    if isinstance(X, Iterator):
        _refuse_options(warm_start, validation, "an iterator")
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


def _refuse_options(warm_start: bool, validation: Any, what: str) -> None:
    if warm_start:
        raise ValueError(f"warm_start=True needs the table in memory, but X is {what}; fit anew.")
    if validation is not None:
        raise ValueError(
            f"validation splits a table in memory, but X is {what}; use validation_fraction, or pass X_val and y_val."
        )
