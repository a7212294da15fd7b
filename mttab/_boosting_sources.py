"""Fitting an R-MTGB estimator on what does not fit into memory: a Parquet or Arrow path, a memory map, chunks.

A source is read three times, a piece at a time: for its tasks and classes, for its bin edges, and to bin it. From then
on there is one byte per cell, in memory or, where that is short, in a temporary file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from mttab._boosting_fit import Fitted
from mttab._boosting_pieces import Problem, encode, merge_columns, merge_labels, read_columns, read_labels
from mttab._boosting_training import DecodedRows, boost_training, finish, own_validation, spread_scaling
from mttab._callbacks import FitHooks
from mttab._core.boosting.binning import pack_words
from mttab._core.boosting.rmtgb import BoostedModel
from mttab._core.boosting.rows import TrainingRows
from mttab._core.boosting.threads import fit_region, resolve_n_threads
from mttab._core.holdout import stops_early
from mttab._core.progress import Progress, messages_shown, tell
from mttab._core.sources import Source

# Share of the memory that is free beyond which bins go to a file.
FREE_SHARE = 0.5


def fit_source(model: Any, source: Source, explicit: dict[str, Any], hooks: FitHooks) -> None:
    """Fit the estimator on a source."""
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    counts = read_labels(model, source.pieces())
    problem = merge_labels(model, [counts])
    has_validation = stops_early(model.early_stopping, problem.n_rows, explicit, None)
    problem = merge_columns(model, problem, [read_columns(model, problem, source.pieces())], has_validation)
    n_cells = problem.n_rows * problem.columns.n_columns
    threads = fit_region(resolve_n_threads(model.n_jobs, n_cells), n_cells)
    with tempfile.TemporaryDirectory(prefix="mttab-") as folder, threads as n_threads, messages_shown(model.verbose):
        rows = bin_source(model, problem, source, counts.task_rows, Path(folder))
        loss = model._make_loss(problem.classes)
        scaling = spread_scaling(model, rows.y, rows.task, rows.weight, problem.labels.n_tasks, loss)
        is_drawn = has_validation and explicit["X_val"] is None and model.validation_fraction is not None
        strata = _strata(rows, problem.classes) if is_drawn else None
        rows.y -= scaling.center[rows.task]
        rows.y /= scaling.scale[rows.task]

        def follow(as_fitted: Callable[[BoostedModel], Fitted]) -> Progress:
            return hooks.follow(
                model.verbose, "round", lambda boosted: model._attributes_of(as_fitted(boosted), problem.inputs, seed)
            )

        options: dict[str, Any] = {"seed": seed, "n_threads": n_threads, "follow": follow}
        validation = own_validation(model, problem, rows, None, explicit, scaling)
        is_held = None
        if strata is not None:
            is_held = _held_out(model, rows, strata, seed, model._n_averaged(rows.n_rows, explicit))
        del strata
        if is_held is None:
            is_stopped = has_validation and (validation is not None or model.validation_fraction is None)
            fitted = boost_training(model, problem, rows, validation, scaling, is_stopped, **options)
        elif len(is_held) > 1:
            fitted = boost_training(model, problem, rows, None, scaling, True, **options, is_held=is_held)
        else:
            assert problem.mapper is not None
            validation = rows.judged(DecodedRows(problem.mapper, rows), is_held[0])
            fitted = boost_training(model, problem, rows.take(~is_held[0]), validation, scaling, True, **options)
            if model.refit:
                tell(model.verbose, "once more on all rows")
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
    words = _room(((n_features + 3) // 4, n), folder)
    task = np.repeat(np.arange(labels.n_tasks, dtype=np.int32), counts)
    y, weight, position = np.empty(n), np.empty(n), np.empty(n, dtype=np.uint32)  # rows are numbered so in all trees
    following, first = start[:-1].copy(), 0
    for piece in source.pieces():
        part = encode(model, problem, piece, first)
        if part is None:
            continue
        order = np.argsort(part.task, kind="stable")
        of_task = part.task[order]
        place = following[of_task] + np.arange(len(order)) - np.searchsorted(of_task, of_task)
        for block, packed in zip(words, pack_words(part.codes[:, order]), strict=True):
            block[place] = packed
        y[place], weight[place], position[place] = part.y[order], part.weight[order], part.position[order]
        following += np.bincount(part.task, minlength=labels.n_tasks)
        first += len(part)
    return TrainingRows(words, n_features, task, start.astype(np.int64), y, weight, position, problem.task_mass)


def _room(shape: tuple[int, int], folder: Path) -> np.ndarray:
    """An array for bins, four in a word, in a file where memory is short."""
    n_bytes = 4 * shape[0] * shape[1]
    if n_bytes > FREE_SHARE * _free_memory():
        mapped = np.memmap(folder / "bins", dtype=np.uint32, mode="w+", shape=shape)
        return mapped.view(np.ndarray)
    return np.empty(shape, dtype=np.uint32)


def _free_memory() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not Linux: bins are the least of what a fit needs
        return np.inf


def _strata(rows: TrainingRows, classes: np.ndarray | None) -> np.ndarray:
    """Task and class of every row as one number, int64 (n_rows,)."""
    task = rows.task.astype(np.int64)
    return task if classes is None else task * len(classes) + rows.y.astype(np.int64)


def _held_out(model: Any, rows: TrainingRows, strata: np.ndarray, seed: int, n_models: int) -> np.ndarray | None:
    """Rows (n_models, n_rows) that decide when a block ends, drawn in the order of the table as for one in memory."""
    in_order = np.argsort(rows.position)
    drawn = model._draw_held_out(strata[in_order], seed, n_models)
    is_held = np.empty_like(drawn)
    is_held[:, in_order] = drawn
    if is_held.any():
        return is_held
    if model.early_stopping == "auto":
        return None
    raise ValueError(
        f"early_stopping={model.early_stopping!r} leaves none of {rows.n_rows} rows for validation, so there is "
        "nothing to compare; pass more rows, a larger validation_fraction, or early_stopping=False."
    )
