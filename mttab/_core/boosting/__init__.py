"""Histogram gradient boosting on numba: binning, trees, losses and the three-block loop."""

from mttab._core.garbage import garbage_kept

with garbage_kept():
    import numba  # noqa: F401 (of its 0.3 s a search for garbage, with 55,000 objects more, takes 0.1)
