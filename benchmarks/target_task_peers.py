"""The approaches to several targets per row: one function each, and one row in `PEERS`.

Each takes a `TargetProblem` and returns a prediction per target for its test rows: (n_test,) values for regression,
(n_test, n_classes) probabilities for classes, or the error that kept it from predicting this target.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import mttab
import row_task_peers
from row_task_peers import categories_as_text, fit_lightgbm, run_lightgbm, spread, systematic_sample
from tuning import (
    LIGHTGBM,
    NEIGHBOURS,
    NETWORKS,
    RMTGB,
    Budget,
    best_of,
    draw_trials,
    fit_best_network,
    network_space,
    rmtgb_score,
)

Predictions = dict[str, np.ndarray | Exception]

# A model of our engine with the shared block only.
ONLY_SHARED: dict[str, Any] = {"max_iter_partition": 0, "max_iter_task": 0}


@dataclass(frozen=True)
class TargetProblem:
    """Training and test rows with a label per target; a missing label is NaN."""

    X_train: pd.DataFrame  # categorical features have dtype category
    Y_train: pd.DataFrame
    X_test: pd.DataFrame
    Y_test: pd.DataFrame
    kinds: dict[str, str]  # target -> "regression", "binary" or "multiclass"
    seed: int
    n_jobs: int

    @cached_property
    def classes(self) -> dict[str, list[Any]]:
        """Target -> its sorted classes, none for regression."""
        labels = {target: pd.concat([self.Y_train[target], self.Y_test[target]]).dropna() for target in self.kinds}
        return {t: [] if kind == "regression" else sorted(labels[t].unique()) for t, kind in self.kinds.items()}

    def codes(self, target: str, *, test: bool = False) -> np.ndarray:
        """Labels as floats, classes as 0 … n_classes − 1, NaN where missing."""
        y = (self.Y_test if test else self.Y_train)[target]
        if self.kinds[target] == "regression":
            return y.to_numpy(dtype=float)
        codes = pd.Categorical(y, categories=self.classes[target]).codes.astype(float)
        return np.where(codes < 0, np.nan, codes)

    def training_rows(self, target: str) -> "SingleTarget":
        """The rows that have a label of this target."""
        y = self.codes(target)
        has_label = ~np.isnan(y)
        n_classes = len(self.classes[target])
        y = y[has_label].astype(int) if n_classes else y[has_label]
        is_validation = systematic_sample([y if n_classes else np.zeros(len(y))], self.seed)
        return SingleTarget(self.X_train[has_label].reset_index(drop=True), y, n_classes, is_validation)


class SingleTarget(NamedTuple):
    """What a model of one target is fitted on; `is_validation` marks the rows that stop it early."""

    X: pd.DataFrame
    y: np.ndarray
    n_classes: int  # 0 for regression
    is_validation: np.ndarray


def for_each_target(predict_one: Callable[[TargetProblem, str], np.ndarray]) -> Callable[[TargetProblem], Predictions]:
    """One model per target; one that fails does not take the others with it."""

    def predict(problem: TargetProblem) -> Predictions:
        predictions: Predictions = {}
        for target in problem.kinds:
            try:
                predictions[target] = predict_one(problem, target)
            except Exception as error:
                predictions[target] = error
        return predictions

    return predict


# LightGBM ------------------------------------------------------------------------------------------------------------


def predict_lightgbm(problem: TargetProblem, target: str, *, n_trials: int = 1) -> np.ndarray:
    """As in `bench_accuracy.py`: its defaults, or the best of some settings, stopped early on 15 % of the rows."""
    rows = problem.training_rows(target)
    kind = row_task_peers.Problem(
        rows.X,
        rows.y,
        problem.X_test,
        problem.codes(target, test=True),
        "",
        rows.n_classes,
        problem.seed,
        problem.n_jobs,
    )

    def fit(settings: dict[str, Any]) -> Any:
        return fit_lightgbm(rows.X, rows.y, rows.is_validation, kind, **settings)

    def score(booster: Any) -> float:
        return -next(iter(booster.best_score["valid_0"].values()))

    booster = best_of(draw_trials(LIGHTGBM, n_trials, problem.seed), fit, score)
    return run_lightgbm(booster, problem.X_test, rows.n_classes)


def lightgbm_settings(n_trials: int = 1) -> dict[str, Any]:
    """What decides a LightGBM model besides the data and the seed."""
    names = ("VALIDATION_SHARE", "MAX_ROUNDS", "PATIENCE", "LEARNING_RATE", "MIN_TASK_ROWS")
    known = {name.lower(): getattr(row_task_peers, name) for name in names}
    return {"lightgbm": version("lightgbm"), **known, **trials_of(LIGHTGBM, n_trials)}


def trials_of(space: dict[str, list[Any]], n_trials: int) -> dict[str, Any]:
    """What a tuned approach chooses from, as part of its settings."""
    return {"n_trials": n_trials, "space": space} if n_trials > 1 else {}


# R-MTGB --------------------------------------------------------------------------------------------------------------


def predict_rmtgb(problem: TargetProblem, *, n_trials: int = 1, **options: Any) -> Predictions:
    """Targets of one kind share a model, with each of them as a task; a multiclass target has one of its own."""
    predictions: Predictions = {}
    for targets in joint_targets(problem.kinds):
        try:
            predictions |= predict_rmtgb_jointly(problem, targets, n_trials, options)
        except Exception as error:
            predictions |= dict.fromkeys(targets, error)
    return {target: predictions[target] for target in problem.kinds}


def joint_targets(kinds: dict[str, str]) -> list[list[str]]:
    together = [[target for target in kinds if kinds[target] == kind] for kind in ("regression", "binary")]
    return [targets for targets in together if targets] + [[t] for t in kinds if kinds[t] == "multiclass"]


def predict_rmtgb_jointly(
    problem: TargetProblem, targets: list[str], n_trials: int, options: dict[str, Any]
) -> Predictions:
    if len(targets) == 1:  # one task: nothing to share
        return {targets[0]: predict_rmtgb_alone(problem, targets[0], n_trials=n_trials)}
    Y = pd.DataFrame({target: problem.codes(target) for target in targets})
    has_label = Y.notna().any(axis=1).to_numpy()
    if problem.kinds[targets[0]] == "regression":
        options = {"target_scaling": "task", **options}
        model = fit_rmtgb(problem, "Regressor", problem.X_train[has_label], Y[has_label], n_trials, options)
        return dict(zip(targets, np.asarray(model.predict(problem.X_test)).T, strict=True))
    model = fit_rmtgb(problem, "Classifier", problem.X_train[has_label], Y[has_label], n_trials, options)
    return dict(zip(targets, model.predict_proba(problem.X_test), strict=True))


def predict_rmtgb_alone(problem: TargetProblem, target: str, *, n_trials: int = 1) -> np.ndarray:
    """Our engine with one task, on the rows that have a label."""
    rows = problem.training_rows(target)
    if not rows.n_classes:
        return fit_rmtgb(problem, "Regressor", rows.X, rows.y, n_trials, ONLY_SHARED).predict(problem.X_test)
    model = fit_rmtgb(problem, "Classifier", rows.X, rows.y, n_trials, ONLY_SHARED)
    return spread(model.predict_proba(problem.X_test), model.classes_, rows.n_classes)


def fit_rmtgb(problem: TargetProblem, kind: str, X: Any, Y: Any, n_trials: int, options: dict[str, Any]) -> Any:
    """The default options, or the best of some settings by the loss on its own validation rows."""
    stopped = {"early_stopping": True} if n_trials > 1 else {}
    known = {"random_state": problem.seed, "n_jobs": problem.n_jobs, **stopped, **options}

    def fit(settings: dict[str, Any]) -> Any:
        return getattr(mttab, f"RMTGB{kind}")(**known, **settings).fit(X, Y)

    return best_of(draw_trials(RMTGB, n_trials, problem.seed), fit, rmtgb_score)


def rmtgb_settings(*, n_trials: int = 1, **options: Any) -> dict[str, Any]:
    """All options of the models, so that a changed default is another approach."""
    kinds = (mttab.RMTGBRegressor, mttab.RMTGBClassifier)
    known = {kind.__name__: estimator_settings(kind(**options)) for kind in kinds}
    return {"mttab": mttab.__version__, **known, **trials_of(RMTGB, n_trials)}


def estimator_settings(model: Any) -> dict[str, Any]:
    """The options of an estimator that can change what it predicts, the seed apart."""
    return {
        name: value for name, value in model.get_params().items() if name not in ("n_jobs", "random_state", "verbose")
    }


# MultiTabNet and its neighbours ---------------------------------------------------------------------------------------


def predict_network(problem: TargetProblem, **how: Any) -> Predictions:
    """All targets in one network: one setting, or the best of some."""
    return {**run_network(problem, list(problem.kinds), **how)}


def predict_network_alone(problem: TargetProblem, target: str, **how: Any) -> np.ndarray:
    """The same network with this target only."""
    return run_network(problem, [target], **how)[target]


def run_network(
    problem: TargetProblem, targets: list[str], *, name: str, n_trials: int, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    import torch

    torch.set_num_threads(problem.n_jobs)
    Y = problem.Y_train[targets]
    Y = Y.assign(**{t: Y[t].cat.remove_unused_categories() for t in Y.select_dtypes("category")})
    has_label = Y.notna().any(axis=1).to_numpy()
    options = {"task_types": {t: problem.kinds[t] for t in targets}, **options}
    model = fit_best_network(name, problem.X_train[has_label], Y[has_label], n_trials, problem.seed, **options)
    predictions: dict[str, np.ndarray] = {}
    if any(problem.kinds[t] == "regression" for t in targets):
        values = pd.DataFrame(model.predict(problem.X_test), columns=targets)
        predictions = {t: values[t].to_numpy(dtype=float) for t in targets if problem.kinds[t] == "regression"}
    if len(predictions) < len(targets):
        proba = model.predict_proba(problem.X_test)
        proba = proba if isinstance(proba, dict) else {targets[0]: proba}
        for t in set(targets) - set(predictions):
            known = [c for c in problem.classes[t] if c in set(Y[t].dropna())]
            columns = [problem.classes[t].index(c) for c in known]
            predictions[t] = spread(np.asarray(proba[t]), np.array(columns), len(problem.classes[t]))
    return predictions


def network_settings(name: str, n_trials: int, options: dict[str, Any]) -> dict[str, Any]:
    known = estimator_settings(getattr(mttab, name)(**options))
    return {"mttab": mttab.__version__, name: known, **trials_of(network_space(name), n_trials)}


# RealMLP and TabM ----------------------------------------------------------------------------------------------------

# Both pick their best epoch on the same 15 % as LightGBM, by RMSE or log loss (their own default for classes is the
# error rate, which their authors advise against where AUC counts; RealMLP then goes without label smoothing).
PYTABKIT_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "RealMLP_TD": {"Regressor": {}, "Classifier": {"val_metric_name": "cross_entropy", "use_ls": False}},
    "TabM_D": {"Regressor": {}, "Classifier": {"val_metric_name": "cross_entropy"}},
}


def predict_pytabkit(problem: TargetProblem, target: str, *, model: str) -> np.ndarray:
    """Tuned defaults of the package, one fit, no cross-validation, no refit."""
    import pytabkit

    rows = problem.training_rows(target)
    kind = "Classifier" if rows.n_classes else "Regressor"
    estimator = getattr(pytabkit, f"{model}_{kind}")(
        n_cv=1, n_refit=0, random_state=problem.seed, n_threads=problem.n_jobs, **PYTABKIT_OPTIONS[model][kind]
    )
    X, X_test = impute(rows.X, problem.X_test)
    names = list(rows.X.select_dtypes("category").columns)
    with hushed():
        estimator.fit(X, rows.y, val_idxs=np.flatnonzero(rows.is_validation), cat_col_names=names)
        if not rows.n_classes:
            return np.asarray(estimator.predict(X_test), dtype=float)
        return spread(np.asarray(estimator.predict_proba(X_test)), estimator.classes_, rows.n_classes)


@contextmanager
def hushed() -> Iterator[None]:
    """Without the trainer's announcements and the warnings of its internals, which would drown the tables."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def impute(X: pd.DataFrame, X_test: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables without gaps, which pytabkit refuses: the training median and an indicator; categories as text."""
    numeric = X.select_dtypes("number").columns
    median = X[numeric].median().fillna(0.0)
    gappy = [column for column in numeric if X[column].isna().any()]
    parts = []
    for part in (X, X_test):
        indicators = {f"{column} is missing": part[column].isna().astype(float) for column in gappy}
        parts.append(categories_as_text(part.assign(**part[numeric].fillna(median), **indicators)))
    return parts[0], parts[1]


def pytabkit_settings(model: str) -> dict[str, Any]:
    return {"pytabkit": version("pytabkit"), "torch": version("torch"), "model": model, **PYTABKIT_OPTIONS[model]}


# ---------------------------------------------------------------------------------------------------------------------


class Peer(NamedTuple):
    """How one approach predicts, what decides its models, the package it needs and its single-task version.

    One that is not `by_default` runs only when asked for by name.
    """

    predict: Callable[[TargetProblem], Predictions]
    settings: Callable[[], dict[str, Any]]
    package: str | None = None
    single: str | None = None
    by_default: bool = True

    @property
    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


BASELINE = "LightGBM per target"
TUNED_BASELINE = "LightGBM tuned per target"


def make_peers(budget: Budget) -> dict[str, Peer]:
    """All approaches at this budget."""
    tuned: dict[str, Any] = {"n_trials": budget.n_trials}
    tuned_single = for_each_target(partial(predict_rmtgb_alone, **tuned))
    peers = {
        BASELINE: Peer(for_each_target(predict_lightgbm), lightgbm_settings),
        TUNED_BASELINE: Peer(
            for_each_target(partial(predict_lightgbm, **tuned)), partial(lightgbm_settings, **tuned), by_default=False
        ),
        "R-MTGB": Peer(predict_rmtgb, rmtgb_settings, single="R-MTGB per target"),
        "R-MTGB per target": Peer(for_each_target(predict_rmtgb_alone), partial(rmtgb_settings, **ONLY_SHARED)),
        "R-MTGB tuned": Peer(
            partial(predict_rmtgb, **tuned), partial(rmtgb_settings, **tuned),
            single="R-MTGB tuned per target", by_default=False,
        ),
        "R-MTGB tuned per target": Peer(
            tuned_single, partial(rmtgb_settings, **tuned, **ONLY_SHARED), by_default=False
        ),
        "RealMLP per target": pytabkit_peer("RealMLP_TD"),
        "TabM per target": pytabkit_peer("TabM_D", by_default=False),  # without a GPU minutes to hours for a target
    }  # fmt: skip
    for name in NETWORKS:
        peers |= network_peers(name, name, 1, budget, by_default=name not in NEIGHBOURS)
        peers |= network_peers(f"{name} tuned", name, budget.n_trials, budget, by_default=False)
    return peers


def pytabkit_peer(model: str, **options: Any) -> Peer:
    predict = for_each_target(partial(predict_pytabkit, model=model))
    return Peer(predict, partial(pytabkit_settings, model), "pytabkit", **options)


def network_peers(called: str, name: str, n_trials: int, budget: Budget, *, by_default: bool) -> dict[str, Peer]:
    """A network for all targets and one for each."""
    how: dict[str, Any] = {"name": name, "n_trials": n_trials, "options": dict(budget.network)}
    settings = partial(network_settings, **how)
    together, alone = partial(predict_network, **how), for_each_target(partial(predict_network_alone, **how))
    return {
        called: Peer(together, settings, "torch", f"{called} per target", by_default),
        f"{called} per target": Peer(alone, settings, "torch", by_default=by_default),
    }


PEERS = make_peers(Budget())
