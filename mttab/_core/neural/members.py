"""From encoded arrays to trained networks: tensors on a device, seeds, and several trainings side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from mttab._core.neural.columns import Columns
from mttab._core.neural.device import resolve_device, resolve_precision
from mttab._core.neural.network import Inputs
from mttab._core.neural.progress import EpochBar
from mttab._core.neural.ranks import join_ranks, number_of_first, rank
from mttab._core.neural.training import Examples, TrainedNetwork, TrainingOptions, train

Job = Callable[[Callable[[], bool]], "tuple[TrainedNetwork, list[dict[str, Any]]]"]


class EncodedRows(NamedTuple):
    """Rows as arrays.

    Attributes
    ----------
    columns : Columns
    task : ndarray of shape (n,), int64, or None
        Row task of each row; None where tasks are targets.
    y : ndarray of shape (n, n_tasks)
        Standardised numbers, or indices of classes; 0 where not observed.
    weight : ndarray of shape (n, n_tasks)
        0 where not observed.
    """

    columns: Columns
    task: np.ndarray | None
    y: np.ndarray
    weight: np.ndarray

    def take(self, keep: np.ndarray) -> EncodedRows:
        """Some rows."""
        columns = Columns(*(part[keep] for part in self.columns))
        return EncodedRows(columns, None if self.task is None else self.task[keep], self.y[keep], self.weight[keep])

    def with_weight_of_1(self) -> EncodedRows:
        """The same with the largest weight near 1, so that any unit fits into single precision."""
        if not self.weight.any():
            return self
        unit = 2.0 ** np.floor(np.log2(self.weight.max()))
        return self if unit == 1.0 else self._replace(weight=self.weight / unit)  # changes no digit


class Place(NamedTuple):
    """Where and in which numbers to compute."""

    device: torch.device
    dtype: torch.dtype
    bf16: bool

    @classmethod
    def resolve(cls, device: str, precision: str) -> Place:
        """From the options of an estimator."""
        found = resolve_device(device)
        join_ranks(found)
        return cls(found, *resolve_precision(precision, found))

    @classmethod
    def of(cls, network: TrainedNetwork, precision: str) -> Place:
        """Where a network is."""
        parameter = next(network.module.parameters())
        return cls(parameter.device, parameter.dtype, resolve_precision(precision, parameter.device)[1])

    def draw_seed(self, random_state: Any) -> int:
        """A seed, the same in all processes that train together."""
        return number_of_first(int(check_random_state(random_state).randint(2**31 - 1)))

    def inputs(self, columns: Columns, task: np.ndarray | None) -> Inputs:
        """Arrays as tensors."""
        return Inputs(
            self._numbers(columns.numeric),
            torch.as_tensor(columns.missing, device=self.device),
            torch.as_tensor(columns.codes, device=self.device),
            torch.as_tensor(np.empty(0, dtype=np.int64) if task is None else task, device=self.device),
        )

    def examples(self, rows: EncodedRows) -> Examples:
        """Arrays as tensors."""
        return Examples(self.inputs(rows.columns, rows.task), self._numbers(rows.y), self._numbers(rows.weight))

    def _numbers(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(self.dtype).to(self.device)  # in this order: MPS has no float64


def prepare_training(
    start: TrainedNetwork | Callable[[], TrainedNetwork],
    training: EncodedRows,
    validation: EncodedRows | None,
    options: TrainingOptions,
    place: Place,
    seeds: tuple[int, int],
    verbose: bool,
) -> Job:
    """One training, ready to run.

    Parameters
    ----------
    start : TrainedNetwork or callable
        To go on from (it stays as it is), or what makes a new one.
    training, validation : EncodedRows
    options : TrainingOptions
    place : Place
    seeds : tuple of int
        Seed of all, number of the member.
    verbose : bool
        Whether to show a bar.

    Returns
    -------
    callable
        Takes a function that says whether to stop; gives the network and the figures of its epochs.
    """
    seed, member = seeds
    if isinstance(start, TrainedNetwork):
        network = copy.deepcopy(start)
        network.move(place.device, place.dtype)
    else:
        with _seeded(_hash(seed, member), place):
            network = start()
        for part in (network.module, network.outputs, network.weighting):
            part.to(place.device)
    n_before = network.n_epochs
    examples = place.examples(training)
    held_out = None if validation is None else place.examples(validation)

    def run(is_cancelled: Callable[[], bool]) -> tuple[TrainedNetwork, list[dict[str, Any]]]:
        history: list[dict[str, Any]] = []
        bar = EpochBar(options.max_epochs, f"member {member + 1}", member) if verbose and rank() == 0 else None

        def note(figures: dict[str, Any]) -> None:
            history.append({"member": member, **figures, "epoch": n_before + figures["epoch"]})
            if bar is not None:
                bar(figures)

        generator = torch.Generator(place.device).manual_seed(_hash(seed, member, n_before + 1))
        train(network, examples, held_out, options, generator, note, is_cancelled)
        if bar is not None:
            bar.close()
        return network, history

    return run


def average_predictions(networks: list[TrainedNetwork], place: Place, columns: Columns, task: Any) -> np.ndarray:
    """Mean of the predictions of all members, (n, n_tasks, n_outputs), float64."""
    inputs = place.inputs(columns, task)
    total: Any = 0.0
    for network in networks:
        total = total + network.outputs.predictions(network.scores(inputs, bf16=place.bf16)).cpu().double()
    return (total / len(networks)).numpy()


def average_attention(networks: list[TrainedNetwork], place: Place, columns: Columns, task: Any) -> np.ndarray:
    """Mean over members and rows of the attention of each task token, (n_blocks, n_tasks, n_features + n_tasks)."""
    inputs = place.inputs(columns, task)
    return np.mean([network.attention(inputs) for network in networks], axis=0)


def _hash(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


_GLOBALS = Lock()  # one fit at a time has torch's generators and default type; others may run in threads beside it


@contextmanager
def _seeded(seed: int, place: Place) -> Iterator[None]:
    """Torch's global generators at `seed` and its numbers of the type of `place`, and afterwards as they were."""
    with _GLOBALS, torch.random.fork_rng([place.device] if place.device.type == "cuda" else []):
        before = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(place.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
