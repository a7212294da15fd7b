"""R-MTGB: the loop over the three blocks, shared → partition → per task (Emami et al. 2025, arXiv 2507.11411).

    F_t(x) = b + F_shared(x) + (1 − s_t) F_inlier(x) + s_t F_outlier(x) + F_task,t(x),     s_t = sigmoid(θ_t)

`boost` is the whole algorithm; everything it calls does one step of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mttab._core.progress import Progress

from .derivatives import Derivatives
from .disagreement import disagreement
from .forest import BLOCKS, PARTITION, SHARED, TASK, Forest, ForestBuilder, Nodes, Trees, add_round
from .fused_rounds import BestRound, FusedRounds, ThetaState, can_run
from .growing import Grower, GrownTrees
from .line import Lines, add_lines, fit_lines, trees_of_lines
from .losses import Loss
from .options import BoostingOptions
from .rows import RowSample, Scores, TrainingRows, ValidationRows
from .sums import sum_of_products
from .theta import (
    as_columns,
    inliers_first,
    mixing_weights,
    start_from_disagreement,
    sum_slopes,
    write_theta_gradient,
)

# Mean loss before the first and after each round, per block.
Histories = tuple[list[float], list[float], list[float]]


@dataclass
class BoostedModel:
    """What `boost` returns: the forest, θ, and mean losses after each round of each block (entry 0: before it).

    group_order : int (n_groups,), the branch, as numbered at the start, that each one of the forest is
    """

    forest: Forest
    theta: np.ndarray
    train_loss: Histories
    validation_loss: Histories
    group_order: np.ndarray


def boost(
    rows: TrainingRows,
    validation: ValidationRows | None,
    loss: Loss,
    grower: Grower,
    builder: ForestBuilder,
    options: BoostingOptions,
    base: np.ndarray,
    rng: np.random.Generator,
    *,
    start: tuple[BoostedModel, Scores, Scores | None] | None = None,
    progress: Progress | None = None,
) -> BoostedModel:
    """Fit the three blocks one after the other.

    ``base`` (n_outputs,) is the score before the first tree. ``start`` continues a fitted model, given with the scores
    of the training and validation rows under it. ``progress`` follows the blocks and their rounds.
    """
    run = _Run(rows, validation, loss, grower, builder, options, base, rng, start, progress or Progress())
    run.common_blocks()
    run.task_block()
    return run.model()


def judge(
    rows: TrainingRows,
    validation: ValidationRows,
    loss: Loss,
    grower: Grower,
    builder: ForestBuilder,
    options: BoostingOptions,
    base: np.ndarray,
    rng: np.random.Generator,
    *,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (n_validation,) of the validation rows under the model that `boost` would fit, and without task trees."""
    run = _Run(rows, validation, loss, grower, builder, options, base, rng, None, progress)
    run.common_blocks()
    without = run.validation_values()
    run.task_block()
    return run.validation_values(), without


class _Run:
    """State of one call of `boost`; one method per step of the algorithm."""

    def __init__(self, rows, validation, loss, grower, builder, options, base, rng, start, progress):  # type: ignore[no-untyped-def]
        self.rows, self.validation, self.loss, self.grower, self.builder = rows, validation, loss, grower, builder
        self.options, self.base, self.rng, self.progress = options, base, rng, progress
        self.task_weight = rows.sum_by_task(rows.weight)
        held_out = 1.0 if validation is None else validation.weight.sum()
        self.total_weight, self.validation_weight = rows.totals(rows.weight.sum(), held_out)
        self.task_mass = self.task_weight if rows.task_mass is None else rows.task_mass
        self.derivatives = Derivatives(
            rows, loss, grower.n_threads, vector_leaves=options.vector_leaves, renews=options.newton
        )
        self.last_mixing: tuple[np.ndarray, np.ndarray] | None = None
        self.unit_of_loss: float | None = None
        if start is None:
            n_groups = options.n_groups
            self.scores = Scores.zeros(base, rows.task, n_groups)
            self.validation_scores = None if validation is None else Scores.zeros(base, validation.task, n_groups)
            self.n_rounds = [0, 0, 0]
            if isinstance(options.theta_init, np.ndarray):
                self.theta = options.theta_init.astype(np.float64)
            else:
                self.theta = np.full(rows.n_tasks, options.theta_center)
            self.train_loss: Histories = ([], [], [])
            self.validation_loss: Histories = ([], [], [])
        else:
            model, self.scores, self.validation_scores = start
            builder.append_forest(model.forest)
            self.n_rounds = list(model.forest.n_rounds)
            self.theta = model.theta.copy()
            self.train_loss = tuple(list(h) for h in model.train_loss)  # type: ignore[assignment]
            self.validation_loss = tuple(list(h) for h in model.validation_loss)  # type: ignore[assignment]

    def common_blocks(self) -> None:
        """The blocks whose trees act for every task."""
        self.block(SHARED, self.shared_round)
        if self.rows.n_tasks > 1:
            self.start_theta()
            self.block(PARTITION, self.partition_round)

    def task_block(self) -> None:
        """The trees of single tasks, if there are several."""
        if self.rows.n_tasks > 1:
            self.block(TASK, self.task_round)

    # --- rounds ----------------------------------------------------------------------------------------------------

    def shared_round(self, r: int) -> None:
        """One tree (per output) on all rows; the first round may be a straight line."""
        self.update_derivatives()
        lines = self.fit_lines() if r == 0 and self.options.has_line else None
        if lines is not None:
            self.keep_lines(lines)
            return
        sample = self.draw_sample()
        for k, outputs in self.derivatives.outputs:
            derivatives = self.derivatives.of(outputs)
            grown = self.grower.grow_shared(*derivatives, self.rows.weight, sample, self.draw_seed())
            self.keep(grown, self.rows.weight, SHARED, 0, r, k)

    def fit_lines(self) -> Lines | None:
        """Lines that follow the Newton step of every row, or its residual where the loss is one of the residual."""
        rows, gradient, total = self.rows, self.derivatives.gradient, self.scores.total(self.mixing())
        if self.loss.is_location:
            # Gradients may be cut off, or signs: what a square of the residual is worth in squares of these.
            squares = gradient[0] @ (gradient[0] / np.maximum(rows.weight, 1e-300))
            of_gradient, of_residual = rows.totals(squares, rows.weight @ (rows.y - total[:, 0]) ** 2)
            curvature = np.array([of_gradient / max(of_residual, 1e-300)])

            def response(part: np.ndarray) -> np.ndarray:
                return (rows.y[part] - total[part, 0])[None]
        else:
            curvature = np.array(rows.totals(*self.derivatives.hessian.sum(axis=1))) / self.total_weight

            def response(part: np.ndarray) -> np.ndarray:
                step = rows.weight[part] * np.maximum(curvature, 1e-300)[:, None]
                return np.divide(-gradient[:, part], step, out=np.zeros_like(step), where=step > 0.0)

        return fit_lines(rows, self.grower.layout, response, curvature, self.draw_seed())

    def keep_lines(self, lines: Lines) -> None:
        """Store lines as trees of the first round and add them to the scores of all rows."""
        add_lines(lines, self.rows, self.scores.part(SHARED, 0))
        for k, outputs in self.derivatives.outputs:
            for stored in trees_of_lines(lines, self.grower.layout, outputs, k):
                self.builder.append_part(*stored)
                self.add_to_validation(stored, SHARED, 0)

    def partition_round(self, r: int) -> None:
        """A tree per branch, inlier and outlier or more, on the score at the start of the round, then a step of θ."""
        mixing = self.mixing()
        self.update_derivatives()
        theta_gradient = self.theta_gradient(mixing)
        sample, shares, least = self.draw_sample(), self.scores.shares(mixing), self.options.least_share
        for k, outputs in self.derivatives.outputs:
            seed, (own_gradient, own_hessian) = self.draw_seed(), self.derivatives.of(outputs)
            for group, s in enumerate(shares):
                # DEVIATION(block 2): gradients, hessians and row counts are weighted by s and 1 - s, so that two trees
                # fitted at once cannot overshoot. The paper scales the residual alone and fits it unweighted.
                gradient, hessian, weight = own_gradient * s, own_hessian, self.rows.weight
                if self.options.newton:
                    hessian, weight = hessian if self.loss.constant_hessian else hessian * s, weight * s
                members = sample if least == 0.0 else sample.within(mixing[:-1, group] >= least)
                grown = self.grower.grow_shared(gradient, hessian, weight, members, seed)
                self.keep(grown, weight, PARTITION, group, r, k)
        self.theta = self.theta - self.options.theta_learning_rate * theta_gradient

    def task_round(self, r: int) -> None:
        """One tree (per output) for every task, on its own rows."""
        self.update_derivatives()
        sample = self.draw_sample()
        for k, outputs in self.derivatives.outputs:
            derivatives = self.derivatives.of(outputs)
            grown = self.grower.grow_per_task(*derivatives, self.rows.weight, sample, self.draw_task_seeds())
            self.keep(grown, self.rows.weight, TASK, np.arange(self.rows.n_tasks), r, k)

    def keep(self, grown: GrownTrees, weight: np.ndarray, block: int, group: int | np.ndarray, r: int, k: int) -> None:
        """Store the grown trees and add them to the scores of all rows."""
        rate, n_threads = self.options.blocks[block].learning_rate, self.grower.n_threads
        self.derivatives.renew(grown, weight)
        stored = self.builder.append(grown.trees, block, np.atleast_1d(group), r, k, rate)
        grown.add_to(self.scores.part(block, group), rate, k, n_threads)
        self.add_to_validation(stored, block, group)

    def add_to_validation(self, stored: tuple[Nodes, Trees], block: int, group: int | np.ndarray) -> None:
        """Add trees that have just been stored to the scores of validation rows."""
        if self.validation is not None and self.validation_scores is not None:
            score = self.validation_scores.part(block, group)
            n_tasks, n_threads = self.rows.n_tasks, self.grower.n_threads
            add_round(stored, self.validation.X, self.validation.task, n_tasks, score, n_threads)

    # --- θ ---------------------------------------------------------------------------------------------------------

    def mixing(self) -> np.ndarray:
        """Weights (n_tasks + 1, n_groups) under θ, computed anew only where that is another array."""
        if self.last_mixing is None or self.last_mixing[0] is not self.theta:
            self.last_mixing = self.theta, mixing_weights(self.theta, self.task_mass)
        return self.last_mixing[1]

    def start_theta(self) -> None:
        """θ before the first partition round."""
        init = self.options.theta_init
        if self.n_rounds[PARTITION] > 0 or self.options.blocks[PARTITION].max_iter == 0:
            return
        if isinstance(init, np.ndarray):
            return
        if init == "normal":
            self.theta = self.rng.normal(0.0, 0.1, self.rows.n_tasks)
        else:
            reach = self.n_rounds[SHARED] * self.options.blocks[SHARED].learning_rate
            found = disagreement(self.derivatives, self.grower, self.base, reach)
            self.theta = start_from_disagreement(*found, float(self.options.theta_center))

    def theta_gradient(self, mixing: np.ndarray) -> np.ndarray:
        """∂L/∂θ, in the shape of θ, with the branches as they stand, penalty included."""
        rows, columns = self.rows, as_columns(self.theta)
        sums, out = np.empty((len(self.scores.groups), rows.n_tasks)), np.empty_like(columns)
        sum_slopes(self.derivatives.gradient, self.scores.groups, rows.task, sums)
        write_theta_gradient(columns, mixing, rows.peers.sum(sums), *self.theta_units(), out)
        return out.reshape(self.theta.shape)

    def theta_units(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Unit (n_tasks,) of a step of θ, strength of its penalty, and what that draws θ to, in columns."""
        center = np.empty_like(as_columns(self.theta))
        center[:] = as_columns(np.asarray(self.options.theta_center))
        if not self.options.newton:
            return np.ones(self.rows.n_tasks), 0.0, center
        # DEVIATION(block 2): the mean over a task's rows instead of the sum, in units of the loss before the first
        # tree: steps depend neither on the size of a task nor on the unit of y.
        unit = np.maximum(self.task_weight * max(self.loss_unit(), 1e-300), 1e-300)
        return unit, float(self.options.theta_penalty), center

    def loss_unit(self) -> float:
        """Mean loss of the base score."""
        # No cached_property: its lock is one for all fits of the process, and peers may be threads that wait for each
        # other here.
        if self.unit_of_loss is not None:
            return self.unit_of_loss
        score = np.broadcast_to(self.base, (self.rows.n_rows, self.loss.n_outputs))
        values = self.loss.values(self.rows.y, np.ascontiguousarray(score), np.empty(self.rows.n_rows))
        self.unit_of_loss = abs(self.rows.totals(np.sum(values * self.rows.weight))[0] / self.total_weight)
        return self.unit_of_loss

    # --- one block: its rounds, their losses, its end --------------------------------------------------------------

    def block(self, block: int, one_round: Callable[[int], None]) -> None:
        """Rounds of one block until its budget is spent or its losses stop falling; then back to the best round."""
        first, last, patience = self.n_rounds[block], self.options.blocks[block].max_iter, self.options.patience
        # Measured anew for a block that goes on: other blocks have changed the score since its last round.
        losses = self.losses()
        if not self.train_loss[block]:
            self.record(block, losses)
        if last <= first:
            return
        # The training loss after a round falls out of the next one's derivatives, unless somebody asks at once.
        is_asked = self.progress.wants_figures or (patience is not None and self.validation is None)
        best = BestRound(losses[-1], first, self.snapshot())
        fused = None if is_asked else self.fused_rounds(block)
        self.progress.begin(BLOCKS[block], last)
        r, is_over = first, False
        while r < last and not is_over:
            self.progress.begin_step()
            n_done, figures = 0, {}
            if fused is not None and not (block == SHARED and r == 0 and self.options.has_line):
                n_done, is_over = self.run_fused(fused, r, r == first, best)
            if n_done == 0:
                one_round(r)
                n_done, figures = 1, self.figures_of_round(block, is_asked, r == first)
                is_over = patience is not None and self.has_stopped(best, r + 1, list(figures.values())[-1])
            r += n_done
            self.n_rounds[block] = r
            is_over = self.progress.end_step(r, figures, self.model) or is_over
        self.progress.end()
        if not is_asked:
            self.train_loss[block].append(self.losses()[0])
        n_dropped = r - best.round
        if patience is not None and n_dropped > 0:
            self.scores, self.validation_scores, self.theta = best.state
            self.builder.truncate(block, best.round)
            for history in (self.train_loss[block], self.validation_loss[block]):
                del history[len(history) - n_dropped :]
            self.n_rounds[block] = best.round

    def fused_rounds(self, block: int) -> FusedRounds | None:
        """What does many rounds of a block at once, where that can be."""
        data = block, self.rows, self.derivatives, self.grower, self.options
        if not can_run(*data):
            return None
        theta = ThetaState(self.theta, self.mixing(), self.task_mass, self.theta_units())
        rest = self.validation, self.builder, self.task_keys(), self.validation_weight, theta
        return FusedRounds(*data, self.scores, self.validation_scores, *rest)

    def run_fused(self, fused: FusedRounds, r: int, is_first: bool, best: BestRound) -> tuple[int, bool]:
        """Rounds from ``r`` on: how many are done, and whether losses have stopped falling."""
        block = fused.block
        n_done, is_over = fused.run(r, self.options.blocks[block].max_iter, self.rng, best)
        before_rounds = fused.told.training[int(is_first) : n_done] / self.total_weight
        self.train_loss[block].extend(before_rounds.tolist())
        if self.validation is not None:
            self.validation_loss[block].extend(fused.told.validation[:n_done].tolist())
        if block == PARTITION:
            self.theta = fused.theta
        return n_done, is_over

    def figures_of_round(self, block: int, is_asked: bool, is_first: bool) -> dict[str, float]:
        """The losses that are known after a round, which go to the histories."""
        if not is_first and not is_asked:
            self.train_loss[block].append(self.rows.totals(self.sum_before_round)[0] / self.total_weight)
        losses = self.losses(train=is_asked)
        self.record(block, losses)
        names = "training loss", "validation loss"
        return {name: loss for name, loss in zip(names, losses, strict=False) if loss is not None}

    def has_stopped(self, best: BestRound, n_done: int, loss: float) -> bool:
        """Whether losses have stopped falling; a round that is better than all before is remembered."""
        if loss < best.loss - self.options.tol:
            best.loss, best.round, best.state = loss, n_done, self.snapshot()
            return False
        return self.options.patience is not None and n_done - best.round >= self.options.patience

    def snapshot(self) -> tuple[Scores, Scores | None, np.ndarray]:
        """What a block that goes back to its best round has to restore; copies only where that can happen."""
        if self.options.patience is None:
            return self.scores, self.validation_scores, self.theta
        validation = None if self.validation_scores is None else self.validation_scores.copy()
        return self.scores.copy(), validation, self.theta.copy()

    def losses(self, train: bool = True) -> tuple[Any, ...]:
        """Mean training loss, if wanted, and, where there are validation rows, theirs; early stopping watches the last.

        A loss that is not wanted is None.
        """
        totals = []
        if train:
            totals.append(self.derivatives.losses(self.scores.total(self.mixing())) @ self.rows.weight)
        if self.validation is not None:
            totals.append(sum_of_products(self.validation_values(), self.validation.weight))
        if totals:
            totals = self.rows.totals(*totals)
        mean = totals[0] / self.total_weight if train else None
        return (mean,) if self.validation is None else (mean, totals[-1] / self.validation_weight)

    def validation_values(self) -> np.ndarray:
        """Loss (n_validation,) of every validation row, of which there are some."""
        assert self.validation is not None and self.validation_scores is not None
        total = self.validation_scores.total(self.mixing())
        return self.loss.values(self.validation.y, total, np.empty(len(total)), self.grower.n_threads)

    def record(self, block: int, losses: tuple[float, ...]) -> None:
        """Add what is known to the histories."""
        for history, loss in zip((self.train_loss[block], self.validation_loss[block]), losses, strict=False):
            if loss is not None:
                history.append(loss)

    # --- small steps -----------------------------------------------------------------------------------------------

    def update_derivatives(self) -> None:
        """Derivatives under the score as it stands; the loss of that falls out on the way."""
        self.sum_before_round = self.derivatives.update(self.scores.total(self.mixing()))

    def draw_sample(self) -> RowSample:
        if self.options.subsample >= 1.0:
            return self.rows.all_rows()
        return self.rows.content_sample(self.options.subsample, self.draw_seed())

    def draw_seed(self) -> int:
        return int(self.rng.integers(2**63))

    def draw_task_seeds(self) -> np.ndarray:
        """A seed per task."""
        return np.uint64(self.draw_seed()) ^ self.task_keys()

    def task_keys(self) -> np.ndarray:
        """Random bits of each task, by where its first row stands and not by its name."""
        first_row = np.minimum(self.rows.task_start[:-1], self.rows.n_rows - 1)  # the last tasks may have no row here
        return self.rows.position[first_row].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def model(self) -> BoostedModel:
        """The fitted model, turned so that the inlier branch is the one that most tasks lean to."""
        builder = self.builder.copy()  # this may be asked for in the middle of the training
        theta, order = inliers_first(self.theta, self.task_mass)
        builder.reorder_groups(order)
        n_leaf_outputs = self.loss.n_outputs if self.options.vector_leaves else 1
        rounds = (self.n_rounds[0], self.n_rounds[1], self.n_rounds[2])
        mixing = mixing_weights(theta, self.task_mass)
        forest = builder.build(self.base, mixing, rounds, n_leaf_outputs)
        train, validation = (copy.deepcopy(losses) for losses in (self.train_loss, self.validation_loss))
        return BoostedModel(forest, theta, train, validation, order)
