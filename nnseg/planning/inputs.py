"""`PlanInputs`: what all sections of a plan are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnseg.core.fingerprint import Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.plan import Budget, Plan
from nnseg.planning.network_size import NetworkRequirements, NetworkSize
from nnseg.planning.recipe import Recipe, Rules
from nnseg.planning.spacing import Resolution

Content = dict[str, Any]
"""A section of a plan before validation, as `parse` takes it."""


@dataclass(frozen=True, kw_only=True)
class PlanInputs:
    """What all sections of a plan are computed from.

    Args:
        fingerprint: of the dataset.
        budget: of the training.
        recipe: for the budget's device.
        kind: name of the plan: "2d", "3d", "3d_lowres" or "3d_cascade".
        resolution: the full grid, always three axes.
        requirements: of the network, along the plan's axes.
        size: patch, batch and topology.
        has_coarser: the dataset can have a plan on a coarser grid too.
        model: the plan of a trained network, with which grid and network are the same; None for new ones.
    """

    fingerprint: Fingerprint
    budget: Budget
    recipe: Recipe
    kind: str
    resolution: Resolution
    requirements: NetworkRequirements
    size: NetworkSize
    has_coarser: bool = False
    model: Plan | None = None

    @property
    def labels(self) -> Labels:
        """The labels that the network learns: the dataset's, and borders of those whose objects are numbered."""
        return self.fingerprint.labels.with_borders(self.fingerprint.objects)

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.requirements.spacing)

    @property
    def rules(self) -> Rules:
        """The planner's constants."""
        return self.recipe.planner

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels along the plan's axes."""
        return self.size.topology.patch

    @property
    def scan_coverage(self) -> float:
        """Volume of a patch as a share of the median scan; over 1 if it is larger."""
        return math.prod(self.patch) / math.prod(self.requirements.shape)

    @property
    def structure_coverage(self) -> float:
        """Length of a patch as a share of the largest structure, along the axis where it is smallest; inf if none was measured."""
        structure = self.fingerprint.largest_structure_mm
        if structure is None:
            return math.inf
        along = [structure[a] for a in self.resolution.axes][3 - self.dimensions :]
        return min(p * s / mm for p, s, mm in zip(self.patch, self.requirements.spacing, along, strict=True))


def apply_recipe(decided: Content, given: Content) -> Content:
    """The planner's decisions, replaced by the recipe's settings and reasons where it has any."""
    why = {name: "set by the recipe" if name in given else reason for name, reason in decided["why"].items()}
    return {**decided, **given, "why": {**why, **given.get("why", {})}}
