"""From derivatives to grown trees: allocation, thread choice and the two ways to grow, one tree or one per task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .binning import BinLayout
from .leaves import add_leaf_values, add_leaf_values_parallel, renew_values, renew_values_parallel
from .level_categories import find_subset_search
from .local_bins import (
    LocalBins,
    find_local_bins,
    find_local_bins_parallel,
    max_rows_for,
    new_local_bins,
    no_local_bins,
)
from .node_search import Candidates, new_candidates
from .packed_histogram import Packing, choose_packing, pack_rows, pack_rows_parallel
from .rows import RowSample, TrainingRows
from .small_nodes import SMALL_NODE
from .splitting import SplitOptions
from .symmetric import grow_symmetric_tree
from .task_trees import grow_small_trees, grow_small_trees_parallel, grow_trees, grow_trees_parallel
from .threads import team_of
from .tree import GrowthOptions, Scratch, Table, grow_tree
from .tree_arrays import TreeArrays, allocate_trees, only_tree

# Size of the trees of tasks left alone, by which θ starts.
ALONE_LEAVES = 8
ALONE_MIN_SAMPLES = 5.0
# Small tasks are searched by local bins up to this ratio of the largest weight to the smallest but 0.
MAX_WEIGHT_RATIO = 64.0


@dataclass
class GrownTrees:
    """Trees of one round with the rows that ended in their leaves."""

    trees: TreeArrays
    rows: np.ndarray
    row_start: np.ndarray
    out_rows: np.ndarray
    out_start: np.ndarray

    def renew_values(self, residual: np.ndarray, weight: np.ndarray, quantile: float, n_threads: int) -> None:
        """Leaf values become weighted quantiles of the residuals (n_rows,)."""
        kernel = renew_values_parallel if n_threads > 1 else renew_values
        kernel(self.trees, self.row_start, self.rows, residual, weight, quantile)

    def add_to(self, score: np.ndarray, rate: float, output: int, n_threads: int) -> None:
        """Add ``rate`` × leaf value to ``score`` (n_rows, n_outputs), left-out rows included."""
        kernel = add_leaf_values_parallel if n_threads > 1 else add_leaf_values
        kernel(self.trees, self.row_start, self.rows, self.out_start, self.out_rows, rate, output, n_threads, score)


class Grower:
    """Grows trees on one set of training rows.

    Parameters
    ----------
    rows : TrainingRows
    layout : BinLayout
        With one feature more than ``rows`` have where the task id is a category of the shared and partition trees.
    shared_growth, task_growth : GrowthOptions
    shared_split, task_split : SplitOptions
    n_threads : int
    is_symmetric : bool
        Whether shared trees grow level by level (`symmetric`) and not leaf by leaf (`tree`).
    has_local_bins : bool
        Whether trees of small tasks look at a few bins of the task's own (`local_bins`) and not at all bins.
    """

    def __init__(
        self,
        rows: TrainingRows,
        layout: BinLayout,
        shared_growth: GrowthOptions,
        task_growth: GrowthOptions,
        shared_split: SplitOptions,
        task_split: SplitOptions,
        n_threads: int,
        is_symmetric: bool = False,
        has_local_bins: bool = False,
    ):
        self.rows = rows
        self.layout = layout
        self.shared_growth, self.task_growth = shared_growth, task_growth
        self.shared_split, self.task_split = shared_split, task_split
        self.n_threads = n_threads
        self.is_symmetric = is_symmetric
        self.has_local_bins = has_local_bins
        self.task_ids = rows.task.view(np.uint32)
        self._scratch: dict[tuple[int, bool], Scratch] = {}
        self._candidates: dict[int, Candidates] = {}
        self._shared_trees: dict[int, tuple[TreeArrays, TreeArrays]] = {}
        self._local: LocalBins | None = None
        self._subset_search: np.int64 | None = None
        # Task trees see one task only: its id is no feature to them.
        n_features = rows.n_features
        self.task_layout = layout._replace(
            offset=layout.offset[: n_features + 1],
            is_categorical=layout.is_categorical[:n_features],
            monotonic=layout.monotonic[:n_features],
        )
        self.n_set_words, self.n_set_words_of_tasks = n_set_words(layout), n_set_words(self.task_layout)

    def grow_shared(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, sample: RowSample, seed: int
    ) -> GrownTrees:
        """One tree on all rows of the sample, good until the next one is grown; derivatives are (K, n_rows)."""
        trees, tree = self.shared_tree(len(gradient))
        rows, out_rows = sample.rows.copy(), sample.out_rows.copy()
        packing, scratch = self._pack(gradient, hessian, weight, len(rows))
        table = Table(self.rows.words, self.task_ids, gradient, hessian, weight)
        data = table, self.layout, rows, out_rows, self.shared_growth, self.shared_split, packing
        rest = np.uint64(seed), team_of(self.n_threads), tree
        if self.is_symmetric:
            trees.n_nodes[0] = grow_symmetric_tree(*data, scratch, self.subset_search(), *rest)
        else:
            candidates = self._candidates_for(_n_channels(gradient, self.shared_split))
            trees.n_nodes[0] = grow_tree(*data, candidates, scratch, *rest)
        return GrownTrees(trees, rows, np.array([0, len(rows)]), out_rows, np.array([0, len(out_rows)]))

    def subset_search(self) -> np.int64:
        """What symmetric trees search sets of levels by, see `level.Level`."""
        if self._subset_search is None:
            self._subset_search = find_subset_search(self.layout, self.shared_split)
        return self._subset_search

    def grow_per_task(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, sample: RowSample, seeds: np.ndarray
    ) -> GrownTrees:
        """One tree per task on the task's rows of the sample."""
        return self._grow_per_task(gradient, hessian, weight, sample, seeds, self.task_growth, self.task_split)

    def grow_alone(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, sample: RowSample, seed: int
    ) -> GrownTrees:
        """One small tree per task, whatever the size of task trees: what a task could do without the others."""
        growth = GrowthOptions(ALONE_LEAVES, self.task_growth.max_depth, self.rows.n_features)
        split = self.task_split._replace(min_samples_leaf=ALONE_MIN_SAMPLES)
        seeds = np.full(self.rows.n_tasks, seed, dtype=np.uint64)
        return self._grow_per_task(gradient, hessian, weight, sample, seeds, growth, split)

    def room_of_tasks(self, gradient: np.ndarray) -> tuple[TreeArrays, LocalBins, Scratch]:
        """Room for the trees of all tasks, the tasks' own bins, and scratch memory for those without."""
        trees = self._allocate(self.rows.n_tasks, self.task_growth, len(gradient), self.n_set_words_of_tasks)
        return trees, self._local_bins(len(gradient)), self._scratch_for(_n_channels(gradient, self.task_split), False)

    def size_of_round(self, per_task: bool) -> tuple[int, int]:
        """Nodes, and words for their sets of levels, that the trees of a round have at most."""
        n_trees, growth, n_words = 1, self.shared_growth, self.n_set_words
        if per_task:
            n_trees, growth, n_words = self.rows.n_tasks, self.task_growth, self.n_set_words_of_tasks
        n_nodes = n_trees * (2 * self._max_leaves(growth) - 1)
        return n_nodes, n_nodes * n_words

    def _max_leaves(self, growth: GrowthOptions) -> int:
        return min(growth.max_leaf_nodes, max(self.rows.n_rows, 1))

    def _grow_per_task(self, gradient, hessian, weight, sample, seeds, growth, split) -> GrownTrees:  # type: ignore[no-untyped-def]
        trees = self._allocate(self.rows.n_tasks, growth, len(gradient), self.n_set_words_of_tasks)
        rows, out_rows = sample.rows.copy(), sample.out_rows.copy()
        table, local = Table(self.rows.words, self.task_ids, gradient, hessian, weight), self._local_bins(len(gradient))
        data = table, self.task_layout, rows, sample.row_start, out_rows, sample.out_start, local
        if local.n_bins.any():
            kernel = grow_small_trees_parallel if self.n_threads > 1 else grow_small_trees
            kernel(*data, not self.rows.is_unweighted, growth, split, seeds, trees)
        if not local.n_bins.all():
            scratch = self._scratch_for(_n_channels(gradient, split), False)
            kernel = grow_trees_parallel if self.n_threads > 1 else grow_trees
            kernel(*data, growth, split, scratch, seeds, trees)
        return GrownTrees(trees, rows, sample.row_start, out_rows, sample.out_start)

    def _local_bins(self, n_outputs: int) -> LocalBins:
        """Bins of the small tasks' own.

        None where all bins are to be looked at, for thousands of features, leaves of several outputs, with monotonic
        constraints, or where rows of large weight would leave nothing of the others when derivatives are rounded.
        """
        if n_outputs > 1:
            return no_local_bins(self.rows.n_tasks)
        if self._local is None:
            weight = self.rows.weight
            is_even = weight.max(initial=0.0) <= MAX_WEIGHT_RATIO * weight[weight > 0.0].min(initial=np.inf)
            max_rows = max_rows_for(self.task_layout)
            if not self.has_local_bins or self.task_layout.monotonic.any() or not is_even or max_rows == 0:
                self._local = no_local_bins(self.rows.n_tasks)
                return self._local
            self._local = new_local_bins(self.task_layout, self.rows.n_rows, self.rows.n_tasks)
            kernel = find_local_bins_parallel if self.n_threads > 1 else find_local_bins
            kernel(self.rows.words, weight, self.rows.task_start, self.task_layout.offset, max_rows, self._local)
        return self._local

    def _pack(
        self, gradient: np.ndarray, hessian: np.ndarray, weight: np.ndarray, n_in_root: int
    ) -> tuple[Packing | None, Scratch]:
        """Packed derivatives where they may be packed and the root makes histograms."""
        packing = None
        if n_in_root > SMALL_NODE and self.may_pack(gradient, weight):
            packing = choose_packing(gradient, hessian, self.shared_split.constant_hessian)
        scratch = self.scratch_of_shared(gradient, packing is not None)
        if packing is not None:
            kernel = pack_rows_parallel if self.n_threads > 1 else pack_rows
            kernel(gradient, hessian, packing, scratch.packed)
        return packing, scratch

    def may_pack(self, gradient: np.ndarray, weight: np.ndarray) -> bool:
        """Whether derivatives are of a kind to be packed: every row counts once, and leaves hold one output.

        Not with monotonic constraints: bounds on leaf values come from the sums of histograms, which are to be exact.
        """
        counts_once = weight is self.rows.weight and self.rows.is_unweighted
        return len(gradient) == 1 and counts_once and not self.layout.monotonic.any()

    def scratch_of_shared(self, gradient: np.ndarray, is_packed: bool) -> Scratch:
        """Scratch memory of shared trees."""
        return self._scratch_for(_n_channels(gradient, self.shared_split), is_packed)

    def _scratch_for(self, n_channels: int, is_packed: bool) -> Scratch:
        if (n_channels, is_packed) not in self._scratch:
            n_rows, n_bins = self.rows.n_rows, int(self.layout.offset[-1])
            n_packed, n_leaves = n_rows if is_packed else 0, min(self.shared_growth.max_leaf_nodes, n_rows)
            self._scratch[n_channels, is_packed] = Scratch(
                statistics=np.empty((SMALL_NODE if is_packed else n_rows, n_channels)),
                packed=np.empty(n_packed, dtype=np.int64),
                gathered=np.empty(n_packed, dtype=np.int64),
                sums=np.empty((self.n_threads, 3, 1024), dtype=np.int64),
                buffer=np.empty(n_rows, dtype=np.uint32),
                left_buffer=np.empty(n_rows if self.n_threads > 1 else 0, dtype=np.uint32),
                pool=np.empty((n_leaves if is_packed or self.is_symmetric else 0, n_bins, n_channels)),
            )
        return self._scratch[n_channels, is_packed]

    def _candidates_for(self, n_channels: int) -> Candidates | None:
        """Room for the splits that shared trees search histograms for; None where all rows together are few."""
        if self.rows.n_rows <= SMALL_NODE:
            return None
        if n_channels not in self._candidates:
            self._candidates[n_channels] = new_candidates(len(self.layout.offset) - 1, n_channels)
        return self._candidates[n_channels]

    def shared_tree(self, n_outputs: int) -> tuple[TreeArrays, TreeArrays]:
        """Room for a shared tree, as a stack of one and as the tree in it: made once, there is one in every round."""
        if n_outputs not in self._shared_trees:
            trees = self._allocate(1, self.shared_growth, n_outputs, self.n_set_words)
            self._shared_trees[n_outputs] = trees, only_tree(trees)
        return self._shared_trees[n_outputs]

    def _allocate(self, n_trees: int, growth: GrowthOptions, n_outputs: int, n_words: int) -> TreeArrays:
        return allocate_trees(n_trees, self._max_leaves(growth), n_outputs, n_words)


def n_set_words(layout: BinLayout) -> int:
    """Words of 32 bits that a set of levels needs."""
    n_levels = np.diff(layout.offset)[layout.is_categorical.astype(bool)] - 1
    return (int(n_levels.max(initial=0)) + 31) // 32


def _n_channels(gradient: np.ndarray, split: SplitOptions) -> int:
    return 1 + len(gradient) if split.constant_hessian else 1 + 2 * len(gradient)
