"""The benchmarks run end to end on small tables, go on where they stopped, and show what failed."""

import functools
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch):
    """Import a file of the folder benchmarks by its name, as running a script there would.

    Scripts set the number of threads of torch for their process; other tests keep theirs.
    """
    torch = pytest.importorskip("torch", reason="the benchmarks of networks need torch")
    n_threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    torch.set_num_threads(n_threads)


@pytest.fixture
def folder(tmp_path):
    """A manifest folder: rows of three shops, and the same rows with four labels each, some of them missing."""
    rng = np.random.default_rng(0)
    n = 240
    size, colour = rng.normal(size=n), rng.choice(["red", "green", "blue"], n)
    size[rng.random(n) < 0.1] = np.nan
    signal = np.nan_to_num(size) + (colour == "red") + rng.normal(scale=0.3, size=n)
    table = pd.DataFrame({"size": size, "colour": colour, "shop": rng.choice(["a", "b", "c"], n), "sales": signal})
    table["profit"] = np.where(rng.random(n) < 0.2, np.nan, 3.0 * signal + rng.normal(size=n))
    table["sold"] = np.where(rng.random(n) < 0.2, np.nan, signal > 0)
    table["grade"] = pd.cut(signal, [-np.inf, -0.3, 0.8, np.inf], labels=["poor", "fair", "good"]).astype(str)
    path = tmp_path / "data"
    path.mkdir()
    table.to_csv(path / "shops.csv", index=False)
    shared = {"name": "shops", "file": "shops.csv", "features": {"size": "numeric", "colour": "categorical"}}
    shared["split"] = {"rule": "random", "test_fraction": 0.25}
    by_row = {"layout": "row_tasks", "task": "shop", "target": "sales", "target_type": "regression"}
    kinds = {"sales": "regression", "profit": "regression", "sold": "binary", "grade": "multiclass"}
    by_target = {"layout": "target_tasks", "targets": kinds}
    (path / "manifest.json").write_text(json.dumps([shared | by_row, shared | by_target]))
    return path


@pytest.fixture
def synthetic(script, monkeypatch):
    """`bench_synthetic` with every experiment cut down to a few rows."""
    settings = script("synthetic_experiments")
    for problem in (settings.OUTLIERS, settings.GROUPS, settings.QUICK_BASE):
        monkeypatch.setitem(problem, "n_train", 40)
        monkeypatch.setitem(problem, "n_test", 30)
    monkeypatch.setitem(settings.GROUPS, "group_sizes", [3, 2])
    monkeypatch.setitem(settings.QUICK_BASE, "n_features", 8)
    for sweep, points in {"n_tasks": [3], "correlation": [0.0, 0.4], "degree": [1]}.items():
        monkeypatch.setitem(settings.QUICK_SWEEPS, sweep, points)
    return script("bench_synthetic")


def failing(*_):
    raise RuntimeError("out of ideas")


def read_runs(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# bench_synthetic -----------------------------------------------------------------------------------------------------

TINY = ["--quick", "--draws", "1", "--n-jobs", "1", "--approaches", "R-MTGB", "category", "LightGBM pooled"]


def test_synthetic_runs_every_experiment_and_does_not_refit(synthetic, tmp_path, capsys, monkeypatch):
    output = tmp_path / "runs.jsonl"
    synthetic.main([*TINY, "--output", str(output)])
    printed = capsys.readouterr().out
    assert "0 runs failed" in printed
    first = read_runs(output)
    assert {run["key"]["experiment"] for run in first} == {"outliers", "groups", "sweeps"}
    tables = json.loads(output.with_suffix(".json").read_text())["tables"]
    assert any("outlier scores" in title for title in tables)
    assert any("Δm" in title for title in tables)

    # With fits that cannot work, everything must come from the file.
    for name, approach in synthetic.ROW_TASK_APPROACHES.items():
        monkeypatch.setitem(synthetic.ROW_TASK_APPROACHES, name, approach._replace(predict=failing))
    peers_of = synthetic.target_approaches
    monkeypatch.setattr(
        synthetic,
        "target_approaches",
        lambda budget: {name: peer._replace(predict=failing) for name, peer in peers_of(budget).items()},
    )
    synthetic.main([*TINY, "--output", str(output)])
    again = capsys.readouterr().out
    assert "0 runs failed" in again
    assert read_runs(output) == first
    tables_again = json.loads(output.with_suffix(".json").read_text())["tables"]
    assert tables_again == tables


def test_synthetic_runs_again_what_was_measured_with_other_settings(synthetic, tmp_path, monkeypatch):
    output = tmp_path / "runs.jsonl"
    only = ["--experiments", "groups", "--draws", "1", "--n-jobs", "1", "--approaches", "LightGBM pooled"]
    synthetic.main([*only, "--output", str(output)])
    n_before = len(read_runs(output))
    monkeypatch.setattr(importlib.import_module("row_task_peers"), "MAX_ROUNDS", 7)
    synthetic.main([*only, "--output", str(output)])
    assert len(read_runs(output)) == 2 * n_before


def test_synthetic_starts_afresh_without_resume(synthetic, tmp_path):
    output = tmp_path / "runs.jsonl"
    only = ["--experiments", "groups", "--draws", "1", "--n-jobs", "1", "--approaches", "LightGBM pooled"]
    synthetic.main([*only, "--output", str(output)])
    n_before = len(read_runs(output))
    synthetic.main([*only, "--no-resume", "--output", str(output)])
    assert len(read_runs(output)) == 2 * n_before


def test_synthetic_counts_small_fits_too_in_a_progress_bar(synthetic, tmp_path, monkeypatch):
    shown = []

    class Bar(synthetic.progress):
        def __call__(self, what, n_steps):
            shown.append((self.n_steps, what))

    monkeypatch.setattr(synthetic, "progress", Bar)
    only = ["--experiments", "groups", "--draws", "2", "--n-jobs", "1", "--approaches", "category", "LightGBM pooled"]
    synthetic.main([*only, "--output", str(tmp_path / "runs.jsonl")])
    names = ["category", "LightGBM pooled"] * 2  # regression, classes
    assert [what for _, what in shown if what] == [f"small fit beforehand: {name}" for name in names]
    assert {n_steps for n_steps, _ in shown} == {4}


def test_synthetic_shows_an_approach_that_fails(synthetic, tmp_path, capsys, monkeypatch):
    broken = synthetic.ROW_TASK_APPROACHES["LightGBM pooled"]._replace(predict=failing)
    output = tmp_path / "runs.jsonl"
    arguments = [
        "--experiments",
        "groups",
        "--draws",
        "1",
        "--n-jobs",
        "1",
        "--approaches",
        "category",
        "LightGBM pooled",
    ]
    with monkeypatch.context() as broken_for_now:
        broken_for_now.setitem(synthetic.ROW_TASK_APPROACHES, "LightGBM pooled", broken)
        synthetic.main([*arguments, "--output", str(output)])
    printed = capsys.readouterr().out
    assert "2 runs failed" in printed
    assert "RuntimeError: out of ideas" in printed
    for title, table in json.loads(output.with_suffix(".json").read_text())["tables"].items():
        failed = dict(zip(table["index"], (row[-1] for row in table["data"]), strict=True))
        assert failed == {"category": 0, "LightGBM pooled": 1}, title

    synthetic.main([*arguments, "--output", str(output)])  # a failure is tried again
    assert "0 runs failed" in capsys.readouterr().out


SWEEPS = [
    *("--experiments", "sweeps", "--draws", "2", "--n-jobs", "1", "--trials", "2"),
    *("--base", "n_train=60", "n_test=40", "n_features=6", "n_tasks=2", "--sweeps", "degree=1,2"),
    *("--network", "n_members=1", "max_epochs=1", "embedding_dim=4"),
]


def test_sweeps_have_the_rows_the_points_and_the_budget_of_the_command_line(synthetic, tmp_path):
    output = tmp_path / "runs.jsonl"
    names = ["LightGBM tuned per target", "R-MTGB tuned", "SharedBottom tuned"]
    synthetic.main([*SWEEPS, "--approaches", *names, "--output", str(output)])
    runs = [run["key"] | run["result"] for run in read_runs(output)]
    assert [run["error"] for run in runs] == [None] * 16
    assert {run["approach"] for run in runs} == {"LightGBM per target", *names}
    assert {(run["problem"]["n_train"], run["problem"]["degree"], run["draw"]) for run in runs} == {
        (60, degree, draw) for degree in (1, 2) for draw in (0, 1)
    }
    for run in runs:
        assert len(run["errors"]["RMSE"]) == 2
        assert run["settings"].get("n_trials", 1) == (1 if run["approach"] == "LightGBM per target" else 2)
    network = next(run["settings"]["SharedBottom"] for run in runs if run["approach"] == "SharedBottom tuned")
    assert (network["n_members"], network["max_epochs"]) == (1, 1)

    tables = json.loads(output.with_suffix(".json").read_text())["tables"]
    titles = [title for title in tables if "LightGBM tuned per target" in title]
    means, errors = (pd.DataFrame(tables[title]["data"], tables[title]["index"]) for title in titles)
    assert "standard error" in titles[1] and "standard error" not in titles[0]
    rmse = {(run["approach"], run["draw"]): run["errors"]["RMSE"] for run in runs if run["problem"]["degree"] == 1}
    ours, theirs = (
        np.array([list(rmse[name, draw].values()) for draw in (0, 1)])
        for name in ("R-MTGB tuned", "LightGBM tuned per target")
    )
    gain = (100 * (1 - ours / theirs)).mean(axis=1)
    assert means.loc["R-MTGB tuned", 0] == pytest.approx(np.mean(gain))
    assert errors.loc["R-MTGB tuned", 0] == pytest.approx(np.std(gain, ddof=1) / np.sqrt(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweeps", "size=3"], "size is none of n_tasks, correlation, degree"),
        (["--base", "n_train"], "n_train is not of the form NAME=VALUE"),
        (["--trials", "0"], "0 is not a whole number of at least 1"),
    ],
)
def test_a_sweep_that_does_not_exist_is_refused(synthetic, capsys, arguments, message):
    with pytest.raises(SystemExit):
        synthetic.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["LightGBM", "R-MTGB"])
def test_tuned_trees_are_the_best_of_their_trials_on_their_validation_rows(script, monkeypatch, name):
    peers, experiments = script("target_task_peers"), script("synthetic_experiments")
    settings = {**experiments.SWEEP_BASE, "n_train": 300, "n_test": 20, "n_features": 4, "n_tasks": 2, "degree": 1}
    problem = experiments.draw_targets(settings, 0)
    trials = [{"learning_rate": 1e-4}, {"learning_rate": 0.2}, {"learning_rate": 1e-3}]
    approaches = peers.make_peers(script("tuning").Budget(n_trials=3))
    said = {}
    for n_trials, chosen in {3: trials, 1: trials[1:2]}.items():
        monkeypatch.setattr(peers, "draw_trials", lambda space, n, seed, chosen=chosen: chosen)
        said[n_trials] = approaches[f"{name} tuned per target"].predict(problem)
    for target in problem.kinds:
        np.testing.assert_array_equal(said[3][target], said[1][target])


# bench_neural --------------------------------------------------------------------------------------------------------

NEURAL = ["--seeds", "1", "--n-jobs", "1", "--peers", "R-MTGB", "R-MTGB per target"]


def test_neural_scores_every_target_and_does_not_refit(script, folder, tmp_path, capsys, monkeypatch):
    bench = script("bench_neural")
    output = tmp_path / "runs.jsonl"
    bench.main([str(folder), *NEURAL, "--output", str(output)])
    printed = capsys.readouterr().out
    assert "0 of 12 figures failed" in printed
    first = read_runs(output)
    assert [run["key"]["peer"] for run in first] == ["LightGBM per target", "R-MTGB", "R-MTGB per target"]
    for run in first:
        scores = run["result"]["scores"]
        assert list(scores) == ["sales", "profit", "sold", "grade"]
        assert scores["sold"] > 0.7
        assert scores["grade"] > 0.7

    for name, peer in bench.PEERS.items():
        monkeypatch.setitem(bench.PEERS, name, peer._replace(predict=failing))
    bench.main([str(folder), *NEURAL, "--output", str(output)])
    assert "3 of 3 runs taken from" in capsys.readouterr().out
    assert read_runs(output) == first


def test_networks_score_every_target_together_and_alone(script, folder, tmp_path, capsys, monkeypatch):
    import mttab

    bench = script("bench_neural")
    quick = functools.partial(mttab.MultiTabNet, n_members=1, max_epochs=15, embedding_dim=8)
    monkeypatch.setattr(mttab, "MultiTabNet", quick)
    networks = ["--peers", "MultiTabNet", "MultiTabNet per target"]
    bench.main([str(folder), "--seeds", "1", "--n-jobs", "1", *networks, "--output", str(tmp_path / "runs.jsonl")])
    assert "0 of 12 figures failed" in capsys.readouterr().out
    for run in read_runs(tmp_path / "runs.jsonl"):
        assert min(run["result"]["scores"][target] for target in ("sold", "grade")) > 0.6


def test_a_tuned_network_is_the_best_of_its_trials_of_which_the_first_has_the_defaults(script, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed")
    script("bench_synthetic")
    import tuning
    from mttab.datasets import make_multitask_regression

    for name in tuning.NETWORKS:
        first, *others = tuning.draw_trials(tuning.network_space(name), 8, seed=0)
        assert first == {} and len(others) == 7 and len({str(settings) for settings in others}) > 4
    X, Y = make_multitask_regression(250, 6, 2, degree=1, random_state=0)
    trials = [{"learning_rate": 1e-6}, {"learning_rate": 0.02}, {"learning_rate": 1e-5}]
    monkeypatch.setattr(tuning, "draw_trials", lambda space, n, seed: trials[:n])
    options = {"n_members": 1, "max_epochs": 3, "n_jobs": 1, "n_experts": 2, "expert_dim": 8}
    assert tuning.fit_best_network("MMoE", X, Y, 3, 0, **options).learning_rate == 0.02
    assert tuning.fit_best_network("MMoE", X, Y, 1, 0, **options).learning_rate == 1e-6


def test_synthetic_gives_the_gain_of_a_neighbour_over_its_single_task_network(synthetic, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed")
    import mttab

    quick = functools.partial(mttab.MMoE, n_members=1, max_epochs=1, embedding_dim=4, expert_dim=8)
    monkeypatch.setattr(mttab, "MMoE", quick)
    chosen = ["--experiments", "sweeps", "--draws", "1", "--approaches", "MMoE", "MMoE per target"]
    synthetic.main(["--quick", "--n-jobs", "1", *chosen, "--output", str(tmp_path / "runs.jsonl")])
    printed = capsys.readouterr().out
    assert "0 runs failed" in printed
    table = printed.split("its own single-task version")[1].splitlines()
    assert any(line.startswith("MMoE") and "–" not in line for line in table)


def test_neural_measures_rows_per_second_of_every_setting(script, tmp_path, capsys, monkeypatch):
    bench = script("bench_neural")
    import neural_speed

    monkeypatch.setattr(neural_speed, "ROWS_ON_CPU", 512)
    monkeypatch.setattr(neural_speed, "SETTINGS", {"tiny": {**neural_speed.ROWS, "n_members": 2, "embedding_dim": 4}})
    bench.main(["--speed", "--device", "cpu", "--n-jobs", "1", "--output", str(tmp_path / "neural.jsonl")])
    assert "tiny" in capsys.readouterr().out
    measured = json.loads((tmp_path / "neural_speed.json").read_text())["rows_per_second"]["tiny"]
    assert measured["training"] > 0 and measured["prediction"] > measured["training"] / 10


def test_neural_shows_a_peer_that_fails_and_one_that_fails_on_one_target(script, folder, tmp_path, capsys, monkeypatch):
    bench = script("bench_neural")
    shared, single = bench.PEERS["R-MTGB"], bench.PEERS["R-MTGB per target"]

    def fail_on_profit(problem):
        return bench.PEERS[bench.BASELINE].predict(problem) | {"profit": ValueError("no profit here")}

    monkeypatch.setitem(bench.PEERS, "R-MTGB", shared._replace(predict=failing))
    monkeypatch.setitem(bench.PEERS, "R-MTGB per target", single._replace(predict=fail_on_profit))
    output = tmp_path / "runs.jsonl"
    bench.main([str(folder), *NEURAL, "--output", str(output)])
    printed = capsys.readouterr().out
    assert "5 of 12 figures failed" in printed
    assert "shops, profit, seed 0, R-MTGB per target: ValueError: no profit here" in printed
    assert "shops, grade, seed 0, R-MTGB: RuntimeError: out of ideas" in printed
    table = next(iter(json.loads(output.with_suffix(".json").read_text())["tables"].values()))
    figures = pd.DataFrame(table["data"], columns=table["columns"]).set_index("target")
    assert figures["R-MTGB"].isna().all()
    assert figures.index[figures["R-MTGB per target"].isna()].tolist() == ["profit"]


def test_a_target_that_the_test_rows_cannot_judge_is_left_out_and_said(script, folder, tmp_path, capsys):
    table = pd.read_csv(folder / "shops.csv")
    table["sold"] = np.where(np.arange(len(table)) < 3, 1.0, 0.0)
    table["side"] = np.where(np.arange(len(table)) < 180, "train", "test")
    table.to_csv(folder / "shops.csv", index=False)
    records = json.loads((folder / "manifest.json").read_text())
    records[1]["split"] = {"rule": "column", "column": "side"}
    (folder / "manifest.json").write_text(json.dumps(records))
    script("bench_neural").main(
        [str(folder), "--seeds", "1", "--n-jobs", "1", "--peers", "R-MTGB", "--output", str(tmp_path / "runs.jsonl")]
    )
    printed = capsys.readouterr().out
    assert "0 of 8 figures failed" in printed
    assert "left out: shops, sold, seed 0" in printed


def test_tables_for_networks_have_no_gaps(script):
    X = pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": pd.Categorical(["x", None, "y"]), "c": [1.0, 2.0, 3.0]})
    X_test = X.assign(c=np.nan)
    filled, filled_test = script("target_task_peers").impute(X, X_test)
    assert list(filled) == list(filled_test) == ["a", "b", "c", "a is missing"]
    assert not filled.isna().any(axis=None)
    assert not filled_test.isna().any(axis=None)
    assert filled["a"].tolist() == [1.0, 2.0, 3.0]
    assert filled_test["c"].tolist() == [2.0, 2.0, 2.0]


# bench_accuracy ------------------------------------------------------------------------------------------------------


def test_accuracy_runs_and_shows_a_peer_that_fails(script, folder, tmp_path, capsys, monkeypatch):
    bench = script("bench_accuracy")
    monkeypatch.setitem(bench.PEERS, "LightGBM pooled", bench.PEERS["LightGBM pooled"]._replace(predict=failing))
    output = tmp_path / "accuracy.json"
    arguments = [str(folder), "--seeds", "1", "--n-jobs", "1", "--output", str(output), "--peers"]
    arguments += ["LightGBM pooled", "LightGBM category", "LightGBM per task"]
    monkeypatch.setattr("sys.argv", ["bench_accuracy.py", *arguments])
    bench.main()
    results = {run["peer"]: run for run in json.loads(output.read_text())["results"]}
    assert results.keys() == {"R-MTGB", "LightGBM pooled", "LightGBM category", "LightGBM per task"}
    assert results["LightGBM pooled"]["error"] == "RuntimeError: out of ideas"
    assert all(np.isfinite(run["loss"]) for peer, run in results.items() if peer != "LightGBM pooled")
    printed = capsys.readouterr().out
    assert "failed" in printed
    assert "1 of 4 runs failed" in printed


# options -------------------------------------------------------------------------------------------------------------


def test_sharing_compares_structures_and_ingredients(script, folder, tmp_path, capsys, monkeypatch):
    bench = script("bench_sharing")
    monkeypatch.setattr(bench, "N_TRAIN", 20)
    monkeypatch.setattr(bench, "STRUCTURES", {"5 groups": {"group_sizes": (2, 2, 1, 1, 1)}})
    monkeypatch.setattr(bench, "ABLATION", {"31 leaves": {"max_leaf_nodes": 31, "min_samples_leaf": 2}})
    output = tmp_path / "sharing.json"
    bench.main(
        ["--folder", str(folder), "--draws", "1", "--ablation-draws", "1", "--seeds", "1", "--output", str(output)]
    )
    shown, runs = capsys.readouterr().out, json.loads(output.read_text())
    assert {run["approach"] for run in runs["structures"]} == {"R-MTGB", *bench.FIXED, "groups found"}
    assert all(np.isfinite(run["loss"]) for run in runs["structures"] if run["approach"] != "groups found")
    assert {(run["kind"], run["problem"]) for run in runs["ablation"]} == {("made-up", "5 groups"), ("views", "shops")}
    assert "R-MTGB / best" in shown and "31 leaves" in shown and "geometric mean" in shown


def test_speed_takes_ratios_with_the_fastest_of_the_others(script, tmp_path, capsys, monkeypatch):
    bench = script("bench_speed")
    monkeypatch.setattr(bench, "ROUNDS", 3)
    output = tmp_path / "speed.json"
    options = ["--rows", "3000", "--features", "5", "--threads", "1", "--repeats", "1", "--json", str(output)]
    bench.main(["fit", "loss", "--tables", "3", *options])
    results = json.loads(output.read_text())["results"]
    assert [("log loss" in result["what"]) for result in results] == [False, True, False, True]
    for result in results[:2]:
        times = {name[:-2]: seconds for name, seconds in result.items() if name.endswith(" s")}
        others = {name: seconds for name, seconds in times.items() if name != "mttab"}
        assert {"mttab", "lightgbm", "hist gradient boosting"} <= times.keys()
        assert result["fastest"] == min(others, key=others.get)
        assert result["ratio"] == pytest.approx(times["mttab"] / min(others.values()))
    for result in results[2:]:
        assert result["smallest"] <= result["loss / lightgbm"] <= result["largest"] and result["standard error"] > 0.0
        assert 0.9 < result["loss / lightgbm"] < 1.1
    assert "fit 3e+03 x 5, squared error, 1 thread(s)" in capsys.readouterr().out


def test_speed_tells_what_a_round_on_few_rows_takes(script, tmp_path):
    bench, output = script("bench_speed"), tmp_path / "speed.json"
    bench.main(["few", "--repeats", "1", "--json", str(output)])
    results = json.loads(output.read_text())["results"]
    assert ["400 x 30" in result["what"] for result in results] == [True, False, False]
    assert all(10.0 < result["us"] < 1e5 for result in results)


def test_training_compares_ways_of_training_with_the_default(script, tmp_path, capsys, monkeypatch):
    bench = script("bench_training")
    monkeypatch.setattr(bench, "N_TEST", 50)
    monkeypatch.setattr(bench, "EPOCHS", {"steps": 2, "pretext": 2})
    monkeypatch.setattr(bench, "STEP_PROBLEMS", {name: bench.STEP_PROBLEMS[name] for name in ("row tasks", "noise 1")})
    monkeypatch.setattr(bench, "QUICK", ("default", "uncertainty", "sam_rho=0.02", "during"))
    output = tmp_path / "training.json"
    bench.main(["--quick", "--output", str(output)])
    shown, runs = capsys.readouterr().out, json.loads(output.read_text())
    assert {run["way"] for run in runs["steps"]} == {"default", "uncertainty", "sam_rho=0.02"}
    assert {(run["way"], len(run["rmse"])) for run in runs["pretext"]} == {("default", 3), ("during", 3)}
    assert all(np.isfinite(run["rmse"]).all() for table in ("steps", "pretext") for run in runs[table])
    assert "RMSE / RMSE of the default" in shown


# bench_later_rows ----------------------------------------------------------------------------------------------------


def test_later_rows_are_the_test_and_ratios_are_to_the_defaults(script, monkeypatch, capsys):
    bench = script("bench_later_rows")
    X, y, is_past = bench.draw(bench.WORLDS["cut"], 5000, seed=0)
    date = X["year"] * 1000 + X["month"] * 31 + X["day"]
    assert date.is_monotonic_increasing and date[is_past].max() < date[~is_past].min()
    assert set(X.loc[is_past & (X["year"] == 3), "month"]) == {0, 1} and len(y) == len(X)
    monkeypatch.setattr("sys.argv", ["bench_later_rows.py", "--worlds", "cut", "--seeds", "2", "--rows", "2500"])
    bench.main()
    _, of_world, of_all = capsys.readouterr().out.splitlines()
    assert of_world.startswith("cut (2 tables): validation by time ") and of_world.count("±") == 3
    assert of_all.split(": ")[1] == of_world.split(": ")[1]


# bench_defaults ------------------------------------------------------------------------------------------------------


def test_settings_are_compared_with_the_base_on_all_tables_that_are_named(script, monkeypatch, capsys):
    bench = script("bench_defaults")
    quick = "max_iter_shared=3,max_iter_partition=0,max_iter_task=0,early_stopping=False,sharing=pooled"
    command = ["bench_defaults.py", "learning_rate=1e-9", "max_depth=None", "--base", quick, "--splits", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--tables", "diabetes", "two groups, classes"])
    bench.main()
    _, *of_tables, of_all, of_time = capsys.readouterr().out.splitlines()
    assert [line.split(", loss")[0] for line in of_tables] == ["diabetes", "two groups, classes"]
    for line in (*of_tables, of_all):
        slow, same = line.split(": ")[1].split(", ")
        assert float(slow.split()[1]) > 1.0 and slow.split()[0] == "learning_rate=1e-9"
        assert same == "max_depth=None 1.0000 ± 0.00"
    assert of_time.startswith("processor time, 2 tables: learning_rate=1e-9 ")


def test_every_table_of_the_comparison_of_settings_is_drawn_by_its_seed(script):
    bench = script("bench_defaults")
    for name, draw in bench.SMALL.items():
        (X, y), (again, y_again) = draw(3), draw(3)
        assert X.equals(again) and np.array_equal(y, y_again) and len(X) == len(y), name
        assert X["task"].nunique() > 1 and len(np.unique(y)) > 1 and not np.array_equal(y, draw(4)[1]), name


def test_settings_are_python_literals_or_strings_and_need_a_value(script, monkeypatch, capsys):
    bench = script("bench_defaults")
    assert bench.options_of("max_depth=2,grow_policy=leafwise") == {"max_depth": 2, "grow_policy": "leafwise"}
    for arguments, message in (
        (["max_depth"], "no NAME=VALUE"),
        (["max_depth=2", "--tables", "?"], "there are diabetes"),
    ):
        monkeypatch.setattr("sys.argv", ["bench_defaults.py", *arguments])
        with pytest.raises(SystemExit):
            bench.main()
        assert message in capsys.readouterr().err


# bench_clustering ----------------------------------------------------------------------------------------------------


def test_clustering_compares_with_true_groups_places_new_tasks_and_takes_times(script, tmp_path, capsys, monkeypatch):
    bench = script("bench_clustering")
    sizes = {"GROUP_SIZES": (3, 2), "N_TRAIN": 40, "N_TEST": 20, "N_FIRST_ROWS": (3, 10), "N_TIMED_TASKS": 10}
    for name, value in sizes.items():
        monkeypatch.setattr(bench, name, value)
    output = tmp_path / "clustering.json"
    bench.main(["--draws", "1", "--kinds", "binary", "--output", str(output)])
    shown, results = capsys.readouterr().out, json.loads(output.read_text())
    assert "draws 0 to 0" in shown and "new tasks placed right" in shown
    assert {run["approach"] for run in results["compared"]} == {bench.TRUE_GROUPS, *bench.approaches("binary", 0)}
    assert all(0 <= run["error"] < 0.7 for run in results["compared"])
    assert {run["approach"] for run in results["compared"] if "adjusted_rand" in run} == {
        "clusters", "clusters, as published",
    }  # fmt: skip
    assert [(run["rows"], run["task"]) for run in results["placed"]] == [(3, 3), (3, 6), (10, 3), (10, 6)]
    assert all(seconds > 0 for seconds in results["seconds_to_compare"].values())

    options = ["--kinds", "regression", "--approaches", "pooled", "--first-draw", "7", "--draws", "2"]
    bench.main([*options, "--output", str(output)])
    results = json.loads(output.read_text())
    expected = [(draw, name) for draw in (7, 8) for name in (bench.TRUE_GROUPS, "pooled")]
    assert [(run["draw"], run["approach"]) for run in results["compared"]] == expected
    assert results["placed"] == [] and results["seconds_to_compare"] == {}


# bench_scale ---------------------------------------------------------------------------------------------------------


def test_the_cost_model_finds_what_rounds_and_messages_cost(script):
    bench, messages_of = script("scale_costs"), script("bench_scale").MESSAGE_BYTES

    def rounds(node, cell, **where):
        sizes = [(n, f) for n in (1e4, 1e6) for f in (10, 40)]
        return [{"n_rows": n, "n_features": f, "seconds_per_round": node + cell * n * f, **where} for n, f in sizes]

    own = rounds(3e-3, 2e-9, where="apart") + rounds(2e-3, 5e-9, where="together")
    messages = [{"n_bytes": b, "seconds": 1e-4 + 1e-9 * b} for b in messages_of]
    model = bench.CostModel(rounds(1e-3, 2e-9), own, messages)
    assert (model.node, model.node_of_many, model.cell) == pytest.approx((1e-3, 3e-3, 2e-9))
    assert (model.latency, model.byte) == pytest.approx((1e-4, 1e-9))
    n_bytes = bench.N_HISTOGRAMS * 10 * bench.BINS * bench.CHANNELS * 8
    of_messages = (bench.N_LEVELS + bench.N_SMALL_SUMS) * 1e-4 + 1e-9 * n_bytes
    assert model.seconds(1e6, 10, 1) == pytest.approx(1e-3 + 2e-9 * 1e6 * 10)
    assert model.seconds(1e6, 10, 2) == pytest.approx(3e-3 + 2e-9 * 1e6 / 2 * 10 + of_messages)
    assert model.seconds(1e6, 10, 2, is_together=True) == pytest.approx(2e-3 + 5e-9 * 1e6 / 2 * 10 + of_messages)
    assert model.seconds_of_messages(10, 8) == pytest.approx(4 * of_messages)
    n_rows = model.least_rows(10, 2)
    assert model.seconds(n_rows, 10, 1) == pytest.approx(model.seconds(n_rows, 10, 2))


def test_the_cost_model_finds_what_rounds_of_task_trees_cost(script):
    bench = script("scale_costs")

    def rounds(node, tree, cell):
        sizes = [(t, t * n, 10) for t in (50, 1000) for n in (20, 200)]
        names = "n_tasks", "n_rows", "n_features"
        seconds = [node + tree * t + cell * n * f for t, n, f in sizes]
        return [
            dict(zip(names, size, strict=True), seconds_per_round=s) for size, s in zip(sizes, seconds, strict=True)
        ]

    model = bench.TaskCostModel(rounds(1e-3, 2e-5, 3e-9), rounds(2e-3, 4e-5, 6e-9), 1e-4)
    assert model.alone == pytest.approx((1e-3, 2e-5, 3e-9))
    assert model.seconds(100, 1e4, 10, 1) == pytest.approx(1e-3 + 2e-3 + 3e-4)
    assert model.seconds(100, 1e4, 10, 8) == pytest.approx(1e-3 + (2e-3 + 3e-4) / 8 + 4e-4)
    assert model.seconds(100, 1e4, 10, 2, is_together=True) == pytest.approx(2e-3 + (4e-3 + 6e-4) / 2 + 1e-4)
    n_tasks = model.least_tasks(200, 10, 8)
    assert model.seconds(n_tasks, 200 * n_tasks, 10, 1) == pytest.approx(model.seconds(n_tasks, 200 * n_tasks, 10, 8))


@pytest.mark.slow
def test_scale_times_rounds_of_task_trees(script, tmp_path, capsys):
    pytest.importorskip("distributed", reason="dask is not installed")
    out = tmp_path / "scale.json"
    sizes = ["--n-tasks", "4", "10", "--task-rows", "20", "40"]
    few = ["--rounds", "2", "--messages", "2", "--repeats", "1"]
    script("bench_scale").main(["--tasks", *sizes, *few, "--out", str(out)])
    rounds = json.loads(out.read_text())["rounds"]
    assert [(r["n_workers"], r["n_tasks"], r["n_rows"]) for r in rounds] == [
        (workers, tasks, tasks * rows) for workers in (1, 2) for tasks in (4, 10) for rows in (20, 40)
    ]
    assert all(r["seconds_per_round"] > 0 for r in rounds)
    # Sums for the loss are all that task trees need of each other, and they are a few numbers.
    assert all((r["n_messages"] > 0) == (r["n_workers"] == 2) for r in rounds)
    assert all(r["n_bytes"] <= 8 * r["n_messages"] for r in rounds)
    assert "times as fast, 1000 tasks" in capsys.readouterr().out


@pytest.mark.slow
def test_scale_times_rounds_on_one_and_two_workers(script, tmp_path, capsys):
    pytest.importorskip("distributed", reason="dask is not installed")
    bench = script("bench_scale")
    out = tmp_path / "scale.json"
    bench.main(["--rows", "500", "1000", "--rounds", "2", "--messages", "2", "--repeats", "1", "--out", str(out)])
    results = json.loads(out.read_text())
    assert [(r["n_workers"], r["n_rows"], r["n_features"]) for r in results["rounds"]] == [
        (workers, rows, features) for workers in (1, 2) for rows in (500, 1000) for features in bench.N_FEATURES
    ]
    assert all(r["seconds_per_round"] > 0 for r in results["rounds"])
    assert all((r["n_messages"] > 0) == (r["n_workers"] == 2) for r in results["rounds"])
    assert [m["n_bytes"] for m in results["messages"]] == list(bench.MESSAGE_BYTES)
    assert [(r["where"], r["n_rows"]) for r in results["own"][::4]] == [("apart", 250), ("apart", 500)]
    assert "times as fast" in capsys.readouterr().out


@pytest.mark.slow
def test_scale_measures_the_memory_of_fits_on_files(script, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    out = tmp_path / "scale.json"
    script("bench_scale").main(["--memory", "--memory-rows", "2000", "20000", "--out", str(out)])
    results = json.loads(out.read_text())
    kinds = ["trees", "blocks", "defaults", "network"]
    assert [(fit["n_rows"], fit["kind"]) for fit in results["memory"]] == [
        (n_rows, kind) for n_rows in (2000, 20000) for kind in kinds
    ]
    assert [line["kind"] for line in results["lines"]] == kinds
    assert all(-50 < fit["peak_mb"] < 1000 for fit in results["memory"])  # above what a fit on 1000 rows needs
    assert "bytes_per_row" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "other"), [("bench_accuracy", "target_tasks"), ("bench_neural", "row_tasks")])
def test_a_folder_without_a_view_for_the_script_is_refused(script, folder, name, other):
    records = [r for r in json.loads((folder / "manifest.json").read_text()) if r["layout"] == other]
    (folder / "manifest.json").write_text(json.dumps(records))
    with pytest.raises(SystemExit, match="holds no view with layout"):
        script(name).select_views(folder, None)


@pytest.mark.parametrize("option", ["--seeds", "--max-rows", "--n-jobs"])
@pytest.mark.parametrize("value", ["0", "-1", "few"])
def test_counts_below_one_are_refused(script, folder, capsys, option, value):
    with pytest.raises(SystemExit):
        script("bench_neural").parse_arguments([str(folder), f"{option}={value}"])
    assert f"argument {option}: {value} is not a whole number of at least 1" in capsys.readouterr().err


# run_store -----------------------------------------------------------------------------------------------------------


def test_a_store_survives_a_line_that_was_cut_off(script, tmp_path):
    store_of = script("run_store").RunStore
    path = tmp_path / "runs.jsonl"
    store_of(path).add({"draw": 0}, {"error": None, "loss": 1.0})
    with path.open("a") as file:
        file.write('{"key": {"draw": 1}, "res')
    store = store_of(path)
    store.add({"draw": 2}, {"error": None, "loss": 2.0})
    store = store_of(path)
    assert store.get({"draw": 0}) == {"error": None, "loss": 1.0}
    assert store.get({"draw": 1}) is None
    assert store.get({"draw": 2}) == {"error": None, "loss": 2.0}


def test_an_output_that_the_tables_would_overwrite_is_refused(synthetic, tmp_path, capsys):
    with pytest.raises(SystemExit):
        synthetic.main(["--output", str(tmp_path / "runs.json")])
    assert "end it with .jsonl" in capsys.readouterr().err
