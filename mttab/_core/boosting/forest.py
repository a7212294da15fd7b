"""The model format: all trees of a model as flat arrays.

Nodes of all trees lie one after the other, trees likewise; nothing is an object per tree. A node's children are indices
into the same arrays. Predicting, exporting, saving and explaining read this and nothing else.

The score of row i of task t is

    base + Σ shared trees + Σ partition trees × mixing[t, group of tree] + Σ task trees of t

and the three sums are kept apart, as `BLOCKS` names them. The last row of ``mixing`` serves tasks unseen at fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from mttab._core.records import require

from .binning import BinMapper
from .coded_rows import MIN_ROWS_PER_NODE, add_coded_trees, add_coded_trees_parallel, ranges_for_coding
from .collecting import NodeRoom, collect_nodes, joined, shifted
from .leaf_masks import MIN_ROWS, LeafMasks, make_masks, new_masks
from .scoring import BLOCKS as BLOCKS
from .scoring import PARTITION as PARTITION
from .scoring import SHARED as SHARED
from .scoring import (
    TASK,
    WALKED_ROWS,
    add_task_trees,
    add_task_trees_parallel,
    add_tree,
    add_tree_parallel,
    add_trees,
    add_trees_parallel,
    blocks_of_tasks,
    walk_round,
    walk_round_parallel,
)
from .tree_arrays import TreeArrays


class Nodes(NamedTuple):
    """Nodes of all trees, (n_nodes,) each unless noted.

    feature : int32, −1 in a leaf; n_features means the task id
    threshold : float64, values ``<=`` it go left
    missing_left : bool; left, right : int32
    category_start : int32, first word of the split's level set in ``category_words``, −1 for a numeric split
    category_words : uint32 (n_words_total,); n_levels : int32, levels that the set covers
    value : float64 (n_nodes, K), learning rate included, 0 in inner nodes
    gain, weight : float64, loss reduction of the split and sum of sample weights (unknown to prediction)
    """

    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    category_start: np.ndarray
    n_levels: np.ndarray
    category_words: np.ndarray
    value: np.ndarray
    gain: np.ndarray
    weight: np.ndarray


class Trees(NamedTuple):
    """One entry per tree, all int32 (n_trees,).

    root : first node; block : index into `BLOCKS`; round : within the block
    group : partition group, or task in the task block, 0 in the shared block
    output : score column that one-output leaves add to, 0 for vector leaves
    """

    root: np.ndarray
    block: np.ndarray
    group: np.ndarray
    round: np.ndarray
    output: np.ndarray


_NODE_TYPES: dict[str, Any] = dict.fromkeys(Nodes._fields, np.int32)
_NODE_TYPES |= {"missing_left": np.bool_, "category_words": np.uint32}
_NODE_TYPES |= dict.fromkeys(("threshold", "value", "gain", "weight"), np.float64)


@dataclass
class Forest:
    """A fitted additive model over binned-at-fit, raw-at-predict features.

    Attributes
    ----------
    nodes, trees : Nodes, Trees
        Trees are sorted by block, then (task block only) by task, then round, group and output.
    base : float64 (n_outputs,)
    mixing : float64 (n_tasks + 1, n_groups)
        Weight of each partition group in each task's score; the last row is for unseen tasks.
    n_rounds : tuple of three ints
    """

    nodes: Nodes
    trees: Trees
    base: np.ndarray
    mixing: np.ndarray
    n_rounds: tuple[int, int, int]
    _task_start: np.ndarray = field(init=False, repr=False)
    _n_common: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_tasks = len(self.mixing) - 1
        self._n_common = int(np.sum(self.trees.block != TASK))
        counts = np.bincount(self.trees.group[self._n_common :], minlength=n_tasks + 1)
        self._task_start = (self._n_common + np.concatenate([[0], np.cumsum(counts)])).astype(np.int64)

    def check_state(self) -> None:
        """Raise ValueError unless the arrays fit together: kernels follow these indices without looking."""
        nodes, trees = self.nodes, self.trees
        n_nodes, n_trees = len(nodes.feature), len(trees.root)
        for name, dtype in _NODE_TYPES.items():
            shape = getattr(nodes, name).shape
            require(getattr(nodes, name).dtype == dtype, f"nodes.{name} is not {np.dtype(dtype)}")
            require(name == "category_words" or shape[:1] == (n_nodes,), f"nodes.{name} has shape {shape}")
            require(len(shape) == (2 if name == "value" else 1), f"nodes.{name} has shape {shape}")
        for name, column in trees._asdict().items():
            require(column.dtype == np.int32 and column.shape == (n_trees,), f"trees.{name} is no int32 ({n_trees},)")
        for name in ("base", "mixing"):
            require(getattr(self, name).dtype == np.float64, f"{name} is not float64")
        require(self.base.ndim == 1 and self.mixing.ndim == 2 and self.mixing.size > 0, "base or mixing is misshapen")
        inner, at = nodes.feature >= 0, np.arange(n_nodes)
        for child in (nodes.left, nodes.right):
            require(np.all(~inner | ((child > at) & (child < n_nodes))), "a node has no child where it should")
            require(np.all(inner | (child == -1)), "a leaf of a tree has a child")
        # Each tree is a range of nodes, of which all but the root are the child of one node of the tree.
        roots = np.sort(trees.root)
        require(np.array_equal(roots, np.unique(roots)), "two trees have one root")
        tree = np.searchsorted(roots, at, side="right")
        children = np.concatenate([nodes.left[inner], nodes.right[inner]])
        require(np.array_equal(tree[children], np.tile(tree[inner], 2)), "a tree goes on in another one")
        n_parents = np.bincount(children, minlength=n_nodes)
        require(np.all((trees.root >= 0) & (trees.root < n_nodes)), "a tree has no root")
        is_root = np.zeros(n_nodes, dtype=bool)
        is_root[trees.root] = True
        require(np.array_equal(n_parents, np.where(is_root, 0, 1)), "a node is in no tree, or twice in one")
        start, n_words = nodes.category_start, (nodes.n_levels.astype(np.int64) + 31) // 32
        is_set = inner & (start >= 0)
        require(np.all(start >= -1), "a set of levels begins nowhere")
        fits = (nodes.n_levels >= 0) & (start + n_words <= len(nodes.category_words))
        require(np.all(~is_set | fits), "a set of levels is cut off")
        limit = np.array([1, self.mixing.shape[1], len(self.mixing) - 1])
        require(np.all((trees.block >= 0) & (trees.block <= TASK)), "a tree is of no block")
        require(np.all((trees.group >= 0) & (trees.group < limit[trees.block])), "a tree is of no group or task")
        rounds = np.asarray(self.n_rounds)
        require(np.all((trees.round >= 0) & (trees.round < rounds[trees.block])), "a tree is of no round")
        last = self.n_outputs - nodes.value.shape[1]
        require(np.all((trees.output >= 0) & (trees.output <= last)), "a tree is of no output")
        by_task = np.where(trees.block == TASK, trees.group, 0)
        order = np.lexsort((trees.round, by_task, trees.block))
        require(np.array_equal(order, np.arange(n_trees)), "the trees are not sorted")

    @property
    def n_outputs(self) -> int:
        return len(self.base)

    def trees_of(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Trees int64 that act for a task (n_tasks: an unseen one), and the weight float64 of each in its score."""
        trees = np.append(np.arange(self._n_common), np.arange(self._task_start[task], self._task_start[task + 1]))
        is_mixed = self.trees.block[trees] == PARTITION
        share = np.where(is_mixed, self.mixing[task, np.where(is_mixed, self.trees.group[trees], 0)], 1.0)
        return trees[share != 0.0].astype(np.int64), share[share != 0.0]

    def block_scores(self, X: np.ndarray, task: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Contribution (3, n_rows, n_outputs) of every block, the base not included.

        X : float64 (n_features, n_rows), categories as codes; task : int32 (n_rows,), n_tasks for unseen ones
        """
        first, last = self._task_start[:-1], self._task_start[1:]
        if X.shape[1] < MIN_ROWS:
            return self._walk(X, task, 0, self._n_common, first, last, n_threads)
        out = self._walk(X, task, 0, self._n_common, first, first, n_threads)
        if len(self.trees.root) > self._n_common:
            order, block_task, block_start = blocks_of_tasks(task, len(first))
            masks = self.masks(self._n_common, len(self.trees.root))
            kernel = add_task_trees_parallel if n_threads > 1 else add_task_trees
            kernel(X, order, block_task, block_start, self.nodes, self.trees, masks, first, last, out)
        return out

    def score(self, X: np.ndarray, task: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Score (n_rows, n_outputs) before the link."""
        return self.base + self.block_scores(X, task, n_threads).sum(axis=0)

    def group_score(self, X: np.ndarray, task: np.ndarray, group: int, n_threads: int = 1) -> np.ndarray:
        """Score (n_rows, n_outputs) of one partition group alone, not weighted by θ."""
        only = np.zeros_like(self.mixing)
        only[:, group] = 1.0
        return replace(self, mixing=only).block_scores(X, task, n_threads)[PARTITION]

    def staged_block_scores(self, X: np.ndarray, task: np.ndarray, n_threads: int = 1):  # type: ignore[no-untyped-def]
        """Yield the contributions (3, n_rows, n_outputs) after each round of each block, in the order of training."""
        total = np.zeros((3, X.shape[1], self.n_outputs))
        none = self._task_start[:-1]
        for block in (SHARED, PARTITION):
            for r in range(self.n_rounds[block]):
                of_round = np.flatnonzero((self.trees.block == block) & (self.trees.round == r))
                total += self._walk(X, task, of_round[0], of_round[-1] + 1, none, none, n_threads)
                yield total.copy()
        tree_rounds = self.trees.round
        for r in range(self.n_rounds[TASK]):
            first, last = self._task_start[:-1].copy(), self._task_start[1:].copy()
            for t in range(len(first)):
                own = tree_rounds[first[t] : last[t]]
                last[t] = first[t] + np.searchsorted(own, r, side="right")
                first[t] += np.searchsorted(own, r, side="left")
            total += self._walk(X, task, 0, 0, first, last, n_threads)
            yield total.copy()

    def masks(self, begin: int, end: int) -> LeafMasks:
        """Masks of the trees ``begin:end``; the others are walked."""
        is_any = end > begin
        masks = new_masks(len(self.nodes.feature) if is_any else 0, len(self.trees.root))
        if is_any:
            make_masks(self.nodes, self.trees.root, begin, end, masks)
        return masks

    def _walk(self, X, task, begin, end, task_begin, task_end, n_threads):  # type: ignore[no-untyped-def]
        out = np.zeros((3, X.shape[1], self.n_outputs))
        kernel = add_trees_parallel if n_threads > 1 else add_trees
        masks = self.masks(begin, end if X.shape[1] >= MIN_ROWS else begin)
        data, none = (X, task, self.nodes, self.trees, masks), self._task_start[:-1]
        if X.shape[1] * (end - begin) >= max(MIN_ROWS, MIN_ROWS_PER_NODE * len(self.nodes.feature)):
            coded = add_coded_trees_parallel if n_threads > 1 else add_coded_trees
            root, n_tasks = self.trees.root, len(self.mixing) - 1
            for first, last, coding in ranges_for_coding(self.nodes, root, masks, begin, end, len(X), n_tasks):
                if coding is None:
                    kernel(*data, self.mixing, first, last, none, none, out)
                else:
                    coded(*data, coding, self.mixing, first, last, out)
            begin = end
        if begin < end or np.any(task_begin < task_end):
            kernel(*data, self.mixing, begin, end, task_begin, task_end, out)
        return out


class ForestBuilder:
    """Collects grown trees round by round and lays them out as a `Forest` at the end."""

    def __init__(self, mapper: BinMapper, n_tasks: int):
        self._mapper = mapper
        self._n_tasks = n_tasks
        n_levels = np.append(np.where(mapper.is_categorical, mapper.n_bins, 0), n_tasks)
        self.n_levels = n_levels.astype(np.int64)
        self._chunks: list[tuple[Nodes, Trees]] = []

    def copy(self) -> ForestBuilder:
        """One that goes its own way from here."""
        copied = ForestBuilder(self._mapper, self._n_tasks)
        copied._chunks = list(self._chunks)
        return copied

    def append(
        self, grown: TreeArrays, block: int, group: np.ndarray, round_: int, output: int, learning_rate: float
    ) -> tuple[Nodes, Trees]:
        """Add a stack of trees of one round and return it; ``group`` (n_trees,) is the partition group or the task."""
        n_nodes = int(grown.n_nodes.sum())
        ints, floats = np.empty((5, n_nodes), dtype=np.int32), np.empty((3, n_nodes))
        missing_left, value = np.empty(n_nodes, dtype=np.bool_), np.empty((n_nodes, grown.value.shape[2]))
        words = np.empty(n_nodes * grown.category_set.shape[2], dtype=np.uint32)
        n_words = collect_nodes(grown, self.n_levels, float(learning_rate), ints, floats, missing_left, value, words)
        nodes = _nodes(ints, floats, missing_left, value, words[:n_words].copy())
        trees = _trees(grown.n_nodes, block, group, round_, output)
        self._chunks.append((nodes, trees))
        return nodes, trees

    def append_rounds(self, room: NodeRoom, n_rounds: int, n_places: int, block: int, first: int) -> None:
        """Add the trees of rounds, of which the first has the number ``first``.

        A round has so many places in the room, one but for branches, and a tree for each group, or task, in all.
        """
        n_trees = n_places * room.n_nodes.shape[1]
        group, number = np.tile(np.arange(n_trees), n_rounds), np.repeat(np.arange(first, first + n_rounds), n_trees)
        trees = _trees(room.n_nodes[: n_rounds * n_places].ravel(), block, group, number, 0)
        self._chunks.append((_nodes(*joined(room, n_rounds * n_places)), trees))

    def append_forest(self, forest: Forest) -> None:
        """Start from the trees of a fitted model."""
        self.append_part(forest.nodes, forest.trees)

    def append_part(self, nodes: Nodes, trees: Trees) -> None:
        """Add finished trees of any blocks and rounds, with their nodes."""
        self._chunks.append((nodes, trees))

    def truncate(self, block: int, n_rounds: int) -> None:
        """Forget the trees of ``block`` from round ``n_rounds`` on."""
        kept = []
        for nodes, trees in self._chunks:
            is_kept = (trees.block != block) | (trees.round < n_rounds)
            if is_kept.all():
                kept.append((nodes, trees))
            elif is_kept.any():
                kept.append(_first_trees(nodes, trees, int(np.argmin(is_kept))))
        self._chunks = kept

    def reorder_groups(self, order: np.ndarray) -> None:
        """Renumber the groups of the partition block: group ``order[k]`` becomes group k."""
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order))
        for i, (nodes, trees) in enumerate(self._chunks):
            is_branch = trees.block == PARTITION
            group = np.where(is_branch, place[np.where(is_branch, trees.group, 0)], trees.group)
            self._chunks[i] = (nodes, trees._replace(group=group))

    def build(
        self, base: np.ndarray, mixing: np.ndarray, n_rounds: tuple[int, int, int], n_leaf_outputs: int
    ) -> Forest:
        """Lay all trees out, sorted as `Forest` says."""
        nodes, trees = _concatenate(self._chunks, n_leaf_outputs)
        by_task = np.where(trees.block == TASK, trees.group, 0)
        order = np.lexsort((trees.output, trees.group, trees.round, by_task, trees.block))
        trees = Trees(*(column[order] for column in trees))
        return Forest(nodes, trees, base, mixing, n_rounds)


def _nodes(
    ints: np.ndarray, floats: np.ndarray, missing_left: np.ndarray, value: np.ndarray, words: np.ndarray
) -> Nodes:
    """Nodes from what `collect_nodes` has written."""
    feature, left, right, category_start, n_levels = ints
    threshold, gain, weight = floats
    return Nodes(feature, threshold, missing_left, left, right, category_start, n_levels, words, value, gain, weight)


def _trees(n_nodes: np.ndarray, block: int, group: Any, round_: Any, output: int) -> Trees:
    """Trees of so many nodes each, one after the other."""
    of_tree = np.empty((5, len(n_nodes)), dtype=np.int32)
    root, of_tree[1], of_tree[2], of_tree[3], of_tree[4] = of_tree[0], block, group, round_, output
    root[0] = 0
    np.cumsum(n_nodes[:-1], dtype=np.int32, out=root[1:])
    return Trees(*of_tree)


def _first_trees(nodes: Nodes, trees: Trees, n_trees: int) -> tuple[Nodes, Trees]:
    """The first of several trees that stand one after the other."""
    end = trees.root[n_trees]
    cut_off = nodes.category_start[end:]
    n_words = int(np.min(cut_off, where=cut_off >= 0, initial=len(nodes.category_words)))
    first = nodes._replace(category_words=nodes.category_words[:n_words])
    rest = {name: getattr(nodes, name)[:end] for name in Nodes._fields if name != "category_words"}
    return first._replace(**rest), Trees(*(column[:n_trees] for column in trees))


def _concatenate(chunks: list[tuple[Nodes, Trees]], n_leaf_outputs: int) -> tuple[Nodes, Trees]:
    if not chunks:
        i, f, b = np.empty(0, np.int32), np.empty(0), np.empty(0, np.bool_)
        words, value = np.empty(0, np.uint32), np.empty((0, n_leaf_outputs))
        return Nodes(i, f, b, i, i, i, i, words, value, f, f), Trees(i, i, i, i, i)
    all_nodes, all_trees = (zip(*parts, strict=True) for parts in zip(*chunks, strict=True))
    nodes, trees = Nodes(*map(np.concatenate, all_nodes)), Trees(*map(np.concatenate, all_trees))
    n_nodes, n_words, n_trees = (
        np.array([len(part) for part in parts])
        for parts in zip(*((n.feature, n.category_words, t.root) for n, t in chunks), strict=True)
    )
    first_node, first_word = ((np.cumsum(n) - n).astype(np.int32) for n in (n_nodes, n_words))
    shift, shift_of_words = np.repeat(first_node, n_nodes), np.repeat(first_word, n_nodes)
    return nodes._replace(
        left=shifted(nodes.left, shift),
        right=shifted(nodes.right, shift),
        category_start=shifted(nodes.category_start, shift_of_words),
    ), trees._replace(root=shifted(trees.root, np.repeat(first_node, n_trees)))


def add_round(
    grown: tuple[Nodes, Trees], X: np.ndarray, task: np.ndarray, n_tasks: int, out_score: np.ndarray, n_threads: int
) -> None:
    """Add the trees that `ForestBuilder.append` has just stored to the score of other rows."""
    nodes, trees = grown
    is_per_task = bool(trees.block[0] == TASK)
    if is_per_task or X.shape[1] < WALKED_ROWS:
        kernel = walk_round_parallel if n_threads > 1 else walk_round
        kernel(X, task, n_tasks, nodes, trees, is_per_task, out_score)
    else:
        kernel = add_tree_parallel if n_threads > 1 else add_tree
        kernel(X, task, n_tasks, nodes, trees, out_score)
