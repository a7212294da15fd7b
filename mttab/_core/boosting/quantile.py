"""Quantile of weighted values, for losses whose best constant is one."""

from __future__ import annotations

import numpy as np

from .jit import jit


@jit
def weighted_quantile(values, weight, quantile):  # type: ignore[no-untyped-def]
    """Quantile of weighted values; weight 2 counts as the value twice.

    The smallest value whose cumulative weight reaches the share; where it is met exactly, the mean with the next one.
    """
    order = np.argsort(values, kind="mergesort")
    total = 0.0
    for j in range(len(order)):
        total += weight[order[j]]
    target = quantile * total
    reached = 0.0
    for j in range(len(order)):
        reached += weight[order[j]]
        if reached > target * (1.0 + 1e-12):
            return values[order[j]]
        if reached >= target * (1.0 - 1e-12) and j + 1 < len(order):
            return 0.5 * (values[order[j]] + values[order[j + 1]])
    return values[order[len(order) - 1]] if len(order) > 0 else 0.0
