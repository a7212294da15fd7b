"""Trees on rows that are spread over processes: every process holds some tasks' rows and grows the same shared trees.

What crosses a process boundary is sums: the histogram of a node, the sums of the leaves, and for losses whose leaves
hold quantiles the counts of a radix selection. All of it goes through `Peers.sum`, so every process chooses the same
split and splits its own rows by it. Trees of a task are grown where the task's rows are, without a word to the others.

The steps are those of `tree` and `symmetric` and use their kernels; `distributed_growth` has the order in which they
ask the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .distributed_growth import LeafwiseGrowth, SymmetricGrowth
from .forest import TASK, Forest, ForestBuilder, Nodes, Trees
from .growing import Grower, GrownTrees, n_set_words
from .losses import Huber, Loss
from .packed_histogram import (
    Packing,
    largest_and_mean,
    packing_for,
)
from .rows import Peers, RowSample, TrainingRows
from .small_nodes import SMALL_NODE
from .tree_arrays import TreeArrays, allocate_trees, only_tree


class DistributedGrower(Grower):
    """`Grower` whose shared trees see the rows of all processes; parameters as there."""

    @classmethod
    def of(cls, grower: Grower) -> DistributedGrower:
        """A grower with the options of another one."""
        splits = grower.shared_split, grower.task_split
        growths = grower.shared_growth, grower.task_growth
        return cls(
            grower.rows, grower.layout, *growths, *splits, grower.n_threads, grower.is_symmetric, grower.has_local_bins
        )

    def grow_shared(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, sample: RowSample, seed: int
    ) -> GrownTrees:
        """One tree on the rows of the sample, those of the other processes included; derivatives are (K, n_rows)."""
        n_leaves = self.shared_growth.max_leaf_nodes
        trees = allocate_trees(1, n_leaves, len(gradient), n_set_words(self.layout))
        rows, out_rows = sample.rows.copy(), sample.out_rows.copy()
        packing = self._packing_of_all(gradient, hessian, weight, len(rows))
        kind = SymmetricGrowth if self.is_symmetric else LeafwiseGrowth
        growth = kind(self, gradient, hessian, weight, packing, rows, out_rows, only_tree(trees), seed)
        trees.n_nodes[0] = growth.grow()
        start, out_start = np.array([0, len(rows)]), np.array([0, len(out_rows)])
        return SpreadTrees(trees, rows, start, out_rows, out_start, self.rows.peers)

    def _packing_of_all(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, n_in_root: int
    ) -> Packing | None:
        """Packed derivatives where one machine packs them, in the units that it would choose for all rows."""
        if len(gradient) > 1 or weight is not self.rows.weight or self.layout.monotonic.any():
            return None
        n_here, is_weighted = self.rows.n_rows, not self.rows.is_unweighted
        constant = self.shared_split.constant_hessian
        is_read = n_here > 0, n_here > 0 and not constant
        parts = zip((gradient, hessian), is_read, strict=True)
        here = [largest_and_mean(part[0]) if is_used else (0.0, 0.0) for part, is_used in parts]
        sums = [number for largest, mean in here for number in (largest, mean * n_here)]
        of_all = self.rows.peers.gather(np.array([*sums, n_here, n_in_root, is_weighted], dtype=np.float64))
        n_rows, n_in_root, n_weighted = (int(total) for total in of_all[:, 4:].sum(axis=0))
        if n_weighted > 0 or n_in_root <= SMALL_NODE:
            return None
        size_g, size_h = ((float(of_all[:, c].max()), float(of_all[:, c + 1].sum() / n_rows)) for c in (0, 2))
        return packing_for(n_rows, size_g, size_h, constant)


class SpreadTrees(GrownTrees):
    """A shared tree with those of its rows that are here."""

    def __init__(
        self,
        trees: TreeArrays,
        rows: np.ndarray,
        row_start: np.ndarray,
        out_rows: np.ndarray,
        out_start: np.ndarray,
        peers: Peers,
    ):
        super().__init__(trees, rows, row_start, out_rows, out_start)
        self.peers = peers

    def renew_values(self, residual: np.ndarray, weight: np.ndarray, quantile: float, n_threads: int) -> None:
        """Leaf values become weighted quantiles of the residuals (n_rows,) of all processes."""
        tree = only_tree(self.trees)
        leaves = np.flatnonzero(tree.left[: int(self.trees.n_nodes[0])] < 0)
        by_start = leaves[np.argsort(tree.start[leaves], kind="stable")]
        leaf_of_row = np.repeat(by_start, (tree.stop - tree.start)[by_start])
        values = spread_quantiles(
            self.peers, residual[self.rows], weight[self.rows], leaf_of_row, int(self.trees.n_nodes[0]), quantile
        )
        tree.value[leaves, 0] = np.clip(values[leaves], tree.low[leaves], tree.high[leaves])


# --- quantiles and start scores of rows that are spread -----------------------------------------------------------


def spread_quantiles(
    peers: Peers, values: np.ndarray, weight: np.ndarray, group: np.ndarray, n_groups: int, quantile: float
) -> np.ndarray:
    """`quantile.weighted_quantile` of every group (n_groups,), exact, over the values of all processes.

    values, weight : float64 (n,); group : int (n,); groups without a value get 0
    """
    keys = _ordered_bits(values)
    total = peers.sum(np.bincount(group, weights=weight, minlength=n_groups))
    target = quantile * total
    found, reached = _select(peers, keys, weight, group, target * (1.0 - 1e-12))
    out = _from_ordered_bits(found)
    is_met = (reached <= target * (1.0 + 1e-12)) & (reached < total * (1.0 - 1e-12))
    if is_met.any():  # the mean with the next value
        n_below = peers.sum(np.bincount(group[keys <= found[group]], minlength=n_groups).astype(np.float64))
        following, _ = _select(peers, keys, np.ones(len(keys)), group, n_below + 0.5)
        out = np.where(is_met, 0.5 * out + 0.5 * _from_ordered_bits(following), out)
    return np.where(total > 0, out, 0.0)


def _select(
    peers: Peers, keys: np.ndarray, weight: np.ndarray, group: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest key of each group up to which the weight reaches the target, and that weight: byte by byte."""
    n_groups = len(target)
    prefix, below = np.zeros(n_groups, dtype=np.uint64), np.zeros(n_groups)
    reached, each = np.zeros(n_groups), np.arange(n_groups)
    for shift in range(56, -8, -8):
        high = keys >> np.uint64(shift)
        is_candidate = (high >> np.uint64(8)) == prefix[group]
        cell = group[is_candidate] * 256 + (high[is_candidate] & np.uint64(255)).astype(np.int64)
        mass = np.bincount(cell, weights=weight[is_candidate], minlength=256 * n_groups)
        mass = peers.sum(mass).reshape(n_groups, 256)
        cumulative = below[:, None] + np.cumsum(mass, axis=1)
        reaches = (cumulative >= target[:, None]) & (mass > 0)
        last_used = 255 - np.argmax(mass[:, ::-1] > 0, axis=1)
        byte = np.where(reaches.any(axis=1), np.argmax(reaches, axis=1), last_used)
        reached = cumulative[each, byte]
        below = reached - mass[each, byte]
        prefix = (prefix << np.uint64(8)) | byte.astype(np.uint64)
    return prefix, reached


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Numbers uint64 in the order of the floats."""
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.uint64)  # + 0.0: −0 and 0 are one value
    return np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))


def _from_ordered_bits(keys: np.ndarray) -> np.ndarray:
    bits = np.where(keys >> np.uint64(63), keys & np.uint64((1 << 63) - 1), ~keys)
    return bits.astype(np.uint64).view(np.float64)


def spread_base_score(loss: Loss, rows: TrainingRows, n_classes: int | None) -> np.ndarray:
    """`Loss.base_score` over the rows of all processes."""

    def quantile_of_all(quantile: float) -> float:
        group = np.zeros(rows.n_rows, dtype=np.int64)
        return float(spread_quantiles(rows.peers, rows.y, rows.weight, group, 1, quantile)[0])

    if n_classes is not None:
        mass = np.bincount(rows.y.astype(np.int64), weights=rows.weight, minlength=n_classes)
        return loss.base_score(np.arange(n_classes, dtype=np.float64), rows.peers.sum(mass))
    if loss.renewal_quantile is not None:
        return np.array([quantile_of_all(loss.renewal_quantile)])
    if isinstance(loss, Huber):
        median, delta = quantile_of_all(0.5), loss._parameter
        step, total = rows.totals(np.clip(rows.y - median, -delta, delta) @ rows.weight, rows.weight.sum())
        return np.array([median + step / total])
    sum_y, total = rows.totals(rows.y @ rows.weight, rows.weight.sum())
    return loss.base_score(np.array([sum_y / total]), np.array([total]))


# --- one forest from those of all processes ------------------------------------------------------------------------


def own_part(forest: Forest, is_own_task: np.ndarray, has_common: bool) -> tuple[Nodes, Trees]:
    """Trees of the tasks whose rows are here, and the common ones if asked for.

    is_own_task : bool (n_tasks,)
    """
    is_of_task = forest.trees.block == TASK
    group = np.where(is_of_task, forest.trees.group, 0)
    keep = np.where(is_of_task, is_own_task[group] if len(group) else False, has_common)
    return take_trees(forest.nodes, forest.trees, keep)


def without_trees(forest: Forest) -> Forest:
    """Base, mixing and rounds of a forest."""
    none = take_trees(forest.nodes, forest.trees, np.zeros(len(forest.trees.root), dtype=bool))
    return Forest(*none, forest.base, forest.mixing, forest.n_rounds)


def common_digest(forest: Forest) -> tuple[Any, ...]:
    """Numbers by which processes that should have grown the same shared and partition trees can tell that they did."""
    common, _ = take_trees(forest.nodes, forest.trees, forest.trees.block != TASK)
    return len(common.feature), float(np.sum(common.value)), int(common.feature.sum()), float(forest.mixing.sum())


def take_trees(nodes: Nodes, trees: Trees, keep: np.ndarray) -> tuple[Nodes, Trees]:
    """The trees where ``keep`` (n_trees,) holds with nothing but their own nodes and category words."""
    by_root = np.argsort(trees.root, kind="stable")
    n_nodes = np.empty(len(by_root), dtype=np.int64)
    n_nodes[by_root] = np.diff(np.append(trees.root[by_root], len(nodes.feature)))
    is_kept_node = np.repeat(keep[by_root], n_nodes[by_root])
    place = np.cumsum(is_kept_node) - 1
    kept = Nodes(*(c if c is nodes.category_words else c[is_kept_node] for c in nodes))
    has_words = kept.category_start >= 0
    n_words = np.where(has_words, (kept.n_levels + 31) // 32, 0)
    start = np.cumsum(n_words) - n_words
    word = np.repeat(kept.category_start - start, n_words) + np.arange(n_words.sum())
    kept = kept._replace(
        left=np.where(kept.left < 0, -1, place[kept.left]).astype(np.int32),
        right=np.where(kept.right < 0, -1, place[kept.right]).astype(np.int32),
        category_start=np.where(has_words, start, -1).astype(np.int32),
        category_words=nodes.category_words[word],
    )
    chosen = Trees(*(column[keep] for column in trees))
    return kept, chosen._replace(root=place[chosen.root].astype(np.int32) if len(place) else chosen.root)


def merged_forest(builder: ForestBuilder, like: Forest, parts: list[tuple[Nodes, Trees]]) -> Forest:
    """The forest whose trees are those of all parts; base, mixing and rounds as in ``like``."""
    for part in parts:
        builder.append_part(*part)
    return builder.build(like.base, like.mixing, like.n_rounds, like.nodes.value.shape[1])
