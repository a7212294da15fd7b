"""Trees on rows that are spread over processes: every process holds some tasks' rows and grows the same shared trees.

What crosses a process boundary is sums: the histogram of a node, the sums of the leaves, and for losses whose leaves
hold quantiles the counts of a radix selection. All of it goes through `Peers.sum`, so every process chooses the same
split and splits its own rows by it. Trees of a task are grown where the task's rows are, without a word to the others.

The steps are those of `tree.grow_tree` and use its kernels; what is here is the order in which they ask the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .binning import BinLayout, cut_between
from .forest import TASK, Forest, ForestBuilder, Nodes, Trees
from .growing import Grower, GrownTrees, n_set_words
from .histogram import gather_statistics, subtract_histogram
from .leaves import sum_rows
from .losses import Huber, Loss
from .node_search import fill_histogram, fill_histogram_parallel
from .packed_histogram import (
    Packing,
    gather_packed,
    gather_packed_parallel,
    largest_and_mean,
    pack_rows,
    pack_rows_parallel,
    packing_for,
)
from .partition import CELLS_PER_ROW, mark_left, split_range
from .rows import Peers, RowSample, TrainingRows
from .small_nodes import SMALL_NODE
from .splitting import SplitOptions, bounded_value, find_node_split
from .threads import team_of
from .tree import GrowthOptions, bound_children, draw_features, propose
from .tree_arrays import TreeArrays, allocate_trees, best_open_leaf, only_tree, open_node


class DistributedGrower(Grower):
    """`Grower` whose shared trees see the rows of all processes; parameters as there."""

    @classmethod
    def of(cls, grower: Grower) -> DistributedGrower:
        """A grower with the options of another one."""
        splits = grower.shared_split, grower.task_split
        return cls(grower.rows, grower.layout, grower.shared_growth, grower.task_growth, *splits, grower.n_threads)

    def grow_shared(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, sample: RowSample, seed: int
    ) -> GrownTrees:
        """One tree on the rows of the sample, those of the other processes included; derivatives are (K, n_rows)."""
        n_leaves = self.shared_growth.max_leaf_nodes
        trees = allocate_trees(1, n_leaves, len(gradient), n_set_words(self.layout))
        rows, out_rows = sample.rows.copy(), sample.out_rows.copy()
        packing = self._packing_of_all(gradient, hessian, weight, len(rows))
        growth = _Growth(self, gradient, hessian, weight, packing, rows, out_rows, only_tree(trees), seed)
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


class _Growth:
    """One tree while it grows. ``pool`` and ``sums`` hold the histograms and channel sums of nodes, of all rows."""

    def __init__(
        self,
        grower: DistributedGrower,
        gradient: np.ndarray,
        hessian: np.ndarray,
        weight: np.ndarray,
        packing: Packing | None,
        rows: np.ndarray,
        out_rows: np.ndarray,
        tree: TreeArrays,
        seed: int,
    ):
        self.words, self.task, self.peers = grower.rows.words, grower.task_ids, grower.rows.peers
        self.layout: BinLayout = grower.layout
        self.growth: GrowthOptions = grower.shared_growth
        self.options: SplitOptions = grower.shared_split
        self.team = team_of(grower.n_threads)
        self.gradient, self.hessian, self.weight, self.packing = gradient, hessian, weight, packing
        self.exact: set[int] = set()  # nodes of few rows, whose derivatives are not packed
        self.rows, self.out_rows, self.tree = rows, out_rows, tree
        self.n_channels = 1 + len(gradient) * (1 if self.options.constant_hessian else 2)
        self.n_features = len(self.layout.offset) - 1
        self.scratch = grower._scratch_for(self.n_channels, packing is not None)
        if packing is not None:
            pack = pack_rows if self.team is None else pack_rows_parallel
            pack(gradient, hessian, packing, self.scratch.packed)
        self.is_left = np.empty(int(np.diff(self.layout.offset).max(initial=1)), dtype=np.uint8)
        self.state = np.array([seed], dtype=np.uint64)
        self.depth = np.zeros(2 * self.growth.max_leaf_nodes - 1, dtype=np.int64)
        self.sums: dict[int, np.ndarray] = {}
        self.pool: dict[int, np.ndarray] = {}

    def grow(self) -> int:
        """Leaf by leaf, the one with the largest gain first; returns the number of nodes."""
        tree, n_nodes, n_leaves = self.tree, 1, 1
        open_node(tree, 0, 0, len(self.rows), 0, len(self.out_rows), -np.inf, np.inf)
        self.sums[0], self.pool[0] = self.measure(0)
        tree.weight[0] = self.sums[0][0]
        if self.growth.max_leaf_nodes > 1 and self.n_features > 0 and self.growth.max_depth > 0:
            self.propose(0)
        while n_leaves < self.growth.max_leaf_nodes:
            node = int(best_open_leaf(tree.left, tree.gain, n_nodes))
            if node < 0:
                break
            left, right = n_nodes, n_nodes + 1
            n_nodes, n_leaves = n_nodes + 2, n_leaves + 1
            self.split(node, left, right)
            if n_leaves < self.growth.max_leaf_nodes and self.depth[left] < self.growth.max_depth:
                self.look_at_children(node, left, right)
            del self.pool[node]
        for node in range(n_nodes):
            if tree.left[node] < 0:
                tree.feature[node], tree.gain[node] = -1, 0.0
        self.set_values(n_nodes)
        return n_nodes

    def measure(self, node: int, is_exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Channel sums and histogram of a node, one message for both."""
        start, stop = int(self.tree.start[node]), int(self.tree.stop[node])
        n_bins = int(self.layout.offset[-1])
        here = np.empty((1 + n_bins) * self.n_channels)
        sums, histogram = here[: self.n_channels], here[self.n_channels :].reshape(n_bins, self.n_channels)
        if is_exact:
            self.exact.add(node)
        packing = None if is_exact else self.packing
        self.gather(start, stop, packing, sums)
        fill, n_threads = fill_histogram, np.int64(1)
        if self.team is not None and (stop - start) * self.n_features >= self.team.min_cells:
            fill, n_threads = fill_histogram_parallel, self.team.n_threads
        place = self.words, self.task, self.layout, self.rows, start, stop
        fill(*place, packing, self.scratch, n_threads, histogram)
        of_all = self.peers.sum(here)
        return of_all[: self.n_channels], of_all[self.n_channels :].reshape(n_bins, self.n_channels)

    def gather(self, start: int, stop: int, packing: Packing | None, out_sums: np.ndarray) -> None:
        """Bring derivatives into the order of a node's rows and sum them."""
        if packing is None:
            of_rows = self.gradient, self.hessian, self.weight, self.options.constant_hessian
            gather_statistics(self.rows, start, stop, *of_rows, self.scratch.statistics, out_sums)
            return
        gather, n_threads = gather_packed, np.int64(1)
        if self.team is not None and (stop - start) * CELLS_PER_ROW >= self.team.min_cells:
            gather, n_threads = gather_packed_parallel, self.team.n_threads
        gather(self.rows, start, stop, self.scratch.packed, packing, n_threads, self.scratch.gathered, out_sums)

    def propose(self, node: int) -> None:
        features = draw_features(self.n_features, self.growth.n_features_tried, self.state)
        sums, low, high = self.sums[node], float(self.tree.low[node]), float(self.tree.high[node])
        own = self.pool[node], self.layout, sums, self.options, low, high, features, self.tree.category_set[node]
        propose(self.tree, node, find_node_split(*own))

    def split(self, node: int, left: int, right: int) -> None:
        """Part the rows that are here; the sums of the children are those of the bins that they got."""
        tree = self.tree
        start, stop = int(tree.start[node]), int(tree.stop[node])
        out_start, out_stop = int(tree.out_start[node]), int(tree.out_stop[node])
        last_left, tree.threshold[node] = cut_between(
            self.layout, tree.feature[node], tree.left_bin[node], tree.right_bin[node]
        )
        self.mark_left(node, int(last_left))
        f = np.int64(tree.feature[node])
        by = (self.words, self.task, self.layout, f, self.is_left, self.scratch, self.team)
        middle = int(split_range(self.rows, start, stop, *by))
        out_middle = int(split_range(self.out_rows, out_start, out_stop, *by))
        tree.left[node], tree.right[node] = left, right
        self.depth[left] = self.depth[right] = self.depth[node] + 1
        self.sums[left] = self.left_sums(node)
        self.sums[right] = self.sums[node] - self.sums[left]
        bounds = float(tree.low[node]), float(tree.high[node])
        open_node(tree, left, start, middle, out_start, out_middle, *bounds)
        open_node(tree, right, middle, stop, out_middle, out_stop, *bounds)
        monotonic = self.layout.monotonic[f]
        sums = self.sums[left], self.sums[right]
        bound_children(tree.low, tree.high, node, left, right, monotonic, *sums, self.options)
        tree.weight[left], tree.weight[right] = self.sums[left][0], self.sums[right][0]

    def mark_left(self, node: int, last_left: int) -> None:
        tree, feature = self.tree, self.tree.feature[node]
        n_codes = self.layout.offset[feature + 1] - self.layout.offset[feature]
        is_categorical = self.layout.is_categorical[feature] != 0
        mark_left(n_codes, last_left, tree.missing_left[node], is_categorical, tree.category_set[node], self.is_left)

    def left_sums(self, node: int) -> np.ndarray:
        """Sums of the bins that have just been marked."""
        first, last = self.layout.offset[self.tree.feature[node] :][:2]
        return self.pool[node][first:last][self.is_left[: last - first] != 0].sum(axis=0)

    def look_at_children(self, node: int, left: int, right: int) -> None:
        """Best splits of two children: the smaller one is measured, the other one is what the parent has left."""
        tree = self.tree
        n_left, n_right = self.sums[left][0], self.sums[right][0]
        if self.growth.n_features_tried < self.n_features:
            # The smaller child draws its features first, and smaller means fewer rows, as on one machine.
            n_here = [tree.stop[child] - tree.start[child] for child in (left, right)]
            n_left, n_right = self.peers.sum(np.array(n_here, dtype=np.float64))
        small, large = (left, right) if n_left <= n_right else (right, left)
        least = 2.0 * self.options.min_samples_leaf * (1.0 - 1e-9)
        is_small_open, is_large_open = self.sums[small][0] >= least, self.sums[large][0] >= least
        if not (is_small_open or is_large_open):
            return
        becomes_exact = self.packing is not None and node not in self.exact
        if becomes_exact and self.sums[large][0] <= SMALL_NODE:
            for child in (small, large):
                self.sums[child], self.pool[child] = self.measure(child, True)
        else:
            self.sums[small], self.pool[small] = self.measure(small, node in self.exact)
            self.sums[large] = self.sums[node] - self.sums[small]
            self.pool[large] = np.empty_like(self.pool[small])
            subtract_histogram(self.pool[node], self.pool[small], self.pool[large])
            if node in self.exact:
                self.exact.add(large)
            elif becomes_exact and is_small_open and self.sums[small][0] <= SMALL_NODE:
                self.sums[small], self.pool[small] = self.measure(small, True)
        if is_small_open:
            self.propose(small)
        if is_large_open:
            self.propose(large)

    def set_values(self, n_nodes: int) -> None:
        """Leaf values from the rows themselves, not from histograms that subtraction has rounded."""
        tree, constant = self.tree, self.options.constant_hessian
        sums = np.zeros((n_nodes, self.n_channels))
        for node in range(n_nodes):
            if tree.left[node] < 0:
                span = int(tree.start[node]), int(tree.stop[node])
                sum_rows(self.rows, *span, self.gradient, self.hessian, self.weight, constant, sums[node])
        sums = np.array(self.peers.sum(sums))
        n_outputs = len(self.gradient)
        tree.value[:n_nodes] = 0.0
        for node in range(n_nodes):
            if tree.left[node] < 0:
                for k in range(n_outputs):
                    h = float(sums[node, 0] if constant else sums[node, 1 + n_outputs + k])
                    low, high = float(tree.low[node]), float(tree.high[node])
                    tree.value[node, k] = bounded_value(float(sums[node, 1 + k]), h, self.options.l2, low, high)


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
