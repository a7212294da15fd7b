"""What must not change an R-MTGB model or its predictions: names, order, copies, threads, units, company."""

import copy
import pickle

import joblib
import numba
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core import features

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
SMALL = {
    "task_column": "task",
    "max_iter_shared": 6,
    "max_iter_partition": 6,
    "max_iter_task": 4,
    "early_stopping": False,
    "min_samples_leaf": 5,
    "random_state": 0,
}
VARIANTS = [
    pytest.param(RMTGBRegressor, {}, id="squared_error"),
    pytest.param(RMTGBRegressor, {"loss": "absolute_error"}, id="absolute_error"),
    pytest.param(RMTGBRegressor, {"loss": "quantile", "quantile": 0.3}, id="quantile"),
    pytest.param(RMTGBRegressor, {"loss": "huber"}, id="huber"),
    pytest.param(RMTGBRegressor, {"loss": "poisson"}, id="poisson"),
    pytest.param(RMTGBRegressor, {"target_scaling": "task"}, id="target_scaling"),
    pytest.param(RMTGBRegressor, {"task_weight": "balanced"}, id="task_weight"),
    pytest.param(RMTGBRegressor, {"categorical_features": ["task", "kind"]}, id="task as a category"),
    pytest.param(RMTGBClassifier, {}, id="three classes"),
    pytest.param(RMTGBClassifier, {"multi_strategy": "multi_output_tree"}, id="vector leaves"),
    pytest.param(RMTGBClassifier, {"class_weight": "balanced", "n_classes": 2}, id="two classes"),
]


def table(estimator_class, n=240, n_tasks=5, seed=0, loss=None, n_classes=3):
    """Numbers with holes, a category, task names, and a target that runs the other way in the last task."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    X["kind"] = pd.Categorical(rng.choice(["oak", "fir", "elm"], n))
    task = rng.integers(0, n_tasks, n)
    X["task"] = task
    score = np.where(task == n_tasks - 1, -1, 1) * X["a"] + 0.3 * task * X["b"] + (X["kind"] == "fir")
    y = (score + 0.2 * rng.normal(size=n)).to_numpy()
    X.loc[rng.random(n) < 0.1, "b"] = np.nan
    if estimator_class is RMTGBClassifier:
        y = np.digitize(y, [-0.5, 0.8][: n_classes - 1])
    elif loss == "poisson":
        y = np.exp(y).round()
    return X, y


def make(estimator_class, options, **more):
    """Data for an estimator with these options, and the estimator."""
    options = dict(options)
    n_classes = options.pop("n_classes", 3)
    X, y = table(estimator_class, loss=options.get("loss"), n_classes=n_classes)
    return X, y, estimator_class(**SMALL | options | more)


def predicted_numbers(model, X, **options):
    """What a model predicts, as floats: probabilities for a classifier."""
    return (model.predict_proba if isinstance(model, RMTGBClassifier) else model.predict)(X, **options)


def assert_same(model, other, X, X_other=None, exact=False):
    """The same θ and predictions, bit for bit or beyond what the order of a sum does."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-8, "atol": 1e-8}
    np.testing.assert_allclose(other.theta_, model.theta_, **tolerance)
    ours, theirs = predicted_numbers(model, X), predicted_numbers(other, X if X_other is None else X_other)
    np.testing.assert_allclose(theirs, ours, **tolerance)
    assert model.n_iter_ == other.n_iter_


# --- company at predict ---


@pytest.fixture(scope="module", params=ESTIMATORS)
def fitted(request):
    """A fitted model and more rows than one thread predicts alone, unseen tasks among them."""
    X, y, model = make(request.param, {})
    rng = np.random.default_rng(1)
    many = X.iloc[rng.integers(0, len(X), 4000)].reset_index(drop=True)
    many[["a", "b", "c"]] += rng.normal(size=(len(many), 3))
    many["task"] = rng.integers(0, 7, len(many))
    return model.fit(X, y), many


@settings(max_examples=25)
@given(rows=st.lists(st.integers(0, 3999), min_size=1, max_size=40))
def test_any_rows_in_any_order_are_predicted_as_in_the_whole_table(fitted, rows):
    model, many = fitted
    whole, part = predicted_numbers(model, many), predicted_numbers(model, many.iloc[rows])
    np.testing.assert_array_equal(part, whole[rows])


def test_every_task_alone_and_every_row_alone_is_predicted_as_in_the_whole_table(fitted):
    model, many = fitted
    whole, parts = predicted_numbers(model, many), model.decompose(many)
    stages = list(model.staged_predict(many))
    for task in range(7):
        here = (many["task"] == task).to_numpy()
        np.testing.assert_array_equal(predicted_numbers(model, many[here]), whole[here])
        for name, part in model.decompose(many[here]).items():
            np.testing.assert_array_equal(part, parts[name][here])
        np.testing.assert_array_equal(list(model.staged_predict(many[here]))[3], stages[3][here])
    for row in range(0, 4000, 400):
        np.testing.assert_array_equal(predicted_numbers(model, many.iloc[[row]]), whole[[row]])


# --- names of tasks ---

RENAMED = {
    "reversed": lambda t: 10 - t,
    "shuffled": lambda t: np.array([3, 17, 1, 0, 5])[t],
    "text": lambda t: np.array(["n", "d", "z", "a", "m"], dtype=object)[t],
}


@pytest.mark.parametrize("names", RENAMED)
@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({}, id="all rows"),
        pytest.param({"subsample": 0.6}, id="subsample"),
        pytest.param({"max_features": 0.5}, id="max_features"),
        pytest.param({"early_stopping": True, "validation_fraction": 0.25}, id="early stopping"),
        pytest.param({"subsample": 0.6, "max_features": 0.5, "early_stopping": True}, id="all of these"),
    ],
)
@pytest.mark.parametrize(("estimator_class", "options"), VARIANTS)
def test_the_names_of_the_tasks_and_their_order_change_nothing(estimator_class, options, sampling, names):
    X, y, model = make(estimator_class, options, **sampling)
    renamed = X.assign(task=RENAMED[names](X["task"].to_numpy()))
    model.fit(X, y)
    other = clone(model).fit(renamed, y)
    new_name = dict(zip(X["task"], renamed["task"], strict=True))
    theta = dict(zip(other.tasks_, other.theta_, strict=True))
    np.testing.assert_allclose([theta[new_name[t]] for t in model.tasks_], model.theta_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(predicted_numbers(other, renamed), predicted_numbers(model, X), rtol=1e-8, atol=1e-8)
    assert other.n_iter_ == model.n_iter_


# --- order and weights of rows ---


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("estimator_class", "options"), VARIANTS)
def test_the_order_of_the_training_rows_changes_nothing_beyond_float_summation(estimator_class, options, seed):
    X, y, model = make(estimator_class, options)
    order = np.random.default_rng(seed).permutation(len(X))
    other = clone(model).fit(X.iloc[order], y[order])
    assert_same(model.fit(X, y), other, X)
    np.testing.assert_allclose(other.feature_importances_, model.feature_importances_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(other.train_score_, model.train_score_, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("estimator_class", "options"), VARIANTS)
def test_a_weight_counts_how_often_a_row_is_there(estimator_class, options, seed):
    X, y, model = make(estimator_class, options)
    weight = np.random.default_rng(seed).choice([0, 1, 2], len(X))
    weighted = model.fit(X, y, sample_weight=weight)
    rows = np.repeat(np.arange(len(X)), weight)
    repeated = clone(model).fit(X.iloc[rows], y[rows])
    assert_same(repeated, weighted, X)
    unweighted = clone(model).fit(X, y)
    assert np.abs(predicted_numbers(unweighted, X) - predicted_numbers(weighted, X)).max() > 1e-3


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(("estimator_class", "options"), VARIANTS)
def test_a_row_of_weight_zero_is_absent_with_its_task_its_level_and_its_values(
    estimator_class, options, early_stopping
):
    X, y, model = make(estimator_class, options, early_stopping=early_stopping)
    X["kind"] = X["kind"].astype(object)
    ghosts = X[:40].assign(task=np.arange(40) % 3 + 50, kind="yew", a=1e9, b=np.linspace(0, 1, 40))
    rows = np.argsort(np.random.default_rng(0).random(len(X) + 40), kind="stable")
    haunted, y_haunted = pd.concat([X, ghosts]).iloc[rows], np.append(y, y[:40])[rows]
    weight = np.append(np.ones(len(X)), np.zeros(40))[rows]
    present = np.flatnonzero(weight)
    expected = clone(model).fit(haunted.iloc[present], y_haunted[present])
    model.fit(haunted, y_haunted, sample_weight=weight)
    assert model.tasks_.tolist() == expected.tasks_.tolist() == [0, 1, 2, 3, 4]
    assert_same(expected, model, X, exact=True)
    assert_same(expected, model, ghosts, exact=True)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_min_samples_leaf_counts_weights(estimator_class):
    X, y, model = make(estimator_class, {"max_iter_partition": 0, "min_samples_leaf_task": 60})
    # Levels of a category are ordered with a prior that counts rows too.
    X = X.drop(columns="kind")
    # A constant added to the sum of weights would tell half the weights from half the rows.
    model.set_params(min_samples_leaf=60, l2_regularization=0.0)
    light, heavy = clone(model).fit(X, y, sample_weight=np.full(len(X), 0.5)), clone(model).fit(X, y)
    half = clone(model).set_params(min_samples_leaf=30, min_samples_leaf_task=30).fit(X, y, np.full(len(X), 0.5))
    assert_same(heavy, half, X)
    assert np.abs(predicted_numbers(light, X) - predicted_numbers(half, X)).max() > 1e-3


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_number_as_sample_weight_weighs_all_rows_alike(estimator_class):
    X, y, model = make(estimator_class, {})
    assert_same(clone(model).fit(X, y), model.fit(X, y, sample_weight=1), X, exact=True)


# --- the caller's objects ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("kind", ["array", "frame", "targets"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_inputs_are_never_written_to(estimator_class, kind, order):
    X, y, _ = make(estimator_class, {})
    if kind == "frame":
        X = pd.DataFrame({c: X[c].to_numpy(copy=True) if c != "kind" else X[c] for c in X}, copy=False)
    else:
        X = np.array(X.drop(columns="kind").to_numpy(), order=order)
    if kind == "targets":
        y = np.column_stack([y, y[::-1]]).astype(float)
        y[:5, 0] = np.nan
    weight = np.linspace(0, 2, len(y))
    theta_init = np.zeros(2 if kind == "targets" else 5)
    arrays = [y, weight, theta_init] + ([X] if kind != "frame" else [])
    before = [a.copy() for a in arrays] + [X.copy()]
    for a in arrays:
        a.setflags(write=False)
    column = {"frame": "task", "array": 3, "targets": None}[kind]
    for more in ({}, {"early_stopping": True, "subsample": 0.5}, {"theta_init": theta_init}):
        model = estimator_class(**SMALL | {"task_column": column} | more)
        model.fit(X, y, sample_weight=weight)
        predicted_numbers(model, X)
        model.predict(X)
        model.decompose(X)
        list(model.staged_predict(X))
        if kind != "targets":
            model.score(X, y, sample_weight=weight)
    model.set_params(early_stopping=True).fit(X, y, weight, X_val=X, y_val=y, sample_weight_val=weight)
    for a, old in zip([*arrays, X], before, strict=True):
        assert a.equals(old) if isinstance(a, pd.DataFrame) else np.array_equal(a, old, equal_nan=True)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_predictions_are_the_callers_to_write_to(estimator_class):
    X, y, model = make(estimator_class, {})
    model.fit(X, y)
    expected = predicted_numbers(model, X)
    for _ in range(2):
        out, parts = predicted_numbers(model, X), model.decompose(X)
        np.testing.assert_array_equal(out, expected)
        out[:] = 7
        for part in parts.values():
            part[:] = 7
        for stage in model.staged_predict(X):
            stage[:] = 0


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_options_that_are_dicts_or_lists_are_left_alone(estimator_class):
    X, y, model = make(estimator_class, {"n_classes": 2})
    options = {
        "theta_init": dict.fromkeys(range(5), -1.0),
        "task_weight": {0: 2.0},
        "monotonic_cst": {"a": 1},
        "categorical_features": ["kind"],
    }
    before = copy.deepcopy(options)
    model.set_params(**options).fit(X, y)
    assert options == before
    assert all(model.get_params()[name] is value for name, value in options.items())


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_predict_writes_nothing_to_the_estimator(estimator_class):
    X, y, model = make(estimator_class, {})
    model.fit(X, y)
    before = pickle.dumps(model)
    predicted_numbers(model, X)
    model.decompose(X)
    list(model.staged_predict(X))
    model.score(X, y)
    assert pickle.dumps(model) == before


# --- seeds, threads, copies ---


@pytest.mark.parametrize(("estimator_class", "options"), VARIANTS)
def test_the_same_seed_gives_the_same_model(estimator_class, options):
    sampling = {"subsample": 0.5, "max_features": 0.5, "early_stopping": True, "validation_fraction": 0.3}
    X, y, model = make(estimator_class, options, **sampling)
    model.fit(X, y)
    assert_same(model, clone(model).fit(X, y), X, exact=True)
    generator = clone(model).set_params(random_state=np.random.RandomState(0)).fit(X, y)
    assert_same(model, generator, X, exact=True)
    other = clone(model).set_params(random_state=1).fit(X, y)
    assert np.abs(predicted_numbers(other, X) - predicted_numbers(model, X)).max() > 1e-3


@pytest.fixture
def thread_counts(monkeypatch):
    """Numbers of threads that numba is told to use from here on."""
    counts, tell = [], numba.set_num_threads
    monkeypatch.setattr(numba, "set_num_threads", lambda n: (counts.append(n), tell(n)))
    return counts


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba has one thread on this machine")
@pytest.mark.parametrize("sampling", [{}, {"subsample": 0.5, "max_features": 0.5, "early_stopping": True}])
@pytest.mark.parametrize(("estimator_class", "options"), VARIANTS)
def test_the_number_of_threads_changes_no_bit(estimator_class, options, sampling, thread_counts, busy_or_not):
    options = dict(options)
    n_classes = options.pop("n_classes", 3)
    X, y = table(estimator_class, n=30_000, loss=options.get("loss"), n_classes=n_classes)
    X = X.assign(**{f"noise{j}": np.random.default_rng(j).normal(size=len(X)) for j in range(5)})
    rounds = {"max_iter_shared": 3, "max_iter_partition": 2, "max_iter_task": 2}
    model = estimator_class(n_jobs=1, **SMALL | rounds | options | sampling).fit(X, y)
    assert max(thread_counts, default=1) == 1
    for n_jobs in (2, None):
        thread_counts.clear()
        other = clone(model).set_params(n_jobs=n_jobs).fit(X, y)
        assert max(thread_counts) >= 2  # the table is large enough for the parallel kernels
        assert_same(model, other, X, exact=True)
        np.testing.assert_array_equal(model.feature_importances_, other.feature_importances_)
        np.testing.assert_array_equal(model.train_score_, other.train_score_)
        for name, part in model.decompose(X).items():
            np.testing.assert_array_equal(part, other.decompose(X)[name])


@pytest.mark.parametrize("layout", ["column", "targets"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_pickle_joblib_and_deepcopy_keep_every_bit(estimator_class, layout, tmp_path):
    X, y, model = make(estimator_class, {}, early_stopping=True)
    if layout == "targets":
        X, y = X.drop(columns="task"), np.column_stack([y, y[::-1]])
        model.set_params(task_column=None)
    model.fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    copies = [pickle.loads(pickle.dumps(model, protocol=p)) for p in (4, 5)]
    copies += [copy.deepcopy(model), joblib.load(tmp_path / "model.joblib")]
    for other in copies:
        np.testing.assert_array_equal(predicted_numbers(other, X), predicted_numbers(model, X))
        np.testing.assert_array_equal(list(other.staged_predict(X)), list(model.staged_predict(X)))
        for name in vars(model):
            if name.endswith("_") and not name.endswith("__"):
                np.testing.assert_array_equal(getattr(other, name), getattr(model, name))
        refitted = clone(other).fit(X, y)
        np.testing.assert_array_equal(predicted_numbers(refitted, X), predicted_numbers(model, X))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_pickled_model_can_be_continued(estimator_class):
    X, y, model = make(estimator_class, {}, warm_start=True)
    model.fit(X, y)
    other = pickle.loads(pickle.dumps(model))
    for m in (model, other):
        m.set_params(max_iter_shared=12, max_iter_partition=12, max_iter_task=12).fit(X, y)
    assert_same(model, other, X, exact=True)


# --- units ---


@pytest.mark.parametrize("factor", [1000.0, 1024.0, 1e-6])
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "quantile", "huber"])
@pytest.mark.parametrize("target_scaling", [None, "task"])
def test_the_unit_of_y_is_that_of_the_predictions_and_changes_no_outlier_score(loss, factor, target_scaling):
    X, y, model = make(RMTGBRegressor, {"loss": loss, "target_scaling": target_scaling})
    model.fit(X, y)
    delta = factor if loss == "huber" and target_scaling is None else 1.0
    other = clone(model).set_params(huber_delta=delta * model.huber_delta).fit(X, factor * y)
    np.testing.assert_allclose(other.outlier_score_, model.outlier_score_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(other.predict(X) / factor, model.predict(X), rtol=1e-8, atol=1e-8)
    assert np.ptp(model.outlier_score_) > 1e-3


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_unit_of_a_feature_changes_nothing(estimator_class):
    X, y, model = make(estimator_class, {})
    other = clone(model).fit(X.assign(a=2.0**20 * X["a"]), y)
    assert_same(model.fit(X, y), other, X, X.assign(a=2.0**20 * X["a"]), exact=True)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_the_container_of_x_and_y_changes_nothing(estimator_class):
    X, y, model = make(estimator_class, {})
    X = X.drop(columns="kind")
    model.set_params(task_column=3).fit(X, y)
    for container in (X.to_numpy(), np.asfortranarray(X.to_numpy()), X.to_numpy().tolist(), X.convert_dtypes()):
        other = clone(model).fit(container, y.tolist())
        np.testing.assert_array_equal(predicted_numbers(other, container), predicted_numbers(model, X))
    halves = X.astype({"a": np.float32, "b": np.float32, "c": np.float32})
    single, double = clone(model).fit(halves, y), clone(model).fit(halves.astype(float), y)
    np.testing.assert_array_equal(predicted_numbers(single, halves), predicted_numbers(double, halves))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("options", [{}, {"n_averaged": 1, "refit": False}, {"early_stopping": False}])
def test_a_table_that_is_read_piece_by_piece_gives_the_same_model(estimator_class, options, monkeypatch):
    X, y = table(estimator_class)
    options = {**SMALL, "early_stopping": True, **options}
    weight = np.where(np.arange(len(X)) % 7 == 0, 0.0, 1.0)
    held = estimator_class(**options).fit(X, y, sample_weight=weight)
    monkeypatch.setattr(features, "HELD_CELLS", 0)
    monkeypatch.setattr(features, "PIECE_CELLS", 100)
    read = estimator_class(**options).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(predicted_numbers(read, X), predicted_numbers(held, X))
    np.testing.assert_array_equal(read.theta_, held.theta_)


def test_rows_that_need_no_sorting_are_not_written_to_and_may_be_read_only_or_strided():
    X, y = table(RMTGBRegressor)
    X, weight = X.sort_values("task", kind="stable"), np.linspace(0.5, 1.5, len(X))
    expected = RMTGBRegressor(**SMALL).fit(X, y, sample_weight=weight).predict(X)
    wide = np.stack([y, weight], axis=1)
    wide.flags.writeable = False
    model = RMTGBRegressor(**SMALL).fit(X, wide[:, 0], sample_weight=wide[:, 1])
    np.testing.assert_array_equal(model.predict(X), expected)
    before = y.copy(), weight.copy()
    RMTGBRegressor(target_scaling="task", **SMALL).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal((y, weight), before)
