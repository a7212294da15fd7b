"""Histogram gradient boosting on numba: binning, trees, losses and the three-block loop."""
