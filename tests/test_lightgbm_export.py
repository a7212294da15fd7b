"""The LightGBM model of a task predicts what the estimator predicts, and is one that other tools take."""

import json
import pickle

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._boosting_export import lightgbm_names
from mttab._core.boosting.export import Column, lightgbm_text
from mttab._core.boosting.forest import PARTITION, SHARED, TASK, Forest, Nodes, Trees
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES

N_TASKS = 3
SMALL = {"max_iter_shared": 8, "max_iter_partition": 4, "max_iter_task": 3, "min_samples_leaf": 5, "random_state": 0}
BLOCKS = {**SMALL, "sharing": "blocks", "categorical_features": ["school", "kind", "town"], "early_stopping": False}


def make_table(n=600):
    """Rows of three schools with missing values, a category, strings with more levels than keep a bin, and counts."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "school": rng.choice(["A", "B", "C"], n),
            "size (m)": (8 * rng.normal(size=n)).round() / 8,  # exact in float32, and so are halves between two
            "kind": pd.Categorical(rng.choice(list("zyxw"), n), categories=list("zyxwv")),
            "town": [f"town {i}" for i in np.minimum(rng.integers(0, 400, n), rng.integers(0, 400, n))],
            "count": rng.integers(0, 9, n).astype("int32"),
        }
    )
    signal = X["size (m)"] + 2.0 * X["kind"].isin(["z", "x"]) + X["count"] * (X["school"] == "B")
    X.loc[::7, "size (m)"] = np.nan
    X.loc[::9, "kind"] = None
    return X, signal.to_numpy() + rng.normal(size=n)


X, Y = make_table()
X_NEW = X.assign(kind=X["kind"].cat.set_categories(["new", "y", "z", "x"]))
X_NEW.loc[::3, "kind"] = "new"
X_NEW.loc[::5, "town"] = "elsewhere"
X_NEW.loc[::4, "size (m)"] = np.nan


def as_lightgbm_reads(table):
    return table.drop(columns="school").astype({"kind": "category", "town": "category"})


def prediction(model, table):
    """What `Booster.predict` returns for the same model."""
    if not hasattr(model, "predict_proba"):
        return model.predict(table)
    proba = model.predict_proba(table)
    return proba[:, 1] if model._fitted.model.forest.n_outputs == 1 else proba


def assert_equal_predictions(model, table, tasks=("A", "B", "C", None)):
    for task in tasks:
        exported = model.to_lightgbm(task)
        wanted = prediction(model, table.assign(school="none" if task is None else task))
        for features in (as_lightgbm_reads(table), exported.encode(table.drop(columns="school"))):
            np.testing.assert_allclose(exported.booster.predict(features), wanted, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def regressor():
    return RMTGBRegressor(task_column="school", **BLOCKS).fit(X, Y)


@pytest.fixture(scope="module")
def classifier():
    y = np.array(["low", "mid", "high"])[np.digitize(Y, [0, 3])]
    return RMTGBClassifier(task_column="school", **BLOCKS).fit(X, y)


# --- equal predictions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_every_regression_loss_predicts_equally(loss):
    model = RMTGBRegressor(task_column="school", loss=loss, quantile=0.8, **BLOCKS)
    model.fit(X, np.exp(Y / 4) if loss == "poisson" else Y)
    assert all(model.n_iter_[block] > 0 for block in model.n_iter_)
    assert_equal_predictions(model, X_NEW)


@pytest.mark.parametrize("loss", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_every_classification_loss_predicts_equally(loss, n_classes, strategy):
    model = RMTGBClassifier(task_column="school", loss=loss, multi_strategy=strategy, **BLOCKS)
    model.fit(X, np.digitize(Y, [0, 3][: n_classes - 1]))
    assert_equal_predictions(model, X_NEW, tasks=("B", None))


@pytest.mark.parametrize("sharing", ["pooled", "category", "groups", "separate"])
def test_every_way_of_sharing_predicts_equally(sharing):
    options = {"task_column": "school", "sharing": sharing, "target_scaling": "task"}
    model = RMTGBRegressor(**SMALL, **options).fit(X, Y * X["school"].map({"A": 1e6, "B": 1.0, "C": 1e-3}))
    assert_equal_predictions(model, X_NEW)


def test_columns_of_y_are_tasks_to_export():
    features = X.drop(columns="school")
    targets = pd.DataFrame({"math": Y, "reading": np.where(np.arange(len(Y)) % 3, -Y, np.nan)})
    model = RMTGBRegressor(**SMALL, target_scaling="task").fit(features, targets)
    predicted = model.predict(features)
    for t, task in enumerate(targets):
        exported = model.to_lightgbm(task)
        np.testing.assert_allclose(exported.booster.predict(exported.encode(features)), predicted[:, t], rtol=1e-9)


def test_ids_of_several_columns_name_a_task():
    table = X.assign(part=np.arange(len(X)) % 2)
    model = RMTGBRegressor(task_column=["school", "part"], **SMALL).fit(table, Y)
    rows = table[(table["school"] == "B") & (table["part"] == 1)]
    for task in (("B", 1), ["B", 1.0]):
        exported = model.to_lightgbm(task)
        features = exported.encode(rows.drop(columns=["school", "part"]))
        np.testing.assert_allclose(exported.booster.predict(features), model.predict(rows), rtol=1e-9)
    assert list(model.feature_importance(by="task")) == model.tasks_.tolist()


def test_a_model_without_tasks_is_exported_as_it_is():
    features = X.drop(columns="school")
    model = RMTGBRegressor(**SMALL).fit(features, Y)
    exported = model.to_lightgbm()
    np.testing.assert_allclose(exported.booster.predict(as_lightgbm_reads(X)), model.predict(features), rtol=1e-9)
    with pytest.raises(ValueError, match="task='A' was passed, but this model was fitted without tasks"):
        model.to_lightgbm("A")


def test_a_model_without_trees_predicts_its_base_score():
    none = {"max_iter_shared": 0, "max_iter_partition": 0, "max_iter_task": 0}
    model = RMTGBRegressor(task_column="school", **none).fit(X, Y)
    np.testing.assert_allclose(model.to_lightgbm("A").booster.predict(as_lightgbm_reads(X)), Y.mean())


def test_numbers_that_are_categories_of_an_array_stay_numbers():
    rng = np.random.default_rng(1)
    array = np.column_stack([rng.integers(0, 3, 500), rng.choice([2.0, 3.0, 40.0, 700.0], 500), rng.normal(size=500)])
    y = array[:, 2] + 3.0 * (array[:, 1] == 40.0) + rng.normal(size=500)
    model = RMTGBRegressor(task_column=0, categorical_features=[1], **SMALL).fit(array, y)
    new = array.copy()
    new[::3, 1], new[1::3, 1], new[::4, 2] = 5.0, np.nan, np.nan
    exported = model.to_lightgbm(2)
    new[:, 0] = 2
    assert exported.feature_names == {"x1": 1, "x2": 2}
    assert any("cat_threshold" in line for line in exported.booster.model_to_string().splitlines())
    for features in (new[:, 1:], exported.encode(new[:, 1:])):
        np.testing.assert_allclose(exported.booster.predict(features), model.predict(new), rtol=1e-9)


# --- the format, on forests made by hand ----------------------------------------------------------------------------

N_FEATURES = 3  # the second is categorical
TASK_ID = N_FEATURES
N_LEVELS = 40


def random_tree(rng, draw_threshold, n_values, depth):
    """Lists of node fields of one tree; children are places in it."""
    nodes = []

    def grow(depth):
        place = len(nodes)
        nodes.append(None)
        feature = -1 if depth == 0 or rng.random() < 0.2 else int(rng.integers(0, N_FEATURES + 1))
        node = {"feature": feature, "left": -1, "right": -1, "levels": None, "threshold": np.inf}
        node |= {"missing_left": bool(rng.random() < 0.5), "value": rng.normal(size=n_values) * (feature < 0)}
        nodes[place] = node
        if feature in (1, TASK_ID):
            node["levels"] = rng.random(N_LEVELS if feature == 1 else N_TASKS) < rng.choice(
                [0.0, 0.5, 1.0], p=[0.1, 0.8, 0.1]
            )
        elif feature >= 0:
            node["threshold"] = draw_threshold()
        if feature >= 0:
            node["left"], node["right"] = grow(depth - 1), grow(depth - 1)
        return place

    grow(depth)
    return nodes


def random_forest(seed, draw_threshold):
    """A forest with trees of every block, splits on numbers, categories and the task, and one to three outputs."""
    rng = np.random.default_rng(seed)
    n_outputs = int(rng.integers(1, 4))
    n_values = n_outputs if rng.random() < 0.5 else 1
    outputs = [0] if n_values == n_outputs else list(range(n_outputs))
    groups = [(SHARED, 0), (SHARED, 0), (PARTITION, 0), (PARTITION, 1), *((TASK, t) for t in range(N_TASKS))]
    heads = [(block, group, k) for block, group in groups for k in outputs]
    nodes, words, trees = [], [], []
    for block, group, k in heads:
        root = len(nodes)
        trees.append((root, block, group, 0, k))
        for node in random_tree(rng, draw_threshold, n_values, 0 if rng.random() < 0.1 else 3):
            node["start"] = -1
            if node["levels"] is not None:
                node["start"] = len(words)
                padded = np.append(node["levels"], np.zeros(-len(node["levels"]) % 32, dtype=bool))
                words += np.packbits(padded, bitorder="little").view(np.uint32).tolist()
            nodes.append(node)
            for side in ("left", "right"):
                node[side] += root if node[side] >= 0 else 0
    packed = Nodes(
        feature=np.array([node["feature"] for node in nodes], dtype=np.int32),
        threshold=np.array([node["threshold"] for node in nodes]),
        missing_left=np.array([node["missing_left"] for node in nodes]),
        left=np.array([node["left"] for node in nodes], dtype=np.int32),
        right=np.array([node["right"] for node in nodes], dtype=np.int32),
        category_start=np.array([node["start"] for node in nodes], dtype=np.int32),
        n_levels=np.array([0 if node["levels"] is None else len(node["levels"]) for node in nodes], dtype=np.int32),
        category_words=np.array(words, dtype=np.uint32),
        value=np.array([node["value"] for node in nodes]).reshape(len(nodes), n_values),
        gain=rng.random(len(nodes)),
        weight=rng.random(len(nodes)) * 10,
    )
    columns = np.array(trees, dtype=np.int32).T
    order = np.lexsort((columns[4], columns[2], columns[1]))
    mixing = rng.dirichlet([1.0, 1.0], N_TASKS + 1)
    mixing[0] = [1.0, 0.0]
    return Forest(packed, Trees(*columns[:, order]), rng.normal(size=n_outputs), mixing, (2, 1, 1))


FINITE = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x == 0.0 or abs(x) > 1e-35)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), thresholds=st.lists(FINITE, min_size=1, max_size=5), task=st.integers(0, N_TASKS)
)
def test_every_split_sends_every_value_where_it_went(seed, thresholds, task):
    rng = np.random.default_rng(seed)
    forest = random_forest(seed, lambda: float(rng.choice([*thresholds, np.inf])))
    at = np.array(thresholds)
    with np.errstate(over="ignore"):
        near = np.concatenate([at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf)])
    near = near[(near == 0.0) | (np.abs(near) > 1e-35)]  # smaller ones LightGBM reads as 0
    values = [*near, np.nan, np.inf, -np.inf, 0.0, -0.0]
    n = 60
    X = np.stack([rng.choice(values, n), rng.choice([*range(N_LEVELS + 2), np.nan, -1.0], n), rng.choice(values, n)])
    codes = [np.array([code]) for code in range(N_LEVELS)]
    columns = [Column("a", "a", "none"), Column("b", "b", "none", codes), Column("c", "c", "none")]
    text = lightgbm_text(forest, task, columns, "multiclass" if forest.n_outputs > 1 else "regression", 2.0, 1.0)
    booster = lgb.Booster(model_str=text)
    wanted = 2.0 * forest.score(X, np.full(n, task, dtype=np.int32)) + 1.0
    scored = booster.predict(X.T, raw_score=True).reshape(n, -1)
    np.testing.assert_allclose(scored, wanted, rtol=1e-12, atol=1e-12)
    parts = booster.predict(X.T, pred_contrib=True).reshape(n, forest.n_outputs, -1)
    np.testing.assert_allclose(parts.sum(axis=2), wanted, rtol=1e-9, atol=1e-9)


def test_a_split_between_numbers_that_lightgbm_takes_for_zero_is_refused():
    tiny = X.assign(count=X["count"] * 1e-37)
    model = RMTGBRegressor(task_column="school", **SMALL).fit(tiny, Y)
    with pytest.raises(ValueError, match=r"column 'count' of X is split at .*e-37, but LightGBM .*; rescale"):
        model.to_lightgbm("B")


# --- names and categories -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=8))
def test_any_names_become_ones_that_lightgbm_takes(names):
    made = lightgbm_names(names)
    assert len(set(made)) == len(names)
    columns = [Column(name, name, "none") for name in made]
    forest = random_forest(3, lambda: 0.0)
    forest = Forest(forest.nodes, Trees(*(c[:0] for c in forest.trees)), forest.base, forest.mixing, (0, 0, 0))
    booster = lgb.Booster(model_str=lightgbm_text(forest, 0, columns, "regression"))
    assert booster.feature_name() == made
    assert booster.dump_model()["feature_names"] == made


def test_names_that_lightgbm_takes_are_kept():
    assert lightgbm_names(["a b", "a_b", "a[b", "plain", "größe", "plain"]) == [
        *("a_b_1", "a_b", "a_b_2", "plain", "größe", "plain_1")
    ]


def test_the_map_of_names_leads_back_to_the_columns(regressor):
    exported = regressor.to_lightgbm("A")
    assert exported.feature_names == {"size_(m)": "size (m)", "kind": "kind", "town": "town", "count": "count"}
    assert exported.booster.feature_name() == list(exported.feature_names)


def test_categories_are_listed_in_the_order_of_their_codes(regressor):
    exported = regressor.to_lightgbm("A")
    assert list(exported.categories) == ["kind", "town"]
    assert exported.categories["kind"].tolist() == list("wxyz")
    codes = exported.encode(X_NEW.drop(columns="school"))[:, 1]
    known = exported.categories["kind"]
    assert [None if np.isnan(c) else known[int(c)] for c in codes] == [
        kind if kind in known else None for kind in X_NEW["kind"].astype(object)
    ]


def test_a_table_without_its_categories_is_refused(regressor):
    with pytest.raises(ValueError, match="do not match"):
        regressor.to_lightgbm("A").booster.predict(X.drop(columns=["school", "town"]))
    with pytest.raises(ValueError, match="X has the columns 'school', 'size"):
        regressor.to_lightgbm("A").encode(X)


@pytest.mark.parametrize(
    ("levels", "rule"),
    [([pd.Timestamp("2020"), pd.Timestamp("2021")], "text, numbers and bools only"), ([("a", 1), ("b", 2)], "text")],
)
def test_levels_that_do_not_fit_a_file_are_refused(levels, rule):
    column = pd.Series([levels[i % 2] for i in range(len(X))], dtype=object)
    table = pd.DataFrame({"school": X["school"], "when": pd.Categorical(column), "count": X["count"]})
    model = RMTGBRegressor(task_column="school", **SMALL).fit(table, Y)
    with pytest.raises(ValueError, match=f"column 'when' of X has the level .*{rule}"):
        model.to_lightgbm("A")


@pytest.mark.parametrize("level", [-1.0, 0.5, 2.0**31])
def test_numbers_that_are_no_categories_for_lightgbm_are_refused(level):
    array = np.column_stack([np.arange(len(Y)) % 2, np.where(np.arange(len(Y)) % 3, 1.0, level)])
    model = RMTGBRegressor(task_column=0, categorical_features=[1], **SMALL).fit(array, Y)
    with pytest.raises(ValueError, match=r"column 'x1' of X has the level .* fit on a DataFrame"):
        model.to_lightgbm(0)


def test_a_task_that_fit_did_not_see_is_refused_by_name(regressor):
    with pytest.raises(ValueError, match=r"task='D' is not one of the tasks of fit, 'A', 'B', 'C'; pass .* add_task"):
        regressor.to_lightgbm("D")
    strict = RMTGBRegressor(task_column="school", unseen_task="error", **SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="unseen_task='error' refuses"):
        strict.to_lightgbm()


def test_of_several_columns_of_y_one_has_to_be_named():
    targets = np.column_stack([Y, -Y])
    model = RMTGBRegressor(**SMALL).fit(X.drop(columns="school"), targets)
    with pytest.raises(
        ValueError, match="This model predicts several columns of y, and a LightGBM model one; pass task=, one of 0, 1"
    ):
        model.to_lightgbm()
    with pytest.raises(ValueError, match=r"task='price' is not one of the tasks of fit, 0, 1; pass one of them\.$"):
        model.to_lightgbm("price")


# --- what others do with it -----------------------------------------------------------------------------------------


def test_the_booster_is_saved_pickled_and_dumped(regressor, tmp_path):
    exported = regressor.to_lightgbm("B")
    features = as_lightgbm_reads(X_NEW)
    wanted = exported.booster.predict(features)
    exported.booster.save_model(tmp_path / "B.txt")
    assert np.array_equal(lgb.Booster(model_file=tmp_path / "B.txt").predict(features), wanted)
    again = pickle.loads(pickle.dumps(exported))
    assert np.array_equal(again.booster.predict(again.encode(X_NEW.drop(columns="school"))), wanted)
    assert json.dumps(exported.booster.dump_model())


def test_the_trees_of_the_booster_are_consistent(regressor):
    trees = regressor.to_lightgbm("B").booster.trees_to_dataframe()
    children = trees.set_index("node_index")
    inner = trees[trees["left_child"].notna()]
    below = [children.loc[inner[side].tolist()] for side in ("left_child", "right_child")]
    assert np.array_equal(inner["count"], below[0]["count"].to_numpy() + below[1]["count"].to_numpy())
    mean = sum(part["count"].to_numpy() * part["value"].to_numpy() for part in below) / inner["count"].to_numpy()
    np.testing.assert_allclose(inner["value"], mean, rtol=1e-5, atol=1e-5)  # LightGBM prints few digits of these
    assert (inner["split_gain"] >= 0).all() and inner["split_gain"].max() > 0


def test_lightgbm_draws_the_importances(regressor):
    pytest.importorskip("matplotlib", reason="LightGBM draws with matplotlib")
    axis = lgb.plot_importance(regressor.to_lightgbm("B").booster)
    assert {label.get_text() for label in axis.get_yticklabels()} <= {"size_(m)", "kind", "town", "count"}


@pytest.mark.parametrize("name", ["regressor", "classifier"])
def test_treelite_predicts_equally(name, request):
    treelite = pytest.importorskip("treelite", reason="treelite is in the extra 'export'")
    model = request.getfixturevalue(name)
    exported = model.to_lightgbm("B")
    features = exported.encode(X_NEW.drop(columns="school"))
    predicted = treelite.gtil.predict(treelite.frontend.from_lightgbm(exported.booster), features)
    wanted = prediction(model, X_NEW.assign(school="B"))
    np.testing.assert_allclose(predicted.reshape(wanted.shape), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["regressor", "classifier"])
@pytest.mark.filterwarnings("ignore")
def test_onnx_predicts_equally(name, request):
    """On numbers that float32 holds exactly: in it the converter writes thresholds, and the runtime reads features."""
    onnxmltools = pytest.importorskip("onnxmltools", reason="onnxmltools is in the extra 'export'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra 'export'")
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = request.getfixturevalue(name)
    exported = model.to_lightgbm("B")
    features = exported.encode(X_NEW.drop(columns="school"))
    kind = {"zipmap": False} if name == "classifier" else {}
    types = [("X", FloatTensorType([None, features.shape[1]]))]
    written = onnxmltools.convert_lightgbm(exported.booster, initial_types=types, **kind)
    session = onnxruntime.InferenceSession(written.SerializeToString())
    predicted = session.run(None, {"X": features.astype(np.float32)})[-1]
    wanted = prediction(model, X_NEW.assign(school="B"))
    np.testing.assert_allclose(predicted.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)
