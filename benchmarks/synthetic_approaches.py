"""The approaches to row tasks that `bench_synthetic.py` compares: options of our engine, and LightGBM as reference."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import mttab
import row_task_peers
from row_task_peers import Problem, spread
from target_task_peers import (
    ONLY_SHARED,
    Peer,
    TargetProblem,
    estimator_settings,
    lightgbm_settings,
    make_peers,
    predict_rmtgb,
    rmtgb_settings,
)
from tuning import Budget

TASK_AS_CATEGORY: dict[str, Any] = {"categorical_features": ["task"]}
ONLY_TASK: dict[str, Any] = {"max_iter_shared": 0, "max_iter_partition": 0}
PAPER_ROUNDS: dict[str, Any] = {"max_iter_shared": 50, "max_iter_partition": 50, "max_iter_task": 100}


class Approach(NamedTuple):
    """How one approach predicts (with an outlier score per task if it has one), and what decides its models."""

    predict: Callable[[Problem], tuple[np.ndarray, np.ndarray | None]]
    settings: Callable[[bool], dict[str, Any]]  # of "is it classification?"


def predict_estimator(problem: Problem, *, name: str, knows_task: bool, options: dict) -> tuple[np.ndarray, Any]:
    """Fit one of our estimators; without the task it is one model for all rows."""
    model = make_estimator(name, knows_task, options, bool(problem.n_classes))
    known = {"random_state": problem.seed, "n_jobs": problem.n_jobs}
    model.set_params(**{option: value for option, value in known.items() if option in model.get_params()})
    X, X_test = problem.X_train, problem.X_test
    if not knows_task:
        X, X_test = X.drop(columns=problem.task), X_test.drop(columns=problem.task)
    model.fit(X, problem.y_train)
    has_score = knows_task and options.get("max_iter_partition") != 0  # without block 2 it is the same for all tasks
    score = getattr(model, "outlier_score_", None) if has_score else None
    if not problem.n_classes:
        return np.asarray(model.predict(X_test)), score
    return spread(np.asarray(model.predict_proba(X_test)), model.classes_, problem.n_classes), score


def make_estimator(name: str, knows_task: bool, options: dict, is_classification: bool) -> Any:
    kind = getattr(mttab, name + ("Classifier" if is_classification else "Regressor"))
    if options.get("algorithm") == "paper":
        options = {**kind.paper_parameters(), **options}
    return kind(**options, **({"task_column": "task"} if knows_task else {}))


def estimator_approach(name: str = "RMTGB", *, knows_task: bool = True, **options: Any) -> Approach:
    def settings(is_classification: bool) -> dict[str, Any]:
        model = make_estimator(name, knows_task, options, is_classification)
        return {"mttab": mttab.__version__, "estimator": type(model).__name__} | estimator_settings(model)

    return Approach(partial(predict_estimator, name=name, knows_task=knows_task, options=options), settings)


def lightgbm_approach(peer: str) -> Approach:
    def predict(problem: Problem) -> tuple[np.ndarray, None]:
        return row_task_peers.PEERS[peer].predict(problem), None

    return Approach(predict, lambda is_classification: lightgbm_settings())


OURS = "R-MTGB"
ROW_TASK_APPROACHES: dict[str, Approach] = {
    OURS: estimator_approach(),
    "R-MTGB blocks": estimator_approach(sharing="blocks"),
    "R-MTGB paper mode": estimator_approach(algorithm="paper", **PAPER_ROUNDS),
    "pooled": estimator_approach(knows_task=False, **ONLY_SHARED),
    "category": estimator_approach(**ONLY_SHARED, **TASK_AS_CATEGORY),
    "per task": estimator_approach(**ONLY_TASK),
    **{name: lightgbm_approach(name) for name in ("LightGBM pooled", "LightGBM category", "LightGBM per task")},
    "RMB-CLE": estimator_approach("TaskCluster"),
}


def predict_pooled_targets(problem: TargetProblem) -> dict[str, Any]:
    """Block 1 only over all targets, each in its own unit: it cannot tell one target from another."""
    return predict_rmtgb(problem, **ONLY_SHARED)


def target_approaches(budget: Budget) -> dict[str, Peer]:
    """The approaches to several targets per row, at this budget."""
    peers = {name: peer for name, peer in make_peers(budget).items() if peer.package in (None, "torch")}
    return peers | {"pooled": Peer(predict_pooled_targets, partial(rmtgb_settings, **ONLY_SHARED))}
