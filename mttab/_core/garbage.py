"""When not to look for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No search for garbage meanwhile: importing and compiling make up to millions of objects, next to none garbage.

    Nor right afterwards: they go straight to the old objects, among which garbage is looked for when there are enough.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # else there are objects that somebody wants to stay frozen
            gc.freeze()
            gc.unfreeze()
        gc.enable()
