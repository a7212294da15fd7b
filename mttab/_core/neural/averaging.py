"""A running mean of a network's weights, which is what gets judged and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of the weights over the steps of a training.

    The weights of single steps jump about while the step size is large; their mean is better than any of them, and its
    figures on validation rows are steady enough to tell progress from luck.

    Parameters
    ----------
    module : nn.Module
    decay : float
        Share of the mean that a step leaves, less in the first steps; 0 = the weights of the last step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.n_steps = decay, 0
        self.weights: list[torch.Tensor] = list(module.parameters())
        self.mean: list[torch.Tensor] = [weight.detach().clone() for weight in self.weights] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now."""
        if not self.decay:
            return
        self.n_steps += 1
        decay = min(self.decay, self.n_steps / (self.n_steps + 9.0))
        torch._foreach_lerp_(self.mean, self.weights, 1.0 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the mean into the network."""
        for weight, mean in zip(self.weights, self.mean, strict=False):
            weight.copy_(mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network with the mean, and afterwards as it was."""
        before = [weight.detach().clone() for weight in self.weights] if self.decay else []
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, before, strict=False):
                    weight.copy_(value)
