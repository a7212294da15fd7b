"""Kernels that other kernels call: lowered to LLVM's language, and left to the caller to be optimised.

numba optimises every function when it is first called, together with all that it calls, and makes machine code of it,
though a function that only others call needs neither: its caller takes it in and optimises it again. Along a chain

    grow_tree  →  _search_rows  →  find_split_from_rows  →  scan_numeric  →  …

the last one is then optimised as often as the chain is long. A function that is compiled by `linked` waits for the
kernel that Python calls, which is optimised as a whole, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as ll  # type: ignore[import-untyped]
import numba
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.targetconfig import ConfigStack
from numba.core.typed_passes import NativeLowering
from numba.core.types.functions import BaseFunction

from .lowering import KernelLower, LendingLower


class _LinkedLibrary(JITCodeLibrary):
    """Code that is taken into other libraries as it has been lowered."""

    _shared_module: Any

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == ll.Linkage.external:
                function.linkage = "linkonce_odr"  # may be left out once it is part of its callers
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """Together with all that it calls, for libraries that are not ours."""
        if self._shared_module is None:
            self._shared_module = self._final_module.clone()
            for library in _all_called(self._linking_libraries):
                self._shared_module.link_in(_module_of(library), preserve=True)
        return self._shared_module


def _module_of(library: Any) -> Any:
    return library._final_module if isinstance(library, _LinkedLibrary) else library._get_module_for_linking()


def _all_called(libraries: Iterable[Any]) -> list[Any]:
    """Libraries and those that they call, each once; those that are not ours hold what they call.

    A library stands behind all that call it: LLVM takes in what something asks for already, and leaves out the rest. So
    one that nobody calls any more, for the branch with the call in it is gone, takes nothing with it that others call.
    """
    found: set[Any] = set()
    callees_first: list[Any] = []

    def visit(library: Any) -> None:
        if library in found:
            return
        found.add(library)
        for callee in reversed(library._linking_libraries) if isinstance(library, _LinkedLibrary) else ():
            visit(callee)
        callees_first.append(library)

    for library in reversed(list(libraries)):
        visit(library)
    return callees_first[::-1]


class _KernelLibrary(JITCodeLibrary):
    """Code of a kernel that Python calls, kept on disk without what numba would need to link it into another one."""

    _linking_libraries: Any

    def _optimize_functions(self, ll_module: Any) -> None:
        # What takes Python's arguments apart is long, and most of it is for errors.
        for function in ll_module.functions:
            if function.name.startswith("_ZN7cpython") and not function.is_declaration:
                function.add_function_attribute("noinline")
                function.add_function_attribute("optnone")
        super()._optimize_functions(ll_module)

    def finalize(self) -> None:
        # What is called at several levels is taken in once.
        for library in _all_called(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(_module_of(library), preserve=True)
        self._linking_libraries = []
        super().finalize()

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.is_declaration and function.name.startswith("_ZN"):  # to call it would end the process
                raise RuntimeError(f"{self.name} calls a function that was not linked, {function.name}.")
        super()._optimize_final_module()

    def serialize_using_object_code(self) -> Any:
        self._ensure_finalized()
        entries = [
            function.name for function in self.get_defined_functions() if function.linkage == ll.Linkage.external
        ]
        # A reader learns from these which symbols the object code has; nobody calls what stands here.
        code = "".join(f'define void @"{name}"() {{ ret void }}\n' for name in entries)
        return self.name, "object", (self._get_compiled_object(), ll.parse_assembly(code).as_bitcode())


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToBeLinked(NativeLowering):
    """numba's lowering, into a `_LinkedLibrary`."""

    _name = "mttab_lower_to_be_linked"
    lowering_class = KernelLower

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
    lowering_class = LendingLower


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerKernel(NativeLowering):
    """numba's lowering, into a `_KernelLibrary`."""

    _name = "mttab_lower_kernel"
    lowering_class = KernelLower

    def run_pass(self, state: Any) -> bool:
        state.library = _KernelLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerLeanKernel(_LowerKernel):
    """... of a kernel that counts no references."""

    _name = "mttab_lower_lean_kernel"
    lowering_class = LendingLower


# Steps for what kernels do without: closures, ``with``, functions to be taken in as numba's own language, literals
# that change a type, ``raise`` with a text made up on the way, several operations on whole arrays in one loop. Each
# reads all of a function and, even where it finds nothing to do, has it analysed once more.
_NOT_NEEDED = {
    *("WithLifting", "InlineClosureLikes", "MakeFunctionToJitFunction", "InlineInlinables", "InlineOverloads"),
    *("RewriteSemanticConstants", "FindLiterallyCalls", "LiteralUnroll", "LiteralPropagationSubPipelinePass"),
    *("RewriteDynamicRaises", "NopythonRewrites", "NoPythonSupportedFeatureValidation", "DumpParforDiagnostics"),
}


class _OwnCompiler(CompilerBase):
    """numba's steps that are needed here, with another one for `NativeLowering`."""

    _lowering: type[NativeLowering]

    def define_pipelines(self) -> list[PassManager]:
        pipeline = PassManager(self._lowering._name)
        for step, what in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            if step.__name__ in _NOT_NEEDED:
                continue
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
