"""`make_plans`: from a dataset's fingerprint, a budget and a recipe to plans, each decision with its reason.

The rules are nnU-Net's (Isensee 2021, Nature Methods 18, online methods); the recipe holds their constants. Planning is a pure
function: the same fingerprint, budget, recipe and recorded probe always give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Budget, Plan
from nnseg.core.pretrained import Pretrained
from nnseg.core.probe import Probe
from nnseg.core.validation import parse
from nnseg.planning import sections
from nnseg.planning.candidates import Candidate, choose
from nnseg.planning.configurations import FIRST_STAGES, choose_configurations
from nnseg.planning.fine_tuning import adopt_models, take_over
from nnseg.planning.inputs import PlanInputs
from nnseg.planning.network_size import NetworkRequirements, find_coarser_grid, fit_network
from nnseg.planning.recipe import CandidateNetwork, Recipe
from nnseg.planning.spacing import choose_resolution


def make_plans(
    fingerprint: Fingerprint, budget: Budget, recipe: Recipe, *, kinds: Sequence[str] = ("auto",), probe: Probe | None = None
) -> tuple[Plan, ...]:
    """The plans of a dataset.

    Args:
        fingerprint: of the dataset.
        budget: of each training.
        recipe: the preset that shapes the plans.
        kinds: which plans, see `make_candidates`.
        probe: speed and memory of the candidates, measured on this machine; without one the number of steps of a training with a
            time budget stays open until it starts.

    Raises:
        PlanError: the dataset cannot have a plan in ``kinds``, the recipe does not fit it, or no candidate fits the machine.
    """
    return tuple(choose(of_kind, budget, probe) for of_kind in make_candidates(fingerprint, budget, recipe, kinds=kinds))


def make_candidates(
    fingerprint: Fingerprint,
    budget: Budget,
    recipe: Recipe,
    *,
    kinds: Sequence[str] = ("auto",),
    models: Sequence[Plan] = (),
    weights: Pretrained | None = None,
) -> tuple[tuple[Candidate, ...], ...]:
    """The candidates of each plan, smallest network first.

    Args:
        fingerprint: of the dataset.
        budget: of each training.
        recipe: the preset that shapes the plans.
        kinds: names of plans ("2d", "3d", "3d_lowres", "3d_cascade"); "auto" for those that suit the dataset, "all" for those that
            nnU-Net would make. A cascade adds its first stage.
        models: plans of trained networks to begin with, whose grid and network are taken: then each plan has one candidate, and
            "auto" and "all" stand for the plans of these names.
        weights: trained elsewhere, to begin with; likewise for the plan that they fit.

    Raises:
        PlanError: the dataset cannot have a plan in ``kinds``, or the recipe does not fit it.
    """
    of_device = recipe.for_device(budget.device)
    if models and "growing" not in recipe.training.model_fields_set:  # as it may be in a recipe of one's own
        of_device = of_device.with_whole_patches()
    networks = [(network, of_device.with_candidate(network)) for network in of_device.candidates]
    networks = networks or [(CandidateNetwork(name=recipe.name), of_device)]
    inputs = [(network, _collect_inputs(fingerprint, budget, of)) for network, of in networks]
    if weights:
        models = (plan_for_weights(inputs[0][1], weights),)
    if models:
        adopted = adopt_models(inputs[0][1], models, kinds)
        return tuple((_make_candidate(of, "", inputs[0][0]),) for of in adopted.values())
    chosen = choose_configurations(kinds, inputs[0][1])
    return tuple(tuple(_make_candidate(of[kind], why, network) for network, of in inputs if kind in of) for kind, why in chosen)


def plan_for_weights(possible: Mapping[str, PlanInputs], weights: Pretrained) -> Plan:
    """The plan of a network that takes weights from elsewhere, with a patch and batch as planned without them.

    Args:
        possible: inputs of all plans that the dataset can have, by name.

    Raises:
        PlanError: the network is 3D, and the dataset consists of single images.
    """
    name = f"{len(weights.settings.strides[0])}d"
    if name not in possible:
        raise PlanError(f"the network of {weights.weights} is {name}, and the dataset consists of single 2D images; use 2D weights")
    return weights.plan_for(_make_plan(possible[name], ""))


def _make_candidate(inputs: PlanInputs, reason: str, network: CandidateNetwork) -> Candidate:
    steps, why = sections.choose_steps(inputs)
    return Candidate(
        plan=_make_plan(inputs, reason),
        name=network.name,
        enough_steps=network.enough_steps,
        steps=steps,
        why=why,
        short=_make_plan(inputs, reason, short=True) if inputs.recipe.short.passes else None,
        short_below=sections.steps_of_short_training(inputs),
    )


def _make_plan(inputs: PlanInputs, reason: str, *, short: bool = False) -> Plan:
    training = sections.training_section(inputs, short=short)
    content = {
        "name": inputs.kind,
        "dataset": inputs.fingerprint.dataset,
        "recipe": inputs.recipe.name,
        "previous": FIRST_STAGES.get(inputs.kind),
        "channels": inputs.fingerprint.channels,
        "labels": inputs.labels.model_dump(),
        "patch": inputs.patch,
        "preprocessing": sections.preprocessing_section(inputs),
        "network": sections.network_section(inputs),
        "training": training,
        "inference": sections.inference_section(inputs, training["augmentation"]["mirror_axes"]),
        "why": {"name": reason, "patch": sections.explain_patch(inputs)},
    }
    if inputs.model is not None:
        content = take_over(content, inputs, inputs.model)
    return parse(Plan, content, f"recipe {inputs.recipe.name}")


def _collect_inputs(fingerprint: Fingerprint, budget: Budget, recipe: Recipe) -> dict[str, PlanInputs]:
    """The inputs of all plans that the dataset can have, by the plan's name."""
    rules = recipe.planner.for_budget(budget)
    resolution = choose_resolution(
        fingerprint.spacings, fingerprint.cropped_shapes, anisotropy=rules.anisotropy, unit=fingerprint.length_unit
    )
    recipe = recipe.model_copy(update={"planner": rules})
    inputs = partial(PlanInputs, fingerprint=fingerprint, budget=budget, recipe=recipe, resolution=resolution)
    labels = fingerprint.labels.with_borders(fingerprint.objects)
    heads = len(labels.regions) + 1 if labels.regions else len(labels.values)
    volume = NetworkRequirements(
        spacing=resolution.spacing,
        shape=resolution.shape,
        heads=heads + (labels.ignore is not None),  # with background and ignore label, as nnU-Net counts them
        voxels=math.prod(resolution.shape) * len(fingerprint.planned_for),
    )
    flat = replace(volume, spacing=resolution.spacing[1:], shape=resolution.shape[1:])
    possible = {"2d": inputs(kind="2d", requirements=flat, size=fit_network(flat, rules))}
    if resolution.shape[0] == 1:
        return possible
    size, coarser = fit_network(volume, rules), find_coarser_grid(volume, rules)
    possible["3d"] = inputs(kind="3d", requirements=volume, size=size, has_coarser=coarser is not None)
    if coarser is not None:
        possible["3d_lowres"] = inputs(kind="3d_lowres", requirements=coarser[0], size=coarser[1])
        possible["3d_cascade"] = replace(possible["3d"], kind="3d_cascade")
    return possible
