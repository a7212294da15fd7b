"""Kernels compile once: one signature each, whatever the data."""

import gc
import os
import re
import subprocess
import sys
from collections import namedtuple

import numba
import numpy as np
import pytest

from mttab._core.boosting import task_trees, tree
from mttab._core.boosting.in_place import flat
from mttab._core.garbage import garbage_kept

# Kernels inside others are in no cache, and have a signature for every kind of work, None where one has no use for an
# argument.
SCRIPT = """
import numpy as np
from numba.core.caching import NullCache
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting import collecting, forest, growing, histogram, leaf_masks, leaves, losses, sampling
from mttab._core.boosting import local_bins, packed_histogram, scoring, small_nodes, task_trees, tree
from mttab._core.boosting import category_splits, coded_rows, feature_splits, level_categories
from mttab._core.boosting import numeric_splits, splitting
from mttab.datasets import make_task_groups

X, y = make_task_groups(60, group_sizes=(2, 1), random_state=0)
X["kind"] = np.where(X.index % 3, "oak", "fir")
y.iloc[::50] += 1
frozen, target = X.drop(columns="kind").to_numpy(np.float32), y.to_numpy()
frozen.flags.writeable = target.flags.writeable = False
options = {"max_iter_shared": 2, "max_iter_partition": 2, "max_iter_task": 2, "random_state": 0}
for more in ({}, {"subsample": 0.5}, {"loss": "absolute_error"}, {"loss": "poisson"}):
    model = RMTGBRegressor(task_column="task", categorical_features=["kind", "task"], **options | more)
    model.fit(X, np.abs(y)).predict(X[:1])
model = RMTGBRegressor(task_column=frozen.shape[1] - 1, **options).fit(frozen, target)
model.predict(frozen)
RMTGBRegressor(**options).fit(frozen[:30], target[:30])
for labels in (target > 0, np.digitize(target, [-1, 1])):
    for strategy in ("one_output_per_tree", "multi_output_tree"):
        RMTGBClassifier(task_column="task", multi_strategy=strategy, **options).fit(X, labels).predict_proba(X)
kernels = {
    id(kernel): kernel
    for module in (
        *(collecting, forest, growing, histogram, leaf_masks, leaves, level_categories, losses, sampling),
        *(coded_rows, local_bins, packed_histogram, scoring, small_nodes, task_trees, tree),
        *(category_splits, feature_splits, numeric_splits, splitting),
    )
    for kernel in vars(module).values()
    if hasattr(kernel, "signatures") and not isinstance(kernel._cache, NullCache)
}
for kernel in kernels.values():
    if len(kernel.signatures) > 1:
        print(kernel.py_func.__qualname__, kernel.signatures)
assert len(kernels) > 20
"""


@pytest.mark.slow
def test_every_kernel_has_one_signature_whatever_the_data(tmp_path):
    # Two signatures of one function cost compile time, and processes that compile different ones side by side overwrite
    # each other's cache files. An empty cache, because a kernel that is loaded does not show those it calls.
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


FIT = """
from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups

X, y = make_task_groups(60, group_sizes=(2, 1), random_state=0)
options = {"max_iter_shared": 2, "max_iter_partition": 2, "max_iter_task": 2, "random_state": 0}
print(RMTGBRegressor(task_column="task", **options).fit(X, y).predict(X).sum())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the lock is made for systems with fcntl")
def test_processes_that_compile_at_the_same_time_leave_a_sound_cache(tmp_path):
    run = {"env": {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, "text": True, "stdout": subprocess.PIPE}
    together = [subprocess.Popen([sys.executable, "-c", FIT], **run) for _ in range(3)]
    results = [process.communicate()[0] for process in together]
    results.append(subprocess.run([sys.executable, "-c", FIT], **run).stdout)  # reads what they left
    assert results[0].strip() and len(set(results)) == 1


@pytest.mark.slow
def test_where_numba_is_built_differently_inside_a_fit_is_the_same(tmp_path):
    hidden = "".join(f"sys.modules['mttab._core.boosting.{name}'] = None\n" for name in ("linking", "loading"))
    without = f"import sys\n{hidden}{FIT}"
    printed = []
    for name, script in (("linked", FIT), ("plain", without)):
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / name)}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0].strip() and printed[0] == printed[1]


LOADED = """
import sys
import numba
import numpy as np
from mttab import RMTGBRegressor

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 5))
RMTGBRegressor(max_iter_shared=5, n_jobs=1).fit(X, X[:, 0])
print("numba.np.linalg" in sys.modules)

@numba.njit
def solved(a, b):
    return np.linalg.solve(a, b)[0] + len({"a": 1.0, "b": 2.0})

print(solved(np.eye(2), np.ones(2)))
"""


def test_a_process_that_only_loads_kernels_is_made_ready_to_compile_when_it_does():
    pytest.importorskip("mttab._core.boosting.loading")
    for _ in range(2):  # the first one may have to compile
        done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "3.0"]


@pytest.mark.slow
def test_after_a_warm_up_a_fit_compiles_nothing(tmp_path):
    run = {"env": {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, "text": True, "capture_output": True}
    done = subprocess.run([sys.executable, "-m", "mttab.warmup"], **run)
    assert done.returncode == 0 and "are compiled" in done.stdout, done.stderr
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb[ic]")}
    assert len(before) > 40
    fit = "from mttab.datasets import make_task_groups\nfrom mttab import RMTGBClassifier, RMTGBRegressor\n"
    fit += "for n in (60, 4000):\n    X, y = make_task_groups(n, n_features=20, group_sizes=(3, 2), random_state=0)\n"
    fit += "    RMTGBRegressor(task_column='task').fit(X, y).predict(X)\n"
    fit += "    RMTGBClassifier(task_column='task').fit(X, y > 0).predict(X)\n"
    done = subprocess.run([sys.executable, "-c", fit], **run)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb[ic]")} == before


COMPILED = """
import numpy as np
from numba.core import event
from mttab import RMTGBClassifier, RMTGBRegressor

class Names(event.Listener):
    def on_start(self, started):
        print(started.data["dispatcher"].py_func.__qualname__)

    def on_end(self, ended):
        pass

event.register("numba:compile", Names())
rng = np.random.default_rng(0)
X, task = rng.normal(size=(240, 3)), np.repeat(np.arange(6), 40)
options = {"max_iter_shared": 3, "max_iter_partition": 3, "max_iter_task": 3, "sharing": "blocks", "n_jobs": 1}
RMTGBRegressor(**options).fit(X, X[:, 0], task=task)
RMTGBClassifier(**options).fit(X, X[:, 0] > 0, task=task)
"""


@pytest.mark.slow
def test_rounds_in_one_kernel_compile_no_error_messages(tmp_path):
    # For ``a[:] = b`` numba compiles what writes an error message: more functions than some kernels have of their own.
    run = {"env": {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", COMPILED], **run)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert {"run_rounds", "_grow_branches"} <= {re.sub("_[0-9a-f]{12}.*", "", name) for name in names}
    assert not [name for name in names if "unicode" in name or "raise_with_shape" in name]


def test_garbage_is_looked_for_again_after_a_kernel_is_compiled():
    gc.collect()
    with garbage_kept():
        assert not gc.isenabled()
        ring: list = []
        ring.append(ring)
        ring = []  # garbage now
    assert gc.isenabled() and gc.get_freeze_count() == 0 and gc.get_count()[0] < 100
    assert gc.collect() > 0


IMPORTED = """
import gc, sys
searched = []
gc.callbacks.append(lambda phase, info: searched.append((info["generation"], "numba.core.dispatcher" in sys.modules)))
import mttab._core.boosting
print("numba.core.dispatcher" in sys.modules, [generation for generation, is_there in searched if is_there])
print(gc.isenabled())
"""


def test_numba_is_imported_without_a_search_for_garbage():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["True []", "True"], done.stderr


FORKED = """
import gc, os
from mttab._core.garbage import garbage_kept
with garbage_kept():
    child = os.fork()
    if child == 0:
        os._exit(10 + gc.isenabled())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), gc.isenabled())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_meanwhile_looks_for_garbage():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True)
    assert done.stdout.split() == ["11", "True"], done.stderr


def test_a_kernel_that_counts_no_references_keeps_none_either():
    from mttab._core.boosting.sampling import draw_rows

    key, (rows, left) = np.arange(10, dtype=np.uint64), np.empty((2, 11), dtype=np.uint32)
    task_start, row_start, left_start = np.array([0, 4, 10]), np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64)
    arrays = key, task_start, rows, row_start, left, left_start
    before = [sys.getrefcount(array) for array in arrays]
    for seed in range(100):
        draw_rows(key, np.uint64(seed), 0.5, task_start, rows, row_start, left, left_start)
    assert [sys.getrefcount(array) for array in arrays] == before


def called_by(kernel):
    """This kernel, all that it calls, and those that they call, by module and name."""
    found, left = {}, [kernel]
    while left:
        function = left.pop()
        name = function.py_func.__module__, re.sub("_[0-9a-f]{12}.*", "", function.py_func.__qualname__)
        if name not in found:
            found[name] = function
            callees = map(function.py_func.__globals__.get, function.py_func.__code__.co_names)
            left += [callee for callee in callees if hasattr(callee, "py_func")]
    return found


# Steps of trees that grow leaf by leaf which make memory, once per node at most, or are given no tuple of arrays.
MAKES_MEMORY = {
    *("_set_values", "_search_nodes", "find_split_from_rows", "_write_levels", "new_split_room", "new_cells"),
    *("most_bins", "first_feature", "unpack"),
}


@pytest.mark.parametrize(
    ("kernel", "some", "may_count"),
    [
        (task_trees._grow_small_trees_of, {"_search", "scan_categorical", "set_values_of"}, set()),
        (tree._grow, {"_search_rows", "_search_features", "scan_numeric", "compact_bins"}, MAKES_MEMORY),
    ],
)
def test_nobody_counts_references_while_trees_grow(kernel, some, may_count):
    # Every array of every tuple that a step is given would be counted up and down: up to a third of the time of a tree.
    linking = pytest.importorskip("mttab._core.boosting.linking")
    callees = {name: callee for name, callee in called_by(kernel).items() if not callee.targetoptions.get("parallel")}
    assert some <= {name for _, name in callees}
    counting = {
        name
        for (_, name), callee in callees.items()
        if getattr(callee, "linked", callee)._compiler.pipeline_class is not linking._LentCompiler
    }
    assert counting == may_count


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 4), (2, 3, 4), (0, 3)])
def test_a_flat_view_is_the_array_itself_as_one_line(shape):
    @numba.njit
    def double(array):
        line = flat(array)
        for k in range(len(line)):
            line[k] *= 2.0
        return line

    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    expected = 2.0 * array.ravel()
    count = sys.getrefcount(array)
    line = double(array)
    np.testing.assert_array_equal(line, expected)
    np.testing.assert_array_equal(array.ravel(), expected)
    del line
    assert sys.getrefcount(array) == count
    if array.ndim > 1 and array.size:
        with pytest.raises(numba.TypingError, match="no flat view"):
            double(array.T)


def test_what_numba_is_asked_while_kernels_are_compiled_is_answered_as_ever():
    linking = pytest.importorskip("mttab._core.boosting.linking")
    ask = linking.BaseFunction.get_call_type

    def add(a, b):
        return a[0] + b

    values = np.array([0.5, 1.5]), np.array([1, 2]), np.array([2**40, 1], dtype=np.uint64)
    plain, remembering = numba.njit(add), numba.njit(add)
    expected = [plain(a, b) for a in values for b in (1, 2.5, np.uint8(255))]
    with linking.types_remembered():
        with linking.types_remembered():
            found = [remembering(a, b) for a in values for b in (1, 2.5, np.uint8(255))]
        assert linking.BaseFunction.get_call_type is not ask
    assert linking.BaseFunction.get_call_type is ask
    assert found == expected and plain.nopython_signatures == remembering.nopython_signatures


def test_named_tuples_of_others_are_left_to_numba():
    from numba.core.datamodel.models import TupleModel

    pytest.importorskip("mttab._core.boosting.linking")
    from mttab._core.boosting.packed_histogram import Packing

    def model_of(values):
        return type(numba.core.datamodel.default_manager.lookup(numba.typeof(values)))

    ours = Packing(np.int64(1), np.int64(1), 1.0, 1.0, np.int64(1))
    assert model_of(namedtuple("Pair", "a b")(1, 2.0)) is TupleModel
    assert model_of(ours) is not TupleModel and issubclass(model_of(ours), TupleModel)


def test_no_two_processes_number_their_functions_alike():
    # numba puts the number into the symbol of a function, and caches keep the symbols of many processes.
    code = (
        "import mttab._core.boosting.jit, numba.core.bytecode as b, os\n"
        "print(next(b.FunctionIdentity._unique_ids), flush=True)\n"
        "if hasattr(os, 'fork') and os.fork() == 0:\n    print(next(b.FunctionIdentity._unique_ids))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    numbers = [int(line) for run in runs for line in run.stdout.split()]
    assert len(numbers) == len(set(numbers)) >= 2
    assert min(abs(a - b) for i, a in enumerate(numbers) for b in numbers[:i]) > 100_000


def test_another_process_waits_for_the_kernels_that_are_compiled_and_for_no_others(tmp_path):
    pytest.importorskip("fcntl", reason="the lock is made for systems with fcntl")
    from mttab._core.boosting.jit import _only_process

    def is_free(path):
        take = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        return subprocess.run([sys.executable, "-c", take, str(path)], capture_output=True).returncode == 0

    kernel, callee, other = (tmp_path / f".{name}.lock" for name in ("kernel", "callee", "other"))
    with _only_process(kernel):
        with _only_process(callee), _only_process(kernel):
            assert not is_free(callee)
        assert is_free(callee) and is_free(other) and not is_free(kernel)
    assert is_free(kernel)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_is_forked_while_kernels_are_compiled_keeps_nobody_waiting(tmp_path):
    pytest.importorskip("fcntl", reason="the lock is made for systems with fcntl")
    code = """
import os, signal, sys
from pathlib import Path
from mttab._core.boosting.jit import _only_process

path = Path(sys.argv[1])
signal.alarm(60)
with _only_process(path):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        with _only_process(path):  # waits for its parent, not for itself
            print("child", flush=True)
        os._exit(0)
    print("parent", flush=True)
with _only_process(path):  # though the child may still be there
    pass
sys.exit(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["parent", "child"]), done.stderr


def test_a_lock_that_cannot_be_opened_keeps_nobody_from_compiling(tmp_path):
    from mttab._core.boosting.jit import _only_process

    (tmp_path / ".lock").mkdir()  # as good as a file of somebody else: root may open those
    (tmp_path / "file").touch()
    for path in (tmp_path / ".lock", tmp_path / "file" / ".lock"):
        with _only_process(path):
            reached = True
        assert reached
