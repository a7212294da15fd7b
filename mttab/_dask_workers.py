"""What runs on the workers of a Dask cluster during a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mttab._boosting_fit import Fitted
from mttab._boosting_pieces import BinnedRows, Problem, encode
from mttab._boosting_training import boost_rows
from mttab._core.boosting.distributed import common_digest, own_part, without_trees
from mttab._core.boosting.forest import BLOCKS
from mttab._core.boosting.rows import ALONE, Peers
from mttab._core.boosting.threads import fit_region, resolve_n_threads
from mttab._core.progress import Messages, Progress, messages_shown
from mttab._core.sources import Piece
from mttab._dask_meeting import MeetingPeers, Place


class Rounds(Progress):
    """Tells the callback of the user, and the log of the worker, of every round; only the first process tells.

    All of them have to want the same figures, because figures are sums over all.
    """

    def __init__(self, callback: Callable[..., Any] | None, verbose: int | bool, is_first: bool):
        self._wants = callback is not None or bool(verbose)
        self._callback = callback if is_first else None
        self._messages = Messages(verbose, "round") if is_first and verbose else Progress()

    @property
    def wants_figures(self) -> bool:
        return self._wants

    def begin(self, part: str, n_steps: int) -> None:
        self._block, self._n_steps = BLOCKS.index(part), n_steps
        self._messages.begin(part, n_steps)

    def end_step(self, n_done: int, figures: dict[str, float], model: Callable[[], Any]) -> bool:
        self._messages.end_step(n_done, figures, model)
        if self._callback is not None:
            losses = figures["training loss"], figures.get("validation loss")
            self._callback(self._block, n_done, self._n_steps, *losses)
        return False


def read_partitions(function: Callable[..., Any], numbers: Sequence[int], pieces: Sequence[Piece], *args: Any) -> Any:
    """``function(*args, pieces)``, whose errors name the partition: its rows are counted from 0, and X has others."""
    at = numbers[0]

    def in_turn() -> Iterator[Piece]:
        nonlocal at
        for number, piece in zip(numbers, pieces, strict=True):
            at = number
            yield piece

    try:
        return function(*args, in_turn())
    except ValueError as err:
        raise ValueError(f"In partition {at} of X: {err}") from err


def bin_rows(
    model: Any, problem: Problem, pieces: Sequence[Piece], first: Sequence[int], owner: np.ndarray | int, n_ranks: int
) -> list[BinnedRows | None]:
    """The rows of this worker as bins, those of each rank's tasks apart.

    first : rows that stand before each piece in the table
    owner : int (n_tasks,), the rank that gets a task; or one int, the rank that gets all rows
    """
    parts = [encode(model, problem, piece, start) for piece, start in zip(pieces, first, strict=True)]
    kept = [part for part in parts if part is not None]
    if not kept:
        return [None] * n_ranks
    rows = BinnedRows.joined(kept)
    rank = np.full(len(rows), owner) if isinstance(owner, int) else owner[rows.task]
    if (rank == rank[0]).all():
        return [rows if r == rank[0] else None for r in range(n_ranks)]
    return [rows.take(rank == r) if (rank == r).any() else None for r in range(n_ranks)]


def boost_on_worker(
    model: Any,
    problem: Problem,
    place: Place | None,
    rank: int,
    n_ranks: int,
    parts: Sequence[BinnedRows | None],
    owner: np.ndarray,
    seed: int,
    explicit: dict[str, Any],
    callback: Callable[..., Any] | None,
) -> dict[str, Any]:
    """One rank's share of the fit: its part of the forest and what everybody knows.

    place : where the ranks meet; None where there is only one
    parts : this rank's rows, from all workers that had some
    """
    from distributed import get_worker, secede

    n_threads_here = get_worker().state.nthreads
    rows = BinnedRows.joined([part for part in parts if part is not None])
    n_jobs = n_threads_here if model.n_jobs is None else model.n_jobs
    n_cells = len(rows) * problem.columns.n_columns

    def boost(peers: Peers) -> Fitted:
        threads = fit_region(resolve_n_threads(n_jobs, n_cells), n_cells)
        with threads as n_threads, messages_shown(model.verbose if rank == 0 else False):
            return boost_rows(
                model, problem, rows, seed=seed, n_threads=n_threads, peers=peers,
                is_own_task=owner == rank, explicit=explicit, progress=Rounds(callback, model.verbose, rank == 0),
            )  # fmt: skip

    if place is None:
        return _answer(boost(ALONE), owner == rank, True, len(rows), 0, 0)
    secede()  # another fit may need this thread while this one waits for the others
    with MeetingPeers(place, rank, n_ranks) as peers:
        fitted = boost(peers)
        return _answer(fitted, owner == rank, rank == 0, len(rows), peers.n_messages, peers.n_bytes)


def _answer(
    fitted: Fitted, is_own_task: np.ndarray, is_first: bool, n_rows: int, n_messages: int, n_bytes: int
) -> dict[str, Any]:
    forest = fitted.model.forest
    bare = replace(fitted, model=replace(fitted.model, forest=without_trees(forest)))
    return {
        "fitted": bare if is_first else None,
        "part": own_part(forest, is_own_task, has_common=is_first),
        "digest": (common_digest(forest), fitted.model.train_loss),
        "n_messages": n_messages,
        "n_bytes": n_bytes,
        "n_rows": n_rows,
    }
