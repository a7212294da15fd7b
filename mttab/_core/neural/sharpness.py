"""Task-wise sharpness-aware gradients: every task is also asked for its gradient where its own loss is worst nearby.

For task t the worst point near the weights w is, to first order, w + ε_t with ε_t = ρ ∇L_t(w) / ‖∇L_t(w)‖ [1]_. What
its gradient there has beyond ∇L_t(w) is the flat gradient, which leads to where the loss is flat. Loss gradients and
flat gradients of all tasks are combined separately and then added [2]_.

References
----------
.. [1] P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. "Sharpness-Aware Minimization for Efficiently Improving
   Generalization". ICLR 2021, arXiv:2010.01412.
.. [2] H. Phan, L. Tran, Q. Tran, N. N. Tran, T. Le, N. Ho, D. Phung. "Improving Multi-task Learning via Seeking
   Task-based Flat Regions". 2022, arXiv:2211.13723.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mttab._core.neural.ranks import add_gradients
from mttab._core.neural.weighting import flat_gradient


@contextmanager
def moved(parameters: Sequence[nn.Parameter], direction: Tensor, distance: float) -> Iterator[None]:
    """Parameters as far away as `distance` along `direction` (n_numbers,), and afterwards exactly as they were."""
    before = [parameter.detach().clone() for parameter in parameters]
    unit = direction * (distance / direction.norm())
    with torch.no_grad():
        for parameter, step in zip(parameters, unit.split([p.numel() for p in parameters]), strict=True):
            parameter.add_(step.view_as(parameter))
    try:
        yield
    finally:  # copied, not taken off again, which would leave an error of rounding in every step
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def sharpness_aware_gradients(
    loss_of: Callable[[int], Tensor],
    n_tasks: int,
    moving: Sequence[nn.Parameter],
    others: Sequence[nn.Parameter],
    rho: float,
) -> tuple[Tensor, Tensor]:
    """Loss gradient and flat gradient of every task.

    Parameters
    ----------
    loss_of : callable
        The loss of task t at the present weights; has to draw the same dropout whenever it is called.
    n_tasks : int
    moving, others : sequence of Parameter
        Weights that are moved, and further ones that get a gradient.
    rho : float
        How far the weights are moved.

    Returns
    -------
    loss_gradients, flat_gradients : Tensor of shape (n_tasks, n_numbers)
        Of all parameters, `moving` first. Rows of 0 for a task whose gradient is 0, which has no direction.
    """
    parameters = [*moving, *others]
    n_moving = sum(parameter.numel() for parameter in moving)

    def gradient_of(t: int) -> Tensor:
        gradient = flat_gradient(loss_of(t), parameters)
        add_gradients([gradient[:n_moving]])  # the others see the losses of all processes already
        return gradient

    losses, flats = [], []
    for t in range(n_tasks):
        gradient = gradient_of(t)
        direction, flat = gradient[:n_moving], torch.zeros_like(gradient)
        if direction.norm() > 0:
            with moved(moving, direction, rho):
                flat = gradient_of(t) - gradient
        losses.append(gradient)
        flats.append(flat)
    return torch.stack(losses), torch.stack(flats)
