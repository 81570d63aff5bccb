"""Patches that grow in the course of a training: many cheap steps with small patches first, the plan's patch at the end.

Source: Fischer et al. 2025, "Progressive Growing of Patch Size" (arXiv 2510.23241): one axis at a time becomes longer by the least
that the strides allow, and all sizes get equal shares of the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from nnseg.core.plan import Plan, Steps
from nnseg.core.schedule import Course

LEAST_EDGE: Final = 2
"""Fewest voxels of a patch along an axis at the coarsest stage, where norms need several."""

FIXED_COST: Final = 0.2
"""Share of the time of a step with the plan's patch that any step takes: for the optimizer, and calls of small operations."""

DRAWN_AHEAD: Final = 4
"""Steps by which the size of patches follows the course, since batches are drawn so far ahead."""

FULL_SHARE: Final = 0.1
"""Share of the steps, at the end, with the plan's patch."""


@dataclass(frozen=True, kw_only=True)
class PatchSize:
    """The patches of a step.

    Args:
        patch: voxels along each axis.
        cost: time of a step, as a share of that with the plan's patch; an estimate.
    """

    patch: Steps
    cost: float


@dataclass(frozen=True)
class PatchGrowth:
    """The sizes of a plan's patches over its training; a single one without ``training.growing``."""

    plan: Plan

    @cached_property
    def sizes(self) -> tuple[PatchSize, ...]:
        """The sizes, smallest first; the last one is the plan's patch."""
        patches, whole = self._patches(), math.prod(self.plan.patch)
        return tuple(PatchSize(patch=p, cost=FIXED_COST + (1 - FIXED_COST) * math.prod(p) / whole) for p in patches)

    def size(self, step: int, course: Course) -> PatchSize:
        """The size of a step's patches; parts of the course that are changed later do not change it."""
        progress = course.progress(max(0, step - DRAWN_AHEAD))
        return next(size for size, end in zip(self.sizes, self._ends, strict=True) if progress < end or end == 1)

    def mean_cost(self, progress: float = 0.0) -> float:
        """Mean cost of the steps from a progress to the end."""
        if progress >= 1:
            return self.sizes[-1].cost
        starts = (0.0, *self._ends)
        shares = [max(0.0, end - max(start, progress)) for start, end in zip(starts, self._ends, strict=False)]
        return sum(size.cost * share for size, share in zip(self.sizes, shares, strict=True)) / (1 - progress)

    @cached_property
    def _ends(self) -> tuple[float, ...]:
        """Progress at which each size ends."""
        growing = len(self.sizes) - 1
        return (*((1 - FULL_SHARE) * n / growing for n in range(1, growing + 1)), 1.0)

    def _patches(self) -> list[Steps]:
        plan, divisor = self.plan, self.plan.network.divisor
        if not plan.training.growing:
            return [plan.patch]
        patches = [tuple(min(p, LEAST_EDGE * d) for p, d in zip(plan.patch, divisor, strict=True))]
        while (patch := patches[-1]) != plan.patch:
            shares = [now / end for now, end in zip(patch, plan.patch, strict=True)]
            axis = shares.index(min(shares))
            longer = min(plan.patch[axis], patch[axis] + divisor[axis])
            patches.append((*patch[:axis], longer, *patch[axis + 1 :]))
        return patches
