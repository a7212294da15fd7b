"""A trained network ↔ plain structures of arrays, without its code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mttab._core.neural.attention import RowMemory
from mttab._core.neural.network import Inputs
from mttab._core.neural.training import TrainedNetwork
from mttab._core.records import require

# Stands before the array of a tensor among plain values.
_TENSOR = "tensor"


def pack_network(network: TrainedNetwork) -> dict[str, Any]:
    """Weights, and whatever prediction and a later training read besides, as dicts, lists and arrays."""
    return {
        "module": _arrays(network.module.state_dict()),
        "weighting": _arrays(network.weighting.state_dict()),
        "context": _to_plain(network.context),
        "context_weight": _to_plain(network.context_weight),
        "memory": _to_plain(network.memory),
        "n_epochs": network.n_epochs,
        "optimizer_state": _to_plain(network.optimizer_state),
    }


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
        If a weight is missing, too many, or of another shape or type.
    """
    _fill(blank.module, packed["module"])
    _fill(blank.weighting, packed["weighting"])
    dtype = next(blank.module.parameters()).dtype
    blank.outputs.to(dtype=dtype)
    if packed["context"] is not None:
        blank.context = Inputs(*_to_tensors(packed["context"]))
        require(len({len(part) for part in blank.context if part.numel()}) <= 1, "the context is misshapen")
        blank.context_weight = _to_tensors(packed["context_weight"])
        blank.memory = [RowMemory(*_to_tensors(memory)) for memory in packed["memory"]]
    elif packed["memory"] is not None:
        blank.memory = [RowMemory(*_to_tensors(memory)) for memory in packed["memory"]]
    blank.n_epochs = int(packed["n_epochs"])
    blank.optimizer_state = _to_tensors(packed["optimizer_state"])
    shapes = {part.shape for part in (*blank.module.parameters(), *blank.weighting.parameters())} | {torch.Size([])}
    for moments in (blank.optimizer_state or {"state": {}})["state"].values():
        for name, moment in moments.items():
            require(moment.dtype in (dtype, torch.float32) and moment.shape in shapes, f"{name} is of no weight")
    blank.module.eval()
    return blank


def dtype_of(packed: dict[str, Any]) -> torch.dtype:
    """Type of the numbers of a packed network."""
    is_double = any(array.dtype == np.float64 for array in packed["module"].values())
    return torch.float64 if is_double else torch.float32


def _arrays(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def _fill(part: torch.nn.Module, arrays: dict[str, np.ndarray]) -> None:
    wanted = part.state_dict()
    require(
        wanted.keys() == arrays.keys(), f"weights {sorted(wanted.keys() ^ arrays.keys())[:3]} are missing or too many"
    )
    for name, tensor in wanted.items():
        given = torch.as_tensor(arrays[name])
        is_same = given.shape == tensor.shape and given.dtype == tensor.dtype
        require(is_same, f"{name} is {given.dtype} {tuple(given.shape)}, not {tensor.dtype} {tuple(tensor.shape)}")
    part.load_state_dict({name: torch.as_tensor(array) for name, array in arrays.items()})


def _to_plain(value: Any) -> Any:
    """Tensors as tagged arrays, named tuples as lists."""
    if isinstance(value, Tensor):
        return (_TENSOR, value.detach().cpu().numpy())
    if type(value) is tuple:
        return tuple(_to_plain(part) for part in value)
    if isinstance(value, (list, tuple)):
        return [_to_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _to_plain(part) for key, part in value.items()}
    return value


def _to_tensors(value: Any) -> Any:
    """The reverse, lists staying lists."""
    if isinstance(value, tuple):
        is_tensor = len(value) == 2 and isinstance(value[0], str) and value[0] == _TENSOR
        return torch.as_tensor(value[1]) if is_tensor else tuple(_to_tensors(part) for part in value)
    if isinstance(value, list):
        return [_to_tensors(part) for part in value]
    if isinstance(value, dict):
        return {key: _to_tensors(part) for key, part in value.items()}
    return value
