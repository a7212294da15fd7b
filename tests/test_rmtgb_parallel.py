"""R-MTGB under joblib's backends, threads and fork, and where nothing may be written: no crash, the same numbers."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import mttab

PACKAGE = Path(mttab.__file__).resolve().parent
SLOW = pytest.mark.slow
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24

# Every script uses threads in its own process too, for which the tables are large enough.
MODELS = '''
import sys

import numba
import numpy as np

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

ROUNDS = {"max_iter_shared": 3, "max_iter_partition": 2, "max_iter_task": 2}
VARIANTS = [
    (RMTGBRegressor, "regression", {}),
    (RMTGBRegressor, "regression", {"loss": "absolute_error"}),
    (RMTGBClassifier, "binary", {"subsample": 0.5}),
]


thread_counts, tell = [], numba.set_num_threads
numba.set_num_threads = lambda n: (thread_counts.append(n), tell(n))


def run(seed):
    """What models predict that are fitted here."""
    out = []
    for estimator_class, task_type, options in VARIANTS:
        X, y = make_task_groups(4000, task_type=task_type, n_fourier=20, random_state=seed)
        model = estimator_class(task_column="task", random_state=0, **ROUNDS, **options).fit(X, y)
        out += [model.outlier_score_, model.predict(X), *model.decompose(X).values()]
    return out


def assert_same(results, expected):
    assert len(results) == len(expected)
    for one, other in zip(results, expected):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    print("the same numbers")
'''

JOBLIB = """
from joblib import Parallel, delayed

if __name__ == "__main__":
    expected = [run(seed) for seed in range(3)]
    assert_same(Parallel(n_jobs=2, backend=sys.argv[1])(delayed(run)(seed) for seed in range(3)), expected)
    assert_same([run(0)], expected[:1])  # the parent goes on working
    assert max(thread_counts) == 2
"""

FORK = """
import multiprocessing

if __name__ == "__main__":
    expected = [run(seed) for seed in range(3)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert_same(pool.map(run, range(3)), expected)
    assert_same([run(0)], expected[:1])
    assert max(thread_counts) == 2
"""

THREADS = """
from concurrent.futures import ThreadPoolExecutor

if __name__ == "__main__":
    with ThreadPoolExecutor(4) as pool:  # the very first launch of the kernels is concurrent
        results = list(pool.map(run, [0, 1, 2, 0]))
    assert_same(results, [run(seed) for seed in (0, 1, 2, 0)])
    assert max(thread_counts) == 2
"""

GRID_SEARCH = """
from sklearn.model_selection import GridSearchCV

if __name__ == "__main__":
    X, y = make_task_groups(200, random_state=0)
    model = RMTGBRegressor(task_column="task", random_state=0, **ROUNDS)
    grid = {"max_iter_task": [0, 2], "learning_rate": [0.1, 0.5]}
    scores = [
        GridSearchCV(model, grid, cv=3, n_jobs=n_jobs).fit(X, y).cv_results_["mean_test_score"] for n_jobs in (1, 2)
    ]
    assert_same([scores[:1]], [scores[1:]])
"""


def python(script, *arguments, **options):
    """Run a script in a process of its own; it must succeed and say that the numbers are the same."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "NUMBA_NUM_THREADS": "2"} | options.pop("env", {})
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


NO_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.parametrize(
    ("script", "argument", "layer"),
    [
        pytest.param(JOBLIB, "loky", "default", id="joblib loky", marks=SLOW),
        pytest.param(JOBLIB, "threading", "default", id="joblib threading", marks=SLOW),
        pytest.param(JOBLIB, "multiprocessing", "default", id="joblib multiprocessing", marks=[NO_FORK, SLOW]),
        pytest.param(GRID_SEARCH, "", "default", id="grid search", marks=SLOW),
        pytest.param(THREADS, "", "default", id="threads"),
        pytest.param(FORK, "", "default", id="fork", marks=[NO_FORK, SLOW]),
        # numba's own pool is the fragile one: it ends the process where two threads enter it.
        pytest.param(THREADS, "", "workqueue", id="threads, workqueue", marks=SLOW),
        pytest.param(JOBLIB, "threading", "workqueue", id="joblib threading, workqueue", marks=SLOW),
        pytest.param(FORK, "", "workqueue", id="fork, workqueue", marks=[NO_FORK, SLOW]),
    ],
)
def test_the_numbers_are_the_same_wherever_the_model_is_fitted(script, argument, layer, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(MODELS + script)
    out = python(path, argument, env={} if layer == "default" else {"NUMBA_THREADING_LAYER": layer})
    assert "the same numbers" in out


READ_ONLY = """
import os
import sys
import warnings

package, home = sys.argv[1:]
for folder in (package, os.path.join(package, "_core", "boosting"), home):
    try:
        open(os.path.join(folder, "probe"), "w").close()
    except OSError:
        pass
    else:
        print("writable")
        sys.exit()

warnings.simplefilter("error")
import numpy as np

import mttab
from mttab import RMTGBRegressor

assert os.path.dirname(mttab.__file__) == package
X = np.column_stack([np.arange(60.0), np.arange(60) % 2])
y = X[:, 0] * (1 - 2 * X[:, 1])
model = RMTGBRegressor(task_column=1, max_iter_shared=2, max_iter_partition=1, max_iter_task=2).fit(X, y)
assert model.score(X, y) > 0.1
print("fitted and predicted")
"""


def heed_permissions():
    """Take from a process that runs as root the right to write where the permission bits forbid it."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="folders are made read-only by their permission bits")
def test_a_read_only_package_without_a_home_to_cache_in_works(tmp_path):
    package, home = tmp_path / "site" / "mttab", tmp_path / "home"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    home.mkdir()
    script = tmp_path / "script.py"
    script.write_text(READ_ONLY)
    folders = [home, package.parent, *(path for path in package.parent.rglob("*") if path.is_dir())]
    writable = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    for folder in folders:
        folder.chmod(folder.stat().st_mode & ~writable)
    caches = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in caches}
    # Code that is hardly optimised compiles in a third of the time.
    environment |= {
        "PYTHONPATH": str(package.parent),
        "HOME": str(home),
        "NUMBA_OPT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, str(script), str(package), str(home)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            preexec_fn=heed_permissions if sys.platform == "linux" and os.geteuid() == 0 else None,
        )
    finally:
        for folder in folders:
            folder.chmod(folder.stat().st_mode | stat.S_IWUSR)
    if done.stdout.strip() == "writable":
        pytest.skip("this process may write to read-only folders, as root does")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fitted and predicted"
    assert not list(package.rglob("*.nb[ci]")), "the cache was written after all"
