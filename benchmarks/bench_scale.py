"""What a cluster costs and brings: seconds and bytes of a round on 1 and 2 workers, and memory of a fit on a file.

    python benchmarks/bench_scale.py                 # rounds, messages, and the cost model
    python benchmarks/bench_scale.py --tasks         # the same for rounds of task trees
    python benchmarks/bench_scale.py --memory        # peak memory of fits on Parquet files of growing size

A round is one shared tree, or one small tree per task. The model is fitted to rounds on one worker, to rounds without
messages and to messages, and then asked for the rounds on two workers, which it has not seen. Workers have one thread
each and are processes of this machine.
"""

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench_accuracy import describe_machine
from mttab import RMTGBRegressor
from mttab._boosting_pieces import encode, merge_columns, merge_labels, read_columns, read_labels
from mttab._boosting_training import boost_rows
from mttab._core.boosting.rows import Peers
from mttab._core.progress import Progress
from mttab._core.sources import Piece
from scale_costs import CostModel, TaskCostModel
from scale_memory import KINDS, run_memory
from scale_rows import N_TASKS, SHARED_ONLY, TASKS_ONLY, make_rows

N_FEATURES = (10, 40)
MESSAGE_BYTES = (16, 40_000, 160_000, 640_000, 2_600_000)
TASK_FEATURES = 10


class Size(NamedTuple):
    """What a round is measured on; ``n_tasks`` is None where it is of shared trees."""

    n_rows: int
    n_features: int
    n_tasks: int | None = None

    def table(self) -> tuple[pd.DataFrame, pd.Series]:
        return make_rows(self.n_rows, self.n_features, n_tasks=self.n_tasks or N_TASKS)

    def options(self, n_rounds: int) -> dict[str, Any]:
        if self.n_tasks is None:
            return SHARED_ONLY | {"max_iter_shared": n_rounds}
        return TASKS_ONLY | {"max_iter_task": n_rounds}

    def half(self) -> "Size":
        """What each of two workers has of it."""
        return Size(self.n_rows // 2, self.n_features, None if self.n_tasks is None else self.n_tasks // 2)


class Clock:
    """Callback that writes down when rounds are over; the workers are on this machine."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, *_: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.perf_counter()}\n")


def measure_rounds(client: Any, size: Size, n_rounds: int, repeats: int, share: float) -> dict[str, Any]:
    """Seconds of a round, a quantile of those of the fastest fit; messages and bytes by the difference of two fits."""
    import dask.dataframe as dd

    from mttab.dask import DaskRMTGBRegressor

    workers = list(client.nthreads())
    n_workers = len(workers)
    cuts = np.array_split(np.arange(size.n_rows), n_workers)  # a part on every worker, so that all take part
    parts = [
        dd.from_delayed(
            [client.scatter(t.iloc[c], workers=[w], hash=False) for c, w in zip(cuts, workers, strict=True)]
        )
        for t in size.table()
    ]

    def fit(n_rounds: int, path: Path) -> Any:
        """A fit in which all workers have rows: Dask is free to compute two partitions on one of them."""
        for _ in range(10):
            path.unlink(missing_ok=True)
            model = DaskRMTGBRegressor(**size.options(n_rounds))
            model.fit(*parts, client=client, callback=Clock(path))
            if model.communication_["n_workers"] == n_workers:
                return model
        raise RuntimeError("Dask leaves a worker without rows; try again on a machine that is less busy.")

    best = np.inf
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounds"
        start = time.perf_counter()
        short = fit(1, path)
        before = time.perf_counter() - start
        for _ in range(repeats):
            model = fit(1 + n_rounds, path)
            best = min(best, float(np.quantile(np.diff(np.loadtxt(path))[-n_rounds:], share)))
    of_round = {
        name: (model.communication_[name][-1] - short.communication_[name][-1]) / n_rounds
        for name in ("n_messages", "n_bytes")
    }
    return {
        "n_workers": n_workers,
        **size._asdict(),
        "seconds_per_round": best,
        "seconds_of_all_but_rounds": before,
        **of_round,
    }


def _exchange(place: Any, rank: int, n_ranks: int, n_values: int, n_messages: int) -> float:
    from distributed import secede

    from mttab._dask_meeting import MeetingPeers

    secede()
    values = np.ones(n_values)
    with MeetingPeers(place, rank, n_ranks) as peers:
        peers.sum(values)
        start = time.perf_counter()
        for _ in range(n_messages):
            peers.sum(values)
        return (time.perf_counter() - start) / n_messages


def measure_messages(
    client: Any, n_messages: int, repeats: int, sizes: Sequence[int] = MESSAGE_BYTES
) -> list[dict[str, Any]]:
    """Seconds of one sum over all workers, by its size."""
    from mttab._dask_meeting import open_meeting

    workers = list(client.nthreads())
    found = []
    for n_bytes in sizes:
        best = np.inf
        for _ in range(repeats):
            place = client.submit(open_meeting, secrets.token_bytes(32), workers=[workers[0]], pure=False).result()
            futures = [
                client.submit(_exchange, place, r, len(workers), n_bytes // 8, n_messages, workers=[w], pure=False)
                for r, w in enumerate(workers)
            ]
            best = min(best, max(client.gather(futures)))
        found.append({"n_bytes": n_bytes, "seconds": best})
    return found


class OwnClock(Progress):
    """Notes when rounds are over."""

    def begin(self, part: str, n_steps: int) -> None:
        self.times = [time.perf_counter()]

    def end_step(self, n_done: int, figures: dict[str, float], model: Any) -> bool:
        self.times.append(time.perf_counter())
        return False


def _own_rounds(size: Size, n_rounds: int, share: float) -> float:
    """Seconds of a round of the code for clusters, with nobody to talk to."""
    model, pieces, clock = RMTGBRegressor(**size.options(1 + n_rounds)), [Piece(*size.table())], OwnClock()
    problem = merge_labels(model, [read_labels(model, pieces)])
    problem = merge_columns(model, problem, [read_columns(model, problem, pieces)], False)
    rows = encode(model, problem, pieces[0], 0)
    assert rows is not None
    boost_rows(model, problem, rows, seed=0, n_threads=1, peers=Peers(), progress=clock)
    return float(np.quantile(np.diff(clock.times)[1:], share))


def measure_own(client: Any, size: Size, n_rounds: int, repeats: int, share: float) -> list[dict[str, Any]]:
    """The same on one worker, the others idle, and on all at once: these may share a processor."""
    workers, found = list(client.nthreads()), []
    for where, used in (("apart", workers[:1]), ("together", workers)):
        best = np.inf
        for _ in range(repeats):
            futures = [client.submit(_own_rounds, size, n_rounds, share, workers=[w], pure=False) for w in used]
            best = min(best, max(client.gather(futures)))
        found.append({"where": where, **size._asdict(), "seconds_per_round": best})
    return found


@contextmanager
def cluster_of(n_workers: int) -> Iterator[Any]:
    """Client of workers with one thread each."""
    from distributed import Client, LocalCluster

    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster) as client:
        yield client


def run_sizes(args: argparse.Namespace, sizes: Sequence[Size], message_bytes: Sequence[int]) -> tuple[Any, Any, Any]:
    """Rounds on 1 and 2 workers, rounds of half the size without messages, and messages."""
    rounds: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for n_workers in (1, 2):
        with cluster_of(n_workers) as client:
            measure_rounds(client, sizes[0], 1, 1, 0.5)  # compiles
            if n_workers > 1:
                messages = measure_messages(client, args.messages, args.repeats, message_bytes)
            for size in sizes:
                rounds.append(measure_rounds(client, size, args.rounds, args.repeats, args.share))
                print(rounds[-1], flush=True)
                if n_workers > 1:  # as much as each of them has
                    own += measure_own(client, size.half(), args.rounds, args.repeats, args.share)
    return rounds, own, messages


def run_rounds(args: argparse.Namespace) -> dict[str, Any]:
    sizes = [Size(n_rows, n_features) for n_rows in args.rows for n_features in N_FEATURES]
    rounds, own, messages = run_sizes(args, sizes, MESSAGE_BYTES)
    model = CostModel([r for r in rounds if r["n_workers"] == 1], own, messages)
    for r in rounds:
        r["seconds_by_the_model"] = model.seconds(r["n_rows"], r["n_features"], r["n_workers"], is_together=True)
        r["error_percent"] = 100 * (r["seconds_by_the_model"] / r["seconds_per_round"] - 1)
    return {"rounds": rounds, "own": own, "messages": messages, "model": vars(model), **_what_follows(model)}


def _what_follows(model: CostModel) -> dict[str, Any]:
    """From how many rows on workers with a processor each pay, and how much."""
    pays = [
        {"n_features": f, "n_workers": w, "pays from rows": model.least_rows(f, w)}
        for f in N_FEATURES
        for w in (2, 8, 64)
    ]
    speed = [
        {"n_rows": n, "n_workers": w, "times as fast": model.seconds(n, 20, 1) / model.seconds(n, 20, w)}
        for n in (1e6, 1e7, 1e8, 1e9)
        for w in (2, 8, 64)
    ]
    return {"pays": pays, "speed": speed}


def run_tasks(args: argparse.Namespace) -> dict[str, Any]:
    sizes = [Size(t * rows, TASK_FEATURES, t) for t in args.n_tasks for rows in args.task_rows]
    rounds, own, messages = run_sizes(args, sizes, MESSAGE_BYTES[:1])
    together = [r for r in own if r["where"] == "together"]
    model = TaskCostModel([r for r in rounds if r["n_workers"] == 1], together, messages[0]["seconds"])
    for r in rounds:
        size = r["n_tasks"], r["n_rows"], r["n_features"], r["n_workers"]
        r["seconds_by_the_model"] = model.seconds(*size, is_together=r["n_workers"] > 1)
        r["error_percent"] = 100 * (r["seconds_by_the_model"] / r["seconds_per_round"] - 1)
    follows = [
        {
            "rows_per_task": n,
            "n_workers": w,
            "pays from tasks": model.least_tasks(n, TASK_FEATURES, w),
            **{f"times as fast, {t} tasks": _times_as_fast(model, t, n, w) for t in (100, 1000, 10_000)},
        }
        for n in args.task_rows
        for w in (2, 8, 64)
    ]
    return {"rounds": rounds, "own": own, "messages": messages, "model": vars(model), "follows": follows}


def _times_as_fast(model: TaskCostModel, n_tasks: int, rows_per_task: int, n_workers: int) -> float:
    size = n_tasks, n_tasks * rows_per_task, TASK_FEATURES
    return model.seconds(*size, 1) / model.seconds(*size, n_workers)


def print_tables(results: dict[str, Any]) -> None:
    for name, rows in results.items():
        print(f"\n{name}")
        print(pd.DataFrame(rows).to_string(float_format="%.4g") if isinstance(rows, list) else rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 400_000])
    parser.add_argument("--rounds", type=int, default=8, help="rounds of a fit")
    parser.add_argument(
        "--share", type=float, default=0.5, help="quantile of them that counts: lower where other programs disturb them"
    )
    parser.add_argument("--messages", type=int, default=100, help="messages whose mean is taken")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--tasks", action="store_true", help="measure rounds of task trees instead")
    parser.add_argument("--n-tasks", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--task-rows", type=int, nargs="+", default=[20, 200], help="rows of a task")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--memory-rows", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--memory-kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("bench_scale.json"))
    args = parser.parse_args(argv)
    if args.memory:
        results = run_memory(args.memory_rows, args.memory_kinds)
    else:
        results = run_tasks(args) if args.tasks else run_rounds(args)
    print_tables(results)
    args.out.write_text(json.dumps({"machine": describe_machine(), **results}, indent=1))


if __name__ == "__main__":
    main()
