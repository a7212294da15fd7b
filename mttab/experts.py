"""Networks of experts: the neighbours of MultiTab-Net, on the same base, encoder and trainer.

An architecture is one row of a table: its torch module, its options and its paper. Three estimators are made of it.
"""

from __future__ import annotations

import inspect
import warnings
from textwrap import fill
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from mttab._core.neural.expert_parts import ExpertNetwork, ExpertOptions
from mttab._core.neural.experts import MMoEModule, PLEModule, SharedBottomModule, STEMModule, TaskExpertModule
from mttab._core.neural.members import Place
from mttab._network_base import BaseNetwork
from mttab._network_options import EXPERTS, FEATURES, TASK_TYPES, TASKS, TRAINING, Option, declare
from mttab._network_targets import ClassTargets, MixedTargets, NumberTargets

COLLAPSED = 0.9  # an expert with more zeros than this share says next to nothing


class Architecture(NamedTuple):
    """One row of the table: what the estimators of an architecture are made from.

    Attributes
    ----------
    module : type
        The network.
    name, title : str
        Of the mixed estimator, and in a sentence.
    what : str
        Paragraph of the docstring; refers to [1]_.
    options : tuple of str
        Those of `EXPERTS` that it has.
    reference : str
    """

    module: type[ExpertNetwork]
    name: str
    title: str
    what: str
    options: tuple[str, ...]
    reference: str


class BaseExperts(BaseNetwork):
    """A network of experts, without saying which: `_architecture` does."""

    _fixed_options: ClassVar[tuple[str, ...]] = BaseNetwork._fixed_options
    _architecture: ClassVar[Architecture]

    zero_activations_: pd.DataFrame

    def gates(self, X: Any, task: Any = None, *, layer: int = -1, member: int = 0) -> dict[Any, pd.DataFrame]:
        """Weights of the experts in what each task reads.

        Parameters
        ----------
        X, task : see `predict`
        layer : int, default=-1
            Layer of experts, where there are several; those of the last are what the towers read.
        member : int, default=0
            Network to look at; its experts have nothing in common with those of the others.

        Returns
        -------
        dict of DataFrame of shape (n, n_experts)
            By task. Every row sums to 1. With row tasks each has its own rows of ``X``; rows of tasks that fit did not
            see are in none.
        """
        features, row_task, index = self._read_rows(X, task)
        network = self._networks[_position(member, len(self._networks), "member", "networks")]
        n_layers = len(self._expert_names())
        at = _position(layer, n_layers, "layer", "layers of experts")
        inputs = Place.of(network, self.precision).inputs(self._encoding.encode_features(features), row_task)
        weights = network.read(inputs, lambda module, rows: module.gates(rows, at))
        labels = self.tasks_.tolist()
        index = pd.RangeIndex(len(weights)) if index is None else index
        found = {}
        for t, label in enumerate(labels):
            rows = slice(None) if row_task is None else row_task == t
            columns = self._gate_names(at, label)
            found[label] = pd.DataFrame(weights[rows, t if row_task is None else 0], index[rows], columns)
        return found

    def _expert_names(self) -> list[list[tuple[Any, str]]]:
        """Task (None: all) and name of every expert in every layer, as `ExpertNetwork.zeros` has them."""
        n_task = getattr(self, "n_task_experts", 0)
        n_shared = getattr(self, "n_shared_experts", getattr(self, "n_experts", 1))
        own = [(label, f"expert {k} of {label}") for label in self.tasks_.tolist() for k in range(n_task)]
        kind = "shared expert" if n_task else "expert"
        return [own + [(None, f"{kind} {k}") for k in range(n_shared)]] * getattr(self, "n_layers", 1)

    def _gate_names(self, layer: int, label: Any) -> list[str]:
        """What the gate of a task weighs."""
        module = self._architecture.module
        names = self._expert_names()[layer]
        if not module.reads_experts_of_others:
            names = [(owner, name) for owner, name in names if owner is None or owner == label]
        return [name for _, name in names] + (["memory"] if module.has_memory and layer > 0 else [])

    def _look_back(self, rows: Any) -> None:
        """Count the zeros of every expert, and warn of those that have collapsed."""
        names = self._expert_names()
        tables = []
        for member, network in enumerate(self._networks):
            inputs = Place.of(network, self.precision).inputs(rows.columns, rows.task)
            share = network.read(inputs, lambda module, block: module.zeros(block))
            share = _mean_by_expert(share, rows.task, names)
            layers = [
                pd.DataFrame({"layer": i, "expert": [name for _, name in layer]}) for i, layer in enumerate(names)
            ]
            tables.append(pd.concat(layers).assign(member=member, zeros=share))
        self.zero_activations_ = pd.concat(tables, ignore_index=True)[["member", "layer", "expert", "zeros"]]
        collapsed = self.zero_activations_[self.zero_activations_["zeros"] > COLLAPSED]
        if len(collapsed):
            shown = [f"{r.expert} (member {r.member}, layer {r.layer})" for r in collapsed[:5].itertuples()]
            more = f" and {len(collapsed) - 5} more" if len(collapsed) > 5 else ""
            warnings.warn(
                f"{len(collapsed)} of {len(self.zero_activations_)} experts have collapsed: more than "
                f"{COLLAPSED:.0%} of what they say on the training rows is zero: {', '.join(shown)}{more}. Pass "
                "activation='swish', expert_norm=True, a smaller learning_rate, or fewer experts.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _make_module(self, encoding: Any, outputs: Any, bins: Any) -> ExpertNetwork:
        columns = encoding.columns
        n_tasks = len(outputs.kinds) if encoding.row_tasks is None else encoding.row_tasks.n_tasks
        module = self._architecture.module
        options = ExpertOptions(
            n_features=len(columns.numeric) + len(columns.categorical),
            n_outputs=outputs.n_outputs,
            n_tasks=n_tasks,
            has_row_tasks=encoding.row_tasks is not None,
            width=self.embedding_dim,
            n_experts=getattr(self, "n_shared_experts", getattr(self, "n_experts", 1)),
            n_task_experts=getattr(self, "n_task_experts", 0),
            expert_width=self.expert_dim,
            expert_depth=self.expert_depth,
            n_layers=getattr(self, "n_layers", 1),
            activation=self.activation,
            expert_norm=self.expert_norm,
            gate_width=getattr(self, "gate_dim", 0),
            gate_dropout=getattr(self, "gate_dropout", 0.0),
            head_width=self.head_dim,
            dropout=self.dropout,
        )
        tokens = self._feature_tokens(encoding, bins, self.embedding_dim * module.n_embeddings(n_tasks))
        return module(tokens, options)


def _position(i: int, n: int, name: str, what: str) -> int:
    if not -n <= i < n:
        raise ValueError(f"{name}={i}, but there are {n} {what}; pass {-n} … {n - 1}.")
    return i % n


def _mean_by_expert(share: np.ndarray, row_task: Any, names: list[list[tuple[Any, str]]]) -> np.ndarray:
    """Mean over rows of each column; with row tasks an expert of a task has a mean over the rows of that task."""
    if row_task is None:
        return share.mean(axis=0)
    sums = pd.DataFrame(share).groupby(row_task).mean().to_numpy()
    overall, found, start = share.mean(axis=0), [], 0
    for layer in names:
        owners = list(dict.fromkeys(owner for owner, _ in layer if owner is not None))
        n_shared = sum(owner is None for owner, _ in layer)
        n_own = (len(layer) - n_shared) // max(1, len(owners))
        found += [sums[:, start : start + n_own].ravel(), overall[start + n_own : start + n_own + n_shared]]
        start += n_own + n_shared
    return np.concatenate(found)


# --- the table --------------------------------------------------------------------------------------------------------

_STACK = ("embedding_dim", "expert_dim", "expert_depth", "activation", "expert_norm", "head_dim", "dropout")
_GATES = ("gate_dim", "gate_dropout")

ARCHITECTURES = (
    Architecture(
        SharedBottomModule,
        "SharedBottom",
        "the shared bottom",
        "One MLP for all tasks and a tower per task on top of it [1]_. The MLP is called an expert here, one that all "
        "tasks read with weight 1.",
        _STACK,
        'R. Caruana. "Multitask Learning". Machine Learning 28, 1997.',
    ),
    Architecture(
        MMoEModule,
        "MMoE",
        "the multi-gate mixture of experts",
        "All tasks share the experts, MLPs that see the whole row, and every task has a gate that weighs them anew for "
        "every row [1]_. A tower per task reads the weighted mean.",
        (*_STACK, "n_experts", *_GATES),
        'J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong, E. H. Chi. "Modeling Task Relationships in Multi-task Learning with '
        'Multi-gate Mixture-of-Experts". KDD 2018.',
    ),
    Architecture(
        PLEModule,
        "PLE",
        "progressive layered extraction",
        "Every task has experts of its own and there are shared ones; the gate of a task weighs its own and the shared "
        "experts, in several layers [1]_. With ``n_layers=1`` it is CGC, customised gate control. With row tasks the "
        "shared stream between layers reads the experts of the row's own task, not those of all tasks.",
        (*_STACK, "n_shared_experts", "n_task_experts", "n_layers", *_GATES),
        'H. Tang, J. Liu, M. Zhao, X. Gong. "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) '
        'Model for Personalized Recommendations". RecSys 2020.',
    ),
    Architecture(
        STEMModule,
        "STEM",
        "shared and task-specific embeddings",
        "Every task has an embedding of the features and experts of its own, and one more of each is shared. The gate "
        "of a task weighs all experts, but its loss trains only its own and the shared ones: nothing flows back into "
        "the experts and the embedding of another task [1]_. All experts see every row, so that time and memory grow "
        "with the number of tasks, also of row tasks.",
        (*_STACK, "n_shared_experts", "n_task_experts", *_GATES),
        'L. Su, J. Pan, X. Wang, X. Xiao, S. Quan, X. Chen, J. Jiang. "STEM: Unleashing the Power of Embeddings for '
        'Multi-task Recommendation". AAAI 2024, arXiv:2308.13537.',
    ),
    Architecture(
        TaskExpertModule,
        "TaskExpert",
        "experts with a memory, after TaskExpert",
        "A trunk of several layers; in each of them experts take its state apart and every task has a gate that "
        "depends on the row. What a task has read so far is its memory, which is one expert more in the next layer "
        "[1]_. Made for pictures there; here the trunk is an MLP over a row and a gate reads trunk and memory.",
        (*_STACK, "n_experts", "n_layers", *_GATES),
        'H. Ye, D. Xu. "TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial '
        'Mixture-of-Experts". ICCV 2023, arXiv:2307.15324.',
    ),
)

_TASKS = TASKS | {
    "task_column": TASKS["task_column"]._replace(
        meaning="Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite "
        "ids. Each row then goes through the gate and the tower of its own task, and ``y`` has one column. None: tasks "
        "come from ``fit(..., task=)``, or are the columns of ``y``."
    )
}
_TRAINING = TRAINING | {
    "unseen_task": TRAINING["unseen_task"]._replace(
        meaning="What predict does with a row task that fit did not see: the mean of what it would be in each task, or "
        "an error."
    )
}

_PARAMETERS = """
    Parameters
    ----------
    {parameters}

    Attributes
    ----------"""

_LOOK = """zero_activations_ : DataFrame
        Share of zeros in what each expert says on the training rows, by "member", "layer" and "expert". Above 0.9 an
        expert has collapsed, of which fit warns; only with ``activation="relu"``.
    """

_MIXED = (
    """{Title}, for tasks of mixed kinds.

    {what}

    Regression, binary and multiclass tasks are learned together; labels may be missing. Encoding, training and all else
    are those of `MultiTabNet`. With one task, a 1-D ``y``, it is the single-task network.
    """
    + _PARAMETERS
    + """
    tasks_, task_types_, history_, n_iter_, device_, n_tasks_, n_features_in_, feature_names_in_
        See `MultiTabNet`.
    classes_ : dict
        Sorted classes of every column that holds classes.
    """
    + _LOOK
    + """
    References
    ----------
    {reference}

    Examples
    --------
    >>> from mttab import {name}
    >>> from mttab.datasets import make_multitask
    >>> X, Y = make_multitask(300, 5, 2, task_types=["regression", "binary"], random_state=0)
    >>> net = {name}(n_members=1, max_epochs=3, random_state=0).fit(X, Y)
    >>> net.predict(X).shape
    (300, 2)
    >>> net.gates(X)["y1"].sum(axis=1).round(3).unique()
    array([1.])
    """
)

_REGRESSOR = (
    """{Title}, for regression of one or several targets.

    The network of `{name}` [1]_ with scikit-learn's conventions for several outputs.
    """
    + _PARAMETERS
    + """
    tasks_, task_types_, history_, n_iter_, device_, n_tasks_, n_features_in_, feature_names_in_
        See `MultiTabNet`.
    """
    + _LOOK
    + """
    References
    ----------
    {reference}

    Examples
    --------
    >>> from mttab import {name}Regressor
    >>> from mttab.datasets import make_multitask_regression
    >>> X, Y = make_multitask_regression(300, 5, 3, random_state=0)
    >>> {name}Regressor(n_members=1, max_epochs=3, random_state=0).fit(X, Y).predict(X).shape
    (300, 3)
    """
)

_CLASSIFIER = (
    """{Title}, for classification of one or several targets.

    The network of `{name}` [1]_ with scikit-learn's conventions for several outputs. Columns may have different
    classes.
    """
    + _PARAMETERS
    + """
    classes_ : ndarray of shape (n_classes,) or list of these
        Sorted classes; a list with an entry per column where ``y`` had several.
    tasks_, task_types_, history_, n_iter_, device_, n_tasks_, n_features_in_, feature_names_in_
        See `MultiTabNet`.
    """
    + _LOOK
    + """
    References
    ----------
    {reference}

    Examples
    --------
    >>> from mttab import {name}Classifier
    >>> from mttab.datasets import make_multitask_classification
    >>> X, Y = make_multitask_classification(300, 5, 3, random_state=0)
    >>> net = {name}Classifier(n_members=1, max_epochs=3, random_state=0).fit(X, Y)
    >>> [p.shape for p in net.predict_proba(X)]
    [(300, 2), (300, 2), (300, 2)]
    """
)

# ending of the name → what y holds, docstring, options of this kind alone
_KINDS: dict[str, tuple[type, str, dict[str, Option]]] = {
    "": (MixedTargets, _MIXED, TASK_TYPES),
    "Regressor": (NumberTargets, _REGRESSOR, {}),
    "Classifier": (ClassTargets, _CLASSIFIER, {}),
}


def make_estimators(architecture: Architecture) -> list[Any]:
    """The mixed estimator, the regressor and the classifier of an architecture."""
    made = []
    experts = {name: option for name, option in EXPERTS.items() if name in architecture.options}
    for ending, (targets, doc, own_options) in _KINDS.items():
        names = {"name": architecture.name, "Title": architecture.title[0].upper() + architecture.title[1:]}
        names["what"] = fill(architecture.what, 116, subsequent_indent="    ")
        names["reference"] = fill(f".. [1] {architecture.reference}", 116, subsequent_indent="       ")
        members = {
            "__module__": __name__,
            "__doc__": inspect.cleandoc(doc.format(**names, parameters="{parameters}")),
            "_architecture": architecture,
            "_fixed_options": (*BaseNetwork._fixed_options, *experts),
        }
        cls = type(f"{architecture.name}{ending}", (targets, BaseExperts), members)
        made.append(declare({**own_options, **_TASKS, **FEATURES, **experts, **_TRAINING})(cls))
    return made


(
    (SharedBottom, SharedBottomRegressor, SharedBottomClassifier),
    (MMoE, MMoERegressor, MMoEClassifier),
    (PLE, PLERegressor, PLEClassifier),
    (STEM, STEMRegressor, STEMClassifier),
    (TaskExpert, TaskExpertRegressor, TaskExpertClassifier),
) = map(make_estimators, ARCHITECTURES)
