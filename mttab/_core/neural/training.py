"""Training of one network: batches, optimiser, schedule, early stopping, and prediction in blocks of fixed size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mttab._core.neural.attention import RowMemory
from mttab._core.neural.averaging import WeightAverage
from mttab._core.neural.losses import TaskOutputs, explained
from mttab._core.neural.network import Inputs, TokenDropout
from mttab._core.neural.ranks import (
    number_of_first,
    own_generator,
    own_part,
    tensor_of_first,
    weights_of_first,
    with_others,
)
from mttab._core.neural.weighting import TaskWeighting

# Rows predicted at a time. Always as many, the last block filled up: sums of a row then do not depend on its company.
PREDICTION_ROWS = 256


class Examples(NamedTuple):
    """Rows with labels.

    Attributes
    ----------
    inputs : Inputs
    y : Tensor of shape (n, n_tasks)
        Numbers, or indices of classes; 0 where not observed.
    weight : Tensor of shape (n, n_tasks)
        0 where not observed.
    """

    inputs: Inputs
    y: Tensor
    weight: Tensor

    def take(self, rows: Tensor) -> Examples:
        """Some rows."""
        return Examples(self.inputs.take(rows), self.y[rows], self.weight[rows])


class TrainingOptions(NamedTuple):
    """How to train, see the estimators; `patience` None = no early stopping."""

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


@dataclass
class TrainedNetwork:
    """A network, the memory its row attention reads in prediction, and what a later fit goes on from.

    Attributes
    ----------
    module : nn.Module
        The network, as `MultiTabModule` is one.
    outputs : TaskOutputs
    weighting : TaskWeighting
    context : Inputs or None
        Training rows that predicted rows attend to; None without row attention.
    context_weight : Tensor or None
        Their log weights, where weights differ.
    n_epochs : int
        Epochs trained.
    optimizer_state : dict or None
        Where a later training goes on from.
    memory : list of RowMemory or None
        Keys and values of the context.
    """

    module: Any
    outputs: TaskOutputs
    weighting: TaskWeighting
    context: Inputs | None = None
    context_weight: Tensor | None = None
    n_epochs: int = 0
    optimizer_state: dict[str, Any] | None = field(default=None, repr=False)
    memory: list[RowMemory] | None = field(default=None, repr=False)

    def on_cpu(self) -> TrainedNetwork:
        """Itself where it is on the CPU, otherwise a copy there."""
        if next(self.module.parameters()).device.type == "cpu":
            return self
        copied = copy.deepcopy(self)
        copied.optimizer_state = None
        copied.move(torch.device("cpu"))
        return copied

    def move(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Bring all tensors to a device, and its numbers into a type; None: as they are."""
        for part in (self.module, self.outputs, self.weighting):
            part.to(device=device, dtype=dtype)
        if self.context is not None:
            self.context = Inputs(*(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in self.context))
        if self.context_weight is not None:
            self.context_weight = self.context_weight.to(device, dtype)
        self.remember()

    def remember(self) -> None:
        """Compute keys and values of the context, once per state of the weights."""
        if self.context is None:
            return
        self.module.eval()
        with torch.no_grad():
            _, self.memory = self.module(self.context, None, self.context_weight)

    def scores(self, inputs: Inputs, *, bf16: bool = False) -> Tensor:
        """Scores (n, n_tasks, n_outputs) of rows, each of which sees the context and itself."""
        return torch.cat(list(self._in_blocks(inputs, lambda block: self.module(block, self.memory)[0], bf16)))

    def attention(self, inputs: Inputs) -> np.ndarray:
        """Attention of task tokens, mean over rows: (n_blocks, t, d + t), float64."""

        def read(block: Inputs) -> Tensor:
            return self.module.attention(block, self.memory).transpose(0, 1)

        sums = [weights.sum(dim=0).cpu().double() for weights in self._in_blocks(inputs, read, False)]
        return (torch.stack(sums).sum(dim=0) / len(inputs.numeric)).numpy()

    def _in_blocks(self, inputs: Inputs, read: Callable[[Inputs], Tensor], bf16: bool) -> Iterator[Tensor]:
        """What `read` gives for the rows, `PREDICTION_ROWS` at a time."""
        self.module.eval()
        n = len(inputs.numeric)
        for start in range(0, n, PREDICTION_ROWS):
            rows = torch.arange(start, start + PREDICTION_ROWS, device=inputs.numeric.device).clamp_max(n - 1)
            with torch.no_grad(), _precision(inputs.numeric.device, bf16):
                found = read(inputs.take(rows))
            yield found[: min(PREDICTION_ROWS, n - start)].to(inputs.numeric.dtype)


def train(
    network: TrainedNetwork,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, Any]], None],
    is_cancelled: Callable[[], bool],
) -> None:
    """Train a network in place; it ends with the weights of its best epoch where there are validation rows.

    Parameters
    ----------
    network : TrainedNetwork
    training : Examples
    validation : Examples or None
        Early stopping watches the mean over tasks of `explained` on them.
    options : TrainingOptions
    generator : torch.Generator
        Of the device of the data; orders the batches.
    on_epoch : callable
        Called with the figures of every epoch.
    is_cancelled : callable
        Asked before every batch; training then ends with the best weights so far.
    """
    run = _Run(network, training, validation, options, generator)
    for epoch in range(options.max_epochs):
        figures = run.epoch(epoch, is_cancelled)
        if figures is None:
            break
        on_epoch(figures)
        if run.is_over():
            break
    run.finish()


class _Run:
    """State of one training: optimiser, schedule, best weights."""

    def __init__(
        self,
        network: TrainedNetwork,
        training: Examples,
        validation: Examples | None,
        options: TrainingOptions,
        generator: torch.Generator,
    ) -> None:
        self.network, self.training, self.validation = network, training, validation
        self.weighting, self.options, self.generator = network.weighting, options, generator
        module = network.module
        self.forward = _compiled(module) if options.compile else module
        self.n = len(training.y)
        self.mean_weight = training.weight.mean(dim=0).clamp_min(1e-12)
        row_weight = training.weight.amax(dim=1)
        # Relative to their mean, which is what a predicted row weighs that sees itself beside the context.
        relative = row_weight / row_weight.mean()
        self.log_weight = None if bool((row_weight == row_weight[0]).all()) else relative.log()
        self.parameters = [*module.parameters(), *self.weighting.parameters()]
        weights_of_first(self.parameters)
        n_first = number_of_first(self.n)
        if n_first != self.n:
            raise ValueError(
                f"X has {self.n} training rows in one of the processes that train together, but {n_first} in the first "
                "one; pass the same rows in all, each process takes its part of every batch by itself."
            )
        self.optimizer = _optimizer(module, self.weighting, options)
        if network.optimizer_state is not None:
            _resume(self.optimizer, network.optimizer_state, options)
        self.average = WeightAverage(module, options.averaging)
        self.n_batches = math.ceil(self.n / options.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _schedule(options, self.n_batches * options.max_epochs)
        )
        if module.options.sample_attention and network.context is None:
            self._choose_context()
        self.best_score, self.n_bad = -math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        of_dropout = own_generator(generator)
        for part in module.modules():
            if isinstance(part, TokenDropout):
                part.generator = of_dropout
        if network.n_epochs > 0:  # levels that come only now have data of their own from here on
            codes = training.inputs.codes
            module.features.level_weight.index_add_(0, codes.flatten(), row_weight.repeat_interleave(codes.shape[1]))
        module.features.fill_unseen()
        if network.n_epochs > 0 and validation is not None:  # not to end with worse weights than it began with
            self._note(self._validate(validation))

    def _choose_context(self) -> None:
        order = torch.randperm(self.n, generator=self.generator, device=self.generator.device)
        rows = order[: self.options.context_size].sort().values
        self.network.context = self.training.inputs.take(rows)
        self.network.context_weight = None if self.log_weight is None else self.log_weight[rows]

    def epoch(self, number: int, is_cancelled: Callable[[], bool]) -> dict[str, Any] | None:
        """One pass over the training rows; what it showed, None if it was cancelled."""
        module = self.network.module
        module.train()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        total: Any = 0.0
        for rows in self._batches():
            if is_cancelled():
                return None
            losses = self._losses(rows)
            self.optimizer.zero_grad(set_to_none=True)
            self.weighting.backward(losses, self.parameters)
            if self.options.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip)
            self.optimizer.step()
            self.schedule.step()
            self.average.update()
            total = total + losses.detach().mean() * len(rows)
        self.network.n_epochs += 1
        train_loss = float(total) / self.n
        if not math.isfinite(train_loss) and self.best_weights is None:
            raise ValueError(
                f"training diverged: the loss of epoch {number} is {train_loss}; pass a smaller learning_rate than "
                f"{self.options.learning_rate:g} or gradient_clip=1.0, and look for extreme values in X and y."
            )
        figures: dict[str, Any] = {"epoch": number, "learning_rate": learning_rate, "train_loss": train_loss}
        if self.validation is not None:
            with self.average.applied():
                module.features.fill_unseen()
                by_task = self._validate(self.validation)
                figures |= {"validation_score": self._note(by_task), "by_task": by_task.tolist()}
        return figures

    def _validate(self, validation: Examples) -> Tensor:
        """Figure of every task (n_tasks,) on the validation rows."""
        self.network.remember()
        scores = self.network.scores(validation.inputs, bf16=self.options.bf16)
        return tensor_of_first(explained(self.network.outputs, scores, validation.y, validation.weight))

    def _batches(self) -> Iterator[Tensor]:
        order = torch.randperm(self.n, generator=self.generator, device=self.generator.device)
        # Batches of about equal size: a last one of a few rows would be all noise, and alone with its row attention.
        yield from torch.tensor_split(order, self.n_batches)

    def _losses(self, rows: Tensor) -> Tensor:
        """Loss of every task (n_tasks,): its mean over all training rows is the weighted mean loss."""
        own = own_part(rows)
        is_empty = len(own) == 0  # of a batch with fewer rows than there are processes
        own = rows[:1] if is_empty else own
        batch = self.training.take(own)
        log_weight = None if self.log_weight is None else self.log_weight[own]
        with _precision(batch.y.device, self.options.bf16):
            scores, _ = self.forward(batch.inputs, None, log_weight)
        cells = self.network.outputs.cell_losses(scores.to(batch.y.dtype), batch.y) * batch.weight
        return with_others(cells.sum(dim=0) * (0.0 if is_empty else 1.0) / (len(rows) * self.mean_weight))

    def _note(self, by_task: Tensor) -> float:
        """Keep the weights if these figures are the best so far; gives their mean, NaN where no task has any."""
        score = float(by_task.nanmean())
        if math.isnan(score):  # labels that do not vary tell nothing, also not that there is no progress
            return score
        if score > self.best_score:
            self.best_score, self.n_bad = score, 0
            self.best_weights = {k: v.detach().clone() for k, v in self.network.module.state_dict().items()}
        else:
            self.n_bad += 1
        return score

    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return self.options.patience is not None and self.n_bad >= self.options.patience

    def finish(self) -> None:
        """Put the best weights back and compute what prediction needs."""
        if self.best_weights is not None:
            self.network.module.load_state_dict(self.best_weights)
        else:
            self.average.apply()
            self.network.module.features.fill_unseen()
        for part in self.network.module.modules():
            if isinstance(part, TokenDropout):
                part.generator = None
        self.network.module.eval()
        self.network.remember()
        self.network.optimizer_state = self.optimizer.state_dict()


def _compiled(module: nn.Module) -> Callable[..., Any]:
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


def _optimizer(module: nn.Module, weighting: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """AdamW; matrices decay, biases, norms, tokens and learned task weights do not."""
    decays = [
        p
        for name, p in module.named_parameters()
        if p.dim() > 1 and name.endswith(("weight", "weight_in", "weight_out"))
    ]
    ids = {id(p) for p in decays}
    others = [p for p in (*module.parameters(), *weighting.parameters()) if id(p) not in ids]
    groups = [
        {"params": decays, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def _resume(optimizer: torch.optim.Optimizer, state: dict[str, Any], options: TrainingOptions) -> None:
    """Moments of an earlier training, with the step size of this one."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate
        group.pop("initial_lr", None)


def _schedule(options: TrainingOptions, n_steps: int) -> Callable[[int], float]:
    """Factor on the learning rate: a linear start, then the wave of a cosine, or none."""
    n_warmup = max(1, round(options.warmup_fraction * n_steps))

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        if options.schedule == "constant":
            return 1.0
        progress = (step - n_warmup) / max(1, n_steps - n_warmup)
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))

    return factor


def _precision(device: torch.device, bf16: bool) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
