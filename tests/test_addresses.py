"""Kernels that other kernels call by their address."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numba import njit, types
from numba.extending import intrinsic

from boosting_inputs import bin_layout, make_grower, split_options, training_rows
from mttab._core.boosting.addresses import address_of, call_at_address
from mttab._core.boosting.binning import CATEGORY
from mttab._core.boosting.level_categories import best_subsets
from mttab._core.boosting.splitting import bounded_value

FIVE, NUMBER = (types.float64,) * 5, types.float64


@intrinsic
def _call(typing_context, address, gradient, hessian, l2, low, high):
    def generate(context, builder, signature, values):
        return call_at_address(context, builder, NUMBER(*FIVE), values[0], values[1:])

    return NUMBER(types.int64, *FIVE), generate


@njit(nogil=True)
def call(address, gradient, hessian, l2, low, high):
    return _call(address, gradient, hessian, l2, low, high)


def grow(kinds):
    """A symmetric tree of 300 rows with features of these kinds, and its grower."""
    rng = np.random.default_rng(0)
    codes = np.array([rng.integers(0, 9, 300) for _ in kinds])
    gradient = (codes[-1] % 3 - 1.0 + 0.1 * rng.normal(size=300))[None]
    rows = training_rows(codes, np.zeros(300))
    grower = make_grower(rows, bin_layout([9] * len(kinds), kinds), split_options(), 8, is_symmetric=True)
    return grower, grower.grow_shared(gradient, np.ones((1, 300)), rows.weight, rows.all_rows(), 0).trees


def test_a_kernel_at_its_address_gives_what_it_gives_otherwise():
    address = address_of(bounded_value, FIVE, NUMBER)
    for arguments in ((1.0, 2.0, 0.5, -np.inf, np.inf), (1.0, 2.0, 0.5, -0.1, 0.1), (1.0, 0.0, 0.0, 1.0, 2.0)):
        assert call(address, *arguments) == bounded_value(*arguments)
    assert address_of(bounded_value, FIVE, NUMBER) == address


def test_a_kernel_that_returns_something_else_is_not_called():
    with pytest.raises(TypeError, match="returns float64, not int64"):
        address_of(bounded_value, FIVE, types.int64)


SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_addresses import FIVE, NUMBER, address_of, bounded_value, call

address = address_of(bounded_value, FIVE, NUMBER)
print(sum(bounded_value.stats.cache_hits.values()), call(address, 1.0, 2.0, 0.5, -9.0, 9.0), flush=True)
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        is_same = address_of(bounded_value, FIVE, NUMBER) == address
        os._exit(0 if is_same and call(address, 1.0, 2.0, 0.5, -9.0, 9.0) == -0.4 else 1)
    sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_kernel_from_the_cache_has_an_address_too_and_a_forked_child_may_call_it(tmp_path):
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [subprocess.run(command, env=env, capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[-1].stderr
    assert [run.stdout.split() for run in runs] == [["0", "-0.4"], ["1", "-0.4"]]


def test_sets_of_levels_are_searched_by_a_kernel_of_their_own_and_only_where_there_are_categories():
    grower, trees = grow([0, 0])
    assert grower.subset_search() == 0 and trees.left[0, 0] > 0
    grower, trees = grow([0, CATEGORY])
    assert grower.subset_search() != 0 and trees.feature[0, 0] == 1 and trees.category_set[0, 0].any()
    assert len(best_subsets.signatures) == 1
