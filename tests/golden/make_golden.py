"""Write the golden files: `python tests/golden/make_golden.py` puts them into the folder of the current format version.

A folder that has been released is never written again: its files are the promise that old models stay readable. Only
until then, and for a new format version, this is run.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mttab import MultiTabNet, RMTGBClassifier, RMTGBRegressor
from mttab._core.archive import FORMAT_VERSION

FOLDER = Path(__file__).parent / f"format_{FORMAT_VERSION}"
N_ROWS = 12  # of the stored predictions


def make_table(n: int = 240) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers with gaps, levels, and three schools that follow two rules."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"age": rng.normal(40, 10, n).round(1), "income": rng.lognormal(size=n).round(2)})
    X.loc[::7, "age"] = np.nan
    X["colour"] = pd.Categorical(rng.choice(["red", "green", None], n))
    X["school"] = rng.choice(["north", "south", "west"], n)
    sign = np.where(X["school"] == "west", -1.0, 1.0)
    return X, sign * X["income"].to_numpy() + (X["colour"] == "red").to_numpy() + 0.1 * rng.normal(size=n)


def make_models() -> dict[str, tuple[object, pd.DataFrame]]:
    """Name of the file -> fitted model and rows to predict."""
    X, y = make_table()
    unseen = X.head(N_ROWS).copy()
    unseen.loc[0, "school"], unseen.loc[1, "colour"] = "elsewhere", np.nan
    rounds = {"max_iter_shared": 8, "max_iter_partition": 4, "max_iter_task": 2, "max_leaf_nodes": 6}
    common = {"task_column": "school", "sharing": "blocks", "early_stopping": False, "random_state": 0, **rounds}
    labels = np.array(["high", "low", "middle"])[np.digitize(y, [0.5, 1.5])]
    Y = pd.DataFrame({"amount": y, "late": pd.Series(y > 1).astype(float), "level": labels})
    Y.loc[::9, "amount"] = np.nan
    small = {"embedding_dim": 4, "n_blocks": 1, "mlp_dim": 4, "head_dim": 4, "n_bins": 3, "n_members": 1}
    rows = {"sample_attention": True, "sample_attention_dim": 4, "context_size": 16}
    network = MultiTabNet(**small, **rows, max_epochs=4, random_state=0, device="cpu")
    return {
        "rmtgb_regressor": (RMTGBRegressor(target_scaling="task", **common).fit(X, y), unseen),
        "rmtgb_classifier": (
            RMTGBClassifier(categorical_features=["colour", "school"], **common).fit(X, labels),
            unseen,
        ),
        "multitabnet": (network.fit(X[["age", "income", "colour"]], Y), unseen[["age", "income", "colour"]]),
    }


def predictions_of(model: object, X: pd.DataFrame) -> dict[str, list]:
    """Numbers and labels that the model predicts, as plain JSON."""
    found = {"predict": np.asarray(model.predict(X)).tolist()}
    if hasattr(model, "predict_proba"):
        proba = model.predict_proba(X)
        parts = proba.items() if isinstance(proba, dict) else [("", proba)]
        found |= {f"predict_proba {name}".strip(): values.tolist() for name, values in parts}
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (model, X) in make_models().items():
        model.save(FOLDER / f"{name}.mttab")
        columns = {column: [None if pd.isna(v) else v for v in X[column]] for column in X}
        stored = {"X": columns, "categorical": ["colour"], **predictions_of(model, X)}
        (FOLDER / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
