"""R-MTGB on a Dask cluster: the rows stay with the workers, the fitted model is the ordinary one.

Every worker bins the rows that it holds, by edges that all share, and grows the same trees as the others: what workers
tell each other are sums, such as the histogram of a node. Tasks with rows on several workers are moved whole, as bins,
before the first round, so that trees of a task need no words at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from mttab._boosting_pieces import Problem, finish, merge_columns, merge_labels, read_columns, read_labels
from mttab._core.boosting.distributed import merged_forest
from mttab._core.boosting.forest import ForestBuilder
from mttab._core.sources import Piece
from mttab._core.validation import fit_context
from mttab._dask_workers import Meeting, bin_rows, boost_on_worker
from mttab.boosting import RMTGBClassifier, RMTGBRegressor

__all__ = ["DaskRMTGBClassifier", "DaskRMTGBRegressor"]

# Seconds between two looks at whether all workers are still there, and until the scheduler has noticed that one is not.
LOOK_EVERY, GRACE = 0.5, 5.0
# Of the workers that hold nearly as many rows of a task as the one with the most, the least busy one gets it.
NEARLY = 0.8


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
        _refuse_options(model, explicit)
        if getattr(self, "_skl_callbacks", None):
            raise ValueError("set_callbacks was called, but rounds run on the workers; pass callback= to fit instead.")
        if model.sharing == "auto":
            model.sharing = "blocks"
        client = _find_client(client)
        _check_workers(client)
        _check_travels(client, model, callback)
        seed = int(check_random_state(model.random_state).randint(2**31 - 1))
        model.random_state = seed
        fit = _ClusterFit(client, model, seed, explicit, callback)
        problem, fitted = fit.run(_make_pieces(X, y, sample_weight, task))
        self.communication_ = fit.communication
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
        kind = _collection_kind(X)
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
      ``validation_fraction=None``, which watches the training loss. ``validation`` and ``warm_start`` are refused, and
      ``refit`` and ``n_averaged`` have nothing to do.
    - ``sharing="auto"`` is "blocks", also with ``X_val``: tasks are not compared on a cluster. "groups", and
      ``n_task_groups`` above 2, which compare rows of all tasks with each other, are refused.
    - ``verbose`` writes to the log of one of the workers.
    - ``n_jobs=None`` is the number of threads that a Dask worker has.

    Attributes
    ----------
    communication_ : dict
        What the workers of the last fit told each other: "n_workers", and lists with an entry per worker, "n_rows",
        "n_messages" and "n_bytes", the size of the arrays that it sent (as many bytes came back).

    See Also
    --------
    mttab.RMTGBRegressor : all other parameters and attributes.

    Notes
    -----
    Each worker remembers up to 8192 values of every numeric column with their weights, and bin edges come from those of
    all workers: the edges of one machine where no worker has more distinct values (and the table no more than 200,000
    rows, above which one machine takes a sample), otherwise quantiles with an error below 1/8192 of a worker's rows. A
    task's rows are moved to one worker, one byte per cell, if they are on several and there are trees per task.

    Losing a worker ends the fit with an error: the rows that it held are to be read again by the next call.

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


# ----------------------------------------------------------------------------------------------------------------------
# Before the fit
# ----------------------------------------------------------------------------------------------------------------------


def _refuse_options(model: Any, explicit: dict[str, Any]) -> None:
    """Options that a cluster does not have."""
    if model.warm_start:
        raise ValueError("warm_start=True is not available on a cluster; fit anew, or go on with to_local().")
    if model.sharing == "groups" or (model.n_task_groups != "auto" and model.n_task_groups > 2):
        raise ValueError(
            f"sharing={model.sharing!r} with n_task_groups={model.n_task_groups!r} compares rows of all tasks with "
            'each other, which a cluster does not do; use sharing="blocks", "category", "pooled" or "separate".'
        )
    if model.validation is not None:
        raise ValueError(
            "validation was passed, but a splitter cannot see rows that are on a cluster; pass X_val and y_val."
        )
    if model.early_stopping is True and explicit["X_val"] is None and model.validation_fraction is not None:
        raise ValueError(
            f"early_stopping=True with validation_fraction={model.validation_fraction!r} would hold out rows, which is "
            "not done on a cluster; pass X_val and y_val, or validation_fraction=None to watch the training loss."
        )
    if any(value is not None and _collection_kind(value) is not None for value in explicit.values()):
        raise ValueError("X_val holds a Dask collection, but validation rows are sent to all workers; call .compute().")


def _find_client(client: Any) -> Any:
    try:
        from distributed import default_client
    except ImportError as err:
        raise ImportError('mttab.dask needs Dask: pip install "mttab[dask]".') from err
    if client is not None:
        return client
    try:
        return default_client()
    except ValueError as err:
        raise ValueError(
            "client=None means the Dask client made last, but there is none; make one first, for example by "
            "client = distributed.Client()."
        ) from err


def _make_describe() -> Callable[[], dict[str, Any]]:
    """Function that says what a process has installed; nested, so that it travels as source to where mttab is not."""

    def describe() -> dict[str, Any]:
        import importlib
        import platform

        versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
        for name in ("numpy", "scipy", "pandas", "sklearn", "numba", "mttab"):
            try:
                versions[name] = str(getattr(importlib.import_module(name), "__version__", "unknown"))
            except Exception as err:
                return {"missing": name, "why": f"{type(err).__name__}: {err}"}
        try:
            importlib.import_module("mttab._dask_workers")
            sources = importlib.import_module("mttab._core.boosting.jit")._SOURCES
        except Exception as err:
            return {"missing": "mttab", "why": f"{type(err).__name__}: {err}"}
        versions["the kernels of mttab"] = sources
        return {"versions": versions}

    return describe


def _check_workers(client: Any) -> None:
    """Raise unless every worker has what a fit needs, in the versions of the client."""
    describe = _make_describe()
    try:
        found = client.run(describe)
    except OSError as err:
        raise RuntimeError(f"A worker was lost before the fit began ({err}); call fit again.") from err
    if not found:
        raise RuntimeError("The Dask cluster has no workers; wait for one with client.wait_for_workers(1).")
    here = describe()["versions"]
    for address, there in sorted(found.items()):
        if "missing" in there:
            raise RuntimeError(
                f"The worker {address} cannot import {there['missing']} ({there['why']}); install mttab with its "
                "dependencies on every worker."
            )
        for name, version in here.items():
            if there["versions"][name] != version:
                raise RuntimeError(
                    f"The worker {address} has {name} {there['versions'][name]}, but the client has {version}; install "
                    "the same version on both."
                )


def _check_travels(client: Any, model: Any, callback: Any) -> None:
    """Raise if something that the workers need cannot be sent to them."""
    from distributed.protocol.pickle import dumps

    for name, value in {"callback": callback, **model.get_params(deep=False)}.items():
        try:
            dumps(value)
        except Exception as err:
            raise ValueError(
                f"{name}={value!r} cannot be sent to the workers ({type(err).__name__}: {err}); pass something that "
                "pickle can send, such as a function that holds no open file, lock or client."
            ) from err


# ----------------------------------------------------------------------------------------------------------------------
# Collections
# ----------------------------------------------------------------------------------------------------------------------


def _collection_kind(X: Any) -> str | None:
    """Either "frame", "array" or None for what is no Dask collection."""
    from dask.base import is_dask_collection

    if not is_dask_collection(X):
        return None
    return "frame" if hasattr(X, "partitions") and hasattr(X, "map_partitions") else "array"


def _make_pieces(X: Any, y: Any, sample_weight: Any, task: Any) -> list[Any]:
    """One delayed `Piece` per partition."""
    from dask import delayed

    parts: dict[str, list[Any] | None] = {}
    for name, values in {"X": X, "y": y, "weight": sample_weight, "task": task}.items():
        argument = {"weight": "sample_weight"}.get(name, name)
        if values is None and name in ("weight", "task"):
            parts[name] = None
            continue
        kind = None if values is None else _collection_kind(values)
        if kind is None:
            raise ValueError(
                f"{argument} is a {type(values).__name__}, but a fit on a cluster takes Dask collections; use "
                "dask.dataframe.from_pandas or dask.array.from_array, or the estimator without Dask."
            )
        if kind == "array":
            if values.ndim == 2:
                values = values.rechunk({1: -1})
            parts[name] = list(values.to_delayed().ravel())
        else:
            parts[name] = list(values.to_delayed())
    n_parts = len(parts["X"] or [])
    for name, of_name in parts.items():
        if of_name is not None and len(of_name) != n_parts:
            raise ValueError(
                f"{name} has {len(of_name)} partitions, but X has {n_parts}; make them from one collection, or "
                "repartition them alike."
            )
    make = delayed(Piece, pure=False)
    return [make(*(None if of_name is None else of_name[i] for of_name in parts.values())) for i in range(n_parts)]


# ----------------------------------------------------------------------------------------------------------------------
# The fit
# ----------------------------------------------------------------------------------------------------------------------


class _ClusterFit:
    """One fit: where the rows are, and what has been asked of whom."""

    def __init__(self, client: Any, model: Any, seed: int, explicit: dict[str, Any], callback: Any):
        self.client, self.model, self.seed = client, model, seed
        self.explicit, self.callback = explicit, callback
        self.communication: dict[str, Any] = {}
        self.workers: list[str] = []
        self.meeting: Any = None
        self.futures: list[Any] = []

    def run(self, pieces: Sequence[Any]) -> tuple[Problem, Any]:
        """Problem and fitted state."""
        with self.released():
            held = self.place(pieces)
            self.workers = list(held)
            counts = self.on_workers(read_labels, {w: [list(held[w].values())] for w in self.workers})
            problem = merge_labels(self.model, counts)
            summaries = self.on_workers(read_columns, {w: [problem, list(held[w].values())] for w in self.workers})
            problem = merge_columns(self.model, problem, summaries, self.explicit["X_val"] is not None)
            first = self.first_rows(held, counts)
            owner, ranks, has_moves = self.owners(problem, counts)
            binned = {
                w: self.submit(
                    bin_rows, w, problem, list(held[w].values()), first[w],
                    owner if has_moves else (ranks.index(w) if w in ranks else 0), len(ranks),
                )
                for w in self.workers
            }  # fmt: skip
            self.wait(list(binned.values()))
            parts = {
                r: [self.submit(_item, w, binned[w], r, with_model=False) for w in self.workers]
                for r in range(len(ranks))
            }
            answers = self.boost(problem, ranks, parts, owner)
        if any(answer["digest"] != answers[0]["digest"] for answer in answers):
            raise RuntimeError(
                "The workers have come to different models, which must not happen; are their processors of one kind?"
            )
        self.communication = {
            "n_workers": len(ranks),
            **{name: [answer[name] for answer in answers] for name in ("n_rows", "n_messages", "n_bytes")},
        }
        fitted = answers[0]["fitted"]
        builder = ForestBuilder(problem.mapper, problem.labels.n_tasks)  # type: ignore[arg-type]
        forest = merged_forest(builder, fitted.model.forest, [answer["part"] for answer in answers])
        return problem, replace(fitted, model=replace(fitted.model, forest=forest))

    # --- where the rows are ----------------------------------------------------------------------------------------

    def place(self, pieces: Sequence[Any]) -> dict[str, dict[int, Any]]:
        """Compute the partitions; worker -> number of the partition -> its future, workers by their first partition."""
        futures = self.client.compute(list(pieces))
        self.futures += futures
        self.wait(futures)
        held: dict[str, dict[int, Any]] = {}
        where = self.client.who_has(futures)
        for i, future in enumerate(futures):
            addresses = where.get(future.key) or next((where[key] for key in where if str(key) == str(future.key)), ())
            if not addresses:
                raise RuntimeError(f"Partition {i} of X was lost before the fit began; call fit again.")
            held.setdefault(min(addresses), {})[i] = future
        return held

    def first_rows(self, held: dict[str, dict[int, Any]], counts: Sequence[Any]) -> dict[str, list[int]]:
        """Rows that stand before each partition in the table."""
        n_rows = {
            i: n for w, count in zip(held, counts, strict=True) for i, n in zip(held[w], count.n_rows, strict=True)
        }
        first, before = {}, 0
        for i in sorted(n_rows):
            first[i], before = before, before + n_rows[i]
        return {w: [first[i] for i in held[w]] for w in held}

    def owners(self, problem: Problem, counts: Sequence[Any]) -> tuple[np.ndarray, list[str], bool]:
        """Rank (n_tasks,) that answers for each task, the workers of the ranks, and whether rows move to them.

        Rows may stay where they are if no tree is of one task: then any worker may answer for it.
        """
        labels = problem.labels.labels.tolist()
        mass = np.array([[count.task_mass.get(label, 0.0) for label in labels] for count in counts])
        has_rows = np.array([sum(count.n_rows) > 0 for count in counts])
        if len(labels) == 1:
            mass = has_rows[:, None].astype(float)
        model = self.model
        is_alone = len(labels) == 1 or (
            model.max_iter_task == 0 and (model.max_iter_partition == 0 or model.sharing in ("pooled", "category"))
        )
        owner, load = np.empty(len(labels), dtype=np.int64), np.zeros(len(counts))
        for t in np.argsort(-mass.sum(axis=0), kind="stable"):
            near = np.flatnonzero(mass[:, t] >= NEARLY * mass[:, t].max())
            owner[t] = near[np.argmin(load[near])]
            load[owner[t]] += mass[:, t].sum()
        used = np.flatnonzero(has_rows) if is_alone else np.unique(owner)
        rank = np.full(len(counts), 0)
        rank[used] = np.arange(len(used))
        return rank[owner], [self.workers[w] for w in used], not is_alone

    # --- the rounds ------------------------------------------------------------------------------------------------

    def boost(self, problem: Problem, ranks: list[str], parts: dict[int, list[Any]], owner: np.ndarray) -> list[Any]:
        """Run `boost_on_worker` on all workers at once."""
        n_ranks = len(ranks)
        if n_ranks > 1:
            actor = self.client.submit(Meeting, n_ranks, actor=True, workers=[ranks[0]], pure=False)
            self.futures.append(actor)
            self.wait([actor])
            self.meeting = actor.result()
        running = [
            self.submit(
                boost_on_worker, w, problem, self.meeting, r, n_ranks, parts[r], owner, self.seed, self.explicit,
                self.callback,
            )
            for r, w in enumerate(ranks)
        ]  # fmt: skip
        self.wait(running)
        return self.client.gather(running)

    def on_workers(self, function: Callable[..., Any], arguments: dict[str, list[Any]]) -> list[Any]:
        """Results of a function on every worker."""
        futures = [self.submit(function, w, *args) for w, args in arguments.items()]
        self.wait(futures)
        return self.client.gather(futures)

    def submit(self, function: Callable[..., Any], worker: str, *args: Any, with_model: bool = True) -> Any:
        args = (self.model, *args) if with_model else args
        future = self.client.submit(function, *args, workers=[worker], allow_other_workers=False, pure=False, retries=0)
        self.futures.append(future)
        return future

    def wait(self, futures: Sequence[Any]) -> None:
        """Until all are done. Raises what one of them has raised, or that a worker is gone."""
        from distributed import wait

        while True:
            failed = next((future for future in futures if future.status in ("error", "lost", "cancelled")), None)
            if failed is not None:
                self.give_up(failed)
            self.check_workers()
            try:
                wait(futures, timeout=LOOK_EVERY)
            except TimeoutError:
                continue
            except Exception:
                self.check_workers()
                raise
            if all(future.status == "finished" for future in futures):
                return

    def give_up(self, failed: Any) -> None:
        """Raise the error of a future, or the loss of a worker if that is behind it."""
        error = failed.exception() if failed.status == "error" else None
        if (
            error is None
            or isinstance(error, (OSError, RuntimeError))
            or type(error).__module__.startswith("distributed")
        ):
            until = time.monotonic() + GRACE
            while time.monotonic() < until:
                self.check_workers()
                time.sleep(LOOK_EVERY)
        self.dismiss(f"another worker failed: {error!r}")
        raise error if error is not None else RuntimeError("The cluster has dropped a part of the fit; call fit again.")

    def check_workers(self) -> None:
        here = self.client.nthreads()
        gone = [worker for worker in self.workers if worker not in here]
        if gone:
            self.dismiss(f"the worker {gone[0]} was lost")
            raise RuntimeError(
                f"The worker {gone[0]} was lost while the fit ran, and with it the rows that it held; no model was "
                "made. See that worker's log for the cause (often memory), and call fit again."
            )

    def dismiss(self, why: str) -> None:
        """End the meeting, so that no worker waits for the others any more."""
        if self.meeting is not None:
            try:
                self.meeting.end(why).result(timeout=GRACE)
            except Exception:  # it was on the worker that is gone
                self.meeting = None

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let go of everything on the workers at the end."""
        try:
            yield
        except BaseException:
            self.dismiss("the fit was given up")
            self.client.cancel(self.futures, force=True)
            raise
        finally:
            self.futures.clear()
            self.meeting = None


def _item(parts: Sequence[Any], place: int) -> Any:
    return parts[place]
