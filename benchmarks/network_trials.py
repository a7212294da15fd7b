"""The networks of the package at one tuning budget: so many settings each, and the best by its own validation rows."""

from typing import Any

import numpy as np

import mttab

NEIGHBOURS = ("SharedBottom", "MMoE", "PLE", "STEM", "TaskExpert")
N_TRIALS = 8  # of a tuned approach; the first is the default options

# option -> values to draw from, each about the default; what all networks have
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


def draw_trials(name: str, n_trials: int, seed: int) -> list[dict[str, Any]]:
    """Settings of a network to try: its defaults, then random ones."""
    known = getattr(mttab, name)().get_params()
    space = {option: values for option, values in (COMMON | OWN).items() if option in known}
    rng = np.random.default_rng(seed)
    drawn = [{option: values[rng.integers(len(values))] for option, values in space.items()} for _ in range(n_trials)]
    return [{}, *drawn[1:]]


def fit_best(name: str, X: Any, Y: Any, n_trials: int, seed: int, **options: Any) -> Any:
    """The network with the best figure on its own validation rows, mean over members."""
    fitted = []
    for settings in draw_trials(name, n_trials, seed):
        stopped = {"early_stopping": True} if n_trials > 1 else {}
        fitted.append(getattr(mttab, name)(random_state=seed, **options, **stopped, **settings).fit(X, Y))
    return max(fitted, key=validation_score) if n_trials > 1 else fitted[0]


def validation_score(network: Any) -> float:
    """Mean over members of the best epoch; above −1 only if there is one."""
    best = network.history_.groupby("member")["validation_score"].max()
    return float(best.fillna(-1.0).mean())
