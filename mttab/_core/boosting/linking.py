"""Kernels that other kernels call: lowered to LLVM's language, and left to the caller to be optimised.

numba optimises every function when it is first called, together with all that it calls, and makes machine code of it,
though a function that only others call needs neither: its caller takes it in and optimises it again. Along a chain

    grow_tree  →  _search_rows  →  find_split_from_rows  →  scan_numeric  →  …

the last one is then optimised as often as the chain is long. A function that is compiled by `linked` waits for the
kernel that Python calls, which is optimised as a whole, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite.ir import CallInstr  # type: ignore[import-untyped]
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import NativeLowering


class _LinkedLibrary(JITCodeLibrary):
    """Code that is taken into other libraries as it has been lowered."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True  # without having been handed to the engine that makes machine code


class _LentLibrary(_LinkedLibrary):
    """The same, of a function that counts no references, see `lent`."""

    def add_ir_module(self, ir_module: Any) -> None:
        for function in ir_module.functions:
            for block in function.blocks:
                block.instructions[:] = [step for step in block.instructions if not _counts_reference(step)]
        super().add_ir_module(ir_module)


def _counts_reference(step: Any) -> bool:
    return isinstance(step, CallInstr) and step.callee.name in ("NRT_incref", "NRT_decref")


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToBeLinked(NativeLowering):
    """numba's lowering, into a `_LinkedLibrary`."""

    _name = "mttab_lower_to_be_linked"
    _library: type[JITCodeLibrary] = _LinkedLibrary

    def run_pass(self, state: Any) -> bool:
        state.library = self._library(state.targetctx.codegen(), state.func_id.func_qualname)
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
    """... and into a `_LentLibrary`."""

    _name = "mttab_lower_to_be_lent"
    _library = _LentLibrary


class _LinkedCompiler(CompilerBase):
    _lowering: type[NativeLowering] = _LowerToBeLinked

    def define_pipelines(self) -> list[PassManager]:
        pipeline = PassManager("linked")
        for step, what in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            pipeline.add_pass(self._lowering if step is NativeLowering else step, what)
        pipeline.finalize()
        return [pipeline]


class _LendingCompiler(_LinkedCompiler):
    _lowering = _LowerToBeLent


def linked(function: Callable[..., Any], **options: Any) -> Any:
    """Compile ``function`` for other kernels alone; it must not be called from Python."""
    return numba.njit(pipeline_class=_LinkedCompiler, no_cpython_wrapper=True, **options)(function)


def lent(function: Callable[..., Any], **options: Any) -> Any:
    """The same for a ``function`` that makes no arrays, is given none by what it calls, and returns none.

    Views are allowed. Its caller keeps the arrays that it works on, so that it need not count who refers to them:
    numba would raise and lower the count of every array in every tuple that is passed on, a thousand times per tree.
    """
    return numba.njit(pipeline_class=_LendingCompiler, no_cpython_wrapper=True, **options)(function)
