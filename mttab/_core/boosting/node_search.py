"""Histograms and best splits of a node and its sibling, the features shared out over threads.

One parallel region per split does what needs no word between features: each thread fills the histogram of the smaller
child for its features, subtracts it from the parent's, and searches both. What is left is to compare features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .feature_splits import find_feature_split
from .histogram import fill_floats, subtract_histogram
from .in_place import empty, larger, smaller
from .jit import inner, lean, serial_and_parallel
from .packed_histogram import fill_packed, new_cells, subtract_exactly
from .splitting import TIE, count_outputs, new_split_room, sums_score


class Candidates(NamedTuple):
    """Best split of every feature for two nodes, the smaller child and the larger one.

    is_tried : bool (2, n_features), where there is anything to look for
    score, left_bin, next_bin, missing_left : (2, n_features), as `feature_splits.find_feature_split` returns them
    sums : float64 (2, n_channels); low, high : float64 (2,), of the two nodes
    """

    is_tried: np.ndarray
    score: np.ndarray
    left_bin: np.ndarray
    next_bin: np.ndarray
    missing_left: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray


def new_candidates(n_features, n_channels):  # type: ignore[no-untyped-def]
    """Room for the candidates of two nodes."""
    shape = (2, n_features)
    return Candidates(
        empty(shape, np.bool_),
        empty(shape, np.float64),
        empty(shape, np.int64),
        empty(shape, np.int64),
        empty(shape, np.bool_),
        empty((2, n_channels), np.float64),
        empty(2, np.float64),
        empty(2, np.float64),
    )


allocate_candidates = inner(new_candidates)  # the same for kernels


@inner
def first_feature(thread, n_threads, n_features):  # type: ignore[no-untyped-def]
    """Where a thread's features begin: an even number, because two are the least that is read at once."""
    return smaller((n_features * thread // n_threads + 1) // 2 * 2, n_features)


@inner
def _fill(words, task, layout, rows, start, stop, packing, scratch, thread, first, last, out_histogram):  # type: ignore[no-untyped-def]
    """Histogram of a node, packed or as floats, whose derivatives have been gathered."""
    if packing is not None:  # known where this is compiled, so that only one of the two is
        fill_packed(
            words, task, layout, rows, start, stop, scratch.gathered, packing, first, last, scratch.sums[thread],
            *new_cells(), out_histogram,
        )  # fmt: skip
    else:
        fill_floats(words, task, layout, rows, start, stop, scratch.statistics, first, last, out_histogram)


def _fill_histogram(words, task, layout, rows, start, stop, packing, scratch, n_threads, out_histogram):  # type: ignore[no-untyped-def]
    """Histogram of one node over all features."""
    n_features = len(layout.offset) - 1
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first = first_feature(thread, n_threads, n_features)
        last = first_feature(thread + 1, n_threads, n_features)
        _fill(words, task, layout, rows, start, stop, packing, scratch, thread, first, last, out_histogram)


fill_histogram, fill_histogram_parallel = serial_and_parallel(_fill_histogram)


@inner
def most_bins(offset):  # type: ignore[no-untyped-def]
    """Bins of the feature that has most (by numpy it would be a parallel loop of its own in a parallel kernel)."""
    most = 1
    for f in range(len(offset) - 1):
        most = larger(most, offset[f + 1] - offset[f])
    return most


def _search_nodes(  # type: ignore[no-untyped-def]
    words, task, layout, rows, start, stop, packing, scratch, n_threads, options, histogram, rest, candidates
):
    """Fill ``histogram`` with the rows of a node and write its best split by each feature, and that of its sibling.

    words, task, layout, rows, packing, scratch, options : as in `tree.grow_tree`; start, stop : the node's rows
    histogram : float64 (n_bins_total, n_channels), filled here
    rest : the parent's histogram, which becomes the sibling's; empty where there is none
    candidates : Candidates, in: what to look for, of the node (0) and of its sibling (1); out: what was found
    """
    n_features, most = len(layout.offset) - 1, most_bins(layout.offset)
    for job in prange(n_threads):
        thread = np.int64(job)
        first = first_feature(thread, n_threads, n_features)
        last = first_feature(thread + 1, n_threads, n_features)
        # What is made is made here: the rest is passed on to a function that need not count who refers to it.
        own, room = (scratch.sums[thread], *new_cells()), new_split_room(most, most, histogram.shape[1])
        out_set = empty((most + 31) // 32, np.uint32)
        node = words, task, layout, rows, start, stop, packing, scratch, own
        _search_features(*node, options, histogram, rest, candidates, room, out_set, first, last)


@lean
def _search_features(  # type: ignore[no-untyped-def]
    words, task, layout, rows, start, stop, packing, scratch, own, options, histogram, rest, candidates, room, out_set,
    first, last,
):  # fmt: skip
    """The same for the features ``first:last``; own, room, out_set : scratch of the thread."""
    if packing is not None:
        node = words, task, layout, rows, start, stop, scratch.gathered, packing
        fill_packed(*node, first, last, *own, histogram)
    else:
        fill_floats(words, task, layout, rows, start, stop, scratch.statistics, first, last, histogram)
    sums, low, high = candidates.sums, candidates.low, candidates.high
    n_outputs = count_outputs(histogram.shape[1], options)
    for f in range(first, last):
        a, b = layout.offset[f], layout.offset[f + 1]
        if len(rest) > 0:
            if packing is not None:
                subtract_exactly(rest[a:b], histogram[a:b])
            else:
                subtract_histogram(rest[a:b], histogram[a:b], rest[a:b])
        for k in range(2):
            if candidates.is_tried[k, f]:
                part = histogram[a:b] if k == 0 else rest[a:b]
                score = sums_score(sums[k], n_outputs, options, options.l2, low[k], high[k])
                of_node = layout, sums[k], options, low[k], high[k], score, room, out_set
                found = find_feature_split(f, part, *of_node)
                candidates.score[k, f], candidates.left_bin[k, f], candidates.next_bin[k, f] = found[:3]
                candidates.missing_left[k, f] = found[3]


search_nodes, search_nodes_parallel = serial_and_parallel(_search_nodes)


@lean
def best_candidate(candidates, k, histogram, layout, options, out_set):  # type: ignore[no-untyped-def]
    """What `feature_splits.find_node_split` returns, of node ``k`` of the candidates, whose histogram this is."""
    sums, low, high = candidates.sums[k], candidates.low[k], candidates.high[k]
    own = sums_score(sums, count_outputs(histogram.shape[1], options), options, options.l2, low, high)
    best, feature = own, np.int64(-1)
    for f in range(candidates.score.shape[1]):
        if candidates.is_tried[k, f] and candidates.score[k, f] > best + TIE * abs(best):
            best, feature = candidates.score[k, f], np.int64(f)
    if feature < 0:
        return 0.0, feature, np.int64(0), np.int64(0), False
    if layout.is_categorical[feature]:  # the levels were not kept for every feature
        part = histogram[layout.offset[feature] : layout.offset[feature + 1]]
        _write_levels(feature, part, layout, sums, options, low, high, own, out_set)
    return (
        best - own,
        feature,
        candidates.left_bin[k, feature],
        candidates.next_bin[k, feature],
        candidates.missing_left[k, feature],
    )


@inner
def _write_levels(f, histogram, layout, sums, options, low, high, best, out_set):  # type: ignore[no-untyped-def]
    """Write the set of levels that the best split of a node by a category sends left."""
    room = new_split_room(len(histogram), 0, histogram.shape[1])
    find_feature_split(f, histogram, layout, sums, options, low, high, best, room, out_set)
