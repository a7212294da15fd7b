"""How many rows does a new task need?
===================================

Nine tasks are known well, a tenth has only a few rows so far. Three approaches see the same rows: one model that
ignores the task (pooled), one model of the new task alone, and R-MTGB. The figure shows the error on new rows of the
tenth task against the number of its rows that were there to learn from::

    python examples/new_task.py
    python examples/new_task.py --draws 3 --quick       # three of the seven numbers of rows

MTTAB_QUICK=1 in the environment means ``--draws 2 --quick``.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

from mttab import RMTGBRegressor
from mttab.datasets import make_task_groups

QUICK = bool(os.environ.get("MTTAB_QUICK"))
N_ROWS = (2, 5, 10, 20, 50, 100, 200)
N_OTHERS = 200  # rows of every other task
NEW = 4  # the task that is new
ONE_BLOCK = {"max_iter_partition": 0, "max_iter_task": 0}  # shared trees only


def draw(seed: int, share: float) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]:
    """Ten tasks that share part of a function, each with noise; new rows of the tenth task to test on."""
    options = {"noise": 0.1, "noise_unit": "label_sd", "return_bunch": True, "random_state": seed}
    tasks = make_task_groups(N_OTHERS, group_sizes=(10,), shared_share=share, **options)
    X_test, y_test = tasks.sample(1000, random_state=seed + 1)
    is_new = (X_test["task"] == NEW).to_numpy()
    return tasks.data, tasks.target.to_numpy(), X_test[is_new], y_test.to_numpy()[is_new]


def errors(seed: int, share: float, sizes: tuple[int, ...]) -> list[dict]:
    """Test RMSE of the new task for every approach and number of its rows."""
    X, y, X_test, y_test = draw(seed, share)
    place = X.groupby("task").cumcount().to_numpy()
    known = {"random_state": seed}
    rows = []
    for n in sizes:
        use = ((X["task"] != NEW) | (place < n)).to_numpy()
        is_new = ((X["task"] == NEW) & (place < n)).to_numpy()
        found = {
            "R-MTGB": RMTGBRegressor(task_column="task", **known).fit(X[use], y[use]).predict(X_test),
            "pooled": RMTGBRegressor(**ONE_BLOCK, **known)
            .fit(X[use].drop(columns="task"), y[use])
            .predict(X_test.drop(columns="task")),
            "the new task alone": RMTGBRegressor(min_samples_leaf=5, **ONE_BLOCK, **known)
            .fit(X[is_new].drop(columns="task"), y[is_new])
            .predict(X_test.drop(columns="task")),
        }
        for approach, predicted in found.items():
            error = float(np.sqrt(np.mean((y_test - predicted) ** 2)))
            rows.append({"draw": seed, "rows of the new task": n, "approach": approach, "RMSE": error})
    return rows


def draw_figure(runs: pd.DataFrame, path: Path) -> None:
    """One line per approach with its standard error over draws."""
    import matplotlib

    matplotlib.use("Agg")
    from mttab.plotting import NewTaskDisplay

    display = NewTaskDisplay.from_results(runs, n_rows="rows of the new task", error="RMSE")
    display.ax_.set_title(f"A task with few rows gains from the others, which have {N_OTHERS} each", fontsize=11)
    display.figure_.savefig(path, dpi=150)
    print(f"\nfigure: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2 if QUICK else 20, help="draws of ten tasks to average over")
    parser.add_argument("--share", type=float, default=0.7, help="share of the common function in a task's own, 0 to 1")
    parser.add_argument("--quick", action="store_true", default=QUICK, help="three numbers of rows only")
    parser.add_argument("--figure", type=Path, default=Path("new_task.png"))
    options = parser.parse_args()
    sizes = N_ROWS[::3] if options.quick else N_ROWS
    runs = pd.DataFrame([row for seed in range(options.draws) for row in errors(seed, options.share, sizes)])
    table = runs.groupby(["rows of the new task", "approach"])["RMSE"].mean().unstack()
    table = table[["R-MTGB", "pooled", "the new task alone"]]
    print(f"test RMSE of the new task, mean of {options.draws} draws\n\n{table.round(3).to_string()}")
    try:
        draw_figure(runs, options.figure)
    except ImportError:
        print("no figure: matplotlib is not installed; pip install 'mttab[plot]'")


if __name__ == "__main__":
    main()
