"""Checks of y: what passes, and what each refusal says."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from mttab._core.targets import check_target_classification, check_target_regression, infer_label_kind

# --- regression ---


@pytest.mark.parametrize(
    "y",
    [
        [1, 2, 3],
        np.array([1, 2, 3], dtype=np.int8),
        np.float32([1, 2, 3]),
        np.array([1, 2, 3], dtype=object),
        pd.Series([1, 2, 3], index=[3, 3, 3]),
        pd.Series([1, 2, 3], dtype="Int64"),
    ],
)
def test_numbers_become_float64(y):
    got = check_target_regression(y)
    assert got.dtype == np.float64
    assert got.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "Y",
    [
        [[1, 2], [None, 3]],
        np.array([[1, 2], [np.nan, 3]]),
        np.array([[1, 2], [None, 3]], dtype=object),
        pd.DataFrame({"a": [1, None], "b": [2, 3]}),
        pd.DataFrame({"a": [1, None], "b": [2, 3]}, dtype="Int64"),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [2, 3]}),
        pd.DataFrame({"a": [1, None], "b": [2, 3]}, dtype=object),
    ],
)
def test_two_dimensions_may_hold_nan(Y):
    np.testing.assert_array_equal(check_target_regression(Y), [[1, 2], [np.nan, 3]])


@pytest.mark.parametrize("check", [check_target_regression, check_target_classification])
def test_a_single_column_is_ravelled_with_a_warning(check):
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        got = check(np.array([[1], [2]]))
    assert np.shape(got if check is check_target_regression else got[1]) == (2,)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (None, {}, "requires y to be passed, but the target y is None"),
        (
            [1, np.nan, 3],
            {},
            r"^Input y contains NaN in 1 of 3 rows \(first: row 1\); leave these rows out, or pass a 2-D",
        ),
        (
            [1, np.inf, 3],
            {},
            r"^Input y contains infinity or a value too large for dtype\('float64'\) \(first: row 1\)",
        ),
        ([[1, 2], [-np.inf, 3]], {}, r"Input y contains infinity .* \(first: row 1\); replace it"),
        (["a", "b"], {}, "y must hold numbers for a regression, but 'a' is text; .*use the classifier"),
        (np.array(["1", "2"]), {}, "'1' is text"),
        (pd.Series(["a", "b"], dtype="category"), {}, "'a' is text"),
        (np.array([{}, 1], dtype=object), {}, "y must hold numbers for a regression"),
        (np.array([1j, 2]), {}, "Complex data not supported"),
        (
            pd.Series(pd.to_datetime(["2020-01-01"])),
            {},
            "y holds dates, but a regression needs real numbers; convert it",
        ),
        ([], {}, r"0 sample\(s\)"),
        (np.empty((3, 0)), {}, r"y should be a 1d array, got an array of shape \(3, 0\)"),
        (np.ones((2, 2, 2)), {}, r"shape \(2, 2, 2\)"),
        (np.ones((2, 2)), {"multi_output": False}, r"y should be a 1d array, got an array of shape \(2, 2\) instead"),
        (
            [1, -2],
            {"loss": "poisson"},
            "loss='poisson' needs y >= 0, but y holds -2; pass counts or choose another loss",
        ),
        ([[1, np.nan], [-2, 3]], {"loss": "poisson"}, "but y holds -2"),
        ([0, 0], {"loss": "poisson"}, "loss='poisson' needs a y whose sum is positive, but every y is 0; pass counts"),
    ],
)
def test_a_regression_target_that_cannot_be_used_says_why(y, options, message):
    with pytest.raises(ValueError, match=message):
        check_target_regression(y, **options)


@pytest.mark.parametrize("check", [check_target_regression, check_target_classification])
def test_a_sparse_target_is_refused(check):
    with pytest.raises(TypeError, match=r"Sparse data was passed for y.*use y\.toarray"):
        check(sparse.eye(3, format="csr"))


def test_counts_pass_as_poisson_target():
    assert check_target_regression([0, 2.5], loss="poisson").tolist() == [0, 2.5]
    assert np.nansum(check_target_regression([[0, np.nan], [1, 0]], loss="poisson")) == 1


# --- classification ---


@pytest.mark.parametrize(
    ("y", "classes", "dtype"),
    [
        ([2, 0, 2], [0, 2], "int64"),
        (np.array([2, 0, 2], dtype=np.int8), [0, 2], "int8"),
        (np.array([2.0, 0.0, 2.0]), [0, 2], "float64"),
        ([True, False, True], [False, True], "bool"),
        (["b", "a", "b"], ["a", "b"], "object"),
        (np.array(["b", "a", "b"]), ["a", "b"], "<U1"),
        (np.array([2, 0, 2], dtype=object), [0, 2], "int64"),
        (np.array([True, False, True], dtype=object), [False, True], "bool"),
        (pd.Series(["b", "a", "b"]), ["a", "b"], "object"),
        (pd.Series(["b", "a", "b"], dtype="category"), ["a", "b"], "object"),
        (pd.Series([2, 0, 2], dtype="Int64"), [0, 2], "int64"),
        (pd.Series([True, False, True], dtype="boolean"), [False, True], "bool"),
    ],
)
def test_classes_are_sorted_and_keep_the_type_of_y(y, classes, dtype):
    got, codes = check_target_classification(y)
    assert got.dtype == dtype
    assert got.tolist() == classes
    assert codes.dtype == np.int32
    assert codes.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("Y", "classes"),
    [
        ([["a", None], ["b", "a"]], ["a", "b"]),
        (np.array([[0, np.nan], [3, 0]]), [0, 3]),
        (pd.DataFrame({"p": ["a", "b"], "q": [None, "a"]}), ["a", "b"]),
        (pd.DataFrame({"p": ["a", "b"], "q": [None, "a"]}, dtype="category"), ["a", "b"]),
        (pd.DataFrame({"p": [False, True], "q": [None, False]}), [False, True]),
        (pd.DataFrame({"p": [False, True], "q": [None, False]}, dtype="boolean"), [False, True]),
        (pd.DataFrame({"p": [0, 3], "q": [None, 0]}, dtype="Int64"), [0, 3]),
    ],
)
def test_columns_share_their_classes_and_may_lack_labels(Y, classes):
    got, codes = check_target_classification(Y)
    assert got.tolist() == classes
    assert list(map(type, got.tolist())) == list(map(type, classes))
    assert codes.tolist() == [[0, -1], [1, 0]]


def test_one_class_is_no_error_here():
    classes, codes = check_target_classification(["a", "a"])
    assert classes.tolist() == ["a"]
    assert codes.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        ([0.5, 1.0, 2.5], "Unknown label type: continuous"),
        ([0, np.nan, 1], r"^Input y contains NaN in 1 of 3 rows \(first: row 1\); leave these rows out"),
        (["a", None, "b"], r"^Input y contains NaN in 1 of 3 rows \(first: row 1\)"),
        ([[np.nan, np.nan], [np.nan, np.nan]], "^Input y contains NaN in 4 of 4"),
        ([0, np.inf, 1], "^Input y contains infinity"),
        (["a", 1, "b"], "^y mixes labels of different types, such as 'a' and 1; make them one type"),
        (pd.DataFrame({"p": ["a", "b"], "q": [0, 1]}), "y mixes labels of different types"),
        (
            pd.Series(pd.to_datetime(["2020-01-01"])),
            "Unknown label type: y holds dates; pass strings, bools or integers",
        ),
        (np.array([1j, 2]), "Complex data not supported"),
        (np.array([], dtype=int), r"0 sample\(s\)"),
    ],
)
def test_a_classification_target_that_cannot_be_used_says_why(y, message):
    with pytest.raises(ValueError, match=message):
        check_target_classification(y)
    if y is not None and np.ndim(y) == 2:
        with pytest.raises(ValueError, match="y should be a 1d array"):
            check_target_classification(y, multi_output=False)


def test_many_classes_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_target_classification(np.arange(100))
        check_target_classification(np.arange(100.0))


# --- label kinds ---


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        ([0, 1, 1], "binary"),
        ([0.0, 1.0, np.nan], "binary"),
        (pd.array([0, 1, None], dtype="Int64"), "binary"),
        ([1, 1], "binary"),
        ([1, 2], "regression"),
        ([0, 1, 2], "regression"),
        ([0.5, np.nan], "regression"),
        (np.array([1.5, 2, None], dtype=object), "regression"),
        (np.array([0, 1, None], dtype=object), "binary"),
        ([True, False], "binary"),
        (np.array([True, False, None], dtype=object), "binary"),
        (pd.array([True, None], dtype="boolean"), "binary"),
        (["a", "b", None], "binary"),
        (["a", "b", "c"], "multiclass"),
        (pd.Series([1, 2, 3], dtype="category"), "multiclass"),
        (pd.Series([1, 2, None], dtype="category"), "binary"),
        (np.array(["a", "b", "c"]), "multiclass"),
    ],
)
def test_label_kinds(y, kind):
    assert infer_label_kind(y) == kind


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([np.nan, None], "y has no label at all.*leave this column out"),
        (pd.to_datetime(pd.Series(["2020-01-01"])), "y holds dates.*convert them"),
    ],
)
def test_a_column_of_no_kind_says_why(y, message):
    with pytest.raises(ValueError, match=message):
        infer_label_kind(y)


def test_targets_are_not_written_to():
    for y in (np.array([1.0, 0.0]), np.array([[1.0, np.nan], [0.0, 1.0]]), np.array([[1, None], [0, 1]], dtype=object)):
        before = y.copy()
        y.flags.writeable = False
        check_target_regression(y)
        check_target_classification(y)
        assert pd.DataFrame(y).equals(pd.DataFrame(before))
