"""Weight vectors of unit length with exactly the cosines asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._hermite import cosine_for, reachable_range

_LEAST_EIGENVALUE = -1e-11  # below: not rounding any more


def correlation_matrix(correlation: Any, n_tasks: int) -> NDArray[np.float64]:
    """`correlation`, a number or a matrix, as a checked matrix of shape (n_tasks, n_tasks).

    Raises
    ------
    ValueError
        If the matrix has the wrong shape, is not symmetric, has no unit diagonal or values outside [-1, 1].
    """
    try:
        given = np.asarray(correlation, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"correlation={correlation!r} must be a number or a matrix of numbers.") from None
    if given.ndim == 0:
        given = np.where(np.eye(n_tasks, dtype=bool), 1.0, given)
    if given.shape != (n_tasks, n_tasks):
        raise ValueError(f"correlation must be a number or of shape ({n_tasks}, {n_tasks}), got shape {given.shape}.")
    if not np.all(np.abs(given) <= 1.0):
        raise ValueError(f"correlation must lie between -1 and 1, got {_furthest_from_zero(given):g}.")
    if not np.allclose(given, given.T, rtol=0.0, atol=1e-12):
        raise ValueError("correlation must be symmetric; (M + M.T) / 2 makes it so.")
    if not np.allclose(np.diag(given), 1.0, rtol=0.0, atol=1e-12):
        raise ValueError(f"correlation must have 1 on its diagonal, got {np.diag(given)}.")
    return given


def require_psd(matrix: NDArray[np.float64], is_scalar: bool) -> None:
    """Refuse a matrix that no set of vectors can have as cosines, and say which bound it breaks."""
    least = least_eigenvalue(matrix)
    if least >= _LEAST_EIGENVALUE:
        return
    n_tasks = len(matrix)
    if is_scalar:
        raise ValueError(
            f"correlation={matrix[0, 1]:g} is below -1/(n_tasks - 1) = {-1.0 / (n_tasks - 1):g}, the least that "
            f"{n_tasks} tasks can have with each other."
        )
    raise ValueError(
        f"correlation must be positive semi-definite, its least eigenvalue is {least:g}; multiplying the values off "
        f"the diagonal by {1.0 / (1.0 - least):.4g} or less makes it so."
    )


def cosines_for_labels(
    correlation: NDArray[np.float64], degree: NDArray[np.int64], is_scalar: bool
) -> NDArray[np.float64]:
    """Cosines of weights that give the noise-free labels this correlation matrix.

    Raises
    ------
    ValueError
        If the degrees of two tasks cannot reach a correlation, or the cosines found are not positive semi-definite.
    """
    cosines = _pairwise_cosines(correlation, degree)
    beyond = np.argwhere(np.isnan(cosines))
    if len(beyond) == 0 and least_eigenvalue(cosines) >= _LEAST_EIGENVALUE:
        return cosines
    if is_scalar:
        low, high = _reachable_by_all(degree)
        raise ValueError(
            f"correlation={correlation[0, 1]:g} of the labels cannot be had by {len(degree)} tasks of degrees "
            f"{degree.tolist()}, which reach {low:.4g} to {high:.4g}."
        )
    if len(beyond):
        s, t = beyond[0]
        low, high = reachable_range(int(degree[s]), int(degree[t]))
        raise ValueError(
            f"correlation={correlation[s, t]:g} of the labels of tasks {s} and {t} cannot be had with "
            f"degrees {degree[s]} and {degree[t]}, which reach {low:.4g} to {high:.4g}."
        )
    share = _reachable_share(correlation, degree)
    raise ValueError(
        f"correlation of the labels needs weights whose cosines are not positive semi-definite (least eigenvalue "
        f"{least_eigenvalue(cosines):.4g}); with degrees {degree.tolist()}, {share:.4g} times the values off the "
        f"diagonal can be reached."
    )


def draw_weights(cosines: NDArray[np.float64], n_features: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights W = Q Λ^½ Uᵀ of shape (n_tasks, n_features), W Wᵀ = `cosines` = Q Λ Qᵀ, U orthonormal columns."""
    n_tasks = len(cosines)
    eigenvalues, Q = np.linalg.eigh(cosines)
    gaussian = rng.standard_normal((n_features, n_tasks))
    U, R = np.linalg.qr(gaussian)
    U *= np.where(np.diag(R) < 0.0, -1.0, 1.0)  # makes U uniform over all orthonormal frames
    return (Q * np.sqrt(np.clip(eigenvalues, 0.0, None))) @ U.T


def least_eigenvalue(matrix: NDArray[np.float64]) -> float:
    """The least eigenvalue of a symmetric matrix."""
    return float(np.linalg.eigvalsh(matrix)[0])


def _pairwise_cosines(correlation: NDArray[np.float64], degree: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine of each pair of tasks that gives the label correlation, NaN where none does."""
    cosines = np.eye(len(degree))
    for s, t in zip(*np.triu_indices(len(degree), 1), strict=True):
        cosine = cosine_for(float(correlation[s, t]), int(degree[s]), int(degree[t]))
        cosines[s, t] = cosines[t, s] = np.nan if cosine is None else cosine
    return cosines


def _reachable_by_all(degree: NDArray[np.int64]) -> tuple[float, float]:
    """Range of the one correlation that all pairs of tasks can have at once, on the branch through 0."""
    pairs = list(zip(*np.triu_indices(len(degree), 1), strict=True))
    ranges = np.array([reachable_range(int(degree[s]), int(degree[t])) for s, t in pairs])
    ends = []
    for end in (ranges[:, 0].max(), ranges[:, 1].min()):
        ends.append(end * _reachable_share(correlation_matrix(end, len(degree)), degree))
    return float(ends[0]), float(ends[1])


def _reachable_share(correlation: NDArray[np.float64], degree: NDArray[np.int64]) -> float:
    """Greatest share of the off-diagonal values that is within reach: 1, or three digits found by halving from 0."""
    eye = np.eye(len(degree))

    def is_reachable(share: float) -> bool:
        cosines = _pairwise_cosines(eye + share * (correlation - eye), degree)
        return not np.isnan(cosines).any() and least_eigenvalue(cosines) >= _LEAST_EIGENVALUE

    if is_reachable(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2.0
        low, high = (middle, high) if is_reachable(middle) else (low, middle)
    return float(np.floor(low * 1e3) / 1e3)


def _furthest_from_zero(matrix: NDArray[np.float64]) -> float:
    return float(matrix.flat[np.argmax(np.abs(matrix))])
