"""Task labels and their indices."""

import pickle
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mttab._core.tasks import TaskLabels, factorize_labels, label_array, melt_targets, normalise_task_ids

SCALARS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.dates(),
)
LABELS = st.one_of(SCALARS, st.tuples(st.integers(0, 3), st.text(max_size=1)))


def objects(values):
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        out[i] = value
    return out


# --- normalise_task_ids ---


@pytest.mark.parametrize(
    ("ids", "expected", "dtype"),
    [
        ([2, 1, 2], [2, 1, 2], "int64"),
        (np.array([2.0, 1.0]), [2, 1], "int64"),
        (np.array([2.0, 1.0], dtype=np.float16), [2, 1], "int64"),
        (np.array([2, 1], dtype=np.uint8), [2, 1], "int64"),
        ([0.5, 1.0], [0.5, 1.0], "float64"),
        ([True, False], [True, False], "bool"),
        (["b", "a"], ["b", "a"], "object"),
        (np.array(["b", "a"]), ["b", "a"], "object"),
        (["a", 1, 1.0], ["a", 1, 1], "object"),
        ([2**80, 1], [2**80, 1], "object"),
        (pd.Series(["b", "a"]), ["b", "a"], "object"),
        (pd.Series(["b", "a"], dtype=object), ["b", "a"], "object"),
        (pd.Series(["b", "a"], dtype="string"), ["b", "a"], "object"),
        (pd.Series(["b", "a"], dtype="category"), ["b", "a"], "object"),
        (pd.Series([2, 1], dtype="category"), [2, 1], "int64"),
        (pd.Series([2, 1], dtype="Int64"), [2, 1], "int64"),
        (pd.Series([2, 1], dtype="Float32"), [2, 1], "int64"),
        (pd.Series([True, False], dtype="boolean"), [True, False], "bool"),
        (pd.Index([2, 1]), [2, 1], "int64"),
        (pd.array([2, 1], dtype="Int8"), [2, 1], "int64"),
        (range(3), [0, 1, 2], "int64"),
        ([("a", 1.0), ("b", 2)], [("a", 1), ("b", 2)], "object"),
        (pd.Series(pd.to_datetime(["2020-01-02", "2020-01-01"])), None, "object"),
        (np.array(["2020-01-02", "2020-01-01"], dtype="datetime64[D]"), None, "object"),
    ],
)
def test_ids_of_every_type_become_plain_labels(ids, expected, dtype):
    got = normalise_task_ids(ids)
    assert got.dtype == dtype
    if expected is None:
        expected = [pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-01")]
    assert got.tolist() == expected
    assert list(map(type, got.tolist())) == list(map(type, expected))


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "double[pyarrow]", "string[pyarrow]", "dictionary"])
def test_arrow_columns_are_ids(dtype):
    pa = pytest.importorskip("pyarrow")
    expected = ["b", "a"] if dtype in ("string[pyarrow]", "dictionary") else [2, 1]
    if dtype == "dictionary":
        dtype = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    assert normalise_task_ids(pd.Series(expected, dtype=dtype)).tolist() == expected


@pytest.mark.parametrize(
    "ids",
    [
        pd.DataFrame({"school": ["a", "b", "a"], "year": [1.0, 2.0, 2.0]}),
        np.array([["a", 1], ["b", 2], ["a", 2]], dtype=object),
        [["a", 1], ["b", 2], ["a", 2]],
        [("a", 1), ("b", 2), ("a", 2)],
    ],
)
def test_several_columns_make_tuples(ids):
    got = normalise_task_ids(ids)
    assert got.shape == (3,)
    assert got.tolist() == [("a", 1), ("b", 2), ("a", 2)]
    assert TaskLabels.fit(ids).labels.tolist() == [("a", 1), ("a", 2), ("b", 2)]
    assert TaskLabels.fit(ids).encode(ids).tolist() == [0, 2, 1]


def test_three_columns_of_many_labels_stay_apart():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, size=(3000, 3))
    assert normalise_task_ids(ids).tolist() == list(map(tuple, ids.tolist()))


def test_one_column_in_two_dimensions_is_a_plain_id():
    assert normalise_task_ids(pd.DataFrame({"school": ["a", "b"]})).tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "ids",
    [
        [1.0, np.nan, 2.0],
        ["a", None, "b"],
        ["a", np.nan, "b"],
        pd.Series([1, pd.NA, 2], dtype="Int64"),
        pd.Series(["a", None, "b"], dtype="category"),
        pd.Series(["a", None, "b"], dtype="string"),
        pd.to_datetime(pd.Series(["2020-01-01", None, "2020-01-01"])),
        pd.DataFrame({"a": ["x", "y", "z"], "b": [1, np.nan, 2]}),
        [("a", 1), ("a", None), ("b", 1)],
    ],
)
def test_a_missing_id_is_an_error_that_names_rows_and_remedy(ids):
    with pytest.raises(ValueError, match=r"^task_column='school' has no value in 1 of 3 rows \(first: row 1\).*fillna"):
        normalise_task_ids(ids, name="task_column='school'")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.0, np.inf], "task holds an infinite value.*replace it"),
        (np.array([1j, 2]), "task holds complex numbers.*use strings or integers"),
        (np.array([{}, 1], dtype=object), "task holds values that cannot be labels.*use strings or integers"),
        ("school", "task='school' is a single value.*pass a column of ids"),
        (3, "task=3 is a single value.*pass a column of ids"),
        (np.zeros((2, 2, 2)), r"task has shape \(2, 2, 2\).*pass a 1-D column"),
        (np.empty((3, 0)), "task has no columns.*pass at least one"),
    ],
)
def test_values_that_cannot_be_ids_are_refused(ids, message):
    with pytest.raises((ValueError, TypeError), match=message):
        normalise_task_ids(ids)


@given(st.lists(LABELS, min_size=1, max_size=20))
def test_normalising_changes_no_label_and_twice_is_once(ids):
    once = normalise_task_ids(objects(ids))
    assert once.tolist() == ids
    twice = normalise_task_ids(once)
    assert twice.tolist() == ids
    assert twice.dtype == once.dtype


@given(st.lists(st.one_of(LABELS, st.none()), max_size=20))
def test_codes_point_at_the_labels(values):
    codes, labels = factorize_labels(objects(values), name="x")
    assert [None if code < 0 else labels[code] for code in codes] == values
    assert len(set(labels)) == len(labels)


def test_ids_are_not_written_to():
    ids = objects(["a", 1.0, np.float32(2)])
    before = list(ids)
    normalise_task_ids(ids)
    assert all(a is b for a, b in zip(ids, before, strict=True))


# --- TaskLabels ---


@settings(max_examples=200)
@given(st.lists(LABELS, min_size=1, max_size=20))
def test_encoding_returns_to_the_labels(ids):
    tasks = TaskLabels.fit(objects(ids))
    assert tasks.labels[tasks.encode(objects(ids))].tolist() == ids
    assert tasks.encode(tasks.labels).tolist() == list(range(tasks.n_tasks))


@given(st.lists(LABELS, min_size=2, max_size=20), st.data())
def test_any_subset_of_rows_gets_the_same_indices(ids, data):
    tasks = TaskLabels.fit(objects(ids))
    keep = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1))
    subset = objects([ids[i] for i in keep])
    np.testing.assert_array_equal(tasks.encode(subset), tasks.encode(objects(ids))[keep])


@given(st.permutations(["a", "b", 1, 2.5, True, "1", (1, "a"), date(2020, 1, 1), None.__class__]))
def test_labels_of_mixed_types_sort_alike_in_any_order(ids):
    assert [str(v) for v in TaskLabels.fit(objects(ids)).labels if v != 1] == [
        "2020-01-01",
        "2.5",
        "1",
        "a",
        "b",
        "(1, 'a')",
        "<class 'NoneType'>",
    ]


def test_labels_are_sorted():
    assert TaskLabels.fit([10, 9, 2]).labels.tolist() == [2, 9, 10]
    assert TaskLabels.fit(["b10", "b9", "a"]).labels.tolist() == ["a", "b10", "b9"]


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2],
        [1.0, 2.0],
        np.array([1, 2], dtype=np.int8),
        pd.Series([1, 2], dtype="category"),
        [True, 2],
        [np.int64(1), 2],
    ],
)
def test_equal_labels_of_other_types_are_the_same_task(ids):
    assert TaskLabels.fit([1, 2]).encode(ids).tolist() == [0, 1]


def test_bools_may_come_back_as_numbers():
    assert TaskLabels.fit([True, False]).encode([1.0, 0.0]).tolist() == [1, 0]


def test_numpy_strings_are_strings():
    tasks = TaskLabels.fit(np.array(["a", "b"]))
    assert tasks.encode(objects([np.str_("b"), "a"])).tolist() == [1, 0]
    assert all(type(label) is str for label in tasks.labels)


def test_an_unseen_task_is_minus_one_or_an_error():
    tasks = TaskLabels.fit(["school", "home"])
    codes = tasks.encode(["home", "street"])
    assert codes.dtype == np.int32
    assert codes.tolist() == [0, -1]
    with pytest.raises(ValueError, match=r"holds 1 task\(s\) that fit did not see, 'street', .*unseen_task='shared'"):
        tasks.encode(["home", "street"], unseen="error")
    assert tasks.encode(["home"], unseen="error").tolist() == [0]


def test_the_error_suggests_a_spelling_and_names_few_of_many():
    with pytest.raises(ValueError, match=r"'schol' \(did you mean 'school'\?\), beside the known 'home', 'school'"):
        TaskLabels.fit(["school", "home"]).encode(["schol"], unseen="error")
    with pytest.raises(
        ValueError, match=r"1000, 1001, 1002, 1003, 1004, … \(500 in all\).*known 0, 1, 2, 3, 4, … \(100"
    ):
        TaskLabels.fit(range(100)).encode(range(1000, 1500), unseen="error")


def test_the_error_tells_a_change_of_type():
    with pytest.raises(ValueError, match=r"'1' \(a str, where the tasks of fit are of type number\)"):
        TaskLabels.fit([1, 2]).encode(["1"], unseen="error")


def test_labels_survive_pickle_and_a_list():
    ids = objects(["a", 1, (1, "b"), 0.5])
    tasks = TaskLabels.fit(ids)
    for copy in (pickle.loads(pickle.dumps(tasks)), TaskLabels(tasks.labels.tolist())):
        np.testing.assert_array_equal(copy.encode(ids), tasks.encode(ids))
        assert copy.labels.tolist() == tasks.labels.tolist()
    assert TaskLabels([["a", 1]]).encode([("a", 1)]).tolist() == [0]  # JSON knows no tuples


def test_a_label_cannot_be_given_twice():
    with pytest.raises(ValueError, match="labels names a task twice"):
        TaskLabels([1, 1.0])


def test_label_array_keeps_integers_that_floats_would_round():
    assert label_array([2**53 + 1, 0.5]).tolist() == [2**53 + 1, 0.5]


# --- melt_targets ---


def long_table(Y):
    melted = Y.reset_index(drop=True).melt(ignore_index=False).dropna()
    return melted.index.to_numpy(), melted["variable"].to_numpy(), melted["value"].to_numpy()


@pytest.mark.parametrize(
    "Y",
    [
        pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": [np.nan, 5.0, 6.0]}, index=[7, 7, 9]),
        pd.DataFrame({"a": ["x", None, "y"], "b": ["y", "x", None]}),
        pd.DataFrame({"a": ["x", None, "y"], "b": ["y", "x", None]}, dtype="category"),
        pd.DataFrame({"a": [1, None, 3], "b": [4, 5, 6]}, dtype="Int64"),
    ],
)
def test_melting_equals_the_long_table(Y):
    melted = melt_targets(Y)
    rows, tasks, values = long_table(Y)
    np.testing.assert_array_equal(melted.row_idx, rows)
    np.testing.assert_array_equal(melted.labels[melted.task_idx], tasks)
    np.testing.assert_array_equal(melted.y, values)
    assert melted.task_idx.dtype == np.int32


def test_columns_without_names_are_tasks_0_1_2():
    melted = melt_targets(np.array([[1, 2, 3], [4, 5, 6]]))
    assert melted.labels.tolist() == [0, 1, 2]
    assert melted.y.tolist() == [1, 4, 2, 5, 3, 6]
    assert melt_targets([[1, "a"], [None, "b"]]).y.tolist() == [1, "a", "b"]


def test_a_target_without_any_label_is_an_error():
    with pytest.raises(ValueError, match=r"^y has no label at all in column 'b'; leave this column out"):
        melt_targets(pd.DataFrame({"a": [1.0], "b": [np.nan]}))
