"""Bad input gets an error of one sentence that names argument, value and remedy, and spoils no earlier fit."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.progress import Messages

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
REGRESSOR, CLASSIFIER = [RMTGBRegressor], [RMTGBClassifier]
N = 60
SMALL = {"max_iter_shared": 3, "max_iter_partition": 3, "max_iter_task": 3, "min_samples_leaf": 5, "random_state": 0}


def good(estimator_class):
    """A table that fits: numbers, a category and a task column; positive targets, or two classes."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(N, 2)), columns=["a", "b"])
    X["school"], X["kind"] = np.arange(N) % 3, np.where(np.arange(N) % 2, "oak", "fir")
    y = np.exp(X["a"] + 0.3 * rng.normal(size=N)).to_numpy()
    return X, (y > 1).astype(int) if estimator_class is RMTGBClassifier else y


def numbers(model, X, **options):
    return (model.predict_proba if isinstance(model, RMTGBClassifier) else model.predict)(X, **options)


@dataclass
class Bad:
    """One mistake: options of the estimator, and what to change in the good arguments of fit, given X and y."""

    match: str
    options: dict[str, Any] = field(default_factory=dict)
    change: Any = None
    estimators: list = field(default_factory=lambda: ESTIMATORS)
    error: type[Exception] = ValueError


def change(**functions):
    """New arguments of fit, each from X and y."""
    return lambda X, y: {name: f(X, y) for name, f in functions.items()}


def with_nan(X, y):
    return np.where(np.arange(N) == 7, np.nan, y)


def array(X, y):
    return X[["a", "b", "school"]].to_numpy()


NO_TASK = {"task_column": None}
ALONE = change(task=lambda X, y: X["school"])

BAD = {
    # --- the task column ---
    "unknown task column": Bad(
        r"task_column='schol' is not a column of X; did you mean 'school'\?", {"task_column": "schol"}
    ),
    "dropped task column": Bad(
        "task_column='town' is not a column of X, whose columns are 'a', 'b', .*passthrough", {"task_column": "town"}
    ),
    "task position": Bad(
        "task_column=9 is not a column of X, which has 4; pass a position from 0 to 3", {"task_column": 9}
    ),
    "name for an array": Bad(
        "task_column='school' is a name, but X is an array without column names; pass a DataFrame", {}, change(X=array)
    ),
    "no name at all": Bad("task_column.*must be None, an instance of 'str'.*Got 1.5 instead", {"task_column": 1.5}),
    "a flag as task column": Bad("task_column=True is neither a name nor a position", {"task_column": True}),
    "one of two names unknown": Bad("task_column='yaer' is not a column", {"task_column": ["school", "yaer"]}),
    "a column twice": Bad("names one column twice; name each column once", {"task_column": ["school", 2]}),
    "no column": Bad("task_column=.. names no column; pass None", {"task_column": []}),
    "nothing but tasks": Bad("task_column='school' leaves no feature in X", {}, change(X=lambda X, y: X[["school"]])),
    "floats with NaN as tasks": Bad(
        "task_column='school' has no value in 20 of 60 rows .first: row 1.*drop these rows or give them a task",
        {},
        change(X=lambda X, y: X.assign(school=X["school"].where(X["school"] != 1))),
    ),
    "text with None as tasks": Bad(
        "task_column='school' has no value in 1 of 60 rows .first: row 4",
        {},
        change(X=lambda X, y: X.assign(school=[None if i == 4 else "x" for i in range(N)])),
    ),
    "an infinite task": Bad(
        "task_column='school' holds an infinite value.*replace it",
        {},
        change(X=lambda X, y: X.assign(school=np.where(X["school"] == 1, np.inf, 0.0))),
    ),
    # --- task= ---
    "task in two ways": Bad("task= was passed besides task_column='school'; pass the task ids in one way", {}, ALONE),
    "missing task ids": Bad(
        "task has no value in 20 of 60 rows", NO_TASK, change(task=lambda X, y: X["school"].where(X["school"] != 1))
    ),
    "task too short": Bad("task has 5 rows; pass one entry per row", NO_TASK, change(task=lambda X, y: np.zeros(5))),
    "a number as task": Bad("task=3 is a single value.*pass a column of ids", NO_TASK, change(task=lambda X, y: 3)),
    "a name as task": Bad(
        "task='school' is a single value.*pass a column of ids", NO_TASK, change(task=lambda X, y: "school")
    ),
    # --- X ---
    "infinite X": Bad(
        "column 'a' of X holds inf in row 2; use NaN where a value is missing",
        {},
        change(X=lambda X, y: X.assign(a=np.where(np.arange(N) == 2, np.inf, X["a"]))),
    ),
    "infinite X in an array": Bad(
        "column 'x2' of X holds -inf in row 3",
        {"task_column": 1},
        change(X=lambda X, y: np.column_stack([X["a"], X["school"], np.where(np.arange(N) == 3, -np.inf, X["b"])])),
    ),
    "a number beyond float64": Bad(
        "column 'a' of X holds it.*rescale",
        {},
        change(X=lambda X, y: X.assign(a=pd.Series([10**400] * N, dtype=object))),
    ),
    "text as a number": Bad(
        "column 'kind' of X is to be read as numbers, but.*'(oak|fir)'; name it in categorical_features",
        {"categorical_features": None},
    ),
    "text in an array": Bad(
        "column 'x3' of X is to be read as numbers", {"task_column": 2}, change(X=lambda X, y: X.to_numpy())
    ),
    "dates": Bad(
        "column 'day' of X holds dates or times.*convert it",
        {},
        change(X=lambda X, y: X.assign(day=pd.Timestamp("2024-02-29"))),
    ),
    "dicts": Bad("column 'a' of X holds", {}, change(X=lambda X, y: X.assign(a=[{}] * N)), error=TypeError),
    "sparse X": Bad(
        "Sparse data was passed.*toarray",
        NO_TASK,
        change(X=lambda X, y: sparse.csr_array(array(X, y))),
        error=TypeError,
    ),
    "three dimensions": Bad("Found array with dim 3", NO_TASK, change(X=lambda X, y: np.zeros((N, 2, 2)))),
    "no rows": Bad(r"Found array with 0 sample\(s\)", {}, change(X=lambda X, y: X[:0], y=lambda X, y: y[:0])),
    "no columns": Bad(r"Found array with 0 feature\(s\)", NO_TASK, change(X=lambda X, y: X[[]])),
    # --- y ---
    "no y": Bad("requires y to be passed, but the target y is None", {}, change(y=lambda X, y: None)),
    "y with NaN": Bad(
        "Input y contains NaN in 1 of 60 rows .first: row 7.; leave these rows out, or pass a 2-D y",
        {},
        change(y=with_nan),
    ),
    "y with None": Bad(
        "Input y contains NaN in 1 of 60 rows .first: row 0",
        {},
        change(y=lambda X, y: [None, *np.where(y[1:] > 0.9, "yes", "no")]),
        CLASSIFIER,
    ),
    "infinite y": Bad("Input y contains infinity.*first: row 0", {}, change(y=lambda X, y: [np.inf, *y[1:]])),
    "text to regress": Bad(
        "y must hold numbers for a regression, but 'u' is text; convert y, or use the classifier",
        {},
        change(y=lambda X, y: np.where(y > 1, "u", "u")),
        REGRESSOR,
    ),
    "dates to regress": Bad("y holds dates", {}, change(y=lambda X, y: pd.to_datetime(X["school"])), REGRESSOR),
    "complex y": Bad("y holds complex numbers", {}, change(y=lambda X, y: y + 1j)),
    "fractions as classes": Bad("Unknown label type: continuous", {}, change(y=lambda X, y: X["a"]), CLASSIFIER),
    "dates as classes": Bad("y holds dates", {}, change(y=lambda X, y: pd.to_datetime(y)), CLASSIFIER),
    "one class": Bad(
        "y holds one class only, 'no', but a classifier needs at least two",
        {},
        change(y=lambda X, y: np.full(N, "no")),
        CLASSIFIER,
    ),
    "one class of numbers": Bad("y holds one class only, 3,", {}, change(y=lambda X, y: np.full(N, 3)), CLASSIFIER),
    "mixed classes": Bad(
        "y mixes labels of different types, such as 'a' and 3",
        {},
        change(y=lambda X, y: ["a", 3] * (N // 2)),
        CLASSIFIER,
    ),
    "negative counts": Bad(
        "loss='poisson' needs y >= 0, but y holds -2.5; pass counts or choose another loss",
        {"loss": "poisson"},
        change(y=lambda X, y: [-2.5, *y[1:]]),
        REGRESSOR,
    ),
    "no counts": Bad(
        "loss='poisson' needs a y whose sum is positive", {"loss": "poisson"}, change(y=lambda X, y: 0 * y), REGRESSOR
    ),
    "y too short": Bad("X has 60 rows, y has 59 rows; pass one entry per row", {}, change(y=lambda X, y: y[1:])),
    # --- several columns of y ---
    "columns of y and a task column": Bad(
        "y has 2 columns, which are tasks themselves, so task_column and task cannot be used with it",
        {},
        change(y=lambda X, y: np.column_stack([y, y])),
    ),
    "columns of y and task": Bad(
        "y has 2 columns, which are tasks themselves",
        NO_TASK,
        change(y=lambda X, y: np.column_stack([y, y]), task=lambda X, y: X["school"]),
    ),
    "a column of y without labels": Bad(
        "y has no label at all in column 1; leave this column out",
        NO_TASK,
        change(y=lambda X, y: np.column_stack([y, np.full(N, np.nan)])),
    ),
    "a column of y without weight": Bad(
        "column 1",
        NO_TASK,
        change(
            y=lambda X, y: np.column_stack([y, np.where(np.arange(N) < 5, y, np.nan)]),
            sample_weight=lambda X, y: np.arange(N) >= 5,
        ),
    ),
    "columns of y of one name": Bad(
        "y.*'u' twice|y.*twice.*'u'",
        NO_TASK,
        change(y=lambda X, y: pd.DataFrame({0: y, 1: y}).set_axis(["u", "u"], axis=1)),
    ),
    "three dimensions of y": Bad("y should be a 1d array", NO_TASK, change(y=lambda X, y: np.ones((N, 2, 2)))),
    # --- weights ---
    "all-zero weights": Bad("sample_weight is zero in every row", {}, change(sample_weight=lambda X, y: 0 * y)),
    "negative weights": Bad(
        "sample_weight holds -1, but must not be negative; use 0", {}, change(sample_weight=lambda X, y: -np.ones(N))
    ),
    "NaN weights": Bad(
        "sample_weight holds nan in row 7", {}, change(sample_weight=lambda X, y: with_nan(X, np.ones(N)))
    ),
    "weights too short": Bad(
        "sample_weight has 3 entries, but X has 60 rows", {}, change(sample_weight=lambda X, y: np.ones(3))
    ),
    "2-D weights": Bad(r"sample_weight has shape \(60, 1\)", {}, change(sample_weight=lambda X, y: np.ones((N, 1)))),
    "text as weights": Bad(
        "sample_weight holds values that are not numbers", {}, change(sample_weight=lambda X, y: ["x"] * N)
    ),
    "weight of an unknown task": Bad(
        "task_weight names the task 9, which the training rows do", {"task_weight": {9: 1.0}}
    ),
    "task of no weight": Bad("task_weight holds 0, which leaves a task without rows", {"task_weight": {0: 0.0}}),
    "task of negative weight": Bad("task_weight holds -1", {"task_weight": {0: -1.0}}),
    "task of NaN weight": Bad("task_weight holds nan.*task 0|task_weight.*0.*nan", {"task_weight": {0: np.nan}}),
    "weight of an unknown class": Bad(
        "class_weight names the class 5, which y does not have", {"class_weight": {5: 1.0}}, estimators=CLASSIFIER
    ),
    "class of negative weight": Bad("class_weight.*-1", {"class_weight": {0: -1.0}}, estimators=CLASSIFIER),
    "class of a little negative weight": Bad("class_weight.*-0.1", {"class_weight": {0: -0.1}}, estimators=CLASSIFIER),
    "class of NaN weight": Bad("class_weight.*nan", {"class_weight": {0: np.nan}}, estimators=CLASSIFIER),
    "classes of no weight": Bad("class_weight", {"class_weight": {0: 0.0, 1: 0.0}}, estimators=CLASSIFIER),
    "text as class weight": Bad("class_weight.*'x'", {"class_weight": {0: "x"}}, estimators=CLASSIFIER),
    # --- validation rows ---
    "X_val alone": Bad("X_val.*without.*y_val; pass these two together", {}, change(X_val=lambda X, y: X)),
    "y_val alone": Bad("y_val.*without.*X_val.*; pass these two together", {}, change(y_val=lambda X, y: y)),
    "X_val of other columns": Bad(
        "X_val has 3 columns, but X has 4; pass the same columns",
        {},
        change(X_val=lambda X, y: X.drop(columns="b"), y_val=lambda X, y: y),
    ),
    "X_val of other names": Bad(
        "X_val.*'q'", {}, change(X_val=lambda X, y: X.rename(columns={"a": "q"}), y_val=lambda X, y: y)
    ),
    "X_val in another order": Bad(
        "X_val.*order", {}, change(X_val=lambda X, y: X[["b", "a", "school", "kind"]], y_val=lambda X, y: y)
    ),
    "infinite X_val": Bad(
        "column 'a' of X_val holds inf in row 0",
        {},
        change(X_val=lambda X, y: X.assign(a=np.inf), y_val=lambda X, y: y),
    ),
    "y_val too short": Bad(
        "X_val has 60 rows, y_val has 4 rows", {}, change(X_val=lambda X, y: X, y_val=lambda X, y: y[:4])
    ),
    "y_val with NaN": Bad("y_val contains NaN in 1 of 60", {}, change(X_val=lambda X, y: X, y_val=with_nan)),
    "negative counts in y_val": Bad(
        "loss='poisson' needs y_val >= 0, but y_val holds -",
        {"loss": "poisson"},
        change(X_val=lambda X, y: X, y_val=lambda X, y: -y),
        REGRESSOR,
    ),
    "an unknown class in y_val": Bad(
        r"y_val holds the class 2, which y does not have; its classes are \[0, 1\]",
        {},
        change(X_val=lambda X, y: X, y_val=lambda X, y: y + 1),
        CLASSIFIER,
    ),
    "columns of y_val": Bad(
        r"y_val has shape \(60, 2\), but y has shape \(60,\)",
        {},
        change(X_val=lambda X, y: X, y_val=lambda X, y: np.column_stack([y, y])),
    ),
    "weights of X_val too short": Bad(
        "sample_weight_val has 2 entries, but X_val has 60 rows",
        {},
        change(X_val=lambda X, y: X, y_val=lambda X, y: y, sample_weight_val=lambda X, y: [1, 2]),
    ),
    "task without task_val": Bad(
        "task was passed without task_val",
        NO_TASK,
        change(task=lambda X, y: X["school"], X_val=lambda X, y: X, y_val=lambda X, y: y),
    ),
    "task_val without task": Bad(
        "task_val was passed without task",
        {},
        change(X_val=lambda X, y: X, y_val=lambda X, y: y, task_val=lambda X, y: X["school"]),
    ),
    "X_val and validation": Bad(
        "X_val was passed besides validation=; choose one",
        {"validation": KFold(2)},
        change(X_val=lambda X, y: X, y_val=lambda X, y: y),
    ),
    "X_val and no early stopping": Bad(
        "X_val was passed with early_stopping=False",
        {"early_stopping": False},
        change(X_val=lambda X, y: X, y_val=lambda X, y: y),
    ),
    "no splitter": Bad("validation='time' is neither a splitter nor a list of", {"validation": "time"}),
    "a splitter that loses rows": Bad(
        "validation=TimeSeriesSplit.*puts 5 rows in neither", {"validation": TimeSeriesSplit(2, gap=5)}
    ),
    "a splitter without a split": Bad("validation=.. yields no split", {"validation": []}),
    "positions beyond the table": Bad(
        "validation=.*must yield pairs of row positions.*below 60", {"validation": [([0], [99])]}
    ),
    "a split that trains on nothing": Bad(
        "validation=.*leaves no row to train", {"validation": [(list(range(N)), list(range(N)))]}
    ),
    "groups without tasks": Bad("validation=GroupKFold.*task", NO_TASK | {"validation": GroupKFold(2)}),
    "too few rows to validate": Bad(
        "early_stopping=True leaves 0 of 3 labelled rows for validation.*early_stopping=False",
        {"early_stopping": True},
        change(X=lambda X, y: X[:3], y=lambda X, y: [1, 2, 1]),
    ),
    # --- options ---
    "negative max_iter": Bad("'max_iter_shared' parameter.*in the range .0, inf.*Got -1", {"max_iter_shared": -1}),
    "half a round": Bad(
        "'max_iter_partition' parameter.*must be.*'auto'.* or an int.*Got 2.5", {"max_iter_partition": 2.5}
    ),
    "unknown sharing": Bad("'sharing' parameter.*among.*'pooled'.*Got 'some'", {"sharing": "some"}),
    "one group": Bad("'n_task_groups' parameter.*in the range .2, inf.*Got 1", {"n_task_groups": 1}),
    "unknown refit": Bad("'refit' parameter.*Got 'auto'", {"refit": "auto"}),
    "unknown subsample": Bad("'subsample' parameter.*'auto'.*Got 'half'", {"subsample": "half"}),
    "negative task rounds": Bad("'max_iter_task' parameter.*Got -3", {"max_iter_task": -3}),
    "one leaf": Bad("'max_leaf_nodes' parameter.*in the range .2, inf.*Got 1", {"max_leaf_nodes": 1}),
    "no depth": Bad("'max_depth' parameter.*Got 0", {"max_depth": 0}),
    "no rows per leaf": Bad("'min_samples_leaf' parameter.*Got 0", {"min_samples_leaf": 0}),
    "no learning rate": Bad("'learning_rate' parameter.*Got 0", {"learning_rate": 0}),
    "too large a subsample": Bad("'subsample' parameter.*Got 1.5", {"subsample": 1.5}),
    "no features": Bad("'max_features' parameter.*Got 0", {"max_features": 0.0}),
    "too many bins": Bad("'max_bins' parameter.*in the range .2, 255.*Got 256", {"max_bins": 256}),
    "negative regularisation": Bad("'l2_regularization' parameter.*Got -1", {"l2_regularization": -1}),
    "unknown loss": Bad("'loss' parameter.*among.*Got 'mse'", {"loss": "mse"}),
    "quantile 1": Bad("'quantile' parameter.*Got 1", {"quantile": 1}, estimators=REGRESSOR),
    "no patience": Bad("'n_iter_no_change' parameter.*Got 0", {"n_iter_no_change": 0}),
    "all rows held out": Bad("'validation_fraction' parameter.*Got 1", {"validation_fraction": 1}),
    "a centre that calls all tasks outliers": Bad("'theta_center' parameter.*Got 1", {"theta_center": 1}),
    "unknown early_stopping": Bad("'early_stopping' parameter.*Got 'yes'", {"early_stopping": "yes"}),
    "no threads": Bad("n_jobs=0 must be None or a non-zero integer; use 1 for a single thread", {"n_jobs": 0}),
    "unknown policy": Bad("'unseen_task' parameter.*Got 'guess'", {"unseen_task": "guess"}),
    "unknown algorithm": Bad("'algorithm' parameter.*Got 'adam'", {"algorithm": "adam"}),
    "unknown scaling": Bad("'target_scaling' parameter.*Got 'all'", {"target_scaling": "all"}, estimators=REGRESSOR),
    "unknown start": Bad("'theta_init' parameter.*Got 'zero'", {"theta_init": "zero"}),
    "too few starts": Bad(
        r"theta_init must hold one finite number per task, 3 in all.*shape \(2,\)", {"theta_init": [1, 2]}
    ),
    "a task without a start": Bad(
        "theta_init has no value for the task 1; give every task one", {"theta_init": {0: 1, 2: 1}}
    ),
    "the start of an unknown task": Bad("theta_init names the task 5", {"theta_init": {0: 1, 1: 1, 2: 1, 5: 1}}),
    "a start that is NaN": Bad("theta_init must hold one finite number per task", {"theta_init": [1, 2, np.nan]}),
    "text as starts": Bad("theta_init.*'a'", {"theta_init": ["a", "b", "c"]}),
    "an unknown category": Bad(
        "categorical_features names 'knd', which is not a column of X.*did you mean 'kind'",
        {"categorical_features": ["knd"]},
    ),
    "a category's position": Bad("categorical_features holds 77, but X has 4 columns", {"categorical_features": [77]}),
    "a short mask": Bad("categorical_features is a mask of length 1, but X has 4", {"categorical_features": [True]}),
    "a category without a list": Bad("'categorical_features' parameter.*Got 'kind'", {"categorical_features": "kind"}),
    "too few constraints": Bad(
        r"monotonic_cst has shape \(1,\).*pass one of -1, 0, 1 per column", {"monotonic_cst": [1]}
    ),
    "constraint 2": Bad("monotonic_cst holds 2, but must be -1", {"monotonic_cst": [2, 0, 0, 0]}),
    "constraint on nothing": Bad("monotonic_cst names 'q', which is not a column", {"monotonic_cst": {"q": 1}}),
    "constraint on a category": Bad(
        "monotonic_cst constrains column 'kind', which is categorical", {"monotonic_cst": {"kind": 1}}
    ),
    "constraint on the task": Bad(
        "monotonic_cst constrains the task column 'school'", {"monotonic_cst": {"school": 1}}
    ),
    "constraint on three classes": Bad(
        "monotonic_cst is defined for one score per row",
        {"monotonic_cst": {"a": 1}},
        change(y=lambda X, y: np.arange(N) % 3),
        CLASSIFIER,
    ),
}


@pytest.mark.parametrize(
    ("name", "estimator_class"), [(name, estimator) for name, bad in BAD.items() for estimator in bad.estimators]
)
def test_bad_input_to_fit_is_refused_in_one_sentence_and_leaves_the_fitted_model_as_it_was(name, estimator_class):
    bad = BAD[name]
    X, y = good(estimator_class)
    arguments = {"X": X, "y": y} | (bad.change(X, y) if bad.change else {})
    model = estimator_class(task_column="school", **SMALL).fit(X, y)
    before, fitted = numbers(model, X), {k: v for k, v in vars(model).items() if k.endswith("_")}
    options = model.get_params()
    model.set_params(**bad.options)
    with pytest.raises(bad.error, match=bad.match) as raised:
        model.fit(**arguments)
    model.set_params(**options)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    assert {k: v for k, v in vars(model).items() if k.endswith("_")} == fitted
    np.testing.assert_array_equal(numbers(model, X), before)
    # The same mistake in a first fit leaves an estimator that is not fitted.
    fresh = estimator_class(**{"task_column": "school"} | SMALL | bad.options)
    with pytest.raises(bad.error, match=bad.match):
        fresh.fit(**arguments)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("options", [{"task_column": "schol"}, {"task_column": None}])
def test_a_fitted_model_predicts_on_after_a_fit_with_a_bad_option_has_failed(estimator_class, options):
    X, y = good(estimator_class)
    model = estimator_class(task_column="school", **SMALL).fit(X, y)
    before, score = numbers(model, X), model.score(X, y)
    with pytest.raises(ValueError):
        model.set_params(**options).fit(X, y, task=X["kind"], sample_weight=-np.ones(N))
    np.testing.assert_array_equal(numbers(model, X), before)
    assert model.score(X, y) == score


PREDICT = {
    "no task column": ("task_column='school' is not a column of X", lambda X: X.drop(columns="school")),
    "missing task ids": (
        "task_column='school' has no value in 60 of 60 rows",
        lambda X: X.assign(school=np.full(N, np.nan)),
    ),
    "other names": (r"(?s)feature names should match.*unseen at fit time.*- q", lambda X: X.rename(columns={"b": "q"})),
    "another order": ("(?s)feature names should match.*same order", lambda X: X[["b", "a", "school", "kind"]]),
    "a column too few": ("(?s)feature names should match.*now missing.*- kind", lambda X: X.drop(columns="kind")),
    "a column too many": ("(?s)feature names should match.*unseen at fit time.*- z", lambda X: X.assign(z=0.0)),
    "infinite X": ("column 'b' of X holds inf in row 0", lambda X: X.assign(b=np.inf)),
    "text as a number": ("column 'b' of X is to be read as numbers, but.*'x'", lambda X: X.assign(b="x")),
    "no rows": (r"Found array with 0 sample\(s\)", lambda X: X[:0]),
}


@pytest.mark.parametrize("name", PREDICT)
@pytest.mark.parametrize("method", ["predict", "decompose", "staged_predict", "score"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_bad_input_to_predict_is_refused(estimator_class, method, name):
    X, y = good(estimator_class)
    model = estimator_class(task_column="school", **SMALL).fit(X, y)
    before, (match, spoil) = numbers(model, X), PREDICT[name]
    with pytest.raises(ValueError, match=match):
        if method == "score":
            model.score(spoil(X), y[: len(spoil(X))])
        elif method == "staged_predict":
            list(model.staged_predict(spoil(X)))
        else:
            getattr(model, method)(spoil(X))
    np.testing.assert_array_equal(numbers(model, X), before)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_an_array_of_another_width_is_refused_at_predict(estimator_class):
    X, y = good(estimator_class)
    table = array(X, y)
    for options, match in (({}, "X has 2 features, but .* is expecting 3"), ({"task_column": 0}, "X has 2 features")):
        model = estimator_class(**SMALL | options).fit(table, y)
        with pytest.raises(ValueError, match=match):
            model.predict(table[:, :2])
    model = estimator_class(task_column=2, **SMALL).fit(table, y)
    with pytest.raises(ValueError, match="task_column=2 is not a column of X, which has 2"):
        model.predict(table[:, :2])


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_task_at_predict_is_refused_where_the_model_has_another_way(estimator_class):
    X, y = good(estimator_class)
    task, features = X["school"], X[["a", "b"]]
    model = estimator_class(task_column="school", **SMALL).fit(X, y)
    with pytest.raises(ValueError, match="task was passed, but this model reads its tasks from task_column='school'"):
        model.predict(X, task=task)
    model = estimator_class(**SMALL).fit(features, y)
    with pytest.raises(ValueError, match="task was passed, but this model was fitted without tasks"):
        model.predict(features, task=task)
    model = estimator_class(**SMALL).fit(features, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="task was passed, but this model was fitted with a 2-D y"):
        model.predict(features, task=task)
    model = estimator_class(**SMALL).fit(features, y, task=task)
    with pytest.raises(ValueError, match="task has 3 rows"):
        model.predict(features, task=task[:3])
    with pytest.raises(ValueError, match="task has no value in 20 of 60 rows"):
        model.predict(features, task=task.where(task != 1))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("method", ["predict", "decompose", "score", "staged_predict"])
def test_a_model_that_is_not_fitted_says_so(estimator_class, method):
    X, y = good(estimator_class)
    model = estimator_class(task_column="school")
    with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit'"):
        if method == "score":
            model.score(X, y)
        elif method == "staged_predict":
            next(model.staged_predict(X))
        else:
            getattr(model, method)(X)


# --- warm_start ---

CONTINUE = {
    "other columns": ("continues on the columns of the first fit", {}, lambda X, y: (X.drop(columns="kind"), y)),
    "other names": ("continues on the columns of the first fit", {}, lambda X, y: (X.rename(columns={"a": "q"}), y)),
    "other tasks": (
        "continues with the tasks of the first fit",
        {},
        lambda X, y: (X.assign(school=X["school"] + 1), y),
    ),
    "more tasks": (
        "continues with the tasks of the first fit",
        {},
        lambda X, y: (X.assign(school=np.arange(N) % 4), y),
    ),
    "no tasks": ("task_column|tasks", {"task_column": None}, lambda X, y: (X, y)),
    "fewer shared rounds": (
        "max_iter_shared=1 is smaller than the 3 rounds",
        {"max_iter_shared": 1},
        lambda X, y: (X, y),
    ),
    "fewer task rounds": ("max_iter_task=0 is smaller than the 3 rounds", {"max_iter_task": 0}, lambda X, y: (X, y)),
}
CONTINUE_REGRESSOR = {
    "another link": ("loss", {"loss": "poisson"}, lambda X, y: (X, y)),
    "another scale": ("target_scaling", {"target_scaling": "task"}, lambda X, y: (X, y)),
}
CONTINUE_CLASSIFIER = {
    "other classes": ("continues with the classes of the first fit", {}, lambda X, y: (X, 2 * y)),
    "more classes": ("continues with the classes of the first fit", {}, lambda X, y: (X, np.arange(N) % 3)),
    "more scores": ("loss", {"loss": "multinomial"}, lambda X, y: (X, y)),
}


@pytest.mark.parametrize(
    ("estimator_class", "name"),
    [(RMTGBRegressor, name) for name in CONTINUE | CONTINUE_REGRESSOR]
    + [(RMTGBClassifier, name) for name in CONTINUE | CONTINUE_CLASSIFIER],
)
def test_a_warm_start_on_another_problem_is_refused(estimator_class, name):
    X, y = good(estimator_class)
    model = estimator_class(task_column="school", warm_start=True, **SMALL).fit(X, y)
    before = numbers(model, X)
    match, options, spoil = (CONTINUE | CONTINUE_REGRESSOR | CONTINUE_CLASSIFIER)[name]
    rounds = {f"max_iter_{block}": 6 for block in ("shared", "partition", "task")}
    with pytest.raises(ValueError, match=match):
        model.set_params(**rounds | options).fit(*spoil(X, y))
    model.set_params(task_column="school")
    np.testing.assert_array_equal(numbers(model, X), before)


def test_a_warm_start_with_another_shape_of_leaves_is_refused():
    X, _ = good(RMTGBClassifier)
    y = np.arange(N) % 3
    model = RMTGBClassifier(task_column="school", warm_start=True, **SMALL).fit(X, y)
    model.set_params(multi_strategy="multi_output_tree", max_iter_shared=6)
    with pytest.raises(ValueError, match="multi_strategy"):
        model.fit(X, y)


# --- warnings ---


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_weights_too_small_for_any_split_are_warned_of(estimator_class):
    X, y = good(estimator_class)
    model = estimator_class(task_column="school", **SMALL)
    with pytest.warns(UserWarning, match="weights of 60 rows sum to 0.6, less than twice min_samples_leaf=5.*rescale"):
        model.fit(X, y, sample_weight=np.full(N, 0.01))


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_an_interrupted_fit_leaves_the_model_as_it_was(estimator_class, monkeypatch):
    X, y = good(estimator_class)
    model = estimator_class(task_column="school", verbose=2, **SMALL).fit(X, y)
    before = numbers(model, X)

    def interrupt(messages, n_done, figures, model):
        if messages.part == "task":
            raise KeyboardInterrupt

    monkeypatch.setattr(Messages, "end_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X.iloc[::-1], y)
    np.testing.assert_array_equal(numbers(model, X), before)
