"""Where do the ways to train for several tasks at once pay: task_weighting, sam_rho and pretext?

    python benchmarks/bench_training.py --quick
    python benchmarks/bench_training.py --draws 3

Every way is the default of one small MultiTab-Net with one option changed. Printed is its RMSE on new rows, without
noise where the generator knows it, over that of the default on the same draw: the geometric mean over tasks and draws,
and the standard error of that over draws in percent. Below 1 the option pays.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from bench_accuracy import describe_machine, positive
from mttab import MultiTabNetRegressor
from mttab.datasets import make_multitask_regression, make_task_groups

N_TEST = 1000
NETWORK: dict[str, Any] = {
    **{"embedding_dim": 16, "n_blocks": 1, "mlp_dim": 64, "head_dim": 32, "n_members": 1},
    **{"early_stopping": True, "n_jobs": 1, "device": "cpu"},
}
EPOCHS = {"steps": 30, "pretext": 100}  # of the tasks; so few for the steps because some of them are slow
WEIGHTINGS = ("uncertainty", "upgrad", "mgda", "aligned_mtl", "imtlg", "pcgrad", "config", "graddrop")
STEPS: dict[str, dict[str, Any]] = {
    "default": {},
    **{name: {"task_weighting": name} for name in WEIGHTINGS},
    **{f"sam_rho={rho}": {"sam_rho": rho} for rho in (0.02, 0.1)},
}
PRETEXTS: dict[str, dict[str, Any]] = {
    "default": {},
    "during": {"pretext": "during"},
    "during, weight 0.3": {"pretext": "during", "pretext_weight": 0.3},
    "before, 30 epochs": {"pretext": "before", "pretext_epochs": 30},
}
QUICK = ("default", "upgrad", "sam_rho=0.02", "during")


class Problem(NamedTuple):
    """Rows to train on, NaN where there is no label, new rows, and the row tasks of both or None."""

    X: np.ndarray
    Y: np.ndarray
    X_test: np.ndarray
    Y_test: np.ndarray
    task: np.ndarray | None = None
    task_test: np.ndarray | None = None


def target_tasks(draw: int, n: int = 300, **settings: Any) -> Problem:
    """Three targets with eight features; every target in units of its own deviation."""
    options: dict[str, Any] = {"degree": [1, 2, 3], "noise": 0.1, "noise_unit": "label_sd"} | settings
    tasks = make_multitask_regression(n, 8, 3, **options, as_frame=False, return_bunch=True, random_state=draw)
    new = tasks.sample(N_TEST, random_state=draw + 1000, return_bunch=True)
    scale = new.noise_free.std(axis=0)
    return Problem(tasks.data, tasks.target / scale, new.data, new.noise_free / scale)


def row_tasks(draw: int) -> Problem:
    """Six tasks of 50 rows, four of which share a function and two another one."""
    options: dict[str, Any] = {"group_sizes": (4, 2), "noise": 0.1, "return_bunch": True, "random_state": draw}
    tasks = make_task_groups(50, **options)
    X_test, y_test = tasks.sample(N_TEST // 5, random_state=draw + 1000)
    features = [name for name in tasks.data.columns if name != "task"]
    parts = [
        (X[features].to_numpy(dtype=float), np.asarray(y, dtype=float)[:, None], X["task"].to_numpy())
        for X, y in ((tasks.data, tasks.target), (X_test, y_test))
    ]
    return Problem(*parts[0][:2], *parts[1][:2], parts[0][2], parts[1][2])


def few_labels(draw: int, n_labels: int = 60, n_rows: int = 2000, redundant: bool = True) -> Problem:
    """Labels for some of the rows; 24 features that mix three hidden ones, with noise, or those three themselves."""
    tasks = make_multitask_regression(
        n_rows, 3, 3, degree=[1, 2, 2], noise=0.1, noise_unit="label_sd",
        as_frame=False, return_bunch=True, random_state=draw,
    )  # fmt: skip
    new = tasks.sample(N_TEST, random_state=draw + 1000, return_bunch=True)
    rng = np.random.default_rng(draw)
    mixture = rng.normal(size=(3, 24)) / np.sqrt(3.0)
    X, X_test = (x @ mixture + 0.5 * rng.normal(size=(len(x), 24)) if redundant else x for x in (tasks.data, new.data))
    scale = new.noise_free.std(axis=0)
    Y = np.where(np.arange(n_rows)[:, None] < n_labels, tasks.target / scale, np.nan)
    return Problem(X, Y, X_test, new.noise_free / scale)


STEP_PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "correlation 0.9": lambda draw: target_tasks(draw, correlation=0.9),
    "correlation -0.45": lambda draw: target_tasks(draw, correlation=-0.45),
    "noise 1": lambda draw: target_tasks(draw, noise=1.0),
    "one noisy": lambda draw: target_tasks(draw, noise=[0.1, 0.1, 3.0]),
    "row tasks": row_tasks,
}
PRETEXT_PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "60 of 2000, redundant": few_labels,
    "60 of 2000, independent": lambda draw: few_labels(draw, redundant=False),
    "60 of 60, redundant": lambda draw: few_labels(draw, n_rows=60),
    "500 of 2000, redundant": lambda draw: few_labels(draw, n_labels=500),
    "300 of 300, independent": lambda draw: few_labels(draw, n_labels=300, n_rows=300, redundant=False),
}


def errors(problem: Problem, options: dict[str, Any], seed: int, max_epochs: int) -> np.ndarray:
    """RMSE on the new rows of every task."""
    is_used = np.ones(len(problem.X), dtype=bool) if options.get("pretext") else ~np.isnan(problem.Y).all(axis=1)
    task = None if problem.task is None else problem.task[is_used]
    net = MultiTabNetRegressor(**NETWORK | options, max_epochs=max_epochs, random_state=seed)
    net.fit(problem.X[is_used], problem.Y[is_used], task=task)
    predicted = np.asarray(net.predict(problem.X_test, task=problem.task_test))
    squares = (predicted.reshape(problem.Y_test.shape) - problem.Y_test) ** 2
    if problem.task_test is None:
        return np.sqrt(squares.mean(axis=0))
    return np.array([np.sqrt(squares[problem.task_test == t].mean()) for t in np.unique(problem.task_test)])


def compare(
    problems: dict[str, Callable[[int], Problem]], ways: dict[str, dict[str, Any]], n_draws: int, max_epochs: int
) -> Iterator[dict[str, Any]]:
    for name, draw_problem in problems.items():
        for draw in range(n_draws):
            problem = draw_problem(draw)
            for way, options in ways.items():
                start = time.perf_counter()
                rmse = errors(problem, options, draw, max_epochs)
                seconds = time.perf_counter() - start
                yield {"problem": name, "draw": draw, "way": way, "rmse": rmse.tolist(), "seconds": seconds}


def ratio_table(runs: pd.DataFrame) -> pd.DataFrame:
    """RMSE over that of the default with its standard error in percent, and seconds over those of the default."""
    log_rmse = runs.assign(value=[np.log(rmse).mean() for rmse in runs["rmse"]]).pivot_table(
        index=["problem", "draw"], columns="way", values="value", sort=False
    )
    gain = log_rmse.sub(log_rmse["default"], axis=0).groupby("problem", sort=False)
    mean, error = np.exp(gain.mean()), 100.0 * gain.sem().fillna(0.0)
    of_default = np.exp(log_rmse["default"].groupby("problem", sort=False).mean())
    cells = {way: [f"{m:.3f} ± {e:.1f}" for m, e in zip(mean[way], error[way], strict=True)] for way in mean}
    cells["default"] = [f"RMSE {value:.3f}" for value in of_default]
    table = pd.DataFrame(cells, index=mean.index).T
    seconds = runs.groupby("way", sort=False)["seconds"].mean()
    table["time"] = [f"{value:.1f}" for value in seconds / seconds["default"]]
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(EPOCHS), default=list(EPOCHS), help="which of the two")
    parser.add_argument("--draws", type=positive, default=3, metavar="N", help="draws of each problem")
    parser.add_argument("--quick", action="store_true", help="one draw of the first problems, a few ways")
    parser.add_argument("--output", type=Path, default=Path("training.json"), help="all results, as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {}
    for title, problems, ways in (("steps", STEP_PROBLEMS, STEPS), ("pretext", PRETEXT_PROBLEMS, PRETEXTS)):
        if title not in options.tables:
            continue
        if options.quick:
            problems, ways = dict(list(problems.items())[:2]), {name: ways[name] for name in QUICK if name in ways}
        runs = pd.DataFrame(compare(problems, ways, 1 if options.quick else options.draws, EPOCHS[title]))
        print(f"\n{title}: RMSE / RMSE of the default\n\n{ratio_table(runs).to_string()}", flush=True)
        found[title] = json.loads(runs.to_json(orient="records"))
    options.output.write_text(json.dumps({**describe_machine(()), **found}, indent=1) + "\n", encoding="utf-8")
    print(f"\nall results: {options.output}")


if __name__ == "__main__":
    main()
