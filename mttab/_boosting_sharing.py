"""What the tasks of a fit share: as the user has named it, or as a race between the ways to share says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mttab._core.boosting.forest import BLOCKS, SHARED
from mttab._core.boosting.line import features_of_lines
from mttab._core.boosting.options import BoostingOptions
from mttab._core.boosting.rows import ALONE, ValidationRows
from mttab._core.boosting.sharing import STRUCTURES, Race, Sharing, choose_sharing, is_line_better, with_rounds
from mttab._core.boosting.similarity import MAX_TASKS, cluster_tasks, task_agreement
from mttab._core.progress import tell

if TYPE_CHECKING:
    from mttab._boosting_fit import Fitted


class SharingSteps:
    """Mixin with the steps of a fit that decide this; none sets an attribute."""

    if TYPE_CHECKING:  # parameters of the estimators

        def __getattr__(self, name: str) -> Any: ...

    def _settle_sharing(
        self, race: Race, validation: ValidationRows | None, previous: Fitted | None, chosen: Fitted | None
    ) -> tuple[Sharing, BoostingOptions]:
        """What tasks share, and the options with the rounds that this leaves to each block.

        ``previous`` is a fit to go on from, ``chosen`` one whose sharing and numbers of rounds are taken over.
        """
        if previous:
            return previous.sharing, previous.sharing.going_on().apply(race.options)
        if chosen:
            sharing = _on_all_tasks(chosen.sharing, race)
            return sharing, with_rounds(sharing.apply(race.options), chosen.model.forest.n_rounds)
        sharing = self._decide_sharing(race, validation)
        if sharing.name != self.sharing:
            tell(self.verbose, f"sharing: {sharing.name}" + (f" and {sharing.other.name}" if sharing.other else ""))
        return sharing, sharing.apply(race.options)

    def _decide_sharing(self, race: Race, validation: ValidationRows | None) -> Sharing:
        """What ``sharing``, ``n_task_groups`` and ``linear_start`` come to for the fit that is about to begin."""
        sharing, rows = self._decide_name(race, validation), race.rows
        if not self.linear_start or sharing.name == "separate" or race.options.blocks[SHARED].max_iter == 0:
            return sharing
        if isinstance(self.linear_start, str) and (
            validation is None or self.algorithm == "paper" or rows.peers is not ALONE
        ):
            return sharing  # nothing to choose by, or rows that are spread over processes, which do not race
        if len(features_of_lines(race.make_grower(rows, False).layout, rows.n_features)) == 0:
            return sharing
        return replace(sharing, has_line=not isinstance(self.linear_start, str) or is_line_better(race, sharing))

    def _decide_name(self, race: Race, validation: ValidationRows | None) -> Sharing:
        """The same for ``sharing`` and ``n_task_groups``."""
        rows, options = race.rows, race.options
        name, n_groups = self.sharing, None if self.n_task_groups == "auto" else int(self.n_task_groups)
        if name == "auto":
            is_restricted = 0 in (self.max_iter_shared, self.max_iter_partition, self.max_iter_task)
            is_set_by_hand = race.named_as_category or not isinstance(self.theta_init, str) or self.theta_init != "data"
            if validation is None or is_restricted or is_set_by_hand or self.algorithm == "paper":
                name = "blocks"
        if rows.n_tasks == 1:
            return Sharing("blocks" if name == "blocks" else "pooled")
        may_separate = validation is None or bool(np.any(validation.task < rows.n_tasks))
        if name == "separate" and not may_separate:
            raise ValueError(
                "sharing='separate' has a model per task, but no validation row is of a task that has training rows, "
                "so nothing says when to stop; hold out rows of every task, or pass early_stopping=False."
            )
        if name in STRUCTURES and not any(options.blocks[block].max_iter for block in STRUCTURES[name][0]):
            used = " and ".join(f"max_iter_{BLOCKS[block]}=0" for block in STRUCTURES[name][0])
            raise ValueError(f"sharing={name!r} with {used} leaves no round; raise one of them, or use sharing='auto'.")
        is_grouped = name in ("auto", "groups") or (name == "blocks" and (n_groups or 2) > 2)
        if not is_grouped:
            return Sharing(name)
        if name != "auto" and not (isinstance(self.theta_init, str) and self.theta_init == "data"):
            raise ValueError(
                f"theta_init was passed with sharing={self.sharing!r} and n_task_groups={self.n_task_groups!r}, which "
                "start θ from the groups that they find; leave theta_init='data', or n_task_groups='auto' with "
                "sharing='blocks'."
            )

        def compare() -> tuple[np.ndarray, np.ndarray | None]:
            agreement = _agreement(race)
            group = cluster_tasks(agreement, n_groups)
            return agreement, cluster_tasks(agreement, 2) if group is None and name == "groups" else group

        is_comparable = rows.n_tasks <= MAX_TASKS
        if name == "auto":
            sharing = choose_sharing(race, compare if is_comparable else None, may_separate)
            # Groups that were not asked for and do not help are not reported.
            return sharing if sharing.name == "groups" or n_groups is not None else replace(sharing, group=None)
        if not is_comparable:
            raise ValueError(
                f"sharing={self.sharing!r} with n_task_groups={self.n_task_groups!r} compares every task with every "
                f"other, which is done for at most {MAX_TASKS} tasks, but there are {rows.n_tasks}; use "
                "sharing='category' or n_task_groups='auto'."
            )
        agreement, group = compare()
        return Sharing(name, group, agreement=agreement)


def _agreement(race: Race) -> np.ndarray:
    grower = race.make_grower(race.rows, False)
    return task_agreement(race.rows, race.X, race.loss, grower, race.make_builder(), race.base)


def _on_all_tasks(sharing: Sharing, race: Race) -> Sharing:
    """What was found on other rows; tasks are compared anew where whole ones had been held out there."""
    if sharing.agreement is None or len(sharing.agreement) >= race.rows.n_tasks:
        return sharing
    agreement = _agreement(race)
    group = None if sharing.group is None else cluster_tasks(agreement, sharing.n_groups)
    return replace(sharing, group=group, agreement=agreement)
