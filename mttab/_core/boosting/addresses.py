"""Kernels that other kernels call by their address, so that they are compiled only where somebody needs them.

What a kernel calls is part of it otherwise, and is compiled with it whether or not it is ever called. An address is
good for the process that asked for it, and for children that it forks; it must not get into a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

# Types of arguments that some kernel's address has been asked for with. A caller that passes others would read memory
# at random, so it is not compiled. Of one that is on disk already nothing is known: it must be given the address that
# goes with the types it is called with.
_asked_for: set[tuple[types.Type, ...]] = set()


def address_of(kernel: Any, arguments: tuple[types.Type, ...], result: types.Type, is_needed: bool = True) -> int:
    """Where the machine code of a `jit.jit` kernel for these arguments begins; compiled or loaded now if need be.

    The kernel keeps its machine code for as long as it lives. One that is not needed, but might be called as far as the
    compiler knows, is not compiled, and its address is 0.
    """
    _asked_for.add(arguments)
    if not is_needed:
        return 0
    if arguments not in kernel.overloads:
        kernel.compile(arguments)
    compiled = kernel.overloads[arguments]
    if compiled.signature.return_type != result:
        raise TypeError(f"{kernel.py_func.__qualname__} returns {compiled.signature.return_type}, not {result}.")
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    if not address:
        raise RuntimeError(f"The machine code of {kernel.py_func.__qualname__} is not there.")
    return int(address)


def kinds_of(arrays: Iterable[np.ndarray]) -> tuple[tuple[str, int, int], ...]:
    """What tells the types of arrays; numba's own answer takes fifty times as long."""
    return tuple((array.dtype.char, array.ndim, array.flags.num) for array in arrays)


def call_at_address(context: Any, builder: Any, signature: Any, address: Any, values: Any) -> Any:
    """For a numba intrinsic: the code that calls the kernel at an address with the arguments of the intrinsic."""
    convention, result_type = context.call_conv, signature.return_type
    kernel_type = convention.get_function_type(result_type, signature.args)
    kernel = builder.inttoptr(address, kernel_type.as_pointer())
    status, result = convention.call_function(builder, kernel, result_type, signature.args, values)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)
    return result


def _caller(result: types.Type) -> Any:
    """What calls, from another kernel, the kernel at an address with a tuple of arguments; all of them return this."""

    @intrinsic
    def call(typing_context, address, arguments):  # type: ignore[no-untyped-def]
        """The result of the kernel at ``address``, int64, for ``arguments``, a tuple."""
        if tuple(arguments) not in _asked_for:
            raise TypingError(f"No kernel's address has been asked for with the arguments {arguments}.")

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            inside = result(*signature.args[1])
            return call_at_address(context, builder, inside, values[0], cgutils.unpack_tuple(builder, values[1]))

        return result(types.int64, arguments), generate

    return call


run_at, count_at = _caller(types.none), _caller(types.int64)
