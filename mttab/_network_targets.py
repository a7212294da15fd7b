"""What a network estimator takes its y for: columns of mixed kinds, numbers, or classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin

from mttab._core.target_table import TargetTable
from mttab._network_predict import NetworkPredictions

if TYPE_CHECKING:  # they stand before a network estimator

    class _Network:
        def __getattr__(self, name: str) -> Any: ...
        def _set_fitted_attributes(self, encoding: Any, history: Any, place: Any) -> None: ...
else:
    _Network = object


class MixedTargets(_Network):
    """Every column has a kind of its own."""

    __metadata_request__predict_proba: ClassVar[dict[str, Any]] = {"task": True}

    def _fit_targets(self, y: Any, sample_weight: Any, classes: Any) -> tuple[TargetTable, np.ndarray]:
        return TargetTable().fit(y, self.task_types, sample_weight, classes)

    def _set_fitted_attributes(self, encoding: Any, history: Any, place: Any) -> None:
        super()._set_fitted_attributes(encoding, history, place)
        self.classes_ = {t.label: t.classes for t in encoding.targets.columns if t.classes is not None}

    def predict_proba(self, X: Any, task: Any = None) -> dict[Any, np.ndarray]:
        """Probabilities of the classes of every column that holds classes.

        Parameters
        ----------
        X, task : see `predict`

        Returns
        -------
        dict of ndarray of shape (n, n_classes)
            By column of ``y``, or with ``task="all"`` by row task; the order of the classes is that of ``classes_``.
        """
        if self._is_every_row_task(task):
            of_tasks = zip(self.tasks_.tolist(), self._probabilities_of_every_task(X), strict=True)
            return {label: p for label, p in of_tasks if p is not None}
        found = self._probabilities(X, task)
        return {t.label: p for t, p in zip(self._encoding.targets.columns, found, strict=True) if p is not None}


class NumberTargets(RegressorMixin, _Network):
    """Every column holds numbers."""

    score = NetworkPredictions.score  # the mixin's knows neither missing labels nor tasks

    def _fit_targets(self, y: Any, sample_weight: Any, classes: Any) -> tuple[TargetTable, np.ndarray]:
        return TargetTable().fit(y, "regression", sample_weight)


class ClassTargets(ClassifierMixin, _Network):
    """Every column holds classes."""

    __metadata_request__predict_proba: ClassVar[dict[str, Any]] = {"task": True}

    score = NetworkPredictions.score  # the mixin's knows neither missing labels nor tasks

    def _fit_targets(self, y: Any, sample_weight: Any, classes: Any) -> tuple[TargetTable, np.ndarray]:
        return TargetTable().fit(y, "classes", sample_weight, classes)

    def _set_fitted_attributes(self, encoding: Any, history: Any, place: Any) -> None:
        super()._set_fitted_attributes(encoding, history, place)
        classes = [t.classes for t in encoding.targets.columns]
        self.classes_ = classes[0] if len(classes) == 1 else classes

    def predict_proba(self, X: Any, task: Any = None) -> Any:
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X, task : see `predict`

        Returns
        -------
        ndarray of shape (n, n_classes), or list of these
            A list with an entry per column where ``y`` had several, per row task with ``task="all"``.
        """
        if self._is_every_row_task(task):
            return self._probabilities_of_every_task(X)
        found = self._probabilities(X, task)
        return found[0] if len(found) == 1 else found
