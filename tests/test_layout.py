"""The layers hold: imports point down, and each optional or heavy package is imported where it belongs only.

A module that is new, or that needs an import the tables below do not allow, is given its place *here* first.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

ESTIMATORS = {"boosting", "multitabnet", "experts", "clustering", "baselines", "dask"}
SUPPORT = {"datasets", "metrics", "model_selection", "plotting"}

# Every public module may import `_core`; these imports of one public module by another are allowed besides.
SIDEWAYS = {
    "boosting": {"_boosting_base"},
    "_boosting_base": {
        *("_boosting_adapt", "_boosting_explain", "_boosting_fit", "_boosting_predict", "_boosting_rows"),
        *("_boosting_sources", "_callbacks", "persistence"),
    },
    "_boosting_fit": {"_boosting_rows", "_boosting_sharing"},
    "_boosting_predict": {"_boosting_fit"},
    "_boosting_pieces": {"_boosting_fit"},
    "_boosting_training": {"_boosting_fit", "_boosting_pieces"},
    "_boosting_sources": {"_boosting_fit", "_boosting_pieces", "_boosting_training", "_callbacks"},
    "_boosting_adapt": {"_boosting_fit", "_boosting_rows"},
    "_boosting_explain": {"_boosting_export"},
    "experts": {"_network_base", "_network_options", "_network_targets"},
    "multitabnet": {"_network_adapt", "_network_base", "_network_options", "_network_targets"},
    "_network_adapt": {"_network_fit"},
    "_network_base": {
        *("_callbacks", "_network_companions", "_network_fit", "_network_export", "_network_making"),
        *("_network_predict", "_network_ranks", "_network_saving", "_network_sources"),
    },
    "_network_making": {"_network_fit"},
    "_network_sources": {"_network_fit", "_network_ranks"},
    "_network_targets": {"_network_predict"},
    "_network_saving": {"persistence"},
    "persistence": {"_stored_kinds"},
    "clustering": {"boosting", "_cross_errors", "_task_placing", "_task_rows", "_task_wrapper"},
    "baselines": {"boosting", "_task_rows", "_task_wrapper"},
    "_cross_errors": {"boosting", "_task_rows"},
    "_task_placing": {"_cross_errors", "_task_rows", "_task_wrapper"},
    "_task_wrapper": {"boosting", "_task_rows", "persistence"},
    "_dask_workers": {"_boosting_fit", "_boosting_pieces", "_boosting_training", "_dask_meeting"},
    "_dask_crew": {"_dask_meeting"},
    "_dask_checks": {"_dask_pieces"},
    "_dask_fit": {"_boosting_pieces", "_dask_crew", "_dask_meeting", "_dask_placing", "_dask_workers"},
    "warmup": {"boosting"},
    "dask": {"boosting", "_boosting_training", "_dask_checks", "_dask_fit", "_dask_pieces"},
    "plotting": {"metrics"},
}
# ... and these, inside a function only.
LAZY = {"persistence": ESTIMATORS}

# Inside `_core`, and inside a package of it, a module may import those that stand before it. The files of `_core`
# itself lie below its packages.
PLAIN = (
    *("garbage", "sorting", "scalars", "archive", "records", "lightgbm_text", "progress", "frames", "tasks"),
    *("task_clusters", "validation", "other_tasks", "targets", "features", "holdout", "long_table", "target_table"),
    "sources",
)
ORDER = {
    "boosting": (
        *("entries", "lowering", "linking", "loading", "jit", "in_place", "sums", "threads", "quantile", "losses"),
        *("binning", "histogram", "packed_histogram"),
        *("splitting", "numeric_splits", "category_splits", "feature_splits", "small_nodes"),
        *("partition", "node_search", "level", "addresses", "level_categories", "level_search"),
        *("leaves", "tree_arrays", "tree", "symmetric", "local_bins", "local_search", "small_trees", "task_trees"),
        *("leaf_masks", "scoring", "coded_rows", "collecting", "forest", "sampling"),
        *("rows", "theta", "line", "growing", "derivatives", "disagreement", "distributed_growth", "distributed"),
        *("options", "fused_state", "fused_kernel", "fused_rounds", "rmtgb", "similarity", "sharing", "averaging"),
        *("adapt", "importance", "export"),
    ),
    "neural": (
        *("ranks", "device", "columns", "tokens", "attention", "stacked", "network", "expert_parts", "experts"),
        *("losses", "blending", "weighting", "averaging", "stepping", "watching", "sharpness", "pretext"),
        *("training", "members", "adapting", "storing", "onnx"),
    ),
}
STANDS_ALONE = {"losses": {"jit", "in_place", "sums", "threads", "quantile"}}  # and what it may import all the same

# Package -> the places in mttab that may import it.
ONLY_IN = {
    "torch": ("_core.neural", "multitabnet", "experts"),
    "numba": ("_core.boosting",),
    "matplotlib": ("plotting",),
    "dask": ("dask", "_dask_pieces"),
    "distributed": ("dask", "_dask_checks", "_dask_crew", "_dask_meeting", "_dask_workers"),
    "onnx": ("_core.neural",),
    "onnxruntime": ("_core.neural",),
    "safetensors": ("_core.archive",),
}


class Import(NamedTuple):
    """One imported module: `module` as an absolute dotted name, with its imported name if that may be a module too."""

    module: str
    line: int
    is_nested: bool


def find_imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Imports of a module of `package`, those in functions included and those for type checkers left out."""

    def walk(node: ast.AST, is_nested: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                for statement in child.orelse:
                    yield from walk(statement, is_nested)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, is_nested)
            elif isinstance(child, ast.ImportFrom):
                parents = package.split(".")
                above = parents[: len(parents) - child.level + 1] if child.level else []
                base = ".".join([*above, *filter(None, [child.module])])
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, is_nested)
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, is_nested or is_function)

    yield from walk(ast.Module(body=[tree], type_ignores=[]), False)


def is_within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def why_forbidden(here: str, target: str, is_nested: bool) -> str | None:
    """The rule that an import of `target` by `here` breaks, or None. Both are dotted names below mttab."""
    if not here:  # mttab/__init__.py names everything, lazily
        return None
    if not target:
        return "only __version__ is read from the package's own __init__"
    here_parts, target_parts = here.split("."), target.split(".")
    if here_parts[0] != "_core":
        home, goal = here_parts[0], target_parts[0]
        if goal in ("_core", home) or goal in SIDEWAYS.get(home, ()):
            return None
        if goal in LAZY.get(home, ()):
            return None if is_nested else f"{home} may import {goal} only inside a function"
        if home in SUPPORT and goal in ESTIMATORS:
            return f"{home} never imports estimators"
        return f"{home} may not import {goal}: not in SIDEWAYS"
    if target_parts[0] != "_core":
        return "_core imports nothing from the layers above it"
    if len(here_parts) == 1 or len(target_parts) == 1:
        return None
    home, goal = here_parts[1], target_parts[1]
    if home in ORDER and goal in PLAIN:
        return None
    if home in PLAIN and goal in ORDER:
        return f"_core.{home} lies below _core.{goal}"
    if home in ORDER and goal in ORDER and home != goal:
        return f"_core.{home} and _core.{goal} do not know each other"
    if home not in ORDER or goal not in ORDER:
        return why_out_of_order(home, goal, PLAIN)
    if len(here_parts) == 2 or len(target_parts) == 2:
        return None
    return why_out_of_order(here_parts[2], target_parts[2], ORDER[home])


def why_out_of_order(user: str, used: str, order: tuple[str, ...]) -> str | None:
    for name in (user, used):
        if name not in order:
            return f"{name} has no place in the order of its folder"
    if user in STANDS_ALONE and used not in STANDS_ALONE[user]:
        return f"{user} stands alone"
    return f"{used} lies above {user}" if order.index(used) > order.index(user) else None


def resolve(imported: str, modules: set[str]) -> str:
    """The module that `imported` means: itself, or what remains once the trailing name is cut off."""
    return imported if imported in modules else imported.rpartition(".")[0]


def find_violations(here: str, source: str, modules: set[str], is_package: bool = False) -> list[str]:
    """What is wrong with the module `here` (dotted, below mttab), given the dotted names of all modules."""
    tree = ast.parse(source)
    full = f"mttab.{here}" if here else "mttab"
    found = []
    for imported, line, is_nested in find_imports(tree, full if is_package else full.rpartition(".")[0]):
        top = imported.split(".")[0]
        if top == "mttab" and imported != "mttab.__version__":
            target = resolve(imported, modules).removeprefix("mttab").removeprefix(".")
            reason = why_forbidden(here, target, is_nested)
            if reason:
                found.append(f"{full}:{line}: {reason}")
        elif top in ONLY_IN and not any(is_within(here, place) for place in ONLY_IN[top]):
            found.append(f"{full}:{line}: {top} is imported only in {', '.join(ONLY_IN[top])}")
        elif top == "sklearn" and here != "_core.validation" and any(p.startswith("_") for p in imported.split(".")):
            found.append(f"{full}:{line}: {imported} is private; only _core.validation touches such names")
    if is_within(here, "_core"):
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and node.arg == "estimator":
                found.append(f"{full}:{node.lineno}: nothing in _core receives an estimator")
    return found


def list_modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    modules = {}
    for path in sorted((ROOT / "mttab").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = list_modules()


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_layer(module):
    path = MODULES[module]
    here = module.removeprefix("mttab").removeprefix(".")
    assert find_violations(here, path.read_text(), set(MODULES), is_package=path.name == "__init__.py") == []


KNOWN = {
    *("mttab", "mttab.boosting", "mttab.metrics", "mttab.persistence", "mttab.experts", "mttab._network_base"),
    *("mttab._core", "mttab._core.boosting", "mttab._core.neural", "mttab._core.neural.network"),
    *(f"mttab._core.{name}" for name in PLAIN),
    *(f"mttab._core.boosting.{name}" for name in ORDER["boosting"]),
}


@pytest.mark.parametrize(
    ("here", "source", "reason"),
    [
        ("_core.boosting.tree", "from mttab._core.boosting import rmtgb", "lies above"),
        ("_core.boosting.tree", "from mttab._core.boosting.rmtgb import fit_blocks", "lies above"),
        ("_core.boosting.tree", "from .rmtgb import fit_blocks", "lies above"),
        ("_core.boosting.tree", "from . import rmtgb", "lies above"),
        ("_core.boosting.tree", "def grow():\n    from . import rmtgb", "lies above"),
        ("_core.boosting.tree", "import mttab._core.boosting.rmtgb as r", "lies above"),
        ("_core.boosting.losses", "from .binning import bin_columns", "stands alone"),
        ("_core.boosting.surprise", "from .binning import bin_columns", "no place in the order"),
        ("_core.surprise", "from mttab._core.tasks import TaskEncoder", "no place in the order"),
        ("_core.tasks", "from mttab._core.validation import check_table", "lies above"),
        ("_core.boosting.rmtgb", "from mttab._core.neural import network", "do not know each other"),
        ("_core.boosting.rmtgb", "from mttab.boosting import RMTGBRegressor", "layers above"),
        ("_core.tasks", "from mttab._core.boosting import tree", "lies below"),
        ("_core.tasks", "from mttab import metrics", "layers above"),
        ("_core.tasks", "import torch", "torch is imported only in"),
        ("_core.tasks", "def encode(estimator):\n    pass", "receives an estimator"),
        ("_core.tasks", "encode = lambda *, estimator: estimator", "receives an estimator"),
        ("boosting", "import numba", "numba is imported only in"),
        ("boosting", "from sklearn.utils._param_validation import Interval", "is private"),
        ("boosting", "def load():\n    import torch.nn as nn", "torch is imported only in"),
        ("boosting", "from mttab.experts import MMoE", "not in SIDEWAYS"),
        ("boosting", "from mttab import RMTGBRegressor", "own __init__"),
        ("datasets._read", "from matplotlib import pyplot", "matplotlib is imported only in"),
        ("metrics", "from mttab.boosting import RMTGBRegressor", "never imports estimators"),
        ("metrics", "def f():\n    from .boosting import RMTGBRegressor", "never imports estimators"),
        ("persistence", "from mttab.boosting import RMTGBRegressor", "only inside a function"),
    ],
)
def test_a_broken_rule_is_found(here, source, reason):
    (violation,) = find_violations(here, source, KNOWN)
    assert reason in violation


@pytest.mark.parametrize(
    ("here", "source"),
    [
        ("_core.boosting.rmtgb", "from mttab._core.boosting import tree, losses\nimport numba"),
        ("_core.boosting.rmtgb", "from mttab._core.tasks import TaskEncoder"),
        ("_core.neural.network", "import torch"),
        ("boosting", "from mttab._core.boosting.rmtgb import fit_blocks\nfrom sklearn.base import BaseEstimator"),
        ("experts", "import torch\nfrom mttab._network_base import NetworkBase"),
        ("persistence", "def load(path):\n    from mttab.boosting import RMTGBRegressor"),
        ("metrics", "if TYPE_CHECKING:\n    from mttab.boosting import RMTGBRegressor"),
        ("_core.archive", "from mttab import __version__"),
    ],
)
def test_an_allowed_import_passes(here, source):
    assert find_violations(here, source, KNOWN) == []


def test_import_mttab_loads_neither_torch_nor_matplotlib():
    check = "import sys, mttab; mttab.RMTGBRegressor; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


def test_every_public_name_exists():
    import mttab

    assert [name for name in mttab.__all__ if getattr(mttab, name, None) is None] == []
    assert dir(mttab) == sorted(mttab.__all__)
    with pytest.raises(AttributeError, match="RMTGBRegresor"):
        mttab.RMTGBRegresor  # noqa: B018
