"""Best split of one node by one feature, or by several, from their histograms."""

from __future__ import annotations

import numpy as np

from .binning import CATEGORY
from .category_splits import scan_categorical
from .jit import jit, lean
from .numeric_splits import scan_numeric
from .splitting import new_split_room, sums_score


@lean
def find_feature_split(f, histogram, layout, sums, options, low, high, best, room, out_set):  # type: ignore[no-untyped-def]
    """Best split of a node by feature ``f``, whose part of the histogram this is, if it beats the score ``best``.

    room : SplitRoom; out_set : uint32 (>= n_words,), levels that go left where the feature is a category

    Returns (score, bin, next used bin, missing goes left); the score is ``best`` where nothing beats it.
    """
    if layout.is_categorical[f]:
        min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
        score, missing_left = scan_categorical(histogram, sums, options, min_rows, low, high, best, room, out_set)
        return score, np.int64(0), np.int64(0), missing_left
    return scan_numeric(histogram, sums, options, layout.monotonic[f], low, high, best, room)


@jit
def find_node_split(histogram, layout, sums, options, low, high, features, out_set):  # type: ignore[no-untyped-def]
    """Best split of a node over the given features.

    histogram : float64 (n_bins_total, n_channels); sums : float64 (n_channels,); features : int64, ascending
    out_set : uint32 (n_words,), levels that go left where the best split is on a category

    Returns (gain, feature, bin, next used bin, missing goes left); gain is 0 and feature −1 where no split pays.
    """
    n_channels = histogram.shape[1]
    n_outputs = n_channels - 1 if options.constant_hessian else (n_channels - 1) // 2
    own = sums_score(sums, n_outputs, options, options.l2, low, high)
    best, feature, left_bin, next_bin, missing_left = own, -1, 0, 0, False
    room = new_split_room(len(histogram), len(histogram), n_channels)
    for f in features:
        part = histogram[layout.offset[f] : layout.offset[f + 1]]
        score, b, following, is_left = find_feature_split(
            f, part, layout, sums, options, low, high, best, room, out_set
        )
        if score > best:
            best, feature, left_bin, next_bin, missing_left = score, f, b, following, is_left
    return best - own, feature, left_bin, next_bin, missing_left
