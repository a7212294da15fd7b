"""Equality of nested structures in every bit and every type, for tests that store and load."""

import math

import numpy as np
import pandas as pd


def assert_same(one, other, where="value"):
    """Same types, same values, and same attributes of objects."""
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        if one.dtype.kind == "O":
            assert_same(one.ravel().tolist(), other.ravel().tolist(), where)
        else:
            assert np.array_equal(one, other, equal_nan=one.dtype.kind in "fmM"), where
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other, check_exact=True)
    elif isinstance(one, pd.Index):
        assert one.identical(other), where
    elif isinstance(one, dict):
        assert len(one) == len(other), where
        for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
            assert_same(key, other_key, f"a key of {where}")
            assert_same(value, other_value, f"{where}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, parts in enumerate(zip(one, other, strict=True)):
            assert_same(*parts, f"{where}[{i}]")
    elif hasattr(one, "state_dict"):
        assert_same(dict(one.state_dict()), dict(other.state_dict()), where)
    elif hasattr(one, "numpy") and hasattr(one, "dtype"):
        assert_same(one.cpu().numpy(), other.cpu().numpy(), where)  # wherever they are
    elif isinstance(one, np.random.RandomState):
        assert_same(one.get_state(legacy=False), other.get_state(legacy=False), where)
    elif isinstance(one, (float, np.floating)):
        both_nan = math.isnan(one) and math.isnan(other)
        assert both_nan or (one == other and math.copysign(1, one) == math.copysign(1, other)), where
    elif isinstance(one, (pd.Timestamp, pd.Timedelta)):
        assert (one, one.unit) == (other, other.unit), where
        assert str(getattr(one, "tz", None)) == str(getattr(other, "tz", None)), where
    elif hasattr(one, "__dict__") and not isinstance(one, type):
        assert_same(vars(one), vars(other), where)
    elif hasattr(one, "labels"):  # TaskLabels
        assert_same(one.labels, other.labels, where)
    elif not (one is other or (isinstance(one, (np.datetime64, np.timedelta64)) and np.isnat(one))):
        assert one == other, where
