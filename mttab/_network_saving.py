"""A fitted network as a file that `load` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mttab._core.neural.device import is_available
from mttab._core.neural.members import Place, seeded
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
        require(np.array_equal(columns.numeric, np.flatnonzero(~is_categorical)), "a feature changed its kind")
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
