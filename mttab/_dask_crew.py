"""The workers of one fit on a Dask cluster: what has been asked of them, and that one of them is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import Any

from mttab._dask_meeting import LeftAlone, Place, end_meeting

# Seconds between two looks at whether all workers are still there, and until the scheduler has noticed that one is not.
LOOK_EVERY, GRACE = 0.5, 5.0


class Crew:
    """Submits to workers by name and waits for them; after `released` nothing of the fit is left there.

    Attributes
    ----------
    workers : list of str
        Addresses of those that hold rows; a fit that loses one of them ends.
    meeting : tuple of (str, Place) or None
        Worker and place where they add up, while they do.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.workers: list[str] = []
        self.meeting: tuple[str, Place] | None = None
        self._futures: list[Any] = []

    def submit(self, function: Callable[..., Any], worker: str, *args: Any) -> Any:
        """Future of a function on one worker and no other."""
        future = self.client.submit(function, *args, workers=[worker], allow_other_workers=False, pure=False, retries=0)
        return self.keep([future])[0]

    def keep(self, futures: Sequence[Any]) -> Sequence[Any]:
        """Cancel these, too, should the fit be given up."""
        self._futures += futures
        return futures

    def on_each(self, function: Callable[..., Any], arguments: dict[str, list[Any]]) -> list[Any]:
        """Results of a function on every worker, each with its arguments."""
        return self.results([self.submit(function, w, *args) for w, args in arguments.items()])

    def results(self, futures: Sequence[Any]) -> list[Any]:
        """What they have found, brought here. Raises as `wait` does."""
        self.wait(futures)
        answer: Future[list[Any]] = Future()

        def bring() -> None:
            try:
                answer.set_result(list(self.client.gather(futures)))
            except BaseException as err:
                answer.set_exception(err)

        # Dask would wait for ever for a worker that has ended with its results: no other may compute them again.
        threading.Thread(target=bring, daemon=True).start()
        while not answer.done():
            self.check_workers()
            wait_for([answer], timeout=LOOK_EVERY)
        return answer.result()

    def wait(self, futures: Sequence[Any]) -> None:
        """Until all are done. Raises what one of them has raised, or that a worker is gone."""
        from distributed import wait

        while True:
            if any(future.status in ("error", "lost", "cancelled") for future in futures):
                raise self._cause(futures)
            self.check_workers()
            try:
                wait(futures, timeout=LOOK_EVERY)
            except TimeoutError:
                continue
            except Exception:
                self.check_workers()
                raise
            if all(future.status == "finished" for future in futures):
                return

    def _cause(self, futures: Sequence[Any]) -> BaseException:
        """The error behind failed futures: most workers only know that another one has left them."""
        until = time.monotonic() + GRACE
        while True:
            errors = [future.exception() for future in futures if future.status == "error"]
            for error in errors:
                if not isinstance(error, (LeftAlone, OSError)) and not type(error).__module__.startswith("distributed"):
                    return error
            self.check_workers()
            if time.monotonic() > until:
                break
            time.sleep(LOOK_EVERY / 5)
        if not errors:
            return RuntimeError("The cluster has dropped a part of the fit; call fit again.")
        if isinstance(errors[0], LeftAlone):
            return RuntimeError(f"The fit has ended before its time: {errors[0]}; no model was made. Call fit again.")
        return errors[0]

    def check_workers(self) -> None:
        """Raise if a worker that holds rows is no longer there."""
        here = self.client.nthreads()
        gone = [worker for worker in self.workers if worker not in here]
        if gone:
            raise RuntimeError(
                f"The worker {gone[0]} was lost while the fit ran, and with it the rows that it held; no model was "
                "made. See that worker's log for the cause (often memory), and call fit again."
            )

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let go of everything on the workers at the end, and let none of them wait for the others any more."""
        try:
            yield
        except BaseException:
            self._end_meeting("the fit was given up")
            self.client.cancel(self._futures, force=True)
            raise
        finally:
            self._futures.clear()
            self.meeting = None

    def _end_meeting(self, why: str) -> None:
        if self.meeting is None:
            return
        worker, place = self.meeting
        try:  # as no task: all threads of the worker may be waiting
            self.client.run(end_meeting, place.secret, why, workers=[worker], wait=False)
        except Exception:  # it is the worker that is gone, and its connections with it
            pass
