"""What kernels are compiled to, where that is not numba's own doing: items of arrays, entries for Python, links."""

import gc
import operator
import os
import subprocess
import sys
import weakref
from typing import NamedTuple

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from mttab._core.boosting.in_place import empty, larger, smaller
from mttab._core.boosting.jit import inner, jit, lean, lean_jit

pytest.importorskip("mttab._core.boosting.linking")  # a numba that is built differently inside
from mttab._core.boosting import linking

DTYPES = ("uint8", "int64", "float32", "bool")


def _read(array, i, j, k):
    return array[i, j, k], array[i][j, k], array[i, j][k], array[i][j][k], array[-1, 0, -2], array[0][-1][1]


def _write(array, i, j, k, value):
    array[i, j, k] = value
    array[i][j, -1] = value
    array[i, 1][0] = value


def _describe(array, i):
    part = array[i]
    row = part[-1]
    return part.shape, part.strides, part.size, part.itemsize, row.shape, row.strides, row.size


def both(function):
    """The same as a kernel that counts references and as one that counts none."""
    return jit(function), lean_jit(function)


READ, WRITE, DESCRIBE = both(_read), both(_write), both(_describe)
LAYOUTS = {
    "C": lambda cube: cube,
    "a part of it": lambda cube: np.repeat(cube, 2, axis=1)[:, ::2],
    "reversed": lambda cube: cube[:, ::-1, ::-1],
    "F": np.asfortranarray,
}


@pytest.fixture(params=DTYPES)
def cube(request):
    rng = np.random.default_rng(0)
    return rng.integers(0, 100, (3, 4, 5)).astype(request.param)


@pytest.mark.parametrize(
    ("layout", "kind"), [*((layout, np.int64) for layout in LAYOUTS), ("C", np.int32), ("C", np.uint8)]
)
def test_a_kernel_reads_the_items_that_numpy_reads(cube, layout, kind):
    array = LAYOUTS[layout](cube)
    for place in np.ndindex(cube.shape):
        expected = _read(array, *map(kind, place))
        for kernel in READ if place == (1, 2, 3) else READ[1:]:
            assert kernel(array, *map(kind, place)) == expected


def test_a_negative_index_counts_from_the_end(cube):
    for place in ((-1, -4, -2), (-3, 3, -5), (2, -1, 0)):
        for kernel in READ:
            assert kernel(cube, *place) == _read(cube, *place)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_kernel_writes_the_items_that_numpy_writes(cube, layout):
    for value in (7, -1 if cube.dtype.kind in "if" else 1, 2.5):
        for kernel in WRITE:
            ours, expected = LAYOUTS[layout](cube.copy()), LAYOUTS[layout](cube.copy())
            kernel(ours, 2, -3, 1, value)
            _write(expected, 2, -3, 1, value)
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_of_an_array_is_the_array_that_numpy_makes_of_it(cube, layout):
    array = LAYOUTS[layout](cube)
    for i in (0, 2, -1):
        for kernel in DESCRIBE:
            assert kernel(array, i) == _describe(array, i)


def _branches(n, flags):
    """Variables that are assigned once, often, in one branch only, and used before and after loops."""
    total, last, before = 0, -1, 0
    for i in range(n):
        step = i * 2
        if flags[i]:
            once = step + 1
            total += once
        elif i % 3:
            total -= step
            continue
        else:
            other = total
            while other > 5:
                other //= 2
            total += other
        last, before = i, last
        if total > 1000:
            break
    offset = total if n > 3 else last
    return total, last, before, offset


BRANCHES = both(_branches)


@given(st.lists(st.booleans(), max_size=40))
def test_variables_keep_their_values_through_branches_and_loops(flags):
    flags = np.array(flags, dtype=bool)
    for kernel in BRANCHES:
        assert kernel(len(flags), flags) == _branches(len(flags), flags)


NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(), st.booleans().map(int))


@jit
def choose(a, b):
    return larger(a, b), smaller(a, b), larger(a, 1), smaller(2, b)


@given(NUMBERS, NUMBERS)
def test_the_larger_and_the_smaller_of_two_numbers_are_those_of_python(a, b):
    expected = max(a, b), min(a, b), max(a, 1), min(2, b)
    for ours in (choose(a, b), (larger(a, b), smaller(a, b), larger(a, 1), smaller(2, b))):
        np.testing.assert_array_equal(np.array(ours, dtype=float), np.array(expected, dtype=float))


@jit
def choose_of_each(a, b):
    return larger(a[0], b[0]), smaller(a[0], b[0])


NUMBER_TYPES = ("uint8", "int32", "uint64", "float32", "float64")


@numba.njit
def max_and_min(a, b):
    return max(a[0], b[0]), min(a[0], b[0])


@pytest.mark.parametrize("first", NUMBER_TYPES)
@pytest.mark.parametrize("second", NUMBER_TYPES)
def test_numbers_of_two_types_are_compared_as_numba_compares_them(first, second):
    for x, y in ((5, 7), (-1, 3), (2**63 + 2048, -4), (0.0, -0.0), (-0.0, 0.0)):
        a, b = np.array([x]).astype(first), np.array([y]).astype(second)
        for one, other in ((a, b), (b, a)):
            ours, numbas = choose_of_each(one, other), max_and_min(one, other)
            assert repr(ours) == repr(numbas)


@jit
def make(n, m):
    return empty(n, np.float64), empty((n, m), np.uint8), empty((2, n, m), np.bool_), empty((m, 3), np.int32)


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint32])
def test_memory_made_in_place_has_the_shape_and_type_that_were_asked_for(n, kind):
    for made in (make(kind(n), kind(4)), make.py_func(n, 4)):
        described = [(array.shape, array.dtype.name, array.flags.c_contiguous) for array in made]
        assert described == [
            ((n,), "float64", True), ((n, 4), "uint8", True), ((2, n, 4), "bool", True), ((4, 3), "int32", True),
        ]  # fmt: skip


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray
    scale: float
    count: int
    is_on: bool


@lean_jit
def weigh(pair, more, nothing, factor):
    total = 0.0
    for i in range(len(pair.left)):
        total += pair.left[i] * pair.right[i, 0] * pair.scale
    for i in range(len(more[0])):
        total += more[0][i] + more[1][0]
    if nothing is None and pair.is_on:
        total += pair.count
    return total * factor


def arguments():
    pair = Pair(np.arange(3.0), np.arange(6, dtype=np.int32).reshape(3, 2), 0.5, 10, True)
    return pair, (np.ones(4, dtype=np.float32), np.array([2], dtype=np.uint8)), None, 2


def test_a_kernel_is_given_what_stands_in_tuples_of_tuples():
    assert weigh(*arguments()) == (0.5 * (1 * 2 + 2 * 4) + 4 * 3 + 10) * 2


def test_arrays_are_borrowed_for_a_call_and_let_go_afterwards():
    given_ = arguments()
    arrays = given_[0].left, given_[0].right, *given_[1]
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(50):
        weigh(*given_)
    assert [sys.getrefcount(array) for array in arrays] == before
    watched = weakref.ref(given_[0].left)
    del given_, arrays
    gc.collect()
    assert watched() is None


@jit
def second_half(array):
    return array[len(array) // 2 :]


def test_a_part_of_an_argument_that_is_returned_keeps_its_memory():
    half = second_half(np.arange(100_000))
    others = [np.zeros(100_000, dtype=np.int64) for _ in range(5)]
    np.testing.assert_array_equal(half, np.arange(50_000, 100_000))
    assert len(others) == 5


def test_an_entry_refuses_what_its_kernel_was_not_compiled_for():
    weigh(*arguments())
    entry = next(iter(weigh.overloads.values())).entry_point
    pair, more, nothing, factor = arguments()

    def refusal(*args):
        try:
            return entry(*args)
        except (TypeError, OverflowError) as error:
            return f"{type(error).__name__}: {error}"

    before, refusals = sys.getrefcount(pair.left), []
    for _ in range(20):
        refusals += [refusal(pair._replace(right=[1, 2]), more, nothing, factor)]
        refusals += [refusal(pair._replace(count=2**70), more, nothing, factor), refusal(pair, more, nothing)]
    after = sys.getrefcount(pair.left)  # an assertion holds what it looks at
    assert after == before
    expected = 20 * ["TypeError: An argument is not of the type", "OverflowError", "expected 4 arguments, got 3"]
    assert all(part in text for text, part in zip(refusals, expected, strict=True))
    assert entry(pair, more, nothing, factor) == weigh(pair, more, nothing, factor)


@jit
def raise_above(limit, value):
    if value > limit:
        raise ValueError("too much")
    return value


def test_an_error_in_a_kernel_reaches_python():
    assert raise_above(3, 2) == 2
    with pytest.raises(ValueError, match="too much"):
        raise_above(3, 4)


# Two ways to one function, one of them shorter: it is to be linked once, behind all that call it.
@lean
def lowest(a):
    return a + 1


@lean
def middle(a):
    return lowest(a) * 2


@inner
def counting(a):
    return middle(a) + lowest(a)


@jit
def upper(a):
    return lowest(a) + counting(a) + middle(a)


@numba.njit
def outside(a):
    return upper(a) + lowest(a)


@numba.njit(parallel=True)
def outside_parallel(n):
    total = 0
    for i in numba.prange(n):
        total += upper(i)
    return total


def test_functions_that_several_call_are_linked_wherever_they_are_called():
    expected = [(a + 1) + (a + 1) * 2 + (a + 1) + (a + 1) * 2 for a in range(5)]
    assert [upper(a) for a in range(5)] == expected
    assert [outside(a) for a in range(5)] == [e + a + 1 for a, e in enumerate(expected)]
    assert outside_parallel(5) == sum(expected)


@inner
def never(a):
    return lowest(a) + 1


@inner
def always(a):
    return lowest(a) + 2


class Flag(NamedTuple):
    flag: object
    array: np.ndarray


@jit
def choose_callee(given_, a):
    if given_.flag is not None:
        return never(a)
    return always(a)


def test_a_call_that_is_left_out_takes_nothing_with_it_that_others_call():
    assert choose_callee(Flag(None, np.zeros(3)), 5) == 8
    assert choose_callee(Flag(1.0, np.zeros(3)), 5) == 7


@jit
def with_default(a, n=3):
    return a + n


@jit
def longer(text, more):
    return len(text) + more


@jit
def array_or_nothing(array, is_wanted):
    if is_wanted:
        return array
    return None


def test_kernels_that_borrow_nothing_have_numbas_entry():
    assert with_default(1) == 4 and with_default(1, 5) == 6
    text = "".join(["ab", "cd"])
    before = sys.getrefcount(text)
    lengths = [longer(text, i) for i in range(20)]
    after = sys.getrefcount(text)
    assert lengths == list(range(4, 24)) and after == before
    array = np.arange(3)
    assert array_or_nothing(array, True) is array and array_or_nothing(array, False) is None


def test_a_kernel_that_calls_what_was_not_linked_is_refused():
    context = cpu_target.target_context
    library = linking._KernelLibrary(context.codegen(), "incomplete")
    module = context.create_module("incomplete")
    text = 'declare i64 @"_ZN7missing"()\ndefine i64 @"asks"() {\n  %x = call i64 @"_ZN7missing"()\n  ret i64 %x\n}\n'
    library.add_llvm_module(linking.ll.parse_assembly(f'target triple = "{module.triple}"\n{text}'))
    with global_compiler_lock, pytest.raises(RuntimeError, match="not linked, _ZN7missing"):
        library.finalize()


COUNTED = """
import numpy as np
from numba.core import event
from mttab import RMTGBRegressor

class Names(event.Listener):
    def on_start(self, started):
        function = started.data["dispatcher"].py_func
        print(function.__module__, function.__qualname__)

    def on_end(self, ended):
        pass

event.register("numba:compile", Names())
X = np.random.default_rng(0).normal(size=(200, 5))
RMTGBRegressor(max_iter_shared=5, n_jobs=1).fit(X, X[:, 0])
"""


@pytest.mark.slow
def test_a_first_fit_compiles_of_numbas_own_functions_what_makes_memory_alone(tmp_path):
    # Each takes 20 to 60 ms, for every set of types: ``max`` and ``np.empty`` took a second of the first fit.
    run = {"env": {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", COUNTED], **run)
    assert done.returncode == 0, done.stderr
    names = [line.split() for line in done.stdout.splitlines()]
    assert len(names) > 50 and operator.countOf((module for module, _ in names), "mttab._core.boosting.symmetric") > 0
    assert {name for module, name in names if not module.startswith("mttab")} <= {"_ol_array_allocate.<locals>.impl"}
