"""Does R-MTGB find out how much tasks share, and which of its ingredients pay?

    python benchmarks/bench_sharing.py                                # made-up tasks only
    python benchmarks/bench_sharing.py --folder FOLDER --draws 20 --seeds 5

structures: made-up tasks whose best way to share is known; the default beside each fixed way, same engine.
ablation: the default with one ingredient off or one setting changed at a time, on these and on the row-task views of a
folder. Without a race nothing chooses "groups" or "separate"; they are not switched off one by one.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

import mttab
from bench_accuracy import describe_machine, loss_of, make_problem, positive, select_views
from mttab.datasets import make_task_groups
from row_task_peers import Problem, spread

# Tasks of 100 training rows and as many test rows as it takes for the noise of the test not to matter.
N_TRAIN, N_TEST = 100, 500
STRUCTURES: dict[str, dict[str, Any]] = {
    "pooling": {"group_sizes": (10,), "shared_share": 1.0},
    "single-task": {"group_sizes": (1,) * 10, "shared_share": 0.0},
    "multi-task": {"group_sizes": (10,)},
    "2 outliers of 10": {"group_sizes": (8, 2)},
    "5 groups": {"group_sizes": (9, 6, 5, 3, 2), "length_scale": (0.1, 0.5)},
}
# One block, and what it knows of the task: what people would fit instead.
FIXED: dict[str, dict[str, Any]] = {
    "pooled": {"max_iter_partition": 0, "max_iter_task": 0},
    "category": {"max_iter_partition": 0, "max_iter_task": 0, "categorical_features": ["task"]},
    "per task": {"max_iter_shared": 0, "max_iter_partition": 0},
}
ABLATION: dict[str, dict[str, Any]] = {
    "no race: category": {"sharing": "category"},
    "no race: pooled": {"sharing": "pooled"},
    "no race: blocks": {"sharing": "blocks"},
    "never a straight line": {"linear_start": False},
    "always a straight line": {"linear_start": True},
    "one task round": {"max_iter_task": 1},
    "one model, refitted": {"n_averaged": 1},
    "one model, no refit": {"n_averaged": 1, "refit": False},
    "all rows in every round": {"subsample": 1.0},
    "255 bins": {"max_bins": 255},
    "trees leaf by leaf": {
        "grow_policy": "leafwise",
        "max_leaf_nodes": 15,
        "min_samples_leaf": 20,
        "l2_regularization": 0.0,
    },
    "32 leaves": {"max_leaf_nodes": 32},
    "no l2": {"l2_regularization": 0.0},
    "20 rows in a leaf": {"min_samples_leaf": 20},
    "learning rate 0.07": {"learning_rate": 0.07},
}


def draw_structure(name: str, draw: int) -> tuple[Problem, np.ndarray]:
    """One draw with noise of a tenth of the labels' deviation, and the group of each task."""
    options: dict[str, Any] = {"noise": 0.1, "noise_unit": "label_sd", "random_state": draw, "return_bunch": True}
    tasks = make_task_groups(N_TRAIN, **STRUCTURES[name], **options)
    X_test, y_test = tasks.sample(N_TEST, random_state=draw + 1000)
    parts = (tasks.data, tasks.target.to_numpy(), X_test, y_test.to_numpy())
    return Problem(*parts, task="task", n_classes=0, seed=draw, n_jobs=1), tasks.task_group


def fit(problem: Problem, options: dict[str, Any]) -> Any:
    kind = mttab.RMTGBClassifier if problem.n_classes else mttab.RMTGBRegressor
    known: dict[str, Any] = {"task_column": problem.task, "random_state": problem.seed, "n_jobs": problem.n_jobs}
    return kind(**known, **options).fit(problem.X_train, problem.y_train)


def test_loss(problem: Problem, model: Any) -> float:
    if not problem.n_classes:
        return loss_of(problem, model.predict(problem.X_test))
    return loss_of(problem, spread(model.predict_proba(problem.X_test), model.classes_, problem.n_classes))


def compare_structures(n_draws: int) -> Iterator[dict[str, Any]]:
    """RMSE of the default and of every fixed way; what the default chose; how well five groups are recovered."""
    for name in STRUCTURES:
        for draw in range(n_draws):
            problem, group = draw_structure(name, draw)
            for approach, options in {"R-MTGB": {}, **FIXED}.items():
                model = fit(problem, options)
                row = {"structure": name, "draw": draw, "approach": approach, "loss": test_loss(problem, model)}
                yield row | {"sharing": " and ".join(filter(None, (model.sharing_, model.other_sharing_)))}
            if name == "5 groups":
                found = fit(problem, {"n_task_groups": 5}).task_group_
                yield {"structure": name, "draw": draw, "approach": "groups found", "loss": np.nan} | {
                    "adjusted_rand": adjusted_rand_score(group, found)
                }


def ablation_problems(n_draws: int, folder: Path | None, views: list[str] | None, n_seeds: int) -> Iterator[Any]:
    """(kind, name, problem) of all made-up and real problems."""
    for name in STRUCTURES:
        for draw in range(n_draws):
            yield "made-up", name, draw_structure(name, draw)[0]
    for name, view in (select_views(folder, views) if folder else {}).items():
        for seed in range(n_seeds):
            yield "views", name, make_problem(view, seed, None, 1)


def compare_ingredients(problems: Iterator[Any]) -> Iterator[dict[str, Any]]:
    for kind, name, problem in problems:
        for approach, options in {"default": {}, **ABLATION}.items():
            loss = test_loss(problem, fit(problem, options))
            yield {"kind": kind, "problem": name, "seed": problem.seed, "approach": approach, "loss": loss}


def structure_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean RMSE, the default's over the best fixed one, and what the default chose."""
    of_model = runs[runs["approach"] != "groups found"]
    table = of_model.pivot_table(index="structure", columns="approach", values="loss", sort=False)
    table["R-MTGB / best"] = table["R-MTGB"] / table[list(FIXED)].min(axis=1)
    chosen = of_model[of_model["approach"] == "R-MTGB"].groupby("structure", sort=False)["sharing"]
    table["chose"] = chosen.agg(lambda names: ", ".join(f"{name} {n}" for name, n in names.value_counts().items()))
    if "adjusted_rand" in runs:
        table["adjusted Rand"] = runs.groupby("structure", sort=False)["adjusted_rand"].mean()
    return table


def ablation_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean loss over that of the default, per problem and as a geometric mean over the problems of a kind."""
    loss = runs.groupby(["kind", "problem", "approach"], sort=False)["loss"].mean().unstack()
    ratio = loss.div(loss["default"], axis=0).drop(columns="default")
    means = np.exp(np.log(ratio).groupby("kind", sort=False).mean())
    means.index = pd.MultiIndex.from_product([means.index, ["geometric mean"]])
    return pd.concat([ratio, means]).T


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder with a manifest.json, for the ablation")
    parser.add_argument("--views", nargs="+", metavar="NAME", help="some of its row-task views")
    parser.add_argument("--draws", type=positive, default=20, metavar="N", help="draws of each structure")
    parser.add_argument("--ablation-draws", type=positive, default=5, metavar="N", help="draws for the ablation")
    parser.add_argument("--seeds", type=positive, default=2, metavar="N", help="splits of each view")
    parser.add_argument("--output", type=Path, default=Path("sharing.json"), help="all results, as JSON")
    options = parser.parse_args(arguments)
    structures = pd.DataFrame(compare_structures(options.draws))
    print(f"RMSE, mean of {options.draws} draws\n\n{structure_table(structures).round(4).to_string()}\n", flush=True)
    problems = ablation_problems(options.ablation_draws, options.folder, options.views, options.seeds)
    ablation = pd.DataFrame(compare_ingredients(problems))
    print(f"loss / loss of the default\n\n{ablation_table(ablation).round(3).to_string()}\n")
    runs = {
        name: json.loads(table.to_json(orient="records"))
        for name, table in {"structures": structures, "ablation": ablation}.items()
    }
    options.output.write_text(json.dumps({**describe_machine(()), **runs}, indent=1) + "\n", encoding="utf-8")
    print(f"all results: {options.output}")


if __name__ == "__main__":
    main()
