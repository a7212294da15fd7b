"""A task's model outside this package
===================================

From a fitted model to what runs elsewhere: one LightGBM model per task, and what else takes such a model. Treelite and
ONNX predict with it, LightGBM draws it, and SHAP values come from it.

::

    pip install "mttab[export,plot]"
    python examples/export_model.py

LightGBM is there in any case; what else is not installed is left out.
"""

import argparse
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

from mttab import RMTGBRegressor

REGION = "north"


def make_shops(n: int = 2000, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    """Sales of shops in three regions: what the weather does depends on the region, what the format does does not."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "region": rng.choice(["north", "south", "coast"], n),
            "format": pd.Categorical(rng.choice(["city", "mall", "village"], n)),
            "degrees [C]": rng.normal(15, 8, n).round(),
            "staff": rng.integers(1, 20, n),
        }
    )
    slope = X["region"].map({"north": 0.5, "south": -0.5, "coast": 1.5})
    y = 3 * X["staff"] + slope * X["degrees [C]"] + 10 * (X["format"] == "mall") + rng.normal(size=n)
    X.loc[rng.random(n) < 0.1, "degrees [C]"] = np.nan
    return X, y


def with_treelite(booster: lightgbm.Booster, features: np.ndarray) -> np.ndarray:
    """Predictions of the model compiled by treelite."""
    import treelite

    return treelite.gtil.predict(treelite.frontend.from_lightgbm(booster), features).ravel()


def with_onnx(booster: lightgbm.Booster, features: np.ndarray) -> np.ndarray:
    """Predictions of the ONNX model, which computes in float32."""
    import onnxmltools
    import onnxruntime
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("features", FloatTensorType([None, features.shape[1]]))]
    model = onnxmltools.convert_lightgbm(booster, initial_types=types)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"features": features.astype(np.float32)})[0].ravel()


def draw(booster: lightgbm.Booster, path: Path) -> None:
    """LightGBM's own picture of what the task's trees use."""
    import matplotlib

    matplotlib.use("Agg")
    options = {"importance_type": "gain", "precision": 0, "figsize": (6, 2.5), "height": 0.5, "grid": False}
    axis = lightgbm.plot_importance(booster, title=f"Features of the model of {REGION!r}", **options)
    axis.set_xlim(0, 1.2 * booster.feature_importance("gain").max())
    axis.set_xlabel("gain")
    axis.set_ylabel("")
    axis.figure.set_layout_engine("constrained")
    axis.spines[["top", "right"]].set_visible(False)
    axis.figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(f"{REGION}.txt"), help="file to write the model to")
    options = parser.parse_args()
    X, y = make_shops()
    model = RMTGBRegressor(task_column="region", random_state=0).fit(X, y)

    exported = model.to_lightgbm(REGION)
    exported.booster.save_model(options.model)
    print(f"{options.model}: the model of {REGION!r}, {exported.booster.num_trees()} trees")
    print("its features:", ", ".join(f"{name} = {column!r}" for name, column in exported.feature_names.items()))

    rows = X[X["region"] == REGION]
    ours = model.predict(rows)
    features = rows.drop(columns="region")
    print("\nlargest difference to model.predict")
    read = lightgbm.Booster(model_file=options.model)
    print(f"  LightGBM, from the file   {np.abs(read.predict(features) - ours).max():.0e}")
    for name, predict in {"treelite": with_treelite, "ONNX, in float32": with_onnx}.items():
        try:
            predicted = predict(exported.booster, exported.encode(features))
            print(f"  {name:<25} {np.abs(predicted - ours).max():.0e}")
        except ImportError as err:
            print(f"  {name:<25} not installed ({err.name}); pip install 'mttab[export]'")

    try:
        draw(exported.booster, options.model.with_suffix(".png"))
        print(f"\nfigure: {options.model.with_suffix('.png')}")
    except ImportError:
        print("\nno figure: matplotlib is not installed; pip install 'mttab[plot]'")

    values, _ = model.shap_values(X)
    size = pd.DataFrame(np.abs(values), columns=X.columns).groupby(X["region"]).mean().drop(columns="region")
    print(f"\nmean size of the SHAP values\n\n{size.round(1).to_string()}")
    degrees = X["degrees [C]"]
    weather = np.select([degrees.isna(), degrees > 15], ["not known", "warm"], "cold")
    by_region = pd.Series(values[:, list(X).index("degrees [C]")]).groupby([X["region"], weather]).mean().unstack()
    print(f"\nwhat the weather adds to the sales\n\n{by_region.round(1).to_string()}")


if __name__ == "__main__":
    main()
