"""Dask collections as the pieces that a fit reads, one per partition."""

from __future__ import annotations

import sys
from typing import Any

from mttab._core.sources import Piece


def collection_kind(X: Any) -> str | None:
    """Either "frame", "array" or None for what is no Dask collection."""
    if "dask" not in sys.modules:  # so that a fitted model predicts where Dask is not installed
        return None
    from dask.base import is_dask_collection

    if not is_dask_collection(X):
        return None
    return "frame" if hasattr(X, "partitions") and hasattr(X, "map_partitions") else "array"


def make_pieces(X: Any, y: Any, sample_weight: Any, task: Any) -> list[Any]:
    """One delayed `Piece` per partition."""
    from dask import delayed

    parts: dict[str, list[Any] | None] = {}
    for name, values in {"X": X, "y": y, "weight": sample_weight, "task": task}.items():
        argument = {"weight": "sample_weight"}.get(name, name)
        if values is None and name in ("weight", "task"):
            parts[name] = None
            continue
        kind = None if values is None else collection_kind(values)
        if kind is None:
            raise ValueError(
                f"{argument} is a {type(values).__name__}, but a fit on a cluster takes Dask collections; use "
                "dask.dataframe.from_pandas or dask.array.from_array, or the estimator without Dask."
            )
        if kind == "array":
            if values.ndim == 2:
                values = values.rechunk({1: -1})
            parts[name] = list(values.to_delayed().ravel())
        else:
            parts[name] = list(values.to_delayed())
    n_parts = len(parts["X"] or [])
    for name, of_name in parts.items():
        if of_name is not None and len(of_name) != n_parts:
            raise ValueError(
                f"{name} has {len(of_name)} partitions, but X has {n_parts}; make them from one collection, or "
                "repartition them alike."
            )
    make = delayed(Piece, pure=False)
    return [make(*(None if of_name is None else of_name[i] for of_name in parts.values())) for i in range(n_parts)]
