"""One file for nested structures: what goes in comes out, and a damaged file is refused."""

import json
import math
import os
import pickle
import stat
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from equality import assert_same
from mttab._core.archive import ModelFileError, NotStorableError, Record, parse, read, seal, unseal, write
from mttab._core.records import build


def nothing(value):
    return None


def round_trip(content, folder, pack=nothing, unpack=lambda record: record):
    path = folder / "file.mttab"
    write(path, {"class": "test"}, content, pack)
    header, again = read(path, unpack)
    assert header == {"class": "test"}
    return again


STAMPS = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)).map(pd.Timestamp)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=5)),
    *(
        st.dates(),
        st.datetimes(),
        st.timedeltas(),
        STAMPS,
        STAMPS.map(lambda t: t.tz_localize("Europe/Vienna", ambiguous=True, nonexistent="shift_forward")),
    ),
    st.sampled_from(
        [pd.NaT, pd.NA, Decimal("1.10"), "\ud800", np.float32(0.1), np.int64(3), np.bool_(True), np.str_("a")]
    ),
    st.sampled_from([np.datetime64("2020-01-01"), np.timedelta64(3, "s"), np.datetime64("NaT"), pd.Timedelta("1h")]),
)
DTYPES = st.sampled_from(["f8", "f4", "f2", ">f8", "i8", "i4", "i1", "u8", "u1", "?", "M8[ns]", "m8[s]", "<U3"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.text(), st.integers()), st.just("$"))
STRUCTURES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=3).map(tuple), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(content=STRUCTURES)
def test_every_structure_comes_back_as_it_was(content, tmp_path_factory):
    again = round_trip(content, tmp_path_factory.getbasetemp())
    assert_same(_native(content), again)


def _native(value):
    """Arrays in the byte order of this machine, which is the only thing that may change."""
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("="))
    if isinstance(value, (list, tuple)):
        return type(value)(_native(part) for part in value)
    return {key: _native(part) for key, part in value.items()} if isinstance(value, dict) else value


def test_labels_of_all_kinds_keep_their_types(tmp_path):
    labels = np.empty(8, dtype=object)
    labels[:] = ["a", 1, 1.5, True, ("north", 3), pd.Timestamp("2020-01-01", tz="UTC"), date(2020, 1, 1), None]
    assert_same(round_trip(labels, tmp_path), labels)


def test_an_array_that_occurs_twice_is_stored_once_and_shared_again(tmp_path):
    values = np.arange(1000.0)
    first, second = round_trip([values, values], tmp_path)
    assert first is second
    assert os.path.getsize(tmp_path / "file.mttab") < 10_000
    first[0] = 5.0  # may be written to


class Point(NamedTuple):
    x: int
    y: float = 0.0


def test_objects_go_through_records(tmp_path):
    again = round_trip(
        {"at": [Point(1, 2.0)]},
        tmp_path,
        lambda value: Record("point", value._asdict()) if isinstance(value, Point) else None,
        lambda record: build(Point, record.fields),
    )
    assert again == {"at": [Point(1, 2.0)]}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, object()]}, r"a\[1\]"),
        ({"f": {"g": len}}, "f.g"),
        ([1j], r"\[0\]"),
        ({"c": np.array([1j])}, "c"),
        ({"z": datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1), "odd")), "s": {1, 2}}, "s"),
        ({"o": np.array([object()])}, r"o\[0\]"),
        ({"structured": np.zeros(2, dtype=[("a", "f8")])}, "structured"),
    ],
)
def test_what_cannot_be_stored_is_named(value, where, tmp_path):
    with pytest.raises(NotStorableError, match=where):
        round_trip(value, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_structure_that_contains_itself_is_refused(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(NotStorableError, match="contains itself"):
        round_trip(loop, tmp_path)


# --- the file -------------------------------------------------------------------------------------------------------

CONTENT = {"numbers": np.arange(5.0), "flags": np.array([True, False]), "name": "ä", "nan": math.nan, "at": (1, None)}


@pytest.fixture
def saved(tmp_path):
    write(tmp_path / "model.mttab", {"class": "test"}, CONTENT, nothing)
    return tmp_path / "model.mttab"


def test_a_file_cut_off_anywhere_is_refused(saved):
    data = saved.read_bytes()
    for length in range(len(data)):
        with pytest.raises(ModelFileError, match="my model"):
            parse(data[:length], "my model", nothing)
    with pytest.raises(ModelFileError):
        parse(data + b"\0", "my model", nothing)


def test_a_file_with_any_byte_changed_is_refused_or_reads_the_same(saved):
    data = saved.read_bytes()
    n_refused = 0
    for place in range(len(data)):
        for byte in {data[place] ^ 1, data[place] ^ 128, 0, ord("9"), ord(" ")} - {data[place]}:
            try:
                _, content = parse(data[:place] + bytes([byte]) + data[place + 1 :], "changed", nothing)
            except ModelFileError:
                n_refused += 1
            else:  # a blank of the header
                assert_same(content, CONTENT)
    assert n_refused > 3 * len(data)


def test_a_newer_file_is_refused_with_the_remedy(saved):
    tensors, metadata = unseal(saved.read_bytes(), "saved")
    saved.write_bytes(seal(tensors, {**metadata, "format_version": "2"}))
    with pytest.raises(ModelFileError, match=r"format version 2, but this mttab reads up to 1; update it"):
        read(saved, nothing)


@pytest.mark.parametrize("data", [b"", b"text", pickle.dumps({"a": 1}), b"\x10" + b"\0" * 7 + b"{}" + b" " * 14])
def test_another_kind_of_file_is_refused(data, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="other"):
        read(path, nothing)


def test_safetensors_of_another_program_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelFileError, match="none that save of mttab wrote"):
        read(tmp_path / "weights.safetensors", nothing)


@pytest.mark.parametrize(
    "content",
    [
        {"$": "array", "name": "nowhere"},
        {"$": "code", "value": "import os"},
        {"$": "objects", "dtype": "f8", "shape": [1], "items": [1]},
        {"$": "objects", "dtype": "O", "shape": [3], "items": [1]},
        {"$": "times", "dtype": "f8", "name": "array0"},
        {"$": "dict", "items": [[[1], 2]]},
        {"$": "numpy", "value": ["O", 1]},
        {"$": "timestamp", "value": [1, "f8", None]},
        {"$": ["unhashable"]},
        {"$": "tuple"},
    ],
)
def test_a_sealed_file_with_nonsense_in_it_is_refused(content, saved):
    tensors, metadata = unseal(saved.read_bytes(), "saved")
    saved.write_bytes(seal(tensors, {**metadata, "content": json.dumps(content)}))
    with pytest.raises(ModelFileError, match="holds no model that can be restored"):
        read(saved, nothing)


def test_a_sealed_file_nested_too_deeply_is_refused(saved):
    tensors, metadata = unseal(saved.read_bytes(), "saved")
    saved.write_bytes(seal(tensors, {**metadata, "content": "[" * 100_000 + "]" * 100_000}))
    with pytest.raises(ModelFileError):
        read(saved, nothing)


def test_the_header_is_plain_json_for_other_programs(saved):
    from safetensors import safe_open

    with safe_open(saved, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "mttab"
    assert json.loads(metadata["header"]) == {"class": "test"}
    assert json.loads(metadata["content"])["name"] == "ä"


def test_a_failed_write_leaves_the_file_that_was_there(saved, monkeypatch):
    before = saved.read_bytes()
    with pytest.raises(NotStorableError):
        write(saved, {}, [object()], nothing)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(saved, {}, [1], nothing)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_write_overwrites_and_keeps_a_link(saved):
    link = saved.with_name("link.mttab")
    link.symlink_to(saved)
    write(os.fspath(link), {}, "new", nothing)
    assert link.is_symlink()
    assert read(saved, nothing)[1] == "new"


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    write(tmp_path / "a", {}, 1, nothing)
    (tmp_path / "b").write_text("")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_place_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        write(tmp_path / "absent" / "model", {}, 1, nothing)
    with pytest.raises(IsADirectoryError, match="folder"):
        write(tmp_path, {}, 1, nothing)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent", nothing)


def test_times_with_a_fixed_offset_come_back(tmp_path):
    times = [
        datetime(2020, 1, 1, 12, tzinfo=UTC),
        pd.Timestamp("2020-01-01", tz="UTC"),
        pd.Timestamp("2020", unit=None),
    ]
    assert_same(round_trip(times, tmp_path), times)
