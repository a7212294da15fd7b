"""Promises of `load_manifest`."""

import json

import numpy as np
import pandas as pd
import pytest

from mttab.datasets import View, load_manifest

N_ROWS = 50


def records():
    row_tasks = {
        "name": "shops", "file": "shops.csv", "layout": "row_tasks",
        "features": {"size": "numeric", "street": "categorical"},
        "task": "shop", "target": "sales", "target_type": "regression",
        "split": {"rule": "time", "train": "year < 2020 or (year == 2020 and month <= 6)"}, "licence": "none",
    }  # fmt: skip
    target_tasks = {
        "name": "shops", "file": "shops.csv", "layout": "target_tasks", "features": {"size": "numeric"},
        "targets": {"sales": "regression", "open": "binary", "kind": "multiclass"},
        "split": {"rule": "column", "column": "side"},
    }  # fmt: skip
    random = row_tasks | {"features": {"size": "numeric", "shop": "categorical"}, "target": "open",
                          "target_type": "binary", "split": {"rule": "random", "test_fraction": 0.2}}  # fmt: skip
    return [row_tasks, target_tasks, random]


def table():
    rng = np.random.default_rng(0)
    sales = rng.integers(0, 100, N_ROWS).astype(float)
    sales[[3, 7]] = np.nan
    return pd.DataFrame(
        {
            "size": rng.integers(1, 9, N_ROWS),
            "street": rng.choice(["main", "side"], N_ROWS),
            "shop": rng.choice(["a", "b", "c"], N_ROWS),
            "sales": sales,
            "open": rng.integers(0, 2, N_ROWS),
            "kind": rng.integers(0, 3, N_ROWS),
            "year": np.repeat([2018, 2019, 2020, 2020, 2021], 10),
            "month": np.tile(np.arange(1, 11), 5),
            "side": ["train"] * 30 + ["validation"] * 5 + ["test"] * 15,
        }
    )


@pytest.fixture
def folder(tmp_path):
    table().to_csv(tmp_path / "shops.csv", index=False)
    write(tmp_path, records())
    return tmp_path


def write(folder, content):
    (folder / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_every_record_becomes_a_view_that_unpacks(folder):
    views = load_manifest(folder)
    assert len(views) == 3 and all(isinstance(view, View) for view in views)
    for view in views:
        X, y, task, split = view
        pd.testing.assert_frame_equal(X, view.X)
        assert y.equals(view.y)
        assert (task is None) == (view.layout == "target_tasks")
        np.testing.assert_array_equal(split(3)[0], view.split(3)[0])


def test_row_tasks_have_the_listed_features_a_label_and_a_task(folder):
    view = load_manifest(str(folder))[0]
    assert (view.name, view.layout, view.task_column) == ("shops", "row_tasks", "shop")
    assert view.title == "shops / row_tasks / shop"
    assert list(view.X.columns) == ["size", "street"]
    assert view.X["size"].dtype == np.float64 and view.X["street"].dtype == "category"
    assert view.y.name == "sales" and view.target_types == {"sales": "regression"}
    assert view.task.tolist() == table()["shop"].tolist()
    assert view.record["licence"] == "none"


def test_x_with_task_adds_the_task_column_once(folder):
    first, wide, has_task = load_manifest(folder)
    assert list(first.X_with_task.columns) == ["size", "street", "shop"]
    assert list(wide.X_with_task.columns) == ["size"]
    assert list(has_task.X_with_task.columns) == ["size", "shop"]


def test_target_tasks_have_one_column_per_task_and_dtypes_that_say_what_it_is(folder):
    view = load_manifest(folder)[1]
    assert view.task is None
    assert view.y.dtypes.astype(str).tolist() == ["float64", "int64", "category"]
    assert view.y["sales"].isna().sum() == 2


def test_a_random_split_is_a_partition_that_repeats_with_its_seed(folder):
    view = load_manifest(folder)[2]
    train, test = view.split(0)
    assert len(test) == 10
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(N_ROWS))
    np.testing.assert_array_equal(test, view.split(0)[1])
    assert not np.array_equal(test, view.split(1)[1])


def test_a_time_split_follows_its_query_on_columns_that_are_no_features(folder):
    view = load_manifest(folder)[0]
    train, test = view.split(0)
    np.testing.assert_array_equal(train, [*range(26), *range(30, 36)])
    np.testing.assert_array_equal(test, sorted(set(range(N_ROWS)) - set(train)))
    np.testing.assert_array_equal(train, view.split(1)[0])


def test_a_column_split_leaves_out_rows_of_neither_side(folder):
    train, test = load_manifest(folder)[1].split()
    np.testing.assert_array_equal(train, np.arange(30))
    np.testing.assert_array_equal(test, np.arange(35, 50))


def test_rows_without_a_label_stay_unless_they_are_to_be_dropped(folder):
    assert load_manifest(folder)[0].y.isna().sum() == 2
    view = load_manifest(folder, drop_unlabelled=True)[0]
    assert len(view.X) == len(view.y) == len(view.task) == N_ROWS - 2
    assert view.y.notna().all()
    train, test = view.split()
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(N_ROWS - 2))
    wide = load_manifest(folder, drop_unlabelled=True)[1]
    assert len(wide.X) == N_ROWS  # some label of every row is observed


def test_parquet_is_read_like_csv(folder):
    pytest.importorskip("pyarrow")
    table().to_parquet(folder / "shops.parquet")
    write(folder, [record | {"file": "shops.parquet"} for record in records()])
    for view in load_manifest(folder):
        assert view.X.shape[0] == len(view.y) == N_ROWS


def test_tables_are_read_late_and_a_changed_file_is_read_again(folder):
    view = load_manifest(folder)[0]
    assert len(view.X) == N_ROWS
    (folder / "shops.csv").unlink()
    views = load_manifest(folder)
    with pytest.raises(FileNotFoundError, match=r"shops.csv of view 'shops / row_tasks / shop' does not exist"):
        _ = views[0].X
    table()[:20].to_csv(folder / "shops.csv", index=False)
    assert len(view.X) == 20


def test_what_a_reader_does_to_the_data_does_not_reach_the_next_reader(folder):
    view = load_manifest(folder)[0]
    X, y, task = view.X, view.y, view.task
    X.loc[:, "size"] = -1.0
    y[:] = -1.0
    task[:] = "gone"
    assert (view.X["size"] > 0).all() and (view.y.dropna() >= 0).all() and set(view.task) == {"a", "b", "c"}


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not valid JSON"),
        ("{}", "must hold a list of records, one per view, got dict"),
        ("[1]", "record 0 of .* must be an object"),
        ('[{"name": "a"}]', "record 0 of .* lacks 'file', 'layout', 'features', 'split'"),
    ],
)
def test_a_manifest_that_is_no_list_of_records_is_refused(tmp_path, content, message):
    write(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "rows"}, r"layout 'rows' in record 0 of .* \('shops'\) must be one of 'row_tasks', 'target_tasks'"),
        ({"layout": "target_tasks"}, "lacks 'targets'"),
        ({"split": {"rule": "fold"}}, "rule 'fold' in 'split' of record 0"),
        ({"split": {"rule": "time"}}, "'split' of record 0 of .* lacks 'train'"),
        ({"split": {}}, "'split' of record 0 of .* lacks 'rule'"),
        ({"target_type": "ordinal"}, "type of target 'sales' 'ordinal'"),
        ({"features": {"size": "integer"}}, "type of feature 'size' 'integer'"),
        ({"features": ["size"]}, "'features' of record 0 of .* must be an object of column -> type"),
        ({"layout": "target_tasks", "targets": ["sales"]}, "'targets' of record 0 of .* must be an object"),
        ({"task": None}, r"'task' of record 0 of .* \('shops'\) must be a string, got None"),
        ({"split": {"rule": "random", "test_fraction": "0.2"}}, "'test_fraction' in 'split' of record 0 .* got '0.2'"),
        ({"split": {"rule": "random", "test_fraction": 20}}, "must be a number between 0 and 1, got 20"),
    ],
)
def test_a_record_that_breaks_the_form_is_refused_by_key(folder, change, message):
    write(folder, [records()[0] | change])
    with pytest.raises(ValueError, match=message):
        load_manifest(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {"sizes": "numeric"}}, "'sizes' of view .* is not a column of .*; did you mean 'size'"),
        ({"target": "turnover"}, "'turnover' of view"),
        ({"task": "shopp"}, "did you mean 'shop'"),
        ({"features": {"street": "numeric"}}, "column 'street' is called numeric in manifest.json"),
        ({"file": "shops.xlsx"}, "must be a .parquet or .csv file"),
        ({"split": {"rule": "time", "train": "yeer < 2020"}}, "query 'yeer < 2020' in the split of view"),
        ({"split": {"rule": "time", "train": "year < 2000"}}, "leaves 0 training and 50 test rows"),
        ({"split": {"rule": "column", "column": "sides"}}, "split column 'sides' .* did you mean 'side'"),
        ({"split": {"rule": "column", "column": "street"}}, "leaves 0 training and 26 test rows|leaves 0 training"),
    ],
)
def test_a_record_that_does_not_fit_its_table_is_refused_when_read(folder, change, message):
    (folder / "shops.xlsx").write_text("")
    write(folder, [records()[0] | change])
    view = load_manifest(folder)[0]
    with pytest.raises(ValueError, match=message):
        _ = view.X, view.split()
