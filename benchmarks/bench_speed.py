"""Time and memory of fit and predict beside LightGBM, XGBoost and scikit-learn's HistGradientBoosting.

    python benchmarks/bench_speed.py                              # all parts: about half an hour
    python benchmarks/bench_speed.py fit --rows 100000 --threads 1
    python benchmarks/bench_speed.py --json speed.json

Every ratio is taken in one process, the candidates alternating, as the median of the ratios of `--repeats` rounds: a
machine that is busy slows all of them down. What is compared does the same work: as many rounds, leaves, bins and
threads, no early stopping.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.utils.validation import validate_data
from threadpoolctl import threadpool_limits

try:
    import xgboost
except ImportError:
    xgboost = None  # type: ignore[assignment]

from bench_accuracy import describe_machine
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

ROUNDS, LEAVES, BINS = 100, 31, 255
ALONE = {"max_iter_partition": 0, "max_iter_task": 0}


def make_table(n_rows: int, n_features: int, is_binary: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 features, of which four matter, and noisy labels."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    signal = X[:, 0] * X[:, 1] + np.sin(3 * X[:, 2]) + X[:, 3]
    if is_binary:
        return X, (signal + rng.logistic(size=n_rows) > 0).astype(np.int64)
    return X, signal + 0.5 * rng.standard_normal(n_rows)


def ours(is_binary: bool, n_threads: int, **options: Any) -> Any:
    kind = RMTGBClassifier if is_binary else RMTGBRegressor
    options = {"max_iter_shared": ROUNDS, **ALONE, "max_leaf_nodes": LEAVES, "max_bins": BINS, **options}
    return kind(
        grow_policy="leafwise", learning_rate=0.1, min_samples_leaf=20, l2_regularization=0.0, subsample=1.0,
        early_stopping=False, n_jobs=n_threads, **options,
    )  # fmt: skip


def candidates(is_binary: bool, n_threads: int) -> dict[str, Callable[[], Any]]:
    """Name → unfitted model of each library, all of the same size."""
    same: dict[str, Any] = {"n_estimators": ROUNDS, "learning_rate": 0.1, "n_jobs": n_threads}
    lgb = lightgbm.LGBMClassifier if is_binary else lightgbm.LGBMRegressor
    hist = HistGradientBoostingClassifier if is_binary else HistGradientBoostingRegressor
    makers: dict[str, Callable[[], Any]] = {
        "mttab": lambda: ours(is_binary, n_threads),
        "lightgbm": lambda: lgb(num_leaves=LEAVES, max_bin=BINS, verbose=-1, **same),
        "hist gradient boosting": lambda: hist(
            max_iter=ROUNDS, max_leaf_nodes=LEAVES, max_bins=BINS, early_stopping=False
        ),
    }
    if xgboost is not None:
        xgb = xgboost.XGBClassifier if is_binary else xgboost.XGBRegressor
        makers["xgboost"] = lambda: xgb(
            tree_method="hist", grow_policy="lossguide", max_leaves=LEAVES, max_depth=0, max_bin=BINS, **same
        )
    return makers


def time_of(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(actions: Mapping[str, Callable[[], Any]], repeats: int, n_threads: int = 2) -> dict[str, np.ndarray]:
    """Seconds (repeats,) of each action, all of them once per round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    with threadpool_limits(n_threads):
        for r in range(repeats + 1):
            for name, action in actions.items():
                seconds = time_of(action)
                if r > 0:
                    times[name].append(seconds)
    return {name: np.array(values) for name, values in times.items()}


def row(what: str, times: dict[str, np.ndarray], bar: float, against: list[str] | None = None) -> dict[str, Any]:
    """One line of the report: medians, and our time over that of the fastest of the others."""
    medians = {name: float(np.median(values)) for name, values in times.items()}
    others = against or [name for name in times if name != "mttab"]
    fastest = min(others, key=lambda name: medians[name])
    ratio = float(np.median(times["mttab"] / times[fastest]))
    return {"what": what, **{f"{k} s": v for k, v in medians.items()}, "fastest": fastest, "ratio": ratio, "bar": bar}


def bench_fit(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for n_rows in args.rows:
        for n_features in args.features:
            for is_binary in (False, True):
                for n_threads in args.threads:
                    yield fit_case(n_rows, n_features, is_binary, n_threads, args.repeats)


def fit_case(n_rows: int, n_features: int, is_binary: bool, n_threads: int, repeats: int) -> dict[str, Any]:
    """Times of one table."""
    X, y = make_table(n_rows, n_features, is_binary)
    makers = candidates(is_binary, n_threads)
    fits = {name: lambda make=make: make().fit(X, y) for name, make in makers.items()}
    what = f"fit {n_rows:.0e} x {n_features}, {loss_name(is_binary)}, {n_threads} thread(s)"
    return row(what, alternate(fits, repeats, n_threads), 1.0 if n_rows < 50_000 else 0.8)


def loss_name(is_binary: bool) -> str:
    return "log loss" if is_binary else "squared error"


def bench_loss(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Test loss over LightGBM's: the mean over tables, for whether trees meet the product in one of them is luck."""
    for n_rows in (size for size in args.rows if size <= 100_000):  # of larger tables, so many take hours
        for n_features in args.features:
            for is_binary in (False, True):
                ratios = np.log([loss_ratio(n_rows, n_features, is_binary, seed) for seed in range(args.tables)])
                yield {
                    "what": f"test loss {n_rows:.0e} x {n_features}, {loss_name(is_binary)}, {args.tables} tables",
                    "loss / lightgbm": float(np.exp(ratios.mean())),
                    "standard error": float(ratios.std(ddof=1) / len(ratios) ** 0.5),
                    "smallest": float(np.exp(ratios.min())), "largest": float(np.exp(ratios.max())), "bar": 1.005,
                }  # fmt: skip


def loss_ratio(n_rows: int, n_features: int, is_binary: bool, seed: int) -> float:
    X, y = make_table(n_rows + 20_000, n_features, is_binary, seed)
    train, test, makers = slice(n_rows), slice(n_rows, None), candidates(is_binary, 1)
    models = [makers[name]().fit(X[train], y[train]) for name in ("mttab", "lightgbm")]
    if is_binary:
        ours, other = (log_loss(y[test], model.predict_proba(X[test])) for model in models)
    else:
        ours, other = (mean_squared_error(y[test], model.predict(X[test])) for model in models)
    return ours / other


def many_tasks(n_tasks: int, n_rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    tasks = make_task_groups(n_rows, n_features=20, group_sizes=(n_tasks,), random_state=0, return_bunch=True)
    return tasks.data, tasks.target.to_numpy()


def bench_tasks(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Task trees alone beside a loop over tasks, and all blocks beside one pooled model."""
    for n_tasks, n_rows, bar in ((1000, 100, 1 / 20), (139, 110, 1 / 10)):
        for n_threads in args.threads:
            yield from task_cases(n_tasks, n_rows, n_threads, bar, args.repeats)


def task_cases(n_tasks: int, n_rows: int, n_threads: int, bar: float, repeats: int) -> Iterator[dict[str, Any]]:
    X, y = many_tasks(n_tasks, n_rows)
    rows = [np.flatnonzero(X["task"] == task) for task in X["task"].unique()]
    values, coded = X.drop(columns="task").to_numpy(), X.assign(task=X["task"].astype("category").cat.codes)
    same: dict[str, Any] = {"num_leaves": 8, "min_child_samples": 5, "verbose": -1, "n_jobs": n_threads}

    def loop() -> None:
        for own in rows:
            lightgbm.LGBMRegressor(n_estimators=20, **same).fit(values[own], y[own])

    def fit(shared: int, partition: int, task: int) -> None:
        ours(
            False, n_threads, max_iter_shared=shared, max_iter_partition=partition, max_iter_task=task,
            max_leaf_nodes=8, min_samples_leaf_task=5, task_column="task", sharing="blocks", max_bins="auto",
        ).fit(coded, y)  # fmt: skip

    name = f"{n_tasks} tasks x {n_rows} rows, {n_threads} thread(s)"
    times = alternate({"mttab": lambda: fit(0, 0, 20), "loop": loop}, repeats)
    yield row(f"20 task rounds alone / a LightGBM model per task, {name}", times, bar)
    times = alternate({"mttab": lambda: fit(0, 0, 60), "shared": lambda: fit(60, 0, 0)}, repeats)
    yield row(f"60 task rounds / 60 shared rounds, {name}", times, 2.0)
    pooled = lightgbm.LGBMRegressor(n_estimators=60, **same)
    times = alternate({"mttab": lambda: fit(20, 20, 20), "pooled": lambda: pooled.fit(values, y)}, repeats)
    yield row(f"three blocks of 20 rounds / pooled LightGBM of 60, {name}", times, 5.0)


def repeat(action: Callable[[], Any], times: int = 300) -> None:
    for _ in range(times):
        action()


def bench_predict(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    X, y = make_table(100_000, 20, False)
    many, _ = make_table(1_000_000, 20, False, seed=1)
    for n_threads in args.threads:
        models = {name: make().fit(X, y) for name, make in candidates(False, n_threads).items()}
        times = alternate({k: partial(m.predict, many) for k, m in models.items()}, args.repeats, n_threads)
        yield row(f"predict 1e6 x 20, {n_threads} thread(s)", times, 0.25, ["lightgbm"])
        if "xgboost" in times:
            yield row(f"predict 1e6 x 20, {n_threads} thread(s)", times, 1.0, ["xgboost"])
    model = ours(False, 1)
    for kind, one in (("array", X[:1]), ("DataFrame", pd.DataFrame(X[:1]).add_prefix("x"))):
        model.fit(X if kind == "array" else pd.DataFrame(X).add_prefix("x"), y)

        actions = {
            "mttab": partial(repeat, partial(model.predict, one)),
            "validate_data": partial(repeat, partial(validate_data, model, one, reset=False)),
        }
        yield row(f"predict one row, {kind}, 300 times / validate_data", alternate(actions, args.repeats, 1), 1.5)


def bench_few(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rounds of symmetric trees as default fits have them, on as many rows and features as these often meet."""
    for n_rows, n_features in ((400, 30), (1400, 14), (4000, 8)):
        X, y = make_table(n_rows, n_features, False)
        options: dict[str, Any] = {**ALONE, "max_bins": 64, "subsample": 0.8, "early_stopping": False, "n_jobs": 1}
        fits = {n: RMTGBRegressor(max_iter_shared=n, random_state=0, **options) for n in (1, 201)}
        actions = {str(n): partial(model.fit, X, y) for n, model in fits.items()}
        times = alternate(actions, 3 * args.repeats, 1)
        microseconds = 1e6 * float(np.median(times["201"] - times["1"])) / 200
        yield {"what": f"round of a symmetric tree, {n_rows} x {n_features}, 64 bins", "us": microseconds}


def seconds_of(code: str, cache: str) -> float:
    """Wall time of a new Python process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the modules of an installed package are compiled
    return time_of(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment))


def bench_start(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sklearn = "import sklearn.ensemble, pandas, numpy as np\n"
    fit = (
        "from mttab import RMTGBRegressor\nrng = np.random.default_rng(0)\nX = rng.normal(size=(200, 5))\n"
        "RMTGBRegressor(max_iter_shared=5, n_jobs=1).fit(X, X[:, 0])\n"
    )
    with tempfile.TemporaryDirectory() as cache:
        seconds_of("import mttab.boosting", cache)  # as by an installer, see `seconds_of`
        first = seconds_of(sklearn + fit, cache)
        yield {"what": "first fit ever, empty cache", "s": first, "bar": 10.0}
        runs = {"plain": sklearn, "import": sklearn + "import mttab, mttab.boosting", "fit": sklearn + fit}
        times = alternate({k: partial(seconds_of, code, cache) for k, code in runs.items()}, args.repeats)
    yield {"what": "first fit ever beyond importing scikit-learn", "s": first - float(np.median(times["plain"]))}
    for name, bar in (("import", 0.5), ("fit", 0.8)):
        yield {"what": f"{name} beyond importing scikit-learn, warm cache", "bar": bar,
               "s": float(np.median(times[name] - times["plain"]))}  # fmt: skip


MEMORY = """
import sys, time
sys.path[:0] = {path!r}
import bench_speed
from scale_memory import PeakMemory
make = bench_speed.candidates(False, 1)[{name!r}]
X, y = bench_speed.make_table(1_000_000, 20, False)
make().fit(X[:2000].copy(), y[:2000])
with PeakMemory() as held:
    time.sleep(0.1)
with PeakMemory() as peak:
    make().fit(X, y)
print(peak.mb - held.mb)
"""


def bench_memory(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Peak during a fit over what the process held after imports, the table and one tiny fit; Linux alone tells."""
    growth = {}
    for name in ("mttab", "lightgbm"):
        code = MEMORY.format(path=[str(Path(__file__).parent)], name=name)
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        growth[name] = float(run.stdout)
    yield {"what": "memory of a fit, 1e6 x 20", **{f"{k} MiB": v for k, v in growth.items()},
           "ratio": growth["mttab"] / growth["lightgbm"], "bar": 1.2}  # fmt: skip


PARTS = {
    "fit": bench_fit,
    "loss": bench_loss,
    "tasks": bench_tasks,
    "few": bench_few,
    "predict": bench_predict,
    "start": bench_start,
    "memory": bench_memory,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--features", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tables", type=int, default=10, help="over which test losses are averaged")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.tables < 2:
        parser.error("--tables must be at least 2, for there to be a standard error")
    print(describe_machine())
    results = []
    for part in args.parts or PARTS:
        if part not in PARTS:
            parser.error(f"{part!r} is none of {', '.join(PARTS)}")
        for result in PARTS[part](args):
            results.append(result)
            shown = {k: (f"{v:.3g}" if isinstance(v, float) else v) for k, v in result.items() if k != "what"}
            print(f"{result['what']}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
            if args.json:
                args.json.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
