"""Cross errors: how wrong the small model of each task is about the rows of every other, and unseen ones of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.utils.parallel import Parallel, delayed

from mttab._core.holdout import content_keys, content_places
from mttab._task_rows import (
    Ask,
    TaskRows,
    ask_class,
    ask_probability,
    ask_value,
    fit_model_of_group,
    seeded_clone,
    take_rows,
)
from mttab.boosting import RMTGBClassifier, RMTGBRegressor

# The small model of a task where none is given.
BOOSTING_PILOT: dict[str, Any] = {
    "sharing": "separate",
    "max_iter_task": 60,
    "learning_rate": 0.1,
    "early_stopping": False,
    "l2_regularization": 0.0,
    "task_column": None,
}
# Rows that the models of all tasks are asked about at once.
MAX_ASKED_AT_ONCE = 500_000


class Metric(NamedTuple):
    """Error of predictions: the mean, or its root, of a loss per row, (y, said) -> (n,).

    reads : "value", "class" (votes) or "probability", what ``said`` is
    is_rate : whether no error in a few rows is to count as half an error
    """

    loss: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reads: str
    is_root: bool = False
    is_rate: bool = False


def _log_loss(y: np.ndarray, proba: np.ndarray) -> np.ndarray:
    # A class that a task's model has not seen is not impossible.
    return -np.log(np.clip(proba[np.arange(len(y)), y.astype(np.int64)], 1e-3, 1.0))


def _brier(y: np.ndarray, proba: np.ndarray) -> np.ndarray:
    return ((proba - np.eye(proba.shape[1])[y.astype(np.int64)]) ** 2).sum(axis=1)


def _squared_error(y: np.ndarray, said: np.ndarray) -> np.ndarray:
    return (said - y) ** 2


_RMSE = Metric(_squared_error, "value", is_root=True)
_BRIER = Metric(_brier, "probability")
REGRESSION_METRICS = {
    "auto": _RMSE,
    "root_mean_squared_error": _RMSE,
    "squared_error": Metric(_squared_error, "value"),
    "absolute_error": Metric(lambda y, said: np.abs(said - y), "value"),
}
CLASSIFICATION_METRICS = {
    "auto": _BRIER,
    "brier": _BRIER,
    "zero_one": Metric(lambda y, votes: (votes.argmax(axis=1) != y).astype(np.float64), "class", is_rate=True),
    "log_loss": Metric(_log_loss, "probability"),
}


class Judge:
    """Errors of predictions of rows with several tasks, by a metric by name or a function (y_true, y_pred)."""

    def __init__(self, metric: Any, rows: TaskRows):
        known = REGRESSION_METRICS if rows.classes is None else CLASSIFICATION_METRICS
        self.classes = rows.classes
        self.function = None if isinstance(metric, str) else metric
        self.metric = known[metric] if isinstance(metric, str) else None
        reads = self.metric.reads if self.metric else ("value" if rows.classes is None else "class")
        self.ask: Ask = ask_value
        if reads != "value":
            assert rows.classes is not None
            self.ask = (ask_class if reads == "class" else ask_probability)(rows.classes)
        self.needs_probabilities = reads == "probability"

    def errors(self, said: np.ndarray, rows: TaskRows, place: np.ndarray | None = None) -> np.ndarray:
        """Error (n_tasks,) of one model's predictions on the rows of each task; NaN for a task without rows."""
        if self.metric is None:
            return np.array([self._call(said, rows, np.flatnonzero(rows.task == t)) for t in range(rows.n_tasks)])
        mass = np.bincount(rows.task, rows.mass, rows.n_tasks)
        total = np.bincount(rows.task, rows.mass * self.metric.loss(rows.y, said), rows.n_tasks)
        error = np.divide(total, mass, out=np.full(rows.n_tasks, np.nan), where=mass > 0)
        if self.metric.is_rate and place is not None:
            # DEVIATION(similarity): no error in n rows counts as half an error; the published 1/E would be infinite.
            n_different = np.zeros(rows.n_tasks)
            np.maximum.at(n_different, rows.task, place + 1)
            error = np.fmax(error, np.where(mass > 0, 0.5 / np.maximum(n_different, 1), np.nan))
        return np.sqrt(error) if self.metric.is_root else error

    def _call(self, said: np.ndarray, rows: TaskRows, here: np.ndarray) -> float:
        assert self.function is not None
        if len(here) == 0:
            return np.nan
        part = rows.take(here)
        predicted = said[here] if self.classes is None else self.classes[said[here].argmax(axis=1)]
        weights = {} if rows.weight is None else {"sample_weight": part.weight}
        error = float(self.function(part.labels, predicted, **weights))
        if not error >= 0:
            raise ValueError(
                f"metric returned {error!r}, but errors must be 0 or more, less is better; pass for example "
                "sklearn.metrics.mean_absolute_error."
            )
        return error


@dataclass(frozen=True)
class CrossAnswers:
    """What the model of every task says of the judged rows of all tasks.

    said : per task an array with a row for each judged row
    rows : the judged rows; place : int (n,), of each among the different ones of its task
    """

    said: list[np.ndarray]
    rows: TaskRows
    place: np.ndarray
    judge: Judge

    def errors(self) -> np.ndarray:
        """Error (n_tasks, n_tasks) of the model of the task of a column on the rows of the task of a row."""
        return np.stack([self.judge.errors(said, self.rows, self.place) for said in self.said], axis=1)

    def errors_of_groups(self, group: np.ndarray) -> np.ndarray:
        """Error (n_tasks,), on the rows of each task, of the mean of what the models of its group say."""
        group_of_row = group[self.rows.task]
        mean = np.empty_like(self.said[0])
        for g in np.unique(group):
            here, members = group_of_row == g, np.flatnonzero(group == g)
            mean[here] = sum(self.said[t][here] for t in members) / len(members)
        return self.judge.errors(mean, self.rows, self.place)


def ask_across(
    rows: TaskRows, pilot: Any, judge: Judge, n_folds: int | None, max_rows: int | None, seed: int, n_jobs: int | None
) -> CrossAnswers:
    """Fit a model per task and ask each of them about the rows of all.

    Parameters
    ----------
    rows : TaskRows
    pilot : estimator or None
        What is fitted on the rows of each task; None is the booster.
    judge : Judge
    n_folds : int or None
        Folds: the models of all tasks that are asked about a fold have not seen its rows. None: they have seen all.
    max_rows : int or None
        Different rows of a task that count, at most.
    seed : int
        Decides which, and what is in which fold, together with what is in a row.
    n_jobs : int or None
    """
    key = _row_keys(rows, seed)
    if max_rows is not None:
        keep = content_places(rows.task, key) < max_rows
        rows, key = rows.take(keep), key[keep]
    place = content_places(rows.task, key, None if rows.classes is None else rows.y)
    if n_folds is None:
        parts = [(np.ones(len(key), dtype=bool), np.ones(len(key), dtype=bool))]
    elif rows.has_ids:
        parts = [(place % n_folds != k, place % n_folds == k) for k in range(n_folds)]
    else:  # the labels of a row that has several are in one fold: they may err together
        of_row = content_places(np.zeros(len(key)), key)
        parts = [(of_row % n_folds != k, of_row % n_folds == k) for k in range(n_folds)]
    parts = [(train, judged) for train, judged in parts if train.any() and judged.any()]
    if not parts:  # no task has two different rows
        parts = [(np.ones(len(key), dtype=bool), np.ones(len(key), dtype=bool))]
    said: list[list[np.ndarray]] = [[] for _ in range(rows.n_tasks)]
    order = np.concatenate([np.flatnonzero(judged) for _, judged in parts])
    for train, judged in parts:
        answers = _ask_boosting if pilot is None else _ask_clones
        for t, answer in enumerate(answers(rows.take(train), rows.take(judged), pilot, judge, seed, n_jobs)):
            said[t].append(answer)
    return CrossAnswers([np.concatenate(answer) for answer in said], rows.take(order), place[order], judge)


def _row_keys(rows: TaskRows, seed: int) -> np.ndarray:
    """Key (n,) of every entry; the entries of one row share theirs where a row has several."""
    if rows.has_ids or rows.n_tasks == 1:
        return content_keys(rows.table, rows.y, seed)
    y = np.full((len(rows.features), rows.n_tasks), np.nan)
    y[rows.row_idx, rows.task] = rows.y
    return content_keys(rows.features, y, seed)[rows.row_idx]


def _ask_boosting(
    train: TaskRows, judged: TaskRows, pilot: None, judge: Judge, seed: int, n_jobs: int | None
) -> Iterator[np.ndarray]:
    """What the booster of every task says of the judged rows; those of all tasks are one fit, without shared trees."""
    if train.classes is not None and len(np.unique(train.y)) == 1:
        yield from _ask_clones(train, judged, DummyClassifier(), judge, seed, None)
        return
    if train.classes is None:
        model = RMTGBRegressor(**BOOSTING_PILOT, target_scaling="task", random_state=seed, n_jobs=n_jobs)
    else:
        model = RMTGBClassifier(**BOOSTING_PILOT, random_state=seed, n_jobs=n_jobs)
    model.fit(train.table, train.labels, sample_weight=train.weight, task=train.task)
    table, n = judged.table, len(judged.y)
    n_at_once = max(1, MAX_ASKED_AT_ONCE // n)
    for first in range(0, train.n_tasks, n_at_once):
        tasks = np.arange(first, min(first + n_at_once, train.n_tasks))
        tiled = take_rows(table, np.tile(np.arange(n), len(tasks)))
        yield from np.split(judge.ask(_OfTasks(model, np.repeat(tasks, n)), tiled), len(tasks))


class _OfTasks:
    """A fitted model and the task of each row that it will be asked about."""

    def __init__(self, model: Any, task: np.ndarray):
        self.model, self.task = model, task
        self.classes_ = getattr(model, "classes_", None)

    def predict(self, table: Any) -> np.ndarray:
        return self.model.predict(table, task=self.task)

    def predict_proba(self, table: Any) -> np.ndarray:
        return self.model.predict_proba(table, task=self.task)


def _ask_clones(
    train: TaskRows, judged: TaskRows, pilot: Any, judge: Judge, seed: int, n_jobs: int | None
) -> list[np.ndarray]:
    """What a clone of the pilot per task says of the judged rows."""

    def answer(t: int) -> np.ndarray:
        here = train.task == t
        # The only row of a task is in no training part: its model there is that of all tasks.
        part = train.take(here) if here.any() else train
        name = f"task {train.task_labels.tolist()[t]!r} in search of groups"
        return judge.ask(fit_model_of_group(seeded_clone(pilot, seed), part, name), judged.table)

    return Parallel(n_jobs=n_jobs)(delayed(answer)(t) for t in range(train.n_tasks))
