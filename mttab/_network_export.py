"""A fitted network as an ONNX graph, and rows as that graph reads them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mttab._core.neural.members import Place, average_predictions
from mttab._core.neural.onnx import GraphOutput, PredictionGraph, copies_for_export, write_onnx
from mttab._core.neural.training import TrainedNetwork

# Rows that every graph is tried on before it is written.
N_PROBES = 17


class NetworkExport:
    """Mixin over the fitted attributes `_encoding` and `_networks`."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as an ONNX graph, with the scaling of features and targets in it.

        Needs ``pip install 'mttab[onnx]'``. Feed the graph with `onnx_inputs`, or with arrays made as it says there.
        It gives an output per column of ``y``: numbers (n,) in the unit of ``y``, called "predict", or probabilities
        (n, n_classes) in the order of ``classes_``, called "predict_proba". Where ``y`` had several columns, or one in
        a DataFrame, the names end with that of the column: "predict_price".

        The names of features, their levels, tasks and classes stand as JSON in the entry "mttab" of the metadata of the
        graph.

        Parameters
        ----------
        path : str or path-like
            Overwritten where it exists.

        Raises
        ------
        ImportError
            If the packages of the extra are not installed.

        Notes
        -----
        The graph computes in single precision, whatever ``precision`` says. It predicts rows of unseen tasks from what
        the tasks share, also with ``unseen_task="error"``. `attention` is not part of it.

        Examples
        --------
        >>> import tempfile
        >>> import onnxruntime
        >>> from mttab import MultiTabNet
        >>> from mttab.datasets import make_multitask
        >>> X, Y = make_multitask(200, 5, 2, task_types=["regression", "binary"], random_state=0)
        >>> net = MultiTabNet(n_members=1, max_epochs=2, random_state=0).fit(X, Y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     net.to_onnx(f"{folder}/net.onnx")
        ...     session = onnxruntime.InferenceSession(f"{folder}/net.onnx")
        >>> [output.name for output in session.get_outputs()]
        ['predict_y0', 'predict_proba_y1']
        >>> values, probabilities = session.run(None, net.onnx_inputs(X))
        >>> bool(abs(probabilities - net.predict_proba(X)["y1"]).max() < 1e-5)
        True
        """
        check_is_fitted(self, "_networks")
        encoding = self._encoding
        outputs = [
            GraphOutput(name, target.kind, 0 if target.classes is None else len(target.classes))
            for name, target in zip(self._output_names(), encoding.targets.columns, strict=True)
        ]
        networks = copies_for_export(self._networks)
        graph = PredictionGraph(
            networks,
            encoding.columns,
            encoding.scaling.center,
            encoding.scaling.scale,
            outputs,
            encoding.row_tasks is not None,
            self._network_weights(),
        )
        inputs, wanted = self._probe(networks)
        write_onnx(path, graph, self._described(), inputs, wanted)

    def onnx_inputs(self, X: Any, task: Any = None) -> dict[str, np.ndarray]:
        """Rows as the graph of `to_onnx` reads them.

        Parameters
        ----------
        X, task : see `predict`

        Returns
        -------
        dict of ndarray
            Those of them that the model has: "numeric" (n, n_numeric), float64: numeric features as they are, NaN where
            missing. "codes" (n, n_categorical), int64: position of the level among the sorted levels of fit, −1 where
            missing, their number or more for an unknown one. "task" (n,), int64: position of the row's task in
            ``tasks_``, any other number for a task that fit did not see. Features stand in the order of the columns of
            ``X``.
        """
        features, row_task, _ = self._read_rows(X, task)
        return self._graph_inputs(self._encoding.features.transform(features), row_task)

    def _probe(self, networks: list[TrainedNetwork]) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Some inputs of the graph, and what its outputs must be."""
        encoding, columns = self._encoding, self._encoding.columns
        values = np.empty((len(encoding.features.names), N_PROBES))
        for j, (knots, _) in zip(columns.numeric, columns.scales()[0], strict=True):
            values[j] = np.append(np.linspace(knots[0], knots[-1], N_PROBES - 1), np.nan)
        for j in columns.categorical:
            codes = np.arange(N_PROBES) % (encoding.features.n_categories[j] + 2) - 1.0
            values[j] = np.where(codes < 0, np.nan, codes)
        row_task = None
        if encoding.row_tasks is not None:
            row_task = np.arange(N_PROBES) % (encoding.row_tasks.n_tasks + 1)
        place = Place.of(networks[0], "float32")
        out = average_predictions(networks, place, columns.transform(values), row_task, self._network_weights())
        return self._graph_inputs(values, row_task), self._graph_outputs(out, row_task)

    def _graph_inputs(self, values: np.ndarray, row_task: np.ndarray | None) -> dict[str, np.ndarray]:
        columns = self._encoding.columns
        codes = values[columns.categorical].T
        inputs = {
            "numeric": np.ascontiguousarray(values[columns.numeric].T),
            "codes": np.where(np.isnan(codes), -1.0, codes).astype(np.int64),
        }
        found = {name: array for name, array in inputs.items() if array.shape[1]}
        return found if row_task is None else {**found, "task": row_task}

    def _graph_outputs(self, out: np.ndarray, row_task: np.ndarray | None) -> list[np.ndarray]:
        numbers = self._encoding.unscale(out[:, :, 0], row_task)
        proba = self._probabilities_from(out)
        return [numbers[:, t] if p is None else p for t, p in enumerate(proba)]

    def _output_names(self) -> list[str]:
        targets = self._encoding.targets
        kinds = ["predict" if target.classes is None else "predict_proba" for target in targets.columns]
        if targets.frame_columns is None and len(kinds) == 1:
            return kinds
        names = [f"{kind}_{target.label}" for kind, target in zip(kinds, targets.columns, strict=True)]
        return [name if names.count(name) == 1 else f"{name}_{t}" for t, name in enumerate(names)]

    def _described(self) -> dict[str, Any]:
        """What the numbers in the graph mean, as plain JSON."""
        encoding = self._encoding
        names, columns = encoding.layout.feature_names, encoding.columns
        levels = {names[j]: _plain_list(encoding.features.categories[j]) for j in columns.categorical}
        outputs = [
            {"name": name, "task": _plain(target.label), "kind": target.kind, "classes": _plain_list(target.classes)}
            for name, target in zip(self._output_names(), encoding.targets.columns, strict=True)
        ]
        tasks = None if encoding.row_tasks is None else _plain_list(encoding.row_tasks.labels)
        return {"numeric": [names[j] for j in columns.numeric], "codes": levels, "task": tasks, "outputs": outputs}


def _plain_list(labels: np.ndarray | None) -> list[Any] | None:
    return None if labels is None else [_plain(label) for label in labels.tolist()]


def _plain(label: Any) -> Any:
    """A label where JSON has a form for it, otherwise its text."""
    return label if isinstance(label, (str, bool, int, float)) or label is None else str(label)
