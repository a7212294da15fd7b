"""Columns of a table as the networks read them: scaled numbers, what is missing, and rows of one embedding table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

SCALINGS = ("quantile", "standard")

_N_KNOTS = 1000  # points of the map from a number to its quantile
_MAX_SCORE = 4.0  # of a scaled number, in standard deviations: nothing beyond is told apart


class Columns(NamedTuple):
    """Encoded rows.

    Attributes
    ----------
    numeric : ndarray of shape (n, n_numeric), float32
        Scaled numbers, 0 where missing.
    missing : ndarray of shape (n, n_numeric), bool
    codes : ndarray of shape (n, n_categorical), int64
        Rows of one table in which every feature has a row per level, one for "missing" and one for "unknown".
    """

    numeric: np.ndarray
    missing: np.ndarray
    codes: np.ndarray


class ColumnEncoder:
    """Feature values → `Columns`.

    Attributes
    ----------
    numeric, categorical : ndarray of int
        Features of each kind, in the order of the encoded columns.
    offset : ndarray of shape (n_categorical + 1,), int64
        First row of each categorical feature in the table; the last entry is the size of the table. The rows of a
        feature are its levels, then "missing", then "unknown".
    level_frequency : ndarray of shape (table size,), float64
        Weight of each row of the table in the data of fit.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    offset: np.ndarray
    level_frequency: np.ndarray

    def fit(
        self, values: np.ndarray, n_categories: np.ndarray, is_categorical: np.ndarray, weight: np.ndarray, scaling: str
    ) -> ColumnEncoder:
        """Learn the scale of every numeric feature.

        Parameters
        ----------
        values : ndarray of shape (n_features, n), float64
            Numbers, or codes of levels; NaN is missing.
        n_categories : ndarray of shape (n_features,), int
            Levels of each categorical feature.
        is_categorical : ndarray of shape (n_features,), bool
        weight : ndarray of shape (n,)
            Positive. A weight of 2 is the same as a row that is there twice.
        scaling : {"quantile", "standard"}
            To the quantile of the standard normal, or by mean and standard deviation.
        """
        self.numeric, self.categorical = np.flatnonzero(~is_categorical), np.flatnonzero(is_categorical)
        self.scaling = scaling
        self._maps = [_fit_map(values[j], weight, scaling) for j in self.numeric]
        self.offset = np.concatenate([[0], np.cumsum(n_categories[self.categorical] + 2)]).astype(np.int64)
        codes = self.transform(values).codes
        self.level_frequency = np.zeros(self.offset[-1])
        for column in codes.T:
            self.level_frequency += np.bincount(column, weights=weight, minlength=self.offset[-1])
        return self

    def transform(self, values: np.ndarray) -> Columns:
        """Encode rows.

        Parameters
        ----------
        values : ndarray of shape (n_features, n), float64
            As in `fit`; the number of levels stands for an unknown level.
        """
        n = values.shape[1]
        numeric = np.empty((len(self.numeric), n), dtype=np.float32)
        missing = np.isnan(values[self.numeric])
        for i, j in enumerate(self.numeric):
            numeric[i] = _apply_map(values[j], *self._maps[i])
        numeric[missing] = 0.0
        codes = np.empty((len(self.categorical), n), dtype=np.int64)
        for i, j in enumerate(self.categorical):
            n_levels = self.offset[i + 1] - self.offset[i] - 2
            level = values[j]
            code = np.where(np.isnan(level), n_levels, np.where(level >= n_levels, n_levels + 1, level))
            codes[i] = self.offset[i] + code.astype(np.int64)
        return Columns(*(np.ascontiguousarray(a.T) for a in (numeric, missing, codes)))

    def bin_edges(self, columns: Columns, weight: np.ndarray, n_bins: int) -> np.ndarray:
        """Edges of bins with about equal weight, (n_numeric, n_bins + 1), float32; repeated where values are few."""
        edges = np.zeros((len(self.numeric), n_bins + 1), dtype=np.float32)
        for i in range(len(self.numeric)):
            is_there = ~columns.missing[:, i]
            value, rank = _mid_ranks(columns.numeric[is_there, i].astype(np.float64), weight[is_there])
            if len(value) > n_bins + 1:
                edges[i] = np.interp(np.linspace(0.0, 1.0, n_bins + 1), rank, value)
            elif len(value):
                edges[i] = np.append(value, np.full(n_bins + 1 - len(value), value[-1]))
        return edges


def _mid_ranks(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and the share of the weight below each, half its own included."""
    value, place = np.unique(x, return_inverse=True)
    mass = np.bincount(place, weights=weight, minlength=len(value))
    total = mass.sum()
    return value, (np.cumsum(mass) - 0.5 * mass) / total if len(value) else value


def _fit_map(x: np.ndarray, weight: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """Knots and their images; the map is linear between them and constant beyond."""
    is_there = ~np.isnan(x)
    value, rank = _mid_ranks(x[is_there], weight[is_there])
    if len(value) < 2:  # nothing to tell apart
        return np.zeros(1), np.zeros(1)
    if scaling == "quantile":
        if len(value) > _N_KNOTS:
            at = np.linspace(rank[0], rank[-1], _N_KNOTS)
            value, rank = np.interp(at, rank, value), at
        return value, np.clip(ndtri(rank), -_MAX_SCORE, _MAX_SCORE)
    mass = weight[is_there]
    mean = np.average(x[is_there], weights=mass)
    sd = np.sqrt(np.average((x[is_there] - mean) ** 2, weights=mass))
    return mean + sd * np.array([-_MAX_SCORE, _MAX_SCORE]), np.array([-_MAX_SCORE, _MAX_SCORE])


def _apply_map(x: np.ndarray, knots: np.ndarray, image: np.ndarray) -> np.ndarray:
    return np.interp(x, knots, image)
