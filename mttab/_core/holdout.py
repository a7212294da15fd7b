"""Which rows to hold out: a share of every task (and class), what a splitter says, or folds by what is in a row."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .sorting import order_within_groups

# Below this many labelled rows early_stopping="auto" keeps them all for training.
AUTO_EARLY_STOPPING_ROWS = 200


def stratified_holdout(strata: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Hold out about ``fraction`` of the rows of every stratum, at least one row of each stays in training.

    Parameters
    ----------
    strata : int array of shape (n,)
        Stratum of each row, for example its task, or its task and class.
    fraction : float
        Share to hold out, between 0 and 1.
    rng : numpy.random.Generator
        One number is drawn per row, in the order of the rows: renaming strata changes nothing.

    Returns
    -------
    bool array of shape (n,)
        True = held out. A stratum gives its share rounded up or down, at random, so that many small strata give theirs
        together; a stratum of one row gives none.
    """
    u = rng.random(len(strata))
    order = order_within_groups(u, strata)
    stratum = strata[order]
    start = np.append(0, np.flatnonzero(stratum[1:] != stratum[:-1]) + 1) if len(u) else np.empty(0, dtype=np.int64)
    counts = np.diff(np.append(start, len(u)))
    # Systematic sampling: walk through each stratum in steps of `fraction` from an offset of its own.
    offset = np.repeat(np.modf(np.add.reduceat(u[order], start))[0], counts) if len(u) else u
    place = np.arange(len(u)) - np.repeat(start, counts)
    is_held = np.floor((place + 1) * fraction + offset) > np.floor(place * fraction + offset)
    n_held = np.add.reduceat(is_held, start) if len(u) else counts
    is_held[(start + counts - 1)[n_held == counts]] = False
    out = np.zeros(len(u), dtype=bool)
    out[order] = is_held
    return out


def content_keys(table: pd.DataFrame | np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random number uint64 (n,) per row that depends on what is in the row, its labels and the seed only.

    Whatever is decided by it depends neither on the order of the rows nor on their number of copies.

    table : (n, n_features); y : float64 (n,) or (n, n_targets)
    """
    columns = pd.DataFrame(y.reshape(len(y), -1)).assign(seed=seed)
    keys = [pd.util.hash_pandas_object(part, index=False).to_numpy() for part in (pd.DataFrame(table), columns)]
    return pd.util.hash_array(keys[0] ^ (keys[1] << np.uint64(1)))


def content_places(strata: np.ndarray, key: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
    """Place 0, 1, … (n,) of every row among the different rows of its stratum, by ``within`` and then by key.

    Rows with the same key share a place. Places modulo k are k folds, in each of which ``within`` is spread evenly.
    """
    inner = np.zeros(len(key)) if within is None else within
    order = np.lexsort((key, inner, strata))
    strata, inner, key = strata[order], inner[order], key[order]
    is_other_stratum = np.append(True, strata[1:] != strata[:-1])
    is_new = is_other_stratum | np.append(True, (key[1:] != key[:-1]) | (inner[1:] != inner[:-1]))
    n_seen = np.cumsum(is_new)
    first = np.repeat(n_seen[is_other_stratum], np.diff(np.append(np.flatnonzero(is_other_stratum), len(key))))
    place = np.empty(len(key), dtype=np.int64)
    place[order] = n_seen - first
    return place


def splitter_holdout(splitter: Any, X: Any, y: Any, groups: Any, n_rows: int) -> np.ndarray:
    """Rows that the last split of a scikit-learn splitter tests on.

    The last one, because a time-ordered splitter trains on most rows there. An iterable of (train, test) index pairs is
    taken as it is. Rows in neither part are an error: they would silently be trained on.

    Returns
    -------
    bool array of shape (n_rows,)
        True = held out.
    """
    if hasattr(splitter, "split") and not isinstance(splitter, (str, bytes)):
        with warnings.catch_warnings():
            # scikit-learn's splitters that have no use for groups say so; nobody has passed any here.
            warnings.filterwarnings("ignore", message="The groups parameter is ignored", category=UserWarning)
            try:
                splits = list(splitter.split(X, y, groups))
            except ValueError as err:
                if groups is None and "groups" in str(err):
                    raise ValueError(
                        f"validation={splitter!r} splits by groups, which are the task ids, but there are no tasks; "
                        "pass task_column or task, or a list of (train, test) index pairs."
                    ) from err
                raise
    elif isinstance(splitter, Iterable) and not isinstance(splitter, (str, bytes)):
        splits = list(splitter)
    else:
        raise ValueError(
            f"validation={splitter!r} is neither a splitter nor a list of (train, test) index pairs; "
            "pass for example GroupShuffleSplit(n_splits=1) or TimeSeriesSplit()."
        )
    if not splits:
        raise ValueError(f"validation={splitter!r} yields no split; it must yield at least one.")
    try:
        train, test = (np.asarray(part) for part in splits[-1])
        is_train, is_held = np.zeros(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
        is_train[train], is_held[test] = True, True
    except (TypeError, ValueError, IndexError) as err:
        raise ValueError(
            f"validation={splitter!r} must yield pairs of row positions (train, test) below {n_rows}: {err}."
        ) from err
    shown = repr(splitter) if hasattr(splitter, "split") else "a list"
    if not is_held.any() or not (is_train & ~is_held).any():
        raise ValueError(f"validation={shown} leaves no row to train or none to validate on; pass another splitter.")
    if not (is_train | is_held).all():
        n_lost = int((~(is_train | is_held)).sum())
        raise ValueError(
            f"validation={shown} puts {n_lost} rows in neither part of its last split; "
            "use a splitter whose parts cover all rows, or drop these rows first."
        )
    return is_held


def stops_early(early_stopping: bool | str, n_rows: int, explicit: dict[str, Any], validation: Any) -> bool:
    """Whether training is to end by its validation rows.

    Parameters
    ----------
    early_stopping : bool or "auto"
        "auto": from `AUTO_EARLY_STOPPING_ROWS` rows on, or where validation rows are asked for.
    n_rows : int
        Labelled rows.
    explicit : dict
        The arguments X_val, y_val, … of fit by name, None where not given.
    validation : splitter or None
        The option of the estimator.

    Raises
    ------
    ValueError
        If validation rows are asked for in part, or in two ways.
    """
    given = [name for name, value in explicit.items() if value is not None]
    if given and (explicit["X_val"] is None or explicit["y_val"] is None):
        raise ValueError(f"{' and '.join(given)} passed without both X_val and y_val; pass these two together.")
    if given and validation is not None:
        raise ValueError("X_val was passed besides validation=; choose one of the two.")
    if given and early_stopping is False:
        raise ValueError("X_val was passed with early_stopping=False, which has no use for it; drop one of the two.")
    if early_stopping == "auto":
        return bool(given) or validation is not None or n_rows >= AUTO_EARLY_STOPPING_ROWS
    return bool(early_stopping)
