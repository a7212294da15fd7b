"""The made-up tasks of `bench_synthetic.py`: their settings, how a draw is made, what is measured on it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import zero_one_loss

from mttab.datasets import make_multitask_regression, make_task_groups
from mttab.metrics import task_scores
from row_task_peers import Problem
from target_task_peers import TargetProblem

Settings = dict[str, Any]  # arguments of a generator and the numbers of rows; part of a run's key

# Outlier tasks: eight tasks share a function and two others share another one (arXiv 2507.11411).
OUTLIERS: Settings = {"n_train": 300, "n_test": 1000, "n_features": 5, "group_sizes": [8, 2], "length_scale": 0.25}
# Grouped tasks: 25 tasks in five groups of unequal size, functions of unequal smoothness (arXiv 2602.14231).
GROUPS: Settings = {
    "n_train": 100, "n_test": 200, "n_features": 5, "group_sizes": [9, 6, 5, 3, 2], "length_scale": [0.1, 0.5],
}  # fmt: skip
TASK_TYPES = ("regression", "binary")
# MultiTab-Bench: seven targets per row (arXiv 2511.09970); each sweep changes one setting of it.
SWEEP_BASE: Settings = {
    "n_train": 5000, "n_test": 5000, "n_features": 32, "n_tasks": 7, "correlation": 0.4, "degree": None, "noise": 0.01,
}  # fmt: skip
SWEEPS: dict[str, list[Any]] = {
    "n_tasks": [2, 4, 7, 12, 20],
    "correlation": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
    "degree": [1, 2, 3, 4],
}
QUICK_SWEEPS: dict[str, list[Any]] = {"n_tasks": [3, 7], "correlation": [0.0, 0.4, 0.8], "degree": [1]}
QUICK_BASE: Settings = {**SWEEP_BASE, "n_train": 1000, "n_test": 2000}


def sweep_points(quick: bool, base: Settings, sweeps: dict[str, list[Any]]) -> dict[str, dict[Any, Settings]]:
    """Sweep -> value of the swept setting -> all settings; what sweeps have in common is the same run.

    `base` overrides single settings, `sweeps`, unless it is empty, which sweeps there are and their values.
    """
    base = {**(QUICK_BASE if quick else SWEEP_BASE), **base}
    sweeps = sweeps or (QUICK_SWEEPS if quick else SWEEPS)
    return {name: {value: {**base, name: value} for value in values} for name, values in sweeps.items()}


def draw_row_tasks(settings: Settings, draw: int) -> tuple[Problem, np.ndarray]:
    """One draw of grouped tasks with fresh test rows of the same tasks, and the group of each task."""
    bunch, X_test, y_test = _task_groups(_frozen(settings), draw)
    n_classes = 0 if settings["task_type"] == "regression" else 2
    problem = Problem(
        bunch.data, bunch.target.to_numpy(), X_test, y_test.to_numpy(),
        task="task", n_classes=n_classes, seed=draw, n_jobs=1,
    )  # fmt: skip
    return problem, bunch.task_group


def draw_targets(settings: Settings, draw: int) -> TargetProblem:
    """One draw of correlated targets with fresh test rows of the same tasks."""
    bunch, X_test, Y_test = _correlated_targets(_frozen(settings), draw)
    kinds = dict.fromkeys(bunch.target.columns, "regression")
    return TargetProblem(bunch.data, bunch.target, X_test, Y_test, kinds, seed=draw, n_jobs=1)


@lru_cache(maxsize=1)  # the approaches to one draw follow each other
def _task_groups(settings: tuple, draw: int) -> tuple[Any, pd.DataFrame, pd.Series]:
    options = dict(settings)
    n_train, n_test = options.pop("n_train"), options.pop("n_test")
    bunch = make_task_groups(n_train, **options, return_bunch=True, random_state=draw)
    return bunch, *bunch.sample(n_test)


@lru_cache(maxsize=1)
def _correlated_targets(settings: tuple, draw: int) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    options = dict(settings)
    n_train, n_test = options.pop("n_train"), options.pop("n_test")
    bunch = make_multitask_regression(n_train, **options, return_bunch=True, random_state=draw)
    return bunch, *bunch.sample(n_test)


def _frozen(settings: Settings) -> tuple:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in settings.items())


def errors_per_task(problem: Problem, predictions: np.ndarray) -> dict[str, list[float]]:
    """Loss -> one value per task: RMSE, or the share of wrong classes and the log loss."""
    if not problem.n_classes:
        return {"RMSE": _scores(problem, predictions, "root_mean_squared_error")}
    return {
        "error rate": _scores(problem, predictions.argmax(axis=1), zero_one_loss),
        "log loss": _scores(problem, np.clip(predictions, 1e-15, 1.0), "log_loss"),
    }


def _scores(problem: Problem, predictions: np.ndarray, metric: Any) -> list[float]:
    task = problem.X_test[problem.task].to_numpy()
    labels = range(problem.n_classes) if problem.n_classes else None
    table = task_scores(problem.y_test, predictions, metric=metric, task=task, labels=labels, standard_error=False)
    return finite(table["score"].tolist())


def errors_per_target(problem: TargetProblem, predictions: dict[str, Any]) -> dict[str, float]:
    """RMSE of each target."""
    table = task_scores(problem.Y_test, predictions, metric="root_mean_squared_error", standard_error=False)
    return dict(zip(table.index, finite(table["score"].tolist()), strict=True))


def finite(figures: Sequence[float]) -> list[float]:
    """The figures, or an error: a prediction that is no number is a failure, not a figure."""
    if not np.isfinite(figures).all():
        raise ValueError(f"the errors per task are {list(figures)}")
    return list(figures)
