"""What a round on a cluster costs, as formulas whose coefficients `bench_scale` measures."""

from typing import Any

import numpy as np

from scale_rows import N_HISTOGRAMS, N_LEVELS

BINS, CHANNELS = 256, 2
N_SMALL_SUMS = 3  # of a round beside those of histograms: units of packed sums, leaves, loss


def fit_costs(columns: list[Any], seconds: Any) -> list[float]:
    """Coefficients of the columns by least relative error, none of them negative."""
    from scipy.optimize import nnls

    seconds = np.asarray(seconds, dtype=float)
    coefficients, _ = nnls(np.column_stack(columns) / seconds[:, None], np.ones(len(seconds)))
    return [float(c) for c in coefficients]


class CostModel:
    """Seconds of a round: own rows, and messages, which pass one after the other through where they are added.

    one worker   node + cell × rows × features
    W workers    node_of_many + cell × rows / W × features  +  W / 2 × (latency × sums + byte × bytes of all histograms)

    `together` are node_of_many and cell where the workers share a processor.
    """

    def __init__(self, alone: list[dict[str, Any]], own: list[dict[str, Any]], messages: list[dict[str, Any]]):
        apart, together = ([r for r in own if r["where"] == where] for where in ("apart", "together"))
        is_many = np.repeat([0.0, 1.0], [len(alone), len(apart)])
        columns = [1.0 - is_many, is_many, _cells(alone + apart)]
        self.node, self.node_of_many, self.cell = fit_costs(columns, _seconds(alone + apart))
        self.together = fit_costs([np.ones(len(together)), _cells(together)], _seconds(together))
        columns = [np.ones(len(messages)), [m["n_bytes"] for m in messages]]
        self.latency, self.byte = fit_costs(columns, [m["seconds"] for m in messages])

    def seconds(self, n_rows: float, n_features: int, n_workers: int, is_together: bool = False) -> float:
        if n_workers == 1:
            return self.node + self.cell * n_rows * n_features
        node, cell = self.together if is_together else (self.node_of_many, self.cell)
        return node + cell * n_rows / n_workers * n_features + self.seconds_of_messages(n_features, n_workers)

    def seconds_of_messages(self, n_features: int, n_workers: int) -> float:
        n_bytes = N_HISTOGRAMS * n_features * BINS * CHANNELS * 8
        return n_workers / 2 * ((N_LEVELS + N_SMALL_SUMS) * self.latency + self.byte * n_bytes)

    def least_rows(self, n_features: int, n_workers: int) -> float:
        """Rows from which on so many workers are faster than one."""
        price = self.seconds(0, n_features, n_workers) - self.seconds(0, n_features, 1)
        return max(price, 0.0) / (self.cell * n_features * (1.0 - 1.0 / n_workers))


def _cells(rounds: list[dict[str, Any]]) -> list[float]:
    return [r["n_rows"] * r["n_features"] for r in rounds]


def _seconds(rounds: list[dict[str, Any]]) -> list[float]:
    return [r["seconds_per_round"] for r in rounds]


class TaskCostModel:
    """Seconds of a round of task trees: every worker grows those of its own tasks, and one sum tells of the loss.

    one worker   node + tree × tasks + cell × rows × features
    W workers    node + tree × tasks / W + cell × rows / W × features  +  W / 2 × latency

    `together` are node, tree and cell where the workers share a processor.
    """

    def __init__(self, alone: list[dict[str, Any]], together: list[dict[str, Any]], latency: float):
        self.alone, self.together = (
            fit_costs([np.ones(len(rounds)), [r["n_tasks"] for r in rounds], _cells(rounds)], _seconds(rounds))
            for rounds in (alone, together)
        )
        self.latency = latency

    def seconds(
        self, n_tasks: float, n_rows: float, n_features: int, n_workers: int, is_together: bool = False
    ) -> float:
        node, tree, cell = self.together if is_together else self.alone
        of_own = (tree * n_tasks + cell * n_rows * n_features) / n_workers
        return node + of_own + (self.latency * n_workers / 2 if n_workers > 1 else 0.0)

    def least_tasks(self, rows_per_task: float, n_features: int, n_workers: int) -> float:
        """Tasks from which on so many workers are faster than one."""
        _, tree, cell = self.alone
        return self.latency * n_workers / 2 / ((tree + cell * rows_per_task * n_features) * (1.0 - 1.0 / n_workers))
