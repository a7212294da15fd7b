"""Trained networks as one ONNX graph: from raw numbers and codes of levels to predictions in the user's units."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mttab._core.archive import write_atomically
from mttab._core.neural.columns import BEND, LARGEST, ColumnEncoder
from mttab._core.neural.expert_parts import ExpertNetwork
from mttab._core.neural.network import Inputs
from mttab._core.neural.training import TrainedNetwork

OPSET = 18
# Rows of the example that the graph is made from; any number can be predicted with it.
_EXAMPLE_ROWS = 3


class GraphOutput(NamedTuple):
    """One output of a graph: its name, the kind of its task, and the number of classes, 0 for regression."""

    name: str
    kind: str
    n_classes: int


class RawColumns(nn.Module):
    """What `ColumnEncoder.transform` does, as a graph: raw numbers and codes of levels → encoded columns.

    Numbers are in double precision until they are scaled, so that large ones that differ little stay apart.
    """

    knots: Tensor
    start: Tensor
    slope: Tensor
    center: Tensor
    unit: Tensor
    first: Tensor
    offset: Tensor
    n_levels: Tensor

    def __init__(self, encoder: ColumnEncoder) -> None:
        super().__init__()
        maps, lines = encoder.scales()
        width = 2 ** max(1, int(np.ceil(np.log2(max([2, *(len(x) for x, _ in maps)])))))
        self.width, self.n_numeric, self.n_scales = width, len(maps), encoder.n_scales
        knots, start, slope = np.full((len(maps), width), np.inf), *np.zeros((2, len(maps), width))
        for i, (x, y) in enumerate(maps):
            knots[i, : len(x)], start[i, : len(x)] = x, y
            step = np.diff(x)
            slope[i, : len(x) - 1] = np.divide(np.diff(y), step, out=np.zeros(len(step)), where=step > 0)
        center, unit = np.array(lines, dtype=np.float64).reshape(-1, 2).T
        for name, values in {"knots": knots, "start": start, "slope": slope, "center": center, "unit": unit}.items():
            self.register_buffer(name, torch.as_tensor(values.copy()).flatten())
        self.register_buffer("first", torch.arange(len(maps)) * width)
        self.register_buffer("offset", torch.as_tensor(encoder.offset[:-1]))
        self.register_buffer("n_levels", torch.as_tensor(np.diff(encoder.offset) - 2))

    def numbers(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Raw numbers (n, n_numeric), float64 → scaled ones (n, n_numeric, n_scales), and which are missing."""
        missing = raw.isnan()
        x = torch.where(missing, torch.zeros_like(raw), raw).clamp(-LARGEST, LARGEST)
        place = torch.zeros_like(x, dtype=torch.int64) + self.first
        step = self.width // 2
        while step:  # the last knot at or below x
            place = torch.where(x >= self.knots[place + step], place + step, place)
            step //= 2
        above = (x - self.knots[place]).clamp_min(0.0)
        scales = [self.start[place] + self.slope[place] * above]
        if self.n_scales == 2:
            score = ((x - self.center) / self.unit).clamp(-1e6, 1e6)
            scales.append(score / (1.0 + (score / BEND) ** 2).sqrt())
        scaled = torch.stack(scales, dim=2)
        return torch.where(missing[:, :, None], torch.zeros_like(scaled), scaled).float(), missing

    def levels(self, raw: Tensor) -> Tensor:
        """Codes of levels (n, n_categorical) → rows of the table; negative: missing, too large: unknown."""
        unknown = torch.where(raw >= self.n_levels, self.n_levels + 1, raw)
        return torch.where(raw < 0, self.n_levels, unknown) + self.offset


class PredictionGraph(nn.Module):
    """All of prediction: encode, run every network, average, and give every task its output.

    Parameters
    ----------
    networks : list of TrainedNetwork
        On the CPU, in single precision.
    encoder : ColumnEncoder
    center, scale : ndarray
        Of the target of each output; with row tasks of each of them, and last of an unknown one.
    outputs : list of GraphOutput
    has_row_tasks : bool
    weights : ndarray of shape (n_networks, n_outputs), or None
        How much each network counts for each output; None: all the same.
    """

    center: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(
        self,
        networks: list[TrainedNetwork],
        encoder: ColumnEncoder,
        center: np.ndarray,
        scale: np.ndarray,
        outputs: list[GraphOutput],
        has_row_tasks: bool,
        weights: np.ndarray | None,
    ) -> None:
        super().__init__()
        self.columns = RawColumns(encoder)
        self.networks = nn.ModuleList([network.module for network in networks])
        self.memories = [network.memory for network in networks]
        self.outputs, self.has_row_tasks = outputs, has_row_tasks
        self.has_levels = len(encoder.categorical) > 0
        self.register_buffer("center", torch.as_tensor(center))
        self.register_buffer("scale", torch.as_tensor(scale))
        if weights is None:
            weights = np.full((len(networks), len(outputs)), 1.0 / len(networks))
        self.register_buffer("weights", torch.as_tensor(weights))

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs there are, in their order."""
        is_there = {"numeric": self.columns.n_numeric > 0, "codes": self.has_levels, "task": self.has_row_tasks}
        return [name for name, there in is_there.items() if there]

    def example(self) -> tuple[Tensor, ...]:
        """Some rows."""
        examples = {
            "numeric": torch.zeros(_EXAMPLE_ROWS, self.columns.n_numeric, dtype=torch.float64),
            "codes": torch.zeros(_EXAMPLE_ROWS, len(self.columns.n_levels), dtype=torch.int64),
            "task": torch.zeros(_EXAMPLE_ROWS, dtype=torch.int64),
        }
        return tuple(examples[name] for name in self.input_names)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The inputs of `input_names` → an output per task: numbers (n,), or probabilities (n, n_classes)."""
        raw = dict(zip(self.input_names, given, strict=True))
        some = given[0]
        if "numeric" in raw:
            numeric, missing = self.columns.numbers(raw["numeric"])
        else:
            numeric = torch.zeros(some.shape[0], 0, self.columns.n_scales)
            missing = torch.zeros(some.shape[0], 0, dtype=torch.bool)
        codes = (
            self.columns.levels(raw["codes"]) if self.has_levels else torch.zeros(some.shape[0], 0, dtype=torch.int64)
        )
        task = torch.zeros(0, dtype=torch.int64)
        if self.has_row_tasks:
            n_tasks = self.center.shape[0] - 1
            is_known = (raw["task"] >= 0) & (raw["task"] < n_tasks)
            task = torch.where(is_known, raw["task"], torch.full_like(raw["task"], n_tasks))
        inputs = Inputs(numeric, missing, codes, task)
        scores = [net(inputs, memory)[0] for net, memory in zip(self.networks, self.memories, strict=True)]
        return tuple(self._output(t, output, scores, task) for t, output in enumerate(self.outputs))

    def _output(self, t: int, output: GraphOutput, scores: list[Tensor], task: Tensor) -> Tensor:
        if output.kind == "multiclass":
            parts = [score[:, t, : output.n_classes].softmax(dim=1) for score in scores]
        elif output.kind == "binary":
            parts = [score[:, t, 0].sigmoid() for score in scores]
        else:
            parts = [score[:, t, 0] for score in scores]
        weighted = [part.double() * self.weights[i, t] for i, part in enumerate(parts)]
        mean = torch.stack(weighted).sum(dim=0)
        if output.kind == "multiclass":
            return mean / mean.sum(dim=1, keepdim=True)
        if output.kind == "binary":
            return torch.stack([1.0 - mean, mean], dim=1)
        place: Any = task if self.has_row_tasks else t
        return mean * self.scale[place] + self.center[place]


def copies_for_export(networks: list[TrainedNetwork]) -> list[TrainedNetwork]:
    """The networks on the CPU in single precision, ready to be traced."""
    copies = []
    for network in networks:
        copied = copy.deepcopy(network)
        copied.optimizer_state = None
        copied.move(torch.device("cpu"), torch.float32)
        copied.module.eval().requires_grad_(False)
        if isinstance(copied.module, ExpertNetwork):
            copied.module.is_traced = True
        copies.append(copied)
    return copies


_DOC = (
    "Made by mttab. Inputs: numeric, double, NaN where missing; codes, positions of levels, -1 where missing, any "
    "larger number where unknown; task, position of the task of the row, any larger number where unknown. Each is "
    "there where the model has it; the metadata entry mttab names features, levels, tasks and classes in their order."
)


def write_onnx(
    path: str | os.PathLike[str],
    graph: PredictionGraph,
    described: dict[str, Any],
    inputs: dict[str, np.ndarray],
    wanted: list[np.ndarray],
) -> None:
    """Write the graph to one file, once it has predicted what it should.

    Parameters
    ----------
    path : path-like
    graph : PredictionGraph
    described : dict
        Plain JSON, for the metadata entry "mttab" of the file.
    inputs : dict of ndarray
        Some rows to try it on.
    wanted : list of ndarray
        Every output for them.

    Raises
    ------
    ImportError
        Where the extra is missing.
    RuntimeError
        If the graph predicts something else: an exporter may take what depends on the rows for a constant.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - which torch needs
    except ImportError as err:
        raise ImportError(
            f"to_onnx needs onnx, onnxscript and onnxruntime, but {err.name} is not installed; run pip install "
            "'mttab[onnx]'."
        ) from err
    with torch.no_grad(), _in_silence():
        model = onnx.load_model_from_string(_traced(graph) if _can_trace() else exported(graph))
    model.producer_name, model.doc_string = "mttab", _DOC
    entry = model.metadata_props.add()
    entry.key, entry.value = "mttab", json.dumps(described)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for output, found, expected in zip(graph.outputs, session.run(None, inputs), wanted, strict=True):
        unit = 1.0 if output.n_classes else float(graph.scale.max())
        if found.shape != expected.shape or not np.abs(found - expected).max() <= 1e-3 * unit:
            raise RuntimeError(
                f"The exporter of torch {torch.__version__} made a graph whose {output.name} is not what the network "
                "predicts, so it was not written; another version of torch may do better."
            )
    write_atomically(Path(path), data)


def _can_trace() -> bool:
    """Whether torch still has the exporter that traces: some ten times faster, and to go in a later version."""
    return hasattr(torch.onnx, "utils")


def _traced(graph: PredictionGraph) -> bytes:
    names = [*graph.input_names, *(output.name for output in graph.outputs)]
    file: Any = io.BytesIO()
    torch.onnx.export(
        graph.eval(),
        graph.example(),
        file,
        input_names=graph.input_names,
        output_names=[output.name for output in graph.outputs],
        dynamic_axes={name: {0: "n"} for name in names},
        opset_version=OPSET,
        dynamo=False,
    )
    return file.getvalue()


def exported(graph: PredictionGraph) -> bytes:
    """The graph through the exporter of newer versions of torch."""
    n = torch.export.Dim("n")
    rows = tuple({0: n} for _ in graph.input_names)
    # In two steps: torch.onnx.export alone would fall back to a graph for so many rows only.
    program = torch.export.export(graph.eval(), graph.example(), dynamic_shapes=(rows,), strict=False)
    made: Any = torch.onnx.export(
        program,
        input_names=graph.input_names,
        output_names=[output.name for output in graph.outputs],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    return made.model_proto.SerializeToString()


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
