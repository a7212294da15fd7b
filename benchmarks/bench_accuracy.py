"""Loss and seconds of R-MTGB with default options beside the models a user would otherwise pick, for row tasks.

    python benchmarks/bench_accuracy.py FOLDER --seeds 3

FOLDER holds a manifest.json as `mttab.datasets.load_manifest` describes it.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import loss_tables
import mttab
from mttab.datasets import load_manifest
from row_task_peers import BUDGET, OURS, PEERS, Problem

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_FOLDER = ROOT.parent / "shared" / "data"
METRIC = {"regression": "RMSE", "binary": "log loss", "multiclass": "log loss"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="folder with a manifest.json")
    parser.add_argument("--views", nargs="+", metavar="NAME", help="only the data sets of these names")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds 0 … N−1 (default: %(default)s)")
    parser.add_argument("--peers", nargs="+", metavar="PEER", choices=PEERS, help=f"some of: {', '.join(PEERS)}")
    parser.add_argument("--max-rows", type=positive, metavar="N", help="a random part of larger tables")
    parser.add_argument("--n-jobs", type=positive, default=os.cpu_count(), help="threads (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/accuracy-DATE.json)")
    arguments = parser.parse_args()
    if not (arguments.folder / "manifest.json").is_file():
        parser.error(f"{arguments.folder} holds no manifest.json; name a folder that does")
    return arguments


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def select_peers(wanted: list[str] | None) -> list[str]:
    """Those asked for that are installed; R-MTGB is always among them, first."""
    chosen = [name for name in PEERS if wanted is None or name in wanted or name == OURS]
    for name in chosen:
        if not PEERS[name].is_installed:
            print(f"skipped {name}: {PEERS[name].package} is not installed; pip install 'mttab[bench]'")
    return [name for name in chosen if PEERS[name].is_installed]


def select_views(folder: Path, names: list[str] | None) -> dict[str, Any]:
    """Short title -> view, for the row-task views; the task column tells views of one name apart."""
    views = [view for view in load_manifest(folder, drop_unlabelled=True) if view.layout == "row_tasks"]
    known = [view.name for view in views]
    if not views:
        raise SystemExit(f"{folder} holds no view with layout row_tasks; bench_neural.py takes target_tasks")
    if unknown := set(names or ()) - set(known):
        raise SystemExit(f"--views: {', '.join(sorted(unknown))} not among the row-task views {', '.join(known)}")
    title = {
        id(view): view.name if known.count(view.name) == 1 else f"{view.name}, {view.y.name} by {view.task_column}"
        for view in views
    }
    return {title[id(view)]: view for view in views if not names or view.name in names}


def make_problem(view: Any, seed: int, max_rows: int | None, n_jobs: int) -> Problem:
    """Split one view by its own rule; labels become floats or the codes of the sorted classes."""
    (kind,) = view.target_types.values()
    X, y = view.X_with_task, view.y
    y, classes = (y.to_numpy(dtype=float), []) if kind == "regression" else pd.factorize(y, sort=True)
    train, test = limit_rows(view.split(seed), seed, max_rows)
    parts = (X.iloc[train].reset_index(drop=True), y[train], X.iloc[test].reset_index(drop=True), y[test])
    return Problem(*parts, task=view.task_column, n_classes=len(classes), seed=seed, n_jobs=n_jobs)


def limit_rows(rows: tuple[np.ndarray, np.ndarray], seed: int, max_rows: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows, drawn from both in proportion where they are more than `max_rows` together."""
    if max_rows is None or sum(map(len, rows)) <= max_rows:
        return rows
    rng, share = np.random.default_rng(seed), max_rows / sum(map(len, rows))
    train, test = (np.sort(rng.choice(part, max(1, int(share * len(part))), replace=False)) for part in rows)
    return train, test


def loss_of(problem: Problem, predictions: np.ndarray) -> float:
    """RMSE, or log loss with probabilities kept above 1e-15."""
    if not problem.n_classes:
        return float(np.sqrt(np.mean((problem.y_test - predictions) ** 2)))
    given = predictions[np.arange(len(predictions)), problem.y_test] / predictions.sum(axis=1)
    return float(-np.log(np.clip(given, 1e-15, 1.0)).mean())


def run_peer(name: str, problem: Problem) -> dict[str, Any]:
    """Loss and seconds of fit and predict together; a failure is a result too."""
    start = time.perf_counter()
    try:
        loss = loss_of(problem, PEERS[name].predict(problem))
    except Exception as error:
        return {"loss": None, "seconds": None, "error": f"{type(error).__name__}: {error}"}
    result = {"loss": loss, "seconds": time.perf_counter() - start, "error": None}
    return result if np.isfinite(loss) else {**result, "loss": None, "error": f"the loss is {loss}"}


def compile_kernels(peers: list[str], n_jobs: int) -> float:
    """Fit small tables of each kind once, so that no measured time holds a compilation. Returns the seconds."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    n_rows = 3000
    X = pd.DataFrame(rng.normal(size=(n_rows, 3)), columns=["a", "b", "c"])
    X = X.assign(category=pd.Categorical(rng.integers(0, 5, n_rows).astype(str)), task=rng.integers(0, 4, n_rows))
    with progress(3 * len(peers)) as advance:
        for n_classes in (0, 2, 3):
            y = rng.integers(0, n_classes, n_rows) if n_classes else rng.normal(size=n_rows)
            for name in peers:
                advance(f"small fit beforehand: {name}", 0)
                run_peer(name, Problem(X, y, X, y, task="task", n_classes=n_classes, seed=0, n_jobs=n_jobs))
                advance("", 1)
    return time.perf_counter() - start


def run_all(views: dict[str, Any], peers: list[str], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One result per view, seed and peer."""
    with progress(len(views) * arguments.seeds * len(peers)) as advance:
        for title, view in views.items():
            (kind,) = view.target_types.values()
            for seed in range(arguments.seeds):
                advance(f"{title}, seed {seed}: reading", 0)
                problem = make_problem(view, seed, arguments.max_rows, arguments.n_jobs)
                for name in peers:
                    advance(f"{title}, seed {seed}: {name}", 0)
                    rows = {"n_train": len(problem.y_train), "n_test": len(problem.y_test)}
                    which = {"view": title, "metric": METRIC[kind], "seed": seed, "peer": name}
                    yield which | rows | run_peer(name, problem)
                    advance("", 1)


class progress:
    """A bar on stderr: tqdm's if installed, else one line that is overwritten. Call it with (what runs now, steps)."""

    def __init__(self, n_steps: int):
        self.n_steps, self.n_done, self.bar = n_steps, 0, None

    def __enter__(self) -> "progress":
        try:
            from tqdm import tqdm

            self.bar = tqdm(total=self.n_steps, file=sys.stderr, leave=False, disable=None)
        except ImportError:
            self("", 0)
        return self

    def __call__(self, what: str, n_steps: int) -> None:
        self.n_done += n_steps
        if self.bar is not None:
            self.bar.set_postfix_str(what)
            self.bar.update(n_steps)
        elif sys.stderr.isatty():
            print(f"\r\033[K{self.n_done}/{self.n_steps}  {what}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)


def show_ratios(what: str, logs: np.ndarray, names: Sequence[str], digits: int = 4) -> None:
    """Print a line: geometric means of ratios, given as logarithms (n, n_names), and their standard errors in %."""
    error = 100 * logs.std(axis=0, ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.full(len(names), np.nan)
    parts = zip(names, np.exp(logs.mean(axis=0)), error, strict=True)
    shown = (f"{name} {mean:.{digits}f} ± {e:.{digits - 2}f}" for name, mean, e in parts)
    print(f"{what}: " + ", ".join(shown), flush=True)


def describe_machine(peers: tuple[str, ...] = ("catboost", "chimeraboost")) -> dict[str, Any]:
    """Date, processor and versions, those of the peers included: what a reader needs to repeat the figures."""
    versions = {"python": platform.python_version(), "mttab": mttab.__version__}
    for package in ("numpy", "pandas", "scikit-learn", "numba", "lightgbm", *peers):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    date = datetime.now().isoformat(timespec="seconds")
    return {"date": date, "cpu": cpu, "cores": os.cpu_count(), "versions": versions}


def print_runs(results: pd.DataFrame, peers: list[str]) -> None:
    """Loss (seconds) of every view and seed."""
    cells = [
        "failed" if pd.notna(row.error) else f"{row.loss:.4f} ({row.seconds:.1f} s)"
        for row in results.itertuples()  # a figure that is missing is said, never left out
    ]
    table = results.assign(cell=cells).pivot(index=["view", "metric", "seed"], columns="peer", values="cell")
    order = results.drop_duplicates(["view", "seed"])[["view", "metric", "seed"]]
    print("\nLoss on the test rows (seconds for fit and predict)\n")
    print(table.reindex(index=pd.MultiIndex.from_frame(order), columns=peers).to_string(sparsify=False))


def print_summary(results: pd.DataFrame, peers: list[str]) -> None:
    """Means per view, ratios, wins, ties, losses and ranks; then what failed."""
    losses = loss_tables.mean_over_seeds(results)[peers]
    seconds = loss_tables.mean_over_seeds(results, "seconds")[peers]
    n_seeds = results["seed"].nunique()
    print(
        f"\nMean loss, number of seeds: {n_seeds}\n\n{losses.to_string(float_format='{:.4f}'.format, na_rep='failed')}"
    )
    print(f"\nMean seconds\n\n{seconds.to_string(float_format='{:.1f}'.format, na_rep='failed')}")
    if len(peers) > 1:
        ratio = losses.rdiv(losses[OURS], axis=0).drop(columns=OURS)
        ratio["best peer"] = losses[OURS] / losses.drop(columns=OURS).min(axis=1)
        print(f"\nLoss of {OURS} / loss of the peer, below 1 is better\n")
        print(ratio.to_string(float_format="{:.4f}".format, na_rep="failed"))
        summary = loss_tables.compare_with(losses, OURS)
        print(f"\n{OURS} against each peer (a tie: within {loss_tables.TIE:.1%})\n")
        print(summary.to_string(float_format="{:.4f}".format))
    print(f"\nMean rank over {len(losses)} views, 1 is best\n")
    print(loss_tables.mean_ranks(losses).sort_values().to_string(float_format="{:.2f}".format))
    failures = results[results["error"].notna()]
    print(f"\n{len(failures)} of {len(results)} runs failed")
    for row in failures.itertuples():
        print(f"  {row.view}, seed {row.seed}, {row.peer}: {row.error}")


def main() -> None:
    arguments = parse_arguments()
    peers = select_peers(arguments.peers)
    views = select_views(arguments.folder, arguments.views)
    machine = describe_machine()
    output = arguments.output or ROOT / "benchmarks" / "results" / f"accuracy-{machine['date'][:10]}.json"
    output.parent.mkdir(parents=True, exist_ok=True)

    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['date']}, {machine['cpu']}, {arguments.n_jobs} threads\n{versions}\n{BUDGET}")
    print(f"small fits beforehand, compilation included: {compile_kernels(peers, arguments.n_jobs):.1f} s", flush=True)

    options = {"seeds": arguments.seeds, "max_rows": arguments.max_rows, "n_jobs": arguments.n_jobs, "budget": BUDGET}
    results = []
    for result in run_all(views, peers, arguments):
        results.append(result)
        output.write_text(json.dumps({**machine, **options, "results": results}, indent=1) + "\n")

    table = pd.DataFrame(results).astype({"loss": float, "seconds": float})
    print_runs(table, peers)
    print_summary(table, peers)
    print(f"\nall results: {output}")


if __name__ == "__main__":
    main()
