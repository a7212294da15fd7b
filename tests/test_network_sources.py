"""Networks on tables that are read in pieces: batches come from a file, and the network is that of the table."""

import numpy as np
import pandas as pd
import pytest

from mttab.datasets import make_multitask, make_task_groups

pytest.importorskip("torch", reason="the extra neural is not installed")
pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

from mttab import MultiTabNet, MultiTabNetRegressor, _network_sources
from mttab._core import sources

SMALL = {"n_members": 1, "max_epochs": 2, "early_stopping": False, "random_state": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sources, "PIECE_ROWS", 70)


@pytest.fixture(scope="module")
def table():
    X, Y = make_multitask(200, 4, 2, task_types=["regression", "binary"], random_state=0)
    X = pd.DataFrame(X).add_prefix("x").assign(kind=np.array(["oak", "fir", "elm"])[np.arange(len(X)) % 3])
    Y = pd.DataFrame(Y).set_axis(["price", "sold"], axis=1)
    Y["sold"] = np.where(Y["sold"] > 0, "yes", "no")
    Y.loc[::9, "price"] = np.nan
    return X, Y


@pytest.fixture(scope="module")
def local(table):
    return MultiTabNet(**SMALL).fit(*table)


def assert_same(model, local, X):
    pd.testing.assert_frame_equal(model.history_, local.history_)
    pd.testing.assert_frame_equal(model.predict(X), local.predict(X))


def test_a_path_and_chunks_give_the_network_of_the_table(table, local, tmp_path):
    X, Y = table
    pd.concat([X, Y], axis=1).to_parquet(tmp_path / "table.parquet")
    assert_same(MultiTabNet(**SMALL).fit(tmp_path / "table.parquet", y=["price", "sold"]), local, X)
    chunks = ((X[start : start + 90], Y[start : start + 90]) for start in range(0, len(X), 90))
    assert_same(MultiTabNet(**SMALL).fit(chunks, None), local, X)


def test_row_tasks_and_a_memory_map(tmp_path):
    X, y = make_task_groups(n_samples=40, group_sizes=(3, 1), random_state=0)
    values = X.to_numpy(float)
    mapped = np.memmap(tmp_path / "X", dtype=float, mode="w+", shape=values.shape)
    mapped[:] = values
    options = SMALL | {"task_column": values.shape[1] - 1}
    model, local = (MultiTabNetRegressor(**options).fit(table, y) for table in (mapped, values))
    assert np.array_equal(model.predict(values), local.predict(values))
    assert model.tasks_.tolist() == local.tasks_.tolist()


def test_rows_in_pieces_have_no_pretext_task(table, tmp_path):
    pd.concat(table, axis=1).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(ValueError, match="pretext='during' needs the table in memory"):
        MultiTabNet(**SMALL, pretext="during").fit(tmp_path / "table.parquet", y=["price", "sold"])


def test_a_sample_has_every_level_class_and_task(table, tmp_path, monkeypatch):
    X, Y = table
    X, Y = X.copy(), Y.copy()
    X.loc[150, "kind"], Y.loc[170, "sold"] = "yew", "lost"
    pd.concat([X, Y], axis=1).to_parquet(tmp_path / "table.parquet")
    monkeypatch.setattr(_network_sources, "SAMPLE_ROWS", 40)
    model = MultiTabNet(**SMALL).fit(tmp_path / "table.parquet", y=["price", "sold"])
    assert model.classes_["sold"].tolist() == ["lost", "no", "yes"]
    assert "yew" in model._encoding.features.categories[-1].tolist()
    sampled = _network_sources.read_sample(
        model,
        sources.ArrowSource(tmp_path / "table.parquet", ["price", "sold"], None, None, True),
        np.random.default_rng(0),
    )
    assert 20 < len(sampled.X) < 80


def test_rows_are_held_out_for_early_stopping(table, tmp_path, monkeypatch):
    X, Y = table
    pd.concat([X, Y], axis=1).to_parquet(tmp_path / "table.parquet")
    monkeypatch.setattr(_network_sources, "MAX_VALIDATION_ROWS", 20)
    options = SMALL | {"early_stopping": True}
    model = MultiTabNet(**options).fit(tmp_path / "table.parquet", y=["price", "sold"])
    assert model.history_["validation_score"].notna().all()
