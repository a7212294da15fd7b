"""Slow, obvious twins of the fast code, in plain numpy. They know the documented rules and nothing of the kernels.

Sums are `math.fsum`: correctly rounded, whatever the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, softmax

# A later candidate must beat the best one so far by more than this share of its score.
TIE = 1e-10


# --- one node: histogram and split ----------------------------------------------------------------------------------


@dataclass
class Problem:
    """A tree to grow.

    columns : one int array (n_rows,) of bin codes per feature
    n_bins : value bins of each feature, the code n_bins[f] is *missing*
    kinds : of each feature, 0 for numbers, 1 for a category, 2 for the task id
    gradient, hessian : (K, n_rows), sample weights included; with a constant hessian it is the weight
    """

    columns: list[np.ndarray]
    n_bins: list[int]
    kinds: list[int]
    monotonic: list[int]
    weight: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    min_samples_leaf: float = 1.0
    min_hessian: float = 1e-3
    l2: float = 0.0
    categorical_prior: float = 10.0
    categorical_min_rows: float = 20.0
    max_leaf_nodes: int = 31
    max_depth: int = 2**31

    @property
    def n_outputs(self) -> int:
        return len(self.gradient)


@dataclass
class Split:
    """``is_left``: which of the node's rows go left; ``levels``: the category levels that do, rows or not."""

    feature: int
    is_left: np.ndarray
    left_bin: int = 0
    right_bin: int = 0
    missing_left: bool = False
    levels: set[int] = field(default_factory=set)


def histogram(columns: list[np.ndarray], n_bins: list[int], rows: np.ndarray, channels: list[np.ndarray]) -> np.ndarray:
    """Sums of every channel per bin, features one after the other, the missing bin last in each."""
    parts = []
    for codes, n in zip(columns, n_bins, strict=True):
        for b in range(n + 1):
            inside = [i for i in rows if codes[i] == b]
            parts.append([math.fsum(channel[inside]) for channel in channels])
    return np.array(parts)


def local_bins(codes: np.ndarray, weight: np.ndarray, n_missing: int, max_bins: int) -> np.ndarray:
    """Bin of each row of a small task among the task's own, −1 where its value is missing.

    Every bin in use is one if there are at most `max_bins`. Else rows that share a bin stay together, and the bin is
    how many of `max_bins` equal shares of the weight end before it.
    """
    total = math.fsum(weight[codes != n_missing])
    used = np.unique(codes[codes != n_missing])
    if len(used) <= max_bins:
        own = {code: k for k, code in enumerate(used)}
    else:
        own = {code: int(math.fsum(weight[codes < code]) * max_bins / total + 1e-9) for code in used}
    return np.array([own.get(code, -1) for code in codes])


def leaf_value(
    problem: Problem, rows: np.ndarray, k: int, low: float = -math.inf, high: float = math.inf, extra_l2: float = 0.0
) -> float:
    """−G / (H + λ), within the bounds."""
    g, h = math.fsum(problem.gradient[k, rows]), math.fsum(problem.hessian[k, rows])
    l2 = problem.l2 + extra_l2
    value = -g / (h + l2) if h + l2 > 0 else 0.0
    return min(max(value, low), high)


def node_score(
    problem: Problem, rows: np.ndarray, low: float = -math.inf, high: float = math.inf, extra_l2: float = 0.0
) -> float:
    """Σ_k G_k² / (H_k + λ): twice the loss that the leaf values save, also where bounds hold them."""
    total = 0.0
    for k in range(problem.n_outputs):
        g, h = math.fsum(problem.gradient[k, rows]), math.fsum(problem.hessian[k, rows])
        value = leaf_value(problem, rows, k, low, high, extra_l2)
        total += -2.0 * g * value - (h + problem.l2 + extra_l2) * value**2
    return total


def is_allowed(problem: Problem, rows: np.ndarray) -> bool:
    """Rows, enough weight (up to rounding), and enough curvature."""
    weight = math.fsum(problem.weight[rows])
    curvature = math.fsum(problem.hessian[:, rows].ravel())
    return len(rows) > 0 and weight >= problem.min_samples_leaf * (1 - 1e-9) and curvature >= problem.min_hessian


def prior_l2(problem: Problem, f: int, rows: np.ndarray) -> float:
    """What is added to λ where subsets of levels are scored: rows of prior with the mean hessian of ``rows``."""
    if problem.kinds[f] == 0:
        return 0.0
    mean_hessian = math.fsum(problem.hessian[:, rows].ravel()) / math.fsum(problem.weight[rows]) / problem.n_outputs
    return problem.categorical_prior * mean_hessian


def split_score(problem: Problem, rows: np.ndarray, split: Split, low: float, high: float, extra_l2: float) -> float:
    """Score of both children, −inf where the split is not allowed."""
    left, right = rows[split.is_left], rows[~split.is_left]
    if not (is_allowed(problem, left) and is_allowed(problem, right)):
        return -math.inf
    direction = problem.monotonic[split.feature]
    if direction * (leaf_value(problem, right, 0, low, high) - leaf_value(problem, left, 0, low, high)) < 0:
        return -math.inf
    return node_score(problem, left, low, high, extra_l2) + node_score(problem, right, low, high, extra_l2)


def is_left_heavier(problem: Problem, rows: np.ndarray, is_left: np.ndarray) -> bool:
    return math.fsum(problem.weight[rows[is_left]]) >= math.fsum(problem.weight[rows[~is_left]])


def numeric_splits(problem: Problem, f: int, rows: np.ndarray) -> Iterator[Split]:
    """Every cut between two bins that the node uses, missing values right and then left, cuts ascending."""
    codes, missing = problem.columns[f][rows], problem.n_bins[f]
    used = sorted(set(codes[codes != missing].tolist()))
    has_missing = bool((codes == missing).any())
    for missing_left in (False, True) if has_missing else (False,):
        for j, b in enumerate(used):
            if b == used[-1] and (missing_left or not has_missing):
                break  # nothing would be left for the right child
            is_left = np.where(codes == missing, missing_left, codes <= b)
            side = missing_left if has_missing else is_left_heavier(problem, rows, is_left)
            following = used[j + 1] if j + 1 < len(used) else missing
            yield Split(f, is_left, left_bin=b, right_bin=following, missing_left=side)


def categorical_splits(
    problem: Problem, f: int, rows: np.ndarray, other_keys: dict[int, float] | None = None
) -> Iterator[Split]:
    """The prefixes of the node's levels in the order of their smoothed mean gradient, or of other keys.

    *Missing* is a level like the others.

    Levels of a category that have few rows in the node stay right; the order is then tried from both ends.
    """
    codes, missing = problem.columns[f][rows], problem.n_bins[f]
    used = sorted(set(codes.tolist()))
    members = {level: rows[codes == level] for level in used}
    weight = math.fsum(problem.weight[rows])
    smallest = problem.categorical_min_rows * (1 - 1e-9) if problem.kinds[f] == 1 else 0.0
    ranked = [level for level in used if math.fsum(problem.weight[members[level]]) >= smallest]
    widest, keys = -1.0, {}
    for k in range(problem.n_outputs):
        # As many rows of prior as the option says, each with the node's mean hessian.
        prior = problem.categorical_prior * max(math.fsum(problem.hessian[k, rows]), 1e-100) / weight
        sums = {level: math.fsum(problem.gradient[k, members[level]]) for level in ranked}
        means = {level: sums[level] / (math.fsum(problem.hessian[k, members[level]]) + prior) for level in ranked}
        spread = sum(means[level] * sums[level] for level in ranked)
        if spread > widest * (1 + 1e-9):  # outputs that mirror each other differ by rounding only
            widest, keys = spread, means
    keys = keys if other_keys is None else other_keys
    largest = max((abs(mean) for mean in keys.values()), default=0.0)
    order = sorted(ranked, key=lambda level: round(keys[level] / largest * 1e9) if largest > 0 else 0)
    for direction in (order,) if len(ranked) == len(used) else (order, order[::-1]):
        for n_left in range(1, len(direction) + 1):
            left = set(direction[:n_left])
            if len(left) == len(used):
                break
            is_left = np.isin(codes, list(left))
            if is_left_heavier(problem, rows, is_left):
                left |= set(range(missing + 1)) - set(used)
            yield Split(f, is_left, missing_left=missing in left, levels=left - {missing})


def splits_of(problem: Problem, f: int, rows: np.ndarray) -> Iterator[Split]:
    return (categorical_splits if problem.kinds[f] > 0 else numeric_splits)(problem, f, rows)


def best_split(
    problem: Problem,
    rows: np.ndarray,
    features: list[int] | None = None,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[float, Split | None]:
    """Gain and split; features in order, a later candidate has to beat the best one by more than rounding noise."""
    own = node_score(problem, rows, low, high)
    best, chosen = own, None
    for f in range(len(problem.columns)) if features is None else features:
        for split in splits_of(problem, f, rows):
            score = split_score(problem, rows, split, low, high, prior_l2(problem, f, rows))
            if score > best + TIE * abs(best):
                best, chosen = score, split
    return best - own, chosen


# --- one tree ---------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    rows: np.ndarray
    depth: int
    low: float
    high: float
    gain: float = 0.0
    split: Split | None = None
    left: int = -1
    right: int = -1


def grow_tree(problem: Problem, rows: np.ndarray) -> list[Node]:
    """Leaf by leaf, the largest gain first, of equal gains the oldest leaf; children are numbered left, right."""

    def open_node(rows: np.ndarray, depth: int, low: float, high: float) -> Node:
        node = Node(rows, depth, low, high)
        is_large = math.fsum(problem.weight[rows]) >= 2 * problem.min_samples_leaf * (1 - 1e-9)
        if depth < problem.max_depth and (is_large or depth == 0):
            node.gain, node.split = best_split(problem, rows, None, low, high)
        return node

    nodes = [open_node(rows, 0, -math.inf, math.inf)]
    for _ in range(problem.max_leaf_nodes - 1):
        best, gain = None, 0.0
        for node in nodes:
            if node.left < 0 and node.split is not None and node.gain > gain * (1 + 1e-10):
                best, gain = node, node.gain
        if best is None or best.split is None:
            break
        left, right = best.rows[best.split.is_left], best.rows[~best.split.is_left]
        bounds = child_bounds(problem, best, left, right)
        best.left, best.right = len(nodes), len(nodes) + 1
        nodes += [open_node(left, best.depth + 1, *bounds[0]), open_node(right, best.depth + 1, *bounds[1])]
    return nodes


def grow_symmetric_tree(problem: Problem, rows: np.ndarray) -> list[Node]:
    """Level by level: the cut with the largest sum of gains splits every node that it leaves large enough."""
    nodes = [Node(rows, 0, -math.inf, math.inf)]
    open_nodes = [0]
    depth = 0
    while open_nodes and depth < problem.max_depth and 2 ** (depth + 1) <= problem.max_leaf_nodes:
        depth += 1
        scores = {i: node_score(problem, nodes[i].rows, nodes[i].low, nodes[i].high) for i in open_nodes}
        noise = TIE * sum(abs(score) for score in scores.values())
        best, chosen = 0.0, None
        together = np.concatenate([nodes[i].rows for i in open_nodes])
        for f in range(len(problem.columns)):
            extra_l2 = prior_l2(problem, f, together)
            for cut in level_cuts(problem, f, [nodes[i] for i in open_nodes]):
                gain = 0.0
                for i in open_nodes:
                    node = nodes[i]
                    score = split_score(problem, node.rows, split_by(problem, cut, node), node.low, node.high, extra_l2)
                    gain += score - scores[i] if score > -math.inf else 0.0
                if gain > best + noise + TIE * best:
                    best, chosen = gain, cut
        if chosen is None:
            break
        still_open = []
        for i in open_nodes:
            node = nodes[i]
            split = split_by(problem, chosen, node)
            # The prior is for choosing the level's set of levels, and no part of what its nodes gain by it.
            score = split_score(problem, node.rows, split, node.low, node.high, 0.0)
            if score == -math.inf:
                still_open.append(i)
                continue
            node.gain, node.split = max(score - scores[i], 0.0), split
            left, right = node.rows[split.is_left], node.rows[~split.is_left]
            bounds = child_bounds(problem, node, left, right)
            node.left, node.right = len(nodes), len(nodes) + 1
            nodes += [Node(left, depth, *bounds[0]), Node(right, depth, *bounds[1])]
            smallest = 2 * problem.min_samples_leaf * (1 - 1e-9)
            still_open += [j for j in (node.left, node.right) if math.fsum(problem.weight[nodes[j].rows]) >= smallest]
        open_nodes = still_open
    return nodes


def split_by(problem: Problem, cut: Split, node: Node) -> Split:
    """A level's cut as a split of one node."""
    codes, missing = problem.columns[cut.feature][node.rows], problem.n_bins[cut.feature]
    below = np.isin(codes, list(cut.levels)) if problem.kinds[cut.feature] > 0 else codes <= cut.left_bin
    is_left = np.where(codes == missing, cut.missing_left, below)
    return Split(cut.feature, is_left, cut.left_bin, cut.right_bin, cut.missing_left, cut.levels)


def level_cuts(problem: Problem, f: int, nodes: list[Node]) -> Iterator[Split]:
    """Candidates of one feature: those of all rows of the open nodes together, levels in an order for all nodes."""
    together = np.concatenate([node.rows for node in nodes])
    if problem.kinds[f] == 0:
        yield from numeric_splits(problem, f, together)
    elif len(nodes) == 1:
        yield from categorical_splits(problem, f, together)
    else:
        yield from categorical_splits(problem, f, together, contrast_keys(problem, f, nodes))


def contrast_keys(problem: Problem, f: int, nodes: list[Node]) -> dict[int, float]:
    """Key of every level with enough rows: its contrasts to the means of the nodes, weighed by power iteration."""
    together = np.concatenate([node.rows for node in nodes])
    codes = problem.columns[f]
    smallest = problem.categorical_min_rows * (1 - 1e-9) if problem.kinds[f] == 1 else 0.0
    used = sorted(set(codes[together].tolist()))
    levels = [b for b in used if math.fsum(problem.weight[together[codes[together] == b]]) >= smallest]
    if not levels:
        return {}
    hessian = problem.hessian
    prior = problem.categorical_prior * math.fsum(hessian[:, together].ravel()) / problem.n_outputs
    prior /= math.fsum(problem.weight[together])
    scale = [math.fsum(hessian[:, together[codes[together] == b]].ravel()) / problem.n_outputs + prior for b in levels]
    columns = []
    for node in nodes:
        for k in range(problem.n_outputs):
            h = max(math.fsum(hessian[k, node.rows]), 1e-100)
            mean = math.fsum(problem.gradient[k, node.rows]) / h
            members = [node.rows[codes[node.rows] == b] for b in levels]
            beyond = [math.fsum(problem.gradient[k, m]) - mean * math.fsum(hessian[k, m]) for m in members]
            columns.append(np.array(beyond) / math.sqrt(h))
    contrast, divisor = np.array(columns).T, np.maximum(scale, 1e-100)
    widest, first = -1.0, 0
    for c, column in enumerate(contrast.T):
        spread = float(np.sum(column / divisor * column))
        if spread > widest * (1 + 1e-9):
            widest, first = spread, c
    direction = np.eye(contrast.shape[1])[first]
    for _ in range(4):
        direction = contrast.T @ (contrast @ direction / divisor)
        direction /= max(np.abs(direction).max(), 1e-300)
    return dict(zip(levels, contrast @ direction / divisor, strict=True))


def child_bounds(problem: Problem, node: Node, left: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """The middle of the two children's values parts them where the feature has a monotonic constraint."""
    assert node.split is not None
    direction = problem.monotonic[node.split.feature]
    if direction == 0:
        return [(node.low, node.high)] * 2
    values = [leaf_value(problem, rows, 0, node.low, node.high) for rows in (left, right)]
    middle = 0.5 * (values[0] + values[1])
    below, above = (node.low, middle), (middle, node.high)
    return [below, above] if direction > 0 else [above, below]


def leaf_values(problem: Problem, nodes: list[Node]) -> np.ndarray:
    """Values (n_nodes, K), 0 in inner nodes."""
    return np.array(
        [
            [leaf_value(problem, n.rows, k, n.low, n.high) if n.left < 0 else 0.0 for k in range(problem.n_outputs)]
            for n in nodes
        ]
    )


def weighted_quantile(values: np.ndarray, repeats: np.ndarray, quantile: float) -> float:
    """Quantile of values that are there ``repeats`` times each."""
    return float(np.quantile(np.repeat(values, repeats), quantile, method="averaged_inverted_cdf"))


# --- a forest ---------------------------------------------------------------------------------------------------------


def forest_score(forest, X: np.ndarray, task: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Score (n_rows, n_outputs): every row walks every tree that concerns it, node by node."""
    nodes, trees = forest.nodes, forest.trees
    n_tasks = len(forest.mixing) - 1
    out = np.tile(np.asarray(forest.base, dtype=float), (X.shape[1], 1))
    for i in range(X.shape[1]):
        for tree in range(len(trees.root)):
            block, group = trees.block[tree], trees.group[tree]
            if block == 2 and group != task[i]:
                continue
            share = forest.mixing[task[i], group] if block == 1 else 1.0
            node = trees.root[tree]
            while nodes.feature[node] >= 0:
                f = nodes.feature[node]
                x = X[f, i] if f < len(X) else float(task[i]) if task[i] < n_tasks else math.nan
                node = nodes.left[node] if _is_left(nodes, node, x) else nodes.right[node]
            for k, value in enumerate(nodes.value[node]):
                out[i, trees.output[tree] + k] += share * value
    return out


def _is_left(nodes, node: int, x: float) -> bool:  # type: ignore[no-untyped-def]
    start = nodes.category_start[node]
    if start < 0:
        return bool(nodes.missing_left[node]) if math.isnan(x) else x <= nodes.threshold[node]
    if math.isnan(x) or not 0 <= x < nodes.n_levels[node]:
        return bool(nodes.missing_left[node])
    return bool(int(nodes.category_words[start + int(x) // 32]) >> (int(x) % 32) & 1)


# --- the paper's algorithm box ----------------------------------------------------------------------------------------

RATE = 0.1
Tree = Callable[[np.ndarray], np.ndarray]


def fit_stump(X: np.ndarray, residual: np.ndarray) -> Tree:
    """Least-squares tree with one split on K outputs: thresholds midway between neighbouring values, leaves are means.

    X : (n, n_features); residual : (n, K). Equal splits: the first feature, then the lowest threshold.
    """
    n = len(X)
    best = float(np.sum(residual.sum(axis=0) ** 2)) / n
    chosen = None
    for f in range(X.shape[1]):
        values = np.unique(X[:, f])
        for threshold in (values[:-1] + values[1:]) / 2:
            left = X[:, f] <= threshold
            # The squared error falls by as much as this rises.
            s_left, s_right = residual[left].sum(axis=0), residual[~left].sum(axis=0)
            explained = float(np.sum(s_left**2)) / left.sum() + float(np.sum(s_right**2)) / (~left).sum()
            if explained > best + TIE * abs(best):
                best, chosen = explained, (f, threshold, residual[left].mean(axis=0), residual[~left].mean(axis=0))
    if chosen is None:
        mean = residual.mean(axis=0)
        return lambda Z: np.tile(mean, (len(Z), 1))
    feature, cut, on_left, on_right = chosen
    return lambda Z: np.where((Z[:, feature] <= cut)[:, None], on_left, on_right)


class PaperBoosting:
    """R-MTGB as published: base 0, η = 0.1, stumps on the residual vector, three blocks, summed θ gradient.

    Parameters
    ----------
    rounds : rounds of the shared, partition and task block
    theta : start of θ, one per task in sorted order of the labels
    n_classes : 0 for regression, else K scores through a softmax
    """

    def __init__(self, rounds: tuple[int, int, int], theta: np.ndarray, n_classes: int = 0):
        self.rounds, self.theta, self.n_classes = rounds, np.array(theta, dtype=float), n_classes
        self.shared: list[Tree] = []
        self.outlier: list[Tree] = []
        self.inlier: list[Tree] = []
        self.per_task: list[list[Tree]] = []

    def fit(self, X: np.ndarray, y: np.ndarray, task: np.ndarray) -> PaperBoosting:
        """``y``: numbers, or class indices; ``task``: index of each row's task."""
        for _ in range(self.rounds[0]):
            self.shared.append(fit_stump(X, self.residual(X, y, task)))
        for _ in range(self.rounds[1]):
            r = self.residual(X, y, task)
            s = expit(self.theta)[task][:, None]
            outlier, inlier = fit_stump(X, s * r), fit_stump(X, (1 - s) * r)
            difference = self.sum_of(self.outlier, X) - self.sum_of(self.inlier, X)
            slope = (-r * difference).sum(axis=1)
            s_task = expit(self.theta)
            gradient = [s_task[t] * (1 - s_task[t]) * slope[task == t].sum() for t in range(len(self.theta))]
            self.theta = self.theta - RATE * np.array(gradient)
            self.outlier.append(outlier)
            self.inlier.append(inlier)
        for _ in range(self.rounds[2]):
            r = self.residual(X, y, task)
            self.per_task.append([fit_stump(X[task == t], r[task == t]) for t in range(len(self.theta))])
        return self

    def residual(self, X: np.ndarray, y: np.ndarray, task: np.ndarray) -> np.ndarray:
        """−g (n, K)."""
        score = self.score(X, task)
        if self.n_classes == 0:
            return y[:, None] - score
        return np.eye(self.n_classes)[y.astype(int)] - softmax(score, axis=1)

    def sum_of(self, trees: list[Tree], X: np.ndarray) -> np.ndarray:
        out = np.zeros((len(X), max(self.n_classes, 1)))
        for tree in trees:
            out = out + RATE * tree(X)
        return out

    def score(self, X: np.ndarray, task: np.ndarray) -> np.ndarray:
        """F (n, K) with θ as it stands."""
        s = expit(self.theta)[task][:, None]
        out = self.sum_of(self.shared, X)
        out = out + (1 - s) * self.sum_of(self.inlier, X) + s * self.sum_of(self.outlier, X)
        for of_round in self.per_task:
            for t, tree in enumerate(of_round):
                out[task == t] += RATE * tree(X[task == t])
        return out
