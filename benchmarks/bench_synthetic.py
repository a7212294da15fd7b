"""Does sharing help where the truth is known? Three experiments on made-up tasks.

    python benchmarks/bench_synthetic.py --quick
    python benchmarks/bench_synthetic.py --experiments outliers --draws 30

outliers: ten tasks, two of them outliers. groups: 25 tasks in five groups. sweeps: several targets per row, over the
number of targets, their correlation and their degree. A run that stops goes on where it was when started again.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

import synthetic_experiments as experiments
import synthetic_tables as tables
from bench_accuracy import positive, progress
from run_store import Job, RunStore, add_arguments, attempt, open_store, run_jobs, write_tables
from synthetic_approaches import ROW_TASK_APPROACHES, TARGET_APPROACHES
from synthetic_experiments import SWEEPS, TASK_TYPES, Settings
from target_task_peers import BASELINE

ROW_TASK_EXPERIMENTS = {"outliers": experiments.OUTLIERS, "groups": experiments.GROUPS}
DRAWS = {"outliers": 100, "groups": 100, "sweeps": 5}
QUICK_DRAWS = {"outliers": 2, "groups": 1, "sweeps": 1}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = list(dict.fromkeys([*ROW_TASK_APPROACHES, *TARGET_APPROACHES]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=DRAWS, default=list(DRAWS), help="some of the three")
    parser.add_argument("--draws", type=positive, metavar="N", help=f"draws 0 … N−1 of each (default: {DRAWS})")
    parser.add_argument("--approaches", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help=f"few draws ({QUICK_DRAWS}), small sweeps, no networks")
    add_arguments(parser, "synthetic.jsonl", n_jobs_are="models fitted at a time, each with one thread")
    options = parser.parse_args(arguments)
    options.draws = {name: options.draws or (QUICK_DRAWS if options.quick else DRAWS)[name] for name in DRAWS}
    return options


def row_task_jobs(name: str, task_type: str, arguments: argparse.Namespace) -> Iterator[Job]:
    """Every approach to every draw of "outliers" or "groups"."""
    settings = {**ROW_TASK_EXPERIMENTS[name], "task_type": task_type}
    for draw in range(arguments.draws[name]):
        for approach in chosen(ROW_TASK_APPROACHES, arguments):
            key = {
                "experiment": name, "problem": settings, "draw": draw, "approach": approach,
                "settings": ROW_TASK_APPROACHES[approach].settings(task_type != "regression"),
            }  # fmt: skip
            yield Job(key, f"{name}, {task_type}, draw {draw}: {approach}", row_task_run(key))


def row_task_run(key: dict[str, Any]) -> Any:
    def run() -> dict[str, Any]:
        problem, task_group = experiments.draw_row_tasks(key["problem"], key["draw"])
        predictions, outlier_score = ROW_TASK_APPROACHES[key["approach"]].predict(problem)
        return {
            "errors": experiments.errors_per_task(problem, predictions),
            "outlier_score": None if outlier_score is None else [float(score) for score in outlier_score],
            "task_group": task_group.tolist(),
        }

    return run


def sweep_jobs(points: dict[Any, Settings], arguments: argparse.Namespace) -> Iterator[Job]:
    """Every approach to every draw of every point of a sweep."""
    for settings in points.values():
        for draw in range(arguments.draws["sweeps"]):
            for approach in chosen(TARGET_APPROACHES, arguments):
                key = {
                    "experiment": "sweeps", "problem": settings, "draw": draw, "approach": approach,
                    "settings": TARGET_APPROACHES[approach].settings(),
                }  # fmt: skip
                what = ", ".join(f"{setting} {settings[setting]}" for setting in SWEEPS)
                yield Job(key, f"{what}, draw {draw}: {approach}", sweep_run(key))


def sweep_run(key: dict[str, Any]) -> Any:
    def run() -> dict[str, Any]:
        problem = experiments.draw_targets(key["problem"], key["draw"])
        predictions = TARGET_APPROACHES[key["approach"]].predict(problem)
        for prediction in predictions.values():
            if isinstance(prediction, Exception):
                raise prediction
        return {"errors": {"RMSE": experiments.errors_per_target(problem, predictions)}}

    return run


def chosen(approaches: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    """The approaches asked for, or the usual ones, without networks where it is to be quick; always the baseline."""
    wanted = arguments.approaches
    if wanted is None:
        networks = [name for name, peer in TARGET_APPROACHES.items() if peer.package == "torch"]
        usual = {name for name in networks if TARGET_APPROACHES[name].by_default and not arguments.quick}
        can_run = {name for name in usual if TARGET_APPROACHES[name].is_installed}
        return [name for name in approaches if name not in networks or name in can_run]
    return [name for name in approaches if name in wanted or name == BASELINE]


def rehearse(jobs: Sequence[Job], store: RunStore) -> None:
    """Run each approach on a small problem of each kind, so that no measured time holds a compilation."""
    start = time.perf_counter()
    first_of_kind: dict[tuple, Job] = {}
    for job in jobs:
        if store.get(job.key) is None:
            kind = (job.key["approach"], job.key["experiment"] == "sweeps", job.key["problem"].get("task_type"))
            first_of_kind.setdefault(kind, job)
    with progress(len(first_of_kind)) as advance:
        for (approach, is_sweep, _), job in first_of_kind.items():
            advance(f"small fit beforehand: {approach}", 0)
            small = {name: min(n, job.key["problem"][name]) for name, n in {"n_train": 120, "n_test": 30}.items()}
            key = {**job.key, "problem": {**job.key["problem"], **small}}
            attempt((sweep_run if is_sweep else row_task_run)(key))
            advance("", 1)
    print(f"small fits beforehand, compilation included: {time.perf_counter() - start:.1f} s", flush=True)


def jobs_by_part(options: argparse.Namespace) -> dict[tuple[str, str], list[Job]]:
    """(experiment, its task type or swept setting) -> its runs."""
    parts: dict[tuple[str, str], list[Job]] = {}
    for name in options.experiments:
        if name == "sweeps":
            points = {sweep: experiments.sweep_points(sweep, options.quick) for sweep in SWEEPS}
            parts |= {(name, sweep): list(sweep_jobs(points[sweep], options)) for sweep in SWEEPS}
        else:
            parts |= {(name, task_type): list(row_task_jobs(name, task_type, options)) for task_type in TASK_TYPES}
    return parts


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    store, machine = open_store(options, ("torch",))
    parts = jobs_by_part(options)
    rehearse([job for jobs in parts.values() for job in jobs], store)

    shown: dict[str, pd.DataFrame] = {}
    failures: list[str] = []
    for (experiment, part), jobs in parts.items():
        print(f"\n{experiment}, {part}")
        results = run_jobs(jobs, store, n_processes=options.n_jobs)
        shown |= tables.show(experiment, part, results)
        failures += tables.list_failures(results)
    print("\n".join([f"\n{len(failures)} runs failed", *dict.fromkeys(failures)]))
    write_tables(shown, options, machine)


if __name__ == "__main__":
    main()
