"""Best cut of a node of a small task, from a histogram of the task's local bins.

All numeric features are searched at once, side by side: what is done to one of them is done to as many as a register
holds. What a row adds to a bin are whole numbers, so that a sum is the same in any order of rows and a child is exactly
what its sibling leaves of their parent:

    first plane     [ gradient / unit (24 bits, signed) | 1, the row (8 bits) ]      in one int32
    second plane    [ hessian / unit ]                                               unless it is the weight
    last plane      [ weight / unit ]                                                where rows are weighed apart

They are weighed apart where they have weights, or where a task has more of them than 8 bits count
(`local_bins.FEW_ROWS`); the first plane is then the gradient alone. Where the hessian is the weight, one plane is both.

A bin holds the sums of all rows up to its end, what is left of a cut there, so that cuts do not wait for each other.
Units are powers of two, of few rows a 2⁻¹⁵th of the task's largest gradient, weighed apart or not, that a weight of 2
may be a row twice, and a 2⁻²²nd of the largest hessian and weight; of more rows 2⁻²¹sts: the sum over n rows is off by
at most ``n × unit / 2``. Only the choice of cuts sees that, leaf values do not. Cuts are compared in float32, and of
those whose gains are within `NEAR` of the largest the first counts.
"""

from __future__ import annotations

import numpy as np

from .in_place import larger, smaller
from .jit import inlined, inner
from .local_bins import FEW_ROWS, LANE_STEP, MAX_ROWS

# Bits of the largest gradient, and of the largest hessian or weight, of few rows; and of all three of more. Sums of few
# gradients fit 24 bits, the others 31.
GRADIENT_BITS, OTHER_BITS, BITS_OF_MANY = 15, 22, 21
COUNT_BITS, COUNT_MASK = np.int32(8), np.int32(255)
NEAR = 1e-5
_NONE, NO_KEY = np.float32(0.0), np.int32(2**31 - 1)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


# --- what rows add, and what they add up to ---------------------------------------------------------------------------


@inlined
def _least_weight(weight, rows, max_rows):  # type: ignore[no-untyped-def]
    """Smallest weight but 0, and by how much units grow, a power of two: rows may count as more than fit."""
    least, total = np.inf, 0.0
    for j in range(len(rows)):
        own = weight[rows[j]]
        total += own
        least = smaller(least, own if own > 0.0 else np.inf)
    if total == 0.0:
        return 1.0, 1.0
    return least, 2.0 ** larger(np.ceil(np.log2(total / (least * max_rows))), 0.0)


@inlined
def _round_rows(values, weight, scale, rows, first_row, n_bits, shift, step, out):  # type: ignore[no-untyped-def]
    """Write ``values`` of rows as whole numbers of the unit that is returned, shifted up by ``shift``, plus ``step``.

    scale : None, rows have no weights, or as from `_least_weight`

    What is rounded is a value without its weight, and then as often the least weight as it has: a weight of 2 is the
    row twice. The largest one has 2^n_bits units. The unit is 0, and so are the rows, if all are 0, or out of range.
    """
    least, growth = scale if scale is not None else (1.0, 1.0)
    largest = 0.0
    for j in range(len(rows)):
        i = rows[j]
        size = abs(values[i])
        if scale is not None:
            size = size / weight[i] if weight[i] > 0.0 else 0.0
        largest = larger(largest, size)
    unit, per_unit = 0.0, 0.0
    if 1e-200 < largest < 1e200:
        # Less a bit: rounding must not tell 0.5 from 0.5.
        unit = 2.0 ** (np.ceil(np.log2(largest) - 1e-9) - n_bits) * growth
        per_unit = 1.0 / unit
    for j in range(len(rows)):
        i = rows[j]
        number = np.rint(values[i] * per_unit)
        if scale is not None:
            own = weight[i]
            number = np.rint(own / least * np.rint(values[i] / own * per_unit)) if own > 0.0 else 0.0
        out[i - first_row] = (np.int32(number) << shift) + step
    return unit * least


@inlined
def pack_task(table, constant_hessian, are_apart, rows, n_own, first_row, out_packed):  # type: ignore[no-untyped-def]
    """What each of a task's rows adds to a histogram; return the units of gradient, hessian and weight.

    And by how much rounding may have changed a sum of weights.

    table : tree.Table; rows : uint32, those of the task's ``n_own`` rows that count; first_row : uint32, of the task
    out_packed : int32 (n_planes, >= n_rows of the task), see `n_planes_for`
    """
    weight, none, one = table.weight, np.int32(0), np.int32(1)
    are_few = n_own <= FEW_ROWS
    gradient_bits, other_bits = (GRADIENT_BITS, OTHER_BITS) if are_few else (BITS_OF_MANY, BITS_OF_MANY)
    unit_h, unit_w = 1.0, 1.0
    if are_apart:
        own = weight, _least_weight(weight, rows, FEW_ROWS if are_few else MAX_ROWS), rows, first_row
        unit_g = _round_rows(table.gradient[0], *own, gradient_bits, none, none, out_packed[0])
        if not constant_hessian:
            unit_h = _round_rows(table.hessian[0], *own, other_bits, none, none, out_packed[1])
        unit_w = _round_rows(weight, *own, other_bits, none, none, out_packed[len(out_packed) - 1])
        return unit_g, unit_w if constant_hessian else unit_h, unit_w, 0.5 * len(rows) * unit_w
    alike = weight, None, rows, first_row
    unit_g = _round_rows(table.gradient[0], *alike, gradient_bits, COUNT_BITS, one, out_packed[0])
    if not constant_hessian:
        unit_h = _round_rows(table.hessian[0], *alike, other_bits, none, none, out_packed[1])
    return unit_g, unit_h, unit_w, 0.0


@inner
def n_planes_for(constant_hessian, are_apart):  # type: ignore[no-untyped-def]
    return np.int64(1) + np.int64(not constant_hessian) + np.int64(are_apart)


@inlined
def sum_packed(packed, weight, are_apart, rows, start, stop, first_row, unit_h, out_sums):  # type: ignore[no-untyped-def]
    """Weight, gradient in units, and hessian of the rows of a node, float64 (3,)."""
    gradient, hessian, mass = np.int64(0), np.int64(0), 0.0
    shift, part = np.int32(0) if are_apart else COUNT_BITS, rows[start:stop]
    for j in range(len(part)):
        gradient += packed[0, part[j] - first_row] >> shift
    out_sums[0], out_sums[1], out_sums[2] = stop - start, gradient, stop - start
    if len(packed) > 1:
        for j in range(len(part)):
            hessian += packed[1, part[j] - first_row]
        out_sums[2] = hessian * unit_h
    if are_apart:
        for j in range(len(part)):
            mass += weight[part[j]]
        out_sums[0] = mass


@inlined
def add_rows(cells, packed, rows, start, stop, first_row, n_bins, slot, out_counts):  # type: ignore[no-untyped-def]
    """Histogram of the rows of a node, ``out_counts[slot]``, int32 (n_planes, >= n_cells).

    cells : ``cell`` as in `local_bins.LocalBins`; packed, rows, first_row : as above
    """
    n_lanes, part = cells.shape[1], rows[start:stop]
    for plane in range(len(packed)):
        histogram, values = out_counts[slot, plane], packed[plane]
        for place in range((n_bins + 1) * n_lanes):
            histogram[place] = 0
        for j in range(len(part)):
            row = np.uint64(part[j])  # unsigned: numba then leaves out its test for a negative index
            value, own = values[row - np.uint64(first_row)], cells[row]
            for block in range(len(own) // LANE_STEP):  # spelled out: no loop over lanes that are left
                lane = np.uint64(LANE_STEP * block)
                histogram[np.uint64(own[lane])] += value
                histogram[np.uint64(own[lane + _ONE])] += value
                histogram[np.uint64(own[lane + _TWO])] += value
                histogram[np.uint64(own[lane + _THREE])] += value
        # Sums up to each bin, of four lanes at a time, which stay in registers.
        for block in range(n_lanes // LANE_STEP):
            zero, cell = np.int32(0), np.uint64(LANE_STEP * block)
            a, b, c, d = zero, zero, zero, zero
            for _ in range(n_bins):
                a, b = np.int32(a + histogram[cell]), np.int32(b + histogram[cell + _ONE])
                c, d = np.int32(c + histogram[cell + _TWO]), np.int32(d + histogram[cell + _THREE])
                histogram[cell], histogram[cell + _ONE] = a, b
                histogram[cell + _TWO], histogram[cell + _THREE] = c, d
                cell += np.uint64(n_lanes)


@inlined
def subtract(counts, slot, child, n_cells):  # type: ignore[no-untyped-def]
    """Make a parent's histogram that of the other child."""
    for plane in range(counts.shape[1]):
        histogram, own = counts[slot, plane], counts[child, plane]
        for c in range(n_cells):
            histogram[c] -= own[c]


@inlined
def move_missing(counts, slot, n_bins, n_lanes, sign):  # type: ignore[no-untyped-def]
    """Add the line of missing values to all others (``sign`` 1): they are left of every cut then; or undo it (−1)."""
    for plane in range(counts.shape[1]):
        histogram = counts[slot, plane]
        missing = histogram[n_bins * n_lanes : (n_bins + 1) * n_lanes]
        for b in range(n_bins):
            line = histogram[b * n_lanes : (b + 1) * n_lanes]
            for lane in range(len(line)):
                line[lane] += sign * missing[lane]


# --- the search -------------------------------------------------------------------------------------------------------


@inlined
def _clear(gain):  # type: ignore[no-untyped-def]
    for c in range(len(gain)):
        gain[c] = _NONE


@inlined
def gains_of_cuts(counts, slot, n_cells, sums, node, options, out_gain):  # type: ignore[no-untyped-def]
    """Gain d² / q (see `numeric_splits._scan_one_output`) of a cut after each cell; 0 where it is not allowed.

    For rows that count once, in their hessian, too.

    counts : int32 (n_leaves, 1, >= n_cells), histograms; n_cells : int64, without the line of missing values
    sums : float64 (max_nodes, 3), of the nodes, as `sum_packed` writes them
    out_gain : float32 (>= n_cells,)
    """
    both, l2 = sums[node, 0] + 2.0 * options.l2, np.float32(options.l2)
    fewest = larger(larger(np.ceil(options.min_samples_leaf * (1.0 - 1e-9)), np.ceil(options.min_hessian)), 1.0)
    histogram, gain = counts[slot, 0, :n_cells], out_gain[:n_cells]
    if 2.0 * fewest > sums[node, 0]:
        _clear(gain)
        return
    slope, both = np.float32(sums[node, 1] / both), np.float32(both)
    least, spare = np.int32(fewest), np.uint32(sums[node, 0] - 2.0 * fewest)
    for c in range(len(gain)):
        total = histogram[c]
        n = total & COUNT_MASK
        below = np.float32(n) + l2
        d = np.float32(total >> COUNT_BITS) - slope * below
        # One comparison for two: as an unsigned number, n − least is larger than anything where it is negative.
        gain[c] = d * d / (below * (both - below)) if np.uint32(n - least) <= spare else _NONE


@inlined
def gains_of_cuts_by_planes(counts, slot, n_cells, sums, node, are_apart, units, options, out_gain):  # type: ignore[no-untyped-def]
    """The same for rows with a hessian or a weight of their own, ``counts`` (n_leaves, 2 or 3, >= n_cells)."""
    both, l2 = sums[node, 2] + 2.0 * options.l2, np.float32(options.l2)
    unit_h, unit_w = np.float32(units[1]), np.float32(units[2])
    gain = out_gain[:n_cells]
    if both <= 0.0:
        _clear(gain)
        return
    # What rounding may have taken from a side does not count against it; one without any weight is none.
    least = options.min_samples_leaf * (1.0 - 1e-6) - units[3]
    least, flattest = larger(least, 0.5 * units[2]), options.min_hessian * (1.0 - 1e-6)
    low_w, high_w = np.float32(least), np.float32(sums[node, 0] - least)
    low_h, high_h = np.float32(flattest), np.float32(sums[node, 2] - flattest)
    slope, both = np.float32(sums[node, 1] / both), np.float32(both)
    # Without weights the number of rows, the lowest byte of the first plane, stands for them.
    w_plane = counts.shape[1] - 1 if are_apart else 0
    w_mask, shift = (np.int32(-1), np.int32(0)) if are_apart else (COUNT_MASK, COUNT_BITS)
    gradient, hessian, weight = counts[slot, 0, :n_cells], counts[slot, 1, :n_cells], counts[slot, w_plane, :n_cells]
    for c in range(len(gain)):
        w, h = np.float32(weight[c] & w_mask) * unit_w, np.float32(hessian[c]) * unit_h
        below = h + l2
        d, q = np.float32(gradient[c] >> shift) - slope * below, below * (both - below)
        # Of large sums nothing may be left on the right, as far as 24 bits can tell.
        is_allowed = (w >= low_w) & (w <= high_w) & (h >= low_h) & (h <= high_h) & (q > _NONE)
        gain[c] = d * d / q if is_allowed else _NONE


@inlined
def largest(gain):  # type: ignore[no-untyped-def]
    """The largest of numbers that are not negative, as a whole number of the same bits: these are in the same order."""
    bits, found = gain.view(np.int32), np.int32(0)
    for c in range(len(bits)):
        found = larger(found, bits[c])
    return found


@inlined
def number_of(bits):  # type: ignore[no-untyped-def]
    """What `largest` has found, float32."""
    return np.int32(bits).view(np.float32)


@inlined
def first_key(gain, bar, key):  # type: ignore[no-untyped-def]
    """The smallest of the keys, int32, of gains of at least ``bar``; `NO_KEY` where there are none."""
    least = NO_KEY
    for c in range(len(gain)):
        least = smaller(least, key[c] if gain[c] >= bar else NO_KEY)
    return least


@inlined
def has_missing(counts, slot, n_bins, n_lanes, are_apart):  # type: ignore[no-untyped-def]
    """Whether a row of the node has no value of some feature."""
    is_any, plane = np.int32(0), counts.shape[1] - 1 if are_apart else 0
    for c in range(n_bins * n_lanes, (n_bins + 1) * n_lanes):
        is_any |= counts[slot, plane, c]
    return is_any != 0


@inlined
def _left_of(histogram, n_bins, n_lanes, lane, cut):  # type: ignore[no-untyped-def]
    total = np.int64(histogram[cut % n_bins * n_lanes + lane])
    return total + histogram[n_bins * n_lanes + lane] if cut >= n_bins else total


@inlined
def sums_left_of(counts, slot, n_bins, n_lanes, lane, cut, are_apart, units):  # type: ignore[no-untyped-def]
    """Weight, gradient and hessian of what goes left at a cut, as in `sum_packed`, and whether values are missing.

    cut : last bin left of it; where missing values go left, counted from ``n_bins`` on
    """
    packed, n_planes = _left_of(counts[slot, 0], n_bins, n_lanes, lane, cut), counts.shape[1]
    missing = n_bins * n_lanes + lane
    has_missing = (counts[slot, n_planes - 1, missing] if are_apart else counts[slot, 0, missing] & COUNT_MASK) > 0
    n, gradient = np.float64(packed & np.int64(COUNT_MASK)), packed if are_apart else packed >> np.int64(COUNT_BITS)
    weight, hessian = n, n
    if n_planes > 1:
        hessian = _left_of(counts[slot, 1], n_bins, n_lanes, lane, cut) * units[1]
    if are_apart:
        weight = _left_of(counts[slot, n_planes - 1], n_bins, n_lanes, lane, cut) * units[2]
    return weight, np.float64(gradient), hessian, has_missing
