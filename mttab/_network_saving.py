"""A fitted network as a file that `load` reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mttab._core.neural.device import is_available, seeded
from mttab._core.neural.members import Place
from mttab._core.neural.ranks import is_first
from mttab._core.neural.storing import add_blank_tasks, dtype_of, n_added_tasks, pack_network, unpack_network
from mttab._core.records import require
from mttab._core.tasks import TaskLabels
from mttab.persistence import Saving


class NetworkSaving(Saving):
    """Mixin over the fitted attributes `_encoding` and `_networks`."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def _writes_files(self) -> bool:
        return is_first()

    def _pack_fitted(self, fitted: dict[str, Any]) -> dict[str, Any]:
        if "_networks" not in fitted:
            return fitted
        networks = fitted["_networks"]
        n_added = n_added_tasks(networks[0])
        return {**fitted, "_networks": [pack_network(network) for network in networks], "_n_added": n_added}

    def _unpack_fitted(self, fitted: dict[str, Any]) -> dict[str, Any]:
        if "_networks" not in fitted:
            return fitted
        # Parameters may have been set to something else since fit; the weights are those of then.
        options = fitted["_options_of_fit"]
        if "companion_dim" in self._fixed_options and "companion_dim" not in options:
            self.companion_dim = options["companion_dim"] = 0  # of a file that was written before there were companions
        maker = type(self)(**{**self.get_params(deep=False), **options})
        encoding, networks, n_added = fitted["_encoding"], [], fitted.pop("_n_added", 0)
        if n_added:  # a network is made with the tasks of its fit
            require(0 < n_added < encoding.row_tasks.n_tasks, "too many tasks were added")
            labels = TaskLabels(encoding.row_tasks.labels.tolist()[:-n_added])
            encoding = replace(encoding, row_tasks=labels)
        for packed in fitted["_networks"]:
            place = Place.resolve("cpu", str(dtype_of(packed)).removeprefix("torch."))
            is_companion = packed.get("is_companion") is True
            require(maker._has_companions or not is_companion, "a companion has no width")
            with seeded(0, place.device, place.dtype):
                blank = maker._blank_network(encoding, is_companion=is_companion)
            add_blank_tasks(blank, n_added)
            networks.append(unpack_network(packed, blank))
        return {**fitted, "_networks": networks}

    def _check_restored(self) -> None:
        encoding, targets = self._encoding, self._encoding.targets.columns
        n_tasks = len(targets) if encoding.row_tasks is None else encoding.row_tasks.n_tasks
        require(len(self._networks) > 0, "there is no network")
        shares = getattr(self, "companion_share_", {target.label: 0.0 for target in targets})
        require(list(shares) == [target.label for target in targets], "companion_share_ has other columns")
        require(all(0.0 <= share <= 1.0 for share in shares.values()), "companion_share_ is not between 0 and 1")
        is_needed = self._companions or not any(shares.values())
        require(is_needed and (self._members or min(shares.values()) == 1.0), "a network is missing")
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
