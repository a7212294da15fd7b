"""A table of labels of mixed kinds: what is read into it, and that it is written back as it came."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from mttab._core.target_table import TargetTable

MIXED = pd.DataFrame(
    {
        "price": [1.5, 2.0, np.nan, 4.0],
        "sold": [0, 1, 1, 0],
        "colour": ["red", None, "blue", "green"],
        "new": [True, False, True, True],
    },
    index=[7, 5, 5, 1],
)


def fit(y, *args, **options):
    return TargetTable().fit(y, *args, **options)


def kinds(table):
    return [column.kind for column in table.columns]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([0.5, 1.0, 2.0], "regression"),
        ([0, 1, 2], "regression"),
        ([0, 1, 1], "binary"),
        ([0.0, np.nan, 1.0], "binary"),
        ([True, False, True], "binary"),
        ([True, None, False], "binary"),
        (["a", "b", None], "binary"),
        (["a", "b", "c"], "multiclass"),
        (pd.Categorical([3, 1, 2]), "multiclass"),
        (pd.array([0, 1, None], dtype="Int64"), "binary"),
        (pd.array([0.5, 1, None], dtype="Float64"), "regression"),
        (pd.array(["a", "b", pd.NA], dtype="string"), "binary"),
        (pd.array([True, pd.NA, False], dtype="boolean"), "binary"),
        (np.array([1, 2, None], dtype=object), "regression"),
    ],
)
def test_the_kind_of_a_column_is_told_from_its_labels(column, kind):
    table, values = fit(pd.DataFrame({"y": column}))
    assert kinds(table) == [kind]
    assert np.isnan(values[:, 0]).tolist() == pd.isna(pd.Series(column)).tolist()


def test_a_mixed_table_becomes_numbers_and_indices_of_sorted_classes():
    table, values = fit(MIXED)
    nan = np.nan
    np.testing.assert_array_equal(values, [[1.5, 0, 2, 1], [2, 1, nan, 0], [nan, 1, 0, 1], [4, 0, 1, 1]])
    assert values.dtype == np.float64
    assert [c.label for c in table.columns] == ["price", "sold", "colour", "new"]
    assert kinds(table) == ["regression", "binary", "multiclass", "binary"]
    classes = [None if c.classes is None else c.classes.tolist() for c in table.columns]
    assert classes == [None, [0, 1], ["blue", "green", "red"], [False, True]]
    assert [c.n_outputs for c in table.columns] == [1, 1, 3, 1]


@pytest.mark.parametrize(
    "y",
    [
        MIXED.to_numpy(),
        MIXED.to_numpy().tolist(),
        MIXED.astype({"sold": "Int64", "colour": "string", "new": "boolean", "price": "Float64"}),
    ],
    ids=["object array", "list of rows", "nullable types"],
)
def test_the_same_labels_in_another_container_are_read_the_same(y):
    table, values = fit(y)
    other, expected = fit(MIXED)
    np.testing.assert_array_equal(values, expected)
    assert kinds(table) == kinds(other)


def test_kinds_may_be_given_for_all_columns_or_for_some():
    numbers = pd.DataFrame({"a": [0, 1, 2], "b": [0, 1, 1], "c": [1, 2, 1]})
    assert kinds(fit(numbers, "regression")[0]) == ["regression"] * 3
    assert kinds(fit(numbers, "classes")[0]) == ["multiclass", "binary", "binary"]
    assert kinds(fit(numbers, {"a": "multiclass", "c": "binary"})[0]) == ["multiclass", "binary", "binary"]
    assert kinds(fit(numbers.to_numpy(), {1: "regression"})[0]) == ["regression"] * 3
    assert fit(numbers, {"c": "multiclass"})[0].columns[2].n_outputs == 2


@pytest.mark.parametrize(
    ("y", "label"),
    [
        (np.array([1.0, 2.5, 3.0]), 0),
        ([1.0, 2.5, 3.0], 0),
        (pd.Series([1.0, 2.5, 3.0], index=[3, 3, 1]), 0),
        (pd.Series([1.0, 2.5, 3.0], name="price"), "price"),
    ],
    ids=["array", "list", "series", "named series"],
)
def test_one_dimension_is_one_task(y, label):
    table, values = fit(y)
    assert table.is_single and table.frame_columns is None
    assert values.tolist() == [[1.0], [2.5], [3.0]]
    assert table.columns[0].label == label
    assert table.decode(values).tolist() == [1.0, 2.5, 3.0]


def test_a_label_of_weight_0_is_not_observed_whatever_it_is():
    y = pd.DataFrame({"a": [0.0, 1.0, np.inf, 1.0], "b": ["x", "y", "x", "z"]})
    weight = np.array([[1, 1], [2, 1], [0, 3], [1, 0]])
    table, values = fit(y, sample_weight=weight)
    expected_table, expected = fit(y.where(weight > 0))
    np.testing.assert_array_equal(values, expected)
    assert kinds(table) == kinds(expected_table) == ["binary", "binary"]
    assert table.columns[1].classes.tolist() == ["x", "y"]
    of_rows, _ = fit(y, sample_weight=[1, 1, 0, 0])
    assert of_rows.columns[1].classes.tolist() == ["x", "y"]


def test_the_labels_of_the_caller_stay_as_they_are():
    y, weight = MIXED.copy(), np.array([1, 1, 1, 0])
    fit(y, sample_weight=weight)
    pd.testing.assert_frame_equal(y, MIXED)
    assert weight.tolist() == [1, 1, 1, 0]


@given(
    labels=st.lists(st.one_of(st.none(), st.sampled_from(["b", "a", "d", "c"])), min_size=1, max_size=20).filter(
        lambda labels: len(set(labels) - {None}) >= 2
    )
)
def test_decoding_what_was_encoded_gives_the_classes_back(labels):
    table, values = fit(pd.DataFrame({"y": labels}))
    seen = ~np.isnan(values[:, 0])
    assert table.decode(values[seen])["y"].tolist() == [label for label in labels if label is not None]


# --- further rows -----------------------------------------------------------------------------------------------------


def test_further_rows_are_read_by_the_classes_of_fit():
    table, _ = fit(MIXED)
    new = pd.DataFrame({"price": [9.0], "sold": [1], "colour": ["blue"], "new": [None]})
    np.testing.assert_array_equal(table.encode(new), [[9.0, 1, 0, np.nan]])
    np.testing.assert_array_equal(table.encode(new[["new", "colour", "sold", "price"]]), [[9.0, 1, 0, np.nan]])
    np.testing.assert_array_equal(table.encode(new.to_numpy()), [[9.0, 1, 0, np.nan]])


def test_a_class_that_fit_did_not_see_is_an_error_or_the_number_after_the_last():
    table, _ = fit(MIXED)
    new = MIXED.assign(colour=["pink", "red", None, "blue"])
    message = r"column 'colour' of y_val holds the class 'pink', which training has not seen; leave these rows out"
    with pytest.raises(ValueError, match=message):
        table.encode(new, name="y_val")
    np.testing.assert_array_equal(table.encode(new, known_only=False)[:, 2], [3, 2, np.nan, 0])


def test_integers_and_whole_floats_are_the_same_classes():
    table, _ = fit([3, 1, 2], "classes")
    assert table.encode([1.0, 2.0, np.nan])[:2, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (MIXED[["price", "sold"]], r"y has the columns \['price', 'sold'\], but fit saw \['price', 'sold', 'colour'"),
        (MIXED.to_numpy()[:, :2], "y has 2 columns, but fit saw 4 tasks; pass the same"),
    ],
)
def test_other_columns_than_those_of_fit_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        fit(MIXED)[0].encode(y)


def test_columns_are_not_taken_for_others_whose_names_only_look_the_same():
    table, _ = fit(pd.DataFrame({1: [1.0, 2.0], "b": [3.0, 4.0]}))
    with pytest.raises(ValueError, match=r"y has the columns \['1', 'b'\], but fit saw \[1, 'b'\]"):
        table.encode(pd.DataFrame({"1": [1.0], "b": [3.0]}))


# --- written back -----------------------------------------------------------------------------------------------------


def test_a_frame_comes_back_with_its_index_columns_and_classes():
    table, values = fit(MIXED.ffill())
    back = table.decode(values, index=MIXED.index)
    pd.testing.assert_frame_equal(back, MIXED.ffill(), check_dtype=False)
    assert back["new"].dtype == bool and back["sold"].dtype.kind == "i"
    one = fit(MIXED[["price"]])[0].decode(np.array([[1.0]]))
    assert one.columns.tolist() == ["price"]


@pytest.mark.parametrize(
    "columns", [pd.Index(["a", "b"], name="task"), pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["u", "v"])]
)
def test_the_names_of_the_column_levels_come_back(columns):
    y = pd.DataFrame(np.ones((2, 2)), columns=columns)
    back = fit(y, "regression")[0].decode(np.zeros((2, 2)))
    pd.testing.assert_index_equal(back.columns, columns)


def test_column_names_of_any_type_come_back():
    y = pd.DataFrame([[1.0, 2.0, 3.0]] * 2, columns=[3, "a", ("b", 1)])
    back = fit(y, "regression")[0].decode(np.zeros((2, 3)))
    assert back.columns.tolist() == [3, "a", ("b", 1)]


@pytest.mark.parametrize(
    ("y", "task_types", "dtype"),
    [
        (np.array([[0, 5], [1, 7]]), "classes", np.int64),
        (np.array([[0, 0.5], [1, 7]]), "auto", np.float64),
        (np.array([["a", "b"], ["c", "d"]]), "classes", object),
        (np.array([[True, False], [False, True]]), "auto", bool),
        (np.array([[1.5, "a"], [2.5, "b"]], dtype=object), "auto", object),
    ],
)
def test_an_array_comes_back_with_the_type_that_holds_all_its_labels(y, task_types, dtype):
    table, values = fit(y, task_types)
    back = table.decode(values)
    assert isinstance(back, np.ndarray) and back.shape == y.shape
    assert back.dtype == dtype or (dtype is object and back.dtype.kind in "OU")
    assert back.tolist() == y.tolist()


def test_an_array_of_one_column_keeps_its_two_dimensions():
    table, values = fit(np.array([[1.0], [2.0]]))
    assert not table.is_single
    assert table.decode(values).shape == (2, 1)


# --- classes given ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes", [[["a", "b", "c"], [1, 2, 3]], {"u": ["a", "b", "c"], "v": [1, 2, 3]}], ids=["list", "dict"]
)
def test_classes_may_be_more_than_those_in_y(classes):
    table, values = fit(pd.DataFrame({"u": ["b", "c"], "v": [3, 1]}), "classes", classes=classes)
    assert [c.classes.tolist() for c in table.columns] == [["a", "b", "c"], [1, 2, 3]]
    assert values.tolist() == [[1, 2], [2, 0]]


@pytest.mark.parametrize(("labels", "classes"), [(["u", "v"], ["u", "v", "w"]), ([0, 1], [0, 1, 2]), ([2, 5], [2, 5])])
def test_a_column_with_given_classes_has_the_kind_that_they_say(labels, classes):
    table, _ = fit(pd.DataFrame({"new": labels, "price": [1.5, 2.5]}), classes={"new": classes})
    assert [c.kind for c in table.columns] == ["multiclass" if len(classes) > 2 else "binary", "regression"]
    with pytest.raises(ValueError, match="classes names 'nwe', which is not a column of y; did you mean 'new'"):
        fit(pd.DataFrame({"new": labels}), classes={"nwe": classes})


def test_one_task_takes_its_classes_as_they_are():
    for classes in ([2, 1, 0], np.array([2, 1, 0]), [[2, 1, 0]]):
        table, values = fit([1, 1], "classes", classes=classes)
        assert table.columns[0].classes.tolist() == [0, 1, 2] and values.tolist() == [[1], [1]]


def test_classes_that_leave_out_one_of_y_or_a_column_are_refused():
    y = pd.DataFrame({"u": ["b", "c"], "v": [3, 1]})
    with pytest.raises(ValueError, match="column 'u' of y holds the class 'c', which training has not seen"):
        fit(y, "classes", classes=[["a", "b"], [1, 3]])
    with pytest.raises(ValueError, match="classes has 3 entries, but y has 2 columns; pass one per column"):
        fit(y, "classes", classes=[["b", "c"], [1, 3], [1, 2]])


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (None, {}, "requires y to be passed, but the target y is None"),
        (pd.DataFrame(index=range(3)), {}, "y has no columns, so there is no task to learn; pass one column per task"),
        (np.empty((3, 0)), {}, "y has no columns"),
        ([], {}, r"Found array with 0 sample\(s\) in y while a minimum of 1 is required"),
        (np.zeros((2, 2, 2)), {}, r"y should be a 1d or 2d array, got an array of shape \(2, 2, 2\) instead"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "y has the column 'a' twice, but columns are tasks; rename"),
        ({"a": [1.0, 2.0], "b": ["x", "x"]}, {}, "column 'b' of y holds one class only, 'x', but a classifier needs"),
        ([1, 1], {"task_types": "classes"}, "^y holds one class only, 1, but a classifier needs at least two"),
        ({"a": [1.0, np.inf]}, {}, "Input column 'a' of y contains infinity or a value too large.* row 1"),
        ({"a": [np.nan] * 2, "b": [1.0, 2]}, {}, "column 'a' of y has no label with a positive weight.*leave it out"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"sample_weight": [[1, 0], [1, 0]]}, "column 'b' of y has no label"),
        ({"a": [1, 2, 3]}, {"task_types": {"a": "binary"}}, "to be binary, but holds 3 classes; call it 'multiclass'"),
        ({"a": ["x", "y"]}, {"task_types": "regression"}, "column 'a' of y must hold numbers for a regression"),
        ({"a": [0.5, 1.5]}, {"task_types": "multiclass"}, "Unknown label type: continuous"),
        ({"a": ["x", 1]}, {}, "column 'a' of y mixes labels of different types, such as 'x' and 1"),
        (
            {"a": [1.0]},
            {"task_types": "regresion"},
            r"task_types='regresion' is no kind of task; pass one of 'regression', .*; did you mean 'regression'\?",
        ),
        ({"a": [1.0]}, {"task_types": {"a": "binari"}}, r"task_types\['a'\]='binari' is no .*did you mean 'binary'\?"),
        (
            {"price": [1.0]},
            {"task_types": {"prize": "regression"}},
            r"task_types names 'prize', which is not a column of y; did you mean 'price'\?",
        ),
        ({"a": [1.0]}, {"task_types": {"a": ["regression"]}}, r"task_types\['a'\]=\['regression'\] is no kind of task"),
    ],
)
def test_what_is_no_table_of_labels_is_refused_with_the_rule_and_the_remedy(y, options, message):
    with pytest.raises(ValueError, match=message):
        fit(pd.DataFrame(y) if isinstance(y, dict) else y, **options)


def test_sparse_labels_are_refused():
    with pytest.raises(TypeError, match=r"Sparse data was passed for y.*use y.toarray\(\)"):
        fit(sparse.csr_matrix(np.eye(2)))


def test_a_dict_of_kinds_takes_only_the_kinds_that_are_documented():
    with pytest.raises(ValueError, match=r"task_types\['a'\]='classes' is no kind of task"):
        fit(pd.DataFrame({"a": [1, 2]}), {"a": "classes"})
