"""The approaches that `bench_accuracy.py` compares on row tasks: one function each, and one row in `PEERS`.

Each takes a `Problem` and returns the predictions for its test rows: (n_test,) values for regression,
(n_test, n_classes) probabilities for classes. All peers stop early on the same 15 % of the training rows, drawn in
proportion from every task and class; R-MTGB draws its own, as its defaults say.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import pandas as pd

import mttab

VALIDATION_SHARE = 0.15
MAX_ROUNDS = 2000
PATIENCE = 50
LEARNING_RATE = 0.1
MIN_TASK_ROWS = 10  # a task with fewer training rows, or with one class, gets no model of its own

BUDGET = (
    f"peers: {VALIDATION_SHARE:.0%} of the training rows (by task and class) for early stopping after {PATIENCE} "
    f"rounds without gain, at most {MAX_ROUNDS} rounds, learning rate {LEARNING_RATE}; R-MTGB: its defaults"
)


@dataclass(frozen=True)
class Problem:
    """Training and test rows of one view and seed."""

    X_train: pd.DataFrame  # features and the task column; categorical features have dtype category
    y_train: np.ndarray  # numbers, or the codes 0 … n_classes − 1
    X_test: pd.DataFrame
    y_test: np.ndarray
    task: str  # name of the task column
    n_classes: int  # 0 for regression
    seed: int
    n_jobs: int

    @cached_property
    def is_validation(self) -> np.ndarray:
        """(n_train,) which training rows the peers hold out for early stopping."""
        task = pd.factorize(self.X_train[self.task])[0]
        return systematic_sample([self.y_train if self.n_classes else np.zeros(len(task)), task], self.seed)


def systematic_sample(keys: list[np.ndarray], seed: int) -> np.ndarray:
    """Mark `VALIDATION_SHARE` of the rows: sorted by `keys` (last key first), every so-manyth, rows alike in any order.

    However small a task is, its share is right to within one row.
    """
    rng = np.random.default_rng(seed)
    n_rows = len(keys[0])
    order = np.lexsort([rng.random(n_rows), *keys])
    ticks = np.floor(np.arange(n_rows + 1) * VALIDATION_SHARE + rng.random())
    is_drawn = np.zeros(n_rows, dtype=bool)
    is_drawn[order[np.diff(ticks) > 0]] = True
    return is_drawn


# R-MTGB --------------------------------------------------------------------------------------------------------------


def predict_rmtgb(problem: Problem) -> np.ndarray:
    options: dict[str, Any] = {
        "task_column": problem.task,
        "random_state": problem.seed,
        "n_jobs": problem.n_jobs,
    }
    if not problem.n_classes:
        return mttab.RMTGBRegressor(**options).fit(problem.X_train, problem.y_train).predict(problem.X_test)
    model = mttab.RMTGBClassifier(**options).fit(problem.X_train, problem.y_train)
    return spread(model.predict_proba(problem.X_test), model.classes_, problem.n_classes)


def spread(probabilities: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Columns of the classes that a model knows -> columns of all classes, 0 for the others."""
    all_classes = np.zeros((len(probabilities), n_classes))
    all_classes[:, np.asarray(classes, dtype=int)] = probabilities
    return all_classes


# LightGBM ------------------------------------------------------------------------------------------------------------


def fit_lightgbm(
    X: pd.DataFrame, y: np.ndarray, is_validation: np.ndarray, problem: Problem, **settings: Any
) -> lightgbm.Booster:
    """LightGBM's defaults, or other settings, with early stopping, and leaves that can split even the smallest task.

    It refuses some characters in column names, so columns go by number.
    """
    objective = {0: "regression", 2: "binary"}.get(problem.n_classes, "multiclass")
    options = {
        "objective": objective,
        "learning_rate": LEARNING_RATE,
        "min_data_in_leaf": max(1, min(20, (~is_validation).sum() // 5)),  # its default is 20; a task may have 16 rows
        "num_threads": problem.n_jobs,
        "seed": problem.seed,
        "verbosity": -1,
        **settings,
    }
    if objective == "multiclass":
        options["num_class"] = problem.n_classes
    X = X.set_axis([f"f{j}" for j in range(X.shape[1])], axis=1)
    train = lightgbm.Dataset(X[~is_validation], y[~is_validation])
    held_out = lightgbm.Dataset(X[is_validation], y[is_validation], reference=train)
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    return lightgbm.train(options, train, MAX_ROUNDS, valid_sets=[held_out], callbacks=[stop])


def run_lightgbm(booster: lightgbm.Booster, X: pd.DataFrame, n_classes: int) -> np.ndarray:
    output = np.asarray(booster.predict(X.set_axis([f"f{j}" for j in range(X.shape[1])], axis=1)))
    return np.column_stack([1 - output, output]) if n_classes == 2 else output


def predict_lightgbm_pooled(problem: Problem) -> np.ndarray:
    X_train, X_test = (X.drop(columns=problem.task) for X in (problem.X_train, problem.X_test))
    booster = fit_lightgbm(X_train, problem.y_train, problem.is_validation, problem)
    return run_lightgbm(booster, X_test, problem.n_classes)


def predict_lightgbm_category(problem: Problem) -> np.ndarray:
    X_train, X_test = task_as_category(problem)
    booster = fit_lightgbm(X_train, problem.y_train, problem.is_validation, problem)
    return run_lightgbm(booster, X_test, problem.n_classes)


def predict_lightgbm_per_task(problem: Problem) -> np.ndarray:
    """One model per task; `MIN_TASK_ROWS` says which tasks get their mean or their class frequencies instead.

    A task that is new in the test rows gets those of all training rows.
    """
    X_train, X_test = (X.drop(columns=problem.task) for X in (problem.X_train, problem.X_test))
    k = problem.n_classes
    predictions = np.empty((len(X_test), k) if k else len(X_test))
    train_rows = problem.X_train.groupby(problem.task, observed=True).indices
    for task, rows in problem.X_test.groupby(problem.task, observed=True).indices.items():
        used = train_rows.get(task, np.arange(0))
        y = problem.y_train[used]
        if len(y) < MIN_TASK_ROWS or (k and len(np.unique(y)) < 2):
            predictions[rows] = constant_prediction(y if len(y) else problem.y_train, k)
            continue
        is_validation = systematic_sample([y if k else np.zeros(len(y))], problem.seed)
        booster = fit_lightgbm(X_train.iloc[used], y, is_validation, problem)
        predictions[rows] = run_lightgbm(booster, X_test.iloc[rows], k)
    return predictions


def constant_prediction(y: np.ndarray, n_classes: int) -> Any:
    """The mean, or class frequencies with one more row of each class so that none has probability 0."""
    return (np.bincount(y, minlength=n_classes) + 1) / (len(y) + n_classes) if n_classes else y.mean()


def task_as_category(problem: Problem) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with the task column as one more categorical feature."""
    tasks = pd.CategoricalDtype(problem.X_train[problem.task].unique())
    return tuple(X.assign(**{problem.task: X[problem.task].astype(tasks)}) for X in (problem.X_train, problem.X_test))


# Optional peers ------------------------------------------------------------------------------------------------------


def predict_catboost_category(problem: Problem) -> np.ndarray:
    from catboost import CatBoostClassifier, CatBoostRegressor

    X_train, X_test = (categories_as_text(X) for X in task_as_category(problem))
    options: dict[str, Any] = {
        "iterations": MAX_ROUNDS,
        "learning_rate": LEARNING_RATE,
        "early_stopping_rounds": PATIENCE,
        "cat_features": categorical_columns(problem),
        "thread_count": problem.n_jobs,
        "random_seed": problem.seed,
        "allow_writing_files": False,
        "verbose": False,
    }
    kind = CatBoostClassifier if problem.n_classes else CatBoostRegressor
    return fit_and_predict(kind(**options), X_train, X_test, problem)


def predict_chimeraboost_category(problem: Problem) -> np.ndarray:
    """Its learning rate is its own choice, by the number of rows."""
    from chimeraboost import ChimeraBoostClassifier, ChimeraBoostRegressor

    X_train, X_test = (categories_as_text(X) for X in task_as_category(problem))
    options: dict[str, Any] = {
        "n_estimators": MAX_ROUNDS,
        "early_stopping_rounds": PATIENCE,
        "cat_features": categorical_columns(problem),
        "thread_count": problem.n_jobs,
        "random_state": problem.seed,
    }
    kind = ChimeraBoostClassifier if problem.n_classes else ChimeraBoostRegressor
    return fit_and_predict(kind(**options), X_train, X_test, problem)


def fit_and_predict(model: Any, X_train: pd.DataFrame, X_test: pd.DataFrame, problem: Problem) -> np.ndarray:
    """Fit a scikit-learn-like model that takes `eval_set`."""
    held_out = problem.is_validation
    y = problem.y_train
    model.fit(X_train[~held_out], y[~held_out], eval_set=(X_train[held_out], y[held_out]))
    if not problem.n_classes:
        return model.predict(X_test)
    return spread(model.predict_proba(X_test), model.classes_, problem.n_classes)


def categorical_columns(problem: Problem) -> list[str]:
    return [*problem.X_train.select_dtypes("category").columns.difference([problem.task], sort=False), problem.task]


def categories_as_text(X: pd.DataFrame) -> pd.DataFrame:
    """Categories as strings, a missing one as the string "missing": what peers without pandas categories take."""
    texts = {c: X[c].astype(object).where(X[c].notna(), "missing").astype(str) for c in X.select_dtypes("category")}
    return X.assign(**texts)


# ---------------------------------------------------------------------------------------------------------------------


class Peer(NamedTuple):
    """How one approach predicts, and the package it needs if mttab does not bring it."""

    predict: Callable[[Problem], np.ndarray]
    package: str | None = None

    @property
    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


OURS = "R-MTGB"
PEERS = {
    OURS: Peer(predict_rmtgb),
    "LightGBM pooled": Peer(predict_lightgbm_pooled),
    "LightGBM category": Peer(predict_lightgbm_category),
    "LightGBM per task": Peer(predict_lightgbm_per_task),
    "CatBoost category": Peer(predict_catboost_category, "catboost"),
    "chimeraboost category": Peer(predict_chimeraboost_category, "chimeraboost"),
}
