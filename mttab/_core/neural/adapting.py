"""A token for one more row task in trained networks, all else frozen.

Tried are, from the most cautious on: the token of unseen tasks, the mean of the known tokens weighted by how well the
network with each explains the new rows, and a token trained from there, drawn to it. A later one is taken only where it
is clearly better on rows that it has not seen (`choose_step`).
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.func import functional_call

from mttab._core.neural.training import PREDICTION_ROWS, Examples, TrainedNetwork

# Pull to the start of a trained token, in units of the spread of the known tokens; tried in this order.
PULLS = (3.0, 0.3)
# Steps of the optimiser, each with all rows.
N_STEPS = 12
# Folds; every row is one of its own where there are few, and only one is held out where there are many rows.
N_FOLDS, FEW_ROWS, MANY_ROWS = 5, 8, 500
# Confidence with which a step must beat the one before on rows it has not seen.
CONFIDENCE = 0.84
# Rows by which the known tasks are compared, of all together and of each.
MAX_COMPARED_IN_ALL, MIN_COMPARED = 4000, 40


def add_token(
    networks: list[TrainedNetwork], examples: Examples, generator: np.random.Generator
) -> list[TrainedNetwork]:
    """Copies of the networks with a row task more, learned from its rows; the first one decides how far."""
    pull: float | None = None
    found = []
    for i, network in enumerate(networks):
        rows = compare_tokens(network, examples)
        if i == 0:
            pull = choose_step(network, rows, generator)
        everything = torch.ones(len(examples.y), dtype=torch.bool, device=examples.y.device)
        found.append(with_token(network, find_token(network, rows, everything, pull)))
    return found


class TokenRows(NamedTuple):
    """Rows of the new task: labels, weights and, row by row, losses (n_tokens + 1, n) with each token it could have."""

    examples: Examples
    losses: Tensor


def compare_tokens(network: TrainedNetwork, examples: Examples) -> TokenRows:
    """Losses of the rows with every known token and, last, with that of unseen tasks; 0 for rows beyond enough."""
    n, n_known = len(examples.y), network.module.options.n_row_tasks
    few = min(n, max(MIN_COMPARED, MAX_COMPARED_IN_ALL // n_known))
    losses = examples.y.new_zeros(n_known + 1, n)
    tasks = torch.arange(n_known + 1, device=examples.y.device)
    part = examples.take(torch.arange(few, device=examples.y.device).repeat(len(tasks)))
    scores = network.scores(part.inputs._replace(task=tasks.repeat_interleave(few)))
    losses[:, :few] = _weighted(network, scores, part).view(len(tasks), few)
    return TokenRows(examples, losses)


def _weighted(network: TrainedNetwork, scores: Tensor, examples: Examples) -> Tensor:
    return (network.outputs.cell_losses(scores, examples.y) * examples.weight).sum(dim=1)


def placed_token(network: TrainedNetwork, rows: TokenRows, use: Tensor) -> Tensor:
    """Mean (width,) of the known tokens and that of unseen tasks, by how well they explain the rows ``use``."""
    losses = rows.losses[:, use].sum(dim=1).double()
    mass = rows.examples.weight[use].sum().double()
    prior = torch.full_like(losses, 0.5 / (len(losses) - 1))
    prior[-1] = 0.5
    share = torch.softmax(prior.log() - losses / _unit(network, float(losses.min() / mass)), dim=0).to(
        rows.losses.dtype
    )
    known = network.module.task_tokens.detach()
    return share[:-1] @ known + share[-1] * network.module.unseen_token().detach()


def _unit(network: TrainedNetwork, loss: float) -> float:
    """What a loss is divided by to be a log-likelihood: twice the variance of a number's error, 1 for classes."""
    return max(2.0 * loss, 1e-6) if network.outputs.kinds[0] == "regression" else 1.0


def trained_token(network: TrainedNetwork, rows: TokenRows, use: Tensor, start: Tensor, pull: float) -> Tensor:
    """Token (width,) of least loss on the rows ``use``, drawn to ``start``."""
    module = network.module.eval()
    examples = rows.examples.take(torch.nonzero(use).flatten())
    known = module.task_tokens.detach()
    spread = known.var(dim=0).clamp_min(1e-4) if len(known) > 1 else torch.full_like(start, 0.25)
    task = torch.full((len(examples.y),), len(known), device=start.device)
    token = start.clone().requires_grad_()
    mass = examples.weight.sum()
    optimizer = torch.optim.LBFGS([token], lr=1.0, max_iter=N_STEPS, line_search_fn="strong_wolfe")
    unit = _unit(network, float(rows.losses[:, use].sum(dim=1).min() / mass))

    def closure() -> float:
        optimizer.zero_grad()
        penalty = 0.5 * pull * (((token - start) ** 2) / spread).sum() / mass
        penalty.backward()
        total = float(penalty.detach())
        for first in range(0, len(task), 4 * PREDICTION_ROWS):
            part = examples.take(torch.arange(first, min(first + 4 * PREDICTION_ROWS, len(task)), device=start.device))
            tokens = {"task_tokens": torch.cat([known, token[None]])}
            scores, _ = functional_call(
                module, tokens, (part.inputs._replace(task=task[: len(part.y)]), network.memory)
            )
            loss = _weighted(network, scores, part).sum() / (unit * mass)
            loss.backward()
            total += float(loss.detach())
        return total

    optimizer.step(closure)
    found = token.detach()
    return found if bool(torch.isfinite(found).all()) else start


def choose_step(network: TrainedNetwork, rows: TokenRows, generator: np.random.Generator) -> float | None:
    """Pull of the trained token; infinite for the placed one, None for that of unseen tasks."""
    n = len(rows.examples.y)
    order = generator.permutation(n)
    n_folds = n if n <= FEW_ROWS else N_FOLDS
    if n < 2:
        return math.inf
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % n_folds
    pulls = [None, math.inf, *PULLS]
    held_losses: dict[float | None, list[np.ndarray]] = {pull: [] for pull in pulls}
    weights = []
    for k in range(n_folds if n <= MANY_ROWS else 1):
        is_held = torch.as_tensor(fold == k, device=rows.losses.device)
        held = rows.examples.take(torch.nonzero(is_held).flatten())
        weights.append(held.weight[:, 0].cpu().double().numpy())
        for pull in pulls:
            token = find_token(network, rows, ~is_held, pull)
            trial = with_token(network, token)
            task = torch.full((len(held.y),), network.module.options.n_row_tasks, device=token.device)
            losses = _weighted(trial, trial.scores(held.inputs._replace(task=task)), held)
            held_losses[pull].append(losses.cpu().double().numpy())
    weight = np.concatenate(weights)
    best = None
    for pull in pulls[1:]:
        if _is_clear(np.concatenate(held_losses[best]) - np.concatenate(held_losses[pull]), weight):
            best = pull
    return best


def find_token(network: TrainedNetwork, rows: TokenRows, use: Tensor, pull: float | None) -> Tensor:
    """Token (width,) of the new task from the rows ``use``, see `choose_step` for the pull."""
    if pull is None:
        return network.module.unseen_token().detach()
    start = placed_token(network, rows, use)
    return start if math.isinf(pull) else trained_token(network, rows, use, start, pull)


def with_token(network: TrainedNetwork, token: Tensor) -> TrainedNetwork:
    """A copy with one row task more. Moments of its training are gone, as a later one has a token more to move."""
    copied = copy.copy(network)
    copied.module, copied.optimizer_state = copy.deepcopy(network.module), None
    copied.module.add_task_token(token)
    return copied


def _is_clear(gain: np.ndarray, weight: np.ndarray) -> bool:
    """Whether the sum of weighted gains is above 0 with `CONFIDENCE`."""
    n = weight.sum() ** 2 / np.sum(weight**2)
    if n <= 1.0:
        return False
    error = gain.std() * math.sqrt(n / (n - 1.0) / n)
    return bool(gain.mean() > stats.t.ppf(CONFIDENCE, n - 1.0) * error)
