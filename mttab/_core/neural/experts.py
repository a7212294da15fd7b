"""Networks of experts: shared bottom, MMoE, PLE, STEM, and one with gates that remember.

Axes are (groups, experts, rows, channels), see `mttab._core.neural.stacked`. In all of them x is a row's feature tokens
side by side, d · width numbers, and the towers are an MLP per task.
DEVIATION(all): the published networks look up categories only; here a number has an embedding, too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mttab._core.neural.expert_parts import ExpertNetwork, ExpertOptions, ExpertStack, Gates, Layout, Record, mix
from mttab._core.neural.stacked import EveryTask, StackedLinear


class SharedBottomModule(ExpertNetwork):
    """One MLP f for all tasks, a tower per task on top [1]_: y_t = h_t(f(x)).

    References
    ----------
    .. [1] R. Caruana. "Multitask Learning". Machine Learning 28, 1997.
    """

    def build(self, options: ExpertOptions) -> None:
        """x (n, d · width) → (n, expert_width)."""
        self.experts = ExpertStack(1, 1, self.n_in, options)

    def read_experts(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, list[Record]]:
        """The same for every task."""
        bottom = layout.spread(self.experts(_side_by_side(tokens)[None, None])[0])
        return bottom, [Record(torch.ones_like(bottom[:, 0, :, :1]), None, bottom)]


class MMoEModule(ExpertNetwork):
    """Multi-gate mixture of experts [1]_: y_t = h_t(Σ_i g_ti(x) f_i(x)), g_t = softmax(G_t x).

    DEVIATION: gates may have a hidden layer (`gate_width`) and lose experts in training (`gate_dropout`); neither by
    default.

    References
    ----------
    .. [1] J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong, E. H. Chi. "Modeling Task Relationships in Multi-task Learning with
       Multi-gate Mixture-of-Experts". KDD 2018.
    """

    def build(self, options: ExpertOptions) -> None:
        """Experts (n_experts, n, expert_width); gates (n_tasks, n, n_experts)."""
        self.experts = ExpertStack(1, options.n_experts, self.n_in, options)
        self.task_gates = Gates(options.n_tasks, self.n_in, options.n_experts, options)

    def read_experts(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, list[Record]]:
        """A mean of the experts per task."""
        x = _side_by_side(tokens)[None]
        experts = layout.spread(self.experts(x[None])[0])
        gates = self.task_gates(layout.spread(x), layout)
        return mix(gates, experts), [Record(gates, None, experts)]


class PLELayer(nn.Module):
    """Customised gate control: a task reads its own experts and the shared ones, the shared stream reads all.

    DEVIATION(row tasks): where a row has one task, the shared stream reads the experts of this task and the shared
    ones. Experts of hundreds of other tasks, none of which was trained on such rows, would cost hundreds of times more.
    """

    def __init__(self, n_in: int, options: ExpertOptions, *, is_last: bool) -> None:
        super().__init__()
        self.reads_own = options.has_row_tasks
        self.task_experts = ExpertStack(options.n_tasks, options.n_task_experts, n_in, options)
        self.shared_experts = ExpertStack(1, options.n_experts, n_in, options)
        n_seen = options.n_task_experts + options.n_experts
        self.task_gates = Gates(options.n_tasks, n_in, n_seen, options)
        n_all = n_seen if self.reads_own else options.n_tasks * options.n_task_experts + options.n_experts
        self.shared_gate = None if is_last else Gates(1, n_in, n_all, options)

    def forward(self, tasks: Tensor, shared: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Record]:
        """Streams of the tasks (groups or 1, 1, n, n_in) and of all together → the next ones, with `expert_width`."""
        own, common = self.task_experts(tasks, layout), self.shared_experts(shared)
        seen = torch.cat([own, common.expand(own.shape[0], -1, -1, -1)], dim=1)
        gates = self.task_gates(tasks, layout)
        if self.shared_gate is not None:
            every = seen if self.reads_own else torch.cat([own.flatten(0, 1)[None], common], dim=1)
            shared = mix(self.shared_gate(shared).expand(len(every), -1, -1), every)
        return mix(gates, seen), shared, Record(gates, own, common)


class PLEModule(ExpertNetwork):
    """Progressive layered extraction [1]_: layers of customised gate control, each fed by the streams of the last.

    Layer 1 reads x in all streams. With one layer it is what the paper calls CGC. DEVIATION(row tasks): see `PLELayer`.

    References
    ----------
    .. [1] H. Tang, J. Liu, M. Zhao, X. Gong. "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
       Model for Personalized Recommendations". RecSys 2020.
    """

    def build(self, options: ExpertOptions) -> None:
        """Streams (n_tasks, n, expert_width) and (1, n, expert_width) after every layer."""
        n_layers = options.n_layers
        self.layers = nn.ModuleList(
            PLELayer(options.expert_width if i else self.n_in, options, is_last=i == n_layers - 1)
            for i in range(n_layers)
        )

    def read_experts(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, list[Record]]:
        """The streams of the tasks after the last layer."""
        x = _side_by_side(tokens)[None]
        tasks = layout.spread(x)
        shared = tasks if self.options.has_row_tasks else x[None]
        records = []
        for layer in self.layers:
            tasks, shared, record = layer(tasks, shared, layout)
            records.append(record)
        return tasks, records


class STEMModule(ExpertNetwork):
    """Shared and task-specific embeddings [1]_: an embedding and experts per task, one more of each for all.

    A task reads all experts through its gate, which looks at its own embedding, but its loss moves only its own experts
    and the shared ones: those of other tasks, and the embeddings below them, get no gradient from it.
    DEVIATION: with ``numerical_embedding="periodic"`` all embeddings have the same frequencies.

    References
    ----------
    .. [1] L. Su, J. Pan, X. Wang, X. Xiao, S. Quan, X. Chen, J. Jiang. "STEM: Unleashing the Power of Embeddings for
       Multi-task Recommendation". AAAI 2024, arXiv:2308.13537.
    """

    reads_experts_of_others = True

    @staticmethod
    def n_embeddings(n_tasks: int) -> int:
        """One per task and one for all."""
        return n_tasks + 1

    def build(self, options: ExpertOptions) -> None:
        """Experts (n_tasks · n_task_experts + n_experts, n, expert_width), gates (n_tasks, n, as many)."""
        n_task_experts = options.n_task_experts
        self.task_experts = ExpertStack(options.n_tasks, n_task_experts, self.n_in, options)
        self.shared_experts = ExpertStack(1, options.n_experts, self.n_in, options)
        n_all = options.n_tasks * n_task_experts + options.n_experts
        self.task_gates = Gates(options.n_tasks, self.n_in, n_all, options)

    def read_experts(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, list[Record]]:
        """A mean of all experts per task, through which gradients reach some of them only."""
        n_tasks, n_own = self.options.n_tasks, self.options.n_tasks * self.options.n_task_experts
        x = tokens.unflatten(2, (n_tasks + 1, -1)).permute(2, 0, 1, 3).flatten(2)  # (n_tasks + 1, n, d · width)
        reads = layout.spread_own(x[:-1])
        own = self.task_experts(reads, layout)
        if isinstance(layout, EveryTask):
            fixed = own.detach()
        else:
            with torch.no_grad():
                fixed = self.task_experts(x[:-1, None], EveryTask(n_tasks, x.device))
        shared = self.shared_experts(x[None, -1:])
        gates = self.task_gates(reads, layout)
        every = layout.spread(torch.cat([fixed.flatten(0, 1), shared[0]]))
        own_gates = gates[..., :n_own].unflatten(2, (n_tasks, -1))
        own_gates = own_gates[torch.arange(len(gates), device=gates.device), :, layout.task_of_group]
        # Its own experts are in the first sum without a gradient and in the second with nothing but one.
        mixed = mix(gates, every) + mix(own_gates, own - own.detach())
        return mixed, [Record(gates, own, layout.spread(shared[0]))]


class TaskExpertLayer(nn.Module):
    """A layer of the trunk, experts that take it apart, and a memory per task that reads them."""

    def __init__(self, n_in: int, options: ExpertOptions, *, is_first: bool) -> None:
        super().__init__()
        width, n_tasks = options.expert_width, options.n_tasks
        self.trunk = ExpertStack(1, 1, n_in, options._replace(expert_depth=1))
        self.experts = ExpertStack(1, options.n_experts, width, options)
        self.recall = None if is_first else StackedLinear(n_tasks, 1, width, width)
        n_read, n_seen = (width, options.n_experts) if is_first else (2 * width, options.n_experts + 1)
        self.task_gates = Gates(n_tasks, n_read, n_seen, options)

    def forward(self, x: Tensor, memory: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor, Record]:
        """Trunk (1, 1, n, n_in) and memory (groups, 1, n, width) or None → the next ones, with `expert_width`."""
        update = self.trunk(x)
        x = update if memory is None else x + update
        experts = every = layout.spread(self.experts(x)[0])
        state = layout.spread(x[0])
        if memory is not None:
            assert self.recall is not None
            n_groups = len(memory)
            every = torch.cat([every.expand(n_groups, -1, -1, -1), self.recall(memory, layout)], dim=1)
            state = torch.cat([state.expand(n_groups, -1, -1, -1), memory], dim=3)
        gates = self.task_gates(state, layout)
        return x, mix(gates, every), Record(gates, None, experts)


class TaskExpertModule(ExpertNetwork):
    """Dynamic gates over experts, and a memory of each task that is one expert more in the next layer, after [1]_.

    z_l = z_{l−1} + f_l(z_{l−1}) is a trunk all tasks share. Experts take z_l apart; a gate per task, which depends on
    the row, reads z_l and the task's memory m_{l−1}, and weighs the experts and a linear map of m_{l−1}; their mean is
    m_l. The towers read the memory of the last layer.
    DEVIATION: the paper puts this on the layers of a vision transformer, with convolutions and a gate per place in the
    picture. Here the trunk is an MLP and there is one place. Its gates read the experts, these z_l and the memory.

    References
    ----------
    .. [1] H. Ye, D. Xu. "TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial
       Mixture-of-Experts". ICCV 2023, arXiv:2307.15324.
    """

    has_memory = True

    def build(self, options: ExpertOptions) -> None:
        """Trunk (n, expert_width) and memories (n_tasks, n, expert_width) after every layer."""
        self.layers = nn.ModuleList(
            TaskExpertLayer(options.expert_width if i else self.n_in, options, is_first=i == 0)
            for i in range(options.n_layers)
        )

    def read_experts(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, list[Record]]:
        """The memories of the tasks after the last layer."""
        x, memory = _side_by_side(tokens)[None, None], None
        records = []
        for layer in self.layers:
            x, memory, record = layer(x, memory, layout)
            records.append(record)
        assert memory is not None
        return memory, records


def _side_by_side(tokens: Tensor) -> Tensor:
    """Tokens (n, d, width) → rows (n, d · width)."""
    return tokens.flatten(1)
