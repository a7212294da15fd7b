"""When not to look for garbage."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_is_kept = False


def _look_again() -> None:
    """In a forked child: the thread that keeps the garbage may not be there to end that."""
    if _is_kept:
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_again)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No search for garbage meanwhile: importing and compiling make up to millions of objects, next to none garbage.

    Nor right afterwards: they go straight to the old objects, among which garbage is looked for when there are enough.
    Where another thread turns the search off meanwhile, it is on again in the end.
    """
    global _is_kept
    if not gc.isenabled():
        yield
        return
    _is_kept = True
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # else there are objects that somebody wants to stay frozen
            gc.freeze()
            gc.unfreeze()
        gc.enable()
        _is_kept = False  # last: a child that is forked before it looks again, see `_look_again`
