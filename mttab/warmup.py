"""Fill the cache of compiled kernels, so that the first fit of a user does not wait: ``python -m mttab.warmup``.

A machine on which several processes are about to start is the place for it, or an image, if the folder of the cache can
be written to where it runs: numba does not read it otherwise.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from mttab._core.boosting.threads import threads_even_if_busy
from mttab.boosting import RMTGBClassifier, RMTGBRegressor

# Enough cells for kernels that run in several threads, and for rows that are packed. Of the first rows alone, which are
# few, trees are grown without histograms.
N_ROWS, N_FEATURES, N_TASKS = 12_000, 20, 3


def warm_up() -> float:
    """Compile the kernels of R-MTGB that are not in the cache yet.

    Which losses are met later is not known, so the usual ones are compiled: squared error, absolute error, and the log
    loss of two and more classes. The cache is where numba keeps it, `NUMBA_CACHE_DIR` if that is set.

    Returns
    -------
    float
        Seconds that it took.

    Examples
    --------
    >>> from mttab.warmup import warm_up
    >>> seconds = warm_up()  # doctest: +SKIP
    """
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_ROWS, N_FEATURES))
    X[:, -2] = rng.integers(0, 4, N_ROWS)
    X[:, -1] = rng.integers(0, N_TASKS, N_ROWS)
    y = X[:, 0] + X[:, -2] * (X[:, -1] > 0) + 0.1 * rng.standard_normal(N_ROWS)
    classes = np.digitize(y, [-1.0, 1.0])
    few, weight = slice(0, 250), rng.uniform(0.5, 2.0, N_ROWS)
    rounds: dict[str, Any] = {"max_iter_shared": 2, "max_iter_partition": 2, "max_iter_task": 2}
    options: dict[str, Any] = {
        "task_column": N_FEATURES - 1,
        "categorical_features": [N_FEATURES - 2],
        "random_state": 0,
    }
    with threads_even_if_busy():
        for n_jobs in {1, -1 if (os.cpu_count() or 1) > 1 else 1}:
            more = {**options, **rounds, "n_jobs": n_jobs}
            for loss in ("squared_error", "absolute_error"):
                RMTGBRegressor(loss=loss, **more).fit(X, y).predict(X)
            RMTGBRegressor(**more).fit(X, y, sample_weight=weight).predict(X[:1])
            for labels in (classes > 0, classes):
                RMTGBClassifier(**more).fit(X, labels).predict(X)
                RMTGBClassifier(grow_policy="leafwise", **more).fit(X, labels).predict(X)
            RMTGBRegressor(grow_policy="leafwise", **more).fit(X, y).predict(X)
            RMTGBRegressor(**options, n_jobs=n_jobs).fit(X[few], y[few]).predict(X)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(f"The kernels of mttab are compiled and in the cache ({warm_up():.0f} s).")
