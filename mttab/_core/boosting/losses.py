"""Losses: what to minimise per row, its derivatives by the score, and how a score becomes a prediction.

A loss knows nothing of trees or tasks. Scores are float64 (n_rows, K) before the link; derivatives are written to
arrays (K, n_rows), because trees read them output by output. Adding a loss means one class, its kernels and one row in
`REGRESSION_LOSSES` or `CLASSIFICATION_LOSSES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numba import prange
from scipy.special import expit, softmax

from .in_place import larger, smaller
from .jit import inlined, lean_jit, serial_and_parallel
from .quantile import weighted_quantile
from .sums import sum_of

# Rows whose losses are summed by themselves.
ROW_BLOCK = 1024
# For `exp_of_minus`: ln 2 in two parts, so that whole multiples of the first are exact.
_PER_LN_2, _LN_2_HIGH, _LN_2_LOW = 1.0 / np.log(2.0), 0.6931471803691238, 1.9082149292705877e-10
_PER_FACTORIAL = np.array([1.0 / math.factorial(n) for n in range(13, -1, -1)])
_POWERS_OF_HALF = 0.5 ** np.arange(1024.0)


def n_sums_of_losses(n_rows: int) -> int:
    """How many sums a kernel of derivatives writes: one for each `ROW_BLOCK`."""
    return -(-n_rows // ROW_BLOCK)


class Loss:
    """One loss; the base class holds what most of them share.

    Attributes
    ----------
    n_outputs : int
        K, scores per row.
    constant_hessian : bool
        The second derivative is 1 everywhere (times the sample weight).
    is_location : bool
        A shift of y shifts the best score by as much.
    renewal_quantile : float or None
        Leaf values are this quantile of the residuals in the leaf instead of a Newton step.
    lightgbm_objective : str
        LightGBM's name of this loss, or of another one with the same link.
    """

    n_outputs: int = 1
    constant_hessian: ClassVar[bool] = False
    renewal_quantile: float | None = None
    lightgbm_objective: ClassVar[str] = "regression"
    supports_target_scaling: ClassVar[bool] = True
    is_location: ClassVar[bool] = False
    _derivatives: ClassVar[tuple[Any, Any]]
    _values: ClassVar[tuple[Any, Any]]
    _parameter: float = 0.0

    def derivatives(
        self,
        y: np.ndarray,
        score: np.ndarray,
        weight: np.ndarray,
        out_gradient: np.ndarray,
        out_hessian: np.ndarray,
        n_threads: int = 1,
    ) -> float:
        """Write weight × first and second derivative, and return the weighted sum of the losses on the way.

        ``out_hessian`` is left alone where the hessian is constant.
        """
        # Sums of fixed ranges of rows: the same whatever the number of threads.
        loss = np.empty(n_sums_of_losses(len(y)))
        self._derivatives[n_threads > 1](y, score, weight, self._parameter, out_gradient, out_hessian, loss)
        return sum_of(loss)  # type: ignore[no-any-return]

    def values(self, y: np.ndarray, score: np.ndarray, out: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Loss per row (n_rows,), unweighted, written to ``out`` and returned."""
        self._values[n_threads > 1](y, score, self._parameter, out)
        return out

    def serial_kernels(self) -> tuple[Any, Any, float]:
        """The kernels of `derivatives` and `values` for one thread, and the parameter that both are given."""
        return self._derivatives[0], self._values[0], self._parameter

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Constant score (K,) of least loss."""
        raise NotImplementedError

    def base_scores(self, y: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The same (n_runs, K) of each of the runs of rows ``start[k]:start[k + 1]``, 0 where there are none."""
        out = np.zeros((len(start) - 1, self.n_outputs))
        for k, (first, last) in enumerate(pairwise(start)):
            if last > first:
                out[k] = self.base_score(y[first:last], weight[first:last])
        return out

    def link_inverse(self, score: np.ndarray) -> np.ndarray:
        """Prediction from score: the identity, unless the loss has a link."""
        return score


# --- regression: one output ---------------------------------------------------------------------------------------


def _squared_error_derivatives(y, score, weight, parameter, out_gradient, out_hessian, out_loss):  # type: ignore[no-untyped-def]
    for block in prange(len(out_loss)):
        total = 0.0
        for i in range(block * ROW_BLOCK, smaller((block + 1) * ROW_BLOCK, len(y))):
            error = score[i, 0] - y[i]
            out_gradient[0, i] = weight[i] * error
            total += 0.5 * weight[i] * error * error
        out_loss[block] = total


def _squared_error_values(y, score, parameter, out):  # type: ignore[no-untyped-def]
    for i in prange(len(y)):
        out[i] = 0.5 * (score[i, 0] - y[i]) ** 2


class SquaredError(Loss):
    """½ (y − F)²."""

    is_location = True
    constant_hessian = True
    _derivatives = serial_and_parallel(_squared_error_derivatives, lean_jit)
    _values = serial_and_parallel(_squared_error_values, lean_jit)

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.array([np.average(y, weights=weight)])

    def base_scores(self, y: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
        run, n_runs = np.repeat(np.arange(len(start) - 1), np.diff(start)), len(start) - 1
        mass, total = np.bincount(run, weight, n_runs), np.bincount(run, weight * y, n_runs)
        return np.divide(total, mass, out=np.zeros(n_runs), where=mass > 0)[:, None]


def _quantile_derivatives(y, score, weight, quantile, out_gradient, out_hessian, out_loss):  # type: ignore[no-untyped-def]
    for block in prange(len(out_loss)):
        total = 0.0
        for i in range(block * ROW_BLOCK, smaller((block + 1) * ROW_BLOCK, len(y))):
            residual = y[i] - score[i, 0]
            slope = 0.0 if residual == 0.0 else (quantile - 1.0 if residual < 0.0 else quantile)
            out_gradient[0, i] = -weight[i] * slope
            total += weight[i] * slope * residual
        out_loss[block] = total


def _quantile_values(y, score, quantile, out):  # type: ignore[no-untyped-def]
    for i in prange(len(y)):
        residual = y[i] - score[i, 0]
        out[i] = (quantile - 1.0) * residual if residual < 0.0 else quantile * residual


class Quantile(Loss):
    """Pinball loss: max(q (y − F), (q − 1) (y − F)); leaves hold the q-quantile of their residuals."""

    is_location = True
    constant_hessian = True
    lightgbm_objective = "quantile"
    _derivatives = serial_and_parallel(_quantile_derivatives, lean_jit)
    _values = serial_and_parallel(_quantile_values, lean_jit)

    def __init__(self, quantile: float):
        self._parameter = self.renewal_quantile = float(quantile)

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.array([weighted_quantile(y, weight, self._parameter)])


class AbsoluteError(Quantile):
    """½ |y − F|, the pinball loss at q = ½; leaves hold the median of their residuals."""

    lightgbm_objective = "regression_l1"

    def __init__(self) -> None:
        super().__init__(0.5)


def _huber_derivatives(y, score, weight, delta, out_gradient, out_hessian, out_loss):  # type: ignore[no-untyped-def]
    for block in prange(len(out_loss)):
        total = 0.0
        for i in range(block * ROW_BLOCK, smaller((block + 1) * ROW_BLOCK, len(y))):
            error = score[i, 0] - y[i]
            slope = smaller(larger(error, -delta), delta)
            out_gradient[0, i] = weight[i] * slope
            total += weight[i] * slope * (error - 0.5 * slope)
        out_loss[block] = total


def _huber_values(y, score, delta, out):  # type: ignore[no-untyped-def]
    for i in prange(len(y)):
        error = abs(score[i, 0] - y[i])
        out[i] = 0.5 * error * error if error <= delta else delta * (error - 0.5 * delta)


class Huber(Loss):
    """½ e² up to |e| = δ, linear beyond. The second derivative is taken as 1 everywhere, an upper bound."""

    is_location = True
    constant_hessian = True
    lightgbm_objective = "huber"
    _derivatives = serial_and_parallel(_huber_derivatives, lean_jit)
    _values = serial_and_parallel(_huber_values, lean_jit)

    def __init__(self, delta: float):
        self._parameter = float(delta)

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        # One Newton step from the median: the optimum has no closed form, and boosting takes care of the rest.
        median = weighted_quantile(y, weight, 0.5)
        return np.array([median + np.average(np.clip(y - median, -self._parameter, self._parameter), weights=weight)])


def _poisson_derivatives(y, score, weight, parameter, out_gradient, out_hessian, out_loss):  # type: ignore[no-untyped-def]
    for block in prange(len(out_loss)):
        total = 0.0
        for i in range(block * ROW_BLOCK, smaller((block + 1) * ROW_BLOCK, len(y))):
            mean = np.exp(score[i, 0])
            out_gradient[0, i] = weight[i] * (mean - y[i])
            out_hessian[0, i] = weight[i] * mean
            # Less the loss of a perfect prediction, as in the values.
            saturated = y[i] - y[i] * np.log(y[i]) if y[i] > 0.0 else 0.0
            total += weight[i] * (mean - y[i] * score[i, 0] - saturated)
        out_loss[block] = total


def _poisson_values(y, score, parameter, out):  # type: ignore[no-untyped-def]
    for i in prange(len(y)):
        # Less the loss of a perfect prediction, y - y log y: 0 is then the least, as for the other losses.
        saturated = y[i] - y[i] * np.log(y[i]) if y[i] > 0.0 else 0.0
        out[i] = np.exp(score[i, 0]) - y[i] * score[i, 0] - saturated


class Poisson(Loss):
    """Half the Poisson deviance, exp(F) − y F − y + y log y, with a log link."""

    supports_target_scaling = False
    lightgbm_objective = "poisson"
    _derivatives = serial_and_parallel(_poisson_derivatives, lean_jit)
    _values = serial_and_parallel(_poisson_values, lean_jit)

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.log([max(np.average(y, weights=weight), 1e-10)])  # no positive y may be left to train on

    def link_inverse(self, score: np.ndarray) -> np.ndarray:
        return np.exp(score)


# --- classification: y holds class indices as floats ---------------------------------------------------------------


@inlined
def exp_of_minus(x):  # type: ignore[no-untyped-def]
    """exp(−x) for x ≥ 0, to one unit in the last place; beyond 700 as of 700.

    exp(−x) = 2^k exp(r) with |r| ≤ ln 2 / 2, of which terms up to r¹³ / 13! leave nothing out. A loop of these steps
    takes eight rows at once, where one that calls the library's exp takes each by itself: 1.1 instead of 4.0 ns a row.
    """
    x = -smaller(x, 700.0)
    k = np.rint(x * _PER_LN_2)
    r = (x - k * _LN_2_HIGH) - k * _LN_2_LOW
    terms = _PER_FACTORIAL[0]
    for n in range(1, len(_PER_FACTORIAL)):
        terms = terms * r + _PER_FACTORIAL[n]
    return terms * _POWERS_OF_HALF[np.int32(-k) & np.int32(1023)]  # within the table, whatever the cast makes of NaN


def _binary_derivatives(y, score, weight, parameter, out_gradient, out_hessian, out_loss):  # type: ignore[no-untyped-def]
    for block in prange(len(out_loss)):
        total, product = 0.0, 1.0
        first, last = block * ROW_BLOCK, smaller((block + 1) * ROW_BLOCK, len(y))
        own, labels, weights = score[first:last], y[first:last], weight[first:last]
        gradients, powers = out_gradient[0, first:last], out_hessian[0, first:last]
        # Three loops, of which the first and the last take eight rows at once.
        for j in range(len(own)):
            powers[j] = exp_of_minus(abs(own[j, 0]))
        for j in range(len(own)):
            f, e = own[j, 0], powers[j]
            total += weights[j] * (larger(f, 0.0) - labels[j] * f)
            if weights[j] == 1.0:
                # log(1 + e) of many rows is the log of one product, of factors up to 2.
                product *= 1.0 + e
                if product > 1e300:
                    total += np.log(product)
                    product = 1.0
            else:
                total += weights[j] * np.log1p(e)
        for j in range(len(own)):
            f, e = own[j, 0], powers[j]
            p = (1.0 if f >= 0.0 else e) / (1.0 + e)
            gradients[j] = weights[j] * (p - labels[j])
            powers[j] = weights[j] * (e / ((1.0 + e) * (1.0 + e)))  # the hessian, in its place
        out_loss[block] = total + np.log(product)


def _binary_values(y, score, parameter, out):  # type: ignore[no-untyped-def]
    for i in prange(len(y)):
        # log(1 + exp(F)) − y F without overflow.
        f = score[i, 0]
        out[i] = larger(f, 0.0) + np.log1p(np.exp(-abs(f))) - y[i] * f


class BinaryLogLoss(Loss):
    """Log loss of two classes over one score, the log-odds of the second class."""

    lightgbm_objective = "binary sigmoid:1"
    _derivatives = serial_and_parallel(_binary_derivatives, lean_jit)
    _values = serial_and_parallel(_binary_values, lean_jit)

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        p = np.clip(np.average(y, weights=weight), 1e-10, 1 - 1e-10)
        return np.array([np.log(p / (1 - p))])

    def link_inverse(self, score: np.ndarray) -> np.ndarray:
        p = expit(score[:, 0])
        return np.column_stack([1.0 - p, p])


def _multinomial_derivatives(y, score, weight, parameter, out_gradient, out_hessian, out_loss):  # type: ignore[no-untyped-def]
    n_outputs = score.shape[1]
    for block in prange(len(out_loss)):
        loss = 0.0
        for i in range(block * ROW_BLOCK, smaller((block + 1) * ROW_BLOCK, len(y))):
            highest = score[i, 0]
            for k in range(1, n_outputs):
                highest = larger(highest, score[i, k])
            total = 0.0
            for k in range(n_outputs):
                out_gradient[k, i] = np.exp(score[i, k] - highest)
                total += out_gradient[k, i]
            for k in range(n_outputs):
                p = out_gradient[k, i] / total
                out_gradient[k, i] = weight[i] * (p - (1.0 if y[i] == k else 0.0))
                out_hessian[k, i] = weight[i] * p * (1.0 - p)
            loss += weight[i] * (highest + np.log(total) - score[i, int(y[i])])
        out_loss[block] = loss


def _multinomial_values(y, score, parameter, out):  # type: ignore[no-untyped-def]
    n_outputs = score.shape[1]
    for i in prange(len(y)):
        highest = score[i, 0]
        for k in range(1, n_outputs):
            highest = larger(highest, score[i, k])
        total = 0.0
        for k in range(n_outputs):
            total += np.exp(score[i, k] - highest)
        out[i] = highest + np.log(total) - score[i, int(y[i])]


class MultinomialLogLoss(Loss):
    """Log loss of K classes over K scores through a softmax."""

    lightgbm_objective = "multiclass"
    _derivatives = serial_and_parallel(_multinomial_derivatives, lean_jit)
    _values = serial_and_parallel(_multinomial_values, lean_jit)

    def __init__(self, n_classes: int):
        self.n_outputs = n_classes

    def base_score(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        shares = np.bincount(y.astype(np.int64), weights=weight, minlength=self.n_outputs) / weight.sum()
        logs = np.log(np.clip(shares, 1e-10, None))
        return logs - logs.mean()

    def link_inverse(self, score: np.ndarray) -> np.ndarray:
        return softmax(score, axis=1)


# --- the table ------------------------------------------------------------------------------------------------------

REGRESSION_LOSSES: dict[str, Callable[..., Loss]] = {
    "squared_error": lambda quantile, huber_delta: SquaredError(),
    "absolute_error": lambda quantile, huber_delta: AbsoluteError(),
    "huber": lambda quantile, huber_delta: Huber(huber_delta),
    "quantile": lambda quantile, huber_delta: Quantile(quantile),
    "poisson": lambda quantile, huber_delta: Poisson(),
}

CLASSIFICATION_LOSSES: dict[str, Callable[[int], Loss]] = {
    "log_loss": lambda n_classes: BinaryLogLoss() if n_classes == 2 else MultinomialLogLoss(n_classes),
    "multinomial": lambda n_classes: MultinomialLogLoss(n_classes),
}
