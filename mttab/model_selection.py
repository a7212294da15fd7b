"""Splitters that respect tasks: every task in every part, or whole tasks left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state, indexable

from mttab._core.tasks import TaskLabels, factorize_labels
from mttab._core.validation import split_task_column

__all__ = ["LeaveTasksOut", "TaskShuffleSplit", "TaskStratifiedKFold"]


# More distinct whole numbers than this are a quantity, such as a price, and no classes.
_MAX_WHOLE_NUMBERS = 100


class _TaskSplitter(BaseCrossValidator):
    """What all splitters here share: where the task ids come from."""

    __metadata_request__split: ClassVar = {"groups": True}

    n_splits: Any
    task_column: Any
    random_state: Any

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Training and test rows of every split.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Table, with the task column if the splitter names one.
        y : array-like of shape (n,), default=None
            Targets; where the splitter stratifies, classes keep their proportion.
        groups : array-like of shape (n,), default=None
            Task ids, if there is no task column.

        Yields
        ------
        train, test : ndarray of int
            Row numbers, ascending.

        Raises
        ------
        ValueError
            If rows or tasks are too few for the splits, or the ids come both ways or not at all.
        """
        X, y, groups = indexable(X, y, groups)
        task, n_tasks = self._encode_tasks(X, groups)
        yield from self._split_tasks(task, n_tasks, y)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of splits.

        Parameters
        ----------
        X : array-like of shape (n, n_features), default=None
            Table with the task column. Only `LeaveTasksOut` without `n_splits` looks at it.
        y : object, default=None
            Ignored.
        groups : array-like of shape (n,), default=None
            Task ids, where there is no task column; likewise.

        Returns
        -------
        int
            `n_splits`; for `LeaveTasksOut` without one, the number of tasks over `n_tasks`, rounded up.
        """
        return self._count_splits(X, groups)

    def _count_splits(self, X: Any, groups: Any) -> int:
        return self.n_splits

    def _split_tasks(self, task: np.ndarray, n_tasks: int, y: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`split`, with tasks as indices 0 … n_tasks − 1."""
        raise NotImplementedError

    def _encode_tasks(self, X: Any, groups: Any) -> tuple[np.ndarray, int]:
        """Task index of each row, and the number of tasks."""
        if (groups is None) == (self.task_column is None):
            way = "in neither way" if groups is None else "in both ways"
            raise ValueError(
                f"the task ids reach {type(self).__name__} {way}; give it task_column=, or pass the ids as groups= "
                "of split (of cross_validate, of GridSearchCV.fit)."
            )
        if self.task_column is not None:
            groups = split_task_column(X, self.task_column)[1]
        tasks = TaskLabels.fit(groups, name="groups")
        return tasks.encode(groups), tasks.n_tasks


class TaskStratifiedKFold(_TaskSplitter):
    """K folds with each task, and each class within a task, in equal parts in every fold.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    task_column : str, int or list of str or int, default=None
        Column (or columns) of X with the task ids. None: the ids are the `groups` of `split`.
    shuffle : bool, default=False
        Whether rows are assigned at random. Otherwise the rows of one task and class that share a fold stand together
        in X, as in scikit-learn's StratifiedKFold.
    random_state : int, RandomState instance or None, default=None
        Seed of `shuffle`; without effect if that is False.
    stratify_y : bool, default=True
        Whether to spread the classes of y as well. Without effect for a y that is no 1-D column of classes (strings,
        bools, at most 100 different whole numbers): a continuous y, several columns, or none.

    Notes
    -----
    Every row is in exactly one test fold. The test rows of a task differ by at most one between any two folds, so do
    those of each class within a task, and so do the sizes of the folds: the rows left over once a task has been dealt
    out evenly go to the folds that are smallest so far, and among those to the ones short of the row's class.

    Tiny tasks are allowed. A task with fewer rows than folds is in some test folds only, and a task with a single row
    is tested once, by a model that never saw it; estimators then follow their `unseen_task`. To keep such tasks in
    training always, use `TaskShuffleSplit`.

    Examples
    --------
    >>> import numpy as np
    >>> from mttab.model_selection import TaskStratifiedKFold
    >>> school = np.array(["a"] * 4 + ["b"] * 2)
    >>> for train, test in TaskStratifiedKFold(n_splits=2).split(np.zeros((6, 1)), groups=school):
    ...     print(test, school[test])
    [0 1 4] ['a' 'a' 'b']
    [2 3 5] ['a' 'a' 'b']
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        task_column: Any = None,
        shuffle: bool = False,
        random_state: Any = None,
        stratify_y: bool = True,
    ) -> None:
        _check_at_least(2, n_splits=n_splits)
        self.n_splits = n_splits
        self.task_column = task_column
        self.shuffle = shuffle
        self.random_state = random_state
        self.stratify_y = stratify_y

    def _split_tasks(self, task: np.ndarray, n_tasks: int, y: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if len(task) < self.n_splits:
            raise ValueError(f"n_splits={self.n_splits} is more than the {len(task)} rows; use fewer folds.")
        class_ = _encode_classes(y, len(task)) if self.stratify_y else np.zeros(len(task), dtype=np.intp)
        fold = np.empty(len(task), dtype=np.intp)
        rng = check_random_state(self.random_state) if self.shuffle else None
        order = np.lexsort((class_, task))
        dealer = _Dealer(self.n_splits, int(class_.max()) + 1)
        ends = np.cumsum(np.bincount(task, minlength=n_tasks))
        for rows in np.split(order, ends[:-1]):
            fold[rows] = dealer.deal(class_[rows], rng)
        for k in range(self.n_splits):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


class _Dealer:
    """Deals the rows of one task after another to the folds like cards, and remembers what every fold holds.

    A task sorted by class is dealt in rounds over all folds, so that neither the task nor a class in it differs by more
    than one between folds. What is free is which fold is served first, second, …: the assignment that keeps the
    sums of squares of fold sizes (first) and of class sizes (second) smallest.
    """

    def __init__(self, n_folds: int, n_classes: int) -> None:
        self._held = np.zeros((n_folds, n_classes))

    def deal(self, class_: np.ndarray, rng: np.random.RandomState | None) -> np.ndarray:
        """Fold of each row of a task; `class_` ascends."""
        n_folds, n_classes = self._held.shape
        seat = np.arange(len(class_)) % n_folds
        hand = np.bincount(seat * n_classes + class_, minlength=n_folds * n_classes).reshape(n_folds, n_classes)
        by_class = hand @ (self._held - self._held.min(axis=0)).T
        size = self._held.sum(axis=1)
        by_size = np.outer(hand.sum(axis=1) - hand.sum(axis=1).min(), size - size.min())
        # The factor makes one row of fold size dearer than any exchange of classes.
        seats, served = linear_sum_assignment(by_size * (1.0 + n_folds * by_class.max()) + by_class)
        self._held[served] += hand[seats]
        fold = served[seat]
        for start, end in _runs(class_):
            fold[start:end] = np.sort(fold[start:end]) if rng is None else rng.permutation(fold[start:end])
        return fold


class TaskShuffleSplit(_TaskSplitter):
    """Random splits with each task, and each class within a task, in proportion in both parts.

    Parameters
    ----------
    n_splits : int, default=10
        Number of splits, drawn independently.
    task_column : str, int or list of str or int, default=None
        Column (or columns) of X with the task ids. None: the ids are the `groups` of `split`.
    test_size : float or int, default=None
        Share (between 0 and 1) or number of test rows. None: what `train_size` leaves, or 0.2 without one.
    train_size : float or int, default=None
        Share or number of training rows. None: all rows that are not tested.
    random_state : int, RandomState instance or None, default=None
        Seed of the splits.
    stratify_y : bool, default=True
        Whether classes of y keep their proportion too; see `TaskStratifiedKFold`.

    Notes
    -----
    With f the share of test rows, a task of n rows gets ⌊f n⌋ or ⌈f n⌉ of them, a class within a task likewise, and
    so does the table as a whole; which of the two is drawn such that the expectation is f n (systematic sampling).
    A task of two rows at f = 0.2 thus has a test row in two splits of five.

    Tiny tasks: every task keeps at least one training row in every split, so that no test row belongs to a task that
    training has not seen. A task with a single row is therefore never tested, and where tasks are tiny or f is large
    there are slightly fewer test rows than f asks for.

    Examples
    --------
    >>> import numpy as np
    >>> from mttab.model_selection import TaskShuffleSplit
    >>> school = np.array(["a"] * 10 + ["b"] * 5 + ["c"])
    >>> splitter = TaskShuffleSplit(n_splits=2, test_size=0.2, random_state=0)
    >>> for train, test in splitter.split(np.zeros((16, 1)), groups=school):
    ...     print(school[test])
    ['a' 'a' 'b']
    ['a' 'a' 'b']
    """

    def __init__(
        self,
        n_splits: int = 10,
        *,
        task_column: Any = None,
        test_size: Any = None,
        train_size: Any = None,
        random_state: Any = None,
        stratify_y: bool = True,
    ) -> None:
        _check_at_least(1, n_splits=n_splits)
        self.n_splits = n_splits
        self.task_column = task_column
        self.test_size = test_size
        self.train_size = train_size
        self.random_state = random_state
        self.stratify_y = stratify_y

    def _split_tasks(self, task: np.ndarray, n_tasks: int, y: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        test_share, train_share = self._shares(len(task))
        class_ = _encode_classes(y, len(task)) if self.stratify_y else np.zeros(len(task), dtype=np.intp)
        # A stratum is one class of one task; strata of a task are neighbours.
        strata, stratum = np.unique(task * (int(class_.max()) + 1) + class_, return_inverse=True)
        task_of = strata // (int(class_.max()) + 1)
        n_rows = np.bincount(stratum)
        n_of_task = np.bincount(task, minlength=n_tasks).astype(np.float64)
        test_rate = np.minimum(test_share * n_of_task, n_of_task - 1) / n_of_task
        if test_rate @ n_of_task < 1 - 1e-9:  # one row as a share of 49 is a little less than one row
            raise ValueError(
                f"test_size={self.test_size!r} leaves less than one test row in {n_tasks} tasks of {len(task)} rows; "
                "every task keeps a row for training. Make it larger."
            )
        rng = check_random_state(self.random_state)
        for _ in range(self.n_splits):
            n_test = _draw_sizes(n_rows * test_rate[task_of], task_of, rng)
            n_train = n_rest = n_rows - n_test
            if train_share is not None:
                rest_of_task = np.bincount(task_of, weights=n_rest, minlength=n_tasks)
                train_rate = np.clip(train_share * n_of_task, 1.0, rest_of_task) / rest_of_task
                n_train = _draw_sizes(n_rest * train_rate[task_of], task_of, rng)
            place = _shuffled_place(stratum, n_rows, rng)
            is_test = place < n_test[stratum]
            is_train = ~is_test & (place < (n_test + n_train)[stratum])
            yield np.flatnonzero(is_train), np.flatnonzero(is_test)

    def _shares(self, n: int) -> tuple[float, float | None]:
        """Share of test rows, and of training rows or None for all others."""
        train = None if self.train_size is None else _share(self.train_size, n, "train_size")
        if self.test_size is None:
            return (0.2, None) if train is None else (1.0 - train, None)
        test = _share(self.test_size, n, "test_size")
        if train is not None and test + train > 1 + 1e-9:
            raise ValueError(
                f"test_size={self.test_size!r} and train_size={self.train_size!r} together exceed the {n} rows; "
                "make one smaller."
            )
        return test, None if train is None or test + train > 1 - 1e-9 else train


class LeaveTasksOut(_TaskSplitter):
    """Test sets of whole tasks, which training has not seen: they show how well a model serves a new task.

    Parameters
    ----------
    n_tasks : int, default=None
        Tasks per test set (the last set may have fewer); 1 where `n_splits` is not given either.
    n_splits : int, default=None
        Number of test sets instead: at least 2; their numbers of tasks differ by at most one.
    task_column : str, int or list of str or int, default=None
        Column (or columns) of X with the task ids. None: the ids are the `groups` of `split`.
    shuffle : bool, default=False
        Whether tasks are put together at random, or in sorted order.
    random_state : int, RandomState instance or None, default=None
        Seed of `shuffle`; without effect if that is False.

    Notes
    -----
    Every task is in exactly one test set, with all its rows. The sets are even in tasks, not in rows.

    Examples
    --------
    >>> import numpy as np
    >>> from mttab.model_selection import LeaveTasksOut
    >>> school = np.array(["a", "a", "b", "c", "c"])
    >>> for train, test in LeaveTasksOut().split(np.zeros((5, 1)), groups=school):
    ...     print(school[train], school[test])
    ['b' 'c' 'c'] ['a' 'a']
    ['a' 'a' 'c' 'c'] ['b']
    ['a' 'a' 'b'] ['c' 'c']
    """

    def __init__(
        self,
        n_tasks: int | None = None,
        *,
        n_splits: int | None = None,
        task_column: Any = None,
        shuffle: bool = False,
        random_state: Any = None,
    ) -> None:
        if n_tasks is not None and n_splits is not None:
            raise ValueError("n_tasks and n_splits are both given, but each follows from the other; leave one out.")
        if n_tasks is not None:
            _check_at_least(1, n_tasks=n_tasks)
        if n_splits is not None:
            _check_at_least(2, n_splits=n_splits)
        self.n_tasks = n_tasks
        self.n_splits = n_splits
        self.task_column = task_column
        self.shuffle = shuffle
        self.random_state = random_state

    def _split_tasks(self, task: np.ndarray, n_tasks: int, y: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        n_sets = self._n_sets(n_tasks)
        order = check_random_state(self.random_state).permutation(n_tasks) if self.shuffle else np.arange(n_tasks)
        if self.n_splits is None:
            sets = np.split(order, np.arange(1, n_sets) * (self.n_tasks or 1))
        else:
            sets = np.array_split(order, n_sets)
        for left_out in sets:
            is_test = np.isin(task, left_out)
            yield np.flatnonzero(~is_test), np.flatnonzero(is_test)

    def _count_splits(self, X: Any, groups: Any) -> int:
        return self.n_splits if self.n_splits is not None else self._n_sets(self._encode_tasks(X, groups)[1])

    def _n_sets(self, n_tasks: int) -> int:
        per_set = self.n_tasks or 1
        n_sets = -(-n_tasks // per_set) if self.n_splits is None else self.n_splits
        if n_sets < 2 or n_sets > n_tasks:
            raise ValueError(
                f"{n_tasks} tasks cannot be left out as asked (n_tasks={self.n_tasks!r}, n_splits={self.n_splits!r}); "
                "every split needs a task to train on and one to test."
            )
        return n_sets


# ----------------------------------------------------------------------------------------------------------------------
# Pieces of the splitters
# ----------------------------------------------------------------------------------------------------------------------


def _encode_classes(y: Any, n: int) -> np.ndarray:
    """Class index of each row; all 0 where y holds no classes."""
    if y is None or np.ndim(y) != 1:
        return np.zeros(n, dtype=np.intp)
    values = np.asarray(y)
    if values.dtype.kind == "f" and not np.all(np.isnan(values) | (values == np.floor(values))):
        return np.zeros(n, dtype=np.intp)
    codes, labels = factorize_labels(y, name="y")
    if values.dtype.kind in "iuf" and len(labels) > _MAX_WHOLE_NUMBERS:
        return np.zeros(n, dtype=np.intp)
    return codes.astype(np.intp) + 1  # a missing label (−1) is a class of its own


def _draw_sizes(expected: np.ndarray, task_of: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Whole numbers with these expectations: each rounded up or down, and so each task's sum and the total.

    Systematic sampling: the line 0 … Σ expected is cut at a random offset plus every whole number, and a stratum gets
    the cuts that fall on its stretch. Tasks, and strata within them, lie on the line in random order.
    """
    order = np.lexsort((rng.uniform(size=len(expected)), rng.permutation(int(task_of.max()) + 1)[task_of]))
    # Rounding keeps a whole number of expected rows whole; an offset strictly inside (0, 1) then cannot split it.
    cuts = np.floor(np.round(np.cumsum(expected[order]), 9) + rng.uniform(1e-6, 1 - 1e-6))
    sizes = np.empty(len(expected), dtype=np.intp)
    sizes[order] = np.diff(cuts, prepend=0.0)
    return sizes


def _shuffled_place(stratum: np.ndarray, n_rows: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Each row's place in a random order of its stratum."""
    order = rng.permutation(len(stratum))
    order = order[np.argsort(stratum[order], kind="stable")]
    place = np.empty(len(stratum), dtype=np.intp)
    place[order] = np.arange(len(stratum)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    return place


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of every stretch of equal values."""
    ends = np.flatnonzero(np.diff(values, append=values[-1] + 1)) + 1
    yield from zip(np.concatenate([[0], ends[:-1]]).tolist(), ends.tolist(), strict=True)


def _share(size: Any, n: int, name: str) -> float:
    """A size, given as a share or a number of rows, as a share."""
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool) and 0 < size < n:
        return int(size) / n
    if isinstance(size, (float, np.floating)) and 0 < size < 1:
        return float(size)
    raise ValueError(f"{name}={size!r} is no share of {n} rows; pass a float in (0, 1) or an int from 1 to {n - 1}.")


def _check_at_least(lowest: int, **option: Any) -> None:
    ((name, value),) = option.items()
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name}={value!r} is not a whole number of at least {lowest}; pass one.")
