"""Objects of known classes ↔ their fields, which are checked against the annotations of the class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import numpy as np


def require(is_fine: Any, rule: str) -> None:
    """Raise ValueError with the rule that a restored object breaks."""
    if not is_fine:
        raise ValueError(rule)


def fields_of(value: Any) -> dict[str, Any]:
    """What a NamedTuple, a dataclass or a plain object consists of."""
    if isinstance(value, tuple):
        return value._asdict()  # type: ignore[attr-defined]
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return dict(vars(value))


def build(cls: type, fields: dict[str, Any]) -> Any:
    """An object of the class from its fields; a plain class is not called, its attributes are set.

    Where the class has a method ``check_state``, that has the last word.

    Raises
    ------
    ValueError
        If a field is unknown, absent, or not what the class says it is.
    """
    hints, optional = field_hints(cls)
    unknown = [name for name in fields if name not in hints]
    require(not unknown, f"{cls.__name__} has no {unknown[:1]}; a newer version of mttab may know it, update")
    absent = [name for name in hints if name not in fields and name not in optional]
    require(not absent, f"{cls.__name__} needs {absent[:1]}")
    for name, value in fields.items():
        check_type(value, hints[name], f"{cls.__name__}.{name}")
    if issubclass(cls, tuple) or dataclasses.is_dataclass(cls):
        made: Any = cls(**fields)
    else:
        made = cls.__new__(cls)
        vars(made).update(fields)
    if hasattr(made, "check_state"):
        made.check_state()
    return made


@cache
def field_hints(cls: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Annotated fields of a class, and which of them need not be given."""
    hints = {name: hint for name, hint in get_type_hints(cls).items() if ClassVar not in (hint, get_origin(hint))}
    if dataclasses.is_dataclass(cls):
        fields = [field for field in dataclasses.fields(cls) if field.init]
        no_default = (dataclasses.MISSING, dataclasses.MISSING)
        optional = {field.name for field in fields if (field.default, field.default_factory) != no_default}
        return {field.name: hints[field.name] for field in fields}, frozenset(optional)
    return hints, frozenset(name for name in hints if name in getattr(cls, "_field_defaults", vars_of_all(cls)))


def vars_of_all(cls: type) -> set[str]:
    """Names that a class or one above it has a value for."""
    return {name for parent in cls.__mro__ for name in vars(parent)}


def check_type(value: Any, hint: Any, name: str) -> None:
    """Raise ValueError unless a value is what an annotation says."""
    require(_fits(value, hint), f"{name} is a {type(value).__name__}, where {_named(hint)} belongs")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is list:
        return type(value) is list and all(_fits(item, parts[0]) for item in value)
    if origin is tuple:
        is_any_length = len(parts) == 2 and parts[1] is Ellipsis
        wanted: Sequence[Any] = parts[:1] * len(value) if is_any_length else parts
        return type(value) is tuple and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if origin is dict:
        return type(value) is dict and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if hint in (None, NoneType):
        return value is None
    if hint is float:
        return isinstance(value, (float, int, np.floating)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    return isinstance(value, hint)


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
