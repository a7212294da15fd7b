"""What `rmtgb.boost` is asked to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class BlockOptions:
    """Rounds and step size of one block."""

    max_iter: int
    learning_rate: float


@dataclass(frozen=True)
class BoostingOptions:
    """What `rmtgb.boost` needs to know besides data and loss.

    blocks : BlockOptions of shared, partition and task
    n_groups : branches of the partition block
    least_share : a branch's tree leaves out the rows of tasks that give it less weight than this
    newton : False gives the published first-order algorithm, see `rmtgb._Run.partition_round`
    vector_leaves : one tree for all outputs instead of one tree per output
    theta_* : start ("data", "normal" or values), learning rate, strength and centre of the penalty; more than two
        groups need values
    has_line : the first shared round is a straight line, see `line`
    patience : rounds without improvement (by more than ``tol``) that end a block; None keeps every round
    """

    blocks: tuple[BlockOptions, BlockOptions, BlockOptions]
    n_groups: int = 2
    least_share: float = 0.0
    newton: bool = True
    vector_leaves: bool = False
    theta_init: str | np.ndarray = "data"
    theta_learning_rate: float = 1.0
    theta_penalty: float = 0.001
    theta_center: float | np.ndarray = -2.0
    subsample: float = 1.0
    has_line: bool = False
    patience: int | None = None
    tol: float = 1e-7

    def with_blocks(self, blocks: Iterable[BlockOptions]) -> BoostingOptions:
        """The same with other rounds and step sizes of the three blocks."""
        shared, partition, task = blocks
        return replace(self, blocks=(shared, partition, task))
