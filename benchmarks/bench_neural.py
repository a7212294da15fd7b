"""Several targets per row: AUC or R² of every target, beside one LightGBM per target.

    python benchmarks/bench_neural.py FOLDER --seeds 3 --max-rows 20000
    python benchmarks/bench_neural.py --speed

FOLDER holds a manifest.json as `mttab.datasets.load_manifest` describes it. A run that stops goes on where it was when
started again. With --speed it measures rows per second of MultiTabNet instead.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score, roc_auc_score

import gain_tables
from bench_accuracy import DEFAULT_FOLDER, limit_rows, positive, progress
from mttab.datasets import load_manifest
from run_store import Job, add_arguments, attempt, describe, open_store, run_jobs, write_tables
from target_task_peers import BASELINE, PEERS, TargetProblem

METRIC = {"regression": "R²", "binary": "AUC", "multiclass": "AUC, one against rest"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="folder with a manifest.json")
    parser.add_argument("--views", nargs="+", metavar="NAME", help="only the data sets of these names")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds 0 … N−1 (default: %(default)s)")
    usual = ", ".join(name for name, peer in PEERS.items() if peer.by_default)
    parser.add_argument(
        "--peers", nargs="+", metavar="PEER", choices=PEERS, help=f"some of: {', '.join(PEERS)} (default: {usual})"
    )
    parser.add_argument("--max-rows", type=positive, metavar="N", help="a random part of larger tables")
    parser.add_argument("--speed", action="store_true", help="rows per second of MultiTabNet, on made-up rows")
    parser.add_argument("--device", default="auto", help="of MultiTabNet with --speed (default: %(default)s)")
    add_arguments(parser, "neural.jsonl", n_jobs_are="threads of a model")
    options = parser.parse_args(arguments)
    if options.speed and not PEERS["MultiTabNet"].is_installed:
        parser.error("--speed needs torch; pip install 'mttab[neural]'")
    if not options.speed and not (options.folder / "manifest.json").is_file():
        parser.error(f"{options.folder} holds no manifest.json; name a folder that does")
    return options


def select_peers(wanted: list[str] | None) -> list[str]:
    """Those asked for that are installed; LightGBM per target is always among them, first."""
    chosen = [n for n, peer in PEERS.items() if n == BASELINE or (peer.by_default if wanted is None else n in wanted)]
    for name in chosen:
        if not PEERS[name].is_installed:
            print(f"skipped {name}: {PEERS[name].package} is not installed; pip install 'mttab[bench]'")
    return [name for name in chosen if PEERS[name].is_installed]


def select_views(folder: Path, names: list[str] | None) -> dict[str, Any]:
    """Short title -> view, for the views with several targets per row."""
    views = [view for view in load_manifest(folder, drop_unlabelled=True) if view.layout == "target_tasks"]
    known = [view.name for view in views]
    if not views:
        raise SystemExit(f"{folder} holds no view with layout target_tasks; bench_accuracy.py takes row_tasks")
    if unknown := set(names or ()) - set(known):
        raise SystemExit(f"--views: {', '.join(sorted(unknown))} not among the target-task views {', '.join(known)}")
    title = {id(view): view.name if known.count(view.name) == 1 else view.title for view in views}
    return {title[id(view)]: view for view in views if not names or view.name in names}


@lru_cache(maxsize=1)  # the peers on one split follow each other
def make_problem(view: Any, seed: int, max_rows: int | None, n_jobs: int) -> TargetProblem:
    """Split one view by its own rule."""
    X, Y = view.X, view.y
    train, test = limit_rows(view.split(seed), seed, max_rows)
    (X_train, Y_train), (X_test, Y_test) = (
        (X.iloc[rows].reset_index(drop=True), Y.iloc[rows].reset_index(drop=True)) for rows in (train, test)
    )
    return TargetProblem(X_train, Y_train, X_test, Y_test, kinds=dict(view.target_types), seed=seed, n_jobs=n_jobs)


def make_jobs(views: dict[str, Any], peers: list[str], options: argparse.Namespace) -> Iterator[Job]:
    for title, view in views.items():
        stated = {name: view.record[name] for name in ("file", "features", "targets", "split")}
        data = {**stated, "bytes": view.file.stat().st_size, "max_rows": options.max_rows}
        for seed in range(options.seeds):
            for peer in peers:
                key = {"view": title, "seed": seed, "peer": peer, "data": data, "settings": PEERS[peer].settings()}
                run = make_run(view, seed, peer, options)
                yield Job(key, f"{title}, seed {seed}: {peer}", run)


def make_run(view: Any, seed: int, peer: str, options: argparse.Namespace) -> Any:
    def run() -> dict[str, Any]:
        problem = make_problem(view, seed, options.max_rows, options.n_jobs)
        predictions = PEERS[peer].predict(problem)
        undefined = [target for target in problem.kinds if not is_defined(problem, target)]
        scores, failures = {}, {}
        for target in problem.kinds:
            try:
                scores[target] = None if target in undefined else score(problem, target, predictions[target])
            except Exception as error:
                scores[target], failures[target] = None, describe(error)
        rows = {"n_train": len(problem.X_train), "n_test": len(problem.X_test)}
        failed = f"no figure for {', '.join(failures)}" if failures else None
        return {**rows, "scores": scores, "failures": failures, "undefined": undefined, "error": failed}

    return run


def is_defined(problem: TargetProblem, target: str) -> bool:
    """Whether the test rows let anyone be judged: two classes, or two different values."""
    y = problem.codes(target, test=True)
    return len(np.unique(y[~np.isnan(y)])) > 1


def score(problem: TargetProblem, target: str, prediction: np.ndarray | Exception) -> float:
    """AUC or R² over the test rows that have a label; of several classes the mean AUC of those that occur in them."""
    if isinstance(prediction, Exception):
        raise prediction
    if not np.isfinite(prediction).all():
        raise ValueError("a prediction is not finite")
    y = problem.codes(target, test=True)
    has_label = ~np.isnan(y)
    y, given = y[has_label], prediction[has_label]
    if problem.kinds[target] == "regression":
        return float(r2_score(y, given))
    given = given / given.sum(axis=1, keepdims=True)
    if len(problem.classes[target]) == 2:
        return float(roc_auc_score(y, given[:, 1]))
    return float(np.mean([roc_auc_score(y == c, given[:, int(c)]) for c in np.unique(y)]))


def rehearse(peers: list[str], n_jobs: int) -> None:
    """Fit a small table of both kinds, so that no measured time holds a compilation of our kernels."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(600, 3)), columns=["a", "b", "c"])
    X = X.assign(category=pd.Categorical(rng.integers(0, 5, 600).astype(str)))
    Y = pd.DataFrame({"r": X["a"], "s": X["b"], "u": X["a"] > 0, "v": X["b"] > 0, "w": rng.integers(0, 3, 600)})
    kinds = dict(zip(Y, ("regression", "regression", "binary", "binary", "multiclass"), strict=True))
    ours = [name for name in peers if name.startswith("R-MTGB")]
    with progress(len(ours)) as advance:
        for name in ours:
            advance(f"small fit beforehand: {name}", 0)
            attempt(partial(PEERS[name].predict, TargetProblem(X, Y, X, Y, kinds, seed=0, n_jobs=n_jobs)))
            advance("", 1)


def tidy(views: dict[str, Any], results: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per view, seed, peer and target."""
    rows = [
        {
            **{name: result[name] for name in ("view", "seed", "peer")},
            "target": target,
            "metric": METRIC[kind],
            "score": result.get("scores", {}).get(target),
            "failure": result.get("failures", {target: result["error"]}).get(target),
            "is_undefined": target in result.get("undefined", ()),
        }
        for result in results
        for target, kind in views[result["view"]].target_types.items()
    ]
    return pd.DataFrame(rows).astype({"score": float})


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.speed:
        import neural_speed

        neural_speed.run(options.device, options.n_jobs, options.output.with_name("neural_speed.json"))
        return
    peers, views = select_peers(options.peers), select_views(options.folder, options.views)
    store, machine = open_store(options, ("torch", "pytabkit"))
    jobs = list(make_jobs(views, peers, options))
    rehearse(sorted({job.key["peer"] for job in jobs if store.get(job.key) is None}), options.n_jobs)
    results = run_jobs(jobs, store)
    shown = gain_tables.show(tidy(views, results), results, peers)
    write_tables(shown, options, machine)


if __name__ == "__main__":
    main()
