"""What another setting would cost, or gain, on tables that no default is measured by elsewhere.

    python benchmarks/bench_defaults.py learning_rate=0.1 learning_rate=0.2
    python benchmarks/bench_defaults.py n_averaged=4 learning_rate=0.1,n_averaged=3 --splits 6
    python benchmarks/bench_defaults.py learning_rate=0.15 --base n_averaged=1 --tables friedman slopes --large

Made-up row tasks and three small tables that come with scikit-learn. R-MTGB with default options, or those of
``--base``, and with others, all fitted in turn on the same 60 % of the rows: loss (RMSE, or log loss) on the other rows
and processor time of the fit, over those of the base; geometric means over the splits of a table, then over tables.
"""

import argparse
import ast
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split

import mttab
from bench_accuracy import describe_machine, positive, show_ratios

Table = tuple[pd.DataFrame, np.ndarray]
TEST_SHARE = 0.4


def in_tasks(X: np.ndarray, y: np.ndarray, *, n_tasks: int, seed: int) -> Table:
    """Rows dealt to tasks, each with a level and a slope of its own, or, of classes, with labels that are wrong."""
    rng = np.random.default_rng(seed)
    task = rng.integers(0, n_tasks, len(X))
    if y.dtype.kind == "f":
        level, slope = 0.5 * y.std() * rng.normal(size=n_tasks), 1 + 0.15 * rng.normal(size=n_tasks)
        y = y * slope[task] + level[task]
    else:
        is_wrong = rng.random(len(y)) < 0.15 * rng.random(n_tasks)[task]
        y = np.where(is_wrong, rng.integers(0, y.max() + 1, len(y)), y)
    return pd.DataFrame(X).add_prefix("x").assign(task=task), y


def two_slopes(
    n_tasks: int,
    n_rows: int,
    n_features: int,
    seed: int,
    *,
    n_categories: int = 0,
    noise: float = 0.5,
    cut: float = 0.0,
) -> Table:
    """Tasks of two groups that differ in their slopes, and a little within; ``cut``: share of the class 0."""
    rng, n = np.random.default_rng(seed), n_tasks * n_rows
    X, task = rng.normal(size=(n, n_features)), rng.permutation(np.repeat(np.arange(n_tasks), n_rows))
    X[:, :n_categories] = np.floor(2 * np.abs(X[:, :n_categories]))
    common, group, own = (rng.normal(size=(k, n_features)) for k in (1, 2, n_tasks))
    slope = common + group[rng.integers(0, 2, n_tasks)] + 0.4 * own
    y = (
        (X * slope[task]).sum(axis=1) / np.sqrt(n_features)
        + np.sin(2 * X[:, 0]) * X[:, 1]
        + rng.normal(size=n_tasks)[task]
    )
    y += noise * y.std() * rng.normal(size=n)
    frame = pd.DataFrame(X).add_prefix("x").assign(task=task)
    frame = frame.astype({f"x{j}": "category" for j in range(n_categories)})
    return frame, y if cut == 0.0 else (y > np.quantile(y, cut)).astype(int)


def digits(seed: int) -> Table:
    """Even or odd, from the middle of the picture."""
    bunch = datasets.load_digits()
    return in_tasks(bunch.data[:, 10:40], bunch.target % 2, n_tasks=6, seed=seed)


def classes(
    seed: int, n: int, n_features: int, informative: int, share: float, n_tasks: int, apart: float = 0.8
) -> Table:
    """`make_classification` in tasks."""
    X, y = datasets.make_classification(
        n, n_features, n_informative=informative, n_redundant=2, class_sep=apart, weights=[share], flip_y=0.05,
        random_state=seed,
    )  # fmt: skip
    return in_tasks(X, y, n_tasks=n_tasks, seed=seed)


def groups(
    seed: int, group_sizes: tuple[int, ...], n_samples: int, noise: float = 0.0, task_type: str = "regression"
) -> Table:
    """`make_task_groups`."""
    X, y = mttab.datasets.make_task_groups(
        n_samples, group_sizes=group_sizes, noise=noise, noise_unit="label_sd", task_type=task_type, random_state=seed
    )
    return X, y.to_numpy()


def friedman(seed: int, kind: int, n: int, n_tasks: int, noise: float, **options: int) -> Table:
    """`make_friedman1` to ``3`` in tasks."""
    return in_tasks(
        *getattr(datasets, f"make_friedman{kind}")(n, noise=noise, random_state=seed, **options),
        n_tasks=n_tasks,
        seed=seed,
    )


SMALL: dict[str, Callable[[int], Table]] = {
    "diabetes": lambda seed: in_tasks(*datasets.load_diabetes(return_X_y=True), n_tasks=4, seed=seed),
    "cancer": lambda seed: in_tasks(*datasets.load_breast_cancer(return_X_y=True), n_tasks=5, seed=seed),
    "digits": digits,
    "friedman 1, 4 tasks": lambda seed: friedman(seed, 1, 600, 4, 1.0, n_features=6),
    "friedman 1, 15 tasks": lambda seed: friedman(seed, 1, 2000, 15, 2.0, n_features=10),
    "friedman 1, 40 tasks": lambda seed: friedman(seed, 1, 6000, 40, 1.0, n_features=12),
    "friedman 1, 60 tasks": lambda seed: friedman(seed, 1, 1200, 60, 3.0, n_features=8),
    "friedman 2": lambda seed: friedman(seed, 2, 1500, 8, 100.0),
    "friedman 3": lambda seed: friedman(seed, 3, 3000, 20, 0.2),
    "linear": lambda seed: in_tasks(
        *datasets.make_regression(800, 15, n_informative=8, noise=30, random_state=seed), n_tasks=10, seed=seed
    ),
    "classes, 5 tasks": lambda seed: classes(seed, 1000, 20, 6, 0.5, 5),
    "classes, 12 tasks": lambda seed: classes(seed, 4000, 30, 10, 0.9, 12, 1.0),
    "classes, 30 tasks": lambda seed: classes(seed, 3000, 10, 5, 0.7, 30, 0.5),
    "classes, 3 tasks": lambda seed: classes(seed, 500, 12, 4, 0.6, 3, 1.0),
    "slopes, 190 tasks": lambda seed: two_slopes(190, 16, 14, seed),
    "slopes, 139 tasks": lambda seed: two_slopes(139, 70, 7, seed, n_categories=4),
    "slopes, 2 tasks": lambda seed: two_slopes(2, 300, 30, seed, n_categories=17),
    "slopes, 3 tasks": lambda seed: two_slopes(3, 1000, 8, seed),
    "slopes, 20 tasks, noise": lambda seed: two_slopes(20, 60, 10, seed, noise=2.0),
    "slopes, classes, 8 tasks": lambda seed: two_slopes(8, 500, 10, seed, cut=0.7),
    "slopes, classes, 9 tasks": lambda seed: two_slopes(9, 400, 20, seed, n_categories=2, cut=0.7),
    "slopes, classes, 29 tasks, noise": lambda seed: two_slopes(29, 100, 9, seed, noise=1.5, cut=0.7),
    "two groups": lambda seed: groups(seed, (8, 2), 150, 0.3),
    "three groups": lambda seed: groups(seed, (12, 9, 6), 60, 0.6),
    "two groups, classes": lambda seed: groups(seed, (8, 2), 150, task_type="binary"),
    "three groups, classes": lambda seed: groups(seed, (12, 9, 6), 60, task_type="binary"),
}
LARGE: dict[str, Callable[[int], Table]] = {
    "friedman 1, 25 tasks, large": lambda seed: friedman(seed, 1, 50_000, 25, 2.0, n_features=12),
    "friedman 2, large": lambda seed: friedman(seed, 2, 50_000, 8, 200.0),
    "classes, 10 tasks, large": lambda seed: classes(seed, 50_000, 20, 8, 0.5, 10),
    "classes, 40 tasks, large": lambda seed: classes(seed, 50_000, 15, 5, 0.9, 40, 0.6),
    "slopes, 50 tasks, large": lambda seed: two_slopes(50, 1000, 14, seed, n_categories=4),
    "slopes, classes, 10 tasks, large": lambda seed: two_slopes(10, 5000, 20, seed, n_categories=4, cut=0.7),
}


def compared(
    draw: Callable[[int], Table], settings: dict[str, dict[str, Any]], seed: int
) -> Iterator[tuple[float, float]]:
    """Loss and seconds of every setting on one table."""
    X, y = draw(seed)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=TEST_SHARE, random_state=seed)
    is_number = y.dtype.kind == "f"
    for options in settings.values():
        estimator = mttab.RMTGBRegressor if is_number else mttab.RMTGBClassifier
        given: dict[str, Any] = {"task_column": "task", "random_state": seed, "n_jobs": 1} | options
        model = estimator(**given)
        begin = time.process_time()
        model.fit(X_train, y_train)
        seconds = time.process_time() - begin
        if is_number:
            yield root_mean_squared_error(y_test, model.predict(X_test)), seconds
        else:
            yield log_loss(y_test, model.predict_proba(X_test), labels=model.classes_), seconds


def options_of(text: str) -> dict[str, Any]:
    """``a=1,b=two`` as a dict; what is no Python literal is a string."""
    options: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{part!r} is no NAME=VALUE")
        try:
            options[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            options[name] = value
    return options


def setting(text: str) -> tuple[str, dict[str, Any]]:
    """Options and what they are called."""
    return text, options_of(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", type=setting, metavar="NAME=VALUE[,…]", help="options of R-MTGB")
    parser.add_argument("--base", type=options_of, default={}, metavar="NAME=VALUE[,…]", help="options of all fits")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="those whose names contain one of these")
    parser.add_argument("--large", action="store_true", help="six tables of 30,000 training rows instead")
    parser.add_argument("--splits", type=positive, default=3, metavar="N", help="of each table (default: %(default)s)")
    arguments = parser.parse_args()
    settings = {"base": arguments.base} | {name: arguments.base | options for name, options in arguments.settings}
    tables = LARGE if arguments.large else SMALL
    wanted = {name: draw for name, draw in tables.items() if any(part in name for part in arguments.tables or [""])}
    if not wanted:
        parser.error(f"no table is called so; there are {', '.join(tables)}")
    print(describe_machine(peers=()))
    names = list(settings)[1:]
    loss, seconds = [], []
    for name, draw in wanted.items():
        found = np.log([list(compared(draw, settings, seed)) for seed in range(arguments.splits)])
        ratios = (found - found[:, :1])[:, 1:]
        show_ratios(f"{name}, loss", ratios[..., 0], names)
        loss.append(ratios[..., 0].mean(axis=0))
        seconds.append(ratios[..., 1].mean(axis=0))
    show_ratios(f"loss, {len(loss)} tables", np.array(loss), names)
    show_ratios(f"processor time, {len(loss)} tables", np.array(seconds), names)


if __name__ == "__main__":
    main()
