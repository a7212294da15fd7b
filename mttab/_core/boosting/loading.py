"""Machine code that is loaded from disk without all that numba needs to compile any."""

from __future__ import annotations

from typing import Any

from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

# Of numba's inside; a numba without them is found out here, and not in a fit, see `jit`.
_NEEDED = FunctionCache._load_overload, FunctionCache._guard_against_spurious_io_errors


class KernelCache(FunctionCache):
    """Where a kernel's machine code is kept.

    Before numba looks for it, it gets ready to compile: it imports what every function of Python and numpy is compiled
    to, some 60 modules, in 0.06 s, and the process takes 0.1 s longer to end, with 37,000 more objects to take apart.
    Machine code needs little of that, which it imports itself, and numba's memory of arrays; whoever does compile gets
    ready for it then.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What has been compiled for these types, None where nothing has been."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
