"""What has to hold before a fit on a Dask cluster begins: its options, the workers, and what is sent to them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from mttab._dask_pieces import collection_kind


def refuse_options(model: Any, explicit: dict[str, Any]) -> None:
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
    if model.n_averaged != "auto" and model.n_averaged > 1:
        raise ValueError(
            f"n_averaged={model.n_averaged} averages models that hold out different rows to stop on, which is not done "
            'on a cluster; use n_averaged="auto", which is one model there, or fit on one machine.'
        )
    if model.early_stopping is True and explicit["X_val"] is None and model.validation_fraction is not None:
        raise ValueError(
            f"early_stopping=True with validation_fraction={model.validation_fraction!r} would hold out rows, which is "
            "not done on a cluster; pass X_val and y_val, or validation_fraction=None to watch the training loss."
        )
    if any(value is not None and collection_kind(value) is not None for value in explicit.values()):
        raise ValueError("X_val holds a Dask collection, but validation rows are sent to all workers; call .compute().")


def find_client(client: Any) -> Any:
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

        versions = {}
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


def check_workers(client: Any) -> None:
    """Raise unless every worker has what a fit needs, in the versions of the client."""
    describe = _make_describe()
    try:
        python = client.get_versions()["workers"]
        if not python:
            raise RuntimeError("The Dask cluster has no workers; wait for one with client.wait_for_workers(1).")
        for address, there in sorted(python.items()):
            # Before any function travels: another Python reads its bytecode as nonsense and may die of it.
            _check_same("Python", _minor(there["host"]["python"]), _minor(platform.python_version()), address)
        found = client.run(describe)
    except OSError as err:
        raise RuntimeError(f"A worker was lost before the fit began ({err}); call fit again.") from err
    here = describe()["versions"]
    for address, there in sorted(found.items()):
        if "missing" in there:
            raise RuntimeError(
                f"The worker {address} cannot import {there['missing']} ({there['why']}); install mttab with its "
                "dependencies on every worker."
            )
        for name, version in here.items():
            _check_same(name, there["versions"][name], version, address)


def _check_same(name: str, there: str, here: str, address: str) -> None:
    if there != here:
        raise RuntimeError(
            f"The worker {address} has {name} {there}, but the client has {here}; install the same version on both."
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def check_travels(client: Any, model: Any, callback: Any) -> None:
    """Raise if something that the workers need cannot be sent to them, or cannot be read there."""
    from distributed.protocol.pickle import dumps

    if callback is not None and not callable(callback):
        raise ValueError(f"callback={callback!r} cannot be called; pass a function that is told of every round.")
    sent = {}
    for name, value in {"callback": callback, **model.get_params(deep=False)}.items():
        try:
            sent[name] = dumps(value)
        except Exception as err:
            raise ValueError(
                f"{name}={value!r} cannot be sent to the workers ({type(err).__name__}: {err}); pass something that "
                "pickle can send, such as a function that holds no open file, lock or client."
            ) from err
    for address, found in sorted(client.run(_first_unreadable, sent).items()):
        if found is not None:
            name, why = found
            raise ValueError(
                f"{name} cannot be read by the worker {address} ({why}); pass something whose module every worker can "
                "import, or define it in the script."
            )


def _first_unreadable(sent: dict[str, bytes]) -> tuple[str, str] | None:
    """On a worker: the first name whose value cannot be made anew, and why."""
    from distributed.protocol.pickle import loads

    for name, data in sent.items():
        try:
            loads(data)
        except Exception as err:
            return name, f"{type(err).__name__}: {err}"
    return None
