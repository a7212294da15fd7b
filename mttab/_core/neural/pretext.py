"""A pretext task that needs no label: tell the features of a row that were masked from those that were not.

Masked features are passed as missing, and a small MLP reconstructs the numbers and the levels that were there. Any
network can learn it that has a method `represent(inputs, log_weight) -> (n, width)`: what its scores are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mttab._core.neural.averaging import WeightAverage
from mttab._core.neural.network import Inputs
from mttab._core.neural.ranks import backward_over_all, own_generator, own_part, with_others
from mttab._core.neural.stepping import (
    PretextOptions,
    TrainingOptions,
    dropout_from,
    make_optimizer,
    make_schedule,
    precision_of,
)

HIDDEN_UNITS = 128  # of the heads, which are thrown away


class PretextRows(NamedTuple):
    """Rows with and without labels, their weights (n,), and a generator of the device for batches and masks."""

    inputs: Inputs
    weight: Tensor
    generator: torch.Generator


class ReconstructionHeads(nn.Module):
    """From a representation (n, width) to the numbers and the levels of all features.

    Parameters
    ----------
    width : int
    n_numeric : int
    n_levels : Tensor of shape (n_categorical,)
        Rows of the table of levels that each categorical feature has.
    generator : torch.Generator
        Draws the start.
    """

    def __init__(self, width: int, n_numeric: int, n_levels: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.n_numeric, self.n_levels = n_numeric, n_levels.tolist()
        self.norm = nn.LayerNorm(width)
        # Started below: nn.Linear would draw from torch's global generator.
        self.hidden = nn.utils.skip_init(nn.Linear, width, HIDDEN_UNITS)
        self.out = nn.utils.skip_init(nn.Linear, HIDDEN_UNITS, n_numeric + sum(self.n_levels))
        self.to(generator.device)
        with torch.no_grad():
            for layer in (self.hidden, self.out):
                bound = 1.0 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()

    def forward(self, representation: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Numbers (n, n_numeric), and scores of the levels of each categorical feature."""
        found = self.out(functional.gelu(self.hidden(self.norm(representation))))
        return found[:, : self.n_numeric], list(found[:, self.n_numeric :].split(self.n_levels, dim=1))


def mask_features(
    inputs: Inputs, fraction: float, missing_level: Tensor, generator: torch.Generator
) -> tuple[Inputs, Tensor, Tensor]:
    """Rows with about this share of their features missing.

    Parameters
    ----------
    inputs : Inputs
    fraction : float
    missing_level : Tensor of shape (n_categorical,)
        What stands for a missing level of each feature.
    generator : torch.Generator

    Returns
    -------
    masked : Inputs
    numeric_mask : Tensor of shape (n, n_numeric), bool
        Which numbers are new gaps.
    level_mask : Tensor of shape (n, n_categorical), bool
        The same of levels.
    """

    def draw(there: Tensor) -> Tensor:
        return there & (torch.rand(there.shape, generator=generator, device=there.device) < fraction)

    numeric_mask, level_mask = draw(~inputs.missing), draw(inputs.codes != missing_level)
    masked = inputs._replace(
        numeric=inputs.numeric.masked_fill(numeric_mask[:, :, None], 0.0),
        missing=inputs.missing | numeric_mask,
        codes=torch.where(level_mask, missing_level, inputs.codes),
    )
    return masked, numeric_mask, level_mask


class Pretext:
    """The pretext task of one network.

    Parameters
    ----------
    module : nn.Module
        The network.
    rows : PretextRows
    options : PretextOptions
    steps : TrainingOptions
    n_steps : int
        How many there will be.
    """

    def __init__(
        self, module: Any, rows: PretextRows, options: PretextOptions, steps: TrainingOptions, n_steps: int
    ) -> None:
        self.module, self.rows, self.options, self.bf16 = module, rows, options, steps.bf16
        features = module.features
        n_levels = torch.bincount(features.feature_of_level, minlength=rows.inputs.codes.shape[1])
        self.first_level = n_levels.cumsum(0) - n_levels
        self.missing_level = self.first_level + n_levels - 2  # the last two are "missing" and "unknown"
        module.eval()
        with torch.no_grad():
            example = module.represent(rows.inputs.take(slice(0, 2)), None)
        self.heads = ReconstructionHeads(example.shape[1], rows.inputs.numeric.shape[1], n_levels, rows.generator)
        self.heads.to(example.dtype)
        trained = (module, self.heads) if options.is_before else (self.heads,)
        self.optimizer = make_optimizer(steps, *trained)
        self.schedule = make_schedule(self.optimizer, steps, n_steps)
        self.parameters = [parameter for part in trained for parameter in part.parameters()]
        self.batches: Iterator[Tensor] = iter(())
        weight = rows.weight / rows.weight.mean()
        self.log_weight = None if bool((weight == weight[0]).all()) else weight.log()

    @property
    def n_batches(self) -> int:
        """Batches that make one pass over the rows."""
        return math.ceil(len(self.rows.weight) / self.options.batch_size)

    def backward(self) -> Tensor:
        """Add the gradient of its loss on a batch, times its weight, to the gradients that are there."""
        loss = self._loss(self._next_batch())
        parameters = [*self.module.parameters(), *self.heads.parameters()]
        backward_over_all(loss if self.options.is_before else self.options.weight * loss, parameters)
        return loss.detach()

    def step(self) -> None:
        """Move what this task trains by its gradients, and forget them."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _next_batch(self) -> Tensor:
        rows = next(self.batches, None)
        if rows is None:
            generator = self.rows.generator
            order = torch.randperm(len(self.rows.weight), generator=generator, device=generator.device)
            self.batches = iter(torch.tensor_split(order, self.n_batches))
            rows = next(self.batches)
        return rows

    def _loss(self, rows: Tensor) -> Tensor:
        """Mean over the masked features, near 1 where nothing is known of them: squared error, or log loss."""
        inputs, weight = self.rows.inputs.take(rows), self.rows.weight[rows, None]
        masked, numeric_mask, level_mask = mask_features(
            inputs, self.options.fraction, self.missing_level, self.rows.generator
        )
        numeric_weight, level_weight = weight * numeric_mask, weight * level_mask
        mass = (numeric_weight.sum() + level_weight.sum()).clamp_min(1e-12)
        own = own_part(torch.arange(len(rows), device=rows.device))
        is_empty = len(own) == 0  # of fewer rows than there are processes
        own = own.new_zeros(1) if is_empty else own
        inputs, rows = inputs.take(own), rows[own]
        with precision_of(weight.device, self.bf16):
            log_weight = None if self.log_weight is None else self.log_weight[rows]
            numbers, levels = self.heads(self.module.represent(masked.take(own), log_weight))
        total = (numeric_weight[own] * (numbers.to(weight.dtype) - inputs.numeric[:, :, 0]) ** 2).sum()
        for j, scores in enumerate(levels):
            place = inputs.codes[:, j] - self.first_level[j]
            cells = functional.cross_entropy(scores.to(weight.dtype), place, reduction="none")
            total = total + (level_weight[own, j] * cells).sum() / math.log(scores.shape[1])
        return with_others(total * 0.0 if is_empty else total / mass)


def pretrain(
    module: Any,
    rows: PretextRows,
    options: PretextOptions,
    steps: TrainingOptions,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, Any]], None],
    is_cancelled: Callable[[], bool],
) -> None:
    """Train a network in place on the pretext task alone.

    Parameters
    ----------
    module, rows, options, steps
        See `Pretext`.
    generator : torch.Generator
        Draws dropout.
    on_epoch : callable
        Called with the figures of every epoch.
    is_cancelled : callable
        Asked before every batch.
    """
    n_batches = math.ceil(len(rows.weight) / options.batch_size)
    task = Pretext(module, rows, options, steps, n_batches * options.n_epochs)
    average = WeightAverage(module, steps.averaging)
    with dropout_from(module, own_generator(generator)):
        for epoch in range(options.n_epochs):
            module.train()
            learning_rate = task.optimizer.param_groups[0]["lr"]
            total: Any = 0.0
            for _ in range(n_batches):
                if is_cancelled():
                    return
                total = total + task.backward()
                if steps.gradient_clip:
                    nn.utils.clip_grad_norm_(task.parameters, steps.gradient_clip)
                task.step()
                average.update()
            loss = checked(float(total) / n_batches, epoch, steps.learning_rate)
            on_epoch({"phase": "pretext", "epoch": epoch, "learning_rate": learning_rate, "pretext_loss": loss})
    if options.n_epochs:
        average.apply()


def checked(loss: float, epoch: int, learning_rate: float) -> float:
    """The loss of an epoch; says what to do where it is no number."""
    if math.isfinite(loss):
        return loss
    raise ValueError(
        f"training diverged: the loss of epoch {epoch} is {loss}; pass a smaller learning_rate than "
        f"{learning_rate:g} or gradient_clip=1.0, and look for extreme values in X and y."
    )
