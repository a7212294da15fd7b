"""Tasks in groups: random smooth functions, partly shared within a group, partly a task's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import Bunch

from ._arguments import NOISE_UNITS, TASK_TYPES, count, one_of, per_task, per_task_count
from ._classes import classes_of, cuts_near_normal
from ._fourier import FourierFunction
from ._streams import Streams

_PURPOSES = ("group_function", "own_function", "reference", "rows", "noise", "order")
_N_REFERENCE = 1000  # points that stand for the uniform distribution of x
_MAX_WHOLE_DRAWS = 100  # rows of a task drawn anew in the hope that every class has its share
_MAX_REDRAWS = 1000


def make_task_groups(
    n_samples: int | Sequence[int] = 300,
    n_features: int = 5,
    group_sizes: Sequence[int] = (8, 2),
    *,
    shared_share: float | Sequence[float] = 0.9,
    n_fourier: int = 500,
    length_scale: float | tuple[float, float] = 0.25,
    noise: float | Sequence[float] = 0.0,
    noise_unit: str = "absolute",
    task_type: str = "regression",
    n_classes: int = 3,
    min_class_share: float = 0.1,
    shuffle: bool = True,
    as_frame: bool = True,
    return_bunch: bool = False,
    random_state: Any = None,
) -> Any:
    """Row tasks that share a smooth random function within their group.

    Task t of group g has the score ``c * f_g(x) + (1 - c) * f_t(x)``, where c is `shared_share`, x is uniform on
    [-1, 1] in every feature, and f_g and f_t are random Fourier functions [1]_. A function drawn this way has mean 0
    and variance 1 at every x, so the labels of all tasks are of the same order; nothing is rescaled afterwards.

    Parameters
    ----------
    n_samples : int or sequence of int, default=300
        Rows per task: one number for all tasks, or one per task.
    n_features : int, default=5
        Number of features, all of them used by every function.
    group_sizes : sequence of int, default=(8, 2)
        Number of tasks in each group. Tasks are numbered group by group: with (8, 2) tasks 8 and 9 are the second
        group. Tasks outside the largest group (or groups, if several are largest) are called outlier tasks.
    shared_share : float or sequence of float, default=0.9
        Share c in [0, 1] of the group's function in a task's score, for all tasks or per task. 1 makes the tasks of
        a group the same, 0 makes all tasks unrelated.
    n_fourier : int, default=500
        Number of cosines in each function.
    length_scale : float or (float, float), default=0.25
        Smoothness of the functions, as a multiple of `n_features`: a larger value is smoother. A pair (low, high)
        draws it uniformly, anew for each function.
    noise : float or sequence of float, default=0.0
        Standard deviation of the normal noise added to the score, for all tasks or per task. For classes it is added
        before the score is cut.
    noise_unit : {"absolute", "label_sd"}, default="absolute"
        Whether `noise` is in units of the score or a fraction of the standard deviation over x of the task's
        noise-free score.
    task_type : {"regression", "binary", "multiclass"}, default="regression"
        "regression" returns the score, the others the class it falls in: for "binary" its sign (1 if positive), for
        "multiclass" 0 … `n_classes` - 1, cut at the quantiles of N(0, 1).
    n_classes : int, default=3
        Number of classes when `task_type` is "multiclass".
    min_class_share : float, default=0.1
        Least share of each class in each task, at most 1 / number of classes. The cuts of a task move as little as
        needed for it to hold over the distribution of x; the rows of a task are redrawn until it holds in them too,
        noise apart, and after 100 draws a class that still lacks rows takes them from further ones. The number of rows
        is rounded up, or down where the task has too few rows for that (three thirds of 100).
    shuffle : bool, default=True
        Whether rows come in random order; otherwise task by task.
    as_frame : bool, default=True
        True: X is a DataFrame of the features ``x0``, ``x1``, … and the column ``task`` (integers 0, 1, …), y a
        Series. False: X is an array with the task number in its last column, y an array.
    return_bunch : bool, default=False
        Whether to return a Bunch instead of (X, y).
    random_state : None, int, Generator or RandomState, default=None
        Seed. Functions, rows and noise have streams of their own, so `noise`, `task_type` or the number of rows of one
        task change nothing else.

    Returns
    -------
    (X, y) : tuple
        X of shape (n_rows, n_features + 1) and y of shape (n_rows,), n_rows being the sum of `n_samples` over tasks.
    bunch : sklearn.utils.Bunch, only if `return_bunch`
        data, target : X and y as above.
        task : ndarray of shape (n_rows,), the task of each row.
        task_group : ndarray of shape (n_tasks,), the group of each task.
        outlier_tasks : ndarray of int, the tasks outside the largest group.
        noise_free : ndarray of shape (n_rows,), the score before noise and cutting.
        noise_sd : ndarray of shape (n_tasks,), in units of the score.
        cuts : ndarray of shape (n_tasks, n_classes - 1), where classes are cut (no columns for regression).
        feature_names : list of str, without the task column.
        sample : callable ``sample(n_samples, *, random_state=None, return_bunch=False)``, fresh rows of the same task
        functions in the same form, for testing; every call without `random_state` gives new rows.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    See Also
    --------
    make_multitask : Tasks that all have a label for each row, with an exact correlation.

    References
    ----------
    .. [1] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato, "Robust-Multi-Task Gradient Boosting", 2025,
       arXiv:2507.11411.
    .. [2] S. Emami, G. Martínez-Muñoz, D. Hernández-Lobato, "Robust Multi-Task Boosting using Clustering and Local
       Ensembling", 2026, arXiv:2602.14231.

    Examples
    --------
    The four scenarios of [1]_: pooling is best, separate models are best, sharing is best, and sharing is best but two
    of ten tasks are outliers.

    >>> from mttab.datasets import make_task_groups
    >>> X, y = make_task_groups(group_sizes=(10,), shared_share=1.0, random_state=0)
    >>> X, y = make_task_groups(group_sizes=(10,), shared_share=0.0, random_state=0)
    >>> X, y = make_task_groups(group_sizes=(10,), shared_share=0.9, random_state=0)
    >>> X, y = make_task_groups(group_sizes=(8, 2), shared_share=0.9, random_state=0)
    >>> X.shape, list(X.columns)
    ((3000, 6), ['x0', 'x1', 'x2', 'x3', 'x4', 'task'])

    The scenario of [2]_, 25 tasks in 5 unequal groups, with test rows of the same tasks:

    >>> bunch = make_task_groups(
    ...     100, group_sizes=(9, 6, 5, 3, 2), length_scale=(0.1, 0.5), return_bunch=True, random_state=0
    ... )
    >>> X_test, y_test = bunch.sample(200)
    >>> X_test.shape
    (5000, 6)
    >>> bunch.task_group
    array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3,
           3, 4, 4])
    """
    n_features = count(n_features, "n_features", low=1)
    n_fourier = count(n_fourier, "n_fourier", low=1)
    task_group = _task_group(group_sizes)
    n_tasks = len(task_group)
    share = per_task(shared_share, "shared_share", n_tasks, low=0.0, high=1.0)
    noise_sd = per_task(noise, "noise", n_tasks, low=0.0)
    is_relative = one_of(noise_unit, "noise_unit", NOISE_UNITS) == "label_sd"
    scales = _scale_range(length_scale, n_features)
    n_classes = _n_classes(task_type, n_classes, min_class_share)
    streams = Streams(random_state, _PURPOSES)

    def function(purpose: str, index: int) -> FourierFunction:
        return FourierFunction.draw(streams.generator(purpose, index), n_features, n_fourier, scales)

    groups = [function("group_function", g) for g in range(task_group[-1] + 1)]
    own = [function("own_function", t) for t in range(n_tasks)]
    functions = [_TaskFunction(groups[g], f, float(c)) for g, f, c in zip(task_group, own, share, strict=True)]
    cuts = np.empty((n_tasks, 0))
    if n_classes > 1 or (is_relative and noise_sd.any()):
        reference = streams.generator("reference").uniform(-1.0, 1.0, (_N_REFERENCE, n_features))
        scores = [f(reference) for f in functions]
        cuts = np.array([cuts_near_normal(score, n_classes, min_class_share) for score in scores])
        noise_sd *= [score.std() for score in scores] if is_relative else 1.0
    source = _TaskGroups(
        functions=functions,
        task_group=task_group,
        noise_sd=noise_sd,
        cuts=cuts,
        n_features=n_features,
        min_class_share=min_class_share,
        shuffle=shuffle,
        as_frame=as_frame,
        streams=streams,
    )
    bunch = source.draw(per_task_count(n_samples, "n_samples", n_tasks, low=1), streams, redraw=True)
    return bunch if return_bunch else (bunch.data, bunch.target)


@dataclass(frozen=True)
class _TaskFunction:
    """Noise-free score of one task."""

    group: FourierFunction
    own: FourierFunction
    shared_share: float

    def __call__(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        score = np.zeros(len(X))
        if self.shared_share > 0.0:
            score += self.shared_share * self.group(X)
        if self.shared_share < 1.0:
            score += (1.0 - self.shared_share) * self.own(X)
        return score


@dataclass(frozen=True)
class _TaskGroups:
    """The fixed part of a data set: what stays the same when fresh rows are drawn."""

    functions: list[_TaskFunction]
    task_group: NDArray[np.int64]
    noise_sd: NDArray[np.float64]
    cuts: NDArray[np.float64]  # (n_tasks, n_classes - 1)
    n_features: int
    min_class_share: float
    shuffle: bool
    as_frame: bool
    streams: Streams

    def sample(self, n_samples: int | Sequence[int], *, random_state: Any = None, return_bunch: bool = False) -> Any:
        """Fresh rows of the same tasks, `n_samples` per task: (X, y) or a Bunch."""
        n_rows = per_task_count(n_samples, "n_samples", len(self.functions), low=0)
        # .fresh(): the seed that made the training rows must not give the same rows again
        streams = self.streams.fresh() if random_state is None else Streams(random_state, _PURPOSES).fresh()
        bunch = self.draw(n_rows, streams, redraw=False)
        return bunch if return_bunch else (bunch.data, bunch.target)

    def draw(self, n_rows: NDArray[np.int64], streams: Streams, *, redraw: bool) -> Bunch:
        """Rows of all tasks, as the Bunch that users get."""
        parts = [self._rows_of_task(t, n, streams, redraw) for t, n in enumerate(n_rows)]
        features = np.concatenate([x for x, _ in parts])
        score = np.concatenate([s for _, s in parts])
        task = np.repeat(np.arange(len(n_rows)), n_rows)
        # Every task has a noise stream of its own, and draws it whether or not it has noise.
        draws = [streams.generator("noise", t).standard_normal(n) for t, n in enumerate(n_rows)]
        target: NDArray[Any] = score + self.noise_sd[task] * np.concatenate(draws)
        if self.cuts.shape[1]:
            labels = np.empty(len(target), dtype=np.int64)
            for t, cuts in enumerate(self.cuts):
                labels[task == t] = classes_of(target[task == t], cuts)
            target = labels
        if self.shuffle:
            order = streams.generator("order").permutation(len(task))
            features, score, task, target = features[order], score[order], task[order], target[order]
        return self._bunch(features, score, task, target)

    def _rows_of_task(
        self, task: int, n: int, streams: Streams, redraw: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Features and noise-free scores of n rows; a redraw takes its rows from the same stream."""
        rng = streams.generator("rows", task)
        n_classes = self.cuts.shape[1] + 1
        n_wanted = _rows_per_class(self.min_class_share, n_classes, n) if redraw and n_classes > 1 else 0
        pool, labels = np.empty((0, self.n_features)), np.empty(0, dtype=np.int64)
        for attempt in range(_MAX_REDRAWS):
            X = rng.uniform(-1.0, 1.0, (n, self.n_features))
            score = self.functions[task](X)
            drawn = classes_of(score, self.cuts[task])
            if np.bincount(drawn, minlength=n_classes).min() >= n_wanted:
                return X, score
            if attempt >= _MAX_WHOLE_DRAWS:  # no luck with whole draws: rare classes take rows from all later ones
                pool, labels = np.concatenate([pool, X]), np.concatenate([labels, drawn])
                if np.bincount(labels, minlength=n_classes).min() >= n_wanted:
                    break
        X = pool[_first_with_shares(labels, n, n_classes, n_wanted)]
        return X, self.functions[task](X)

    def _bunch(
        self,
        features: NDArray[np.float64],
        score: NDArray[np.float64],
        task: NDArray[np.int64],
        target: NDArray[Any],
    ) -> Bunch:
        names = [f"x{j}" for j in range(self.n_features)]
        data: Any = np.column_stack([features, task])
        if self.as_frame:
            data = pd.DataFrame(features, columns=names).assign(task=task)
        sizes = np.bincount(self.task_group)
        return Bunch(
            data=data,
            target=pd.Series(target, name="y") if self.as_frame else target,
            task=task,
            task_group=self.task_group,
            outlier_tasks=np.flatnonzero(sizes[self.task_group] < sizes.max()),
            noise_free=score,
            noise_sd=self.noise_sd,
            cuts=self.cuts,
            feature_names=names,
            sample=self.sample,
        )


def _rows_per_class(min_class_share: float, n_classes: int, n: int) -> int:
    """Smallest number of rows of a class among n; where rounding up asks for too many, it rounds down."""
    n_wanted = int(np.ceil(min_class_share * n - 1e-9))
    return n_wanted if n_wanted * n_classes <= n else int(min_class_share * n)


def _first_with_shares(labels: NDArray[np.int64], n: int, n_classes: int, n_wanted: int) -> NDArray[np.intp]:
    """The first n rows, but for those that must go so that every class has its first `n_wanted` rows."""
    required = np.concatenate([np.flatnonzero(labels == c)[:n_wanted] for c in range(n_classes)])
    others = np.setdiff1d(np.arange(len(labels)), required)
    return np.sort(np.concatenate([required, others[: n - len(required)]]))


def _task_group(group_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Group of each task, shape (n_tasks,)."""
    sizes = np.asarray(group_sizes)
    if sizes.ndim != 1 or len(sizes) == 0 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise ValueError(
            f"group_sizes={group_sizes!r} must be a sequence with the number of tasks, at least 1, of each group."
        )
    return np.repeat(np.arange(len(sizes)), sizes)


def _scale_range(length_scale: float | tuple[float, float], n_features: int) -> tuple[float, float]:
    """Lowest and highest length scale in units of the features."""
    try:
        low, high = np.broadcast_to(np.asarray(length_scale, dtype=np.float64), 2)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not 0.0 < low <= high < np.inf:
        raise ValueError(f"length_scale={length_scale!r} must be a positive number or a pair 0 < low <= high.")
    return float(low) * n_features, float(high) * n_features


def _n_classes(task_type: str, n_classes: int, min_class_share: float) -> int:
    """Return the number of classes, 1 for regression."""
    if one_of(task_type, "task_type", TASK_TYPES) == "regression":
        return 1
    n_classes = 2 if task_type == "binary" else count(n_classes, "n_classes", low=2)
    if not isinstance(min_class_share, Real) or not 0.0 <= min_class_share <= 1.0 / n_classes:
        raise ValueError(f"min_class_share={min_class_share!r} must be a number between 0 and 1/{n_classes}.")
    return n_classes
