"""Tables, columns, labels, weights and ids in the forms in which people have them, for both families."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttab import MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor, RMTGBClassifier, RMTGBRegressor

pytest.importorskip("torch", reason="torch is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pl = pytest.importorskip("polars", reason="polars is not installed")

N = 60
BOOSTER = {"max_iter_shared": 4, "max_iter_partition": 2, "max_iter_task": 2, "min_samples_leaf": 2}
NETWORK = {"embedding_dim": 8, "n_blocks": 1, "mlp_dim": 8, "head_dim": 8, "n_members": 1, "max_epochs": 1}
NETWORK |= {"n_bins": 4, "device": "cpu", "n_jobs": 1}
OPTIONS = {
    RMTGBRegressor: BOOSTER, RMTGBClassifier: BOOSTER, MultiTabNet: NETWORK, MultiTabNetRegressor: NETWORK,
    MultiTabNetClassifier: NETWORK,
}  # fmt: skip
REGRESSORS, CLASSIFIERS = [RMTGBRegressor, MultiTabNetRegressor], [RMTGBClassifier, MultiTabNetClassifier]


# Both families read columns, labels and ids by the same code: that the second one does is checked form by form as well,
# but with the slow tests.
SLOW_NETWORKS = [RMTGBRegressor, pytest.param(MultiTabNetRegressor, marks=pytest.mark.slow)]
SLOW_NETWORK_CLASSIFIERS = [RMTGBClassifier, pytest.param(MultiTabNetClassifier, marks=pytest.mark.slow)]


def make_model(estimator_class, **options):
    common = {"task_column": "task", "early_stopping": False, "random_state": 0}
    return estimator_class(**common | OPTIONS[estimator_class] | options)


def make_frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=N),
            "count": rng.integers(0, 9, N),
            "flag": rng.random(N) > 0.5,
            "colour": rng.choice(["red", "green", "blue"], N),
            "task": rng.choice(["p", "q", "r"], N),
        }
    )
    frame.loc[3, "number"] = np.nan
    return frame


FRAME = make_frame()
Y = (2.0 * FRAME["number"].fillna(0) + FRAME["count"] + 3.0 * (FRAME["colour"] == "red")).rename("y")
LABELS = pd.Series(np.where(Y > Y.mean(), "high", "low"), name="y")
DATES = FRAME.assign(day=pd.Timestamp("2020-01-01") + pd.to_timedelta(FRAME["count"], unit="D"))


@pytest.fixture(scope="module")
def expected():
    """Predictions from pandas, by estimator."""
    of_numbers = {c: make_model(c).fit(FRAME, Y).predict(FRAME) for c in REGRESSORS}
    return of_numbers | {c: make_model(c).fit(FRAME, LABELS).predict(FRAME) for c in CLASSIFIERS}


def arrow(column, dtype):
    return pd.array(column, dtype=pd.ArrowDtype(dtype))


TABLES = {
    "polars": lambda: pl.from_pandas(FRAME),
    "polars categories": lambda: pl.from_pandas(FRAME).with_columns(pl.col("colour", "task").cast(pl.Categorical)),
    "polars enum": lambda: pl.from_pandas(FRAME).with_columns(pl.col("colour").cast(pl.Enum(["red", "green", "blue"]))),
    "arrow table": lambda: pa.Table.from_pandas(FRAME),
    "record batch": lambda: pa.RecordBatch.from_pandas(FRAME),
    "nullable": lambda: FRAME.convert_dtypes(),
    "arrow dtypes": lambda: FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "large strings": lambda: FRAME.assign(colour=arrow(FRAME["colour"], pa.large_string())),
    "arrow dictionary": lambda: FRAME.assign(colour=arrow(FRAME["colour"], pa.dictionary(pa.int32(), pa.string()))),
    "arrow decimals": lambda: FRAME.assign(count=arrow(FRAME["count"], pa.decimal128(22, 0))),
    "decimals": lambda: FRAME.assign(count=[decimal.Decimal(int(v)) for v in FRAME["count"]]),
    "objects": lambda: FRAME.astype(object),
    "levels without rows": lambda: FRAME.assign(
        colour=pd.Categorical(FRAME["colour"], categories=["red", "white", "green", "blue"]),
        task=pd.Categorical(FRAME["task"], categories=["p", "none", "q", "r"]),
    ),
    "sparse column": lambda: FRAME.assign(count=pd.arrays.SparseArray(FRAME["count"].to_numpy())),
}


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("estimator_class", SLOW_NETWORKS)
def test_a_table_in_another_form_gives_the_same_model(expected, estimator_class, form):
    X = TABLES[form]()
    model = make_model(estimator_class).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), expected[estimator_class])
    np.testing.assert_array_equal(model.predict(FRAME), expected[estimator_class])
    assert model.tasks_.tolist() == ["p", "q", "r"] and model.feature_names_in_.tolist() == list(FRAME.columns)


@pytest.mark.parametrize("form", ["polars", "arrow dtypes", "objects"])
def test_networks_read_tables_in_other_forms(expected, form):
    model = make_model(MultiTabNetRegressor).fit(TABLES[form](), Y)
    np.testing.assert_array_equal(model.predict(FRAME), expected[MultiTabNetRegressor])


REFUSED = {
    "lazy": (lambda: pl.from_pandas(FRAME).lazy(), TypeError, r"X is a LazyFrame, .*pass X.collect\(\)"),
    "dict": (lambda: dict(FRAME), TypeError, r"X is a dict; .*pandas.DataFrame\(X\)"),
    "list of dicts": (lambda: FRAME.to_dict("records"), TypeError, r"X is a list of dicts; .*pandas.DataFrame\(X\)"),
    "sparse": (lambda: sparse.csr_matrix(np.ones((N, 2))), TypeError, "dense data is required"),
    "sparse dict": (lambda: sparse.dok_array(np.ones((N, 2))), TypeError, "dense data is required"),
    "dates": (lambda: DATES, ValueError, "column 'day' of X holds dates or times.*days since a fixed date"),
    "polars dates": (lambda: pl.from_pandas(DATES), ValueError, "column 'day' of X holds dates or times"),
    "arrow dates": (lambda: DATES.convert_dtypes(dtype_backend="pyarrow"), ValueError, "'day' of X holds dates"),
    "zoned dates": (lambda: DATES.assign(day=DATES["day"].dt.tz_localize("UTC")), ValueError, "'day' of X holds dates"),
    "periods": (lambda: DATES.assign(day=DATES["day"].dt.to_period("D")), ValueError, "'day' of X holds dates"),
    "durations": (lambda: DATES.assign(day=DATES["day"] - DATES["day"].min()), ValueError, "'day' of X holds dates"),
    "date objects": (lambda: FRAME.assign(day=[datetime.date(2020, 1, 1)] * N), ValueError, "'day' of X holds dates"),
    "complex": (lambda: FRAME.assign(number=1j), ValueError, "'number' of X holds complex numbers; split them"),
    "lists": (lambda: FRAME.assign(number=[[1, 2]] * N), TypeError, "'number' of X holds values that cannot be labels"),
    "no id": (lambda: pl.from_pandas(FRAME.assign(task=FRAME["task"].replace("p", None))), ValueError, "fillna"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("estimator_class", REGRESSORS)
def test_a_table_that_cannot_be_read_is_refused_with_the_remedy(estimator_class, form):
    make, error, message = REFUSED[form]
    with pytest.raises(error, match=message):
        make_model(estimator_class).fit(make(), Y)


NUMBERS = {
    "polars": lambda: pl.Series("y", Y.to_numpy()),
    "arrow": lambda: pa.array(Y.to_numpy()),
    "chunks": lambda: pa.chunked_array([Y.to_numpy()[:20], Y.to_numpy()[20:]]),
    "nullable": lambda: Y.astype("Float64"),
    "arrow dtype": lambda: Y.astype("double[pyarrow]"),
    "objects": lambda: Y.astype(object),
    "sparse": lambda: pd.Series(pd.arrays.SparseArray(Y.to_numpy())),
}


@pytest.mark.parametrize("form", NUMBERS)
@pytest.mark.parametrize("estimator_class", SLOW_NETWORKS)
def test_targets_in_another_form_give_the_same_model(expected, estimator_class, form):
    model = make_model(estimator_class).fit(FRAME, NUMBERS[form]())
    np.testing.assert_array_equal(model.predict(FRAME), expected[estimator_class])
    assert model.score(FRAME, NUMBERS[form]()) == model.score(FRAME, Y)


CLASSES = {
    "string": lambda: LABELS.astype("string"),
    "arrow string": lambda: LABELS.astype(pd.ArrowDtype(pa.string())),
    "a level without rows": lambda: pd.Series(pd.Categorical(LABELS, categories=["low", "middle", "high"])),
    "polars": lambda: pl.Series("y", LABELS.tolist()),
    "polars categories": lambda: pl.Series("y", LABELS.tolist(), dtype=pl.Categorical),
    "arrow": lambda: pa.array(LABELS.tolist()),
    "arrow dictionary": lambda: pa.array(LABELS.tolist()).dictionary_encode(),
}


@pytest.mark.parametrize("form", CLASSES)
@pytest.mark.parametrize("estimator_class", SLOW_NETWORK_CLASSIFIERS)
def test_classes_in_another_form_give_the_same_model(expected, estimator_class, form):
    model = make_model(estimator_class).fit(FRAME, CLASSES[form]())
    assert model.classes_.tolist() == ["high", "low"]
    np.testing.assert_array_equal(model.predict(FRAME), expected[estimator_class])
    assert model.score(FRAME, CLASSES[form]()) == model.score(FRAME, LABELS)


@pytest.mark.parametrize("dtype", ["boolean", "bool[pyarrow]", "Int64", object, "polars"])
@pytest.mark.parametrize("estimator_class", SLOW_NETWORK_CLASSIFIERS)
def test_flags_in_another_form_are_classes(estimator_class, dtype):
    flags = LABELS == "high"
    y = pl.Series(flags.tolist()) if dtype == "polars" else flags.astype(dtype)
    model = make_model(estimator_class).fit(FRAME, y)
    assert model.classes_.tolist() == [False, True] and model.classes_.dtype.kind == ("i" if dtype == "Int64" else "b")


@pytest.mark.parametrize("missing", [lambda: Y.astype("Float64").mask(Y.index == 4), lambda: pl.Series([None, *Y[1:]])])
def test_a_missing_target_is_named_whatever_says_that_it_is_missing(missing):
    with pytest.raises(ValueError, match=r"y contains NaN in 1 of 60 rows .*leave these rows out"):
        make_model(RMTGBRegressor).fit(FRAME, missing())
    with pytest.warns(UserWarning, match="y has no label in 1 of 60 rows .*left out"):
        make_model(MultiTabNetRegressor).fit(FRAME, missing())


TWO = pd.DataFrame({"u": Y.where(Y.index != 2), "v": -Y})
TWO_FORMS = {
    "polars": lambda: pl.from_pandas(TWO),
    "arrow": lambda: pa.Table.from_pandas(TWO),
    "nullable": lambda: TWO.astype("Float64"),
    "arrow dtypes": lambda: TWO.astype("double[pyarrow]"),
}


@pytest.mark.parametrize("form", TWO_FORMS)
@pytest.mark.parametrize("estimator_class", REGRESSORS)
def test_tables_of_targets_keep_their_names_and_holes(estimator_class, form):
    X, options = FRAME.drop(columns="task"), {"task_column": None}
    model = make_model(estimator_class, **options).fit(X, TWO_FORMS[form]())
    assert model.tasks_.tolist() == ["u", "v"]
    reference = make_model(estimator_class, **options).fit(X, TWO)
    np.testing.assert_array_equal(np.asarray(model.predict(X)), np.asarray(reference.predict(X)))
    assert model.score(X, TWO_FORMS[form]()) == reference.score(X, TWO)


def test_a_polars_table_of_mixed_labels_keeps_its_kinds():
    mixed = pl.DataFrame({"price": Y.to_numpy(), "grade": LABELS.tolist()})
    net = make_model(MultiTabNet, task_column=None).fit(FRAME.drop(columns="task"), mixed)
    assert net.task_types_ == {"price": "regression", "grade": "binary"}


WEIGHTS = {
    "polars": pl.Series,
    "arrow": pa.array,
    "nullable": lambda w: pd.Series(w, dtype="Float64"),
    "arrow dtype": lambda w: pd.Series(w, dtype="double[pyarrow]"),
    "list": list,
    "objects": lambda w: w.astype(object),
}


@pytest.mark.parametrize("estimator_class", SLOW_NETWORKS)
def test_weights_come_in_every_form(estimator_class):
    weight = np.random.default_rng(1).random(N) + 0.5
    reference = make_model(estimator_class).fit(FRAME, Y, sample_weight=weight).predict(FRAME)
    for convert in WEIGHTS.values():
        model = make_model(estimator_class).fit(FRAME, Y, sample_weight=convert(weight))
        np.testing.assert_array_equal(model.predict(FRAME), reference)
    with pytest.raises(ValueError, match=r"sample_weight holds nan in row 4, .*use 0 to leave a row out"):
        make_model(estimator_class).fit(FRAME, Y, sample_weight=pd.Series(weight, dtype="Float64").mask(Y.index == 4))


IDS = {
    "string": lambda t: t.astype("string"),
    "arrow string": lambda t: t.astype(pd.ArrowDtype(pa.string())),
    "category": lambda t: t.astype("category"),
    "polars": lambda t: pl.Series(t.tolist()),
    "polars categories": lambda t: pl.Series(t.tolist(), dtype=pl.Categorical),
    "arrow": lambda t: pa.array(t.tolist()),
    "list": list,
}


@pytest.mark.parametrize("estimator_class", SLOW_NETWORKS)
def test_ids_come_in_every_form(expected, estimator_class):
    X, ids = FRAME.drop(columns="task"), FRAME["task"]
    model = make_model(estimator_class, task_column=None).fit(X, Y, task=ids)
    for convert in IDS.values():
        np.testing.assert_array_equal(model.predict(X, task=convert(ids)), expected[estimator_class])
    twin = make_model(estimator_class, task_column=None).fit(X, Y, task=IDS["polars"](ids))
    assert twin.tasks_.tolist() == ["p", "q", "r"]
    pairs = pl.DataFrame({"town": ids.tolist(), "flag": FRAME["flag"].tolist()})
    assert make_model(estimator_class, task_column=None).fit(X, Y, task=pairs).tasks_.tolist()[0] == ("p", False)


def test_polars_output_of_transformers_and_searches_go_together(expected):
    scale = make_column_transformer(
        (StandardScaler(), ["number"]), remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="polars")
    pipeline = make_pipeline(scale, make_model(RMTGBRegressor))
    search = GridSearchCV(pipeline, {"rmtgbregressor__learning_rate": [0.1]}, cv=2).fit(pl.from_pandas(FRAME), Y)
    assert search.predict(pl.from_pandas(FRAME)).shape == (N,)
