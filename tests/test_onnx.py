"""Networks as ONNX graphs: onnxruntime predicts what the estimator predicts, from raw numbers and codes."""

import json
import sys

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from mttab import PLE, STEM, MMoE, MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor, SharedBottom, TaskExpert
from mttab._core.neural import onnx as onnx_module
from mttab.datasets import make_multitask

SMALL = {
    **{"embedding_dim": 4, "n_blocks": 2, "mlp_dim": 4, "head_dim": 4, "n_bins": 3, "n_members": 2, "max_epochs": 2},
    **{"random_state": 0, "batch_size": 64, "device": "cpu"},
}


def make_rows(n=120):
    """Numbers of all sizes with gaps, levels, and labels of three kinds."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=n), "time": 1.7e9 + rng.normal(size=n), "constant": 1.0})
    X["few"] = rng.choice([1.0, 2.0, 50.0], n)
    X = X.mask(rng.random(X.shape) < 0.1)
    X.insert(1, "level", pd.Categorical(rng.choice(["u", "v", None], n)))
    _, Y = make_multitask(n, 3, 3, task_types=["regression", "binary", "multiclass"], random_state=0)
    return X, Y.assign(y0=1000.0 * Y["y0"])


def far_rows():
    """Rows unlike those of fit: unknown levels, numbers beyond all others."""
    X, _ = make_rows()
    X["level"] = np.where(np.arange(len(X)) % 3 == 0, "new", X["level"])
    X.loc[:2, "a"] = [1e308, -1e308, 0.0]
    X.loc[3:5, "time"] = 0.0
    return pd.concat([X, make_rows()[0].head(7)])


def session_of(model, folder):
    model.to_onnx(folder / "net.onnx")
    return onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])


def outputs_of(session, inputs):
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


OPTIONS = {
    "default embedding": {},
    "rows see rows, in double precision": {
        **{"sample_attention": True, "sample_attention_dim": 4, "context_size": 20, "precision": "float64"},
        **{"numerical_embedding": "periodic", "mask": "both"},
    },
    "past the attention": {"direct_dim": 3, "numerical_scaling": "standard", "numerical_embedding": "linear"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_graph_predicts_what_the_network_predicts(options, tmp_path):
    X, Y = make_rows()
    model = MultiTabNet(**SMALL, **OPTIONS[options]).fit(X, Y)
    session, rows = session_of(model, tmp_path), far_rows()
    found = outputs_of(session, model.onnx_inputs(rows))
    assert list(found) == ["predict_y0", "predict_proba_y1", "predict_proba_y2"]
    assert np.abs(found["predict_y0"] - model.predict(rows)["y0"]).max() < 1e-5 * Y["y0"].std()
    for name, proba in model.predict_proba(rows).items():
        assert np.abs(found[f"predict_proba_{name}"] - proba).max() < 1e-5
    one = outputs_of(session, model.onnx_inputs(rows.iloc[[5]]))
    assert one["predict_y0"] == pytest.approx(found["predict_y0"][[5]], rel=1e-5)


def test_a_graph_of_row_tasks_predicts_known_and_unseen_tasks(tmp_path):
    X, Y = make_rows()
    X["task"] = np.array(["north", "south", "west"])[np.arange(len(X)) % 3]
    model = MultiTabNetRegressor(task_column="task", target_scaling="task", **SMALL).fit(X, Y["y0"])
    session, rows = session_of(model, tmp_path), X.assign(task=X["task"].replace("west", "elsewhere"))
    inputs = model.onnx_inputs(rows)
    assert sorted(set(inputs["task"].tolist())) == [0, 1, 3]
    assert [i.name for i in session.get_inputs()] == ["numeric", "codes", "task"]
    wanted = pytest.approx(model.predict(rows), abs=1e-5 * Y["y0"].std())
    assert outputs_of(session, inputs) == {"predict": wanted}
    inputs["task"][inputs["task"] == 3] = -1  # any other number will do
    assert outputs_of(session, inputs) == {"predict": wanted}


@pytest.mark.parametrize("estimator_class", [SharedBottom, MMoE, PLE, STEM, TaskExpert])
def test_a_graph_of_experts_predicts_what_they_predict(estimator_class, tmp_path, capfd):
    X, Y = make_rows()
    options = {
        "n_members": 1,
        "max_epochs": 1,
        "expert_dim": 4,
        "activation": "swish",
        "batch_size": 64,
        "device": "cpu",
        "random_state": 0,
    }
    model = estimator_class(**options).fit(X, Y)
    session, rows = session_of(model, tmp_path), far_rows()
    found = outputs_of(session, model.onnx_inputs(rows))
    assert np.abs(found["predict_y0"] - model.predict(rows)["y0"]).max() < 1e-5 * Y["y0"].std()
    X["task"] = np.array(["north", "south", "west"])[np.arange(len(X)) % 3]
    model = estimator_class(task_column="task", **options).fit(X, Y["y0"])
    session, rows = session_of(model, tmp_path), X.assign(task=X["task"].replace("west", "elsewhere"))
    for some in (rows, rows.iloc[[4]], rows.iloc[[5]]):
        wanted = pytest.approx(np.ravel(model.predict(some)), abs=1e-5 * Y["y0"].std())
        assert np.ravel(outputs_of(session, model.onnx_inputs(some))["predict"]) == wanted
    assert capfd.readouterr().out == ""


def test_a_graph_of_levels_alone_has_no_numeric_input(tmp_path):
    X, Y = make_rows()
    labels = Y["y1"].to_numpy()
    model = MultiTabNetClassifier(**SMALL).fit(X[["level"]], labels)
    session = session_of(model, tmp_path)
    assert [i.name for i in session.get_inputs()] == ["codes"]
    found = outputs_of(session, {"codes": np.array([[0], [1], [-1], [2], [99]])})
    rows = pd.DataFrame({"level": ["u", "v", None, "new", "newer"]})
    assert found["predict_proba"] == pytest.approx(model.predict_proba(rows), abs=1e-5)


def test_the_metadata_say_what_the_numbers_mean(tmp_path):
    X, Y = make_rows()
    model = MultiTabNet(**{**SMALL, "max_epochs": 0, "n_members": 1}).fit(X, Y)
    session = session_of(model, tmp_path)
    described = json.loads(session.get_modelmeta().custom_metadata_map["mttab"])
    assert described["numeric"] == ["a", "time", "constant", "few"]
    assert described["codes"] == {"level": ["u", "v"]}
    assert described["task"] is None
    last = {"name": "predict_proba_y2", "task": "y2", "kind": "multiclass", "classes": model.classes_["y2"].tolist()}
    assert described["outputs"][2] == last
    assert [i.type for i in session.get_inputs()] == ["tensor(double)", "tensor(int64)"]


def test_columns_that_would_be_called_alike_are_told_apart(tmp_path):
    X, Y = make_rows()
    Y = Y[["y0"]].assign(other=Y["y0"]).set_axis(pd.Index([1, "1"], dtype=object), axis=1)
    model = MultiTabNet(**{**SMALL, "max_epochs": 0, "n_members": 1}).fit(X, Y)
    names = [output.name for output in session_of(model, tmp_path).get_outputs()]
    assert names == ["predict_1_0", "predict_1_1"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(package, tmp_path, monkeypatch):
    X, Y = make_rows()
    model = MultiTabNet(**{**SMALL, "max_epochs": 0, "n_members": 1}).fit(X, Y)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed; run pip install 'mttab\[onnx\]'"):
        model.to_onnx(tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_predicts_something_else_is_not_written(tmp_path, monkeypatch):
    X, Y = make_rows()
    models = [MultiTabNet(**{**SMALL, "max_epochs": 0, "random_state": seed}).fit(X, Y) for seed in (0, 1)]
    models[0].to_onnx(tmp_path / "first.onnx")
    monkeypatch.setattr(onnx_module, "_traced", lambda graph: (tmp_path / "first.onnx").read_bytes())
    with pytest.raises(RuntimeError, match="a graph whose predict_y0 is not what"):
        models[1].to_onnx(tmp_path / "second.onnx")
    assert not (tmp_path / "second.onnx").exists()


@pytest.mark.slow
def test_the_exporter_of_newer_versions_of_torch_makes_the_same_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_module, "_can_trace", lambda: False)
    X, Y = make_rows()
    model = MultiTabNet(**{**SMALL, "n_members": 1}).fit(X, Y)
    found = outputs_of(session_of(model, tmp_path), model.onnx_inputs(far_rows()))
    assert np.abs(found["predict_y0"] - model.predict(far_rows())["y0"]).max() < 1e-5 * Y["y0"].std()
    assert found["predict_proba_y2"] == pytest.approx(model.predict_proba(far_rows())["y2"], abs=1e-5)
