"""Tables of other libraries, such as polars and pyarrow, as pandas DataFrames."""

from __future__ import annotations

from typing import Any

import pandas as pd


def pandas_if_table(table: Any, *, name: str) -> Any:
    """A DataFrame for a table of any library that can make one of it; anything else as it is.

    Parameters
    ----------
    table : object
    name : str
        What the user calls it, for error messages.

    Raises
    ------
    TypeError
        If it is a table whose rows are not there yet, or a dict.
    """
    if isinstance(table, (pd.DataFrame, pd.Series)):
        return table
    if isinstance(table, dict) and not hasattr(table, "toarray"):  # one of the sparse formats is a dict
        raise TypeError(f"{name} is a dict; pass a table, for example pandas.DataFrame({name}).")
    kind = type(table)  # asked instead of the table itself, which may have to work to answer
    for method in ("collect", "compute"):
        if hasattr(kind, method) and (hasattr(kind, "columns") or hasattr(kind, "dtype")):
            raise TypeError(f"{name} is a {kind.__name__}, whose rows are not there yet; pass {name}.{method}().")
    is_table = hasattr(kind, "columns") or hasattr(kind, "column_names")
    return table.to_pandas() if is_table and hasattr(kind, "to_pandas") else table
