"""What the search of a level of a symmetric tree works on: `Level` of all its threads, `Room` of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .in_place import empty, larger
from .jit import inner
from .node_search import most_bins
from .splitting import count_outputs


class Level(NamedTuple):
    """The nodes of a level that may be split, and the best cut of them all by every feature.

    nodes, before : int64, open nodes by number, and those of the level before
    small, large : int64, siblings, the first to be filled; −1: no sibling
    counts : int64 (2,), how many open nodes and how many siblings there are
    own : float64 (max_nodes,), scores of the nodes; noise : float64 (1,), what gains may differ by from rounding alone
    unused : float64 (n_channels,), written where nobody reads
    sums : float64 (max_nodes, n_channels); low, high : float64 (max_nodes,), bounds
    pool : float64 (n_slots, n_bins_total, n_channels), histograms, of features with an order sums up to each bin
    slot : int64 (max_nodes,), which histogram is the node's
    is_tried : bool (n_features,); gain, left_bin, next_bin, missing_left : (n_features,), of the best cut by each
    sets : uint32 (n_features, n_words), levels that the best cut by a category sends left, where it gains anything
    subset_search : int64, address of the kernel for sets of levels in this process, see `level_categories`
    """

    nodes: np.ndarray
    before: np.ndarray
    small: np.ndarray
    large: np.ndarray
    counts: np.ndarray
    own: np.ndarray
    noise: np.ndarray
    unused: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pool: np.ndarray
    slot: np.ndarray
    is_tried: np.ndarray
    gain: np.ndarray
    left_bin: np.ndarray
    next_bin: np.ndarray
    missing_left: np.ndarray
    sets: np.ndarray
    subset_search: int


class Room(NamedTuple):
    """Scratch memory of a thread that searches a level.

    lines : float64 (6, most bins of a feature)
    together : float64 (most levels of a category, n_channels), bins of all open nodes together
    across : float64 (n_columns, most levels); direction : float64 (n_columns,)
    levels : int64 (3, most levels); sums : float64 (3, n_channels)
    """

    lines: np.ndarray
    together: np.ndarray
    across: np.ndarray
    direction: np.ndarray
    levels: np.ndarray
    sums: np.ndarray


def new_level(n_features, n_words, sums, pool, slot, low, high, subset_search):  # type: ignore[no-untyped-def]
    """Room for the levels of a tree; what is passed in is kept, see `Level`."""
    max_nodes = len(sums)
    nodes, small = empty(max_nodes, np.int64), empty(max_nodes, np.int64)
    large, counts = empty(max_nodes, np.int64), empty(2, np.int64)
    return Level(
        nodes,
        empty(max_nodes, np.int64),
        small,
        large,
        counts,
        empty(max_nodes, np.float64),
        empty(1, np.float64),
        empty(sums.shape[1], np.float64),
        sums,
        low,
        high,
        pool,
        slot,
        empty(n_features, np.bool_),
        empty(n_features, np.float64),
        empty(n_features, np.int64),
        empty(n_features, np.int64),
        empty(n_features, np.bool_),
        empty((n_features, n_words), np.uint32),
        subset_search,
    )


allocate_level = inner(new_level)  # the same for kernels


def lay_out_room(n_bins, n_levels, n_channels, n_columns):  # type: ignore[no-untyped-def]
    """`Room` for features of so many bins, categories of so many levels, and so many nodes × outputs."""
    return Room(
        empty((6, n_bins), np.float64),
        empty((n_levels, n_channels), np.float64),
        empty((n_columns, n_levels), np.float64),
        empty(n_columns, np.float64),
        empty((3, n_levels), np.int64),
        empty((3, n_channels), np.float64),
    )


_allocate_room = inner(lay_out_room)


@inner
def new_room(layout, options, level):  # type: ignore[no-untyped-def]
    n_channels, n_levels = level.pool.shape[2], np.int64(0)
    for f in range(len(layout.is_categorical)):
        if layout.is_categorical[f]:
            n_levels = larger(n_levels, layout.offset[f + 1] - layout.offset[f])
    n_columns = level.counts[0] * count_outputs(n_channels, options)
    return _allocate_room(most_bins(layout.offset), n_levels, n_channels, n_columns)
