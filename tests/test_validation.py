"""Checks of the table, its task column, weights and constraints: what passes, and what each refusal says."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mttab._core.validation import (
    check_monotonic_cst,
    check_same_length,
    check_table,
    check_weight,
    column_names,
    split_task_column,
)

FRAME = pd.DataFrame({"age": [1.0, 2.0, 3.0], "school": ["b", "a", "b"], "income": [4, 5, 6]})
OBJECTS = FRAME.to_numpy(dtype=object)

# --- check_table ---


def test_tables_keep_their_values():
    assert check_table(FRAME) is FRAME
    numbers = np.arange(6.0).reshape(3, 2)
    assert np.shares_memory(check_table(numbers), numbers)
    assert check_table([["a", 1.5], [None, 2]]).tolist() == [["a", 1.5], [None, 2]]
    assert check_table([[1, 2], [3, 4]]).dtype.kind == "i"


def test_other_data_frames_become_pandas():
    pa = pytest.importorskip("pyarrow")
    assert check_table(pa.table({"a": [1, 2]})).columns.tolist() == ["a"]


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.arange(3), ValueError, "Reshape your data"),
        (pd.Series([1, 2]), ValueError, "Expected a 2-dimensional container"),
        (np.empty((0, 2)), ValueError, r"0 sample\(s\)"),
        (np.empty((2, 0)), ValueError, r"0 feature\(s\)"),
        (pd.DataFrame({"a": []}), ValueError, r"0 sample\(s\)"),
        (pd.DataFrame(index=[0, 1]), ValueError, r"0 feature\(s\)"),
        (np.ones((2, 2)) * 1j, ValueError, "Complex data not supported"),
        (sparse.eye(3, format="csr"), TypeError, "[Ss]parse"),
        (np.ones((2, 2, 2)), ValueError, "dim 3"),
    ],
)
def test_what_is_no_table_is_refused_in_the_words_of_scikit_learn(X, error, message):
    with pytest.raises(error, match=message):
        check_table(X)


def test_a_table_with_two_columns_of_one_name_is_refused():
    with pytest.raises(ValueError, match="X has the column 'age' twice; rename one"):
        check_table(pd.concat([FRAME, FRAME[["age"]]], axis=1))


def test_columns_without_names_are_called_as_in_scikit_learn():
    assert column_names(FRAME) == ["age", "school", "income"]
    assert column_names(OBJECTS) == ["x0", "x1", "x2"]


# --- check_same_length ---


def test_lengths_that_differ_are_named():
    check_same_length(X=FRAME, y=[1, 2, 3], task=None)
    with pytest.raises(
        ValueError, match=r"inconsistent numbers of samples: X has 3 rows, y has 2 rows, w has 3 rows; "
    ):
        check_same_length(X=FRAME, y=[1, 2], w=np.ones(3))


# --- split_task_column ---


@pytest.mark.parametrize("task_column", ["school", 1, -2, np.int64(1), ["school"], [1]])
@pytest.mark.parametrize("X", [FRAME, OBJECTS, OBJECTS.tolist()])
def test_the_task_column_is_found_by_name_or_position(X, task_column):
    features, ids, positions = split_task_column(X, task_column, feature_names=["age", "school", "income"])
    assert ids.tolist() == ["b", "a", "b"]
    assert positions.tolist() == [1]
    assert isinstance(features, pd.DataFrame) == isinstance(X, pd.DataFrame)
    assert np.asarray(features, dtype=float).tolist() == [[1, 4], [2, 5], [3, 6]]
    if isinstance(features, pd.DataFrame):
        assert features.columns.tolist() == ["age", "income"]
        assert features.dtypes.tolist() == [np.float64, np.int64]


def test_several_columns_make_composite_ids():
    features, ids, positions = split_task_column(FRAME, ["school", 2])
    assert ids.tolist() == [("b", 4), ("a", 5), ("b", 6)]
    assert positions.tolist() == [1, 2]
    assert features.columns.tolist() == ["age"]


def test_no_task_column_leaves_x_alone():
    features, ids, positions = split_task_column(FRAME, None)
    assert features is FRAME
    assert ids is None
    assert len(positions) == 0


def test_a_first_or_last_column_is_taken_without_a_copy():
    X = np.arange(12.0).reshape(3, 4)
    for task_column in (0, 3, [0, 1], [0, 3]):
        assert np.shares_memory(split_task_column(X, task_column)[0], X)
    features, ids, _ = split_task_column(X, 2)
    assert features.tolist() == X[:, [0, 1, 3]].tolist()
    assert ids.tolist() == [2, 6, 10]


def test_a_tuple_may_be_the_name_of_a_column():
    X = pd.DataFrame([[1, 2], [3, 4]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    assert split_task_column(X, ("a", "y"))[1].tolist() == [2, 4]


def test_strings_of_an_array_of_text_are_ids():
    assert split_task_column(np.array([["a", "1.5"], ["b", "2"]]), 0)[1].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("X", "task_column", "message"),
    [
        (FRAME, "schol", r"^task_column='schol' is not a column of X; did you mean 'school'\?$"),
        (
            FRAME,
            "zip",
            r"'zip' is not a column of X, whose columns are 'age', 'school', 'income'; .*remainder='passthr",
        ),
        (
            FRAME.rename(columns={"school": "remainder__school"}),
            "school",
            "'remainder__school' is: .*=False and .set_out",
        ),
        (
            FRAME.rename(columns={"school": "cat__school"}),
            "school",
            r'_feature_names_out=False.*\(transform="pandas"\)',
        ),
        (
            OBJECTS,
            "school",
            r'without column names; .*set_output\(transform="pandas"\).*verbose_feature_names_out=False',
        ),
        (FRAME, 3, "task_column=3 is not a column of X, which has 3; pass a position from 0 to 2"),
        (FRAME, -4, "task_column=-4 is not a column of X, which has 3"),
        (FRAME, ["school", 1], "names one column twice; name each column once"),
        (FRAME, [], r"task_column=\[\] names no column; pass None"),
        (FRAME, True, "task_column=True is neither a name nor a position; pass a str, an int or a list"),
        (FRAME, 1.5, "task_column=1.5 is neither a name nor a position"),
        (FRAME, ["age", "school", "income"], "leaves no feature in X; pass at least one column besides it"),
        (FRAME.set_axis(["age", "school", "school"], axis=1), "school", "^X has the column 'school' twice; rename one"),
        (FRAME.assign(school=[1.0, np.nan, 2.0]), "school", "^task_column='school' has no value in 1 of 3 rows.*drop"),
        (sparse.eye(3, format="csr"), 0, "[Ss]parse"),
    ],
)
def test_a_task_column_that_cannot_be_used_says_why(X, task_column, message):
    with pytest.raises((ValueError, TypeError), match=message):
        split_task_column(X, task_column)


# --- check_weight ---


def test_weights_become_float_rows():
    assert check_weight(None, 2).tolist() == [1, 1]
    assert check_weight(2, 2).tolist() == [2, 2]
    for weight in ([1, 0], np.array([True, False]), pd.Series([1, 0], index=[5, 6]), np.float32([1, 0])):
        got = check_weight(weight, 2)
        assert got.dtype == np.float64
        assert got.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, -2, 1], "sample_weight holds -2, but must not be negative; use 0"),
        ([1, np.nan, 1], "sample_weight holds nan in row 1, but must be finite; use 0"),
        ([1, np.inf, 1], "sample_weight holds inf in row 1"),
        ([0, 0, 0], "sample_weight is zero in every row.*give some rows weight"),
        ([1, 1], "sample_weight has 2 entries, but X has 3 rows; pass one number per row"),
        (np.ones((3, 1)), r"sample_weight has shape \(3, 1\), but must be 1-D"),
        (["a", "b", "c"], "sample_weight holds values that are not numbers"),
    ],
)
def test_weights_that_cannot_be_used_say_why(weight, message):
    with pytest.raises(ValueError, match=message):
        check_weight(weight, 3)
    with pytest.raises(ValueError, match=message.replace("sample_weight", "sample_weight_val")):
        check_weight(weight, 3, name="sample_weight_val")


# --- check_monotonic_cst ---


def test_constraints_from_lists_and_dicts():
    names = ["age", "school", "income"]
    for given in ([1, 0, -1], np.array([1.0, 0.0, -1.0]), {"income": -1, "age": 1}):
        got = check_monotonic_cst(given, names, 3)
        assert got.dtype == np.int8
        assert got.tolist() == [1, 0, -1]
    assert check_monotonic_cst(None, None, 2).tolist() == [0, 0]
    assert check_monotonic_cst([1, 0, 0], None, 3, is_categorical=np.array([False, True, False])).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("cst", "names", "message"),
    [
        ([1, 0], None, r"monotonic_cst has shape \(2,\) but the input data X has 3 features; pass one of -1, 0, 1"),
        ([1, 0, 2], None, "monotonic_cst holds 2, but must be -1"),
        ([1, 0, np.nan], None, "monotonic_cst holds nan, but must be -1"),
        (["a", "b", "c"], None, "monotonic_cst holds 'a', but must be -1"),
        ({"age": 1}, None, "monotonic_cst is a dict, but X has no column names; pass a DataFrame"),
        (
            {"agee": 1},
            ["age", "b", "c"],
            r"monotonic_cst names 'agee', which is not a column of X; did you mean 'age'\?",
        ),
        ([0, 1, 0], ["age", "b", "c"], "monotonic_cst constrains column 'b', which is categorical; set it to 0"),
    ],
)
def test_constraints_that_cannot_be_used_say_why(cst, names, message):
    with pytest.raises(ValueError, match=message):
        check_monotonic_cst(cst, names, 3, is_categorical=np.array([False, True, False]))
