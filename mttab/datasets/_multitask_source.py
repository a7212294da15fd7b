"""A population of target tasks with polynomial scores: fixed once, then rows are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.utils import Bunch

from ._arguments import count
from ._classes import classes_of
from ._hermite import label_correlations, polynomial
from ._streams import Streams

PURPOSES = ("weights", "levels", "features", "nuisance", "noise", "missing")
_BLOCK_ROWS = 1024  # a block is used while it is still in the cache, and too small for BLAS to start threads


@dataclass(frozen=True)
class MultitaskSource:
    """What stays the same when fresh rows are drawn.

    Attributes
    ----------
    weights : ndarray of shape (n_tasks, n_features)
        Rows of unit length.
    requested : ndarray of shape (n_tasks, n_tasks)
        The correlation matrix that was asked for.
    degree : ndarray of shape (n_tasks,)
    noise_sd : ndarray of shape (n_tasks,)
        In units of the score.
    task_types : tuple of str
    cuts : list of ndarray
        Per task, where its classes are cut; empty for regression.
    missing_fraction : ndarray of shape (n_tasks,)
    n_nuisance, n_categorical, n_levels : int
        Extra columns.
    as_frame : bool
    streams : Streams
    """

    weights: NDArray[np.float64]
    requested: NDArray[np.float64]
    degree: NDArray[np.int64]
    noise_sd: NDArray[np.float64]
    task_types: tuple[str, ...]
    cuts: list[NDArray[np.float64]]
    missing_fraction: NDArray[np.float64]
    n_nuisance: int
    n_categorical: int
    n_levels: int
    as_frame: bool
    streams: Streams

    def sample(self, n_samples: int, *, random_state: Any = None, return_bunch: bool = False) -> Any:
        """Fresh rows of the same tasks, with every label observed: (X, Y) or a Bunch."""
        # .fresh(): the seed that made the training rows must not give the same rows again
        streams = self.streams.fresh() if random_state is None else Streams(random_state, PURPOSES).fresh()
        bunch = self.draw(count(n_samples, "n_samples", low=0), streams, hide_labels=False)
        return bunch if return_bunch else (bunch.data, bunch.target)

    def draw(self, n_samples: int, streams: Streams, *, hide_labels: bool) -> Bunch:
        """Rows as the Bunch that users get."""
        X, score = self._features_and_score(n_samples, streams)
        # One column of standard normals per task whether or not it has noise: no task's noise moves another's.
        Y = streams.generator("noise").standard_normal(score.shape)
        Y *= self.noise_sd
        Y += score
        for t, cuts in enumerate(self.cuts):
            if len(cuts):
                Y[:, t] = classes_of(Y[:, t], cuts)
        if hide_labels and self.missing_fraction.any():
            Y[streams.generator("missing").random(Y.shape) < self.missing_fraction] = np.nan
        return self._bunch(self._data(X, streams), self._target(Y), score)

    def _features_and_score(self, n_samples: int, streams: Streams) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Informative features (n_samples, n_features) and noise-free scores (n_samples, n_tasks)."""
        rng = streams.generator("features")
        n_tasks, n_features = self.weights.shape
        X = np.empty((n_samples, n_features))
        score = np.empty((n_samples, n_tasks))
        for start in range(0, n_samples, _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            rng.standard_normal(out=X[rows])
            z = X[rows] @ self.weights.T  # (rows, n_tasks), standard normal, correlations = cosines of the weights
            for t, degree in enumerate(self.degree):
                score[rows, t] = polynomial(z[:, t], int(degree))
        return X, score

    def _data(self, X: NDArray[np.float64], streams: Streams) -> Any:
        """X with its extra columns, as a frame or an array."""
        nuisance = streams.generator("nuisance").standard_normal((len(X), self.n_nuisance))
        codes = [self._level_codes(X, j) for j in range(self.n_categorical)]
        names = self._feature_names()
        if not self.as_frame:
            return np.column_stack([X, nuisance, *codes]) if len(names) > X.shape[1] else X
        numeric = np.hstack([X, nuisance]) if self.n_nuisance else X
        data = pd.DataFrame(numeric, columns=names[: numeric.shape[1]], copy=False)
        levels = [f"level{k}" for k in range(self.n_levels)]
        columns = {f"category{j}": pd.Categorical.from_codes(code, levels) for j, code in enumerate(codes)}
        return data.assign(**columns) if columns else data

    def _level_codes(self, X: NDArray[np.float64], j: int) -> NDArray[np.int64]:
        """Equally frequent bins of informative feature j (modulo their number), numbered in random order."""
        edges = ndtri(np.arange(1, self.n_levels) / self.n_levels)
        order = self.streams.generator("levels", j).permutation(self.n_levels)
        return order[np.searchsorted(edges, X[:, j % X.shape[1]])]

    def _target(self, Y: NDArray[np.float64]) -> Any:
        """Y with dtypes that tell classes from numbers."""
        names = [f"y{t}" for t in range(Y.shape[1])]
        if not self.as_frame:
            is_whole = "regression" not in self.task_types and not np.isnan(Y).any()
            return Y.astype(np.int64) if is_whole else Y
        if set(self.task_types) == {"regression"}:
            return pd.DataFrame(Y, columns=names, copy=False)
        return pd.DataFrame({name: self._label_column(Y[:, t], t) for t, name in enumerate(names)})

    def _label_column(self, y: NDArray[np.float64], t: int) -> Any:
        if self.task_types[t] == "multiclass":
            return pd.Categorical.from_codes(np.nan_to_num(y, nan=-1.0).astype(np.int64), range(len(self.cuts[t]) + 1))
        if self.task_types[t] == "binary" and not np.isnan(y).any():
            return y.astype(np.int64)
        return y

    def _feature_names(self) -> list[str]:
        return [
            *(f"x{j}" for j in range(self.weights.shape[1])),
            *(f"nuisance{j}" for j in range(self.n_nuisance)),
            *(f"category{j}" for j in range(self.n_categorical)),
        ]

    def _bunch(self, data: Any, target: Any, score: NDArray[np.float64]) -> Bunch:
        cosines = self.weights @ self.weights.T
        return Bunch(
            data=data,
            target=target,
            noise_free=score,
            weights=self.weights,
            correlation_requested=self.requested,
            correlation_of_weights=cosines,
            correlation_of_targets=label_correlations(np.clip(cosines, -1.0, 1.0), self.degree),
            degree=self.degree,
            noise_sd=self.noise_sd,
            cuts=self.cuts,
            task_types=list(self.task_types),
            feature_names=self._feature_names(),
            target_names=[f"y{t}" for t in range(len(self.task_types))],
            sample=self.sample,
        )
