"""R-MTGB on a Dask cluster: the rows stay with the workers, the fitted model is the ordinary one.

Every worker bins the rows that it holds, by edges that all share, and grows the same trees as the others: what workers
tell each other are sums, such as the histogram of a node. Tasks with rows on several workers are moved whole, as bins,
before the first round, so that trees of a task need no words at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from mttab._boosting_training import finish
from mttab._core.validation import fit_context
from mttab._dask_checks import check_travels, check_workers, find_client, refuse_options
from mttab._dask_fit import ClusterFit
from mttab._dask_pieces import collection_kind, make_pieces
from mttab.boosting import RMTGBClassifier, RMTGBRegressor

__all__ = ["DaskRMTGBClassifier", "DaskRMTGBRegressor"]


class _DaskFit:
    """What both estimators add to those that they extend: fit and predict on Dask collections."""

    communication_: dict[str, Any]
    _local: type

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        task: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        task_val: Any = None,
        sample_weight_val: Any = None,
        client: Any = None,
        callback: Callable[..., Any] | None = None,
    ) -> Any:
        """Fit the model on the workers of a cluster.

        Parameters
        ----------
        X : dask.dataframe.DataFrame or dask.array.Array of shape (n, n_features)
            Features, with the task column if ``task_column`` names one.
        y : dask.dataframe.Series or dask.array.Array of shape (n,)
            Targets, in the same partitions as ``X``.
        sample_weight, task : like ``y``, default=None
            Weight of each row, and its task where that is no column of ``X``.
        X_val, y_val, task_val, sample_weight_val : array-like, default=None
            Validation rows for early stopping. They are in memory here, not on the cluster, and are sent to all
            workers.
        client : distributed.Client, default=None
            The cluster; None is the client made last.
        callback : callable, default=None
            Called on one of the workers after every round with the block (0, 1, 2), the rounds done, the rounds
            allowed, the training loss and the validation loss or None. It is sent there, so it has to be one that
            pickle can send; ``distributed.print`` in it prints here.

        Returns
        -------
        self
            The fitted estimator; `to_local` gives the one that does not know of Dask.

        Raises
        ------
        ValueError
            If an argument breaks its rule, or an option is not available on a cluster; the message names both.
        RuntimeError
            If a worker is lost while the fit runs, or is not fit to take part. An earlier fit stays usable.
        """
        explicit = {"X_val": X_val, "y_val": y_val, "task_val": task_val, "sample_weight_val": sample_weight_val}
        model = self.to_local(unfitted=True)
        refuse_options(model, explicit)
        if getattr(self, "_skl_callbacks", None):
            raise ValueError("set_callbacks was called, but rounds run on the workers; pass callback= to fit instead.")
        if model.sharing == "auto":
            model.sharing = "blocks"
        client = find_client(client)
        check_workers(client)
        check_travels(client, model, callback)
        seed = int(check_random_state(model.random_state).randint(2**31 - 1))
        model.random_state = seed
        fit = ClusterFit(client, model, seed, explicit, callback)
        problem, fitted, communication = fit.run(make_pieces(X, y, sample_weight, task))
        self.communication_ = communication
        finish(self, problem, fitted, seed)
        return self

    def to_local(self, *, unfitted: bool = False) -> Any:
        """The same model as an estimator that knows nothing of Dask.

        Parameters
        ----------
        unfitted : bool, default=False
            Whether only the options are taken over.

        Returns
        -------
        RMTGBRegressor or RMTGBClassifier
        """
        local = self._local(**self.get_params(deep=False))  # type: ignore[attr-defined]
        if not unfitted:
            state = {name: value for name, value in vars(self).items() if name != "communication_"}
            local.__dict__.update(state)
        return local

    def save(self, path: Any) -> None:
        """Write the fitted model to a file, from which `mttab.load` reads the estimator that `to_local` gives.

        Parameters
        ----------
        path : str or path-like
        """
        self.to_local().save(path)

    def predict(self, X: Any, task: Any = None) -> Any:
        """Predictions: of a Dask collection a lazy one, partition by partition, otherwise as without Dask.

        Parameters
        ----------
        X : dask.dataframe.DataFrame, dask.array.Array or array-like of shape (n, n_features)
            As in fit.
        task : array-like of shape (n,), default=None
            Task of each row, for a model fitted with ``task=``; not with a Dask collection.

        Returns
        -------
        dask.dataframe.Series, dask.array.Array or ndarray of shape (n,)
        """
        return self._on_partitions("predict", X, task)

    def _on_partitions(self, method: str, X: Any, task: Any) -> Any:
        kind = collection_kind(X)
        if kind is None:
            return getattr(super(), method)(X, task=task)
        if task is not None:
            raise ValueError(
                "task was passed with a Dask collection; make the task a column of X, or predict in parts."
            )
        classes: Any = getattr(self, "classes_", np.empty(0))  # predictions are floats where there are none
        none: Any = np.empty((0, len(classes))) if method == "predict_proba" else classes[:0]
        call = _Predict(self.to_local(), method, none)
        if kind == "frame":
            return X.map_partitions(call, meta=call.made(none, None))
        rows = X.rechunk({1: -1})
        options: dict[str, Any] = {"drop_axis": 1} if none.ndim == 1 else {"chunks": (rows.chunks[0], (none.shape[1],))}
        return rows.map_blocks(call, dtype=none.dtype, meta=none, **options)


class DaskRMTGBRegressor(_DaskFit, RMTGBRegressor):
    """`RMTGBRegressor` that is fitted on the workers of a Dask cluster.

    All parameters are those of `RMTGBRegressor`, and so is the fitted model, which predicts, pickles and explains
    without Dask; `to_local` gives it as an `RMTGBRegressor`. For the same bin edges it is the model of one machine up
    to the rounding of sums. These options differ:

    - ``early_stopping="auto"`` stops early only with ``X_val``; without it, no rows are held out, and True needs
      ``validation_fraction=None``, which watches the training loss. ``refit``, which is for rows held out, is as with
      ``X_val`` on one machine. ``n_averaged="auto"`` is one model; more, ``validation`` and ``warm_start`` are refused.
    - ``sharing="auto"`` is "blocks", also with ``X_val``: tasks are not compared on a cluster. "groups", and
      ``n_task_groups`` above 2, which compare rows of all tasks with each other, are refused.
    - ``linear_start="auto"`` is False, also with ``X_val``; True is available.
    - ``subsample`` below 1 draws the rows of one machine unless a task's rows stay on several workers, which they do
      where there are no trees per task, and y has more than about a million different values in all: up to there,
      workers tell each other once which these are.
    - ``verbose`` writes to the log of one of the workers.
    - ``n_jobs=None`` is the number of threads that a Dask worker has.

    Attributes
    ----------
    communication_ : dict
        What the workers of the last fit told each other: "n_workers", and lists with an entry per worker, "n_rows",
        "n_messages" and "n_bytes", the number and size of the arrays that it had added up with those of the others (as
        many bytes came back). There are none where one worker had all rows.

    See Also
    --------
    mttab.RMTGBRegressor : all other parameters and attributes.

    Notes
    -----
    Each worker remembers up to 8192 values of every numeric column with their weights, and bin edges come from those of
    all workers: the edges of one machine where no worker has more distinct values (and the table no more than 200,000
    rows, above which one machine takes a sample), otherwise quantiles with an error of a few 1/8192 of a worker's rows.
    A task's rows are moved to one worker, one byte per cell, if they are on several and there are trees per task.

    What is added up goes through sockets between the workers, at a port that the operating system chooses, encrypted
    where the cluster is (addresses that begin with ``tls``). Losing a worker ends the fit with an error: the rows that
    it held are to be read again by the next call.

    Examples
    --------
    >>> from dask.distributed import Client
    >>> import dask.dataframe as dd
    >>> from mttab.dask import DaskRMTGBRegressor
    >>> from mttab.datasets import make_task_groups
    >>> client = Client(n_workers=1, processes=False, dashboard_address=None)
    >>> X, y = make_task_groups(n_samples=50, random_state=0)
    >>> model = DaskRMTGBRegressor(task_column="task", max_iter_shared=5, max_iter_partition=2, max_iter_task=2)
    >>> model = model.fit(dd.from_pandas(X, npartitions=2), dd.from_pandas(y, npartitions=2))
    >>> model.to_local().predict(X).shape
    (500,)
    >>> client.close()
    """

    _local = RMTGBRegressor


class DaskRMTGBClassifier(_DaskFit, RMTGBClassifier):
    """`RMTGBClassifier` that is fitted on the workers of a Dask cluster.

    All parameters are those of `RMTGBClassifier`; `DaskRMTGBRegressor` says which options differ, and how it works.

    Attributes
    ----------
    communication_ : dict
        See `DaskRMTGBRegressor`.

    See Also
    --------
    mttab.RMTGBClassifier : all other parameters and attributes.

    Examples
    --------
    >>> from dask.distributed import Client
    >>> import dask.dataframe as dd
    >>> from mttab.dask import DaskRMTGBClassifier
    >>> from mttab.datasets import make_task_groups
    >>> client = Client(n_workers=1, processes=False, dashboard_address=None)
    >>> X, y = make_task_groups(n_samples=50, task_type="binary", random_state=0)
    >>> model = DaskRMTGBClassifier(task_column="task", max_iter_shared=5, max_iter_partition=2, max_iter_task=2)
    >>> model = model.fit(dd.from_pandas(X, npartitions=2), dd.from_pandas(y, npartitions=2))
    >>> model.predict_proba(X).shape
    (500, 2)
    >>> client.close()
    """

    _local = RMTGBClassifier

    def predict_proba(self, X: Any, task: Any = None) -> Any:
        """Class probabilities; parameters as in `predict`.

        Returns
        -------
        dask.dataframe.DataFrame, dask.array.Array or ndarray of shape (n, n_classes)
            Columns in the order of ``classes_``.
        """
        return self._on_partitions("predict_proba", X, task)


class _Predict:
    """A method of a fitted model as a function that Dask can send."""

    def __init__(self, model: Any, method: str, none: np.ndarray):
        self.model, self.method, self.none = model, method, none

    def __call__(self, X: Any) -> Any:
        values = getattr(self.model, self.method)(X) if len(X) else self.none
        return self.made(values, X.index) if isinstance(X, pd.DataFrame) else values

    def made(self, values: np.ndarray, index: Any) -> pd.Series | pd.DataFrame:
        """The values as pandas has them."""
        return pd.Series(values, index, name=self.method) if values.ndim == 1 else pd.DataFrame(values, index)
