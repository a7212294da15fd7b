"""A trained network without its code: tensors by name, and all else that a file can hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from mttab._core.neural.training import TrainedNetwork
from mttab._core.records import check_type, field_hints, require

_MODULES = ("module", "weighting")


def pack_network(network: TrainedNetwork) -> dict[str, Any]:
    """The fields of the network, with the weights of a module in its place; `outputs` follow from the tasks."""
    fields = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    del fields["outputs"]
    return fields | {name: dict(fields[name].state_dict()) for name in _MODULES}


def unpack_network(packed: dict[str, Any], blank: TrainedNetwork) -> TrainedNetwork:
    """The network, on the CPU.

    Parameters
    ----------
    packed : dict
        See `pack_network`.
    blank : TrainedNetwork
        A new one of the same architecture, which is filled.

    Raises
    ------
    ValueError
        If a weight is missing, too many, or of another shape or type, or a field is not what the class says.
    """
    hints, _ = field_hints(TrainedNetwork)
    for name, value in packed.items():
        if name in _MODULES:
            _fill(getattr(blank, name), value)
        else:
            require(name in hints and name != "outputs", f"a network has no {name}")
            check_type(value, hints[name], f"TrainedNetwork.{name}")
            setattr(blank, name, value)
    dtype = next(blank.module.parameters()).dtype
    blank.outputs.to(dtype=dtype)
    if blank.context is not None:
        require(len({len(part) for part in blank.context if part.numel()}) <= 1, "the context is misshapen")
    if blank.optimizer_state is not None:
        shapes = {part.shape for part in (*blank.module.parameters(), *blank.weighting.parameters())}
        for moments in blank.optimizer_state["state"].values():
            for name, moment in moments.items():
                require(moment.dim() == 0 or (moment.dtype == dtype and moment.shape in shapes), f"{name} is misshapen")
    blank.module.eval()
    return blank


def n_added_tasks(network: TrainedNetwork) -> int:
    """Row tasks that were added to a network after its training."""
    options = getattr(network.module, "options", None)
    return getattr(options, "n_added", 0)


def add_blank_tasks(network: TrainedNetwork, n_tasks: int) -> None:
    """Make room for so many tasks that were added after the training."""
    for _ in range(n_tasks):
        network.module.add_task_token(torch.zeros_like(network.module.task_tokens[0]))


def dtype_of(packed: dict[str, Any]) -> torch.dtype:
    """Type of the numbers of a packed network."""
    is_double = any(tensor.dtype == torch.float64 for tensor in packed["module"].values())
    return torch.float64 if is_double else torch.float32


def _fill(part: nn.Module, given: dict[str, Tensor]) -> None:
    wanted = part.state_dict()
    require(wanted.keys() == given.keys(), f"weights {sorted(wanted.keys() ^ given.keys())[:3]} are absent or too many")
    for name, tensor in wanted.items():
        is_same = given[name].shape == tensor.shape and given[name].dtype == tensor.dtype
        require(is_same, f"{name} is not {tensor.dtype} {tuple(tensor.shape)}")
    part.load_state_dict(given)
