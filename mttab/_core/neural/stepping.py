"""What a training steps with: its options, optimiser, step sizes, precision, and where its dropout draws from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from mttab._core.neural.network import TokenDropout


class PretextOptions(NamedTuple):
    """How to learn it: before the tasks or with them, share of masked features, factor on its loss, epochs before."""

    is_before: bool
    fraction: float
    weight: float
    n_epochs: int
    batch_size: int


class TrainingOptions(NamedTuple):
    """How to train, see the estimators.

    `patience` None = no early stopping, `pretext` None = no pretext task; `on_roots`: what counts of
    every task, in its loss and for early stopping, is the root of what is unexplained, see `Watch`.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    schedule: str
    gradient_clip: float
    averaging: float
    patience: int | None
    context_size: int
    bf16: bool
    compile: bool
    sam_rho: float = 0.0
    pretext: PretextOptions | None = None
    on_roots: bool = False


def compiled(module: nn.Module) -> Callable[..., Any]:
    """The network through `torch.compile`, which compiles in its first call."""
    forward = torch.compile(module)

    def run(*inputs: Any) -> Any:
        try:
            return forward(*inputs)
        except Exception as err:
            if not type(err).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            raise RuntimeError(
                "compile=True, but torch.compile failed here, often for want of a compiler; install one (g++ or clang, "
                f"on a GPU triton as well), or pass compile=False. Torch says: {str(err).strip().splitlines()[0]}"
            ) from err

    return run


def make_optimizer(options: TrainingOptions, *parts: nn.Module) -> torch.optim.Optimizer:
    """AdamW for all parameters of some modules; matrices decay, biases, norms, tokens and task weights do not."""
    named = [item for part in parts for item in part.named_parameters()]
    decays = [p for name, p in named if p.dim() > 1 and name.endswith(("weight", "weight_in", "weight_out"))]
    ids = {id(p) for p in decays}
    groups = [
        {"params": decays, "weight_decay": options.weight_decay},
        {"params": [p for _, p in named if id(p) not in ids], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def resume(optimizer: torch.optim.Optimizer, state: dict[str, Any], options: TrainingOptions) -> None:
    """Moments of an earlier training, with the step size of this one."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate
        group.pop("initial_lr", None)


def make_schedule(
    optimizer: torch.optim.Optimizer, options: TrainingOptions, n_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Step sizes over so many steps: a linear start, then the wave of a cosine, or always the same."""
    n_warmup = max(1, round(options.warmup_fraction * n_steps))

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        if options.schedule == "constant":
            return 1.0
        progress = (step - n_warmup) / max(1, n_steps - n_warmup)
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def precision_of(device: torch.device, bf16: bool) -> AbstractContextManager:
    """Products in bfloat16, or as they are."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def fade_dropout(module: nn.Module, share: float) -> None:
    """Leave this share of its dropout to a network."""
    for part in module.modules():
        if isinstance(part, TokenDropout):
            part.share = share


@contextmanager
def dropout_from(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """All dropout of a network draws from `generator`, so that networks side by side do not disturb each other."""
    parts = [part for part in module.modules() if isinstance(part, TokenDropout)]
    for part in parts:
        part.generator = generator
    try:
        yield
    finally:
        for part in parts:
            part.generator = None
