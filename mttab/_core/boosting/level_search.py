"""Best cut of all open nodes of a level together, from their histograms.

The gain of a cut is the sum of its gains in the nodes, each the score of two children less the node's own, see
`splitting`; a node that the cut would split into children below the minimum sizes adds nothing. Of cuts whose gains
differ by no more than rounding noise the first one is taken.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .histogram import fill_floats
from .in_place import flat, larger, smaller
from .jit import inlined, lean, lean_jit, serial_and_parallel
from .level import new_room
from .level_categories import call_best_subsets
from .node_search import first_feature
from .packed_histogram import fill_packed, new_cells, subtract_exactly
from .splitting import TIE, count_outputs, pair_score

# Of a weight, what rounding may leave of it.
NOTHING = 1e-12


def _search_level(  # type: ignore[no-untyped-def]
    words, task, layout, rows, options, packing, scratch, starts, stops, level, n_threads
):
    """Histograms of the level's nodes, and the best cut of all of them by each feature, shared out over threads.

    words, task, layout, rows, options, packing, scratch : as in `tree.grow_tree`; starts, stops : of the nodes' rows
    level : Level, with what has been found afterwards
    """
    n_features = len(layout.offset) - 1
    for job in prange(n_threads):
        thread = np.int64(job)  # a parallel loop counts in uint64
        first = first_feature(thread, n_threads, n_features)
        last = first_feature(thread + 1, n_threads, n_features)
        own = scratch.sums[thread], *new_cells()
        fill_histograms(words, task, layout, rows, packing, scratch, own, starts, stops, level, first, last)
        room = new_room(layout, options, level)
        _search_features(layout, options, level, room, first, last)


search_level, search_level_parallel = serial_and_parallel(_search_level)


@lean
def fill_histograms(words, task, layout, rows, packing, scratch, own, starts, stops, level, first, last):  # type: ignore[no-untyped-def]
    """Histograms of the level's nodes over the features ``first:last``.

    own : scratch of the thread, its ``scratch.sums`` and `packed_histogram.new_cells`
    """
    pool, slot, smalls, larges = level.pool, level.slot, level.small, level.large
    for p in range(level.counts[1]):
        start, stop, histogram = starts[smalls[p]], stops[smalls[p]], pool[slot[smalls[p]]]
        if packing is not None:
            fill_packed(
                words, task, layout, rows, start, stop, scratch.gathered[start:stop], packing, first, last, *own,
                histogram,
            )  # fmt: skip
        else:
            fill_floats(words, task, layout, rows, start, stop, scratch.statistics[start:stop], first, last, histogram)
        sum_up(histogram, layout, first, last)
        if larges[p] >= 0:
            rest = pool[slot[larges[p]]]
            subtract_child(rest, histogram, layout, first, last, np.bool_(packing is not None))


@lean_jit
def subtract_child(rest, histogram, layout, first, last, is_exact):  # type: ignore[no-untyped-def]
    """The sibling's sums in place of the parent's, over some features; is_exact : bool, sums of whole numbers."""
    if not is_exact:
        _level_empty_bins(rest, histogram, layout, first, last)
    a, b = layout.offset[first], layout.offset[last]
    subtract_exactly(rest[a:b], histogram[a:b])


@lean
def _level_empty_bins(rest, histogram, layout, first, last):  # type: ignore[no-untyped-def]
    """Where a child has all rows of a bin, the parent's sums become the child's, so that their difference is 0.

    What rounding leaves there must not look like rows. In sums up to a bin it is noise as in any sum: these stay, which
    is felt where one row has more than 10¹⁰ times the weight of the others.
    """
    for f in range(first, last):
        begin, end = layout.offset[f], layout.offset[f + 1]
        for b in range(begin if layout.is_categorical[f] else end - 1, end):
            if rest[b, 0] - histogram[b, 0] <= NOTHING * rest[b, 0]:
                for c in range(rest.shape[1]):
                    rest[b, c] = histogram[b, c]


@lean_jit
def sum_up(histogram, layout, first, last):  # type: ignore[no-untyped-def]
    """Bins of the features with an order become sums up to each bin; missing values stay apart.

    Once per filled node: what a sibling has up to a bin is what the parent has less that, like any sum, and no search
    has to wait for one sum after the other.
    """
    for f in range(first, last):
        if not layout.is_categorical[f]:
            part, w, g, h = histogram[layout.offset[f] : layout.offset[f + 1] - 1], 0.0, 0.0, 0.0
            if part.shape[1] == 2:  # one output is spelled out: a sum in memory waits for the one before to be written
                for b in range(len(part)):
                    w += part[b, 0]
                    g += part[b, 1]
                    part[b, 0], part[b, 1] = w, g
            elif part.shape[1] == 3:
                for b in range(len(part)):
                    w += part[b, 0]
                    g += part[b, 1]
                    h += part[b, 2]
                    part[b, 0], part[b, 1], part[b, 2] = w, g, h
            else:
                for b in range(1, len(part)):
                    for c in range(part.shape[1]):
                        part[b, c] += part[b - 1, c]


@lean
def _search_features(layout, options, level, room, first, last):  # type: ignore[no-untyped-def]
    has_categories = False
    for f in range(first, last):
        level.left_bin[f] = 0
        if not layout.is_categorical[f] and level.is_tried[f]:
            level.gain[f], level.left_bin[f], level.missing_left[f] = best_threshold(f, layout, options, level, room)
        has_categories |= layout.is_categorical[f] != 0
    if has_categories:
        call_best_subsets(first, last, layout, options, level, room)


@lean_jit
def best_feature(layout, level, tree):  # type: ignore[no-untyped-def]
    """The feature that gains most, of equal ones the first, −1 if none pays; its levels are written to the nodes."""
    found = _largest_gain(level)
    if found < 0:
        return found
    level.next_bin[found] = 0
    if layout.is_categorical[found]:
        for j in range(level.counts[0]):
            for k in range(level.sets.shape[1]):
                tree.category_set[level.nodes[j], k] = level.sets[found, k]
    else:
        level.next_bin[found], is_left_heavier, has_missing = _look_around(found, layout, level)
        if not has_missing:
            level.missing_left[found] = is_left_heavier
    return found


@lean
def _largest_gain(level):  # type: ignore[no-untyped-def]
    best, found = 0.0, np.int64(-1)
    for f in range(len(level.gain)):
        if level.is_tried[f] and level.gain[f] > best + level.noise[0] + TIE * best:
            best, found = level.gain[f], np.int64(f)
    return found


@lean
def _look_around(f, layout, level):  # type: ignore[no-untyped-def]
    """Next bin after a feature's cut that has rows of open nodes, whether more of them are left, and some missing."""
    a, n_bins, cut = layout.offset[f], layout.offset[f + 1] - layout.offset[f] - 1, level.left_bin[f]
    following, w_left, w_all, has_missing = n_bins, 0.0, 0.0, False
    for j in range(level.counts[0]):
        weights = level.pool[level.slot[level.nodes[j]]][a:, 0]
        up_to_cut, up_to_end = weights[cut], weights[n_bins - 1]
        has_missing |= weights[n_bins] > 0.0
        w_left += up_to_cut
        w_all += up_to_end
        b = cut + 1
        while b < following and weights[b] <= up_to_cut + NOTHING * up_to_end:
            b += 1
        following = smaller(following, b)
    return following, w_left >= (w_all - w_left) * (1.0 - TIE), has_missing


@inlined
def best_threshold(f, layout, options, level, room):  # type: ignore[no-untyped-def]
    """Best threshold for all open nodes together, and the side of their missing values, where there are any.

    A cut after a bin without rows is the one before it, so the first one of equal gains has rows. Only the first bins
    have no cut before them: if they are empty, missing values alone would be left of it.

    Returns (sum of gains, bin, missing goes left); 0 and −1 where nothing pays.
    """
    a, b, n_open = layout.offset[f], layout.offset[f + 1], level.counts[0]
    n_bins, monotonic = b - a - 1, layout.monotonic[f]
    n_outputs = count_outputs(level.pool.shape[2], options)
    has_missing, is_bounded = False, monotonic != 0
    for j in range(n_open):
        node = level.nodes[j]
        has_missing |= level.pool[level.slot[node], b - 1, 0] > 0.0
        is_bounded |= level.low[node] > -np.inf or level.high[node] < np.inf
    found, left_bin, is_left, gain = 0.0, -1, False, room.lines[1]
    for side in range(2 if has_missing else 1):  # missing values go right of every cut, then left of it
        with_missing, gains = side == 1, room.lines[0]
        # The last value bin is a candidate only where missing values go right: then they alone are the right child.
        n_cuts = n_bins if has_missing and not with_missing else n_bins - 1
        for cut in range(n_cuts):
            gains[cut] = 0.0
        for j in range(n_open):
            node = level.nodes[j]
            part = level.pool[level.slot[node]][a:b]
            if n_outputs > 1 or is_bounded:
                _add_gains_of_many(
                    part, n_cuts, with_missing, options, n_outputs, monotonic, level, node, room.sums, gains
                )
                continue
            _score_cuts(part, n_cuts, with_missing, level.sums[node], options, level.own[node], gain)
            for cut in range(n_cuts):
                gains[cut] += gain[cut]
        cut = 0
        while with_missing and cut < n_cuts and _is_empty_up_to(a + cut, b - 2, level):
            gains[cut] = -np.inf
            cut += 1
        largest = _largest_of(gains, n_cuts)
        if largest > found + level.noise[0] + TIE * found:
            cut = 0
            while gains[cut] < largest - level.noise[0] - TIE * largest:
                cut += 1
            found, left_bin, is_left = largest, cut, with_missing
    return found, left_bin, is_left


@lean
def _is_empty_up_to(place, last, level):  # type: ignore[no-untyped-def]
    """Whether no open node has rows in the bins of a feature up to a place; ``last`` is that of its last value."""
    for j in range(level.counts[0]):
        histogram = level.pool[level.slot[level.nodes[j]]]
        if histogram[place, 0] > NOTHING * histogram[last, 0]:
            return False
    return True


@inlined
def _largest_of(values, n):  # type: ignore[no-untyped-def]
    """Largest of the first n values, in four lines: one alone would wait for every comparison."""
    a = b = c = d = -np.inf
    for k in range(n // 4):
        w, x, y, z = values[4 * k], values[4 * k + 1], values[4 * k + 2], values[4 * k + 3]
        a = w if w > a else a
        b = x if x > b else b
        c = y if y > c else c
        d = z if z > d else d
    for k in range(n // 4 * 4, n):
        a = values[k] if values[k] > a else a
    return larger(larger(a, b), larger(c, d))


@inlined
def _score_cuts(part, n_cuts, with_missing, sums, options, own, out_gain):  # type: ignore[no-untyped-def]
    """A node's gain of every cut, for one output; the processor takes several cuts at a time.

    part : float64 (n_bins + 1, 2 or 3), sums up to each bin, and those of missing values; sums : float64, of the node
    with_missing : bool, missing values are left of the cut
    """
    cells, n_bins = flat(part), len(part) - 1
    if options.constant_hessian:
        w_more = part[n_bins, 0] if with_missing else 0.0
        g_more = part[n_bins, 1] if with_missing else 0.0
        for b in range(n_cuts):
            place = np.uint64(2) * np.uint64(b)  # with a sign numba would test for places that count from the end
            w, g = cells[place] + w_more, cells[place + np.uint64(1)] + g_more
            out_gain[b] = _gain(w, g, w, sums[0], sums[1], sums[0], options, own)
    else:
        w_more = part[n_bins, 0] if with_missing else 0.0
        g_more = part[n_bins, 1] if with_missing else 0.0
        h_more = part[n_bins, 2] if with_missing else 0.0
        for b in range(n_cuts):
            place = np.uint64(3) * np.uint64(b)
            w, g, h = cells[place] + w_more, cells[place + np.uint64(1)] + g_more, cells[place + np.uint64(2)] + h_more
            out_gain[b] = _gain(w, g, h, sums[0], sums[1], sums[2], options, own)


@inlined
def _gain(w, g, h, w_all, g_all, h_all, options, own):  # type: ignore[no-untyped-def]
    """Gain of a cut with these sums left of it; 0 where a child is too small."""
    w_right, g_right, h_right = w_all - w, g_all - g, h_all - h
    score = g * g / (h + options.l2) + g_right * g_right / (h_right + options.l2) - own
    least, min_hessian = options.min_samples_leaf * (1.0 - 1e-9), options.min_hessian
    is_allowed = (w >= least) & (w_right >= least) & (h >= min_hessian) & (h_right >= min_hessian)
    is_allowed &= (w > 0.0) & (w_right > 0.0)
    return score if is_allowed else 0.0


@lean
def _add_gains_of_many(part, n_cuts, with_missing, options, n_outputs, monotonic, level, node, pair, out_gains):  # type: ignore[no-untyped-def]
    """The same for several outputs, or values with bounds; ``pair`` float64 (>= 2, n_channels) is scratch."""
    n_bins, n_channels = part.shape[0] - 1, part.shape[1]
    left, right = pair[0], pair[1]
    for b in range(n_cuts):
        for c in range(n_channels):
            left[c] = part[b, c] + (part[n_bins, c] if with_missing else 0.0)
            right[c] = level.sums[node, c] - left[c]
        score = pair_score(left, right, n_outputs, options, options.l2, monotonic, level.low[node], level.high[node])
        if score > -np.inf:
            out_gains[b] += score - level.own[node]
