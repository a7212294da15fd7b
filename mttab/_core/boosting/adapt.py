"""One more task for a fitted forest: where it belongs among the known tasks, and trees of its own, all else frozen.

    F_new(x) = b + F_shared(x) + Σ_k w_k F_k(x) + F_own(x)

The weights w are the mean over known tasks, each counted by how well its score explains the new rows (`place_task`):
with no row they are those of an unseen task, with many those of the tasks most alike. Trees of its own are grown for as
many rounds as pay on rows they have not seen (`choose_rounds`), perhaps none.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from .derivatives import Derivatives
from .forest import PARTITION, SHARED, TASK, Forest, ForestBuilder
from .growing import Grower, GrownTrees
from .losses import Loss
from .rows import TrainingRows

# Rows of the prior that shrinks the leaves of a new task's trees to 0.
PRIOR_ROWS = 3.0
# Folds that choose the number of rounds; every different row is a fold of its own where there are few.
N_FOLDS, FEW_ROWS = 5, 12
# Confidence with which trees of its own must beat none on rows they have not seen.
CONFIDENCE = 0.9
# Rows by which the new task is compared with every known one, of all tasks together and of each.
MAX_COMPARED_IN_ALL, MIN_COMPARED = 200_000, 40


class Place(NamedTuple):
    """Where a new task belongs.

    weights : float64 (n_groups,), of the branches; like : the known task whose side it takes at splits on the task id,
    n_tasks for the side of tasks that fit did not see
    """

    weights: np.ndarray
    like: int


def place_task(forest: Forest, X: np.ndarray, rows: TrainingRows, loss: Loss, noise: float, mass: np.ndarray) -> Place:
    """Weigh the known tasks by how well the score of each, without its own trees, explains the rows of a new task.

    Parameters
    ----------
    forest : Forest
    X : float64 (n_features, n_rows), raw values of the rows
    rows : TrainingRows of the new task alone
    loss : Loss
    noise : float
        Mean loss that known tasks have, by which differences of losses are judged.
    mass : float64 (n_tasks,)
        Rows of each known task, its weight before the new rows are seen.
    """
    n_tasks = len(mass)
    few = _first_by_content(rows, max(MIN_COMPARED, MAX_COMPARED_IN_ALL // n_tasks))
    X, y, weight = np.ascontiguousarray(X[:, few]), rows.y[few], rows.weight[few]

    def total_loss(score: np.ndarray) -> float:
        return float(loss.values(y, np.ascontiguousarray(score), np.empty(len(y))) @ weight)

    unseen = np.full(len(y), n_tasks, dtype=np.int32)
    shared = forest.base + forest.block_scores(X, unseen)[SHARED]
    branches = np.stack([forest.group_score(X, unseen, k) for k in range(forest.mixing.shape[1])])
    candidates = [(w, n_tasks) for w in forest.mixing[:-1]]
    losses = [total_loss(shared + np.tensordot(w, branches, axes=1)) for w, _ in candidates]
    prior = list(mass / mass.sum())
    if _splits_on_task(forest, len(X)).any():
        for j in range(n_tasks):
            parts = forest.block_scores(X, np.full(len(y), j, dtype=np.int32))
            candidates.append((forest.mixing[j], j))
            losses.append(total_loss(forest.base + parts[SHARED] + parts[PARTITION]))
        prior = prior * 2
    least = min(losses) / weight.sum()
    # Twice the mean loss is the variance for squared errors, and about as cautious for other losses.
    unit = max(2.0 * max(noise, least), 1e-300)
    share = np.log(prior) - np.array(losses) / unit
    share = np.exp(share - share.max())
    share /= share.sum()
    weights = share @ np.array([w for w, _ in candidates])
    by_task = share[n_tasks:]
    return Place(weights / weights.sum(), int(by_task.argmax()) if by_task.sum() > 0.5 else n_tasks)


def _first_by_content(rows: TrainingRows, n: int) -> np.ndarray:
    """Up to n rows, chosen by what is in them."""
    return np.sort(np.argsort(rows.content_key, kind="stable")[:n])


def _splits_on_task(forest: Forest, n_features: int) -> np.ndarray:
    return forest.nodes.feature == n_features


def follow(forest: Forest, n_features: int, like: int) -> Forest:
    """The forest with one level more in the splits on the task id: a new task, on the side of the task ``like``.

    The new task is the next index; for all others nothing changes. A level that a split does not know, which is what
    the new task is without this, goes where unseen tasks go.
    """
    nodes = forest.nodes
    n_tasks = len(forest.mixing) - 1
    changed = np.flatnonzero(_splits_on_task(forest, n_features))
    if len(changed) == 0 or like >= n_tasks:
        return forest
    n_words = (n_tasks + 1 + 31) // 32
    sets = np.zeros((len(changed), n_words), dtype=np.uint32)
    for row, node in enumerate(changed):
        start, n_levels = nodes.category_start[node], int(nodes.n_levels[node])
        old = nodes.category_words[start : start + (n_levels + 31) // 32]
        sets[row, : len(old)] = old
        for level in range(n_levels, n_tasks):  # tasks added before
            _set_bit(sets[row], level, bool(nodes.missing_left[node]))
        is_left = bool((sets[row, like >> 5] >> np.uint32(like & 31)) & np.uint32(1))
        _set_bit(sets[row], n_tasks, is_left)
    category_start, levels = nodes.category_start.copy(), nodes.n_levels.copy()
    category_start[changed] = len(nodes.category_words) + n_words * np.arange(len(changed))
    levels[changed] = n_tasks + 1
    words = np.concatenate([nodes.category_words, sets.ravel()])
    return replace(forest, nodes=nodes._replace(category_start=category_start, n_levels=levels, category_words=words))


def _set_bit(words: np.ndarray, level: int, value: bool) -> None:
    if value:
        words[level >> 5] |= np.uint32(1) << np.uint32(level & 31)


def own_folds(rows: TrainingRows) -> np.ndarray:
    """Fold int (n_rows,) of every row by what is in it; equal rows are in one fold."""
    _, place = np.unique(rows.content_key, return_inverse=True)
    n_different = int(place.max()) + 1
    return place if n_different <= FEW_ROWS else place % N_FOLDS


class _OwnTrees:
    """Rounds of trees of the new task on a sample of its rows, on top of a given score."""

    def __init__(self, rows: TrainingRows, sample, score, loss: Loss, grower: Grower, rate: float, vector: bool):  # type: ignore[no-untyped-def]
        self.weight, self.sample, self.score, self.grower = rows.weight, sample, score.copy(), grower
        self.rate, self.derivatives = rate, Derivatives(rows, loss, grower.n_threads, vector_leaves=vector)

    def round(self, seed: int) -> list[GrownTrees]:
        """Grow one tree (per output) and add it to the score of all rows, those of the sample and the others."""
        seeds = np.array([seed], dtype=np.uint64)
        self.derivatives.update(self.score)
        grown = []
        for k, outputs in self.derivatives.outputs:
            trees = self.grower.grow_per_task(*self.derivatives.of(outputs), self.weight, self.sample, seeds)
            self.derivatives.renew(trees, self.weight)
            trees.add_to(self.score, self.rate, k, self.grower.n_threads)
            grown.append(trees)
        return grown

    def losses(self) -> np.ndarray:
        """Loss (n_rows,) of every row."""
        return self.derivatives.losses(self.score).copy()


def choose_rounds(
    rows: TrainingRows,
    score: np.ndarray,
    loss: Loss,
    grower: Grower,
    rate: float,
    vector: bool,
    limit: int,
    patience: int,
) -> int:
    """Rounds of own trees by cross-validation: the best number if it beats none clearly, else 0.

    rows : of the new task alone; score : float64 (n_rows, n_outputs), without own trees
    """
    fold = own_folds(rows)
    n_folds = int(fold.max()) + 1
    if n_folds < 2:
        return 0
    limit = min(limit, _most_rounds(float(rows.weight.sum()), grower.task_split.min_samples_leaf, rate))
    is_held = [fold == k for k in range(n_folds)]
    runs = [_OwnTrees(rows, rows.sample(~held), score, loss, grower, rate, vector) for held in is_held]
    none = runs[0].losses()
    best, best_round, best_losses = float(none @ rows.weight), 0, none
    for r in range(1, limit + 1):
        losses = np.empty(rows.n_rows)
        for run, held in zip(runs, is_held, strict=True):
            run.round(r)
            losses[held] = run.losses()[held]
        total = float(losses @ rows.weight)
        if total < best:
            best, best_round, best_losses = total, r, losses
        elif r - best_round >= patience:
            break
    return best_round if _is_clear(none - best_losses, rows.weight) else 0


def _is_clear(gain: np.ndarray, weight: np.ndarray) -> bool:
    """Whether the weighted mean gain is above 0 with `CONFIDENCE`; Student's t, as there may be two rows."""
    n = min(len(gain), weight.sum() ** 2 / np.sum(weight**2))
    if n <= 1.0:
        return False
    mean = np.average(gain, weights=weight)
    variance = np.average((gain - mean) ** 2, weights=weight) * n / (n - 1.0)
    return bool(mean > stats.t.ppf(CONFIDENCE, n - 1.0) * np.sqrt(variance / n))


def _most_rounds(n: float, min_samples: float, rate: float) -> int:
    """Rounds after which trees that cannot split have moved the level of n rows n / (n + `PRIOR_ROWS`) of the way."""
    trust = n / (n + PRIOR_ROWS)
    if n >= 2.0 * min_samples or rate * trust >= 1.0:
        return 2**31
    return math.ceil(math.log(1.0 - trust) / math.log(1.0 - rate * trust))


def grow_own_trees(
    rows: TrainingRows,
    score: np.ndarray,
    loss: Loss,
    grower: Grower,
    builder: ForestBuilder,
    task: int,
    rate: float,
    vector: bool,
    n_rounds: int,
) -> None:
    """Append so many rounds of trees of the task to the builder."""
    run = _OwnTrees(rows, rows.all_rows(), score, loss, grower, rate, vector)
    for r in range(n_rounds):
        for k, grown in enumerate(run.round(r + 1)):
            builder.append(grown.trees, TASK, np.array([task]), r, k, rate)


def shrunk_leaves(grower: Grower, rows: TrainingRows, score: np.ndarray, loss: Loss) -> Grower:
    """The grower with the leaves of task trees drawn to 0 as by `PRIOR_ROWS` rows."""
    of_row = 1.0
    if not grower.task_split.constant_hessian:
        derivatives = Derivatives(rows, loss, grower.n_threads)
        derivatives.update(score)
        of_row = float(derivatives.hessian.mean() / max(rows.weight.mean(), 1e-300))
    split = grower.task_split._replace(l2=grower.task_split.l2 + PRIOR_ROWS * of_row)
    return Grower(
        grower.rows,
        grower.layout,
        grower.shared_growth,
        grower.task_growth,
        grower.shared_split,
        split,
        grower.n_threads,
        grower.is_symmetric,
        grower.has_local_bins,
    )
