"""What kernels do in place, where numba would compile a function of its own for each set of types, and call it."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numba.core import cgutils, types, typing
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed, lower_builtin
from numba.core.types import BaseTuple  # type: ignore[attr-defined]
from numba.extending import intrinsic, type_callable
from numba.np.arrayobj import _empty_nd_impl, make_array, populate_array


@intrinsic
def flat(typing_context, array):  # type: ignore[no-untyped-def]
    """A C-contiguous array as one line, as ``array.reshape(array.size)`` gives it.

    numba's ``reshape`` calls a function that looks for a way to do without a copy, and counts references around it: 40
    ns, where a symmetric tree of a small table asks a thousand times.
    """
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypingError(f"There is no flat view of {array}.")
    line = array.copy(ndim=1)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        whole = make_array(array)(context, builder, values[0])
        view = make_array(line)(context, builder)
        populate_array(
            view,
            data=whole.data,
            shape=[whole.nitems],
            strides=[whole.itemsize],
            itemsize=whole.itemsize,
            meminfo=whole.meminfo,
            parent=whole.parent,
        )
        return impl_ret_borrowed(context, builder, line, view._getvalue())

    return line(array), generate


def empty(shape, dtype):  # type: ignore[no-untyped-def]
    """``np.empty(shape, dtype)``; a kernel does not look whether a side is negative, which none may be.

    What numba makes of ``np.empty`` takes 40 ms to compile for each kind of shape and of dtype.
    """
    return np.empty(shape, dtype)


@type_callable(empty)
def _type_of_empty(typing_context):  # type: ignore[no-untyped-def]
    def type_of(shape: Any, dtype: Any) -> Any:
        sides = tuple(shape) if isinstance(shape, BaseTuple) else (shape,)
        if all(isinstance(side, types.Integer) for side in sides):
            return types.Array(dtype.dtype, len(sides), "C")
        return None  # numba then says that there is no such call

    return type_of


@lower_builtin(empty, types.Any, types.Any)
def _lower_empty(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    kinds, sides = (signature.args[0],), [values[0]]
    if isinstance(signature.args[0], BaseTuple):
        kinds, sides = tuple(signature.args[0]), cgutils.unpack_tuple(builder, values[0])
    sides = [context.cast(builder, side, kind, types.intp) for side, kind in zip(sides, kinds, strict=True)]
    return _empty_nd_impl(context, builder, signature.return_type, sides)._getvalue()


def larger(a, b):  # type: ignore[no-untyped-def]
    """``max(a, b)`` of two numbers, for kernels: numba makes a function of ``max`` for each pair of types, in 20 ms."""
    return max(a, b)


def smaller(a, b):  # type: ignore[no-untyped-def]
    """``min(a, b)`` of two numbers, for kernels, see `larger`."""
    return min(a, b)


def _lower_choice(function: Any, comparison: Any) -> None:
    """Let numba know `larger` or `smaller`: the second number where the ``comparison`` of it with the first holds."""

    @type_callable(function)
    def type_choice(typing_context):  # type: ignore[no-untyped-def]
        def type_of(a: Any, b: Any) -> Any:
            are_numbers = isinstance(a, types.Number) and isinstance(b, types.Number)
            return typing_context.unify_types(a, b) if are_numbers else None

        return type_of

    @lower_builtin(function, types.Number, types.Number)
    def lower_choice(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        one = signature.return_type
        a, b = (context.cast(builder, *both, one) for both in zip(values, signature.args, strict=True))
        compare = context.get_function(comparison, typing.signature(types.boolean, one, one))
        return builder.select(compare(builder, (b, a)), b, a)


_lower_choice(larger, operator.gt)
_lower_choice(smaller, operator.lt)
