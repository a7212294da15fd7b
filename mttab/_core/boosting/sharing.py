"""How much tasks share, found out before the fit: a race between four ways to spend the rounds of the three blocks.

    name        rounds of            the task id is
                shared  partition  task   a category
    pooled        x                 x         no
    category      x                 x         yes      of the shared trees
    groups                 x        x         yes      of the trees of each group of tasks that `similarity` finds
    separate                        x         –

Each is fitted with few and large steps and judged on rows that it has not seen. "category" is taken unless another one
is better by more than chance; where trees of single tasks do not help clearly, the fit itself goes without. "groups"
needs groups to begin with, "separate" tasks that do not agree. `blocks`, all three blocks in the order of the paper,
does not take part. Of several models that are averaged every second one is a "category" beside "pooled" ones where the
race leaves open which is better, see `is_open`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from mttab._core.progress import Progress, UntilOver

from .forest import PARTITION, SHARED, TASK, ForestBuilder
from .growing import Grower
from .losses import Loss
from .options import BlockOptions, BoostingOptions
from .rmtgb import judge
from .rows import TrainingRows, ValidationRows
from .theta import start_from_groups
from .threads import map_in_threads

# Name -> the blocks that have rounds, and whether the task id is a category of shared and partition trees.
STRUCTURES: dict[str, tuple[tuple[int, ...], bool]] = {
    "pooled": ((SHARED, TASK), False),
    "category": ((SHARED, TASK), True),
    "groups": ((PARTITION, TASK), True),
    "separate": ((TASK,), False),
}
# Trees of a group leave out the rows of tasks that give it less weight than this.
LEAST_SHARE = 0.05
# The race: rounds of the first block and of the task block after it, step size, patience, and rows that are enough.
FIRST_ROUNDS, TASK_ROUNDS, LEARNING_RATE, PATIENCE = 40, 15, 0.2, 4
MAX_ROWS = 10_000
# Every model is judged on one fold of so many, or, of few rows, on each of them unless the first one is clear.
N_FOLDS, FEW_ROWS = 3, 4000
# Standard errors by which another way must beat "category" on the rows judged, and task trees nothing. The two that
# take part only where tasks look like it need less. The same rows say how many rounds a model has, which flatters all
# alike, and trees per task, which can only gain by it: chance alone must not be enough.
MARGIN = {"category": 0.0, "pooled": 1.64, "groups": 1.0, "separate": 1.0, "task trees": 1.25, "line": 0.5}
# Standard errors by which a way that is behind on the first fold is so for good, and not tried on the others. Lines are
# judged on the first fold alone, too, where it says as much for them or against them. Fewer rows are never clear.
CLEAR, LEAST_CLEAR_ROWS = 2.0, 20
# Mean agreement of different tasks (see `similarity`) from which on keeping them apart is not tried.
MAX_AGREEMENT = 0.1

Fold = tuple[TrainingRows, ValidationRows]
# Of the rows of a fold that are judged, with trees of single tasks and without.
Losses = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Sharing:
    """What tasks share.

    name : a key of `STRUCTURES`, or "blocks"
    group : int (n_tasks,), the group of each task, from the largest down; None where no groups were found
    has_task_block : False leaves the trees of single tasks out
    agreement : float64 (n_tasks, n_tasks), see `similarity`; None where tasks were not compared
    has_line : the first shared round is a straight line, see `line`
    other : what every second one of several averaged models does instead; None where all are alike. Groups and lines
        are those of all models, and are not looked for in it
    """

    name: str
    group: np.ndarray | None = None
    has_task_block: bool = True
    agreement: np.ndarray | None = None
    has_line: bool = False
    other: Sharing | None = None

    @property
    def n_groups(self) -> int:
        return 2 if self.group is None else max(2, int(self.group.max()) + 1)

    def renumbered(self, order: np.ndarray) -> Sharing:
        """The same with group ``order[k]`` called k."""
        if self.group is None:
            return self
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return replace(self, group=place[self.group])

    def of_models(self, n_models: int) -> list[Sharing]:
        """What each of several averaged models does; they have groups in common, and all start from a line, or none."""
        other = replace(self.other or self, group=self.group, has_line=self.has_line)
        return [other if number % 2 else self for number in range(n_models)]

    def going_on(self) -> Sharing:
        """What a fit does that adds rounds to the models: to every block that one of them has."""
        has_task_block = self.has_task_block or (self.other is not None and self.other.has_task_block)
        return replace(self, has_task_block=has_task_block)

    def is_category(self, named_by_user: bool) -> bool:
        """Whether shared and partition trees may split on the task id."""
        return STRUCTURES[self.name][1] if self.name in STRUCTURES else named_by_user

    def apply(self, options: BoostingOptions) -> BoostingOptions:
        """The options with the rounds of the blocks that are left out set to 0, and θ by the groups."""
        if self.group is not None:
            theta = start_from_groups(self.group, self.n_groups)
            options = replace(options, n_groups=self.n_groups, theta_init=theta, theta_center=theta)
        options = replace(options, has_line=self.has_line)
        if self.name not in STRUCTURES:
            return options
        used = set(STRUCTURES[self.name][0])
        if not self.has_task_block:
            used.remove(TASK)
        rounds = [block.max_iter if i in used else 0 for i, block in enumerate(options.blocks)]
        if self.has_line and SHARED not in used:
            rounds[SHARED] = min(1, options.blocks[SHARED].max_iter)
        options = options.with_blocks(replace(b, max_iter=n) for b, n in zip(options.blocks, rounds, strict=True))
        if self.group is None and options.blocks[PARTITION].max_iter == 0:
            return replace(options, theta_init="data")  # without a partition block there is nothing to start
        return replace(options, least_share=LEAST_SHARE) if self.name == "groups" else options


@dataclass
class Race:
    """A fit that is about to begin, and short fits on folds of its training rows, judged on the rest.

    rows : TrainingRows
    X : float64 (n_features, n_rows), raw values of the rows, or what gives them for ``X[:, mask]``
    make_grower : grower for given rows, with or without the task id as a category
    base : float64 (n_outputs,)
    named_as_category : whether the user has named the task id as a category
    n_models : number of models that will be averaged
    n_at_once : number of fits that may run side by side, each in one thread
    """

    rows: TrainingRows
    X: Any
    loss: Loss
    make_grower: Callable[[TrainingRows, bool], Grower]
    make_builder: Callable[[], ForestBuilder]
    options: BoostingOptions
    base: np.ndarray
    named_as_category: bool
    seed: int
    n_models: int = 1
    n_at_once: int = 1
    _folds: list[Fold] | None = field(default=None, init=False, repr=False)
    _n_in_first_fold: float = field(default=0.0, init=False, repr=False)  # different ones, fewer if weights are uneven
    _losses: dict[tuple[str, bool], list[Losses]] = field(default_factory=dict, init=False, repr=False)

    def grower(self, rows: TrainingRows, sharing: Sharing) -> Grower:
        """What grows trees on some of the rows for this way to share."""
        return self.make_grower(rows, sharing.is_category(self.named_as_category))

    @property
    def folds(self) -> list[Fold]:
        """Rows to train on and rows to judge by; none where there are too few different rows."""
        if self._folds is None:
            self._folds = self._make_folds()
        return self._folds

    def _make_folds(self) -> list[Fold]:
        rows, X = self.rows, self.X
        n_rows = rows.n_different()
        if n_rows > MAX_ROWS:
            keep = rows.content_share(MAX_ROWS / n_rows, self.seed)
            rows, X = rows.take(keep), X[:, keep]
        fold = rows.content_folds(N_FOLDS, self.seed + 1)  # another seed than that of the share
        held = [fold == k for k in range(N_FOLDS if n_rows < FEW_ROWS else 1)]
        # Few different rows: equal ones are in one fold.
        held = [is_in for is_in in held if rows.weight[is_in].any() and not is_in.all()]
        if held:
            _, which = np.unique(rows.content_key[held[0]], return_inverse=True)
            weight = np.bincount(which, weights=rows.weight[held[0]])
            share = weight / weight.max()  # whatever the unit, squares are finite
            self._n_in_first_fold = float(share.sum() ** 2 / np.sum(share**2))
        return [(rows.take(~is_in), rows.judged(X, is_in)) for is_in in held]

    @property
    def weight(self) -> np.ndarray:
        """Weights (n_judged,) of the rows that are judged."""
        return np.concatenate([judged.weight for _, judged in self.folds])

    def losses(self, sharing: Sharing) -> tuple[np.ndarray, np.ndarray]:
        """Losses of a way to share with trees of single tasks, and those without them, on the folds it has run on."""
        with_tasks, without = zip(*self._judged(sharing), strict=True)
        return np.concatenate(with_tasks), np.concatenate(without)

    def run(
        self,
        sharings: Sequence[Sharing],
        n_folds: int | None = None,
        find_more: Callable[[], Sequence[Sharing]] | None = None,
    ) -> list[Sharing]:
        """Fit and judge several ways to share on the first folds, or all; what has been judged is not judged again.

        ``find_more`` looks for others meanwhile, which are then judged, too, and returned.
        """
        progress, folds, more = UntilOver(), self.folds[:n_folds], list[Sharing]()

        def judge_each(sharing: Sharing, folds: Sequence[Fold]) -> list[tuple[Sharing, Losses]]:
            return [(sharing, self._judge(sharing, fold, progress)) for fold in folds]

        def judge_more(find: Callable[[], Sequence[Sharing]]) -> list[tuple[Sharing, Losses]]:
            more.extend(find())
            return [judged for sharing in more for judged in judge_each(sharing, folds)]

        jobs = [
            partial(judge_each, sharing, [fold]) for sharing in sharings for fold in folds[len(self._judged(sharing)) :]
        ]
        if find_more is not None:
            jobs.insert(0, partial(judge_more, find_more))  # it takes longest
        for results in map_in_threads(lambda job: job(), jobs, self.n_at_once, progress.give_up):
            for sharing, losses in results:
                self._judged(sharing).append(losses)
        return more

    def _judged(self, sharing: Sharing) -> list[Losses]:
        """What has been judged of a way to share, fold by fold."""
        return self._losses.setdefault((sharing.name, sharing.has_line), [])

    def is_clear(self, gain: np.ndarray) -> bool:
        """Whether losses of the first fold are less by `CLEAR`, whatever unit weights have; ``gain`` (n_rows,)."""
        n_rows = self._n_in_first_fold
        return n_rows >= LEAST_CLEAR_ROWS and is_gain(gain, self.weight, CLEAR, n_rows)

    def _judge(self, sharing: Sharing, fold: Fold, progress: Progress) -> Losses:
        """Losses of the judged rows of a fold, and those without trees of single tasks."""
        training, judged = fold
        sharing = replace(sharing, has_task_block=True)
        grower = self.grower(training, sharing)
        short, rng = _shortened(sharing.apply(self.options)), np.random.default_rng([self.seed, 2])
        builder = self.make_builder()
        return judge(training, judged, self.loss, grower, builder, short, self.base, rng, progress=progress)


def choose_sharing(
    race: Race, compare: Callable[[], tuple[np.ndarray, np.ndarray | None]] | None, may_separate: bool
) -> Sharing:
    """Let the ways to share race.

    compare : gives the agreement of tasks (n_tasks, n_tasks) and their groups (n_tasks,), if there are any; None where
        there are too many tasks. The ways that do not depend on it race meanwhile
    may_separate : False where the validation rows are of other tasks, so that they cannot tell how many rounds to take
    """
    agreement = group = None

    def compared() -> list[Sharing]:
        """The ways that tasks look like, so far as they can be compared."""
        nonlocal agreement, group
        if compare is None:
            return []
        agreement, group = compare()
        found = [] if group is None else [Sharing("groups", group)]
        between = agreement[~np.eye(len(agreement), dtype=bool)]
        return [*found, Sharing("separate")] if may_separate and np.mean(between) <= MAX_AGREEMENT else found

    if not race.folds:
        compared()
        return Sharing("category", group, agreement=agreement)
    ways = [Sharing("pooled"), Sharing("category")]
    ways += race.run(ways, 1, compared)
    first = {way.name: race.losses(way)[0] for way in ways}
    best = min(first.values(), key=lambda values: np.average(values, weights=race.weight[: len(values)]))
    race.run([way for way in ways if not race.is_clear(first[way.name] - best)])
    losses, without = ({way.name: race.losses(way)[which] for way in ways} for which in (0, 1))

    def decided(name: str) -> Sharing:
        gain = without[name] - losses[name]
        has_task_block = name == "separate" or is_gain(gain, race.weight, MARGIN["task trees"])
        return Sharing(name, group, has_task_block, agreement)

    winner = decided(pick(losses, race.weight))
    if race.n_models > 1 and is_open(winner, losses, race.weight):
        return replace(decided("pooled"), other=replace(decided("category"), group=None))
    return winner


def is_line_better(race: Race, sharing: Sharing) -> bool:
    """Whether a straight line to start from, see `line`, helps this way to share."""
    if not race.folds:
        return False
    which, with_line = 0 if sharing.has_task_block else 1, replace(sharing, has_line=True)
    race.run([sharing])

    def gain() -> np.ndarray:
        judged = race.losses(with_line)[which]
        return race.losses(sharing)[which][: len(judged)] - judged

    race.run([with_line], 1)
    if not (race.is_clear(gain()) or race.is_clear(-gain())):
        race.run([with_line])
    return is_gain(gain(), race.weight, MARGIN["line"])


def with_rounds(options: BoostingOptions, n_rounds: tuple[int, int, int]) -> BoostingOptions:
    """The options with just that many rounds in each block."""
    blocks = (replace(block, max_iter=n) for block, n in zip(options.blocks, n_rounds, strict=True))
    return replace(options.with_blocks(blocks), patience=None)


def _shortened(options: BoostingOptions) -> BoostingOptions:
    """Few rounds and large steps: more for the first block that has rounds than for task trees after it."""
    is_first = [True, True, options.blocks[SHARED].max_iter + options.blocks[PARTITION].max_iter == 0]
    short = (
        BlockOptions(min(block.max_iter, FIRST_ROUNDS if first else TASK_ROUNDS), LEARNING_RATE)
        for block, first in zip(options.blocks, is_first, strict=True)
    )
    return replace(options.with_blocks(short), patience=PATIENCE)


def is_gain(gain: np.ndarray, weight: np.ndarray, margin: float, n_rows: float | None = None) -> bool:
    """Whether the weighted mean of paired differences is above 0 by more than so many standard errors.

    gain : float64 (n,), of the first n rows judged; weight : float64 (>= n,)
    n_rows : number of rows that errors are judged by; None: weights count rows
    """
    weight = weight[: len(gain)]
    mean = np.average(gain, weights=weight)
    variance = np.average((gain - mean) ** 2, weights=weight)
    return bool(mean > margin * np.sqrt(variance / (weight.sum() if n_rows is None else n_rows)))


def pick(losses: dict[str, np.ndarray], weight: np.ndarray) -> str:
    """Of the names that beat "category" by their margin, the one with the least weighted mean loss; else "category".

    losses : name -> (n_rows,), or less of ways that were clearly behind the best one on the first fold; where
        "category" was, the least loss of the others decides
    """
    n_rows, usual = max(map(len, losses.values())), losses["category"]
    left = [name for name in losses if len(losses[name]) == n_rows]
    if len(usual) == n_rows:
        left = [name for name in left if is_gain(usual - losses[name], weight, MARGIN[name])]
    return min(left, key=lambda name: float(np.average(losses[name], weights=weight)), default="category")


def is_open(winner: Sharing, losses: dict[str, np.ndarray], weight: np.ndarray) -> bool:
    """Whether "pooled" is ahead of "category", but by no more than chance, or not without trees of single tasks.

    These say that tasks differ. Fitted to the end, the category may then make more of it than in the few rounds here.
    """
    is_candidate = winner.name == "category" or (winner.name == "pooled" and winner.has_task_block)
    n_both = min(len(losses["category"]), len(losses["pooled"]))
    return is_candidate and is_gain(losses["category"][:n_both] - losses["pooled"][:n_both], weight, 0.0)
