"""Single values that JSON has no form for: NaN, dates, numpy's scalars. Each goes and comes back as what it is."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

_TENSOR_TYPES = {np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")}


class _Form(NamedTuple):
    """How values of one type are written: as JSON, and back from it."""

    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


def _read_datetime(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _timestamp_to_json(value: pd.Timestamp) -> list[Any]:
    return [*_time_to_json(value.asm8), None if value.tz is None else str(value.tz)]


def _timestamp_from_json(parts: list[Any]) -> pd.Timestamp:
    stamp = pd.Timestamp(_time_from_json(parts[:2]))
    return stamp if parts[2] is None else stamp.tz_localize("UTC").tz_convert(parts[2])


def _time_to_json(value: np.datetime64 | np.timedelta64) -> list[Any]:
    return [int(value.view("i8")), value.dtype.str]


def _time_from_json(parts: list[Any]) -> Any:
    dtype = np.dtype(parts[1])
    if dtype.kind not in "mM":
        raise ValueError(f"{dtype} is no type of a time")
    return np.array(parts[0], dtype=np.int64).view(dtype)[()]


def _number_from_json(parts: list[Any]) -> Any:
    dtype = np.dtype(parts[0])
    if dtype.kind not in "biufU":
        raise ValueError(f"{dtype} is no type of a number")
    return dtype.type(parts[1] if not isinstance(parts[1], dict) else scalar_from_json(parts[1]))


_FORMS: dict[type, tuple[str, _Form]] = {
    float: ("float", _Form(repr, float)),  # not finite, see scalar_to_json
    bytes: ("bytes", _Form(lambda v: base64.b64encode(v).decode(), base64.b64decode)),
    date: ("date", _Form(date.isoformat, date.fromisoformat)),
    datetime: ("datetime", _Form(datetime.isoformat, _read_datetime)),
    timedelta: (
        "timedelta",
        _Form(lambda v: [v.days, v.seconds, v.microseconds], lambda v: timedelta(v[0], v[1], v[2])),
    ),
    Decimal: ("decimal", _Form(str, Decimal)),
    pd.Timestamp: ("timestamp", _Form(_timestamp_to_json, _timestamp_from_json)),
    pd.Timedelta: (
        "pandas timedelta",
        _Form(lambda v: _time_to_json(v.asm8), lambda v: pd.Timedelta(_time_from_json(v))),
    ),
    type(pd.NaT): ("NaT", _Form(lambda v: None, lambda v: pd.NaT)),
    type(pd.NA): ("NA", _Form(lambda v: None, lambda v: pd.NA)),
    np.datetime64: ("numpy time", _Form(_time_to_json, _time_from_json)),
    np.timedelta64: ("numpy time", _Form(_time_to_json, _time_from_json)),
}
_READERS = {tag: form.from_json for tag, form in _FORMS.values()} | {"numpy": _number_from_json}


def is_storable_tensor(dtype: np.dtype) -> bool:
    """Whether arrays of this type, in either byte order, are tensors of a file."""
    return dtype.newbyteorder("=") in _TENSOR_TYPES


def scalar_to_json(value: Any) -> Any:
    """JSON of one value, tagged where JSON has no form for it; None for None and for what is no such value."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float and math.isfinite(value):
        return value
    if isinstance(value, np.generic) and (is_storable_tensor(value.dtype) or value.dtype.kind == "U"):
        return {"$": "numpy", "value": [value.dtype.str, scalar_to_json(value.item())]}
    if kind not in _FORMS:
        return None
    tag, form = _FORMS[kind]
    if isinstance(value, datetime) and not isinstance(value, pd.Timestamp) and not _has_plain_zone(value):
        return None
    try:
        found = {"$": tag, "value": form.to_json(value)}
        # Some zones of times cannot be written by name.
        is_same = kind is float or not isinstance(value, datetime) or scalar_from_json(found).tzinfo == value.tzinfo
    except Exception:
        return None
    return found if is_same else None


def _has_plain_zone(value: datetime) -> bool:
    return value.tzinfo is None or type(value.tzinfo) is timezone


def scalar_from_json(value: dict[str, Any]) -> Any:
    """The reverse, for a tagged one.

    Raises
    ------
    ValueError
        If the tag is none of these.
    """
    if value.get("$") not in _READERS:
        raise ValueError(f"{value.get('$')!r} is no kind of value that this version knows")
    return _READERS[value["$"]](value["value"])
