"""`Draft`: what the sections of a plan are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Budget
from nnseg.planning.network_size import Fit, NetworkRequirements
from nnseg.planning.recipe import Recipe, Rules
from nnseg.planning.spacing import Resolution

Content = dict[str, Any]
"""A section as `parse` takes it: the one place where untyped values meet, validated as a whole."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What the sections of a plan are made from.

    Args:
        fingerprint: of the dataset.
        budget: of the training.
        recipe: for the budget's device.
        kind: name of the plan: "2d", "3d", "3d_lowres" or "3d_cascade".
        resolution: the full grid, always three axes.
        demand: what the network is wanted for, along the plan's axes.
        fit: patch, batch and topology.
        has_coarser: a patch on the full grid shows so little of a scan that a coarser grid is worth a network.
    """

    fingerprint: Fingerprint
    budget: Budget
    recipe: Recipe
    kind: str
    resolution: Resolution
    demand: NetworkRequirements
    fit: Fit
    has_coarser: bool = False

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.demand.spacing)

    @property
    def rules(self) -> Rules:
        """The planner's constants."""
        return self.recipe.planner

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels along the plan's axes."""
        return self.fit.topology.patch

    @property
    def share_of_scan(self) -> float:
        """How much of the median scan a patch shows; over 1 if it is larger."""
        return math.prod(self.patch) / math.prod(self.demand.shape)

    @property
    def share_of_structure(self) -> float:
        """How much of the largest structure a patch shows along the axis where it shows least; infinite if none was measured."""
        structure = self.fingerprint.largest_structure_mm
        if structure is None:
            return math.inf
        along = [structure[a] for a in self.resolution.axes][3 - self.dimensions :]
        return min(p * s / mm for p, s, mm in zip(self.patch, self.demand.spacing, along, strict=True))


def overruled(decided: Content, given: Content) -> Content:
    """The planner's decisions with the recipe's settings, and the recipe's reasons, in their place."""
    why = {name: "the recipe says so" if name in given else reason for name, reason in decided["why"].items()}
    return {**decided, **given, "why": {**why, **given.get("why", {})}}
