"""How a fitted network leaves the program: as a file that `load` reads, and as an ONNX graph."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mttab._core.neural.device import is_available
from mttab._core.neural.members import Place, seeded
from mttab._core.neural.onnx import GraphOutput, PredictionGraph, copies_for_export, write_onnx
from mttab._core.neural.storing import dtype_of, pack_network, unpack_network
from mttab._core.records import require
from mttab.persistence import Saving


class NetworkSaving(Saving):
    """Mixin over the fitted attributes `_encoding` and `_networks`."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def _pack_fitted(self, fitted: dict[str, Any]) -> dict[str, Any]:
        if "_networks" not in fitted:
            return fitted
        return {**fitted, "_networks": [pack_network(network) for network in fitted["_networks"]]}

    def _unpack_fitted(self, fitted: dict[str, Any]) -> dict[str, Any]:
        if "_networks" not in fitted:
            return fitted
        # Parameters may have been set to something else since fit; the weights are those of then.
        maker = type(self)(**{**self.get_params(deep=False), **fitted["_options_of_fit"]})
        networks = []
        for packed in fitted["_networks"]:
            with seeded(0, Place.resolve("cpu", str(dtype_of(packed)).removeprefix("torch."))):
                blank = maker._blank_network(fitted["_encoding"])
            networks.append(unpack_network(packed, blank))
        return {**fitted, "_networks": networks}

    def _check_restored(self) -> None:
        encoding, targets = self._encoding, self._encoding.targets.columns
        n_tasks = len(targets) if encoding.row_tasks is None else encoding.row_tasks.n_tasks
        require(len(self._networks) > 0, "there is no network")
        require(len(self.tasks_) == self.n_tasks_ == n_tasks, "tasks_ are not those of the model")
        require(len(encoding.scaling.center) == n_tasks + 1, "a task has no scale")
        require(len(encoding.features.names) == len(encoding.layout.feature_positions), "a feature has no encoding")
        columns = encoding.columns
        is_categorical = encoding.features.is_categorical
        require(np.array_equal(columns.categorical, np.flatnonzero(is_categorical)), "a feature changed its kind")
        n_levels = encoding.features.n_categories[is_categorical]
        require(np.array_equal(np.diff(columns.offset), n_levels + 2), "a level has no token")

    def _settle(self, device: str | None) -> None:
        if "_networks" not in vars(self):
            return
        if device is None:
            device = self.device_ if is_available(self.device_) else "cpu"
        place = Place.resolve(device, self.precision).device
        if place.type != "cpu":
            for network in self._networks:
                network.move(place)

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
        graph = PredictionGraph(
            copies_for_export(self._networks),
            encoding.columns,
            encoding.scaling.center,
            encoding.scaling.scale,
            outputs,
            encoding.row_tasks is not None,
        )
        write_onnx(path, graph, self._described(), _DOC)

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
        values = self._encoding.features.transform(features)
        columns = self._encoding.columns
        codes = values[columns.categorical].T
        inputs = {
            "numeric": np.ascontiguousarray(values[columns.numeric].T),
            "codes": np.where(np.isnan(codes), -1.0, codes).astype(np.int64),
        }
        found = {name: array for name, array in inputs.items() if array.shape[1]}
        return found if row_task is None else {**found, "task": row_task}

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


_DOC = (
    "Made by mttab. Inputs: numeric, double, NaN where missing; codes, positions of levels, -1 where missing, any "
    "larger number where unknown; task, position of the task of the row, any larger number where unknown. Each is "
    "there where the model has it; the metadata entry mttab names features, levels, tasks and classes in their order."
)


def _plain_list(labels: np.ndarray | None) -> list[Any] | None:
    return None if labels is None else [_plain(label) for label in labels.tolist()]


def _plain(label: Any) -> Any:
    """A label where JSON has a form for it, otherwise its text."""
    return label if isinstance(label, (str, bool, int, float)) or label is None else str(label)
