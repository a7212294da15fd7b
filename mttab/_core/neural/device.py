"""Where and in which precision a network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any

import torch

from mttab._core.neural.ranks import local_device, n_ranks


def resolve_device(device: str) -> torch.device:
    """The device that an option names; "auto" takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        If it names none, or one that this machine lacks.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return local_device(torch.device("cuda"))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as err:
        raise ValueError(f"device={device!r} is no device of torch; pass 'auto', 'cpu', 'cuda' or 'mps'.") from err
    n_here = n_devices(found.type)
    if n_here <= (found.index or 0):
        number = "no" if n_here == 0 else f"only {n_here}"
        raise ValueError(
            f"device={device!r} was asked for, but torch {torch.__version__} sees {number} {found.type.upper()} device "
            "here; pass device='auto' or 'cpu' (to a model that was loaded: set_params(device='auto'))."
        )
    return local_device(found)


def n_devices(kind: str) -> int:
    """Number of devices of a kind that torch can compute on here."""
    if kind == "cpu":
        return 1
    here = torch.accelerator.current_accelerator(check_available=True)
    return torch.accelerator.device_count() if here is not None and here.type == kind else 0


def is_available(device: str) -> bool:
    """Whether this machine has the device."""
    try:
        resolve_device(device)
    except ValueError:
        return False
    return True


def resolve_precision(precision: str, device: torch.device) -> tuple[torch.dtype, bool]:
    """Type of the numbers, and whether products are computed in bfloat16."""
    if precision == "float64" and device.type == "mps":
        raise ValueError("precision='float64' is not to be had on an MPS device; pass 'auto' or device='cpu'.")
    can = device.type == "cuda" and torch.cuda.is_bf16_supported()
    use_bf16 = precision == "bfloat16" or (precision == "auto" and can)
    return (torch.float64 if precision == "float64" else torch.float32), use_bf16


def run_side_by_side(
    jobs: list[Callable[[Callable[[], bool]], Any]], device: torch.device, n_jobs: int | None
) -> list[Any]:
    """Results of some trainings, on the CPU several at a time, each with its share of the threads.

    Steps of small batches are too short to be worth sharing between threads; whole networks are not.

    Parameters
    ----------
    jobs : list of callable
        Each takes a function that says whether it should stop, and stops soon after that is so.
    device : torch.device
    n_jobs : int or None
        Threads in all; None or −1: torch's number of them.

    Returns
    -------
    list
        A result per job. After KeyboardInterrupt those of the jobs that had begun.
    """
    n_threads = torch.get_num_threads() if n_jobs is None or n_jobs < 0 else n_jobs
    n_workers = min(len(jobs), n_threads) if device.type == "cpu" else 1
    if n_ranks() > 1:  # processes that train together do the same things in the same order
        n_workers = 1
    stop, results = Event(), {}

    def run(i: int) -> None:
        if not stop.is_set():
            results[i] = jobs[i](stop.is_set)

    # Also a single job runs beside this thread, to which the interrupt comes: no step is ever cut in two.
    with limit_threads(max(1, n_threads // n_workers)), ThreadPoolExecutor(n_workers) as pool:
        futures = [pool.submit(run, i) for i in range(len(jobs))]
        try:
            for future in as_completed(futures):  # the first error, whichever job it comes from
                future.result()
        except BaseException as err:
            stop.set()
            if not isinstance(err, KeyboardInterrupt):
                raise
            for future in futures:
                future.result()
            if not results:
                raise
    return [results[i] for i in sorted(results)]


class _Limits:
    """Fits that limit torch's threads at the moment, perhaps several in threads of their own."""

    lock = Lock()
    n_open = 0
    before = 0


@contextmanager
def limit_threads(n_threads: int) -> Iterator[None]:
    """Torch with so many threads, and as many as before when the last such block is left."""
    with _Limits.lock:
        if _Limits.n_open == 0:
            _Limits.before = torch.get_num_threads()
        _Limits.n_open += 1
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        with _Limits.lock:
            _Limits.n_open -= 1
            if _Limits.n_open == 0:
                torch.set_num_threads(_Limits.before)


_GLOBALS = Lock()  # one fit at a time has torch's generators and default type; others may run in threads beside it


@contextmanager
def seeded(seed: int, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Torch's global generators at `seed` and its numbers of type `dtype`, and afterwards as they were."""
    with _GLOBALS, torch.random.fork_rng([device] if device.type == "cuda" else []):
        before = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(before if dtype is None else dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
