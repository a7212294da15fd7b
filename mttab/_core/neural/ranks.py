"""Training in several processes at once, as torchrun starts them: found from the environment, without an option.

Every process has all rows and makes the same batches; of each batch it computes the losses of its part, and gradients
are added up over the processes before anything is done with them. Weights, figures and decisions are then the same
everywhere. In a process that torchrun has not started all of this does nothing.
"""

from __future__ import annotations

import atexit
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

# What torchrun sets, and any other launcher that torch.distributed can be used with.
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Bytes of an array that are read at a time to compare it: it may be a file that is larger than memory.
DIGEST_BYTES = 2**24

# What to do where processes have been given different things.
SAME_FIT = "pass the same rows and options in all, each of them takes its part of every batch by itself."


def is_launched() -> bool:
    """Whether this process is one of several that train together."""
    if not dist.is_available():
        return False
    if dist.is_initialized():
        return dist.get_world_size() > 1
    return all(name in os.environ for name in _VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, where the processes of a machine have one each."""
    if device.type != "cuda" or device.index is not None or not is_launched():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def join_ranks(device: torch.device) -> None:
    """Meet the other processes; waits for them."""
    if is_launched() and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        if device.type != "cuda":  # that of GPUs may wait for processes that have failed
            atexit.register(_part)


def _part() -> None:
    """End what `join_ranks` began: threads of gloo that outlive Python now and then abort a process that is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def n_ranks() -> int:
    """Number of processes that train together; 1 before `join_ranks`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes and tells, also before `join_ranks`."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return not is_launched() or int(os.environ["RANK"]) == 0


def check_same(named: Mapping[str, Any], what: str) -> None:
    """Raise, in all processes, unless they hold the same.

    Parameters
    ----------
    named : mapping
        By what a user calls it: arrays, tuples of arrays, or what `repr` tells apart. The same names everywhere.
    what : str
        What to do about a difference.
    """
    if n_ranks() == 1:
        return
    own = torch.from_numpy(np.stack([_digest(value) for value in named.values()]))
    of_all = [torch.empty_like(own) for _ in range(n_ranks())]
    dist.all_gather(of_all, own)
    for i, name in enumerate(named):
        for other in range(1, n_ranks()):
            if not torch.equal(of_all[0][i], of_all[other][i]):
                raise ValueError(
                    f"{name} is not the same in all processes that train together: process {other} differs from "
                    f"process 0; {what}"
                )


def _digest(value: Any) -> np.ndarray:
    """128 bits, int64 (2,)."""
    found = hashlib.blake2b(digest_size=16)
    for part in value if isinstance(value, tuple) else (value,):
        if not isinstance(part, np.ndarray):
            found.update(repr(part).encode())
            continue
        found.update(f"{part.dtype} {part.shape}".encode())
        step = max(1, DIGEST_BYTES // max(part[:1].nbytes, 1))
        for start in range(0, len(part), step):
            found.update(np.ascontiguousarray(part[start : start + step]).tobytes())
    return np.frombuffer(found.digest(), dtype=np.int64).copy()


def number_of_first(number: int) -> int:
    """What the first process has, so that a seed that was drawn at random is one seed."""
    if n_ranks() == 1:
        return number
    shared = torch.tensor([number], dtype=torch.int64)
    dist.broadcast(shared, src=0)
    return int(shared)


def tensor_of_first(tensor: Tensor) -> Tensor:
    """The same for a tensor, in place."""
    if n_ranks() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def weights_of_first(parameters: Iterable[nn.Parameter]) -> None:
    """Start from the weights of the first process."""
    for parameter in parameters:
        tensor_of_first(parameter.data)


def own_part(rows: Tensor) -> Tensor:
    """Share of a batch that falls to this process; may be empty."""
    return rows[rank() :: n_ranks()]


def with_others(losses: Tensor) -> Tensor:
    """Sum of the losses of all processes; its gradient is that of this one's share, see `add_gradients`."""
    if n_ranks() == 1:
        return losses
    total = losses.detach().clone()
    dist.all_reduce(total)
    return losses + (total - losses.detach())


def add_gradients(tensors: Sequence[Tensor]) -> None:
    """Add up tensors over the processes, in place and in one message."""
    if n_ranks() == 1 or not tensors:
        return
    with torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def backward_over_all(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Add the gradient of this process's share of a loss, and those of the others, to the gradients that are there."""
    if n_ranks() == 1:
        loss.backward()
        return
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    add_gradients([parameter.grad for parameter in parameters if parameter.grad is not None])
    for parameter, gradient in zip(parameters, before, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad


def own_generator(generator: torch.Generator) -> torch.Generator:
    """A generator for what a process draws for its own rows; the given one must stay in step with the others'."""
    if n_ranks() == 1:
        return generator
    return torch.Generator(generator.device).manual_seed(generator.initial_seed() ^ (0x5DEECE66D * (rank() + 1)))
