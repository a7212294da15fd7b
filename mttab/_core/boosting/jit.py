"""How kernels of this package are compiled: cached on disk where possible, never with the GIL, serial or parallel."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numba
import numba.core.bytecode

from mttab._core.garbage import garbage_kept

try:
    from .linking import KernelCompiler, LeanKernelCompiler, lent, linked, types_remembered
except (ImportError, AttributeError):
    # A numba that is built differently inside: kernels that others call are then optimised on their own, too, as numba
    # does it by itself. A first fit takes three to four times as long to compile and computes the same.
    lent = linked = KernelCompiler = LeanKernelCompiler = None  # type: ignore[assignment,misc]
    types_remembered = nullcontext  # type: ignore[assignment]

try:
    from .loading import KernelCache
except (ImportError, AttributeError):  # as above: the first fit of a process takes 0.06 s longer to load its kernels
    from numba.core.caching import FunctionCache

    KernelCache = FunctionCache  # type: ignore[assignment,misc]

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Division by zero gives inf or NaN as in numpy: kernels guard their denominators themselves and must not raise.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def _number_functions_apart() -> None:
    """Give the functions that this process compiles numbers that no other process gives.

    numba tells functions of one definition with different closures apart by a number in their symbol, and every process
    counts from 1, so a cache that several processes have filled may hold different code under one symbol. Later
    processes were seen to crash in such a cache; that this was why is likely, not proven.
    """
    identity: Any = getattr(numba.core.bytecode, "FunctionIdentity", None)
    if hasattr(identity, "_unique_ids"):
        identity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "little"))


_number_functions_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_apart)


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_SOURCES = _digest_of_sources()


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile ``function`` on first call from Python and keep the machine code on disk; other kernels may call it, too.

    numba notices an edit of the function's own file, not of the files that its callees stand in, so the name under
    which it is cached carries a digest of all kernel sources.

    Where numba finds no folder that it may write to (a read-only package folder and no home), it refuses at decoration
    time; the function is then compiled once per process instead.
    """
    return _callable_as(inner, function, options)


def _callable_as(compile_inner: Callable[..., Any], function: Callable[..., Any], options: dict[str, Any]) -> Any:
    if linked is None or options:
        return _cached(renamed(function, f"_{_SOURCES}"), options)
    compiler = LeanKernelCompiler if compile_inner is lean else KernelCompiler
    kernel = _cached(renamed(function, f"_{_SOURCES}"), {"pipeline_class": compiler})
    # What kernels call is not the machine code, see `linking`.
    kernel.linked = compile_inner(function)
    kernel.get_call_template, kernel.get_overload = kernel.linked.get_call_template, kernel.linked.get_overload
    return kernel


def inner(function: Callable[..., Any]) -> Any:
    """Compile a ``function`` that only other kernels call."""
    if linked is None:
        return numba.njit(no_cpython_wrapper=True, **_OPTIONS)(function)
    return linked(function, **_OPTIONS)


def lean_jit(function: Callable[..., Any]) -> Any:
    """`jit` for a ``function`` that is `lean`."""
    return _callable_as(lean, function, {})


def lean(function: Callable[..., Any], **options: Any) -> Any:
    """The same for a ``function`` that makes no arrays and is given none by what it calls, see `linking.lent`."""
    if lent is None:
        return numba.njit(no_cpython_wrapper=True, **_OPTIONS, **options)(function)
    return lent(function, **_OPTIONS, **options)


def inlined(function: Callable[..., Any]) -> Any:
    """... and for a short step, which becomes part of its caller: to pass the arrays on would take longer."""
    return lean(function, forceinline=True)


def _cached(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    kernel = numba.njit(**_OPTIONS, **options)(function)
    try:
        kernel._cache = KernelCache(function)
    except RuntimeError:
        return kernel
    compile_or_load = kernel.compile
    name = f".{function.__module__.rpartition('.')[2]}.{function.__name__}.lock"

    def compile_alone(signature: Any) -> Any:
        with _only_process(Path(kernel._cache.cache_path) / name), garbage_kept(), types_remembered():
            return compile_or_load(signature)

    kernel.compile = compile_alone
    return kernel


_in_process = threading.RLock()
_open_files: dict[Path, Any] = {}  # of the kernels that this process is compiling, one inside the other


def _open_locks() -> None:
    """In a forked child: the thread that may have held the locks is not there.

    The files are the parent's, too: left open here, they would stay locked for as long as the child lives, also for it.
    """
    global _in_process
    _in_process = threading.RLock()
    for file in _open_files.values():
        file.close()
    _open_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_locks)


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Keep other processes from compiling the kernel of this lock file, or loading it, meanwhile.

    Processes that compile the same kernel side by side write over each other's files, and have been seen to leave
    machine code behind that crashes. Where a kernel compiles those that it calls inside its own compilation, locks are
    taken from caller to callee, so that no two processes wait for each other.
    """
    with _in_process:
        file = None if fcntl is None or path in _open_files else _locked(path)
        if file is None:
            yield
            return
        with file:
            _open_files[path] = file
            try:
                yield
            finally:
                _open_files.pop(path, None)  # not there in a child that was forked meanwhile


def _locked(path: Path) -> Any:
    """The file, open and locked; None where that cannot be: another user's, or a file system without locks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        file.close()
        return None
    return file


def renamed(function: Callable[..., Any], suffix: str) -> Callable[..., Any]:
    """The same function under another name, to be compiled apart: numba names cache files after ``__qualname__``."""
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__ + suffix, function.__defaults__
    )
    twin.__qualname__ = function.__qualname__ + suffix
    twin.__module__ = function.__module__
    twin.__doc__ = function.__doc__
    return twin


def serial_and_parallel(function: Callable[..., Any], serial: Callable[..., Any] = jit) -> tuple[Any, Any]:
    """Compile one function twice: ``prange`` as a plain loop, and ``prange`` over threads.

    A parallel kernel starts the thread pool even for one thread, which a forked child must not do, so the serial twin
    is a function of its own, compiled by ``serial``, `jit` or `lean_jit`.
    """
    return serial(function), jit(renamed(function, "_parallel"), parallel=True)
