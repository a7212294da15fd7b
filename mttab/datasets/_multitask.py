"""Target tasks: several labels per row, with an exact correlation and a difficulty per task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import NOISE_UNITS, count, infer_n_tasks, one_of, per_task, per_task_count, types_per_task
from ._classes import class_shares, cuts_at_shares
from ._correlation import correlation_matrix, cosines_for_labels, draw_weights, require_psd
from ._hermite import MAX_DEGREE, label_sd
from ._multitask_source import PURPOSES, MultitaskSource
from ._streams import Streams

_PUBLISHED_DEGREES = (1, 3, 2, 3, 4, 2, 3)


def make_multitask(
    n_samples: int = 1000,
    n_features: int = 32,
    n_tasks: int | None = None,
    *,
    task_types: str | Sequence[str] | None = None,
    correlation: float | ArrayLike = 0.4,
    correlation_of: str = "weights",
    degree: int | Sequence[int] | None = None,
    noise: float | Sequence[float] = 0.01,
    noise_unit: str = "absolute",
    n_classes: int | Sequence[int] = 3,
    class_balance: float | Sequence[Any] | None = None,
    missing_fraction: float | Sequence[float] = 0.0,
    n_nuisance: int = 0,
    n_categorical: int = 0,
    n_levels: int = 5,
    as_frame: bool = True,
    return_bunch: bool = False,
    random_state: Any = None,
) -> Any:
    """Target tasks of mixed types with an exact correlation.

    The score of task t is ``z + z**2 + … + z**p`` with ``z = w_t @ x``, features x ~ N(0, I), a weight vector w_t of
    unit length and a degree p per task, the generator of [1]_. A regression label is the score plus noise; a class is
    the interval that the score plus noise falls in.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    n_features : int, default=32
        Number D of informative features. At least `n_tasks`.
    n_tasks : int or None, default=None
        Number T of tasks. None takes it from the first of `task_types`, `correlation`, `degree`, `noise`,
        `n_classes`, `class_balance` and `missing_fraction` that has one entry per task, otherwise 7.
    task_types : str, sequence of str or None, default=None
        "regression", "binary" or "multiclass", for all tasks or per task. None takes turns, in this order.
    correlation : float or array-like of shape (n_tasks, n_tasks), default=0.4
        Correlation of every two tasks, or the matrix of correlations: symmetric, 1 on the diagonal, positive
        semi-definite. A single value must be at least -1 / (n_tasks - 1).
    correlation_of : {"weights", "targets"}, default="weights"
        "weights": `correlation` is the cosine of the weight vectors, as published [1]_. "targets": it is the
        correlation of the noise-free labels themselves (for classes, of the scores), which is lower; see Notes.
    degree : int, sequence of int or None, default=None
        Degree of the polynomial, 1 to 20, for all tasks or per task: the difficulty. A higher degree raises the error
        of a given learner in units of the label, whose standard deviation rises as well (1, 1.7, 4.9, 12 for degrees 1
        to 4). None takes the published 1, 3, 2, 3, 4, 2, 3, repeated.
    noise : float or sequence of float, default=0.01
        Standard deviation of the normal noise added to the score, for all tasks or per task.
    noise_unit : {"absolute", "label_sd"}, default="absolute"
        Whether `noise` is in units of the score or a fraction of the standard deviation of the task's score.
    n_classes : int or sequence of int, default=3
        Number of classes of multiclass tasks, for all tasks or per task (ignored for tasks of other types).
    class_balance : float, sequence or None, default=None
        Shares of the classes in the population, noise included. A number is the share of class 1 in every binary
        task, of which there must be one. A sequence has one entry per task: a number for a binary task, a sequence of
        `n_classes` shares that sum to 1, or None. None means equal shares.
    missing_fraction : float or sequence of float, default=0.0
        Probability in [0, 1) that a label is not observed (NaN), independently for every label, for all tasks or per
        task.
    n_nuisance : int, default=0
        Additional standard normal features that no label depends on.
    n_categorical : int, default=0
        Additional categorical features. Feature j tells in which of `n_levels` equally frequent intervals the
        informative feature j (modulo `n_features`) lies; the levels are numbered in random order.
    n_levels : int, default=5
        Number of levels of each categorical feature, at least 2.
    as_frame : bool, default=True
        True: X is a DataFrame with columns ``x0``, …, ``nuisance0``, …, ``category0``, …; Y is a DataFrame with columns
        ``y0``, … of floats (regression), 0 and 1 (binary) and category (multiclass). False: arrays, with levels and
        classes as numbers.
    return_bunch : bool, default=False
        Whether to return a Bunch instead of (X, Y).
    random_state : None, int, Generator or RandomState, default=None
        Seed. Weights, features, noise and missing labels have streams of their own, so that changing one argument
        does not change what it does not concern.

    Returns
    -------
    (X, Y) : tuple
        X of shape (n_samples, n_features + n_nuisance + n_categorical), Y of shape (n_samples, n_tasks).
    bunch : sklearn.utils.Bunch, only if `return_bunch`
        data, target : X and Y as above.
        noise_free : ndarray of shape (n_samples, n_tasks), the scores before noise and cutting.
        weights : ndarray of shape (n_tasks, n_features).
        correlation_requested : ndarray of shape (n_tasks, n_tasks).
        correlation_of_weights, correlation_of_targets : ndarray of shape (n_tasks, n_tasks), the exact cosines and the
        exact correlations of the noise-free scores in the population.
        degree, noise_sd : ndarray of shape (n_tasks,), noise in units of the score.
        cuts : list of ndarray, where the classes of each task are cut.
        task_types, feature_names, target_names : list of str.
        sample : callable ``sample(n_samples, *, random_state=None, return_bunch=False)``, fresh rows of the same
        tasks in the same form and with all labels observed, for testing; every call without `random_state` gives new
        rows.

    Raises
    ------
    ValueError
        If an argument is out of its range, or no tasks have the correlation asked for; the message names the bound.

    See Also
    --------
    make_multitask_regression : All tasks regression.
    make_multitask_classification : All tasks classes.
    make_task_groups : Tasks that each have rows of their own.

    Notes
    -----
    Weights have exactly the cosines P asked for: with P = Q Λ Qᵀ and U of shape (D, T) with orthonormal columns,
    W = Q Λ^½ Uᵀ has W Wᵀ = P. The correlation of two scores is a polynomial in the cosine with coefficients >= 0, from
    the Hermite expansions of the two tasks. ``correlation_of="targets"`` inverts it. It rises with cosines from 0 to 1,
    but where both tasks have a degree of 2 or more it may turn below 0: for degrees 2 and 2 it is least, -1/24, at the
    cosine -1/4, and 1/3 at -1. Of several cosines the one nearest 0 is taken, so a positive correlation never comes
    from opposed weights. Tasks of different degrees cannot reach a correlation of 1.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard, "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data", AAAI 2026, arXiv:2511.09970.

    Examples
    --------
    >>> from mttab.datasets import make_multitask
    >>> X, Y = make_multitask(500, n_features=6, n_tasks=3, n_categorical=1, random_state=0)
    >>> Y.dtypes.astype(str).tolist()
    ['float64', 'int64', 'category']
    >>> bunch = make_multitask(
    ...     500, task_types="regression", degree=[1, 2], correlation=0.3, correlation_of="targets",
    ...     return_bunch=True, random_state=0,
    ... )
    >>> bunch.correlation_of_targets.round(6)
    array([[1. , 0.3],
           [0.3, 1. ]])
    >>> bunch.correlation_of_weights.round(6)
    array([[1.      , 0.519615],
           [0.519615, 1.      ]])
    >>> X_test, Y_test = bunch.sample(200)
    >>> X_test.shape, Y_test.shape
    ((200, 32), (200, 2))
    """
    n_tasks = infer_n_tasks(n_tasks, task_types, correlation, degree, noise, n_classes, class_balance, missing_fraction)
    n_features = count(n_features, "n_features", low=1)
    if n_features < n_tasks:
        raise ValueError(
            f"n_features={n_features} must be at least n_tasks={n_tasks}, for their weights to have any correlation."
        )
    kinds = types_per_task(task_types, n_tasks)
    degrees = per_task_count(
        list(islice(cycle(_PUBLISHED_DEGREES), n_tasks)) if degree is None else degree,
        "degree", n_tasks, low=1, high=MAX_DEGREE,
    )  # fmt: skip
    noise_sd = per_task(noise, "noise", n_tasks, low=0.0)
    if one_of(noise_unit, "noise_unit", NOISE_UNITS) == "label_sd":
        noise_sd *= [label_sd(int(p)) for p in degrees]
    streams = Streams(random_state, PURPOSES)
    requested = correlation_matrix(correlation, n_tasks)
    require_psd(requested, np.ndim(correlation) == 0)
    cosines = requested
    if one_of(correlation_of, "correlation_of", ("weights", "targets")) == "targets":
        cosines = cosines_for_labels(requested, degrees, np.ndim(correlation) == 0)
    shares = class_shares(kinds, n_classes, class_balance)
    source = MultitaskSource(
        weights=draw_weights(cosines, n_features, streams.generator("weights")),
        requested=requested,
        degree=degrees,
        noise_sd=noise_sd,
        task_types=kinds,
        cuts=[cuts_at_shares(int(p), float(sd), share) for p, sd, share in zip(degrees, noise_sd, shares, strict=True)],
        missing_fraction=per_task(missing_fraction, "missing_fraction", n_tasks, low=0.0, high=1.0, below_high=True),
        n_nuisance=count(n_nuisance, "n_nuisance", low=0),
        n_categorical=count(n_categorical, "n_categorical", low=0),
        n_levels=count(n_levels, "n_levels", low=2),
        as_frame=as_frame,
        streams=streams,
    )
    bunch = source.draw(count(n_samples, "n_samples", low=1), streams, hide_labels=True)
    return bunch if return_bunch else (bunch.data, bunch.target)


def make_multitask_regression(
    n_samples: int = 1000,
    n_features: int = 32,
    n_tasks: int | None = None,
    *,
    correlation: float | ArrayLike = 0.4,
    correlation_of: str = "weights",
    degree: int | Sequence[int] | None = None,
    noise: float | Sequence[float] = 0.01,
    noise_unit: str = "absolute",
    missing_fraction: float | Sequence[float] = 0.0,
    n_nuisance: int = 0,
    n_categorical: int = 0,
    n_levels: int = 5,
    as_frame: bool = True,
    return_bunch: bool = False,
    random_state: Any = None,
) -> Any:
    """Regression tasks with an exact correlation: `make_multitask` with every task a regression.

    With its defaults and ``n_samples=1_000_000`` this is the published setting [1]_: 7 tasks, 32 features, cosine 0.4,
    degrees 1, 3, 2, 3, 4, 2, 3 and noise 0.01.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    n_features : int, default=32
        Number of informative features. At least `n_tasks`.
    n_tasks : int or None, default=None
        Number of tasks. None takes it from the first argument that has one entry per task, otherwise 7.
    correlation : float or array-like of shape (n_tasks, n_tasks), default=0.4
        Correlation of every two tasks, or the matrix of correlations.
    correlation_of : {"weights", "targets"}, default="weights"
        Whether `correlation` is the cosine of the weight vectors or the correlation of the noise-free labels.
    degree : int, sequence of int or None, default=None
        Degree of the polynomial, 1 to 20. None takes the published degrees, repeated.
    noise : float or sequence of float, default=0.01
        Standard deviation of the noise.
    noise_unit : {"absolute", "label_sd"}, default="absolute"
        Whether `noise` is in units of the label or a fraction of the standard deviation of the noise-free label.
    missing_fraction : float or sequence of float, default=0.0
        Probability that a label is NaN.
    n_nuisance, n_categorical : int, default=0
        Additional normal features without, and categorical features with, information on the labels.
    n_levels : int, default=5
        Number of levels of each categorical feature.
    as_frame : bool, default=True
        Whether X and Y are DataFrames rather than arrays.
    return_bunch : bool, default=False
        Whether to return a Bunch instead of (X, Y).
    random_state : None, int, Generator or RandomState, default=None
        Seed.

    Returns
    -------
    (X, Y) : tuple
        X of shape (n_samples, n_features + n_nuisance + n_categorical), Y of shape (n_samples, n_tasks).
    bunch : sklearn.utils.Bunch, only if `return_bunch`
        As described in `make_multitask`.

    Raises
    ------
    ValueError
        If an argument is out of its range, or no tasks have the correlation asked for; the message names the bound.

    See Also
    --------
    make_multitask : The same for mixed tasks; describes every argument and the method at length.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard, "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data", AAAI 2026, arXiv:2511.09970.

    Examples
    --------
    >>> from mttab.datasets import make_multitask_regression
    >>> X, Y = make_multitask_regression(500, random_state=0)
    >>> X.shape, Y.shape
    ((500, 32), (500, 7))
    """
    return make_multitask(
        n_samples,
        n_features,
        n_tasks,
        task_types="regression",
        correlation=correlation,
        correlation_of=correlation_of,
        degree=degree,
        noise=noise,
        noise_unit=noise_unit,
        missing_fraction=missing_fraction,
        n_nuisance=n_nuisance,
        n_categorical=n_categorical,
        n_levels=n_levels,
        as_frame=as_frame,
        return_bunch=return_bunch,
        random_state=random_state,
    )


def make_multitask_classification(
    n_samples: int = 1000,
    n_features: int = 32,
    n_tasks: int | None = None,
    *,
    n_classes: int | Sequence[int] = 2,
    class_balance: float | Sequence[Any] | None = None,
    correlation: float | ArrayLike = 0.4,
    correlation_of: str = "weights",
    degree: int | Sequence[int] | None = None,
    noise: float | Sequence[float] = 0.01,
    noise_unit: str = "absolute",
    missing_fraction: float | Sequence[float] = 0.0,
    n_nuisance: int = 0,
    n_categorical: int = 0,
    n_levels: int = 5,
    as_frame: bool = True,
    return_bunch: bool = False,
    random_state: Any = None,
) -> Any:
    """Classification tasks with an exact correlation of their scores: `make_multitask` with every task classes.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    n_features : int, default=32
        Number of informative features. At least `n_tasks`.
    n_tasks : int or None, default=None
        Number of tasks. None takes it from the first argument that has one entry per task, otherwise 7.
    n_classes : int or sequence of int, default=2
        Number of classes, for all tasks or per task.
    class_balance : float, sequence or None, default=None
        A number is the share of class 1 in every task of two classes, of which there must be one; a sequence has one
        entry per task: such a number, a sequence of `n_classes` shares that sum to 1, or None. None means equal shares.
    correlation : float or array-like of shape (n_tasks, n_tasks), default=0.4
        Correlation of every two tasks, or the matrix of correlations.
    correlation_of : {"weights", "targets"}, default="weights"
        Whether `correlation` is the cosine of the weight vectors or the correlation of the noise-free scores that the
        classes are cut from.
    degree : int, sequence of int or None, default=None
        Degree of the polynomial, 1 to 20. None takes the published degrees, repeated.
    noise : float or sequence of float, default=0.01
        Standard deviation of the noise added to the score before it is cut.
    noise_unit : {"absolute", "label_sd"}, default="absolute"
        Whether `noise` is in units of the score or a fraction of the standard deviation of the score.
    missing_fraction : float or sequence of float, default=0.0
        Probability that a label is NaN.
    n_nuisance, n_categorical : int, default=0
        Additional normal features without, and categorical features with, information on the labels.
    n_levels : int, default=5
        Number of levels of each categorical feature.
    as_frame : bool, default=True
        Whether X and Y are DataFrames rather than arrays.
    return_bunch : bool, default=False
        Whether to return a Bunch instead of (X, Y).
    random_state : None, int, Generator or RandomState, default=None
        Seed.

    Returns
    -------
    (X, Y) : tuple
        X of shape (n_samples, n_features + n_nuisance + n_categorical), Y of shape (n_samples, n_tasks).
    bunch : sklearn.utils.Bunch, only if `return_bunch`
        As described in `make_multitask`.

    Raises
    ------
    ValueError
        If an argument is out of its range, or no tasks have the correlation asked for; the message names the bound.

    See Also
    --------
    make_multitask : The same for mixed tasks; describes every argument and the method at length.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard, "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data", AAAI 2026, arXiv:2511.09970.

    Examples
    --------
    >>> from mttab.datasets import make_multitask_classification
    >>> X, Y = make_multitask_classification(2000, n_tasks=2, class_balance=[0.5, 0.1], random_state=0)
    >>> Y.mean().round(1).tolist()
    [0.5, 0.1]
    """
    n_tasks = infer_n_tasks(n_tasks, None, correlation, degree, noise, n_classes, class_balance, missing_fraction)
    class_counts = per_task_count(n_classes, "n_classes", n_tasks, low=2)
    return make_multitask(
        n_samples,
        n_features,
        n_tasks,
        task_types=["binary" if k == 2 else "multiclass" for k in class_counts],
        n_classes=class_counts.tolist(),
        class_balance=class_balance,
        correlation=correlation,
        correlation_of=correlation_of,
        degree=degree,
        noise=noise,
        noise_unit=noise_unit,
        missing_fraction=missing_fraction,
        n_nuisance=n_nuisance,
        n_categorical=n_categorical,
        n_levels=n_levels,
        as_frame=as_frame,
        return_bunch=return_bunch,
        random_state=random_state,
    )
