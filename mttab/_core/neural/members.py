"""From encoded arrays to trained networks: tensors on a device, seeds, and several trainings side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from mttab._core.neural.blending import JudgedRows, find_shares
from mttab._core.neural.columns import Columns
from mttab._core.neural.device import resolve_device, resolve_precision, seeded
from mttab._core.neural.network import Inputs
from mttab._core.neural.pretext import PretextRows
from mttab._core.neural.ranks import join_ranks, number_of_first, rank, tensor_of_first
from mttab._core.neural.stepping import TrainingOptions
from mttab._core.neural.training import Examples, TrainedNetwork, train
from mttab._core.progress import Progress

Job = Callable[[Callable[[], bool]], "tuple[TrainedNetwork, list[dict[str, Any]]]"]

# Companions draw their seeds as if they were the members from this number on.
_FIRST_COMPANION = 2**31


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
        columns = self.columns.take(keep)
        return EncodedRows(columns, None if self.task is None else self.task[keep], self.y[keep], self.weight[keep])

    def with_weight_of_1(self) -> EncodedRows:
        """The same with the largest weight near 1, so that any unit fits into single precision."""
        if not self.weight.any():
            return self
        unit = 2.0 ** np.floor(np.log2(self.weight.max()))
        return self if unit == 1.0 else self._replace(weight=self.weight / unit)  # changes no digit

    def weight_by_task(self, n_tasks: int) -> np.ndarray:
        """Weight of the rows of each row task and of an unseen one, (n_tasks + 1,), at least that of one row."""
        assert self.task is not None
        weight = self.weight[:, 0]
        return np.maximum(np.bincount(self.task, weights=weight, minlength=n_tasks + 1), weight.mean())

    def and_rows(self, others: EncodedRows | None) -> EncodedRows:
        """These rows and further ones."""
        if others is None:
            return self
        columns = Columns(*(np.concatenate(pair) for pair in zip(self.columns, others.columns, strict=True)))
        task = None if self.task is None or others.task is None else np.concatenate([self.task, others.task])
        y, weight = np.concatenate([self.y, others.y]), np.concatenate([self.weight, others.weight])
        return EncodedRows(columns, task, y, weight)


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


class Shelf:
    """Rows as tensors, made once for all networks of a fit that train on the same ones."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._made: list[tuple[EncodedRows, Examples]] = []

    def examples(self, rows: EncodedRows) -> Examples:
        """Tensors of these rows, which are known by their identity."""
        for known, examples in self._made:
            if known is rows:
                return examples
        examples = self.place.examples(rows)
        self._made.append((rows, examples))
        return examples


def prepare_training(
    start: TrainedNetwork | Callable[[], TrainedNetwork],
    training: EncodedRows,
    validation: EncodedRows | None,
    options: TrainingOptions,
    shelf: Shelf,
    seeds: tuple[int, int],
    progress: Progress,
    pool: EncodedRows | None = None,
    *,
    is_companion: bool = False,
) -> Job:
    """One training, ready to run.

    Parameters
    ----------
    start : TrainedNetwork or callable
        To go on from (it stays as it is), or what makes a new one.
    training, validation : EncodedRows
    options : TrainingOptions
    shelf : Shelf
        Of the place to train at.
    seeds : tuple of int
        Seed of all, number of the member.
    progress : Progress
        Follows the epochs.
    pool : EncodedRows, default=None
        Rows of the pretext task, those of `training` among them; their labels are not read.
    is_companion : bool, default=False
        Whether it is the companion of the member of this number.

    Returns
    -------
    callable
        Takes a function that says whether to stop; gives the network and the figures of its epochs.
    """
    place, (seed, member) = shelf.place, seeds
    key = member + _FIRST_COMPANION * is_companion
    progress = progress if rank() == 0 else Progress()  # one of the processes that train together is enough to tell
    if isinstance(start, TrainedNetwork):
        network = copy.deepcopy(start)
        network.move(place.device, place.dtype)
    else:
        with seeded(_hash(seed, key), place.device, place.dtype):
            network = start()
        for part in (network.module, network.outputs, network.weighting):
            part.to(place.device)
    n_before = network.n_epochs
    examples = shelf.examples(training)
    held_out = None if validation is None else shelf.examples(validation)
    pool_rows = None if pool is None else shelf.examples(pool)

    def run(is_cancelled: Callable[[], bool]) -> tuple[TrainedNetwork, list[dict[str, Any]]]:
        history: list[dict[str, Any]] = []

        def note(figures: dict[str, Any], current: Callable[[], TrainedNetwork]) -> bool:
            is_pretext = figures.get("phase") == "pretext"
            number = {"member": member, "is_companion": is_companion}
            history.append({**number, **figures, "epoch": figures["epoch"] + (0 if is_pretext else n_before)})
            if is_pretext:
                return False  # what follows the training follows its epochs
            named = {"training loss": figures["train_loss"]}
            if "validation_score" in figures:
                named["validation score"] = figures["validation_score"]
            return progress.end_step(figures["epoch"] + 1, named, current)

        generator = torch.Generator(place.device).manual_seed(_hash(seed, key, n_before + 1))
        masking = torch.Generator(place.device).manual_seed(_hash(seed, key, n_before + 1, 1))
        task = None if pool_rows is None else PretextRows(pool_rows.inputs, pool_rows.weight.amax(dim=1), masking)
        name = f"member {member + 1}" + (", its companion" if is_companion else "")
        progress.begin(name, options.max_epochs)
        train(network, examples, held_out, options, generator, progress.begin_step, note, is_cancelled, task)
        progress.end()
        return network, history

    return run


def average_predictions(
    networks: list[TrainedNetwork], place: Place, columns: Columns, task: Any, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean of the predictions of some networks, (n, n_tasks, n_outputs), float64.

    ``weights`` (n_networks, n_tasks), which sum to 1 for every task, say how much each counts; None: all the same.
    """
    inputs = place.inputs(columns, task)
    total: Any = 0.0
    for i, network in enumerate(networks):
        if weights is not None and not weights[i].any():
            continue
        found = network.outputs.predictions(network.scores(inputs, bf16=place.bf16)).cpu().double()
        total = total + (found if weights is None else found * torch.as_tensor(weights[i])[:, None])
    return (total / len(networks) if weights is None else total).numpy()


def choose_shares(
    first: list[TrainedNetwork], second: list[TrainedNetwork], held: list[EncodedRows], place: Place
) -> np.ndarray:
    """Share (n_tasks,) of the networks of a second kind in the mean of both, see `find_shares`.

    Network i of either kind was stopped by the validation rows ``held[i]``. Where these are the same for several
    networks, the mean of their predictions is judged.
    """
    users: list[tuple[EncodedRows, list[int]]] = []
    for i, rows in enumerate(held):
        same = next((numbers for other, numbers in users if _is_same(other, rows)), None)
        if same is None:
            users.append((rows, [i]))
        else:
            same.append(i)
    judged = []
    for rows, numbers in users:
        means = [
            torch.as_tensor(average_predictions([networks[i] for i in numbers], place, rows.columns, rows.task))
            for networks in (first, second)
        ]
        judged.append(JudgedRows(means[0], means[1], torch.as_tensor(rows.y), torch.as_tensor(rows.weight)))
    outputs = copy.deepcopy(first[0].outputs).cpu().double()
    return tensor_of_first(torch.as_tensor(find_shares(outputs, judged))).numpy()


def _is_same(one: EncodedRows, other: EncodedRows) -> bool:
    """Whether they are the same rows of one table, as a splitter chooses them for all members."""
    return one is other or (
        len(one.y) == len(other.y)
        and np.array_equal(one.y, other.y)
        and all(np.array_equal(a, b) for a, b in zip(one.columns, other.columns, strict=True))
    )


def average_attention(networks: list[TrainedNetwork], place: Place, columns: Columns, task: Any) -> np.ndarray:
    """Mean over members and rows of the attention of each task token, (n_blocks, n_tasks, n_features + n_tasks)."""
    inputs = place.inputs(columns, task)
    return np.mean([network.attention(inputs) for network in networks], axis=0)


def _hash(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
