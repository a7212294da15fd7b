"""Does sharing help where the truth is known? Three experiments on made-up tasks.

    python benchmarks/bench_synthetic.py --quick
    python benchmarks/bench_synthetic.py --experiments outliers --draws 30
    python benchmarks/bench_synthetic.py --experiments sweeps --base n_train=1000 --sweeps degree=1,3 \\
        --approaches "MMoE tuned" "MultiTabNet tuned" --trials 4 --network n_members=1

outliers: ten tasks, two of them outliers. groups: 25 tasks in five groups. sweeps: several targets per row, over the
number of targets, their correlation and their degree. A run that stops goes on where it was when started again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

import synthetic_experiments as experiments
import synthetic_tables as tables
from bench_accuracy import positive, progress
from run_store import Job, RunStore, add_arguments, attempt, open_store, run_jobs, write_tables
from synthetic_approaches import ROW_TASK_APPROACHES, target_approaches
from synthetic_experiments import SWEEP_BASE, SWEEPS, TASK_TYPES, Settings
from target_task_peers import BASELINE, Peer
from tuning import Budget

ROW_TASK_EXPERIMENTS = {"outliers": experiments.OUTLIERS, "groups": experiments.GROUPS}
DRAWS = {"outliers": 100, "groups": 100, "sweeps": 5}
QUICK_DRAWS = {"outliers": 2, "groups": 1, "sweeps": 1}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = list(dict.fromkeys([*ROW_TASK_APPROACHES, *target_approaches(Budget())]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=DRAWS, default=list(DRAWS), help="some of the three")
    parser.add_argument("--draws", type=positive, metavar="N", help=f"draws 0 … N−1 of each (default: {DRAWS})")
    parser.add_argument("--approaches", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help=f"few draws ({QUICK_DRAWS}), small sweeps, no networks")
    parser.add_argument(
        "--base", nargs="+", type=named(SWEEP_BASE), default=[], metavar="SETTING=VALUE",
        help=f"settings of the sweeps that depart from {SWEEP_BASE}",
    )  # fmt: skip
    parser.add_argument(
        "--sweeps", nargs="+", type=named(SWEEPS), default=[], metavar="SETTING=VALUE,…",
        help=f"some sweeps and their values instead of {SWEEPS}",
    )  # fmt: skip
    budget = Budget()
    parser.add_argument(
        "--trials", type=positive, default=budget.n_trials, metavar="N",
        help="settings that each tuned approach tries, its defaults among them (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--network", nargs="+", type=named(None), default=[], metavar="OPTION=VALUE",
        help="options of all networks, such as n_members=1, tuned or not (default: theirs)",
    )  # fmt: skip
    add_arguments(parser, "synthetic.jsonl", n_jobs_are="models fitted at a time, each with one thread")
    options = parser.parse_args(arguments)
    options.draws = {name: options.draws or (QUICK_DRAWS if options.quick else DRAWS)[name] for name in DRAWS}
    options.base = {name: values[0] for name, values in options.base}
    options.sweeps = dict(options.sweeps)
    options.network = {name: values[0] for name, values in options.network}
    return options


def named(known: dict[str, Any] | None) -> Callable[[str], tuple[str, list[Any]]]:
    """Read NAME=VALUE or NAME=VALUE,VALUE; a value is JSON, or text where it is none."""

    def read(text: str) -> tuple[str, list[Any]]:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=VALUE")
        if known is not None and name not in known:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return name, [_value(value) for value in values.split(",")]

    return read


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


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
    def run(problem_settings: Settings = key["problem"]) -> dict[str, Any]:
        problem, task_group = experiments.draw_row_tasks(problem_settings, key["draw"])
        predictions, outlier_score = ROW_TASK_APPROACHES[key["approach"]].predict(problem)
        return {
            "errors": experiments.errors_per_task(problem, predictions),
            "outlier_score": None if outlier_score is None else [float(score) for score in outlier_score],
            "task_group": task_group.tolist(),
        }

    return run


def sweep_jobs(points: dict[Any, Settings], arguments: argparse.Namespace) -> Iterator[Job]:
    """Every approach to every draw of every point of a sweep."""
    approaches = target_approaches(Budget(arguments.trials, arguments.network))
    for settings in points.values():
        for draw in range(arguments.draws["sweeps"]):
            for approach in chosen(approaches, arguments):
                key = {
                    "experiment": "sweeps", "problem": settings, "draw": draw, "approach": approach,
                    "settings": approaches[approach].settings(),
                }  # fmt: skip
                what = ", ".join(f"{setting} {settings[setting]}" for setting in SWEEPS)
                yield Job(key, f"{what}, draw {draw}: {approach}", sweep_run(key, approaches[approach]))


def sweep_run(key: dict[str, Any], peer: Peer) -> Any:
    def run(problem_settings: Settings = key["problem"]) -> dict[str, Any]:
        problem = experiments.draw_targets(problem_settings, key["draw"])
        predictions = peer.predict(problem)
        for prediction in predictions.values():
            if isinstance(prediction, Exception):
                raise prediction
        return {"errors": {"RMSE": experiments.errors_per_target(problem, predictions)}}

    return run


def chosen(approaches: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    """The approaches asked for, or the usual ones, without networks where it is to be quick; always the baseline."""
    wanted = arguments.approaches
    if wanted is not None:
        return [name for name in approaches if name in wanted or name == BASELINE]
    return [name for name, approach in approaches.items() if is_usual(approach, arguments.quick)]


def is_usual(approach: Any, quick: bool) -> bool:
    if not isinstance(approach, Peer):
        return True
    return approach.by_default and approach.is_installed and not (quick and approach.package == "torch")


def rehearse(jobs: Sequence[Job], store: RunStore) -> None:
    """Run each approach on a small problem of each kind, so that no measured time holds a compilation."""
    start = time.perf_counter()
    first_of_kind: dict[tuple, Job] = {}
    for job in jobs:
        if store.get(job.key) is None:
            kind = (job.key["approach"], job.key["experiment"] == "sweeps", job.key["problem"].get("task_type"))
            first_of_kind.setdefault(kind, job)
    with progress(len(first_of_kind)) as advance:
        for (approach, *_), job in first_of_kind.items():
            advance(f"small fit beforehand: {approach}", 0)
            small = {name: min(n, job.key["problem"][name]) for name, n in {"n_train": 120, "n_test": 30}.items()}
            attempt(partial(job.run, {**job.key["problem"], **small}))
            advance("", 1)
    print(f"small fits beforehand, compilation included: {time.perf_counter() - start:.1f} s", flush=True)


def jobs_by_part(options: argparse.Namespace) -> dict[tuple[str, str], list[Job]]:
    """(experiment, its task type or swept setting) -> its runs."""
    parts: dict[tuple[str, str], list[Job]] = {}
    for name in options.experiments:
        if name == "sweeps":
            points = experiments.sweep_points(options.quick, options.base, options.sweeps)
            parts |= {(name, sweep): list(sweep_jobs(points[sweep], options)) for sweep in points}
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
