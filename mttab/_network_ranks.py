"""Whether processes that train one network together have been given the same options and the same table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mttab._core.frames import pandas_if_table
from mttab._core.neural.members import EncodedRows
from mttab._core.neural.ranks import SAME_FIT, check_same, n_ranks

# Options that may differ from process to process, without another network.
_FREE = {"device", "n_jobs", "verbose"}


def check_same_arguments(net: Any, arguments: Mapping[str, Any]) -> None:
    """Raise, in all processes, unless the options of an estimator and the arguments of its fit are the same."""
    if n_ranks() == 1:
        return
    options = {name: value for name, value in net.get_params(deep=False).items() if name not in _FREE}
    named = {f"The option {name}": _told_apart(value) for name, value in options.items()}
    check_same(named | {name: _content(value) for name, value in arguments.items()}, SAME_FIT)


def check_same_rows(rows: EncodedRows) -> None:
    """The same for the rows of a table that was read in pieces."""
    named = {"X": tuple(rows.columns), "y": rows.y, "sample_weight": rows.weight, "The tasks of the rows": rows.task}
    check_same(named, SAME_FIT)


def _told_apart(option: Any) -> Any:
    """What tells an option from another one: objects that print as an address, such as a generator, only by class."""
    if isinstance(option, np.ndarray):
        return option  # as text a long one is shortened
    text = repr(option)
    return type(option).__name__ if " at 0x" in text or isinstance(option, np.random.RandomState) else text


def _content(table: Any) -> Any:
    """A table or a column as arrays that are equal where the content is."""
    if table is None or isinstance(table, (str, bytes)) or not hasattr(table, "__len__"):
        return type(table).__name__  # what is read in pieces is compared when it has been read
    table = pandas_if_table(table, name="X")
    if isinstance(table, (pd.DataFrame, pd.Series)):
        columns = [str(name) for name in table.columns] if isinstance(table, pd.DataFrame) else []
        return np.array(columns, dtype=str), _hashed(table)
    values = np.asarray(table)
    return _hashed(pd.DataFrame(values.reshape(len(values), -1))) if values.dtype == object else values


def _hashed(table: pd.DataFrame | pd.Series) -> np.ndarray:
    """A number per row, which is the same for equal values."""
    try:
        return pd.util.hash_pandas_object(table, index=False).to_numpy()
    except TypeError:  # values that cannot be hashed, of several kinds: compared as text
        return pd.util.hash_pandas_object(table.astype(str), index=False).to_numpy()
