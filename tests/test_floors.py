"""The oldest versions that pyproject.toml allows are those that `make test-oldest` tests."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNTESTED = ("bench", "docs", "dev")  # extras for work on the package itself, not for its users


def test_the_oldest_versions_allowed_are_the_oldest_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    allowed = [*project["dependencies"], *(one for name in extras if name not in UNTESTED for one in extras[name])]
    floors = dict(re.fullmatch(r"([\w-]+)(?:\[.*\])?>=(\S+)", one).groups() for one in allowed if "mttab[" not in one)
    floors["polars"] = next(one.partition(">=")[2] for one in extras["dev"] if one.startswith("polars"))
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested == floors
