"""Threads: how many, and the same numbers with any number of them, after a fork, and from several Python threads."""

import os
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import numba
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting import threads
from mttab._core.boosting.threads import (
    MIN_PARALLEL_CELLS,
    fit_region,
    free_threads,
    parallel_region,
    resolve_n_threads,
    team_of,
)

ROOT = Path(__file__).resolve().parents[1]
AVAILABLE = numba.config.NUMBA_NUM_THREADS

# So many rows, less those that are held out, that fit and predict are parallel wherever there are two threads.
N_ROWS = MIN_PARALLEL_CELLS // 3

PRELUDE = """
import os, sys
import numpy as np
from mttab import RMTGBRegressor
from mttab._core.boosting.threads import MIN_PARALLEL_CELLS, resolve_n_threads

rng = np.random.default_rng(0)
X = rng.standard_normal((MIN_PARALLEL_CELLS // 3, 4))
task = rng.integers(0, 3, len(X))
y = X[:, 0] * task + np.sin(3 * X[:, 1]) + 0.1 * rng.standard_normal(len(X))
assert 0.9 * X.size > MIN_PARALLEL_CELLS

def fit(n_jobs=2):
    model = RMTGBRegressor(max_iter_shared=4, max_iter_partition=3, max_iter_task=3, n_jobs=n_jobs, random_state=0)
    return model.fit(X, y, task=task)

def predict(model):
    return model.predict(X, task=task)
"""


def run_script(body, **environment):  # type: ignore[no-untyped-def]
    """Run a script in a process of its own, with at least two threads; fail with its output if it does."""
    script = PRELUDE + textwrap.dedent(body)
    env = {**os.environ, "NUMBA_NUM_THREADS": "2", **environment}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(threads.__file__).parents[3]), env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_jobs", "available", "expected"),
    [
        (None, 8, 8),
        (-1, 8, 8),
        (-2, 8, 7),
        (-8, 8, 1),
        (-99, 8, 1),
        (1, 8, 1),
        (3, 8, 3),
        (8, 8, 8),
        (99, 8, 8),
        (np.int64(2), 8, 2),
        (None, 1, 1),
        (-2, 1, 1),
        (4, 1, 1),
    ],
)
def test_n_jobs_counts_as_it_does_in_joblib_up_to_what_numba_may_use(n_jobs, available, expected, monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", available)
    resolved = resolve_n_threads(n_jobs)
    assert resolved == expected and type(resolved) is int


@pytest.mark.parametrize("n_jobs", [0, True, False, 1.0, 2.5, "2", "all", [1]])
def test_any_other_n_jobs_is_an_error_that_names_it(n_jobs):
    with pytest.raises(ValueError) as err:
        resolve_n_threads(n_jobs)
    for words in (f"n_jobs={n_jobs!r}", "None or a non-zero integer", "use 1"):
        assert words in str(err.value)
    with pytest.raises(ValueError):
        resolve_n_threads(n_jobs, 0)


def test_small_jobs_and_forked_children_are_serial(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 8)
    assert resolve_n_threads(None, MIN_PARALLEL_CELLS - 1) == 1
    assert resolve_n_threads(None, MIN_PARALLEL_CELLS) == 8
    monkeypatch.setattr(threads, "_is_forked_child", True)
    assert resolve_n_threads(None, 1e12) == 1 and resolve_n_threads(4) == 1


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
def test_a_region_sets_the_number_of_threads_and_gives_it_back():
    before = numba.get_num_threads()
    for n in (1, 2):
        with pytest.raises(KeyError), parallel_region(n):
            assert numba.get_num_threads() == (2 if n == 2 else before)
            raise KeyError
        assert numba.get_num_threads() == before
    with parallel_region(2), parallel_region(1):
        pass
    assert not threads._workqueue_lock.locked()


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
def test_a_fit_keeps_its_threads_while_launches_are_quick_and_stays_with_one_where_they_are_slow(monkeypatch):
    slow = {"is_slow": False}

    def launch(counts):  # type: ignore[no-untyped-def]
        clock["now"] += 0.04 if slow["is_slow"] else 80e-6

    clock = {"now": 0.0}
    monkeypatch.setattr(threads, "_launch", launch)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock["now"])
    assert free_threads(2) == 2 and free_threads(1) == 1
    team = team_of(2)
    assert team_of(1) is None and team is not None
    assert team.min_cells == pytest.approx(80e-6 * threads.CELLS_PER_SECOND, abs=1)
    slow["is_slow"] = True
    assert free_threads(2) == 1


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
@pytest.mark.parametrize(("n_busy", "n_cells", "expected"), [(4, 1e7, 2), (4, 1e4, 1), (10_000, 1e7, 1)])
def test_a_long_fit_waits_for_cores_that_are_about_to_be_free(monkeypatch, n_busy, n_cells, expected):
    clock = {"now": 0.0, "launches": 0}

    def launch(counts):  # type: ignore[no-untyped-def]
        clock["launches"] += 1
        clock["now"] += 5e-3 if 1 < clock["launches"] <= 1 + n_busy else 4e-6

    monkeypatch.setattr(threads, "_launch", launch)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock["now"])
    assert free_threads(2, n_cells) == expected
    assert clock["now"] < 3 * 5e-3 + min(threads.LONGEST_WAIT, threads.WAIT_PER_CELL * n_cells) + 2e-2
    if expected == 2:
        assert team_of(2).min_cells == pytest.approx(4e-6 * threads.CELLS_PER_SECOND, rel=0.01), "as once it is quiet"


def n_blas_threads():
    return max((library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()), default=1)


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
def test_blas_has_one_thread_while_any_fit_runs_and_as_many_as_before_afterwards():
    controller = ThreadpoolController()
    if not controller.select(user_api="blas").info():
        pytest.skip("a numpy whose BLAS threadpoolctl does not know")
    with controller.limit(limits=2, user_api="blas"):
        first, second = ExitStack(), ExitStack()
        first.enter_context(threads._one_blas_thread())
        assert n_blas_threads() == 1
        second.enter_context(threads._one_blas_thread())
        first.close()  # one fit ends while another one, in another thread, goes on
        assert n_blas_threads() == 1
        second.close()
        assert n_blas_threads() == 2
        for n_threads in (1, 2):
            with fit_region(n_threads, 0.0):
                assert n_blas_threads() == 1
        with threads._one_blas_thread():
            threads._blas_limit.forget()  # as in a child that is forked here
            with threads._one_blas_thread():
                assert n_blas_threads() == 1
            assert n_blas_threads() == 2
        assert n_blas_threads() == 2


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
def test_a_busy_machine_changes_no_bit_of_a_model(monkeypatch, busy_or_not):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((N_ROWS, 4))
    y = X[:, 0] + rng.standard_normal(len(X))
    predictions = []
    for is_busy in (False, True):
        if is_busy:
            monkeypatch.setattr(threads, "N_LAUNCHES", 1)
            monkeypatch.setattr(threads, "SLOWEST_LAUNCH", -1.0)
            assert free_threads(2) == 1
        predictions.append(RMTGBRegressor(max_iter_shared=4, n_jobs=2, random_state=0).fit(X, y).predict(X))
    np.testing.assert_array_equal(*predictions)


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(AVAILABLE < 2, reason="needs two threads")
@pytest.mark.parametrize("options", [{}, {"subsample": 0.7, "max_features": 0.5, "early_stopping": True}])
def test_the_model_does_not_depend_on_the_number_of_threads(options, busy_or_not):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((N_ROWS, 4))
    X[::9, 1] = np.nan
    task = rng.integers(0, 4, len(X))
    y = X[:, 0] * (task - 1.0) + X[:, 2] > 0.0
    parameters = {"max_iter_shared": 4, "max_iter_partition": 3, "max_iter_task": 3, "random_state": 3, **options}
    models = [RMTGBClassifier(**parameters, n_jobs=n_jobs).fit(X, y, task=task) for n_jobs in (1, 2, 2)]
    assert resolve_n_threads(2, 0.9 * X.size) == 2, "the second one is really parallel"
    reference = models[0].predict_proba(X, task=task)
    for model in models[1:]:
        np.testing.assert_array_equal(model.predict_proba(X, task=task), reference)
        np.testing.assert_array_equal(model.theta_, models[0].theta_)


# --- fork -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("layer", [pytest.param("omp", marks=pytest.mark.slow), "workqueue"])
def test_a_forked_child_fits_and_predicts_the_same_numbers(layer):
    pytest.importorskip({"omp": "numba.np.ufunc.omppool", "workqueue": "numba.np.ufunc.workqueue"}[layer])
    run_script(
        """
        import warnings
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # forking beside threads is the point
        assert resolve_n_threads(2) == 2
        model = fit()
        expected = predict(model)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert resolve_n_threads(2) == 1
                again = predict(model), predict(fit())
                status = 0 if all(np.array_equal(numbers, expected) for numbers in again) else 3
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.WIFEXITED(status), f"the child died of signal {os.WTERMSIG(status)}"
        assert os.WEXITSTATUS(status) == 0, f"exit status {os.WEXITSTATUS(status)}"
        assert resolve_n_threads(2) == 2 and np.array_equal(predict(model), expected), "the parent goes on as before"
        """,
        NUMBA_THREADING_LAYER=layer,
    )


# --- Python threads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_models_fitted_side_by_side_in_threads_are_the_same(layer):
    out = run_script(
        """
        import numba
        from joblib import Parallel, delayed
        models = Parallel(n_jobs=4, backend="threading")(delayed(fit)() for _ in range(6))
        numbers = Parallel(n_jobs=4, backend="threading")(delayed(predict)(model) for model in models)
        alone = predict(fit(n_jobs=1))
        assert all(np.array_equal(each, alone) for each in numbers)
        print(numba.threading_layer())
        """,
        **({} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}),
    )
    assert layer == "default" or out.strip() == layer, "the layer asked for was in use"


def test_the_regressor_takes_n_jobs_from_its_parameters():
    with pytest.raises(ValueError, match="n_jobs"):
        RMTGBRegressor(n_jobs=0).fit(np.zeros((4, 1)), np.arange(4.0))
