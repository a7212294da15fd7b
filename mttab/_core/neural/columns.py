"""Columns of a table as the networks read them: scaled numbers, what is missing, and rows of one embedding table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from mttab._core.records import require

SCALINGS = ("quantile", "standard")

_N_KNOTS = 1000  # points of the map from a number to its quantile
BEND = 3.0  # where the linear scale levels off
_MAX_SCORE = 4.0  # of a scaled number, in standard deviations: nothing beyond is told apart
LARGEST = 1e300  # of a number: nothing beyond is told apart, and differences and slopes stay finite


class Columns(NamedTuple):
    """Encoded rows.

    Attributes
    ----------
    numeric : ndarray of shape (n, n_numeric, n_scales), float32
        Numbers on one or two scales, 0 where missing, see `ColumnEncoder.fit`.
    missing : ndarray of shape (n, n_numeric), bool
    codes : ndarray of shape (n, n_categorical), int64
        Rows of one table in which every feature has a row per level, one for "missing" and one for "unknown".
    """

    numeric: np.ndarray
    missing: np.ndarray
    codes: np.ndarray

    def take(self, keep: np.ndarray) -> Columns:
        """Some rows."""
        return Columns(*(part[keep] for part in self))


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
    scaling: str
    _maps: list[tuple[np.ndarray, np.ndarray]]
    _lines: list[tuple[float, float]]

    def check_state(self) -> None:
        """Raise ValueError unless there is one scale per number and one range of rows per feature with levels."""
        n_lines = len(self.numeric) if self.scaling == "quantile" else 0
        require(self.scaling in SCALINGS, f"{self.scaling!r} is no scale")
        require((len(self._maps), len(self._lines)) == (len(self.numeric), n_lines), "a number has no scale")
        require(all(x.shape == y.shape and x.ndim == 1 and len(x) for x, y in self._maps), "a scale is misshapen")
        require(self.offset.dtype == np.int64 and len(self.offset) == len(self.categorical) + 1, "offset is misshapen")
        require(self.offset[0] == 0 and np.all(np.diff(self.offset) >= 2), "offset does not grow")
        require(self.level_frequency.shape == (self.offset[-1],), "a level has no frequency")

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
            "standard": one scale, by mean and standard deviation. "quantile": two of them, the quantile of the standard
            normal, which tells apart what lies close together, and distances from the median in quartile ranges, which
            keeps proportions; it bends smoothly towards ±3, so that outliers do not dominate.
        """
        self.numeric, self.categorical = np.flatnonzero(~is_categorical), np.flatnonzero(is_categorical)
        self.scaling = scaling
        numbers = [_within_limits(values[j]) for j in self.numeric]
        self._maps = [_fit_map(x, weight, scaling) for x in numbers]
        self._lines = [_fit_line(x, weight) for x in numbers] if scaling == "quantile" else []
        self.offset = np.concatenate([[0], np.cumsum(n_categories[self.categorical] + 2)]).astype(np.int64)
        codes = self.transform(values).codes
        self.level_frequency = np.zeros(self.offset[-1])
        for column in codes.T:
            self.level_frequency += np.bincount(column, weights=weight, minlength=self.offset[-1])
        return self

    @property
    def n_scales(self) -> int:
        """Scales of every number."""
        return 2 if self.scaling == "quantile" else 1

    def scales(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[float, float]]]:
        """Knots and images of the first scale of every number; centre and unit of its second scale, if there is one."""
        return self._maps, self._lines

    def transform(self, values: np.ndarray) -> Columns:
        """Encode rows.

        Parameters
        ----------
        values : ndarray of shape (n_features, n), float64
            As in `fit`; the number of levels stands for an unknown level.
        """
        n = values.shape[1]
        numeric = np.empty((n, len(self.numeric), self.n_scales), dtype=np.float32)
        missing = np.isnan(values[self.numeric]).T
        for i, j in enumerate(self.numeric):
            x = _within_limits(values[j])
            numeric[:, i, 0] = np.interp(x, *self._maps[i])
            if self._lines:
                numeric[:, i, 1] = _apply_line(x, *self._lines[i])
        numeric[missing] = 0.0
        codes = np.empty((len(self.categorical), n), dtype=np.int64)
        for i, j in enumerate(self.categorical):
            n_levels = self.offset[i + 1] - self.offset[i] - 2
            level = values[j]
            code = np.where(np.isnan(level), n_levels, np.where(level >= n_levels, n_levels + 1, level))
            codes[i] = self.offset[i] + code.astype(np.int64)
        return Columns(numeric, np.ascontiguousarray(missing), np.ascontiguousarray(codes.T))

    def bin_edges(self, columns: Columns, weight: np.ndarray, n_bins: int) -> np.ndarray:
        """Edges of bins with about equal weight on the first scale; repeated where values are few.

        Returns
        -------
        ndarray of shape (n_numeric, n_bins + 1), float32
        """
        edges = np.zeros((len(self.numeric), n_bins + 1), dtype=np.float32)
        for i in range(len(self.numeric)):
            is_there = ~columns.missing[:, i]
            value, rank = _mid_ranks(columns.numeric[is_there, i, 0].astype(np.float64), weight[is_there])
            if len(value) > n_bins + 1:
                edges[i] = np.interp(np.linspace(0.0, 1.0, n_bins + 1), rank, value)
            elif len(value):
                edges[i] = np.append(value, np.full(n_bins + 1 - len(value), value[-1]))
        return edges


def _within_limits(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -LARGEST, LARGEST)


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
    unit = 2.0 ** np.floor(np.log2(np.abs(value).max()))  # a power of two changes no digit, and squares cannot overflow
    mean = np.average(x[is_there] / unit, weights=mass)
    sd = np.sqrt(np.average((x[is_there] / unit - mean) ** 2, weights=mass))
    ends = np.array([-_MAX_SCORE, _MAX_SCORE])
    return (mean + sd * ends) * unit, ends


def _fit_line(x: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Median, and the scale on which the quartiles of a normal are where they belong; infinite for a constant."""
    is_there = ~np.isnan(x)
    value, rank = _mid_ranks(x[is_there], weight[is_there])
    if len(value) < 2:
        return 0.0, np.inf
    low, median, high = np.interp([0.25, 0.5, 0.75], rank, value)
    return median, (high - low) / 1.349


def _apply_line(x: np.ndarray, center: float, scale: float) -> np.ndarray:
    """Linear near the centre, never beyond ±`BEND`."""
    with np.errstate(over="ignore"):
        score = np.clip((x - center) / scale, -1e6, 1e6)
    return score / np.sqrt(1.0 + (score / BEND) ** 2)
