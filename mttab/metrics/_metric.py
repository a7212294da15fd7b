"""One metric of any origin, applied to predictions that are already there.

scikit-learn's scorers ask an estimator for what they need (labels, probabilities, decision values). `Recital` is that
estimator: it holds predictions and recites them for the rows it is asked about, so that every scorer works unchanged
on every task, through public names only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags

RESPONSES = ("predict", "predict_proba", "decision_function")

# Metrics of class probabilities: without `labels` they would infer the classes from one task, which may lack some.
_NEEDS_LABELS = {
    "neg_log_loss",
    "neg_brier_score",
    "d2_log_loss_score",
    "d2_brier_score",
    "top_k_accuracy",
    "roc_auc_ovr",
    "roc_auc_ovo",
    "roc_auc_ovr_weighted",
    "roc_auc_ovo_weighted",
}
# scikit-learn's naming rule for functions of which less is better.
_LOSS_SUFFIXES = ("_error", "_loss", "_deviance")


class Recital:
    """Predictions dressed as a fitted estimator, whose "X" is an array of row numbers.

    Parameters
    ----------
    responses : mapping of str to ndarray
        Predictions of all rows by response method; a scorer sees the methods that are keys here.
    classes : ndarray of shape (n_classes,) or None
        Class labels in the order of the probability columns; None makes a regressor.
    given : str, default="predict"
        The response that a plain function ``metric(y_true, y_pred)`` gets.
    """

    def __init__(self, responses: Mapping[str, Any], classes: np.ndarray | None = None, given: str = "predict") -> None:
        self._responses = responses
        self._given = given
        self.classes = classes
        if classes is not None:
            self.classes_ = classes

    def __getattr__(self, name: str) -> Callable:
        # RESPONSES first: while a copy is being made there is no _responses yet.
        if name not in RESPONSES or name not in self._responses:
            raise AttributeError(f"these predictions hold no {name}")

        def recite(rows: np.ndarray) -> np.ndarray:
            return np.asarray(self._responses[name])[rows]

        recite.__name__ = name
        return recite

    @property
    def methods(self) -> list[str]:
        """Response methods there are predictions of."""
        return list(self._responses)

    def given(self, rows: np.ndarray) -> np.ndarray:
        """Predictions in the form they were passed in."""
        return getattr(self, self._given)(rows)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        target = TargetTags(required=True)
        if self.classes is None:
            return Tags(estimator_type="regressor", target_tags=target, regressor_tags=RegressorTags())
        return Tags(estimator_type="classifier", target_tags=target, classifier_tags=ClassifierTags())

    def fit(self) -> Recital:
        """Nothing to fit; scikit-learn calls a thing with `fit` an estimator."""
        return self


@dataclass(frozen=True)
class Metric:
    """A figure of merit or loss, callable on (recital, y, rows, sample_weight).

    Attributes
    ----------
    name : str
        What it is called in tables.
    greater_is_better : bool
        Whether a larger figure is the better one.
    scorer : callable or None
        scikit-learn scorer; the figure is its value times `sign`.
    function : callable or None
        ``function(y_true, y_pred)``, where there is no scorer.
    sign : int
        1 or −1.
    """

    name: str
    greater_is_better: bool
    scorer: Callable | None = None
    function: Callable | None = None
    sign: int = 1

    @property
    def scorer_name(self) -> str:
        """Name in scikit-learn's list of scorers: of "mean_squared_error" it is "neg_mean_squared_error"."""
        return self.name if self.sign == 1 else f"neg_{self.name}"

    @property
    def ranks_classes(self) -> bool:
        """Whether it compares rows of two classes with one another, and so needs both."""
        return self.name.startswith("roc_auc") or self.name == "average_precision"

    def __call__(
        self, recital: Recital, y: np.ndarray, rows: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """The figure on `rows` of `recital`; `y` and `sample_weight` hold the values of these rows."""
        options: dict[str, Any] = {} if sample_weight is None else {"sample_weight": sample_weight}
        if recital.classes is not None:
            if self.scorer_name in _NEEDS_LABELS:
                options["labels"] = recital.classes
            if self.scorer_name == "neg_brier_score" and len(recital.classes) == 2:
                options["pos_label"] = recital.classes[1]  # it cannot tell which of two strings the probability is of
        try:
            return self._call(recital, y, rows, options)
        except TypeError as err:
            if "'sample_weight'" in str(err):
                raise TypeError(f"metric={self.name!r} takes no sample_weight; leave sample_weight out.") from err
            if "'labels'" not in str(err):
                raise
            del options["labels"]  # the Brier score takes them from scikit-learn 1.7 on
            return self._call(recital, y, rows, options)

    def _call(self, recital: Recital, y: np.ndarray, rows: np.ndarray, options: dict[str, Any]) -> float:
        if self.function is not None:
            figure = np.asarray(self.function(y, recital.given(rows), **options))
            if figure.ndim:
                raise ValueError(f"metric={self.name!r} returns shape {figure.shape}; pass one that returns a number.")
            return float(figure)
        assert self.scorer is not None
        # A scorer takes options of its metric only while routing is on; no request is consulted in a direct call.
        with config_context(enable_metadata_routing=True):
            try:
                return self.sign * float(self.scorer(recital, rows, y, **options))
            except AttributeError as err:
                at_hand = ", ".join(recital.methods) or "nothing"
                raise ValueError(f"metric={self.name!r} needs other predictions than {at_hand}: {err}") from err


def resolve_metric(metric: Any) -> Metric:
    """The `Metric` that a user means.

    Parameters
    ----------
    metric : str or callable
        A scikit-learn scorer name, such a name without its "neg_", a scorer object, or ``metric(y_true, y_pred)``.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is neither a name nor callable.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        names = get_scorer_names()
        if metric in names:
            return Metric(metric, True, scorer=get_scorer(metric))
        if f"neg_{metric}" in names:
            return Metric(metric, False, scorer=get_scorer(f"neg_{metric}"), sign=-1)
        known = [*names, *(name[4:] for name in names if name.startswith("neg_"))]
        close = get_close_matches(metric, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see sklearn.metrics.get_scorer_names()."
        raise ValueError(f"metric={metric!r} is not a scikit-learn scorer name, with or without 'neg_'; {hint}")
    if not callable(metric):
        raise TypeError(f"metric={metric!r} is neither a scorer name nor callable; pass a name such as 'r2'.")
    if hasattr(metric, "get_metadata_routing"):
        return Metric(repr(metric), True, scorer=metric)
    name = getattr(metric, "__name__", repr(metric))
    return Metric(name, not name.endswith(_LOSS_SUFFIXES), function=metric)


class _Asked(Exception):
    """Raised in place of a prediction, to learn which one a metric asks for."""


class _Probe(Recital):
    """Raises `_Asked` with the name of the first response that is asked for."""

    def __getattr__(self, name: str) -> Callable:
        super().__getattr__(name)

        def ask(rows: np.ndarray) -> np.ndarray:
            raise _Asked(name)

        ask.__name__ = name
        return ask


def response_needed(metric: Metric, methods: list[str], classes: np.ndarray | None, y: np.ndarray) -> str:
    """The response method, out of `methods`, that a metric asks an estimator for."""
    try:
        metric(_Probe(dict.fromkeys(methods), classes), y, np.arange(len(y)))
    except _Asked as asked:
        return str(asked)
    raise ValueError(f"metric={metric.name!r} asks for no prediction; pass one that compares y with predictions.")


def evaluate(
    metric: Metric, recital: Recital, y: np.ndarray, rows: np.ndarray, sample_weight: np.ndarray | None
) -> tuple[float, str]:
    """Figure on some rows and, where it is undefined or doubtful, the reason.

    Warnings of the metric about its own definition become the reason; all other warnings pass through.
    """
    if metric.ranks_classes and len(set(np.asarray(y).tolist())) == 1:
        return math.nan, f"one class only: {np.asarray(y).tolist()[0]!r}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        figure = metric(recital, y, rows, sample_weight)
    reasons = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    for w in caught:
        if not issubclass(w.category, UserWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    if math.isnan(figure) and not reasons:
        reasons = ["the metric returned NaN"]
    return figure, "; ".join(dict.fromkeys(reasons))
