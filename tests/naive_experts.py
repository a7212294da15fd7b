"""Slow, obvious twins of the networks of experts: one row, one task, one expert at a time.

They read the parameters of a module and know nothing of how it stacks them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def linear(layer, group, i, x):
    out = x @ layer.weight[group, i]
    if layer.is_normed:
        out = (out - out.mean()) / torch.sqrt(out.var(correction=0) + 1e-5)
    return out + layer.bias[group, i, 0]


def expert(stack, group, i, x):
    for layer in stack.layers:
        x = stack.activation(linear(layer, group, i, x))
    return x


def gate(gates, group, x):
    if gates.hidden is not None:
        x = gates.activation(linear(gates.hidden, group, 0, x))
    return functional.softmax(linear(gates.out, group, 0, x), dim=0)


def tower(towers, task, x):
    if towers.hidden is not None:
        x = towers.activation(linear(towers.hidden, task, 0, x))
    return linear(towers.out, task, 0, x)


def mean(weights, experts):
    assert len(weights) == len(experts)
    return sum(w * e for w, e in zip(weights, experts, strict=True))


def experts_of(stack, group, n, x):
    return [expert(stack, group, i, x) for i in range(n)]


def shared_bottom(module, tokens, task):
    return expert(module.experts, 0, 0, tokens.flatten())


def mmoe(module, tokens, task):
    x = tokens.flatten()
    return mean(gate(module.task_gates, task, x), experts_of(module.experts, 0, module.options.n_experts, x))


def ple(module, tokens, task):
    """With row tasks the streams of the other tasks play no part."""
    o = module.options
    tasks = [task] if o.has_row_tasks else list(range(o.n_tasks))
    streams, shared = dict.fromkeys(tasks, tokens.flatten()), tokens.flatten()
    for layer in module.layers:
        own = {t: experts_of(layer.task_experts, t, o.n_task_experts, streams[t]) for t in tasks}
        common = experts_of(layer.shared_experts, 0, o.n_experts, shared)
        streams = {t: mean(gate(layer.task_gates, t, streams[t]), own[t] + common) for t in tasks}
        if layer.shared_gate is not None:
            every = [e for experts in own.values() for e in experts] + common
            shared = mean(gate(layer.shared_gate, 0, shared), every)
    return streams[task]


def stem(module, tokens, task):
    o = module.options
    embeddings = [e.flatten() for e in tokens.split(o.width, dim=1)]
    assert len(embeddings) == o.n_tasks + 1
    every = [e for t in range(o.n_tasks) for e in experts_of(module.task_experts, t, o.n_task_experts, embeddings[t])]
    every += experts_of(module.shared_experts, 0, o.n_experts, embeddings[-1])
    return mean(gate(module.task_gates, task, embeddings[task]), every)


def task_expert(module, tokens, task):
    x, memory = tokens.flatten(), None
    for layer in module.layers:
        update = expert(layer.trunk, 0, 0, x)
        x = update if memory is None else x + update
        every = experts_of(layer.experts, 0, module.options.n_experts, x)
        read = x
        if memory is not None:
            every, read = [*every, linear(layer.recall, task, 0, memory)], torch.cat([x, memory])
        memory = mean(gate(layer.task_gates, task, read), every)
    return memory


TWINS = {
    "SharedBottomModule": shared_bottom,
    "MMoEModule": mmoe,
    "PLEModule": ple,
    "STEMModule": stem,
    "TaskExpertModule": task_expert,
}


def scores(module, inputs) -> Tensor:
    """What the module gives for some rows: (n, n_tasks, n_outputs), with row tasks (n, 1, n_outputs)."""
    o, twin = module.options, TWINS[type(module).__name__]
    tokens = module.features(inputs.numeric, inputs.missing, inputs.codes)
    out = []
    for i, row in enumerate(tokens):
        by_task = [tower(module.towers, t, twin(module, row, t)) for t in range(o.n_tasks)]
        if o.has_row_tasks:
            own = int(inputs.task[i])
            by_task = [by_task[own] if own < o.n_tasks else sum(by_task) / o.n_tasks]
        out.append(torch.stack(by_task))
    return torch.stack(out)
