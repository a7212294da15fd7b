"""Training of one network: batches, optimiser, schedule, early stopping, and prediction in blocks of fixed size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mttab._core.neural.attention import RowMemory
from mttab._core.neural.averaging import WeightAverage
from mttab._core.neural.losses import TaskLosses, TaskOutputs, explained
from mttab._core.neural.network import Inputs
from mttab._core.neural.pretext import Pretext, PretextRows, checked, pretrain
from mttab._core.neural.ranks import (
    SAME_FIT,
    check_same,
    number_of_first,
    own_generator,
    own_part,
    tensor_of_first,
    weights_of_first,
    with_others,
)
from mttab._core.neural.sharpness import sharpness_aware_gradients
from mttab._core.neural.stepping import (
    TrainingOptions,
    compiled,
    dropout_from,
    fade_dropout,
    make_optimizer,
    make_schedule,
    precision_of,
    resume,
)
from mttab._core.neural.watching import Watch
from mttab._core.neural.weighting import TaskWeighting, set_gradients

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


@dataclass
class TrainedNetwork:
    """A network, the memory its row attention reads in prediction, and what a later fit goes on from.

    Attributes
    ----------
    module : nn.Module
        The network, as `MultiTabModule` is one: called with (inputs, memory, log_weight) it gives scores and memory;
        `represent(inputs, log_weight)` is what its scores are made of, for the pretext task; `features` are its
        `FeatureTokens`, and `options.sample_attention` says whether its rows see each other.
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
    is_companion : bool
        Whether it is the MLP beside a member. Its dropout fades as the figure on validation rows rises.
    """

    module: Any
    outputs: TaskOutputs
    weighting: TaskWeighting
    context: Inputs | None = None
    context_weight: Tensor | None = None
    n_epochs: int = 0
    optimizer_state: dict[str, Any] | None = field(default=None, repr=False)
    memory: list[RowMemory] | None = field(default=None, repr=False)
    is_companion: bool = False

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

    def read(self, inputs: Inputs, look: Callable[[Any, Inputs], Tensor]) -> np.ndarray:
        """What `look` finds in the module for every row, (n, …), float64."""
        return (
            torch.cat(list(self._in_blocks(inputs, lambda rows: look(self.module, rows), False))).cpu().double().numpy()
        )

    def _in_blocks(self, inputs: Inputs, read: Callable[[Inputs], Tensor], bf16: bool) -> Iterator[Tensor]:
        """What `read` gives for the rows, `PREDICTION_ROWS` at a time."""
        self.module.eval()
        n = len(inputs.numeric)
        for start in range(0, n, PREDICTION_ROWS):
            rows = torch.arange(start, start + PREDICTION_ROWS, device=inputs.numeric.device).clamp_max(n - 1)
            with torch.no_grad(), precision_of(inputs.numeric.device, bf16):
                found = read(inputs.take(rows))
            yield found[: min(PREDICTION_ROWS, n - start)].to(inputs.numeric.dtype)


def train(
    network: TrainedNetwork,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    generator: torch.Generator,
    before_epoch: Callable[[], None],
    on_epoch: Callable[[dict[str, Any], Callable[[], TrainedNetwork]], bool],
    is_cancelled: Callable[[], bool],
    pretext_rows: PretextRows | None = None,
) -> None:
    """Train a network in place; it ends with the weights of its best epoch where there are validation rows.

    Parameters
    ----------
    network : TrainedNetwork
    training : Examples
    validation : Examples or None
        Early stopping watches what `explained` says of them, see `Watch`.
    options : TrainingOptions
    generator : torch.Generator
        Of the device of the data; orders the batches.
    before_epoch : callable
    on_epoch : callable
        Called with the figures of every epoch and what gives the network as if training ended there; says whether it is
        to end.
    is_cancelled : callable
        Asked before every batch; training then ends with the best weights so far.
    pretext_rows : PretextRows, default=None
        Of the pretext task, which a network that goes on from an earlier training does not learn before this one.
    """
    shapes = [tuple(parameter.shape) for parameter in network.module.parameters()]
    n_rows = [None if rows is None else len(rows.weight) for rows in (training, validation, pretext_rows)]
    check_same({"The shape of the network": shapes, "The number of rows": n_rows}, SAME_FIT)
    weights_of_first([*network.module.parameters(), *network.weighting.parameters()])
    pretext = None if pretext_rows is None else options.pretext
    if pretext is not None and pretext_rows is not None and pretext.is_before:
        if network.n_epochs == 0:

            def note(figures: dict[str, Any]) -> None:
                on_epoch(figures, lambda: network)

            pretrain(network.module, pretext_rows, pretext, options, generator, note, is_cancelled)
        pretext_rows = None
    run = _Run(network, training, validation, options, generator, pretext_rows)
    with run.drawing():
        for epoch in range(options.max_epochs):
            before_epoch()
            figures = run.epoch(epoch, is_cancelled)
            if figures is None:
                break
            is_ended = bool(number_of_first(int(on_epoch(figures, run.current))))
            if is_ended or run.watch.is_over():
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
        pretext_rows: PretextRows | None,
    ) -> None:
        self.network, self.training, self.validation = network, training, validation
        self.weighting, self.options, self.generator = network.weighting, options, generator
        self.dropout_generator = own_generator(generator)
        module = network.module
        self.forward = compiled(module) if options.compile and not network.is_companion else module
        self.n = len(training.y)
        self.task_losses = TaskLosses(
            network.outputs, training.weight, self.weighting.task_weight if self.weighting.row_tasks else None
        )
        row_weight = training.weight.amax(dim=1)
        # Relative to their mean, which is what a predicted row weighs that sees itself beside the context.
        relative = row_weight / row_weight.mean()
        self.log_weight = None if bool((row_weight == row_weight[0]).all()) else relative.log()
        self.parameters = [*module.parameters(), *self.weighting.parameters()]
        self.optimizer = make_optimizer(options, module, self.weighting)
        if network.optimizer_state is not None:
            resume(self.optimizer, network.optimizer_state, options)
        self.average = WeightAverage(module, options.averaging)
        self.n_batches = math.ceil(self.n / options.batch_size)
        n_steps = self.n_batches * options.max_epochs
        self.schedule = make_schedule(self.optimizer, options, n_steps)
        self.pretext = None
        if pretext_rows is not None and options.pretext is not None:
            self.pretext = Pretext(module, pretext_rows, options.pretext, options, n_steps)
        if module.options.sample_attention and network.context is None:
            self._choose_context()
        self.watch = Watch(len(network.outputs.kinds), options.patience, on_roots=options.on_roots)
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

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Dropout and aggregators that draw at random draw from the generators of this training."""
        self.weighting.generator = self.generator
        try:
            with dropout_from(self.network.module, self.dropout_generator):
                yield
        finally:
            self.weighting.generator = self.weighting.factor = None

    def epoch(self, number: int, is_cancelled: Callable[[], bool]) -> dict[str, Any] | None:
        """One pass over the training rows; what it showed, None if it was cancelled."""
        module = self.network.module
        module.train()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        total: Any = 0.0
        pretext_total: Any = 0.0
        for rows in self._batches():
            if is_cancelled():
                return None
            self.optimizer.zero_grad(set_to_none=True)
            losses = self._backward(rows)
            if self.pretext is not None:
                pretext_total = pretext_total + self.pretext.backward()
                self.pretext.step()
            if self.options.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip)
            self.optimizer.step()
            self.schedule.step()
            self.average.update()
            total = total + self.task_losses.mean(losses) * len(rows)
        self.network.n_epochs += 1
        train_loss = float(total) / self.n
        if self.watch.best_weights is None:
            checked(train_loss, number, self.options.learning_rate)
        figures: dict[str, Any] = {"epoch": number, "learning_rate": learning_rate, "train_loss": train_loss}
        if self.pretext is not None:
            figures["pretext_loss"] = float(pretext_total) / self.n_batches
        if self.validation is not None:
            with self.average.applied():
                module.features.fill_unseen()
                by_task = self._validate(self.validation)
                figures |= {"validation_score": self._note(by_task), "by_task": by_task.tolist()}
        return figures

    def _backward(self, rows: Tensor) -> Tensor:
        """Set the gradients of all parameters from a batch; gives the losses of the tasks."""
        if self.options.sam_rho == 0.0:
            losses = self._losses(rows, len(rows))
            self.weighting.backward(losses, self.parameters)
            return losses.detach()
        return self._backward_sharp(rows)

    def _backward_sharp(self, rows: Tensor) -> Tensor:
        """The same, with the gradients that sharpness-aware minimisation adds."""
        weighting, state = self.weighting, self.dropout_generator.get_state()
        seen: dict[int, Tensor] = {}

        def loss_of(part: int) -> Tensor:
            self.dropout_generator.set_state(state)  # the same dropout at the weights and beside them
            losses = self._losses(self._rows_of(part, rows), len(rows))
            seen.setdefault(part, losses.detach() * (weighting.part_of_loss == part))
            return weighting.parts(losses)[part]

        parameters = [p for p in self.network.module.parameters() if p.requires_grad]
        others = list(weighting.parameters())
        plain, flat = sharpness_aware_gradients(loss_of, weighting.n_parts, parameters, others, self.options.sam_rho)
        set_gradients(weighting.combine(plain) + weighting.combine(flat), [*parameters, *others])
        return torch.stack(list(seen.values())).sum(dim=0)

    def _rows_of(self, part: int, rows: Tensor) -> Tensor:
        """The rows of a batch that the loss of a part depends on."""
        if not self.weighting.row_tasks or self.network.module.options.sample_attention:
            return rows
        return rows[self.weighting.part_of_loss[self.training.inputs.task[rows]] == part]

    def _validate(self, validation: Examples) -> Tensor:
        """Figure of every task (n_tasks,) on the validation rows."""
        self.network.remember()
        scores = self.network.scores(validation.inputs, bf16=self.options.bf16)
        return tensor_of_first(explained(self.network.outputs, scores, validation.y, validation.weight))

    def _batches(self) -> Iterator[Tensor]:
        order = torch.randperm(self.n, generator=self.generator, device=self.generator.device)
        # Batches of about equal size: a last one of a few rows would be all noise, and alone with its row attention.
        yield from torch.tensor_split(order, self.n_batches)

    def _losses(self, rows: Tensor, n_batch: int) -> Tensor:
        """Loss of every task (n_losses,) on these rows of a batch of so many."""
        if len(rows) == 0:
            return self.weighting.task_weight.new_zeros(len(self.weighting.task_weight))
        own = own_part(rows)
        is_empty = len(own) == 0  # of fewer rows than there are processes
        own = rows[:1] if is_empty else own
        batch = self.training.take(own)
        log_weight = None if self.log_weight is None else self.log_weight[own]
        with precision_of(batch.y.device, self.options.bf16):
            scores, _ = self.forward(batch.inputs, None, log_weight)
        losses = self.task_losses(scores.to(batch.y.dtype), batch.y, batch.weight, batch.inputs.task, n_batch)
        return with_others(losses * 0.0 if is_empty else losses)

    def _note(self, by_task: Tensor) -> float:
        """Keep the weights if these figures are the best so far; gives their mean, NaN where no task has any."""
        module = self.network.module
        score = self.watch.note(by_task, lambda: {k: v.detach().clone() for k, v in module.state_dict().items()})
        if self.network.is_companion:  # it keeps an MLP from learning noise, and from being exact where there is none
            fade_dropout(module, self.watch.unexplained)
        if self.options.on_roots:
            self.weighting.heed(self.watch.unexplained_by_task())
        return score

    def current(self) -> TrainedNetwork:
        """A copy of the network with the weights that it would be validated with now."""
        generators = {id(self.dropout_generator): None}  # belongs to this training and cannot be copied
        with self.average.applied():
            copied = copy.copy(self.network)
            copied.module = copy.deepcopy(self.network.module, generators)
        copied.module.features.fill_unseen()
        copied.optimizer_state = None
        copied.remember()
        return copied

    def finish(self) -> None:
        """Put the best weights back and compute what prediction needs."""
        if self.watch.best_weights is not None:
            self.network.module.load_state_dict(self.watch.best_weights)
        else:
            self.average.apply()
            self.network.module.features.fill_unseen()
        self.network.module.eval()
        fade_dropout(self.network.module, 1.0)
        self.network.remember()
        self.network.optimizer_state = self.optimizer.state_dict()
