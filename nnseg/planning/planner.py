"""`make_plans`: from a dataset's fingerprint, a budget and a recipe to plans, each decision with its reason.

The rules are nnU-Net's (Isensee 2021, Nature Methods 18, online methods); the recipe holds their constants. Planning is a pure
function: the same fingerprint, budget and recipe always give the same plan.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels
from nnseg.core.plan import Budget, Plan, parse
from nnseg.planning.memory import Demand, fit
from nnseg.planning.recipe import Recipe, Rules, load_recipe
from nnseg.planning.sections import (
    Draft,
    inference_section,
    network_section,
    patch_reason,
    preprocessing_section,
    training_section,
)
from nnseg.planning.spacing import NAMES, Resolution, choose_resolution

if TYPE_CHECKING:  # a planner reads fingerprints but need not load what measures them
    from nnseg.planning.fingerprint import Fingerprint

__all__ = ["Kinds", "Recipe", "load_recipe", "make_plan", "make_plans"]

Kinds = Literal["auto", "2d", "3d", "both"]

FEW_SLICES = 4
"""Volumes with fewer slices than this are planned as 2D."""


def make_plans(fingerprint: Fingerprint, budget: Budget, recipe: Recipe, *, kinds: Kinds = "auto") -> tuple[Plan, ...]:
    """The plans wanted for a dataset, 2D before 3D.

    Args:
        fingerprint: of the dataset.
        budget: of each training.
        recipe: the preset that shapes the plans.
        kinds: "auto" plans volumes in 3D and single images, or volumes of very few slices, in 2D.

    Raises:
        PlanError: 3D is wanted of single images, or the recipe does not fit the dataset.
    """
    if kinds != "auto":
        reason = "asked for"
        dimensions = {"2d": (2,), "3d": (3,), "both": (2, 3)}[kinds]
    else:
        chosen, reason = _dimensions(fingerprint, recipe.on(budget.device).planner)
        dimensions = (chosen,)
    plans = (make_plan(fingerprint, budget, recipe, dimensions=d) for d in dimensions)
    return tuple(p.model_copy(update={"why": {"name": reason, **p.why}}) for p in plans)


def make_plan(fingerprint: Fingerprint, budget: Budget, recipe: Recipe, *, dimensions: int) -> Plan:
    """One plan.

    Args:
        fingerprint: of the dataset.
        budget: of its training.
        recipe: the preset that shapes it.
        dimensions: 2 or 3.

    Raises:
        PlanError: a 3D plan is wanted of single images, or a setting of the recipe does not fit this dataset.
    """
    if dimensions == 3 and fingerprint.is_2d:
        raise PlanError(f"{fingerprint.dataset} consists of single 2D images, so it cannot be planned in 3D; ask for 2d or auto")
    draft = _draft(fingerprint, budget, recipe.on(budget.device), dimensions)
    training = training_section(draft)
    content = {
        "name": f"{dimensions}d",
        "dataset": fingerprint.dataset,
        "recipe": recipe.name,
        "channels": fingerprint.channels,
        "labels": fingerprint.labels.model_dump(),
        "patch": draft.patch,
        "preprocessing": preprocessing_section(draft),
        "network": network_section(draft),
        "training": training,
        "inference": inference_section(draft, training["augmentation"]["mirror_axes"]),
        "why": {"patch": patch_reason(draft)},
    }
    return parse(Plan, content, f"recipe {recipe.name}")


def _dimensions(fingerprint: Fingerprint, rules: Rules) -> tuple[int, str]:
    if fingerprint.is_2d:
        return 2, "the dataset consists of single images"
    resolution = _resolution(fingerprint, rules)
    slices, axis = resolution.shape[0], NAMES[resolution.axes[0]]
    if slices < FEW_SLICES:
        return 2, f"scans have {slices:.3g} slices along {axis}, too few for 3D (ask for 3d or both to have it all the same)"
    return 3, f"scans are volumes of {slices:.3g} slices along {axis}, so neighbouring slices help (ask for both to add a 2D plan)"


def _draft(fingerprint: Fingerprint, budget: Budget, recipe: Recipe, dimensions: int) -> Draft:
    resolution = _resolution(fingerprint, recipe.planner)
    demand = Demand(
        spacing=resolution.spacing[3 - dimensions :],
        shape=resolution.shape[3 - dimensions :],
        heads=_heads(fingerprint.labels),
        voxels=math.prod(resolution.shape) * len(fingerprint.cases),
    )
    return Draft(
        fingerprint=fingerprint, budget=budget, recipe=recipe, dimensions=dimensions, resolution=resolution,
        demand=demand, fit=fit(demand, recipe.planner),
    )  # fmt: skip


def _resolution(fingerprint: Fingerprint, rules: Rules) -> Resolution:
    return choose_resolution(fingerprint.spacings, fingerprint.cropped_shapes, anisotropy=rules.anisotropy)


def _heads(labels: Labels) -> int:
    """Output channels as nnU-Net's estimate counts them: with background, and with the ignore label."""
    return (len(labels.regions) + 1 if labels.regions else len(labels.values)) + (labels.ignore is not None)
