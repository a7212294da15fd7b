"""From numba's typed statements to LLVM's language, for kernels: shorter than what numba writes, and with less to undo.

What LLVM is given to read and to simplify is what takes most of the time to compile. Of ``a[i, j]`` numba writes

    the array to memory, twice its shape and strides from memory, two products, a sum, the place, the item

for which the array's shape, its data, a product, a sum, the place and the item are enough. Where nobody counts who
refers to an array (see `linking.lent`), it does not matter where a variable ends, either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.datamodel import default_manager
from numba.core.datamodel.models import TupleModel
from numba.core.ir import Assign, Del
from numba.core.lowering import Lower
from numba.core.types import BaseTuple, NamedTuple  # type: ignore[attr-defined]
from numba.np.arrayobj import load_item, store_item

from .entries import add_entry

# Where the parts of an array stand in its structure, see `numba.core.datamodel.models.ArrayModel`.
_MEMORY, _OWNER, _N_ITEMS, _ITEM_SIZE, _DATA, _SHAPE, _STRIDES = range(7)


class KernelLower(Lower):
    """Lowering of kernels and of what they call."""

    _counts = True  # who refers to an array

    def create_cpython_wrapper(self, release_gil: bool = False) -> None:
        """The entry for Python."""
        if not add_entry(self, release_gil):
            super().create_cpython_wrapper(release_gil)

    def lower_getitem(self, resty: Any, expr: Any, value: Any, index: Any, signature: Any) -> Any:
        """``value[index]``."""
        array, kinds, result = self.typeof(value.name), self._index_types(index), signature.return_type
        is_part = isinstance(result, types.Array)
        if not _is_direct(self.context, array, kinds) or (is_part and self._counts):
            return super().lower_getitem(resty, expr, value, index, signature)
        whole = self.loadvar(value.name)
        place = self._place(array, whole, kinds, self._indexes(index))
        if is_part:
            item = self._part(array, result, whole, place)
        else:
            item = load_item(self.context, self.builder, array, place)
        return self.context.cast(self.builder, item, result, resty)

    def lower_setitem(self, target_var: Any, index_var: Any, value_var: Any, signature: Any) -> Any:
        """``target[index] = value``."""
        array, kinds = self.typeof(target_var.name), self._index_types(index_var)
        value_type = self.typeof(value_var.name)
        is_number = isinstance(value_type, types.Number | types.Boolean)
        if not _is_direct(self.context, array, kinds) or len(kinds) < array.ndim or not is_number:
            return super().lower_setitem(target_var, index_var, value_var, signature)
        place = self._place(array, self.loadvar(target_var.name), kinds, self._indexes(index_var))
        value = self.context.cast(self.builder, self.loadvar(value_var.name), value_type, array.dtype)
        return store_item(self.context, self.builder, array, value, place)

    def _index_types(self, index: Any) -> tuple[Any, ...]:
        kind = self.typeof(index.name)
        return tuple(kind) if isinstance(kind, BaseTuple) else (kind,)

    def _indexes(self, index: Any) -> list[Any]:
        value = self.loadvar(index.name)
        is_tuple = isinstance(self.typeof(index.name), BaseTuple)
        return cgutils.unpack_tuple(self.builder, value) if is_tuple else [value]

    def _place(self, array: Any, whole: Any, kinds: tuple[Any, ...], indexes: list[Any]) -> Any:
        """Pointer to the first item of ``array[indexes]``, where a negative index counts from the end."""
        builder, steps = self.builder, []
        for axis, (kind, index) in enumerate(zip(kinds, indexes, strict=True)):
            step = self.context.cast(builder, index, kind, types.intp if kind.signed else types.uintp)
            if kind.signed and not (isinstance(step, ir.Constant) and step.constant >= 0):
                from_end = builder.add(step, builder.extract_value(whole, (_SHAPE, axis)))
                step = builder.select(builder.icmp_signed("<", step, step.type(0)), from_end, step)
            steps.append(step)
        data = builder.extract_value(whole, _DATA)
        if array.layout != "C":
            offsets = [builder.mul(s, builder.extract_value(whole, (_STRIDES, axis))) for axis, s in enumerate(steps)]
            offset = offsets[0]
            for other in offsets[1:]:
                offset = builder.add(offset, other)
            return cgutils.pointer_add(builder, data, offset)
        place = steps[0]
        for axis in range(1, array.ndim):
            place = builder.mul(place, builder.extract_value(whole, (_SHAPE, axis)))
            place = builder.add(place, steps[axis]) if axis < len(steps) else place
        return builder.gep(data, [place])

    def _part(self, array: Any, part: Any, whole: Any, place: Any) -> Any:
        """The view on the last axes that begins at ``place``."""
        builder, skipped = self.builder, array.ndim - part.ndim
        sides = [builder.extract_value(whole, (_SHAPE, skipped + axis)) for axis in range(part.ndim)]
        n_items = sides[0]
        for side in sides[1:]:
            n_items = builder.mul(n_items, side)
        view = ir.Constant(self.context.get_value_type(part), ir.Undefined)
        for same in (_MEMORY, _OWNER, _ITEM_SIZE):
            view = builder.insert_value(view, builder.extract_value(whole, same), same)
        view = builder.insert_value(view, n_items, _N_ITEMS)
        view = builder.insert_value(view, place, _DATA)
        for axis, side in enumerate(sides):
            view = builder.insert_value(view, side, (_SHAPE, axis))
            stride = builder.extract_value(whole, (_STRIDES, skipped + axis))
            view = builder.insert_value(view, stride, (_STRIDES, axis))
        return view


def _is_direct(context: Any, array: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether an array and the types of its indexes are such that `_place` can tell the place."""
    if not isinstance(array, types.Array) or context.enable_boundscheck or array.layout == "F":
        return False
    is_plain = isinstance(array.dtype, types.Number | types.Boolean)
    return is_plain and 0 < len(kinds) <= array.ndim and all(isinstance(kind, types.Integer) for kind in kinds)


class LendingLower(KernelLower):
    """... that count no references, see `linking.lent`."""

    _counts = False
    _once: set[str]  # variables that are their values, and what they are
    _values: dict[str, Any]

    def lower_function_body(self) -> Any:
        """All statements."""
        self._once, self._values = _assigned_once(self.func_ir), {}
        with _uncounted(self.context.nrt, self.module):
            return super().lower_function_body()

    # Where a variable ends, and what it held before, is of interest to those alone who count. One that is assigned once
    # is its value; numba has memory for it that is filled and read, whole tuples of arrays at a time.

    def pre_block(self, block: Any) -> None:
        """Make ready for the statements of a block."""
        super().pre_block(block)
        block.body = [step for step in block.body if not isinstance(step, Del)]

    def _alloca_var(self, name: str, fetype: Any) -> None:
        if name not in self._once:
            super()._alloca_var(name, fetype)

    def storevar(self, value: Any, name: str, argidx: int | None = None) -> None:
        """``name = value``."""
        if name in self._once:
            self._values[name] = value
        else:
            self.builder.store(value, self.getvar(name))

    def loadvar(self, name: str) -> Any:
        """The value of a variable."""
        return self._values[name] if name in self._once else self.builder.load(self.getvar(name))


def _assigned_once(function: Any) -> set[str]:
    """Variables of a numba IR that are assigned in one place, through which every way to a use of them leads."""
    places: dict[str, list[int]] = {}
    for offset, block in function.blocks.items():
        for step in block.find_insts(Assign):
            places.setdefault(step.target.name, []).append(offset)
    once = {name for name, offsets in places.items() if len(offsets) == 1}
    lifetime = function.variable_lifetime
    leading = lifetime.cfg.dominators()
    for offset, used in lifetime.usedefs.usemap.items():  # ... and not assigned in this block before
        once -= {name for name in once & used if places[name][0] == offset or places[name][0] not in leading[offset]}
    return once


@contextmanager
def _uncounted(nrt: Any, module: Any) -> Iterator[None]:
    """No instruction in the `module` that counts a reference, nor any that finds what to count, from `nrt`."""
    count = nrt._call_incref_decref

    def count_elsewhere(builder: Any, *args: Any) -> None:
        if builder.module is not module:  # lowering may ask for another function to be compiled
            count(builder, *args)

    nrt._call_incref_decref = count_elsewhere
    try:
        yield
    finally:
        nrt._call_incref_decref = count


class _WholeTuple(TupleModel):
    """A named tuple that functions hand on as it is: numba takes every array in it apart and together again."""

    def get_argument_type(self) -> Any:
        return self.get_value_type()

    def as_argument(self, builder: Any, value: Any) -> Any:
        return value

    def from_argument(self, builder: Any, value: Any) -> Any:
        return value


def _model_of_tuple(manager: Any, tuple_type: Any) -> TupleModel:
    is_own = tuple_type.instance_class.__module__.startswith(__package__)
    return (_WholeTuple if is_own else TupleModel)(manager, tuple_type)


default_manager.register(NamedTuple, _model_of_tuple)
