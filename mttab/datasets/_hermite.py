"""Correlation of two polynomials of correlated normal variables, exactly, and its inverse.

With z_s, z_t standard normal of correlation ρ and f = Σ a_k He_k/√k!, g = Σ b_k He_k/√k! (He_k the Hermite polynomials
of probability), E[f(z_s) g(z_t)] = Σ a_k b_k ρ^k. The labels here are f(z) = z + z² + … + z^p, p the degree of a task.
"""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.polynomial import Polynomial
from numpy.polynomial.hermite_e import poly2herme
from numpy.typing import NDArray
from scipy.optimize import brentq

MAX_DEGREE = 20  # z^20 has moments up to z^40 ≈ 3e23: beyond this, doubles lose the lower powers


def polynomial(z: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Evaluate z + z² + … + z^degree, element by element."""
    value = z.copy()
    for _ in range(degree - 1):
        value += 1.0
        value *= z
    return value


def hermite_coefficients(degree: int) -> NDArray[np.float64]:
    """Coefficients a_k of z + … + z^degree in the orthonormal basis He_k/√k!, shape (degree + 1,)."""
    norms = np.sqrt([float(factorial(k)) for k in range(degree + 1)])
    return np.asarray(poly2herme([0.0] + [1.0] * degree) * norms, dtype=np.float64)


def label_sd(degree: int) -> float:
    """Standard deviation of z + … + z^degree for standard normal z."""
    return float(np.linalg.norm(hermite_coefficients(degree)[1:]))


def correlation_polynomial(degree_s: int, degree_t: int) -> Polynomial:
    """The label correlation of two tasks as a polynomial in ρ, the cosine of their weights."""
    n_terms = min(degree_s, degree_t) + 1
    product = hermite_coefficients(degree_s)[:n_terms] * hermite_coefficients(degree_t)[:n_terms]
    product[0] = 0.0  # the means
    return Polynomial(product / (label_sd(degree_s) * label_sd(degree_t)))


def label_correlations(cosines: NDArray[np.float64], degree: NDArray[np.int64]) -> NDArray[np.float64]:
    """Correlations of the noise-free labels of all tasks.

    Parameters
    ----------
    cosines : ndarray of shape (n_tasks, n_tasks)
        Cosines of the weight vectors.
    degree : ndarray of shape (n_tasks,)

    Returns
    -------
    ndarray of shape (n_tasks, n_tasks)
    """
    out = np.eye(len(degree))
    for s, t in zip(*np.triu_indices(len(degree), 1), strict=True):
        out[s, t] = out[t, s] = correlation_polynomial(int(degree[s]), int(degree[t]))(cosines[s, t])
    return out


def reachable_range(degree_s: int, degree_t: int) -> tuple[float, float]:
    """Least and greatest label correlation over all ρ in [-1, 1]."""
    curve = correlation_polynomial(degree_s, degree_t)
    values = curve(_turning_points(curve))
    return float(values.min()), float(values.max())


def cosine_for(correlation: float, degree_s: int, degree_t: int) -> float | None:
    """The ρ nearest 0 that gives this label correlation, or None if no ρ does.

    The coefficients of the polynomial are not negative, so it rises from ρ = 0 to ρ = 1 and a correlation >= 0 has one
    ρ >= 0. Where both tasks have even powers it turns on the negative side: the branch that passes through ρ = 0 comes
    first, and what lies beyond the turning point is taken only for correlations that this branch does not reach.
    """
    curve = correlation_polynomial(degree_s, degree_t)
    points = _turning_points(curve)
    values = curve(points)
    tolerance = 1e-12
    if not values.min() - tolerance <= correlation <= values.max() + tolerance:
        return None
    target = float(np.clip(correlation, values.min(), values.max()))
    solutions = []
    for i in range(len(points) - 1):
        low, high = sorted((values[i], values[i + 1]))
        if low <= target <= high:
            solutions.append(brentq(lambda rho: curve(rho) - target, points[i], points[i + 1], xtol=1e-15, rtol=1e-14))
    return float(min(solutions, key=abs))


def _turning_points(curve: Polynomial) -> NDArray[np.float64]:
    """-1, the places in between where the curve may turn, and 1, increasing."""
    found = np.asarray(curve.deriv().roots() if curve.degree() > 1 else [], dtype=np.complex128)
    roots = found.real[np.abs(found.imag) < 1e-9]
    return np.r_[-1.0, np.sort(roots[(roots > -1.0) & (roots < 1.0)]), 1.0]
