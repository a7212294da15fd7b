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


class _LinkedCompiler(CompilerBase):
    def define_pipelines(self) -> list[PassManager]:
        pipeline = PassManager("linked")
        for step, what in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            pipeline.add_pass(_LowerToBeLinked if step is NativeLowering else step, what)
        pipeline.finalize()
        return [pipeline]


def linked(function: Callable[..., Any], **options: Any) -> Any:
    """Compile ``function`` for other kernels alone; it must not be called from Python."""
    return numba.njit(pipeline_class=_LinkedCompiler, no_cpython_wrapper=True, **options)(function)
