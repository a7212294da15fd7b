"""Quantile binning of features to one byte, and the bin layout that histograms and splits share.

A numeric feature has at most 255 value bins; bin b holds the values in ``(edges[b - 1], edges[b]]``. A categorical
feature has one bin per code. In both the bin after the last value bin means *missing*, so codes fit in a byte.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from mttab._core.records import require

from .in_place import larger, smaller
from .jit import inlined, lean_jit, serial_and_parallel
from .threads import map_in_threads

MAX_BINS = 255
# Kinds of categorical features in `BinLayout`.
CATEGORY, TASK_ID = 1, 2
# All 32 bits of a word are the code, as they are of a task id.
ALL_BITS = np.uint32(0xFFFFFFFF)
# Quantiles of a large column are taken from a sample of this many rows.
SAMPLE_SIZE = 200_000
# A piece of a column that is read in pieces is remembered by at most so many of its values.
SUMMARY_SIZE = 8192


class BinLayout(NamedTuple):
    """Where each feature's bins stand in a histogram. Features come first, the task id as a category (if used) last.

    offset : int64 (n_features + 1,), bins of feature f are ``offset[f]:offset[f + 1]``, the last of them is *missing*
    is_categorical : uint8 (n_features,), 0 for numbers, `CATEGORY`, or `TASK_ID`, whose levels all matter however small
    monotonic : int8 (n_features,), −1, 0 or 1
    low, high, edge : float64 (n_bins_total,), smallest and largest value seen in a bin, and its upper edge
    """

    offset: np.ndarray
    is_categorical: np.ndarray
    monotonic: np.ndarray
    low: np.ndarray
    high: np.ndarray
    edge: np.ndarray


class BinMapper:
    """Bin edges of every feature, learned from (weighted) training values.

    Parameters
    ----------
    max_bins : int, default=255
        Largest number of value bins of a numeric feature, 2 to 255.

    Attributes
    ----------
    edges : list of float64 arrays, one per feature
        Upper bin edges, ascending, one fewer than there are bins; empty for categorical features.
    lows, highs : list of float64 arrays
        Smallest and largest training value seen in each bin.
    n_bins : int64 (n_features,)
        Value bins per feature, without the missing bin.
    is_categorical : bool (n_features,)
    """

    max_bins: int
    edges: list[np.ndarray]
    lows: list[np.ndarray]
    highs: list[np.ndarray]
    n_bins: np.ndarray
    is_categorical: np.ndarray

    def __init__(self, max_bins: int = MAX_BINS):
        self.max_bins = max_bins

    def check_state(self) -> None:
        """Raise ValueError unless the bins of every feature fit together and into a byte."""
        n_features = len(self.edges)
        require(self.is_categorical.dtype == bool and self.n_bins.dtype == np.int64, "bins are of another type")
        require(self.is_categorical.shape == self.n_bins.shape == (n_features,), "bins are not one list per feature")
        for edges, lows, highs, n_bins in zip(self.edges, self.lows, self.highs, self.n_bins, strict=True):
            require(edges.dtype == lows.dtype == highs.dtype == np.float64, "bins are not float64")
            require(lows.shape == highs.shape == (n_bins,) and n_bins <= MAX_BINS, "bins are misshapen")
            require(edges.ndim == 1 and len(edges) < max(n_bins, 1), "edges are not one fewer than bins")

    def fit(
        self,
        X: Any,
        is_categorical: np.ndarray,
        n_categories: np.ndarray,
        weight: np.ndarray,
        seed: int,
        n_threads: int = 1,
    ) -> BinMapper:
        """Learn the edges from ``X``.

        X : float64 (n_features, n_rows), or what gives the values of one feature for ``X[f, rows]``
        weight : (n_rows,), how often a row is there; rows of weight 0 are not
        """
        n_features = X.shape[0]
        self.is_categorical = np.asarray(is_categorical, dtype=bool)
        rows: slice | np.ndarray = slice(None)
        if not weight.all():
            rows = np.flatnonzero(weight)
            weight = weight[rows]
        if len(weight) > SAMPLE_SIZE:
            drawn = np.sort(np.random.default_rng(seed).choice(len(weight), SAMPLE_SIZE, replace=False))
            rows, weight = drawn if isinstance(rows, slice) else rows[drawn], weight[drawn]

        def bins_of(f: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            if self.is_categorical[f]:
                codes = np.arange(n_categories[f], dtype=np.float64)
                return np.empty(0), codes, codes
            return quantile_bins(X[f, rows], weight, self.max_bins)

        bins = map_in_threads(bins_of, range(n_features), n_threads)
        self.edges, self.lows, self.highs = ([own[i] for own in bins] for i in range(3))
        self.n_bins = np.array([len(lows) for lows in self.lows], dtype=np.int64)
        return self

    def fit_summaries(
        self, columns: list[tuple[np.ndarray, np.ndarray]], is_categorical: np.ndarray, n_categories: np.ndarray
    ) -> BinMapper:
        """Learn the edges from distinct values and their weights, as `merge_summaries` has them for each column."""
        self.is_categorical = np.asarray(is_categorical, dtype=bool)
        self.edges, self.lows, self.highs = [], [], []
        for f, (values, mass) in enumerate(columns):
            if self.is_categorical[f]:
                codes = np.arange(n_categories[f], dtype=np.float64)
                edges, lows, highs = np.empty(0), codes, codes
            else:
                edges, lows, highs = quantile_bins(values, mass, self.max_bins)
            self.edges.append(edges)
            self.lows.append(lows)
            self.highs.append(highs)
        self.n_bins = np.array([len(lows) for lows in self.lows], dtype=np.int64)
        return self

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values float64 (n_features, n_rows) that have these codes: a tree sends them where it sends the codes."""
        X = np.empty(codes.shape)
        for f, lows in enumerate(self.lows):
            X[f] = np.append(lows, np.nan)[codes[f]]
        return X

    def words(self, X: Any, n_threads: int = 1) -> np.ndarray:
        """Words of `pack_words` of ``X``, as it is in `transform`, or of what has its values in ``pieces()``."""
        if isinstance(X, np.ndarray):
            return pack_words(self.transform(X, n_threads))
        words = np.empty(((X.shape[0] + 3) // 4, X.shape[1]), dtype=np.uint32)
        for rows, values in X.pieces():
            words[:, rows] = pack_words(self.transform(values, n_threads))
        return words

    def transform(self, X: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Codes uint8 (n_features, n_rows) of ``X`` float64 (n_features, n_rows); NaN and unknown codes are missing."""
        edges = np.full((len(self.edges), MAX_BINS), np.inf)
        for f, own in enumerate(self.edges):
            edges[f, : len(own)] = own
        codes = np.empty(X.shape, dtype=np.uint8)
        kernel = _bin_parallel if n_threads > 1 else _bin_serial
        kernel(X, edges, self.n_bins, self.is_categorical, codes)
        return codes

    def layout(self, monotonic: np.ndarray, n_tasks_as_category: int = 0) -> BinLayout:
        """The bin layout, with one more categorical feature for the task id if ``n_tasks_as_category`` > 0."""
        n_bins, kind = self.n_bins, np.where(self.is_categorical, CATEGORY, 0)
        if n_tasks_as_category:
            n_bins = np.append(n_bins, n_tasks_as_category)
            kind = np.append(kind, TASK_ID)
            monotonic = np.append(monotonic, 0)
        offset = np.concatenate([[0], np.cumsum(n_bins + 1)]).astype(np.int64)
        low, high, edge = np.full((3, offset[-1]), np.inf)
        for f in range(len(self.lows)):
            low[offset[f] : offset[f] + len(self.lows[f])] = self.lows[f]
            high[offset[f] : offset[f] + len(self.highs[f])] = self.highs[f]
            edge[offset[f] : offset[f] + len(self.edges[f])] = self.edges[f]
        return BinLayout(offset, kind.astype(np.uint8), monotonic.astype(np.int8), low, high, edge)


def pack_words(codes: np.ndarray) -> np.ndarray:
    """Codes uint8 (n_features, n_rows) → words uint32 (n_blocks, n_rows), four features to a word.

    The code of feature f stands in byte ``f % 4`` of word ``f // 4``: a kernel that adds a row to the histograms of
    four features reads it once.
    """
    n_features, n_rows = codes.shape
    words = np.zeros(((n_features + 3) // 4, n_rows), dtype=np.uint32)
    for f, column in enumerate(codes):
        words[f // 4] |= column.astype(np.uint32) << np.uint32(8 * (f % 4))
    return words


def unpack_words(words: np.ndarray, n_features: int) -> np.ndarray:
    """Codes uint8 (n_features, n_rows) of `pack_words`."""
    codes = [(words[f // 4] >> np.uint32(8 * (f % 4))).astype(np.uint8) for f in range(n_features)]
    return np.array(codes, dtype=np.uint8).reshape(n_features, words.shape[1])


@lean_jit
def byte_of(feature):  # type: ignore[no-untyped-def]
    """Shift and mask, uint32, that single out a feature's code in its word."""
    return np.uint32(8 * (feature & 3)), np.uint32(255)


@lean_jit
def cut_between(layout, feature, left_bin, right_bin):  # type: ignore[no-untyped-def]
    """Last bin that goes left and the real threshold, for a cut between two bins in use with empty ones between them.

    The threshold stands halfway between the largest value seen left and the smallest seen right, as in an exact tree.
    Where that lies among the values of an empty bin it moves to the nearer edge of that bin: rows that the node was not
    grown on go the same way by bin and by value. It is +inf where no bin follows: every value goes left.
    """
    first = layout.offset[feature]
    n_bins = layout.offset[feature + 1] - first - 1
    if layout.is_categorical[feature] or right_bin >= n_bins:
        return n_bins - 1, np.inf
    middle = 0.5 * layout.high[first + left_bin] + 0.5 * layout.low[first + right_bin]
    cut = left_bin
    while cut + 1 < right_bin and layout.high[first + cut + 1] <= middle:
        cut += 1
    if cut + 1 < right_bin and layout.low[first + cut + 1] <= middle:
        lower, upper = layout.edge[first + cut], layout.edge[first + cut + 1]
        if upper - middle < middle - lower:
            return cut + 1, upper
        return cut, lower
    # Within the edges: bins of large data hold values beyond the ones that the sample has seen.
    return cut, smaller(larger(middle, layout.edge[first + left_bin]), layout.edge[first + right_bin - 1])


def quantile_bins(values: np.ndarray, weight: np.ndarray, max_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges, lowest and highest value per bin of one numeric column; every distinct value its own bin if they fit.

    Cuts stand halfway between neighbouring distinct values. With too many of them, a bin is closed as soon as the
    weight so far reaches the next of ``max_bins`` equal shares, so a weight of 2 counts as the row twice.
    """
    distinct, cumulative = _distinct_values(values, weight)
    if len(distinct) == 0:
        return np.empty(0), np.full(1, np.nan), np.full(1, np.nan)
    if len(distinct) > max_bins:
        last = _closing_values(cumulative, max_bins)
    else:
        last = np.arange(len(distinct))
    first = np.concatenate([[0], last[:-1] + 1])
    lows, highs = distinct[first], distinct[last]
    edges = 0.5 * highs[:-1] + 0.5 * lows[1:]
    # Between two neighbouring floats the middle rounds to one of them: the upper one must stay right of the cut.
    edges = np.where((edges >= lows[1:]) | (edges < highs[:-1]), highs[:-1], edges)
    return edges, lows, highs


def _distinct_values(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values but NaN, ascending, and the weight up to and with each."""
    if len(values) == 0 or np.any(weight != weight[0]):
        present = ~np.isnan(values)
        distinct, inverse = np.unique(values[present], return_inverse=True)
        return distinct, np.cumsum(np.bincount(inverse, weights=weight[present], minlength=len(distinct)))
    ordered = np.sort(values)  # many times as fast as an argsort, which weights of their own need; NaN comes last
    ordered = ordered[: np.searchsorted(ordered, np.nan)]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    return ordered[first], weight[0] * np.append(first[1:], len(ordered))[: len(first)]


def summarise_column(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a column and their weights; of more than `SUMMARY_SIZE` of them some, evenly by weight.

    A value that is kept stands for those between it and the one before it, so the weight up to it is exact, and the
    place of every quantile is known to 1 / `SUMMARY_SIZE` of the weight.
    """
    distinct, cumulative = _distinct_values(values, weight)
    if len(distinct) <= SUMMARY_SIZE:
        return distinct, np.diff(cumulative, prepend=0.0)
    last = np.unique(np.append(0, _closing_values(cumulative, SUMMARY_SIZE - 1)))
    return distinct[last], np.diff(cumulative[last], prepend=0.0)


def merge_summaries(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One summary of the pieces of a column."""
    values, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    return values, np.bincount(inverse, weights=np.concatenate([part[1] for part in parts]), minlength=len(values))


def _closing_values(cumulative: np.ndarray, max_bins: int) -> np.ndarray:
    """Index of the last distinct value of each bin, for cumulative weights of the distinct values."""
    # 1e-9 of slack: summation order must not decide whether a share is reached.
    shares = (np.arange(1, max_bins + 1) - 1e-9) * (cumulative[-1] / max_bins)
    closes = np.unique(np.searchsorted(cumulative, shares))
    if len(closes) == 0 or closes[-1] != len(cumulative) - 1:
        # Values of next to no weight after the last share is reached join the last bin.
        closes = np.append(closes[: max_bins - 1], len(cumulative) - 1)
    return closes


@inlined
def edges_below(x, edges, step):  # type: ignore[no-untyped-def]
    """How many of the sorted ``edges``, of which there are 2 ``step`` − 1, are below a value, by halving."""
    code = np.uint64(0)
    while step > 0:  # what is added is computed, not branched on: no value tells the next
        code += step * np.uint64(edges[code + step - np.uint64(1)] < x)
        step >>= np.uint64(1)
    return code


def _bin(X, edges, n_bins, is_categorical, out_codes):  # type: ignore[no-untyped-def]
    """Code of each value: the number of edges below it; for categories the code itself. Shapes (n_features, n_rows).

    edges : float64 (n_features, 255), filled up with +inf
    """
    n_features, n_rows = X.shape
    block = 4096
    n_blocks = (n_rows + block - 1) // block
    for job in prange(n_features * n_blocks):
        f = job // n_blocks
        begin = (job % n_blocks) * block
        missing, own = n_bins[f], edges[f]
        for i in range(begin, smaller(begin + block, n_rows)):
            x = X[f, i]
            code = np.uint64(0)
            if is_categorical[f]:
                code = np.uint64(x) if 0 <= x < missing else np.uint64(missing)
            else:
                code = np.uint64(missing) if np.isnan(x) else edges_below(x, own, np.uint64(128))
            out_codes[f, i] = code


_bin_serial, _bin_parallel = serial_and_parallel(_bin, lean_jit)
