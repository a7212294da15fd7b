"""Kernels that other kernels call: lowered to LLVM's language, and left to the caller to be optimised.

numba optimises every function when it is first called, together with all that it calls, and makes machine code of it,
though a function that only others call needs neither: its caller takes it in and optimises it again. Along a chain

    grow_tree  →  _search_rows  →  find_split_from_rows  →  scan_numeric  →  …

the last one is then optimised as often as the chain is long. A function that is compiled by `linked` waits for the
kernel that Python calls, which is optimised as a whole, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as ll  # type: ignore[import-untyped]
import numba
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.datamodel import default_manager
from numba.core.datamodel.models import TupleModel
from numba.core.lowering import Lower
from numba.core.targetconfig import ConfigStack
from numba.core.typed_passes import NativeLowering
from numba.core.types import NamedTuple  # type: ignore[attr-defined]
from numba.core.types.functions import BaseFunction


class _LinkedLibrary(JITCodeLibrary):
    """Code that is taken into other libraries as it has been lowered."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True  # without having been handed to the engine that makes machine code


class _KernelLibrary(JITCodeLibrary):
    """Code of a kernel that Python calls, kept on disk without what numba would need to link it into another one."""

    def serialize_using_object_code(self) -> Any:
        self._ensure_finalized()
        entries = [
            function.name for function in self.get_defined_functions() if function.linkage == ll.Linkage.external
        ]
        # A reader learns from these which symbols the object code has; nobody calls what stands here.
        code = "".join(f'define void @"{name}"() {{ ret void }}\n' for name in entries)
        return self.name, "object", (self._get_compiled_object(), ll.parse_assembly(code).as_bitcode())


class _LendingLower(Lower):
    """Lowering of a function that counts no references, see `lent`."""

    def lower_function_body(self) -> Any:
        with _uncounted(self.context.nrt, self.module):
            return super().lower_function_body()


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


def _model_of_tuple(manager: Any, tuple_type: NamedTuple) -> TupleModel:
    is_own = tuple_type.instance_class.__module__.startswith(__package__)
    return (_WholeTuple if is_own else TupleModel)(manager, tuple_type)


default_manager.register(NamedTuple, _model_of_tuple)


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToBeLinked(NativeLowering):
    """numba's lowering, into a `_LinkedLibrary`."""

    _name = "mttab_lower_to_be_linked"

    def run_pass(self, state: Any) -> bool:
        state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # Under this object callers find the function. Like every function without a wrapper it cannot be called.
        name, module = lowered.fndesc.qualname, lowered.fndesc.lookup_module()
        entry = _dynfunc.make_function(module, name, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(entry, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToBeLent(_LowerToBeLinked):
    """... of a function that counts no references."""

    _name = "mttab_lower_to_be_lent"
    lowering_class = _LendingLower


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerKernel(NativeLowering):
    """numba's lowering, into a `_KernelLibrary`."""

    _name = "mttab_lower_kernel"

    def run_pass(self, state: Any) -> bool:
        state.library = _KernelLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerLeanKernel(_LowerKernel):
    """... of a kernel that counts no references but those of its arguments."""

    _name = "mttab_lower_lean_kernel"
    lowering_class = _LendingLower


class _OwnCompiler(CompilerBase):
    """numba's steps with another one for `NativeLowering`."""

    _lowering: type[NativeLowering]

    def define_pipelines(self) -> list[PassManager]:
        pipeline = PassManager(self._lowering._name)
        for step, what in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            pipeline.add_pass(self._lowering if step is NativeLowering else step, what)
        pipeline.finalize()
        return [pipeline]


class _LinkedCompiler(_OwnCompiler):
    _lowering = _LowerToBeLinked


class _LentCompiler(_OwnCompiler):
    _lowering = _LowerToBeLent


class KernelCompiler(_OwnCompiler):
    """Compiles what Python calls and keeps on disk."""

    _lowering = _LowerKernel


class LeanKernelCompiler(_OwnCompiler):
    """The same where all is true that `lent` asks for."""

    _lowering = _LowerLeanKernel


class _Answers:
    """What the types of calls were found to be, for each set of compiler flags."""

    def __init__(self) -> None:
        self._of_flags: list[tuple[Any, dict[Any, Any]]] = []
        self._last: tuple[Any, dict[Any, Any]] = None, {}

    def here(self) -> dict[Any, Any]:
        flags = ConfigStack.top_or_none()
        if self._last[0] is not flags:
            known = next((known for other, known in self._of_flags if other == flags), None)
            if known is None:
                known = {}
                self._of_flags.append((flags, known))
            self._last = flags, known
        return self._last[1]


_answers = _Answers()


@contextmanager
def types_remembered() -> Iterator[None]:
    """Let numba find out what ``a[i]`` or ``x + y`` is once per types, not at every place where it stands.

    A kernel has hundreds of such places, numba asks several times about each, and tries all functions of that name.
    """
    ask: Any = BaseFunction.get_call_type
    if ask.__module__ == __name__:  # a kernel is compiled inside another one's compilation
        yield
        return

    def answer(self: Any, context: Any, args: Any, kws: Any) -> Any:
        if kws:
            return ask(self, context, args, kws)
        known, key = _answers.here(), (self, context, tuple(args))
        if key not in known:
            signature = ask(self, context, args, kws)
            known[key] = signature, self._impl_keys[signature.args]
        # Compiled for other flags meanwhile, the function may stand under another key.
        signature, self._impl_keys[known[key][0].args] = known[key]
        return signature

    BaseFunction.get_call_type = answer  # type: ignore[method-assign]
    try:
        yield
    finally:
        BaseFunction.get_call_type = ask  # type: ignore[method-assign]


def linked(function: Callable[..., Any], **options: Any) -> Any:
    """Compile ``function`` for other kernels alone; it must not be called from Python."""
    return numba.njit(pipeline_class=_LinkedCompiler, no_cpython_wrapper=True, **options)(function)


def lent(function: Callable[..., Any], **options: Any) -> Any:
    """The same for a ``function`` that makes no arrays, is given none by what it calls, and returns none.

    Views are allowed, also as what is returned to a caller that is lent itself. Its caller keeps the arrays that it
    works on, so that it need not count who refers to them: numba would raise and lower the count of every array in
    every tuple that is passed on, a thousand times per tree.
    """
    return numba.njit(pipeline_class=_LentCompiler, no_cpython_wrapper=True, **options)(function)
