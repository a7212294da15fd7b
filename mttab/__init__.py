"""Tabular multi-task learning, used like scikit-learn."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mttab import datasets, metrics, model_selection, plotting
    from mttab.baselines import (
        PerTaskClassifier,
        PerTaskRegressor,
        PooledClassifier,
        PooledRegressor,
        TaskAsFeatureClassifier,
        TaskAsFeatureRegressor,
    )
    from mttab.boosting import RMTGBClassifier, RMTGBRegressor
    from mttab.clustering import TaskClusterClassifier, TaskClusterRegressor
    from mttab.experts import (
        PLE,
        STEM,
        MMoE,
        MMoEClassifier,
        MMoERegressor,
        PLEClassifier,
        PLERegressor,
        SharedBottom,
        SharedBottomClassifier,
        SharedBottomRegressor,
        STEMClassifier,
        STEMRegressor,
        TaskExpert,
        TaskExpertClassifier,
        TaskExpertRegressor,
    )
    from mttab.multitabnet import MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor
    from mttab.persistence import ModelFileError, load

try:
    __version__ = version("mttab")
except PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0+unknown"

__all__ = [
    "PLE",
    "STEM",
    "MMoE",
    "MMoEClassifier",
    "MMoERegressor",
    "ModelFileError",
    "MultiTabNet",
    "MultiTabNetClassifier",
    "MultiTabNetRegressor",
    "PLEClassifier",
    "PLERegressor",
    "PerTaskClassifier",
    "PerTaskRegressor",
    "PooledClassifier",
    "PooledRegressor",
    "RMTGBClassifier",
    "RMTGBRegressor",
    "STEMClassifier",
    "STEMRegressor",
    "SharedBottom",
    "SharedBottomClassifier",
    "SharedBottomRegressor",
    "TaskAsFeatureClassifier",
    "TaskAsFeatureRegressor",
    "TaskClusterClassifier",
    "TaskClusterRegressor",
    "TaskExpert",
    "TaskExpertClassifier",
    "TaskExpertRegressor",
    "__version__",
    "datasets",
    "load",
    "metrics",
    "model_selection",
    "plotting",
]

_SUBMODULES = {"datasets", "metrics", "model_selection", "plotting"}

_EXPERTS = [
    *("MMoE", "MMoEClassifier", "MMoERegressor", "PLE", "PLEClassifier", "PLERegressor"),
    *("STEM", "STEMClassifier", "STEMRegressor", "SharedBottom", "SharedBottomClassifier", "SharedBottomRegressor"),
    *("TaskExpert", "TaskExpertClassifier", "TaskExpertRegressor"),
]

# Public name -> module that defines it. Everything loads on first use, so `import mttab` costs next to nothing and an
# estimator that needs an extra can be listed here beside those that need none.
_HOME_OF = {
    **dict.fromkeys(_EXPERTS, "mttab.experts"),
    "ModelFileError": "mttab.persistence",
    "MultiTabNet": "mttab.multitabnet",
    "MultiTabNetClassifier": "mttab.multitabnet",
    "MultiTabNetRegressor": "mttab.multitabnet",
    "PerTaskClassifier": "mttab.baselines",
    "PerTaskRegressor": "mttab.baselines",
    "PooledClassifier": "mttab.baselines",
    "PooledRegressor": "mttab.baselines",
    "RMTGBClassifier": "mttab.boosting",
    "RMTGBRegressor": "mttab.boosting",
    "TaskAsFeatureClassifier": "mttab.baselines",
    "TaskAsFeatureRegressor": "mttab.baselines",
    "TaskClusterClassifier": "mttab.clustering",
    "TaskClusterRegressor": "mttab.clustering",
    "load": "mttab.persistence",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"mttab.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mttab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
