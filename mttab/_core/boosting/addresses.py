"""Kernels that other kernels call by their address, so that they are compiled only where somebody needs them.

What a kernel calls is part of it otherwise, and is compiled with it whether or not it is ever called. An address is
good for the process that asked for it, and for children that it forks; it must not get into a file.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types


def address_of(kernel: Any, arguments: tuple[types.Type, ...], result: types.Type) -> int:
    """Where the machine code of a `jit.jit` kernel for these arguments begins; compiled or loaded now if need be.

    The kernel keeps its machine code for as long as it lives.
    """
    if arguments not in kernel.overloads:
        kernel.compile(arguments)
    compiled = kernel.overloads[arguments]
    if compiled.signature.return_type != result:
        raise TypeError(f"{kernel.py_func.__qualname__} returns {compiled.signature.return_type}, not {result}.")
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    if not address:
        raise RuntimeError(f"The machine code of {kernel.py_func.__qualname__} is not there.")
    return int(address)


def call_at_address(context: Any, builder: Any, signature: Any, address: Any, values: Any) -> Any:
    """For a numba intrinsic: the code that calls the kernel at an address with the arguments of the intrinsic."""
    convention, result_type = context.call_conv, signature.return_type
    kernel_type = convention.get_function_type(result_type, signature.args)
    kernel = builder.inttoptr(address, kernel_type.as_pointer())
    status, result = convention.call_function(builder, kernel, result_type, signature.args, values)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)
    return result
