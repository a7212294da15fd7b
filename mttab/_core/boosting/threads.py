"""The one place that decides how many threads a kernel gets.

Kernels come in a serial and a parallel form (`jit.serial_and_parallel`) and never set thread counts themselves. A fit
or predict asks here once, holds `parallel_region` while its kernels run, and passes the number on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import prange
from threadpoolctl import ThreadpoolController

from .jit import jit

# Below this many (row, feature) or (row, tree) cells work stays serial: it is then over in a fraction of a millisecond,
# and on a busy machine a parallel launch can wait longer than that for a core.
MIN_PARALLEL_CELLS = 200_000

# A step inside a fit, such as the histogram of a node, is shared out where it saves more than a launch takes: 2 µs
# where threads of OpenMP or TBB still wait on cores of their own, 80 µs for numba's own pool. A cell takes 0.5 ns,
# of which a second thread saves half.
CELLS_PER_SECOND = 4e9
MIN_STEP_CELLS = 10_000
# Where the cores are taken by other programs a launch waits for its turn, and was seen to take 40 ms: thousands of them
# make a fit forty times slower, so it then stays with one thread.
SLOWEST_LAUNCH = 1e-3
N_LAUNCHES = 3
# Pools of other libraries go on asking for work for some 10 ms after it, on the same cores. A fit waits until launches
# have been quick for so long, if such a stretch begins within a tenth of its time, which is about 200 ns per cell.
QUIET_SECONDS = 8e-3
LONGEST_WAIT = 5e-2
WAIT_PER_CELL = 2e-8

_launch_seconds = 0.0  # of the last fit that had threads
_workqueue_lock = threading.Lock()
_is_forked_child = False


def _mark_forked_child() -> None:
    # GNU OpenMP aborts the process when a child uses a pool that its parent has started.
    global _is_forked_child
    _is_forked_child = True
    _blas_limit.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked_child)


def resolve_n_threads(n_jobs: int | None, n_cells: float = float("inf")) -> int:
    """Number of threads for a job of ``n_cells`` elementary steps.

    ``None`` and −1 mean every thread numba may use (joblib's worker processes lower that number themselves), −2 all but
    one, and so on. 1 is returned in a forked child and for small jobs.
    """
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise ValueError(f"n_jobs={n_jobs!r} must be None or a non-zero integer; use 1 for a single thread.")
    available = numba.config.NUMBA_NUM_THREADS
    if _is_forked_child or n_cells < MIN_PARALLEL_CELLS:
        return 1
    if n_jobs is None:
        return int(available)
    if n_jobs < 0:
        return max(1, int(available) + 1 + int(n_jobs))
    return min(int(n_jobs), int(available))


class Team(NamedTuple):
    """Threads for the steps of a kernel.

    n_threads : int64; min_cells : int64, (row, feature) cells below which a step stays with one of them
    """

    n_threads: np.int64
    min_cells: np.int64


def _count_threads(out_counts):  # type: ignore[no-untyped-def]
    for thread in prange(len(out_counts)):
        out_counts[thread] += 1


_launch = jit(_count_threads, parallel=True)


def free_threads(n_threads: int, n_cells: float = 0.0) -> int:
    """How many threads a fit that has just entered its `parallel_region` goes on with: all, or 1 where no core is free.

    The slowest of a few launches decides; the first, which wakes the threads up, does not count. A fit of so many cells
    that waiting costs it little gives cores that are taken the time to become free.
    """
    global _launch_seconds
    if n_threads <= 1:
        return 1
    counts = np.zeros(n_threads, dtype=np.int64)
    _launch(counts)
    slowest = max((_seconds_of_launch(counts) for _ in range(N_LAUNCHES)), default=0.0)
    if slowest > SLOWEST_LAUNCH:
        slowest = _seconds_when_quiet(counts, min(LONGEST_WAIT, WAIT_PER_CELL * n_cells))
        if slowest > SLOWEST_LAUNCH:
            return 1
    _launch_seconds = slowest
    return n_threads


def _seconds_of_launch(counts: np.ndarray) -> float:
    start = time.perf_counter()
    _launch(counts)
    return time.perf_counter() - start


def _seconds_when_quiet(counts: np.ndarray, patience: float) -> float:
    """The mean launch of the first quiet stretch; infinite where none begins within ``patience`` seconds."""
    begin = quiet_since = time.perf_counter()
    n_quiet = 0
    while quiet_since - begin < patience:
        is_quick, now = _seconds_of_launch(counts) <= SLOWEST_LAUNCH, time.perf_counter()
        if not is_quick:
            quiet_since, n_quiet = now, 0
            continue
        n_quiet += 1
        if now - quiet_since >= QUIET_SECONDS:
            return (now - quiet_since) / n_quiet
    return float("inf")


@contextmanager
def threads_even_if_busy() -> Iterator[None]:
    """Fits that begin inside have all their threads, as where what needs several is to be compiled."""
    global SLOWEST_LAUNCH, N_LAUNCHES
    before = SLOWEST_LAUNCH, N_LAUNCHES
    SLOWEST_LAUNCH, N_LAUNCHES = float("inf"), 0  # a launch that is not measured costs nothing
    try:
        yield
    finally:
        SLOWEST_LAUNCH, N_LAUNCHES = before


def team_of(n_threads: int) -> Team | None:
    """The team of so many threads, by what a launch cost when `free_threads` was asked last; None of one."""
    if n_threads <= 1:
        return None
    return Team(np.int64(n_threads), np.int64(max(MIN_STEP_CELLS, CELLS_PER_SECOND * _launch_seconds)))


@contextmanager
def fit_region(n_threads: int, n_cells: float) -> Iterator[int]:
    """A `parallel_region` for a fit of so many cells; gives how many of the threads there are free cores for."""
    with parallel_region(n_threads), _one_blas_thread():
        yield free_threads(n_threads, n_cells)


@contextmanager
def parallel_region(n_threads: int) -> Iterator[None]:
    """Give the parallel kernels that run inside ``n_threads`` threads, and keep them apart where numba demands it."""
    if n_threads <= 1:
        yield
        return
    lock = None if _layer_is_threadsafe() else _workqueue_lock
    if lock is not None:
        lock.acquire()
    try:
        before = numba.get_num_threads()
        numba.set_num_threads(n_threads)
        try:
            yield
        finally:
            numba.set_num_threads(before)
    finally:
        if lock is not None:
            lock.release()


class _BlasLimit:
    """One thread for BLAS as long as anybody is inside, see `_one_blas_thread`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._blas: Any = None
        self._limit: Any = None

    def enter(self) -> None:
        with self._lock:
            if self._blas is None:
                self._blas = ThreadpoolController().select(user_api="blas")
            if self._limit is None:
                self._limit = self._blas.limit(limits=1)
            self._n_inside += 1

    def leave(self) -> None:
        with self._lock:
            self._n_inside = max(self._n_inside - 1, 0)
            if self._n_inside == 0 and self._limit is not None:
                self._limit.restore_original_limits()
                self._limit = None

    def forget(self) -> None:
        """In a forked child: who was inside, and perhaps held the lock, is not there.

        The limit, if there is one, lasts until somebody leaves: BLAS is not called while the child is being made.
        """
        self._lock = threading.Lock()
        self._n_inside = 0


_blas_limit = _BlasLimit()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """No threads of BLAS meanwhile.

    After a product of two columns OpenBLAS's threads ask for more work for 0.1 s, on the cores that ours are to have; a
    product waits for them where other programs have the cores. What a fit leaves to BLAS is small.
    """
    _blas_limit.enter()
    try:
        yield
    finally:
        _blas_limit.leave()


def map_in_threads(
    function: Callable[[Any], Any], items: Iterable[Any], n_threads: int, give_up: Callable[[], None] | None = None
) -> list[Any]:
    """Results of ``function``, in order: for work in numpy or in serial kernels, which let other threads run meanwhile.

    ``give_up`` is called when nobody waits for results any more, as after Ctrl-C or when one has failed: what has begun
    is to come to an end.
    """
    if n_threads <= 1:
        return [function(item) for item in items]
    with _one_blas_thread(), ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            ended = wait(futures, return_when=FIRST_EXCEPTION).done
            for future in futures:
                if future in ended:
                    future.result()  # raises if it has failed
            return [future.result() for future in futures]
        except BaseException:
            if give_up is not None:
                give_up()
            for future in futures:
                future.cancel()
            raise


def _layer_is_threadsafe() -> bool:
    # numba's own "workqueue" pool ends the process when two Python threads enter it at once; omp and tbb do not. Which
    # one it is shows only after the first launch, so the first caller holds the lock in any case.
    try:
        return numba.threading_layer() in ("omp", "tbb")
    except ValueError:
        return False
