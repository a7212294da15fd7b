"""A straight line to start from: a ridge regression on the numeric features, written as trees.

Trees follow a slope by many small steps, each of which costs rows. Where the score rises with a feature all the way,
the slope is known from all rows at once, and trees are left with what is not straight. On bins a line is a staircase,
which one tree over that feature alone says exactly, a leaf per bin. So the line is the first round of the shared block,
with one tree per feature, and prediction, export and explanation need not know of it.

    score_i = base + Σ_f slope_f × (z_f[bin of row i in f] − mean of z_f),    z_f[b] the middle of bin b

The slopes are those of one Newton step from the base score with a ridge penalty; how strong that is, generalised
cross-validation says (Golub, Heath and Wahba 1979).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from .binning import BinLayout
from .forest import SHARED, Nodes, Trees
from .rows import TrainingRows

# Lines are not fitted to more numeric features than these: the time is that of their products in pairs.
MAX_FEATURES = 256
# Products of pairs of features, over all rows, up to which all rows are looked at, and the least rows that are.
MAX_PRODUCTS, MIN_ROWS = 4e8, 10_000
# Rows that are unpacked together.
ROW_BLOCK = 65_536
# A feature of fewer bins has nothing that a split does not say.
MIN_BINS = 3
# Slopes are kept to so many bits after the largest: sums of the same rows in another order give the same.
SLOPE_BITS = 20
# Penalties tried, in rows: a slope per standard deviation weighs as much as this many rows that speak against any.
PENALTIES = np.logspace(-1, 6, 15)


class Lines(NamedTuple):
    """Lines through the base score.

    features : int64 (n_used,)
    values : list of float64 (n_bins, K), what each bin of a feature, the missing one not included, adds to the scores
    center_bin : int64 (n_used,), the bin that missing values count as, nearest to adding nothing
    weight : list of float64 (n_bins,), weights of the rows in each bin, missing values where they count
    curvature : float64 (K,), what squares of the scores are worth as gain
    """

    features: np.ndarray
    values: list[np.ndarray]
    center_bin: np.ndarray
    weight: list[np.ndarray]
    curvature: np.ndarray


def features_of_lines(layout: BinLayout, n_features: int) -> np.ndarray:
    """The features int64 (n_used,) that a line is fitted to; none where there are too many."""
    n_bins = np.diff(layout.offset)[:n_features] - 1
    found = np.flatnonzero((layout.is_categorical[:n_features] == 0) & (n_bins >= MIN_BINS))
    return found if len(found) <= MAX_FEATURES else found[:0]


def fit_lines(
    rows: TrainingRows,
    layout: BinLayout,
    response: Callable[[np.ndarray], np.ndarray],
    curvature: np.ndarray,
    seed: int,
) -> Lines | None:
    """Fit the slopes; None where there is no feature to fit them to.

    Parameters
    ----------
    rows : TrainingRows
    layout : BinLayout
    response : callable
        What the lines are to follow, float64 (K, n), in some rows (n,) of ``rows``: the Newton step of every row alone.
    curvature : float64 (K,)
        What squares of the score are worth as gain: the mean second derivative of the loss.
    seed : int
        Draws the rows that are looked at, if not all.
    """
    features = features_of_lines(layout, rows.n_features)
    if len(features) == 0:
        return None
    tables, counts, center_bin = [], [], np.empty(len(features), dtype=np.int64)
    for j, f in enumerate(features):
        n_bins = int(layout.offset[f + 1] - layout.offset[f] - 1)
        count = rows.peers.sum(np.bincount(rows.codes(f), weights=rows.weight, minlength=n_bins + 1))
        middle = _middles(layout, f, n_bins)
        middle = middle / max(np.abs(middle).max(), 1e-300)  # whatever the unit, squares are finite
        seen = max(count[:-1].sum(), 1e-300)
        middle = middle - count[:-1] @ middle / seen
        scale = np.sqrt(count[:-1] @ middle**2 / seen)
        middle = middle / scale if scale > 0.0 else np.zeros(n_bins)
        center_bin[j] = np.argmin(np.abs(middle))
        count[center_bin[j]] += count[-1]
        counts.append(count[:-1])
        tables.append(np.append(middle, middle[center_bin[j]]))
    slopes = _slopes(rows, features, tables, layout.monotonic[features], response, len(curvature), seed)
    values = [table[:-1, None] * slope for table, slope in zip(tables, slopes, strict=True)]
    # A feature without a slope needs no tree, but a round needs one.
    used = np.flatnonzero(slopes.any(axis=1)).tolist() or [0]
    return Lines(features[used], [values[j] for j in used], center_bin[used], [counts[j] for j in used], curvature)


def add_lines(lines: Lines, rows: TrainingRows, score: np.ndarray) -> None:
    """Add the lines to the scores (n_rows, K) of training rows."""
    for f, values, center in zip(lines.features, lines.values, lines.center_bin, strict=True):
        score += np.append(values, values[center, None], axis=0)[rows.codes(f)]


def trees_of_lines(lines: Lines, layout: BinLayout, outputs: slice, output: int) -> list[tuple[Nodes, Trees]]:
    """Trees of the first shared round that add some of the scores, which begin at ``output``, of the lines."""
    nothing = np.zeros(1, dtype=np.int32)
    tree = Trees(nothing, nothing + SHARED, nothing, nothing, nothing + np.int32(output))
    return [(_staircase(lines, layout, j, outputs), tree) for j in range(len(lines.features))]


# --- slopes ---------------------------------------------------------------------------------------------------------


def _middles(layout: BinLayout, feature: int, n_bins: int) -> np.ndarray:
    """A value for each bin; for the outermost ones their inner end, lest a few far values have all the weight."""
    first = layout.offset[feature]
    low, high = layout.low[first : first + n_bins], layout.high[first : first + n_bins]
    middle = 0.5 * low + 0.5 * high
    middle[0], middle[-1] = high[0], low[-1]
    return middle


def _slopes(
    rows: TrainingRows,
    features: np.ndarray,
    tables: list[np.ndarray],
    monotonic: np.ndarray,
    response: Callable[[np.ndarray], np.ndarray],
    n_outputs: int,
    seed: int,
) -> np.ndarray:
    """Slopes (n_used, K) per standard deviation."""
    n_used = len(features)
    chosen, enough = np.arange(rows.n_rows), max(MAX_PRODUCTS / n_used**2, MIN_ROWS)
    if rows.totals(rows.n_rows)[0] > enough:
        share = enough / rows.totals(rows.n_different())[0]
        chosen = chosen if share >= 1.0 else np.flatnonzero(rows.content_share(share, seed))
    # Sums of w, w z, w z z', and the same with the response in place of one z.
    n_columns = 1 + n_used + n_outputs
    sums = np.zeros((n_columns, n_columns))
    columns = np.empty((n_columns, min(ROW_BLOCK, len(chosen))))
    for begin in range(0, len(chosen), ROW_BLOCK):
        part = chosen[begin : begin + ROW_BLOCK]
        block = columns[:, : len(part)]
        block[0] = 1.0
        for j, f in enumerate(features):
            block[1 + j] = tables[j][rows.codes(f, part)]
        block[1 + n_used :] = response(part)
        sums += (block * rows.weight[part]) @ block.T
    sums = rows.peers.sum(sums)
    total = max(sums[0, 0], 1e-300)
    mean = sums[0] / total
    product = sums - total * np.outer(mean, mean)
    slopes = np.zeros((n_used, n_outputs))
    for k in range(n_outputs):
        own = 1 + n_used + k
        # A slope against a constraint is 0, and the others are fitted anew without its feature.
        used = np.arange(n_used)
        while len(used):
            found = _ridge(product[np.ix_(1 + used, 1 + used)], product[1 + used, own], product[own, own], total)
            is_allowed = found * monotonic[used] >= 0
            if is_allowed.all():
                slopes[used, k] = found
                break
            used = used[is_allowed]
    return rows.peers.sum(_rounded(slopes) if rows.peers.rank == 0 else np.zeros_like(slopes))


def _ridge(squares: np.ndarray, slopes: np.ndarray, square: float, total: float) -> np.ndarray:
    """Coefficients (p,) of a ridge regression with the penalty of least generalised cross-validation error.

    squares : (p, p), sums of products of the centred columns; slopes : (p,), the same with what they are to explain
    square : sum of squares of that; total : number of rows
    """
    values, vectors = np.linalg.eigh(squares)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ slopes
    step = turned / (values + PENALTIES[:, None])  # (n_penalties, p)
    rest = np.maximum(square - 2.0 * step @ turned + step**2 @ values, 0.0)
    n_free = total - 1.0 - (values / (values + PENALTIES[:, None])).sum(axis=1)
    # A penalty that lets the line go through every row says nothing of other rows; the largest one always counts.
    score = np.where(n_free >= 1.0, rest / np.maximum(n_free, 1.0) ** 2, np.inf)
    best = int(np.argmin(score)) if np.isfinite(score).any() else len(PENALTIES) - 1
    return vectors @ step[best]


def _rounded(slopes: np.ndarray) -> np.ndarray:
    """To `SLOPE_BITS` after the largest of each output; none where that is no number."""
    largest = np.abs(slopes).max(axis=0)
    is_number = (largest > 0.0) & (largest < np.inf)
    unit = 2.0 ** (np.floor(np.log2(np.where(is_number, largest, 1.0))) - SLOPE_BITS)
    return np.where(is_number, np.round(slopes / unit) * unit, 0.0)


# --- trees ----------------------------------------------------------------------------------------------------------


@cache
def _shape(n_leaves: int) -> np.ndarray:
    """A balanced tree over bins in a row: first and last bin, last bin of the left half (−1 in a leaf), and children.

    int32 (5, 2 * n_leaves − 1), a node before its children
    """
    first, last, cut, left, right = out = np.full((5, 2 * n_leaves - 1), -1, dtype=np.int32)
    first[0], last[0], n_nodes = 0, n_leaves - 1, 1
    for node in range(2 * n_leaves - 1):
        if first[node] < last[node]:
            cut[node], left[node], right[node] = (first[node] + last[node]) // 2, n_nodes, n_nodes + 1
            first[n_nodes], last[n_nodes] = first[node], cut[node]
            first[n_nodes + 1], last[n_nodes + 1] = cut[node] + 1, last[node]
            n_nodes += 2
    return out


def _staircase(lines: Lines, layout: BinLayout, j: int, outputs: slice) -> Nodes:
    """The tree of one feature. A split gains what the loss falls by, were the rows to follow the line exactly."""
    f, values, count = int(lines.features[j]), lines.values[j][:, outputs], lines.weight[j]
    first, last, cut, left, right = _shape(len(values))
    is_inner = cut >= 0
    center = lines.center_bin[j]
    summed = np.concatenate([[0.0], np.cumsum(count)])
    weight = summed[last + 1] - summed[first]
    summed_values = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(count[:, None] * values, axis=0)])
    mean = (summed_values[last + 1] - summed_values[first]) / np.maximum(weight, 1e-300)[:, None]
    both = np.where(is_inner, weight[left] * weight[right], 0.0) / np.maximum(weight, 1e-300)
    gain = both * ((mean[left] - mean[right]) ** 2 @ lines.curvature[outputs])
    edge = layout.edge[layout.offset[f] :]
    n_nodes, nothing = len(first), np.full(len(first), -1, dtype=np.int32)
    return Nodes(
        feature=np.where(is_inner, f, -1).astype(np.int32),
        threshold=np.where(is_inner, edge[cut], np.inf),
        missing_left=is_inner & (first <= center) & (center <= cut),
        left=left.copy(),
        right=right.copy(),
        category_start=nothing,
        n_levels=np.zeros(n_nodes, dtype=np.int32),
        category_words=np.empty(0, dtype=np.uint32),
        value=np.where(is_inner[:, None], 0.0, values[first]),
        gain=np.where(is_inner, gain, 0.0),
        weight=weight,
    )
