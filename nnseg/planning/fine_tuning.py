"""Plans for a training that begins with a trained model: its network, patch, grid and normalization, so that its weights fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnseg.core.errors import DatasetError, PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.geometry import as_vector, format_axes
from nnseg.core.names import match_channels, match_names
from nnseg.core.plan import PLAN_NAMES, Plan
from nnseg.planning.configurations import FIRST_STAGES
from nnseg.planning.inputs import Content, PlanInputs
from nnseg.planning.network_size import Topology
from nnseg.planning.spacing import Resolution

FROM_MODEL = "that of the model whose weights the training begins with"


def check_annotated(fingerprint: Fingerprint, models: Sequence[Plan]) -> None:
    """Refuse a dataset with a label that is annotated in no case, unless a model to begin with has it.

    Args:
        models: the plans of the model's networks.

    Raises:
        DatasetError: there is such a label.
    """
    cases, names = fingerprint.cases, fingerprint.labels.names[1:]
    unseen = [name for name in names if not any(case.annotated is None or name in case.annotated for case in cases)]
    offered = [name for model in models[:1] for name in model.labels.predictable]
    if lacking := [name for name, place in zip(unseen, match_names(unseen, offered), strict=True) if place is None]:
        advice = f"begin with a model that has {'it' if len(lacking) == 1 else 'them'} (--init MODEL), or remove it from the labels"
        raise DatasetError(f"{', '.join(lacking)}: annotated in none of {len(cases)} cases, so it cannot be learned; {advice}")


def adopt_models(possible: Mapping[str, PlanInputs], models: Sequence[Plan], kinds: Sequence[str]) -> dict[str, PlanInputs]:
    """The inputs of the plans to make, by name, with grid and network of a model's networks.

    Args:
        possible: inputs of all plans that the dataset can have, by name.
        models: the plans of the model's networks.
        kinds: names of plans; "auto" or "all" for those of the model.

    Raises:
        PlanError: the model has no network for a plan, or the dataset cannot be its input.
    """
    names = [plan.name for plan in models]
    wanted = names if tuple(kinds) in (("auto",), ("all",)) else [*kinds, *(FIRST_STAGES.get(kind, kind) for kind in kinds)]
    if unknown := set(wanted) - set(PLAN_NAMES):
        raise PlanError(f'there is no plan "{min(unknown)}"; choose auto, all, or some of {", ".join(PLAN_NAMES)}')
    return {kind: _adopt(possible, kind, models) for kind in PLAN_NAMES if kind in wanted}


def model_for(kind: str, models: Sequence[Plan]) -> Plan | None:
    """Of the plans of a model's networks the one to take for a plan: of the same name, or else of as many axes."""
    dimensions = 2 if kind == "2d" else 3
    same = [plan for plan in models if plan.name == kind]
    return next((plan for plan in (*same, *models) if plan.dimensions == dimensions), None)


def _adopt(possible: Mapping[str, PlanInputs], kind: str, models: Sequence[Plan]) -> PlanInputs:
    dimensions, model = 2 if kind == "2d" else 3, model_for(kind, models)
    inputs = possible.get(kind) or possible.get(f"{dimensions}d")
    if model is None:
        have = ",".join(plan.name for plan in models)
        raise PlanError(f"the model to begin with has no {dimensions}D network but {have}; use --plans {have}, or another model")
    if inputs is None:
        dataset = possible["2d"].fingerprint.dataset
        raise PlanError(f"the model's network is {dimensions}D, and {dataset} consists of single 2D images; use a 2D model")
    return _with_network(replace(inputs, kind=kind, model=model), model)


def _with_network(inputs: PlanInputs, model: Plan) -> PlanInputs:
    """The inputs with the grid, patch and topology of a model's plan."""
    resolution = _resolution(inputs, model)
    shape = resolution.shape[3 - model.dimensions :]
    network, patch = model.network, model.patch
    topology = Topology(patch=patch, strides=network.strides, kernels=network.kernels)
    size = replace(
        inputs.size, topology=topology, features=network.features, blocks=network.blocks, decoder_blocks=network.decoder_blocks,
        start=patch, batch=model.training.batch_size,
    )  # fmt: skip
    requirements = replace(inputs.requirements, spacing=model.preprocessing.spacing, shape=shape)
    return replace(inputs, resolution=resolution, requirements=requirements, size=size)


def _resolution(inputs: PlanInputs, model: Plan) -> Resolution:
    """The model's grid, with the median scan of the dataset on it; slices of a 2D network keep their own distance."""
    own, fingerprint = inputs.resolution, inputs.fingerprint
    axes = own.axes if fingerprint.is_2d else model.preprocessing.axes  # a single image has no other slices
    turned = list(axes)
    median = np.median(fingerprint.spacings, axis=0)[turned]
    spacing = (*median[: 3 - model.dimensions], *model.preprocessing.spacing)
    on_grid = fingerprint.cropped_shapes * fingerprint.spacings / _unturned(spacing, axes)
    shape = np.median(np.rint(on_grid), axis=0)
    return Resolution(axes=axes, spacing=as_vector(spacing), shape=as_vector(np.maximum(shape[turned], 1)), why=own.why)


def _unturned(values: Sequence[float], axes: Sequence[int]) -> list[float]:
    """Values along the network's axes, along the scan's."""
    return [values[list(axes).index(axis)] for axis in range(3)]


def take_over(content: Content, inputs: PlanInputs, model: Plan) -> Content:
    """A plan's content with what of a model its weights depend on, and the reasons for it."""
    network = model.network.model_dump() | {"why": dict.fromkeys(("kind", "features", "strides", "kernels", "blocks"), FROM_MODEL)}
    training, given = content["training"], inputs.recipe.training.batch_size
    reason = training["why"]["batch_size"] if given else FROM_MODEL
    return {
        **content,
        "network": network,
        "preprocessing": _preprocessing(content["preprocessing"], inputs, model),
        "training": {**training, "why": {**training["why"], "batch_size": reason}},
        "why": {**content["why"], "name": FROM_MODEL, "patch": FROM_MODEL},
    }


def _preprocessing(content: Content, inputs: PlanInputs, model: Plan) -> Content:
    """Grid and interpolation of the model, and its normalization of the channels that it knows."""
    known, channels = model.preprocessing, inputs.fingerprint.channels
    places = match_channels(channels, model.channels)
    own = content["normalization"]
    normalization = [own[i] if p is None else known.normalization[p].model_dump() for i, p in enumerate(places)]
    kept = {name: getattr(known, name) for name in ("image_order", "separate_axis_ratio", "orientation", "registration")}
    why = dict.fromkeys(("axes", "spacing", "normalization", "image_order"), FROM_MODEL)
    why |= {name: text for name, text in content["why"].items() if name == "border"}
    new = [name for name, place in zip(channels, places, strict=True) if place is None]
    if new:
        why["normalization"] = f"{FROM_MODEL}; {', '.join(new)}, which it does not have: {content['why']['normalization']}"
    return {**content, **kept, "normalization": normalization, "why": why}


def describe_adoption(plan: Plan, model: Plan) -> str:
    """What a plan takes from a model, which names were matched, what begins anew and what is left out, in one line."""
    heads, known = plan.labels.foreground, model.labels.foreground
    matched, new, lost = _matches(heads, known, match_names(heads, known))
    channels, more, missing = _matches(plan.channels, model.channels, match_channels(plan.channels, model.channels))
    return (
        f"{plan.name}: network, patch ({format_axes(plan.patch)}), grid ({format_axes(plan.preprocessing.spacing)} mm) and "
        f"normalization are the model's; labels matched by name: {', '.join(matched) or 'none'}; new: {', '.join(new) or 'none'}"
        + (f"; in the model only: {', '.join(lost)}" if lost else "")
        + f"; channels matched: {', '.join(channels) or 'none'}"
        + (f"; new: {', '.join(more)}" if more else "")
        + (f"; in the model only: {', '.join(missing)}" if missing else "")
    )


def _matches(names: Sequence[str], known: Sequence[str], places: Sequence[int | None]) -> tuple[list[str], list[str], list[str]]:
    """Names that are known, with the other way of writing them; those that are not; and known ones that are left out.

    Args:
        places: of the names among the known ones; None for new ones.
    """
    pairs = list(zip(names, places, strict=True))
    found = [name if known[p] == name else f"{name} ({known[p]} in the model)" for name, p in pairs if p is not None]
    new = [name for name, place in pairs if place is None]
    return found, new, [name for place, name in enumerate(known) if place not in places]
