"""Best sets of levels of categories to send left in all open nodes of a level of a symmetric tree together.

To compile this takes as long as half of all else that a symmetric tree needs, and tables without categories have no use
for it, so the search of a level calls it by its address, see `addresses`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types
from numba.extending import intrinsic

from .addresses import address_of, call_at_address, kinds_of
from .binning import CATEGORY, BinLayout
from .category_splits import level_keys, levels_in_use, mean_hessian, most_of_levels, sort_levels
from .in_place import flat, larger
from .jit import inlined, lean, lean_jit
from .level import lay_out_room, new_level
from .splitting import TIE, SplitOptions, count_outputs, pair_score
from .sums import dot

# Steps from one node's view of the levels to the view that tells most about all nodes.
N_POWER_STEPS = 4
# A category of so many levels is looked at closely only where it may gain more than the best feature before it; of more
# levels the bound says next to nothing.
FEW_LEVELS = 16

_NOTHING = types.none  # what `best_subsets` returns
_known_addresses: dict[tuple[Any, ...], np.int64] = {}  # of it in this process, by the types of its arguments


def _argument_types(layout: types.Type, options: types.Type) -> tuple[types.Type, ...]:
    """What `best_subsets` is called with where the layout and the options are of these types."""
    nodes, values = np.empty(0, dtype=np.int64), np.empty(0)
    level = new_level(0, 0, np.empty((0, 0)), np.empty((0, 0, 0)), nodes, values, values, np.int64(0))
    room = lay_out_room(0, 0, 0, 0)
    return types.int64, types.int64, layout, options, typeof(level), typeof(room)


def find_subset_search(layout: BinLayout, options: SplitOptions) -> np.int64:
    """Address of `best_subsets` in this process for `Level.subset_search`; 0 where the table has no categories."""
    if not layout.is_categorical.any():
        return np.int64(0)
    key = kinds_of(layout), tuple(map(type, options))
    if key not in _known_addresses:
        arguments = _argument_types(typeof(layout), typeof(options))
        _known_addresses[key] = np.int64(address_of(best_subsets, arguments, _NOTHING))
    return _known_addresses[key]


@intrinsic
def call_best_subsets(typing_context, first, last, layout, options, level, room):  # type: ignore[no-untyped-def]
    """`best_subsets` from another kernel, by the address in the level."""
    arguments = _argument_types(layout, options)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        level_type, in_level = signature.args[4], values[4]
        place = level_type.fields.index("subset_search")
        address = builder.extract_value(in_level, place)
        return call_at_address(context, builder, signature, address, values)

    return _NOTHING(*arguments), generate


@lean_jit
def best_subsets(first, last, layout, options, level, room):  # type: ignore[no-untyped-def]
    """Best set of levels of each category among the features ``first:last`` that is tried, see `_best_subset`.

    Sums of gains, sides of missing values and sets of levels go to the level. Where another of the features gains more,
    those of numbers being known, a gain may be left at 0. To be called takes as long as to search a few levels, so this
    is done once for many features.
    """
    bar = 0.0
    for f in range(first, last):
        if not layout.is_categorical[f] and level.is_tried[f]:
            bar = larger(bar, level.gain[f])
    for f in range(first, last):
        if layout.is_categorical[f] and level.is_tried[f]:
            level.gain[f], level.missing_left[f] = _best_subset(f, layout, options, level, room, bar)
            bar = larger(bar, level.gain[f])


@inlined
def _best_subset(f, layout, options, level, room, bar):  # type: ignore[no-untyped-def]
    """Best set of levels to send left for all open nodes together, among those of `category_splits.scan_categorical`.

    bar : float, gain below which nobody asks for the set

    Whether a level has enough rows to be sorted is a question of all open nodes together, too.

    Returns (sum of gains, missing goes left) and writes ``level.sets`` where anything pays.
    """
    a, n_levels, n_channels = layout.offset[f], layout.offset[f + 1] - layout.offset[f], level.pool.shape[2]
    n_outputs, n_open = count_outputs(n_channels, options), level.counts[0]
    together, sums, keys = room.together[:n_levels], room.sums[2], room.lines[1]
    sums[:] = 0.0
    for j in range(n_open):
        for c in range(n_channels):
            sums[c] += level.sums[level.nodes[j], c]
    l2 = options.l2 + options.categorical_prior * mean_hessian(sums, n_outputs, options)
    if n_levels <= FEW_LEVELS and _most_together(a, n_levels, n_outputs, options, l2, level) < bar * (1.0 - 3.0 * TIE):
        return 0.0, False
    together[:, :] = 0.0
    for j in range(n_open):
        node = level.nodes[j]
        part = level.pool[level.slot[node], a : a + n_levels]
        _add(flat(part), flat(together))
    min_rows = options.categorical_min_rows if layout.is_categorical[f] == CATEGORY else 0.0
    n_used, has_rest = levels_in_use(together, min_rows, room.levels[0])
    if n_used + has_rest < 2:
        return 0.0, False
    levels = room.levels[0, :n_used]
    if n_open == 1:
        level_keys(together, levels, sums, n_outputs, options, keys, room.lines[2])
    else:
        _contrast_keys(a, levels, sums, n_outputs, options, level, room)
    sort_levels(levels, keys, room.levels[1], room.levels[2])
    found, n_left, is_reversed, gains = 0.0, 0, False, room.lines[0]
    n_cuts = n_used if has_rest else n_used - 1
    for direction in range(2 if has_rest else 1):
        if direction == 1:
            _reverse(levels)
        _gains_of_prefixes(a, levels, n_cuts, n_outputs, options, l2, level, room)
        for j in range(n_cuts):
            if gains[j] > found + level.noise[0] + TIE * found:
                found, n_left, is_reversed = gains[j], j + 1, direction == 1
    if n_left == 0:
        return 0.0, False
    if has_rest and not is_reversed:
        _reverse(levels)
    goes_left, w_left = room.levels[1], 0.0
    for k in range(n_levels):
        goes_left[k] = 0
    for j in range(n_left):
        goes_left[levels[j]] = 1
        w_left += together[levels[j], 0]
    is_left_heavier = w_left >= (sums[0] - w_left) * (1.0 - TIE)
    out_set = level.sets[f]
    out_set[:] = 0
    for k in range(n_levels):
        if is_left_heavier and together[k, 0] <= 0.0:
            goes_left[k] = 1
        if goes_left[k] and k < n_levels - 1:
            out_set[k >> 5] |= np.uint32(1) << np.uint32(k & 31)
    return found, goes_left[n_levels - 1] != 0


@lean
def _most_together(a, n_levels, n_outputs, options, l2, level):  # type: ignore[no-untyped-def]
    """No set of levels gains more in all open nodes together, even if every node had a set of its own."""
    most = 2.0 * level.noise[0]
    for j in range(level.counts[0]):
        node = level.nodes[j]
        part = level.pool[level.slot[node], a : a + n_levels]
        most += larger(most_of_levels(part, n_outputs, options, l2) - level.own[node], 0.0)
    return most


@lean
def _reverse(levels):  # type: ignore[no-untyped-def]
    for j in range(len(levels) // 2):
        levels[j], levels[len(levels) - 1 - j] = levels[len(levels) - 1 - j], levels[j]


@lean
def _gains_of_prefixes(a, levels, n_cuts, n_outputs, options, l2, level, room):  # type: ignore[no-untyped-def]
    """Gains, summed over the open nodes, of sending the first level left, the first two, and so on: line 0."""
    n_channels, gains = level.pool.shape[2], room.lines[0]
    for j in range(n_cuts):
        gains[j] = 0.0
    for i in range(level.counts[0]):
        node = level.nodes[i]
        low, high, part, sums = level.low[node], level.high[node], level.pool[level.slot[node], a:], level.sums[node]
        if n_outputs == 1 and low == -np.inf and high == np.inf:
            _add_gains_of_one(part, levels, n_cuts, sums, options, l2, level.own[node], room)
            continue
        left, right = room.sums[0], room.sums[1]
        for c in range(n_channels):
            left[c] = 0.0
        for j in range(n_cuts):
            for c in range(n_channels):
                left[c] += part[levels[j], c]
                right[c] = sums[c] - left[c]
            score = pair_score(left, right, n_outputs, options, l2, np.int8(0), low, high)
            if score > -np.inf:
                gains[j] += score - level.own[node]


@inlined
def _add_gains_of_one(part, levels, n_cuts, sums, options, l2, own, room):  # type: ignore[no-untyped-def]
    """The same of one node for one output without bounds, as `splitting.pair_score` has them, several at a time."""
    h_channel = 0 if options.constant_hessian else 2
    gains, weights, gradients, hessians = room.lines[0], room.lines[3], room.lines[4], room.lines[5]
    w, g, h = 0.0, 0.0, 0.0
    for j in range(n_cuts):
        w += part[levels[j], 0]
        g += part[levels[j], 1]
        h += part[levels[j], h_channel]
        weights[j], gradients[j], hessians[j] = w, g, h
    least, min_hessian = options.min_samples_leaf * (1.0 - 1e-9), options.min_hessian
    for j in range(n_cuts):
        w, g, h = weights[j], gradients[j], hessians[j]
        w_right, g_right, h_right = sums[0] - w, sums[1] - g, sums[h_channel] - h
        left, right = -g / (h + l2), -g_right / (h_right + l2)
        score = -(2.0 * g * left + (h + l2) * left * left) - (2.0 * g_right * right + (h_right + l2) * right * right)
        is_allowed = (w >= least) & (w_right >= least) & (h >= min_hessian) & (h_right >= min_hessian)
        is_allowed &= (w > 0.0) & (w_right > 0.0) & (h + l2 > 1e-290) & (h_right + l2 > 1e-290)
        gains[j] += score - own if is_allowed else 0.0


@inlined
def _hessian_of(channels, k, n_outputs, options):  # type: ignore[no-untyped-def]
    return channels[0] if options.constant_hessian else channels[1 + n_outputs + k]


@lean
def _contrast_keys(a, levels, sums, n_outputs, options, level, room):  # type: ignore[no-untyped-def]
    """What to sort levels by so that the sets at both ends differ most in all nodes, whichever way round in each.

    Where one node has a level's labels above its mean and another one below, their sum says nothing. So nodes are
    weighed, with either sign: C_ln is the gradient of level l in node n beyond the node's mean, and the weights v of
    the nodes are the first right singular vector of

        C_ln / √((H_l + prior) H_n)            (a few steps of power iteration from the node that differs most)

    Levels are sorted by Σ_n v_n C_ln / √H_n / (H_l + prior), which is left in line 1. Several outputs of a node count
    as nodes of their own.
    """
    across, together, direction = room.across, room.together, room.direction
    n_levels, n_columns = len(levels), level.counts[0] * n_outputs
    keys, scale, scaled = room.lines[1][:n_levels], room.lines[2][:n_levels], room.lines[3][:n_levels]
    prior = options.categorical_prior * mean_hessian(sums, n_outputs, options)
    for j in range(n_levels):
        h = prior
        for k in range(n_outputs):
            h += _hessian_of(together[levels[j]], k, n_outputs, options) / n_outputs
        scale[j] = 1.0 / larger(h, 1e-100)
    widest, first = -1.0, np.int64(0)
    for column in range(n_columns):
        node, k = level.nodes[column // n_outputs], column % n_outputs
        part, line = level.pool[level.slot[node], a:], across[column][:n_levels]
        h_node = larger(_hessian_of(level.sums[node], k, n_outputs, options), 1e-100)
        mean, share = level.sums[node, 1 + k] / h_node, 1.0 / np.sqrt(h_node)
        for j in range(n_levels):
            cell = part[levels[j]]
            line[j] = (cell[1 + k] - mean * _hessian_of(cell, k, n_outputs, options)) * share
            scaled[j] = line[j] * scale[j]
        spread = dot(line, scaled)
        if spread > widest * (1.0 + 1e-9):
            widest, first = spread, np.int64(column)
    for column in range(n_columns):
        direction[column] = 1.0 if column == first else 0.0
    for step in range(N_POWER_STEPS + 1):
        for j in range(n_levels):
            keys[j] = 0.0
        for column in range(n_columns):
            share, line = direction[column], across[column]
            if share != 0.0:
                for j in range(n_levels):
                    keys[j] += share * line[j]
        for j in range(n_levels):
            keys[j] *= scale[j]
        if step < N_POWER_STEPS:
            _project(keys, across, direction[:n_columns])


@inlined
def _project(keys, across, out_direction):  # type: ignore[no-untyped-def]
    """Weights of the columns by what the keys have in common with each, the largest of them 1."""
    largest = 1e-300
    for column in range(len(out_direction)):
        out_direction[column] = dot(keys, across[column])
        largest = larger(largest, abs(out_direction[column]))
    for column in range(len(out_direction)):
        out_direction[column] /= largest


@inlined
def _add(values, out_sums):  # type: ignore[no-untyped-def]
    for k in range(len(values)):
        out_sums[k] += values[k]
