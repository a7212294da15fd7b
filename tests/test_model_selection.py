"""Splitters keep every task in proportion, or leave whole tasks out, wherever scikit-learn takes cv=."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, cross_validate

from mttab.model_selection import LeaveTasksOut, TaskShuffleSplit, TaskStratifiedKFold

SPLITTERS = [TaskStratifiedKFold, TaskShuffleSplit, LeaveTasksOut]


@st.composite
def task_tables(draw, max_rows=80):
    """Task ids and classes: few or many tasks, many of them tiny, one class or several."""
    n = draw(st.integers(10, max_rows))
    n_tasks = draw(st.sampled_from([1, 3, 8, n]))
    task = draw(st.lists(st.integers(0, n_tasks - 1), min_size=n, max_size=n))
    y = draw(st.lists(st.integers(0, draw(st.integers(0, 3))), min_size=n, max_size=n))
    return np.array(task), np.array(y)


def counts(rows, key, n_keys):
    return np.bincount(key[rows], minlength=n_keys)


@given(table=task_tables(), n_splits=st.integers(2, 6), shuffle=st.booleans())
def test_kfold_deals_rows_tasks_and_classes_evenly(table, n_splits, shuffle):
    task, y = table
    splitter = TaskStratifiedKFold(n_splits, shuffle=shuffle, random_state=0 if shuffle else None)
    folds = list(splitter.split(np.zeros((len(task), 1)), y, groups=task))
    assert len(folds) == splitter.get_n_splits() == n_splits
    assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(task)))
    for train, test in folds:
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(task)))
    assert np.ptp([len(test) for _, test in folds]) <= 1
    of_task = np.array([counts(test, task, task.max() + 1) for _, test in folds])
    assert np.ptp(of_task, axis=0).max() <= 1
    stratum = task * 4 + y
    of_stratum = np.array([counts(test, stratum, stratum.max() + 1) for _, test in folds])
    assert np.ptp(of_stratum, axis=0).max() <= 1


@pytest.mark.parametrize("rows_per_task", [1, 3, 5, 7])
def test_kfold_leftovers_and_rare_classes_do_not_gather_in_one_fold(rows_per_task):
    n_tasks = 200
    task = np.repeat(np.arange(n_tasks), rows_per_task)
    y = np.zeros(len(task), dtype=int)
    y[::rows_per_task] = 1  # one positive row in every task
    folds = [test for _, test in TaskStratifiedKFold(5).split(np.zeros((len(task), 1)), y, groups=task)]
    assert np.ptp([len(test) for test in folds]) <= 1
    assert np.ptp([y[test].sum() for test in folds]) <= 2


def test_kfold_without_shuffle_keeps_neighbouring_rows_of_a_task_together():
    task = np.repeat(["a", "b"], 9)
    folds = [test.tolist() for _, test in TaskStratifiedKFold(3).split(np.zeros((18, 1)), groups=task)]
    assert folds == [[0, 1, 2, 9, 10, 11], [3, 4, 5, 12, 13, 14], [6, 7, 8, 15, 16, 17]]


def test_kfold_shuffle_and_random_state_change_the_folds_and_a_seed_repeats_them():
    task, X = np.repeat([0, 1], 50), np.zeros((100, 1))

    def folds(**options):
        return [test.tolist() for _, test in TaskStratifiedKFold(4, **options).split(X, groups=task)]

    assert folds() == folds() != folds(shuffle=True, random_state=0)
    assert folds(shuffle=True, random_state=0) == folds(shuffle=True, random_state=0)
    assert folds(shuffle=True, random_state=0) != folds(shuffle=True, random_state=1)


def test_stratify_y_false_ignores_the_classes():
    task, y = np.zeros(40, dtype=int), np.repeat([0, 1], 20)
    folds = list(TaskStratifiedKFold(2, stratify_y=False).split(np.zeros((40, 1)), y, groups=task))
    assert [int(y[test].sum()) for _, test in folds] == [0, 20]
    folds = list(TaskStratifiedKFold(2).split(np.zeros((40, 1)), y, groups=task))
    assert [int(y[test].sum()) for _, test in folds] == [10, 10]
    tests = [y[t].mean() for _, t in TaskShuffleSplit(20, random_state=0).split(np.zeros((40, 1)), y, groups=task)]
    loose = TaskShuffleSplit(20, random_state=0, stratify_y=False)
    assert np.ptp(tests) == 0 < np.ptp([y[t].mean() for _, t in loose.split(np.zeros((40, 1)), y, groups=task)])


@pytest.mark.parametrize(
    "y", [np.linspace(0, 1, 30), np.arange(30.0)[:, None] @ np.ones((1, 2)), None, ["a", "b"] * 15]
)
def test_any_target_can_be_split(y):
    task = np.repeat([0, 1, 2], 10)
    for splitter in (TaskStratifiedKFold(5), TaskShuffleSplit(5, random_state=0)):
        for _, test in splitter.split(np.zeros((30, 1)), y, groups=task):
            assert counts(test, task, 3).tolist() == [2, 2, 2]


def test_whole_numbers_that_are_a_quantity_are_not_taken_for_classes():
    task, X = np.zeros(400, dtype=int), np.zeros((400, 1))
    price = np.random.default_rng(0).permutation(400)
    folds = [test.tolist() for _, test in TaskStratifiedKFold(4).split(X, price, groups=task)]
    assert folds == [test.tolist() for _, test in TaskStratifiedKFold(4).split(X, groups=task)]


@given(table=task_tables(), test_size=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_shuffle_split_draws_each_task_and_class_in_proportion(table, test_size, seed):
    task, y = table
    n_of_task = np.bincount(task)
    share = np.minimum(n_of_task * test_size, np.maximum(n_of_task - 1, 0))
    splitter = TaskShuffleSplit(2, test_size=test_size, random_state=seed)
    if share.sum() < 1:
        with pytest.raises(ValueError, match="less than one test row"):
            next(splitter.split(np.zeros((len(task), 1)), y, groups=task))
        return
    for train, test in splitter.split(np.zeros((len(task), 1)), y, groups=task):
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(task)))
        n_test = counts(test, task, len(n_of_task))
        assert (np.abs(n_test - share) < 1).all()
        assert abs(len(test) - share.sum()) < 1
        assert (counts(train, task, len(n_of_task))[n_of_task > 0] >= 1).all()
        stratum = task * 4 + y
        of_stratum = np.bincount(stratum, minlength=4 * len(n_of_task)).reshape(-1, 4)
        rate = share / np.maximum(n_of_task, 1)
        drawn = counts(test, stratum, 4 * len(n_of_task)).reshape(-1, 4)
        assert (np.abs(drawn - of_stratum * rate[:, None]) < 1).all()


@given(table=task_tables(), test_size=st.floats(0.2, 0.5), train_size=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_shuffle_split_train_size_leaves_rows_out_but_no_task(table, test_size, train_size, seed):
    task, y = table
    n_of_task = np.bincount(task)
    if np.minimum(n_of_task * test_size, np.maximum(n_of_task - 1, 0)).sum() < 1:
        return
    splitter = TaskShuffleSplit(2, test_size=test_size, train_size=train_size, random_state=seed)
    for train, test in splitter.split(np.zeros((len(task), 1)), y, groups=task):
        assert not set(train) & set(test)
        n_train = counts(train, task, len(n_of_task))
        assert (n_train[n_of_task > 0] >= 1).all()
        assert (n_train <= np.maximum(np.ceil(n_of_task * train_size), 1)).all()


def test_tiny_tasks_are_tested_as_often_as_their_rows_deserve():
    task = np.repeat(np.arange(50), 2)
    splits = TaskShuffleSplit(200, test_size=0.2, random_state=0).split(np.zeros((100, 1)), groups=task)
    n_test = np.mean([counts(test, task, 50) for _, test in splits], axis=0)
    assert n_test.mean() == pytest.approx(0.4)
    assert np.abs(n_test - 0.4).max() < 5 * np.sqrt(0.4 * 0.6 / 200)


def test_a_task_of_one_row_is_always_trained_on_by_shuffle_split_and_tested_once_by_kfold():
    task = np.array(["big"] * 20 + ["one"])
    X = np.zeros((21, 1))
    assert all(20 in train for train, _ in TaskShuffleSplit(30, test_size=0.5, random_state=0).split(X, groups=task))
    assert sum(20 in test for _, test in TaskStratifiedKFold(5).split(X, groups=task)) == 1


def test_shuffle_split_sizes_may_be_shares_or_numbers_of_rows():
    task, X = np.repeat([0, 1], 50), np.zeros((100, 1))

    def sizes(**options):
        ((train, test),) = TaskShuffleSplit(1, random_state=0, **options).split(X, groups=task)
        return len(train), len(test)

    assert sizes() == (80, 20)
    assert sizes(test_size=30) == sizes(test_size=0.3) == sizes(train_size=0.7) == (70, 30)
    assert sizes(test_size=0.3, train_size=10) == (10, 30)
    assert sizes(test_size=0.3, train_size=0.7) == (70, 30)


@pytest.mark.parametrize("n_rows", range(7, 200, 7))
def test_shuffle_split_gives_the_number_of_test_rows_asked_for(n_rows):
    task, X = np.arange(n_rows) % 2, np.zeros((n_rows, 1))
    for test_size in {1, n_rows // 3, n_rows - 2} - {0}:
        ((_, test),) = TaskShuffleSplit(1, test_size=test_size, random_state=0).split(X, groups=task)
        assert len(test) == test_size


@given(table=task_tables(), n_tasks=st.integers(1, 3), shuffle=st.booleans())
def test_leave_tasks_out_tests_every_task_once_and_unseen(table, n_tasks, shuffle):
    task, _ = table
    n_known = len(np.unique(task))
    X = np.zeros((len(task), 1))
    for splitter in (LeaveTasksOut(n_tasks, shuffle=shuffle, random_state=0), LeaveTasksOut(n_splits=2)):
        if n_known < 2 or -(-n_known // n_tasks) < 2:
            continue
        folds = list(splitter.split(X, groups=task))
        assert len(folds) == splitter.get_n_splits(X, groups=task)
        assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(task)))
        sizes = [len(np.unique(task[test])) for _, test in folds]
        if splitter.n_splits is None:
            assert set(sizes[:-1]) <= {n_tasks} and sizes[-1] <= n_tasks
        else:
            assert np.ptp(sizes) <= 1
        for train, test in folds:
            assert not set(task[train]) & set(task[test])


def test_leave_tasks_out_shuffle_puts_other_tasks_together():
    task, X = np.arange(20), np.zeros((20, 1))
    ordered = [test.tolist() for _, test in LeaveTasksOut(5).split(X, groups=task)]
    mixed = [test.tolist() for _, test in LeaveTasksOut(5, shuffle=True, random_state=0).split(X, groups=task)]
    assert ordered[0] == [0, 1, 2, 3, 4] and mixed != ordered


# ----------------------------------------------------------------------------------------------------------------------
# All splitters in scikit-learn's hands
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {"school": rng.choice(["a", "b", "c", "d"], 80), "year": rng.integers(0, 2, 80), "x": np.arange(80)}
    )
    return X, rng.normal(size=80)


def small(splitter, **options):
    return splitter(random_state=0, **({"shuffle": True} if splitter is not TaskShuffleSplit else {}), **options)


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_ids_in_the_column_and_as_groups_give_the_same_splits(splitter, table):
    X, y = table
    of_column = list(small(splitter, task_column="school").split(X, y))
    of_position = list(small(splitter, task_column=0).split(X.to_numpy(dtype=object), y))
    of_groups = list(small(splitter).split(X[["x"]], y, groups=X["school"]))
    for one, two, three in zip(of_column, of_position, of_groups, strict=True):
        for a, b, c in zip(one, two, three, strict=True):
            assert np.array_equal(a, b) and np.array_equal(a, c)


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_composite_ids_make_one_task_per_combination(splitter, table):
    X, y = table
    combined = X["school"] + X["year"].astype(str)
    of_columns = list(small(splitter, task_column=["school", "year"]).split(X, y))
    of_groups = list(small(splitter).split(X, y, groups=combined))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(of_columns, of_groups, strict=True))


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_splitters_work_in_cross_validate_and_grid_search(splitter, table):
    X, y = table
    numbers = X.assign(school=X["school"].map(ord))
    cv = small(splitter, task_column="school")
    assert len(cross_validate(DummyRegressor(), numbers, y, cv=cv)["test_score"]) == cv.get_n_splits(numbers, y)
    search = GridSearchCV(DummyRegressor(), {"strategy": ["mean", "median"]}, cv=cv).fit(numbers, y)
    assert search.n_splits_ == cv.get_n_splits(numbers, y)
    by_groups = cross_validate(DummyRegressor(), numbers, y, cv=small(splitter), groups=numbers["school"])
    assert len(by_groups["test_score"]) == search.n_splits_


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_groups_are_routed_as_metadata(splitter, table):
    X, y = table
    with sklearn.config_context(enable_metadata_routing=True):
        cv = small(splitter)
        assert cv.get_metadata_routing().split.requests == {"groups": True}
        scores = cross_validate(DummyRegressor(), X[["x"]], y, cv=cv, params={"groups": X["school"]})
        assert np.isfinite(scores["test_score"]).all()
        renamed = small(splitter).set_split_request(groups="task")
        same = cross_validate(DummyRegressor(), X[["x"]], y, cv=renamed, params={"task": X["school"]})
        assert np.array_equal(scores["test_score"], same["test_score"])


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_repr_names_the_options_and_clone_keeps_them(splitter):
    cv = small(splitter, task_column="school", n_splits=3)
    assert repr(cv).startswith(f"{splitter.__name__}(") and "task_column='school'" in repr(cv)
    assert repr(clone(cv, safe=False)) == repr(cv)


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_ids_that_come_in_no_way_or_in_both_are_refused(splitter, table):
    X, y = table
    with pytest.raises(ValueError, match=r"in neither way; give it task_column="):
        next(splitter().split(X, y))
    with pytest.raises(ValueError, match="in both ways"):
        next(splitter(task_column="school").split(X, y, groups=X["school"]))
    with pytest.raises(ValueError, match="did you mean 'school'"):
        next(splitter(task_column="schol").split(X, y))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskStratifiedKFold(1), "n_splits=1 is not a whole number of at least 2"),
        (lambda: TaskShuffleSplit(0), "n_splits=0 is not a whole number of at least 1"),
        (lambda: LeaveTasksOut(0), "n_tasks=0 is not a whole number of at least 1"),
        (lambda: LeaveTasksOut(1, n_splits=3), "leave one out"),
        (lambda: LeaveTasksOut(2.5), "n_tasks=2.5 is not a whole number"),
    ],
)
def test_impossible_options_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        (TaskStratifiedKFold(7), "n_splits=7 is more than the 6 rows"),
        (TaskShuffleSplit(test_size=6), "test_size=6 is no share of 6 rows"),
        (TaskShuffleSplit(test_size=1.0), "test_size=1.0 is no share"),
        (TaskShuffleSplit(test_size=0.6, train_size=0.6), "together exceed the 6 rows"),
        (LeaveTasksOut(3), "3 tasks cannot be left out"),
        (LeaveTasksOut(n_splits=4), "3 tasks cannot be left out"),
    ],
)
def test_too_few_rows_or_tasks_are_refused(splitter, message):
    with pytest.raises(ValueError, match=message):
        next(splitter.split(np.zeros((6, 1)), groups=[0, 0, 1, 1, 2, 2]))
