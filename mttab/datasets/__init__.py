"""Synthetic multi-task data, and a reader for folders of real data."""

from ._manifest import View, load_manifest
from ._multitask import make_multitask, make_multitask_classification, make_multitask_regression
from ._task_groups import make_task_groups

__all__ = [
    "View",
    "load_manifest",
    "make_multitask",
    "make_multitask_classification",
    "make_multitask_regression",
    "make_task_groups",
]
