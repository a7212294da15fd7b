"""Tables that are read in pieces: paths, memory maps and iterators give the model of the table in memory."""

import numpy as np
import pandas as pd
import pytest

from mttab import RMTGBClassifier, RMTGBRegressor, _boosting_sources
from mttab._core import sources
from mttab.datasets import make_task_groups

pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

SMALL = {
    "task_column": "task",
    "max_iter_shared": 8,
    "max_iter_partition": 3,
    "max_iter_task": 3,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def table():
    X, y = make_task_groups(n_samples=60, group_sizes=(4, 1), random_state=0)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X.iloc[order].reset_index(drop=True), y.iloc[order].reset_index(drop=True)
    X["task"] = "shop " + X["task"].astype(str)
    X["kind"] = pd.Categorical(np.array(["oak", "fir", "elm"])[np.arange(len(X)) % 3])
    X.iloc[::7, 0] = np.nan
    return X, y


@pytest.fixture(scope="module")
def local(table):
    return RMTGBRegressor(**SMALL, early_stopping=False).fit(*table)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sources, "PIECE_ROWS", 70)


def test_a_parquet_or_arrow_path_gives_the_model_of_the_table(table, local, tmp_path):
    X, y = table
    frame = X.assign(sales=y)
    frame.to_parquet(tmp_path / "one.parquet")
    frame.to_feather(tmp_path / "one.feather")
    (tmp_path / "parts").mkdir()
    frame[:100].to_parquet(tmp_path / "parts" / "0.parquet", index=False)
    frame[100:].to_parquet(tmp_path / "parts" / "1.parquet", index=False)
    for path in (tmp_path / "one.parquet", str(tmp_path / "one.feather"), tmp_path / "parts"):
        model = RMTGBRegressor(**SMALL, early_stopping=False).fit(path, y="sales")
        assert np.array_equal(model.predict(X), local.predict(X))
        assert model.feature_names_in_.tolist() == X.columns.tolist()


def test_a_path_has_early_stopping_sharing_and_refit_as_well(table, tmp_path):
    X, y = table
    X.assign(sales=y).to_parquet(tmp_path / "table.parquet")
    options = SMALL | {"max_iter_shared": 60, "n_iter_no_change": 2}
    whole = RMTGBRegressor(**options).fit(X, y)
    model = RMTGBRegressor(**options).fit(tmp_path / "table.parquet", y="sales")
    assert model.sharing_ == whole.sharing_ != "blocks"
    # The rows held out are the same, the bins are not quite: they come from all rows here.
    assert model.validation_score_[0] == pytest.approx(whole.validation_score_[0])
    assert abs(model.score(X, y) - whole.score(X, y)) < 0.05


def test_chunks_that_can_be_read_once_give_the_model_of_the_table(table, local):
    X, y = table
    chunks = ((X[start : start + 80], y[start : start + 80]) for start in range(0, len(X), 80))
    model = RMTGBRegressor(**SMALL, early_stopping=False).fit(chunks, None)
    assert np.array_equal(model.predict(X), local.predict(X))


def test_weights_come_with_the_chunks_or_from_a_column(table, tmp_path):
    X, y = table
    labels, weight = np.where(y > 0, "up", "down"), np.arange(len(X)) % 3
    options = SMALL | {"early_stopping": False, "class_weight": "balanced"}
    whole = RMTGBClassifier(**options).fit(X, labels, sample_weight=weight)
    X.assign(move=labels, weight=weight).to_parquet(tmp_path / "table.parquet")
    of_path = RMTGBClassifier(**options).fit(tmp_path / "table.parquet", y="move", sample_weight="weight")
    of_chunks = RMTGBClassifier(**options).fit(
        iter([(X[:99], labels[:99], weight[:99]), (X[99:], labels[99:], weight[99:])]), None
    )
    for model in (of_path, of_chunks):
        np.testing.assert_allclose(model.predict_proba(X), whole.predict_proba(X), rtol=1e-9)
        assert model.classes_.tolist() == ["down", "up"]


def test_a_memory_map_gives_the_model_of_the_array(table, tmp_path):
    X, y = table
    values = X.drop(columns="kind").assign(task=X["task"].str[-1].astype(float)).to_numpy()
    mapped = np.memmap(tmp_path / "X", dtype=np.float64, mode="w+", shape=values.shape)
    mapped[:] = values
    options = SMALL | {"task_column": values.shape[1] - 1, "early_stopping": False}
    model = RMTGBRegressor(**options).fit(mapped, y)
    assert np.array_equal(model.predict(values), RMTGBRegressor(**options).fit(values, y).predict(values))
    with pytest.raises(ValueError, match="y has 299"):
        RMTGBRegressor(**options).fit(mapped, y[:-1])


def test_bins_go_to_a_file_where_memory_is_short(table, local, monkeypatch, tmp_path):
    X, y = table
    X.assign(sales=y).to_parquet(tmp_path / "table.parquet")
    made = []
    monkeypatch.setattr(_boosting_sources, "_free_memory", lambda: 1000.0)
    monkeypatch.setattr(np, "memmap", _recording(np.memmap, made))
    model = RMTGBRegressor(**SMALL, early_stopping=False).fit(tmp_path / "table.parquet", y="sales")
    assert made == [2]  # six features, four in a word
    assert np.array_equal(model.predict(X), local.predict(X))


def _recording(memmap, made):
    class Recorded(memmap):
        def __new__(cls, *args, **options):
            made.append(options["shape"][0])
            return memmap(*args, **options)

    return Recorded


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_a_file_is_not_read_ahead_as_a_whole(tmp_path, monkeypatch, suffix):
    import pyarrow

    path = tmp_path / f"table.{suffix}"
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(1_000_000, 4)), columns=[*"abcd"])
    if suffix == "parquet":
        table.to_parquet(path, row_group_size=10_000)
    else:
        table.to_feather(path, chunksize=10_000)
    monkeypatch.setattr(sources, "PIECE_ROWS", 10_000)
    before, most, n_rows = pyarrow.total_allocated_bytes(), 0, 0
    for piece in sources.ArrowSource(path, "d", None, None, False).pieces():
        most, n_rows = max(most, pyarrow.total_allocated_bytes() - before), n_rows + len(piece.X)
    assert n_rows == len(table)
    assert most < 0.5 * path.stat().st_size


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"y": "sale"}, "y='sale' is not a column of .*; did you mean 'sales'"),
        ({}, {"y": [1.0]}, "y is a list, but with a path as X it names a column"),
        ({}, {"y": "sales", "task": [1]}, "name the task column by task_column"),
        ({"warm_start": True}, {"y": "sales"}, "warm_start=True needs the table in memory"),
        ({"validation": [([0], [1])]}, {"y": "sales"}, "validation splits a table in memory"),
        ({"task_column": "shop"}, {"y": "sales"}, "task_column='shop' is not a column of X"),
    ],
)
def test_what_a_path_cannot_do_is_one_sentence(table, tmp_path, options, arguments, message):
    X, y = table
    X.assign(sales=y).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(ValueError, match=message):
        RMTGBRegressor(**SMALL | options).fit(tmp_path / "table.parquet", **arguments)


def test_a_path_that_is_not_there_and_chunks_that_are_none_are_one_sentence(table, tmp_path):
    X, y = table
    (tmp_path / "parts" / "store=3").mkdir(parents=True)
    with pytest.raises(ValueError, match="is a folder with parts such as 'store=3', whose names hold a column"):
        RMTGBRegressor().fit(tmp_path / "parts", "y")
    with pytest.raises(ValueError, match="is no file or folder"):
        RMTGBRegressor().fit(tmp_path / "nothing.parquet", y="sales")
    with pytest.raises(ValueError, match=r"let it give tuples \(X, y\)"):
        RMTGBRegressor().fit(iter([X]), None)
    with pytest.raises(ValueError, match="y was passed with an iterator"):
        RMTGBRegressor().fit(iter([(X, y)]), y)
    with pytest.raises(ValueError, match="in one piece and"):
        RMTGBRegressor(**SMALL).fit(iter([(X, y), (X.drop(columns="kind"), y)]), None)


def test_a_fit_on_pieces_tells_of_its_rounds(table, tmp_path, caplog):
    X, y = table
    X.assign(sales=y).to_parquet(tmp_path / "table.parquet")
    with caplog.at_level("INFO", logger="mttab"):
        RMTGBRegressor(**SMALL, early_stopping=False, verbose=2).fit(tmp_path / "table.parquet", y="sales")
    assert sum("shared round" in message for message in caplog.messages) == SMALL["max_iter_shared"]
