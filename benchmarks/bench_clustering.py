"""Are groups of tasks found, what is a model per group worth, are new tasks placed right, and what does it cost?

    python benchmarks/bench_clustering.py                  # 10 draws, regression and two classes
    python benchmarks/bench_clustering.py --draws 3 --kinds regression
    python benchmarks/bench_clustering.py --first-draw 200 --draws 20 --approaches clusters

The setting of RMB-CLE: 25 tasks in groups of 9, 6, 5, 3 and 2, five features, 100 training and 200 test rows per task.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.dummy import DummyRegressor
from sklearn.metrics import adjusted_rand_score

import mttab
from bench_accuracy import describe_machine, positive
from mttab.datasets import make_task_groups

GROUP_SIZES = (9, 6, 5, 3, 2)
LENGTH_SCALES = (0.1, 0.5)
N_TRAIN, N_TEST = 100, 200
N_FIRST_ROWS = (3, 5, 10, 20)
N_TIMED_TASKS = 100
KINDS = {"regression": "Regressor", "binary": "Classifier"}
TRUE_GROUPS = "one per true group"


def draw_tasks(kind: str, draw: int, group_sizes: tuple[int, ...]) -> Any:
    return make_task_groups(
        N_TRAIN,
        group_sizes=group_sizes,
        length_scale=LENGTH_SCALES,
        task_type=kind,
        random_state=draw,
        return_bunch=True,
    )


def approaches(kind: str, draw: int) -> dict[str, Callable[[Any], Any]]:
    """Name -> a function that fits on a draw; everything boosts with the defaults of this package."""

    def make(name: str, **options: Any) -> Any:
        known = {"task_column": "task", "random_state": draw}
        return getattr(mttab, name + KINDS[kind])(**known, **options)

    def fit(model: Any) -> Callable[[Any], Any]:
        return lambda tasks: model.fit(tasks.data, tasks.target)

    published = getattr(mttab, "TaskCluster" + KINDS[kind]).paper_parameters()
    return {
        TRUE_GROUPS: lambda tasks: make("PerTask").fit(with_group(tasks.data, tasks.task_group), tasks.target),
        "clusters": fit(make("TaskCluster")),
        "clusters, as published": fit(make("TaskCluster", **published)),
        "pooled": fit(make("Pooled")),
        "task as a feature": fit(make("TaskAsFeature")),
        "one per task": fit(make("PerTask")),
        "R-MTGB": fit(make("RMTGB")),
    }


def with_group(X: pd.DataFrame, group: np.ndarray) -> pd.DataFrame:
    """The group instead of the task."""
    return X.assign(task=group[X["task"].to_numpy()])


def error_of(kind: str, y: pd.Series, predicted: np.ndarray) -> float:
    """RMSE, or the share of wrong classes, over the rows of all tasks."""
    if kind == "regression":
        return float(np.sqrt(np.mean((y.to_numpy() - predicted) ** 2)))
    return float(np.mean(y.to_numpy() != predicted))


def compare(kind: str, draws: range, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    for draw in draws:
        tasks = draw_tasks(kind, draw, GROUP_SIZES)
        X_test, y_test = tasks.sample(N_TEST, random_state=draw + 1000)
        for name, fit in approaches(kind, draw).items():
            if name not in wanted and name != TRUE_GROUPS:
                continue
            start = time.perf_counter()
            model = fit(tasks)
            X = with_group(X_test, tasks.task_group) if name == TRUE_GROUPS else X_test
            row = {"kind": kind, "draw": draw, "approach": name, "error": error_of(kind, y_test, model.predict(X))}
            row["seconds"] = time.perf_counter() - start
            if hasattr(model, "task_labels_"):
                row["adjusted_rand"] = adjusted_rand_score(tasks.task_group, model.task_labels_)
                row["n_clusters"] = model.n_clusters_
            yield row


def place_new_tasks(kind: str, draws: range) -> Iterator[dict[str, Any]]:
    """Whether a new task of each group, which fit has not seen, is placed in it by its first rows."""
    for draw in draws:
        tasks = draw_tasks(kind, draw, tuple(size + 1 for size in GROUP_SIZES))
        new = np.cumsum([size + 1 for size in GROUP_SIZES]) - 1
        is_new = tasks.data["task"].isin(new)
        known = {"task_column": "task", "random_state": draw}
        model = getattr(mttab, "TaskCluster" + KINDS[kind])(**known).fit(tasks.data[~is_new], tasks.target[~is_new])
        for n_rows in N_FIRST_ROWS:
            first = tasks.data[is_new].groupby("task").head(n_rows).index
            placed = model.place_task(tasks.data.loc[first], tasks.target.loc[first])
            for task, group in placed.items():
                members = tasks.task_group[model.tasks_[model.task_labels_ == group]]
                is_right = np.bincount(members).argmax() == tasks.task_group[task]
                yield {"kind": kind, "draw": draw, "rows": n_rows, "task": task, "is_right": bool(is_right)}


def time_cross_errors() -> dict[str, float]:
    """Seconds of processor time to compare and cluster the tasks, with models of the groups that cost nothing."""
    tasks = draw_tasks("regression", 0, (N_TIMED_TASKS // 5,) * 5)
    seconds = {}
    ways: dict[str, dict[str, Any]] = {"5 folds": {}, "training rows, as published": {"n_folds": None}}
    for name, options in ways.items():
        model = mttab.TaskClusterRegressor(DummyRegressor(), task_column="task", random_state=0, n_jobs=1, **options)
        model.fit(tasks.data, tasks.target)  # compiles
        start = time.process_time()
        model.fit(tasks.data, tasks.target)
        seconds[name] = time.process_time() - start
    return seconds


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over draws; the error also over that of one model per true group, of the means and in the worst draw."""
    error = runs.pivot_table(index="draw", columns="approach", values="error", sort=False)
    ratio = error.div(error[TRUE_GROUPS], axis=0)
    table = pd.DataFrame(
        {
            "error": error.mean(),
            "/ true groups": error.mean() / error[TRUE_GROUPS].mean(),
            "in the worst draw": ratio.max(),
            "seconds": runs.groupby("approach", sort=False)["seconds"].mean(),
        }
    ).loc[list(error.columns)]
    if "adjusted_rand" in runs:
        found = runs.groupby("approach", sort=False)
        table["adjusted Rand"], table["lowest"] = found["adjusted_rand"].mean(), found["adjusted_rand"].min()
        table["clusters"] = found["n_clusters"].mean()
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in approaches("regression", 0) if name != TRUE_GROUPS]
    parser.add_argument("--draws", type=positive, default=10, metavar="N")
    parser.add_argument("--first-draw", type=int, default=0, metavar="D", help="draws D … D+N−1 (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument(
        "--approaches", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"some of {', '.join(names)}; one model per true group is always there, and where some are named no times "
        "are taken and no new tasks placed",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("clustering.json"), help="all results, as JSON")
    options = parser.parse_args(arguments)
    draws = range(options.first_draw, options.first_draw + options.draws)
    is_whole = options.approaches == names
    seconds = time_cross_errors() if is_whole else {}
    if seconds:
        said = ", ".join(f"{k} {v:.1f} s" for k, v in seconds.items())
        print(f"{N_TIMED_TASKS} tasks of {N_TRAIN} rows, compared and clustered by one thread: {said}")
    compared: list[dict[str, Any]] = []
    placed: list[dict[str, Any]] = []
    for kind in options.kinds:
        compared += compare(kind, draws, options.approaches)
        table = summarise(pd.DataFrame([run for run in compared if run["kind"] == kind]))
        print(f"\n{kind}, draws {draws[0]} to {draws[-1]}\n\n{table.round(4).to_string()}", flush=True)
        if is_whole:
            placed += place_new_tasks(kind, draws)
            right = pd.DataFrame([run for run in placed if run["kind"] == kind]).groupby("rows")["is_right"].mean()
            print("\nnew tasks placed right: " + ", ".join(f"{share:.0%} by {n} rows" for n, share in right.items()))
    results = {"seconds_to_compare": seconds, "compared": compared, "placed": placed}
    options.output.write_text(json.dumps({**describe_machine(()), **results}, indent=1) + "\n", encoding="utf-8")
    print(f"\nall results: {options.output}")


if __name__ == "__main__":
    main()
