"""One list of all estimators of the package, with settings that fit in no time.

`test_all_estimators.py`, `test_saving.py` and `test_sklearn_checks.py` run over it. A new estimator is one row; the
tests see to it that none is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import mttab

# How tasks reach an estimator: a column of X, an argument of fit, the columns of a 2-D y.
LAYOUTS = ("column", "argument", "targets")


@dataclass(frozen=True, eq=False)
class Row:
    """An estimator by its public name, and what the common tests have to know of it.

    options : constructor arguments under which a fit of 200 rows takes well below a second
    grid : a search over these must work; by default over nothing but what every estimator has
    layouts : those of `LAYOUTS` that it takes
    tolerance : up to which predictions that have to be equal are (networks compute in float32)
    sees_task_order : whether renaming tasks so that they sort otherwise may change the model beyond rounding
    needs : a package without which it cannot be imported
    slow : whether its tests are left to the slow suite
    checked : constructor arguments, and no others, under which scikit-learn's own checks pass
    checked_slowly : whether these checks are left to the slow suite
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=lambda: {"unseen_task": ["shared", "error"]})
    layouts: tuple[str, ...] = LAYOUTS
    tolerance: float = 1e-9
    sees_task_order: bool = False
    needs: str | None = None
    slow: bool = False
    checked: dict[str, Any] = field(default_factory=dict)
    checked_slowly: bool = False

    def make(self, **options: Any) -> Any:
        if self.needs is not None:
            pytest.importorskip(self.needs, reason=f"{self.needs} is not installed")
        return getattr(mttab, self.name)(**self.options | options)

    @property
    def is_classifier(self) -> bool:
        return self.name.endswith("Classifier")

    @property
    def is_mixed(self) -> bool:
        """Whether each column of y is of its own kind, and ``predict_proba`` answers with a dict."""
        return not self.name.endswith(("Classifier", "Regressor"))


BOOSTING: dict[str, Any] = {
    "max_iter_shared": 4,
    "max_iter_partition": 3,
    "max_iter_task": 2,
    "early_stopping": False,
    "random_state": 0,
}
NETWORK: dict[str, Any] = {
    "embedding_dim": 8,
    "mlp_dim": 16,
    "head_dim": 16,
    "n_blocks": 1,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 2,
    "early_stopping": False,
    "n_jobs": 1,
    "random_state": 0,
}
EXPERTS: dict[str, Any] = {
    "embedding_dim": 8,
    "expert_dim": 8,
    "expert_depth": 1,
    "head_dim": 8,
    "n_bins": 4,
    "n_members": 1,
    "max_epochs": 2,
    "early_stopping": False,
    "n_jobs": 1,
    "random_state": 0,
}
# For scikit-learn's checks, small networks that learn fast. A batch of all rows in double precision, without dropout,
# makes "weight 2" and "there twice" the same to the last digits that one of the checks compares.
CHECKED: dict[str, Any] = {
    "n_bins": 4,
    "n_members": 1,
    "batch_size": 1000,
    "dropout": 0.0,
    "precision": "float64",
    "early_stopping": False,
    "n_jobs": 1,
}
NETWORK_CHECKED = CHECKED | {
    "embedding_dim": 8,
    "mlp_dim": 16,
    "head_dim": 16,
    "n_blocks": 1,
    "max_epochs": 60,
    "learning_rate": 0.02,
}
# Swish: with ReLU a handful of rows can collapse an expert, of which fit would warn.
EXPERTS_CHECKED = CHECKED | {
    "embedding_dim": 4,
    "expert_dim": 16,
    "expert_depth": 1,
    "head_dim": 0,
    "activation": "swish",
    "max_epochs": 20,
    "learning_rate": 0.05,
}
REGRESSION: dict[str, Any] = {"estimator": Ridge(), "random_state": 0}
CLASSIFICATION: dict[str, Any] = {"estimator": LogisticRegression(tol=1e-9), "random_state": 0}
ALPHAS = {"estimator__alpha": [0.1, 10.0]}
STRENGTHS = {"estimator__C": [0.1, 10.0]}
ONEHOT = {"task_encoding": "onehot"}
CLUSTERS = {"n_clusters": 2, "n_folds": 2}
# Sums of one-hot columns in another order differ in the last digits, which the solver of logistic regression enlarges.
LOOSE = 1e-5

AROUND_RIDGE, AROUND_LOGISTIC = {"estimator": Ridge()}, {"estimator": LogisticRegression()}

ROWS = [
    Row("RMTGBRegressor", BOOSTING, {"max_iter_task": [0, 3]}),
    Row("RMTGBClassifier", BOOSTING, {"max_iter_task": [0, 3]}),
    Row("PooledRegressor", REGRESSION, ALPHAS, checked=AROUND_RIDGE, checked_slowly=True),
    Row("PooledClassifier", CLASSIFICATION, STRENGTHS, checked=AROUND_LOGISTIC, checked_slowly=True),
    Row("TaskAsFeatureRegressor", REGRESSION | ONEHOT, ALPHAS, checked=AROUND_RIDGE | ONEHOT, checked_slowly=True),
    Row(
        "TaskAsFeatureClassifier",
        CLASSIFICATION | ONEHOT,
        STRENGTHS,
        tolerance=LOOSE,
        checked=AROUND_LOGISTIC | ONEHOT,
        checked_slowly=True,
    ),
    Row("PerTaskRegressor", REGRESSION, ALPHAS, checked=AROUND_RIDGE),
    Row("PerTaskClassifier", CLASSIFICATION, STRENGTHS, checked=AROUND_LOGISTIC, checked_slowly=True),
    Row(
        "TaskClusterRegressor",
        REGRESSION | CLUSTERS | {"pilot": Ridge()},
        {"pilot__alpha": [0.1, 10.0]},
        checked=AROUND_RIDGE,
        checked_slowly=True,
    ),
    Row(
        "TaskClusterClassifier",
        CLASSIFICATION | CLUSTERS | {"pilot": LogisticRegression(tol=1e-9)},
        {"pilot__C": [0.1, 10.0]},
        tolerance=LOOSE,
        checked=AROUND_LOGISTIC,
    ),
    *(
        Row(
            f"MultiTabNet{kind}",
            NETWORK,
            {"max_epochs": [1, 2]},
            tolerance=1e-5,
            sees_task_order=True,
            needs="torch",
            slow=kind != "Regressor",
            checked=NETWORK_CHECKED,
            checked_slowly=kind == "",
        )
        for kind in ("", "Regressor", "Classifier")
    ),
    *(
        Row(
            f"{architecture}{kind}",
            EXPERTS,
            {"max_epochs": [1, 2]},
            tolerance=1e-5,
            sees_task_order=True,
            needs="torch",
            slow=(architecture, kind) != ("MMoE", "Regressor"),
            checked=EXPERTS_CHECKED,
            checked_slowly=architecture != "MMoE",
        )
        for architecture in ("SharedBottom", "MMoE", "PLE", "STEM", "TaskExpert")
        for kind in ("", "Regressor", "Classifier")
    ),
]


def parameters(*layouts: str) -> list[Any]:
    """Rows for `pytest.mark.parametrize`, those that take all of these layouts; the slow ones are marked."""
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.slow else [])
        for row in ROWS
        if set(layouts) <= set(row.layouts)
    ]
