"""One tuning budget for every approach: so many settings each, and the best by the approach's own validation rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import mttab

NEIGHBOURS = ("SharedBottom", "MMoE", "PLE", "STEM", "TaskExpert")
NETWORKS = ("MultiTabNet", *NEIGHBOURS)
Settings = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """What an approach may spend.

    n_trials : settings that a tuned approach tries; the first are its defaults
    network : options that every fit of a network has, tuned or not, such as ``{"n_members": 1}``
    """

    n_trials: int = 8
    network: Mapping[str, Any] = field(default_factory=dict)


# option -> values to draw from, about the default
RMTGB: dict[str, list[Any]] = {
    "learning_rate": [0.03, 0.07, 0.15],
    "grow_policy": ["symmetric", "leafwise"],
    "max_leaf_nodes": [16, 32, 64],
    "min_samples_leaf": [5, 10, 20],
    "max_features": [0.5, 1.0],
    "l2_regularization": [0.0, 3.0, 10.0],
}
LIGHTGBM: dict[str, list[Any]] = {
    "learning_rate": [0.03, 0.1, 0.2],
    "num_leaves": [7, 15, 31],
    "min_data_in_leaf": [5, 10, 20],
    "feature_fraction": [0.5, 1.0],
    "lambda_l2": [0.0, 1.0, 10.0],
}
# … what all networks have
COMMON: dict[str, list[Any]] = {
    "learning_rate": [1e-3, 3e-3, 1e-2],
    "dropout": [0.0, 0.1, 0.3],
    "weight_decay": [1e-4, 1e-2, 1e-1],
    "head_dim": [32, 64, 128],
}
# … and what an architecture has
OWN: dict[str, list[Any]] = {
    "n_blocks": [1, 2, 3],
    "direct_dim": [0, 256],
    "mask": ["none", "task_to_task", "both"],
    "expert_dim": [32, 64, 128],
    "expert_depth": [1, 2, 3],
    "activation": ["relu", "swish"],
    "expert_norm": [False, True],
    "n_experts": [4, 6, 8],
    "n_shared_experts": [1, 2, 4],
    "n_task_experts": [1, 2],
    "n_layers": [1, 2, 3],
}


def draw_trials(space: Mapping[str, list[Any]], n_trials: int, seed: int) -> list[Settings]:
    """Settings to try: the defaults, then random ones."""
    rng = np.random.default_rng(seed)
    drawn = [{option: values[rng.integers(len(values))] for option, values in space.items()} for _ in range(n_trials)]
    return [{}, *drawn[1:]]


def network_space(name: str) -> dict[str, list[Any]]:
    known = getattr(mttab, name)().get_params()
    return {option: values for option, values in (COMMON | OWN).items() if option in known}


def best_of(trials: list[Settings], fit: Callable[[Settings], Any], score: Callable[[Any], float]) -> Any:
    """The fitted model with the largest score; one alone needs none."""
    fitted = [fit(settings) for settings in trials]
    return max(fitted, key=score) if len(fitted) > 1 else fitted[0]


def fit_best_network(name: str, X: Any, Y: Any, n_trials: int, seed: int, **options: Any) -> Any:
    """The network with the best figure on its own validation rows, mean over members."""
    stopped = {"early_stopping": True} if n_trials > 1 else {}

    def fit(settings: Settings) -> Any:
        return getattr(mttab, name)(random_state=seed, **{**stopped, **settings, **options}).fit(X, Y)

    return best_of(draw_trials(network_space(name), n_trials, seed), fit, network_score)


def network_score(network: Any) -> float:
    """Mean over networks of the best epoch; above −1 only if there is one."""
    history = network.history_
    best = history.groupby([name for name in ("is_companion", "member") if name in history])["validation_score"].max()
    return float(best.fillna(-1.0).mean())


def rmtgb_score(model: Any) -> float:
    return float(np.max(model.validation_score_))
