"""When do tasks help one another, and which of them do not belong?
================================================================

Without arguments: ten made-up tasks, eight that resemble one another and two planted outliers. Three approaches see the
same rows: one model that ignores the task (pooled), one model per task, and R-MTGB, which is told the task of each row.
With a table of your own::

    python examples/quickstart.py --table students.csv --task school --target score
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

N_SHOWN = 20  # tasks in the figure and in the printed list


@dataclass
class Problem:
    """Training and test rows of many tasks, and how to model them."""

    train: pd.DataFrame  # features and the task column
    y_train: np.ndarray  # numbers, or the codes 0 … K−1 of K classes
    test: pd.DataFrame
    y_test: np.ndarray
    task: str  # name of the task column
    n_classes: int  # 0 for regression
    seed: int
    planted: list = field(default_factory=list)  # tasks known to be outliers

    def model(self, **options):
        """An untrained R-MTGB model of the right kind."""
        kind = RMTGBClassifier if self.n_classes else RMTGBRegressor
        return kind(random_state=self.seed, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Two sources of data


def draw_tasks(seed: int) -> Problem:
    """Ten tasks of 300 training rows: 0 to 7 share most of one random function, 8 and 9 follow another."""
    tasks = make_task_groups(300, group_sizes=(8, 2), noise=0.1, return_bunch=True, random_state=seed)
    test, y_test = tasks.sample(1000, random_state=seed + 1)
    return Problem(
        *(tasks.data, tasks.target.to_numpy(), test, y_test.to_numpy()),
        task="task",
        n_classes=0,
        seed=seed,
        planted=[int(task) for task in tasks.outlier_tasks],
    )


def read_table(path: Path, task: str, target: str, kind: str, drop: list[str], seed: int) -> Problem:
    """Rows of a CSV or parquet file; a random fifth of every task is kept for testing."""
    table = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
    for column in (task, target, *drop):
        if column not in table:
            raise SystemExit(f"{path} has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    table = table.drop(columns=drop).dropna(subset=[task, target])
    table = table.sample(frac=1.0, random_state=seed, ignore_index=True)

    y, n_classes = table[target].to_numpy(), 0
    if kind == "classes" or (kind == "auto" and holds_classes(table[target])):
        y, classes = pd.factorize(table[target], sort=True)
        n_classes = len(classes)
    X = table.drop(columns=target)
    for column in X.columns.drop(task):
        if pd.api.types.is_datetime64_any_dtype(X[column]):
            X[column] = (X[column] - X[column].min()).dt.total_seconds()
        elif not pd.api.types.is_numeric_dtype(X[column]):
            X[column] = X[column].astype("category")

    rows_of_task = X.groupby(task, observed=True)[task]
    is_test = (rows_of_task.cumcount() < np.floor(0.2 * rows_of_task.transform("size").astype(float))).to_numpy()
    return Problem(X[~is_test], y[~is_test], X[is_test], y[is_test], task, n_classes, seed)


def holds_classes(y: pd.Series) -> bool:
    """Whether a label column holds classes: anything but numbers, or the numbers 0 and 1 only."""
    if pd.api.types.is_bool_dtype(y) or not pd.api.types.is_numeric_dtype(y):
        return True
    return set(y.unique()) <= {0, 1}


# ---------------------------------------------------------------------------------------------------------------------
# Three approaches: predictions for the test rows, of shape (n,) for regression and (n, n_classes) for classes


def predict(model, X: pd.DataFrame, n_classes: int) -> np.ndarray:
    """Predicted values or probabilities; a class that the model has not seen has probability 0."""
    if not n_classes:
        return model.predict(X)
    probabilities = np.zeros((len(X), n_classes))
    probabilities[:, model.classes_] = model.predict_proba(X)
    return probabilities


def predict_pooled(problem: Problem) -> np.ndarray:
    """One model of all rows that never hears of tasks."""
    model = problem.model().fit(problem.train.drop(columns=problem.task), problem.y_train)
    return predict(model, problem.test.drop(columns=problem.task), problem.n_classes)


def predict_per_task(problem: Problem) -> np.ndarray:
    """One model per task; where a task has too little to learn from, its mean or its class frequencies."""
    k = problem.n_classes
    predictions = np.empty((len(problem.test), k) if k else len(problem.test))
    train_rows = problem.train.groupby(problem.task, observed=True).indices
    for task, rows in problem.test.groupby(problem.task, observed=True).indices.items():
        X = problem.train.drop(columns=problem.task).iloc[train_rows[task]]
        y = problem.y_train[train_rows[task]]
        if len(y) < 10 or len(np.unique(y)) < 2:
            predictions[rows] = (np.bincount(y, minlength=k) + 1) / (len(y) + k) if k else y.mean()
        else:
            X_test = problem.test.drop(columns=problem.task).iloc[rows]
            predictions[rows] = predict(problem.model().fit(X, y), X_test, k)
    return predictions


def fit_rmtgb(problem: Problem):
    """One model of all rows that is told which column names the task."""
    return problem.model(task_column=problem.task).fit(problem.train, problem.y_train)


# ---------------------------------------------------------------------------------------------------------------------
# What came out


def error_function(n_classes: int) -> tuple[str, Callable[[pd.Series], float]]:
    """The error's name, and how it comes from the losses of some rows."""
    if n_classes:
        return "log loss", lambda losses: float(losses.mean())
    return "RMSE", lambda losses: float(np.sqrt(losses.mean()))


def row_losses(problem: Problem, predictions: np.ndarray) -> np.ndarray:
    """Squared error or minus log-probability of each test row."""
    if not problem.n_classes:
        return (problem.y_test - predictions) ** 2
    return -np.log(np.clip(predictions[np.arange(len(predictions)), problem.y_test], 1e-15, 1.0))


def print_report(problem: Problem, losses: pd.DataFrame, outlier_score: pd.Series, outliers: list) -> None:
    """Errors per approach, then the tasks that look least like the others."""
    name, error = error_function(problem.n_classes)
    is_outlier = problem.test[problem.task].isin(outliers).to_numpy()
    groups = {"inliers": ~is_outlier, "outliers": is_outlier, "all": np.ones(len(losses), dtype=bool)}
    table = pd.DataFrame({group: losses[rows].apply(error) for group, rows in groups.items() if rows.any()})
    origin = "planted" if problem.planted else "score above 0.5"
    print(f"{len(problem.train)} training and {len(problem.test)} test rows, {len(outlier_score)} tasks")
    print(f"outliers ({origin}): {', '.join(map(str, outliers)) or 'none'}\n")
    print(f"test {name}\n{table.to_string(float_format='{:.4f}'.format)}\n")

    shown = outlier_score.head(N_SHOWN)
    print("outlier score, 0 to 1" + (f" (highest {N_SHOWN})" if len(outlier_score) > N_SHOWN else ""))
    for task, score in shown.items():
        print(f"  {task!s:<24.24} {score:.3f} {'#' * round(30 * score)}")


def save_figure(problem: Problem, losses: pd.DataFrame, outlier_score: pd.Series, outliers: list, path: Path) -> None:
    """Outlier scores on the left, errors per task on the right, one line per task."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("\nno figure: matplotlib is missing; pip install 'mttab[plot]'")
        return
    name, error = error_function(problem.n_classes)
    shown = outlier_score.head(N_SHOWN).iloc[::-1]
    of_task = losses.groupby(problem.test[problem.task].to_numpy()).agg(error).reindex(shown.index)
    place = np.arange(len(shown))

    figure, (left, right) = plt.subplots(
        *(1, 2), figsize=(9.5, 1.9 + 0.27 * len(shown)), sharey=True, layout="constrained", width_ratios=(2, 3)
    )
    left.barh(place, shown, height=0.62, color=np.where(shown.index.isin(outliers), "#c8553d", "#9db4c0"))
    left.axvline(0.5, color="0.4", linewidth=0.8, linestyle=":")
    left.set(xlim=(0, 1), xlabel="outlier score", ylabel=problem.task)
    left.set_yticks(place, [f"{task!s:.24}" for task in shown.index])
    left.set_title("Which tasks do not belong?", loc="left", fontsize=11)

    right.hlines(place, of_task.min(axis=1), of_task.max(axis=1), color="0.88", linewidth=3)
    looks = {"pooled": ("s", "#7a8b99", 0.2), "per task": ("^", "#e0a526", 0.0), "R-MTGB": ("o", "#1b6f8a", -0.2)}
    for approach, (marker, colour, shift) in looks.items():
        right.scatter(of_task[approach], place + shift, marker=marker, s=34, color=colour, label=approach, zorder=3)
    right.set(xlabel=f"test {name} (further left is better)")
    right.set_title("What does sharing change?", loc="left", fontsize=11)
    figure.legend(*right.get_legend_handles_labels(), ncols=3, frameon=False, loc="outside lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.5 / len(shown))
    if len(outlier_score) > N_SHOWN:
        figure.suptitle(
            f"The {N_SHOWN} of {len(outlier_score)} tasks with the highest outlier score",
            x=0.01,
            ha="left",
            fontsize=10,
        )
    figure.savefig(path, dpi=150)
    print(f"\nfigure: {path}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, metavar="FILE", help="a CSV or parquet file, instead of made-up tasks")
    parser.add_argument("--task", metavar="COLUMN", help="its column that says which task a row belongs to")
    parser.add_argument("--target", metavar="COLUMN", help="its column to predict; rows without a value are left out")
    parser.add_argument("--drop", metavar="COLUMN", nargs="+", default=[], help="columns that are not features")
    parser.add_argument(
        "--kind", choices=("auto", "regression", "classes"), default="auto", help="what the target holds"
    )
    parser.add_argument("--output", type=Path, default=Path("quickstart.png"), help="figure (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.table and not (arguments.task and arguments.target):
        parser.error("--table needs --task and --target")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.table:
        columns = (arguments.task, arguments.target, arguments.kind, arguments.drop)
        problem = read_table(arguments.table, *columns, arguments.seed)
    else:
        problem = draw_tasks(arguments.seed)

    model = fit_rmtgb(problem)
    predictions = {
        "pooled": predict_pooled(problem),
        "per task": predict_per_task(problem),
        "R-MTGB": predict(model, problem.test, problem.n_classes),
    }
    losses = pd.DataFrame({approach: row_losses(problem, p) for approach, p in predictions.items()})
    outlier_score = pd.Series(model.outlier_score_, index=model.tasks_).sort_values(ascending=False, kind="stable")
    outliers = problem.planted or outlier_score.index[outlier_score > 0.5].tolist()

    print_report(problem, losses, outlier_score, outliers)
    save_figure(problem, losses, outlier_score, outliers, arguments.output)


if __name__ == "__main__":
    main()
