"""A fitted R-MTGB estimator, as it acts for one task, as a `lightgbm.Booster`: names, categories, and the file."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mttab._core.boosting.export import Column, lightgbm_text
from mttab._core.features import FeatureEncoder
from mttab._core.tasks import some_of
from mttab._core.validation import check_table

if TYPE_CHECKING:
    from mttab._boosting_fit import Fitted

# A categorical column of an array is split by its numbers themselves, one bit each: this is 128 kB a split.
MAX_NUMBER_AS_CATEGORY = 2**20
# Characters that LightGBM refuses in names, or that would break its files: white space, =, JSON and control characters.
_REFUSED = re.compile(r'[\s=",:\[\]{}\\\x00-\x1f\x7f-\x9f]')


@dataclass(frozen=True)
class LightGBMExport:
    """A booster, as it acts for one task, as a LightGBM model; made by ``to_lightgbm``.

    Attributes
    ----------
    booster : lightgbm.Booster
        Its ``predict`` takes ``X`` without the task column, with the columns of ``categories`` as pandas categories,
        or the array that `encode` makes. It returns what the estimator predicts; of classes the probability of the
        second of two, or one column per class.
    feature_names : dict
        Name of each feature in the booster -> column of ``X``, a position where ``X`` had no names.
    categories : dict
        Categorical column of ``X`` -> its levels, in the order of the codes 0, 1, … that the booster knows them by.
        Empty where ``X`` had no names: numbers are then their own codes.
    """

    booster: Any
    feature_names: dict[str, Any]
    categories: dict[Any, np.ndarray]
    _encoder: FeatureEncoder

    def encode(self, X: Any) -> np.ndarray:
        """Features as the numbers that the booster, and whatever it is converted to, reads.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            As in fit, without the task column; strings and pandas categories of any order are welcome.

        Returns
        -------
        ndarray of shape (n, n_features), float64
            Codes where a column is categorical; NaN for missing values and for levels that fit did not see.

        Raises
        ------
        ValueError
            If ``X`` does not have the columns of fit.
        """
        table = check_table(X)
        wanted = list(self.feature_names.values())
        if isinstance(table, pd.DataFrame) and isinstance(wanted[0], str) and list(table.columns) != wanted:
            raise ValueError(
                f"X has the columns {some_of(list(table.columns))}, but the model reads {some_of(wanted)}; pass them "
                "in that order, without the task column."
            )
        return np.ascontiguousarray(self._encoder.transform(table).T)


def export_task(fitted: Fitted, index: int, columns_of_X: list, has_names: bool) -> LightGBMExport:
    """What ``to_lightgbm`` returns.

    ``index`` is n_tasks for a task that fit did not see; ``columns_of_X`` says what each feature is called there.
    """
    encoder = copy.copy(fitted.encoder)
    encoder.level_codes = [
        None if levels is None else _lightgbm_codes(levels, _where(name), has_names)
        for name, levels in zip(encoder.names, encoder.categories, strict=True)
    ]
    categories = [
        None if ours is None or codes is None else [codes[ours == code] for code in range(n)]
        for n, ours, codes in zip(encoder.n_categories, fitted.encoder.level_codes, encoder.level_codes, strict=True)
    ]
    names, levels = lightgbm_names(encoder.names), {}
    if has_names:
        levels = {c: known for c, known in zip(columns_of_X, encoder.categories, strict=True) if known is not None}
    booster = _make_booster(fitted, index, names, categories, [known.tolist() for known in levels.values()])
    return LightGBMExport(booster, dict(zip(names, columns_of_X, strict=True)), levels, encoder)


def booster_of_codes(fitted: Fitted, index: int) -> Any:
    """The booster of a task that reads what the encoder of the fit makes of X, transposed."""
    encoder = fitted.encoder
    categories = [
        [np.array([code]) for code in range(n)] if is_categorical else None
        for n, is_categorical in zip(encoder.n_categories, encoder.is_categorical, strict=True)
    ]
    return _make_booster(fitted, index, [f"x{j}" for j in range(len(categories))], categories, [])


def _make_booster(
    fitted: Fitted,
    index: int,
    names: list[str],
    categories: list[list[np.ndarray] | None],
    pandas_categories: list[list],
) -> Any:
    """``categories`` are those that LightGBM is given, by feature and by code of our trees."""
    from lightgbm import Booster  # takes a while to load

    mapper = fitted.mapper
    columns = [
        Column(name, _where(title), _feature_info(mapper.lows[j], mapper.highs[j], of_codes), of_codes)
        for j, (name, title, of_codes) in enumerate(zip(names, fitted.encoder.names, categories, strict=True))
    ]
    text = lightgbm_text(
        fitted.model.forest,
        index,
        columns,
        fitted.loss.lightgbm_objective,
        float(fitted.scaling.scale[index]),
        float(fitted.scaling.center[index]),
    )
    # An empty list, unlike null, makes LightGBM refuse a table with categories that the model does not have.
    return Booster(model_str=f"{text}\npandas_categorical:{json.dumps(pandas_categories)}\n")


def _where(name: str) -> str:
    return f"column {name!r} of X"


def lightgbm_names(names: list[str]) -> list[str]:
    """Names without characters that LightGBM refuses, none twice."""
    taken: set[str] = set()
    out = []
    for name in names:
        base = _REFUSED.sub("_", name) or "_"
        new, n = base, 1
        while new in taken or (new != name and new in names):
            new, n = f"{base}_{n}", n + 1
        taken.add(new)
        out.append(new)
    return out


def _lightgbm_codes(levels: np.ndarray, where: str, has_names: bool) -> np.ndarray:
    """LightGBM's category of each level: its place, as pandas codes them; of an array, the number that it is."""
    known = levels.tolist()
    if has_names:
        refused = [level for level in known if not isinstance(level, (str, bool, int, float))]
        if refused:
            raise ValueError(
                f"{where} has the level {refused[0]!r}, but LightGBM's files hold text, numbers and bools only; turn "
                "its levels into strings and fit again."
            )
        return np.arange(len(known))
    refused = [k for k in known if not isinstance(k, (bool, int)) or not 0 <= k < MAX_NUMBER_AS_CATEGORY]
    if refused:
        raise ValueError(
            f"{where} has the level {refused[0]!r}, but categories of an array are whole numbers from 0 to "
            f"{MAX_NUMBER_AS_CATEGORY - 1} in LightGBM; fit on a DataFrame, whose levels are coded."
        )
    return np.array(known, dtype=np.int64)


def _feature_info(low: np.ndarray, high: np.ndarray, categories: list[np.ndarray] | None) -> str:
    """Range of a feature's values as LightGBM notes it."""
    if categories is not None:
        return ":".join(str(c) for of_code in categories for c in of_code) or "none"
    return "none" if len(low) == 0 or np.isnan(low[0]) else f"[{float(low[0])!r}:{float(high[-1])!r}]"
