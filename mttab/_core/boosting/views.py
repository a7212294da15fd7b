"""Views of arrays inside kernels that take no call to be made and count no reference where nobody counts them."""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


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
