"""A plan's sections, decided one by one, each with its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nnseg.core.plan import Budget
from nnseg.planning.fingerprint import Fingerprint
from nnseg.planning.intensity import Intensity
from nnseg.planning.memory import Demand, Fit
from nnseg.planning.recipe import Recipe, Rules
from nnseg.planning.spacing import Resolution

Content = dict[str, Any]
"""A section as `parse` takes it: the one place where untyped values meet, validated as a whole."""

SCHEMES = {"ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
"""Normalization by the channel's name (nnU-Net's names); all other channels are standardized case by case."""

SPLINES = {0: "nearest neighbour", 1: "linear: quicker than cubic", 3: "cubic: sharper than linear"}


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
    demand: Demand
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


def patch_reason(draft: Draft) -> str:
    """Why the patch has its size."""
    fitted, constants = draft.fit, draft.rules.constants(draft.dimensions)
    shape = _by(draft.demand.shape)
    count = fitted.estimate / 1e6
    room = fitted.allowance / constants.patch_batch * constants.reference_batch / 1e6
    cost = f"{count:.3g} million feature values each; {room:.3g} million are what is affordable for {draft.rules.aim}"
    divisors = _by(fitted.topology.divisor)
    if all(p >= s for p, s in zip(draft.patch, draft.demand.shape, strict=True)):
        return f"the median scan on this grid ({shape} voxels) fits whole, rounded up to multiples of {divisors} ({cost})"
    if math.prod(draft.patch) >= math.prod(fitted.start):
        return f"the largest patch tried ({_by(fitted.start)}) fits; the median scan has {shape} voxels ({cost})"
    cut = f"cut from {_by(fitted.start)} in the proportions of the median scan ({shape} voxels)"
    return f"{cut} until {constants.patch_batch} are affordable ({cost})"


def preprocessing_section(draft: Draft) -> Content:
    """From a scan to the network's grid."""
    names, share = draft.fingerprint.channels, draft.fingerprint.relative_size_after_cropping
    masked = share < draft.rules.mask_below
    pairs = zip(names, draft.fingerprint.intensities, strict=True)
    why = dict(draft.resolution.why)
    why["normalization"] = "; ".join(_normalization_reason(name, masked, share) for name in dict.fromkeys(names))
    why["image_order"] = SPLINES[draft.rules.image_order]
    if draft.dimensions == 2 and not draft.fingerprint.is_2d:
        why["spacing"] += "; slices keep their own distance"
    if draft.kind == "3d_lowres":
        coarser = math.prod(draft.resolution.shape) / math.prod(draft.demand.shape)
        why["spacing"] = f"{coarser:.2g} times fewer voxels than the full grid, so that a patch shows more of a scan"
    return {
        "axes": draft.resolution.axes,
        "spacing": draft.demand.spacing,
        "normalization": [_normalization(name, masked, intensity) for name, intensity in pairs],
        "image_order": draft.rules.image_order,
        "separate_axis_ratio": draft.rules.anisotropy,
        "why": why,
    }


def _normalization(name: str, masked: bool, intensity: Intensity) -> Content:
    scheme = SCHEMES.get(name.casefold(), "zscore")
    if scheme != "ct":
        return {"scheme": scheme, "masked": masked and scheme == "zscore"}
    return {
        "scheme": scheme,
        "mean": intensity.mean,
        "std": intensity.std,
        "low": intensity.percentile_00_5,
        "high": intensity.percentile_99_5,
    }


def _normalization_reason(name: str, masked: bool, share: float) -> str:
    scheme = SCHEMES.get(name.casefold(), "zscore")
    if scheme == "ct":
        return f"{name} has absolute units, so all cases are scaled alike, by the foreground's mean and spread"
    if scheme != "zscore":
        return f"{name} asks for it by name"
    where = f", where it is not zero (cropping keeps only {share:.0%})" if masked else ""
    return f"{name} is not known to have absolute units, so each case is scaled by its own mean and spread{where}"


def network_section(draft: Draft) -> Content:
    """The U-Net."""
    fitted = draft.fit
    edge = draft.rules.smallest_edge
    smallest, cap = _by(fitted.topology.sizes[-1]), draft.rules.constants(draft.dimensions).features_cap
    return {
        "kind": draft.rules.network,
        "features": fitted.features,
        "strides": fitted.topology.strides,
        "kernels": fitted.topology.kernels,
        "blocks": fitted.blocks,
        "decoder_blocks": fitted.decoder_blocks,
        "why": {
            "features": f"from {fitted.features[0]} doubled at each stage, at most {cap}",
            "strides": f"an axis is halved while {edge} voxels remain, which leaves {smallest} at the coarsest stage",
            "kernels": _kernel_reason(fitted),
        },
    }


def _kernel_reason(fitted: Fit) -> str:
    if all(k == 3 for kernel in fitted.topology.kernels for k in kernel):
        return "3 along every axis, since none is twice as coarse as another"
    return "1 along an axis while it is twice as coarse as the others, 3 once pooling has made voxels nearly cubic"


def training_section(draft: Draft) -> Content:
    """How weights are learned: the recipe's settings, and the planner's decisions where it leaves them open."""
    given = draft.recipe.training.model_dump(exclude_unset=True)
    if given.get("batch_size") == 0:
        del given["batch_size"]
    given.pop("steps", None)  # see `length`
    batch_dice, batch_dice_reason = _batch_dice(draft)
    decided = {"batch_size": draft.fit.batch, "batch_dice": batch_dice}
    why = {"batch_size": _batch_reason(draft), "batch_dice": batch_dice_reason}
    augmentation = _overruled(_augmentation(draft), given.pop("augmentation", {}))
    return {**_overruled({**decided, "why": why}, given), "augmentation": augmentation}


def _overruled(decided: Content, given: Content) -> Content:
    """The planner's decisions with the recipe's settings, and the recipe's reasons, in their place."""
    why = {name: "the recipe says so" if name in given else reason for name, reason in decided["why"].items()}
    return {**decided, **given, "why": {**why, **given.get("why", {})}}


def length(draft: Draft) -> tuple[int, str]:
    """The steps of a training without a time budget, and the reason for them."""
    rules, cases, given = draft.rules, len(draft.fingerprint.cases), draft.recipe.training.steps
    if given is not None:
        return given, "the recipe says so"
    steps = min(max(rules.steps_per_case * cases, rules.fewest_steps), rules.most_steps)
    if rules.fewest_steps == rules.most_steps:
        return steps, "the recipe trains every dataset equally long"
    return steps, f"{rules.steps_per_case} for each of {cases} cases, between {rules.fewest_steps} and {rules.most_steps}"


def _batch_reason(draft: Draft) -> str:
    rules, size = draft.rules, draft.fit.batch
    return {
        "cost": f"{size} patches of this size are affordable for {rules.aim}",
        "share": f"{size} patches are {rules.dataset_share:.0%} of the dataset's voxels, the most one step may see",
        "largest": f"{size} patches are the recipe's most; more would cost time and bring little",
        "smallest": f"never fewer than {size}",
    }[draft.fit.limit]


def _batch_dice(draft: Draft) -> tuple[bool, str]:
    """nnU-Net's rule: score a batch as one volume in 2D, and in 3D where patches show so little that a coarse plan would help."""
    if draft.dimensions == 2:
        return True, "a slice shows few labels, so a batch of slices is scored as one volume"
    if draft.kind == "3d_lowres":
        return False, "a patch on the coarse grid shows enough of a scan to be scored on its own"
    if not draft.has_coarser:
        return False, f"a patch shows enough of a scan ({min(draft.share_of_scan, 1):.0%}) to be scored on its own"
    return True, f"a patch shows only {draft.share_of_scan:.1%} of a scan, so a batch is scored as one volume"


def _augmentation(draft: Draft) -> Content:
    """Rotation and mirroring by nnU-Net's rules."""
    patch, axes = draft.patch, list(range(draft.dimensions))
    in_plane = draft.dimensions == 3 and max(patch) / patch[0] > draft.rules.anisotropy
    if draft.dimensions == 2:
        square = max(patch) / min(patch) <= 1.5
        degrees, reason = (180.0, "all directions are alike in a nearly square patch") if square else (15.0, "the patch is oblong")
    elif in_plane:
        degrees, reason = 180.0, "slices are turned in their plane only, by any angle"
    else:
        degrees, reason = 30.0, "volumes are turned about each axis"
    why = {"rotation_degrees": reason, "mirror_axes": "all"}
    if in_plane:
        why["in_plane"] = f"the patch ({_by(patch)} voxels) is over {draft.rules.anisotropy:.3g} times longer than it is thick"
    return {"rotation_degrees": degrees, "in_plane": in_plane, "mirror_axes": axes, "why": why}


def inference_section(draft: Draft, mirror_axes: Sequence[int]) -> Content:
    """How scans are predicted: mirrored as in training, unless the recipe says otherwise."""
    reason = "those mirrored in training" if mirror_axes else "training mirrors none"
    decided = {"mirror_axes": tuple(mirror_axes), "why": {"mirror_axes": reason}}
    return _overruled(decided, draft.recipe.inference.model_dump(exclude_unset=True))


def _by(values: Iterable[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
