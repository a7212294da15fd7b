"""Companions: the MLP beside each member, and how much they count in the prediction of every column of y."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mttab._core.neural.blending import EQUAL
from mttab._core.neural.members import EncodedRows, Place, choose_shares
from mttab._core.neural.training import TrainedNetwork


class Companions:
    """Mixin over the fitted attributes `_networks`, members first, and `companion_share_`."""

    if TYPE_CHECKING:  # parameters and fitted attributes of the estimators

        def __getattr__(self, name: str) -> Any: ...

    @property
    def _has_companions(self) -> bool:
        return bool(getattr(self, "companion_dim", 0))

    def _networks_to_train(self) -> list[tuple[int, bool]]:
        """Number of the member, and whether it is its companion, of every network of a fit."""
        kinds = (False, True) if self._has_companions else (False,)
        return [(member, is_companion) for is_companion in kinds for member in range(self.n_members)]

    # --- of a fitted estimator -------------------------------------------------------------------------------------

    @property
    def _members(self) -> list[TrainedNetwork]:
        return [network for network in self._networks if not network.is_companion]

    @property
    def _companions(self) -> list[TrainedNetwork]:
        return [network for network in self._networks if network.is_companion]

    def _trained_so_far(self) -> list[tuple[int, bool]]:
        """As `_networks_to_train`, of the networks that there are."""
        return [(i, False) for i in range(len(self._members))] + [(i, True) for i in range(len(self._companions))]

    def _trained_network(self, member: int, is_companion: bool) -> TrainedNetwork | None:
        """The network of this number, if there is one to go on from."""
        networks = self._companions if is_companion else self._members
        return networks[member] if member < len(networks) else None

    def _network_weights(self) -> np.ndarray | None:
        """How much every network counts for each column of y, (n_networks, n_columns); None: all the same."""
        if not self._companions:
            return None
        labels = [target.label for target in self._encoding.targets.columns]
        shares = getattr(self, "companion_share_", {})
        share = np.array([shares.get(label, 0.0) for label in labels])
        members, companions = len(self._members), len(self._companions)
        parts = np.stack([(1.0 - share) / max(1, members), share / max(1, companions)])
        return parts[[int(network.is_companion) for network in self._networks]]

    # --- in fit ----------------------------------------------------------------------------------------------------

    def _find_shares(self, done: list[Any], held: list[EncodedRows | None], place: Place, previous: Any) -> np.ndarray:
        """Share of the companions in every column of y.

        Parameters
        ----------
        done : list
            Networks and their histories.
        held : list
            Validation rows of every member; empty where there are none to judge by.
        place : Place
        previous : estimator or None
            The fit that this one goes on from.
        """
        networks = [network for network, _ in done]
        members = [network for network in networks if not network.is_companion]
        companions = [network for network in networks if network.is_companion]
        n_columns = len(networks[0].outputs.kinds)
        if not members or not companions:
            return np.full(n_columns, float(bool(companions)))
        if len(members) == len(companions) == len(held) and held[0] is not None:
            return choose_shares(members, companions, [rows for rows in held if rows is not None], place)
        if previous is not None and previous._companions:
            return np.array(list(previous.companion_share_.values()))
        return np.full(n_columns, EQUAL)
