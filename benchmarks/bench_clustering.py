"""Are groups of tasks found, what is a model per group worth, are new tasks placed right, and what does it cost?

    python benchmarks/bench_clustering.py                  # 10 draws, regression and two classes
    python benchmarks/bench_clustering.py --draws 3 --kinds regression

The setting of RMB-CLE: 25 tasks in groups of 9, 6, 5, 3 and 2, five features, 100 training and 200 test rows per task.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
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
KINDS = {"regression": "Regressor", "binary": "Classifier"}
TRUE_GROUPS = "one per true group"


def draw_tasks(kind: str, draw: int, group_sizes: tuple[int, ...] = GROUP_SIZES) -> Any:
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


def compare(kind: str, n_draws: int) -> Iterator[dict[str, Any]]:
    for draw in range(n_draws):
        tasks = draw_tasks(kind, draw)
        X_test, y_test = tasks.sample(N_TEST, random_state=draw + 1000)
        for name, fit in approaches(kind, draw).items():
            start = time.perf_counter()
            model = fit(tasks)
            X = with_group(X_test, tasks.task_group) if name == TRUE_GROUPS else X_test
            row = {"kind": kind, "draw": draw, "approach": name, "error": error_of(kind, y_test, model.predict(X))}
            row["seconds"] = time.perf_counter() - start
            if hasattr(model, "task_labels_"):
                row["adjusted_rand"] = adjusted_rand_score(tasks.task_group, model.task_labels_)
                row["n_clusters"] = model.n_clusters_
            yield row


def place_new_tasks(kind: str, n_draws: int) -> Iterator[dict[str, Any]]:
    """Whether a new task of each group, which fit has not seen, is placed in it by its first rows."""
    for draw in range(n_draws):
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


def time_cross_errors(n_tasks: int = 100) -> dict[str, float]:
    """Seconds of processor time to compare and cluster the tasks, with models of the groups that cost nothing."""
    tasks = draw_tasks("regression", 0, (n_tasks // 5,) * 5)
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
    by_approach = runs.groupby("approach", sort=False)
    return pd.DataFrame(
        {
            "error": error.mean(),
            "/ true groups": error.mean() / error[TRUE_GROUPS].mean(),
            "in the worst draw": ratio.max(),
            "adjusted Rand": by_approach["adjusted_rand"].mean(),
            "lowest": by_approach["adjusted_rand"].min(),
            "clusters": by_approach["n_clusters"].mean(),
            "seconds": by_approach["seconds"].mean(),
        }
    ).loc[list(error.columns)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=positive, default=10, metavar="N")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--output", type=Path, default=Path("clustering.json"), help="all results, as JSON")
    options = parser.parse_args(arguments)
    seconds = time_cross_errors()
    print(
        "100 tasks of 100 rows, compared and clustered by one thread: "
        + ", ".join(f"{k} {v:.1f} s" for k, v in seconds.items())
    )
    compared: list[dict[str, Any]] = []
    placed: list[dict[str, Any]] = []
    for kind in options.kinds:
        compared += compare(kind, options.draws)
        table = summarise(pd.DataFrame([run for run in compared if run["kind"] == kind]))
        print(f"\n{kind}, {options.draws} draws\n\n{table.round(4).to_string()}", flush=True)
        placed += place_new_tasks(kind, options.draws)
        right = pd.DataFrame([run for run in placed if run["kind"] == kind]).groupby("rows")["is_right"].mean()
        print("\nnew tasks placed right: " + ", ".join(f"{share:.0%} by {n} rows" for n, share in right.items()))
    results = {"seconds_of_100_tasks": seconds, "compared": compared, "placed": placed}
    options.output.write_text(json.dumps({**describe_machine(()), **results}, indent=1) + "\n", encoding="utf-8")
    print(f"\nall results: {options.output}")


if __name__ == "__main__":
    main()
