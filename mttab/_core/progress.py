"""What a training tells while it runs: lines for the logger "mttab", and steps for whoever follows it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

logger = logging.getLogger("mttab")


class Progress:
    """Follows the parts of a training, such as blocks or members, and their steps. This one only listens.

    A part is begun, then steps of it are begun and ended, then it is ended; not every part does all of its steps.
    """

    @property
    def wants_figures(self) -> bool:
        """Whether each step is to be told as it ends, with all figures, also those that take time to compute.

        Otherwise several steps that were done in one go may be told as one.
        """
        return False

    def begin(self, part: str, n_steps: int) -> None:
        """A part of so many steps begins."""

    def begin_step(self) -> None:
        """One step of it begins."""

    def end_step(self, n_done: int, figures: dict[str, float], model: Callable[[], Any]) -> bool:
        """A step has ended, the ``n_done``-th of the part.

        Parameters
        ----------
        n_done : int
        figures : dict
            Named losses or scores.
        model : callable
            Gives the model as if training had ended here.

        Returns
        -------
        bool
            Whether to end this part.
        """
        return False

    def end(self) -> None:
        """The part has ended."""


class UntilOver(Progress):
    """Ends every part after its next step once nobody waits for the result any more."""

    def __init__(self) -> None:
        self._is_over = False

    def give_up(self) -> None:
        """Let all parts end."""
        self._is_over = True

    def end_step(self, n_done: int, figures: dict[str, float], model: Callable[[], Any]) -> bool:
        """End the part if it is over."""
        return self._is_over


class Messages(Progress):
    """A line for the logger every ten steps and at the end of a part; every step from verbose=2 on.

    Without ``verbose`` the lines are of level DEBUG, else of level INFO.
    """

    def __init__(self, verbose: int | bool, unit: str) -> None:
        self.verbose, self.unit = verbose, unit
        self.every = 1 if int(verbose) >= 2 else 10

    @property
    def wants_figures(self) -> bool:
        """Where somebody reads the lines."""
        return logger.isEnabledFor(logging.INFO if self.verbose else logging.DEBUG)

    def begin(self, part: str, n_steps: int) -> None:
        """Remember what the lines are about."""
        self.part, self.n_steps = part, n_steps

    def end_step(self, n_done: int, figures: dict[str, float], model: Callable[[], Any]) -> bool:
        """Perhaps write a line."""
        if n_done % self.every == 0 or n_done == self.n_steps:
            shown = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
            tell(self.verbose, f"{self.part} {self.unit} {n_done}/{self.n_steps}: {shown}")
        return False


class Several(Progress):
    """Passes everything on to several; one of them is enough to end a part."""

    def __init__(self, parts: Sequence[Progress]) -> None:
        self.parts = parts

    @property
    def wants_figures(self) -> bool:
        """If one of them does."""
        return any(one.wants_figures for one in self.parts)

    def begin(self, part: str, n_steps: int) -> None:
        """Pass it on."""
        for one in self.parts:
            one.begin(part, n_steps)

    def begin_step(self) -> None:
        """Pass it on."""
        for one in self.parts:
            one.begin_step()

    def end_step(self, n_done: int, figures: dict[str, float], model: Callable[[], Any]) -> bool:
        """Pass it on, to all whatever one of them wants."""
        return any([one.end_step(n_done, figures, model) for one in self.parts])

    def end(self) -> None:
        """Pass it on."""
        for one in self.parts:
            one.end()


def tell(verbose: int | bool, message: str) -> None:
    """A message for the logger: of level INFO where the user wants to see it, else DEBUG."""
    logger.log(logging.INFO if verbose else logging.DEBUG, message)


class _Shown:
    """Fits with verbose that run at the moment, perhaps several in threads of their own."""

    lock = Lock()
    n_open = 0
    handler: logging.Handler | None = None
    sets_level = False


@contextmanager
def messages_shown(verbose: int | bool) -> Iterator[None]:
    """With ``verbose``, messages are seen: through the user's logging if that is set up, else on standard error."""
    if not verbose:
        yield
        return
    with _Shown.lock:
        if _Shown.n_open == 0:
            _Shown.handler = None if logger.hasHandlers() else logging.StreamHandler(sys.stderr)
            _Shown.sets_level = logger.level == logging.NOTSET  # a level that the user has set is obeyed
            if _Shown.handler is not None:
                logger.addHandler(_Shown.handler)
            if _Shown.sets_level:
                logger.setLevel(logging.INFO)
        _Shown.n_open += 1
    try:
        yield
    finally:
        with _Shown.lock:
            _Shown.n_open -= 1
            if _Shown.n_open == 0:
                if _Shown.handler is not None:
                    logger.removeHandler(_Shown.handler)
                if _Shown.sets_level:
                    logger.setLevel(logging.NOTSET)
