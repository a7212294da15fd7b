"""The README keeps its word: its Python blocks run, and print what stands below them."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"

# A Python block and, if it is the next thing, the plain block with what it prints.
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\s*```(?:text)?\n(?P<output>.*?)```)?", re.DOTALL)
BLOCKS = list(BLOCK.finditer(README.read_text(encoding="utf-8")))


def test_the_readme_has_an_example_with_its_output():
    assert any(block["output"] for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["code"].strip().splitlines()[0])
def test_block_runs_and_prints_what_the_readme_shows(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block["code"], str(README), "exec"), {"__name__": "__main__"})
    if block["output"] is not None:
        assert printed.getvalue().split() == block["output"].split()
