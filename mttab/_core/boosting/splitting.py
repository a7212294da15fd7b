"""What a split is: what it has to respect, what it scores, and when one is better than another.

A node with gradient sums G_k and hessian sums H_k scores Σ_k G_k² / (H_k + λ); the gain of a split is the score of its
two children less its own. Features are tried in order and a later candidate must beat the best one by more than
rounding noise (`TIE`), so equal partitions are always resolved the same way, in whatever order rows were summed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .in_place import empty, larger, smaller
from .jit import inner, lean, lean_jit

TIE = 1e-10
# Smallest hessian sum of a leaf, as in LightGBM: keeps −G / H finite where a probability has saturated.
MIN_HESSIAN = 1e-3


class SplitOptions(NamedTuple):
    """What a split has to respect.

    min_samples_leaf : float, smallest sum of sample weights in a child
    min_hessian : float, smallest sum of hessians in a child, in sample weights' unit × mean hessian
    l2 : float, λ, added to a leaf's hessian sum
    categorical_prior : float, rows of prior in the order of category levels and in the score of their subsets
    categorical_min_rows : float, smallest sum of sample weights of a level that is sorted at all; not for task ids
    constant_hessian : bool, the hessian is the sample weight and has no channel of its own
    """

    min_samples_leaf: float
    min_hessian: float
    l2: float
    categorical_prior: float
    categorical_min_rows: float
    constant_hessian: bool


class SplitRoom(NamedTuple):
    """Scratch memory for the search of a split.

    places : int64 (3, >= n_levels), keys : float64 (2, >= n_levels), of the levels of a category
    pair : float64 (2, n_channels), sums of two children
    cuts : float64 (4, >= n_bins), see `numeric_splits`
    """

    places: np.ndarray
    keys: np.ndarray
    pair: np.ndarray
    cuts: np.ndarray


@inner
def new_split_room(n_levels, n_bins, n_channels):  # type: ignore[no-untyped-def]
    """Room for features of so many levels, and numeric ones of so many bins."""
    return SplitRoom(
        empty((3, n_levels), np.int64),
        empty((2, n_levels), np.float64),
        empty((2, n_channels), np.float64),
        empty((4, n_bins), np.float64),
    )


@lean_jit
def bounded_value(gradient, hessian, l2, low, high):  # type: ignore[no-untyped-def]
    """Newton step −G / (H + λ), held between the bounds that monotonic constraints set."""
    denominator = hessian + l2
    value = -gradient / denominator if denominator > 1e-290 else 0.0
    return smaller(larger(value, low), high)


@lean_jit
def sums_score(sums, n_outputs, options, l2, low, high):  # type: ignore[no-untyped-def]
    """Score Σ_k G_k² / (H_k + λ) of channel sums; with bounds, of the value that they allow."""
    total = 0.0
    for k in range(n_outputs):
        g = sums[1 + k]
        h = sums[0] if options.constant_hessian else sums[1 + n_outputs + k]
        value = bounded_value(g, h, l2, low, high)
        total -= 2.0 * g * value + (h + l2) * value * value
    return total


@lean_jit
def _is_allowed(sums, n_outputs, options):  # type: ignore[no-untyped-def]
    # 1e-9: sums of weights like 0.1 must not fail a whole-number minimum by rounding.
    if sums[0] <= 0.0 or sums[0] < options.min_samples_leaf * (1.0 - 1e-9):
        return False
    total = 0.0
    for k in range(n_outputs):
        total += sums[0] if options.constant_hessian else sums[1 + n_outputs + k]
    return total >= options.min_hessian


@lean
def count_outputs(n_channels, options):  # type: ignore[no-untyped-def]
    return n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2


@lean_jit
def pair_score(left, right, n_outputs, options, l2, monotonic, low, high):  # type: ignore[no-untyped-def]
    """Score of two children, −inf if one is too small or their order breaks the feature's monotonic constraint."""
    if not (_is_allowed(left, n_outputs, options) and _is_allowed(right, n_outputs, options)):
        return -np.inf
    if monotonic != 0:
        h_left = left[0] if options.constant_hessian else left[1 + n_outputs]
        h_right = right[0] if options.constant_hessian else right[1 + n_outputs]
        left_value = bounded_value(left[1], h_left, l2, low, high)
        right_value = bounded_value(right[1], h_right, l2, low, high)
        if (right_value - left_value) * monotonic < 0:
            return -np.inf
    return sums_score(left, n_outputs, options, l2, low, high) + sums_score(right, n_outputs, options, l2, low, high)
