"""Reader for a folder of tables and a `manifest.json` that says how to read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MANIFEST = "manifest.json"
_TARGET_TYPES = ("regression", "binary", "multiclass")
_KEYS_OF_LAYOUT = {"row_tasks": ("task", "target", "target_type"), "target_tasks": ("targets",)}
_KEYS_OF_RULE = {"random": ("test_fraction",), "time": ("train",), "column": ("column",)}


@dataclass(frozen=True, eq=False)
class View:
    """One way of reading one table. Made by `load_manifest`; the file is read when data are asked for.

    A view unpacks: ``X, y, task, split = view``.

    Attributes
    ----------
    name : str
        Name of the data set; several views may bear it.
    layout : {"row_tasks", "target_tasks"}
        Whether each row belongs to one task, or has a label for every task.
    file : pathlib.Path
        The table.
    features : dict
        Column -> "numeric" or "categorical".
    task_column : str or None
        The column that says which task a row belongs to; None for "target_tasks".
    target_types : dict
        Target column -> "regression", "binary" or "multiclass"; one entry for "row_tasks".
    split_rule : dict
        How rows are divided into training and test rows.
    record : dict
        The whole record of the manifest, with source, licence and notes.
    drop_unlabelled : bool
        Whether rows without any label are left out.
    """

    name: str
    layout: str
    file: Path
    features: Mapping[str, str]
    task_column: str | None
    target_types: Mapping[str, str]
    split_rule: Mapping[str, Any]
    record: Mapping[str, Any]
    drop_unlabelled: bool = False

    @property
    def title(self) -> str:
        """What tells this view from the others: name, layout and the task column or the number of targets."""
        return f"{self.name} / {self.layout} / {self.task_column or f'{len(self.target_types)} targets'}"

    @property
    def X(self) -> pd.DataFrame:
        """The listed features, shape (n_rows, n_features): numbers as float, the others as category."""
        return _features(self._table(), self.features)

    @property
    def X_with_task(self) -> pd.DataFrame:
        """X with the task column appended if it is not a feature: what an estimator with `task_column` takes."""
        table = self._table()
        X = _features(table, self.features)
        if self.task_column is None or self.task_column in X:
            return X
        return X.assign(**{self.task_column: table[self.task_column]})

    @property
    def y(self) -> pd.Series | pd.DataFrame:
        """The labels: a Series, or for "target_tasks" a DataFrame with one column per task; NaN = not observed."""
        table = self._table()
        labels = pd.DataFrame({name: _labels(table[name], kind) for name, kind in self.target_types.items()})
        return labels.iloc[:, 0] if self.layout == "row_tasks" else labels

    @property
    def task(self) -> pd.Series | None:
        """The task of each row; None for "target_tasks"."""
        return None if self.task_column is None else self._table()[self.task_column].copy()

    def split(self, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row positions for training and testing.

        Parameters
        ----------
        seed : int, default=0
            Seed of the shuffle; without effect where the manifest fixes the split by time or by a column.

        Returns
        -------
        train_idx, test_idx : ndarray of int
            Positions in X, increasing. In a split by column, rows that say neither "train" nor "test" are in neither.

        Raises
        ------
        ValueError
            If one side is empty or the rule cannot be applied to this table.
        """
        train, test = _split_masks(self._table(), self.split_rule, seed, self.title)
        if not train.any() or not test.any():
            raise ValueError(
                f"split {dict(self.split_rule)} of view {self.title!r} leaves {train.sum()} training and "
                f"{test.sum()} test rows; correct the rule in {_MANIFEST}."
            )
        return np.flatnonzero(train), np.flatnonzero(test)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.X, self.y, self.task, self.split))

    def _table(self) -> pd.DataFrame:
        if not self.file.is_file():
            raise FileNotFoundError(f"{self.file} of view {self.title!r} does not exist; is 'file' right?")
        table = _read(self.file, self.file.stat().st_mtime_ns)
        needed = [*self.features, *self.target_types, *([self.task_column] if self.task_column else [])]
        for column in needed:
            if column not in table:
                raise ValueError(
                    f"{column!r} of view {self.title!r} is not a column of {self.file}{_hint(column, table)}"
                )
        if not self.drop_unlabelled:
            return table
        has_label = table[list(self.target_types)].notna().any(axis=1)
        return table[has_label].reset_index(drop=True)


def load_manifest(folder: str | PathLike[str], *, drop_unlabelled: bool = False) -> list[View]:
    """List the views of a folder of tables described by a ``manifest.json``.

    The manifest is a list of records with the keys ``name``, ``file`` (parquet or CSV), ``layout`` ("row_tasks" with
    ``task``, ``target`` and ``target_type``, or "target_tasks" with ``targets``: column -> type), ``features``
    (column -> "numeric" or "categorical") and ``split`` (``{"rule": "random", "test_fraction": 0.2}``,
    ``{"rule": "time", "train": query}`` or ``{"rule": "column", "column": name}``). Queries and split columns may use
    columns that are not features. Other keys are kept in `View.record`.

    Parameters
    ----------
    folder : str or path
        The folder that holds ``manifest.json`` and the tables. Queries in it are evaluated by pandas: read only
        folders that you trust.
    drop_unlabelled : bool, default=False
        Whether to leave out rows that have no label at all. False keeps them, with NaN in y: estimators for row tasks
        refuse them.

    Returns
    -------
    list of View
        In the order of the manifest. A table is read when a view's data are asked for, and only the last table is
        kept in memory.

    Raises
    ------
    FileNotFoundError
        If there is no manifest in `folder`, or, when a view is read, no such table.
    ValueError
        If the manifest is not as described above, or, when a view is read, a column is missing.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> import pandas as pd
    >>> from mttab.datasets import load_manifest
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> table = pd.DataFrame({"size": [1, 2, 3, 4], "shop": ["a", "a", "b", "b"], "sales": [3, 5, 2, 4]})
    >>> table.to_csv(folder / "shops.csv", index=False)
    >>> record = {
    ...     "name": "shops", "file": "shops.csv", "layout": "row_tasks", "features": {"size": "numeric"},
    ...     "task": "shop", "target": "sales", "target_type": "regression",
    ...     "split": {"rule": "random", "test_fraction": 0.25},
    ... }
    >>> _ = (folder / "manifest.json").write_text(json.dumps([record]))
    >>> for X, y, task, split in load_manifest(folder):
    ...     train, test = split(seed=0)
    ...     print(X.shape, y.name, task.unique().tolist(), len(train), len(test))
    (4, 1) sales ['a', 'b'] 3 1
    """
    path = Path(folder) / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"folder={str(folder)!r} holds no {_MANIFEST}; give the folder that does.")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of records, one per view, got {type(records).__name__}.")
    return [_view(record, f"record {i} of {path}", path.parent, drop_unlabelled) for i, record in enumerate(records)]


def _view(record: Any, where: str, folder: Path, drop_unlabelled: bool) -> View:
    """Check one record and turn it into a View."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be an object, got {type(record).__name__}.")
    _require(record, ("name", "file", "layout", "features", "split"), where)
    where = f"{where} ({record['name']!r})"
    _allow(record["layout"], tuple(_KEYS_OF_LAYOUT), "layout", where)
    _require(record, _KEYS_OF_LAYOUT[record["layout"]], where)
    _require(record["split"], ("rule",), f"'split' of {where}")
    _allow(record["split"]["rule"], tuple(_KEYS_OF_RULE), "rule", f"'split' of {where}")
    _require(record["split"], _KEYS_OF_RULE[record["split"]["rule"]], f"'split' of {where}")
    is_row_tasks = record["layout"] == "row_tasks"
    if record["split"]["rule"] == "random":
        fraction = record["split"]["test_fraction"]
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ValueError(
                f"'test_fraction' in 'split' of {where} must be a number between 0 and 1, got {fraction!r}."
            )
    for key in ("features",) if is_row_tasks else ("features", "targets"):
        if not isinstance(record[key], dict) or not record[key]:
            raise ValueError(f"{key!r} of {where} must be an object of column -> type with at least one entry.")
    for holder, key in ((record, "file"), *([(record, "task"), (record, "target")] if is_row_tasks else [])):
        if not isinstance(holder[key], str):
            raise ValueError(f"{key!r} of {where} must be a string, got {holder[key]!r}.")
    targets = {record["target"]: record["target_type"]} if is_row_tasks else record["targets"]
    for column, kind in record["features"].items():
        _allow(kind, ("numeric", "categorical"), f"type of feature {column!r}", where)
    for column, kind in targets.items():
        _allow(kind, _TARGET_TYPES, f"type of target {column!r}", where)
    return View(
        name=record["name"],
        layout=record["layout"],
        file=folder / record["file"],
        features=record["features"],
        task_column=record["task"] if is_row_tasks else None,
        target_types=targets,
        split_rule=record["split"],
        record=record,
        drop_unlabelled=drop_unlabelled,
    )


def _require(record: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(map(repr, missing))}; it needs {', '.join(map(repr, keys))}.")


def _allow(value: Any, allowed: tuple[str, ...], what: str, where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{what} {value!r} in {where} must be one of {', '.join(map(repr, allowed))}.")


def _hint(column: str, table: pd.DataFrame) -> str:
    close = get_close_matches(str(column), [str(name) for name in table.columns], n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


@lru_cache(maxsize=1)  # views of one file follow each other; keep no more than one table
def _read(file: Path, modified: int) -> pd.DataFrame:
    """The table in `file`; `modified` renews the cache when the file changes."""
    if file.suffix == ".csv":
        return pd.read_csv(file)
    if file.suffix != ".parquet":
        raise ValueError(f"{file} must be a .parquet or .csv file.")
    return pd.read_parquet(file).reset_index(drop=True)


def _features(table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    X = table[list(kinds)].copy()
    for column, kind in kinds.items():
        if kind == "categorical":
            X[column] = X[column].astype("category")
        elif X[column].dtype not in (np.float32, np.float64):
            X[column] = _as_float(X[column])
    return X


def _labels(column: pd.Series, kind: str) -> pd.Series:
    """Labels whose dtype says what they are: floats, 0 and 1, or categories."""
    if kind == "regression":
        return _as_float(column)
    return column if kind == "binary" else column.astype("category")


def _as_float(column: pd.Series) -> pd.Series:
    try:
        return column.astype(np.float64)  # small integer types would overflow in a reader's arithmetic
    except (TypeError, ValueError):
        raise ValueError(f"column {column.name!r} is called numeric in {_MANIFEST} but holds {column.dtype}.") from None


def _split_masks(
    table: pd.DataFrame, rule: Mapping[str, Any], seed: int, title: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are for training and which for testing."""
    if rule["rule"] == "random":
        train = np.ones(len(table), dtype=bool)
        n_test = round(rule["test_fraction"] * len(table))
        train[np.random.default_rng(seed).permutation(len(table))[:n_test]] = False
        return train, ~train
    if rule["rule"] == "time":
        try:
            train = np.asarray(table.eval(rule["train"], engine="python"), dtype=bool)
        except Exception as error:
            raise ValueError(f"query {rule['train']!r} in the split of view {title!r} fails: {error}.") from error
        return train, ~train
    if rule["column"] not in table:
        raise ValueError(
            f"split column {rule['column']!r} of view {title!r} is not in the table{_hint(rule['column'], table)}"
        )
    side = table[rule["column"]].astype(str).to_numpy()
    return side == "train", side == "test"
