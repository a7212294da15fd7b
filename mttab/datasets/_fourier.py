"""Random smooth functions: sums of cosines with Gaussian frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK_TERMS = 2**18  # products per block: stays in the cache, and too small for BLAS to start threads


@dataclass(frozen=True)
class FourierFunction:
    """f(x) = Σ_j amplitude_j · cos(frequency_j · x + phase_j).

    Attributes
    ----------
    frequency : ndarray of shape (n_features, n_fourier)
        Standard normal, divided by the length scale.
    phase : ndarray of shape (n_fourier,)
        Uniform on [0, 2π).
    amplitude : ndarray of shape (n_fourier,)
        Normal with variance 2 / n_fourier, so that f(x) has mean 0 and variance 1 over draws of f at every x.
    """

    frequency: NDArray[np.float64]
    phase: NDArray[np.float64]
    amplitude: NDArray[np.float64]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, n_features: int, n_fourier: int, length_scale: tuple[float, float]
    ) -> FourierFunction:
        """Draw a function whose length scale is uniform on `length_scale`, in units of the features."""
        scale = rng.uniform(*length_scale)
        return cls(
            frequency=rng.standard_normal((n_features, n_fourier)) / scale,
            phase=rng.uniform(0.0, 2.0 * np.pi, n_fourier),
            amplitude=rng.standard_normal(n_fourier) * np.sqrt(2.0 / n_fourier),
        )

    def __call__(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at the rows of X (n_samples, n_features), shape (n_samples,)."""
        out = np.empty(len(X))
        n_block = max(1, _BLOCK_TERMS // self.frequency.size)
        for start in range(0, len(X), n_block):
            rows = slice(start, start + n_block)
            waves = X[rows] @ self.frequency  # (rows, n_fourier)
            waves += self.phase
            np.cos(waves, out=waves)
            out[rows] = np.einsum("ij,j->i", waves, self.amplitude)
        return out
