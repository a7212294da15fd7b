"""Feature columns as float64 rows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from mttab._core import features as features_module
from mttab._core.features import FeatureEncoder, LargeTable, resolve_categorical_features

NAN = np.nan
LEVELS = st.one_of(st.none(), st.integers(-3, 3), st.booleans(), st.sampled_from(["a", "b", "", "1"]), st.just(0.5))


def encoded(column, **options):
    """The one row of a DataFrame with the one column `x`."""
    X = pd.DataFrame({"x": column})
    return FeatureEncoder().fit(X, **options).transform(X)[0].tolist()


# --- numbers ---


@pytest.mark.parametrize(
    "X",
    [
        np.array([[1, 2], [3, 4]], dtype=np.int8),
        np.array([[1, 2], [3, 4]], dtype=np.float32),
        np.array([[1, 2], [3, 4]], dtype=np.uint64),
        np.array([[1, 2], [3, 4]], dtype=object),
        np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
        np.array([["1", "2"], ["3", "4"]]),
        [[1, 2], [3, 4]],
        pd.DataFrame([[1, 2], [3, 4]]),
        pd.DataFrame([[1, 2], [3, 4]], dtype="Int64"),
        pd.DataFrame([[1, 2], [3, 4]], dtype=object),
        pd.DataFrame([[1, 2], [3, 4]], dtype=pd.SparseDtype("float64", 0.0)),
    ],
)
def test_numbers_become_one_float64_row_per_feature(X):
    encoder = FeatureEncoder().fit(X)
    out = encoder.transform(X)
    assert out.dtype == np.float64
    assert out.flags.c_contiguous
    assert out.tolist() == [[1, 3], [2, 4]]
    assert not encoder.is_categorical.any()
    assert encoder.n_categories.tolist() == [0, 0]
    assert encoder.categories == [None, None]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1.5, NAN], [1.5, NAN]),
        ([NAN, NAN], [NAN, NAN]),
        ([True, False], [1, 0]),
        (pd.array([1, None], dtype="Int64"), [1, NAN]),
        (pd.array([1.5, None], dtype="Float32"), [1.5, NAN]),
        (pd.array([True, None], dtype="boolean"), [1, NAN]),
        (pd.Series([1, None, 2.5], dtype=object), [1, NAN, 2.5]),
        (pd.Series([True, None], dtype=object), [1, NAN]),
        (pd.Series([None, None], dtype=object), [NAN, NAN]),
    ],
)
def test_missing_numbers_are_nan(column, expected):
    np.testing.assert_array_equal(encoded(column), expected)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "double[pyarrow]", "bool[pyarrow]"])
def test_arrow_numbers(dtype):
    pytest.importorskip("pyarrow")
    np.testing.assert_array_equal(encoded(pd.Series([1, None, 0], dtype=dtype)), [1, NAN, 0])


@pytest.mark.parametrize("n_rows", [1, 255, 256, 257, 1000])
def test_the_blockwise_transpose_is_a_transpose(n_rows):
    X = np.random.default_rng(0).normal(size=(n_rows, 3))
    out = FeatureEncoder().fit(X).transform(X)
    np.testing.assert_array_equal(out, X.T)
    assert not np.shares_memory(out, X)


# --- categories ---


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["b", None, "a", "b"]),
        pd.Series(["b", None, "a", "b"], dtype=object),
        pd.Series(["b", None, "a", "b"], dtype="string"),
        pd.Series(["b", None, "a", "b"], dtype="category"),
        pd.Series(pd.Categorical(["b", None, "a", "b"], categories=["z", "b", "a"], ordered=True)),
        pd.Series([2, None, 1, 2], dtype="category"),
        pd.Series(["b", None, 1, "b"], dtype=object),
    ],
)
def test_levels_are_sorted_and_the_missing_one_is_nan(column):
    np.testing.assert_array_equal(encoded(column), [1, NAN, 0, 1])


@pytest.mark.parametrize("dtype", ["string[pyarrow]", "dictionary"])
def test_arrow_strings_are_categories(dtype):
    pa = pytest.importorskip("pyarrow")
    if dtype == "dictionary":
        dtype = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    np.testing.assert_array_equal(encoded(pd.Series(["b", None, "a", "b"], dtype=dtype)), [1, NAN, 0, 1])


def test_a_level_unknown_at_fit_is_nan():
    encoder = FeatureEncoder().fit(pd.DataFrame({"x": ["a", "b"]}))
    np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"x": ["b", "z", None]})), [[1, NAN, NAN]])


@given(st.lists(LEVELS, min_size=1, max_size=20), st.data())
def test_codes_return_to_the_levels_and_rows_do_not_matter(values, data):
    X = np.array([*values, None], dtype=object)[:-1, None]
    encoder = FeatureEncoder().fit(X, [0])
    codes = encoder.transform(X)[0]
    levels = encoder.categories[0]
    assert [None if np.isnan(c) else levels[int(c)] for c in codes] == values
    assert encoder.n_categories[0] == len(levels) == len(set(values) - {None})
    keep = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1))
    np.testing.assert_array_equal(encoder.transform(X[keep])[0], codes[keep])


def test_column_types_may_differ_between_fit_and_predict():
    fit = pd.DataFrame(
        {"c": pd.Series(["a", "b"], dtype="category"), "n": [1, 2], "i": pd.Series([5, 6], dtype="category")}
    )
    encoder = FeatureEncoder().fit(fit)
    expected = [[1, 0], [2, 1], [1, 0]]
    others = [
        pd.DataFrame({"c": ["b", "a"], "n": [2.0, 1.0], "i": [6.0, 5.0]}),
        pd.DataFrame({"c": ["b", "a"], "n": [2, 1], "i": [6, 5]}, dtype=object),
        pd.DataFrame({"c": ["b", "a"], "n": [2, 1], "i": [6, 5]}).astype("category"),
        pd.DataFrame({"c": ["b", "a"], "n": [2, 1], "i": [6, 5]}).convert_dtypes(),
        np.array([["b", 2, 6], ["a", 1, 5.0]], dtype=object),
        [["b", 2, 6], ["a", 1, 5]],
    ]
    for X in others:
        assert encoder.transform(X).tolist() == expected


def test_categories_of_an_array_are_named_by_position():
    X = np.array([[10.0, 1.5], [NAN, 2.5], [7.0, 3.5]])
    encoder = FeatureEncoder().fit(X, [0])
    np.testing.assert_array_equal(encoder.transform(X), [[1, NAN, 0], [1.5, 2.5, 3.5]])
    assert encoder.categories[0].tolist() == [7, 10]
    assert encoder.n_categories.tolist() == [2, 0]
    assert encoder.names == ["x0", "x1"]


def test_rare_levels_share_the_last_code():
    X = pd.DataFrame({"x": list("aabbbcdde")})  # a 2, b 3, c 1, d 2, e 1
    encoder = FeatureEncoder().fit(X, max_categories=3)
    assert encoder.level_codes[0].tolist() == [0, 1, 2, 2, 2]  # a before d: same frequency, first level
    assert encoder.n_categories.tolist() == [3]
    assert encoder.transform(X)[0].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"x": ["e", "z"]})), [[2, NAN]])


def test_weights_count_as_rows():
    X = pd.DataFrame({"x": list("abcde")})
    weight = np.array([1.0, 0.0, 5.0, 1.0, 3.0])
    weighted = FeatureEncoder().fit(X, max_categories=3, sample_weight=weight)
    repeated = FeatureEncoder().fit(X.loc[X.index.repeat(weight.astype(int))], max_categories=3)
    assert weighted.categories[0].tolist() == repeated.categories[0].tolist() == list("acde")
    assert weighted.level_codes[0].tolist() == repeated.level_codes[0].tolist() == [2, 0, 2, 1]
    np.testing.assert_array_equal(weighted.transform(X), [[2, NAN, 0, 2, 1]])


@pytest.mark.parametrize(("max_categories", "n_codes"), [(254, 254), (None, 300), (300, 300), (299, 299), (1, 1)])
def test_the_number_of_codes_is_bounded(max_categories, n_codes):
    X = pd.DataFrame({"x": [f"level{i}" for i in range(300)]})
    encoder = FeatureEncoder().fit(X, max_categories=max_categories)
    assert encoder.n_categories.tolist() == [n_codes]
    assert sorted(set(encoder.transform(X)[0].tolist())) == list(range(n_codes))


def test_a_category_without_any_value_has_no_code():
    X = pd.DataFrame({"x": pd.Series([None, None], dtype="category")})
    encoder = FeatureEncoder().fit(X)
    assert encoder.is_categorical.tolist() == [True]
    assert encoder.n_categories.tolist() == [0]
    assert np.isnan(encoder.transform(X)).all()


# --- which columns are categorical ---

MIXED = pd.DataFrame(
    {
        "n": [1.0, 2.0],
        "s": ["a", "b"],
        "c": pd.Series([1, 2], dtype="category"),
        "b": [True, False],
        "o": pd.Series([1, "x"], dtype=object),
        "on": pd.Series([1, 2.5], dtype=object),
    }
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("from_dtype", "sco"),
        (None, ""),
        ([], ""),
        (["n", "s"], "ns"),
        ([0, -1], ["n", "on"]),
        (np.array([True, False, False, True, False, False]), "nb"),
        (pd.Index(["n"]), "n"),
    ],
)
def test_categorical_columns_by_type_name_position_or_mask(given, expected):
    mask = resolve_categorical_features(given, MIXED)
    assert mask.dtype == bool
    assert MIXED.columns[mask].tolist() == list(expected)


def test_the_task_column_is_a_category_only_where_it_is_named():
    assert resolve_categorical_features("from_dtype", MIXED, [1]).tolist() == [0, 0, 1, 0, 1, 0]
    assert resolve_categorical_features(["s"], MIXED, [1]).tolist() == [0, 1, 0, 0, 0, 0]


def test_an_array_has_no_categories_unless_named():
    assert not resolve_categorical_features("from_dtype", np.zeros((2, 3))).any()


@pytest.mark.parametrize(
    ("X", "given", "message"),
    [
        (MIXED, "auto", "categorical_features='auto' is not understood; pass 'from_dtype', None, or a list"),
        (MIXED, 3, "categorical_features=3 is no list; pass names or positions in one"),
        (MIXED, [6], "categorical_features holds 6, but X has 6 columns; pass positions from 0 to 5"),
        (MIXED, [True], "categorical_features is a mask of length 1, but X has 6 columns; pass one bool per column"),
        (
            np.zeros((2, 3)),
            ["a"],
            "categorical_features names 'a', but X is an array without column names; pass positions",
        ),
        (MIXED.rename(columns={"n": "income"}), ["incme"], r"'incme', which is not a column of X, .*mean 'income'\?"),
    ],
)
def test_a_choice_of_columns_that_cannot_be_used_says_why(X, given, message):
    with pytest.raises(ValueError, match=message):
        FeatureEncoder().fit(X, given)


# --- refusals ---


@pytest.mark.parametrize(
    ("X", "options", "error", "message"),
    [
        (
            pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, -np.inf]}),
            {},
            ValueError,
            r"^Input X contains infinity or a value too large for dtype\('float64'\): column 'b' of X holds -inf in",
        ),
        (np.array([[1.0, np.inf]]), {}, ValueError, "column 'x1' of X holds inf in row 0; use NaN"),
        (np.array([[1.0, np.inf]]), {"names": ["a", "c"]}, ValueError, "column 'c' of X"),
        (np.array([[10**400]], dtype=object), {}, ValueError, "Input X contains infinity or a value too large"),
        (
            pd.DataFrame({"a": ["red"]}),
            {"categorical_features": None},
            ValueError,
            "'a' of X.*'red'.*name it in cat.*cate",
        ),
        (np.array([["red"]], dtype=object), {}, ValueError, "'x0' of X is to be read as numbers, but.*'red'"),
        (np.array([["red"]]), {}, ValueError, "'x0' of X is to be read as numbers, but.*'red'"),
        (np.array([[{}]], dtype=object), {}, TypeError, "argument must be .* string.* number"),
        (pd.DataFrame({"a": [[1]]}), {}, TypeError, "column 'a' of X holds values that cannot be labels"),
        (
            pd.DataFrame({"a": [1.0, np.inf]}),
            {"categorical_features": ["a"]},
            ValueError,
            "'a' of X holds an infinite value",
        ),
        (pd.DataFrame({"a": [1j]}), {}, ValueError, "Complex data not supported: column 'a'"),
        (np.array([[1j]]), {}, ValueError, "Complex data not supported"),
        (sparse.eye(2, format="csr"), {}, TypeError, "[Ss]parse"),
        (np.arange(3), {}, ValueError, "Reshape your data"),
    ],
)
def test_a_table_that_cannot_be_encoded_says_why(X, options, error, message):
    with pytest.raises(error, match=message):
        FeatureEncoder().fit(X, **options).transform(X)


@pytest.mark.parametrize(
    "dates",
    [
        pd.to_datetime(pd.Series(["2020-01-01", None])),
        pd.to_datetime(pd.Series(["2020-01-01", None])).dt.tz_localize("UTC"),
        pd.to_datetime(pd.Series(["2020-01-01", None])).dt.to_period("D"),
        pd.to_datetime(pd.Series(["2020-01-01", None])).dt.date,
        pd.to_timedelta(pd.Series(["1D", None])),
        pd.to_datetime(pd.Series(["2020-01-01", None])).astype(object),
    ],
)
def test_dates_are_refused_unless_named_as_categories(dates):
    with pytest.raises(ValueError, match=r"^column 'x' of X holds dates or times.*convert it, for example to days"):
        encoded(dates)
    np.testing.assert_array_equal(encoded(dates, categorical_features=["x"]), [0, NAN])


def test_dates_that_come_back_as_a_category_are_not_numbers():
    encoder = FeatureEncoder().fit(pd.DataFrame({"x": [1.0]}))
    with pytest.raises(ValueError, match="holds dates or times"):
        encoder.transform(pd.DataFrame({"x": pd.to_datetime(pd.Series(["2020-01-01"])).astype("category")}))


def test_another_number_of_columns_is_refused():
    with pytest.raises(ValueError, match="X has 2 features, but fit saw 1; pass the same columns"):
        FeatureEncoder().fit(np.zeros((2, 1))).transform(np.zeros((2, 2)))


# --- promises ---


def test_inputs_are_not_written_to_and_may_be_read_only():
    X = np.array([[1.0, NAN], [2.0, 0.0]])
    X.flags.writeable = False
    out = FeatureEncoder().fit(X, [1]).transform(X)
    out[:] = 7
    np.testing.assert_array_equal(X, [[1.0, NAN], [2.0, 0.0]])
    frame = MIXED.copy()
    FeatureEncoder().fit(frame).transform(frame)[:] = 7
    pd.testing.assert_frame_equal(frame, MIXED)


def test_an_encoder_survives_pickle():
    encoder = FeatureEncoder().fit(MIXED)
    copy = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(copy.transform(MIXED), encoder.transform(MIXED))


# --- large tables ---


@pytest.fixture
def every_table_is_large(monkeypatch):
    monkeypatch.setattr(features_module, "HELD_CELLS", 0)
    monkeypatch.setattr(features_module, "PIECE_CELLS", 7)


SEVERAL = pd.concat([MIXED] * 4)
NUMBERS = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)


@pytest.mark.usefixtures("every_table_is_large")
@pytest.mark.parametrize(
    "table",
    [
        NUMBERS,
        np.asfortranarray(NUMBERS),
        NUMBERS[::2],
        NUMBERS.tolist(),
        pd.DataFrame(NUMBERS),
        pd.concat([MIXED] * 4),
    ],
    ids=["rows", "columns", "strided", "list", "frame", "mixed frame"],
)
def test_a_large_table_is_never_held_as_floats_and_gives_the_same_values(table):
    encoder = FeatureEncoder().fit(table)
    whole, read = encoder.transform(table), encoder.read(table)
    assert isinstance(read, LargeTable) and read.shape == whole.shape and len(read) == len(whole)
    n_rows = whole.shape[1]
    for rows in (slice(None), np.array([2, 0, 0]), np.arange(n_rows) % 3 == 1, np.zeros(n_rows, dtype=bool)):
        np.testing.assert_array_equal(read[:, rows], whole[:, rows])
        for j in range(len(whole)):
            np.testing.assert_array_equal(read[j, rows], whole[j, rows])
    pieces = list(read.pieces())
    assert len(pieces) > 1 and max(values.size for _, values in pieces) <= max(7, len(whole))
    np.testing.assert_array_equal(np.concatenate([values for _, values in pieces], axis=1), whole)
    assert [rows.start for rows, _ in pieces[1:]] == [rows.stop for rows, _ in pieces[:-1]]


@pytest.mark.usefixtures("every_table_is_large")
@pytest.mark.parametrize("ask", [lambda read: list(read.pieces()), lambda read: read[1, np.array([9, 2])]])
def test_infinity_in_a_large_table_is_named_by_its_row(ask):
    table = NUMBERS.copy()
    table[9, 1] = np.inf
    with pytest.raises(ValueError, match="column 'x1' of X holds inf in row 9; use NaN"):
        ask(FeatureEncoder().fit(table).read(table))


def test_a_small_table_is_held():
    assert isinstance(FeatureEncoder().fit(NUMBERS).read(NUMBERS), np.ndarray)
