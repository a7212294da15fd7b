"""What `fused_kernel.run_rounds` is given: tuples of arrays, of which it writes to many, and of numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .collecting import NodeRoom
from .forest import Trees
from .local_bins import LocalBins
from .splitting import SplitOptions
from .tree import GrowthOptions, Scratch, Table
from .tree_arrays import TreeArrays


class Kernels(NamedTuple):
    """Addresses int64 of the kernels of a round, 0 of those that the fit at hand has no use for.

    Of the four that grow trees a fit has one, or both of those for tasks; of the two that follow validation rows
    through them one.
    """

    derivatives: int
    draw_rows: int
    grow_symmetric: int
    grow_symmetric_packed: int
    grow_small: int
    grow_large: int
    add_leaf_values: int
    collect: int
    walk: int
    walk_many: int
    values: int


class Growth(NamedTuple):
    """What trees are grown by and in; see `tree.grow_tree` and `task_trees` for most of it.

    trees : TreeArrays of a round; tree : the first one, the only one but for trees per task
    task_keys, seeds : uint64 (n_tasks,), random bits of each task, and room for its seed in a round
    """

    table: Table
    layout: Any
    growth: GrowthOptions
    split: SplitOptions
    scratch: Scratch
    subset_search: np.int64
    local: LocalBins
    trees: TreeArrays
    tree: TreeArrays
    task_keys: np.ndarray
    seeds: np.ndarray


class Scored(NamedTuple):
    """Scores of some rows, see `rows.Scores`.

    task : int32 (n_rows,); fixed : float64 (n_rows, 1)
    groups : float64 (n_groups, n_rows, 1), none where no branch has trees; shares : float64 (n_groups, n_rows)
    total : float64 (n_rows, 1), scratch; the fixed part itself where there are no groups
    """

    task: np.ndarray
    fixed: np.ndarray
    groups: np.ndarray
    shares: np.ndarray
    total: np.ndarray


class Training(NamedTuple):
    """Training rows.

    y, weight : float64 (n_rows,); key, task_start : see `sampling.draw_rows`
    loss : float64 (n_sums,), sums of losses of some rows each
    rows, row_start, out_rows, out_start : the sample of a round
    bounds, out_bounds : int64 (2,), where rows of one tree for all begin and end
    """

    y: np.ndarray
    weight: np.ndarray
    scored: Scored
    key: np.ndarray
    task_start: np.ndarray
    loss: np.ndarray
    rows: np.ndarray
    row_start: np.ndarray
    out_rows: np.ndarray
    out_start: np.ndarray
    bounds: np.ndarray
    out_bounds: np.ndarray


class Held(NamedTuple):
    """Validation rows, perhaps none: X float64 (n_features, n_rows), y, weight and loss float64 (n_rows,)."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    loss: np.ndarray
    scored: Scored


class Branches(NamedTuple):
    """What rounds of the partition block work on besides; θ and all in its shape are in columns, see `theta`.

    theta, gradient, center : float64 (n_tasks, n_columns); mixing : float64 (n_tasks + 1, n_groups)
    unit, task_mass : float64 (n_tasks,); sums : float64 (n_groups, n_tasks); is_member : bool (n_tasks,)
    table : Table of a branch's own derivatives and weights
    rows, out_rows, row_start, out_start : its sample
    rate, penalty, least : see `options.BoostingOptions`
    """

    theta: np.ndarray
    gradient: np.ndarray
    center: np.ndarray
    mixing: np.ndarray
    unit: np.ndarray
    task_mass: np.ndarray
    sums: np.ndarray
    is_member: np.ndarray
    table: Table
    rows: np.ndarray
    row_start: np.ndarray
    out_rows: np.ndarray
    out_start: np.ndarray
    rate: float
    penalty: float
    least: float


class Plan(NamedTuple):
    """Numbers of a block.

    parameter : of the loss; share : of the rows that are drawn; rate : the learning rate
    held_weight : of all validation rows; patience : −1 where nothing ends the block early
    block : see `forest.BLOCKS`; per_task : a tree for each task, not one for all
    is_packed : derivatives are whole numbers, see `packed_histogram`
    is_weighted, has_small, has_large : see `task_trees`
    """

    parameter: float
    share: float
    rate: float
    n_tasks: int
    held_weight: float
    patience: int
    tol: float
    block: int
    per_task: bool
    is_packed: bool
    is_weighted: bool
    has_small: bool
    has_large: bool


class Best(NamedTuple):
    """The best round so far: loss float64 (1,), how many rounds were done int64 (1,), scores of all rows, and θ."""

    loss: np.ndarray
    round: np.ndarray
    fixed: np.ndarray
    held_fixed: np.ndarray
    groups: np.ndarray
    held_groups: np.ndarray
    theta: np.ndarray


class Told(NamedTuple):
    """What rounds leave behind: nodes, and losses float64 (n_rounds,), the sum of training before and of validation.

    n_levels : see `collecting.collect_nodes`; trees : Trees of the last round
    """

    room: NodeRoom
    n_levels: np.ndarray
    trees: Trees
    training: np.ndarray
    validation: np.ndarray
