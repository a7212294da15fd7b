"""Sums that come out the same wherever they are taken, in a kernel or from Python."""

from __future__ import annotations

from .jit import inlined, lean_jit


@inlined
def dot(values, others):  # type: ignore[no-untyped-def]
    """Sum of products, in four sums: one alone would wait for every addition."""
    a = b = c = d = 0.0
    n = len(values)
    for k in range(n // 4):
        a += values[4 * k] * others[4 * k]
        b += values[4 * k + 1] * others[4 * k + 1]
        c += values[4 * k + 2] * others[4 * k + 2]
        d += values[4 * k + 3] * others[4 * k + 3]
    for k in range(n // 4 * 4, n):
        a += values[k] * others[k]
    return (a + b) + (c + d)


@lean_jit
def sum_of_products(values, others):  # type: ignore[no-untyped-def]
    """The same for Python; both are float64 (n,)."""
    return dot(values, others)


@lean_jit
def sum_of(values):  # type: ignore[no-untyped-def]
    """Sum of the values float64 (n,), one after the other."""
    total = 0.0
    for k in range(len(values)):
        total += values[k]
    return total
