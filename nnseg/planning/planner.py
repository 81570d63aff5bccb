"""`make_plans`: from a dataset's fingerprint, a budget and a recipe to plans, each decision with its reason.

The rules are nnU-Net's (Isensee 2021, Nature Methods 18, online methods); the recipe holds their constants. Planning is a pure
function: the same fingerprint, budget, recipe and recorded probe always give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nnseg.core.fingerprint import Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.plan import Budget, Plan
from nnseg.core.probe import Probe
from nnseg.core.validation import parse
from nnseg.planning.candidates import Proposal, choose
from nnseg.planning.configurations import PREVIOUS, wanted
from nnseg.planning.draft import Draft
from nnseg.planning.network_size import NetworkRequirements, coarser_grid, fit
from nnseg.planning.recipe import CandidateNetwork, Recipe
from nnseg.planning.sections import (
    inference_section,
    length,
    network_section,
    patch_reason,
    preprocessing_section,
    training_section,
)
from nnseg.planning.spacing import choose_resolution


def make_plans(
    fingerprint: Fingerprint, budget: Budget, recipe: Recipe, *, kinds: Sequence[str] = ("auto",), probe: Probe | None = None
) -> tuple[Plan, ...]:
    """The plans wanted for a dataset.

    Args:
        fingerprint: of the dataset.
        budget: of each training.
        recipe: the preset that shapes the plans.
        kinds: which plans, see `propose`.
        probe: what the machine was measured to do with their candidates; without one the length of a training within a time
            budget stays open until it starts.

    Raises:
        PlanError: 3D is wanted of single images, the recipe does not fit the dataset, or no candidate fits the machine.
    """
    return tuple(choose(proposals, budget, probe) for proposals in propose(fingerprint, budget, recipe, kinds=kinds))


def propose(
    fingerprint: Fingerprint, budget: Budget, recipe: Recipe, *, kinds: Sequence[str] = ("auto",)
) -> tuple[tuple[Proposal, ...], ...]:
    """For each plan wanted its candidates, the cheapest first.

    Args:
        fingerprint: of the dataset.
        budget: of each training.
        recipe: the preset that shapes the plans.
        kinds: names of plans ("2d", "3d", "3d_lowres", "3d_cascade"); "auto" for those that suit the dataset, "all" for those that
            nnU-Net would make. With a cascade comes the plan whose answer it is shown.

    Raises:
        PlanError: a plan is wanted that this dataset cannot have, or the recipe does not fit it.
    """
    of_device = recipe.on(budget.device)
    options = [(c, of_device.of(c)) for c in of_device.candidates] or [(CandidateNetwork(name=recipe.name), of_device)]
    drafts = [(candidate, _drafts(fingerprint, budget, of)) for candidate, of in options]
    chosen = wanted(kinds, drafts[0][1])
    return tuple(tuple(_proposal(of[kind], why, candidate) for candidate, of in drafts if kind in of) for kind, why in chosen)


def _proposal(draft: Draft, reason: str, candidate: CandidateNetwork) -> Proposal:
    training = training_section(draft)
    content = {
        "name": draft.kind,
        "dataset": draft.fingerprint.dataset,
        "recipe": draft.recipe.name,
        "previous": PREVIOUS.get(draft.kind),
        "channels": draft.fingerprint.channels,
        "labels": draft.fingerprint.labels.model_dump(),
        "patch": draft.patch,
        "preprocessing": preprocessing_section(draft),
        "network": network_section(draft),
        "training": training,
        "inference": inference_section(draft, training["augmentation"]["mirror_axes"]),
        "why": {"name": reason, "patch": patch_reason(draft)},
    }
    steps, why = length(draft)
    return Proposal(plan=parse(Plan, content, f"recipe {draft.recipe.name}"), candidate=candidate, steps=steps, why=why)


def _drafts(fingerprint: Fingerprint, budget: Budget, recipe: Recipe) -> dict[str, Draft]:
    """What each plan that the dataset can have is made from, by the plan's name."""
    rules = recipe.planner.within(budget)
    resolution = choose_resolution(fingerprint.spacings, fingerprint.cropped_shapes, anisotropy=rules.anisotropy)
    recipe = recipe.model_copy(update={"planner": rules})
    of_rules = partial(Draft, fingerprint=fingerprint, budget=budget, recipe=recipe, resolution=resolution)
    volume = NetworkRequirements(
        spacing=resolution.spacing,
        shape=resolution.shape,
        heads=_heads(fingerprint.labels),
        voxels=math.prod(resolution.shape) * len(fingerprint.cases),
    )
    flat = replace(volume, spacing=resolution.spacing[1:], shape=resolution.shape[1:])
    drafts = {"2d": of_rules(kind="2d", demand=flat, fit=fit(flat, rules))}
    if resolution.shape[0] == 1:
        return drafts
    fitted = fit(volume, rules)
    coarser = coarser_grid(volume, rules)
    drafts["3d"] = of_rules(kind="3d", demand=volume, fit=fitted, has_coarser=coarser is not None)
    if coarser is not None:
        drafts["3d_lowres"] = of_rules(kind="3d_lowres", demand=coarser[0], fit=coarser[1])
        drafts["3d_cascade"] = replace(drafts["3d"], kind="3d_cascade")
    return drafts


def _heads(labels: Labels) -> int:
    """Output channels as nnU-Net's estimate counts them: with background, and with the ignore label."""
    return (len(labels.regions) + 1 if labels.regions else len(labels.values)) + (labels.ignore is not None)
