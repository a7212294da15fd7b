"""What a cluster costs and brings: seconds and bytes of a round on 1 and 2 workers, and memory of a fit on a file.

    python benchmarks/bench_scale.py                 # rounds, messages, and the cost model
    python benchmarks/bench_scale.py --memory        # peak memory of fits on Parquet files of growing size

A round is one shared tree. The model is fitted to rounds on one worker, to rounds without messages and to messages, and
then asked for the rounds on two workers, which it has not seen. Workers have one thread each and are processes of this
machine.
"""

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench_accuracy import describe_machine
from mttab import RMTGBRegressor
from mttab._boosting_pieces import boost_rows, encode, merge_columns, merge_labels, read_columns, read_labels
from mttab._core.boosting.rows import Peers
from mttab._core.progress import Progress
from mttab._core.sources import Piece

N_FEATURES = (10, 40)
LEAVES, N_TASKS, BINS, CHANNELS = 15, 20, 256, 2
SHARED_ONLY: dict[str, Any] = {
    "task_column": "task",
    "early_stopping": False,
    "sharing": "pooled",
    "max_iter_partition": 0,
    "max_iter_task": 0,
    "max_leaf_nodes": LEAVES,
    "random_state": 0,
}
MESSAGE_BYTES = (16, 40_000, 160_000, 640_000)


def make_rows(n_rows: int, n_features: int) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n_rows, n_features)).astype(np.float32)).add_prefix("x")
    y = X["x0"] * X["x1"] + np.sin(3.0 * X["x2"]) + 0.1 * rng.normal(size=n_rows)
    return X.assign(task=np.arange(n_rows) * N_TASKS // n_rows), y


# --- rounds and messages ---------------------------------------------------------------------------------------------


class Clock:
    """Callback that writes down when rounds are over; the workers are on this machine."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, *_: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.perf_counter()}\n")


def measure_rounds(client: Any, n_rows: int, n_features: int, n_rounds: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a round in the fastest fit of some; messages and bytes by the difference of two fits."""
    import dask.dataframe as dd

    from mttab.dask import DaskRMTGBRegressor

    workers = list(client.nthreads())
    n_workers = len(workers)
    cuts = np.array_split(np.arange(n_rows), n_workers)  # a part on every worker, so that all take part
    parts = [
        dd.from_delayed([client.scatter(t.iloc[c], workers=[w]) for c, w in zip(cuts, workers, strict=True)])
        for t in make_rows(n_rows, n_features)
    ]

    def fit(n_rounds: int, path: Path) -> Any:
        """A fit in which all workers have rows: Dask is free to compute two partitions on one of them."""
        for _ in range(10):
            path.unlink(missing_ok=True)
            model = DaskRMTGBRegressor(**SHARED_ONLY, max_iter_shared=n_rounds)
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
            best = min(best, float(np.median(np.diff(np.loadtxt(path)))))
    of_round = {
        name: (model.communication_[name][-1] - short.communication_[name][-1]) / n_rounds
        for name in ("n_messages", "n_bytes")
    }
    return {
        "n_workers": n_workers,
        "n_rows": n_rows,
        "n_features": n_features,
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


def measure_messages(client: Any, n_messages: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of one sum over all workers, by its size."""
    from mttab._dask_meeting import open_meeting

    workers = list(client.nthreads())
    found = []
    for n_bytes in MESSAGE_BYTES:
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


def fit_costs(columns: list[Any], seconds: Any) -> list[float]:
    """Coefficients of the columns by least relative error, none of them negative."""
    from scipy.optimize import nnls

    seconds = np.asarray(seconds, dtype=float)
    coefficients, _ = nnls(np.column_stack(columns) / seconds[:, None], np.ones(len(seconds)))
    return [float(c) for c in coefficients]


class CostModel:
    """Seconds of a round: own rows, and messages, which pass one after the other through where they are added.

    one worker   node + cell × rows × features
    W workers    node_of_many + cell × rows / W × features  +  sums × W / 2 × (latency + byte × bytes of a sum)

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
        n_bytes = n_features * BINS * CHANNELS * 8
        return LEAVES * n_workers / 2 * (self.latency + self.byte * n_bytes)

    def least_rows(self, n_features: int, n_workers: int) -> float:
        """Rows from which on so many workers are faster than one."""
        price = self.seconds(0, n_features, n_workers) - self.seconds(0, n_features, 1)
        return max(price, 0.0) / (self.cell * n_features * (1.0 - 1.0 / n_workers))


def _cells(rounds: list[dict[str, Any]]) -> list[float]:
    return [r["n_rows"] * r["n_features"] for r in rounds]


def _seconds(rounds: list[dict[str, Any]]) -> list[float]:
    return [r["seconds_per_round"] for r in rounds]


class OwnClock(Progress):
    """Notes when rounds are over."""

    def begin(self, part: str, n_steps: int) -> None:
        self.times = [time.perf_counter()]

    def end_step(self, n_done: int, figures: dict[str, float], model: Any) -> bool:
        self.times.append(time.perf_counter())
        return False


def _own_rounds(n_rows: int, n_features: int, n_rounds: int) -> float:
    """Median seconds of a round of the code for clusters, with nobody to talk to."""
    X, y = make_rows(n_rows, n_features)
    model, pieces, clock = RMTGBRegressor(**SHARED_ONLY, max_iter_shared=1 + n_rounds), [Piece(X, y)], OwnClock()
    problem = merge_labels(model, [read_labels(model, pieces)])
    problem = merge_columns(model, problem, [read_columns(model, problem, pieces)], False)
    rows = encode(model, problem, pieces[0], 0)
    assert rows is not None
    boost_rows(model, problem, rows, seed=0, n_threads=1, peers=Peers(), progress=clock)
    return float(np.median(np.diff(clock.times)[1:]))


def measure_own(client: Any, n_rows: int, n_features: int, n_rounds: int, repeats: int) -> list[dict[str, Any]]:
    """The same on one worker, the others idle, and on all at once: these may share a processor."""
    workers, found = list(client.nthreads()), []
    for where, used in (("apart", workers[:1]), ("together", workers)):
        best = np.inf
        for _ in range(repeats):
            arguments = n_rows, n_features, n_rounds
            futures = [client.submit(_own_rounds, *arguments, workers=[w], pure=False) for w in used]
            best = min(best, max(client.gather(futures)))
        found.append({"where": where, "n_rows": n_rows, "n_features": n_features, "seconds_per_round": best})
    return found


def run_rounds(args: argparse.Namespace) -> dict[str, Any]:
    from distributed import Client, LocalCluster

    rounds: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for n_workers in (1, 2):
        options = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
        with LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster) as client:
            measure_rounds(client, 2000, 10, 1, 1)  # compiles
            if n_workers > 1:
                messages = measure_messages(client, args.messages, args.repeats)
            for n_rows in args.rows:
                for n_features in N_FEATURES:
                    rounds.append(measure_rounds(client, n_rows, n_features, args.rounds, args.repeats))
                    print(rounds[-1], flush=True)
                    if n_workers > 1:  # as many rows as each of them has
                        own += measure_own(client, n_rows // 2, n_features, args.rounds, args.repeats)
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


def print_tables(results: dict[str, Any]) -> None:
    for name, rows in results.items():
        print(f"\n{name}")
        print(pd.DataFrame(rows).to_string(float_format="%.4g") if isinstance(rows, list) else rows)


# --- memory ----------------------------------------------------------------------------------------------------------


class PeakMemory:
    """Largest memory of this process inside the block, in MB, that the system could not take back.

    Pages of mapped files do not count: they are dropped where memory is short, and read again.
    """

    def __enter__(self) -> "PeakMemory":
        self.mb, self._is_over = 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.mb = max(self.mb, int(status.split("RssAnon:")[1].split()[0]) / 1024)

    def __exit__(self, *_: Any) -> None:
        self._is_over.set()
        self._watcher.join()


def make_model(kind: str) -> Any:
    """A model of few steps: how much memory it takes does not depend on their number."""
    if kind == "trees":
        return RMTGBRegressor(**SHARED_ONLY, max_iter_shared=2)
    from mttab import MultiTabNetRegressor

    small = {"embedding_dim": 4, "n_blocks": 1, "mlp_dim": 8, "head_dim": 8, "n_members": 1, "max_epochs": 1}
    return MultiTabNetRegressor(task_column="task", batch_size=4096, **small)


def peak_of_fit(kind: str, path: str) -> float:
    """Peak memory in MB that a fit on a file adds to what a fit on 1000 rows needs."""
    X, y = make_rows(1000, 20)
    with PeakMemory() as small:
        make_model(kind).fit(X, y)
        time.sleep(0.02)
    with PeakMemory() as large:
        make_model(kind).fit(path, y="y")
    return large.mb - small.mb


def run_memory(args: argparse.Namespace) -> dict[str, Any]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n_rows in args.memory_rows:
            path = Path(folder) / f"{n_rows}.parquet"
            X, y = make_rows(n_rows, 20)
            X.assign(y=y).to_parquet(path, row_group_size=65_536)
            del X, y
            for kind in ("trees", "network"):
                command = [sys.executable, __file__, "--peak-of", kind, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append({"kind": kind, "n_rows": n_rows, "peak_mb": float(done.stdout.split()[-1])})
                print(found[-1], flush=True)
            path.unlink()
    lines = []
    for kind in ("trees", "network"):
        own = [f for f in found if f["kind"] == kind]
        start, slope = np.polynomial.polynomial.polyfit([f["n_rows"] for f in own], [f["peak_mb"] for f in own], 1)
        lines.append({"kind": kind, "mb": start, "bytes_per_row": slope * 2**20})
    return {"memory": found, "lines": lines}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 400_000])
    parser.add_argument("--rounds", type=int, default=8, help="rounds whose median is taken")
    parser.add_argument("--messages", type=int, default=100, help="messages whose mean is taken")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--memory-rows", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("bench_scale.json"))
    args = parser.parse_args(argv)
    if args.peak_of:
        print(peak_of_fit(*args.peak_of))
        return
    results = run_memory(args) if args.memory else run_rounds(args)
    print_tables(results)
    args.out.write_text(json.dumps({"machine": describe_machine(), **results}, indent=1))


if __name__ == "__main__":
    main()
