"""How Python calls a kernel: its arguments are taken out of their objects.

    (Table(array, array, …), array, 3)  →  {{data, shape, …}, {data, shape, …}, …}, {data, shape, …}, 3  →  kernel

Arrays are borrowed: whoever calls holds them for as long as the kernel runs. numba would have each of them counted, by
an object that is made and thrown away in every call, and would branch at each for its own way out. Of a kernel with a
hundred arrays that takes as long to compile as the kernel itself.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.callwrapper import PyCallWrapper
from numba.core.types import BaseTuple, NoneType  # type: ignore[attr-defined]


class _Entry(PyCallWrapper):
    """The function that Python calls."""

    _failed: list[Any]  # for each argument, and each array in it, whether it is not what it should be

    def build_wrapper(self, api: Any, builder: Any, closure: Any, args: Any, kws: Any) -> None:
        """Write its body: like numba's, with one way out where an argument is not what it should be."""
        kinds = self.fndesc.argtypes
        objects = [api.alloca_obj() for _ in kinds]
        is_unpacked = api.unpack_tuple(args, self.fndesc.qualname, len(kinds), len(kinds), *objects)
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", is_unpacked, is_unpacked.type(0))):
            builder.ret(api.get_null_object())
        self._failed = []
        values = [self._value(api, kind, builder.load(one)) for kind, one in zip(kinds, objects, strict=True)]
        failed = cgutils.false_bit
        for flag in self._failed:
            failed = builder.or_(failed, flag)
        with cgutils.if_unlikely(builder, failed):
            with cgutils.if_unlikely(builder, cgutils.is_null(builder, api.err_occurred())):
                api.err_set_string("PyExc_TypeError", "An argument is not of the type that this was compiled for.")
            builder.ret(api.get_null_object())
        state = api.save_thread() if self.release_gil else None
        signature = self.fndesc.restype, kinds
        status, result = self.context.call_conv.call_function(
            builder, self.func, *signature, values, attrs=("noinline",)
        )
        if state is not None:
            api.restore_thread(state)
        with builder.if_then(status.is_ok, likely=True):
            with builder.if_then(status.is_none):
                api.return_none()
            builder.ret(api.from_native_return(self._simplified_return_type(), result, None))
        self.context.call_conv.raise_error(builder, api, status)
        builder.ret(api.get_null_object())

    def _value(self, api: Any, kind: Any, python: Any) -> Any:
        """What the kernel is given for the object ``python``."""
        room = cgutils.alloca_once(api.builder, self.context.get_value_type(kind))
        self._write(api, kind, python, room)
        return api.builder.load(room)

    def _write(self, api: Any, kind: Any, python: Any, room: Any) -> None:
        if isinstance(kind, BaseTuple):
            for i, inside in enumerate(kind):
                self._write(api, inside, api.tuple_getitem(python, i), cgutils.gep_inbounds(api.builder, room, 0, i))
        elif isinstance(kind, types.Array):
            adapt_type = ir.FunctionType(ir.IntType(32), [api.pyobj, api.voidptr])
            adapt = cgutils.get_or_insert_function(api.module, adapt_type, "numba_adapt_ndarray")
            code = api.builder.call(adapt, [python, api.builder.bitcast(room, api.voidptr)])
            self._failed.append(cgutils.is_not_null(api.builder, code))
        else:
            native = api.to_native_value(kind, python)
            api.builder.store(native.value, room)
            self._failed.append(native.is_error)


def _is_plain(kind: Any) -> bool:
    return isinstance(kind, types.Number | types.Boolean | NoneType)


def _is_borrowed(kind: Any) -> bool:
    if isinstance(kind, BaseTuple):
        return all(map(_is_borrowed, kind))
    return _is_plain(kind) or isinstance(kind, types.Array)


def add_entry(lower: Any, release_gil: bool) -> bool:
    """Write the entry of a function that has been lowered; False where numba's own is needed.

    A kernel that returns arrays may return one that it was given, or a part of it. Texts, lists and others have to be
    given back, or to be written back.
    """
    context, described = lower.context, lower.fndesc
    results = described.restype if isinstance(described.restype, BaseTuple) else (described.restype,)
    if not (all(map(_is_borrowed, described.argtypes)) and all(map(_is_plain, results))):
        return False
    module = context.create_module("entry")
    kernel_type = context.call_conv.get_function_type(described.restype, described.argtypes)
    kernel = ir.Function(module, kernel_type, described.llvm_func_name)
    _Entry(context, module, kernel, described, lower.env, lower.call_helper, release_gil).build()
    lower.library.add_ir_module(module)
    return True
