"""How one tree grows on rows of many processes: the steps of `tree` and `symmetric`, and when they ask the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .binning import BinLayout, cut_between
from .feature_splits import find_node_split
from .histogram import gather_statistics, subtract_histogram
from .leaves import sum_rows
from .level import Level, new_level
from .level_search import best_feature, search_level, subtract_child, sum_up
from .node_search import fill_histogram, fill_histogram_parallel
from .packed_histogram import (
    Packing,
    gather_packed,
    gather_packed_parallel,
    pack_rows,
    pack_rows_parallel,
)
from .partition import CELLS_PER_ROW, mark_left, split_range
from .small_nodes import SMALL_NODE
from .splitting import SplitOptions, bounded_value
from .symmetric import draw_level, may_go_deeper, open_root, split_level
from .threads import team_of
from .tree import Growing, GrowthOptions, Table, bound_children, draw_features, propose
from .tree_arrays import TreeArrays, best_open_leaf, close_leaves, open_node

if TYPE_CHECKING:
    from .growing import Grower


class LeafwiseGrowth:
    """One tree while it grows. ``pool`` and ``sums`` hold the histograms and channel sums of nodes, of all rows."""

    def __init__(
        self,
        grower: Grower,
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
        self.subset_search = grower.subset_search() if grower.is_symmetric else np.int64(0)
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
        close_leaves(tree, n_nodes)
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
        self.fill_here(start, stop, packing, histogram)
        of_all = self.peers.sum(here)
        return of_all[: self.n_channels], of_all[self.n_channels :].reshape(n_bins, self.n_channels)

    def fill_here(self, start: int, stop: int, packing: Packing | None, out_histogram: np.ndarray) -> None:
        """Histogram of a node's rows that are here, whose derivatives have been gathered."""
        fill, n_threads = fill_histogram, np.int64(1)
        if self.team is not None and (stop - start) * self.n_features >= self.team.min_cells:
            fill, n_threads = fill_histogram_parallel, self.team.n_threads
        place = self.words, self.task, self.layout, self.rows, start, stop
        fill(*place, packing, self.scratch, n_threads, out_histogram)

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


class SymmetricGrowth(LeafwiseGrowth):
    """A symmetric tree while it grows: the histograms of a level go out in one message."""

    def grow(self) -> int:
        """Level by level; returns the number of nodes."""
        tree, n_nodes = self.tree, 1
        open_node(tree, 0, 0, len(self.rows), 0, len(self.out_rows), -np.inf, np.inf)
        level = self.begin()
        tree.weight[0] = level.sums[0, 0]
        table = Table(self.words, self.task, self.gradient, self.hessian, self.weight)
        is_tried = np.empty((2, self.n_features), dtype=np.bool_)
        growing = Growing(self.depth, level.slot, level.sums, level.pool, self.is_left, self.state, is_tried)
        parted = table, self.layout, self.rows, self.out_rows, self.options, self.scratch, self.team, growing, tree
        n_levels = 0
        while level.counts[0] > 0 and may_go_deeper(n_levels, self.growth):
            n_levels += 1
            draw_level(level, self.growth, self.options, len(self.gradient), self.state)
            if n_levels > 1:
                self.fill(level)
            level.counts[1] = 0  # there is nothing left to fill
            data = self.words, self.task, self.layout, self.rows, self.options, self.packing, self.scratch
            search_level(*data, tree.start, tree.stop, level, np.int64(1))
            feature = best_feature(self.layout, level, tree)
            if feature < 0:
                break
            n_before, n_nodes = n_nodes, int(split_level(*parted, level, feature, n_nodes))
            if n_nodes == n_before:
                break
        close_leaves(tree, n_nodes)
        self.set_values(n_nodes)
        return n_nodes

    def begin(self) -> Level:
        """The root with its histogram."""
        max_leaves, n_bins = self.growth.max_leaf_nodes, int(self.layout.offset[-1])
        if self.growth.max_depth < 62:
            max_leaves = min(max_leaves, 2**self.growth.max_depth)
        sums = np.zeros((2 * max_leaves - 1, self.n_channels))
        pool = np.empty((max_leaves, n_bins, self.n_channels))
        sums[0], pool[0] = self.measure(0)
        sum_up(pool[0], self.layout, 0, self.n_features)
        slot = np.zeros(len(sums), dtype=np.int64)
        low, high, n_words = self.tree.low, self.tree.high, self.tree.category_set.shape[1]
        level = new_level(self.n_features, n_words, sums, pool, slot, low, high, self.subset_search)
        open_root(level)
        return level

    def fill(self, level: Level) -> None:
        """Histograms of the smaller children from all processes; the larger ones are what their parents have left."""
        if level.counts[1] == 0:  # every open node has waited
            return
        pairs = [(int(level.small[p]), int(level.large[p])) for p in range(level.counts[1])]
        here = np.empty((len(pairs), *level.pool.shape[1:]))
        unused = np.empty(self.n_channels)
        for (small, _), histogram in zip(pairs, here, strict=True):
            start, stop = int(self.tree.start[small]), int(self.tree.stop[small])
            self.gather(start, stop, self.packing, unused)
            self.fill_here(start, stop, self.packing, histogram)
        of_all = self.peers.sum(here)
        is_exact = np.bool_(self.packing is not None)
        for (small, large), histogram in zip(pairs, of_all, strict=True):
            sum_up(histogram, self.layout, 0, self.n_features)
            level.pool[level.slot[small]] = histogram
            rest = level.pool[level.slot[large]]
            subtract_child(rest, histogram, self.layout, 0, self.n_features, is_exact)
