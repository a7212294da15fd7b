"""Files of every format version that was released stay readable and predict what they did."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from golden.make_golden import make_models, predictions_of
from mttab import load
from mttab._core.archive import FORMAT_VERSION, unseal

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("format_*/*.mttab"))


def test_there_are_files_of_every_format_version():
    versions = {int(path.parent.name.removeprefix("format_")) for path in FILES}
    assert versions == set(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_file_predicts_what_it_did(path):
    assert path.stat().st_size < 60_000
    _, metadata = unseal(path.read_bytes(), path.name)
    assert metadata["format_version"] == path.parent.name.removeprefix("format_")
    stored = json.loads(path.with_suffix(".json").read_text())
    X = pd.DataFrame(stored.pop("X"))
    X = X.astype(dict.fromkeys(stored.pop("categorical"), "category"))
    found = predictions_of(load(path), X)
    assert found.keys() == stored.keys()
    # Trees add up the same numbers everywhere; products of matrices may be added in another order.
    tolerance = 1e-5 if path.stem == "multitabnet" else 1e-13
    for name, wanted in stored.items():
        for got, expected in zip(np.ravel(found[name]).tolist(), np.ravel(wanted).tolist(), strict=True):
            assert got == (pytest.approx(expected, abs=tolerance) if isinstance(expected, float) else expected), name


def test_boosters_of_before_there_was_a_choice_go_on_growing_leaf_by_leaf_and_have_no_line():
    model = load(GOLDEN / "format_1" / "rmtgb_regressor.mttab")
    assert model.grow_policy == "leafwise"
    assert model.linear_start is False and not model.linear_start_


@pytest.mark.slow
def test_a_network_without_torch_says_what_to_install():
    path = next(path for path in FILES if path.stem == "multitabnet")
    code = f"import sys, sklearn, mttab; mttab.load; sys.modules['torch'] = None; mttab.load({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=GOLDEN.parents[1])
    assert "ImportError: The networks of mttab need torch" in done.stderr
    assert "pip install 'mttab[neural]'" in done.stderr


@pytest.mark.slow
def test_golden_files_are_of_models_that_can_still_be_made():
    names = {path.stem for path in FILES if path.parent.name == f"format_{FORMAT_VERSION}"}
    assert set(make_models()) == names
