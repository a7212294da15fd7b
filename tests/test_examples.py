"""The examples run as they stand, apart from the number of draws."""

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
