"""One fit on a Dask cluster, as the client steers it: rows are placed, binned, moved to their tasks and boosted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mttab._boosting_pieces import Problem, merge_columns, merge_labels, read_columns, read_labels
from mttab._core.boosting.distributed import merged_forest
from mttab._core.boosting.forest import ForestBuilder
from mttab._dask_crew import Crew
from mttab._dask_meeting import open_meeting
from mttab._dask_placing import Placing, has_task_trees, place_tasks
from mttab._dask_workers import bin_rows, boost_on_worker, read_partitions

# Partitions on a worker: number of the partition -> its future.
Held = dict[str, dict[int, Any]]


class ClusterFit:
    """One fit; `run` is the whole of it, and everything else one of its steps."""

    def __init__(self, client: Any, model: Any, seed: int, explicit: dict[str, Any], callback: Any):
        self.crew, self.model, self.seed = Crew(client), model, seed
        self.explicit, self.callback = explicit, callback

    def run(self, pieces: Sequence[Any]) -> tuple[Problem, Any, dict[str, Any]]:
        """Problem, fitted state, and what the workers told each other."""
        crew = self.crew
        with crew.released():
            held = self.place(pieces)
            crew.workers = list(held)
            counts = self.read(held, read_labels, self.model)
            problem = merge_labels(self.model, counts)
            summaries = self.read(held, read_columns, self.model, problem)
            problem = merge_columns(self.model, problem, summaries, self.explicit["X_val"] is not None)
            placing = self.place_tasks(problem, counts)
            binned = self.bin(held, problem, _rows_before(held, counts), placing)
            held.clear()  # partitions are not read again: what they took is free from here on
            answers = self.boost(problem, placing, binned)
        return problem, self.joined(problem, answers), _communication(answers)

    # --- where the rows are ----------------------------------------------------------------------------------------

    def place(self, pieces: Sequence[Any]) -> Held:
        """Compute the partitions; workers come in the order of their first partition."""
        client = self.crew.client
        futures = client.compute(list(pieces))
        self.crew.wait(futures)
        held: Held = {}
        where = client.who_has(futures)
        for i, future in enumerate(futures):
            addresses = where.get(future.key) or next((where[key] for key in where if str(key) == str(future.key)), ())
            if not addresses:
                raise RuntimeError(f"Partition {i} of X was lost before the fit began; call fit again.")
            held.setdefault(min(addresses), {})[i] = future
        return held

    def read(self, held: Held, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What a function finds in the partitions of every worker."""
        arguments = {w: [function, list(of), list(of.values()), *args] for w, of in held.items()}
        return self.crew.on_each(read_partitions, arguments)

    def place_tasks(self, problem: Problem, counts: Sequence[Any]) -> Placing:
        labels = problem.labels.labels.tolist()
        has_rows = np.array([sum(count.n_rows) > 0 for count in counts])
        mass = np.array([[count.task_mass.get(label, 0.0) for label in labels] for count in counts])
        if len(labels) == 1:
            mass = has_rows[:, None].astype(float)
        return place_tasks(mass, has_rows, has_task_trees(self.model, len(labels)))

    def bin(self, held: Held, problem: Problem, first: dict[str, list[int]], placing: Placing) -> list[list[Any]]:
        """Futures of the binned rows of every rank, one from each worker, which Dask then brings to it."""
        futures = []
        for w, own_rank in zip(held, placing.rank_of_worker.tolist(), strict=True):
            owner = placing.owner if placing.has_moves else own_rank
            pieces = list(held[w].values())
            futures.append(
                self.crew.submit(bin_rows, w, self.model, problem, pieces, first[w], owner, len(placing.workers))
            )
        self.crew.wait(futures)
        return [
            [self.crew.submit(_item, w, future, r) for w, future in zip(held, futures, strict=True)]
            for r in range(len(placing.workers))
        ]

    # --- the rounds ------------------------------------------------------------------------------------------------

    def boost(self, problem: Problem, placing: Placing, binned: list[list[Any]]) -> list[dict[str, Any]]:
        """Run `boost_on_worker` on all workers at once."""
        crew, n_ranks = self.crew, len(placing.workers)
        ranks = [crew.workers[w] for w in placing.workers]
        place = None
        if n_ranks > 1:
            place = crew.results([crew.submit(open_meeting, ranks[0], secrets.token_bytes(32))])[0]
            crew.meeting = ranks[0], place
        return crew.results(
            [
                crew.submit(
                    boost_on_worker, worker, self.model, problem, place, r, n_ranks, binned[r], placing.owner,
                    self.seed, self.explicit, self.callback,
                )
                for r, worker in enumerate(ranks)
            ]
        )  # fmt: skip

    def joined(self, problem: Problem, answers: list[dict[str, Any]]) -> Any:
        """One fitted state: common trees from one worker, trees of a task from the one that had its rows."""
        if any(answer["digest"] != answers[0]["digest"] for answer in answers):
            raise RuntimeError(
                "The workers have come to different models, which must not happen; are their processors of one kind?"
            )
        fitted = answers[0]["fitted"]
        builder = ForestBuilder(problem.mapper, problem.labels.n_tasks)  # type: ignore[arg-type]
        forest = merged_forest(builder, fitted.model.forest, [answer["part"] for answer in answers])
        return replace(fitted, model=replace(fitted.model, forest=forest))


def _rows_before(held: Held, counts: Sequence[Any]) -> dict[str, list[int]]:
    """Rows that stand before each partition in the table."""
    n_rows = {i: n for w, count in zip(held, counts, strict=True) for i, n in zip(held[w], count.n_rows, strict=True)}
    first, before = {}, 0
    for i in sorted(n_rows):
        first[i], before = before, before + n_rows[i]
    return {w: [first[i] for i in held[w]] for w in held}


def _communication(answers: list[dict[str, Any]]) -> dict[str, Any]:
    of_workers = {name: [answer[name] for answer in answers] for name in ("n_rows", "n_messages", "n_bytes")}
    return {"n_workers": len(answers), **of_workers}


def _item(parts: Sequence[Any], place: int) -> Any:
    return parts[place]
