"""MultiTab-Net: one network for tables whose rows carry several labels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from mttab._core.neural.members import Place, average_attention
from mttab._core.neural.network import MultiTabModule, NetworkOptions
from mttab._network_adapt import TaskAdaptation
from mttab._network_base import BaseNetwork
from mttab._network_options import FEATURES, NETWORK, TASK_TYPES, TASKS, TRAINING, declare
from mttab._network_targets import ClassTargets, MixedTargets, NumberTargets

_PLAIN_TRAINING = {
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "gradient_clip": 0.0,
    "weight_averaging": 0.0,
    "n_members": 1,
    "companion_dim": 0,
}
_PAPERS: dict[str, dict[str, Any]] = {
    "multitab_net": _PLAIN_TRAINING
    | {
        "embedding_dim": 16,
        "n_blocks": 1,
        "n_heads": 4,
        "mlp_dim": 256,
        "head_dim": 64,
        "direct_dim": 0,
        "mask": "task_to_task",
        "sample_attention": True,
        "sample_attention_dim": None,
        "context_size": 2048,
        "numerical_embedding": "linear",
        "numerical_scaling": "standard",
        "dropout": 0.0,
        "learning_rate": 1e-3,
        "weight_decay": 1e-5,
        "batch_size": 2048,
        "patience": 5,
    },
    "ft_transformer": _PLAIN_TRAINING
    | {
        "embedding_dim": 192,
        "n_blocks": 3,
        "n_heads": 8,
        "mlp_dim": 256,
        "head_dim": 192,
        "direct_dim": 0,
        "mask": "none",
        "token_features": "all",
        "sample_attention": False,
        "numerical_embedding": "linear",
        "numerical_scaling": "quantile",
        "dropout": 0.1,
        "learning_rate": 1e-4,
        "weight_decay": 1e-5,
        "batch_size": 256,
        "patience": 16,
    },
    "saint": _PLAIN_TRAINING
    | {
        "embedding_dim": 32,
        "n_blocks": 1,
        "n_heads": 4,
        "mlp_dim": 128,
        "head_dim": 64,
        "direct_dim": 0,
        "mask": "none",
        "token_features": "all",
        "sample_attention": True,
        "sample_attention_dim": None,
        "context_size": 256,
        "numerical_embedding": "linear",
        "numerical_scaling": "standard",
        "dropout": 0.1,
        "learning_rate": 1e-4,
        "weight_decay": 1e-2,
        "batch_size": 256,
    },
    "tab_transformer": _PLAIN_TRAINING
    | {
        "embedding_dim": 32,
        "n_blocks": 6,
        "n_heads": 8,
        "mlp_dim": 128,
        "head_dim": 64,
        "direct_dim": 128,
        "mask": "none",
        "token_features": "categorical",
        "sample_attention": False,
        "numerical_scaling": "standard",
        "dropout": 0.1,
        "learning_rate": 1e-4,
        "weight_decay": 1e-2,
        "batch_size": 256,
    },
}


class BaseMultiTabNet(TaskAdaptation, BaseNetwork):
    """The architecture of MultiTab-Net on the common base."""

    _fixed_options: ClassVar[tuple[str, ...]] = (*BaseNetwork._fixed_options, *NETWORK)

    @classmethod
    def paper_parameters(cls, network: str = "multitab_net") -> dict[str, Any]:
        """Parameters that give a published network.

        Parameters
        ----------
        network : {"multitab_net", "ft_transformer", "saint", "tab_transformer"}, default="multitab_net"
            MultiTab-Net, with the architecture and the optimiser of the paper; or one of three transformers for a
            single task, to which its architecture comes down with a 1-D ``y``. What they are and where they differ
            from the papers is in the notes of `MultiTabNet`. All are also networks for several tasks.

        Returns
        -------
        dict
            Name to value, for the constructor.

        Raises
        ------
        ValueError
            If there is no network of this name.

        Notes
        -----
        Early stopping watches what ``early_stopping`` describes, not the figure of the papers.

        Examples
        --------
        >>> from mttab import MultiTabNet, MultiTabNetRegressor
        >>> MultiTabNet(**MultiTabNet.paper_parameters()).sample_attention
        True
        >>> MultiTabNetRegressor(**MultiTabNetRegressor.paper_parameters("ft_transformer")).sample_attention
        False
        """
        if network not in _PAPERS:
            known = ", ".join(repr(name) for name in _PAPERS)
            raise ValueError(f"network={network!r} is no published network; pass one of {known}.")
        return dict(_PAPERS[network])

    def attention(self, X: Any, task: Any = None) -> dict[Any, pd.DataFrame]:
        """What every task reads: attention of its token to the features, mean over heads, rows and members.

        Parameters
        ----------
        X, task : see `predict`

        Returns
        -------
        dict of DataFrame of shape (n_blocks, n_features + n_tasks)
            By column of ``y``; with row tasks by task, of those that ``X`` has rows of, None being those that fit did
            not see. Columns are the features and then the columns of ``y``, whose token stands for the row's own task
            where there are row tasks; every row sums to 1. A task that is called like a feature is "task ..." here.
            What goes past the attention, through ``direct_dim`` and ``companion_dim``, does not show.
        """
        features, row_task, _ = self._read_rows(X, task)
        encoding = self._encoding
        order = encoding.columns.categorical
        if self._has_numeric_tokens:
            order = np.concatenate([encoding.columns.numeric, order])
        labels = [target.label for target in self._fitted_targets()]
        names = [encoding.layout.feature_names[j] for j in order]
        names += _told_apart(labels, names)
        back = np.concatenate([np.argsort(order), np.arange(len(order), len(names))])

        def framed(weights: np.ndarray) -> pd.DataFrame:
            index = pd.RangeIndex(len(weights), name="block")
            return pd.DataFrame(weights[:, back], columns=[names[j] for j in back], index=index)

        columns = encoding.encode_features(features)
        place = Place.of(self._networks[0], self.precision)
        if row_task is None or encoding.row_tasks is None:
            by_target = np.moveaxis(average_attention(self._members, place, columns, None), 1, 0)
            return {label: framed(weights) for label, weights in zip(labels, by_target, strict=True)}
        known, of_task = encoding.row_tasks.labels, {}
        for t in np.unique(row_task):
            rows = row_task == t
            weights = average_attention(self._members, place, columns.take(rows), row_task[rows])[:, 0]
            of_task[known[t] if t < len(known) else None] = framed(weights)
        return of_task

    def _fitted_targets(self) -> list[Any]:
        check_is_fitted(self, "_networks")
        return self._encoding.targets.columns

    def _make_module(self, encoding: Any, outputs: Any, bins: Any) -> Any:
        self._check_widths()
        columns = encoding.columns
        n_numeric = len(columns.numeric) if self._has_numeric_tokens else 0
        if n_numeric < len(columns.numeric) and not self.direct_dim:
            raise ValueError(
                "token_features='categorical' leaves the numbers of X to the MLP of direct_dim, which is 0; pass for "
                "example direct_dim=128."
            )
        tokens = self._feature_tokens(encoding, bins, self.embedding_dim, n_numeric)
        n_features = n_numeric + len(columns.categorical)
        row_width = self.embedding_dim * (n_features + len(outputs.kinds))
        options = NetworkOptions(
            n_features=n_features,
            n_numeric=len(columns.numeric),
            n_tasks=len(outputs.kinds),
            n_outputs=outputs.n_outputs,
            n_row_tasks=0 if encoding.row_tasks is None else encoding.row_tasks.n_tasks,
            width=self.embedding_dim,
            n_blocks=self.n_blocks,
            n_heads=self.n_heads,
            mlp_width=self.mlp_dim,
            head_width=self.head_dim,
            mask=self.mask,
            sample_attention=self.sample_attention,
            sample_attention_width=self.sample_attention_dim or row_width,
            context_size=self.context_size,
            direct_width=self.direct_dim,
            dropout=self.dropout,
        )
        return MultiTabModule(tokens, options)

    def _make_companion(self, encoding: Any, outputs: Any) -> Any:
        columns = encoding.columns
        n_levels = len(columns.categorical)
        tokens = self._feature_tokens(encoding, None, self.embedding_dim, 0, "linear")
        options = NetworkOptions(
            n_features=n_levels,
            n_numeric=len(columns.numeric),
            n_tasks=len(outputs.kinds),
            n_outputs=outputs.n_outputs,
            n_row_tasks=0 if encoding.row_tasks is None else encoding.row_tasks.n_tasks,
            width=self.embedding_dim,
            n_blocks=0,
            n_heads=self.n_heads,
            mlp_width=self.mlp_dim,
            head_width=self.head_dim,
            mask=self.mask,
            sample_attention=False,
            sample_attention_width=0,
            context_size=0,
            direct_width=self.companion_dim,
            dropout=self.dropout,
            has_waves=True,
        )
        return MultiTabModule(tokens, options)

    @property
    def _has_numeric_tokens(self) -> bool:
        return self.token_features == "all"

    def _check_widths(self) -> None:
        names = ["embedding_dim", *(["sample_attention_dim"] if self.sample_attention else [])]
        for name in names:
            width = getattr(self, name)
            if width is not None and width % self.n_heads:
                raise ValueError(
                    f"{name}={width} is no multiple of n_heads={self.n_heads}, which share it; pass for example "
                    f"{name}={self.n_heads * max(1, round(width / self.n_heads))}."
                )


def _told_apart(labels: list[Any], features: list[str]) -> list[Any]:
    """Names of the tasks, with "task " before those that a feature has, too."""
    names: list[Any] = []
    for label in labels:
        name = label
        while name in features or (name is not label and name in labels):
            name = f"task {name}"
        names.append(name)
    return names


OPTIONS = {**TASKS, **FEATURES, **NETWORK, **TRAINING}


@declare({**TASK_TYPES, **OPTIONS})
class MultiTabNet(MixedTargets, BaseMultiTabNet):
    """MultiTab-Net for tasks of mixed kinds.

    A transformer for tables whose rows carry several labels [1]_: a token per feature and a token per task go through
    blocks of attention, under a mask that says which tokens may see which, and every task has a head that reads its own
    token. Regression, binary and multiclass tasks are learned together; labels may be missing.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    tasks_ : ndarray of shape (n_tasks,)
        Names of the columns of ``y`` in their order; with row tasks sorted ids, then those of `add_task`.
    task_types_ : dict
        Kind of every column of ``y``.
    classes_ : dict
        Sorted classes of every column that holds classes.
    history_ : DataFrame
        A row per network and epoch: the number of its member and whether it is its companion, step size, training
        loss, and with validation rows their mean figure and that of every column of ``y`` (see ``early_stopping``).
    n_iter_ : list of int
        Epochs trained, per member and then per companion.
    companion_share_ : dict
        Share of the companions in the prediction of every column of ``y``, see ``companion_dim``.
    device_ : str
        Where it was trained.
    n_tasks_, n_features_in_ : int
        Tasks; columns of ``X``, the task column included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where ``X`` has string column names.

    Notes
    -----
    ``MultiTabNet(**MultiTabNet.paper_parameters())`` has the architecture and the optimiser of [1]_. The defaults
    depart from it: numbers are embedded by bins and on two scales, several networks are averaged and so are the
    weights of each, rows do not attend to rows, and beside every network there is an MLP of all features, its companion
    [5]_. Attention with bins is better at jumps and the MLP at what is smooth; validation rows weigh them column by
    column.

    With a 1-D ``y`` there is one task token, which is what others call CLS, and the network is a transformer for a
    single task. ``paper_parameters`` has the settings of three of them, [2]_, [3]_ and [4]_; widths and step sizes are
    about those of the papers, the rest of what makes them is here, with these differences:

    ============================  ==========================  ========================================================
    ``paper_parameters(…)``       is                          what differs
    ============================  ==========================  ========================================================
    ``"ft_transformer"``          attention over the tokens   GELU, not ReGLU, in the MLPs; a head with a hidden layer;
                                  of all features, nothing    no dropout of attention; numbers on two scales
                                  between rows
    ``"saint"``                   the same, and in every      GELU, not GEGLU; numbers embedded by an affine map, not
                                  block attention between     an MLP; no contrastive pre-training; predicted rows see
                                  rows                        training rows, never each other
    ``"tab_transformer"``         attention over the tokens   the head reads one token that sees them all, and the MLP
                                  of categories only;         beside it the numbers and the levels before attention; in
                                  numbers in an MLP           the paper one MLP reads numbers and all tokens after it
    ============================  ==========================  ========================================================

    ``cross_val_predict(..., method="predict_proba")`` takes arrays, not the dict that this estimator returns; use
    `MultiTabNetClassifier` there.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard. "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data". AAAI 2026, arXiv:2511.09970.
    .. [2] Y. Gorishniy, I. Rubachev, V. Khrulkov, A. Babenko. "Revisiting Deep Learning Models for Tabular Data".
       NeurIPS 2021, arXiv:2106.11959.
    .. [3] G. Somepalli, M. Goldblum, A. Schwarzschild, C. B. Bruss, T. Goldstein. "SAINT: Improved Neural Networks for
       Tabular Data via Row Attention and Contrastive Pre-Training". 2021, arXiv:2106.01342.
    .. [4] X. Huang, A. Khetan, M. Cvitkovic, Z. Karnin. "TabTransformer: Tabular Data Modeling Using Contextual
       Embeddings". 2020, arXiv:2012.06678.
    .. [5] After D. Holzmüller, L. Grinsztajn, I. Steinwart. "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees
       on Tabular Data". NeurIPS 2024, arXiv:2407.04491.

    Examples
    --------
    >>> from mttab import MultiTabNet
    >>> from mttab.datasets import make_multitask
    >>> X, Y = make_multitask(300, 5, 2, task_types=["regression", "binary"], random_state=0)
    >>> net = MultiTabNet(n_members=1, max_epochs=5, random_state=0).fit(X, Y)
    >>> net.predict(X).shape
    (300, 2)
    >>> list(net.predict_proba(X))
    ['y1']
    """


@declare(OPTIONS)
class MultiTabNetRegressor(NumberTargets, BaseMultiTabNet):
    """MultiTab-Net for regression, of one or several targets.

    The network of `MultiTabNet` [1]_ with scikit-learn's conventions for several outputs.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    tasks_, task_types_, history_, n_iter_, companion_share_, device_, n_tasks_, n_features_in_, feature_names_in_
        See `MultiTabNet`.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard. "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data". AAAI 2026, arXiv:2511.09970.

    Examples
    --------
    >>> from mttab import MultiTabNetRegressor
    >>> from mttab.datasets import make_multitask_regression
    >>> X, Y = make_multitask_regression(300, 5, 3, random_state=0)
    >>> MultiTabNetRegressor(n_members=1, max_epochs=5, random_state=0).fit(X, Y).predict(X).shape
    (300, 3)
    """


@declare(OPTIONS)
class MultiTabNetClassifier(ClassTargets, BaseMultiTabNet):
    """MultiTab-Net for classification, of one or several targets.

    The network of `MultiTabNet` [1]_ with scikit-learn's conventions for several outputs. Columns may have different
    classes.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of these
        Sorted classes; a list with an entry per column where ``y`` had several.
    tasks_, task_types_, history_, n_iter_, companion_share_, device_, n_tasks_, n_features_in_, feature_names_in_
        See `MultiTabNet`.

    Notes
    -----
    For a classifier, cross-validation in scikit-learn stratifies by ``y`` where it can, which fails on labels that are
    missing: pass ``cv=KFold(5)``, or another splitter that does not look at ``y``.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard. "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data". AAAI 2026, arXiv:2511.09970.

    Examples
    --------
    >>> from mttab import MultiTabNetClassifier
    >>> from mttab.datasets import make_multitask_classification
    >>> X, Y = make_multitask_classification(300, 5, 3, random_state=0)
    >>> net = MultiTabNetClassifier(n_members=1, max_epochs=5, random_state=0).fit(X, Y)
    >>> [p.shape for p in net.predict_proba(X)]
    [(300, 2), (300, 2), (300, 2)]
    """
