"""The table of `bench_scale`: features, a label, and tasks of equal size."""

from typing import Any

import numpy as np
import pandas as pd

# A symmetric tree of so many levels sends the root's histogram, then per level those of the smaller children together.
N_LEVELS, N_TASKS = 6, 20
N_HISTOGRAMS = 2 ** (N_LEVELS - 1)
SHARED_ONLY: dict[str, Any] = {
    "task_column": "task",
    "early_stopping": False,
    "sharing": "pooled",
    "max_iter_partition": 0,
    "max_iter_task": 0,
    "max_leaf_nodes": 2**N_LEVELS,
    "random_state": 0,
}
TASKS_ONLY = SHARED_ONLY | {"sharing": "blocks", "max_iter_shared": 1}


def make_rows(n_rows: int, n_features: int, seed: int = 0, n_tasks: int = N_TASKS) -> tuple[pd.DataFrame, pd.Series]:
    """Rows in the order of their tasks; the label asks for many features, so that all levels of a tree are full."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n_rows, n_features)).astype(np.float32)).add_prefix("x")
    y = X.iloc[:, :8].sum(axis=1) + X["x0"] * X["x1"] + np.sin(3.0 * X["x2"]) + 0.1 * rng.normal(size=n_rows)
    return X.assign(task=np.arange(n_rows) * n_tasks // n_rows), y
