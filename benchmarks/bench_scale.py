"""What a cluster costs and brings: seconds and bytes of a round on 1 and 2 workers, and memory of a fit on a file.

    python benchmarks/bench_scale.py                 # rounds, messages, and the cost model
    python benchmarks/bench_scale.py --memory        # peak memory of fits on Parquet files of growing size

A round is one shared tree. The model is fitted to rounds on one worker and to messages between two, and then asked for
the rounds on two workers, which it has not seen. Workers have one thread each and are processes of this machine.
"""

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench_accuracy import describe_machine
from mttab import RMTGBRegressor

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


def fit_line(x: Any, seconds: Any) -> tuple[float, float]:
    """Start and slope of seconds over x by least relative error, none of them negative."""
    from scipy.optimize import nnls

    x, seconds = np.asarray(x, dtype=float), np.asarray(seconds, dtype=float)
    coefficients, _ = nnls(np.column_stack([np.ones(len(x)), x]) / seconds[:, None], np.ones(len(x)))
    return float(coefficients[0]), float(coefficients[1])


class CostModel:
    """Seconds of a round: own rows, and messages, which pass one after the other through where they are added.

    node + cell × rows / workers × features  +  messages × workers / 2 × (latency + byte × bytes of a message)
    """

    def __init__(self, alone: list[dict[str, Any]], messages: list[dict[str, Any]]):
        cells = [r["n_rows"] * r["n_features"] for r in alone]
        self.node, self.cell = fit_line(cells, [r["seconds_per_round"] for r in alone])
        self.latency, self.byte = fit_line([m["n_bytes"] for m in messages], [m["seconds"] for m in messages])

    def seconds(self, n_rows: float, n_features: int, n_workers: int) -> float:
        own = self.node + self.cell * n_rows / n_workers * n_features
        if n_workers == 1:
            return own
        n_bytes = n_features * BINS * CHANNELS * 8
        return own + LEAVES * n_workers / 2 * (self.latency + self.byte * n_bytes)

    def least_rows(self, n_features: int, n_workers: int, than: int = 1) -> float:
        """Rows from which on so many workers are faster than `than` workers."""
        price = self.seconds(0, n_features, n_workers) - self.seconds(0, n_features, than)
        return price / (self.cell * n_features * (1 / than - 1 / n_workers))


def run_rounds(args: argparse.Namespace) -> dict[str, Any]:
    from distributed import Client, LocalCluster

    rounds: list[dict[str, Any]] = []
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
    model = CostModel([r for r in rounds if r["n_workers"] == 1], messages)
    for r in rounds:
        r["seconds_by_the_model"] = model.seconds(r["n_rows"], r["n_features"], r["n_workers"])
    print(pd.DataFrame(rounds).to_string(index=False, float_format="%.4g"))
    print(pd.DataFrame(messages).to_string(index=False, float_format="%.4g"))
    print("model:", {name: float(f"{value:.3g}") for name, value in vars(model).items()})
    pays = [
        {"n_features": f, "n_workers": w, "pays from rows": model.least_rows(f, w)}
        for f in (10, 40)
        for w in (2, 8, 64)
    ]
    speed = [
        {"n_rows": n, "n_workers": w, "times as fast": model.seconds(n, 20, 1) / model.seconds(n, 20, w)}
        for n in (1e6, 1e7, 1e8, 1e9)
        for w in (2, 8, 64)
    ]
    print(pd.DataFrame(pays).to_string(index=False, float_format="%.3g"))
    print(pd.DataFrame(speed).to_string(index=False, float_format="%.3g"))
    return {"rounds": rounds, "messages": messages, "model": vars(model), "pays": pays, "speed": speed}


# --- memory ----------------------------------------------------------------------------------------------------------


def peak_mb() -> float:
    """Largest memory of this process so far. Not `getrusage`, which hands a parent's peak on to its children."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_of_fit(path: str) -> float:
    """Peak memory in MB that a fit on a file adds to what any fit needs."""
    X, y = make_rows(1000, 20)
    RMTGBRegressor(**SHARED_ONLY, max_iter_shared=2).fit(X, y)
    before = peak_mb()
    RMTGBRegressor(**SHARED_ONLY, max_iter_shared=2).fit(path, y="y")
    return peak_mb() - before


def run_memory(args: argparse.Namespace) -> dict[str, Any]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n_rows in args.memory_rows:
            path = Path(folder) / f"{n_rows}.parquet"
            X, y = make_rows(n_rows, 20)
            X.assign(y=y).to_parquet(path, row_group_size=65_536)
            del X, y
            command = [sys.executable, __file__, "--peak-of", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append({"n_rows": n_rows, "peak_mb": float(done.stdout.split()[-1])})
            print(found[-1], flush=True)
    start, slope = np.polynomial.polynomial.polyfit([f["n_rows"] for f in found], [f["peak_mb"] for f in found], 1)
    print(f"{start:.0f} MB and {slope * 1e6:.0f} bytes per row of 20 features, of which 20 are bins")
    return {"memory": found, "mb": start, "bytes_per_row": slope * 1e6}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 400_000])
    parser.add_argument("--rounds", type=int, default=8, help="rounds whose median is taken")
    parser.add_argument("--messages", type=int, default=100, help="messages whose mean is taken")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--memory-rows", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("bench_scale.json"))
    args = parser.parse_args(argv)
    if args.peak_of:
        print(peak_of_fit(args.peak_of))
        return
    results = run_memory(args) if args.memory else run_rounds(args)
    args.out.write_text(json.dumps({"machine": describe_machine(), **results}, indent=1))


if __name__ == "__main__":
    main()
