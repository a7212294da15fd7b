"""What runs on the workers of a Dask cluster during a fit, and where they meet to add up their sums."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mttab._boosting_pieces import BinnedRows, Problem, boost_rows, encode
from mttab._core.boosting.distributed import common_digest, own_part, without_trees
from mttab._core.boosting.forest import BLOCKS
from mttab._core.boosting.rows import Peers
from mttab._core.boosting.threads import free_threads, parallel_region, resolve_n_threads
from mttab._core.progress import Messages, Progress, messages_shown
from mttab._core.sources import Piece

# A process that waits longer than this for the others gives up: nobody is left who could tell it that the fit is over.
PATIENCE_SECONDS = 3600.0


class Meeting:
    """Where the processes of a fit add up arrays; an actor on one of the workers.

    Every process sends its n-th array and gets the sum of all n-th arrays, added in the order of their ranks, so that
    all of them hold the same bytes.
    """

    def __init__(self, n_ranks: int):
        self.n_ranks = n_ranks
        self.joined: set[int] = set()
        self.why_ended: str | None = None
        self.open: dict[int, tuple[dict[int, np.ndarray], asyncio.Future]] = {}

    async def join(self, rank: int) -> None:
        """Called once by every process: a second time means that its worker was started anew in between."""
        if rank in self.joined:
            await self.end(f"part {rank} of the fit was started twice, because its worker was lost and came back")
        self._raise_if_ended()
        self.joined.add(rank)

    async def sum(self, rank: int, step: int, values: np.ndarray) -> np.ndarray:
        self._raise_if_ended()
        parts, total = self.open.setdefault(step, ({}, asyncio.get_running_loop().create_future()))
        parts[rank] = values
        if len({part.shape for part in parts.values()}) > 1:
            await self.end("the workers have come to different trees; are they machines of one kind?")
        elif len(parts) == self.n_ranks:
            del self.open[step]
            added = np.array(parts[0])
            for r in range(1, self.n_ranks):
                added += parts[r]
            total.set_result(added)
        return await asyncio.shield(total)

    async def end(self, why: str) -> None:
        """Send everybody home."""
        self.why_ended = self.why_ended or why
        for _, total in self.open.values():
            if not total.done():
                total.set_exception(RuntimeError(self.why_ended))
                total.exception()  # looked at, in case that nobody waits
        self.open.clear()

    def _raise_if_ended(self) -> None:
        if self.why_ended is not None:
            raise RuntimeError(self.why_ended)


class MeetingPeers(Peers):
    """`Peers` that meet at an actor; counts what it sends."""

    def __init__(self, meeting: Any, rank: int, n_ranks: int):
        self.meeting, self.rank, self.n_ranks = meeting, rank, n_ranks
        self.n_messages = self.n_bytes = 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        if self.n_ranks == 1:
            return values
        self.n_messages += 1
        self.n_bytes += values.nbytes
        values = np.ascontiguousarray(values, dtype=np.float64)
        # A copy, because an array that came over the network is not for writing.
        return np.array(self.meeting.sum(self.rank, self.n_messages, values).result(timeout=PATIENCE_SECONDS))


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
    meeting: Any,
    rank: int,
    n_ranks: int,
    parts: Sequence[BinnedRows | None],
    owner: np.ndarray,
    seed: int,
    explicit: dict[str, Any],
    callback: Callable[..., Any] | None,
) -> dict[str, Any]:
    """One rank's share of the fit: its part of the forest and what everybody knows."""
    from distributed import get_worker, secede

    n_threads_here = get_worker().state.nthreads
    if n_ranks > 1:
        secede()  # another fit may need this thread while this one waits for the others
        meeting.join(rank).result(timeout=PATIENCE_SECONDS)
    peers = MeetingPeers(meeting, rank, n_ranks)
    rows = BinnedRows.joined([part for part in parts if part is not None])
    n_jobs = n_threads_here if model.n_jobs is None else model.n_jobs
    n_threads = resolve_n_threads(n_jobs, len(rows) * problem.columns.n_columns)
    with parallel_region(n_threads), messages_shown(model.verbose if rank == 0 else False):
        fitted = boost_rows(
            model, problem, rows, seed=seed, n_threads=free_threads(n_threads), peers=peers, is_own_task=owner == rank,
            explicit=explicit, progress=Rounds(callback, model.verbose, rank == 0),
        )  # fmt: skip
    forest = fitted.model.forest
    bare = replace(fitted, model=replace(fitted.model, forest=without_trees(forest)))
    return {
        "fitted": bare if rank == 0 else None,
        "part": own_part(forest, owner == rank, has_common=rank == 0),
        "digest": (common_digest(forest), fitted.model.train_loss),
        "n_messages": peers.n_messages,
        "n_bytes": peers.n_bytes,
        "n_rows": len(rows),
    }
