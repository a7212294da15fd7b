"""What networks of experts are made of: stacks of experts, gates that weigh them, and a tower per task.

Axes are (groups, experts, rows, channels), see `mttab._core.neural.stacked`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mttab._core.neural.network import Inputs, TokenDropout
from mttab._core.neural.stacked import EveryTask, OwnTask, StackedLinear
from mttab._core.neural.tokens import FeatureTokens

Layout = EveryTask | OwnTask

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "swish": functional.silu}


class ExpertOptions(NamedTuple):
    """Shape of a network of experts.

    Attributes
    ----------
    n_features, n_outputs : int
        Feature tokens; scores of every task.
    n_tasks : int
        Columns of y, or row tasks.
    has_row_tasks : bool
        Whether every row has one of the tasks only.
    n_experts, n_task_experts : int
        Experts that all tasks share; experts of each task.
    gate_width : int
        Hidden units of a gate; 0 = a linear map.
    head_width : int
        Hidden units of a tower; 0 = a linear map.
    """

    n_features: int
    n_outputs: int
    n_tasks: int
    has_row_tasks: bool
    width: int
    n_experts: int
    n_task_experts: int
    expert_width: int
    expert_depth: int
    n_layers: int
    activation: str
    expert_norm: bool
    gate_width: int
    gate_dropout: float
    head_width: int
    dropout: float

    @property
    def sample_attention(self) -> bool:
        """Whether rows attend to rows, which training asks of every network: never."""
        return False


class HiddenDropout(TokenDropout):
    """Dropout of single hidden units."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty_like(x, memory_format=torch.contiguous_format)
        return x * keep.bernoulli_(1.0 - self.p, generator=self.generator).div_(1.0 - self.p)


class GateDropout(TokenDropout):
    """Leaves out experts, row by row; the weights of the others grow in proportion [1]_.

    References
    ----------
    .. [1] Z. Zhao et al. "Recommending What Video to Watch Next: A Multitask Ranking System". RecSys 2019.
    """

    def forward(self, weights: Tensor) -> Tensor:
        """Weights (…, n_experts) → the same, sum 1; a row that would lose all experts keeps them."""
        if not self.training or self.p == 0.0:
            return weights
        kept = weights * torch.empty_like(weights).bernoulli_(1.0 - self.p, generator=self.generator)
        total = kept.sum(dim=-1, keepdim=True)
        return torch.where(total > 0, kept / total.clamp_min(1e-12), weights)


class ExpertStack(nn.Module):
    """`n_groups` × `n_experts` MLPs: `expert_depth` hidden layers each, of which the last is what an expert says.

    With `expert_norm` the input of every activation is normalised.
    DEVIATION(HoME): over the units of a row, not over the rows of a batch, so that a row never depends on others.
    """

    def __init__(self, n_groups: int, n_experts: int, n_in: int, options: ExpertOptions) -> None:
        super().__init__()
        widths = [n_in, *[options.expert_width] * options.expert_depth]
        self.layers = nn.ModuleList(
            StackedLinear(n_groups, n_experts, *pair, is_normed=options.expert_norm) for pair in pairwise(widths)
        )
        self.activation = ACTIVATIONS[options.activation]
        self.dropout = HiddenDropout(options.dropout)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """(groups or 1, 1, n, n_in) → (groups, n_experts, n, expert_width); without a layout there is one group."""
        for layer in self.layers:
            x = self.dropout(self.activation(layer(x, layout)))
        return x


class Gates(nn.Module):
    """A softmax over experts per task: of a linear map as published, or of an MLP with one hidden layer."""

    def __init__(self, n_groups: int, n_in: int, n_experts: int, options: ExpertOptions) -> None:
        super().__init__()
        self.hidden = StackedLinear(n_groups, 1, n_in, options.gate_width) if options.gate_width else None
        self.out = StackedLinear(n_groups, 1, options.gate_width or n_in, n_experts)
        self.activation = ACTIVATIONS[options.activation]
        self.dropout = GateDropout(options.gate_dropout)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """(groups or 1, 1, n, n_in) → weights (groups, n, n_experts), sum 1."""
        if self.hidden is not None:
            x = self.activation(self.hidden(x, layout))
        return self.dropout(self.out(x, layout)[:, 0].softmax(dim=-1))


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weights (groups or 1, n, e), experts (groups or 1, e, n, width) → their means (groups, 1, n, width)."""
    return torch.einsum("gne,genh->gnh", weights, experts)[:, None]


class Towers(nn.Module):
    """An MLP with one hidden layer per task, or a linear map."""

    def __init__(self, n_in: int, options: ExpertOptions) -> None:
        super().__init__()
        n, hidden = options.n_tasks, options.head_width
        self.hidden = StackedLinear(n, 1, n_in, hidden) if hidden else None
        self.out = StackedLinear(n, 1, hidden or n_in, options.n_outputs)
        self.activation = ACTIVATIONS[options.activation]
        self.dropout = HiddenDropout(options.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(groups or 1, 1, n, n_in) → scores (groups, n, n_outputs)."""
        if self.hidden is not None:
            x = self.dropout(self.activation(self.hidden(x, layout)))
        return self.out(x, layout)[:, 0]


class Record(NamedTuple):
    """What one layer did, for those who look.

    Attributes
    ----------
    gates : Tensor of shape (groups, n, e)
        Weights of the experts that the tasks read.
    own, shared : Tensor of shape (groups or 1, experts, n, expert_width), or None
        What the experts of the tasks said, and those that all share.
    """

    gates: Tensor
    own: Tensor | None
    shared: Tensor | None


class ExpertNetwork(nn.Module):
    """From encoded rows to scores, without saying which experts there are: `read_experts` does.

    Parameters
    ----------
    features : FeatureTokens
        Tokens of `n_embeddings` × `width` channels.
    options : ExpertOptions
    """

    reads_experts_of_others = False  # whether the gate of a task weighs those of other tasks
    has_memory = False  # whether, after the first layer, it weighs a memory besides the experts
    is_traced = False  # rows are few and of any number: each goes to every task, and then its own is picked

    def __init__(self, features: FeatureTokens, options: ExpertOptions) -> None:
        super().__init__()
        self.features, self.options = features, options
        self.n_in = options.n_features * options.width
        self.build(options)
        self.towers = Towers(options.expert_width, options)

    @staticmethod
    def n_embeddings(n_tasks: int) -> int:
        """Embeddings of every feature."""
        return 1

    def build(self, options: ExpertOptions) -> None:
        """Make the layers of experts."""
        raise NotImplementedError

    def read_experts(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, list[Record]]:
        """Tokens (n, d, n_embeddings · width) → what the towers read (groups or 1, 1, n, expert_width), and records."""
        raise NotImplementedError

    def forward(
        self, inputs: Inputs, memory: None = None, log_weight: Tensor | None = None
    ) -> tuple[Tensor, list[None]]:
        """Scores of n rows.

        Parameters
        ----------
        inputs : Inputs
        memory, log_weight
            Not read; every network takes them.

        Returns
        -------
        scores : Tensor of shape (n, n_tasks, n_outputs)
            With row tasks (n, 1, n_outputs). A task that fit did not see has the mean over all tasks.
        made : list
            Empty: rows do not see each other.
        """
        tokens = self.features(inputs.numeric, inputs.missing, inputs.codes)
        if not self.options.has_row_tasks:
            return self._scores(tokens, self._layout(inputs)), []
        is_unseen = inputs.task == self.options.n_tasks
        if self.is_traced:
            everywhere = self._scores(tokens, EveryTask(self.options.n_tasks, tokens.device))
            own = inputs.task.clamp_max(self.options.n_tasks - 1)[:, None, None].expand(-1, 1, everywhere.shape[2])
            mean = everywhere.mean(dim=1, keepdim=True)
            return torch.where(is_unseen[:, None, None], mean, everywhere.gather(1, own)), []
        scores = self._scores(tokens, self._layout(inputs))
        if not self.training and is_unseen.any():
            everywhere = self._scores(tokens, EveryTask(self.options.n_tasks, tokens.device))
            scores = torch.where(is_unseen[:, None, None], everywhere.mean(dim=1, keepdim=True), scores)
        return scores, []

    def represent(self, inputs: Inputs, log_weight: Tensor | None = None) -> Tensor:
        """What the towers read of n rows, side by side: (n, n_tasks · expert_width), with row tasks of one tower."""
        layout = self._layout(inputs)
        tokens = self.features(inputs.numeric, inputs.missing, inputs.codes)
        read = self.read_experts(tokens, layout)[0][:, 0]
        return layout.gather(read.expand(len(layout.task_of_group), -1, -1)).flatten(1)

    def gates(self, inputs: Inputs, layer: int) -> Tensor:
        """Weights of the experts in the mean that each task reads, (n, n_tasks or 1, n_experts)."""
        layout, records = self._look(inputs)
        gates = records[layer].gates
        return layout.gather(gates.expand(len(layout.task_of_group), -1, -1))

    def zeros(self, inputs: Inputs) -> Tensor:
        """Share of zeros in what each expert says of each row, (n, all experts).

        Layer by layer: the experts of the tasks (task by task; with row tasks those of the row's own), then those that
        all share.
        """
        layout, records = self._look(inputs)
        found = []
        for record in records:
            for experts in (record.own, record.shared):
                if experts is not None:
                    share = (experts == 0).to(experts.dtype).mean(dim=3).transpose(1, 2)  # (groups or 1, n, experts)
                    found.append(layout.gather(share).flatten(1))
        return torch.cat(found, dim=1)

    def _look(self, inputs: Inputs) -> tuple[Layout, list[Record]]:
        layout = self._layout(inputs)
        return layout, self.read_experts(self.features(inputs.numeric, inputs.missing, inputs.codes), layout)[1]

    def _layout(self, inputs: Inputs) -> Layout:
        n_tasks = self.options.n_tasks
        if self.options.has_row_tasks:
            return OwnTask(inputs.task.clamp_max(n_tasks - 1), n_tasks)
        return EveryTask(n_tasks, inputs.numeric.device)

    def _scores(self, tokens: Tensor, layout: Layout) -> Tensor:
        return layout.gather(self.towers(self.read_experts(tokens, layout)[0], layout))
