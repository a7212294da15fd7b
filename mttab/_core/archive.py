"""Nested dicts, lists, scalars, arrays and records ↔ one safetensors file; knows no estimator, and executes nothing.

Numbers go into tensors, everything else is JSON in the metadata of the file:

    format, format_version   "mttab", and a number that grows when old readers would misunderstand
    header                   what the caller wants to be readable without the rest
    content                  the structure; an array in it names its tensor
    sha256                   of all metadata and all tensors
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as join_tensors

from mttab._core.scalars import is_storable_tensor, scalar_from_json, scalar_to_json

FORMAT = "mttab"
FORMAT_VERSION = 1
# An object of the JSON that is not a plain dict has this key, whose value says what it is.
TAG = "$"


class ModelFileError(ValueError):
    """A file that cannot be read as a model: no model file, truncated, altered, or of a newer version."""


class NotStorableError(TypeError):
    """A value that such a file cannot hold.

    Attributes
    ----------
    where : str
        Where in the structure it stands.
    value : object
    """

    def __init__(self, where: str, value: Any) -> None:
        super().__init__(where, value)
        self.where, self.value = where, value

    def __str__(self) -> str:
        return f"{self.where} is {shown(self.value)}, which a model file cannot hold"


class Record(NamedTuple):
    """An object by the name of its kind and its fields; the caller knows what that means."""

    kind: str
    fields: dict[str, Any]


def write(
    path: str | os.PathLike[str], header: dict[str, Any], content: Any, pack: Callable[[Any], Record | None]
) -> None:
    """Write a structure, in one step: where that fails, a file that was there before stays as it was.

    Parameters
    ----------
    path : path-like
        Overwritten where it exists.
    header : dict
        Plain JSON.
    content : object
        Nested dicts, lists, tuples, scalars and arrays, and what `pack` makes records of.
    pack : callable
        Makes a `Record` of any other object, or None of one that it does not know.

    Raises
    ------
    NotStorableError
        If the structure holds something else.
    """
    writer = _Writer(pack)
    try:
        encoded = writer.encode(content, "")
    except RecursionError:
        raise NotStorableError("a part of the model that contains itself", content) from None
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "header": _dump(header),
        "content": _dump(encoded),
    }
    write_atomically(Path(path), seal(writer.tensors, metadata))


def seal(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The bytes of a file, with their checksum."""
    return join_tensors(tensors, {**metadata, "sha256": _digest(tensors, metadata)})


def read(path: str | os.PathLike[str], unpack: Callable[[Record], Any]) -> tuple[dict[str, Any], Any]:
    """The header and the structure of a file.

    Parameters
    ----------
    path : path-like
    unpack : callable
        Makes an object of a `Record`, whose fields have been read already.

    Raises
    ------
    ModelFileError
        If the file is none of these, truncated, altered, or newer than this reader.
    """
    return parse(Path(path).read_bytes(), os.fspath(path), unpack)


def parse(data: bytes, name: str, unpack: Callable[[Record], Any]) -> tuple[dict[str, Any], Any]:
    """`read` for the content of a file, which is called by its name in errors."""
    tensors, metadata = unseal(data, name)
    try:
        header, content = json.loads(metadata["header"]), json.loads(metadata["content"])
        return header, _Reader(tensors, unpack).decode(content)
    except ModelFileError:
        raise
    except (ImportError, MemoryError):  # an extra is missing, not a part of the file
        raise
    except Exception as err:
        why = str(err) or type(err).__name__
        raise ModelFileError(
            f"{name!r} holds no model that can be restored ({why}); read it with the version of mttab that wrote it, "
            "or a newer one, or save the model anew."
        ) from err


def unseal(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file, its version and its checksum verified."""
    try:
        tensors = parse_tensors(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, RecursionError) as err:
        raise ModelFileError(
            f"{name!r} is no model file that save wrote, or is truncated ({err}); copy it again from its source, "
            "or save the model anew."
        ) from err
    if metadata.get("format") != FORMAT or not metadata.get("format_version", "").isdecimal():
        raise ModelFileError(f"{name!r} is a safetensors file, but none that save of mttab wrote; pass one.")
    if int(metadata["format_version"]) > FORMAT_VERSION:
        raise ModelFileError(
            f"{name!r} has format version {metadata['format_version']}, but this mttab reads up to "
            f"{FORMAT_VERSION}; update it (pip install --upgrade mttab), or save the model with an older one."
        )
    if metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise ModelFileError(
            f"{name!r} was altered after it was saved: its checksum does not fit; copy it again from its source, "
            "or save the model anew."
        )
    return {key: array.copy() for key, array in tensors.items()}, metadata


def shown(value: Any) -> str:
    """A value for an error message, cut off where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(_dump(sorted(metadata.items())).encode())
    for name, array in sorted(tensors.items()):
        digest.update(_dump([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file in one step: where that fails, one that was there before stays as it was."""
    path = path.resolve()  # a link keeps pointing to the file
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{str(path.parent)!r}, where the file is to be, is no folder; make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; pass the name of a file in it.")
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


class _Writer:
    """Structure → JSON, with the arrays put aside. An array that occurs twice is stored once."""

    def __init__(self, pack: Callable[[Any], Record | None]) -> None:
        self._pack = pack
        self.tensors: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._kept: list[np.ndarray] = []  # alive, so that no two have one id

    def encode(self, value: Any, where: str) -> Any:
        if type(value) is list:
            return [self.encode(part, f"{where}[{i}]") for i, part in enumerate(value)]
        if type(value) is tuple:
            return {TAG: "tuple", "items": self.encode(list(value), where)}
        if type(value) is dict:
            if all(type(key) is str for key in value) and TAG not in value:
                return {key: self.encode(part, f"{where}.{key}".lstrip(".")) for key, part in value.items()}
            parts = [
                [self.encode(key, f"the key {key!r} of {where}"), self.encode(part, f"{where}[{key!r}]")]
                for key, part in value.items()
            ]
            return {TAG: "dict", "items": parts}
        if type(value) is np.ndarray:
            return self._array(value, where)
        found = scalar_to_json(value)
        if found is not None or value is None:
            return found
        record = value if type(value) is Record else self._pack(value)
        if record is None:
            raise NotStorableError(where, value)
        return {TAG: "record", "kind": record.kind, "fields": self.encode(record.fields, where)}

    def _array(self, array: np.ndarray, where: str) -> Any:
        if is_storable_tensor(array.dtype):
            return {TAG: "array", "name": self._name(array)}
        if array.dtype.kind in "mM":  # as the integers that they are
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            return {TAG: "times", "dtype": native.dtype.str, "name": self._name(native.view(np.int64))}
        if array.dtype.kind not in "OU":
            raise NotStorableError(where, array)
        parts = [self.encode(part, f"{where}[{i}]") for i, part in enumerate(array.ravel().tolist())]
        return {TAG: "objects", "dtype": array.dtype.str, "shape": list(array.shape), "items": parts}

    def _name(self, array: np.ndarray) -> str:
        if id(array) not in self._names:
            self._kept.append(array)
            name = self._names[id(array)] = f"array{len(self.tensors)}"
            self.tensors[name] = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
        return self._names[id(array)]


class _Reader:
    """The reverse."""

    def __init__(self, tensors: dict[str, np.ndarray], unpack: Callable[[Record], Any]) -> None:
        self._tensors, self._unpack = tensors, unpack

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(part) for part in value]
        if not isinstance(value, dict):
            return value
        tag = value.get(TAG)
        if tag is None:
            return {key: self.decode(part) for key, part in value.items()}
        if tag == "tuple":
            return tuple(self.decode(value["items"]))
        if tag == "dict":
            return {self.decode(key): self.decode(part) for key, part in value["items"]}
        if tag == "array":
            return self._tensors[value["name"]]
        if tag == "times":
            return self._tensors[value["name"]].view(_checked(value["dtype"], "mM"))
        if tag == "objects":
            return self._objects(value)
        if tag == "record":
            return self._unpack(Record(value["kind"], self.decode(value["fields"])))
        return scalar_from_json(value)

    def _objects(self, value: dict[str, Any]) -> np.ndarray:
        out = np.empty(len(value["items"]), dtype=_checked(value["dtype"], "OU"))
        for i, part in enumerate(value["items"]):  # one by one, because numpy would unpack tuples into a second axis
            out[i] = self.decode(part)
        return out.reshape(value["shape"])


def _checked(name: str, kinds: str) -> np.dtype:
    """The type of an array, of these kinds."""
    dtype = np.dtype(name)
    if dtype.kind not in kinds:
        raise ValueError(f"{name!r} is no type of such an array")
    return dtype
