"""The examples run as they stand, apart from the numbers of rows and draws."""

import logging
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_a_new_task_is_compared_and_drawn(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the example draws with matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["new_task.py", "--draws", "1", "--quick"])
    runpy.run_path(str(EXAMPLES / "new_task.py"), run_name="__main__")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    errors = {int(line[0]): [float(error) for error in line[1:]] for line in lines if line and line[0].isdigit()}
    assert list(errors) == [2, 20, 200]
    ours, pooled, alone = errors[200]
    assert ours < pooled and ours < alone
    assert (tmp_path / "new_task.png").stat().st_size > 10_000


def test_a_model_is_exported_and_predicts_the_same(tmp_path, monkeypatch, capsys):
    for package in ("treelite", "onnxmltools", "onnxruntime", "matplotlib"):
        pytest.importorskip(package, reason="the example needs the extras 'export' and 'plot'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export_model.py"])
    runpy.run_path(str(EXAMPLES / "export_model.py"), run_name="__main__")
    printed = capsys.readouterr().out
    difference = dict(re.findall(r"^  (\S.*?) {2,}(\de-\d+)$", printed, re.MULTILINE))
    assert list(difference) == ["LightGBM, from the file", "treelite", "ONNX, in float32"]
    assert max(float(difference[name]) for name in ("LightGBM, from the file", "treelite")) < 1e-9
    assert float(difference["ONNX, in float32"]) < 1e-3
    assert "degrees__C_ = 'degrees [C]'" in printed
    assert (tmp_path / "north.png").stat().st_size > 5_000
    assert (tmp_path / "north.txt").read_text().startswith("tree\nversion=v4\n")


def test_conformal_intervals_cover_every_task_and_are_drawn(monkeypatch, capsys):
    pytest.importorskip("mapie", reason="the example calibrates with MAPIE")
    plt = pytest.importorskip("matplotlib.pyplot", reason="the example draws with matplotlib")
    monkeypatch.setenv("MTTAB_QUICK", "1")
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setattr(logging.root.manager, "disable", logging.root.manager.disable)  # the example switches off INFO
    plt.close("all")
    runpy.run_path(str(EXAMPLES / "conformal_intervals.py"), run_name="__main__")
    (figure,) = (plt.figure(number) for number in plt.get_fignums())
    plt.close("all")
    coverage, width = figure.axes
    lines = [line for line in coverage.lines if len(line.get_xdata()) == 6]
    assert [line.get_label() for line in lines] == [line.get_text() for line in figure.legends[0].get_texts()]
    assert min(lines[2].get_xdata()) > 0.83  # calibrated per task
    noisy = next(line for line in width.lines if line.get_label() == "conformal, per task").get_xdata()
    assert noisy[-1] > 2 * noisy[0]
    covered = capsys.readouterr().out.split("mean width")[0]
    rows = [re.split(r" {2,}", line) for line in covered.splitlines() if re.search(r"\d\.\d\d$", line)]
    by_method = {name: [float(share) for share in shares] for name, *shares in rows}
    assert min(by_method["quantile models"]) < 0.8
    assert min(by_method["conformal, all tasks"]) < 0.8
    for name in ("conformal, per task", "conformal quantiles, per task"):
        assert min(by_method[name]) > 0.83 and max(by_method[name]) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_figures", "said"),
    [
        ("outlier_tasks", 3, "sharing: groups"),
        ("task_groups", 2, "adjusted Rand index: 1.0"),
        ("mixed_targets", 2, "'y2': 'multiclass'"),
        ("attention", 1, "worth most: age, income"),
        ("grid_search", 1, "best:"),
        ("harmed_tasks", 3, "mean gain"),
    ],
)
def test_an_example_of_the_gallery_runs_and_draws(name, n_figures, said, tmp_path, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot", reason="the examples draw with matplotlib")
    if name in ("mixed_targets", "attention"):
        pytest.importorskip("torch", reason="the example fits a network")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTTAB_QUICK", "1")
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    figures = [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")
    assert len(figures) == n_figures
    assert said in capsys.readouterr().out


def test_every_example_begins_with_a_title_for_the_gallery():
    for path in EXAMPLES.glob("*.py"):
        title, rule = path.read_text(encoding="utf-8").removeprefix('"""').split("\n")[:2]
        assert rule == "=" * len(title), path.name
