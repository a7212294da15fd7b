"""Checks of generator arguments that are a number or one number per task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOISE_UNITS = ("absolute", "label_sd")
TASK_TYPES = ("regression", "binary", "multiclass")
_PUBLISHED_N_TASKS = 7


def per_task(
    value: Any, name: str, n_tasks: int, *, low: float, high: float = np.inf, below_high: bool = False
) -> NDArray[np.float64]:
    """`value`, a number or one per task, as an array of shape (n_tasks,) with all entries in [low, high].

    With `below_high` they must be less than `high`. All must be finite.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} must be a number or a sequence of {n_tasks} numbers.") from None
    if array.ndim > 1 or (array.ndim == 1 and len(array) != n_tasks):
        raise ValueError(
            f"{name} must be a number or a sequence with one entry per task ({n_tasks}), got shape {array.shape}."
        )
    if not np.all((array >= low) & (array < high if below_high else array <= high) & np.isfinite(array)):
        bound = f"at least {low:g}" if np.isinf(high) else f"between {low:g} and {high:g}"
        bound = bound if np.isfinite(array).all() else "finite"
        raise ValueError(f"{name}={value!r} must be {bound}{f', and less than {high:g}' if below_high else ''}.")
    return np.broadcast_to(array, (n_tasks,)).copy()


def per_task_count(value: Any, name: str, n_tasks: int, *, low: int, high: float = np.inf) -> NDArray[np.int64]:
    """`value`, a whole number or one per task, as an integer array of shape (n_tasks,)."""
    array = per_task(value, name, n_tasks, low=low, high=high)
    if np.any(array != np.floor(array)):
        raise ValueError(f"{name}={value!r} must be a whole number, or one whole number per task.")
    return array.astype(np.int64)


def count(value: Any, name: str, *, low: int) -> int:
    """`value` as an int of at least `low`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {low}.")
    return int(value)


def one_of(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """`value` if it is one of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}.")
    return value


def infer_n_tasks(n_tasks: int | None, *maybe_per_task: Any) -> int:
    """`n_tasks`, or the length of the first argument that has one entry per task, or the published number."""
    if n_tasks is not None:
        return count(n_tasks, "n_tasks", low=1)
    for value in maybe_per_task:
        entries = list(value) if np.iterable(value) and not isinstance(value, str) else []
        if entries:
            return len(entries)
    return _PUBLISHED_N_TASKS


def types_per_task(task_types: str | Sequence[str] | None, n_tasks: int) -> tuple[str, ...]:
    """The type of each task."""
    if task_types is None:
        return tuple(islice(cycle(TASK_TYPES), n_tasks))
    kinds = list(task_types) if np.iterable(task_types) and not isinstance(task_types, str) else [task_types] * n_tasks
    if len(kinds) != n_tasks:
        raise ValueError(f"task_types must be one type or {n_tasks}, one per task, got {len(kinds)}.")
    return tuple(one_of(kind, "task_types", TASK_TYPES) for kind in kinds)
